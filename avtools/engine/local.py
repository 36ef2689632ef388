"""The rows on this machine: worker processes that may crash or hang without harm to the run."""

import collections
import errno
import gc
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator

from avtools.engine import Items, Model, Outcome, Task
from avtools.errors import FatalError, RowError, UsageError

WINDOW = 1024  # rows read ahead of the oldest unfinished one
PATIENCE_S = 5  # that a batch is waited for to fill, when nothing comes
BATCHES_AHEAD = 4  # of a model: how many batches' items may be anywhere between decoding and writing
TASKS_PER_WORKER = 10_000  # then it is replaced, so that a leaking codec stays harmless

_GONE = object()
_pools: list = []


def run(
    function: Callable,
    rows: Iterable,
    prepare: Callable[[object], Task],
    *,
    jobs: int,
    preload: Iterable[str] = (),
    idle: Callable[[], float | None] = lambda: None,
    model: Model | None = None,
) -> Iterator[Outcome]:
    """Run `function(*task.arguments())` for the task that `prepare(row)` makes of each row.

    Yields the outcomes in the order of the rows.  With `jobs` 0 the function runs in this process: for
    work that costs less than sending it away.  `rows` is drawn from in a thread of its own, so a slow
    producer never holds back finished rows; everything else happens in the calling thread.  `idle()` is
    called whenever nothing is ready (flush there) and returns for how many seconds to wait at most.
    Raises FatalError or UsageError where the function did: nothing further is possible.

    With a `model`, what `function` returns (an item or :class:`Items`) goes through it in batches, in the
    calling thread, and `model.finish(*task.finishing(results))` gives the row's value.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    room = threading.Semaphore(WINDOW)
    reading = threading.Thread(target=_read, args=(rows, events, room), daemon=True)
    pool = _pool(jobs, preload) if jobs else None
    order: collections.deque[int] = collections.deque()  # task numbers, the next to yield first
    ordered: dict[int, Outcome | None] = {}  # of those: None until finished
    waiting: dict[int, tuple[Task, set[int]]] = {}
    if pool is not None:
        _pools.append(pool)
    stage = None if model is None else _Stage(model)
    ready: collections.deque[Task] = collections.deque()  # with a model: until there is room for their items
    working: set[int] = set()  # with a model: tasks whose items are awaited
    held: set[int] = set()  # with a model: tasks between their start and their end
    ended = False
    reading.start()

    def begin(task: Task) -> None:
        if stage is None:
            start(task)
        else:
            ready.append(task)

    def begin_ready() -> None:
        # No more decoding is queued than keeps the workers busy, so that writing need not wait behind it.
        while ready and len(held) < max(BATCHES_AHEAD * model.batch_size, model.batch_size + jobs) and len(working) < jobs + 2:
            task = ready.popleft()
            held.add(task.number)
            working.add(task.number)
            start(task)

    def start(task: Task) -> None:
        try:
            arguments = task.arguments()
        except RowError as error:
            finish(task, None, str(error))
            return
        if pool is None:
            worked(task, *_value(_call(function, arguments), task))
        else:
            send(task, "done", function, arguments)

    def send(task: Task, event: str, function: Callable, arguments: tuple) -> None:
        try:
            future = pool.schedule(_call, (function, arguments), timeout=task.timeout)
        except (RecursionError, pickle.PicklingError, TypeError, AttributeError) as error:
            finish(task, None, f"{task.label}: cannot be passed to a worker ({error})")
            return
        future.add_done_callback(lambda future: events.put((event, task, future)))

    def worked(task: Task, value, failure: str | None) -> None:
        working.discard(task.number)
        if stage is None or failure is not None:
            finish(task, value, failure)
            return
        items = value.items if isinstance(value, Items) else [value]
        if items:
            stage.add(task, items)
        else:
            conclude(task, [])

    def finish(task: Task, value, failure: str | None) -> None:
        working.discard(task.number)
        held.discard(task.number)
        if task.done is not None:
            task.done(value)
        ordered[task.number] = Outcome(task, value, failure)
        for number in [n for n, (_, after) in waiting.items() if task.number in after]:
            waiting[number][1].discard(task.number)
            if not waiting[number][1]:
                begin(waiting.pop(number)[0])

    def conclude(task: Task, results: list) -> None:
        arguments = task.finishing(results)
        if pool is None or not model.writes:
            finish(task, *_value(_call(model.finish, arguments), task))
        else:
            send(task, "finished", model.finish, arguments)

    def run_batch() -> None:
        for task, results, failure in stage.run():
            if failure is None:
                conclude(task, results)
            else:
                finish(task, None, failure)

    def next_event() -> tuple:
        since = time.monotonic()
        while True:
            try:
                return events.get_nowait()
            except queue.Empty:
                pass
            wait = idle()  # finished rows do not wait for a batch
            patient = stage is not None and bool(stage.pending)
            if patient and stage.is_due(not working and not ready):
                run_batch()
                return ("batch",)
            try:
                return events.get(timeout=min(wait or PATIENCE_S, PATIENCE_S) if patient else wait)
            except queue.Empty:
                if patient and time.monotonic() - since >= PATIENCE_S:
                    run_batch()
                    return ("batch",)

    try:
        while not ended or order:
            kind, *what = next_event()
            if kind == "row":
                task = prepare(*what)
                order.append(task.number)
                if task.failure is not None or task.arguments is None:
                    ordered[task.number] = Outcome(task, None, task.failure)
                else:
                    ordered[task.number] = None
                    after = {number for number in task.after if ordered.get(number, _GONE) is None}
                    if after:
                        waiting[task.number] = (task, after)
                    else:
                        begin(task)
            elif kind in ("done", "finished"):
                task, future = what
                (worked if kind == "done" else finish)(task, *_value(_result(future, task), task))
            elif kind == "end":
                ended = True
            elif kind == "error":
                raise what[0]
            begin_ready()
            while order and ordered[order[0]] is not None:
                room.release()
                yield ordered.pop(order.popleft())
    finally:
        if pool is not None:
            _pools.remove(pool)
            pool.stop()
            pool.join()


def stop_workers() -> None:
    """End the workers of runs in other threads, which may be busy with a batch."""
    for pool in list(_pools):
        pool.stop()
        pool.join()


class _Stage:
    """Items on their way through the model, in the order of their rows."""

    def __init__(self, model: Model):
        self.model, self.size = model, max(1, model.batch_size)
        self.function: Callable[[list], list] | None = None
        self.pending: list[tuple[tuple[int, int], Task, object]] = []  # (row, item), its task, the item
        self.results: dict[int, list] = {}  # of rows of which not all items are done, in their items' order

    def add(self, task: Task, items: list) -> None:
        self.results[task.number] = [_GONE] * len(items)
        self.pending += [((task.number, k), task, item) for k, item in enumerate(items)]
        self.pending.sort(key=lambda entry: entry[0])

    def is_due(self, no_more: bool) -> bool:
        """Whether to run now; `no_more`: nothing that could fill the batch is on its way."""
        return bool(self.pending) and (self.function is None or no_more or len(self.pending) >= self.size)

    def run(self) -> Iterator[tuple[Task, list, str | None]]:
        """Run one batch (the first time: load); yield the rows that it completes, with results or a failure."""
        if self.function is None:
            self.function = _loaded(self.model.load)
            return
        batch, self.pending = self.pending[: self.size], self.pending[self.size :]
        kind, value = _modelled(self.function, [item for _, _, item in batch])
        if kind == "memory" and len(batch) > 1:
            self.size = len(batch) // 2
            self.pending = batch + self.pending
            _free_memory()
        elif kind != "value" and len(batch) > 1:
            _value((kind, value), batch[0][1])  # raises where nothing further is possible
            while batch:  # one of them is to blame
                entry = batch.pop(0)
                if entry[0][0] in self.results:
                    yield from self._took([entry], *_modelled(self.function, [entry[2]]))
        else:
            yield from self._took(batch, kind, value)

    def _took(self, batch: list, kind: str, value) -> Iterator[tuple[Task, list, str | None]]:
        if kind != "value":
            ((number, _), task, _), *_ = batch
            self._forget(number)
            if kind == "memory":
                _free_memory()
                yield task, [], f"{task.label}: {value}"
            else:
                yield task, [], _value((kind, value), task)[1]
            return
        for ((number, k), task, _), result in zip(batch, value, strict=True):
            results = self.results[number]
            results[k] = result
            if not any(one is _GONE for one in results):
                self._forget(number)
                yield task, results, None

    def _forget(self, number: int) -> None:
        del self.results[number]
        self.pending = [entry for entry in self.pending if entry[0][0] != number]


def _loaded(load: Callable) -> Callable:
    try:
        return load()
    except Exception as error:
        if _is_out_of_memory(error):
            raise FatalError(f"the model needs more memory than there is ({_first_line(error)})") from None
        raise


def _modelled(function: Callable, items: list) -> tuple[str, object]:
    """The results of a batch, or what kind of failure with its reason; no traceback keeps its tensors alive."""
    try:
        results = list(function(items))
        if len(results) != len(items):
            raise ValueError(f"{len(results)} results for {len(items)} items")
        return "value", results
    except Exception as error:
        if _is_out_of_memory(error):
            return "memory", f"needs more memory than there is, even alone ({_first_line(error)})"
        return _failure(error)


def _is_out_of_memory(error: Exception) -> bool:
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read(rows: Iterable, events: queue.SimpleQueue, room: threading.Semaphore) -> None:
    try:
        for row in rows:
            room.acquire()
            events.put(("row", row))
        events.put(("end",))
    except BaseException as error:  # raised again in the calling thread
        events.put(("error", error))


def _pool(jobs: int, preload: Iterable[str]):
    from multiprocessing import forkserver, resource_tracker

    from avtools.engine.pool import Pool

    context = multiprocessing.get_context("forkserver")
    # what the fork server has loaded, no worker loads again
    context.set_forkserver_preload(["avtools.engine.local", *preload])
    # The fork server and its tracker start with Ctrl-C blocked: it reaches the whole group, and they end with us.
    # SIGUSR2 asks a training to end, and clusters send it to all processes of a job.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR2})
    resource_tracker.ensure_running()
    pool = None
    try:
        forkserver.ensure_running()
        pool = Pool(jobs, TASKS_PER_WORKER, _begin, context)
    except (EOFError, OSError) as error:
        raise FatalError(f"worker processes cannot be started ({error}); check TMPDIR, ulimit -n, ulimit -u") from None
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGUSR2})  # one that is pending is raised here
        except BaseException:
            if pool is not None:
                pool.stop()
                pool.join()
            raise
    return pool


def _begin() -> None:
    """In a new worker: stay out of the terminal's Ctrl-C, and never outlive the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: Callable, arguments: tuple) -> tuple[str, object]:
    """In the worker: the value, or what kind of failure with its reason (exceptions may not pickle)."""
    try:
        return "value", function(*arguments)
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> tuple[str, str]:
    for kind, cls in (("row", RowError), ("fatal", FatalError), ("usage", UsageError)):
        if isinstance(error, cls):
            return kind, str(error)
    if isinstance(error, MemoryError):
        return "bug", "MemoryError: needs more memory than there is"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "fatal", f"{error.filename or 'output'}: {error.strerror}"
    return "bug", f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}"


