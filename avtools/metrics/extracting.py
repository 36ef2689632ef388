"""Networks that metrics share: what one makes of a row's picture, sound or text is worked out once for all that ask for it.

An :class:`Extractor` is a network with all of its settings; a metric of the class :class:`OfFeatures` says which ones it
wants, of what, and makes its numbers of their features.  Features are kept in a folder (:class:`Cache`) under the content of
the file that they are of, and are read from there by whichever command scores that file again.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import zipfile
import zlib
from typing import Any, ClassVar

from avtools import hub
from avtools.errors import FatalError
from avtools.identity import identity
from avtools.metrics import Metric


class Extractor:
    """A network's features of one medium of a row.  An instance holds its settings alone until it is loaded, so it pickles.

    Features depend on the medium's content, the settings and the weights, and on nothing else: not on other rows of a batch.
    """

    name: ClassVar[str]  # also for --weights NAME=
    medium: ClassVar[str]  # "picture", "sound", "text", or "both" (picture and sound)
    version: ClassVar[int] = 1  # of what it computes: another one gives other features
    settings: ClassVar[dict[str, Any]] = {}  # name -> default; all that changes the features
    parts: ClassVar[tuple[hub.Part, ...]] = ()
    requires: ClassVar[tuple[tuple[str, str], ...]] = (("torch", "torch"),)  # (module, package of pip)
    resampler: ClassVar[str | None] = None
    outputs: ClassVar[dict[str, str]]  # name of an array -> what it is, with its shape
    pictures = None  # of those that see: the avtools.metrics.pictures.Pictures

    def __init__(self, **settings):
        self.set = {**self.settings, **settings}

    @property
    def key(self) -> str:
        """Equal for extractors whose features are."""
        return json.dumps([self.name, self.version, self.set], sort_keys=True, default=str)

    def prepare(self, pair, role: str) -> dict[str, Any]:
        """In a worker: the network's input of the row's `role`, name -> array.  Skip: there is nothing to measure."""
        raise NotImplementedError

    def load(self, device, weights) -> None:
        """Get ready to run; `weights`: :class:`avtools.hub.Weights`."""
        raise NotImplementedError

    def run(self, items: list[dict]) -> list[dict]:
        """Features of a batch, one for each item: name -> numpy array."""
        raise NotImplementedError

    def locate(self, weights, part: hub.Part | None = None) -> pathlib.Path:
        """The file or folder of a part's weights: given under the part's name, the extractor's or none, else what was fetched."""
        part = part or self.parts[0]
        names = (part.name, self.name, "") if part is self.parts[0] else (part.name,)
        given = (weights.get(name) for name in names if weights is not None)
        source = next((source for source in given if source is not None), None)
        part = dataclasses.replace(part, optional=False)  # 'avtools fetch PART' gets it
        path = hub.locate(source, dataclasses.replace(part, source=source) if source is not None and source.startswith("hf:") else part, part.name)
        if path.is_dir() and len(part.files) == 1 and (path / part.files[0]).is_file():
            return path / part.files[0]
        return path

    def weights_digest(self, weights) -> str:
        """What identifies the weights."""
        found = [hub.digest(self.locate(weights, part)) for part in self.parts]
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()[:16]

    def __getstate__(self):
        return {"set": self.set}


class OfFeatures(Metric):
    """A metric made of extractors' features: :meth:`row` or :meth:`features` gets {name in wants(): {array's name: array}}."""

    network = True
    released_run = False
    extractors: ClassVar[tuple[type[Extractor], ...]]  # all that it may use, whatever the settings

    def __init_subclass__(cls, **more):
        super().__init_subclass__(**more)
        used = cls.__dict__.get("extractors")
        if used is not None:
            cls.parts = tuple(dict.fromkeys(part for one in used for part in one.parts))
            if "requires" not in cls.__dict__:
                cls.requires = tuple(dict.fromkeys(pair for one in used for pair in one.requires))

    def wants(self) -> dict[str, tuple[Extractor, str]]:
        """Name -> (extractor, role that it is of), by the settings; the extractors are the same each time."""
        raise NotImplementedError

    @property
    def weights_names(self):
        return tuple(dict.fromkeys(name for one in self.extractors for name in (one.name, *(part.name for part in one.parts))))

    def expects(self):
        return [one for extractor, role in self.wants().values() for one in expected(extractor, role)]

    def weights_digest(self, weights):
        return {extractor.name: extractor.weights_digest(weights) for extractor, _ in self.wants().values()}


PICTURE_OF = {"audio": "video", "reference_audio": "reference_video"}  # a pair of both is called by its sound's role
FACTS = {"video": "picture", "audio": "sound", "reference_video": "reference picture", "reference_audio": "reference sound"}  # of Pair.facts


def media_of(extractor: Extractor, role: str) -> tuple[str, ...]:
    """The roles of the files that its features are of."""
    if extractor.medium == "text":
        return ()
    return (PICTURE_OF[role], role) if extractor.medium == "both" else (role,)


def expected(extractor: Extractor, role: str) -> list[tuple]:
    """(role, watch) of what an extractor sees."""
    return [] if extractor.pictures is None else [(PICTURE_OF.get(role, role), extractor.pictures)]


def facts_of(extractor: Extractor, pair, role: str) -> dict:
    """What the summary tells of the media that the features are of."""
    names = [*(FACTS[one] for one in media_of(extractor, role)), extractor.name]
    return {name: pair.facts[name] for name in names if name in pair.facts}


TOLD = "facts"  # the name of the facts' array in a file of the cache


class Cache:
    """Features on disk: a file for each medium and extractor, named by a hash of what they depend on, whole or not there.

    A broken file counts as none.  `digests`: extractor's key -> its weights' digest, found in the process of the model.
    """

    def __init__(self, folder: str, digests: dict[str, str]):
        self.folder, self.digests = pathlib.Path(folder), digests

    def place(self, extractor: Extractor, pair, role: str) -> pathlib.Path | None:
        """Where the features of this row's `role` are, or will be; RowError where they would be compared with themselves."""
        for one in media_of(extractor, role):
            if one.startswith("reference_"):
                pair.check_reference(one.removeprefix("reference_"))
        if extractor.medium == "text":
            content = [hashlib.blake2b(pair.words(role).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()]
        else:
            content = [
                [pair.keep(("content", path), functools.partial(_content, path)), *pair.span(one)]
                for one in media_of(extractor, role)
                for path in [pair.file(one)]
            ]
        name = hashlib.blake2b(json.dumps([extractor.key, self.digests[extractor.key], content]).encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.npz"

    @staticmethod
    def read(place: pathlib.Path) -> tuple[dict, dict] | None:
        """Arrays, and the facts of the media that they are of."""
        import numpy as np

        try:
            with np.load(place, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return arrays, json.loads(bytes(arrays.pop(TOLD)))
        except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
            return None  # RuntimeError: seems to be encrypted, or packed in an unknown way

    def write(self, place: pathlib.Path, arrays: dict, facts: dict) -> None:
        """FatalError where it cannot be written."""
        import numpy as np

        made = io.BytesIO()
        np.savez(made, **arrays, **{TOLD: np.frombuffer(json.dumps(facts).encode(), np.uint8)})
        temporary = place.with_name(f"{place.name}.{identity()}.tmp")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(made.getbuffer())
                os.replace(temporary, place)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise FatalError(f"--cache {self.folder}: {error.strerror}; free space, or give another folder") from None


def _content(path: str) -> str:
    """A hash of a file's bytes."""
    from avtools.errors import MediaError
    from avtools.media.container import show

    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise MediaError(f"{show(path)}: {error.strerror}") from None
