"""The rows of `gen-unpaired`: captions in the workers, sounds in batches where the networks are, files in the workers.

A row's sound depends on its caption, its key and the seed, and on the length and the rate that it asks for; no file of the row is read,
so its clips need not be there.
"""

import functools
import json
import math
import os
from fractions import Fraction

from avtools.engine import Items, Model
from avtools.errors import FatalError, RowError, UsageError
from avtools.models.audioldm2 import LONGEST, MAIN, NAME, PARTS
from avtools.outputs import Want, place, safe_relpath, strip_suffix
from avtools.rows import shown
from avtools.rows.keys import PLACEHOLDER, key_of, number, path_of
from avtools.sampling import sample_key, sample_seed

VERSION = 1
COLUMN = "unpaired_audio_path"
FILES = ("path", "video_path", "audio_path", "audio_file", "image_path")  # whose place the sound takes below DIR
SLACK = Fraction(1, 1000)  # of a sample: what a duration in decimals may be off


# --- what a row asks for ----------------------------------------------------------------------------------


def captions(column: str | None) -> tuple[str, ...]:
    """The columns of which the first that is not empty is the caption."""
    from avtools.metrics.media import TEXTS

    return (column,) if column else TEXTS["audio_text"]


def caption_of(row: dict, column: str | None) -> str:
    """The row's caption in one line, of several in a list the first; RowError where it has none."""
    columns = captions(column)
    for name in columns:
        cell = row.get(name)
        if isinstance(cell, str) and cell.lstrip()[:1] == "[":  # a list in CSV
            try:
                cell = json.loads(cell)
            except (ValueError, RecursionError):
                pass  # a text that begins with a bracket
        if isinstance(cell, list):
            cell = next((one for one in cell if isinstance(one, str) and one.strip()), None)
        if isinstance(cell, (dict, bool)):
            raise RowError(f"column {shown(name)} holds no text but {type(cell).__name__}; give the text alone")
        text = "" if cell is None else " ".join(str(cell).encode("utf-8", "replace").decode().split())
        if text:
            return text
    raise RowError(f"the row has no caption (columns looked at: {', '.join(columns)}); fill it, or leave the row out with mkmeta filter")


def _is_sound_only(row: dict) -> bool:
    return os.path.basename(str(row.get("path") or "")) == PLACEHOLDER


def seconds_of(row: dict) -> Fraction:
    """How long the row's clip is, exactly: num_frames / fps, else duration, else audio_duration (first of a sound-only row)."""
    ways = [lambda: _ratio(row, "num_frames", "fps"), lambda: _exact(row, "duration"), lambda: _exact(row, "audio_duration"), lambda: _exact(row, "audio_length_s")]
    for way in ways[2:] + ways[:2] if _is_sound_only(row) else ways:
        seconds = way()
        if seconds is not None:
            return seconds
    raise RowError("the row does not say how long its clip is (columns looked at: num_frames and fps, duration, audio_duration); run 'avtools probe' before")


def _ratio(row: dict, column: str, by: str) -> Fraction | None:
    count, rate = _exact(row, column), _exact(row, by)
    return None if count is None or rate is None else count / rate


def _exact(row: dict, column: str) -> Fraction | None:
    value = number(row, column)
    if value is not None and value <= 0:
        raise RowError(f"column {column}: {value} is not above zero; run 'avtools probe' before")
    return None if value is None else Fraction(repr(value))


def rate_of(row: dict, rate: int | None) -> int | None:
    """The rate in Hz that the row's sound gets: `rate`, else audio_fps, else None (that of the networks)."""
    value = rate or number(row, "audio_fps")
    if value is not None and (value != int(value) or not 1 <= value < 1 << 31):
        raise RowError(f"column audio_fps: {value} is not a rate in Hz; run 'avtools probe' before, or give --rate")
    return None if value is None else int(value)


def asked(row: dict, options: dict) -> tuple[str, Fraction | None, int | None]:
    """Caption, seconds (None: what the networks were trained on) and rate (None: theirs) of the row's sound."""
    seconds = seconds_of(row) if options["match"] else options["seconds"]
    if seconds is not None and seconds > LONGEST:
        raise RowError(f"asks for a sound of {float(seconds):.10g} s, and no more than {LONGEST} s are generated; trim the clip, or leave out --match-duration")
    return caption_of(row, options["text_column"]), seconds, rate_of(row, options["rate"])


def relpath_of(row: dict) -> str:
    """The row's place below DIR, without suffix; that of a row without files is its key."""
    for column in FILES:
        if row.get(column) not in (None, "") and os.path.basename(str(row[column])) != PLACEHOLDER:
            return place(row, path_of(row, column))
    return strip_suffix(safe_relpath(key_of(row)))


def wants(row: dict, options: dict) -> list[Want]:
    detail = "\0".join([sample_key(row, options["key"]), *map(str, asked(row, options))])
    return [Want("sound", (), (".wav",), relpath=relpath_of(row), detail=detail)]


