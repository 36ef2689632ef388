"""Metrics over the rows of a table: the :class:`avtools.stream.Work` of `score`, and its summary.

Workers read each row's pair once and judge it by all metrics; what a network must see goes on to the process of the
model; what the set's summary needs comes to the writing process with the row, in the table's order.
"""

import base64
import functools
import hashlib
import itertools
import json
import math
import tempfile
from collections.abc import Iterable, Iterator

from avtools.engine import Items, Model
from avtools.errors import RowError, UsageError
from avtools.metrics import BLOCKS, INTERVALS, Jackknife, Metric, Skip
from avtools.metrics.extracting import Cache, Extractor, OfFeatures, expected, facts_of
from avtools.metrics.media import Pair, Sound, columns_of, file_of
from avtools.rows.keys import key_of, shown
from avtools.rows.writing import Extra, cell_text

TRUE = "true"
CONTROLS = ("silence", "noise", "shuffled", "shifted")  # of --canary
SHIFT_S = 0.4
TOLD = "\0told"  # columns that begin with NUL are not written: what a row contributes to the summary,
SHUFFLED = "\0shuffled"  # another row's sound, for --canary
EXCHANGED = "exchanged_audio_path"  # another row's sound, judged instead of the row's own
BATCH_SIZE = 16  # of networks
PARTS = 1000  # values of a column of --by
FORMAT = 1  # of the summary
LIBRARIES = ("numpy", "av", "soundfile", "soxr")  # what every metric rests on; others name what they need


def work(
    metrics: list[Metric],
    shared,
    *,
    named: dict[str, str | None],
    protocol: str | None = None,
    summary: str | None = None,
    canary: bool = False,
    exchange: tuple[str, ...] | None = None,
    seed: int = 0,
    weights=None,
    intervals: str = "t",
    by: tuple[str, ...] = (),
    cache: str | None = None,
    batch_size: int = BATCH_SIZE,
):
    """The :class:`avtools.stream.Work` of judging rows by `metrics`.

    `named`: role (`media.ROLES`) -> the column that holds it, None for the usual ones.  `exchange`: judge each row with the sound of
    another one that has the same cells in these columns.  `by`: columns whose values part the set, each part with results of
    its own.  `cache`: a folder for features.
    """
    from avtools.stream import Work

    columns = [EXCHANGED] * (exchange is not None) + [column for metric in metrics if metric.per_row for column in metric.columns]
    if len(set(columns)) < len(columns):
        raise UsageError("a metric is named twice; name each once")
    if canary and exchange is not None:
        raise UsageError("--canary judges exchanged sounds too; give it or --exchange, not both")
    networks = [metric for metric in metrics if metric.network]
    options = {
        "metrics": metrics,
        "named": named,
        "key": shared.key,
        "seed": seed,
        "controls": CONTROLS if canary else (),
        "exchange": exchange is not None,
        "by": by,
        "cache": _cache(cache, networks, weights),
    }
    tally = Tally(metrics, options, protocol, exchange, networks, weights, intervals)

    def records(stdin):
        from avtools.rows import open_rows

        source = open_rows(shared.inputs, shared.from_format, None, stdin)  # whoever asks for the rows cuts the shard
        check_header(source.columns, source.format, metrics, named, exchange, by)
        given = with_partners(source, named, shared.key, exchange, seed) if canary or exchange is not None else source
        return source.columns, source.format, tally.counted(given, shared.shard)

    return Work(
        judge,
        options,
        columns=columns,
        records=records,
        preload=preloaded(metrics),
        sees=tally.add,
        report=tally.lines,
        tees=(_Summary(summary, tally),) if summary else (),
        model=Model(lambda: _load(networks, weights, options["cache"], batch_size), batch_size * _items_of_a_row(networks, canary), _finish) if networks else None,
    )


def _jobs(metrics: list[Metric]) -> dict[str, "Metric | Extractor"]:
    """Job's key -> what runs: extractors, each once whatever asks for it, and metrics with networks of their own."""
    found: dict = {}
    for metric in metrics:
        if isinstance(metric, OfFeatures):
            found |= {extractor.key: extractor for extractor, _ in metric.wants().values() if extractor.key not in found}
        elif metric.network:
            found[metric.name] = metric
    return found


