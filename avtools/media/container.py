"""Opening media files: safely named, bounded, and with errors that say what to do.

Nothing here knows of table rows.  Every input is opened with :func:`open_input`, so that odd names,
playlists that pose as clips, and headers that claim absurd sizes are dealt with in one place.
"""

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path

import av
from av.stream import Disposition

from avtools.errors import MediaError

from . import skim

# Demuxers that read one file and nothing else.  Playlists and scripts (hls, dash, concat, imf, sdp, ...)
# are left out on purpose: a "clip" that names other files or hosts must not make us open them.
FORMATS = ",".join(
    """mov mp4 3gp 3g2 matroska webm avi mpegts mpeg mpegvideo mpegtsraw flv live_flv asf ogg nut mxf gxf dv rm
    ivf obu av1 h264 hevc vvc m4v h263 h261 vc1 vc1test yuv4mpegpipe mjpeg gif apng wtv nsv mvi bink smk r3d roq
    wav w64 mp3 flac aac aiff au caf ac3 eac3 ac4 dts dtshd truehd mlp amr amrnb amrwb ape tta tak wv mpc mpc8 opus
    shn voc sox gsm g722 loas latm oma xwma qcp rso spdif iff
    image2 png_pipe jpeg_pipe webp_pipe bmp_pipe tiff_pipe gif_pipe jpegxl_pipe jpegls_pipe j2k_pipe ppm_pipe
    pgm_pipe pbm_pipe pam_pipe qoi_pipe exr_pipe dpx_pipe hdr_pipe sgi_pipe webp jpegxl_anim""".split()
)

MAX_PIXELS = 1 << 28  # 16384 x 16384: beyond any real clip, below what would exhaust a worker's memory
MAX_SIDE = 1 << 15
MAX_RATE = 10_000_000  # Hz
MAX_CHANNELS = 1024

#: Failures of the output's disk; callers must see these as they are, not as a bad input.  Not EPERM: decoders
#: answer damage with it.
OUTPUT_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


def url(path) -> str:
    """Return `path` as FFmpeg must be given it, so that no name is taken for a URL, a pattern or an option."""
    return "file:" + os.fspath(path)


def show(path) -> str:
    """Return `path` on one printable line, for messages."""
    name = os.fsencode(path).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _reason(error: BaseException) -> str:
    """Return FFmpeg's or the system's own words for `error`, without its file name or number."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    words = words.replace(" found when processing input", "")
    return " ".join(words.split())


@contextmanager
def media_errors(path, output=None):
    """Turn what libraries raise while `path` is worked on into a :class:`MediaError` of one line.

    With `output` (the file being written), an ``OSError`` of the disk (full, quota, read-only), or one
    that names the output, passes unchanged, because it is not the input's fault.
    """
    try:
        yield
    except MediaError:
        raise
    except OSError as error:  # includes av's, which derive from both FFmpegError and OSError
        if output is not None and (error.errno in OUTPUT_ERRNOS or error.filename == os.fspath(output)):
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(output)) from error
        raise MediaError(f"{show(path)}: {_reason(error)}; is it complete and readable?") from error
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(f"{show(path)}: cannot be processed ({_reason(error)}); is it complete?") from error
    except MemoryError as error:
        raise MediaError(f"{show(path)}: needs more memory than there is; is its header damaged?") from error


def _check_file(path) -> None:
    try:
        info = os.stat(path)
    except FileNotFoundError as error:
        raise MediaError(f"{show(path)}: no such file; check the path and the folder it is relative to") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the name
        raise MediaError(f"{show(path)}: cannot be opened ({_reason(error)}); check the path") from error
    if stat.S_ISDIR(info.st_mode):
        raise MediaError(f"{show(path)}: is a directory, not a media file; name a file inside it")
    if not stat.S_ISREG(info.st_mode):
        raise MediaError(f"{show(path)}: is not a regular file; copy it to one")
    if info.st_size == 0:
        raise MediaError(f"{show(path)}: is empty (0 bytes); fetch it again")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{show(path)}: may not be read (permission denied); change its mode or owner")


@contextmanager
def open_input(path, options=None, output=None, demux_only=False):
    """Open the media file `path` for reading; the context's value is an ``av`` input container.

    Only the file itself is ever read: no network, and no other file that it may name.  Decoders use one
    thread each.  `options` go to the demuxer.  With `demux_only` opening is much faster where the header
    tells all (see :mod:`.skim`), but the picture's pixel format and colours may be unknown.  Raises
    :class:`MediaError` with one clear line, here and for every FFmpeg error inside the ``with`` block;
    `output` is the file that the block writes, if any (see :func:`media_errors`).
    """
    _check_file(path)
    with media_errors(path, output):
        try:
            container = None
            if demux_only and beginning(path)[4:8] == b"ftyp":
                container = _open(path, {**skim.CONTAINER_OPTIONS, **(options or {})}, skim.STREAM_OPTIONS)
                if not skim.header_tells_all(container):
                    container.close()
                    container = None
            if container is None:
                container = _open(path, options or {}, {})
        except (av.error.FFmpegError, ValueError) as error:
            words = _reason(error)
            if getattr(error, "errno", None) == errno.EINVAL:  # what a format off the whitelist gives
                words = "not a media format that avtools reads"
            raise MediaError(f"{show(path)}: no readable media ({words}); is it complete?") from error
        try:
            for stream in container.streams:
                decoder_threads(stream)
            yield container
        finally:
            container.close()


def _open(path, container_options, stream_options):
    return av.open(
        url(path),
        metadata_errors="replace",
        options=stream_options,
        container_options={
            "protocol_whitelist": "file",
            "format_whitelist": FORMATS,
            "pattern_type": "none",  # image2 would take "%03d" and "*" in names for patterns
            **container_options,
        },
    )


def decoder_threads(stream, count: int = 1) -> None:
    """Let `stream`'s decoder use `count` threads (one: there is one process per core)."""
    context = stream.codec_context
    if context is not None and not context.is_open:
        context.thread_count = count


