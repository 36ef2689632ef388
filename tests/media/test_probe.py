"""Probing against what a decoder shows, and against ffprobe where it is installed."""

import json
import os
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))
import fixtures as fx  # noqa: E402

from avtools.errors import MediaError  # noqa: E402
from avtools.media import skim  # noqa: E402
from avtools.media.container import (  # noqa: E402
    best_audio,
    best_video,
    check_picture_size,
    check_sound_size,
    media_errors,
    open_input,
    open_output,
    show,
)
from avtools.media.probe import (  # noqa: E402
    SOUND_COLUMNS,
    VIDEO_COLUMNS,
    probe,
    probe_sound,
    read_back,
    scan,
    sound_columns,
    video_columns,
)

F = Fraction
MEDIA = os.environ.get("AVTOOLS_MEDIA")
CLIPS = sorted(p for p in Path(MEDIA).rglob("*") if p.suffix not in (".md", "")) if MEDIA else []
needs_media = pytest.mark.skipif(not MEDIA, reason="AVTOOLS_MEDIA is not set")


def decode(path):
    """What a decoder shows: ([(time, length)], [(time, samples)], rate), all of it."""
    frames, heard, rate = [], [], None
    with av.open("file:" + str(path)) as container:
        video, audio = container.streams.best("video"), container.streams.best("audio")
        wanted = [s for s in (video, audio) if s is not None]
        for packet in container.demux(wanted):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in decoded:
                time_ = None if frame.pts is None else frame.pts * frame.time_base
                if packet.stream is video:
                    frames.append((time_, (frame.duration or 0) * frame.time_base))
                else:
                    heard.append((time_, frame.samples))
                    rate = frame.sample_rate
    return frames, heard, rate


def agrees(path, exact_end=True):
    """Assert that probing `path` equals decoding it."""
    info, (frames, heard, rate) = probe(path), decode(path)
    if info.picture is None:
        assert not frames
    else:
        assert info.picture.num_frames == len(frames)
        if frames[0][0] is not None and not info.picture.is_image:
            assert info.picture.start == frames[0][0]
            if exact_end:
                assert info.picture.duration == frames[-1][0] + frames[-1][1] - frames[0][0]
    if info.sound is None:
        assert not heard
    else:
        assert info.sound.rate == rate
        assert info.sound.duration == F(sum(n for _, n in heard), rate)
        assert info.sound.start == heard[0][0]
    return info


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    sound = {"seconds": 2}
    return {
        "plain": fx.make(folder / "plain.mp4", fx.even(30), sound=sound),
        "bframes": fx.make(folder / "b.mp4", fx.even(30), bframes=2, sound=sound),
        "vfr": fx.make(folder / "vfr.mp4", fx.vfr(30), bframes=2, sound=sound),
        "late_sound": fx.make(folder / "late.mp4", fx.even(30), sound={"start": F(1, 2)}),
        "late_picture": fx.make(folder / "latep.mp4", fx.even(30, start=F(1, 2)), bframes=2, sound=sound),
        "mkv": fx.make(folder / "a.mkv", fx.even(30, start=F(1, 2)), sound=sound),
        "ts": fx.make(folder / "a.ts", fx.even(30), bframes=2, sound=sound),
        "webm": fx.make(folder / "a.webm", fx.even(30), codec="libvpx", sound={"codec": "libopus", "seconds": 2}),
        "vp9": fx.make(folder / "9.webm", fx.even(30), codec="libvpx-vp9", sound={"codec": "libopus"}),
        "pcm": fx.make(folder / "a.mov", fx.even(30), sound={"codec": "pcm_s16le", "layout": "stereo"}),
        "flac": fx.make(folder / "flac.mkv", fx.even(30), sound={"codec": "flac"}),
        "mp3": fx.make(folder / "a.avi", fx.even(30), base=F(1, 25), codec="mpeg4", sound={"codec": "mp3"}),
        "h264": fx.make(folder / "a.h264", fx.even(30), bframes=2),
        "odd": fx.make(folder / "odd.mp4", fx.even(10), size=(63, 47), pix_fmt="yuv444p"),
        "two": fx.make(folder / "two.mp4", fx.even(10), videos=2),
        "one": fx.make(folder / "one.mp4", fx.even(1)),
        "sound_only": fx.make(folder / "sound.mp4", [], sound=sound),
        "noise": fx.moov_first(
            fx.make(folder / "noise.mp4", fx.even(60), size=(160, 120), noise=True, crf=30, sound={"seconds": 3}),
            folder / "first.mp4",
        ),
    }