def _items_of_a_row(networks: list[Metric], canary: bool) -> int:
    """How many items a row gives, about, so that each network gets batches of its size."""
    wanted = {(extractor.key, role) for one in networks if isinstance(one, OfFeatures) for extractor, role in one.wants().values()}
    others = sum(not isinstance(one, OfFeatures) for one in networks)
    hearing = len({pair for pair in wanted if pair[1] == "audio"}) + others
    return len(wanted) + others + canary * len(CONTROLS) * hearing


def _cache(folder: str | None, networks: list[Metric], weights) -> Cache | None:
    extractors = [job for job in _jobs(networks).values() if isinstance(job, Extractor)]
    if folder is None or not extractors:
        return None
    return Cache(folder, {extractor.key: extractor.weights_digest(weights) for extractor in extractors})


def preloaded(metrics: list[Metric]) -> tuple[str, ...]:
    """Modules that the workers' server loads once."""
    modules = [module for metric in metrics if not metric.network for module, _ in metric.requires]
    known = {"librosa": ("librosa", "librosa.onset")}
    return tuple(itertools.chain(*(known.get(module, (module,)) for module in modules), ("avtools.media.video", "avtools.media.soundfiles")))


def check_header(header: list[str], format_: str, metrics: list[Metric], named: dict, exchange: tuple[str, ...] | None, by: tuple[str, ...] = ()) -> None:
    """UsageError where no row of a table with this header can be judged; JSONL rows may have keys of their own."""
    if format_ == "jsonl":
        return
    have = ", ".join(header) or "none"
    others = [*(("exchange", column) for column in exchange or ()), *(("by", column) for column in by)]
    for option, column in [*named.items(), *others]:
        if column is not None and column not in header:
            name = option if option in ("exchange", "by") else f"{option.replace('_', '-')}-column"
            raise UsageError(f"--{name} {column}: the table has no such column (it has: {have})")
    for metric in metrics:
        for need in metric.needs:
            columns = needed(need, named, metric)
            if not set(columns) & set(header):
                raise UsageError(f"{metric.name} needs a column {' or '.join(columns)} (the table has: {have})")
        if "reference" in metric.needs and "event_times" not in header:
            sounds, references = (columns_of(role, named) for role in ("audio", "reference_audio"))
            if not set(sounds) - set(references) & set(header) and not set(references) - set(sounds) & set(header):
                raise UsageError(
                    f"{metric.name} needs a column event_times, or a reference sound beside the judged one: "
                    f"generated_audio_path or --reference-audio-column (the table has: {have})"
                )


def needed(need: str, named: dict, metric: Metric) -> tuple[str, ...]:
    """The columns of which a row needs one, for a metric's `need`."""
    if need == "text":
        return metric.texts
    if need in ("generated_text", "reference_text"):
        return getattr(metric, f"{need}s")
    if need == "reference_sound":
        return columns_of("reference_audio", named)
    role = {"picture": "video", "sound": "audio", "reference": "reference_audio", "reference_picture": "reference_video"}[need]
    return (*columns_of(role, named), *(["event_times"] if need == "reference" else []))


# --- sounds of other rows -------------------------------------------------------------------------------


def with_partners(source, named: dict, key: str | None, same: tuple[str, ...] | None, seed: int) -> Iterator:
    """All records of `source`, each with the sound of another row whose cells in the columns `same` are its own.

    The rows are kept on disk, the names of their sounds in memory.  The keys of a group stand in a circle, in an order
    that depends on the seed and them alone, and each row gets a sound of the next one: never one of its own key (another
    sample of the same clip).  A row alone in its group gets none.
    """
    from avtools.rows import Record

    rows: list[tuple[bytes, str | None]] = []  # of each row: its group, its sound
    circles: dict[bytes, dict[str, bytes]] = {}  # group -> sound -> place of its first row's key
    with tempfile.TemporaryFile("w+", encoding="ascii") as spool:
        for record in source:
            spool.write(json.dumps(record) + "\n")
            group = _hash([record.row.get(column) for column in same or ()])
            try:
                sound = file_of(record.row, "audio", named) if not record.row.get("error") else None
                place = _hash(seed, key_of(record.row, key))
            except RowError:
                sound = None  # a bad row, or none of sound: nobody's partner
            if sound is not None:
                circles.setdefault(group, {}).setdefault(sound, place)
            rows.append((group, sound))
        after = {group: _next(circle) for group, circle in circles.items()}
        spool.seek(0)
        for line, (group, sound) in zip(spool, rows, strict=True):
            row, origin = json.loads(line)
            yield Record({**row, SHUFFLED if same is None else EXCHANGED: after.get(group, {}).get(sound, "")}, origin)


