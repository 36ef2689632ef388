"""The rows over the ranks of torchrun or srun, through files that all ranks see.

Rank 0 writes the table, as it reads it, to a spool folder; every rank follows that file, does its own rows
with its own workers (`engine.local`) and appends the results, in order, to a spool file of its own; rank 0
follows those and yields all results in the table's order.  Nobody waits for a slow row but the output.
A rank that ends or falls silent ends the run with the reason.

The spool folder lies beside the outputs, so it is on a file system that all ranks share.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from avtools.engine import Model, Outcome, Task, local
from avtools.errors import AvtoolsError, FatalError

POLL_S = 0.02
SIGN_OF_LIFE_S = 5
SILENCE_S = 120  # a rank without a sign of life for so long is taken for dead
GONE = "rank 0 has ended; its messages say why"
START_S = 600  # ranks of one job may start minutes apart


@dataclasses.dataclass(frozen=True)
class World:
    """This process among the ranks of its job."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    job: str = ""


def world() -> World:
    """Who we are under torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS)."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        job = "-".join([env.get("TORCHELASTIC_RUN_ID", ""), env.get("MASTER_ADDR", ""), env.get("MASTER_PORT", "")])
        return World(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_WORLD_SIZE", 1)), job)
    if "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" in env and "SLURM_STEP_ID" in env:
        size = int(env["SLURM_STEP_NUM_TASKS"])
        nodes = int(env.get("SLURM_STEP_NUM_NODES", 1))
        job = f"{env.get('SLURM_JOB_ID', '')}.{env['SLURM_STEP_ID']}"
        return World(int(env["SLURM_PROCID"]), size, -(-size // nodes), job)
    return World()


def lead(
    world: World,
    near: str | None,
    command: str,
    function: Callable,
    rows: Iterable[tuple[int, object]],
    prepare: Callable,
    owner: Callable[[int, dict], int],
    *,
    jobs: int,
    preload: Iterable[str],
    idle: Callable[[], float | None],
    model: Model | None = None,
) -> Iterator[Outcome]:
    """Rank 0: share `rows`, do its part of them, and yield the outcomes of all ranks in order.

    `owner(number, row)`: the rank that does a row; every rank must answer alike.  Rows and what `function`
    returns travel as JSON.
    """
    folder = _spool(world, near, command)
    _greet(world, folder)
    failures: list[BaseException] = []

    def guarded(work: Callable, *arguments, **settings) -> None:
        try:
            work(*arguments, **settings)
        except BaseException as error:
            failures.append(error)

    sharing = threading.Thread(target=guarded, args=(_share, folder, rows), daemon=True)
    working = threading.Thread(
        target=guarded,
        args=(_do_share, world, folder, function, prepare, owner, None),
        kwargs={"jobs": jobs, "preload": preload, "model": model},
        daemon=True,
    )
    sharing.start()
    working.start()
    watch = _Watch(world, folder)
    results = [_Lines(os.path.join(folder, f"result-{rank}.jsonl")) for rank in range(world.size)]
    try:
        for number, record in _shared_rows(folder, lambda: _check(failures, watch, idle)):
            lines = results[owner(number, record.row)]
            while (line := lines.next()) is None:
                _check(failures, watch, idle)
                time.sleep(POLL_S)
            if "fatal" in line:
                raise FatalError(line["fatal"])
            yield Outcome(Task(number, record, None), line["value"], line["failure"])
        working.join()
        while not all(_has_finished(folder, rank) for rank in range(1, world.size)):
            _check(failures, watch, idle)
            time.sleep(POLL_S)
        _check(failures, watch, idle)
    finally:
        watch.close()
        _stop.set()
        working.join(10)
        if working.is_alive():
            local.stop_workers()
        shutil.rmtree(folder, ignore_errors=True)


_stop = threading.Event()


def follow(world: World, near: str | None, command: str, function: Callable, prepare: Callable, owner: Callable, *, jobs: int, preload: Iterable[str], model: Model | None = None) -> None:
    """Ranks above 0: do this rank's part of the shared rows."""
    folder = _spool(world, near, command)
    _greet(world, folder)
    watch = _Watch(world, folder)
    try:
        _do_share(world, folder, function, prepare, owner, watch, jobs=jobs, preload=preload, model=model)
        _write(os.path.join(folder, f"finished-{world.rank}"), "")
    except AvtoolsError as error:
        with contextlib.suppress(FileNotFoundError):  # rank 0 has ended already
            with open(os.path.join(folder, f"result-{world.rank}.jsonl"), "a", encoding="utf-8") as file:
                file.write(json.dumps({"fatal": f"rank {world.rank} on {socket.gethostname()}: {error}"}) + "\n")
        raise
    except FileNotFoundError:
        raise FatalError(GONE) from None
    finally:
        watch.close()


def _do_share(world, folder, function, prepare, owner, watch, *, jobs, preload, model) -> None:
    mine = (
        (number, record)
        for number, record in _shared_rows(folder, lambda: None)
        if owner(number, record.row) == world.rank
    )
    with open(os.path.join(folder, f"result-{world.rank}.jsonl"), "w", encoding="utf-8") as file:

        def idle() -> float:
            file.flush()
            if _stop.is_set():
                raise FatalError("the run was stopped")
            if watch is not None:
                watch.look()
                if not os.path.isdir(folder):
                    raise FatalError(GONE)
            return 1.0

        for outcome in local.run(function, mine, prepare, jobs=jobs, preload=preload, idle=idle, model=model):
            file.write(json.dumps({"failure": outcome.failure, "value": outcome.value}) + "\n")


