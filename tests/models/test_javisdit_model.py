"""JavisDiT's transformer: streams, priors, masks and positions in time; its flow and solvers; which frames are given; weights in each layout."""

import collections
import dataclasses
import math
import pathlib

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.models.javisdit import attention, checkpoint, flow, masks, model, positions  # noqa: E402
from avtools.models.javisdit.attention import Both  # noqa: E402
from avtools.models.javisdit.model import Given, Size, VastDit  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = {"dim": 32, "depth": 2, "heads": 4, "text": 12, "text_tokens": 9, "prior": 6, "spatial_priors": 3, "temporal_priors": 4}
PIXELS = (240, 426)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import javisdit

    return javisdit


def network(seed=0, awake=True, checkpointing=False, **fields) -> VastDit:
    """Where `awake`, with numbers in place of zeros that layers begin with, and large ones where they begin small: everything counts."""
    torch.manual_seed(seed)
    net = VastDit(Size(**{**SHAPE, **fields}), checkpointing).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters() if awake else ():
            if not parameter.any():
                parameter.normal_(0, 0.5 * parameter.shape[-1] ** -0.5)
            elif "t_block." in name or "y_proj." in name:
                parameter.mul_(10)
    return net


def batch(count=2, lengths=(5, 8), frames=4, rows=4, columns=5, sounds=8, bands=5, seed=1) -> dict:
    torch.manual_seed(seed)
    counts = torch.arange(SHAPE["text_tokens"]) < torch.tensor(lengths)[:count, None]
    return {
        "video": torch.randn(count, 4, frames, rows, columns),
        "sound": torch.randn(count, 8, sounds, bands),
        "times": torch.linspace(800, 300, count),
        "given": Given(torch.randn(count, SHAPE["text_tokens"], SHAPE["text"]), counts, torch.randn(count, 3, 6), torch.randn(count, 4, 6)),
        "fps": torch.linspace(24, 16, count),
        "pixels": PIXELS,
    }


def alone(inputs: dict, number: int) -> dict:
    """One sample of a batch, without padding of its text."""
    picked = {name: value[number : number + 1] for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    given = Given(*(None if one is None else one[number : number + 1] for one in inputs["given"]))
    length = int(given.counts.sum())
    return {**inputs, **picked, "given": given._replace(text=given.text[:, :length], counts=None)}


def sound_only(inputs: dict) -> dict:
    return {**inputs, "video": None, "pixels": None}


def assert_same(found, wanted, atol=2e-5):
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, atol=atol, rtol=1e-4)


# --- the attention between the streams -------------------------------------------------------------------------------


@pytest.mark.parametrize("places", model.TIME_POSITIONS)
def test_attention_both_ways_is_that_of_one_matrix(places, plain):
    torch.manual_seed(0)
    both = Both(48, 2, places)
    streams, seconds = [torch.randn(2, 50, 48), torch.randn(2, 12, 48)], [torch.rand(2, 50) * 4, torch.rand(1, 12) * 4]
    found = []
    for cuts in ((), (plain.MATRIX,)):
        inputs = [one.clone().requires_grad_() for one in streams]
        both.zero_grad()
        with plain.Plain(cuts):
            made = both(*inputs, *seconds)
        sum(one.square().sum() for one in made).backward()
        found.append([*made, *(one.grad for one in (*inputs, *both.parameters()))])
    assert_same(*found, atol=1e-4)


def test_no_matrix_of_similarities_is_kept(plain):
    both, streams = Both(64, 4), [torch.randn(1, 1536, 64), torch.randn(1, 384, 64)]
    matrix = 4 * 1536 * 384 * 4  # bytes

    def run():
        inputs = [one.clone().requires_grad_() for one in streams]
        sum(one.square().sum() for one in both(*inputs)).backward()

    def run_plain():
        with plain.Plain((plain.MATRIX,)):
            run()

    assert plain.peak(run, torch.device("cpu")) < matrix < plain.peak(run_plain, torch.device("cpu"))


@pytest.mark.parametrize("places", ["rotary", "sinusoidal"])
@torch.no_grad()
def test_time_positions_make_attention_local_before_anything_is_learned(places):
    torch.manual_seed(0)
    both, seconds = Both(144, 2, places), torch.linspace(0, 4, 33)[None]
    both.m1_proj.weight.zero_(), both.m2_proj.weight.zero_()  # what is heard and seen is all alike
    queries, keys = (both.placed(attention.split(layer(torch.randn(1, 33, 144)), 2), seconds) for layer in (both.m1_proj, both.m2_proj))
    similar = (queries @ keys.transpose(-1, -2))[0]
    assert (similar.argmax(-1) == torch.arange(33)).all()
    far = (seconds[0][:, None] - seconds[0]).abs() > 1
    assert (similar[:, far].max() < similar.diagonal(dim1=1, dim2=2).min()).item()
    later = both.placed(attention.split(both.m1_proj(torch.randn(1, 33, 144)), 2), seconds + 2.5)
    again = both.placed(attention.split(both.m2_proj(torch.randn(1, 33, 144)), 2), seconds + 2.5)
    if places == "rotary":  # distances count, not times
        torch.testing.assert_close((later @ again.transpose(-1, -2))[0], similar, atol=1e-3, rtol=1e-3)


