"""What layouts share that hold media inside files of their own (shards of tar or Parquet).

A row's held files are the members of its sample: :func:`held`.  Reading gives each a place below DIR by :class:`Places`
and leaves their writing to the workers, to whom a *locator* (JSON) says where the bytes are:
`[file, its size, its time of change in ns, ...]`; the rest is the layout's own.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from avtools.errors import FatalError, MediaError, RowError, SuffixRefused
from avtools.exchange import Layout, Sink, listed, make_folder, removed
from avtools.identity import is_dead
from avtools.outputs import FOLDER, Want, safe_relpath, strip_suffix
from avtools.rows.formats import IMAGE, SOUND_INPUT, VIDEO_INPUT
from avtools.rows.keys import PLACEHOLDER, path_of
from avtools.rows.writing import open_whole

BLOCK = 1 << 20

#: Columns that name a file each; one that is missing makes its row bad.
KNOWN = (
    "path", "video_path", "audio_path", "audio_file", "image_path", "unpaired_audio_path", "stem_path", "masklet_path", "mask_path",
    "features_path", "feature_file", "generated_path", "generated_audio_path",
)  # fmt: skip
#: Columns whose member may be called by its suffix alone, where that suffix is of their kind.
KINDS = {"path": VIDEO_INPUT, "video_path": VIDEO_INPUT, "audio_path": SOUND_INPUT, "audio_file": SOUND_INPUT, "image_path": IMAGE}
_OTHER = re.compile(r"[a-z0-9][a-z0-9_-]*_path")  # other columns that hold the files that they name, where these exist


class Held(NamedTuple):
    """A file of a row: its column, its extension in the sample (`mp4`, `audio.mp4`, `features.npy`), the file and its state."""

    column: str
    extension: str
    path: str
    size: int
    mtime: int


def held(row: dict, left: Counter | None = None) -> list[Held]:
    """The files of a row, in a fixed order; RowError where one cannot be read.  `left` counts the columns of names left as they are."""
    files: list[Held] = []
    taken = set()
    for column in [*(c for c in KNOWN if row.get(c)), *(c for c in row if row[c] and c not in KNOWN and _OTHER.fullmatch(c))]:
        if isinstance(row[column], str) and os.path.basename(row[column]) == PLACEHOLDER:
            continue
        if column not in KNOWN and not _is_file(row[column]):
            if left is not None:
                left[column] += 1
            continue
        path = path_of(row, column)
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise MediaError(f"{path}: column {column} names no regular file; name one, or leave the cell empty")
                file.read(1)
        except OSError as error:
            raise MediaError(f"{path}: cannot be read ({error.strerror}); check column {column}") from None
        suffix = os.path.splitext(path)[1][1:].lower()
        kind = KINDS.get(column, frozenset())
        plain = suffix in kind and kind not in taken
        if plain:
            taken.add(kind)
        extension = suffix if plain else f"{column.removesuffix('_path')}.{suffix}".rstrip(".")
        files.append(Held(column, extension, path, status.st_size, status.st_mtime_ns))
    return files


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe is refused, not waited for


def _is_file(cell) -> bool:
    try:
        return isinstance(cell, str) and os.path.isfile(cell)
    except ValueError:
        return False


def base_of(row: dict, files: list[Held]) -> str:
    """What a row's sample is called: its relpath, else its id, else its first file's name; without a media suffix."""
    for name in (row.get("relpath"), row.get("id"), *(os.path.basename(file.path) for file in files)):
        if name not in (None, "") and os.path.basename(str(name)) != PLACEHOLDER:
            return strip_suffix(safe_relpath(str(name)))
    return "row"


def clean(text: str) -> str:
    """`text` as valid Unicode: bytes that are no UTF-8 and lone surrogates become U+FFFD."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def json_text(value) -> str:
    """`value` as JSON in ASCII, so that file names may hold any bytes; RowError where it is nested too deeply."""
    try:
        return json.dumps(value, separators=(",", ":"))
    except RecursionError:
        raise RowError("nested too deeply to be written") from None


class Seen:
    """A dictionary from text to JSON in a temporary file: memory does not grow with the number of samples."""

    def __init__(self):
        import sqlite3

        self._database = sqlite3.connect("", isolation_level=None)
        for statement in ("PRAGMA journal_mode=OFF", "CREATE TABLE seen (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID", "BEGIN"):
            self._database.execute(statement)

    def get(self, key: str):
        found = self._database.execute("SELECT value FROM seen WHERE key=?", (_hash(key),)).fetchone()
        return found and json.loads(found[0])

    def put(self, key: str, value) -> None:
        self._database.execute("INSERT OR REPLACE INTO seen VALUES (?,?)", (_hash(key), json.dumps(value)))

    def unused(self, key: str) -> str:
        """`key`, or the first of `key-2`, `key-3`, ... that was not given before."""
        number = self.get(key)
        if number is None:
            self.put(key, 1)
            return key
        while self.get(f"{key}-{number + 1}") is not None:
            number += 1
        self.put(key, number + 1)
        self.put(f"{key}-{number + 1}", 1)
        return f"{key}-{number + 1}"


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# --- writing --------------------------------------------------------------------------------------------------


