"""Layouts that are tables: JavisDiT, VTA-LDM, VATT.  Written and read by the real program."""

import csv
import io
import json
import os
import signal
import subprocess

import numpy
import pytest

from conftest import command

ODD = ["a b", "-dash", "00123", "take.v2", 'quo"te', "caf\u00e9"]
TABLES = ("javisdit", "vta-ldm", "vatt")


def written(path, rows, columns=None):
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def files(folder):
    """All files of a folder but our own record, with their bytes."""
    return {
        os.path.relpath(os.path.join(base, name), folder): open(os.path.join(base, name), "rb").read()
        for base, _, names in os.walk(folder)
        for name in names
        if ".avtools" not in base
    }


def clip(name, split="", **cells):
    row = {
        "path": f"clips/{name}.mp4", "id": name, "relpath": f"{name}.mp4", "num_frames": "72", "height": "360", "width": "640", "aspect_ratio": "0.5625",
        "fps": "23.976023976023978", "resolution": "230400", "audio_path": f"wav/{name}.wav", "audio_fps": "16000", "audio_duration": "3.003", "text": f"{name} sounds,\nloudly",
        "audio_text": "", "split": split, "note": "",
    }  # fmt: skip
    return {**row, **cells}


ROWS = [clip(name, split) for name, split in zip(ODD, ["train", "test", "train", "", "valid", "test"])]
ROWS += [clip("00123", "train", text="a second caption"), clip("00123", "train", text="NA"), clip("nan", "test", text="nan", note="1e5")]


