"""A row -> the arrays of one training item or of one condition, in worker processes."""

import json
import os

import numpy as np

from avtools.errors import FatalError, RowError, UsageError
from avtools.models.parts.clips import CLASS_COLUMNS, as_bytes, read_pictures, shown_seconds, sound_of, words
from avtools.rows import path_of
from avtools.rows.keys import PLACEHOLDER, number
from avtools.sampling import listed, objects_of
from avtools.training.draws import draw_of

TEXT_COLUMNS = ("text",)
VIDEO_COLUMNS = ("path", "video_path")
SOUND_COLUMNS = ("stem_path", "audio_path", "path", "video_path")  # to train on: a source by itself, a sound, a video's own
LABEL_COLUMNS = ("query", *CLASS_COLUMNS, *TEXT_COLUMNS)
MIXTURES = ("mixture_path", "audio_path", "path", "video_path")  # to sample from: what is heard in the end
#: All that a sampled row may tell.
COLUMNS = ("audio_path", "path", "video_path", "mixture_path", "stem_paths", "stem_path", "objects", "queries", "query", *TEXT_COLUMNS, "start", "layout", "boxes")
RESIDUAL = "residual"  # what `separate` calls the stem of what the others leave: no source
ABOUT = 4.0  # seconds around what is heard that the separator is given too


# --- rows -----------------------------------------------------------------------------------------------------------


def _seen(row: dict) -> str:
    """The row's video."""
    for column in VIDEO_COLUMNS:
        if row.get(column) not in (None, "") and os.path.basename(str(row[column])) != PLACEHOLDER:
            return path_of(row, column)
    raise RowError(f"has no video to learn from (columns looked at: {', '.join(VIDEO_COLUMNS)})")


def _window(row: dict, length: float, draw: int, options: dict, seconds: float) -> tuple[float, float]:
    """(begin, seconds) of a window of at most `length` seconds in the row's `start` to `end` of media of `seconds`."""
    begin, end = number(row, "start") or 0.0, number(row, "end")
    if begin < 0 or end is not None and end <= begin:
        raise RowError(f"start {begin:g} and end {'' if end is None else f'{end:g}'} are no span of time; mend them, or leave them empty")
    end = seconds if end is None else min(seconds, end)
    if begin >= end:
        raise RowError(f"start {begin:g}: its video or sound ends at {seconds:g} s; mend start, or leave it empty")
    share = draw_of(draw, "start") / 2**63 if options["random_start"] else 0.5
    return begin + share * max(0.0, end - begin - length), min(length, end - begin)


# --- maestro-video --------------------------------------------------------------------------------------------------


def video_options(config) -> dict:
    return {"frames": config.frames, "fps": config.fps, "size": (config.height, config.width), "flip": config.flip, "random_start": config.random_start}


def video_item(row: dict, draw: int, options: dict) -> dict:
    """`pictures` (T, 3, h, w) uint8 at the model's rate, the last repeated where a clip is over, and `text` as UTF-8 bytes."""
    path = _seen(row)
    start, _ = _window(row, options["frames"] / options["fps"], draw, options, shown_seconds(path))
    pictures = read_pictures(path, start, options["fps"], options["frames"], options["size"])
    if draw_of(draw, "flip") / 2**63 < options["flip"]:
        pictures = pictures[..., ::-1]
    return {"pictures": np.ascontiguousarray(pictures), "text": as_bytes(words(row, (*TEXT_COLUMNS, *CLASS_COLUMNS)))}


def video_condition(row: dict, options: dict) -> dict:
    """`text` of a video to make, as UTF-8 bytes."""
    return {"text": as_bytes(words(row, (*TEXT_COLUMNS, *CLASS_COLUMNS)))}


# --- cim ------------------------------------------------------------------------------------------------------------


def cim_options(config, video) -> dict:
    """`video`: the base's settings (config.Video) where it learns of videos, else None."""
    common = {"spectrogram": config.sound_encoder == "imagebind", "clips": config.clips, "spacing": config.spacing, "random_start": config.random_start}
    if video is not None:
        return common | {"frames": video.frames, "fps": video.fps, "window": video.frames / video.fps, "size": (video.height, video.width), "legacy_times": False}
    pictures = 2 * config.clips - 1 if config.interpolate else config.clips
    return common | {"frames": pictures, "fps": None, "window": config.window, "size": (config.height, config.width), "legacy_times": config.legacy_times}


