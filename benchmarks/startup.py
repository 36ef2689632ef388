"""How long `avtools --help` takes, and how soon `probe` gives its first row."""

import subprocess
import sys
import time

from . import common
from .common import AVTOOLS, Result


def measure(quick: bool) -> list[Result]:
    rounds = 3 if quick else 21
    with common.folder() as where:
        sources = common.clips(where) if not quick else common.synthetic(where, 2, 1)
        table = common.table(where / "t.csv", "path", common.copies(sources, where / "in", 20 if quick else 1000))
        times = common.in_turn(
            rounds,
            help=lambda: common.run(*AVTOOLS, "--help"),
            click=lambda: common.run(sys.executable, "-c", "import click"),
            first=lambda: first_row(table),
        )
    ours, peer, first = times["help"], times["click"], times["first"]
    return [
        Result('`avtools --help`; `python -c "import click"`', f"{1000 * ours:.0f} ms", f"{1000 * peer:.0f} ms", peer / ours, "at most 2 times as long", ours <= 2 * peer),
        Result("probe: its first row on a pipe", f"{1000 * first:.0f} ms", "", None, "within 500 ms", first <= 0.5),
    ]  # fmt: skip


def first_row(table) -> float:
    begun = time.perf_counter()
    process = subprocess.Popen([*AVTOOLS, "probe", "-q", str(table)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    lines = 0
    while lines < 2:
        block = process.stdout.read(1 << 16)
        if not block:
            raise SystemExit("probe gave no row")
        lines += block.count(b"\n")
    taken = time.perf_counter() - begun
    process.stdout.close()  # as `head` does
    process.wait()
    return taken
