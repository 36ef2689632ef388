"""Metadata files -> entries.

A reader is a generator function of a :class:`Found` file; it yields :class:`Entry` tuples.  A line that is not
as its form wants it ends the run (UsageError naming file and line): guessing would mislabel.  All text is UTF-8
with surrogateescape, with or without a byte-order mark, its lines ended by LF or CRLF.
"""

import csv
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from avtools.datasets.keys import Clip, clip_of, clip_of_name, clip_or_stem, stem, stem_of, without_tail
from avtools.errors import UsageError
from avtools.rows.formats import shown
from avtools.rows.keys import parse_number

LONGEST = 2**31 - 1  # characters of a cell


class Entry(NamedTuple):
    """A caption as metadata have it: line (or item) number, key, caption, official split, and whether it describes the picture."""

    line: int
    key: Clip | str
    caption: str
    split: str | None = None
    visual: bool = False


@dataclasses.dataclass
class Found:
    """A metadata file that was found.  Readers may add `notes` (lines for the report).  `unit` is what `Entry.line` counts."""

    path: str
    split: str | None = None
    companions: dict[str, str] = dataclasses.field(default_factory=dict)
    tails: tuple[str, ...] = ()
    notes: list[str] = dataclasses.field(default_factory=list)
    unit: str = "line"

    def at(self, line: int) -> str:
        """Where a line or item is, for messages."""
        return f"{shown(self.path)}:{line}" if self.unit == "line" else f"{shown(self.path)}: {self.unit} {line}"


def _opened(path: str):
    """The text of a file, its line ends kept."""
    try:
        return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise UsageError(f"{shown(path)}: {error.strerror}") from None


def _keyed(file: Found, line: int, make: Callable, *cells: str) -> Any:
    """`make(*cells)`, its ValueError said with the place."""
    try:
        return make(*cells)
    except ValueError as error:
        raise UsageError(f"{file.at(line)}: {shown(str(error))}") from None


def _cells(path: str, delimiter: str = ",", blanks: bool = False) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of each record; with `blanks`, a blank may follow a delimiter, and `#` begins a comment line."""
    csv.field_size_limit(LONGEST)
    with _opened(path) as text:
        reader = csv.reader(text, delimiter=delimiter, skipinitialspace=blanks, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except OSError as error:
                raise UsageError(f"{shown(path)}: {error.strerror}") from None
            except csv.Error as error:
                raise UsageError(f"{shown(path)}:{line}: {error}; the file is damaged, or a quote in a cell is not doubled") from None
            if cells and not (blanks and cells[0].startswith("#")):
                yield line, cells


def _ragged(path: str, line: int, got: int, wanted: Any) -> UsageError:
    return UsageError(f"{shown(path)}:{line}: {got} cells, where {wanted} belong; is a delimiter in a cell not quoted?")


def _table(path: str, *columns: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Line and the cells of `columns` of a table with a header."""
    records = _cells(path, delimiter)
    line, header = next(records, (1, []))
    header = [name.strip() for name in header]
    for name in columns:
        if name not in header:
            raise UsageError(f"{shown(path)}:{line}: has no column '{name}' (it has: {shown(', '.join(header))[:300] or 'nothing'})")
    picks, width = [header.index(name) for name in columns], len(header)
    for line, cells in records:
        if len(cells) != width:
            raise _ragged(path, line, len(cells), width)
        yield line, [cells[k] for k in picks]


def _json(path: str) -> Any:
    with _opened(path) as text:
        try:
            return json.load(text, object_pairs_hook=_object)
        except OSError as error:
            raise UsageError(f"{shown(path)}: {error.strerror}") from None
        except json.JSONDecodeError as error:
            raise UsageError(f"{shown(path)}:{error.lineno}: is no JSON ({error.msg}); is the file whole?") from None
        except RecursionError:
            raise UsageError(f"{shown(path)}: is nested too deeply") from None
        except KeyError as error:
            raise UsageError(f"{shown(path)}: {shown(str(error.args[0]))[:80]!r} stands twice in one object; which is meant?") from None


def _object(pairs: list[tuple[str, Any]]) -> dict:
    """An object none of whose names stands twice: a dict would drop the first one silently."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in made if names.count(name) > 1))
    return made


def _items(file: Found, content: Any) -> Iterator[tuple[int, dict]]:
    """Number (from 1) and content of a list's objects."""
    file.unit = "item"
    if not isinstance(content, list):
        raise UsageError(f"{shown(file.path)}: a list of objects belongs here, not a {type(content).__name__}")
    for number, item in enumerate(content, 1):
        if not isinstance(item, dict):
            raise UsageError(f"{file.at(number)}: is no object")
        yield number, item


