"""Sound cut, resampled, and taken out of videos, sample-exactly and in bounded memory.

Files are written to `out` as named (a temporary name, whatever its suffix); the caller syncs and renames it.
Failures of the output's disk are ``OSError`` with their errno, everything else a :class:`MediaError` of one line.
"""

import os
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
import soxr

from avtools.errors import MediaError

from .container import MAX_RATE, best_audio, best_video, media_errors, open_input, show
from .probe import check_pace, scan, skip_others
from .soundfiles import (  # noqa: F401  the reading side is part of this module's interface
    BLOCK,
    SAMPLE_FORMATS,
    SoundFormat,
    decode_sound,
    default_sample_format,
    encodable_rate,
    open_sound,
    read_sound,
    silence,
    sound_format,
    span,
    to_float,
    write_sound,
)
from .suffixes import LOSSLESS, WRITABLE

_LONGEST = 30 * 86400  # seconds of picture; beyond it a timestamp is damaged
_IN_MEMORY = 1 << 25  # bytes of packets that are kept rather than read again
_CONTEXT = 1024  # samples at the lower rate on each side that the resampling filter may look at (it needs fewer)
_DEFAULTS = {3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def output_suffix(form: SoundFormat, suffix: str | None = None) -> str:
    """Return the suffix of what is made of a sound: `suffix` if given, a lossless file's own kind, else ".wav"."""
    if suffix:
        suffix = suffix.lower()
        return suffix if suffix.startswith(".") else "." + suffix
    return form.container if form.lossless and form.container in WRITABLE else ".wav"


def conforms(sound, rate=None, channels="keep", sample_format=None) -> bool:
    """Say whether a sound already is what is asked for, so that the file can be linked as it is.

    `sound` is a SoundFormat, or anything else with `rate` and `channels` if no `sample_format` is asked for.
    """
    return (
        rate in (None, sound.rate)
        and channels in ("keep", None, sound.channels)
        and (sample_format is None or sample_format == getattr(sound, "sample_format", None))
    )


def extract_sound(video, out, rate: int, channels: int | str = 1, suffix: str = ".wav", sample_format: str = "s16") -> SoundFormat:
    """Write the sound of a video so that it lies exactly under its picture; return what was written.

    Sample 0 is at the first displayed frame, and there are round(duration of the picture * rate) samples: earlier
    and later sound is cut off, missing sound is silence.  The sound is placed to the nearest sample of its own
    rate, and filtered with what lies before the cut.  `channels`: a count or "keep".
    Raises :class:`MediaError` if the video has no sound or no picture.
    """
    _check_rate(rate)
    with _files(video, out), open_input(video, demux_only=True) as container:
        stream = best_audio(container)
        if best_video(container) is None:
            raise MediaError(f"{show(video)}: has no picture; use `resample` for sound files")
        if stream is None:
            raise MediaError(f"{show(video)}: has no sound; leave it out, or filter with `probe --require audio`")
        packets, size = [], 0

        def keep(packet):
            nonlocal size
            size += packet.size
            packets.append(packet) if size <= _IN_MEMORY else packets.clear()

        picture = scan(container, sound=False, listen=keep)[0].picture
        check_pace(video, picture)
        if picture.duration is None or picture.duration > _LONGEST:
            raise MediaError(f"{show(video)}: its picture has no usable duration; is it a still image, or damaged?")
        if size <= _IN_MEMORY:
            sound = decode_sound(container, stream, packets)
            return _extract(video, sound, picture, out, rate, channels, suffix, sample_format)
        with open_input(video) as again:
            stream = best_audio(again)
            skip_others(again, [stream])
            sound = decode_sound(again, stream)
            return _extract(video, sound, picture, out, rate, channels, suffix, sample_format)


def _extract(video, sound, picture, out, rate, channels, suffix, sample_format):
    frames, suffix = round(picture.duration * rate), output_suffix(sound.format, suffix)
    ratio = Fraction(rate, sound.format.rate)
    begin = round((picture.start - sound.start) * sound.format.rate)  # the source's sample under the first frame
    # Start earlier by whole numbers of samples at both rates, and drop those after resampling: even before silence,
    # because soxr's first few samples are a little weak.
    steps = -(-_context(sound.format.rate, rate) // ratio.denominator) if ratio != 1 else 0
    mixer = _Mixer(video, sound, channels)
    with write_sound(out, suffix, rate, mixer.outputs, sample_format, mixer.layout, frames) as write:
        chunks = _floats(_from(sound, begin - steps * ratio.denominator), _working_type(sound.format))
        for chunk in mixer.resampled(chunks, sound.format.rate, rate, steps * ratio.numerator, frames):
            write(chunk)
    return SoundFormat(suffix, _written(suffix, sample_format), rate, mixer.outputs, frames, suffix in LOSSLESS)


def resample_file(src, out, rate: int, channels: int | str = "keep", sample_format=None, suffix=None) -> SoundFormat:
    """Write the sound file `src` with another rate (Hz), channel count or sample format; return what was written.

    There are round(n * rate / rate of src) samples.  By default the channels, the sample format and the kind of a
    lossless file are kept, and a lossy one becomes 16-bit WAV; `suffix` chooses another kind.  Channels: to one is
    their mean, from one a copy to each, else FFmpeg's standard mix, scaled so that it cannot clip.
    """
    _check_rate(rate)
    with _files(src, out), open_sound(src) as sound:
        form = sound.format
        suffix = output_suffix(form, suffix)
        sample_format = sample_format or default_sample_format(suffix, form.sample_format)
        mixer = _Mixer(src, sound, channels)
        count = 0
        with write_sound(out, suffix, rate, mixer.outputs, sample_format, mixer.layout, _scaled(sound.expected, rate, form.rate)) as write:
            chunks = sound
            if rate != form.rate or mixer.changes:
                chunks = mixer.resampled(_floats(sound, _working_type(form)), form.rate, rate)
            for chunk in chunks:
                write(chunk)
                count += len(chunk)
        return SoundFormat(suffix, _written(suffix, sample_format), rate, mixer.outputs, count, suffix in LOSSLESS)


def cut_file(src, out, start=None, end=None, suffix=None) -> SoundFormat:
    """Write the samples i of the sound file `src` with start <= i/rate < end (seconds; None: open).

    Return what was written.  A lossless file keeps its kind, sample format and every bit; a lossy one becomes
    16-bit WAV unless `suffix` says otherwise.  Nothing is padded.  Raises :class:`MediaError` if nothing is left.
    """
    with _files(src, out), open_sound(src) as sound:
        form = sound.format
        suffix = output_suffix(form, suffix)
        sample_format = default_sample_format(suffix, form.sample_format)
        rate = encodable_rate(suffix, form.rate)
        chunks = span(sound, start, end)
        first = next(chunks, None)
        if first is None:
            raise MediaError(f"{show(src)}: nothing of it lies from {_seconds(start, 0)} to {_seconds(end, 'its end')}; choose another span")
        chunks = _chain(first, chunks)
        if rate != form.rate:
            chunks = _resampled(_floats(chunks, "float32"), form.rate, rate, form.channels, "float32")
        count, layout = 0, sound.layout if form.channels > 2 else None
        with write_sound(out, suffix, rate, form.channels, sample_format, layout, _span_frames(sound, start, end)) as write:
            for chunk in chunks:
                write(chunk)
                count += len(chunk)
        return SoundFormat(suffix, _written(suffix, sample_format), rate, form.channels, count, suffix in LOSSLESS)


# --- parts ----------------------------------------------------------------------------------------------


@contextmanager
def _files(src, out):
    """Like media_errors, but every message names `src`, and whatever fails at `out` stays an ``OSError``, even where
    the open input took the blame for it."""
    try:
        with media_errors(src, out):
            yield
    except MediaError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.filename == os.fspath(out):
            raise cause from None
        if show(src) not in str(error):
            raise MediaError(f"{show(src)}: {error}") from error
        raise


def _check_rate(rate):
    if not (isinstance(rate, int) and 0 < rate <= MAX_RATE):
        raise MediaError(f"{rate} is no sound rate; choose whole Hz up to {MAX_RATE}")


def _seconds(value, otherwise):
    return otherwise if value is None else f"{float(value):g} s"


def _written(suffix, sample_format):
    return sample_format if suffix in LOSSLESS else None


def _scaled(frames, rate_out, rate_in):
    return None if frames is None else round(Fraction(frames * rate_out, rate_in))


def _span_frames(sound, start, end):
    """Return how many samples a span has at most; None if only decoding can tell."""
    most = [sound.expected] if sound.expected is not None else []
    if end is not None:
        most.append(int((Fraction(end) - Fraction(start or 0)) * sound.format.rate) + 1)
    return min(most, default=None)


def _chain(first, rest):
    yield first
    yield from rest


def _from(sound, begin: int):
    """Yield the sound's chunks from its sample `begin` on; silence stands before its first."""
    if begin > 0:
        sound.skip(begin)
    else:
        yield from silence(-begin, sound.format.channels, "float32")
    yield from sound


def _working_type(form) -> str:
    """Return the float type that holds the sound's samples exactly."""
    return "float64" if form.sample_format in ("s24", "s32", "f64") else "float32"


def _floats(chunks, dtype):
    for chunk in chunks:
        yield to_float(chunk, dtype)


class _Mixer:
    """Makes `outputs` channels of a sound's; `channels` is a count or "keep"."""

    def __init__(self, path, sound, channels):
        self.inputs = inputs = sound.format.channels
        self.outputs = outputs = inputs if channels in ("keep", None) else int(channels)
        self.changes = inputs != outputs
        # Only more than two channels need their speakers named.
        self.layout = sound.layout if not self.changes and inputs > 2 else None if outputs <= 2 else _DEFAULTS.get(outputs)
        self.matrix = None
        if outputs < 1:
            raise MediaError(f"{outputs} channels cannot be; use --channels 1 or --channels keep")
        if self.changes and 1 not in (inputs, outputs):
            self.matrix = _mix_matrix(path, sound.layout, inputs, outputs)

    def __call__(self, chunk):
        if not self.changes:
            return chunk
        if self.inputs == 1:
            return np.repeat(chunk, self.outputs, axis=1)
        # Column by column: chunks are often planar, and BLAS would start threads.
        if self.matrix is None:
            mean = chunk[:, 0] + chunk[:, 1]
            for k in range(2, self.inputs):
                mean += chunk[:, k]
            mean /= self.inputs
            return mean[:, None]
        mixed = np.zeros((len(chunk), self.outputs), chunk.dtype)
        for row, weights in enumerate(self.matrix):
            for k in np.flatnonzero(weights):
                mixed[:, row] += chunk[:, k] * chunk.dtype.type(weights[k])
        return mixed

    def resampled(self, chunks, rate_in, rate_out, drop=0, frames=None):
        """Mix and resample `chunks`, with the fewer channels of the two."""
        if self.outputs <= self.inputs:
            return _resampled(map(self, chunks), rate_in, rate_out, self.outputs, None, drop, frames)
        return map(self, _resampled(chunks, rate_in, rate_out, self.inputs, None, drop, frames))


def _mix_matrix(path, layout, inputs, outputs):
    """Return FFmpeg's standard mix as weights (outputs, inputs), scaled so that full scale cannot clip."""
    target = "stereo" if outputs == 2 else _DEFAULTS.get(outputs)
    if layout is None or target is None:
        raise MediaError(
            f"{show(path)}: no standard mix of its {inputs} channels ({layout or 'speakers unknown'}) to {outputs}; "
            "use --channels 1 or --channels keep"
        )
    unit = av.AudioFrame.from_ndarray(np.eye(inputs).reshape(1, -1), format="dbl", layout=layout)
    unit.sample_rate = 48000
    parts = av.AudioResampler(format="dbl", layout=target).resample(unit)
    matrix = np.concatenate([part.to_ndarray().reshape(-1, outputs) for part in parts]).T
    return matrix / max(1.0, np.abs(matrix).sum(axis=1).max())


def _context(rate_in, rate_out) -> int:
    """Return how many source samples the filter may look at on one side."""
    return min(_CONTEXT * -(-rate_in // min(rate_in, rate_out)), 1 << 20)


def _resampled(chunks, rate_in, rate_out, channels, dtype=None, drop=0, frames=None):
    """Yield `chunks` (float, (n, channels)) at another rate, in phase: what was at time t stays at t.

    The first `drop` results are left out.  With `frames`, exactly so many follow, silence at the end if need be,
    and no more is read than they need; else round(n * rate_out / rate_in) - drop.
    """
    read = made = given = 0

    def due(result):
        """Return the part of `result` to yield, at most up to the wanted number."""
        nonlocal made, given
        result = result[max(0, drop - made) :] if made < drop else result
        if wanted is not None:
            result = result[: wanted - given]
        given += len(result)
        return result

    wanted, stream, last_type = frames, None, dtype or "float32"
    for chunk in chunks:
        last_type = chunk.dtype
        if stream is None and rate_in != rate_out:
            stream = _stream(rate_in, rate_out, channels, chunk.dtype)
        step = len(chunk) if stream is None else max(1, min(BLOCK, BLOCK * rate_in // rate_out) // channels)
        for at in range(0, len(chunk), max(1, step)):
            part = chunk[at : at + step]
            read += len(part)
            result = part if stream is None else stream.resample_chunk(np.ascontiguousarray(part))
            new = due(result)
            made += len(result)
            if len(new):
                yield new
            if wanted is not None and given >= wanted:
                return
    if wanted is None:
        wanted = round(Fraction(read * rate_out, rate_in)) - drop
    if stream is not None:
        # Silence behind the end lets the filter ring out; the last of it also lets go of all results.
        left = _context(rate_in, rate_out)
        step = max(1, min(BLOCK, BLOCK * rate_in // rate_out) // channels)
        while left and given < wanted:
            part = np.zeros((min(step, left), channels), last_type)
            left -= len(part)
            result = stream.resample_chunk(part, last=not left)
            new = due(result)
            made += len(result)
            if len(new):
                yield new
    yield from silence(wanted - given, channels, last_type)


def _stream(rate_in, rate_out, channels, dtype):
    try:
        return soxr.ResampleStream(rate_in, rate_out, channels, dtype=dtype.name, quality="VHQ")
    except (ValueError, RuntimeError) as error:
        raise MediaError(f"sound of {channels} channels cannot go from {rate_in} to {rate_out} Hz ({error}); choose a nearer rate") from error
