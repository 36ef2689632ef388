"""mkmeta export avsyncd and mkmeta import avsyncd, as processes on real clips."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess

import pytest

from conftest import Program, files


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four short clips with sound."""
    folder = tmp_path_factory.mktemp("clips")
    Program(folder)("synth", "-n", 4, "-d", "toys", "--seconds", 1, "--size", "64x48", "-q")
    return sorted((folder / "toys/clips").glob("*.mp4"))


def table(folder, name, rows, columns=None):
    columns = columns or list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (folder / name).write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    return name


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def lines(path):
    return path.read_text().splitlines()


def placed(clips, folder, *names):
    """Clips under these names in the folder."""
    for clip, name in zip(clips * 3, names):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        shutil.copyfile(clip, os.path.join(folder, name))


def test_its_files_as_the_original_reads_them(avtools, clips):
    rows = [
        {"path": clips[0], "relpath": "a.mp4", "class": "playing violin, fiddle", "split": "train", "text": "someone fiddles"},
        {"path": clips[1], "relpath": "sub/b.mp4", "class": "playing_violin__fiddle", "split": "test", "text": ""},
        {"path": clips[2], "relpath": "dog_barking/deep/c.mp4", "class": "dog barking", "split": "", "text": ""},
    ]
    table(avtools.folder, "t.csv", rows)
    out = rows_of(avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "set").stdout)
    folder = avtools.folder / "set"
    assert lines(folder / "train.txt") == ["playing_violin,_fiddle/a.mp4", "dog_barking/deep/c.mp4"]
    assert lines(folder / "test.txt") == ["playing_violin__fiddle/b.mp4"]
    mapping = json.loads((folder / "class_mapping.json").read_text())
    assert mapping == {"playing_violin,_fiddle": "someone fiddles", "playing_violin__fiddle": "playing violin  fiddle", "dog_barking": "dog barking"}
    assert list(mapping) == sorted(mapping)
    assert [row["path"] for row in out] == [f"set/videos/{line}" for line in ("playing_violin,_fiddle/a.mp4", "playing_violin__fiddle/b.mp4", "dog_barking/deep/c.mp4")]
    for row, clip in zip(out, clips):
        assert os.path.samefile(avtools.folder / row["path"], clip)
    assert {row["class"] for row in out} == {row["class"] for row in rows}


def test_exported_and_imported_no_cell_is_lost_and_nothing_is_made_twice(avtools, clips):
    names = [" a b.mp4", "-dash.mp4", "00123.mp4", "take.v2.MP4", "caf\udce9.mkv", 'quo"te,1,2.mp4']
    placed(clips, avtools.folder, *[f"in/{name}" for name in names])
    rows = [
        {
            "n": f"{i:04d}", "path": f"in/{name}", "split": ["train", "test", ""][i % 3], "class": f"c {i % 2}", "empty": "",
            "text": ["two\nlines, \"quoted\"", "NA"][i % 2], "audio_path": ["", "gone.wav"][i % 2],
        }
        for i, name in enumerate([*names, names[0], names[0]])
    ]  # fmt: skip
    table(avtools.folder, "t.csv", rows)
    done = avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "set", text=False)
    first = files(avtools.folder / "set")
    assert b"8 rows in = 8 done" in done.stderr and b"4 rows have an audio_path" in done.stderr
    back = avtools("mkmeta", "import", "avsyncd", "set", text=False)
    assert back.stdout == done.stdout  # with every cell, in order, over three lists
    assert b"8 rows are as they were exported" in back.stderr
    again = avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "set", text=False)
    assert again.stdout == done.stdout and files(avtools.folder / "set") == first and b"0 made, 0 without change, 8 reused" in again.stderr
    (avtools.folder / "back.csv").write_bytes(back.stdout)
    avtools("mkmeta", "export", "avsyncd", "back.csv", "-d", "set2", text=False)
    assert files(avtools.folder / "set2") == first


