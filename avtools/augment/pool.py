"""Pools that augmentations draw from: objects cut out of videos, and sounds separated from others.

A pool is given as a folder, as a list of names (`pool_list.txt`: in the folder, or beside it as the originals seek it; one name a
line, relative to the list or to the folder), or as a table that our own commands wrote.  A folder without a list is walked.
Opening a pool reads names only; what is in an item is read when it is drawn, and the last few stay in memory.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from avtools.errors import AvtoolsError, MediaError, UsageError
from avtools.rows.formats import format_of

LIST = "pool_list.txt"
GAP = 10  # frames: an object that is away for longer comes back after so many
TRIES = 64  # items that are looked into for one that does, before the best of them is taken
_PARTS = re.compile(r"_(masklet|mask|meta)_(\d+)\.\w+$")
_STEM = re.compile(r"^(.+)__sep__\d+_\d+_.*\.\w+$")


# --- objects --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Masklet:
    """An object over time, frame by frame of what is left when its long absences are shortened.

    `frames` (F, h, w, 3) uint8 and `masks` (F, h, w) uint8: its crops, all stretched to one size; `boxes` (F, 4): x, y, width and
    height in pixels of its video, whose `size` is (width, height); `visible` (F,).
    """

    path: str
    frames: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray
    size: tuple[int, int]

    def extent(self, first: int, frames: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what its boxes cover in these frames; zeros where it is never seen."""
        boxes = self.boxes[first : first + frames][self.visible[first : first + frames]]
        if not len(boxes):
            return 0.0, 0.0, 0.0, 0.0
        low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


class Masklets:
    """The masklets of a pool: NAME_masklet_I, NAME_mask_I (.mkv or .mp4) and NAME_meta_I.json side by side.

    A table has their paths in masklet_path, mask_path and meta_path.
    """

    def __init__(self, path: str):
        self.path = path
        if format_of(path):
            columns = ("masklet_path", "mask_path", "meta_path")
            self.items = [tuple(row.get(column) or "" for column in columns) for row in _table(path, "masklet_path")]
        else:
            self.items = list(dict.fromkeys(map(_masklet, _names(path, "_masklet_"))))
        if not self.items:
            raise UsageError(f"{path}: no masklets (NAME_masklet_I.mkv, NAME_mask_I.mkv, NAME_meta_I.json); make some with 'avtools masklets'")
        self._lengths: dict[int, int] = {}
        self._load = functools.lru_cache(4)(self._read)

    def __len__(self) -> int:
        return len(self.items)

    def files(self, number: int) -> tuple[str, str, str]:
        """The object, its mask, and what is said of them."""
        item = self.items[number]
        if len(item) == 3:
            return item
        base, index = item
        video, mask = (_with_suffix(f"{base}_{part}_{index}", (".mkv", ".mp4")) for part in ("masklet", "mask"))
        return video, mask, f"{base}_meta_{index}.json"

    def length(self, number: int) -> int:
        """Frames of the item when long absences are shortened."""
        if number not in self._lengths:
            self._lengths[number] = len(kept(self._meta(number)[0]))
        return self._lengths[number]

    def load(self, number: int) -> Masklet:
        """The item; MediaError where its files do not fit each other."""
        return self._load(number)

    def numbers(self, rng: np.random.Generator) -> np.ndarray:
        """Some items in random order, the first of which that does is to be taken."""
        return rng.choice(len(self), min(len(self), TRIES), replace=False)

    def digest(self) -> str:
        return _digest(file for number in range(len(self)) for file in self.files(number))

    def _meta(self, number: int):
        path = self.files(number)[2]
        meta = _json(path)
        try:
            size = int(meta["video_frame_width"]), int(meta["video_frame_height"])
            visible, boxes = np.array(meta["visible"], bool), np.array(meta["crop_bbox"], np.float64)
            if visible.ndim != 1 or boxes.shape != (len(visible), 4) or min(size) < 1 or not np.isfinite(boxes).all():
                raise ValueError
        except (KeyError, TypeError, ValueError):
            needs = "video_frame_width, video_frame_height, visible, crop_bbox"
            raise MediaError(f"{path}: is no description of a masklet ({needs}); make it anew") from None
        return visible & (boxes[:, 2:].min(axis=1, initial=np.inf) > 0), boxes, size

    def _read(self, number: int) -> Masklet:
        from .clips import read_pictures

        visible, boxes, size = self._meta(number)
        video, mask, _ = self.files(number)
        frames, masks = read_pictures(video), read_pictures(mask, "gray")
        if not len(frames) == len(masks) == len(visible) or frames.shape[1:3] != masks.shape[1:3]:
            raise MediaError(
                f"{video}: {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}, but {len(masks)} masks of "
                f"{masks.shape[2]}x{masks.shape[1]} and {len(visible)} boxes; make it anew"
            )
        if not visible.any():
            raise MediaError(f"{video}: the object is never visible; leave it out")
        rest = kept(visible)
        return Masklet(video, frames[rest], masks[rest], boxes[rest], visible[rest], size)