@pytest.mark.parametrize("path", CLIPS, ids=lambda p: p.name)
def test_every_test_file_is_measured_as_it_decodes(path):
    info = agrees(path)
    if info.sound:
        assert probe_sound(path) == info.sound
    assert probe(path, check=True) == info  # whole files: no spans, same figures
    assert set(video_columns(info)) == set(VIDEO_COLUMNS)


@needs_media
def test_known_facts():
    def cells(name):
        return video_columns(probe(next(p for p in CLIPS if p.name == name)))

    clip = cells("0Bp8c3PfAAA_000053.mp4")
    assert clip["num_frames"] == 300 and clip["duration"] == 10.0
    clip = cells("0DCit2EBtjs_000030.mp4")
    assert clip["av_offset"] == pytest.approx(0.03823, abs=1e-5)
    clip = cells("nasa_13013_rotated.mp4")
    assert (clip["height"], clip["width"], clip["fps"]) == (480, 270, 30000 / 1001)
    assert clip["aspect_ratio"] == 480 / 270 and clip["resolution"] == 480 * 270
    assert clip["audio_fps"] is None and clip["av_offset"] is None
    assert cells("discard_first_keyframe.mp4")["num_frames"] == 25
    image = cells("lion_and_gun.png")
    assert image["num_frames"] == 1 and image["fps"] is None and image["duration"] is None


@needs_media
@pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed")
@pytest.mark.parametrize("path", [p for p in CLIPS if p.suffix in (".mp4", ".webm")], ids=lambda p: p.name)
def test_ffprobe_counts_the_same_frames(path):
    said = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", str(_video_index(path)), "-count_frames", "-show_entries",
         "stream=nb_read_frames,avg_frame_rate", "-of", "json", "file:" + str(path)],
        capture_output=True, check=True,
    )  # fmt: skip
    stream = json.loads(said.stdout)["streams"][0]
    picture = probe(path).picture
    assert picture.num_frames == int(stream["nb_read_frames"])
    assert picture.fps == F(stream["avg_frame_rate"])


def _video_index(path):
    with open_input(path) as container:
        return best_video(container).index


@pytest.mark.parametrize(
    "name", "plain bframes vfr late_sound late_picture mkv ts webm vp9 pcm flac mp3 h264 odd two one sound_only".split()
)
def test_made_media_are_measured_as_they_decode(made, name):
    info = agrees(made[name], exact_end=name not in ("h264", "mp3", "ts"))  # the last frames of these have no length
    assert probe(made[name], check=True).spans is None
    if info.picture and name not in ("odd", "two", "one"):
        assert info.picture.num_frames == 30
    read_back(made[name])


def test_offsets_have_the_right_sign(made):
    assert video_columns(probe(made["late_picture"]))["av_offset"] == pytest.approx(-0.5, abs=0.001)
    assert video_columns(probe(made["late_sound"]))["av_offset"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("counterclockwise", "clockwise"), [(90, 270), (180, 180), (-90, 90), (270, 90)])
def test_rotation(tmp_path, suffix, counterclockwise, clockwise):
    picture = probe(fx.make(tmp_path / ("r" + suffix), fx.even(3), rotation=counterclockwise)).picture
    assert picture.rotation == clockwise
    assert (picture.width, picture.height) == ((64, 48) if clockwise == 180 else (48, 64))


