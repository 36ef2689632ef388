"""JavisDiT's prior, its losses, its codecs of pictures and sound, and how it reads captions."""

import dataclasses
import json
import math
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

import small_imagebind  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, RowError  # noqa: E402
from avtools.models.javisdit import prior as priors  # noqa: E402
from avtools.models.javisdit import prior_losses, sound_codec, text, video_vae  # noqa: E402
from avtools.models.parts.audioldm import AudioLdmCodec  # noqa: E402

SIZE = priors.Size(text=12, dim=16, heads=2, encoder_layers=2, decoder_layers=2, feed=2, out=8, spatial=3, temporal=4, pair_heads=2, pair_feed=2)
PIXELS = (32, 48)
GROUPS = ("video-spatial", "video-temporal", "audio-spatial", "audio-temporal")


def network(size=SIZE, seed=0) -> priors.TrainedPrior:
    torch.manual_seed(seed)
    return priors.TrainedPrior(size).eval()


def clips(batch=3, negatives=1, seed=1, **there) -> priors.Clips:
    draw = torch.Generator().manual_seed(seed)
    video, audio = (4, 5, 4, 6), (8, 12, 8)
    others = {group: torch.randn(batch, negatives, *(video if group.startswith("video") else audio), generator=draw) for group in GROUPS}
    named = {name.replace("_", "-"): torch.tensor(values) for name, values in there.items()}
    return priors.Clips(torch.randn(batch, *video, generator=draw), torch.randn(batch, *audio, generator=draw), others, PIXELS, named)


def some(given: priors.Clips, rows) -> priors.Clips:
    """Those of the clips."""
    return priors.Clips(*(one[rows] for one in given[:2]), {name: one[rows] for name, one in given.negatives.items()}, PIXELS, {name: one[rows] for name, one in (given.there or {}).items()})


# --- the prior -------------------------------------------------------------------------------------------------------


def test_a_caption_has_another_prior_for_each_draw_and_the_mean_lies_between_them():
    net, states = network(), torch.randn(2, 7, SIZE.text)
    mean, logvar = net.posterior(states)
    one, other = (torch.cat(net(states, noise), 1) for noise in (torch.ones_like(mean), -torch.ones_like(mean)))
    assert torch.allclose((one + other) / 2, mean, atol=1e-6) and torch.allclose((one - other) / 2, torch.exp(logvar / 2), atol=1e-6)
    torch.manual_seed(3)
    spatial, temporal = net(states)
    assert spatial.shape == (2, 3, 8) and temporal.shape == (2, 4, 8)
    assert not torch.equal(spatial, net(states)[0])


