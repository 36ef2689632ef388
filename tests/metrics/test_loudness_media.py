"""Loudness, and the reading of what is judged."""

from fractions import Fraction

import numpy as np
import pytest
import soundfile

from avtools.errors import MediaError, RowError
from avtools.metrics import Skip
from avtools.metrics.loudness import Loudness
from avtools.metrics.media import Pair, Sound, columns_of, file_of, read_sound
from fixtures import even, make


def of(samples, rate=16000, broken=0):
    pair = Pair({}, {})
    pair.sound = Sound(np.asarray(samples, np.float32).reshape(len(samples), -1), rate, broken)
    return Loudness().row(pair)


def test_levels_are_re_full_scale():
    square = np.tile([1.0, -1.0], 8000)
    assert of(square)["loudness_db"] == of(square)["peak_db"] == 0
    assert of(0.1 * square)["loudness_db"] == pytest.approx(-20, abs=1e-4)
    tone = np.sin(2 * np.pi * 100 * np.arange(16000) / 16000)
    assert of(tone)["loudness_db"] == pytest.approx(-3.01, abs=0.01)
    stereo = np.stack([square, 0 * square], axis=1)
    assert of(stereo)["loudness_db"] == pytest.approx(-3.01, abs=0.01) and of(stereo)["peak_db"] == 0


def test_shares_of_silence_and_clipping():
    half = np.concatenate([np.zeros(8000), np.full(8000, 0.5)])
    assert of(half)["silent_share"] == 0.5 and of(half)["clipped_share"] == 0
    assert of(np.where(np.arange(16000) % 4, half, 32767 / 32768))["clipped_share"] == 0.25
    assert of(np.full(16000, 0.0009))["silent_share"] == 1 and of(np.full(16000, 0.0011))["silent_share"] == 0
    assert of(np.full(1, 0.5))["silent_share"] == 0


def test_digital_silence_has_no_level():
    found = of(np.zeros(16000), broken=3)
    assert isinstance(found["loudness_db"], Skip) and isinstance(found["peak_db"], Skip)
    assert found["silent_share"] == 1 and found["clipped_share"] == 0 and found["broken_samples"] == 3


def test_which_files_are_judged():
    row = {"path": "p", "audio_path": "a", "generated_path": "gp", "generated_audio_path": "ga"}
    assert [file_of(row, role, {}) for role in ("video", "audio", "reference_video", "reference_audio")] == ["gp", "ga", "p", "a"]
    given = {"path": "p", "audio_path": "a"}
    assert [file_of(given, role, {}) for role in ("video", "audio")] == ["p", "a"]
    assert file_of({"path": "p", "generated_path": "gp", "audio_path": ""}, "audio", {}) == "gp"  # the judged picture's own sound
    assert file_of({"path": "p", "generated_path": "gp"}, "reference_audio", {}) == "p"
    assert file_of({"path": "p", "other": "o"}, "audio", {"video": "other"}) == "o"
    assert file_of(row | {"mine": "m"}, "audio", {"audio": "mine"}) == "m"
    assert columns_of("audio", {"audio": "mine"}) == ("mine",)
    for row, role in (({"audio_path": "a"}, "video"), ({"path": "x/placeholder.mp4", "audio_path": "a"}, "video"), ({}, "audio"), ({"path": 3}, "video")):
        with pytest.raises(RowError):
            file_of(row, role, {})


def test_a_videos_sound_is_put_on_its_pictures_clock(tmp_path):
    rate = 48000
    make(tmp_path / "late.mkv", even(25), sound={"rate": rate, "start": Fraction(1, 4), "seconds": Fraction(1, 2)})
    make(tmp_path / "early.mkv", even(25, start=Fraction(1, 4)), sound={"rate": rate, "start": 0, "seconds": Fraction(1, 2)})
    late, early = read_sound(str(tmp_path / "late.mkv")), read_sound(str(tmp_path / "early.mkv"))
    assert late.rate == early.rate == rate
    assert len(late.samples) == pytest.approx(0.75 * rate, abs=1024) and not late.samples[: int(0.24 * rate)].any() and late.samples[int(0.26 * rate) :].any()
    assert len(early.samples) == pytest.approx(0.25 * rate, abs=1024)


def test_numbers_that_are_none_are_counted_and_silenced(tmp_path):
    samples = np.full(1000, 0.25, np.float32)
    samples[[3, 500]] = np.nan, np.inf
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    found = read_sound(str(tmp_path / "a.wav"))
    assert found.broken == 2 and found.samples[3] == found.samples[500] == 0 and found.samples.sum() == 0.25 * 998


def test_sounds_of_nothing_and_of_too_much_are_bad(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "b.wav", np.zeros(1000), 16000)
    with pytest.raises(MediaError, match="a.wav.*no samples"):
        read_sound(str(tmp_path / "a.wav"))
    with pytest.raises(MediaError, match="b.wav.*cut it"):
        read_sound(str(tmp_path / "b.wav"), limit=999)


def test_each_file_is_read_once_for_all_metrics(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.ones(1000) / 2, 16000)
    pair = Pair({"audio_path": str(tmp_path / "a.wav")}, {})
    first = pair.sound
    (tmp_path / "a.wav").unlink()
    assert pair.sound is first and pair.with_sound(Sound(first.samples * 0, 16000)).facts is pair.facts
    assert pair.facts == {"sound": {"rate": 16000, "channels": 1, "seconds": 1 / 16, "not_finite": 0}}
