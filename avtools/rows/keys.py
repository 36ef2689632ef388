"""What commands ask of a row: its key, a number, a path."""

import math
import os

from avtools.errors import RowError
from avtools.rows.formats import shown

PLACEHOLDER = "placeholder.mp4"  # stands for "no picture" in sound-only rows


def key_of(row: dict, column: str | None = None) -> str:
    """Return the key of `row`: the cell of `column` if given, else `relpath`, else `id`, else the file's name.

    The file's name is that of `path`, `audio_path` or `image_path`, with its suffix and without its folder;
    `placeholder.mp4` names no file; as a relpath, or as the id `placeholder` beside it, which all such rows of JavisDiT's tables
    have, it is the key only where nothing else is.  Raise RowError where there is nothing.
    """
    if column is not None:
        if _empty(row.get(column)):
            raise RowError(f"no key: column {shown(column)} is empty; fill it or choose another --key")
        return str(row[column])
    last = ""
    for name in ("relpath", "id"):
        if not _empty(row.get(name)):
            if not _nobody(row, str(row[name])):
                return str(row[name])
            last = last or str(row[name])
    for name in ("path", "video_path", "audio_path", "audio_file", "image_path"):
        file = os.path.basename(str(row.get(name) or ""))
        if file and file != PLACEHOLDER:
            return file
    if last:
        return last
    raise RowError("no key: none of relpath, id, path, audio_path, image_path is set; name a column with --key")


def _nobody(row: dict, name: str) -> bool:
    return os.path.basename(name) == PLACEHOLDER or name == "placeholder" and os.path.basename(str(row.get("path") or "")) == PLACEHOLDER


def number(row: dict, column: str) -> int | float | None:
    """Return the cell of `column` as an int (where it is written as one) or a float; None where it is empty.

    Raise RowError for anything else, NaN and infinities included: they measure nothing.
    """
    value = row.get(column)
    if _empty(value):
        return None
    result = parse_number(value)
    if result is None or not math.isfinite(result):
        raise RowError(f"column {shown(column)}: {shown(str(value)[:80])!r} is not a number")
    return result


def path_of(row: dict, column: str) -> str:
    """Return the path in `column`; raise RowError where it is missing, empty or cannot be a path."""
    value = row.get(column)
    if _empty(value):
        raise RowError(f"column {shown(column)} holds no path")
    if not isinstance(value, str) or "\0" in value or not _nameable(value):
        raise RowError(f"column {shown(column)}: {shown(str(value)[:80])!r} is not a path")
    return value


def parse_number(value) -> int | float | None:
    """Return the number that `value` is or spells (`nan` and `inf` included), or None; True and False are none."""
    if isinstance(value, str):
        if not value.isascii() or "_" in value:  # Python reads 1_000 and other scripts' digits; tables don't mean them
            return None
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        return parse_number(value.item()) if hasattr(value, "item") else None  # a numpy scalar
    else:
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return None


def _nameable(text: str) -> bool:
    """Whether a file can have this name: it may hold bytes that are no UTF-8, but no other lone surrogates."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _empty(value) -> bool:
    return value is None or value == ""
