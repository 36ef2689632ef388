"""The augmentations by name: what is drawn for each, and from which ranges, and how it is then done.

An operation's parameters are plain numbers and words (they go into a table as JSON), drawn from a generator and from what is to
be augmented alone; with them it can be done again.  Ranges are those of JavisDiT's prior training (Liu et al. 2025,
arXiv:2503.23377) where a docstring says nothing else.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from avtools.errors import RowError

from . import audio as sounds
from . import video as pictures
from .names import GROUPS
from .names import OPERATIONS as NAMES
from .pool import Pools, Stem

STALL = 12  # frames that a stall or a pasted object lasts at least
LEAST = 30  # samples of the shortest sound that can be augmented
FORCED = {"audio-spatial": "add-source", "audio-temporal": "audio-shift"}  # on silence all else changes nothing


class Silent(RowError):
    """There is nothing to hear in what is to be augmented."""


@dataclasses.dataclass
class Clip:
    """What is augmented, and what may be drawn from.

    `video`: (T, H, W, 3) RGB, uint8 or float in [-1, 1]; `audio`: float (samples, channels) at `rate` Hz; either may be None.
    `whole`: all of the sound file of which `audio` is the window that begins at sample `at` (other windows of it are
    drawn; without it the sound is rolled).  `names`: what the sound is called in a pool of stems (its file's name, its key).
    `legacy`: the originals' random mask (cells drawn with replacement, so that fewer are masked) and their absolute
    threshold of silence.
    """

    video: np.ndarray | None = None
    audio: np.ndarray | None = None
    rate: int = 0
    pools: Pools = dataclasses.field(default_factory=Pools)
    names: tuple[str, ...] = ()
    whole: np.ndarray | None = None
    at: int = 0
    legacy: bool = False

    def __post_init__(self):
        if self.video is not None and (self.video.ndim != 4 or self.video.shape[3] != 3 or not len(self.video)):
            raise ValueError(f"a video is (T, H, W, 3), not {self.video.shape}")
        if self.audio is not None and (self.audio.ndim != 2 or self.audio.dtype.kind != "f"):
            raise ValueError(f"a sound is float (samples, channels), not {self.audio.dtype} {self.audio.shape}")

    def sounding(self) -> list[tuple[int, int]]:
        return sounds.sounding(self.audio, self.legacy)


@dataclasses.dataclass(frozen=True)
class Operation:
    """An augmentation: `draw(clip, rng)` gives its parameters (RowError where it cannot be done), `apply(clip, **parameters)`
    the new pictures or the new sound.  `pool`: which of the :class:`.pool.Pools` it needs."""

    name: str
    group: str
    draw: Callable[[Clip, np.random.Generator], dict]
    apply: Callable[..., np.ndarray]
    pool: str | None = None

    @property
    def medium(self) -> str:
        return self.group.partition("-")[0]

    def can(self, clip: Clip) -> bool:
        """Whether the clip has what it works on and what it draws from."""
        return getattr(clip, self.medium) is not None and (self.pool is None or getattr(clip.pools, self.pool) is not None)


OPERATIONS: dict[str, Operation] = {}


def _operation(name: str, apply: Callable):
    def decorate(draw):
        group, _, pool = NAMES[name]
        OPERATIONS[name] = Operation(name, group, draw, apply, pool)
        return draw

    return decorate


def of_group(group: str) -> list[Operation]:
    return [operation for operation in OPERATIONS.values() if operation.group == group]


def augment(name: str, clip: Clip, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """(new pictures or sound, record) of the operation `name`, or of one of the group `name`, drawn uniformly.

    Of a group only operations whose pool there is are drawn; one that changes nothing here (a still picture rolled) is
    drawn anew; silence is left to `FORCED`; and where an item of a pool cannot be read, another of the group comes (the
    random mask for a pasted object) and says so: `instead_of`, `reason`.  The record is {"op": its name,
    parameter: value, ...}.  RowError says why nothing can be done.
    """
    candidates = of_group(name) if name in GROUPS else [OPERATIONS[name]]
    able = [operation for operation in candidates if operation.can(clip)]
    if not able:
        raise RowError(_lack(candidates[0], clip))
    order = [able[k] for k in rng.permutation(len(able))] if len(able) > 1 else able
    if name in FORCED and not clip.sounding():
        order = [operation for operation in order if operation.name == FORCED[name]]
    missed: dict = {}
    reason = f"{name} changes nothing in it; is it a still picture, or silence?"
    while order:
        operation, *order = order
        try:
            parameters = operation.draw(clip, rng)
            made = operation.apply(clip, **parameters)
        except RowError as error:
            if name not in GROUPS:
                raise
            reason = str(error)
            if operation.pool and not missed:  # what a pool should have given
                missed = {"instead_of": operation.name, "reason": reason}
            continue
        if _differ(made, getattr(clip, operation.medium)):
            return made, {"op": operation.name, **parameters, **missed}
    raise RowError(reason)


def _differ(made: np.ndarray, before: np.ndarray) -> bool:
    blocks = range(0, len(made), 1 if made.ndim == 4 else 1 << 16)  # frame by frame: the first difference is enough
    step = blocks.step
    return any(not np.array_equal(made[at : at + step], before[at : at + step]) for at in blocks)


def redo(record: dict, clip: Clip) -> np.ndarray:
    """What a record of :func:`augment` describes, done to `clip` again."""
    parameters = {name: value for name, value in record.items() if name not in ("op", "instead_of", "reason")}
    return OPERATIONS[record["op"]].apply(clip, **parameters)


def _lack(operation: Operation, clip: Clip) -> str:
    if getattr(clip, operation.medium) is None:
        return f"{operation.name} needs a {'picture' if operation.medium == 'video' else 'sound'}, and the row has none"
    return f"{operation.name} draws from a pool; give --{operation.pool} PATH"


# --- pictures, in space ---------------------------------------------------------------------------------


@_operation("random-mask", lambda clip, ratio, cells: pictures.random_mask(clip.video, cells))
def _random_mask(clip, rng):
    """A share U(0.2, 0.8) of the cells; the originals drew them with replacement, which masks less (`legacy`)."""
    _, down, across = pictures.cell_of(clip.video)
    ratio = float(rng.uniform(0.2, 0.8))
    count = max(1, round(ratio * down * across))
    cells = rng.choice(down * across, count, replace=clip.legacy)
    return {"ratio": ratio, "cells": np.unique(cells).tolist()}


def _paste(clip, item, masklet, first, frames, start, scale, x, y):
    found = clip.pools.masklets.load(item)
    if found.path != masklet:
        raise RowError(f"{masklet}: is not number {item} of the pool any more; draw anew")
    return pictures.paste(clip.video, found, first, frames, start, scale, x, y)


@_operation("add-masklet", _paste)
def _add_masklet(clip, rng):
    """For U[max(12, T/10), T] frames; an object that lasts longer than that, else the longest; sized between how it was in its
    own frame and its whole movement filling this one; at a random place and time."""
    pool, (total, height, width) = clip.pools.masklets, clip.video.shape[:3]
    frames = int(rng.integers(min(total, max(STALL, -(-total // 10))), total + 1))
    item, longest = -1, 0
    for number in map(int, pool.numbers(rng)):
        length = pool.length(number)
        if length > longest:
            item, longest = number, length
        if length > frames:
            break
    if not longest:
        raise RowError(f"{pool.path}: its masklets have no frames; make them anew")
    masklet = pool.load(item)
    frames = min(frames, longest)
    # Spans in which it is seen: nearly all
    seen = np.concatenate([[0], np.cumsum(masklet.visible)])
    firsts = np.flatnonzero(seen[frames:] > seen[: len(seen) - frames])
    first, start = int(rng.choice(firsts)), int(rng.integers(total - frames + 1))
    left, top, right, bottom = masklet.extent(first, frames)
    as_it_was = min(width / masklet.size[0], height / masklet.size[1])
    filling = min(width / (right - left), height / (bottom - top))
    scale = float(rng.uniform(*sorted((as_it_was, filling))))
    x, y = (int(rng.integers(max(0, math.floor(room)) + 1)) for room in (width - (right - left) * scale, height - (bottom - top) * scale))
    return {"item": item, "masklet": masklet.path, "first": first, "frames": frames, "start": start, "scale": scale, "x": x, "y": y}


# --- pictures, in time ----------------------------------------------------------------------------------


def _frames(clip, least: int = 2) -> int:
    if len(clip.video) < least:
        raise RowError(f"it has {len(clip.video)} frame; its time cannot be changed with fewer than {least}")
    return len(clip.video)


@_operation("video-shift", lambda clip, frames: pictures.shift(clip.video, frames))
def _video_shift(clip, rng):
    """By U[T/10, T/2) frames."""
    return {"frames": _roll(_frames(clip), rng)}


@_operation("stall", lambda clip, start, frames: pictures.stall(clip.video, start, frames))
def _stall(clip, rng):
    """For U[12, T] frames, all of which are inside of the clip (the originals' start may be its last frame, which changes nothing)."""
    total = _frames(clip)
    frames = int(rng.integers(STALL if total > STALL else max(2, total // 2), total + 1))
    return {"start": int(rng.integers(total - frames + 1)), "frames": frames}


def _roll(total: int, rng) -> int:
    least = max(1, -(-total // 10))
    return int(rng.integers(least, max(least + 1, -(-total // 2))))


# --- sounds, in space -----------------------------------------------------------------------------------


def _samples(clip) -> int:
    if len(clip.audio) < LEAST:
        raise RowError(f"its sound has {len(clip.audio)} samples; fewer than {LEAST} cannot be augmented")
    return len(clip.audio)


def _long(clip, rng) -> int:
    total = _samples(clip)
    return int(rng.integers(-(-total // 3), total - 10 + 1))


def _short(clip, rng) -> int:
    total = _samples(clip)
    return int(rng.integers(-(-total // 5), total // 2 + 1))


def _start(clip, length: int, rng, behind: int = 0) -> int:
    """Where a segment that is not silent may begin: in a sounding tenth of the clip; `behind` it there are so many samples at least."""
    runs, last = clip.sounding(), len(clip.audio) - length - behind
    if not runs:
        raise Silent("its sound is silent; there is nothing to change in it")
    spans = [(low, min(high, last + 1)) for low, high in runs if low <= last]
    if not spans:
        return last  # what sounds is all behind: the segment reaches to the end
    at = int(rng.integers(sum(high - low for low, high in spans)))
    for low, high in spans:
        if at < high - low:
            break
        at -= high - low
    return low + at


def _segment(clip, rng, length: int, behind: int = 0) -> dict:
    return {"start": _start(clip, length, rng, behind), "length": length}


def _stem_part(clip, stem, rate, begin, end, length):
    return Stem(stem, rate, ()).read(begin, end, clip.rate)[:length]


def _add(clip, stem, stem_rate, begin, end, start, length):
    return sounds.add(clip.audio, _stem_part(clip, stem, stem_rate, begin, end, length), start)


@_operation("add-source", _add)
def _add_source(clip, rng):
    """Of U[n/3, n - 10] samples, or as long as the source sounds; anywhere in the clip, which may be silent."""
    total, length = _samples(clip), _long(clip, rng)
    stem = clip.pools.stems.sounding(rng, clip.names)
    if stem is None:
        raise RowError(f"{clip.pools.stems.path}: none of its sounds is active anywhere; separate others")
    low, high = stem.active[rng.integers(len(stem.active))]
    taken = max(1, min(high - low, math.ceil(length * stem.rate / clip.rate)))
    length = max(1, min(length, math.ceil(taken * clip.rate / stem.rate)))
    begin = low + int(rng.integers(high - low - taken + 1))
    start = int(rng.integers(total - length + 1))
    return {"stem": stem.path, "stem_rate": stem.rate, "begin": begin, "end": begin + taken, "start": start, "length": length}


def _delete(clip, start, length, stem=None, stem_rate=None, begin=None, end=None):
    source = None if stem is None else _stem_part(clip, stem, stem_rate, begin, end, length)
    return sounds.delete(clip.audio, source, start, length)


@_operation("delete-source", _delete)
def _delete_source(clip, rng):
    """For U[n/3, n - 10] samples: the stem of this sound that is active all the time, else everything."""
    made = _segment(clip, rng, _long(clip, rng))
    low = clip.at + made["start"]
    covering = []
    for stem in clip.pools.stems.of(clip.names) if clip.pools.stems else ():
        begin, end = math.floor(low * stem.rate / clip.rate), math.ceil((low + made["length"]) * stem.rate / clip.rate)
        if any(start <= begin and end <= stop for start, stop in stem.active):
            covering.append({"stem": stem.path, "stem_rate": stem.rate, "begin": begin, "end": end})
    return {**made, **covering[rng.integers(len(covering))]} if covering else made


@_operation("volume", lambda clip, start, length, gain, shape: sounds.volume(clip.audio, start, length, gain, shape))
def _volume(clip, rng):
    """For U[n/3, n - 10] samples: U(0.5, 2) times a curve of `audio.CURVES`."""
    made = _segment(clip, rng, _long(clip, rng))
    return {**made, "gain": float(rng.uniform(0.5, 2)), "shape": sounds.CURVES[rng.integers(len(sounds.CURVES))]}


# --- sounds, in time ------------------------------------------------------------------------------------


def _shift(clip, samples=None, window=None):
    return sounds.shift(clip.audio, samples) if window is None else sounds.window(clip.whole, window, len(clip.audio))


@_operation("audio-shift", _shift)
def _audio_shift(clip, rng):
    """Another window of the file, n/10 or more away; where it has none, rolled by U[n/10, n/2) samples.

    The originals fail for a window at the file's end and draw distances near zero.
    """
    total = _samples(clip)
    least = max(1, -(-total // 10))
    last = 0 if clip.whole is None else len(clip.whole) - total
    before, after = max(0, min(clip.at - least, last) + 1), max(0, last - (clip.at + least) + 1)
    if before + after:
        at = int(rng.integers(before + after))
        return {"window": at if at < before else clip.at + least + at - before}
    if not clip.sounding():
        raise Silent("its sound is silent, and its file has no other part; there is nothing to shift")
    return {"samples": _roll(total, rng)}


@_operation("mute", lambda clip, start, length: sounds.mute(clip.audio, start, length))
def _mute(clip, rng):
    """Of U[n/5, n/2] samples."""
    return _segment(clip, rng, _short(clip, rng))


@_operation("repeat", lambda clip, start, length: sounds.repeat(clip.audio, start, length))
def _repeat(clip, rng):
    """Of U[n/5, n/2] samples; it ends n/20 or more before the end (repeated there, the originals' changes nothing)."""
    return _segment(clip, rng, _short(clip, rng), -(-_samples(clip) // (2 * sounds.BLOCKS)))


def _speed_up(clip, start, length, factor):
    end = clip.at + len(clip.audio)
    return sounds.speed(clip.audio, start, length, factor, None if clip.whole is None else clip.whole[end : end + length])


@_operation("speed", _speed_up)
def _speed(clip, rng):
    """Of U[n/5, n/2] samples."""
    return {**_segment(clip, rng, _short(clip, rng)), "factor": (0.5, 2.0)[rng.integers(2)]}
