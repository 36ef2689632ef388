"""Writing clips: one constant frame rate, cutting, and putting a sound onto a picture.

Every function writes exactly the file `out` (usually a temporary name), as the container that `suffix` names;
closing it raises what the disk raises.  Inputs are never changed.  Times count from the clip's zero, the first
displayed frame, in exact fractions of a second.
"""

import heapq
import math
from collections import deque
from fractions import Fraction

import av
import av.filter
from av.codec.context import Flags

from avtools.errors import MediaError, SuffixRefused

from .container import best_audio, best_video, check_picture_size, decode, media_errors, name_of, open_input, open_output, show
from .encoders import QUIET
from .probe import GAP, Timeline, check_pace, decoded, scan, skip_others

#: How :func:`uniform_fps` encodes: chosen by benchmarks/tune_uni_fps.py.
CRF, PRESET = 21, "veryfast"

_EDIT_LISTS = (".mp4", ".m4v", ".mov")
_MAX_BASE = 10_000_000  # ticks per second: the finest time base that a track is given


class ContainerRefused(SuffixRefused):
    """The container cannot hold this sound; the next of :func:`.suffixes.video_suffixes` may."""


def frame_count(duration: Fraction, fps: Fraction) -> int:
    """Return how many frames a clip of `duration` seconds has at `fps` Hz: rounded half up, at least 1."""
    return max(1, math.floor(duration * fps + Fraction(1, 2)))


def is_uniform(src, fps: Fraction, crop_resize=None) -> bool:
    """Whether :func:`uniform_fps` would change nothing of what `src` shows, so that it can be linked.

    Its frames are shown at k/fps exactly, but for rounding to the stream's ticks; it needs no turning; and it
    has the size `crop_resize`, if that is given.  Raises :class:`MediaError` like :func:`uniform_fps`.
    """
    picture, _, timeline = _measured(src)
    if picture.rotation or (crop_resize and tuple(crop_resize) != (picture.width, picture.height)):
        return False
    return is_constant(timeline, Fraction(fps))


def is_constant(timeline: Timeline, fps: Fraction) -> bool:
    """Whether the frames of `timeline` are those at k/fps and no others, but for rounding to its ticks."""
    ticks, first = timeline.ticks, timeline.ticks[0]
    if len(ticks) != frame_count(timeline.end - timeline.start, fps):
        return False
    step = 1 / (fps * timeline.base)
    num, den = step.numerator, step.denominator
    if len(ticks) == 1 and abs(timeline.length * den - num) >= den:
        return False  # a single frame's rate is its length
    return all(abs((tick - first) * den - k * num) < den for k, tick in enumerate(ticks))


def shown_frames(container, stream):
    """Yield ``(time, frame)`` for each shown frame of `stream` in display order.

    `time` (Fraction) counts from the clip's zero.  Edit lists are honoured, undecodable packets passed over,
    missing timestamps filled in at the stream's rate.  The container must be freshly opened.
    """
    yield from _timed(stream, decoded(container, stream))


def _timed(stream, frames):
    step = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
    zero = last = None
    if stream.container.format.name == "avi":
        frames = _restamped(frames)
    for frame in frames:
        if frame.pts is not None:
            time = frame.pts * frame.time_base
        else:
            time = Fraction(0) if last is None else last + step
        if last is None:
            zero = time
        elif time < last:
            time = last
        last = time
        yield time - zero, frame


def _restamped(frames, depth: int = 8):
    """Give frames, which come in display order, their timestamps in order too.

    AVI stores none; what FFmpeg makes up for packets in decoding order lies on the wrong B-frames.
    """
    held, stamps = deque(), []
    for frame in frames:
        held.append(frame)
        if frame.pts is not None:
            heapq.heappush(stamps, frame.pts)
        if len(held) > depth:
            yield _stamped(held, stamps)
    while held:
        yield _stamped(held, stamps)


def _stamped(held, stamps):
    frame = held.popleft()
    frame.pts = heapq.heappop(stamps) if stamps else None
    return frame


# --- making frames fit the encoder ----------------------------------------------------------------------


