"""ImageBind: its towers and files, the tokens of frames, texts, the encoders made of it, and the metrics ia and it."""

import csv
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import small_imagebind  # noqa: E402
import soundfile  # noqa: E402

import conftest  # noqa: E402
from avtools import hub  # noqa: E402
from avtools.errors import FatalError, RowError, UsageError  # noqa: E402
from avtools.metrics import Skip, configured  # noqa: E402
from avtools.models.parts import imagebind, video_encoders  # noqa: E402
from avtools.models.parts.frames import clip_normalise  # noqa: E402
from avtools.models.parts.imagebind import metrics, model, text  # noqa: E402
from avtools.models.parts.kaldi import mel  # noqa: E402
from fixtures import even, make  # noqa: E402
from small_imagebind import SIZES  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def towers():
    return small_imagebind.towers()


@pytest.fixture(scope="module")
def weights(towers, tmp_path_factory):
    file = tmp_path_factory.mktemp("imagebind") / "imagebind_huge.pth"
    torch.save(small_imagebind.released(towers), file)
    return file


# --- towers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra, causal", [(False, False), (True, False), (False, True)])
def test_attention_is_torchs_under_its_names(extra, causal):
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(24, 3, add_bias_kv=extra, batch_first=True)
    ours = model.Attention(24, 3, extra, causal)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 7, 24)
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    assert torch.allclose(ours(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0], atol=1e-6)


