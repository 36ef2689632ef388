"""Captions for a million rows: `mkmeta join` against the pandas way (read both tables, make the keys, merge, write).

The tables are made from a seed: VGGSound's layout, 200,000 captions, a twentieth of the rows without one.  Both ways must give the
same captions in the same order.
"""

import csv
import random
import string
import sys

from . import common
from .common import AVTOOLS, Result, in_turn, run
from .memory import peak_of

PANDAS = """
import sys
import pandas as pd
rows, captions, out = sys.argv[1:]
table = pd.read_csv(rows, dtype=str, keep_default_na=False)
labels = pd.read_csv(captions, names=["video", "start", "text", "split"], dtype=str, keep_default_na=False)
labels["id"] = labels["video"] + "_" + labels["start"].str.zfill(6)
table.merge(labels[["id", "text", "split"]], on="id", how="inner").to_csv(out, index=False)
"""


def measure(quick: bool) -> list[Result]:
    rows, captions = (2000, 500) if quick else (1_000_000, 200_000)
    with common.folder() as where:
        _write(where, rows, captions)
        small = where / "small.csv"
        with open(where / "rows.csv") as file, open(small, "w") as part:
            part.writelines(line for line, _ in zip(file, range(rows // 10 + 1)))
        ours = [*AVTOOLS, "mkmeta", "join", "vggsound", "-q", "--captions", where / "vggsound.csv", "-o", where / "ours.csv"]
        theirs = [sys.executable, "-c", PANDAS, where / "rows.csv", where / "vggsound.csv", where / "theirs.csv"]
        took = in_turn(1 if quick else common.ROUNDS, ours=lambda: run(*ours, where / "rows.csv"), peer=lambda: run(*theirs))
        _compare(where)
        (large, _), (least, _), (pandas, _) = (peak_of(list(map(str, command))) for command in ([*ours, where / "rows.csv"], [*ours, small], theirs))
        what = f"mkmeta join vggsound, {rows:,} rows, {captions:,} captions; pandas merge"
        return [
            Result(what, f"{took['ours']:.1f} s", f"{took['peer']:.1f} s", took["peer"] / took["ours"], "seconds", took["ours"] < 60),
            Result("its peak memory", f"{large:.0f} MB", f"{pandas:.0f} MB", pandas / large if large else None, "", None),
            Result(f"its peak memory over {rows:,} rows (ours) and {rows // 10:,} (peer)", f"{large:.0f} MB", f"{least:.0f} MB", None, "flat", large < least * 1.1 + 10),
        ]


def _write(where, rows: int, captions: int) -> None:
    draw = random.Random(0)
    names = ["".join(draw.choices(string.ascii_letters + string.digits + "-_", k=11)) for _ in range(captions)]
    with open(where / "vggsound.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([name, i % 300, f"playing thing, number {i % 309}", "test" if i % 13 == 0 else "train"] for i, name in enumerate(names))
    with open(where / "rows.csv", "w") as file:
        file.write("path,id,relpath,num_frames,height,width,fps,duration\n")
        for row in range(rows):
            i = draw.randrange(captions + captions // 20)
            stem = f"{names[i]}_{i % 300:06d}" if i < captions else f"nobodyknows_{row:06d}"
            file.write(f"/data/vggsound/video/{stem}.mp4,{stem},{row // 1000}/{stem}.mp4,240,360,640,24.0,10.0\n")


def _compare(where) -> None:
    with open(where / "ours.csv", newline="") as one, open(where / "theirs.csv", newline="") as other:
        for ours, theirs in zip(csv.DictReader(one), csv.DictReader(other), strict=True):
            if any(ours[column] != theirs[column] for column in ("path", "id", "text", "split")):
                raise SystemExit(f"the captions differ: {ours} {theirs}")
