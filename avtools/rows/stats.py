"""What a table holds: counts, hours, distributions, shares, missing and repeated cells.

Rows come as a stream; of each only its numbers and hashes are kept, in flat arrays, and numpy makes the rest at the end.
"""

import collections
import itertools
import json
import math
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from avtools.errors import FatalError
from avtools.rows.formats import shown
from avtools.rows.keys import PLACEHOLDER, parse_number
from avtools.rows.writing import cell_text

FORMAT = 1  # of the summary
BATCH = 4096  # rows
MOST = 20  # values of a column that are told one by one
BINS = 30  # of a histogram, at most
LONGEST = 1e12  # seconds; what says more is no length

QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
COLUMNS = ("column", "value", "count", "share", "hours", "mean", "std", "min", *QUANTILES, "max")

#: A column's name, ours or an original's -> what it means
MEANING = {"video_path": "path", "audio_file": "audio_path", "description": "text", "audio_length_s": "audio_duration"}
PICTURE = frozenset(("num_frames", "height", "width", "fps", "duration"))
NUMBERS = PICTURE | {"audio_fps", "audio_channels", "audio_duration", "av_offset"}
SHARED = frozenset(("fps", "audio_fps", "audio_channels"))  # numbers whose values' shares are told too
CAPTIONS = frozenset(("text", "audio_text"))
UNITS = dict.fromkeys(("duration", "audio_duration", "audio_length_s", "av_offset"), "s")
PATHS = frozenset(("path", "audio_path", "image_path"))


