"""The networks by which JavisBench tells sets of clips apart, as extractors: AudioCLIP's sound head and I3D's logits.

`PROTOCOLS` has the settings of the benchmark (Liu et al. 2025, arXiv:2503.23377) for each.
"""

from avtools import hub
from avtools.errors import UsageError
from avtools.metrics import Skip
from avtools.metrics.extracting import Extractor
from avtools.metrics.pictures import Pictures

LONGEST = 10.0  # seconds of sound that AudioCLIP hears at once
SECONDS, FRAMES = 160.0, 128  # of sound and of pictures at once, or one clip's
I3D_SIZE = 224
FULL_SCALE = 32768.0

PROTOCOLS = {
    "audioclip": {"javisbench": {"rate": 16000, "seconds": 4.0, "level": "raw"}},
    "i3d-400": {"javisbench": {"frames": 24, "range": "javisbench"}},
}


class AudioClip(Extractor):
    """AudioCLIP's embedding of a sound.

    `rate`: of the sound that is given to it; the network takes any for its own 44100 Hz, so that at 16000 Hz everything
    sounds 2.8 times as high and fast.  `seconds`: what is longer is cut, what is shorter filled up with silence; 0: all of
    it, in windows of 10 s of which the last ends with the sound, and the mean of their embeddings.  `level`: "standard",
    full scale is that of 16-bit samples, which it was trained on; "raw", numbers of -1..1 as they are, which it hears as
    if 90 dB lower (so, as far as is known, the benchmark's figures are made).
    """

    name = "audioclip"
    medium = "sound"
    settings = {"rate": 44100, "seconds": 0.0, "level": "standard"}
    parts = (
        hub.Part(
            "audioclip",
            "AudioCLIP, its sound head (AudioCLIP-Full-Training.pt)",
            "https://github.com/AndreyGuzhov/AudioCLIP/releases",
            ("AudioCLIP-Full-Training.pt",),
            540_000_000,
            "MIT",
        ),
    )
    resampler = "soxr HQ, mono"
    outputs = {"embedding": "(1, 1024), not of unit length"}

    def __init__(self, **settings):
        super().__init__(**settings)
        _check(self, "level", "standard", "raw")
        if not 8000 <= self.set["rate"] <= 192000:
            raise UsageError(f"{self.name}: rate {self.set['rate']}: 8000 to 192000 Hz; it was trained at 44100")
        if not 0 <= self.set["seconds"] <= 60:
            raise UsageError(f"{self.name}: seconds {self.set['seconds']:g}: 0 (all of the sound) to 60")

    def prepare(self, pair, role):
        import numpy as np

        sound, rate = pair.heard(role, self.set["rate"]), self.set["rate"]
        if not len(sound):
            raise Skip("there is no sound")
        if count := round(self.set["seconds"] * rate):
            sound = np.pad(sound[:count], (0, max(0, count - len(sound))))
        return {"sound": sound}

    def load(self, device, weights):
        from avtools.models.judges import audioclip

        self.device, self.net = device, audioclip.load(self.locate(weights), device)

    def run(self, items):
        import numpy as np
        import torch

        from avtools.models.judges.audioclip import scaled

        cut = [item["sound"] for item in items]
        if not self.set["seconds"]:
            size = round(LONGEST * self.set["rate"])
            cut = [windows(sound, size) for sound in cut]
        else:
            cut = [[sound] for sound in cut]
        pieces = [(len(piece), k, piece) for k, some in enumerate(cut) for piece in some]
        found = [[] for _ in items]
        for length in sorted({length for length, _, _ in pieces}):  # of one length each, so that none is filled up
            alike = [(k, piece) for one, k, piece in pieces if one == length]
            most = max(1, int(SECONDS * self.set["rate"] / length))
            for begin in range(0, len(alike), most):
                batch = alike[begin : begin + most]
                sound = torch.from_numpy(np.stack([piece for _, piece in batch])).to(self.device)
                with torch.inference_mode():
                    embeddings = self.net(scaled(sound * FULL_SCALE if self.set["level"] == "standard" else sound))
                for (k, _), embedding in zip(batch, embeddings.double().cpu().numpy(), strict=True):
                    found[k].append(embedding)
        return [{"embedding": np.mean(some, axis=0, keepdims=True).astype(np.float32)} for some in found]


def windows(sound, size: int) -> list:
    """`sound` (n,) in pieces of `size`, of which the last ends with it; all of it where it is no longer than one."""
    if len(sound) <= size:
        return [sound]
    begins = range(0, len(sound) - size, size)
    return [*(sound[begin : begin + size] for begin in begins), sound[-size:]]


class I3dLogits(Extractor):
    """I3D's logits of Kinetics' 400 actions, of `frames` frames evenly spaced over the whole clip, in 224 x 224 amid black.

    `range`: "standard", pictures of -1..1, which it was trained on; "javisbench", of 0..1 in 128 steps: the benchmark takes
    pictures of 0..1 for such of -1..1, and rounds them down to 8 bits on the way.  Its own number of frames is 24 (16 in
    the first release).  A clip with fewer frames shows some of them several times.
    """

    name = "i3d-400"
    medium = "picture"
    settings = {"frames": 24, "range": "standard"}
    parts = (
        hub.Part(
            "i3d-400",
            "I3D of Kinetics-400 with its classifier (i3d_pretrained_400.pt)",
            "https://github.com/wilson1yan/VideoGPT",
            ("i3d_pretrained_400.pt",),
            51_000_000,
            "Apache-2.0",
        ),
    )
    outputs = {"embedding": "(1, 400), the logits' mean over time"}

    def __init__(self, **settings):
        super().__init__(**settings)
        _check(self, "range", "standard", "javisbench")
        if not 9 <= self.set["frames"] <= 1000:
            raise UsageError(f"{self.name}: frames {self.set['frames']}: 9 to 1000; the network's last window sees 9 at least")

    @property
    def pictures(self):
        return Pictures(count=self.set["frames"], size=(I3D_SIZE, I3D_SIZE), fit="pad", resize="bilinear")

    def prepare(self, pair, role):
        return {"pictures": pair.seen(role, self.pictures).pictures}

    def load(self, device, weights):
        from avtools.models.judges import i3d400

        self.device, self.net = device, i3d400.load(self.locate(weights), device)

    def run(self, items):
        import numpy as np
        import torch

        found, most = [], max(1, FRAMES // self.set["frames"])
        for begin in range(0, len(items), most):
            pictures = torch.from_numpy(np.stack([item["pictures"] for item in items[begin : begin + most]])).to(self.device)
            with torch.inference_mode():
                found.extend(self.net(self.ranged(pictures).permute(0, 4, 1, 2, 3)).float().cpu().numpy()[:, None])
        return [{"embedding": one} for one in found]

    def ranged(self, pictures):
        """uint8 -> the numbers that the network sees."""
        pictures = pictures.float()
        if self.set["range"] == "javisbench":
            pictures = ((pictures / 255 + 1) / 2 * 255).floor()
        return pictures / 127.5 - 1


def _check(extractor: Extractor, name: str, *known: str) -> None:
    if extractor.set[name] not in known:
        raise UsageError(f"{extractor.name}: {name} '{extractor.set[name]}': one of {', '.join(known)}")
