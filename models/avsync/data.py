"""A row -> several clips of one video, close in time, in worker processes.

The clips overlap, so pictures and sound that they share are read, sent and kept once; :func:`pictures_of` and
:func:`mels_of` take them apart on the network's device.  Picture i of a clip is the one nearest to its start + i / 6 s; its
sound begins with the very sample at its start.
"""

import numpy as np

from avtools.errors import RowError
from avtools.rows import path_of
from avtools.rows.keys import number
from avtools.training.draws import draw_of

VIDEO_COLUMNS, SOUND_COLUMNS = ("path", "video_path"), ("audio_path", "audio_file")


def options_of(config) -> dict:
    """Plain options for the functions below: which clips of a video, and how large their pictures are."""
    return {name: getattr(config, name) for name in ("clips", "step", "crop", "frame_size", "min_fps")}


def item(row: dict, draw: int, options: dict) -> dict:
    """`clips` clips, `step` seconds apart, from a random start or in the middle.

    `pictures` (U, S, S, 3) uint8, which the clips share, and `index` (K, 12) into them; `sound` (N,) float32 at 16 kHz of all of
    them, and `begins` (K,), the sample at which each begins.  RowError: no picture, no sound, too short, too few frames per second.
    """
    from avtools.models.parts import sync_clips

    path, beside, begin, length, fps = source(row)
    if fps is not None and fps < options["min_fps"]:
        raise RowError(f"{path}: {fps:g} frames per second, and {options['min_fps']:g} are needed; leave it out ('avtools probe --fmin')")
    kind, share = ("center-compact", 0.5) if options["crop"] == "middle" else ("random-compact", draw_of(draw, "start") / 2**63)
    starts = sync_clips.starts(kind, length, options["clips"], options["step"], share, name=path)
    size = options["frame_size"]
    found = sync_clips.read_clips(path, [begin + start for start in starts], (size, size), beside, rule="nearest", fit="short")
    sound, begins = shared_sound(found["sounds"], starts)
    if not sound.any():
        raise RowError(f"{beside or path}: its sound is silent where the clips are, so nothing can be in time with it; leave it out")
    pictures = np.rint(found["pictures"].transpose(0, 2, 3, 1) * 255).clip(0, 255).astype(np.uint8)
    return {"pictures": np.ascontiguousarray(pictures), "index": found["index"], "sound": sound, "begins": begins}


def source(row: dict) -> tuple[str, str | None, float, float, float | None]:
    """(picture's file, sound's file where it lies beside it, where the row's scene begins, how long picture and sound of it
    last, frames per second); a scene within a file is given by `start` and `end`, seconds."""
    from avtools.models.parts import sync_clips

    path = _path(row, VIDEO_COLUMNS)
    if path is None:
        raise RowError(f"column {VIDEO_COLUMNS[0]} holds no path")
    beside = _path(row, SOUND_COLUMNS)
    extent = sync_clips.measure(path, beside)
    begin, end = float(number(row, "start") or 0.0), number(row, "end")
    if begin < 0 or end is not None and end <= begin:
        raise RowError(f"start {begin:g} and end {end} are no span of {path}; mend them, or leave them empty")
    if begin >= extent.seconds:
        raise RowError(f"{path}: start {begin:g}, and what is seen and heard ends at {extent.seconds:g} s; mend start, or leave it empty")
    return path, beside, begin, min(extent.seconds, extent.seconds if end is None else end) - begin, extent.fps


def shared_sound(sounds: list[np.ndarray], starts: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Clips (channels, samples) at 16 kHz that overlap or not -> their first channel in one array, and where each begins in it."""
    from avtools.models.parts.kaldi import RATE

    begins = np.array([round((start - starts[0]) * RATE) for start in starts])
    whole = np.zeros(begins.max() + len(sounds[0][0]), np.float32)
    for begin, sound in zip(begins, sounds, strict=True):
        whole[begin : begin + sound.shape[1]] = sound[0]
    return whole, begins


def pictures_of(pictures, index, flips=None):
    """The clips' pictures as the network sees them: (K, 3, 12, S, S), normalised as CLIP's.

    Tensors on one device: pictures (U, S, S, 3) uint8 or (U, 3, S, S) float within 0..1, index (K, 12) into them;
    flips (K,) bool: which clips are mirrored.
    """
    import torch

    from avtools.models.parts.frames import clip_normalise

    if pictures.dtype == torch.uint8:
        pictures = pictures.permute(0, 3, 1, 2).float() / 255
    seen = clip_normalise(pictures)[index].transpose(1, 2)
    return seen if flips is None else torch.where(flips[:, None, None, None, None], seen.flip(-1), seen)


def mels_of(sound, begins, frames: int = 204):
    """The clips' sound as the network hears it: (K, 1, 128, frames) log-mel, of sound (N,) at 16 kHz and begins (K,).

    Where the clips lie on one grid of the spectrogram's steps (any multiple of 10 ms), its frames are worked out once for
    all of them: 21 clips 0.2 s apart take 598 frames and not 4158.
    """
    import torch

    from avtools.models.parts import kaldi

    places = begins[:, None] + torch.arange(kaldi.SAMPLES, device=sound.device)
    if (begins % kaldi.HOP).any():
        return kaldi.mel(sound[places][:, None], frames)
    whole = kaldi.filterbank(sound - sound.mean())
    each = 1 + (kaldi.SAMPLES - kaldi.WINDOW) // kaldi.HOP
    found = whole[begins[:, None] // kaldi.HOP + torch.arange(each, device=sound.device)][:, :frames]
    found = torch.nn.functional.pad(found, (0, 0, 0, frames - found.shape[1]))
    return ((found - kaldi.MEAN) / kaldi.DEVIATION).transpose(1, 2)[:, None]


def _path(row: dict, columns: tuple[str, ...]) -> str | None:
    return next((path_of(row, column) for column in columns if row.get(column)), None)