def test_jsonl_keeps_its_types(avtools, clips):
    row = {"n": 7, "path": str(clips[0]), "class": 5, "nested": {"a": [1, None]}, "start": 0.25, "end": 1, "no": None}
    (avtools.folder / "t.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "n": "007"}) + "\n")
    out = avtools("mkmeta", "export", "avsyncd", "t.jsonl", "-d", "set")
    assert "1 rows name a clip that a row before lists" in out.stderr
    assert lines(avtools.folder / "set/train.txt") == ["5/00000.mp4,0.25,1"] * 2
    back = avtools("mkmeta", "import", "avsyncd", "set")
    assert back.stdout == out.stdout and [json.loads(line)["n"] for line in back.stdout.splitlines()] == [7, "007"]


def test_a_record_changed_by_hand_is_read_as_it_stands(avtools, clips):
    rows = [{"path": clip, "class": "dog", "keep": str(i)} for i, clip in enumerate(clips)]
    table(avtools.folder, "t.csv", rows)
    avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "set")
    train = avtools.folder / "set/train.txt"
    listed = lines(train)
    train.write_text("\n".join([listed[3], f"{listed[1]},0.5,1.5", "dog/new.mp4", listed[0]]) + "\n")
    done = avtools("mkmeta", "import", "avsyncd", "set")
    by_path = {os.path.basename(row["path"]): row for row in rows_of(done.stdout)}
    assert {name: row["keep"] for name, row in by_path.items()} == {"00003.mp4": "3", "00001.mp4": "", "new.mp4": "", "00000.mp4": "0"}
    assert (by_path["00001.mp4"]["start"], by_path["00001.mp4"]["end"], by_path["00001.mp4"]["split"]) == ("0.5", "1.5", "train")
    assert "2 rows are as they were exported from here, 2 were added or changed since" in done.stderr
    assert "1 listed videos are not there, the first: set/train.txt:3: dog/new.mp4" in done.stderr
    assert "1 videos below set/videos stand in no list" in done.stderr  # the third
    mapping = avtools.folder / "set/class_mapping.json"
    mapping.write_text('{"dog": "a dog barks"}')
    changed = rows_of(avtools("mkmeta", "import", "avsyncd", "set").stdout)
    assert {row["text"] for row in changed} == {"a dog barks"} and {row["keep"] for row in changed} == {""}


def test_data_sets_of_others(avtools, clips):
    folder = avtools.folder
    listed = ["playing_violin__fiddle/x_0_10_2_5.mp4", "dog_barking/a,b.mp4", "dog_barking/y_1.mp4"]
    placed(clips, folder, *[f"AVSync15/videos/{line}" for line in listed], "AVSync15/videos/dog_barking/unlisted.mp4")
    (folder / "AVSync15/train.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([listed[2], listed[0]]).encode() + b"\r\n")
    (folder / "AVSync15/test.txt").write_text(f"{listed[1]}\n")
    mapping = json.dumps({"dog_barking": "dog barking", "playing_violin__fiddle": "playing violin fiddle"}, indent=4) + "\n"
    (folder / "AVSync15/class_mapping.json").write_text(mapping)
    done = avtools("mkmeta", "import", "avsyncd", "AVSync15", "-o", "t.csv")
    rows = rows_of((folder / "t.csv").read_text())
    assert rows[0] == {
        "path": f"AVSync15/videos/{listed[2]}", "id": "y_1", "relpath": listed[2], "class": "dog_barking", "text": "dog barking", "split": "train",
    }  # fmt: skip
    assert [(row["split"], row["text"]) for row in rows[1:]] == [("train", "playing violin fiddle"), ("test", "dog barking")]
    assert "1 videos below AVSync15/videos stand in no list" in done.stderr
    avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "copy")
    made = files(folder / "copy")
    assert made.pop("train.txt").decode().splitlines() == [listed[2], listed[0]]
    theirs = files(folder / "AVSync15")
    assert made == {name: data for name, data in theirs.items() if name in made} and set(theirs) - set(made) == {"train.txt", "videos/dog_barking/unlisted.mp4"}
    (one,) = rows_of(avtools("mkmeta", "import", "avsyncd", "AVSync15/test.txt").stdout)
    assert one["path"] == f"AVSync15/videos/{listed[1]}" and one["split"] == "test"