class _Fitter:
    """Turns decoded frames upright, crops, resizes and converts them, as little as needed.

    Fixed by the first frame: `width`, `height`, `pix_fmt`, `sar` of what comes out.
    """

    def __init__(self, container, stream, frame, encoder: str, crop_resize=None, rotation: int = 0):
        self.container, self.crop_resize = container, crop_resize
        self.turn = turning(frame, rotation)
        sar = stream.sample_aspect_ratio or Fraction(1)
        width, height = frame.width, frame.height
        if "transpose" in self.turn:
            width, height, sar = height, width, 1 / sar
        self.sar = sar
        if crop_resize:
            self.width, self.height = crop_resize
            self.sar = Fraction(1)
        else:
            self.width, self.height = width, height
        self.source_sar = sar
        check_picture_size(container, self.width, self.height)
        self.pix_fmt = _pixel_format(frame.format, self.width, self.height, encoder)
        self.key = self.graph = None

    def __call__(self, frame):
        """Return `frame` as the encoder takes it; the same object where nothing need be done."""
        key = (frame.width, frame.height, frame.format.name)
        if key != self.key:
            self.key, self.graph = key, self._build(frame)
        if self.graph is None:
            return frame
        self.graph.push(frame)
        return self.graph.pull()

    def _build(self, frame):
        check_picture_size(self.container, frame.width, frame.height)
        steps = list(self.turn)
        width, height = frame.width, frame.height
        if "transpose" in steps:
            width, height = height, width
        if self.crop_resize:
            crop_width, crop_height = _crop(width, height, self.source_sar, *self.crop_resize)
            if (crop_width, crop_height) != (width, height):
                left, top = (width - crop_width) // 2, (height - crop_height) // 2
                steps.append(("crop", f"{crop_width}:{crop_height}:{left}:{top}:exact=1"))
            width, height = crop_width, crop_height
        if (width, height) != (self.width, self.height) or frame.format.name != self.pix_fmt:
            steps.append(("scale", f"{self.width}:{self.height}:flags=bicubic+accurate_rnd"))
            steps.append(("format", self.pix_fmt))
        if not steps:
            return None
        graph = av.filter.Graph()
        nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
        for step in steps:
            name, args = step if isinstance(step, tuple) else (step, "dir=cclock_flip" if step == "transpose" else None)
            nodes.append(graph.add(name, args))
        nodes.append(graph.add("buffersink"))
        for one, other in zip(nodes, nodes[1:], strict=False):
            one.link_to(other)
        graph.configure()
        return graph


def turning(frame, rotation: int) -> list[str]:
    """Return the filters that turn `frame` upright: from its display matrix, else from `rotation` (clockwise)."""
    try:
        facts = list(frame.side_data)
    except ValueError:  # PyAV does not know all kinds yet, such as the EXIF of a JPEG; the angle is then what was measured
        facts = []
    for data in facts:
        if data.type.name == "DISPLAYMATRIX":
            m = memoryview(bytes(data)).cast("i")
            # The displayed point of (x, y) is (m0 x + m3 y, m1 x + m4 y).
            swap = abs(m[1]) + abs(m[3]) > abs(m[0]) + abs(m[4])
            across, down = (m[3], m[1]) if swap else (m[0], m[4])
            return ["transpose"] * swap + ["hflip"] * (across < 0) + ["vflip"] * (down < 0)
    return {0: [], 90: ["transpose", "hflip"], 180: ["hflip", "vflip"], 270: ["transpose", "vflip"]}[rotation]


def _crop(width, height, sar, to_width, to_height):
    """Return the largest (width, height) of the target's aspect, at least one pixel."""
    if width * sar * to_height > height * to_width:
        return max(1, round(Fraction(height * to_width, to_height) / sar)), height
    return width, max(1, round(width * sar * to_height / to_width))


