"""Weights of MAESTRO's systems in and out: our own checkpoints, and what others publish; all strict.

The resampler: `perceiver.pth`, a `checkpoint-N` folder, or a RUN of cim, in whose file it lies under `resampler.`.  The video model: a
RUN of maestro-video, or what :func:`.checkpoint.load_base` knows.
"""

import dataclasses
import hashlib
import pathlib

import torch

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.models.maestro import checkpoint
from avtools.models.maestro.config import BASE, IMAGEBIND, IMAGES, MAIN, PAGE, CimConfig, Heard, Video, VideoConfig
from avtools.models.maestro.resampler import Resampler, Size, file_of, load_resampler
from avtools.training import config as settings

RESAMPLER = "resampler."  # in a checkpoint of cim; what else is there are the network's keys and values, which sampling does not use
SIZES = {field.name for field in dataclasses.fields(Size)}


# --- where, and what it is -------------------------------------------------------------------------------------------


def main_path(weights: hub.Weights) -> pathlib.Path:
    if weights.get("") is None:
        raise FatalError(f"no weights of {MAIN.what}: its authors' page, {PAGE}, says where they are; give --weights FOLDER, or a RUN of 'avtools train cim'")
    return hub.locate(weights.get(""), MAIN, "maestro")


def base_path(weights: hub.Weights, system: str) -> pathlib.Path:
    return hub.locate(weights.get("base"), BASE, system)


def heard_config(path) -> Heard:
    """What a resampler was trained to hear; of a published one only the file's own shapes count, when it is loaded."""
    folder = hub.own_folder(path)
    if folder is None:
        return Heard()
    found = settings.of_checkpoint(folder, "cim", CimConfig())
    return Heard(**{field.name: getattr(found, field.name) for field in dataclasses.fields(Heard)})


def video_config(path) -> Video:
    """What a video model is, as far as it is told without reading tensors."""
    folder = hub.own_folder(path)
    if folder is None:
        return Video()
    found = settings.of_checkpoint(folder, "maestro-video", VideoConfig())
    return Video(**{field.name: getattr(found, field.name) for field in dataclasses.fields(Video)})


# --- networks ---------------------------------------------------------------------------------------------------------


def make_resampler(values: dict) -> Resampler:
    """A resampler with first values; UsageError where its sizes make none."""
    if set(values) - SIZES:
        raise UsageError(f"resampler: has no {', '.join(sorted(set(values) - SIZES))} (it has: {', '.join(sorted(SIZES))})")
    if bad := [f"{name} {value}" for name, value in values.items() if not isinstance(value, int) or value < 1]:
        raise UsageError(f"resampler: {', '.join(bad)}: whole numbers from 1 on")
    return Resampler(Size(**values))


def resampler_of(path) -> Resampler:
    """The resampler of any of the layouts."""
    folder = hub.own_folder(path)
    if folder is None:
        return load_resampler(path).eval()
    file = hub.own_weights(folder)
    made = make_resampler(heard_config(path).resampler)
    hub.load_strict(made, {name.removeprefix(RESAMPLER): tensor for name, tensor in hub.tensors(file).items() if name.startswith(RESAMPLER)}, file)
    return made.eval()


def sound_encoder(kind: str, weights: hub.Weights, system: str):
    """The frozen network that turns clips of sound into tokens, `dim` wide."""
    if kind == "bands":
        from avtools.models.avsyncd.encoders import BandTokens

        return BandTokens().eval()
    from avtools.models.maestro.hearing import load_hearing

    return load_hearing(weights, system=system)


def frozen(config: Video, weights: hub.Weights, system: str):
    """(codec, text encoder) of a video model of one's own: without weights, or Stable Diffusion 2.1's."""
    codec = text = None
    if config.codec == "space-to-depth":
        from avtools.models.parts.tiny.space_to_depth import SpaceToDepth

        codec = SpaceToDepth()
    if config.text_encoder == "words":
        from avtools.models.parts.tiny.words import Prompts

        text = Prompts(config.unet["cross_attention_dim"], config.text_places)
    if codec is None or text is None:
        from avtools.models.maestro.text import load_text

        folder = images_folder(weights, system)
        codec = codec or checkpoint.load_codec(folder / "vae")
        text = text or load_text(folder / "text_encoder", config.text_layer)
    return codec, text


def images_folder(weights: hub.Weights, system: str) -> pathlib.Path:
    """Stable Diffusion 2.1's folder."""
    folder = hub.locate(weights.get("sd"), IMAGES, system)
    lacking = [name for name in ("vae", "text_encoder") if not (folder / name).is_dir()]
    if lacking:
        raise FatalError(f"{folder}: has no {' and no '.join(lacking)}; give --weights sd= the folder of Stable Diffusion 2.1 as diffusers writes it")
    return folder


