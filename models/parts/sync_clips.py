"""Clips of two seconds as ASVA (arXiv 2403.05659) cuts them from videos: where they begin, their 12 pictures, their sound.

All is right by default; `legacy` names forms of the published code that released weights and published scores have seen:

stereo     a video's decoded packets (samples, channels) are re-read as (channels, samples) without transposing
packets    a video's sound is taken in whole packets whose time lies inside the clip, so it begins up to a packet late
frames     times are rounded to microseconds before they are compared, so that a video of 6 frames per second loses its third
           (0.333333 < 1/3), and the classifier never sees a video's first frame
durations  how long a video is comes from its header, without the time at which its sound begins
short      videos of less than two seconds are taken as they are, from before their beginning

Times are seconds from the first shown frame.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from avtools.errors import MediaError, RowError
from avtools.models.parts.kaldi import RATE, SAMPLES

FPS, FRAMES, SECONDS = 6, 12, 2.0
LEGACY = frozenset({"stereo", "packets", "frames", "durations", "short"})
SPARE = Fraction(1, FPS)  # by which picture or sound may end too early: codecs do not end on time; silence and the last frame fill it
KINDS = ("first", "uniform", "center-compact", "random-compact")
RULES = ("next", "nearest")  # which frame a time gets: AVSyncD's and the scores', the classifier's

_MARGIN = 1e-4  # seconds by which the published classifier's reader keeps off the ends of a clip
_FAR = 4.0  # seconds from which on pictures are looked for from a key frame before them
_LIMIT = 1 << 31  # bytes of one row's pictures, or of its sound


# --- where clips begin ---------------------------------------------------------------------------------------------


def starts(kind: str, duration: float, count: int = 1, step: float = 0.0, share: float = 0.5, legacy=frozenset(), name: str = "it") -> list[float]:
    """Where `count` clips begin in `duration` seconds of picture and sound.

    `kind`: "uniform", evenly from 0 to `duration` - 2 (one: in the middle); "center-compact", `step` seconds apart, all of them
    in the middle; "random-compact", `step` apart, from `share` (0..1, a random draw) of what room there is; "first", from 0.
    RowError, which calls the video `name`, where they do not fit; `SPARE` may be missing.
    """
    need, latest = SECONDS + (count - 1) * step, duration - SECONDS
    room = duration - need
    if "short" not in legacy:
        if room < -SPARE:
            many = f"{count} clips of {SECONDS:g} s, {step:g} s apart, need {need:g} s" if count > 1 and step else f"a clip is {SECONDS:g} s"
            raise RowError(f"{name}: has {duration:g} s of picture and sound together, and {many}; leave it out, or give a longer one")
        room, latest = max(0.0, room), max(0.0, latest)
    if kind == "uniform":
        return [latest / 2] if count == 1 else [k * (latest / (count - 1)) for k in range(count)]
    begin = {"first": 0.0, "center-compact": room / 2, "random-compact": share * room}[kind]
    return [begin + k * step for k in range(count)]


class Extent(NamedTuple):
    """How long a video is seen and heard at once, in seconds, and its frames per second (None: unknown)."""

    seconds: float
    fps: float | None


def measure(path, sound_path=None, legacy=frozenset()) -> Extent:
    """From the first frame to where picture or sound ends (that of `sound_path`, if given).  Reads no more than the packets.

    MediaError where there is no moving picture or no sound.
    """
    from avtools.media.container import best_audio, best_video, open_input, show
    from avtools.media.probe import probe, probe_sound

    found = probe(path)
    picture, sound = found.picture, found.sound
    if picture is None:
        raise MediaError(f"{show(path)}: has no picture; give a video")
    if picture.is_image:
        raise MediaError(f"{show(path)}: is a still image; give a video")
    fps = None if picture.fps is None else float(picture.fps)
    if sound_path is not None:
        begin = _picture_start(sound_path)
        sound = probe_sound(sound_path)
        ends = [picture.duration, sound.duration + (0 if begin is None else sound.start - begin)]
    elif sound is None or not sound.duration:
        raise MediaError(f"{show(path)}: has no sound; give a video that has, or a sound file beside it (audio_path)")
    elif "durations" in legacy:
        with open_input(path) as container:
            streams = [best_video(container), best_audio(container)]
            ends = [Fraction(round((stream.duration or 0) * stream.time_base * 1_000_000), 1_000_000) for stream in streams]
        ends = [end or known for end, known in zip(ends, (picture.duration, sound.duration), strict=True)]  # Matroska tells none
    else:
        ends = [picture.duration, sound.start - picture.start + sound.duration]
    return Extent(float(min(ends)), fps)


# --- which frames --------------------------------------------------------------------------------------------------


class Picker:
    """Which frames of a video the 12 slots of each clip show, decided while frames go by: slot i is at start + i / 6.

    `rule`: "next", the first frame at or after that; "nearest" to it, of two equally near ones the earlier.
    `tick`: the unit of the file's times, within which (and a millisecond) two times count as equal.
    """

    def __init__(self, starts, rule: str = "next", legacy=frozenset(), tick: Fraction = Fraction(0)):
        if rule not in RULES:
            raise ValueError(f"no such rule: {rule}")
        self.starts, self.legacy, self.number = list(starts), "frames" in legacy, -1
        self.numbers = np.full((len(self.starts), FRAMES), -1, np.int64)  # (clips, 12); -1 while not known
        self.running = [float(start) for start in self.starts] if self.legacy and rule == "next" else None
        self.nearest, self.before, self.last, self.at = rule == "nearest", None, -1, 0  # time and number of the last frame that counts
        self.low = self.high = None
        if self.legacy:
            self.slack = 0.0
            targets = [float(start) + slot * (1 / FPS) for start in self.starts for slot in range(FRAMES)]
            if self.nearest and targets:
                targets[0] += _MARGIN
                self.low, self.high = targets[0], max(targets)
        else:
            self.slack = Fraction(1, 1_000_000) + min(Fraction(tick), Fraction(1, 1000))
            targets = [Fraction(start) + Fraction(slot, FPS) for start in self.starts for slot in range(FRAMES)]
        self.targets = sorted(zip(targets, range(len(targets)), strict=True))

    @property
    def done(self) -> bool:
        return bool((self.numbers >= 0).all())

    def see(self, time: Fraction) -> set[int]:
        """The next frame is shown at `time`; the numbers, of it and the one before, that are now chosen and were not known to be."""
        self.number += 1
        if self.legacy:
            time = round(time * 1_000_000) / 1e6
        if self.running is not None:
            return self._see_running(time)
        if self.low is not None and not self.low <= time <= self.high:
            if time > self.high:
                return self.close()
            return set()
        chosen = set()
        while self.at < len(self.targets) and time + self.slack >= self.targets[self.at][0]:
            target, slot = self.targets[self.at]
            back = self.nearest and self.before is not None and target - self.before <= time - target + self.slack
            self.numbers.flat[slot] = self.number - back
            chosen.add(self.number - back)
            self.at += 1
        self.before, self.last = time, self.number
        return chosen

    def _see_running(self, time: float) -> set[int]:
        """Each clip's slots one after another, at most one for each frame, at times that are summed up."""
        chosen = set()
        for clip, target in enumerate(self.running):
            slot = int((self.numbers[clip] >= 0).sum())
            if slot < FRAMES and time >= target:
                self.numbers[clip, slot] = self.number
                self.running[clip] = target + 1 / FPS
                chosen.add(self.number)
        return chosen

    def close(self) -> set[int]:
        """There are no more frames: what is still open gets the last one (legacy: its clip's last choice); the newly chosen."""
        chosen = set()
        for clip in self.numbers:
            if self.running is not None:
                known = clip[clip >= 0]
                clip[clip < 0] = known[-1] if len(known) else -1
            elif (clip < 0).any():
                clip[clip < 0] = self.last
                chosen.add(self.last)
        return chosen - {-1}


