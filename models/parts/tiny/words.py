"""Texts without weights: each word is a fixed random vector."""

import functools
import hashlib
import re

import torch
from torch import nn


class Words(nn.Module):
    """Texts -> (B, `count`, `dim`): a token for each of the first words, whatever their case, then zeros."""

    def __init__(self, dim: int, count: int = 16):
        super().__init__()
        self.dim, self.count = dim, count
        self.register_buffer("device", torch.zeros(()), persistent=False)

    def forward(self, texts: list[str]) -> torch.Tensor:
        made = torch.zeros(len(texts), self.count, self.dim)
        for row, text in zip(made, texts, strict=True):
            for token, word in zip(row, re.findall(r"\w+", text.lower()), strict=False):
                token.copy_(_vector(word, self.dim))
        return made.to(self.device)


@functools.lru_cache(4096)
def _vector(word: str, dim: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") >> 1
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed))
