"""MAESTRO's video base: the UNet with contexts of frames, checkpoints of all layouts, the codec, and the sampler."""

import json

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402

from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.models.avsyncd.encoders import AT_ONCE  # noqa: E402
from avtools.models.maestro import checkpoint, codec, diffusion, unet  # noqa: E402
from avtools.models.maestro.unet import VideoUnet  # noqa: E402
from avtools.models.parts.tiny.space_to_depth import SpaceToDepth  # noqa: E402

WIDTH, CONTEXT = 16, 12
SMALL = {
    "block_out_channels": [WIDTH, 2 * WIDTH],
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": CONTEXT,
    "attention_head_dim": 8,
}


def small(seed: int = 0, **others) -> VideoUnet:
    """A network in which nothing is zero: as made, last layers are."""
    torch.manual_seed(seed)
    net = VideoUnet(**{**SMALL, **others})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return net.eval().requires_grad_(False)


def inputs(batch: int = 2, frames: int = 3, size=(6, 8)):
    torch.manual_seed(1)
    return torch.randn(batch, 4, frames, *size), torch.randint(0, 1000, (batch,)), torch.randn(batch, frames, 7, CONTEXT)


# --- the network -----------------------------------------------------------------------------------------------


def test_each_frame_has_its_context_and_one_context_is_that_of_all_frames():
    net, (x, times, context) = small(fps_mlp=True), inputs()
    made = net(x, times, context, fps=8)
    assert made.shape == x.shape
    other = context.clone()
    other[1, 2] += 1
    changed = (net(x, times, other, fps=8) - made).abs().amax((1, 3, 4))
    assert changed[0].max() == 0 and changed[1, 2] > 2 * changed[1, :2].max() > 0  # another frame is reached over time only
    whole = context[:, 0]
    torch.testing.assert_close(net(x, times, whole, fps=8), net(x, times, whole[:, None].expand_as(context), fps=8))
    with pytest.raises(ValueError, match="context"):
        net(x, times, context[:, :2])


def test_a_video_does_not_depend_on_its_batch_and_has_its_own_time_and_rate():
    net, (x, times, context) = small(fps_mlp=True), inputs()
    rates = torch.tensor([4, 24])
    both = net(x, times, context, fps=rates)
    for k in (0, 1):
        torch.testing.assert_close(net(x[k : k + 1], int(times[k]), context[k : k + 1], fps=int(rates[k])), both[k : k + 1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both[0], net(x, times, context, fps=8)[0], atol=1e-4)
    torch.testing.assert_close(net(x, times, context), net(x, times, context, fps=unet.FPS))


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_diffusers_own_networks_compute_the_same_here(tmp_path, size):
    """Odd sizes too: what is rounded up on the way down comes back to its size."""
    torch.manual_seed(0)
    theirs = diffusers.UNet3DConditionModel(**SMALL).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    theirs.save_pretrained(tmp_path / "unet")
    net = checkpoint.load_unet(tmp_path)
    assert not net.config.fps_mlp and not net.training and not any(p.requires_grad for p in net.parameters())
    x, times, context = inputs(size=size)
    with torch.no_grad():
        wanted = theirs(x, times, context[:, 0]).sample
    torch.testing.assert_close(net(x, times, context[:, 0]), wanted)
    torch.testing.assert_close(net(x, times, context[:, 0], fps=3), wanted)  # nothing listens to the rate
    torch.testing.assert_close(checkpoint.load_unet(tmp_path / "unet")(x, times, context[:, 0]), wanted)


def test_more_pixels_than_a_kernel_takes_are_attended_in_parts(monkeypatch):
    net, (x, times, context) = small(), inputs()
    wanted, sizes = net(x, times, context), []
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(unet, "ROWS", 20)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: sizes.append(len(a[0])) or plain(*a, **k))
    torch.testing.assert_close(net(x, times, context), wanted)
    assert 20 in sizes and max(sizes) == 20


