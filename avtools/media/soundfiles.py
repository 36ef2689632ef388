"""Sound in and out of files, in chunks of bounded size.

A chunk is an array (frames, channels): int16 for 8- and 16-bit sound (8-bit in the upper byte), int32 for 24
and 32 bits (24-bit in the upper bytes), float32 or float64.  Lossy sound is always float32 in [-1, 1].
Reading keeps every bit of lossless sound; writing rounds to the nearest value and clips, and never wraps around.
"""

import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from avtools.errors import MediaError

from .container import MAX_CHANNELS, MAX_RATE, MUXERS, best_audio, decode, name_of, open_input, show
from .suffixes import SNDFILE_SUBTYPES, WRITABLE, is_lossless

#: Sample formats by the names that `--sample-format` takes, and the bits of the integer ones.
SAMPLE_FORMATS = ("u8", "s16", "s24", "s32", "f32", "f64")
BITS = {"u8": 8, "s16": 16, "s24": 24, "s32": 32}
_BYTES = {"u8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4, "f64": 8}
_DTYPES = {"u8": "int16", "s16": "int16", "s24": "int32", "s32": "int32", "f32": "float32", "f64": "float64"}

BLOCK = 1 << 16  # samples (all channels together) of a chunk: large enough to be fast, small enough for any worker
_GAP = Fraction(1, 20)  # seconds; timestamps that leave a shorter gap are jitter
_LONGEST_GAP = 86400  # seconds; a larger jump is a damaged timestamp, not silence

_UNKNOWN = 1 << 62  # at least so many frames libsndfile reports for a FLAC stream of unstated length

_SNDFILE_READS = {"WAV": ".wav", "WAVEX": ".wav", "RF64": ".wav", "W64": ".w64", "FLAC": ".flac", "AIFF": ".aiff",
                  "CAF": ".caf", "AU": ".au"}  # fmt: skip
_SNDFILE_WRITES = {".flac": "FLAC", ".aiff": "AIFF", ".aif": "AIFF", ".caf": "CAF", ".w64": "W64", ".ogg": "OGG"}
_ENCODERS = {".mp3": "libmp3lame", ".m4a": "aac", ".aac": "aac", ".opus": "libopus"}
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_SPEAKERS = "FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR".split()  # the bits of a WAV channel mask


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """What a sound is made of.

    `container`: suffix of the kind of file (".wav"; by content, not by name), or FFmpeg's name of another kind.
    `sample_format`: one of SAMPLE_FORMATS; None for a lossy sound.  `rate` in Hz.
    `frames`: samples per channel as the header has them; None where only decoding could tell.
    """

    container: str
    sample_format: str | None
    rate: int
    channels: int
    frames: int | None
    lossless: bool


# --- reading --------------------------------------------------------------------------------------------


class SoundReader:
    """A sound from its first sample on: iterate over it (once) to get its chunks.

    `format`: its :class:`SoundFormat`; `start`: time of its first sample in the file's clock, seconds (Fraction);
    `layout`: FFmpeg's name of its speakers ("stereo", "5.1"), None where unknown; `expected`: about how many samples
    per channel there are, by the header, or None.
    """

    format: SoundFormat
    start = Fraction(0)

    @property
    def block(self) -> int:
        """Frames of a chunk."""
        return max(1, BLOCK // self.format.channels)

    def skip(self, frames: int) -> None:
        """Pass over the next `frames` samples; to be called once at most, before iterating."""
        self._skip = frames

    def __iter__(self):
        skip = self._skip
        for chunk in self._chunks():
            if skip < len(chunk):
                yield chunk[skip:] if skip else chunk
                skip = 0
            else:
                skip -= len(chunk)

    _skip = 0


class _FileSound(SoundReader):
    """PCM and FLAC files, through libsndfile."""

    def __init__(self, path, file):
        self.path, self.file = path, file
        self.format = SoundFormat(
            _SNDFILE_READS[file.format], SNDFILE_SUBTYPES[file.subtype], file.samplerate, file.channels,
            file.frames if file.frames < _UNKNOWN else None, True,
        )  # fmt: skip

    @property
    def layout(self):
        if self.format.channels <= 2:
            return _LAYOUTS[self.format.channels]
        with open_input(self.path) as container:  # libsndfile does not hand out the channel mask
            stream = best_audio(container)
            return None if stream is None else _layout(stream.layout)

    @property
    def expected(self):
        return self.format.frames

    def skip(self, frames):
        import soundfile

        try:
            self.file.seek(min(frames, self.file.frames))
        except (soundfile.SoundFileError, OSError):  # damaged: decode up to there
            super().skip(frames)

    def _chunks(self):
        import soundfile

        position, dtype = self.file.tell(), _DTYPES[self.format.sample_format]
        damaged = False
        while not damaged:
            try:
                chunk = self.file.read(self.block, dtype=dtype, always_2d=True)
            except soundfile.SoundFileError:
                damaged = True
                break
            if not len(chunk):
                break
            position += len(chunk)
            yield chunk
        if damaged or (self.format.container == ".flac" and position < self.file.frames < _UNKNOWN):
            # libsndfile gives up at the first damaged block; FFmpeg finds what is whole behind it.
            with open_input(self.path) as container:
                rest = decode_sound(container, best_audio(container))
                rest.skip(position)
                yield from rest


class DecodedSound(SoundReader):
    """A stream decoded by FFmpeg, on the sound's clock; see :func:`decode_sound`."""

    def __init__(self, container, stream, packets=None):
        self.container, self.stream, self.packets = container, stream, packets
        self._frames = self._decode()
        self._first = first = next(self._frames, None)
        if first is None:
            raise MediaError(f"{name_of(container)}: none of its sound can be decoded; is it complete?")
        rate, channels = first.sample_rate, first.layout.nb_channels
        if not (0 < rate <= MAX_RATE and 0 < channels <= MAX_CHANNELS):
            raise MediaError(f"{name_of(container)}: claims {channels} channels at {rate} Hz; it is damaged or must be converted")
        context = stream.codec_context
        lossless = is_lossless(context.name)
        self.format = SoundFormat(
            _container(container), _sample_format(context, first.format.name) if lossless else None, rate, channels, None, lossless
        )
        self.layout = _layout(first.layout)
        self._zero = first.pts or 0
        self.start = self._zero * stream.time_base
        self._position = 0  # samples since the start, of the next frame

    @property
    def expected(self):
        duration = self.container.duration
        return None if not duration or duration < 0 else duration * self.format.rate // av.time_base

    def skip(self, frames):
        super().skip(frames)
        rate, early = self.format.rate, self.format.rate  # a second of run-up, for decoders that need the past
        exact = self.container.format.name.startswith("mov,") and self.stream.time_base == Fraction(1, rate)
        if exact and frames > 30 * rate:  # timestamps count samples: jumping is exact
            self.packets = None
            self.container.seek(self._zero + frames - early, stream=self.stream)
            again = self._decode()
            first = next(again, None)
            if first is not None and first.pts is not None and 0 <= first.pts - self._zero <= frames:
                self._first, self._frames = first, again
                self._position = first.pts - self._zero
                super().skip(frames - self._position)
            else:
                raise MediaError(f"{name_of(self.container)}: nothing can be decoded at {float(Fraction(frames, rate))} s; is it complete?")

    def _decode(self):
        try:
            for packet in self.packets or self.container.demux(self.stream):
                yield from decode(packet)  # of damage, nothing: the gap becomes silence by the clock
            if not self.packets:
                return
        except (av.error.InvalidDataError, av.error.EOFError):
            pass  # cut off: what the decoder still holds is whole
        try:
            yield from self.stream.decode(None)
        except (av.error.InvalidDataError, av.error.EOFError):
            pass

    def _chunks(self):
        first, rate, position = self._first, self.format.rate, self._position
        base = self.stream.time_base
        up, down = base.numerator * rate, base.denominator  # one tick is up/down samples
        jitter, longest = -int(-_GAP * down * rate // 1), down * rate * _LONGEST_GAP
        name, channels = first.format.name, first.layout.nb_channels
        fifo, block, convert, converter = av.AudioFifo(), self.block, None, None
        frame = first
        self._first = None
        while frame is not None:
            pts = frame.pts
            if pts is not None and jitter <= (pts - self._zero) * up - position * down <= longest:
                if fifo.samples:
                    yield self._array(fifo.read(0, partial=True))
                missing = round(Fraction((pts - self._zero) * up, down)) - position
                position += missing
                yield from silence(missing, channels, self._dtype(name))
            frame.pts = None  # else the queue would insist on its own clock
            # Checked here because the queue would read planes that a frame with fewer channels does not have.
            if frame.sample_rate == rate and frame.format.name == name and frame.layout.nb_channels == channels:
                fifo.write(frame)
                position += frame.samples
            else:  # the stream changed its mind: all of it gets the form of its beginning
                key = frame.sample_rate, frame.format.name, frame.layout.name
                if convert != key:
                    convert, converter = key, av.AudioResampler(format=name, layout=first.layout, rate=rate)
                for part in converter.resample(frame):
                    part.pts, part.time_base = None, base
                    fifo.write(part)
                    position += part.samples
            while fifo.samples >= block:
                yield self._array(fifo.read(block))
            frame = next(self._frames, None)
        if fifo.samples:
            yield self._array(fifo.read(0, partial=True))

    def _dtype(self, name):
        if not self.format.lossless:
            return "float32"
        return {"u8": "int16", "s16": "int16", "s32": "int32", "flt": "float32"}.get(name.rstrip("p"), "float64")

    def _array(self, frame):
        array, name = frame.to_ndarray(), frame.format.name
        array = array.T if frame.format.is_planar else array.reshape(-1, self.format.channels)
        if name.startswith("u8"):
            array = (array.astype(np.int16) - 128) << 8
        elif name.startswith("s64"):
            array = array * 2.0**-63
        return array if self.format.lossless or array.dtype == np.float32 else to_float(array, "float32")


def decode_sound(container, stream, packets=None) -> DecodedSound:
    """Decode the sound `stream` of an open `container` (from its beginning) as a :class:`SoundReader`.

    `packets`: those of the stream, where they have been read already.
    Sound begins with its first decoded sample and runs on; timestamps that leave a gap of 50 ms or more against
    the samples so far become silence, smaller and backward jumps are ignored, and what cannot be decoded is
    passed over.  Raises :class:`MediaError` if nothing can be decoded.
    """
    return DecodedSound(container, stream, packets)


@contextmanager
def open_sound(path):
    """Open the sound of `path`, a sound file or a video; the context's value is a :class:`SoundReader`.

    Raises :class:`MediaError` if it is no media, has no sound, or is damaged beyond use.
    """
    file = sndfile(path)
    if file is not None:
        with file:
            yield _FileSound(path, file)
        return
    with open_input(path) as container:
        stream = best_audio(container)
        if stream is None:
            raise MediaError(f"{name_of(container)}: has no sound; give a file that has")
        yield decode_sound(container, stream)


def sound_format(path) -> SoundFormat:
    """Return what the sound of `path` is made of, from its header and first samples."""
    with open_sound(path) as sound:
        return sound.format


def read_sound(path, start=None, end=None, limit: int = 1 << 29):
    """Return ``(samples, rate)``: float32 (frames, channels) of `path`, samples i with start <= i/rate < end.

    `start` and `end` in seconds, None for all.  Raises :class:`MediaError` if there is nothing, or more than
    `limit` samples (all channels together).
    """
    with open_sound(path) as sound:
        rate, channels = sound.format.rate, sound.format.channels
        parts, count = [], 0
        for chunk in span(sound, start, end):
            count += len(chunk)
            if count * channels > limit:
                raise MediaError(f"{show(path)}: more than {limit} samples to hold in memory; cut it first")
            parts.append(to_float(chunk, "float32"))
    if not parts:
        return np.zeros((0, channels), np.float32), rate
    return np.concatenate(parts), rate


def span(sound: SoundReader, start, end):
    """Yield the chunks of `sound` with start <= i/rate < end (seconds, exact; None: open)."""
    rate = sound.format.rate
    first = 0 if start is None else max(0, -(-Fraction(start) * rate // 1))
    left = None if end is None else -(-Fraction(end) * rate // 1) - first
    if left is not None and left <= 0:
        return
    if first:
        if sound.format.frames is not None and first >= sound.format.frames:
            return
        sound.skip(first)
    for chunk in sound:
        if left is not None:
            chunk = chunk[:left]
            left -= len(chunk)
        yield chunk
        if left == 0:
            return


def silence(frames: int, channels: int, dtype):
    """Yield `frames` zero samples as chunks."""
    block = max(1, BLOCK // channels)
    for at in range(0, frames, block):
        yield np.zeros((min(block, frames - at), channels), dtype)


def to_float(chunk, dtype):
    """Return `chunk` as floats of full scale 1; what is not finite (damaged float sound) becomes silence."""
    if chunk.dtype.kind == "i":
        return np.multiply(chunk, 2.0 ** (1 - 8 * chunk.dtype.itemsize), dtype=dtype)
    chunk = chunk.astype(dtype, copy=False)
    with np.errstate(all="ignore"):
        doubtful = not np.isfinite(chunk.sum())  # far cheaper than asking every sample
    if doubtful:
        chunk = np.where(np.isfinite(chunk), chunk, chunk.dtype.type(0))
    return chunk


def sndfile(path):
    """Open `path` with libsndfile if it is a PCM or FLAC file, else return None."""
    if not os.path.isfile(path):
        return None  # the caller's other way of opening says what is wrong
    import soundfile

    try:
        file = soundfile.SoundFile(os.path.abspath(os.fsencode(path)))  # a bare "-" would be standard input
    except (soundfile.SoundFileError, OSError, ValueError, TypeError):
        return None
    known = file.format in _SNDFILE_READS and file.subtype in SNDFILE_SUBTYPES
    if known and 0 < file.samplerate <= MAX_RATE and 0 < file.channels <= MAX_CHANNELS and file.frames >= 0:
        return file
    file.close()
    if known:
        raise MediaError(
            f"{show(path)}: its header claims {file.channels} channels at {file.samplerate} Hz; it is damaged or must be converted first"
        )
    return None


def _layout(layout) -> str | None:
    """Return the name of an FFmpeg layout; None where its channels are only counted."""
    if layout.nb_channels <= 2:
        return _LAYOUTS[layout.nb_channels]
    return None if "channels" in layout.name else layout.name


def _container(container) -> str:
    """Return the suffix of a container that is a sound file, else FFmpeg's own name for it."""
    name = container.format.name.split(",")[0]
    known = {"wav": ".wav", "w64": ".w64", "flac": ".flac", "aiff": ".aiff", "caf": ".caf", "mp3": ".mp3", "ogg": ".ogg",
             "aac": ".aac", "wv": ".wv"}  # fmt: skip
    return known.get(name, name)


def _sample_format(context, decoded: str) -> str:
    """Return the sample format of a lossless stream whose decoder gives frames of the format `decoded`."""
    name, header = decoded.rstrip("p"), context.extradata or b""
    if name == "s32":
        bits = 32
        if context.name == "alac" and len(header) >= 18:
            bits = header[17]
        elif context.name == "flac" and len(header) >= 14:
            bits = ((header[12] & 1) << 4 | header[13] >> 4) + 1
        elif "24" in context.name or context.name in ("truehd", "mlp", "tak", "tta", "ape", "wmalossless"):
            bits = 24
        return "s24" if bits <= 24 else "s32"
    return {"u8": "u8", "s16": "s16", "flt": "f32"}.get(name, "f64")


# --- writing --------------------------------------------------------------------------------------------


def default_sample_format(suffix: str, like: str | None) -> str:
    """Return the sample format nearest to `like` (None: lossy) that a file with `suffix` can hold."""
    like = like or "s16"
    return "s24" if suffix == ".flac" and like in ("s32", "f32", "f64") else like


def quantise(chunk, sample_format: str):
    """Return `chunk` as the array type of `sample_format` (module's docstring), rounded to nearest and clipped."""
    dtype = np.dtype(_DTYPES[sample_format])
    if chunk.dtype == dtype and sample_format in ("s16", "s32", "f32", "f64"):
        return chunk
    if dtype.kind == "f":
        return to_float(chunk, dtype)
    bits = BITS[sample_format]
    if chunk.dtype.kind == "i" or bits == 32:
        chunk = to_float(chunk, "float64")
    top = chunk.dtype.type(2 ** (bits - 1))
    scaled = chunk * top
    np.rint(scaled, out=scaled)
    np.clip(scaled, -top, top - 1, out=scaled)
    if np.isnan(scaled.min(initial=0)):
        np.nan_to_num(scaled, copy=False)
    unused = 8 * dtype.itemsize - bits
    return scaled.astype(dtype) << unused if unused else scaled.astype(dtype)


@contextmanager
def write_sound(out, suffix, rate, channels, sample_format=None, layout=None, frames=None):
    """Create the sound file `out` of the kind that `suffix` names; the context's value takes chunks.

    The value is a function of one chunk (frames, channels).  `sample_format` (lossless kinds; default s16) is one
    of SAMPLE_FORMATS.  `layout`: FFmpeg's name of the speakers, None if unknown.  `frames`: about how many will
    come, if known; decides whether room is kept for more than 4 GiB.  Failures of the disk are ``OSError`` with
    their errno and `out`; a combination that the kind of file cannot hold is a :class:`MediaError`.  `out` is flushed and
    closed at the end; after an error it is there but worthless.
    """
    suffix, sample_format = suffix.lower(), sample_format or "s16"
    _check_output(suffix, rate, channels, sample_format)
    guard = _Guard(open(out, "w+b"), out)
    try:
        if suffix == ".wav":
            sink = _Wav(guard, rate, channels, sample_format, layout, frames)
        elif suffix in _SNDFILE_WRITES:
            sink = _Sndfile(guard, suffix, rate, channels, sample_format)
        else:
            sink = _Encoder(guard, suffix, rate, channels, layout)
        try:
            yield sink.write
        except BaseException:
            sink.abandon()
            raise
        sink.close()
        guard.close()
    except Exception:
        guard.check()  # the disk's failure tells more than what it led to in a library
        raise
    finally:
        guard.close_quietly()


def encodable_rate(suffix: str, rate: int) -> int:
    """Return the rate (Hz) nearest above `rate`, else below, that files with `suffix` can have."""
    if suffix in _ENCODERS:
        rates = av.Codec(_ENCODERS[suffix], "w").audio_rates or [rate]
        return min((r for r in rates if r >= rate), default=max(rates))
    return rate


def _check_output(suffix, rate, channels, sample_format):
    if suffix not in WRITABLE:
        raise MediaError(f"{suffix}: sound cannot be written as such; use one of {' '.join(sorted(WRITABLE))}")
    if not 0 < rate <= MAX_RATE:
        raise MediaError(f"sound of {rate} Hz cannot be written; choose a rate of at most {MAX_RATE} Hz")
    if sample_format not in SAMPLE_FORMATS:
        raise MediaError(f"unknown sample format {sample_format}; use one of {' '.join(SAMPLE_FORMATS)}")
    if suffix == ".flac":
        if sample_format not in ("u8", "s16", "s24"):
            raise MediaError(f"FLAC cannot hold {sample_format}; use u8, s16 or s24, or --suffix .wav")
        if channels > 8 or rate > 655350:
            raise MediaError(f"FLAC cannot hold {channels} channels at {rate} Hz; use --suffix .wav")
    if suffix in _ENCODERS and encodable_rate(suffix, rate) != rate:
        raise MediaError(f"{suffix} cannot hold {rate} Hz; use {encodable_rate(suffix, rate)} Hz or --suffix .wav")
    if channels > {".mp3": 2, ".m4a": 8, ".aac": 8, ".opus": 8, ".ogg": 255}.get(suffix, MAX_CHANNELS):
        raise MediaError(f"{suffix} cannot hold {channels} channels; use --channels 1 or --suffix .wav")


class _Guard:
    """A file for libraries that call back to write and lose our exceptions: it remembers the first one."""

    def __init__(self, file, out):
        self.file, self.name, self.error = file, os.fspath(out), None

    def _do(self, function, *arguments):
        if self.error is None:
            try:
                return function(*arguments)
            except Exception as error:  # noqa: BLE001  kept, and raised by check()
                self.error = error
        return 0

    def write(self, data):
        return self._do(self.file.write, data)

    def seek(self, offset, whence=0):
        return self._do(self.file.seek, offset, whence)

    def tell(self):
        return self._do(self.file.tell)

    def read(self, size=-1):
        return self._do(self.file.read, size) or b""

    def readinto(self, buffer):
        return self._do(self.file.readinto, buffer)

    def flush(self):
        self._do(self.file.flush)

    def close(self):
        self._do(self.file.close)
        self.check()

    def check(self):
        if isinstance(self.error, OSError):
            raise OSError(self.error.errno, self.error.strerror, self.name) from self.error
        if self.error is not None:
            raise self.error

    def close_quietly(self):
        try:
            self.file.close()
        except OSError:
            pass  # closed before, or a failure that has been raised already


class _Wav:
    """WAV, written here: libsndfile would put the time of day into float files and keep no channel mask."""

    def __init__(self, guard, rate, channels, sample_format, layout, frames):
        self.guard, self.format, self.data = guard, sample_format, 0
        size = _BYTES[sample_format]
        self.frame_bytes = size * channels
        self.large = frames is None or frames * self.frame_bytes >= 1 << 30  # keep room for RF64's sizes
        kind = 3 if sample_format[0] == "f" else 1
        body = (rate, min(rate * self.frame_bytes, 2**32 - 1), self.frame_bytes, 8 * size)
        if channels > 2:
            guid = struct.pack("<I", kind) + bytes.fromhex("00001000800000aa00389b71")
            form = struct.pack("<HHIIHHHHI", 0xFFFE, channels, *body, 22, 8 * size, _mask(layout)) + guid
        else:
            form = struct.pack("<HHIIHH", kind, channels, *body)
        self.form = struct.pack("<4sI", b"fmt ", len(form)) + form
        self.has_fact = kind == 3
        self._put(self._header())

    def _header(self):
        size = self.data
        fact = struct.pack("<4sII", b"fact", 4, min(size // self.frame_bytes, 2**32 - 1)) if self.has_fact else b""
        room = 36 if self.large else 0
        riff = 4 + room + len(self.form) + len(fact) + 8 + size + size % 2
        if riff < 2**32 - 1:
            extra = struct.pack("<4sI28x", b"JUNK", 28) if self.large else b""
            return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + extra + self.form + fact + struct.pack("<4sI", b"data", size)
        if not self.large:
            raise MediaError("the sound is longer than expected and than a WAV file can hold; use --suffix .flac or .w64")
        extra = struct.pack("<4sIQQQI", b"ds64", 28, riff, size, size // self.frame_bytes, 0)
        most = 2**32 - 1
        return struct.pack("<4sI4s", b"RF64", most, b"WAVE") + extra + self.form + fact + struct.pack("<4sI", b"data", most)

    def write(self, chunk):
        array = quantise(chunk, self.format)
        if self.format == "u8":
            array = ((array >> 8) + 128).astype(np.uint8)
        elif self.format == "s24":
            array = np.ascontiguousarray(array, "<i4").view(np.uint8).reshape(-1, 4)[:, 1:]
        else:
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        data = array.tobytes()
        self._put(data)
        self.data += len(data)

    def _put(self, data):
        self.guard.write(data)
        self.guard.check()

    def close(self):
        if self.data % 2:
            self._put(b"\0")
        self.guard.seek(0)
        self._put(self._header())

    def abandon(self):
        pass


class _Sndfile:
    """FLAC, AIFF, CAF, W64 and Ogg Vorbis, through libsndfile."""

    def __init__(self, guard, suffix, rate, channels, sample_format):
        import soundfile

        self.guard, self.format, self.soundfile = guard, sample_format, soundfile
        kind = _SNDFILE_WRITES[suffix]
        # Vorbis blocks are small because libsndfile keeps each on its stack.
        self.block = 4096 if kind == "OGG" else None
        names = {name: key for key, name in SNDFILE_SUBTYPES.items()}  # "u8" -> PCM_U8
        subtype = "VORBIS" if kind == "OGG" else names[sample_format]
        if subtype == "PCM_U8" and kind != "W64":
            subtype = "PCM_S8"
        if kind == "OGG":
            self.format = "f32"
        try:
            self.file = soundfile.SoundFile(guard, "w", rate, channels, subtype, format=kind)
        except (soundfile.SoundFileError, ValueError) as error:
            guard.check()
            raise MediaError(f"{suffix} cannot hold {channels} channels of {sample_format} at {rate} Hz; use --suffix .wav") from error
        # The PEAK chunk of float files holds the time of day, and equal sounds should be equal files.
        soundfile._snd.sf_command(self.file._file, 0x1050, soundfile._ffi.NULL, 0)

    def write(self, chunk):
        array = np.ascontiguousarray(quantise(chunk, self.format))
        try:
            step = self.block or max(1, len(array))
            for at in range(0, len(array), step):
                self.file.write(array[at : at + step])
        except self.soundfile.SoundFileError as error:
            self.guard.check()
            raise MediaError(f"its sound cannot be written in this form ({error}); use --suffix .wav") from error
        finally:
            self.guard.check()

    def close(self):
        try:
            self.file.close()
        finally:
            self.guard.check()

    def abandon(self):
        try:
            self.file.close()
        except (self.soundfile.SoundFileError, OSError):
            pass


class _Encoder:
    """Lossy kinds, through FFmpeg's encoders."""

    def __init__(self, guard, suffix, rate, channels, layout):
        layout = layout or _LAYOUTS.get(channels)
        if layout is None:
            raise MediaError(f"{suffix} needs to know the speakers of {channels} channels; use --channels 1 or --suffix .wav")
        self.guard, self.rate, self.layout, self.position = guard, rate, layout, 0
        self.container = av.open(guard, "w", format=MUXERS[suffix], container_options={"fflags": "+bitexact"})
        self.stream = stream = self.container.add_stream(_ENCODERS[suffix], rate=rate)
        stream.layout = layout
        stream.bit_rate = channels * min(64000 if suffix == ".opus" else 96000, 8 * rate // channels)
        stream.codec_context.thread_count = 1

    def write(self, chunk):
        for at in range(0, len(chunk), 1 << 16):
            part = to_float(chunk[at : at + (1 << 16)], "float32")
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part).reshape(1, -1), format="flt", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.position, Fraction(1, self.rate)
            self.position += len(part)
            try:
                self.container.mux(self.stream.encode(frame))
            finally:
                self.guard.check()

    def close(self):
        try:
            self.container.mux(self.stream.encode(None))
            self.container.close()
        finally:
            self.guard.check()

    def abandon(self):
        try:
            self.container.close()
        except Exception:  # noqa: BLE001  the first error tells more
            pass


def _mask(layout) -> int:
    """Return the WAV channel mask of an FFmpeg layout; 0 (unassigned) where WAV has no bits for it in that order."""
    if layout is None:
        return 0
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    bits = [_SPEAKERS.index(name) for name in names if name in _SPEAKERS]
    return sum(1 << bit for bit in bits) if len(bits) == len(names) and bits == sorted(set(bits)) else 0
