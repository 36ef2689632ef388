"""The layout `webdataset`: tar shards whose consecutive members `KEY.EXTENSION` are one sample.

Written as its readers expect (https://github.com/webdataset/webdataset): the first dot of a member's base name ends the key.
A row's members are

    mp4, webm, ...     its picture (`path`), by the file's own suffix; wav, flac, ...: `audio_path`; png, jpg, ...: `image_path`
    audio.mp4, features.npy, stem.wav, ...   files of other columns, or whose suffix is of another kind: the column without `_path`
    txt                its text, else its audio_text
    json               all its cells with their types, in order; a cell whose file is a member holds that member's name

The key is the row's relpath (else its id, else its file's name) without the media suffix; in its base name `.` becomes `%2E`,
and a key that was there before gets `-2`, `-3`, ....  The same rows and files always give the same bytes: times, owners and
groups are 0.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import lzma
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from avtools.errors import MediaError, RowError, UsageError
from avtools.exchange import Item, caption_column, split_of
from avtools.exchange._packed import (
    BLOCK, KINDS, KNOWN, Held, Packed, Seen, Whole, base_of, blocks_of, clean, files_below, held, json_text, known_split,
)  # fmt: skip
from avtools.outputs import FOLDER, safe_relpath, strip_suffix
from avtools.rows.formats import IMAGE, SOUND_INPUT, VIDEO_INPUT, shown
from avtools.rows.keys import key_of
from avtools.rows.writing import cell_text

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TEXTS = {"txt": "text", "text": "text", "caption": "caption", "transcript": "transcript", "cls": "cls", "cls2": "cls2", "class": "class",
         "label": "label", "index": "index", "inx": "inx", "id": "id", "json": "json"}  # fmt: skip  (members that are cells)
LARGEST_TEXT = 1 << 27  # bytes; a member called txt or json beyond it is none
_DAMAGE = (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError, OSError)


class WebDataset(Packed):
    """See the module."""

    options = ("shard_size",)

    def __init__(self, settings: dict):
        super().__init__(settings)
        self.unknown: Counter[str] = Counter()  # extensions that we make nothing of
        self.told: set[str] = set()  # shards whose JSON says all: one without a split is `train`

    # --- writing

    @functools.cached_property
    def _keys(self) -> Seen:
        return Seen()

    def export(self, row, maker):
        split, files = split_of(row), held(row, self.left)
        base = encoded(base_of(row, files))
        column = caption_column(row, "text", "audio_text")
        text = column and row[column]
        key = self._keys.unused(base)
        cells = {**row, **{file.column: f"{key}.{file.extension}" for file in files}}
        json_text(cells)  # nested too deeply: this row's fault
        return {}, {"key": key, "json": cells, "txt": clean(cell_text(text)) if text else None, "split": split}

    def sink(self, folder, columns, format_):
        return _Shards(self, folder, (self.settings.get("shard_size") or 1000) * 1_000_000)

    # --- reading

    def read(self, source):
        shards = files_below(source, SUFFIXES)
        if not shards:
            raise UsageError(f"{source}: no {', '.join(SUFFIXES)} below it; give the folder that holds the shards, or a shard")
        # As with JSONL, what comes first tells the columns: the first shard, whose samples need not be alike
        columns: dict[str, None] = {}
        for number, sample in enumerate(_samples(shards[0], Counter())):
            if not number and _names_itself(sample):
                self.told.update(shards)
            columns.update(dict.fromkeys(self._item(shards[0], sample, plan=True).cells))
        self.counts.clear(), self.unknown.clear()  # they are counted when they are read as rows
        if any(known_split(shard) not in (None, "train") for shard in shards):
            columns["split"] = None
        splits: dict[str, list[str]] = {}
        for shard in shards:
            splits.setdefault(os.path.join(os.path.dirname(shard), split_by_name(shard)), []).append(shard)
        return list(columns), [self._items(own) for own in splits.values()]

    def _items(self, shards: list[str]) -> Iterator[Item]:
        return (self._item(shard, sample) for shard in shards for sample in _samples(shard, self.counts))

    def _item(self, shard: str, sample: "_Sample", plan: bool = False) -> Item:
        """The item of a sample; only its columns count where it is a `plan`."""
        origin, private = f"{shown(shard)}: {shown(sample.key)}", {"media": []}
        record = {"key": sample.key, "json": None, "txt": None, "split": split_by_name(shard)}
        try:
            texts = {extension: _decoded(extension, data, origin) for extension, data in sample.texts.items()}
            record["json"], record["txt"] = texts.get("json"), texts.get("txt")
            if sample.problem:
                raise RowError(sample.problem)
            cells = self._cells(shard, sample, texts, private, plan)
        except RowError as error:
            cells, private = {"id": sample.key}, {"error": str(error)}
        return Item(record, cells, origin, private)

    def _cells(self, shard, sample, texts, private, plan) -> dict:
        given = texts.pop("json", {})
        told = given if isinstance(given, dict) else {"json": given}
        columns = self._columns_of(sample, told)
        relpath = told.get("relpath")
        base = _decoded_key(sample.key)
        place = strip_suffix(safe_relpath(relpath)) if isinstance(relpath, str) and relpath else safe_relpath(base)
        for extension, column in columns.items():
            head, _, suffix = extension.rpartition(".")
            locator = [shard, *sample.state, *sample.members[extension]]
            where, locator = (place, locator) if plan else self.places.place(place, extension, locator)
            private["media"].append([column, where + (f".{head}" if head else ""), [f".{suffix}"], locator])
        try:
            key_of(told)
            named = {}
        except RowError:  # nothing in the JSON tells the rows apart; the key does
            first = private["media"][0] if private["media"] else [None, place, [""]]
            named = {"id": os.path.basename(first[1]), "relpath": first[1] + first[2][0]}
        media = {column: None for column in columns.values()}
        cells = {**{c: v for c, v in media.items() if named and c not in told}, **{c: v for c, v in named.items() if c not in told}, **told}
        cells.update((column, None) for column in media)
        for extension, text in texts.items():
            self._set_text(cells, extension, text)
        split = known_split(shard)
        if split and "split" not in told and (split != "train" or shard not in self.told):
            cells["split"] = split
        return cells

    def _set_text(self, cells: dict, extension: str, text: str) -> None:
        """A text member as a cell.  Where the JSON says otherwise the member counts: it is what other readers see."""
        names = ("text", "audio_text") if extension == "txt" else (TEXTS[extension],)
        column = caption_column(cells, *names) or names[0]
        known = cells.get(column)
        if known and clean(cell_text(known)) == text:
            return
        self.counts["texts"] += bool(known)
        cells[column] = text

    def _columns_of(self, sample: "_Sample", told: dict) -> dict[str, str]:
        """Extension -> column of the members that are media."""
        columns: dict[str, str] = {}
        for extension in sample.members:
            name = f"{sample.key}.{extension}"
            column = next((c for c, cell in told.items() if cell == name and c not in columns.values()), None) or _column_of(extension, told, columns)
            if column is not None:
                columns[extension] = column
            else:
                self.unknown[extension] += 1
        return columns

    def blocks(self, locator, role=""):
        shard, size, mtime, offset, left = locator
        with _damage(shard, offset, "a member", MediaError):
            file = _kept_open(shard, size, mtime, role)
            file.seek(offset)
            while left and (data := file.read(min(left, BLOCK))):
                left -= len(data)
                yield data
            if left:
                raise EOFError(f"{left} bytes are missing")

    def notes(self):
        counts, lines = self.counts, []
        if counts["made"] or counts["kept"]:
            lines.append(f"shards: {counts['made']} made, {counts['kept']} without change")
        lines += [f"{n} cells of {column} name no file and stay as they are" for column, n in self.left.items()]
        if self.unknown:
            lines.append("left out, as no column of ours: " + ", ".join(f"{n} members {shown(e)}" for e, n in sorted(self.unknown.items())))
        if counts["odd"]:
            lines.append(f"{counts['odd']} members are no files of samples (folders, links, names without a suffix) and were left out")
        if counts["texts"]:
            lines.append(f"{counts['texts']} samples' text members differ from their JSON; the text members were taken")
        return lines


# --- keys and extensions ------------------------------------------------------------------------------------------


def encoded(base: str) -> str:
    """A key that WebDataset's readers split where we do: no dot in its base name, no line end, no `__NAME__` in front."""
    folder, name = os.path.split(base)
    quoted = [re.sub(r"%(?=2E|25|0A|5F)", "%25", part).replace("\n", "%0A") for part in (folder, name)]
    key = os.path.join(quoted[0], quoted[1].replace(".", "%2E"))
    return re.sub(r"^_(?=_[^/]*__(?:/|$))", "%5F", key)


