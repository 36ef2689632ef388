"""What a set's metric keeps of its rows, in parts that the jackknife joins in many ways without cost; and distances of sets."""

from typing import ClassVar

from avtools.errors import RowError
from avtools.metrics import Metric, Skip


class Parts:
    """Parts of a set: closed ones never change, so that sets share them; new rows go to an open one (:meth:`new` makes it)."""

    def __init__(self, parts: tuple = ()):
        self._closed, self._open = tuple(parts), None

    @staticmethod
    def new():
        """A part of no rows."""
        raise NotImplementedError

    def open(self):
        """The part that new rows go to."""
        if self._open is None:
            self._open = self.new()
        return self._open

    @property
    def parts(self) -> tuple:
        """All of them, closed."""
        if self._open is not None:
            self._closed, self._open = (*self._closed, self._open), None
        return self._closed

    def with_(self, other: "Parts"):
        """The parts of both; changes neither."""
        return type(self)((*self.parts, *other.parts))


SIDES = ("judged", "reference")


class SetDistance(Metric):
    """How far a set of vectors is from another one; features of a row: "judged" and "reference", (N, D) each.

    A class has `state` (its :class:`Parts`), `add` (a row's features to a part) and `_finalized` (a state's columns).
    """

    direction = "lower"
    per_row = False
    chance_how = "none: it does not hear the sound"
    unit: ClassVar[str] = "samples"  # what each gives a vector, in words
    state: ClassVar[type[Parts]]

    def __init__(self, **settings):
        super().__init__(**settings)
        self._known: dict = {}  # what was worked out of parts, which live as long: the jackknife asks for it several times

    def __getstate__(self):
        return {**self.__dict__, "_known": {}}

    @property
    def main(self) -> str:
        """The column of the distance."""
        return next(iter(type(self).columns))

    def features(self, item):
        import numpy as np

        for side in SIDES:
            if not np.isfinite(item[side]).all():
                raise RowError(f"{self.name}: the network's features of its {side} {self.unit} are not finite numbers; are these its weights?")
        return {side: item[side] for side in SIDES}

    def start(self):
        return self.state()

    def accumulate(self, state, features):
        self.add(state.open(), features)
        return state

    def merge(self, state, other):
        return state.with_(other)

    def finalize(self, state):
        key = tuple(map(id, state.parts))
        if key not in self._known:
            self._known[key] = state.parts, self._finalized(state)
        return self._known[key][1]

    def add(self, part, features: dict) -> None:
        """One row more to an open part."""
        raise NotImplementedError

    def _finalized(self, state) -> dict:
        raise NotImplementedError

    def _check(self, counts: list[int]) -> None:
        """Skip where a set has fewer than two vectors."""
        if min(counts) < 2:
            raise Skip(f"{min(counts)} {self.unit} in the smaller set; a distance needs two")