def test_only_with_time_positions_can_sound_be_told_from_what_is_seen_with_it():
    """Each picture token has a number, each sound token of its time is to get it: without a clock no token knows which."""
    lost = {}
    for places in ("none", "rotary", "sinusoidal"):
        torch.manual_seed(0)
        both = Both(32, 2, places)
        optimizer = torch.optim.Adam(both.parameters(), 5e-3)
        seen_at, heard_at = (torch.arange(8) * 0.25)[None], (torch.arange(8) * 0.25)[None]
        for _ in range(200):
            seen = torch.randn(16, 8, 32)
            _, heard = both(seen, torch.zeros(16, 8, 32), seen_at, heard_at)
            loss = (heard[..., 0] - seen[..., 0]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        lost[places] = loss.item()
    assert lost["none"] > 0.7 and lost["rotary"] < 0.2 and lost["sinusoidal"] < 0.62, lost


def test_seconds_of_latents():
    found = positions.video_seconds(7, torch.tensor([24.0, 12.0]), (17, 5)) * torch.tensor([[24.0], [12.0]])
    assert found.tolist() == [[0.0, 2.5, 6.5, 10.5, 14.5, 17.0, 19.5]] * 2  # a chunk's first latent shows one picture, the others four
    assert positions.video_seconds(3, torch.tensor([2.0]), (1, 1)).tolist() == [[0.0, 0.5, 1.0]]
    assert positions.video_seconds(3, torch.tensor([1.0]), (2, 1)).tolist() == [[0.5, 2.5, 4.5]]
    assert positions.sound_seconds(3, 0.16).tolist() == [pytest.approx([0.08, 0.24, 0.4])]
    net, inputs = network(time_positions="rotary"), batch()
    v, a = net.x_embedder(inputs["video"]), net.ax_embedder(inputs["sound"])
    seen, heard = net.seconds(v, a, inputs["fps"])
    assert seen.shape == (2, math.prod(v.shape[1:3])) and heard.shape == (1, math.prod(a.shape[1:3]))
    assert seen[0, :: v.shape[2]].tolist() == pytest.approx([0.0, 2.5 / 24, 6.5 / 24, 10.5 / 24])
    assert heard[0, :: a.shape[2]].tolist() == pytest.approx([0.08, 0.24])


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", model.TIME_POSITIONS)
@torch.no_grad()
def test_a_batch_is_its_samples(places):
    net, inputs = network(time_positions=places), batch()
    together = net(**inputs)
    for number in (0, 1):
        assert_same([one[number : number + 1] for one in together], net(**alone(inputs, number)))


@torch.no_grad()
def test_priors_of_the_whole_batch_are_a_switch():
    ours, legacy, inputs = network(), network(legacy_cross_batch_prior=True), batch()
    assert_same(ours(**alone(inputs, 0)), legacy(**alone(inputs, 0)))
    leaking = legacy(**inputs)
    assert (leaking[0] - ours(**inputs)[0]).abs().max() > 1e-3
    other = inputs["given"]._replace(spatial=torch.cat([inputs["given"].spatial[:1], torch.randn(1, 3, 6)]))
    first = slice(0, 1)
    assert_same([one[first] for one in ours(**{**inputs, "given": other})], [one[first] for one in ours(**inputs)])
    assert (legacy(**{**inputs, "given": other})[0][first] - leaking[0][first]).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 7.0])
