"""Buckets: a resolution and a number of pictures that a batch's clips share (spec JavisDiT models, section 1, "Buckets").

A row goes into the largest resolution whose pictures it has at least 0.8 times as many pixels as, and there into the greatest length
that it has; each may be refused by a draw.  Unlike the original, where the draws refuse all, a row goes into the last one that it fits, and a
batch that an epoch does not fill goes on with the next: no row is lost.  What fits none is told by :func:`Buckets.left_out`.
"""

import collections
import dataclasses
import difflib
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from avtools.errors import RowError, UsageError
from avtools.rows.keys import PLACEHOLDER, number
from avtools.training.data import Shuffled
from avtools.training.draws import draw_of

#: Pixels of the resolutions, those of 16:9 but for squares.
PIXELS = {"144p": 144 * 256, "256": 256 * 256, "240p": 240 * 426, "360p": 360 * 640, "512": 512 * 512, "480p": 480 * 854, "720p": 720 * 1280, "1024": 1024 * 1024}
#: Heights by widths of a resolution's pictures.
ASPECTS = (3 / 8, 3 / 7, 12 / 25, 1 / 2, 8 / 15, 27 / 50, 9 / 16, 5 / 8, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 16 / 9, 17 / 9, 2.0, 25 / 12)
ENOUGH = 0.8  # of a resolution's pixels
SLACK = 0.02  # seconds of a clip that decimals and the last frame's duration may be short of
SAMPLE = 4096  # rows, at least, of which the average batch is taken
LENGTHS = {"2s": 51, "4s": 102, "8s": 204, "16s": 408}  # of 24 pictures a second, in whole chunks of the codec


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A resolution and a length."""

    name: str  # of the resolution
    pixels: int
    frames: int
    accepts: float  # share of the rows that fit and come here that stay
    considers: float  # share of the rows that fit for which this length counts
    batch: int  # items; 0: as many as train.batch_size says


class Place(NamedTuple):
    """What the items of a batch have in common."""

    bucket: int  # its number in :class:`Buckets`
    aspect: int  # in :data:`ASPECTS`; of sound alone 0
    cached: bool  # features


def nearest(aspect: float) -> int:
    """The number of the nearest of the aspects (height by width)."""
    return min(range(len(ASPECTS)), key=lambda one: abs(math.log(ASPECTS[one] / aspect)))


def size_of(pixels: int, aspect: int, multiple: int = 2) -> tuple[int, int]:
    """(height, width) of about so many pixels in one of the aspects, each a multiple."""
    return tuple(max(multiple, round(math.sqrt(pixels * share) / multiple) * multiple) for share in (ASPECTS[aspect], 1 / ASPECTS[aspect]))


def resolution(name: str) -> int:
    """Pixels of a resolution: one of :data:`PIXELS`, or HEIGHTxWIDTH; UsageError: neither."""
    if name in PIXELS:
        return PIXELS[name]
    height, _, width = name.partition("x")
    if height.isdecimal() and width.isdecimal() and int(height) * int(width):
        return int(height) * int(width)
    near = difflib.get_close_matches(name, PIXELS, 1)
    raise UsageError(f"buckets: no resolution {name!r}{f'; did you mean {near[0]!r}?' if near else ''} ({', '.join(PIXELS)}, or HEIGHTxWIDTH)")


def frames_of(name: str) -> int:
    """A number of pictures, or one of :data:`LENGTHS`."""
    if name in LENGTHS:
        return LENGTHS[name]
    if not name.isdecimal() or not int(name):
        raise UsageError(f"buckets: {name!r} is no length; give a number of pictures, or one of {', '.join(LENGTHS)}")
    return int(name)


class Buckets:
    """Those of a configuration: resolution -> length -> [gate, batch], a gate being a share or the pair of both.

    `fps`: pictures a second.  `heard`: rows need a sound alone, and have no picture to be too small.
    """

    def __init__(self, table: dict, fps: float, heard: bool = False):
        self.fps, self.heard, found = fps, heard, []
        for name, lengths in table.items():
            if not isinstance(lengths, dict) or not lengths:
                raise UsageError(f"buckets: {name}: give lengths, as {{'51': [1.0, 16]}}")
            found += [_bucket(name, length, told) for length, told in lengths.items()]
        if not found:
            raise UsageError("buckets: there are none; give one at least")
        self.all: list[Bucket] = sorted(found, key=lambda one: (-one.pixels, one.name, -one.frames))
        if len({(one.name, one.frames) for one in self.all}) < len(self.all):
            raise UsageError("buckets: one is told twice")
        self._facts: list[tuple] = []  # (table, facts of its rows) of the last tables: one to train, one to validate on

    def __getitem__(self, place: int) -> Bucket:
        return self.all[place]

    def seconds(self, place: int) -> float:
        return self.all[place].frames / self.fps

    # --- which ---------------------------------------------------------------------------------------------------

    def fitting(self, seconds: float, pixels: float) -> list[int]:
        """The places of all buckets that a clip is long and large enough for, the largest first, then the longest."""
        return [
            place for place, one in enumerate(self.all)
            if (self.heard or pixels >= ENOUGH * one.pixels) and seconds + SLACK >= one.frames / self.fps
        ]  # fmt: skip

    def choose(self, seconds: float, pixels: float, draw: int) -> int | None:
        """The place of a clip with this draw; None where it fits none."""
        places, refused = self.fitting(seconds, pixels), None
        for place in places:
            one = self.all[place]
            if one.name == refused:
                continue
            if draw_of(draw, one.name, one.frames, "length") / 2**63 >= one.considers:
                continue
            if draw_of(draw, one.name, "resolution") / 2**63 < one.accepts:
                return place
            refused = one.name
        return places[-1] if places else None

    def why(self, seconds: float, pixels: float) -> str | None:
        """Why a clip fits no bucket; None where it fits one."""
        if self.fitting(seconds, pixels):
            return None
        if self.heard and not math.isfinite(seconds):
            return "fits no bucket: its audio_duration is unknown; run 'avtools probe' first"
        if not (math.isfinite(seconds) and math.isfinite(pixels)) and not self.heard:
            return "fits no bucket: its picture is a placeholder, or its duration, width or height unknown; run 'avtools probe' first"
        shortest, smallest = min(one.frames for one in self.all) / self.fps, min(one.pixels for one in self.all)
        if seconds + SLACK < shortest:
            return f"fits no bucket: {seconds:.2f} s, and the shortest is of {shortest:.2f} s"
        if not self.heard and pixels < ENOUGH * smallest:
            return f"fits no bucket: {pixels:.0f} pixels, and the smallest is of {smallest} ({ENOUGH:g} of them at least)"
        return "fits no bucket: it is too short for those that it is large enough for"

    # --- tables --------------------------------------------------------------------------------------------------

    def facts(self, rows) -> np.ndarray:
        """(rows, 4): seconds, pixels, whether its features are cached, aspect; NaN where a table does not tell."""
        found = next((facts for table, facts in self._facts if table is rows), None)
        if found is None:
            found = np.array([measures(rows[k], self.heard) for k in range(len(rows))], np.float64).reshape(-1, 4)
            self._facts = [*self._facts[-1:], (rows, found)]
        return found

    def left_out(self, rows) -> list[tuple[int, str]]:
        found = ((number, self.why(seconds, pixels)) for number, (seconds, pixels, *_) in enumerate(self.facts(rows)))
        return [(number, why) for number, why in found if why is not None]

    def place_of(self, facts, draw: int | None = None) -> Place | None:
        """Where a row of these facts goes with this draw; with None, or cached features: the first bucket that it fits (see :meth:`first`)."""
        seconds, pixels, cached, aspect = facts
        bucket = self.first(seconds, pixels) if cached or draw is None else self.choose(seconds, pixels, draw)
        return None if bucket is None else Place(bucket, nearest(aspect) if math.isfinite(aspect) else 0, bool(cached))

    def first(self, seconds: float, pixels: float) -> int | None:
        """The largest, then longest bucket that a clip fits and that not all draws refuse."""
        places = self.fitting(seconds, pixels)
        return next((place for place in places if self.all[place].accepts > 0 and self.all[place].considers > 0), places[-1] if places else None)

    def batches(self, rows, seed: int, size: int) -> Iterator[list[tuple[int, int, Place]]]:
        """Batches without end: rows in the shuffled order of each epoch go to their buckets, and a full one is a batch."""
        facts = self.facts(rows)
        if all(self.why(*one[:2]) is not None for one in facts):
            raise UsageError(f"no row fits a bucket (row 1: {self.why(*facts[0][:2])}); change buckets, or the table")
        order, waiting, at = Shuffled(len(facts), seed), collections.defaultdict(list), 0
        while True:
            epoch, row = order[at]
            at += 1
            place = self.place_of(facts[row], draw_of(seed, "bucket", epoch, row))
            if place is None:
                continue
            waiting[place].append((epoch, row, place))
            if len(waiting[place]) == self.count(place, size):
                yield waiting.pop(place)

    def count(self, place: Place, size: int) -> int:
        return self.all[place.bucket].batch or size

    def mean(self, rows, seed: int, size: int) -> float:
        """Rows that a batch takes of an epoch on average, over the first epoch, of small tables several; rows left out pass, too."""
        facts, counts = self.facts(rows), collections.Counter()
        epochs = max(1, SAMPLE // len(facts))
        for epoch in range(epochs):
            counts.update(self.place_of(one, draw_of(seed, "bucket", epoch, row)) for row, one in enumerate(facts))
        batches = sum(count / self.count(place, size) for place, count in counts.items() if place is not None)
        return epochs * len(facts) / batches if batches else size

    def substitute(self, rows, drawn: int, place: Place) -> int:
        """A row that may stand there: the next one from a drawn number on that fits the bucket in the same aspect, else in any."""
        facts = self.facts(rows)
        for same in (True, False):
            for step in range(len(facts)):
                number = (drawn + step) % len(facts)
                seconds, pixels, _, _ = facts[number]
                own = self.place_of(facts[number])
                fits = own == place if place.cached else own is not None and not own.cached and place.bucket in self.fitting(seconds, pixels)
                if fits and (own.aspect == place.aspect or not same):
                    return number
        return drawn % len(facts)

    def valid(self, rows, size: int) -> list[list[tuple[int, int, Place]]]:
        """The batches of a validation: each row in the first bucket that it fits."""
        groups = collections.defaultdict(list)
        for row, facts in enumerate(self.facts(rows)):
            if (place := self.place_of(facts)) is not None:
                groups[place].append((0, row, place))
        return [group[k : k + size] for _, group in sorted(groups.items()) for k in range(0, len(group), size)]


def measures(row: dict, heard: bool) -> tuple[float, float, float, float]:
    """(seconds, pixels, 1 where features are cached, height by width) that a row tells; NaN: unknown.  A placeholder has no picture."""

    def told(*columns: str) -> float:
        for column in columns:
            try:
                value = number(row, column)
            except RowError:
                continue
            if value is not None and value > 0:
                return value
        return math.nan

    cached = float(bool(row.get("features_path")))
    sound = told("audio_duration", "audio_length_s")
    if heard:
        return (sound if math.isfinite(sound) else told("duration")), math.nan, cached, math.nan
    if os.path.basename(str(row.get("path") or row.get("video_path") or PLACEHOLDER)) == PLACEHOLDER:
        return math.nan, math.nan, cached, math.nan
    seconds, width, height = told("duration"), told("width"), told("height")
    if not math.isfinite(seconds):
        seconds = told("num_frames") / told("fps")
    return (min(seconds, sound) if math.isfinite(sound) else seconds), width * height, cached, height / width


def _bucket(name: str, length: str, told) -> Bucket:
    try:
        gate, batch = told
        accepts, considers = gate if isinstance(gate, list | tuple) else (gate, 1.0)
        batch = 0 if batch is None else batch
        if not (0 <= accepts <= 1 and 0 <= considers <= 1) or not isinstance(batch, int) or batch < 0:
            raise ValueError
    except (TypeError, ValueError):
        raise UsageError(f"buckets: {name}, {length}: {told!r} is no [share, batch] or [[share, share of the length], batch]") from None
    return Bucket(str(name), resolution(str(name)), frames_of(str(length)), float(accepts), float(considers), batch)
