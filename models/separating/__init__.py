"""One sound in, a stem for each thing that is heard in it: `separate`.

A network (AudioSep) is asked for what texts describe; the methods of :mod:`avtools.models.separating.spectral` need neither texts nor weights.
Stems have the rate, the channels and the length of their source, whatever the rate at which they were separated.
"""

import dataclasses
import functools
import hashlib
import os
import re

from avtools.engine import Items, Model
from avtools.errors import FatalError, MediaError, RowError
from avtools.outputs import Want, place
from avtools.rows.keys import PLACEHOLDER, key_of, path_of
from avtools.models.separating import pool
from avtools.models.separating.queries import queries_of

VERSION = 1
COLUMNS = ("query", "stem_path", "active")
RESIDUAL = "residual"
HPSS = ("harmonic", "percussive", RESIDUAL)
LIMIT = 1 << 28  # values of a sound, or of all its stems, that are held in memory: 1 GiB, 46 minutes of stereo at 48 kHz
BATCH_SIZE = 8  # sounds (of one channel, for one query), and windows of them
LOUDEST = 1e12  # of a sample, full scale 1; squares of louder ones leave float32 behind
SHORTEST = 8192  # samples that the network gets at least; silence fills up what is shorter
CONDITIONS = 4096  # queries whose conditions are kept
WINDOWS = ("fade", "full", "legacy")


@dataclasses.dataclass(slots=True)
class Stem:
    """A stem that a row asks for: what it is called, its place below DIR without suffix, and what else it depends on."""

    query: str
    relpath: str
    detail: str = ""


# --- what a row asks for ----------------------------------------------------------------------------------


def source_of(row: dict) -> str:
    """The row's sound: audio_path, else the sound of its video; RowError where it has neither."""
    for column in ("audio_path", "path"):
        if row.get(column) not in (None, "") and os.path.basename(str(row[column])) != PLACEHOLDER:
            return path_of(row, column)
    raise RowError("the row has no sound to separate (columns looked at: audio_path, path)")


def stems_of(row: dict, options: dict) -> tuple[list[Stem], str]:
    """The row's stems in order, the residual last where there is one, and what their places begin with."""
    source = source_of(row)
    begin = place(row, source)
    method = options["method"]
    if method == "audiosep":
        found = [(query, query) for query in queries_of(row, os.path.splitext(os.path.basename(source))[0], options)]
    elif method == "hpss":
        found = [(name, "") for name in HPSS]
    else:
        own = f"{options['components']} {key_of(row, options['key'])}"
        found = [(f"component {k}", own) for k in range(options["components"])]
    legacy = begin + os.path.splitext(source)[1]
    stems = []
    for number, (query, detail) in enumerate(found):
        name = f"{begin}__{query if method == 'hpss' else _in_name(query)}"
        stems.append(Stem(query, pool.stem_name(legacy, number, query) if options["legacy"] else name, detail))
    if options["residual"] and method == "audiosep":
        asked = "\0".join(query for query, _ in found)
        other = "" if options["queries"] or options["query_file"] else "-" + _mark(asked)  # rows of one sound may ask for different ones
        stems.append(Stem(RESIDUAL, f"{begin}__{RESIDUAL}{other}", asked))
    return stems, legacy


def _in_name(query: str) -> str:
    """`query` as a part of a file's name; different queries have different ones."""
    plain = re.sub(r"[^\w]+", "-", query.lower()).strip("-")
    short = plain.encode("utf-8", "surrogateescape")[:80].decode("utf-8", "ignore").strip("-")
    if short.replace("-", " ") == query and short != RESIDUAL:
        return short
    return f"{short}-{_mark(query)}" if short else _mark(query)