@torch.no_grad()
def test_no_sample_depends_on_others_even_where_priors_are_seen_across_the_batch(guidance):
    net, inputs, settings = network(legacy_cross_batch_prior=True), batch(), flow.Settings(2, guidance)

    def made(one):
        given = net.project(model.guided(one["given"], settings.rows))
        fps = one["fps"].repeat(settings.rows)
        return flow.sample(lambda x, times, _: net(*x, times, given, fps, PIXELS), (one["video"], one["sound"]), 3.0, settings)

    together = made(inputs)
    for number in (0, 1):
        assert_same([one[number : number + 1] for one in together], made(alone(inputs, number)), atol=2e-4)
    if guidance != 1:  # the null ones of the sample itself are seen, as the original has it
        first = alone(inputs, 0)
        twice = {name: value.repeat(2, *[1] * (value.dim() - 1)) if isinstance(value, torch.Tensor) else value for name, value in first.items()}
        own, other = ({**twice, "given": model.guided(first["given"])._replace(passes=passes)} for passes in (2, None))
        assert_same(net(**own), net(**other))
        assert (net(**own)[0] - network()(**own)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("cut", [0, 1])
@torch.no_grad()
def test_as_the_plain_formulation(cut, plain):
    net, inputs = network(), batch()
    made = net(**inputs)
    with plain.Plain((plain.CUTS[cut],)):
        assert_same(net(**inputs), made)


@torch.no_grad()
def test_the_joint_form_begins_as_two_streams():
    net, inputs = network(awake=False), batch()
    for layer in (net.final_layer.linear, net.audio_final_layer.linear):
        torch.nn.init.normal_(layer.weight)
    made = net(**inputs)
    other = inputs["given"]._replace(spatial=torch.randn(2, 3, 6), temporal=torch.randn(2, 4, 6))
    assert_same(net(**{**inputs, "given": other}), made, atol=0)  # priors and the other stream add nothing yet
    assert_same(net(**{**inputs, "sound": torch.randn_like(inputs["sound"])})[:1], made[:1], atol=0)
    alone_ = network(awake=False, joint=False)
    alone_.load_state_dict({name: tensor for name, tensor in net.state_dict().items() if name in alone_.state_dict()})
    video, sound = alone_(**sound_only(inputs))
    assert video is None
    assert_same([sound], made[1:])


@pytest.mark.parametrize("joint", [True, False])
def test_checkpointing_changes_nothing_and_every_trained_part_gets_gradients(joint):
    inputs = batch()
    inputs = inputs if joint else sound_only(inputs)
    found = []
    for checkpointing in (False, True):
        net = network(checkpointing=checkpointing, joint=joint).train()
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith(model.TRAINED["joint" if joint else "audio"]))
        made = net(**inputs)
        sum(one.square().mean() for one in made if one is not None).backward()
        gradients = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.requires_grad}
        assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients.values())
        found.append([one for one in made if one is not None] + list(gradients.values()))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.long
def test_checkpointing_keeps_less(plain):
    inputs = batch(rows=16, columns=20, sounds=32)

    def kept(checkpointing):
        net = network(checkpointing=checkpointing, depth=4).train()
        return plain.peak(lambda: plain.trained(net, lambda: net(**inputs)), torch.device("cpu"))

    assert kept(True) < 0.6 * kept(False)


@torch.no_grad()
def test_given_frames_are_of_time_0():
    net, inputs = network(), batch()
    still = {"video_made": torch.zeros(2, 4), "sound_made": torch.zeros(2, 8)}
    assert_same(net(**inputs, **still), net(**{**inputs, "times": torch.zeros(2)}), atol=1e-6)
    made = {name: torch.ones_like(one) for name, one in still.items()}
    assert_same(net(**inputs, **made), net(**inputs), atol=1e-6)
    some = torch.tensor([[0, 1, 1, 1]] * 2)
    one = net(**inputs, video_made=some)
    assert (one[0] - net(**inputs)[0]).abs().max() > 1e-3
    legacy = network(legacy_final=True)(**inputs, video_made=some)  # differs in frames that nobody reads
    assert (legacy[0] - one[0])[:, :, 0].abs().max() > 1e-3
    assert_same([legacy[0][:, :, 1:], legacy[1]], [one[0][:, :, 1:], one[1]], atol=0)


@torch.no_grad()
def test_the_first_frame_of_a_sound_token_decides_whether_it_is_given():
    net, inputs = network(), batch()
    first, others = torch.ones(2, 8), torch.ones(2, 8)
    first[:, 4], others[:, 5:] = 0, 0
    assert_same(net(**inputs, sound_made=others), net(**inputs), atol=1e-6)
    assert (net(**inputs, sound_made=first)[1] - net(**inputs)[1]).abs().max() > 1e-3


@torch.no_grad()
def test_null_conditions():
    net, inputs = network(), batch()
    given = inputs["given"]
    keep = torch.tensor([[True, False, True], [False, True, False]])
    made = net(**{**inputs, "given": given._replace(keep=keep)})
    projected = net.project(given)
    null = [projection.y_proj(projection.y_embedding)[None] for projection in (net.y_embedder, net.audio_y_embedder, net.st_prior_embedder)]
    parts = [projected.video.states, projected.sound.states, torch.cat([projected.spatial, projected.temporal], 1)]
    video, sound, priors = (torch.where(flags[:, None, None], part, empty) for flags, part, empty in zip(keep.unbind(1), parts, null, strict=True))
    counts = given.counts
    wanted = model.Projected(attention.Text(video, counts), attention.Text(sound, counts), priors[:, :3], priors[:, 3:])
    assert_same(net(**{**inputs, "given": wanted}), made)
    assert torch.equal(net.y_embedder.y_embedding, net.audio_y_embedder.y_embedding)
    assert not any(name.endswith("y_embedding") for name, _ in net.named_parameters())  # they never train


