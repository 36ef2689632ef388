"""MAESTRO's way from sound and text to context against the original's numbers (collected by test_maestro)."""

import hashlib
import json

import pytest
import torch
from common import Seen

from avtools.models.maestro import context, hearing, losses, resampler, text
from avtools.models.parts import imagebind
from avtools.models.parts.imagebind import checkpoint

SPACINGS = {"div_K": "pinned", "div_Km1": "spread"}


def cim_resampler(case, tmp_path):
    """Through the loader that users get, from a trainer's folder whose names still have the wrapper's prefix."""
    torch.save({resampler.WRAPPER + name: tensor for name, tensor in case.weights().items()}, tmp_path / resampler.FILE)
    net = resampler.load_resampler(tmp_path, case.config["dim_head"])
    config = case.config
    assert net.size == resampler.Size(*(config[name] for name in ("dim", "depth", "heads", "dim_head", "num_queries", "embedding_dim", "output_dim", "ff_mult")))
    parts = {"attention": 0, "feedforward": 1}
    modules = {f"layer{k}_{name}": layer[at] for k, layer in enumerate(net.layers) for name, at in parts.items()}
    with torch.no_grad(), Seen(modules | {"proj_in": net.proj_in, "proj_out": net.proj_out}) as seen:
        tokens = net(case.inputs["audio_tokens"])
    case.check("proj_in_first3", seen.pop("proj_in")[:, :3])
    for name, found in seen.items():
        case.check(name, found)
    case.check("tokens", tokens)


def frame_context(case, _):
    config, prompt = case.config, case.inputs["empty_prompt"]
    tokens = [case.inputs[f"tokens_{k}"] for k in range(config["sources"])]
    assert [len(one) for one in tokens] == [hearing.clip_count(seconds) for seconds in config["durations"]]
    clips = [context.frame_clips(config["frames"], len(one), timing="legacy") for one in tokens]
    base, whole = context.contexts(prompt, tokens, clips)
    case.check("base_context", base)
    case.check("context", whole)
    assert tokens[0].shape[1] == config["num_queries"]


def imagebind_audio_trunk(case, tmp_path):
    config = case.config
    torch.save(case.weights(), tmp_path / "imagebind_huge.pth")
    net = hearing.load_hearing(tmp_path, imagebind.Size(config["dim"], config["blocks"], config["heads"], config["out_embed_dim"]))
    mel, tower = case.inputs["mel"], net.tower
    with torch.no_grad(), Seen(dict(enumerate(tower.trunk.blocks))) as blocks:
        tokens = net(mel.flatten(0, 1))
        case.check("embedded_first8", tower.tokens(mel.flatten(0, 1))[:, :8])
        case.check("clip_embedding", tower.postprocessor(tower.head(tokens)).unflatten(0, mel.shape[:2]))
    for k, found in blocks.items():
        case.check(f"block{k}_tokens_0_1_100_228", found[:, [0, 1, 100, 228]])
    case.check("trunk_tokens", tokens.unflatten(0, mel.shape[:2]))


def imagebind_mel(case, _):
    """`*_mel`, which the released weights were trained with, is our legacy form; `*_mel_copied` is what we hear elsewhere, but for
    the first channel and the first 10 s, after which it is cut here too."""
    from avtools.media.soundfiles import read_sound
    from avtools.models.parts import kaldi, sync_clips

    config, path = case.config, case.media(case.config["wav"])
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == config["sha256"]
    samples, rate = read_sound(path, 0, hearing.LEGACY_SECONDS)
    wave = torch.from_numpy(sync_clips.resampled(samples, rate))
    case.check("resampled_16k_first4096", wave[0, :4096])
    case.check("resampled_length", torch.tensor([wave.shape[1]]))
    for variant, spacing in SPACINGS.items():
        clips, starts = hearing.heard_legacy(path, config["clips"], spacing)
        begins = [hearing.first_sample(start) for start in starts]
        case.check(f"{variant}_start_samples", torch.tensor(begins))
        case.check(f"{variant}_end_samples", torch.tensor(begins) + clips.shape[1])
        if kept := config["keep"].get(variant):
            case.check(f"{variant}_mel", torch.from_numpy(hearing.spectrograms(clips))[kept])
        if kept := config["keep_copied"].get(variant):
            pieces = torch.stack([wave[:, begins[k] : begins[k] + clips.shape[1]] for k in kept])
            case.check(f"{variant}_mel_copied", kaldi.mel(pieces))


