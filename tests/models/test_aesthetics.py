"""Audiobox Aesthetics: windows of sound, its files, and scores that are those of the package's own program and of transformers' WavLM.

The network itself is the package's (pip install audiobox-aesthetics); what needs it is skipped where it is not installed.
"""

import csv
import io
import json
import pathlib
import re
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import soundfile  # noqa: E402

import conftest  # noqa: E402
from avtools import hub  # noqa: E402
from avtools.errors import FatalError  # noqa: E402
from avtools.metrics import Skip, check_installed, configured  # noqa: E402
from avtools.metrics.media import Pair, Sound  # noqa: E402
from avtools.models.judges import aesthetics  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
CONVOLUTIONS = "[(32,10,5)] + [(32,3,2)] * 4 + [(32,2,2)] * 2"
SMALL = {"encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4, "conv_feature_layers": CONVOLUTIONS,
         "num_buckets": 20, "conv_pos": 16, "conv_pos_groups": 4}  # fmt: skip
CONFIG = {"proj_num_layer": 2, "proj_ln": False, "proj_act_fn": "gelu", "proj_dropout": 0, "nth_layer": 3, "use_weighted_layer_sum": True,
          "precision": "bf16", "normalize_embed": True, "output_dim": 1}  # fmt: skip
SCALE = {axis: {"mean": 5.0 + k, "std": 2.0 + k} for k, axis in enumerate(aesthetics.AXES)}


def wav(seconds: float, seed: int = 0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16000))).astype(np.float32)


def pair(samples, rate=16000):
    made = Pair({}, {})
    made.sound = Sound(samples[:, None], rate)
    return made


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds, lengths", [(4, [64000]), (10, [160000]), (13, [160000, 48000]), (20.01, [160000, 160000]), (20.025, [160000, 160000, 400])])
def test_windows_of_ten_seconds(seconds, lengths):
    sound = wav(seconds)
    found = aesthetics.Audiobox().prepare(pair(sound), "audio")
    assert found["lengths"].tolist() == lengths and found["windows"].shape == (len(lengths), 160000)
    for k, length in enumerate(lengths):
        assert np.array_equal(found["windows"][k, :length], sound[160000 * k : 160000 * k + length]) and not found["windows"][k, length:].any()


def test_the_beginning_alone_and_too_little():
    assert aesthetics.Audiobox(seconds=4.0).prepare(pair(wav(13)), "audio")["lengths"].tolist() == [64000]
    (judged,) = configured([aesthetics.Aesthetics], "javisbench", ())
    (extractor, role) = judged.wants()["sound"]
    assert extractor.set == {"seconds": 4.0} and role == "audio" and extractor.key != aesthetics.Audiobox().key
    with pytest.raises(Skip, match="0.02 s of sound are too short"):
        aesthetics.Audiobox().prepare(pair(wav(0.02)), "audio")


