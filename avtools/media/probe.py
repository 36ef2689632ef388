"""What is in a media file, measured by demuxing; decoding only where demuxing cannot know.

All times are exact fractions of a second.  The clip's zero is the time of the first displayed frame.
"""

import os
import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import av.logging
from av.stream import Discard

from avtools.errors import MediaError

from .columns import SOUND_COLUMNS, VIDEO_COLUMNS
from .container import beginning, best_audio, best_video, check_sound_size, decode, name_of, open_input, show
from .suffixes import SNDFILE_SUBTYPES, is_lossless

#: Sound runs on contiguously; only where its timestamps leave a gap this long (seconds) is silence inserted.
GAP = Fraction(1, 20)


@dataclass(frozen=True, slots=True)
class Picture:
    """A video stream or an image.

    `height` and `width` are displayed pixels, after rotation; the sample aspect ratio is not applied.
    `rotation`: degrees clockwise (0, 90, 180, 270) that turn decoded frames upright.
    `fps`: the stream's average rate as FFmpeg gives it, Hz, unrounded; None where unknown and for images.
    `start`: time of the first displayed frame in the file's clock.  `duration`: last frame's time plus its
    length minus the first frame's time; None for images.
    """

    num_frames: int
    height: int
    width: int
    rotation: int
    fps: Fraction | None
    start: Fraction
    duration: Fraction | None
    codec: str
    is_image: bool


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound stream or file.

    `rate` in Hz; `start`: time of the first decoded sample in the file's clock; `duration`: decoded samples
    (gaps of at least `GAP` count as silence) divided by the rate, seconds; 0 if it has no samples.
    """

    rate: int
    channels: int
    start: Fraction
    duration: Fraction
    codec: str
    lossless: bool


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What FFmpeg would play of a file.

    `spans`: only after a check, and only for a damaged file: ((start, end), ...) float seconds from the
    clip's zero that decode cleanly; None for a whole file.
    """

    picture: Picture | None
    sound: Sound | None
    spans: tuple[tuple[float, float], ...] | None = None


def probe(path, check: bool = False) -> MediaInfo:
    """Measure the media file `path`.

    With `check` all of it is decoded: `num_frames` and durations then are what was really decoded, and
    `spans` says what is whole if the file is damaged.  Raises :class:`MediaError` if nothing is readable.
    """
    with open_input(path, demux_only=not check) as container:
        return _checked(container) if check else scan(container)[0]


def probe_sound(path) -> Sound:
    """Measure the sound of `path`: a sound file, or the best sound stream of a video file.

    A sound without samples has duration 0.  Raises :class:`MediaError` if there is no sound.
    """
    sound = _header_sound(path)
    if sound is None:
        with open_input(path, demux_only=True) as container:
            sound = scan(container, picture=False)[0].sound
    if sound is None:
        raise MediaError(f"{show(path)}: has no sound; give a file that has")
    return sound


def check_pace(path, picture: Picture) -> None:
    """Raise :class:`MediaError` where a header stretches a few frames over hours: nothing so long is written."""
    if picture.duration is not None and picture.duration > max(3600, 600 * picture.num_frames):
        hours = float(picture.duration / 3600)
        raise MediaError(f"{show(path)}: {picture.num_frames} frames are said to last {hours:.1f} hours; its header is damaged")


def video_columns(info: MediaInfo) -> dict:
    """Return the table cells (VIDEO_COLUMNS) that describe a video or image; None for what does not exist."""
    row = dict.fromkeys(VIDEO_COLUMNS)
    picture, sound = info.picture, info.sound
    if picture is not None:
        row.update(
            num_frames=picture.num_frames,
            height=picture.height,
            width=picture.width,
            aspect_ratio=picture.height / picture.width,
            resolution=picture.height * picture.width,
            fps=None if picture.fps is None else float(picture.fps),
            duration=None if picture.duration is None else float(picture.duration),
        )
    if sound is not None:
        row.update(sound_columns(sound))
        if picture is not None and sound.duration:
            row["av_offset"] = float(sound.start - picture.start)
    return row


def sound_columns(sound: Sound) -> dict:
    """Return the table cells (SOUND_COLUMNS) that describe a sound."""
    return dict(zip(SOUND_COLUMNS, (sound.rate, sound.channels, float(sound.duration)), strict=True))


