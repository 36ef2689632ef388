"""Rows to CSV, TSV, JSONL or Parquet, on standard output or in a file that appears only when it is whole."""

import csv
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable
from functools import reduce
from operator import itemgetter
from typing import Any, BinaryIO

from avtools.errors import FatalError, RowError, UsageError
from avtools.identity import identity, is_dead
from avtools.rows.formats import format_of, kind_of, known_format, shown

HELD_ROWS = 1000  # written in one go, unless flush() comes first
HELD_BYTES = 1 << 18
GROUP_ROWS = 50_000  # Parquet row groups
GROUP_BYTES = 1 << 23
_PLAIN = frozenset((str, int, float, type(None)))  # what the csv module writes as we want it


def open_writer(target: str | None, format: str | None, columns: list[str], default_format: str) -> "Writer":
    """Open a writer of rows with these `columns`; its header is written at once.

    `target` is `-o` (None or `-`: standard output).  The format is `format` (`--to`), else the suffix of
    `target`, else `default_format` (the input's).  Raise UsageError for an output that cannot be.
    """
    if target == "-":
        target = None
    if format is not None:
        format = known_format(format, "--to")
    else:
        format = (format_of(target) if target else None) or default_format
    if target is None and format == "parquet":
        raise UsageError("Parquet cannot be written to standard output; use -o FILE.parquet, or --to csv or jsonl")
    if target is not None and kind_of(target) not in (None, "table"):
        raise UsageError(f"-o {shown(target)}: that name is a media file's; give the table one of its own")
    columns = list(dict.fromkeys(columns))
    if format == "parquet":
        return _ParquetWriter(target, columns)
    output = _Stream(sys.stdout.buffer, "standard output") if target is None else _open_output(target)
    try:
        if format == "jsonl":
            return _JsonlWriter(output, ends_empty=target is None or format_of(target) != "jsonl")
        return _DelimitedWriter(output, columns, format)
    except BaseException:
        output.discard()
        raise