def test_a_caption_is_read_by_itself():
    net, states, noise = network(), torch.randn(3, 7, SIZE.text), torch.randn(3, 7, SIZE.out)
    together = torch.cat(net(states, noise), 1)
    alone = torch.cat([torch.cat(net(states[k : k + 1], noise[k : k + 1]), 1) for k in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_variances_stay_within_bounds():
    net = network()
    net.out_proj.bias.data[SIZE.out :] = 1e4
    assert net.posterior(torch.randn(1, 2, SIZE.text))[1].max() == priors.HIGHEST
    net.out_proj.bias.data[SIZE.out :] = -1e4
    assert net.posterior(torch.randn(1, 2, SIZE.text))[1].min() == priors.LOWEST


def test_sides_of_latents_of_pictures_that_are_odd_are_filled_up_and_of_sounds_cut():
    net, latents = network(), torch.randn(2, 4, 3, 5, 7)
    filled = torch.nn.functional.pad(latents, (0, 1, 0, 1))
    tokens = net.video_tokens(latents, PIXELS)
    assert tokens.shape == (2, 3, 12, 8) and torch.equal(tokens, net.video_tokens(filled, PIXELS))
    sound = torch.randn(2, 8, 5, 7)
    assert net.audio_tokens(sound).shape == (2, 2, 3, 8) and torch.equal(net.audio_tokens(sound), net.audio_tokens(sound[:, :, :4, :6]))


def test_both_ways_of_attention_are_those_of_one_matrix():
    torch.manual_seed(0)
    pair, one, other = priors.Pair(8, 2), torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    a, b, va, vb = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer, x in ((pair.m1_proj, one), (pair.m2_proj, other), (pair.values_m1_proj, one), (pair.values_m2_proj, other)))
    likeness = a @ b.transpose(-1, -2) / 2
    wanted = [likeness.softmax(-1) @ vb, likeness.transpose(-1, -2).softmax(-1) @ va]
    wanted = [layer(x.transpose(1, 2).flatten(2)) for layer, x in zip((pair.out_m1_proj, pair.out_m2_proj), wanted, strict=True)]
    assert all(torch.allclose(found, one, atol=1e-6) for found, one in zip(pair(one, other), wanted, strict=True))


# --- losses --------------------------------------------------------------------------------------------------------


def test_candidates_are_the_clip_then_other_sounds_then_other_pictures():
    net, given = network(), clips(2, 2)
    made = net(torch.randn(2, 7, SIZE.text), clips=given)
    for name, view in made.views.items():
        assert view.embedding.shape == (2, 5, SIZE.spatial if name == "spatial" else SIZE.temporal, 8) and view.there.all()
        video, audio = (torch.cat([own[:, None], given.negatives[f"{medium}-{name}"]], 1) for medium, own in (("video", given.video), ("audio", given.audio)))
        stretch = net.spatial_view if name == "spatial" else net.temporal_view
        for candidate, (picture, sound) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]):
            alone = net.merged(name, stretch(net.video_tokens(video[:, picture], PIXELS)), stretch(net.audio_tokens(audio[:, sound])))
            assert torch.allclose(view.embedding[:, candidate], alone, atol=1e-5)
    assert not torch.allclose(made.views["spatial"].embedding[:, 0], made.views["spatial"].embedding[:, 1], atol=1e-3)


def test_losses_of_a_batch_are_those_of_each_clip():
    net, given, states, noise = network(dataclasses.replace(SIZE, onset=True)), clips(), torch.randn(3, 7, SIZE.text), torch.randn(3, 7, SIZE.out)
    onsets = (torch.rand(3, 20, generator=torch.Generator().manual_seed(2)) < 0.2).float()
    whole = prior_losses.losses(net(states, noise, given), onsets)
    assert {*whole.terms} == {f"{view}_{term}" for view in priors.VIEWS for term in ("token", "disc", "mse", "va")} | {"kl", "onset"}
    assert torch.allclose(whole.total, sum(whole.terms.values()))
    for k in range(3):
        rows = slice(k, k + 1)
        alone = prior_losses.losses(net(states[rows], noise[rows], some(given, rows)), onsets[rows])
        for name, value in alone.terms.items():
            assert torch.allclose(value, whole.terms[name][rows], atol=1e-5), name


def test_a_negative_that_is_not_there_counts_for_nothing():
    net, states, noise = network(), torch.randn(2, 7, SIZE.text), torch.randn(2, 7, SIZE.out)
    given = clips(2, 2, video_spatial=[[True, False], [False, False]], audio_spatial=[[True, True], [False, False]])
    found = prior_losses.losses(net(states, noise, given))
    changed = {name: one.clone() for name, one in given.negatives.items()}
    changed["video-spatial"][0, 1], changed["video-spatial"][1], changed["audio-spatial"][1] = 50.0, 50.0, -50.0
    other = prior_losses.losses(net(states, noise, given._replace(negatives=changed)))
    for name, value in found.terms.items():
        assert torch.allclose(value, other.terms[name], atol=1e-5), name
    assert found.terms["spatial_va"][1] == 0 and found.terms["temporal_va"][1] > 0
    found.total.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())
    ahead = prior_losses.contrast(net(states, noise, given).views["spatial"])
    assert 0 <= ahead[0] <= 1 and ahead[1].isnan()


