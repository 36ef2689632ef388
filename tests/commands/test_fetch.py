"""`fetch` and `systems`, with a system of the tests' own and a hub on this machine."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from fake_hub import FakeHub, fill_cache

pytest.importorskip("huggingface_hub")

MAIN = {"config.json": b"{}", "model.safetensors": b"weights", "notes.txt": b"not wanted"}
TEXT = {"pytorch_model.bin": b"text weights"}
TOY = """
import sys
from avtools.hub import Part
from avtools.system import System

assert not {"torch", "huggingface_hub"} & set(sys.modules)

class Toy(System):
    name, title, licence = "toy", 'A toy, "small"', "CC-BY-4.0"
    presets = {"tiny": {}, "released": {}}
    parts = (
        Part("", "the model", "hf:toys/main", ("config.json", "*.safetensors"), 3_500_000_000, "CC-BY-4.0"),
        Part("text", "the text encoder", "hf:toys/text@v1", (), 12, "MIT", optional=True),
        Part("gone", "what nobody has", "hf:toys/gone", ("x.bin",), 5_000_000, "MIT", optional=True),
    )
"""


@pytest.fixture
def server():
    server = FakeHub({"toys/main": MAIN, "toys/text": TEXT})
    yield server
    server.close()


@pytest.fixture
def program(tmp_path):
    """Runs avtools with the system `toy` registered; `endpoint`: the hub's address."""
    (tmp_path / "toy_system.py").write_text(TOY)
    start = "from avtools.models.registry import SYSTEMS; SYSTEMS.clear(); SYSTEMS['toy'] = 'toy_system:Toy'; from avtools.cli import main; main()"
    cache = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "home" / "hub"), "NO_PROXY": "127.0.0.1"}
    unset = {"HF_HUB_OFFLINE", "HF_TOKEN"}

    def run(*arguments, endpoint="http://127.0.0.1:9", status=0, **env):
        done = subprocess.run(
            [sys.executable, "-c", start, *arguments],
            env={**{k: v for k, v in os.environ.items() if k not in unset}, **cache, "PYTHONPATH": str(tmp_path), "HF_ENDPOINT": endpoint, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
        assert done.returncode == status, done.stderr
        return done

    return run


def test_fetches_what_the_system_needs(program, server, tmp_path):
    done = program("fetch", "toy", endpoint=server.url)
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert list(row) == ["part", "source", "path", "size", "licence"]
    assert done.stderr == "avtools fetch: 1 rows in = 1 done + 0 filtered + 0 bad\n"
    assert (row["part"], row["source"], row["size"], row["licence"]) == ("main", "hf:toys/main", "9", "CC-BY-4.0")
    assert sorted(os.listdir(row["path"])) == ["config.json", "model.safetensors"]
    downloads = [request for request in server.requests if request.startswith("GET /toys")]
    again = program("fetch", "toy", endpoint=server.url)
    assert again.stdout == done.stdout
    assert [request for request in server.requests if request.startswith("GET /toys")] == downloads, "nothing is downloaded twice"
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):  # the hub out of reach, or not to be reached
        assert program("fetch", "toy", **env).stdout == done.stdout


def test_named_parts(program, server):
    done = program("fetch", "toy", "--part", "text", "--part", "main", "--to", "jsonl", endpoint=server.url)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["part"], row["size"]) for row in rows] == [("main", 9), ("text", 12)]
    assert os.listdir(rows[1]["path"]) == ["pytorch_model.bin"]
    assert "no part 'txt' (it has: main, text, gone)" in program("fetch", "toy", "--part", "txt", status=2).stderr


def test_what_is_done_stays_when_a_part_fails(program, server):
    done = program("fetch", "toy", "--part", "main", "--part", "gone", endpoint=server.url, status=3)
    assert [row["part"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["main"]
    (line,) = done.stderr.splitlines()[:1]
    assert "toys/gone: no such repository" in line and "what nobody has" in line


def test_unreachable_hub(program, tmp_path):
    done = program("fetch", "toy", status=3, HF_TOKEN="hf_secretsecretsecret")
    (line,) = done.stderr.splitlines()
    for fact in ("avtools fetch: ", "toys/main: the hub cannot be reached", "the model", "3.5 GB", "CC-BY-4.0"):
        assert fact in line, line
    assert "secret" not in done.stdout + done.stderr
    (line,) = program("fetch", "toy", status=3, HF_HUB_OFFLINE="1").stderr.splitlines()
    assert "HF_HUB_OFFLINE is set" in line and str(tmp_path / "home" / "hub") in line


def test_incomplete_cache_is_completed(program, server, tmp_path):
    snapshot = fill_cache(tmp_path / "home" / "hub", "toys/main", {"config.json": b"{}"})
    (line,) = program("fetch", "toy", status=3, HF_HUB_OFFLINE="1").stderr.splitlines()
    assert f"{snapshot} lacks *.safetensors" in line
    program("fetch", "toy", endpoint=server.url)
    assert (snapshot / "model.safetensors").read_bytes() == b"weights"


def test_unknown_system(program):
    assert "did you mean 'toy'" in program("fetch", "toi", status=2).stderr


def test_systems_without_heavy_libraries(program):
    done = program("systems")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert list(row) == ["system", "title", "presets", "parts", "licence", "released_run"]
    assert (row["system"], row["title"], row["licence"]) == ("toy", 'A toy, "small"', "CC-BY-4.0")
    assert json.loads(row["presets"]) == ["tiny", "released"]
    assert json.loads(row["parts"])[1] == {"part": "text", "source": "hf:toys/text@v1", "size": 12, "licence": "MIT", "optional": True}
    assert json.loads(program("systems", "--to", "jsonl").stdout)["released_run"] is False


def test_system_that_cannot_be_imported(program, tmp_path):
    (tmp_path / "toy_system.py").write_text("import no_such_library")
    done = program("systems", status=1)
    assert "no_such_library" in done.stderr and "pip install 'avtools[models]'" in done.stderr


def test_completion_offers_systems(program):
    done = program(_AVTOOLS_COMPLETE="bash_complete", COMP_LINE="avtools fetch t", COMP_WORD="t")
    assert done.stdout == "plain,toy\n"


def test_what_is_not_on_the_hub_is_named_with_its_page(avtools):
    done = avtools("fetch", "avsync")
    assert done.stdout.count("\n") == 1 and "by hand from https://" in done.stderr
    done = avtools("fetch", "avsync", "--part", "main", status=3)
    assert "get them by hand from https://" in done.stderr and "--weights FILE|DIR" in done.stderr and "hf:" not in done.stderr