# --- the work ---------------------------------------------------------------------------------------------


def work(options: dict, weights, *, precision: str = "fp32", batch_size: int = 16, say=None):
    """The :class:`avtools.stream.Work` of generating a sound for each row.

    `options`: text_column, match, seconds, rate, negative, candidates, guidance, steps, seed, sample_format, key.  `say(line)` is told of
    captions that are too long.  FatalError where the weights are missing.
    """
    from avtools import hub
    from avtools.stream import Work

    weights.check(part.name for part in PARTS)
    folder = hub.locate(weights.get(), MAIN, NAME)
    column = options["text_column"]

    def begin(header: list[str]) -> dict:
        if column and header and column not in header:
            raise UsageError(f"--text-column {column}: the table has no such column (it has: {', '.join(header)})")
        return options

    same = ("negative", "candidates", "guidance", "steps", "seed", "sample_format")
    return Work(
        item,
        options,
        columns=(COLUMN,),
        needs=captions(column),
        wants=wants,
        operation=f"gen-unpaired/{VERSION}",
        identity={name: options[name] for name in same} | {"precision": precision, "weights": hub.digest(folder)},
        begin=begin,
        model=Model(functools.partial(load, str(folder), precision, options, say), batch_size, finish),
        preload=(__name__, "avtools.media.soundfiles", "avtools.metrics.media"),
    )


def load(folder: str, precision: str, options: dict, say=None):
    """A function of items that gives results: `index`, `sound` float32 (samples,) at `rate` Hz, `seconds`, `score`."""
    from avtools.models.audioldm2.generating import AudioLdm2, Request
    from avtools.sampling import device

    where = device()
    if where.type == "cpu" and precision == "fp16":
        raise FatalError("--precision fp16 needs a GPU, and there is none; use bf16 or fp32")
    ranking = options["candidates"] > 1
    settings = {"steps": options["steps"], "guidance": options["guidance"], "negative": options["negative"]}
    model = AudioLdm2(folder, where, **settings, precision=precision, ranking=ranking)

    def generate(items: list[dict]) -> list[dict]:
        sounds = model.generate([Request(one["text"], one["seed"], one["seconds"]) for one in items])
        scores = model.scores([one["text"] for one in items], sounds) if ranking else [0.0] * len(items)
        for one in items if say else ():
            count = model.cut(one["text"]) if one["index"] == 0 else None
            if count:
                say(f"{shown(one['key'])}: its caption has {count} tokens, and the network reads {model.tokens}; the rest is not heard")
        return [
            {"index": one["index"], "sound": sound, "rate": model.rate, "seconds": model.native if one["seconds"] is None else one["seconds"], "score": score}
            for one, sound, score in zip(items, sounds, scores, strict=True)
        ]

    return generate


# --- in the workers ---------------------------------------------------------------------------------------


def item(row: dict, maker, options: dict) -> Items:
    """The row's candidates, each with its own seed; none where its sound is there."""
    if maker.reusable("sound"):
        return Items([])
    text, seconds, _ = asked(row, options)
    key = sample_key(row, options["key"])
    return Items([{"text": text, "seconds": seconds, "key": key, "seed": sample_seed(options["seed"], key, k), "index": k} for k in range(options["candidates"])])


def finish(row: dict, results: list[dict], maker, options: dict) -> dict:
    """Write the candidate that goes best with the caption, at the row's rate and length."""
    made = maker.make("sound", lambda out, suffix: _write(out, suffix, chosen(results), rate_of(row, options["rate"]), options["sample_format"]), lambda path: {})
    return {COLUMN: made.path}


def chosen(results: list[dict]) -> dict:
    """Of the sounds that are finite, the one with the highest score, the first of equals; RowError where none is."""
    import numpy as np

    finite = [one for one in results if np.isfinite(one["sound"]).all()]
    if not finite:
        raise RowError("the generated sound is not finite; try --precision fp32")
    return min(finite, key=lambda one: (-one["score"] if math.isfinite(one["score"]) else math.inf, one["index"]))


def _write(out: str, suffix: str, result: dict, rate: int | None, sample_format: str) -> None:
    from avtools.media.soundfiles import write_sound

    sound, rate = fitted(result["sound"], result["rate"], rate or result["rate"], result["seconds"]), rate or result["rate"]
    with write_sound(out, suffix, rate, 1, sample_format, frames=len(sound)) as write:
        write(sound[:, None])


def fitted(sound, own: int, rate: int, seconds: Fraction):
    """(samples,) float32 at `own` Hz -> at `rate` Hz, as long as `seconds`: the samples that begin before their end."""
    import numpy as np
    import soxr

    count = max(1, math.ceil(seconds * rate - SLACK))
    if rate != own:
        sound = soxr.resample(sound, own, rate, quality="VHQ")
    sound = np.asarray(sound[:count], np.float32)
    return np.pad(sound, (0, count - len(sound)))  # by what rounding left out