def _pixel_format(fmt, width: int, height: int, encoder: str) -> str:
    """Return the encoder's format nearest to `fmt` that loses no chroma and no pixel of an odd size."""
    chroma = (fmt.chroma_width(64), fmt.chroma_height(64))
    known = {f.name for f in av.codec.Codec(encoder, "w").video_formats or ()}
    halves = (not fmt.is_rgb and chroma[0] < 64, not fmt.is_rgb and chroma[1] < 64)
    odd = (halves[0] and width % 2) or (halves[1] and height % 2)
    if (not known or fmt.name in known) and not odd:
        return fmt.name
    deep = max(c.bits for c in fmt.components) > 8 and not fmt.has_palette
    if odd or not halves[0]:
        sampling = "444"
    else:
        sampling = "420" if halves[1] else "422"
    for name in (f"yuv{sampling}p10le" * deep, f"yuv{sampling}p", "yuv420p"):
        if name in known or not known:
            return name or "yuv420p"
    return next(iter(known))


def _video_stream(output, fitter, frame, encoder, rate, base, crf, preset):
    """Add a video stream for the frames that `fitter` makes; colours as in `frame`."""
    options = dict(QUIET.get(encoder, {}))
    if crf is not None:
        options["crf"] = str(crf)
    if preset is not None:
        options["preset"] = str(preset)
    if output.format.name not in ("matroska", "mp4", "mov", "mpegts"):
        raise ContainerRefused(f"{output.format.name} cannot hold H.264 in sync; use .mkv")
    try:
        stream = output.add_stream(encoder, rate=rate, options=options)
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(f"encoder {encoder!r} cannot be used here ({error}); try --encoder libx264") from error
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = fitter.width, fitter.height, fitter.pix_fmt
    context.sample_aspect_ratio = fitter.sar
    context.time_base = base
    context.thread_count = 1
    context.flags |= Flags.frame_duration  # else how long frames stay is lost
    if not frame.format.is_rgb:
        context.color_range, context.colorspace = frame.color_range, frame.colorspace
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
    return stream


# --- sound that goes along ------------------------------------------------------------------------------


class _SoundCopy:
    """Copies a sound stream's packets, moved in time, so that its first decoded sample stays where it is heard.

    Decoders drop a codec's first samples ("priming"), which the packet's side data counts.  MP4 keeps that
    count in its edit list, which the muxer makes from timestamps: negative ones are cut away, and where the
    sound starts later, the first packet's decoding time says how much lies before its presentation.
    """

    def __init__(self, output, suffix, stream, shift: Fraction):
        """`shift`: seconds added to every timestamp."""
        try:
            self.out = output.add_stream_from_template(stream, opaque=True)
        except (ValueError, av.error.FFmpegError) as error:
            raise _refused(suffix, stream.codec_context.name, error) from error
        self.edits, self.shift = suffix in _EDIT_LISTS, shift
        self.rate = stream.codec_context.sample_rate
        self.first = True

    def packet(self, packet):
        """Return `packet` ready to mux, or None if it must be left out."""
        if not packet.size or (packet.pts is None and packet.dts is None):
            return None
        if packet.is_discard and not self.edits:
            return None  # this container cannot say that samples are to be dropped
        base = packet.time_base
        move = round(self.shift / base)
        pts = packet.pts if packet.pts is not None else packet.dts
        packet.pts = packet.dts = pts + move
        if self.first:
            self.first = False
            if self.edits and packet.has_sidedata("skip_samples"):
                priming = int.from_bytes(bytes(packet.get_sidedata("skip_samples"))[:4], "little")
                _hide_priming(packet, round(Fraction(priming, self.rate) / base))
        packet.stream = self.out
        return packet


def _hide_priming(packet, ticks: int) -> None:
    """Let the MP4 muxer's edit list pass over the first `ticks` of the sound that `packet` begins."""
    if packet.dts + ticks > 0:
        packet.pts = packet.dts + ticks


def _refused(suffix, codec, error):
    return ContainerRefused(f"{suffix} cannot hold {codec} sound ({error}); use .mkv")


def _start_encoding(output, suffix, sound_codec):
    """Write the header now, before the work of encoding, so that a muxer that refuses does so at once."""
    try:
        output.start_encoding()
    except OSError:
        raise
    except (ValueError, av.error.FFmpegError) as error:
        raise _refused(suffix, sound_codec, error) from error


def _clock(picture, sound):
    """Return when the picture starts in the output's clock, so that no sound comes before time 0."""
    return max(Fraction(0), picture.start - sound.start) if sound is not None else Fraction(0)