def test_terms_have_weights():
    net, states, noise = network(), torch.randn(2, 7, SIZE.text), torch.randn(2, 7, SIZE.out)
    made = net(states, noise, clips(2))
    plain, other = prior_losses.losses(made), prior_losses.losses(made, weights=prior_losses.Weights(mse=0.0, kl=1.0))
    assert torch.allclose(other.terms["kl"], plain.terms["kl"] * 1e6) and not other.terms["temporal_mse"].any()
    assert torch.equal(other.terms["spatial_va"], plain.terms["spatial_va"])


def test_an_onset_anywhere_in_its_share_is_a_tokens():
    certain = torch.tensor([[-50.0, 50.0, -50.0, 50.0]])
    onsets = torch.zeros(1, 20)
    onsets[0, [7, 19]] = 1
    assert prior_losses.onset_loss(certain, onsets) < 1e-6
    onsets[0, 0] = 1
    assert torch.allclose(prior_losses.onset_loss(certain, onsets), torch.tensor([12.5]))


@pytest.mark.long
def test_the_prior_learns_which_clip_a_caption_means():
    """Four captions, each of one picture and one sound; a negative has those of another."""
    draw = torch.Generator().manual_seed(0)
    kinds, seen = 4, (torch.randn(4, 5, SIZE.text, generator=draw), torch.randn(4, 4, 3, 4, 4, generator=draw), torch.randn(4, 8, 6, 4, generator=draw))
    net = network().train()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)

    def batch(count):
        own = torch.randint(kinds, (count,), generator=draw)
        other = (own + torch.randint(1, kinds, (count,), generator=draw)) % kinds
        negatives = {group: seen[1 if group.startswith("video") else 2][other][:, None] for group in GROUPS}
        return seen[0][own], priors.Clips(seen[1][own], seen[2][own], negatives, PIXELS)

    def ahead():
        states, given = batch(64)
        with torch.no_grad():
            views = net(states, clips=given).views.values()
        return torch.stack([prior_losses.contrast(view) for view in views]).mean().item()

    for _ in range(100):
        states, given = batch(16)
        loss = prior_losses.losses(net(states, clips=given)).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ahead() > 0.85


# --- the prior's files ------------------------------------------------------------------------------------------------


def saved(net, folder, **more):
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in {**net.state_dict(), **more}.items()}, path)
    return path


@pytest.mark.parametrize("onset", [False, True])
def test_files_tell_their_shape(tmp_path, onset):
    size = dataclasses.replace(SIZE, onset=onset, heads=2, pair_heads=4)
    net = network(size)
    saved(net, tmp_path)
    found = priors.read(tmp_path, heads=2)
    assert found.size == size and found.trained and not found.text
    assert priors.read(tmp_path).size == dataclasses.replace(size, heads=priors.RELEASED.heads)
    with pytest.raises(FatalError, match="16 wide, which 3 heads cannot share"):
        priors.read(tmp_path, heads=3)
    states, noise = torch.randn(1, 3, SIZE.text), torch.randn(1, 7, SIZE.out)
    for training in (False, True):
        made = found.make(training)
        assert isinstance(made, priors.TrainedPrior) == made.training == training and all(one.requires_grad == training for one in made.parameters())
        made.eval()
        assert torch.allclose(torch.cat(made(states, noise), 1), torch.cat(net(states, noise), 1), atol=1e-5)  # without gradients by another kernel


