"""avtools mkmeta merge"""

import array
import hashlib

import click

from avtools.cli import row_command
from avtools.errors import UsageError


@row_command()
@click.option("--dedup", metavar="COLUMN[,COLUMN]", help="Of rows with equal cells in these columns keep the first.")
def command(shared, dedup):
    """Put tables one after another; the columns are those of all of them.

    Joins what '--shard 1/N' to '--shard N/N' made, in the order that they are named.

    With --dedup, rows that repeat an earlier one are filtered; whether they differ from it in other columns is said at
    the end.  Cells are compared as the text of a CSV cell; an empty cell and placeholder.mp4 equal nothing.  Rows with
    an error pass.  Memory holds 32 to 96 bytes a row.

    \b
        avtools mkmeta merge part-1.csv part-2.csv -o whole.csv
        avtools mkmeta merge vggsound.csv audioset.csv --dedup id -o both.csv
    """
    from avtools.stream import Work, as_it_is

    if dedup is None:
        return Work(as_it_is, inline=True)
    if shared.shard is not None:
        raise UsageError("--dedup must see all rows; leave out --shard, or use --dedup where the shards are merged")
    columns = list(dict.fromkeys(name.strip() for name in dedup.split(",")))
    repeats = Repeats(columns)

    def begin(header: list[str]) -> dict:
        if missing := [column for column in columns if header and column not in header]:
            raise UsageError(f"--dedup {missing[0]}: the tables have no such column (they have: {', '.join(header)})")
        return {"repeats": repeats}

    return Work(first_row, inline=True, begin=begin, report=repeats.report)


def first_row(row: dict, options: dict) -> dict | None:
    """Nothing to change in the first row of its kind; None (filtered) for those that repeat it."""
    return None if options["repeats"].repeats(row) else {}


class Repeats:
    """The rows so far, by their cells in some columns: 16 bytes of a hash of these and 8 of a hash of the whole row."""

    def __init__(self, columns: list[str]):
        self.columns, self.seen = columns, Digests()
        self.equal = self.different = 0
        self.first = ""  # row that differed

    def repeats(self, row: dict) -> bool:
        """Whether the row has the cells of an earlier one; it is counted."""
        from avtools.rows import cell_text
        from avtools.rows.keys import PLACEHOLDER

        cells = [row.get(column) for column in self.columns]
        if any(cell is None or cell == "" or cell != cell or cell == PLACEHOLDER for cell in cells):
            return False
        texts = list(map(cell_text, cells))
        key = "".join([f"{len(text)}:{text}" for text in texts])  # where one ends and the next begins counts
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        pairs = ((column, cell if type(cell) is str else cell_text(cell)) for column, cell in row.items() if cell is not None and cell != "")
        content = hash(frozenset(pairs)) & (2**64 - 1)
        known = self.seen.add(digest, content)
        if known is None:
            return False
        if known == content:
            self.equal += 1
        else:
            self.different += 1
            self.first = self.first or ", ".join(f"{column} {text[:80]!r}" for column, text in zip(self.columns, texts))
        return True

    def report(self) -> list[str]:
        lines = [f"{self.equal + self.different} rows repeat an earlier one's {', '.join(self.columns)}: {self.equal} are the same, {self.different} differ in other columns"]
        return lines + [f"of rows that differ the first one was kept; the first such: {self.first}"] * bool(self.different)


class Digests:
    """A mapping of 16-byte digests to 8-byte numbers in flat memory (a dict of objects would need 200 bytes each)."""

    def __init__(self):
        self.count, self.mask = 0, 1023
        self.slots = array.array("Q", bytes(8 * 3 * 1024))  # first half, second half, number; two halves of 0: free

    def add(self, digest: bytes, number: int) -> int | None:
        """The number that the digest has; None where it is new, and has `number` from now on."""
        high, low = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") or 1
        known = self._put(high, low, number)
        if known is None:
            self.count += 1
            if 4 * self.count > 3 * (self.mask + 1):
                self._grow()
        return known

    def _put(self, high: int, low: int, number: int) -> int | None:
        slots, place = self.slots, high & self.mask
        while slots[3 * place + 1]:
            if slots[3 * place] == high and slots[3 * place + 1] == low:
                return slots[3 * place + 2]
            place = (place + 1) & self.mask
        slots[3 * place : 3 * place + 3] = array.array("Q", (high, low, number))
        return None

    def _grow(self) -> None:
        old, self.mask = self.slots, 2 * self.mask + 1
        self.slots = array.array("Q", bytes(8 * 3 * (self.mask + 1)))
        for place in range(0, len(old), 3):
            if old[place + 1]:
                self._put(old[place], old[place + 1], old[place + 2])
