"""Conditions -> sound tokens -> sound, in windows where a clip is longer than one.

All clips' first windows are decoded together, then all second ones, and so on; each window after the first is given the last tokens
of the one before, and goes on from there.
"""

import math
from collections.abc import Callable, Sequence

import torch

from avtools.errors import RowError
from avtools.models.vatt import decoding
from avtools.training.draws import generator

CHUNK, CONTEXT = 60.0, 1.0  # seconds of tokens that become sound at once, and of those around them


def begins_of(frames: int, window: int, shared: int) -> list[int]:
    """Where windows of `window` pictures begin that cover `frames`, each sharing `shared` with the one before."""
    step = max(1, window - shared)
    return [0, *range(step, frames - shared, step)] if frames > window else [0]


def tokens_for(
    net,
    features: Sequence[torch.Tensor],
    conditions: Callable[[torch.Tensor, list[int]], tuple[torch.Tensor, torch.Tensor | None]],
    seeds: Sequence[int],
    settings: decoding.Settings,
    *,
    window: int,
    rows: int,
    shared: int,
) -> list[torch.Tensor]:
    """Tokens (K, T) of each clip, int64, as many as cover its features (F, D) and at least a window.

    `window` pictures are `rows` rows of tokens; a later window is given `shared` pictures' rows.  `conditions(features (B, window, D),
    which clips)` gives states and mask.  A clip's tokens depend on its seed alone.
    """
    ratio = rows / window
    begins = [begins_of(len(one), window, shared) for one in features]
    sources = [generator(seed, "sample") for seed in seeds]
    made: list[list[torch.Tensor]] = [[] for _ in features]
    joined: list[list[torch.Tensor]] = [[] for _ in features]  # without what the one before has
    for number in range(max(map(len, begins))):
        which = [k for k, begin in enumerate(begins) if number < len(begin)]
        seen = torch.stack([_fit(features[k][begins[k][number] :], window) for k in which])
        states, mask = conditions(seen, which)
        begin, known = None, 0
        if number:  # pictures and rows need not be in a whole ratio: rows begin where the pictures do, to half a row
            known = round(begins[which[0]][number - 1] * ratio) + rows - round(begins[which[0]][number] * ratio)
            begin = torch.full((len(which), net.size.levels, rows), net.size.codes, device=seen.device)
            for place, k in enumerate(which):
                begin[place, :, :known] = made[k][-1][:, rows - known :]
        visual = seen if net.visual is not None else None
        found = decoding.decode(net, states, mask, rows, settings, [sources[k] for k in which], visual, begin)
        for place, k in enumerate(which):
            made[k].append(found[place])
            joined[k].append(found[place][:, known:])
    return [torch.cat(parts, 1)[:, : max(rows, math.ceil(len(one) * ratio))] for parts, one in zip(joined, features, strict=True)]


def _fit(features: torch.Tensor, frames: int) -> torch.Tensor:
    lacking = frames - len(features)
    return features[:frames] if lacking <= 0 else torch.cat([features, features[-1:].expand(lacking, -1)])


def sounds(codec, tokens: Sequence[torch.Tensor], seconds: Sequence[float]) -> list:
    """float32 arrays (samples,) within [-1, 1], exactly round(seconds * rate) long; silence where there are fewer tokens.

    Of long clips a minute at a time, each with a second around it.  RowError where the sound is not finite.
    """
    per_second = codec.rate / codec.hop
    chunk, context = round(CHUNK * per_second), round(CONTEXT * per_second)
    made = []
    for one, length in zip(tokens, seconds, strict=True):
        parts = []
        for at in range(0, one.shape[1], chunk):
            low, high = max(0, at - context), min(one.shape[1], at + chunk + context)
            part = codec.decode(one[None, :, low:high])[0].float()
            parts.append(part[(at - low) * codec.hop : (min(at + chunk, one.shape[1]) - low) * codec.hop])
        sound = torch.cat(parts)
        if not sound.isfinite().all():
            raise RowError("the sound came out as no number; try --precision fp32")
        wanted = max(1, round(length * codec.rate))
        sound = torch.nn.functional.pad(sound[:wanted], (0, max(0, wanted - len(sound))))
        made.append(sound.clamp(-1, 1).cpu().numpy())
    return made
