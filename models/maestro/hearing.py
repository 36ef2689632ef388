"""From a sound to the tokens of its clips of 2 s (spec MAESTRO, section 1.1), for sounds of any length.

Right by default: all of the sound is heard, the mean of its channels, and a video's sound as it lies under its picture.  `legacy`
is what the released weights were trained with: the first 10 s, the first channel, clips that leave the end out ("pinned"), and
each clip's mean subtracted in place, so that clips that overlap hear a small step.
"""

import math
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from avtools.errors import MediaError, RowError
from avtools.models.parts.kaldi import RATE, SAMPLES

SECONDS = 2.0  # of a clip
LEGACY_SECONDS = 10  # of a sound in the original
SPACINGS = ("spread", "pinned")
SILENT = 1e-4  # root of the mean square, of a full scale of 1 (-80 dB), of the loudest clip
AT_ONCE = 32  # clips in the network

# --- where clips begin -----------------------------------------------------------------------------------------------


def clip_count(duration: float) -> int:
    """How many clips a sound of `duration` seconds is heard as: the whole ones side by side, one of a shorter sound."""
    return max(1, math.floor(duration / SECONDS))


def clip_starts(duration: float, clips: int | None = None, spacing: str = "spread") -> list[float]:
    """Where clips begin in `duration` seconds: i (duration - 2) / D.

    "spread": D = clips - 1, from the begin of the sound to its end (one clip: its begin).  "pinned": D = clips, as of the old
    library that the original pins, which leaves the end unheard.  `clips`: by default :func:`clip_count`.
    """
    clips = clip_count(duration) if clips is None else clips
    parts, room = _parts(clips, spacing), max(0.0, duration - SECONDS)
    return [k * room / parts for k in range(clips)]


def _parts(clips: int, spacing: str) -> int:
    """D above."""
    if spacing not in SPACINGS:
        raise ValueError(f"no such spacing: {spacing}")
    return clips if spacing == "pinned" else max(clips - 1, 1)


def frame_starts(duration: float, frames: int, fps: float, begin: float = 0.0) -> list[float]:
    """Where the clips begin whose middles are the frames' own times: each frame's, begin + (f + 1/2) / `fps`, as far as the sound
    of `duration` seconds has room for 2 s around it; ascending, none of them twice."""
    room = max(0.0, duration - SECONDS)
    return sorted({min(max(begin + (frame + 0.5) / fps - SECONDS / 2, 0.0), room) for frame in range(frames)})


# --- in the workers --------------------------------------------------------------------------------------------------


def duration_of(path, audio_path=None) -> float:
    """Seconds of the sound of `audio_path`, else of `path`, a video's from its first frame on.  MediaError where it has none."""
    from avtools.media.probe import probe, probe_sound
    from avtools.media.soundfiles import sndfile

    source = path if audio_path is None else audio_path
    file = sndfile(source)
    if file is not None:
        file.close()
        seconds = probe_sound(source).duration
    else:
        found = probe(source)
        if found.sound is None:
            raise MediaError(f"{source}: has no sound; give a file that has")
        seconds = found.sound.duration + (found.sound.start - found.picture.start if found.picture is not None and not found.picture.is_image else 0)
    if seconds <= 0:
        raise MediaError(f"{source}: its sound is empty, or over before the picture begins; give a longer one")
    return float(seconds)


