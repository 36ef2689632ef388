"""PE-AV: the released layout, the model's own embeddings, batches, rows."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")  # whose vision transformer is its eye

from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.hub import Weights  # noqa: E402
from avtools.metrics.media import Pair  # noqa: E402
from avtools.models.judges import pe_av  # noqa: E402

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
EYE = {"architecture": "vit_pe_core_tiny_patch16_384", "num_classes": 24, "global_pool": "map"}
EYE["model_args"] = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
EAR = {"model_type": "dac", "downsampling_ratios": [2, 8, 10, 12], "encoder_hidden_size": 8, "codebook_dim": 16}
WORDS = {"vocab_size": 300, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}


def tiny():
    tower = {name: TOWER[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")}
    config = transformers.PeAudioVideoConfig(
        text_config={"model_type": "modernbert", "num_hidden_layers": 3, **tower, **WORDS},
        audio_video_config={
            "audio_config": {"model_type": "pe_audio_encoder", "dac_config": EAR, **TOWER},
            "video_config": {"model_type": "pe_video_encoder", "vision_config": {"model_type": "timm_wrapper", **EYE}, **TOWER},
            **TOWER,
        },
    )
    model = transformers.PeAudioVideoModel(config).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.2)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            parameter.data.add_(1)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    path = tmp_path_factory.mktemp("pe-av")
    model.save_pretrained(path)
    from avtools.models.parts.imagebind.text import _letters

    ids = {word: number for number, word in enumerate(["[CLS]", "[PAD]", "[SEP]", *_letters()])}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]").save_pretrained(path)
    return path


def loaded(extractor, folder):
    extractor.load("cpu", Weights({"pe-av": str(folder)}))
    return extractor


def sound(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * pe_av.RATE)).astype(np.float32)


def text(words):
    return {"text": np.frombuffer(words.encode(), np.uint8)}


def test_a_folder_loads_whole(model, folder, capsys):
    found = pe_av.load(folder)
    assert capsys.readouterr().out == ""  # a table may be there
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    for (name, buffer), other in zip(model.named_buffers(), found.buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_a_row_scores_what_the_whole_model_gives(model, folder, media):
    row = {"path": str(media / "vggsound/0DCit2EBtjs_000030.mp4"), "text": "a caption", "audio_text": "what is heard"}
    pair, items = Pair(row, {}), {}
    for metric in (pe_av.PeAv(size=32), pe_av.PeText(size=32)):
        for name, (extractor, role) in metric.wants().items():
            if name not in items:
                given = extractor.prepare(pair, role)
                if extractor.name == "pe-av-sound":
                    given = {"samples": given["samples"][:100_000]}
                (items[name],) = loaded(extractor, folder).run([given])
                assert set(items[name]) == set(extractor.outputs) and all(len(array) == 1 for array in items[name].values())
    samples = Pair(row, {}).heard("audio", 48000)[:100_000]
    audio = transformers.PeAudioFeatureExtractor()(samples, sampling_rate=48000, return_tensors="pt")["input_values"]
    pictures = torch.from_numpy(Pair(row, {}).seen("video", pe_av.Picture(size=32).pictures).pictures)
    assert audio.shape == (1, 1, 53 * 1920) and len(pictures) == 16
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    inputs = tokenizer([row["text"], row["audio_text"]], padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            input_values=audio.repeat(2, 1, 1),
            pixel_values_videos=(pictures.permute(0, 3, 1, 2).contiguous() / 127.5 - 1)[None].repeat(2, 1, 1, 1, 1),
        )
    for found, expected in (
        (items["sound"]["embedding"], wanted.audio_embeds[:1]),
        (items["picture"]["embedding"], wanted.video_embeds[:1]),
        (items["caption"]["picture"], wanted.text_video_embeds[:1]),
        (items["heard"]["sound"], wanted.text_audio_embeds[1:]),
    ):
        assert np.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    cosine = torch.nn.functional.cosine_similarity
    assert pe_av.PeAv(size=32).row(items)["pe_av"] == pytest.approx(float(cosine(wanted.audio_embeds, wanted.video_embeds)[0]), abs=1e-4)
    made = pe_av.PeText(size=32).row(items)
    assert made["pe_tv"] == pytest.approx(float(cosine(wanted.video_embeds, wanted.text_video_embeds)[0]), abs=1e-4)
    assert made["pe_ta"] == pytest.approx(float(cosine(wanted.audio_embeds, wanted.text_audio_embeds)[1]), abs=1e-4)


@pytest.mark.long
def test_batches_do_not_matter(folder):
    random = np.random.default_rng(0)
    given = {
        pe_av.Sound(): [{"samples": sound(seconds, seed)} for seed, seconds in enumerate((1, 0.3, 1, 0.001))],
        pe_av.Picture(size=32): [{"pictures": random.integers(0, 256, (count, 32, 32, 3), np.uint8)} for count in (16, 3, 16, 1)],
        pe_av.Text(): [text("a dog"), text("rain on a roof, at night"), text("a dog"), text("x" * 900)],
    }
    for extractor, items in given.items():
        loaded(extractor, folder)
        together = extractor.run(items)
        for one, item in zip(together, items, strict=True):
            (alone,) = extractor.run([item])
            for name, array in one.items():
                assert np.isfinite(array).all() and np.allclose(array, alone[name], atol=1e-4 * np.abs(array).max()), extractor.name
        first, second = ({name: array / np.linalg.norm(array) for name, array in one.items()} for one in together[:2])
        assert all(not np.allclose(first[name], second[name], atol=1e-3) for name in first), extractor.name


def test_what_does_not_fit_is_told(folder, tmp_path):
    with pytest.raises(FatalError, match="not a folder with config.json"):
        pe_av.load(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="sees 32x32 pixels; --set pe-av.size=32"):
        loaded(pe_av.Picture(), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FatalError, match="has no tokenizer.json"):
        loaded(pe_av.Text(), tmp_path)
    from avtools.hub import save_tensors, tensors

    every = tensors(tmp_path / "model.safetensors")
    del every["audio_model.audio_head.proj.weight"]
    save_tensors(tmp_path / "model.safetensors", every)
    with pytest.raises(FatalError, match="1 missing: audio_model.audio_head.proj.weight"):
        pe_av.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(FatalError, match="is of 'clip', not of pe_audio_video"):
        pe_av.load(tmp_path)


def test_shared_weights_may_be_saved_under_any_of_their_names(model, folder, tmp_path):
    from avtools.hub import save_tensors, tensors

    saved = tensors(folder / "model.safetensors").items()
    every = {name.replace("audio_model.audio_encoder.", "audio_video_encoder.embedder.audio_encoder."): tensor for name, tensor in saved}
    save_tensors(tmp_path / "model.safetensors", {name.replace(".timm_model.", "."): tensor for name, tensor in every.items()})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    found = pe_av.load(tmp_path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_the_released_size():
    """transformers' defaults, which it documents as those of facebook/pe-av-large."""
    with torch.device("meta"):
        model = transformers.PeAudioVideoModel(transformers.PeAudioVideoConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_458_747_854
    assert model.config.audio_config.audio_config.dac_config.hop_length == 1920 and model.audio_model.audio_head.proj.weight.shape == (1024, 1792)
    assert model.video_model.video_encoder.embedder.vision_model.timm_model.patch_embed.img_size == (pe_av.SIZE, pe_av.SIZE)
