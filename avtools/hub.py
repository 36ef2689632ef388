"""Weights: which, where, whole and as they should be.  All network access of the project is here.

Nothing heavier than the standard library is imported before it is used: the classes of systems carry :class:`Part`.
"""

import contextlib
import dataclasses
import difflib
import errno
import fcntl
import fnmatch
import functools
import glob
import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from avtools.errors import FatalError, UsageError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json")
OWN_FILES = ("config.json", "model.safetensors", "ema.safetensors")  # our own checkpoint folder
BESIDE = ("codec.safetensors", "clip.safetensors", "sound.safetensors")  # frozen parts that may lie in it; no pattern, which would fetch whole repositories
MAIN = "main"  # what the part '' is called where it needs a name
LARGE = 64 << 20  # bytes of files whose digests are worth keeping
DEPTH = 16  # of nested mappings in a checkpoint; a pickle may hold one that contains itself

_PART = re.compile(r"([a-z0-9_-]+)=(.*)", re.DOTALL)
_HUB = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@(\S+))?", re.ASCII)


# --- which ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that a system downloads."""

    name: str  # for --weights NAME=...; '' is the main part
    what: str  # "the diffusion model and CLIP's vision tower"
    source: str  # hf:OWNER/NAME[@REVISION]; else a page from which people get it by hand, or ""
    files: tuple[str, ...]  # patterns of the files wanted, each of which matches at least one; none: all files
    size: int  # bytes, about
    licence: str
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Weights:
    """The `--weights` options of one call: part -> a local path or hf:OWNER/NAME[@REVISION]."""

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, values: Iterable[str], option: str = "--weights") -> "Weights":
        """From "[PART=]SOURCE" each; what exists as a path is one, whatever is in its name."""
        sources: dict[str, str] = {}
        for value in values:
            match = None if os.path.exists(value) else _PART.fullmatch(value)
            part, source = (_main(match[1]), match[2]) if match else ("", value)
            if not source:
                raise UsageError(f"{option} {value!r} names no source; give a file, a folder or hf:OWNER/NAME[@REVISION]")
            if source.startswith("hf:"):
                _hub_name(source)
            if part in sources:
                raise UsageError(f"{option} gives {f'part {part!r}' if part else 'the main part'} twice: {sources[part]} and {source}")
            sources[part] = os.path.expanduser(source)  # a shell leaves PART=~/x as it is
        return cls(sources)

    def get(self, part: str = "") -> str | None:
        return self.sources.get(_main(part))

    def check(self, known: Iterable[str], option: str = "--weights") -> None:
        """UsageError where a source is given for a part that is not among the `known`."""
        known = [_main(name) for name in known]
        for part in self.sources:
            if part and part not in known:
                near = difflib.get_close_matches(part, known, 1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                names = ", ".join(name or MAIN for name in known) or "none"
                raise UsageError(f"{option} {part}=...: no such part{hint} (parts: {names})")


def _main(part: str) -> str:
    return "" if part == MAIN else part


def _hub_name(source: str) -> tuple[str, str | None]:
    """(OWNER/NAME, revision) of a source on the hub."""
    match = _HUB.fullmatch(source)
    if not match:
        raise UsageError(f"'{source}' is no source on the hub; write hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    return match[1], match[2]


# --- where ------------------------------------------------------------------------------------------------


def locate(source: str | None, part: Part, system: str = "SYSTEM") -> pathlib.Path:
    """The file or folder that holds a part's weights.

    A local `source` is taken as given; one on the hub is downloaded, unless HF_HUB_OFFLINE is set, into the hub's
    cache.  None: the part's own source, if it is in the cache.  FatalError: not there, and how to get it.
    """
    name = part.name or MAIN
    prefix = f"{part.name}=" if part.name else ""
    on_hub = part.source.startswith("hf:")
    if not on_hub and source in (None, part.source):
        where = f" from {part.source}" if part.source else ""
        raise FatalError(f"no weights of {_described(part)} (part '{name}', {_size(part.size)}, {part.licence}): get them by hand{where}, and give --weights {prefix}FILE|DIR")
    if source is not None and not source.startswith("hf:"):
        if not os.path.exists(source):
            raise FatalError(f"{source}: no such file or folder, wanted for {_described(part)}; give --weights {prefix}FILE|DIR|hf:OWNER/NAME")
        return pathlib.Path(source)
    repository, revision = _hub_name(source or part.source)
    at = f"{repository}{f'@{revision}' if revision else ''}"
    own = source is None or on_hub and _hub_name(part.source)[0] == repository
    patterns = part.files if own else (*part.files, *OWN_FILES, *BESIDE)
    try:
        from huggingface_hub import constants
    except ImportError:
        raise FatalError(f"{at}: huggingface_hub is not installed; pip install 'avtools[models]', or give --weights {prefix}FILE|DIR") from None
    offline = bool(constants.HF_HUB_OFFLINE)
    folder = _snapshot(repository, revision, patterns, part, local=offline or source is None)
    lacking = _lacking(folder, patterns) if folder is not None and patterns else []
    if folder is not None and not (lacking if own else len(lacking) == len(patterns)):
        return folder
    found = f"{at} is not in the hub's cache ({constants.HF_HUB_CACHE})" if folder is None else f"{folder} lacks {', '.join(lacking)}"
    wanted = f"no weights of {_described(part)} (part '{name}', {_size(part.size)}, {part.licence}): {found}"
    how = f"'avtools fetch {system}{f' --part {name}' if part.optional else ''}'"
    if offline:
        raise FatalError(f"{wanted}, and HF_HUB_OFFLINE is set; run {how} where there is a network, or give --weights {prefix}FILE|DIR")
    raise FatalError(f"{wanted}; get it with {how}, or give --weights {prefix}FILE|DIR|hf:OWNER/NAME")


def _described(part: Part) -> str:
    return part.what or f"part '{part.name or MAIN}'"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def _snapshot(repository: str, revision: str | None, patterns: tuple[str, ...], part: Part, local: bool) -> pathlib.Path | None:
    """The folder of a repository in the hub's cache, downloaded unless `local`; None where it is not there."""
    from huggingface_hub import errors, logging, snapshot_download, utils

    logging.set_verbosity_error()
    if not (sys.stderr and sys.stderr.isatty()):
        utils.disable_progress_bars()
    at = f"{repository}{f'@{revision}' if revision else ''}"
    try:
        return pathlib.Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns) or None, local_files_only=local))
    except errors.LocalEntryNotFoundError as error:
        if local:
            return None
        reason = f"the hub cannot be reached ({type(error.__cause__ or error).__name__})"
        remedy = "run again where there is a network, or give --weights with a local FILE or DIR"
    except errors.GatedRepoError:
        reason, remedy = "access is gated", f"accept its terms at https://huggingface.co/{repository} and log in with 'hf auth login'"
    except errors.RepositoryNotFoundError:
        reason, remedy = "no such repository, or a private one", "check the name, or log in with 'hf auth login'"
    except errors.RevisionNotFoundError:
        reason, remedy = "no such revision", "check what follows the '@'"
    except Exception as error:  # of several libraries; their texts may hold addresses of proxies with passwords
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = "the disk is full", "free space or set HF_HOME to another disk, and run again: what is there stays"
        else:
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = f"could not be fetched ({type(error).__name__}{f' {status}' if status else ''})"
            remedy = "run again: what is there stays"
    raise FatalError(f"{at}: {reason}; wanted: {_described(part)}, {_size(part.size)}, {part.licence}; {remedy}") from None


