"""mkmeta stats: what it says of a table, against numpy and pandas and by hand."""

import csv
import io
import json
import math
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from avtools.rows import stats

QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def table(done) -> dict:
    """(column, value) -> row of the long table."""
    return {(row["column"], row["value"]): row for row in csv.DictReader(io.StringIO(done.stdout))}


def cell(row: dict, column: str) -> float | None:
    return float(row[column]) if row[column] else None


@pytest.fixture
def random_table(tmp_path) -> pd.DataFrame:
    """5000 rows in all states of repair, and t.csv of them; more than one batch."""
    draw = random.Random(7)
    rows = []
    for i in range(5000):
        seconds = draw.uniform(0.1, 30)
        row = {
            "path": f"clips/{draw.randrange(4000)}.mp4",
            "id": f"{i:05}",
            "num_frames": draw.choice([int(seconds * 25), int(seconds * 25), ""]),
            "height": draw.choice([96, 720, 1080]),
            "width": draw.choice([96, 1280, 1920, ""]),
            "fps": draw.choice([24.0, 25.0, 30000 / 1001, "", "NaN", round(draw.uniform(10, 60), 1)]),
            "duration": draw.choice([seconds, seconds, "", "inf", -1]),
            "audio_path": draw.choice([f"wav/{i}.wav", ""]),
            "audio_fps": draw.choice([16000, 44100, 48000, "", "fast"]),
            "audio_length_s": draw.choice([seconds, ""]),
            "av_offset": draw.choice([draw.gauss(0, 0.01), ""]),
            "text": draw.choice(["", "a dog", "ein  Hund bellt", "犬が吠える", "x " * draw.randrange(60)]),
            "source": draw.choice(["audiocaps", "vggsound", "vggsound", ""]),
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "t.csv", index=False)
    return frame


def numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    return pd.to_numeric(frame[column], errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)


def seconds_of(frame: pd.DataFrame) -> pd.Series:
    counted = numbers(frame, "num_frames") / numbers(frame, "fps")
    duration = numbers(frame, "duration")
    return duration.where(duration >= 0).fillna(numbers(frame, "audio_length_s")).fillna(counted)


def test_numbers_are_those_of_pandas(avtools, random_table):
    found = table(avtools("mkmeta", "stats", "t.csv"))
    expected = {column: numbers(random_table, column).dropna() for column in ("num_frames", "height", "width", "fps", "duration", "audio_fps", "audio_length_s", "av_offset")}
    texts = random_table.text[random_table.text != ""]
    expected |= {"text words": texts.str.split().str.len().astype(float), "text characters": texts.str.len().astype(float)}
    for column, values in expected.items():
        row = found[column, ""]
        assert int(row["count"]) == len(values), column
        assert cell(row, "share") == len(values) / 5000
        told = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()} | {name: values.quantile(q) for name, q in QUANTILES.items()}
        for name, value in told.items():
            assert cell(row, name) == pytest.approx(value, rel=1e-12), (column, name)


def test_shares_and_hours_are_those_of_pandas(avtools, random_table):
    found = table(avtools("mkmeta", "stats", "t.csv"))
    seconds = seconds_of(random_table)
    assert cell(found["rows", ""], "hours") == pytest.approx(seconds.sum() / 3600)
    assert int(found["rows", "(duration unknown)"]["count"]) == seconds.isna().sum() > 0
    size = random_table.width.astype(str) + "x" + random_table.height.astype(str)
    for column, values in (("source", random_table.source), ("size", size.where(random_table.width != "", ""))):
        groups = seconds.groupby(values).agg(["size", "sum"])
        assert len(groups) == len([key for key in found if key[0] == column and key[1] != "(repeated)"])
        for value, (count, total) in groups.iterrows():
            row = found[column, value or "(missing)"]
            assert (int(row["count"]), cell(row, "share")) == (count, count / 5000)
            assert cell(row, "hours") == pytest.approx(total / 3600)
    rates = numbers(random_table, "fps").value_counts()
    told = [row for (column, value), row in found.items() if column == "fps" and value and not value.startswith("(")]
    assert len(told) == 20 and {float(row["value"]): int(row["count"]) for row in told[:3]} == {rate: rates[rate] for rate in (24.0, 25.0, 30000 / 1001)}
    assert sum(int(row["count"]) for (column, value), row in found.items() if column == "fps" and value) == 5000
    assert int(found["fps", "(other)"]["count"]) == rates.sum() - sum(int(row["count"]) for row in told)


