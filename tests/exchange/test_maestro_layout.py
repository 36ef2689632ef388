"""mkmeta export maestro and mkmeta import maestro, as processes on real clips."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from conftest import Program, files


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four clips of 1 s at 12 Hz: rows as `synth` tells of them, with sound of their own, and stems as WAV."""
    folder = tmp_path_factory.mktemp("clips")
    made = Program(folder)("synth", "-n", 4, "-d", "toys", "--seconds", 1, "--fps", 12, "--size", "64x48", "-q", "--to", "jsonl").stdout
    rows = [json.loads(line) for line in made.splitlines()]
    return [{column: str(folder / row[column]) for column in ("path", "stem_path", "mixture_path")} for row in rows]


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


def pictures(path):
    with av.open("file:" + str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def clip_folder(folder, frames=3, start=1, name="v_%04d.jpg", sounds=("v.wav",), seconds=1.0):
    """A clip as others write it, of plain frames that grow lighter."""
    folder.mkdir(parents=True)
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 40 + 10 * number, np.uint8), format="rgb24").reformat(format="yuvj420p", dst_color_range="JPEG")
        context = av.CodecContext.create("mjpeg", "w")
        context.width, context.height, context.pix_fmt, context.time_base = 48, 32, "yuvj420p", Fraction(1, 25)
        context.options = {"qmin": "1", "qmax": "1"}
        (folder / (name % (start + number))).write_bytes(b"".join(bytes(packet) for packet in context.encode(frame)))
    for sound in sounds:
        soundfile.write(folder / sound, np.zeros(round(8000 * seconds), np.int16), 8000)


