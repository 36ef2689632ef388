"""Features of sound by the networks that distances and divergences of sound are told in: PANNs, VGGish, PaSST."""

from typing import ClassVar

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.metrics.extracting import Extractor

AT_ONCE = 8  # sounds of one length


class Listener(Extractor):
    """Hears a sound, the mean of its channels: all of it, or its first `seconds`; silence follows what is shorter than the network's least."""

    medium = "sound"
    settings = {"seconds": 0.0}

    @property
    def rate(self) -> int:
        """That the network hears at, Hz."""
        raise NotImplementedError

    @property
    def file(self) -> str:
        """The name of the released file, looked for where a folder is given."""
        return self.parts[0].files[0]

    def prepare(self, pair, role):
        sound = pair.heard(role, self.rate)
        return {"sound": sound[: round(self.set["seconds"] * self.rate) or None]}

    def locate(self, weights, part=None):
        path = super().locate(weights, part)
        if not path.is_dir():
            return path
        if not (path / self.file).is_file():
            raise FatalError(f"{path}: has no {self.file}; give the file")
        return path / self.file

    def run(self, items):
        import torch

        return self.features([torch.from_numpy(item["sound"]).to(self.device) for item in items])

    def features(self, sounds: list) -> list[dict]:
        """Of tensors (n,) on the device."""
        raise NotImplementedError

    @property
    def device(self):
        return next(self.net.parameters()).device


class Panns(Listener):
    """Cnn14 of PANNs, once for all of a sound (Kong et al. 2020, arXiv:1912.10211); `rate` 32000 or 16000: which of the two networks."""

    name = "panns"
    settings = {"rate": 32000, "seconds": 0.0}
    resampler = "soxr HQ to the network's rate"
    parts = (
        hub.Part(
            "panns",
            "Cnn14 of PANNs (Cnn14_mAP=0.431.pth; for 16 kHz Cnn14_16k_mAP=0.438.pth)",
            "https://zenodo.org/records/3987831",
            ("Cnn14*.pth",),
            327_000_000,
            "CC-BY-4.0",
        ),
    )
    outputs = {
        "embedding": "what the classes are told from, (1, 2048), none negative",
        "probabilities": "of AudioSet's classes, each for itself, (527,)",
        "logits": "before the sigmoid, (527,)",
    }
    FILES: ClassVar[dict[int, str]] = {32000: "Cnn14_mAP=0.431.pth", 16000: "Cnn14_16k_mAP=0.438.pth"}

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.rate not in self.FILES:
            raise UsageError(f"panns rate={self.rate}: {' or '.join(map(str, self.FILES))}")

    @property
    def rate(self):
        return self.set["rate"]

    @property
    def file(self):
        return self.FILES[self.rate]

    def load(self, device, weights):
        from avtools.models.judges import panns

        self.net = panns.load(self.locate(weights), self.rate, device)

    def features(self, sounds):
        found = by_length(self.net, sounds)
        return [
            {"embedding": embedding[None].cpu().numpy(), "probabilities": logits.sigmoid().cpu().numpy(), "logits": logits.cpu().numpy()}
            for embedding, logits in found
        ]


class VggishFeatures(Listener):
    """VGGish, once for each 0.96 s, whole ones only (Hershey et al. 2017, arXiv:1609.09430).

    `activation` 0: of the last layer without its rectifier, as the common packages of the Fréchet audio distance
    (frechet_audio_distance, fadtk) have it; 1: with it.  Neither has AudioSet's PCA and 8 bits.
    """

    name = "vggish"
    settings = {"activation": 0, "seconds": 0.0}
    resampler = "soxr HQ to 16000 Hz"
    parts = (
        hub.Part(
            "vggish",
            "VGGish (vggish-10086976.pth)",
            "https://github.com/harritaylor/torchvggish/releases/tag/v0.1",
            ("vggish-10086976.pth",),
            289_000_000,
            "Apache-2.0",
        ),
    )
    outputs = {"embedding": "one for each 0.96 s, (N, 128)"}
    rate = 16000

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["activation"] not in (0, 1):
            raise UsageError(f"vggish activation={self.set['activation']}: 0 or 1")

    def load(self, device, weights):
        from avtools.models.judges import vggish

        self.net = vggish.load(self.locate(weights), bool(self.set["activation"]), device)

    def features(self, sounds):
        import torch

        from avtools.models.judges.vggish import examples

        cut = [examples(sound) for sound in sounds]
        found = self.net(torch.cat(cut)).split([len(one) for one in cut])
        return [{"embedding": embedding.cpu().numpy()} for embedding in found]


class PasstFeatures(Listener):
    """PaSST-S (Koutini et al. 2022, arXiv:2110.05069), the mean over the fewest windows of 10 s that hear all of a sound.

    They are evenly spaced from its begin to its end, and full; a sound not longer than 10 s is one window as long as itself.
    """

    name = "passt"
    resampler = "soxr HQ to 32000 Hz"
    parts = (
        hub.Part(
            "passt",
            "PaSST-S (passt-s-f128-p16-s10-ap.476-swa.pt)",
            "https://github.com/kkoutini/PaSST/releases/tag/v0.0.1-audioset",
            ("passt-s-f128-p16-s10-ap.476-swa.pt",),
            345_000_000,
            "Apache-2.0",
        ),
    )
    outputs = {
        "embedding": "what the classes are told from, (1, 768)",
        "probabilities": "of AudioSet's classes, each for itself, (527,); the mean over windows",
        "logits": "before the sigmoid, (527,); the mean over windows",
    }
    rate = 32000

    def load(self, device, weights):
        from avtools.models.judges import passt

        self.net = passt.load(self.locate(weights), device)

    def features(self, sounds):
        import torch

        from avtools.models.judges.passt import windows

        cut = [windows(sound) for sound in sounds]
        found, made = iter(by_length(self.net, [window for one in cut for window in one])), []
        for one in cut:
            embedding, logits = (torch.stack(parts) for parts in zip(*(next(found) for _ in one), strict=True))
            means = {"embedding": embedding.mean(0, keepdim=True), "probabilities": logits.sigmoid().mean(0), "logits": logits.mean(0)}
            made.append({name: mean.cpu().numpy() for name, mean in means.items()})
        return made


def by_length(net, sounds: list) -> list[tuple]:
    """What `net`, from (B, n) to tensors with B rows, gives for each sound; those of one length go together, AT_ONCE at most."""
    import torch

    made: list = [None] * len(sounds)
    alike: dict[int, list[int]] = {}
    for k, sound in enumerate(sounds):
        alike.setdefault(len(sound), []).append(k)
    for places in alike.values():
        for begin in range(0, len(places), AT_ONCE):
            some = places[begin : begin + AT_ONCE]
            for k, *found in zip(some, *net(torch.stack([sounds[k] for k in some])), strict=True):
                made[k] = tuple(found)
    return made