def test_clip_lists_and_a_root_for_each_list(avtools, clips):
    folder = avtools.folder
    placed(clips, folder, "L/videos/train/wind_noise/a.mp4", "L/videos/test/thunder/a.mp4")
    (folder / "L/train.txt").write_text("wind_noise/a.mp4,0,2.5\nwind_noise/a.mp4,2.5,5\n")
    (folder / "L/test.txt").write_text("thunder/a.mp4,1,3\n")
    avtools("mkmeta", "import", "avsyncd", "L", "-o", "t.csv")
    rows = rows_of((folder / "t.csv").read_text())
    assert [(row["path"], row["class"], row["text"], row["start"], row["end"]) for row in rows] == [
        ("L/videos/train/wind_noise/a.mp4", "wind_noise", "wind noise", "0", "2.5"),
        ("L/videos/train/wind_noise/a.mp4", "wind_noise", "wind noise", "2.5", "5"),
        ("L/videos/test/thunder/a.mp4", "thunder", "thunder", "1", "3"),
    ]
    avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "copy")
    for name in ("train.txt", "test.txt"):
        assert (folder / "copy" / name).read_bytes() == (folder / "L" / name).read_bytes()


def test_a_data_set_without_classes(avtools, clips):
    folder = avtools.folder
    placed(clips, folder, "G/videos/2015-02-16_denoised_thumb.mp4", "G/videos/b_denoised_thumb.mp4")
    (folder / "G/train.txt").write_text("2015-02-16_denoised_thumb.mp4\nb_denoised_thumb.mp4\n")
    avtools("mkmeta", "import", "avsyncd", "G", "-o", "t.csv")
    rows = rows_of((folder / "t.csv").read_text())
    assert [(row["class"], row["text"]) for row in rows] == [("", "hitting with a stick")] * 2
    avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "copy")
    assert files(folder / "copy") == files(folder / "G")


def test_bad_rows_and_their_good_neighbours(avtools, clips):
    rows = [
        {"path": clips[0], "class": "dog", "text": "a dog"},
        {"path": "missing.mp4", "class": "dog", "text": "a dog"},
        {"path": clips[1], "class": "dog", "text": "another dog"},
        {"path": clips[2], "class": "", "text": ""},
        {"path": "placeholder.mp4", "class": "dog", "text": "a dog"},
        {"path": clips[2], "class": "dog", "text": "a dog", "start": "1"},
        {"path": clips[2], "class": "dog", "text": "a dog", "split": "a/b"},
        {"path": clips[3], "class": "dog", "text": "a dog", "relpath": "00000.mp4"},
        {"path": clips[2], "class": "..", "text": "a dog"},
        {"path": clips[3], "class": "cat", "text": "a cat"},
    ]
    table(avtools.folder, "t.csv", rows)
    done = avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "set", "--errors", "bad.jsonl", status=1)
    assert "10 rows in = 2 done + 0 filtered + 8 bad" in done.stderr
    assert [row["text"] for row in rows_of(done.stdout)] == ["a dog", "a cat"]
    assert lines(avtools.folder / "set/train.txt") == ["dog/00000.mp4", "cat/00003.mp4"]
    assert json.loads((avtools.folder / "set/class_mapping.json").read_text()) == {"cat": "a cat", "dog": "a dog"}
    reasons = [json.loads(line)["error"] for line in lines(avtools.folder / "bad.jsonl")]
    for reason, words in zip(reasons, ("missing.mp4", "'a dog' in a row before and 'another dog'", "no class", "no picture", "start and end", "split", "another row", "class"), strict=True):
        assert words in reason
    assert "--class-column nix" in avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "other", "--class-column", "nix", status=2).stderr
    done = avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "captions", "--class-column", "text", status=1)
    assert "a_dog/00000.mp4" in lines(avtools.folder / "captions/train.txt") and "another_dog/00001.mp4" in lines(avtools.folder / "captions/train.txt")


