"""`sample` and `features` as real processes, with small systems that stand in for large ones."""

import collections
import csv
import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import conftest
from avtools import features
from avtools.errors import MediaError
from avtools.media import video
from avtools.media.probe import probe
from avtools.sampling import sample_seed
from conftest import files

TESTS = pathlib.Path(__file__).resolve().parent.parent
COUNT = 8


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for k in range(COUNT):  # each brighter than the one before
        video.write_frames(folder / f"{k}.mp4", ".mp4", np.full((25, 48, 64, 3), 30 + 20 * k, np.uint8), 25)
    return folder


@pytest.fixture
def avtools(tmp_path, monkeypatch):
    """The program with the stand-in systems besides its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(conftest, "command", lambda *arguments: [sys.executable, "-c", "import stand_in; stand_in.main()", *map(str, arguments)])
    return conftest.Program(tmp_path)


def table(clips, rows=range(COUNT), more=None) -> str:
    """Rows of clips with the columns path, relpath, do and text."""
    more = more or {}
    return "path,relpath,do,text\n" + "".join(f"{clips}/{k}.mp4,{k}.mp4,{more.get(k, '')},\n" for k in rows)


def calls(avtools) -> collections.Counter:
    path = avtools.folder / "calls"
    words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return collections.Counter({kind: sum(int(w[1]) if kind in ("generate", "encode") else 1 for w in words if w[0] == kind) for kind in ("load", "decode", "generate", "encode")})


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


SAMPLE = ["sample", "stand-in", "-d", "out", "--set", "calls=calls"]


def test_rows_become_sound(clips, avtools):
    done = avtools(*SAMPLE, input=table(clips))
    made = rows(done.stdout)
    assert [row["generated_audio_path"] for row in made] == [f"out/{k}.wav" for k in range(COUNT)]
    assert list(made[0]) == ["path", "relpath", "do", "text", "generated_audio_path"]
    pitches = []
    for row in made:
        sound, rate = soundfile.read(avtools.folder / row["generated_audio_path"])
        assert rate == 8000 and sound.shape == (4000,) and soundfile.info(avtools.folder / row["generated_audio_path"]).subtype == "PCM_16"
        pitches.append(np.abs(np.fft.rfft(sound)).argmax() * 2)
    assert pitches == sorted(pitches) and pitches[-1] - pitches[0] > 40, "each row has its own picture's pitch"
    assert calls(avtools) == {"load": 1, "decode": COUNT, "generate": COUNT, "encode": 0}


def test_running_again_decodes_and_generates_nothing(clips, avtools):
    first = avtools(*SAMPLE, "--mux", input=table(clips))
    calls(avtools)
    second = avtools(*SAMPLE, "--mux", "--why", input=table(clips))
    assert second.stdout == first.stdout and f"files: 0 made, 0 without change, {2 * COUNT} reused" in second.stderr
    assert second.stderr.count("reused (same source, operation and options)") == 2 * COUNT
    assert calls(avtools).total() == 0, "neither loaded, decoded nor generated"


@pytest.mark.long
def test_what_makes_another_file_is_done_again(clips, avtools):
    (avtools.folder / "w").write_text("one")
    (avtools.folder / "v").write_text("two")

    def made(*more, rows=range(2), text=""):
        lines = table(clips, rows).replace(",\n", f",{text}\n")
        avtools(*SAMPLE, *more, input=lines)
        return calls(avtools)["generate"]

    assert made("--weights", "w") == 2 and made("--weights", "v") == 2
    more = ["--weights", "v"]
    for option in (["--seed", "1"], ["--steps", "7"], ["--precision", "bf16"], ["--set", "seconds=1"]):
        more += option
        assert made(*more) == 2
    assert made(*more, text="a dog") == 2
    (avtools.folder / "out/1.wav").unlink()
    assert made(*more, text="a dog") == 1


def test_mux_is_added_without_generating_again(clips, avtools):
    avtools(*SAMPLE, "--set", "seconds=3", input=table(clips, range(3)))
    calls(avtools)
    done = rows(avtools(*SAMPLE, "--mux", "--set", "seconds=3", input=table(clips, range(3))).stdout)
    assert calls(avtools).total() == 0
    for k, row in enumerate(done):
        muxed, source = probe(str(avtools.folder / row["generated_path"])), probe(row["path"])
        assert row["generated_path"] == f"out/{k}.mp4"
        assert (muxed.picture.num_frames, muxed.picture.duration) == (source.picture.num_frames, source.picture.duration)
        assert muxed.sound.rate == 8000 and muxed.sound.start == muxed.picture.start
        assert 0 <= muxed.sound.duration - muxed.picture.duration <= 1024 / 8000, "cut to the picture, but for a packet's end"
        assert packets(row["path"]) == packets(avtools.folder / row["generated_path"]), "the picture is not encoded anew"


def packets(path) -> list[bytes]:
    import av

    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_sound_and_picture(clips, avtools):
    (row,) = rows(avtools("sample", "both", "-d", "out", "--mux", input=table(clips, [0])).stdout)
    info = probe(str(avtools.folder / row["generated_path"]))
    assert (info.picture.num_frames, info.picture.fps, info.picture.width, info.picture.height) == (10, 25, 64, 48) and info.sound is not None
    assert soundfile.info(avtools.folder / row["generated_audio_path"]).frames == 4000
    (row,) = rows(avtools("sample", "both", "-d", "out", input=table(clips, [0])).stdout)
    assert probe(str(avtools.folder / row["generated_path"])).sound is None
    import av

    with av.open(str(avtools.folder / row["generated_path"])) as container:
        grey = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert np.allclose(grey, sample_seed(0, "0.mp4", 0) % 200, atol=2)


@pytest.mark.long
def test_seeds_depend_on_key_and_number_alone(clips, avtools):
    avtools(*SAMPLE, "--samples-per-row", "2", input=table(clips))
    whole = files(avtools.folder / "out")
    assert len(whole) == 2 * COUNT and len(set(whole.values())) == 2 * COUNT
    for more, order in ((["--batch-size", "1", "-j1"], reversed(range(COUNT))), (["--batch-size", "100"], [7, 3])):
        avtools(*SAMPLE, "--samples-per-row", "2", "-d", "other", "--overwrite", *more, input=table(clips, order))
        other = files(avtools.folder / "other")
        assert all(whole[name] == content for name, content in other.items())
    avtools(*SAMPLE, "-d", "other", "--samples-per-row", "2", "--seed", "5", input=table(clips))
    assert not set(files(avtools.folder / "other").values()) & set(whole.values())


def test_samples_of_a_row(clips, avtools):
    made = rows(avtools(*SAMPLE, "--samples-per-row", "3", "--key", "path", input=table(clips, range(2))).stdout)
    assert [row["generated_audio_path"] for row in made] == [f"out/{k}_{n}.wav" for k in range(2) for n in range(3)]
    assert [row["group"] for row in made] == [f"{clips}/{k}.mp4" for k in range(2) for _ in range(3)]
    assert calls(avtools) == {"load": 1, "decode": 2, "generate": 6, "encode": 0}
    (avtools.folder / "out/1_1.wav").unlink()
    avtools(*SAMPLE, "--samples-per-row", "4", "--key", "path", input=table(clips, range(2)))
    assert calls(avtools)["generate"] == 3, "those that are there are kept"


def test_bad_rows_fail_alone(clips, avtools):
    more = {1: "raise", 3: "bad", 4: "crash", 6: "bug"}
    done = avtools(*SAMPLE, input=table(clips, more=more), status=1)
    assert [row["generated_audio_path"] for row in rows(done.stdout)] == [f"out/{k}.wav" for k in range(COUNT) if k not in more]
    lines = [line for line in done.stderr.splitlines() if "<stdin>" in line]
    assert len(lines) == 4 and [int(line.split("<stdin>:")[1].split(":")[0]) - 2 for line in lines] == list(more)
    assert "cannot be generated" in lines[1] and "crashed" in lines[2]
    again = avtools(*SAMPLE, input=table(clips))
    assert f"files: 4 made, 0 without change, {COUNT - 4} reused" in again.stderr


def test_missing_memory_halves_the_batch(clips, avtools):
    done = avtools(*SAMPLE, "--set", "most=2", "--batch-size", "8", input=table(clips))
    assert len(rows(done.stdout)) == COUNT
    sizes = [int(line.split()[1]) for line in (avtools.folder / "calls").read_text().splitlines() if line.startswith("generate")]
    assert sum(size > 2 for size in sizes) <= 2 and sum(size for size in sizes if size <= 2) == COUNT


def test_missing_weights_end_it_before_anything_is_written(clips, avtools):
    done = avtools(*SAMPLE, "--set", "needs_weights=true", "-o", "t.csv", input=table(clips), status=3, env={"HF_HUB_OFFLINE": "1"})
    assert done.stderr.count("\n") == 1 and "avtools fetch stand-in" in done.stderr
    assert not (avtools.folder / "t.csv").exists() and not list(avtools.folder.rglob("*.wav"))


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["sample", "stand-on", "-d", "o", "t.csv"], "did you mean 'stand-in'"),
        (["sample", "stand-in", "t.csv"], "-d DIR"),
        (["sample", "stand-in", "-d", "o", "x.csv"], "'path'"),
        (["sample", "stand-in", "-d", "o", "t.csv", "--text", "x"], "not both"),
        (["sample", "stand-in", "-d", "o", "t.csv", "--weights", "no=x"], "no such part"),
        (["sample", "stand-in", "-d", "o", "t.csv", "--preset", "huge"], "tiny"),
        (["features", "stand-in", "-d", "o", "t.csv", "--set", "no=1"], "no such setting"),
    ],
)
def test_wrong_usage(arguments, word, avtools):
    (avtools.folder / "t.csv").write_text("path\nx.mp4\n")
    (avtools.folder / "x.csv").write_text("id\nx\n")
    done = avtools(*arguments, status=2)
    assert word in done.stderr and "Traceback" not in done.stderr


class TestByHand:
    def test_a_video(self, clips, avtools):
        (row,) = rows(avtools(*SAMPLE, "--video", clips / "3.mp4", "--text", "a dog").stdout)
        assert row == {"path": str(clips / "3.mp4"), "text": "a dog", "generated_audio_path": "out/3.wav"}

    def test_what_the_system_cannot_use(self, clips, avtools):
        done = avtools(*SAMPLE, "--audio", clips / "3.mp4", status=2)
        assert "does not read --audio" in done.stderr

    def test_a_place_for_a_caption(self):
        from avtools import sampling

        row = sampling.row_by_hand({"video": None, "image": None, "audio": None, "text": "A dog, barking/../x"})
        assert sampling.stem(row, ()) == "a-dog-barking-x"


def test_placeholder_is_no_picture(clips, avtools):
    text = "path,relpath,do,text\nplaceholder.mp4,a.wav,,\n" + table(clips, [1]).split("\n", 1)[1]
    done = avtools(*SAMPLE, input=text, status=1)
    assert len(rows(done.stdout)) == 1 and "<stdin>:2" in done.stderr


def test_another_programs_name_for_the_video(clips, avtools):
    (row,) = rows(avtools(*SAMPLE, "--mux", input=f"video_path\n{clips}/1.mp4\n").stdout)
    assert row["generated_path"] == "out/1.mp4"
    made = files(avtools.folder / "out")
    avtools(*SAMPLE, "-d", "other", "--video", clips / "1.mp4")
    assert made["1.wav"] == (avtools.folder / "other/1.wav").read_bytes()


def test_rows_of_one_clip_share_one_sample(clips, avtools):
    text = table(clips, [2, 2, 2, 1])
    done = avtools(*SAMPLE, input=text)
    assert "files: 2 made, 0 without change, 2 reused" in done.stderr and calls(avtools)["generate"] == 2
    lines = text.splitlines()
    lines[2] += "another caption"
    done = avtools(*SAMPLE, input="\n".join(lines) + "\n", status=1)
    assert "<stdin>:3" in done.stderr and "different relpath" in done.stderr


def test_killed_run_is_continued(clips, avtools):
    line = [*SAMPLE, "--mux", "--batch-size", "2", "--set", "pause=0.2"]
    (avtools.folder / "t.csv").write_text(table(clips))
    whole = avtools(*line, "t.csv").stdout
    expected = files(avtools.folder / "out")
    (avtools.folder / "out").rename(avtools.folder / "whole")
    calls(avtools)
    process = avtools.start(*line, "t.csv")
    deadline = time.monotonic() + 60
    while len(list((avtools.folder / "out").glob("*.mp4"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    avtools.wait_for_workers()
    calls(avtools)
    there = {name for name in files(avtools.folder / "out") if not name.endswith(".tmp")}
    again = avtools(*line, "t.csv")
    assert again.stdout == whole and files(avtools.folder / "out") == expected
    assert calls(avtools)["generate"] == COUNT - sum(name.endswith(".wav") for name in there)


def test_a_signal_leaves_nothing_half_done(clips, avtools):
    (avtools.folder / "t.csv").write_text(table(clips))
    process = avtools.start(*SAMPLE, "--mux", "--batch-size", "1", "--set", "pause=0.2", "t.csv")
    while not list((avtools.folder / "out").glob("*.wav")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM and b"Traceback" not in err
    avtools.wait_for_workers()
    assert not list((avtools.folder / "out").rglob("*.tmp"))
    assert all((avtools.folder / row["generated_path"]).is_file() for row in rows(out.decode()))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_disk(clips, avtools):
    from test_resume import mounted

    with mounted(avtools.folder / "small", "size=1500k"):
        done = avtools(*SAMPLE, "-d", "small/out", "--set", "seconds=20", "-o", "t.csv", input=table(clips), status=3)
        assert "No space left" in done.stderr and not (avtools.folder / "t.csv").exists()
        there = list((avtools.folder / "small/out").glob("*.wav"))
        assert there and all(soundfile.info(path).frames == 160_000 for path in there)
        assert not list((avtools.folder / "small/out").glob(".*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=100m", str(avtools.folder / "small")], check=True)
        calls(avtools)
        avtools(*SAMPLE, "-d", "small/out", "--set", "seconds=20", input=table(clips))
        assert calls(avtools)["generate"] == COUNT - len(there)


def test_ranks_share_the_rows(clips, avtools):
    (avtools.folder / "t.csv").write_text(table(clips, more={4: "bad"}))
    line = [*SAMPLE, "--mux", "--samples-per-row", "2", "-j1", "t.csv"]
    alone = avtools(*line, status=1).stdout
    expected = files(avtools.folder / "out")
    (avtools.folder / "out").rename(avtools.folder / "alone")
    calls(avtools)
    runs = [
        avtools.start(*line, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_PORT": f"{os.getpid()}s"})
        for rank in (1, 0)
    ]
    outs = [run.communicate(timeout=100) for run in runs]
    assert [run.returncode for run in runs] == [0, 1], outs
    assert outs[1][0].decode() == alone and outs[0][0] == b"" and files(avtools.folder / "out") == expected
    assert calls(avtools)["load"] == 2, "each rank has a model of its own"


def test_shards_make_the_whole(clips, avtools):
    (avtools.folder / "t.csv").write_text(table(clips))
    whole = avtools(*SAMPLE, "t.csv").stdout.splitlines()
    (avtools.folder / "out").rename(avtools.folder / "whole")
    parts = [avtools(*SAMPLE, "t.csv", "--shard", f"{k}/2").stdout.splitlines() for k in (1, 2)]
    assert parts[0] + parts[1][1:] == whole and files(avtools.folder / "out") == files(avtools.folder / "whole")


class TestFeatures:
    LINE = ["features", "stand-in", "-d", "f", "--set", "calls=calls"]

    def test_files_and_reuse(self, clips, avtools):
        done = avtools(*self.LINE, input=table(clips))
        made = rows(done.stdout)
        assert [row["features_path"] for row in made] == [f"f/{k}.safetensors" for k in range(COUNT)]
        level = [features.read(avtools.folder / row["features_path"], {"encoder": "mean"})["level"] for row in made]
        assert all(one.dtype == np.float32 and one.shape == (1,) for one in level) and len({float(one[0]) for one in level}) == COUNT
        assert calls(avtools)["encode"] == COUNT
        assert avtools(*self.LINE, input=table(clips)).stdout == done.stdout and calls(avtools).total() == 0

    def test_bytes_are_the_same_each_time(self, clips, avtools):
        avtools(*self.LINE, input=table(clips, [1]))
        first = files(avtools.folder / "f")
        avtools(*self.LINE, "--overwrite", input=table(clips, [1]))
        assert files(avtools.folder / "f") == first

    def test_what_does_not_fit_is_refused(self, tmp_path):
        path = tmp_path / "a.safetensors"
        features.write(path, {"x": np.arange(6).reshape(2, 3)[:, ::2]}, {"clip": "abc", "size": "224"})
        assert features.read(path)["x"].tolist() == [[0, 2], [3, 5]]
        with pytest.raises(MediaError, match="clip is abc, not abd.*avtools features"):
            features.read(path, {"clip": "abd", "size": "224"})
        with pytest.raises(MediaError, match="mel is not there, not 80"):
            features.read(path, {"clip": "abc", "size": "224", "mel": "80"})
        for content in (path.read_bytes()[:-5], b"", b"junk" * 9, path.read_bytes().replace(b"version", b"noisrev")):
            (tmp_path / "b.safetensors").write_bytes(content)
            with pytest.raises(MediaError, match="b.safetensors"):
                features.read(tmp_path / "b.safetensors")
        with pytest.raises(MediaError, match="check the path"):
            features.read(tmp_path / "no.safetensors")


def test_names_of_systems_are_completed(avtools):
    done = avtools("sample", env={"_AVTOOLS_COMPLETE": "fish_complete", "COMP_LINE": "avtools sample st"}, input="")
    assert done.stdout.splitlines() == ["stand-in"]
