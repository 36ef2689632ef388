"""The layout webdataset through the real program, and its shards in the hands of the real webdataset package."""

import csv
import gzip
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tarfile
import time

import pytest
from conftest import files

CLIPS = "vggsound/-26aVYRtEAc_000030.mp4", "odd/testsrc2_vp8.webm", "odd/h265_10bits.mp4"


def write_table(path: pathlib.Path, rows: list[dict]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: pathlib.Path) -> list[dict]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def odd_rows(folder: pathlib.Path, media: pathlib.Path) -> list[dict]:
    """Rows, sorted by split, of all that names and cells can be; their files below `folder`/in."""
    odd = os.fsdecode(b"\xff\xfe odd.mp4")
    places = {
        "in/-dash first.x.y.mp4": CLIPS[0], "in/a.b/00123.WEBM": CLIPS[1], f"in/{odd}": CLIPS[2], 'in/quo"te,\nline.d.mp4': CLIPS[1],
        "in/__top__/__x__.mp4": CLIPS[2], "in/100%2E.mp4": CLIPS[1], "in/s.wav": "audio/bird_audio.wav", "in/l.png": "lion_and_gun.png",
    }  # fmt: skip
    for place, source in places.items():
        os.makedirs(os.path.dirname(folder / place), exist_ok=True)
        shutil.copy(media / source, folder / place)
    (folder / "in/f.npy").write_bytes(b"\x93NUMPY no array")
    row = dict.fromkeys("path id relpath num_frames audio_path text image_path features_path stem_path hint_path audio_text note split".split(), "")
    rows = [row | {"path": path, "relpath": path[3:], "id": "00123", "note": "1e5"} for path in list(places)[:6]]
    rows += [row | {"path": "in/-dash first.x.y.mp4", "relpath": "-dash first.x.y.mp4", "text": f'caption "{i}",\n\nü'} for i in range(5)]
    rows += [rows[-1], row | {"path": "placeholder.mp4", "audio_path": "in/s.wav", "audio_text": "a bird", "hint_path": "no such file"}]
    rows += [row | {"text": "words alone", "relpath": "words"}, row | {"path": "in/l.png", "audio_path": "in/-dash first.x.y.mp4", "relpath": "still"}]
    rows += [row | {"path": "in/a.b/00123.WEBM", "audio_path": "in/s.wav", "image_path": "in/l.png", "features_path": "in/f.npy", "stem_path": "in/s.wav",
                    "split": "valid", "num_frames": "-0", "note": "NA"}]  # fmt: skip
    return rows


def check_equal(before: list[dict], after: list[dict], folder: pathlib.Path, out: str) -> None:
    """All cells as they were, in order; those of files name files below `out` with the same bytes."""
    assert len(before) == len(after)
    for old, new in zip(before, after):
        assert list(old) == list(new)
        for column, cell in old.items():
            if column.endswith("path") and cell and column != "relpath" and os.path.isfile(folder / cell):
                assert new[column].startswith(out + "/"), (column, new[column])
                assert (folder / new[column]).read_bytes() == (folder / cell).read_bytes()
            else:
                assert new[column] == cell, column


def members(path) -> list[tuple[str, bytes]]:
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def pack(path, parts, format=tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in parts:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_there_and_back(avtools, tmp_path, media):
    rows = odd_rows(tmp_path, media)
    write_table(tmp_path / "t.csv", rows)
    done = avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv")
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()
    assert "shards: 2 made" in done.stderr and "1 cells of hint_path name no file" in done.stderr
    assert list(files(tmp_path / "w")) == ["train-000000.tar", "valid-000000.tar"]
    done = avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "-o", "b.csv")
    assert f"{len(rows)} rows are as they were exported" in done.stderr
    check_equal(rows, read_table(tmp_path / "b.csv"), tmp_path, "u")
    assert (tmp_path / "u/-dash first.x.y.mp4").exists() and not list((tmp_path / "u").glob("-dash*-2*"))  # of six rows, once
    # the shards alone say as much, and give the same shards again
    shutil.rmtree(tmp_path / "w/.avtools")
    avtools("mkmeta", "import", "webdataset", "w", "-d", "u2", "-o", "b2.csv")
    check_equal(rows, read_table(tmp_path / "b2.csv"), tmp_path, "u2")
    avtools("mkmeta", "export", "webdataset", "b2.csv", "-d", "w2", "-o", "o2.csv")
    assert files(tmp_path / "w2") == files(tmp_path / "w")


