"""Whether each part of a picture shows its own source: regions of videos made from several sounds, judged by ImageBind or CLIP."""

import collections
import dataclasses
import json

from avtools.errors import MediaError, RowError, UsageError
from avtools.metrics import Metric, Skip
from avtools.metrics.media import read_sound
from avtools.metrics.pictures import LIMIT, Clip, Frame, Pictures, Watch
from avtools.models.judges.bind import CLIPS, LEAST, RATE, BindFrames, BindSound, clip_bounds, cosines
from avtools.models.judges.similarity import ClipPicture, ClipText
from avtools.models.maestro.regions import Regions, box_at, of_row

SIZE = 224
MODELS = ("imagebind", "clip")
SILENCE = 1e-4  # RMS of full scale (-80 dB), below which a stem is nothing to agree with


@dataclasses.dataclass(frozen=True)
class Parts(Watch):
    """Of each picture that `pictures` names, the boxes of all regions: uint8 (T, S, height, width, 3), each fitted as `pictures` says."""

    regions: Regions
    pictures: Pictures

    def begin(self, clip: Clip):
        return _Parts(self, clip)


class _Parts:
    def __init__(self, spec: Parts, clip: Clip):
        self.spec, self.path, self.made = spec, clip.path, []
        self.times = collections.Counter(spec.pictures.picks(clip)[0])  # how often each frame is shown

    def add(self, number: int, frame: Frame) -> None:
        import numpy as np

        from avtools.media.container import show

        if number in self.times:
            self.made += [np.stack([self.spec.pictures.fitted(part) for part in boxes_of(frame.rgb, self.spec.regions, number)])] * self.times[number]
            if len(self.made) * self.made[0].nbytes > LIMIT:
                raise MediaError(f"{show(self.path)}: more than {len(self.made)} pictures to hold; cut it into shorter clips")

    def result(self):
        import numpy as np

        return np.stack(self.made)


def boxes_of(rgb, regions: Regions, frame: int) -> list:
    """Each source's box of a picture (H, W, 3), a pixel at least."""
    height, width = rgb.shape[:2]
    made = []
    for track in regions.hard:
        box = box_at(track, frame)
        (left, right), (top, bottom) = (
            (low := min(round(begin * size), size - 1), max(round(end * size), low + 1))
            for begin, end, size in ((box.left, box.right, width), (box.top, box.bottom, height))
        )
        made.append(rgb[top:bottom, left:right])
    return made


def agreement(matrix) -> dict[str, float]:
    """Cosines (S, S) of regions and sources -> the columns without their suffix: what two sources lose when they are exchanged."""
    own, count = matrix.diagonal(), len(matrix)
    gains = [(own[a] + own[b] - matrix[a, b] - matrix[b, a]) / 2 for b in range(count) for a in range(b)]
    return {
        "region_agreement": sum(1.0 if gain > 0 else 0.5 if gain == 0 else 0.0 for gain in gains) / len(gains),
        "region_gain": float(sum(gains) / len(gains)),
        "region_own": float(own.mean()),
        "region_other": float((matrix.sum() - own.sum()) / (count * (count - 1))),
    }


