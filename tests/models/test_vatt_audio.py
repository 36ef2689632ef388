"""VATT Audio: padding, layouts, masks, decoding in batches, conditioning in time, the codec, and weights in each layout."""

import json
import pathlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.nn import functional  # noqa: E402

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.models.vatt import attention, checkpoint, codec, decoding, masking, model  # noqa: E402
from avtools.models.vatt.model import AudioNet, Condition, Size  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = {
    "dim": 32, "first_blocks": 2, "second_blocks": 2, "first_heads": 4, "second_heads": 2, "head_dim": 16, "feed": 2,
    "latent": 6, "levels": 3, "codes": 16, "condition": 10,
}  # fmt: skip
FRAMES = 8


def network(seed=0, **fields) -> AudioNet:
    torch.manual_seed(seed)
    net = AudioNet(Size(**{**SHAPE, **fields}))
    net.codebooks.normal_()
    return net.eval()


def conditions(lengths, width=10, video=3, padded=None, seed=1):
    """States of clips with `lengths` rows each, alone and as a batch that is padded as the converter does: after the video's rows."""
    torch.manual_seed(seed)
    alone = [torch.randn(length, width) for length in lengths]
    longest = padded or max(lengths)
    states, mask = torch.randn(len(lengths), longest, width), torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, counts, one in zip(states, mask, alone, strict=True):
        counts[:video] = counts[longest - len(one) + video :] = True
        row[counts] = one
    return alone, states, mask


def tokens_of(net, batch, frames=FRAMES, share=0.5, seed=2):
    torch.manual_seed(seed)
    tokens = torch.randint(net.size.codes, (batch, net.size.levels, frames))
    return tokens.masked_fill(torch.rand(tokens.shape) < share, net.size.codes)


