"""MAESTRO's video base against the numbers of the original: UNet, autoencoder, sampler, names of the whole checkpoint."""

import json
import math

import torch
from common import Seen

from avtools.models.maestro import checkpoint, codec, diffusion
from avtools.models.maestro.mosaic import PHASES, Mosaic
from avtools.models.maestro.unet import UNET


def parts(case, tmp_path) -> checkpoint.Released:
    """Through a file as the authors publish it, which has all parts; those that the case lacks hold one number."""
    tensors = case.weights()
    prefixes = (checkpoint.DIFFUSION, checkpoint.CODEC, checkpoint.TEXT)
    beside = {f"{prefix}x": torch.zeros(()) for prefix in prefixes if not any(name.startswith(prefix) for name in tensors)}
    torch.save({"state_dict": {**tensors, **beside}}, tmp_path / "model.ckpt")
    return checkpoint.read(tmp_path / "model.ckpt")


def blocks(unet, config: dict) -> dict:
    """The original's numbers of blocks -> the modules whose outputs they are."""
    last = len(config["channel_mult"]) - 1
    found = {"input_blocks.0": unet.conv_in, "middle_block": unet.mid_block.temp_convs[-1], "init_attn": unet.transformer_in}
    numbers = {"input": 1, "output": 0}
    for side, levels in (("input", unet.down_blocks), ("output", unet.up_blocks)):
        for level, block in enumerate(levels):
            for layer in range(len(block.resnets)):
                ends = block.temp_attentions if hasattr(block, "temp_attentions") else block.temp_convs
                # an upsampler is part of the last block of its level, a downsampler a block of its own
                up = side == "output" and level < last and layer == len(block.resnets) - 1
                found[f"{side}_blocks.{numbers[side]}"] = block.upsamplers[0] if up else ends[layer]
                numbers[side] += 1
            if side == "input" and level < last:
                found[f"input_blocks.{numbers[side]}"] = block.downsamplers[0]
                numbers[side] += 1
    return found


@torch.no_grad()
def vc2_unet(case, tmp_path):
    config, given = case.config, case.inputs
    unet = checkpoint.released_unet(parts(case, tmp_path))
    told = unet.config
    assert list(told.block_out_channels) == [config["model_channels"] * times for times in config["channel_mult"]]
    for ours, theirs in (("layers_per_block", "num_res_blocks"), ("attention_head_dim", "num_head_channels"), ("cross_attention_dim", "context_dim")):
        assert told[ours] == config[theirs], ours
    attended = [2**level in config["attention_resolutions"] for level in range(len(config["channel_mult"]))]
    assert [kind.startswith("CrossAttn") for kind in told.down_block_types] == attended
    x, times = given["x"], given["t"]
    context = given["context"].unflatten(0, (len(x), x.shape[2]))
    case.check("time_sinusoid", unet.time_proj(times))
    taps = {"time_mlp": unet.time_embedding, "fps_mlp": unet.fps_embedding, **blocks(unet, config)}
    taps = {name: module for name, module in taps.items() if name in case.outputs}
    with Seen(taps) as seen:
        case.check("eps", unet(x, times, context, fps=config["fps"]))
        for name in taps:
            case.check(name, seen[name])
    case.check("eps_fps_other", unet(x, times, context, fps=torch.full((len(x),), config["fps_other"])))


@torch.no_grad()
def vc2_vae(case, tmp_path):
    given = case.inputs
    vae = checkpoint.released_codec(parts(case, tmp_path))
    assert vae.settings["block_out_channels"] == [case.config["ch"] * times for times in case.config["ch_mult"]]
    assert vae.settings["layers_per_block"] == case.config["num_res_blocks"] and vae.scale == case.config["scale_factor"]
    frames = given["frames"][None] / 2 + 0.5
    with Seen({"encoder_out": vae.model.encoder, "moments": vae.model.quant_conv}) as seen:
        made = codec.encode(vae, frames, given["noise"].transpose(0, 1)[None])
        case.check("encoder_out", seen["encoder_out"])
        mean, logvar = seen["moments"].chunk(2, 1)
    case.check("posterior_mean", mean)
    case.check("posterior_logvar", logvar.clamp(-30, 20))
    torch.testing.assert_close(codec.encode(vae, frames)[0].transpose(0, 1), mean * vae.scale)
    case.check("latent_sample_scaled", made[0].transpose(0, 1))
    taps = {"decoder_conv_in": vae.model.decoder.conv_in, "decoder_mid_attention": vae.model.decoder.mid_block.attentions[0]}
    with Seen({**taps, "raw": vae.model.decoder}) as seen:
        pictures = codec.decode(vae, given["latents"])
        for name in taps:
            case.check(name, seen[name][-1:])
        raw = seen["raw"].unflatten(0, pictures.shape[:2])
    case.check("video", raw.transpose(1, 2))
    torch.testing.assert_close(pictures, (raw / 2 + 0.5).clamp(0, 1))