class Whole(Sink):
    """A sink of large files below `folder`, all renamed at the end; those of an earlier export that are not made again go.

    Finished files are closed: their number is not bound by that of open files.
    """

    def __init__(self, folder: str, name: str, pattern: str):
        """`pattern`: of the files' names (a regular expression), to know what killed writers left."""
        self.folder, self._list = folder, os.path.join(folder, FOLDER, f"files-{name}.json")
        self._open: list = []
        self._ended: list = []
        self._names: list[str] = []  # all that the layout consists of
        make_folder(os.path.dirname(self._list))
        self._leftover = re.compile(rf"(?:{pattern})\.[0-9a-f]{{10}}\.([^.]+-\d+-\d+)\.tmp")

    def sweep(self, folder: str) -> None:
        """Remove from `folder` the temporary files of writers that were killed."""
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                if (found := self._leftover.fullmatch(name)) and is_dead(found[1], os.path.join(folder, name)):
                    os.unlink(os.path.join(folder, name))

    def begin(self, name: str, listed: bool = True):
        """A file to write to (`write(data)`), under its name after :meth:`commit`."""
        path = os.path.join(self.folder, name)
        make_folder(os.path.dirname(path))
        file = open_whole(path)
        self._open.append(file)
        if listed:
            self._names.append(name)
        return file

    def end(self, file) -> os.stat_result:
        """The file is whole; its state, which renaming leaves as it is."""
        try:
            file.file.flush()
            os.fsync(file.file.fileno())
            status = os.fstat(file.file.fileno())
            file.file.close()
        except OSError as error:
            raise file.failed(error) from None
        self._open.remove(file)
        self._ended.append(file)
        return status

    def keep(self, name: str) -> None:
        """An earlier export's file stays as it is."""
        self._names.append(name)

    def prepare(self, record, row) -> None:
        self.held = held(row)  # refused here, the row is not written anywhere

    def commit(self) -> None:
        before = listed(self._list)
        listing = open_whole(self._list)
        listing.write(json.dumps(sorted(self._names)).encode())
        while self._ended:
            file = self._ended[0]
            try:
                os.replace(file.temporary, file.path)
            except OSError as error:
                raise file.failed(error) from None
            del self._ended[0]
        self.gone = removed(self.folder, before - set(self._names))
        listing.commit()

    def discard(self) -> None:
        for file in [*self._open, *self._ended]:
            file.discard()


def blocks_of(file: Held) -> Iterator[bytes]:
    """The content of a held file, which must still be what it was; FatalError where it is not: what holds it is half written."""
    left = file.size
    try:
        with open(file.path, "rb") as source:
            while data := source.read(min(left, BLOCK)):
                left -= len(data)
                yield data
            changed = left or source.read(1) or os.fstat(source.fileno()).st_mtime_ns != file.mtime
    except OSError as error:
        raise FatalError(f"{file.path}: cannot be read any more ({error.strerror}); run again when it is at rest") from None
    if changed:
        raise FatalError(f"{file.path}: was changed while it was read; run again when it is at rest")


# --- reading --------------------------------------------------------------------------------------------------


