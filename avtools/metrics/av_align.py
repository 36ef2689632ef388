"""AV-Align: whether what is heard to begin is seen to move."""

import dataclasses
import types

from avtools.errors import MediaError
from avtools.metrics import Metric, Skip
from avtools.metrics.pictures import Watch


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

    def expects(self):
        return [("video", Flow())]

    def row(self, item):
        flow = item.watched("video", Flow())
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


@dataclasses.dataclass(frozen=True)
class Flow(Watch):
    """Mean magnitude of the dense optical flow from each frame to the next, as :func:`mean_flow` has it."""

    def begin(self, clip):
        return _Flow(clip.path)


class _Flow:
    def __init__(self, path: str = "the frames"):
        self.path, self.values, self.last, self.flow = path, [], None, None

    def add(self, number: int, frame) -> None:
        import cv2
        import numpy as np

        gray = frame.gray
        if self.last is not None:
            if gray.shape != self.last.shape:
                raise MediaError(f"{self.path}: its picture changes size; make it one with 'avtools uni-fps --crop-resize'")
            cv2.setNumThreads(1)  # one process per core
            self.flow = cv2.calcOpticalFlowFarneback(self.last, gray, self.flow, 0.5, 3, 15, 3, 5, 1.2, 0)
            self.values.append(float(np.mean(cv2.magnitude(self.flow[..., 0], self.flow[..., 1]))))
        self.last = gray

    def result(self):
        import numpy as np

        return np.array(self.values[:1] + self.values) if self.values else None


def mean_flow(frames):
    """Mean magnitude of the flow from each gray frame (uint8) to the next, pixels: float array, one for each frame.

    Value i is of frames i-1 to i; the first repeats the second.  None for a single frame.
    """
    flow = _Flow()
    for number, gray in enumerate(frames):
        flow.add(number, types.SimpleNamespace(gray=gray))
    return flow.result()


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
