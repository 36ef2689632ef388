"""Sound: sample-exact cutting, resampling and extraction, on real files made here or found in $AVTOOLS_MEDIA."""

import errno
import os
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from avtools.errors import MediaError
from avtools.media import sound as snd
from avtools.media import soundfiles
from avtools.media.probe import probe

MEDIA = Path(os.environ["AVTOOLS_MEDIA"]) if os.environ.get("AVTOOLS_MEDIA") else None
needs_media = pytest.mark.skipif(MEDIA is None, reason="AVTOOLS_MEDIA is not set")
CLIPS = ["-26aVYRtEAc_000030", "0B4dYTMsgHA_000130", "0Bp8c3PfAAA_000053", "0DCit2EBtjs_000030"]
LOSSLESS = [(".wav", f) for f in ("u8", "s16", "s24", "s32", "f32", "f64")] + [
    (".flac", "s16"), (".flac", "s24"), (".aiff", "s16"), (".aiff", "s24"), (".caf", "s32"), (".caf", "f32"), (".w64", "f64"),
    (".w64", "u8"), (".aiff", "u8"),
]  # fmt: skip


def noise(frames, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (frames, channels))


def sine(hz, rate, seconds, level=0.5):
    return level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def put(path, samples, rate, sample_format="s16", suffix=None):
    """Write `samples` with our own writer; return the path."""
    samples = np.asarray(samples)
    samples = samples[:, None] if samples.ndim == 1 else samples
    suffix = suffix or Path(path).suffix
    with snd.write_sound(path, suffix, rate, samples.shape[1], sample_format, frames=len(samples)) as write:
        write(samples)
    return path


def get(path, dtype="float64"):
    samples, rate = soundfile.read(path, dtype=dtype, always_2d=True)
    return samples


def decibels(error):
    return 20 * np.log10(np.abs(error).max() + 1e-20)


# --- clips made here ------------------------------------------------------------------------------------


def make_clip(path, frame_times, pieces, rate=48000, codec="pcm_s16le", channels=1, container=None):
    """Write a clip: frames at `frame_times` (ms), and `pieces` of sound [(first sample, int16 array)] on one clock."""
    with av.open(str(path), "w", format=container) as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        video.codec_context.max_b_frames = 0
        audio = out.add_stream(codec, rate=rate, layout="mono" if channels == 1 else "stereo")
        packets = []
        for k, time in enumerate(frame_times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * (k % 5), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        for first, samples in pieces:
            samples = np.asarray(samples, np.int16)
            for at in range(0, len(samples), 1024):
                part = samples[at : at + 1024]
                frame = av.AudioFrame.from_ndarray(np.repeat(part[None], channels, 1), format="s16", layout=audio.layout.name)
                frame.sample_rate, frame.pts, frame.time_base = rate, first + at, Fraction(1, rate)
                packets += audio.encode(frame)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def click(frames, at, level=20000):
    samples = np.zeros(frames, np.int16)
    samples[at] = level
    return samples


def reference(path, rate):
    """Extract slowly and plainly: all frames, all sound, one explicit timeline, one call of soxr (float64)."""
    with av.open(f"file:{path}") as container:
        frames = [(f.pts * f.time_base, (f.duration or 0) * f.time_base) for f in container.decode(video=0)]
    zero, last, length = frames[0][0], *frames[-1]
    with av.open(f"file:{path}") as container:
        parts = [(f.pts * f.time_base, f.to_ndarray().astype(np.float64), f) for f in container.decode(container.streams.best("audio"))]
    source = parts[0][2].sample_rate
    scale = 32768 if parts[0][2].format.name.startswith("s16") else 1
    step = Fraction(rate, source)
    lead, seconds = 20 * step.denominator, last + length - zero
    line = np.zeros(lead + int((seconds + 2) * source))
    at = round((parts[0][0] - zero) * source)
    clock = parts[0][0]
    for time, samples, frame in parts:
        if not frame.format.is_planar:
            samples = samples.reshape(-1, frame.layout.nb_channels).T
        if time - clock >= Fraction(1, 20):
            at += round((time - clock) * source)
            clock = time
        mono = samples.mean(axis=0) / scale
        low, high = max(0, lead + at), min(len(line), lead + at + len(mono))
        if high > low:
            line[low:high] = mono[low - lead - at : high - lead - at]
        at += len(mono)
        clock += Fraction(len(mono), source)
    count = round(seconds * rate)
    return soxr.resample(line, source, rate, quality="VHQ")[20 * step.numerator :][:count]


# --- writing and cutting keep every bit -----------------------------------------------------------------


@pytest.mark.parametrize("suffix, form", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 2])
def test_cut_is_the_slice_bit_for_bit(tmp_path, suffix, form, channels):
    source = put(tmp_path / f"a{suffix}", noise(100_003, channels), 44100, form)
    assert snd.sound_format(source).sample_format == form
    whole = get(source)
    made = snd.cut_file(source, tmp_path / "b.tmp", Fraction(1, 3), Fraction(3, 2))
    assert made == snd.SoundFormat(suffix, form, 44100, channels, 66150 - 14700, True)
    assert soundfile.info(tmp_path / "b.tmp").subtype == soundfile.info(source).subtype
    np.testing.assert_array_equal(get(tmp_path / "b.tmp"), whole[14700:66150])


