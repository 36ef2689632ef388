"""What frozen encoders make of a row, computed once: a safetensors file of arrays beside the table.

The file's metadata hold one JSON object: this format's version and the encoders' names, digests and options
(`System.encoder_facts`), which whoever reads the file compares with its own.
"""

import contextlib
import functools
import json

from avtools.engine import Items, Model
from avtools.errors import MediaError
from avtools.outputs import Want

VERSION = 1
BATCH_SIZE = 8
REMEDY = "make it anew with 'avtools features'"


def write(path, arrays: dict, facts: dict[str, str]) -> None:
    """Write `arrays` (name -> numpy array) with the encoders' `facts` to `path`."""
    import numpy as np
    from safetensors.numpy import save

    # one entry: the order of several is not always the same
    text = json.dumps({"version": VERSION, "encoder": facts}, sort_keys=True)
    whole = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    with open(path, "wb") as file:
        file.write(save(whole, {"avtools": text}))


def read(path, facts: dict[str, str] | None = None, whole: bool = True) -> dict:
    """The arrays of a features file.

    MediaError where it is none or damaged, or where its encoders are not those of `facts` (None: any will do; not `whole`: it may
    tell more than those).
    """
    with _opened(path) as (file, found):
        if facts is not None and not whole:
            found = {name: found[name] for name in facts if name in found}
        if facts is not None and found != facts:
            raise MediaError(f"{path}: made by other encoders ({_difference(found, facts)}); {REMEDY}")
        return {name: file.get_tensor(name) for name in file.keys()}


def told(path) -> dict[str, str]:
    """What a features file says of the encoders that made it; MediaError where it is none or damaged."""
    with _opened(path) as (_, found):
        return dict(found)


@contextlib.contextmanager
def _opened(path):
    """(the open file, its encoders' facts)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            both = json.loads((file.metadata() or {})["avtools"])
            version, found = both["version"], both["encoder"]
            if version != VERSION:
                raise MediaError(f"{path}: features of format {version}, and this program reads {VERSION}; {REMEDY}")
            yield file, found
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise MediaError(f"{path}: no features file, or a damaged one; {REMEDY}") from None


def _difference(found: dict, wanted: dict) -> str:
    names = [name for name in dict.fromkeys([*wanted, *found]) if found.get(name) != wanted.get(name)]
    return "; ".join(f"{name} is {found.get(name, 'not there')}, not {wanted.get(name, 'there')}" for name in names)


def work(system, weights, *, batch_size: int | None = None):
    """The :class:`avtools.stream.Work` of computing `system`'s features."""
    from avtools.sampling import Told, config_digest, configured_batch, readable
    from avtools.stream import Work

    plain, told = system.feature_options(), Told(None)
    options = {"item": system.feature_item, "plain": plain, "reads": tuple(system.encodes) or readable(system)}
    return Work(
        item,
        options,
        columns=("features_path",),
        needs=system.needs,
        wants=wants,
        operation=f"features-{system.name}/{VERSION}",
        identity={"options": plain, "config": config_digest(system.config), "weights": system.encoders_digest(weights)},
        model=Model(functools.partial(_load, system, weights), batch_size or configured_batch(system.config) or BATCH_SIZE, finish),
        preload=(type(system).__module__,),
        sees=told.see,
        report=told.lines,
    )


def _load(system, weights):
    import torch

    from avtools.sampling import device, noted

    system.load_encoders(weights, device(), torch.float32)
    facts = system.encoder_facts()

    def encode(items: list[dict]) -> list[dict]:
        with torch.inference_mode():
            made = system.encode(items)
        return [{"arrays": arrays, "facts": facts, "cells": cells} for arrays, cells in zip(made, noted(system, len(items)), strict=True)]

    return encode


def wants(row: dict, options: dict) -> list[Want]:
    from avtools.sampling import sources, stem

    files, cells = sources(row, options["reads"])
    detail = "\0".join(f"{name}={cell}" for name, cell in cells.items())
    return [Want("features_path", files, (".safetensors",), relpath=stem(row, files), detail=detail)]


def item(row: dict, maker, options: dict):
    return Items([]) if maker.reusable("features_path") else options["item"](row, options["plain"])


def finish(row: dict, results: list[dict], maker, options: dict) -> dict:
    from avtools.sampling import why

    made = maker.make("features_path", lambda out, suffix: write(out, results[0]["arrays"], results[0]["facts"]), lambda path: results[0]["cells"])
    maker.why += why(row, made.columns)
    return {"features_path": made.path, **made.columns}
