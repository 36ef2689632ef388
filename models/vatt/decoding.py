"""Masked tokens -> sound tokens, in parallel over a few steps (Chang et al. 2022, arXiv:2202.04200; spec VATT, section 3, "Decoding").

All items of a batch go through a step together.  Every draw of an item comes from its own generator, two for each token and step, so
an item's tokens do not depend on which others it is decoded with.
"""

import dataclasses
import math
from collections.abc import Callable

import torch

from avtools.errors import UsageError
from avtools.models.vatt.masking import remask_counts, slots


@dataclasses.dataclass(frozen=True)
class Settings:
    """How tokens are drawn; the defaults are those of the published scripts."""

    steps: int = 16
    guidance: float = 5.0  # 1: none
    top_k: int = 256  # codes that may be drawn; 0: all
    temperature: float = 1.0  # of the draw; 0: the likeliest code
    mask_temperature: float = 25.5  # of the noise that decides which tokens are drawn again; falls to 0 at the last step

    def check(self) -> None:
        """UsageError where a number makes no sense."""
        if self.steps < 1:
            raise UsageError(f"--steps {self.steps}: at least 1")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise UsageError(f"--guidance {self.guidance:g}: a number from 0; 1 means none")
        if self.top_k < 0:
            raise UsageError(f"sampling.top_k {self.top_k}: codes that may be drawn, 0 for all")
        for name in ("temperature", "mask_temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"sampling.{name} {getattr(self, name):g}: a number from 0")

    def noise(self, step: int) -> float:
        """The temperature of the re-mask noise at a step, from 0."""
        return self.mask_temperature * (1 - (step + 1) / self.steps)


def uniforms(generators: list[torch.Generator], count: int) -> torch.Tensor:
    """(B, 2, `count`) uniform numbers in [0, 1), each item's from its own generator: for codes, and for the re-mask noise."""
    return torch.stack([torch.rand(2, count, generator=one) for one in generators])


def gumbel(uniform: torch.Tensor) -> torch.Tensor:
    return -torch.log(-torch.log(uniform.double().clamp(1e-20, 1 - 1e-16))).float()


def draw(logits: torch.Tensor, settings: Settings, u: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., V) logits, (...) uniform numbers -> codes and the probability of each among those that may be drawn.

    A code is the first, in the order of numbers, up to which the probabilities sum to more than `u`.
    """
    codes = logits.shape[-1]
    which = None
    if 0 < settings.top_k < codes:
        which = logits.topk(settings.top_k, sorted=False).indices.sort(-1).values
        logits = logits.gather(-1, which)
    if settings.temperature == 0 or u is None:
        shares = logits.softmax(-1)
        found = logits.argmax(-1, keepdim=True)
    else:
        shares = (logits / settings.temperature).softmax(-1)
        sums = shares.cumsum(-1)
        found = (sums <= u[..., None] * sums[..., -1:]).sum(-1, keepdim=True).clamp(max=shares.shape[-1] - 1)
    probability = shares.gather(-1, found)[..., 0]
    return (found if which is None else which.gather(-1, found))[..., 0], probability


@torch.no_grad()
def decode(
    net,
    states: torch.Tensor,
    mask: torch.Tensor | None,
    frames: int,
    settings: Settings,
    generators: list[torch.Generator] | None = None,
    visual: torch.Tensor | None = None,
    begin: torch.Tensor | None = None,
    draws: Callable[[int], tuple[torch.Tensor, torch.Tensor]] | None = None,
    watch: Callable[[int, dict], None] | None = None,
) -> torch.Tensor:
    """Tokens (B, K, `frames`), int64, for a batch of conditions as :class:`AudioNet` takes them.

    `begin` (B, K, `frames`): tokens that are known, MASK elsewhere, as many in each item; for what continues a sound.
    For tests: `draws(step)` gives u and Gumbel noise (B, frames K), frame by frame; `watch(step, {...})` sees a step, in which codes
    are then drawn for known tokens too.
    """
    size, batch, device = net.size, len(states), states.device
    unknown = size.codes
    guided = settings.guidance != 1
    if guided:
        keep = torch.cat([torch.ones(batch, dtype=torch.bool, device=device), torch.zeros(batch, dtype=torch.bool, device=device)])
        twice = [None if one is None else torch.cat([one, one]) for one in (states, mask, visual)]
        condition = net.conditioned(twice[0], twice[1], keep, twice[2])
    else:
        condition = net.conditioned(states, mask, None, visual)
    count = frames * size.levels
    tokens = torch.full((batch, size.levels, frames), unknown, device=device) if begin is None else begin.to(device)
    flat = tokens.transpose(1, 2).flatten(1)  # (B, frames K), frame by frame
    sought = (flat == unknown).sum(1).tolist()
    if len(set(sought)) > 1:
        raise ValueError(f"items of a batch with {min(sought)} to {max(sought)} tokens to be found: one number for all")
    item, slot = torch.arange(batch, device=device)[:, None], slots(frames, size.levels, size.layout, device)
    open_ = (flat == unknown).long().topk(sought[0], sorted=False).indices  # (B, N) tokens to be found
    for step, again in enumerate(remask_counts(sought[0], settings.steps) if sought[0] else []):
        made = net.logits(torch.cat([tokens, tokens]) if guided else tokens, condition).transpose(1, 2).flatten(1, 2)
        where = open_ if watch is None else torch.arange(count, device=device).expand(batch, -1)
        logits = made[item, slot[where]].float()
        if guided:
            null = made[batch + item, slot[where]].float()
            logits = null + settings.guidance * (logits - null)
        if draws is not None:
            u, noise = (one.to(device) for one in draws(step))
        elif generators is not None:
            both = uniforms(generators, count)
            u, noise = both[:, 0].to(device), gumbel(both[:, 1]).to(device)
        else:
            u = noise = None
        code, probability = draw(logits, settings, None if u is None else u.gather(1, where))
        drawn = torch.full_like(flat, unknown).scatter(1, where, code)
        probability = torch.zeros(flat.shape, device=device).scatter(1, where, probability).masked_fill(flat != unknown, math.inf)
        confidence = probability.log()
        if noise is not None:
            confidence = confidence + settings.noise(step) * noise
        if watch is not None:
            watch(step, {"tokens": tokens, "logits": made, "drawn": drawn, "probability": probability, "confidence": confidence, "again": again})
        open_ = confidence.topk(again, largest=False, sorted=False).indices
        flat = torch.where(flat == unknown, drawn, flat).scatter(1, open_, unknown)
        tokens = flat.view(batch, frames, size.levels).transpose(1, 2)
    return tokens.contiguous()