@pytest.mark.parametrize("form, dtype, bits", [("u8", "int16", 8), ("s16", "int16", 16), ("s24", "int32", 24), ("s32", "int32", 32)])
def test_files_of_others_are_cut_bit_for_bit(tmp_path, form, dtype, bits):
    """Written by libsndfile, read back by libsndfile: our WAV writer and reader agree with it on integers."""
    whole = np.random.default_rng(1).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (5001, 3))
    whole = (whole << (np.dtype(dtype).itemsize * 8 - bits)).astype(dtype)
    subtype = {"u8": "PCM_U8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32"}[form]
    soundfile.write(tmp_path / "a.wav", whole, 8000, subtype=subtype)
    snd.cut_file(tmp_path / "a.wav", tmp_path / "b.tmp", Fraction(1, 8000), Fraction(1, 2))
    np.testing.assert_array_equal(get(tmp_path / "b.tmp", dtype), whole[1:4000])
    assert soundfile.info(tmp_path / "b.tmp").format == "WAVEX"


def test_cut_bounds_are_exact_fractions(tmp_path):
    source = put(tmp_path / "a.wav", noise(1000), 100)
    for start, end, first, last in [
        (Fraction(1, 100), Fraction(2, 100), 1, 2), (Fraction(1, 1000), Fraction(21, 1000), 1, 3),
        (Fraction(99999, 10_000_000), None, 1, 1000), (None, Fraction(100001, 10_000_000), 0, 2), (-5, 100, 0, 1000),
    ]:  # fmt: skip
        snd.cut_file(source, tmp_path / "b.tmp", start, end)
        np.testing.assert_array_equal(get(tmp_path / "b.tmp"), get(source)[first:last])


@pytest.mark.parametrize("start, end", [(10, None), (11, 12), (3, 3), (4, 3), (None, 0), (Fraction(101, 10000), Fraction(102, 10000))])
def test_cut_of_nothing_is_an_error(tmp_path, start, end):
    source = put(tmp_path / "a.wav", noise(1000), 100)
    with pytest.raises(MediaError, match="nothing of it lies"):
        snd.cut_file(source, tmp_path / "b.tmp", start, end)


def test_float_beyond_full_scale_and_nan_survive_a_cut(tmp_path):
    values = np.array([[2.5], [-7.0], [np.nan], [np.inf], [1e-40]], np.float32)
    soundfile.write(tmp_path / "a.wav", values, 8000, subtype="FLOAT")
    snd.cut_file(tmp_path / "a.wav", tmp_path / "b.tmp", 0, 1)
    assert get(tmp_path / "b.tmp", "float32").tobytes() == values.tobytes()


def test_sixteen_channels_and_speakers_survive(tmp_path):
    source = put(tmp_path / "a.wav", noise(500, 16), 16000)
    snd.cut_file(source, tmp_path / "b.tmp", Fraction(1, 100))
    np.testing.assert_array_equal(get(tmp_path / "b.tmp"), get(source)[160:])
    soundfile.write(tmp_path / "c.wav", noise(500, 6), 16000, format="WAVEX")
    snd.cut_file(tmp_path / "c.wav", tmp_path / "d.wav", 0, 1)
    snd.resample_file(tmp_path / "c.wav", tmp_path / "e.wav", 8000)
    for path in ("d.wav", "e.wav"):
        with snd.open_sound(tmp_path / path) as sound:
            assert sound.layout == "5.1"


