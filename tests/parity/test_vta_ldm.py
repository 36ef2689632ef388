"""VTA-LDM against the numbers of the original implementation: every folder of cases, every stored output."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from common import Case, Seen, check, folders, key_lists  # noqa: E402
from PIL import Image  # noqa: E402

from avtools.models.parts import mel  # noqa: E402
from avtools.models.parts.audioldm import AudioLdmCodec, from_ldm  # noqa: E402
from avtools.models.parts.video_encoders import ClipEncoder  # noqa: E402
from avtools.models.vta_ldm import augment, checkpoint, diffusion, frames, sampling  # noqa: E402
from avtools.models.vta_ldm.config import Config  # noqa: E402
from avtools.models.vta_ldm.model import Denoiser, Inputs, sinusoidal  # noqa: E402

SMALL_UNET = {  # where a case has no UNet, one stands in so that the released file is whole
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [32],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
}


@pytest.mark.parametrize("folder", folders("vta_ldm"))
def test_case(folder, tmp_path):
    check(folder, KINDS, tmp_path)


# --- networks from a case, through the released loader ------------------------------------------------------


def denoiser_of(case: Case, folder, extra: dict | None = None, clip: ClipEncoder | None = None, **fields) -> Denoiser:
    """The denoiser of a case, loaded from a released file that holds the case's weights (and `extra` ones)."""
    unet = case.config.get("unet")
    weights = {name: tensor for name, tensor in case.weights().items() if not name.startswith(checkpoint.VAE)} | (extra or {})
    projection = weights[checkpoint.PROJECTION + "weight"]
    fields = {"unet": unet, "token_dim": projection.shape[0], "feature_dim": projection.shape[1], "time_conditioning": "cross", **fields}
    config = Config(adapters=case.config.get("adapters", False), **fields)
    torch.save(weights, folder / checkpoint.DIFFUSION)
    channels = weights["group_in.0.weight"].shape[1] if config.adapters else config.unet["in_channels"]
    denoiser = Denoiser(config, channels).eval()
    checkpoint.load_denoiser(denoiser, clip, folder)
    return denoiser


def codec_of(case: Case, folder) -> AudioLdmCodec:
    """The codec of a case; weights under first_stage_model.* lie in an AudioLDM checkpoint, others as released.

    Of what a case does not have (VAE or vocoder) the file holds first values.
    """
    ddconfig = case.config.get("ddconfig", {"in_channels": 1, "out_ch": 1, "z_channels": 8, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1})
    scale = case.config.get("scale_factor", 1.0)
    codec = AudioLdmCodec(ddconfig, case.config["vocoder"], scale)
    weights = {name: tensor for name, tensor in case.weights().items() if not name.startswith(("unet.", "vid_fea_extractor."))}
    prefix = checkpoint.VAE if any(name.startswith(checkpoint.VAE) for name in weights) else ""
    parts = {name.removeprefix(prefix).startswith("vocoder.") for name in weights}
    first = {to_ldm(name, ddconfig): tensor for name, tensor in codec.state_dict().items()}
    weights |= {prefix + name: tensor for name, tensor in first.items() if name.startswith("vocoder.") not in parts}
    if prefix:
        torch.save({"epoch": 1, "state_dict": {**weights, "scale_factor": torch.tensor(scale)}}, folder / "audioldm-s-full.ckpt")
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    checkpoint.read_codec(codec, folder)
    return codec.eval()


def to_ldm(name: str, ddconfig: dict) -> str:
    """One of the codec's names -> the released one."""
    last = len(ddconfig["ch_mult"]) - 1
    name = re.sub(r"^vocoder\.upsampler\.", "vocoder.ups.", name).removeprefix("vae.")
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm").replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    name = re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", name)
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def clips(case: Case) -> list[torch.Tensor]:
    return [embeds[:count].clone() for embeds, count in zip(case.inputs["clip_embeds"], case.config["token_counts"], strict=True)]


# --- kinds of cases ------------------------------------------------------------------------------------------


def mel_frontend(case, _):
    def front(stft):
        return mel.LogMel(stft["sample_rate"], stft["n_fft"], stft["hop"], stft["win"], stft["n_mels"], stft["fmin"], stft["fmax"])

    config = case.config
    first, other = front(config["stft"]), front(config["other_stft"])
    case.check("mel_basis", first.matrix)
    case.check("log_mel", first(case.inputs["waveform"], config["target_length"]))
    case.check("short_log_mel", first(case.inputs["short_waveform"], config["short_target_length"]))
    case.check("other_rate_log_mel", other(case.inputs["other_rate_waveform"], config["other_target_length"]))