def test_what_is_no_prior_is_told_so(tmp_path):
    net = network()
    with pytest.raises(FatalError, match=r"has no \*\.safetensors, \*\.bin.*give JavisDiT's prior"):
        priors.read(tmp_path)
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(FatalError, match=r"other\.safetensors: not JavisDiT's prior \(no in_proj\.weight; it has weight\); give JavisDiT's prior"):
        priors.read(path)
    whole = net.state_dict()
    with pytest.raises(FatalError, match=r"1 missing: discriminator\.cls_token; 1 unexpected: discriminator\.token"):
        tensors = {name.replace("cls_token", "token"): tensor for name, tensor in whole.items()}
        priors.found(tensors, path).make(True)
    with pytest.raises(FatalError, match="1 missing: out_proj.bias"):
        priors.found({name: tensor for name, tensor in whole.items() if name != "out_proj.bias"}, path).make()
    own = {name: tensor for name, tensor in whole.items() if not name.startswith(priors.TRAINING)}
    assert not priors.found(own, path).trained
    with pytest.raises(FatalError, match="holds the prior without what it was trained with"):
        priors.found(own, path).make(True)


def test_the_text_tower_in_a_priors_file_is_found(tmp_path, monkeypatch):
    tower = small_imagebind.towers().text
    more = {f"{priors.TEXT}{name}": tensor for name, tensor in small_imagebind.released(small_imagebind.towers()).items() if ".text." in name}
    found = priors.read(saved(network(), tmp_path, **more))
    size = small_imagebind.SIZES["text"]
    ids = torch.tensor([[1, 5, 9, *[0] * 74]])
    assert torch.equal(text.tower_of(found.text, found.where, size).hidden(ids), tower.hidden(ids))
    lacking = {name: tensor for name, tensor in found.text.items() if "norm_2" not in name}
    with pytest.raises(FatalError, match=r"4 missing: trunk\.blocks\.0\.norm_2\.weight"):
        text.tower_of(lacking, found.where, size)


# --- captions ----------------------------------------------------------------------------------------------------------


def test_captions_are_read_by_imagebind_as_they_are():
    tower = small_imagebind.towers().text
    reader = text.PriorText(tower)
    found = reader(["A dog barks.", "rain " * 200])
    assert found.shape == (2, 77, reader.dim) and torch.isfinite(found).all()
    from avtools.models.parts.imagebind.text import tokenize

    assert torch.equal(found[:1], tower.hidden(tokenize(["A dog barks."])))


def t5_folder(folder):
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((chr(code), -3.0) for code in range(33, 127)), ("▁dog", -1.0)]
    tokenizer = transformers.T5Tokenizer(vocab=letters, extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder)
    t5_network(folder, len(tokenizer) + 3)
    return folder


def t5_network(folder, ids):
    torch.manual_seed(0)
    net = transformers.T5EncoderModel(transformers.T5Config(vocab_size=ids, d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=2))
    for parameter in net.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    net.save_pretrained(folder)


def test_t5_reads_each_caption_by_itself_up_to_its_limit(tmp_path):
    words = text.load_t5(t5_folder(tmp_path), limit=12)
    found = words(["a dog", "dog dog dog", ""])
    assert [len(one) for one in found] == [len(words.tokenizer(one)["input_ids"]) for one in ("a dog", "dog dog dog", "")] == [4, 4, 1]
    assert torch.allclose(words(["a dog"])[0], found[0], atol=1e-5) and not torch.allclose(found[0], found[1], atol=1e-2)
    assert words([]) == []
    long = "dog " * 40
    assert len(words([long])[0]) == 12 and words.cut(long) == 41 and words.cut("a dog") is None
    ids = words.tokenizer(long, truncation=True, max_length=12)["input_ids"]
    assert ids[-1] == words.tokenizer.eos_token_id  # a caption that is cut still ends
    states, real = text.padded(found)
    assert states.shape == (3, 4, 12) and real.sum(1).tolist() == [4, 4, 1] and not states[~real].any()
    states, real = text.padded(found, 2)
    assert states.shape == (3, 2, 12) and real.sum(1).tolist() == [2, 2, 1]


