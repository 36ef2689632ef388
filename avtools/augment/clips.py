"""Clips as arrays: from files, and back into files."""

import contextlib
import tempfile
from fractions import Fraction

import numpy as np

from avtools.errors import MediaError
from avtools.media import video
from avtools.media.container import best_video, open_input, show
from avtools.media.probe import probe, skip_others
from avtools.media.soundfiles import default_sample_format, open_sound, span, to_float, write_sound

LIMIT = 1 << 31  # bytes of pictures of one clip, and of samples of one sound


def _shown(path: str, form: str, rotation: int = 0):
    """Yield (time, length of a tick, picture) of each shown frame, upright; seconds from the first one.

    `rotation`: as measured, where frames do not tell.
    """
    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:
            raise MediaError(f"{show(path)}: has no picture; give a video")
        skip_others(container, [stream])
        shape = None
        for time, frame in video.shown_frames(container, stream):
            picture = _upright(frame, form, rotation)
            shape = shape or picture.shape
            if picture.shape != shape:
                raise MediaError(f"{show(path)}: its pictures change their size; make it anew with 'avtools uni-fps'")
            yield time, stream.time_base, picture
        if shape is None:
            raise MediaError(f"{show(path)}: no frame can be decoded; fetch it again")


def _check_size(path: str, size: int) -> None:
    if size > LIMIT:
        raise MediaError(f"{show(path)}: too many pictures to hold in memory; cut it into shorter clips with 'avtools trim'")


def read_pictures(path: str, form: str = "rgb24") -> np.ndarray:
    """All shown frames of `path`: (T, H, W, 3) uint8 RGB, or of the form "gray" (T, H, W).  MediaError: none, or too many."""
    made, size = [], 0
    for _, _, picture in _shown(path, form):
        size += picture.nbytes
        _check_size(path, size)
        made.append(picture)
    return np.stack(made)


def read_constant(path: str) -> tuple[np.ndarray, Fraction]:
    """((T, H, W, 3) uint8 RGB, fps) of a video at its average rate: frame k is the one shown at k/fps, so where frames come
    evenly these are they."""
    info = probe(path).picture
    if info is None or info.is_image or not info.fps or info.duration is None:
        raise MediaError(f"{show(path)}: {'has no picture' if info is None else 'is an image, or has no frame rate'}; give a video")
    fps, count = info.fps, video.frame_count(info.duration, info.fps)
    made, k, last = None, 0, None
    for time, tick, picture in _shown(path, "rgb24", info.rotation):
        if made is None:
            _check_size(path, picture.nbytes * count)
            made = np.empty((count, *picture.shape), np.uint8)
        while last is not None and k < count and k / fps + tick <= time:  # times are rounded to ticks: less than one is not late
            made[k] = last
            k += 1
        last = picture
    made[k:] = last
    return made, fps


def _upright(frame, form: str, rotation: int) -> np.ndarray:
    picture = frame.to_ndarray(format=form)
    for step in video.turning(frame, rotation):
        picture = {"transpose": lambda p: p.swapaxes(0, 1), "hflip": lambda p: p[:, ::-1], "vflip": lambda p: p[::-1]}[step](picture)
    return picture


def read_all(path: str):
    """(samples (n, channels), :class:`SoundFormat`, layout) of a sound file: float32, or float64 where only that holds every bit."""
    with open_sound(path) as sound:
        kind = "float64" if sound.format.sample_format in ("s32", "f64") else "float32"
        parts, size = [np.zeros((0, sound.format.channels), kind)], 0
        for chunk in span(sound, None, None):
            parts.append(to_float(chunk, kind))
            size += parts[-1].nbytes
            if size > LIMIT:
                raise MediaError(f"{show(path)}: too long to hold in memory; cut it with 'avtools trim'")
        return np.concatenate(parts), sound.format, sound.layout


def write_all(out: str, suffix: str, samples: np.ndarray, like, layout=None) -> None:
    """Write `samples` as a sound file with the rate and, where its kind of file has it, the sample format of `like`."""
    form = default_sample_format(suffix, like.sample_format)
    with write_sound(out, suffix, like.rate, samples.shape[1], form, layout if samples.shape[1] > 2 else None, len(samples)) as put:
        put(samples)


@contextlib.contextmanager
def own_sound(path: str):
    """The name of a temporary WAV (float) of a video's sound as it lies under its picture: its own rate and channels; None
    where it has no sound."""
    from avtools.media.sound import extract_sound

    heard = probe(path).sound
    if heard is None or not heard.duration:
        yield None
        return
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        extract_sound(path, file.name, heard.rate, "keep", ".wav", "f32")
        yield file.name


def write_video(out: str, suffix: str, pictures: np.ndarray, fps: Fraction, source: str, sound: str | None) -> None:
    """Write `pictures` with the file `sound`, else with the sound of `source`: as it is where it begins with the picture."""
    with contextlib.ExitStack() as stack:
        if sound is None:
            info = probe(source)
            if info.sound is not None and info.sound.duration:
                begins = abs(info.sound.start - info.picture.start) * info.sound.rate < 1
                sound = source if begins else stack.enter_context(own_sound(source))
        if sound is None:
            video.write_frames(out, suffix, pictures, fps)
            return
        silent = stack.enter_context(tempfile.NamedTemporaryFile(suffix=suffix))
        video.write_frames(silent.name, suffix, pictures, fps)
        video.mux(silent.name, sound, out, suffix)