def _is_cover(stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def best_video(container):
    """Return the video stream that FFmpeg would play, or None; cover art is no video.

    The picture's size is checked (see :func:`check_picture_size`).
    """
    stream = container.streams.best("video")
    if stream is None or _is_cover(stream):
        return None
    if stream.codec_context is None:
        raise MediaError(f"{name_of(container)}: no decoder for its video; convert it first")
    check_picture_size(container, stream.codec_context.width, stream.codec_context.height)
    return stream


def best_audio(container):
    """Return the sound stream that FFmpeg would play, or None.  Its rate and channels are checked."""
    stream = container.streams.best("audio")
    if stream is None:
        return None
    if stream.codec_context is None:
        raise MediaError(f"{name_of(container)}: no decoder for its sound; convert it first")
    check_sound_size(container, stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels)
    return stream


def decode(packet) -> list:
    """Return the frames that `packet` gives; none where it is damaged.

    Decoders answer damage with INVALIDDATA, but with EPERM, EINVAL, ENOSYS and more too.
    """
    try:
        return packet.decode()
    except MemoryError:
        raise
    except av.error.FFmpegError:
        return []


def name_of(container) -> str:
    """Return the path of an open container as messages show it."""
    return show(container.name.removeprefix("file:"))


def check_picture_size(container, width: int, height: int) -> None:
    """Raise :class:`MediaError` unless a frame of `width` x `height` is plausible and safe to allocate."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise MediaError(
            f"{name_of(container)}: its header claims a picture of {width}x{height} pixels; it is damaged or must be scaled first"
        )


def check_sound_size(container, rate: int, channels: int) -> None:
    """Raise :class:`MediaError` unless `rate` (Hz) and `channels` are plausible."""
    if not (0 < rate <= MAX_RATE and 0 < channels <= MAX_CHANNELS):
        raise MediaError(
            f"{name_of(container)}: its header claims {channels} channels at {rate} Hz; it is damaged or must be converted first"
        )


#: Suffix -> FFmpeg's name of the container, for outputs whose temporary names say nothing.
MUXERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".m4a": "ipod",
    ".mov": "mov",
    ".mkv": "matroska",
    ".mka": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
    ".m2ts": "mpegts",
    ".mts": "mpegts",
    ".avi": "avi",
    ".wav": "wav",
    ".flac": "flac",
    ".ogg": "ogg",
    ".opus": "opus",
    ".mp3": "mp3",
    ".aac": "adts",
}


@contextmanager
def open_output(path, suffix: str, options=None):
    """Create `path` as a container of the kind that `suffix` (".mp4", ...) names; the value is an ``av`` output.

    The name of `path` itself says nothing (it is a temporary one).  The trailer is written, and its errors
    raised, on leaving; if the block fails, the block's own error is raised.
    """
    open(path, "ab").close()  # what the directory objects to is an OSError that names `path`
    options = dict(options or {})
    if suffix.lower() in (".m2ts", ".mts"):
        options["mpegts_m2ts_mode"] = "1"
    container = av.open(url(path), "w", format=MUXERS[suffix.lower()], container_options=options)
    try:
        yield container
    except BaseException:
        try:
            container.close()
        except Exception:  # noqa: BLE001  the block's error tells more
            pass
        raise
    container.close()


def beginning(path) -> bytes:
    """Return the first bytes of a file, by which its kind is known whatever its name; none where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(12)
    except (OSError, ValueError):
        return b""


def suffix_of(path) -> str:
    """Return the suffix of `path` in lower case (".mp4")."""
    return Path(path).suffix.lower()
