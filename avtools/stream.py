"""rows.read -> engine -> rows.write: what every command over rows shares.

Reading, ordering, workers, errors, resuming, progress and the exit status are here; a command
contributes a :class:`Work`.
"""

import collections
import dataclasses
import functools
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from avtools import outputs, rows
from avtools.cli import Shared, command_path
from avtools.engine import Outcome, Task, check_engine, cpus, local, ranked
from avtools.errors import FatalError, RowError, UsageError
from avtools.stopping import raise_on_signals

STATUS_EVERY_S = 30
SECONDS_PER_ROW, SECONDS_PER_MB = 300, 10  # the default --timeout


@dataclasses.dataclass
class Work:
    """What a command does to one row.

    `function(row, options)`, or `function(row, maker, options)` where `wants` is given, returns a dict of
    cells to set, a list of such dicts for several rows of one, or None to filter the row out.  It is a
    top-level function and its options pickle: it runs in worker processes unless `inline`.

    `columns`: the columns that it sets, or a function of the header that tells.  `needs`: the table must
    have at least one of these.  `wants(row, options)`: the files that a row asks for.  `operation`:
    name/version under which they are recorded; a new version makes them anew.  `records` and `header`:
    rows that the command makes itself instead of reading a table.  `preload`: modules that workers use.
    For inline work: `begin(header)` gives the options once the header is known; `tee` is a second writer
    (open, write, commit, discard); `report()` gives lines for the end.
    """

    function: Callable
    options: dict = dataclasses.field(default_factory=dict)
    columns: Iterable[str] | Callable[[list[str]], Iterable[str]] = ()
    needs: tuple[str, ...] = ()
    wants: Callable[[dict, dict], list[outputs.Want]] | None = None
    operation: str = ""
    inline: bool = False
    preload: tuple[str, ...] = ()
    records: Iterable[rows.Record] | None = None
    header: list[str] | None = None
    output_format: str = "csv"
    begin: Callable[[list[str]], dict] | None = None
    report: Callable[[], list[str]] | None = None
    tee: Any = None
    sees_errors: bool = False  # rows that came with an `error` are worked on too, not passed through


def run(work: Work, shared: Shared) -> int:
    """Do the work over all rows and return the exit status (0 or 1)."""
    raise_on_signals()
    check_engine(shared.engine)
    world = ranked.world()
    if work.inline and world.size > 1:  # costs less than sharing it
        if world.rank > 0:
            return 0
        world = ranked.World()
    if world.size > 1 and world.rank > 0:
        return _Run(work, shared, world).follow()
    return _Run(work, shared, world).lead()


