"""Bidirectional transformers with linear position biases (ALiBi: Press et al. 2022, arXiv:2108.12409; spec VATT, section 3).

The bias is one (1, H, N, N) tensor for the whole batch.  Which keys are padding differs from item to item; instead of adding
that to the bias, which would make it B times as large, each query and key has some more dimensions: 1 in the query, 0 or a large
negative number in the key, whose product is what a mask would add.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional

MORE = 8  # dimensions for padding: kernels want multiples of 8
FAR = -60_000.0  # of padded keys, before the scale: half precision holds it, and exp() of an eighth of it is 0
ALIGN = 8  # elements: fused kernels copy a bias whose rows begin elsewhere


def slopes(heads: int) -> torch.Tensor:
    """(H,) slope of each head: 2^(-8 h / H), h from 1; where H is no power of two, as the paper says: of the power below it,
    then every second one of the power above."""
    whole = 2 ** math.floor(math.log2(heads))
    made = [2 ** (-8 * h / whole) for h in range(1, whole + 1)]
    made += [2 ** (-8 * h / (2 * whole)) for h in range(1, 2 * whole + 1, 2)][: heads - whole]
    return torch.tensor(made)


def alibi(heads: int, length: int, device=None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(1, H, N, N) biases -slope |i - j|; rows begin at multiples of :data:`ALIGN` elements."""
    places = torch.arange(length, device=device, dtype=torch.float32)
    made = torch.zeros(1, heads, length, length + -length % ALIGN, device=device, dtype=dtype)[..., :length]
    return made.copy_(-(places[:, None] - places).abs() * slopes(heads).to(device)[:, None, None])


class Around(NamedTuple):
    """What attention looks at beside the rows: the biases, and which rows count, (B, N) bool, None where all do."""

    bias: torch.Tensor
    counts: torch.Tensor | None


class Norm(nn.LayerNorm):
    """As `nn.LayerNorm`, called as :class:`Ways` is."""

    def forward(self, x, split=None):
        return super().forward(x)


class FeedForward(nn.Module):
    """(B, N, D) -> (B, N, D) through `wide` units, exact GELU, without biases."""

    def __init__(self, dim: int, wide: int, dropout: float):
        super().__init__()
        self.up, self.down, self.dropout = nn.Linear(dim, wide, bias=False), nn.Linear(wide, dim, bias=False), dropout

    def forward(self, x, split=None):
        return self.down(functional.dropout(functional.gelu(self.up(x)), self.dropout, self.training))


class Ways(nn.Module):
    """Two layers of a kind: `condition` for the first `split` rows, `audio` for those after them."""

    def __init__(self, make):
        super().__init__()
        self.condition, self.audio = make(), make()

    def forward(self, x, split: int):
        return torch.cat([self.condition(x[:, :split]), self.audio(x[:, split:])], 1)


class Attention(nn.Module):
    """(B, N, D) -> (B, N, D), every row to every row that counts; what comes of rows that do not is zero."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.heads, self.head_dim, self.dropout = heads, head_dim, dropout
        self.q, self.k, self.v = (nn.Linear(dim, heads * head_dim, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x, around: Around):
        batch, rows, _ = x.shape
        q, k, v = (layer(x).view(batch, rows, self.heads, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if around.counts is not None:
            more = q.new_zeros(batch, 1, rows, MORE)
            ones, far = more.clone(), more.clone()
            ones[..., 0] = 1
            far[..., 0] = (~around.counts).to(q)[:, None] * FAR
            # values too: fused kernels on the CPU want them as wide as the keys
            q, k, v = (torch.cat([part, rest.expand(-1, self.heads, -1, -1)], -1) for part, rest in ((q, ones), (k, far), (v, more)))
        dropout = self.dropout if self.training else 0.0
        made = functional.scaled_dot_product_attention(q, k, v, around.bias.to(q.dtype), dropout, scale=self.head_dim**-0.5)
        made = self.out(made[..., : self.head_dim].transpose(1, 2).reshape(batch, rows, -1))
        return made if around.counts is None else made * around.counts[..., None]


class Block(nn.Module):
    """Attention and feed-forward, each added to what it is made of; `split` and `norm`: of a stack in two ways."""

    def __init__(self, dim: int, heads: int, head_dim: int, wide: int, dropout: float, ways: bool):
        super().__init__()
        feed = partial(FeedForward, dim, wide, dropout)
        self.attention = Attention(dim, heads, head_dim, dropout)
        self.feed = Ways(feed) if ways else feed()
        self.norm1, self.norm2 = (None, None) if ways else (Norm(dim), Norm(dim))

    def forward(self, x, split: int, around: Around, norm=None):
        x = x + self.attention((norm or self.norm1)(x, split), around)
        return x + self.feed((norm or self.norm2)(x, split), split)


class Stack(nn.Module):
    """(B, N, D) -> (B, N, D): blocks, then a norm.

    In two `ways`, condition rows and audio rows share attention but have feed-forward layers of their own; they have one norm
    each, which all sub-layers and the end of the stack share, as the original has it.
    """

    def __init__(self, dim: int, blocks: int, heads: int, head_dim: int, wide: int, dropout: float, ways: bool, checkpointing: bool = False):
        super().__init__()
        self.ways, self.heads, self.checkpointing = ways, heads, checkpointing
        self.blocks = nn.ModuleList(Block(dim, heads, head_dim, wide, dropout, ways) for _ in range(blocks))
        self.norm = Ways(partial(Norm, dim)) if ways else Norm(dim)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """First values: the deeper a sub-layer, the smaller (published)."""
        for number, block in enumerate(self.blocks):
            for depth, part in ((2 * number + 1, block.attention), (2 * number + 2, block.feed)):
                for layer in part.modules():
                    if isinstance(layer, nn.Linear) and not layer.weight.is_meta:
                        deviation = layer.in_features**-0.5 / math.sqrt(2 * depth)
                        nn.init.trunc_normal_(layer.weight, std=deviation, a=-3 * deviation, b=3 * deviation)

    def forward(self, x, split: int, around: Around):
        shared = self.norm if self.ways else None
        for block in self.blocks:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, split, around, shared, use_reentrant=False)
            else:
                x = block(x, split, around, shared)
        return self.norm(x, split)
