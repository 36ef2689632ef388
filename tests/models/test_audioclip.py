"""AudioCLIP's sound head: its wavelets, the network against another formulation, the released layout, and its extractor."""

import pickle

import numpy as np
import pytest
import soundfile
from safetensors.torch import save_file

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.metrics import Skip  # noqa: E402
from avtools.metrics.media import Pair  # noqa: E402
from avtools.models.judges import audioclip  # noqa: E402
from avtools.models.judges.javis_nets import AudioClip, windows  # noqa: E402


def filled(seed=0) -> dict[str, torch.Tensor]:
    """Weights below `audio.`, which keep the sizes of what they are given; wavelets of several widths and orders."""
    with torch.device("meta"):
        net = audioclip.AudioHead()
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(7)
        elif name == "window":
            made[name] = torch.from_numpy(audioclip.blackman_harris(1654)).float()
        elif name.startswith("fbsp"):
            start = torch.arange(1025.0) if name == "fbsp.fc" else torch.ones(1025)
            made[name] = start + 0.3 * torch.randn(1025, generator=generator) if name == "fbsp.fc" else torch.rand(1025, generator=generator) + 0.2
        elif name.endswith("running_var") or ("bn" in name or "downsample.1" in name) and name.endswith("weight"):
            made[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif tensor.dim() > 1:
            made[name] = torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5
        else:
            made[name] = torch.randn(tensor.shape, generator=generator) * 0.2
    made["bn1.running_var"] *= 5000.0  # of decibels
    return {f"audio.{name}": tensor for name, tensor in made.items()}


@pytest.fixture(scope="module")
def weights():
    return filled()


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    """With a little of the other towers, which are passed over."""
    path = tmp_path_factory.mktemp("audioclip") / "AudioCLIP-Full-Training.pt"
    others = {"visual.conv1.weight": torch.zeros(32, 3, 3, 3), "logit_scale": torch.tensor(1.0), "logit_scale_ai": torch.tensor(1.0)}
    torch.save({**weights, **others}, path)
    return path


@pytest.fixture(scope="module")
def net(file):
    return audioclip.load(file)


def noise(seconds, rate=44100, seed=0, level=0.1):
    return (np.random.default_rng(seed).standard_normal(round(seconds * rate)) * level).astype(np.float32)


# --- wavelets and spectra ---------------------------------------------------------------------------------------------


def wavelets(weights, count):
    """By the formula, with numpy's complex powers: (count, 1025)."""
    m, fb, fc = (weights[f"audio.fbsp.{name}"].double().numpy() for name in ("m", "fb", "fc"))
    t = (np.linspace(-np.pi, np.pi, count) + 1e-8)[:, None]
    argument = fb * t / (m + 1e-8)
    return np.sqrt(fb) * (np.sin(argument) / argument + 0j) ** m * np.exp(-1j * fc * t) / np.sqrt(count)


def test_wavelets_are_those_of_the_formula(net, weights):
    found, expected = net.fbsp.kernels(2048).numpy(), wavelets(weights, 2048)
    assert found.shape == (2048, 1025) and np.abs(expected).max() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_they_begin_as_a_fourier_transform():
    """Of which torch's divides by the root of the frame's length too, where it is asked to be normalised."""
    fresh, frames = audioclip.Wavelets(), torch.from_numpy(noise(2048 * 4 / 44100)).view(4, 2048) * torch.hann_window(2048)
    with torch.no_grad():
        found = fresh(frames).abs()
    expected = torch.fft.rfft(frames, norm="ortho").abs()
    low = slice(0, 20)  # the wavelets' last sample is a period after the first, so that they lie ever so slightly apart
    torch.testing.assert_close(found[:, low], expected[:, low], rtol=0.05, atol=0.05 * float(expected.max()))
    assert np.corrcoef(found[:, :500].flatten(), expected[:, :500].flatten())[0, 1] > 0.95


def test_kernels_follow_the_weights(weights):
    layer, frames = audioclip.Wavelets(), torch.ones(1, 64)
    with torch.no_grad():
        before = layer(frames)
        layer.load_state_dict({name: weights[f"audio.fbsp.{name}"] for name in ("m", "fb", "fc")})
        after = layer(frames)
        assert layer(torch.ones(1, 128)).shape == (1, 1025)
    assert (before - after).abs().max() > 0.1


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (1654, 1), (1655, 2), (1654 + 561, 2), (1654 + 561 * 9 + 1, 11)])
def test_decibels_of_any_length(net, weights, samples, frames):
    sound = torch.from_numpy(noise(samples / 44100))[None]
    with torch.no_grad():
        found = net.decibels(sound)
    assert found.shape == (1, 3, 341, frames)
    at = 2 * np.pi * np.arange(1654) / 1654
    window = sum(a * np.cos(k * at) for k, a in enumerate((0.35875, -0.48829, 0.14128, -0.01168)))
    last = np.zeros(2048)
    piece = sound[0, (frames - 1) * 561 :].double().numpy()[:1654]
    last[197 : 197 + len(piece)] = piece * window[: len(piece)]
    power = np.abs(last @ wavelets(weights, 2048)) ** 2
    expected = 10 * np.log10(power)[:1023].reshape(3, 341)  # of next to nothing too: the floor is that of nothing at all
    np.testing.assert_allclose(found[0, :, :, -1], expected, atol=0.02)