def _next(circle: dict[str, bytes]) -> dict[str, str]:
    """Sound -> the one that is judged in its place; `circle`: sound -> place of its key."""
    places: dict[bytes, list[str]] = {}
    for sound, place in circle.items():
        places.setdefault(place, []).append(sound)
    order = sorted(places)
    if len(order) < 2:
        return {}
    return {
        sound: places[following][number % len(places[following])]
        for place, following in zip(order, order[1:] + order[:1], strict=True)
        for number, sound in enumerate(places[place])
    }


def _hash(*what) -> bytes:
    return hashlib.blake2b(json.dumps(what, default=str).encode(), digest_size=8).digest()


# --- in the workers -------------------------------------------------------------------------------------


def judge(row: dict, options: dict):
    """One row by all metrics, under all controls: its cells, or items for the networks."""
    named = options["named"]
    key = key_of(row, options["key"])
    if options["exchange"]:
        partner = row.get(EXCHANGED)
        pairs = [(TRUE, Pair(row, named, partner), None if partner else Skip("no other row to exchange sounds with"))]
    else:
        pairs = _controls(Pair(row, named), row, key, options)
    whole, jobs, facts = {}, _Jobs(options["cache"]), {}
    for variant, pair, skip in pairs:
        for metric in options["metrics"] if variant == TRUE and skip is None else ():
            for role, watch in _expected(metric, pair, jobs):
                pair.expect(role, watch)
        whole[variant] = {metric.name: _judged(metric, variant, pair, skip, jobs) for metric in options["metrics"]}
        if variant == TRUE:
            facts = pair.facts
    result = {"key": _hash(key).hex(), "facts": facts, "variants": whole, "by": [cell_text(row.get(column)) for column in options["by"]]}
    if not any(metric.network for metric in options["metrics"]):
        return _cells(result, options)
    items = list(jobs.items.values())
    return Items([{"job": None, "result": result}, *items])


def _expected(metric: Metric, pair: Pair, jobs: "_Jobs") -> Iterable:
    """(role, watch) of what the metric will see of the row's own pair: nothing that the cache has features of."""
    if not isinstance(metric, OfFeatures):
        return metric.expects()
    return [one for extractor, role in metric.wants().values() if not jobs.known(extractor, pair, role) for one in expected(extractor, role)]


class _Jobs:
    """A row's items for the networks, each once: {"job", "at", "input" or "output" (found in the cache), "place" (in it), "facts"}."""

    def __init__(self, cache: Cache | None):
        self.cache, self.items, self.skips = cache, {}, {}

    def add(self, key: str, at: str, make) -> bool:
        """An item of the job `key` at `at`, with the input `make()`, unless it is there; Skip where that is raised, each time."""
        if (key, at) in self.skips:
            raise self.skips[key, at]
        if (key, at) in self.items:
            return False
        try:
            self.items[key, at] = {"job": key, "at": at, "input": make()}
        except Skip as skip:
            self.skips[key, at] = skip
            raise
        return True

    def known(self, extractor: Extractor, pair: Pair, role: str) -> bool:
        """Whether the cache has the features of the row's own `role`, which are then an item."""
        key, at = extractor.key, _at(extractor, role, TRUE)
        if self.cache is None or (key, at) in self.items:
            return (key, at) in self.items
        found = self.cache.read(self.cache.place(extractor, pair, role))
        if found is None:
            return False
        output, facts = found
        pair.facts |= facts
        self.items[key, at] = {"job": key, "at": at, "output": output}
        return True

    def extract(self, extractor: Extractor, pair: Pair, role: str, variant: str) -> None:
        """An extractor's item, from the cache where it is known; the sound of a control is no file's."""
        key, at = extractor.key, _at(extractor, role, variant)
        kept = self.cache is not None and at == _at(extractor, role, TRUE)
        if kept and self.known(extractor, pair, role):
            return
        if self.add(key, at, functools.partial(extractor.prepare, pair, role)) and kept:
            self.items[key, at] |= {"place": self.cache.place(extractor, pair, role), "facts": facts_of(extractor, pair, role)}


