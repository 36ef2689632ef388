"""Weights in and out: our own checkpoints, and the released layouts (spec section 2), both strict.

Released: a folder with pytorch_model_2.bin (UNet, projection, CLIP's picture tower), pytorch_model.bin (VAE and
vocoder) or, in its place, audioldm-s-full.ckpt, and summary.jsonl, whose first line holds the training's arguments;
or one loose file of the diffusion model.  pytorch_model_1.bin (the mel matrix) is computed, not read.
Ours: config.json, model.safetensors, maybe ema.safetensors; with codec.safetensors and clip.safetensors
beside them (:func:`convert`) nothing else is needed.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re

import torch

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.models.vta_ldm.config import PRESETS, UNETS, Config
from avtools.training import config as settings

DIFFUSION, CODEC_FILES = "pytorch_model_2.bin", ("codec.safetensors", "pytorch_model.bin", "audioldm-s-full.ckpt")
SUMMARY = "summary.jsonl"
CLIP = "vid_fea_extractor.clip_vision."
PROJECTION = "vid_fea_extractor.linear_layer."
VAE = "first_stage_model."
STRAY = (r"position_ids$",)

#: The original's configuration files -> ours.
UNET_FILES = {
    "diffusion_model_config": "base",
    "diffusion_model_config_large": "large",
    "diffusion_model_config_large_2048": "large-2048",
    "diffusion_model_config_pretrain": "pretrain",
    "stable_diffusion_2.1": "stable-diffusion-2.1",
}
SAME = ("in_channels", "out_channels", "block_out_channels", "cross_attention_dim", "layers_per_block", "down_block_types", "use_linear_projection")


# --- what it is --------------------------------------------------------------------------------------------


def is_released(path) -> bool:
    """Whether a folder or file has the original's layout rather than ours."""
    path = pathlib.Path(path)
    if path.is_dir():
        return (path / DIFFUSION).is_file() and not (path / "config.json").is_file()
    return any(_without_module(name).startswith("vid_fea_extractor.") for name in hub.tensors(path))


def _without_module(name: str) -> str:
    return name.removeprefix("module.")


