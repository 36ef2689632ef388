"""What a file is, by its name's suffix; what a stream is, by its first bytes."""

import os

from avtools.errors import UsageError

#: Suffix to table format.
FORMATS = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}

#: What `mkmeta scan` looks for.
VIDEO = frozenset("mp4 avi mov mkv webm m2ts m4v".split())
SOUND = frozenset("wav mp3 flac aac m4a ogg opus".split())
IMAGE = frozenset("png jpg jpeg webp bmp".split())

#: Names that are taken for media when someone gives them as INPUT.
VIDEO_INPUT = VIDEO | frozenset("ts mts flv wmv mpg mpeg 3gp ogv".split())
SOUND_INPUT = SOUND | frozenset("aiff aif wma caf w64".split())

NAMES = ".csv, .tsv, .jsonl, .parquet"  # for messages
BLANK = b" \t\r\n\v\f"


def suffix_of(path: str) -> str:
    """Return the suffix of `path` in lower case, without its dot."""
    return os.path.splitext(path)[1][1:].lower()


def format_of(path: str) -> str | None:
    """Return `csv`, `tsv`, `jsonl` or `parquet` for a table's name, else None."""
    return FORMATS.get(suffix_of(path))


def kind_of(path: str) -> str | None:
    """Return `table`, `video`, `sound` or `image` for a file's name, or None where the suffix says nothing."""
    suffix = suffix_of(path)
    if suffix in FORMATS:
        return "table"
    if suffix in VIDEO_INPUT:
        return "video"
    if suffix in SOUND_INPUT:
        return "sound"
    return "image" if suffix in IMAGE else None


def known_format(name: str, option: str) -> str:
    """Return the format that `option` (`--from` or `--to`) names; raise UsageError where there is no such format."""
    try:
        return FORMATS[name.lower()]
    except KeyError:
        raise UsageError(f"{option} {shown(name)}: no such format; choose csv, tsv, jsonl or parquet") from None


def shown(name: str) -> str:
    """Return `name` on one printable line, for messages."""
    try:
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # other lone surrogates stand for no bytes; they are escaped below
        pass
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def sniff(head: bytes, name: str) -> str:
    """Return `csv` or `jsonl` for a stream that begins with `head` (its blank lines removed).

    Raise UsageError for what is no text: then `name` is a Parquet, media or compressed file in disguise.
    """
    first = head.lstrip(BLANK)[:1]
    if b"\0" in head or head[:2] in (b"\xff\xfe", b"\xfe\xff") or first < b" ":
        kind = "Parquet, which must be named as a file" if head.startswith(b"PAR1") else "binary data"
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            kind = "UTF-16; save it as UTF-8"
        raise UsageError(f"{name}: this is no table ({kind}); give {NAMES}, or media files with their usual suffixes")
    return "jsonl" if first == b"{" else "csv"