def picks(times, starts, rule: str = "next", legacy=frozenset(), tick: Fraction = Fraction(0)) -> np.ndarray:
    """(clips, 12) numbers of frames of a video whose frames are shown at `times`, ascending; -1 where there is none for a clip."""
    picker = Picker(starts, rule, legacy, tick)
    for time in times:
        picker.see(time)
        if picker.done:
            break
    else:
        picker.close()
    return picker.numbers


def read_pictures(path, starts, size: tuple[int, int] | None, rule: str = "next", fit: str = "crop", legacy=frozenset()):
    """The pictures of clips, from one pass over the file; each is converted once, however many clips show it.

    Returns (pictures, index, begin): float32 (N, 3, h, w), 0..1; int64 (clips, 12) into them; the time of the first frame in
    the file's clock.  `fit`: how `size` is reached, as :mod:`.frames` says: "crop" (crop_to), "short" (short_side), "squash".
    MediaError: no moving picture, or not to the end of a clip.
    """
    try:
        return _read_pictures(path, starts, size, rule, fit, legacy, _FAR)
    except _NoWayThere:
        return _read_pictures(path, starts, size, rule, fit, legacy, None)


def _read_pictures(path, starts, size, rule, fit, legacy, far):
    from avtools.media.container import best_video, check_picture_size, open_input, show
    from avtools.media.probe import skip_others

    kept: dict[int, np.ndarray] = {}
    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:
            raise MediaError(f"{show(path)}: has no picture; give a video")
        skip_others(container, [stream])
        picker = Picker(starts, rule, legacy, stream.time_base)
        begin = held = None
        for time, frame in _shown(container, stream, min(starts, default=0.0), far):
            if begin is None:
                begin = (frame.pts or 0) * frame.time_base
            for number in picker.see(time):
                if number not in kept:
                    one = frame if number == picker.number else held[1]
                    check_picture_size(container, one.width, one.height)
                    kept[number] = _fitted(one, size, fit)
                    if len(kept) * kept[number].nbytes > _LIMIT:
                        raise MediaError(f"{show(path)}: {len(kept)} pictures of {one.width}x{one.height} are too many to hold; choose a smaller one")
            held = time, frame
            if picker.done:
                break
        if held is None:
            raise MediaError(f"{show(path)}: none of its picture can be decoded; is it complete?")
        if not picker.done:
            time, frame = held
            end = time + ((frame.duration or 0) * frame.time_base or 1 / (stream.average_rate or stream.guessed_rate or Fraction(25)))
            _check_end(path, "picture", end, starts, legacy)
            for number in picker.close() - kept.keys():
                kept[number] = _fitted(frame, size, fit)
        if (picker.numbers < 0).any():
            raise MediaError(f"{show(path)}: no picture from {float(max(starts)):g} s on; choose an earlier start")
    if len({one.shape for one in kept.values()}) > 1:
        raise MediaError(f"{show(path)}: its picture changes size; make it one with 'avtools uni-fps --crop-resize'")
    numbers, index = np.unique(picker.numbers, return_inverse=True)
    return np.stack([kept[number] for number in numbers.tolist()]), index.reshape(picker.numbers.shape), begin


