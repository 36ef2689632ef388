"""What a set's metric keeps of its rows, in parts that the jackknife joins in many ways without cost."""


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
