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


@pytest.mark.learn  # a minute of other people's networks
def test_both_ways_of_vta_ldm_agree_and_the_passes_are_counted(tmp_path):
    done = bench("--quick", "--json", tmp_path / "b.json", "vta_ldm")  # any disagreement ends it
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["results"]
    (passes,) = [row for row in rows if "UNet passes" in row["what"]]
    assert (passes["ours"], passes["peer"], passes["ratio"]) == ("50", "600", 12)
    assert [row for row in rows if "loss" in row["what"]][0]["holds"] is True
    assert {word for row in rows for word in ("sampling", "training step", "loader", "waiting") if word in row["what"]} == {"sampling", "training step", "loader", "waiting"}


def test_what_differs_ends_the_benchmark(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import vta_ldm

    assert vta_ldm.alike("x", [1.0, -2.0], [1.0, -2.001], 1e-3) == pytest.approx(5e-4, rel=1e-2)
    for other in ([1.0, -2.1], [1.0], [1.0, float("nan")]):
        with pytest.raises(SystemExit, match="differ"):
            vta_ldm.alike("x", [1.0, -2.0], other, 1e-3)
    with pytest.raises(SystemExit, match="KeyError: 'nonsense'"):
        vta_ldm.Side("nonsense", "ours", tmp_path, True).ready()


@pytest.mark.long
def test_what_measures_a_gpu_runs(monkeypatch, tmp_path):
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import vta_ldm

    side = vta_ldm.accelerator_side(True, tmp_path, True)
    facts = next(side)
    assert facts["flops"] == 2 * facts["pass_flops"] > 0 and facts["pass_seconds"] > 0
    assert next(side)["seconds"] > 0
    side.close()


def test_both_ways_of_joining_give_the_same_captions(tmp_path):
    done = bench("--quick", "--json", tmp_path / "b.json", "join")  # any difference ends it
    assert done.returncode == 0, done.stderr
    assert "pandas" in json.loads((tmp_path / "b.json").read_text())["results"][0]["what"]


@pytest.mark.learn  # half a minute: a small CLIP, and the peers that are installed
def test_scores_are_those_of_public_code_and_one_call_gives_what_several_do(tmp_path):
    done = bench("--quick", "--json", tmp_path / "b.json", "score")  # any difference ends it
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["results"]
    assert any("one call; " in row["what"] for row in rows) and any("missing" in row["peer"] or "torchmetrics" in row["what"] for row in rows)


def test_scores_that_differ_end_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import score

    assert score.alike("x", [[1.0, 2.0]], [[1.0, 2.001]], (0, 1e-2)) == "0e+00, 1e-03"
    for other in ([[1.0, 2.1]], [[1.0]], [[1.0, float("nan")]]):
        with pytest.raises(SystemExit, match="differ"):
            score.alike("x", [[1.0, 2.0]], other, (0, 1e-2))


@pytest.mark.long
def test_javisdits_short_cuts_and_checkpoints_change_nothing_but_time_and_memory(tmp_path):
    done = bench("--quick", "--json", tmp_path / "b.json", "javisdit")  # any difference ends it
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["results"]
    assert len(rows) == 14 and all(row["what"].startswith("the same: memory") for row in rows[1::2])
    for words in ("attention between", "prior attention", "step of sampling", "training step", "checkpoints gradients"):
        assert any(words in row["what"] for row in rows[::2]), words


def test_javisdits_networks_that_differ_end_the_benchmark(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import javisdit

    assert javisdit.same("x", [torch.tensor([1.0, -2.0])], [torch.tensor([1.0, -2.0001])]) == pytest.approx(5e-5, rel=1e-2)
    one = torch.tensor([1.0, -2.0])
    for other in ([1.0, -2.1], [1.0, float("nan")]):
        with pytest.raises(SystemExit, match="differ"):
            javisdit.same("x", [one, one], [one, torch.tensor(other)])