def _masklet(path: str) -> tuple[str, str]:
    """(NAME with its folder, I) of one of a masklet's files."""
    match = _PARTS.search(path)
    if match is None:
        raise UsageError(f"{path}: is not the name of a masklet (NAME_masklet_I.mkv); is the list that of another pool?")
    return path[: match.start()], match[2]


def kept(visible: np.ndarray) -> np.ndarray:
    """The numbers of the frames that are left when absences of more than GAP frames are shortened to GAP."""
    away = np.zeros(len(visible), int)  # for how many frames it has been away
    for k, seen in enumerate(visible):
        away[k] = 0 if seen else (away[k - 1] if k else 0) + 1
    return np.flatnonzero(away <= GAP)


# --- sounds ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stem:
    """A separated sound: its file, its rate (Hz), and the spans of samples [start, end) in which it sounds."""

    path: str
    rate: int
    active: tuple[tuple[int, int], ...]

    def read(self, start: int, end: int, rate: int) -> np.ndarray:
        """Its samples [start, end) (of its own rate) at `rate` Hz: float32 (samples, channels)."""
        from avtools.media.soundfiles import read_sound

        from .audio import resampled

        samples, own = read_sound(self.path, Fraction(start, self.rate), Fraction(end, self.rate))
        return resampled(samples, own, rate)