def test_t5s_tokenizer_may_be_of_sentencepiece_alone(tmp_path):
    """As the published folder has it."""
    import sentencepiece

    folder = t5_folder(tmp_path / "t5")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    lines = tmp_path / "lines.txt"
    lines.write_text("a dog barks loudly at the cat\nrain falls on the roof\nthe sea is wild and blue\n" * 30)
    options = {"vocab_size": 40, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=str(lines), model_prefix=str(folder / "spiece"), **options)
    with pytest.raises(FatalError, match="a tokenizer of 128 ids, and the network knows 102"):
        text.load_t5(folder)  # the 100 that T5 keeps for gaps are added
    t5_network(folder, 140)
    words = text.load_t5(folder)
    wanted = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).encode("a dog barks")
    assert words.tokenizer("a dog barks")["input_ids"] == [*wanted, 1]


def test_folders_that_are_not_t5s_are_told_so(tmp_path):
    with pytest.raises(FatalError, match=r"has no readable config\.json of T5; give a folder"):
        text.load_t5(tmp_path)
    folder = t5_folder(tmp_path / "t5")
    tensors = hub.tensors(folder / "model.safetensors")
    left = next(name for name in tensors if name.endswith("layer.0.SelfAttention.q.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != left}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FatalError, match=r"does not fit T5's encoder; 1 missing: encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight"):
        text.load_t5(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FatalError, match="has no tokenizer"):
        text.load_t5(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(FatalError, match="is of the kind bert, not t5"):
        text.load_t5(folder)


@pytest.mark.parametrize(
    "given, cleaned",
    [
        ("A dog BARKS at https://x.com/a?b=1 loudly!!!", "a dog barks at loudly!"),
        ("狗在叫 a dog barks 犬", "a dog barks"),
        ("cats &amp;amp; dogs <b>run</b>", "cats & dogs run"),
        ("visit foo.org/bar, then a 3.5 m wave", "visit, then a 3.5 m wave"),
        ("“Rain” falls — softly", '"rain" falls - softly'),
        ('"a whole sentence"', "a whole sentence"),
        ("@user a <person> #123 from 10.0.0.1: clip.mp4", "a person from"),
        ("café, naïve", "café, naïve"),
        ("  ", ""),
    ],
)
def test_prompts_are_cleaned(given, cleaned):
    assert text.clean(given) == cleaned and text.clean(cleaned) == cleaned


def test_prompts_get_the_phrase_of_a_score_once():
    assert text.prompt("A dog barks.") == "a dog barks. aesthetic score: 6.5."
    assert text.prompt("A dog barks.", 5) == "a dog barks. aesthetic score: 5.0." and text.prompt("A dog.", None) == "a dog."
    assert text.prompt("a dog, aesthetic score: 4.0") == "a dog, aesthetic score: 4.0"
    with pytest.raises(RowError, match="nothing is left of the caption.*write it in English"):
        text.prompt("狗在叫")


# --- pictures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    pictures = video_vae.Vae({"block_out_channels": [32] * 4, "layers_per_block": 1, "scaling_factor": video_vae.PICTURE_SCALE})
    made = video_vae.VideoVae(pictures, video_vae.Temporal(video_vae.Size(width=32, times=(1, 1, 2, 2), blocks=1)))
    return made.eval().requires_grad_(False)


def released_vae(made) -> dict:
    tensors = {name.replace("spatial_vae.model.", video_vae.SPATIAL): tensor.contiguous() for name, tensor in made.state_dict().items()}
    return tensors | {name: torch.tensor(getattr(made, name)).view(1, -1, 1, 1, 1) for name in ("shift", "scale")}


def videos(frames, height=16, width=24, count=1, seed=0):
    return torch.rand(count, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames, latents", [(1, 1), (4, 1), (5, 2), (16, 4), (17, 5), (18, 6), (34, 10), (51, 15), (408, 120)])
def test_17_pictures_are_5_latents(vae, frames, latents):
    assert vae.latents(frames) == latents
    if frames < 40:
        made = vae.encode(videos(frames, 16, 26))
        assert made.shape == (1, 4, latents, 2, 3)  # 26 pixels are 3 latents, as 24 are
        assert vae.decode(made, frames).shape == (1, frames, 3, 16, 24)


def test_chunks_know_nothing_of_each_other(vae):
    whole = videos(36)
    latents = vae.encode(whole)
    assert torch.allclose(latents[:, :, :5], vae.encode(whole[:, :17]), atol=1e-5) and torch.allclose(latents[:, :, 5:10], vae.encode(whole[:, 17:34]), atol=1e-5)
    assert torch.allclose(latents[:, :, 10:], vae.encode(whole[:, 34:]), atol=1e-5)
    pictures = vae.decode(latents, 36)
    assert torch.allclose(pictures[:, 17:34], vae.decode(latents[:, :, 5:10]), atol=1e-5) and pictures.min() >= 0 and pictures.max() <= 1
    with pytest.raises(ValueError, match="11 latents, and 34 pictures have 10"):
        vae.decode(latents, 34)


def test_convolutions_look_back_only():
    torch.manual_seed(0)
    for stride in (1, 2):
        layer, x = video_vae.Causal(2, 3, stride=stride), torch.randn(1, 2, 8, 4, 4)
        later = x.clone()
        later[:, :, 5:] = 0
        one, other = layer(x), layer(later)
        kept = -(-5 // stride)
        assert one.shape[2] == 8 // stride and torch.allclose(one[:, :, :kept], other[:, :, :kept]) and not torch.allclose(one[:, :, kept:], other[:, :, kept:])


def test_what_is_missing_to_a_multiple_of_4_comes_before_the_first_picture(vae):
    seen = []
    hook = vae.temporal_vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vae.encode(videos(18))
    hook.remove()
    assert [one.shape[2] for one in seen] == [20, 4]
    assert not seen[0][:, :, :3].any() and seen[0][:, :, 3:].any() and not seen[1][:, :, :3].any()


def test_samples_of_a_video_depend_on_its_own_draws(vae):
    both = videos(18, count=2)
    mean = vae.encode(both)

    def drawn(pictures, *seeds):
        return vae.encode(pictures, [torch.Generator().manual_seed(seed) for seed in seeds])

    pair = drawn(both, 1, 2)
    assert torch.allclose(drawn(both[1:], 2), pair[1:], atol=1e-5) and torch.equal(drawn(both, 1, 2), pair)
    assert not torch.allclose(pair, mean, atol=1e-2) and not torch.allclose(drawn(both, 1, 3)[1], pair[1], atol=1e-2)


def test_bytes_are_values_between_0_and_1(vae):
    bytes_ = (videos(5) * 255).round().to(torch.uint8)
    assert torch.allclose(vae.encode(bytes_), vae.encode(bytes_.float() / 255), atol=1e-5)


def test_half_precision_is_of_the_networks_only(vae):
    import copy

    half, one = copy.deepcopy(vae).to(torch.bfloat16), videos(9)
    latents = half.encode(one)
    assert latents.dtype == torch.float32 and (latents - vae.encode(one)).abs().mean() < 0.01
    made = half.decode(latents, 9)
    assert made.dtype == torch.float32 and (made - vae.decode(latents, 9)).abs().mean() < 0.02


def unscaled(vae, latents):
    shift, scale = (torch.tensor(one).view(1, -1, 1, 1, 1) for one in (vae.shift, vae.scale))
    return latents * scale + shift


def test_latents_are_shifted_and_scaled_by_channel(vae):
    one = videos(17)
    raw = unscaled(vae, vae.encode(one))
    plain = video_vae.VideoVae(vae.spatial_vae, vae.temporal_vae, (0.0,) * 4, (1.0,) * 4).eval()
    assert torch.allclose(plain.encode(one), raw, atol=1e-5) and vae.shift == (-0.10, 0.34, 0.27, 0.98)
    assert torch.allclose(plain.decode(raw), vae.decode(vae.encode(one)), atol=1e-5)


def test_the_released_vae_has_393_million_parameters():
    """As many as the published file has bytes for: 1.57 GB in single precision."""
    with torch.device("meta"):
        parts = video_vae.Temporal(), video_vae.Vae({"scaling_factor": video_vae.PICTURE_SCALE})
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert round(4 * count / 1e9, 2) == 1.57


def test_a_released_vae_is_loaded_strictly(vae, tmp_path):
    tensors = released_vae(vae)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    (tmp_path / "config.json").write_text(json.dumps({"micro_frame_size": 17, "shift": [0.0] * 4, "scale": [1.0] * 4}))
    one = videos(6)
    made = video_vae.load(tmp_path)
    assert torch.equal(made.encode(one), vae.encode(one))  # the file's own shift and scale come first
    save_file({name: tensor for name, tensor in tensors.items() if name not in ("shift", "scale")}, path)
    made = video_vae.load(tmp_path)
    assert made.shift == (0.0,) * 4 and torch.allclose(made.encode(one), unscaled(vae, vae.encode(one)), atol=1e-5)
    left = "temporal_vae.decoder.res_blocks.0.norm1.bias"
    save_file({name: tensor for name, tensor in tensors.items() if name != left}, path)
    with pytest.raises(FatalError, match=r"model\.safetensors: does not fit Temporal; 1 missing: decoder\.res_blocks\.0\.norm1\.bias"):
        video_vae.load(tmp_path)
    save_file({**tensors, "ema.weight": torch.zeros(1)}, path)
    with pytest.raises(FatalError, match=r"1 unexpected: ema\.weight \(known are .*\); give OpenSora's VAE 1\.2"):
        video_vae.load(path)
    save_file({name: tensor for name, tensor in tensors.items() if name.startswith("spatial")}, path)
    with pytest.raises(FatalError, match=r"no temporal_vae\.encoder\.conv_in\.conv\.weight; it has spatial_vae\.module\.\S+, .* in all\)"):
        video_vae.load(path)
    save_file({name.replace("block_res_blocks", "levels"): tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(FatalError, match=r"no temporal_vae\.encoder\.block_res_blocks\.0"):
        video_vae.load(path)
    (tmp_path / "config.json").write_text(json.dumps({"micro_frame_size": 33}))
    with pytest.raises(FatalError, match="chunks of 33 pictures, and only those of 17 are known"):
        video_vae.load(tmp_path)
    with pytest.raises(FatalError, match="has no model.safetensors"):
        video_vae.load(tmp_path / "nothing")


# --- sound -------------------------------------------------------------------------------------------------------------


def sound_folder(folder, rate=16000):
    torch.manual_seed(0)
    levels = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3, "block_out_channels": (8, 8, 8)}
    diffusers.AutoencoderKL(in_channels=1, out_channels=1, latent_channels=8, layers_per_block=1, norm_num_groups=4, scaling_factor=0.5, **levels).save_pretrained(folder / "vae")
    rates = {"upsample_rates": [5, 4, 2, 2, 2], "upsample_kernel_sizes": [16, 16, 8, 4, 4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]]}
    config = transformers.SpeechT5HifiGanConfig(model_in_dim=64, sampling_rate=rate, upsample_initial_channel=32, normalize_before=False, **rates)
    transformers.SpeechT5HifiGan(config).save_pretrained(folder / "vocoder")
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return sound_codec.load(sound_folder(tmp_path_factory.mktemp("sound")))


def tone(seconds, hertz=440.0):
    return 0.1 * torch.sin(torch.arange(round(seconds * 16000)) * (2 * math.pi * hertz / 16000))


@pytest.mark.parametrize("seconds, frames", [(4.25, 448), (2.0, 224), (Fraction(51, 24), 224), (0.32, 32), (0.33, 64), (0.001, 32), (2.3, 256), (6.4, 640)])
def test_mel_frames_are_100_a_second_in_multiples_of_32(seconds, frames):
    assert sound_codec.mel_frames(seconds) == frames


def test_behind_a_sound_there_is_silence_or_as_published_a_loud_zero():
    from avtools.models.parts.mel import LogMel

    mel, wave = LogMel(), torch.stack([tone(1.0), tone(1.0, 880.0)])
    silent, loud = (sound_codec.log_mel(mel, wave, 1.5, padding) for padding in sound_codec.PADDINGS)
    assert silent.shape == loud.shape == (2, 160, 64) and torch.equal(silent[:, :101], loud[:, :101])
    assert torch.allclose(silent[:, 101:], torch.full((), math.log(1e-5))) and not loud[:, 101:].any()
    nothing = sound_codec.log_mel(mel, torch.zeros(1, 16000), 1.0)
    assert torch.allclose(nothing, silent[:1, 101:102])  # what a silent sound is
    with pytest.raises(ValueError, match="no such padding"):
        sound_codec.log_mel(mel, wave, 1.0, "zero")


def test_levels_are_alike_unless_they_are_to_stay():
    from avtools.models.parts.mel import LogMel

    mel, wave = LogMel(), 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sound_codec.log_mel(mel, wave, 0.5), sound_codec.log_mel(mel, wave / 4 + 0.2, 0.5), atol=1e-2)
    apart = sound_codec.log_mel(mel, wave, 0.5, level=False) - sound_codec.log_mel(mel, wave / 4, 0.5, level=False)
    assert apart[0, 20].max() == pytest.approx(math.log(4), abs=1e-2)
    assert sound_codec.levelled(wave).abs().max() == pytest.approx(0.5, abs=1e-6) and not sound_codec.levelled(torch.zeros(1, 9)).any()


@pytest.mark.parametrize("count", [0, 1, 100, 600])
def test_sounds_shorter_than_a_window_are_sounds_too(count):
    from avtools.models.parts.mel import LogMel

    found = sound_codec.log_mel(LogMel(), tone(1.0)[None, :count], 0.5)
    assert found.shape == (1, 64, 64) and torch.isfinite(found).all()


def test_latents_of_sounds_and_back(sounds):
    wave = torch.stack([tone(1.7), tone(1.7, 700.0)])
    latents = sounds.encode(wave, 1.7)
    assert latents.shape == (2, 8, sounds.latents(1.7), 16) and sounds.latents(1.7) == 48
    assert torch.allclose(sounds.encode(wave[1:], 1.7), latents[1:], atol=1e-5)
    made = sounds.decode(latents, 1.7)
    assert made.shape == (2, 27200) and made.abs().max() <= 1
    spectrum = sound_codec.log_mel(sounds.mel, wave, 1.7)
    assert torch.allclose(sounds.codec.moments(spectrum[:, None])[0] * 0.5, latents, atol=1e-5)
    drawn = sounds.encode(wave, 1.7, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    again = sounds.encode(wave[1:], 1.7, [torch.Generator().manual_seed(2)])
    assert torch.allclose(drawn[1:], again, atol=1e-5) and not torch.allclose(drawn, latents, atol=1e-2)


def test_a_codec_of_other_sounds_is_told_so(tmp_path):
    with pytest.raises(FatalError, match="vae: no such folder"):
        sound_codec.load(tmp_path)
    with pytest.raises(FatalError, match="a codec of 22050 Hz, 160 samples a frame, 64 bands, 4 frames a latent, not"):
        sound_codec.load(sound_folder(tmp_path, rate=22050))


def test_sound_codec_is_audioldms(sounds):
    assert isinstance(sounds.codec, AudioLdmCodec) and sounds.codec.scale == 0.5