def test_missing_odd_and_repeated_cells(avtools, random_table):
    done = avtools("mkmeta", "stats", "t.csv", "--summary", "s.json")
    found, summary = table(done), json.loads((avtools.folder / "s.json").read_text())
    assert int(found["path", "(repeated)"]["count"]) == random_table.path.duplicated().sum() > 0
    assert int(found["audio_path", "(repeated)"]["count"]) == 0
    odd = (random_table.audio_fps == "fast").sum()
    assert int(found["audio_fps", "(missing)"]["count"]) == (random_table.audio_fps == "").sum()
    assert int(found["audio_fps", "(not a number)"]["count"]) == odd == summary["numbers"]["audio_fps"]["not_numbers"]
    missing = {column: (random_table[column] == "").sum() for column in random_table}
    missing["fps"] += (random_table.fps == "NaN").sum()
    missing["duration"] += (random_table.duration == "inf").sum()
    assert {column: one["missing"] for column, one in summary["columns"].items()} == missing
    assert int(found["text", "(missing)"]["count"]) == missing["text"]


def test_histograms_hold_every_number(avtools, random_table):
    avtools("mkmeta", "stats", "t.csv", "-q", "--summary", "s.json")
    summary = json.loads((avtools.folder / "s.json").read_text())
    for name, one in summary["numbers"].items():
        edges, counts = one["histogram"]["edges"], one["histogram"]["counts"]
        assert len(edges) == len(counts) + 1 <= 31 and sum(counts) == one["count"], name
        assert edges[0] <= one["min"] <= one["max"] <= edges[-1]
    values = numbers(random_table, "duration").dropna()
    histogram = summary["numbers"]["duration"]["histogram"]
    assert np.array_equal(np.histogram(values, histogram["edges"])[0], histogram["counts"])


@pytest.mark.parametrize("format_", ["tsv", "jsonl", "parquet"])
def test_the_same_from_every_format_and_pipe(avtools, random_table, format_):
    plain = avtools("mkmeta", "stats", "t.csv", "--to", "csv")
    avtools("mkmeta", "merge", "-q", "t.csv", "-o", f"t.{format_}")
    other = avtools("mkmeta", "stats", f"t.{format_}", "--to", "csv")
    assert (other.stdout, other.stderr) == (plain.stdout, plain.stderr)
    piped = avtools.pipe("cat t.csv | avtools mkmeta stats")
    assert piped.stdout == plain.stdout
    parts = avtools.pipe("for i in 1 2 3; do avtools mkmeta merge -q t.csv --shard $i/3 -o $i.csv; done; avtools mkmeta stats 1.csv 2.csv 3.csv")
    assert parts.stdout == plain.stdout


