"""ImageBind as a judge of picture, sound and text: its features of a row, and the metrics imagebind, avhscore and javisscore.

torch is imported by what runs in the process of the network, and by what scales pictures: listings need none.

`legacy` (names joined by "+") gives the forms that JavisBench's published numbers were computed with:

centring  clips of sound are views of one waveform and lose their mean in place, so that what two clips share loses it twice,
          and an offset's step lies inside the later one
windows   JavisScore's windows are counted, int(2 fps) frames every int(2 fps) - int(1.5 fps), and not timed: at 25 fps those of
          the picture come every 0.52 s and those of the sound every 0.5 s, so that the eleventh ones are 0.2 s apart
"""

import dataclasses
from fractions import Fraction
from typing import NamedTuple

from avtools.errors import UsageError
from avtools.metrics import Skip
from avtools.metrics.extracting import Extractor, OfFeatures
from avtools.metrics.media import TEXTS
from avtools.metrics.pictures import Clip, Frame, Pictures, Watch
from avtools.models.parts.imagebind.checkpoint import PART, file_of

RATE, LENGTH, LEAST = 16000, 32000, 400  # Hz; samples of a clip, and of the shortest sound that has a spectrum
SECONDS, STEP = 2, Fraction(1, 2)  # of a film, a clip of sound and a window; between windows
FILMS, CLIPS, SIZE = 5, 3, 224  # of a whole video and its sound, as ImageBind's own loader has them; pixels
AT_ONCE = 64  # pictures or clips in the network
SPARE = Fraction(1, 20)  # seconds that no window need hear: codecs do not end on time
SOURCE = "Girdhar et al. 2023, ImageBind (arXiv:2305.05665)"
JAVIS = "Liu et al. 2025, JavisDiT (arXiv:2503.23377)"


def legacy_of(text: str, known: tuple[str, ...], where: str) -> frozenset[str]:
    """The names in `text`; UsageError where one is not `known`."""
    names = frozenset(filter(None, text.split("+")))
    if names - set(known):
        raise UsageError(f"--set {where}.legacy={text}: of {', '.join(known)}, joined by '+'")
    return names


# --- which films ------------------------------------------------------------------------------------------------------


def film_frames(clip: Clip, films: int = FILMS) -> list[tuple[int, int]]:
    """The first and last frame of films of 2 s, the first film at the clip's begin, the last at its end, evenly spaced."""
    latest, made = max(clip.end - SECONDS, Fraction(0)), []
    for k in range(films):
        begin = latest * k / max(1, films - 1)
        inside = [number for number, time in enumerate(clip.times) if begin <= time < begin + SECONDS]
        if not inside:  # one frame is shown through all of it
            inside = [max((number for number, time in enumerate(clip.times) if time <= begin), default=0)]
        made.append((inside[0], inside[-1]))
    return made


@dataclasses.dataclass(frozen=True)
class Films(Watch):
    """ImageBind's own view of a video: of 5 films of 2 s the first and last picture, with three squares side by side of each.

    (15, 2, 224, 224, 3) float32 of 0..1; the shorter side is made 224, bilinear and not antialiased, as published.
    """

    def begin(self, clip):
        return _Films(clip)


class _Films:
    def __init__(self, clip: Clip):
        self.frames = film_frames(clip)
        self.wanted, self.squares = {number for film in self.frames for number in film}, {}

    def add(self, number: int, frame: Frame) -> None:
        if number in self.wanted:
            self.squares[number] = squares(frame.rgb)

    def result(self):
        import numpy as np

        pairs = [(self.squares[first], self.squares[last]) for first, last in self.frames]
        return np.stack([np.stack([first[k], last[k]]) for first, last in pairs for k in range(len(first))])


