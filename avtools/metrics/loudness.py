"""How loud a sound is, and whether it is one at all."""

import math

from avtools.metrics import Metric, Skip

SILENCE_DB, WINDOW_S = -60.0, 0.01
FULL_SCALE = 32767 / 32768


class Loudness(Metric):
    """Level of all channels together; 0 dBFS is the RMS of a constant full-scale signal.

    Samples that are not finite count as silence and are counted.
    """

    name = "loudness"
    title = "Level, peak, and shares of silence and clipping"
    source = "avtools: RMS and peak re full scale"
    columns = {
        "loudness_db": "RMS of all samples, dBFS; empty for digital silence",
        "peak_db": "largest sample, dBFS; empty for digital silence",
        "silent_share": "share of 10 ms windows whose RMS is below -60 dBFS; 0 to 1",
        "clipped_share": "share of samples at full scale (32767/32768 or beyond); 0 to 1",
        "broken_samples": "samples that are no finite numbers",
    }
    ranges = {"silent_share": (0.0, 1.0), "clipped_share": (0.0, 1.0), "broken_samples": (0.0, math.inf)}
    direction = "none"
    chance_how = "none: it says nothing of pairs"
    needs = ("sound",)

    def row(self, item):
        import numpy as np

        samples, rate, broken = item.sound
        power = np.square(samples, dtype=np.float64).mean(axis=1)
        peak = float(np.abs(samples).max())
        quiet = Skip("digital silence")
        starts = np.arange(0, len(power), max(1, round(rate * WINDOW_S)))
        windows = np.add.reduceat(power, starts) / np.diff(np.append(starts, len(power)))
        return {
            "loudness_db": float(10 * np.log10(power.mean())) if peak else quiet,
            "peak_db": float(20 * np.log10(peak)) if peak else quiet,
            "silent_share": float(np.mean(windows < 10 ** (SILENCE_DB / 10))),
            "clipped_share": float(np.mean(np.abs(samples) >= FULL_SCALE)),
            "broken_samples": broken,
        }
