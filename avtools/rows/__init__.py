"""Tables as streams of plain `dict` rows: CSV, TSV, JSONL and Parquet, in and out.

Importing this package costs nothing beyond the standard library; jsonlines and pyarrow are loaded by the
functions that need them.
"""

from avtools.rows.formats import IMAGE, SOUND, VIDEO, format_of, kind_of, shown
from avtools.rows.grouping import consecutive_groups
from avtools.rows.keys import key_of, number, path_of
from avtools.rows.reading import Record, Rows, open_rows
from avtools.rows.where import compile_where
from avtools.rows.writing import Writer, cell_text, open_writer

__all__ = [
    "IMAGE",
    "SOUND",
    "VIDEO",
    "Record",
    "Rows",
    "Writer",
    "cell_text",
    "compile_where",
    "consecutive_groups",
    "format_of",
    "key_of",
    "kind_of",
    "number",
    "open_rows",
    "open_writer",
    "path_of",
    "shown",
]