def _lacking(folder: pathlib.Path, patterns: tuple[str, ...]) -> list[str]:
    """The patterns that no file below `folder` matches."""
    names = [name for name, _ in _files(folder)]
    return [pattern for pattern in patterns if not fnmatch.filter(names, _pattern(pattern))]


def _pattern(pattern: str) -> str:
    return pattern + "*" if pattern.endswith("/") else pattern  # as the hub reads it


def size_of(path: str | os.PathLike, patterns: tuple[str, ...] = ()) -> int:
    """Bytes of a file, or of a folder's files that match one of the patterns (none: of all)."""
    path = pathlib.Path(path)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for name, file in _files(path) if not patterns or any(fnmatch.fnmatch(name, _pattern(p)) for p in patterns))


def _files(folder: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """(relative name, path) of the files below `folder`, sorted; in the hub's cache they are links."""
    return sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())


# --- reading ----------------------------------------------------------------------------------------------


def tensors(path: str | os.PathLike, inner: str | None = None) -> dict[str, Any]:
    """Name -> tensor on the CPU, memory-mapped, of a .safetensors file or a pickle, known by its content.

    Of a pickle only tensors are read; nothing else in it is constructed.  By default they are those at its top
    level; with `inner` those of the mapping of that name ('' is the whole file), deeper ones under dotted names.
    FatalError: not a checkpoint, cut short, or without tensors.
    """
    path = _checkpoint_file(path)
    if _is_safetensors(path):
        with _safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    from avtools.pickles import View

    checkpoint = _pickle(path)
    root = checkpoint.root
    if inner:
        if not isinstance(root.get(inner), dict):
            raise FatalError(f"{path}: has no '{inner}' (it has: {_some(root)}); give another checkpoint")
        root = root[inner]
    views = dict(_leaves(root)) if inner is not None else root
    views = {name: view for name, view in views.items() if isinstance(view, View) and isinstance(name, str)}
    if not views:
        raise FatalError(f"{path}: no tensors {f'in {inner!r}' if inner else 'at its top level'} (it has: {_some(root)}); give another checkpoint")
    return {name: _tensor(checkpoint, name, view) for name, view in views.items()}