def test_windows_count_as_long_as_they_are():
    found = {"sound": {"scores": np.array([[1, 2, 3, 4], [5, 6, 7, 9]], np.float32), "seconds": np.array([10, 2.5])}}
    row = aesthetics.Aesthetics().row(found)
    assert row == pytest.approx({"aes_ce": 1.8, "aes_cu": 2.8, "aes_pc": 3.8, "aes_pq": 5.0, "aes_mean": 3.35})
    assert set(row) == set(aesthetics.Aesthetics.columns)


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_released_size():
    aes = pytest.importorskip("audiobox_aesthetics.model.aes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = aes.AesMultiOutput(proj_num_layer=5)
    tensors = made.state_dict()
    assert sum(tensor.numel() for tensor in made.wavlm_model.state_dict().values()) == 94_381_936
    assert 415e6 < sum(tensor.nbytes for tensor in tensors.values()) < 416e6  # the released file has 416 MB
    assert tensors["layer_weights.CE"].shape == (13,) and tensors["proj_layer.PQ.8.weight"].shape == (1, 768)


@pytest.fixture(scope="module")
def package():
    """The package with a WavLM of 48 channels and 2 layers; the test of the released size comes before it."""
    aes = pytest.importorskip("audiobox_aesthetics.model.aes")
    before = dict(vars(aes.DEFAULT_AUDIO_CFG))
    vars(aes.DEFAULT_AUDIO_CFG).update(SMALL)
    yield aes
    vars(aes.DEFAULT_AUDIO_CFG).update(before)


@pytest.fixture(scope="module")
def net(package):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = package.AesMultiOutput(**{**CONFIG, "precision": "32"}).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    return made


@pytest.fixture(scope="module")
def weights(net, tmp_path_factory):
    file = tmp_path_factory.mktemp("audiobox") / "checkpoint.pt"
    torch.save({"state_dict": net.state_dict(), "model_cfg": CONFIG, "target_transform": SCALE}, file)
    return file


def loaded(source):
    made = aesthetics.Audiobox()
    made.load("cpu", hub.Weights.parse([f"audiobox-aesthetics={source}"]))
    return made


def scores(extractor, *sounds):
    return extractor.run([extractor.prepare(pair(sound), "audio") for sound in sounds])


def test_scores_are_those_of_the_packages_own_program(weights):
    infer = pytest.importorskip("audiobox_aesthetics.infer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = infer.AesPredictor(checkpoint_pth=str(weights), precision="32", data_col="path")
        for seconds in (0.5, 13):
            sound = wav(seconds, 3)
            (wanted,) = theirs.forward([{"path": torch.from_numpy(sound)[None], "sample_rate": 16000}])
            (found,) = scores(loaded(weights), sound)
            row = aesthetics.Aesthetics().row({"sound": found})
            assert {axis: row[f"aes_{axis.lower()}"] for axis in aesthetics.AXES} == pytest.approx({axis: float(wanted[axis]) for axis in aesthetics.AXES}, abs=1e-4)


def renamed(name: str) -> str:
    """WavLM's name in the released file -> transformers'."""
    for old, new in (
        ("post_extract_proj", "feature_projection.projection"), (r"^layer_norm", "feature_projection.layer_norm"), (r"conv_layers\.(\d)\.0\.", r"conv_layers.\1.conv."),
        (r"conv_layers\.0\.2\.", "conv_layers.0.layer_norm."), ("pos_conv.0.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
        ("pos_conv.0.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"), ("pos_conv.0.", "pos_conv_embed.conv."),
        ("self_attn_layer_norm", "layer_norm"), ("self_attn", "attention"), ("relative_attention_bias", "rel_attn_embed"), ("grep_linear", "gru_rel_pos_linear"),
        ("grep_a", "gru_rel_pos_const"), ("fc1", "feed_forward.intermediate_dense"), ("fc2", "feed_forward.output_dense"), ("mask_emb", "masked_spec_embed"),
    ):  # fmt: skip
        name = re.sub(old, new, name)
    return name


def test_the_encoder_is_transformers_wavlm(net, weights):
    config = transformers.WavLMConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, conv_dim=[32] * 7, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, num_buckets=20, max_bucket_distance=800, vocab_size=8,
    )  # fmt: skip
    wavlm = transformers.WavLMModel(config).eval()
    wavlm.load_state_dict({renamed(name): tensor for name, tensor in net.wavlm_model.state_dict().items()})
    sound = wav(10)
    (found,) = scores(loaded(weights), sound)
    with torch.inference_mode():
        hidden = wavlm(torch.from_numpy(sound)[None], output_hidden_states=True).hidden_states
        for k, axis in enumerate(aesthetics.AXES):
            whole = sum(share * one for share, one in zip(net.layer_weights[axis].softmax(0), hidden, strict=True)).mean(1)
            one = net.proj_layer[axis](torch.nn.functional.normalize(whole, dim=-1))
            assert found["scores"][0, k] == pytest.approx(float(one) * SCALE[axis]["std"] + SCALE[axis]["mean"], abs=2e-4), axis


def test_scores_do_not_depend_on_the_batch(weights, monkeypatch):
    sounds, extractor = [wav(seconds, seed) for seed, seconds in enumerate((4, 13, 1, 10, 21))], loaded(weights)
    together = scores(extractor, *sounds)
    assert [one["scores"].shape for one in together] == [(1, 4), (2, 4), (1, 4), (1, 4), (3, 4)] and [one["seconds"].tolist() for one in together][4] == [10, 10, 1]
    monkeypatch.setattr(aesthetics, "AT_ONCE", 1)
    for sound, one in zip(sounds, together, strict=True):
        (alone,) = scores(extractor, sound)
        assert np.allclose(alone["scores"], one["scores"], atol=1e-4)
    assert len({one["scores"][0].tobytes() for one in together}) == 5


def test_every_form_of_the_weights_loads_alike(net, weights, tmp_path):
    hub.save_tensors(tmp_path / "model.safetensors", net.state_dict())
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "target_transform": SCALE}))
    sound = wav(2)
    (wanted,) = scores(loaded(weights), sound)
    for source in (weights.parent, tmp_path, tmp_path / "model.safetensors"):
        (found,) = scores(loaded(source), sound)
        assert np.array_equal(found["scores"], wanted["scores"])