def _base(*parts: Fraction, default: Fraction) -> Fraction:
    """Return the time base of which all `parts` (seconds) are multiples, or `default` where it would be too fine."""
    den = math.lcm(*(part.denominator for part in parts))
    return Fraction(1, den) if den <= _MAX_BASE else default


def _mp4_options(suffix, sound_rate):
    # The edit lists' unit: 1 ms by default, which would round the sound's offset.
    return {"movie_timescale": str(sound_rate)} if suffix in _EDIT_LISTS and sound_rate else {}


# --- one constant frame rate ----------------------------------------------------------------------------


def uniform_fps(
    src, out, suffix: str, fps: Fraction, crf=CRF, preset=PRESET, encoder="libx264", crop_resize=None
) -> None:
    """Write `src` at the constant rate `fps` (Hz) to `out`.

    ``frame_count(duration, fps)`` frames; frame k is the one shown at k/fps, upright.  `crop_resize`
    ``(width, height)``: centre crop to that aspect, then resize.  Pixel format, colours and sample aspect
    ratio are kept; an odd size in 4:2:0 becomes 4:4:4.  The best sound stream's packets are copied as they are
    and stay in sync; other streams are left out.  Raises :class:`ContainerRefused`, before encoding, if
    `suffix` cannot hold that sound, :class:`MediaError` if there is no picture, OSError for the disk.
    """
    suffix, fps = suffix.lower(), Fraction(fps)
    with media_errors(src, out):
        picture, sound, timeline = _measured(src)
        check_pace(src, picture)
        count = frame_count(timeline.end - timeline.start, fps)
        with open_input(src, output=out) as container:
            video, audio = best_video(container), best_audio(container) if sound else None
            wanted = [stream for stream in (video, audio) if stream is not None]
            skip_others(container, wanted)
            packets = container.demux(wanted)
            waiting = []  # sound that comes before the first frame
            frames = _timed(video, _split(packets, video, waiting.append))
            try:
                time, frame = next(frames)
            except StopIteration:
                raise MediaError(f"{show(src)}: no frame can be decoded; fetch it again") from None
            fitter = _Fitter(container, video, frame, encoder, crop_resize, picture.rotation)
            zero = _clock(picture, sound)
            with open_output(out, suffix, _mp4_options(suffix, sound and sound.rate)) as output:
                stream = _video_stream(output, fitter, frame, encoder, fps, 1 / fps, crf, preset)
                base = _base(1 / fps, zero, default=Fraction(1, 90000)) if zero else 1 / fps
                stream.time_base = base
                copy = _SoundCopy(output, suffix, audio, zero - picture.start) if audio is not None else None
                _start_encoding(output, suffix, audio.codec_context.name if audio is not None else "no")

                def write_sound():
                    for packet in waiting:
                        packet = copy.packet(packet)
                        if packet is not None:
                            output.mux(packet)
                    waiting.clear()

                def write(frame=None):
                    for packet in stream.encode(frame):
                        _move(packet, base, zero)
                        output.mux(packet)

                k, fitted, source = 0, None, None
                ahead = next(frames, None)
                while k < count:
                    while ahead is not None and ahead[0] * fps <= k:
                        frame, ahead = ahead[1], next(frames, None)
                    if source is not frame:
                        fitted, source = fitter(frame), frame
                    fitted.pict_type = 0  # else the encoder copies the source's frame types
                    fitted.time_base, fitted.pts, fitted.duration = 1 / fps, k, 1
                    write(fitted)
                    k += 1
                    if waiting:
                        write_sound()
                for _ in frames:  # what sound follows the last frame used
                    write_sound()
                write()
                write_sound()


def _move(packet, base: Fraction, shift: Fraction) -> None:
    """Express `packet` in units of `base` and move it by `shift` seconds."""
    scale = packet.time_base / base
    if scale != 1 or shift:
        move = round(shift / base)
        packet.pts, packet.dts = round(packet.pts * scale) + move, round(packet.dts * scale) + move
        packet.duration = round((packet.duration or 0) * scale)
        packet.time_base = base


def _split(packets, video, other):
    """Yield the frames of `video`; hand packets of other streams to `other`."""
    for packet in packets:
        if packet.stream is not video:
            other(packet)
            continue
        yield from decode(packet)


