"""The pictures of a clip as its encoder sees them: few, small, and at known times."""

import math
from fractions import Fraction

import numpy as np

from avtools.errors import MediaError

LIMIT = 1 << 31  # bytes of pictures of one clip


def legacy_picks(fps: float, count: int, frame_rate: float = 2.0) -> list[int]:
    """The original's frame numbers of a clip with `fps` and `count` frames as its container tells; it stops at the
    first that is not there.  ValueError below 1 fps, which it cannot read.
    """
    whole = int(fps)
    if whole < 1:
        raise ValueError("fewer than one frame per second")
    picks = [math.floor(k * whole / frame_rate) for k in range(math.floor(frame_rate * math.ceil(count / whole)))]
    return [pick for pick in picks if pick < count]


def told(container, stream) -> tuple[float, int]:
    """(fps, number of frames) as the container tells, before anything is decoded."""
    rate = stream.guessed_rate or stream.average_rate or Fraction(0)
    count = stream.frames
    if not count:
        length = Fraction(container.duration, 1_000_000) if container.duration else (stream.duration or 0) * stream.time_base
        count = math.floor(length * rate + Fraction(1, 2))
    return float(rate), count


def fitted(picture, size: int, fit: str = "crop") -> np.ndarray:
    """A PIL picture -> (size, size, 3) uint8, bicubic.  `fit`: "crop", the middle of it with its shorter side made
    `size`; or "squash", all of it."""
    from PIL import Image

    if fit == "squash":
        return np.asarray(picture.resize((size, size), Image.BICUBIC))
    width, height = picture.size
    short = min(width, height)
    width, height = (size if side == short else int(size * side / short) for side in (width, height))
    left, top = round((width - size) / 2), round((height - size) / 2)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.BICUBIC)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def read_frames(
    path, frame_rate: float, size: int, legacy: bool = False, fit: str = "crop", start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """(T, size, size, 3) uint8 RGB: what is shown at `start` + i / frame_rate until `start` + `seconds`, or the clip's end.

    `legacy`: the original's picks instead (:func:`legacy_picks`), i-th for i-th.  One pass over the file.
    MediaError: no picture, none in that span, or too many for memory.
    """
    from avtools.media.container import best_video, open_input, show
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames

    rate = Fraction(frame_rate).limit_denominator(1000)
    begin = Fraction(start).limit_denominator(1_000_000)
    end = None if seconds is None else begin + Fraction(seconds).limit_denominator(1_000_000)
    made: list[np.ndarray] = []

    def take(frame):
        if (len(made) + 1) * size * size * 3 > LIMIT:
            raise MediaError(f"{show(path)}: more than {len(made)} pictures at {frame_rate:g} per second; cut it into shorter clips")
        made.append(_picture(frame, size, fit))

    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:
            raise MediaError(f"{show(path)}: has no picture; give a video")
        skip_others(container, [stream])
        if legacy:
            fps, count = told(container, stream)
            try:
                picks = legacy_picks(fps, count, frame_rate)
            except ValueError as error:
                raise MediaError(f"{show(path)}: {error}; --set legacy_frames=false reads it") from None
            first = math.ceil(begin * rate)
            wanted = picks[first : None if end is None else math.ceil(end * rate)]
            _take_numbered(shown_frames(container, stream), wanted, take)
        else:
            step = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
            for frame in shown_at(shown_frames(container, stream), begin, end, rate, step):
                take(frame)
    if not made:
        raise MediaError(f"{show(path)}: no picture from {float(begin):g} s on; choose an earlier start")
    return np.stack(made)


def _take_numbered(frames, wanted: list[int], take) -> None:
    """Take the frames of these ascending numbers, some maybe several times."""
    at = 0
    for number, (_, frame) in enumerate(frames):
        while at < len(wanted) and wanted[at] == number:
            take(frame)
            at += 1
        if at == len(wanted):
            return


def shown_at(frames, begin: Fraction, end: Fraction | None, rate: Fraction, step: Fraction):
    """The frame shown at each `begin` + k / `rate` before `end`, of (time, frame) in order; the last stays for its duration, else for `step` seconds."""
    count, shown, last = 0, None, Fraction(0)

    def until(time):
        nonlocal count
        while begin + count / rate < (time if end is None else min(time, end)):
            count += 1
            yield shown

    for time, frame in frames:
        if shown is not None:
            yield from until(time)
        if end is not None and time >= end:
            return
        shown, last = frame, time
    if shown is not None:
        yield from until(last + ((shown.duration or 0) * shown.time_base or step))


def _picture(frame, size: int, fit: str) -> np.ndarray:
    from PIL import Image

    from avtools.media.probe import clockwise

    picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}.get(clockwise(frame))
    return fitted(picture.transpose(turn) if turn is not None else picture, size, fit)
