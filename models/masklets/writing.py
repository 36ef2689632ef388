"""A masklet as files: the crops, the masks of the crops, and what says where they were (spec: JavisDiT data side, section 2.2).

PLACE_masklet_000.mp4  the object's box in each frame, from the first in which it is seen to the last, stretched to one size
PLACE_mask_000.mkv     0 or 255 for each pixel of those (FFV1, gray: no pixel is lost; .mp4 as the originals have it)
PLACE_meta_000.json    video_frame_height, video_frame_width; visible and crop_bbox ([x, y, width, height]) of each of these frames;
                       and, which the originals lack, first_frame, fps, object, query
"""

import json
import os
from contextlib import ExitStack
from fractions import Fraction

import numpy as np

from avtools.errors import FatalError
from avtools.media.container import open_output

from . import selection
from .reading import Shape, pictures

SIZE = 256  # pixels that neither side of the crops exceeds
CRF = 18
MOST = (1 << 16) - 1  # of a rate's numerator and denominator in MPEG-4


def write(path: str, shape: Shape, objects: list[selection.Found], folder: str, *, legacy: bool = False, size: int = SIZE) -> list[dict]:
    """Write objects (each with a span: :func:`selection.span`) of the video `path` to `folder`, in one pass over the video.

    Files are masklet_0.mp4, mask_0.mkv (`legacy`: mask_0.mp4, both of them lossy MPEG-4 part 2), ...; the meta of each is returned.
    """
    import_cv2()
    suffix = mask_suffix(legacy)
    metas = []
    with ExitStack() as stack:
        cuts = []
        for number, found in enumerate(objects):
            first, end = selection.span(found.masks)
            masks = found.masks[first:end]
            width = min(size, max(mask.width for mask in masks if mask is not None))
            height = min(size, max(mask.height for mask in masks if mask is not None))
            crops, cut = (
                stack.enter_context(_Track(os.path.join(folder, f"{kind}_{number}{ending}"), ending, shape.fps, width, height, kind == "mask", legacy))
                for kind, ending in (("masklet", ".mp4"), ("mask", suffix))
            )
            cuts.append((first, end, masks, width, height, crops, cut))
            metas.append(meta_of(found, shape))
        for number, picture in enumerate(pictures(path, shape, threads=2) if objects else ()):
            for first, end, masks, width, height, crops, cut in cuts:
                if first <= number < end:
                    mask = masks[number - first]
                    crops.show(_crop(picture, mask, width, height))
                    cut.show(_cut(mask, width, height))
    return metas


def mask_suffix(legacy: bool) -> str:
    return ".mp4" if legacy else ".mkv"


def meta_of(found: selection.Found, shape: Shape) -> dict:
    """What the JSON of an object says."""
    first, end = selection.span(found.masks)
    masks = found.masks[first:end]
    return {
        "video_frame_height": shape.height,
        "video_frame_width": shape.width,
        "visible": [mask is not None for mask in masks],
        "crop_bbox": [[0, 0, 0, 0] if mask is None else mask.box for mask in masks],
        "first_frame": first,
        "fps": float(_rate(shape.fps)),
        "object": found.number,
        "query": found.query,
    }


def save_json(value, path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)


def import_cv2():
    try:
        import cv2
    except ImportError:
        raise FatalError("masklets need OpenCV; pip install 'avtools[models]'") from None
    cv2.setNumThreads(1)  # the other processors have rows of their own
    return cv2


def _crop(picture: np.ndarray, mask, width: int, height: int) -> np.ndarray:
    """The box of `mask` in (H, W, 3) `picture`, as (height, width, 3); black where it is not seen."""
    cv2 = import_cv2()
    if mask is None:
        return np.zeros((height, width, 3), np.uint8)
    crop = picture[mask.y : mask.y + mask.height, mask.x : mask.x + mask.width]
    if crop.shape[:2] == (height, width):
        return np.ascontiguousarray(crop)
    shrinks = crop.shape[0] >= height and crop.shape[1] >= width
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _cut(mask, width: int, height: int) -> np.ndarray:
    cv2 = import_cv2()
    if mask is None:
        return np.zeros((height, width), np.uint8)
    return cv2.resize(mask.crop().astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _rate(fps: Fraction) -> Fraction:
    """A rate that every container here can write: MPEG-4 counts in 16 bits."""
    if max(fps.numerator, fps.denominator) <= MOST:
        return fps
    fps = min(fps, Fraction(MOST))
    return fps.limit_denominator(min(1001, max(1, int(MOST / fps)))) or Fraction(1)


class _Track:
    """A video file with one stream, that takes pictures as arrays: RGB, or gray for masks."""

    def __init__(self, path: str, suffix: str, fps: Fraction, width: int, height: int, is_mask: bool, legacy: bool):
        self.path, self.suffix, self.base = path, suffix, 1 / _rate(fps)
        self.width, self.height, self.number = width, height, 0
        self.given = "gray" if is_mask else "rgb24"
        odd = width % 2 or height % 2
        if legacy:
            self.encoder, self.pix_fmt, self.options = "mpeg4", "yuv420p", {"qscale": "2"}
        elif is_mask:
            self.encoder, self.pix_fmt, self.options = "ffv1", "gray", {"level": "3"}
        else:  # x264's macroblock tree does not always give the same bytes
            self.encoder, self.pix_fmt = "libx264", "yuv444p" if odd else "yuv420p"
            self.options = {"crf": str(CRF), "preset": "veryfast", "x264-params": "mbtree=0"}

    def __enter__(self):
        self.stack = ExitStack()
        self.output = self.stack.enter_context(open_output(self.path, self.suffix, {"fflags": "+bitexact"}))  # else .mkv has random numbers inside
        self.stream = self.output.add_stream(self.encoder, rate=1 / self.base, options=self.options)
        context = self.stream.codec_context
        context.width, context.height, context.pix_fmt, context.time_base, context.thread_count = self.width, self.height, self.pix_fmt, self.base, 1
        if self.pix_fmt != "gray":
            context.color_range, context.colorspace = 1, 6  # limited, BT.601: what the conversion below makes
        return self

    def show(self, array: np.ndarray) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(array, format=self.given)
        if self.pix_fmt != self.given:
            frame = frame.reformat(format=self.pix_fmt, dst_colorspace="ITU601", dst_color_range="MPEG")
        frame.pts, frame.time_base, frame.duration = self.number, self.base, 1
        self.number += 1
        self.output.mux(self.stream.encode(frame))

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.output.mux(self.stream.encode(None))
        return self.stack.__exit__(kind, error, trace)