def base_of(config: Video, weights: hub.Weights, system: str) -> checkpoint.Base:
    """The video model to learn of or to sample with, on the CPU."""
    path = base_path(weights, system)
    folder = hub.own_folder(path)
    if folder is None:
        return checkpoint.load_base(path, config.text_layer)
    unet = checkpoint.make_unet(config.unet, "meta")
    file = hub.own_weights(folder)
    hub.load_strict(unet, hub.tensors(file), file)
    base = checkpoint.Base(unet.eval().requires_grad_(False), *frozen(config, weights, system), config.noise_schedule)
    checkpoint.check(base, folder)
    return base


def image_unet(folder: pathlib.Path):
    """diffusers' UNet of single pictures, of Stable Diffusion 2.1's folder."""
    from diffusers import UNet2DConditionModel

    inner = folder / "unet"
    file = checkpoint.weights_file(inner)
    told = checkpoint.json_of(inner / "config.json")
    if told.get("_class_name") != checkpoint.IMAGE:
        raise FatalError(f"{inner / 'config.json'}: of {told.get('_class_name') or 'nothing that it names'}, not of a {checkpoint.IMAGE}; give the folder of Stable Diffusion 2.1")
    with torch.device("meta"):  # takes over the file's tensors
        unet = UNet2DConditionModel.from_config(told)
    hub.load_strict(unet, hub.tensors(file), file)
    return unet.eval().requires_grad_(False), checkpoint.json_of(folder / "scheduler" / "scheduler_config.json")


def init_injection(module, path) -> None:
    """Begin with a resampler, and with keys and values where they lie beside it in a checkpoint of ours."""
    folder = hub.own_folder(path)
    if folder is None:
        file = file_of(path)
        hub.load_strict(module.resampler, {name.removeprefix("module."): tensor for name, tensor in hub.tensors(file).items()}, file)
        return
    file = hub.own_weights(folder)
    tensors = hub.tensors(file)
    hub.load_strict(module.resampler, {name.removeprefix(RESAMPLER): tensor for name, tensor in tensors.items() if name.startswith(RESAMPLER)}, file)
    keys = {name: tensor for name, tensor in tensors.items() if not name.startswith(RESAMPLER)}
    known = dict(module.named_parameters())
    if keys and all(name in known and known[name].requires_grad and known[name].shape == tensor.shape for name, tensor in keys.items()):
        with torch.no_grad():
            for name, tensor in keys.items():
                known[name].copy_(tensor)


# --- identity and writing -----------------------------------------------------------------------------------------------


def digest(weights: hub.Weights, heard: Heard, video: Video) -> str:
    """What identifies all weights that sampling reads."""
    main, base = main_path(weights), base_path(weights, "maestro")
    folder = hub.own_folder(main)
    found = [hub.digest(hub.own_weights(folder) if folder is not None else file_of(main)), base_digest(weights, video, "maestro", base)]
    if heard.sound_encoder == "imagebind":
        from avtools.models.parts import imagebind

        found.append(imagebind.digest(weights, IMAGEBIND.name, system="maestro"))
    if weights.get("separator") is not None:
        from avtools.models.audiosep.separation import Separator

        found.append(Separator.digest(separator_weights(weights)))
    return hashlib.sha256("\0".join(found).encode()).hexdigest()[:16]


def base_digest(weights: hub.Weights, video: Video, system: str, path: pathlib.Path) -> str:
    """What identifies a video model and what it needs beside it."""
    folder = hub.own_folder(path)
    if folder is None:
        return hub.digest(path)
    found = [hub.digest(hub.own_weights(folder))]
    if video.codec == "kl" or video.text_encoder == "open-clip":
        found += [hub.digest(images_folder(weights, system) / name) for name in ("vae", "text_encoder")]
    return "\0".join(found)


def separator_weights(weights: hub.Weights) -> hub.Weights:
    """The weights that the separator sees as its own."""
    given = {"": weights.get("separator"), "clap": weights.get("clap"), "clap-tokenizer": weights.get("clap-tokenizer")}
    return hub.Weights({name: source for name, source in given.items() if source is not None})


def convert(weights: hub.Weights, out) -> pathlib.Path:
    """Write a published resampler as a checkpoint of cim."""
    path, out = main_path(weights), pathlib.Path(out)
    hub.check_no_checkpoint(out)
    resampler = resampler_of(path)
    config = CimConfig(resampler=dataclasses.asdict(resampler.size))
    files = {"model.safetensors": ({RESAMPLER + name: tensor for name, tensor in resampler.state_dict().items()}, None)}
    hub.save_checkpoint(out, files, "cim", settings.as_dict(config))
    return out
