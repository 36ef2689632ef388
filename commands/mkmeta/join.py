"""avtools mkmeta join"""

import functools
from collections.abc import Callable, Iterator

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


class Which(click.ParamType):
    """The number of a caption, `random` or `all`."""

    name = "N|random|all"

    def get_metavar(self, param, ctx):
        return self.name

    def convert(self, value, param, ctx):
        if value in ("random", "all") or isinstance(value, int):
            return value
        if value.isascii() and value.isdecimal() and 0 < int(value[:9]):
            return int(value[:9])
        self.fail(f"'{value}' is neither a number from 1, nor random, nor all", param, ctx)


@row_command(instead=("list",))
@click.argument("dataset", metavar="DATASET[,DATASET]|all|table", required=False)
@click.option("--list", is_flag=True, default=None, help="List the data sets: what they are, licence, where files should lie.")
@click.option("--data-root", metavar="DIR", type=Files(), help="The folder that holds the data sets' folders.")
@click.option("--captions", metavar="[DATASET=]FILE", multiple=True, type=Files("csv", "tsv", "txt", "json", "yaml"), help="Metadata that lie elsewhere.")
@click.option("--caption", type=Which(), help="Where a clip has several: the N-th, one by --seed, or a row for each (default: 1).")
@click.option("--seed", type=int, help="With '--caption random': another seed draws others (default: 0).")
@click.option("--column", metavar="NAME", help="The column for captions (default: text, audio_text, by what they describe).")
@click.option("--clean-captions", is_flag=True, help="Mend captions' characters, blanks and markup.")
@click.option("--language", metavar="CODE[,CODE]", help="Filter rows whose caption is in another language than these (en, de, ...).")
@click.option("--with", "with_", metavar="FILE", type=Files("csv", "tsv", "jsonl", "parquet"), help="With 'table': the table to take cells from.")
@click.option("--on", type=On(), help="With 'table': the columns that must agree.")
@click.option("--take", metavar="COLUMN[,COLUMN]", help="With 'table': the columns to take.")
@click.option("--unmatched", metavar="FILE", type=Files("csv", "tsv", "jsonl"), help="List rows and captions without a partner in FILE.")
@click.option("--require-match", is_flag=True, help="A row that finds no partner is a bad row.")
@click.option("--keep-unmatched", is_flag=True, help="A row that finds no partner passes as it is; new cells are empty.")
def command(shared, dataset, **given):
    """Add captions of published data sets, or cells of another table, to the rows that they belong to.

    Clips are found by their ids, in the names of path and audio_path, in relpath, or in id: ID, YID,
    ID_START, ID_START_END for YouTube's, else the file's name.  'all' joins what --data-root holds.  Adds
    text or audio_text, source (the data set), and split where the data set has official ones.  A clip that
    several data sets know is that of the cell source, else of the folder that it lies in, else, being the
    same YouTube clip, of the one named first; else its row is bad.

    Rows that find no partner are filtered and counted, unless --require-match or --keep-unmatched say
    otherwise.  --unmatched lists them, then captions of clips in no row (column unmatched: media, caption).

    'table' takes columns of another table: --with FILE --on KEY --take COLUMNS.

    \b
        avtools mkmeta join --list
        avtools mkmeta join audiocaps,vggsound --data-root /data t.csv > train.csv
        avtools mkmeta join clotho --captions clotho_captions_development.csv --caption random t.csv
        avtools mkmeta join table --with labels.csv --on id=clip --take label t.csv
    """
    if given["list"]:
        return _list(dataset)
    if dataset is None:
        raise UsageError("which data set? 'mkmeta join --list' lists them")
    if given["unmatched"] == "-":
        raise UsageError("--unmatched needs a file; standard output is for the table")
    if given["require_match"] and given["keep_unmatched"]:
        raise UsageError("give --require-match or --keep-unmatched, not both")
    for_tables = ("with_", "on", "take")
    for_data_sets = ("data_root", "captions", "caption", "seed", "column", "clean_captions", "language")
    for name in for_data_sets if dataset == "table" else for_tables:
        if given[name] not in (None, (), False):
            option = "--" + name.strip("_").replace("_", "-")
            raise UsageError(f"join {dataset} knows no {option}; " + ("data sets do" if dataset == "table" else "join table does"))
    work = _join_table if dataset == "table" else _join_data_sets
    return work(shared, dataset, given)


# --- data sets --------------------------------------------------------------------------------------------


def _join_data_sets(shared, names: str, given: dict):
    from avtools import datasets
    from avtools.stream import Work

    every = names == "all"
    chosen = list(datasets.CATALOGUE) if every else datasets.named(names)
    if every and given["data_root"] is None:
        raise UsageError("join all needs --data-root DIR")
    if given["seed"] is not None and given["caption"] != "random":
        raise UsageError("--seed is for '--caption random'")
    if given["column"] in ("source", "split", "group", "error", "relpath", "id", *datasets.MEDIA, ""):
        raise UsageError(f"--column '{given['column']}': choose another; that one has its own meaning")
    by_hand = _by_hand(given["captions"], [one.name for one in chosen])
    choice = datasets.Choice(given["caption"] or 1, given["seed"] or 0, given["column"], shared.key)
    options: dict = {"require": given["require_match"], "keep": given["keep_unmatched"], "names": names}
    options["list"] = _Unmatched(given["unmatched"]) if given["unmatched"] else None
    skipped: list[str] = []

    def begin(header: list[str]) -> dict:
        if given["clean_captions"]:
            from avtools.datasets.captions import clean

            choice.clean = functools.lru_cache(1 << 14)(clean)
        if given["language"]:
            from avtools.datasets.captions import Languages

            codes = [code.strip() for code in given["language"].split(",")]
            choice.holds = functools.lru_cache(1 << 14)(Languages(codes).holds)
        sources, present, absent = datasets.locate(chosen, given["data_root"], by_hand, every)
        index = datasets.Index()
        for source in sources:
            index.load(source)
        index.seal()
        options["joiner"] = joiner = datasets.Joiner(index, present, header, choice)
        if absent:
            skipped.append(f"no metadata below {given['data_root']} of: {', '.join(absent)}")
        if options["list"]:
            options["list"].expect(["source", *joiner.caption_columns], joiner.unused)
        return options

    needs = (shared.key,) if shared.key else (*datasets.MEDIA, "relpath", "id")
    tees = (options["list"],) if options["list"] else ()
    return Work(
        caption_row,
        options,
        columns=lambda header: options["joiner"].columns,
        needs=needs,
        inline=True,
        begin=begin,
        report=lambda: options["joiner"].report() + skipped,
        tees=tees,
    )