def _measured(src):
    """Return ``(picture, sound or None, timeline)`` of a video file."""
    with open_input(src, demux_only=True) as container:
        info, timeline = scan(container)
        picture = _need_picture(container, info)
        return picture, info.sound, timeline


def _need_picture(container, info):
    if info.picture is None:
        raise MediaError(f"{name_of(container)}: has no picture; give a video file")
    if info.picture.is_image:
        raise MediaError(f"{name_of(container)}: is an image, not a video; give a video file")
    return info.picture


# --- cutting --------------------------------------------------------------------------------------------


def cut_video(src, out, suffix: str, start, end=None, crf=18, preset="veryfast", encoder="libx264") -> None:
    """Write the frames and samples of `src` with start <= t < end (seconds from the clip's zero) to `out`.

    Frames keep their own times (less `start`), the last one's display ends at `end` at the latest; nothing is
    padded.  Picture is encoded with `encoder`, sound as AAC with the same rate and channels, or kept bit for
    bit if it is PCM that the container holds.  Raises :class:`MediaError` if the span holds no frame.
    """
    suffix, start = suffix.lower(), Fraction(start)
    end = None if end is None else Fraction(end)
    with media_errors(src, out):
        picture, sound, timeline = _measured(src)
        stop = picture.duration if end is None else min(end, picture.duration)
        first = timeline.ticks[0]
        times = [(tick - first) * timeline.base for tick in timeline.ticks]
        kept = [time for time in times if start <= time and (end is None or time < end)]
        if not kept:
            raise MediaError(
                f"{show(src)}: no frame between {float(start):g} s and {float(stop):g} s; "
                f"it is {float(picture.duration):g} s long, choose a span inside"
            )
        with open_input(src, output=out) as container:
            video, audio = best_video(container), best_audio(container) if sound else None
            wanted = [stream for stream in (video, audio) if stream is not None]
            skip_others(container, wanted)
            fitter = stream = cutter = None
            number = 0
            base = _base(timeline.base, start, stop, default=Fraction(1, 90000))
            early = []  # sound that comes before the first frame
            with open_output(out, suffix, _mp4_options(suffix, sound and sound.rate)) as output:

                def write(frame, time, until):
                    nonlocal number
                    fitted = fitter(frame)
                    number += 1
                    # Ending on two P frames puts the last frame last in decoding order too, so that its
                    # own length is what the container stores.
                    fitted.pict_type = 2 if len(kept) - number < 2 else 0
                    fitted.time_base = base
                    fitted.pts = round((time - start) / base)
                    fitted.duration = max(1, round((until - start) / base) - fitted.pts)
                    output.mux(stream.encode(fitted))

                def begin(frame):
                    nonlocal fitter, stream, cutter
                    fitter = _Fitter(container, video, frame, encoder, None, picture.rotation)
                    rate = video.average_rate or Fraction(25)
                    stream = _video_stream(output, fitter, frame, encoder, rate, base, crf, preset)
                    stream.time_base = base
                    if audio is not None:
                        zero = picture.start
                        cutter = _SoundEncoder(output, suffix, audio.codec_context, sound, zero + start, end and zero + end)
                    _start_encoding(output, suffix, cutter.codec if cutter else "no")

                def listen(packet):
                    for heard in decode(packet):
                        early.append(heard) if cutter is None else cutter.add(heard)

                held = None
                for time, frame in _timed(video, _split(container.demux(wanted), video, listen)):
                    if held is not None:
                        write(*held, min(time, stop))
                        held = None
                    if stream is None:
                        begin(frame)
                        for heard in early:
                            cutter.add(heard)
                        early.clear()
                    if end is not None and time >= end:
                        if cutter is None or cutter.done or time > end + _SOUND_LAG:
                            break
                    elif time >= start:
                        held = frame, time
                if held is not None:
                    write(*held, stop)
                if not number:
                    raise MediaError(f"{show(src)}: no frame of that span can be decoded; choose another span")
                output.mux(stream.encode(None))
                if cutter is not None:
                    cutter.finish()


_SOUND_LAG = 10  # seconds by which a file's sound may be stored behind its picture
_AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # what AAC has


