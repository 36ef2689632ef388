"""Conditions of texts without weights."""

import torch
from torch import nn

from avtools.models.parts.tiny.words import Words


class WordQueries(nn.Module):
    """[str] -> (B, D) of unit length: the mean of the fixed random vectors of a text's first 16 words, whatever their order."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.words = dim, Words(dim)

    @torch.no_grad()
    def forward(self, texts: list[str]) -> torch.Tensor:
        return nn.functional.normalize(self.words(texts).sum(1), dim=-1)