def heard(path, starts, audio_path=None, begin: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """The clips of a sound that begin at `starts` seconds after `begin`: (K, 32000) float32 at 16 kHz, the mean of its channels.

    The sound is that of `audio_path`, else of `path`; at most `seconds` of it after `begin` are heard.  Where it is over, silence
    fills the clip, so a sound under 2 s is heard once and at its own time (to repeat it would make a rhythm that is not there).
    MediaError: unreadable, no sound, or samples that are no numbers.
    """
    from avtools.models.parts import sync_clips

    # "short": what is missing at the end of a sound is silence
    found = sync_clips.read_sounds(path, [begin + start for start in starts], audio_path, legacy=frozenset({"short"}))
    with np.errstate(all="ignore"):
        clips = np.stack([sound.mean(0) for sound in found]).astype(np.float32)
    if seconds is not None:
        for clip, start in zip(clips, starts, strict=True):
            clip[max(0, round((seconds - start) * RATE)) :] = 0
    _check_numbers(clips, audio_path or path)
    return clips


def heard_legacy(path, clips: int | None = None, spacing: str = "pinned") -> tuple[np.ndarray, list[float]]:
    """(K, 32000) float32 as :func:`heard` has it, but as the original hears a sound file, and where the clips begin.

    `clips`: by default as many as the whole sound has room for side by side, though no more than its first 10 s are heard.
    MediaError where the sound is shorter than a clip.
    """
    from avtools.media.soundfiles import read_sound
    from avtools.models.parts import sync_clips

    samples, rate = read_sound(path, 0, LEGACY_SECONDS)
    duration = len(samples) / rate
    if duration < SECONDS:
        raise MediaError(f"{path}: its sound is {duration:.3g} s, and the original's clips are {SECONDS:g} s; leave the legacy form, or give a longer one")
    clips = clip_count(duration_of(path)) if clips is None else clips
    wave = sync_clips.resampled(samples, rate)
    begins = _legacy_begins(wave.shape[1], clips, spacing)
    made = np.zeros((clips, SAMPLES), np.float32)
    with np.errstate(all="ignore"):
        for clip, begin in zip(made, begins, strict=True):
            piece = wave[:, begin:][:, :SAMPLES]
            piece -= piece.mean()  # in place: the next clip may share some of it
            clip[: piece.shape[1]] = piece[0]
    _check_numbers(made, path)
    return made, [begin / RATE for begin in begins]


def _legacy_begins(samples: int, clips: int, spacing: str) -> list[int]:
    """:func:`clip_starts` of so many samples at 16 kHz as the original rounds them: floating-point seconds of the resampled sound in exact parts."""
    parts = _parts(clips, spacing)
    room = Fraction(max(samples / RATE - SECONDS, 0))
    return [int(room / parts * k * RATE) for k in range(clips)]


def first_sample(start: float) -> int:
    """Where a clip begins at 16 kHz."""
    return math.floor(Fraction(start) * RATE + Fraction(1, 1000))


def check_audible(clips: np.ndarray, name: str) -> None:
    """RowError where none of a source's clips (K, n) can be heard."""
    power = np.square(clips, dtype=np.float64).mean(1)
    if power.max(initial=0.0) < SILENT**2:
        raise RowError(f"{name}: is silent where it is heard, so nothing can be made of it; leave this source out")


def spectrograms(clips: np.ndarray) -> np.ndarray:
    """Clips (K, 32000) at 16 kHz -> (K, 1, 128, 204) float32, as ImageBind hears them: 198 frames and 6 empty ones."""
    from avtools.models.parts import kaldi

    return kaldi.mel(torch.from_numpy(np.ascontiguousarray(clips))[:, None]).numpy()


def _check_numbers(samples: np.ndarray, path) -> None:
    if not np.isfinite(samples).all():
        raise MediaError(f"{path}: its sound holds samples beyond all measure; make it anew")


# --- the network -----------------------------------------------------------------------------------------------------


class Hearing(nn.Module):
    """ImageBind's audio tower, frozen: spectrograms (N, 1, 128, 204) -> all tokens of its trunk (N, 229, 768), the class token first,
    before any norm; each clip by itself, in single precision whatever the network's."""

    def __init__(self, tower):
        super().__init__()
        self.tower, self.dim = tower.float().eval().requires_grad_(False), tower.size.dim

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
        weight = self.tower.preprocessor.cls_token
        with torch.autocast(weight.device.type, enabled=False):
            return torch.cat([self.tower.hidden(some.to(weight)) for some in spectrograms.split(AT_ONCE)])


def load_hearing(weights, size=None, system: str = "maestro") -> Hearing:
    """ImageBind's audio tower alone, on the CPU.

    `weights`: hub.Weights, a file or a folder, see :mod:`..parts.imagebind.checkpoint`; `size`: imagebind_huge's by default.
    FatalError lists what does not fit.
    """
    from avtools import hub
    from avtools.models.parts import imagebind

    source = imagebind.locate(weights, system=system) if isinstance(weights, hub.Weights) else weights
    return Hearing(imagebind.load(source, ("audio",), {"audio": size or imagebind.HUGE["audio"]}).audio)
