"""JavisDiT's training tables (spec: JavisDiT data side, sections 1.2 and 5)."""

import math
import os
import re

from avtools import rows
from avtools.errors import RowError, UsageError
from avtools.exchange import NO_CAPTION, Files, Item, Layout, split_of
from avtools.rows.keys import PLACEHOLDER, number, path_of

OURS = {"audio_length_s": "audio_duration"}  # its names -> ours
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
PICTURE = {"fps": 24.0, "height": 720, "width": 1280, "aspect_ratio": 0.5625, "resolution": 921600}  # of such rows


class JavisDiT(Layout):
    """CSV, one for each split; every further column of ours passes along, as its readers take columns by name.

    Rows without a picture become its placeholder rows: path and relpath `placeholder.mp4`, id and text `placeholder`,
    24 Hz, floor(seconds x 24) frames, 720 x 1280 pixels, speech -1.  `fps` is rounded to a whole number, as its tables have it.
    """

    def __init__(self, settings):
        super().__init__(settings)
        self.placeholders = 0

    def export(self, row, maker):
        # of two columns of one meaning ours, which is measured, where it says something
        cells = {THEIRS.get(column, column): cell for column, cell in sorted(row.items(), key=lambda one: one[0] in THEIRS and one[1] not in (None, ""))}
        if row.get("path") and os.path.basename(path_of(row, "path")) != PLACEHOLDER:
            fps = number(row, "fps")
            if fps is not None:
                cells["fps"] = float(round(fps))
            return {}, _writable(_texts(cells))
        if not cells.get("audio_path"):
            raise RowError("neither 'path' nor 'audio_path' is set")
        frames = number(row, "num_frames")
        if frames is None:
            seconds = number(cells, "audio_length_s")
            if seconds is None:
                raise RowError("neither num_frames nor audio_duration is known; run 'avtools probe' first")
            frames = math.floor(seconds * PICTURE["fps"])
        described = {column: value for column, value in PICTURE.items() if cells.get(column) in (None, "")}
        self.placeholders += 1
        named = {"num_frames": frames, "path": PLACEHOLDER, "relpath": PLACEHOLDER, "id": NO_CAPTION, "text": NO_CAPTION, "speech": -1}
        return {}, _writable(_texts({**cells, **described, **named}))

    def sink(self, folder, columns, format_):
        return _Tables(folder, [THEIRS.get(column, column) for column in columns])

    def read(self, source):
        paths = [source]
        if os.path.isdir(source):
            paths = sorted(os.path.join(source, name) for name in os.listdir(source) if rows.format_of(name) in ("csv", "parquet"))
            if not paths:
                raise UsageError(f"{source}: holds no .csv or .parquet")
        tables = [(path, rows.open_rows([path])) for path in paths]
        splits = len(tables) > 1
        columns: dict[str, None] = {}
        for path, table in tables:
            if not {"path", "audio_path"} & set(table.columns):
                raise UsageError(f"{rows.shown(path)}: has neither a column path nor audio_path (it has: {rows.shown(', '.join(table.columns))})")
            columns.update(dict.fromkeys(_ours(column, table.columns) for column in table.columns))
        if splits:
            columns["split"] = None
        return list(columns), [self._items(*table, splits) for table in tables]

    @staticmethod
    def _items(path, table, splits):
        name = os.path.splitext(os.path.basename(path))[0]
        for record in table:
            cells = {_ours(column, table.columns): cell for column, cell in record.row.items()}
            if splits and cells.get("split") in (None, "") and (name != "train" or "split" not in cells):
                cells["split"] = name
            if os.path.basename(str(cells.get("path") or "")) == PLACEHOLDER:
                cells.update({column: "" for column in ("id", "relpath", "text") if column in cells and _stem(cells[column]) == NO_CAPTION})
            yield Item(_texts(record.row), cells, record.origin)

    def notes(self):
        return [f"{self.placeholders} rows without a picture became {PLACEHOLDER} rows"] if self.placeholders else []


def _ours(column: str, columns: list[str]) -> str:
    """Our name of a column of theirs; its own where ours is there, too."""
    return column if OURS.get(column) in columns else OURS.get(column, column)


def _writable(texts: dict[str, str]) -> dict[str, str]:
    """The same; RowError for what CSV cannot hold."""
    for column, text in texts.items():
        if "\0" in text or not text.isascii() and re.search("[\ud800-\udc7f\udd00-\udfff]", text):
            raise RowError(f"column {rows.shown(column)} holds a NUL or half a character, which CSV cannot; mend it")
    return texts


def _texts(cells: dict) -> dict[str, str]:
    """The cells as CSV has them, without empty ones."""
    return {column: text for column, cell in cells.items() if (text := rows.cell_text(cell))}


def _stem(cell) -> str:
    return os.path.splitext(str(cell or ""))[0]


class _Tables(Files):
    """A CSV for each split.  Columns that only placeholder rows have are there where its first row is one."""

    def __init__(self, folder, columns):
        super().__init__(folder, "javisdit")
        self.columns: list[str] = columns
        self.known: dict[str, set[str]] = {}

    def prepare(self, record, row):
        name = split_of(row)
        known = self.known.setdefault(name, {*self.columns, *record})
        for column in record.keys() - known:
            if column not in ("speech", "num_frames", *PICTURE):
                raise RowError(f"column {rows.shown(column)} is not in the header of {name}.csv, which its first row made; give all rows the same keys")
            del record[column]

    def write(self, record, row):
        self._table(split_of(row), record).write(record)

    def _table(self, name, record):
        def opened(path):
            return rows.open_writer(path, "csv", [*self.columns, *(column for column in record if column not in self.columns)], "csv")

        return self.file(f"{name}.csv", opened)

    def commit(self):
        if not self.files:
            self._table("train", {})  # of a table without rows
        super().commit()
