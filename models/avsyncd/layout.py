"""AVSyncD's data sets: clips in folders of their class, lists, a prompt for each class (spec: ASVA, sections 1.4, 3.4)."""

import dataclasses
import json
import os
import re

from avtools.errors import RowError, UsageError
from avtools.exchange import Files, Item, Layout, split_of
from avtools.outputs import Want, place, strip_suffix
from avtools.rows import cell_text, number, shown
from avtools.rows.formats import VIDEO_INPUT, suffix_of
from avtools.rows.keys import PLACEHOLDER, path_of

VIDEOS, MAPPING = "videos", "class_mapping.json"
FLAT_PROMPT = "hitting with a stick"  # of every clip of TheGreatestHits, which has no classes


class AVSyncD(Layout):
    """`videos/CLASS/NAME.mp4`, a list of them for each split, `class_mapping.json` (folder -> prompt).

    A clip is linked into the folder of its class under its own suffix: nothing is encoded anew, the lists name what is
    there.  A list has a line for each row, in the rows' order: NAME, or NAME,START,END where the row has `start` and
    `end` (seconds).  A clip of several rows is linked once and listed as often: fewer lines would train it less than
    the table says.  The layout has one prompt for each class, the first row's `text` (else the folder
    with blanks for `_`); a later row that has another one is bad.

    Its clips are heard by their own sound: what `audio_path` names is not held, and counted at the end.  The original's
    `class_clip_text_encodings_*.pt` is not written: prompts are encoded when they are used.

    Also read: data sets without classes (TheGreatestHits), without a mapping (VGGSS), with a folder of videos for each
    list (Landscapes).  A number is kept for each line (about 100 bytes): to count clips listed again, or in no list.
    """

    options = ("class_column",)
    needs = ("path",)
    holds = sets = ("path",)
    makes_files = True

    def __init__(self, settings):
        super().__init__(settings)
        self.unheard = self.again = 0
        self.mixed: list[str] = []
        self.found: dict[str, _Reading] = {}  # by source

    # --- writing

    def wants(self, row):
        place_ = _clip_place(row, self.settings.get("class_column"))
        return [Want("path", (picture_of(row),), (), may_keep=True, relpath=os.path.join(VIDEOS, *place_))]

    def export(self, row, maker):
        source = picture_of(row)
        folder, name = _clip_place(row, self.settings.get("class_column"))
        text = row.get("text")
        if isinstance(text, (list, dict)):
            raise RowError("column text holds several values; the layout has one prompt for each class")
        video = os.path.join(folder, name + os.path.splitext(source)[1])
        record = {"list": split_of(row), "video": video, "prompt": cell_text(text) or default_prompt(folder)}
        span = [cell_text(row.get(column)) for column in ("start", "end")]
        if any(span):
            if any(number(row, column) is None for column in ("start", "end")):
                raise RowError("has only one of start and end; give both, in seconds")
            record |= {"start": span[0], "end": span[1]}
        line = ",".join([video, *filter(None, span)])
        if "\n" in line or "\r" in line or not line.strip() or _parsed(line) != (video, *(span if any(span) else ("", ""))):
            raise RowError(f"{shown(video)!r} cannot stand in a list of one name a line; give the row another relpath")
        made = maker.make("path", build=_never, measure=lambda path: {}, conforms=lambda: True)
        return {"path": made.path}, record

    def sink(self, folder, columns, format_):
        check_column(self.settings.get("class_column"), columns, format_)
        return _Lists(folder, self)

    # --- reading

    def read(self, source):
        whole = os.path.isdir(source)
        root = source if whole else os.path.dirname(source)
        lists = [source]
        if whole:
            names = sorted((name for name in os.listdir(source) if name.endswith(".txt")), key=lambda name: (name != "train.txt", name))
            lists = [os.path.join(source, name) for name in names]
            if not lists:
                raise UsageError(f"{shown(source)}: holds no list (train.txt, test.txt); give the folder that has lists beside {VIDEOS}/")
        prompts = _mapping(os.path.join(root, MAPPING))
        spans = any(_parsed(line)[1] for path in lists for line, _ in _lines(path))
        columns = ["path", "id", "relpath", "class", "text", "split", *(["start", "end"] if spans else [])]
        reading = _Reading(os.path.join(root, VIDEOS) if whole else None, len(lists))

        def items(path):
            yield from self._items(root, path, prompts, spans, reading)
            reading.left -= 1
            if not reading.left:  # notes are of what was read to its end
                self.found[source] = reading

        return columns, [items(path) for path in lists]

    @staticmethod
    def _items(root, path, prompts, spans, reading):
        split = os.path.splitext(os.path.basename(path))[0]
        videos = os.path.join(root, VIDEOS)
        own = os.path.join(videos, split)  # Landscapes: each list has its folder
        roots = [videos, own] if os.path.isdir(own) else [videos]
        for line, line_number in _lines(path):
            video, start, end = _parsed(line)
            found = next((there for there in (os.path.join(one, video) for one in roots) if os.path.exists(there)), None)
            if found is None:
                reading.absent += 1
                reading.first = reading.first or f"{shown(path)}:{line_number}: {shown(video)}"
                found = os.path.join(roots[-1], video)
            else:
                reading.seen.add(hash(os.path.normpath(found)))
            folder = video.split("/", 1)[0] if "/" in video else ""
            record = {"list": split, "video": video, "prompt": prompts.get(folder) or default_prompt(folder)}
            cells = {
                "path": found, "id": strip_suffix(os.path.basename(video)), "relpath": video,
                "class": folder, "text": record["prompt"], "split": split,
            }  # fmt: skip
            if start:
                record |= {"start": start, "end": end}
            if spans:
                cells |= {"start": start, "end": end}
            yield Item(record, cells, f"{shown(path)}:{line_number}")

    def notes(self):
        lines = []
        if self.unheard:
            lines.append(
                f"{self.unheard} rows have an audio_path, which the layout does not hold: its clips are heard by their own sound "
                "('avtools mux' puts the one onto the other)"
            )
        if self.again:
            lines.append(f"{self.again} rows name a clip that a row before lists: it is trained as often")
        for name in self.mixed:
            lines.append(f"{name}: some lines have a span and some have none; AVSyncD reads lists of one kind")
        for reading in self.found.values():
            if reading.absent:
                lines.append(f"{reading.absent} listed videos are not there, the first: {reading.first}")
            if reading.tree and (unlisted := reading.unlisted()):
                lines.append(f"{unlisted} videos below {shown(reading.tree)} stand in no list and were left out")
        return lines


