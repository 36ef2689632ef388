"""Keys: what of a file's name, or of a line of metadata, says which clip it is.

A key is a name without folder and media suffix (a stem), or a YouTube clip: (id, start), the start in
milliseconds or None where it is not told.  Names on disk spell clips in several ways; metadata in one.
"""

import os
import re
import unicodedata

from avtools.rows.formats import IMAGE, SOUND_INPUT, VIDEO_INPUT

Clip = tuple[str, int | None]

#: What comes after a name and is no part of it: media, and the arrays that features are kept in.
SUFFIXES = VIDEO_INPUT | SOUND_INPUT | IMAGE | frozenset("h5 hdf5 npy npz pt".split())

_TIME = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_ID = r"[!-+.0-~-]{11}"  # YouTube's have letters, digits, - and _; published tables hold broken ones, too (Landscapes: an &)
_match_clip = re.compile(rf"Y?({_ID})(?:_({_TIME})(?:_({_TIME}))?)?").fullmatch
_is_id = re.compile(_ID).fullmatch
_is_time = re.compile(rf"\s*{_TIME}\s*").fullmatch


def stem_of(name: str) -> str:
    """The name without folder, outer blanks and one media suffix, in Unicode's composed form (NFC).

    >>> stem_of("a/b/00123.mp4"), stem_of("take.v2"), stem_of("x.mp4.wav")
    ('00123', 'take.v2', 'x.mp4')
    """
    name = name[name.rfind("/") + 1 :].strip()
    dot = name.rfind(".")
    if dot > 0 and (name[dot + 1 :] in SUFFIXES or name[dot + 1 :].lower() in SUFFIXES):
        name = name[:dot].rstrip()
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def clip_named(stem: str) -> tuple[str, tuple[int, ...] | None] | None:
    """The YouTube id that a stem spells and the starts (ms) that it may mean; None in place of them: it tells none.

    `ID` and `YID`, each followed by nothing, `_START` or `_START_END`; a start is in seconds (`30`, `000030`,
    `30.000`) or, where it has no leading zero and is 1000 or more, it may be in milliseconds (`30000`).  None for
    all other stems.  An id has 11 characters, so that one reading at most fits.
    """
    found = _match_clip(stem)
    if found is None:
        return None
    video, start, end = found.groups()
    if start is None:
        return video, None
    if end is not None and float(end) <= float(start):
        return None  # no span of time
    if "." in start:
        return video, (round(float(start) * 1000),)
    value = int(start)
    return video, ((value * 1000, value) if value >= 1000 and start[0] != "0" else (value * 1000,))


def clip_of(video: str, start: str) -> Clip:
    """The clip of metadata's own columns, the start in seconds; raise ValueError with what is wrong."""
    if not _is_id(video):
        raise ValueError(f"{video[:40]!r} is no YouTube id (11 characters)")
    if not _is_time(start):
        raise ValueError(f"{start[:40]!r} is no start in seconds")
    return video, round(float(start) * 1000)


def clip_of_name(name: str) -> Clip:
    """The clip that a name in metadata spells, its start in seconds; raise ValueError where it spells none."""
    named = clip_named(stem_of(name))
    if named is None:
        raise ValueError(f"{name[:60]!r} names no YouTube clip (ID, YID, ID_START or ID_START_END)")
    video, starts = named
    return video, None if starts is None else starts[0]


def clip_or_stem(name: str) -> Clip | str:
    """The clip that a name in metadata spells, else its stem; raise ValueError for an empty one."""
    try:
        return clip_of_name(name)
    except ValueError:
        return stem(name)


def stem(name: str) -> str:
    """The key of a name in metadata; raise ValueError for an empty one."""
    key = stem_of(name)
    if not key:
        raise ValueError("no file is named")
    return key


def without_tail(stem: str, tails: tuple[str, ...]) -> str:
    """The stem without the first of `tails` that it ends in.

    >>> without_tail("a_denoised_thumb", ("_denoised_thumb", "_thumb"))
    'a'
    """
    return next((stem.removesuffix(tail) for tail in tails if stem.endswith(tail)), stem)


def shown_key(key: Clip | str) -> str:
    """A key as text: the stem, or `ID` or `ID_000030`."""
    if isinstance(key, str):
        return key
    video, start = key
    if start is None:
        return video
    return f"{video}_{start // 1000:06d}" if start % 1000 == 0 else f"{video}_{start / 1000:.3f}"


def folder_key(name: str) -> str:
    """A folder's or data set's name without case, `-`, `_` and blanks: VGG-Sound and vggsound are one."""
    return name.lower().translate(_NOTHING)


_NOTHING = str.maketrans("", "", "-_ ")


def parts_of(path: str) -> list[str]:
    """The folders on the way to a file, the deepest first, as :func:`folder_key`."""
    folder = os.path.dirname(os.path.abspath(path))
    return [folder_key(part) for part in reversed(folder.split("/")) if part]
