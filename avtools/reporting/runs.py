"""Training curves of a run's folder, read from its log.jsonl."""

import json
import math
import os

from avtools.errors import UsageError
from avtools.rows.formats import shown

POINTS = 400  # of a curve, at most
APART = frozenset(("step", "time", "epoch", "samples", "rows", "parameters", "steps", "ranks", "batch"))  # no curves of these
VALID = "valid_"


def read(folder: str) -> dict:
    """`name`, `curves` (measure -> [[step, value], ...] in order, thinned out to POINTS), `facts`, `best` of a run.

    A resumed run's lines after its checkpoint count instead of those that it had written before it was
    stopped.  Raises UsageError where the folder is no run's.
    """
    path = os.path.join(folder, "log.jsonl")
    curves: dict[str, list[tuple[int, float]]] = {}
    facts: dict = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    told = json.loads(line)
                    step = int(told["step"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # the last line of a run that was killed while it wrote
                if "resumed" in told:
                    curves = {name: [point for point in points if point[0] <= step] for name, points in curves.items()}
                elif step == 0 and "parameters" in told:
                    facts = {name: value for name, value in told.items() if name not in ("step", "time")}
                for name, value in told.items():
                    if name not in APART and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                        curves.setdefault(name, []).append((step, value))
    except OSError as error:
        raise UsageError(f"--run {shown(folder)}: {shown(path)}: {error.strerror}; give the folder that 'avtools train -d' wrote") from None
    try:
        with open(os.path.join(folder, "best.json"), encoding="utf-8") as file:
            best = json.load(file)
    except (OSError, ValueError):
        best = None
    name = os.path.basename(os.path.abspath(folder))
    return {"name": name, "facts": facts, "best": best if isinstance(best, dict) else None, "curves": {n: thinned(p) for n, p in curves.items() if p}}


def thinned(points: list[tuple[int, float]]) -> list[list[float]]:
    """At most POINTS points: of each span of steps the first, and its least and largest values where they are."""
    if len(points) <= POINTS:
        return [list(point) for point in points]
    kept = []
    span = math.ceil(len(points) / (POINTS // 4))
    for at in range(0, len(points), span):
        part = points[at : at + span]
        chosen = {0, min(range(len(part)), key=lambda k: part[k][1]), max(range(len(part)), key=lambda k: part[k][1])}
        kept += [list(part[k]) for k in sorted(chosen)]
    return kept if kept[-1] == list(points[-1]) else [*kept, list(points[-1])]
