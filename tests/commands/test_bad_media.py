"""Every row command over files from the wild: what is bad is one line, what is good comes out right.

Each command runs once over all of them, as a real process; the tests then look at each file's row.
"""

import csv
import io
import json
import os
import pathlib
import subprocess
import threading
import time
from fractions import Fraction

import numpy as np
import pytest

import bad_files as bad
import fixtures as fx
import judge
from conftest import command, files

COMMANDS = {
    "probe": ["probe"],
    "probe --check": ["probe", "--check"],
    "trim": ["trim", "--start", "0.2", "--end", "0.7"],
    "trim --fast": ["trim", "--fast", "--start", "0.2", "--end", "0.7"],
    "uni-fps": ["uni-fps", "--fps", "10"],
    "extract-audio": ["extract-audio", "--rate", "8000"],
    "mux": ["mux"],
}
SOUND_COMMANDS = {
    "probe": ["probe"],
    "trim": ["trim", "--start", "0.2", "--end", "0.7"],
    "resample": ["resample", "--rate", "8000"],
    "mux": ["mux"],
}
REFUSED = {
    "probe": bad.NO_MEDIA,
    "probe --check": bad.NO_MEDIA,
    "trim": bad.NO_MEDIA | bad.NO_PICTURE | {"one.mp4"},
    "trim --fast": bad.NO_MEDIA | bad.NO_PICTURE | {"one.mp4"},
    "uni-fps": bad.NO_MEDIA | bad.NO_PICTURE,
    "extract-audio": bad.NO_MEDIA | bad.NO_PICTURE | bad.NO_SOUND,
    "mux": bad.NO_MEDIA | bad.NO_PICTURE,
}

def sounds_of(name: str) -> list[str]:
    """The sounds that a command is tried on."""
    return [n for n in bad.SOUNDS if n != "nothing.wav" or name != "mux"]  # see test_nothing_to_mux


SECONDS, BYTES = 20, 1_000_000_000  # that a row may take, that a run may hold


class Run:
    """One run of a command: what it said and wrote, how long it took and how much memory all of it held."""

    def __init__(self, arguments, cwd):
        begun = time.monotonic()
        process = subprocess.Popen(
            command(*arguments), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.peak = 0
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(process.pid, done))
        watch.start()
        out, err = process.communicate(timeout=300)
        done.set(), watch.join()
        self.seconds = time.monotonic() - begun
        self.status, self.out, self.err = process.returncode, out.decode(), err.decode()

    def _watch(self, pid, done):
        while not done.wait(0.1):
            self.peak = max(self.peak, held(pid))

    def rows(self):
        return list(csv.DictReader(io.StringIO(self.out)))

    def lines(self, name):
        return [line for line in self.err.splitlines() if f"/{name}:" in line]


def held(pid: int) -> int:
    """Bytes of memory of a process and all below it, shared pages counted once."""
    below = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            below.setdefault(int(parent), []).append(int(entry))
    todo, total = [pid], 0
    while todo:
        one = todo.pop()
        todo += below.get(one, [])
        try:
            text = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


