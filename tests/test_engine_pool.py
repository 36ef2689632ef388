"""Workers that die at bad moments: a task of theirs fails, none is lost, and no other is blamed."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

import odd_functions as odd
from avtools.engine import local
from avtools.engine.pool import Pool, WorkerDied


@pytest.fixture
def pool():
    made = local._pool(2, ("odd_functions",))
    yield made
    made.stop()
    made.join()


@pytest.fixture
def busy():
    """Threads that leave this process little time to listen to its workers."""
    over = threading.Event()

    def spin():
        while not over.is_set():
            pass

    threads = [threading.Thread(target=spin) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()


def test_those_that_die_as_soon_as_they_have_a_task_while_the_parent_is_busy(pool, busy):
    what = ["crash" if k % 3 == 0 else k for k in range(90)]
    futures = [pool.schedule(odd.misbehave, (one,)) for one in what]
    for one, future in zip(what, futures, strict=True):
        if one == "crash":
            assert future.exception(60).exitcode == -signal.SIGSEGV
        else:
            assert future.result(60) == one


def test_one_that_dies_in_the_middle_of_its_answer(pool):
    futures = [pool.schedule(odd.half_sent, (k,)) for k in range(6)]
    for k, future in enumerate(futures):
        if k % 2:
            assert isinstance(future.exception(60), WorkerDied)
        else:
            assert future.result(60) == k


def test_one_that_is_killed_while_it_waits_is_replaced_and_no_task_is_blamed(pool):
    pids = {pool.schedule(odd.pid_after, (0.2,)).result(60) for _ in range(2)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert [pool.schedule(odd.double, (k,)).result(60) for k in range(8)] == [2 * k for k in range(8)]


def test_a_signal_to_the_whole_job_costs_at_most_what_they_were_doing(pool):
    """The fork server is ended by it too; a new one takes its place."""
    from multiprocessing import forkserver

    pool.schedule(odd.double, (1,)).result(60)
    for _ in range(3):
        for pid in (forkserver._forkserver._forkserver_pid, *(worker.process.pid for worker in pool._workers)):
            os.kill(pid, signal.SIGTERM)
        assert [pool.schedule(odd.double, (k,)).result(60) for k in range(8)] == [2 * k for k in range(8)]


def test_those_that_cannot_begin_are_given_up():
    context = multiprocessing.get_context("forkserver")
    pool = Pool(2, 0, odd.die, context)
    with pytest.raises(BrokenProcessPool, match="status 4"):
        pool.schedule(odd.double, (1,)).result(60)
    pool.join()
    with pytest.raises(BrokenProcessPool):
        pool.schedule(odd.double, (1,))


def test_each_is_replaced_after_so_many_tasks():
    context = multiprocessing.get_context("forkserver")
    pool = Pool(1, 3, int, context)
    pids = [pool.schedule(odd.pid_after, (0,)).result(60) for _ in range(9)]
    pool.stop()
    pool.join()
    assert [len(set(pids[k : k + 3])) for k in (0, 3, 6)] == [1, 1, 1] and len(set(pids)) == 3


def test_a_stop_does_not_wait_for_what_they_do():
    pool = local._pool(2, ())
    futures = [pool.schedule(time.sleep, (1000,)) for _ in range(4)]
    pids = [pid for pid in (worker.process.pid for worker in pool._workers)]
    pool.stop()
    pool.join()
    assert all(isinstance(future.exception(0), BrokenProcessPool) for future in futures)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_what_is_unpickled_may_take_its_time_but_not_end_workers_for_ever(pool):
    assert pool.schedule(odd.misbehave, (odd.Opened(odd.sleep, 1.5),), timeout=1).result(60) == 1.5
    assert pool.schedule(odd.misbehave, (odd.Opened(os._exit, 5),)).exception(60).exitcode == 5
    assert isinstance(pool.schedule(odd.misbehave, (odd.Opened(int, "x"),)).exception(60), ValueError)
    assert pool.schedule(odd.double, (4,)).result(60) == 8


def test_results_are_unpickled_by_who_asks_for_them(pool):
    """Imports in the pool's thread met half-imported modules of the main thread's."""
    assert pool.schedule(odd.opened_on_return, (threading.get_ident,)).result(60) == threading.get_ident()
    refused = pool.schedule(odd.opened_on_return, (int, "x"))
    assert isinstance(refused.exception(60), ValueError) and isinstance(refused.exception(60), ValueError)


def test_what_cannot_be_sent_back_is_that_task_s_failure(pool):
    assert isinstance(pool.schedule(odd.misbehave, ("unpicklable",)).exception(60), TypeError)
    assert pool.schedule(odd.double, (4,)).result(60) == 8