def probe_container(container) -> MediaInfo:
    """Like :func:`probe`, for a freshly opened container, which is read to its end (seek before going on)."""
    return scan(container)[0]


# --- one pass of demuxing -------------------------------------------------------------------------------


def scan(container, picture: bool = True, sound: bool = True, listen=None):
    """Demux a freshly opened `container` once.

    Returns ``(MediaInfo, Timeline)``; the timeline is that of the shown frames, None without a picture.
    `picture` and `sound` say what to look for.  `listen` is given the sound's packets instead of counting them.
    Raises :class:`MediaError` if none of it is there.
    """
    video = best_video(container) if picture else None
    audio = best_audio(container) if sound or listen else None
    if video is None and audio is None:
        if picture and sound:
            raise MediaError(f"{name_of(container)}: has neither picture nor sound; is it complete?")
        raise MediaError(f"{name_of(container)}: has no {'picture' if picture else 'sound'}; give a file that has")
    wanted = [stream for stream in (video, audio) if stream is not None]
    skip_others(container, wanted)
    track = _PictureTrack(container, video) if video is not None else None
    tally = _SoundTally(audio) if audio is not None and not listen else None
    see, hear = track and track.add, listen or tally and tally.add
    with suppress(av.error.InvalidDataError, av.error.EOFError):  # measured up to where the file ends
        for packet in container.demux(wanted):
            if packet.stream is video:  # stream_index lies on flush packets
                see(packet)
            else:
                hear(packet)
    if track is not None and track.needs_decoding():
        track.decode()
    result, timeline = track.result() if track is not None else (None, None)
    return MediaInfo(result, tally.result() if tally is not None else None), timeline


def skip_others(container, wanted) -> None:
    """Let the demuxer pass over all streams but `wanted`."""
    indices = {stream.index for stream in wanted}
    for stream in container.streams:
        if stream.index not in indices:
            stream.discard = Discard.all


_IMAGE_FORMATS = re.compile(r"image2|.*_pipe$")
_EXIF_MARKS = (b"Exif", b"eXIf", b"EXIF")


class _PictureTrack:
    """Gathers what the packets of one video stream tell about the frames that will be shown."""

    def __init__(self, container, stream):
        self.container, self.stream = container, stream
        self.is_image = bool(_IMAGE_FORMATS.match(container.format.name))
        self.base = stream.time_base
        self.pts, self.lengths = [], []  # of shown frames, in decoding order; pts may be None
        self.rotation = _rotation(container, stream)
        self.size = (stream.codec_context.width, stream.codec_context.height)
        self.hides = _HIDDEN.get(stream.codec_context.name)
        self.first_key = None
        self.doubtful = False  # frames before the first key frame, or half read, may or may not be shown

    def add(self, packet):
        size, pts = packet.size, packet.pts
        if not size:
            return
        if self.first_key is None:
            if self.is_image and any(mark in bytes(packet)[: 1 << 16] for mark in _EXIF_MARKS):
                self._orient(packet)
            if packet.is_keyframe:
                self.first_key = pts if pts is not None else False
            else:
                self.doubtful = True
        elif pts is not None and pts < self.first_key:
            self.doubtful = True
        if packet.is_corrupt:  # half a frame: some decoders show it
            self.doubtful = True
        if packet.is_discard or (self.hides is not None and self.hides(packet)):
            return
        self.pts.append(pts)
        self.lengths.append(packet.duration or 0)

    def _orient(self, packet):
        with suppress(av.error.FFmpegError):
            for frame in [*packet.decode(), *self.stream.decode(None)]:
                self.rotation = clockwise(frame)

    def needs_decoding(self):
        return self.doubtful and not self.is_image

    def decode(self):
        """Ask the decoder which frames it shows; only for streams that don't begin with a clean key frame."""
        self.pts, self.lengths = [], []
        with open_input(self.container.name.removeprefix("file:")) as again:
            stream = again.streams[self.stream.index]
            skip_others(again, [stream])
            for frame in decoded(again, stream):
                self.pts.append(frame.pts)
                self.lengths.append(frame.duration or 0)

    def result(self):
        if not self.pts:
            raise MediaError(f"{name_of(self.container)}: its video has no frame that can be shown; is it complete?")
        context, rate = self.stream.codec_context, self.stream.average_rate
        width, height = self.size if self.rotation % 180 == 0 else self.size[::-1]
        step = 1 / (rate or self.stream.guessed_rate or Fraction(25))
        timeline = Timeline(self.pts, self.lengths, self.base, step)
        return Picture(
            num_frames=1 if self.is_image else len(timeline.ticks),
            height=height,
            width=width,
            rotation=self.rotation,
            fps=None if self.is_image or not rate else rate,
            start=timeline.start,
            duration=None if self.is_image else timeline.end - timeline.start,
            codec=context.name,
            is_image=self.is_image,
        ), timeline


