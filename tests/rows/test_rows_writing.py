"""Writing: what was read leaves unchanged, files appear only when whole, pipes get what they need."""

import io
import json
import os
import random
import signal
import subprocess
import sys

import pytest

from avtools.errors import FatalError, RowError, UsageError
from avtools.rows import open_rows, open_writer


def write(target, columns, rows, format=None, default="csv"):
    writer = open_writer(str(target), format, columns, default)
    for row in rows:
        writer.write(row)
    writer.commit()
    return target.read_bytes()


def reread(data: bytes, tmp_path, suffix) -> bytes:
    """Return our output read and written again, through a file and through a pipe."""
    (tmp_path / f"in.{suffix}").write_bytes(data)
    with open_rows([str(tmp_path / f"in.{suffix}")]) as rows:
        again = write(tmp_path / f"out.{suffix}", rows.columns, [r.row for r in rows])
    options = {"from_format": "tsv"} if suffix == "tsv" else {}
    with open_rows([], stdin=io.BytesIO(data), **options) as rows:
        assert rows.format == suffix
        assert again == write(tmp_path / f"out.{suffix}", rows.columns, [r.row for r in rows])
    return again


def test_cells(tmp_path):
    columns = list("abcdefgh")
    row = {"a": 1, "b": 1e-7, "c": True, "d": None, "e": {"k": ["é", 1.0]}, "f": 'x,"y"', "g": float("nan"), "h": 25.0}
    data = write(tmp_path / "t.csv", columns, [row])
    assert data.decode() == 'a,b,c,d,e,f,g,h\n1,1e-07,true,,"{""k"":[""é"",1.0]}","x,""y""",nan,25.0\n'
    assert write(tmp_path / "t.csv", ["a", "b"], [{"b": "1"}, {}]) == b"a,b\n,1\n,\n"


def test_numpy_scalars(tmp_path):
    numpy = pytest.importorskip("numpy")
    row = {"a": numpy.float64(0.1), "b": numpy.int64(3), "c": numpy.float32(0.5), "d": numpy.bool_(True)}
    assert write(tmp_path / "t.csv", list("abcd"), [row]) == b"a,b,c,d\n0.1,3,0.5,true\n"
    assert write(tmp_path / "t.jsonl", [], [row]) == b'{"a": 0.1, "b": 3, "c": 0.5, "d": true}\n'


def test_quoting_is_minimal_and_enough(tmp_path):
    cells = ["plain", "a b", " x ", "'", "#", "x,y", 'x"y', "x\ny", "x\ry", "\r", "\r\n", "\t", "x\u2028y", ""]
    data = write(tmp_path / "t.csv", ["a", "b"], [{"a": c, "b": "1"} for c in cells])
    assert data.count(b'"') == 2 * 6 + 2
    assert write(tmp_path / "t.csv", ["a"], [{"a": ""}, {}]) == b'a\n""\n""\n'
    data = write(tmp_path / "t.tsv", ["a", "b"], [{"a": "x\ty", "b": "x,y"}])
    assert data == b'a\tb\n"x\ty"\tx,y\n'


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    "name", ["\ufeffa", "{a}", " ", "", "\x01", "\t", 'a"b', "a\nb", "\ufeff,", "PAR1", "#a", " a"]
)
def test_odd_headers(name, suffix, tmp_path):
    for columns in ([name], [name, "z"], ["z", name]):
        if columns == [""]:
            continue
        data = write(tmp_path / f"t.{suffix}", columns, [dict.fromkeys(columns, "1")])
        assert reread(data, tmp_path, suffix) == data
        with open_rows([str(tmp_path / f"t.{suffix}")]) as rows:
            assert rows.columns == columns and [r.row for r in rows] == [dict.fromkeys(columns, "1")]