def cell_text(value: Any) -> str:
    """Return `value` as the text of a CSV cell."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, (dict, list, tuple)):
        try:
            return _compact(value)
        except RecursionError:
            raise RowError("nested too deeply to be written") from None
    return cell_text(plain(value))


class Writer:
    """Takes rows; `flush()` sends those that are ready, `commit()` ends a good output, `discard()` a bad one.

    BrokenPipeError passes through; other failures to write are FatalError.
    """

    def __init__(self, output: "_Stream"):
        self._output = output
        self._held: list[bytes] = []
        self._size = 0

    def _encode(self, row: dict) -> bytes:
        raise NotImplementedError

    def write(self, row: dict) -> None:
        """Take one row; raise RowError, and take nothing, where this format cannot hold it."""
        data = self._encode(row)
        self._held.append(data)
        self._size += len(data)
        if self._size > HELD_BYTES or len(self._held) >= HELD_ROWS:
            self._send()

    def _send(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._size = 0
            self._output.write(data)

    def flush(self) -> None:
        """Send all rows taken so far to the reader."""
        self._send()
        self._output.flush()

    def commit(self) -> None:
        """End the output; a file appears under its name now."""
        self._send()
        self._output.commit()

    def discard(self) -> None:
        """Leave no file behind; without effect after commit()."""
        self._output.discard()


class _DelimitedWriter(Writer):
    def __init__(self, output: "_Stream", columns: list[str], format: str):
        super().__init__(output)
        self._columns, self._known, self._format = columns, frozenset(columns), format
        self._delimiter = "\t" if format == "tsv" else ","
        self._pick = itemgetter(*columns) if len(columns) > 1 else None
        # writerow() returns what write() returns: the line itself.  "\r\n" makes the module quote both
        # characters (with "\n" alone, Python before 3.13 leaves a carriage return bare).
        self._line = csv.writer(_Echo(), delimiter=self._delimiter, lineterminator="\r\n").writerow
        self._held.append(self._header())
        self.flush()

    def _header(self) -> bytes:
        line = self._line(self._columns)[:-2]
        first = line[:1]
        if first in "{\ufeff" or first < " " or not line.strip():
            # bare, the next reader would take it for JSONL, a byte-order mark or a blank line
            if self._columns and not line.startswith('"'):
                line = f'"{self._columns[0]}"' + line[len(self._columns[0]) :]
        try:
            return self._bytes(line)
        except RowError as error:
            raise UsageError(f"a column's name {error}") from None

    def _bytes(self, line: str) -> bytes:
        if "\0" in line:
            raise RowError(f"holds a NUL, which {self._format.upper()} cannot; write --to jsonl")
        try:
            return (line + "\n").encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise RowError(f"holds a lone surrogate, which {self._format.upper()} cannot; write --to jsonl") from None

    def _encode(self, row: dict) -> bytes:
        # Most rows are whole and of text alone; those that need no quotes take a third of the csv module's time
        if self._pick and len(row) == len(self._columns):
            try:
                cells = self._pick(row)
                line = self._delimiter.join(cells)
            except (KeyError, TypeError):
                return self._encode_any(row)
            if '"' in line or "\n" in line or "\r" in line or line.count(self._delimiter) >= len(row):
                line = self._line(cells)[:-2]
            try:
                return self._bytes(line)
            except RowError:
                pass  # to be told in which column
        return self._encode_any(row)

    def _encode_any(self, row: dict) -> bytes:
        if not row.keys() <= self._known:
            extra = next(key for key in row if key not in self._known)
            raise RowError(f"column {shown(extra)} is not in the {self._format.upper()} header; write --to jsonl")
        cells = list(map(row.get, self._columns))
        if not _PLAIN.issuperset(map(type, cells)):
            cells = list(map(cell_text, cells))
        try:
            return self._bytes(self._line(cells)[:-2])
        except RowError as error:
            for column, cell in zip(self._columns, cells):
                if isinstance(cell, str):
                    try:
                        self._bytes(cell)
                    except RowError:
                        raise RowError(f"column {shown(column)} {error}") from None
            raise


class _Echo:
    def write(self, line: str) -> str:
        return line


class _JsonlWriter(Writer):
    def __init__(self, output: "_Stream", ends_empty: bool):
        super().__init__(output)
        # so that the next command knows an empty stream as JSONL where no name says so
        self._end = b"\n" if ends_empty else b""

    def _encode(self, row: dict) -> bytes:
        data = _json_line(row)
        self._end = b""
        return data

    def commit(self) -> None:
        self._held.append(self._end)
        super().commit()


class _ParquetWriter(Writer):
    """Rows are spooled as JSONL beside the target; the columns' types are known only at the end."""

    def __init__(self, target: str, columns: list[str]):
        for column in columns:
            _refuse_surrogates(column, column, UsageError)
        output = _open_output(target)
        if not isinstance(output, _File):
            output.discard()
            raise UsageError(f"-o {shown(target)}: Parquet needs a regular file; write --to csv or jsonl")
        try:
            self._target = output
            super().__init__(_File(output.path, ".rows"))
        except BaseException:
            output.discard()
            raise
        self._types: dict[str, Any] = dict.fromkeys(columns)

    def _encode(self, row: dict) -> bytes:
        data = _json_line(row)
        for column, value in row.items():
            known = self._types.get(column)
            found = "empty" if isinstance(value, str) and not value else type_of(value, column)
            if found != known or column not in self._types:
                _refuse_surrogates(column, column)
                if "string" in (known, found) and {known, found} <= _SCALARS:
                    self._types[column] = "string"  # text among numbers: all of them as text, as in CSV
                else:
                    self._types[column] = widen(known, found, column)
        try:
            data.decode()
            if b"\\ud" in data:
                raise ValueError
        except ValueError:
            for column, value in row.items():
                _refuse_surrogates(_compact(value), column)
        return data

    def commit(self) -> None:
        import pyarrow
        import pyarrow.parquet

        self.flush()
        schema = pyarrow.schema([(column, arrow_type(pyarrow, t, column)) for column, t in self._types.items()])
        try:
            with (
                open(self._output.temporary, "rb") as spool,
                pyarrow.parquet.ParquetWriter(self._target.file, schema) as parquet,
            ):
                while rows := [json.loads(line) for line in spool.readlines(GROUP_BYTES)]:
                    for start in range(0, len(rows), GROUP_ROWS):
                        parquet.write_table(self._group(pyarrow, rows[start : start + GROUP_ROWS], schema))
        except OSError as error:
            raise self._target.failed(error) from None
        self._target.commit()
        self._output.discard()

    def _group(self, pyarrow, rows: list[dict], schema):
        arrays = []
        for field in schema:
            cells = [row.get(field.name) for row in rows]
            if field.type == pyarrow.string():
                cells = [cell if cell is None or isinstance(cell, str) else cell_text(cell) for cell in cells]
            else:
                cells = [None if cell == "" else cell for cell in cells]  # beside typed values it means "nothing"
            try:
                arrays.append(pyarrow.array(cells, field.type))
            except (pyarrow.ArrowException, ValueError, OverflowError) as error:
                reason = " ".join(str(error).split())
                raise UsageError(f"column {shown(field.name)}: {reason}; write --to jsonl") from None
        # a table without columns keeps no rows: nothing to say of them
        return pyarrow.Table.from_arrays(arrays, schema=schema)

    def discard(self) -> None:
        self._target.discard()
        super().discard()


