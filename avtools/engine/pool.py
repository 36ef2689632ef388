"""Worker processes with a pipe each: one that crashes, hangs or is killed costs its own task and nothing else.

Written by hand because the pools there are share pipes and locks between workers: concurrent.futures and loky give
everything up when one worker dies, multiprocessing.Pool waits for ever, and pebble, which was used before, lost a task
(and waited for it for ever) or gave the pool up when a worker died just after it had taken one and the parent was busy.
"""

import collections
import dataclasses
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection

GRACE_S = 3.0  # between SIGTERM and SIGKILL
TRIES = 3  # of a task whose worker ended before it had the task
STARTS = 3  # per worker: so many may end before they are ready, one after the other, until the pool gives up


class WorkerDied(Exception):
    """The worker ended during a task; `exitcode` is that of multiprocessing: negative for a signal."""

    def __init__(self, exitcode: int):
        super().__init__(f"the worker ended with status {exitcode}")
        self.exitcode = exitcode


class Pool:
    """`size` processes of a multiprocessing `context`, each of which runs `begin()` and then tasks, one at a time.

    A worker that ends, or whose task takes too long, is replaced; so is one that has done `tasks` tasks.
    """

    def __init__(self, size: int, tasks: int, begin: Callable[[], None], context):
        self.size, self.tasks, self.begin, self.context = size, tasks, begin, context
        self._queue: collections.deque[_Task] = collections.deque()
        self._lock = threading.Lock()  # of the queue, the waking and the end
        self._stopping = False
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        self._woken, self._wake = context.Pipe(duplex=False)
        self._awake = False
        try:
            for _ in range(size):
                self._start()
        except BaseException:
            self._end_all()
            raise
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def schedule(self, function: Callable, args: tuple = (), timeout: float | None = None) -> "Answer":
        """Run `function(*args)` in a worker.  Raises what pickling them raises.

        The future fails with WorkerDied, TimeoutError (`timeout`: seconds from its start), BrokenProcessPool, what the
        function raised, or what pickling its result raised.
        """
        payload = pickle.dumps((function, args), pickle.HIGHEST_PROTOCOL)
        future = Answer()
        future.set_running_or_notify_cancel()  # so that it cannot be cancelled
        with self._lock:
            if self._stopping:
                raise BrokenProcessPool("the pool has ended")
            self._queue.append(_Task(future, payload, timeout))
            self._rouse()
        return future

    def stop(self) -> None:
        """End the workers, whatever they do; tasks that have not ended fail with BrokenProcessPool."""
        with self._lock:
            self._stopping = True
            self._rouse()

    def join(self) -> None:
        self._thread.join()

    def _rouse(self) -> None:
        if not self._awake:
            self._awake = True
            self._wake.send_bytes(b"")

    # --- in the pool's thread -------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._stopping:
                self._hand_out()
                self._attend(connection.wait(self._waited_for(), self._patience()))
        except Exception as error:  # no worker can be started, say
            self._give_up(BrokenProcessPool(str(error) or type(error).__name__))
        finally:
            self._give_up(BrokenProcessPool("the pool has ended"))
            self._end_all()

    def _waited_for(self) -> list:
        return [self._woken, *(one for worker in self._workers for one in (worker.pipe, worker.process.sentinel))]

    def _patience(self) -> float | None:
        limits = [worker.limit for worker in self._workers if worker.limit is not None]
        return max(0.0, min(limits) - time.monotonic()) if limits else None

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.ready and worker.task is None:
                with self._lock:
                    if not self._queue:
                        return
                    task = self._queue.popleft()
                worker.task = task
                task.tries += 1
                try:
                    worker.pipe.send_bytes(task.payload)
                except OSError:
                    pass  # it is dead, which is noticed next

    def _attend(self, ready: list) -> None:
        if self._woken in ready:
            with self._lock:
                self._woken.recv_bytes()
                self._awake = False
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.pipe in ready or worker.process.sentinel in ready:
                self._hear(worker)
            elif worker.limit is not None and now >= worker.limit:
                self._drop(worker, TimeoutError())

    def _hear(self, worker: "_Worker") -> None:
        """Take what a worker has sent, all of it, for it may be dead already."""
        try:
            while worker.pipe.poll():
                answer = worker.pipe.recv_bytes()
                if not worker.ready:  # its first word
                    worker.ready, self._failed_starts = True, 0
                elif not worker.busy:  # that it has the task
                    worker.busy = True
                    timeout = worker.task.timeout
                    worker.limit = time.monotonic() + timeout if timeout else None
                else:
                    future = worker.task.future
                    worker.task, worker.busy, worker.limit = None, False, None
                    worker.done += 1
                    future.set_result(answer)
                    if self.tasks and worker.done >= self.tasks:
                        self._drop(worker)
                        return
            if worker.process.exitcode is None:
                return
        except (EOFError, OSError):
            pass
        worker.process.join(GRACE_S)
        worker.end()
        code = worker.process.exitcode or 0
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS * self.size:
                raise BrokenProcessPool(f"{self._failed_starts} of them ended, the last with status {code}, before they had begun")
        self._drop(worker, WorkerDied(code))

    def _drop(self, worker: "_Worker", error: Exception | None = None) -> None:
        """Put another in a worker's place; what it was doing fails with `error`, what it had not begun another does, a few times."""
        worker.end()
        self._workers.remove(worker)
        task, worker.task = worker.task, None
        if task is not None and (worker.busy or task.tries >= TRIES):
            task.future.set_exception(error)
        elif task is not None:
            with self._lock:
                self._queue.appendleft(task)
        self._start()

    def _start(self) -> None:
        for patience in (0.05, 0.2, 0.5, 1.0, None):
            ours, theirs = self.context.Pipe()
            try:
                process = self.context.Process(target=_work, args=(theirs, self.begin), daemon=True)
                process.start()
                break
            except BaseException as error:
                ours.close()
                # A signal to the whole job ends the fork server too, which may be asked while it is ending.
                if patience is None or not isinstance(error, (EOFError, ConnectionError)):
                    raise
                time.sleep(patience)
            finally:
                theirs.close()
        self._workers.append(_Worker(process, ours))

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            self._stopping = True
            unfinished = [*self._queue, *(worker.task for worker in self._workers if worker.task is not None)]
            self._queue.clear()
        for worker in self._workers:
            worker.task = None
        for task in unfinished:
            task.future.set_exception(error)

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.end()
        self._workers.clear()


