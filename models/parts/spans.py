"""Long sequences in overlapping windows, joined by linear cross-fades."""

import math

import torch


def starts(length: int, window: int, overlap: int) -> list[int]:
    """Where windows begin that cover `length`, evenly spread, neighbours sharing at least `overlap`."""
    if length <= window:
        return [0]
    count = math.ceil((length - overlap) / (window - overlap))
    return [round(k * (length - window) / (count - 1)) for k in range(count)]


def weights(begins: list[int], window: int, length: int) -> torch.Tensor:
    """(number, window) shares of each window in what it covers; at every place they add up to 1.

    A window counts linearly more from its edge over what it shares with its neighbour.
    """
    share = torch.ones(len(begins), window)
    for k, (left, right) in enumerate(zip(begins, begins[1:], strict=False)):
        shared = left + window - right
        if shared > 0:
            ramp = (torch.arange(shared) + 0.5) / shared
            share[k + 1, :shared] *= ramp
            share[k, window - shared :] *= 1 - ramp
    total = torch.zeros(max(length, window))
    for begin, one in zip(begins, share, strict=True):
        total[begin : begin + window] += one
    return torch.stack([one / total[begin : begin + window] for begin, one in zip(begins, share, strict=True)])