def _own_folder(path: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint folder of ours that `path` means: a folder, a RUN, or a file in one; None: no such thing."""
    if path.is_file():
        folder = path.parent
        return folder if path.name in hub.OWN_FILES and (folder / "config.json").is_file() else None
    return None if is_released(path) else hub.checkpoint_of(path)


def config_of(path, preset: str | None = None, sets=()) -> Config:
    """The configuration of a checkpoint, with settings; no tensor is read.

    Ours brings its own; a released one is known by its arguments and shapes, unless a `preset` is given.
    """
    path = pathlib.Path(path)
    own = _own_folder(path)
    if own is not None:
        config = settings.of_checkpoint(own, "vta-ldm", Config(), preset)
    elif preset is not None:
        config = settings.resolve(Config, PRESETS, preset)
    elif is_released(path):
        config = settings.resolve(Config, PRESETS, "released")
        settings.merge(config, released_config(path), str(path))
    else:
        raise FatalError(f"{path}: tells no configuration; give the folder of the checkpoint, or --preset")
    settings.set_all(config, sets)
    return config


def released_config(path) -> dict:
    """What a released checkpoint's shapes and arguments say about the configuration, as nested overrides."""
    file = _diffusion_file(pathlib.Path(path))
    shapes = {_without_module(name): tuple(tensor.shape) for name, tensor in hub.tensors(file).items()}
    told = _arguments(file.parent)
    if "unet.conv_in.weight" not in shapes or PROJECTION + "weight" not in shapes:
        raise FatalError(f"{file}: not VTA-LDM's diffusion model (no unet.conv_in or {PROJECTION}weight); give {DIFFUSION} of the release")
    found = unet_fields(shapes)
    same = [name for name, unet in UNETS.items() if all(unet[field] == found[field] for field in SAME)]
    known = UNET_FILES.get(pathlib.PurePath(str(told.get("unet_model_config", ""))).name.removesuffix(".json"))
    if not same:
        seen = ", ".join(f"{field} {found[field]}" for field in SAME[:4])
        raise FatalError(f"{file}: its UNet ({seen}) is none of the published ones; name its configuration with --preset and --set unet.FIELD=...")
    if known is not None and known not in same:
        raise FatalError(f"{file}: its UNet is '{same[0]}', but {SUMMARY} beside it says '{known}'; are the files of one checkpoint?")
    token_dim, feature_dim = shapes[PROJECTION + "weight"]
    made = {
        "unet": UNETS[known or same[0]],
        "token_dim": token_dim,
        "feature_dim": feature_dim,
        "adapters": "group_in.0.weight" in shapes,
    }
    if told.get("embedding_dim") not in (None, token_dim):
        said = told["embedding_dim"]
        raise FatalError(f"{file}: its tokens are {token_dim} wide, but {SUMMARY} beside it says {said}; are the files of one checkpoint?")
    if "snr_gamma" in told and isinstance(told["snr_gamma"], int | float | None):
        made["snr_gamma"] = told["snr_gamma"]
    if isinstance(told.get("fea_encoder_name"), str) and "clip" in told["fea_encoder_name"]:
        name = told["fea_encoder_name"]
        made["encoder_model"] = name if "/" in name else f"openai/{name}"
    if isinstance(told.get("pe"), bool):
        made["positions"] = told["pe"]
    return made


def unet_fields(shapes: dict[str, tuple[int, ...]]) -> dict:
    """The fields :data:`SAME` of a UNet2DConditionModel as its shapes tell (`unet.*`); numbers of heads leave no trace."""
    blocks = sorted({int(match[1]) for match in (re.match(r"unet\.down_blocks\.(\d+)\.", name) for name in shapes) if match})
    crossed = [f"unet.down_blocks.{k}.attentions.0.transformer_blocks.0.attn2.to_k.weight" for k in blocks]
    where = next((name for name in crossed if name in shapes), None)
    layers = {match[1] for match in (re.match(r"unet\.down_blocks\.0\.resnets\.(\d+)\.", name) for name in shapes) if match}
    linear = next((len(shape) == 2 for name, shape in shapes.items() if re.search(r"down_blocks\.\d+\.attentions\.0\.proj_in\.weight", name)), None)
    return {
        "in_channels": shapes["unet.conv_in.weight"][1],
        "out_channels": shapes.get("unet.conv_out.weight", (None,))[0],
        "block_out_channels": [shapes.get(f"unet.down_blocks.{k}.resnets.0.conv1.weight", (None,))[0] for k in blocks],
        "cross_attention_dim": shapes[where][1] if where else None,
        "layers_per_block": len(layers),
        "down_block_types": ["CrossAttnDownBlock2D" if name in shapes else "DownBlock2D" for name in crossed],
        "use_linear_projection": linear,
    }


def _arguments(folder: pathlib.Path) -> dict:
    """The first line of summary.jsonl; empty where there is none."""
    file = folder / SUMMARY
    if not file.is_file():
        return {}
    try:
        with open(file, encoding="utf-8") as stream:
            found = json.loads(stream.readline(1 << 20))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise FatalError(f"{file}: its first line is not the training's arguments as JSON; get it anew, or delete it")
    return found


def _diffusion_file(path: pathlib.Path) -> pathlib.Path:
    if not path.is_dir():
        return path
    if not (path / DIFFUSION).is_file():
        raise FatalError(f"{path}: has no {DIFFUSION}; give the folder of a released checkpoint, or the file itself")
    return path / DIFFUSION


# --- loading one thing ---------------------------------------------------------------------------------------


def load_denoiser(denoiser, clip, path) -> None:
    """Load a released diffusion model, and CLIP's picture tower into `clip` (a ClipEncoder), if one is given.

    All of `unet.*`, the projection and, where the denoiser has them, the adapters must be there, and nothing else but
    CLIP; without a `clip` its tensors are passed over.
    """
    file = _diffusion_file(pathlib.Path(path))
    tower, rest = {}, {}
    for name, tensor in hub.tensors(file).items():
        name = _without_module(name)
        if name.startswith(CLIP):
            tower[name.removeprefix(CLIP)] = tensor
        else:
            rest[re.sub("^" + re.escape(PROJECTION), "projection.", name)] = tensor
    hub.load_strict(denoiser, rest, file, ignore=STRAY)
    if clip is not None:
        hub.load_strict(clip.model, tower, file, ignore=STRAY)


def released_clip(path) -> dict | None:
    """The configuration of CLIP's picture tower that a released diffusion model holds; None where it holds none."""
    names = ((_without_module(name), tensor) for name, tensor in hub.tensors(_diffusion_file(pathlib.Path(path))).items())
    shapes = {name.removeprefix(CLIP): tuple(tensor.shape) for name, tensor in names if name.startswith(CLIP)}
    return _clip_config(shapes, path) if shapes else None


def _clip_config(shapes: dict, path) -> dict:
    from avtools.models.parts.video_encoders import clip_config

    try:
        return clip_config(shapes)
    except (KeyError, ValueError, ZeroDivisionError):
        raise FatalError(f"{path}: its CLIP picture tower lacks parts; give --weights clip=...") from None


def read_codec(codec, path) -> None:
    """Load VAE and vocoder from a file, or the first of :data:`CODEC_FILES` in a folder.

    Known by their names: ours, the released plain ones, and those of the AudioLDM checkpoint, whose scale factor
    must be the codec's.
    """
    from avtools.models.parts.audioldm import from_ldm

    path = pathlib.Path(path)
    if path.is_dir():
        path = next((path / name for name in CODEC_FILES if (path / name).is_file()), path)
        if path.is_dir():
            raise FatalError(f"{path}: has none of {', '.join(CODEC_FILES)} (VAE and vocoder); give --weights codec=FILE|DIR")
    found, scale = _codec_tensors(path)
    if scale is not None and abs(scale - codec.scale) > 1e-6:
        raise FatalError(f"{path}: its scale factor is {scale:.7g}, not {codec.scale:.7g}; give audioldm-s-full, not another AudioLDM")
    own = any(name.startswith("vae.") for name in found)
    hub.load_strict(codec, found if own else from_ldm(found), path, ignore=STRAY)


def _codec_tensors(path: pathlib.Path) -> tuple[dict, float | None]:
    """(tensors without a prefix, the scale factor where the file has one)."""
    try:
        found = hub.tensors(path)
    except FatalError as error:
        try:
            found = hub.tensors(path, inner="state_dict")
        except FatalError:
            raise error from None
    scale = found.pop("scale_factor", None)
    if any(name.startswith(VAE) for name in found):  # Lightning: the codec among other networks; its loss is of no use
        found = {name.removeprefix(VAE): tensor for name, tensor in found.items() if name.startswith(VAE) and not name.startswith(VAE + "loss.")}
    return found, None if scale is None else float(scale)


def _own_tensors(folder: pathlib.Path) -> tuple[dict, pathlib.Path]:
    """The model's tensors of one of our checkpoints, the moving average where there is one."""
    file = hub.own_weights(folder)
    return hub.tensors(file), file


# --- loading what a run needs ----------------------------------------------------------------------------------


def load_for_sampling(system, path, weights: hub.Weights, main: hub.Part, codec: hub.Part, encoders: dict[str, hub.Part]):
    """Load `system`'s denoiser, codec and text encoder from the checkpoint `path` and the other `weights`; give its
    picture encoder."""
    config, path = system.config, pathlib.Path(path)
    own = _own_folder(path)
    released = own is None and is_released(path)
    encoder = _encoder_beside(config, own or path, released) if weights.get("clip") is None else None
    if released:
        load_denoiser(system.denoiser, encoder, path)
    elif own is not None:
        hub.load_strict(system.denoiser, *_own_tensors(own))
    else:
        hub.load_strict(system.denoiser, hub.tensors(path), path)
    if config.codec == "audioldm":
        folder = own or (path if path.is_dir() else path.parent)
        if weights.get("codec") is None and any((folder / name).is_file() for name in CODEC_FILES):
            read_codec(system.codec, folder)
        else:
            load_codec(system.codec, weights, main, codec)
    if config.condition != "video":
        system.text_encoder = text_encoder(config, weights, encoders["clip"])
    if config.condition == "text":
        return None
    if config.encoder == "pixels":
        from avtools.models.parts.tiny.pixels import Pixels

        return Pixels(config.frame_size)
    return _fitting(encoder, config) if encoder is not None else picture_encoder(config, weights, encoders)


def _encoder_beside(config, path: pathlib.Path, released: bool):
    """CLIP's picture tower that comes with a checkpoint: still empty from a released one, loaded from ours; else None."""
    from avtools.models.parts.video_encoders import ClipEncoder

    if config.encoder != "clip" or config.condition == "text":
        return None
    if released:
        tower = released_clip(path)
        return ClipEncoder(tower, config.clip_normalise) if tower else None
    file = path / "clip.safetensors"
    if not file.is_file():
        return None
    tensors = hub.tensors(file)
    told = hub.values(file).get("config")
    tower = json.loads(told) if told else _clip_config({name: tuple(tensor.shape) for name, tensor in tensors.items()}, file)
    encoder = ClipEncoder(tower, config.clip_normalise)
    hub.load_strict(encoder.model, tensors, file, ignore=STRAY)
    return encoder


def load_codec(codec, weights: hub.Weights, main: hub.Part, part: hub.Part) -> None:
    """Load VAE and vocoder: the part "codec", or what the main weights hold, or what was fetched."""
    source = weights.get("codec")
    if source is None and weights.get("") is not None:
        path = hub.locate(weights.get(""), main, "vta-ldm")
        if path.is_dir() and any((path / name).is_file() for name in CODEC_FILES):
            return read_codec(codec, path)
    return read_codec(codec, hub.locate(source, part, "vta-ldm"))


def picture_encoder(config, weights: hub.Weights, encoders: dict[str, hub.Part]):
    """The frozen picture encoder: the part of its name, or CLIP of the main weights, or what was fetched of either."""
    from avtools.models.parts import cavp, video_encoders
    from avtools.models.vta_ldm.system import MAIN

    part, source = named(encoders[config.encoder], config.encoder_model), weights.get(config.encoder)
    if config.encoder != "clip":
        made = {
            "vivit": video_encoders.vivit_from,
            "imagebind": video_encoders.imagebind_from,
            "languagebind": video_encoders.language_bind_from,
            "cavp": cavp.cavp_from,
        }
        return _fitting(made[config.encoder](hub.locate(source, part, "vta-ldm")), config)
    if source is None and weights.get("") is not None:
        found = _clip_of(config, hub.locate(weights.get(""), MAIN, "vta-ldm"))
        if found is not None:
            return _fitting(found, config)
    try:
        path = hub.locate(source, part, "vta-ldm")
    except FatalError:
        if source is not None or part is not encoders["clip"]:
            raise
        found = None
        with contextlib.suppress(FatalError):  # the same tower may be there with the main weights
            found = _clip_of(config, hub.locate(None, MAIN, "vta-ldm"))
        if found is None:
            raise
        return _fitting(found, config)
    return _fitting(video_encoders.clip_from(path, config.clip_normalise), config)


def _fitting(encoder, config):
    """The encoder, if its pictures have the configured size."""
    if encoder.size != config.frame_size:
        raise UsageError(f"frame_size {config.frame_size}: the encoder {config.encoder} sees pictures of {encoder.size}; --set frame_size={encoder.size}")
    return encoder


def _clip_of(config, path: pathlib.Path):
    """CLIP's picture tower that comes with a checkpoint, loaded; None: it has none."""
    released = is_released(path)
    found = _encoder_beside(config, path, released)
    if found is not None and released:
        load_clip(found, path)
    return found


def load_clip(encoder, path) -> None:
    """Load CLIP's picture tower alone from a released diffusion model."""
    file = _diffusion_file(pathlib.Path(path))
    tensors = ((_without_module(name), tensor) for name, tensor in hub.tensors(file).items())
    hub.load_strict(encoder.model, {name.removeprefix(CLIP): tensor for name, tensor in tensors if name.startswith(CLIP)}, file, ignore=STRAY)


def text_encoder(config, weights: hub.Weights, clip: hub.Part):
    from avtools.models.parts import video_encoders

    return video_encoders.text_from(hub.locate(weights.get("clip"), named(clip, config.text_model), "vta-ldm"))


def named(part: hub.Part, model: str) -> hub.Part:
    """The part, or another model of its kind that the configuration names."""
    source = f"hf:{model}"
    return part if not model or source == part.source else dataclasses.replace(part, source=source, what=model)


def init_denoiser(denoiser, source: str) -> None:
    """Start a training from weights: one of our checkpoints or RUNs, a released one, or a UNet of diffusers.

    What only the new configuration has (aligned conditioning; with a bare UNet also projection and adapters) keeps
    its initial values, and the first layer's new input channels become zeros, so that the start does what the
    weights did.  All else is strict.
    """
    from avtools.models.vta_ldm.system import MAIN

    other = source.startswith("hf:") and source.partition("@")[0] != MAIN.source  # maybe a UNet in diffusers' layout
    part = dataclasses.replace(MAIN, files=(*MAIN.files, "unet/diffusion_pytorch_model.safetensors")) if other else MAIN
    tensors, where, new = _initial(hub.locate(source, part, "vta-ldm"))
    if denoiser.aligned and "alignment.0.weight" not in tensors:
        new = (*new, r"^alignment\.")
        first, wanted = tensors.get("unet.conv_in.weight"), denoiser.unet.conv_in.weight
        if first is not None and first.shape[1] == denoiser.inner_channels:
            more = first.new_zeros(len(first), wanted.shape[1] - first.shape[1], *first.shape[2:])
            tensors["unet.conv_in.weight"] = torch.cat([first, more], 1)
    if new:
        kept = denoiser.state_dict()
        tensors = {**{name: tensor for name, tensor in kept.items() if any(re.search(pattern, name) for pattern in new)}, **tensors}
    hub.load_strict(denoiser, tensors, where, ignore=STRAY)


def _initial(path: pathlib.Path) -> tuple[dict, pathlib.Path, tuple[str, ...]]:
    """(tensors under our names, their file, patterns of what they cannot hold)."""
    bare = (r"^projection\.", r"^group_in\.", r"^group_out\.")
    if path.is_dir():
        for file in (path / "unet" / "diffusion_pytorch_model.safetensors", path / "diffusion_pytorch_model.safetensors"):
            if file.is_file():
                return {f"unet.{name}": tensor for name, tensor in hub.tensors(file).items()}, file, bare
    if is_released(path):
        file = _diffusion_file(path)
        found = {_without_module(name): tensor for name, tensor in hub.tensors(file).items()}
        return {re.sub("^" + re.escape(PROJECTION), "projection.", name): t for name, t in found.items() if not name.startswith(CLIP)}, file, ()
    own = _own_folder(path)
    if own is not None:
        return *_own_tensors(own), ()
    found = hub.tensors(path)
    if "conv_in.weight" in found:
        return {f"unet.{name}": tensor for name, tensor in found.items()}, path, bare
    return found, path, ()


# --- identity and writing ----------------------------------------------------------------------------------------


def digest_of(path) -> str:
    """What identifies the weights that :func:`load_for_sampling` reads below `path`."""
    path = pathlib.Path(path)
    own = _own_folder(path)
    if own is not None:
        return hub.digest(own)
    folder, main = (path, path / DIFFUSION) if path.is_dir() else (path.parent, path)
    codec = next((folder / name for name in CODEC_FILES if (folder / name).is_file()), None)
    return hashlib.sha256("\0".join(hub.digest(file) for file in (main, codec) if file).encode()).hexdigest()[:16]


def digest_of_module(module) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a frozen module's kind, names and values; computed once."""
    found = module.__dict__.get("_digest")
    if found is None:
        sha = hashlib.sha256(type(module).__name__.encode())
        for name, tensor in sorted(module.state_dict().items()):
            sha.update(f"\0{name} {tuple(tensor.shape)}\0".encode())
            sha.update(tensor.detach().cpu().float().contiguous().numpy())
        found = module.__dict__["_digest"] = sha.hexdigest()[:16]
    return found


def convert(path, out, codec_path=None) -> pathlib.Path:
    """Write a released checkpoint as one of ours, in safetensors and complete: nothing else is needed to sample from it.

    config.json is written last, so that a folder is a checkpoint only when it is whole.
    """
    from avtools.models.parts.audioldm import AudioLdmCodec
    from avtools.models.parts.video_encoders import ClipEncoder
    from avtools.models.vta_ldm.model import Denoiser

    path, out = pathlib.Path(path), pathlib.Path(out)
    hub.check_no_checkpoint(out)
    config, tower = config_of(path), released_clip(path)
    with torch.device("meta"):  # takes over the files' tensors
        codec = AudioLdmCodec()
        denoiser = Denoiser(config, codec.latent_channels)
        clip = ClipEncoder(tower) if tower else None
    load_denoiser(denoiser, clip, path)
    read_codec(codec, codec_path or (path if path.is_dir() else path.parent))
    files = {"codec.safetensors": (codec.state_dict(), None)}
    if clip is not None:
        files["clip.safetensors"] = clip.model.state_dict(), {"config": json.dumps(clip.settings)}
    hub.save_checkpoint(out, files | {"model.safetensors": (denoiser.state_dict(), None)}, "vta-ldm", settings.as_dict(config))
    return out
