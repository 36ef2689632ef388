"""Clips as arrays: frames at even times, sounds to the bit, and what is refused."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from avtools.augment import clips
from avtools.errors import MediaError
from avtools.media.probe import probe


def write(path, times, sizes=None, rotation=0, sound_at=None):
    """A lossless video whose frame k is all of the grey level 8 k, shown at times[k] / 24 s; maybe with a sound from `sound_at` s on."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264rgb", rate=24, options={"qp": "0", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "rgb24"
        stream.codec_context.time_base = Fraction(1, 24)
        sound = None
        if sound_at is not None:
            sound = output.add_stream("pcm_s16le", rate=8000)
            sound.layout = "mono"
        for k, time in enumerate(times):
            picture = np.full((16, 32, 3), 8 * k, np.uint8)
            picture[0, 0] = 255  # where is up
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 24)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray((1000 * np.ones((1, 4000))).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, round(sound_at * 8000), Fraction(1, 8000)
            output.mux(sound.encode(frame))
            output.mux(sound.encode(None))


def test_frames_that_come_evenly_are_taken_as_they_are(tmp_path):
    write(tmp_path / "a.mkv", range(20))
    pictures, fps = clips.read_constant(str(tmp_path / "a.mkv"))
    assert fps == 24 and pictures.shape == (20, 16, 32, 3) and (pictures[:, 5, 5] == 8 * np.arange(20)[:, None]).all()


def test_frames_that_do_not_are_shown_at_their_times(tmp_path):
    times = [0, 1, 2, 8, 9, 15]
    write(tmp_path / "a.mov", times)
    pictures, fps = clips.read_constant(str(tmp_path / "a.mov"))
    shown = [max(k for k, at in enumerate(times) if at <= 24 * Fraction(number) / fps) for number in range(len(pictures))]
    assert len(pictures) == round(probe(str(tmp_path / "a.mov")).picture.duration * fps)
    assert (pictures[:, 5, 5, 0] // 8).tolist() == shown


def test_too_many_pictures_and_pictures_of_many_sizes_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "a.mkv", range(20))
    monkeypatch.setattr(clips, "LIMIT", 19 * 16 * 32 * 3)
    for read in (clips.read_constant, clips.read_pictures):
        with pytest.raises(MediaError, match="a.mkv: too many pictures to hold in memory; cut it"):
            read(str(tmp_path / "a.mkv"))
    soundfile.write(tmp_path / "a.wav", np.zeros(40000), 8000)
    with pytest.raises(MediaError, match="a.wav: too long"):
        clips.read_all(str(tmp_path / "a.wav"))
    with pytest.raises(MediaError, match="no picture"):
        clips.read_constant(str(tmp_path / "a.wav"))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sounds_come_back_to_the_bit(tmp_path, subtype):
    samples = np.random.default_rng(0).uniform(-1, 1, (1000, 3))
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype)
    read, form, layout = clips.read_all(str(tmp_path / "a.wav"))
    clips.write_all(str(tmp_path / "b.wav"), ".wav", read, form, layout)
    assert soundfile.info(tmp_path / "b.wav").subtype == subtype
    assert np.array_equal(*(soundfile.read(tmp_path / name, dtype="float64")[0] for name in ("a.wav", "b.wav")))


def test_a_sound_that_begins_later_than_its_picture_stays_where_it_is_heard(tmp_path):
    write(tmp_path / "a.mkv", range(20), sound_at=0.25)
    source = str(tmp_path / "a.mkv")
    with clips.own_sound(source) as heard:
        samples, rate = soundfile.read(heard)
    assert rate == 8000 and abs(len(samples) - 6667) < 5 and not samples[:1990].any() and (samples[2010:5990] > 0.03).all()
    pictures, fps = clips.read_constant(source)
    clips.write_video(str(tmp_path / "b.mkv"), ".mkv", pictures[::-1], fps, source, None)
    with clips.own_sound(str(tmp_path / "b.mkv")) as heard:
        assert np.array_equal(soundfile.read(heard)[0], samples)  # PCM, which Matroska holds


def test_a_video_without_sound_stays_without(tmp_path):
    write(tmp_path / "a.mkv", range(20))
    source = str(tmp_path / "a.mkv")
    with clips.own_sound(source) as heard:
        assert heard is None
    pictures, fps = clips.read_constant(source)
    clips.write_video(str(tmp_path / "b.mp4"), ".mp4", pictures, fps, source, None)
    assert probe(str(tmp_path / "b.mp4")).sound is None and len(clips.read_constant(str(tmp_path / "b.mp4"))[0]) == 20


def test_turned_pictures_come_upright(media):
    turned = media / "odd" / "nasa_13013_rotated.mp4"
    pictures, _ = clips.read_constant(str(turned))
    info = probe(str(turned)).picture
    assert info.rotation == 270 and pictures.shape[1:3] == (info.height, info.width) == (480, 270)
