"""One sampler for all systems: rows to batches, a seed for each sample, media written beside the table.

Workers decode what a system's `condition` asks for, the process of the model generates in batches, workers write.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import tempfile

from avtools.engine import Items, Model
from avtools.errors import FatalError, RowError, UsageError
from avtools.outputs import Want, place, safe_relpath, strip_suffix
from avtools.rows.keys import PLACEHOLDER, key_of, path_of

BATCH_SIZE = 8  # where the system's configuration says nothing
FEATURES = (".safetensors", ".npy", ".h5", ".hdf5")  # suffixes of files that a row without picture is named after
PRECISIONS = ("fp32", "bf16", "fp16")
MERGED = {"stem_path": "stem_paths", "query": "queries"}  # of rows that are one with --group-by: a column of each -> that of all, a list
HAND = {"video": "path", "image": "image_path", "audio": "audio_path", "text": "text"}  # option -> column


def sample_seed(seed: int, key: str, index: int) -> int:
    """The seed of a row's sample: 63 bits that depend on nothing else than these."""
    text = f"{seed}\0{index}\0{key}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def device():
    """The `torch.device` of this rank."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    torch.cuda.set_device(local % torch.cuda.device_count())
    return torch.device("cuda", local % torch.cuda.device_count())


def row_by_hand(given: dict[str, str | None]) -> dict | None:
    """The row that --video, --image, --audio and --text make; None where none is given."""
    row = {column: given[option] for option, column in HAND.items() if given[option] is not None}
    if row and not any(column.endswith("path") for column in row):
        row["id"] = re.sub(r"[^\w]+", "-", row["text"].lower()).strip("-")[:60] or "sample"
    return row or None


def grouped(inputs, from_format: str | None, column: str, needs: tuple[str, ...] = ()):
    """`records` of a Work: consecutive rows of a table with the same `column` as one, see :func:`merged`; `needs` as a Work has them."""
    from avtools import rows

    def records(stdin):
        source = rows.open_rows(inputs, from_format, stdin=stdin)
        have = ", ".join(source.columns) or "none"
        if column not in source.columns and (source.columns or source.format != "jsonl"):  # each row by itself would make something else
            raise UsageError(f"--group-by {column}: the table has no such column (it has: {have})")
        if needs and source.format != "jsonl" and not set(needs) & set(source.columns):
            raise UsageError(f"the table has no column {' or '.join(map(repr, needs))} (it has: {have})")
        header = list(dict.fromkeys(MERGED.get(name, name) for name in source.columns))
        header += ["id"] * (not {"relpath", "id"} & set(header))
        return header, source.format, (merged(group, column) for group in rows.consecutive_groups(source, column))

    return records


def merged(group: list, column: str):
    """Records of one group -> one record: what all rows say alike, and lists of what :data:`MERGED` names; other cells become empty.

    A list has something of each row, an empty text where it has nothing, so that lists belong together; a row with nothing of any list is in
    none.  A row that came with an `error` makes all of them one that did.  The key is that of the rows where they have one in common, else
    the group's.
    """
    from avtools.rows import Record

    rows_ = [record.row for record in group]
    names = dict.fromkeys(name for row in rows_ for name in row)
    row = {name: rows_[0].get(name) if all(one.get(name) == rows_[0].get(name) for one in rows_) else "" for name in names if name not in MERGED}
    parts = [one_row for one_row in rows_ if any(one_row.get(one) not in (None, "") for one in MERGED)]
    for one, all_ in MERGED.items():
        if any(part.get(one) not in (None, "") for part in parts):
            row[all_] = ["" if part.get(one) is None else part[one] for part in parts]
    if not row.get("relpath") and not row.get("id") and row.get(column) not in (None, ""):
        row["relpath" if "relpath" in row and "id" not in row else "id"] = str(row[column])
    faults = [one_row["error"] for one_row in rows_ if one_row.get("error")]
    if faults:
        row["error"] = faults[0]
    return Record(row, group[0].origin)


def work(
    system, weights, given: dict, *, samples: int = 1, batch_size: int | None = None, seed: int = 0, key: str | None = None,
    precision: str = "fp32", mux: bool = False, row: dict | None = None, records=None,
):  # fmt: skip
    """The :class:`avtools.stream.Work` of sampling from `system` (an `avtools.system.System`).

    `given`: steps, guidance, scheduler.  `samples` of each row; `key`: the column of the rows' keys.  `row`: one
    made by hand, in place of a table; `records`: those of :func:`grouped`.
    """
    from avtools.rows import Record
    from avtools.stream import Work

    if mux and "sound" not in system.makes:
        raise UsageError(f"{system.name} makes no sound; leave out --mux")
    plain = system.sample_options(given)
    unread = [f"--{option}" for option, column in HAND.items() if row and column in row and column not in readable(system)]
    if unread:
        raise UsageError(f"{system.name}, as it is configured, does not read {' and '.join(unread)}; leave {'it' if len(unread) == 1 else 'them'} out")
    sound, picture = "sound" in system.makes, "picture" in system.makes
    options = {
        "condition": system.condition,
        "plain": plain,
        "reads": readable(system),
        "sound": sound,
        "picture": picture,
        "mux": mux,
        "samples": samples,
        "per_sample": system.clip_per_sample,
        "seed": seed,
        "key": key,
    }
    size, told = batch_size or configured_batch(system.config) or BATCH_SIZE, Told(key)
    columns = ["generated_audio_path"] * sound + ["generated_path"] * (picture or mux) + [*system.sets] + ["group"] * (samples > 1)
    if row is not None:
        records = lambda stdin: (list(row), "csv", [Record(row, "options")])  # noqa: E731
    return Work(
        item if sound or picture else unwritten,
        options,
        columns=columns,
        needs=system.needs,
        wants=wants if sound or picture else None,
        operation=f"sample-{system.name}/1",
        identity={"options": plain, "config": config_digest(system.config), "weights": system.weights_digest(weights), "seed": seed, "precision": precision},
        model=Model(functools.partial(_load, system, weights, precision, plain), size, finish),
        records=records,
        preload=("avtools.media.video", "avtools.media.soundfiles", type(system).__module__),
        sees=told.see,
        report=told.lines,
    )


# --- what there is to tell of rows ------------------------------------------------------------------------

NOTES = "\0notes"  # the cell in which notes go to the end of the command, from the process of the model or with a file that is there
NAMED = 3  # rows that are named; --why names all


class Told:
    """Counts the rows of which a system notes something (`System.notes`), by what; `key`: the column of the rows' keys."""

    def __init__(self, key: str | None):
        self.key, self.found = key, {}

    def see(self, row: dict) -> None:
        for what in row.get(NOTES) or ():
            count, names = self.found.get(what, (0, []))
            self.found[what] = count + 1, names if len(names) == NAMED else [*names, _name(row, self.key)]

    def lines(self) -> list[str]:
        return [f"rows with {what}: {count} ({', '.join(names)}{', ...' if count > len(names) else ''})" for what, (count, names) in sorted(self.found.items())]


