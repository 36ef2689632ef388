"""From rows to batches: order, worker processes, shared memory, bad items.

The order of items is a function of (seed, position) alone; a position counts items over all ranks, so a run
goes on where it was, whatever the number of ranks.
"""

import collections
import dataclasses
import errno
import glob
import json
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait

import numpy as np
import torch

from avtools.engine import cpus, local
from avtools.engine.pool import WorkerDied
from avtools.errors import FatalError, UsageError
from avtools.identity import identity, is_dead
from avtools.system import System
from avtools.training.draws import draw_of
from avtools.training.table import Table

ATTEMPTS = 32  # rows tried in the place of an unreadable one
ELSEWHERE = 8  # batches tried in the place of one of which no row can be read
SECONDS_PER_ITEM = 300


class Shuffled:
    """Item n of an endless, shuffled stream of `count` rows: every row once in each epoch."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epochs: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()

    def __getitem__(self, n: int) -> tuple[int, int]:
        """(epoch, row number)"""
        epoch, place = divmod(n, self.count)
        if epoch not in self._epochs:
            order = np.random.Generator(np.random.PCG64(draw_of(self.seed, "order", epoch))).permutation(self.count)
            self._epochs[epoch] = order.astype(np.int32 if self.count < 2**31 else np.int64)
            while len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return epoch, int(self._epochs[epoch][place])


class Plan:
    """Which items each micro-batch has, from a position on.

    Micro-batch m (over all ranks) is done by rank m % size.  `position` counts items, `batches` micro-batches
    that were made before.
    """

    def __init__(self, system: System, table: Table, batch: int, seed: int, rank: int, size: int, position: int = 0, batches: int = 0):
        self.batch, self.rank, self.size, self.position, self.number = batch, rank, size, position, 0
        self.shuffled = Shuffled(len(table), seed)
        self.own = system.batch_sampler(table, seed, batch)
        if self.own is not None:
            for _ in range(batches):
                next(self.own)

    def next(self) -> list[tuple]:
        """The (epoch, row number), and where the system has them place, of this rank's next micro-batch."""
        if self.own is not None:
            found = [next(self.own) for _ in range(self.size)]
            return found[self.rank]
        first = self.position + (self.number * self.size + self.rank) * self.batch
        self.number += 1
        return [self.shuffled[n] for n in range(first, first + self.batch)]


@dataclasses.dataclass
class Bad:
    """The rows that could not be read, listed once each in RUN/bad.jsonl."""

    path: str
    limit: float  # distinct rows; more end the run

    def __post_init__(self):
        self.numbers: set[int] = set()  # found since this start
        self.listed: set[int] = set()  # in the file
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
                for line in file:
                    try:
                        self.listed.add(json.loads(line)["row"])
                    except (ValueError, KeyError, TypeError):
                        pass  # a line that a killed run left half written
        except FileNotFoundError:
            pass

    def add(self, number: int, row: dict, reason: str) -> bool:
        """Note a bad row; whether it is a new one."""
        if number in self.numbers:
            return False
        self.numbers.add(number)
        if number in self.listed:
            return False
        self.listed.add(number)
        line = json.dumps({"row": number, "error": reason, **{k: v for k, v in row.items() if k not in ("row", "error")}}) + "\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                os.write(descriptor, line.encode("utf-8", "surrogateescape"))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise FatalError(f"{self.path}: {error.strerror}") from None
        return True


