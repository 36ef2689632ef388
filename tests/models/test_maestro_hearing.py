"""MAESTRO's way from sound and text to what frames attend to: clips, resampler, text tower, places, timing and losses."""

import json
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchaudio")
pytest.importorskip("transformers")
soundfile = pytest.importorskip("soundfile")

import small_imagebind  # noqa: E402
from test_sync_clips import film, ramp  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, MediaError, RowError  # noqa: E402
from avtools.models.maestro import context, hearing, losses, resampler, text  # noqa: E402
from avtools.models.parts.imagebind.text import BEGIN, END  # noqa: E402

SMALL = resampler.Size(dim=24, depth=2, heads=3, dim_head=4, queries=5, input_dim=16, output_dim=20, ff_mult=2)
TOY = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 49408, "hidden_act": "gelu"}


def tone(seconds, rate=16000, hertz=440.0, channels=1):
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, 1)


def wav(path, samples, rate=16000):
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return str(path)


# --- where clips begin -----------------------------------------------------------------------------------------------


def test_clips_begin_as_both_versions_of_the_library_have_it():
    assert hearing.clip_starts(10.0, 5, "pinned") == pytest.approx([0, 1.6, 3.2, 4.8, 6.4])
    assert hearing.clip_starts(10.0, 5, "spread") == pytest.approx([0, 2, 4, 6, 8])
    assert hearing.clip_starts(7.0, 1) == [0.0] == hearing.clip_starts(7.0, 1, "pinned")


