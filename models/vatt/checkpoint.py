"""Released weights of VATT Audio in and out, all strict (spec VATT, section 4).

Released: a Lightning `.ckpt` whose `state_dict` has the sound model under audio_token_decoder.* and the language model, which is
left to the converter, under encoder.* and (Gemma) embed_tokens.*.  It is memory-mapped: of 28 GB only what is used is read.  The same
names at the top level of any file will do as well.  The codebooks are not in it: they are the codec's.
"""

import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import torch

from avtools import hub
from avtools.errors import FatalError
from avtools.models.vatt import masking
from avtools.models.vatt.model import LAYOUTS, AudioNet, Size, positions

AUDIO, LANGUAGE = "audio_token_decoder.", ("encoder.", "embed_tokens.")
ROWS = 1000  # of the released table of positions
#: Released names, without AUDIO -> ours.  {b}: a block's number, of which its two sub-layers have 2b and 2b + 1.
_FIXED = {
    "modality_v": "condition_modality",
    "modality_a": "audio_modality",
    "embedding.special.MASK": "mask",
    "embedding.out_proj.weight": "embed.weight",
    "embedding.out_proj.bias": "embed.bias",
    "img_linear.weight": "project.weight",
    "img_linear.bias": "project.bias",
}
_STACKS, _EXPERTS = {"encoder": "first", "decoder": "second"}, {"A": "condition", "B": "audio"}
_LAYER = re.compile(r"(encoder|decoder)\.attn_layers\.layers\.(\d+)\.(.+)")
_FINAL = re.compile(r"(encoder|decoder)\.attn_layers\.final_norm\.((?:[AB]\.)?)(weight|bias)")
_HEAD = re.compile(r"classifier\.(\d+)\.weight")
_NORM = re.compile(r"0\.0\.((?:[AB]\.)?)(weight|bias)")
_PROJECTION = re.compile(r"1\.to_(q|k|v|out)\.weight")
_FEED = re.compile(r"1\.((?:[AB]\.)?)ff\.(0\.0|2)\.weight")


class Found(NamedTuple):
    """A released checkpoint: the sound model under our names, without codebooks; its shape; the language model's tensors as they are."""

    net: dict
    size: Size
    language: dict
    where: pathlib.Path


def read(path) -> Found:
    """A released checkpoint; FatalError where it is none."""
    path = pathlib.Path(path)
    try:
        tensors = hub.tensors(path, "state_dict")
    except FatalError as error:
        if "state_dict" not in str(error):
            raise
        tensors = hub.tensors(path)
    return found(tensors, path)


def found(tensors: dict, where) -> Found:
    """As :func:`read`, of tensors under released names."""
    audio = {name.removeprefix(AUDIO): tensor for name, tensor in tensors.items() if name.startswith(AUDIO)}
    language = {name: tensor for name, tensor in tensors.items() if name.startswith(LANGUAGE)}
    other = [name for name in tensors if not name.startswith((AUDIO, *LANGUAGE))]
    if not audio or other:
        what = f"unknown: {', '.join(other[:4])}" if other else f"no {AUDIO}*"
        raise FatalError(f"{where}: not VATT's sound model ({what}); give vatt_llama_T_final.ckpt or another of its released files")
    net = renamed(audio, where)
    return Found(net, told({name: tuple(tensor.shape) for name, tensor in net.items()}, where), language, pathlib.Path(where))


