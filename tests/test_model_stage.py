"""A model between the workers and the writing: batches, bad rows, memory, order, bounds."""

import time

import pytest

import odd_functions as odd
from avtools.engine import Items, Model, Task, local
from avtools.errors import FatalError, RowError, UsageError


class Recorder:
    """A model that negates; it notes the batches that it saw and fails as it is told."""

    def __init__(self, bad=(), most=1000, error=ValueError("no"), pause=0.0):
        self.bad, self.most, self.error, self.pause = set(bad), most, error, pause
        self.batches, self.loads = [], 0

    def load(self):
        self.loads += 1
        return self.run

    def run(self, items):
        self.batches.append(list(items))
        time.sleep(self.pause)
        if len(items) > self.most:
            raise MemoryError
        if self.bad & set(items):
            raise self.error
        return [-item for item in items]


def run(model, rows, *, size=4, function=odd.double, jobs=2, finish=odd.double, writes=True, after=None, note=lambda event, number: None):
    """Outcomes of rows whose item is twice the row, whose result is the negative, and whose value is twice that."""

    def prepare(item):
        number, value = item

        def arguments():
            note("start", number)
            return (value,)

        def finishing(results):
            note("finishing", number)
            return (results[0] if len(results) == 1 else results,)

        return Task(number, value, arguments, frozenset((after or {}).get(number, ())), 20, lambda value: note("end", number), finishing, label=f"row {number}")

    return local.run(function, rows, prepare, jobs=jobs, model=Model(model.load, size, finish, writes))


@pytest.mark.parametrize("jobs, writes", [(0, True), (1, False), (3, True)])
def test_results_come_in_order(jobs, writes):
    model = Recorder()
    outcomes = list(run(model, enumerate(range(500)), jobs=jobs, writes=writes))
    assert [o.value for o in outcomes] == [-4 * x for x in range(500)]
    assert model.loads == 1 and sorted(sum(model.batches, [])) == [2 * x for x in range(500)]
    assert max(map(len, model.batches)) <= 4


def test_batches_are_full_and_in_the_order_of_the_rows():
    model = Recorder(pause=0.05)  # slower than the workers
    list(run(model, enumerate(range(40)), jobs=1))
    assert sum(model.batches, []) == [2 * x for x in range(40)]
    assert [len(batch) for batch in model.batches].count(4) >= 8


@pytest.mark.parametrize("error, reason", [(ValueError("no"), "row 5: unexpected ValueError: no"), (RowError("5.mp4: too short"), "5.mp4: too short")])
def test_a_bad_row_of_a_batch_fails_alone(error, reason):
    model = Recorder(bad={10}, error=error, pause=0.05)
    outcomes = list(run(model, enumerate(range(12))))
    assert [o.task.number for o in outcomes if o.failure] == [5]
    assert outcomes[5].failure.startswith(reason) and "\n" not in outcomes[5].failure
    assert [o.value for o in outcomes if not o.failure] == [-4 * x for x in range(12) if x != 5]


@pytest.mark.parametrize("error", [FatalError("the GPU is gone"), UsageError("no")])
def test_what_ends_the_run_ends_it_at_once(error):
    model = Recorder(bad={10}, error=error)
    with pytest.raises(type(error), match=str(error)):
        list(run(model, enumerate(range(100))))
    assert sum(10 in batch for batch in model.batches) == 1


def test_missing_memory_halves_the_batch_for_good():
    model = Recorder(most=2, pause=0.05)
    outcomes = list(run(model, enumerate(range(32)), size=8))
    assert [o.value for o in outcomes] == [-4 * x for x in range(32)]
    sizes = [len(batch) for batch in model.batches]
    assert sum(size > 2 for size in sizes) <= 2 and sizes[-5:] == [2] * 5


def test_a_row_that_is_too_large_alone_is_bad():
    class Large(Recorder):
        def run(self, items):
            if 6 in items:
                raise RuntimeError("CUDA out of memory. Tried to allocate 3 GiB\nmore")
            return super().run(items)

    outcomes = list(run(Large(), enumerate(range(8))))
    assert [o.task.number for o in outcomes if o.failure] == [3]
    assert "memory" in outcomes[3].failure and "\n" not in outcomes[3].failure