def cim_item(row: dict, draw: int, options: dict) -> dict:
    """`pictures` (F, 3, h, w) uint8, `sound` (K, 1, 128, 204) or (K, 32000), `middles` (K,) and `times` (F,), seconds of the window, and the
    label as UTF-8 bytes.

    The window is of all that is seen and heard, at most `options["window"]` seconds of it; pictures are at the middles of what is
    heard, the first and last clip's where they are as long as the window, and evenly between; or of a video's own rate.
    """
    from avtools.models.maestro import hearing

    path = _seen(row)
    column = next(one for one in SOUND_COLUMNS if row.get(one) not in (None, "") and os.path.basename(str(row[one])) != PLACEHOLDER)
    sound = path_of(row, column)
    start, seconds = _window(row, options["window"], draw, options, min(shown_seconds(path), hearing.duration_of(sound)))
    starts = hearing.clip_starts(seconds, options["clips"], options["spacing"])
    clips = hearing.heard(sound, starts, begin=start, seconds=seconds)
    hearing.check_audible(clips, sound)
    count = options["frames"]
    if options["fps"] is not None:
        times, rate = (np.arange(count) + 0.5) / options["fps"], options["fps"]
        pictures = read_pictures(path, start, rate, count, options["size"])
    else:
        margin = min(hearing.SECONDS / 2, seconds / 10)
        times = np.linspace(margin, seconds - margin, count) if count > 1 else np.array([seconds / 2])
        if options["legacy_times"]:  # the first of those at 1/4 and 3/4 of each clip's share
            times = seconds / options["clips"] * (np.arange(count) / 2 + 0.25)
        rate = 1 / (times[1] - times[0]) if count > 1 else 1.0
        pictures = read_pictures(path, start + float(times[0]), rate, count, options["size"])
    return {
        "pictures": pictures,
        "sound": encodable(clips, options),
        "middles": np.asarray(starts, np.float64) + hearing.SECONDS / 2,
        "times": times.astype(np.float64),
        "text": as_bytes(words(row, LABEL_COLUMNS)),
    }


def encodable(clips: np.ndarray, options: dict) -> np.ndarray:
    """Clips (K, 32000) as the sound's encoder takes them."""
    from avtools.models.maestro import hearing

    return hearing.spectrograms(clips) if options["spectrogram"] else np.ascontiguousarray(clips, dtype=np.float32)


# --- maestro --------------------------------------------------------------------------------------------------------