def test_gradients_are_the_same_with_blocks_computed_again():
    x, times, context = inputs()
    found = []
    for again in (False, True):
        net = small(fps_mlp=True).requires_grad_(True)
        if again:
            net.enable_gradient_checkpointing()
        calls = []
        net.mid_block.resnets[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        net(x, times, context, fps=8).square().mean().backward()
        assert len(calls) == 1 + again
        found.append([parameter.grad for parameter in net.parameters()])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


# --- checkpoints -------------------------------------------------------------------------------------------------


def released(width=32, mults=(1, 2), blocks=1, attended=(True, True), dim=CONTEXT, head=8, latents=4) -> dict[str, list[int]]:
    """Names and shapes of a VideoCrafter2 of any size, as its authors write them, with a small autoencoder and text tower."""
    made: dict[str, list[int]] = {}

    def layer(name, *shape):
        made[f"{name}.weight"], made[f"{name}.bias"] = list(shape), [shape[0]]

    def transformer(name, c, inner, context, conv=False):
        layer(f"{name}.norm", c)
        for way, shape in (("in", (inner, c)), ("out", (c, inner))):
            layer(f"{name}.proj_{way}", *shape, *([1] if conv else []))
        block = f"{name}.transformer_blocks.0"
        for attn, keys in (("attn1", inner), ("attn2", context)):
            for part, width in (("to_q", inner), ("to_k", keys), ("to_v", keys)):
                made[f"{block}.{attn}.{part}.weight"] = [inner, width]
            layer(f"{block}.{attn}.to_out.0", inner, inner)
        layer(f"{block}.ff.net.0.proj", 8 * inner, inner)
        layer(f"{block}.ff.net.2", inner, 4 * inner)
        for k in (1, 2, 3):
            layer(f"{block}.norm{k}", inner)

    def res(name, before, after):
        layer(f"{name}.in_layers.0", before)
        layer(f"{name}.in_layers.2", after, before, 3, 3)
        layer(f"{name}.emb_layers.1", after, 4 * width)
        layer(f"{name}.out_layers.0", after)
        layer(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            layer(f"{name}.skip_connection", after, before, 1, 1)
        for k in (1, 2, 3, 4):
            layer(f"{name}.temopral_conv.conv{k}.0", after)
            layer(f"{name}.temopral_conv.conv{k}.{2 if k == 1 else 3}", after, after, 3, 1, 1)

    def both(name, c):
        transformer(f"{name}.1", c, c, dim)
        transformer(f"{name}.2", c, c, c)

    net = "model.diffusion_model"
    for one in ("time_embed", "fps_embedding"):
        layer(f"{net}.{one}.0", 4 * width, width)
        layer(f"{net}.{one}.2", 4 * width, 4 * width)
    layer(f"{net}.input_blocks.0.0", width, latents, 3, 3)
    transformer(f"{net}.init_attn.0", width, 8 * head, 8 * head, conv=True)
    number, before, skips = 1, width, [width]
    for level, times in enumerate(mults):
        for _ in range(blocks):
            res(f"{net}.input_blocks.{number}.0", before, times * width)
            before = times * width
            if attended[level]:
                both(f"{net}.input_blocks.{number}", before)
            skips.append(before)
            number += 1
        if level < len(mults) - 1:
            layer(f"{net}.input_blocks.{number}.0.op", before, before, 3, 3)
            skips.append(before)
            number += 1
    res(f"{net}.middle_block.0", before, before)
    both(f"{net}.middle_block", before)
    res(f"{net}.middle_block.3", before, before)
    number = 0
    for level, times in reversed(list(enumerate(mults))):
        for k in range(blocks + 1):
            res(f"{net}.output_blocks.{number}.0", before + skips.pop(), times * width)
            before = times * width
            if attended[level]:
                both(f"{net}.output_blocks.{number}", before)
            if k == blocks and level:
                layer(f"{net}.output_blocks.{number}.{3 if attended[level] else 1}.conv", before, before, 3, 3)
            number += 1
    layer(f"{net}.out.0", width)
    layer(f"{net}.out.2", latents, width, 3, 3)
    made |= {"betas": [1000], "scale_arr": [1400]}

    def vae_res(name, before, after):
        layer(f"{name}.norm1", before)
        layer(f"{name}.conv1", after, before, 3, 3)
        layer(f"{name}.norm2", after)
        layer(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            layer(f"{name}.nin_shortcut", after, before, 1, 1)

    stage = "first_stage_model"
    for side, ends in (("encoder", (3, 2 * latents)), ("decoder", (latents, 3))):
        way = "down" if side == "encoder" else "up"
        order = mults if side == "encoder" else mults[::-1]
        c = 32 * order[0]
        layer(f"{stage}.{side}.conv_in", c, ends[0], 3, 3)
        for level, times in enumerate(order):
            at = f"{stage}.{side}.{way}.{level if side == 'encoder' else len(mults) - 1 - level}"
            for k in range(1 if side == "encoder" else 2):
                vae_res(f"{at}.block.{k}", c, 32 * times)
                c = 32 * times
            if level < len(mults) - 1:
                layer(f"{at}.{way}sample.conv", c, c, 3, 3)
        middle = 32 * mults[-1]
        for k in (1, 2):
            vae_res(f"{stage}.{side}.mid.block_{k}", middle, middle)
        layer(f"{stage}.{side}.mid.attn_1.norm", middle)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{stage}.{side}.mid.attn_1.{part}", middle, middle, 1, 1)
        layer(f"{stage}.{side}.norm_out", c)
        layer(f"{stage}.{side}.conv_out", ends[1], c, 3, 3)
    layer(f"{stage}.quant_conv", 2 * latents, 2 * latents, 1, 1)
    layer(f"{stage}.post_quant_conv", latents, latents, 1, 1)

    tower = "cond_stage_model.model"
    made |= {f"{tower}.positional_embedding": [77, dim], f"{tower}.text_projection": [dim, dim], f"{tower}.logit_scale": []}
    made[f"{tower}.token_embedding.weight"] = [49408, dim]
    for k in (0, 1):
        block = f"{tower}.transformer.resblocks.{k}"
        made |= {f"{block}.attn.in_proj_weight": [3 * dim, dim], f"{block}.attn.in_proj_bias": [3 * dim]}
        layer(f"{block}.attn.out_proj", dim, dim)
        layer(f"{block}.mlp.c_fc", 4 * dim, dim)
        layer(f"{block}.mlp.c_proj", dim, 4 * dim)
        for norm in ("ln_1", "ln_2"):
            layer(f"{block}.{norm}", dim)
    layer(f"{tower}.ln_final", dim)
    return made


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return {name: torch.randn(shape) * 0.1 for name, shape in released().items()}


@pytest.mark.parametrize("layout", ["state_dict", "deepspeed", "flat", "safetensors", "beside an optimizer"])
def test_model_ckpt_of_every_layout_loads_alike(tmp_path, whole, layout):
    file = tmp_path / "model.ckpt"
    if layout == "safetensors":
        save_file(whole, file)
    elif layout == "deepspeed":
        torch.save({"module": {f"_forward_module.{name}": tensor for name, tensor in whole.items()}, "epoch": 3}, file)
    elif layout == "flat":
        torch.save(whole, file)
    else:
        more = {"optimizer": {"state": {"0": {"exp_avg": torch.zeros(3)}}}, "global_step": 7} if layout != "state_dict" else {}
        torch.save({"state_dict": whole, **more}, file)
    base = checkpoint.load_base(file)
    net = base.unet
    assert (net.config.block_out_channels, net.config.layers_per_block, net.config.attention_head_dim, net.config.fps_mlp) == ([32, 64], 1, 8, True)
    for name, ours in (
        ("init_attn.0.proj_in.weight", net.transformer_in.proj_in.weight),
        ("input_blocks.3.0.temopral_conv.conv4.3.weight", net.down_blocks[1].temp_convs[0].conv4[3].weight),
        ("output_blocks.1.3.conv.weight", net.up_blocks[0].upsamplers[0].conv.weight),
        ("output_blocks.2.2.transformer_blocks.0.attn2.to_k.weight", net.up_blocks[1].temp_attentions[0].transformer_blocks[0].attn2.to_k.weight),
        ("middle_block.3.emb_layers.1.bias", net.mid_block.resnets[1].time_emb_proj.bias),
    ):
        assert torch.equal(whole[checkpoint.DIFFUSION + name].flatten(), ours.flatten()), name
    up = base.codec.model.decoder.up_blocks
    assert torch.equal(whole["first_stage_model.decoder.up.0.block.1.conv2.weight"], up[1].resnets[1].conv2.weight)
    assert base.schedule["scale_floor"] == 0.7 and base.text(["a dog"]).shape == (1, 77, CONTEXT)
    x, times, context = inputs()
    assert net(x, times, context).isfinite().all()
    assert checkpoint.load_base(tmp_path).unet.config == net.config  # the folder that has it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"drop": "model.diffusion_model.middle_block.1.norm.bias"}, "1 missing: mid_block.attentions.0.norm.bias"),
        ({"drop": "first_stage_model.encoder.norm_out.bias"}, "1 missing: encoder.conv_norm_out.bias"),
        ({"add": "model.diffusion_model.input_blocks.1.3.op2.weight"}, "1 unexpected"),
        ({"add": "model_ema.decay"}, "unknown: model_ema.decay"),
        ({"prefix": "first_stage_model."}, r"nothing under: first_stage_model\.\*"),
        ({"prefix": "model.diffusion_model."}, "not VideoCrafter2"),
        ({"prefix": "model.diffusion_model.init_attn."}, "no UNet of VideoCrafter2"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_what_is_wrong(tmp_path, whole, change, said):
    tensors = {name: tensor for name, tensor in whole.items() if name != change.get("drop") and not name.startswith(change.get("prefix", "!"))}
    torch.save({"state_dict": {**tensors, **({change["add"]: torch.zeros(2)} if "add" in change else {})}}, tmp_path / "model.ckpt")
    with pytest.raises(FatalError, match=said) as error:
        checkpoint.load_base(tmp_path / "model.ckpt")
    assert "model.ckpt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["model.diffusion_model.", "first_stage_model."])
def test_a_checkpoint_of_sizes_that_make_no_network_is_refused(tmp_path, part):
    shapes = {name: [max(1, n // 2) if n in (32, 64, 128, 256) else n for n in shape] if name.startswith(part) else shape for name, shape in released().items()}
    torch.save({"state_dict": {name: torch.zeros(shape) for name, shape in shapes.items()}}, tmp_path / "model.ckpt")
    with pytest.raises(FatalError, match=r"model\.ckpt: no .* can be made .*give VideoCrafter2's model\.ckpt"):
        checkpoint.load_base(tmp_path / "model.ckpt")


def pipeline(folder, **changes):
    """A text-to-video model in diffusers' layout."""
    torch.manual_seed(3)
    diffusers.UNet3DConditionModel(**{**SMALL, **changes}).save_pretrained(folder / "unet")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    diffusers.AutoencoderKL(block_out_channels=[8, 16], norm_num_groups=4, latent_channels=4, scaling_factor=0.5, **blocks).save_pretrained(folder / "vae")
    sizes = {"hidden_size": CONTEXT, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 49408, "max_position_embeddings": 77}
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes)).save_pretrained(folder / "text_encoder")
    diffusers.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction").save_pretrained(folder / "scheduler")


def test_any_diffusers_base_samples(tmp_path):
    pipeline(tmp_path)
    base = checkpoint.load_base(tmp_path)
    schedule = diffusion.Noise(base.schedule)
    assert schedule.prediction == "v_prediction" and not schedule.scaled and base.codec.scale == 0.5
    context, null = base.text(["a dog barks"]), base.text([""])
    assert base.text.layer == "last"  # as its pipeline reads it: not every network was trained on the block before
    theirs = transformers.CLIPTextModel.from_pretrained(tmp_path / "text_encoder")(base.text.ids([""])).last_hidden_state
    torch.testing.assert_close(null, theirs, atol=1e-5, rtol=1e-4)
    noise, generators = diffusion.seeded([5], (4, 3, 6, 8))
    made = diffusion.sample(base.unet, noise, context, null, schedule, diffusion.Settings(3, guidance=3.0), generators=generators)
    pictures = codec.decode(base.codec, made)
    assert pictures.shape == (1, 3, 3, 12, 16) and pictures.isfinite().all() and 0 <= pictures.min() and pictures.max() <= 1


def test_a_base_whose_parts_do_not_belong_together_is_refused(tmp_path):
    pipeline(tmp_path, cross_attention_dim=20)
    with pytest.raises(FatalError, match="attends to tokens 20 wide, and its text has 12"):
        checkpoint.load_base(tmp_path)
    (tmp_path / "vae").rename(tmp_path / "away")
    with pytest.raises(FatalError, match="has no vae"):
        checkpoint.load_base(tmp_path)


def test_autoencoders_of_another_kind_are_refused(tmp_path):
    pipeline(tmp_path)
    file = tmp_path / "vae" / "config.json"
    own = json.loads(file.read_text())
    for changes, said in (
        ({"_class_name": "AutoencoderKLTemporalDecoder"}, "of AutoencoderKLTemporalDecoder"),
        ({"shift_factor": 0.1159}, "shift_factor 0.1159"),  # which its latents would lack
        ({"norm_num_groups": 5}, "no autoencoder can be made"),
    ):
        file.write_text(json.dumps({**own, **changes}))
        with pytest.raises(FatalError, match=rf"vae.config\.json: .*{said}"):
            checkpoint.load_base(tmp_path)


def test_networks_of_another_kind_are_refused(tmp_path):
    file = tmp_path / "config.json"
    for told, said in (
        ({"_class_name": "UNet2DConditionModel"}, "single pictures"),
        ({"_class_name": "UNetMotionModel"}, "of UNetMotionModel"),
        ({"_class_name": "UNet3DConditionModel", "attention_head_dim": [5, 10]}, r"attention_head_dim \[5, 10\]"),
        ({"_class_name": "UNet3DConditionModel", "time_cond_proj_dim": 8}, "time_cond_proj_dim 8"),
        ({"_class_name": "UNet3DConditionModel", **SMALL}, "has none of"),
        ({"_class_name": "UNet3DConditionModel", **SMALL, "norm_num_groups": 5}, "no UNet can be made"),
        ([], "broken"),
    ):
        file.write_text(json.dumps(told))
        with pytest.raises(FatalError, match=said):
            checkpoint.load_unet(tmp_path)
    with pytest.raises(UsageError, match=r"change unet\.\*"):
        checkpoint.make_unet({**SMALL, "block_out_channels": [16]})
    with pytest.raises(FatalError, match="no such file or folder"):
        checkpoint.load_base(tmp_path / "gone")


# --- the codec ---------------------------------------------------------------------------------------------------


def test_frames_are_coded_one_by_one_however_many_they_are():
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = codec.Vae({"block_out_channels": [8, 16], "norm_num_groups": 4, **blocks}).eval()
    videos = torch.rand(2, AT_ONCE + 3, 3, 8, 12)
    latents = codec.encode(vae, videos)
    assert latents.shape == (2, 4, AT_ONCE + 3, 4, 6)
    torch.testing.assert_close(latents[1:, :, -1:], codec.encode(vae, videos[1:, -1:]), atol=1e-5, rtol=1e-4)
    noise = torch.randn_like(latents)
    _, deviation = vae.encode(videos.flatten(0, 1))
    found = (codec.encode(vae, videos, noise) - latents).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found, deviation * noise.transpose(1, 2).flatten(0, 1), atol=1e-5, rtol=1e-4)
    pictures = codec.decode(vae, latents)
    assert pictures.shape == videos.shape
    torch.testing.assert_close(pictures[1:, -1:], codec.decode(vae, latents[1:, :, -1:]), atol=1e-5, rtol=1e-4)


def test_the_codec_without_weights_brings_pictures_back():
    videos = torch.rand(2, 3, 3, 8, 12)
    latents = codec.encode(SpaceToDepth(4), videos, torch.randn(2, 48, 3, 2, 3))
    assert latents.shape == (2, 48, 3, 2, 3)
    torch.testing.assert_close(codec.decode(SpaceToDepth(4), latents), videos)


# --- the sampler ---------------------------------------------------------------------------------------------------

PLAIN = {name: value for name, value in diffusion.SCHEDULE.items() if not name.startswith("scale_")}
CHOICES = [(kind, scaled) for kind in diffusion.PREDICTIONS for scaled in (False, True)]


def noise_of(kind: str, scaled: bool) -> diffusion.Noise:
    return diffusion.Noise({**(diffusion.SCHEDULE if scaled else PLAIN), "prediction_type": kind})


@pytest.mark.parametrize(("kind", "scaled"), CHOICES)
def test_what_is_predicted_gives_back_latents_and_noise(kind, scaled):
    schedule = noise_of(kind, scaled)
    clean, noise, times = torch.randn(4, 2, 3), torch.randn(4, 2, 3), torch.tensor([0, 150, 600, 950])
    noisy = schedule.add(clean, noise, times)
    found = schedule.split(schedule.target(clean, noise, times), noisy, times)
    torch.testing.assert_close(found[0], clean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[1], noise, atol=3e-2 if kind == "sample" else 1e-4, rtol=1e-3)  # at time 0 latents tell little of the noise


class Knowing:
    """Predicts rightly for latents that all have the value in the context, which is that of each frame."""

    def __init__(self, schedule: diffusion.Noise):
        self.schedule, self.rows = schedule, []

    def __call__(self, x, times, context, fps=None):
        self.rows.append(len(x))
        times = times.round().long()
        clean = context[..., 0, 0]
        clean = (clean[:, None, :] if clean.dim() == 2 else clean[:, None, None])[..., None, None].expand_as(x)
        signal, spread = (values.view(-1, 1, 1, 1, 1) for values in (self.schedule.signal(times), self.schedule.spread(times)))
        return self.schedule.target(clean, (x - signal * clean) / spread, times)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", diffusion.SCHEDULERS)
def test_every_solver_finds_what_the_network_knows_with_the_scale_too(scheduler, kind):
    for scaled in (True, False):
        schedule = noise_of(kind, scaled)
        settings = diffusion.Settings(20, scheduler, guidance=1.0)
        diffusion.check(settings, schedule)
        noise, generators = diffusion.seeded([1, 2], (1, 3, 4, 4))
        context = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, -0.5]])[:, :, None, None]
        made = diffusion.sample(Knowing(schedule), noise, context, None, schedule, settings, generators=generators)
        # the last steps of some leave a little noise
        torch.testing.assert_close(made.mean((1, 3, 4)), context[..., 0, 0], atol=0.06, rtol=0.05)


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "unipc", "euler"])
def test_the_network_sees_noise_of_its_own_schedule_from_other_solvers(scheduler):
    """Of latents that are known, deterministic solvers keep the noise as it is: each time it is weighed as in training."""
    schedule, seen = diffusion.Noise(diffusion.SCHEDULE), []

    class Watching(Knowing):
        def __call__(self, x, times, context, fps=None):
            seen.append((x, times))
            return super().__call__(x, times, context, fps)

    clean = torch.tensor([[0.5, -1.0]])
    torch.manual_seed(0)
    settings = diffusion.Settings(10, scheduler, guidance=1.0)  # of others DDIM reaches the time beside the next one
    diffusion.sample(Watching(schedule), torch.randn(1, 1, 2, 3, 3), clean[..., None, None], None, schedule, settings)
    latents = clean[:, None, :, None, None].expand_as(seen[0][0])
    first = (seen[0][0] - schedule.add(latents, 0 * latents, seen[0][1].long())) / schedule.spread(seen[0][1].long())
    for x, times in seen:
        torch.testing.assert_close(x, schedule.add(latents, first, times.round().long()), atol=2e-3, rtol=2e-3)