@pytest.mark.parametrize("duration", [0.3, 2.0, 3.9, 15.35, 61.0])
def test_spread_clips_hear_the_begin_and_the_end(duration):
    starts = hearing.clip_starts(duration)
    assert starts[0] == 0 and all(0 <= start <= max(0, duration - 2) + 1e-9 for start in starts)
    if duration >= 4:
        assert starts[-1] == pytest.approx(duration - 2)
        assert max(np.diff(starts)) < 4  # so that each moment is at most a second from some clip's two
    assert len(starts) == max(1, int(duration // 2))


def test_frames_get_clips_around_their_own_times():
    starts = hearing.frame_starts(30.0, 16, 10, begin=12.0)
    assert np.add(starts, 1) == pytest.approx(12 + (np.arange(16) + 0.5) / 10)
    assert context.frame_clips(16, len(starts), 10, starts, begin=12.0).tolist() == list(range(16))
    early = hearing.frame_starts(2.5, 16, 10)  # there is room for half a second of starts only
    assert early[0] == 0 and early[-1] == pytest.approx(0.5) and len(set(early)) == len(early) < 16
    assert hearing.frame_starts(1.0, 16, 10) == [0.0]


# --- what is heard ---------------------------------------------------------------------------------------------------


def test_a_long_sound_is_heard_to_its_end(tmp_path):
    samples = tone(21.0, channels=2)
    samples[19 * 16000 :, 1] = 0.9  # one channel, after all that the original hears
    path = wav(tmp_path / "long.wav", samples)
    starts = hearing.clip_starts(hearing.duration_of(path))
    clips = hearing.heard(path, starts)
    assert clips.shape == (10, 32000) and clips.dtype == np.float32
    np.testing.assert_allclose(clips[-1], samples[19 * 16000 :].mean(1), atol=1e-6)
    legacy, theirs = hearing.heard_legacy(path)
    assert len(legacy) == 10 and max(theirs) + 2 < 10  # counted by the whole, cut from the first 10 s, the end of those unheard
    assert np.ptp(legacy[-1]) == pytest.approx(0.6, abs=0.01)


def test_a_span_of_a_sound_is_heard_and_nothing_around_it(tmp_path):
    samples = np.zeros((16000 * 8, 1))
    samples[:, 0] = np.repeat(np.arange(1, 9) / 10, 16000)
    path = wav(tmp_path / "stairs.wav", samples)
    (clip,) = hearing.heard(path, hearing.clip_starts(1.5), begin=3.0, seconds=1.5)
    np.testing.assert_allclose(clip[[0, 15999, 16000, 23999, 24000, 31999]], [0.4, 0.4, 0.5, 0.5, 0, 0], atol=1e-6)


def test_a_short_sound_is_heard_once_and_then_silence(tmp_path):
    path = wav(tmp_path / "short.wav", tone(0.7, 44100), 44100)
    (clip,) = hearing.heard(path, hearing.clip_starts(hearing.duration_of(path)))
    level = np.abs(clip).reshape(20, -1).max(1)
    assert (level[:7] > 0.25).all() and (level[8:] < 1e-3).all()
    hearing.check_audible(clip[None], path)
    with pytest.raises(MediaError, match=r"0\.7 s.*clips are 2 s"):
        hearing.heard_legacy(path)


def test_a_videos_sound_is_heard_from_its_first_frame_on(tmp_path):
    path = film(tmp_path / "late.mkv", seconds=3.0, sound=ramp(3.0), late=0.5)
    assert hearing.duration_of(path) == pytest.approx(3.5, abs=0.01)
    (clip,) = hearing.heard(path, [0.25])
    assert np.abs(clip[:3900]).max() == 0 and np.rint(clip[4100:4110] * 32768).tolist() == list(range(101, 111))
    beside = wav(tmp_path / "beside.wav", tone(2.0))
    np.testing.assert_allclose(hearing.heard(path, [0.0], beside)[0], tone(2.0)[:, 0], atol=1e-6)
    assert hearing.duration_of(path, beside) == 2.0


def test_overlapping_clips_leak_in_the_legacy_form_only(tmp_path):
    samples = np.full((16000 * 3, 2), 0.25)
    path = wav(tmp_path / "constant.wav", samples)
    legacy, _ = hearing.heard_legacy(path, 2, "pinned")
    assert np.ptp(legacy[0]) < 1e-6 and np.ptp(legacy[1]) > 0.2
    assert np.ptp(hearing.heard(path, hearing.clip_starts(3.0, 2, "pinned"))) < 1e-6


@pytest.mark.parametrize("samples, rate, clips", [(290179, 44100, 7), (290179, 44100, 5), (300502, 44100, 5), (100001, 16000, 6)])
def test_legacy_clips_begin_at_the_originals_samples(tmp_path, samples, rate, clips):
    """Its clips are cut from what is resampled, in exact fractions of that sound's floating-point seconds, rounded down."""
    path = wav(tmp_path / "some.wav", tone(samples / rate, rate), rate)
    length = -(-samples * 16000 // rate)
    for spacing, parts in (("pinned", clips), ("spread", clips - 1)):
        _, starts = hearing.heard_legacy(path, clips, spacing)
        assert [hearing.first_sample(start) for start in starts] == [int(Fraction(length / 16000 - 2) / parts * k * 16000) for k in range(clips)]


def test_what_cannot_be_heard_is_told(tmp_path):
    quiet = wav(tmp_path / "quiet.wav", tone(4.0) * 1e-4)
    with pytest.raises(RowError, match=r"dog: is silent.*leave this source out"):
        hearing.check_audible(hearing.heard(quiet, [0.0, 2.0]), "dog")
    hearing.check_audible(np.stack([np.zeros(32000), tone(2.0)[:, 0]]), "dog")  # once is enough
    broken = wav(tmp_path / "broken.wav", np.full((48000, 2), 3e38))
    with pytest.raises(MediaError, match="beyond all measure"):
        hearing.heard(broken, [0.0])
    with pytest.raises(MediaError, match="beyond all measure"):
        hearing.heard_legacy(broken)
    with pytest.raises(MediaError, match="has no sound"):
        hearing.duration_of(film(tmp_path / "mute.mkv", seconds=1.0))


def test_the_tower_hears_each_clip_by_itself(tmp_path):
    made = small_imagebind.towers()
    torch.save(small_imagebind.released(made), tmp_path / "imagebind_huge.pth")
    net = hearing.load_hearing(hub.Weights({"imagebind": str(tmp_path / "imagebind_huge.pth")}), small_imagebind.SIZES["audio"])
    assert net.dim == small_imagebind.SIZES["audio"].dim and not any(p.requires_grad for p in net.parameters())
    assert not net.train().tower.training  # frozen, whatever surrounds it
    clips = np.stack([tone(2.0, hertz=200.0 * k)[:, 0] for k in range(1, 4)]).astype(np.float32)
    mels = torch.from_numpy(hearing.spectrograms(clips))
    tokens = net(mels)
    assert mels.shape == (3, 1, 128, 204) and tokens.shape == (3, 229, net.dim)
    torch.testing.assert_close(tokens[1:2], net(mels[1:2]))
    torch.testing.assert_close(made.audio.postprocessor(made.audio.head(tokens)), made.audio(mels))
    assert (tokens[0] - tokens[2]).abs().max() > 0.1
    torch.save({name: tensor.bfloat16() for name, tensor in small_imagebind.released(made).items()}, tmp_path / "half.pth")
    half = hearing.load_hearing(tmp_path / "half.pth", small_imagebind.SIZES["audio"])
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(mels), tokens)
    with pytest.raises(FatalError, match="no audio tower"):
        torch.save({"modality_trunks.vision.blocks.0.norm_1.bias": torch.zeros(8)}, tmp_path / "other.pth")
        hearing.load_hearing(tmp_path / "other.pth")


# --- the resampler ---------------------------------------------------------------------------------------------------


def test_the_resampler_reads_its_size_from_any_wrapped_weights(tmp_path):
    torch.manual_seed(0)
    net = resampler.Resampler(SMALL)
    torch.save({"module." + name: tensor for name, tensor in net.state_dict().items()}, tmp_path / "perceiver.pth")
    x = torch.randn(3, 7, 16)
    for again in (resampler.load_resampler(tmp_path, 4), resampler.load_resampler(str(tmp_path / "perceiver.pth"), 4), resampler.load_resampler(net.state_dict(), 4)):
        assert again.size == SMALL
        torch.testing.assert_close(again(x), net(x), atol=0, rtol=0)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))  # clips do not see each other
    assert (net(x)[0] - net(x)[1]).abs().max() > 1e-3


