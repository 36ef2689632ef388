"""Tensors out of pickled checkpoints (`torch.save`), and nothing else out of them.

A pickle is a program that calls what it names.  Here nothing that it names is ever imported: unpickling gives
plain Python values, :class:`View` for a tensor and :class:`Foreign` for all else, and only then are the tensors
made, from a memory map of the file.  Both layouts that torch has written since 0.1.10 are read: the zip archive
and the older sequence of pickles followed by the raw storages.
"""

import dataclasses
import io
import math
import pathlib
import pickle
import struct
import zipfile

from avtools.errors import FatalError

MAGIC = 0x1950A86A20F9469CFC6C  # begins torch's older layout
KINDS = {  # the class by which a pickle names a storage -> its dtype
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}


class Foreign:
    """Stands for an object that is neither a tensor nor a plain value; takes what a pickle does to it and keeps nothing."""

    of = ""  # module.name that the pickle gave

    def __new__(cls, *_, **__):
        return object.__new__(cls)

    def __init__(self, *_, **__):
        pass

    def __setstate__(*_):  # also of the class itself, where a pickle sets the state of a class
        pass

    def _nothing(self, *_, **__):
        return None

    append = extend = add = __setitem__ = _nothing

    def __call__(self, *_, **__):
        return Foreign()


class Mapping(dict):
    """An OrderedDict of the pickle, without the attributes that it may carry."""

    def __setstate__(*_):
        pass


@dataclasses.dataclass(slots=True, eq=False)
class Storage:
    key: str
    dtype: str
    count: int  # of elements
    skip: int = 0  # elements before it in the storage of this key (views, in the older layout)

    def __setstate__(*_):
        pass