ALPHABET = ["a", "é", "日", "\U0001f600", ",", '"', "\n", "\r", "\t", " ", "'", "\\", "{", "\ufeff", "\x1e", "\x0b"]
ALPHABET += ["\u2028", "\x85", "\udcef", "0", "NA", "-0Bp8c", "1e5", "00123", "#", ";", "\x7f"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("seed", range(60))
def test_our_output_is_a_fixed_point(suffix, seed, tmp_path):
    draw = random.Random(seed)

    def text():
        return "".join(draw.choices(ALPHABET, k=draw.choice([0, 0, 1, 2, 8])))

    columns = list(dict.fromkeys(text() for _ in range(draw.choice([1, 1, 2, 3, 6]))))
    if not any(columns):
        columns.append("a")
    rows = [{c: text() for c in columns} for _ in range(draw.choice([0, 1, 5, 50]))]
    if suffix == "jsonl":
        rows = [{**row, "n": [draw.random(), None, {"x": draw.getrandbits(70)}]} for row in rows] or [{"a": 1}]
    data = write(tmp_path / f"t.{suffix}", columns, rows)
    assert reread(data, tmp_path, suffix) == data
    with open_rows([str(tmp_path / f"t.{suffix}")]) as opened:
        assert [r.row for r in opened] == rows


def test_names_that_are_not_utf8(tmp_path):
    for suffix, data in (("csv", b"path,b\nna\xefve.mp4,1\n"), ("jsonl", b'{"path": "na\xefve.mp4"}\n')):
        assert reread(data, tmp_path, suffix) == data
    row = {"a": os.fsdecode(b"\xff"), "b": "\ud800"}
    assert write(tmp_path / "t.jsonl", [], [row]) == b'{"a": "\\udcff", "b": "\\ud800"}\n'
    halves = b'{"a": "\\udcc3\\udca9"}\n'  # as bytes they would read back as another letter
    assert reread(halves, tmp_path, "jsonl") == halves


@pytest.mark.parametrize("row", [{"a": "1", "z": 2}, {"a": "\0", "b": ""}, {"a": "\ud800", "b": ""}, {"a": ["\ud800"]}])
def test_rows_that_csv_cannot_hold(row, tmp_path):
    writer = open_writer(str(tmp_path / "t.csv"), None, ["a", "b"], "csv")
    with pytest.raises(RowError, match="column [az] .*--to jsonl"):
        writer.write(row)
    writer.write({"a": "1", "b": "2"})
    writer.commit()
    assert (tmp_path / "t.csv").read_bytes() == b"a,b\n1,2\n"


def test_formats(tmp_path):
    assert write(tmp_path / "t.csv", ["a"], [{"a": "1"}], format="jsonl") == b'{"a": "1"}\n'
    assert write(tmp_path / "t.out", ["a"], [{"a": "1"}], default="jsonl") == b'{"a": "1"}\n'
    for target, format, message in [
        (None, "parquet", "standard output"),
        ("-", "parquet", "standard output"),
        (str(tmp_path / "x.csv"), "xml", "no such format"),
        (str(tmp_path), None, "is a directory"),
        (str(tmp_path / "none" / "x.csv"), None, "there is no directory"),
        (str(tmp_path / "t.csv" / "x.csv"), None, "not a directory"),
        (str(tmp_path / "clip.mp4"), None, "media"),
        ("/dev/null", "parquet", "regular file"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_writer(target, format, ["a"], "csv")
    assert sorted(os.listdir(tmp_path)) == ["t.csv", "t.out"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_appear_only_when_whole(suffix, tmp_path):
    target = tmp_path / f"t.{suffix}"
    target.write_text("old")
    writer = open_writer(str(target), None, ["a"], "csv")
    writer.write({"a": "1"})
    writer.flush()
    assert target.read_text() == "old"
    assert all(n.endswith(".tmp") and str(os.getpid()) in n for n in os.listdir(tmp_path) if n != target.name)
    writer.discard()
    assert os.listdir(tmp_path) == [target.name] and target.read_text() == "old"
    writer = open_writer(str(target), None, ["a"], "csv")
    writer.write({"a": "1"})
    writer.commit()
    writer.discard()
    assert os.listdir(tmp_path) == [target.name]
    assert [r.row for r in open_rows([str(target)])] == [{"a": "1"}]


def test_output_over_its_input_and_through_links(tmp_path):
    (tmp_path / "t.csv").write_text("a\n1\n2\n")
    (tmp_path / "link.csv").symlink_to("t.csv")
    with open_rows([str(tmp_path / "t.csv")]) as rows:
        writer = open_writer(str(tmp_path / "link.csv"), None, [*rows.columns, "b"], rows.format)
        for record in rows:
            writer.write({**record.row, "b": "x"})
        writer.commit()
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,x\n2,x\n"
    assert (tmp_path / "link.csv").is_symlink()


def test_long_names(tmp_path):
    assert write(tmp_path / ("日" * 80 + ".csv"), ["a"], []) == b"a\n"


def test_devices_are_written_not_replaced():
    writer = open_writer("/dev/null", None, ["a"], "csv")
    writer.write({"a": "1"})
    writer.commit()
    assert not os.path.isfile("/dev/null")
    with pytest.raises(FatalError, match="/dev/full: cannot be written"):
        open_writer("/dev/full", None, ["a"], "csv")


def test_empty_jsonl(tmp_path):
    assert write(tmp_path / "t.jsonl", [], []) == b""
    data = write(tmp_path / "t.unknown", [], [], format="jsonl")
    assert data == b"\n"
    with open_rows([], stdin=io.BytesIO(data)) as rows:
        assert list(rows) == [] and rows.format == "jsonl"


PROGRAM = """
import sys
from avtools.rows import open_rows, open_writer
rows = open_rows([])
writer = open_writer(None, sys.argv[1] or None, rows.columns, rows.format)
try:
    for record in rows:
        writer.write(record.row)
        writer.flush()
    writer.commit()
except BrokenPipeError:
    sys.stderr.write("broken pipe")
    sys.stderr.flush()
    import os, signal
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
"""


def program(to="", **options):
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", PROGRAM, to], bufsize=0, **pipes, **options)


def test_pipes_row_by_row():
    process = program()
    process.stdin.write(b"a,b\n")
    assert process.stdout.readline() == b"a,b\n"
    for line in (b"1,2\n", b'3,"x ""y"""\n'):
        process.stdin.write(line)
        assert process.stdout.readline() == line
    process.stdin.close()
    assert process.wait() == 0
    process.stdout.close()
    process.stderr.close()


def test_pipelines_keep_empty_tables():
    for first, expected in ((b"a,b\n", b"a,b\n"), (b"\n", b"\n")):
        for _ in range(2):
            out, _ = program().communicate(first)
            assert out == expected
    assert program("jsonl").communicate(b"a\n")[0] == b"\n"
    assert program("csv").communicate(b"\n")[0] == b"\n"


def test_broken_pipe_passes_through():
    process = program()
    process.stdin.write(b"a\n1\n")
    assert process.stdout.readline() == b"a\n"
    process.stdout.close()
    try:
        for _ in range(1000):
            process.stdin.write(b"1\n")
    except BrokenPipeError:
        pass
    assert process.wait() == -signal.SIGPIPE
    assert process.stderr.read() == b"broken pipe"
    process.stdin.close()
    process.stderr.close()


def test_full_disk_is_fatal():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", PROGRAM, ""], input=b"a\n1\n", stdout=full, stderr=subprocess.PIPE)
    assert b"FatalError: standard output: cannot be written (No space left" in done.stderr


def parquet_round(tmp_path, columns, rows):
    write(tmp_path / "t.parquet", columns, rows)
    with open_rows([str(tmp_path / "t.parquet")]) as opened:
        return opened.columns, [r.row for r in opened]


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    rows = [
        {"s": "00123", "i": 1, "f": 1, "b": True, "l": [1], "o": {"x": "é"}, "e": "", "n": None},
        {"s": "", "i": "", "f": 2.5, "b": None, "l": "", "o": {"y": [None, 2.0]}, "e": "", "late": "x"},
    ]
    columns, got = parquet_round(tmp_path, ["s", "i", "f", "b", "l", "o", "e", "n"], rows)
    assert columns == ["s", "i", "f", "b", "l", "o", "e", "n", "late"]
    assert got[0] == {**rows[0], "f": 1.0, "o": {"x": "é", "y": None}, "late": None}
    assert got[1] == {**rows[1], "i": None, "l": None, "o": {"x": None, "y": [None, 2.0]}, "n": None}
    assert [type(row["f"]) for row in got] == [float, float] and type(got[0]["i"]) is int
    assert parquet_round(tmp_path, ["a"], []) == (["a"], [])
    assert parquet_round(tmp_path, [], []) == ([], [])
    assert os.listdir(tmp_path) == ["t.parquet"]


@pytest.mark.parametrize(
    "rows", [[{"a": 1}, {"a": True}], [{"a": [1]}, {"a": {}}], [{"a": {}}], [{"a": 2**63}]]
)
def test_parquet_mixtures(rows, tmp_path):
    pytest.importorskip("pyarrow")
    writer = open_writer(str(tmp_path / "t.parquet"), None, ["a"], "csv")
    with pytest.raises(UsageError, match="column a: .*--to jsonl"):
        for row in rows:
            writer.write(row)
        writer.commit()
    writer.discard()
    assert os.listdir(tmp_path) == []


def test_parquet_refuses_broken_unicode(tmp_path):
    pytest.importorskip("pyarrow")
    for text in ("\udcff", "\ud800"):
        writer = open_writer(str(tmp_path / "t.parquet"), None, ["a", "b"], "csv")
        with pytest.raises(RowError, match="column b is not valid Unicode"):
            writer.write({"a": "x", "b": [text]})
        writer.write({"a": "\\ud", "b": ["x"]})
        writer.commit()
        assert [r.row for r in open_rows([str(tmp_path / "t.parquet")])] == [{"a": "\\ud", "b": ["x"]}]
        with pytest.raises(UsageError, match="not valid Unicode"):
            open_writer(str(tmp_path / "u.parquet"), None, [text], "csv")


def test_parquet_row_groups(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    from avtools.rows import writing

    monkeypatch.setattr(writing, "GROUP_ROWS", 3)
    monkeypatch.setattr(writing, "GROUP_BYTES", 100)
    rows = [{"a": i} for i in range(50)]
    assert parquet_round(tmp_path, ["a"], rows)[1] == rows
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups >= 50 // 3


def test_csv_to_parquet_and_back(tmp_path):
    pytest.importorskip("pyarrow")
    data = 'id,n\n00123,NA\n-0Bp8c,1e5\n"x\r\ny",\n'.encode()
    with open_rows([], stdin=io.BytesIO(data)) as rows:
        write(tmp_path / "t.parquet", rows.columns, [r.row for r in rows])
    with open_rows([str(tmp_path / "t.parquet")]) as rows:
        assert write(tmp_path / "t.csv", rows.columns, [r.row for r in rows]) == data


def test_jsonl_rows_as_they_are(tmp_path):
    row = {"b": 1, "a": [1.0, None, {"é": float("inf")}], "t": "x\u2028\n"}
    data = write(tmp_path / "t.jsonl", ["a"], [row, {"new": 1}])
    assert data.count(b"\n") == 2 and "é" in data.decode()
    assert [json.loads(line) for line in data.splitlines()] == [row, {"new": 1}]
