"""Reading tables and media names: values survive, malformed input is named, nothing waits for more than it needs."""

import io
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from avtools.errors import UsageError
from avtools.rows import open_rows
from avtools.rows import formats


def rows(*inputs, **options):
    with open_rows([str(i) for i in inputs], **options) as opened:
        return [record.row for record in opened]


def piped(data: bytes, **options):
    with open_rows([], stdin=io.BytesIO(data), **options) as opened:
        return opened.format, opened.columns, [record.row for record in opened]


def save(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# After the csv-spectrum collection: what a CSV reader must get right.
SPECTRUM = {
    "comma in quotes": ('a,b\n"x, y",2\n', [{"a": "x, y", "b": "2"}]),
    "empty": ('a,b,c\n1,"",""\n2,3,4\n', [{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "3", "c": "4"}]),
    "empty crlf": ('a,b\r\n1,""\r\n2,3\r\n', [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]),
    "escaped quotes": ('a,b\n1,"ha ""ha"" ha"\n3,4\n', [{"a": "1", "b": 'ha "ha" ha'}, {"a": "3", "b": "4"}]),
    "json": ('k,v\n1,"{""type"": ""Point"", ""xy"": [1,2]}"\n', [{"k": "1", "v": '{"type": "Point", "xy": [1,2]}'}]),
    "newlines": ('a,b\n"Once upon \na time",5\n7,8\n', [{"a": "Once upon \na time", "b": "5"}, {"a": "7", "b": "8"}]),
    "newlines crlf": ('a,b\r\n"one\r\ntwo",5\r\n', [{"a": "one\r\ntwo", "b": "5"}]),
    "quotes and newlines": ('a,b\n1,"ha \n""ha"" \nha"\n', [{"a": "1", "b": 'ha \n"ha" \nha'}]),
    "utf-8": ("a,b\nʤ,日本\n", [{"a": "ʤ", "b": "日本"}]),
    "no newline at the end": ("a,b\n1,2", [{"a": "1", "b": "2"}]),
    "carriage return in a cell": ('a,b\n"x\ry",2\n', [{"a": "x\ry", "b": "2"}]),
    "blank lines": ("\n\na\n\n1\r\n\n\n2\n\n", [{"a": "1"}, {"a": "2"}]),
    "byte-order mark": ("\ufeffa,b\n1,2\n", [{"a": "1", "b": "2"}]),
    "byte-order mark, quoted": ('\ufeff"a",b\n1,2\n', [{"a": "1", "b": "2"}]),
    "line separators are data": ("a,b\nx\u2028y\x85z,\x0c\n", [{"a": "x\u2028y\x85z", "b": "\x0c"}]),
    "an unnamed index": (",b\n0,2\n", [{"": "0", "b": "2"}]),
    "values as they are": (
        "id,n\n00123,NA\n-0Bp8c,1e5\n true ,+1\n",
        [{"id": "00123", "n": "NA"}, {"id": "-0Bp8c", "n": "1e5"}, {"id": " true ", "n": "+1"}],
    ),
    "header only": ("a,b\n", []),
}


@pytest.mark.parametrize("case", SPECTRUM)
def test_csv_values(case, tmp_path):
    text, expected = SPECTRUM[case]
    assert rows(save(tmp_path / "t.csv", text)) == expected
    assert piped(text.encode())[2] == expected


def test_tsv(tmp_path):
    table = save(tmp_path / "t.TSV", 'a\tb,c\n"x\ty"\t1\n')
    assert rows(table) == [{"a": "x\ty", "b,c": "1"}]
    assert piped(b"\tpath\n0\tx\n", from_format="tsv") == ("tsv", ["", "path"], [{"": "0", "path": "x"}])


MALFORMED = {
    "few": ("a,b\n1,2\n1\n", ":3: 1 cells, where the header has 2"),
    "many": ('a,b\n"x\ny",2\n1,2,3\n', ":4: 3 cells, where the header has 2"),
    "cut off in quotes": ('a,b\n1,2\n3,"x\ny\nz', ":3: a quoted cell that is begun here never ends"),
    "text after a quote": ('a,b\n1,"x"y\n', ":2: text follows a closing quote"),
    "bare carriage return": ("a,b\n1,x\ry\n", ":2: a carriage return outside quotes"),
    "NUL": ("a,b\n1,2\n3,\0\n", ":3: NUL byte"),
    "same name twice": ("a,b,a\n1,2,3\n", ":1: two columns are named 'a'"),
    "empty header": ("\n,,\n1,2,3\n", ":2: the header names no column"),
    "nothing": ("", ": empty"),
    "blank": ("\n \n", ": empty"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_csv_names_file_and_line(case, tmp_path):
    text, message = MALFORMED[case]
    table = save(tmp_path / "t.csv", text)
    with pytest.raises(UsageError) as error:
        rows(table)
    assert f"{table}{message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_good_rows_before_a_nul_are_read(tmp_path):
    table = save(tmp_path / "t.csv", "a\n1\n2\n\0\n")
    opened = iter(open_rows([str(table)]))
    assert [next(opened).row, next(opened).row] == [{"a": "1"}, {"a": "2"}]
    with pytest.raises(UsageError, match=":4: NUL"):
        next(opened)


def test_origins(tmp_path):
    table = save(tmp_path / "t.csv", '\n\na\n"x\ny"\n\nz\n')
    assert [r.origin for r in open_rows([str(table)])] == [f"{table}:4", f"{table}:7"]
    assert [r.origin for r in open_rows(["-"], stdin=io.BytesIO(b'\n{"a":1}\n\n{"a":2}\n'))] == [
        "<stdin>:2",
        "<stdin>:4",
    ]


def test_large_cells(tmp_path):
    cell = "x\ny" * 3_500_000
    table = save(tmp_path / "t.csv", f'a,b\n"{cell}",2\n')
    assert rows(table) == [{"a": cell, "b": "2"}]
    assert rows(save(tmp_path / "t.jsonl", json.dumps({"a": cell}))) == [{"a": cell}]


def test_names_that_are_not_utf8(tmp_path):
    table = save(tmp_path / "t.csv", b"path\nna\xefve.mp4\n")
    [row] = rows(table)
    assert os.fsencode(row["path"]) == b"na\xefve.mp4"
    [row] = rows(save(tmp_path / "t.jsonl", b'{"path": "na\xefve.mp4"}\n'))
    assert os.fsencode(row["path"]) == b"na\xefve.mp4"


def test_jsonl_keeps_types(tmp_path):
    table = save(tmp_path / "t.ndjson", '\ufeff{"a": 1, "b": [1.0, {"c": null}], "d": NaN}\n  \r\n{"e": true}\n')
    with open_rows([str(table)]) as opened:
        first, second = (r.row for r in opened)
    assert opened.columns == ["a", "b", "d"] and opened.format == "jsonl"
    assert first["b"] == [1.0, {"c": None}] and type(first["b"][0]) is float and first["d"] != first["d"]
    assert second == {"e": True}


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"a": 1', "not valid JSON"),
        ("[1]", "no object"),
        ("null", "no object"),
        ("7", "no object"),
        ('{"a": 1} {"a": 2}', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "not valid JSON"),
    ],
)
def test_malformed_jsonl_names_file_and_line(line, message, tmp_path):
    table = save(tmp_path / "t.jsonl", f'{{"a": 0}}\n\n{line}\n')
    with pytest.raises(UsageError, match=f"t.jsonl:3: .*{message}"):
        rows(table)


def test_sniffing():
    assert piped(b'  \n {"a": 1}\n') == ("jsonl", ["a"], [{"a": 1}])
    assert piped(b"a\n1\n") == ("csv", ["a"], [{"a": "1"}])
    assert piped(b"{a}\n1\n", from_format="csv") == ("csv", ["{a}"], [{"{a}": "1"}])
    for data in (b"\0\0\0\x20ftypisom", b"\x1f\x8b\x08", b"PAR1\x15\0", b"\xff\xfea\0,\0", b"\x89PNG\r\n\x1a\n\0"):
        with pytest.raises(UsageError, match="no table"):
            piped(data)
    with pytest.raises(UsageError, match="no such format"):
        piped(b"a\n", from_format="xml")


def test_empty_streams(tmp_path):
    assert piped(b"\n") == ("jsonl", [], [])
    assert piped(b"", from_format="jsonl") == ("jsonl", [], [])
    assert rows(save(tmp_path / "t.jsonl", "")) == []
    for data in (b"", b"  "):
        with pytest.raises(UsageError, match="empty"):
            piped(data)
    with pytest.raises(UsageError, match="empty"):
        piped(b"\n", from_format="csv")


def test_inputs_that_cannot_be(tmp_path):
    for inputs, message in [
        ([tmp_path], "mkmeta scan video"),
        ([tmp_path / "missing.csv"], "No such file"),
        ([tmp_path / "missing.mp4"], "No such file"),
        (["-", "-"], "only once"),
        ([save(tmp_path / "clip.xyz", b"\0\0\0\x20ftyp")], "no table"),
        ([save(tmp_path / "t.parquet", b"PAR1")], "not a readable Parquet"),
    ]:
        with pytest.raises(UsageError, match=message):
            rows(*inputs)


def test_media_names(tmp_path):
    for name in ("a.MP4", "b.Flac", "c.jpeg", "--d.mov"):
        save(tmp_path / name, "")
    with open_rows([str(tmp_path / n) for n in ("a.MP4", "b.Flac", "c.jpeg", "--d.mov")]) as opened:
        got = list(opened)
    assert [next(iter(r.row.items())) for r in got] == [
        ("path", str(tmp_path / "a.MP4")),
        ("audio_path", str(tmp_path / "b.Flac")),
        ("path", str(tmp_path / "c.jpeg")),
        ("path", str(tmp_path / "--d.mov")),
    ]
    assert got[0].origin == f"argument {tmp_path / 'a.MP4'}"
    assert (opened.columns, opened.format, opened.total) == (["path", "audio_path"], "csv", 4)
    assert formats.kind_of("x.m2ts") == "video" and formats.kind_of("x") is None


def test_several_inputs(tmp_path):
    one = save(tmp_path / "one.csv", "a,b\n1,2\n")
    two = save(tmp_path / "two.tsv", "c\tb\n3\t4\n")
    clip = save(tmp_path / "clip.wav", "")
    with open_rows([str(one), "-", str(two), str(clip)], stdin=io.BytesIO(b'{"d": 5}\n')) as opened:
        assert opened.columns == ["a", "b", "d", "c", "audio_path"]
        got = [r.row for r in opened]
    assert got == [{"a": "1", "b": "2"}, {"d": 5}, {"c": "3", "b": "4"}, {"audio_path": str(clip)}]


def test_unknown_suffix_is_sniffed(tmp_path):
    assert rows(save(tmp_path / "t.txt", "a\n1\n")) == [{"a": "1"}]
    assert rows(save(tmp_path / "t", '{"a": 1}\n')) == [{"a": 1}]
    assert rows(save(tmp_path / "u", "PAR1,b\n1,2\n")) == [{"PAR1": "1", "b": "2"}]


def test_thousands_of_tables(tmp_path):
    tables = [save(tmp_path / f"{i}.csv", f"a\n{i}\n") for i in range(1500)]
    assert [int(row["a"]) for row in rows(*tables)] == list(range(1500))


@pytest.mark.parametrize("lines", [[b"a,b\n", b"1,2\n", b'3,"x\ny"\n'], [b'{"a": 1}\n', b'{"a": 2}\n', b'{"a": 3}\n']])
def test_rows_come_as_soon_as_their_line_has(lines):
    read, write = os.pipe()
    arrived, sent = [], []

    def feed():
        with open(write, "wb", buffering=0) as pipe:
            for line in lines:
                for piece in (line[:2], line[2:]):
                    time.sleep(0.1)
                    pipe.write(piece)
                sent.append(time.monotonic())
            time.sleep(0.5)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with open(read, "rb") as pipe, open_rows([], stdin=pipe) as opened:
        for _ in opened:
            arrived.append(time.monotonic())
    feeder.join()
    sent = sent[-len(arrived) :]
    assert len(arrived) >= 2
    assert all(got - put < 0.15 for got, put in zip(arrived, sent))


def test_fifo(tmp_path):
    fifo = tmp_path / "t.csv"
    os.mkfifo(fifo)
    for shard, expected in ((None, ["1", "2", "3"]), ((2, 2), ["2", "3"])):
        feeder = threading.Thread(target=lambda: fifo.write_text("a\n1\n2\n3\n"))
        feeder.start()
        assert [row["a"] for row in rows(fifo, shard=shard)] == expected
        feeder.join()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shards_are_the_whole(count, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    one = save(tmp_path / "one.csv", "a\n" + "".join(f'"{i}\n"\n\n' for i in range(11)))
    two = save(tmp_path / "two.jsonl", "".join(f'{{"a": {i}}}\n' for i in range(8)))
    parquet.write_table(pyarrow.table({"a": list(range(5))}), tmp_path / "three.parquet")
    clip = save(tmp_path / "clip.mp4", "")
    inputs = [str(one), "-", str(two), str(tmp_path / "three.parquet"), str(clip)]
    stdin = b"b\nx\ny\n"

    def read(shard):
        with open_rows(inputs, shard=shard, stdin=io.BytesIO(stdin)) as opened:
            assert opened.columns == ["a", "b", "path"]
            got = list(opened)
            assert shard is None or opened.total == len(got)
            return got

    whole = read(None)
    assert len(whole) == 27
    slices = [read((i, count)) for i in range(1, count + 1)]
    assert sum(slices, []) == whole
    assert [len(s) for s in slices] == [i * 27 // count - (i - 1) * 27 // count for i in range(1, count + 1)]


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_shards_that_are_none(shard):
    with pytest.raises(UsageError, match="--shard"):
        piped(b"a\n1\n", shard=shard)


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import datetime
    import decimal

    import pyarrow

    table = pyarrow.table(
        {
            "i": [1, None],
            "f": [1.5, float("nan")],
            "s": ["é", ""],
            "t": [datetime.datetime(2024, 1, 2, 3, 4, 5), None],
            "d": [datetime.date(2024, 1, 2), None],
            "b": [b"bytes", None],
            "l": [[{"x": datetime.date(2024, 1, 2)}], []],
            "e": [datetime.timedelta(seconds=1.5), None],
            "m": [decimal.Decimal("1.10"), None],
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    parquet.write_table(table, tmp_path / "t.unknown")
    with open_rows([str(tmp_path / "t.parquet")]) as opened:
        got = list(opened)
    assert (opened.columns, opened.format, opened.total) == (table.column_names, "parquet", 2)
    assert got[0].row == {
        "i": 1,
        "f": 1.5,
        "s": "é",
        "t": "2024-01-02T03:04:05",
        "d": "2024-01-02",
        "b": "bytes",
        "l": [{"x": "2024-01-02"}],
        "e": 1.5,
        "m": "1.10",
    }
    assert got[1].origin.endswith("t.parquet:row 2") and got[1].row["i"] is None
    assert rows(tmp_path / "t.unknown")[0] == got[0].row
    parquet.write_table(pyarrow.table({"b": [b"\xff"]}), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match="column b, row 1"):
        rows(tmp_path / "b.parquet")
    with open(tmp_path / "t.parquet", "rb") as file, pytest.raises(UsageError, match="Parquet"):
        open_rows([], stdin=file)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the peak")
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_memory_does_not_grow(suffix, tmp_path):
    program = (
        "import sys\n"
        "from avtools.rows import open_rows, open_writer\n"
        "rows = open_rows(sys.argv[1:])\n"
        "writer = open_writer(None, None, rows.columns, rows.format)\n"
        "for record in rows: writer.write(record.row)\n"
        "writer.commit()\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line], file=sys.stderr)\n"
    )
    head, line = ("path,n\n", "some/longer/path/to/a/clip.mp4,12345678\n")
    if suffix == "jsonl":
        head, line = ("", '{"path": "some/longer/path/to/a/clip.mp4", "n": 12345678}\n')
    peaks = []
    for count in (5_000, 200_000):
        table = save(tmp_path / f"t.{suffix}", head + line * count)
        done = subprocess.run([sys.executable, "-c", program, str(table)], capture_output=True, check=True)
        assert done.stdout == table.read_bytes()
        peaks.append(int(done.stderr))
    assert peaks[1] - peaks[0] < 3_000  # kilobytes; the tables have 8 000 and more


def test_import_is_light():
    program = "import sys, avtools.rows; print({'pandas', 'pyarrow', 'numpy', 'jsonlines'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "set()"


def test_shown_is_one_printable_line():
    assert formats.shown("a\nb\udcff\ud800").isprintable()
    assert formats.shown("naïve clip.mp4") == "naïve clip.mp4"