def _share(folder: str, rows: Iterable[tuple[int, object]]) -> None:
    with open(os.path.join(folder, "table.jsonl"), "w", encoding="utf-8") as file:
        begun = time.monotonic()
        for number, record in rows:
            file.write(json.dumps([number, record.row, record.origin]) + "\n")
            if time.monotonic() - begun > POLL_S:
                file.flush()
                begun = time.monotonic()
        file.write("null\n")


def _shared_rows(folder: str, wait: Callable[[], object]) -> Iterator[tuple[int, object]]:
    from avtools.rows import Record

    lines = _Lines(os.path.join(folder, "table.jsonl"))
    while True:
        line = lines.next(missing=None)
        if line is None:
            wait()
            if not os.path.isdir(folder):
                raise FatalError(GONE)
            time.sleep(POLL_S)
        elif line == "end":
            return
        else:
            number, row, origin = line
            yield number, Record(row, origin)


class _Lines:
    """The JSON lines of a file that another process is writing; whole lines only."""

    def __init__(self, path: str):
        self.path, self.file, self.rest = path, None, ""

    def next(self, missing=None):
        if self.file is None:
            try:
                self.file = open(self.path, encoding="utf-8")
            except FileNotFoundError:
                return missing
        self.rest += self.file.readline()
        if not self.rest.endswith("\n"):
            return missing
        line, self.rest = json.loads(self.rest), ""
        return "end" if line is None else line


def _spool(world: World, near: str | None, command: str) -> str:
    """The folder that this job's ranks meet in: the same on every rank, whatever they know of each other.

    The command's name is part of it, for the stages of a pipe that every rank runs.
    """
    if near is None:
        near = tempfile.gettempdir() if world.local_size == world.size else os.getcwd()
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in f"{world.job}-{command}")
    return os.path.join(near, f".avtools-spool-{os.getuid()}-{name}")


def _greet(world: World, folder: str) -> None:
    """Meet the other ranks in `folder`, and no leftover of an earlier job of the same name.

    Every rank writes a hello with a number of its own; rank 0 empties the folder first and answers with the
    numbers that it saw.  A rank whose hello was swept away says it again.
    """
    number = secrets.token_hex(8)
    deadline = time.monotonic() + START_S
    if world.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.makedirs(folder, mode=0o700)
        except OSError as error:
            raise FatalError(f"{folder}: the ranks cannot meet there ({error.strerror}); give -d DIR or -o FILE on a shared disk") from None
        seen: dict[int, str] = {}
        while len(seen) < world.size - 1:
            for rank in range(1, world.size):
                try:
                    with open(os.path.join(folder, f"hello-{rank}")) as file:
                        hello = file.read()
                    if len(hello) == 16:
                        seen[rank] = hello
                except FileNotFoundError:
                    continue
            _deadline(deadline, world, len(seen) + 1)
            time.sleep(POLL_S)
        _write(os.path.join(folder, "ready"), json.dumps(list(seen.values())))
        return
    hello = os.path.join(folder, f"hello-{world.rank}")
    while True:
        try:
            if not os.path.exists(hello) or open(hello).read() != number:
                _write(hello, number)
            with open(os.path.join(folder, "ready")) as file:
                if number in json.load(file):
                    return
        except (FileNotFoundError, ValueError):
            pass
        _deadline(deadline, world, None)
        time.sleep(POLL_S)


def _deadline(deadline: float, world: World, here: int | None) -> None:
    if time.monotonic() > deadline:
        known = f"{here} of {world.size} ranks are here" if here else "rank 0 did not answer"
        raise FatalError(f"rank {world.rank}: {known} after {START_S} s; is the output directory on a disk that all nodes share?")


def _write(path: str, text: str) -> None:
    temporary = f"{path}-{os.getpid()}.tmp"
    with open(temporary, "w") as file:
        file.write(text)
    os.replace(temporary, path)


class _Watch:
    """Gives signs of life, and looks for those of the others: rank 0 for all, all for rank 0."""

    def __init__(self, world: World, folder: str):
        self.world, self.folder, self.ended = world, folder, threading.Event()
        watched = range(1, world.size) if world.rank == 0 else [0]
        self.last = {rank: (None, time.monotonic()) for rank in watched}
        self.looked = time.monotonic()
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        count = 0
        while not self.ended.is_set():
            try:
                _write(os.path.join(self.folder, f"alive-{self.world.rank}"), str(count))
            except OSError:
                pass
            count += 1
            self.ended.wait(SIGN_OF_LIFE_S)

    def look(self) -> None:
        now = time.monotonic()
        if now - self.looked < SIGN_OF_LIFE_S:
            return
        self.looked = now
        for rank, (was, since) in self.last.items():
            try:
                with open(os.path.join(self.folder, f"alive-{rank}")) as file:
                    count = file.read()
            except OSError:
                count = was
            if count != was:
                self.last[rank] = (count, now)
            elif now - since > SILENCE_S and not _has_finished(self.folder, rank):
                raise FatalError(f"rank {rank} has given no sign of life for {SILENCE_S} s; see its node's messages")

    def close(self) -> None:
        self.ended.set()


def _has_finished(folder: str, rank: int) -> bool:
    return os.path.exists(os.path.join(folder, f"finished-{rank}"))


def _check(failures: list, watch: _Watch, idle: Callable) -> None:
    if failures:
        raise failures[0]
    idle()
    watch.look()
