"""The codec and the encoder without weights: what comes back, when it comes back, and its shapes."""

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchaudio")

from avtools.media.soundfiles import read_sound  # noqa: E402
from avtools.models.parts.tiny.mel_bands import DEVIATION, FLOOR, MEAN, MelBands  # noqa: E402
from avtools.models.parts.tiny.pixels import Pixels  # noqa: E402

LOUD_ERROR = 0.15  # of bands well above silence, in deviations of log-mel
SILENT = (np.log(FLOOR) - MEAN) / DEVIATION  # the value of a band without sound


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """(8, 32000): a clip of each class of synthetic sound, peak 0.5."""
    folder = tmp_path_factory.mktemp("sounds")
    subprocess.run([sys.executable, "-m", "avtools", "synth", "-n", "8", "--seconds", "2", "--no-fsync", "-j", "1", "-q", "-d", folder, "-o", folder / "t.csv"], check=True, stdin=subprocess.DEVNULL)
    found = [read_sound(str(path))[0].mean(1)[:32000] for path in sorted((folder / "mixtures").glob("*.wav"))]
    assert len(found) == 8
    return torch.from_numpy(np.stack([one / np.abs(one).max() * 0.5 for one in found]).astype(np.float32))


def test_bands_of_a_sound_come_back(sounds):
    """Phases are lost and bands are wide: the log-mel picture is kept to about a tenth of its deviation."""
    codec = MelBands()
    latents, std = codec.encode(sounds)
    assert latents.shape == (8, 32, 50, 4) and not std.any()
    sound = codec.decode(latents)
    assert sound.shape == sounds.shape and sound.abs().max() <= 1
    again = codec.encode(sound)[0]
    loud = latents > SILENT + 1.0
    error = (again - latents)[loud]
    assert error.abs().mean() < LOUD_ERROR and error.mean().abs() < LOUD_ERROR
    for one, other in zip(latents, again, strict=True):  # each of them, not only all of them
        assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > 0.97
    shuffled = torch.stack([(again.roll(1, 0)[k] - latents[k]).abs().mean() for k in range(8)])
    assert ((again - latents).abs().mean((1, 2, 3)) < 0.5 * shuffled).all()


def test_latents_of_synthetic_sounds_are_about_standard_normal(sounds):
    latents = MelBands().encode(sounds)[0]
    assert abs(float(latents.mean())) < 0.5 and 0.5 < float(latents.std()) < 1.6


@pytest.mark.parametrize("at", [0.2, 0.5004, 1.2341, 1.755])
def test_a_click_comes_back_when_it_was(at):
    codec = MelBands()
    sound = torch.zeros(1, 32000)
    n = round(at * 16000)
    sound[0, n : n + 80] = torch.randn(80, generator=torch.Generator().manual_seed(0)).clamp(-2, 2) * 0.5
    made = codec.decode(codec.encode(sound)[0])[0]
    assert made.abs().max() > 0.05
    power = made.square().double()
    centre = float((power * torch.arange(len(power))).sum() / power.sum()) / 16000
    assert abs(centre - (n + 40) / 16000) < 0.005
    assert power[: n - 640].sum() + power[n + 720 :].sum() < 0.01 * power.sum()


def test_a_latent_of_a_sound_is_that_of_its_time():
    """Latent l covers l to l + 1 steps: a sound in the middle of one is there and, but for the window's width, nowhere else."""
    codec = MelBands()
    sound = torch.zeros(1, 50 * codec.step)
    middle = 20 * codec.step + codec.step // 2
    sound[0, middle - 40 : middle + 40] = 0.5
    energy = (codec.encode(sound)[0][0] - SILENT).sum((0, 2))
    assert int(energy.argmax()) == 20
    assert torch.allclose(energy[19], energy[21], rtol=0.02)
    assert energy[:19].abs().max() < 1e-3 and energy[22:].abs().max() < 1e-3


def test_silence_stays_silent():
    codec = MelBands()
    latents = codec.encode(torch.zeros(1, 16000))[0]
    assert torch.allclose(latents, torch.full_like(latents, SILENT), atol=1e-5)
    made = codec.decode(latents)
    assert made.shape == (1, 16000) and made.abs().max() < 1e-4
    assert codec.decode(torch.full((1, 32, 7, 4), 50.0)).isfinite().all()  # nonsense from a network in training


def test_lengths_of_odd_sizes():
    codec = MelBands()
    assert codec.samples(2.0) == 32000 and codec.samples(0.001) == codec.step
    for seconds in (0.37, 1.0, 2.013, 10.24):
        samples = codec.samples(seconds)
        assert samples % codec.step == 0 and abs(samples / codec.sample_rate - seconds) <= codec.step / codec.sample_rate / 2 + 1e-9
        latents = codec.encode(torch.zeros(2, samples))[0]
        assert latents.shape == (2, codec.latent_channels, samples // codec.step, codec.bins)
        assert codec.decode(latents).shape == (2, samples)
    for samples, length in ((640, 1), (1279, 1), (1281, 2), (12345, 19)):  # what is no whole latent is left out
        assert codec.encode(torch.zeros(1, samples))[0].shape[2] == length


def test_a_sound_is_encoded_alike_in_any_batch(sounds):
    codec = MelBands()
    together = codec.encode(sounds)[0]
    for k in (0, 5):
        assert torch.allclose(codec.encode(sounds[k : k + 1])[0][0], together[k], atol=1e-4)
    assert torch.allclose(codec.decode(together[:2])[1], codec.decode(together[1:2])[0], atol=1e-4)


def test_rounding_stays_inaudible(sounds):
    """The latents of a network differ in their last digits with its batch, and Griffin-Lim makes differences larger."""
    codec = MelBands()
    generator = torch.Generator().manual_seed(0)
    latents = torch.cat([codec.encode(sounds[:1])[0], torch.randn(1, 32, 50, 4, generator=generator) * 0.7])
    one, other = codec.decode(latents), codec.decode(latents + 3e-7 * torch.randn(latents.shape, generator=generator))
    assert one.dtype == torch.float32
    assert ((one - other).square().mean(1).sqrt() < 0.03 * one.square().mean(1).sqrt()).all()


def test_pixels_are_the_pictures_and_their_changes():
    encoder = Pixels(4)
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(5, 3, 4, 4, generator=generator), torch.rand(1, 3, 4, 4, generator=generator)
    found = encoder([one, other])
    assert [tuple(f.shape) for f in found] == [(5, 64), (1, 64)] and encoder.dim == 64
    pictures, changes = found[0][:, :48], found[0][:, 48:]
    assert torch.allclose(pictures.reshape(5, 3, 4, 4) / 2 + 0.5, one, atol=1e-6)
    assert not changes[0].any() and not found[1][:, 48:].any()  # nothing was before the first
    assert torch.allclose(changes[1:].reshape(4, 4, 4) / 8, one.mean(1)[1:] - one.mean(1)[:-1], atol=1e-6)
    still = one[:1].expand(5, -1, -1, -1)
    assert not encoder([still])[0][:, 48:].any()
    moved = one.clone()
    moved[3, :, 1, 1] += 0.25
    differs = (encoder([moved])[0] - found[0]).abs().amax(1) > 1e-6
    assert differs.tolist() == [False, False, False, True, True]  # the picture, and the change after it
