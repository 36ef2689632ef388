"""What is seen of a video: every picture that the metrics of a call ask for, in one decode of the file.

A :class:`Watch` says what is wanted of a clip; :func:`watch` decodes once and shows each frame to all of them.
"""

import dataclasses
import math
from fractions import Fraction
from typing import NamedTuple

from avtools.errors import MediaError, RowError, UsageError

LIMIT = 1 << 30  # bytes of pictures that one watch holds
SLACK = Fraction(1001, 1_000_000)  # seconds: containers round times to milliseconds
APART = Fraction(1, 500)  # seconds from a packet's time, at which a frame is another one


class Clip(NamedTuple):
    """A clip before its frames are decoded.

    `times`: when each of its frames is shown, Fractions in seconds, the first of those that are looked at before or at 0; `end`:
    when the last one ends to be shown; `fps`: the stream's average rate, or None for a still image; `codec`: its decoder.
    """

    path: str
    times: tuple[Fraction, ...]
    end: Fraction
    fps: float | None
    codec: str


class Frame:
    """A decoded frame; what is asked of it several times is made once."""

    def __init__(self, frame):
        self._frame, self._rgb, self._gray = frame, None, None

    @property
    def rgb(self):
        """Upright, uint8 (height, width, 3)."""
        import numpy as np

        from avtools.media.probe import clockwise

        if self._rgb is None:
            self._rgb = np.rot90(self._frame.to_ndarray(format="rgb24"), -clockwise(self._frame) // 90)
        return self._rgb

    @property
    def gray(self):
        """Upright, uint8 (height, width): BT.601 luma of the 8-bit RGB."""
        import cv2
        import numpy as np

        if self._gray is None:
            cv2.setNumThreads(1)  # one process per core
            self._gray = cv2.cvtColor(np.ascontiguousarray(self.rgb), cv2.COLOR_RGB2GRAY)
        return self._gray


class Watch:
    """What is wanted of a clip: hashable, so that it is worked out once for all that want it.

    `begin(clip)` gives an object whose `add(number, frame)` is called with the number (in `clip.times`) of each frame and
    the :class:`Frame`, in order, and whose `result()` is what was wanted.
    """

    def begin(self, clip: Clip):
        raise NotImplementedError


class Seen(NamedTuple):
    """`pictures`: uint8 (T, H, W, 3) RGB; `times`: float (T,) seconds at which each is shown or was asked for; `fps` (0: a still image),
    `frames`, `duration` (seconds): of all that there is to see of the clip."""

    pictures: object
    times: object
    fps: float
    frames: int
    duration: float


@dataclasses.dataclass(frozen=True)
class Pictures(Watch):
    """Which pictures of a clip, and in what form.

    `fps`: what is shown at k / fps seconds; 0: each frame.  `count`: of these so many, evenly spaced from the first to the last
    (the integer part of numpy.linspace); 0: all.  `seconds`: only what is shown before; 0: to the end.

    `size` (height, width), or None: as they are.  `fit`: "crop", the shorter side made to fit and the middle taken; "squash",
    whatever that does to the aspect; "pad", all of it, amid black.  `resize`: "bicubic" or "bilinear", antialiased (Pillow).
    """

    fps: float = 0.0
    count: int = 0
    seconds: float = 0.0
    size: tuple[int, int] | None = None
    fit: str = "crop"
    resize: str = "bicubic"

    def __post_init__(self):
        if self.fit not in ("crop", "squash", "pad") or self.resize not in ("bicubic", "bilinear"):
            raise UsageError(f"{self.fit}, {self.resize}: pictures are fitted by crop, squash or pad, bicubic or bilinear")
        if not 0 <= self.fps <= 1000 or self.count < 0 or not 0 <= self.seconds < math.inf:
            raise UsageError(f"pictures at {self.fps:g} per second, {self.count} of them, of {self.seconds:g} s: give 0 to 1000, and none negative")

    def picks(self, clip: Clip) -> tuple[list[int], list[float]]:
        """The numbers of the frames, ascending, some maybe several times, and the times that they stand for (seconds)."""
        end = clip.end if not self.seconds else min(clip.end, Fraction(self.seconds).limit_denominator(1_000_000))
        if self.fps:
            step, numbers, times, at = 1 / Fraction(self.fps).limit_denominator(1000), [], [], 0
            for k in range(max(1, math.ceil((end - SLACK) / step))):
                while at + 1 < len(clip.times) and clip.times[at + 1] <= k * step + SLACK:
                    at += 1
                numbers.append(at)
                times.append(float(k * step))
        else:
            numbers = [k for k, time in enumerate(clip.times) if time < end - SLACK] or [0]
            times = [float(clip.times[k]) for k in numbers]
        if self.count:
            chosen = [int(k * (len(numbers) - 1) / (self.count - 1)) if self.count > 1 else 0 for k in range(self.count)]
            numbers, times = [numbers[k] for k in chosen], [times[k] for k in chosen]
        return numbers, times

    def begin(self, clip):
        return _Taking(self, clip)

    def fitted(self, rgb):
        """uint8 (H, W, 3) -> the same in the size that is asked for."""
        import numpy as np
        from PIL import Image

        if self.size is None:
            return np.ascontiguousarray(rgb)
        (high, wide), resample = self.size, {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}[self.resize]
        height, width = rgb.shape[:2]
        if self.fit == "squash":
            inner = (wide, high)
        else:
            scale = (max if self.fit == "crop" else min)(Fraction(high, height), Fraction(wide, width))
            inner = (max(1, int(width * scale)), max(1, int(height * scale)))  # rounded down, as torchvision has it
        picture = Image.fromarray(np.ascontiguousarray(rgb))
        picture = picture if picture.size == inner else picture.resize(inner, resample)
        if inner == (wide, high):
            return np.asarray(picture)
        left, top = round((inner[0] - wide) / 2), round((inner[1] - high) / 2)
        return np.asarray(picture.crop((left, top, left + wide, top + high)))  # what lies outside is black


class _Taking:
    def __init__(self, spec: Pictures, clip: Clip):
        self.spec, self.clip, self.made, self.at = spec, clip, [], 0
        self.numbers, self.times = spec.picks(clip)

    def add(self, number: int, frame: Frame) -> None:
        from avtools.media.container import show

        picture = None
        while self.at < len(self.numbers) and self.numbers[self.at] == number:
            if picture is None:
                picture = self.spec.fitted(frame.rgb)
            if self.made and picture.shape != self.made[0].shape:
                raise MediaError(f"{show(self.clip.path)}: its picture changes size; make it one with 'avtools uni-fps --crop-resize'")
            if (len(self.made) + 1) * picture.nbytes > LIMIT:
                raise MediaError(f"{show(self.clip.path)}: more than {len(self.made)} pictures to hold; cut it into shorter clips")
            self.made.append(picture)
            self.at += 1

    def result(self) -> Seen:
        import numpy as np

        clip = self.clip
        return Seen(np.stack(self.made), np.array(self.times), clip.fps or 0.0, len(clip.times), float(clip.end))


def watch(path: str, wanted: list[Watch], begin: float = 0.0, end: float | None = None) -> tuple[list, dict]:
    """The results of all `wanted` for the clip in `path` from `begin` to `end` seconds (None: its own), and what it is.

    RowError where nothing is shown in that span; MediaError where there is no picture, or none of it can be decoded.
    """
    from avtools.media.container import best_video, open_input, show
    from avtools.media.probe import scan

    with open_input(path, demux_only=True) as container:
        stream = best_video(container)
        if stream is None:
            raise MediaError(f"{show(path)}: has no picture; give a video file, or name its column with --video-column")
        rate, codec = stream.average_rate or stream.guessed_rate, stream.codec_context.name
        info, timeline = scan(container, sound=False)
    if not rate and not info.picture.is_image:
        raise MediaError(f"{show(path)}: its frame rate is unknown; make it constant with 'avtools uni-fps'")
    times = [(tick - timeline.ticks[0]) * timeline.base for tick in timeline.ticks]
    if info.picture.is_image:
        times, last = times[:1], Fraction(1)
    else:
        last = timeline.length * timeline.base
    for _ in range(2):  # a second time where fewer or other frames can be decoded than packets tell
        clip, first = _span(path, times, last, None if info.picture.is_image else float(rate), codec, begin, end)
        watching = [one.begin(clip) for one in wanted]
        found, size = _decoded(path, watching, times, first, len(clip.times))
        if found is None:
            break
        if not found:
            raise MediaError(f"{show(path)}: none of its picture can be decoded; is it complete?")
        times = found
    facts = {"frames": len(clip.times), "decoder": codec, "fps": clip.fps or 0.0, "size": size}
    return [one.result() for one in watching], facts


def _span(path, times, last: Fraction, fps, codec, begin: float, end: float | None) -> tuple[Clip, int]:
    """What is seen from `begin` to `end`, as a clip of its own, and the number of its first frame."""
    from avtools.media.container import show

    zero = Fraction(begin).limit_denominator(1_000_000)
    stop = times[-1] + last
    if end is not None:
        stop = min(stop, Fraction(end).limit_denominator(1_000_000))
    first = max((k for k, time in enumerate(times) if time <= zero + SLACK), default=0)
    kept = [time - zero for time in times[first:] if time < stop - SLACK]
    if not kept or stop <= zero:
        raise RowError(f"{show(path)}: shows nothing from {begin:g} s on, where its part is to begin; it has {float(times[-1] + last):g} s")
    return Clip(path, tuple(kept), stop - zero, fps, codec), first


def _decoded(path: str, watching: list, expected: list, first: int, count: int) -> tuple[list | None, str]:
    """Show the frames from the `first` on to all; None, or the times of all frames where they are not at the `expected` ones."""
    from avtools.media.container import best_video, check_picture_size, open_input
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames

    times, size, alike = [], "", True
    with open_input(path) as container:
        stream = best_video(container)
        skip_others(container, [stream])
        for number, (time, frame) in enumerate(shown_frames(container, stream)):
            times.append(time)
            alike = alike and abs(time - expected[number]) < APART
            if alike and first <= number < first + count:
                check_picture_size(container, frame.width, frame.height)
                made = Frame(frame)
                if not size:
                    height, width = made.rgb.shape[:2]
                    size = f"{width}x{height}"
                for one in watching:
                    one.add(number - first, made)
            if alike and number + 1 == first + count:
                return None, size
    return times, size