class Timeline:
    """When the shown frames of a video stream are shown.

    `ticks`: their times in order, in units of `base` seconds; `length`: ticks for which the last one stays.
    """

    __slots__ = ("ticks", "base", "length")

    def __init__(self, pts, lengths, base: Fraction, step: Fraction):
        """Order `pts` (ticks, in decoding order; None if unknown: then frames are `step` seconds apart)."""
        if None in pts:
            first = pts[0] * base if pts[0] is not None else Fraction(0)
            base = Fraction(1, first.denominator * step.denominator)
            self.ticks = [int((first + k * step) / base) for k in range(len(pts))]
            self.base, self.length = base, step / base
            return
        last = max(range(len(pts)), key=pts.__getitem__)
        self.ticks, self.base, self.length = sorted(pts), base, lengths[last] or step / base

    @property
    def start(self) -> Fraction:
        """Time of the first frame, seconds in the file's clock."""
        return self.ticks[0] * self.base

    @property
    def end(self) -> Fraction:
        """Time at which the last frame's display ends, seconds in the file's clock."""
        return (self.ticks[-1] + self.length) * self.base


def _rotation(container, stream) -> int:
    """Return the degrees clockwise that turn the stream's frames upright, from the container's display matrix.

    PyAV hands out that matrix with decoded frames only; FFmpeg's description of the file has its angle for free.
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        text = container.dumps_format()
    finally:
        av.logging.set_level(level)
    block = re.search(rf"^  Stream #0:{stream.index}\b.*?(?=^  Stream #|\Z)", text, re.M | re.S)
    angle = re.search(r"^ {6}\w*display ?matrix: rotation of (-?[\d.]+) degrees", block.group(), re.M | re.I) if block else None
    return _quarter(-float(angle.group(1))) if angle else 0


def clockwise(frame) -> int:
    """Return the degrees clockwise (0, 90, 180, 270) that turn the decoded `frame` upright."""
    return _quarter(-frame.rotation)


def _quarter(degrees: float) -> int:
    return round(degrees / 90) * 90 % 360


def _hidden_vp8(packet) -> bool:
    return not bytes(memoryview(packet)[:1])[0] >> 4 & 1  # the show_frame bit; alt-ref frames are never displayed


_HIDDEN = {"vp8": _hidden_vp8, "libvpx": _hidden_vp8}


def decoded(container, stream):
    """Yield the stream's frames as its decoder gives them, passing over packets that cannot be decoded."""
    for packet in container.demux(stream):
        yield from decode(packet)


# --- sound ----------------------------------------------------------------------------------------------

#: Codecs whose packets all hold `frame_size` samples, so that counting needs no decoding.
_FIXED = {"aac", "aac_latm", "mp3", "mp3float", "mp2", "mp2float", "ac3"}
_ENDS_ONLY = re.compile(r"mov,|mp3$|aac$|wav$")
_LAST = 8  # packets; MP3 drops at most 4095 samples at its end


