"""CAVP: its networks against other formulations, its file, parts of long clips, and the metric made of it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError  # noqa: E402
from avtools.metrics import Skip  # noqa: E402
from avtools.metrics.media import Pair  # noqa: E402
from avtools.models.judges import sync  # noqa: E402
from avtools.models.parts import cavp  # noqa: E402

SMALL = cavp.Config(width=8, blocks=(1, 1, 2, 1), channels=(4, 4, 6, 6, 8, 8), hidden=16, dim=16)


def small(config=SMALL, seed=0):
    """A network whose outputs tell inputs apart."""
    torch.manual_seed(seed)
    net = cavp.Cavp(config).eval().requires_grad_(False)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.2)
        elif name.endswith("running_var") or tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    return net


# --- the networks ---------------------------------------------------------------------------------------------------


def test_full_size_names_shapes_and_count():
    with torch.device("meta"):
        net = cavp.Cavp()
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert sum(parameter.numel() for parameter in net.parameters()) == 109_210_241
    assert len(shapes) == 400
    assert cavp.Config.of(shapes) == cavp.Config()
    expected = {
        "video_encoder.conv1.conv.weight": (64, 3, 1, 7, 7),
        "video_encoder.layer1.0.downsample.conv.weight": (256, 64, 1, 1, 1),
        "video_encoder.layer2.3.conv1.conv.weight": (128, 512, 1, 1, 1),
        "video_encoder.layer3.0.conv1.conv.weight": (256, 512, 3, 1, 1),
        "video_encoder.layer4.2.conv2.conv.weight": (512, 512, 1, 3, 3),
        "video_encoder.layer4.2.conv3.bn.running_var": (2048,),
        "video_project_head.weight": (512, 2048),
        "spec_encoder.bn0.weight": (128,),
        "spec_encoder.conv_block1.conv1.weight": (64, 1, 3, 3),
        "spec_encoder.conv_block6.conv2.weight": (2048, 2048, 3, 3),
        "spec_encoder.fc1.weight": (512, 2048),
        "logit_scale": (),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert net.video_encoder(torch.zeros(1, 3, 5, 224, 224, device="meta")).shape == (1, 5, 2048)
    assert net.spec_encoder(torch.zeros(1, 256, 128, device="meta")).shape == (1, 16, 512)


def test_single_pictures_go_through_resnet_50_of_transformers():
    transformers = pytest.importorskip("transformers")
    net = small(cavp.Config(width=16, blocks=(2, 1, 2, 1))).video_encoder
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[64, 128, 256, 512], depths=[2, 1, 2, 1], layer_type="bottleneck", downsample_in_first_stage=False)
    other = transformers.ResNetModel(config).eval()
    names = {"conv1.": "embedder.embedder."} | {f"layer{k + 1}.": f"encoder.stages.{k}.layers." for k in range(4)}
    found = {}
    for name, tensor in net.state_dict().items():
        begin = next(begin for begin in names if name.startswith(begin))
        rest = name.removeprefix(begin).replace("downsample.", "shortcut.")
        for k in range(3):
            rest = rest.replace(f"conv{k + 1}.", f"layer.{k}.")
        middle = tensor.shape[2] // 2 if tensor.dim() == 5 else 0  # of kernels over time: what one picture alone meets
        found[names[begin] + rest.replace("conv.", "convolution.").replace("bn.", "normalization.")] = tensor[:, :, middle] if tensor.dim() == 5 else tensor
    other.load_state_dict(found)
    pictures = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        wanted = other(pictures).pooler_output.flatten(1)
    assert torch.allclose(net(pictures[:, :, None])[:, 0], wanted, atol=1e-4, rtol=1e-4)


def test_only_the_last_two_stages_look_over_time():
    net = small().video_encoder
    clip = torch.rand(1, 3, 30, 32, 32)
    before = net(clip)
    clip[:, :, 15] = 0
    assert (net(clip) - before).abs().amax(-1)[0].nonzero().flatten().tolist() == list(range(12, 19))  # three blocks, one picture on each side each


@pytest.mark.parametrize("config", [SMALL, cavp.Config(8, (1, 1, 1, 1), (4, 4, 6, 16), False, 0, False, 16), cavp.Config(8, (1, 1, 1, 1), (4,) * 5, True, 12, True, 16)])
def test_the_sound_network_is_a_chain_of_convolutions(config):
    net = small(config)
    mel = torch.rand(128, 330)
    x = mel.T[None, None]
    norm = net.spec_encoder.bn0 if config.normed else None
    if norm is not None:
        x = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    for k in range(len(config.channels)):
        block = getattr(net.spec_encoder, f"conv_block{k + 1}")
        for conv, bn in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
            x = functional.relu(functional.batch_norm(functional.conv2d(x, conv.weight, padding=1), bn.running_mean, bn.running_var, bn.weight, bn.bias))
        if k < 4:
            x = x[:, :, : x.shape[2] // 2 * 2].unflatten(2, (-1, 2)).mean(3)
        if k < 5:
            x = x.unflatten(3, (-1, 2)).mean(4)
    x = x.mean(3)[0].T
    for layer in (getattr(net.spec_encoder, "fc1", None), net.spec_project_head if config.projected else None):
        x = x if layer is None else functional.linear(x, layer.weight, layer.bias)
    assert torch.allclose(net.hear(mel), x / x.norm(dim=-1, keepdim=True), atol=1e-5)


def test_long_clips_in_parts_are_as_in_one(monkeypatch):
    net = small(cavp.Config(8, (1, 1, 6, 3), SMALL.channels, True, 16, False, 16))  # as deep over time as the released one
    pictures, mel = torch.rand(95, 3, 32, 32), torch.rand(128, 40 * 64 + 9)
    monkeypatch.setattr(cavp, "AT_ONCE", 1000)
    monkeypatch.setattr(cavp, "SOUND_AT_ONCE", 1000 * 64)
    seen, heard = net.see(pictures), net.hear(mel)
    assert seen.shape == (95, 16) and heard.shape == (160, 16)
    assert torch.allclose(seen.norm(dim=-1), torch.ones(95)) and torch.allclose(heard.norm(dim=-1), torch.ones(160))
    monkeypatch.setattr(cavp, "AT_ONCE", 40)
    monkeypatch.setattr(cavp, "SOUND_AT_ONCE", 16 * 64)
    assert torch.allclose(net.see(pictures), seen, atol=1e-5) and torch.allclose(net.hear(mel), heard, atol=1e-5)
    monkeypatch.setattr(cavp, "CONTEXT", 1)  # the least that does not do
    assert not torch.allclose(net.see(pictures), seen, atol=1e-5)


# --- sound ----------------------------------------------------------------------------------------------------------


def test_the_mel_is_that_of_librosa():
    librosa = pytest.importorskip("librosa")
    sound = np.random.default_rng(0).standard_normal(2 * 16000).astype(np.float32) * np.linspace(0, 0.5, 2 * 16000, dtype=np.float32)
    cut = cavp.whole_seconds(torch.from_numpy(sound), 2)
    assert cut.shape == (31999,)
    bands = librosa.feature.melspectrogram(y=cut.numpy(), sr=16000, n_fft=1024, hop_length=250, power=1, n_mels=128, fmin=125, fmax=7600, pad_mode="constant")
    wanted = np.clip((20 * np.log10(np.maximum(bands, 1e-5)) + 80) / 100, 0, 1)
    assert cavp.log_mel(cut).shape == (128, 128)
    assert np.allclose(cavp.log_mel(cut).numpy(), wanted, atol=1e-4)
    longer = cavp.whole_seconds(torch.from_numpy(sound[:100]), 1)
    assert longer.shape == (15999,) and not longer[100:].any()


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["state_dict", "plain", "safetensors"])
def test_round_trip_of_the_released_layout(tmp_path, form):
    net = small()
    tensors = net.state_dict()
    if form == "safetensors":
        path = tmp_path / "model.safetensors"
        hub.save_tensors(path, tensors)
    else:
        path = tmp_path / "deep" / "cavp_epoch66.ckpt"
        path.parent.mkdir()
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 66} if form == "state_dict" else tensors, path)
    for given in (path, tmp_path):
        loaded = cavp.load(given)
        assert loaded.config == SMALL
        assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in tensors.items())
        assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_counts_of_batches_may_be_missing(tmp_path):
    torch.save({name: tensor for name, tensor in small().state_dict().items() if "num_batches" not in name and name != "logit_scale"}, tmp_path / "c.ckpt")
    net, pictures = cavp.load(tmp_path / "c.ckpt"), torch.rand(5, 3, 32, 32)
    assert torch.equal(net.to("cpu").see(pictures), small().see(pictures))


def test_files_that_are_no_cavp_are_told_from_it(tmp_path):
    tensors = small().state_dict()
    for name, kept, told in (
        ("other", {"encoder.weight": torch.zeros(2)}, "is no whole CAVP"),
        ("half", {name: t for name, t in tensors.items() if name.startswith("video")}, "spec_encoder.conv_block1"),
        ("lacks", {name: t for name, t in tensors.items() if name != "spec_encoder.bn0.running_mean"}, "1 missing: spec_encoder.bn0.running_mean"),
        ("more", tensors | {"spec_encoder.conv_block1.se.weight": torch.zeros(2)}, "1 unexpected: spec_encoder.conv_block1.se.weight"),
    ):
        torch.save(kept, tmp_path / f"{name}.pt")
        with pytest.raises(FatalError, match=told):
            cavp.load(tmp_path / f"{name}.pt")
    with pytest.raises(FatalError, match="has neither cavp_epoch66.ckpt"):
        cavp.load(tmp_path)


def test_the_encoder_of_pictures(tmp_path):
    torch.save(small().state_dict(), tmp_path / "cavp_epoch66.ckpt")
    encoder = cavp.cavp_from(tmp_path)
    assert (encoder.dim, encoder.size) == (16, 224)
    clips = [torch.rand(3, 3, 32, 32), torch.rand(6, 3, 32, 32)]
    found = encoder(clips)
    assert [one.shape for one in found] == [(3, 16), (6, 16)]
    assert torch.equal(found[1], encoder(clips[1:])[0])


def test_vta_ldm_takes_it_as_its_encoder(tmp_path):
    from avtools.models.vta_ldm import checkpoint
    from avtools.models.vta_ldm.config import PRESETS, Config
    from avtools.models.vta_ldm.system import ENCODERS, VtaLdm
    from avtools.training import config as settings

    torch.save(small().state_dict(), tmp_path / "cavp_epoch66.ckpt")
    system = VtaLdm(settings.resolve(Config, PRESETS, "cavp", None, []))
    assert (system.config.feature_dim, system.config.frame_rate) == (512, 4.0)
    encoder = checkpoint.picture_encoder(system.config, hub.Weights.parse([f"cavp={tmp_path}"]), ENCODERS)
    assert encoder([torch.rand(2, 3, 224, 224)])[0].shape == (2, 16)


# --- the metric -----------------------------------------------------------------------------------------------------


def video(path, frames, fps=8, sound=None):
    import av

    with av.open(str(path), "w") as out:
        picture, stream = out.add_stream("ffv1", rate=fps), out.add_stream("pcm_s16le", rate=16000)
        picture.width, picture.height, picture.pix_fmt, stream.layout = 48, 32, "bgr0", "mono"
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 4 * k, np.uint8), format="rgb24").reformat(format="bgr0")
            frame.pts = k
            out.mux(picture.encode(frame))
        samples = np.random.default_rng(1).standard_normal((1, round(16000 * (frames / fps if sound is None else sound)))) * 3000
        frame = av.AudioFrame.from_ndarray(samples.astype(np.int16), layout="mono")
        frame.rate, frame.pts = 16000, 0
        out.mux(stream.encode(frame))
        out.mux(picture.encode(None))
        out.mux(stream.encode(None))
    return Pair({"path": str(path)}, {})


def test_whole_seconds_of_the_picture_are_judged(tmp_path):
    pair = video(tmp_path / "a.mkv", 21, sound=2.25)  # 2.6 s
    seen, heard = (one.prepare(pair, role) for one, role in sync.CavpScore().wants().values())
    assert seen["pictures"].shape == (8, 224, 224, 3)
    assert seen["pictures"][:, 0, 0, 0].tolist() == [8 * k for k in range(8)]  # what is shown at k / 4 s
    assert heard["sound"].shape == (31999,)
    assert np.array_equal(heard["sound"], pair.heard("audio", 16000)[:31999])
    short = sync.CavpAudio().prepare(video(tmp_path / "b.mkv", 24, sound=1.5), "audio")["sound"]
    assert short.shape == (47999,) and short[:24000].any() and not short[24000:].any()
    for extractor in (sync.CavpVideo(), sync.CavpAudio()):
        with pytest.raises(Skip, match="0.88 s, and whole seconds"):
            extractor.prepare(video(tmp_path / "c.mkv", 7, sound=3), "video")


def test_the_score_is_the_mean_cosine_of_steps(tmp_path):
    torch.save(small().state_dict(), tmp_path / "cavp_epoch66.ckpt")
    weights, metric = hub.Weights({"cavp": str(tmp_path)}), sync.CavpScore()
    assert metric.weights_digest(weights) == dict.fromkeys(("cavp-video", "cavp-audio"), hub.digest(tmp_path / "cavp_epoch66.ckpt"))
    pairs = [video(tmp_path / f"{k}.mkv", frames) for k, frames in enumerate((16, 24))]
    found = {}
    for name, (extractor, role) in metric.wants().items():
        extractor.load("cpu", weights)
        items = [extractor.prepare(pair, role) for pair in pairs]
        found[name] = extractor.run(items)
        assert np.array_equal(extractor.run(items[1:])[0]["embedding"], found[name][1]["embedding"])
    assert metric.video.net is metric.audio.net
    assert [one["embedding"].shape for one in found["seen"]] == [one["embedding"].shape for one in found["heard"]] == [(8, 16), (12, 16)]
    row = metric.row({name: one[1] for name, one in found.items()})
    wanted = functional.cosine_similarity(torch.from_numpy(found["seen"][1]["embedding"]), torch.from_numpy(found["heard"][1]["embedding"])).mean()
    assert row == {"cavp": pytest.approx(wanted.item(), abs=1e-6)}
