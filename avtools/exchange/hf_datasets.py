"""The layout `hf-datasets`: Parquet files with the media inside, as Hugging Face `datasets` reads and its hub shows them.

DIR/data/SPLIT-00000-of-0000N.parquet and DIR/README.md, whose head tells the splits.  `path` becomes the column `video` (feature
Video), `audio_path` `audio` (Audio), `image_path` `image` (Image); other columns whose files are held keep their names.  Such a
column is struct<bytes, path>: the file's content as it is, and its name below a folder (the row's relpath with the file's
suffix).  A cell there that names no file that is held has no bytes; placeholder.mp4 is null.  All other cells are columns of the
types that our Parquet writer gives; a column whose values have no common type holds them as JSON text.

Types are known when all rows are: rows wait in a temporary file, and the media are read at the end, row group by row group.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from avtools import exchange
from avtools.errors import FatalError, MediaError, RowError, UsageError
from avtools.exchange import Item
from avtools.exchange._packed import (
    BLOCK, GUESSES, Held, Packed, Whole, base_of, blocks_of, clean, files_below, held, json_text, known_split,
)  # fmt: skip
from avtools.outputs import FOLDER, safe_relpath, strip_suffix
from avtools.rows import writing
from avtools.rows.formats import IMAGE, SOUND_INPUT, VIDEO_INPUT, shown
from avtools.rows.keys import PLACEHOLDER
from avtools.rows.reading import plain
from avtools.rows.writing import cell_text

GROUP_ROWS, GROUP_BYTES = 100, 100_000_000  # a row group is what a streaming reader fetches at once
LARGEST = 2**31 - 2**20  # bytes of one file: Arrow's `binary` counts in 32 bits
FEATURES = {"Video": VIDEO_INPUT, "Audio": SOUND_INPUT, "Image": IMAGE}
NAMES = {("path", "Video"): "video", ("video_path", "Video"): "video", ("audio_path", "Audio"): "audio", ("audio_file", "Audio"): "audio", ("image_path", "Image"): "image"}
COLUMNS = {"video": "path", "audio": "audio_path", "image": "image_path"}


class HfDatasets(Packed):
    """See the module."""

    options = ("shard_size",)

    # --- writing

    def export(self, row, maker):
        _refuse_odd(row, RowError)
        files = held(row, self.left)
        for file in files:
            if file.size > LARGEST:
                raise MediaError(f"{file.path}: {file.size} bytes; a cell of Parquet holds less than 2 GiB, use webdataset")
        base = base_of(row, files)
        names = {file.column: clean(f"{base}.{file.extension}") for file in files}
        cells = {c: v for c, v in row.items() if c not in names and not _is_placeholder(v)}
        json_text(cells)  # nested too deeply: this row's fault
        return {}, {"cells": canonical(cells), "held": names, "split": _split_of(row)}

    def sink(self, folder, columns, format_):
        _refuse_odd(columns, UsageError)
        return _Files(self, folder, columns, (self.settings.get("shard_size") or 1000) * 1_000_000)

    # --- reading

    def read(self, source):
        paths = files_below(source, (".parquet",))
        if not paths:
            raise UsageError(f"{source}: no .parquet file below it; give the folder of the data set, or its files")
        files = [_Parquet(path) for path in paths]
        columns = dict.fromkeys(column for file in files for column in file.columns)
        for file in files:
            self.counts.update(file.left)
        splits: dict[str, list[_Parquet]] = {}
        for file in files:
            splits.setdefault(file.split if file.split else "", []).append(file)
        return list(columns), [self._items(own) for own in splits.values()]

    def _items(self, files: "list[_Parquet]") -> Iterator[Item]:
        return (item for file in files for item in self._items_of(file))

    def _items_of(self, file: "_Parquet") -> Iterator[Item]:
        for number, (cells, names) in enumerate(file.rows()):
            private: dict[str, Any] = {"media": []}
            origin = f"{shown(file.path)}:row {number + 1}"
            # a name without bytes stays the cell that it was
            told = {c: v for c, v in cells.items() if c not in names and not _is_placeholder(v)}
            within = {c: name[0] for c, name in names.items() if name and name[1]}
            outside = {c: name[0] for c, name in names.items() if name and not name[1]}
            record = {"cells": canonical({**told, **outside}), "held": within, "split": file.split or "train"}
            cells.update(outside)
            try:
                for column, name in within.items():
                    self._place(file, number, column, name, cells, private)
            except RowError as error:
                private = {"error": str(error)}
            yield Item(record, cells, origin, private)

    def _place(self, file, number, column, name, cells, private) -> None:
        relpath = cells.get("relpath")
        whole = safe_relpath(name or (relpath if isinstance(relpath, str) and relpath else f"{os.path.splitext(os.path.basename(file.path))[0]}-{number:06d}"))
        stem, suffix = os.path.splitext(whole)
        suffixes = [suffix] if suffix and name else list(GUESSES)
        base = stem if name else strip_suffix(whole) + ("" if column in COLUMNS.values() else "." + column.removesuffix("_path"))
        extension = suffix[1:] if name else "?"
        where, locator = self.places.place(base, extension, [file.path, *file.state, number, file.theirs[column]])
        private["media"].append([column, where, suffixes, locator])
        if file.adds_names and not cells.get("relpath"):
            cells["id"], cells["relpath"] = os.path.basename(where), where + (suffix if name else "")

    def blocks(self, locator, role=""):
        path, size, mtime, row, column = locator
        try:
            data = _kept_open(path, size, mtime, column, role).bytes_of(row)
        except (ValueError, OSError, MemoryError) as error:  # pyarrow's errors are of these kinds
            raise MediaError(f"{path}: row {row + 1}, column {shown(column)}: cannot be read ({' '.join(str(error).split())[:200]})") from None
        for start in range(0, len(data), BLOCK):
            yield data[start : start + BLOCK]

    def notes(self):
        lines = [f"{n} cells of {column} name no file and stay as they are" for column, n in self.left.items()]
        if self.counts["made"] or self.counts["kept"]:
            lines.insert(0, f"Parquet files: {self.counts.pop('made', 0)} made, {self.counts.pop('kept', 0)} without change")
        if self.counts.pop("card", 0):
            lines.append("README.md is not as it was written here: it stays; see that its 'configs' name the splits")
        lines += [f"column {shown(column)} holds bytes inside lists or objects and was left out ({n} files)" for column, n in self.counts.items() if n]
        return lines


def canonical(value: Any) -> Any:
    """What is left of a cell's value through the types of a Parquet column: 3, 3.0 and "3" are one, and so are "" and null."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if value[0] in "-0123456789[{tf":  # maybe the text of something else: then as that
            with contextlib.suppress(ValueError, RecursionError):
                known = json.loads(value)
                if not isinstance(known, str) and cell_text(known) == value:
                    return canonical(known)
        return clean(value)
    if isinstance(value, dict):
        return {"{}": {clean(key): cell for key, item in value.items() if (cell := canonical(item)) is not None}} if value else "{}"
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(float(value)) if abs(value) < 2**53 else cell_text(value)  # beyond, integers are never made floats
    return cell_text(value)


