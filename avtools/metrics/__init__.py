"""The metric protocol: what `score` asks of a metric, and what it makes of many rows.

A metric judges one pair of picture and sound (:class:`avtools.metrics.media.Pair`) or a whole set of them.

- Of a row (`per_row`): :meth:`Metric.row` gives its columns; the set's summary (mean, count, what was skipped and
  why, 95 % interval) is made of these alone.
- Of a set: :meth:`Metric.features` gives arrays for each row, which `accumulate` puts into a state; states of parts
  of the set are joined by `merge`, and `finalize` gives the columns of the summary.  The interval is a jackknife
  over up to 20 blocks of rows, told apart by a hash of their keys.

Plain metrics do all of a row's work in a worker process.  One with a network (`network`) gives arrays there
(:meth:`Metric.prepare`); :meth:`Metric.load` and :meth:`Metric.run` work on batches in the main process of each rank.
What the rows contribute travels with their results, in the table's order, so that no summary depends on the number of
workers or ranks.  What a metric cannot know (onsets of silence) is a :class:`Skip`, never a number.
"""

import functools
import importlib.util
import math
from typing import Any, ClassVar

from avtools.errors import FatalError, UsageError

#: Those that are plain mathematics: name -> where.  `avtools.models.registry` knows these and those with networks.
PLAIN = {
    "av-align": "avtools.metrics.av_align:AvAlign",
    "bleu": "avtools.metrics.captioning:Bleu",
    "cider": "avtools.metrics.captioning:Cider",
    "health": "avtools.metrics.health:Health",
    "loudness": "avtools.metrics.loudness:Loudness",
    "onset-f1": "avtools.metrics.onsets:OnsetF1",
    "rouge": "avtools.metrics.captioning:Rouge",
    "sdr": "avtools.metrics.separation:Sdr",
    "spectral": "avtools.metrics.spectral:Spectral",
}
#: What a metric may need of a row; "reference": a sound, or its events.
NEEDS = ("picture", "sound", "reference", "reference_picture", "reference_sound", "text", "generated_text", "reference_text")
BLOCKS = 20  # of the jackknife
RESAMPLES = 1000  # of the bootstrap


class Skip(Exception):
    """There is nothing to measure, and why; raised for all of a row's columns, or the value of one."""


