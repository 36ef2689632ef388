"""The condition injection module: a Perceiver resampler from ImageBind's sound tokens to tokens of a text space (spec MAESTRO, section 1.2).

Parameters have the names of the released `perceiver.pth`.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.errors import FatalError

FILE = "perceiver.pth"  # in a `checkpoint-N` folder of the original's trainer
WRAPPER = "module."  # what training on several devices puts before every name


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a resampler; the defaults are the released one's (71.09 M parameters)."""

    dim: int = 1024  # of its latents
    depth: int = 6
    heads: int = 12
    dim_head: int = 64  # heads x dim_head need not be dim
    queries: int = 10  # tokens made of each clip
    input_dim: int = 768  # of the sound's tokens
    output_dim: int = 1024  # of the text space
    ff_mult: int = 4


class Attention(nn.Module):
    """Latents (N, q, dim) that attend to tokens (N, L, dim) and to themselves."""

    def __init__(self, dim: int, heads: int, dim_head: int):
        super().__init__()
        inner, self.heads = heads * dim_head, heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)  # of the tokens, of the latents
        self.to_q, self.to_kv = nn.Linear(dim, inner, bias=False), nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        x, latents = self.norm1(x), self.norm2(latents)
        q, (k, v) = self.to_q(latents), self.to_kv(torch.cat([x, latents], 1)).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """Tokens of clips (N, L, input_dim), any L -> (N, queries, output_dim), each clip by itself."""

    def __init__(self, size: Size | None = None):
        super().__init__()
        self.size = size = size or Size()
        self.latents = nn.Parameter(torch.randn(1, size.queries, size.dim) * size.dim**-0.5)
        self.proj_in, self.proj_out = nn.Linear(size.input_dim, size.dim), nn.Linear(size.dim, size.output_dim)
        self.norm_out = nn.LayerNorm(size.output_dim)
        wide = size.dim * size.ff_mult
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Attention(size.dim, size.heads, size.dim_head),
                    nn.Sequential(nn.LayerNorm(size.dim), nn.Linear(size.dim, wide, bias=False), nn.GELU(), nn.Linear(wide, size.dim, bias=False)),
                ]
            )
            for _ in range(size.depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj_in(x)
        latents = self.latents.expand(len(x), -1, -1)  # summed up in the weights' own precision, under autocast too
        for attention, forward in self.layers:
            latents = latents + attention(x, latents)
            latents = latents + forward(latents)
        return self.norm_out(self.proj_out(latents))


def load_resampler(source: str | os.PathLike | Mapping[str, torch.Tensor], dim_head: int = Size.dim_head, where: str | None = None) -> Resampler:
    """The resampler of a file, of a `checkpoint-N` folder with `perceiver.pth`, or of named tensors; on the CPU, single precision.

    Its size is read from the shapes, but for the width of a head, which leaves no trace in them.  Names may begin with `module.`.
    `where`: what an error calls named tensors.  FatalError lists what does not fit.
    """
    if isinstance(source, Mapping):
        state, where = dict(source), where or "these weights"
    else:
        path = file_of(source)
        state, where = hub.tensors(path), str(path)
    state = {name.removeprefix(WRAPPER): tensor for name, tensor in state.items()}
    size = size_of(state, where, dim_head)
    if state["latents"].is_meta:
        with torch.device("meta"):
            made = Resampler(size)
    else:
        made = Resampler(size)
    hub.load_strict(made, state, where)
    return made


def file_of(source: str | os.PathLike) -> pathlib.Path:
    """The file that `source` means: itself, or the perceiver.pth in a folder; FatalError where there is none."""
    path = pathlib.Path(source)
    if not path.is_dir():
        return path
    if (path / FILE).is_file():
        return path / FILE
    raise FatalError(f"{path}: has no {FILE}; give the checkpoint-N folder that MAESTRO's trainer wrote, or the file itself")


def size_of(state: Mapping[str, torch.Tensor], where: str, dim_head: int = Size.dim_head) -> Size:
    """What the shapes of a resampler's weights tell; FatalError where they are of something else."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    depth = 1 + max((int(match[1]) for name in shapes if (match := re.match(r"layers\.(\d+)\.", name))), default=-1)
    try:
        (_, queries, dim), (output_dim, _), (_, input_dim) = (shapes[name] for name in ("latents", "proj_out.weight", "proj_in.weight"))
        inner, wide = shapes["layers.0.0.to_q.weight"][0], shapes["layers.0.1.1.weight"][0]
    except (KeyError, ValueError, IndexError):
        told = f"its names begin with {', '.join(list(shapes)[:3])}" if shapes else "it has no tensors"
        raise FatalError(f"{where}: no weights of MAESTRO's resampler (latents, proj_in, layers.0.0.to_q, ...; {told}); give {FILE}") from None
    if inner % dim_head or wide % dim:
        raise FatalError(f"{where}: its attention is {inner} wide, which is no multiple of {dim_head} (width of a head); give the checkpoint of this configuration")
    return Size(dim, depth, inner // dim_head, dim_head, queries, input_dim, output_dim, wide // dim)