class _SoundEncoder:
    """Encodes the samples of a span; sample times are those of the sound's clock (see :data:`probe.GAP`)."""

    def __init__(self, output, suffix, source, sound, start: Fraction, end: Fraction | None, keep_pcm=True):
        """`source`: the decoder's codec context; `start` and `end` in the file's clock; `start` becomes 0.

        `keep_pcm`: PCM stays as it is where the container holds it; all else becomes AAC if AAC can.
        """
        self.sink, self.rate = output.mux, sound.rate
        self.codec = self._choose(output, suffix, source, sound, keep_pcm)
        try:
            self.stream = output.add_stream(self.codec, rate=sound.rate)
        except (ValueError, av.error.FFmpegError) as error:
            raise _refused(suffix, self.codec, error) from error
        context = self.stream.codec_context
        # A WAV without a channel mask names no layout, which AAC needs.
        self.layout = av.AudioLayout(_LAYOUTS[sound.channels]) if self.codec == "aac" else source.layout
        context.layout = self.layout
        context.thread_count = 1
        if self.codec != "aac":
            formats = [f.name for f in context.codec.audio_formats or ()]
            context.format = source.format if source.format.name in formats else formats[0]
        else:
            context.bit_rate = 96_000 * sound.channels
        self.edits = suffix in _EDIT_LISTS
        # Samples are numbered from the first decoded one.
        self.low = max(0, math.ceil((start - sound.start) * sound.rate))
        self.high = None if end is None else max(0, math.ceil((end - sound.start) * sound.rate))
        self.offset = (sound.start - start) * sound.rate  # sample 0's place in the output, in samples
        self.at, self.begun, self.first_time = 0, False, sound.start

    @staticmethod
    def _choose(output, suffix, source, sound, keep_pcm):
        if keep_pcm and source.name.startswith("pcm_") and source.name in output.supported_codecs:
            return source.name
        if sound.rate in _AAC_RATES and sound.channels in _LAYOUTS:
            return "aac"
        if suffix not in (".mkv", ".mov"):
            raise _refused(suffix, f"{sound.channels} channels at {sound.rate} Hz", "beyond AAC")
        return "pcm_s16le"

    @property
    def done(self) -> bool:
        """Whether the span's end is reached."""
        return self.high is not None and self.at >= self.high

    def add(self, frame):
        """Take the next decoded frame."""
        if frame.pts is not None:
            gap = frame.pts * frame.time_base - self.first_time - Fraction(self.at, self.rate)
            if gap >= GAP:
                self._silence(frame, round(gap * self.rate))
        self._take(frame)

    def _silence(self, like, samples):
        while samples > 0 and (self.high is None or self.at < self.high):
            count = min(samples, 1 << 16)
            quiet = av.AudioFrame(format=like.format.name, layout=like.layout, samples=count)
            for plane in quiet.planes:
                plane.update((b"\x80" if like.format.name.startswith("u8") else b"\0") * plane.buffer_size)
            quiet.sample_rate = self.rate
            self._take(quiet)
            samples -= count

    def _take(self, frame):
        first, self.at = self.at, self.at + frame.samples
        low, high = max(self.low - first, 0), frame.samples
        if self.high is not None:
            high = min(high, self.high - first)
        if low >= high:
            return
        if (low, high) != (0, frame.samples) or frame.layout.name != self.layout.name:
            frame = _slice(frame, low, high, self.layout)
        frame.time_base = Fraction(1, self.rate)
        frame.pts = round(self.offset) + first + low
        self._mux(self.stream.encode(frame))

    def _mux(self, packets):
        for packet in packets:
            if not self.begun:
                self.begun = True
                if self.edits and self.codec == "aac":
                    _hide_priming(packet, round(Fraction(1024, self.rate) / packet.time_base))
            self.sink(packet)

    def finish(self):
        """Write what the encoder still holds."""
        if self.at > self.low or self.begun:
            self._mux(self.stream.encode(None))