class _NoWayThere(Exception):
    """A file cannot be read from its middle."""


def _shown(container, stream, start: float, far: float | None):
    """(time, frame) of the first shown frame and those around `start` and later: of all, or, beyond `far` seconds in files that
    have an index, from a key frame on that is shown a second before at least.  _NoWayThere where that cannot be found."""
    import av

    from avtools.media.probe import decoded
    from avtools.media.video import shown_frames

    frames = shown_frames(container, stream)
    first = next(frames, None)
    if first is None:
        return
    yield first
    begin = first[1].pts
    if far is None or start < far or begin is None or not container.format.name.startswith(("mov,", "matroska,")):
        yield from frames
        return
    clean = False
    try:
        container.seek(begin + math.floor((Fraction(start) - 1) / stream.time_base), stream=stream)
    except av.error.FFmpegError:
        raise _NoWayThere from None
    for frame in decoded(container, stream):
        if not clean and not frame.key_frame:
            continue  # it may need what lies before the key frame
        if frame.pts is None:
            raise _NoWayThere
        time = (frame.pts - begin) * stream.time_base
        if not clean and not 0 <= time <= start - 0.9:
            raise _NoWayThere
        clean = True
        yield time, frame
    if not clean:
        raise _NoWayThere


def _fitted(frame, size, fit: str) -> np.ndarray:
    """A decoded frame -> float32 (3, h, w), upright."""
    from avtools.models.parts import frames

    picture = frames.picture_of(frame)
    if size is not None:
        height, width = size
        if fit == "short" and height != width:
            raise ValueError("the shorter side gives a square")
        picture = frames.short_side(picture, height) if fit == "short" else {"crop": frames.crop_to, "squash": frames.squash}[fit](picture, height, width)
    return picture.contiguous().numpy()


