"""Tables and media files as one stream of rows.

Text is UTF-8 with surrogateescape, so file names that are not UTF-8 keep their bytes.  Nothing is read ahead
of need: a row is there as soon as its line has arrived.
"""

import csv
import io
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO, NamedTuple

from avtools.errors import FatalError, UsageError
from avtools.rows.formats import BLANK, format_of, kind_of, known_format, shown, sniff

BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 16


class Record(NamedTuple):
    """A row and where it came from: `table.csv:17`, `t.parquet:row 5`, `argument clip.mp4`, `<stdin>:17`."""

    row: dict
    origin: str


def open_rows(
    inputs: Sequence[str],
    from_format: str | None = None,
    shard: tuple[int, int] | None = None,
    stdin: BinaryIO | None = None,
) -> "Rows":
    """Open tables, media files and `-` (standard input, also where `inputs` is empty) as one stream of rows.

    `from_format` (`--from`) overrides what names and first bytes say of tables.  `shard` is (I, N): the I-th
    of N contiguous slices of all rows, 1-based; what is not a regular file is then first spooled to disk.
    Raise UsageError for whatever is missing, a directory, or no table.
    """
    if from_format is not None:
        from_format = known_format(from_format, "--from")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise UsageError(f"--shard {shard[0]}/{shard[1]}: I/N needs 1 <= I <= N")
    inputs = list(inputs) or ["-"]
    if inputs.count("-") > 1:
        raise UsageError("standard input (-) can be read only once")
    parts: list[_Part] = []
    try:
        for name in inputs:
            parts.append(_open_part(name, from_format, shard is not None, stdin))
        return Rows(parts, shard)
    except BaseException:
        for part in parts:
            part.close()
        raise


class Rows:
    """An iterable of `Record`, once through.

    `columns` is the union of all inputs' headers in order of first appearance (for JSONL: the first row's
    keys), `format` that of the first table (`csv` where there are only media files), `total` the number of
    rows where it is known without reading them, else None.
    """

    def __init__(self, parts: "Sequence[_Part]", shard: tuple[int, int] | None = None):
        self._parts = parts
        self.columns: list[str] = list(dict.fromkeys(chain.from_iterable(part.columns for part in parts)))
        self.format: str = next((part.format for part in parts if part.format), "csv")
        self.total: int | None = None
        self._slice: tuple[int, int] | None = None
        if shard:
            index, count = shard
            total = sum(part.count() for part in parts)
            self._slice = (index - 1) * total // count, index * total // count
            self.total = self._slice[1] - self._slice[0]
        elif all(part.known is not None for part in parts):
            self.total = sum(part.known for part in parts)

    def __iter__(self) -> Iterator[Record]:
        if self._slice is None:
            for part in self._parts:
                yield from part.records()
            return
        start, stop = self._slice
        for part in self._parts:
            count = part.count()
            if start < count and stop > 0:
                yield from islice(part.records(), max(start, 0), stop)
            start, stop = start - count, stop - count

    @property
    def first(self) -> int:
        """The place of the first row of the shard among all rows, from 0."""
        return self._slice[0] if self._slice else 0

    def before(self) -> Iterator[Record]:
        """The rows before those of the shard."""
        left = self.first
        for part in self._parts if left else ():
            yield from islice(part.records(), left)
            left = max(0, left - part.count())

    def close(self) -> None:
        """Close all files."""
        for part in self._parts:
            part.close()

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Part:
    """One INPUT: its header now, its rows when they are asked for."""

    format: str | None = None
    columns: list[str] = []
    known: int | None = None  # the number of rows, where it costs nothing

    def records(self) -> Iterator[Record]:
        raise NotImplementedError

    def count(self) -> int:
        if self.known is None:
            self.known = sum(1 for _ in self.records())
        return self.known

    def close(self) -> None:
        pass


