"""Parts of the page beside its rows: summaries of scores, training curves, the table's statistics."""

from collections.abc import Iterable

from avtools.metrics import comparing
from avtools.reporting import runs


def training(folders: Iterable[str]) -> list[dict]:
    """The runs' curves (:func:`.runs.read`), names made different where they are equal."""
    found = [(folder, runs.read(folder)) for folder in folders]
    names = [one["name"] for _, one in found]
    return [{**one, "name": folder if names.count(one["name"]) > 1 else one["name"]} for folder, one in found]


def summaries(read: list[tuple[str, dict]]) -> dict | None:
    """Summaries of `score` side by side: `names`, `rows` (a line for each column of any), `unlike` (what makes them incomparable)."""
    if not read:
        return None
    names = [comparing.label(path, one) for path, one in read]
    names = [path if names.count(name) > 1 else name for name, (path, _) in zip(names, read, strict=True)]
    columns = list(dict.fromkeys(column for _, one in read for column in one["metrics"]))
    lines = []
    for column in columns:
        entries = [one["metrics"].get(column) for _, one in read]
        first = next(entry for entry in entries if entry is not None)
        lines.append({"column": column, "metric": first["metric"], "direction": first.get("direction", "none"), "entries": [entry and _entry(entry) for entry in entries]})
    unlike = []
    for name, (_, one) in zip(names[1:], read[1:], strict=True):
        unlike += [f"{names[0]} and {name}: {line}" for line in comparing.differences(read[0][1], one)]
    canary = [
        {"column": column, "control": control, "summary": name, "told_apart": told.get("told_apart")}
        for name, (_, one) in zip(names, read, strict=True)
        for column, controls in one.get("canary", {}).items()
        for control, told in controls.items()
    ]
    return {"names": names, "rows": lines, "unlike": unlike, "canary": canary}


def _entry(entry: dict) -> dict:
    chance = (entry.get("chance") or {}).get("value", (entry.get("chance") or {}).get("mean"))
    return {
        "value": entry.get("mean", entry.get("value")),
        "interval": entry["interval"],
        "count": entry["count"],
        "skipped": sum(entry["skipped"].values()),
        "chance": chance,
        "warnings": entry.get("warnings") or [],
    }


def directions(header: Iterable[str], read: list[tuple[str, dict]], known: dict[str, str]) -> dict[str, str]:
    """Column -> "higher" or "lower" is better, of those that a summary or `known` (column -> direction) tells of."""
    found = dict(known)
    for _, one in read:
        found |= {column: entry["direction"] for column, entry in one["metrics"].items() if "direction" in entry}
    return {column: found[column] for column in header if found.get(column) in ("higher", "lower")}


def statistics(header: list[str], rows: Iterable[dict]) -> dict:
    """What `mkmeta stats` says of the rows."""
    from avtools.reporting.page import CELL
    from avtools.rows import stats

    table = stats.Table(header, [name for name in ("split", "source", "class") if name in header])
    table.add({name: cell for name, cell in row.items() if name != CELL} for row in rows)
    return table.summary()
