"""Sounds of any length through a network that takes short ones: windows that overlap, their results joined.

Two windows that follow each other are joined in the middle of their overlap, where both are farthest from an end of theirs.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import torch


@dataclasses.dataclass(frozen=True)
class Windows:
    """How long sounds are cut; all in seconds.

    `length` of a window; `advance`: from one to the next, at most; `fade`: how long one passes into the next (raised cosine;
    0: a hard join).  `even`: all have `length` and begin evenly spread, the first at the start, the last so that it ends at the
    end; else one begins every `advance`, and the last is what is left.  A sound no longer than `length` goes through in one piece.
    """

    length: float
    advance: float
    fade: float
    even: bool = True

    def __post_init__(self):
        if not 0 < self.advance <= self.length:
            raise ValueError(f"windows of {self.length:g} s every {self.advance:g} s leave gaps")
        if not 0 <= self.fade <= self.length - self.advance:
            raise ValueError(f"a fade of {self.fade:g} s is longer than the overlap of the windows, {self.length - self.advance:g} s")

    def spans(self, samples: int, rate: int) -> list[tuple[int, int]]:
        """(begin, end) of each window of a sound, in samples."""
        length, advance = round(self.length * rate), round(self.advance * rate)
        if samples <= length:
            return [(0, samples)]
        if not self.even:
            count = math.ceil((samples - length) / advance) + 1
            return [(k * advance, min(k * advance + length, samples)) for k in range(count)]
        gaps = math.ceil((samples - length) / advance)
        begins = [(samples - length) * k // gaps for k in range(gaps + 1)]
        return [(begin, begin + length) for begin in begins]


FADE = Windows(length=10.0, advance=8.0, fade=1.0)
#: As published: of each window the 3 s in its middle are kept (of the first its start, of the last its end too), joined hard.
LEGACY = Windows(length=5.0, advance=3.0, fade=0.0, even=False)


def share(spans: list[tuple[int, int]], k: int, fade: int) -> tuple[int, torch.Tensor]:
    """(first sample, weights (n,)) of what window k gives to the result; those of all windows sum to 1 in each sample.

    A weight is the window's own rise less that of the next one, so the sum is 1 however close two joins are.
    """
    joins = [(end + begin) // 2 for (_, end), (begin, _) in zip(spans, spans[1:], strict=False)]
    first = joins[k - 1] - fade // 2 if k else 0
    last = joins[k] - fade // 2 + fade if k < len(joins) else spans[-1][1]
    at = torch.arange(first, last, dtype=torch.float64)

    def risen(join: int) -> torch.Tensor:
        if not fade:
            return (at >= join).double()
        return (1 - torch.cos(math.pi * ((at - (join - fade // 2) + 0.5) / fade).clamp(0, 1))) / 2

    up = risen(joins[k - 1]) if k else torch.ones_like(at)
    return first, (up - risen(joins[k]) if k < len(joins) else up).float()


def separated(network: Callable, mixtures: torch.Tensor, conditions: torch.Tensor, rate: int, plan: Windows | None, batches: Callable) -> torch.Tensor:
    """(B, samples) mixtures and (B, D) conditions -> (B, samples): the network's results, joined.

    `network((W, n), (W, D)) -> (W, n)`.  `batches(run, count)` calls `run(begin, end)` for all of `count` windows, some at
    once, and yields what it returned.  `plan` None: each sound in one piece.
    """
    rows, samples = mixtures.shape
    out = torch.zeros_like(mixtures)
    if not out.numel():
        return out
    spans = [(0, samples)] if plan is None else plan.spans(samples, rate)
    fade = 0 if plan is None else round(plan.fade * rate)
    for length in dict.fromkeys(end - begin for begin, end in spans):  # a shorter one at the end is a batch of its own
        chosen = [(k, row) for k, (begin, end) in enumerate(spans) if end - begin == length for row in range(rows)]

        def run(first: int, last: int, chosen=chosen) -> torch.Tensor:
            some = chosen[first:last]
            return network(torch.stack([mixtures[row, slice(*spans[k])] for k, row in some]), conditions[[row for _, row in some]])

        for (k, row), result in zip(chosen, _each(batches(run, len(chosen))), strict=True):
            first, weights = share(spans, k, fade)
            begin = spans[k][0]
            out[row, first : first + len(weights)] += result[first - begin : first - begin + len(weights)] * weights.to(out.device)
    return out


def _each(batches: Iterable[torch.Tensor]):
    for batch in batches:
        yield from batch
