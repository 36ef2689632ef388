"""Sizes and values of pictures as networks expect them; pictures are float tensors (..., 3, H, W), 0..1, on any device.

Every resize is antialiased and in float.  Bicubic ones overshoot 0..1 a little, and stay so: the released networks and the
published scores have seen it.
"""

import os
import warnings

import numpy as np
import torch
from torch.nn import functional

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def crop_to(frames: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """(..., 3, H, W) -> (..., 3, h, w): the largest middle part of the aspect h:w, bilinear.  AVSyncD's pictures."""
    height, width = frames.shape[-2:]
    if height * w > width * h:
        frames = _middle(frames, max(1, int(width * h / w)), width)
    else:
        frames = _middle(frames, height, max(1, int(height * w / h)))
    return _resize(frames, h, w, "bilinear")


def short_side(frames: torch.Tensor, size: int) -> torch.Tensor:
    """(..., 3, H, W) -> (..., 3, size, size): the shorter side made `size`, bicubic, and the middle of it.  AVSync's pictures."""
    height, width = frames.shape[-2:]
    short = min(height, width)
    frames = _resize(frames, *(size if side == short else int(size * side / short) for side in (height, width)), "bicubic")
    return _middle(frames, size, size)


def squash(frames: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """(..., 3, H, W) -> (..., 3, h, w), bicubic, whatever that does to the aspect: what ASVA's scores are computed of."""
    return _resize(frames, h, w, "bicubic")


def clip_normalise(frames: torch.Tensor) -> torch.Tensor:
    """0..1 -> the scale of CLIP, ImageBind and AVSync: less their mean colour, divided by its deviation."""
    mean, deviation = (frames.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_DEVIATION))
    return (frames - mean) / deviation


def signed(frames: torch.Tensor) -> torch.Tensor:
    """0..1 -> -1..1: the scale of Stable Diffusion's VAE, I3D and Inception."""
    return (frames - 0.5) / 0.5


def picture_of(frame) -> torch.Tensor:
    """A decoded frame of a video, upright, as float32 (3, H, W) of 0..1."""
    from avtools.media.probe import clockwise

    array = np.rot90(frame.to_ndarray(format="rgb24"), -clockwise(frame) // 90)
    return torch.from_numpy(array.transpose(2, 0, 1).copy()).float() / 255


def read_image(path) -> torch.Tensor:
    """An image file, or a video's first frame, as float32 (3, H, W) of 0..1: turned and mirrored as its EXIF says, on white where
    it is transparent, 16 bits of gray as well as 8.  MediaError where it cannot be read.
    """
    from avtools.errors import MediaError
    from avtools.media.container import MAX_PIXELS, best_video, open_input, show
    from avtools.media.probe import skip_others
    from avtools.media.video import shown_frames

    if os.path.isfile(path):
        from PIL import Image, ImageOps

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is checked here, and of odd metadata
            try:
                with Image.open(path, formats=_FORMATS) as image:
                    if image.width * image.height > MAX_PIXELS:
                        raise MediaError(f"{show(path)}: {image.width}x{image.height} pixels are too many; scale it first")
                    return _pixels(ImageOps.exif_transpose(image))
            except Image.UnidentifiedImageError:
                pass  # no image: maybe a video
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise MediaError(f"{show(path)}: the image cannot be read ({' '.join(str(error).split())}); is it complete?") from error
    with open_input(path) as container:
        stream = best_video(container)
        if stream is None:
            raise MediaError(f"{show(path)}: has no picture; give an image")
        skip_others(container, [stream])
        for _, frame in shown_frames(container, stream):
            return picture_of(frame)
    raise MediaError(f"{show(path)}: none of its picture can be decoded; is it complete?")


_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # of Pillow's; some others run programs


def _pixels(image) -> torch.Tensor:
    """A PIL image -> (3, H, W) of 0..1, on white."""
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip
        gray = torch.from_numpy(np.array(image, np.float32) / 65535).clamp(0, 1)
        return gray.expand(3, *gray.shape).contiguous()
    pixels = torch.from_numpy(np.array(image.convert("RGBA")).transpose(2, 0, 1).copy()).float() / 255
    return pixels[:3] * pixels[3:] + (1 - pixels[3:])


def _middle(frames: torch.Tensor, h: int, w: int) -> torch.Tensor:
    top, left = (round((side - wanted) / 2) for side, wanted in zip(frames.shape[-2:], (h, w), strict=True))
    return frames[..., top : top + h, left : left + w]


def _resize(frames: torch.Tensor, h: int, w: int, mode: str) -> torch.Tensor:
    if frames.shape[-2:] == (h, w):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    return functional.interpolate(flat, (h, w), mode=mode, align_corners=False, antialias=True).reshape(*frames.shape[:-2], h, w)
