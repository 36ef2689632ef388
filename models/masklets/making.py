"""The rows of `avtools masklets`: what a row asks for, what is done to it in the workers and by the networks, what becomes of it."""

import json
import math
import os
import pathlib
import shutil
import tempfile
from fractions import Fraction

from avtools.engine import Items
from avtools.errors import FatalError, RowError
from avtools.media.container import show
from avtools.outputs import Want, place
from avtools.rows.keys import PLACEHOLDER, path_of

from . import DINO, SAM2, annotations, flow, selection, writing
from .reading import Shape, ahead, pictures, shape_of

KINDS = ("masklet", "mask", "meta")  # of files of an object


# --- what a row asks for ------------------------------------------------------------------------------------


def source(row: dict, options: dict) -> tuple[str, str | None]:
    """The row's video, and the file that says where its objects are; None where its queries do."""
    path = path_of(row, "video_path" if not row.get("path") and row.get("video_path") else "path")
    if os.path.basename(path) == PLACEHOLDER:
        raise RowError("the row has no picture; give videos")
    if options["mask_column"]:
        return path, path_of(row, options["mask_column"])
    column = options["annotation_column"]
    if column and row.get(column) not in (None, ""):
        return path, path_of(row, column)
    beside = annotations.beside(path)
    if not column and os.path.isfile(beside):
        return path, beside
    lacking = f"column '{column}' is empty" if column else f"there is no {show(beside)}"
    if options["method"] == "interpolate":
        raise RowError(f"{show(path)}: has no annotations ({lacking}), without which --method interpolate cannot work; give them, or use --method sam2 --query TEXT")
    if not asked(row, options):
        empty = f" (column '{options['query_column']}' is empty)" if options["query_column"] else ""
        raise RowError(f"{show(path)}: has neither annotations ({lacking}) nor a query{empty}; give --query TEXT or --query-column COLUMN")
    return path, None


def asked(row: dict, options: dict) -> list[str]:
    """The row's queries, each once."""
    column = options["query_column"]
    cell = row.get(column) if column else None
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            raise RowError(f"column '{column}': {cell[:80]!r} is no JSON list of texts; give a text, or a JSON list of them") from None
    own = [] if cell is None else cell if isinstance(cell, list) else [cell]
    if not all(isinstance(query, str) for query in own):
        raise RowError(f"column '{column}' holds something else than texts; give a text, or a JSON list of them")
    return list(dict.fromkeys(query.strip() for query in [*options["queries"], *own] if query.strip(" .\t\r\n")))


def wants(row: dict, options: dict) -> list[Want]:
    path, known = source(row, options)
    stem = place(row, path)
    files = (path,) if known is None else (path, known)
    detail = "" if known is not None else json.dumps(asked(row, options))
    endings = _endings(options)
    found = [Want("objects", files, (".json",), relpath=f"{stem}_objects", detail=detail)]
    for k in range(1 if options["mask_column"] else options["max_objects"]):
        found += [Want(f"{kind} {k}", files, (endings[kind],), relpath=f"{stem}_{kind}_{k:03d}", detail=detail) for kind in KINDS]
    return found


def _endings(options: dict) -> dict[str, str]:
    return {"masklet": ".mp4", "mask": writing.mask_suffix(options["legacy"]), "meta": ".json"}


# --- in the workers -----------------------------------------------------------------------------------------


def row_by_itself(row: dict, maker, options: dict) -> list[dict] | None:
    """A row whose objects need no network."""
    there = reused(maker)
    if there is not None:
        return there
    path, known = source(row, options)
    shape = shape_of(path)
    if options["method"] == "given":
        reason = _too_large(path, shape, options)
        found = [] if reason else [selection.Found(0, annotations.of_video(known, path, shape))]
    else:
        objects, reason = _annotated(path, known, shape, options)
        found = flow.carried(objects, pictures(path, shape, gray=True), shape) if objects else []
    return write(path, shape, found, reason, maker, options)


def item(row: dict, maker, options: dict) -> Items:
    """What the networks are to do for a row; nothing where its files are there, or where nothing is to be seen."""
    if _is_there(maker):
        return Items([])
    path, known = source(row, options)
    shape = shape_of(path)
    objects, queries, reason = None, [], ""
    if known is not None:
        objects, reason = _annotated(path, known, shape, options)
    else:
        reason = _too_large(path, shape, options)
        queries = [] if reason else asked(row, options)
    if objects or queries:
        for _ in pictures(path, shape, gray=True):
            pass  # a file that crashes its decoder does so here, and not in the process of the networks
    every = max(1, math.ceil(Fraction(options["detect_every"]) * shape.fps))
    return Items([{"path": path, "shape": tuple(shape), "objects": objects, "queries": queries, "reason": reason, "every": every}])


