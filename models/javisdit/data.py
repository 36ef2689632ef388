"""A row -> the arrays of one training item or of one condition, in worker processes."""

import contextlib
import functools
import json
import math
import os
import re
from fractions import Fraction

import numpy as np

from avtools import outputs
from avtools.errors import RowError
from avtools.models.javisdit.buckets import SLACK, Buckets, Place, measures, size_of
from avtools.models.parts.clips import as_bytes, late_of, read_picture, read_pictures, shown_seconds, sound_of, words
from avtools.rows import key_of, path_of
from avtools.rows.keys import PLACEHOLDER
from avtools.training.draws import draw_of

RATE = 16000  # Hz
ONSET_RATE = 100  # labels a second of where a sound begins
KINDS = ("video-spatial", "video-temporal", "audio-spatial", "audio-temporal")  # of negatives, avtools.augment.names.GROUPS
VIDEO_COLUMNS, SOUND_COLUMNS, IMAGE_COLUMNS = ("path", "video_path"), ("audio_path", "path", "video_path"), ("image_path",)
TEXT_COLUMNS, SOUND_TEXT_COLUMNS = ("text", "audio_text"), ("audio_text", "text")
NO_CAPTION = "placeholder"  # the text of rows that have none, in the published tables
UNPAIRED = "unpaired_audio_path"
_ESCAPED = re.compile("[\ud800-\udfff]")  # halves of characters that JSON may spell, and bytes that are no UTF-8
#: Task -> what it needs of the row's clip.
GIVEN = {"t2av": (), "v2a": ("video",), "a2v": ("sound",), "i2av": ("image",), "ia2v": ("image", "sound"), "continue": ("video", "sound")}


def item_options(config, heard: bool, facts: dict | None = None) -> dict:
    """Plain options for the items below; `facts`: what is known of the encoders of cached features."""
    return {
        "buckets": json.dumps(config.buckets),
        "fps": config.fps,
        "heard": heard,
        "multiple": config.multiple,
        "random_start": config.random_start,
        "facts": facts,
    }


@functools.lru_cache(8)
def _buckets(table: str, fps: float, heard: bool) -> Buckets:
    return Buckets(json.loads(table), fps, heard)


def buckets_of(options: dict) -> Buckets:
    return _buckets(options["buckets"], options["fps"], options["heard"])


def place_of(row: dict, options: dict) -> Place:
    """Where the row goes: as its batch, else the first bucket that it fits; RowError: none."""
    if row.get("place") is not None:
        return Place(*row["place"])
    buckets, facts = buckets_of(options), measures(row, options["heard"])
    place = buckets.place_of(facts)
    if place is None:
        raise RowError(buckets.why(*facts[:2]))
    return place


# --- training -------------------------------------------------------------------------------------------------------


def sound_item(row: dict, draw: int, options: dict) -> dict:
    """`wave` (S,) float32 at 16 kHz as long as the bucket, `text` as UTF-8 bytes, `place`; or `cached` arrays in place of the wave."""
    place = place_of(row, options)
    if row.get("features_path"):
        return _cached(row, place, options, ("sound",))
    seconds = buckets_of(options).seconds(place.bucket)
    path = _sound_path(row)
    start = _start(row, _heard_seconds(path), seconds, draw, options, path)
    return {"wave": wave(path, start, seconds), "text": caption(row, SOUND_TEXT_COLUMNS), "place": np.array(place, np.int64)}


def pair_item(row: dict, draw: int, options: dict) -> dict:
    """`pictures` (T, 3, H, W) uint8 and `wave` of the same time, `text`, `place`; or cached arrays."""
    place = place_of(row, options)
    if row.get("features_path"):
        return _cached(row, place, options, ("sound", "video"))
    return {**_pair(row, place, draw, options)[0], "text": caption(row, TEXT_COLUMNS), "place": np.array(place, np.int64)}


