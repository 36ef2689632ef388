"""The snapshot of the table that a run trains on: read once, kept in RUN, random access without memory."""

import hashlib
import json
import os

import numpy as np

from avtools import rows
from avtools.errors import FatalError, RowError, UsageError
from avtools.outputs import output_failure


class Table:
    """The rows of a JSONL file by number; only their positions are in memory."""

    def __init__(self, path: str, key: str | None = None):
        self.path, self.key = path, key
        positions, position, self._hash = [0], 0, hashlib.sha256()
        try:
            with open(path, "rb") as file:
                for line in file:
                    position += len(line)
                    positions.append(position)
                    self._hash.update(line)
        except OSError as error:
            raise FatalError(f"{path}: cannot be read ({error.strerror}); is RUN on a disk that all nodes share?") from None
        self._positions = np.asarray(positions, np.int64)
        self._file, self._pid = None, None

    def __len__(self) -> int:
        return len(self._positions) - 1

    def __getitem__(self, number: int) -> dict:
        if self._file is None or self._pid != os.getpid():  # a forked process needs a position of its own
            self._file, self._pid = open(self.path, "rb"), os.getpid()
        start, end = self._positions[number : number + 2]
        self._file.seek(start)
        return json.loads(self._file.read(end - start))

    def key_of(self, row: dict) -> str:
        return rows.key_of(row, self.key)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:32]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def write(path: str, source, key: str | None, what: str = "the table") -> int:
    """Write the rows of `source` (Records) to the new file `path`.  Every row needs a key; `what` is what has none, if so.

    Rows with an `error` are left out: they are not to be trained on.  How many these are.
    """
    count = failed = 0
    try:
        with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
            for row, origin in source:
                if row.get("error"):
                    failed += 1
                    continue
                try:
                    rows.key_of(row, key)
                except RowError as error:
                    raise UsageError(f"{origin}: {error}") from None
                file.write(json.dumps(row) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise output_failure(error, path) from None
    if count == 0:
        raise UsageError(f"{what} has no rows" + (f" but {failed} with an error" if failed else ""))
    return failed


def difference(was: "Table", now: "Table") -> list[str]:
    """What tells two tables apart, in a few lines; none where they are the same."""
    if was.digest == now.digest:
        return []
    lines = [f"table: {len(was)} rows -> {len(now)} rows"] if len(was) != len(now) else []
    for number in range(min(len(was), len(now))):
        one, other = was[number], now[number]
        if one != other:
            for column in dict.fromkeys([*one, *other]):
                if one.get(column) != other.get(column):
                    lines.append(f"table, row {number + 1}, {rows.shown(column)}: {json.dumps(one.get(column))} -> {json.dumps(other.get(column))}")
                    return lines
    return lines or ["table: rows differ in the order of their columns"]
