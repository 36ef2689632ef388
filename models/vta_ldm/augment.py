"""Two clips made into one: one after the other, or mixed by their loudness (spec section 3)."""

import itertools

import numpy as np

CUT = (5, 15)  # pictures of the first clip that are kept, at the original's 2 per second
SILENCE = 1e-8  # power; -80 dB


def a_weighting(rate: int, n_fft: int, floor: float = -80.0) -> np.ndarray:
    """(n_fft / 2 + 1,) A-weighting in dB (IEC 61672) from 0 to rate / 2 Hz."""
    square = np.linspace(0, rate / 2, n_fft // 2 + 1) ** 2
    square[0] = 1.0
    weight = 2 + 20 * (
        2 * np.log10(12194)
        + 2 * np.log10(square)
        - np.log10(square + 12194**2)
        - np.log10(square + 20.6**2)
        - 0.5 * np.log10(square + 107.7**2)
        - 0.5 * np.log10(square + 737.9**2)
    )
    return np.maximum(weight, floor)


def analysis_window(rate: int) -> int:
    return 4096 if rate in (24000, 48000) else 2048


def gain(sound: np.ndarray, rate: int) -> np.ndarray:
    """(N,) -> A-weighted power of each frame in dB, floored at -80; a sound shorter than a frame is padded."""
    size = analysis_window(rate)
    sound = np.pad(sound, (0, max(0, size - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[:: size // 2]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    return 10 * np.log10(np.maximum((power * 10 ** (a_weighting(rate, size) / 10)).sum(1), SILENCE))


def mixed(one: np.ndarray, other: np.ndarray, rate: int, share: float = 0.5) -> np.ndarray:
    """The mean of two sounds (N,) weighted so that both sound equally loud (between-class learning, Tokozume et al. 2018)."""
    difference = gain(one, rate).max() - gain(other, rate).max()
    p = 1 / (1 + 10 ** (difference / 20) * (1 - share) / share)
    return ((p * one + (1 - p) * other) / np.sqrt(p**2 + (1 - p) ** 2)).astype(np.float32)


def joined_captions(one: str, other: str) -> str:
    """ "A dog barks", "Birds sing" -> "A dog barks and birds sing"."""
    return f"{one} and {other[:1].lower()}{other[1:]}" if one and other else one or other


def mix_batch(sounds: list[np.ndarray], captions: list[str], rate: int, most: int, order=None) -> tuple[np.ndarray, list[str]]:
    """At most `most` pairs of a batch's clips mixed: (pairs, N) with the peak of all at 0.5, and their captions.

    `order`: a permutation of the pairs, which are otherwise taken in lexicographic order.
    """
    pairs = list(itertools.combinations(range(len(sounds)), 2))
    pairs = [pairs[k] for k in (range(len(pairs)) if order is None else order)][:most]
    made = np.stack([mixed(sounds[a], sounds[b], rate) for a, b in pairs])
    peak = np.abs(made).max()
    return (made / peak * np.float32(0.5) if peak > 0 else made), [joined_captions(captions[a], captions[b]) for a, b in pairs]


def concatenated(one: dict, other: dict, draw: int, frame_rate: float, rate: int) -> dict:
    """One item up to a cut, then the other from there on: waveform (S,), frames (T, ...) and text as far as there.

    The cut is after the 5th to 15th picture at 2 per second, drawn by `draw`; windows below 10 s scale it.
    Picture and sound are cut at the same time, and no further than both clips have pictures.
    """
    low, high = CUT
    seconds = (low + draw % (high - low + 1)) / 2 * min(1.0, len(one["waveform"]) / rate / 10)
    kept, made = max(1, round(seconds * frame_rate)), dict(one)
    if "frames" in one:
        kept = max(1, min(kept, len(one["frames"]), len(other["frames"]) - 1))
        made["frames"] = np.concatenate([one["frames"][:kept], other["frames"][kept:]])
    at = round(kept / frame_rate * rate)
    made["waveform"] = np.concatenate([one["waveform"][:at], other["waveform"][at:]])
    if "text" in one:
        made["text"] = np.concatenate([one["text"], np.frombuffer(b" ", np.uint8), other["text"]])
    return made
