"""One function over many rows: order, crashes, hangs, waiting."""

import time

import pytest

import odd_functions as odd
from avtools.engine import Task, local, ranked
from avtools.errors import FatalError, RowError


def run(function, values, jobs=2, after=None, timeout=None, idle=lambda: None):
    def prepare(item):
        number, value = item
        return Task(number, value, lambda: (value,), frozenset((after or {}).get(number, ())), timeout)

    return local.run(function, enumerate(values), prepare, jobs=jobs, idle=idle)


@pytest.mark.parametrize("jobs", [0, 1, 3])
def test_results_come_in_order(jobs):
    outcomes = list(run(odd.double, range(3000), jobs))
    assert [o.value for o in outcomes] == [2 * x for x in range(3000)]


def test_order_holds_when_the_first_is_slowest():
    values = [0.4, 0.0, 0.1, 0.0]
    assert [o.value for o in run(odd.sleep, values)] == values


def test_bad_rows_fail_alone():
    values = ["a", "crash", "b", "bad", "c", "killed", "hang", "bug", "unpicklable", "d"]
    outcomes = list(run(odd.misbehave, values, timeout=2))
    assert [o.value for o in outcomes if o.failure is None] == ["a", "b", "c", "d"]
    reasons = {o.task.row: o.failure for o in outcomes if o.failure}
    assert "SIGSEGV" in reasons["crash"]
    assert "memory" in reasons["killed"]
    assert "--timeout" in reasons["hang"]
    assert reasons["bad"] == "a.mp4: bad"
    assert "ZeroDivisionError" in reasons["bug"] and "\n" not in reasons["bug"]
    assert "unpicklable" in reasons and "\n" not in reasons["unpicklable"]


def test_many_crashes_in_a_row():
    values = ["crash"] * 20 + ["a"] * 20
    outcomes = list(run(odd.misbehave, values))
    assert [o.value for o in outcomes[20:]] == ["a"] * 20 and all(o.failure for o in outcomes[:20])


def test_fatal_ends_the_run():
    begun = time.monotonic()
    with pytest.raises(FatalError, match="No space"):
        list(run(odd.misbehave, ["a", "fatal", *["hang"] * 5]))
    assert time.monotonic() - begun < 20


def test_rows_wait_for_earlier_ones():
    order = []

    def prepare(item):
        number, value = item
        return Task(number, value, lambda: order.append(f"start {number}") or (value,), frozenset({0} if number == 2 else ()), done=lambda value: order.append(f"end {number}"))

    list(local.run(odd.sleep, enumerate([0.3, 0, 0]), prepare, jobs=2))
    assert order.index("start 1") < order.index("end 0") < order.index("start 2")


def test_arguments_may_fail_late():
    def late():
        raise RowError("x: taken")

    (outcome,) = local.run(odd.double, [0], lambda item: Task(0, None, late), jobs=1)
    assert outcome.failure == "x: taken"


def test_rows_are_not_held_back_by_a_slow_producer():
    def slow():
        yield 0, 1
        time.sleep(1.5)
        yield 1, 2

    begun = time.monotonic()
    results = local.run(odd.double, slow(), lambda item: Task(item[0], None, lambda: (item[1],)), jobs=1)
    assert next(results).value == 2 and time.monotonic() - begun < 1.2
    assert [o.value for o in results] == [4]


def test_an_error_of_the_producer_is_raised():
    def broken():
        yield 0, 1
        raise RowError("t.csv:3: ragged")

    with pytest.raises(RowError, match="ragged"):
        list(local.run(odd.double, broken(), lambda item: Task(item[0], None, lambda: (item[1],)), jobs=1))


def test_reading_ahead_is_bounded():
    read = []

    def rows():
        for k in range(5000):
            read.append(k)
            yield k, 0.0

    results = run(odd.sleep, [])
    results = local.run(odd.sleep, rows(), lambda item: Task(item[0], None, lambda: (item[1],)), jobs=1)
    next(results)
    time.sleep(0.3)
    assert len(read) < 3 * local.WINDOW
    results.close()


class TestWorld:
    """Who we are among the ranks of a job."""

    NAMES = ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "SLURM_JOB_ID"]

    @pytest.mark.parametrize(
        "env, rank, size",
        [
            ({}, 0, 1),
            ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, 3, 8),
            ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, 2, 4),
            # a batch script knows of its tasks, but is one process: waiting for others would last for ever
            ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 0, 1),
        ],
    )
    def test_world(self, env, rank, size, monkeypatch):
        for name in self.NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        world = ranked.world()
        assert (world.rank, world.size) == (rank, size)


def test_a_rank_that_dies_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(ranked, "SIGN_OF_LIFE_S", 0.1)
    monkeypatch.setattr(ranked, "SILENCE_S", 0.5)
    watch = ranked._Watch(ranked.World(0, 2, 2, "j"), str(tmp_path))
    with pytest.raises(FatalError, match="rank 1"):
        for _ in range(100):
            time.sleep(0.05)
            watch.look()
    watch.close()
