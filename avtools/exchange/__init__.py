"""Layouts: how other programs lay a table and its media out on disk, to write and to read.

A :class:`Layout` says what becomes of one row, what lists the rows, and how both are read back.  What a layout cannot
hold of a row is kept beside it (:class:`Originals`), so that writing and reading again loses nothing.
"""

import array
import contextlib
import dataclasses
import hashlib
import heapq
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from avtools.errors import FatalError, RowError, UsageError
from avtools.outputs import FOLDER, Maker, Want
from avtools.rows.formats import shown
from avtools.rows.keys import PLACEHOLDER
from avtools.rows.writing import cell_text, open_whole

NO_CAPTION = os.path.splitext(PLACEHOLDER)[0]  # id and text beside it in JavisDiT's tables
_PLAIN = re.compile(r"[\w.-]+")


@dataclasses.dataclass(slots=True)
class Item:
    """A row as a layout holds it.

    `record`: all that the layout says of it (JSON; equal to what :meth:`Layout.export` gave when it was written).
    `cells`: the same in our columns.  `origin`: file and line, for messages.  `private`: what :meth:`Layout.unpack` needs.
    """

    record: Any
    cells: dict
    origin: str
    private: Any = None


class Layout:
    """One layout; an instance is made in each process from the same settings.

    `holds`: columns whose files lie inside the layout; the others name files where they are.  `sets`: the columns
    that :meth:`export` sets in the rows that are passed on.  `makes_files`: export makes a row's files in workers,
    by :meth:`wants` and the maker.  `unpacks`: reading must write media files out (:meth:`unpack_wants`, :meth:`unpack`).
    """

    version = 1  # of the files made: another one makes them anew
    options: tuple[str, ...] = ()  # the settings that mean something to it
    needs: tuple[str, ...] = ("path", "audio_path")  # a table must have one of these columns
    holds: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    makes_files = False
    matters: tuple[str, ...] = ()  # the settings that those files depend on
    unpacks = False
    packed = False  # reading it costs so much that it is read once

    def __init__(self, settings: dict):
        """`settings`: the command's options (see `mkmeta export --help`); None where one was not given."""
        self.settings = settings
        self.overwrite = False  # --overwrite: make everything anew

    @classmethod
    def refuse_others(cls, name: str, settings: dict) -> None:
        """UsageError where an option was given that means nothing to the layout."""
        for option, value in settings.items():
            if value is not None and option not in cls.options:
                raise UsageError(f"{name} knows no --{option.replace('_', '-')}; '--help' says which layouts do")

    def wants(self, row: dict) -> list[Want]:
        """The files that the layout holds for a row (where it `makes_files`)."""
        return []

    def export(self, row: dict, maker: Maker | None) -> tuple[dict, Any]:
        """Make the row's files; return cells to set and the row's record (JSON).  RowError where a row cannot be laid out."""
        raise NotImplementedError

    def sink(self, folder: str, columns: list[str], format_: str) -> "Sink":
        """What takes the records in order and writes what lists them."""
        raise NotImplementedError

    def read(self, source: str) -> tuple[list[str], Iterator[Item] | list[Iterator[Item]]]:
        """Our columns and the items of what lies at `source`: one iterator, or one for each of several lists.

        UsageError, naming file and line, for what is no such layout.
        """
        raise NotImplementedError

    def unpack_wants(self, row: dict, private: Any) -> list[Want]:
        """The files that reading a row must write (where it `unpacks`)."""
        return []

    def unpack(self, row: dict, private: Any, maker: Maker) -> dict:
        """Write them; return the cells that name them."""
        return {}

    def notes(self) -> list[str]:
        """Lines for the end: what was left out, what was found beside the rows."""
        return []


class Sink:
    """Takes a layout's records in order; nothing is to be seen under its final name before `commit()`.

    `gone`: what `commit()` removed of an earlier export.
    """

    gone: tuple[str, ...] = ()

    def prepare(self, record: Any, row: dict) -> None:
        """Before `write()`, and before the row itself is written: RowError refuses it, and the record may still be changed."""

    def write(self, record: Any, row: dict) -> None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def discard(self) -> None:
        raise NotImplementedError


class Files(Sink):
    """A sink of text files below `folder`, made whole together at the end; those of an earlier export that are not written again go.

    `self.file(name)` gives a binary file to write to; `name` is relative to the folder.
    """

    def __init__(self, folder: str, name: str):
        self.folder, self.list = folder, os.path.join(folder, FOLDER, f"files-{name}.json")
        self.files: dict[str, Any] = {}

    def file(self, name: str, opened: Callable[[str], Any] = open_whole):
        """The file `name`; `opened(path)` opens it the first time (anything with commit() and discard())."""
        if name not in self.files:
            path = os.path.join(self.folder, name)
            make_folder(os.path.dirname(path))
            self.files[name] = opened(path)
        return self.files[name]

    def commit(self) -> None:
        before = listed(self.list)
        make_folder(os.path.dirname(self.list))
        names = open_whole(self.list)
        names.write(json.dumps(sorted(self.files)).encode())
        for file in self.files.values():
            file.commit()
        self.gone = removed(self.folder, before - self.files.keys())
        names.commit()

    def discard(self) -> None:
        for file in self.files.values():
            file.discard()