def test_cover_art_is_no_video(made, tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=48000)
        sound.codec_context.layout = "mono"
        cover = out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        for frame in fx.tone(seconds=1):
            out.mux(sound.encode(frame))
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        out.mux(cover.encode(None))
        out.mux(sound.encode(None))
    info = probe(path)
    assert info.picture is None and info.sound is not None
    assert video_columns(info)["num_frames"] is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_images(tmp_path, suffix):
    codec = {"png": "png", "jpg": "mjpeg", "bmp": "bmp", "webp": "libwebp"}[suffix]
    fmt = {"png": "rgb24", "jpg": "yuvj420p", "bmp": "bgr24", "webp": "yuv420p"}[suffix]
    path = tmp_path / f"a%03d*.{suffix}"  # neither a pattern nor a glob
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.time_base = 40, 20, fmt, F(1, 25)
    frame = av.VideoFrame.from_ndarray(np.full((20, 40, 3), 90, np.uint8)).reformat(format=fmt)
    frame.pts, frame.time_base = 0, F(1, 25)
    path.write_bytes(b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)]))
    picture = probe(path).picture
    assert (picture.num_frames, picture.width, picture.height) == (1, 40, 20)
    assert picture.is_image and picture.fps is None and picture.duration is None
    assert probe(path, check=True).spans is None


@pytest.mark.parametrize(
    "name", ["-a.mp4", "http:x.mp4", "a%20b#c?d.mp4", "a\nb.mp4", "é 漢字.mp4", "concat:a|b.mp4", "%03d.mp4", b"\xff\xfe.mp4"]
)
def test_odd_names(made, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(name)
    shutil.copy(made["plain"], name)
    assert probe(name).picture.num_frames == 30
    assert probe_sound(name).rate == 48000
    soundfile.write("-.wav", np.zeros(100), 8000)
    assert probe_sound("-.wav").duration == F(1, 80)


def test_a_playlist_in_disguise_opens_nothing(made, tmp_path):
    shutil.copy(made["ts"], tmp_path / "real.ts")
    playlist = tmp_path / "clip.mp4"
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{tmp_path}/real.ts\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {tmp_path}/real.ts\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n",
    ):
        playlist.write_text(text)
        with pytest.raises(MediaError, match="clip.mp4: no readable media"):
            probe(playlist)


def test_what_is_no_media_is_said_in_one_line(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    for name, words in {
        "none.mp4": "no such file", "empty.mp4": "is empty", ".": "is a directory",
        "text.mp4": "no readable media", "noise.mp4": "no readable media",
    }.items():  # fmt: skip
        for function in (probe, probe_sound):
            with pytest.raises(MediaError) as caught:
                function(tmp_path / name)
            assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="cannot be opened"):
        probe("a\0b.mp4")
    assert show("a\nb") == "a\\nb"


def test_absurd_headers_are_refused(tmp_path, made):
    with open_input(made["plain"]) as container:
        for size in ((1 << 16, 10), (10, 1 << 16), (30000, 30000), (0, 10)):
            with pytest.raises(MediaError, match="pixels"):
                check_picture_size(container, *size)
        check_picture_size(container, 16384, 16384)
        for rate, channels in ((0, 1), (1 << 40, 1), (48000, 5000)):
            with pytest.raises(MediaError, match="channels"):
                check_sound_size(container, rate, channels)
    # A PNG that claims a gigapixel.
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    body = b"IDAT" + zlib.compress(b"\0" * 1000)
    path = tmp_path / "huge.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    )
    with pytest.raises(MediaError):
        probe(path)


