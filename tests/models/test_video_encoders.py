"""Frozen encoders: one feature per picture whatever the batch, and folders as transformers writes them."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from avtools.errors import FatalError  # noqa: E402
from avtools.models.parts import video_encoders  # noqa: E402

CLIP = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}
VIVIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16, "num_frames": 8, "tubelet_size": [2, 8, 8]}


def frames(*counts):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(count, 3, 16, 16, generator=generator) for count in counts]


def scrambled(module):
    """With weights that are not nearly zero."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.2)
    return module.eval()


def test_clip_sees_each_picture_for_itself(monkeypatch):
    encoder = scrambled(video_encoders.ClipEncoder(CLIP))
    clips = frames(5, 1, 9)
    found = encoder(clips)
    assert [tuple(one.shape) for one in found] == [(5, 24), (1, 24), (9, 24)]
    monkeypatch.setattr(video_encoders, "PICTURES", 4)
    for one, other in zip(found, encoder(clips), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(encoder([clips[2][3:4]])[0][0], found[2][3], atol=1e-5)
    plain = video_encoders.ClipEncoder(CLIP, normalise=False).eval()
    plain.load_state_dict(encoder.state_dict())
    scaled = [(one - torch.tensor(video_encoders.CLIP_MEAN).view(3, 1, 1)) / torch.tensor(video_encoders.CLIP_DEVIATION).view(3, 1, 1) for one in clips]
    assert torch.allclose(plain(scaled)[0], found[0], atol=1e-5) and not torch.allclose(plain(clips)[0], found[0], atol=1e-2)


def test_vivit_gives_every_picture_its_tubelet(monkeypatch):
    encoder = scrambled(video_encoders.VivitEncoder(VIVIT))
    clips = frames(8, 3, 21)
    found = encoder(clips)
    assert [tuple(one.shape) for one in found] == [(8, 32), (3, 32), (21, 32)]
    assert torch.equal(found[0][0], found[0][1]) and not torch.allclose(found[0][1], found[0][2], atol=1e-3)
    assert torch.allclose(found[2][:8], encoder([clips[2][:8]])[0], atol=1e-5)
    assert torch.allclose(found[2][-8:], encoder([clips[2][-8:]])[0], atol=1e-5)  # the last window ends with the clip
    filled = torch.cat([clips[1], clips[1][-1:].expand(5, -1, -1, -1)])
    assert torch.allclose(found[1], encoder([filled])[0][:3], atol=1e-5)
    monkeypatch.setattr(video_encoders, "WINDOWS", 1)
    for one, other in zip(found, encoder(clips), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_vivit_scales_as_its_image_processor(tmp_path):
    (clip,) = frames(8)
    pictures = (clip * 255).round()
    for options in ({}, {"do_normalize": False}, {"offset": False, "image_mean": [0.4] * 3, "image_std": [0.3] * 3}):
        processor = transformers.VivitImageProcessor(do_resize=False, do_center_crop=False, **options)
        wanted = processor(list(pictures.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"][0]
        encoder = video_encoders.VivitEncoder(VIVIT, json.loads(processor.to_json_string()))
        assert torch.allclose(pictures / 255 * encoder.factor - encoder.shift, wanted, atol=1e-4)


def test_vivit_loads_under_its_published_names(tmp_path):
    encoder = scrambled(video_encoders.VivitEncoder(VIVIT))
    (tmp_path / "config.json").write_text(json.dumps({**VIVIT, "model_type": "vivit"}))
    renamed = {}
    for name, tensor in encoder.model.state_dict().items():
        for new, old in (("layers.", "encoder.layer."), (".attention.q_proj", ".attention.attention.query"), (".attention.k_proj", ".attention.attention.key")):
            name = name.replace(new, old)
        for new, old in ((".attention.v_proj", ".attention.attention.value"), (".attention.o_proj", ".attention.output.dense"), (".mlp.fc1", ".intermediate.dense")):
            name = name.replace(new, old)
        renamed["vivit." + name.replace(".mlp.fc2", ".output.dense")] = tensor
    torch.save({**renamed, "classifier.weight": torch.zeros(400, 32), "classifier.bias": torch.zeros(400)}, tmp_path / "pytorch_model.bin")
    found = video_encoders.vivit_from(tmp_path)
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name
    del renamed["vivit.layernorm.weight"]
    torch.save(renamed, tmp_path / "pytorch_model.bin")
    with pytest.raises(FatalError, match="1 missing: layernorm.weight"):
        video_encoders.vivit_from(tmp_path)


def test_clip_loads_from_a_folder_of_transformers(tmp_path):
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 9}
    text |= {"bos_token_id": 6, "eos_token_id": 7, "pad_token_id": 7}
    vision = {name: value for name, value in CLIP.items() if name != "projection_dim"}
    model = scrambled(transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "c</w>": 5, "<|startoftext|>": 6, "<|endoftext|>": 7}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    clip = video_encoders.clip_from(tmp_path)
    assert clip.dim == 24
    (pictures,) = frames(2)
    scaled = (pictures - clip.mean) / clip.deviation
    with torch.no_grad():
        wanted = model.visual_projection(model.vision_model(pixel_values=scaled).pooler_output)
        assert torch.allclose(clip.eval()([pictures])[0], wanted, atol=1e-5)
        encoder = video_encoders.text_from(tmp_path).eval()
        one, other = encoder(["ab c", "ab c a b a b a b a b a b a b"])
        alone = encoder(["ab c"])[0]
    assert one.shape == (24,) and encoder.dim == 24 and torch.allclose(one, alone, atol=1e-5) and not torch.allclose(one, other, atol=1e-3)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(FatalError, match="ids, and CLIP knows 8|cannot be read"):
        video_encoders.text_from(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FatalError, match="config.json: broken"):
        video_encoders.clip_from(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FatalError, match="has neither"):
        video_encoders.clip_from(tmp_path)
