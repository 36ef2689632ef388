"""Released weights of VASTDiT3 in and out, all strict, and what a stage begins with (spec JavisDiT, sections 1 and 3).

Released: the joint network (3286 names for XL/2), the first stage's (983), and OpenSora's STDiT-v3, which is the joint network's
video stream.  A file, or a folder of the pieces of one; something may precede all names.  Module names are the layout's.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

from avtools import hub
from avtools.errors import FatalError
from avtools.models.javisdit import positions
from avtools.models.javisdit.model import Size, VastDit
from avtools.models.javisdit.weights import pieces, some

FREQS = "rope.freqs"  # fixed, so that the network has none
COMPUTED = re.compile(r"(audio_)?pos_embed(_temporal)?(\.inv_freq)?")  # tables that some files hold, which are computed
AUDIO_OF = {"y_embedder.": "audio_y_embedder.", "spatial_blocks.": "audio_spatial_blocks.", "temporal_blocks.": "audio_temporal_blocks."}
ASK = "give JavisDiT's stage-1 or stage-3 checkpoint"


class Found(NamedTuple):
    """A checkpoint: tensors under the layout's names, without computed ones; the network's shape, its legacy switches on."""

    tensors: dict[str, torch.Tensor]
    size: Size
    where: pathlib.Path


def read(path) -> Found:
    """A released checkpoint of either stage; FatalError where it is none."""
    return found(tensors_of(path), path)


def found(tensors: Mapping[str, torch.Tensor], where) -> Found:
    """As :func:`read`, of tensors under released names."""
    tensors = plain(tensors, where)
    return Found(tensors, told({name: tuple(tensor.shape) for name, tensor in tensors.items()}, where), pathlib.Path(where))


def plain(tensors: Mapping[str, torch.Tensor], where) -> dict[str, torch.Tensor]:
    """Without what is computed; FatalError where rotary positions are not the standard ones."""
    freqs = tensors.get(FREQS)
    if freqs is not None and not freqs.is_meta:
        known = positions.turns(2 * freqs.numel())
        if not torch.allclose(freqs.detach().float().flatten().cpu(), known, rtol=1e-2, atol=1e-6):  # half precision at most
            raise FatalError(f"{where}: {FREQS} are not the standard rotary positions; {ASK}")
    return {name: tensor for name, tensor in tensors.items() if name != FREQS and not COMPUTED.fullmatch(name)}


def told(shapes: Mapping[str, tuple[int, ...]], where) -> Size:
    """The shape of the network that tensors of these names belong to.

    Not told by them, and as released: how priors are split into spatial and temporal ones (evenly), the size where places
    of patches count as they are, what a latent is of.
    """
    try:
        dim, video, *patch = shapes["x_embedder.proj.weight"]
        _, sound, *sound_patch = shapes["ax_embedder.proj.weight"]
        tokens, text = shapes["y_embedder.y_embedding"]
        depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("audio_spatial_blocks."))
        out, joint = shapes["audio_final_layer.linear.weight"][0], "st_t_block.1.weight" in shapes
        head, wide = shapes["audio_spatial_blocks.0.attn.q_norm.weight"][0], shapes["audio_spatial_blocks.0.mlp.fc1.weight"][0]
        priors, prior = shapes["st_prior_embedder.y_embedding"] if joint else (Size.spatial_priors + Size.temporal_priors, Size.prior)
        return Size(
            dim=dim, depth=depth, heads=dim // head, feed=wide / dim, text=text, text_tokens=tokens, video=video, sound=sound, patch=tuple(patch),
            sound_patch=tuple(sound_patch), sigma=out == 2 * sound * sound_patch[0] * sound_patch[1], spatial_priors=priors // 2,
            temporal_priors=priors - priors // 2, prior=prior, joint=joint, time_positions="none", legacy_cross_batch_prior=True, legacy_final=True,
        )  # fmt: skip
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        why = f"no {error.args[0]}" if isinstance(error, KeyError) else error
        raise FatalError(f"{where}: not JavisDiT's network ({why}; it has {some(shapes)}); {ASK}") from None


def load(found: Found, size: Size | None = None, checkpointing: bool = False) -> VastDit:
    """The network, in the file's precision, on the CPU; `size`: ours, with other switches.  FatalError where tensors do not fit."""
    with torch.device("meta"):  # takes over the file's tensors
        net = VastDit(size or found.size, checkpointing)
    hub.load_strict(net, found.tensors, found.where)
    return net


def released(net: VastDit) -> dict[str, torch.Tensor]:
    """The network under released names."""
    return {FREQS: positions.turns(net.size.dim // net.size.heads), **net.state_dict()}


# --- what a stage begins with ------------------------------------------------------------------------------------


def read_video(path) -> dict[str, torch.Tensor]:
    """OpenSora's STDiT-v3: tensors of the video stream; FatalError where a file is another."""
    tensors = plain(tensors_of(path), path)
    if not is_video(tensors):
        raise FatalError(f"{path}: not OpenSora's STDiT-v3; give hpcai-tech/OpenSora-STDiT-v3")
    return tensors


def is_video(tensors: Mapping[str, torch.Tensor]) -> bool:
    return "spatial_blocks.0.attn.qkv.weight" in tensors and not any(name.startswith("audio_") for name in tensors)


def begin_sound(net: VastDit, video: Mapping[str, torch.Tensor], where) -> list[str]:
    """Fill the first stage's network from STDiT-v3: shared parts as they are, the sound's blocks and text projection as copies of the video's.

    The names that keep their first values (`ax_embedder`, `audio_final_layer`).
    """
    copies = {ours + name.removeprefix(theirs): tensor for theirs, ours in AUDIO_OF.items() for name, tensor in video.items() if name.startswith(theirs)}
    return _begin(net, {**video, **copies}, ("ax_embedder.", "audio_final_layer."), ("spatial_blocks.", "temporal_blocks."), where)


def begin_joint(net: VastDit, sound: Mapping[str, torch.Tensor], video: Mapping[str, torch.Tensor] | None, where) -> list[str]:
    """Fill the joint network from the first stage's, and its video stream from STDiT-v3, which counts where both have a name.

    `video` None: the stream of pictures keeps its first values, too.  The names that do.
    """
    new = ["st_t_block.", "st_prior_embedder.", "video_st_prior_blocks.", "audio_st_prior_blocks.", "va_cross_blocks."]
    if video is None:
        new += ["spatial_blocks.", "temporal_blocks."]
    return _begin(net, {**sound, **(video or {})}, tuple(new), (), where)


def _begin(net: VastDit, tensors: Mapping[str, torch.Tensor], new: tuple[str, ...], unused: tuple[str, ...], where) -> list[str]:
    fresh = [name for name in net.state_dict() if name.startswith(new)]
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith((*new, *unused))}
    hub.load_strict(net, given, where, ignore=[rf"^{re.escape(one)}" for one in new])
    return fresh


def tensors_of(path) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of all files of a folder, without what precedes `x_embedder.` in their names."""
    tensors, files = {}, {}
    for piece in pieces(path, ASK):
        for name, tensor in hub.tensors(piece, "").items():
            if name in tensors:
                raise FatalError(f"{path}: {files[name].name} and {piece.name} both hold {name}, as different states of a network do; name one of the files")
            tensors[name], files[name] = tensor, piece
    first = "x_embedder.proj.weight"
    before = [name[: -len(first)] for name in tensors if name == first or name.endswith(f".{first}")]
    if not before:
        raise FatalError(f"{path}: not JavisDiT's network (no {first}; it has {some(tensors)}); {ASK}")
    before = min(before, key=len)
    return {name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}
