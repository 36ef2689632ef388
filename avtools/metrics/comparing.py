"""Two summaries of `score` side by side, and whether they may be compared at all."""

import json
import os

from avtools.errors import UsageError
from avtools.metrics import scoring

SAME = ("summary", "avtools", "seed", "rows", "decoder")
OF_METRICS = ("weights", "libraries")  # by metric, and of what some metric needs: those that only one has are of metrics that only one has
FACTS = ("rate", "channels", "fps", "frames", "size", "decoder")  # of the judged media


def read(path: str) -> dict:
    """A summary; UsageError where the file is none."""
    try:
        with open(path, encoding="utf-8") as file:
            summary = json.load(file)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a file that 'avtools score --summary' wrote") from None
    except (ValueError, RecursionError):
        summary = None
    if not isinstance(summary, dict) or not isinstance(summary.get("metrics"), dict):
        raise UsageError(f"{path}: is no summary; give a file that 'avtools score --summary' wrote")
    if summary.get("summary") != scoring.FORMAT:
        raise UsageError(f"{path}: a summary of format {summary.get('summary')}, and this program reads {scoring.FORMAT}; make it anew")
    return summary


def differences(one: dict, other: dict) -> list[str]:
    """What makes the results of two summaries incomparable, a line each.

    Not so: how the pairs were made up (a control beside the true pairs), which columns held what was judged, how many
    rows were skipped, how long the judged sounds are.  Of the metrics, those that both have count.
    """
    found = []
    for name in SAME:
        found += _difference(name, one.get(name), other.get(name))
    for name in OF_METRICS:
        ours, theirs = one.get(name, {}), other.get(name, {})
        for key in sorted(ours.keys() & theirs.keys()):
            found += _difference(f"{name} {key}", ours[key], theirs[key])
    for role in ("reference_video", "reference_audio"):
        found += _difference(f"{role} column", one["columns"].get(role), other["columns"].get(role))
    for metric in one["definitions"].keys() & other["definitions"].keys():
        found += _difference(metric, one["definitions"][metric], other["definitions"][metric])
    for role in sorted(one["media"].keys() | other["media"].keys()):
        ours, theirs = one["media"].get(role), other["media"].get(role)
        if ours is None or theirs is None:
            if one["definitions"].keys() == other["definitions"].keys():
                found.append(f"{role}: judged in one of them alone")
            continue
        for name in FACTS:
            found += _difference(f"{role} {name}", _kinds(ours.get(name)), _kinds(theirs.get(name)))
    return sorted(found)


def _kinds(fact: dict | None):
    """The values of a fact, whatever their counts."""
    if fact is None or isinstance(fact["values"], str):
        return fact and [fact.get("min"), fact.get("max")]
    return [value for value, _ in fact["values"]]


def _difference(name: str, one, other) -> list[str]:
    if one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        keys = list(dict.fromkeys([*one, *other]))
        return [line for key in keys for line in _difference(f"{name} {key}", one.get(key), other.get(key))]
    return [f"{name}: {_said(one)} and {_said(other)}"]


def _said(value) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def side_by_side(one: dict, other: dict) -> list[dict]:
    """A row for each column that both summaries have: see COLUMNS of commands/compare.py."""
    rows = []
    for column in [column for column in one["metrics"] if column in other["metrics"]]:
        a, b = one["metrics"][column], other["metrics"][column]
        if a["metric"] != b["metric"]:
            continue
        left, right = (entry.get("mean", entry.get("value")) for entry in (a, b))
        direction = a.get("direction", "none")
        rows.append(
            {
                "column": column,
                "metric": a["metric"],
                "direction": direction,
                "a": left,
                "a_interval": a["interval"],
                "a_count": a["count"],
                "b": right,
                "b_interval": b["interval"],
                "b_count": b["count"],
                "difference": None if left is None or right is None else right - left,
                "better": _better(direction, a, b),
            }
        )
    return rows


def _better(direction: str, a: dict, b: dict) -> str | None:
    if scoring.apart(direction, a, b):
        return "a"
    return "b" if scoring.apart(direction, b, a) else None


def label(path: str, summary: dict) -> str:
    pairs = summary.get("pairs")
    if not isinstance(pairs, dict):
        return os.path.basename(path)
    return f"{os.path.basename(path)} (sounds exchanged within {', '.join(*pairs.values()) or 'the set'})"
