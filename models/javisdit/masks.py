"""Which latent frames are given and which are made: drawn for training, asked for in sampling (spec JavisDiT, sections 1 and 3).

In masks 1 means made, 0 given; the sampler also knows shares between, of how much of a frame is made anew.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch

from avtools.errors import UsageError
from avtools.models.javisdit.config import MASKS as RATIOS

SPELLINGS = {"intepolate": "interpolate"}  # of released configurations
IDENTITY = "identity"
WHOLE = {"video_to_audio": (0, 1), "audio_to_video": (1, 0)}  # all of video, of sound
CLEAN = 0.1, 0.9  # of frames, drawn evenly, with `random`


# --- training ------------------------------------------------------------------------------------------------------


def check(ratios: Mapping[str, float]) -> None:
    """UsageError where these are no shares of strategies."""
    for name, share in ratios.items():
        if SPELLINGS.get(name, name) not in RATIOS:
            raise UsageError(f"no mask '{name}' (there is: {', '.join(RATIOS)})")
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise UsageError(f"mask {name}: {share!r} is no share; give 0 to 1")
    if sum(ratios.values()) > 1 + 1e-6:
        raise UsageError(f"masks add up to {sum(ratios.values()):g}; at most 1, of which the rest is made from nothing")


def chosen(number: float, ratios: Mapping[str, float]) -> str:
    """The strategy that a number in [0, 1) picks: shares one after another, in their order."""
    total = 0.0
    for name, share in ratios.items():
        total += share
        if number < total:
            return name
    return IDENTITY


def video_mask(name: str, frames: int, numbers: Sequence[int] = (), ratio: float = 0.0, uniforms: torch.Tensor | None = None) -> torch.Tensor:
    """(frames,) bool of a strategy with its draws.

    `numbers`: of quarter_* how many frames are given, at most a quarter, then, of quarter_random, where they begin; of
    image_random which; of interpolate whether frame 0 or 1 is the first of every second one that is given.  `random`: frame i is made where
    `uniforms[i]` is above `ratio`, and the last one where none is.  Where nothing would be left to make, as of a clip of one latent frame, all is;
    video_to_audio alone gives all of the picture.
    """
    name = SPELLINGS.get(name, name)
    made = torch.ones(frames, dtype=torch.bool)
    if name in WHOLE:
        return made & bool(WHOLE[name][0])
    if frames == 1 or name == IDENTITY:
        return made
    first, *rest = (*numbers, 0, 0)
    if name == "random":
        made = uniforms[:frames] > ratio
        made[-1] |= not made.any()
    elif name == "interpolate":
        made[first::2] = False
    elif name in ("quarter_random", "image_random"):
        size = min(first, max(frames // 4, 1)) if name == "quarter_random" else 1
        start = min(rest[0] if name == "quarter_random" else first, frames - size)
        made[start : start + size] = False
    else:
        kind, _, where = ("image", "_", "head") if name == "sound_image_animate" else name.partition("_")
        size = min(first, max(frames // 4, 1)) if kind == "quarter" else 1
        if "head" in where:
            made[:size] = False
        if "tail" in where:
            made[frames - size :] = False
    return made if made.any() else ~made


def sound_mask(name: str, video: torch.Tensor, frames: int) -> torch.Tensor:
    """(frames,) of the latent frames of the sound that belong to a video mask (T,): the nearest one's, unless all or nothing is given."""
    if name in WHOLE:
        return video.new_full((frames,), bool(WHOLE[name][1]))
    if name.startswith("image_"):
        return video.new_ones(frames)
    if name == "sound_image_animate":
        return video.new_zeros(frames)
    nearest = (torch.arange(frames, dtype=torch.float32) * (len(video) / frames)).long().clamp(max=len(video) - 1)
    return video[nearest]