def _slice(frame, low: int, high: int, layout):
    """Return samples [low, high) of `frame` as a new frame whose channels are called `layout`."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        channels = frame.layout.nb_channels
        low, high = low * channels, high * channels
    part = av.AudioFrame.from_ndarray(array[:, low:high].copy(), format=frame.format.name, layout=layout)
    part.sample_rate = frame.sample_rate
    return part


def cut_fast(src, out, suffix: str, start, end=None) -> tuple[Fraction, Fraction]:
    """Copy `src` from the key frame at or before `start` to `end` without re-encoding.

    Returns ``(real_start, real_end)``, seconds from the source's zero: the time of the first frame written and
    the time at which the last one's display ends.  The best picture and sound are kept.  Raises like
    :func:`cut_video`; :class:`ContainerRefused` if `suffix` cannot hold the streams.
    """
    suffix, start = suffix.lower(), Fraction(start)
    end = None if end is None else Fraction(end)
    with media_errors(src, out):
        picture, sound, timeline = _measured(src)
        with open_input(src) as container:
            video = best_video(container)
            skip_others(container, [video])
            zero, base = picture.start, video.time_base
            step = 1 / (video.average_rate or video.guessed_rate or Fraction(25))
            packets = [
                (p.pts * base - zero, p.is_keyframe, (p.duration or 0) * base or step, p.is_discard)
                for p in container.demux(video)
                if p.size and p.pts is not None
            ]
        keys = [k for k, (time, key, _, _) in enumerate(packets) if key and time <= max(start, Fraction(0))]
        first = max(keys, key=lambda k: packets[k][0], default=0)
        begin = packets[first][0]
        last = max((k for k, p in enumerate(packets) if k >= first and (end is None or p[0] < end)), default=-1)
        # Frames are stored after those that they refer to, so one that is shown later may be among them: all that
        # are shown before it go along, or the cut would have a hole.
        while last >= 0:
            latest = max(p[0] for p in packets[first : last + 1])
            further = max(k for k, p in enumerate(packets) if k >= first and p[0] <= latest)
            if further == last:
                break
            last = further
        kept = [p for p in packets[first : last + 1] if p[0] >= max(begin, 0) and not p[3]]
        if not kept or max(p[0] + p[2] for p in kept) <= start:
            raise MediaError(f"{show(src)}: no frame in that span; it is {float(picture.duration):g} s long")
        real_start = min(p[0] for p in kept)
        real_end = min(max(p[0] + p[2] for p in kept), timeline.end - zero)  # packets that give no frame are not shown
        with open_input(src, output=out) as container:
            video, audio = best_video(container), best_audio(container) if sound else None
            streams = [stream for stream in (video, audio) if stream is not None]
            skip_others(container, streams)
            with open_output(out, suffix, _mp4_options(suffix, sound and sound.rate)) as output:
                copy = _PictureCopy(output, suffix, video, -zero - real_start)
                heard = None
                if audio is not None:
                    heard = _SoundCopy(output, suffix, audio, -zero - real_start)
                _start_encoding(output, suffix, audio.codec_context.name if audio is not None else "no")
                low, high = zero + real_start, zero + real_end
                before = None  # the packet ahead of the cut, from which the decoder takes its run-up
                number = -1
                for packet in container.demux(streams):
                    if not packet.size or packet.pts is None:
                        continue
                    time = packet.pts * packet.time_base
                    if packet.stream is video:
                        number += 1
                        if first <= number <= last and time - zero >= begin:
                            output.mux(copy.packet(packet))
                        continue
                    length = (packet.duration or 0) * packet.time_base
                    if time + length <= low:
                        before = packet
                    elif time < high:
                        ahead = [before] if before is not None and heard.edits else []
                        before = None
                        if time < low and not heard.edits:
                            continue
                        for piece in [*ahead, packet]:
                            piece = heard.packet(piece)
                            if piece is not None:
                                output.mux(piece)
        return real_start, real_end


class _PictureCopy:
    """Copies a video stream's packets, moved in time."""

    def __init__(self, output, suffix, stream, shift: Fraction):
        try:
            self.out = output.add_stream_from_template(stream, opaque=True)
        except (ValueError, av.error.FFmpegError) as error:
            raise ContainerRefused(f"{suffix} cannot hold {stream.codec_context.name} video ({error}); use .mkv") from error
        self.move = round(shift / stream.time_base)

    def packet(self, packet):
        if packet.pts is not None:
            packet.pts += self.move
        if packet.dts is not None:
            packet.dts += self.move
        packet.stream = self.out
        return packet