class Toy:
    """The case's predictor, told by the two numbers in its context; notes in which phase of the mosaic its rows are."""

    def __init__(self, mosaic: Mosaic):
        self.mosaic, self.calls = mosaic, []

    def __call__(self, x, times, context, fps=None):
        assert len(x) == 2  # null and wanted; the mosaic is on the second alone
        self.calls.append([PHASES.index(self.mosaic.phase), 0])
        a, b = (context[:, 0, 0, k].view(-1, 1, 1, 1, 1) for k in (0, 1))
        return torch.tanh(a * x) + b * torch.cos(times.double() / 100).float().view(-1, 1, 1, 1, 1)


def ddim_scale(case, _):
    config, given = case.config, case.inputs
    noise = diffusion.Noise(diffusion.SCHEDULE)
    case.check("alphas_cumprod", noise.alphas)
    case.check("betas", 1 - noise.alphas.double() / torch.cat([torch.ones(1), noise.alphas[:-1]]).double())
    case.check("scale_by_timestep", noise.scale)
    case.check("q_sample", noise.add(given["q_x0"], given["q_noise"], given["q_t"]))
    for steps in config["timestep_tables"]:
        case.check(f"timesteps_for_{steps}", torch.tensor(diffusion.ScaledDdim(noise, steps, legacy=True).times[::-1]))
    solver = diffusion.ScaledDdim(noise, config["steps"], config["etas"][0], legacy=True)
    case.check("timesteps", torch.tensor(solver.times))
    for name, values in solver.table.items():
        case.check(name, values)
    context, null = (torch.tensor(config[f"toy_{name}"]).view(1, 1, 1, 2) for name in ("cond", "uncond"))
    for eta in config["etas"]:
        settings = diffusion.Settings(config["steps"], guidance=config["guidance"], eta=eta, legacy_times=True)
        seen, mosaic = [], Mosaic((), torch.zeros(0, 1, 1), 1, (1, 1), soft_steps=config["soft_steps"])
        toy = Toy(mosaic)
        made = diffusion.sample(
            toy, given["x_T"], context, null, noise, settings,
            begin=mosaic.at, fresh=lambda step: given["noise"][step][None], watch=lambda step, x, clean: seen.append((x, clean)),
        )  # fmt: skip
        assert torch.equal(made, seen[-1][0])
        states = torch.cat([x for x, _ in seen])
        name = f"eta{eta:g}"
        case.check(f"{name}_x", states)
        if f"{name}_pred_x0" in case.outputs:
            clean = torch.cat([clean for _, clean in seen])
            case.check(f"{name}_pred_x0", clean[:, : case.outputs[f"{name}_pred_x0"].shape[1]])
        case.check("calls_per_step", torch.tensor(toy.calls))


def video_keys(file):
    """The names and shapes of the whole release load strictly into the full-size networks."""
    shapes = json.loads(file.read_text(encoding="utf-8"))
    assert shapes["scale_arr"] == [1400]
    whole = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    released = checkpoint.parts(whole, file)
    unet, vae = checkpoint.released_unet(released), checkpoint.released_codec(released)
    assert {name: unet.config[name] for name in UNET} == UNET and vae.settings == codec.VAE
    counted = [sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix)) for prefix in (checkpoint.DIFFUSION, checkpoint.CODEC)]
    assert [sum(tensor.numel() for tensor in net.state_dict().values()) for net in (unet, vae.model)] == counted
    assert counted[0] == 1_413_284_420
    for name in (f"{checkpoint.DIFFUSION}input_blocks.1.0.temopral_conv.conv1.0.weight", f"{checkpoint.CODEC}quant_conv.bias"):
        less = {key: tensor for key, tensor in whole.items() if key != name}
        for broken in (less, {**less, f"{name}s": whole[name]}):
            try:
                found = checkpoint.parts(broken, file)
                checkpoint.released_unet(found), checkpoint.released_codec(found)
            except checkpoint.FatalError:
                continue
            raise AssertionError(f"{name} is not missed")


KINDS = {"vc2_unet": vc2_unet, "vc2_vae": vc2_vae, "ddim_scale": ddim_scale}
KEY_LISTS = {"full_keys": video_keys}
