"""What the benchmarks share: files to work on, timing in turn, and the table's rows."""

import csv
import dataclasses
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROUNDS = 3
AVTOOLS = [sys.executable, "-m", "avtools"]
_script = Path(sys.executable).with_name("avtools")
if _script.exists():
    AVTOOLS = [str(_script)]


@dataclasses.dataclass
class Result:
    """A row of the table.  `ratio`: how many times better ours is; `asked`: the bar, in words."""

    what: str
    ours: str
    peer: str
    ratio: float | None
    asked: str
    holds: bool | None = None


def run(*command, **options) -> None:
    """Run a command line; its failure ends the benchmark with its own words."""
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))[:300]}\n{done.stderr[-2000:]}")


def seconds(function: Callable[[], float | None]) -> float:
    """How long the function takes, or what it says itself that the part to measure took."""
    begun = time.perf_counter()
    said = function()
    return time.perf_counter() - begun if said is None else said


def in_turn(rounds: int, **functions: Callable[[], float | None]) -> dict[str, float]:
    """The median seconds of each function; they run in turn, so that what else the machine does meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return {name: statistics.median(found) for name, found in times.items()}


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="avtools-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def media(*patterns: str) -> list[Path]:
    """Files of the media folder ($AVTOOLS_MEDIA) that match; empty without it."""
    root = os.environ.get("AVTOOLS_MEDIA")
    return sorted(path for pattern in patterns for path in Path(root).glob(pattern)) if root else []


def clips(where: Path) -> list[Path]:
    """A few real 10-s clips, or synthetic ones where there are none."""
    return media("vggsound/*.mp4") or synthetic(where, 4, 10)


def synthetic(where: Path, count: int, length: float, size: str = "640x360", rate: int = 48000, fps: int = 30) -> list[Path]:
    run(*AVTOOLS, "synth", "-q", "-n", count, "--seconds", length, "--size", size, "--rate", rate, "--fps", fps, "-d", where / "synth", "-o", where / "synth.csv")
    return sorted((where / "synth" / "clips").glob("*.mp4"))


def copies(sources: list[Path], where: Path, count: int) -> list[Path]:
    """`count` real copies of the sources in turn: no two rows share a file."""
    where.mkdir(parents=True, exist_ok=True)
    made = []
    for k in range(count):
        source = sources[k % len(sources)]
        target = where / f"{k:06d}{source.suffix}"
        shutil.copyfile(source, target)
        made.append(target)
    return made


def waves(clips_: list[Path], where: Path) -> list[Path]:
    """The clips' sound as 16-bit WAV of its own rate."""
    where.mkdir(parents=True, exist_ok=True)
    made = []
    for k, clip in enumerate(clips_):
        run("ffmpeg", "-y", "-i", clip, "-vn", "-c:a", "pcm_s16le", where / f"{k}.wav")
        made.append(where / f"{k}.wav")
    return made


def table(path: Path, column: str, files: list) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([column])
        writer.writerows([os.fspath(name)] for name in files)
    return path


def sample(files: list[Path], count: int, step: int) -> list[Path]:
    """A random sample with as many of each of the `step` sources that the files are copies of."""
    draw = random.Random(0)
    share = max(1, count // step)
    return [name for k in range(step) for name in draw.sample(files[k::step], min(share, len(files[k::step])))]


def one_by_one(files: list[Path], command: Callable[[Path], list]) -> Callable[[], None]:
    """Start a process for each file, one after another."""
    return lambda: [run(*command(name)) for name in files] and None


def two_at_once(files: list[Path], command: list[str]) -> Callable[[], None]:
    """`xargs -P2`: two processes at a time; {} in the command stands for the file."""
    names = "\0".join(map(os.fspath, files)).encode()

    def function() -> None:
        subprocess.run(["xargs", "-0", "-P2", "-I{}", *command], input=names, check=True, capture_output=True)

    return function


def emptied(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def per_file(taken: float, files: int) -> str:
    return f"{1000 * taken / files:.2f} ms/file"


def versions() -> str:
    """One line: when, on what, with what."""
    import importlib.metadata

    def first_line(*command):
        try:
            out = subprocess.run(command, capture_output=True, text=True).stdout
            return out.splitlines()[0].split(" Copyright")[0].strip()
        except (OSError, IndexError):
            return f"no {command[0]}"

    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown CPU")
    cores = len(os.sched_getaffinity(0))
    ours = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("avtools", "av", "soxr", "numpy"))
    sox = first_line("sox", "--version").removeprefix("sox:").strip()
    return (
        f"{time.strftime('%Y-%m-%d')}; {model}, {cores} cores, load before {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]}, {ours}; "
        f"{first_line('ffmpeg', '-version')}; {sox}"
    )
