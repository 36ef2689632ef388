"""Captions joined to rows: which files are read, an index of their keys, and which caption is a row's.

No row is labelled by a guess: what fits two things that are not known to be one is a bad row (RowError).
"""

import array
import dataclasses
import fnmatch
import functools
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avtools.datasets import readers
from avtools.datasets.catalogue import CATALOGUE, DataSet, File
from avtools.datasets.keys import clip_named, folder_key, parts_of, shown_key, stem_of, without_tail
from avtools.errors import RowError, UsageError
from avtools.rows import key_of, shown
from avtools.rows.keys import PLACEHOLDER

PICTURES, SOUNDS = ("path", "video_path"), ("audio_path", "audio_file")
MEDIA = (*PICTURES, *SOUNDS)
UNKNOWN = -1  # a start that metadata do not tell
Owner = tuple[str, str]  # data set, subset or ""
Entries = int | tuple[int, ...] | list[int]  # one; several of one clip of one data set; several that may be of different ones


# --- metadata files -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Source:
    """A metadata file to be read: whose, in which form, where."""

    dataset: DataSet
    file: File
    path: str
    companions: dict[str, str] = dataclasses.field(default_factory=dict)


def named(text: str, catalogue: tuple[DataSet, ...] = CATALOGUE) -> list[DataSet]:
    """The data sets of `NAME[,NAME]` in that order; raise UsageError for one that is not in the catalogue."""
    known = {dataset.name: dataset for dataset in catalogue}
    chosen: dict[str, DataSet] = {}
    for name in filter(None, map(str.strip, text.split(","))):
        if name in ("all", "table"):
            raise UsageError(f"'{name}' stands alone: give it, or the names of data sets")
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name.lower(), known, 1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise UsageError(f"no data set '{shown(name)}'{hint}; there is: {', '.join(sorted(known))}, all, table")
        chosen[name] = known[name]
    if not chosen:
        raise UsageError("no data set is named; 'mkmeta join --list' lists them")
    return list(chosen.values())


def locate(datasets: list[DataSet], root: str | None, by_hand: dict[str, list[str]], every: bool = False) -> tuple[list[Source], list[DataSet], list[str]]:
    """Find the metadata of `datasets` below `root`; files given `by_hand` (data set -> paths) replace those of theirs.

    Return what is to be read, the data sets that there are, and (with `every`) the names of those absent.  Raise
    UsageError where a data set has none, naming what was looked for and where to get it.
    """
    folders = _folders(root) if root is not None else {}
    sources: list[Source] = []
    present, absent = [], []
    for dataset in datasets:
        places = [path for name in dataset.folders for path in folders.get(name, ())]
        if root is not None and len(datasets) == 1 and not every:
            places.append(root)
        given = by_hand.get(dataset.name, [])
        found = [_chosen(dataset, path) for path in given] if given else _found(dataset, places)
        if not found and not (dataset.rule and (places or not every)):
            if not every:
                raise _missing(dataset, places, root)
            absent.append(dataset.name)
            continue
        present.append(dataset)
        for source in found:
            source.companions = _companions(source, places)
        sources += found
    if not present:
        raise UsageError(f"--data-root {shown(root or '')}: holds no data set's metadata; 'mkmeta join --list' says where they should lie")
    return sources, present, absent


def _folders(root: str) -> dict[str, list[str]]:
    """Folders right below `root` by their :func:`folder_key`."""
    found: dict[str, list[str]] = {}
    try:
        with os.scandir(root) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    found.setdefault(folder_key(entry.name), []).append(entry.path)
    except OSError as error:
        raise UsageError(f"--data-root {shown(root)}: {error.strerror}") from None
    return found


def _found(dataset: DataSet, places: list[str]) -> list[Source]:
    found: dict[tuple, Source] = {}  # a file that several patterns or links name is read once
    for file in dataset.files:
        for place in places:
            for pattern in file.patterns:
                for path in sorted(glob.glob(os.path.join(glob.escape(place), pattern))):
                    if os.path.isfile(path):
                        status = os.stat(path)
                        found.setdefault((status.st_dev, status.st_ino), Source(dataset, file, path))
    return list(found.values())