class Metric:
    """Base class; an instance holds its settings alone, so it pickles."""

    name: ClassVar[str]
    title: ClassVar[str]  # one line
    source: ClassVar[str]  # paper and equation, or "avtools"
    version: ClassVar[int] = 1  # of the definition: another one gives other numbers
    columns: ClassVar[dict[str, str]]  # column (of the row, or of the set's summary) -> what it is, with unit; the main one first
    direction: ClassVar[str]  # of the main column: "higher", "lower" (is better), "none"
    alone: ClassVar[frozenset[str]] = frozenset()  # columns of a set without an interval: counts, and what finalize_whole gives
    ranges: ClassVar[dict[str, tuple[float, float]]] = {}  # column -> its least and largest value, where it has such
    chance: ClassVar[float | None] = None  # what pairs that do not belong together get, where theory tells
    chance_how: ClassVar[str] = "measured by --canary"
    needs: ClassVar[tuple[str, ...]]  # of NEEDS
    texts: tuple[str, ...] = ()  # where it needs "text": the columns that may hold it, as the settings choose them
    per_row: ClassVar[bool] = True
    settings: ClassVar[dict[str, Any]] = {}  # name -> default
    variants: ClassVar[tuple[str, ...]] = ()  # the values of the setting `model`, where NAME:VALUE names the metric with it
    protocols: ClassVar[dict[str, dict[str, Any]]] = {}  # name -> the settings that a paper chose
    requires: ClassVar[tuple[tuple[str, str], ...]] = ()  # (module, package of pip)
    resampler: ClassVar[str | None] = None
    network: ClassVar[bool] = False
    parts: ClassVar[tuple] = ()  # the networks' weights (avtools.hub.Part), which several metrics may share
    suffix = ""  # of a variant's columns
    released_run: ClassVar[bool | None] = None  # whether the real released weights were ever run; None: has none

    def __init__(self, **settings):
        self.set = {**self.settings, **settings}

    @classmethod
    def under(cls, protocol: str | None) -> "type[Metric]":
        """The class that is this metric under a protocol (None: the standard): another one where its definition has nothing in common."""
        return cls

    @property
    def weights_names(self) -> tuple[str, ...]:
        """What may stand before --weights NAME=."""
        return (type(self).name, *(part.name for part in self.parts))

    def as_variant(self, variant: str) -> "Metric":
        """Itself under the name NAME:VARIANT, its columns with _VARIANT behind them: several of them may judge the same rows."""
        cls, self.suffix = type(self), "_" + variant.replace("-", "_")
        self.name = f"{cls.name}:{variant}"
        self.columns, self.ranges = self.suffixed(cls.columns), self.suffixed(cls.ranges)
        return self

    def suffixed(self, cells: dict) -> dict:
        """`cells` of the class's columns under those of the instance."""
        return {column + self.suffix: value for column, value in cells.items()} if self.suffix else cells

    # --- in a worker -------------------------------------------------------------------------------------

    def row(self, item) -> dict[str, Any]:
        """The columns of a row: numbers, or a Skip where there is none.  `item`: a Pair, or what `run` gave."""
        raise NotImplementedError

    def features(self, item) -> dict[str, Any]:
        """What a set's metric needs of a row: name -> array.  `item`: a Pair, or what `run` gave."""
        return item

    def prepare(self, pair) -> dict[str, Any]:
        """For a network: its input for this row, name -> array."""
        raise NotImplementedError

    def expects(self):
        """(role, avtools.metrics.pictures.Watch) of all that it watches, so that one decode of the file serves all metrics."""
        return ()

    # --- a network, in the main process of each rank -----------------------------------------------------

    def load(self, device, weights) -> None:
        """Get ready to run; `weights`: :class:`avtools.hub.Weights`."""
        raise NotImplementedError

    def run(self, items: list[dict]) -> list[dict]:
        """Results of a batch, one for each item: name -> array."""
        raise NotImplementedError

    def weights_digest(self, weights) -> str | dict[str, str]:
        """What identifies the weights, for the summary: of one network, or name -> digest."""
        raise NotImplementedError

    # --- a whole set -------------------------------------------------------------------------------------

    def start(self):
        """The state of no rows."""
        raise NotImplementedError

    def accumulate(self, state, features: dict[str, Any]):
        """The state with one row more (may change and return `state`)."""
        raise NotImplementedError

    def merge(self, state, other):
        """The state of both parts; changes neither."""
        raise NotImplementedError

    def finalize(self, state) -> dict[str, Any]:
        """The set's columns: numbers, or a Skip where there is none."""
        raise NotImplementedError

    def finalize_whole(self, state) -> dict[str, Any]:
        """Those of its columns (`alone`) that take too long to be asked for each part of the jackknife."""
        return {}

    def remarks(self, state) -> list[str]:
        """What whoever reads the columns of the whole set must know, a line each."""
        return []


def check_installed(metric: type[Metric]) -> None:
    """FatalError where a package is missing that `metric` needs."""
    missing = [package for module, package in metric.requires if importlib.util.find_spec(module) is None]
    if missing:
        raise FatalError(f"metric '{metric.name}' needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}")


def named(name: str, cls: type[Metric]) -> str | None:
    """The variant in NAME[:VARIANT]; UsageError where `cls` has none of that name."""
    _, colon, variant = name.partition(":")
    if colon and variant not in cls.variants:
        known = f"it has {', '.join(cls.variants)}" if cls.variants else f"it has none; write {cls.name}"
        raise UsageError(f"{name}: metric '{cls.name}' has no variant '{variant}' ({known})")
    return variant or None