def openclip_text(case, tmp_path):
    torch.save({"state_dict": case.weights()}, tmp_path / "model.ckpt")
    tower = text.load_text(tmp_path / "model.ckpt", heads=case.config["heads"])
    for layer in text.LAYERS:
        case.check(layer, tower(case.inputs["token_ids"], layer))
    sizes = {"hidden_size": "width", "num_hidden_layers": "layers", "vocab_size": "vocab"}
    assert all(tower.settings[ours] == case.config[name] for ours, name in sizes.items())


def training_loss(case, _):
    import diffusers

    given, config = case.inputs, case.config
    net = resampler.load_resampler(case.weights(), config["dim_head"])
    tokens = losses.interpolate(given["trunk_tokens"])
    frames, count = len(tokens), given["frames"].shape[1]
    assert count == 2 * len(given["trunk_tokens"]) and frames == count - 1
    case.check("interpolated_tokens", tokens)
    noises = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction")
    latents = given["vae_sample"][:frames] * 0.18215
    noisy = noises.add_noise(latents, given["noise"], given["timesteps"])
    target = noises.get_velocity(latents, given["noise"], given["timesteps"])
    heard = context.with_tokens(given["empty_prompt"][0], net(tokens))
    case.check("context", heard[:, : config["num_queries"] + 2])
    case.check("noisy_latents", noisy)
    case.check("target_v", target)
    # the case's stand-in for the network
    prediction = 0.6 * noisy + 0.3 * heard.mean((1, 2)).tanh()[:, None, None, None] + given["timesteps"][:, None, None, None] / 2000
    case.check("model_pred", prediction)
    found = losses.losses(prediction, target, heard, given["label_text"][0], config["denoising_weight"], config["text_weight"])
    for name, value in zip(("loss", "denoising_loss", "text_loss"), found, strict=True):
        case.check(name, value[None])


KINDS = {
    "cim_resampler": cim_resampler,
    "frame_context": frame_context,
    "imagebind_audio_trunk": imagebind_audio_trunk,
    "imagebind_mel": imagebind_mel,
    "openclip_text": openclip_text,
    "training_loss": training_loss,
}


def _meta(file) -> dict:
    return {name: torch.empty(shape, device="meta") for name, shape in json.loads(file.read_text(encoding="utf-8")).items()}


def cim_keys(file):
    net = resampler.load_resampler(_meta(file))
    assert net.size == resampler.Size() and sum(p.numel() for p in net.parameters()) == 71_092_224


def imagebind_keys(file):
    """The released file's audio entries load strictly into the full-size tower, and are all that it has."""
    whole = _meta(file)
    with torch.device("meta"):
        tower = imagebind.Audio(imagebind.HUGE["audio"])
    checkpoint.hub.load_strict(tower, checkpoint._of(whole, "audio", file), file)
    assert {checkpoint.released(name, "audio") for name in tower.state_dict()} == set(whole)


def text_keys(file):
    """The text tower within VideoCrafter2's checkpoint."""
    whole = _meta(file)
    tower = text.load_text(whole)
    assert tower.settings == text.CONFIG
    theirs = sum(tensor.numel() for name, tensor in whole.items() if name.startswith(text.PREFIX) and not name.endswith(("text_projection", "logit_scale")))
    assert sum(p.numel() for p in tower.parameters()) == theirs


KEY_LISTS = {"full_keys": text_keys, "full_keys_cim": cim_keys, "full_keys_imagebind_audio": imagebind_keys}