def _chosen(dataset: DataSet, path: str) -> Source:
    """A file given by hand, in the form that its name tells, else its suffix."""
    if not os.path.exists(path):
        raise UsageError(f"--captions {shown(path)}: No such file or directory; {dataset.title} publishes it: {dataset.get or 'it needs none'}")
    if not dataset.files:
        raise UsageError(f"--captions {shown(path)}: {dataset.name} has no metadata; leave it out")
    name, suffix = os.path.basename(path), os.path.splitext(path)[1].lower()
    for file in dataset.files:
        if any(fnmatch.fnmatchcase(name, os.path.basename(pattern)) for pattern in file.patterns):
            return Source(dataset, file, path)
    if dataset.subsets:  # their ids collide, so that the name has to tell
        names = ", ".join(os.path.basename(file.patterns[0]) for file in dataset.files)
        raise UsageError(f"--captions {shown(path)}: which part of {dataset.title} is it? Name it as there: {names}")
    alike = [file for file in dataset.files if os.path.splitext(file.patterns[0])[1].lower() == suffix]
    return Source(dataset, dataclasses.replace((alike or dataset.files)[0], split=None), path)


def _companions(source: Source, places: list[str]) -> dict[str, str]:
    found = {}
    escaped = [glob.escape(place) for place in (os.path.dirname(source.path) or ".", *places)]
    for companion in source.dataset.companions:
        starts = [*escaped, *(os.path.join(place, "*") for place in escaped[1:])]
        paths = (path for start in starts for pattern in companion.patterns for path in sorted(glob.glob(os.path.join(start, pattern))))
        path = next(paths, None)
        if path is not None:
            found[companion.name] = path
        elif companion.required:
            names = " or ".join(companion.patterns)
            raise UsageError(f"{source.dataset.name}: {shown(source.path)} needs {names} beside it; get it from {source.dataset.get}")
    return found


def _missing(dataset: DataSet, places: list[str], root: str | None) -> UsageError:
    if root is None:
        return UsageError(f"join {dataset.name} needs --data-root DIR, or --captions FILE; get it from {dataset.get}")
    looked = ", ".join(dict.fromkeys(file.patterns[0] for file in dataset.files))
    where = " and ".join(map(shown, places)) or f"a folder called {dataset.title} in {shown(root)}, which is not there"
    return UsageError(f"{dataset.name}: no metadata; looked for {looked} in {where}; get it from {dataset.get}, or name it: --captions {dataset.name}=FILE")


# --- the index ------------------------------------------------------------------------------------------------