class _Media(_Part):
    known = 1

    def __init__(self, path: str, kind: str):
        self.columns = ["audio_path" if kind == "sound" else "path"]
        self.path = path

    def records(self):
        yield Record({self.columns[0]: self.path}, f"argument {shown(self.path)}")


class _Table(_Part):
    """A table that is opened anew each time (files: thousands of shards must not exhaust descriptors), or once."""

    def __init__(self, name: str, format: str | None, open: Callable[[], BinaryIO], once: bool):
        self._name, self._open, self._held = name, open, None
        reader = self._read(format)
        self.format, self.columns, self.known = reader.format, reader.columns, reader.known
        if once:
            self._held = reader
        else:
            reader.close()

    def _read(self, format: str | None):
        file = self._open()
        try:
            return _reader(file, self._name, format)
        except BaseException:
            file.close()
            raise

    def records(self):
        reader, self._held = self._held or self._read(self.format), None
        try:
            yield from reader.records()
        finally:
            reader.close()

    def close(self):
        if self._held:
            self._held.close()
            self._held = None


def _open_part(path: str, format: str | None, spool: bool, stdin: BinaryIO | None) -> _Part:
    """Open one INPUT."""
    if path == "-":
        file = stdin or (sys.stdin and sys.stdin.buffer)
        if not file:
            raise UsageError("standard input is closed; name a table")
        if not spool:
            return _Table("<stdin>", format, lambda: _Unowned(file), once=True)
        return _Table("<stdin>", format, _spooled(file, "<stdin>"), once=False)
    name = shown(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}; give a table or media files") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{name} is a directory; list its files first: avtools mkmeta scan video {name}")
    kind = kind_of(path)
    if kind not in (None, "table"):
        return _Media(path, kind)
    named = format_of(path)
    format = named if named == "parquet" else format or named
    if stat.S_ISREG(mode):
        return _Table(name, format, lambda: _opened(path, name), once=False)
    if not spool:
        return _Table(name, format, lambda: _opened(path, name), once=True)
    with _opened(path, name) as file:
        return _Table(name, format, _spooled(file, name), once=False)


def _opened(path: str, name: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"{name}: cannot be opened ({error.strerror})") from None


class _Unowned(io.BufferedIOBase):
    """A stream that is read here and closed by its owner."""

    def __init__(self, file):
        self.read1 = getattr(file, "read1", file.read)

    def seekable(self):
        return False


def _spooled(file: BinaryIO, name: str) -> Callable[[], BinaryIO]:
    """Copy `file` to disk, under no name; return what opens the copy."""
    read = getattr(file, "read1", file.read)
    spool = None
    try:
        spool = tempfile.TemporaryFile()
        while data := _checked(read, name):
            spool.write(data)
        spool.flush()
    except OSError as error:
        raise FatalError(
            f"{name}: cannot be spooled to {tempfile.gettempdir()} ({error.strerror}); set TMPDIR, or give a file"
        ) from None

    def again():
        spool.seek(0)
        return _Unowned(spool)

    return again


def _checked(read: Callable[[int], bytes], name: str) -> bytes:
    try:
        return read(CHUNK)
    except BrokenPipeError:  # reading may flush what was written, and that reader has gone
        raise
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from None


def _reader(file: BinaryIO, name: str, format: str | None):
    """Return what reads `file`, whose format is found out where it is not given."""
    if format == "parquet" or (format is None and _is_parquet(file)):
        return _Parquet(file, name)
    source = _Source(file, name)
    head = source.peek_text()
    if not head:
        # our JSONL writer ends an empty stream with a newline, so that the next command knows it
        if format == "jsonl" or (format is None and source.lines):
            return _Jsonl(source, name)
        raise UsageError(f"{name}: empty, without even a header; an empty JSONL stream needs --from jsonl")
    format = format or sniff(head, name)
    return _Jsonl(source, name) if format == "jsonl" else _Delimited(source, name, format)


