"""Clips and masks as files; the same clip always gives the same bytes.  Sound files: `media.soundfiles`."""

from fractions import Fraction

import av
import numpy as np

from avtools.media.container import open_output

from . import picture
from .scene import Clip, Thing

CRF, PRESET = 18, "veryfast"
BIT_RATE = 64_000  # of each channel


def write_clip(clip: Clip, mixture, out) -> None:
    """Write `clip` as MP4 to `out`: H.264 4:2:0 and AAC of `mixture`, int16 (samples, 2); both begin at time 0."""
    with open_output(out, ".mp4", {"movie_timescale": str(clip.rate)}) as output:
        video = _video(output, clip, "libx264", "yuv420p", {"crf": str(CRF), "preset": PRESET, "bf": "0"})
        audio = output.add_stream("aac", rate=clip.rate, options={"aac_coder": "fast"})
        audio.codec_context.layout, audio.codec_context.bit_rate = "stereo", 2 * BIT_RATE
        sound = np.ascontiguousarray(mixture.T, np.float32) / np.float32(32768)
        heard = 0
        for number, frame in enumerate(picture.frames(clip)):
            _show(output, video, clip, number, frame, "yuv420p")
            end = round((number + 1) / clip.fps * clip.rate)
            if end - heard >= clip.rate // 2 or number + 1 == clip.frames:
                part = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, heard:end]), format="fltp", layout="stereo")
                part.sample_rate, part.time_base, part.pts = clip.rate, Fraction(1, clip.rate), heard
                output.mux(audio.encode(part))
                heard = end
        output.mux(video.encode(None))
        output.mux(audio.encode(None))


def write_mask(clip: Clip, thing: Thing, out) -> list[list[int]]:
    """Write the masks of an object as Matroska (FFV1, gray, 0 and 255) to `out`; its box (see `picture.box_of`) in each frame."""
    boxes = []
    with open_output(out, ".mkv", {"fflags": "+bitexact"}) as output:  # else the file gets a random name inside
        video = _video(output, clip, "ffv1", "gray", {"level": "3"})
        for number, mask in enumerate(picture.masks(clip, thing)):
            boxes.append(picture.box_of(mask))
            _show(output, video, clip, number, mask, "gray")
        output.mux(video.encode(None))
    return boxes


def _video(output, clip: Clip, encoder: str, pix_fmt: str, options: dict):
    stream = output.add_stream(encoder, rate=clip.fps, options=options)
    context = stream.codec_context
    (context.width, context.height), context.pix_fmt = clip.size, pix_fmt
    context.time_base, context.gop_size, context.thread_count = 1 / clip.fps, max(1, round(clip.fps)), 1
    stream.time_base = 1 / clip.fps
    return stream


def _show(output, stream, clip: Clip, number: int, array, pix_fmt: str) -> None:
    frame = av.VideoFrame.from_ndarray(array, format=pix_fmt)
    frame.time_base, frame.pts, frame.duration = 1 / clip.fps, number, 1
    output.mux(stream.encode(frame))
