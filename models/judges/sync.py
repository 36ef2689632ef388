"""Metrics of time: `desync`, by how much sound and picture are apart, and `cavp`, how alike they are at each quarter of a second.

torch is imported by what runs in the process of the network alone: listings need none.
"""

import functools
import pathlib
from typing import ClassVar

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.metrics import Skip
from avtools.metrics.extracting import Extractor, OfFeatures
from avtools.metrics.pictures import Pictures

SYNCHFORMER = hub.Part(
    "synchformer",
    "Synchformer (synchformer_state_dict.pth)",
    "hf:hkchengrex/MMAudio",
    ("*synchformer_state_dict.pth",),
    950_000_000,
    "MIT",
    optional=True,
)
CAVP = hub.Part("cavp", "CAVP of Diff-Foley (cavp_epoch66.ckpt)", "hf:SimianLuo/Diff-Foley", ("*cavp_epoch66.ckpt",), 1_300_000_000, "Apache-2.0", optional=True)
_NETWORK = (("torch", "torch"), ("PIL", "pillow"))
_RESAMPLER = "soxr HQ to 16000 Hz mono"
LONGEST = 2.0  # seconds: what the classes of `desync` reach
SLACK = 1e-6  # seconds that a clip may lack of a whole one


def moving(pair, role: str, pictures: Pictures):
    """What is seen of "video" or "reference_video"; Skip where that is a still image."""
    seen = pair.seen(role.replace("audio", "video"), pictures)
    if not seen.fps:
        raise Skip("the picture is a still image")
    return seen


class _Of(Extractor):
    """An extractor whose network :meth:`network` reads from one file, shared by all that read the same one on the same device."""

    requires = _NETWORK

    def locate(self, weights, part=None) -> pathlib.Path:
        """The file, also where a folder that holds it is given; FatalError where that has none."""
        path = super().locate(weights, part)
        if not path.is_dir():
            return path
        name = self.parts[0].files[0].strip("*")
        found = sorted(path.rglob(name)) or sorted(path.glob("model.safetensors"))
        if not found:
            raise FatalError(f"{path}: has neither {name} nor model.safetensors; give the file of {self.parts[0].what}")
        return found[0]

    def load(self, device, weights):
        self.net = _loaded(self.network, self.locate(weights), str(device))

    @staticmethod
    def network(path):
        raise NotImplementedError


@functools.cache
def _loaded(network, path, device: str):
    return network(path).float().to(device)


# --- Synchformer ----------------------------------------------------------------------------------------------------


