"""CLAP of LAION and of Microsoft: front ends, released layouts, any length of sound, batches, texts."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.hub import Weights  # noqa: E402
from avtools.metrics import Skip  # noqa: E402
from avtools.models.judges import clap as judges  # noqa: E402
from avtools.models.judges import msclap  # noqa: E402
from avtools.models.parts import clap  # noqa: E402

AUDIO = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [2, 2, 1, 1], "num_attention_heads": [1, 2, 4, 8], "projection_dim": 24}
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 96, "max_position_embeddings": 40, "vocab_size": 265}
RELEASED_HTSAT = {  # our names -> LAION's
    ".attention.self.relative": ".attn.relative",
    ".attention.output.dense.": ".attn.proj.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}


def scrambled(module, seed=1):
    """With weights that are not nearly zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
        if name.endswith("norm.weight") or "layernorm" in name and name.endswith("weight"):
            tensor.add_(1)
        if name.endswith("running_mean"):
            tensor.sub_(25)  # dB
        if name.endswith("running_var"):
            tensor.copy_(tensor.square() * 100 + 400)
    return module.eval()


def tokens(folder, kind, *special):
    """A tokenizer of GPT-2's kind, of the 256 letters that stand for bytes and a few merges."""
    from avtools.models.parts.imagebind.text import _letters

    merges = ["Ġ d", "Ġd o", "Ġdo g", "a t"]
    words = dict.fromkeys([*special, *_letters(), *(merge.replace(" ", "") for merge in merges)])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    getattr(transformers, kind).from_pretrained(str(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return tokens(tmp_path_factory.mktemp("roberta"), "RobertaTokenizer", "<s>", "<pad>", "</s>", "<unk>", "<mask>")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    return tokens(folder, "GPT2Tokenizer", "!", "<|endoftext|>")


def whole(fused=False):
    config = transformers.ClapConfig(
        text_config={**TEXT, "layer_norm_eps": 1e-5}, audio_config={**AUDIO, "enable_fusion": fused}, projection_dim=24
    )
    return scrambled(transformers.ClapModel(config))


def save_folder(model, folder, tokenizer, fused=False):
    """As transformers writes it."""
    model.save_pretrained(folder)
    settings = {"fft_window_size": 1024, "frequency_min": 50, "frequency_max": 14000, "hop_length": 480, "max_length_s": 10, "sampling_rate": 48000}
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "feature_size": 64, "truncation": "fusion" if fused else "rand_trunc"}))
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def htsat_names(tensors):
    """transformers' names of HTS-AT -> its own, with all that is beside them in the released files."""
    made, parts = {}, {}
    for name, tensor in tensors.items():
        name = name.replace("batch_norm.", "bn0.", 1) if name.startswith("batch_norm.") else name
        if ".attention.self." in name and "relative" not in name:
            block, _, rest = name.partition(".attention.self.")
            part, kind = rest.split(".")
            parts.setdefault(f"{block}.attn.qkv.{kind}", {})[part] = tensor
            continue
        for ours, theirs in RELEASED_HTSAT.items():
            name = name.replace(ours, theirs)
        made[name] = tensor
    made |= {name: torch.cat([found[part] for part in ("query", "key", "value")]) for name, found in parts.items()}
    width = tensors["norm.weight"].shape[0]
    made |= {"layers.0.blocks.1.attn_mask": torch.zeros(64, 64, 64), "tscam_conv.weight": torch.zeros(527, width, 2, 3), "head.bias": torch.zeros(527)}
    return made | {"spectrogram_extractor.stft.conv_real.weight": torch.zeros(513, 1, 1024)}