def test_a_still_is_a_film_of_it_twice_and_clips_are_averaged(towers):
    stills = torch.randn(3, 3, 224, 224)
    films = stills[:, :, None].expand(-1, -1, 2, -1, -1)
    one = towers.vision(stills)
    assert torch.allclose(towers.vision(films[:, None]), one, atol=1e-5) and torch.allclose(one.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.allclose(towers.vision(stills[None]), one.mean(0, keepdim=True), atol=1e-5)
    moving = torch.stack([stills[0], stills[1]], 1)[None, None]
    assert not torch.allclose(towers.vision(moving), one[:1], atol=1e-3)


def test_text_is_read_at_its_end_and_never_beyond(towers):
    ids = imagebind.tokenize(["a dog barks", "a dog barks"])
    ids[1, 20:] = 7  # behind the end
    one, other = towers.text(ids)
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(towers.text(imagebind.tokenize(["a dog barked"])), one, atol=1e-3)


def test_paths_are_dropped_in_training_alone_and_never_in_the_first_block():
    torch.manual_seed(0)
    tower = model.SegmentAudio(SIZES["audio"], drop_path=0.5)
    x = torch.randn(8, 1, 128, 204)
    with torch.no_grad():
        assert [block.drop for block in tower.trunk.blocks] == [0, 0.5]
        assert torch.equal(tower.eval()(x), tower(x)) and not torch.equal(tower.train()(x), tower(x))
        block, tokens = tower.trunk.blocks[1], torch.randn(4000, 3, 24)
        assert torch.allclose(block(tokens).mean(0), block.eval()(tokens).mean(0), atol=0.15)  # what is kept is made up for


def test_frames_hear_the_listed_tokens():
    mask, tokens = imagebind.segment_mask(12), imagebind.segment_tokens(12)
    assert mask.shape == (12, 229) and (mask.sum(1) == 25).all() and mask[:, 0].all()
    assert [columns.start for columns in model.segment_columns(12)] == [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17]
    assert torch.equal(tokens, torch.stack([row.nonzero()[:, 0] for row in mask]))
    for frames in (1, 2, 5, 19, 24):
        mask = imagebind.segment_mask(frames)
        assert (mask.sum(1) == 1 + 12 * -(-19 // frames)).all()
        assert mask[0, 1] and mask[-1, -1]
    assert imagebind.segment_mask(1).all()


# --- files ------------------------------------------------------------------------------------------------------------


def test_every_form_of_the_file_loads_alike(towers, weights, tmp_path):
    tensors = {name: tensor for name, tensor in small_imagebind.released(towers).items() if "mask" not in name}
    hub.save_tensors(tmp_path / "model.safetensors", tensors)
    given = hub.Weights.parse([f"imagebind={weights}"])
    for source in (weights, weights.parent, tmp_path, tmp_path / "model.safetensors", given):
        found = imagebind.load(source, sizes=SIZES)
        for name, tensor in towers.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor), name
    alone = imagebind.load(weights, ("audio",), SIZES)
    assert alone.vision is None and alone.text is None and not alone.audio.training and not any(p.requires_grad for p in alone.parameters())


def test_the_sound_encoder_gets_a_fresh_norm_or_its_own(towers, weights, tmp_path):
    x = torch.randn(2, 1, 128, 204)
    fresh = imagebind.load_segment(weights, SIZES["audio"])
    with torch.no_grad():
        plain = torch.nn.functional.layer_norm(towers.audio.hidden(x), (24,), eps=1e-6)
        assert torch.allclose(fresh(x), plain, atol=1e-5) and fresh(x).shape == (2, 229, 24)
        trained = {**fresh.state_dict(), "final_layer_norm.weight": torch.full((24,), 2.0)}
        torch.save(trained, tmp_path / "diffusion_pytorch_model.bin")
        assert torch.allclose(imagebind.load_segment(tmp_path, SIZES["audio"])(x), 2 * plain, atol=1e-4)
        assert torch.allclose(imagebind.load(tmp_path, ("audio",), SIZES).audio(x), towers.audio(x), atol=1e-5)


def test_what_does_not_fit_is_told(towers, weights, tmp_path):
    tensors = small_imagebind.released(towers)
    del tensors["modality_trunks.audio.blocks.1.attn.bias_k"]
    tensors["modality_trunks.audio.blocks.0.extra"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "less.pth")
    with pytest.raises(FatalError, match=r"less.pth \(audio\): .* 1 missing: trunk.blocks.1.attn.bias_k; 1 unexpected: trunk.blocks.0.extra; give"):
        imagebind.load(tmp_path / "less.pth", ("audio",), SIZES)
    assert imagebind.load(tmp_path / "less.pth", ("vision", "text"), SIZES).audio is None
    with pytest.raises(FatalError, match=r"32 of another shape: .*preprocessor.cls_token \(1, 1, 32\), not \(1, 1, 1280\)"):
        imagebind.load(weights, ("vision",))
    torch.save({"modality_trunks.audio.blocks.0.norm_1.bias": torch.zeros(8)}, tmp_path / "sound.pth")
    with pytest.raises(FatalError, match=r"has no vision tower of ImageBind .*it has audio\); give imagebind_huge.pth"):
        imagebind.load(tmp_path / "sound.pth", ("vision",), SIZES)
    torch.save({"conv.weight": torch.zeros(8)}, tmp_path / "other.pth")
    with pytest.raises(FatalError, match=r"has no audio tower .*its names begin with conv.weight"):
        imagebind.load_segment(tmp_path / "other.pth", SIZES["audio"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FatalError, match="has none of imagebind_huge.pth, .*; give imagebind_huge.pth, or the folder"):
        imagebind.load(tmp_path / "empty")


def test_names_are_looked_up_without_torch():
    program = "import sys, avtools.models.parts.imagebind.metrics as m; assert m.ImageAudio.columns and not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        imagebind.Nothing  # noqa: B018


# --- texts ------------------------------------------------------------------------------------------------------------

ODD = [
    "Lions roaring", "playing_violin__fiddle", "", "  a  \t b\n", "it's the dog's; they'll say I'm 3.14 %!", "naïve café — “quoted” 東京 🎻👩‍🎤 ", "a&amp;b &lt;3",
    "İstanbul ǅ ß", "x" * 90, "don't STOP 100km/h #tag @you", "İ\u0301 \u200b zero", "<|endoftext|> is text",
]  # fmt: skip


def test_ids_are_those_of_clip(tmp_path):
    ids, merges = text.vocabulary()
    assert len(ids) == 49408 and len(merges) == 48894 and ids["<|startoftext|>"] == text.BEGIN and ids["<|endoftext|>"] == text.END
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    theirs = transformers.CLIPTokenizer(vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"))
    for one in ODD[:-1]:
        wanted = theirs(text.cleaned(one), truncation=True, max_length=77)["input_ids"]
        found = imagebind.tokenize([one])[0].tolist()
        assert found[: len(wanted)] == wanted and not any(found[len(wanted) :]), one
    found = imagebind.tokenize([ODD[-1], "word " * 100])
    assert (found == text.END).sum(1).tolist() == [1, 1] and found[1, -1] == text.END  # never cut off, never written by hand


# --- encoders of pictures ---------------------------------------------------------------------------------------------

CLIP = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}


def test_pictures_are_encoded_each_for_itself(towers, weights, monkeypatch):
    monkeypatch.setattr(model, "HUGE", SIZES)
    encoder = video_encoders.imagebind_from(weights)
    assert (encoder.dim, encoder.size) == (16, 224)
    clips = [torch.rand(3, 3, 224, 224), torch.rand(1, 3, 224, 224)]
    found = encoder(clips)
    for one, clip in zip(found, clips, strict=True):
        assert torch.allclose(torch.nn.functional.normalize(one, dim=-1), towers.vision(clip_normalise(clip)), atol=1e-5)
    monkeypatch.setattr(video_encoders, "PICTURES", 2)
    assert torch.allclose(encoder(clips)[0], found[0], atol=1e-5)


def language_bind(count=4):
    torch.manual_seed(1)
    encoder = video_encoders.LanguageBindEncoder(CLIP, count)
    for parameter in encoder.parameters():
        parameter.data.normal_(0, 0.2)
    return encoder.eval()


def test_language_bind_attends_over_a_window_of_pictures():
    encoder = language_bind()
    clip = torch.rand(4, 3, 16, 16)
    (found,) = encoder([clip])
    swapped = encoder([clip[[1, 0, 2, 3]]])[0]
    assert found.shape == (4, 24) and not torch.allclose(swapped[[1, 0, 2, 3]], found, atol=1e-3)  # it knows the order
    changed = clip.clone()
    changed[3] = 0
    assert not torch.allclose(encoder([changed])[0][0], found[0], atol=1e-4)  # and every picture sees the others
    layers = encoder.model.vision_model.encoder.layers
    for layer in layers:
        layer.temporal_attn.out_proj.weight.data.zero_()
        layer.temporal_attn.out_proj.bias.data.zero_()
        layer.temporal_embedding.data.zero_()
    plain = video_encoders.ClipEncoder({**CLIP, "hidden_act": "quick_gelu"}).eval()
    hub.load_strict(plain.model, {name: t for name, t in encoder.model.state_dict().items() if "temporal" not in name}, "x")
    assert torch.allclose(encoder([clip])[0], plain([clip])[0], atol=1e-5)


def test_language_bind_over_time_is_plain_attention():
    encoder = language_bind()
    layer = encoder.model.vision_model.encoder.layers[0]
    hidden = torch.randn(2 * 4, 5, 32)  # two windows of four pictures of five tokens
    (found,) = encoder._over_time(layer, (hidden,))
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    attention = layer.temporal_attn
    theirs.in_proj_weight.data = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]).data
    theirs.in_proj_bias.data = torch.cat([attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias]).data
    theirs.out_proj.load_state_dict(attention.out_proj.state_dict())
    for window in range(2):
        for token in range(5):
            x = hidden[window * 4 : window * 4 + 4, token][None] + layer.temporal_embedding
            y = layer.temporal_layer_norm1(x)
            wanted = x + theirs(y, y, y, need_weights=False)[0]
            assert torch.allclose(found[window * 4 : window * 4 + 4, token], wanted[0], atol=1e-5)


def test_language_bind_in_windows(monkeypatch):
    encoder = language_bind()
    clips = [torch.rand(count, 3, 16, 16) for count in (4, 3, 9)]
    found = encoder(clips)
    assert [len(one) for one in found] == [4, 3, 9]
    assert torch.allclose(found[2][-4:], encoder([clips[2][-4:]])[0], atol=1e-5)  # the last window ends with the clip
    assert torch.allclose(found[1], encoder([torch.cat([clips[1], clips[1][-1:]])])[0][:3], atol=1e-5)
    monkeypatch.setattr(video_encoders, "WINDOWS", 1)
    assert torch.allclose(encoder(clips)[2], found[2], atol=1e-5)


@pytest.mark.parametrize("count", [4, None])
def test_language_bind_loads_as_published(tmp_path, count):
    encoder = language_bind(count)
    vision = {**CLIP, "hidden_act": "gelu", "num_frames": 8, "add_time_attn": True}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "LanguageBindVideo", "projection_dim": 24, "vision_config": vision}))
    others = {"text_model.final_layer_norm.bias": torch.zeros(3), "logit_scale": torch.tensor(2.0)}
    tensors = {**encoder.model.state_dict(), **others, "vision_model.embeddings.position_ids": torch.arange(5)[None]}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    found = video_encoders.language_bind_from(tmp_path)
    assert found.count == count and found.model.config.hidden_act == "gelu"
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name
    torch.save({**tensors, "vision_model.encoder.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(2, 32)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FatalError, match="adapters .*LanguageBind_Video_FT"):
        video_encoders.language_bind_from(tmp_path)
    torch.save({"logit_scale": torch.tensor(2.0)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FatalError, match="no picture tower .*give a LanguageBind_Video_FT"):
        video_encoders.language_bind_from(tmp_path)


def test_vta_ldm_takes_them_as_its_encoders(weights, tmp_path, monkeypatch):
    from avtools.models.vta_ldm import checkpoint
    from avtools.models.vta_ldm.config import PRESETS, Config
    from avtools.models.vta_ldm.system import ENCODERS, VtaLdm
    from avtools.training import config as settings

    monkeypatch.setattr(model, "HUGE", SIZES)
    torch.save(language_bind().model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {**CLIP, "hidden_act": "gelu"}}))
    for preset, source, size in (("imagebind", weights, 224), ("languagebind", tmp_path, 16)):
        system = VtaLdm(settings.resolve(Config, PRESETS, preset, None, [f"frame_size={size}"]))
        given = hub.Weights.parse([f"{preset}={source}"])
        encoder = checkpoint.picture_encoder(system.config, given, ENCODERS)
        assert len(encoder([torch.rand(3, 3, size, size)])[0]) == 3
        with pytest.raises(UsageError, match=f"frame_size 8: the encoder {preset} sees pictures of {size}"):
            checkpoint.picture_encoder(settings.resolve(Config, PRESETS, preset, None, ["frame_size=8"]), given, ENCODERS)
    assert {"imagebind", "languagebind"} <= {part.name for part in VtaLdm.parts}


def test_the_main_weights_do_not_stand_for_an_encoder_that_they_do_not_hold(weights, tmp_path):
    from avtools.models.vta_ldm.config import PRESETS, Config
    from avtools.models.vta_ldm.system import VtaLdm
    from avtools.training import config as settings

    system = VtaLdm(settings.resolve(Config, PRESETS, "imagebind", None, ["codec=mel-bands"]))
    with pytest.raises(FatalError, match="no weights of ImageBind .*avtools fetch vta-ldm --part imagebind"):
        system.encoders_digest(hub.Weights({"": str(tmp_path)}))
    assert system.encoders_digest(hub.Weights({"": str(tmp_path), "imagebind": str(weights)})) == hub.digest(weights)


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of 2.5 s with sound of their own, classes and texts."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["path,class,text,audio_path\n"]
    for k in range(4):
        make(folder / f"{k}.mp4", even(30, 12), size=(96, 64), noise=True, gop=6, sound={"seconds": 2.5, "rate": 44100, "layout": "stereo"})
        noise = np.random.default_rng(k).standard_normal((40000, 2)) * np.linspace(0, 0.3, 40000)[:, None] ** (1 + k)
        soundfile.write(folder / f"{k}.wav", noise, 16000)
        lines.append(f"{folder}/{k}.mp4,class_{k},text {k},{folder}/{k}.wav\n")
    return "".join(lines)


@pytest.fixture
def small(avtools, monkeypatch):
    """The program with a small ImageBind."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(conftest, "command", lambda *arguments: [sys.executable, "-c", "import small_imagebind; small_imagebind.main()", *map(str, arguments)])
    return avtools


def rows(done) -> list[dict]:
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.mark.long
def test_scores_are_what_the_towers_say(small, clips, weights, towers):
    done = small("score", "ia,it", "--weights", weights, "--summary", "s.json", "-j2", input=clips)
    told = json.loads((small.folder / "s.json").read_text())
    found = rows(done)
    for row in found:
        pictures = metrics._pictures(Facts(row["path"]), "shown", 2.0, "crop", frozenset())
        assert pictures.shape == (5, 224, 224, 3)
        seen = towers.vision(clip_normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255))
        samples, _ = soundfile.read(row["audio_path"], dtype="float32")
        mono = torch.from_numpy(samples.mean(1))
        heard = towers.audio(mel(torch.stack([mono[begin : begin + 32000] for begin in (0, 4000, 8000)])[:, None])[None])[0]
        assert float(row["ia"]) == pytest.approx(float(imagebind.cosines(seen, heard).mean()), abs=1e-4)
        said = towers.text(imagebind.tokenize([row["text"]]))[0]
        assert float(row["it"]) == pytest.approx(float(imagebind.cosines(seen, said).mean()), abs=1e-4)
    assert len({row["ia"] for row in found}) == 4
    assert told["metrics"]["ia"]["mean"] == pytest.approx(np.mean([float(row["ia"]) for row in found]), abs=1e-6)
    assert told["weights"] == {name: hub.digest(weights) for name in ("ia", "it")} and told["media"]["imagebind"]["pictures"]["values"] == [[5, 4]]
    assert told["definitions"]["it"]["settings"]["words"] == "caption"
    assert [told["definitions"][name]["resampler"] for name in ("ia", "it")] == ["soxr HQ to 16000 Hz", None]
    swapped = small("score", "ia", "--weights", f"ia={weights}", "--canary", "--summary", "c.json", "-j2", input=clips)
    assert [row["ia"] for row in rows(swapped)] == [row["ia"] for row in found]
    assert set(json.loads((small.folder / "c.json").read_text())["canary"]["ia"]) == {"silence", "noise", "shuffled", "shifted"}


class Facts:
    """A pair as far as reading pictures needs one."""

    def __init__(self, path):
        self.path, self.facts = path, {}

    def file(self, role):
        return self.path


@pytest.mark.long
def test_protocol_asva_leaves_out_the_first_picture_and_reads_the_class(small, clips, weights, towers):
    from avtools.models.parts.sync_clips import read_clip

    clips = "".join(clips.splitlines(keepends=True)[:3])
    done = small("score", "ia,it", "--protocol", "asva", "--weights", weights, "-j1", input=clips)
    assert "none: it does not hear the sound" in done.stderr.split("score: it ")[1].splitlines()[0]  # so that --canary cannot tell
    other = small("score", "ia", "--protocol", "asva", "--set", "ia.legacy=stereo+packets+frames", "--weights", weights, "--audio-column", "path", "-j1", input=clips)
    for row, legacy in zip(rows(done), rows(other), strict=True):
        clip = read_clip(row["path"], 0.0, (224, 224), row["audio_path"], fit="squash")
        seen = towers.vision(clip_normalise(torch.from_numpy(clip["frames"])))[1:]
        assert len(seen) == 11
        heard = towers.audio(mel(torch.from_numpy(clip["sound"][:1])[None]))[0]
        assert float(row["ia"]) == pytest.approx(float(imagebind.cosines(seen, heard).mean()), abs=2e-3)
        said = towers.text(imagebind.tokenize([row["class"]]))[0]
        assert float(row["it"]) == pytest.approx(float(imagebind.cosines(seen, said).mean()), abs=1e-4)
        clip = read_clip(row["path"], 0.0, (224, 224), fit="squash", legacy={"stereo", "packets", "frames"})
        seen, heard = towers.vision(clip_normalise(torch.from_numpy(clip["frames"])))[1:], towers.audio(mel(torch.from_numpy(clip["sound"])[None]))[0]
        assert float(legacy["ia"]) == pytest.approx(float(imagebind.cosines(seen, heard).mean()), abs=1e-4)


@pytest.mark.parametrize(
    "protocol, option, told",
    [
        (None, "ia.fit=pad", "crop or squash"), (None, "it.fps=0", "above 0"), (None, "clips=0", "1 or more"), (None, "words=x", "caption or class"),
        (None, "ia.legacy=frames", "give --protocol asva"), (None, "channel=left", "mean or first"), ("asva", "it.legacy=stero", r"joined by '\+'"),
        ("asva", "ia.skip=0", "--protocol asva fixes it"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(protocol, option, told):
    with pytest.raises(UsageError, match=told):
        configured([metrics.ImageAudio, metrics.ImageText], protocol, (option,))


@pytest.mark.long
def test_bad_rows_and_missing_weights(small, clips, weights, tmp_path):
    make(tmp_path / "short.mp4", even(12, 12), size=(96, 64), sound={"seconds": 1.0})
    make(tmp_path / "mute.mp4", even(30, 12), size=(96, 64))
    make(tmp_path / "quick.mp4", even(30, 12), size=(96, 64), sound={"seconds": 1.0})
    table = "path,text\n" + "".join(f"{tmp_path}/{name}.mp4,{name}\n" for name in ("short", "mute", "quick")) + clips.splitlines()[1].split(",")[0] + ",\n"
    done = small("score", "ia,it", "--protocol", "asva", "--weights", weights, "-j1", input=table, status=1)
    for told in ("short.mp4: its picture ends at ", "mute.mp4: has no sound", "quick.mp4: its sound is 1 s, and 2 s are judged", "no text to judge its picture by (columns"):
        assert told in " ".join(done.stderr.split()).replace(str(tmp_path) + "/", ""), done.stderr
    wordless = "".join(line.split(",")[0] + "\n" for line in clips.splitlines())
    done = small("score", "it", "--weights", weights, "-j1", input=wordless, status=2)
    assert "it needs a column text or description or captions or class or label (the table has: path)" in done.stderr
    done = small("score", "it", "--protocol", "asva", "-j1", input=wordless, status=2)
    assert "it needs a column class or label or relpath or text or" in done.stderr
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "none")}
    done = small("score", "ia", "-j1", input=clips, status=3, env=env)
    assert "no weights of ImageBind" in done.stderr and "'avtools fetch vta-ldm --part imagebind'" in done.stderr and "--weights" in done.stderr


def test_sound_clips_spread_over_the_sound():
    sound = np.arange(5 * 16000, dtype=np.float32)
    assert metrics.sound_clips(sound, 16000, 3)[:, 0].tolist() == [0, 24000, 48000]
    assert metrics.sound_clips(sound, 16000, 1).shape == (1, 32000) and metrics.sound_clips(sound[:9000], 16000, 3).shape == (1, 9000)
    assert metrics.sound_clips(np.zeros(44100 * 3, np.float32), 44100, 2).shape == (2, 32000)


def test_texts_of_rows():
    assert metrics.caption({"text": "", "captions": ["a", "b"]}) == "a" and metrics.caption({"class": "dog_barking"}) == "dog_barking"
    assert metrics.class_words({"class": "playing violin", "text": "x"}) == "playing_violin"
    assert metrics.class_words({"relpath": "dog_barking/1.mp4", "text": "x"}) == "dog_barking"
    assert metrics.class_words({"text": "hitting with a stick", "relpath": "1.mp4"}) == "hitting with a stick"
    with pytest.raises(RowError, match="no text"):
        metrics.caption({"text": " "})
    with pytest.raises(RowError, match="column text holds no text but a mapping"):
        metrics.caption({"text": {"a": "dog"}, "class": "dog"})
    with pytest.raises(Skip, match="1 pictures, of which the first 1 are not judged"):
        metrics.clip_mean(np.ones(1), 1)


def test_pictures_are_encoded_once_for_all_that_ask(weights, towers, monkeypatch):
    judge = metrics.Judge(weights, "cpu", SIZES)
    clips = [np.random.default_rng(k).integers(0, 255, (3, 224, 224, 3), np.uint8) for k in range(3)]
    first = judge.pictures(clips)
    calls = []
    monkeypatch.setattr(judge.tower("vision"), "embed", lambda x: calls.append(x) or torch.zeros(len(x), 16))
    again = judge.pictures(clips[::-1])
    assert not calls and all(torch.equal(one, other) for one, other in zip(first, again[::-1], strict=True))
    monkeypatch.setattr(metrics, "KEPT", 1)
    judge.pictures([clips[0], clips[0]])
    assert list(judge._seen) and len(judge._seen) == 1 and not calls
    judge.pictures([clips[1]])
    assert len(calls) == 1