def _refuse_odd(columns: Iterable[str], error: type[Exception]) -> None:
    for column in columns:
        if clean(column) != column:
            raise error(f"column {shown(column)} is not valid Unicode, which Parquet needs; rename it")


def _split_of(row: dict) -> str:
    """The row's split; what `datasets` would not take for a split's name is refused."""
    split = exchange.split_of(row)
    if not re.fullmatch(r"\w+(\.\w+)*", split, re.ASCII):
        raise RowError(f"split {split!r}: a split of datasets is called by letters, digits, _ and single dots; rename it")
    return split


def _is_placeholder(cell) -> bool:
    return isinstance(cell, str) and os.path.basename(cell) == PLACEHOLDER


# --- written ---------------------------------------------------------------------------------------------------------


class _Files(Whole):
    """Takes rows into a temporary file for each split, and their columns' types; writes Parquet at the end."""

    def __init__(self, layout: HfDatasets, folder: str, columns: list[str], limit: int):
        super().__init__(folder, "hf-datasets", r"(?:\w[\w.]*-\d{5}-of-\d{5}\.parquet|README\.md)")
        self.layout, self.limit = layout, limit
        self.sweep(folder)
        self.sweep(os.path.join(folder, "data"))
        self.types: dict[str, Any] = dict.fromkeys(columns)
        self.kinds: dict[str, set[str | None]] = {}  # held column -> the features that its files' suffixes name
        self.large: set[str] = set()  # columns with integers that a float would round
        self.splits: dict[str, _Split] = {}
        self.plan = hashlib.blake2b(json.dumps([HfDatasets.version, columns, limit]).encode(), digest_size=16)

    def write(self, record, row):
        files = self.held
        inside = {file.column: [record["held"][file.column], os.path.abspath(file.path), *file[3:]] for file in files}
        for file in files:
            suffix = file.extension.rpartition(".")[2]
            self.kinds.setdefault(file.column, set()).add(next((kind for kind, known in FEATURES.items() if suffix in known), None))
        cells = {column: cell for column, cell in row.items() if column not in inside}
        for column in row:
            self.types.setdefault(column, None)
        for column, cell in cells.items():
            self.types[column] = _widened(self.types[column], cell, column)
            if isinstance(cell, int) and abs(cell) >= 2**53:
                self.large.add(column)
        line = json_text([cells, inside]).encode() + b"\n"
        split = self.splits.get(record["split"])
        if split is None:
            split = self.splits[record["split"]] = _Split(os.path.join(self.folder, FOLDER))
        split.add(line, sum(file.size for file in files), self.limit)
        self.plan.update(json.dumps(record["split"]).encode() + line)

    def commit(self):
        names = self._names_of()
        made = os.path.join(self.folder, FOLDER, "made-hf-datasets.json")
        before = {}
        with contextlib.suppress(OSError, ValueError):
            with open(made, encoding="utf-8") as file:
                before = json.load(file)
        plan, states, counts = self.plan.hexdigest(), {}, self.layout.counts
        if not self.layout.overwrite and before.get("plan") == plan and all(self._state(name) == state for name, state in before["files"].items()):
            states = before["files"]
            for name in states:
                self.keep(name)
            counts["kept"] += len(states)
        else:
            self._write_files(names, states)
            counts["made"] += len(states)
        card = self._card(before)
        notes = self.begin(os.path.relpath(made, self.folder), listed=False)
        notes.write(json.dumps({"plan": plan, "files": states, "card": card}).encode())
        self.end(notes)
        super().commit()

    def _names_of(self) -> dict[str, list[str]]:
        if not self.splits:  # a table without rows is one, too
            self.splits["train"] = _Split(os.path.join(self.folder, FOLDER))
        return {
            split: [f"data/{split}-{number:05d}-of-{len(rows.files):05d}.parquet" for number in range(len(rows.files))]
            for split, rows in self.splits.items()
        }

    def _state(self, name: str) -> list[int] | None:
        try:
            status = os.stat(os.path.join(self.folder, name))
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]

    def _card(self, before: dict) -> str | None:
        """Write README.md, unless someone else's is there; the digest of ours."""
        lines = [f"  - split: {split}\n    path: data/{split}-*\n" for split in self.splits]
        text = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(lines) + "---\n\nWritten by `avtools mkmeta export hf-datasets`.\n"
        digest, found = hashlib.sha256(text.encode()).hexdigest(), None
        with contextlib.suppress(FileNotFoundError):
            with open(os.path.join(self.folder, "README.md"), "rb") as file:
                found = hashlib.sha256(file.read()).hexdigest()
        if found not in (None, digest, before.get("card")):
            self.layout.counts["card"] += 1
            self.keep("README.md")
            return before.get("card")
        if found == digest:
            self.keep("README.md")
        else:
            card = self.begin("README.md")
            card.write(text.encode())
            self.end(card)
        return digest

    def _write_files(self, names: dict[str, list[str]], states: dict) -> None:
        import pyarrow
        import pyarrow.parquet

        schema, ours = self._schema(pyarrow)
        settings = {"use_dictionary": False, "compression": _codecs(pyarrow, schema, {name for name, column in ours.items() if column in self.kinds})}
        for split, rows in self.splits.items():
            lines = rows.lines()
            for name, count in zip(names[split], rows.files):
                file = self.begin(name)
                try:
                    with pyarrow.parquet.ParquetWriter(file.file, schema, **settings) as parquet:
                        for group in _groups(lines, count):
                            parquet.write_table(self._table(pyarrow, group, schema, ours))
                except OSError as error:
                    raise file.failed(error) from None
                status = self.end(file)
                states[name] = [status.st_size, status.st_mtime_ns]

    def _schema(self, pyarrow):
        """The schema, and its columns' names in our table."""
        fields, ours, features = [], {}, {}
        for column, type_ in self.types.items():
            name = column
            if column in self.kinds:
                kind = next(iter(self.kinds[column])) if len(self.kinds[column]) == 1 else None
                wanted = NAMES.get((column, kind), column)
                name = wanted if wanted == column or wanted not in self.types and wanted not in ours else column
                field = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
                features[name] = {"_type": kind} if kind else _feature(pyarrow, field)
            else:
                field = pyarrow.string()
                if not (type_ == "float" and column in self.large):
                    with contextlib.suppress(UsageError):  # an object without keys: as text
                        field = writing.arrow_type(pyarrow, type_, column)
                features[name] = _feature(pyarrow, field)
            fields.append((name, field))
            ours[name] = column
        metadata = {"huggingface": json.dumps({"info": {"features": features}}), "avtools": json.dumps({"columns": ours})}
        return pyarrow.schema(fields, metadata=metadata), ours

    def _table(self, pyarrow, group: list, schema, ours: dict):
        arrays = []
        for field in schema:
            column = ours[field.name]
            if column in self.kinds:
                values = [_inside(inside[column]) if column in inside else _outside(cells.get(column)) for cells, inside in group]
            else:
                values = [_cell(cells.get(column), field.type == pyarrow.string()) for cells, _ in group]
            arrays.append(pyarrow.array(values, field.type))
        return pyarrow.Table.from_arrays(arrays, schema=schema)