class Table:
    """The statistics of rows, added by :meth:`add`.

    `header`: their columns; `by`: columns whose values' shares are told; `numbers`: columns whose distribution is told
    beside the :data:`NUMBERS`.  A row with an `error` counts as bad and nowhere else.  Picture cells beside
    `placeholder.mp4` count nowhere.  NaN and infinities are missing.  A row's hours are its `duration`, else
    its `audio_duration`, else `num_frames`/`fps`; never negative, never of an assumed rate.
    """

    def __init__(self, header: Iterable[str], by: Iterable[str] = (), numbers: Iterable[str] = ()):
        self.rows = self.bad = 0
        self.missing: dict[str, int] = {column: 0 for column in header if column != "error"}
        self.odd: collections.Counter[str] = collections.Counter()  # cells of number columns that are none
        self.numeric = frozenset(numbers)
        self.numbers: dict[str, array] = {}  # for each row a number; NaN: none; infinite: what is there is none
        self.lengths: dict[tuple[str, str], array] = {}  # (column, words or characters), of the captions there are
        self.codes = {column: array("i") for column in by}  # for each row the place of its value in `values`, or -1
        self.values: dict[str, dict[str, int]] = {column: {} for column in by}
        self.hashes: dict[str, array] = {}  # of the paths there are
        self.seconds = array("d")  # of each row, or NaN
        self.dummies = array("b")  # whether its picture is placeholder.mp4
        self.media = {"with a picture": [0, 0.0], "with sound": [0, 0.0]}  # rows, seconds

    def add(self, rows: Iterable[dict]) -> None:
        """Take all rows of an iterable."""
        rows = iter(rows)
        while batch := list(itertools.islice(rows, BATCH)):
            good = [row for row in batch if not row.get("error")]
            self.bad += len(batch) - len(good)
            if good:
                self._add(good)

    def _add(self, batch: list[dict]) -> None:
        import numpy as np

        for column in sorted(set().union(*batch).difference(self.missing, ("error",))):  # JSONL keys that turn up later
            self.missing[column] = self.rows
        cells = {column: [row.get(column) for row in batch] for column in self.missing}
        means: dict[str, str] = {}  # meaning -> the column that has it; ours before an original's
        for column in sorted(cells, key=lambda column: column in MEANING):
            means.setdefault(MEANING.get(column, column), column)
        none = np.zeros(len(batch), bool)
        dummy = np.array([cell == PLACEHOLDER for cell in cells[means["path"]]]) if "path" in means else none
        numbers: dict[str, np.ndarray] = {}  # by meaning
        for column, values in cells.items():
            meaning = MEANING.get(column, column)
            if meaning in NUMBERS or column in self.numeric:
                found, odd = _numbers(values)
                gone = np.isnan(found)
                if meaning in PICTURE:
                    numbers[meaning] = found  # the length of a row without picture is that of its sound, which these cells follow
                    found, gone, odd = np.where(dummy, math.nan, found), gone & ~dummy, odd & ~dummy
                if means[meaning] == column:
                    numbers.setdefault(meaning, found)
                self.odd[column] += int(odd.sum())
                self.missing[column] += int((gone & ~odd).sum())
                self._keep(column, np.where(odd, math.inf, found))
            else:
                self.missing[column] += _empty(values)
            if meaning in CAPTIONS:
                self._captions(column, values, dummy)
            elif meaning in PATHS:
                given = [cell_text(cell) for cell in values if cell not in (None, "", PLACEHOLDER)]
                self.hashes.setdefault(column, array("q")).extend(map(hash, given))
        for column, codes in self.codes.items():
            known = self.values[column]
            texts = ("" if cell is None or cell != cell else cell_text(cell) for cell in cells.get(column, [None] * len(batch)))
            codes.extend(known.setdefault(text, len(known)) if text else -1 for text in texts)

        seconds = _seconds(numbers, dummy)
        self.seconds.frombytes(seconds.tobytes())
        self.dummies.frombytes(dummy.tobytes())
        picture = np.array([bool(cell) for cell in cells[means["path"]]]) & ~dummy if "path" in means else none
        sound = np.array([bool(cell) for cell in cells[means["audio_path"]]]) if "audio_path" in means else none
        sound = sound | (numbers.get("audio_fps", none) > 0) | (numbers.get("audio_duration", none) > 0)
        for name, has in (("with a picture", picture), ("with sound", sound)):
            self.media[name][0] += int(has.sum())
            self.media[name][1] += float(np.nansum(seconds[has]))
        self.rows += len(batch)

    def _keep(self, column: str, found) -> None:
        kept = self.numbers.setdefault(column, array("d"))
        if len(kept) < self.rows:  # it turned up later
            kept.extend(itertools.repeat(math.nan, self.rows - len(kept)))
        kept.frombytes(found.tobytes())

    def _captions(self, column: str, values: list, dummy) -> None:
        """The lengths of captions; `placeholder` beside placeholder.mp4 is none."""
        given = [cell_text(cell) for cell, none in zip(values, dummy.tolist(), strict=True) if not (cell is None or cell == "" or cell != cell or none and cell == "placeholder")]
        self.lengths.setdefault((column, "words"), array("I")).extend(len(text.split()) for text in given)
        self.lengths.setdefault((column, "characters"), array("I")).extend(map(len, given))

    def summary(self) -> dict:
        """All of it, JSON: `rows`, `columns` (missing, repeated), `numbers` (with histograms), `shares`."""
        import numpy as np

        from avtools import __version__

        seconds = np.frombuffer(self.seconds, float) if self.rows else np.zeros(0)
        known = seconds[~np.isnan(seconds)]
        rows = {"count": self.rows, "bad": self.bad, "hours": _hours(known.sum()), "duration_unknown": self.rows - len(known)}
        rows |= {name.replace(" a ", "_").replace(" ", "_"): {"count": count, "hours": _hours(total)} for name, (count, total) in self.media.items()}
        columns: dict[str, dict] = {column: {"missing": missing} for column, missing in self.missing.items()}
        for column, hashes in self.hashes.items():
            columns[column]["repeated"] = len(hashes) - len(np.unique(np.frombuffer(hashes, np.int64))) if hashes else 0
        numbers, shares = {}, {}
        dummies, nobody = np.frombuffer(self.dummies, bool) if self.rows else np.zeros(0, bool), np.zeros(self.rows, bool)
        for column in self.missing:
            if column in self.codes:
                codes = np.array(self.codes[column], np.int64)
                shares[column] = _shares(codes, list(self.values[column]), seconds, nobody)
            if column in self.numbers:
                all_ = self._all(column)
                numbers[column] = _described(all_[np.isfinite(all_)]) | {"not_numbers": self.odd[column]}
                if MEANING.get(column, column) in SHARED and column not in self.codes:
                    values, codes = _coded(all_)
                    shares[column] = _shares(codes, [_short(value) for value in values], seconds, dummies if column == "fps" else nobody)
            for unit in ("words", "characters"):
                if (column, unit) in self.lengths:
                    lengths = self.lengths[column, unit]
                    numbers[f"{column} {unit}"] = _described(np.array(lengths, float))
        if {"width", "height"} <= self.numbers.keys() and "size" not in self.missing:
            width, height = self._all("width"), self._all("height")
            pairs = np.where(np.isinf(width) | np.isinf(height), math.inf, np.where(np.isnan(width) | np.isnan(height), math.nan, 0)).astype(complex)
            there = pairs == 0
            pairs.real[there], pairs.imag[there] = width[there], height[there]
            values, codes = _coded(pairs)
            shares["size"] = _shares(codes, [f"{_short(value.real)}x{_short(value.imag)}" for value in values], seconds, dummies)
        return {"stats": FORMAT, "avtools": __version__, "rows": rows, "columns": columns, "numbers": numbers, "shares": shares}

    def _all(self, column: str):
        """The column's number in each row, NaN where there is none."""
        import numpy as np

        found = np.frombuffer(self.numbers[column], float)
        return np.concatenate([found, np.full(self.rows - len(found), math.nan)])