class _Run:
    def __init__(self, work: Work, shared: Shared, world: "ranked.World"):
        self.work, self.shared, self.world = work, shared, world
        self.in_ = self.out = self.kept = self.filtered = self.bad = self.passed = 0
        self.files: collections.Counter[str] = collections.Counter()
        self.writer: rows.Writer | None = None
        self.folder: outputs.Outputs | None = None
        # Work that costs less than passing the row on is done where the row is read, unless reading could
        # block in a place where finished rows cannot be flushed first.
        self.direct = work.inline and work.records is None and all(path == "-" or os.path.isfile(path) for path in shared.inputs)
        self.policy: outputs.Policy | None = None
        if work.wants is not None:
            self.policy = outputs.Policy(
                operation=work.operation,
                options=work.options,
                outdir=shared.outdir,
                run=outputs.identity(),
                in_place=shared.in_place,
                overwrite=shared.overwrite,
                copy=shared.copy,
                absolute=shared.absolute,
                fsync=shared.fsync,
            )

    # --- the reading and writing process ---------------------------------------------------------------

    def lead(self) -> int:
        work, shared = self.work, self.shared
        source = None
        if work.records is None:
            source = rows.open_rows(shared.inputs, shared.from_format, shared.shard, stdin=_Stdin(self))
            header, default_format = source.columns, source.format
            self._check_needs(header, default_format)
        else:
            header, default_format = work.header, work.output_format
        if work.begin is not None:
            work.options = work.begin(header)
        declared = work.columns(header) if callable(work.columns) else work.columns
        columns = list(dict.fromkeys([*header, *declared, *(["error"] if shared.on_error == "keep" else [])]))
        if self.policy is not None:
            self.folder = outputs.Outputs(self.policy)
            for number, record in enumerate(source.before() if source is not None else ()):
                self.folder.reserve(number, record.row, functools.partial(work.wants, record.row, work.options))
        self.writer = rows.open_writer(shared.output, shared.to_format, columns, default_format)
        if work.tee is not None:
            work.tee.open(columns, shared.to_format or rows.format_of(shared.output or "") or default_format)
        self.error_writer = rows.open_writer(shared.errors, "jsonl", [], "jsonl") if shared.errors else None
        self.progress = _Progress(self, shared)
        if shared.verbose:
            where = f"; {shared.outdir} has {self.folder.count()} recorded files" if shared.outdir else ""
            self.say(f"{self._jobs() or 'no'} worker processes; columns: {', '.join(columns)}{where}")
        records = enumerate(source, source.first) if source is not None else enumerate(_slice(work.records, shared.shard))
        done = False
        try:
            if self.direct:
                self._do_directly(records)
            else:
                for outcome in self._outcomes(records):
                    self._write(outcome.task.row, outcome.value, outcome.failure)
            self.writer.commit()
            if work.tee is not None:
                work.tee.commit()
            done = True
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise FatalError(f"{shared.output or 'standard output'}: {error.strerror or error}") from None
        finally:
            self.progress.close()
            if not done:
                self._flush_finished()
                self.writer.discard()
                if work.tee is not None:
                    work.tee.discard()
            if self.error_writer is not None:
                self.error_writer.commit()
            if self.folder is not None:
                self.folder.close()
        return self._report()

    def _do_directly(self, records: Iterator[tuple[int, rows.Record]]) -> None:
        function, options, write, sees_errors = self.work.function, self.work.options, self._write, self.work.sees_errors
        for _, record in records:
            if record.row.get("error") and not sees_errors:
                write(record, None, None)
                continue
            try:
                value, failure = {"cells": function(record.row, options)}, None
            except RowError as error:
                value, failure = None, str(error)
            write(record, value, failure)

    def _outcomes(self, records: Iterator[tuple[int, rows.Record]]) -> Iterator[Outcome]:
        settings = {"jobs": self._jobs(), "preload": self._preload(), "idle": self._idle}
        if self.world.size == 1:
            return local.run(_work, records, self._prepare, **settings)
        return ranked.lead(self.world, self._near(), _work, records, self._prepare, self._owner, **settings)

    def follow(self) -> int:
        """On ranks above 0: take this rank's rows of the shared table, leave the results to rank 0."""
        if self.policy is not None:
            self.folder = outputs.Outputs(self.policy)
        try:
            ranked.follow(self.world, self._near(), _work, self._prepare, self._owner, jobs=self._jobs(), preload=self._preload())
        finally:
            if self.folder is not None:
                self.folder.close()
        return 0

    def _preload(self) -> tuple[str, ...]:
        return __name__, self.work.function.__module__, *self.work.preload

    def _jobs(self) -> int:
        if self.work.inline:
            return 0
        if self.shared.jobs:
            return self.shared.jobs
        share = max(1, cpus() // self.world.local_size)
        only_media = bool(self.shared.inputs) and all(rows.kind_of(path) in ("video", "sound", "image") for path in self.shared.inputs)
        return min(share, len(self.shared.inputs)) if only_media else share

    def _near(self) -> str | None:
        if self.shared.outdir:
            return os.path.join(self.shared.outdir, outputs.FOLDER)
        return os.path.dirname(os.path.abspath(self.shared.output)) if self.shared.output not in (None, "-") else None

    def _check_needs(self, header: list[str], format_: str) -> None:
        needs = self.work.needs
        if needs and format_ != "jsonl" and not set(needs) & set(header):
            have = ", ".join(header) or "none"
            raise UsageError(f"the table has no column {' or '.join(repr(n) for n in needs)} (it has: {have})")

    def _owner(self, number: int, row: dict) -> int:
        """The rank that does this row: rows that share a file go to one rank."""
        try:
            wants = self.work.wants(row, self.work.options) if self.work.wants else []
            if wants:
                place = wants[0].relpath or outputs.place(row, wants[0].sources[0])
                return int.from_bytes(outputs.hash_of(place)[:8], "big") % self.world.size
        except (RowError, TypeError, ValueError):
            pass
        return number % self.world.size

    def _prepare(self, item: tuple[int, rows.Record]) -> Task:
        number, record = item
        row = record.row
        if row.get("error") and not self.work.sees_errors:
            return Task(number, record, None)
        slots, after = {}, frozenset()
        if self.folder is not None:
            try:
                slots, after = self.folder.claim(number, row, self.work.wants(row, self.work.options))
            except RowError as error:
                return Task(number, record, None, failure=str(error))
            except (TypeError, ValueError) as error:  # no text, or text that no file can be called
                return Task(number, record, None, failure=f"a cell that should hold a path does not ({error})")

        def arguments() -> tuple:
            if self.folder is not None:
                self.folder.ready(number, slots)
            return self.work.function, row, self.work.options, self.policy, slots

        def done(value) -> None:
            if self.folder is not None:
                self.folder.done(number, value["targets"] if value else [])

        label = next((str(row[column]) for column in ("path", "audio_path") if row.get(column)), "row")
        return Task(number, record, arguments, frozenset(after), self._timeout(row), done, label=label)

    def _timeout(self, row: dict) -> float | None:
        if self.work.inline:
            return None
        if self.shared.timeout:
            return self.shared.timeout
        size = 0
        for column in ("path", "audio_path"):
            try:
                size += os.stat(row[column]).st_size
            except (KeyError, OSError, TypeError, ValueError):
                pass
        return SECONDS_PER_ROW + SECONDS_PER_MB * size / 1e6

    def _write(self, record: rows.Record, value: dict | None, failure: str | None) -> None:
        """Write what became of a row; neither value nor failure: it passes untouched."""
        self.in_ += 1
        if failure is not None:
            self._bad(record, failure)
        elif value is None:
            self.passed += self._put(record, [record.row])
        else:
            cells = value["cells"]
            if "counts" in value:
                self.files.update(value["counts"])
            for line in value.get("why", ()) if self.shared.why or self.shared.verbose else ():
                self.say(line)
            if cells is None:
                self.filtered += 1
            elif isinstance(cells, dict):
                self.kept += self._put(record, [{**record.row, **cells}])
            else:
                group = {"group": rows.key_of(record.row, self.shared.key)}
                self.kept += self._put(record, [{**record.row, **group, **one} for one in cells])
        self.progress.update()

    def _put(self, record: rows.Record, made: list[dict]) -> bool:
        try:
            for row in made:
                self.writer.write(row)
                if self.work.tee is not None:
                    self.work.tee.write(row)
                self.out += 1
        except RowError as error:
            self._bad(record, str(error), keep=False)
            return False
        return True

    def _bad(self, record: rows.Record, reason: str, keep: bool = True) -> None:
        self.bad += 1
        self.say(f"{record.origin}: {reason}", always=True)
        if self.error_writer is not None:
            self.error_writer.write({**record.row, "error": reason})
        if keep and self.shared.on_error == "keep":
            self.writer.write({**record.row, "error": reason})
            self.out += 1

    def _flush_finished(self) -> None:
        """On the way out, hand on the rows that are finished (to a file they go only with the whole)."""
        if self.shared.output in (None, "-"):
            try:
                self.writer.flush()
            except (OSError, FatalError):
                pass  # what ended the run is what counts

    def _idle(self) -> float | None:
        self.writer.flush()
        return self.progress.due()

    def say(self, line: str, always: bool = False) -> None:
        if always or not self.shared.quiet:
            self.progress.say(f"{command_path()}: {line}")

    def _report(self) -> int:
        whole = self.kept + self.filtered + self.bad + self.passed
        parts = [f"{self.in_} rows in = {self.kept + self.passed} done + {self.filtered} filtered + {self.bad} bad"]
        if self.out != self.kept + self.passed:  # several rows of one, or bad rows kept
            parts.append(f"{self.out} rows out")
        if self.policy is not None:
            parts.append("files: {made} made, {unchanged} without change, {reused} reused".format_map(self.files))
        for line in ["; ".join(parts), *(self.work.report() if self.work.report else [])]:
            self.say(line)
        if whole != self.in_:
            raise FatalError(f"rows were lost: {self.in_} in, {whole} accounted for; please report this")
        if self.shared.on_error == "keep" or not self.bad:
            return 0
        if self.shared.on_error == "drop":
            kind, limit = self.shared.max_bad
            return int(self.bad > (limit * self.in_ if kind == "share" else limit))
        return 1


def _work(function: Callable, row: dict, options: dict, policy: outputs.Policy | None, slots: dict) -> dict:
    """In the worker: what `function` makes of a row, and what became of its files (all of it JSON)."""
    if policy is None:
        return {"cells": function(row, options)}
    maker = outputs.Maker(policy, slots)
    cells = function(row, maker, options)
    return {"cells": cells, "targets": maker.targets, "why": maker.why, "counts": maker.counts}


def _slice(records: Iterable[rows.Record], shard: tuple[int, int] | None) -> Iterator[rows.Record]:
    """The shard's slice of rows that the command makes itself; they are counted on disk first."""
    if shard is None:
        yield from records
        return
    with tempfile.TemporaryFile("w+", encoding="ascii") as spool:
        count = 0
        for record in records:
            spool.write(json.dumps(record) + "\n")
            count += 1
        spool.seek(0)
        index, shards = shard
        for line in itertools.islice(spool, (index - 1) * count // shards, index * count // shards):
            yield rows.Record(*json.loads(line))


class _Stdin:
    """Standard input without a buffer of its own: what a thread still reads cannot hold up the end.

    Work that is done directly has its finished rows flushed before it may have to wait for more.
    """

    def __init__(self, run: _Run):
        self.run = run

    def read(self, size: int) -> bytes:
        if self.run.direct and self.run.writer is not None:
            self.run.writer.flush()
        return os.read(0, size)


class _Progress:
    """A bar on a terminal, a line every 30 s elsewhere, nothing when quiet."""

    def __init__(self, run: _Run, shared: Shared):
        self.run, self.begun = run, time.monotonic()
        self.next = float("inf") if shared.quiet else self.begun + STATUS_EVERY_S
        self.bar = None
        if not shared.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=_rows_in(shared.inputs), unit="row", desc=command_path(), dynamic_ncols=True, file=sys.stderr)
            self.next = float("inf")

    def update(self) -> None:
        if self.bar is not None:
            self.bar.set_postfix(bad=self.run.bad, refresh=False)
            self.bar.update()
        elif self.run.in_ & 255 == 0 and time.monotonic() > self.next:
            self._line()

    def due(self) -> float | None:
        """Seconds until something has to be said; None for never."""
        if self.next == float("inf"):
            return None
        left = self.next - time.monotonic()
        if left <= 0:
            self._line()
            left = STATUS_EVERY_S
        return left

    def _line(self) -> None:
        now = time.monotonic()
        rate = self.run.in_ / (now - self.begun)
        self.say(f"{command_path()}: {self.run.in_} rows, {self.run.bad} bad, {rate:.1f} rows/s")
        self.next = now + STATUS_EVERY_S

    def say(self, line: str) -> None:
        # A name may hold bytes that are no text, or control characters that would act on a terminal.
        line = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in line)
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _rows_in(inputs: tuple[str, ...]) -> int | None:
    """About how many rows the inputs hold (by their line ends), where that costs nothing to know."""
    total = 0
    for path in inputs:
        if rows.kind_of(path) in ("video", "sound", "image"):
            total += 1
        elif rows.format_of(path) in ("csv", "tsv", "jsonl") and os.path.isfile(path) and os.path.getsize(path) < 1 << 28:
            with open(path, "rb") as file:
                total += sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
            total -= rows.format_of(path) != "jsonl"
        else:
            return None
    return total or None