def told(shapes: dict[str, tuple[int, ...]], where) -> Size:
    """The shape of the network that tensors under our names belong to; layout and positions as in all released weights."""
    try:
        dim, latent = shapes["embed.weight"]
        blocks = [len([name for name in shapes if re.fullmatch(rf"{stack}\.blocks\.\d+\.attention\.q\.weight", name)]) for stack in ("first", "second")]
        inner = [shapes[f"{stack}.blocks.0.attention.q.weight"][0] for stack in ("first", "second")]
        heads = [width // Size.head_dim for width in inner]  # of 64 numbers each, whatever the width
        return Size(
            dim=dim, first_blocks=blocks[0], second_blocks=blocks[1], first_heads=heads[0], second_heads=heads[1],
            feed=shapes["second.blocks.0.feed.up.weight"][0] // dim, latent=latent, levels=shapes["mask"][0],
            codes=shapes["heads.weight"][0] // shapes["mask"][0], condition=shapes["project.weight"][1], layout="legacy", positions="padded",
        )  # fmt: skip
    except (KeyError, IndexError, ValueError) as error:
        raise FatalError(f"{where}: not VATT's sound model ({error}); give one of its released files") from None


def _renamed(name: str) -> str | None:
    """Our name of a released one; None where there is none."""
    if name in _FIXED:
        return _FIXED[name]
    if match := _FINAL.fullmatch(name):
        return f"{_STACKS[match[1]]}.norm.{_expert(match[2])}{match[3]}"
    if not (match := _LAYER.fullmatch(name)):
        return None
    stack, (block, feed), rest = _STACKS[match[1]], divmod(int(match[2]), 2), match[3]
    if norm := _NORM.fullmatch(rest):  # of the first stack: copies of one pair
        return f"{stack}.norm.{_expert(norm[1])}{norm[2]}" if norm[1] else f"{stack}.blocks.{block}.norm{1 + feed}.{norm[2]}"
    if not feed and (projection := _PROJECTION.fullmatch(rest)):
        return f"{stack}.blocks.{block}.attention.{projection[1]}.weight"
    if feed and (layer := _FEED.fullmatch(rest)):
        return f"{stack}.blocks.{block}.feed.{_expert(layer[1])}{'up' if layer[2] == '0.0' else 'down'}.weight"
    return None


def _expert(letter: str) -> str:
    return f"{_EXPERTS[letter[0]]}." if letter else ""


def renamed(tensors: dict, where) -> dict:
    """Released names, without AUDIO -> ours; FatalError: unknown names, copies of a shared norm that differ, another position table."""
    made, unknown, heads = {}, [], {}
    for name, tensor in tensors.items():
        if match := _HEAD.fullmatch(name):
            heads[int(match[1])] = tensor
            continue
        if name == "pos_embed":
            _check_positions(tensor, where)
            continue
        ours = _renamed(name)
        if ours is None:
            unknown.append(name)
        elif ours in made:
            if not tensor.is_meta and not torch.equal(made[ours], tensor):
                raise FatalError(f"{where}: {AUDIO}{name} differs from the other copies of the norm that they share; give a released file")
        else:
            made[ours] = tensor.flatten() if ours.endswith("_modality") else tensor
    if unknown:
        raise FatalError(f"{where}: {len(unknown)} unexpected: {', '.join(AUDIO + name for name in unknown[:8])}; give one of VATT's released files")
    if lacking := [f"{AUDIO}classifier.{level}.weight" for level in range(max(heads, default=0) + 1) if level not in heads]:
        raise FatalError(f"{where}: {len(lacking)} missing: {', '.join(lacking[:8])}; give one of VATT's released files")
    try:
        return made | {"heads.weight": torch.cat([heads[level] for level in sorted(heads)])}
    except RuntimeError:
        shapes = ", ".join(str(tuple(heads[level].shape)) for level in sorted(heads))
        raise FatalError(f"{where}: classifiers of several shapes ({shapes}); give one of VATT's released files") from None


def _check_positions(table: torch.Tensor, where) -> None:
    if table.is_meta:
        return
    known = positions(*table.shape[-2:])[None] if table.dim() == 3 else table.new_empty(0)
    if table.shape != known.shape or not torch.allclose(table.float(), known, atol=4e-3):  # half precision at most
        raise FatalError(f"{where}: {AUDIO}pos_embed is not the table of sines and cosines; give one of VATT's released files")


def released(net: AudioNet) -> dict[str, torch.Tensor]:
    """The network under released names, 330 of them for a full-size one; what only ours has is left out."""
    size, ours, made = net.size, net.state_dict(), {}
    names = list(_FIXED)
    for stack, blocks, experts in (("encoder", size.first_blocks, ("A.", "B.")), ("decoder", size.second_blocks, ("",))):
        start = f"{stack}.attn_layers."
        for layer in range(2 * blocks):
            inner = [f"ff.{part}.weight" for part in ("0.0", "2")]
            parts = [f"1.{e}{part}" for e in experts for part in inner] if layer % 2 else [f"1.to_{part}.weight" for part in ("q", "k", "v", "out")]
            norms = [f"0.0.{e}{part}" for e in experts for part in ("weight", "bias")]
            names += [f"{start}layers.{layer}.{part}" for part in (*norms, *parts)]
        names += [f"{start}final_norm.{e}{part}" for e in experts for part in ("weight", "bias")]
    for name in names:
        tensor = ours[_renamed(name)]
        made[AUDIO + name] = tensor.view(1, 1, -1) if name.startswith("modality_") else tensor
    made |= {f"{AUDIO}classifier.{level}.weight": head for level, head in enumerate(ours["heads.weight"].split(size.codes))}
    return made | {f"{AUDIO}pos_embed": positions(ROWS, size.dim)[None]}


def load(found: Found, codebooks: torch.Tensor, size: Size | None = None) -> AudioNet:
    """The network, in single precision on the CPU, with the codec's codebooks (K, V, D); `size`: ours, which may add to the released one.

    What released weights do not have (`visual`) begins with zeros, which add nothing.  FatalError where the tensors do not fit.
    """
    with torch.device("meta"):  # no first values that nobody needs; takes over the file's tensors
        net = AudioNet(size or found.size)
    fill(net, found, codebooks)
    return net


def fill(net: AudioNet, found: Found, codebooks: torch.Tensor) -> None:
    """As :func:`load`, into a network that is there."""
    added = {name: torch.zeros(tensor.shape) for name, tensor in net.state_dict().items() if name.startswith("visual.")}
    if tuple(codebooks.shape) != tuple(net.codebooks.shape):
        other = f"takes codebooks of shape {tuple(net.codebooks.shape)}, and the codec's are {tuple(codebooks.shape)}"
        raise FatalError(f"{found.where}: {other}; give AudioGen's codec")
    tensors = {name: tensor.float() for name, tensor in found.net.items()}
    hub.load_strict(net, {**added, **tensors, "codebooks": codebooks.float().clone()}, found.where)


# --- which layout ----------------------------------------------------------------------------------------------


@torch.no_grad()
def layout_of(net: AudioNet, clips: Iterable[tuple], share: float = 0.6, seed: int = 0) -> tuple[str, dict[str, float]]:
    """(the layout in which the network predicts masked tokens better, cross-entropy in each).

    `clips`: (tokens (B, K, T), states (B, L, C), mask or None, visual or None) of real sounds.  `share` of the tokens is masked.
    The network's settings stay as they are; nothing to look at: FatalError.
    """
    source, was = torch.Generator().manual_seed(seed), net.training
    sums, count = dict.fromkeys(LAYOUTS, 0.0), 0
    net.eval()
    try:
        for tokens, states, mask, visual in clips:
            hidden = (torch.rand(tokens.shape, generator=source) < share).to(tokens.device)
            logits = net(tokens.masked_fill(hidden, net.size.codes), states, mask, None, visual)
            for layout in LAYOUTS:
                sums[layout] += masking.cross_entropy(logits, tokens, hidden, layout)[0].sum().item()
            count += int(hidden.sum())
    finally:
        net.train(was)
    if not count:
        raise FatalError("no sound to tell the layout of logits by; give clips with sound, or set the layout")
    means = {layout: total / count for layout, total in sums.items()}
    return min(means, key=means.get), means
