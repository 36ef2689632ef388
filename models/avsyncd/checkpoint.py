"""Weights in and out: our own checkpoints, the released layout (spec ASVA, section 1.6), and Stable Diffusion 1.5; all strict.

Released: `<exp>/ckpts/checkpoint-<step>/modules/{unet,audio_encoder}/`, each with config.json and
diffusion_pytorch_model.{bin,safetensors}; any folder of that path will do.  Ours: config.json and model.safetensors,
maybe ema.safetensors; with the frozen networks beside them (:func:`convert`) nothing else is needed.
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
from avtools.models.avsyncd import encoders
from avtools.models.avsyncd.config import PRESETS, UNET, Config
from avtools.models.avsyncd.model import UNet3D
from avtools.models.avsyncd.system import STABLE_DIFFUSION
from avtools.models.avsyncd.system import UNET as UNET_2D
from avtools.training import config as settings

RELEASED = "AudioUNet3DConditionModel"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
BESIDE = {"codec": "codec.safetensors", "text": "clip.safetensors", "sound": "sound.safetensors"}  # frozen networks in a folder of ours
STRAY = (r"position_ids$",)

MAIN = hub.Part("", "AVSyncD's UNet", "hf:lzhangbj/ASVA", (), 4_700_000_000, "MIT by the repository's badge")  # not on the hub: see `locate`
#: Fields of a UNet's config.json that change what it computes, and the only value that is known here.
FIXED = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
    "use_linear_projection": False,
}

#: Names of blocks in a config.json -> ours.
BLOCKS = {
    f"{first}{way}{last}": f"{ours}{way}Block2D"
    for way in ("Down", "Up")
    for first, last, ours in (("FFSpatioAudioTempCrossAttn", "Block3D", "CrossAttn"), ("FFSpatioTempRes", "Block3D", ""), ("CrossAttn", "Block2D", "CrossAttn"), ("", "Block2D", ""))
}
MIDDLES = ("FFSpatioAudioTempCrossAttnUNetMidBlock3D", "UNetMidBlock2DCrossAttn")


# --- what it is --------------------------------------------------------------------------------------------


def locate(source: str | None) -> pathlib.Path:
    """The file or folder of AVSyncD's weights."""
    if source is None:
        raise FatalError(
            "no weights of AVSyncD: its authors publish them on Google Drive, linked from github.com/lzhangbj/ASVA; unpack one and give --weights "
            "FOLDER/ckpts/checkpoint-N, or a RUN of 'avtools train avsyncd'"
        )
    return hub.locate(source, MAIN, "avsyncd")


def released_folder(path) -> pathlib.Path | None:
    """The folder of the released UNet that `path` means: itself, or below it; None where there is none."""
    path = pathlib.Path(path)
    if path.is_file():
        path = path.parent
    steps = [(int(match[1]), found) for found in path.glob("ckpts/checkpoint-*") if (match := re.fullmatch(r"checkpoint-(\d+)", found.name))]
    last = [max(steps)[1] / "modules" / "unet"] if steps else []
    for folder in (path, path / "unet", path / "modules" / "unet", *last):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if "AudioUNet3D" in json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name", ""):
                return folder
    return None


def audio_folder(unet: pathlib.Path) -> pathlib.Path | None:
    """The released sound encoder beside a released UNet."""
    folder = unet.parent / "audio_encoder"
    return folder if any((folder / name).is_file() for name in WEIGHTS) else None