class _SoundTally:
    """Counts the samples that decoding one sound stream gives; decodes until the first sample at least."""

    def __init__(self, stream):
        self.stream = stream
        self.context = context = stream.codec_context
        self.start = None
        self.samples = 0
        self.block = 0
        if context.name.startswith("pcm_") and context.format is not None:
            bits = _pcm_bits(context.name)
            self.block = context.layout.nb_channels * bits // 8 if bits else 0
        self.counts = context.name in _FIXED or self.block > 0
        # What is to be dropped at the end is noted on the last packets; Matroska may note it on any.
        self.last = deque(maxlen=_LAST if _ENDS_ONLY.match(stream.container.format.name) else None)

    def add(self, packet):
        if self.start is None or not self.counts:
            self._decode(packet)
            return
        size = packet.size
        if not size or packet.is_discard:
            return
        count = size // self.block if self.block else self.frame
        if self.last.maxlen is None:
            count -= _dropped(packet, count)
        else:
            self.last.append((packet, count))
        self._count(packet.pts, count)

    def _decode(self, packet):
        for frame in decode(packet):
            if self.start is None:
                self._begin(frame)
            self._count(frame.pts, frame.samples)

    def _begin(self, frame):
        rate, base = self.context.sample_rate, frame.time_base
        self.start = Fraction(0) if frame.pts is None else frame.pts * base
        self.first, self.num, self.den = frame.pts or 0, base.numerator * rate, base.denominator
        self.gap, self.frame = int(GAP * rate * self.den), self.context.frame_size
        check_sound_size(self.stream.container, rate, self.context.layout.nb_channels)

    def _count(self, pts, samples):
        if pts is not None:
            at = (pts - self.first) * self.num  # samples since the start, times den: integers are fast
            if at - self.samples * self.den >= self.gap:
                self.samples = round(Fraction(at, self.den))
        self.samples += samples

    def result(self):
        context = self.context
        self.samples -= sum(_dropped(packet, count) for packet, count in self.last)
        return Sound(
            rate=context.sample_rate,
            channels=context.layout.nb_channels,
            start=self.start or Fraction(0),
            duration=Fraction(self.samples, context.sample_rate),
            codec=context.name,
            lossless=is_lossless(context.name),
        )


def _dropped(packet, count: int) -> int:
    """Return how many of the `count` samples of `packet` its decoder drops."""
    if not packet.has_sidedata("skip_samples"):
        return 0
    skip = bytes(packet.get_sidedata("skip_samples"))
    return min(int.from_bytes(skip[:4], "little") + int.from_bytes(skip[4:8], "little"), count)


def _pcm_bits(codec: str) -> int:
    """Return how many bits one stored sample of a PCM codec has; 0 where a packet's size does not tell."""
    match = re.fullmatch(r"pcm_[suf](8|16|24|32|64)(?:le|be)?", codec)
    if match:
        return int(match.group(1))
    return 8 if codec in ("pcm_mulaw", "pcm_alaw") else 0


_HEADERS = (b"RIFF", b"RF64", b"fLaC", b"FORM", b"riff", b"caff", b".snd")


def _header_sound(path) -> Sound | None:
    """Measure a PCM or FLAC file from its header; None where that is not sure to be exact."""
    if not os.path.isfile(path) or not beginning(path).startswith(_HEADERS):
        return None
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            flac = file.format == "FLAC"
            form = SNDFILE_SUBTYPES.get(file.subtype)
            if form is None or file.samplerate <= 0:
                return None
            if flac:
                # A FLAC header may claim more than a truncated file holds: look for its last sample.
                file.seek(max(file.frames - 1, 0))
                if file.frames and len(file.read(1)) != 1:
                    return None
            endian = "be" if file.format in ("AIFF", "AU", "CAF") or file.endian == "BIG" else "le"
            return Sound(
                rate=file.samplerate,
                channels=file.channels,
                start=Fraction(0),
                duration=Fraction(file.frames, file.samplerate),
                codec="flac" if flac else "pcm_s8" if file.subtype == "PCM_S8" else f"pcm_{form}{endian if form != 'u8' else ''}",
                lossless=True,
            )
    except (soundfile.SoundFileError, OSError, ValueError, RuntimeError):
        return None


# --- checking -------------------------------------------------------------------------------------------


