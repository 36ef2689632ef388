"""Resident memory of the process that reads and writes, and of all processes together, over many short files."""

import os
import subprocess
import threading

from . import common
from .common import AVTOOLS, Result

LIMIT = 250  # MB


def measure(quick: bool) -> list[Result]:
    few, many, written = (20, 100, 40) if quick else (1000, 100_000, 20_000)
    with common.folder() as where:
        clips = common.synthetic(where, 4, 1, size="64x48", rate=16000, fps=24)
        waves = common.waves(clips, where / "wav")
        made = []
        for name, column, files, counts, options in (
            ("probe", "path", clips, (few, many), []),
            ("trim --no-fsync", "audio_path", waves, (few, written), ["--max-seconds", "0.1", "-d", str(where / "out")]),
        ):
            peaks = []
            for count in counts:
                table = where / f"{column}{count}.csv"
                with open(table, "w") as file:
                    file.write(f"{column},relpath\n")
                    file.writelines(f"{files[k % len(files)]},{k // 1000}/{k}\n" for k in range(count))
                peaks.append(peak_of([*AVTOOLS, *name.split(), "-q", *options, str(table), "-o", str(where / "o.csv")]))
            (small, _), (large, tree) = peaks
            flat = large <= small * 1.1 + 10 and large < LIMIT
            made.append(
                Result(
                    f"{name}: peak memory of the parent over {counts[1]:,} rows (ours) and {counts[0]:,} (peer); all processes {tree:.0f} MB",
                    f"{large:.0f} MB", f"{small:.0f} MB", None, f"flat and under {LIMIT} MB", flat,
                )
            )  # fmt: skip
        return made


def peak_of(command: list[str]) -> tuple[float, float]:
    """(peak resident memory of the process, peak of the shares of all in its tree), MB."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, ended = [0.0, 0.0], threading.Event()

    def watch():
        while not ended.wait(0.25):
            peak[0] = max(peak[0], _field(f"/proc/{process.pid}/status", "VmHWM"))
            peak[1] = max(peak[1], sum(_field(f"/proc/{pid}/smaps_rollup", "Pss") for pid in _tree(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, said = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:300]}\n{said.decode()[-2000:]}")
    return tuple(peak)


def _field(path: str, name: str) -> float:
    try:
        with open(path) as file:
            return next((int(line.split()[1]) / 1024 for line in file if line.startswith(name + ":")), 0.0)
    except OSError:  # it has ended
        return 0.0


def _tree(root: int) -> list[int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
