"""CSV's dark corners, read and written by the program: the cases of the csv-spectrum suite, written anew, and made-up tables."""

import csv
import io
import json

import pytest
from hypothesis import given, settings, strategies as st

#: name -> the CSV, and its rows
SPECTRUM = {
    "comma in quotes": (b'first,last,address,city,zip\nJohn,Doe,120 any st.,"Anytown, WW",08123\n', [{"first": "John", "last": "Doe", "address": "120 any st.", "city": "Anytown, WW", "zip": "08123"}]),
    "empty": (b'a,b,c\n1,"",""\n2,3,4\n', [{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "3", "c": "4"}]),
    "empty crlf": (b'a,b,c\r\n1,"",""\r\n2,3,4\r\n', [{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "3", "c": "4"}]),
    "escaped quotes": (b'a,b\n1,"ha ""ha"" ha"\n3,4\n', [{"a": "1", "b": 'ha "ha" ha'}, {"a": "3", "b": "4"}]),
    "json": (b'key,val\n1,"{""type"": ""Point"", ""coordinates"": [102.0, 0.5]}"\n', [{"key": "1", "val": '{"type": "Point", "coordinates": [102.0, 0.5]}'}]),
    "location coordinates": ("Contact,GPS\n\"0,+1\",\"37°36'37.8\"\"N 121°2'17.9\"\"E\"\n".encode(), [{"Contact": "0,+1", "GPS": "37°36'37.8\"N 121°2'17.9\"E"}]),
    "newlines": (b'a,b,c\n1,2,3\n"Once upon \na time",5,6\n7,8,9\n', [{"a": "1", "b": "2", "c": "3"}, {"a": "Once upon \na time", "b": "5", "c": "6"}, {"a": "7", "b": "8", "c": "9"}]),
    "newlines crlf": (b'a,b,c\r\n1,2,3\r\n"Once upon \r\na time",5,6\r\n7,8,9\r\n', [{"a": "1", "b": "2", "c": "3"}, {"a": "Once upon \r\na time", "b": "5", "c": "6"}, {"a": "7", "b": "8", "c": "9"}]),
    "quotes and newlines": (b'a,b\n1,"ha \n""ha"" \nha"\n3,4\n', [{"a": "1", "b": 'ha \n"ha" \nha'}, {"a": "3", "b": "4"}]),
    "simple": (b"a,b,c\n1,2,3\n", [{"a": "1", "b": "2", "c": "3"}]),
    "simple crlf": (b"a,b,c\r\n1,2,3\r\n", [{"a": "1", "b": "2", "c": "3"}]),
    "utf8": ("a,b,c\n1,2,3\n4,5,ʤ\n".encode(), [{"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": "5", "c": "ʤ"}]),
    # and what tables of clips hold
    "byte-order mark": (b"\xef\xbb\xbfid,b\n1,2\n", [{"id": "1", "b": "2"}]),
    "no newline at the end": (b"a,b\n1,2", [{"a": "1", "b": "2"}]),
    "odd ids": (b"id\n00123\n-0Bp8c\n=1+1\n1e5\n+3\n", [{"id": text} for text in ("00123", "-0Bp8c", "=1+1", "1e5", "+3")]),
    "words for nothing": (b"a,b\nNA,NaN\nnull,None\nnan,\nN/A,#N/A\n", [{"a": "NA", "b": "NaN"}, {"a": "null", "b": "None"}, {"a": "nan", "b": ""}, {"a": "N/A", "b": "#N/A"}]),
    "numbers as written": (b"a,b\n1.0,1.10\n1E5,0x10\n12345678901234567890,1_000\n", [{"a": "1.0", "b": "1.10"}, {"a": "1E5", "b": "0x10"}, {"a": "12345678901234567890", "b": "1_000"}]),
    "blanks": (b'a, b\n 1 ,\t\n"",x \n', [{"a": " 1 ", " b": "\t"}, {"a": "", " b": "x "}]),
    "header alone": (b"a,b\n", []),
    "quoted header": (b'"a,1","b ""x"""\n1,2\n', [{"a,1": "1", 'b "x"': "2"}]),
}


