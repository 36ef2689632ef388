"""The page itself: finished rows, waiting in a file beside it, become one HTML file that needs no other.

Two passes over the rows: which kinds of columns there are, then the rows as JSON in script elements, which the page's
script (page.js) reads when they are looked at.  Nothing of a table becomes HTML here or there: text stays text.
"""

import base64
import collections
import hashlib
import importlib.resources
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from avtools import __version__, rows
from avtools.errors import RowError
from avtools.identity import identity, is_dead
from avtools.media.columns import VIDEO_COLUMNS
from avtools.rows.keys import parse_number
from avtools.rows.writing import cell_text, open_whole

CELL = "\0report"  # of a finished row: what `looking.look` found
LIGHT, HEAVY = 200, 50  # rows of one script element: their cells, all read at once; their pictures, read when seen
MOST = 40_000  # rows that every browser can scroll through: none draws a document that is higher
LONGEST = 400  # characters of a cell that are shown
CATEGORIES = 24  # different values of a column that is filtered by them, at most
CAPTIONS = ("text", "description", "caption", "captions")
LABELS = ("system", "name", "model", "method", "variant", "sample", "seed")  # what may tell the rows of a group apart
#: Numbers that describe media or rows, and judge nothing
FACTS = frozenset((*VIDEO_COLUMNS, "size", "sample", "seed", "label", "events", "step", "audio_length_s", "shift"))
PATHS = re.compile(r"(^|_)(path|file)$")