def prior_item(row: dict, draw: int, options: dict) -> dict:
    """As :func:`pair_item`, and negatives of each of :data:`KINDS`: "negative KIND" (N, ...) as pictures or sounds, zeros where there is none,
    `there` (4, N) bool, `lost` as UTF-8 bytes, why a pool could not be drawn from, and where they are asked for `onsets` (L,)."""
    from avtools import features
    from avtools.augment.negatives import negatives

    place, count = place_of(row, options), options["negatives"]
    if row.get("features_path"):
        kept = _cached(row, place, options, ("sound", "video", "there", *["onsets"] * options["onset"]))
        if kept["there"].shape != (len(KINDS), count):
            raise RowError(f"{row['features_path']}: holds {kept['there'].shape[-1]} negatives of each kind, and negatives is {count}; {features.REMEDY}")
        return {name: array for name, array in kept.items() if name != "onsets" or options["onset"]}
    pair, heard, start = _pair(row, place, draw, options)
    pictures, sound = pair["pictures"], pair["wave"]
    unpaired = None
    if row.get(UNPAIRED):
        unpaired = wave(path_of(row, UNPAIRED), 0.0, len(sound) / RATE)[:, None]
    rng = np.random.Generator(np.random.PCG64(draw_of(draw, "negatives")))
    more = {"unpaired": unpaired, "names": _names(row, heard) if options["stems"] else (), "whole": Whole(heard), "at": round(start * RATE)}
    made = negatives(np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)), sound[:, None], RATE, open_pools(options["masklets"], options["stems"]), rng, count, **more)
    item = {**pair, "text": caption(row, TEXT_COLUMNS), "place": np.array(place, np.int64), "there": np.zeros((len(KINDS), count), bool)}
    item["lost"] = as_bytes(next((one.parameters["reason"] for one in made if "reason" in one.parameters), ""))
    if options["onset"]:
        item["onsets"] = onsets(sound)
    for kind in KINDS:
        item[f"negative {kind}"] = np.zeros((count, *(pictures if kind.startswith("video") else sound).shape), np.uint8 if kind.startswith("video") else np.float32)
    for one in made:
        kind = KINDS.index(one.group)
        at = int(item["there"][kind].sum())
        changed = one.video.transpose(0, 3, 1, 2) if one.video is not None else _mono(one.audio)[: len(sound)]
        item[f"negative {one.group}"][at, : len(changed)] = changed
        item["there"][kind, at] = True
    return item


def onsets(sound: np.ndarray) -> np.ndarray:
    """(L,) uint8 of a sound (S,) at 16 kHz, :data:`ONSET_RATE` a second: 1 where something begins to sound."""
    from avtools.metrics.onsets import detect

    labels = np.zeros(max(1, round(len(sound) * ONSET_RATE / RATE)), np.uint8)
    labels[np.minimum(detect(sound, RATE) * ONSET_RATE, len(labels) - 1).astype(int)] = 1
    return labels


def _names(row: dict, heard: str) -> tuple[str, ...]:
    """What pools of stems may call the row's sound: by its key, its relpath or its file, as `separate` and the originals do."""
    name, suffix = os.path.splitext(os.path.basename(heard))
    found = [name + suffix, f"{name}.wav"]
    with contextlib.suppress(RowError):  # a place that no file may have is none in a pool either
        place = outputs.place(row, heard)
        found = [key_of(row), place + suffix, f"{place}.wav", *found]
    return tuple(dict.fromkeys(found))


class Whole:
    """All of a file's sound as (samples, 1) at 16 kHz, of which slices are read when they are asked for; silence behind its end."""

    def __init__(self, path: str):
        self.path = path

    def __len__(self) -> int:
        return int(_heard_seconds(self.path) * RATE)

    def __getitem__(self, part: slice) -> np.ndarray:
        return wave(self.path, part.start / RATE, (part.stop - part.start) / RATE)[:, None]


#: Of the stages.
ITEMS = {"sound": sound_item, "pair": pair_item, "prior": prior_item}


@functools.lru_cache(2)
def open_pools(masklets: str | None, stems: str | None):
    from avtools.augment.pool import Pools

    return Pools.open(masklets, stems)


def _pair(row: dict, place: Place, draw: int, options: dict) -> tuple[dict, str, float]:
    """(`pictures` and `wave`, the sound's file, the second at which both begin)."""
    bucket, seconds = buckets_of(options)[place.bucket], buckets_of(options).seconds(place.bucket)
    path, sound = _picture_path(row), _sound_path(row)
    shown = shown_seconds(path)
    heard = _heard_seconds(sound)
    start = _start(row, shown, seconds, draw, options, path, heard)
    if heard <= start:
        raise RowError(f"{sound}: its sound ends before {start:g} s, where the clip begins")
    size = size_of(bucket.pixels, place.aspect, options["multiple"])
    return {"pictures": read_pictures(path, start, options["fps"], bucket.frames, size), "wave": wave(sound, start, seconds)}, sound, start


def _start(row: dict, whole: float, seconds: float, draw: int, options: dict, path: str, heard: float = math.inf) -> float:
    """Where a clip of so many seconds begins in a medium of `whole` seconds, of which the first `heard` have a sound; RowError: it is shorter."""
    if whole + SLACK < seconds:
        raise RowError(f"{path}: {whole:.2f} s, shorter than its bucket's {seconds:.2f} s, though the table says more; run 'avtools probe' anew")
    share = draw_of(draw, "start") / 2**63 if options["random_start"] else 0.0
    return share * max(0.0, min(whole, heard) - seconds)


