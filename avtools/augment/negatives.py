"""Negatives of a clip for contrastive training: the same clip, but for one thing that no longer fits."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from avtools.errors import RowError

from .names import GROUPS
from .operations import Clip, augment
from .pool import Pools

UNPAIRED = 0.5  # probability that a sound's place is taken by the sound that was made without seeing the video


@dataclasses.dataclass
class Negative:
    """One negative: of the positive's picture and sound, `video` or `audio` is what replaces the one of the two.

    `group` is one of `names.GROUPS`; `op` an operation's name, or "unpaired"; `parameters` what was drawn.
    """

    group: str
    op: str
    parameters: dict
    video: np.ndarray | None = None
    audio: np.ndarray | None = None


def negatives(
    video: np.ndarray | None,
    audio: np.ndarray | None,
    rate: int,
    pools: Pools,
    rng: np.random.Generator,
    rounds: int = 1,
    *,
    unpaired: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    whole: np.ndarray | Sequence | None = None,
    at: int = 0,
    legacy: bool = False,
) -> list[Negative]:
    """In each of `rounds`, a negative of each group: pictures in space and time, sound in space and time.

    `video`, `audio`, `rate`, `names`, `whole`, `at`, `legacy`: see :class:`.operations.Clip`; `whole` may be anything that has a length
    and slices of it such as an array has, so that only what is drawn is read.  An operation is drawn uniformly among those of the
    group whose pool there is; where a pool's item cannot be read, `parameters` has the "reason".  `unpaired` ((samples, channels) at `rate`) takes the place of a sound
    with probability 1/2, once at most, from its first sample on, cut or filled with silence.  Each negative differs from the
    clip (see :func:`.operations.augment`); where nothing of a group can be done, that negative is left out.
    """
    clip = Clip(video, audio, rate, pools, names, whole, at, legacy)
    made: list[Negative] = []
    for _ in range(rounds):
        for group in GROUPS:
            medium = group.partition("-")[0]
            if getattr(clip, medium) is None:
                continue
            if medium == "audio" and unpaired is not None and rng.random() < UNPAIRED:
                made.append(Negative(group, "unpaired", {}, audio=_as_long(unpaired, clip.audio)))
                unpaired = None
                continue
            try:
                changed, record = augment(group, clip, rng)
            except RowError:
                continue
            made.append(Negative(group, record.pop("op"), record, **{medium: changed}))
    return made


def _as_long(sound: np.ndarray, like: np.ndarray) -> np.ndarray:
    from .audio import fit, padded

    return padded(fit(sound, like)[: len(like)], len(like))
