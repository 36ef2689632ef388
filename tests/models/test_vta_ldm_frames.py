"""Pictures at their times, and clips joined or mixed."""

from fractions import Fraction

import av
import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from avtools.errors import MediaError  # noqa: E402
from avtools.media.video import write_frames  # noqa: E402
from avtools.models.vta_ldm import augment, frames  # noqa: E402


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """75 frames at 29.97 per second whose gray is three times their number; wide, with a bright right edge."""
    path = tmp_path_factory.mktemp("clips") / "ramp.mp4"
    pictures = np.repeat(np.arange(75, dtype=np.uint8) * 3, 48 * 96 * 3).reshape(75, 48, 96, 3)
    pictures[:, :, 80:] = 255
    write_frames(path, ".mp4", pictures, Fraction(30000, 1001))
    return path


def numbers(found) -> list[int]:
    """Which frames these are, by the gray in their middle."""
    return [round(float(picture[4:-4, 6:10].mean()) / 3) for picture in found]


def test_pictures_are_those_shown_at_their_times(ramp):
    found = frames.read_frames(ramp, 2.0, 16)
    assert found.dtype == np.uint8 and found.shape == (6, 16, 16, 3)  # 2.5025 s
    assert numbers(found) == [0, 14, 29, 44, 59, 74]  # the last shown at or before k / 2 s
    assert numbers(frames.read_frames(ramp, 2.0, 16, start=0.75, seconds=1.0)) == [22, 37]
    assert len(frames.read_frames(ramp, 2.0, 16, seconds=1.0)) == 2
    assert numbers(frames.read_frames(ramp, 60.0, 16, seconds=0.1)) == [0, 0, 0, 1, 1, 2]


def test_legacy_pictures_drift(ramp):
    assert numbers(frames.read_frames(ramp, 2.0, 16, legacy=True)) == [0, 14, 29, 43, 58, 72]  # every int(29.97) / 2
    assert numbers(frames.read_frames(ramp, 2.0, 16, legacy=True, start=0.5, seconds=1.0)) == [14, 29]


def test_crop_and_squash(ramp):
    crop, squash = (frames.read_frames(ramp, 2.0, 16, fit=fit)[0] for fit in ("crop", "squash"))
    assert crop[:, -2:].mean() < 40  # the edge is cut off
    assert squash[:, -1].mean() > 200 and squash[:, 0].mean() < 40


def test_turned_pictures_are_upright(tmp_path):
    from PIL import Image as pil

    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20] = 255  # bright above
    exif = pil.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pil.fromarray(picture).transpose(pil.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    (found,) = frames.read_frames(tmp_path / "turned.jpg", 2.0, 20)
    assert found[:6].mean() > 200 and found[-6:].mean() < 50


def test_clips_without_such_pictures_are_bad_rows(ramp, tmp_path):
    with pytest.raises(MediaError, match="no picture from 9 s on"):
        frames.read_frames(ramp, 2.0, 16, start=9.0)
    with av.open(str(tmp_path / "sound.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
        out.mux(stream.encode(None))
    with pytest.raises(MediaError, match="has no picture"):
        frames.read_frames(tmp_path / "sound.wav", 2.0, 16)
    whole = ramp.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(MediaError, match="cut.mp4"):
        frames.read_frames(tmp_path / "cut.mp4", 2.0, 16)


def test_too_many_pictures_are_refused_before_memory_is_gone(ramp, monkeypatch):
    monkeypatch.setattr(frames, "LIMIT", 4 * 16 * 16 * 3)
    with pytest.raises(MediaError, match="more than 4 pictures"):
        frames.read_frames(ramp, 2.0, 16)


@pytest.mark.parametrize("seconds", [10.24, 2.0])
def test_joined_clips_are_cut_at_one_time(seconds):
    rate, per_second = 1000, 4.0
    samples, count = round(seconds * rate), round(seconds * per_second)

    def item(sign, words):
        return {
            "waveform": (sign * np.arange(1, samples + 1)).astype(np.float32),
            "frames": np.full((count, 2, 2, 3), 1 + (sign > 0), np.uint8) * np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None],
            "text": np.frombuffer(words, np.uint8),
        }

    cuts = set()
    for draw in range(50):
        one, other = item(1, b"a dog"), item(-1, b"a cat")
        made = augment.concatenated(one, other, draw, per_second, rate)
        cut = int((made["waveform"] > 0).sum())
        assert bytes(made["text"]) == b"a dog a cat" and len(made["waveform"]) == samples
        kept = round(cut / rate * per_second)
        assert np.array_equal(made["frames"], np.concatenate([one["frames"][:kept], other["frames"][kept:]]))
        assert np.array_equal(np.abs(made["waveform"]), np.arange(1, samples + 1))
        assert abs(cut - kept / per_second * rate) < 1
        cuts.add(cut)
    scale = min(1, seconds / 10)
    assert min(cuts) >= (2.5 * scale - 0.13) * rate and max(cuts) <= (7.5 * scale + 0.13) * rate and len(cuts) > 3


def test_mixed_sounds_are_equally_loud():
    time = np.arange(16000) / 16000
    loud, soft = np.sin(2 * np.pi * 440 * time).astype(np.float32), (0.05 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    made = augment.mixed(loud, soft, 16000)
    spectrum = np.abs(np.fft.rfft(made))
    weight = 10 ** (augment.a_weighting(16000, 16000)[[440, 1000]] / 20)
    assert 0.5 < spectrum[440] * weight[0] / (spectrum[1000] * weight[1]) < 2
    silent = augment.mixed(np.zeros(100, np.float32), np.zeros(100, np.float32), 16000)  # shorter than a frame, too
    assert np.array_equal(silent, np.zeros(100))
    assert augment.joined_captions("A dog barks", "Birds sing") == "A dog barks and birds sing"
    assert augment.joined_captions("A dog barks", "") == "A dog barks"