def _check_end(path, what: str, end: Fraction, starts, legacy) -> None:
    """MediaError where `what` of a file ends before the last of its clips is over."""
    from avtools.media.container import show

    last = max(map(Fraction, starts))
    if "short" not in legacy and end < last + Fraction(SECONDS) - SPARE:
        raise MediaError(
            f"{show(path)}: its {what} ends at {float(end):.3g} s, before the clip of {SECONDS:g} s from {float(last):.3g} s is over; "
            "choose an earlier start, or leave it out"
        )


# --- which sound ---------------------------------------------------------------------------------------------------


def first_sample(start: float, rate: int) -> int:
    """The sample that is heard at `start`."""
    return math.floor(Fraction(start) * rate + Fraction(1, 1000))


def inside(time: float, start: float, rule: str = "next") -> bool:
    """Whether the published readers take a packet of `time` (whole microseconds) into the clip from `start`."""
    margin = _MARGIN if rule == "nearest" else 0.0
    return start + margin <= time <= start + SECONDS - margin


def reread(packet: np.ndarray) -> np.ndarray:
    """A packet (samples, channels) whose values, in their order, are taken for those of (channels, samples): so the published
    readers heard stereo, as half a packet of one channel and the other by turns.  Returns (samples, channels)."""
    return np.ascontiguousarray(packet).reshape(packet.shape[::-1]).T


def read_sounds(path, starts, sound_path=None, rule: str = "next", legacy=frozenset(), begin: Fraction | None = None) -> list[np.ndarray]:
    """The sound of each clip: float32 (channels, 32000) at 16 kHz; where there is no sound, silence.

    It is that of `sound_path`, whose first sample belongs to the first frame (a video's: to its own), else of `path`.
    `begin`: the time of the first frame of `path` in the file's clock, if it is known.  In the legacy form "packets" a clip may be
    a little longer or shorter.  MediaError: no sound, or not to the end of a clip.
    """
    source = path if sound_path is None else sound_path
    if begin is None or sound_path is not None:
        begin = _picture_start(source)
    if begin is not None and legacy & {"stereo", "packets"}:
        return _packet_sounds(source, starts, begin, rule, legacy)
    return _exact_sounds(source, starts, begin, legacy)


def mels(sounds: list[np.ndarray]) -> np.ndarray:
    """Each clip's (channels, samples) -> float32 (clips, 1, 128, 204), as ImageBind and AVSync hear them."""
    import torch

    from avtools.models.parts import kaldi

    return torch.stack([kaldi.mel(torch.from_numpy(sound)) for sound in sounds]).numpy()