def _result(future, task: Task) -> tuple[str, object]:
    from concurrent.futures import TimeoutError
    from concurrent.futures.process import BrokenProcessPool

    from avtools.engine.pool import WorkerDied

    try:
        return future.result()
    except TimeoutError:
        return "row", f"{task.label}: took longer than {task.timeout:g} s; --timeout SECONDS allows more"
    except WorkerDied as error:
        code = error.exitcode
        if code == -signal.SIGKILL:
            return "row", f"{task.label}: its worker was killed (out of memory?); fewer --jobs leave more for each"
        ended = signal.Signals(-code).name if code < 0 else f"status {code}"
        return "row", f"{task.label}: crashed its worker ({ended}); the file may be damaged"
    except BrokenProcessPool as error:
        return "fatal", f"worker processes cannot be started ({error})"
    except RecursionError:
        return "row", f"{task.label}: a cell is nested too deeply"
    except Exception as error:  # what the function returned cannot be sent
        return "bug", f"{type(error).__name__}: {error}"


def _value(result: tuple[str, object], task: Task) -> tuple[object, str | None]:
    kind, value = result
    if kind == "value":
        return value, None
    if kind == "fatal":
        raise FatalError(value)
    if kind == "usage":
        raise UsageError(value)
    if kind == "bug":
        reason, _, trace = value.partition("\n")
        if os.environ.get("AVTOOLS_DEBUG"):
            reason += "\n" + trace
        return None, f"{task.label}: unexpected {reason}; AVTOOLS_DEBUG=1 shows where, please report it"
    return None, value