def _cached(row: dict, place: Place, options: dict, needed: tuple[str, ...]) -> dict:
    from avtools import features

    path = path_of(row, "features_path")
    found = features.read(path, options["facts"], whole=False)
    lacking = [name for name in (*needed, "states", "place") if name not in found]
    if lacking:
        raise RowError(f"{path}: has no {' and no '.join(lacking)}; {features.REMEDY}")
    if tuple(found["place"][:2]) != place[:2]:
        raise RowError(f"{path}: is of another bucket than the row; {features.REMEDY}")
    return {**found, "place": np.array(place, np.int64)}


# --- sampling -------------------------------------------------------------------------------------------------------


def condition(row: dict, options: dict) -> dict:
    """`text` as UTF-8 bytes and, as far as the task needs them, `pictures` (T, 3, H, W) uint8 and `wave` (S,) of the row's clip; RowError: it lacks them."""
    item, needs = {"text": caption(row, options["text_columns"], NO_CAPTION)}, GIVEN[options["task"]]
    size, count, fps = tuple(options["size"]), options["frames"], options["fps"]
    seconds, start, path = count / fps, 0.0, None
    if "image" in needs:
        path = next((path_of(row, one) for one in (*IMAGE_COLUMNS, *VIDEO_COLUMNS) if row.get(one)), None)
        if path is None or os.path.basename(path) == PLACEHOLDER:
            raise RowError(f"task {options['task']}: the row has no picture to begin with (columns looked at: {', '.join((*IMAGE_COLUMNS, *VIDEO_COLUMNS))})")
        item["pictures"] = read_picture(path, size)[None]
    if "video" in needs:
        path = _picture_path(row)
        shown = shown_seconds(path)
        wanted = options["overlap"] / fps if options["task"] == "continue" else seconds
        if shown + SLACK < wanted:
            raise RowError(f"{path}: {shown:.2f} s, and {wanted:.2f} s are to be given; choose fewer frames, or a longer clip")
        if options["task"] == "continue":
            count, seconds, start = options["overlap"], wanted, max(0.0, shown - wanted)
        item["pictures"] = read_pictures(path, start, fps, count, size)
    if "sound" in needs:
        path = _sound_path(row)
        heard = _heard_seconds(path)
        if heard <= start:
            raise RowError(f"{path}: its sound ends before {start:g} s, where what is given begins")
        item["wave"] = wave(path, start, seconds)
    return item


# --- media ----------------------------------------------------------------------------------------------------------


def caption(row: dict, columns: tuple[str, ...], unless: str = NO_CAPTION) -> np.ndarray:
    """The first of these columns that says something, as UTF-8 bytes; RowError: none."""
    told = {column: row.get(column) for column in columns if str(row.get(column) or "").strip().lower() != unless}
    return as_bytes(_ESCAPED.sub("\ufffd", words(told, columns)))


def wave(path: str, start: float, seconds: float) -> np.ndarray:
    """(S,) float32 at 16 kHz, mono, from `start` on; silence behind its end.  A video's times begin with its first picture."""
    import soxr

    begin = Fraction(start).limit_denominator(1_000_000)
    samples, rate = sound_of(path, begin, begin + Fraction(seconds).limit_denominator(1_000_000))
    samples = _mono(samples)
    if rate != RATE and len(samples):
        samples = soxr.resample(samples, rate, RATE, quality="HQ")
    count = int(Fraction(seconds).limit_denominator(1_000_000) * RATE + Fraction(1, 1000))
    return np.pad(samples[:count], (0, max(0, count - len(samples)))).astype(np.float32, copy=False)


def _mono(samples: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(samples.mean(1) if samples.ndim > 1 else samples, np.float32)


def _sound_path(row: dict) -> str:
    for column in SOUND_COLUMNS:
        if row.get(column) not in (None, "") and os.path.basename(str(row[column])) != PLACEHOLDER:
            return path_of(row, column)
    raise RowError(f"has no sound (columns looked at: {', '.join(SOUND_COLUMNS)})")


def _picture_path(row: dict) -> str:
    for column in VIDEO_COLUMNS:
        if row.get(column) not in (None, ""):
            if os.path.basename(str(row[column])) == PLACEHOLDER:
                raise RowError("its picture is a placeholder, which only javisdit-audio trains on; drop the row, or give it a video")
            return path_of(row, column)
    raise RowError(f"has no video (columns looked at: {', '.join(VIDEO_COLUMNS)})")


def _heard_seconds(path: str) -> float:
    """Until the end of its sound, of a video from its first picture on."""
    from avtools.media.probe import probe_sound

    return float(probe_sound(path).duration + late_of(path))