def noted(system, count: int) -> list[dict]:
    """Of each of the `count` items that the system worked on last the cell {:data:`NOTES`: {what: detail}}, or nothing."""
    found: list[dict] = [{} for _ in range(count)]
    for place, what, detail in system.notes():
        found[place].setdefault(NOTES, {})[what] = detail
    return found


def why(row: dict, cells: dict, key: str | None = None) -> list[str]:
    """What --why says of a row's notes."""
    return [f"{_name(row, key)}: one with {what} ({detail})" for what, detail in cells.get(NOTES, {}).items()]


def _name(row: dict, key: str | None) -> str:
    try:
        return sample_key(row, key)
    except RowError:
        return "a row without a key"  # no reason to lose it


def readable(system) -> tuple[str, ...]:
    """The columns on which a row's outputs may depend: those that `system.reads` names, else `system.needs`."""
    return tuple(system.reads) or system.needs


def config_digest(config) -> str:
    """What identifies a configuration, but for how it trains and how it samples (those options count by themselves)."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("train", "sampling")}
    return hashlib.blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def configured_batch(config) -> int | None:
    size = getattr(getattr(config, "sampling", None), "batch_size", None)
    if size is not None and size < 1:
        raise UsageError(f"sampling.batch_size {size}: 1 at least")
    return size


def _load(system, weights, precision: str, options: dict):
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    where = device()
    if where.type == "cpu" and dtype is torch.float16:
        raise FatalError("--precision fp16 needs a GPU, and there is none; use bf16 or fp32")
    system.load(weights, where, dtype)

    def generate(items: list[dict]) -> list[dict]:
        with torch.inference_mode():
            made = system.generate([item["condition"] for item in items], [item["seed"] for item in items], options)
        notes = noted(system, len(items))
        return [
            {**result, "index": item["index"], "cells": {**item["cells"], **result.get("cells", {}), **note}}
            for item, result, note in zip(items, made, notes, strict=True)
        ]

    return generate


# --- what a row asks for --------------------------------------------------------------------------------


def sources(row: dict, columns: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Of the `columns` that a system reads, the files that the row has, and the other cells that are not empty."""
    files, cells = [], {}
    for column in columns:
        if row.get(column) in (None, ""):
            continue
        if column.endswith("_paths"):
            files += listed(row, column)
        elif column == "objects":
            files += [] if row.get("stem_paths") else [thing["stem_path"] for thing in objects_of(row)]
            cells[column] = str(row[column])
        elif column != "path" and not column.endswith("_path"):
            cells[column] = str(row[column])
        elif os.path.basename(path_of(row, column)) != PLACEHOLDER:
            files.append(row[column])
    if not files and not cells:
        raise RowError(f"the row has none of {', '.join(columns)}")
    return tuple(dict.fromkeys(files)), cells