def test_order_over_several_splits(avtools, tmp_path, media):
    rows = [row | {"split": ("valid", "", "test", "train", "a-b")[n % 5]} for n, row in enumerate(odd_rows(tmp_path, media))]
    write_table(tmp_path / "t.csv", rows)
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv", "--shard-size", 2)
    avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "-o", "b.csv")
    check_equal(rows, read_table(tmp_path / "b.csv"), tmp_path, "u")


def test_types_of_jsonl(avtools, tmp_path, media):
    shutil.copy(media / CLIPS[1], tmp_path / "a.webm")
    rows = [
        {"path": "a.webm", "relpath": "a.webm", "n": 3, "f": 1e300, "b": True, "none": None, "deep": {"x": [1, "1", {"y": []}], "e": {}}, "big": 2**70},
        {"relpath": "b", "n": "3", "f": 3.0, "text": ["one", "two"], "late": "\ud800 \udcff", "big": 0.1},
        {"relpath": "c", "spans": [[0.5, 1]], "n": -0.0},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    avtools("mkmeta", "export", "webdataset", "t.jsonl", "-d", "w", "-o", "o.jsonl")
    for hidden in (False, True):
        if hidden:
            shutil.rmtree(tmp_path / "w/.avtools")
        avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "--to", "jsonl", "-o", "b.jsonl")
        back = [json.loads(line) for line in open(tmp_path / "b.jsonl", encoding="utf-8", errors="surrogateescape")]
        want = [{**rows[0], "path": "u/a.webm"}, *rows[1:]]
        for one, two in zip(want, back, strict=True):
            assert repr(one) == repr(two)


def test_the_webdataset_package_reads_it(avtools, tmp_path, media):
    import webdataset

    rows = odd_rows(tmp_path, media)
    write_table(tmp_path / "t.csv", rows)
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv")
    shards = [str(tmp_path / "w" / name) for name in ("train-000000.tar", "valid-000000.tar")]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert len(samples) == len(rows) and len({sample["__key__"] for sample in samples}) == len(rows)
    for row, sample in zip(rows, samples):
        cells = json.loads(sample["json"])
        assert list(cells) == list(row)
        suffix = os.path.splitext(row["path"])[1][1:].lower()
        if row["path"] not in ("", "placeholder.mp4"):
            name = suffix if suffix != "png" else "path.png"
            assert sample[name] == (tmp_path / row["path"]).read_bytes()
            assert cells["path"] == f"{sample['__key__']}.{name}"
        assert sample.get("txt", b"").decode() == (row["text"] or row["audio_text"])
    assert samples[-1]["wav"] == samples[-1]["stem.wav"] == (tmp_path / "in/s.wav").read_bytes() and samples[-1]["features.npy"].startswith(b"\x93")
    assert samples[-2]["audio.mp4"] == (tmp_path / "in/-dash first.x.y.mp4").read_bytes()


def test_shards_are_the_same_bytes_and_plain(avtools, tmp_path, media):
    write_table(tmp_path / "t.csv", odd_rows(tmp_path, media))
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv", "--shard-size", 2)
    first, states = files(tmp_path / "w"), {path: path.stat().st_mtime_ns for path in (tmp_path / "w").glob("*.tar")}
    assert len(first) > 4 and all(len(data) < 3_500_000 for data in first.values())
    done = avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv", "--shard-size", 2)
    assert f"shards: 0 made, {len(first)} without change" in done.stderr
    assert states == {path: path.stat().st_mtime_ns for path in (tmp_path / "w").glob("*.tar")}
    for path in states:
        with tarfile.open(path) as tar:
            assert all((m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname, m.type) == (0, 0, 0, 0o644, "", "", tarfile.REGTYPE) for m in tar)
    os.utime(tmp_path / "in/s.wav", (1, 1))  # a source whose time alone differs
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv", "--shard-size", 2)
    assert files(tmp_path / "w") == first


@pytest.mark.parametrize("change", ["last", "first", "middle", "fewer", "more"])
def test_a_changed_table_gives_what_a_new_export_gives(avtools, tmp_path, media, change):
    rows = odd_rows(tmp_path, media)
    write_table(tmp_path / "t.csv", rows)
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv", "--shard-size", 3)
    new = [dict(row) for row in rows]
    if change in ("last", "first", "middle"):
        new[{"last": -2, "first": 0, "middle": 7}[change]]["text"] = "other"
    else:
        new = rows[:4] if change == "fewer" else rows[:-1] + rows[:3] + rows[-1:]
    write_table(tmp_path / "t.csv", new)
    done = avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv", "--shard-size", 3)
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "fresh", "-o", "o.csv", "--shard-size", 3)
    assert files(tmp_path / "w") == files(tmp_path / "fresh")
    kept = int(re.search(r"(\d+) without change", done.stderr)[1])
    assert kept > 0 or change in ("first", "fewer")
    plans = {path.name for path in (tmp_path / "w/.avtools").glob("*.tar.plan")}
    assert {name + ".plan" for name in files(tmp_path / "w")} <= plans


