"""One function over many rows: order, workers, time limits, errors; on this machine or over ranks."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from avtools.errors import UsageError

ENGINES = ("local",)


@dataclasses.dataclass(slots=True)
class Task:
    """One row's work.

    `arguments()` is called just before the work starts (it may raise RowError); `after`: numbers of earlier
    tasks that must be finished first; `timeout` in seconds, None for no limit; `done(value)` is called in
    the reading process as soon as the work has ended, with None where it failed.
    """

    number: int
    row: Any
    arguments: Callable[[], tuple] | None  # None: nothing to do, the row passes
    after: frozenset[int] = frozenset()
    timeout: float | None = None
    done: Callable[[Any], None] | None = None
    finishing: Callable[[list], tuple] | None = None  # of the model's results, the arguments of Model.finish
    failure: str | None = None  # already bad
    label: str = "row"  # what to call it where its function cannot


class Items(NamedTuple):
    """What a worker hands to the model for one row: an item, or several that become one row's results together."""

    items: list


@dataclasses.dataclass
class Model:
    """What is done, in batches, with what the workers return.

    `load()` is called once in the process that runs the batches (one per rank) as soon as there is an item,
    while workers go on; it gives `f(items) -> results`, one each.  A batch holds up to `batch_size` items, of
    one row or of several.  `finish` makes a row's value of its results; where it writes files (`writes`) it runs
    in a worker, off the critical path, and must be a top-level function, else in the process of the model.
    """

    load: Callable[[], Callable[[list], list]]
    batch_size: int
    finish: Callable
    writes: bool = False


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of a task: its value, or the reason of its failure in one line."""

    task: Task
    value: Any = None
    failure: str | None = None


def cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_engine(name: str) -> None:
    if name not in ENGINES:
        raise UsageError(f"no engine '{name}' in this version; there is: {', '.join(ENGINES)}")