def _decoded_key(key: str) -> str:
    return re.sub("%(2E|25|0A|5F)", lambda found: chr(int(found[1], 16)), key)


def _split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member as `webdataset.tariterators.base_plus_ext` finds them; None for what is of no sample."""
    found = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", name)
    if not found or re.match(r"__[^/]*__(?:$|/)", name):
        return None
    return found[1], found[2].lower()


def _column_of(extension: str, told: dict, taken: dict) -> str | None:
    """The column for a member that the JSON does not name; None where there is none."""
    prefix, _, suffix = extension.rpartition(".")
    for column, kind in KINDS.items() if not prefix else ():
        if suffix in kind and column not in taken.values():
            return column if column in told or column not in ("video_path", "audio_file") else None
    prefix = prefix or suffix
    column = next((c for c in (f"{prefix}_path", prefix) if c in KNOWN or prefix != suffix and c in told and c.endswith("_path")), None)
    if column is None and prefix != suffix and suffix in VIDEO_INPUT | SOUND_INPUT | IMAGE and re.fullmatch(r"[a-z0-9_-]+", prefix):
        column = f"{prefix}_path"  # left.jpg, mask.png: anybody's media under a name of their own
    return None if column in taken.values() else column


def split_by_name(shard: str) -> str:
    """The split that a shard of ours is of; the whole name of another's."""
    return re.sub(r"-\d{6}\.tar$", "", os.path.basename(shard))


