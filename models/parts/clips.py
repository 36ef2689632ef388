"""What rows say, show and let hear, as arrays of training items: captions as bytes, pictures at a rate, sound on the picture's clock; in worker processes."""

import re
from fractions import Fraction

import numpy as np

from avtools.errors import MediaError, RowError

CLASS_COLUMNS = ("class", "label")  # names of classes, of which `_` are spaces
LOUDEST = 1e12  # of a sample, full scale 1


# --- texts ----------------------------------------------------------------------------------------------------------


def words(row: dict, columns: tuple[str, ...], must: bool = True) -> str:
    """What the first of these columns that is not blank says; RowError where there `must` be one."""
    for column in columns:
        text = str("" if row.get(column) is None else row[column])
        if re.search(r"[^\s_]", text):
            return re.sub(r"[_\s]+", " ", text).strip() if column in CLASS_COLUMNS else text.strip()
    if must:
        raise RowError(f"says nowhere what is seen (columns looked at: {', '.join(columns)}); fill one in")
    return ""


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(bytearray(text.encode("utf-8", "surrogateescape")), np.uint8)


def text_of(data) -> str:
    return bytes(np.asarray(data)).decode("utf-8", "replace")


# --- pictures -------------------------------------------------------------------------------------------------------


def read_pictures(path: str, start: float, rate: float, count: int, size: tuple[int, int]) -> np.ndarray:
    """(count, 3, h, w) uint8: what is shown at start + k / rate seconds, the largest middle part of that aspect; the last picture stays.

    MediaError: no picture, or none from `start` on.
    """
    import torch

    from avtools.media.container import best_video, check_picture_size, open_input, show
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames
    from avtools.models.parts import frames
    from avtools.models.vta_ldm.frames import shown_at

    begin, pace = Fraction(start).limit_denominator(1_000_000), Fraction(rate).limit_denominator(1_000_000)
    made, last, held = [], None, None
    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:
            raise MediaError(f"{show(path)}: has no picture; give a video")
        skip_others(container, [stream])
        step = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
        for frame in shown_at(shown_frames(container, stream), begin, begin + count / pace, pace, step):
            if frame is not last:
                check_picture_size(container, frame.width, frame.height)
                last, held = frame, (frames.crop_to(frames.picture_of(frame), *size) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
            made.append(held)
            if len(made) == count:
                break
    if not made:
        raise MediaError(f"{show(path)}: no picture from {start:g} s on; choose an earlier start")
    return np.stack(made + [made[-1]] * (count - len(made)))


def read_picture(path: str, size: tuple[int, int]) -> np.ndarray:
    """(3, h, w) uint8: an image, upright and on white where it is transparent, or a video's first picture; the largest middle part of that aspect."""
    import torch

    from avtools.models.parts import frames

    return (frames.crop_to(frames.read_image(path), *size) * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def shown_seconds(path: str) -> float:
    from avtools.media.probe import probe

    picture = probe(path).picture
    if picture is None or picture.is_image or not picture.duration:
        raise MediaError(f"{path}: is no moving picture; give a video")
    return float(picture.duration)


# --- sound ----------------------------------------------------------------------------------------------------------


def sound_of(path: str, start: float, end: float) -> tuple[np.ndarray, int]:
    """((samples, channels) float32 of what is heard from `start` to `end`, Hz); a video's times begin with its first picture."""
    from avtools.media.soundfiles import read_sound

    late = late_of(path)
    samples, rate = read_sound(path, Fraction(start) - late, Fraction(end) - late)
    if missing := round(max(Fraction(0), min(late, Fraction(end)) - Fraction(start)) * rate):
        samples = np.pad(samples, ((missing, 0), (0, 0)))
    if not np.isfinite(samples).all() or np.abs(samples).max(initial=0) > LOUDEST:
        raise MediaError(f"{path}: its sound holds samples beyond all measure; make it anew")
    return samples, rate


def late_of(path: str) -> Fraction:
    """How much later than its first picture a video's sound begins, seconds; none of a sound file."""
    from avtools.media.probe import probe
    from avtools.media.soundfiles import sndfile

    file = sndfile(path)
    if file is not None:
        file.close()
        return Fraction(0)
    found = probe(path)
    return found.sound.start - found.picture.start if found.sound is not None and found.picture is not None and not found.picture.is_image else Fraction(0)