def _at(extractor: Extractor, role: str, variant: str) -> str:
    """Which of a row's media an item is of: the judged sound is another one for each control."""
    hears = role == "audio" and extractor.medium in ("sound", "both")
    return f"{role} {variant}" if hears else role


def _controls(pair: Pair, row: dict, key: str, options: dict) -> Iterator[tuple[str, Pair, None]]:
    """The row's own pair, then the same picture with sounds that do not belong to it."""
    import numpy as np

    yield TRUE, pair, None
    if not options["controls"] or not any("sound" in metric.needs for metric in options["metrics"]):
        return
    samples, rate = pair.sound.samples, pair.sound.rate
    seed = int.from_bytes(_hash(options["seed"], "noise", key), "big")
    level = float(np.sqrt(np.square(samples, dtype=np.float64).mean())) or 0.1
    noise = (np.random.Generator(np.random.PCG64(seed)).standard_normal(samples.shape, np.float32) * level).clip(-1, 1)
    yield "silence", pair.with_sound(Sound(np.zeros_like(samples), rate)), None
    yield "noise", pair.with_sound(Sound(noise, rate)), None
    if row.get(SHUFFLED):
        yield "shuffled", pair.with_sound(Pair(row, pair.named, row[SHUFFLED]).sound), None
    yield "shifted", pair.with_sound(Sound(np.roll(samples, round(SHIFT_S * rate), axis=0), rate)), None


def _judged(metric: Metric, variant: str, pair: Pair, skip: Skip | None, jobs: _Jobs) -> dict:
    """What is told of a pair by one metric (JSON); of one with a network nothing yet, but `jobs` gets its input."""
    try:
        if skip is not None:
            raise skip
        if variant != TRUE and "sound" not in metric.needs:
            raise Skip("does not hear the sound")
        if isinstance(metric, OfFeatures):
            for extractor, role in metric.wants().values():
                jobs.extract(extractor, pair, role, variant)
            return {}
        if metric.network:
            jobs.add(metric.name, variant, functools.partial(metric.prepare, pair))
            return {}
        return _told(metric, pair)
    except Skip as reason:
        return {"skip": str(reason)}


def _told(metric: Metric, item) -> dict:
    """`item`: a Pair, or what the metric's network made of one."""
    if not metric.per_row:
        return {"features": packed(metric.features(item))}
    cells = metric.suffixed(metric.row(item))
    for column, value in cells.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RowError(f"{column} is no finite number" + ("; are these its weights?" if metric.network else ""))
    return {
        "cells": {c: None if isinstance(v, Skip) else v for c, v in cells.items()},
        "reasons": {c: str(v) for c, v in cells.items() if isinstance(v, Skip)},
    }


def packed(arrays: dict) -> dict:
    """Arrays (name -> numpy array) as JSON."""
    import numpy as np

    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return {n: [a.dtype.str, list(a.shape), base64.b64encode(a.tobytes()).decode("ascii")] for n, a in arrays.items()}


def unpacked(told: dict) -> dict:
    import numpy as np

    return {name: np.frombuffer(base64.b64decode(data), dtype).reshape(shape) for name, (dtype, shape, data) in told.items()}


def _cells(result: dict, options: dict) -> dict:
    """The row's cells and, under TOLD, what the summary needs."""
    cells = {}
    for metric in options["metrics"]:
        if metric.per_row:
            cells |= dict.fromkeys(metric.columns) | result["variants"][TRUE][metric.name].get("cells", {})
    return {**cells, TOLD: result}


# --- networks -------------------------------------------------------------------------------------------


