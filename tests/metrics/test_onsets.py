"""Onset-F1: the detector on sounds whose onsets are known, and the matching."""

import collections
import itertools
import json
from fractions import Fraction

import numpy as np
import pytest

from avtools.errors import RowError
from avtools.metrics import Skip, onsets
from avtools.metrics.media import Pair, Sound
from avtools.synth import scene, sound

OPTIONS = {"seconds": Fraction(2), "fps": Fraction(24), "size": (64, 64), "rate": 16000, "seed": 4321, "objects": 1}
CLIPS = 64


@pytest.fixture(scope="module")
def clips():
    """Class, mono sound, event times of clips that the detector was not tuned on."""
    found = []
    for index in range(CLIPS):
        made = scene.clip_of(OPTIONS, index)
        mono = sound.render(made).mixture.mean(axis=1).astype(np.float32) / 32768
        found.append((made.things[0].kind, mono, [onset / made.rate for onset in made.things[0].onsets]))
    return found


def scores(clips, change=lambda samples, index: samples, rate=16000) -> dict[str, float]:
    """Mean F1 of each class, and of all as ''."""
    found = collections.defaultdict(list)
    for index, (kind, samples, events) in enumerate(clips):
        value = onsets.f1(onsets.detect(change(samples, index), rate), events, 0.05)["onset_f1"]
        for name in (kind, ""):
            found[name].append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_true_sounds_of_all_classes(clips):
    found = scores(clips)
    assert set(found) == {*scene.KINDS, ""}
    assert found[""] >= 0.97 and min(found.values()) >= 0.85, found


@pytest.mark.long
def test_sounds_made_of_32_mel_bands(clips):
    librosa = pytest.importorskip("librosa")
    bank = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=32)
    inverse = np.linalg.pinv(bank)

    def rebuilt(samples, index):
        spectrum = np.abs(librosa.stft(samples, n_fft=1024, hop_length=160))
        guess = np.maximum(0, inverse @ (bank @ spectrum))
        return librosa.griffinlim(guess, n_iter=16, n_fft=1024, hop_length=160, length=len(samples), random_state=index)

    found = scores(clips, rebuilt)
    assert found[""] >= 0.93 and min(found.values()) >= 0.85, found


@pytest.mark.parametrize("gain", [0.02, 1.2])
def test_level_does_not_matter(clips, gain):
    assert scores(clips, lambda samples, index: gain * samples)[""] >= 0.97


def test_nor_does_the_rate(clips):
    import soxr

    assert scores(clips, lambda samples, index: soxr.resample(samples, 16000, 44100), rate=44100)[""] >= 0.97


def test_sounds_of_other_clips_score_by_chance_alone(clips):
    others = [(kind, samples, clips[(k + 8) % CLIPS][2]) for k, (kind, samples, _) in enumerate(clips)]  # of the same class, too
    assert scores(others)[""] < 0.25


def test_late_sounds_are_noticed(clips):
    assert scores(clips, lambda samples, index: np.pad(samples, (1600, 0)))[""] < 0.2
    assert scores(clips, lambda samples, index: np.pad(samples, (400, 0), mode="reflect"))[""] >= 0.97  # 25 ms are not


@pytest.mark.parametrize(
    "samples",
    [np.zeros(16000), np.zeros(1), np.full(10, 0.5), np.full(300, 0.5), np.full(16000, 0.5), np.sin(np.arange(16000) / 5)],
    ids=["silence", "one zero", "10 samples", "300 samples", "constant", "steady tone"],
)
def test_what_does_not_begin_has_no_onset(samples):
    assert len(onsets.detect(samples, 16000)) == 0


def test_steady_noise_has_no_onset():
    draw = np.random.default_rng(0)
    assert sum(len(onsets.detect(draw.standard_normal(32000) * level, 16000)) for level in (1e-5, 1e-3, 0.1) for _ in range(10)) == 0