# --- shards, written ------------------------------------------------------------------------------------------------


class _Shards(Whole):
    """The shards below a folder.

    Beside each, DIR/.avtools/SHARD.plan holds its state and a digest of each sample.  As long as the samples that come are
    those of an earlier export's shard nothing is written; at the first other one its beginning is copied.
    """

    def __init__(self, layout: WebDataset, folder: str, limit: int):
        super().__init__(folder, "webdataset", r".*-\d{6}\.tar(?:\.plan)?")
        self.layout, self.limit = layout, limit
        self.sweep(folder)
        self.sweep(os.path.join(folder, FOLDER))
        self.current: dict[str, _Shard] = {}

    def write(self, record, row):
        files = self.held
        # what the sample is made of, before any of it is read: names and sizes of the members, then what is not in files
        parts = [(f"{record['key']}.{file.extension}", file, file.size) for file in files]
        texts = {"txt": record["txt"] and record["txt"].encode(), "json": json_text(record["json"]).encode()}
        parts += [(f"{record['key']}.{extension}", data, len(data)) for extension, data in texts.items() if data]
        headers = [_header(name, size) for name, _, size in parts]
        size = sum(len(header) + length + -length % 512 for header, (_, _, length) in zip(headers, parts))
        plan = hashlib.blake2b(json.dumps([[os.path.abspath(f.path), *f[3:]] for f in files]).encode(), digest_size=16)
        for header, (_, part, _) in zip(headers, parts):
            plan.update(header if isinstance(part, Held) else header + part)
        shard = self.current.get(record["split"])
        if shard is None or shard.size and shard.size + size > self.limit:
            number = 0 if shard is None else shard.number + 1
            if shard is not None:
                shard.end()
            shard = self.current[record["split"]] = _Shard(self, record["split"], number)
        shard.add(plan.digest(), size, (data for header, (_, part, length) in zip(headers, parts) for data in _member(header, part, length)))

    def commit(self):
        if not self.current:  # a table without rows is one, too
            self.current["train"] = _Shard(self, "train", 0)
        for shard in self.current.values():
            shard.end()
        super().commit()


