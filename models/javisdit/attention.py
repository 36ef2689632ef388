"""The blocks of the transformer: within a stream, to text, to priors, between picture and sound (spec JavisDiT, section 3).

Module names are those of the released layout.  All attention is `scaled_dot_product_attention`: no matrix of similarities is kept.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from avtools.models.javisdit.positions import rotated, time_angles

EPS = 1e-6  # of norms, which have no weights


class Text(NamedTuple):
    """A projected caption: states (B, N, C), and which of them count, (B, N) bool, None where all do."""

    states: torch.Tensor
    counts: torch.Tensor | None


class Signals(NamedTuple):
    """What modulates the tokens of each frame: (B, 1 or T, n, C), the n vectors of a block without its table."""

    main: torch.Tensor
    prior: torch.Tensor | None


def split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: torch.Tensor) -> torch.Tensor:
    """(B, heads, N, D) -> (B, N, heads * D)."""
    return x.transpose(1, 2).flatten(2)


def normed(x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=EPS)


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return normed(x) * (1 + scale) + shift


def per_frame(signals: torch.Tensor, table: torch.Tensor) -> list[torch.Tensor]:
    """(B, F, n, C) and a block's table (n, C) -> n vectors (B, F, 1, C), for the tokens (B, T, S, C) of F = 1 or T frames."""
    return [one[:, :, None] for one in (signals + table).unbind(2)]


class Mlp(nn.Module):
    def __init__(self, dim: int, wide: int, out: int | None = None):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, wide), nn.Linear(wide, out or dim)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class RmsNorm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return functional.rms_norm(x.float(), x.shape[-1:], self.weight.float(), EPS).to(x.dtype)


class SelfAttention(nn.Module):
    """(B, N, C) -> (B, N, C); `angles` (N, C / heads / 2): places to rotate by."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = RmsNorm(dim // heads), RmsNorm(dim // heads)

    def forward(self, x, angles: torch.Tensor | None = None):
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        return self.proj(joined(functional.scaled_dot_product_attention(q, k, v)))


class CrossAttention(nn.Module):
    """Tokens (B, N, C) to others (B or 1, M, C), of which `counts` (B, M) says which there are."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_linear, self.kv_linear, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x, others, counts: torch.Tensor | None = None):
        q, (k, v) = split(self.q_linear(x), self.heads), (split(part, self.heads) for part in self.kv_linear(others).chunk(2, -1))
        k, v = (part.expand(len(x), -1, -1, -1) for part in (k, v))
        mask = None if counts is None else counts[:, None, None]
        return self.proj(joined(functional.scaled_dot_product_attention(q, k, v, mask)))


class Block(nn.Module):
    """Tokens (B, T, S, C): self-attention within each frame or, `temporal`, at each place through time; then to the text; then MLP.

    The first and the last are modulated and gated, that to the text neither normed nor gated.
    """

    def __init__(self, dim: int, heads: int, wide: int, temporal: bool):
        super().__init__()
        self.temporal = temporal
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn, self.cross_attn, self.mlp = SelfAttention(dim, heads), CrossAttention(dim, heads), Mlp(dim, wide)

    def forward(self, x, text: Text, signals: Signals, angles: torch.Tensor | None = None):
        frames = x.shape[1]
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = per_frame(signals.main, self.scale_shift_table)
        seen = modulated(x, shift, scale)
        if self.temporal:
            seen = self.attn(seen.transpose(1, 2).flatten(0, 1), angles).unflatten(0, (len(x), -1)).transpose(1, 2)
        else:
            seen = self.attn(seen.flatten(0, 1)).unflatten(0, (len(x), frames))
        x = x + gate * seen
        x = x + self.cross_attn(x.flatten(1, 2), *text).unflatten(1, (frames, -1))
        return x + gate_mlp * self.mlp(modulated(x, shift_mlp, scale_mlp))


class PriorBlock(nn.Module):
    """Tokens (B, T, S, C) to the spatial priors (B, L, C), then to the temporal ones, then MLP; each modulated and gated.

    It is the identity at first.  A query sees all priors of its sample wherever it is, so that neither frames nor places
    need be told apart.  Priors (1, L, C) are seen by all samples.
    """

    def __init__(self, dim: int, heads: int, wide: int):
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(9, dim) / dim**0.5)
        self.spatial_cross_attn, self.temporal_cross_attn, self.mlp = CrossAttention(dim, heads), CrossAttention(dim, heads), Mlp(dim, wide)
        for last in (self.spatial_cross_attn.proj, self.temporal_cross_attn.proj, self.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x, spatial, temporal, signals: Signals):
        vectors = per_frame(signals.prior, self.scale_shift_table)
        ways = (self.spatial_cross_attn, spatial, vectors[:3]), (self.temporal_cross_attn, temporal, vectors[3:6])
        for attention, priors, (shift, scale, gate) in ways:
            x = x + gate * attention(modulated(x, shift, scale).flatten(1, 2), priors).unflatten(1, x.shape[1:3])
        shift, scale, gate = vectors[6:]
        return x + gate * self.mlp(modulated(x, shift, scale))