class Originals:
    """Rows as they were before they were laid out: `DIR/.avtools/rows-NAME.jsonl`.

    The first line holds the columns and the table's format, each further one the digest of a record and its row.
    Reading the layout again gives such a row back for each record that is unchanged.
    """

    def __init__(self, folder: str, name: str, columns: list[str], format_: str):
        self.path = originals_path(folder, name)
        make_folder(os.path.dirname(self.path))
        self.file = open_whole(self.path)
        self._line({"columns": columns, "format": format_})

    def write(self, record: Any, row: dict) -> None:
        self._line([digest(record), row])

    def _line(self, value: Any) -> None:
        self.file.write(json.dumps(value, ensure_ascii=True).encode() + b"\n")  # ASCII: file names may hold any bytes

    def commit(self) -> None:
        self.file.commit()

    def discard(self) -> None:
        self.file.discard()


class Restored:
    """The rows of :class:`Originals`, found by their records; most cheaply in the order that they were written in."""

    def __init__(self, path: str):
        self.path = path
        self.columns: list[str] = []
        self.format: str | None = None
        self.found = self.strange = 0
        self._file: BinaryIO | None = None
        self._index = None
        self._number = 0
        try:
            self._file = open(path, "rb")
            head = json.loads(self._file.readline())
            self.columns, self.format = head["columns"], head["format"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from None

    def __bool__(self) -> bool:
        return self._file is not None

    def row(self, record: Any) -> tuple[int, dict] | None:
        """The number and the row that was laid out as this record (each is given once), or None."""
        wanted = digest(record)
        try:
            found = self._row(wanted)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._damaged(error) from None
        if found is None:
            self.strange += 1
        else:
            self.found += 1
        return found

    def _row(self, wanted: str) -> tuple[int, dict] | None:
        found = None
        if self._index is None:
            start = self._file.tell()
            line = self._file.readline()
            if line[2:34] == wanted.encode():
                found, self._number = (self._number, json.loads(line)[1]), self._number + 1
            else:
                self._index = _Index(self._file, start, self._number)
        if self._index is not None and (place := self._index.take(wanted)) is not None:
            self._file.seek(place[1])
            found = place[0], json.loads(self._file.readline())[1]
        return found

    def _damaged(self, error: Exception) -> UsageError:
        return UsageError(f"{shown(self.path)}: cannot be read ({error}); remove it to read the layout without it")

    def notes(self) -> list[str]:
        if self._file is None:
            return []
        line = f"{self.found} rows are as they were exported from here"
        return [line + f", {self.strange} were added or changed since" if self.strange else line]


class _Index:
    """Where the rows of a file of originals lie, by the digests of their records: 25 bytes a row."""

    def __init__(self, file: BinaryIO, start: int, number: int):
        import numpy

        digests, places = array.array("Q"), array.array("Q")
        file.seek(start)
        while line := file.readline():
            digests.append(int(line[2:18], 16))
            places.append(start)
            start += len(line)
        order = numpy.argsort(numpy.frombuffer(digests, "u8"), kind="stable") if digests else numpy.zeros(0, int)
        self._first, self._file = number, file
        self._digests = numpy.frombuffer(digests, "u8")[order] if digests else numpy.zeros(0, "u8")
        self._places = numpy.frombuffer(places, "u8") if places else numpy.zeros(0, "u8")
        self._order, self._taken = order, bytearray(len(order))

    def take(self, wanted: str) -> tuple[int, int] | None:
        """The number and the place of the first row of this digest that was not taken yet."""
        at = int(self._digests.searchsorted(int(wanted[:16], 16)))
        while at < len(self._order) and int(self._digests[at]) == int(wanted[:16], 16):
            if not self._taken[at]:
                place = int(self._places[self._order[at]])
                self._file.seek(place)
                if self._file.read(34)[2:] == wanted.encode():  # 64 of the 128 bits are in the index
                    self._taken[at] = 1
                    return self._first + int(self._order[at]), place
            at += 1
        return None


def in_order(known: Restored, streams: Iterable[Iterator[Item]], holds: tuple[str, ...]) -> Iterator[tuple[dict, Item]]:
    """The rows of several lists, each with its item: in the order in which they were exported, a new one after the one before it.

    Of an exported row, only the cells that the layout `holds` are taken from the item.  Where nothing was exported,
    the lists follow one another.
    """
    if not known:
        for stream in streams:
            for item in stream:
                yield item.cells, item
        return

    def numbered(stream):
        last = -1
        for item in stream:
            found = known.row(item.record)
            if found is None:
                yield last, item.cells, item
                continue
            last, row = found
            yield last, {**row, **{column: item.cells[column] for column in holds if item.cells.get(column)}}, item

    for _, row, item in heapq.merge(*map(numbered, streams), key=lambda one: one[0]):
        yield row, item


def split_of(row: dict) -> str:
    """The name of the list that a row belongs to: its cell `split`, else `train`."""
    name = row.get("split")
    if name in (None, ""):
        return "train"
    if not isinstance(name, str) or name in (".", "..") or not _PLAIN.fullmatch(name):
        raise RowError(f"split {name!r} cannot be a file's name; use letters, digits, '-', '_' and '.'")
    return name


def json_items(path: str) -> Iterator[tuple[Any, str]]:
    """The items of a JSON list, or of JSON lines, with their origins, one after another: such lists have millions.

    UsageError, naming file and line or item, for anything else.
    """
    decoder, name = json.JSONDecoder(), shown(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(1 << 16).lstrip()
            if text[:1] != "[":
                if not text and not path.endswith(".jsonl"):
                    raise UsageError(f"{name}: is empty, and no list; get it again")
                file.seek(0)
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield json.loads(line), f"{name}:{number}"
                return
            text, number, ended = text[1:], 0, False
            while True:
                text = text.lstrip()
                if number and text[:1] == ",":
                    rest = text[1:].lstrip()
                elif number and text and text[0] != "]":
                    raise UsageError(f"{name}: item {number + 1}: a comma is missing before it")
                else:
                    rest = text
                if rest[:1] == "]" and rest is text:
                    if (rest[1:] + file.read()).strip():
                        raise UsageError(f"{name}: something follows the list's end")
                    return
                try:
                    item, end = decoder.raw_decode(rest)
                    if end == len(rest) and not ended:
                        raise ValueError  # a number may go on in the next block
                except ValueError as error:
                    more = file.read(max(1 << 16, len(text)))
                    if not more:
                        if ended:
                            raise UsageError(f"{name}: item {number + 1}: {getattr(error, 'msg', 'not JSON')}; the file is cut off or damaged") from None
                        ended = True
                    text += more
                    continue
                number += 1
                yield item, f"{name}: item {number}"
                text = rest[end:]
    except json.JSONDecodeError as error:
        raise UsageError(f"{name}:{number}: {error.msg}; a line must be one JSON object") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name}: not UTF-8; save it so") from None
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from None


def originals_path(folder: str, name: str) -> str:
    return os.path.join(folder, FOLDER, f"rows-{name}.jsonl")


def originals_of(source: str, name: str) -> str:
    """Where the originals of a layout's folder, or of a list in it, are."""
    return originals_path(source if os.path.isdir(source) else os.path.dirname(source), name)


def digest(record: Any) -> str:
    """32 hexadecimal digits that stand for a JSON value."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def make_folder(path: str) -> None:
    try:
        os.makedirs(path or ".", exist_ok=True)
    except OSError as error:
        raise FatalError(f"{path}: cannot be made ({error.strerror}); choose another -d DIR") from None


def listed(path: str) -> set[str]:
    """The names in the list that an earlier export left."""
    try:
        with open(path, encoding="utf-8") as file:
            return set(json.load(file))
    except (OSError, ValueError, TypeError):
        return set()


def removed(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """Remove files; those that were there."""
    gone = []
    for name in sorted(names):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
            gone.append(name)
    return tuple(gone)


def caption_column(row: dict, *columns: str) -> str | None:
    """The first of `columns` that holds a caption; `placeholder` beside placeholder.mp4, as JavisDiT's tables have it, is none."""
    dummy = os.path.basename(str(row.get("path"))) == PLACEHOLDER
    return next((column for column in columns if row.get(column) and not (dummy and row[column] == NO_CAPTION)), None)


def caption_of(row: dict, *columns: str) -> str:
    """The first caption that there is in `columns`, as text; RowError where it is none."""
    column = caption_column(row, *columns)
    value = row[column] if column else ""
    if isinstance(value, (list, dict)):
        raise RowError(f"column {column} holds several values and no caption; make it a text")
    return cell_text(value)


def told_once(cells: dict, column: str, value: Any, name: str, item: dict, origin: str) -> None:
    """Set a cell that an item of a list tells by `name`; UsageError where another name says something else of it."""
    if value in (None, "") and column in cells:
        return
    if cells.get(column) not in (None, "", value):
        other = next((key for key, known in item.items() if key != name and known == cells[column]), column)
        raise UsageError(f"{origin}: {other!r} and {name!r} say different things of {column}; leave one")
    cells[column] = value