class Stems:
    """The separated sounds of a pool, by the sound that they come from.

    The originals' form: SOUND.wav.json maps PHRASE_CHUNK_POSITION to the spans (in samples) in which
    SOUND.wav__sep__CHUNK_POSITION_PHRASE.wav sounds.  A table has stem_path, active (spans in seconds) and, of one sound on
    consecutive rows, group.
    """

    def __init__(self, path: str):
        self.path = path
        self._rows: dict[str, list[tuple[str, list]]] | None = None
        if format_of(path):
            self._rows = {}
            for number, row in enumerate(_table(path, "stem_path")):
                name = str(row.get("group") or f"row {number + 1}")
                self._rows.setdefault(name, []).append((row["stem_path"], row.get("active")))
            self.items = list(self._rows)
        else:
            self.items = list(dict.fromkeys(_described(at) for at in _names(path, "__sep__")))
        if not self.items:
            raise UsageError(f"{path}: no separated sounds (SOUND.wav.json and its SOUND.wav__sep__*.wav); make some with 'avtools separate'")
        self._of: dict[str, list[int]] = {}  # the sound's name without folder -> items
        for number, item in enumerate(self.items):
            self._of.setdefault(os.path.basename(self._source(number)), []).append(number)
        folders = {os.path.dirname(item) for item in self.items}
        self._flat = folders == {""} if self._rows is not None else len(folders) == 1
        self._load = functools.lru_cache(256)(self._read)

    def __len__(self) -> int:
        return len(self.items)

    def of(self, names: tuple[str, ...]) -> list[Stem]:
        """The stems of the sound that has one of these names; none where the pool does not know it."""
        number = self._number(names)
        return [] if number is None else self.load(number)

    def _number(self, names: tuple[str, ...]) -> int | None:
        """The item that one of these names means.  Where there are folders in the pool and in names, they have to agree: clips of
        different folders often have the same names."""
        placed = [] if self._flat else [name for name in names if os.path.dirname(name)]
        for name in placed or [one for name in names for one in (name, os.path.basename(name))]:
            found = [k for k in self._of.get(os.path.basename(name), ()) if f"/{self._source(k)}".endswith(f"/{name}")]
            if len(found) == 1:
                return found[0]
        return None

    def _source(self, number: int) -> str:
        """The sound of an item, with its folder."""
        item = self.items[number]
        return item.removesuffix(".json") if self._rows is None else item

    def load(self, number: int) -> list[Stem]:
        """The stems of an item; MediaError where they cannot be read."""
        return self._load(number)

    def sounding(self, rng: np.random.Generator, names: tuple[str, ...] = ()) -> Stem | None:
        """A random stem that sounds somewhere, of another sound than that of these names if there is one; None where none of
        those looked into does."""
        own = self._number(names)
        numbers = rng.choice(len(self), min(len(self), TRIES), replace=False).tolist()
        for number in sorted(numbers, key=lambda number: number == own):  # stable: its own comes last
            found = [stem for stem in self.load(number) if stem.active]
            if found:
                return found[rng.integers(len(found))]
        return None

    def digest(self) -> str:
        if self._rows is not None:
            return _digest([self.path, *(path for rows in self._rows.values() for path, _ in rows)])
        known, paths = set(self.items), list(self.items)
        for folder in sorted({os.path.dirname(item) for item in self.items}):
            paths += sorted(path for name in _entries(folder) if _described(path := os.path.join(folder, name)) in known and "__sep__" in name)
        return _digest(paths)

    def _read(self, number: int) -> list[Stem]:
        from avtools.media.soundfiles import sound_format

        item = self.items[number]
        if self._rows is not None:
            found = self._rows[item]
        else:
            spans = _json(item)
            if not isinstance(spans, dict):
                raise MediaError(f"{item}: does not map stems to spans; make it anew")
            found = [(_stem_file(item, name), value) for name, value in spans.items()]
        stems = []
        for path, spans in found:
            rate = sound_format(path).rate
            unit = 1 if self._rows is None else rate
            try:
                spans = json.loads(spans) if isinstance(spans, str) and spans else spans or []
                active = tuple((max(0, round(start * unit)), round(end * unit)) for start, end in spans)
            except (TypeError, ValueError):
                raise MediaError(f"{path}: {str(spans)[:60]!r} are no spans such as [[0, 16000]]; separate it anew") from None
            stems.append(Stem(path, rate, tuple(span for span in active if span[0] < span[1])))
        return stems


def _described(path: str) -> str:
    """The JSON file that a line of a pool's list means: itself, that of its sound, or that of its stem's sound."""
    folder, name = os.path.split(path)
    match = _STEM.match(name)
    name = match[1] if match else name
    return os.path.join(folder, name if name.endswith(".json") else name + ".json")


def _stem_file(item: str, name: str) -> str:
    """The file of the stem that the JSON file `item` calls `name`."""
    base = item.removesuffix(".json")
    phrase, _, place = name.rpartition("_")
    phrase, _, chunk = phrase.rpartition("_")
    try:
        start = f"{base}__sep__{int(chunk):03d}_{int(place):03d}_"
    except ValueError:
        raise MediaError(f"{item}: {name!r} is not PHRASE_CHUNK_POSITION; make it anew") from None
    if os.path.exists(start + phrase + ".wav"):
        return start + phrase + ".wav"
    folder, begin = os.path.split(start)  # a phrase that no file can be called has another one in its place
    found = sorted(entry for entry in _entries(folder) if entry.startswith(begin))
    if not found:
        raise MediaError(f"{start}{phrase}.wav: no such file, though {os.path.basename(item)} names it; separate the sound anew")
    return os.path.join(folder, found[0])


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:
        return []  # said where it is drawn


# --- what both do ---------------------------------------------------------------------------------------


@functools.lru_cache(4)
def open_pool(kind: str, path: str) -> Masklets | Stems:
    """The pool at `path`, opened once in a process.  `kind`: "masklets" or "stems"."""
    return {"masklets": Masklets, "stems": Stems}[kind](path)


