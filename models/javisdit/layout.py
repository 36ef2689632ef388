"""JavisDiT's training tables (spec: JavisDiT data side, sections 1.2 and 5)."""

import math
import os

from avtools import rows
from avtools.errors import RowError, UsageError
from avtools.exchange import Files, Item, Layout, split_of
from avtools.rows.keys import PLACEHOLDER, number

OURS = {"audio_length_s": "audio_duration"}  # its names -> ours
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
NOTHING = os.path.splitext(PLACEHOLDER)[0]  # its id and text of rows without a picture
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
        cells = {THEIRS.get(column, column): cell for column, cell in row.items()}
        path = cells.get("path")
        if path and os.path.basename(str(path)) != PLACEHOLDER:
            fps = number(row, "fps")
            if fps is not None:
                cells["fps"] = float(round(fps))
            return {}, _texts(cells)
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
        named = {"num_frames": frames, "path": PLACEHOLDER, "relpath": PLACEHOLDER, "id": NOTHING, "text": NOTHING, "speech": -1}
        return {}, _texts({**cells, **described, **named})

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
        columns = dict.fromkeys(OURS.get(column, column) for _, table in tables for column in table.columns)
        if splits:
            columns["split"] = None
        return list(columns), [self._items(*table, splits) for table in tables]

    @staticmethod
    def _items(path, table, splits):
        name = os.path.splitext(os.path.basename(path))[0]
        for record in table:
            cells = {OURS.get(column, column): cell for column, cell in record.row.items()}
            if splits and "split" not in cells:
                cells["split"] = name
            if os.path.basename(str(cells.get("path") or "")) == PLACEHOLDER:
                cells.update({column: "" for column in ("id", "relpath", "text") if column in cells and _stem(cells[column]) == NOTHING})
            yield Item(_texts(record.row), cells, record.origin)

    def notes(self):
        return [f"{self.placeholders} rows without a picture became {PLACEHOLDER} rows"] if self.placeholders else []


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
        def opened(path):
            return rows.open_writer(path, "csv", [*self.columns, *(column for column in record if column not in self.columns)], "csv")

        self.file(f"{split_of(row)}.csv", opened).write(record)
