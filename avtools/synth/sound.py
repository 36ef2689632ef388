"""The sound of a clip: one stem for each object, a quiet ambience, and their sum.

A voice makes one sound of a class: float array (samples,), peak 1, its first sample already audible, its last
ones faded to silence.
"""

import dataclasses

import numpy as np

from .scene import Clip, Thing

AMBIENCE = 0.003  # RMS of full scale
PEAK = 0.8  # of full scale, of the mixture: leaves room for what lossy coding adds


@dataclasses.dataclass(frozen=True, slots=True)
class Sounds:
    """int16 arrays (samples, 2), left and right: a stem for each object, the ambience, their exact sum."""

    stems: tuple[np.ndarray, ...]
    ambience: np.ndarray
    mixture: np.ndarray


def render(clip: Clip) -> Sounds:
    """The sounds of `clip`; one gain for all keeps the mixture's peak at or below PEAK."""
    stems = [pan(_stem(clip, thing), thing.x) for thing in clip.things]
    ambience = _ambience(clip)
    gain = min(1.0, PEAK / np.abs(sum(stems) + ambience).max()) * 32767
    *stems, ambience = (np.rint(part * gain).astype(np.int16) for part in (*stems, ambience))
    return Sounds(tuple(stems), ambience, sum(stems) + ambience)


def pan(mono, x: float):
    """Stereo (samples, 2) of `mono` (samples,) at `x`, 0 (left) to 1 (right); constant power."""
    angle = x * np.pi / 2
    return mono[:, None] * (np.cos(angle), np.sin(angle))


def _stem(clip: Clip, thing: Thing):
    draw = clip.draws(f"sound {thing.number}")
    stem = np.zeros(clip.samples)
    for onset, length in zip(thing.onsets, thing.lengths, strict=True):
        wave = thing.level * voice(thing.kind, length, clip.rate, thing.pitch, draw)
        stem[onset : onset + length] += wave[: clip.samples - onset]
    return stem


def _ambience(clip: Clip):
    """Soft noise that falls with frequency, different left and right, and a 100 Hz hum."""
    draw = clip.draws("ambience")
    spectrum = np.fft.rfft(draw.standard_normal((clip.samples, 2)), axis=0)
    frequency = np.fft.rfftfreq(clip.samples, 1 / clip.rate)[:, None]
    noise = np.fft.irfft(spectrum / np.sqrt(frequency + 60), clip.samples, axis=0)
    hum = np.sin(2 * np.pi * (100 * np.arange(clip.samples) / clip.rate + draw.uniform()))[:, None]
    return AMBIENCE * (noise / noise.std() + 0.5 * hum)


# --- voices -------------------------------------------------------------------------------------------------


def voice(kind: str, length: int, rate: int, pitch: float, draw) -> np.ndarray:
    """One sound of class `kind`, `length` samples at `rate`; `pitch` multiplies its frequencies."""
    t = np.arange(length) / rate
    wave = _VOICES[kind](t, pitch, draw)
    wave *= np.minimum(1, (t + 1 / rate) / 0.0008)  # a soft attack, but not from nothing
    wave *= np.minimum(1, (t[-1] - t + 1 / rate) / min(0.02, t[-1] / 4))
    return wave / np.abs(wave).max()


def _tone(frequency, t):
    """A cosine of a constant or changing frequency (Hz)."""
    phase = frequency * t if np.isscalar(frequency) else np.cumsum(frequency) * (t[1] - t[0])
    return np.cos(2 * np.pi * phase)


def _noise(width, t, draw):
    """Noise of about `width` Hz, whatever the rate."""
    values = draw.standard_normal(int(2 * width * t[-1]) + 2)
    values[0] = 2
    return np.interp(2 * width * t, np.arange(len(values)), values)


def _ball(t, pitch, draw):
    return _tone(pitch * (75 + 70 * np.exp(-t / 0.03)), t) * np.exp(-t / 0.06)


def _bell(t, pitch, draw):
    partials = ((1, 1.0), (2.0, 0.7), (2.41, 0.5), (3.02, 0.4), (4.17, 0.3), (5.43, 0.2))
    return sum(a * _tone(620 * pitch * r, t) * np.exp(-t * np.sqrt(r) / 0.3) for r, a in partials)


def _drum(t, pitch, draw):
    return _tone(185 * pitch, t) * np.exp(-t / 0.09) + 0.4 * _noise(3000, t, draw) * np.exp(-t / 0.05)


def _woodblock(t, pitch, draw):
    return (_tone(1150 * pitch, t) + 0.6 * _tone(1790 * pitch, t)) * np.exp(-t / 0.015)


def _horn(t, pitch, draw):
    return sum(_tone(300 * pitch * k, t) / k for k in range(1, 8))


def _siren(t, pitch, draw):
    sweep = pitch * (1000 - 450 * np.cos(2 * np.pi * 2.5 * t))
    return _tone(sweep, t) + 0.25 * _tone(2 * sweep, t)


def _bird(t, pitch, draw):
    chirp = t % 0.07 / 0.07
    return _tone(pitch * (3300 + 1500 * chirp), t) * (1 - chirp) ** 1.5


def _rattle(t, pitch, draw):
    return _noise(1500, t, draw) * _tone(6000 * pitch, t) * np.exp(-3 * (t * 18 % 1))


_VOICES = {
    "ball": _ball,
    "bell": _bell,
    "drum": _drum,
    "woodblock": _woodblock,
    "horn": _horn,
    "siren": _siren,
    "bird": _bird,
    "rattle": _rattle,
}
