"""Rows that belong together: `--group-by COLUMN`."""

from collections.abc import Iterable, Iterator

from avtools.errors import UsageError
from avtools.rows.formats import shown
from avtools.rows.reading import Record


def consecutive_groups(records: Iterable[Record], column: str, limit: int = 100_000) -> Iterator[list[Record]]:
    """Yield lists of consecutive records whose value of `column` is equal.

    Only one group is held at a time, and a group of more than `limit` rows raises UsageError: that column
    tells nothing apart.  An empty cell is equal to nothing, so its row is a group of its own.
    """
    group: list[Record] = []
    value = None
    for record in records:
        new = record.row.get(column)
        if group and (new != value or new is None or new == ""):
            yield group
            group = []
        value = new
        group.append(record)
        if len(group) > limit:
            raise UsageError(
                f"{record.origin}: more than {limit} rows in succession have the same {shown(column)}; "
                "--group-by needs a column that tells groups apart"
            )
    if group:
        yield group