class RegionAgreement(Metric):
    """Whether each region of a picture agrees with its own source more than with the others'.

    Rows have `stem_paths`, `queries` and `layout` or `boxes` as `sample maestro` writes them (JSON lists, a source each).  A
    region is its box of a picture, all of it amid black (`fit` pad; crop: the middle, squash: whatever that does to its aspect), of
    what is shown at k / `fps` s.  A region's agreement with a source is the mean over pictures of their cosine.

    `model` imagebind: with the source's whole stem, the mean over `clips` clips of 2 s, evenly spaced from its begin to its end.
    clip: with the source's query.  Rows with one source are skipped, and with imagebind those with a silent stem.
    """

    name = "region-agreement"
    title = "share of pairs of sources whose regions agree with them more than with each other's sources"
    source = "avtools; ImageBind: Girdhar et al. 2023 (arXiv:2305.05665), CLIP: Radford et al. 2021 (arXiv:2103.00020)"
    columns = {
        "region_agreement": "share of pairs of sources for which the sum of cosines falls when they are exchanged, 0 to 1; equal ones count half",
        "region_gain": "mean over these pairs of what it falls by, divided by 2: cosine, -2 to 2",
        "region_own": "mean cosine of regions and their own sources, -1 to 1",
        "region_other": "mean cosine of regions and the other sources, -1 to 1",
    }
    ranges = {"region_agreement": (0.0, 1.0), "region_gain": (-2.0, 2.0), "region_own": (-1.0, 1.0), "region_other": (-1.0, 1.0)}
    direction = "higher"
    chance = 0.5
    chance_how = "the exchanged assignment is as likely: 0.5 for any number of sources (region_gain: 0)"
    needs = ("picture",)
    settings = {"model": "imagebind", "fps": 2.0, "fit": "pad", "clips": CLIPS}
    variants = MODELS
    requires = tuple(dict.fromkeys((*BindFrames.requires, *ClipPicture.requires, *ClipText.requires)))
    resampler = BindSound.resampler
    network = True
    released_run = False
    parts = (*BindFrames.parts, *ClipPicture.parts)

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.set["model"] not in MODELS:
            raise UsageError(f"--set {self.name}.model={self.set['model']}: {' or '.join(MODELS)}")
        if self.set["fit"] not in ("pad", "crop", "squash"):
            raise UsageError(f"--set {self.name}.fit={self.set['fit']}: pad, crop or squash")
        if not self.set["clips"]:
            raise UsageError(f"--set {self.name}.clips=0: 1 or more")
        if not 0 <= self.set["fps"] <= 1000:
            raise UsageError(f"--set {self.name}.fps={self.set['fps']:g}: 0 (each frame) to 1000")
        self.pictures = Pictures(fps=self.set["fps"], size=(SIZE, SIZE), fit=self.set["fit"])
        self.nets = None

    # --- in a worker

    def prepare(self, pair):
        import numpy as np

        hears = self.set["model"] == "imagebind"
        names = listed(pair.row, "queries")
        sources = listed(pair.row, "stem_paths") if hears else names
        if not sources and not names:
            raise RowError("has neither stem_paths nor queries, which tell its sources; 'avtools sample maestro' writes them")
        if len(sources or names) < 2:
            raise Skip("one source has no other that it could be exchanged with")
        if not sources:
            raise RowError(f"has queries, and no stem_paths to hear; 'avtools separate' writes stems, or judge it by {type(self).name}:clip")
        regions = of_row(pair.row, sources)
        found = [self._heard(path) for path in sources] if hears else [np.frombuffer(text.encode("utf-8", "replace"), np.uint8) for text in sources]
        parts = pair.watched("video", Parts(regions, self.pictures))
        pair.facts[self.name] = {"pictures": len(parts), "sources": len(sources)}
        return {"parts": parts, **{f"source {k}": one for k, one in enumerate(found)}}

    def _heard(self, path: str):
        """Clips of a stem, (K, n) float32 at 16 kHz."""
        import numpy as np
        import soxr

        sound = read_sound(path)
        mono = np.ascontiguousarray(sound.mono, np.float32)
        mono = mono if sound.rate == RATE else soxr.resample(mono, sound.rate, RATE)
        if len(mono) < LEAST:
            raise Skip("a stem is too short for a spectrum")
        if np.sqrt(np.square(mono, dtype=np.float64).mean()) < SILENCE:
            raise Skip("a stem is silent")
        return np.stack([mono[begin:end] for begin, end in dict.fromkeys(clip_bounds(len(mono), self.set["clips"]))])

    def row(self, item):
        return agreement(item["cosines"])

    # --- the networks

    @property
    def _of(self):
        """The networks of pictures and of sources."""
        return (BindFrames(), BindSound(clips=self.set["clips"])) if self.set["model"] == "imagebind" else (ClipPicture(size=SIZE), ClipText())

    @property
    def weights_names(self):
        return (self.name, *(part.name for part in self._of[0].parts))

    def load(self, device, weights):
        self.nets = self._of
        for net in self.nets:
            net.load(device, self._named(weights))

    def weights_digest(self, weights):
        return self._of[0].weights_digest(self._named(weights))

    def _named(self, weights):
        """The weights, what is called after the metric being those of its network."""
        own = weights.get(type(self).name) if weights is not None else None
        return weights if own is None else dataclasses.replace(weights, sources={**weights.sources, self._of[0].parts[0].name: own})

    def run(self, items):
        pictures, sources = self.nets
        key = "clips" if self.set["model"] == "imagebind" else "text"
        counts = [len(item) - 1 for item in items]
        heard = iter(sources.run([{key: item[f"source {k}"]} for item, count in zip(items, counts, strict=True) for k in range(count)]))
        made = []
        for item, count in zip(items, counts, strict=True):
            seen = pictures.run([{"pictures": item["parts"].reshape(-1, *item["parts"].shape[2:])}])[0]["embedding"]
            seen = seen.reshape(-1, count, 1, seen.shape[-1])
            made.append({"cosines": cosines(seen, [next(heard)["embedding"][0] for _ in range(count)]).mean(0)})
        return made

    def __getstate__(self):
        return {**self.__dict__, "nets": None}


def listed(row: dict, column: str) -> tuple[str, ...]:
    """The texts of a JSON list, none of an empty cell; RowError where it holds something else."""
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = {}
    if value is None or value == "":
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() and "\0" not in one for one in value):
        raise RowError(f"column {column}: is no JSON list of texts, of each source one, as 'avtools sample maestro' writes it")
    return tuple(value)
