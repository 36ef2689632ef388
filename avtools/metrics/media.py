"""The pair of picture and sound that a row is judged by, read once for all metrics.

picture = `generated_path`, else `path`; sound = `generated_audio_path`, else `audio_path`, else the picture file's own
sound; the references are the pair that is not generated.  Columns that the user names come before these.
"""

import functools
import os
from fractions import Fraction
from typing import NamedTuple

from avtools.errors import MediaError, RowError
from avtools.rows.keys import PLACEHOLDER, path_of

PICTURE = ("generated_path", "path")
SOUND = ("generated_audio_path", "audio_path")
REFERENCE_PICTURE, REFERENCE_SOUND = ("path",), ("audio_path",)
ROLES = ("video", "audio", "reference_video", "reference_audio")
_DEFAULTS = {"video": PICTURE, "audio": (*SOUND, *PICTURE), "reference_video": REFERENCE_PICTURE, "reference_audio": (*REFERENCE_SOUND, *REFERENCE_PICTURE)}


def columns_of(role: str, named: dict[str, str | None]) -> tuple[str, ...]:
    """The columns that may hold what plays `role` (one of ROLES), the first that a row has counting.

    `named`: role -> the column that the user chose, or None.
    """
    if named.get(role):
        return (named[role],)
    own_sound_of = {"audio": "video", "reference_audio": "reference_video"}.get(role)
    if own_sound_of and named.get(own_sound_of):  # the picture's own sound follows the picture
        return (*(SOUND if role == "audio" else REFERENCE_SOUND), named[own_sound_of])
    return _DEFAULTS[role]


def file_of(row: dict, role: str, named: dict[str, str | None]) -> str:
    """The file that plays `role` in `row`; RowError where it has none."""
    columns = columns_of(role, named)
    for column in columns:
        if row.get(column) not in (None, "") and os.path.basename(str(row[column])) != PLACEHOLDER:
            return path_of(row, column)
    raise RowError(f"the row has no {'picture' if 'video' in role else 'sound'} to judge (columns looked at: {', '.join(columns)})")


class Sound(NamedTuple):
    """`samples`: float32 (samples, channels), full scale 1, what is not finite made silence; `broken`: how many were not."""

    samples: object
    rate: int
    broken: int = 0

    @property
    def mono(self):
        """The mean of the channels, float32 (samples,)."""
        return self.samples.mean(axis=1)


class Pair:
    """What a row is judged by, read when first asked for.

    `facts`: what the summary tells of the media that were read, role -> name -> value.
    """

    def __init__(self, row: dict, named: dict[str, str | None], sound_file: str | None = None):
        self.row, self.named, self.facts, self.kept = row, named, {}, {}
        self._sound_file = sound_file

    def file(self, role: str) -> str:
        if role == "audio" and self._sound_file is not None:
            return self._sound_file
        return file_of(self.row, role, self.named)

    @property
    def own_sound_file(self) -> str:
        """The row's own sound, also where another one is judged instead."""
        return file_of(self.row, "audio", self.named)

    @functools.cached_property
    def sound(self) -> Sound:
        """The judged sound; sample 0 is at the first frame where it is a video's own."""
        return self._read("sound", self.file("audio"))

    @functools.cached_property
    def reference_sound(self) -> Sound:
        return self._read("reference sound", self.file("reference_audio"))

    def with_sound(self, sound: Sound) -> "Pair":
        """The same picture and references with another sound."""
        other = Pair(self.row, self.named)
        other.sound, other.kept, other.facts = sound, self.kept, self.facts
        return other

    def keep(self, name: str, make):
        """`make()`, worked out once for all sounds with this picture (and these references)."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def gray_frames(self):
        """Yield the shown frames of the judged picture upright: uint8 (height, width), BT.601 luma of 8-bit RGB.

        Size and rate come to `facts["picture"]` with the first, their number with the last.
        """
        import cv2

        from avtools.media.container import best_video, name_of, open_input
        from avtools.media.probe import clockwise
        from avtools.media.video import shown_frames

        cv2.setNumThreads(1)  # one process per core
        path = self.file("video")
        with open_input(path) as container:
            stream = best_video(container)
            if stream is None:
                raise MediaError(f"{name_of(container)}: has no picture; give a video file, or name its column with --video-column")
            fps = stream.average_rate or stream.guessed_rate
            if not fps:
                raise MediaError(f"{name_of(container)}: its frame rate is unknown; make it constant with 'avtools uni-fps'")
            facts = {"frames": 0, "fps": float(fps), "decoder": stream.codec_context.name}
            self.facts["picture"] = facts
            size = None
            for _, frame in shown_frames(container, stream):
                bgr = frame.to_ndarray(format="bgr24")
                gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
                if turn := clockwise(frame):
                    gray = cv2.rotate(gray, {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}[turn])
                if size is None:
                    size = gray.shape
                    facts["size"] = f"{size[1]}x{size[0]}"
                elif gray.shape != size:
                    raise MediaError(f"{name_of(container)}: its picture changes size; make it one with 'avtools uni-fps --crop-resize'")
                facts["frames"] += 1
                yield gray
            if not facts["frames"]:
                raise MediaError(f"{name_of(container)}: none of its picture can be decoded; is it complete?")

    def _read(self, role: str, path: str) -> Sound:
        sound = read_sound(path)
        self.facts[role] = {
            "rate": sound.rate,
            "channels": sound.samples.shape[1],
            "seconds": len(sound.samples) / sound.rate,
            "not_finite": sound.broken,
        }
        return sound


def read_sound(path: str, limit: int = 1 << 29) -> Sound:
    """The sound of a sound file from its first sample; that of a video on its picture's clock.

    A video's sound that begins before its first frame is cut there, one that begins later comes after silence.
    Raises MediaError if there is none, or more than `limit` samples (all channels together).
    """
    import numpy as np

    from avtools.media.container import show
    from avtools.media.soundfiles import open_sound, to_float

    parts, count, broken = [], 0, 0
    with open_sound(path) as sound:
        rate, channels = sound.format.rate, sound.format.channels
        late = _lateness(path, sound)
        early = round(max(-late, 0) * rate)
        silent = min(round(max(late, 0) * rate), limit)
        if silent:
            parts.append(np.zeros((silent, channels), np.float32))
        for chunk in sound:
            count += len(chunk)
            if (count + silent) * channels > limit:
                raise MediaError(f"{show(path)}: more than {limit} samples to hold in memory; cut it first")
            if chunk.dtype.kind == "f":
                broken += int(chunk.size - np.count_nonzero(np.isfinite(chunk)))
            parts.append(to_float(chunk, "float32"))
    samples = np.concatenate(parts)[early:] if parts else np.zeros((0, channels), np.float32)
    if not len(samples):
        raise MediaError(f"{show(path)}: has no sound that could be heard with its picture" if early else f"{show(path)}: holds no samples")
    return Sound(samples, rate, broken)


def _lateness(path: str, sound) -> Fraction:
    """Seconds from the first shown frame of a video to its first sample; 0 for sound files."""
    from avtools.media.container import best_video, open_input
    from avtools.media.probe import scan

    if not hasattr(sound, "container"):
        return Fraction(0)  # a sound file that no FFmpeg container was opened for
    with open_input(path, demux_only=True) as container:
        if best_video(container) is None:
            return Fraction(0)
        picture = scan(container, sound=False)[0].picture
    if picture is None or picture.is_image:
        return Fraction(0)
    return sound.start - picture.start