def _load(networks: list[Metric], weights, cache: Cache | None, batch_size: int):
    import torch

    from avtools.sampling import device

    torch.backends.cudnn.allow_tf32 = False  # a thousandth of the value, which scores should not differ by between machines
    jobs = _jobs(networks)
    waiting = set(jobs)

    def load(key: str) -> None:
        jobs[key].load(device(), weights)
        waiting.remove(key)

    for key in jobs if cache is None else ():  # with a cache there may be nothing left for a network to do
        load(key)

    def run(items: list[dict]) -> list[dict]:
        for key in waiting & {item["job"] for item in items if "output" not in item}:
            load(key)
        with torch.inference_mode():
            for key, job in jobs.items():
                own = [item for item in items if item["job"] == key and "output" not in item]
                for k in range(0, len(own), batch_size):
                    some = own[k : k + batch_size]
                    for item, output in zip(some, job.run([one["input"] for one in some]), strict=True):
                        item["output"] = output
                        if item.get("place") is not None and _finite(output):
                            cache.write(item["place"], output, item["facts"])
        return [{name: value for name, value in item.items() if name not in ("input", "place", "facts")} for item in items]

    return run


def _finite(arrays: dict) -> bool:
    import numpy as np

    return all(np.isfinite(array).all() for array in arrays.values())


def _finish(row: dict, results: list[dict], maker, options: dict) -> dict:
    whole, *items = results
    found = {(item["job"], item["at"]): item["output"] for item in items}
    whole = whole["result"]
    for variant, by_metric in whole["variants"].items():
        for metric in options["metrics"]:
            if not metric.network or "skip" in by_metric[metric.name]:
                continue
            if isinstance(metric, OfFeatures):
                item = {}
                for name, (extractor, role) in metric.wants().items():
                    item[name] = found[extractor.key, _at(extractor, role, variant)]
                    if not _finite(item[name]):
                        raise RowError(f"{metric.name}: {extractor.name} gives no finite numbers for its {role.replace('_', ' ')}; are these its weights?")
            else:
                item = found[metric.name, variant]
            try:
                by_metric[metric.name] = _told(metric, item)
            except Skip as skip:
                by_metric[metric.name] = {"skip": str(skip)}
    return _cells(whole, options)


# --- the set --------------------------------------------------------------------------------------------