def laion_names(model, mel=None):
    """transformers' names -> LAION's, as a parallel run saved them."""
    made = {"logit_scale_a": torch.zeros(()), "text_transform.sequential.0.weight": torch.zeros(2, 2), "audio_transform.sequential.0.weight": torch.zeros(2, 2)}
    tensors = model.state_dict()
    inner = "audio_model.audio_encoder."
    audio = htsat_names({name[len(inner) :]: tensor for name, tensor in tensors.items() if name.startswith(inner)})
    if mel is not None:
        audio["logmel_extractor.melW"] = mel
    made |= {f"audio_branch.{name}": tensor for name, tensor in audio.items()}
    for name, tensor in tensors.items():
        if name.startswith("text_model."):
            made[name.replace("text_model.", "text_branch.", 1)] = tensor
        elif "_projection." in name:
            made[name.replace("linear1", "0").replace("linear2", "2")] = tensor
    return {f"module.{name}": tensor for name, tensor in made.items()}


def sound(seconds, rate=48000, seed=0):
    times = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.05, len(times))
    return (0.3 * np.sin(2 * np.pi * (300 + 40 * seed) * times) * (1 + np.sin(2 * np.pi * 3 * times)) + noise).astype(np.float32)


class Row:
    """What a metric asks of a row's pair."""

    def __init__(self, sounds=None, words=None):
        self.sounds, self.said = sounds or {}, words

    def heard(self, role, rate):
        return self.sounds[role]

    def words(self, role):
        return self.said


