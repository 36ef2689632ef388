"""The benchmarks run and print their table; what they measure is for `make bench` to say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="ffmpeg is not installed")


def bench(*args):
    return subprocess.run([sys.executable, "-m", "benchmarks", *map(str, args)], cwd=ROOT, capture_output=True, text=True)


def test_quick_benchmarks_print_a_table(tmp_path):
    done = bench("--quick", "--json", tmp_path / "b.json", "probe", "resample")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert lines[0] == "| what; peer | ours | peer | ratio | asked | holds |"
    assert any("probe" in line for line in lines) and any("xargs" in line for line in lines)
    assert len(json.loads((tmp_path / "b.json").read_text())["results"]) == len(lines) - 2


def test_an_unknown_benchmark_is_named():
    done = bench("nonsense")
    assert done.returncode == 2 and "nonsense" in done.stderr