@dataclasses.dataclass
class _Reading:
    """What one reading of a data set found; `left`: lists that are not read to their end."""

    tree: str | None
    left: int
    seen: set[int] = dataclasses.field(default_factory=set)
    absent: int = 0
    first: str = ""

    def unlisted(self) -> int:
        return sum(
            suffix_of(name) in VIDEO_INPUT and hash(os.path.normpath(os.path.join(folder, name))) not in self.seen
            for folder, _, names in os.walk(self.tree)
            for name in names
        )


class _Lists(Files):
    """The lists, written as rows come; the mapping, once all are known."""

    def __init__(self, folder, layout):
        super().__init__(folder, "avsyncd")
        self.layout = layout
        self.prompts: dict[str, str] = {}
        self.kinds: dict[str, set[bool]] = {}
        self.lines: set[int] = set()

    def prepare(self, record, row):
        folder, prompt = os.path.dirname(record["video"]).split("/", 1)[0], record["prompt"]
        before = self.prompts.setdefault(folder, prompt)
        if row.get("text") in (None, ""):
            record["prompt"] = before
        elif before != prompt:
            raise RowError(
                f"class {shown(folder)} has the prompt {shown(before)!r} in a row before and {shown(prompt)!r} in this one, and the layout "
                "holds one for each class; make their 'text' the same, or give --class-column text"
            )

    def write(self, record, row):
        line = ",".join([record["video"], *(record[end] for end in ("start", "end") if end in record)])
        name = f"{record['list']}.txt"
        self.file(name).write(_bytes(line) + b"\n")
        self.kinds.setdefault(name, set()).add("start" in record)
        self.layout.unheard += bool(row.get("audio_path"))
        key = hash((name, line))
        self.layout.again += key in self.lines
        self.lines.add(key)

    def commit(self):
        if not self.kinds:
            self.file("train.txt")  # of a table without rows
        prompts = {folder: prompt for folder, prompt in self.prompts.items() if folder}
        if prompts or not self.prompts:  # flat data sets have none
            text = json.dumps(prompts, indent=4, sort_keys=True, ensure_ascii=False)
            try:
                data = text.encode()
            except UnicodeEncodeError:  # names that are no UTF-8
                data = json.dumps(prompts, indent=4, sort_keys=True).encode()
            self.file(MAPPING).write(data + b"\n")
        self.layout.mixed = [name for name, kinds in self.kinds.items() if len(kinds) > 1]
        super().commit()