def test_long_sounds_are_those_of_their_parts():
    draw = np.random.default_rng(0)
    samples = np.zeros(60 * 16000)
    times = np.arange(0.5, 59.5, 0.75)
    for time in times:
        at = int(time * 16000)
        samples[at : at + 1600] = draw.standard_normal(1600) * np.exp(-np.arange(1600) / 300)
    found = onsets.detect(samples, 16000)
    assert len(found) == len(times) and np.abs(found - times).max() < 0.01


def test_matching_is_one_to_one_and_finds_the_most():
    assert onsets.matched([1.0, 1.01], [1.005], 0.05) == 1
    assert onsets.matched([1.0, 1.04], [1.04, 1.08], 0.05) == 2
    assert onsets.matched([0.95], [1.0], 0.05) == 1  # the tolerance itself is within
    assert onsets.matched([0.949], [1.0], 0.05) == onsets.matched([], [1.0], 0.05) == 0
    draw = np.random.default_rng(0)
    for _ in range(200):
        a, b = (sorted(draw.uniform(0, 0.4, draw.integers(0, 5))) for _ in range(2))
        most = max(
            (sum(abs(x - y) <= 0.05 for x, y in zip(some, others, strict=True))
             for size in range(min(len(a), len(b)) + 1)
             for some in itertools.combinations(a, size) for others in itertools.permutations(b, size)),
            default=0,
        )  # fmt: skip
        assert onsets.matched(a, b, 0.05) == most


def test_f1_has_cells_only_for_what_is():
    assert onsets.f1([1.0, 2.0], [1.0], 0.05) == {"onset_f1": 2 / 3, "onset_precision": 0.5, "onset_recall": 1.0}
    silent, spurious = onsets.f1([], [1.0], 0.05), onsets.f1([1.0], [], 0.05)
    assert silent["onset_f1"] == silent["onset_recall"] == 0 and isinstance(silent["onset_precision"], Skip)
    assert spurious["onset_f1"] == spurious["onset_precision"] == 0 and isinstance(spurious["onset_recall"], Skip)
    with pytest.raises(Skip):
        onsets.f1([], [], 0.05)


def click(*times):
    samples = np.zeros((16000, 1), np.float32)
    for time in times:
        samples[int(time * 16000) :][:160, 0] = np.hanning(160)
    return Sound(samples, 16000)


def reference(row, named=None):
    pair = Pair(row, named or {})
    pair.reference_sound = click(0.25, 0.75)
    return onsets.reference_times(pair)


def test_the_reference_is_event_times_else_the_reference_sound():
    row = {"path": "a.mp4", "generated_audio_path": "b.wav"}
    assert reference({**row, "event_times": "[0.5, 0.1]"}) == reference({**row, "event_times": [0.5, 0.1]}) == [0.1, 0.5]
    assert reference(row) == reference({**row, "event_times": ""}) == pytest.approx([0.25, 0.75], abs=0.01)
    assert reference({**row, "event_times": "[0.5]", "ref": "c.wav"}, {"reference_audio": "ref"}) == pytest.approx([0.25, 0.75], abs=0.01)


@pytest.mark.parametrize("cell", ["x", "{}", "3", '["1"]', "[NaN]", "[true]", "[[1]]", "[" * 10000])
def test_what_is_no_list_of_times_is_bad(cell):
    with pytest.raises(RowError, match="event_times"):
        reference({"path": "a.mp4", "event_times": cell})


def test_no_sound_is_judged_by_itself():
    with pytest.raises(RowError, match="by itself"):
        reference({"path": "a.mp4"})
    with pytest.raises(RowError, match="by itself"):
        reference({"path": "a.mp4", "audio_path": "a.wav"})


def test_settings_are_those_of_the_row():
    pair = Pair({"audio_path": "a.wav", "event_times": json.dumps([0.33, 0.75])}, {})
    pair.sound = click(0.25, 0.75)
    assert onsets.OnsetF1().row(pair)["onset_f1"] == 0.5
    assert onsets.OnsetF1(tolerance=0.1).row(pair)["onset_f1"] == 1