def condition(row: dict, options: dict) -> dict:
    """What making a video of a row needs.

    `text` as UTF-8 bytes; `given` (samples, channels) float32 of `rate` Hz, what is heard while the video is shown; `regions` as JSON
    bytes (names, layout, boxes), for the process of the model; and of the sources either `sound`, the clips of all of them one source behind another as the
    encoder takes them, `counts` (S,) of each, and `picks` (S, T), each frame's clip; or, where they are still to be separated, the
    `mixture` (samples,) at the separator's rate, `before`, the seconds in it before the video begins, `queries` as JSON bytes, and with
    legacy_timing `clips`, how many are heard of it.
    `cells`: the sources, and where they are.
    """
    from avtools.models.maestro import hearing

    span = options["frames"] / options["fps"]
    start = number(row, "start") or 0.0
    if start < 0:
        raise RowError(f"start {start:g}: is before the sound begins; mend it, or leave it empty")
    if start and options["legacy_timing"]:
        raise RowError(f"start {start:g}: the original's timing begins where the sound does; leave start empty, or legacy_timing off")
    files, names = stems_of(row)
    queries = [] if files else queries_of(row, options)
    mixture = _mixture(row)
    if not files and mixture is None:
        raise RowError(f"has no sound to make a video of (columns looked at: {', '.join(dict.fromkeys((*MIXTURES, 'stem_paths', 'stem_path')))})")
    if not files and len(queries) < (2 if options["separator_rate"] is None else 1):  # nothing to take out of it: all of it is the source
        files, names, queries = [mixture], queries or [os.path.splitext(os.path.basename(mixture))[0]], []
    text = words(row, TEXT_COLUMNS, must=False) if options["use_text"] else ""
    count = len(queries or files)
    check_room(count, text, options)
    made, cells = _placed(row, queries or names, options) if count > 1 else ({"names": list(queries or names)}, {"layout": "", "boxes": ""})
    cells |= {"queries": list(queries or names), "stem_paths": [] if files in ([], [mixture]) else files}
    item = {"text": as_bytes(text), "regions": as_bytes(json.dumps(made))}
    heard_of = [mixture] if mixture is not None else files
    given, rate = _together([sound_of(path, start, start + span) for path in heard_of])
    item |= {"given": _fit(given, round(span * rate)), "rate": np.int64(rate)}
    if queries:
        if options["separator_rate"] is None:
            raise FatalError("a mixture is to be separated, and there is no separator; give --weights separator= AudioSep's file or a RUN of 'avtools train audiosep', or stems")
        low = 0.0 if options["legacy_timing"] else max(0.0, start - ABOUT)
        high = hearing.LEGACY_SECONDS if options["legacy_timing"] else start + max(span, hearing.SECONDS) + ABOUT
        samples, rate = sound_of(mixture, low, high)
        if not len(samples) or low + len(samples) / rate <= start:
            raise RowError(f"{mixture}: ends before start {start:g}; choose an earlier start")
        if options["legacy_timing"]:
            if len(samples) / rate < hearing.SECONDS:
                raise RowError(f"{mixture}: its sound is {len(samples) / rate:.3g} s, and the original's clips are {hearing.SECONDS:g} s; leave legacy_timing off, or give a longer one")
            samples, item["clips"] = samples[:, :1], np.int64(hearing.clip_count(hearing.duration_of(mixture)))
        item |= {"mixture": _resampled(samples.mean(1), rate, options["separator_rate"]), "before": np.float64(start - low), "queries": as_bytes(json.dumps(queries))}
        return item | {"cells": cells}
    found = [hear(file, start, options, name) for file, name in zip(files, names, strict=True)]
    return item | sounds_of(found, options) | {"cells": cells}


def sounds_of(found: list[tuple[np.ndarray, np.ndarray]], options: dict) -> dict:
    """`sound`, `counts` and `picks` of :func:`condition`, of what :func:`hear` gives of each source."""
    sound = np.concatenate([encodable(clips, options) for clips, _ in found])
    return {"sound": sound, "counts": np.array([len(clips) for clips, _ in found]), "picks": np.stack([picks for _, picks in found])}