# --- the network -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_changes_nothing():
    net = network()
    alone, states, mask = conditions([5, 9, 7], padded=12)
    tokens = tokens_of(net, 3)
    together = net(tokens, states, mask)
    for k, one in enumerate(alone):
        torch.testing.assert_close(together[k : k + 1], net(tokens[k : k + 1], one[None]), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_positions_of_released_weights_count_padding():
    net = network(positions="padded")
    (alone, *_), states, mask = conditions([5, 5], padded=9)
    tokens = tokens_of(net, 1)
    padded, plain = net(tokens, states[:1], mask[:1]), net(tokens, alone[None])
    assert (padded - plain).abs().max() > 1e-2
    again = states.clone()
    again[~mask] = 100.0  # what is in padded rows does not matter, where they are does
    torch.testing.assert_close(net(tokens, again[:1], mask[:1]), padded, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_bias_is_one_for_the_whole_batch(kind, monkeypatch):
    seen, real = [], functional.scaled_dot_product_attention

    def spy(q, k, v, bias, *args, **more):
        seen.append((tuple(bias.shape), bias.dtype, bias.stride(-2)))
        return real(q, k, v, bias, *args, **more)

    net = network().to(kind)
    _, states, mask = conditions([4, 6])
    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    made = net(tokens_of(net, 2), states.to(kind), mask)
    assert made.isfinite().all()
    rows = 6 + FRAMES
    assert {shape for shape, *_ in seen} == {(1, 4, rows, rows), (1, 2, rows, rows)}
    assert all(dtype == kind and stride % attention.ALIGN == 0 for _, dtype, stride in seen)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_as_the_plain_formulation(padded, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import vatt as plain

    net = network(positions="padded")
    _, states, mask = conditions([4, 6, 9])
    given = tokens_of(net, 3), states, mask if padded else None
    made = net(*given)
    with plain.Plain():
        torch.testing.assert_close(net(*given), made, atol=2e-5, rtol=1e-4)


def test_slopes():
    found = attention.slopes(16)
    assert found[0].item() == pytest.approx(0.70711, abs=1e-5) and found[-1].item() == pytest.approx(0.00390625)
    assert attention.slopes(6).tolist() == pytest.approx([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    made = attention.alibi(2, 5)
    assert made.shape == (1, 2, 5, 5) and made[0, 0, 1, 4].item() == pytest.approx(-3 / 16) and made[0, 1, 3, 3] == 0


def test_first_values_get_smaller_with_depth():
    net = network(dim=256, first_heads=4, second_heads=4, head_dim=64)
    for stack in (net.first, net.second):
        for number, block in enumerate(stack.blocks):
            feed = block.feed.audio if stack.ways else block.feed
            for depth, layer in ((2 * number + 1, block.attention.q), (2 * number + 2, feed.down)):
                wanted = layer.in_features**-0.5 / (2 * depth) ** 0.5
                assert layer.weight.std().item() == pytest.approx(wanted, rel=0.03)
                assert layer.weight.abs().max() <= 3 * wanted


def test_gradients_under_autocast_and_with_checkpointing():
    _, states, mask = conditions([4, 6])
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = AudioNet(Size(**SHAPE, dropout=0.0), checkpointing)
        net.codebooks.copy_(torch.linspace(-1, 1, net.codebooks.numel()).view_as(net.codebooks))
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(tokens_of(net, 2), states, mask, torch.tensor([True, False]))
        logits.float().square().mean().backward()
        found.append({name: p.grad for name, p in net.named_parameters()})
    assert all(grad is not None and grad.isfinite().all() for grad in found[0].values())
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, msg=name)


# --- conditioning in time --------------------------------------------------------------------------------------


def test_features_are_resampled_to_the_rows_time():
    features = torch.tensor([[[0.0], [10.0], [20.0]]])  # at 0, 0.5 and 1 s
    found = model.resampled(features, 2.0, 6, 4.0)[0, :, 0]  # rows of 0.25 s
    assert found.tolist() == pytest.approx([2.5, 7.5, 12.5, 17.5, 20, 20])
    assert model.resampled(features[:, :1], 2.0, 3, 4.0).flatten().tolist() == [0, 0, 0]


@torch.no_grad()
def test_the_picture_reaches_the_rows_of_its_time():
    torch.manual_seed(3)
    net = network(visual=4, visual_rate=5.0, rate=10.0)
    _, states, mask = conditions([4, 6])
    tokens, features = tokens_of(net, 2), torch.randn(2, 4, 4)
    seen = []
    net.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(tokens, states, mask, None, features)
    features[:, 3] += 1  # shown from 0.6 s on: rows before 0.4 s know nothing of it
    net(tokens, states, mask, None, features)
    changed = (seen[1] - seen[0]).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False] * (6 + 4) + [True] * 4
    keep = torch.tensor([False, True])
    nothing = net(tokens, states, mask, keep, features)
    torch.testing.assert_close(nothing[:1], net(tokens, states, mask, keep, features * 7)[:1])  # the null branch knows no picture either
    with pytest.raises(ValueError, match="give visual"):
        net(tokens, states, mask)


@pytest.mark.parametrize("layout", ["aligned", "legacy"])
def test_learns_sound_that_follows_the_picture(layout):
    """Codes that a picture decides, frame by frame: learned within seconds; the layout is then told by cross-entropy."""
    more = {"dim": 64} if layout == "aligned" else {}
    net = network(visual=4, visual_rate=10.0, rate=10.0, layout=layout, dropout=0.0, codes=8, **more).train()
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3, betas=(0.9, 0.98))
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    states = torch.randn(1, 3, 10)

    def batch(count):
        kinds = torch.randint(4, (count, FRAMES))
        tokens = torch.stack([kinds, kinds + 4, 7 - kinds], 1)
        return tokens, functional.one_hot(kinds, 4).float()

    for step in range(150 if layout == "aligned" else 200):
        tokens, picture = batch(32)
        hidden = masking.masks(range(32 * step, 32 * step + 32), tokens.shape[1:], masking.Ratio())
        logits = net(tokens.masked_fill(hidden, 8), states.expand(32, -1, -1), None, None, picture)
        total, count = masking.cross_entropy(logits, tokens, hidden, layout)
        optimizer.zero_grad()
        (total.sum() / count.sum()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        warm.step()
    net.eval()
    tokens, picture = batch(16)
    found, means = checkpoint.layout_of(net, [(tokens, states.expand(16, -1, -1), None, picture)])
    assert found == layout and means[found] < 0.5 * max(means.values())
    settings = decoding.Settings(steps=4, guidance=1, temperature=0, mask_temperature=1)
    made = decoding.decode(net, states.expand(16, -1, -1), None, FRAMES, settings, [torch.Generator().manual_seed(k) for k in range(16)], picture)
    assert (made == tokens).float().mean() > (0.8 if layout == "aligned" else 0.5)


# --- masks and layouts --------------------------------------------------------------------------------------------


def test_a_mask_depends_on_its_own_draw_alone():
    ratio = masking.Ratio(0.55)
    together = masking.masks([11, 12, 13], (4, 500), ratio)
    assert torch.equal(masking.masks([12], (4, 500), ratio)[0], together[1])
    many = masking.masks(range(400), (4, 50), ratio).float().mean((1, 2))
    assert 0.67 < many.mean() < 0.72 and many.std() > 0.1 and many.min() > 0.3
    one = masking.masks(range(400), (4, 50), ratio, per_batch=True).float().mean((1, 2))
    assert one.std() < 0.05
    nothing = masking.masks(range(9), (2, 3), masking.Ratio(0.0, 1.0, 0.0, 1e-9))
    assert nothing.sum((1, 2)).tolist() == [1] * 9


def test_pairings():
    levels, frames = 3, 5
    place = torch.arange(levels * frames).view(1, levels, frames)
    every = torch.ones_like(place, dtype=torch.bool)
    for layout in model.LAYOUTS:
        order = masking.targets(place, every, layout)
        # the logit that decoding takes for a token is the one that was scored against it
        scored = torch.empty(levels * frames, dtype=torch.long).scatter(0, order[0], torch.arange(levels * frames))
        taken = place.transpose(1, 2).flatten()[masking.slots(frames, levels, layout)]
        assert torch.equal(scored.view(levels, frames).T.flatten(), taken)
    assert masking.targets(place, every, "legacy")[0, frames].item() == place[0, frames % levels, frames // levels]


def test_cross_entropy_counts_what_was_masked():
    logits, tokens = torch.randn(2, 3, 4, 7), torch.randint(7, (2, 3, 4))
    mask = torch.rand(2, 3, 4) < 0.5
    total, count = masking.cross_entropy(logits, tokens, mask, "aligned")
    wanted = functional.cross_entropy(logits[mask], tokens[mask])
    torch.testing.assert_close(total.sum() / count.sum(), wanted)
    assert count.tolist() == mask.sum((1, 2)).tolist()


@pytest.mark.parametrize("tokens, steps", [(2000, 16), (5, 16), (1, 4), (30, 30), (7, 1)])
def test_ever_fewer_tokens_are_drawn_again(tokens, steps):
    counts = masking.remask_counts(tokens, steps)
    assert len(counts) == steps and counts[-1] == 0
    left = tokens
    for count in counts[:-1]:
        assert 1 <= count <= left and (count < left or left == 1)
        left = count


# --- decoding ---------------------------------------------------------------------------------------------------


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_batch_gives_what_each_alone_does(guidance):
    net = network(visual=4)
    alone, states, mask = conditions([5, 9, 7])
    features = torch.randn(3, 2, 4)
    settings = decoding.Settings(steps=6, guidance=guidance, top_k=9)
    together = decoding.decode(net, states, mask, FRAMES, settings, generators(1, 2, 3), features)
    assert together.shape == (3, 3, FRAMES) and together.dtype == torch.int64 and together.max() < net.size.codes
    for k, one in enumerate(alone):
        made = decoding.decode(net, one[None], None, FRAMES, settings, generators(k + 1), features[k : k + 1])
        assert torch.equal(made[0], together[k])
    other = decoding.decode(net, states, mask, FRAMES, settings, generators(4, 2, 3), features)
    assert not torch.equal(other[0], together[0]) and torch.equal(other[1:], together[1:])


def test_a_batch_of_released_weights_gives_what_each_with_its_padding_does():
    net = network(layout="legacy", positions="padded")
    _, states, mask = conditions([5, 9, 7])
    settings = decoding.Settings(steps=6, top_k=9)
    together = decoding.decode(net, states, mask, FRAMES, settings, generators(1, 2, 3))
    for k in range(3):
        assert torch.equal(decoding.decode(net, states[k : k + 1], mask[k : k + 1], FRAMES, settings, generators(k + 1))[0], together[k])
    net.size.layout = "aligned"
    assert not torch.equal(decoding.decode(net, states, mask, FRAMES, settings, generators(1, 2, 3)), together)


def test_the_null_branch_is_computed_only_for_guidance():
    net, sizes = network(), []
    net.second.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    _, states, _ = conditions([5, 5])
    for guidance in (1.0, 3.0):
        decoding.decode(net, states, None, FRAMES, decoding.Settings(2, guidance), generators(1, 2))
    assert sizes == [2, 2, 4, 4]


def test_known_tokens_stay():
    net = network()
    _, states, _ = conditions([5, 5])
    begin = torch.full((2, 3, FRAMES), net.size.codes)
    begin[:, :, :3] = torch.arange(18).view(2, 3, 3) % 16
    settings = decoding.Settings(5, top_k=0)
    made = decoding.decode(net, states, None, FRAMES, settings, generators(1, 2), begin=begin)
    assert torch.equal(made[:, :, :3], begin[:, :, :3]) and made.max() < net.size.codes
    assert torch.equal(decoding.decode(net, states, None, FRAMES, settings, generators(1, 2), begin=made), made)
    begin[1, 0, 7] = 3
    with pytest.raises(ValueError, match="14 to 15"):
        decoding.decode(net, states, None, FRAMES, settings, generators(1, 2), begin=begin)


def test_draws():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.0, 0.3, 0.4]]))
    for u, wanted in ((0.0, 0), (0.09, 0), (0.11, 1), (0.31, 3), (0.61, 4), (1 - 2**-24, 4)):
        code, probability = decoding.draw(logits, decoding.Settings(top_k=0), torch.tensor([u]))
        assert code.item() == wanted and probability.item() == pytest.approx([0.1, 0.2, 0, 0.3, 0.4][wanted])
    code, probability = decoding.draw(logits, decoding.Settings(top_k=2), torch.tensor([0.1]))
    assert code.item() == 3 and probability.item() == pytest.approx(3 / 7)
    code, probability = decoding.draw(logits, decoding.Settings(temperature=0.0), torch.tensor([0.0]))
    assert code.item() == 4 and probability.item() == pytest.approx(0.4)
    torch.manual_seed(0)
    many, _ = decoding.draw(logits.expand(20000, -1), decoding.Settings(), torch.rand(20000))
    assert (many.bincount(minlength=5) / 20000).tolist() == pytest.approx([0.1, 0.2, 0, 0.3, 0.4], abs=0.015)


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"steps": 0}, "--steps 0"),
        ({"guidance": -1.0}, "--guidance -1"),
        ({"guidance": float("nan")}, "--guidance nan"),
        ({"top_k": -1}, "top_k -1"),
        ({"temperature": -0.1}, "temperature -0.1"),
    ],
)
def test_settings_that_make_no_sense(fields, told):
    with pytest.raises(UsageError, match=told):
        decoding.Settings(**fields).check()