class Answer(Future):
    """A future whose result is unpickled by who asks for it.

    What unpickles imports modules, and two threads that import at once (numpy here, torch there) meet half-made ones.
    """

    def result(self, timeout: float | None = None):
        answer = super().result(timeout)
        if isinstance(answer, bytes):
            try:
                answer = pickle.loads(answer)
            except Exception as error:
                answer = ("raised", error)
            self._result = answer
        kind, value = answer
        if kind == "raised":
            raise value
        return value

    def exception(self, timeout: float | None = None):
        error = super().exception(timeout)
        if error is None:
            try:
                self.result()
            except BaseException as raised:
                return raised
        return error


@dataclasses.dataclass(eq=False, slots=True)
class _Task:
    future: Answer
    payload: bytes
    timeout: float | None
    tries: int = 0  # how often it was given to a worker


class _Worker:
    """A process, our end of its pipe, and what it does."""

    def __init__(self, process, pipe):
        self.process, self.pipe = process, pipe
        self.ready = self.busy = False
        self.done = 0
        self.task: _Task | None = None  # it has it where it is `busy`
        self.limit: float | None = None  # by time.monotonic()

    def end(self) -> None:
        self.process.terminate()
        self.process.join(GRACE_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _work(pipe, begin: Callable[[], None]) -> None:
    """A worker, until its pipe is closed."""
    begin()
    pipe.send_bytes(b"ready")
    while True:
        try:
            payload = pipe.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        try:
            function, args = pickle.loads(payload)  # imports its module, which is not the task's time
        except BaseException as error:
            function, args = _raise, (error,)
        try:
            pipe.send_bytes(b"taken")
            answer = ("value", function(*args))
        except BaseException as error:  # SystemExit too: a library that gives up is a failure of its task
            answer = ("raised", error)
        try:
            pipe.send_bytes(_pickled(answer))
        except OSError:
            os._exit(0)


def _raise(error: BaseException) -> None:
    raise error


def _pickled(answer: tuple[str, object]) -> bytes:
    try:
        return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickle.dumps(("raised", TypeError(f"{type(error).__name__}: {error}")))
