"""Numbers of scores: the loss and accuracies of a table of shifts, and the metrics of pairs (spec sections 2 and 3)."""

import torch
from torch.nn import functional


def contrast(scores: torch.Tensor, temperature: float = 0.1) -> dict[str, torch.Tensor]:
    """Of (V, K, K) raw scores, sound by picture: per-video (V,) cross-entropies with the diagonal as target, and shares
    of exact top-1 hits.  `loss` is the mean of both directions; other videos are no negatives.
    """
    logits = scores.float() / temperature
    target = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[:2])
    found = {}
    for name, table in (("audio_to_video", logits), ("video_to_audio", logits.transpose(1, 2))):  # (V, anchor, candidate)
        found[f"{name}_loss"] = functional.cross_entropy(table.transpose(1, 2), target, reduction="none").mean(1)
        found[f"{name}_acc"] = (table.detach().argmax(2) == target).float().mean(1)
    return {"loss": (found["audio_to_video_loss"] + found["video_to_audio_loss"]) / 2, **found}


def shifts(scores: torch.Tensor, tolerance: int) -> dict[str, torch.Tensor]:
    """Of (V, K, K) raw scores, sound by picture: which clip the middle one (K // 2) is matched with, each way, and
    whether it is within `tolerance` steps: (V,) int64 predictions (the first of equals) and float 0 or 1.
    """
    centre = scores.shape[1] // 2
    found = {}
    for name, row in (("audio_to_video", scores[:, centre]), ("video_to_audio", scores[:, :, centre])):
        best = first_largest(row)
        found[f"{name}_prediction"] = best
        found[f"{name}_correct"] = ((best - centre).abs() <= tolerance).float()
    return found


def first_largest(values: torch.Tensor) -> torch.Tensor:
    """(V, K) -> (V,) the first place of each largest value; torch's own argmax takes any of equals."""
    return (values == values.amax(1, keepdim=True)).int().cumsum(1).eq(0).sum(1)


def relsync(score: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """In (0, 1), above 0.5 where the pair is better in time than its reference: softmax of both raw scores."""
    return torch.sigmoid(score - reference)


def alignsync(relative: torch.Tensor, similarity: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """RelSync times how alike sound and picture are, against the reference.

    `similarity`: (..., F) ImageBind's cosines of each judged picture but the first with the judged sound; `reference`:
    (...) that of the true first picture with the true sound.
    """
    return relative * torch.sigmoid(similarity - reference[..., None]).mean(-1)