class _Split:
    """The rows of one split, and how many of them go into each file."""

    def __init__(self, folder: str):
        try:
            self.spool = tempfile.TemporaryFile(dir=folder)
        except OSError as error:
            raise FatalError(f"{folder}: cannot be written ({error.strerror})") from None
        self.folder, self.files, self.size = folder, [0], 0

    def add(self, line: bytes, size: int, limit: int) -> None:
        size += len(line)
        if self.size and self.size + size > limit:
            self.files.append(0)
            self.size = 0
        self.files[-1] += 1
        self.size += size
        try:
            self.spool.write(line)
        except OSError as error:
            raise FatalError(f"{self.folder}: cannot be written ({error.strerror})") from None

    def lines(self):
        self.spool.seek(0)
        return iter(self.spool)


def _groups(lines, count: int):
    """The next `count` rows in row groups."""
    group, size = [], 0
    for _ in range(count):
        row = json.loads(next(lines))
        own = sum(file[2] for file in row[1].values()) + 1000
        if group and (len(group) == GROUP_ROWS or size + own > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(row)
        size += own
    if group:
        yield group


def _inside(file: list) -> dict:
    name, path, size, mtime = file
    return {"bytes": b"".join(blocks_of(Held("", "", path, size, mtime))), "path": name}


def _outside(cell) -> dict | None:
    return None if cell in (None, "") or _is_placeholder(cell) else {"bytes": None, "path": clean(cell_text(cell))}


def _cell(cell, as_text: bool):
    if as_text:
        return None if cell is None else clean(cell_text(cell))
    return None if cell == "" else _clean_within(cell)


def _clean_within(cell):
    if isinstance(cell, str):
        return clean(cell)
    if isinstance(cell, dict):
        return {clean(key): _clean_within(item) for key, item in cell.items()}
    return [_clean_within(item) for item in cell] if isinstance(cell, list) else cell


def _widened(known, cell, column: str):
    """The type that holds the cell, too, as in our Parquet writer; where there is none: text."""
    if isinstance(cell, str) and not cell:
        found = "empty"
    else:
        try:
            found = writing.type_of(_clean_within(cell), column)
        except UsageError:
            return "string"
    if "string" in (known, found):
        return "string"
    try:
        return writing.widen(known, found, column)
    except UsageError:
        return "string"


def _codecs(pyarrow, schema, media: set[str]) -> dict:
    """Codec by leaf column, as pyarrow asks for it: media are compressed already."""
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.ParquetWriter(sink, schema).close()
    leaves = pyarrow.parquet.ParquetFile(sink.getvalue()).schema
    bare = {f"{name}.bytes" for name in media}
    return {leaf.path: "NONE" if leaf.path in bare else "SNAPPY" for leaf in map(leaves.column, range(len(leaves)))}


def _feature(pyarrow, type_):
    """What `datasets` calls an Arrow type."""
    if pyarrow.types.is_struct(type_):
        return {field.name: _feature(pyarrow, field.type) for field in type_}
    if pyarrow.types.is_list(type_):
        return [_feature(pyarrow, type_.value_type)]
    names = {pyarrow.float64(): "float64", pyarrow.bool_(): "bool", pyarrow.int64(): "int64", pyarrow.binary(): "binary"}
    return {"dtype": names.get(type_, "string"), "_type": "Value"}


# --- read ------------------------------------------------------------------------------------------------------------


class _Parquet:
    """A Parquet file of the hub: which columns hold media, and what they are called with us."""

    def __init__(self, path: str):
        import pyarrow

        self.path = path
        with _errors(path):
            status = os.stat(path)
            with _opened(path) as file:
                schema = file.schema_arrow
        self.state = [status.st_size, status.st_mtime_ns]
        metadata = schema.metadata or {}
        self.features, told = _json(metadata.get(b"huggingface")).get("info", {}).get("features", {}), _json(metadata.get(b"avtools")).get("columns")
        media = [field.name for field in schema if self._holds_media(pyarrow, field)]
        self.left = Counter(field.name for field in schema if field.name not in media and "binary" in str(field.type))
        ours: dict[str, str] = {}
        for name in schema.names:
            if name in self.left:
                continue
            column = (told or {}).get(name, name)
            if told is None and name in media:
                column = COLUMNS.get(name) or (name if name.endswith("_path") else f"{name}_path")
                if column in schema.names and column != name:
                    column = name
            ours[name] = column
        self.ours, self.theirs = ours, {column: name for name, column in ours.items()}
        self.media = [ours[name] for name in media]
        self.leaves = {name: self._leaves(pyarrow, schema.field(name)) for name in ours}
        found = re.fullmatch(r"(\w[\w.]*)-\d{5}-of-\d{5}\.parquet", os.path.basename(path), re.ASCII)
        self.split = found[1] if found and told is not None else known_split(path)
        self.adds_split = told is None and self.split is not None and "split" not in ours
        self.adds_names = told is None and bool(media) and not {"relpath", "id"} & set(ours.values())
        self.columns = [*ours.values(), *["id", "relpath"] * self.adds_names, *["split"] * self.adds_split]
        self.labels = {name: feature["names"] for name, feature in self.features.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")}

    def _holds_media(self, pyarrow, field) -> bool:
        is_ = pyarrow.types
        if is_.is_binary(field.type) or is_.is_large_binary(field.type):
            return True
        if not is_.is_struct(field.type):
            return False
        parts = {part.name: part.type for part in field.type}
        return set(parts) == {"bytes", "path"} and (is_.is_binary(parts["bytes"]) or is_.is_large_binary(parts["bytes"]))

    def _leaves(self, pyarrow, field) -> list[str]:
        """The columns to read for what is not the media's bytes."""
        if self.ours[field.name] not in self.media:
            return [field.name]
        return [f"{field.name}.path"] if pyarrow.types.is_struct(field.type) else []

    def rows(self):
        """Each row's cells and, for its media columns, [name or None, whether there are bytes], or None where the cell is null.

        Bytes themselves are read only where a row group's statistics leave open which cells have them.
        """
        wanted = [leaf for leaves in self.leaves.values() for leaf in leaves]
        with _errors(self.path):
            file = _opened(self.path)
        row = 0
        with file:
            for group in range(file.num_row_groups):
                with _errors(self.path):
                    there = {column: self._bytes_there(file, group, self.theirs[column]) for column in self.media}
                    count, first = file.metadata.row_group(group).num_rows, row
                    batches = file.iter_batches(batch_size=1024, row_groups=[group], columns=wanted) if wanted else iter(())
                while row < first + count:
                    with _errors(self.path):
                        batch = next(batches) if wanted else None
                        values = {name: batch.column(name).to_pylist() for name in batch.schema.names} if wanted else {}
                    for i in range(batch.num_rows if wanted else count):
                        row += 1
                        yield self._row({name: column[i] for name, column in values.items()}, {c: known[row - 1 - first] for c, known in there.items()}, row)

    def _bytes_there(self, file, group: int, name: str) -> list[bool]:
        """Which rows of a row group have bytes in a column."""
        import pyarrow.compute

        metadata, leaves = file.metadata.row_group(group), self.leaves[name]
        chunk = next(c for c in map(metadata.column, range(metadata.num_columns)) if c.path_in_schema == (f"{name}.bytes" if leaves else name))
        known = chunk.statistics.null_count if chunk.statistics is not None and chunk.statistics.has_null_count else None
        cells = file.read_row_group(group, columns=leaves).column(name).is_valid().to_pylist() if leaves else [True] * metadata.num_rows
        if known == cells.count(False):  # none but those whose cell is null
            return cells
        there: list[bool] = []
        for batch in file.iter_batches(batch_size=4, row_groups=[group], columns=[name]):
            array = batch.column(name)
            there += (pyarrow.compute.struct_field(array, "bytes") if leaves else array).is_valid().to_pylist()
        return there

    def _row(self, values: dict, there: dict[str, bool], number: int) -> tuple[dict, dict]:
        cells, names = {}, {}
        for name, column in self.ours.items():
            value = values.get(name, {"path": None})
            if column in self.media:
                named = value is not None and value["path"] is not None
                names[column] = [value["path"] if named else None, there[column]] if named or there[column] else None
                value = None
            elif name in self.labels and isinstance(value, int):
                value = self.labels[name][value] if 0 <= value < len(self.labels[name]) else None
            cells[column] = plain(value, f"{shown(self.path)}: column {shown(name)}, row", number)
        if self.adds_names:
            cells.update(id=None, relpath=None)
        if self.adds_split:
            cells["split"] = self.split
        return cells, names


class _Bytes:
    """The bytes of a column's cells, forwards: one row is in memory, whatever the size of a row group."""

    def __init__(self, path: str, column: str):
        self.path, self.column = path, column
        self._begin()

    def _begin(self) -> None:
        self.file, self.group, self.rows, self.first, self.batch = _opened(self.path), 0, None, 0, None

    def bytes_of(self, row: int) -> memoryview:
        if self.batch is not None and row < self.first:
            self._begin()
        while self.batch is None or row >= self.first + len(self.batch):
            self.first += 0 if self.batch is None else len(self.batch)
            self.batch = None
            self._next(row)
        value = self.batch[row - self.first]
        value = value["bytes"] if hasattr(value, "keys") else value
        return memoryview(value.as_buffer())

    def _next(self, row: int) -> None:
        while True:
            if self.rows is None:
                metadata = self.file.metadata
                while self.group < metadata.num_row_groups and row >= self.first + metadata.row_group(self.group).num_rows:
                    self.first += metadata.row_group(self.group).num_rows  # groups that are passed over are not read
                    self.group += 1
                if self.group == metadata.num_row_groups:
                    raise ValueError("the file ends before it")
                self.rows = self.file.iter_batches(batch_size=1, row_groups=[self.group], columns=[self.column])
                self.group += 1
            batch = next(self.rows, None)
            if batch is not None:
                self.batch = batch.column(self.column)
                return
            self.rows = None


def _opened(path: str):
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False)


@functools.lru_cache(maxsize=16)
def _kept_open(path: str, size: int, mtime: int, column: str, role: str) -> _Bytes:
    return _Bytes(path, column)


@contextlib.contextmanager
def _errors(path: str):
    """Turn pyarrow's exceptions into UsageError."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:  # its own are ValueErrors
        raise UsageError(f"{shown(path)}: not a readable Parquet file ({' '.join(str(error).split())[:200]})") from None


def _json(data: bytes | None) -> dict:
    try:
        value = json.loads(data or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
