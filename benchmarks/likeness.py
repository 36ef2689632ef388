"""How like their source the frames of a re-timed clip are: mean SSIM of the luma, as FFmpeg's filter defines it."""

import bisect
from fractions import Fraction

import av
import numpy as np

REACH = 2
EVERY = 5  # of the output's frames, each fifth is compared


def ssim(a, b) -> float:
    """Mean SSIM of two 8-bit planes: blocks of 8x8 pixels, 4 apart."""
    height, width = a.shape[0] // 4 * 4, a.shape[1] // 4 * 4
    a, b = a[:height, :width].astype(np.float32), b[:height, :width].astype(np.float32)

    def sums(x):
        blocks = x.reshape(height // 4, 4, width // 4, 4).sum((1, 3), dtype=np.float64)
        return blocks[:-1, :-1] + blocks[1:, :-1] + blocks[:-1, 1:] + blocks[1:, 1:]

    one, other, squares, product = sums(a), sums(b), sums(a * a + b * b), sums(a * b)
    c1, c2 = 0.01**2 * 255**2 * 64, 0.03**2 * 255**2 * 64 * 63
    spread, common = squares * 64 - one * one - other * other, product * 64 - one * other
    return float(((2 * one * other + c1) * (2 * common + c2) / ((one * one + other * other + c1) * (spread + c2))).mean())


def frames(path):
    """Yield (time from the first frame, luma) of the shown frames."""
    with av.open(str(path)) as container:
        stream, zero = container.streams.video[0], None
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            time = frame.pts * frame.time_base
            zero = time if zero is None else zero
            plane = frame.planes[0]
            luma = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            yield time - zero, luma.copy()


class Source:
    """The frames of a source, kept compressed and decoded exactly (not sought) when asked for in order."""

    def __init__(self, path):
        self.times = [time for time, _ in frames(path)]
        self.path = path

    def shown(self, times) -> dict:
        """For each of `times`: the frame shown then (0) and those around it (-REACH to REACH), where they are."""
        wanted: dict[int, list] = {}
        for time in times:
            k = max(0, bisect.bisect_right(self.times, time) - 1)
            for near in range(max(0, k - REACH), k + REACH + 1):
                wanted.setdefault(near, []).append((time, near - k))
        found: dict = {}
        for k, (_, luma) in enumerate(frames(self.path)):
            for time, place in wanted.get(k, ()):
                found.setdefault(time, {})[place] = luma
        return found


def likeness(path, source: Source, lenient: bool) -> float:
    """The mean over the frames of `path`.  `lenient`: each is compared with whichever frame nearby it is most like,
    since `ffmpeg -r` may show a frame more than one frame early or late, which is not to count as bad encoding."""
    made = [(time, luma) for k, (time, luma) in enumerate(frames(path)) if k % EVERY == 0]
    exact = Fraction(1, 1000)  # containers round times
    found = source.shown([time + exact for time, _ in made])
    values = []
    for time, luma in made:
        near = found[time + exact]
        values.append(max(ssim(luma, near[k]) for k in near if k == 0 or lenient))
    return float(np.mean(values))
