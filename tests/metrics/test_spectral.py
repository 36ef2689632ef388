"""Spectral distances and loudness: against public packages' values and formulas, and on sounds that have none."""

import numpy as np
import pytest
import soundfile

from avtools.errors import RowError
from avtools.metrics import Skip, spectral
from avtools.metrics.media import Pair

RATE = 16000


def sounds():
    draw = np.random.default_rng(3)
    true = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE) + 0.05 * draw.standard_normal(2 * RATE)
    return 0.8 * true + 0.02 * draw.standard_normal(2 * RATE), true


def found(tmp_path, judged, true, rates=(RATE, RATE), **settings):
    soundfile.write(tmp_path / "judged.wav", judged, rates[0], subtype="FLOAT")
    soundfile.write(tmp_path / "true.wav", true, rates[1], subtype="FLOAT")
    return spectral.Spectral(**settings).row(Pair({"generated_audio_path": str(tmp_path / "judged.wav"), "audio_path": str(tmp_path / "true.wav")}, {}))


def test_the_multi_resolution_distance_is_auralosss():
    assert spectral.mrstft(*sounds()) == pytest.approx(0.59189962, abs=1e-6)  # auraloss 0.4.0, MultiResolutionSTFTLoss()


def test_the_multi_resolution_distance_by_torch():
    torch = pytest.importorskip("torch")
    judged, true = map(torch.from_numpy, sounds())
    found = []
    for size, hop, window in ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)):
        x, y = (torch.stft(s, size, hop, window, torch.hann_window(window, dtype=s.dtype), return_complex=True).abs().clamp(min=1e-4) for s in (judged, true))
        found.append(torch.linalg.norm(y - x) / torch.linalg.norm(y) + (x.log() - y.log()).abs().mean())
    assert spectral.mrstft(*sounds()) == pytest.approx(float(sum(found) / 3), abs=1e-9)


def test_mel_bands_and_log_spectra_by_librosa(monkeypatch):
    librosa = pytest.importorskip("librosa")
    for rate in (16000, 44100):
        np.testing.assert_allclose(spectral.mel_bands(rate), librosa.filters.mel(sr=rate, n_fft=2048, n_mels=128), atol=1e-7)
    powers = [np.abs(librosa.stft(sound, n_fft=2048, hop_length=512, pad_mode="reflect")) ** 2 for sound in sounds()]
    decibels = [10 * np.log10(np.maximum(power, 1e-8)) for power in powers]
    expected = np.sqrt(np.mean((decibels[0] - decibels[1]) ** 2, axis=0)).mean()
    mels = [librosa.feature.melspectrogram(S=power, sr=RATE, n_mels=128) for power in powers]
    mel = np.mean(np.abs(librosa.power_to_db(mels[0], amin=mels[1].max() / 1e8) - librosa.power_to_db(mels[1], amin=mels[1].max() / 1e8)))
    for at_once in (spectral.AT_ONCE, 5 * 2048):  # blocks of frames change nothing
        monkeypatch.setattr(spectral, "AT_ONCE", at_once)
        assert spectral.log_spectral(*sounds()) == pytest.approx(expected, rel=1e-5)
        assert spectral.mel_distance(*sounds(), RATE) == pytest.approx(mel, rel=1e-4)


@pytest.mark.parametrize(("rate", "expected"), [(16000, -17.406932), (44100, -17.017917), (48000, -17.015204)])
def test_loudness_is_pyloudnorms(rate, expected):
    samples = np.random.default_rng(5).standard_normal((3 * rate, 2)) * np.array([0.1, 0.02])
    samples[:rate] *= 1e-2  # gated
    assert spectral.loudness(samples, rate) == pytest.approx(expected, abs=1e-5)  # pyloudnorm, filters "DeMan"


def test_loudness_by_the_standards_table_and_tone():
    ours = [value for both in spectral.filters(48000) for part in both for value in part]
    table = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241, 0.73248077421585, 1, -2, 1, 1, -1.99004745483398, 0.99007225036621]
    np.testing.assert_allclose(ours, table, atol=1e-9)
    full = np.sin(2 * np.pi * 997 * np.arange(5 * 48000) / 48000)
    assert spectral.loudness(full[:, None], 48000) == pytest.approx(-3.01, abs=0.02)  # BS.1770-4: of one channel
    assert spectral.loudness(np.stack([full, full], 1), 48000) == pytest.approx(0, abs=0.02)
    assert isinstance(spectral.loudness(full[:19000, None], 48000), Skip) and isinstance(spectral.loudness(1e-5 * full[:, None], 48000), Skip)


def test_gains_rates_and_channels(tmp_path):
    _, true = sounds()
    same = found(tmp_path, true, true)
    assert same == {"mrstft": 0, "log_spectral_db": 0, "mel_db": 0, "loudness_lu": 0}
    half = found(tmp_path, true / 2, true)
    assert half["log_spectral_db"] == pytest.approx(6.02, abs=0.05) and half["mel_db"] == pytest.approx(6.02, abs=0.05)
    assert half["loudness_lu"] == pytest.approx(-6.02, abs=0.01)
    assert found(tmp_path, np.stack([true, true], axis=1), true)["mrstft"] == 0
    tone = [np.sin(2 * np.pi * 440 * np.arange(rate) / rate) / 3 for rate in (48000, RATE)]
    assert found(tmp_path, *tone, rates=(48000, RATE))["mrstft"] < 0.5


def test_what_has_no_distance(tmp_path):
    _, true = sounds()
    with pytest.raises(Skip, match="the reference is silent"):
        found(tmp_path, true, 0 * true)
    with pytest.raises(Skip, match="1024 samples"):
        found(tmp_path, true[:1000], true[:1000])
    with pytest.raises(RowError, match="judged.wav: its sound is 2.000 s, and its reference 1.000 s"):
        found(tmp_path, true, true[:RATE])
    silent = found(tmp_path, 0 * true, true)
    assert np.isfinite(silent["mrstft"]) and np.isfinite(silent["mel_db"]) and isinstance(silent["loudness_lu"], Skip)
    assert isinstance(found(tmp_path, true[:4000], true[:4000])["loudness_lu"], Skip)