def hear(path: str, start: float, options: dict, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(clips (K, 32000) of a source's sound, each frame's clip (T,)); RowError: silent, or over before the video begins."""
    from avtools.models.maestro import hearing
    from avtools.models.maestro.context import frame_clips

    if options["legacy_timing"]:
        clips, starts = hearing.heard_legacy(path)
    else:
        seconds = hearing.duration_of(path)
        if seconds <= start:
            raise RowError(f"{path}: ends at {seconds:g} s, before start {start:g}; choose an earlier start")
        starts = hearing.frame_starts(seconds, options["frames"], options["fps"], start)
        clips = hearing.heard(path, starts)
    hearing.check_audible(clips, name if name == path else f"{name} ({path})")
    timing = "legacy" if options["legacy_timing"] else "time"
    return clips, frame_clips(options["frames"], len(clips), options["fps"], starts, timing, start).numpy()


def hear_samples(samples: np.ndarray, rate: int, before: float, options: dict, name: str, clips: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`hear`, of a separated source (samples,) whose video begins `before` seconds into it; with legacy_timing so many `clips` of it."""
    from avtools.models.maestro import hearing
    from avtools.models.maestro.context import frame_clips

    wave = _resampled(samples, rate, hearing.RATE)
    seconds = len(wave) / hearing.RATE
    if options["legacy_timing"]:
        starts, timing = hearing.clip_starts(min(seconds, hearing.LEGACY_SECONDS), clips, "pinned"), "legacy"
    else:
        starts, timing = hearing.frame_starts(seconds, options["frames"], options["fps"], before), "time"
    found = np.stack([_fit(wave[hearing.first_sample(one) :][:, None], hearing.SAMPLES)[:, 0] for one in starts])
    hearing.check_audible(found, name)
    return found, frame_clips(options["frames"], len(found), options["fps"], starts, timing, before).numpy()


def stems_of(row: dict) -> tuple[list[str], list[str]]:
    """(files, names) of the row's separated sources; empty where there are none.  `objects` are those of a synthetic scene."""
    if not row.get("stem_paths") and (things := objects_of(row)):
        return [thing["stem_path"] for thing in things], [str(thing["class"]) for thing in things]
    files = listed(row, "stem_paths") or ([path_of(row, "stem_path")] if row.get("stem_path") not in (None, "") else [])
    names = listed(row, "queries") or ([str(row["query"])] if row.get("query") not in (None, "") else [])
    if files and names and len(names) != len(files):
        raise RowError(f"has {len(files)} stem_paths and {len(names)} queries; give a name for each stem")
    names = names if files and names else [os.path.splitext(os.path.basename(file))[0] for file in files]
    kept = [(file, name) for file, name in zip(files, names, strict=True) if name != RESIDUAL]
    if files and not kept:
        raise RowError("has nothing but a residual; give the stems of sources")
    return [file for file, _ in kept], [name for _, name in kept]


def queries_of(row: dict, options: dict) -> list[str]:
    """What is to be separated from the row's mixture: its own `queries`, else the configuration's."""
    from avtools.models.separating.queries import unique

    return unique(listed(row, "queries") or options["queries"])


def check_room(sources: int, text: str, options: dict) -> None:
    """RowError where there are more sources than places for their tokens behind the text."""
    from avtools.models.maestro.context import slots

    slots(sources, options["tokens"], first_place(text, options), options["places"])


def first_place(text: str, options: dict) -> int:
    """Where a text's end is, and the tokens of sound begin."""
    if options["words"]:
        from avtools.models.parts.tiny.words import spelt

        return min(len(spelt(text)), options["places"] - 2) + 1
    from avtools.models.maestro.text import end_positions, token_ids

    return int(end_positions(token_ids([text], options["places"]))[0])


def _placed(row: dict, names: list[str], options: dict) -> tuple[dict, dict]:
    """(what :func:`regions` needs, cells that tell where the sources are); RowError where they cannot be there."""
    own = not (options["layout"] or options["boxes"]) and (row.get("layout") or row.get("boxes"))
    made = {"names": names, "layout": options["layout"] or None, "boxes": list(options["boxes"])}
    if own:
        made |= {"layout": row.get("layout") or None, "boxes": [], "row": {"layout": row.get("layout") or "", "boxes": row.get("boxes") or ""}}
    try:
        cells = regions(made, options["frames"]).columns()
    except UsageError as error:  # of this row's number of sources or of their names
        raise RowError(str(error)) from None
    return made, {"layout": "", "boxes": "", **cells}


def regions(made: dict, frames: int):
    """The regions (:class:`.regions.Regions`) of an item's sources."""
    from avtools.models.maestro import regions as places

    if "row" in made:
        return places.of_row(made["row"], made["names"])
    return places.regions_of(made["names"], made["layout"], made["boxes"], frames)


# --- sounds ---------------------------------------------------------------------------------------------------------


def _mixture(row: dict) -> str | None:
    for column in MIXTURES:
        if row.get(column) not in (None, "") and os.path.basename(str(row[column])) != PLACEHOLDER:
            return path_of(row, column)
    return None


def _together(sounds: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """The sum of sounds, at the rate of the first."""
    (first, rate), *others = sounds
    made = first.astype(np.float32)
    for samples, own in others:
        samples = samples if own == rate else _resampled(samples, own, rate)
        samples = samples if samples.shape[1] == made.shape[1] else np.repeat(samples.mean(1, keepdims=True), made.shape[1], 1)
        made = _fit(made, max(len(made), len(samples))) + _fit(samples, max(len(made), len(samples)))
    return made, rate


def _resampled(samples: np.ndarray, rate: int, to: int) -> np.ndarray:
    import soxr

    samples = np.ascontiguousarray(samples, dtype=np.float32)
    return samples if rate == to or not len(samples) else soxr.resample(samples, rate, to, quality="VHQ")


def _fit(samples: np.ndarray, count: int) -> np.ndarray:
    """(samples, channels) -> (count, channels): its beginning, or filled up with silence."""
    return np.pad(samples[:count], ((0, max(0, count - len(samples))), (0, 0))).astype(np.float32, copy=False)