def values(path: str | os.PathLike) -> dict[str, Any]:
    """The plain values beside the tensors of a pickle: numbers, strings, lists and mappings of them.

    Tensors without dimensions are numbers (`values(path)["state_dict"]["scale_factor"]`); other tensors and
    foreign objects are left out, with the lists that hold them.  Of a .safetensors file: its metadata, and these numbers.
    """
    path = _checkpoint_file(path)
    if _is_safetensors(path):
        with _safetensors(path) as file:
            scalars = [name for name in file.keys() if not file.get_slice(name).get_shape()]
            return {**(file.metadata() or {}), **{name: file.get_tensor(name).item() for name in scalars}}
    checkpoint = _pickle(path)
    return _plain(checkpoint, checkpoint.root, {}, 0)


class _LeftOut(Exception):
    pass


def _plain(checkpoint, value, seen: dict, depth: int):
    """`value` without what is not plain; _LeftOut where nothing of it is.  `seen`: of each container, once."""
    from avtools.pickles import View

    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, View) and not value.size:
        return _tensor(checkpoint, "a number", value).item()
    if depth == DEPTH or not isinstance(value, (dict, list, tuple)):
        raise _LeftOut
    if id(value) not in seen:
        seen[id(value)] = _LeftOut  # while it is being read: it may hold itself
        if isinstance(value, dict):
            made = {}
            for name, one in value.items():
                if isinstance(name, (str, int)):
                    with contextlib.suppress(_LeftOut):
                        made[name] = _plain(checkpoint, one, seen, depth + 1)
            if made or not depth or not value:
                seen[id(value)] = made
        else:
            seen[id(value)] = [_plain(checkpoint, one, seen, depth + 1) for one in value]
    if seen[id(value)] is _LeftOut:
        raise _LeftOut
    return seen[id(value)]


def _leaves(mapping: dict, prefix: str = "", seen: frozenset[int] = frozenset()):
    """(dotted name, value) of all that is no mapping in nested mappings."""
    if len(seen) > DEPTH or id(mapping) in seen:
        return
    for name, value in mapping.items():
        if isinstance(name, (str, int)):
            if isinstance(value, dict):
                yield from _leaves(value, f"{prefix}{name}.", seen | {id(mapping)})
            else:
                yield f"{prefix}{name}", value


def _some(names: Iterable, most: int = 8) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f", ... {len(names)} in all" if len(names) > most else "") if names else "nothing"