def audio_prep(case, _):
    rate, source = case.config["sample_rate"], case.config["source_rate"]
    for length in case.config["segment_lengths"]:
        case.check(f"from_video_{length}", mel.prepare_waveform(case.inputs["stereo"], source, rate, length))
        case.check(f"from_file_{length}", mel.prepare_waveform(case.inputs["stereo"], source, rate, length, mix=False))
    native = mel.prepare_waveform(case.inputs["mono_native"], rate, rate, case.config["segment_lengths"][0], mix=False)
    case.check("from_file_native_rate", native)


def mixing(case, _):
    sounds = {name: tensor.numpy() for name, tensor in case.inputs.items()}
    for rate in case.config["a_weight_tables"]:
        case.check(f"a_weight_db.{rate}", augment.a_weighting(rate, augment.analysis_window(rate)))
    for name, (one, other, share, rate) in case.config["mixes"].items():
        one, other = sounds[one], sounds[other]
        case.check(f"gain_db_1.{name}", augment.gain(one, rate))
        case.check(f"gain_db_2.{name}", augment.gain(other, rate))
        case.check(f"mixed.{name}", augment.mixed(one, other, rate, share))
    batch = case.config["batch"]
    samples = batch["target_length"] * 160
    read = [mel.prepare_waveform(case.inputs[name][None], batch["file_rate"], batch["file_rate"], samples, mix=False)[0].numpy() for name in batch["clips"]]
    made, captions = augment.mix_batch(read, batch["captions"], 16000, batch["num_items"])
    case.check("batch.waveform", made)
    assert captions == batch["expected_captions"]


def video_frames(case, _):
    rate, size = case.config["frame_rate"], case.config["size"]
    for row, (fps, count) in enumerate(zip(case.inputs["fps"].tolist(), case.inputs["frame_count"].tolist(), strict=True)):
        wanted = case.outputs["picked_indices"][row]
        if case.outputs["unreadable"][row]:
            with pytest.raises(ValueError, match="frame per second"):
                frames.legacy_picks(fps, count, rate)
            continue
        picks = frames.legacy_picks(fps, count, rate)
        assert len(picks) == case.outputs["picked_count"][row], (fps, count)
        assert picks == [pick for pick in wanted.tolist() if pick >= 0], (fps, count)
    case.open -= {"picked_indices", "picked_count", "unreadable"}

    def pixels(pictures):
        return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2) / 255

    for name in case.config["images"]:
        pictures = case.inputs[name].numpy().round().astype(np.uint8)
        case.check(f"pixels.{name}", pixels(np.stack([frames.fitted(Image.fromarray(one), size) for one in pictures])))
    smaller = int(re.search(r"at size (\d+)", case.facts["call"]["config.videos"])[1])
    for place, (name, path) in enumerate(case.config["videos"].items()):
        video(case, name, case.media(path), rate, size if place == 0 else smaller, pixels)


def video(case, name, path, rate, size, pixels):
    from avtools.media.container import best_video, open_input

    with open_input(path) as container:
        fps, count = frames.told(container, best_video(container))
    case.check(f"video.{name}.fps", torch.tensor([fps]))
    case.check(f"video.{name}.frame_count", torch.tensor([count]))
    found = pixels(frames.read_frames(path, rate, size, legacy=True))
    case.check(f"video.{name}.count", torch.tensor([len(found)]))
    case.check(f"video.{name}.frame_means", found.mean((2, 3)))
    if f"video.{name}.frames" in case.outputs:
        case.check(f"video.{name}.frames", found)


def video_encoder(case, folder):
    clip = ClipEncoder(case.config["clip_vision"], normalise=False).eval()
    unet = {**SMALL_UNET, "cross_attention_dim": case.config["embedding_dim"]}
    width = case.config["clip_vision"]["projection_dim"]
    fresh = Denoiser(Config(unet=unet, feature_dim=width, token_dim=case.config["embedding_dim"], time_conditioning="cross"), 8)
    extra = {f"unet.{name}": tensor for name, tensor in fresh.unet.state_dict().items()}
    denoiser = denoiser_of(case, folder, extra, clip, unet=unet)
    layers = [name for name in case.outputs if name.startswith(("encoder.layers.", "pre_layrnorm"))]
    with torch.no_grad():
        with Seen({name: clip.model.vision_model.get_submodule(name) for name in layers}) as seen:
            (embeds,) = clip([case.inputs["frames"]])
        for name, found in seen.items():
            case.check(name, found[: len(case.outputs[name])])
        case.check("image_embeds", embeds)
        text = case.inputs["text_embeds"][0]
        case.check("tokens_video", denoiser.condition([embeds], [None]).tokens[0])
        case.check("tokens_text", denoiser.condition([None], [text]).tokens[0])
        case.check("tokens_concat", denoiser.condition([embeds], [text]).tokens[0])
        case.check("positions", sinusoidal(*embeds.shape))
        denoiser.config.positions = True
        case.check("tokens_video_positions", denoiser.condition([embeds], [None]).tokens[0])


