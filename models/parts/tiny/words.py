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
            for token, word in zip(row, spelt(text), strict=False):
                token.copy_(_vector(word, self.dim))
        return made.to(self.device)


class Prompts(nn.Module):
    """Texts -> (B, `places`, `dim`) as CLIP has them: a begin, a token for each word, an end, zeros; what is too long is cut before its end."""

    def __init__(self, dim: int, places: int = 77):
        super().__init__()
        self.dim, self.places = dim, places
        self.register_buffer("device", torch.zeros(()), persistent=False)

    def forward(self, texts: list[str]) -> torch.Tensor:
        made = torch.zeros(len(texts), self.places, self.dim)
        for row, text in zip(made, texts, strict=True):
            for token, word in zip(row, ["<begin>", *spelt(text)[: self.places - 2], "<end>"], strict=False):
                token.copy_(_vector(word, self.dim))
        return made.to(self.device)

    def ends(self, texts: list[str]) -> list[int]:
        """The places of their ends."""
        return [min(len(spelt(text)), self.places - 2) + 1 for text in texts]


def spelt(text: str) -> list[str]:
    """The words of a text."""
    return re.findall(r"\w+", text.lower())


@functools.lru_cache(4096)
def _vector(word: str, dim: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") >> 1
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed))