@pytest.fixture(scope="session")
def wild(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wild")
    bad.write(folder)
    return folder


@pytest.fixture(scope="session")
def runs(wild, tmp_path_factory):
    """(Run, its folder) of a command over all clips, or all sounds; each is run once."""
    made = {}

    def run(name, sounds=False):
        if (name, sounds) not in made:
            folder = tmp_path_factory.mktemp("run")
            if sounds:
                picture = f"{wild}/good.mp4" if name == "mux" else ""
                header, cells = "path,audio_path,relpath", [f"{picture},{wild}/{n},{n}" for n in sounds_of(name)]
                if name != "mux":
                    header, cells = "audio_path,relpath", [cell[1:] for cell in cells]
            else:
                heard = f",{wild}/good.wav" if name == "mux" else ""
                header = "path,audio_path,relpath" if name == "mux" else "path,relpath"
                cells = [f"{wild}/{n}{heard},{n}" for n in bad.CLIPS]
            (folder / "t.csv").write_text("\n".join([header, *cells, ""]))
            arguments = [*(SOUND_COMMANDS if sounds else COMMANDS)[name], "t.csv", "-j2", "--timeout", SECONDS]
            if not name.startswith("probe"):
                arguments += ["-d", "out"]
            made[name, sounds] = Run(arguments, folder), folder
        return made[name, sounds]

    return run


@pytest.mark.parametrize("name", COMMANDS)
class TestClips:
    def test_the_run(self, name, runs):
        run, folder = runs(name)
        refused = REFUSED[name]
        assert run.status == 1
        assert {row["relpath"] for row in run.rows()} == set(bad.CLIPS) - refused
        assert [row["relpath"] for row in run.rows()] == [n for n in bad.CLIPS if n not in refused]
        assert "Traceback" not in run.err and "unexpected" not in run.err and "took longer" not in run.err
        *lines, summary = run.err.splitlines()
        assert len(lines) == len(refused), run.err
        assert f"{len(bad.CLIPS)} rows in = {len(bad.CLIPS) - len(refused)} done + 0 filtered + {len(refused)} bad" in summary
        assert run.peak < BYTES

    @pytest.mark.parametrize("file", sorted(bad.NO_MEDIA | bad.NO_PICTURE | bad.NO_SOUND))
    def test_one_line_for_each_bad_row(self, name, file, runs):
        run, _ = runs(name)
        lines = run.lines(file)
        if file not in REFUSED[name]:
            assert not lines
            return
        (line,) = lines
        number = bad.CLIPS.index(file) + 2
        assert line.startswith(f"avtools {name.split()[0]}: t.csv:{number}: /")
        assert len(line) < 400

    def test_no_leftovers(self, name, runs):
        run, folder = runs(name)
        if name.startswith("probe"):
            assert os.listdir(folder) == ["t.csv"]
            return
        column = "audio_path" if name == "extract-audio" else "path"
        assert set(files(folder / "out")) == {os.path.relpath(row[column], "out") for row in run.rows()}


GOOD = [n for n in bad.CLIPS if n not in bad.NO_MEDIA | bad.NO_PICTURE]
#: Their outputs differ from those of good.mp4 in nothing that would be seen or heard.
ALIKE = {"UPPER.MP4", "giga-entry.mp4", "many-frames.mp4"}


JUDGED = [name for name in GOOD if name not in ALIKE]


def heard(row) -> bool:
    """Whether the clip has any sound to be heard."""
    return row["audio_duration"] not in ("", "0.0")


@judge.needed
class TestAcceptedClips:
    """What an independent decoder says of the outputs.  Damaged pictures are not compared frame by frame."""

    def row(self, runs, name, file):
        (row,) = [row for row in runs(name)[0].rows() if row["relpath"] == file]
        return row

    def output(self, runs, name, file, column="path"):
        return runs(name)[1] / self.row(runs, name, file)[column]

    @pytest.mark.parametrize("file", GOOD)
    def test_probe(self, file, wild, runs):
        row, path = self.row(runs, "probe", file), wild / file
        assert int(row["num_frames"]) == len(judge.frames(path))
        assert float(row["duration"]) == pytest.approx(float(judge.duration(path)), abs=2e-3)
        if heard(row):
            priming = 1024 if file in ("b-frames.mkv", "odd-420.mkv") else 0  # which older decoders forget to drop
            assert float(row["audio_duration"]) * int(row["audio_fps"]) == pytest.approx(len(judge.samples(path)) - priming, abs=1)
            assert float(row["av_offset"]) == pytest.approx(float(judge.sound_start(path)) + priming / 48000, abs=1e-3)

    @pytest.mark.parametrize("file", GOOD)
    def test_check_agrees_with_probe(self, file, runs):
        row, checked = self.row(runs, "probe", file), self.row(runs, "probe --check", file)
        spans = checked.pop("spans")
        if file == "flipped-picture.mp4":
            assert spans.startswith("[[0.0,") and int(checked["num_frames"]) <= int(row["num_frames"])
        else:
            assert checked == row
            assert bool(spans) == (file == "half-moov.mp4")

    @pytest.mark.parametrize("file", JUDGED)
    def test_trim(self, file, wild, runs):
        if file in REFUSED["trim"]:
            return
        path, out = wild / file, self.output(runs, "trim", file)
        kept = [k for k, t in enumerate(judge.times(path)) if Fraction(1, 5) <= t < Fraction(7, 10)]
        first = judge.times(path)[kept[0]]
        expected = [judge.times(path)[k] - first for k in kept]
        assert [float(t) for t in judge.times(out)] == pytest.approx([float(t) for t in expected], abs=2e-3)
        if file != "flipped-picture.mp4":
            old, new = judge.shades(path), judge.shades(out)
            assert new == pytest.approx([old[k] for k in kept], abs=3)
        if heard(self.row(runs, "probe", file)):
            skip = round(first * 48000)
            assert abs(judge.lag(judge.heard(path)[skip:], judge.heard(out), 48000, 0.012)) < 1e-3

    @pytest.mark.parametrize("file", JUDGED)
    def test_trim_fast(self, file, wild, runs):
        if file in REFUSED["trim --fast"]:
            return
        row, out = self.row(runs, "trim --fast", file), self.output(runs, "trim --fast", file)
        ((start, end),) = json.loads(row["spans"])
        assert start == 0.0  # the only key frames are a multiple of 12 frames apart
        seen = [t for t in judge.times(wild / file) if t < Fraction(end) - Fraction(1, 500)]
        assert [float(t) for t in judge.times(out)] == pytest.approx([float(t) for t in seen], abs=2e-3)
        assert float(judge.duration(out)) == pytest.approx(end - start, abs=2e-3)
        assert 0.7 - 2e-3 <= end <= 0.8 or float(judge.duration(wild / file)) < 0.7 or file == "uneven.mp4"
        if heard(self.row(runs, "probe", file)):
            assert abs(judge.lag(judge.heard(wild / file), judge.heard(out), 48000, 0.012)) < 1e-3

    @pytest.mark.parametrize("file", JUDGED)
    def test_uni_fps(self, file, wild, runs):
        path, out = wild / file, self.output(runs, "uni-fps", file)
        count = max(1, int(judge.duration(path) * 10 + Fraction(1, 2)))
        assert [float(t) for t in judge.times(out)] == pytest.approx([k / 10 for k in range(count)], abs=1e-3)
        assert float(judge.duration(out)) == pytest.approx(count / 10, abs=2e-3)
        if file != "flipped-picture.mp4":
            seen, shades = judge.times(path), judge.shades(path)
            shown = [shades[max(k for k, t in enumerate(seen) if t <= Fraction(j, 10))] for j in range(count)]
            assert judge.shades(out) == pytest.approx(shown, abs=3)
        if heard(self.row(runs, "probe", file)):
            assert judge.packets(out, "audio") == judge.packets(path, "audio")
            assert float(judge.sound_start(out)) == pytest.approx(float(judge.sound_start(path)), abs=1e-3)
            assert abs(judge.lag(judge.heard(path), judge.heard(out), 48000, 0.012)) < 1e-3

    @pytest.mark.parametrize("file", JUDGED)
    def test_extract_audio(self, file, wild, runs):
        if file in REFUSED["extract-audio"]:
            return
        path, out = wild / file, self.output(runs, "extract-audio", file, "audio_path")
        length = round(judge.duration(path) * 8000)
        wave = judge.samples(out)
        assert abs(len(wave) - length) <= 2
        assert abs(judge.lag(judge.heard(path, 8000)[:length], wave, 8000, 0.012)) < 1e-3

    @pytest.mark.parametrize("file", JUDGED)
    def test_mux(self, file, wild, runs):
        path, out = wild / file, self.output(runs, "mux", file)
        assert judge.packets(out, "video") == judge.packets(path, "video")
        assert [float(t) for t in judge.times(out)] == pytest.approx([float(t) for t in judge.times(path)], abs=2e-3)
        assert abs(judge.sound_start(out)) <= Fraction(1, 1000)
        assert abs(judge.lag(judge.samples(wild / "good.wav", 48000), judge.heard(out), 48000, 0.012)) < 1e-3


@pytest.mark.parametrize("name", SOUND_COMMANDS)
class TestSounds:
    def refused(self, name):
        return bad.NO_SOUND_FILE | ({"nothing.wav"} if name == "trim" else set())

    def test_the_run(self, name, runs):
        run, folder = runs(name, sounds=True)
        refused = self.refused(name)
        assert run.status == 1
        assert [row["relpath"] for row in run.rows()] == [n for n in sounds_of(name) if n not in refused]
        assert "Traceback" not in run.err and "unexpected" not in run.err and "took longer" not in run.err
        assert len(run.err.splitlines()) == len(refused) + 1, run.err
        for file in refused:
            (line,) = run.lines(file)
            assert line.startswith(f"avtools {name}: t.csv:{sounds_of(name).index(file) + 2}: /")
        assert run.peak < BYTES
        if name != "probe":
            column = "path" if name == "mux" else "audio_path"
            assert set(files(folder / "out")) == {os.path.relpath(row[column], "out") for row in run.rows()}

    @judge.needed
    @pytest.mark.parametrize("file", ["good.wav", "claims-4-GB.wav", "8-bit.wav", "16-channels.wav", "half-a-sample.wav", "UPPER.MP4"])
    def test_what_is_accepted(self, name, file, wild, runs):
        import soundfile

        run, folder = runs(name, sounds=True)
        (row,) = [row for row in run.rows() if row["relpath"] == file]
        wave = judge.channels(wild / file)
        stream = judge.streams(wild / file)[judge.index(wild / file, "audio")]
        rate, width = int(stream["sample_rate"]), 2 * stream["channels"]
        if name == "probe":
            assert (int(row["audio_fps"]), 2 * int(row["audio_channels"])) == (rate, width)
            assert float(row["audio_duration"]) * rate * width == pytest.approx(len(wave), abs=width)
            return
        if name == "mux":
            out = folder / row["path"]
            assert abs(judge.sound_start(out)) <= Fraction(1, 1000)
            assert abs(judge.lag(judge.samples(wild / file, 48000), judge.heard(out), 48000, 0.012)) < 1e-3
            return
        out = folder / row["audio_path"]
        info = soundfile.info(str(out))
        assert info.subtype == ("PCM_U8" if file == "8-bit.wav" else "PCM_16")
        if name == "trim":
            assert info.frames == rate // 2
            if file != "UPPER.MP4":
                assert judge.channels(out) == wave[rate // 5 * width : rate * 7 // 10 * width]
        else:
            assert info.frames == round(Fraction(len(wave) // width * 8000, rate))
            assert 2 * info.channels == width


# --- one by one -----------------------------------------------------------------------------------------


def test_a_decoder_that_objects_fails_its_row_alone(wild, avtools):
    """FFmpeg's AAC decoder answers damage with EPERM; that is not the output folder's refusal."""
    (avtools.folder / "in").mkdir()
    for k in range(6):
        fx.flip_bits(wild / "deaf.mp4", avtools.folder / f"in/damaged-{k}.mp4", [0.2, 0.4, 0.6, 0.8], seed=k)
        fx.flip_bits(wild / "many-channels.mkv", avtools.folder / f"in/pcm-{k}.mkv", [0.2, 0.4, 0.6, 0.8], seed=k)
        fx.make(avtools.folder / "clip.mp4", fx.even(25), crf=51, size=(32, 32), sound=bad.HUM)
        places = [0.3 + 0.05 * j for j in range(10)]
        fx.flip_bits(avtools.folder / "clip.mp4", avtools.folder / f"in/clip-{k}.mp4", places, seed=k, width=4)
    (avtools.folder / "in/whole.mp4").write_bytes((wild / "good.mp4").read_bytes())
    avtools("mkmeta", "scan", "video", "in", "-o", "t.csv")
    for line in (["trim", "--start", "0", "--end", "0.9"], ["uni-fps", "--fps", "10"], ["extract-audio", "--rate", "8000"]):
        done = avtools(*line, "t.csv", "-d", line[0], status=None)
        assert done.returncode in (0, 1), done.stderr
        assert ",whole,whole.mp4" in done.stdout
        assert "Operation not permitted" not in done.stderr and "unexpected" not in done.stderr


@pytest.mark.parametrize("line", [["uni-fps", "--fps", "10"], ["extract-audio", "--rate", "100"]])
def test_a_last_frame_of_hours_is_damage(line, wild, avtools):
    """Six hours of one frame, by the header: refused at once, instead of written for minutes."""
    bad.patched(wild / "good.mp4", avtools.folder / "x.mp4", b"stts", 12, struct_pack(0x7FFFFFFF))
    done = avtools(*line, "x.mp4", "-d", "out", "--timeout", "2", status=1)
    assert "x.mp4" in done.stderr and "took longer" not in done.stderr


def struct_pack(value: int) -> bytes:
    return value.to_bytes(4, "big")


def test_a_row_that_takes_too_long_names_its_file(avtools):
    fx.make(avtools.folder / "x.mp4", fx.even(60), noise=True, size=(320, 240))
    done = avtools("uni-fps", "--fps", "1000", "--preset", "veryslow", "--timeout", "0.5", "-d", "out", input="path,id\nx.mp4,1\n", status=1)
    (line, _) = done.stderr.splitlines()
    assert "x.mp4" in line and "--timeout" in line
    assert not files(avtools.folder / "out")


@pytest.mark.parametrize("name", ["probe", "trim", "uni-fps", "extract-audio", "resample", "mux"])
def test_devices_are_not_read(name, avtools):
    line = {"probe": [], "trim": ["--end", "1"], "uni-fps": ["--fps", "5"], "extract-audio": ["--rate", "8000"], "resample": ["--rate", "8000"], "mux": []}
    more = [] if name == "probe" else ["-d", "out"]
    table = "path,audio_path\n/dev/zero,/dev/zero\n/dev/stdin,/dev/stdin\n"
    begun = time.monotonic()
    done = avtools(name, *line[name], *more, "--timeout", "10", input=table, status=1)
    assert time.monotonic() - begun < SECONDS
    assert done.stdout.count("\n") == 1 and done.stderr.count("\n") == 3
    assert "/dev/zero: is not a regular file" in done.stderr


def test_a_large_picture_within_bounds(avtools):
    """A still of 8192 x 8192 is read; one beyond all bounds is refused without memory for it."""
    bad.png(avtools.folder / "large.png", 8192, 8192)
    bad.png(avtools.folder / "huge.png", 32768, 32768, rows=1)
    run = Run(["probe", "large.png", "huge.png", "-j1"], avtools.folder)
    assert run.status == 1
    assert [row["resolution"] for row in run.rows()] == [str(8192 * 8192)]
    (line,) = [line for line in run.err.splitlines() if "huge.png: " in line]
    assert run.peak < BYTES


def test_no_first_sample_no_offset(wild, avtools):
    row = next(csv.DictReader(io.StringIO(avtools("probe", wild / "mute.mkv").stdout)))
    assert row["audio_duration"] in ("", "0.0") and row["av_offset"] == ""


def test_nothing_to_mux(wild, avtools):
    done = avtools("mux", "-d", "out", input=f"path,audio_path\n{wild}/good.mp4,{wild}/nothing.wav\n", status=1)
    assert "nothing.wav" in done.stderr


@judge.needed
def test_fast_cut_leaves_no_hole(wild, avtools):
    done = avtools("trim", "--fast", "--end", "0.66", wild / "b-frames.mkv", "-d", "out")
    gaps = np.diff([float(t) for t in judge.times(avtools.folder / "out/b-frames.mkv")])
    assert gaps.max() < 0.05, done.stdout


def test_stills_are_no_clips(avtools):
    bad.png(avtools.folder / "a.png", 32, 24)
    assert avtools("probe", "a.png").stdout.splitlines()[1].split(",")[:4] == ["a.png", "1", "24", "32"]
    for line in (["uni-fps", "--fps", "5"], ["extract-audio", "--rate", "8000"], ["trim", "--end", "1"]):
        done = avtools(*line, "a.png", "-d", "out", status=None)
        assert done.returncode in (0, 1) and "unexpected" not in done.stderr


def test_memory_stays_when_a_sound_is_long(avtools):
    """Five minutes of 16 channels (590 MB as floats) pass through a worker of bounded memory."""
    noise = np.random.default_rng(0).integers(-9999, 9999, (16000, 16)).astype("<i2").tobytes()
    bad.wav(avtools.folder / "long.wav", noise * 300, rate=16000, channels=16)
    run = Run(["resample", "--rate", "8000", "--no-fsync", "long.wav", "-d", "out"], avtools.folder)
    assert run.status == 0 and run.peak < 300_000_000
