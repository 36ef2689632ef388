"""How far a sound is from its reference in spectrum and loudness."""

import functools
import math

from avtools.metrics import Metric, Skip
from avtools.metrics.signals import SILENT, check_settings, reference_part, side_by_side

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # of the multi-resolution distance: FFT, hop, window, samples
WINDOW, HOP, BANDS = 2048, 512, 128  # of the others, samples and mel bands
POWER_FLOOR = 1e-8  # of power spectra in log_spectral_db, and in the multi-resolution distance
RANGE_DB = 80  # mel_db: what is so far below the reference's loudest cell counts as silence
AT_ONCE = 1 << 20  # values of a spectrum
BLOCK_S, STEP_S, GATE_LUFS, GATE_LU = 0.4, 0.1, -70.0, -10.0  # BS.1770-4


class Spectral(Metric):
    """Distances of the judged sound's spectrum from its reference's, sample by sample: both must begin together.

    The mean of the channels, at the lower of both rates (or `rate`, Hz).  Lengths may differ by 50 ms.  `mrstft`: spectral convergence
    plus mean absolute difference of the logarithms (natural) of magnitudes, mean of three resolutions (FFT 1024, 2048, 512, hop 120, 240, 50,
    Hann window 600, 1200, 240 samples).  `log_spectral_db`: root mean square over frequency of the difference of power spectra in dB, mean
    over frames (Hann window 2048, hop 512; powers of at least 1e-8); papers on bandwidth extension give a tenth of it.  `mel_db`:
    mean absolute difference of 128 mel bands (Slaney's), dB, cells at least 80 dB below the reference's loudest taken as that.

    `loudness_lu`: integrated loudness (BS.1770-4) of the judged sound above that of its reference; of all channels, if they
    are equally many, else of their mean.  A silent reference is skipped.
    """

    name = "spectral"
    title = "Spectral distances from the reference sound: multi-resolution STFT, log-spectral, mel; and loudness"
    source = "Yamamoto et al. 2020 (arXiv:1910.11480), Steinmetz and Reiss 2020 (auraloss); Gray and Markel 1976; ITU-R BS.1770-4"
    columns = {
        "mrstft": "multi-resolution STFT distance; 0: alike",
        "log_spectral_db": "log-spectral distance, dB; 0: alike",
        "mel_db": "mean absolute difference of mel spectra, dB; 0: alike",
        "loudness_lu": "loudness above the reference's, LU; empty where one is shorter than 0.4 s or too quiet",
    }
    direction = "lower"
    ranges = dict.fromkeys(("mrstft", "log_spectral_db", "mel_db"), (0.0, math.inf))
    needs = ("sound", "reference_sound")
    settings = {"rate": 0}
    resampler = "soxr HQ to the lower rate of both sounds, or the one set"

    def __init__(self, **settings):
        super().__init__(**settings)
        check_settings(self)

    def row(self, item):
        reference = reference_part(item)
        channels = "all" if item.sound.samples.shape[1] == reference.samples.shape[1] else "mono"
        signals, rate = side_by_side(item, {"reference": reference}, channels, self.set["rate"])
        judged, true = (signals[name].mean(axis=1) for name in ("judged", "reference"))
        if len(true) <= WINDOW // 2:
            raise Skip(f"not more than {WINDOW // 2} samples to compare")
        if true @ true < SILENT * len(true):
            raise Skip("the reference is silent")
        loud = [loudness(signals[name], rate) for name in ("judged", "reference")]
        quiet = next((one for one in loud if isinstance(one, Skip)), None)
        return {
            "mrstft": mrstft(judged, true),
            "log_spectral_db": log_spectral(judged, true),
            "mel_db": mel_distance(judged, true, rate),
            "loudness_lu": quiet or loud[0] - loud[1],
        }