class Tally:
    """What the writing process keeps of all rows: sums, never the rows."""

    def __init__(self, metrics, options, protocol, exchange, networks, weights, intervals="t"):
        self.metrics, self.options, self.protocol, self.exchange = metrics, options, protocol, exchange
        self.networks, self.weights, self.mean = networks, weights, INTERVALS[intervals]
        self.parts: dict[str, dict[str, dict]] = {column: {} for column in options["by"]}  # column -> its value -> the set of the rows with it
        self.rows = self.keys = self.given = 0
        self.facts: dict[str, dict[str, Fact]] = {}
        self.sets = {variant: self._empty() for variant in (TRUE, *options["controls"])}

    def _empty(self) -> dict:
        return {m.name: {column: self.mean() for column in m.columns} if m.per_row else Jackknife(m) for m in self.metrics}

    def counted(self, records: Iterable, shard: tuple[int, int] | None) -> Iterator:
        """The records, counted: those that are given and never judged were bad."""
        index, shards = shard or (1, 1)
        for total, record in enumerate(records, 1):
            self.given = index * total // shards - (index - 1) * total // shards
            yield record

    def add(self, row: dict) -> None:
        """One more finished row, in the table's order."""
        told = row.get(TOLD)
        if told is None:
            return  # it came with an error and was not judged
        self.rows += 1
        number = int(told["key"], 16)
        self.keys = (self.keys + number) % 2**64
        for role, values in told["facts"].items():
            kept = self.facts.setdefault(role, {})
            for name, value in values.items():
                kept.setdefault(name, Fact()).add(value)
        for variant, by_metric in told["variants"].items():
            self._add(self.sets[variant], by_metric, number)
        for (column, parts), value in zip(self.parts.items(), told["by"], strict=True):
            if value not in parts:
                if len(parts) == PARTS:
                    raise UsageError(f"--by {column}: has more than {PARTS} values; give a column of categories")
                parts[value] = self._empty()
            self._add(parts[value], told["variants"][TRUE], number)

    def _add(self, kept: dict, told: dict, number: int) -> None:
        for metric in self.metrics:
            mine, what = kept[metric.name], told[metric.name]
            if metric.per_row:
                for column, mean in mine.items():
                    mean.add(what.get("cells", {}).get(column), what.get("skip") or what.get("reasons", {}).get(column), number)
            else:
                mine.add(unpacked(what["features"]) if "features" in what else None, number % BLOCKS, what.get("skip"))

    def results(self, sets: dict) -> dict[str, dict]:
        """Column -> value, interval, counts, of one variant or part."""
        results = {}
        for metric in self.metrics:
            kept = sets[metric.name]
            values, intervals = ({}, {}) if metric.per_row else kept.results()
            for column in metric.columns:
                one = kept[column] if metric.per_row else kept
                if metric.per_row:
                    value, interval = one.mean if one.count else None, one.interval(*metric.ranges.get(column, ()))
                else:
                    value, interval = values[column], intervals[column]
                    why = {"reason": str(value)} if isinstance(value, Skip) else {}
                    value = None if why else float(value)
                entry = {"mean": value, "std": one.std} if metric.per_row else {"value": value, **why}
                results[column] = {**entry, "count": one.count, "skipped": dict(sorted(one.skipped.items())), "interval": interval}
        return results

    def summary(self) -> dict:
        """The whole passport, JSON; the same bytes for the same rows, options and versions."""
        import av

        from avtools import __version__

        found = self.results(self.sets[TRUE])
        canary = self.canary(found)
        metrics = {}
        for metric in self.metrics:
            for k, column in enumerate(metric.columns):
                main = k == 0
                entry = {"metric": metric.name, **found[column], "interval_how": self.mean.how if metric.per_row else Jackknife.how}
                if main:
                    entry["warnings"] = self.remarks(metric)
                    chance = {"value": metric.chance, "how": metric.chance_how}
                    if "shuffled" in canary.get(column, {}):
                        chance = {**canary[column]["shuffled"], "how": "measured: sounds of other rows"}
                        chance.pop("told_apart", None)
                    entry |= {"direction": metric.direction, "chance": chance}
                metrics[column] = entry
        definitions = {
            m.name: {"title": m.title, "source": m.source, "version": m.version, "settings": m.set, "resampler": m.resampler} for m in self.metrics
        }
        for metric in self.metrics:
            definitions[metric.name]["protocol"] = self.protocol if self.protocol in metric.protocols else "standard"
        made = {
            "summary": FORMAT,
            "avtools": __version__,
            "pairs": "as given" if self.exchange is None else {"sounds exchanged within": list(self.exchange)},
            "columns": {role: column for role, column in self.options["named"].items() if column},
            "seed": self.options["seed"],
            "rows": {"judged": self.rows, "bad": self.given - self.rows, "keys": f"{self.keys:016x}"},
            "metrics": metrics,
            "definitions": definitions,
            "media": {role: {name: fact.told() for name, fact in facts.items()} for role, facts in sorted(self.facts.items())},
            "weights": {metric.name: metric.weights_digest(self.weights) for metric in self.networks},
            "decoder": "FFmpeg through PyAV: " + ", ".join(f"{n} {'.'.join(map(str, v))}" for n, v in sorted(av.library_versions.items())),
            "libraries": libraries(self.metrics),
        }
        if self.parts:
            made["by"] = {column: {value: self.results(sets) for value, sets in sorted(parts.items())} for column, parts in self.parts.items()}
        return {**made, "canary": canary} if canary else made

    def remarks(self, metric: Metric) -> list[str]:
        """What a metric has to say about the whole set."""
        return [] if metric.per_row else self.sets[TRUE][metric.name].remarks()

    def canary(self, found: dict) -> dict[str, dict[str, dict]]:
        """Column -> control -> its result and whether the true pairs are told apart from it."""
        told: dict[str, dict[str, dict]] = {}
        for control in self.options["controls"]:
            results = self.results(self.sets[control])
            for metric in self.metrics:
                column = next(iter(metric.columns))
                if "sound" in metric.needs and metric.direction != "none":
                    told.setdefault(column, {})[control] = {**results[column], "told_apart": apart(metric.direction, found[column], results[column])}
        return told

    def lines(self) -> list[str]:
        """The table for people."""
        found = self.results(self.sets[TRUE])
        lines = [f"{'':18} {'mean':>10}  {'95 % interval':20} {'count':>7} {'skipped':>8}  chance"]
        canary = self.canary(found)
        for metric in self.metrics:
            for k, column in enumerate(metric.columns):
                chance = ""
                if not k and metric.direction != "none":
                    chance = metric.chance_how if metric.chance is None else f"{metric.chance:.3g}"
                if not k and "shuffled" in canary.get(column, {}):
                    chance = f"{_short(canary[column]['shuffled'])} (shuffled pairs)"
                lines.append(_line(column, found[column], chance))
                if found[column].get("reason") and found[column]["count"]:
                    lines.append(f"{'':18} none: {found[column]['reason']}")
                for reason, count in found[column]["skipped"].items() if not k else ():
                    lines.append(f"{'':18} skipped {count}: {reason}")
        for column, controls in canary.items():
            for control, entry in controls.items():
                verdict = {True: "told apart", False: "NOT told apart from the true pairs", None: "nothing to compare"}[entry["told_apart"]]
                lines.append(_line(f"  {control}", entry, f"{column}: {verdict}"))
        for column, parts in self.parts.items():
            for value, sets in sorted(parts.items()):
                lines.append(f"{column} = {shown(value) or '(empty)'}")
                results = self.results(sets)
                lines += [_line(f"  {main}", results[main], "") for main in (next(iter(metric.columns)) for metric in self.metrics)]
        return lines + [f"warning: {remark}" for metric in self.metrics for remark in self.remarks(metric)]


