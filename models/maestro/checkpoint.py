"""The video base: VideoCrafter2's `model.ckpt`, or any folder of a text-to-video model with diffusers' UNet3DConditionModel (spec MAESTRO, section 3).

All strict.  `model.ckpt` is memory-mapped, and of its 1.8 billion numbers only what is asked for is read: UNet, autoencoder and text tower
under `model.diffusion_model.*`, `first_stage_model.*` and `cond_stage_model.model.*`, below `state_dict`, below
DeepSpeed's `module` with its prefix on each name, or at the top level.  The buffers of its schedule are computed, not read.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.models.maestro import codec as pictures
from avtools.models.maestro import unet as video
from avtools.models.maestro.diffusion import SCHEDULE
from avtools.models.maestro.unet import UNET, VideoUnet

DIFFUSION, CODEC, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
BUFFERS = {  # of the schedule, at the root; `scale_arr` has 1400 values, of which 1000 mean anything
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "scale_arr",
    "scale_factor",
    "logvar",
}
VIDEO, IMAGE, KL = "UNet3DConditionModel", "UNet2DConditionModel", "AutoencoderKL"
SHIFTS = ("shift_factor", "latents_mean", "latents_std")
MODEL = "model.ckpt"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
STRAY = (r"position_ids$",)
#: Fields of a UNet's config.json that the class takes in one value only.
FIXED = {"num_attention_heads": None, "time_cond_proj_dim": None}


class Released(NamedTuple):
    """The parts of a `model.ckpt`, under their published names without :data:`DIFFUSION` and :data:`CODEC`; the text's names are whole."""

    unet: dict[str, torch.Tensor]
    codec: dict[str, torch.Tensor]
    text: dict[str, torch.Tensor]
    where: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Base:
    """A video model to sample with: on the CPU, in the files' precision, frozen, in eval mode."""

    unet: VideoUnet
    codec: Any  # see :mod:`.codec`
    text: Any  # see :mod:`.text`
    schedule: dict  # for :class:`.diffusion.Noise`


# --- VideoCrafter2 -----------------------------------------------------------------------------------------------


def read(path) -> Released:
    """VideoCrafter2's checkpoint; FatalError where a file is none."""
    path = pathlib.Path(path)
    return parts(hub.tensors(path, ""), path)


def parts(tensors: Mapping[str, torch.Tensor], where) -> Released:
    """As :func:`read`, of all tensors of a file, those in mappings under dotted names.

    What precedes `model.diffusion_model.` is the same for all names of the model; tensors elsewhere, of an optimizer, are passed over.
    """
    before = {name[: name.index(DIFFUSION)] for name in tensors if DIFFUSION in name}
    before = sorted(before, key=lambda prefix: (not prefix.startswith("state_dict."), len(prefix)))
    if not before:
        raise FatalError(f"{where}: not VideoCrafter2 (nothing under {DIFFUSION}*); give its {MODEL}, or the folder of a diffusers text-to-video model")
    mine = {name[len(before[0]) :]: tensor for name, tensor in tensors.items() if name.startswith(before[0])}
    found = {prefix: {name: tensor for name, tensor in mine.items() if name.startswith(prefix)} for prefix in (DIFFUSION, CODEC, TEXT)}
    unknown = [name for name in mine if name not in BUFFERS and not name.startswith(tuple(found))]
    lacking = [f"{prefix}*" for prefix, those in found.items() if not those]
    if unknown or lacking:
        both = (("unknown", unknown), ("nothing under", lacking))
        faults = [f"{what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" for what, names in both if names]
        raise FatalError(f"{where}: not all of VideoCrafter2, or more ({'; '.join(faults)}); give its {MODEL}")
    short = ({name.removeprefix(prefix): tensor for name, tensor in found[prefix].items()} for prefix in (DIFFUSION, CODEC))
    return Released(*short, found[TEXT], pathlib.Path(where))


def released_unet(released: Released) -> VideoUnet:
    """The UNet of a checkpoint, whose tensors it takes over."""
    try:
        unet = make_unet(video.released_settings(_shapes(released.unet)), "meta")
    except (ValueError, UsageError) as error:
        told = str(error).removesuffix("; change unet.*")
        raise FatalError(f"{released.where}: {told}; give VideoCrafter2's {MODEL}") from None
    return _frozen(unet, video.from_released(released.unet), released.where)


def released_codec(released: Released):
    """The autoencoder of a checkpoint."""
    try:
        settings = pictures.released_settings(_shapes(released.codec))
    except ValueError as error:
        raise FatalError(f"{released.where}: {error}; give VideoCrafter2's {MODEL}") from None
    try:
        with torch.device("meta"):  # takes over the tensors
            made = pictures.Vae(settings)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise FatalError(f"{released.where}: no autoencoder can be made of its sizes ({error}); give VideoCrafter2's {MODEL}") from None
    _frozen(made.model, pictures.from_released(released.codec), released.where)
    return made.eval()


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _frozen(net, tensors, where):
    hub.load_strict(net, tensors, where, ignore=STRAY)
    return net.eval().requires_grad_(False)


# --- any base ----------------------------------------------------------------------------------------------------


