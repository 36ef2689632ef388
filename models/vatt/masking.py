"""What is masked in training, and which logit is scored against which token (spec VATT, section 3).

Layouts.  "aligned": head k's row t predicts level k of frame t.  "legacy": the original flattened logits as (level, frame) but
their targets as (frame, level), so that head k's row t is trained on token p = k T + t of the latter order, level p mod K of frame
p // K.  It sampled in the same way, so released weights are right with themselves, and need it.
"""

import dataclasses
import math

import torch
from torch.nn import functional

from avtools.training import draws as drawing

IGNORED = -1  # target of what was not masked


# --- how much ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Share of tokens that are masked: normal, truncated (published: mean 0.55 with Vicuna, 0.75 with Gemma)."""

    mean: float = 0.75
    deviation: float = 0.25  # both before truncation
    low: float = 0.5
    high: float = 1.0

    def _ends(self) -> torch.Tensor:
        return torch.special.ndtr((torch.tensor([self.low, self.high], dtype=torch.float64) - self.mean) / self.deviation)

    def quantile(self, u: torch.Tensor) -> torch.Tensor:
        """Uniform numbers in [0, 1] -> shares, float64."""
        low, high = self._ends()
        return (self.mean + self.deviation * torch.special.ndtri(low + u.double() * (high - low))).clamp(self.low, self.high)

    def cumulative(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`quantile`."""
        low, high = self._ends()
        return ((torch.special.ndtr((x.double() - self.mean) / self.deviation) - low) / (high - low)).clamp(0, 1)


def masks(draws, shape: tuple[int, int], ratio: Ratio, per_batch: bool = False) -> torch.Tensor:
    """(B, K, T) bool, True: masked; each token by itself, with its item's share (`per_batch`, published: the first item's for all).

    At least one token of each item is masked.  On the CPU; every number comes from the items' own `draws`.
    """
    uniform = drawing.uniform(draws, "mask-ratio")
    shares = ratio.quantile(uniform[:1].expand_as(uniform) if per_batch else uniform).float()
    noise = torch.stack([torch.rand(shape, generator=drawing.generator(int(draw), "mask")) for draw in draws])
    return (noise < shares[:, None, None]) | (noise == noise.amin((1, 2), keepdim=True))


# --- which -------------------------------------------------------------------------------------------------


def targets(tokens: torch.Tensor, mask: torch.Tensor, layout: str) -> torch.Tensor:
    """(B, K, T) tokens -> (B, K T) what the logits (B, K, T, V), flattened as they are, are scored against; IGNORED if not masked."""
    sought = tokens.masked_fill(~mask.bool(), IGNORED)
    return (sought.transpose(1, 2) if layout == "legacy" else sought).flatten(1)


def slots(frames: int, levels: int, layout: str, device=None) -> torch.Tensor:
    """(T K,) for each token, frame by frame: which of the logits, row by row with a row's heads one behind the other, is its own."""
    tokens = torch.arange(frames * levels, device=device)
    return tokens % frames * levels + tokens // frames if layout == "legacy" else tokens


def cross_entropy(
    logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, layout: str, smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per item (B,): the sum over its masked tokens, in single precision, and how many there are.

    The published loss is the sum of the first over the sum of the second, with a smoothing of 0.1.
    """
    sought = targets(tokens, mask, layout).view_as(tokens).transpose(1, 2).flatten(1)  # as logits lie in memory
    rows = logits.transpose(1, 2).flatten(0, 2).float()
    each = functional.cross_entropy(rows, sought.flatten(), ignore_index=IGNORED, label_smoothing=smoothing, reduction="none")
    return each.view_as(sought).sum(1), (sought != IGNORED).sum(1)


# --- how fast ------------------------------------------------------------------------------------------------


def audio_rate(step: int, warmup: int, cycle: int) -> float:
    """The share of the learning rate at a step, from 0, as published: it drops where warm-up ends, and stays 0 after the cycle."""
    if step < warmup:
        return 1e-6 + (1 - 1e-6) * step / warmup
    return max(0.0, (cycle - step) / cycle)


def converter_rate(step: int, warmup: int, total: int) -> float:
    """As :func:`audio_rate`, of the converter: linear from 0 and to 0."""
    return step / warmup if step < warmup else max(0.0, (total - step) / max(1, total - warmup))


def remask_counts(tokens: int, steps: int) -> list[int]:
    """How many tokens are masked again after each step of decoding, of `tokens` at first: a cosine, but ever fewer, and at last none.

    In single precision, as published: 47 of 96 tokens after 8 of 12 steps, where exact arithmetic gives 48.
    """
    counts, left = [], tokens
    for step in range(1, steps):
        share = torch.cos(torch.tensor(step / steps, dtype=torch.float32) * math.pi * 0.5)
        left = max(1, min(int(torch.floor(share * tokens)), left - 1))
        counts.append(left)
    return [*counts, 0]