def _value(entry: dict):
    return entry["mean"] if "mean" in entry else entry["value"]


def _short(entry: dict) -> str:
    value = _value(entry)
    return "-" if value is None else f"{value:.4g}"


def _line(name: str, entry: dict, note: str) -> str:
    span = "" if entry["interval"] is None else "{:.4g} to {:.4g}".format(*entry["interval"])
    return f"{name:18} {_short(entry):>10}  {span:20} {entry['count']:7} {sum(entry['skipped'].values()):8}  {note}".rstrip()


def apart(direction: str, true: dict, control: dict) -> bool | None:
    """Whether the true pairs are better than the control, beyond both intervals; None where that cannot be said."""
    if direction == "none" or _value(true) is None or _value(control) is None:
        return None
    if true["interval"] is None or control["interval"] is None:
        return None
    better, worse = (true, control) if direction == "higher" else (control, true)
    return better["interval"][0] > worse["interval"][1]


class Fact:
    """A fact of the judged media over all rows: the range of numbers, and up to 8 values with their counts."""

    most = 8

    def __init__(self):
        self.low = self.high = None
        self.values: dict | None = {}

    def add(self, value) -> None:
        if not isinstance(value, str):
            self.low = value if self.low is None else min(self.low, value)
            self.high = value if self.high is None else max(self.high, value)
        if self.values is not None:
            self.values[value] = self.values.get(value, 0) + 1
            if len(self.values) > self.most:
                self.values = None

    def told(self) -> dict:
        told = {} if self.low is None else {"min": self.low, "max": self.high}
        if self.values is None:
            return {**told, "values": f"more than {self.most}"}
        return {**told, "values": [[value, self.values[value]] for value in sorted(self.values)]}


def libraries(metrics: list[Metric]) -> dict[str, str]:
    """Versions of what measures; a package that another one stands in for tells its module's own."""
    import importlib
    import importlib.metadata

    found = {}
    for module, package in [*((name, name) for name in LIBRARIES), *(pair for metric in metrics for pair in metric.requires)]:
        try:
            found[module] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[module] = str(getattr(importlib.import_module(module), "__version__", "unknown"))
    return found


class _Summary(Extra):
    """The summary, made when all rows are written."""

    def __init__(self, path: str, tally: Tally):
        super().__init__("--summary", path, lambda: (json.dumps(tally.summary(), indent=2, allow_nan=False) + "\n").encode())

    def commit(self) -> None:
        self.make()
        super().commit()