def test_a_record_that_was_changed_is_read_as_it_stands(avtools, tmp_path, media):
    shutil.copy(media / CLIPS[1], tmp_path / "a.webm")
    write_table(tmp_path / "t.csv", [{"path": "a.webm", "id": name, "relpath": f"{name}.webm", "text": f"text {name}", "note": "007"} for name in "abc"])
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv")
    parts = dict(members(tmp_path / "w/train-000000.tar"))
    parts["a.txt"] = b"a better text"
    parts["b.json"] = json.dumps({**json.loads(parts["b.json"]), "note": "7"}).encode()
    parts["b.webm"] = (media / CLIPS[2]).read_bytes()
    extra = [("new.mp4", (media / CLIPS[0]).read_bytes()), ("new.txt", b"a new one")]
    pack(tmp_path / "w/train-000000.tar", [*parts.items(), *extra])
    done = avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "-o", "b.csv")
    back = read_table(tmp_path / "b.csv")
    assert [(row["text"], row["note"]) for row in back] == [("a better text", "007"), ("text b", "7"), ("text c", "007"), ("a new one", "")]
    assert (tmp_path / back[1]["path"]).read_bytes() == parts["b.webm"] and (tmp_path / back[2]["path"]).read_bytes() == parts["c.webm"]
    assert (back[3]["id"], back[3]["relpath"], back[3]["path"]) == ("new", "new.mp4", "u/new.mp4")
    assert "1 rows are as they were exported from here, 3 were added or changed since" in done.stderr
    assert "1 samples' text members differ from their JSON" in done.stderr


def test_one_relpath_of_several_files(avtools, tmp_path, media):
    for name, source in zip("ab", CLIPS[1:]):
        (tmp_path / name).mkdir()
        shutil.copy(media / source, tmp_path / name / "x.mp4")
    rows = [{"path": f"{name}/x.mp4", "relpath": "x.mp4", "n": str(n)} for n, name in enumerate("aabbab")]
    rows += [{"path": "b/x.mp4", "relpath": "x-2.mp4", "n": "6"}]
    write_table(tmp_path / "t.csv", rows)
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv")
    avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "-o", "b.csv")
    check_equal(rows, read_table(tmp_path / "b.csv"), tmp_path, "u")
    assert [row["path"] for row in read_table(tmp_path / "b.csv")] == [f"u/x{n}.mp4" for n in ("", "", "-2", "-2", "", "-2", "-2")]
    assert len(files(tmp_path / "u")) == 2


def test_bad_rows(avtools, tmp_path, media):
    shutil.copy(media / CLIPS[1], tmp_path / "a.webm")
    os.mkfifo(tmp_path / "pipe.mp4")
    bad = [{"path": "gone.mp4"}, {"path": "pipe.mp4"}, {"path": "."}, {"relpath": "../../x"}, {"relpath": "/x"}, {"split": "../x"}, {"features_path": "f.npy"}]
    rows = [{"path": "a.webm", "relpath": f"r{n}", "split": "", "features_path": "", **more} for n, more in enumerate([{}, *bad, {}])]
    write_table(tmp_path / "t.csv", rows)
    done = avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv", "--errors", "e.jsonl", status=1)
    assert f"9 rows in = 2 done + 0 filtered + {len(bad)} bad" in done.stderr
    assert [name for name, _ in members(tmp_path / "w/train-000000.tar") if name.endswith("webm")] == ["r0.webm", "r8.webm"]
    reasons = [json.loads(line)["error"] for line in open(tmp_path / "e.jsonl")]
    for reason, part in zip(reasons, ["gone.mp4: cannot be read (No such", "pipe.mp4: column path names no regular", "cannot be read (Is a dir", "relpath", "relpath", "split", "f.npy"]):
        assert part in reason
    avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "-o", "b.csv")
    assert [row["relpath"] for row in read_table(tmp_path / "b.csv")] == ["r0", "r8"]


def test_a_table_without_rows(avtools, tmp_path):
    (tmp_path / "t.csv").write_text("path,text\n")
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv")
    avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "-o", "b.csv")
    assert (tmp_path / "b.csv").read_text() == "path,text\n"


