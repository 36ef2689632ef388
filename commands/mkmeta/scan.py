"""avtools mkmeta scan"""

import os
import sys

import click

from avtools.cli import Files, row_command
from avtools.errors import UsageError

COLUMNS = {"video": "path", "audio": "audio_path", "image": "image_path"}


@row_command(inputs=False)
@click.argument("kind", type=click.Choice(list(COLUMNS)))
@click.argument("roots", metavar="[ROOT|-]...", nargs=-1, required=True, type=Files())
@click.option("-0", "--null", is_flag=True, help="With '-': paths on standard input end in NUL (find -print0).")
def command(shared, kind, roots, null):
    """Make a table of the media files below ROOT, sorted by relpath.

    Columns: path (audio_path, image_path), id (the name without suffix), relpath (relative to ROOT).
    Suffixes count in any case: mp4 avi mov mkv webm m2ts m4v; wav mp3 flac aac m4a ogg opus; png jpg jpeg
    webp bmp.  Links are followed, each folder once.  With '-' the paths come from standard input, one a
    line, in their order; their relpath is the path itself without leading '/' and './'.

    \b
        avtools mkmeta scan video clips/ -o clips.csv
        find clips -newer stamp -print0 | avtools mkmeta scan video -0 -
    """
    from avtools.stream import Work, as_it_is

    for root in roots:
        if root != "-" and not os.path.isdir(root):
            raise UsageError(f"{root}: no such folder; give the folder that holds the media, or '-' for a list of paths")
    column = COLUMNS[kind]
    header = [column, "id", "relpath"]
    return Work(as_it_is, records=lambda stdin: (header, "csv", _records(kind, column, roots, null)), inline=True)


def _records(kind: str, column: str, roots: tuple[str, ...], null: bool):
    from avtools import rows

    suffixes = tuple("." + suffix for suffix in {"video": rows.VIDEO, "audio": rows.SOUND, "image": rows.IMAGE}[kind])
    for root in roots:
        paths = _listed(null, suffixes) if root == "-" else _walk(root, suffixes)
        for path, relpath in paths:
            stem = os.path.splitext(os.path.basename(path))[0]
            yield rows.Record({column: path, "id": stem, "relpath": relpath}, path)


def _listed(null: bool, suffixes: tuple[str, ...]):
    """(path, relpath) for each path on standard input that has one of the suffixes."""
    end = b"\0" if null else b"\n"
    rest = b""
    with open(0, "rb", buffering=0, closefd=False) as stream:
        while block := stream.read(1 << 16):
            *names, rest = (rest + block).split(end)
            for name in names:
                yield from _listed_one(name, suffixes)
    yield from _listed_one(rest, suffixes)


def _listed_one(name: bytes, suffixes: tuple[str, ...]):
    path = os.fsdecode(name)
    if path.lower().endswith(suffixes):
        parts = [part for part in os.path.normpath(path).split(os.sep) if part not in ("", "..")]
        yield path, os.path.join(*parts)


def _walk(root: str, suffixes: tuple[str, ...]):
    """(path, relpath) of the files below `root`, in the order of relpath, as they are found."""
    seen: set[tuple[int, int]] = set()

    def visit(folder: str, relative: str):
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                # a folder sorts as its files will: by its name and the separator
                found = sorted((entry.name + "/" if _is_dir(entry) else entry.name) for entry in entries)
        except OSError as error:
            print(f"avtools mkmeta scan: {folder}: {error.strerror}; its files are left out", file=sys.stderr)
            return
        for name in found:
            path = os.path.join(folder, name)
            if name.endswith("/"):
                yield from visit(path[:-1], relative + name)
            elif name.lower().endswith(suffixes):
                yield path, relative + name

    yield from visit(root, "")


def _is_dir(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