# --- weights -----------------------------------------------------------------------------------------------------


def released_net(**fields) -> AudioNet:
    return network(**{"head_dim": 64, "layout": "legacy", "positions": "padded", **fields})


def test_released_names_there_and_back(tmp_path):
    net = released_net()
    for norm in (net.first.norm.audio, net.first.norm.condition):
        torch.nn.init.normal_(norm.weight)
    weights = checkpoint.released(net)
    assert weights["audio_token_decoder.pos_embed"].shape == (1, 1000, 32)
    torch.save({"state_dict": {**weights, "encoder.x": torch.ones(1)}}, tmp_path / "v.ckpt")
    found = checkpoint.read(tmp_path / "v.ckpt")
    assert found.size == net.size and list(found.language) == ["encoder.x"]
    again = checkpoint.load(found, net.codebooks)
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    wider = checkpoint.load(found, net.codebooks, Size(**{**vars(found.size), "visual": 4})).eval()
    states, tokens = torch.randn(1, 3, 10), tokens_of(net, 1)
    assert torch.equal(wider(tokens, states, visual=torch.randn(1, 2, 4)), net(tokens, states))  # at first the picture adds nothing


def released_but(tmp_path, change) -> pathlib.Path:
    weights = checkpoint.released(released_net())
    change(weights)
    torch.save({"state_dict": weights}, tmp_path / "v.ckpt")
    return tmp_path / "v.ckpt"


