"""CLIP's similarity of pictures and text: the published network on real files, batches, sizes, texts."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.hub import Weights  # noqa: E402
from avtools.metrics import Skip  # noqa: E402
from avtools.metrics.media import Pair  # noqa: E402
from avtools.models.judges import similarity  # noqa: E402

VISION = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1, "image_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP with CLIP's vocabulary, as transformers writes it and the hub has it."""
    from avtools.models.parts.imagebind.text import vocabulary

    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(1)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(path)
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    ids, merges = vocabulary()
    (path / "vocab.json").write_text(json.dumps(ids))
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    return path


def features(extractor, folder, *given):
    extractor.load("cpu", Weights({"clip": str(folder)}))
    return extractor.run(list(given))


def test_a_clip_scores_what_transformers_gives(folder, media):
    pair = Pair({"path": str(media / "odd/h265_10bits.mp4"), "text": "A test picture, with bars & 12 numbers!"}, {})
    metric = similarity.Clip(size=32, **similarity.Clip.protocols["javisbench"])
    wanted = metric.wants()
    item = {}
    for name, (extractor, role) in wanted.items():
        (item[name],) = features(extractor, folder, extractor.prepare(pair, role))
        assert set(item[name]) == set(extractor.outputs)
    assert item["pictures"]["embedding"].shape == (48, 24) and item["text"]["embedding"].shape == (1, 24)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    from avtools.metrics.pictures import Pictures

    frames = Pair(pair.row, {}).seen("video", Pictures(count=48)).pictures
    with torch.no_grad():
        pictures = model.get_image_features(**processor(list(frames), return_tensors="pt")).pooler_output
        text = model.get_text_features(**tokenizer([pair.row["text"]], return_tensors="pt")).pooler_output
    assert np.allclose(item["text"]["embedding"], text, atol=1e-4)
    assert np.allclose(item["pictures"]["embedding"], pictures, atol=1e-4)
    score = torch.nn.functional.cosine_similarity(pictures, text).mean()
    assert metric.row(item)["clip"] == pytest.approx(float(score), abs=1e-5)


def test_batches_do_not_matter(folder, monkeypatch):
    random = np.random.default_rng(0)
    clips = [{"pictures": random.integers(0, 256, (count, 32, 32, 3), np.uint8)} for count in (5, 1, 9)]
    texts = [{"text": np.frombuffer(text.encode(), np.uint8)} for text in ("a dog", "rain on a roof, at night", "a dog", "x " * 200)]
    pictures, words = similarity.ClipPicture(size=32), similarity.ClipText()
    found, said = features(pictures, folder, *clips), features(words, folder, *texts)
    assert [one["embedding"].shape for one in found] == [(5, 24), (1, 24), (9, 24)] and [one["embedding"].shape for one in said] == [(1, 24)] * 4
    monkeypatch.setattr(similarity, "AT_ONCE", 2)
    for network, given, made in ((pictures, clips, found), (words, texts, said)):
        for one, alone in zip(made, [network.run([item])[0] for item in given], strict=True):
            assert np.allclose(one["embedding"], alone["embedding"], atol=1e-5)
        for one, other in zip(made, network.run(given), strict=True):
            assert np.allclose(one["embedding"], other["embedding"], atol=1e-5)
    assert np.array_equal(said[0]["embedding"], said[2]["embedding"]) and not np.allclose(said[0]["embedding"], said[1]["embedding"], atol=1e-2)


def test_other_sizes_and_folders_without_a_tokenizer_are_told(folder, tmp_path):
    with pytest.raises(UsageError, match="sees 32x32 pixels; --set clip.size=32"):
        features(similarity.ClipPicture(), folder)
    with pytest.raises(UsageError, match="clip.size=8: 16 to 2048"):
        similarity.Clip(size=8)
    with pytest.raises(UsageError, match="clip.fps=2000"):
        similarity.Clip(fps=2000.0)
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FatalError, match="CLIP knows 49408; get the folder anew, with vocab.json and merges.txt"):
        features(similarity.ClipText(), tmp_path)


def test_cosines():
    many, one = np.array([[3.0, 0], [0, 4]]), np.array([[1.0, 0]])
    assert similarity.mean_cosine(many, one) == pytest.approx(0.5) and similarity.cosine_of_means(many, one) == pytest.approx(0.5**0.5)
    assert similarity.cosine_of_means(many, 5 * many) == pytest.approx(1)
    with pytest.raises(Skip):
        similarity.mean_cosine(many, 0 * one)


def test_the_released_size():
    with torch.device("meta"):
        model = transformers.CLIPModel(transformers.CLIPConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_277_313  # openai/clip-vit-base-patch32
    from avtools.models.parts.video_encoders import clip_config

    found = clip_config({name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name.startswith("vis")})
    assert found["image_size"] == similarity.ClipPicture.settings["size"] and found["projection_dim"] == 512
