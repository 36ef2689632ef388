"""Cnn14 of PANNs, VGGish and PaSST: front ends, networks, released files, and the features that metrics get of them."""

import functools
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import soundfile  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.metrics.media import Pair  # noqa: E402
from avtools.models.judges import listeners, panns, passt, vggish  # noqa: E402

WIDTHS = (4, 6, 8, 8, 12, 16)
SMALL = {"widths": (4, 6, 8, 8, 8, 8), "hidden": 24, "embedding": 12}
SIZE = passt.Size(width=32, depth=2, heads=4)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def filled(net, seed=0):
    """The network with weights and running means that tell inputs apart."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if "num_batches" in name or "melW" in name:
            continue
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        else:
            fan = max(1, tensor[0].numel()) if tensor.dim() > 1 else 4
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (1.5 / fan) ** 0.5)
    return net.eval().requires_grad_(False)


def heard(rate, seconds, seed=0):
    """A rising tone in noise that comes and goes, with silence at the end: float32 (n,)."""
    count = round(rate * seconds)
    time = np.arange(count) / rate
    noise = np.random.default_rng(seed).standard_normal(count) * (0.5 + 0.5 * np.sin(2 * np.pi * (seed + 1.3) * time))
    sound = 0.3 * np.sin(2 * np.pi * (200 + 90 * seed + 900 * time) * time) + 0.1 * noise
    sound[int(count * 0.9) :] = 0
    return sound.astype(np.float32)


# --- front ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate, window, hop, high", [(32000, 1024, 320, 14000), (16000, 512, 160, 8000)])
def test_panns_hears_librosas_decibels(rate, window, hop, high):
    librosa = pytest.importorskip("librosa")
    sound = heard(rate, 1.237)
    power = librosa.feature.melspectrogram(
        y=sound, sr=rate, n_fft=window, hop_length=hop, window="hann", center=True, pad_mode="reflect", power=2.0, n_mels=64, fmin=50, fmax=high
    )
    theirs = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)
    ours = panns.LogMel(rate)(torch.from_numpy(sound)[None])[0, 0].T.numpy()
    assert ours.shape == theirs.shape == (64, 1 + len(sound) // hop)
    assert ours.min() == -100 and ours.max() > 0
    assert np.abs(ours - theirs).max() < 0.01  # dB


def test_vggish_hears_magnitudes_in_triangles_of_the_mel_scale():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    sound = heard(16000, 0.975).astype(np.float64)
    banks = kaldi.get_mel_banks(64, 512, 16000.0, 125.0, 7500.0, 100.0, -500.0, 1.0)[0].numpy()  # without the highest bin
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    theirs = np.stack([np.log(banks @ np.abs(np.fft.rfft(sound[k * 160 : k * 160 + 400] * window, 512))[:256] + 0.01) for k in range(96)])
    ours = vggish.Vggish(**SMALL).mel(torch.from_numpy(sound).float()[None])[0].numpy()
    assert ours.shape == theirs.shape == (96, 64) and len(sound) == vggish.SAMPLES
    assert np.abs(ours - theirs).max() < 2e-4
    assert ours.min() == pytest.approx(np.log(0.01))


def test_passt_hears_kaldis_triangles_of_a_pre_emphasised_spectrum():
    torchaudio = pytest.importorskip("torchaudio")
    sound = torch.from_numpy(heard(32000, 1.5))[None]
    banks = functional.pad(torchaudio.compliance.kaldi.get_mel_banks(128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0)[0], (0, 1))
    spectrogram = torchaudio.transforms.Spectrogram(1024, 800, 320, window_fn=functools.partial(torch.hann_window, periodic=False), power=2.0)
    emphasised = torchaudio.functional.preemphasis(sound.double(), 0.97)[:, 1:]
    theirs = ((banks.double() @ spectrogram.double()(emphasised) + 1e-5).log() + 4.5) / 5
    ours = passt.Passt(SIZE).mel(sound)
    assert ours.shape == theirs.shape == (1, 128, 1 + (48000 - 1) // 320)
    assert (ours - theirs).abs().max() < 2e-3
    assert passt.Passt(SIZE).mel(torch.zeros(1, passt.SAMPLES)).shape == (1, 128, 1000)


def test_a_tone_is_loudest_where_its_band_is():
    time = np.arange(32000) / 32000
    for hertz in (300.0, 1000.0, 5000.0):
        tone = torch.from_numpy(np.sin(2 * np.pi * hertz * time).astype(np.float32))[None]
        bands = passt.Passt(SIZE).mel(tone)[0].mean(1)
        mel = 1127 * np.log(1 + hertz / 700)
        top = 1127 * np.log(1 + 15000 / 700)
        assert abs(int(bands.argmax()) - (mel / top * 129 - 1)) < 1.5


# --- networks ---------------------------------------------------------------------------------------------------------


def plain_cnn14(net, sound):
    """Cnn14 written anew from the paper's table, with librosa's front end."""
    librosa = pytest.importorskip("librosa")
    window, hop, low, high = panns.FRONT_ENDS[net.rate]
    power = librosa.feature.melspectrogram(y=sound, sr=net.rate, n_fft=window, hop_length=hop, pad_mode="reflect", n_mels=64, fmin=low, fmax=high)
    tensors = {name: tensor.double() for name, tensor in net.state_dict().items()}

    def norm(x, name):
        shape = (1, -1, 1, 1)
        mean, var = tensors[f"{name}.running_mean"].view(shape), tensors[f"{name}.running_var"].view(shape)
        return (x - mean) / (var + 1e-5).sqrt() * tensors[f"{name}.weight"].view(shape) + tensors[f"{name}.bias"].view(shape)

    x = torch.from_numpy(librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)).double()[None, :, :, None]  # (1, bands, T, 1)
    x = norm(x, "bn0").permute(0, 3, 2, 1)
    for k in range(1, 7):
        for half in (1, 2):
            x = functional.relu(norm(functional.conv2d(x, tensors[f"conv_block{k}.conv{half}.weight"], padding=1), f"conv_block{k}.bn{half}"))
        if k < 6:
            x = x[:, :, : x.shape[2] // 2 * 2].unflatten(2, (-1, 2)).mean(3).unflatten(3, (-1, 2)).mean(4)
    x = x.mean(3)
    x = x.max(2).values + x.mean(2)
    x = functional.relu(x @ tensors["fc1.weight"].T + tensors["fc1.bias"])
    return x[0], (x @ tensors["fc_audioset.weight"].T + tensors["fc_audioset.bias"])[0]


@pytest.mark.parametrize("rate", [32000, 16000])
def test_cnn14_is_what_the_paper_tells(rate):
    net = filled(panns.Cnn14(rate, WIDTHS))
    sound = heard(rate, 1.31)
    embedding, logits = net(torch.from_numpy(sound)[None])
    theirs = plain_cnn14(net, sound)
    assert embedding.shape == (1, 16) and logits.shape == (1, 527)
    assert torch.allclose(embedding[0].double(), theirs[0], atol=1e-3, rtol=1e-3) and embedding.count_nonzero() > 3
    assert torch.allclose(logits[0].double(), theirs[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("frames, pool", [(1, 1), *((frames, pool) for frames in (2, 7, 8, 9, 10, 31, 64) for pool in (1, 2))])
def test_a_block_seen_in_pieces_is_the_block(frames, pool, monkeypatch):
    block = filled(panns.Block(3, 5, pool))
    x = torch.randn(2, 3, frames, 6, generator=torch.Generator().manual_seed(1))
    whole = block(x)
    monkeypatch.setattr(panns, "STEP", 4)
    assert whole.shape == (2, 5, frames // pool, 6 // pool)
    assert torch.allclose(block(x), whole, atol=1e-5)


def test_vggish_reads_its_last_picture_channels_last():
    net = filled(vggish.Vggish(**SMALL))
    sound = torch.from_numpy(np.stack([heard(16000, 0.975, seed) for seed in range(3)]))
    x = net.mel(sound)[:, None].double()
    for k, layer in enumerate(layer for layer in net.features if isinstance(layer, nn.Conv2d)):
        x = functional.conv2d(x, layer.weight.double(), layer.bias.double(), padding=1).clamp(min=0)
        if k in (0, 1, 3, 5):
            x = x.unflatten(2, (-1, 2)).amax(3).unflatten(3, (-1, 2)).amax(4)
    assert x.shape == (3, 8, 6, 4)
    x = torch.from_numpy(np.moveaxis(x.numpy(), 1, -1).reshape(3, -1))  # TensorFlow's order
    last = [layer for layer in net.embeddings if isinstance(layer, nn.Linear)]
    for k, layer in enumerate(last):
        x = x @ layer.weight.double().T + layer.bias.double()
        x = x.clamp(min=0) if k < 2 else x
    found = net(sound)
    assert torch.allclose(found.double(), x, atol=1e-4, rtol=1e-4) and (found < 0).any()
    net.activation = True
    assert torch.equal(net(sound), found.clamp(min=0))


def test_examples_are_whole_and_follow_each_other():
    sound = torch.arange(16000 * 10.0)
    cut = vggish.examples(sound)
    assert cut.shape == (10, 15600) and cut[:, 0].tolist() == [15360.0 * k for k in range(10)]
    assert len(vggish.examples(sound[: 15600 + 15360 - 1])) == 1 and len(vggish.examples(sound[: 15600 + 15360])) == 2
    short = vggish.examples(sound[:1000])
    assert short.shape == (1, 15600) and not short[0, 1000:].any() and torch.equal(short[0, :1000], sound[:1000])


@pytest.mark.parametrize("seconds, columns", [(10.0, 99), (4.0, 39), (0.16, 1), (0.01, 1)])
def test_passt_is_a_plain_vision_transformer(seconds, columns):
    """transformers' AST: the same transformer with one table of positions, and pictures turned."""
    transformers = pytest.importorskip("transformers")
    net = filled(passt.Passt(SIZE))
    sound = torch.from_numpy(heard(32000, seconds))[None]
    mel = net.mel(sound)
    config = transformers.ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, patch_size=16, qkv_bias=True, frequency_stride=10,
        time_stride=10, max_length=mel.shape[-1], num_mel_bins=128, layer_norm_eps=1e-6, hidden_act="gelu", hidden_dropout_prob=0.0,
    )  # fmt: skip
    theirs = transformers.ASTModel(config).eval()
    own = net.state_dict()
    table = own["freq_new_pos_embed"] + own["time_new_pos_embed"][..., :columns]
    given = {
        "embeddings.cls_token": own["cls_token"],
        "embeddings.distillation_token": own["dist_token"],
        "embeddings.position_embeddings": torch.cat([own["new_pos_embed"], table.flatten(2).transpose(1, 2)], 1),
        "embeddings.patch_embeddings.projection.weight": own["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": own["patch_embed.proj.bias"],
        "layernorm.weight": own["norm.weight"],
        "layernorm.bias": own["norm.bias"],
    }
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for kind in ("weight", "bias"):
        for k in range(2):
            for ours, other in names.items():
                given[f"layers.{k}.{other}.{kind}"] = own[f"blocks.{k}.{ours}.{kind}"]
            for part, tensor in zip("qkv", own[f"blocks.{k}.attn.qkv.{kind}"].chunk(3), strict=True):
                given[f"layers.{k}.attention.{part}_proj.{kind}"] = tensor
    hub.load_strict(theirs, given, "AST")
    pooled = theirs(mel.transpose(1, 2)).pooler_output
    embedding, logits = net(sound)
    assert given["embeddings.position_embeddings"].shape[1] == 2 + 12 * columns
    assert torch.allclose(embedding, pooled, atol=1e-4)
    norm, linear = own["head.0.weight"], own["head.1.weight"]
    assert torch.allclose(logits, functional.layer_norm(pooled, (32,), norm, own["head.0.bias"], 1e-5) @ linear.T + own["head.1.bias"], atol=1e-4)


def test_windows_hear_all_of_a_long_sound():
    ten = passt.SAMPLES
    for length, begins in ((7, [0]), (ten, [0]), (ten + 1, [0, 1]), (2 * ten, [0, ten]), (2 * ten + ten // 2, [0, 3 * ten // 4, 3 * ten // 2])):
        cut = passt.windows(torch.arange(float(length)))
        assert cut[:, 0].tolist() == begins and cut[-1, -1] == length - 1 and cut.shape[1] == min(length, ten)


# --- released files ---------------------------------------------------------------------------------------------------


def shapes(net) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def test_full_sizes_are_those_that_were_published():
    with torch.device("meta"):
        nets = {"panns": panns.Cnn14(), "vggish": vggish.Vggish(), "passt": passt.Passt()}
    count = {name: sum(parameter.numel() for parameter in net.parameters()) for name, net in nets.items()}
    assert count == {"panns": 80_753_615, "vggish": 72_141_184, "passt": 86_153_758}  # of PANNs: as its paper counts them
    of = shapes(nets["panns"])
    assert of["logmel_extractor.melW"] == (513, 64) and of["conv_block6.conv2.weight"] == (2048, 2048, 3, 3)
    assert of["fc_audioset.weight"] == (527, 2048) and of["bn0.running_mean"] == (64,)
    assert panns.Cnn14(16000, WIDTHS).logmel_extractor.melW.shape == (257, 64)
    of = shapes(nets["vggish"])
    assert [name for name in of if name.endswith("weight")] == [
        *(f"features.{k}.weight" for k in (0, 3, 6, 8, 11, 13)),
        *(f"embeddings.{k}.weight" for k in (0, 2, 4)),
    ]
    assert of["embeddings.0.weight"] == (4096, 12288) and of["embeddings.4.weight"] == (128, 4096) and of["features.0.weight"] == (64, 1, 3, 3)
    of = shapes(nets["passt"])
    assert of["freq_new_pos_embed"] == (1, 768, 12, 1) and of["time_new_pos_embed"] == (1, 768, 1, 99) and of["new_pos_embed"] == (1, 2, 768)
    assert of["patch_embed.proj.weight"] == (768, 1, 16, 16) and of["blocks.11.attn.qkv.bias"] == (2304,) and of["head.1.weight"] == (527, 768)
    assert of["blocks.0.mlp.fc1.weight"] == (3072, 768) and of["head_dist.bias"] == (527,) and of["head.0.bias"] == (768,)


def released_panns(net, rate) -> dict:
    """As it was saved in training: with the front end's own tensors, beside what training counted."""
    window = panns.FRONT_ENDS[rate][0]
    transform = {f"spectrogram_extractor.stft.conv_{part}.weight": torch.zeros(window // 2 + 1, 1, window) for part in ("real", "imag")}
    return {"iteration": 600000, "model": {**transform, **net.state_dict()}, "sampler": {"pointer": 5}}


def test_released_files_load_whole(tmp_path):
    cnn14, vgg, vit = filled(panns.Cnn14(32000, WIDTHS)), filled(vggish.Vggish(**SMALL)), filled(passt.Passt(SIZE))
    cnn14.logmel_extractor.melW *= 1.5  # the file's own is used
    torch.save(released_panns(cnn14, 32000), tmp_path / "cnn14.pth")
    torch.save(vgg.state_dict(), tmp_path / "vggish.pth")
    torch.save(vit.state_dict(), tmp_path / "passt.pt")
    pca = {"pproc.pca_eigen_vectors": torch.zeros(12, 12), "pproc.pca_means": torch.zeros(12, 1)}
    hub.save_tensors(tmp_path / "vggish.safetensors", {**vgg.state_dict(), **pca})
    hub.save_tensors(tmp_path / "passt.safetensors", {f"net.{name}": tensor for name, tensor in vit.state_dict().items()})
    hub.save_tensors(tmp_path / "cnn14.safetensors", {name: tensor for name, tensor in cnn14.state_dict().items() if "num_batches" not in name})
    loaders = {
        "cnn14": (functools.partial(panns.load, widths=WIDTHS), cnn14, (".pth", ".safetensors")),
        "vggish": (functools.partial(vggish.load, **SMALL), vgg, (".pth", ".safetensors")),
        "passt": (functools.partial(passt.load, size=SIZE), vit, (".pt", ".safetensors")),
    }
    for name, (load, net, suffixes) in loaders.items():
        for suffix in suffixes:
            found = load(tmp_path / f"{name}{suffix}")
            assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())
            for key, tensor in net.state_dict().items():
                assert torch.equal(found.state_dict()[key], tensor), (name, suffix, key)
    with pytest.raises(FatalError, match=r"cnn14\.pth: does not fit Vggish; .*missing: features"):
        vggish.load(tmp_path / "cnn14.pth", **SMALL)
    with pytest.raises(FatalError, match=r"passt\.pt: does not fit Cnn14"):
        panns.load(tmp_path / "passt.pt", widths=WIDTHS)
    torch.save({name: tensor for name, tensor in vit.state_dict().items() if name != "blocks.1.norm2.bias"}, tmp_path / "less.pt")
    with pytest.raises(FatalError, match=r"less\.pt: does not fit Passt; 1 missing: blocks\.1\.norm2\.bias"):
        passt.load(tmp_path / "less.pt", size=SIZE)


def test_a_file_for_another_rate_is_told(tmp_path):
    torch.save(released_panns(filled(panns.Cnn14(16000, WIDTHS)), 16000), tmp_path / "16k.pth")
    assert panns.load(tmp_path / "16k.pth", 16000, widths=WIDTHS).rate == 16000
    with pytest.raises(FatalError, match=r"16k\.pth: Cnn14 for 16000 Hz, not for 32000 Hz; give that one, or set panns' rate"):
        panns.load(tmp_path / "16k.pth", 32000, widths=WIDTHS)


# --- extractors -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small networks' weights under the released names, which the extractors load."""
    torch.save(released_panns(filled(panns.Cnn14(32000, WIDTHS)), 32000), tmp_path / "Cnn14_mAP=0.431.pth")
    torch.save(released_panns(filled(panns.Cnn14(16000, WIDTHS), 5), 16000), tmp_path / "Cnn14_16k_mAP=0.438.pth")
    torch.save(filled(vggish.Vggish(**SMALL)).state_dict(), tmp_path / "vggish-10086976.pth")
    torch.save(filled(passt.Passt(SIZE)).state_dict(), tmp_path / "passt-s-f128-p16-s10-ap.476-swa.pt")
    monkeypatch.setattr(panns, "load", functools.partial(panns.load, widths=WIDTHS))
    monkeypatch.setattr(vggish, "load", functools.partial(vggish.load, **SMALL))
    monkeypatch.setattr(passt, "load", functools.partial(passt.load, size=SIZE))
    return tmp_path


EXTRACTORS = [
    (listeners.Panns, {}, {"embedding": (1, 16), "probabilities": (527,), "logits": (527,)}),
    (listeners.Panns, {"rate": 16000}, {"embedding": (1, 16), "probabilities": (527,), "logits": (527,)}),
    (listeners.VggishFeatures, {}, {"embedding": (None, 12)}),
    (listeners.VggishFeatures, {"activation": 1}, {"embedding": (None, 12)}),
    (listeners.PasstFeatures, {}, {"embedding": (1, 32), "probabilities": (527,), "logits": (527,)}),
]


@pytest.mark.parametrize("kind, settings, expected", EXTRACTORS)
def test_features_do_not_depend_on_the_batch(kind, settings, expected, folder):
    extractor = pickle.loads(pickle.dumps(kind(**settings)))
    extractor.load("cpu", hub.Weights.parse([f"{extractor.name}={folder}"]))
    lengths = [2.0, 0.004, 12.5, 2.0, 0.31, 1.0, 2.0, 23.1]
    sounds = [heard(extractor.rate, seconds, seed) for seed, seconds in enumerate(lengths)] + [np.zeros(extractor.rate, np.float32)]
    found = extractor.run([{"sound": sound} for sound in sounds])
    assert set(extractor.outputs) == set(expected)
    for seconds, sound, features in zip([*lengths, 1.0], sounds, found, strict=True):
        (alone,) = extractor.run([{"sound": sound}])
        for name, shape in expected.items():
            rows = max(1, int((seconds - 0.015) / 0.96)) if shape[0] is None else shape[0]
            assert features[name].shape == (rows, *shape[1:]) and features[name].dtype == np.float32, (name, seconds)
            assert np.isfinite(features[name]).all()
            assert np.allclose(features[name], alone[name], atol=1e-4, rtol=1e-4), (name, seconds)
    for one, other in ((0, 3), (3, 6), (0, 8)):  # other sounds have other features
        assert np.abs(found[one]["embedding"][0] - found[other]["embedding"][0]).max() > 1e-2
    if "logits" in expected:
        assert np.allclose(found[0]["probabilities"], 1 / (1 + np.exp(-found[0]["logits"].astype(np.float64))), atol=1e-5)
    assert pickle.loads(pickle.dumps(extractor)).set == extractor.set  # also when loaded


def test_a_long_sound_is_the_mean_of_its_windows(folder):
    extractor = listeners.PasstFeatures()
    extractor.load("cpu", hub.Weights.parse([str(folder / "passt-s-f128-p16-s10-ap.476-swa.pt")]))
    first, second = heard(32000, 10.0, 1), heard(32000, 10.0, 2)
    both, one, other = extractor.run([{"sound": sound} for sound in (np.concatenate([first, second]), first, second)])
    for name in extractor.outputs:
        assert np.allclose(both[name], (one[name] + other[name]) / 2, atol=1e-4)
    assert np.abs(one["embedding"] - other["embedding"]).max() > 1e-2


def test_extractors_hear_the_mean_of_the_channels_at_their_rate(folder, tmp_path):
    left, right = heard(44100, 1.5, 1), heard(44100, 1.5, 2)
    soundfile.write(tmp_path / "judged.wav", np.stack([left, right], 1), 44100, "FLOAT")
    soundfile.write(tmp_path / "true.wav", left, 44100, "FLOAT")
    pair = Pair({"generated_audio_path": str(tmp_path / "judged.wav"), "audio_path": str(tmp_path / "true.wav")}, {})
    for kind, settings, _ in EXTRACTORS:
        extractor = kind(**settings)
        item, true = extractor.prepare(pair, "audio"), extractor.prepare(pair, "reference_audio")
        assert item["sound"].dtype == np.float32 and len(item["sound"]) == len(true["sound"]) == round(1.5 * extractor.rate)
        extractor.load("cpu", hub.Weights.parse([f"{extractor.name}={folder}"]))
        one, other = extractor.run([item, true])
        assert one["embedding"].shape == other["embedding"].shape and np.abs(one["embedding"] - other["embedding"]).max() > 1e-3


def test_which_file_is_found_and_told(folder, tmp_path):
    given = hub.Weights.parse([f"panns={folder}"])
    assert listeners.Panns().locate(given).name == "Cnn14_mAP=0.431.pth"
    assert listeners.Panns(rate=16000).locate(given).name == "Cnn14_16k_mAP=0.438.pth"
    digests = {listeners.Panns(**settings).weights_digest(given) for settings in ({}, {"rate": 16000})}
    assert digests == {hub.digest(folder / "Cnn14_mAP=0.431.pth"), hub.digest(folder / "Cnn14_16k_mAP=0.438.pth")}
    assert listeners.Panns().key != listeners.Panns(rate=16000).key and listeners.VggishFeatures().key != listeners.VggishFeatures(activation=1).key
    empty = tmp_path / "empty"
    empty.mkdir()
    for kind in (listeners.Panns, listeners.VggishFeatures, listeners.PasstFeatures):
        with pytest.raises(FatalError, match=r"empty: has no .*; give the file"):
            kind().locate(hub.Weights.parse([f"{kind.name}={empty}"]))
        with pytest.raises(FatalError, match=rf"no weights of .*get them by hand from https://.*give --weights {kind.name}=FILE"):
            kind().locate(hub.Weights())


def test_a_videos_own_sound_is_heard(folder, media):
    clip = min((media / "vggsound").glob("*.mp4"))
    pair = Pair({"path": str(clip)}, {})
    for kind, settings, _ in EXTRACTORS:
        extractor = kind(**settings)
        extractor.load("cpu", hub.Weights.parse([f"{extractor.name}={folder}"]))
        (found,) = extractor.run([extractor.prepare(pair, "audio")])
        assert all(np.isfinite(array).all() for array in found.values()) and pair.facts["sound"]["seconds"] > 1


def test_settings_that_no_network_has():
    with pytest.raises(UsageError, match=r"panns rate=8000: 32000 or 16000"):
        listeners.Panns(rate=8000)
    with pytest.raises(UsageError, match=r"vggish activation=2: 0 or 1"):
        listeners.VggishFeatures(activation=2)


def test_listing_the_extractors_needs_no_network():
    import subprocess
    import sys

    code = "import sys, avtools.models.judges.listeners; print(sorted({'torch', 'numpy', 'av'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