def test_too_few_results_are_noticed():
    class Few(Recorder):
        def run(self, items):
            return [0] * (len(items) + 1)

    (outcome,) = run(Few(), enumerate([1]))
    assert "2 results for 1 items" in outcome.failure


def test_rows_that_fail_before_or_after_the_model():
    class Same(Recorder):
        def run(self, items):
            self.batches.append(items)
            return items

    before = ["a", "bad", "b", "crash", "c"]
    model = Same()
    outcomes = list(run(model, enumerate(before), function=odd.misbehave, finish=odd.misbehave))
    assert [o.value for o in outcomes] == ["a", None, "b", None, "c"] and sorted(sum(model.batches, [])) == ["a", "b", "c"]

    class Named(Same):
        def run(self, items):
            return [["a", "bad", "b", "crash", "c"][item // 2] for item in items]

    outcomes = list(run(Named(), enumerate(range(5)), finish=odd.misbehave))
    assert [o.value for o in outcomes] == ["a", None, "b", None, "c"]

    class Full(Same):
        def run(self, items):
            return ["fatal"] * len(items)

    with pytest.raises(FatalError, match="No space"):
        list(run(Full(), enumerate(range(5)), finish=odd.misbehave))


def test_nothing_is_loaded_for_nothing():
    model = Recorder()
    assert list(run(model, [])) == [] and model.loads == 0
    outcomes = list(run(model, enumerate(["bad", "bad"]), function=odd.misbehave))
    assert all(o.failure for o in outcomes) and model.loads == 0


def test_what_cannot_be_loaded_ends_the_run():
    class Missing(Recorder):
        def load(self):
            raise FatalError("no weights")

    with pytest.raises(FatalError, match="no weights"):
        list(run(Missing(), enumerate(range(10))))


def test_a_slow_producer_holds_nothing_back():
    def rows():
        yield 0, 1
        yield 1, 2
        time.sleep(3)
        yield 2, 3

    begun = time.monotonic()
    outcomes = run(Recorder(), rows(), size=8)
    assert [next(outcomes).value, next(outcomes).value] == [-4, -8]
    assert time.monotonic() - begun < 2.5, "finished rows waited for a batch to fill"
    assert [o.value for o in outcomes] == [-12]


def test_a_slow_row_holds_back_none_before_it(monkeypatch):
    monkeypatch.setattr(local, "PATIENCE_S", 0.3)

    class Same(Recorder):
        def run(self, items):
            return items

    begun = time.monotonic()
    outcomes = run(Same(), enumerate([0.0, 0.01, 5.0]), size=3, function=odd.sleep, finish=odd.sleep)
    assert [next(outcomes).value, next(outcomes).value] == [0.0, 0.01]
    assert time.monotonic() - begun < 4
    outcomes.close()


def test_rows_wait_until_those_before_them_are_written():
    events = []
    list(run(Recorder(), enumerate(range(6)), after={3: {1}}, note=lambda *event: events.append(event)))
    assert events.index(("end", 1)) < events.index(("start", 3))


def test_look_ahead_is_bounded():
    started, most = set(), []

    def note(event, number):
        if event == "start":
            started.add(number)
        elif event == "end":
            started.discard(number)
        most.append(len(started))

    outcomes = list(run(Recorder(pause=0.02), enumerate(range(200)), size=2, note=note))
    assert [o.value for o in outcomes] == [-4 * x for x in range(200)]
    assert 2 < max(most) <= local.BATCHES_AHEAD * 2


def several(count):
    return Items(list(range(count)))


def test_several_items_of_a_row_and_none():
    model = Recorder(pause=0.02)
    counts = [3, 0, 1, 6, 2]
    outcomes = list(run(model, enumerate(counts), function=several, finish=str, jobs=1))
    assert [o.value for o in outcomes] == ["[0, -1, -2]", "[]", "0", "[0, -1, -2, -3, -4, -5]", "[0, -1]"]
    assert max(map(len, model.batches)) == 4
    model = Recorder(bad={5})
    outcomes = list(run(model, enumerate(counts), function=several, finish=str, jobs=1))
    assert [o.task.number for o in outcomes if o.failure] == [3]


def test_leaving_early_ends_everything():
    outcomes = run(Recorder(pause=0.01), enumerate(range(100_000)))
    next(outcomes)
    begun = time.monotonic()
    outcomes.close()
    assert time.monotonic() - begun < 10