class Packed(Layout):
    """A layout whose media are unpacked."""

    needs = ()  # words alone can be packed, too
    unpacks = packed = True

    def __init__(self, settings: dict):
        super().__init__(settings)
        self.counts: Counter[str] = Counter()
        self.left: Counter[str] = Counter()  # columns whose cells name no file

    def blocks(self, locator: list, role: str = "") -> Iterator[bytes]:
        """The bytes that a locator tells of.  Locators come in the order of the file for each `role`."""
        raise NotImplementedError

    def unpack_wants(self, row: dict, private: dict) -> list[Want]:
        if "error" in private:
            raise RowError(private["error"])
        return [Want(column, (), tuple(suffixes), relpath=stem, detail=json.dumps(locator)) for column, stem, suffixes, locator in private["media"]]

    def unpack(self, row: dict, private: dict, maker) -> dict:
        cells = {}
        for column, _, suffixes, locator in private["media"]:
            self._reuse(maker.slots[column], locator)
            build = functools.partial(self._build, locator, len(suffixes) > 1)
            cells[column] = maker.make(column, build, lambda path: {}).path
        return cells

    def _build(self, locator: list, guess: bool, temporary: str, suffix: str) -> None:
        blocks = self._checked(locator)
        first = next(blocks, b"")
        if guess and suffix != suffix_by_content(first):
            raise SuffixRefused(f"{locator[0]}: no {suffix} file")
        with open(temporary, "wb") as file:
            for data in itertools.chain((first,), blocks):
                file.write(data)

    def _checked(self, locator: list, role: str = "") -> Iterator[bytes]:
        path, size, mtime = locator[:3]
        try:
            status = os.stat(path)
            if [status.st_size, status.st_mtime_ns] != [size, mtime]:
                raise MediaError(f"{path}: was changed while it was read; run again when it is at rest")
            yield from self.blocks(locator, role)
        except OSError as error:
            if error.filename not in (None, path):
                raise
            raise MediaError(f"{path}: cannot be read ({error.strerror or error})") from None

    def digest(self, locator: list, role: str) -> str:
        """SHA-256 as :func:`avtools.outputs.digest` gives it of a file."""
        hashed = hashlib.sha256()
        for data in self._checked(locator, role):
            hashed.update(data)
        return hashed.hexdigest()[:32]

    def _reuse(self, slot, locator: list) -> None:
        """Where only the time or the place of the packed file is another, its bytes decide whether what is there can stay."""
        if not slot.records or any(record.get("detail", "") == slot.detail for record in slot.records):
            return
        mine = self.digest(locator, "again")
        for record in slot.records:
            if record["output"][2] == mine and record.get("detail"):
                slot.detail = record["detail"]
                return

    @functools.cached_property
    def places(self) -> "Places":
        return Places(self)


class Places:
    """Where media are unpacked to: equal bytes under one name share a file, other bytes get `name-2`."""

    def __init__(self, layout: Packed):
        self.layout, self.seen = layout, Seen()

    def place(self, base: str, extension: str, locator: list) -> tuple[str, list]:
        """The base to use, and the locator of the bytes (that of the first one where they are shared)."""
        first = self.seen.get(f"{base}.{extension}")
        if first is None:
            self.seen.put(f"{base}.{extension}", [1, locator, False])
            return base, locator
        number, of_first, known = first
        if not known:
            self.seen.put(f"{base}.{extension}\0{self.layout.digest(of_first, 'first')}", [base, of_first])
        key = f"{base}.{extension}\0{self.layout.digest(locator, 'this')}"
        shared = self.seen.get(key)
        if shared is None:
            number += 1
            while self.seen.get(f"{base}-{number}.{extension}") is not None:
                number += 1
            shared = [f"{base}-{number}", locator]
            self.seen.put(key, shared)
            self.seen.put(f"{shared[0]}.{extension}", [1, locator, False])
        self.seen.put(f"{base}.{extension}", [number, of_first, True])
        return shared[0], shared[1]


_MAGIC = (
    (rb"\x89PNG", ".png"), (rb"\xff\xd8\xff", ".jpg"), (rb"GIF8", ".gif"), (rb"BM", ".bmp"), (rb"RIFF....WEBP", ".webp"), (rb"RIFF....WAVE", ".wav"),
    (rb"RIFF....AVI ", ".avi"), (rb"fLaC", ".flac"), (rb"OggS", ".ogg"), (rb"ID3|\xff[\xfb\xf3\xf2]", ".mp3"), (rb"....ftypqt", ".mov"),
    (rb"....ftypM4A", ".m4a"), (rb"....ftyp", ".mp4"), (rb"\x1aE\xdf\xa3", ".mkv"), (rb"\x93NUMPY", ".npy"), (rb"PK\x03\x04", ".npz"),
)  # fmt: skip
GUESSES = (*dict.fromkeys(suffix for _, suffix in _MAGIC), ".bin")  # what a file without a name may turn out to be


def suffix_by_content(head: bytes) -> str:
    """The suffix that goes with a file's first bytes; `.bin` where they say nothing."""
    return next((suffix for magic, suffix in _MAGIC if re.match(magic, head, re.DOTALL)), ".bin")


def files_below(source: str, suffixes: tuple[str, ...]) -> list[str]:
    """`source` itself, or the files below it that end so, sorted by name."""
    if not os.path.isdir(source):
        return [source]
    found = []
    for folder, folders, names in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(folder, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(found)


def known_split(name: str) -> str | None:
    """The split that a file's name begins with (`train-000000.tar`, `valid.parquet`), where it is one of the usual ones."""
    found = re.match(r"(train|training|valid|validation|val|test|testing|dev|eval)(?=[-_.\d])", os.path.basename(name))
    return found and found[1]