def _own_folder(path: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint folder of ours that `path` means: a folder, a RUN, or a file in one; None: a released one."""
    if released_folder(path) is not None:
        return None
    if path.is_file():
        folder = path.parent
        if path.name in hub.OWN_FILES and (folder / "config.json").is_file():
            return folder
        raise FatalError(f"{path}: tells no configuration; give the folder of the checkpoint, which has config.json")
    return hub.checkpoint_of(path)


def config_of(path, preset: str | None = None, sets=()) -> Config:
    """The configuration of a checkpoint, with settings; no tensor is read.

    Ours brings its own.  A released one brings its UNet's; the rest is the preset's, by default `released`.
    """
    path = pathlib.Path(path)
    own = _own_folder(path)
    if own is None:
        config = settings.resolve(Config, PRESETS, preset or "released")
        config.unet = unet_config(released_folder(path) / "config.json")
    else:
        config = settings.of_checkpoint(own, "avsyncd", Config(), preset)
    settings.set_all(config, sets)
    return config


def unet_config(file: pathlib.Path) -> dict:
    """Our fields of a UNet's config.json as diffusers writes it, the released one's or Stable Diffusion's."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FatalError(f"{file}: {error.strerror}; give the whole folder of the UNet") from None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise FatalError(f"{file}: broken, no JSON object; get the folder anew")
    other = [f"{name} {told[name]!r}, not {value!r}" for name, value in FIXED.items() if name in told and told[name] != value]
    heads = told.get("attention_head_dim", UNET["attention_head_dim"])
    if isinstance(heads, list):
        heads = heads[0] if len(set(heads)) == 1 else heads
    if not isinstance(heads, int):
        other.append(f"attention_head_dim {heads}, not one number")
    if told.get("mid_block_type") not in (None, *MIDDLES):
        other.append(f"mid_block_type {told['mid_block_type']}")
    found = {name: told.get(name, value) for name, value in UNET.items()} | {"attention_head_dim": heads}
    for name in ("down_block_types", "up_block_types"):
        kinds = found[name] if isinstance(found[name], list) else [found[name]]
        other += [f"{name} {kind}" for kind in kinds if kind not in BLOCKS]
        found[name] = [BLOCKS.get(kind) for kind in kinds]
    if other:
        raise FatalError(f"{file}: a UNet of another kind ({'; '.join(other)}); give AVSyncD's")
    return found


# --- loading one thing ---------------------------------------------------------------------------------------


def make_unet(config: Config) -> UNet3D:
    """The UNet with first values; UsageError where its settings do not fit together."""
    try:
        return UNet3D(config.unet, config.train.gradient_checkpointing)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise UsageError(f"no UNet can be made of these settings ({' '.join(str(error).split())[:200]}); change unet.*") from None


def load_unet(unet: UNet3D, path) -> None:
    """Load the UNet from one of our checkpoints (its moving average, where there is one), or a released folder or file."""
    path = pathlib.Path(path)
    own = _own_folder(path)
    if own is None:
        file = weights_file(released_folder(path))
    else:
        file = hub.own_weights(own)
    hub.load_strict(unet, hub.tensors(file), file)


def weights_file(folder: pathlib.Path) -> pathlib.Path:
    """The weights in a folder as diffusers or transformers writes it."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FatalError(f"{folder}: has none of {', '.join(WEIGHTS)}; give the whole folder")


def inflate(unet: UNet3D, folder: pathlib.Path) -> None:
    """Begin with Stable Diffusion's UNet; what it does not have keeps its first values."""
    if (folder / "config.json").is_file():
        told = unet_config(folder / "config.json")
        differs = [name for name in UNET if name not in ("audio_cross_attention_dim", "down_block_types", "up_block_types") and told[name] != unet.config[name]]
        if differs:
            raise FatalError(f"{folder}: another UNet than is configured ({', '.join(f'{name} {told[name]}' for name in differs)}); give Stable Diffusion 1.5's")
    file = weights_file(folder)
    new = set(unet.added())
    first = {name: tensor for name, tensor in unet.state_dict().items() if name in new}
    hub.load_strict(unet, {**first, **hub.tensors(file)}, file)


def init_unet(unet: UNet3D, source: str) -> None:
    """Begin with weights: one of our checkpoints or RUNs, a released one, or Stable Diffusion's folder."""
    path = hub.locate(source, dataclasses.replace(MAIN, files=UNET_2D.files) if source.startswith("hf:") else MAIN, "avsyncd")
    flat = next((folder for folder in (path / "unet", path) if _is_2d(folder)), None)
    inflate(unet, flat) if flat is not None else load_unet(unet, path)


def _is_2d(folder: pathlib.Path) -> bool:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name") == "UNet2DConditionModel"
    except (OSError, ValueError, AttributeError):
        return False


#: Names in Stable Diffusion 1.5's published VAE -> today's.
_VAE = ((r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."), (r"\.proj_attn\.", ".to_out.0."))


def load_vae(folder: pathlib.Path) -> encoders.Vae:
    file, config = weights_file(folder), _json(folder / "config.json")
    tensors = {}
    for name, tensor in hub.tensors(file).items():
        for pattern, by in _VAE:
            name = re.sub(pattern, by, name)
        wide = re.search(r"attentions\.\d+\.(to_[qkv]|to_out\.0)\.weight$", name) and tensor.dim() == 4
        tensors[name] = tensor[:, :, 0, 0] if wide else tensor
    with torch.device("meta"):  # takes over the file's tensors
        vae = encoders.Vae(config)
    hub.load_strict(vae.model, tensors, file)
    return vae


def load_text(folder: pathlib.Path) -> encoders.ClipTokens:
    file, config = weights_file(folder), _json(folder / "config.json")
    text = encoders.ClipTokens(config.get("text_config", config))
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in hub.tensors(file).items()}
    hub.load_strict(text.model, tensors, file, ignore=(*STRAY, r"^text_projection\.", r"^vision_model\.", r"^visual_projection\.", r"^logit_scale$"))
    return text


def _json(file: pathlib.Path) -> dict:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FatalError(f"{file}: {error.strerror}; get the folder anew") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FatalError(f"{file}: broken, no JSON object; get the folder anew")
    return found


# --- the frozen networks of a run -------------------------------------------------------------------------------


def frozen(config: Config, weights: hub.Weights, drop_path: float = 0.0):
    """Codec, sound encoder and text encoder, loaded: without weights, beside the checkpoint, or of the parts.

    `drop_path`: of ImageBind's last block while training.
    """
    codec, sound, text = encoders.weightless(config)
    beside = _beside(weights)
    if codec is None:
        if "codec" in beside and weights.get("sd") is None:
            codec = _own_frozen(encoders.Vae, beside["codec"])
        else:
            codec = load_vae(stable_diffusion(weights) / "vae")
    if text is None:
        if "text" in beside and weights.get("sd") is None:
            text = _own_frozen(encoders.ClipTokens, beside["text"])
        else:
            text = load_text(stable_diffusion(weights) / "text_encoder")
    if sound is None:
        sound = encoders.ImageBindTokens(_tower(weights, beside, drop_path))
    return codec, sound, text


def stable_diffusion(weights: hub.Weights) -> pathlib.Path:
    """The folder of Stable Diffusion 1.5."""
    folder = hub.locate(weights.get("sd"), STABLE_DIFFUSION, "avsyncd")
    if not (folder / "vae").is_dir() or not (folder / "text_encoder").is_dir():
        raise FatalError(f"{folder}: has no vae/ and text_encoder/; give --weights sd= the folder of Stable Diffusion 1.5 as diffusers writes it")
    return folder


def unet_2d(weights: hub.Weights) -> pathlib.Path:
    """The folder of Stable Diffusion 1.5's UNet."""
    if weights.get("unet") is None and weights.get("sd") is not None and not str(weights.get("sd")).startswith("hf:"):
        whole = pathlib.Path(weights.get("sd")) / "unet"
        if whole.is_dir():
            return whole
    folder = hub.locate(weights.get("unet"), UNET_2D, "avsyncd")
    return folder / "unet" if (folder / "unet").is_dir() else folder


def _beside(weights: hub.Weights) -> dict[str, pathlib.Path]:
    """The frozen networks that lie beside the checkpoint: in a folder of ours, or the released sound encoder."""
    if weights.get("") is None:
        return {}
    path = locate(weights.get(""))
    released = released_folder(path)
    if released is not None:
        return {"sound": audio_folder(released)} if audio_folder(released) else {}
    own = _own_folder(path)
    return {name: own / file for name, file in BESIDE.items() if (own / file).is_file()}


def _tower(weights: hub.Weights, beside: dict, drop_path: float = 0.0):
    from avtools.models.parts import imagebind

    if weights.get("imagebind") is not None or "sound" not in beside:
        return imagebind.load_segment(imagebind.locate(weights, system="avsyncd"), None, drop_path)
    told = hub.values(beside["sound"]).get("config") if beside["sound"].is_file() else None
    size = imagebind.Size(**json.loads(told)) if told else None
    return imagebind.load_segment(beside["sound"], size, drop_path)


def _own_frozen(kind, file: pathlib.Path):
    """A frozen network of a folder of ours, whose file tells its settings."""
    told = hub.values(file).get("config")
    made = kind(json.loads(told) if told else None)
    hub.load_strict(made.model, hub.tensors(file), file, ignore=STRAY)
    return made


# --- identity and writing ----------------------------------------------------------------------------------------


def digest_of(config: Config, weights: hub.Weights) -> str:
    """What identifies all weights that sampling reads."""
    path = locate(weights.get(""))
    own = _own_folder(path)
    found = [hub.digest(own if own is not None else weights_file(released_folder(path)))]
    beside = _beside(weights)
    if "stable-diffusion" in config.codec and ("codec" not in beside or weights.get("sd") is not None):
        found.append(hub.digest(stable_diffusion(weights) / "vae"))
    if config.text_encoder == "clip" and ("text" not in beside or weights.get("sd") is not None):
        found.append(hub.digest(stable_diffusion(weights) / "text_encoder"))
    if config.sound_encoder == "imagebind":
        if weights.get("imagebind") is not None or "sound" not in beside:
            from avtools.models.parts import imagebind

            found.append(imagebind.digest(weights, system="avsyncd"))
        elif own is None:
            found.append(hub.digest(beside["sound"]))
    return hashlib.sha256("\0".join(found).encode()).hexdigest()[:16]


def convert(weights: hub.Weights, out) -> pathlib.Path:
    """Write a released checkpoint as one of ours, in safetensors and complete: nothing else is needed to sample from it.

    config.json is written last, so that a folder is a checkpoint only when it is whole.
    """
    path, out = locate(weights.get("")), pathlib.Path(out)
    hub.check_no_checkpoint(out)
    config = config_of(path)
    with torch.device("meta"):  # takes over the file's tensors
        unet = make_unet(config)
    load_unet(unet, path)
    codec, sound, text = frozen(config, weights)
    files = {}
    if isinstance(codec, encoders.Vae):
        files[BESIDE["codec"]] = codec.model.state_dict(), {"config": json.dumps(codec.settings)}
    if isinstance(text, encoders.ClipTokens):
        files[BESIDE["text"]] = text.model.state_dict(), {"config": json.dumps(text.settings)}
    if isinstance(sound, encoders.ImageBindTokens):
        size = {name: getattr(sound.tower.size, name) for name in ("dim", "blocks", "heads", "out_dim")}
        files[BESIDE["sound"]] = sound.tower.state_dict(), {"config": json.dumps(size)}
    hub.save_checkpoint(out, files | {"model.safetensors": (unet.state_dict(), None)}, "avsyncd", settings.as_dict(config))
    return out