class Synchformer(_Of):
    """Synchformer's decisions about a clip, each of 14 segments of 0.64 s that begin 0.32 s apart.

    Pictures: what is shown at k / 25 s, shorter side 224 (bicubic), the middle.  As many segments as fit into both picture
    and sound; fewer than 14 (below 4.8 s) are repeated in turn, of more, groups of 14 follow each other and the last ends
    with the clip.  `max_seconds`: no more than these; 0: all.  `pad`: "none"; "sound": sound that is shorter than its
    picture is followed by silence; "both": both are made `max_seconds` long, with silence and black.
    """

    name = "synchformer"
    medium = "both"
    settings = {"max_seconds": 0.0, "pad": "none"}
    parts = (SYNCHFORMER,)
    resampler = _RESAMPLER
    outputs = {"logits": "of each decision, (decisions, 21) float32: offsets from -2 (heard late) to 2 s (heard early)"}
    side: ClassVar[int] = 224  # of a picture, pixels

    def __init__(self, **settings):
        super().__init__(**settings)
        longest, pad = self.set["max_seconds"], self.set["pad"]
        if pad not in ("none", "sound", "both"):
            raise UsageError(f"--set desync.pad={pad}: none, sound or both")
        if 0 < longest < 0.64:
            raise UsageError(f"--set desync.max_seconds={longest:g}: 0.64 s, which is one segment, or more; 0: the whole clip")
        if pad == "both" and not longest:
            raise UsageError("--set desync.pad=both: to which length? Give desync.max_seconds too")
        self.pictures = Pictures(fps=25, seconds=longest, size=(self.side, self.side))

    def prepare(self, pair, role):
        import numpy as np

        seen = moving(pair, role, self.pictures)
        pictures, sound = seen.pictures, pair.heard(role.replace("video", "audio"), 16000)
        longest = self.set["max_seconds"]
        if self.set["pad"] == "both":
            length, count = round(longest * 16000), int(longest * 25 + SLACK)
            black = np.zeros((max(0, count - len(pictures)), *pictures.shape[1:]), pictures.dtype)
            pictures, sound = np.concatenate([pictures[:count], black]), _cut(sound, length)
        elif self.set["pad"] == "sound":
            sound = _cut(sound, 640 * len(pictures))
        elif longest:
            sound = sound[: round(longest * 16000)]
        segments = min((len(pictures) - 16) // 8, (len(sound) - 10240) // 5120) + 1
        if segments < 1:
            raise Skip(f"picture and sound have {min(len(pictures) / 25, len(sound) / 16000):.2g} s together, and 0.64 s is the least to judge")
        return {"pictures": pictures[: 8 * segments + 8], "sound": np.ascontiguousarray(sound[: 5120 * (segments + 1)])}

    @staticmethod
    def network(path):
        from avtools.models.judges import synchformer

        return synchformer.load(path)

    def run(self, items):
        import torch

        found = [self.net.judge(torch.from_numpy(item["pictures"]), torch.from_numpy(item["sound"])) for item in items]
        return [{"logits": logits.float().cpu().numpy()} for logits in found]

    def __getstate__(self):
        return {"set": self.set, "pictures": self.pictures}


def _cut(sound, length: int):
    """The first `length` samples, with silence behind where there are fewer."""
    import numpy as np

    return np.pad(sound[:length], (0, max(0, length - len(sound))))


def offsets(logits):
    """Logits (..., 21) -> how much later (positive) or earlier the sound is heard than it should be, seconds (...)."""
    import numpy as np

    return -np.linspace(-LONGEST, LONGEST, logits.shape[-1]).round(6)[logits.argmax(-1)] + 0.0  # no negative zero


class Desync(OfFeatures):
    """How far sound and picture are apart by Synchformer: the offset, of 21 from -2 to 2 s, that each decision holds likeliest.

    A decision sees 14 segments of 0.64 s, 4.8 s in all, and a longer clip has several of them: `desync` is the mean of
    what they are without the sign, `desync_offset` with it, where positive means that the sound comes late (as for the
    column av_offset).  Below 4.8 s the segments are repeated in turn, as published; offsets near 2 s then leave little to
    compare.  A clip below 0.64 s has none.

    Standard: all of the clip that both picture and sound have.  Protocol javisbench (Liu et al. 2025): the first 4 s, to
    which shorter ones are filled with black and silence.  Protocol mmaudio (Cheng et al. 2024): the first 8 s, silence
    behind sound that is shorter than its picture; the two decisions are those of the first and last 14 segments.
    """

    name = "desync"
    title = "Offset of sound and picture by Synchformer"
    source = "Iashin et al. 2024, Synchformer (arXiv:2401.16423); DeSync: Viertola et al. 2024, V-AURA (arXiv:2409.13689), Cheng et al. 2024, MMAudio (arXiv:2412.15322)"
    columns = {"desync": "mean of the decisions' offsets without sign, s", "desync_offset": "mean with sign, s; positive: the sound is late"}
    direction = "lower"
    ranges = {"desync": (0.0, LONGEST), "desync_offset": (-LONGEST, LONGEST)}
    needs = ("picture", "sound")
    settings = dict(Synchformer.settings)
    protocols = {"javisbench": {"max_seconds": 4.0, "pad": "both"}, "mmaudio": {"max_seconds": 8.0, "pad": "sound"}}
    resampler = _RESAMPLER
    extractors = (Synchformer,)

    def __init__(self, **settings):
        super().__init__(**settings)
        self.extractor = Synchformer(**self.set)

    def wants(self):
        return {"decisions": (self.extractor, "audio")}

    def row(self, item):
        found = offsets(item["decisions"]["logits"])
        return {"desync": float(abs(found).mean()), "desync_offset": float(found.mean())}


# --- CAVP -----------------------------------------------------------------------------------------------------------


class _Cavp(_Of):
    parts = (CAVP,)
    pictures = Pictures(fps=4, size=(224, 224), fit="squash", resize="bilinear")

    @staticmethod
    def network(path):
        from avtools.models.parts import cavp

        return cavp.load(path)

    def seconds(self, pair, role: str):
        """(what is seen, its whole seconds); Skip where there is none."""
        seen = moving(pair, role, self.pictures)
        seconds = int(seen.duration + SLACK)
        if not seconds:
            raise Skip(f"the picture has {seen.duration:.2g} s, and whole seconds are judged")
        return seen, seconds


class CavpVideo(_Cavp):
    """CAVP's vectors of a picture: what is shown at k / 4 s of its whole seconds, squashed to 224 x 224 (bilinear)."""

    name = "cavp-video"
    medium = "picture"
    outputs = {"embedding": "(4 x seconds, 512) float32 of unit length"}

    def prepare(self, pair, role):
        seen, seconds = self.seconds(pair, role)
        return {"pictures": seen.pictures[: 4 * seconds]}

    def run(self, items):
        import torch

        pictures = (torch.from_numpy(item["pictures"]).permute(0, 3, 1, 2).float() / 255 for item in items)
        device = self.net.video_project_head.weight.device
        return [{"embedding": self.net.see(one.to(device)).cpu().numpy()} for one in pictures]


class CavpAudio(_Cavp):
    """CAVP's vectors of a sound, of the whole seconds that its picture has; shorter sound is followed by silence."""

    name = "cavp-audio"
    medium = "both"  # for it is cut to the picture's length
    resampler = _RESAMPLER
    outputs = {"embedding": "(4 x seconds, 512) float32 of unit length"}

    def prepare(self, pair, role):
        _, seconds = self.seconds(pair, role)
        return {"sound": _cut(pair.heard(role.replace("video", "audio"), 16000), 16000 * seconds - 1)}

    def run(self, items):
        import torch

        from avtools.models.parts.cavp import log_mel

        device = self.net.video_project_head.weight.device
        sounds = (torch.from_numpy(item["sound"]).to(device) for item in items)
        return [{"embedding": self.net.hear(log_mel(sound)).cpu().numpy()} for sound in sounds]


class CavpScore(OfFeatures):
    """Cosine of picture and sound in CAVP's space, 4 vectors a second of each, averaged over the picture's whole seconds."""

    name = "cavp"
    title = "Similarity of picture and sound in time by CAVP"
    source = "Luo et al. 2023, Diff-Foley (arXiv:2306.17203); JavisBench: Liu et al. 2025, JavisDiT (arXiv:2503.23377)"
    columns = {"cavp": "mean cosine over steps of 0.25 s, -1 to 1"}
    direction = "higher"
    ranges = {"cavp": (-1.0, 1.0)}
    needs = ("picture", "sound")
    protocols = {"javisbench": {}}
    resampler = _RESAMPLER
    extractors = (CavpVideo, CavpAudio)

    def __init__(self, **settings):
        super().__init__(**settings)
        self.video, self.audio = CavpVideo(), CavpAudio()

    def wants(self):
        return {"seen": (self.video, "video"), "heard": (self.audio, "audio")}

    def row(self, item):
        cosines = (item["seen"]["embedding"].astype("float64") * item["heard"]["embedding"]).sum(1)
        return {"cavp": float(cosines.mean())}
