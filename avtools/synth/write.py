"""Clips and masks as files; the same clip always gives the same bytes.  Sound files: `media.soundfiles`."""

import itertools
from fractions import Fraction

import av
import numpy as np

from avtools.media.container import open_output

from . import picture
from .scene import Clip, Thing

CRF, PRESET = 18, "veryfast"
BIT_RATE = 64_000  # of each channel
# Intensity stereo and noise substitution would blur sides and onsets.
AAC = {"aac_coder": "fast", "aac_is": "0", "aac_pns": "0"}


def write_clip(clip: Clip, mixture, out) -> None:
    """Write `clip` as MP4 to `out`: H.264 4:2:0 and AAC of `mixture`, int16 (samples, 2); both begin at time 0."""
    with open_output(out, ".mp4", {"movie_timescale": str(clip.rate)}) as output:
        # x264's macroblock tree gave other bytes for the same pictures in about one clip of 400
        options = {"crf": str(CRF), "preset": PRESET, "bf": "0", "x264-params": "mbtree=0"}
        show = _video(output, clip, "libx264", "yuv420p", options)
        audio = output.add_stream("aac", rate=clip.rate, options=AAC)
        audio.codec_context.layout, audio.codec_context.bit_rate = "stereo", 2 * BIT_RATE
        base, heard = Fraction(1, clip.rate), 0
        for number, frame in enumerate(picture.frames(clip)):
            show(frame)
            if number % 16 == 15 or number + 1 == clip.frames:  # the sound up to here
                end = min(clip.samples, round((number + 1) / clip.fps * clip.rate))
                sound = np.ascontiguousarray(mixture[heard:end].T, np.float32) / np.float32(32768)
                part = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
                part.sample_rate, part.time_base, part.pts = clip.rate, base, heard
                output.mux(audio.encode(part))
                heard = end
        show(None)
        output.mux(audio.encode(None))


def write_mask(clip: Clip, thing: Thing, out) -> list[list[int]]:
    """Write an object's masks as Matroska (FFV1, gray, 0 and 255) to `out`; its box (`picture.box_of`) in each frame."""
    boxes = []
    with open_output(out, ".mkv", {"fflags": "+bitexact"}) as output:  # else the file gets a random number inside
        show = _video(output, clip, "ffv1", "gray", {"level": "1"})
        for mask in picture.masks(clip, thing):
            boxes.append(picture.box_of(mask))
            show(mask)
        show(None)
    return boxes


def _video(output, clip: Clip, encoder: str, pix_fmt: str, options: dict):
    """Add a stream at the clip's rate; a function that takes the frames one by one as arrays, at the end None."""
    stream = output.add_stream(encoder, rate=clip.fps, options=options)
    context, base, numbers = stream.codec_context, 1 / clip.fps, itertools.count()
    (context.width, context.height), context.pix_fmt = clip.size, pix_fmt
    context.time_base, context.gop_size, context.thread_count = base, max(1, round(clip.fps)), 1
    stream.time_base = base

    def show(array) -> None:
        frame = None
        if array is not None:
            frame = av.VideoFrame.from_ndarray(array, format=pix_fmt)
            frame.time_base, frame.pts, frame.duration = base, next(numbers), 1
        output.mux(stream.encode(frame))

    return show
