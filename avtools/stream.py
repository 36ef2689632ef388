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
from avtools.engine import Model, Outcome, Task, check_engine, cpus, local, ranked
from avtools.errors import AvtoolsError, FatalError, RowError, UsageError
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
    name/version under which they are recorded; a new version makes them anew.  `records`:
    makes the rows instead of a table; given a standard input to read, it returns header, format and rows.  `preload`: modules that workers use.
    For inline work: `begin(header)` gives the options once the header is known; `report()` gives lines for the
    end.  With a `model`, `function` returns an item for it (or `engine.Items`: several, or none where the row
    needs nothing of it), and `model.finish(row, results, maker or None, options)` the cells; `results` is a list.
    Where rows ask for files, `finish` runs in a worker and is a top-level function.  `identity`: of the options,
    those that files depend on (default: all).  `tees`: further writers (open(columns, header, format), write(row), commit(), discard()).
    """

    function: Callable
    options: dict = dataclasses.field(default_factory=dict)
    columns: Iterable[str] | Callable[[list[str]], Iterable[str]] = ()
    needs: tuple[str, ...] = ()
    wants: Callable[[dict, dict], list[outputs.Want]] | None = None
    operation: str = ""
    inline: bool = False
    preload: tuple[str, ...] = ()
    records: Callable[[Any], tuple[list[str], str, Iterable[rows.Record]]] | None = None
    begin: Callable[[list[str]], dict] | None = None
    report: Callable[[], list[str]] | None = None
    tees: tuple = ()
    model: Model | None = None
    identity: dict | None = None
    settles: bool = False  # done to its own result, the operation changes nothing
    sees: Callable[[dict], None] | None = None  # called with each finished row, in order, where rows are written; keys that begin with NUL are for it alone
    sees_errors: bool = False  # rows that came with an `error` are worked on too, not passed through


def as_it_is(row: dict, options: dict) -> dict:
    """The function of commands that choose or order rows and change none."""
    return {}


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
        self.error_writer: rows.Writer | None = None
        self.writers: list = []  # all that have not been committed
        self.folder: outputs.Outputs | None = None
        # Work that costs less than passing the row on is done where the row is read, unless reading could
        # block in a place where finished rows cannot be flushed first.
        self.direct = work.inline and work.records is None and all(path == "-" or os.path.isfile(path) for path in shared.inputs)
        self.policy: outputs.Policy | None = None
        if work.wants is not None:
            self.policy = outputs.Policy(
                operation=work.operation,
                options=work.options if work.identity is None else work.identity,
                outdir=shared.outdir,
                run=outputs.identity(),
                in_place=shared.in_place,
                overwrite=shared.overwrite,
                copy=shared.copy,
                absolute=shared.absolute,
                fsync=shared.fsync,
                settles=work.settles,
            )

    # --- the reading and writing process ---------------------------------------------------------------

    def lead(self) -> int:
        work, shared = self.work, self.shared
        if work.records is None:
            source = rows.open_rows(shared.inputs, shared.from_format, shared.shard, stdin=_Stdin(self))
            header, default_format = source.columns, source.format
            self._check_needs(header, default_format)
            records, before = enumerate(source, source.first), source.before()
        else:
            header, default_format, made = work.records(_Stdin(self))
            records, before = enumerate(_slice(made, shared.shard)), ()
        if work.begin is not None:
            work.options = work.begin(header)
        declared = work.columns(header) if callable(work.columns) else work.columns
        columns = list(dict.fromkeys([*header, *declared, *(["error"] if shared.on_error == "keep" else [])]))
        if self.policy is not None:
            self.folder = outputs.Outputs(self.policy)
        try:
            for number, record in enumerate(before if self.folder is not None else ()):
                self.folder.reserve(number, record.row, functools.partial(work.wants, record.row, work.options))
            self._open_writers(columns, header, default_format)
            self.progress = _Progress(self, shared)
            if shared.verbose:
                where = f"; {shared.outdir} has {self.folder.count()} recorded files" if shared.outdir else ""
                self.say(f"{self._jobs() or 'no'} worker processes; columns: {', '.join(columns)}{where}")
            try:
                if self.direct:
                    self._do_directly(records)
                else:
                    for outcome in self._outcomes(records):
                        self._write(outcome.task.row, outcome.value, outcome.failure)
                if self.folder is not None:
                    self.folder.sync()
                while self.writers:
                    self.writers[0].commit()
                    del self.writers[0]
            finally:
                self.progress.close()
        finally:
            self._give_up_writers()
            if self.folder is not None:
                self.folder.close()
        return self._report()

    def _open_writers(self, columns: list[str], header: list[str], default_format: str) -> None:
        work, shared = self.work, self.shared
        self.writer = rows.open_writer(shared.output, shared.to_format, columns, default_format)
        self.writers.append(self.writer)
        if shared.errors:
            self.error_writer = rows.open_writer(shared.errors, "jsonl", [], "jsonl")
            self.writers.append(self.error_writer)
        for tee in work.tees:
            tee.open(columns, header, shared.to_format or rows.format_of(shared.output or "") or default_format)
            self.writers.append(tee)

    def _give_up_writers(self) -> None:
        """After a run that could not be finished: hand on the rows that are (to a file they go only with the whole)."""
        for writer in self.writers:
            try:
                if writer is self.error_writer:
                    writer.commit()
                elif writer is self.writer and self.shared.output in (None, "-"):
                    writer.flush()
            except (OSError, AvtoolsError):
                pass  # what ended the run is what counts
            writer.discard()

    def _do_directly(self, records: Iterator[tuple[int, rows.Record]]) -> None:
        function, options, write, sees_errors = self.work.function, self.work.options, self._write, self.work.sees_errors
        # What nearly all rows of nearly all such work need, without the detours of the rest: a fifth of the time
        put, update = self.writer.write, self.progress.update
        plain = self.work.sees is None and not self.work.tees
        for _, record in records:
            row = record.row
            if row.get("error") and not sees_errors:
                write(record, None, None)
                continue
            try:
                cells = function(row, options)
                if plain and type(cells) is dict:
                    put({**row, **cells} if cells else row)
                    self.in_ += 1
                    self.kept += 1
                    self.out += 1
                    update()
                    continue
                value, failure = {"cells": cells}, None
            except RowError as error:
                value, failure = None, str(error)
            write(record, value, failure)

    def _outcomes(self, records: Iterator[tuple[int, rows.Record]]) -> Iterator[Outcome]:
        settings = {"jobs": self._jobs(), "preload": self._preload(), "idle": self._idle, "model": self._model()}
        if self.world.size == 1:
            return local.run(_work, records, self._prepare, **settings)
        return ranked.lead(self.world, self._near(), command_path(), _work, records, self._prepare, self._owner, **settings)

    def follow(self) -> int:
        """On ranks above 0: take this rank's rows of the shared table, leave the results to rank 0."""
        if self.policy is not None:
            self.folder = outputs.Outputs(self.policy)
        try:
            ranked.follow(self.world, self._near(), command_path(), _work, self._prepare, self._owner, jobs=self._jobs(), preload=self._preload(), model=self._model())
            if self.folder is not None:
                self.folder.sync()
        finally:
            if self.folder is not None:
                self.folder.close()
        return 0

    def _model(self) -> Model | None:
        model = self.work.model
        return model and dataclasses.replace(model, finish=_finish, writes=self.policy is not None)

    def _preload(self) -> tuple[str, ...]:
        return __name__, self.work.function.__module__, *self.work.preload

    def _jobs(self) -> int:
        if self.work.inline:
            return 0
        if self.shared.jobs:
            return self.shared.jobs
        share = max(1, cpus() // self.world.local_size)
        return min(share, _rows_in(self.shared.inputs, 1 << 16) or share)  # 64 processes for 2 rows only cost time

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
                place = wants[0].owner or wants[0].relpath or outputs.place(row, wants[0].sources[0])
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
            return self.work.function, row, self.work.options, self.policy, slots, self.work.model is not None

        def finishing(results: list) -> tuple:
            return self.work.model.finish, row, results, self.work.options, self.policy, slots

        def done(value) -> None:
            if self.folder is not None:
                self.folder.done(number, value["targets"] if value else [])

        label = next((row[column] for column in ("path", "audio_path") if row.get(column) and isinstance(row[column], str)), "row")
        return Task(number, record, arguments, frozenset(after), self._timeout(row), done, finishing, label=label)

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
                try:
                    group = {"group": rows.key_of(record.row, self.shared.key)}
                except RowError as error:
                    self._bad(record, str(error))
                else:
                    self.kept += self._put(record, [{**record.row, **group, **one} for one in cells])
        self.progress.update()

    def _put(self, record: rows.Record, made: list[dict]) -> bool:
        keep = True  # until the row itself turns out to be what cannot be written
        try:
            for row in made:
                if self.work.sees is not None:
                    self.work.sees(row)
                    row = _visible(row)
                keep = False
                self.writer.write(row)
                for tee in self.work.tees:
                    tee.write(row)
                self.out += 1
        except RowError as error:
            self._bad(record, str(error), keep)
            return False
        return True

    def _bad(self, record: rows.Record, reason: str, keep: bool = True) -> None:
        self.bad += 1
        self.say(f"{record.origin}: {reason}", always=True)
        if self.work.sees is not None:
            record = record._replace(row=_visible(record.row))
        if self.error_writer is not None:
            self.error_writer.write({**record.row, "error": reason})
        if keep and self.shared.on_error == "keep":
            try:
                self.writer.write({**record.row, "error": reason})
                self.out += 1
            except RowError as error:  # the row cannot even be written
                self.say(f"{record.origin}: {error}", always=True)

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


def _work(function: Callable, row: dict, options: dict, policy: outputs.Policy | None, slots: dict, modelled: bool):
    """In the worker: what `function` makes of a row, and what became of its files (all of it JSON).

    Where it is `modelled`: what the model is to see of the row.
    """
    maker = None if policy is None else outputs.Maker(policy, slots)
    cells = function(row, options) if maker is None else function(row, maker, options)
    return cells if modelled else _value(cells, maker)


def _finish(finish: Callable, row: dict, results: list, options: dict, policy: outputs.Policy | None, slots: dict) -> dict:
    """What the model's results make of a row."""
    maker = None if policy is None else outputs.Maker(policy, slots)
    return _value(finish(row, results, maker, options), maker)


def _value(cells, maker: outputs.Maker | None) -> dict:
    if maker is None:
        return {"cells": cells}
    return {"cells": cells, "targets": maker.targets, "why": maker.why, "counts": maker.counts}


def _visible(row: dict) -> dict:
    """The row without what is between a command's workers and its end alone (:attr:`Work.sees`)."""
    return {column: cell for column, cell in row.items() if column[:1] != "\0"}


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
        if not shared.quiet and sys.stderr is not None and sys.stderr.isatty():
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
        line = rows.shown(line)  # names may hold control characters that would act on a terminal
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            try:
                print(line, file=sys.stderr, flush=True)
            except (OSError, ValueError):
                pass  # a full or closed standard error is no reason to lose rows

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _rows_in(inputs: tuple[str, ...], largest: int = 1 << 28) -> int | None:
    """About how many rows the inputs hold (by their line ends), where no table has more than `largest` bytes."""
    total = 0
    for path in inputs:
        if rows.kind_of(path) in ("video", "sound", "image"):
            total += 1
        elif rows.format_of(path) in ("csv", "tsv", "jsonl") and os.path.isfile(path) and os.path.getsize(path) < largest:
            with open(path, "rb") as file:
                total += sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
            total -= rows.format_of(path) != "jsonl"
        else:
            return None
    return total or None
