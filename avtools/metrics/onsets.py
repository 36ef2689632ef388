"""Onset-F1: whether sound begins when it should, against known events or a reference sound.

The detector (:func:`detect`) is ours; it knows no classes.  Its parameters were chosen on clips of `avtools synth`
and on their round trip through 32 mel bands and Griffin-Lim, as sounds that a model makes are; other clips test them.
"""

import functools
import json
import math

from avtools.errors import RowError
from avtools.metrics import Metric, Skip

RATE = 16000  # Hz: all sounds are judged at this one
WINDOW, HOP = 512, 80  # samples: 32 ms, 5 ms
BANDS, LOWEST, HIGHEST = 40, 40, 8000  # mel bands, Hz
RANGE_DB, QUIET_DB = 35, -80  # a band 35 dB below the loudest of the clip, or below -80 dBFS, counts little
LAG, PAST = 4, 12  # hops: what is louder than all of the 20 to 80 ms before it rises; grains and trills do not
NEIGHBOURS = 2  # bands on each side that are compared with too, so that glides do not rise
SHARE, LEAST = 0.2, 0.3  # a rise counts from this share of the clip's largest one, and from this many nepers a band
GAP, LOOK = 40, 8  # hops: 200 ms from one onset to the next at least; a rise's top is sought for 40 ms
LATENCY = 0.005  # seconds that half of a rise comes before its sound (the window is centred)


class OnsetF1(Metric):
    """Onsets of the judged sound against the row's `event_times`, else the onsets of the reference sound.

    Onsets and references are matched one to one, as many as lie within `tolerance` seconds of each other.
    Nothing in either: nothing to judge.  Nothing in one of them: F1 is 0.  Sounds of any rate are resampled to
    16 kHz mono first.  A reference sound whose column the user names is preferred to `event_times`.
    """

    name = "onset-f1"
    title = "Onsets of the sound against true events, F1 of one-to-one matches within 50 ms"
    source = "avtools; one-to-one matching within 50 ms as in MIREX onset detection (mir_eval.onset)"
    columns = {
        "onset_f1": "harmonic mean of precision and recall; 0 to 1",
        "onset_precision": "matched share of the sound's onsets; empty where it has none",
        "onset_recall": "matched share of the events; empty where there are none",
    }
    direction = "higher"
    ranges = dict.fromkeys(columns, (0.0, 1.0))
    needs = ("sound", "reference")
    settings = {"tolerance": 0.05}
    resampler = "soxr HQ to 16000 Hz mono"

    def row(self, item):
        events = item.keep("events", lambda: reference_times(item))
        return f1(detect(item.sound.mono, item.sound.rate), events, self.set["tolerance"])


def reference_times(item) -> list[float]:
    """The times (seconds) at which something should be heard."""
    if item.row.get("event_times") not in (None, "") and not item.named.get("reference_audio"):
        return _times(item.row["event_times"])
    reference = item.file("reference_audio")
    if reference == item.own_sound_file:
        raise RowError(f"{reference}: would be judged by itself; give event_times, a generated sound, or --reference-audio-column")
    return list(detect(item.reference_sound.mono, item.reference_sound.rate))


def _times(cell) -> list[float]:
    try:
        times = json.loads(cell) if isinstance(cell, str) else cell
        good = isinstance(times, list) and all(isinstance(t, int | float) and not isinstance(t, bool) and math.isfinite(t) for t in times)
    except (ValueError, RecursionError):
        good = False
    if not good:
        raise RowError(f"event_times: {str(cell)[:80]!r} is no list of seconds such as [0.5, 1.25]")
    return sorted(map(float, times))


def f1(onsets, events, tolerance: float) -> dict:
    """The columns of :class:`OnsetF1` for times in seconds, each in order."""
    if not len(onsets) and not len(events):
        raise Skip("no event and no onset")
    found = matched(onsets, events, tolerance)
    return {
        "onset_f1": 2 * found / (len(onsets) + len(events)),
        "onset_precision": found / len(onsets) if len(onsets) else Skip("no onset"),
        "onset_recall": found / len(events) if len(events) else Skip("no event"),
    }


def matched(onsets, events, tolerance: float) -> int:
    """The most pairs, each of one of `onsets` and one of `events` (in order), that lie within `tolerance`.

    Taking the earliest partner for the earlier of two is optimal, since all windows are equally long.
    """
    count = i = j = 0
    while i < len(onsets) and j < len(events):
        if abs(onsets[i] - events[j]) <= tolerance + 1e-9:
            count, i, j = count + 1, i + 1, j + 1
        elif onsets[i] < events[j]:
            i += 1
        else:
            j += 1
    return count


def detect(samples, rate: int):
    """Onsets of mono `samples` (n,) at `rate` Hz, seconds, in order: float array.

    A rise is how much the logarithm of a mel band exceeds the largest value that it and its neighbours had from 20 to
    80 ms before, averaged over bands (superflux, with a longer memory).  From left to right, each place where
    it passes the threshold, 200 ms or more after the last, is an onset: where half of that rise is reached.
    """
    import numpy as np

    rise = rises(samples, rate)
    threshold = max(LEAST, SHARE * rise.max(initial=0.0))
    above = np.flatnonzero(rise >= threshold)
    found, at = [], 0
    while (k := np.searchsorted(above, at)) < len(above):
        first = above[k]
        ahead = rise[first : first + LOOK + 1]
        place = first + int(np.argmax(ahead >= ahead.max() / 2))
        found.append(place * HOP / RATE + LATENCY)
        at = place + GAP
    return np.array(found)


def rises(samples, rate: int):
    """The rise (see :func:`detect`) of mono `samples` (n,) for each 5 ms: float array."""
    import numpy as np
    import soxr

    samples = np.asarray(samples, np.float64)
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE)
    half = WINDOW // 2
    samples = np.pad(samples, (0, max(0, half + 1 - len(samples))))
    samples = np.pad(samples, half, mode="reflect")  # sound that is there from the start does not begin there
    window = np.hanning(WINDOW + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    loud = np.empty((len(frames), BANDS))
    for at in range(0, len(frames), 4096):  # so that hours need no more memory than minutes
        spectrum = np.abs(np.fft.rfft(frames[at : at + 4096] * window)) * (2 / window.sum())
        loud[at : at + 4096] = np.square(spectrum) @ _mel_bands().T
    least = max(loud.max() * 10 ** (-RANGE_DB / 10), 10 ** (QUIET_DB / 10))
    level = np.log1p(loud / least)
    around = level.copy()
    for k in range(1, NEIGHBOURS + 1):
        np.maximum(around[:, k:], level[:, :-k], out=around[:, k:])
        np.maximum(around[:, :-k], level[:, k:], out=around[:, :-k])
    before = np.zeros_like(level)
    before[:LAG] = around[:LAG]
    for lag in range(LAG, LAG + PAST + 1):
        np.maximum(before[lag:], around[:-lag], out=before[lag:])
    return np.maximum(level - before, 0).mean(axis=1)


@functools.cache
def _mel_bands():
    """Triangles (BANDS, bins), peak 1, evenly spaced in mel (2595 log10(1 + f/700))."""
    import numpy as np

    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST, HIGHEST))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    up = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(up, down))