class Index:
    """Captions by key.  An entry is a number; what is known of it stands in columns, 30 bytes and its texts each."""

    def __init__(self):
        self.stems: dict[str, Entries] = {}
        self.clips: dict[str, Entries] = {}  # by YouTube id
        self.captions: list[str] = []
        self.names: list[str] = []  # stem or YouTube id
        self.starts = array.array("q")  # ms
        self.files, self.lines = array.array("H"), array.array("Q")
        self.splits, self.visual, self.met = bytearray(), bytearray(), bytearray()
        self.is_clip = bytearray()
        self.split_names: list[str | None] = [None]
        self.sources: list[Source] = []
        self.found: list[readers.Found] = []
        self.read: Counter[str] = Counter()  # by data set: captions, of them empty, doubles
        self.empty: Counter[str] = Counter()
        self.doubles: Counter[str] = Counter()
        self.notes: list[str] = []

    def load(self, source: Source) -> None:
        """Read a metadata file."""
        dataset, file = source.dataset, source.file
        found = readers.Found(source.path, file.split, source.companions, dataset.tails)
        self.sources.append(source)
        self.found.append(found)
        number, again, others, unusable, count, add = len(self.sources) - 1, 0, 0, 0, 0, self._add
        for entry in getattr(readers, file.read)(found):
            count += 1
            caption = entry.caption.strip()
            if type(entry.caption) is readers.Unusable:
                caption = entry.caption
                unusable += 1
            if not caption:
                self.empty[dataset.name] += 1
                continue
            if not caption.isascii() or "\0" in caption:
                _check(found, entry.line, caption)
            became = add(number, dataset, entry, caption)
            if became:
                self.doubles[dataset.name] += became == "double"
                again += became == "again"
                others += became == "split"
        if not count:
            raise UsageError(f"{shown(source.path)}: holds no captions")
        self.read[dataset.name] += count
        self.notes += found.notes
        if again:
            became = "its first caption was taken" if dataset.first else "others do so differently already: its rows are bad"
            self.notes.append(f"{shown(source.path)}: {again} lines caption a clip again; {became}")
        if unusable:
            self.notes.append(f"{shown(source.path)}: {unusable} clips have a label without a name: rows of theirs are bad")
        if others:
            self.doubles[dataset.name] += others
            self.notes.append(f"{shown(source.path)}: {others} clips stand in another split of {dataset.name}, too; that of the file read first was taken")

    def seal(self) -> None:
        """After the last file: mark as such, as tuples, the entries of one clip of one data set, whose rows need no further thought."""
        for table in (self.stems, self.clips):
            for name, entries in table.items():
                if type(entries) is list:
                    owners = {(self.sources[self.files[e]].dataset.name, self.sources[self.files[e]].file.subset, self.starts[e]) for e in entries}
                    if len(owners) == 1:
                        table[name] = tuple(entries)

    def _add(self, number: int, dataset: DataSet, entry: readers.Entry, caption: str) -> str | None:
        """Take an entry; or say that there is one already: `double`, `split` (a double in another split), `again` (another caption)."""
        key, split = entry.key, self._split(entry.split)
        is_clip = type(key) is tuple
        name, start = key if is_clip else (key, None)
        start = UNKNOWN if start is None else start
        table = self.clips if is_clip else self.stems
        old = table.get(name)
        entry_number = len(self.captions)
        if old is None:
            table[name] = entry_number
        else:
            others, known = 0, (old,) if type(old) is int else old
            if dataset.several and self.files[known[0]] == number:
                known = ()  # files come one after another: all are this one's, whose captions keep their numbers
            for e in known:
                of = self.sources[self.files[e]]
                if of.dataset is not dataset or of.file.subset != self.sources[number].file.subset or self.visual[e] != entry.visual:
                    continue
                if self.starts[e] != start and UNKNOWN not in (start, self.starts[e]):
                    continue
                if self.captions[e] == caption and (not dataset.several or self.files[e] != number):
                    if self.starts[e] == UNKNOWN:
                        self.starts[e] = start
                    if self.splits[e] == split or not split:
                        return "double"
                    if self.splits[e]:
                        return "split"
                    self.splits[e] = split
                    return "double"
                others += 1
            if others and dataset.first or others > 1 and not dataset.several:  # two tell already that they differ
                return "again"
            if type(old) is int:
                table[name] = [old, entry_number]
            else:
                old.append(entry_number)  # lists alone are here: seal() comes later
            name = self.names[old if type(old) is int else old[0]]
        self.captions.append(caption)
        self.names.append(name)
        self.starts.append(start)
        self.files.append(number)
        self.lines.append(entry.line)
        self.splits.append(split)
        self.visual.append(entry.visual)
        self.is_clip.append(is_clip)
        self.met.append(0)
        return None

    def _split(self, name: str | None) -> int:
        if name not in self.split_names:
            if len(self.split_names) > 255:
                raise UsageError(f"{shown(self.sources[-1].path)}: has more than 254 splits; is that column the split?")
            self.split_names.append(name)
        return self.split_names.index(name)

    def add_made(self, source: Source, caption: str) -> int:
        """An entry without metadata: met by every row that it fits."""
        if not self.sources or self.sources[-1] is not source:
            self.sources.append(source)
            self.found.append(readers.Found(""))
        self.captions.append(caption)
        self.names.append("")
        self.starts.append(UNKNOWN)
        self.files.append(len(self.sources) - 1)
        self.lines.append(0)
        for column, value in ((self.splits, 0), (self.visual, 0), (self.is_clip, 0), (self.met, 1)):
            column.append(value)
        return len(self.captions) - 1

    def at(self, e: int) -> str:
        """Where an entry stands, for messages."""
        return self.found[self.files[e]].at(self.lines[e])

    def key(self, e: int) -> str:
        start = self.starts[e]
        return shown_key((self.names[e], None if start == UNKNOWN else start) if self.is_clip[e] else self.names[e])