def _exact_sounds(source, starts, begin: Fraction | None, legacy) -> list[np.ndarray]:
    """Sample for sample, in one pass that holds no more than the clips."""
    from avtools.media.soundfiles import open_sound

    with open_sound(source) as sound:
        rate = sound.format.rate
        shift = 0 if begin is None else round((sound.start - begin) * rate)  # sample n is heard at (n + shift) / rate
        # Stretches begin at samples that both rates have, and with what the filter looks at before the clip.
        grid, reach = rate // math.gcd(rate, RATE), rate // 20
        spans: list[list[int]] = []
        for start in sorted(map(float, starts)):
            low = (first_sample(start, rate) - reach) // grid * grid
            high = low + math.ceil(SECONDS * rate) + 2 * reach + grid
            if spans and low <= spans[-1][1]:
                spans[-1][1] = high
            else:
                spans.append([low, high])
        _check_size(source, sum(high - low for low, high in spans), sound.format.channels, rate)
        pieces, end = _gathered(sound, [(low - shift, high - shift) for low, high in spans])
    if end is not None:
        _check_end(source, "sound", Fraction(end + shift, rate), starts, legacy)
    pieces = [resampled(piece, rate) for piece in pieces]
    found = []
    for start in starts:
        at = next(k for k in reversed(range(len(spans))) if spans[k][0] <= first_sample(start, rate))
        first = first_sample(start, RATE) - spans[at][0] * RATE // rate
        found.append(np.ascontiguousarray(pieces[at][:, first : first + SAMPLES]))
    return found


def _gathered(sound, spans: list[tuple[int, int]]):
    """The samples of these spans, ascending and apart: float32 (n, channels) each, silence outside of the sound; and how many
    samples the sound has, None where it goes on behind the last span."""
    from avtools.media.soundfiles import to_float

    pieces = [np.zeros((high - low, sound.format.channels), np.float32) for low, high in spans]
    at = max(0, spans[0][0])
    if sound.format.frames is not None:
        at = min(at, sound.format.frames)
    if at:
        sound.skip(at)
    for chunk in sound:
        for (low, high), piece in zip(spans, pieces, strict=True):
            first, last = max(low, at), min(high, at + len(chunk))
            if first < last:
                piece[first - low : last - low] = to_float(chunk[first - at : last - at], "float32")
        at += len(chunk)
        if at >= spans[-1][1]:
            return pieces, None
    return pieces, at


def _packet_sounds(source, starts, begin: Fraction, rule: str, legacy) -> list[np.ndarray]:
    """A video's sound as the published readers heard it: packets re-read, whole, or both."""
    from avtools.media.container import best_audio, open_input, show
    from avtools.media.probe import GAP, skip_others

    taken: list[list[tuple[float, np.ndarray]]] = [[] for _ in starts]
    with open_input(source) as container:
        stream = best_audio(container)
        if stream is None:
            raise MediaError(f"{show(source)}: has no sound; give a file that has")
        skip_others(container, [stream])
        rate, end = stream.codec_context.sample_rate, None
        _check_size(source, math.ceil(SECONDS * rate) * len(taken), stream.codec_context.layout.nb_channels, rate)
        for time, packet in _packets(container, stream):
            stamp = round((time - begin) * 1_000_000) / 1e6
            if end is None or time - begin - end >= GAP:  # else the sound runs on, whatever its stamps are rounded to
                end = time - begin
            time, end = end, end + Fraction(len(packet), rate)
            for start, pieces in zip(starts, taken, strict=True):
                if inside(stamp, start, rule) if "packets" in legacy else time < start + SECONDS and end > start:
                    pieces.append((time, reread(packet) if "stereo" in legacy else packet))
            if stamp > max(starts) + SECONDS:
                break
    if end is None:
        raise MediaError(f"{show(source)}: none of its sound can be decoded; is it complete?")
    _check_end(source, "sound", end, starts, legacy)
    found = []
    for start, pieces in zip(starts, taken, strict=True):
        if not pieces:
            raise MediaError(f"{show(source)}: no sound from {start:g} s on; choose another start")
        sound = np.concatenate([packet for _, packet in pieces])
        if "packets" not in legacy:
            late = round((pieces[0][0] - Fraction(start)) * rate)
            sound = np.pad(sound[max(0, -late) :], ((max(0, late), 0), (0, 0)))[: math.ceil(SECONDS * rate)]
            sound = np.pad(sound, ((0, math.ceil(SECONDS * rate) - len(sound)), (0, 0)))
        found.append(resampled(sound, rate)[:, : None if "packets" in legacy else SAMPLES])
    return found