@dataclasses.dataclass(slots=True, eq=False)
class View:
    """A tensor that has not been made yet; offset and stride in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    def __setstate__(*_):
        pass


class _Kind(str):
    """A class of storages: its dtype."""

    def __setstate__(*_):
        pass


class _Rebuild:
    """In the place of a function of torch that makes a tensor: gives the :class:`View` that its arguments describe."""

    def __init__(self, function):
        self.function = function

    def __setstate__(*_):
        pass

    def __call__(self, *args):
        return self.function(*args)


def _view(storage, offset, size, stride, *_):
    return View(storage, offset, tuple(size), tuple(stride), storage.dtype)


def _view_v2(storage, offset, size, stride, grad, hooks, metadata=None):
    return Foreign() if metadata else _view(storage, offset, size, stride)  # conjugated or negated lazily: nobody's weights


def _view_v3(storage, offset, size, stride, grad, hooks, dtype, metadata=None):
    return View(storage, offset, tuple(size), tuple(stride), dtype.of.removeprefix("torch."))


REBUILD = {
    "torch._utils._rebuild_tensor": _Rebuild(_view),
    "torch._utils._rebuild_tensor_v2": _Rebuild(_view_v2),
    "torch._utils._rebuild_tensor_v3": _Rebuild(_view_v3),
    "torch._utils._rebuild_parameter": _Rebuild(lambda data, *_: data),
    "torch._utils._rebuild_parameter_with_state": _Rebuild(lambda data, *_: data),
    "torch._tensor._rebuild_from_type_v2": _Rebuild(lambda made_by, of, args, *_: made_by(*args)),
    "torch.Size": _Rebuild(lambda size=(): tuple(size)),
}


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C allocates whatever a file asks for
    def __init__(self, file):
        super().__init__(file, encoding="utf-8", errors="replace")
        self.kinds: dict[str, str] = {}  # key of a storage -> dtype

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return Mapping
        if module in ("torch", "torch.cuda", "torch.storage") and name in KINDS:
            return _Kind(KINDS[name])
        known = REBUILD.get(f"{module}.{name}")
        return known or type("Foreign", (Foreign,), {"of": f"{module}.{name}"})

    def persistent_load(self, saved):
        if saved[0] != "storage":
            return Foreign()  # the source of a module's class, in the older layout
        _, kind, key, _, count, *view = saved
        if not isinstance(kind, _Kind):
            return Foreign()  # of a quantised type
        self.kinds[str(key)] = str(kind)
        if view and view[0]:
            _, skip, count = view[0]
            return Storage(str(key), str(kind), count, skip)
        return Storage(str(key), str(kind), count)


class Checkpoint:
    """A pickled checkpoint: `root` is what was saved, with a :class:`View` for each tensor.

    FatalError, naming the file: it is cut short, damaged, or something else than a checkpoint.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.bytes = path.stat().st_size
        self.places: dict[str, tuple[int, int]] = {}  # key of a storage -> its first byte, how many bytes
        self._map = None
        self._storages: dict[tuple[str, str], object] = {}
        with open(path, "rb") as file:
            begin = file.read(4)
            file.seek(0)
            try:
                self.root = self._zip(file) if begin == b"PK\3\4" else self._sequence(file)
            except (EOFError, pickle.UnpicklingError, struct.error) as error:
                raise self._damaged("cut short or damaged", error) from None
            except (MemoryError, RecursionError, LookupError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
                raise self._damaged("damaged, or no checkpoint", error) from None

    def _damaged(self, what: str, error: object = None) -> FatalError:
        why = " ".join(str(error).split())[:100] if error is not None else ""
        return FatalError(f"{self.path}: {what} ({self.bytes} bytes{f'; {why}' if why else ''}); get the file anew")

    def _zip(self, file):
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError):
            raise self._damaged("cut short: the archive has no end") from None
        entries = {entry.filename: entry for entry in archive.infolist()}
        names = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if not names:
            raise FatalError(f"{self.path}: a zip archive that holds no checkpoint (no data.pkl); give the file that is in it")
        folder = names[0].removesuffix("data.pkl")
        if folder + "constants.pkl" in entries:
            raise FatalError(f"{self.path}: TorchScript, a program, not a checkpoint; give the file of its weights")
        for name, entry in entries.items():
            if name in names or name.startswith(folder + "data/") or name == folder + "byteorder":
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise FatalError(f"{self.path}: its archive was compressed afterwards; give the file as it was saved")
                file.seek(entry.header_offset)
                header = file.read(30)
                start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
                if start + entry.file_size > self.bytes:
                    raise self._damaged("cut short")
                self.places[name.removeprefix(folder).removeprefix("data/")] = start, entry.file_size
        if "byteorder" in self.places and self._read(file, "byteorder") != b"little":
            raise FatalError(f"{self.path}: saved on a big-endian machine; save it as safetensors there")
        return _Unpickler(io.BytesIO(self._read(file, "data.pkl"))).load()

    def _read(self, file, name: str) -> bytes:
        start, count = self.places[name]
        file.seek(start)
        return file.read(count)

    def _sequence(self, file):
        if _Unpickler(file).load() != MAGIC:
            raise FatalError(f"{self.path}: a pickle that torch.save did not write; give a checkpoint (.safetensors, .pt, .bin, .ckpt)")
        _version, _system = _Unpickler(file).load(), _Unpickler(file).load()
        unpickler = _Unpickler(file)
        root = unpickler.load()
        keys = _Unpickler(file).load()
        for key in map(str, keys):
            (count,) = struct.unpack("<q", file.read(8))
            start, length = file.tell(), count * _dtype(unpickler.kinds[key]).itemsize
            if count < 0 or start + length > self.bytes:
                raise self._damaged("cut short or damaged")
            self.places[key] = start, length
            file.seek(start + length)
        return root

    def tensor(self, view: View):
        """The tensor of a view: memory-mapped, private to this process; ValueError where it leaves its storage."""
        import torch

        dtype, storage = _dtype(view.dtype), view.storage
        numbers = (storage.skip, storage.count, view.offset, *view.size, *view.stride)
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) or len(view.size) != len(view.stride):
            raise ValueError("a tensor without a possible shape")
        if math.prod(view.size) == 0:
            return torch.empty(view.size, dtype=dtype)
        last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
        skipped = storage.skip * _dtype(storage.dtype).itemsize
        if skipped + (last + 1) * dtype.itemsize > self.places[storage.key][1]:
            raise ValueError("a tensor larger than its data")
        offset, rest = divmod(skipped, dtype.itemsize)
        if rest:
            raise ValueError("a tensor between two elements")
        return torch.empty(0, dtype=dtype).set_(self._storage(storage.key), offset + view.offset, view.size, view.stride)

    def _storage(self, key: str):
        """The bytes of a storage; the same object each time, so that tied tensors stay so."""
        import torch

        if self._map is None:
            self._map = torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=self.bytes)
        if key not in self._storages:
            start, count = self.places[key]
            storage = self._map[start : start + count]
            self._storages[key] = storage.clone() if start % 16 else storage  # the older layout aligns nothing
        return self._storages[key]


def _dtype(name: str):
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no dtype '{name[:40]}'")
    return dtype