def _checkpoint_file(path: str | os.PathLike) -> pathlib.Path:
    """The path of something that may be a checkpoint; FatalError where it surely is none."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise FatalError(f"{path}: a folder; give the file in it that holds the weights")
    try:
        with open(path, "rb") as file:
            begin = file.read(512)
    except OSError as error:
        raise FatalError(f"{path}: {error.strerror}; give the file that holds the weights") from None
    if begin.startswith(b"version https://git-lfs"):
        raise FatalError(f"{path}: a git-lfs pointer, not the weights themselves; run 'git lfs pull' there, or download the file itself")
    if re.match(rb"\s*<(!doctype|html|\?xml|head)", begin, re.IGNORECASE):
        raise FatalError(f"{path}: a web page, not weights (a download that needs a login, or a wrong address); get the file itself")
    if not begin:
        raise FatalError(f"{path}: empty; get the file anew")
    if begin[257:262] == b"ustar":
        raise FatalError(f"{path}: a tar archive; unpack it, or if PyTorch before 0.1.10 wrote it, save it anew with a later one")
    if not any(byte < 9 or 14 <= byte < 32 or byte >= 127 for byte in begin):
        raise FatalError(f"{path}: text, not weights; get the file itself")
    return path


def _is_safetensors(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        begin = file.read(9)
    if path.suffix == ".safetensors" or begin[8:] == b"{":
        return True
    if begin[:4] != b"PK\3\4" and begin[:1] != b"\x80":
        raise FatalError(f"{path}: neither safetensors nor a checkpoint of PyTorch; give a .safetensors, .pt, .pth, .bin or .ckpt file")
    return False


@contextlib.contextmanager
def _safetensors(path: pathlib.Path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        why = " ".join(str(error).split())[:100]
        raise FatalError(f"{path}: cut short or damaged ({path.stat().st_size} bytes; {why}); get the file anew") from None


def _pickle(path: pathlib.Path):
    from avtools.pickles import Checkpoint

    checkpoint = Checkpoint(path)
    if not isinstance(checkpoint.root, dict):
        what = getattr(type(checkpoint.root), "of", "") or type(checkpoint.root).__name__
        raise FatalError(f"{path}: holds one object ({what}), not named tensors; save its state_dict() instead")
    return checkpoint


def _tensor(checkpoint, name: str, view):
    try:
        return checkpoint.tensor(view)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        why = " ".join(str(error).split())[:100]
        raise FatalError(f"{checkpoint.path}: damaged at '{name}' ({why}); get the file anew") from None


# --- loading and saving -----------------------------------------------------------------------------------


def load_strict(module, tensors: Mapping[str, Any], where: str | os.PathLike, ignore: Iterable[str] = ()) -> None:
    """Put `tensors` into `module`; FatalError that lists what is missing, unexpected or of another shape.

    Names in which one of the regular expressions `ignore` is found may be missing, or be unknown to the module.
    Values take the module's dtype and device; a module on the meta device takes over the tensors themselves.
    """
    ignored = [re.compile(pattern) for pattern in ignore]
    expected = module.state_dict()

    def counts(name: str) -> bool:
        return not any(pattern.search(name) for pattern in ignored)

    missing = [name for name in expected if name not in tensors and counts(name)]
    unexpected = [name for name in tensors if name not in expected and counts(name)]
    common = {name: tensors[name] for name in expected if name in tensors}
    shapes = [f"{name} {tuple(t.shape)}, not {tuple(expected[name].shape)}" for name, t in common.items() if t.shape != expected[name].shape]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise FatalError(f"{where}: does not fit {type(module).__name__}; {'; '.join(faults)}; give the checkpoint of this configuration")
    try:
        module.load_state_dict(common, strict=False, assign=any(tensor.is_meta for tensor in expected.values()))
    except RuntimeError as error:
        raise FatalError(f"{where}: does not fit {type(module).__name__} ({' '.join(str(error).split())[:300]})") from None


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file, which appears only when it is whole; FatalError where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from avtools.identity import identity, is_dead
    from avtools.outputs import fsync_path

    path = os.fspath(path)
    folder, name = os.path.split(os.path.abspath(path))
    seen: set[int] = set()
    whole = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()  # the format has no ties
        seen.add(tensor.untyped_storage().data_ptr())
        whole[key] = tensor
    temporary = os.path.join(folder, f".{name}-{identity()}.tmp")
    try:
        for leftover in glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(name)}-*.tmp")):
            with contextlib.suppress(OSError, ValueError):
                if is_dead(os.path.basename(leftover)[len(name) + 2 : -4], leftover):
                    os.unlink(leftover)
        try:
            save_file(whole, temporary, dict(metadata or {}))
            fsync_path(temporary)
            os.replace(temporary, path)
            fsync_path(folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None) or next((int(n) for n in re.findall(r"os error (\d+)", str(error))), 0)
        reason = "the disk is full" if number in (errno.ENOSPC, errno.EDQUOT) else os.strerror(number) if number else " ".join(str(error).split())
        raise FatalError(f"{path}: {reason}; not written; what was written before stays valid; make room or choose another folder") from None


# --- identity and our own checkpoints -----------------------------------------------------------------------


def digest(path: str | os.PathLike) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file's content.

    Of a folder: of the sorted names and digests of the files below it that hold weights or configurations.
    """
    path = pathlib.Path(path)
    try:
        if not path.is_dir():
            status = path.stat()
            return _digest(os.path.realpath(path), status.st_size, status.st_mtime_ns)
        both = "".join(f"{name}\0{digest(file)}\n" for name, file in _files(path) if name.endswith(WEIGHT_SUFFIXES))
        return hashlib.sha256(both.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    except OSError as error:
        raise FatalError(f"{error.filename or path}: {error.strerror}; give the file or folder that holds the weights") from None


@functools.cache
def _digest(path: str, size: int, time: int) -> str:
    """Of large files it is kept in the user's cache, for the next process and for the other ranks, which wait for the first."""
    if size < LARGE:
        return _hashed(path)
    status = os.stat(path)
    identity = f"{path}\0{size}\0{time}\0{status.st_ctime_ns}\0{status.st_dev}\0{status.st_ino}"  # nothing sets the time of change by hand
    folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "avtools", "digests")
    try:
        os.makedirs(folder, exist_ok=True)
        kept = open(os.path.join(folder, hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]), "a+")
    except OSError:  # no home, or one that is not to be written: it works without
        return _hashed(path)
    with kept:
        with contextlib.suppress(OSError):  # a disk that knows no locks
            fcntl.flock(kept, fcntl.LOCK_EX)
        kept.seek(0)
        if not re.fullmatch(r"[0-9a-f]{16}", found := kept.read(17)):
            found = _hashed(path)
            with contextlib.suppress(OSError):
                kept.truncate(0)
                kept.write(found)
                kept.flush()
    return found


