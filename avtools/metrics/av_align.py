"""AV-Align: whether what is heard to begin is seen to move."""

from avtools.metrics import Metric, Skip


class AvAlign(Metric):
    """Onsets of the sound against peaks of the picture's motion.

    Onsets: `librosa.onset.onset_detect` with its defaults (hop 512) at the sound's own rate.  Peaks: strict local
    maxima (neither the first frame nor the last) of the mean magnitude of dense optical flow (Farneback) between
    consecutive frames at their own size; peak i is at i / frame rate.  With A onsets, V peaks, and H onsets that have
    a peak strictly within one frame's time, the score is H / (A + V - H).  No onset and no peak: nothing to judge.
    """

    name = "av-align"
    title = "Audio onsets against peaks of optical flow, intersection over union"
    source = "Yariv et al. 2023, TempoTokens (arXiv:2309.16429); JavisBench (arXiv:2503.23377)"
    columns = {"av_align": "onsets with a motion peak within one frame, over all onsets and peaks; from 0, above 1 where onsets share a peak"}
    direction = "higher"
    ranges = {"av_align": (0.0, float("inf"))}
    needs = ("picture", "sound")
    settings = {"epsilon": 0.0}
    protocols = {"javisbench": {"epsilon": 1e-6}}  # added to the denominator: what has neither gets 0
    requires = (("librosa", "librosa"), ("cv2", "opencv-python-headless"))

    def row(self, item):
        flow = item.keep("flow", lambda: mean_flow(item.gray_frames()))
        if flow is None:
            raise Skip("the picture has one frame, so nothing moves")
        fps = item.facts["picture"]["fps"]
        return {"av_align": score(onset_times(item.sound.mono, item.sound.rate), peak_times(flow, fps), fps, self.set["epsilon"])}


def onset_strength(samples, rate: int):
    """librosa's onset strength of mono `samples` (n,), one value for each 512 of them."""
    import warnings

    import librosa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a sound shorter than librosa's window, which it pads
        return librosa.onset.onset_strength(y=samples, sr=rate)


def onset_times(samples, rate: int):
    """Onsets of mono `samples` (n,), seconds."""
    import librosa

    return librosa.onset.onset_detect(onset_envelope=onset_strength(samples, rate), sr=rate, units="time")


def mean_flow(frames):
    """Mean magnitude of the flow from each gray frame (uint8) to the next, pixels: float array, one for each frame.

    Value i is of frames i-1 to i; the first repeats the second.  None for a single frame.
    """
    import cv2
    import numpy as np

    cv2.setNumThreads(1)  # one process per core
    values, last, flow = [], None, None
    for gray in frames:
        if last is not None:
            flow = cv2.calcOpticalFlowFarneback(last, gray, flow, 0.5, 3, 15, 3, 5, 1.2, 0)
            values.append(float(np.mean(cv2.magnitude(flow[..., 0], flow[..., 1]))))
        last = gray
    return np.array(values[:1] + values) if values else None


def peak_times(flow, fps: float):
    """Times of the strict local maxima of `flow` (n,), seconds."""
    import numpy as np

    middle = flow[1:-1]
    return (np.flatnonzero((middle > flow[:-2]) & (middle > flow[2:])) + 1) / fps


def hits(onsets, peaks, fps: float):
    """Of each onset, whether a peak lies strictly within a frame's time of it: bool array."""
    import numpy as np

    step, onsets = 1 / fps, np.asarray(onsets, float)[:, None]
    return ((peaks - step < onsets) & (onsets < peaks + step)).any(axis=1)


def score(onsets, peaks, fps: float, epsilon: float = 0.0) -> float:
    """AV-Align of onset and peak times (seconds); Skip for 0/0."""
    found = int(hits(onsets, peaks, fps).sum())
    whole = len(onsets) + len(peaks) - found + epsilon
    if not whole:
        raise Skip("neither an onset nor a peak of motion")
    return found / whole
