"""Pictures as packed pixels: a codec without weights, exact both ways."""

import torch
from torch import nn
from torch.nn import functional

MEAN, DEVIATION = 0.16, 0.1  # of the values 0..1 of synthetic clips


class SpaceToDepth(nn.Module):
    """Pictures (N, 3, h, w) within 0..1 <-> latents (N, 3 * factor**2, h / factor, w / factor), about standard normal."""

    def __init__(self, factor: int = 4):
        super().__init__()
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The latents' mean, and no deviation."""
        return functional.pixel_unshuffle((pictures - MEAN) / DEVIATION, self.factor), None

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return (functional.pixel_shuffle(latents.float(), self.factor) * DEVIATION + MEAN).clamp(0, 1)