def finish(row: dict, results: list[dict], maker, options: dict) -> list[dict] | None:
    """Write what the networks saw."""
    if not results:
        return reused(maker)
    (result,) = results
    found = result["found"] if result["annotated"] else selection.large_enough(result["found"], options["min_size"])
    return write(result["path"], Shape(*result["shape"]), found, result["reason"], maker, options)


def _annotated(path: str, known: str, shape: Shape, options: dict) -> tuple[list[annotations.Annotated], str]:
    limits = {"least": options["min_size"], "most": options["max_objects"], "resolution": options["max_resolution"]}
    return annotations.read(known, path, shape, every=options["every"], **limits)


def _too_large(path: str, shape: Shape, options: dict) -> str:
    if shape.height * shape.width <= options["max_resolution"]:
        return ""
    return f"{show(path)}: {shape.width}x{shape.height} is more than --max-resolution {options['max_resolution']}"


def _is_there(maker) -> bool:
    """Whether all files of the row need not be made; its index is written last."""
    index = maker.reusable("objects")
    return index is not None and all(maker.reusable(f"{kind} {k}") for k in range(index.columns["objects"]) for kind in KINDS)


def reused(maker) -> list[dict] | None:
    """The rows of a row all of whose files are there; None where they are not."""
    if not _is_there(maker):
        return None
    return _rows(maker, maker.reusable("objects").columns, lambda name: (_vanished, _nothing))


def write(path: str, shape: Shape, found: list[selection.Found], reason: str, maker, options: dict) -> list[dict]:
    """Write the objects that are seen for long enough; the rows that they make, none where there is none, and why."""
    kept = [one for one in found if selection.span(one.masks)]
    if not kept and not reason:
        reason = f"{show(path)}: no object is seen for {selection.LEAST + 1} frames from first to last"
    endings = _endings(options)
    with tempfile.TemporaryDirectory(prefix="avtools-masklets-") as folder:  # one pass over the video writes all of them
        metas = writing.write(path, shape, kept, folder, legacy=options["legacy"], size=options["side"])

        def how(name: str):
            kind, _, k = name.partition(" ")
            if kind == "objects":
                return (lambda out, suffix: writing.save_json(index, out)), (lambda out: index)
            if kind != "meta":
                return (lambda out, suffix: _copy(os.path.join(folder, f"{kind}_{k}{endings[kind]}"), out)), _nothing
            return (lambda out, suffix: writing.save_json(metas[int(k)], out)), (lambda out: _cells(metas[int(k)], shape))

        index = {"objects": len(kept), "reason": reason}
        return _rows(maker, index, how)


def _rows(maker, index: dict, how) -> list[dict] | None:
    """`how(name)`: how to build and how to measure a file that is not there."""
    cells = []
    for k in range(index["objects"]):
        made = {kind: maker.make(f"{kind} {k}", *how(f"{kind} {k}")) for kind in KINDS}
        cells.append({**{f"{kind}_path": made[kind].path for kind in KINDS}, **made["meta"].columns})
    maker.make("objects", *how("objects"))
    if not cells:
        maker.why.append(index["reason"])
        return None
    return cells


def _cells(meta: dict, shape: Shape) -> dict:
    names = {"object": "object", "query": "query", "first_frame": "first_frame", "box": "crop_bbox", "visible": "visible"}
    return {**{column: meta[name] for column, name in names.items()}, "visible_share": sum(meta["visible"]) / shape.frames}


def _copy(made: str, out: str) -> None:
    shutil.copyfile(made, out)


def _nothing(out: str) -> dict:
    return {}


def _vanished(out: str, suffix: str) -> None:
    raise RowError(f"{show(out)}: was removed while it was looked at; run again")


# --- the networks -------------------------------------------------------------------------------------------


def load(folders: dict[str, str], precision: str, batch: int, options: dict, say=None):
    """The networks of `folders` (part -> folder), and the function from items to what they see."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise FatalError(f"{error.name} is not installed; pip install 'avtools[models]', or use --method interpolate") from None
    from avtools.sampling import device

    from .tracking import Tracker

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    where = device()
    if where.type == "cpu" and dtype is torch.float16:
        raise FatalError("--precision fp16 needs a GPU, and there is none; use bf16 or fp32")
    tracker = Tracker(pathlib.Path(folders[SAM2.name]), where, dtype, batch, say)
    detector = None
    if DINO.name in folders:
        from .detecting import Detector

        detector = Detector(pathlib.Path(folders[DINO.name]), where)

    def follow(one: dict) -> dict:
        shape, found = Shape(*one["shape"]), []
        shown = lambda: ahead(pictures(one["path"], shape, threads=2))  # noqa: E731
        if one["objects"]:
            found = tracker.follow(one["objects"], shown(), shape)
        elif one["queries"]:
            found = tracker.search(detector, one["queries"], shown(), shape, every=one["every"], threshold=options["threshold"], most=options["max_objects"])
        return {**{name: one[name] for name in ("path", "shape", "reason")}, "annotated": one["objects"] is not None, "found": found}

    return lambda items: [follow(one) for one in items]