def test_killed_and_run_again(avtools, tmp_path, media):
    rows = [row for row in odd_rows(tmp_path, media)] * 3
    write_table(tmp_path / "t.csv", rows)
    arguments = "mkmeta", "export", "webdataset", "-d", "w", "--shard-size", 2
    avtools(*arguments[:4], "whole", *arguments[5:], "t.csv", "-o", "o.csv")
    table = (tmp_path / "t.csv").read_bytes()
    process = avtools.start(*arguments, stdin=subprocess.PIPE)
    process.stdin.write(table[: len(table) * 2 // 3])
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "w").glob("train-00000*.tmp"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not files(tmp_path / "w").keys() & files(tmp_path / "whole").keys()  # nothing half done under its name
    (tmp_path / "half.csv").write_bytes(table[: table.index(b"still")].rpartition(b"\n")[0] + b"\n")
    avtools(*arguments, "half.csv", "-o", "o.csv", status=None)
    avtools(*arguments, "t.csv", "-o", "o.csv")
    assert files(tmp_path / "w") == files(tmp_path / "whole")
    # reading, too
    avtools("mkmeta", "import", "webdataset", "whole", "-d", "all", "-o", "all.csv")
    process = avtools.start("mkmeta", "import", "webdataset", "whole", "-d", "u", "-j", 1, "-o", "u.csv")
    while not list((tmp_path / "u").rglob("*.mp4")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    avtools.wait_for_workers()
    done = avtools("mkmeta", "import", "webdataset", "whole", "-d", "u", "-o", "u.csv")
    assert files(tmp_path / "u") == files(tmp_path / "all")
    assert (tmp_path / "u.csv").read_bytes() == (tmp_path / "all.csv").read_bytes().replace(b"all/", b"u/")
    assert ", 0 reused" not in done.stderr


def test_importing_again_makes_nothing(avtools, tmp_path, media):
    write_table(tmp_path / "t.csv", odd_rows(tmp_path, media))
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-o", "o.csv")
    avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "-o", "b.csv")
    for change in ("none", "time", "place"):
        if change == "time":
            os.utime(tmp_path / "w/train-000000.tar", (1, 1))
        elif change == "place":  # a new member in front moves all others
            parts = members(tmp_path / "w/train-000000.tar")
            pack(tmp_path / "w/train-000000.tar", [("0.txt", b"new"), *parts], tarfile.PAX_FORMAT)
        done = avtools("mkmeta", "import", "webdataset", "w", "-d", "u", "-o", "b2.csv")
        assert "files: 0 made" in done.stderr, change
    # other bytes of the same size are seen
    parts = [(name, data[:-1] + b"!" if name.endswith(".wav") else data) for name, data in parts]
    pack(tmp_path / "w/train-000000.tar", parts, tarfile.PAX_FORMAT)
    avtools("mkmeta", "import", "webdataset", "w/train-000000.tar", "-d", "u", "-o", "b3.csv")
    assert (tmp_path / "u/s.wav").read_bytes().endswith(b"!")


# --- shards of others ---------------------------------------------------------------------------------------------------


def test_shards_of_others(avtools, tmp_path, media):
    clip, sound, picture = ((media / name).read_bytes() for name in (CLIPS[1], "audio/duck.mp3", "lion_and_gun.png"))
    pack(tmp_path / "train-0.tar", [
        ("./a/000.mp4", clip), ("./a/000.txt", "ein Löwe".encode()), ("./a/000.cls", b"3"), ("a/001.MP4", clip), ("a/001.mp3", sound),
        ("a/001.left.png", picture), ("a/001.pyd", b"?"), ("a/no suffix", b"?"), ("000.mp4", sound), ("000.txt", b"other"),
    ])  # fmt: skip
    pack(tmp_path / "b.tar", [("000.mp4", clip), ("000.json", b'{"caption": "x", "n": 1}')])
    with open(tmp_path / "b.tar", "rb") as plain, gzip.open(tmp_path / "val-0.tar.gz", "wb") as packed:
        packed.write(plain.read())
    os.unlink(tmp_path / "b.tar")
    done = avtools("mkmeta", "import", "webdataset", "train-0.tar", "val-0.tar.gz", "-d", "u", "--to", "jsonl")
    rows = [{c: v for c, v in json.loads(line).items() if v is not None} for line in done.stdout.splitlines()]
    assert rows == [
        {"path": "u/a/000.mp4", "id": "000", "relpath": "a/000.mp4", "text": "ein Löwe", "cls": "3", "split": "train"},
        {"path": "u/a/001.mp4", "audio_path": "u/a/001.mp3", "left_path": "u/a/001.left.png", "id": "001", "relpath": "a/001.mp4", "split": "train"},
        {"path": "u/000.mp4", "id": "000", "relpath": "000.mp4", "text": "other", "split": "train"},
        {"path": "u/000-2.mp4", "id": "000-2", "relpath": "000-2.mp4", "caption": "x", "n": 1, "split": "val"},
    ]
    assert (tmp_path / "u/000-2.mp4").read_bytes() == clip == (tmp_path / "u/a/001.mp4").read_bytes()
    assert (tmp_path / "u/a/001.left.png").read_bytes() == picture
    assert "1 members pyd" in done.stderr and "1 members are no files of samples" in done.stderr


def test_shards_of_the_webdataset_package(avtools, tmp_path, media):
    import webdataset

    clip = (media / CLIPS[1]).read_bytes()
    with webdataset.TarWriter(str(tmp_path / "s.tar")) as sink:
        for n in range(3):
            sink.write({"__key__": f"k{n}", "mp4": clip + bytes(n), "txt": f"t {n}", "json": {"n": n, "key": "x"}})
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes() * 2)  # archives one behind the other
    done = avtools("mkmeta", "import", "webdataset", "s.tar", "-d", "u2")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["id"], row["text"], row["n"]) for row in rows] == [(f"k{n}", f"t {n}", str(n)) for n in (0, 1, 2)] * 2
    assert [len((tmp_path / row["path"]).read_bytes()) - len(clip) for row in rows] == [0, 1, 2] * 2


