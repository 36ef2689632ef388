"""What FVD and FID share: which pictures of a row's judged clip and of its reference are seen, and where weights are.

torch is imported by what runs: listings need none.
"""

import dataclasses
import functools
import math
import pathlib
from fractions import Fraction
from typing import ClassVar

from avtools import hub
from avtools.errors import FatalError, MediaError, RowError, UsageError
from avtools.metrics.frechet import SIDES, Frechet
from avtools.metrics.media import columns_of

CHOICES = {"pictures": ("shown", "asva"), "resize": ("bilinear", "bicubic")}
_LIMIT = 1 << 30  # bytes of one clip's pictures


class OfPictures(Frechet):
    """The distance of judged pictures from those of their references, none of which need be the judged ones' truths.

    A reference begins at `reference_start` (else `start`, else 0) seconds, and gives as many pictures as the judged clip.
    `resize` to the network's size, whatever that does to the aspect: "bilinear", not antialiased, as the distances were
    first defined; "bicubic", antialiased.

    Protocol asva (Zhang et al. 2024): the first 12 frames at or after k / 6 s of the first 2 s; a reference is first cropped
    to the judged clip's aspect and size; bicubic.  `legacy` frames: with it, the published scorer's shifted picks
    (avtools.models.parts.sync_clips).
    """

    network = True
    released_run = False
    needs = ("picture", "reference_picture")
    requires = (("torch", "torch"),)
    part: ClassVar[hub.Part]

    def __init__(self, **settings):
        super().__init__(**settings)
        for name, known in CHOICES.items():
            if self.set[name] not in known:
                raise UsageError(f"--set {self.name}.{name}={self.set[name]}: {' or '.join(known)}")
        if self.set["fps"] > 1000:
            raise UsageError(f"--set {self.name}.fps={self.set['fps']:g}: 1000 at most")
        self.asva = self.set["pictures"] == "asva"
        if self.set["legacy"] not in ("", "frames"):
            raise UsageError(f"--set {self.name}.legacy={self.set['legacy']}: frames, or nothing")
        if self.set["legacy"] and not self.asva:
            raise UsageError(f"--set {self.name}.legacy={self.set['legacy']}: a form of the protocol asva; give --protocol asva")

    def clips(self, pair, size: int, count: int | None = None) -> dict:
        """Of both sides, (T, 3, size, size): float32 of 0..1 for asva, else uint8; `count` pictures, or (None) all."""
        judged, true = files_of(pair)
        begin = begin_of(pair.row)
        if self.asva:
            made = self._asva(pair, judged, true, begin, size)
        else:
            read = functools.partial(shown, fps=self.set["fps"], size=size, resize=self.set["resize"])
            own = read(judged, 0.0, count)
            made = {"judged": own, "reference": read(true, begin, len(own) if count is None else count)}
        pair.facts[self.name] = {"pictures": len(made["judged"]), "reference_pictures": len(made["reference"])}
        return made

    def _asva(self, pair, judged: str, true: str, begin: float, size: int) -> dict:
        import torch

        from avtools.models.parts.frames import squash
        from avtools.models.parts.sync_clips import read_pictures

        def read(path, start, fit=None):
            kept, index, _ = read_pictures(path, [start], fit, "next", "crop", legacy)
            return kept[index[0]]

        legacy = frozenset(filter(None, [self.set["legacy"]]))  # both metrics see the same pictures, in other sizes
        own = pair.keep(("frechet", judged, legacy), lambda: read(judged, 0.0))
        other = pair.keep(("frechet", judged, true, begin, legacy), lambda: read(true, begin, own.shape[-2:]))
        return {side: squash(torch.from_numpy(clip), size, size).numpy() for side, clip in zip(SIDES, (own, other), strict=True)}

    def weights_file(self, weights: hub.Weights) -> pathlib.Path:
        """The file of weights, given as the metric's, as the part's or alone."""
        found = (weights.get(name) for name in (self.name, self.part.name, "") if weights is not None)
        source = next((source for source in found if source is not None), None)
        if source is None:
            raise FatalError(f"{self.name} needs {self.part.what}; give --weights {self.name}=FILE")
        path = hub.locate(source, dataclasses.replace(self.part, source=source) if source.startswith("hf:") else self.part)
        inside = [path / name for name in self.part.files if (path / name).is_file()]
        if path.is_dir() and not inside:
            raise FatalError(f"{path}: has no {' or '.join(self.part.files)}; give the file")
        return inside[0] if path.is_dir() else path

    def weights_digest(self, weights):
        return hub.digest(self.weights_file(weights))

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "net"}