class _Stream:
    """Standard output, a pipe or a device: written as we go."""

    def __init__(self, file: BinaryIO, name: str):
        self.file, self.name = file, name

    def failed(self, error: OSError) -> Exception:
        if isinstance(error, BrokenPipeError):
            return error
        return FatalError(f"{self.name}: cannot be written ({error.strerror or error})")

    def write(self, data: bytes) -> None:
        try:
            self.file.write(data)
        except OSError as error:
            raise self.failed(error) from None

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            raise self.failed(error) from None

    def commit(self) -> None:
        self.flush()

    def discard(self) -> None:
        pass


class _File(_Stream):
    """A file under a temporary name beside `path`, renamed at commit()."""

    def __init__(self, path: str, tag: str = ""):
        folder, base = os.path.split(path)
        # a part for people, a hash for what is cut off so that the name with its additions is not too long
        whole = hashlib.blake2b(os.fsencode(base), digest_size=5).hexdigest()
        short = f"{os.fsdecode(os.fsencode(base)[:120])}.{whole}"
        self.path = path
        self.temporary = os.path.join(folder, f"{short}{tag}.{identity()}.tmp")
        try:
            self._remove_leftovers(folder, short + tag)
            super().__init__(open(self.temporary, "xb"), shown(path))
        except FileExistsError:
            raise UsageError(f"{shown(path)} is given for two outputs; give each its own file") from None
        except FileNotFoundError:
            raise UsageError(f"-o {shown(path)}: there is no directory {shown(folder)}; make it first") from None
        except NotADirectoryError:
            raise UsageError(f"-o {shown(path)}: {shown(folder)} is not a directory") from None
        except OSError as error:
            raise FatalError(f"-o {shown(path)}: cannot be written ({error.strerror})") from None

    @staticmethod
    def _remove_leftovers(folder: str, start: str) -> None:
        """Remove what killed writers of the same file left."""
        pattern = re.compile(re.escape(start) + r"\.([^.]+-\d+-\d+)\.tmp")
        for name in os.listdir(folder):
            if (found := pattern.fullmatch(name)) and is_dead(found[1], os.path.join(folder, name)):
                os.unlink(os.path.join(folder, name))

    def commit(self) -> None:
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise self.failed(error) from None

    def discard(self) -> None:
        try:
            self.file.close()
        except OSError:  # what could not be flushed is not wanted any more
            pass
        try:
            os.unlink(self.temporary)
        except OSError:
            pass


class _Device(_Stream):
    def discard(self) -> None:
        try:
            self.file.close()
        except OSError:
            pass

    def commit(self) -> None:
        super().commit()
        self.discard()


def _open_output(target: str) -> _Stream:
    path = os.path.realpath(target)  # a link's destination is replaced, not the link
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # usually not there yet; if not, opening it says why
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise UsageError(f"-o {shown(target)} is a directory; name a file in it")
    if stat.S_ISREG(mode):
        return _File(path)
    try:
        return _Device(open(target, "wb"), shown(target))
    except OSError as error:
        raise FatalError(f"-o {shown(target)}: cannot be written ({error.strerror})") from None


def open_whole(path: str) -> "_Stream":
    """Open a binary file that appears under `path` only at `commit()`; `write(data)`, `discard()`; FatalError where it cannot be."""
    return _open_output(path)