class Both(nn.Module):
    """Attention both ways between (B, N, C) and (B, M, C), through half the channels.

    One similarity serves both: its rows' softmax takes m2's values to m1, its columns' m1's values to m2.  Each is a call of
    its own, as `scaled_dot_product_attention` keeps no matrix: of 12,150 and 448 tokens that would be 5.4 million numbers for each head
    and sample, several times over.

    `positions`: "rotary" turns queries and keys by angles of their seconds (B or 1, N), "sinusoidal" adds those angles' cosines and sines,
    so that either way similarity falls with the distance in time; "none" (published) knows no time.
    """

    def __init__(self, dim: int, heads: int, positions: str = "none"):
        super().__init__()
        self.heads, self.positions = heads, positions
        for one in ("m1", "m2"):
            self.add_module(f"{one}_proj", nn.Linear(dim, dim // 2))
            self.add_module(f"values_{one}_proj", nn.Linear(dim, dim // 2))
            self.add_module(f"out_{one}_proj", nn.Linear(dim // 2, dim))
        self.reset()

    def reset(self) -> None:
        if self.positions == "rotary":  # so that, before anything is learned, what happens together attends to each other
            for layer in (self.m1_proj, self.m2_proj):
                nn.init.ones_(layer.bias)

    def placed(self, x: torch.Tensor, seconds: torch.Tensor | None) -> torch.Tensor:
        """Queries or keys (B, heads, N, D) with what `seconds` (B or 1, N) add to them."""
        if self.positions == "none":
            return x
        angles = time_angles(seconds, x.shape[-1])[:, None]
        if self.positions == "rotary":
            return rotated(x, angles)
        code = functional.pad(torch.cat([angles.cos(), angles.sin()], -1), (0, x.shape[-1] % 2))
        return x + code.to(x.dtype)

    def forward(self, m1, m2, seconds1=None, seconds2=None):
        k1, k2 = (self.placed(split(layer(x), self.heads), s) for layer, x, s in ((self.m1_proj, m1, seconds1), (self.m2_proj, m2, seconds2)))
        v1, v2 = split(self.values_m1_proj(m1), self.heads), split(self.values_m2_proj(m2), self.heads)
        made1, made2 = attend_both(k1, k2, v1, v2)
        return self.out_m1_proj(joined(made1)), self.out_m2_proj(joined(made2))


def attend_both(k1, k2, v1, v2) -> tuple[torch.Tensor, torch.Tensor]:
    """What (B, heads, N, D) gets of (B, heads, M, D), and the other way round."""
    return functional.scaled_dot_product_attention(k1, k2, v2), functional.scaled_dot_product_attention(k2, k1, v1)


class BothBlock(nn.Module):
    """Video and sound tokens, each with what it gets of the other added, by gains for each channel that begin at 0."""

    def __init__(self, dim: int, heads: int, positions: str = "none"):
        super().__init__()
        self.gamma_m1, self.gamma_m2 = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.cross_attn = Both(dim, heads, positions)

    def forward(self, m1, m2, seconds1=None, seconds2=None):
        made1, made2 = self.cross_attn(normed(m1), normed(m2), seconds1, seconds2)
        return m1 + self.gamma_m1 * made1, m2 + self.gamma_m2 * made2


class Final(nn.Module):
    """Tokens (B, T, S, C) -> (B, T, S, numbers of a patch), from the vector of the time (B, C), and that of time 0 for clean frames.

    `legacy`: clean frames (`made` (B, T) is 0) are normed and modulated for the time, then again for time 0, as the
    original has it.  Nothing reads what comes of them.
    """

    def __init__(self, dim: int, numbers: int, legacy: bool = False):
        super().__init__()
        self.legacy = legacy
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.linear = nn.Linear(dim, numbers)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x, time, still=None, made=None):
        x, clean = self._modulated(x, time), x
        if made is not None:
            clean = self._modulated(x if self.legacy else clean, still)
            x = torch.where(made[:, :, None, None], x, clean)
        return self.linear(x)

    def _modulated(self, x, time):
        return modulated(x, *per_frame(time[:, None, None].expand(-1, -1, 2, -1), self.scale_shift_table))
