"""Weights in and out: our own checkpoints, the released layout and AVID-CMA's (spec section 2), all strict.

Released: a folder (checkpoint-40000/modules) with a folder for each part (audio_encoder, video_encoder, head) that holds
diffusion_pytorch_model.bin or .safetensors; a folder above it will do as well, and one file with names that begin
with the parts'.  AVID-CMA: one pickle; under "model" there are module.audio_model.*, module.video_model.* and the
projection heads, which are dropped.  Ours: config.json and model.safetensors.
"""

import pathlib
import re

import torch

from avtools import hub
from avtools.errors import FatalError
from avtools.models.avsync.config import MAIN, Config
from avtools.models.avsync.model import AvSyncNet
from avtools.training import config as settings

PART_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
PARTS = AvSyncNet.PARTS
AVID = {"module.audio_model.": "audio_encoder.", "module.video_model.": "video_encoder."}
COUNTERS = (r"num_batches_tracked$",)  # of batch norm; nothing reads them


def locate(source: str | None) -> pathlib.Path:
    """Where the classifier's weights are; the released ones lie where no program may fetch them.

    FatalError: none given, and where to get them.
    """
    if source is None:
        raise FatalError(
            f"no weights of {MAIN.what} (part '{hub.MAIN}', {round(MAIN.size / 1e6)} MB, {MAIN.licence}): none given, and nothing to fetch them from; "
            f"download {MAIN.source} by hand, unpack it, and give --weights DIR; or a RUN of 'avtools train avsync'"
        )
    return hub.locate(source, MAIN, "avsync")


# --- what it is --------------------------------------------------------------------------------------------


def released_folder(path) -> pathlib.Path | None:
    """The folder that holds the three parts' folders: `path`, or the one place below where it is; None: not of this layout."""
    path = pathlib.Path(path)
    for pattern in ("", "modules", "checkpoint-*/modules", "ckpts/checkpoint-*/modules"):
        found = [folder for folder in ([path] if not pattern else path.glob(pattern)) if (folder / PARTS[0]).is_dir()]
        if found:
            return max(found, key=lambda folder: [int(number) for number in re.findall(r"checkpoint-(\d+)", str(folder))[-1:]])
    return None