class _Shard:
    def __init__(self, sink: _Shards, split: str, number: int):
        self.sink, self.number, self.size = sink, number, 0
        self.name = f"{split}-{number:06d}.tar"
        self.plan = os.path.join(FOLDER, f"{self.name}.plan")
        self.file = None
        self.digests = bytearray()
        self.before = b"" if sink.layout.overwrite else self._planned()

    def _planned(self) -> bytes:
        """The samples' digests of the shard that is there, if it is still what was written."""
        with contextlib.suppress(OSError, ValueError, tarfile.TarError):
            with open(os.path.join(self.sink.folder, self.plan), "rb") as file:
                state = json.loads(file.readline())
                status = os.stat(os.path.join(self.sink.folder, self.name))
                if state == [WebDataset.version, status.st_size, status.st_mtime_ns]:
                    return file.read() + b"."  # also where there are no samples it differs from "unknown"
        return b""

    def add(self, digest: bytes, size: int, blocks: Iterator[bytes]) -> None:
        at = len(self.digests)
        if self.file is None and self.before[at : at + 16] != digest:
            self._write_from_here()
        self.digests += digest
        self.size += size
        if self.file is not None:
            for data in blocks:
                self.file.write(data)

    def _write_from_here(self) -> None:
        """Begin the file with what is as it was."""
        self.file = self.sink.begin(self.name)
        if self.size:
            path = os.path.join(self.sink.folder, self.name)
            status = os.stat(path)
            part = Held("", "", path, status.st_size, status.st_mtime_ns)
            left = self.size
            for data in blocks_of(part):
                self.file.write(data[:left])
                left -= len(data)
                if left <= 0:
                    break

    def end(self) -> None:
        counts = self.sink.layout.counts
        if self.file is None and self.before == bytes(self.digests) + b".":
            self.sink.keep(self.name)
            counts["kept"] += 1
            return
        if self.file is None:
            self._write_from_here()
        self.file.write(bytes(1024 + -(self.size + 1024) % tarfile.RECORDSIZE))
        status = self.sink.end(self.file)
        plan = self.sink.begin(self.plan, listed=False)
        plan.write(json.dumps([WebDataset.version, status.st_size, status.st_mtime_ns]).encode() + b"\n" + self.digests)
        self.sink.end(plan)
        counts["made"] += 1


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)  # by itself: mode 0644, mtime 0, owner and group 0 without names
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _member(header: bytes, part: Held | bytes, size: int) -> Iterator[bytes]:
    yield header
    yield from blocks_of(part) if isinstance(part, Held) else (part,)
    yield bytes(-size % 512)


# --- shards, read ---------------------------------------------------------------------------------------------------


class _Sample(NamedTuple):
    key: str
    state: list[int]  # of the shard: size, time
    members: dict[str, list[int]]  # media: extension -> offset, size
    texts: dict[str, bytes]
    problem: str


def _samples(shard: str, counts: Counter) -> Iterator[_Sample]:
    """The samples of a shard, as webdataset.tariterators.group_by_keys makes them; `counts["odd"]`: members that are of none."""
    status = os.stat(shard)
    sample = None
    with _opened(shard) as file:
        for info, name in _members(file, shard, status.st_size):
            split = _split_name(name) if info.isreg() else None
            if split is None:
                counts["odd"] += not info.isdir()
                continue
            key, extension = split
            if sample is None or key != sample.key:
                if sample is not None:
                    yield sample
                sample = _Sample(key, [status.st_size, status.st_mtime_ns], {}, {}, "")
            if extension in sample.members or extension in sample.texts:
                sample = sample._replace(problem=f"two members are called {shown(name)}; a sample can have one")
            elif info.sparse is not None:
                sample = sample._replace(problem=f"member {shown(name)} is sparse; pack it without --sparse")
            elif extension in TEXTS and info.size <= LARGEST_TEXT:
                with _damage(shard, info.offset, name):
                    file.seek(info.offset_data)
                    sample.texts[extension] = file.read(info.size)
                    if len(sample.texts[extension]) < info.size:
                        raise EOFError("the file ends in it")
            else:
                sample.members[extension] = [info.offset_data, info.size]
    if sample is not None:
        yield sample


