"""Whether a video encoder takes the options that were asked for, before any file is touched."""

import contextlib
import functools
import os

import av

from avtools.errors import UsageError

#: What keeps an encoder from reporting on standard error.
QUIET = {"libx265": {"x265-params": "log-level=none"}}


@functools.cache
def check_encoder(encoder: str, crf: float | None, preset: str | None) -> None:
    """Open `encoder` once on a small picture; raise UsageError where it is unknown or refuses its options."""
    try:
        codec = av.Codec(encoder, "w")
    except (av.error.FFmpegError, ValueError):
        codec = None
    if codec is None or codec.type != "video":
        raise UsageError(f"--encoder {encoder}: there is no such video encoder here; libx264 is")
    context = codec.create()
    context.width, context.height, context.framerate = 64, 64, 25
    context.pix_fmt = codec.video_formats[0].name if codec.video_formats else "yuv420p"
    given = {"crf": str(crf) if crf is not None else None, "preset": preset}
    context.options = {**QUIET.get(encoder, {}), **{name: value for name, value in given.items() if value is not None}}
    try:
        with _silence():
            context.open()
    except (av.error.FFmpegError, ValueError):
        raise UsageError(f"--encoder {encoder} does not take --preset {preset} with --crf {crf:g}") from None


@contextlib.contextmanager
def _silence():
    """Let x264 and x265 say nothing on standard error: what they say is said better above."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(null)
        os.close(kept)
