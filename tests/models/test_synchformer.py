"""Synchformer: its networks against other formulations, its file, what it is given, and the metric made of it."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.metrics import Skip  # noqa: E402
from avtools.metrics.media import Pair, Sound  # noqa: E402
from avtools.models.judges import sync, synchformer  # noqa: E402

SMALL = synchformer.Size(width=128, picture_layers=2, sound_layers=2, layers=2, picture=32, patch=16)  # two heads, eight of what decides


def small(seed=0, size=SMALL):
    """A network whose outputs tell inputs apart."""
    torch.manual_seed(seed)
    net = synchformer.Synchformer(size).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.1) if parameter.dim() > 1 else parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return net


# --- the networks ---------------------------------------------------------------------------------------------------


def test_full_size_names_shapes_and_count():
    with torch.device("meta"):
        net = synchformer.Synchformer()
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert sum(parameter.numel() for parameter in net.parameters()) == 236_869_653
    assert len(shapes) == 511
    assert synchformer.Size.of(shapes) == synchformer.Size()
    expected = {
        "vfeat_extractor.cls_token": (1, 1, 768),
        "vfeat_extractor.pos_embed": (1, 197, 768),
        "vfeat_extractor.temp_embed": (1, 8, 768),
        "vfeat_extractor.patch_embed_3d.proj.weight": (768, 3, 2, 16, 16),
        "vfeat_extractor.blocks.11.timeattn.qkv.weight": (2304, 768),
        "vfeat_extractor.blocks.11.norm3.bias": (768,),
        "vfeat_extractor.spatial_attn_agg.self_attn.in_proj_weight": (2304, 768),
        "vfeat_extractor.spatial_attn_agg.cls_token": (1, 1, 768),
        "afeat_extractor.ast.embeddings.position_embeddings": (1, 74, 768),
        "afeat_extractor.ast.embeddings.patch_embeddings.projection.weight": (768, 1, 16, 16),
        "afeat_extractor.ast.encoder.layer.11.attention.attention.query.weight": (768, 768),
        "afeat_extractor.ast.encoder.layer.11.intermediate.dense.weight": (3072, 768),
        "afeat_extractor.freq_attn_agg.linear1.weight": (3072, 768),
        "transformer.pos_emb.pos_emb": (1, 198, 768),
        "transformer.blocks.2.attn.key.weight": (768, 768),
        "transformer.blocks.2.mlp.2.weight": (768, 3072),
        "transformer.off_head.weight": (21, 768),
        "vproj.weight": (768, 768),
        "aproj.bias": (768,),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_the_sound_encoder_is_ast_of_transformers():
    transformers = pytest.importorskip("transformers")
    net = small().afeat_extractor.ast
    config = transformers.ASTConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, max_length=66, num_mel_bins=128, layer_norm_eps=1e-12
    )
    other = transformers.ASTModel(config).eval()
    names = {"attention.attention.query": "q_proj", "attention.attention.key": "k_proj", "attention.attention.value": "v_proj"}
    theirs = other.state_dict()
    found = {}
    for name, tensor in net.state_dict().items():
        if name not in theirs:  # since its version 5 it has other names
            name = name.replace("encoder.layer.", "layers.").replace("attention.output.dense", "attention.o_proj")
            name = name.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")
            for ours, its in names.items():
                name = name.replace(ours, f"attention.{its}")
        found[name] = tensor
    other.load_state_dict(found)
    mel = torch.randn(3, 66, 128)
    with torch.no_grad():
        wanted = other(mel).last_hidden_state[:, 2:].unflatten(1, (12, 6))
    assert torch.allclose(net(mel), wanted, atol=1e-5)


def test_divided_attention_is_that_of_each_group_with_the_class_token():
    torch.manual_seed(0)
    layer = synchformer.Divided(128).requires_grad_(False)
    moments, places = 3, 4
    tokens = torch.randn(2, 1 + moments * places, 128)
    whole = torch.nn.MultiheadAttention(128, 2, batch_first=True).requires_grad_(False)
    whole.in_proj_weight.copy_(layer.qkv.weight), whole.in_proj_bias.copy_(layer.qkv.bias)
    whole.out_proj.load_state_dict(layer.proj.state_dict())
    for over_time in (True, False):
        found = layer(tokens, moments, over_time)
        wanted = torch.empty_like(found)
        wanted[:, :1] = whole(tokens[:, :1], tokens, tokens)[0]
        for number in range(places if over_time else moments):
            members = torch.arange(moments) * places + number if over_time else torch.arange(places) + number * places
            group = tokens[:, 1 + members]
            seen = torch.cat([tokens[:, :1], group], 1)
            wanted[:, 1 + members] = whole(group, seen, seen)[0]
        assert torch.allclose(found, wanted, atol=1e-5)


def test_what_decides_is_a_plain_transformer():
    net = small().transformer
    seen, heard = torch.randn(2, 14 * 8, 128), torch.randn(2, 14 * 6, 128)
    tokens = torch.cat([net.OFF_tok.expand(2, -1, -1), net.vis_in_lnorm(seen), net.MOD_tok.expand(2, -1, -1), net.aud_in_lnorm(heard)], 1)
    tokens = tokens + net.pos_emb.pos_emb
    for block in net.blocks:
        other = torch.nn.TransformerEncoderLayer(128, 8, 512, 0.0, "gelu", batch_first=True, norm_first=True).eval().requires_grad_(False)
        parts = [block.attn.query, block.attn.key, block.attn.value]
        other.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        other.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        for mine, its in ((block.attn.proj, other.self_attn.out_proj), (block.ln1, other.norm1), (block.ln2, other.norm2), (block.mlp[0], other.linear1), (block.mlp[2], other.linear2)):
            its.load_state_dict(mine.state_dict())
        tokens = other(tokens)
    assert torch.allclose(net(seen, heard), net.off_head(net.ln_f(tokens)[:, 0]), atol=1e-5)


def test_a_summary_looks_at_all_tokens_in_any_order():
    torch.manual_seed(0)
    layer = synchformer.Summary(128).eval().requires_grad_(False)
    tokens = torch.randn(2, 5, 128)
    assert layer(tokens).shape == (2, 128)
    assert torch.allclose(layer(tokens), layer(tokens.flip(1)), atol=1e-5)
    before = layer(tokens)
    tokens[0, 3] *= -1
    assert not torch.allclose(layer(tokens)[0], before[0], atol=1e-3) and torch.allclose(layer(tokens)[1], before[1], atol=1e-6)


def test_moments_and_places_are_not_mixed_up():
    net = small().vfeat_extractor
    segments = torch.rand(1, 16, 3, 32, 32)
    for block in net.blocks:  # what is left is the patches' own way
        block.timeattn.proj.weight.zero_(), block.attn.proj.weight.zero_()
    before = net(segments)
    segments[:, 6:8] += 1
    changed = (net(segments) - before).abs().amax(-1)[0]
    assert (changed > 1e-4).nonzero().flatten().tolist() == [3]
    sound = small().afeat_extractor
    for layer in sound.ast.encoder["layer"]:
        layer.attention["output"]["dense"].weight.zero_()
    mel = torch.randn(1, 66, 128)
    before = sound(mel)
    mel[:, 60:] += 1  # of the patches (16 frames, 10 apart) only the last has them
    changed = (sound(mel) - before).abs().amax(-1)[0]
    assert (changed > 1e-4).nonzero().flatten().tolist() == [5]


# --- what it is given -----------------------------------------------------------------------------------------------


def test_the_mel_is_that_of_torchaudio():
    torchaudio = pytest.importorskip("torchaudio")
    torch.manual_seed(0)
    segments = torch.randn(3, synchformer.SAMPLES) * torch.tensor([[0.5], [0.01], [0.0]])
    other = torchaudio.transforms.MelSpectrogram(16000, n_fft=1024, win_length=400, hop_length=160, n_mels=128)
    wanted = torch.nn.functional.pad((other(segments) + 1e-6).log(), (0, 1))
    assert torch.allclose(synchformer.log_mel(segments), (wanted + 4.2677393) / (2 * 4.5689974), atol=1e-4)
    assert synchformer.log_mel(segments, 40).shape == (3, 128, 40)


@pytest.mark.parametrize(
    ("segments", "begins"),
    [(1, [[0] * 14]), (14, [range(14)]), (15, [range(14), range(1, 15)]), (28, [range(14), range(14, 28)]), (30, [range(14), range(14, 28), range(16, 30)])],
)
def test_decisions_see_14_segments(segments, begins):
    assert synchformer.groups(segments).tolist() == [list(begin) for begin in begins]


def test_a_clip_is_judged_segment_by_segment():
    net = small()
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(256, (30 * 8 + 8, 32, 32, 3), generator=generator, dtype=torch.uint8)
    sound = torch.randn(31 * 5120 + 77, generator=generator)
    logits = net.judge(pictures, sound)
    assert logits.shape == (3, 21)
    segments = torch.stack([pictures[k * 8 : k * 8 + 16] for k in range(16, 30)]).permute(0, 1, 4, 2, 3) / 127.5 - 1
    mel = synchformer.log_mel(synchformer.sound_segments(sound)[16:30]).transpose(1, 2)
    assert torch.allclose(net(segments[None], mel[None])[0], logits[2], atol=1e-5)
    with pytest.raises(ValueError, match="shorter"):
        net.judge(pictures[:15], sound)


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "training", "safetensors"])
def test_round_trip_of_the_released_layout(tmp_path, form):
    net = small()
    tensors = net.state_dict() | {"vfeat_extractor.patch_embed.proj.weight": torch.zeros(128, 3, 16, 16), "afeat_extractor.classifier.dense.bias": torch.zeros(3)}
    path = tmp_path / ("s.safetensors" if form == "safetensors" else "s.pth")
    if form == "safetensors":
        hub.save_tensors(path, tensors)
    else:
        torch.save({"model": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 3} if form == "training" else tensors, path)
    loaded = synchformer.load(path)
    assert loaded.size == SMALL
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in net.state_dict().items())
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_files_that_are_no_synchformer_are_told_from_it(tmp_path):
    tensors = small().state_dict()
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(FatalError, match="other.pth: is no whole Synchformer"):
        synchformer.load(tmp_path / "other.pth")
    torch.save({name: tensor for name, tensor in tensors.items() if "aproj.weight" not in name}, tmp_path / "lacks.pth")
    with pytest.raises(FatalError, match="1 missing: aproj.weight"):
        synchformer.load(tmp_path / "lacks.pth")
    torch.save(tensors | {"transformer.sync_head.weight": torch.zeros(2)}, tmp_path / "more.pth")
    with pytest.raises(FatalError, match="1 unexpected: transformer.sync_head.weight"):
        synchformer.load(tmp_path / "more.pth")


# --- the metric -----------------------------------------------------------------------------------------------------


@pytest.fixture
def side(monkeypatch):
    monkeypatch.setattr(sync.Synchformer, "side", 32)


def video(path, frames, fps=25, seconds=None):
    """A video of noise that changes with each frame, and sound of its length or of `seconds`."""
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        picture, sound = out.add_stream("ffv1", rate=fps), out.add_stream("pcm_s16le", rate=16000)
        picture.width = picture.height = 48
        picture.pix_fmt, sound.layout = "bgr0", "mono"
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 48, 3), np.uint8), format="rgb24").reformat(format="bgr0")
            frame.pts = k
            out.mux(picture.encode(frame))
        samples = (rng.standard_normal((1, round(16000 * (frames / fps if seconds is None else seconds)))) * 3000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, layout="mono")
        frame.rate, frame.pts = 16000, 0
        out.mux(sound.encode(frame))
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))
    return Pair({"path": str(path)}, {})


@pytest.mark.parametrize(
    ("frames", "seconds", "settings", "pictures", "samples"),
    [
        (130, None, {}, 128, 81920),  # 5.2 s: 15 segments
        (130, 1.0, {}, 24, 15360),  # as much as the sound has
        (130, 1.0, {"pad": "sound"}, 128, 81920),
        (250, None, {"max_seconds": 8.0, "pad": "sound"}, 200, 128000),  # 24 segments, two decisions
        (250, None, {"max_seconds": 4.0, "pad": "both"}, 96, 61440),  # 11 segments
        (50, None, {"max_seconds": 4.0, "pad": "both"}, 96, 61440),
    ],
)
def test_what_is_prepared(tmp_path, side, frames, seconds, settings, pictures, samples):
    pair = video(tmp_path / "a.mkv", frames, seconds=seconds)
    item = sync.Synchformer(**settings).prepare(pair, "audio")
    assert item["pictures"].shape == (pictures, 32, 32, 3) and item["pictures"].dtype == np.uint8
    assert item["sound"].shape == (samples,) and item["sound"].dtype == np.float32
    heard = pair.heard("audio", 16000)[:samples]
    assert np.array_equal(item["sound"][: len(heard)], heard) and not item["sound"][len(heard) :].any()
    shown = pair.seen("video", dataclasses.replace(sync.Synchformer(**settings).pictures, seconds=0.0)).pictures[:pictures]
    assert np.array_equal(item["pictures"][: len(shown)], shown) and not item["pictures"][len(shown) :].any()


def test_what_is_too_short_or_still_is_left_out(tmp_path, side):
    with pytest.raises(Skip, match="0.6 s together"):
        sync.Synchformer().prepare(video(tmp_path / "short.mkv", 15), "audio")
    sync.Synchformer().prepare(video(tmp_path / "least.mkv", 16), "audio")
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    pair = Pair({"path": str(tmp_path / "a.png"), "audio_path": str(tmp_path / "least.mkv")}, {})
    with pytest.raises(Skip, match="still image"):
        sync.Synchformer().prepare(pair, "audio")


@pytest.mark.parametrize(("settings", "told"), [({"pad": "zeros"}, "none, sound or both"), ({"max_seconds": 0.5}, "0.64 s"), ({"pad": "both"}, "max_seconds")])
def test_wrong_settings(settings, told):
    with pytest.raises(UsageError, match=told):
        sync.Desync(**settings)


def test_offsets_have_the_sign_of_the_sound_s_lateness():
    logits = np.eye(21, dtype=np.float32)[[0, 10, 12, 20]]
    assert np.allclose(sync.offsets(logits), [2.0, 0.0, -0.4, -2.0])
    row = sync.Desync().row({"decisions": {"logits": logits}})
    assert row["desync"] == pytest.approx(1.1) and row["desync_offset"] == pytest.approx(-0.1)
    assert json.loads(json.dumps(row)) == row


def test_a_batch_is_as_each_alone(tmp_path, side):
    torch.save(small().state_dict(), tmp_path / "synchformer_state_dict.pth")
    extractor = sync.Synchformer()
    extractor.load("cpu", hub.Weights({"synchformer": str(tmp_path)}))  # the folder that holds it
    pairs = [video(tmp_path / f"{k}.mkv", frames) for k, frames in enumerate((16, 200, 130))]
    pairs.append(pairs[2].with_sound(Sound(np.roll(pairs[2].sound.samples, 6400, 0), 16000)))
    items = [extractor.prepare(pair, "audio") for pair in pairs]
    found = extractor.run(items)
    assert [one["logits"].shape for one in found] == [(1, 21), (2, 21), (2, 21), (2, 21)]
    for item, one in zip(items, found, strict=True):
        assert np.array_equal(extractor.run([item])[0]["logits"], one["logits"])
    assert np.array_equal(items[2]["pictures"], items[3]["pictures"]) and not np.array_equal(found[2]["logits"], found[3]["logits"])
    assert extractor.weights_digest(hub.Weights({"synchformer": str(tmp_path)})) == hub.digest(tmp_path / "synchformer_state_dict.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FatalError, match="has neither synchformer_state_dict.pth"):
        extractor.locate(hub.Weights({"synchformer": str(tmp_path / "empty")}))


@pytest.mark.long
def test_it_is_scored_by_the_command(avtools, tmp_path):
    torch.save(small(size=synchformer.Size(width=64, picture_layers=1, sound_layers=1, layers=1, patch=32)).state_dict(), tmp_path / "s.pth")
    avtools("synth", "-n", "2", "--seconds", "2", "-d", "c", "-o", "c.csv")
    row = next(iter(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text()))))
    video(tmp_path / "short.mkv", 5)
    (tmp_path / "two.csv").write_text(f"path\n{row['path']}\nshort.mkv\n")
    done = avtools("score", "desync", "two.csv", "--weights", "synchformer=s.pth", "--summary", "s.json")
    first, second = csv.DictReader(io.StringIO(done.stdout))
    assert float(first["desync"]) == abs(float(first["desync_offset"])) and 5 * float(first["desync"]) == pytest.approx(round(5 * float(first["desync"])))
    assert second["desync"] == second["desync_offset"] == ""
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["metrics"]["desync"]["count"] == 1
    assert list(summary["metrics"]["desync"]["skipped"]) == ["picture and sound have 0.2 s together, and 0.64 s is the least to judge"]
    done = avtools("score", "desync", "two.csv", "--protocol", "javisbench", "--weights", "synchformer=s.pth", "--summary", "s.json")
    assert all(row["desync"] for row in csv.DictReader(io.StringIO(done.stdout)))  # filled up to 4 s
    assert json.loads((tmp_path / "s.json").read_text())["definitions"]["desync"]["settings"] == {"max_seconds": 4.0, "pad": "both"}
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    done = avtools("score", "desync", "two.csv", "--weights", "synchformer=other.pth", status=3)
    assert "other.pth: is no whole Synchformer" in done.stderr and len(done.stderr.strip().splitlines()) <= 2