def listed(row: dict, column: str) -> list[str]:
    """The texts of a cell that is a list, or a JSON list; a text by itself is one.  RowError where it holds anything else."""
    value = row.get(column)
    if value in (None, "", []):
        return []
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except ValueError:
            pass  # a text that begins with a bracket
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one and "\0" not in one for one in several):
        raise RowError(f"column {column}: {str(value)[:80]!r} is no list of texts, each with something in it")
    return several


def objects_of(row: dict) -> list[dict]:
    """The `objects` of a synthetic scene, a list or a JSON list, each with a `class` and a `stem_path`; RowError where they are something else."""
    things = row.get("objects") or []
    if isinstance(things, str):
        try:
            things = json.loads(things)
        except ValueError:
            things = None
    if not isinstance(things, list) or not all(isinstance(thing, dict) and "class" in thing and isinstance(thing.get("stem_path"), str) for thing in things):
        raise RowError("column objects: is no list of objects with class and stem_path, as 'avtools synth' writes it")
    return things


def stem(row: dict, files: tuple[str, ...]) -> str:
    """The row's place below DIR, without suffix; that of a row without files, or with those of a list alone, is its key."""
    if not files or files[0] not in row.values() and (row.get("relpath") or row.get("id")):
        return strip_suffix(safe_relpath(key_of(row)))
    found = place(row, files[0])
    return os.path.splitext(found)[0] if found.endswith(FEATURES) else found


def picture_of(row: dict) -> str:
    """The row's video, also under the name that other programs' tables give its column."""
    return path_of(row, "video_path" if not row.get("path") and row.get("video_path") else "path")


def sample_key(row: dict, column: str | None) -> str:
    """The row's key, of which its seeds are made."""
    if column is None and not row.get("path") and row.get("video_path"):
        row = {**row, "path": row["video_path"]}
    return key_of(row, column)


def wants(row: dict, options: dict) -> list[Want]:
    from avtools.media.suffixes import video_suffixes

    files, cells = sources(row, options["reads"])
    own = stem(row, files)
    key = sample_key(row, options["key"])
    found = []
    for k in range(options["samples"]):
        at = own + f"_{k}" * (options["samples"] > 1)
        which = f"{k} of {options['samples']}" if options["per_sample"] else str(k)
        detail = "\0".join([f"{which} {key}", *(f"{name}={cell}" for name, cell in cells.items())])
        if options["sound"]:
            found.append(Want(f"sound {k}", files, (".wav",), relpath=at, detail=detail))
        if options["picture"]:
            found.append(Want(f"picture {k}", files, (".mp4",), relpath=at, detail=detail + "\0muxed" * options["mux"]))
        elif options["mux"]:
            seen = picture_of(row) if row.get("path") or row.get("video_path") else PLACEHOLDER
            if os.path.basename(seen) == PLACEHOLDER:
                raise RowError("the row has no picture to put the sound onto; leave out --mux")
            suffixes = video_suffixes(seen)
            found.append(Want(f"muxed {k}", tuple(dict.fromkeys((seen, *files))), suffixes, relpath=at, detail=detail))
    return found


# --- in the workers -------------------------------------------------------------------------------------