def _is_parquet(file: BinaryIO) -> bool:
    if not file.seekable():
        return False
    found = file.read(4) == b"PAR1" and file.seek(-4, os.SEEK_END) and file.read(4) == b"PAR1"
    file.seek(0)
    return bool(found)


class _Source(io.BufferedIOBase):
    """Bytes as they arrive, without a byte-order mark; NUL is refused with the line that it is on."""

    def __init__(self, file: BinaryIO, name: str):
        self._file, self._name = file, name
        self._read = getattr(file, "read1", file.read)
        self._ahead = b""
        self.lines = 0  # ended so far

    def peek_text(self) -> bytes:
        """Return what is there up to and including the first non-blank byte, and maybe more; drop blank lines."""
        data, fresh = b"", True
        while chunk := _checked(self._read, self._name):
            data += chunk
            if fresh and BOM.startswith(data[:3]) and len(data) < 3:
                continue
            if fresh:
                data, fresh = data.removeprefix(BOM), False
            blank = len(data) - len(data.lstrip(BLANK))
            cut = data.rfind(b"\n", 0, blank) + 1
            self.lines += data.count(b"\n", 0, cut)
            data = data[cut:]
            if data.strip(BLANK):
                break
        self._ahead = data
        return data if data.strip(BLANK) else b""

    def read1(self, size: int = -1) -> bytes:
        data, self._ahead = self._ahead, b""
        data = data or _checked(self._read, self._name)
        if b"\0" in data:
            # the good lines first, so that the same input always fails after the same row
            data = data[: data.rfind(b"\n", 0, data.index(b"\0")) + 1]
            if not data:
                raise UsageError(f"{self._name}:{self.lines + 1}: NUL byte; this is binary data, or a damaged table")
            self._ahead = b"\0"
        self.lines += data.count(b"\n")
        return data

    def readable(self):
        return True

    def seekable(self):
        return False

    def close(self):
        self._file.close()
        super().close()


class _Text:
    """A table of text lines."""

    format: str
    columns: list[str]
    known = None

    def __init__(self, source: _Source, name: str):
        self._before = source.lines  # blank lines at the top
        # newline="\n": a carriage return is data until the parser says otherwise
        self._lines = io.TextIOWrapper(source, "utf-8", "surrogateescape", newline="\n")
        self._name = name

    def close(self):
        self._lines.close()


class _Delimited(_Text):
    """CSV or TSV."""

    def __init__(self, source: _Source, name: str, format: str):
        super().__init__(source, name)
        self.format = format
        csv.field_size_limit(2**31 - 1)
        self._reader = csv.reader(self._lines, delimiter="\t" if format == "tsv" else ",", strict=True)
        line, self.columns = next(self._cells())
        if not any(self.columns):
            raise UsageError(f"{name}:{line}: the header names no column")
        _refuse_doubles(self.columns, f"{name}:{line}")

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each record's first line and its cells."""
        reader, before = self._reader, self._before + 1
        while True:
            line = reader.line_num + before
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UsageError(f"{self._name}:{line}: {_csv_reason(str(error))}") from None
            if cells:
                yield line, cells

    def records(self):
        columns, width, name = self.columns, len(self.columns), self._name
        for line, cells in self._cells():
            if len(cells) != width:
                raise UsageError(f"{name}:{line}: {len(cells)} cells, where the header has {width}")
            yield Record(dict(zip(columns, cells)), f"{name}:{line}")


def _refuse_doubles(columns: list[str], where: str) -> None:
    if len(set(columns)) < len(columns):
        double = next(column for column in columns if columns.count(column) > 1)
        raise UsageError(f"{where}: two columns are named {shown(double)!r}; rename one")


def _csv_reason(message: str) -> str:
    if "unexpected end" in message:
        return "a quoted cell that is begun here never ends; the table is cut off, or a quote is not doubled"
    if "new-line character" in message:
        return "a carriage return outside quotes; quote the cell, or end lines with LF or CRLF"
    if "expected after" in message:
        return 'text follows a closing quote; inside a quoted cell a quote is written ""'
    return message


