"""The whole chain of data preparation on real clips, and the workflows made of it."""

import csv
import io
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction

import pytest

import fixtures as fx
import judge
from conftest import ROOT, Program, files

CHAIN = "avtools mkmeta scan video in | avtools probe --fmin 10 | avtools uni-fps --fps 24 -d F | avtools extract-audio --rate 16000 -d A"


def table(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def times(*folders) -> dict:
    """When each file below was made, without the journals."""
    return {p: p.stat().st_mtime_ns for f in folders for p in f.rglob("*") if p.is_file() and ".avtools" not in p.parts}


@pytest.fixture(scope="session")
def clips(media):
    return sorted((media / "vggsound").glob("*.mp4"))


@pytest.fixture(scope="session")
def chain(media, tmp_path_factory):
    """The folder of the chain, and its table."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "in").symlink_to(media / "vggsound")
    done = Program(folder).pipe(CHAIN)
    assert done.stderr.count(" + 0 bad") == 4
    return folder, done.stdout


class TestChain:
    def test_columns_and_rows(self, chain, clips):
        rows = table(chain[1])
        media = "num_frames height width aspect_ratio resolution fps duration audio_fps audio_channels audio_duration av_offset"
        assert list(rows[0]) == ["path", "id", "relpath", *media.split(), "audio_path"]
        assert [row["relpath"] for row in rows] == [clip.name for clip in clips]
        for row, clip in zip(rows, clips, strict=True):
            assert row["id"] == clip.stem
            assert row["path"] == f"F/{clip.name}" and row["audio_path"] == f"A/{clip.stem}.wav"
            assert (row["num_frames"], row["fps"], row["audio_fps"], row["audio_channels"]) == ("240", "24.0", "16000", "1")
            assert abs(float(row["duration"]) - 10) < 1 / 24
            assert float(row["audio_duration"]) == round(float(row["duration"]) * 16000) / 16000

    @judge.needed
    @pytest.mark.parametrize("number", range(4))
    def test_an_independent_decoder_agrees(self, number, chain, clips):
        folder, text = chain
        row, source = table(text)[number], clips[number]
        picture, sound = folder / row["path"], folder / row["audio_path"]
        stream = judge.streams(picture)[judge.index(picture, "video")]
        assert (stream["width"], stream["height"]) == (int(row["width"]), int(row["height"]))
        assert Fraction(stream["avg_frame_rate"]) == 24
        assert [float(t) for t in judge.times(picture)] == pytest.approx([k / 24 for k in range(240)], abs=1e-4)
        assert judge.packets(picture, "audio") == judge.packets(source, "audio")
        assert float(judge.sound_start(picture)) == pytest.approx(float(judge.sound_start(source)), abs=1e-4)
        wave = judge.samples(sound)
        assert len(wave) == round(judge.duration(picture) * 16000)
        assert abs(judge.lag(judge.heard(source, 16000), wave, 16000)) < 1e-3
        assert abs(judge.lag(judge.heard(picture, 16000), wave, 16000)) < 1e-3
        assert float(row["av_offset"]) == pytest.approx(float(judge.sound_start(source)), abs=1e-4)

    def test_again_makes_nothing(self, chain):
        folder, text = chain
        before = times(folder / "F", folder / "A")
        done = Program(folder).pipe(CHAIN)
        assert done.stdout == text
        assert done.stderr.count("files: 0 made, 0 without change, 4 reused") == 2
        assert times(folder / "F", folder / "A") == before

    def test_media_columns_stand(self, chain):
        """Measuring the table that came out changes no cell of the pictures or of the sounds."""
        folder, text = chain
        assert Program(folder)("probe", input=text).stdout == text

    def test_against_the_reference(self, chain, media):
        """Where the reference's columns are right: what the clips are, and what of them stays."""
        golden = os.environ.get("AVTOOLS_GOLDEN")
        if not golden:
            pytest.skip("AVTOOLS_GOLDEN is not set")
        cases = pathlib.Path(golden) / "javisdit_data"
        folder, text = chain
        close = json.loads((cases / "video_pipeline/case.json").read_text())["tolerance"]["aspect_ratio"]
        probed = table(Program(folder)("mkmeta", "scan", "video", "in").stdout)
        compare(probed, table((cases / "video_pipeline/1_convert.csv").read_text()), ["id", "relpath"])
        probed = table(Program(folder).pipe("avtools mkmeta scan video in | avtools probe --fmin 10").stdout)
        same = ["id", "relpath", "num_frames", "height", "width", "fps", "resolution"]
        compare(probed, table((cases / "video_pipeline/3_info_fmin10.csv").read_text()), same, close)
        # num_frames is 242 there, where 10 s at 24 Hz are 240; audio_fps stands for the rate that was asked for
        last = table((cases / "video_pipeline/6_audio_info.csv").read_text())
        compare(table(text), last, ["id", "relpath", "height", "width", "fps", "resolution", "audio_fps"], close)

    def test_odd_clips_against_the_reference(self, media, avtools):
        golden = os.environ.get("AVTOOLS_GOLDEN")
        if not golden:
            pytest.skip("AVTOOLS_GOLDEN is not set")
        want = table((pathlib.Path(golden) / "javisdit_data/odd_video/2_info.csv").read_text())
        names = {row["relpath"] for row in want}
        done = avtools.pipe(f"avtools mkmeta scan video {shlex.quote(str(media / 'odd'))} | avtools probe")
        got = [row for row in table(done.stdout) if row["relpath"] in names]
        # the reference looks at the first stream of nasa_13013, FFmpeg plays another; it rounds 30000/1001
        unlike = {"nasa_13013.mp4"}
        pick = [row for row in got if row["relpath"] not in unlike], [row for row in want if row["relpath"] not in unlike]
        compare(*pick, ["id", "num_frames", "height", "width", "resolution"], 1e-9)
        for mine, theirs in zip(got, want, strict=True):
            assert round(float(mine["fps"])) == float(theirs["fps"]) or mine["relpath"] in unlike


def compare(mine, theirs, columns, close=1e-9):
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        for column in columns:
            if column in ("id", "relpath"):
                assert one[column] == other[column]
            else:
                assert float(one[column]) == pytest.approx(float(other[column]), abs=close), (one["relpath"], column)
        assert float(one.get("aspect_ratio", 0)) == pytest.approx(float(other.get("aspect_ratio", 0)), abs=close)


# --- workflows ------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path):
    """A folder in whose PATH `avtools` is this one."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/avtools"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m avtools "$@"\n')
    script.chmod(0o755)
    return tmp_path


def shell(folder, *line, status=0, **env):
    variables = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", **env}
    done = subprocess.run(list(map(str, line)), cwd=folder, capture_output=True, text=True, env=variables, stdin=subprocess.DEVNULL, timeout=300)
    if status is not None:
        assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """Sounds of many kinds, real ones where there are some; (folder, what is in it: id -> seconds)."""
    import soundfile

    folder = tmp_path_factory.mktemp("sounds")
    media = os.environ.get("AVTOOLS_MEDIA")
    if media:
        for part in ("audio", "sources"):
            shutil.copytree(pathlib.Path(media) / part, folder / part)
        (folder / "odd").mkdir()
        for path in (pathlib.Path(media) / "odd").glob("*.wav"):
            shutil.copy(path, folder / "odd")
    samples = [s for f in fx.tone(seconds=31, rate=22050) for s in f.to_ndarray()[0]]
    soundfile.write(folder / "long.wav", samples, 22050)
    fx.make(folder / "short.mp3", [], sound={"seconds": 2, "codec": "libmp3lame"}, container="mp3")
    (folder / "broken.wav").write_bytes(b"RIFF....WAVEjunk")
    return folder


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
class TestMakefile:
    def make(self, folder, target, **variables):
        line = ["make", "-f", ROOT / "workflows/javisdit.mk", target, f"AVTOOLS={sys.executable} -m avtools", "OUT=out"]
        return shell(folder, *line, *(f"{name}={value}" for name, value in variables.items()), status=None)

    def test_stage1(self, sounds, program):
        import soundfile

        names = sorted(p.stem for p in sounds.rglob("*") if p.is_file())
        with open(program / "captions.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "audio_text", "other"])
            writer.writerows([name, f'the sound of "{name}", again', "x"] for name in names if name != "long")
        done = self.make(program, "stage1", SOUNDS=sounds, CAPTIONS="captions.csv", MAX_BAD=1)
        assert done.returncode == 0, done.stderr
        rows = table((program / "out/stage1.csv").read_text())
        assert sorted(row["id"] for row in rows) == [n for n in names if n not in ("long", "broken")]
        lost, unused = table((program / "out/errors/stage1-unmatched.csv").read_text())
        assert lost["unmatched"] == "media" and lost["id"] == "long" and lost["audio_duration"] == "30.0"
        assert unused["unmatched"] == "caption" and unused["key"] == "broken"
        (bad,) = map(json.loads, (program / "out/errors/stage1-probe.jsonl").read_text().splitlines())
        assert bad["id"] == "broken" and bad["error"]
        for row in rows:
            info = soundfile.info(str(program / row["audio_path"]))
            assert (info.samplerate, info.channels) == (16000, 1) == (int(row["audio_fps"]), int(row["audio_channels"]))
            assert info.frames == round(float(row["audio_duration"]) * 16000) and info.frames <= 30 * 16000
            frames = info.frames * 24 // 16000
            assert (row["path"], row["num_frames"], row["fps"]) == ("placeholder.mp4", str(frames), "24.0")
            assert (row["height"], row["width"], row["resolution"]) == ("720", "1280", "921600")
            assert row["audio_text"] == f'the sound of "{row["id"]}", again'
        assert not list((program / "out").rglob("*.tmp"))
        before = times(program / "out/trimmed", program / "out/wav16")
        content = (program / "out/stage1.csv").read_bytes()
        assert self.make(program, "stage1", SOUNDS=sounds, CAPTIONS="captions.csv", MAX_BAD=1).returncode == 0
        assert times(program / "out/trimmed", program / "out/wav16") == before
        assert (program / "out/stage1.csv").read_bytes() == content

    def test_stage1_stops_where_too_much_is_bad(self, program):
        (program / "sounds").mkdir()
        (program / "sounds/a.wav").write_text("no sound")
        (program / "captions.csv").write_text("id,audio_text\na,b\n")
        done = self.make(program, "stage1", SOUNDS="sounds", CAPTIONS="captions.csv")
        assert done.returncode == 2 and "a.wav" in done.stderr

    def test_stage3(self, program, media):
        (program / "clips").mkdir()
        for path in sorted((media / "vggsound").glob("*.mp4"), key=os.path.getsize)[:2]:
            (program / f"clips/{path.stem}_{int(path.stem[-6:]) + 10:06d}.mp4").symlink_to(path)  # as TAVGBench names clips
        fx.make(program / "clips/much_too_short.mp4", fx.even(5), sound={"seconds": 1})
        fx.make(program / "clips/no_caption_b.mp4", fx.even(25), sound={"seconds": 1})
        captioned = [p for p in sorted((program / "clips").iterdir()) if p.stem != "no_caption_b"]
        lines = [f"{p.name} A clip, its name being {p.stem}." for p in captioned]
        (program / "captions.txt").write_text("\n".join([*reversed(lines), "a stray line", ""]))
        done = self.make(program, "stage3", CLIPS="clips", CAPTIONS="captions.txt")
        assert done.returncode == 0, done.stderr
        assert "1 lines are no caption" in done.stderr
        rows = table((program / "out/stage3.csv").read_text())
        assert len(rows) == 2
        assert [row["id"] for row in rows] == sorted(p.stem for p in (program / "clips").iterdir() if p.is_symlink())
        for row in rows:
            assert row["text"] == f"A clip, its name being {row['id']}."
            assert (row["num_frames"], row["fps"], row["audio_fps"]) == ("240", "24.0", "16000")
            assert (program / row["path"]).is_file() and (program / row["audio_path"]).is_file()
        lost, unused = table((program / "out/errors/stage3-unmatched.csv").read_text())
        assert (lost["unmatched"], lost["id"]) == ("media", "no_caption_b")
        assert (unused["unmatched"], unused["key"], unused["source"]) == ("caption", "much_too_short", "tavgbench")

    def test_missing_captions(self, program):
        (program / "clips").mkdir()
        fx.make(program / "clips/a_b_c.mp4", fx.even(25), sound={"seconds": 1})
        done = self.make(program, "stage3", CLIPS="clips", CAPTIONS="nothing.txt")
        assert done.returncode == 2 and "nothing.txt" in done.stderr and "Traceback" not in done.stderr
        assert not (program / "out/stage3.csv").exists()


class TestArrayJob:
    def test_shards_make_the_whole(self, program):
        (program / "clips").mkdir()
        for k in range(5):
            fx.make(program / f"clips/{k}.mp4", fx.even(20 + k), sound={"seconds": 1, "hz": 200 + 50 * k})
        fx.make(program / "clips/short.mp4", fx.even(5), sound={"seconds": 1})
        shell(program, "avtools", "mkmeta", "scan", "video", "clips", "-o", "t.csv")
        script = ROOT / "workflows/slurm/prep.sbatch"
        for out, count in (("out", 2), ("whole", 1)):
            for k in range(count, 0, -1):
                task = {"SLURM_ARRAY_TASK_ID": str(k), "SLURM_ARRAY_TASK_COUNT": str(count), "SLURM_CPUS_PER_TASK": "2"}
                shell(program, "bash", script, "t.csv", out, **task)
            shell(program, "bash", script, "t.csv", out, "merge", count)
        whole = (program / "whole/table.csv").read_text()
        assert (program / "out/table.csv").read_text() == whole.replace("whole/", "out/")
        assert [row["num_frames"] for row in table(whole)] == ["19", "20", "21", "22", "23"]
        assert files(program / "out/fps24") == files(program / "whole/fps24")
        assert files(program / "out/wav16") == files(program / "whole/wav16")
        before = times(program / "out/fps24", program / "out/wav16")
        shell(program, "bash", script, "t.csv", "out", SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="2")
        assert times(program / "out/fps24", program / "out/wav16") == before

    def test_a_bad_clip_is_listed_and_the_task_goes_on(self, program):
        (program / "clips").mkdir()
        for k in range(3):
            fx.make(program / f"clips/{k}.mp4", fx.even(20), sound={"seconds": 1})
        (program / "clips/1.mp4").write_text("no film")
        shell(program, "avtools", "mkmeta", "scan", "video", "clips", "-o", "t.csv")
        done = shell(program, "bash", ROOT / "workflows/slurm/prep.sbatch", "t.csv", "out", status=1, SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="1")
        assert "clips/1.mp4" in done.stderr  # one of three is beyond 5 %
        (bad,) = map(json.loads, (program / "out/errors/probe-1-of-1.jsonl").read_text().splitlines())
        assert bad["path"] == "clips/1.mp4"
        assert [row["relpath"] for row in table((program / "out/parts/1-of-1.csv").read_text())] == ["0.mp4", "2.mp4"]