def test_without_fresh_noise_the_scaled_solver_is_diffusers_ddim_on_the_scaled_noise():
    schedule = diffusion.Noise(diffusion.SCHEDULE)
    known = Knowing(schedule)
    ours = diffusion.ScaledDdim(schedule, 10, eta=0)
    theirs = diffusers.DDIMScheduler.from_config({**schedule.plain(), "timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False})
    theirs.set_timesteps(10)
    assert ours.times == theirs.timesteps.tolist()
    torch.manual_seed(0)
    x = torch.randn(1, 1, 2, 3, 3)
    y = x / schedule.length[ours.times[0]]
    context = torch.randn(1, 2, 1, 1)
    for k, time in enumerate(ours.times):
        made = known(x, torch.tensor([time]), context)
        x, _ = ours.step(made, k, x, None)
        y = theirs.step(made, time, y).prev_sample
        length = schedule.length[ours.times[k + 1]] if k + 1 < len(ours) else schedule.length[0]
        torch.testing.assert_close(y * length, x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scheduler", [diffusion.SCALED, "ddpm", "euler-a", "dpmsolver++"])
def test_a_sample_does_not_depend_on_its_batch(scheduler):
    net, schedule = small(fps_mlp=True), diffusion.Noise(diffusion.SCHEDULE)
    settings = diffusion.Settings(4, scheduler, guidance=3.0)
    context, null = inputs()[2], torch.zeros(1, 7, CONTEXT)
    rates = torch.tensor([6.0, 12.0])

    def made(which):
        noise, generators = diffusion.seeded([10 + k for k in which], (4, 3, 6, 8))
        return diffusion.sample(net, noise, context[which], null, schedule, settings, fps=rates[which], generators=generators)

    together = made([0, 1])
    torch.testing.assert_close(together, torch.cat([made([0]), made([1])]), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together[0], together[1])


def test_a_step_is_one_pass_of_null_and_wanted_rows_and_is_announced():
    schedule = diffusion.Noise(diffusion.SCHEDULE)
    noise = torch.randn(2, 1, 3, 4, 4)
    context, null = torch.randn(2, 3, 5, 2), torch.randn(1, 5, 2)
    seen = []

    class Watching(Knowing):
        def __call__(self, x, times, context, fps=None):
            seen.append((x, context, fps))
            return super().__call__(x, times, context, fps)

    for scheduler, passes in ((diffusion.SCALED, 4), ("heun", 7)):
        seen.clear()
        begun = []
        settings = diffusion.Settings(4, scheduler, guidance=2.0, eta=0.0)
        diffusion.sample(Watching(schedule), noise, context, null, schedule, settings, fps=torch.tensor([4, 5]), begin=begun.append)
        assert len(seen) == len(begun) == passes and sorted(set(begun)) == [0, 1, 2, 3] and begun == sorted(begun)
        for x, given, fps in seen:
            assert torch.equal(x[:2], x[2:]) and fps.tolist() == [4, 5, 4, 5]
            assert torch.equal(given[2:], context) and torch.equal(given[:2], null[:, None].expand(2, 3, 5, 2))
    unguided = Knowing(schedule)
    diffusion.sample(unguided, noise, context, None, schedule, diffusion.Settings(2, guidance=1.0, eta=0.0))
    assert unguided.rows == [2, 2]


def test_guidance_goes_beyond_what_is_wanted():
    schedule = diffusion.Noise(diffusion.SCHEDULE)
    context, null = torch.full((1, 1, 1), 0.2), torch.full((1, 1, 1), 0.1)
    made = diffusion.sample(Knowing(schedule), torch.randn(1, 1, 2, 4, 4), context, null, schedule, diffusion.Settings(50, guidance=3.0, eta=0.0))
    assert made.mean().item() == pytest.approx(0.1 + 3 * 0.1, abs=0.02)


def test_steps_are_as_many_as_asked_for_but_for_the_originals():
    schedule = diffusion.Noise(diffusion.SCHEDULE)
    for steps in (1, 7, 30, 50, 600, 999, 1000):
        times = diffusion.ScaledDdim(schedule, steps).times
        assert len(set(times)) == steps and times == sorted(times, reverse=True) and 0 <= times[-1] and times[0] <= 999
    assert diffusion.ScaledDdim(schedule, 50).times == diffusion.ScaledDdim(schedule, 50, legacy=True).times == list(range(981, 0, -20))
    assert len(diffusion.ScaledDdim(schedule, 30, legacy=True)) == 31
    assert schedule.scale[0] == 1 and schedule.scale[399] == schedule.scale[999] == pytest.approx(0.7)


def test_every_solver_takes_few_steps_or_says_how_many():
    context = torch.zeros(1, 3, 2)
    for scheduler in diffusion.SCHEDULERS:
        for steps in (1, 2, 3):
            schedule, settings = diffusion.Noise(diffusion.SCHEDULE), diffusion.Settings(steps, scheduler, guidance=1.0)
            diffusion.check(settings, schedule)
            noise, generators = diffusion.seeded([1], (4, 1, 2, 2))
            assert diffusion.sample(lambda x, *_, **__: 0.1 * x, noise, context, None, schedule, settings, generators=generators).isfinite().all()
    with pytest.raises(UsageError, match="--steps 3: 4 at least"):  # as a folder may have it
        diffusion.check(diffusion.Settings(3, "pndm"), diffusion.Noise({**PLAIN, "skip_prk_steps": False}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "--steps 0: from 1 to 1000"),
        ({"steps": 1001}, "--steps 1001"),
        ({"scheduler": "scaled-ddin"}, "did you mean 'scaled-ddim'"),
        ({"scheduler": "legacy"}, "no scheduler 'legacy'"),
        ({"guidance": float("nan")}, "--guidance nan"),
        ({"eta": 1.5}, "sampling.eta 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        diffusion.check(diffusion.Settings(**options), diffusion.Noise(diffusion.SCHEDULE))


def test_an_unknown_prediction_is_refused():
    with pytest.raises(UsageError, match="no prediction 'flow'"):
        diffusion.Noise({**PLAIN, "prediction_type": "flow"})
