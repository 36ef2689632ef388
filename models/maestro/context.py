"""From the tokens of clips of sound to what each frame of a video attends to (spec MAESTRO, sections 1.3, 2.1).

The tokens of source s take the places first + q s ... of an encoded prompt, where `first` is the place of the prompt's end (1
for the empty one, as the original has it), one clip's tokens in each frame.  All pure copying, in the prompt's dtype.
"""

from collections.abc import Sequence

import torch

from avtools.errors import RowError

SECONDS = 2.0  # of a clip
FRAMES_PER_CLIP = 8  # in the original's timing, whatever the frame rate
FIRST = 1  # place of the end in the empty prompt
TIMINGS = ("time", "legacy")


def frame_clips(
    frames: int, clips: int, fps: float | None = None, clip_starts: Sequence[float] | None = None, timing: str = "time", begin: float = 0.0
) -> torch.Tensor:
    """(frames,) int64: which of a source's clips each frame hears.

    "time": the one whose middle is nearest to the middle of the time for which frame f is shown, begin + (f + 1/2) / `fps`; of
    equally near ones the earlier.  `clip_starts` (seconds, in any order) are where the clips begin, `begin` is where the first
    frame lies in that sound.  "legacy": clip f // 8, at whatever rate; where the clips do not last for all frames, the first
    clip throughout.
    """
    if clips < 1:
        raise ValueError("no clips")
    if timing == "legacy":
        return torch.arange(frames) // FRAMES_PER_CLIP if clips * FRAMES_PER_CLIP >= frames else torch.zeros(frames, dtype=torch.int64)
    if timing not in TIMINGS:
        raise ValueError(f"no such timing: {timing}")
    if fps is None or clip_starts is None or len(clip_starts) != clips:
        raise ValueError(f"{clips} clips need fps and as many starts")
    shown = begin + (torch.arange(frames, dtype=torch.float64) + 0.5) / fps
    middles = torch.tensor([start + SECONDS / 2 for start in clip_starts], dtype=torch.float64)
    return (shown[:, None] - middles).abs().mul(1e6).round().argmin(1)  # whole microseconds: else rounding decides between equals


def slots(sources: int, queries: int, first: int = FIRST, places: int = 77) -> list[range]:
    """The places of each source's tokens, one source after another; RowError where they do not fit behind the prompt."""
    fit = max(0, places - first) // queries
    if sources > fit:
        text = "" if first == FIRST else f" behind this text, which takes {first} of them"
        remedy = "leave sources out, or mix some" if first == FIRST else "shorten the text, leave sources out, or mix some"
        raise RowError(f"{sources} sources, and no more than {fit} of {queries} tokens each fit into {places} places{text}; {remedy}")
    return [range(first + queries * s, first + queries * (s + 1)) for s in range(sources)]


def with_tokens(text: torch.Tensor, tokens: torch.Tensor, first: int = FIRST) -> torch.Tensor:
    """A prompt (77, D), or one for each of N items (N, 77, D), with one source's tokens (N, q, D) in their places: (N, 77, D).

    Gradients reach the tokens.  RowError where they do not fit.
    """
    (where,) = slots(1, tokens.shape[1], first, text.shape[-2])
    whole = text.expand(len(tokens), *text.shape[-2:])
    return torch.cat([whole[:, : where.start], tokens.to(text.dtype), whole[:, where.stop :]], 1)


def contexts(text: torch.Tensor, tokens: Sequence[torch.Tensor], clips: Sequence[torch.Tensor], first: int = FIRST) -> tuple[torch.Tensor, torch.Tensor]:
    """(base, context), both (T, 77, D): the encoded prompt (77, D) or (1, 77, D) in every frame, without and with the sources.

    `tokens`: of each source (K_s, q, D).  `clips`: of each source, its clip in each frame (T,), see :func:`frame_clips`.
    RowError where there are more sources than places.
    """
    if len(tokens) != len(clips) or not tokens:
        raise ValueError(f"{len(tokens)} sources, and clips of {len(clips)}")
    text = text.reshape(text.shape[-2:])
    base = text.expand(len(clips[0]), -1, -1)
    places = slots(len(tokens), tokens[0].shape[1], first, len(text))
    context = base.clone()
    for one, of_frames, where in zip(tokens, clips, places, strict=True):
        context[:, where.start : where.stop] = one[of_frames.to(one.device)].to(context)
    return base, context