def test_a_row_without_text_takes_the_prompt_of_its_class(avtools, clips):
    rows = [{"path": clip, "class": "a_dog", "text": text} for clip, text in zip(clips, ("a dog barks", "", "a dog barks", "a dog"))]
    table(avtools.folder, "t.csv", rows)
    done = avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "set", status=1)
    assert [row["text"] for row in rows_of(done.stdout)] == ["a dog barks", "", "a dog barks"]
    assert avtools("mkmeta", "import", "avsyncd", "set").stdout == done.stdout


def test_a_name_that_a_list_cannot_hold_is_bad(avtools, clips):
    placed(clips, avtools.folder, "new\nline.mp4", "looks,1,2", "ok.mp4")
    table(avtools.folder, "t.csv", [{"path": name, "class": "c"} for name in ("new\nline.mp4", "looks,1,2", "ok.mp4")])
    done = avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "set", status=1)
    assert "3 rows in = 1 done + 0 filtered + 2 bad" in done.stderr and "cannot stand in a list" in done.stderr
    assert [name for name in files(avtools.folder / "set") if name.startswith("videos")] == ["videos/c/ok.mp4"]


def test_what_is_no_such_data_set_is_wrong_usage(avtools, clips):
    (avtools.folder / "empty").mkdir()
    assert "holds no list" in avtools("mkmeta", "import", "avsyncd", "empty", status=2).stderr
    (avtools.folder / "empty/train.txt").write_text("c/a.mp4\n")
    (avtools.folder / "empty/class_mapping.json").write_text('{"c": ')
    assert "class_mapping.json" in avtools("mkmeta", "import", "avsyncd", "empty", status=2).stderr
    (avtools.folder / "empty/class_mapping.json").write_text('{"c": 5}')
    assert "class_mapping.json" in avtools("mkmeta", "import", "avsyncd", "empty", status=2).stderr
    shutil.copyfile(clips[0], avtools.folder / "clip.txt")
    assert "clip.txt:1: is no text" in avtools("mkmeta", "import", "avsyncd", "clip.txt", status=2).stderr


def test_a_table_without_rows_and_lists_of_an_earlier_export(avtools, clips):
    table(avtools.folder, "t.csv", [{"path": clips[0], "class": "c", "split": "valid"}])
    table(avtools.folder, "none.csv", [], ["path", "class", "more"])
    avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", "set")
    avtools("mkmeta", "export", "avsyncd", "none.csv", "-d", "set")
    assert {name for name in files(avtools.folder / "set") if not name.startswith("videos")} == {"train.txt", "class_mapping.json"}
    assert avtools("mkmeta", "import", "avsyncd", "set").stdout == "path,class,more\n"


def test_killed_and_run_again_gives_the_data_set_of_an_undisturbed_run(avtools, clips):
    rows = [{"path": clips[i % 4], "class": f"c{i % 7}", "relpath": f"{i}.mp4", "split": ["train", "test"][i % 2]} for i in range(400)]
    table(avtools.folder, "t.csv", rows)
    for name in ("killed", "whole"):
        (avtools.folder / name).mkdir()
    running = avtools.start("mkmeta", "export", "avsyncd", "t.csv", "-d", "killed", "-j", "1", "-o", "killed.csv", start_new_session=True, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list((avtools.folder / "killed").glob("videos/*/*.mp4"))) < 20:
        pass
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not list((avtools.folder / "killed").glob("*.txt"))
    avtools.wait_for_workers()
    done = {name: avtools("mkmeta", "export", "avsyncd", "t.csv", "-d", name).stdout for name in ("killed", "whole")}
    assert done["killed"].replace("killed/", "whole/") == done["whole"]
    assert files(avtools.folder / "killed") == files(avtools.folder / "whole")
    assert not [path for path in (avtools.folder / "killed").rglob("*.tmp")]
