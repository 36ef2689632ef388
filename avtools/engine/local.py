"""The rows on this machine: worker processes that may crash or hang without harm to the run."""

import collections
import errno
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator

from avtools.engine import Outcome, Task
from avtools.errors import FatalError, RowError, UsageError

WINDOW = 1024  # rows read ahead of the oldest unfinished one
TASKS_PER_WORKER = 10_000  # then it is replaced, so that a leaking codec stays harmless

_GONE = object()


def run(
    function: Callable,
    rows: Iterable,
    prepare: Callable[[object], Task],
    *,
    jobs: int,
    preload: Iterable[str] = (),
    idle: Callable[[], float | None] = lambda: None,
) -> Iterator[Outcome]:
    """Run `function(*task.arguments())` for the task that `prepare(row)` makes of each row.

    Yields the outcomes in the order of the rows.  With `jobs` 0 the function runs in this process: for
    work that costs less than sending it away.  `rows` is drawn from in a thread of its own, so a slow
    producer never holds back finished rows; everything else happens in the calling thread.  `idle()` is
    called whenever nothing is ready (flush there) and returns for how many seconds to wait at most.
    Raises FatalError or UsageError where the function did: nothing further is possible.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    room = threading.Semaphore(WINDOW)
    reading = threading.Thread(target=_read, args=(rows, events, room), daemon=True)
    pool = _pool(jobs, preload) if jobs else None
    order: collections.deque[int] = collections.deque()  # task numbers, the next to yield first
    ordered: dict[int, Outcome | None] = {}  # of those: None until finished
    waiting: dict[int, tuple[Task, set[int]]] = {}
    ended = False
    reading.start()

    def start(task: Task) -> None:
        try:
            arguments = task.arguments()
        except RowError as error:
            finish(task, None, str(error))
            return
        if pool is None:
            finish(task, *_value(_call(function, arguments), task))
            return
        try:  # here, because what does not pickle would end the pool's own thread
            payload = pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)
        except (RecursionError, pickle.PicklingError, TypeError, AttributeError) as error:
            finish(task, None, f"{task.label}: cannot be passed to a worker ({error})")
            return
        future = pool.schedule(_call_pickled, (payload,), timeout=task.timeout)
        future.add_done_callback(lambda future: events.put(("done", task, future)))

    def finish(task: Task, value, failure: str | None) -> None:
        if task.done is not None:
            task.done(value)
        ordered[task.number] = Outcome(task, value, failure)
        for number in [n for n, (_, after) in waiting.items() if task.number in after]:
            waiting[number][1].discard(task.number)
            if not waiting[number][1]:
                start(waiting.pop(number)[0])

    try:
        while not ended or order:
            try:
                event = events.get_nowait()
            except queue.Empty:
                try:
                    event = events.get(timeout=idle())
                except queue.Empty:
                    continue
            kind, *what = event
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
                        start(task)
            elif kind == "done":
                task, future = what
                finish(task, *_value(_result(future, task), task))
            elif kind == "end":
                ended = True
            else:
                raise what[0]
            while order and ordered[order[0]] is not None:
                room.release()
                yield ordered.pop(order.popleft())
    finally:
        if pool is not None:
            pool.stop()
            pool.join()


def _read(rows: Iterable, events: queue.SimpleQueue, room: threading.Semaphore) -> None:
    try:
        for row in rows:
            room.acquire()
            events.put(("row", row))
        events.put(("end",))
    except BaseException as error:  # raised again in the calling thread
        events.put(("error", error))


def _pool(jobs: int, preload: Iterable[str]):
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    # what the fork server has loaded, no worker loads again
    context.set_forkserver_preload(["pebble", "avtools.engine.local", *preload])
    # The fork server and its tracker start with Ctrl-C blocked: it reaches the whole group, and they end with us.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pool = None
    try:
        forkserver.ensure_running()  # it loads the codecs while we load the pool
        from pebble import ProcessPool

        pool = ProcessPool(jobs, TASKS_PER_WORKER, initializer=_begin, context=context)
        pool.schedule(int)  # starts the workers while the first rows are read
    except (BrokenProcessPool, OSError) as error:
        reason = error.__cause__ or error
        raise FatalError(f"worker processes cannot be started ({reason}); check TMPDIR, ulimit -n, ulimit -u") from None
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # one that is pending is raised here
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


def _call_pickled(payload: bytes) -> tuple[str, object]:
    try:
        function, arguments = pickle.loads(payload)
    except RecursionError:
        return "row", "a cell is nested too deeply"
    return _call(function, arguments)


def _call(function: Callable, arguments: tuple) -> tuple[str, object]:
    """In the worker: the value, or what kind of failure with its reason (exceptions may not pickle)."""
    try:
        return "value", function(*arguments)
    except RowError as error:
        return "row", str(error)
    except FatalError as error:
        return "fatal", str(error)
    except UsageError as error:
        return "usage", str(error)
    except MemoryError:
        return "bug", "MemoryError: needs more memory than there is"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "fatal", f"{error.filename or 'output'}: {error.strerror}"
        return "bug", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    except Exception as error:
        return "bug", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"


def _result(future, task: Task) -> tuple[str, object]:
    from concurrent.futures import TimeoutError
    from concurrent.futures.process import BrokenProcessPool

    from pebble import ProcessExpired

    try:
        return future.result()
    except TimeoutError:
        return "row", f"{task.label}: took longer than {task.timeout:g} s; --timeout SECONDS allows more"
    except ProcessExpired as error:
        code = error.exitcode or 0
        if code == -signal.SIGKILL:
            return "row", f"{task.label}: its worker was killed (out of memory?); fewer --jobs leave more for each"
        ended = signal.Signals(-code).name if code < 0 else f"status {code}"
        return "row", f"{task.label}: crashed its worker ({ended}); the file may be damaged"
    except BrokenProcessPool as error:
        return "fatal", f"worker processes cannot be started ({error})"


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
