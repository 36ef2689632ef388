"""Where a row's output goes, atomic writing, and the record of what is made.

Two sides meet here.  The reading process plans: :class:`Outputs` gives every wanted file its place below
the output directory, notices rows that share one, and looks up what the journals say of it.  The working
process makes: :class:`Maker` reuses what is recorded and still true, else writes to a temporary name in
the same directory, flushes, records, renames.

`OUTDIR/.avtools/` holds `journal-IDENTITY.jsonl` (append-only, one per writing process, a record a line,
written *before* the rename: a record whose file is absent or differs counts for nothing) and
`hand-IDENTITY` (the temporary name that a process has in its hand, so that a dead writer's leftover can
be found without walking the tree).  IDENTITY is host, process id and process start.
"""

import contextlib
import dataclasses
import errno
import fcntl
import glob
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator

from avtools.errors import FatalError, MediaError, RowError, SuffixRefused
from avtools.identity import identity, is_dead
from avtools.rows.formats import IMAGE, SOUND_INPUT, VIDEO_INPUT, suffix_of
from avtools.rows.keys import PLACEHOLDER

FOLDER = ".avtools"
FATAL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE}


# --- files ----------------------------------------------------------------------------------------------


def digest(path: str) -> str:
    """SHA-256 of a file's content, as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def fsync_path(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def output_failure(error: OSError, path: str) -> Exception:
    """What an error on the output side means: the end of the run, or of one row."""
    reason = error.strerror or str(error)
    if error.errno in FATAL_ERRNOS:
        return FatalError(f"{path}: {reason}; nothing more can be written there")
    return RowError(f"{path}: cannot be written ({reason})")


def link_or_copy(source: str, target: str) -> None:
    """Make `target` the same content as `source`: a hard link, else a shared extent, else a copy."""
    source = os.path.realpath(source)  # link() would link a symbolic link itself
    try:
        os.link(source, target)
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES):
            raise
    with open(source, "rb") as reading, open(target, "xb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), 0x40049409, reading.fileno())  # FICLONE
        except OSError:
            shutil.copyfileobj(reading, writing, 1 << 20)
    shutil.copystat(source, target)


def strip_suffix(path: str) -> str:
    """`a/b.mp4` -> `a/b`; a last part that is no media suffix (`take.v2`) belongs to the name."""
    known = suffix_of(path) in VIDEO_INPUT | SOUND_INPUT | IMAGE
    return os.path.splitext(path)[0] if known else path


def safe_relpath(relpath: str) -> str:
    """`relpath` in its shortest form; RowError where it would leave the directory that it is relative to."""
    short = os.path.normpath(relpath)
    first = short.split(os.sep, 1)[0]
    if "\0" in relpath or os.path.isabs(relpath) or first in ("..", ".", FOLDER):
        raise RowError(f"relpath {relpath!r} would leave the output directory; give a relpath inside it")
    return short


# --- planning: the reading process ------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Want:
    """A file that a row asks for.

    `sources`: the files that it is made of, the one that it replaces first; none for what is made of nothing.
    `suffixes`: the suffixes that a new file may get, the likely one first.  `may_keep`: the source itself may
    do, under its own suffix.  `relpath`: its place without suffix below DIR; by default that of the row (see
    :func:`place`).  `detail`: what else of the row the file depends on (its text, its key).  `owner`, of a row's first one: rows
    that may ask for a file of the same place have it in common, so that one rank does them all; by default that place.
    """

    name: str
    sources: tuple[str, ...]
    suffixes: tuple[str, ...]
    may_keep: bool = False
    relpath: str | None = None
    detail: str = ""
    owner: str = ""


@dataclasses.dataclass(slots=True)
class Slot:
    """A :class:`Want` with its place, as sent to the working process."""

    sources: tuple[str, ...]
    stem: str  # below the output directory, without suffix; in place: the file itself
    suffixes: tuple[str, ...]  # that a new file may get
    kept: str | None  # the suffix under which the source itself may do
    detail: str = ""
    taken: set[str] = dataclasses.field(default_factory=set)  # places that belong to other sources
    records: list[dict] = dataclasses.field(default_factory=list)

    @property
    def label(self) -> str:
        """What to call the slot in messages."""
        return self.sources[0] if self.sources else self.stem

    def places(self) -> list[str]:
        """All places that it may take, without those of others."""
        suffixes = dict.fromkeys([*self.suffixes, *([] if self.kept is None else [self.kept])])
        return [self.stem + suffix for suffix in suffixes if self.stem + suffix not in self.taken]

    def is_blocked(self) -> bool:
        """Whether the likely place belongs to another source: a second choice would only hide that."""
        likely = self.suffixes[0] if self.suffixes else self.kept
        return self.stem + likely in self.taken and (self.kept is None or self.stem + self.kept in self.taken)


@dataclasses.dataclass(frozen=True)
class Policy:
    """How files are made in this run (the command's operation, its options, the shared options)."""

    operation: str  # name/version
    options: dict
    outdir: str | None
    run: str  # the reading process's identity: what it recorded is true even under --overwrite
    in_place: bool = False
    overwrite: bool = False
    copy: bool = True
    absolute: bool = False
    fsync: bool = True
    settles: bool = False  # done to its own result, the operation changes nothing


def place(row: dict, source: str) -> str:
    """Where below DIR a row's file goes, without suffix: its `relpath`, else the source's name."""
    relpath = row.get("relpath")
    if relpath in (None, "") or isinstance(relpath, str) and os.path.basename(relpath) == PLACEHOLDER:
        relpath = os.path.basename(source)
    if not isinstance(relpath, str):
        raise RowError(f"relpath {relpath!r} is not a path")
    return strip_suffix(safe_relpath(relpath))


class Outputs:
    """What the reading process knows of the output directory: who claims which file, what is recorded.

    Both tables live in a temporary SQLite file, so memory does not grow with the number of outputs.
    """

    def __init__(self, policy: Policy):
        import sqlite3  # not at start-up: commands that write no files never need it

        self.policy = policy
        self.folders: set[str] = set()  # in place: those of the sources
        self.active: dict[int, set[bytes]] = {}  # row in work -> places of which it will take only some
        # under ranks, the thread that does rank 0's rows is not the one that made this
        self.database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode=OFF",
            "CREATE TABLE claims (target BLOB PRIMARY KEY, source BLOB, row INTEGER) WITHOUT ROWID",
            "CREATE TABLE records (target BLOB, journal INTEGER, position INTEGER)",
        ):
            self.database.execute(statement)
        self.journals: dict[str, int] = {}
        if not policy.in_place:
            self.folder = os.path.join(policy.outdir, FOLDER)
            self.folders.add(self.folder)
            self._open_folder()

    def _open_folder(self) -> None:
        try:
            os.makedirs(self.folder, exist_ok=True)
            probe = os.path.join(self.folder, f"probe-{identity()}.tmp")
            with open(probe, "wb") as file:
                file.write(b"avtools\n")
            os.unlink(probe)
        except OSError as error:
            raise FatalError(f"{self.policy.outdir}: cannot be written ({error.strerror}); choose another -d DIR") from None
        sweep(self.folder)
        compact(self.folder)
        rows = (
            (hash_of(record["target"]), self._number_of(path), position)
            for path in journals(self.folder)
            for record, position in read_journal(path)
        )
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO records VALUES (?,?,?)", rows)
        self.database.execute("CREATE INDEX by_target ON records (target)")
        self.database.execute("COMMIT")

    def _number_of(self, journal: str) -> int:
        return self.journals.setdefault(journal, len(self.journals))

    def count(self) -> int:
        """How many files the journals speak of."""
        return self.database.execute("SELECT count(DISTINCT target) FROM records").fetchone()[0]

    def reserve(self, number: int, row: dict, wants: Callable[[], list[Want]]) -> None:
        """Note the likely places of a row of an earlier shard: a later row of another source must not take them."""
        try:
            for slot in self._slots(row, wants()):
                claim = (hash_of(slot.places()[0]), _maker(slot), number)
                self.database.execute("INSERT OR IGNORE INTO claims VALUES (?,?,?)", claim)
        except (RowError, TypeError, ValueError):
            pass  # bad there, and said there

    def claim(self, number: int, row: dict, wants: list[Want]) -> tuple[dict[str, Slot], set[int]]:
        """Give row `number` its places; the second value: earlier rows that must be done before it starts.

        Raises RowError where a place is outside DIR, is the source itself, or belongs to another source.
        """
        slots = self._slots(row, wants)
        after, claims, ambiguous = set(), [], set()
        for slot in slots:
            maker, places = _maker(slot), slot.places()
            several = len(places) > 1
            for place_ in places:
                target = hash_of(place_)
                owner, earlier = self._owner(target)
                if owner is None:
                    claims.append((target, maker, number))
                    if several:
                        ambiguous.add(target)
                elif owner == maker or target in self.active.get(earlier, ()):
                    if earlier in self.active:  # it makes the file that this row shares, or may leave it free
                        after.add(earlier)
                else:
                    self._take(slot, place_, earlier)
        self.database.executemany("INSERT OR IGNORE INTO claims VALUES (?,?,?)", claims)
        self.active[number] = ambiguous
        return {want.name: slot for want, slot in zip(wants, slots, strict=True)}, after

    def ready(self, number: int, slots: dict[str, Slot]) -> None:
        """Just before row `number` starts: which places belong to others by now, and what is recorded of its own."""
        for slot in slots.values():
            maker = _maker(slot)
            for place_ in slot.places():
                target = hash_of(place_)
                owner, earlier = self._owner(target)
                if owner is None:
                    self.database.execute("INSERT INTO claims VALUES (?,?,?)", (target, maker, number))
                    self.active[number].add(target)
                elif owner != maker:
                    self._take(slot, place_, earlier)
                slot.records += self._records(target)

    def done(self, number: int, targets: list[tuple[str, str | None, int]]) -> None:
        """Row `number` is finished and made or reused `targets` (place, journal, position): free the others."""
        freed = self.active.pop(number, set())
        for target, journal, position in targets:
            freed.discard(hash_of(target))
            if journal is not None and not self.policy.in_place:
                row = (hash_of(target), self._number_of(journal), position)
                self.database.execute("INSERT INTO records VALUES (?,?,?)", row)
        self.database.executemany("DELETE FROM claims WHERE target=?", [(target,) for target in freed])

    def sync(self) -> None:
        """Make the renames last: once for the run, because a record whose file is missing counts for nothing."""
        if not self.policy.fsync:
            return
        import ctypes

        for folder in sorted(self.folders):
            with contextlib.suppress(OSError, AttributeError):  # no such call here: the disk will do it in its time
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    ctypes.CDLL(None).syncfs(descriptor)
                finally:
                    os.close(descriptor)

    def close(self) -> None:
        """After the workers have ended: remove what killed ones left half done."""
        for folder in self.folders:
            sweep(folder)
        self.database.close()

    def _slots(self, row: dict, wants: list[Want]) -> list[Slot]:
        slots = []
        for want in wants:
            if self.policy.in_place:
                stem, suffix = os.path.splitext(os.path.realpath(want.sources[0]))
                self.folders.add(os.path.join(os.path.dirname(stem), FOLDER))
                slots.append(Slot(want.sources, stem, tuple(s for s in want.suffixes[:1] if s == suffix), suffix))
            else:
                kept = os.path.splitext(want.sources[0])[1] if want.may_keep and want.sources else None
                slots.append(Slot(want.sources, want.relpath or place(row, want.sources[0]), want.suffixes, kept, want.detail))
                self._refuse_source(slots[-1])
        return slots

    def _owner(self, target: bytes) -> tuple[bytes | None, int]:
        found = self.database.execute("SELECT source, row FROM claims WHERE target=?", (target,)).fetchone()
        return found or (None, -1)

    def _take(self, slot: Slot, place_: str, earlier: int) -> None:
        slot.taken.add(place_)
        if slot.is_blocked():
            path = os.path.join(self.policy.outdir or "", place_)
            raise RowError(
                f"{slot.label}: its output {path} is that of another row (row {earlier + 1}); give the rows different relpath"
            )

    def _refuse_source(self, slot: Slot) -> None:
        sources = {os.path.realpath(source) for source in slot.sources}
        for place_ in slot.places():
            if os.path.realpath(os.path.join(self.policy.outdir, place_)) in sources:
                slot.taken.add(place_)
                if slot.is_blocked():
                    raise RowError(f"{slot.label}: its output would replace a source; use --in-place or another -d DIR")

    def _records(self, target: bytes) -> Iterator[dict]:
        names = list(self.journals)
        for journal, position in self.database.execute(
            "SELECT journal, position FROM records WHERE target=? ORDER BY rowid DESC LIMIT 32", (target,)
        ):
            try:
                with open(names[journal], "rb") as file:
                    file.seek(position)
                    yield json.loads(file.readline())
            except (OSError, ValueError):  # compacted away by another run: made again
                continue