@dataclasses.dataclass
class Pools:
    """What operations may draw from; None for what there is not."""

    masklets: Masklets | None = None
    stems: Stems | None = None

    @classmethod
    def open(cls, masklets: str | None = None, stems: str | None = None) -> "Pools":
        return cls(masklets and open_pool("masklets", masklets), stems and open_pool("stems", stems))


def _names(path: str, marker: str) -> Iterator[str]:
    """The paths that the pool at `path` names; of a folder without a list, those of the files whose names hold `marker`."""
    if os.path.isdir(path):
        parent = os.path.dirname(os.path.abspath(path))
        listed = next((at for at in (os.path.join(path, LIST), os.path.join(parent, LIST)) if os.path.isfile(at)), None)
        if listed is None:
            for folder, folders, names in os.walk(path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                yield from (os.path.join(folder, name) for name in sorted(names) if marker in name)
            return
        roots = (os.path.dirname(listed), path)
    else:
        listed, roots = path, (os.path.dirname(path),)
    try:
        with open(listed, encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                if name := line.strip():
                    found = [os.path.join(root, one) for one in (line.rstrip("\r\n"), name) for root in roots]  # a name may begin with a space
                    yield next((at for at in found if os.path.exists(at)), found[-1])
    except OSError as error:
        raise UsageError(f"{path}: the pool cannot be read ({error.strerror}); give its folder, its {LIST} or its table") from None


def _table(path: str, column: str) -> Iterator[dict]:
    from avtools.rows import open_rows

    rows = open_rows([path])
    if column not in rows.columns and rows.format != "jsonl":
        raise UsageError(f"{path}: the pool's table has no column {column!r}")
    return (record.row for record in rows if record.row.get(column) and not record.row.get("error"))


def _with_suffix(stem: str, suffixes: tuple[str, ...]) -> str:
    return next((stem + suffix for suffix in suffixes if os.path.exists(stem + suffix)), stem + suffixes[0])


def _json(path: str):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); is the pool complete?") from None
    except ValueError:
        raise MediaError(f"{path}: is no JSON; make it anew") from None


def _digest(paths) -> str:
    """What tells one state of a pool from another: its files' names, sizes and times."""
    known = hashlib.blake2b(digest_size=8)
    for path in paths:
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):
            state = "none"  # said where it is drawn
        known.update(f"{path}\0{state}\n".encode("utf-8", "surrogateescape"))
    return known.hexdigest()


class PoolList:
    """Writes a pool's list as the originals have it: the file that `named(row)` gives of each row, if any, a line each and each once,
    its path from the list's own folder.  One of :attr:`avtools.stream.Work.tees`."""

    def __init__(self, path: str, named: Callable[[dict], str | None]):
        self.path, self.named, self.stream = path, named, None
        self.seen: set[bytes] = set()  # hashes: rows may share a file
        self.unlisted = 0

    def open(self, columns, header, format_) -> None:
        from avtools.rows.writing import open_whole

        try:
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            self.stream = open_whole(self.path)
        except OSError as error:
            raise UsageError(f"--pool-list {self.path}: {error.strerror}; give another FILE") from None
        except AvtoolsError as error:
            raise type(error)("--pool-list " + str(error).removeprefix("-o ")) from None

    def write(self, row: dict) -> None:
        path = None if row.get("error") else self.named(row)
        if not path:
            return
        line = os.fsencode(os.path.relpath(path, os.path.dirname(self.path) or "."))
        if b"\n" in line:
            self.unlisted += 1
        elif (mark := hashlib.blake2b(line, digest_size=8).digest()) not in self.seen:
            self.seen.add(mark)
            self.stream.write(line + b"\n")

    def commit(self) -> None:
        self.stream.commit()
        if self.unlisted:
            from avtools.cli import command_path

            print(f"{command_path()}: --pool-list {self.path}: lacks {self.unlisted} files, whose names have line breaks; give their rows another relpath", file=sys.stderr)

    def discard(self) -> None:
        if self.stream is not None:
            self.stream.discard()