def powers(samples, size: int, hop: int, window: int):
    """Power spectra of `samples` (n,), mirrored at both ends, of a periodic Hann window in the middle of `size`: (frames, size // 2 + 1) each."""
    import numpy as np

    shape = np.zeros(size)
    before = (size - window) // 2
    shape[before : before + window] = np.hanning(window + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, size // 2, mode="reflect"), size)[::hop]
    step = max(1, AT_ONCE // size)
    for at in range(0, len(frames), step):
        spectrum = np.fft.rfft(frames[at : at + step] * shape)
        yield spectrum.real**2 + spectrum.imag**2


def mrstft(judged, true) -> float:
    """The multi-resolution STFT distance of two signals (n,), over 1024 samples."""
    import numpy as np

    found = []
    for resolution in RESOLUTIONS:
        off = whole = logs = count = 0.0
        for ours, theirs in zip(powers(judged, *resolution), powers(true, *resolution), strict=True):
            ours, theirs = (np.sqrt(np.maximum(power, POWER_FLOOR)) for power in (ours, theirs))
            off, whole = off + np.sum((theirs - ours) ** 2), whole + np.sum(theirs**2)
            logs, count = logs + np.sum(np.abs(np.log(ours / theirs))), count + ours.size
        found.append(math.sqrt(off / whole) + logs / count)
    return float(np.mean(found))


def log_spectral(judged, true) -> float:
    """The log-spectral distance of two signals (n,), dB."""
    import numpy as np

    total = count = 0
    for both in zip(powers(judged, WINDOW, HOP, WINDOW), powers(true, WINDOW, HOP, WINDOW), strict=True):
        ours, theirs = (10 * np.log10(np.maximum(power, POWER_FLOOR)) for power in both)
        total, count = total + np.sqrt(np.mean((ours - theirs) ** 2, axis=1)).sum(), count + len(ours)
    return float(total / count)


def mel_distance(judged, true, rate: int) -> float:
    """The mean absolute difference of two signals' mel spectra, dB."""
    import numpy as np

    bands = mel_bands(rate)
    ours, theirs = (np.concatenate([power @ bands.T for power in powers(signal, WINDOW, HOP, WINDOW)]) for signal in (judged, true))
    least = theirs.max() * 10 ** (-RANGE_DB / 10)
    return float(np.mean(np.abs(10 * np.log10(np.maximum(ours, least) / np.maximum(theirs, least)))))


@functools.lru_cache(maxsize=8)
def mel_bands(rate: int):
    """Triangles (BANDS, WINDOW // 2 + 1) of equal area from 0 Hz to half the rate, on Slaney's scale (linear below 1 kHz)."""
    import numpy as np

    step = math.log(6.4) / 27  # 27 bands of 200/3 Hz up to 1 kHz take as much of the scale as 1 to 6.4 kHz

    def mel(hz):
        return 3 * hz / 200 if hz < 1000 else 15 + math.log(hz / 1000) / step

    mels = np.linspace(0, mel(rate / 2), BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.fft.rfftfreq(WINDOW, 1 / rate)
    up = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(up, down)) * (2 / (edges[2:] - edges[:-2]))[:, None]


# --- loudness ---------------------------------------------------------------------------------------------


def loudness(samples, rate: int) -> float | Skip:
    """Integrated loudness of `samples` (n, channels), LUFS, by ITU-R BS.1770-4."""
    import numpy as np

    block, step = round(BLOCK_S * rate), round(STEP_S * rate)
    if len(samples) < block:
        return Skip(f"shorter than {BLOCK_S:g} s, so it has no loudness")
    squares = np.square(weighted(samples, rate)) @ np.array(_channel_weights(samples.shape[1]))
    sums = np.concatenate([[0.0], np.cumsum(squares)])
    starts = np.arange(0, len(samples) - block + 1, step)
    power = np.maximum(sums[starts + block] - sums[starts], 0) / block

    def level(mean):
        return -0.691 + 10 * np.log10(np.maximum(mean, 1e-30))

    power = power[level(power) > GATE_LUFS]
    if not len(power):
        return Skip(f"quieter than {GATE_LUFS:g} LUFS, so it has no loudness")
    power = power[level(power) > level(power.mean()) + GATE_LU]
    return float(level(power.mean()))


def weighted(samples, rate: int):
    """`samples` (n, channels) through both filters of BS.1770 (head, low cut), in the frequency domain: what rings on is cut off."""
    import numpy as np

    ring = rate  # 1 s: the low cut has decayed below rounding
    turn = np.exp(-2j * np.pi * np.fft.rfftfreq(size := _smooth(len(samples) + ring)))
    response = np.ones(len(turn), complex)
    for b, a in filters(rate):
        response *= np.polynomial.polynomial.polyval(turn, b) / np.polynomial.polynomial.polyval(turn, a)
    return np.fft.irfft(np.fft.rfft(samples, size, axis=0) * response[:, None], size, axis=0)[: len(samples)]


def filters(rate: int) -> list[tuple[list[float], list[float]]]:
    """BS.1770's head and low-cut filters at `rate` Hz, (b, a) each: its table at 48 kHz, by bilinear transform elsewhere."""
    k, q = math.tan(math.pi * 1681.974450955533 / rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band, norm = high**0.4996667741545416, 1 + k / q + k * k
    head = [(high + band * k / q + k * k) / norm, 2 * (k * k - high) / norm, (high - band * k / q + k * k) / norm]
    first = (head, [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm])
    k, q = math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773
    norm = 1 + k / q + k * k
    return [first, ([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm])]


def _channel_weights(channels: int) -> list[float]:
    """BS.1770's: of 5 (and 6, with an LFE channel before the last two, which does not count) the last two are behind the listener."""
    return {5: [1, 1, 1, 1.41, 1.41], 6: [1, 1, 1, 0, 1.41, 1.41]}.get(channels, [1] * channels)


def _smooth(count: int) -> int:
    """The least product of 2, 3 and 5 that is not below `count`: an FFT of it is fast."""
    best = 1 << (count - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-count // three)
            best = min(best, three << (rest - 1).bit_length())
            three *= 3
        five *= 5
    return best