def item(row: dict, maker, options: dict) -> Items:
    """The samples of a row that have to be generated, each with the row's condition and its own seed."""
    kinds = [kind for kind in ("sound", "picture") if options[kind]]
    missing = [k for k in range(options["samples"]) if not kinds or not all(maker.reusable(f"{kind} {k}") for kind in kinds)]
    if not missing:
        return Items([])
    condition, plain, per_sample = options["condition"], options["plain"], options["per_sample"]
    key = sample_key(row, options["key"])
    items, same = [], None if per_sample else condition(row, plain)
    for k in missing:
        found = condition(row, {**plain, "sample": k, "samples": options["samples"]}) if per_sample else same
        cells = found.get("cells", {})
        found = {name: value for name, value in found.items() if name != "cells"}
        items.append({"condition": found, "cells": cells, "seed": sample_seed(options["seed"], key, k), "index": k})
    return Items(items)


def unwritten(row: dict, options: dict) -> Items:
    """As :func:`item`, where cells are all that is made."""
    return item(row, None, options)


def finish(row: dict, results: list[dict], maker, options: dict):
    """Write what was generated of a row; what needed no generating is there."""
    made = {result["index"]: result for result in results}
    cells = [_write(k, row, made.get(k), maker, options) for k in range(options["samples"])]
    for one in cells[1:]:
        one.pop(NOTES, None)  # a row counts once
    if maker is not None:
        maker.why += why(row, cells[0], options["key"])
    return cells if options["samples"] > 1 else cells[0]


def _write(k: int, row: dict, result: dict | None, maker, options: dict) -> dict:
    from avtools.media import video

    cells = dict(result["cells"]) if result is not None and not (options["sound"] or options["picture"]) else {}  # no file that keeps them
    if result is not None:
        _check(result, options)

    def made(name: str, column: str, build) -> None:
        one = maker.make(name, build, lambda path: result["cells"])  # the journal keeps them with the file
        cells.update({column: one.path, **one.columns})

    if options["sound"]:
        made(f"sound {k}", "generated_audio_path", lambda out, suffix: _write_sound(out, suffix, result))
    if options["picture"]:
        sound = cells["generated_audio_path"] if options["mux"] else None
        made(f"picture {k}", "generated_path", lambda out, suffix: _write_picture(out, suffix, result, sound))
    elif options["mux"]:
        sound = cells["generated_audio_path"]
        build = lambda out, suffix: video.mux(picture_of(row), sound, out, suffix, trim=True)  # noqa: E731
        cells["generated_path"] = maker.make(f"muxed {k}", build, _nothing).path
    return cells


def _nothing(path: str) -> dict:
    return {}  # no column of the table describes a generated file


def _check(result: dict, options: dict) -> None:
    import numpy as np

    if options["sound"] and not np.isfinite(result["sound"]).all():
        raise RowError("the generated sound is not finite; try --precision fp32")


def _write_sound(out: str, suffix: str, result: dict) -> None:
    from avtools.media.soundfiles import write_sound

    sound = result["sound"]
    with write_sound(out, suffix, result["rate"], sound.shape[1], "s16", frames=len(sound)) as write:
        write(sound)


def _write_picture(out: str, suffix: str, result: dict, sound: str | None) -> None:
    from avtools.media import video

    if sound is None:
        video.write_frames(out, suffix, result["frames"], result["fps"])
        return
    with tempfile.NamedTemporaryFile(suffix=suffix) as silent:
        video.write_frames(silent.name, suffix, result["frames"], result["fps"])
        video.mux(silent.name, sound, out, suffix, trim=True)


def preview(system, rows: list[dict], folder: str) -> None:
    """Let a system as it is in memory (in training, say) make something of a few rows, to look at and listen to."""
    options = system.sample_options({"steps": None, "guidance": None, "scheduler": None})
    items, keys = [], []
    for row in rows:
        try:
            items.append(system.condition(row, options))
            keys.append(key_of(row))
        except RowError:
            continue  # reported where it is trained or validated on
    if not items:
        return
    os.makedirs(folder, exist_ok=True)
    try:
        results = system.generate(items, [sample_seed(0, key, 0) for key in keys], options)
    except RowError:  # not finite, early in training say: no reason to end it
        return
    for key, result in zip(keys, results, strict=True):
        name = os.path.join(folder, strip_suffix(key).strip(os.sep).replace(os.sep, "_"))
        if "sound" in result:
            _write_sound(name + ".wav", ".wav", result)
        if "frames" in result:
            _write_picture(name + ".mp4", ".mp4", result, name + ".wav" if "sound" in result else None)