# --- the front end, and any length ---------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("seconds", [10, 3.3])
def test_the_front_end_is_that_of_transformers(fused, seconds, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clap"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"frequency_min": 50, "truncation": "fusion" if fused else "rand_trunc"}))
    front = clap.FrontEnd(**clap._front_of(tmp_path))
    theirs = transformers.ClapFeatureExtractor(frequency_min=50, truncation="fusion" if fused else "rand_trunc")
    samples = sound(seconds)
    wanted = theirs(samples, sampling_rate=48000, return_tensors="pt")["input_features"][0, 0]
    found = front(torch.from_numpy(clap.windows(samples, front.length)))[0, 0]
    assert found.shape == wanted.shape == (1001, 64)
    assert (found - wanted).abs().max() < 2e-3  # dB


def test_without_a_preprocessor_the_front_end_is_the_released_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clap", "audio_config": {"enable_fusion": True}}))
    found = clap._front_of(tmp_path)
    assert np.allclose(found["matrix"], transformers.ClapFeatureExtractor(frequency_min=50).mel_filters.T, atol=1e-6)


def test_windows_cover_all_of_a_sound():
    samples = np.arange(1, 26, dtype=np.float32)
    found = clap.windows(samples, 10)
    assert found[:, 0].tolist() == [1, 9, 16] and found[-1, -1] == 25 and set(found.ravel()) == set(samples)
    assert clap.windows(samples[:10], 10).tolist() == [samples[:10].tolist()]
    assert clap.windows(samples[:20], 10)[:, 0].tolist() == [1, 11]
    assert clap.windows(samples[:4], 10).tolist() == [[1, 2, 3, 4, 1, 2, 3, 4, 0, 0]]
    assert clap.windows(samples[:4], 10, "repeat").tolist() == [[1, 2, 3, 4, 1, 2, 3, 4, 1, 2]]


# --- LAION's -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_a_folder_of_transformers_and_laions_file_give_what_transformers_gives(fused, tmp_path, roberta):
    model = whole(fused)
    folder = save_folder(model, tmp_path / "folder", roberta, fused)
    theirs = transformers.ClapFeatureExtractor(frequency_min=50, truncation="fusion" if fused else "rand_trunc")
    mel = None if fused else torch.from_numpy(theirs.mel_filters_slaney).float()
    torch.save({"epoch": 15, "name": "x", "state_dict": laion_names(model, mel)}, tmp_path / "laion.pt")
    torch.save(laion_names(model, mel), tmp_path / "bare.pt")
    samples, texts = sound(4), ["a dog at a dog", "rain", "a dog " * 90]
    features = theirs(samples, sampling_rate=48000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        wanted = model.get_audio_features(input_features=features, is_longer=torch.zeros(1, 1, dtype=torch.bool)).pooler_output
        tokenizer = transformers.RobertaTokenizer.from_pretrained(str(roberta))
        inputs = tokenizer(texts, padding="max_length", max_length=38, truncation=True, return_tensors="pt")
        said = model.get_text_features(**inputs).pooler_output
    for path in (folder, tmp_path / "laion.pt", tmp_path / "bare.pt"):
        if path.name != "bare.pt":
            (found,) = clap.embed_sounds(clap.sound_from(path), [samples], "cpu")
            assert np.allclose(found, wanted, atol=1e-4), path
        network = clap.text_from(path, None if path.is_dir() else roberta)
        assert network.context == 38  # 40 places, of which RoBERTa uses none below 2
        assert torch.allclose(network(texts), said, atol=1e-5), path


def test_the_mel_filters_of_a_file_are_those_that_it_was_trained_with(tmp_path):
    model, mel = whole(), torch.rand(513, 64)
    torch.save({"state_dict": laion_names(model, mel)}, tmp_path / "laion.pt")
    assert torch.equal(clap.sound_from(tmp_path / "laion.pt").front.matrix, mel.T)


def test_sounds_in_a_batch_do_not_depend_on_each_other(tmp_path, roberta, monkeypatch):
    network = clap.sound_from(save_folder(whole(), tmp_path / "folder", roberta))
    sounds = [sound(23, seed=1), sound(0.2, seed=2), np.zeros(48000, np.float32), sound(10, seed=3)]
    found = clap.embed_sounds(network, sounds, "cpu")
    assert [len(one) for one in found] == [3, 1, 1, 1]
    assert all(np.isfinite(one).all() and np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5) for one in found)
    monkeypatch.setattr(clap, "WINDOWS", 2)
    for one, alone in zip(found, [clap.embed_sounds(network, [samples], "cpu")[0] for samples in sounds], strict=True):
        assert np.allclose(one, alone, atol=1e-5)
    assert np.allclose(clap.embed_sounds(network, [sounds[0][:480000]], "cpu")[0][0], found[0][0], atol=1e-5)
    assert not np.allclose(found[0][0], found[3][0], atol=1e-2)


def test_texts_in_a_batch_do_not_depend_on_each_other_and_are_cut_at_the_context(tmp_path, roberta):
    folder = save_folder(whole(), tmp_path / "folder", roberta)
    network = clap.text_from(folder, context=6)
    texts = ["rain", "a dog at", "a dog at a dog at a dog"]
    found = network(texts)
    for one, text in zip(found, texts, strict=True):
        assert torch.allclose(one, network([text])[0], atol=1e-5)
    longer = clap.text_from(folder)(texts)
    assert torch.allclose(longer[0], found[0], atol=1e-5) and not torch.allclose(longer[2], found[2], atol=1e-3)


def test_what_does_not_fit_is_told(tmp_path, roberta, gpt2):
    model = whole()
    names = laion_names(model)
    torch.save({"state_dict": {name: t for name, t in names.items() if "layers.1.blocks.1.norm2" not in name}}, tmp_path / "short.pt")
    with pytest.raises(FatalError, match=r"short.pt: does not fit .*2 missing: audio_model.audio_encoder.layers.1.blocks.1.layernorm_after"):
        clap.sound_from(tmp_path / "short.pt")
    torch.save({"state_dict": {**names, "module.audio_branch.surplus": torch.zeros(2)}}, tmp_path / "more.pt")
    with pytest.raises(FatalError, match="1 unexpected: audio_model.audio_encoder.surplus"):
        clap.sound_from(tmp_path / "more.pt")
    clap.text_from(tmp_path / "more.pt", roberta)
    with pytest.raises(FatalError, match="without a tokenizer"):
        clap.text_from(tmp_path / "more.pt")
    torch.save({"state_dict": {name: t for name, t in names.items() if ".audio_branch." not in name}}, tmp_path / "text.pt")
    clap.text_from(tmp_path / "text.pt", roberta)
    with pytest.raises(FatalError, match="has no sounds of CLAP"):
        clap.sound_from(tmp_path / "text.pt")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(FatalError, match="no CLAP of LAION"):
        clap.read(tmp_path / "other.pt")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    torch.save({"x": torch.zeros(2)}, tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(FatalError, match="is of 'bert', not of clap"):
        clap.read(tmp_path / "bert")
    with pytest.raises(FatalError, match="bert: has no tokenizer"):
        clap.text_from(tmp_path / "text.pt", tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").write_text("{}")
    with pytest.raises(FatalError, match="bert: its tokenizer cannot be read"):
        clap.text_from(tmp_path / "text.pt", tmp_path / "bert")
    with pytest.raises(FatalError, match="a tokenizer of 26[0-9] ids, and the network knows 265"):
        clap.text_from(tmp_path / "text.pt", gpt2)


@pytest.mark.parametrize(
    "audio, count",
    [({}, 153_492_890), ({"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]}, 193_913_882)],
    ids=["630k-audioset-best.pt", "music_speech_audioset_epoch_15_esc_89.98.pt"],
)
def test_the_released_sizes_are_told_by_their_shapes(audio, count):
    config = transformers.ClapConfig(audio_config=audio)
    with torch.device("meta"):
        model = transformers.ClapModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    tensors = {name.removeprefix("module."): tensor for name, tensor in laion_names(model).items()}
    found = clap.laion(tensors, "released")
    assert found.audio["hidden_size"] == config.audio_config.hidden_size and list(found.audio["depths"]) == list(config.audio_config.depths)
    assert found.audio["num_attention_heads"] == [4, 8, 16, 32] and found.audio["spec_size"] == 256 and found.audio["window_size"] == 8
    assert found.text["num_attention_heads"] == 12 and found.text["num_hidden_layers"] == 12 and found.text["max_position_embeddings"] == 514
    with torch.device("meta"):
        network = clap.ClapSound(found.audio, clap.FrontEnd(np.zeros((64, 513)), 48000, 10, 1024, 480))
    for name, tensor in network.model.state_dict().items():
        assert found.tensors[name].shape == tensor.shape, name


# --- Microsoft's ---------------------------------------------------------------------------------------------


def microsoft(tmp_path, seed=1):
    """Both towers with random weights, and their file in the released layout."""
    mel = torch.from_numpy(clap.slaney_matrix(32000, 1024, 64, 50, 14000))
    sounds = scrambled(msclap.Sound({**AUDIO, "num_hidden_layers": 4}, 20, clap.FrontEnd(mel, msclap.RATE, msclap.SECONDS, 1024, msclap.HOP)), seed)
    with torch.no_grad():
        gpt = {"vocab_size": 261, "n_embd": 64, "n_layer": 2, "n_head": 1, "n_positions": 90}
        texts = scrambled(msclap.Text(gpt, 20, None), seed)
    htsat = htsat_names({name[5:]: tensor for name, tensor in sounds.state_dict().items() if name.startswith("base.")})
    tensors = {f"audio_encoder.base.htsat.{name}": tensor for name, tensor in {**htsat, "logmel_extractor.melW": mel.T}.items()}
    tensors |= {f"audio_encoder.{name}": tensor for name, tensor in sounds.state_dict().items() if name.startswith("projection.")}
    tensors |= {f"caption_encoder.{name}": tensor for name, tensor in texts.state_dict().items()}
    mask = "caption_encoder.base.h.0.attn."
    tensors |= {f"{mask}bias": torch.ones(1, 1, 90, 90), f"{mask}masked_bias": torch.tensor(-1e4), "logit_scale": torch.zeros(())}
    torch.save({"model": tensors}, tmp_path / "CLAP_weights_2023.pth")
    return sounds, texts, tmp_path / "CLAP_weights_2023.pth"


def test_microsofts_file_fills_both_towers(tmp_path, gpt2):
    sounds, texts, file = microsoft(tmp_path)
    found = msclap.sound_from(file)
    for name, tensor in sounds.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert torch.equal(found.front.matrix, sounds.front.matrix) and found.front.length == 7 * 44100 and found.front.n_fft == 1024
    assert found.front(torch.zeros(1, found.front.length)).shape == (1, 1, 965, 64)
    loaded = msclap.text_from(file, gpt2)
    for name, tensor in texts.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_microsofts_sound_is_its_formula(tmp_path):
    sounds, _, file = microsoft(tmp_path)
    samples = sound(3, msclap.RATE)
    (found,) = clap.embed_sounds(msclap.sound_from(file), [samples], "cpu")
    import librosa

    filled = np.tile(samples, 3)[: 7 * 44100]
    mel = librosa.feature.melspectrogram(y=filled, sr=32000, n_fft=1024, hop_length=320, pad_mode="reflect", n_mels=64, fmin=50, fmax=14000)
    features = torch.from_numpy(librosa.power_to_db(mel, ref=1.0, amin=1e-10, top_db=None).T)[None, None]
    with torch.no_grad():
        hidden = sounds.base(features.float()).pooler_output
        first = hidden @ sounds.projection.linear1.weight.T
        added = first + torch.nn.functional.gelu(first) @ sounds.projection.linear2.weight.T
        wanted = torch.nn.functional.layer_norm(added, (20,), sounds.projection.layer_norm.weight, sounds.projection.layer_norm.bias)
    assert np.allclose(found, wanted, atol=1e-3)


def test_microsofts_text_is_read_at_its_end(tmp_path, gpt2):
    _, texts, file = microsoft(tmp_path)
    network = msclap.text_from(file, gpt2, context=12)
    said = ["a dog", "a dog at", "stop! a dog! now"]
    found = network(said)
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(str(gpt2))
    for one, text in zip(found, said, strict=True):
        ids = tokenizer(text + " <|endoftext|>")["input_ids"][:12]
        assert (ids[-1] == 1) == (len(tokenizer(text)["input_ids"]) <= 10)  # cut: no end of text
        with torch.no_grad():
            wanted = texts.projection(texts.base(input_ids=torch.tensor([ids])).last_hidden_state[0, -1])
        assert torch.allclose(one, wanted, atol=1e-4), text


def test_other_files_are_not_microsofts(tmp_path, gpt2):
    torch.save({"model": {"audio_encoder.base.bn0.weight": torch.zeros(64)}}, tmp_path / "x.pth")
    with pytest.raises(FatalError, match=r"no CLAP of Microsoft .*give CLAP_weights_2023.pth"):
        msclap.sound_from(tmp_path / "x.pth")
    _, _, file = microsoft(tmp_path)
    tensors = torch.load(file)["model"]
    bert = {name.replace("base.wte", "base.embeddings.word_embeddings"): tensor for name, tensor in tensors.items()}
    torch.save({"model": bert}, tmp_path / "2022.pth")
    with pytest.raises(FatalError, match="no GPT-2"):
        msclap.text_from(tmp_path / "2022.pth", gpt2)


def test_microsofts_released_size(gpt2):
    """HTS-AT of 96 channels, GPT-2 small, 1024 numbers."""
    with torch.device("meta"):
        sounds = msclap.Sound({"hidden_size": 768, "num_hidden_layers": 4}, 1024, clap.FrontEnd(np.zeros((64, 513)), 44100, 7, 1024, 320))
        texts = msclap.Text({"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}, 1024, None)
    assert sum(p.numel() for p in sounds.projection.parameters()) == 768 * 1024 + 1024 * 1024 + 2 * 1024
    assert sum(p.numel() for p in texts.base.parameters()) == 124_439_808
    names = {"projection.linear1.weight", "projection.linear2.weight", "projection.layer_norm.weight", "base.h.11.attn.c_attn.weight", "base.ln_f.bias"}
    assert names <= set(texts.state_dict()) and not any(name.endswith("linear1.bias") for name in texts.state_dict())


# --- as metrics ----------------------------------------------------------------------------------------------


def worked_out(metric, weights, pair):
    """What the metric's row gets of its extractors."""
    item = {}
    for name, (extractor, role) in metric.wants().items():
        given = extractor.prepare(pair, role)
        extractor.load("cpu", weights)
        (item[name],) = extractor.run([given])
        assert set(item[name]) == set(extractor.outputs)
    return item


@pytest.mark.parametrize("model", ["laion", "microsoft"])
def test_the_metrics_are_cosines(model, tmp_path, roberta, gpt2):
    if model == "laion":
        torch.save({"state_dict": laion_names(whole())}, tmp_path / "laion.pt")
        weights = Weights({"clap": str(tmp_path / "laion.pt"), "clap-tokenizer": str(roberta)})
    else:
        weights = Weights({"msclap": str(microsoft(tmp_path)[2]), "msclap-tokenizer": str(gpt2)})
    pair = Row({"audio": sound(12), "reference_audio": sound(3, seed=4)}, "a dog")
    item = worked_out(judges.Clap(model=model, context=16), weights, pair)
    assert len(item["sound"]["embedding"]) == 2 and len(item["text"]["embedding"]) == 1
    found = judges.Clap(model=model).row(item)
    both = item["sound"]["embedding"] / np.linalg.norm(item["sound"]["embedding"], axis=1, keepdims=True)
    mean, text = both.sum(0), item["text"]["embedding"][0]
    assert found["clap"] == pytest.approx(mean @ text / np.linalg.norm(mean) / np.linalg.norm(text), abs=1e-6)
    metric = judges.ClapAudio(model=model)
    item = worked_out(metric, weights, pair)
    assert -1 <= metric.row(item)["clap_audio"] < 0.9999
    assert metric.row({"sound": item["sound"], "reference": item["sound"]})["clap_audio"] == pytest.approx(1, abs=1e-6)


def test_the_tokenizer_of_a_file_is_told_by_name_and_counts_for_its_digest(tmp_path, roberta, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    torch.save({"state_dict": laion_names(whole())}, tmp_path / "laion.pt")
    folder = save_folder(whole(), tmp_path / "folder", roberta)
    file = Weights({"": str(tmp_path / "laion.pt"), "clap-tokenizer": str(roberta)})
    text = judges.LaionText()
    assert text.weights_digest(file) != judges.LaionSound().weights_digest(file)
    assert text.weights_digest(Weights({"clap": str(folder)})) == judges.LaionSound().weights_digest(Weights({"clap-sound": str(folder)}))
    with pytest.raises(FatalError, match=r"no weights of the tokenizer of roberta-base.*clap-tokenizer=FILE\|DIR"):
        text.load("cpu", Weights({"": str(tmp_path / "laion.pt")}))


def test_settings_are_checked_and_empty_sounds_are_nothing_to_measure():
    with pytest.raises(UsageError, match="clap.model=openai: laion or microsoft"):
        judges.Clap(model="openai")
    with pytest.raises(UsageError, match="clap.context=2"):
        judges.Clap(context=2)
    with pytest.raises(Skip):
        judges.LaionSound().prepare(Row({"audio": np.zeros(0, np.float32)}), "audio")
    heard = sound(3)
    assert np.array_equal(judges.LaionSound(seconds=0.5).prepare(Row({"audio": heard}), "audio")["samples"], heard[:24000])
    assert np.array_equal(judges.LaionSound().prepare(Row({"audio": heard}), "audio")["samples"], heard)
    assert judges.Clap(**judges.Clap.protocols["javisbench"]).wants()["text"][0].set == {"context": 512}
    assert judges.Clap().wants()["sound"][0].key == judges.ClapAudio().wants()["reference"][0].key
    with pytest.raises(Skip, match="all zeros"):
        judges.Clap().row({"sound": {"embedding": np.zeros((1, 4))}, "text": {"embedding": np.ones((1, 4))}})