# --- classes: MAESTRO's folders are named likewise


def class_of(row: dict, column: str | None) -> str:
    """The class of a row: the cell of `column` if given, else `class`, else `label`, else the first folder of relpath; "" for none."""
    if column is not None:
        return _text_of(row, column)
    for name in ("class", "label"):
        if text := _text_of(row, name):
            return text
    relpath = row.get("relpath")
    return os.path.normpath(relpath).split("/", 1)[0] if isinstance(relpath, str) and "/" in os.path.normpath(relpath) else ""


def check_column(column: str | None, columns: list[str], format_: str) -> None:
    """UsageError where a table has no `column` (JSONL tells only row by row)."""
    if column is not None and format_ != "jsonl" and column not in columns:
        raise UsageError(f"--class-column {shown(column)}: the table has no such column (it has: {shown(', '.join(columns))})")


def folder_of(class_: str) -> str:
    """The folder of a class: blanks (and what no folder's name holds) become `_`; a folder's name stays what it is."""
    folder = re.sub(r"[\s/\0]", "_", class_)
    if folder in (".", "..") or folder.startswith(".avtools"):
        raise RowError(f"class {shown(class_)!r} cannot be a folder's name; rename it")
    return folder


def picture_of(row: dict) -> str:
    """The path of a row's video; RowError where it has none."""
    source = path_of(row, "path")
    if os.path.basename(source) == PLACEHOLDER:
        raise RowError("has no picture, which the layout holds; leave it out: mkmeta filter --where \"path != 'placeholder.mp4'\"")
    return source


def name_in(folder: str, row: dict) -> str:
    """What a row's clip is called in the folder of its class, without suffix: the rest of relpath where that begins with
    the folder, else its last part (without relpath: the file's name)."""
    stem = place(row, picture_of(row))
    first, _, rest = stem.partition("/")
    return rest if rest and first == folder else os.path.basename(stem)


def no_class(column: str | None) -> RowError:
    where = f"column {shown(column)} is empty" if column else "no column class or label, and relpath has no folder"
    return RowError(f"has no class ({where}); name the column that tells it: --class-column COLUMN")


def _clip_place(row: dict, column: str | None) -> tuple[str, str]:
    """(folder of the class, name without suffix); the folder is "" for a clip of a data set without classes."""
    folder = folder_of(class_of(row, column))
    if not folder and row.get("text") != FLAT_PROMPT:
        picture_of(row)  # says what counts more
        raise no_class(column)
    return folder, name_in(folder, row)


def default_prompt(folder: str) -> str:
    return folder.replace("_", " ") if folder else FLAT_PROMPT


def _text_of(row, column) -> str:
    value = row.get(column)
    if isinstance(value, (list, dict)):
        raise RowError(f"column {shown(column)} holds several values; a clip has one class")
    return cell_text(value)


# --- lines


def _parsed(line: str) -> tuple[str, str, str]:
    """(video, start, end) of a line; the last two are empty where it names a whole video, whose name may hold commas."""
    parts = line.rsplit(",", 2)
    if len(parts) == 3 and all(re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", part) for part in parts[1:]):
        return parts[0], parts[1], parts[2]
    return line, "", ""


def _lines(path):
    """(line, number) of those that are not empty.  Names may hold bytes that are no UTF-8."""
    try:
        with open(path, "rb") as file:
            for line_number, line in enumerate(file, 1):
                if line_number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if b"\0" in line:
                    raise UsageError(f"{shown(path)}:{line_number}: is no text; a list names one video a line")
                if text := os.fsdecode(line.rstrip(b"\r\n")):
                    yield text, line_number
    except OSError as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error.strerror}); give a list, or the folder that it lies in") from None


def _bytes(line: str) -> bytes:
    try:
        return os.fsencode(line)
    except UnicodeEncodeError:
        raise RowError(f"{shown(line)!r} is no name that a file can have") from None


def _mapping(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            mapping = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error}); it maps folders to prompts, as JSON") from None
    if not isinstance(mapping, dict) or not all(isinstance(prompt, str) for prompt in mapping.values()):
        raise UsageError(f"{shown(path)}: is no object of folder: prompt")
    return mapping


def _never(out: str, suffix: str) -> None:
    raise AssertionError("a clip is linked as it is")