def _empty(cells: list) -> int:
    """How many cells are None, empty or NaN."""
    return cells.count("") + cells.count(None) + (sum(1 for cell in cells if cell != cell) if float in set(map(type, cells)) else 0)


def _numbers(cells: list):
    """The cells as floats, NaN where they are missing or no numbers, and where they are none (bool); arrays."""
    import numpy as np

    kinds, odd = set(map(type, cells)), np.zeros(len(cells), bool)
    found = None
    try:
        if kinds == {str}:
            text = "".join(cells)
            if text.isascii() and "_" not in text:  # Python reads 1_000 and other scripts' digits; tables don't mean them
                found = np.fromiter((float(cell or "nan") for cell in cells), float, len(cells))
        elif kinds <= {int, float, type(None)}:
            found = np.fromiter((math.nan if cell is None else cell for cell in cells), float, len(cells))
    except (ValueError, OverflowError):
        pass
    if found is None:
        found = np.full(len(cells), math.nan)
        for i, cell in enumerate(cells):
            if cell is None or cell == "":
                continue
            number = parse_number(cell)
            odd[i] = number is None
            try:
                found[i] = math.nan if number is None else number
            except OverflowError:  # no float holds it
                odd[i] = True
    found[np.isinf(found)] = math.nan
    return found, odd


def _seconds(numbers: dict, dummy):
    """Each row's length in seconds by its cells (`numbers`, by meaning), NaN where none tells; `dummy`: rows without picture."""
    import numpy as np

    nothing = np.full(len(dummy), math.nan)
    frames, fps = numbers.get("num_frames", nothing), numbers.get("fps", nothing)
    with np.errstate(all="ignore"):
        counted = np.where(fps > 0, frames / fps, math.nan)
        picture, sound, counted = (np.where((a >= 0) & (a <= LONGEST), a, math.nan) for a in (numbers.get("duration", nothing), numbers.get("audio_duration", nothing), counted))
    first, second = np.where(dummy, sound, picture), np.where(dummy, picture, sound)
    first = np.where(np.isnan(first), second, first)
    return np.where(np.isnan(first), counted, first)


def _hours(seconds) -> float:
    return float(seconds) / 3600


def _short(number: float) -> str:
    """A number as a category's name: whole ones without a point."""
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(float(number))


#: Codes of rows without a value
WITHOUT = {-1: "(missing)", -2: "(not a number)", -3: "(no picture)"}


def _coded(found) -> tuple[list, Any]:
    """The different values of an array in ascending order, and for each element the place of its value, else of `WITHOUT`."""
    import numpy as np

    there = np.isfinite(found)
    values, places = np.unique(found[there], return_inverse=True)
    codes = np.where(np.isnan(found), -1, -2)
    codes[there] = places
    return values.tolist(), codes


def _shares(codes, values: list[str], seconds, dummies) -> list[dict]:
    """Count, share of the rows and hours of each value, the most frequent first; then of the others, and of rows without.

    `codes`: each row's place in `values`, or one of `WITHOUT`; `dummies` (bool): rows that need not have a value.
    """
    import numpy as np

    size, shift = len(values), len(WITHOUT)
    codes = np.where(dummies & (codes < 0), -3, codes) + shift
    counts = np.bincount(codes, minlength=size + shift)
    sums = np.bincount(codes, weights=np.nan_to_num(seconds), minlength=size + shift)
    total = max(1, len(codes))

    def entry(value: str, count, length) -> dict:
        return {"value": value, "count": int(count), "share": int(count) / total, "hours": _hours(length)}

    order = sorted(range(size), key=lambda place: (-counts[place + shift], values[place]))
    told = [entry(values[place], counts[place + shift], sums[place + shift]) for place in order[:MOST]]
    if rest := order[MOST:]:
        told.append(entry("(other)", sum(counts[place + shift] for place in rest), sum(sums[place + shift] for place in rest)))
    return told + [entry(name, counts[code + shift], sums[code + shift]) for code, name in WITHOUT.items() if counts[code + shift]]


