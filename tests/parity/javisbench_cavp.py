"""CAVP's sound against the original's."""

import torch

from avtools.models.parts import cavp


def audio(case, _):
    sound = cavp.whole_seconds(case.inputs["waveform"], case.config["whole_seconds"])
    case.check("samples", torch.tensor(len(sound)))
    case.check("mel", cavp.log_mel(sound))


KINDS = {"cavp_audio": audio}
