"""Buckets: a resolution and a number of pictures that a batch's clips share (spec JavisDiT models, section 1, "Buckets").

A row goes into the largest resolution whose pictures it has at least 0.8 times as many pixels as, and there into the greatest length
that it has; each may be refused by a draw.  Unlike the original, where the draws refuse all, a row goes into the last one that it fits, and a
batch that an epoch does not fill goes on with the next: no row is lost.  What fits none is told by :func:`Buckets.left_out`.

A run that goes on makes the batches of its order anew from the first: about 3 seconds for each million items that it has
trained on, and 10 to read what a table of a million rows says of them.
"""

import collections
import dataclasses
import difflib
import itertools
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
#: Heights by widths of a resolution's pictures: 17, as published; which ones is known of OpenSora's tables, which name them in two decimals.
#: Sides are computed of them, and may be a few pixels off those of the tables.
ASPECTS = (3 / 8, 3 / 7, 12 / 25, 1 / 2, 8 / 15, 27 / 50, 9 / 16, 5 / 8, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 16 / 9, 17 / 9, 2.0, 25 / 12)
_BETWEEN = np.log(ASPECTS[1:]) / 2 + np.log(ASPECTS[:-1]) / 2
ENOUGH = 0.8  # of a resolution's pixels
SLACK = 0.02  # seconds of a clip that decimals and the last frame's duration may be short of
EARLY = 0.1  # seconds before its picture's end that a sound may end: encoders know whole blocks alone, and silence fills the rest
PART = 1 << 18  # rows that are looked at together
GOLDEN = 0x9E3779B97F4A7C15
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
    raise UsageError(f"no resolution {name!r}{f'; did you mean {near[0]!r}?' if near else ''} ({', '.join(PIXELS)}, or HEIGHTxWIDTH)")


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
        if len({(one.name, one.frames) for one in found}) < len(found):
            raise UsageError("buckets: one is told twice")
        self.all: list[Bucket] = sorted((one for one in found if one.accepts > 0 and one.considers > 0), key=lambda one: (-one.pixels, one.name, -one.frames))
        if not self.all:
            raise UsageError("buckets: each has a share of 0, so there are none; give one more")
        self._levels: list[list[int]] = [list(same) for _, same in itertools.groupby(range(len(self.all)), lambda place: self.all[place].name)]
        self._facts: list[tuple] = []  # (table, facts of its rows) of the last tables: one to train, one to validate on

    def __getitem__(self, place: int) -> Bucket:
        return self.all[place]

    def seconds(self, place: int) -> float:
        return self.all[place].frames / self.fps

    # --- which ---------------------------------------------------------------------------------------------------

    def fits(self, facts: np.ndarray) -> np.ndarray:
        """(rows, buckets) bool: which of them clips of these (rows, seconds and pixels ...) are long and large enough for."""
        seconds, pixels = facts[:, 0, None] + SLACK, facts[:, 1, None]
        long = seconds >= np.array([one.frames / self.fps for one in self.all])
        return long if self.heard else long & (pixels >= np.array([ENOUGH * one.pixels for one in self.all]))

    def chosen(self, facts: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """(rows,) the buckets of clips with these draws, (rows,) uint64; -1 where one fits none."""
        fits, found = self.fits(facts), np.full(len(facts), -1)
        for level, places in enumerate(self._levels):
            longest = np.full(len(facts), -1)  # of the lengths that count
            for place in places:
                considers = self.all[place].considers
                counts = fits[:, place] if considers == 1 else fits[:, place] & (_shares(draws, place) < considers)
                longest[counts & (longest < 0)] = place
            accepts = np.array([one.accepts for one in self.all])[longest]
            taken = (found < 0) & (longest >= 0) & (_shares(draws, len(self.all) + level) < accepts)
            found[taken] = longest[taken]
        left = (found < 0) & fits.any(1)
        found[left] = len(self.all) - 1 - fits[left, ::-1].argmax(1)  # the last one
        return found

    def firsts(self, facts: np.ndarray) -> np.ndarray:
        """(rows,) the largest, then longest buckets that clips fit; -1 where one fits none."""
        fits = self.fits(facts)
        return np.where(fits.any(1), fits.argmax(1), -1)

    def why(self, seconds: float, pixels: float) -> str | None:
        """Why a clip fits no bucket; None where it fits one."""
        if self.fits(np.array([[seconds, pixels]])).any():
            return None
        if self.heard and not math.isfinite(seconds):
            return "fits no bucket: its audio_duration is unknown; run 'avtools probe' first"
        if not self.heard and not pixels:  # see measures
            return "fits no bucket: it has no picture (a placeholder), and javisdit-audio alone trains on such rows; drop it, or give it a video"
        if not (math.isfinite(seconds) and math.isfinite(pixels)) and not self.heard:
            return "fits no bucket: its duration, width or height is unknown; run 'avtools probe' first"
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
        facts = self.facts(rows)
        return [(int(number), self.why(*facts[number, :2])) for number in np.flatnonzero(~self.fits(facts).any(1))]

    def places(self, facts: np.ndarray, seed: int = 0, epoch: int | None = None) -> np.ndarray:
        """(rows, 3): bucket (-1: none), aspect and whether features are cached, of rows in this epoch; without one, or with cached features:
        the first bucket that a row fits (:meth:`firsts`)."""
        cached, aspects = facts[:, 2] > 0, facts[:, 3]
        bucket = np.empty(len(facts), np.int64)
        for k in range(0, len(facts), PART):
            part = facts[k : k + PART]
            if epoch is None:
                bucket[k : k + PART] = self.firsts(part)
                continue
            draws = _mixed(np.uint64(draw_of(seed, "bucket", epoch)) + np.arange(k, k + len(part), dtype=np.uint64) * np.uint64(GOLDEN))
            bucket[k : k + PART] = np.where(cached[k : k + PART], self.firsts(part), self.chosen(part, draws))
        return np.stack([bucket, np.where(np.isfinite(aspects), np.searchsorted(_BETWEEN, np.log(aspects)), 0), cached], 1)

    def place_of(self, facts) -> Place | None:
        """Where a row of these facts goes by itself, see :meth:`places`; None: nowhere."""
        bucket, aspect, cached = self.places(np.array([facts], np.float64))[0]
        return None if bucket < 0 else Place(int(bucket), int(aspect), bool(cached))

    def batches(self, rows, seed: int, size: int) -> Iterator[list[tuple[int, int, Place]]]:
        """Batches without end: rows in the shuffled order of each epoch go to their buckets, and a full one is a batch."""
        facts = self.facts(rows)
        self._check(facts)
        order, waiting = Shuffled(len(facts), seed), collections.defaultdict(list)
        for epoch in itertools.count():
            places = self.places(facts, seed, epoch)
            for at in range(0, len(facts), PART):
                numbers = [order[epoch * len(facts) + k][1] for k in range(at, min(at + PART, len(facts)))]
                for row, told in zip(numbers, map(tuple, places[numbers].tolist()), strict=True):
                    if told[0] < 0:
                        continue
                    waiting[told].append((epoch, row))
                    if len(waiting[told]) == (self.all[told[0]].batch or size):
                        place = Place(told[0], told[1], bool(told[2]))
                        yield [(*one, place) for one in waiting.pop(told)]

    def mean(self, rows, seed: int, size: int) -> float:
        """Rows that a batch takes of an epoch on average, over the first epoch, of small tables several; rows left out pass, too."""
        facts, batches = self.facts(rows), 0.0
        epochs = max(1, SAMPLE // len(facts))
        for epoch in range(epochs):
            buckets, counts = np.unique(self.places(facts, seed, epoch)[:, 0], return_counts=True)
            batches += sum(count / (self.all[bucket].batch or size) for bucket, count in zip(buckets, counts, strict=True) if bucket >= 0)
        return epochs * len(facts) / batches if batches else size

    def substitute(self, rows, drawn: int, place: Place) -> int:
        """A row that may stand there: the next one from a drawn number on that fits the bucket in the same aspect, else in any."""
        facts = self.facts(rows)
        places = self.places(facts)
        fits = (places == place).all(1) if place.cached else self.fits(facts)[:, place.bucket] & (places[:, 2] == 0)
        for those in (np.flatnonzero(fits & (places[:, 1] == place.aspect)), np.flatnonzero(fits)):
            if len(those):
                return int(those[np.searchsorted(those, drawn % len(facts)) % len(those)])
        return drawn % len(facts)

    def largest(self, rows, size: int) -> list[tuple[int, int, Place]]:
        """The batch with the most pixels (of sound alone: seconds) that rows of this table can make, full, of the first rows that fit there."""
        facts = self.facts(rows)
        self._check(facts)
        places, fits = self.places(facts), self.fits(facts)
        cached = (facts[:, 2] > 0) & fits.any(1)
        fits[cached] = np.arange(len(self.all)) == places[cached, :1]  # see places
        counts = [one.batch or size for one in self.all]
        costs = np.array([(1 if self.heard else one.pixels) * one.frames * count for one, count in zip(self.all, counts, strict=True)], np.float64)
        bucket = int(np.where(fits.any(0), costs, -1).argmax())
        first = places[fits[:, bucket].argmax(), 1:]
        alike = np.flatnonzero(fits[:, bucket] & (places[:, 1:] == first).all(1))
        return [(0, int(alike[k % len(alike)]), Place(bucket, int(first[0]), bool(first[1]))) for k in range(counts[bucket])]

    def _check(self, facts: np.ndarray) -> None:
        if not self.fits(facts).any():
            raise UsageError(f"no row fits a bucket (row 1: {self.why(*facts[0][:2])}); change buckets, or the table")

    def valid(self, rows, size: int) -> list[list[tuple[int, int, Place]]]:
        """The batches of a validation: each row in the first bucket that it fits."""
        groups = collections.defaultdict(list)
        for row, (bucket, aspect, cached) in enumerate(self.places(self.facts(rows)).tolist()):
            if bucket >= 0:
                place = Place(bucket, aspect, bool(cached))
                groups[place].append((0, row, place))
        counts = {place: self.all[place.bucket].batch or size for place in groups}  # as many at once as in training: what memory holds
        return [group[k : k + counts[place]] for place, group in sorted(groups.items()) for k in range(0, len(group), counts[place])]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64 -> others that look random (the last step of SplitMix64, Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _shares(draws: np.ndarray, purpose: int) -> np.ndarray:
    """Numbers within [0, 1), one of each draw (uint64), others for each purpose."""
    return (_mixed(draws + np.uint64((purpose + 1) * GOLDEN % 2**64)) >> np.uint64(11)) * 2.0**-53


def measures(row: dict, heard: bool) -> tuple[float, float, float, float]:
    """(seconds, pixels, 1 where features are cached, height by width) that a row tells; NaN: unknown.  A placeholder has no picture: 0 pixels."""

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
        return math.nan, 0.0, cached, math.nan
    seconds, width, height = told("duration"), told("width"), told("height")
    if not math.isfinite(seconds):
        seconds = told("num_frames") / told("fps")
    return (sound if sound + EARLY < seconds else seconds), width * height, cached, height / width


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