def test_names_that_would_leave_the_folder(avtools, tmp_path):
    (tmp_path / "deep").mkdir()
    pack(tmp_path / "s.tar", [("../../evil.mp4", b"1"), ("/abs.mp4", b"2"), ("a/../../evil.mp4", b"3"), (".avtools/x.mp4", b"4"), ("good.mp4", b"5"),
                              ("told.mp4", b"6"), ("told.json", b'{"relpath": "../../evil"}'), ("twice.mp4", b"7"), ("twice.mp4", b"8"), ("odd.json", b"{")])  # fmt: skip
    done = avtools("mkmeta", "import", "webdataset", "s.tar", "-d", "deep/u", "--to", "jsonl", status=1)
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == ["deep/u/good.mp4"]
    assert "8 rows in = 1 done + 0 filtered + 7 bad" in done.stderr
    assert sorted(files(tmp_path)) == ["deep/u/good.mp4", "s.tar"]


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (lambda data: data[:200_000], "cut off at byte 200000, in member b.mp4"),
        (lambda data: data[:1024], "damaged at byte 1024, what follows a.txt: cut off"),
        (lambda data: data[:1300], "damaged at byte 1024"),
        (lambda data: data[:1024] + b"x" * 512 + data[1536:], "damaged at byte 1024, what follows a.txt ("),
        (lambda data: b"x" * 512 + data[512:], "damaged at byte 0, the first header"),
        (lambda data: b"", "damaged at byte 0"),
        (lambda data: gzip.compress(data)[:-3000], "damaged at byte"),
        (lambda data: gzip.compress(data[:1024]), "cut off"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "zstd -d s.tar"),
    ],
)
def test_damaged_shards(avtools, tmp_path, cut, reason):
    pack(tmp_path / "s.tar", [("a.txt", b"a"), ("b.mp4", os.urandom(300_000))])
    (tmp_path / "s.tar").write_bytes(cut((tmp_path / "s.tar").read_bytes()))
    done = avtools("mkmeta", "import", "webdataset", "s.tar", "-d", "u", "-o", "b.csv", status=2)
    assert reason in done.stderr and "s.tar" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "b.csv").exists()


def test_wrong_sources(avtools, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no .tar" in avtools("mkmeta", "import", "webdataset", "empty", "-d", "u", status=2).stderr
    assert "give -d DIR" in avtools("mkmeta", "import", "webdataset", "empty", status=2).stderr


def test_the_placeholder_is_no_caption(avtools):
    """Rows of JavisDiT's own tables: the text beside placeholder.mp4 says nothing; their caption is that of the sound."""
    (avtools.folder / "a.wav").write_bytes(b"RIFF")
    (avtools.folder / "t.csv").write_text("path,audio_path,id,text,audio_text\nplaceholder.mp4,a.wav,a,placeholder,rain\n")
    avtools("mkmeta", "export", "webdataset", "t.csv", "-d", "w", "-q")
    with tarfile.open(avtools.folder / "w/train-000000.tar") as tar:
        assert tar.extractfile("a.txt").read() == b"rain"
    (avtools.folder / "w/.avtools/rows-webdataset.jsonl").unlink()
    done = avtools("mkmeta", "import", "webdataset", "w", "-d", "u")
    assert done.stdout.splitlines()[1] == "placeholder.mp4,u/a.wav,a,placeholder,rain" and "differ" not in done.stderr