def squares(rgb):
    """A picture (H, W, 3) uint8 -> (3, 224, 224, 3) float32 of 0..1: of the longer side, its begin, middle and end."""
    import numpy as np
    import torch

    height, width = rgb.shape[:2]
    short = min(height, width)
    high, wide = (SIZE if side == short else side * SIZE // short for side in (height, width))
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float() / 255
    picture = torch.nn.functional.interpolate(picture, (high, wide), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    tops = (0, -(-(high - SIZE) // 2), high - SIZE) if high > wide else (-(-(high - SIZE) // 2),) * 3
    lefts = (0, -(-(wide - SIZE) // 2), wide - SIZE) if high <= wide else (-(-(wide - SIZE) // 2),) * 3
    return np.stack([picture[top : top + SIZE, left : left + SIZE] for top, left in zip(tops, lefts, strict=True)])


# --- which sound ------------------------------------------------------------------------------------------------------


def clip_bounds(samples: int, count: int = CLIPS, legacy: frozenset = frozenset()) -> list[tuple[int, int]]:
    """Where `count` clips of 2 s lie in so many samples at 16 kHz, evenly spaced from the begin to the end.

    What is not longer than 2 s is in all of them.  `legacy` centring: in floating-point seconds, which puts some a sample early.
    """
    if "centring" in legacy:
        latest = Fraction(max(samples / RATE - SECONDS, 0))
        begins = [latest / max(1, count - 1) * k for k in range(count)]
        return [(int(begin * RATE), min(samples, int((begin + SECONDS) * RATE))) for begin in begins]
    latest = max(samples - LENGTH, 0)
    begins = [latest * k // max(1, count - 1) for k in range(count)]
    return [(begin, min(samples, begin + LENGTH)) for begin in begins]


def cut(waveform, bounds: list[tuple[int, int]], legacy: frozenset = frozenset()) -> list:
    """The parts of a waveform (n,) float32.  `legacy` centring: each less its mean, taken from the whole in place, one by one."""
    if "centring" not in legacy:
        return [waveform[begin:end] for begin, end in bounds]
    waveform, made = waveform.copy(), []
    for begin, end in bounds:
        waveform[begin:end] -= waveform[begin:end].mean()
        made.append(waveform[begin:end].copy())
    return made


def heard(pair, role: str):
    """The row's sound at 16 kHz, (n,) float32; Skip where it is too short for a spectrum."""
    waveform = pair.heard(role, RATE)
    if len(waveform) < LEAST:
        raise Skip(f"its sound is {len(waveform) / RATE:.3g} s, too short for a spectrum")
    return waveform


def mels(clips, device="cpu"):
    """Clips (K, n) float32 array of up to 2 s -> (K, 1, 128, 204) tensor, as the sound tower hears them."""
    import torch

    from avtools.models.parts.kaldi import mel

    return mel(torch.from_numpy(clips)[:, None].to(device))


# --- which windows ----------------------------------------------------------------------------------------------------


class Windows(NamedTuple):
    """Pairs (begin, end) of windows, two int arrays (W, 2): of numbers of frames, and of samples; W is the same."""

    frames: object
    samples: object


def counted_windows(frames: int, fps: float, samples: int, rate: int = RATE) -> Windows:
    """JavisScore's windows as published: counted in each stream, the last one moved back to the stream's end.

    The stream with fewer of them decides how many are used, so that they need not be synchronous.  Where either is no longer
    than one window there is one, of all of both.
    """
    import numpy as np

    def listed(count: int, pace: float) -> list[tuple[int, int]] | None:
        length = int(SECONDS * pace)
        step = max(1, length - int((SECONDS - float(STEP)) * pace))
        if count <= length or not length:
            return None
        begins = [*range(0, count - length, step), count - length]
        return [(begin, begin + length) for begin in begins]

    both = listed(frames, fps), listed(samples, rate)
    if None in both:
        return Windows(np.array([[0, frames]]), np.array([[0, samples]]))
    count = min(len(one) for one in both)
    return Windows(*(np.array(one[:count]) for one in both))


def timed_windows(times, end: float, samples: int, rate: int = RATE) -> Windows:
    """The same moments of both: 2 s every 0.5 s, and the last 2 s where more than 50 ms would be left; `times` (T,) of frames, s.

    What lasts no more than 2 s is one window, of what is both seen and heard.
    """
    import numpy as np

    end = min(Fraction(end).limit_denominator(1_000_000), Fraction(samples, rate))
    begins = [STEP * k for k in range(max(0, (end - SECONDS) // STEP + 1))] or [Fraction(0)]
    if end - SECONDS - begins[-1] > SPARE:
        begins.append(end - SECONDS)
    ends = [min(end, begin + SECONDS) for begin in begins]
    edges = np.searchsorted(np.asarray(times), [[float(one) - 1e-6, float(other) - 1e-6] for one, other in zip(begins, ends, strict=True)])
    none = edges[:, 0] == edges[:, 1]  # no frame begins in it: the one before it is still shown
    edges[none, 0] = np.maximum(edges[none, 0] - 1, 0)
    edges[none, 1] = edges[none, 0] + 1
    return Windows(edges, np.array([[int(begin * rate), int(stop * rate)] for begin, stop in zip(begins, ends, strict=True)]))


@dataclasses.dataclass(frozen=True)
class Times(Watch):
    """When frames are shown, (T,) float seconds; the stream's fps (0: a still image); and how long it is shown, seconds."""

    def begin(self, clip):
        return _Times(clip)


class _Times:
    def __init__(self, clip: Clip):
        self.clip = clip

    def add(self, number: int, frame: Frame) -> None:
        pass

    def result(self):
        import numpy as np

        return np.array([float(time) for time in self.clip.times]), self.clip.fps or 0.0, float(self.clip.end)


# --- features ---------------------------------------------------------------------------------------------------------


class _Bind(Extractor):
    """What they share: the towers, which are in memory once for all of them and for the metrics ia and it."""

    parts = (PART,)

    def __init__(self, **settings):
        super().__init__(**settings)
        self.legacy = legacy_of(self.set.get("legacy", ""), ("centring", "windows"), self.name)

    def load(self, device, weights):
        from avtools.models.parts.imagebind.metrics import Judge

        self.judge = Judge.of(self.locate(weights), device)

    def locate(self, weights, part=None):
        from avtools.models.parts.imagebind.checkpoint import locate
        from avtools.models.parts.imagebind.metrics import SYSTEM

        return file_of(locate(weights, PART.name, self.name, "", system=SYSTEM))

    def embed(self, modality: str, inputs, form=None):
        """What the tower releases of a batch, (B, ...) -> (B, D) float32 array; `form` makes its input of the batch, on the device."""
        import torch

        tower, made = self.judge.tower(modality), []
        with torch.inference_mode():
            for some in inputs.split(AT_ONCE):
                some = some.to(self.judge.device)
                made.append(tower.postprocessor(tower.embed(form(some) if form else some)))
        return torch.cat(made).float().cpu().numpy()

    def hear(self, items: list[dict]) -> list:
        """Of each item's clips the embeddings (K, D)."""
        import numpy as np
        import torch

        found = self.embed("audio", torch.cat([mels(item["clips"], self.judge.device) for item in items]))
        return np.split(found, np.cumsum([len(item["clips"]) for item in items])[:-1])

    def __setstate__(self, state):
        self.__init__(**state["set"])


class BindFilms(_Bind):
    """A video as ImageBind's own loader has it (:class:`Films`): the mean of 15 embeddings of unit length."""

    name = "imagebind-films"
    medium = "picture"
    outputs = {"embedding": "(1, 1024)"}
    pictures = Films()

    def prepare(self, pair, role):
        return {"films": pair.watched(role, self.pictures)}

    def run(self, items):
        import torch

        from avtools.models.parts.frames import clip_normalise

        films = torch.cat([torch.from_numpy(item["films"]) for item in items])
        found = self.embed("vision", films, lambda x: clip_normalise(x.permute(0, 1, 4, 2, 3)).transpose(1, 2))
        return [{"embedding": one.mean(0, keepdims=True)} for one in found.reshape(len(items), -1, found.shape[-1])]


class BindFrames(_Bind):
    """Each shown frame: shorter side 224 (bicubic), the middle of it."""

    name = "imagebind-frames"
    medium = "picture"
    outputs = {"embedding": "(T, 1024) of unit length"}
    pictures = Pictures(size=(SIZE, SIZE))

    def prepare(self, pair, role):
        return {"pictures": pair.seen(role, self.pictures).pictures}

    def run(self, items):
        import torch

        from avtools.models.parts.frames import clip_normalise

        def form(x):
            return clip_normalise(x.permute(0, 3, 1, 2) / 255)

        return [{"embedding": self.embed("vision", torch.from_numpy(item["pictures"]), form)} for item in items]


class BindSound(_Bind):
    """The whole sound: the mean over `clips` clips of 2 s, evenly spaced from its begin to its end, as ImageBind's own loader has them."""

    name = "imagebind-sound"
    medium = "sound"
    settings = {"clips": CLIPS, "legacy": ""}
    resampler = "soxr HQ to 16000 Hz, mean of the channels"
    outputs = {"embedding": "(1, 1024)"}

    def prepare(self, pair, role):
        import numpy as np

        waveform = heard(pair, role)
        return {"clips": np.stack(_once(waveform, [clip_bounds(len(waveform), self.set["clips"], self.legacy)], self.legacy)[0])}

    def run(self, items):
        return [{"embedding": found.mean(0, keepdims=True)} for found in self.hear(items)]


class BindWindows(_Bind):
    """The sound of each of JavisScore's windows, and which frames each window has."""

    name = "imagebind-windows"
    medium = "both"
    settings = {"legacy": ""}
    resampler = BindSound.resampler
    outputs = {"embedding": "(W, 1024)", "frames": "(W, 2): the numbers of the first frame and of the one behind the last"}
    pictures = Times()

    def prepare(self, pair, role):
        import numpy as np

        reference = "reference_" if role.startswith("reference") else ""
        waveform = heard(pair, f"{reference}audio")
        times, fps, until = pair.watched(f"{reference}video", self.pictures)
        windows = counted_windows(len(times), fps, len(waveform)) if "windows" in self.legacy else timed_windows(times, until, len(waveform))
        groups = [[(begin + a, begin + b) for a, b in clip_bounds(end - begin, CLIPS, self.legacy)] for begin, end in windows.samples.tolist()]
        clips = _once(waveform, groups, self.legacy)
        counts = np.array([len(some) for some in clips])
        return {"clips": np.stack([clip for some in clips for clip in some]), "counts": counts, "frames": windows.frames}

    def run(self, items):
        import numpy as np

        made = []
        for item, found in zip(items, self.hear(items), strict=True):
            parts = np.split(found, np.cumsum(item["counts"])[:-1])
            made.append({"embedding": np.stack([part.mean(0) for part in parts]), "frames": item["frames"]})
        return made


class BindText(_Bind):
    name = "imagebind-text"
    medium = "text"
    requires = (*_Bind.requires, ("tokenizers", "tokenizers"))
    outputs = {"embedding": "(1, 1024)"}

    def prepare(self, pair, role):
        import numpy as np

        return {"text": np.frombuffer(pair.words(role).encode("utf-8", "replace"), np.uint8)}

    def run(self, items):
        from avtools.models.parts.imagebind.text import tokenize

        found = self.embed("text", tokenize([bytes(item["text"]).decode() for item in items]))
        return [{"embedding": one[None]} for one in found]


def _once(waveform, groups: list[list[tuple[int, int]]], legacy: frozenset) -> list[list]:
    """For each group of bounds its clips; of those that are the same, as they are where a sound or window has just 2 s, the first alone.

    With `legacy` centring all are cut nevertheless, one after another, as each leaves its mark on the waveform.
    """
    parts = iter(cut(waveform, [bounds for group in groups for bounds in group], legacy))
    made = []
    for group in groups:
        kept: dict = {}
        for bounds in group:
            kept.setdefault(bounds, next(parts))
        made.append(list(kept.values()))
    return made


# --- metrics ----------------------------------------------------------------------------------------------------------


def cosines(one, other):
    """Cosines (...) of arrays (..., D) that broadcast, float64; the product of their lengths counts as 1e-6 at least."""
    import numpy as np

    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return (one * other).sum(-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)).clip(min=1e-6)


def lowest_mean(values, lowest: float) -> float:
    """The mean of the `lowest` of `values` (N,): below 1 that share of them (rounded down), else so many; one at least."""
    import numpy as np

    count = int(lowest * len(values)) if lowest < 1 else int(lowest)
    return float(np.sort(values)[: max(1, count)].mean())


def javis_score(frames, sounds, windows, lowest: float = 0.4) -> float:
    """Embeddings of frames (T, D) and of each window's sound (W, D), the windows' frames (W, 2) -> the mean over the windows of
    :func:`lowest_mean` of the cosines."""
    scores = [lowest_mean(cosines(frames[begin:end], sound), lowest) for (begin, end), sound in zip(windows, sounds, strict=True)]
    return sum(scores) / len(scores)


class ImageBindScores(OfFeatures):
    """Cosines of ImageBind's embeddings of a whole video, its sound and its text.

    Video and sound are seen and heard as ImageBind's own loader has them: 5 films of 2 s, of each the first and last picture and
    three squares; 3 clips of 2 s.  The text is the caption, for ib_ta `audio_text` where the row has it.  `pairs` ("av", "tv",
    "ta", joined by "+"): which columns are wanted.  `legacy` centring, which the protocol javisbench has: see the module.
    """

    name = "imagebind"
    title = "ImageBind similarity of video and sound, text and video, text and sound"
    source = f"{SOURCE}; protocol javisbench: {JAVIS}"
    columns = {
        "ib_av": "cosine of video and sound, -1 to 1",
        "ib_tv": "cosine of text and video, -1 to 1",
        "ib_ta": "cosine of text and sound, -1 to 1",
    }
    ranges = dict.fromkeys(columns, (-1.0, 1.0))
    direction = "higher"
    needs = ("picture", "sound", "text")
    texts = TEXTS["audio_text"]
    resampler = BindSound.resampler
    settings = {"pairs": "av+tv+ta", "legacy": ""}
    protocols = {"javisbench": {"legacy": "centring"}, "mmaudio": {"pairs": "av"}}
    extractors = (BindFilms, BindSound, BindText)

    _PAIRS = {"av": ("video", "sound"), "tv": ("text", "video"), "ta": ("audio_text", "sound")}
    _NEEDS = {"video": "picture", "sound": "sound", "text": "text", "audio_text": "text"}

    def __init__(self, **settings):
        super().__init__(**settings)
        chosen = self.set["pairs"].split("+")
        if not set(chosen) <= set(self._PAIRS):
            raise UsageError(f"--set imagebind.pairs={self.set['pairs']}: of {', '.join(self._PAIRS)}, joined by '+'")
        self.pairs = {name: pair for name, pair in self._PAIRS.items() if name in chosen}
        self.columns = {f"ib_{name}": type(self).columns[f"ib_{name}"] for name in self.pairs}
        used = {self._NEEDS[one] for pair in self.pairs.values() for one in pair}
        self.needs = tuple(need for need in type(self).needs if need in used)
        legacy_of(self.set["legacy"], ("centring",), self.name)

    def wants(self):
        every = {
            "video": (BindFilms(), "video"),
            "sound": (BindSound(legacy=self.set["legacy"]), "audio"),
            "text": (BindText(), "text"),
            "audio_text": (BindText(), "audio_text"),
        }
        return {name: one for name, one in every.items() if any(name in pair for pair in self.pairs.values())}

    def row(self, item):
        found = {name: arrays["embedding"][0] for name, arrays in item.items()}
        return {f"ib_{name}": float(cosines(found[one], found[other])) for name, (one, other) in self.pairs.items()}


class AvhScore(OfFeatures):
    """Cosine of every shown frame with the whole sound, averaged over the frames (ImageBind).

    The whole sound is 3 clips of 2 s.  `legacy` centring, which the protocol javisbench has: see the module.
    """

    name = "avhscore"
    title = "ImageBind similarity of every frame and the whole sound, mean over frames"
    source = f"Mao et al. 2024, TAVGBench (arXiv:2404.14381), as {JAVIS} has it"
    columns = {"avhscore": "mean cosine of frames and sound, -1 to 1"}
    ranges = {"avhscore": (-1.0, 1.0)}
    direction = "higher"
    needs = ("picture", "sound")
    resampler = BindSound.resampler
    settings = {"legacy": ""}
    protocols = {"javisbench": {"legacy": "centring"}}
    extractors = (BindFrames, BindSound)

    def __init__(self, **settings):
        super().__init__(**settings)
        legacy_of(self.set["legacy"], ("centring",), self.name)

    def wants(self):
        return {"frames": (BindFrames(), "video"), "sound": (BindSound(**self.set), "audio")}

    def row(self, item):
        return {"avhscore": float(cosines(item["frames"]["embedding"], item["sound"]["embedding"]).mean())}


class JavisScore(OfFeatures):
    """Whether what is seen and heard at the same time agrees where it agrees least (ImageBind).

    Windows of 2 s every 0.5 s: each frame's cosine with the window's sound, of these the mean of the lowest `lowest` (below 1:
    that share, rounded down; else so many); then the mean over windows.  Windows are of the same moments of both, and a last
    one ends with the clip.  Protocol javisbench has `legacy` centring+windows: see the module.
    """

    name = "javisscore"
    title = "ImageBind similarity of frames and sound in windows of 2 s, the lowest 40 % of each"
    source = JAVIS
    columns = {"javisscore": "mean over windows of the mean of the lowest cosines, -1 to 1"}
    ranges = {"javisscore": (-1.0, 1.0)}
    direction = "higher"
    needs = ("picture", "sound")
    resampler = BindSound.resampler
    settings = {"lowest": 0.4, "legacy": ""}
    protocols = {"javisbench": {"lowest": 0.4, "legacy": "centring+windows"}}
    extractors = (BindFrames, BindWindows)

    def __init__(self, **settings):
        super().__init__(**settings)
        legacy_of(self.set["legacy"], ("centring", "windows"), self.name)
        lowest = self.set["lowest"]
        if not lowest or lowest > 1 and lowest != int(lowest):
            raise UsageError(f"--set javisscore.lowest={lowest:g}: a share above 0, or a whole number of frames")

    def wants(self):
        return {"frames": (BindFrames(), "video"), "windows": (BindWindows(legacy=self.set["legacy"]), "audio")}

    def row(self, item):
        windows = item["windows"]
        return {"javisscore": javis_score(item["frames"]["embedding"], windows["embedding"], windows["frames"], self.set["lowest"])}
