"""What the augmentations do to sounds: float arrays (samples, channels) of full scale 1, to new arrays of the same shape and type.

Starts and lengths are samples.  Each function does what its arguments say and draws nothing; what is drawn, and from which
ranges: :mod:`.operations`.
"""

import numpy as np

BLOCKS = 10  # in which a clip is searched for sound
QUIET, FLOOR = 0.1, 1e-4  # a silent block: RMS below this share of the loudest block's (-20 dB), or below -80 dBFS
LEGACY_QUIET = 0.1  # the originals': RMS, whatever the clip's level; a tone of amplitude 0.14 counts as silence
CURVES = ("sine", "cosine", "up", "down")
WINDOW = 2048  # of the time stretching, samples


def sounding(audio: np.ndarray, legacy: bool = False) -> list[tuple[int, int]]:
    """[start, end) of the runs of blocks (a tenth of the clip each) that are not silent; empty for silence."""
    edges = [len(audio) * k // BLOCKS for k in range(BLOCKS + 1)]
    levels = []
    for low, high in zip(edges, edges[1:]):
        part = audio[low:high].astype(np.float64)
        levels.append(float(np.sqrt(np.mean(part * part))) if part.size else 0.0)
    least = LEGACY_QUIET if legacy else max(QUIET * max(levels), FLOOR)
    runs: list[tuple[int, int]] = []
    for low, high, level in zip(edges, edges[1:], levels):
        if level < least:
            continue
        if runs and runs[-1][1] == low:
            low = runs.pop()[0]
        runs.append((low, high))
    return runs


def curve(shape: str, length: int) -> np.ndarray:
    """(length,) gains: "sine", half a wave from 0 to 1 to 0; "cosine", from 1 to -1; "up", 0 to 1; "down", 1 to 0."""
    at = np.linspace(0, 1, length)
    return {"sine": lambda: np.sin(np.pi * at), "cosine": lambda: np.cos(np.pi * at), "up": lambda: at, "down": lambda: 1 - at}[shape]()


def volume(audio: np.ndarray, start: int, length: int, gain: float, shape: str) -> np.ndarray:
    """Multiply the segment by `gain` times a :func:`curve`, clipped to full scale."""
    made = audio.copy()
    part = made[start : start + length]
    part[:] = np.clip(part * (gain * curve(shape, len(part)))[:, None].astype(audio.dtype), -1, 1)
    return made


def add(audio: np.ndarray, source: np.ndarray, start: int) -> np.ndarray:
    """Add `source` (samples, channels) from `start` on, at unit gain; nothing is clipped here."""
    made = audio.copy()
    part = made[start : start + len(source)]
    part += fit(source, audio)[: len(part)]
    return made


def delete(audio: np.ndarray, source: np.ndarray | None, start: int, length: int) -> np.ndarray:
    """Take `source` (samples, channels, of that segment) out of the segment; without one the segment becomes silent."""
    made = audio.copy()
    part = made[start : start + length]
    if source is None:
        part[:] = 0
    else:
        source = fit(source, audio)[: len(part)]
        part[: len(source)] -= source
    return made


def shift(audio: np.ndarray, samples: int) -> np.ndarray:
    """Sound everything `samples` later; what leaves at the end comes first."""
    return np.roll(audio, samples, axis=0)


def window(whole: np.ndarray, start: int, length: int) -> np.ndarray:
    """Another window of the file; behind its end is silence."""
    return padded(whole[start : start + length], length)


def mute(audio: np.ndarray, start: int, length: int) -> np.ndarray:
    """Put silence in at `start`; what follows sounds later, and what comes too late is cut off."""
    silence = np.zeros((length, audio.shape[1]), audio.dtype)
    return np.concatenate([audio[:start], silence, audio[start:]])[: len(audio)]


def repeat(audio: np.ndarray, start: int, length: int) -> np.ndarray:
    """Let the segment sound three times; what follows sounds later, and what comes too late is cut off."""
    end = start + length
    part = audio[start:end]
    return np.concatenate([audio[:end], part, part, audio[end:]])[: len(audio)]


def speed(audio: np.ndarray, start: int, length: int, factor: float, beyond: np.ndarray | None = None) -> np.ndarray:
    """Play the segment `factor` times as fast at its pitch.

    What follows sounds later and is cut off, or sooner: then comes what the file has behind the clip (`beyond`), then silence.
    """
    stretched = stretch(audio[start : start + length], factor)
    parts = [audio[:start], stretched, audio[start + length :], *([] if beyond is None else [beyond])]
    return padded(np.concatenate(parts)[: len(audio)].astype(audio.dtype, copy=False), len(audio))


# --- parts ----------------------------------------------------------------------------------------------


def padded(audio: np.ndarray, length: int) -> np.ndarray:
    """`audio` with silence behind it up to `length` samples."""
    return np.concatenate([audio, np.zeros((length - len(audio), audio.shape[1]), audio.dtype)]) if len(audio) < length else audio.copy()


def fit(source: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`source` with the channels and type of `like`: the mean of all its channels to each, where the counts differ."""
    if source.shape[1] != like.shape[1]:
        source = np.repeat(source.mean(axis=1, keepdims=True), like.shape[1], axis=1)
    return source.astype(like.dtype, copy=False)


def resampled(audio: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """`audio` at another rate (Hz)."""
    if rate_in == rate_out or not len(audio):
        return audio
    import soxr

    return soxr.resample(audio, rate_in, rate_out, quality="HQ")


def stretch(audio: np.ndarray, factor: float) -> np.ndarray:
    """round(samples / factor) samples of `audio` at its pitch, by a phase vocoder (Flanagan and Golden 1966).

    Spectra of Hann windows at a quarter's distance are read `factor` times as fast; phases go on by what they advance by
    between neighbours, and those of a partial's bins stay together (Puckette 1995), or it would lose loudness.
    """
    length = max(1, round(len(audio) / factor))
    size = min(WINDOW, 1 << max(4, len(audio).bit_length() - 1))
    hop = size // 4
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    expected = 2 * np.pi * hop * np.arange(size // 2 + 1) / size
    made = np.zeros((length, audio.shape[1]), audio.dtype)
    for channel in range(audio.shape[1]):
        signal = np.pad(audio[:, channel].astype(np.float64), (size // 2, size // 2 + 2 * hop + size))
        spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(signal, size)[::hop] * hann)
        times = np.arange(0, len(spectra) - 1, factor)
        low = times.astype(int)
        share = (times - low)[:, None]
        magnitude = np.abs(spectra)
        magnitude = (1 - share) * magnitude[low] + share * magnitude[low + 1]
        angle = np.angle(spectra)
        advance = angle[low + 1] - angle[low] - expected
        advance = advance - 2 * np.pi * np.round(advance / (2 * np.pi)) + expected
        turned = np.empty(magnitude.shape, np.complex128)
        phase = angle[0]
        for k, amounts in enumerate(magnitude):
            bins = amounts * np.exp(1j * phase)
            together = bins.copy()  # neighbouring bins of one partial have opposite signs
            together[1:] -= bins[:-1]
            together[:-1] -= bins[1:]
            locked = np.angle(together)
            turned[k] = amounts * np.exp(1j * locked)
            phase = locked + advance[k]
        pieces = np.fft.irfft(turned, size) * hann
        total, weight = np.zeros((2, hop * (len(pieces) - 1) + size))
        for k, piece in enumerate(pieces):
            total[k * hop : k * hop + size] += piece
            weight[k * hop : k * hop + size] += hann * hann
        result = total / np.maximum(weight, 1e-8)
        part = result[size // 2 : size // 2 + length]
        made[: len(part), channel] = part
    return made