def _check(found: readers.Found, line: int, caption: str) -> None:
    """Refuse what no table can hold."""
    if "\0" in caption:
        raise UsageError(f"{found.at(line)}: the caption holds a NUL; the file is damaged")
    try:
        caption.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"{found.at(line)}: the caption holds half a character (a lone surrogate); mend it there") from None


# --- rows -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Choice:
    """What the user wants of the captions: the number of one (from 1), `random` or `all`; a column for them; the row's key."""

    which: int | str = 1
    seed: int = 0
    column: str | None = None
    key: str | None = None
    clean: Callable[[str], str] | None = None
    holds: Callable[[str], bool] | None = None


@dataclasses.dataclass
class _Candidate:
    """What a data set (or a subset) knows of a row."""

    dataset: DataSet
    subset: str
    entries: list[int]
    starts: set[int]
    vague: bool = False  # the row's name tells a start, the metadata none

    @property
    def owner(self) -> Owner:
        return self.dataset.name, self.subset

    @property
    def name(self) -> str:
        return f"{self.dataset.name} ({self.subset})" if self.subset else self.dataset.name

    def is_named_by(self, owners: frozenset[Owner]) -> bool:
        return self.owner in owners or (self.dataset.name, "") in owners


class Joiner:
    """Gives rows their captions; call it with a row.

    It gives cells, a list of them (`--caption all`), None where there is no caption, or `FILTERED`, and raises
    RowError where the row could be two clips, or its clip has two captions.  `columns`: those that it sets.
    """

    FILTERED = object()  # its caption is in another language

    def __init__(self, index: Index, datasets: list[DataSet], header: list[str], choice: Choice = Choice(), catalogue: tuple[DataSet, ...] = CATALOGUE):
        self.index, self.datasets, self.choice = index, datasets, choice
        self.cells = (choice.key,) if choice.key else (*MEDIA, "relpath", "id")
        self.rank = {dataset.name: k for k, dataset in enumerate(datasets)}
        self.owners = _owners(catalogue)
        self.tails = tuple(tail for dataset in datasets for tail in dataset.tails)
        self.rules = [(getattr(readers, dataset.rule), Source(dataset, File(dataset.rule, ()), "")) for dataset in datasets if dataset.rule]
        self.made: dict[str, int] = {}
        # by file: its data set; whether a plain number is all that a key of it is
        self.dataset_of = [source.dataset for source in index.sources]
        self.plain = [source.file.subset in source.dataset.numbers for source in index.sources]
        self.plainly = choice.which in (1, "random") and choice.clean is choice.holds is None
        self.matched: Counter[str] = Counter()  # rows, by data set
        self.same: Counter[tuple[str, str]] = Counter()  # rows whose clip stands in two
        self.vague: Counter[str] = Counter()
        self.unmatched = self.other_language = self.cleaned_away = 0
        self._declare(header)

    def _declare(self, header: list[str]) -> None:
        columns = []
        for dataset in self.datasets:
            if self.choice.column:
                columns.append(self.choice.column)
            elif len(dataset.describes) == 1:
                columns += dataset.describes
            else:
                picture, sound = any(c in header for c in PICTURES), any(c in header for c in SOUNDS)
                columns += ["text"] * (picture or not sound) + ["audio_text"] * (sound or not picture)
        if any(self.index.visual) and not self.choice.column:
            columns.append("text")
        self.caption_columns = sorted(set(columns), key=["text", "audio_text", self.choice.column].index)
        self.wanted = {
            (picture, sound): [column for column in ["text"] * picture + ["audio_text"] * sound if column in self.caption_columns]
            for picture in (False, True)
            for sound in (False, True)
        }
        more = ["source", *["split"] * (len(self.index.split_names) > 1), *["group"] * (self.choice.which == "all")]
        self.columns = [*self.caption_columns, *more]

    def __call__(self, row: dict) -> Any:
        tried: list[str] = []
        for column in self.cells:
            if not row.get(column):  # most of them are in no row
                continue
            name = self._name(row, column)
            if not name or name in tried:
                continue
            tried.append(name)
            found = self._find(row, column, name)
            if found is not None:
                if column in PICTURES and not self.choice.key:
                    self._check_sound(row, name, found)
                return self._counted(self._take(row, found))
        return self._counted(None)

    def _counted(self, cells: Any) -> Any:
        self.unmatched += cells is None
        return cells

    def key(self, row: dict) -> str:
        """The name that a row was looked up by first, for messages and lists."""
        return next(filter(None, (self._name(row, column) for column in self.cells)), "")

    def _name(self, row: dict, column: str) -> str:
        cell = row.get(column)
        if type(cell) is not str:
            return str(cell) if type(cell) is int else ""
        name = stem_of(cell)
        return "" if name == _PLACEHOLDER and column != "id" and cell.rsplit("/", 1)[-1] == PLACEHOLDER else name

    def _check_sound(self, row: dict, name: str, found: Entries) -> None:
        """Picture and sound of a row that are files of two clips get no caption: it would be wrong for one of them."""
        for column in SOUNDS:
            other = self._name(row, column) if row.get(column) else ""
            if other and other != name:
                seen, heard = clip_named(name), clip_named(other)
                if seen and heard and seen[0] == heard[0] and (None in (seen[1], heard[1]) or set(seen[1]) & set(heard[1])):
                    continue  # ID_000030.mp4 and YID.wav
                heard = self._find(row, column, other)
                if heard is not None and not set(_listed(heard)) & set(_listed(found)):
                    raise RowError(f"its picture is {shown(name)!r}, its sound {shown(other)!r}: two clips; which one is captioned? --key COLUMN tells")

    # --- which entries ---

    def _find(self, row: dict, column: str, name: str) -> Entries | None:
        """The entries that are the row's, of one data set; None where there are none."""
        index = self.index
        by_stem = index.stems.get(name)
        clip = clip_named(name) if index.clips else None
        by_clip = index.clips.get(clip[0]) if clip is not None else None
        if by_clip is None:
            if by_stem is None:
                return self._find_otherwise(row, column, name)
            if type(by_stem) is not list and not self.plain[index.files[by_stem if type(by_stem) is int else by_stem[0]]]:
                return by_stem
        elif by_stem is None and type(by_clip) is not list:
            start = index.starts[by_clip if type(by_clip) is int else by_clip[0]]
            if clip[1] is None or start in clip[1]:
                return by_clip
            if start != UNKNOWN:
                return None
        return self._resolve(row, column, name, _listed(by_stem), _listed(by_clip), clip or (name, None))

    def _find_otherwise(self, row: dict, column: str, name: str) -> Entries | None:
        """By the name without a second suffix (x.mp4.wav), without a tail that a data set's names have, or by rule."""
        shorter = stem_of(name)
        if shorter != name and shorter:
            return self._find(row, column, shorter)
        if self.tails and (shorter := without_tail(name, self.tails)) != name:
            found = [e for e in _listed(self.index.stems.get(shorter)) if name.removeprefix(shorter) in self.dataset_of[self.index.files[e]].tails]
            if found:
                return self._resolve(row, column, shorter, found, (), (shorter, None))
        for rule, source in self.rules:
            caption = rule(name)
            if caption is not None:
                if caption not in self.made:
                    self.made[caption] = self.index.add_made(source, caption)
                    self.dataset_of[:] = [source.dataset for source in self.index.sources]
                    self.plain += [False] * (len(self.dataset_of) - len(self.plain))
                return self.made[caption]
        return None

    def _resolve(self, row: dict, column: str, name: str, by_stem: Sequence[int], by_clip: Sequence[int], clip: tuple) -> list[int] | None:
        """Of entries that fit, those of the one data set that knows the row's clip."""
        candidates = self._candidates(by_stem, by_clip, clip)
        if column == "id" and not self.choice.key and any(self._name(row, media) for media in MEDIA):
            candidates = [one for one in candidates if one.subset not in one.dataset.numbers]
        if any(one.subset in one.dataset.numbers for one in candidates):
            owners = self._owners_of(row, column)
            candidates = [one for one in candidates if one.subset not in one.dataset.numbers or not owners or one.is_named_by(owners[0])]
        for one in [one for one in candidates if one.vague]:
            if not any(map(one.is_named_by, self._owners_of(row, column))):
                self.vague[one.dataset.name] += 1
                candidates.remove(one)
        if not candidates:
            return None
        if len(candidates) > 1:
            chosen = self._one_of(row, column, name, candidates)
        else:
            chosen = candidates[0]
        if len(chosen.starts) > 1:
            segments = ", ".join(shown_key((clip[0], start)) for start in sorted(chosen.starts))
            raise RowError(f"which of {len(chosen.starts)} segments of {shown(clip[0])} in {chosen.name} is it ({segments})? Name the file so")
        return chosen.entries

    def _candidates(self, by_stem: Sequence[int], by_clip: Sequence[int], clip: tuple) -> list[_Candidate]:
        index, found = self.index, {}
        # AudioSet has one segment of an id: where one of its tables tells the start, it is that of all
        known = {index.starts[e] for e in by_clip if self._of_audioset(e)} - {UNKNOWN}
        told = next(iter(known)) if len(known) == 1 else UNKNOWN
        for e in by_clip:
            start = index.starts[e]
            if start == UNKNOWN and self._of_audioset(e):
                start = told
            if clip[1] is None or start in clip[1] or start == UNKNOWN:
                self._candidate(found, e, start, clip[1] is not None and start == UNKNOWN)
        for e in by_stem:
            starts = clip[1] if self.dataset_of[index.files[e]].clips else None
            told = {start for one in found.values() for start in one.starts}
            start = UNKNOWN if not starts else next((start for start in starts if start in told), starts[0])
            self._candidate(found, e, start, False)
        return list(found.values())

    def _candidate(self, found: dict, e: int, start: int, vague: bool) -> _Candidate:
        source = self.index.sources[self.index.files[e]]
        owner = source.dataset.name, source.file.subset
        one = found.get(owner)
        if one is None or one.vague and not vague:
            one = found[owner] = _Candidate(source.dataset, source.file.subset, [], set(), vague)
        if one.vague or not vague:
            one.entries.append(e)
            one.starts.add(start)
        return one

    def _of_audioset(self, e: int) -> bool:
        source = self.index.sources[self.index.files[e]]
        return source.dataset.audioset is True or source.dataset.audioset and source.file.subset in source.dataset.audioset

    def _one_of(self, row: dict, column: str, name: str, candidates: list[_Candidate]) -> _Candidate:
        left = candidates
        for owners in self._owners_of(row, column):
            left = [one for one in left if one.is_named_by(owners)] or left
            if len(left) == 1:
                return left[0]
        left = sorted(left, key=lambda one: self.rank[one.dataset.name])
        if self._is_one_clip(left):
            for other in left[1:]:
                self.same[left[0].name, other.name] += 1
                for e in other.entries:
                    self.index.met[e] = 1
            return left[0]
        names = " and ".join(one.name for one in left)
        remedy = "or join one at a time" if len({one.dataset.name for one in left}) == len(left) else f"as in {left[0].dataset.name}/{left[0].subset}, or name its folder so"
        raise RowError(f"{shown(name)!r} is a clip of {names}; fill column source, {remedy}")

    def _is_one_clip(self, candidates: list[_Candidate]) -> bool:
        """Whether all are known to be the same YouTube clip."""
        if any(len(one.starts) > 1 for one in candidates):
            return False
        starts = {start for one in candidates for start in one.starts}
        if UNKNOWN not in starts:
            return len(starts) == 1
        return len(starts) <= 2 and all(all(map(self._of_audioset, one.entries)) for one in candidates)

    # --- what row and folders say ---

    def _owners_of(self, row: dict, column: str) -> list[frozenset[Owner]]:
        """Whose the row says it is: by its cell `source`; then by the folders that it lies in, the deepest first."""
        found = []
        source = row.get("source")
        if isinstance(source, str) and (owners := self.owners.get(folder_key(source))):
            found.append(owners)
        places = [place for place in (column, *MEDIA) if place in MEDIA and self._name(row, place)]
        for place in dict.fromkeys(places):
            if isinstance(row[place], str) and "\0" not in row[place]:
                found += self._owners_in(os.path.dirname(row[place]))
        relpath = row.get("relpath")
        if isinstance(relpath, str):  # relative to what is not known
            parts = map(folder_key, reversed(os.path.dirname(relpath).split("/")))
            found += [self.owners[part] for part in parts if part in self.owners]
        return found

    def _owners_in(self, folder: str) -> list[frozenset[Owner]]:
        """As typed; where that says nothing, where links lead."""
        found = _cached_parts(folder, False)
        owners = [self.owners[part] for part in found if part in self.owners]
        return owners or [self.owners[part] for part in _cached_parts(folder, True) if part in self.owners]

    # --- which caption ---

    def _take(self, row: dict, found: Entries) -> Any:
        index, choice = self.index, self.choice
        if type(found) is int and self.plainly and type(caption := index.captions[found]) is str:  # nearly all rows
            index.met[found] = 1
            dataset = self.dataset_of[index.files[found]]
            self.matched[dataset.name] += 1
            cells = dict.fromkeys(self._columns_for(row, dataset, index.visual[found]), caption)
            cells["source"] = dataset.name
            if split := index.splits[found]:
                cells["split"] = index.split_names[split]
            return cells
        entries = _listed(found)
        first = entries[0]
        dataset = self.dataset_of[index.files[first]]
        for e in entries:
            index.met[e] = 1
            if type(index.captions[e]) is readers.Unusable:
                raise RowError(f"{index.at(e)}: {index.captions[e]}")
        heard, seen = entries, []
        if len(entries) > 1 and not choice.column:  # captions of sound and of picture are numbered apart
            heard, seen = [e for e in entries if not index.visual[e]], [e for e in entries if index.visual[e]]
            heard, seen = (heard, seen) if heard else (seen, [])
        if len(heard) > 1 and not dataset.several:
            raise RowError(f"{index.key(first)!r} stands twice in {dataset.name} with different captions ({index.at(heard[0])} and {index.at(heard[1])})")
        count = len(heard)
        if choice.which == "all":
            picks = range(count)
        elif choice.which == "random":
            picks = (self._draw(row, count) if count > 1 else 0,)
        elif choice.which > count:
            raise RowError(f"there is no caption {choice.which} of {index.key(first)!r} in {dataset.name}; it has {count}")
        else:
            picks = (choice.which - 1,)
        made = []
        empty = 0
        for k in picks:
            cells = self._cells(row, dataset, [heard[k], *([seen[k % len(seen)]] if seen else [])])
            if cells:
                made.append(cells)
            empty += cells is None
        if not made:
            return None if empty else self.FILTERED
        self.matched[dataset.name] += 1
        return made if choice.which == "all" else made[0]

    def _draw(self, row: dict, count: int) -> int:
        text = f"{self.choice.seed}\0{key_of(row, self.choice.key)}".encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") * count >> 64

    def _cells(self, row: dict, dataset: DataSet, entries: list[int]) -> dict | None | bool:
        """The cells for these captions; None: cleaning leaves nothing; False: in another language."""
        index, cells = self.index, {}
        for e in entries:
            caption = index.captions[e]
            if self.choice.clean is not None:
                caption = self.choice.clean(caption)
                if not caption:
                    self.cleaned_away += 1
                    return None
            if self.choice.holds is not None and not self.choice.holds(caption):
                self.other_language += 1
                return False
            for column in self._columns_for(row, dataset, index.visual[e]):
                cells.setdefault(column, caption)
        cells["source"] = dataset.name
        if split := index.split_names[index.splits[entries[0]]]:
            cells["split"] = split
        return cells

    def _columns_for(self, row: dict, dataset: DataSet, visual: int) -> tuple[str, ...] | list[str]:
        if self.choice.column:
            return (self.choice.column,)
        if visual:
            return ("text",)
        if len(dataset.describes) == 1:
            return dataset.describes
        path = row.get("path") or row.get("video_path")
        picture = path and not (isinstance(path, str) and path.endswith(PLACEHOLDER) and os.path.basename(path) == PLACEHOLDER)
        sound = row.get("audio_path") or row.get("audio_file") or path and not picture
        wanted = self.wanted[bool(picture), bool(sound)]
        return wanted or self.caption_columns

    # --- the end ---

    def unused(self) -> Iterator[dict]:
        """Captions of clips that were in no row, in the order of the files: cells for the list of what is unmatched."""
        index = self.index
        for e, met in enumerate(index.met):
            if not met:
                dataset = self.dataset_of[index.files[e]]
                sound = "audio_text" in dataset.describes and not index.visual[e]
                column = self.choice.column or ("audio_text" if sound else "text")
                if column not in self.caption_columns:
                    column = self.caption_columns[0]
                caption = "" if type(index.captions[e]) is readers.Unusable else index.captions[e]
                yield {"unmatched": "caption", "key": index.key(e), "source": dataset.name, column: caption}

    def report(self) -> list[str]:
        index = self.index
        unused: Counter[str] = Counter()
        for e, met in enumerate(index.met):
            if not met:
                unused[self.dataset_of[index.files[e]].name] += 1
        lines = []
        for dataset in self.datasets:
            name = dataset.name
            line = f"{name}: {self.matched[name]} rows matched"
            if index.read[name]:
                line += f"; {index.read[name]} captions read, {unused[name]} of clips in no row"
                line += f", {index.empty[name]} empty" if index.empty[name] else ""
                line += f", {index.doubles[name]} doubles" if index.doubles[name] else ""
            lines.append(line)
        if self.unmatched:
            lines.append(f"{self.unmatched} rows have no caption")
        lines += [f"{count} rows are clips of {first} and {second}; took {first}'s captions" for (first, second), count in self.same.items()]
        lines += [
            f"{count} rows tell a start that {name}'s metadata do not: not matched; put them in a folder of that name, or fill column source"
            for name, count in self.vague.items()
        ]
        if self.other_language:
            lines.append(f"{self.other_language} captions are in another language: their rows were filtered")
        if self.cleaned_away:
            lines.append(f"{self.cleaned_away} captions are empty once cleaned: unmatched")
        return [*lines, *index.notes]


_PLACEHOLDER = stem_of(PLACEHOLDER)


def _listed(found: Entries | None) -> tuple[int, ...] | list[int]:
    return () if found is None else (found,) if type(found) is int else found


def _owners(catalogue: tuple[DataSet, ...]) -> dict[str, frozenset[Owner]]:
    """Names of data sets, subsets and folders (as :func:`folder_key`) -> whose they are."""
    found: dict[str, set[Owner]] = {}
    for dataset in catalogue:
        for name in (dataset.name, dataset.title, *dataset.folders, *dataset.hints):
            found.setdefault(folder_key(name), set()).add((dataset.name, ""))
        for subset, folders in dataset.subsets.items():
            for name in (*folders, f"{dataset.name}/{subset}", f"{dataset.name}:{subset}"):
                found.setdefault(folder_key(name), set()).add((dataset.name, subset))
    return {name: frozenset(owners) for name, owners in found.items()}


@functools.lru_cache(4096)
def _cached_parts(folder: str, real: bool) -> list[str]:
    return parts_of(os.path.join(os.path.realpath(folder) if real else folder, "x"))