# --- in the workers -------------------------------------------------------------------------------------------------


def files_of(pair) -> tuple[str, str]:
    """The judged picture and its reference; RowError where only one of them is there: a set is no measure of itself."""
    judged, true = pair.file("video"), pair.file("reference_video")
    if judged == true and not pair.named.get("video"):
        column = next(column for column in columns_of("video", pair.named) if pair.row.get(column) not in (None, ""))
        if column in columns_of("reference_video", pair.named):
            told = "the row has nothing to judge beside its reference; give a column generated_path, or name it with --video-column"
            raise RowError(f"{judged}: {told}")
    return judged, true


def begin_of(row: dict) -> float:
    """Where in the reference its pictures begin, seconds; the column is that of the metrics of synchrony."""
    from avtools.models.avsync.metrics import begin_of

    return begin_of(row)


def shown(path: str, begin: float, count: int | None, fps: float, size: int, resize: str):
    """(T, 3, size, size) uint8: what is shown at `begin` + k / `fps` seconds, or (`fps` 0) each frame from `begin` on.

    `count`: so many of them; None: all, until the clip ends.  RowError where there are fewer.
    """
    import numpy as np

    from avtools.media.container import best_video, check_picture_size, open_input, show
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames

    begin, made = Fraction(begin).limit_denominator(1_000_000), []
    rate = Fraction(fps).limit_denominator(1000)
    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:
            raise MediaError(f"{show(path)}: has no picture; give a video")
        skip_others(container, [stream])
        slack = Fraction(1, 1_000_000) + min(stream.time_base, Fraction(1, 1000))  # times of files are rounded

        def take(frame, until=None):
            """The frame as often as it is shown before `until`."""
            picture = None
            while (count is None or len(made) < count) and (until is None or begin + len(made) / rate + slack < until):
                if picture is None:
                    check_picture_size(container, frame.width, frame.height)
                    picture = resized(frame, size, resize)
                made.append(picture)
                if len(made) * picture.nbytes > _LIMIT:
                    raise MediaError(f"{show(path)}: more than {len(made)} pictures to hold; cut it into shorter clips, or --set a lower fps")
                if until is None:
                    return

        held = None
        for time, frame in shown_frames(container, stream):
            if not rate and time + slack >= begin:
                take(frame)
            elif rate and held is not None:
                take(held, time)
            held = frame
            if count is not None and len(made) >= count:
                break
        else:
            if rate and held is not None:
                last = (held.duration or 0) * held.time_base or 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
                take(held, time + last + slack)
    if not made or (count is not None and len(made) < count):
        told = f"shows {len(made)} pictures from {float(begin):g} s on, and {count or 'one or more'} are judged"
        raise RowError(f"{show(path)}: {told}; leave it out, or give a longer one")
    return np.stack(made)


def resized(frame, size: int, resize: str):
    """A decoded frame, upright -> (3, size, size) uint8."""
    import torch

    from avtools.models.parts.frames import picture_of, squash

    picture = picture_of(frame)
    if resize == "bicubic":
        picture = squash(picture, size, size)
    else:
        picture = torch.nn.functional.interpolate(picture[None], (size, size), mode="bilinear", align_corners=False)[0]
    return (picture * 255).round().clamp(0, 255).byte().numpy()


# --- in the network's process ---------------------------------------------------------------------------------------


def signed(array, device):
    """Pictures (..., 3, H, W), uint8 or float of 0..1 -> float32 of -1..1 on the device."""
    import torch

    from avtools.models.parts import frames

    pictures = torch.from_numpy(array).to(device)
    return frames.signed(pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures)


def batches(items: list, size: int):
    """Consecutive slices of so many."""
    return (items[k * size : (k + 1) * size] for k in range(math.ceil(len(items) / size)))