def test_what_does_not_fit_is_told(net, weights, tmp_path):
    def saved(**changed):
        torch.save({"state_dict": net.state_dict(), "model_cfg": CONFIG, "target_transform": SCALE, **changed}, tmp_path / "checkpoint.pt")
        return tmp_path

    with pytest.raises(FatalError, match="mean and deviation of CE, CU, PC, PQ .*give checkpoint.pt"):
        loaded(saved(target_transform={"CE": {"mean": 1.0}}))
    with pytest.raises(FatalError, match="does not fit AesMultiOutput; .*proj_layer.CE"):
        loaded(saved(model_cfg={**CONFIG, "proj_num_layer": 3}))
    with pytest.raises(FatalError, match="1 missing: layer_weights.PQ"):
        loaded(saved(state_dict={name: tensor for name, tensor in net.state_dict().items() if name != "layer_weights.PQ"}))
    with pytest.raises(FatalError, match="no 'state_dict'"):
        torch.save(net.state_dict(), tmp_path / "checkpoint.pt")
        loaded(tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(FatalError, match=r"has none of model.safetensors, checkpoint.pt"):
        loaded(tmp_path)
    hub.save_tensors(tmp_path / "model.safetensors", net.state_dict())
    with pytest.raises(FatalError, match="config.json: not there"):
        loaded(tmp_path)


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(avtools, monkeypatch):
    """The program with the small network."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = (
        "from audiobox_aesthetics.model import aes; from avtools.models import registry; from avtools.cli import main; "
        f"vars(aes.DEFAULT_AUDIO_CFG).update({SMALL}); registry.METRICS['audiobox-aesthetics'] = 'avtools.models.judges.aesthetics:Aesthetics'; main()"
    )
    monkeypatch.setattr(conftest, "command", lambda *arguments: [sys.executable, "-c", code, *map(str, arguments)])
    return avtools


@pytest.mark.long
def test_the_program_scores_sounds(small, weights, tmp_path):
    lines = ["audio_path\n"]
    for k, seconds in enumerate((1, 12, 0.01)):
        soundfile.write(tmp_path / f"{k}.wav", wav(seconds, k), 16000, subtype="FLOAT")
        lines.append(f"{tmp_path}/{k}.wav\n")
    done = small("score", "audiobox-aesthetics", "--weights", f"audiobox-aesthetics={weights}", "--summary", "s.json", "-j1", input="".join(lines))
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    for k, row in enumerate(found[:2]):
        (wanted,) = scores(loaded(weights), wav((1, 12)[k], k))
        for column, value in aesthetics.Aesthetics().row({"sound": wanted}).items():
            assert float(row[column]) == pytest.approx(value, abs=1e-4), column
    assert not found[2]["aes_mean"] and "0.01 s of sound are too short to judge" in done.stderr
    told = json.loads((small.folder / "s.json").read_text())
    assert told["metrics"]["aes_mean"]["count"] == 2 and told["libraries"]["audiobox_aesthetics"]


def test_what_is_not_installed_is_told(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "audiobox_aesthetics" else find(name, *more))
    with pytest.raises(FatalError, match="pip install audiobox-aesthetics"):
        check_installed(aesthetics.Aesthetics)
