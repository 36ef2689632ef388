"""Randomness that depends on what is drawn for, never on batch, rank or order.

A *draw* is an integer that stands for one item in one epoch; everything random about the item comes from it.
"""

import hashlib

import torch


def draw_of(*what) -> int:
    """63 bits from (seed, epoch, key, ...)."""
    text = "\0".join(map(str, what)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(draw: int, purpose: str, device="cpu") -> torch.Generator:
    """A generator for one purpose of one draw; on the CPU the numbers are the same everywhere."""
    return torch.Generator(device).manual_seed(draw_of(draw, purpose))


def normal(draws, purpose: str, shape: tuple[int, ...], device="cpu") -> torch.Tensor:
    """(B, *shape) standard normal numbers, one draw each; made on the CPU, so alike on all devices."""
    return torch.stack([torch.randn(shape, generator=generator(int(draw), purpose)) for draw in draws]).to(device)


def uniform(draws, purpose: str, device="cpu") -> torch.Tensor:
    """(B,) numbers in [0, 1), one draw each."""
    return torch.stack([torch.rand((), generator=generator(int(draw), purpose)) for draw in draws]).to(device)
