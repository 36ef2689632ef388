"""A row -> a piece of one sound and the text that describes it, in worker processes."""

import os
import re

import numpy as np

from avtools.errors import RowError
from avtools.rows import path_of
from avtools.rows.keys import PLACEHOLDER, number
from avtools.training.draws import draw_of

#: The first that is not empty: a sound alone (as `synth` and `separate` name it), a sound file, a video whose sound is taken.
SOUND_COLUMNS = ("stem_path", "audio_path", "audio_file", "path", "video_path")
TEXT_COLUMNS = ("query", "audio_text", "text", "description", "captions", "class", "label")
STEM_TEXT_COLUMNS = ("query", "class", "label", *TEXT_COLUMNS[1:5])  # captions beside a stem are of all that is heard
TRIES = 8  # of a piece that is not silent, before the loudest is taken
SILENT = 1e-4  # root of the mean square, of a full scale of 1


def options_of(config) -> dict:
    """Plain options for :func:`item`."""
    return {"rate": config.rate, "samples": round(config.seconds * config.rate), "crop": config.crop, "text_column": config.text_column}


def item(row: dict, draw: int, options: dict) -> dict:
    """`sound` (samples,) float32, the mean of the channels at `rate` Hz, and `text` as UTF-8 bytes.

    The piece begins at random (crop=random) or at the start (crop=first), and is not silent where the sound is not; a shorter
    sound is followed by silence.  RowError: no sound or text, nothing but silence (as samples that are not numbers count).
    """
    column = next((one for one in SOUND_COLUMNS if row.get(one) not in (None, "") and os.path.basename(str(row[one])) != PLACEHOLDER), None)
    if column is None:
        raise RowError(f"has no sound (columns looked at: {', '.join(SOUND_COLUMNS)}); leave the row out")
    text = text_of(row, column, options["text_column"])
    sound = piece(path_of(row, column), number(row, "start") if column in ("path", "video_path") else None, row, draw, options)
    return {"sound": sound, "text": np.frombuffer(bytearray(text.encode("utf-8", "surrogateescape")), np.uint8)}


def text_of(row: dict, sound_column: str, text_column: str | None = None) -> str:
    """The text that describes a row's sound; RowError where it has none."""
    columns = (text_column,) if text_column else STEM_TEXT_COLUMNS if sound_column == "stem_path" else TEXT_COLUMNS
    for column in columns:
        text = "" if row.get(column) is None else str(row[column])
        if re.search(r"[^\W_]", text):
            return re.sub(r"[_\s]+", " ", text).strip() if column in ("class", "label") else text.strip()
    raise RowError(f"has no text for its sound (columns looked at: {', '.join(columns)}); fill one in, or set text_column")


def piece(path: str, start, row: dict, draw: int, options: dict) -> np.ndarray:
    """(samples,) of a file: from a random place or the start of its scene (`start`, and the row's `end`, seconds)."""
    from avtools.media.soundfiles import read_sound

    samples, rate = read_sound(path, start, number(row, "end") if start is not None else None)
    mono = samples.mean(axis=1, dtype=np.float32) if samples.size else np.zeros(0, np.float32)
    wanted, need = options["samples"], -(-options["samples"] * rate // options["rate"])  # in the file's own samples
    last = max(0, len(mono) - need)
    power = np.concatenate([[0.0], np.cumsum(np.square(mono, dtype=np.float64))])

    def loud(at) -> np.ndarray:
        return np.sqrt((power[np.minimum(at + need, len(mono))] - power[at]).clip(0) / max(1, min(need, len(mono))))

    places = [draw_of(draw, "place", k) % (last + 1) for k in range(TRIES)] if options["crop"] == "random" else [0]
    begin = next((at for at in places if loud(np.array(at)) >= SILENT), None)
    if begin is None:
        every = np.arange(0, last + 1, max(1, need // 4))
        begin = int(every[loud(every).argmax()])
        if loud(np.array(begin)) < SILENT:
            raise RowError(f"{path}: is silent, so that there is nothing to separate; leave the row out")
    return at_rate(mono[begin : begin + need], rate, options["rate"], wanted)


def at_rate(mono: np.ndarray, rate: int, wanted: int, count: int) -> np.ndarray:
    """(n,) at `rate` Hz -> (count,) at `wanted` Hz (soxr HQ), cut, or followed by silence."""
    if rate != wanted:
        import soxr

        mono = soxr.resample(mono, rate, wanted)
    mono = mono[:count]
    return np.pad(mono, (0, count - len(mono))).astype(np.float32, copy=False)