@pytest.mark.parametrize("layout", TABLES)
class TestAnyLayout:
    def test_there_and_back_again_loses_no_byte(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", ROWS)
        passed = avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q").stdout
        assert passed == (tmp_path / "t.csv").read_text()
        avtools("mkmeta", "import", layout, "out", "-o", "back.csv")
        assert (tmp_path / "back.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()

    def test_typed_and_nested_cells_come_back_as_they_were(self, avtools, layout, tmp_path):
        rows = [{**ROWS[0], "num_frames": 72, "fps": 24.5, "flag": True, "none": None, "spans": [[0, 1.5]]}, {**ROWS[2], "num_frames": 1, "fps": 25, "flag": False, "none": None, "spans": []}]
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        avtools("mkmeta", "export", layout, "t.jsonl", "-d", "out", "-q")
        back = avtools("mkmeta", "import", layout, "out", "-q").stdout
        assert [json.loads(line) for line in back.splitlines()] == rows

    def test_a_second_export_writes_the_same_bytes(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", ROWS)
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        first = files(tmp_path / "out")
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        assert files(tmp_path / "out") == first and not list(tmp_path.glob("out/**/*.tmp"))

    def test_without_our_record_reading_and_writing_gives_the_same_files(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", ROWS)
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        first = files(tmp_path / "out")
        for path in (tmp_path / "out/.avtools").iterdir():
            path.unlink()
        avtools("mkmeta", "import", layout, "out", "-o", "plain.csv", "-q")
        avtools("mkmeta", "export", layout, "plain.csv", "-d", "again", "-q")
        assert files(tmp_path / "again") == first

    def test_what_was_changed_by_hand_is_read_as_it_stands(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", [clip("a", "train", note="1"), clip("b", "train", note="2"), clip("c", "train", note="3")])
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        (name,) = files(tmp_path / "out")
        path = tmp_path / "out" / name
        path.write_text(path.read_text().replace("b sounds", "b is silent"))
        done = avtools("mkmeta", "import", layout, "out", "-o", "back.csv")
        back = read(tmp_path / "back.csv")
        text = "audio_text" if layout == "vatt" else "text"
        assert [row["note"] for row in back] == ["1", "" if layout != "javisdit" else "2", "3"]
        assert back[1][text] == "b is silent,\nloudly" and back[2]["text"] == "c sounds,\nloudly"
        assert "2 rows are as they were exported from here, 1 were added or changed since" in done.stderr

    def test_no_row_and_no_table(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", [], list(ROWS[0]))
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        (tmp_path / "empty").mkdir()
        for source in ("empty", "nowhere"):
            done = avtools("mkmeta", "import", layout, source, status=2)
            assert len(done.stderr.splitlines()) == 1 and source in done.stderr and done.stdout == ""

    def test_a_split_that_is_no_name_is_a_bad_row(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", [clip("a", "../train"), clip("b", "train")])
        done = avtools("mkmeta", "export", layout, "t.csv", "-d", "out", status=1)
        assert "t.csv:2" in done.stderr and "'../train'" in done.stderr
        assert [row["id"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["b"]
        assert len(files(tmp_path / "out")) == 1 and not (tmp_path / "train.csv").exists()

    def test_bad_rows_that_were_kept_pass_by(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", [clip("a", error="broken"), clip("b", error="")])
        done = avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        assert "broken" in done.stdout
        assert b"b.mp4" in b"".join(files(tmp_path / "out").values()) or layout == "vatt"
        assert b"clips/a" not in b"".join(files(tmp_path / "out").values())

    def test_killed_it_leaves_the_former_layout(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", ROWS)
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        first = files(tmp_path / "out")
        process = subprocess.Popen(command("mkmeta", "export", layout, "-d", "out", "-q"), cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write((tmp_path / "t.csv").read_bytes().replace(b"sounds", b"is heard"))
        process.stdin.flush()
        while not process.stdout.readline():
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {name: data for name, data in files(tmp_path / "out").items() if not name.endswith(".tmp")} == first
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        assert files(tmp_path / "out") == first  # and the leftovers are gone

    def test_a_list_of_an_earlier_export_goes(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", ROWS)
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        (tmp_path / "out/mine.txt").write_text("not of the export")
        written(tmp_path / "t.csv", [clip("a", "train")])
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        assert sorted(files(tmp_path / "out")) == sorted(["mine.txt", {"javisdit": "train.csv", "vta-ldm": "train.jsonl", "vatt": "v2a_instruction.json"}[layout]])

    def test_names_that_are_no_utf8(self, avtools, layout, tmp_path):
        row = clip(os.fsdecode(b"caf\xe9"), "train")
        written(tmp_path / "t.csv", [row])
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q", text=False)
        avtools("mkmeta", "import", layout, "out", "-o", "back.csv", "-q", text=False)
        assert (tmp_path / "back.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()

    def test_a_table_without_rows_comes_back(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", [], list(ROWS[0]))
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        avtools("mkmeta", "import", layout, "out", "-o", "back.csv")
        assert (tmp_path / "back.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()

    @pytest.mark.parametrize("cells", [{"text": ["a", "b"]}, {"path": ["a.mp4"]}, {"path": 5}])
    def test_a_nested_cell_is_neither_caption_nor_path(self, avtools, layout, tmp_path, cells):
        if layout == "javisdit" and "text" in cells:
            return  # its tables hold any cell
        row = {"id": "a", "path": "a.mp4", "audio_path": "a.wav", "text": "x"}
        (tmp_path / "t.jsonl").write_text(json.dumps({**row, **cells}) + "\n" + json.dumps({**row, "id": "b", "path": "b.mp4"}) + "\n")
        done = avtools("mkmeta", "export", layout, "t.jsonl", "-d", "out", status=1)
        assert f"t.jsonl:1: column {next(iter(cells))}" in done.stderr and "1 done + 0 filtered + 1 bad" in done.stderr
        assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["b"]

    def test_options_of_other_layouts_are_refused(self, avtools, layout, tmp_path):
        written(tmp_path / "t.csv", [clip("a")])
        assert f"{layout} knows no --form" in avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "--form", "code", status=2).stderr
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        assert f"{layout} knows no --fps" in avtools("mkmeta", "import", layout, "out", "--fps", "8", status=2).stderr
        if layout != "vatt":
            assert f"{layout} knows no --media-root" in avtools("mkmeta", "import", layout, "out", "--media-root", "clips", status=2).stderr

    def test_lists_that_go_are_named(self, avtools, layout, tmp_path):
        for split in ("train", "test"):
            written(tmp_path / "t.csv", [clip("a", split)])
            done = avtools("mkmeta", "export", layout, "t.csv", "-d", "out")
        gone = {"javisdit": "train.csv", "vta-ldm": "train.jsonl"}.get(layout)
        assert ("of an earlier export, not of this table, were removed" in done.stderr) == bool(gone) and (gone or "") in done.stderr

    @pytest.mark.parametrize("line", [0, 1, 2])
    def test_a_damaged_record_of_ours_is_named(self, avtools, layout, tmp_path, line):
        written(tmp_path / "t.csv", ROWS)
        avtools("mkmeta", "export", layout, "t.csv", "-d", "out", "-q")
        path = tmp_path / f"out/.avtools/rows-{layout}.jsonl"
        lines = path.read_bytes().splitlines(True)
        path.write_bytes(b"".join(lines[:line]) + lines[line][:60])
        done = avtools("mkmeta", "import", layout, "out", status=2)
        assert path.name in done.stderr and "remove it" in done.stderr and len(done.stderr.splitlines()) == 1


class TestJavisDiT:
    def test_its_columns(self, avtools, tmp_path):
        written(tmp_path / "t.csv", [clip("a", "train")])
        avtools("mkmeta", "export", "javisdit", "t.csv", "-d", "out", "-q")
        (row,) = read(tmp_path / "out/train.csv")
        assert row["fps"] == "24.0" and row["audio_length_s"] == "3.003" and "audio_duration" not in row and "speech" not in row
        assert row["num_frames"] == "72" and row["path"] == "clips/a.mp4"

    def test_rows_without_a_picture(self, avtools, tmp_path):
        """Spec section 1.2, --dummy-video: the placeholder's cells; frames are floor(seconds x 24)."""
        rows = [{"audio_path": f"{name}.wav", "id": name, "relpath": f"x/{name}.wav", "audio_fps": "16000", "audio_duration": seconds, "audio_text": "rain"} for name, seconds in (("01", "2.99"), ("02", "10.0"))]
        written(tmp_path / "t.csv", rows)
        done = avtools("mkmeta", "export", "javisdit", "t.csv", "-d", "out")
        one, other = read(tmp_path / "out/train.csv")
        wanted = {"path": "placeholder.mp4", "relpath": "placeholder.mp4", "id": "placeholder", "text": "placeholder", "fps": "24.0", "num_frames": "71", "height": "720", "width": "1280"}
        wanted |= {"aspect_ratio": "0.5625", "resolution": "921600", "speech": "-1", "audio_path": "01.wav", "audio_fps": "16000", "audio_text": "rain", "audio_length_s": "2.99"}
        assert one == wanted and other["num_frames"] == "240"
        assert "2 rows without a picture" in done.stderr
        avtools("mkmeta", "import", "javisdit", "out", "-o", "back.csv", "-q")
        assert (tmp_path / "back.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()

    def test_a_length_that_nobody_knows_is_a_bad_row(self, avtools, tmp_path):
        written(tmp_path / "t.csv", [{"audio_path": "a.wav", "audio_duration": ""}, {"audio_path": "b.wav", "audio_duration": "1"}])
        done = avtools("mkmeta", "export", "javisdit", "t.csv", "-d", "out", status=1)
        assert "t.csv:2" in done.stderr and "avtools probe" in done.stderr and len(read(tmp_path / "out/train.csv")) == 1

    def test_pictures_and_placeholders_in_one_table(self, avtools, tmp_path):
        rows = [clip("a"), {**dict.fromkeys(ROWS[0], ""), "audio_path": "b.wav", "audio_duration": "2", "id": "b"}]
        written(tmp_path / "t.csv", rows)
        avtools("mkmeta", "export", "javisdit", "t.csv", "-d", "out", "-q")
        assert [row["path"] for row in read(tmp_path / "out/train.csv")] == ["clips/a.mp4", "placeholder.mp4"]
        avtools("mkmeta", "import", "javisdit", "out", "-o", "back.csv", "-q")
        assert (tmp_path / "back.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()

    def test_its_own_tables_are_read(self, avtools, tmp_path):
        (tmp_path / "audio.csv").write_text(
            "path,id,relpath,num_frames,height,width,aspect_ratio,fps,resolution,audio_path,audio_length_s,audio_text,text,speech\n"
            "placeholder.mp4,placeholder,placeholder.mp4,240,720,1280,0.5625,24.0,921600,00123.wav,10.0,NA,placeholder,-1\n"
        )
        avtools("mkmeta", "import", "javisdit", "audio.csv", "-o", "t.csv", "-q")
        (row,) = read(tmp_path / "t.csv")
        assert row["audio_duration"] == "10.0" and row["audio_text"] == "NA" and row["path"] == "placeholder.mp4" and row["id"] == row["text"] == row["relpath"] == ""
        avtools("mkmeta", "export", "javisdit", "t.csv", "-d", "out", "-q")
        assert (tmp_path / "out/train.csv").read_bytes() == (tmp_path / "audio.csv").read_bytes()

    def test_a_key_that_turns_up_late_is_not_dropped_in_silence(self, avtools, tmp_path):
        (tmp_path / "t.jsonl").write_text('{"path": "a.mp4", "text": "a"}\n{"path": "b.mp4", "text": "b", "mood": "sad"}\n')
        done = avtools("mkmeta", "export", "javisdit", "t.jsonl", "-d", "out", status=1)
        assert "t.jsonl:2" in done.stderr and "mood" in done.stderr and len(done.stdout.splitlines()) == 1 and len(read(tmp_path / "out/train.csv")) == 1

    @pytest.mark.parametrize("text", ["nul \0", "half \ud800"])
    def test_what_csv_cannot_hold_is_in_neither_table(self, avtools, tmp_path, text):
        (tmp_path / "t.jsonl").write_text("".join(json.dumps({"path": f"{i}.mp4", "text": one}) + "\n" for i, one in enumerate(("a", text, "b"))))
        done = avtools("mkmeta", "export", "javisdit", "t.jsonl", "-d", "out", status=1)
        assert "t.jsonl:2" in done.stderr and "2 done + 0 filtered + 1 bad" in done.stderr
        assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["a", "b"] == [row["text"] for row in read(tmp_path / "out/train.csv")]

    def test_two_names_of_one_column(self, avtools, tmp_path):
        (tmp_path / "x.csv").write_text("path,audio_length_s,audio_duration\na.mp4,1.5,2.5\n")
        avtools("mkmeta", "import", "javisdit", "x.csv", "-o", "t.csv", "-q")
        assert (tmp_path / "t.csv").read_text() == (tmp_path / "x.csv").read_text()
        avtools("mkmeta", "export", "javisdit", "t.csv", "-d", "out", "-q")
        assert (tmp_path / "out/train.csv").read_text() == "path,audio_length_s\na.mp4,2.5\n"
        (tmp_path / "t.csv").write_text("path,audio_duration,audio_length_s\na.mp4,,1.5\n")
        avtools("mkmeta", "export", "javisdit", "t.csv", "-d", "out", "-q")
        assert (tmp_path / "out/train.csv").read_text() == "path,audio_length_s\na.mp4,1.5\n"

    def test_a_list_without_its_split_in_the_cells(self, avtools, tmp_path):
        (tmp_path / "in").mkdir()
        for name in ("train", "test"):
            (tmp_path / f"in/{name}.csv").write_text(f"path,split\n{name}.mp4,\n")
        avtools("mkmeta", "import", "javisdit", "in", "-o", "t.csv", "-q")
        avtools("mkmeta", "export", "javisdit", "t.csv", "-d", "out", "-q")
        assert [row["path"] for name in ("train", "test") for row in read(tmp_path / f"out/{name}.csv")] == ["train.mp4", "test.mp4"]

    def test_other_tables_are_refused(self, avtools, tmp_path):
        (tmp_path / "x.csv").write_text("name,size\na,1\n")
        done = avtools("mkmeta", "import", "javisdit", "x.csv", status=2)
        assert "x.csv" in done.stderr and "path" in done.stderr and done.stdout == ""


class TestVtaLdm:
    def test_its_lines(self, avtools, tmp_path):
        written(tmp_path / "t.csv", [{**clip("a"), "features_path": "f/a.pt"}, {**clip("b", text="", audio_text="rain"), "features_path": "cache/b.safetensors"}])
        avtools("mkmeta", "export", "vta-ldm", "t.csv", "-d", "out", "-q")
        lines = [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
        assert lines == [
            {"video_path": "clips/a.mp4", "feature_file": "f/a.pt", "audio_file": "wav/a.wav", "description": "a sounds,\nloudly"},
            {"video_path": "clips/b.mp4", "feature_file": "clips/b.mp4", "audio_file": "wav/b.wav", "description": "rain"},
        ]

    @pytest.mark.parametrize("as_list", [False, True])
    def test_its_lists_with_all_its_names(self, avtools, tmp_path, as_list):
        items = [{"location": "a.wav", "captions": "rain, \u96e8"}, {"video_path": "b.mp4", "feature_file": "b.pt", "audio_file": "b.wav", "description": "hail", "extra": 3}]
        (tmp_path / "x.json").write_text(json.dumps(items, indent=1) if as_list else "\n".join(map(json.dumps, items)))
        back = avtools("mkmeta", "import", "vta-ldm", "x.json", "--to", "jsonl", "-q").stdout
        assert [json.loads(line) for line in back.splitlines()] == [
            {"audio_path": "a.wav", "text": "rain, \u96e8"},
            {"path": "b.mp4", "features_path": "b.pt", "audio_path": "b.wav", "text": "hail", "extra": 3},
        ]

    def test_what_it_cannot_use_is_a_bad_row(self, avtools, tmp_path):
        written(tmp_path / "t.csv", [clip("a", audio_path=""), clip("b", path="placeholder.mp4"), clip("c")])
        done = avtools("mkmeta", "export", "vta-ldm", "t.csv", "-d", "out", status=1)
        assert "extract-audio" in done.stderr and "placeholder.mp4" in done.stderr and "1 done + 0 filtered + 2 bad" in done.stderr

    @pytest.mark.parametrize("text, where", [('{"video_path": "a"}\n{"video', "x.jsonl:2"), ('[{"a": 1}, {"b"', "item 2"), ('[{"a": 1} {"b": 2}]', "item 2"), ('["a"]', "item 1"), ('[{"a": 1}] x', "end"), ("[", "item 1"), ('[{"a":1},]', "item 2")])
    def test_damaged_lists(self, avtools, tmp_path, text, where):
        (tmp_path / "x.jsonl").write_text(text)
        done = avtools("mkmeta", "import", "vta-ldm", "x.jsonl", status=2)
        assert where in done.stderr and "x.jsonl" in done.stderr and len(done.stderr.splitlines()) == 1

    def test_lists_longer_than_a_block(self, avtools, tmp_path):
        items = [{"video_path": f"{i:06d}.mp4", "audio_file": f"{i}.wav", "description": "x" * (i % 977), "n": i} for i in range(3000)]
        (tmp_path / "x.json").write_text(json.dumps(items, indent=2))
        back = avtools("mkmeta", "import", "vta-ldm", "x.json", "--to", "jsonl", "-q").stdout
        assert [json.loads(line)["n"] for line in back.splitlines()] == list(range(3000))

    def test_two_names_that_say_different_things(self, avtools, tmp_path):
        (tmp_path / "x.jsonl").write_text('{"video_path": "a.mp4", "path": "a.mp4"}\n{"video_path": "a.mp4", "path": "b.mp4"}\n')
        done = avtools("mkmeta", "import", "vta-ldm", "x.jsonl", status=2)
        assert "x.jsonl:2" in done.stderr and "video_path" in done.stderr and "'path'" in done.stderr

    def test_other_lists_are_refused(self, avtools, tmp_path):
        (tmp_path / "x.jsonl").write_text('{"name": "a"}\n')
        assert "x.jsonl: names no video_path" in avtools("mkmeta", "import", "vta-ldm", "x.jsonl", status=2).stderr


class TestVatt:
    def test_its_items_and_features(self, avtools, tmp_path):
        numpy.save(tmp_path / "f.npy", numpy.ones((50, 768), "f4"))
        (tmp_path / "a.h5").write_bytes(b"hdf")
        rows = [
            {"id": "-0Bp8cXYZ12_000030", "features_path": "f.npy", "audio_text": "rain", "text": "", "source": "vggsound", "split": "test", "instruction": "What is heard?"},
            {"id": "other", "features_path": "a.h5", "audio_text": "", "text": "hail", "source": "", "split": "", "instruction": ""},
        ]
        written(tmp_path / "t.csv", rows)
        avtools("mkmeta", "export", "vatt", "t.csv", "-d", "out", "-q")
        assert json.loads((tmp_path / "out/v2a_instruction.json").read_text()) == [
            {"input": "", "video_path": "-0Bp8cXYZ12_000030", "dataset": "vggsound", "output": "rain", "split": "test", "instruction": "What is heard?"},
            {"input": "", "video_path": "a.h5", "dataset": "audioset", "output": "hail", "split": "train"},
        ]
        assert (tmp_path / "out/features/-0Bp8cXYZ12_000030.npy").read_bytes() == (tmp_path / "f.npy").read_bytes()

    def test_two_clips_of_one_id_are_not_mixed(self, avtools, tmp_path):
        written(tmp_path / "t.csv", [clip("a"), clip("a", path="elsewhere/a.mp4"), clip("a", text="again")])
        done = avtools("mkmeta", "export", "vatt", "t.csv", "-d", "out", status=1)
        assert "t.csv:4" in done.stderr and "another clip" in done.stderr
        assert [item["output"][:5] for item in json.loads((tmp_path / "out/v2a_instruction.json").read_text())] == ["a sou", "again"]

    def test_missing_features_fail_their_row_alone(self, avtools, tmp_path):
        written(tmp_path / "t.csv", [{**clip("a"), "features_path": "gone.npy"}, {**clip("b"), "features_path": ""}])
        done = avtools("mkmeta", "export", "vatt", "t.csv", "-d", "out", status=1)
        assert "gone.npy" in done.stderr and len(json.loads((tmp_path / "out/v2a_instruction.json").read_text())) == 1

    def test_clips_are_found_by_their_ids(self, avtools, tmp_path):
        for name in ("x/-0Bp8cXYZ12_000030.mp4", "b.mkv"):
            (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "clips" / name).write_bytes(b"")
        items = [{"input": "", "video_path": name, "dataset": "vggsound", "output": name, "split": "train"} for name in ("-0Bp8cXYZ12_000030", "b", "lost")]
        (tmp_path / "list.json").write_text(json.dumps(items))
        done = avtools("mkmeta", "import", "vatt", "list.json", "--media-root", "clips", "-o", "t.csv")
        assert [row["path"] for row in read(tmp_path / "t.csv")] == ["clips/x/-0Bp8cXYZ12_000030.mp4", "clips/b.mkv", ""]
        assert "1 ids have no video below --media-root" in done.stderr
        (tmp_path / "clips/x/b.mp4").write_bytes(b"")
        assert "same id" in avtools("mkmeta", "import", "vatt", "list.json", "--media-root", "clips", status=2).stderr

    def test_sounds_of_one_id_are_not_mixed(self, avtools, tmp_path):
        written(tmp_path / "t.csv", [clip("a", path="placeholder.mp4"), clip("a", path="placeholder.mp4", audio_path="other/a.wav")])
        assert "t.csv:4: id a is that of another clip" in avtools("mkmeta", "export", "vatt", "t.csv", "-d", "out", status=1).stderr

    def test_keys_that_say_something_else_than_the_item(self, avtools, tmp_path):
        (tmp_path / "x.json").write_text('[{"video_path": "a", "output": "rain", "audio_text": "hail"}]')
        done = avtools("mkmeta", "import", "vatt", "x.json", status=2)
        assert "x.json: item 1" in done.stderr and "output" in done.stderr and "audio_text" in done.stderr

    def test_a_list_that_was_cut_off_to_nothing(self, avtools, tmp_path):
        (tmp_path / "v2a_instruction.json").write_text("")
        assert "v2a_instruction.json: is empty" in avtools("mkmeta", "import", "vatt", "v2a_instruction.json", status=2).stderr

    def test_help_names_its_file(self, avtools):
        assert "DIR/v2a_instruction.json" in avtools("mkmeta", "export", "--help").stdout

    def test_the_placeholder_is_no_caption(self, avtools, tmp_path):
        written(tmp_path / "t.csv", [{"path": "placeholder.mp4", "audio_path": "a.wav", "id": "a", "text": "placeholder", "audio_text": ""}])
        assert "has no caption" in avtools("mkmeta", "export", "vatt", "t.csv", "-d", "out", status=1).stderr