def test_a_tone_is_found_in_its_band_and_silence_is_finite():
    fresh = audioclip.AudioHead()
    tone = torch.sin(2 * torch.pi * 10_000 * torch.arange(44100) / 44100)[None]
    with torch.no_grad():
        loud, silent = fresh.decibels(tone).mean(-1)[0], fresh.decibels(torch.zeros(1, 44100))
    assert abs(int(loud.flatten().argmax()) - 10_000 * 2047 / 44100) <= 1 and int(loud.amax(1).argmax()) == 1
    assert (silent == -180).all()


def test_the_window_is_scipys(net):
    signal = pytest.importorskip("scipy.signal")
    np.testing.assert_allclose(net.window.numpy(), signal.get_window("blackmanharris", 1654), atol=1e-7)


def test_the_scale_is_that_of_16_bits():
    assert audioclip.scaled(torch.tensor([-32768.0, 32767.0])).tolist() == [-1, 1]
    assert abs(float(audioclip.scaled(torch.tensor(0.5)))) < 1e-4


# --- the network ------------------------------------------------------------------------------------------------------


def by_table(weights, sound):
    """Written down from the weights alone; (B, samples) of the network's scale -> (B, 1024)."""
    weights = {name.removeprefix("audio."): tensor for name, tensor in weights.items()}

    def norm(x, name):
        mean, variance, gain, shift = (weights[f"{name}.{one}"][:, None, None] for one in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * gain + shift

    def block(x, name, stride):
        kernel = weights[f"{name}.conv2.weight"]
        y = norm(functional.conv2d(x, weights[f"{name}.conv1.weight"]), f"{name}.bn1").clamp(min=0)
        y = torch.cat([functional.conv2d(a, b, stride=stride, padding=1) for a, b in zip(y.chunk(32, 1), kernel.chunk(32, 0), strict=True)], 1)
        y = norm(functional.conv2d(norm(y, f"{name}.bn2").clamp(min=0), weights[f"{name}.conv3.weight"]), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in weights:
            x = norm(functional.conv2d(x[:, :, ::stride, ::stride], weights[f"{name}.downsample.0.weight"]), f"{name}.downsample.1")
        return (x + y).clamp(min=0)

    def attention(x, name, size):
        rows, columns = ([slice(k * n // m, -(-(k + 1) * n // m)) for k in range(m)] for n, m in zip(x.shape[2:], size, strict=True))
        x = torch.stack([torch.stack([x[:, :, row, column].amax((2, 3)) for column in columns], -1) for row in rows], -2)
        kernel = weights[f"{name}.conv_depth.weight"]
        high, wide = kernel.shape[2:]
        padded = functional.pad(x, (wide // 2, wide // 2, high // 2, high // 2))
        x = (padded.unfold(2, high, 1).unfold(3, wide, 1) * kernel[:, 0, None, None]).sum((-2, -1)) + weights[f"{name}.conv_depth.bias"][:, None, None]
        x = torch.einsum("bchw,oc->bohw", x, weights[f"{name}.conv_point.weight"][:, :, 0, 0]) + weights[f"{name}.conv_point.bias"][:, None, None]
        return 1 / (1 + torch.exp(-norm(x, f"{name}.bn")))

    frames = functional.pad(sound, (0, -(sound.shape[1] - 1654) % 561)).unfold(1, 1654, 561) * weights["window"]
    kernels = torch.from_numpy(wavelets({f"audio.{name}": tensor for name, tensor in weights.items()}, 2048))
    power = (functional.pad(frames, (197, 197)).to(torch.complex128) @ kernels).abs() ** 2
    x = (10 * power.log10()).float().transpose(1, 2)[:, :1023].reshape(len(sound), 3, 341, -1)
    x = norm(functional.conv2d(x, weights["conv1.weight"], stride=2, padding=3), "bn1").clamp(min=0)
    x = functional.pad(x, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1))
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        y = x
        for k in range(blocks):
            y = block(y, f"layer{stage}.{k}", 2 if stage > 1 and not k else 1)
        x = y * attention(x, f"att{stage}", y.shape[2:])
    x = x.mean((2, 3)) * attention(x, "att5", (1, 1))[:, :, 0, 0]
    return x @ weights["fc.weight"].T + weights["fc.bias"]


def test_the_network_is_what_its_layers_written_down_give(net, weights):
    sound = torch.from_numpy(np.stack([noise(0.6, seed=1), noise(0.6, seed=2, level=0.01)]))
    with torch.no_grad():
        found, expected = net(sound), by_table(weights, sound)
    assert found.shape == (2, 1024) and expected.std() > 0.01 and (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_released_layout(weights):
    trained = {name: tensor for name, tensor in weights.items() if not name.endswith(("running_mean", "running_var", "num_batches_tracked", "window"))}
    assert sum(tensor.numel() for tensor in trained.values()) == 32_104_771
    shapes = {
        "audio.fbsp.m": (1025,),
        "audio.window": (1654,),
        "audio.conv1.weight": (64, 3, 7, 7),
        "audio.layer1.0.conv2.weight": (128, 4, 3, 3),
        "audio.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "audio.layer4.2.conv3.weight": (2048, 1024, 1, 1),
        "audio.att1.conv_depth.weight": (64, 1, 3, 1),
        "audio.att1.conv_point.weight": (256, 64, 1, 1),
        "audio.att4.conv_depth.weight": (1024, 1, 1, 5),
        "audio.att5.conv_depth.weight": (2048, 1, 3, 5),
        "audio.att5.bn.running_var": (2048,),
        "audio.fc.weight": (1024, 2048),
    }
    assert {name: tuple(weights[name].shape) for name in shapes} == shapes


def test_what_may_differ_in_a_file_and_what_may_not(net, weights, tmp_path):
    bare = {name.removeprefix("audio."): tensor for name, tensor in weights.items()}
    odd = {name: tensor.view(1025, 1) if name.startswith("fbsp") else tensor for name, tensor in bare.items() if not name.endswith(("tracked", "window"))}
    save_file(odd, tmp_path / "bare.safetensors")
    other = audioclip.load(tmp_path / "bare.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))

    def refused(tensors, match):
        save_file(tensors, tmp_path / "odd.safetensors")
        with pytest.raises(FatalError, match=match):
            audioclip.load(tmp_path / "odd.safetensors")

    refused({"visual.conv1.weight": torch.zeros(1)}, "odd.safetensors: has no sound head of AudioCLIP .*; give AudioCLIP-Full-Training.pt")
    refused({**weights, "audio.window": torch.hann_window(1654)}, "its window is not Blackman and Harris'")
    refused({**weights, "audio.fc.weight": torch.zeros(527, 2048)}, r"fc.weight \(527, 2048\), not \(1024, 2048\)")
    refused({name: tensor for name, tensor in weights.items() if name != "audio.att5.bn.bias"}, "1 missing: att5.bn.bias")


# --- the extractor ----------------------------------------------------------------------------------------------------


def pair(folder, sound, rate=44100) -> Pair:
    soundfile.write(folder / f"{len(sound)}.wav", sound, rate, "FLOAT")
    return Pair({"audio_path": str(folder / f"{len(sound)}.wav")}, {})


def embed(extractor, *sounds):
    return [one["embedding"] for one in extractor.run([{"sound": sound} for sound in sounds])]


def loaded(file, **settings) -> AudioClip:
    extractor = pickle.loads(pickle.dumps(AudioClip(**settings)))
    extractor.load("cpu", hub.Weights({"audioclip": str(file)}))
    return extractor


def test_features_do_not_depend_on_the_batch(file):
    extractor = loaded(file)
    sounds = [noise(0.5), noise(0.3, seed=1), noise(0.5, seed=2), np.zeros(9000, np.float32), noise(0.001)]
    found = embed(extractor, *sounds)
    assert all(one.shape == (1, 1024) and one.dtype == np.float32 and np.isfinite(one).all() for one in found)
    for sound, one in zip(sounds, found, strict=True):
        np.testing.assert_allclose(embed(extractor, sound)[0], one, rtol=1e-4, atol=1e-4)
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_long_sound_is_heard_in_windows_of_which_the_last_ends_with_it(file, monkeypatch):
    monkeypatch.setattr("avtools.models.judges.javis_nets.LONGEST", 0.2)
    extractor, sound = loaded(file), noise(0.5)
    size = 8820
    pieces = [sound[:size], sound[size : 2 * size], sound[-size:]]
    found = embed(extractor, sound)[0]
    np.testing.assert_allclose(found, np.mean(embed(extractor, *pieces), axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "begins"), [(1, [0]), (10, [0]), (11, [0, 1]), (20, [0, 10]), (25, [0, 10, 15])])
def test_windows_hold_all_of_the_sound(count, begins):
    found = windows(np.arange(count), 10)
    assert [int(one[0]) for one in found] == begins and {len(one) for one in found} == {min(count, 10)}


def test_full_scale_is_that_of_16_bits_or_left_as_it_is(file, net):
    sound = noise(0.3)
    low = (sound + np.float32(32768)) * np.float32(2) / np.float32(65535) - np.float32(1)
    with torch.no_grad():
        loud, raw = (net(torch.from_numpy(one)[None]).numpy() for one in (sound + np.float32(1 / 65535), low))
    np.testing.assert_allclose(embed(loaded(file), sound)[0], loud, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(embed(loaded(file, level="raw"), sound)[0], raw, rtol=1e-4, atol=1e-4)
    assert np.abs(loud - raw).max() > 0.01


def test_sound_is_resampled_then_cut_or_filled_up(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000).astype(np.float32)
    given = pair(tmp_path, tone, 48000)
    assert len(AudioClip().prepare(given, "audio")["sound"]) == 44100
    lower = AudioClip(rate=16000).prepare(given, "audio")["sound"]
    cut, filled_up = (AudioClip(rate=16000, seconds=seconds).prepare(given, "audio")["sound"] for seconds in (0.5, 4.0))
    assert len(lower) == 16000 and len(cut) == 8000 and (cut == lower[:8000]).all()
    assert len(filled_up) == 64000 and (filled_up[:16000] == lower).all() and not filled_up[16000:].any() and filled_up.dtype == np.float32
    assert np.abs(np.fft.rfft(lower)).argmax() == 440


def test_no_sound_is_skipped():
    class Nothing:
        def heard(self, role, rate):
            return np.zeros(0, np.float32)

    with pytest.raises(Skip, match="there is no sound"):
        AudioClip().prepare(Nothing(), "audio")


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"level": "loud"}, "one of standard, raw"), ({"rate": 10}, "8000 to 192000"), ({"seconds": -1.0}, "0 .all of the sound.")],
)
def test_settings_that_cannot_be(settings, why):
    with pytest.raises(UsageError, match=why):
        AudioClip(**settings)


def test_extractors_are_known_without_torch_or_numpy():
    import subprocess
    import sys

    code = "import sys, avtools.models.judges.javis_nets; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