def vae(case, folder):
    codec = codec_of(case, folder)
    plain = {name.removeprefix(checkpoint.VAE): torch.empty(shape, device="meta") for name, shape in case.keys.items()}
    ours = dict(zip(plain, from_ldm(plain), strict=True))
    maps = [name for name in case.outputs if name.startswith(("encoder.", "decoder.", "post_quant_conv"))]
    with torch.no_grad(), Seen({name: codec.get_submodule(_module(name, ours)) for name in maps}) as seen:
        mean, logvar = codec.moments(case.inputs["log_mel"])
        latent = (mean + torch.exp(0.5 * logvar) * case.inputs["posterior_noise"]) * codec.scale
        decoded = codec.decode_mel(latent)
    case.check("mean", mean)
    case.check("logvar", logvar)
    case.check("kl", 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean((1, 2, 3)))
    case.check("scaled_latent", latent)
    case.check("decoded_log_mel", decoded)
    for name, found in seen.items():
        case.check_map(name, found)


def _module(name: str, ours: dict[str, str]) -> str:
    """Where a module of the reference lies in the codec, by the names of its parameters."""
    if name.endswith(".block.last"):
        level = name.removesuffix("last")
        last = max(int(key[len(level) :].split(".")[0]) for key in ours if key.startswith(level))
        name = f"{level}{last}"
    key = next(key for key in ours if key.startswith(name + "."))
    depth = key[len(name) + 1 :].count(".") + 1
    return ours[key].rsplit(".", depth)[0]


def vocoder(case, folder):
    codec = codec_of(case, folder)
    maps = [name for name in case.outputs if not name.startswith("waveform")]
    with torch.no_grad(), Seen({name: codec.vocoder.get_submodule(name.replace("ups.", "upsampler.")) for name in maps}) as seen:
        waveform = codec.vocode(case.inputs["log_mel"])
    for name, found in seen.items():
        case.check(name, found)
    case.check("waveform", waveform)
    case.check("waveform_int16", (waveform * 32768).trunc().long())


def diffusion_forward(case, folder):
    denoiser = denoiser_of(case, folder)
    forward(case, denoiser)


def forward(case, denoiser):
    given, config = case.inputs, case.config
    alphas = diffusion.alphas_cumprod(config["scheduler"])[given["timesteps"]]
    noisy = diffusion.add_noise(given["latents"], given["noise"], alphas)
    target = diffusion.v_target(given["latents"], given["noise"], alphas)
    features, keep = clips(case), torch.ones(len(noisy), dtype=torch.bool)
    condition = denoiser.condition(features, [None] * len(features))
    case.check("encoder_hidden_states", condition.tokens)
    case.check("encoder_attention_mask", condition.mask.long())
    case.check("noisy_latents", noisy)
    case.check("v_target", target)
    entered = []
    hook = denoiser.unet.register_forward_pre_hook(lambda module, args: entered.append(args[0].detach().clone()))
    maps = [name for name in case.outputs if name.startswith("unet.")]
    with Seen({name: denoiser.get_submodule(name) for name in maps} | {"unet_output": denoiser.unet.conv_out}) as seen:
        v = denoiser(noisy, given["timesteps"], Inputs(features, [None] * len(features), keep), 0.04)
    hook.remove()
    case.check("unet_input", entered[0])
    case.check("unet_output", seen.pop("unet_output"))
    for name, found in seen.items():
        case.check_map(name, found)
    case.check("v_prediction", v)
    mse = (v - target).square().mean((1, 2, 3))
    ratio = diffusion.snr(alphas)
    weight = diffusion.snr_weight(ratio, config["snr_gamma"], legacy=True)
    case.check("per_sample_mse", mse)
    case.check("snr", ratio)
    case.check("min_snr_legacy_weight", weight)
    for name, loss in {"plain": mse.mean(), "min_snr_legacy": (mse * weight).mean()}.items():
        case.check(f"loss_{name}", loss[None])
        parameters = {key: denoiser.get_parameter(key.replace(checkpoint.PROJECTION, "projection.")) for key in config["gradient_of"]}
        for key, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values()), retain_graph=True), strict=True):
            case.check(f"grad_{name}.{key}", gradient)


