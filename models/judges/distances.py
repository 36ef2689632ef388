"""How far a set of clips is from their references: Fréchet and kernel distances, divergences of classes, and the inception score.

torch is imported by what runs in the process of the networks alone: listings need none.
"""

from avtools.errors import RowError, UsageError
from avtools.metrics import Skip
from avtools.metrics.extracting import OfFeatures
from avtools.metrics.extrapolation import line
from avtools.metrics.frechet import SIDES, Frechet, Moments, columns_of, distance
from avtools.metrics.kernel import KernelDistance
from avtools.metrics.kernel import columns_of as kernel_columns
from avtools.models.judges.clap import LaionSound
from avtools.models.judges.javis_nets import PROTOCOLS, AudioClip, I3dLogits
from avtools.models.judges.listeners import Panns, PasstFeatures, VggishFeatures

TINY = 1e-12  # below a probability, before its logarithm
DRAWS = 10  # of blocks of rows, for each size, to extrapolate by
LEAST_BLOCKS = 8


class SoundDistance(OfFeatures, Frechet):
    """The Fréchet distance of judged sounds from their references in a network's embeddings, and what it would be of infinitely many.

    Sounds and references are heard whole, so of different lengths where they have such (`seconds`: of each at most so many, from
    its begin; 0: all); which reference stands in which row makes no difference.

    The extrapolated distance (column _inf) is that of a line through distances of parts of the judged set over one by their sizes
    (Gui et al. 2023): parts are made of up to 20 blocks of rows, drawn without repetition, from a quarter of them on.  It is told where
    there are twice as many vectors in such a part as features, so that no covariance is singular.
    """

    network = True
    unit = "vectors"
    settings = {"model": "vggish", "seconds": 0.0}
    needs = ("sound", "reference_sound")
    chance_how = "measured by --canary: of silence, noise and a shift; exchanged sounds are the same set"
    resampler = "soxr HQ mono to the network's rate"

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["model"] not in self.variants:
            raise UsageError(f"--set {self.name}.model={self.set['model']}: one of {', '.join(self.variants)}")
        if not 0 <= self.set["seconds"] <= 3600:
            raise UsageError(f"--set {self.name}.seconds={self.set['seconds']:g}: 0 (all) to 3600")

    def extractor(self):
        """The one that the settings choose."""
        return listener(self.set["model"], self.set["seconds"])

    def wants(self):
        return {"judged": (self.extractor(), "audio"), "reference": (self.extractor(), "reference_audio")}

    def features(self, item):
        return super().features({side: item[side]["embedding"] for side in SIDES})

    @property
    def alone(self):
        return super().alone | {f"{self.main}_inf"}

    def _finalized(self, state):
        told = super()._finalized(state)
        return told | {self.main: self.set.get("scale", 1.0) * told[self.main]}

    def finalize_whole(self, state):
        key = "inf", *map(id, state.parts)  # kept as finalize does: the table for people and the summary ask for the same
        if key not in self._known:
            try:
                count = self.finalize(state)[f"{self.main}_samples"]
                found = self.set.get("scale", 1.0) * self._extrapolated(state, count)
            except Skip as skip:
                found = skip
            self._known[key] = state.parts, {f"{self.main}_inf": found}
        return dict(self._known[key][1])

    def _extrapolated(self, state, count: int) -> float:
        import numpy as np

        true = state.joined("reference")
        parts = [one for one in (_joined(part, "judged") for part in state.parts) if one is not None]
        least = max(2, len(parts) // 4)
        if len(parts) < LEAST_BLOCKS or count * least / len(parts) < 2 * len(true.mean):
            raise Skip(f"{count} vectors of {len(true.mean)} features are too few to extrapolate")
        random, sizes, found = np.random.default_rng(0), [], []
        for some in range(least, len(parts) + 1):
            for _ in range(DRAWS if some < len(parts) else 1):
                chosen = Moments.joined([parts[k] for k in sorted(random.choice(len(parts), some, replace=False))])
                sizes.append(chosen.count)
                found.append(distance(chosen, true))
        return line(sizes, found).value


def _joined(part: dict, side: str) -> Moments | None:
    moments = part[side].moments()
    return Moments.joined(moments) if moments else None


def listener(model: str, seconds: float):
    """The extractor of sounds that is called so."""
    if model == "audioclip":
        return AudioClip(seconds=seconds)
    if model == "clap":
        return LaionSound(seconds=seconds)
    return {"vggish": VggishFeatures, "panns": Panns, "passt": PasstFeatures}[model](seconds=seconds)


def _sound_columns(name: str) -> dict[str, str]:
    main, *counts = columns_of(name, "Fréchet distance; 0: alike", "vectors").items()
    return dict([main, (f"{name}_inf", "the same, extrapolated to infinitely many vectors; noise may take it below 0"), *counts])


class Fad(SoundDistance):
    __doc__ = f"""Fréchet audio distance, by default in VGGish's embeddings of each 0.96 s.

    {SoundDistance.__doc__}

    Protocol javisbench: AudioCLIP's embeddings of 16 kHz sound of 4 s, times 10,000.
    """

    name = "fad"
    title = "Fréchet distance of judged sounds from their references, features of VGGish, PANNs, CLAP or AudioCLIP"
    source = (
        "Kilgour et al. 2019 (arXiv:1812.08466); extrapolated: Gui et al. 2023 (arXiv:2311.01616); "
        "protocol javisbench: Liu et al. 2025 (arXiv:2503.23377)"
    )
    columns = _sound_columns("fad")
    ranges = {"fad": (0.0, float("inf"))}
    variants = ("vggish", "panns", "clap", "audioclip")
    settings = {"model": "vggish", "seconds": 0.0, "scale": 1.0, "legacy": ""}
    protocols = {
        "javisbench": {"model": "audioclip", "seconds": 4.0, "scale": 1e4, "legacy": "javisbench"},
        "vatt": {"model": "vggish", "seconds": 0.0},
    }
    extractors = (VggishFeatures, Panns, LaionSound, AudioClip)

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["legacy"] not in ("", "javisbench") or self.set["legacy"] and self.set["model"] != "audioclip":
            raise UsageError(f"--set fad.legacy={self.set['legacy']}: javisbench, with model audioclip; or nothing")

    def extractor(self):
        if self.set["legacy"]:
            return AudioClip(**(PROTOCOLS["audioclip"]["javisbench"] | {"seconds": self.set["seconds"]}))
        return super().extractor()


class Fd(SoundDistance):
    __doc__ = f"""Fréchet distance of sounds, by default in PANNs' embeddings: one of each sound.

    {SoundDistance.__doc__}
    """

    name = "fd"
    title = "Fréchet distance of judged sounds from their references, features of PANNs, PaSST or VGGish"
    source = "Liu et al. 2023, AudioLDM (arXiv:2301.12503); protocol mmaudio: Cheng et al. 2024 (arXiv:2412.15322)"
    columns = _sound_columns("fd")
    ranges = {"fd": (0.0, float("inf"))}
    variants = ("panns", "passt", "vggish")
    settings = {"model": "panns", "seconds": 0.0}
    protocols = {"mmaudio": {"seconds": 8.0}}
    extractors = (Panns, PasstFeatures, VggishFeatures)


class FvdOfLogits(OfFeatures, Frechet):
    """Fréchet video distance as JavisBench has it: of I3D's logits of Kinetics-400, `frames` frames of the whole clip.

    Each clip is `frames` frames, evenly spaced from its first to its last, all of each amid black, in the range that the
    benchmark gives them (avtools.models.judges.javis_nets.I3dLogits).
    """

    name = "fvd"
    title = "Fréchet distance of judged clips from their references, logits of I3D"
    source = "Unterthiner et al. 2018 (arXiv:1812.01717); protocol javisbench: Liu et al. 2025 (arXiv:2503.23377)"
    unit = "clips"
    columns = columns_of("fvd", "Fréchet distance; 0: alike", unit)
    ranges = {"fvd": (0.0, float("inf"))}
    needs = ("picture", "reference_picture")
    settings = {"frames": 24, "range": "javisbench"}
    protocols = {"javisbench": {"range": "javisbench"}}
    extractors = (I3dLogits,)

    def __init__(self, **settings):
        super().__init__(**settings)
        self.extractor = I3dLogits(**self.set)

    def wants(self):
        return {"judged": (self.extractor, "video"), "reference": (self.extractor, "reference_video")}

    def features(self, item):
        return super().features({side: item[side]["embedding"] for side in SIDES})


class Kvd(OfFeatures, KernelDistance):
    """Kernel video distance: unbiased squared maximum mean discrepancy of I3D's logits of Kinetics-400.

    Each clip is `frames` frames, evenly spaced from its first to its last.  Protocol javisbench: pictures in the range that the
    benchmark gives them, and with `legacy` centred its published mistake: each set's mean is taken off before, so that a shift between the sets
    is not seen.
    """

    name = "kvd"
    title = "Kernel distance of judged clips from their references, features of I3D"
    source = "Unterthiner et al. 2018 (arXiv:1812.01717); protocol javisbench: Liu et al. 2025 (arXiv:2503.23377)"
    columns = kernel_columns("kvd", "squared maximum mean discrepancy, unbiased, so that noise may take it below 0; 0: alike", "clips")
    unit = "clips"
    needs = ("picture", "reference_picture")
    settings = {"frames": 24, "range": "standard", "legacy": ""}
    protocols = {"javisbench": {"range": "javisbench", "legacy": "centred"}}
    extractors = (I3dLogits,)

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["legacy"] not in ("", "centred"):
            raise UsageError(f"--set kvd.legacy={self.set['legacy']}: centred, or nothing")
        self.centred = bool(self.set["legacy"])
        self.extractor = I3dLogits(frames=self.set["frames"], range=self.set["range"])

    def wants(self):
        return {"judged": (self.extractor, "video"), "reference": (self.extractor, "reference_video")}

    def features(self, item):
        return super().features({side: item[side]["embedding"] for side in SIDES})


class _OfClasses(OfFeatures):
    """What a classifier of AudioSet makes of a sound; `activation`: softmax, one distribution over all classes; sigmoid, each class
    for itself; `seconds`: of each sound at most so many, from its begin (0: all)."""

    network = True
    variants = ("panns", "passt")
    settings = {"model": "panns", "activation": "softmax", "seconds": 0.0}
    extractors = (Panns, PasstFeatures)
    resampler = "soxr HQ to 32000 Hz mono"

    def __init__(self, **settings):
        super().__init__(**settings)
        for name, known in (("model", self.variants), ("activation", ("softmax", "sigmoid"))):
            if self.set[name] not in known:
                raise UsageError(f"--set {self.name}.{name}={self.set[name]}: {' or '.join(known)}")
        if not 0 <= self.set["seconds"] <= 3600:
            raise UsageError(f"--set {self.name}.seconds={self.set['seconds']:g}: 0 (all) to 3600")

    def extractor(self):
        return listener(self.set["model"], self.set["seconds"])

    def probabilities(self, found: dict):
        """(527,) float64 of an extractor's features."""
        import numpy as np

        logits = found["logits"].astype(np.float64)
        if self.set["activation"] == "sigmoid":
            return 1 / (1 + np.exp(-logits))
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()


class Kld(_OfClasses):
    __doc__ = f"""Kullback-Leibler divergence of the judged sound's classes from those of its own reference, KL(reference || judged), in nats.

    {_OfClasses.__doc__}  Of sigmoid: the sum over classes of p ln(p / q), which may be below 0.
    """

    name = "kld"
    title = "Divergence of the sound's classes from its reference's, by PANNs or PaSST"
    source = (
        "Iashin and Rahtu 2021, SpecVQGAN (arXiv:2110.08791); protocol mmaudio: Cheng et al. 2024 (arXiv:2412.15322); "
        "protocol vatt: Liu et al. 2024 (arXiv:2411.05679)"
    )
    columns = {"kld": "KL(reference || judged), nats; 0: alike"}
    direction = "lower"
    needs = ("sound", "reference_sound")
    protocols = {"mmaudio": {"activation": "softmax", "seconds": 8.0}, "vatt": {"model": "passt", "activation": "softmax", "seconds": 0.0}}

    def wants(self):
        return {"judged": (self.extractor(), "audio"), "reference": (self.extractor(), "reference_audio")}

    def row(self, item):
        import numpy as np

        judged, true = (self.probabilities(item[side]) for side in SIDES)
        return {"kld": float((true * np.log((true + TINY) / (judged + TINY))).sum())}


class InceptionScore(_OfClasses):
    __doc__ = f"""Inception score of the judged sounds: exp of the mean divergence of their classes from the whole set's mean.

    {_OfClasses.__doc__}  It asks for no reference: classes told surely, and many of them.  All sounds are one set; originals take
    the mean over 10 parts of it, which is lower the fewer sounds a part has.
    """

    name = "is"
    title = "Inception score of sounds: sure classes, and many, by PANNs or PaSST"
    source = "Salimans et al. 2016 (arXiv:1606.03498); of sounds: Liu et al. 2023, AudioLDM (arXiv:2301.12503); protocol mmaudio: arXiv:2412.15322"
    columns = {"is": "1 to the number of classes", "is_samples": "judged sounds"}
    alone = frozenset(["is_samples"])
    ranges = {"is": (1.0, float("inf"))}
    direction = "higher"
    per_row = False
    needs = ("sound",)
    chance_how = "1: all alike"
    protocols = {"mmaudio": {"model": "panns", "activation": "softmax", "seconds": 8.0}}

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["activation"] != "softmax":
            raise UsageError("--set is.activation: softmax; the score is of one distribution over all classes")

    def wants(self):
        return {"sound": (self.extractor(), "audio")}

    def features(self, item):
        import numpy as np

        if not np.isfinite(item["sound"]["logits"]).all():
            raise RowError(f"{self.name}: the network's classes are not finite numbers; are these its weights?")
        return {"probabilities": self.probabilities(item["sound"])}

    def start(self):
        return (0, 0.0, 0.0)

    def accumulate(self, state, features):
        import numpy as np

        found = features["probabilities"]
        return self.merge(state, (1, float((found * np.log(found + TINY)).sum()), found))

    def merge(self, state, other):
        return tuple(one + two for one, two in zip(state, other, strict=True))

    def finalize(self, state):
        import numpy as np

        count, sure, total = state
        if count < 2:
            raise Skip(f"{count} sounds; a score of a set needs two")
        mean = total / count
        return {"is": float(np.exp(sure / count - (mean * np.log(mean + TINY)).sum())), "is_samples": count}
