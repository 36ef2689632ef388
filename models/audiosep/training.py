"""Mixtures made of a batch, and the loss (spec section 8.6).

As published but for what spoils a mixture: an interferer has another text than its target (else the very sound that the text
asks for counts as what is to be removed), and a target that no other of its batch can be mixed with gets white noise.  That
pieces are not silent is :mod:`avtools.models.audiosep.data`'s.  `original_mixer` leaves the choice of interferers as it was.
"""

from typing import NamedTuple

import torch

from avtools.training import draws

FLOOR, LEAST, MOST = 1e-10, 0.02, 50.0  # of mean squares; of the ratio of two roots of them


class Mix(NamedTuple):
    """What is mixed with one item: the numbers of its interferers in the batch, a gain for each, and one for their sum, dB."""

    others: list[int]
    gains: list[int]
    last: int


def mixes(numbers, texts: list[str], config) -> list[Mix]:
    """The draws of each item (`numbers`: one for each): how many sources, which, how loud.  Interferers are the next of the batch."""
    found, count = [], len(texts)
    for n, number in enumerate(numbers):
        source = draws.generator(int(number), "mix")
        others = [(n + k) % count for k in range(1, count)]
        if not config.original_mixer:
            others = [k for k in others if texts[k] != texts[n]]

        def drawn(low: int, high: int, source=source) -> int:
            return int(torch.randint(low, high + 1, (), generator=source))

        others = others[: drawn(2, config.sources) - 1]
        found.append(Mix(others, [drawn(config.lowest, config.highest) for _ in others], drawn(config.lowest, config.highest)))
    return found


def ratio(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """(..., n) signals -> (..., 1): how much louder `of` is than `to`, as a factor of amplitudes within 0.02 to 50."""
    square = of.square().mean(-1, keepdim=True) / to.square().mean(-1, keepdim=True).clamp(min=FLOOR)
    return square.sqrt().clamp(LEAST, MOST)


def mixed(sounds: torch.Tensor, plans: list[Mix], peak: float = 0.9, noises: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, n) sounds -> mixtures and targets, (B, n) each.

    Interferers are brought to the target's level, changed by their gains and added; the same is done with their sum.  Where the
    mixture exceeds 1, it and its target are scaled to a peak of `peak`.  `noises` (B, n): for items without interferers.
    """
    mixtures, targets = [], []
    for n, (others, gains, last) in enumerate(plans):
        target = sounds[n]
        noise = torch.zeros_like(target) if noises is None or others else noises[n]
        for other, gain in zip(others, gains, strict=True):
            noise = noise + sounds[other] / ratio(sounds[other], target) * 10 ** (gain / 20)
        mixture = target + noise / ratio(noise, target) * 10 ** (last / 20)
        most = mixture.abs().max()
        scale = torch.where(most > 1, peak / most, 1.0)
        mixtures.append(mixture * scale)
        targets.append(target * scale)
    return torch.stack(mixtures), torch.stack(targets)


def losses(module, batch: dict) -> dict[str, torch.Tensor]:
    """Per-item (B,) mean absolute error of the waveform."""
    return {"loss": (module(batch["mixture"], batch["condition"]) - batch["target"]).abs().mean(-1)}


def figures(module, batch: dict) -> dict[str, torch.Tensor]:
    """Per-item (B,) loss, SDR and SI-SDR of the stem, and by how much they exceed the mixture's, dB."""
    stem, target, mixture = module(batch["mixture"], batch["condition"]).float(), batch["target"], batch["mixture"]
    found = {"loss": (stem - target).abs().mean(-1), "sdr": sdr(stem, target), "si_sdr": si_sdr(stem, target)}
    return found | {"sdri": found["sdr"] - sdr(mixture, target), "si_sdri": found["si_sdr"] - si_sdr(mixture, target)}


def sdr(estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(..., n) -> (...): as :func:`avtools.metrics.separation.sdr`, of many at once."""
    return 10 * (reference.square().mean(-1).clamp(min=FLOOR) / (estimate - reference).square().mean(-1).clamp(min=FLOOR)).log10()


def si_sdr(estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(..., n) -> (...): as :func:`avtools.metrics.separation.si_sdr`, of many at once; silence gets the least, -100 dB."""
    energy = estimate.square().sum(-1).clamp(min=1e-20)
    scaled = (estimate * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True).clamp(min=1e-20) * reference
    good, bad = scaled.square().sum(-1), (estimate - scaled).square().sum(-1)
    return 10 * (torch.maximum(good, FLOOR * energy) / torch.maximum(bad, FLOOR * energy)).log10()