def _hashed(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_no_checkpoint(folder: str | os.PathLike) -> None:
    """UsageError where a folder holds a checkpoint already; an unfinished one may be written again."""
    if any((pathlib.Path(folder) / name).exists() for name in ("config.json", "ema.safetensors")):
        raise UsageError(f"{folder}: holds a checkpoint already; choose another folder")


def save_checkpoint(folder: str | os.PathLike, files: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str] | None]], system: str, config: dict) -> None:
    """Write a checkpoint folder of ours: `files` (name -> tensors, metadata), then config.json, without which it is none.

    FatalError where it cannot be written.
    """
    from avtools import __version__
    from avtools.identity import identity

    out = pathlib.Path(folder)
    temporary = out / f".config.json-{identity()}.tmp"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (tensors_, metadata) in files.items():
            save_tensors(out / name, tensors_, metadata)
        temporary.write_text(json.dumps({"system": system, "avtools": __version__, "config": config}, indent=1), encoding="utf-8")
        temporary.replace(out / "config.json")
    except OSError as error:
        raise FatalError(f"{error.filename or out}: {error.strerror}; nothing usable was written; choose another folder") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def checkpoint_of(path: str | os.PathLike) -> pathlib.Path:
    """The checkpoint folder that `path` means: itself, or of a training RUN its best checkpoint, else its newest."""
    path = pathlib.Path(path)
    steps = path / "checkpoints"
    if not steps.is_dir():
        if _is_checkpoint(path):
            return path
        what = "no such folder" if not path.exists() else "neither a checkpoint (config.json and model.safetensors) nor a RUN of avtools train"
        raise FatalError(f"{path}: {what}; give the folder of one")
    best = path / "best.json"
    if best.exists():
        try:
            step = int(json.loads(best.read_text())["step"])
        except (OSError, ValueError, LookupError, TypeError):
            raise FatalError(f"{best}: cannot be read; delete it to use the newest checkpoint, or name a checkpoint below {steps}") from None
        found = steps / f"step-{step:08d}"
        if not _is_checkpoint(found):
            raise FatalError(f"{found}: is not there, but {best} names it; delete that file to use the newest checkpoint")
        return found
    whole = [folder for folder in steps.iterdir() if re.fullmatch(r"step-\d{8,}", folder.name) and _is_checkpoint(folder)]
    if not whole:
        raise FatalError(f"{path}: this RUN has no checkpoint yet; train on, or give another")
    return max(whole, key=lambda folder: int(folder.name[5:]))


def own_folder(path: str | os.PathLike) -> pathlib.Path | None:
    """The checkpoint folder of ours that `path` means: a folder, a RUN, or a file in one; None: somebody else's, of which config.json names no system."""
    path = pathlib.Path(path)
    if path.is_file():
        folder = path.parent if path.name in OWN_FILES and (path.parent / "config.json").is_file() else None
    else:
        folder = checkpoint_of(path) if (path / "checkpoints").is_dir() or _is_checkpoint(path) else None
    try:
        told = None if folder is None else json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return folder  # config_of says what is wrong
    return None if isinstance(told, dict) and "system" not in told else folder


def own_weights(folder: str | os.PathLike) -> pathlib.Path:
    """The weights in a checkpoint folder of ours: the moving average, where there is one."""
    folder = pathlib.Path(folder)
    return next(folder / name for name in ("ema.safetensors", "model.safetensors") if (folder / name).is_file())


def _is_checkpoint(folder: pathlib.Path) -> bool:
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in OWN_FILES[1:])


def config_of(folder: str | os.PathLike) -> dict[str, Any]:
    """The config.json of one of our checkpoints: {"system": name, "avtools": version, "config": {...}}."""
    path = pathlib.Path(folder) / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FatalError(f"{path}: {error.strerror}; give the folder of a checkpoint") from None
    except ValueError:
        raise FatalError(f"{path}: broken, no JSON; get the checkpoint anew") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("system"), str) or not isinstance(facts.get("config"), dict):
        raise FatalError(f"{path}: not the configuration of a checkpoint of avtools ('system' or 'config' is missing)")
    return facts