def make_unet(settings: dict, device: str | None = None) -> VideoUnet:
    """The UNet with first values; UsageError where settings do not fit together."""
    try:
        with torch.device(device) if device else contextlib.nullcontext():
            return VideoUnet(**settings)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, ZeroDivisionError, NotImplementedError) as error:
        raise UsageError(f"no UNet can be made of these settings ({' '.join(str(error).split())[:200]}); change unet.*") from None


def unet_settings(file: pathlib.Path) -> dict:
    """Fields of :data:`UNET` of a config.json as diffusers writes it; FatalError where it is of another network."""
    told = json_of(file)
    kind = told.get("_class_name")
    if kind not in (VIDEO, VideoUnet.__name__):
        hint = f", a network of single pictures: give the folder of a text-to-video model with a {VIDEO}" if kind == IMAGE else f"; give the folder of a {VIDEO}"
        raise FatalError(f"{file}: of {kind or 'nothing that it names'}{hint}")
    other = [f"{name} {told[name]!r}" for name, value in FIXED.items() if told.get(name) != value]
    if not isinstance(told.get("attention_head_dim", 64), int):
        other.append(f"attention_head_dim {told['attention_head_dim']}, not one number")
    if other:
        raise FatalError(f"{file}: a UNet of another kind ({'; '.join(other)}); give another base")
    return {name: told[name] for name in UNET if name in told}


def load_unet(path) -> VideoUnet:
    """A UNet from VideoCrafter2's file, or from diffusers' folder of a UNet or of a whole text-to-video model."""
    path = pathlib.Path(path)
    if path.is_dir() and (path / MODEL).is_file():
        path = path / MODEL
    if path.is_file():
        return released_unet(read(path))
    folder = path / "unet" if (path / "unet").is_dir() else path
    settings = unet_settings(folder / "config.json")
    try:
        unet = make_unet(settings, "meta")
    except UsageError as error:
        raise FatalError(f"{folder / 'config.json'}: {error}") from None
    file = weights_file(folder)
    return _frozen(unet, hub.tensors(file), file)


def load_base(path, layer: str = "penultimate") -> Base:
    """A whole base: VideoCrafter2's file or a folder with it, or diffusers' folder of a text-to-video model.

    `layer`: of the text tower in VideoCrafter2's file that the network reads, see :mod:`.text`; a folder's is what its pipeline reads.
    FatalError where a part is missing, or where the text's width is not that of the network's attention.
    """
    from avtools.models.maestro import text

    path = pathlib.Path(path)
    if not path.exists():
        raise FatalError(f"{path}: no such file or folder; give VideoCrafter2's {MODEL}, or the folder of a diffusers text-to-video model")
    if path.is_dir() and (path / MODEL).is_file():
        path = path / MODEL
    if path.is_file():
        released = read(path)
        tower = text.load_text(released.text, layer, where=str(path))
        base = Base(released_unet(released), released_codec(released), tower, dict(SCHEDULE))
    else:
        lacking = [name for name in ("unet", "vae", "text_encoder", "scheduler") if not (path / name).is_dir()]
        if lacking:
            raise FatalError(f"{path}: has no {', '.join(lacking)}; give VideoCrafter2's {MODEL}, or the whole folder of a diffusers text-to-video model")
        tower = text.load_text(path / "text_encoder")
        base = Base(load_unet(path), load_codec(path / "vae"), tower, json_of(path / "scheduler" / "scheduler_config.json"))
    check(base, path)
    return base


def load_codec(folder):
    """diffusers' AutoencoderKL from its folder; FatalError where it is of another kind."""
    from avtools.models.avsyncd.checkpoint import load_vae

    file = pathlib.Path(folder) / "config.json"
    told = json_of(file)
    other = [f"of {told['_class_name']}"] if told.get("_class_name", KL) != KL else []
    other += [f"{name} {told[name]!r}" for name in SHIFTS if told.get(name)]  # of latents, beside their scale
    if other:
        raise FatalError(f"{file}: an autoencoder of another kind ({'; '.join(other)}); give the folder of a {KL}")
    try:
        made = load_vae(file.parent)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise FatalError(f"{file}: no autoencoder can be made of these settings ({' '.join(str(error).split())[:200]}); get the folder anew") from None
    made.model.eval().requires_grad_(False)
    return made.eval()


def check(base: Base, where) -> None:
    """FatalError where the parts of a base do not fit together."""
    width, channels = base.unet.context_dim, base.unet.config.in_channels
    if width != base.text.dim:
        what = f"its network attends to tokens {width} wide, and its text has {base.text.dim}"
    elif channels != base.codec.channels:
        what = f"its network takes latents of {channels} channels, and its autoencoder makes {base.codec.channels}"
    else:
        return
    raise FatalError(f"{where}: {what}; give a base whose parts belong together")


def weights_file(folder: pathlib.Path) -> pathlib.Path:
    """The weights in a folder as diffusers writes it."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FatalError(f"{folder}: has none of {', '.join(WEIGHTS)}; give the whole folder")


def json_of(file: pathlib.Path) -> dict:
    """The object in a file of JSON that a folder must have; FatalError where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FatalError(f"{file}: {error.strerror}; give the whole folder") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FatalError(f"{file}: broken, no JSON object; get the folder anew")
    return found
