"""The pair of picture and sound that a row is judged by, read once for all metrics.

picture = `generated_path`, else `path`; sound = `generated_audio_path`, else `audio_path`, else the picture file's own
sound; the references are the pair that is not generated.  Columns that the user names come before these.
"""

import contextlib
import functools
import json
import os
from fractions import Fraction
from typing import NamedTuple

from avtools.errors import MediaError, RowError
from avtools.metrics.pictures import Pictures, Seen, Watch
from avtools.metrics.pictures import watch as look
from avtools.rows.keys import PLACEHOLDER, number, path_of

PICTURE = ("generated_path", "path")
SOUND = ("generated_audio_path", "audio_path")
REFERENCE_PICTURE, REFERENCE_SOUND = ("path",), ("audio_path",)
_CAPTION = ("text", "description", "captions", "class", "label")
TEXTS = {"text": _CAPTION, "audio_text": ("audio_text", *_CAPTION)}  # the first column that is not empty
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
        self.expected: dict[str, dict[Watch, None]] = {}
        self.heard_at: dict = {}
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
        other.sound, other.kept, other.facts, other.expected = sound, self.kept, self.facts, self.expected
        return other

    def keep(self, name: str, make):
        """`make()`, worked out once for all sounds with this picture (and these references)."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def expect(self, role: str, watch: Watch) -> None:
        """Say that `watch` will be asked for, so that one decode serves all."""
        self.expected.setdefault(role, {})[watch] = None

    def watched(self, role: str, watch: Watch):
        """What `watch` makes of the picture that plays `role`, "video" or "reference_video".

        A reference whose row has a `reference_start` begins there (seconds), and lasts as long as the judged picture.
        """
        found = self.kept.setdefault(("watched", role), {})
        if watch not in found:
            path = self.file(role)
            if role == "reference_video":
                self.check_reference("video")
            begin, end = self.span(role)
            wanted = [one for one in dict.fromkeys([*self.expected.get(role, {}), watch]) if one not in found]
            results, facts = look(path, wanted, begin, end)
            self.facts["picture" if role == "video" else "reference picture"] = facts
            found |= dict(zip(wanted, results, strict=True))
        return found[watch]

    def seen(self, role: str, pictures: Pictures) -> Seen:
        """The pictures of "video" or "reference_video" that are asked for."""
        return self.watched(role, pictures)

    def heard(self, role: str, rate: int):
        """The sound that plays `role`, "audio" or "reference_audio": the mean of its channels at `rate` Hz (soxr HQ), float32 (n,)."""

        def make():
            import numpy as np
            import soxr

            if role == "reference_audio":
                self.check_reference("audio")
            sound = self.sound if role == "audio" else self.reference_sound
            mono = sound.mono
            if role == "reference_audio":
                begin, end = self.span(role)
                mono = mono[round(begin * sound.rate) : None if end is None else round(end * sound.rate)]
                if not len(mono):
                    raise RowError(f"{self.file(role)}: has no sound from {begin:g} s on, where its part is to begin")
            mono = np.ascontiguousarray(mono, np.float32)
            return mono if sound.rate == rate else soxr.resample(mono, sound.rate, rate)

        mine = self.heard_at if role == "audio" else self.kept  # a control's sound is not its row's
        if (role, rate) not in mine:
            mine[role, rate] = make()
        return mine[role, rate]

    def span(self, role: str) -> tuple[float, float | None]:
        """Where the part of a reference begins and ends, seconds; 0 and None for what is judged and for whole references."""
        begin = number(self.row, "reference_start") if role.startswith("reference") else None
        if begin is None:
            return 0.0, None
        if begin < 0:
            raise RowError(f"reference_start {begin:g}: give seconds from the reference's first frame")
        if role == "reference_audio":
            return begin, begin + len(self.sound.samples) / self.sound.rate
        seconds = self.keep("judged seconds", lambda: _seconds(self.file("video")))
        return begin, None if seconds is None else begin + seconds

    def check_reference(self, what: str) -> None:
        """RowError where the judged "video" or "audio" is its own reference: a set is no measure of itself."""
        judged, true = self.file(what), self.file(f"reference_{what}")
        if judged == true and not self.named.get(f"reference_{what}"):
            made = {"video": "generated_path", "audio": "generated_audio_path (or generated_path)"}[what]
            raise RowError(f"{judged}: would be judged by itself; give {made}, or --reference-{what}-column")

    def words(self, role: str) -> str:
        """The row's text: "text" its caption, of a list the first, "audio_text" what is said of its sound, else its caption; RowError where it has none."""
        columns = TEXTS[role]
        for column in columns:
            text = self.row.get(column)
            if isinstance(text, str) and text.lstrip()[:1] == "[":  # a list in CSV
                with contextlib.suppress(ValueError, RecursionError):  # a text that begins with a bracket
                    text = json.loads(text)
            text = next((one for one in text if one is not None and str(one).strip()), None) if isinstance(text, list) else text
            if isinstance(text, dict):
                raise RowError(f"column {column} holds no text but a mapping; give the text alone")
            if text is not None and str(text).strip():
                return str(text)
        raise RowError(f"the row has no text to judge by (columns looked at: {', '.join(columns)})")

    def _read(self, role: str, path: str) -> Sound:
        sound = read_sound(path)
        self.facts[role] = {
            "rate": sound.rate,
            "channels": sound.samples.shape[1],
            "seconds": len(sound.samples) / sound.rate,
            "not_finite": sound.broken,
        }
        return sound


def _seconds(path: str) -> float | None:
    """How long a picture is shown; None: a still image, which is shown as long as one likes."""
    from avtools.media.probe import probe

    picture = probe(path).picture
    return float(picture.duration) if picture is not None and picture.duration else None


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