@pytest.mark.parametrize(("rows", "columns", "sounds"), [(3, 5, 6), (1, 1, 1), (4, 2, 9)])
@torch.no_grad()
def test_sizes_that_patches_do_not_divide(rows, columns, sounds):
    net, inputs = network(), batch(rows=rows, columns=columns, sounds=sounds, frames=1)
    video, sound = net(**inputs)
    assert video.shape == (2, 8, 1, rows, columns) and sound.shape == (2, 16, sounds, 5)
    padded = {**inputs, "video": torch.nn.functional.pad(inputs["video"], (0, columns % 2, 0, rows % 2))}
    assert_same([net(**padded)[0][..., :rows, :columns]], [video])


@torch.no_grad()
def test_patches_come_back_to_their_places():
    for channels, patch, shape in ((4, (1, 2, 2), (2, 4, 3, 5, 6)), (3, (2, 2, 1), (1, 3, 4, 3, 2)), (8, (4, 1), (2, 8, 7, 5))):
        numbers = math.prod(patch) * channels
        patches = model.Patches(channels, patch, numbers)
        every = torch.eye(numbers).view(numbers, *patch, channels)  # a token holds its patch, channels last
        patches.proj.weight.copy_(every.permute(0, -1, *range(1, 1 + len(patch))))
        patches.proj.bias.zero_()
        x = torch.randn(shape)
        assert torch.equal(patches.undo(patches(x), x.shape), x)


