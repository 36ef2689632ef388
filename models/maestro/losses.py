"""What the condition injection module learns from (spec MAESTRO, section 1.3): clips paired with frames, and the two losses."""

from typing import NamedTuple

import torch
from torch.nn import functional

DENOISING, TEXT = 0.9, 0.1  # the original's weights


def interpolate(tokens: torch.Tensor, count: int | None = None) -> torch.Tensor:
    """Tokens of a video's K clips (..., K, L, C) -> (..., `count`, L, C), evenly from the first clip to the last, linearly between
    neighbours; by default 2K - 1, so the average of each two neighbours comes between them, as in the original."""
    clips = tokens.shape[-3]
    count = 2 * clips - 1 if count is None else count
    evenly = torch.linspace(0, clips - 1, count, dtype=torch.float64) if count > 1 else torch.full((count,), (clips - 1) / 2)
    return at_times(tokens, torch.arange(clips), evenly)


def at_times(tokens: torch.Tensor, middles, times) -> torch.Tensor:
    """Tokens of a video's K clips (..., K, L, C), whose middles are at `middles` (K,), ascending -> those of `times` (T,), linearly
    between neighbours, of the first and last clip beyond them: (..., T, L, C).

    `middles` and `times` in one unit, seconds of the sound for instance; so each frame is paired with what is heard around it,
    whatever numbers of clips and frames there are.
    """
    middles, times = (torch.as_tensor(one, dtype=torch.float64, device=tokens.device) for one in (middles, times))
    if len(middles) != tokens.shape[-3]:
        raise ValueError(f"{tokens.shape[-3]} clips, and {len(middles)} middles")
    after = torch.searchsorted(middles, times).clamp(max=len(middles) - 1)
    before = (after - 1).clamp(min=0)
    gap = (middles[after] - middles[before]).clamp(min=1e-9)
    share = ((times - middles[before]) / gap).clamp(0, 1).to(tokens.dtype)[:, None, None]
    return tokens[..., before, :, :] * (1 - share) + tokens[..., after, :, :] * share


class Losses(NamedTuple):
    total: torch.Tensor
    denoising: torch.Tensor
    text: torch.Tensor


def losses(prediction: torch.Tensor, target: torch.Tensor, heard: torch.Tensor, label: torch.Tensor, denoising: float = DENOISING, text: float = TEXT) -> Losses:
    """The weighted sum of both mean squared errors, and each by itself; in single precision.

    `prediction` and `target`: of the network, any equal shapes.  `heard`: the prompts with the sounds' tokens in their places
    (B, F, 77, D) or (F, 77, D); `label`: the encoded names of the classes, (B, 77, D) or (77, D), the same in all F frames.  The
    mean is over all places, as in the original, so those that hold no sound dilute the second error.  All videos count alike.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)}, target {tuple(target.shape)}")
    named = label.unsqueeze(-3).expand(heard.shape)
    errors = functional.mse_loss(prediction.float(), target.float()), functional.mse_loss(heard.float(), named.float())
    return Losses(denoising * errors[0] + text * errors[1], *errors)
