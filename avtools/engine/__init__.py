"""One function over many rows: order, workers, time limits, errors; on this machine or over ranks."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

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
    failure: str | None = None  # already bad
    label: str = "row"  # what to call it where its function cannot


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