def _described(found) -> dict:
    """Count, mean, standard deviation (of a sample: n - 1), extremes, quantiles (linear) and histogram of finite numbers."""
    import numpy as np

    if not len(found):
        return {"count": 0, **dict.fromkeys(COLUMNS[5:]), "histogram": {"edges": [], "counts": []}}
    with np.errstate(all="ignore"):
        told = {"mean": found.mean(), "std": found.std(ddof=1) if len(found) > 1 else math.nan, "min": found.min()}
        told |= dict(zip(QUANTILES, np.quantile(found, list(QUANTILES.values())), strict=True))
        told["max"] = found.max()
        counts, edges = np.histogram(found, _edges(found))
    whole = bool((found == np.floor(found)).all() and abs(found).max() < 2**53)
    values = {name: None if not math.isfinite(value) else float(value) for name, value in told.items()}
    if whole:
        values |= {"min": int(told["min"]), "max": int(told["max"])}
    return {"count": len(found), **values, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _edges(found):
    """The edges of a histogram: of whole numbers half-way between them, so that each bin holds equally many."""
    import numpy as np

    low, high = found.min(), found.max()
    if (found == np.floor(found)).all() and high - low < 2**40 and abs(found).max() < 2**50:
        step = math.ceil((high - low + 1) / BINS)
        return low - 0.5 + step * np.arange(math.ceil((high - low + 1) / step) + 1)
    edges = np.linspace(low, high, BINS + 1)
    return edges if np.isfinite(edges).all() and (np.diff(edges) > 0).all() else np.array([low, high])


def records(summary: dict) -> Iterator[dict]:
    """The summary as a long table: :data:`COLUMNS`."""
    rows, total = summary["rows"], max(1, summary["rows"]["count"])
    empty = dict.fromkeys(COLUMNS)

    def line(column: str, value: str | None, count: int, of: int = total, **cells) -> dict:
        return {**empty, "column": column, "value": value, "count": count, "share": count / of, **cells}

    yield line("rows", None, rows["count"], hours=rows["hours"]) | {"share": 1.0}
    yield line("rows", "with a picture", **_counted(rows["with_picture"]))
    yield line("rows", "with sound", **_counted(rows["with_sound"]))
    yield line("rows", "(duration unknown)", rows["duration_unknown"])
    yield line("rows", "(bad)", rows["bad"], max(1, rows["count"] + rows["bad"]))

    def number(name: str) -> dict:
        told = summary["numbers"][name]
        return line(name, None, told["count"], **{column: told[column] for column in COLUMNS[5:]})

    for column, told in summary["columns"].items():
        if column in summary["numbers"]:
            yield number(column)
        values = summary["shares"].get(column, [])
        for entry in values:
            yield {**empty, "column": column, **entry}
        if column not in summary["shares"] and summary["numbers"].get(column, {}).get("not_numbers"):
            yield line(column, "(not a number)", summary["numbers"][column]["not_numbers"])
        if told["missing"] and column not in summary["shares"]:
            yield line(column, "(missing)", told["missing"])
        if "repeated" in told:
            yield line(column, "(repeated)", told["repeated"])
        for unit in ("words", "characters"):
            if f"{column} {unit}" in summary["numbers"]:
                yield number(f"{column} {unit}")
    for entry in summary["shares"].get("size", []) if "size" not in summary["columns"] else ():
        yield {**empty, "column": "size", **entry}


def _counted(entry: dict) -> dict:
    return {"count": entry["count"], "hours": entry["hours"]}


def lines(summary: dict) -> list[str]:
    """The summary as aligned lines for people."""
    rows, total = summary["rows"], max(1, summary["rows"]["count"])
    unknown = f" ({rows['duration_unknown']} of unknown duration)" if rows["duration_unknown"] else ""
    told = [f"{rows['count']} rows, {rows['hours']:.4g} hours{unknown}" + (f"; {rows['bad']} more are bad" if rows["bad"] else "")]
    told.append(", ".join(f"{rows[key]['count']} {key.replace('_', ' ')} ({rows[key]['hours']:.4g} hours)" for key in ("with_picture", "with_sound")))
    shown_ = ("count", "mean", "std", "min", "p5", "median", "p95", "max")
    table = [("", *shown_)] + [(name, *(_rounded(one[column]) for column in shown_)) for name, one in summary["numbers"].items() if one["count"]]
    told += _aligned(table) if len(table) > 1 else []
    for column, entries in summary["shares"].items():
        if entries:
            told += _aligned([(column, "rows", "share", "hours")] + [(f"  {e['value']}", str(e["count"]), f"{e['share']:.1%}", f"{e['hours']:.4g}") for e in entries])
    for what in ("missing", "repeated"):
        found = [f"{column} {one[what]} ({one[what] / total:.1%})" for column, one in summary["columns"].items() if one.get(what)]
        told += [f"{what}: {', '.join(found)}"] * bool(found)
    odd = [f"{name} {one['not_numbers']}" for name, one in summary["numbers"].items() if one.get("not_numbers")]
    return told + [f"not numbers: {', '.join(odd)}"] * bool(odd)


def _rounded(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.0f}" if number == round(number) and abs(number) < 1e12 or 1e4 <= abs(number) < 1e12 else f"{number:.4g}"


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """The first column to the left, the others to the right."""
    table = [(shown(row[0])[:60], *row[1:]) for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip() for row in table]


def picture(summary: dict, suffix: str) -> bytes:
    """Histograms of all numbers and bars of all shares as one picture (`png`, `svg` or `pdf`); equal bytes for equal summaries."""
    import io
    import logging
    import warnings

    check_plot()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.figure import Figure

    shares = [(name, entries) for name, entries in summary["shares"].items() if entries]
    told = {"width", "height"} if "size" in summary["shares"] else set()
    numbers = [(name, one) for name, one in summary["numbers"].items() if one["count"] and name not in told | summary["shares"].keys()]
    numbers = [(name, one) for name, one in numbers if max(abs(one["min"]), abs(one["max"])) < 1e100]  # an axis holds no more
    count = max(1, len(numbers) + len(shares))
    across = min(4, count)
    down = math.ceil(count / across)
    stamp = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}[suffix]
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font has not every script's characters
        matplotlib.rcdefaults()  # nobody's own style
        matplotlib.rcParams["svg.hashsalt"] = "avtools"
        matplotlib.rcParams["axes.formatter.useoffset"] = False
        figure = Figure(figsize=(4 * across, 3 * down), layout="constrained")
        rows = summary["rows"]
        figure.suptitle(f"{rows['count']} rows, {rows['hours']:.4g} hours", parse_math=False)
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for axis in axes[len(numbers) + len(shares) :]:
            axis.set_axis_off()
        for axis, (name, one) in zip(axes, numbers):
            counts, edges = one["histogram"]["counts"], one["histogram"]["edges"]
            axis.stairs(counts, edges if edges[0] < edges[-1] else [edges[0] - 0.5, edges[-1] + 0.5], fill=True, color="#4477aa")
            axis.axvline(one["median"], color="#cc6677", linewidth=1)
            axis.set_title(f"{name} ({UNITS[name]})" if name in UNITS else name, fontsize=9, parse_math=False)
            axis.tick_params(labelsize=7)
        for axis, (name, entries) in zip(axes[len(numbers) :], shares):
            axis.barh(range(len(entries)), [100 * entry["share"] for entry in entries], color="#4477aa")
            axis.set_yticks(range(len(entries)), [shown(entry["value"])[:24] for entry in entries], fontsize=6, parse_math=False)
            axis.invert_yaxis()
            axis.tick_params(axis="x", labelsize=7)
            axis.set_title(f"{name} (% of rows)", fontsize=9, parse_math=False)
        data = io.BytesIO()
        figure.savefig(data, format=suffix, dpi=100, metadata=stamp)
    return data.getvalue()


def check_plot() -> None:
    """Raise FatalError where pictures cannot be drawn."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise FatalError("--plot needs matplotlib, which is not installed: pip install 'avtools[plot]'")


def as_json(summary: dict) -> bytes:
    """The bytes of the file that `--summary` names."""
    text = json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")
