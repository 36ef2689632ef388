"""avtools mkmeta join"""

import functools
import os
from collections.abc import Callable

import click

from avtools.cli import Files, row_command
from avtools.errors import RowError, UsageError


class On(click.ParamType):
    """KEY, or KEY=KEY_IN_FILE."""

    name = "KEY[=KEY_IN_FILE]"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        key, _, other = value.partition("=")
        return key, other or key


@row_command()
@click.argument("dataset", metavar="DATASET|table")
@click.option("--captions", metavar="FILE", type=Files("txt"), help="The data set's captions.")
@click.option("--with", "with_", metavar="FILE", type=Files("csv", "tsv", "jsonl", "parquet"), help="With 'table': the table to take cells from.")
@click.option("--on", type=On(), help="With 'table': the columns that must agree.")
@click.option("--take", metavar="COLUMN[,COLUMN]", help="With 'table': the columns to take.")
@click.option("--unmatched", metavar="FILE", type=Files("csv", "tsv", "jsonl"), help="List the rows that found no partner in FILE.")
@click.option("--require-match", is_flag=True, help="A row that finds no partner is a bad row.")
@click.option("--keep-unmatched", is_flag=True, help="A row that finds no partner passes with empty cells.")
def command(shared, dataset, captions, with_, on, take, unmatched, require_match, keep_unmatched):
    """Add captions, or cells of another table, to the rows that they belong to.

    Rows that find no partner are filtered and counted, unless --require-match or --keep-unmatched say
    otherwise.

    \b
    tavgbench  --captions FILE: lines of NAME.mp4, a space, the caption; NAME is matched
               with the column 'id'; adds 'text'
    table      --with FILE --on KEY --take COLUMNS

    \b
        avtools mkmeta join tavgbench --captions release_captions.txt t.csv > train.csv
        avtools mkmeta join table --with labels.csv --on id=clip --take label t.csv
    """
    from avtools.stream import Work

    if require_match and keep_unmatched:
        raise UsageError("give --require-match or --keep-unmatched, not both")
    notes: list[str] = []
    if dataset == "table":
        if not (with_ and on and take):
            raise UsageError("join table needs --with FILE, --on KEY and --take COLUMN[,COLUMN]")
        key, columns = on[0], [name.strip() for name in take.split(",")]
        load = functools.partial(_read_table, with_, on[1], columns)
    elif dataset in DATASETS:
        key, columns, reader = DATASETS[dataset]
        if not captions:
            raise UsageError(f"join {dataset} needs --captions FILE")
        load = functools.partial(reader, captions, notes)
    else:
        raise UsageError(f"no data set '{dataset}'; there is: {', '.join(sorted(DATASETS))}, table")

    options = {"key": key, "columns": columns, "require": require_match, "keep": keep_unmatched}
    options["list"] = _Unmatched(unmatched) if unmatched else None

    def begin(header: list[str]) -> dict:
        if key not in header:
            raise UsageError(f"the table has no column '{key}' to join on (it has: {', '.join(header)})")
        return {**options, "cells": load()}

    tees = (options["list"],) if options["list"] else ()
    return Work(join_row, options, columns=columns, needs=(key,), inline=True, begin=begin, report=lambda: notes, tees=tees)


def join_row(row: dict, options: dict) -> dict | None:
    """The partner's cells; None (filtered) where there is no partner."""
    value = row.get(options["key"])
    cells = options["cells"].get(str(value)) if value not in (None, "") else None
    if cells is not None:
        return dict(zip(options["columns"], cells))
    if options["list"]:
        options["list"].add(row)
    if options["require"]:
        raise RowError(f"no partner for {options['key']} {value!r}; check the key, or leave out --require-match")
    return dict.fromkeys(options["columns"]) if options["keep"] else None


class _Unmatched:
    """The table of rows without a partner."""

    def __init__(self, path: str):
        self.path = path

    def open(self, columns: list[str], header: list[str], format_: str) -> None:
        from avtools.rows import open_writer

        writer = open_writer(self.path, None, header, "csv")
        self.add, self.commit, self.discard = writer.write, writer.commit, writer.discard

    def write(self, row: dict) -> None:
        """Rows that are written have a partner."""


def _read_table(path: str, key: str, columns: list[str]) -> dict[str, tuple]:
    from avtools.rows import open_rows

    source = open_rows([path])
    for name in (key, *columns):
        if name not in source.columns:
            raise UsageError(f"{path}: has no column '{name}' (it has: {', '.join(source.columns)})")
    cells: dict[str, tuple] = {}
    for record in source:
        value = record.row.get(key)
        if value in (None, ""):
            continue
        taken = tuple(record.row.get(name) for name in columns)
        if cells.setdefault(str(value), taken) != taken:
            raise UsageError(f"{record.origin}: {key} {value!r} stands in the file twice with different cells; which is meant?")
    return cells


def _read_tavgbench(path: str, notes: list[str]) -> dict[str, tuple]:
    """Lines of NAME.mp4, a space, the caption; NAME has two underscores or more (spec: data preparation, 1.4)."""
    cells: dict[str, tuple] = {}
    others = doubles = 0
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                name, _, caption = line.strip().partition(" ")
                stem, suffix = os.path.splitext(name)
                caption = caption.strip()
                if suffix != ".mp4" or stem.count("_") < 2 or not caption:
                    others += bool(line.strip())
                elif cells.setdefault(stem, (caption,)) != (caption,):
                    doubles += 1
    except OSError as error:
        raise UsageError(f"--captions {path}: {error.strerror}; TAVGBench publishes it as release_captions.txt") from None
    if not cells:
        raise UsageError(f"--captions {path}: no line reads NAME.mp4, a space, a caption")
    if others:
        notes.append(f"{path}: {others} lines are no caption (they want NAME.mp4, a space, the caption)")
    if doubles:
        notes.append(f"{path}: {doubles} lines caption a clip again; its first caption was taken")
    return cells


#: name -> the column to match, the columns it adds, its reader
DATASETS: dict[str, tuple[str, list[str], Callable]] = {
    "tavgbench": ("id", ["text"], _read_tavgbench),
}
