"""The layout hf-datasets through the real program, and its files in the hands of the real datasets package."""

import json
import os
import shutil
import signal
import subprocess
import time

import pyarrow
import pyarrow.parquet
import pytest
from conftest import files
from test_webdataset import CLIPS, check_equal, odd_rows, read_table, write_table


@pytest.fixture
def load(tmp_path, monkeypatch):
    """datasets.load_dataset without the network, its cache below the test's folder."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    return lambda folder, **more: datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **more)


def undecoded(dataset):
    """Media columns as they lie in the file."""
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, (datasets.Video, datasets.Audio, datasets.Image)):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def test_there_and_back(avtools, tmp_path, media):
    rows = odd_rows(tmp_path, media)
    write_table(tmp_path / "t.csv", rows)
    done = avtools("mkmeta", "export", "hf-datasets", "t.csv", "-d", "h", "-o", "o.csv")
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()
    assert "Parquet files: 2 made" in done.stderr and "1 cells of hint_path name no file" in done.stderr
    assert list(files(tmp_path / "h")) == ["README.md", "data/train-00000-of-00001.parquet", "data/valid-00000-of-00001.parquet"]
    done = avtools("mkmeta", "import", "hf-datasets", "h", "-d", "u", "-o", "b.csv")
    assert f"{len(rows)} rows are as they were exported" in done.stderr and "added" not in done.stderr
    check_equal(rows, read_table(tmp_path / "b.csv"), tmp_path, "u")
    assert (tmp_path / "u/-dash first.x.y.mp4").exists() and not list((tmp_path / "u").glob("-dash*-2*"))  # of six rows, once
    # the files alone say as much, but for bytes that Parquet has no text for, and give the same files again
    for row in rows:
        row["relpath"] = row["relpath"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        row["path"] = row["path"].replace("placeholder.mp4", "")
    shutil.rmtree(tmp_path / "h/.avtools")
    avtools("mkmeta", "import", "hf-datasets", "h", "-d", "u2", "-o", "b2.csv")
    odd = next(n for n, row in enumerate(rows) if "\ufffd" in row["relpath"])
    rows[odd]["path"] = read_table(tmp_path / "b2.csv")[odd]["path"]  # its name is that of relpath now
    back = read_table(tmp_path / "b2.csv")
    check_equal(rows[:odd] + rows[odd + 1 :], back[:odd] + back[odd + 1 :], tmp_path, "u2")
    avtools("mkmeta", "export", "hf-datasets", "b2.csv", "-d", "h2", "-o", "o2.csv")
    assert files(tmp_path / "h2") == files(tmp_path / "h")


def test_order_over_several_splits(avtools, tmp_path, media):
    rows = [row | {"split": ("valid", "", "test", "train", "dev.2")[n % 5]} for n, row in enumerate(odd_rows(tmp_path, media))]
    write_table(tmp_path / "t.csv", rows)
    avtools("mkmeta", "export", "hf-datasets", "t.csv", "-d", "h", "-o", "o.csv", "--shard-size", 2)
    avtools("mkmeta", "import", "hf-datasets", "h", "-d", "u", "-o", "b.csv")
    check_equal(rows, read_table(tmp_path / "b.csv"), tmp_path, "u")


def test_the_datasets_package_reads_it(avtools, tmp_path, media, load):
    import datasets

    rows = [row for row in odd_rows(tmp_path, media) if row["path"] != "in/l.png"]
    write_table(tmp_path / "t.csv", rows)
    avtools("mkmeta", "export", "hf-datasets", "t.csv", "-d", "h", "-o", "o.csv")
    found = load(tmp_path / "h")
    assert list(found) == ["train", "valid"]
    features = found["train"].features
    assert [type(features[name]) for name in ("video", "audio", "image", "stem_path")] == [datasets.Video, datasets.Audio, datasets.Image, datasets.Audio]
    assert features["id"] == features["num_frames"] == features["note"] == datasets.Value("string")
    assert list(features) == [{"path": "video", "audio_path": "audio", "image_path": "image"}.get(c, c) for c in rows[0]]
    got = [row for split in found.values() for row in undecoded(split)]
    for row, one in zip(rows, got, strict=True):
        for column, name in (("path", "video"), ("audio_path", "audio"), ("image_path", "image"), ("features_path", "features_path"), ("stem_path", "stem_path")):
            if row[column] in ("", "placeholder.mp4"):
                assert one[name] is None
            else:
                assert one[name]["bytes"] == (tmp_path / row[column]).read_bytes()
        for column in ("id", "num_frames", "text", "audio_text", "note", "split"):
            assert one[column] == row[column]
    assert got[0]["video"]["path"] == "-dash first.x.y.mp4" and got[1]["video"]["path"] == "a.b/00123.webm"
    streamed = list(undecoded(load(tmp_path / "h", split="train", streaming=True)))
    assert [(row["note"], row["video"]) for row in streamed] == [(row["note"], row["video"]) for row in got[:-1]]


def test_types_of_jsonl(avtools, tmp_path, media, load):
    import datasets

    shutil.copy(media / CLIPS[1], tmp_path / "a.webm")
    rows = [
        {"path": "a.webm", "relpath": "a.webm", "n": 3, "f": 1.5, "b": True, "none": None, "deep": {"x": [1, 2]}, "mixed": 3, "big": 2**60, "list": [[0.5, 1]]},
        {"relpath": "b", "n": 4, "f": 2, "text": "one", "late": "\ud800 \udcff", "mixed": "3.0", "big": 0.1, "deep": {"y": "z"}, "odd": {}, "list": []},
        {"relpath": "c", "mixed": [1, "x"], "n": "", "f": -0.0, "big": 2**70, "odd": 1, "b": None},
        {"relpath": "placeholder.mp4", "path": "placeholder.mp4", "mixed": False},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    avtools("mkmeta", "export", "hf-datasets", "t.jsonl", "-d", "h", "-o", "o.jsonl")
    done = avtools("mkmeta", "import", "hf-datasets", "h", "-d", "u", "-o", "b.jsonl")
    assert "4 rows are as they were exported" in done.stderr
    back = [json.loads(line) for line in open(tmp_path / "b.jsonl", encoding="utf-8", errors="surrogateescape")]
    for one, two in zip([{**rows[0], "path": "u/a.webm"}, *rows[1:]], back, strict=True):
        assert repr(one) == repr(two)
    found = undecoded(load(tmp_path / "h", split="train"))
    value = datasets.Value
    assert [found.features[c] for c in ("n", "f", "b", "mixed", "big", "odd")] == [value(t) for t in "int64 float64 bool string string string".split()]
    assert found[0]["deep"] == {"x": [1, 2], "y": None} and found[0]["list"] == [[0.5, 1.0]]
    assert found["mixed"][:] == ["3", "3.0", '[1,"x"]', "false"] and found["big"][0] == str(2**60) and found["n"][:] == [3, 4, None, None]


def test_exporting_again(avtools, tmp_path, media):
    write_table(tmp_path / "t.csv", odd_rows(tmp_path, media))
    arguments = "mkmeta", "export", "hf-datasets", "t.csv", "-o", "o.csv", "--shard-size", 2
    avtools(*arguments, "-d", "h")
    first = files(tmp_path / "h")
    assert len(first) > 4 and all(f"-of-{len(first) - 2:05d}" in name for name in first if "train" in name)
    states = {path: path.stat().st_mtime_ns for path in (tmp_path / "h").rglob("*") if path.is_file() and ".avtools" not in path.parts}
    assert "Parquet files: 0 made" in avtools(*arguments, "-d", "h").stderr
    assert states == {path: path.stat().st_mtime_ns for path in states}
    os.utime(tmp_path / "in/s.wav", (1, 1))
    avtools(*arguments, "-d", "h")
    assert files(tmp_path / "h") == first
    # another table: the files that it does not need go, what people wrote stays
    (tmp_path / "h/notes.txt").write_text("mine")
    (tmp_path / "h/README.md").write_text("my own card")
    done = avtools(*arguments[:-1], 100, "-d", "h")
    assert list(files(tmp_path / "h")) == ["README.md", "data/train-00000-of-00001.parquet", "data/valid-00000-of-00001.parquet", "notes.txt"]
    assert (tmp_path / "h/README.md").read_text() == "my own card" and "README.md is not as it was written here" in done.stderr


def test_row_groups_are_small(avtools, tmp_path, media):
    shutil.copy(media / "audio/duck.mp3", tmp_path / "a.mp3")
    write_table(tmp_path / "t.csv", [{"audio_path": "a.mp3", "id": str(n)} for n in range(250)])
    avtools("mkmeta", "export", "hf-datasets", "t.csv", "-d", "h", "-o", "o.csv")
    metadata = pyarrow.parquet.read_metadata(next((tmp_path / "h").rglob("*.parquet")))
    assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [100, 100, 50]
    assert metadata.row_group(0).column(0).path_in_schema == "audio.bytes" and metadata.row_group(0).column(0).compression == "UNCOMPRESSED"


def test_a_record_that_was_changed_is_read_as_it_stands(avtools, tmp_path, media):
    shutil.copy(media / CLIPS[1], tmp_path / "a.webm")
    rows = [{"path": "a.webm", "id": name, "relpath": f"{name}.webm", "text": f"text {name}", "note": "007"} for name in "abcd"]
    write_table(tmp_path / "t.csv", rows)
    avtools("mkmeta", "export", "hf-datasets", "t.csv", "-d", "h", "-o", "o.csv")
    path = next((tmp_path / "h").rglob("*.parquet"))
    table = pyarrow.parquet.read_table(path)
    cells = table.to_pylist()
    cells[0]["note"], cells[1]["text"], cells[2]["video"]["bytes"] = "7", None, (media / CLIPS[2]).read_bytes()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*cells, cells[0] | {"id": "new", "video": None}], table.schema), path)
    done = avtools("mkmeta", "import", "hf-datasets", "h", "-d", "u", "-o", "b.csv")
    back = read_table(tmp_path / "b.csv")
    assert [(row["id"], row["note"], row["text"]) for row in back] == [
        ("a", "7", "text a"), ("b", "007", ""), ("c", "007", "text c"), ("d", "007", "text d"), ("new", "7", "text a"),
    ]  # fmt: skip
    assert (tmp_path / back[2]["path"]).read_bytes() == (media / CLIPS[2]).read_bytes() and back[4]["path"] == ""
    assert "2 rows are as they were exported from here, 3 were added or changed since" in done.stderr


def test_bad_rows(avtools, tmp_path, media):
    shutil.copy(media / CLIPS[1], tmp_path / "a.webm")
    with open(tmp_path / "large.mp4", "wb") as file:
        file.truncate(2**31)
    rows = [{"path": path, "id": str(n), "split": split} for n, (path, split) in enumerate([("a.webm", ""), ("gone.mp4", ""), ("large.mp4", ""), ("a.webm", "a-b"), ("a.webm", "")])]
    write_table(tmp_path / "t.csv", rows)
    done = avtools("mkmeta", "export", "hf-datasets", "t.csv", "-d", "h", "-o", "o.csv", status=1)
    for part in ("gone.mp4: cannot be read", "large.mp4: 2147483648 bytes", "split 'a-b': a split of datasets", "5 rows in = 2 done + 0 filtered + 3 bad"):
        assert part in done.stderr
    avtools("mkmeta", "import", "hf-datasets", "h", "-d", "u", "-o", "b.csv")
    assert [row["id"] for row in read_table(tmp_path / "b.csv")] == ["0", "4"]


def test_a_table_without_rows(avtools, tmp_path):
    (tmp_path / "t.csv").write_text("path,text\n")
    avtools("mkmeta", "export", "hf-datasets", "t.csv", "-d", "h", "-o", "o.csv")
    avtools("mkmeta", "import", "hf-datasets", "h", "-d", "u", "-o", "b.csv")
    assert (tmp_path / "b.csv").read_text() == "path,text\n"


def test_killed_and_run_again(avtools, tmp_path, media):
    rows = odd_rows(tmp_path, media) * 15
    write_table(tmp_path / "t.csv", rows)
    arguments = "mkmeta", "export", "hf-datasets", "t.csv", "-o", "o.csv", "--shard-size", 20
    avtools(*arguments, "-d", "whole")
    process = avtools.start(*arguments, "-d", "h", stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "h/data").glob("*.tmp"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not files(tmp_path / "h").keys() & files(tmp_path / "whole").keys()
    avtools(*arguments, "-d", "h")
    assert files(tmp_path / "h") == files(tmp_path / "whole")
    assert not list((tmp_path / "h").rglob("*.tmp"))
    # reading, too
    avtools("mkmeta", "import", "hf-datasets", "whole", "-d", "all", "-o", "all.csv")
    process = avtools.start("mkmeta", "import", "hf-datasets", "whole", "-d", "u", "-j", 1, "-o", "u.csv")
    while not list((tmp_path / "u").rglob("*.mp4")):
        assert time.monotonic() < deadline + 60
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    avtools.wait_for_workers()
    avtools("mkmeta", "import", "hf-datasets", "whole", "-d", "u", "-o", "u.csv")
    assert files(tmp_path / "u") == files(tmp_path / "all")
    assert (tmp_path / "u.csv").read_bytes() == (tmp_path / "all.csv").read_bytes().replace(b"all/", b"u/")
    os.utime(next((tmp_path / "whole").rglob("train-00000*")), (1, 1))
    assert "files: 0 made" in avtools("mkmeta", "import", "hf-datasets", "whole", "-d", "u", "-o", "u.csv").stderr


# --- data sets of others --------------------------------------------------------------------------------------------------


def test_a_data_set_of_the_datasets_package(avtools, tmp_path, media):
    import datasets

    picture, sound, clip = ((media / name).read_bytes() for name in ("lion_and_gun.png", "audio/duck.mp3", CLIPS[0]))
    features = datasets.Features({
        "image": datasets.Image(), "sound": datasets.Audio(), "video": datasets.Video(), "raw": datasets.Value("binary"),
        "label": datasets.ClassLabel(names=["cat", "dog"]), "when": datasets.Value("timestamp[s]"), "score": datasets.Value("float32"),
    })  # fmt: skip
    whole = {"image": {"bytes": picture, "path": None}, "sound": {"bytes": sound, "path": "x/duck.mp3"}, "video": {"bytes": clip, "path": "c.mp4"}}
    rows = [{**whole, "raw": sound, "label": 1, "when": 0, "score": 0.5}, {"image": whole["image"], "sound": None, "video": None, "raw": None, "label": 0, "when": None, "score": None},
            {"image": None, "sound": whole["video"] | {"path": "x/duck.mp3"}, "video": None, "raw": b"", "label": -1, "when": 1, "score": 2}]  # fmt: skip
    table = pyarrow.Table.from_pylist(rows, features.arrow_schema)
    os.mkdir(tmp_path / "h")
    pyarrow.parquet.write_table(table, tmp_path / "h/test-00000-of-00001.parquet")
    done = avtools("mkmeta", "import", "hf-datasets", "h", "-d", "u", "--to", "jsonl")
    back = [{c: v for c, v in json.loads(line).items() if v is not None} for line in done.stdout.splitlines()]
    assert back[0] | {"when": ""} == {
        "image_path": "u/test-00000-of-00001-000000.png", "sound_path": "u/x/duck.mp3", "path": "u/c.mp4", "raw_path": "u/test-00000-of-00001-000000.raw.mp3",
        "label": "dog", "when": "", "score": 0.5, "split": "test", "id": back[0]["id"], "relpath": back[0]["relpath"],
    }  # fmt: skip
    assert back[0]["when"].startswith("1970-01-01T00:00:00") and back[1]["label"] == "cat" and "label" not in back[2]
    assert (tmp_path / back[0]["image_path"]).read_bytes() == (tmp_path / back[1]["image_path"]).read_bytes() == picture
    assert back[0]["image_path"] != back[1]["image_path"] and back[2]["sound_path"] == "u/x/duck-2.mp3"
    assert (tmp_path / "u/x/duck-2.mp3").read_bytes() == clip == (tmp_path / "u/c.mp4").read_bytes() and (tmp_path / "u/x/duck.mp3").read_bytes() == sound


def test_files_that_are_named_but_not_inside(avtools, tmp_path, media):
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"audio": {"bytes": None, "path": "where/it is.wav"}, "id": "1"}, {"audio": {"bytes": b"RIFF", "path": "../../x.wav"}, "id": "2"}, {"audio": {"bytes": b"RIFF", "path": "/x.wav"}, "id": "3"}]
    nested = [[{"bytes": b"\xff", "path": "a"}]]
    table = pyarrow.Table.from_arrays([pyarrow.array([r["audio"] for r in rows], kind), pyarrow.array([r["id"] for r in rows]), pyarrow.array(nested * 3, pyarrow.list_(kind))], ["audio", "id", "images"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    done = avtools("mkmeta", "import", "hf-datasets", "t.parquet", "-d", "u", "--to", "csv", status=1)
    assert done.stdout == "audio_path,id\nwhere/it is.wav,1\n"
    assert "3 rows in = 1 done + 0 filtered + 2 bad" in done.stderr and "column images holds bytes inside lists" in done.stderr
    assert list(files(tmp_path)) == ["t.parquet"]


def test_damaged_files(avtools, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"video": pyarrow.array([os.urandom(200_000)] * 3, pyarrow.binary())}), tmp_path / "t.parquet", use_dictionary=False)
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[:-100])
    done = avtools("mkmeta", "import", "hf-datasets", "t.parquet", "-d", "u", "-o", "b.csv", status=2)
    assert "t.parquet: not a readable Parquet file" in done.stderr and not (tmp_path / "b.csv").exists()
    (tmp_path / "t.parquet").write_bytes(data[:4] + bytes(1000) + data[1004:])
    done = avtools("mkmeta", "import", "hf-datasets", "t.parquet", "-d", "u", "-o", "b.csv", status=None)
    assert done.returncode in (1, 2) and "t.parquet" in done.stderr and "unexpected" not in done.stderr
    os.mkdir(tmp_path / "empty")
    assert "no .parquet" in avtools("mkmeta", "import", "hf-datasets", "empty", "-d", "u", status=2).stderr
