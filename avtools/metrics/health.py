"""Whether a clip is whole: its streams begin and end together, its picture moves and shows something, its sound is one."""

import dataclasses
import math

from avtools.errors import UsageError
from avtools.metrics import Metric, Skip
from avtools.metrics.loudness import Loudness
from avtools.metrics.pictures import Watch

BLACK_SHARE = 0.98  # of a frame's pixels


class Health(Metric):
    """What may be wrong with a clip whatever it shows; each column tells of all its rows but those that have no such stream.

    Frozen: the frame's mean absolute difference of luma from the last one that was not frozen is at most `still` of full scale (as FFmpeg's
    freezedetect); a still scene without noise is frozen too.  Black: 98 % of the pixels have a luma of at most `black` of
    full scale (blackdetect's).  Silence and clipping as in the metric loudness: windows of 10 ms below -60 dBFS, samples at full scale.
    Lengths are those of the whole streams; the sound of a file of its own has no offset.
    """

    name = "health"
    title = "Stream health: offset and lengths of picture and sound, frozen and black frames, silence, clipping"
    source = "avtools; freezes and black frames as in FFmpeg's freezedetect and blackdetect"
    columns = {
        "stream_offset": "s by which the clip's own sound begins after its first frame; empty for a sound file",
        "length_mismatch": "difference of the lengths of picture and sound, s",
        "frozen_frames": "share of the frames after the first that show nothing new; 0 to 1, empty for a single frame",
        "longest_freeze": "longest time for which nothing new is shown though frames come, s; 0: none",
        "black_frames": "share of black frames; 0 to 1",
        "silence": "share of the sound that is silent; 0 to 1",
        "clipped": "share of samples at full scale; 0 to 1",
    }
    direction = "none"
    chance_how = "none: it says nothing of pairs"
    ranges = {
        **dict.fromkeys(("length_mismatch", "longest_freeze"), (0.0, math.inf)),
        **dict.fromkeys(("frozen_frames", "black_frames", "silence", "clipped"), (0.0, 1.0)),
    }
    needs = ("picture", "sound")
    settings = {"still": 0.001, "black": 0.1}
    requires = (("cv2", "opencv-python-headless"),)

    def __init__(self, **settings):
        super().__init__(**settings)
        for name, value in self.set.items():
            if not 0 <= value < 1:
                raise UsageError(f"--set {self.name}.{name}={value:g}: 0 or more, and less than 1")

    @property
    def watch(self) -> "Stillness":
        return Stillness(self.set["still"], self.set["black"])

    def expects(self):
        return [("video", self.watch)]

    def row(self, item):
        lie, has_sound = item.keep("streams", lambda: streams(item))
        return {**lie, **_seen(item.watched("video", self.watch)), **_heard(item, has_sound)}


def streams(pair) -> tuple[dict, bool]:
    """The columns of how picture and sound lie to each other, and whether there is a sound at all."""
    from avtools.media.probe import probe, probe_sound

    video, sound_file = pair.file("video"), pair.own_sound_file
    info = probe(video)
    own = sound_file == video
    sound = info.sound if own else probe_sound(sound_file)
    if sound is None or not sound.duration:
        return dict.fromkeys(("stream_offset", "length_mismatch"), Skip("has no sound")), False
    if info.picture is None or info.picture.is_image:
        return dict.fromkeys(("stream_offset", "length_mismatch"), Skip("a still image has no length")), True
    columns = {
        "stream_offset": float(sound.start - info.picture.start) if own else Skip("the sound is a file of its own"),
        "length_mismatch": abs(float(sound.duration - info.picture.duration)),
    }
    return columns, True


def _heard(pair, has_sound: bool) -> dict:
    if not has_sound:
        return dict.fromkeys(("silence", "clipped"), Skip("has no sound"))
    found = Loudness().row(pair)
    return {"silence": found["silent_share"], "clipped": found["clipped_share"]}


def _seen(seen: "Still") -> dict:
    single = Skip("the picture has one frame, so nothing moves")
    moves = seen.frames > 1
    return {
        "frozen_frames": seen.frozen / (seen.frames - 1) if moves else single,
        "longest_freeze": seen.longest if moves else single,
        "black_frames": seen.black / seen.frames,
    }


@dataclasses.dataclass(frozen=True)
class Still:
    """Counts of `frames`, of those that are `frozen` and `black`, and the `longest` freeze, seconds."""

    frames: int
    frozen: int
    black: int
    longest: float


@dataclasses.dataclass(frozen=True)
class Stillness(Watch):
    """Frozen and black frames; `still` and `black` as in :class:`Health`."""

    still: float
    black: float

    def begin(self, clip):
        return _Stillness(self, clip)


class _Stillness:
    def __init__(self, spec: Stillness, clip):
        self.spec, self.times, self.end = spec, clip.times, clip.end
        self.frames = self.frozen = self.black = 0
        self.new, self.since, self.longest = None, 0, 0  # the last frame that showed something new, its number

    def add(self, number: int, frame) -> None:
        import cv2
        import numpy as np

        gray = frame.gray
        self.frames += 1
        self.black += int(np.count_nonzero(gray <= 255 * self.spec.black) >= BLACK_SHARE * gray.size)
        known = self.new
        if known is not None and known.shape == gray.shape and cv2.norm(known, gray, cv2.NORM_L1) <= 255 * self.spec.still * gray.size:
            self.frozen += 1
            until = self.times[number + 1] if number + 1 < len(self.times) else self.end
            self.longest = max(self.longest, until - self.times[self.since])
        else:
            self.new, self.since = gray, number

    def result(self) -> Still:
        return Still(self.frames, self.frozen, self.black, float(self.longest))