def _members(file, shard: str, size: int) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """The members of an archive and of those behind it; UsageError where it is damaged.

    tarfile's own loop ends without a word at a header that is no header, and in an archive that was cut off.
    """
    # tarfile.TarInfo.fromtarfile() reads one header; a TarFile of an empty archive is what it keeps its place in
    tar = tarfile.TarFile(fileobj=io.BytesIO(bytes(tarfile.RECORDSIZE)), encoding="utf-8", errors="surrogateescape")
    tar.fileobj, tar.offset = file, 0
    plain, last = isinstance(file, io.BufferedReader), None
    while True:
        at = tar.offset
        what = "the first header" if last is None else f"what follows {shown(last)}"
        try:
            with _damage(shard, at, what):
                file.seek(at)
                info = tarfile.TarInfo.fromtarfile(tar)
        except tarfile.EOFHeaderError:
            if not _skip_zeros(file, tar, shard):
                return
            continue
        last = info.name
        if plain and info.isreg() and info.offset_data + info.size > size:
            raise UsageError(f"{shard}: cut off at byte {size}, in member {shown(last)} (byte {info.offset}); get it again")
        yield info, info.name


def _skip_zeros(file, tar: tarfile.TarFile, shard: str) -> bool:
    """Behind an archive's end: whether another one follows (cat a.tar b.tar), at `tar.offset`."""
    with _damage(shard, tar.offset, "what follows the end"):
        for number in itertools.count(tar.offset // 512):
            file.seek(number * 512)
            block = file.read(512)
            if not block:
                return False
            if block.strip(b"\0"):
                tar.offset = number * 512
                return True


class _damage:
    """Turn what is raised for damaged archives into one line."""

    def __init__(self, shard: str, offset: int, what: str, error: type[Exception] = UsageError):
        self.line, self.error = f"{shard}: damaged at byte {offset}, {shown(what)}", error

    def __enter__(self):
        pass

    def __exit__(self, _, error, __):
        if isinstance(error, (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError)):
            raise self.error(f"{self.line}: cut off, without an archive's end; get it again") from None
        if isinstance(error, _DAMAGE) and not isinstance(error, tarfile.EOFHeaderError):
            raise self.error(f"{self.line} ({error}); get it again") from None


def _opened(shard: str):
    """A shard as it is, or as it is unpacked; in either one can go forward cheaply."""
    import bz2
    import gzip

    try:
        file = open(shard, "rb")
        head = file.read(6)
        file.seek(0)
    except OSError as error:
        raise UsageError(f"{shard}: cannot be read ({error.strerror})") from None
    for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma)):
        if head.startswith(magic):
            file.close()
            return module.open(shard, "rb")
    if head[:4] == b"\x28\xb5\x2f\xfd":
        file.close()
        raise UsageError(f"{shard}: compressed by zstd; unpack it first: zstd -d {shown(shard)}")
    return file


@functools.lru_cache(maxsize=16)
def _kept_open(shard: str, size: int, mtime: int, role: str):
    # A worker's rows come in the order of the shard: where it is compressed each worker goes through it once
    return _opened(shard)


def _names_itself(sample: _Sample) -> bool:
    """Whether its JSON tells it from other rows, as ours does."""
    try:
        key_of(json.loads(sample.texts.get("json", b"{}")))
    except (RowError, ValueError, AttributeError, RecursionError):
        return False
    return True


def _decoded(extension: str, data: bytes, origin: str):
    if extension != "json":
        return data.decode("utf-8", "surrogateescape")
    try:
        return json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise RowError(f"member json is no JSON ({error})") from None
