"""DeSync's sound, and its score from given decisions, against the original's."""

import torch

from avtools.models.judges import synchformer


def audio(case, _):
    wanted = case.inputs["waveform"][: round(case.config["max_length_s"] * synchformer.RATE)]
    padded = torch.nn.functional.pad(wanted, (0, round(case.config["max_length_s"] * synchformer.RATE) - len(wanted)))
    segments = synchformer.sound_segments(padded)
    case.check("segments", torch.tensor(len(segments)))
    mel = synchformer.log_mel(segments, case.outputs["mel_first"].shape[1])
    case.check("mel_first", mel[0])
    case.check("mel_last", mel[-1])
    case.check("segment_mean", mel.mean((1, 2)))
    case.check("segment_std", mel.std((1, 2)))


def aggregation(case, _):
    grid = synchformer.grid()
    case.check("offset_grid", grid)
    for number, clips in enumerate(case.config["clips"]):
        segments = synchformer.count(int(clips["seconds"] * synchformer.FPS), int(clips["seconds"] * synchformer.RATE))
        case.check(f"{number}.segment_groups", synchformer.groups(segments))
        decisions = grid[case.inputs[f"logits.{number}"].argmax(-1)].abs()
        case.check(f"{number}.decision_offsets", decisions)
        case.check(f"{number}.per_sample", decisions.mean(0))
        case.check(f"{number}.reference_per_sample", decisions.reshape(decisions.shape[::-1]).mean(1))  # the published mixture of clips, for the record
        case.check(f"{number}.mean", decisions.mean())


KINDS = {"desync_audio": audio, "desync_aggregation": aggregation}