def configured(classes: list[type[Metric]], protocol: str | None, sets: tuple[str, ...], variants: list[str | None] | None = None) -> list[Metric]:
    """Instances of the metrics with the settings of `protocol` and of `sets` ("[METRIC.]KEY=VALUE").

    `variants`: of each class, one of its variants, or None; a class may be there once for each.
    """
    variants = variants or [None] * len(classes)
    classes = [cls.under(protocol) for cls in classes]
    if protocol is not None and not any(protocol in cls.protocols for cls in classes):
        known = sorted({name for cls in classes for name in cls.protocols})
        told = f"; they have: {', '.join(known)}" if known else "; they have only their standard definition"
        raise UsageError(f"--protocol {protocol}: none of {', '.join(cls.name for cls in classes)} has it{told}")
    distinct = list(dict.fromkeys(classes))
    chosen: dict[str, dict] = {cls.name: dict(cls.protocols.get(protocol, {})) for cls in distinct}
    for text in sets:
        key, sign, value = text.partition("=")
        metric, _, name = key.rpartition(".")
        found = [cls for cls in distinct if name in cls.settings and metric in ("", cls.name)]
        if not sign or len(found) != 1:
            known = ", ".join(f"{cls.name}.{name}" for cls in distinct for name in cls.settings) or "none"
            why = "is not KEY=VALUE" if not sign else "is a setting of several; write METRIC.KEY" if found else "is no setting of these metrics"
            raise UsageError(f"--set {text}: {why} (there are: {known})")
        if name in found[0].protocols.get(protocol, {}):
            raise UsageError(f"--set {text}: --protocol {protocol} fixes it")
        if name == "model" and any(variant for cls, variant in zip(classes, variants, strict=True) if cls is found[0]):
            raise UsageError(f"--set {text}: the metric's name says which, as in {found[0].name}:{found[0].variants[0]}")
        chosen[found[0].name][name] = _read(value, found[0].settings[name], text)
    made = []
    for cls, variant in zip(classes, variants, strict=True):
        fixed = cls.protocols.get(protocol, {}).get("model", variant)
        if variant and variant != fixed:
            raise UsageError(f"{cls.name}:{variant}: --protocol {protocol} fixes the model, {fixed}; write {cls.name}, or leave the protocol out")
        settings = chosen[cls.name] | ({"model": variant} if variant else {})
        made.append(cls(**settings).as_variant(variant) if variant else cls(**settings))
    return made


def _read(value: str, default, text: str):
    try:
        number = type(default)(value)
    except ValueError:
        raise UsageError(f"--set {text}: '{value}' is no {'whole number' if isinstance(default, int) else 'number'}") from None
    if not isinstance(number, str) and not 0 <= number < math.inf:
        raise UsageError(f"--set {text}: give a finite number, zero or more")
    return number


# --- intervals ------------------------------------------------------------------------------------------


class Mean:
    """A column's mean over rows with its interval (Student's t); Welford's sums, in the table's order."""

    how = "95 %, Student's t over rows"

    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.skipped: dict[str, int] = {}

    def add(self, value: float | None, reason: str | None, key: int = 0) -> None:
        """One row more; None: skipped, for this reason.  `key`: a hash of its key."""
        if value is None:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
            return
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self.squares += step * (value - self.mean)

    @property
    def std(self) -> float | None:
        """The unbiased standard deviation over rows; None for fewer than 2."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None

    def interval(self, low: float = -math.inf, high: float = math.inf) -> list[float] | None:
        """Both ends, within the column's range; None for fewer than 3 rows."""
        if self.count < 3:
            return None
        half = student(self.count - 1) * self.std / math.sqrt(self.count)
        return [max(low, self.mean - half), min(high, self.mean + half)]