def test_sound_files(tmp_path, made):
    for name, subtype in (("a.wav", "PCM_16"), ("b.wav", "PCM_24"), ("c.wav", "FLOAT"), ("d.flac", "PCM_16"), ("e.aiff", "PCM_16")):
        soundfile.write(tmp_path / name, np.zeros((12345, 2)), 44100, subtype=subtype)
        sound = probe_sound(tmp_path / name)
        assert (sound.rate, sound.channels, sound.duration, sound.lossless) == (44100, 2, F(12345, 44100), True)
        assert sound_columns(sound) == dict(zip(SOUND_COLUMNS, (44100, 2, 12345 / 44100), strict=True))
        full = agrees(tmp_path / name).sound
        assert full == sound
    soundfile.write(tmp_path / "nothing.wav", np.zeros((0, 1)), 8000)
    assert probe_sound(tmp_path / "nothing.wav").duration == 0
    soundfile.write(tmp_path / "mu.wav", np.zeros(800), 8000, subtype="ULAW")
    assert not probe_sound(tmp_path / "mu.wav").lossless
    soundfile.write(tmp_path / "v.ogg", np.zeros(8000), 8000)
    agrees(tmp_path / "v.ogg")
    shutil.copy(tmp_path / "d.flac", tmp_path / "wrong.wav")
    assert probe_sound(tmp_path / "wrong.wav").codec == "flac"
    assert probe_sound(made["plain"]).rate == 48000
    with pytest.raises(MediaError, match="no sound"):
        probe_sound(made["one"])


def test_a_truncated_flac_is_measured_not_believed(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 200000)
    soundfile.write(tmp_path / "a.flac", noise, 48000)
    cut = fx.truncate(tmp_path / "a.flac", 0.5, tmp_path / "cut.flac")
    assert 0 < probe_sound(cut).duration < F(3)


def test_a_gap_in_the_sound_counts_as_silence(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("pcm_s16le", rate=8000)
        sound.codec_context.layout = "mono"
        for start in (0, 2):
            for frame in fx.tone(start=start, seconds=1, rate=8000):
                out.mux(sound.encode(frame))
    assert probe(path).sound.duration == 3


def test_truncated_clips_end_where_they_end(made, tmp_path):
    cut = fx.truncate(made["noise"], 0.5, tmp_path / "cut.mp4")
    info = probe(cut, check=True)
    assert 20 < info.picture.num_frames < 40
    ((start, end),) = info.spans
    assert start == 0 and end == pytest.approx(float(min(info.picture.duration, info.sound.duration)), abs=0.05)
    agrees(cut)
    with pytest.raises(MediaError, match="read back"):
        read_back(cut)


def test_bit_flips_leave_several_spans(made, tmp_path):
    whole = probe(made["noise"])
    hurt = probe(fx.flip_bits(made["noise"], tmp_path / "hurt.mp4", [0.35, 0.7], width=200), check=True)
    assert len(hurt.spans) >= 2
    assert all(0 <= a < b <= float(whole.sound.duration) for a, b in hurt.spans)
    assert all(b <= c for (_, b), (c, _) in zip(hurt.spans, hurt.spans[1:], strict=False))
    # What the spans promise decodes to the same pictures as the whole file.
    good = _pictures(made["noise"])
    seen = _pictures(tmp_path / "hurt.mp4")
    inside = [t for t in good if any(a <= t < b - 0.04 for a, b in hurt.spans)]
    assert inside and all((seen[t] == good[t]).all() for t in inside if t in seen)


def _pictures(path):
    from avtools.media.video import shown_frames

    with open_input(path) as container:
        return {float(t): f.to_ndarray(format="gray") for t, f in shown_frames(container, best_video(container))}


def test_damage_never_hangs_or_crashes(made, tmp_path):
    began = time.monotonic()
    for seed in range(12):
        places = np.random.default_rng(seed).uniform(0, 0.99, 4)
        hurt = fx.flip_bits(made[("noise", "ts", "webm", "mkv")[seed % 4]], tmp_path / f"{seed}.bin", places, seed)
        for check in (False, True):
            try:
                probe(hurt, check=check)
            except MediaError as error:
                assert "\n" not in str(error)
    assert time.monotonic() - began < 30


def test_probing_is_fast(made):
    probe(made["plain"])
    best = min(_timed(made["plain"]) for _ in range(5))
    assert best < 0.05  # about 2 ms; the slack is for a busy machine


def _timed(path):
    began = time.perf_counter()
    probe(path)
    return time.perf_counter() - began


def test_best_streams(made):
    with open_input(made["two"]) as container:
        assert best_video(container).index == 0 and best_audio(container) is None
        assert best_video(container).codec_context.thread_count == 1


def test_the_outputs_disk_is_not_the_inputs_fault(made):
    with pytest.raises(OSError, match="space") as caught:
        with media_errors("in.mp4", "out.mp4"):
            raise OSError(28, "No space left on device")
    assert caught.value.filename == "out.mp4"
    with pytest.raises(MediaError):
        with media_errors("in.mp4", "out.mp4"):
            raise OSError(5, "Input/output error")
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError):
            with open_output("/dev/full", ".mkv") as out:
                stream = out.add_stream("pcm_s16le", rate=8000)
                for frame in fx.tone(rate=8000):
                    out.mux(stream.encode(frame))