def test_typed_cells_of_jsonl(avtools):
    lines = [
        {"path": "a.mp4", "fps": 24, "duration": 3600.0, "text": None, "audio_fps": True},
        {"path": "a.mp4", "fps": None, "duration": None, "num_frames": 43200, "text": ["a", "list"], "audio_fps": 10**400},
        {"path": "b.mp4", "fps": 12.0, "num_frames": 43200, "later": 1, "duration": math.nan},
    ]
    (avtools.folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = table(avtools("mkmeta", "stats", "t.jsonl", "--to", "csv", "--by", "path"))
    assert cell(found["rows", ""], "hours") == 2.0 and found["rows", "(duration unknown)"]["count"] == "1"
    assert found["fps", "24"]["hours"] == "1.0" and found["fps", "12"]["hours"] == "1.0"
    assert found["later", "(missing)"]["count"] == "2"
    assert found["audio_fps", "(not a number)"]["count"] == "2" and found["audio_fps", "(missing)"]["count"] == "1"
    assert found["path", "a.mp4"]["count"] == "2" and found["text words", ""]["count"] == "1"


def test_a_column_that_turns_up_later_keeps_its_rows(avtools):
    """The second batch brings a number: it belongs to the last row."""
    lines = [{"duration": 1.0, "id": i} for i in range(5000)] + [{"duration": 3600, "fps": 24, "id": 5000}]
    (avtools.folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = table(avtools("mkmeta", "stats", "t.jsonl", "--to", "csv"))
    assert found["fps", "24"]["hours"] == "1.0"
    assert found["fps", "(missing)"]["count"] == "5000"


ODD = st.sampled_from(["placeholder.mp4", "placeholder", "24", "24.0", "1e400", "-1", "nan", "1_0", "٣", "", "\ud800", 10**400, 5e-324, 1e308, 2**70])
CELLS = st.none() | st.text(max_size=5) | st.integers() | st.floats() | st.booleans() | st.lists(st.integers(), max_size=2) | ODD
NAMES = st.sampled_from("path video_path fps num_frames duration audio_fps audio_duration audio_length_s width height text source x error size av_offset".split())


@given(st.lists(st.dictionaries(NAMES, CELLS, max_size=12), max_size=12), st.sets(st.sampled_from(["source", "fps", "x"])), st.sets(st.sampled_from(["x", "path", "text"])))
@settings(max_examples=300, deadline=None)
def test_any_cells_at_all(rows, by, more):
    """Whatever stands in the cells: every row is counted once in each share, and all of it can be told."""
    found = stats.Table(rows[0] if rows else [], by, more)
    found.add(rows[:5])
    found.add(rows[5:])
    summary = found.summary()
    assert summary["rows"]["count"] + summary["rows"]["bad"] == len(rows)
    for column, entries in summary["shares"].items():
        assert sum(entry["count"] for entry in entries) == summary["rows"]["count"], column
    json.loads(stats.as_json(summary), parse_constant=pytest.fail)
    assert len(list(stats.records(summary))) >= 5 and stats.lines(summary)


def test_numbers_too_large_for_sums(avtools):
    (avtools.folder / "t.csv").write_text("duration\n1e308\n1.7e308\n1e308\n")
    done = avtools("mkmeta", "stats", "t.csv", "--summary", "s.json", "--plot", "p.png")
    assert table(done)["duration", ""]["max"] == "1.7e+308"
    json.loads((avtools.folder / "s.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("suffix, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_the_same_every_time(avtools, random_table, suffix, start):
    pytest.importorskip("matplotlib")
    (avtools.folder / "matplotlibrc").write_text("lines.linewidth: 9\nsavefig.dpi: 20\n")  # nobody's style counts
    for name, more in (("a", []), ("b", ["--from", "csv"])):
        avtools("mkmeta", "stats", "t.csv", "-q", "--plot", f"{name}.{suffix}", *more, env={"SOURCE_DATE_EPOCH": str(ord(name)), "MPLBACKEND": "TkAgg"})
    (avtools.folder / "matplotlibrc").unlink()
    avtools("mkmeta", "stats", "t.csv", "-q", "--plot", f"c.{suffix}")
    pictures = [(avtools.folder / f"{name}.{suffix}").read_bytes() for name in "abc"]
    assert pictures[0].startswith(start) and len(set(pictures)) == 1


def test_values_are_no_formulas(avtools):
    pytest.importorskip("matplotlib")
    (avtools.folder / "t.csv").write_text("source,a$b_{\n$\\frac{$,1\n犬,2\n")
    done = avtools("mkmeta", "stats", "t.csv", "--plot", "p.svg", "--number", "a$b_{")
    assert "Warning" not in done.stderr and "Glyph" not in done.stderr


def test_without_matplotlib(avtools):
    """Said in one line before anything is read or written."""
    (avtools.folder / "t.csv").write_text("fps\n24\n")
    (avtools.folder / "t.py").write_text(
        "import importlib.util as u\nreal = u.find_spec\nu.find_spec = lambda name, *more: None if name == 'matplotlib' else real(name, *more)\n"
        "from avtools.cli import main\nmain(['mkmeta', 'stats', 't.csv', '--plot', 'p.png', '-o', 'o.csv'])\n"
    )
    done = subprocess.run([sys.executable, "t.py"], cwd=avtools.folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith("stats: --plot needs matplotlib, which is not installed: pip install 'avtools[plot]'\n") and done.stderr.count("\n") == 1
    assert not (avtools.folder / "o.csv").exists()


def test_nothing_is_written_of_a_table_that_ends_badly(avtools):
    (avtools.folder / "t.csv").write_text("fps,duration\n24,1\n25\n")
    done = avtools("mkmeta", "stats", "t.csv", "--summary", "s.json", "-o", "o.csv", status=2)
    assert "t.csv:3: 1 cells, where the header has 2" in done.stderr
    assert sorted(path.name for path in avtools.folder.iterdir()) == ["t.csv"]
    done = avtools("mkmeta", "stats", "t.csv", "--summary", "nowhere/s.json", "-o", "o.csv", status=2)
    assert "there is no directory nowhere" in done.stderr and not (avtools.folder / "o.csv").exists()


def test_memory_is_a_few_numbers_a_row(avtools):
    """200,000 rows of 480 bytes in 40 MB more than 2,000 rows: 8 bytes a number, nothing of the cells."""

    def peak(rows: int) -> int:
        with open(avtools.folder / "t.csv", "w") as file:
            file.write("path,duration,fps,height,width,text\n")
            file.writelines(f"clips/{'x' * 200}/{i}.mp4,{i % 9},24,720,1280,{'a dog barks ' * 20}\n" for i in range(rows))
        call = "main(['mkmeta', 'stats', 't.csv', '-q', '-o', 'o.csv'])"
        line = f"import resource\nfrom avtools.cli import main\ntry:\n    {call}\nfinally:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        return int(subprocess.run([sys.executable, "-c", line], cwd=avtools.folder, capture_output=True, text=True, check=True).stdout)

    assert peak(200_000) - peak(2_000) < 40_000  # KiB
