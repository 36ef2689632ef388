"""Regions of sources, and the attention mosaic: one masked pass against region by region, batches, prompts, moving boxes."""

import json
import pickle
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from torch.nn import functional  # noqa: E402

from avtools.errors import RowError, UsageError  # noqa: E402
from avtools.models.maestro import regions  # noqa: E402
from avtools.models.maestro.mosaic import Mosaic, Scene, allowed, soften, spatial_layers  # noqa: E402
from avtools.models.maestro.regions import LAYOUTS, Box, of_row, regions_of  # noqa: E402

NAMES = ("dog", "cat", "rain", "bell")


# --- regions ----------------------------------------------------------------------------------------------------------


def layout(name: str):
    return regions_of(NAMES[: len(LAYOUTS[name][1])], name)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("grid", [(40, 64), (5, 8), (64, 40), (9, 16), (3, 3), (12, 7), (2, 2)])
def test_layouts_fill_pictures_of_any_shape(name, grid):
    owners = layout(name).owners(grid)[0]
    assert set(owners.ravel()) == set(range(len(LAYOUTS[name][1])))  # nobody's is nothing, and none is left out
    if name == "lr":
        assert (owners[:, : grid[1] // 2] == 0).all() and (owners[:, grid[1] // 2 :] == 1).all()
    else:
        cut = max(1, int(0.4 * grid[0]))
        assert set(owners[:cut].ravel()).isdisjoint(owners[cut:].ravel())
    assert (layout(name).bumps(grid).max((1, 2, 3)) == 1).all()


def test_boxes_of_the_user_touch_without_gap_and_never_share_cells():
    found = regions_of(NAMES[:3], boxes=["dog=0,0,.3,1", "cat=.3,0,.7,1", "rain=.7,0,1,1"])
    for wide in range(3, 80):
        owners = found.owners((4, wide))[0, 0]
        assert (np.diff(owners) >= 0).all() and set(owners) == {0, 1, 2}, wide
        assert abs((owners == 0).sum() - 0.3 * wide) <= 0.51
    inner = regions_of(NAMES[:2], boxes=["dog=.1,.1,.3,.3", "2=.6,.5,.9,.9"])
    owners = inner.owners((40, 40))[0]
    assert (owners[4:12, 4:12] == 0).all() and (owners[20:36, 24:36] == 1).all() and (owners >= 0).sum() == 64 + 192
    assert {0, 1} <= set(inner.owners((2, 2)).ravel())  # none vanishes
    assert set(inner.owners((1, 1)).ravel()) == {0}  # of two in a cell the smaller has it


def test_boxes_move_evenly_between_key_frames():
    found = regions_of(("dog@home", "a=b"), boxes=["dog@home@2=0,0,.2,1", "dog@home@6=.4,0,.6,1", "a=b=.8,0,1,1"], frames=9)
    assert found.moving and len(found.soft[1]) == 1
    lefts = [regions.box_at(found.hard[0], frame).left for frame in range(9)]
    assert lefts == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    owners = found.owners((1, 10), 9)[:, 0]
    assert owners.shape == (9, 10) and [int(np.argmax(one == 0)) for one in owners] == [0, 0, 0, 1, 2, 3, 4, 4, 4]
    assert found.bumps((4, 10), 9).shape == (2, 9, 4, 10)
    assert pickle.loads(pickle.dumps(found)) == found and hash(found) == hash(pickle.loads(pickle.dumps(found)))


@pytest.mark.parametrize(
    "count, layout_, boxes, told",
    [
        (2, "ring", [], "--layout ring: one of lr, td, three, quad"),
        (3, "lr", [], "--layout lr: is for 2 sources, and there are 3 (dog, cat, rain)"),
        (5, None, [], "5 sources: layouts are for 2 (lr) or 3 (three) or 4 (quad); give --box"),
        (2, "lr", ["dog=0,0,1,1"], "--layout and --box: give one"),
        (2, None, ["dog=0,0,.5,1"], "no --box for cat"),
        (2, None, ["bird=0,0,.5,1"], "no source is called 'bird' (there are: dog, cat)"),
        (2, None, ["3=0,0,.5,1"], "no source is called '3'"),
        (2, None, ["dog=0,0,.5"], "is not NAME=LEFT,TOP,RIGHT,BOTTOM"),
        (2, None, ["dog"], "is not NAME=LEFT"),
        (2, None, ["dog=0,0,nan,1"], "four fractions"),
        (2, None, ["dog=-.1,0,.5,1"], "reaches outside of the picture"),
        (2, None, ["dog=0,0,1.5,1"], "reaches outside of the picture"),
        (2, None, ["dog=.5,0,.5,1"], "is empty"),
        (2, None, ["dog=0,0,.5,1", "dog=0,0,.4,1"], "dog has one already at frame 0"),
        (2, None, ["dog@16=0,0,.5,1"], "frame 16 is not shown; frames are 0 to 15"),
        (2, None, ["dog=0,0,.6,1", "cat=.5,0,1,1"], "dog and cat overlap; move them apart"),
        (2, None, ["dog@0=0,0,.2,1", "dog@15=.8,0,1,1", "cat=.4,.4,.6,.6"], "dog and cat overlap at frame 4"),
    ],
)
def test_what_does_not_fit_is_told(count, layout_, boxes, told):
    names = (*NAMES, "wind")[:count]
    with pytest.raises(UsageError, match=re.escape(told)):
        regions_of(names, layout_, boxes, frames=16)


def test_sources_of_one_name_are_told_apart_by_number():
    with pytest.raises(UsageError, match="2 sources are called dog"):
        regions_of(("dog", "dog"), boxes=["dog=0,0,.5,1"])
    assert regions_of(("dog", "dog"), boxes=["2=0,0,.5,1", "1=.5,0,1,1"]).hard[0][0][1].left == 0.5


def test_rows_keep_regions():
    for made in (layout("td"), regions_of(NAMES[:2], boxes=["dog=0,0,.5,1", "cat=.5,0,1,.5"]),
                 regions_of(NAMES[:2], boxes=["dog@1=0,0,.5,1", "dog@5=0,0,.4,1", "cat=.5,0,1,.5"], frames=6)):  # fmt: skip
        again = of_row(made.columns(), made.names)
        assert again == made
    assert of_row({"boxes": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]}, "ab").hard[1][0] == (0, Box(0.5, 0, 1, 1))
    for row, told in (
        ({}, "neither layout nor boxes"), ({"layout": "x"}, "'x' is none of"), ({"layout": "quad"}, "quad is for 4 sources, and the row has 2"),
        ({"boxes": "[[0,0,1,1]]"}, "1 boxes for 2"), ({"boxes": "[1"}, "is not a list"), ({"boxes": "[[0,0,1],[0,0,1,1]]"}, "is not a list"),
        ({"boxes": "[[0,0,2,1],[0,0,1,1]]"}, "outside"), ({"boxes": "[[0,0,1,1],[0,0,1,1]]"}, "overlap"), ({"boxes": "[[], [0,0,1,1]]"}, "is not a list"),
        ({"boxes": "[[0,0,NaN,1],[0.5,0,1,1]]"}, "outside"), ({"boxes": f"[[{'9' * 400},0,0.5,1],[0.5,0,1,1]]"}, "is not a list"),
        ({"boxes": "[[[0,0,0,0.5,1],[1000000000000,0,0,0.4,1]],[0.5,0,1,1]]"}, "frame 1000000000000"), ({"layout": ["lr"]}, "is none of"),
    ):  # fmt: skip
        with pytest.raises(RowError, match=re.escape(told)):
            of_row(row, ("a", "b"))


# --- the two phases ---------------------------------------------------------------------------------------------------


def test_soft_logits_are_those_of_the_formula():
    torch.manual_seed(0)
    scene = Scene(regions_of(NAMES[:3], "three"), first=4, count=5)
    logits, grid = torch.randn(2, 3, 40, 30), (5, 8)
    bumps = torch.from_numpy(scene.regions.bumps(grid)).flatten(2)
    found = soften(logits.clone(), bumps, scene, 0.5, 0.05)
    wanted, highest = logits.clone(), logits.max()
    for source in range(3):
        for pixel in range(40):
            values = highest * bumps[:, 0, pixel]
            drawn = 2 * values[source] - values.sum()
            for token in range(4 + 5 * source, 9 + 5 * source):
                wanted[:, :, pixel, token] = logits[:, :, pixel, token] * (1 if bumps[:, 0, pixel].any() else 0.05) + 0.5 * drawn
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (bumps == 0).all(0).any(), "no pixel is outside all boxes"


def test_pixels_see_the_base_prompt_and_their_own_source():
    scene = Scene(regions_of(NAMES[:2], boxes=["dog=0,0,.25,1", "cat=.5,0,.75,1"]), first=2, count=3)
    seen = allowed(torch.from_numpy(scene.regions.owners((1, 4))).flatten(1), 8, scene)[0]
    base = [True, True, False, False, False, True, True, True]
    assert seen.tolist() == [base + [True] * 3 + [False] * 3, [True] * 8 + [False] * 6, base + [False] * 3 + [True] * 3, [True] * 8 + [False] * 6]


# --- in a network -----------------------------------------------------------------------------------------------------

TOKENS, WIDTH, FRAMES = 30, 24, 3


@pytest.fixture(scope="module")
def unet():
    from diffusers import UNet3DConditionModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")}
    made = UNet3DConditionModel(**blocks, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=8, norm_num_groups=8)
    for name, layer in spatial_layers(made).items():  # so that prompts matter
        for part in (layer.to_q, layer.to_k, layer.to_v):
            torch.nn.init.normal_(part.weight, 0, 0.6)
    return made.eval().requires_grad_(False)


class Given:
    """What a test's samples are: scenes, base prompts (B, L, D), contexts (B, T, L, D)."""

    def __init__(self, scenes, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.scenes, self.base = scenes, torch.randn(len(scenes), TOKENS, WIDTH, generator=generator)
        self.context = self.base[:, None].repeat(1, FRAMES, 1, 1)
        for number, scene in enumerate(scenes):
            slots = self.context[number, :, scene.slots]
            self.context[number, :, scene.slots] = torch.randn(slots.shape, generator=generator)
        self.sample = torch.randn(len(scenes), 4, FRAMES, 9, 14, generator=generator)

    def some(self, numbers):
        made = Given.__new__(Given)
        made.scenes = [self.scenes[k] for k in numbers]
        made.base, made.context, made.sample = self.base[numbers], self.context[numbers], self.sample[numbers]
        return made


SCENES = [
    Scene(regions_of(NAMES[:2], "lr"), 1, 4),
    Scene(regions_of(NAMES, "quad"), 5, 4),
    Scene(regions_of(NAMES[:3], boxes=["dog@0=0,0,.3,.5", "dog@2=.2,0,.5,.5", "cat=.6,0,1,1", "rain=0,.6,.5,1"], frames=FRAMES), 2, 4),
]


def call(unet, given, phase, before=None, mosaic=None, **settings):
    """The prediction; `before`: how many of them have an unconditional one before them in the batch."""
    import contextlib

    first = len(given.scenes) if before is None else before
    empty = torch.zeros(first, FRAMES, TOKENS, WIDTH)
    context = torch.cat([empty, given.context]).flatten(0, 1)
    sample = torch.cat([given.sample[:1].expand(first, *given.sample.shape[1:]), given.sample])
    made = mosaic or Mosaic(given.scenes, given.base, FRAMES, given.sample.shape[-2:], **settings)
    with made.on(unet, first) if mosaic is None else contextlib.nullcontext():
        made.phase = phase
        return per_frame(unet, sample, context)[first:]


def per_frame(unet, sample, context):
    """diffusers' class repeats its prompts over frames; here they are of each frame already."""

    class Repeated:
        shape = context.shape

        def repeat_interleave(self, *_, **__):
            return context

    return unet(sample, 500, Repeated()).sample


def stitched(layer, query, context, base, scene, pixels_of):
    """Region by region, as the original has it: base keys whose first slots are a source's."""
    found = None
    grid = pixels_of(query.shape[1])
    owners = torch.from_numpy(scene.regions.owners(grid, FRAMES)).flatten(1).expand(FRAMES, -1)
    for source in (-1, *range(len(scene.regions))):
        own = base.clone()
        if source >= 0:
            own[:, scene.slots_of(0)] = context[:, scene.slots_of(source)]
        q, k, v = (part(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part, x in ((layer.to_q, query), (layer.to_k, own), (layer.to_v, own)))
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        found = torch.zeros_like(out) if found is None else found
        found = torch.where((owners == source)[..., None], out, found)
    return layer.to_out[0](found)


@pytest.mark.parametrize("scene", SCENES)
def test_one_pass_is_split_and_stitch(unet, scene):
    given = Given([scene])
    (name, layer), *_ = spatial_layers(unet).items()
    mosaic = Mosaic([scene], given.base, FRAMES, (9, 14))
    for high, wide in ((9, 14), (5, 7), (3, 4)):
        query = torch.randn(FRAMES, high * wide, layer.to_q.in_features)
        with mosaic.on(unet):
            mosaic.phase = "hard"
            found = layer(query, given.context[0])
        wanted = stitched(layer, query, given.context[0], given.base.expand(FRAMES, -1, -1), scene, lambda _, grid=(high, wide): grid)
        assert torch.allclose(found, wanted, atol=1e-5), (high, wide)


@pytest.mark.parametrize("phase", ["none", "soft", "hard"])
def test_batches_do_not_matter(unet, phase):
    given = Given(SCENES)
    whole = call(unet, given, phase)
    for number in range(len(SCENES)):
        alone = call(unet, given.some([number]), phase, before=0)
        assert torch.allclose(whole[number], alone[0], atol=2e-5), number
    if phase == "none":
        assert torch.allclose(whole, per_frame(unet, given.sample, given.context.flatten(0, 1)), atol=2e-5)
    else:
        assert (whole - call(unet, given, "none")).abs().max() > 1e-3


def test_legacy_has_one_maximum_for_a_batch(unet):
    given = Given(SCENES)
    given.context[0] *= 3
    own, shared = call(unet, given, "soft"), call(unet, given, "soft", legacy={"maximum"})
    assert torch.allclose(own[0], shared[0], atol=1e-4) and (own[1] - shared[1]).abs().max() > 1e-3
    halves = call(unet, given, "soft", legacy={"maps"})
    assert 0 < (halves - own).abs().max() < 0.1


def test_unconditional_samples_stay_as_they_are(unet):
    given = Given(SCENES[:1])
    sample, context = given.sample.repeat(3, 1, 1, 1, 1), torch.cat([torch.zeros(2, FRAMES, TOKENS, WIDTH), given.context]).flatten(0, 1)
    plain = per_frame(unet, sample, context)
    mosaic = Mosaic(given.scenes, given.base, FRAMES, (9, 14))
    with mosaic.on(unet, before=2):
        for phase in ("soft", "hard"):
            mosaic.phase = phase
            assert torch.allclose(per_frame(unet, sample, context)[:2], plain[:2], atol=2e-5)


def test_keys_are_projected_once_and_freed(unet):
    given, counts = Given(SCENES), {"to_k": 0, "to_q": 0}
    layers = spatial_layers(unet)
    before = {name: layer.processor for name, layer in layers.items()}

    def count(part):
        return lambda *_: counts.update({part: counts[part] + 1})

    hooks = [getattr(layer, part).register_forward_hook(count(part)) for layer in layers.values() for part in counts]
    mosaic = Mosaic(given.scenes, given.base, FRAMES, (9, 14), soft_steps=2)
    with mosaic.on(unet, before=3):
        found = []
        for step in range(5):
            assert mosaic.at(step) == ("soft" if step < 2 else "hard")
            found.append(call(unet, given, mosaic.phase, mosaic=mosaic))
            if step == 2:
                soft, counts["to_k"] = counts["to_k"], 0
        assert mosaic._kept
    for hook in hooks:
        hook.remove()
    # unconditional, soft; then base prompt and sources; nothing in later steps
    assert soft == 4 * len(layers) and counts == {"to_k": 0, "to_q": 5 * len(layers)}
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[4])
    assert not mosaic._kept and {name: layer.processor for name, layer in layers.items()} == before
    assert torch.allclose(found[4], call(unet, given, "hard"), atol=2e-5)


def test_a_failing_call_leaves_the_network_as_it_was(unet):
    given = Given(SCENES[:1])
    before = {name: layer.processor for name, layer in spatial_layers(unet).items()}
    with pytest.raises(ValueError, match="a mosaic of 1 samples"):
        with (mosaic := Mosaic(given.scenes, given.base, FRAMES, (9, 14))).on(unet, before=1):
            per_frame(unet, given.sample, given.context.flatten(0, 1))
    assert {name: layer.processor for name, layer in spatial_layers(unet).items()} == before and not mosaic._kept
    with pytest.raises(ValueError, match="no reduction of latents of 9x15"):
        with Mosaic(given.scenes, given.base, FRAMES, (9, 15)).on(unet) as mosaic:
            mosaic.phase = "hard"
            per_frame(unet, given.sample, given.context.flatten(0, 1))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_loses_no_more_than_without(unet, precision):
    given, lost = Given(SCENES), {}
    for phase in ("none", "soft", "hard"):
        wanted = call(unet, given, phase)
        with torch.autocast("cpu", precision):
            found = call(unet, given, phase).float()
        lost[phase] = float((found - wanted).norm() / wanted.norm())
    assert max(lost.values()) < 0.1 and max(lost["soft"], lost["hard"]) < 2 * lost["none"], lost


def test_what_a_mosaic_cannot_be_is_told():
    given = Given(SCENES[:1])
    for make, told in (
        (lambda: Mosaic(given.scenes * 2, given.base, FRAMES, (4, 4)), "for 2 scenes"),
        (lambda: Mosaic([Scene(regions_of(NAMES, "quad"), 1, 10)], given.base, FRAMES, (4, 4)), "4 sources of 10 tokens from position 1 on: the prompt has 30"),
        (lambda: Mosaic(given.scenes, given.base, FRAMES, (4, 4), legacy={"x"}), "x: of maps, maximum"),
        (lambda: setattr(Mosaic(given.scenes, given.base, FRAMES, (4, 4)), "phase", "wet"), "wet: of none, soft, hard"),
        (lambda: Mosaic(given.scenes, given.base, FRAMES, (4, 4)).on(torch.nn.Linear(1, 1)).__enter__(), "no spatial attention"),
    ):
        with pytest.raises(ValueError, match=told):
            make()


def test_columns_are_json():
    assert json.loads(regions_of(NAMES[:2], boxes=["dog=0,0,.5,1", "cat=.5,0,1,1"]).columns()["boxes"]) == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
