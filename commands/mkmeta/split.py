"""avtools mkmeta split"""

import hashlib
import itertools
import os
import re

import click

from avtools.cli import Files, row_command
from avtools.errors import RowError, UsageError


class Ratios(click.ParamType):
    """Names with shares that make 1."""

    name = "NAME=SHARE,..."

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        from fractions import Fraction

        ratios = []
        for part in value.split(","):
            name, _, share = part.partition("=")
            try:
                ratios.append((name.strip(), Fraction(share if len(share) < 40 and "e" not in share.lower() else "")))
            except (ValueError, ZeroDivisionError):
                self.fail(f"'{part}' is not NAME=SHARE, such as train=0.96", param, ctx)
        names = [name for name, _ in ratios]
        if len(set(names)) < len(names) or not all(names) or any(os.sep in name for name in names):
            self.fail("the names must differ and be plain words", param, ctx)
        if any(share < 0 for _, share in ratios) or sum(share for _, share in ratios) != 1:
            self.fail(f"the shares make {float(sum(share for _, share in ratios)):g}, not 1", param, ctx)
        return ratios


@row_command()
@click.option("--ratio", type=Ratios(), required=True, help="For example train=0.96,valid=0.02,test=0.02.")
@click.option("--by", metavar="COLUMN", help="Rows with the same value here stay together (default: group where the row has one, else its key).")
@click.option("--pattern", metavar="REGEX", help="Rows that agree in what REGEX finds there (its first group, else all of it) stay together.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed makes another split.")
@click.option("--into", metavar="DIR", type=Files(), help="Also write one table for each name below DIR.")
def command(shared, ratio, by, pattern, seed, into):
    """Split a table: adds the column 'split', by a hash of what must not be torn apart.

    A row's split depends on nothing but its group and the seed, so it is the same when rows are added, removed
    or moved, and no group is in two splits.  The group is the cell of --by; without it the cell of 'group'
    (rows made of one clip carry its key there), else the row's key.  --pattern takes a part of that: clips of one
    YouTube video share the first 11 characters of their id.

    \b
        avtools mkmeta split t.csv --ratio train=0.96,valid=0.02,test=0.02 --by speaker --into split -o all.csv
        avtools mkmeta split t.csv --ratio train=0.9,test=0.1 --by id --pattern '^(.{11})' -o all.csv
    """
    from avtools.stream import Work

    shares = itertools.accumulate(share for _, share in ratio)
    edges = [(name, int(edge * 2**64)) for (name, _), edge in zip(ratio, shares, strict=True)]
    options = {"edges": edges, "by": by, "seed": seed, "key": shared.key, "pattern": None}
    if pattern is not None:
        try:
            options["pattern"] = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"--pattern {pattern}: not a regular expression: {error}") from None

    def begin(header: list[str]) -> dict:
        if by is not None and header and by not in header:
            raise UsageError(f"--by {by}: the table has no such column (it has: {', '.join(header)})")
        return options

    parts = (_Parts(into, [name for name, _ in ratio]),) if into else ()
    return Work(split_row, options, columns=("split",), inline=True, begin=begin, tees=parts)


def split_row(row: dict, options: dict) -> dict:
    """The split of a row: where the hash of its group falls among the shares."""
    text = f"{options['seed']}\0{_group(row, options)}"
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # JSON can spell characters that are none
        data = text.encode("utf-8", "surrogatepass")
    place = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    return {"split": next(name for name, edge in options["edges"] if place < edge)}


def _group(row: dict, options: dict) -> str:
    """What all rows have in common that must be in one split."""
    from avtools.rows import cell_text, key_of

    column = options["by"] or "group"
    value = row.get(column)
    if value not in (None, ""):
        group = cell_text(value)
    elif options["by"] is None:
        group, column = key_of(row, options["key"]), "key"
    else:
        raise RowError(f"column {column} is empty, so the row belongs to no group")
    if options["pattern"] is None:
        return group
    found = options["pattern"].search(group)
    part = found and found[min(1, options["pattern"].groups)]
    if not part:
        raise RowError(f"{column} {group[:80]!r} has nothing that --pattern finds, so the row belongs to no group")
    return part


class _Parts:
    """One table for each name, written beside the whole one."""

    def __init__(self, folder: str, names: list[str]):
        self.folder, self.names, self.writers = folder, names, {}

    def open(self, columns: list[str], header: list[str], format_: str) -> None:
        from avtools.rows import open_writer

        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--into {self.folder}: {error.strerror}") from None
        for name in self.names:
            self.writers[name] = open_writer(os.path.join(self.folder, f"{name}.{format_}"), format_, columns, format_)

    def write(self, row: dict) -> None:
        if row.get("split") in self.writers:
            self.writers[row["split"]].write(row)

    def commit(self) -> None:
        for writer in self.writers.values():
            writer.commit()

    def discard(self) -> None:
        for writer in self.writers.values():
            writer.discard()
