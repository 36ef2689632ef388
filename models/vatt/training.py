"""What an item is asked and how it is changed, and the losses of both trainings (spec VATT, sections 2 and 3)."""

import collections
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from avtools.models.vatt import masking, prompts
from avtools.training import draws as drawing

# --- the sound model's items -----------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What is done to an item: its instruction, whether that is of the pool, from which picture on it is another clip (0: never), by
    how many pictures it is turned round (0: not)."""

    instruction: str
    dummy: bool
    cut: int
    roll: int


def plan(draw: int, caption: str, pool: Sequence[str], config, frames: int, train: bool = True) -> Plan:
    """The same for the same draw; in validation clips stay as they are, and captions are used in stage 2."""
    rng = random.Random(drawing.draw_of(draw, "instruction"))
    share = 1.0 if config.stage == 1 else config.dummy if train else 0.0
    instruction, dummy = prompts.instruction_of(caption, pool, rng, share)
    if not train:
        return Plan(instruction, dummy, 0, 0)
    cut = rng.randint(max(1, round(0.1 * frames)), max(1, int(0.8 * frames))) if frames > 1 and dummy and rng.random() < config.splice else 0
    return Plan(instruction, dummy, cut, rng.randrange(-frames, frames) if rng.random() < config.roll else 0)


def augmented(features: torch.Tensor, tokens: torch.Tensor, planned: Plan, other: tuple[torch.Tensor, torch.Tensor] | None):
    """features (F, D) and tokens (K, T) of one time -> the same, spliced with `other` clip's and rolled."""
    ratio = tokens.shape[1] / len(features)
    if planned.cut and other is not None:
        at = round(planned.cut * ratio)
        features = torch.cat([features[: planned.cut], other[0][planned.cut :].to(features)])
        tokens = torch.cat([tokens[:, :at], other[1][:, at:]], 1)
    if planned.roll:
        features, tokens = features.roll(planned.roll, 0), tokens.roll(round(planned.roll * ratio), 1)
    return features, tokens


class States:
    """States of the language model that come again, on the CPU, the longest unused leaving first."""

    def __init__(self, gigabytes: float):
        self.room, self.used = gigabytes * 2**30, 0
        self.found: collections.OrderedDict[tuple, torch.Tensor] = collections.OrderedDict()
        self.hits = 0

    def get(self, key: tuple | None) -> torch.Tensor | None:
        if key is None or key not in self.found:
            return None
        self.hits += 1
        self.found.move_to_end(key)
        return self.found[key]

    def put(self, key: tuple | None, states: torch.Tensor) -> None:
        size = states.numel() * states.element_size()
        if key is None or key in self.found or size > self.room:
            return
        self.found[key] = states.detach().to("cpu", copy=True)
        self.used += size
        while self.used > self.room:
            _, gone = self.found.popitem(last=False)
            self.used -= gone.numel() * gone.element_size()


# --- losses ------------------------------------------------------------------------------------------------------


def _scored(module, batch: dict, config, train: bool):
    """(cross-entropy summed, masked tokens, right ones), each (B,)."""
    draws, tokens, net = batch["draws"], batch["tokens"], config.net
    hidden = masking.masks(draws.tolist(), tuple(tokens.shape[1:]), masking.Ratio(config.mask_mean, config.mask_deviation), config.mask_per_batch)
    hidden = hidden.to(tokens.device)
    keep = drawing.uniform(draws.tolist(), "condition", tokens.device) >= config.condition_dropout if train else None
    logits = module(tokens.masked_fill(hidden, net.codes), batch["states"], batch["mask"], keep, batch["visual"])
    total, count = masking.cross_entropy(logits, tokens, hidden, net.layout, config.smoothing if train else 0.0)
    sought = masking.targets(tokens, hidden, net.layout).view_as(tokens)
    return total, count, (logits.detach().argmax(-1) == sought).sum((1, 2))  # what was not masked is no code's number


def losses(module, batch: dict, config) -> dict:
    """Of a batch: the mean over all masked tokens, and the share that is told right."""
    total, count, right = _scored(module, batch, config, True)
    return {"loss": total.sum() / count.sum(), "accuracy": right.sum() / count.sum()}


def figures(module, batch: dict, config) -> dict:
    """Of each item (B,): cross-entropy and accuracy of masked tokens."""
    total, count, right = _scored(module, batch, config, False)
    return {"loss": total / count, "accuracy": right / count}


def caption_losses(module, batch: dict) -> dict:
    """The converter's: of the batch, the mean over all targets."""
    scores, targets = module(batch["features"], batch["texts"])
    if not len(targets):
        return {"loss": scores.float().sum()}
    return {"loss": functional.cross_entropy(scores.float(), targets), "accuracy": (scores.argmax(-1) == targets).float().mean()}


def caption_figures(module, batch: dict) -> dict:
    """Of each item (B,): cross-entropy and accuracy of the next word."""
    scores, targets = module(batch["features"], batch["texts"])
    owner = (batch["texts"].labels[:, 1:] != prompts.IGNORED).nonzero()[:, 0]
    each = functional.cross_entropy(scores.float(), targets, reduction="none")
    count = torch.zeros(len(batch["draws"]), device=scores.device)
    counted = count.index_add(0, owner, torch.ones_like(each)).clamp(min=1)
    return {"loss": count.index_add(0, owner, each) / counted, "accuracy": count.index_add(0, owner, (scores.argmax(-1) == targets).float()) / counted}