class _Track:
    """Packets and damage of one stream while all of it is decoded."""

    def __init__(self, stream):
        self.stream, self.base = stream, stream.time_base
        self.packets = []  # (pts, length, key) in decoding order
        self.bad = set()  # indices into packets
        self.bad_pts = set()
        self.frames = []  # (pts, length, samples)
        options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        stream.codec_context.options = {**stream.codec_context.options, **options}

    def add(self, packet):
        if packet.size:
            pts = packet.pts if packet.pts is not None else packet.dts
            self.packets.append((pts, packet.duration or 0, packet.is_keyframe))
            if packet.is_corrupt:
                self.bad.add(len(self.packets) - 1)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.bad.add(len(self.packets) - 1)
            return
        for frame in frames:
            if frame.is_corrupt:
                self.bad_pts.add(frame.pts)
            self.frames.append((frame.pts, frame.duration or 0, getattr(frame, "samples", 0)))

    def damage(self):
        """Return the damaged intervals [(start, end or None for "to the end")], seconds in the file's clock."""
        bad = set(self.bad)
        if self.bad_pts:
            bad |= {k for k, (pts, _, _) in enumerate(self.packets) if pts in self.bad_pts}
        spans, until_key = [], self.stream.type == "video"
        k, count = 0, len(self.packets)
        for k in sorted(bad):
            end = k + 1
            while until_key and end < count and (not self.packets[end][2] or end in bad):
                end += 1
            times = [pts for pts, _, _ in self.packets[max(k, 0) : end] if pts is not None]
            after = self.packets[end][0] if end < count else None
            start = min(times) if times else None
            if until_key and after is not None and start is not None:
                start = min(start, after)
            spans.append((None if start is None else start * self.base, None if after is None else after * self.base))
        return spans


def _checked(container) -> MediaInfo:
    """Decode all of `container` and return what really decoded, with the whole spans of a damaged file."""
    video, audio = best_video(container), best_audio(container)
    wanted = [stream for stream in (video, audio) if stream is not None]
    if not wanted:
        raise MediaError(f"{name_of(container)}: has neither picture nor sound; is it complete?")
    claimed = {stream.index: len(stream.index_entries) for stream in wanted}
    declared = Fraction(container.duration or 0, av.time_base) + Fraction(container.start_time or 0, av.time_base)
    skip_others(container, wanted)
    tracks = {stream.index: _Track(stream) for stream in wanted}
    failed = False
    try:
        for packet in container.demux(wanted):
            tracks[packet.stream.index].add(packet)
    except av.error.FFmpegError:
        failed = True
        for track in tracks.values():  # what the decoders still hold is whole
            with suppress(av.error.FFmpegError):
                for frame in track.stream.decode(None):
                    track.frames.append((frame.pts, frame.duration or 0, getattr(frame, "samples", 0)))
    name = name_of(container)
    with open_input(container.name.removeprefix("file:"), demux_only=True) as again:
        info = scan(again)[0]
    picture, sound = info.picture, info.sound
    if video is not None:
        frames = tracks[video.index].frames
        if not frames:
            raise MediaError(f"{name}: no frame of its picture can be decoded; fetch it again")
        step = 1 / (video.average_rate or video.guessed_rate or Fraction(25))
        shown = Timeline([f[0] for f in frames], [f[1] for f in frames], video.time_base, step)
        picture = replace(picture, num_frames=len(frames), start=shown.start)
        if not picture.is_image:
            picture = replace(picture, duration=shown.end - shown.start)
    zero = picture.start if picture is not None else sound.start
    ends = [s.start + s.duration for s in (picture, sound) if s is not None and s.duration]
    if not ends:
        return MediaInfo(picture, sound, ((0.0, 0.0),) if failed or any(t.bad for t in tracks.values()) else None)
    end = max(ends)
    damage = [span for track in tracks.values() for span in track.damage()]
    short = any(claimed[i] > len(t.packets) for i, t in tracks.items()) and declared - end > GAP
    if container.format.name.startswith("mov,"):
        short = any(claimed[i] > len(t.packets) for i, t in tracks.items())
    elif declared - end > Fraction(1, 2):
        short = True
    if not damage and not failed and not short:
        return MediaInfo(picture, sound)
    if short:  # a truncated file is whole only as far as all of its streams reach
        end = min(ends)
    return MediaInfo(picture, sound, _whole(zero, end, damage))


def _whole(zero: Fraction, end: Fraction, damage):
    """Return what `damage` leaves of [zero, end], as float seconds from `zero`."""
    spans, at = [], zero
    for low, high in sorted((zero if a is None else a, end if b is None else b) for a, b in damage):
        if low > at:
            spans.append((at, min(low, end)))
        at = max(at, high)
    if at < end:
        spans.append((at, end))
    return tuple((float(a - zero), float(b - zero)) for a, b in spans if b > a)


def read_back(path) -> None:
    """Decode all of a file that was just written; raise :class:`MediaError` where it is not whole."""
    info = probe(path, check=True)
    if info.spans is not None or (info.picture is None and info.sound is None):
        raise MediaError(f"{show(path)}: the new file does not read back whole; the source was kept")
