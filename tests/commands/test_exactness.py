"""The columns of media, and the bits that must not change, as an independent decoder sees them."""

import csv
import io
import os
import re
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest

import bad_files as bad
import fixtures as fx
import judge

SOUND_COLUMNS = ["audio_fps", "audio_channels", "audio_duration"]
PICTURE_COLUMNS = ["num_frames", "height", "width", "aspect_ratio", "resolution", "fps", "duration"]


def table(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="session")
def probed(media, tmp_path_factory):
    """relpath -> row of every picture and every sound of the folder of real media."""
    from conftest import Program

    program = Program(tmp_path_factory.mktemp("probed"))
    rows = {}
    for kind in ("video", "audio"):
        scanned = program("mkmeta", "scan", kind, media).stdout
        rows |= {row["relpath"]: row for row in table(program("probe", input=scanned).stdout)}
    return rows


class TestColumnsOfRealMedia:
    def test_nothing_is_left_out(self, probed, media):
        suffixes = (".mp4", ".webm", ".wav", ".mp3", ".flac", ".mkv", ".mov", ".avi", ".m4a", ".ogg", ".opus")
        assert set(probed) == {str(p.relative_to(media)) for p in media.rglob("*") if p.suffix.lower() in suffixes}

    @judge.needed
    def test_pictures(self, probed, media):
        """One test over all: others of the same kinds may lie there."""
        wrong = []
        for name, row in probed.items():
            if "path" not in row:
                continue
            path = media / name
            stream = judge.streams(path)[judge.index(path, "video")]
            turned = any(abs(int(d.get("rotation", 0))) % 180 == 90 for d in stream.get("side_data_list", []))
            width, height = (stream["height"], stream["width"]) if turned else (stream["width"], stream["height"])
            facts = {
                "num_frames": len(judge.frames(path)),
                "height": height,
                "width": width,
                "aspect_ratio": height / width,
                "resolution": height * width,
                "fps": float(Fraction(stream["avg_frame_rate"])),
                "duration": float(judge.duration(path)),
            }
            for column, value in facts.items():
                if float(row[column]) != pytest.approx(value, abs=1e-9 if column != "duration" else 1e-3):
                    wrong.append((name, column, row[column], value))
        assert not wrong

    @judge.needed
    def test_sounds(self, probed, media):
        wrong = []
        for name, row in probed.items():
            path, has = media / name, judge.index(media / name, "audio") is not None
            if not has:
                assert [row.get(c, "") for c in SOUND_COLUMNS] == ["", "", ""] and row["av_offset"] == ""
                continue
            stream = judge.streams(path)[judge.index(path, "audio")]
            facts = {
                "audio_fps": int(stream["sample_rate"]),
                "audio_channels": stream["channels"],
                "audio_duration": len(judge.samples(path)) / int(stream["sample_rate"]),
            }
            if "path" in row:
                facts["av_offset"] = float(judge.sound_start(path))
            for column, value in facts.items():
                if float(row[column]) != pytest.approx(value, abs=1e-4):
                    wrong.append((name, column, row[column], value))
        assert not wrong

    @pytest.mark.skipif(not shutil.which("ffplay"), reason="ffplay is not installed")
    def test_the_streams_that_ffplay_shows(self, probed, media):
        path = media / "odd/nasa_13013.mp4"
        env = {**os.environ, "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
        line = ["ffplay", "-hide_banner", "-v", "verbose", "-autoexit", "-t", "0.2", str(path)]
        said = subprocess.run(line, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=60).stderr
        picture = re.search(r"ffplay_buffer .* w:(\d+) h:(\d+)", said)
        sound = re.search(r"ffplay_abuffer .* samplerate:(\d+)", said)
        if not (picture and sound):
            pytest.skip("ffplay shows nothing here")
        row = probed["odd/nasa_13013.mp4"]
        assert (row["width"], row["height"], row["audio_fps"]) == (*picture.groups(), sound.group(1))

    def test_offsets_that_containers_hide(self, probed):
        assert float(probed["vggsound/0DCit2EBtjs_000030.mp4"]["av_offset"]) == pytest.approx(0.038, abs=5e-4)
        assert probed["vggsound/-26aVYRtEAc_000030.mp4"]["num_frames"] == "300"  # the header says 318


# --- bits that must not change --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A few clips and sounds, with all that offsets can do."""
    folder = tmp_path_factory.mktemp("made")
    hum = {"seconds": 2, "hz": 37, "layout": "stereo"}
    fx.make(folder / "plain.mp4", fx.even(50), bframes=2, sound=hum)
    fx.make(folder / "later.mp4", fx.even(50), bframes=2, sound={**hum, "start": Fraction(3, 10)})
    fx.make(folder / "first.mp4", fx.even(50, start=Fraction(2, 5)), bframes=2, sound=hum)
    fx.make(folder / "turned.mp4", fx.even(50), rotation=90, sound=hum)
    fx.make(folder / "opus.mkv", fx.even(50), sound={**hum, "codec": "libopus"})
    fx.make(folder / "pcm.mov", fx.even(50), sound={**hum, "codec": "pcm_s16le"})
    fx.make(folder / "mp3.mkv", fx.even(50), sound={**hum, "codec": "libmp3lame"})
    fx.make(folder / "uneven.mkv", fx.vfr(30), sound={**hum, "seconds": 3})
    noise = np.random.default_rng(1).integers(-(1 << 23), 1 << 23, (32000, 2))
    bad.wav(folder / "s16.wav", (noise >> 8).astype("<i2").tobytes(), channels=2)
    bad.wav(folder / "s24.wav", (noise.astype("<i4")[..., None].view("u1")[..., :3]).tobytes(), channels=2, bits=24)
    bad.wav(folder / "u8.wav", ((noise >> 16) + 128).astype("u1").tobytes(), channels=2, bits=8)
    return folder


CLIPS = ["plain.mp4", "later.mp4", "first.mp4", "turned.mp4", "opus.mkv", "pcm.mov", "mp3.mkv", "uneven.mkv"]


def run_over(made, tmp_path_factory, *arguments, names=CLIPS, header="path,relpath", cells=""):
    from conftest import Program

    program = Program(tmp_path_factory.mktemp("over"))
    text = header + "\n" + "".join(f"{made / n},{n}{cells}\n" for n in names)
    return program.folder, {row["relpath"]: row for row in table(program(*arguments, "-d", "out", input=text).stdout)}


@pytest.fixture(scope="session")
def uniform(made, tmp_path_factory):
    return run_over(made, tmp_path_factory, "uni-fps", "--fps", "10")


@pytest.fixture(scope="session")
def muxed(made, tmp_path_factory):
    return run_over(made, tmp_path_factory, "mux", header="path,relpath,audio_path", cells=f",{made / 's16.wav'}")


@pytest.fixture(scope="session")
def trimmed(made, tmp_path_factory):
    return run_over(made, tmp_path_factory, "trim", "--start", "0.3", "--end", "1.1")


class TestBits:
    @pytest.mark.parametrize("name, width", [("s16.wav", 4), ("s24.wav", 6), ("u8.wav", 2)])
    @pytest.mark.parametrize("start, end", [("0", "1"), ("0.30001", "1.70003"), ("1/3", "2/3"), ("1.9999", "99")])
    def test_a_cut_wav_is_the_slice(self, name, width, start, end, made, avtools):
        import soundfile

        avtools("trim", "--start", start, "--end", end, made / name, "-d", "out")
        low, high = -(-Fraction(start) * 16000 // 1), min(32000, -(-Fraction(end) * 16000 // 1))
        whole = (made / name).read_bytes()[44:]
        with open(avtools.folder / "out" / name, "rb") as file:
            data = file.read()
        at = data.index(b"data") + 8
        size = int.from_bytes(data[at - 4 : at], "little")
        assert data[at : at + size] == whole[low * width : high * width]
        assert soundfile.info(str(avtools.folder / "out" / name)).subtype == soundfile.info(str(made / name)).subtype

    def test_a_cut_flac_is_the_slice(self, made, avtools):
        import soundfile

        samples, rate = soundfile.read(str(made / "s24.wav"), dtype="int32")
        soundfile.write(avtools.folder / "a.flac", samples, rate, subtype="PCM_24")
        avtools("trim", "--start", "0.25", "--duration", "1", "a.flac", "-d", "out")
        cut, _ = soundfile.read(str(avtools.folder / "out/a.flac"), dtype="int32")
        assert (cut == samples[4000:20000]).all()

    @judge.needed
    @pytest.mark.parametrize("name", CLIPS)
    def test_uni_fps_copies_the_sound(self, name, made, uniform):
        folder, rows = uniform
        out, source = folder / rows[name]["path"], made / name
        assert judge.bitstream(out, "audio") == judge.bitstream(source, "audio")
        assert float(judge.sound_start(out)) == pytest.approx(float(judge.sound_start(source)), abs=1e-3)
        assert abs(judge.lag(judge.heard(source), judge.heard(out), 48000, 0.012)) < 1e-3

    @judge.needed
    @pytest.mark.parametrize("name", CLIPS)
    def test_uni_fps_shows_what_was_shown(self, name, made, uniform):
        folder, rows = uniform
        out, source = folder / rows[name]["path"], made / name
        count = int(judge.duration(source) * 10 + Fraction(1, 2))
        seen, shades = judge.times(source), judge.shades(source)
        want = [shades[max(k for k, t in enumerate(seen) if t <= Fraction(j, 10) + Fraction(1, 2000))] for j in range(count)]
        early = [shades[max(k for k, t in enumerate(seen) if t <= max(0, Fraction(j, 10) - Fraction(1, 2000)))] for j in range(count)]
        got = judge.shades(out)
        assert len(got) == count
        # where a frame begins just there, container ticks decide
        assert all(abs(g - w) < 3 or abs(g - e) < 3 for g, w, e in zip(got, want, early, strict=True))
        assert [float(t) for t in judge.times(out)] == pytest.approx([k / 10 for k in range(count)], abs=1e-3)

    @judge.needed
    @pytest.mark.parametrize("name", CLIPS)
    def test_mux_copies_the_picture(self, name, made, muxed):
        folder, rows = muxed
        out, source = folder / rows[name]["path"], made / name
        assert judge.bitstream(out, "video") == judge.bitstream(source, "video")
        assert [float(t) for t in judge.times(out)] == pytest.approx([float(t) for t in judge.times(source)], abs=1e-3)
        assert abs(judge.sound_start(out)) < Fraction(1, 1000)
        turned = [s.get("side_data_list") for s in (judge.streams(out)[0], judge.streams(source)[0])]
        assert bool(turned[0]) == bool(turned[1])

    @judge.needed
    @pytest.mark.parametrize("name", CLIPS)
    def test_trim_keeps_the_frames_of_the_span(self, name, made, trimmed):
        folder, rows = trimmed
        out, source = folder / rows[name]["path"], made / name
        seen, shades = judge.times(source), judge.shades(source)
        near = Fraction(1, 1000) if name.endswith(".mkv") else 0  # its ticks are milliseconds
        kept = [k for k, t in enumerate(seen) if Fraction(3, 10) - near <= t < Fraction(11, 10) - near]
        assert judge.shades(out) == pytest.approx([shades[k] for k in kept], abs=3) if name != "turned.mp4" else True
        assert [float(t) for t in judge.times(out)] == pytest.approx([float(seen[k] - seen[kept[0]]) for k in kept], abs=2e-3)
        # sound with start <= t < end, on the picture's clock
        low, high = round(0.3 * 48000), round(1.1 * 48000)
        whole, part = judge.heard(source)[low:high], judge.heard(out)
        first = round((seen[kept[0]] - Fraction(3, 10)) * 48000)
        assert abs(judge.lag(whole[max(first, 0) :], part, 48000, 0.012)) < 1e-3


# --- measured anew --------------------------------------------------------------------------------------

STALE = dict.fromkeys([*PICTURE_COLUMNS, *SOUND_COLUMNS, "av_offset"], "77")


class TestStaleCells:
    """A table that lies about its files is put right by whatever makes or changes a file."""

    def change(self, avtools, made, arguments, **cells):
        row = {**cells, **STALE, "text": "077", "id": "00x"}
        text = ",".join(row) + "\n" + ",".join(row.values()) + "\n"
        out = avtools(*arguments, "-d", "out", input=text).stdout
        (after,) = table(out)
        assert after["text"] == "077" and after["id"] == "00x"
        return list(row), list(after), after

    def fresh(self, avtools, columns, **files):
        (row,) = table(avtools("probe", input=",".join(files) + "\n" + ",".join(files.values()) + "\n").stdout)
        return {column: row[column] for column in columns if column in row}

    @pytest.mark.parametrize("arguments", [["uni-fps", "--fps", "10"], ["uni-fps", "--fps", "25"], ["trim", "--end", "0.5"], ["trim", "--fast", "--end", "0.5"]])
    def test_video_alone(self, arguments, made, avtools):
        before, after, row = self.change(avtools, made, arguments, path=str(made / "later.mp4"))
        assert after == before + (["spans"] if "--fast" in arguments else [])
        assert {c: row[c] for c in STALE} == self.fresh(avtools, STALE, path=row["path"])

    @pytest.mark.parametrize("arguments", [["uni-fps", "--fps", "10"], ["trim", "--end", "0.5"]])
    def test_video_with_a_sound_file(self, arguments, made, avtools):
        """The sound columns describe audio_path: uni-fps leaves that file, so it leaves them; trim measures it."""
        files = {"path": str(made / "later.mp4"), "audio_path": str(made / "s16.wav")}
        before, after, row = self.change(avtools, made, arguments, **files)
        assert after == before
        fresh = self.fresh(avtools, STALE, path=row["path"], audio_path=row["audio_path"])
        if arguments[0] == "uni-fps":
            fresh |= dict.fromkeys(SOUND_COLUMNS, "77")
        assert {c: row[c] for c in STALE} == fresh

    @pytest.mark.parametrize("arguments", [["resample", "--rate", "8000"], ["resample", "--rate", "16000"], ["trim", "--end", "0.5"]])
    def test_sound_alone(self, arguments, made, avtools):
        before, after, row = self.change(avtools, made, arguments, audio_path=str(made / "s16.wav"))
        assert after == before
        assert {c: row[c] for c in SOUND_COLUMNS} == self.fresh(avtools, SOUND_COLUMNS, audio_path=row["audio_path"])
        assert {c: row[c] for c in PICTURE_COLUMNS} == dict.fromkeys(PICTURE_COLUMNS, "77")

    def test_extract_audio(self, made, avtools):
        before, after, row = self.change(avtools, made, ["extract-audio", "--rate", "8000"], path=str(made / "later.mp4"))
        assert after == [*before, "audio_path"]
        assert {c: row[c] for c in SOUND_COLUMNS} == self.fresh(avtools, SOUND_COLUMNS, audio_path=row["audio_path"])

    def test_mux(self, made, avtools):
        files = {"path": str(made / "later.mp4"), "audio_path": str(made / "s16.wav")}
        before, after, row = self.change(avtools, made, ["mux"], **files)
        assert after == before and row["audio_path"] == files["audio_path"]
        fresh = self.fresh(avtools, STALE, path=row["path"], audio_path=row["audio_path"])
        own = [*PICTURE_COLUMNS, "av_offset"]
        assert {c: row[c] for c in own} == {c: fresh[c] for c in own}

    def test_nothing_that_was_not_there_is_added(self, made, avtools):
        def header(*arguments, text):
            return avtools(*arguments, "-d", "out", input=text).stdout.splitlines()[0]

        clip, both = f"path,id\n{made}/plain.mp4,a\n", f"path,audio_path\n{made}/plain.mp4,{made}/s16.wav\n"
        sound = f"audio_path,id\n{made}/s16.wav,a\n"
        assert header("uni-fps", "--fps", "10", text=clip) == "path,id"
        assert header("trim", "--end", "1", text=clip) == "path,id"
        assert header("trim", "--fast", "--end", "1", text=clip) == "path,id,spans"
        assert header("trim", "--end", "1", text=both) == "path,audio_path"
        assert header("mux", text=both) == "path,audio_path"
        assert header("resample", "--rate", "8000", text=sound) == "audio_path,id"
        assert header("extract-audio", "--rate", "8000", text=clip) == "path,id,audio_path,audio_fps,audio_channels,audio_duration"


class TestPlaceholder:
    """`placeholder.mp4` is no picture: its row passes, its cells stay."""

    ROW = {"path": "placeholder.mp4", "relpath": "a.wav", "num_frames": "0048", "fps": "24.0", "duration": "2.00", "av_offset": "", "text": "t"}

    def over(self, avtools, made, *arguments, more=()):
        row = {**self.ROW, "audio_path": str(made / "s16.wav")}
        text = ",".join(row) + "\n" + ",".join(row.values()) + "\n"
        (after,) = table(avtools(*arguments, *more, input=text).stdout)
        return row, after

    @pytest.mark.parametrize("arguments", [["uni-fps", "--fps", "24"], ["extract-audio", "--rate", "8000"], ["resample", "--rate", "8000"], ["trim", "--end", "1"]])
    def test_commands_that_make_files(self, arguments, made, avtools):
        row, after = self.over(avtools, made, *arguments, more=["-d", "out"])
        assert {c: after[c] for c in self.ROW} == self.ROW
        moved = arguments[0] in ("resample", "trim")
        assert after["audio_path"] == ("out/a.wav" if moved else row["audio_path"])
        assert not (avtools.folder / "placeholder.mp4").exists() and not (avtools.folder / "out/placeholder.mp4").exists()

    @pytest.mark.parametrize("arguments", [["probe"], ["probe", "--check"], ["mkmeta", "dummy-video"], ["mkmeta", "merge"]])
    def test_commands_that_make_none(self, arguments, made, avtools):
        row, after = self.over(avtools, made, *arguments)
        assert {c: after[c] for c in row} == row
        if arguments[0] == "probe":
            assert after["audio_fps"] == "16000"

    def test_probe_does_not_read_what_it_does_not_need(self, made, avtools):
        text = f"path,audio_path,duration\nplaceholder.mp4,{made}/s16.wav,unknown\n"
        assert table(avtools("probe", input=text).stdout)[0]["duration"] == "unknown"

    def test_mux_says_so(self, made, avtools):
        done = avtools("mux", "-d", "out", input=f"path,audio_path\nplaceholder.mp4,{made}/s16.wav\n", status=1)
        assert "s16.wav" in done.stderr and "no picture" in done.stderr


class TestPathsAndKeys:
    @pytest.mark.parametrize("arguments", [["trim", "--end", "1"], ["resample", "--rate", "8000"], ["resample", "--rate", "16000"]])
    def test_absolute(self, arguments, made, avtools):
        (avtools.folder / "a.wav").write_bytes((made / "s16.wav").read_bytes())
        assert table(avtools(*arguments, "a.wav", "-d", "x/../out").stdout)[0]["audio_path"] == "x/../out/a.wav"
        assert table(avtools(*arguments, "a.wav", "-d", "out", "--absolute").stdout)[0]["audio_path"] == f"{avtools.folder}/out/a.wav"

    def test_absolute_covers_what_is_left_in_its_place(self, made, avtools):
        (avtools.folder / "a.wav").write_bytes((made / "s16.wav").read_bytes())
        line = ["resample", "--rate", "16000", "a.wav", "--absolute"]
        assert table(avtools(*line, "-d", "out", "--no-copy").stdout)[0]["audio_path"] == f"{avtools.folder}/a.wav"
        assert table(avtools(*line, "--in-place").stdout)[0]["audio_path"] == f"{avtools.folder}/a.wav"

    def test_extract_audio_absolute(self, made, avtools):
        (row,) = table(avtools("extract-audio", "--rate", "8000", made / "plain.mp4", "-d", "out", "--absolute").stdout)
        assert row["audio_path"] == f"{avtools.folder}/out/plain.wav"

    def test_key(self, avtools):
        """The draws of `split` come from the key alone."""
        rows = [("a.mp4", "1", "x"), ("b.mp4", "1", "y"), ("c.mp4", "2", "x"), ("d.mp4", "3", "x"), ("e.mp4", "4", "x")]
        text = "relpath,speaker,id\n" + "".join(",".join(row) + "\n" for row in rows)

        def split(*more, text=text):
            return [row["split"] for row in table(avtools("mkmeta", "split", "--ratio", "a=0.5,b=0.5", *more, input=text).stdout)]

        by_relpath = split()
        assert split("--key", "relpath") == by_relpath
        assert split(text=text.replace("relpath", "id", 1).replace(",id", ",other", 1)) == by_relpath  # the id counts next
        speakers = split("--key", "speaker")
        assert speakers[0] == speakers[1] and speakers == split("--by", "speaker")
        assert split("--key", "id")[0] == split("--key", "id")[2]
        assert len({tuple(split("--seed", str(k))) for k in range(6)}) > 1

    def test_key_that_is_not_there(self, avtools):
        done = avtools("mkmeta", "split", "--ratio", "a=1", "--key", "nothing", input="id\nx\n", status=None)
        assert done.returncode in (1, 2) and "nothing" in done.stderr and "unexpected" not in done.stderr