@needs_media
@pytest.mark.parametrize("name, form", [("sine_16ch_s16.wav", "s16"), ("sine_mono_s24.wav", "s24"), ("reproduce_seek_bug.wav", "s24")])
def test_odd_files_are_cut_bit_for_bit(tmp_path, name, form):
    source = MEDIA / "odd" / name
    made = snd.cut_file(source, tmp_path / "b.tmp", Fraction(1, 10), Fraction(1, 2))
    assert made.sample_format == form
    rate = made.rate
    np.testing.assert_array_equal(get(tmp_path / "b.tmp", "int32"), get(source, "int32")[rate // 10 : rate // 2])


def test_wav_is_plain_and_readable_by_others(tmp_path):
    for form in soundfiles.SAMPLE_FORMATS:
        put(tmp_path / "a.wav", noise(101), 8000, form)
        data = (tmp_path / "a.wav").read_bytes()
        assert len(data) % 2 == 0 and struct.unpack("<I", data[4:8])[0] == len(data) - 8
        with av.open(str(tmp_path / "a.wav")) as container:
            assert sum(f.samples for f in container.decode(audio=0)) == 101


def test_equal_sounds_are_equal_files(tmp_path):
    for suffix, form in LOSSLESS:
        one, two = (put(tmp_path / f"{n}{suffix}", noise(1000), 8000, form).read_bytes() for n in "ab")
        assert one == two and b"PEAK" not in one


def test_more_than_4_gib_becomes_rf64(tmp_path):
    """The sizes alone are tested; the sound itself would be 4 GiB of nothing."""
    guard = soundfiles._Guard(open(tmp_path / "a.wav", "w+b"), tmp_path / "a.wav")
    wav = soundfiles._Wav(guard, 48000, 2, "s16", None, None)
    wav.write(np.ones((1000, 2), np.int16))
    small = wav._header()
    wav.data = 5 << 30
    large = wav._header()
    wav.close()
    guard.file.truncate(len(large) + wav.data)  # sparse
    guard.close()
    assert len(small) == len(large) and small[:4] == b"RIFF" and large[:4] == b"RF64"
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.format, info.frames) == ("RF64", (5 << 30) // 4)
    made = snd.cut_file(tmp_path / "a.wav", tmp_path / "b.wav", 0, Fraction(1, 48))
    assert made.frames == 1000 and get(tmp_path / "b.wav").min() == 1 / 32768


# --- lossy sources and targets --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """One second of a tone that starts at 0.3 s, in every lossy kind."""
    folder = tmp_path_factory.mktemp("lossy")
    samples = sine(1000, 48000, 1)
    samples[:14400] = 0
    return {s: put(folder / f"a{s}", samples, 48000, suffix=s) for s in (".mp3", ".m4a", ".aac", ".ogg", ".opus")}


@pytest.mark.parametrize("suffix", [".mp3", ".m4a", ".aac", ".ogg", ".opus"])
def test_lossy_becomes_16_bit_wav_in_place(tmp_path, lossy, suffix):
    form = snd.sound_format(lossy[suffix])
    assert (form.lossless, form.sample_format, form.rate, form.channels) == (False, None, 48000, 1)
    assert snd.output_suffix(form) == ".wav"
    whole, _ = snd.read_sound(lossy[suffix])
    late = 1024 if suffix == ".aac" else 0  # ADTS cannot say how much of its beginning is padding
    onset = np.flatnonzero(np.abs(whole[:, 0]) > 0.1)[0]
    assert abs(onset - 14400 - late) < 200
    made = snd.cut_file(lossy[suffix], tmp_path / "b.tmp", Fraction(1, 4), Fraction(1, 2))
    assert (made.sample_format, made.frames) == ("s16", 12000)
    assert decibels(get(tmp_path / "b.tmp") - whole[12000:24000]) < -90
    made = snd.resample_file(lossy[suffix], tmp_path / "c.tmp", 16000, 1)
    assert made.frames == len(get(tmp_path / "c.tmp")) == round(Fraction(len(whole), 3))
    assert soundfile.info(tmp_path / "c.tmp").subtype == "PCM_16"
    assert (tmp_path / "c.tmp").stat().st_size == 44 + 2 * made.frames  # the plainest header, which all can read


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus"])
def test_cut_to_another_kind(tmp_path, suffix):
    source = put(tmp_path / "a.wav", np.stack([sine(440, 44100, 3), sine(880, 44100, 3)], 1), 44100)
    made = snd.cut_file(source, tmp_path / "b.tmp", 1, 2, suffix)
    got, rate = snd.read_sound(tmp_path / "b.tmp")
    assert rate == made.rate == (48000 if suffix == ".opus" else 44100)
    assert abs(len(got) / rate - 1) < {".aac": 0.06, ".mp3": 0.06, ".m4a": 0.06, ".ogg": 0.005}.get(suffix, 0.001)
    assert made.lossless == (suffix == ".flac")
    spectrum = np.abs(np.fft.rfft(got[: rate // 2], axis=0))
    assert [int(k) * 2 for k in spectrum.argmax(axis=0)] == [440, 880]


def test_a_far_cut_of_m4a_seeks_and_stays_in_place(tmp_path):
    samples = 0.3 * noise(100 * 16000)[:, 0]
    samples = np.convolve(samples, np.ones(8) / 8, "same")
    source = put(tmp_path / "a.m4a", samples, 16000, suffix=".m4a")
    whole, _ = snd.read_sound(source)
    part, _ = snd.read_sound(source, 90, 91)
    assert part.shape == (16000, 1)
    assert np.corrcoef(part[:, 0], whole[90 * 16000 : 91 * 16000, 0])[0, 1] > 0.99


@pytest.mark.parametrize("suffix, codec, form", [(".m4a", "alac", "s16p"), (".wv", "wavpack", "s16p"), (".mkv", "flac", "s16")])
def test_lossless_of_other_kinds_keep_their_bits(tmp_path, suffix, codec, form):
    samples = np.random.default_rng(2).integers(-32768, 32768, 9000).astype(np.int16)
    with av.open(str(tmp_path / f"a{suffix}"), "w") as out:
        stream = out.add_stream(codec, rate=16000, layout="mono", format=form)
        frame = av.AudioFrame.from_ndarray(samples[None], format=form, layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    made = snd.cut_file(tmp_path / f"a{suffix}", tmp_path / "b.tmp", Fraction(1, 10), Fraction(1, 2))
    assert (made.container, made.sample_format) == (".wav", "s16")
    np.testing.assert_array_equal(get(tmp_path / "b.tmp", "int16")[:, 0], samples[1600:8000])


def test_what_a_kind_cannot_hold_is_said(tmp_path):
    for suffix, rate, channels, form in [
        (".flac", 48000, 9, "s16"), (".flac", 48000, 1, "f32"), (".opus", 44100, 1, None), (".mp3", 44100, 3, None),
        (".wma", 44100, 1, None), (".wav", 10**9, 1, None), (".wav", 8000, 1, "s20"),
    ]:  # fmt: skip
        with pytest.raises(MediaError), snd.write_sound(tmp_path / "a.tmp", suffix, rate, channels, form):
            pass


# --- resampling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_in, rate_out", [(44100, 16000), (48000, 16000), (16000, 44100), (44100, 48000), (8000, 11025)])
def test_a_tone_stays_the_same_tone(tmp_path, rate_in, rate_out):
    source = put(tmp_path / "a.wav", sine(1234.5, rate_in, 3), rate_in, "f64")
    made = snd.resample_file(source, tmp_path / "b.tmp", rate_out)
    got = get(tmp_path / "b.tmp")[:, 0]
    assert made == snd.SoundFormat(".wav", "f64", rate_out, 1, 3 * rate_out, True)
    middle = slice(rate_out // 5, -rate_out // 5)
    assert decibels((got - sine(1234.5, rate_out, 3))[middle]) < -120


def test_16_bit_is_as_good_as_16_bits_allow(tmp_path):
    source = put(tmp_path / "a.wav", sine(1000, 44100, 2), 44100)
    snd.resample_file(source, tmp_path / "b.tmp", 16000)
    error = (get(tmp_path / "b.tmp")[:, 0] - sine(1000, 16000, 2))[2000:-2000]
    assert np.sqrt((error**2).mean()) < 1.0 / 32768 / np.sqrt(6)  # two roundings


def test_no_alias(tmp_path):
    source = put(tmp_path / "a.wav", sine(9000, 44100, 2, 0.9), 44100, "f32")
    snd.resample_file(source, tmp_path / "b.tmp", 16000)
    assert decibels(get(tmp_path / "b.tmp")[1600:-1600]) < -100


@pytest.mark.parametrize("rate_in, rate_out", [(48000, 16000), (44100, 16000), (16000, 48000), (44100, 22050)])
def test_an_impulse_stays_where_it_is(tmp_path, rate_in, rate_out):
    step = Fraction(rate_out, rate_in)
    at = 100 * step.denominator
    samples = np.zeros(2 * at)
    samples[at] = 0.5
    source = put(tmp_path / "a.wav", samples, rate_in, "f64")
    snd.resample_file(source, tmp_path / "b.tmp", rate_out)
    got = get(tmp_path / "b.tmp")[:, 0]
    centre = 100 * step.numerator
    assert np.abs(got).argmax() == centre
    np.testing.assert_allclose(got[centre + 1 : centre + 50], got[centre - 49 : centre][::-1], atol=1e-9)


@pytest.mark.parametrize("frames", [0, 1, 2, 7, 1000, 44099, 44101, 200_001])
@pytest.mark.parametrize("rate_in, rate_out", [(44100, 16000), (16000, 44100), (44100, 44101)])
def test_lengths(tmp_path, frames, rate_in, rate_out):
    source = put(tmp_path / "a.wav", noise(frames), rate_in)
    made = snd.resample_file(source, tmp_path / "b.tmp", rate_out)
    assert made.frames == len(get(tmp_path / "b.tmp")) == round(Fraction(frames * rate_out, rate_in))


def test_chunks_do_not_show(tmp_path):
    samples = noise(500_000, 2)
    source = put(tmp_path / "a.wav", samples, 44100, "f64")
    snd.resample_file(source, tmp_path / "b.tmp", 16000)
    whole = soxr.resample(samples, 44100, 16000, quality="VHQ")
    got = get(tmp_path / "b.tmp")
    assert decibels(got[:-400] - whole[: len(got) - 400]) < -200


@pytest.mark.parametrize("suffix, form", LOSSLESS)
def test_the_sample_format_is_kept(tmp_path, suffix, form):
    source = put(tmp_path / f"a{suffix}", sine(1000, 48000, 1), 48000, form)
    made = snd.resample_file(source, tmp_path / "b.tmp", 16000)
    assert made.sample_format == form and snd.sound_format(tmp_path / "b.tmp") == made
    assert soundfile.info(tmp_path / "b.tmp").subtype == soundfile.info(source).subtype
    bits = {"u8": 8, "s16": 16, "s24": 24, "s32": 30, "f32": 23, "f64": 30}[form]
    error = get(tmp_path / "b.tmp")[1000:-1000, 0] - sine(1000, 16000, 1)[1000:-1000]
    assert np.abs(error).max() < 2 ** (2 - bits)


def test_the_same_rate_changes_nothing(tmp_path):
    for suffix, form in LOSSLESS:
        source = put(tmp_path / f"a{suffix}", noise(70_000, 2), 44100, form)
        snd.resample_file(source, tmp_path / "b.tmp", 44100)
        np.testing.assert_array_equal(get(tmp_path / "b.tmp"), get(source))


def test_loud_sound_clips_and_does_not_wrap(tmp_path):
    square = np.where(np.arange(44100) % 100 < 50, 1.0, -1.0)
    for form in ("u8", "s16", "s24", "s32"):
        source = put(tmp_path / "a.wav", square, 44100, form)
        snd.resample_file(source, tmp_path / "b.tmp", 48000)
        got = get(tmp_path / "b.tmp")[:, 0]
        ideal = soxr.resample(square, 44100, 48000, quality="VHQ")
        assert np.abs(got - np.clip(ideal, -1, 1))[500:-500].max() < 0.02


def test_not_a_number_becomes_silence_not_noise(tmp_path):
    values = sine(100, 8000, 1).astype(np.float32)
    values[4000] = np.nan
    soundfile.write(tmp_path / "a.wav", values, 8000, subtype="FLOAT")
    snd.resample_file(tmp_path / "a.wav", tmp_path / "b.tmp", 16000, sample_format="s16")
    assert np.abs(get(tmp_path / "b.tmp")[:, 0] - sine(100, 16000, 1))[100:-100].mean() < 0.01


def test_sample_formats_on_request(tmp_path):
    source = put(tmp_path / "a.wav", noise(1000), 8000, "f64")
    for form in soundfiles.SAMPLE_FORMATS:
        snd.resample_file(source, tmp_path / "b.tmp", 8000, sample_format=form)
        bits = soundfiles.BITS.get(form, 24)
        assert snd.sound_format(tmp_path / "b.tmp").sample_format == form
        assert np.abs(get(tmp_path / "b.tmp") - get(source)).max() <= 0.5001 * 2.0 ** (1 - bits)
    snd.resample_file(source, tmp_path / "c.tmp", 8000, suffix="flac")
    assert snd.sound_format(tmp_path / "c.tmp").sample_format == "s24"


# --- channels -------------------------------------------------------------------------------------------


def test_to_one_channel_is_the_mean(tmp_path):
    for channels in (2, 3, 6, 16):
        source = put(tmp_path / "a.wav", noise(3000, channels), 8000, "f64")
        snd.resample_file(source, tmp_path / "b.tmp", 8000, channels=1)
        np.testing.assert_allclose(get(tmp_path / "b.tmp")[:, 0], get(source).mean(axis=1), atol=1e-15)


def test_one_channel_is_repeated(tmp_path):
    source = put(tmp_path / "a.wav", noise(3000), 8000)
    snd.resample_file(source, tmp_path / "b.tmp", 8000, channels=3)
    np.testing.assert_array_equal(get(tmp_path / "b.tmp"), np.repeat(get(source), 3, axis=1))


def test_surround_to_stereo_is_the_standard_mix(tmp_path):
    samples = noise(4000, 6) * 0.5
    soundfile.write(tmp_path / "a.wav", samples, 48000, format="WAVEX", subtype="DOUBLE")
    snd.resample_file(tmp_path / "a.wav", tmp_path / "b.tmp", 48000, channels=2)
    left, right, centre, _, back_left, back_right = get(tmp_path / "a.wav").T
    half = np.sqrt(0.5)
    expected = np.stack([left + half * (centre + back_left), right + half * (centre + back_right)], 1) / (1 + 2 * half)
    np.testing.assert_allclose(get(tmp_path / "b.tmp"), expected, atol=1e-6)


def test_unknown_speakers_are_not_guessed(tmp_path):
    source = put(tmp_path / "a.wav", noise(100, 5), 48000)
    with pytest.raises(MediaError, match="--channels 1 or --channels keep"):
        snd.resample_file(source, tmp_path / "b.tmp", 16000, channels=2)
    snd.resample_file(source, tmp_path / "b.tmp", 16000, channels="keep")
    assert get(tmp_path / "b.tmp").shape[1] == 5
    with pytest.raises(MediaError, match="a.wav: FLAC cannot hold 5 channels at 700000 Hz"):
        snd.resample_file(source, tmp_path / "b.tmp", 700_000, suffix="flac")


def test_conforms():
    form = snd.SoundFormat(".wav", "s16", 16000, 1, 5, True)
    assert snd.conforms(form, 16000) and snd.conforms(form, 16000, 1, "s16") and snd.conforms(form, 16000, "keep", None)
    assert not snd.conforms(form, 8000) and not snd.conforms(form, 16000, 2) and not snd.conforms(form, 16000, 1, "s24")


# --- extraction -----------------------------------------------------------------------------------------


@needs_media
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize("name", CLIPS)
def test_extract_real_clips(tmp_path, name, rate):
    clip = MEDIA / "vggsound" / f"{name}.mp4"
    snd.extract_sound(clip, tmp_path / "b.tmp", rate)
    got, want = get(tmp_path / "b.tmp")[:, 0], np.clip(reference(clip, rate), -1, 32767 / 32768)
    assert len(got) == len(want) == 10 * rate
    assert np.abs(got - want).max() <= 0.501 / 32768
    assert soundfile.info(tmp_path / "b.tmp").subtype == "PCM_16"


@needs_media
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is the peer here")
@pytest.mark.parametrize("name, late", [*((name, 0) for name in CLIPS[:3]), (CLIPS[3], 1686)])
def test_extract_lies_where_a_peer_says(tmp_path, name, late):
    """FFmpeg's program drops an initial offset (`late` samples at 44.1 kHz); all else lies at the same samples."""
    clip = MEDIA / "vggsound" / f"{name}.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-i", f"file:{clip}", "-ac", "1", "-ar", "16000", tmp_path / "a.wav"], check=True)
    snd.extract_sound(clip, tmp_path / "b.tmp", 16000)
    shift = round(late * 16000 / 44100)
    got, want = get(tmp_path / "b.tmp")[shift:, 0], get(tmp_path / "a.wav")[: 160000 - shift, 0]
    assert not shift or np.abs(get(tmp_path / "b.tmp")[: shift - 100]).max() < 0.002
    common = min(len(got), len(want))
    lags = [np.dot(got[50 : common - 50], want[50 + lag : common - 50 + lag]) for lag in range(-5, 6)]
    assert np.argmax(lags) == 5
    assert np.corrcoef(got[:common], want[:common])[0, 1] > 0.98  # the two round an offset to different samples


@needs_media
@pytest.mark.parametrize("name", ["nasa_13013.mp4", "nasa_13013_rotated.mp4", "dj_video1.mp4", "discard_first_keyframe.mp4"])
def test_extract_odd_clips(tmp_path, name):
    clip = MEDIA / "odd" / name
    try:
        snd.extract_sound(clip, tmp_path / "b.tmp", 16000)
    except MediaError as error:
        with av.open(str(clip)) as container:
            assert not container.streams.audio and "has no sound" in str(error)
        return
    got, want = get(tmp_path / "b.tmp")[:, 0], reference(clip, 16000)
    assert len(got) == round(probe(clip).picture.duration * 16000)  # nasa's decoder misstates the last frame's length
    common = min(len(got), len(want))
    assert common > len(got) - 320 and np.abs(got[:common] - np.clip(want, -1, 1)[:common]).max() <= 1 / 32768


@pytest.mark.parametrize("rate", [48000, 16000, 44100])
@pytest.mark.parametrize("video_ms, sound_at", [(0, 0), (0, 9600), (500, 0), (500, 4800), (40, 96000), (3000, 0), (20_000, 0)])
def test_a_click_stays_on_its_frame(tmp_path, rate, video_ms, sound_at):
    """The click is 10000 samples into the sound, wherever picture and sound begin."""
    times = [video_ms + 40 * k for k in range(50)]
    clip = make_clip(tmp_path / "a.mov", times, [(sound_at, click(60_000, 10_000))])
    made = snd.extract_sound(clip, tmp_path / "b.tmp", rate)
    got = get(tmp_path / "b.tmp")[:, 0]
    assert len(got) == made.frames == 2 * rate
    want = round(((sound_at + 10_000) / 48000 - video_ms / 1000) * rate)
    if 0 <= want < len(got):
        assert abs(np.abs(got).argmax() - want) <= (0 if rate == 48000 else 1)
        assert np.abs(got).max() > 0.1
    else:
        assert not got.any()
    assert np.abs(got - reference(clip, rate)).max() <= 0.501 / 32768


@pytest.mark.parametrize("container", ["mov", "matroska"])
def test_gaps_and_variable_frame_rate(tmp_path, container):
    times = [0, 40, 55, 300, 310, 900, 1500, 1520, 1990]
    sound = np.random.default_rng(3).integers(-9000, 9000, 24000).astype(np.int16)
    pieces = [(0, sound), (24000 + 48, sound[:4800]), (48000, sound)]  # 1 ms of jitter, then a gap of 0.4 s
    clip = make_clip(tmp_path / f"a.{container}", times, pieces, container=container)
    snd.extract_sound(clip, tmp_path / "b.tmp", 48000)
    got = get(tmp_path / "b.tmp", "int16")[:, 0]
    start = reference(clip, 48000)
    assert np.abs(got - start * 32768).max() <= 0.5
    if container == "matroska":
        np.testing.assert_array_equal(got[:28800], np.concatenate([sound, sound[:4800]]))
        assert not got[28800:48000].any()
        np.testing.assert_array_equal(got[48000:72000], sound)


def test_extract_flac_stereo_keep(tmp_path):
    clip = make_clip(tmp_path / "a.mov", range(0, 1000, 40), [(0, click(48000, 100))], channels=2)
    made = snd.extract_sound(clip, tmp_path / "b.tmp", 16000, "keep", ".flac", "s24")
    assert soundfile.info(tmp_path / "b.tmp").subtype == "PCM_24" and made.channels == 2
    assert get(tmp_path / "b.tmp").shape == (16000, 2)


def test_no_sound_no_picture(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for k in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = k
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with pytest.raises(MediaError, match="has no sound"):
        snd.extract_sound(tmp_path / "a.mp4", tmp_path / "b.tmp", 16000)
    with pytest.raises(MediaError, match="has no sound"):
        snd.sound_format(tmp_path / "a.mp4")
    put(tmp_path / "c.wav", noise(100), 8000)
    with pytest.raises(MediaError, match="no picture"):
        snd.extract_sound(tmp_path / "c.wav", tmp_path / "b.tmp", 16000)


# --- damage and lies ------------------------------------------------------------------------------------


def test_text_is_no_sound(tmp_path):
    (tmp_path / "a.wav").write_text("this is no sound\n" * 100)
    (tmp_path / "b.wav").write_bytes(b"")
    for name in ("a.wav", "b.wav", "missing.wav"):
        for work in (snd.sound_format, snd.read_sound, lambda p: snd.cut_file(p, tmp_path / "o", 0, 1)):
            with pytest.raises(MediaError) as failure:
                work(tmp_path / name)
            assert name in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize("name", ["-", "-x.wav", "%d.wav", "a:b.wav", "nü\udcff.wav", "http:.wav"])
def test_odd_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    put(name, noise(100), 8000, suffix=".wav")
    assert snd.cut_file(name, "-o.tmp", 0, 1).frames == 100
    assert snd.sound_format(name).frames == 100


def test_a_truncated_wav_gives_what_is_there(tmp_path):
    source = put(tmp_path / "a.wav", noise(50_000), 44100)
    whole = get(source)
    source.write_bytes(source.read_bytes()[: 44 + 2 * 30_000 + 1])
    assert snd.cut_file(source, tmp_path / "b.tmp", 0, 100).frames == 30_000
    np.testing.assert_array_equal(get(tmp_path / "b.tmp"), whole[:30_000])


@pytest.mark.parametrize("channels, rate, size", [(0, 44100, 100), (65535, 44100, 1 << 31), (1, 0, 100), (2, 2**32 - 1, 2**32 - 1), (1025, 8000, 1 << 30)])
def test_absurd_headers_fail_at_once(tmp_path, channels, rate, size):
    form = struct.pack("<HHIIHH", 1, channels, rate, 0, min(channels * 2, 65535), 16)
    data = b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data + bytes(1000))
    with pytest.raises(MediaError):
        snd.resample_file(tmp_path / "a.wav", tmp_path / "b.tmp", 16000)


def test_a_header_that_promises_a_day_is_not_believed(tmp_path):
    source = put(tmp_path / "a.wav", noise(1000), 8000)
    data = bytearray(source.read_bytes())
    data[40:44] = struct.pack("<I", 2**32 - 2)
    source.write_bytes(data)
    samples, rate = snd.read_sound(source)
    assert samples.shape == (1000, 1)


def test_damaged_flac_keeps_what_is_whole(tmp_path):
    source = put(tmp_path / "a.flac", noise(300_000), 44100)
    whole, data = get(source, "int16"), bytearray(source.read_bytes())
    middle = len(data) // 2
    (tmp_path / "cut.flac").write_bytes(data[:middle])
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "hole.flac").write_bytes(data)
    made = snd.cut_file(tmp_path / "cut.flac", tmp_path / "b.tmp")
    assert 120_000 < made.frames < 160_000
    np.testing.assert_array_equal(get(tmp_path / "b.tmp", "int16"), whole[: made.frames])
    made = snd.cut_file(tmp_path / "hole.flac", tmp_path / "c.tmp")
    got = get(tmp_path / "c.tmp", "int16")
    assert len(got) == 300_000  # the hole is silence, and what follows keeps its place
    np.testing.assert_array_equal(got[200_000:], whole[200_000:])


def test_damaged_packets_become_silence(tmp_path):
    sound = np.random.default_rng(3).integers(-9000, 9000, 96000).astype(np.int16)
    clip = make_clip(tmp_path / "a.mkv", range(0, 2000, 40), [(0, sound)], codec="flac", container="matroska")
    want, _ = snd.read_sound(clip)
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [(p.pos, p.size, p.pts) for p in container.demux(audio=0) if p.size]
    for pos, size, _ in packets[8:10]:
        data[pos + 10 : pos + size] = bytes(size - 10)
    clip.write_bytes(data)
    got, _ = snd.read_sound(clip)
    assert got.shape == want.shape
    np.testing.assert_array_equal(got[-20_000:], want[-20_000:])


def test_a_stream_that_changes_its_form(tmp_path):
    """MP3s of other rates and channel counts one after another: all of it becomes like its beginning."""
    put(tmp_path / "a.mp3", np.stack([sine(500, 44100, 2)] * 2, 1), 44100)
    put(tmp_path / "b.mp3", sine(500, 22050, 2), 22050)
    (tmp_path / "ab.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    got, rate = snd.read_sound(tmp_path / "ab.mp3")
    assert rate == 44100 and got.shape[1] == 2 and abs(len(got) / rate - 4) < 0.2
    late = got[3 * 44100 : 3 * 44100 + 22050]
    assert (np.abs(np.fft.rfft(late, axis=0)).argmax(axis=0) * 2 == 500).all()


def test_flac_of_unstated_length(tmp_path):
    """As written to a pipe: the header says zero samples, which means that nobody knew."""
    source = put(tmp_path / "a.flac", noise(50_000), 44100)
    whole, data = get(source, "int16"), bytearray(source.read_bytes())
    data[8 + 13] &= 0xF0
    data[8 + 14 : 8 + 18] = bytes(4)
    source.write_bytes(data)
    assert snd.sound_format(source).frames is None
    assert snd.cut_file(source, tmp_path / "b.tmp", Fraction(1, 2)).frames == 50_000 - 22_050
    np.testing.assert_array_equal(get(tmp_path / "b.tmp", "int16"), whole[22_050:])
    assert snd.resample_file(source, tmp_path / "c.tmp", 16000).frames == round(50_000 * 160 / 441)


def test_extreme_rates_do_not_exhaust_memory(tmp_path):
    for rate_in, rate_out, frames in [(1, 16000, 10), (10_000_000, 1, 200), (9_999_991, 8000, 20_000), (44100, 10_000_000, 200)]:
        source = put(tmp_path / "a.wav", noise(frames), rate_in)
        made = snd.resample_file(source, tmp_path / "b.tmp", rate_out)
        assert made.frames == round(Fraction(frames * rate_out, rate_in))


def test_memory_for_reading_is_bounded(tmp_path):
    source = put(tmp_path / "a.wav", noise(10_000), 8000)
    with pytest.raises(MediaError, match="cut it first"):
        snd.read_sound(source, limit=5000)
    assert snd.read_sound(source, 1, Fraction(5, 4), limit=5000)[0].shape == (2000, 1)


def test_chunks_are_small_whatever_the_file(tmp_path):
    source = put(tmp_path / "a.wav", noise(2000, 1024), 8000)
    with snd.open_sound(source) as sound:
        assert max(chunk.size for chunk in sound) <= soundfiles.BLOCK


# --- the output's disk ----------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".caf", ".ogg", ".mp3", ".m4a", ".opus"])
def test_a_full_disk_is_an_os_error(tmp_path, full_disk, suffix):
    source = put(tmp_path / "a.wav", noise(2_000_000), 48000)
    works = [lambda: snd.cut_file(source, full_disk / "o.tmp", suffix=suffix)]
    if suffix in (".wav", ".flac"):
        clip = make_clip(tmp_path / "a.mov", range(0, 10_000, 40), [(0, get(source, "int16")[:480_000, 0])])
        works += [
            lambda: snd.resample_file(source, full_disk / "o.tmp", 16000, suffix=suffix),
            lambda: snd.extract_sound(clip, full_disk / "o.tmp", 16000, suffix=suffix),
        ]
    for work in works:
        with pytest.raises(OSError) as failure:
            work()
        assert failure.value.errno == errno.ENOSPC and failure.value.filename == str(full_disk / "o.tmp")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_dev_full(tmp_path, suffix):
    """Even an output so small that only closing it reaches the disk."""
    source = put(tmp_path / "a.wav", noise(2000), 48000)
    with pytest.raises(OSError) as failure:
        snd.cut_file(source, "/dev/full", suffix=suffix)
    assert failure.value.errno in (errno.ENOSPC, errno.EINVAL, errno.ESPIPE)


def test_a_missing_folder_is_an_os_error(tmp_path):
    source = put(tmp_path / "a.wav", noise(2000), 48000)
    with pytest.raises(FileNotFoundError):
        snd.cut_file(source, tmp_path / "none" / "o.tmp")