class Loader:
    """Makes batches ahead of need: items in worker processes that may crash or hang, handed over in shared memory."""

    def __init__(
        self,
        system: System,
        table: Table,
        seed: int,
        bad: Bad,
        *,
        jobs: int | None = None,
        local_size: int = 1,
        timeout: float | None = None,
        cache_gb: float = 0.0,
        say: Callable[[str], None] = lambda line: None,
        pin: bool = False,
        purpose: str = "train",
    ):
        self.system, self.table, self.seed, self.bad, self.say, self.pin, self.purpose = system, table, seed, bad, say, pin, purpose
        self.jobs = jobs or max(1, cpus() // local_size)
        self.timeout = timeout or SECONDS_PER_ITEM
        self.function, self.options = system.item_work()
        self.cache: dict[tuple, dict] | None = {} if cache_gb and system.item_is_fixed() else None
        self.room = cache_gb * 2**30
        self.waited = 0.0  # seconds that `next` has waited
        self.items = 0  # that workers have made
        self._pool = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._batches: queue.Queue = queue.Queue(2)
        self.folder = _shared_folder()

    def start(self, plan: "Plan | Iterable[list[tuple]]") -> None:
        """Begin to make the batches of `plan`; an iterable ends, a Plan does not."""
        if self._pool is None:
            self._pool = local._pool(self.jobs, (__name__, self.function.__module__))
        self._stop.clear()
        self._batches = queue.Queue(2)
        self._thread = threading.Thread(target=self._fill, args=(plan, self._batches), daemon=True)
        self._thread.start()

    def next(self) -> dict | None:
        """The next batch on the CPU, with `draws` (B,), `keys` and `numbers`; None at the end of an iterable."""
        begun = time.perf_counter()
        while True:
            try:
                found = self._batches.get(timeout=1.0)
                break
            except queue.Empty:
                if self._thread is None or not self._thread.is_alive():
                    raise FatalError("the loader ended without a word; please report this") from None
        self.waited += time.perf_counter() - begun
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self.pause()
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None
        for path in glob.glob(os.path.join(glob.escape(self.folder), "*")):
            os.unlink(path)
        try:
            os.rmdir(self.folder)
        except OSError:
            pass

    def pause(self) -> None:
        """Stop making batches; :meth:`start` begins anew."""
        self._stop.set()
        while self._thread is not None and self._thread.is_alive():
            try:  # it may be waiting for room
                self._batches.get(timeout=0.05)
            except queue.Empty:
                pass
        self._thread = None

    # --- in the thread that makes batches -------------------------------------------------------------------

    def _fill(self, plan, batches: queue.Queue) -> None:
        try:
            ahead: collections.deque = collections.deque()
            source = iter(plan) if not isinstance(plan, Plan) else iter(plan.next, None)
            ended = False
            while not self._stop.is_set():
                while not ended and sum(len(one) for one in ahead) < max(4 * self.jobs, 2 * len(ahead[0]) if ahead else 1):
                    found = next(source, None)
                    if found is None:
                        ended = True
                        break
                    ahead.append([self._begin(*one) for one in found])
                if not ahead:
                    self._put(batches, None)
                    return
                begun = ahead.popleft()
                items = self._whole(begun)
                if not self._stop.is_set():
                    self._put(batches, self._batch(items))
        except BaseException as error:  # raised again in the training thread
            self._put(batches, error)

    def _put(self, batches: queue.Queue, what) -> None:
        while not self._stop.is_set():
            try:
                batches.put(what, timeout=0.1)
                return
            except queue.Full:
                continue

    def _row(self, number: int, epoch, attempt: int, place) -> tuple[dict, int, str]:
        row = self.table[number]
        key = self.table.key_of(row)
        draw = draw_of(self.seed, self.purpose, epoch, key, *([attempt] if attempt else []))
        partner = self.system.partner(row, draw) if self.purpose == "train" else None  # validation is of the clips as they are
        if partner is not None:
            row = {**row, "partner": self.table[partner % len(self.table)]}
        if place is not None:
            row = {**row, "place": place}
        return row, draw, key

    def _begin(self, epoch, number: int, place=None, attempt: int = 0):
        row, draw, key = self._row(number, epoch, attempt, place)
        if self.cache is not None and (number, place) in self.cache:
            return epoch, number, place, attempt, row, draw, key, None
        return epoch, number, place, attempt, row, draw, key, self._schedule(row, draw)

    def _schedule(self, row: dict, draw: int):
        return self._pool.schedule(load_item, (self.function, row, draw, self.options, self.folder), timeout=self.timeout)

    def _whole(self, begun: list[tuple]) -> list[tuple]:
        """The items of a batch: as many as can be read; where none can (a bucket may have one row), those of another, drawn batch."""
        (epoch, number), attempts = begun[0][:2], 0
        while not (items := [item for one in begun if (item := self._end(*one)) is not None]):
            if attempts == ELSEWHERE:
                raise FatalError(f"row {number + 1}: {self._lost()}")
            seed, attempts = draw_of(self.seed, self.purpose, epoch, number, "elsewhere", attempts), attempts + 1
            other = next(self.system.batch_sampler(self.table, seed, self.system.config.train.batch_size))
            begun = [self._begin(epoch, *one) for _, *one in other]
        return items

    def _lost(self) -> str:
        return f"neither it nor {ATTEMPTS} others in its place can be read; {self.bad.path} says why"

    def _end(self, epoch, number, place, attempt, row, draw, key, future) -> tuple[dict, int, str, int] | None:
        """The item, or that of a row in its place; None where none that may stand there can be read."""
        first, again = number, False
        while True:
            if future is None:
                return self.cache[number, place], draw, key, number
            while not self._stop.is_set():  # a stop must not wait for a slow item
                if wait([future], timeout=0.5).done:
                    break
            if self._stop.is_set():
                return {}, draw, key, number
            if not again and isinstance(future.exception(), WorkerDied):  # maybe a signal to the whole job, not the file
                again, future = True, self._schedule(row, draw)
                continue
            kind, value = local._result(future, _Label(f"row {number + 1} ({key})", self.timeout))
            if kind == "value":
                self.items += 1
                item = _received(value)
                if self.cache is not None and self.room > 0:
                    self.room -= sum(array.nbytes for array in item.values())
                    self.cache[number, place] = item
                return item, draw, key, number
            if kind == "fatal":
                raise FatalError(value)
            if kind == "usage":
                raise UsageError(value)
            reason, _, trace = value.partition("\n")
            if kind == "bug":
                reason = f"unexpected {reason}; AVTOOLS_DEBUG=1 shows where"
                if os.environ.get("AVTOOLS_DEBUG"):
                    self.say(trace)
            if self.bad.add(number, {k: v for k, v in row.items() if k not in ("partner", "place")}, reason):
                self.say(f"row {number + 1} ({key}): {reason}; another is taken in its place")
            if len(self.bad.numbers) > self.bad.limit:
                raise FatalError(f"{len(self.bad.numbers)} rows cannot be read, more than --max-bad allows; {self.bad.path} lists them")
            attempt, again = attempt + 1, False
            if attempt > ATTEMPTS:
                if place is not None:
                    return None
                raise FatalError(f"row {first + 1}: {self._lost()}")
            number = draw_of(self.seed, self.purpose, epoch, first, "instead", attempt)
            number = number % len(self.table) if place is None else self.system.substitute(self.table, number, place)
            epoch, number, place, attempt, row, draw, key, future = self._begin(epoch, number, place, attempt)

    def _batch(self, found: list[tuple[dict, int, str, int]]) -> dict:
        try:
            batch = self.system.collate([item for item, _, _, _ in found])
        except RuntimeError as error:
            shapes = {name: sorted({item[name].shape for item, *_ in found}) for name in found[0][0]}
            raise FatalError(f"items do not fit into one batch: {shapes} ({error}); please report this") from None
        batch["draws"] = torch.tensor([draw for _, draw, _, _ in found])
        if self.pin:
            batch = {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        batch["keys"] = [key for _, _, key, _ in found]
        batch["numbers"] = [number for _, _, _, number in found]
        return batch


@dataclasses.dataclass
class _Label:
    """What a failure message calls an item."""

    label: str
    timeout: float


# --- handing items over ------------------------------------------------------------------------------------------


def load_item(function: Callable, row: dict, draw: int, options: dict, folder: str) -> tuple[str, object]:
    """In a worker: make an item and lay its arrays into shared memory; where that is full, send them."""
    torch.set_num_threads(1)  # one process per core
    kind, value = local._call(function, (row, draw, options))
    if kind != "value":
        return kind, value
    arrays = {name: np.ascontiguousarray(array) for name, array in value.items()}
    path = None
    try:
        descriptor, path = tempfile.mkstemp(dir=folder)
        with open(descriptor, "wb") as file:
            for array in arrays.values():
                file.write(memoryview(array).cast("B") if array.size else b"")
        return "value", (path, [(name, array.dtype.str, array.shape) for name, array in arrays.items()])
    except OSError as error:
        if path is not None:
            os.unlink(path)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
            raise
        return "value", arrays


def _received(value) -> dict:
    if isinstance(value, dict):
        return value
    path, layout = value
    try:
        with open(path, "rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(data)
    finally:
        os.unlink(path)
    item, at = {}, 0
    for name, dtype, shape in layout:
        count = int(np.prod(shape, dtype=np.int64))
        item[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += count * np.dtype(dtype).itemsize
    return item


def _shared_folder() -> str:
    """A folder in shared memory for this process's items; those of dead processes are removed."""
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    for path in glob.glob(os.path.join(root, "avtools-items-*")):
        name = os.path.basename(path).removeprefix("avtools-items-").rpartition("~")[0]
        try:
            if name and is_dead(name, path):
                for file in os.listdir(path):
                    os.unlink(os.path.join(path, file))
                os.rmdir(path)
        except (OSError, ValueError):
            continue  # another user's
    return tempfile.mkdtemp(prefix=f"avtools-items-{identity()}~", dir=root)


def limit_of(max_bad: tuple[str, float] | None, count: int) -> float:
    """How many distinct bad rows a run of `count` rows bears: --max-bad, else 1 % but at least 10."""
    if max_bad is None:
        return max(10, count // 100)
    kind, value = max_bad
    return value * count if kind == "share" else value


def longest(table: Table, count: int) -> list[int]:
    """The numbers of the `count` rows with the longest clips, by their duration, else their files' size."""

    def length(number: int) -> float:
        row = table[number]
        for column in ("duration", "audio_duration"):
            try:
                return float(row[column])
            except (KeyError, TypeError, ValueError):
                continue
        for column in ("path", "audio_path"):
            try:
                return os.stat(row[column]).st_size / 1e9
            except (KeyError, OSError, TypeError, ValueError):
                continue
        return 0.0

    numbers = sorted(range(len(table)), key=length, reverse=True)[:count]
    return [numbers[k % len(numbers)] for k in range(count)]