class Page:
    """Takes part in a run as one of :attr:`avtools.stream.Work.tees`; the table's own writer writes the rows that it is made of.

    `spool`: where these are when the run commits, as JSONL; `folder`: where workers put media for the page; both are
    removed at the end.  `extras(header)` gives the parts that the command worked out itself, once all rows are known.
    `ended()` is called when the page is whole.
    """

    def __init__(self, path: str, spool: str, folder: str, options: dict, extras: Callable[[list[str], Iterable[dict]], dict], ended: Callable[[], None]):
        self.path, self.spool, self.folder, self.options, self.extras, self.ended = path, spool, folder, options, extras, ended
        self.file = None
        self.folders: set[str] = set()
        self.count = self.bad = self.size = self.embedded = self.left_out = 0

    def open(self, columns: list[str], header: list[str], format_: str) -> None:
        self.header = [column for column in columns if column != CELL]
        self.file = open_whole(self.path)
        near, base = os.path.split(self.path)
        for name in os.listdir(near or "."):  # what killed runs left
            left = re.fullmatch(re.escape(base) + r"\.(?:rows|media)\.([^.]+-\d+-\d+)\.tmp", name)
            if left and is_dead(left[1], os.path.join(near, name)):
                _remove(os.path.join(near, name))

    def write(self, row: dict) -> None:
        """Nothing: bad rows have a place in the page too, and they come to the table's writer alone."""

    def commit(self) -> None:
        self._write()
        self.file.commit()
        self.file = None
        self.size = os.stat(self.path).st_size
        self._clean()
        self.ended()

    def discard(self) -> None:
        if self.file is not None:
            self.file.discard()
        self._clean()

    def _clean(self) -> None:
        for path in (self.spool, self.folder):
            _remove(path)
        for folder in self.folders:  # of other ranks
            try:
                os.rmdir(folder)
            except OSError:
                pass

    def _rows(self) -> Iterator[dict]:
        with open(self.spool, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if line.strip():  # how an empty stream ends
                    yield json.loads(line)

    def _write(self) -> None:
        kinds = Kinds(self.header, self.options["group"], self.options["label"])

        def seen() -> Iterator[dict]:
            for row in self._rows():
                kinds.add(row)
                yield row

        walk = seen()
        extras = self.extras(self.header, walk)
        collections.deque(walk, 0)
        self.count, self.bad = kinds.count, kinds.bad
        columns = kinds.columns(self.options["scores"])
        meta = {
            "version": __version__,
            "title": self.options["title"],
            "rows": kinds.count,
            "bad": kinds.bad,
            "columns": columns,
            "captions": kinds.captions,
            "left": kinds.left,
            "group": self.options["group"],
            "label": kinds.label,
            "heavy": HEAVY,
            **extras,
        }
        head, tail = _static("page.html").split("<!--data-->")
        style, script = _static("page.css"), _static("page.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob: file: 'self'; media-src data: blob: file: 'self'"
        for name, text in (("policy", policy), ("style", style), ("title", _html(self.options["title"]))):
            head = head.replace(f"<!--{name}-->", text)
        self._put(head)
        self._put(_script("meta", meta, id="meta"))
        names = [column["name"] for column in columns]
        numeric = [column["kind"] == "number" for column in columns]
        media: dict[str, int] = {}  # file -> number of its element
        budget = self.options["max_embed"]
        groups = _groups(self.options["group"])
        walk = self._rows()
        number = 0
        while part := list(itertools.islice(walk, LIGHT)):
            light = []
            for row in part:
                light.append([groups(row), kinds.key(row), kinds.label_of(row), _cut(row.get("error")), *(_cell(row.get(name), is_number) for name, is_number in zip(names, numeric))])
            self._put(_script("light", light))
            for at in range(0, len(part), HEAVY):
                heavy = [row.get(CELL) for row in part[at : at + HEAVY]]
                for told in heavy:
                    for sample in told["samples"] if told else ():
                        budget = self._embed(sample, media, budget)
                self._put(_script("heavy", heavy, id=f"h{number}"))
                number += 1
        self._put(tail.replace("<!--script-->", script))

    def _put(self, text: str) -> None:
        self.file.write(text.encode("utf-8", "backslashreplace"))

    def _embed(self, sample: dict, media: dict[str, int], budget: float) -> float:
        """Write the media of a sample that go into the page; what is left of the `budget` (bytes)."""
        for name in ("video", "image", "audio"):
            medium = sample.get(name)
            if not medium or "file" not in medium:
                continue
            source = medium["file"]
            key = None if medium["made"] else os.path.abspath(source)
            place = media.get(key)
            if place is None:
                if medium["bytes"] > budget:
                    self.left_out += 1
                    sample["note"] = f"not in this page: its media are larger than --max-embed ({self.options['max_embed'] / 1e6:g} MB) allows"
                    del sample[name]
                    continue
                budget -= medium["bytes"]
                place = self.embedded
                self.embedded += 1
                if key is not None:
                    media[key] = place
                self._put(f'<script type="text/plain" id="m{place}">')
                with _opened(source) as file:
                    while chunk := file.read(3 << 18):  # a multiple of 3: base64 of parts is that of the whole
                        self.file.write(base64.b64encode(chunk))
                self._put("</script>\n")
            if medium["made"]:
                _remove(source)
                self.folders.add(os.path.dirname(source))
            sample[name] = {"id": place, "type": medium["type"]}
        return budget


def _opened(path: str):
    from avtools.errors import FatalError

    try:
        return open(path, "rb")
    except OSError as error:
        raise FatalError(f"{rows.shown(path)}: {error.strerror}; it was there before: run again when nothing moves it") from None


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except IsADirectoryError:
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass


def _static(name: str) -> str:
    return importlib.resources.files("avtools.reporting").joinpath(name).read_text(encoding="utf-8")


def _html(text: str) -> str:
    import html

    return html.escape(text)


def _script(kind: str, value: Any, id: str = "") -> str:
    """`value` as JSON in a script element that no text in it can end: pure ASCII, without `<`."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" class="{kind}"{f" id={id}" if id else ""}>{text}</script>\n'


def _cut(value) -> str | None:
    if value is None or value == "":
        return None
    text = cell_text(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _cell(value, is_number: bool):
    """A cell as the page has it: a number, text, or None."""
    if is_number:
        found = None if value is None or value == "" else parse_number(value)
        return found if found is None or abs(found) < 2**53 and math.isfinite(found) else float(found) if abs(found) < 1e300 else None
    return _cut(value)


def _groups(column: str | None) -> Callable[[dict], int]:
    """Gives each row the number of its group: consecutive rows with the same cell in `column`; an empty one is equal to none."""
    state = [-1, None]

    def group(row: dict) -> int:
        value = row.get(column) if column else None
        if value in (None, "") or value != state[1] or state[0] < 0:
            state[0] += 1
        state[1] = value
        return state[0]

    return group


class Kinds:
    """What kind each column is of, as rows show: numbers, categories, text, or left out."""

    def __init__(self, header: list[str], group: str | None, label: str | None):
        self.header, self.group = list(header), group
        self.count = self.bad = 0
        self.known = {column: _Kind() for column in header if column != "error"}
        self.labels = {name: False for name in ([label] if label else LABELS) if label or name in header and name != group}  # whether it tells rows of a group apart
        self.asked, self.last, self.number = label, {}, _groups(group)

    def add(self, row: dict) -> None:
        self.count += 1
        self.bad += bool(row.get("error"))
        for column, value in row.items():
            if column == CELL or column == "error":
                continue
            if column not in self.known:
                self.known[column] = _Kind()
            self.known[column].add(value)
        if self.group:
            here = self.number(row)
            if self.last.get("\0group") == here:
                for name in self.labels:
                    self.labels[name] |= self.last.get(name) != row.get(name)
            self.last = {**{name: row.get(name) for name in self.labels}, "\0group": here}

    @property
    def label(self) -> str | None:
        if self.asked:
            return self.asked
        return next((name for name, apart in self.labels.items() if apart), None)

    def label_of(self, row: dict) -> str | None:
        return _cut(row.get(self.label)) if self.label else None

    @property
    def captions(self) -> list[str]:
        found = [name for name in CAPTIONS if name in self.known and self.known[name].there][:1]
        return found + ["audio_text"] * ("audio_text" in self.known and self.known["audio_text"].there > 0)

    @property
    def left(self) -> list[str]:
        """Columns that are not in the page: nested and long cells."""
        return [name for name, kind in self.known.items() if kind.kind == "left"]

    def columns(self, scores: list[str] | None) -> list[dict]:
        """`name`, `kind` ("number", "category", "text"), `score` (whether it is shown with the sample), of each column in the page."""
        found = []
        for name, kind in self.known.items():
            if kind.kind in ("left", "empty"):
                continue
            one = "text" if name in self.captions or PATHS.search(name) or name in ("id", "relpath", "group") and kind.kind == "number" else kind.kind
            if one == "number" and kind.padded:
                one = "text"
            score = one == "number" and (name not in FACTS if scores is None else name in scores)
            found.append({"name": name, "kind": one, **({"score": True} if score else {})})
        return found

    @staticmethod
    def key(row: dict) -> str:
        try:
            return _cut(rows.key_of(row)) or ""
        except RowError:
            return ""


class _Kind:
    __slots__ = ("there", "numeric", "padded", "longest", "nested", "values")

    def __init__(self):
        self.there, self.numeric, self.padded, self.longest, self.nested, self.values = 0, True, False, 0, False, set()

    def add(self, value) -> None:
        if value is None or value == "":
            return
        self.there += 1
        if isinstance(value, bool) or isinstance(value, list | dict):
            self.numeric = False
            self.nested |= not isinstance(value, bool)
        if self.numeric:
            number = parse_number(value)
            if number is None:
                self.numeric = False
            elif isinstance(value, str) and len(value) > 1 and value[0] == "0" and value[1].isdigit():
                self.padded = True  # 00123 is a name
        if not self.numeric or self.padded:
            text = cell_text(value)
            self.longest = max(self.longest, len(text))
            self.nested |= text[:1] in ("[", "{")
            if self.values is not None:
                self.values.add(text)
                if len(self.values) > CATEGORIES:
                    self.values = None

    @property
    def kind(self) -> str:
        if not self.there:
            return "empty"
        if self.numeric:
            return "number"
        if self.nested and self.longest > 120:
            return "left"
        return "category" if self.values is not None and not self.nested and len(self.values) * 2 <= self.there and self.longest <= 60 else "text"