def _mark(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def heard(row: dict) -> str | None:
    """The stem of a row of the table for a pool: one that sounds, and is not what others left."""
    return row.get("stem_path") if row.get("active") and row.get("query") != RESIDUAL else None


def wants(row: dict, options: dict) -> list[Want]:
    source = source_of(row)
    stems, legacy = stems_of(row, options)
    owner = place(row, source)  # rows of one name may have a query in common that is not their first
    found = [Want(f"stem {k}", (source,), (".wav",), relpath=stem.relpath, detail=stem.detail, owner=owner) for k, stem in enumerate(stems)]
    if options["legacy"]:
        detail = "\0".join([f"{options['active_db']:g}", *(f"{stem.query}\0{stem.detail}" for stem in stems)])
        found.append(Want("intervals", (source,), (".json",), relpath=legacy, detail=detail))
    return found


# --- the work ---------------------------------------------------------------------------------------------


def work(options: dict, weights=None, *, windows: str = "fade", precision: str = "fp32", batch_size: int = BATCH_SIZE, tees: tuple = ()):
    """The :class:`avtools.stream.Work` of separating rows' sounds.

    `options`: method ("audiosep", "hpss", "nmf"), queries, query_column, query_file, propose (one of these, for audiosep), residual,
    components and seed (of nmf), active_db, legacy (names and JSON of JavisDiT's pool), sample_format, key.  `weights`, `windows`,
    `precision`, `batch_size`: of the network.  FatalError where its weights are missing.
    """
    from avtools.stream import Work

    method, column = options["method"], options["query_column"]

    def begin(header: list[str]) -> dict:
        from avtools.errors import UsageError

        if column and header and column not in header:
            raise UsageError(f"--query-column {column}: the table has no such column (it has: {', '.join(header)})")
        return options

    same = {
        "columns": (*COLUMNS, "group"),
        "needs": ("audio_path", "path"),
        "wants": wants,
        "operation": f"separate-{method}/{VERSION}",
        "begin": begin,
        "tees": tees,
        "preload": ("avtools.media.soundfiles", "avtools.metrics.media", "avtools.models.separating.activity"),
    }
    identity = {"format": options["sample_format"]}
    if method != "audiosep":
        for library in ("OPENBLAS", "MKL"):  # a thread for each worker: more would wait for each other, ten times as long on a busy machine
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
        return Work(separate_row, options, identity=identity | ({"seed": options["seed"]} if method == "nmf" else {}), **same)
    from avtools.models.audiosep.separation import Separator

    weights.check(part.name for part in Separator.parts)
    identity |= {"weights": Separator.digest(weights), "windows": windows, "precision": precision}
    options |= {"rate": Separator.rate_of(weights)}
    model = Model(functools.partial(_load, weights, windows, precision, batch_size), batch_size, finish)
    return Work(item, options, identity=identity, model=model, **same)


def _load(weights, windows: str, precision: str, batch_size: int):
    import sys

    from avtools.cli import command_path
    from avtools.models.audiosep.separation import Separator
    from avtools.models.audiosep.windows import FADE, LEGACY
    from avtools.sampling import device

    plan = {"fade": FADE, "full": None, "legacy": LEGACY}[windows]

    def say(line: str) -> None:
        print(f"{command_path()}: {line}", file=sys.stderr, flush=True)

    where = device()
    if where.type == "cpu" and precision == "fp16":
        raise FatalError("--precision fp16 needs a GPU, and there is none; use bf16 or fp32")
    at_once = batch_size if where.type == "cuda" else 1  # a CPU is slower with several windows at once than with one after the other
    return separating(Separator.load(weights, where, precision, plan, at_once, say))


def separating(separator):
    """A function of items (`mixture`, `query`, ...) that gives them with `sound`, float32 (samples,), in place of the mixture.

    Items whose mixtures are as long as each other go through the network together.
    """
    import numpy as np
    import torch

    conditions: dict[str, torch.Tensor] = {}

    def run(items: list[dict]) -> list[dict]:
        new = list(dict.fromkeys(item["query"] for item in items if item["query"] not in conditions))
        if len(conditions) + len(new) > CONDITIONS:
            conditions.clear()
            new = list(dict.fromkeys(item["query"] for item in items))
        if new:
            conditions.update(zip(new, separator.embed(new), strict=True))
        lengths: dict[int, list[int]] = {}
        for at, one in enumerate(items):
            lengths.setdefault(max(SHORTEST, len(one["mixture"])), []).append(at)
        results: list = [None] * len(items)
        for length, places in lengths.items():
            mixtures = np.zeros((len(places), length), np.float32)
            for mixture, at in zip(mixtures, places, strict=True):
                mixture[: len(items[at]["mixture"])] = items[at]["mixture"]
            stems = separator.separate(torch.from_numpy(mixtures), torch.stack([conditions[items[at]["query"]] for at in places])).cpu().numpy()
            for stem, at in zip(stems, places, strict=True):
                one = items[at]
                results[at] = {"stem": one["stem"], "channels": one["channels"], "sound": stem[: len(one["mixture"])]}
        return results

    return run


# --- in the workers ---------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Source:
    """`samples`: float32 (samples, channels), finite; `layout`: FFmpeg's name of its speakers, or None."""

    samples: object
    rate: int
    layout: str | None


def read(path: str, copies: int = 1) -> Source:
    """The sound of a file, that of a video on its picture's clock; MediaError: none, `copies` of it too long, samples beyond LOUDEST."""
    import numpy as np

    from avtools.media.soundfiles import open_sound
    from avtools.metrics.media import read_sound

    sound = read_sound(path, LIMIT // max(1, copies))
    if (loudest := float(np.abs(sound.samples).max(initial=0))) > LOUDEST:
        raise MediaError(f"{path}: has samples of {loudest:.0e}, and 1 is full scale; is it damaged? leave it out")
    layout = None
    if sound.samples.shape[1] > 2:
        with open_sound(path) as again:
            layout = again.layout
    return Source(sound.samples, sound.rate, layout)


def item(row: dict, maker, options: dict) -> Items:
    """What the network has to do of a row: each stem that is not there, each channel that differs from those before and is not silent."""
    import numpy as np
    import soxr

    stems = _asked(row, options)
    missing = [k for k in range(len(stems)) if not maker.reusable(f"stem {k}")]
    if not missing:
        return Items([])
    source = read(source_of(row), len(stems))
    channels: dict[bytes, list[int]] = {}
    for k in range(source.samples.shape[1]):
        if source.samples[:, k].any():
            channels.setdefault(hashlib.blake2b(source.samples[:, k].tobytes()).digest(), []).append(k)
    items = []
    for alike in channels.values():
        mixture = np.ascontiguousarray(source.samples[:, alike[0]])
        if source.rate != options["rate"]:
            mixture = soxr.resample(mixture, source.rate, options["rate"], quality="VHQ")
        items += [{"stem": k, "channels": alike, "query": stems[k].query, "mixture": mixture} for k in missing]
    return Items(items)


def _asked(row: dict, options: dict) -> list[Stem]:
    """The row's stems without the residual."""
    stems, _ = stems_of(row, options)
    return stems[:-1] if options["method"] == "audiosep" and options["residual"] else stems


def finish(row: dict, results: list[dict], maker, options: dict) -> list[dict]:
    """Write the row's stems as they come from the network: back at the rate and the length of the source."""
    import numpy as np
    import soxr

    by_stem: dict[int, list[dict]] = {}
    for result in results:
        by_stem.setdefault(result["stem"], []).append(result)
    source = functools.cache(lambda: read(source_of(row)))

    def samples_of(k: int):
        samples = np.zeros_like(source().samples)
        for result in by_stem.get(k, ()):
            sound, rate = result["sound"], options["rate"]
            if not np.isfinite(sound).all():
                raise RowError(f"{source_of(row)}: what the network makes of it is not finite; try --precision fp32")
            sound = sound if rate == source().rate else soxr.resample(sound, rate, source().rate, quality="VHQ")
            samples[: len(sound), result["channels"]] = sound[: len(samples), None]
        if k not in by_stem and source().samples.any():
            raise RowError(f"{source_of(row)}: a stem of it was removed while others were made; run again")
        return samples

    return _cells(row, maker, options, source, samples_of)


def separate_row(row: dict, maker, options: dict) -> list[dict]:
    """Separate a row's sound without a network."""
    from avtools.models.separating import spectral

    stems = _asked(row, options)
    source = functools.cache(lambda: read(source_of(row), len(stems)))

    @functools.cache
    def parts():
        if options["method"] == "hpss":
            return spectral.hpss(source().samples, source().rate)
        from avtools.sampling import sample_seed

        seed = sample_seed(options["seed"], key_of(row, options["key"]), 0)
        return spectral.nmf(source().samples, source().rate, options["components"], seed)

    return _cells(row, maker, options, source, lambda k: parts()[k])


def _cells(row: dict, maker, options: dict, source, samples_of) -> list[dict]:
    """Make the files that are not there, and give a row's cells for each stem.

    `source()` is read, and `samples_of(k)` worked out, only for what has to be made.
    """
    from avtools.media.soundfiles import sound_format
    from avtools.models.separating import activity

    stems, _ = stems_of(row, options)
    asked = len(_asked(row, options))
    reference = functools.cache(lambda: activity.level(source().samples, source().rate))
    found: list[dict] = []

    def rest():
        """What the files of the others leave of the sound."""
        left = source().samples.astype("float64")
        for cells in found:
            left -= read(cells["stem_path"]).samples
        return left.astype("float32")

    def measured(path: str, level: float) -> dict:
        stem = read(path)
        heard = activity.active(stem.samples, stem.rate, level, options["active_db"])
        return {"active": heard, "db": options["active_db"], "level": level}

    for k, stem in enumerate(stems):
        made = maker.make(
            f"stem {k}",
            lambda out, suffix, k=k: _write(out, suffix, samples_of(k) if k < asked else rest(), source(), options["sample_format"]),
            lambda path: measured(path, reference()),
        )
        told = made.columns if made.columns["db"] == options["active_db"] else measured(made.path, made.columns["level"])
        found.append({"query": stem.query, "stem_path": made.path, "active": told["active"]})
    if options["legacy"]:
        intervals = [(cells["query"], cells["active"]) for cells in found[:asked]]
        maker.make("intervals", lambda out, suffix: pool.write_intervals(out, intervals, sound_format(found[0]["stem_path"]).rate), lambda path: {})
    return found


def _write(out: str, suffix: str, samples, source: Source, sample_format: str) -> None:
    from avtools.media.soundfiles import write_sound

    if len(samples) != len(source.samples):
        raise MediaError(f"a stem of {len(samples)} samples of a sound of {len(source.samples)}; please report this")
    with write_sound(out, suffix, source.rate, samples.shape[1], sample_format, source.layout, len(samples)) as write:
        write(samples)