def _data(file: Found) -> Iterator[tuple[int, dict]]:
    """The objects of {"data": [...]}."""
    content = _json(file.path)
    if not isinstance(content, dict) or "data" not in content:
        raise UsageError(f'{shown(file.path)}: has no list "data"')
    return _items(file, content["data"])


def _text(file: Found, number: int, item: dict, name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{file.at(number)}: {'has no' if value is None else 'has no text in its'} '{name}'")
    return value


# --- labels -----------------------------------------------------------------------------------------------


def _words(label: str) -> str:
    """A label made of a name: underscores are blanks.

    >>> _words("playing_violin__fiddle")
    'playing violin fiddle'
    """
    return " ".join(label.replace("_", " ").split())


def _category(file: Found, name: str, category: str) -> Iterator[Entry]:
    for line, (file_name, label) in _table(file.path, name, category):
        yield Entry(line, _keyed(file, line, stem, file_name), _words(label), file.split)


def esc50(file: Found) -> Iterator[Entry]:
    """A table; its columns filename and category."""
    return _category(file, "filename", "category")


def urbansound8k(file: Found) -> Iterator[Entry]:
    """A table; its columns slice_file_name and class."""
    return _category(file, "slice_file_name", "class")


def music_instrument(file: Found) -> Iterator[Entry]:
    """A table; its columns FileName and Class."""
    return _category(file, "FileName", "Class")


def vggsound_csv(file: Found) -> Iterator[Entry]:
    """Without a header: id, start second, label, split; or NAME.mp4, label."""
    for line, cells in _cells(file.path):
        if line == 1 and cells[0].strip().lower() in ("youtube id", "youtube_id", "# youtube id", "ytid", "id"):
            continue
        if len(cells) == 4:
            video, start, label, split = cells
            if split.strip() not in ("train", "test"):
                raise UsageError(f"{file.at(line)}: {shown(split)[:40]!r} is no split (train or test)")
            yield Entry(line, _keyed(file, line, clip_of, video, start), label, split.strip())
        elif len(cells) == 2:
            yield Entry(line, _keyed(file, line, clip_of_name, cells[0]), cells[1], file.split)
        else:
            raise _ragged(file.path, line, len(cells), "4 (id, start, label, split) or 2 (name, label)")


def vggsound_tsv(file: Found) -> Iterator[Entry]:
    """A tab-separated table; its columns id (ID_START) and label."""
    for line, (name, label) in _table(file.path, "id", "label", delimiter="\t"):
        yield Entry(line, _keyed(file, line, clip_of_name, name), label, file.split)


def vggss_json(file: Found) -> Iterator[Entry]:
    """A list of {file, class}."""
    for number, item in _items(file, _json(file.path)):
        yield Entry(number, _keyed(file, number, clip_or_stem, _text(file, number, item, "file")), _words(_text(file, number, item, "class")))


def landscape_csv(file: Found) -> Iterator[Entry]:
    """A table; its columns ytid, start_time (s), class and set (the split)."""
    for line, (video, start, label, split) in _table(file.path, "ytid", "start_time", "class", "set"):
        yield Entry(line, _keyed(file, line, clip_of, video, start), _words(label), split.strip() or None)


def audioset(file: Found) -> Iterator[Entry]:
    """Google's segments: three comment lines; id, start, end, quoted label codes (MIDs).  The caption: all names, in lower case.

    A clip with a code that has no name yields an :class:`Unusable` caption: its rows are bad.
    """
    names = _label_names(file.companions["labels"])
    captions: dict[str, str] = {}
    for line, cells in _cells(file.path, blanks=True):
        if len(cells) != 4:
            raise _ragged(file.path, line, len(cells), "4 (id, start, end, codes)")
        video, start, _, codes = cells
        caption = captions.get(codes)
        if caption is None:
            mids = [mid.strip() for mid in codes.split(",") if mid.strip()]
            unknown = [mid for mid in mids if mid not in names]
            if unknown:
                caption = Unusable(f"{shown(file.companions['labels'])} names no label {shown(', '.join(unknown))}")
            else:
                caption = ", ".join(names[mid] for mid in mids)
            captions[codes] = caption
        yield Entry(line, _keyed(file, line, clip_of, video, start), caption, file.split)


class Unusable(str):
    """In place of a caption: why there is none; the clip's rows are bad."""


def _label_names(path: str) -> dict[str, str]:
    """Code -> name in lower case, of lines index, code, name, with or without a header."""
    names: dict[str, str] = {}
    for line, cells in _cells(path):
        if len(cells) != 3:
            raise _ragged(path, line, len(cells), "3 (index, mid, name)")
        if line == 1 and cells[1] == "mid":
            continue
        name = cells[2].strip().lower()
        if not cells[1].startswith("/") or not name:
            raise UsageError(f"{shown(path)}:{line}: wants index, mid (such as /m/09x0r), name")
        if names.setdefault(cells[1], name) != name:
            raise UsageError(f"{shown(path)}:{line}: {shown(cells[1])} is named twice, differently")
    return names


_GTZAN = re.compile(r"(blues|classical|country|disco|hiphop|jazz|metal|pop|reggae|rock)\.[0-9]{5}").fullmatch


def gtzan(stem: str) -> str | None:
    """The caption of a stem such as `blues.00000`."""
    found = _GTZAN(stem)
    return f"music {found[1]}" if found else None


# --- lists of paths -----------------------------------------------------------------------------------------


def _paths(file: Found) -> Iterator[tuple[int, str]]:
    """Line and path of a list; `path,start,end` tells a window of the file."""
    with _opened(file.path) as text:
        for line, content in enumerate(text, 1):
            path = content.strip()
            if not path:
                continue
            head, *window = path.rsplit(",", 2)
            if len(window) == 2 and None not in map(parse_number, map(str.strip, window)):
                path = head.strip()
            if stem_of(path) == os.path.basename(path):  # no suffix of media
                raise UsageError(f"{file.at(line)}: {shown(path)[:80]!r} is no path of a video; a line reads CLASS/NAME.mp4")
            yield line, path


def path_list(file: Found, make: Callable = stem) -> Iterator[Entry]:
    """A path a line, relative to the root of the videos; its first folder is the class."""
    classes: dict[str, str] = {}
    if mapping := file.companions.get("classes"):
        classes = _json(mapping)
        if not isinstance(classes, dict) or not all(isinstance(prompt, str) for prompt in classes.values()):
            raise UsageError(f"{shown(mapping)}: wants an object of folder: caption")
    for line, path in _paths(file):
        folder, _, rest = path.removeprefix("./").partition("/")
        if not rest or not folder:
            raise UsageError(f"{file.at(line)}: {shown(path)[:80]!r} has no folder that tells the class; a line reads CLASS/NAME.mp4")
        yield Entry(line, _keyed(file, line, make, path), classes.get(folder) or _words(folder), file.split)


def clip_list(file: Found) -> Iterator[Entry]:
    """As :func:`path_list`, its names those of YouTube clips."""
    return path_list(file, clip_or_stem)


def greatest_hits(file: Found) -> Iterator[Entry]:
    """A path a line; there is one class."""
    for line, path in _paths(file):
        yield Entry(line, without_tail(_keyed(file, line, stem, path), file.tails), "hitting with a stick", file.split)


# --- captions -----------------------------------------------------------------------------------------------


def audiocaps_csv(file: Found) -> Iterator[Entry]:
    """A table with a line for each caption; its columns youtube_id, start_time (s) and caption."""
    for line, (video, start, caption) in _table(file.path, "youtube_id", "start_time", "caption"):
        yield Entry(line, _keyed(file, line, clip_of, video, start), caption, file.split)


def audiocaps_json(file: Found) -> Iterator[Entry]:
    """{"data": [{wav, caption}]}, the name that of AudioSet's segment (YID.wav)."""
    for number, item in _data(file):
        yield Entry(number, _keyed(file, number, clip_of_name, _text(file, number, item, "wav")), _text(file, number, item, "caption"), file.split)


def wavcaps(file: Found) -> Iterator[Entry]:
    """BBC, SoundBible, FreeSound: {"data": [{id, caption}]}, the id a number, or a name."""
    for number, item in _data(file):
        name = item.get("id")
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        elif not isinstance(name, str):
            name = _text(file, number, item, "id")
        yield Entry(number, _keyed(file, number, stem, name), _text(file, number, item, "caption"))


def wavcaps_clips(file: Found) -> Iterator[Entry]:
    """AudioSet's part: ids such as Yb0RFKhbpFJA.wav."""
    for number, item in _data(file):
        yield Entry(number, _keyed(file, number, clip_of_name, _text(file, number, item, "id")), _text(file, number, item, "caption"))


def clotho(file: Found) -> Iterator[Entry]:
    """A table; its columns file_name and caption_1 to caption_5."""
    names = [f"caption_{k}" for k in range(1, 6)]
    for line, (file_name, *captions) in _table(file.path, "file_name", *names):
        key = _keyed(file, line, stem, file_name)
        for caption in captions:
            yield Entry(line, key, caption, file.split)


def macs(file: Found) -> Iterator[Entry]:
    """MACS.yaml: files[{filename, annotations[{annotator_id, sentence}]}]; the most competent annotator's sentence first."""
    import yaml

    competence = _competence(file.companions["competence"])
    with _opened(file.path) as text:
        try:
            content = yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # all scalars as text: a sentence may be "no"
        except (yaml.YAMLError, UnicodeError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f":{mark.line + 1}" if mark else ""
            raise UsageError(f"{shown(file.path)}{where}: is no YAML ({getattr(error, 'problem', None) or shown(str(error))})") from None
    if not isinstance(content, dict) or "files" not in content:
        raise UsageError(f"{shown(file.path)}: has no list 'files'")
    for number, item in _items(file, content["files"]):
        key = _keyed(file, number, stem, _text(file, number, item, "filename"))
        ranked = []
        for annotation in item.get("annotations") or ():
            if not isinstance(annotation, dict):
                raise UsageError(f"{file.at(number)}: an annotation is no object of annotator_id and sentence")
            annotator = str(annotation.get("annotator_id"))
            if annotator not in competence:
                raise UsageError(f"{file.at(number)}: annotator {shown(annotator)} is not in {shown(file.companions['competence'])}")
            ranked.append((competence[annotator], _text(file, number, annotation, "sentence")))
        for _, sentence in sorted(ranked, key=lambda pair: -pair[0]):
            yield Entry(number, key, sentence)


def _competence(path: str) -> dict[str, float]:
    """Annotator -> competence, of tab-separated lines with or without a header."""
    found: dict[str, float] = {}
    for line, cells in _cells(path, "\t"):
        value = parse_number(cells[1].strip()) if len(cells) == 2 else None
        if line == 1 and len(cells) == 2 and value is None:
            continue
        if value is None or value != value:
            raise UsageError(f"{shown(path)}:{line}: wants an annotator, a tab and the competence")
        found[cells[0].strip()] = float(value)
    return found


def tavgbench(file: Found) -> Iterator[Entry]:
    """Lines of NAME.mp4, a space, the caption; NAME has two underscores or more (spec: data preparation, 1.4)."""
    captions = others = 0
    with _opened(file.path) as text:
        for line, content in enumerate(text, 1):
            name, _, caption = content.strip().partition(" ")
            stem, suffix = os.path.splitext(name)
            caption = caption.strip()
            if suffix != ".mp4" or stem.count("_") < 2 or not caption:
                others += bool(content.strip())
            else:
                captions += 1
                yield Entry(line, stem_of(name), caption)
    if not captions:
        raise UsageError(f"{shown(file.path)}: no line reads NAME.mp4, a space, a caption")
    if others:
        file.notes.append(f"{shown(file.path)}: {others} lines are no caption (they want NAME.mp4, a space, the caption)")


def v2a_instruction(file: Found) -> Iterator[Entry]:
    """A list of {video_path, output, split, caption}, `caption` telling that the output describes the picture; or a map of id to caption."""
    content = _json(file.path)
    if isinstance(content, dict):
        file.unit = "item"
        for number, (name, captions) in enumerate(content.items(), 1):
            for caption in captions if isinstance(captions, list) else [captions]:
                if not isinstance(caption, str):
                    raise UsageError(f"{file.at(number)}: the caption of {shown(name)[:80]!r} is no text")
                yield Entry(number, _keyed(file, number, clip_or_stem, name), caption)
        return
    for number, item in _items(file, content):
        split = item.get("split")
        if split is not None and not isinstance(split, str):
            raise UsageError(f"{file.at(number)}: its 'split' is no text")
        key = _keyed(file, number, clip_or_stem, _text(file, number, item, "video_path"))
        visual = item.get("caption") not in (None, False, 0, "", "0", "false", "False", "no")
        yield Entry(number, key, _text(file, number, item, "output"), split or None, visual)
