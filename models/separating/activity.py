"""Where a sound is heard: its level in short steps against that of the sound that it was taken from.

All arrays are float (samples, channels), full scale 1; `rate` in Hz.
"""

import math

STEP = 0.025  # seconds over which a level is measured, all channels together
GAP, SHORTEST = 0.2, 0.05  # seconds: shorter pauses do not end an interval; shorter intervals are none
SILENT = 1e-9  # mean square (-90 dB); nothing below it is heard


def powers(samples, rate: int):
    """Mean square of each step, float64 (steps,), and a step's length in samples; the last step may be shorter."""
    import numpy as np

    step = max(1, round(STEP * rate))
    if not len(samples):
        return np.zeros(0), step
    square = np.square(samples, dtype=np.float64).mean(axis=1)
    begins = np.arange(0, len(square), step)
    return np.add.reduceat(square, begins) / np.diff([*begins, len(square)]), step


def level(samples, rate: int) -> float:
    """The mean square at which a sound is when it sounds: that of its steps, weighted by their energy (0 for silence).

    Silence around it does not lower it, a click hardly raises it.
    """
    power, _ = powers(samples, rate)
    total = power.sum()
    return float(power @ power / total) if total > 0 else 0.0


def active(samples, rate: int, reference: float, db: float) -> list[list[float]]:
    """[[start, end], ...] seconds in which a sound is no more than `-db` below the mean square `reference`.

    Pauses shorter than GAP are bridged, then intervals shorter than SHORTEST are left out.
    """
    import numpy as np

    power, step = powers(samples, rate)
    heard = np.flatnonzero((power >= reference * 10 ** (db / 10)) & (power > SILENT))
    found: list[list[int]] = []
    for at in heard.tolist():
        begin, end = at * step, min((at + 1) * step, len(samples))
        if found and begin - found[-1][1] < GAP * rate:
            found[-1][1] = end
        else:
            found.append([begin, end])
    return [[begin / rate, end / rate] for begin, end in found if end - begin >= math.floor(SHORTEST * rate)]