def draw(source: torch.Generator, video_frames: int, sound_frames: int, ratios: Mapping[str, float] = RATIOS) -> tuple[str, torch.Tensor, torch.Tensor]:
    """(strategy, video mask (T,), sound mask (Ta,)), bool, for training on a clip."""

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=source))

    name = chosen(float(torch.rand((), generator=source, dtype=torch.float64)), ratios)
    name = SPELLINGS.get(name, name)
    numbers, ratio, uniforms = [], 0.0, None
    if name.startswith("quarter_"):
        numbers = [whole(1, max(video_frames // 4, 1))]
        numbers.append(whole(0, video_frames - numbers[0]))
    elif name in ("image_random", "interpolate"):
        numbers = [whole(0, video_frames - 1 if name == "image_random" else 1)]
    elif name == "random":
        ratio = CLEAN[0] + (CLEAN[1] - CLEAN[0]) * float(torch.rand((), generator=source))
        uniforms = torch.rand(video_frames, generator=source)
    video = video_mask(name, video_frames, numbers, ratio, uniforms)
    return name, video, sound_mask(name, video, sound_frames)


# --- sampling ------------------------------------------------------------------------------------------------------

BOTH, VIDEO, SOUND, WITH_SOUND = range(4)  # an edit's modality; the last: frames of the video, and all of the sound


class Edit(NamedTuple):
    """Frames of a reference that a sample is given: the original's `loop,reference,from,to,length,ratio,modality`.

    Frames are latent ones of the video; negative ones count from the end; a length of -1 is all there is.
    """

    loop: int = 0  # of a longer generation in pieces, the one that this edit is for
    reference: int = 0  # which
    start: int = 0  # in it
    target: int = 0  # in the sample
    length: int = 1
    ratio: float = 0.0  # share that is made anew; 0: stays as it is
    modality: int = BOTH


@dataclasses.dataclass
class Begin:
    """What a batch of samples begins with: latents, and how much of each frame is made, (B, T) and (B, Ta) float."""

    video: torch.Tensor
    sound: torch.Tensor
    video_made: torch.Tensor
    sound_made: torch.Tensor


def parse(text: str) -> list[Edit]:
    """`0,0,0,0,1,0,1;...`; UsageError where it is something else."""
    edits = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        cells = part.split(",")
        try:
            if len(cells) != 7:
                raise ValueError
            whole = [int(cell) for cell in (*cells[:5], cells[6])]
            edit = Edit(*whole[:5], float(cells[5]), whole[5])
        except ValueError:
            raise UsageError(f"mask '{part}': give seven numbers, loop,reference,from,to,length,ratio,modality") from None
        if edit.modality not in range(4) or not 0 <= edit.ratio <= 1 or edit.length < -1 or edit.length == 0 or edit.loop < 0 or edit.reference < 0:
            raise UsageError(f"mask '{part}': modality is 0 to 3, ratio 0 to 1, length -1 or from 1, loop and reference from 0")
        edits.append(edit)
    return edits


def edits_of(task: str, frames: int = 1) -> list[Edit]:
    """The edits of a task of which the reference is clip 0; `frames`: latent frames of it that a continuation has.

    t2av nothing is given; a2v its sound, v2a its video; i2av its first frame; ia2v its first frame and its sound; continue its last
    frames, of both; loop: the same picture first and last; between: first and last frame of two references.
    """
    known = {
        "t2av": [],
        "a2v": [Edit(length=-1, modality=SOUND)],
        "v2a": [Edit(length=-1, modality=VIDEO)],
        "i2av": [Edit(modality=VIDEO)],
        "ia2v": [Edit(modality=WITH_SOUND)],
        "continue": [Edit(start=-frames, length=frames, modality=BOTH)],
        "loop": [Edit(modality=VIDEO), Edit(target=-1, modality=VIDEO)],
        "between": [Edit(modality=VIDEO), Edit(reference=1, start=-1, target=-1, modality=VIDEO)],
    }
    if task not in known:
        raise UsageError(f"no task '{task}' (there is: {', '.join(known)})")
    return known[task]


def begin(
    video: torch.Tensor,
    sound: torch.Tensor,
    edits: Sequence[Iterable[Edit]],
    references: Sequence[Sequence[tuple[torch.Tensor | None, torch.Tensor | None]]],
    *,
    fps: float,
    loop: int = 0,
    align: int | None = None,
    chunk: tuple[int, int] = (17, 5),
    sound_step: float = 0.04,
    legacy: bool = False,
) -> Begin:
    """Noise `video` (B, C, T, h, w) and `sound` (B, C, Ta, m), with the frames that edits give.

    `edits` and `references` of each sample; a reference is its video (C, T', h, w) and sound (C, Ta', m), None where it is not needed.
    `align`: starts in the video are moved to the nearest multiple of so many latent frames, where the codec's chunks begin.
    `chunk`: pictures and the latent frames of them, `sound_step`: seconds of a latent frame of sound.  `legacy`: as the original counts
    frames of sound, a rounding error too few at times, and takes the noise after sound given as a whole, where it ends early, to be given.
    UsageError: an edit without its reference, or of frames that there are not.
    """
    made = Begin(video.clone(), sound.clone(), video.new_ones(video.shape[0], video.shape[2]), sound.new_ones(sound.shape[0], sound.shape[2]))

    def heard(count: int) -> int:
        """Latent frames of sound in so many of the video, both from the start or from the end."""
        if legacy:
            return int(count * (chunk[0] / chunk[1]) / fps / (sound_step / 4) / 4)
        return int(count * Fraction(*chunk) / (Fraction(fps).limit_denominator(10**6) * Fraction(sound_step).limit_denominator(10**6)))

    for number, (own, available) in enumerate(zip(edits, references, strict=True)):
        for edit in own:
            if edit.loop == loop:
                _apply(made, number, edit, available, heard, align, legacy)
    return made


def _apply(made: Begin, number: int, edit: Edit, references, heard: Callable[[int], int], align: int | None, legacy: bool) -> None:
    if edit.reference >= len(references):
        raise UsageError(f"mask of sample {number}: no reference {edit.reference}; there are {len(references)}")
    picture, sound = references[edit.reference]
    needs = {VIDEO: (picture,), SOUND: (sound,)}.get(edit.modality, (picture, sound))
    if any(one is None for one in needs):
        raise UsageError(f"mask of sample {number}: reference {edit.reference} has no {'video' if picture is None else 'sound'}")
    start, target, length = edit.start, edit.target, edit.length
    if edit.modality != SOUND:
        start, target, length = _copied(made.video[number], made.video_made[number], picture, start, target, length, edit.ratio, align)
    if edit.modality == WITH_SOUND:
        begin, goal, count = 0, 0, -1
    else:
        begin, goal, count = heard(start), heard(target), -1 if length < 0 else heard(length)
    if edit.modality == SOUND or edit.modality != VIDEO and begin < sound.shape[1] and goal < made.sound.shape[2]:  # sound may end before its picture
        _copied(made.sound[number], made.sound_made[number], sound, begin, goal, count, edit.ratio, None)
    if edit.modality == WITH_SOUND and legacy:
        made.sound_made[number] = edit.ratio


def _copied(latents, mask, reference, start: int, target: int, length: int, ratio: float, align: int | None) -> tuple[int, int, int]:
    """Copy frames; (start, target, length) as they came to be."""
    start, target = (_place(value, count, align) for value, count in ((start, reference.shape[1]), (target, latents.shape[1])))
    most = min(reference.shape[1] - start, latents.shape[1] - target)
    if most <= 0 or start < 0 or target < 0:
        raise UsageError(f"mask: frame {start} of {reference.shape[1]} to frame {target} of {latents.shape[1]}: there are none")
    length = most if length < 0 else min(length, most)
    latents[:, target : target + length] = reference[:, start : start + length].to(latents)
    mask[target : target + length] = ratio
    return start, target, length


def _place(value: int, count: int, align: int | None) -> int:
    value = value + count if value < 0 else value
    if align:
        groups, rest = divmod(value, align)
        value = (groups + (rest > align / 2 and groups < count // align - 1)) * align
    return value
