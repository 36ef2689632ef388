"""What the prior learns from (spec JavisDiT models, section 2): the clip's own embedding is to be near the prior, negatives far from it.

All losses are of each clip, (B,); the published ones are their means.  Negatives that are not there count for nothing.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch.nn import functional

from avtools.models.javisdit.prior import Trained, View


@dataclasses.dataclass(frozen=True)
class Weights:
    """Of the terms, as published; `onset` counts only where the prior has an onset predictor."""

    token: float = 1.0  # hinge of the cosines between prior and embeddings
    disc: float = 1.0  # cross-entropy of the discriminator
    mse: float = 1.0  # between prior and the clip's embedding
    va: float = 1.0  # hinge of the cosines between the clip's embedding and the negatives'
    kl: float = 1e-6
    onset: float = 1.0


PUBLISHED = Weights()


class Losses(NamedTuple):
    total: torch.Tensor  # (B,)
    terms: dict[str, torch.Tensor]  # name -> (B,), weighted: "spatial_token", ..., "temporal_va", "kl", "onset"


def losses(made: Trained, onsets: torch.Tensor | None = None, weights: Weights = PUBLISHED) -> Losses:
    """`onsets` (B, L): 1 where a sound begins, 0 elsewhere, at any rate."""
    terms = {}
    for name, view in made.views.items():
        terms |= {f"{name}_{term}": value * getattr(weights, term) for term, value in of_view(view).items()}
    terms["kl"] = divergence(made.mean, made.logvar) * weights.kl
    if made.onsets is not None and onsets is not None:
        terms["onset"] = onset_loss(made.onsets, onsets) * weights.onset
    return Losses(sum(terms.values()), terms)


def of_view(view: View) -> dict[str, torch.Tensor]:
    """The four terms of a view, each (B,), unweighted."""
    prior, each, there = view.prior.float(), view.embedding.float(), view.there
    own, others = each[:, :1], there[:, 1:]
    near = functional.cosine_similarity(prior[:, None], each, dim=-1)  # (B, X, tokens)
    apart = functional.cosine_similarity(own, each[:, 1:], dim=-1)
    wanted = torch.zeros_like(view.logits, dtype=torch.float32).index_fill_(1, torch.tensor([0], device=there.device), 1.0)
    judged = functional.binary_cross_entropy_with_logits(view.logits.float(), wanted, reduction="none")
    return {
        "token": 0.5 * ((1 - near[:, 0]).relu().mean(-1) + _mean((1 + near[:, 1:]).relu().mean(-1), others)),
        "disc": _mean(judged, there),
        "mse": (prior - own[:, 0]).square().mean((1, 2)),
        "va": _mean((1 + apart).relu().mean(-1), others),
    }


def _mean(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """(B, X) -> (B,) mean over those that are there; 0 where none is."""
    return torch.where(there, values, 0).sum(1) / there.sum(1).clamp(min=1)


def divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """(B, tokens, D) -> (B,): Kullback-Leibler divergence from the standard normal, summed over tokens and their width."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2))


def onset_loss(logits: torch.Tensor, onsets: torch.Tensor) -> torch.Tensor:
    """(B, tokens) and (B, L) -> (B,): a token is to tell whether any sound begins within its share of the clip."""
    wanted = functional.adaptive_max_pool1d(onsets.float()[:, None], logits.shape[1])[:, 0]
    return functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none").mean(1)


@torch.no_grad()
def contrast(view: View) -> torch.Tensor:
    """(B,): the share of a clip's negatives that are less like the prior than the clip is, by the mean cosine; ties count half.

    Chance is 1/2.  NaN where a clip has no negative.
    """
    near = functional.cosine_similarity(view.prior.float()[:, None], view.embedding.float(), dim=-1).mean(-1)
    won, there = (near[:, :1] - near[:, 1:]).sign() / 2 + 0.5, view.there[:, 1:]
    return torch.where(there, won, 0).sum(1) / there.sum(1)