def _own_folder(path: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint folder of ours that `path` means: a folder, a RUN, or a file in one; None: no such thing."""
    if path.is_file():
        return path.parent if path.name in hub.OWN_FILES and (path.parent / "config.json").is_file() else None
    return None if released_folder(path) else hub.checkpoint_of(path)


def part_file(folder, part: str) -> pathlib.Path:
    """The file of a released part's weights; FatalError where there is none."""
    place = pathlib.Path(folder) / part
    file = next((place / name for name in PART_FILES if (place / name).is_file()), None)
    if file is None:
        raise FatalError(f"{place}: has neither {' nor '.join(PART_FILES)}; give the folder that holds {', '.join(PARTS)}, each with its weights")
    return file


def tensors_of(path) -> tuple[dict[str, torch.Tensor], pathlib.Path]:
    """(name -> tensor of the whole network, the file or folder they are from) of a checkpoint in any of the layouts."""
    path = pathlib.Path(path)
    own = _own_folder(path)
    if own is not None:
        file = hub.own_weights(own)
        return hub.tensors(file), file
    if path.is_dir():
        folder = released_folder(path)
        return {f"{part}.{name}": tensor for part in PARTS for name, tensor in hub.tensors(part_file(folder, part)).items()}, folder
    return hub.tensors(path), path


def config_of(path) -> Config:
    """The configuration of a checkpoint.

    Ours brings its own; the shapes of a released one tell widths and depths, and the rest is as published (its own
    config.json asks for AVID-CMA's file, which the weights no longer need).
    """
    path = pathlib.Path(path)
    own = _own_folder(path)
    config = Config()
    if own is not None:
        settings.of_checkpoint(own, "avsync", config)
    else:
        tensors, where = tensors_of(path)
        settings.merge(config, _told({name: tuple(tensor.shape) for name, tensor in tensors.items()}, where), str(where))
    return config


def _told(shapes: dict[str, tuple[int, ...]], where) -> dict:
    """What the shapes of a network's tensors tell of its configuration."""

    def count(pattern: str) -> int:
        return len({match[0] for match in (re.match(pattern, name) for name in shapes) if match})

    try:
        blocks, stages = count(r"audio_encoder\.block\d+\."), count(r"video_encoder\.conv\d+x\.")
        return {
            "audio_widths": [shapes["audio_encoder.conv1.0.weight"][0], *(shapes[f"audio_encoder.block{k}.conv1.weight"][0] for k in range(1, blocks + 1))],
            "video_widths": [shapes["video_encoder.conv1.0.weight"][0], *(shapes[f"video_encoder.conv{k}x.0.spt_conv1.weight"][0] for k in range(2, stages + 2))],
            "blocks_per_stage": count(r"video_encoder\.conv2x\.\d+\."),
            "dim": shapes["head.fc.0.weight"][0],
        }
    except (KeyError, IndexError) as error:
        raise FatalError(f"{where}: not AVSync's classifier (no {error}); give the folder with {', '.join(PARTS)}, or a RUN of 'avtools train avsync'") from None


# --- loading -------------------------------------------------------------------------------------------------


def load_tensors(module, tensors: dict, where) -> None:
    """Put the tensors into a network, or one part of it; counters of batches may be missing."""
    hub.load_strict(module, tensors, where, ignore=COUNTERS)


def load_part(module, folder, part: str) -> None:
    """Load one released part (`audio_encoder`, `video_encoder`, `head`) from its folder below `folder`."""
    file = part_file(folder, part)
    load_tensors(module, hub.tensors(file), file)


def load_net(net: AvSyncNet, path) -> None:
    """Load the whole network from a checkpoint in any of the layouts, strictly."""
    load_tensors(net, *tensors_of(path))


def init_net(net: AvSyncNet, source: str) -> list[str]:
    """Start a training from weights: a checkpoint of the classifier, or AVID-CMA's, which has no head; what stays new."""
    path = locate(source)
    tensors, where, new = _initial(path)
    kept = {name: tensor for name, tensor in net.state_dict().items() if name.startswith(new)} if new else {}
    load_tensors(net, {**kept, **tensors}, where)
    return [name.removesuffix(".") for name in new]


def _initial(path: pathlib.Path) -> tuple[dict, pathlib.Path, tuple[str, ...]]:
    """(tensors under our names, where they are from, beginnings of the names that they cannot hold)."""
    if not path.is_file() or _own_folder(path) is not None:
        return *tensors_of(path), ()
    tensors = _avid(path)
    if tensors:
        return tensors, path, ("head.", *(f"{part}.pool." for part in PARTS[:2]))
    return hub.tensors(path), path, ()


def _avid(path: pathlib.Path) -> dict | None:
    """The encoders of an AVID-CMA checkpoint under our names; None where it is none."""
    try:
        found = hub.tensors(path, inner="model")
    except FatalError:
        return None
    made = {}
    for name, tensor in found.items():
        for begin, ours in AVID.items():
            if name.startswith(begin):
                made[ours + name.removeprefix(begin)] = tensor
    return made or None


# --- writing ---------------------------------------------------------------------------------------------------


def convert(path, out) -> pathlib.Path:
    """Write a released checkpoint as one of ours; config.json last, so that a folder is one only when it is whole."""
    path, out = pathlib.Path(path), pathlib.Path(out)
    hub.check_no_checkpoint(out)
    config = config_of(path)
    with torch.device("meta"):
        net = AvSyncNet(config)
    tensors, where = tensors_of(path)
    counters = {name: torch.zeros((), dtype=torch.long) for name in net.state_dict() if name.endswith("num_batches_tracked")}
    load_tensors(net, {**counters, **tensors}, where)
    hub.save_checkpoint(out, {"model.safetensors": (net.state_dict(), None)}, "avsync", settings.as_dict(config))
    return out


def digest_of(path) -> str:
    """What identifies the weights of a checkpoint."""
    path = pathlib.Path(path)
    return hub.digest(_own_folder(path) or released_folder(path) or path)