def test_frames_and_sound_as_its_code_reads_them(avtools, clips):
    rows = [
        {"path": clips[0]["path"], "relpath": "a.mp4", "class": "dog barking", "audio_path": clips[0]["stem_path"], "audio_duration": "stale"},
        {"path": clips[1]["path"], "relpath": "dog_barking/b-3_5.mp4", "class": "", "audio_path": "", "audio_duration": ""},
    ]
    table(avtools.folder, "t.csv", rows)
    out = rows_of(avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set").stdout)
    folder = avtools.folder / "set/dog_barking"
    assert sorted(os.listdir(avtools.folder / "set")) == [".avtools", "dog_barking"]
    for name in ("a", "b-3_5"):
        assert sorted(os.listdir(folder / name)) == [f"{name}.wav", *[f"{name}_{i:04d}.jpg" for i in range(1, 13)]]
    assert [row["audio_path"] for row in out] == ["set/dog_barking/a/a.wav", "set/dog_barking/b-3_5/b-3_5.wav"]
    assert [row["path"] for row in out] == [row["path"] for row in rows] and {float(row["audio_duration"]) for row in out} == {1.0}
    assert os.path.samefile(folder / "a/a.wav", clips[0]["stem_path"])
    own, rate = soundfile.read(folder / "b-3_5/b-3_5.wav")
    mixture, _ = soundfile.read(clips[1]["mixture_path"])
    assert own.shape == mixture.shape == (rate, 2) and np.corrcoef(own.ravel(), mixture.ravel())[0, 1] > 0.95
    for i, (picture, original) in enumerate(zip([pictures(folder / f"a/a_{i:04d}.jpg")[0] for i in range(1, 13)], pictures(clips[0]["path"]), strict=True)):
        assert abs(picture - original).mean() < 2, i


def test_exported_and_imported_no_cell_is_lost_and_nothing_is_made_twice(avtools, clips):
    names = [" a b.mp4", "-dash.mp4", "00123.mp4", "take.v2.mp4", "caf\udce9 %04d.mp4", 'quo"te,1,2.mp4']
    for i, name in enumerate(names):
        shutil.copyfile(clips[i % 4]["path"], avtools.folder / name)
    rows = [
        {"n": f"{i:04d}", "path": name, "split": ["train", "test", ""][i % 3], "class": f"c {i % 2}", "empty": "", "text": f'caption {i}\n"quoted"', "audio_fps": ""}
        for i, name in enumerate([names[3], *names[:3], *names[4:]])
    ]
    rows += [{**rows[1], "n": str(i), "text": "another caption"} for i in range(4)]  # five captions of one clip
    table(avtools.folder, "t.csv", rows)
    for form in ("code", "readme"):
        folder = avtools.folder / form
        done = avtools("mkmeta", "export", "maestro", "t.csv", "-d", form, "--form", form, text=False)
        assert b"10 rows in = 10 done" in done.stderr and b"6 made" in done.stderr
        first, times = files(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*.*g")}
        back = avtools("mkmeta", "import", "maestro", form, "-d", "videos", text=False)
        assert back.stdout == done.stdout and b"10 rows are as they were exported" in back.stderr
        assert not files(avtools.folder / "videos")  # the originals are there, so none is made
        again = avtools("mkmeta", "export", "maestro", "t.csv", "-d", form, "--form", form, text=False)
        assert again.stdout == done.stdout and b"0 made, 0 without change, 10 reused" in again.stderr
        assert files(folder) == first and {path: path.stat().st_mtime_ns for path in folder.rglob("*.*g")} == times
    assert (avtools.folder / "readme/take.v2/00012.jpg").exists() and (avtools.folder / "code/c_0/take.v2/take.v2_0012.jpg").exists()


def test_jsonl_keeps_its_types(avtools, clips):
    row = {"n": 7, "path": clips[0]["path"], "label": "dog", "nested": {"a": [1, None]}, "no": None, "audio_duration": 3}
    (avtools.folder / "t.jsonl").write_text(json.dumps(row) + "\n")
    out = avtools("mkmeta", "export", "maestro", "t.jsonl", "-d", "set")
    assert avtools("mkmeta", "import", "maestro", "set", "-d", "videos").stdout == out.stdout
    assert json.loads(out.stdout) == {**row, "audio_path": "set/dog/00000/00000.wav", "audio_duration": 1.0}


def test_folders_of_others_become_videos(avtools):
    folder = avtools.folder / "set"
    clip_folder(folder / "dog_barking/v", frames=12, seconds=0.5)
    clip_folder(folder / "dog_barking/late", start=0, frames=11, name="f%d.JPG", sounds=("x.WAV",))  # natural order: f9, f10
    clip_folder(folder / "wind_noise/w-0_2", frames=3)
    (folder / "wind_noise/w-0_2/.DS_Store").write_text("")
    done = avtools("mkmeta", "import", "maestro", "set", "-d", "videos", "-o", "t.csv")
    rows = rows_of((avtools.folder / "t.csv").read_text())
    assert rows[1] == {
        "path": "videos/dog_barking/v.mp4", "audio_path": "set/dog_barking/v/v.wav", "id": "v", "relpath": "dog_barking/v.mp4",
        "class": "dog_barking", "text": "dog barking", "num_frames": "12", "fps": "24.0",
    }  # fmt: skip
    assert [(row["id"], row["text"], row["num_frames"], row["fps"]) for row in rows] == [
        ("late", "dog barking", "11", "11.0"), ("v", "dog barking", "12", "24.0"), ("w-0_2", "wind noise", "3", "3.0"),
    ]  # fmt: skip
    assert [round(picture.mean()) for picture in pictures(avtools.folder / "videos/dog_barking/late.mp4")] == pytest.approx(range(40, 150, 10), abs=4)
    assert "1 files beside frames and sound were left out" in done.stderr
    again = avtools("mkmeta", "import", "maestro", "set", "-d", "videos")
    assert again.stdout == (avtools.folder / "t.csv").read_text() and "0 made, 0 without change, 3 reused" in again.stderr
    assert "3 made" in avtools("mkmeta", "import", "maestro", "set", "-d", "videos", "--fps", "8").stderr
    assert {row["fps"] for row in rows_of(avtools("mkmeta", "import", "maestro", "set", "-d", "videos", "--fps", "8").stdout)} == {"8.0"}
    avtools("mkmeta", "import", "maestro", "set", "-d", "videos")
    (folder / "dog_barking/v/v_0012.jpg").unlink()
    assert "1 made, 0 without change, 2 reused" in avtools("mkmeta", "import", "maestro", "set", "-d", "videos").stderr


def test_the_form_of_the_readme(avtools):
    clip_folder(avtools.folder / "set/one", name="%05d.jpg", sounds=("one.wav",))
    clip_folder(avtools.folder / "set/two", name="%05d.jpg", sounds=("two.wav",))
    rows = rows_of(avtools("mkmeta", "import", "maestro", "set", "-d", "videos").stdout)
    assert [(row["path"], row["class"], row["text"], row["relpath"]) for row in rows] == [(f"videos/{n}.mp4", "", "", f"{n}.mp4") for n in ("one", "two")]


def test_bad_folders_and_their_good_neighbours(avtools):
    folder = avtools.folder / "set/c"
    clip_folder(folder / "good")
    clip_folder(folder / "gap", frames=5)
    (folder / "gap/v_0003.jpg").unlink()
    clip_folder(folder / "no_sound", sounds=())
    clip_folder(folder / "two_sounds", sounds=("a.wav", "b.wav"))
    clip_folder(folder / "late", start=4)
    clip_folder(folder / "mixed")
    (folder / "mixed/w_0004.jpg").write_bytes((folder / "mixed/v_0001.jpg").read_bytes())
    clip_folder(folder / "damaged")
    (folder / "damaged/v_0002.jpg").write_bytes(b"no picture")
    (folder / "empty").mkdir()
    clip_folder(folder / "silent", seconds=0)
    done = avtools("mkmeta", "import", "maestro", "set", "-d", "videos", "--errors", "bad.jsonl", status=1)
    assert [row["id"] for row in rows_of(done.stdout)] == ["good"] and "9 rows in = 1 done + 0 filtered + 8 bad" in done.stderr
    assert list(files(avtools.folder / "videos")) == ["c/good.mp4"]
    reasons = {row["id"]: row["error"] for row in map(json.loads, (avtools.folder / "bad.jsonl").read_text().splitlines())}
    for name, words in {
        "gap": "frame 3 is missing", "no_sound": "holds no .wav", "two_sounds": "2 .wav", "late": "begin with 4", "mixed": "several videos",
        "damaged": "v_0002.jpg", "empty": "holds no frames",
    }.items():  # fmt: skip
        assert f"set/c/{name}" in reasons[name] and words in reasons[name]
    assert "--fps" in reasons["silent"] or "samples" in reasons["silent"]
    (avtools.folder / "file.txt").write_text("x")
    assert "is no folder" in avtools("mkmeta", "import", "maestro", "file.txt", "-d", "videos", status=2).stderr


def test_what_changed_since_the_export_is_read_as_it_stands(avtools, clips):
    columns = ["path", "audio_path", "id", "relpath", "class", "text", "num_frames", "fps", "keep"]
    for i, clip in enumerate(clips):
        shutil.copyfile(clip["path"], avtools.folder / f"{i}.mp4")
    table(avtools.folder, "t.csv", [{"path": f"{i}.mp4", "class": "dog", "keep": str(i)} for i in (3, 2, 1, 0)], columns)
    avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set", "-o", "x.csv")
    dog = avtools.folder / "set/dog"
    (dog / "0/0_0012.jpg").unlink()  # frames changed
    sound, rate = soundfile.read(dog / "1/1.wav", dtype="int16")
    soundfile.write(dog / "1/1.wav", sound // 2, rate)  # sound changed, of the same size
    os.rename(dog / "2", avtools.folder / "set/2")
    (avtools.folder / "set/wolf").mkdir()
    os.rename(avtools.folder / "set/2", avtools.folder / "set/wolf/2")  # class changed
    done = avtools("mkmeta", "import", "maestro", "set", "-d", "videos")
    rows = {row["relpath"] or row["path"]: row for row in rows_of(done.stdout)}
    assert {name: (row["path"], row["keep"], row["text"]) for name, row in rows.items()} == {
        "3.mp4": ("3.mp4", "3", ""),
        "dog/0.mp4": ("videos/dog/0.mp4", "", "dog"),
        "dog/1.mp4": ("videos/dog/1.mp4", "", "dog"),
        "wolf/2.mp4": ("videos/wolf/2.mp4", "", "wolf"),
    }
    assert len(pictures(avtools.folder / "videos/dog/0.mp4")) == 11
    assert "1 rows are as they were exported" in done.stderr and "1 rows that were exported have no folder any more" in done.stderr


def test_without_its_original_a_video_is_made_of_the_frames_at_their_rate(avtools, clips):
    shutil.copyfile(clips[0]["path"], avtools.folder / "a.mp4")
    table(avtools.folder, "t.csv", [{"path": "a.mp4", "class": "dog", "fps": "stale", "keep": "0012"}])
    avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set")
    original = pictures(avtools.folder / "a.mp4")
    shutil.copyfile(clips[1]["path"], avtools.folder / "a.mp4")
    (row,) = rows_of(avtools("mkmeta", "import", "maestro", "set", "-d", "videos").stdout)
    assert row == {"path": "videos/dog/a.mp4", "class": "dog", "fps": "12.0", "keep": "0012", "audio_path": "set/dog/a/a.wav"}
    made = pictures(avtools.folder / row["path"])
    assert len(made) == 12 and max(abs(one - other).mean() for one, other in zip(made, original)) < 4


def test_a_copy_of_the_data_set_gives_its_rows_too(avtools, clips):
    table(avtools.folder, "t.csv", [{"path": clip["path"], "class": "dog", "n": i} for i, clip in enumerate(clips)])
    done = avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set").stdout
    shutil.copytree(avtools.folder / "set", avtools.folder / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(avtools.folder / "set")
    assert avtools("mkmeta", "import", "maestro", "copy", "-d", "videos").stdout == done.replace("set/", "copy/")
    assert "4 reused" in avtools("mkmeta", "export", "maestro", "t.csv", "-d", "copy").stderr


def test_frames_are_made_anew_where_they_or_their_source_changed(avtools, clips):
    for i in (0, 1):
        shutil.copyfile(clips[i]["path"], avtools.folder / f"{i}.mp4")
    table(avtools.folder, "t.csv", [{"path": f"{i}.mp4", "class": "dog"} for i in (0, 1)])
    avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set")
    first = files(avtools.folder / "set")
    (avtools.folder / "set/dog/0/0_0003.jpg").unlink()
    assert "1 made, 0 without change, 1 reused" in avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set").stderr
    assert files(avtools.folder / "set") == first
    (avtools.folder / "set/dog/1/1_0003.jpg").write_bytes(first["dog/1/1_0004.jpg"])
    assert "1 made, 0 without change, 1 reused" in avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set").stderr
    assert files(avtools.folder / "set") == first
    shutil.copyfile(clips[2]["path"], avtools.folder / "1.mp4")
    assert "1 made, 0 without change, 1 reused" in avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set").stderr
    changed = {name for name, data in files(avtools.folder / "set").items() if data != first[name]}
    assert changed and all(name.startswith("dog/1/") for name in changed)
    table(avtools.folder, "t.csv", [{"path": "0.mp4", "class": "dog"}])
    done = avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set")
    assert "1 folders of an earlier export are not of this table and still there, the first: set/dog/1" in done.stderr


def test_bad_rows_and_what_must_not_be_replaced(avtools, clips):
    folder = avtools.folder
    shutil.copyfile(clips[3]["path"], folder / "silent.mp4")
    with av.open(clips[3]["path"]) as source, av.open(str(folder / "silent.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    (folder / "damaged.mp4").write_bytes(b"no video")
    (folder / "set/dog/taken").mkdir(parents=True)
    (folder / "set/dog/taken/notes.txt").write_text("mine")
    shutil.copyfile(clips[2]["path"], folder / "set/dog/in.mp4")
    clip_folder(folder / "set/dog/own")
    own = files(folder / "set/dog/own")
    rows = [
        {"path": clips[0]["path"], "class": "dog", "relpath": "good"},
        {"path": "missing.mp4", "class": "dog", "relpath": ""},
        {"path": "silent.mp4", "class": "dog", "relpath": ""},
        {"path": "damaged.mp4", "class": "dog", "relpath": ""},
        {"path": "placeholder.mp4", "class": "dog", "relpath": ""},
        {"path": clips[1]["path"], "class": "", "relpath": "b.mp4"},
        {"path": clips[1]["path"], "class": "dog", "relpath": "good.mp4"},
        {"path": clips[1]["path"], "class": "dog", "relpath": "taken.mp4"},
        {"path": clips[1]["path"], "class": "dog", "relpath": "own.mp4", "audio_path": "set/dog/own/v.wav"},
        {"path": clips[1]["path"], "class": "dog", "relpath": "gone.mp4", "audio_path": "gone.wav"},
    ]
    table(folder, "t.csv", rows, ["path", "class", "relpath", "audio_path"])
    done = avtools("mkmeta", "export", "maestro", "t.csv", "-d", "set", "--errors", "bad.jsonl", status=1)
    assert "10 rows in = 1 done + 0 filtered + 9 bad" in done.stderr and len(rows_of(done.stdout)) == 1
    reasons = [json.loads(line)["error"] for line in (folder / "bad.jsonl").read_text().splitlines()]
    for reason, words in zip(reasons, ("missing.mp4", "no sound", "damaged.mp4", "no picture", "no class", "another row", "notes.txt", "would replace", "gone.wav"), strict=True):
        assert words in reason
    assert sorted(os.listdir(folder / "set/dog")) == ["good", "in.mp4", "own", "taken"]
    assert files(folder / "set/dog/own") == own and (folder / "set/dog/taken/notes.txt").read_text() == "mine"


def test_killed_and_run_again_gives_the_data_set_of_an_undisturbed_run(avtools, clips):
    rows = [{"path": clips[i % 4]["path"], "class": "dog", "relpath": f"{i}.mp4"} for i in range(40)]
    table(avtools.folder, "t.csv", rows)
    running = avtools.start("mkmeta", "export", "maestro", "t.csv", "-d", "killed", "-j", "2", "-o", "killed.csv", start_new_session=True, stderr=subprocess.DEVNULL)
    while running.poll() is None and not (len(list((avtools.folder / "killed").glob("dog/*"))) >= 3 and list((avtools.folder / "killed").glob(".avtools/*/*.tmp/new/*.jpg"))):
        pass
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    avtools.wait_for_workers()
    for folder in (avtools.folder / "killed/dog").iterdir():
        assert len(os.listdir(folder)) == 13  # none is half there
    done = {name: avtools("mkmeta", "export", "maestro", "t.csv", "-d", name).stdout for name in ("killed", "whole")}
    assert done["killed"].replace("killed/", "whole/") == done["whole"]
    assert files(avtools.folder / "killed") == files(avtools.folder / "whole")
    assert not list((avtools.folder / "killed").rglob("*.tmp"))


@pytest.mark.parametrize("name", ["nasa_13013_rotated.mp4", "discard_first_keyframe.mp4", "testsrc2_odd_height_444.mp4", "testsrc2_vp8.webm"])
def test_frames_are_those_that_are_shown_upright(avtools, media, name):
    table(avtools.folder, "t.csv", [{"path": media / "odd" / name, "class": "odd", "audio_path": media / "audio/duck.mp3"}])
    avtools("probe", "t.csv", "-o", "p.csv")
    (row,) = rows_of(avtools("mkmeta", "export", "maestro", "p.csv", "-d", "set").stdout)
    frames = sorted((avtools.folder / row["audio_path"]).parent.glob("*.jpg"))
    assert len(frames) == int(row["num_frames"])
    (picture,) = pictures(frames[0])
    assert picture.shape == (int(row["height"]), int(row["width"]), 3)
    with av.open(str(media / "odd" / name)) as container:
        frame = next(container.decode(video=0))
        upright = np.rot90(frame.to_ndarray(format="rgb24").astype(int), frame.rotation // 90)
    assert abs(picture - upright).mean() < 2
    assert soundfile.info((avtools.folder / row["audio_path"])).subtype == "PCM_16"
