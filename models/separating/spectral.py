"""Separation without a trained network: sustained from percussive sound, and parts that recur.

Both weight a short-time spectrum (46 ms windows, a quarter apart, Hann) by masks between 0 and 1 that all channels share, so that a
part keeps its place in the stereo image.  Arrays are float32 (samples, channels); `rate` in Hz.
"""

WINDOW = 0.0464  # seconds; the nearest power of two in samples
BLOCK = 256  # frames that are worked on at once
MEDIAN = 31  # frames, and bins, over which the medians of `hpss` go
MARGIN = 2.0  # how far one kind has to exceed the other; what neither does is residual
LEARNT, LEARNING, FITTING = 4096, 200, 50  # of `nmf`: frames its parts are learnt from, updates of these, updates for each frame
_TINY = 1e-12


def hpss(samples, rate: int):
    """Harmonic, percussive and residual part of a sound, float32 (3, samples, channels); they sum to it.

    Median filters along time and along frequency, soft masks of power 2 with a margin of 2 (Fitzgerald 2010; Driedger et al.
    2014), as librosa.decompose.hpss works them out.
    """
    import numpy as np

    def masks(magnitude):
        harmonic, percussive = median(magnitude, 1), median(magnitude, 0)
        sustained, struck = _soft(harmonic, percussive * MARGIN), _soft(percussive, harmonic * MARGIN)
        return np.stack([sustained, struck, np.maximum(1 - sustained - struck, 0)])

    return _masked(samples, _size(rate), 3, MEDIAN // 2, masks)


def nmf(samples, rate: int, parts: int, seed: int):
    """`parts` recurring parts of a sound, loudest first, float32 (parts, samples, channels); they sum to it.

    Non-negative matrix factorisation of the magnitudes under the Kullback-Leibler divergence by multiplicative updates (Lee and
    Seung 2001), from random spectra (`seed`, 63 bits).  Spectra are learnt from at most LEARNT frames, evenly spread; how much
    of each is in a frame is worked out for every frame by itself, so memory does not depend on the length.
    """
    import numpy as np

    size = _size(rate)
    padded = _padded(samples, size)
    total = _frames(len(samples), size)
    chosen = np.unique(np.linspace(0, total - 1, min(total, LEARNT)).astype(np.int64))
    seen = np.concatenate([_magnitude(_spectra(padded, size, chosen[at : at + BLOCK])) for at in range(0, len(chosen), BLOCK)], axis=1)
    drawn = np.random.default_rng(seed).uniform(0.5, 1.5, (size // 2 + 1, parts)).astype(np.float32)
    spectra = drawn / drawn.sum(axis=0)
    shares = np.full((parts, seen.shape[1]), seen.sum() / max(1, seen.shape[1]) / parts, np.float32)
    for _ in range(LEARNING):
        shares = _fitted(seen, spectra, shares)
        ratio = seen / np.maximum(spectra @ shares, _TINY)
        spectra = spectra * (ratio @ shares.T) / np.maximum(shares.sum(axis=1), _TINY)
        spectra /= np.maximum(spectra.sum(axis=0), _TINY)
    spectra = spectra[:, np.argsort(-shares.sum(axis=1), kind="stable")]

    def masks(magnitude):
        own = np.repeat(magnitude.sum(axis=0, keepdims=True) / parts, parts, axis=0)
        for _ in range(FITTING):
            own = _fitted(magnitude, spectra, own)
        pieces = spectra.T[:, :, None] * own[:, None] + _TINY / parts
        return pieces / pieces.sum(axis=0)

    return _masked(samples, size, parts, 0, masks)


def median(values, axis: int):
    """Running median over MEDIAN places of (bins, frames) along `axis`; beyond the ends it is mirrored."""
    import numpy as np

    half = MEDIAN // 2
    reach = [(half, half) if k == axis else (0, 0) for k in range(2)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, "symmetric"), MEDIAN, axis)
    return np.partition(windows, half, axis=-1)[..., half]


def _soft(values, others):
    """values² / (values² + others²); a half where both are 0."""
    import numpy as np

    scale = np.maximum(np.maximum(values, others), np.finfo(np.float32).tiny)
    mine, theirs = (values / scale) ** 2, (others / scale) ** 2
    both = mine + theirs
    return np.where(both > 0, mine / np.where(both > 0, both, 1), np.float32(0.5))


def _fitted(seen, spectra, shares):
    """One update of how much of each spectrum (bins, parts; each sums to 1) is in each frame of `seen` (bins, frames)."""
    import numpy as np

    return shares * (spectra.T @ (seen / np.maximum(spectra @ shares, _TINY)))


def _size(rate: int) -> int:
    import math

    return max(16, 1 << round(math.log2(WINDOW * rate))) if WINDOW * rate > 1 else 16


def _frames(samples: int, size: int) -> int:
    return -(-(samples + size) // (size // 4)) + 1


def _padded(samples, size: int):
    """(channels, length) with so much silence around that every sample is in four windows."""
    import numpy as np

    length = (_frames(len(samples), size) - 1) * (size // 4) + size
    out = np.zeros((samples.shape[1], length), np.float32)
    out[:, size : size + len(samples)] = samples.T
    return out


def _window(size: int):
    import numpy as np

    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


def _spectra(padded, size: int, frames):
    """Complex (channels, bins, frames) of the frames of these numbers."""
    import numpy as np

    begins = np.asarray(frames) * (size // 4)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, begins]
    return np.fft.rfft(windows * _window(size), axis=2).astype(np.complex64).transpose(0, 2, 1)


def _magnitude(spectra):
    """Root mean square over the channels, float32 (bins, frames)."""
    import numpy as np

    return np.sqrt(np.square(np.abs(spectra)).mean(axis=0))


def _masked(samples, size: int, parts: int, context: int, masks):
    """float32 (parts, samples, channels): the sound under each of the masks (parts, bins, frames) that `masks(magnitude)` gives.

    It is called block by block with `context` more frames on each side, as far as there are any.
    """
    import numpy as np

    padded, hop, total = _padded(samples, size), size // 4, _frames(len(samples), size)
    out = np.zeros((parts, *padded.shape), np.float32)
    window = _window(size) / 1.5  # the squares of four Hann windows, a quarter apart, sum to 1.5
    for begin in range(0, total, BLOCK):
        end = min(begin + BLOCK, total)
        first, last = max(0, begin - context), min(total, end + context)
        spectra = _spectra(padded, size, np.arange(first, last))
        shares = masks(_magnitude(spectra))[:, :, begin - first : end - first]
        spectra = spectra[:, :, begin - first : end - first]
        for part in range(parts):
            pieces = np.fft.irfft(spectra * shares[part], size, axis=1).transpose(0, 2, 1).astype(np.float32) * window
            for k in range(end - begin):
                at = (begin + k) * hop
                out[part, :, at : at + size] += pieces[:, k]
    return np.ascontiguousarray(out[:, :, size : size + len(samples)].transpose(0, 2, 1))