class Bootstrapped(Mean):
    """A mean with a bootstrap's percentile interval: resamples of keys, since rows of one key (samples of one clip) are not independent.

    How often a key is in each resample is drawn from Poisson(1), by the key alone (Hanley and MacGibbon 2006): sums suffice, and
    the interval depends neither on the rows' order nor on the number of ranks.
    """

    how = f"95 %, percentiles of {RESAMPLES} bootstrap resamples of keys"

    def __init__(self):
        import numpy as np

        super().__init__()
        self.weights, self.sums = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
        self.keys: set[int] = set()  # 3 of them at most: of fewer there is no interval

    def add(self, value, reason, key=0):
        super().add(value, reason, key)
        if value is not None:
            drawn = _resampled(key)
            if len(self.keys) < 3:
                self.keys.add(key)
            self.weights += drawn
            self.sums += drawn * value

    def interval(self, low=-math.inf, high=math.inf):
        """Both ends, within the column's range; None for fewer than 3 keys, however many rows they have."""
        import numpy as np

        if len(self.keys) < 3:
            return None
        there = self.weights > 0
        ends = np.percentile(self.sums[there] / self.weights[there], (2.5, 97.5))
        return [max(low, float(ends[0])), min(high, float(ends[1]))]


@functools.lru_cache(maxsize=64)
def _resampled(key: int):
    """How often the key is in each resample: float array (RESAMPLES,)."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=key)).poisson(1.0, RESAMPLES).astype(float)


#: --intervals -> of the means of rows; those of whole sets are the jackknife's always: resamples hold rows twice, which biases distances.
INTERVALS = {"t": Mean, "bootstrap": Bootstrapped}


class Jackknife:
    """A set's metric over blocks of rows, each left out in turn."""

    how = f"95 %, jackknife over up to {BLOCKS} blocks of rows"

    def __init__(self, metric: Metric):
        self.metric, self.states, self.count = metric, {}, 0
        self.skipped: dict[str, int] = {}

    def add(self, features: dict | None, block: int, reason: str | None) -> None:
        """One row more; None: skipped, for this reason."""
        if features is None:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
            return
        self.count += 1
        state = self.states[block] if block in self.states else self.metric.start()
        self.states[block] = self.metric.accumulate(state, features)

    def results(self) -> tuple[dict, dict]:
        """Column -> value of the whole set (or a Skip), and column -> interval (None where there is none)."""
        metric, states = self.metric, self._parts()
        after = [metric.start()]  # sums from the end: the whole without one block is then one merge
        for state in reversed(states):
            after.append(metric.merge(state, after[-1]))
        after.reverse()
        whole = self._finalized(after[0]) if states else dict.fromkeys(metric.columns, Skip("no row has anything to measure"))
        if states:
            whole |= metric.suffixed(metric.finalize_whole(after[0]))
        before, parts = metric.start(), []
        for k, state in enumerate(states):
            parts.append(self._finalized(metric.merge(before, after[k + 1])))
            before = metric.merge(before, state)
        alone = metric.suffixed(dict.fromkeys(metric.alone))
        return whole, {c: None if c in alone else self._interval(c, whole[c], [part[c] for part in parts]) for c in metric.columns}

    def remarks(self) -> list[str]:
        """The metric's, on the whole set."""
        states = self._parts()
        return self.metric.remarks(functools.reduce(self.metric.merge, states)) if states else []

    def _parts(self) -> list:
        return [self.states[block] for block in sorted(self.states)]

    def _finalized(self, state) -> dict:
        try:
            return self.metric.suffixed(self.metric.finalize(state))
        except Skip as skip:
            return dict.fromkeys(self.metric.columns, skip)

    def _interval(self, column: str, whole, parts: list) -> list[float] | None:
        count = len(parts)
        if count < 3 or any(isinstance(value, Skip) for value in [whole, *parts]):
            return None
        middle = math.fsum(parts) / count
        half = student(count - 1) * math.sqrt((count - 1) / count * math.fsum((value - middle) ** 2 for value in parts))
        low, high = self.metric.ranges.get(column, (-math.inf, math.inf))
        return [max(low, whole - half), min(high, whole + half)]


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t with 2 or more degrees of freedom (Abramowitz and Stegun 26.7.5; within 1 %)."""
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