def hash_of(text: str) -> bytes:
    """16 bytes that stand for a text, a path for instance."""
    return hashlib.blake2b(os.fsencode(text), digest_size=16).digest()


def _maker(slot: Slot) -> bytes:
    return hash_of("\0".join([*map(os.path.abspath, slot.sources or (slot.stem,)), *([slot.detail] if slot.detail else [])]))


# --- the journal ------------------------------------------------------------------------------------------


def journals(folder: str) -> list[str]:
    """The journals of a folder, the one that was written last at the end."""
    return sorted(glob.glob(os.path.join(glob.escape(folder), "journal-*.jsonl")), key=_last_change)


def _last_change(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:  # joined with others by another run
        return 0.0


def read_journal(path: str, start: int = 0) -> Iterator[tuple[dict, int]]:
    """The whole records of a journal with their positions in bytes; a torn line is passed over."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:  # joined with others by another run
        return
    with file:
        file.seek(start)
        position = start
        for line in file:
            if line.endswith(b"\n"):
                try:
                    record = json.loads(line)
                    record["target"]
                except (ValueError, TypeError, KeyError):
                    pass
                else:
                    yield record, position
            position += len(line)


def append_record(folder: str, record: dict) -> tuple[str, int]:
    """Append to this process's journal; the journal's path and the record's position in bytes."""
    path = os.path.join(folder, f"journal-{identity()}.jsonl")
    line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return path, os.lseek(descriptor, 0, os.SEEK_END) - len(line)
    finally:
        os.close(descriptor)


def sweep(folder: str) -> None:
    """Remove the temporary files that dead writers left, and nothing else."""
    for path in glob.glob(os.path.join(glob.escape(folder), "hand-*")):
        try:
            if is_dead(os.path.basename(path).removeprefix("hand-"), path):
                with open(path, "rb") as file:
                    leftover = os.fsdecode(file.readline().rstrip(b"\n"))
                if leftover.endswith(".tmp"):
                    _remove(os.path.join(os.path.dirname(folder), leftover))
                _remove(path)
        except (OSError, ValueError):
            continue


def compact(folder: str) -> None:
    """Join the journals of dead writers into one when there are many; only while nobody writes here."""
    paths = journals(folder)
    if len(paths) < 64:
        return
    with open(os.path.join(folder, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            names = [os.path.basename(path)[len("journal-") : -len(".jsonl")] for path in paths]
            if not all(is_dead(name, path) for name, path in zip(names, paths)):
                return
            joined = os.path.join(folder, f"joined-{identity()}.tmp")
            with open(joined, "wb") as file:
                for path in paths:
                    for record, _ in read_journal(path):
                        file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            # Readers take the last record of a place, so the old ones may go one by one.
            os.replace(joined, os.path.join(folder, f"journal-{identity()}.jsonl"))
            for path in paths:
                _remove(path)
        except OSError:
            return  # a tidy folder is not worth a failed run


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


# --- making: the working process ----------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Made:
    """A finished output: its path as the table writes it, and its measured columns."""

    path: str
    columns: dict


class Maker:
    """Makes the files of one row, in the working process.

    What became of each, for the reading process: `targets` (place, journal or None, position), `counts`, and
    `why`, a line for `--why`.
    """

    def __init__(self, policy: Policy, slots: dict[str, Slot]):
        self.policy, self.slots = policy, slots
        self.targets: list[tuple[str, str | None, int]] = []
        self.why: list[str] = []
        self.counts = {"made": 0, "unchanged": 0, "reused": 0}

    def make(
        self,
        name: str,
        build: Callable[[str, str], None],
        measure: Callable[[str], dict],
        conforms: Callable[[], bool] = lambda: False,
        verify: Callable[[str], None] | None = None,
    ) -> Made:
        """The output `name` of the row: reused, linked to a source that `conforms()`, or built.

        `build(temporary, suffix)` writes the file; it may raise SuffixRefused to be asked for the next
        suffix.  `measure(path)` gives the columns that describe it.  `verify(path)` reads the new file back
        before it replaces a source.
        """
        slot, policy = self.slots[name], self.policy
        if not policy.in_place:
            return self._make(slot, policy.outdir, slot.records, build, measure, conforms, None)
        directory = os.path.dirname(slot.stem)
        folder = os.path.join(directory, FOLDER)
        try:
            os.makedirs(folder, exist_ok=True)
            lock = open(os.path.join(folder, f"lock-{hash_of(slot.stem)[0] % 16:02d}"), "w")
        except OSError as error:
            raise output_failure(error, folder) from None
        with lock:  # another run or shard may have the same file in its hands
            fcntl.flock(lock, fcntl.LOCK_EX)
            sweep(folder)
            own = dataclasses.replace(slot, stem=os.path.basename(slot.stem))
            records = _in_place_records(folder, own.stem + own.kept)
            made = self._make(own, directory, records, build, measure, conforms, verify)
        made.path = os.path.abspath(slot.sources[0]) if policy.absolute else slot.sources[0]
        return made

    def reusable(self, name: str) -> Made | None:
        """The output `name` where it need not be made; for commands without --in-place."""
        slot, root = self.slots[name], self.policy.outdir
        record, _ = self._find(slot, root, slot.records, [_state(source) for source in slot.sources])
        return None if record is None else Made(self._path(root, record), record["columns"])

    def _make(self, slot, root, records, build, measure, conforms, verify) -> Made:
        states = [_state(source) for source in slot.sources]
        record, reason = self._find(slot, root, records, states)
        if record is not None:
            return self._finish(slot, root, record, None, -1, "reused")
        if slot.kept is not None and slot.stem + slot.kept not in slot.taken and conforms():
            if not self.policy.copy or self.policy.in_place:
                self.counts["unchanged"] += 1
                self.why.append(f"{slot.sources[0]}: needs no change")
                path = os.path.abspath(slot.sources[0]) if self.policy.absolute else slot.sources[0]
                return Made(path, measure(slot.sources[0]))
            return self._write(
                slot, root, slot.kept, states, lambda tmp, _: link_or_copy(slot.sources[0], tmp), measure, None, "linked", []
            )
        if not slot.suffixes:
            raise RowError(f"{slot.label}: cannot be written as {slot.kept} again, so not in place; use -d DIR")
        refused = None
        for suffix in slot.suffixes:
            if slot.stem + suffix in slot.taken:
                continue
            try:
                return self._write(slot, root, suffix, states, build, measure, verify, reason, records)
            except SuffixRefused as error:
                refused = error
        raise refused or RowError(f"{slot.label}: all places for its output belong to other sources; give the rows different relpath")

    def _find(self, slot, root, records, states) -> tuple[dict | None, str]:
        """The newest record that is still true, or why there is none."""
        reasons = []
        for record in records:
            reason = self._objection(slot, root, record, states)
            if reason is None:
                return record, ""
            reasons.append(reason)
        return None, reasons[0] if reasons else "not made before"

    def _objection(self, slot, root, record, states) -> str | None:
        """Why what `record` tells of cannot be used again; None where it can."""
        wanted = _operation(self.policy)
        if self.policy.overwrite and record["run"] != self.policy.run:
            return "--overwrite"
        if record["target"] in slot.taken or not _is_file(os.path.join(root, record["target"]), record["output"]):
            return "the output is missing or was changed"
        if self.policy.in_place:
            history = record["history"]
            if self.policy.settles:  # what counts is the last time: a rate of 8000 is gone after one of 4000
                history = [done for done in history if done.split(" ", 1)[0] == self.policy.operation][-1:]
            return None if wanted in history else "not done to it before"
        if record["history"][-1] != wanted:
            return "made by another operation or other options"
        if record.get("detail", "") != slot.detail:
            return "what the row asks for has changed"
        sources = zip(slot.sources, states, record["sources"], strict=False)
        if len(record["sources"]) != len(states) or not all(_same_source(*source) for source in sources):
            return "the source has changed"
        return None

    def _write(self, slot, root, suffix, states, build, measure, verify, reason, records) -> Made:
        place_ = slot.stem + suffix
        path = os.path.join(root, place_)
        directory = os.path.dirname(path)
        hand = os.path.basename(place_)
        temporary = os.path.join(directory, f".{hash_of(hand).hex()[:8]}-{identity()}.tmp")
        folder = os.path.join(root, FOLDER)
        history = [_operation(self.policy)]
        if self.policy.in_place:
            current = next((r for r in records if _is_file(path, r["output"])), None)
            history = (current["history"] if current else []) + history
        try:
            os.makedirs(directory or ".", exist_ok=True)
            _hold(folder, os.path.relpath(temporary, root or "."))
            try:
                if reason != "linked":
                    open(temporary, "xb").close()  # refused here, it is the directory's doing and not the source's
                build(temporary, suffix)
                columns = measure(temporary)
                if verify is not None:
                    verify(temporary)
                    shutil.copymode(path, temporary)
                if self.policy.fsync:
                    fsync_path(temporary)
                for source, state in zip(slot.sources, states):
                    if _state(source) != state:
                        raise MediaError(f"{source}: was changed while it was read; run again when it is at rest")
                output = [*_state(temporary), digest(temporary)]
                sources = [
                    [os.path.abspath(source), *state, output[2] if reason == "linked" else digest(source)]
                    for source, state in zip(slot.sources, states)
                ]
                record = {
                    "target": place_, "run": self.policy.run, "history": history, "sources": sources,
                    "output": output, "columns": columns, **({"detail": slot.detail} if slot.detail else {}),
                }  # fmt: skip
                journal, position = append_record(folder, record)
                os.replace(temporary, path)
            finally:
                _remove(temporary)  # also where rename() did nothing: both names were one file already
        except OSError as error:
            raise output_failure(error, path) from None
        return self._finish(slot, root, record, journal, position, reason)

    def _finish(self, slot, root, record, journal, position, reason) -> Made:
        path = os.path.join(root, record["target"])
        self.targets.append((record["target"], journal, position))
        kind = {"reused": "reused", "linked": "unchanged"}.get(reason, "made")
        self.counts[kind] += 1
        told = {"reused": "same source, operation and options", "linked": "needs no change"}.get(reason, reason)
        self.why.append(f"{path}: {kind} ({told})")
        return Made(self._path(root, record), record["columns"])

    def _path(self, root, record) -> str:
        path = os.path.join(root, record["target"])
        return os.path.abspath(path) if self.policy.absolute else path


def _operation(policy: Policy) -> str:
    return f"{policy.operation} {json.dumps(policy.options, sort_keys=True, separators=(',', ':'), default=str)}"


def _state(path: str) -> list[int]:
    """Size in bytes and time of last change in nanoseconds."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return [status.st_size, status.st_mtime_ns]


def _is_file(path: str, state: list) -> bool:
    """Whether `path` is the file of this state: size and time, or content where only the time differs."""
    try:
        size, mtime = _state(path)
    except MediaError:
        return False
    return size == state[0] and (mtime == state[1] or digest(path) == state[2])


def _same_source(path: str, state: list[int], was: list) -> bool:
    if state[0] != was[1]:
        return False
    return (state[1] == was[2] and os.path.abspath(path) == was[0]) or digest(path) == was[3]


_hands: dict[str, int] = {}


def _hold(folder: str, temporary: str) -> None:
    """Note, for the time after our death, which temporary name we are about to write (relative to DIR)."""
    path = os.path.join(folder, f"hand-{identity()}")
    if len(_hands) > 64:  # in place, every folder has its own
        for descriptor in _hands.values():
            os.close(descriptor)
        _hands.clear()
    if path not in _hands:
        os.makedirs(folder, exist_ok=True)
        _hands[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    line = os.fsencode(temporary) + b"\n"
    os.pwrite(_hands[path], line, 0)
    os.ftruncate(_hands[path], len(line))


_seen: dict[str, dict[str, tuple[int, dict[str, list[int]]]]] = {}  # folder -> journal -> read so far, places


def _in_place_records(folder: str, name: str) -> list[dict]:
    """What the journals beside a file say of it, newest first; what was read before is not read again."""
    seen = _seen.setdefault(folder, {})
    for path in journals(folder):
        end, by_name = seen.get(path, (0, {}))
        size = os.stat(path).st_size
        if size != end:
            for record, position in read_journal(path, end):
                by_name.setdefault(record["target"], []).append(position)
            seen[path] = (size, by_name)
    places = [(path, position) for path, (_, by_name) in seen.items() for position in by_name.get(name, [])]
    found = [record for path, position in places for record, _ in itertools.islice(read_journal(path, position), 1)]
    return sorted(found, key=lambda record: record["output"][1], reverse=True)