def caption_row(row: dict, options: dict) -> dict | list[dict] | None:
    """The cells of the row's caption; None (filtered) where there is none."""
    joiner = options["joiner"]
    cells = joiner(row)
    if cells is None:
        name = joiner.key(row)
        if options["list"]:
            options["list"].add(row, name)
        if options["require"]:
            what = f"no caption of {name!r} in {options['names']}" if name else "nothing in the row names a clip"
            raise RowError(f"{what}; check the name, or leave out --require-match")
        return {} if options["keep"] else None
    return None if cells is joiner.FILTERED else cells


def _by_hand(captions: tuple[str, ...], names: list[str]) -> dict[str, list[str]]:
    """Data set -> its files of --captions."""
    found: dict[str, list[str]] = {}
    for value in captions:
        name, equals, path = value.partition("=")
        if not (equals and name in names):
            if len(names) > 1:
                raise UsageError(f"--captions {value}: of which data set? Write --captions DATASET=FILE")
            name, path = names[0], value
        found.setdefault(name, []).append(path)
    return found


LIST_COLUMNS = ("name", "title", "source", "licence", "layout", "adds")


def _list(names: str | None):
    from avtools import datasets, rows
    from avtools.stream import Work

    chosen = datasets.CATALOGUE if names in (None, "all") else datasets.named(names)
    records = (rows.Record({"name": one.name}, one.name) for one in chosen)
    return Work(list_row, records=lambda stdin: (list(LIST_COLUMNS), "csv", records), inline=True)


def list_row(row: dict, options: dict) -> dict:
    """What the catalogue says of a data set."""
    from avtools import datasets

    (one,) = datasets.named(row["name"])
    return {"title": one.title, "source": one.source, "licence": one.licence, "layout": one.layout, "adds": ", ".join(one.describes)}


# --- another table ------------------------------------------------------------------------------------------


def _join_table(shared, dataset: str, given: dict):
    from avtools.stream import Work

    if not (given["with_"] and given["on"] and given["take"]):
        raise UsageError("join table needs --with FILE, --on KEY and --take COLUMN[,COLUMN]")
    (key, other), columns = given["on"], [name.strip() for name in given["take"].split(",")]
    options: dict = {"key": key, "columns": columns, "require": given["require_match"], "keep": given["keep_unmatched"]}
    options["list"] = _Unmatched(given["unmatched"]) if given["unmatched"] else None

    def begin(header: list[str]) -> dict:
        if key not in header:
            raise UsageError(f"the table has no column '{key}' to join on (it has: {', '.join(header)})")
        cells, options["used"] = _read_table(given["with_"], other, columns), set()
        if options["list"]:
            options["list"].expect(columns, lambda: _unused_rows(cells, options["used"], columns))
        return {**options, "cells": cells}

    tees = (options["list"],) if options["list"] else ()
    return Work(join_row, options, columns=columns, needs=(key,), inline=True, begin=begin, tees=tees)


def join_row(row: dict, options: dict) -> dict | None:
    """The partner's cells; None (filtered) where there is no partner."""
    value = row.get(options["key"])
    cells = options["cells"].get(str(value)) if value not in (None, "") else None
    if cells is not None:
        if options["list"]:
            options["used"].add(str(value))
        return dict(zip(options["columns"], cells))
    if options["list"]:
        options["list"].add(row, "" if value is None else str(value))
    if options["require"]:
        raise RowError(f"no partner for {options['key']} {value!r}; check the key, or leave out --require-match")
    return {} if options["keep"] else None


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


def _unused_rows(cells: dict[str, tuple], used: set[str], columns: list[str]) -> Iterator[dict]:
    for key, taken in cells.items():
        if key not in used:
            yield {"unmatched": "caption", "key": key, **dict(zip(columns, taken))}


# --- both ---------------------------------------------------------------------------------------------------


class _Unmatched:
    """The table of what has no partner: the rows as they came, then captions (or rows of the other table)."""

    def __init__(self, path: str):
        self.path = path

    def expect(self, columns: list[str], unused: Callable[[], Iterator[dict]]) -> None:
        """What will be listed at the end, and the columns that it fills."""
        self.columns, self.unused = columns, unused

    def open(self, columns: list[str], header: list[str], format_: str) -> None:
        from avtools.rows import open_writer

        self.writer = open_writer(self.path, None, [*header, "unmatched", "key", *self.columns], "csv")
        self.discard = self.writer.discard

    def add(self, row: dict, key: str) -> None:
        try:
            self.writer.write({"key": key, **row, "unmatched": "media"})
        except RowError as error:
            raise RowError(f"--unmatched {self.path}: {str(error).removesuffix('; write --to jsonl')}; call it .jsonl") from None

    def write(self, row: dict) -> None:
        """Rows that are written have a partner."""

    def commit(self) -> None:
        for row in self.unused():
            self.writer.write(row)
        self.writer.commit()