def _packets(container, stream):
    """(time in the file's clock, float32 (samples, channels)) of each packet that can be decoded."""
    import av

    from avtools.media.container import decode, name_of
    from avtools.media.soundfiles import to_float

    resampler, time = None, Fraction(0)
    context = stream.codec_context
    for packet in container.demux(stream):
        for frame in decode(packet):
            if (frame.sample_rate, frame.layout.nb_channels) != (context.sample_rate, context.layout.nb_channels):
                raise MediaError(f"{name_of(container)}: its sound changes its form; make it one with 'avtools extract-audio'")
            time = frame.pts * frame.time_base if frame.pts is not None else time
            resampler = resampler or av.AudioResampler(format="flt")
            for part in resampler.resample(frame):
                yield time, to_float(part.to_ndarray().reshape(-1, context.layout.nb_channels), "float32")
            time += Fraction(frame.samples, frame.sample_rate)


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """(n, channels) -> (channels, ceil(n * 16000 / rate)); as the networks have heard it wherever that filter is of bearable size."""
    if rate == RATE:
        return np.ascontiguousarray(samples.T)
    if RATE // math.gcd(rate, RATE) > 1280:  # its table has so many filters: gigabytes for odd rates
        import soxr

        return np.ascontiguousarray(soxr.resample(samples, rate, RATE).T, np.float32)
    import torch
    from torchaudio.functional import resample

    return resample(torch.from_numpy(np.ascontiguousarray(samples.T)), rate, RATE).numpy()


def _check_size(source, samples: int, channels: int, rate: int) -> None:
    from avtools.media.container import show

    if samples * channels * 4 > _LIMIT:
        raise MediaError(f"{show(source)}: {channels} channels at {rate} Hz are too much to hold; make it 'avtools resample --rate 16000 --channels 1'")


def _picture_start(path) -> Fraction | None:
    """The time of a video's first frame in the file's clock; None for a sound file."""
    from avtools.media.container import best_video, open_input
    from avtools.media.probe import skip_others
    from avtools.media.soundfiles import sndfile
    from avtools.media.video import shown_frames

    file = sndfile(path)
    if file is not None:
        file.close()
        return None
    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:
            return None
        skip_others(container, [stream])
        for _, frame in shown_frames(container, stream):
            return (frame.pts or 0) * frame.time_base
    return None


# --- both ----------------------------------------------------------------------------------------------------------


def read_clips(path, starts, size: tuple[int, int] | None, sound_path=None, legacy=frozenset(), rule: str = "next", fit: str = "crop") -> dict:
    """Clips of one video that begin at `starts`, as arrays: "pictures" float32 (N, 3, h, w), 0..1, which clips share; "index"
    int64 (clips, 12) into them; "sounds", a list of float32 (channels, samples) at 16 kHz (see :func:`mels`).

    `size`: (h, w).  `rule`: "next" for AVSyncD and scores, "nearest" for the classifier, with `fit` "short".  MediaError: unreadable,
    without picture or sound, or over before a clip is.
    """
    unknown = frozenset(legacy) - LEGACY
    if unknown:
        raise ValueError(f"no such legacy form: {', '.join(sorted(unknown))}")
    legacy = frozenset(legacy)
    pictures, index, begin = read_pictures(path, starts, size, rule, fit, legacy)
    return {"pictures": pictures, "index": index, "sounds": read_sounds(path, starts, sound_path, rule, legacy, begin)}


def read_clip(path, start: float, size: tuple[int, int] | None, sound_path=None, legacy=frozenset(), rule: str = "next", fit: str = "crop") -> dict:
    """One clip, as arrays: "frames" float32 (12, 3, h, w), 0..1; "sound" float32 (channels, samples) at 16 kHz.  See :func:`read_clips`."""
    clips = read_clips(path, [start], size, sound_path, legacy, rule, fit)
    return {"frames": clips["pictures"][clips["index"][0]], "sound": clips["sounds"][0]}
