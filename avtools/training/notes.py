"""What a run has to tell of rows though nothing failed (`System.notes`): once each in RUN/notes.jsonl, counted at the end."""

import collections
import json
import os
from collections.abc import Callable, Iterable

import torch.distributed as dist

from avtools.errors import FatalError
from avtools.system import Note
from avtools.training.ranks import Ranks
from avtools.training.table import Table


class Notes:
    """The notes of all ranks, of this start of the run and of those before.

    They reach the file at each :meth:`share`, which a checkpoint follows: what a killed run had not written, it sees again.
    """

    def __init__(self, path: str, ranks: Ranks, say: Callable[[str], None]):
        self.path, self.ranks, self.say = path, ranks, say
        self.known: set[tuple[int, str]] = set()  # (row number, what): in the file
        self.new: dict[tuple[int, str], str] = {}  # -> detail
        self.said: set[str] = set()  # kinds
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                for line in file:
                    try:
                        one = json.loads(line)
                        self.known.add((int(one["row"]), str(one["note"])))
                        self.said.add(str(one["note"]))
                    except (ValueError, KeyError, TypeError):
                        pass  # a line that a killed run left half written
        except FileNotFoundError:
            pass
        except OSError as error:
            raise FatalError(f"{path}: {error.strerror}") from None

    def add(self, batch: dict, found: Iterable[Note]) -> None:
        """Note what was `found` of a batch's items; the first of its kind is said."""
        for place, what, detail in found:
            one = batch["numbers"][place], what
            if one in self.known or one in self.new:
                continue
            if what not in self.said:
                self.said.add(what)
                self.say(f"row {one[0] + 1} ({batch['keys'][place]}) is one with {what} ({detail}); {self.path} is to list all")
            self.new[one] = detail

    def share(self, table: Table) -> None:
        """Let all ranks know what each has found, and write it down; all ranks do so at the same time."""
        everyone: list = [self.new]
        if self.ranks.size > 1:
            everyone = [None] * self.ranks.size
            dist.all_gather_object(everyone, self.new)
        found = {one: detail for some in everyone for one, detail in some.items() if one not in self.known}
        self.known |= set(found)
        self.said |= {what for _, what in found}
        self.new = {}
        self.ranks.first(lambda: found and self._write(table, sorted(found.items())))

    def _write(self, table: Table, found: list) -> None:
        text = ""
        for (number, what), detail in found:
            one = {"row": number, "note": what, "detail": detail}
            text += json.dumps({**one, **{column: cell for column, cell in table[number].items() if column not in one}}) + "\n"
        try:
            with open(self.path, "ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    text = "\n" * (file.read() != b"\n") + text  # behind a line that a killed run left half written
                file.write(text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise FatalError(f"{self.path}: {error.strerror}; the last checkpoint stays valid") from None

    def counts(self) -> dict[str, int]:
        """What -> how many rows."""
        return dict(sorted(collections.Counter(what for _, what in (*self.known, *self.new)).items()))