# --- pictures that are arrays -------------------------------------------------------------------------


def write_frames(out, suffix: str, frames, fps: Fraction) -> None:
    """Write `frames`, RGB as (number, height, width, 3) uint8, shown at the constant rate `fps`, as H.264 to `out`."""
    height, width = frames.shape[1:3]
    base = 1 / Fraction(fps)
    with open_output(out, suffix) as output:
        stream = output.add_stream("libx264", rate=1 / base, options={"crf": "18", "preset": PRESET})
        context = stream.codec_context
        context.width, context.height, context.time_base, context.thread_count = width, height, base, 1
        context.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context.color_range, context.colorspace = 1, 6  # limited, BT.601: what the conversion below makes
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame = frame.reformat(format=context.pix_fmt, dst_colorspace="ITU601", dst_color_range="MPEG")
            frame.pts, frame.time_base, frame.duration = number, base, 1
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


# --- putting a sound onto a picture ---------------------------------------------------------------------


def mux(picture_path, sound_path, out, suffix: str, trim: bool = False) -> None:
    """Write the picture of `picture_path`, not re-encoded, with the sound of `sound_path` to `out`.

    The first displayed frame and the sound's first sample are both at time 0.  Sound is encoded as AAC (192
    kbit/s for stereo), or copied where the container holds its codec exactly: AAC, PCM in .mkv and .mov, FLAC
    in .mkv.  With `trim` the sound ends where the picture does, if it is longer.  Raises :class:`ContainerRefused`
    if `suffix` cannot hold them.
    """
    suffix = suffix.lower()
    with open_input(picture_path, demux_only=True) as container:
        info, _ = scan(container, sound=False)
        picture = _need_picture(container, info)
    with open_input(sound_path, demux_only=True) as container:
        info, _ = scan(container, picture=False)
        sound = info.sound
        if sound is None:
            raise MediaError(f"{show(sound_path)}: has no sound; give a sound file")
        if not sound.duration:
            raise MediaError(f"{show(sound_path)}: has no samples; give a sound file that has")
    end = None
    if trim and picture.duration is not None and sound.duration > picture.duration:
        end = sound.start + picture.duration
    with open_input(picture_path, output=out) as seen, open_input(sound_path, output=out) as heard:
        video, audio = best_video(seen), best_audio(heard)
        skip_others(seen, [video])
        skip_others(heard, [audio])
        with open_output(out, suffix, _mp4_options(suffix, sound.rate)) as output:
            copy = _PictureCopy(output, suffix, video, -picture.start)
            name = audio.codec_context.name
            same = end is None and (name == "aac" or (name.startswith("pcm_") and suffix in (".mkv", ".mov")) or (name == "flac" and suffix == ".mkv"))
            if same:
                packets = _copied(heard, audio, _SoundCopy(output, suffix, audio, -sound.start))
            else:
                encoder = _SoundEncoder(output, suffix, audio.codec_context, sound, sound.start, end, False)
                name = encoder.codec
                packets = _encoded(heard, audio, encoder)
            _start_encoding(output, suffix, name)
            pictures = (copy.packet(p) for p in seen.demux(video) if p.size)
            for packet in _interleaved(pictures, packets):
                output.mux(packet)


def _copied(container, stream, copy):
    for packet in container.demux(stream):
        packet = copy.packet(packet)
        if packet is not None:
            yield packet


def _encoded(container, stream, encoder):
    made = []
    encoder.sink = made.append
    for frame in decoded(container, stream):
        encoder.add(frame)
        yield from made
        made.clear()
    encoder.finish()
    yield from made


def _interleaved(one, other):
    """Merge two packet streams by decoding time."""
    one, other = iter(one), iter(other)
    a, b = next(one, None), next(other, None)
    while a is not None or b is not None:
        if b is None or (a is not None and _when(a) <= _when(b)):
            yield a
            a = next(one, None)
        else:
            yield b
            b = next(other, None)


def _when(packet):
    stamp = packet.dts if packet.dts is not None else packet.pts
    return -math.inf if stamp is None else stamp * packet.time_base