@torch.no_grad()
def test_bfloat16_is_close():
    net, inputs = network(), batch()
    wanted = net(**inputs)
    made = network().to(torch.bfloat16)(**inputs)
    for one, two in zip(made, wanted, strict=True):
        assert one.dtype == torch.float32 and (one - two).abs().max() < 0.1 * two.abs().max()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_in_mixed_precision(checkpointing):
    inputs, losses = batch(), []
    for mixed in (False, True):
        net = network(checkpointing=checkpointing, time_positions="rotary").train()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            made = net(**inputs, video_made=torch.tensor([[0, 1, 1, 1]] * 2))
            loss = sum(one.square().mean() for one in made)
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in net.parameters() if parameter.grad is not None)
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@torch.no_grad()
def test_a_guided_batch_is_the_two_passes():
    net, inputs = network(), batch()
    given = inputs["given"]
    null = given._replace(keep=torch.zeros(2, 3, dtype=torch.bool))
    twice = {name: torch.cat([value, value]) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    both = net(**{**inputs, **twice, "given": model.guided(given)})
    assert_same([one.chunk(2) for one in both][0], [net(**{**inputs, "given": which})[0] for which in (given, null)])
    assert_same([one.chunk(2) for one in both][1], [net(**{**inputs, "given": which})[1] for which in (given, null)])


def test_conditions_are_dropped_one_by_one():
    keep = model.drawn_keep(range(3000), 0.1)
    assert keep.shape == (3000, 3) and torch.equal(keep[7:8], model.drawn_keep([7], 0.1))
    shares = [(~keep).float().mean(0).tolist(), (~keep[:, [0, 0, 1]] & ~keep[:, [1, 2, 2]]).float().mean(0).tolist()]
    assert shares[0] == pytest.approx([0.1] * 3, abs=0.02) and shares[1] == pytest.approx([0.01] * 3, abs=0.008)


def test_what_does_not_go_together_is_said():
    net, inputs = network(), batch()
    with pytest.raises(ValueError, match="video"):
        net(**sound_only(inputs))
    with pytest.raises(ValueError, match="priors"):
        net(**{**inputs, "given": inputs["given"]._replace(spatial=None)})


@pytest.mark.parametrize(
    "wrong, what",
    [
        ({"time_positions": "clock"}, r"time_positions 'clock': none, rotary"),
        ({"dim": 50, "heads": 2}, r"dim 50, size\.heads 2: an even number of heads, each of an even width"),
        ({"dim": 48, "heads": 3}, r"heads 3"),
        ({"dim": "96"}, r"dim '96': a whole number from 1"),
        ({"depth": 0}, r"depth 0"),
        ({"depth": True}, r"depth True"),
        ({"patch": [1, 0, 2]}, r"patch \[1, 0, 2\]: 3 whole numbers from 1"),
        ({"sound_patch": 4}, r"sound_patch 4: 2 whole numbers"),
        ({"square": 0}, r"square 0: a number above 0"),
        ({"feed": math.nan}, r"feed nan"),
        ({"sigma": 1}, r"sigma 1: true or false"),
    ],
)
def test_shapes_that_no_network_has_are_said(wrong, what):
    with pytest.raises(UsageError, match=what):
        network(**wrong)


@pytest.fixture
def mesh():
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("mixed", [False, True])
def test_shards_train_as_the_whole(mesh, mixed):
    """Checkpointed, too; in mixed precision only as long as FSDP does not round what a unit is given: times, seconds, angles."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    inputs, found = {**batch(), "times": torch.tensor([700.9, 301.3])}, {}
    for name in ("whole", "sharded", *["rounded"] * mixed):
        net = network(checkpointing=name != "whole", time_positions="rotary").train()
        if name != "whole":
            mixing = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if mixed else {}
            policy = MixedPrecisionPolicy(**mixing, cast_forward_inputs=name == "rounded")
            for unit in [one for one in net.modules() if type(one) in model.UNITS]:
                fully_shard(unit, mesh=mesh, mp_policy=policy)
            fully_shard(net, mesh=mesh, mp_policy=policy)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed and name != "whole"):
            sum(one.square().mean() for one in net(**inputs, video_made=torch.tensor([[0, 1, 1, 1]] * 2))).backward()
        found[name] = {part: getattr(one.grad, "full_tensor", lambda one=one: one.grad)() for part, one in net.named_parameters() if one.grad is not None}
    off = {name: max(float((grads[part] - one).abs().max() / one.abs().max()) for part, one in found["whole"].items()) for name, grads in found.items()}
    assert off["sharded"] <= (0.15 if mixed else 1e-6) and off.get("rounded", 1) > 0.3, off


def test_the_full_size_and_its_shards():
    with torch.device("meta"):
        net, sound = VastDit(Size()), VastDit(Size(joint=False))
    numbers = {name: parameter.numel() for name, parameter in net.named_parameters()}
    assert 3.6e9 < sum(numbers.values()) < 3.8e9
    within = sum(parameter.numel() for module in net.modules() if type(module) in model.UNITS for parameter in module.parameters())
    assert within > 0.98 * sum(numbers.values())  # next to nothing is left for the root
    assert 1.1e9 < sum(parameter.numel() for name, parameter in sound.named_parameters() if name.startswith(model.TRAINED["audio"])) < 1.3e9
    assert 1.2e9 < sum(count for name, count in numbers.items() if name.startswith(model.TRAINED["joint"])) < 1.6e9


# --- weights -----------------------------------------------------------------------------------------------------------


def video_weights(net: VastDit) -> dict:
    names = ("x_embedder.", "t_embedder.", "fps_embedder.", "t_block.", "y_embedder.", "spatial_blocks.", "temporal_blocks.", "final_layer.")
    return {name: tensor.clone() for name, tensor in net.state_dict().items() if name.startswith(names)}


@pytest.mark.parametrize("joint", [True, False])
def test_released_weights_come_back(tmp_path, joint):
    net = network(joint=joint)
    save_file(checkpoint.released(net), tmp_path / "model.safetensors")
    found = checkpoint.read(tmp_path / "model.safetensors")
    assert found.size.legacy_cross_batch_prior and found.size.legacy_final and found.size.joint == joint
    priors = {} if joint else {"prior": 6}
    assert dataclasses.replace(found.size, spatial_priors=3, temporal_priors=4, legacy_cross_batch_prior=False, legacy_final=False, **priors) == net.size
    again = checkpoint.load(found, net.size)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in again.state_dict().items())
    # a training's file with more in it, and the pieces of one
    torch.save({"step": 3, "model": {f"module.{name}": tensor for name, tensor in checkpoint.released(net).items()}}, tmp_path / "all.pt")
    assert checkpoint.read(tmp_path / "all.pt").tensors.keys() == found.tensors.keys()
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    items = sorted(checkpoint.released(net).items())
    for number in (0, 1):
        torch.save(dict(items[number::2]), pieces / f"pytorch_model-{number}.bin")
    assert checkpoint.read(pieces).tensors.keys() == found.tensors.keys()


def test_other_weights_are_refused(tmp_path):
    net = network()
    good = checkpoint.released(net)
    with pytest.raises(FatalError, match=r"rope\.freqs"):
        checkpoint.found({**good, checkpoint.FREQS: torch.ones(4)}, "x")
    with pytest.raises(FatalError, match="not JavisDiT's network"):
        checkpoint.found({name: tensor for name, tensor in good.items() if not name.startswith("audio_")}, "x")
    less = {name: tensor for name, tensor in good.items() if name != "va_cross_blocks.1.gamma_m1"}
    for broken, what in ((good | {"extra.weight": torch.ones(1)}, "1 unexpected"), (less, "1 missing")):
        with pytest.raises(FatalError, match=what):
            checkpoint.load(checkpoint.found(broken, "x"), net.size)
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    (tmp_path / "empty").mkdir()
    for path, what in ((tmp_path / "x.pt", "x_embedder"), (tmp_path / "empty", "safetensors")):
        with pytest.raises(FatalError, match=what):
            checkpoint.read(path)


def test_what_each_stage_begins_with(tmp_path):
    source, sound, joint = network(1), network(2, joint=False), network(3)
    save_file({**video_weights(source), checkpoint.FREQS: positions.turns(8)}, tmp_path / "stdit.safetensors")
    video = checkpoint.read_video(tmp_path / "stdit.safetensors")
    before = {name: tensor.clone() for name, tensor in sound.state_dict().items()}
    fresh = checkpoint.begin_sound(sound, video, "x")
    assert {name.split(".")[0] for name in fresh} == {"ax_embedder", "audio_final_layer"}
    for name, tensor in sound.state_dict().items():
        wanted = before[name] if name in fresh else source.state_dict()[name.removeprefix("audio_")]
        assert torch.equal(tensor, wanted), name
    joint_before = {name: tensor.clone() for name, tensor in joint.state_dict().items()}
    fresh = checkpoint.begin_joint(joint, dict(sound.state_dict()), video, "x")
    assert all(name.startswith(model.TRAINED["joint"]) for name in fresh)
    for name, tensor in joint.state_dict().items():
        theirs = source if name in video else sound
        assert torch.equal(tensor, joint_before[name] if name in fresh else theirs.state_dict()[name]), name
    assert any(name.startswith("spatial_blocks.") for name in checkpoint.begin_joint(joint, dict(sound.state_dict()), None, "x"))
    with pytest.raises(FatalError, match="missing"):
        checkpoint.begin_joint(joint, {name: t for name, t in sound.state_dict().items() if name != "t_block.1.bias"}, None, "x")
    save_file(checkpoint.released(joint), tmp_path / "joint.safetensors")
    with pytest.raises(FatalError, match="STDiT"):
        checkpoint.read_video(tmp_path / "joint.safetensors")


# --- flow --------------------------------------------------------------------------------------------------------------


def solved(solver: str, steps: int, shift: float = 3.0) -> tuple[float, int]:
    """(error, passes) of dx / dtau = -v with v = (1 + tau) x: exp of an integral."""
    passes = []

    def velocity(latents, times, made):
        passes.append(len(times))
        return [x * (1 + times[:, None, None] / 1000).to(x) for x in latents]

    begin = torch.ones(1, 2, 3)
    (found,) = flow.sample(velocity, (begin,), shift, flow.Settings(steps, 1.0, solver))
    return float((found - math.exp(1.5)).abs().max()), sum(passes)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("ab2", 2), ("midpoint", 2), ("heun", 2)])
def test_the_order_of_solvers(solver, order):
    (coarse, _), (fine, passes) = solved(solver, 20), solved(solver, 40)
    assert 0.75 * 2**order < coarse / fine < 1.4 * 2**order
    assert passes == flow.SOLVERS[solver] * 40 - (solver == "heun")


def test_guidance_is_of_both_streams_and_one_means_none():
    rows = []

    def velocity(latents, times, made):
        rows.append(len(times))
        given = (torch.arange(len(times)) < 2).float() if len(times) == 4 else torch.ones(len(times))
        return [given.view(-1, *[1] * (x.dim() - 1)).expand_as(x) for x in latents]

    begin = torch.zeros(2, 1, 3, 2, 2), torch.zeros(2, 1, 4, 2)
    for guidance in (7.0, 1.0):
        found = flow.sample(velocity, begin, 1.0, flow.Settings(5, guidance))
        assert all(torch.allclose(one, torch.full_like(one, guidance)) for one in found)
    assert rows == [4] * 5 + [2] * 5


@pytest.mark.parametrize("solver", flow.SOLVERS)
def test_given_frames_stay_and_partly_given_ones_begin_when_their_time_comes(solver):
    torch.manual_seed(0)
    begin, noise = torch.randn(2, 3, 5, 2), torch.randn(2, 3, 5, 2)
    made = torch.tensor([[1.0, 0.0, 0.5, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    seen = []

    def velocity(latents, times, masks):
        seen.append((float(times[0]), masks[0][0].tolist(), latents[0][0].clone()))
        return [torch.ones_like(x) for x in latents]

    (found,) = flow.sample(velocity, (begin,), 1.0, flow.Settings(4, 1.0, solver), (made,), (noise,))
    kept = (made == 0)[:, None, :, None].expand_as(begin)
    assert torch.equal(found[kept], begin[kept])
    torch.testing.assert_close(found.transpose(1, 2)[made == 1], begin.transpose(1, 2)[made == 1] + 1)
    for time, active, x in seen:
        if time > 500:
            assert not active[2] and torch.equal(x[:, 2], begin[0, :, 2])  # clean until then
    first = next(x for time, active, x in seen if active[2])
    torch.testing.assert_close(first[:, 2], 0.5 * begin[0, :, 2] + 0.5 * noise[0, :, 2])
    torch.testing.assert_close(found[0, :, 2], first[:, 2] + 0.5)
    with pytest.raises(ValueError, match="noise"):
        flow.sample(velocity, (begin,), 1.0, flow.Settings(4, 1.0), (made,))


def test_samples_of_a_known_velocity_are_its_data():
    """Of data that is one number the velocity is known: every solver ends there."""
    torch.manual_seed(0)
    noise = torch.randn(4, 2, 3, 2)

    def velocity(latents, times, made):
        tau = (times / 1000).view(-1, 1, 1, 1)
        return [0.7 - (x - (1 - tau) * 0.7) / tau.clamp(min=1e-6) for x in latents]

    for solver in flow.SOLVERS:
        (found,) = flow.sample(velocity, (noise,), 3.4, flow.Settings(6, 1.0, solver))
        torch.testing.assert_close(found, torch.full_like(found, 0.7), atol=1e-4, rtol=0)


def test_settings_are_checked():
    for wrong, what in ((flow.Settings(0), "steps"), (flow.Settings(solver="heum"), "heun"), (flow.Settings(guidance=math.nan), "guidance")):
        with pytest.raises(UsageError, match=what):
            wrong.check()
    flow.Settings().check()


def test_times_of_training():
    draws, shift = range(2000), flow.shift_of(240, 426, 102)
    assert shift == pytest.approx(3.42, abs=0.01)
    counts = [flow.shift_of(512, 512, pictures) ** 2 for pictures in (1, 2, 5, 6, 16, 17, 33, 34)]
    assert counts == pytest.approx([1, 1, 2, 2, 4, 5, 5, 10])  # latent frames, of which the original counts none below 17
    times = flow.draw_times(draws, shift)
    assert torch.equal(times, flow.draw_times(draws, shift)) and 0 < times.min() and times.max() < 1000
    assert times.median().item() == pytest.approx(1000 * shift / (1 + shift), rel=0.03)  # of 500, where the bell's middle is
    even = flow.draw_times(draws, 1.0, "uniform")
    assert even.mean().item() == pytest.approx(500, rel=0.05) and (even < 100).float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(flow.draw_times([7], shift), flow.draw_times([3, 7], shift)[1:])  # a sample's time is its own
    with pytest.raises(UsageError, match="logit-normal"):
        flow.draw_times([1], 1.0, "gauss")
    assert flow.steps_of(4, 1.0) == pytest.approx([1000, 750, 500, 250, 0])


def test_what_is_given_is_no_loss():
    torch.manual_seed(0)
    clean, noise, found = torch.randn(2, 3, 4, 2), torch.randn(2, 3, 4, 2), torch.randn(2, 6, 4, 2, requires_grad=True)
    made = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0] * 4])
    loss = flow.loss(found, clean, noise, made)
    loss.sum().backward()
    assert found.grad[:, :3, 1:3][0].all() and not found.grad[:, 3:].any() and not found.grad[0, :, [0, 3]].any() and not found.grad[1].any()
    assert loss[1] == 0 and flow.loss(found, clean, noise, made, legacy=True)[1] == 1
    assert loss[0].item() == pytest.approx((found[0, :3, 1:3] - (clean - noise)[0, :, 1:3]).square().mean().item(), rel=1e-5)
    x = flow.noisy(clean, noise, torch.tensor([1000.0, 500.0]), made)
    assert torch.equal(x[0, :, 0], clean[0, :, 0]) and torch.allclose(x[0, :, 1], noise[0, :, 1]) and torch.equal(x[1], clean[1])


def test_preference_falls_where_winners_gain():
    reference = {"video": torch.tensor([1.0, 1.0, 1.0, 1.0])}
    better, worse = ({"video": torch.tensor([1 - sign * 0.01, 1 - sign * 0.01, 1.0, 1.0])} for sign in (1, -1))
    beta = {"video": 100.0}
    one, two = (flow.preference(policy, reference, beta) for policy in (better, worse))
    assert (one["loss"] < two["loss"]).all() and one["video_right"] == 1 and two["video_right"] == 0
    assert flow.preference(reference, reference, beta)["video_dpo"].item() == pytest.approx(math.log(2))


# --- which frames are given ----------------------------------------------------------------------------------------------


def test_masks_of_training_are_drawn_in_their_shares():
    drawn = collections.Counter()
    source = torch.Generator().manual_seed(0)
    for _ in range(4000):
        name, video, sound = masks.draw(source, 15, 56)
        drawn[name] += 1
        assert video.shape == (15,) and sound.shape == (56,) and video.any() | sound.any()
        if name in ("identity", "video_to_audio", "audio_to_video"):
            assert video.all() == (name != "video_to_audio") and sound.all() == (name != "audio_to_video")
        elif name.startswith("quarter_"):
            given = int((~video).sum())
            assert 1 <= given <= (6 if name == "quarter_head_tail" else 3) and sound.float().mean().item() == pytest.approx(1 - given / 15, abs=0.03)
        elif name.startswith("image_"):
            assert (~video).sum() == (2 if name == "image_head_tail" else 1) and sound.all()
    for name, share in {**masks.RATIOS, "identity": 0.7}.items():
        assert drawn[name] / 4000 == pytest.approx(share, abs=4 * math.sqrt(share / 4000)), name


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_masks_of_short_clips_leave_something_to_make(frames):
    source = torch.Generator().manual_seed(0)
    for name in masks.RATIOS:
        for _ in range(5):
            _, video, sound = masks.draw(source, frames, 8, {name: 1.0})
            assert video.any() or (name == "video_to_audio" and sound.all()), name


def test_shares_of_masks_are_checked():
    masks.check({"intepolate": 0.5, "random": 0.5})
    shares = ({"random": value} for value in (1.5, -0.1, math.nan, "a", None, True, [0.1]))
    for wrong, what in (({"randam": 0.1}, "randam"), *((share, "share") for share in shares), ({"random": 0.6, "image_head": 0.6}, "add up")):
        with pytest.raises(UsageError, match=what):
            masks.check(wrong)


def clips(frames=30, sounds=112, reference_sounds=None):
    torch.manual_seed(0)
    reference = torch.randn(4, frames, 1, 2), torch.randn(8, reference_sounds or sounds, 2)
    return torch.randn(1, 4, frames, 1, 2), torch.randn(1, 8, sounds, 2), [[reference, (reference[0] + 1, None)]]


def test_tasks():
    video, sound, references = clips()

    def begun(task, frames=1):
        return masks.begin(video, sound, [masks.edits_of(task, frames)], references, fps=24)

    for task, given, heard in (("t2av", [], 0), ("a2v", [], 112), ("v2a", range(30), 0), ("i2av", [0], 0), ("ia2v", [0], 112), ("loop", [0, 29], 0)):
        made = begun(task)
        assert (made.video_made[0] == 0).nonzero().flatten().tolist() == list(given), task
        assert int((made.sound_made == 0).sum()) == heard
        assert torch.equal(made.sound[0, :, :heard], references[0][0][1][:, :heard])
    made = begun("continue", 5)  # the reference's last frames come first, with their sound
    assert torch.equal(made.video[0, :, :5], references[0][0][0][:, 25:]) and (made.video_made[0, :5] == 0).all() and made.video_made[0, 5:].all()
    count = int(5 * 17 / 5 / 24 / 0.04)
    start = int(25 * 17 / 5 / 24 / 0.04)
    assert torch.equal(made.sound[0, :, :count], references[0][0][1][:, start : start + count]) and int((made.sound_made == 0).sum()) == count
    made = begun("between")
    assert torch.equal(made.video[0, :, 0], references[0][0][0][:, 0]) and torch.equal(made.video[0, :, 29], references[0][1][0][:, 29])
    with pytest.raises(UsageError, match="t2av"):
        masks.edits_of("t2v")


def test_sound_that_ends_early_is_made_after_that():
    video, sound, references = clips(reference_sounds=100)
    edits = [masks.parse("0,0,0,0,1,0,3")]
    made = masks.begin(video, sound, edits, references, fps=24)
    assert made.sound_made[0].tolist() == [0.0] * 100 + [1.0] * 12
    assert not masks.begin(video, sound, edits, references, fps=24, legacy=True).sound_made.any()
    assert torch.equal(made.sound[0, :, 100:], sound[0, :, 100:])


def test_sound_may_end_before_the_frames_that_are_given():
    video, sound, references = clips(reference_sounds=90)
    made = masks.begin(video, sound, [masks.edits_of("continue", 2)], references, fps=24)
    assert (made.video_made[0, :2] == 0).all() and made.sound_made.all()


def test_frames_of_sound_are_counted_exactly():
    video, sound = torch.zeros(1, 1, 30, 1, 1), torch.zeros(1, 1, 300, 1)
    edits, references = [masks.parse("0,0,0,0,24,0,0")], [[(video[0] + 1, sound[0] + 1)]]
    for legacy, count in ((False, 255), (True, 254)):  # 24 latent frames of 17/5 pictures at 8 Hz are 10.2 s
        assert int((masks.begin(video, sound, edits, references, fps=8, legacy=legacy).sound_made == 0).sum()) == count


def test_edits_that_make_no_sense_are_said():
    video, sound, references = clips()
    for text, what in (("1,2,3", "seven"), ("0,0,0,0,x,0,0", "seven"), ("0,0,0,0,1,0,4", "modality"), ("0,0,0,0,1,2,0", "ratio"), ("0,0,0,0,0,0,0", "length")):
        with pytest.raises(UsageError, match=what):
            masks.parse(text)
    lacking = {"0,5,0,0,1,0,1": "no reference 5", "0,1,0,0,1,0,2": "has no sound", "0,0,40,0,1,0,1": "there are none", "0,0,0,-31,1,0,1": "there are none"}
    for text, what in lacking.items():
        with pytest.raises(UsageError, match=what):
            masks.begin(video, sound, [masks.parse(text)], references, fps=24)
    assert masks.parse("") == [] and masks.parse("0,0,-3,0,3,0.5,1; 0,0,0,0,1,0,0")[0] == masks.Edit(start=-3, length=3, ratio=0.5, modality=masks.VIDEO)