class _Jsonl(_Text):
    """One JSON object per line."""

    format = "jsonl"

    def __init__(self, source: _Source, name: str):
        from jsonlines import InvalidLineError, Reader

        super().__init__(source, name)
        self._line = 0
        self._invalid = InvalidLineError
        # the standard library's parser, whatever else is installed: NaN and odd names must survive
        self._reader = Reader(self._numbered(), loads=json.loads)
        self._first = list(islice(self._objects(), 1))
        self.columns = list(self._first[0].row) if self._first else []

    def _numbered(self) -> Iterator[str]:
        for self._line, line in enumerate(self._lines, self._before + 1):
            yield line

    def _objects(self) -> Iterator[Record]:
        read, name = self._reader.read, self._name
        while True:
            try:
                row = read(type=dict, skip_empty=True)
            except EOFError:
                return
            except self._invalid as error:
                raise UsageError(f"{name}:{self._line}: {_json_reason(error)}") from None
            except RecursionError:
                raise UsageError(f"{name}:{self._line}: nested too deeply") from None
            yield Record(row, f"{name}:{self._line}")

    def records(self):
        return chain(self._first, self._objects())


def _json_reason(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(cause, json.JSONDecodeError):
        return f"not valid JSON ({cause.msg}, column {cause.colno}); each line holds one object"
    return f"not valid JSON ({cause})" if cause else "valid JSON, but no object; each line holds one object"


class _Parquet:
    """Parquet, a batch at a time."""

    format = "parquet"

    def __init__(self, file: BinaryIO, name: str):
        import pyarrow
        import pyarrow.parquet

        if not file.seekable():
            raise UsageError(f"{name}: Parquet cannot be read from a pipe; name the file")
        self._file, self._name, self._error = file, name, pyarrow.ArrowException
        with self._errors():
            self._table = pyarrow.parquet.ParquetFile(file)
            schema = self._table.schema_arrow
        self.columns = schema.names
        self.known = self._table.metadata.num_rows
        _refuse_doubles(self.columns, name)
        is_ = pyarrow.types
        plain = is_.is_string, is_.is_large_string, is_.is_boolean, is_.is_integer, is_.is_float32, is_.is_float64
        self._odd = [not any(test(field.type) for test in plain) for field in schema]

    def _errors(self):
        return _parquet_errors(self._name, self._error)

    def records(self):
        columns, name, row = self.columns, self._name, 0
        with self._errors():
            batches = self._table.iter_batches(batch_size=1024)
        while True:
            with self._errors():
                batch = next(batches, None)
                if batch is None:
                    return
                values = [column.to_pylist() for column in batch.columns]
            for i, odd in enumerate(self._odd):
                if odd:
                    where = f"{name}: column {shown(columns[i])}, row"
                    values[i] = [plain(value, where, row + n) for n, value in enumerate(values[i], 1)]
            for cells in zip(*values) if values else [()] * batch.num_rows:
                row += 1
                yield Record(dict(zip(columns, cells)), f"{name}:row {row}")

    def close(self):
        self._file.close()


class _parquet_errors:
    """Turn pyarrow's exceptions into UsageError."""

    def __init__(self, name: str, error: type[Exception]):
        self._name, self._types = name, (error, OSError, ValueError)

    def __enter__(self):
        pass

    def __exit__(self, _, error, __):
        if isinstance(error, self._types):
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{self._name}: not a readable Parquet file ({reason})") from None


def plain(value: Any, where: str, row: int) -> Any:
    """Return `value` as JSON knows it: times as ISO 8601, durations in seconds, bytes as text, decimals as written."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item, where, row) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where, row) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UsageError(f"{where} {row}: bytes that are not text; leave that column out") from None
    if hasattr(value, "isoformat") and not hasattr(value, "total_seconds"):
        return value.isoformat()
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return value.item() if hasattr(value, "item") else str(value)