def test_half_weights_train_in_single_precision(tmp_path):
    weights = {name: tensor.half() for name, tensor in checkpoint.released(released_net()).items()}
    torch.save({"state_dict": weights}, tmp_path / "v.ckpt")
    before = (tmp_path / "v.ckpt").read_bytes()
    net = checkpoint.load(checkpoint.read(tmp_path / "v.ckpt"), torch.randn(3, 16, 6))
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(tokens_of(net, 1), torch.randn(1, 3, 10)).square().mean().backward()
    optimizer.step()
    assert (tmp_path / "v.ckpt").read_bytes() == before


A = checkpoint.AUDIO


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda w: w.pop(f"{A}classifier.1.weight"), "1 missing: audio_token_decoder.classifier.1.weight"),
        (lambda w: w.pop(f"{A}encoder.attn_layers.layers.2.1.to_k.weight"), "1 missing: first.blocks.1.attention.k.weight"),
        (lambda w: w.update({f"{A}decoder.extra": torch.ones(1)}), "1 unexpected: audio_token_decoder.decoder.extra"),
        (lambda w: w.update({f"{A}encoder.attn_layers.layers.3.0.0.B.bias": torch.ones(32)}), "layers.3.0.0.B.bias differs from the other copies"),
        (lambda w: w.update({f"{A}pos_embed": torch.zeros(1, 9, 32)}), "pos_embed is not the table"),
        (lambda w: w.update({f"{A}pos_embed": torch.zeros(9, 32)}), "pos_embed is not the table"),
        (lambda w: w.update({f"{A}decoder.attn_layers.layers.0.0.0.A.bias": torch.zeros(32)}), "1 unexpected: second.norm.condition.bias"),
        (lambda w: w.update({"optimizer": torch.ones(1)}), "unknown: optimizer"),
        (lambda w: w.update({f"{A}mask_x": torch.ones(1)}), "unexpected: audio_token_decoder.mask_x"),
        (lambda w: w.update({f"{A}classifier.2.weight": torch.ones(16, 31)}), "classifiers of several shapes"),
        (lambda w: w.update({f"{A}img_linear.bias": torch.ones(7)}), "of another shape: project.bias"),
        (lambda w: [w.pop(name) for name in list(w)] and w.update({"net.weight": torch.ones(2)}), "not VATT's sound model"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(tmp_path, change, told):
    path = released_but(tmp_path, change)
    with pytest.raises(FatalError, match="v.ckpt") as caught:
        checkpoint.load(checkpoint.read(path), torch.zeros(3, 16, 6))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_codebooks_of_another_codec(tmp_path):
    path = released_but(tmp_path, lambda weights: None)
    with pytest.raises(FatalError, match=r"shape \(3, 16, 6\).*\(4, 16, 6\)"):
        checkpoint.load(checkpoint.read(path), torch.zeros(4, 16, 6))


def test_a_layout_needs_sound():
    with pytest.raises(FatalError, match="no sound to tell the layout"):
        checkpoint.layout_of(network(), [])


# --- the codec ------------------------------------------------------------------------------------------------

LATENT, CODES, LEVELS, RATIOS = 6, 16, 3, (4, 2)


@pytest.fixture(scope="module")
def small() -> codec.Codec:
    torch.manual_seed(0)
    config = {"sampling_rate": 800, "num_filters": 2, "hidden_size": LATENT, "codebook_size": CODES, "upsampling_ratios": list(RATIOS), "levels": LEVELS}
    made = codec.make(codec._finished(config) | {"pad_mode": "constant"}, "small")
    for layer in made.model.quantizer.layers:
        layer.codebook.embed.normal_()
    return made.eval().requires_grad_(False)


def audiocraft(made: codec.Codec) -> dict:
    """The tensors under audiocraft's names."""
    found = {}
    for name, tensor in made.model.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")
        name = name.replace("quantizer.layers.", "quantizer.vq.layers.").replace(".codebook.", "._codebook.")
        if name.startswith(("encoder", "decoder")):
            side, _, number, rest = name.split(".", 3)
            transposed = isinstance(made.model.get_submodule(f"{side}.layers.{number}"), type(made.model.decoder.layers[3]))
            kind = "convtr.convtr." if transposed else "conv.conv."
            name = f"{side}.model.{number}.{rest}" if "lstm" in rest else f"{side}.model.{number}.{kind.join(rest.rsplit('conv.', 1))}"
        found[name] = tensor.clone()
    return found


def stored(pad_mode="constant", **more) -> str:
    lines = [f"sample_rate: {more.pop('sample_rate', 800)}", f"encodec: {{renormalize: {more.pop('renormalize', False)}}}", "seanet:"]
    net = {"norm": "weight_norm", "causal": False, "channels": 1, "true_skip": True, "dilation_base": 2, "activation": "ELU"}
    net |= {"ratios": list(RATIOS), "pad_mode": pad_mode, **more}
    return "\n".join(lines + [f"  {name}: {value}" for name, value in net.items()])


@pytest.mark.parametrize("inner", ["", "model."])
def test_audiocrafts_file(small, tmp_path, inner):
    best = {name: tensor for name, tensor in audiocraft(small).items()}
    best = {"model": best} if inner else best
    waves, sound = {}, torch.randn(2, 64) * 0.3
    for pad in ("constant", "reflect"):
        torch.save({"best_state": best, "xp.cfg": stored(pad), "version": "1", "exported": True}, tmp_path / "compression_state_dict.bin")
        made = codec.load(tmp_path)
        assert (made.rate, made.hop, made.model.config.pad_mode) == (800, 8, pad)
        tokens = made.encode(sound)
        assert tokens.shape == (2, LEVELS, 8) and torch.equal(made.tables, small.tables)
        waves[pad] = made.decode(tokens)
        assert waves[pad].shape == (2, 64)
        if pad == "constant":
            assert torch.equal(tokens, small.encode(sound)) and torch.equal(waves[pad], small.decode(tokens))
    assert (waves["reflect"][:, 0] - waves["constant"][:, 0]).abs().max() > 1e-6


@pytest.mark.parametrize(
    "settings, told",
    [
        (stored(causal=True), "causal True, not False"),
        (stored(norm="time_group_norm"), "norm 'time_group_norm'"),
        (stored(pad_mode="circus"), "pad_mode 'circus'"),
        (stored(renormalize=True), "renormalize True"),
        ("seanet: [", "cannot be read"),
        ("a: 1", "cannot be read"),
    ],
)  # fmt: skip
def test_a_codec_of_another_kind(small, tmp_path, settings, told):
    torch.save({"best_state": audiocraft(small), "xp.cfg": settings}, tmp_path / "c.bin")
    with pytest.raises(FatalError, match="c.bin") as caught:
        codec.load(tmp_path / "c.bin")
    assert told in str(caught.value)


def test_codecs_that_are_none(small, tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "x.bin")
    with pytest.raises(FatalError, match="no codec of audiocraft"):
        codec.load(tmp_path / "x.bin")
    lacks = audiocraft(small)
    lacks.pop("decoder.model.0.conv.conv.bias")
    torch.save(lacks, tmp_path / "y.bin")
    with pytest.raises(FatalError, match="1 missing: decoder.layers.0.conv.bias"):
        codec.load(tmp_path / "y.bin")
    with pytest.raises(FatalError, match="no codec"):
        codec.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(FatalError, match="that of llama, not of encodec"):
        codec.load(tmp_path)


def test_a_folder_of_transformers(small, tmp_path):
    small.model.save_pretrained(tmp_path / "c")
    made = codec.load(tmp_path / "c")
    tokens = torch.randint(CODES, (1, LEVELS, 5))
    assert torch.equal(made.decode(tokens), small.decode(tokens))
    assert codec.load(tmp_path / "c", "reflect").model.config.pad_mode == "reflect"


def test_a_codec_of_ours_there_and_back(small, tmp_path):
    hub.save_tensors(tmp_path / "codec.safetensors", *small.saved())
    made, tokens = codec.load(tmp_path / "codec.safetensors"), torch.randint(CODES, (1, LEVELS, 5))
    assert (made.rate, made.hop) == (800, 8) and torch.equal(made.decode(tokens), small.decode(tokens))
    hub.save_tensors(tmp_path / "broken.safetensors", small.saved()[0], {"config": "{"})
    with pytest.raises(FatalError, match="broken.safetensors: its settings cannot be read"):
        codec.load(tmp_path / "broken.safetensors")


@pytest.mark.parametrize("form", ["tensor", "list", "numbers", "names", "half"])
def test_the_codebook_file(small, tmp_path, form):
    tables = small.tables
    whole = {
        "tensor": tables, "list": list(tables), "numbers": dict(enumerate(tables)), "half": tables.half(),
        "names": {f"level.{n}.weight": tables[n] for n in reversed(range(LEVELS))},
    }[form]  # fmt: skip
    torch.save(whole, tmp_path / "codes.pt")
    found = codec.read_codebooks(tmp_path / "codes.pt")
    assert found.dtype == torch.float32
    codec.check_codebooks(found, small, "codes.pt")
    with pytest.raises(FatalError, match="codes.pt: codebooks that are not the codec's .level 1."):
        codec.check_codebooks(found * torch.tensor([1, 1.1, 1])[:, None, None], small, "codes.pt")
    with pytest.raises(FatalError, match="shape"):
        codec.check_codebooks(found[:2], small, "codes.pt")


@pytest.mark.parametrize("what", [[1, 2], {"a": "b"}, [torch.ones(2, 3), torch.ones(3, 3)], "text", torch.ones(3)])
def test_no_codebooks(tmp_path, what):
    torch.save(what, tmp_path / "codes.pt")
    with pytest.raises(FatalError, match="codes.pt: no codebooks"):
        codec.read_codebooks(tmp_path / "codes.pt")


def test_conditions_are_made_once():
    """Decoding projects the condition once, and makes each bias once, whatever the number of steps."""
    net, calls = network(), []
    net.project.register_forward_hook(lambda *_: calls.append(1))
    _, states, _ = conditions([5])
    decoding.decode(net, states, None, FRAMES, decoding.Settings(7), generators(1))
    assert len(calls) == 1
    made = net.conditioned(states)
    assert isinstance(made, Condition)
    first = net.logits(tokens_of(net, 1), made)
    assert torch.equal(net.logits(tokens_of(net, 1), made), first) and len(made.biases) == 2