class Extra:
    """A file of one piece that is written with the table's commit and not without it (:attr:`avtools.stream.Work.tees`).

    `option` names it in messages; `content` gives its bytes, which :meth:`make` takes before anything is committed.
    """

    def __init__(self, option: str, path: str, content: Callable[[], bytes]):
        self.option, self.path, self.content, self.data = option, path, content, b""
        self.temporary = f"{path}.{identity()}.tmp"
        self.file = None

    def open(self, columns, header, format_) -> None:
        folder, base = os.path.split(self.path)
        if not os.path.isdir(folder or "."):
            raise UsageError(f"{self.option} {shown(self.path)}: there is no directory {shown(folder)}; make it first")
        if os.path.isdir(self.path) or self.path == "-":
            raise UsageError(f"{self.option} {shown(self.path)}: give the name of a file")
        try:
            for name in os.listdir(folder or "."):  # what killed runs left
                left = re.fullmatch(re.escape(base) + r"\.([^.]+-\d+-\d+)\.tmp", name)
                if left and is_dead(left[1], os.path.join(folder, name)):
                    os.unlink(os.path.join(folder, name))
            self.file = open(self.temporary, "xb")
        except FileExistsError:
            raise UsageError(f"{self.option} {shown(self.path)} is given for two outputs; give each its own file") from None
        except OSError as error:
            raise self._failed(error) from None

    def make(self) -> None:
        self.data = self.content()

    def write(self, row: dict) -> None:
        """Nothing: the content comes whole."""

    def commit(self) -> None:
        try:
            with self.file:
                self.file.write(self.data)
                self.file.flush()
                os.fsync(self.file.fileno())
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise self._failed(error) from None

    def discard(self) -> None:
        if self.file is not None:
            self.file.close()
            if os.path.exists(self.temporary):
                os.unlink(self.temporary)

    def _failed(self, error: OSError) -> FatalError:
        return FatalError(f"{self.option} {shown(self.path)}: cannot be written ({error.strerror})")


def plain(value: Any) -> Any:
    """Return what the formats know in place of `value`: a numpy scalar's number, a path's text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a row cannot hold a {type(value).__name__}")


# rows are trees; the test for circles would cost a fifth, and the recursion limit ends one anyway
_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=plain).encode
_json_ascii = json.JSONEncoder(check_circular=False, default=plain).encode
_compact = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=plain, separators=(",", ":")).encode


def _json_line(row: dict) -> bytes:
    try:
        line = _json(row) + "\n"
    except RecursionError:
        raise RowError("nested too deeply to be written") from None
    try:
        return line.encode()
    except UnicodeEncodeError:
        pass
    try:
        data = line.encode("utf-8", "surrogateescape")  # a file name's bytes as they were
        if data.decode("utf-8", "surrogateescape") == line:
            return data
    except UnicodeEncodeError:
        pass
    return (_json_ascii(row) + "\n").encode()


def _refuse_surrogates(text: str, column: str, error: type[Exception] = RowError) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise error(f"column {shown(column)} is not valid Unicode, which Parquet needs; write --to jsonl") from None


_SCALARS = {"bool", "int", "float", "string"}
# A Parquet column's type: None (nothing yet), "empty" (only empty cells), "bool", "int", "float", "string",
# (type,) for a list, {name: type} for an object.


def type_of(value: Any, column: str) -> Any:
    if value is None:
        return None
    for kind, name in ((str, "string"), (bool, "bool"), (float, "float")):
        if isinstance(value, kind):
            return name
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise UsageError(f"column {shown(column)}: {value} does not fit into 64 bits; write --to jsonl")
        return "int"
    if isinstance(value, (list, tuple)):
        return (reduce(lambda known, item: widen(known, type_of(item, column), column), value, None),)
    if isinstance(value, dict):
        return {key: type_of(item, column) for key, item in value.items()}
    return type_of(plain(value), column)


def widen(known: Any, found: Any, column: str) -> Any:
    """Return the type that holds both."""
    if found is None or found == known:
        return known
    if known is None or known == "empty":
        return found
    if found == "empty":
        return known
    if isinstance(known, str) and isinstance(found, str) and {known, found} == {"int", "float"}:
        return "float"
    if isinstance(known, tuple) and isinstance(found, tuple):
        return (widen(known[0], found[0], column),)
    if isinstance(known, dict) and isinstance(found, dict):
        return {key: widen(known.get(key), found.get(key), column) for key in known | found}
    raise UsageError(
        f"column {shown(column)}: {_called(known)} beside {_called(found)} have no common Parquet type; "
        "write --to jsonl"
    )


def _called(kind: Any) -> str:
    return kind if isinstance(kind, str) else "list" if isinstance(kind, tuple) else "object"


def arrow_type(pyarrow, kind: Any, column: str):
    if isinstance(kind, tuple):
        return pyarrow.list_(arrow_type(pyarrow, kind[0], column))
    if isinstance(kind, dict):
        if not kind:
            raise UsageError(f"column {shown(column)}: Parquet cannot hold an object without keys; write --to jsonl")
        return pyarrow.struct([(key, arrow_type(pyarrow, item, column)) for key, item in kind.items()])
    return {"bool": pyarrow.bool_(), "int": pyarrow.int64(), "float": pyarrow.float64()}.get(kind, pyarrow.string())