def diffusion_adapters(case, folder):
    denoiser = denoiser_of(case, folder)
    forward(case, denoiser)
    timesteps, _, steps, final, _ = sampled(case, denoiser)
    case.check("sampling_timesteps", timesteps)
    case.check("sampled_inner_per_step", steps)
    case.check("sampled_latents", final)


def sampled(case, denoiser):
    """(timesteps, guided v of each step, latents after each step, the result, draws of noise for steps) of the legacy sampler."""
    draws = iter([case.inputs["initial_noise"], *case.inputs["step_noise"]])
    used, seen = [], []
    count, _, length, _ = case.inputs["initial_noise"].shape

    def noise():
        used.append(next(draws))
        return torch.cat(list(used[-1]), 1)[None]  # clips one behind the other

    def apart(joint):
        return torch.stack(joint[0].split(length, 1))

    final = sampling.sample_latents(
        denoiser,
        clips(case),
        [None] * count,
        [length] * count,
        noise,
        scheduler="legacy",
        steps=case.config["num_steps"],
        guidance=case.config["guidance"],
        schedule=case.config["scheduler"],
        window=length,
        overlap=0,
        step=0.04,
        frame_rate=1e9,  # all pictures belong to the window
        watch=lambda k, v, latents: seen.append((apart(v), apart(latents))),
    )
    timesteps = sampling.scheduler_for("legacy", case.config["scheduler"], case.config["num_steps"]).timesteps
    v, latents = (torch.stack(list(part)) for part in zip(*seen, strict=True))
    return timesteps, v, latents, torch.stack(final), len(used) - 1


def whole_sampling(case, folder):
    denoiser, codec = denoiser_of(case, folder), codec_of(case, folder)
    condition = sampling.guided(denoiser.condition(clips(case), [None] * len(case.config["token_counts"])))
    case.check("cfg_hidden_states", condition.tokens)
    case.check("cfg_mask", condition.mask.long())
    case.check("alphas_cumprod", diffusion.alphas_cumprod(case.config["scheduler"]))
    for steps in case.config["timestep_tables"]:
        case.check(f"timesteps_{steps}", sampling.scheduler_for("legacy", case.config["scheduler"], steps).timesteps)
    timesteps, v, latents, final, draws = sampled(case, denoiser)
    case.check("timesteps", timesteps)
    case.check("guided_v", v)
    case.check("latents_per_step", latents)
    case.check("final_latents", final)
    case.check("draws_used", torch.tensor([draws]))
    with torch.no_grad():
        case.check("log_mel", codec.decode_mel(final))
        waveform = codec.decode(final)
    case.check("waveform", waveform)
    case.check("waveform_int16", (waveform * 32768).trunc().long())


KINDS = {
    "mel_frontend": mel_frontend,
    "audio_prep": audio_prep,
    "mixing": mixing,
    "video_frames": video_frames,
    "video_encoder": video_encoder,
    "vae": vae,
    "vocoder": vocoder,
    "diffusion_forward": diffusion_forward,
    "diffusion_adapters": diffusion_adapters,
    "sampling": whole_sampling,
}


# --- full size, without memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file", key_lists("vta_ldm"))
def test_full_size_names_load_strictly(file, tmp_path):
    """A file with the released names and shapes, whose tensors all repeat one number, loads into models on the meta device."""
    shapes = json.loads(file.read_text())
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    total = sum(tensor.numel() for tensor in tensors.values())
    if any(name.startswith("unet.") for name in shapes):
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path / checkpoint.DIFFUSION)
        config, tower = checkpoint.config_of(tmp_path), checkpoint.released_clip(tmp_path)
        assert config.unet["cross_attention_dim"] == config.token_dim == shapes[checkpoint.PROJECTION + "weight"][0]
        with torch.device("meta"):
            denoiser, clip = Denoiser(config, config.unet["in_channels"]), ClipEncoder(tower)
        checkpoint.load_denoiser(denoiser, clip, tmp_path)
        assert sum(p.numel() for module in (denoiser, clip) for p in module.parameters()) == total
    elif any(name.startswith("vocoder.") for name in shapes):
        for prefix, name in {"": "pytorch_model.bin", checkpoint.VAE: "audioldm-s-full.ckpt"}.items():
            found = {prefix + key: tensor for key, tensor in tensors.items()}
            torch.save({"state_dict": found} if prefix else found, tmp_path / name)
            with torch.device("meta"):
                codec = AudioLdmCodec()
            checkpoint.read_codec(codec, tmp_path / name)
            assert sum(p.numel() for p in codec.parameters()) == total
    else:  # what is computed, not loaded
        front = mel.LogMel()
        assert list(front.matrix.shape) == shapes["mel_basis"]
        assert shapes["stft_fn.forward_basis"] == [front.n_fft + 2, 1, front.length]