@pytest.mark.parametrize("name", SPECTRUM)
def test_spectrum(avtools, name):
    """Value for value in JSONL, and our CSV of it is a fixed point of every way around."""
    data, rows = SPECTRUM[name]
    (avtools.folder / "t.csv").write_bytes(data)
    done = avtools("mkmeta", "merge", "t.csv", "--to", "jsonl", text=False)
    assert [json.loads(line) for line in done.stdout.splitlines() if line] == rows
    assert avtools("mkmeta", "merge", "-", input=data, text=False).stdout == avtools("mkmeta", "merge", "t.csv", text=False).stdout
    avtools("mkmeta", "merge", "-q", "t.csv", "-o", "ours.csv")
    assert list(csv.DictReader(io.StringIO((avtools.folder / "ours.csv").read_bytes().decode(), newline=""))) == rows
    for format_ in ("csv", "tsv", "jsonl", "parquet") if rows else ("csv", "tsv", "parquet"):  # JSONL has no header to keep
        around(avtools.folder, format_)


def around(folder, format_: str) -> None:
    """ours.csv by way of another format is itself again, byte for byte."""
    copy(folder / "ours.csv", folder / f"way.{format_}")
    copy(folder / f"way.{format_}", folder / "back.csv")
    assert (folder / "back.csv").read_bytes() == (folder / "ours.csv").read_bytes(), format_


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from(',"\t\n\r {}[]\\;\'|\ufeff0.-e\x85\u2028'), max_size=12)
NAME = TEXT.filter(bool)
TABLES = st.lists(NAME, min_size=1, max_size=5, unique=True).flatmap(
    lambda names: st.tuples(st.just(names), st.lists(st.lists(TEXT, min_size=len(names), max_size=len(names)), min_size=1, max_size=5))
)


@given(TABLES)
@settings(max_examples=150, deadline=None)
def test_made_up_tables(tmp_path_factory, table):
    """In one process: reading and writing are the program's own, and so is every way around."""
    names, lines = table
    folder = tmp_path_factory.mktemp("t")
    path = folder / "t.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([names, *lines])
    rows = [dict(zip(names, line, strict=True)) for line in lines]
    assert read(path) == rows
    ours = folder / "ours.csv"
    copy(path, ours)
    assert read(ours) == rows
    for format_ in ("csv", "tsv", "jsonl", "parquet"):
        around(folder, format_)


def read(path) -> list[dict]:
    from avtools.rows import open_rows

    with open_rows([str(path)]) as source:
        return [record.row for record in source]


def copy(source, target) -> None:
    from avtools.rows import open_rows, open_writer

    with open_rows([str(source)]) as rows:
        writer = open_writer(str(target), None, rows.columns, "csv")
        try:
            for record in rows:
                writer.write(record.row)
            writer.commit()
        finally:
            writer.discard()


@pytest.mark.parametrize("format_", ["csv", "tsv", "jsonl", "parquet"])
def test_a_cell_of_10_mb(avtools, format_):
    text = 'a "dog", \n' * 1_000_000
    with open(avtools.folder / "t.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["id", "text"], ["00123", text]])
    avtools("mkmeta", "merge", "-q", "t.csv", "-o", "ours.csv")
    assert (avtools.folder / "ours.csv").read_bytes() == (avtools.folder / "t.csv").read_bytes()
    avtools("mkmeta", "merge", "-q", "ours.csv", "-o", f"way.{format_}")
    avtools("mkmeta", "merge", "-q", f"way.{format_}", "-o", "back.csv")
    assert (avtools.folder / "back.csv").read_bytes() == (avtools.folder / "ours.csv").read_bytes()


@pytest.mark.parametrize(
    "data, message",
    [
        (b"a,b\n1,2\n3\n", "t.csv:3: 1 cells, where the header has 2"),
        (b'a,b\n"1\n1",2\n3,4,5\n', "t.csv:4: 3 cells, where the header has 2"),
        (b"a,b\r\n1,2\r\n\r\n1,2,\r\n", "t.csv:4: 3 cells, where the header has 2"),
        (b"a,b,a\n1,2,3\n", "t.csv:1: two columns are named 'a'"),
        (b'a,b\n1,"2\n', "t.csv:2: a quoted cell that is begun here never ends"),
        (b'a,b\n1,"2"x\n', "t.csv:2: text follows a closing quote"),
        (b"a,b\n1,2\n\0,3\n", "t.csv:3: NUL byte"),
        (b"", "t.csv: empty, without even a header"),
    ],
)
def test_malformed_lines_are_named_and_nothing_is_written(avtools, data, message):
    (avtools.folder / "t.csv").write_bytes(data)
    done = avtools("mkmeta", "merge", "t.csv", "-o", "o.csv", status=2)
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (avtools.folder / "o.csv").exists()