# --- opening without decoding -----------------------------------------------------------------------------


def both_ways(path):
    found = []
    for demux_only in (False, True):
        with open_input(path, demux_only=demux_only) as container:
            info, timeline = scan(container)
            found.append((info, timeline and list(timeline.ticks)))
    return found


def skims(path):
    with av.open("file:" + str(path), options=skim.STREAM_OPTIONS, container_options=skim.CONTAINER_OPTIONS) as container:
        return skim.header_tells_all(container)


@pytest.mark.parametrize(
    ("plain", "made"),
    [
        (True, {"sound": {"rate": 48000, "layout": "stereo"}}),
        (True, {"sound": None, "size": (62, 46), "bframes": 2}),
        (True, {"sound": None, "size": (63, 47), "pix_fmt": "yuv444p", "rotation": 90}),
        (True, {"sound": {"rate": 44100, "start": F(1, 3)}, "size": (66, 50), "pix_fmt": "yuv422p10le"}),
        (False, {"sound": {"rate": 22050}}),  # might be half of the true rate
        (False, {"sound": {"rate": 48000, "codec": "ac3"}}),
        (False, {"sound": None, "videos": 2}),
        (False, {"sound": None, "codec": "libx265"}),
    ],
)
def test_headers_that_tell_all(tmp_path, plain, made):
    path = fx.make(tmp_path / "a.mp4", fx.vfr(40), **made)
    assert skims(path) == plain
    one, other = both_ways(path)
    assert one == other


@pytest.mark.parametrize("path", [p for p in CLIPS if p.suffix == ".mp4"], ids=lambda p: p.name)
def test_real_headers(path):
    one, other = both_ways(path)
    assert one == other


def test_a_header_that_disagrees_with_the_stream_is_not_believed(tmp_path):
    path = Path(fx.make(tmp_path / "a.mp4", fx.even(5), size=(64, 48)))
    data = path.read_bytes()
    at = data.index(b"avc1", data.index(b"stsd")) + 28  # width and height in the sample entry
    assert data[at : at + 4] == bytes((0, 64, 0, 48))
    path.write_bytes(data[:at] + bytes((0, 32, 0, 32)) + data[at + 4 :])
    assert not skims(path)
    one, other = both_ways(path)
    assert one == other


@pytest.mark.parametrize("record", [None, b"", b"\1" * 8, b"\1\x64\0\x1f\xff\xe1\0\x08\x67\x64", b"\1\x64\0\x1f\xff\xe1\xff\xff\x67" + bytes(40)])
def test_damaged_configuration_records(record):
    assert skim.h264_size(record) is None