def test_the_resampler_works_in_half_precision_and_learns_everything():
    torch.manual_seed(0)
    net = resampler.Resampler(SMALL)
    x = torch.randn(3, 7, 16)
    whole = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x)
    torch.testing.assert_close(found.float(), whole, atol=0.1, rtol=0)
    torch.testing.assert_close(resampler.load_resampler(net.state_dict(), 4).bfloat16()(x.bfloat16()).float(), whole, atol=0.2, rtol=0)
    whole.square().mul(torch.randn(20)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_unfit_weights_of_a_resampler_are_told(tmp_path):
    state = resampler.Resampler(SMALL).state_dict()
    with pytest.raises(FatalError, match="perceiver.pth"):
        resampler.load_resampler(tmp_path)
    with pytest.raises(FatalError, match=r"no weights of MAESTRO's resampler.*begin with conv\.weight"):
        resampler.load_resampler({"conv.weight": torch.zeros(2, 2)})
    with pytest.raises(FatalError, match="12 wide.*no multiple of 64"):
        resampler.load_resampler(state)
    with pytest.raises(FatalError, match=r"1 missing: layers\.1\.0\.norm2\.bias"):
        resampler.load_resampler({name: tensor for name, tensor in state.items() if name != "layers.1.0.norm2.bias"}, 4)
    with pytest.raises(FatalError, match="1 unexpected: extra"):
        resampler.load_resampler(state | {"extra": torch.zeros(1)}, 4)


# --- places and timing -----------------------------------------------------------------------------------------------


def test_legacy_timing_counts_eight_frames_to_a_clip():
    assert context.frame_clips(16, 5, timing="legacy").tolist() == [0] * 8 + [1] * 8
    assert context.frame_clips(16, 1, timing="legacy").tolist() == [0] * 16
    assert context.frame_clips(20, 2, timing="legacy").tolist() == [0] * 20  # too few: the second is never heard


def test_each_frame_hears_the_clip_around_its_own_time():
    starts = [0.0, 2.0, 4.0]
    assert context.frame_clips(12, 3, 2.0, starts).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert context.frame_clips(3, 3, 2.0, starts, begin=3.0).tolist() == [1, 1, 2]
    assert context.frame_clips(2, 3, 0.1, starts, begin=100.0).tolist() == [2, 2]  # the sound is over: its last clip
    assert context.frame_clips(1, 2, 0.25, [0.0, 2.0]).tolist() == [0]  # of equally near ones the earlier
    with pytest.raises(ValueError, match="no such timing"):
        context.frame_clips(4, 1, 8.0, [0.0], timing="late")


def test_sources_take_their_places_one_after_another():
    prompt = torch.zeros(77, 4)
    tokens = [torch.full((2, 10, 4), float(s + 1)) * torch.tensor([1.0, 10.0])[:, None, None] for s in range(3)]
    clips = [torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([0, 0])]
    base, whole = context.contexts(prompt, tokens, clips, first=5)
    assert base.shape == whole.shape == (2, 77, 4) and not base.any()
    expected = torch.zeros(2, 77)
    expected[:, 5:15], expected[:, 15:25], expected[:, 25:35] = torch.tensor([[1.0], [10.0]]), 20.0, 3.0
    assert torch.equal(whole, expected[:, :, None].expand(-1, -1, 4))


def test_more_sources_than_places_are_refused_with_their_number():
    assert [list(one) for one in context.slots(7, 10)][-1] == list(range(61, 71))
    with pytest.raises(RowError, match="8 sources, and no more than 7 of 10 tokens each fit into 77 places; leave"):
        context.slots(8, 10)
    with pytest.raises(RowError, match="2 sources, and no more than 1 .*behind this text, which takes 60 of them; shorten the text"):
        context.slots(2, 10, first=60)
    with pytest.raises(RowError, match="no more than 0"):
        context.contexts(torch.zeros(77, 4), [torch.zeros(1, 10, 4)], [torch.zeros(2, dtype=torch.int64)], first=76)


def test_one_sources_places_pass_gradients_and_keep_the_prompt():
    prompt, tokens = torch.randn(77, 6), torch.randn(9, 10, 6, requires_grad=True)
    whole = context.with_tokens(prompt, tokens)
    assert torch.equal(whole[:, 1:11], tokens) and torch.equal(whole[:, 0], prompt[0].expand(9, -1)) and torch.equal(whole[:, 11:], prompt[11:].expand(9, -1, -1))
    whole.sum().backward()
    assert torch.equal(tokens.grad, torch.ones_like(tokens))
    clips = torch.arange(9)
    torch.testing.assert_close(context.contexts(prompt, [tokens.detach()], [clips])[1], whole.detach(), atol=0, rtol=0)
    each = context.with_tokens(torch.randn(9, 77, 6), tokens, first=3)  # prompts of their own
    assert torch.equal(each[:, 3:13], tokens)


# --- the text tower --------------------------------------------------------------------------------------------------


def open_clip(tower) -> dict:
    """The tower's weights under OpenCLIP's names, with what a file of all of it has besides."""
    import re

    made, back = {}, ((".layer_norm", ".ln_"), (".mlp.fc1.", ".mlp.c_fc."), (".mlp.fc2.", ".mlp.c_proj."), (".self_attn.out_proj.", ".attn.out_proj."))
    packed: dict = {}
    for name, tensor in tower.model.state_dict().items():
        name = re.sub(r"^encoder\.layers\.", "transformer.resblocks.", name)
        if found := re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            packed.setdefault(f"{found[1]}.attn.in_proj_{found[3]}", {})[found[2]] = tensor
            continue
        for ours, theirs in back:
            name = name.replace(ours, theirs)
        whole = {"embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight": "positional_embedding"}
        made[whole.get(name, name.replace("final_layer_norm", "ln_final"))] = tensor
    made |= {name: torch.cat([parts[one] for one in "qkv"]) for name, parts in packed.items()}
    return made | {"text_projection": torch.zeros(16, 8), "logit_scale": torch.zeros(()), "visual.conv1.weight": torch.zeros(2)}


def toy(seed=0):
    torch.manual_seed(seed)
    made = text.TextTower(TOY).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        parameter.data.normal_(0, 0.5).add_(1.0 if name.endswith("norm.weight") else 0.0)
    return made


def test_texts_end_once_and_zeros_follow():
    ids = text.token_ids(["", "A dog  runs", "very " * 200])
    assert ids.shape == (3, 77) and ids[0].tolist() == [BEGIN, END] + [0] * 75
    assert text.end_positions(ids).tolist() == [1, 4, 76]
    assert torch.equal(ids[1, 5:], torch.zeros(72, dtype=torch.int64))
    ends = text.token_ids(["", "A dog  runs", "very " * 200], pad_end=True)
    assert ends[0].tolist() == [BEGIN] + [END] * 76 and torch.equal(ends[2], ids[2]) and (ends[1, 4:] == END).all() and torch.equal(text.end_positions(ends), text.end_positions(ids))
    assert text.token_ids(["very " * 200], 9)[0, -1] == END


def test_both_layers_are_what_transformers_computes():
    tower = toy()
    texts = ["", "a dog barks"]
    whole = tower.model(input_ids=tower.ids(texts), output_hidden_states=True)
    torch.testing.assert_close(tower(texts, "last"), whole.last_hidden_state)
    torch.testing.assert_close(tower(texts), tower.model.final_layer_norm(whole.hidden_states[-2]))
    torch.testing.assert_close(tower(texts)[1:], tower(texts[1:]))


@pytest.mark.parametrize("prefix", ["", text.PREFIX])
def test_open_clips_names_load_alone_and_within_a_whole_checkpoint(tmp_path, prefix):
    tower = toy()
    named = {prefix + name: tensor for name, tensor in open_clip(tower).items()}
    if prefix:
        named |= {"model.diffusion_model.out.0.weight": torch.zeros(3), "betas": torch.zeros(4)}
    torch.save({"state_dict": named, "global_step": 3} if prefix else named, tmp_path / "model.ckpt")
    hub.save_tensors(tmp_path / "model.safetensors", named)
    for file in ("model.ckpt", "model.safetensors"):
        again = text.load_text(tmp_path / file, heads=2)
        assert again.layer == "penultimate" and again.settings["num_hidden_layers"] == 4
        torch.testing.assert_close(again(["a dog"]), tower(["a dog"]), atol=0, rtol=0)
    named[prefix + "transformer.resblocks.1.ln_3.weight"] = torch.zeros(16)
    with pytest.raises(FatalError, match="1 unexpected: encoder.layers.1.layer_norm3|1 unexpected: encoder.layers.1.ln_3"):
        text.load_text(named, heads=2)
    with pytest.raises(FatalError, match="has no text tower of OpenCLIP"):
        text.load_text({"betas": torch.zeros(4)})


def test_a_folder_without_the_last_block_gives_the_same_as_the_whole_tower(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "CONFIG", text.CONFIG | TOY)
    tower = toy()
    config = type(tower.model.config)
    folder = tmp_path / "text_encoder"
    short = type(tower.model)(config(**TOY | {"num_hidden_layers": 3}, **text.MARKS))
    hub.load_strict(short, {name: tensor for name, tensor in tower.model.state_dict().items() if "layers.3." not in name}, "here", ignore=text.UNUSED)
    short.save_pretrained(folder)
    for source in (tmp_path, folder):
        found = text.load_text(source)
        torch.testing.assert_close(found(["a dog"]), tower(["a dog"]), atol=0, rtol=0)
        with pytest.raises(FatalError, match="last block.*lack it"):
            found(["a dog"], "last")
    published = {name: tensor for name, tensor in open_clip(tower).items() if "resblocks.3." not in name}  # the same without a folder
    torch.testing.assert_close(text.load_text(published, heads=2)(["a dog"]), tower(["a dog"]), atol=0, rtol=0)
    again = text.TextTower(**json.loads(json.dumps(found.told)))  # what a checkpoint of ours keeps of it
    hub.load_strict(again.model, found.model.state_dict(), "here")
    torch.testing.assert_close(again(["a dog"]), tower(["a dog"]))


def test_another_folders_last_block_and_padding_are_what_its_networks_read(tmp_path):
    tower = toy()
    tower.model.save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<|endoftext|>"}}))
    found = text.load_text(tmp_path)
    assert found.layer == "last" and found.pad_end
    torch.testing.assert_close(found(["a dog"]), tower(text.token_ids(["a dog"], pad_end=True), "last"), atol=0, rtol=0)
    (tmp_path / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert not text.load_text(tmp_path).pad_end
    (tmp_path / "text_encoder" / "config.json").unlink()
    with pytest.raises(FatalError, match="no readable config.json"):
        text.load_text(tmp_path)


# --- what is learnt from ---------------------------------------------------------------------------------------------


def test_averages_come_between_neighbouring_clips():
    tokens = torch.randn(2, 5, 3, 4)
    found = losses.interpolate(tokens)
    assert found.shape == (2, 9, 3, 4)
    torch.testing.assert_close(found[:, ::2], tokens)
    torch.testing.assert_close(found[:, 1::2], (tokens[:, 1:] + tokens[:, :-1]) / 2)
    torch.testing.assert_close(losses.interpolate(tokens[0]), found[0])  # videos do not mix
    assert torch.equal(losses.interpolate(tokens[:, :1]), tokens[:, :1])
    torch.testing.assert_close(losses.interpolate(tokens, 1)[:, 0], tokens[:, 2])


def test_frames_are_paired_with_what_is_heard_at_their_times():
    tokens = torch.tensor([0.0, 10.0, 40.0])[:, None, None]
    found = losses.at_times(tokens, [1.0, 3.0, 5.0], [0.0, 1.0, 2.0, 3.5, 5.0, 9.0])
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([0.0, 0.0, 5.0, 17.5, 40.0, 40.0]))
    assert losses.at_times(tokens[:1], [1.0], [0.0, 1.0, 2.0]).flatten().tolist() == [0.0] * 3
    with pytest.raises(ValueError, match="3 clips, and 2 middles"):
        losses.at_times(tokens, [1.0, 3.0], [0.0])


def test_both_losses_count_as_told_for_each_video_alike():
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 3, 4, 5, 5), torch.randn(2, 3, 4, 5, 5)
    heard, label = torch.randn(2, 3, 77, 6), torch.randn(2, 77, 6)
    found = losses.losses(prediction, target, heard, label, 0.75, 0.25)
    each = [losses.losses(*parts, 0.75, 0.25) for parts in zip(prediction, target, heard, label, strict=True)]
    for k in range(3):
        torch.testing.assert_close(found[k], torch.stack([one[k] for one in each]).mean())
    torch.testing.assert_close(found.total, 0.75 * found.denoising + 0.25 * found.text)
    halves = losses.losses(prediction.half(), target.half(), heard.half(), label.half())
    assert halves.total.dtype == torch.float32
    with pytest.raises(ValueError, match="prediction"):
        losses.losses(prediction[:, :1], target, heard, label)
