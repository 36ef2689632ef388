"""What the augmentations do to pictures: arrays (T, H, W, 3), RGB, uint8 or float in [-1, 1], to new arrays of the same kind.

Each function does what its arguments say and draws nothing; what is drawn, and from which ranges: :mod:`.operations`.
"""

import numpy as np

CELLS = 6  # of the random mask, along the shorter side
THRESHOLD = 127  # of a mask's 0 to 255: lossy encoding leaves small values where nothing is


def grey(video: np.ndarray):
    """The value that stands for zero in the networks' range [-1, 1]."""
    return 128 if video.dtype == np.uint8 else 0


def cell_of(video: np.ndarray) -> tuple[int, int, int]:
    """Side of a random mask's cell in pixels, and how many there are down and across (the last ones may be cut off)."""
    height, width = video.shape[1:3]
    cell = max(1, min(height, width) // CELLS)
    return cell, -(-height // cell), -(-width // cell)


def random_mask(video: np.ndarray, cells: list[int]) -> np.ndarray:
    """Make the `cells` (numbered row by row; of :func:`cell_of`) grey in all frames."""
    cell, down, across = cell_of(video)
    covered = np.zeros(down * across, bool)
    covered[cells] = True
    covered = covered.reshape(down, across).repeat(cell, 0).repeat(cell, 1)[: video.shape[1], : video.shape[2]]
    made = video.copy()
    made[:, covered] = grey(video)
    return made


def shift(video: np.ndarray, frames: int) -> np.ndarray:
    """Show everything `frames` later; what leaves at the end comes first."""
    return np.roll(video, frames, axis=0)


def stall(video: np.ndarray, start: int, frames: int) -> np.ndarray:
    """Show frame `start` for `frames` frames; what follows comes later, and what comes too late is cut off."""
    times = np.concatenate([np.arange(start), np.full(frames, start), np.arange(start + 1, len(video))])
    return video[times[: len(video)]]


def paste(video: np.ndarray, masklet, first: int, frames: int, start: int, scale: float, x: int, y: int) -> np.ndarray:
    """Put frames [`first`, `first` + `frames`) of a :class:`.pool.Masklet` onto the frames from `start` on.

    The corner of what its boxes cover over that time comes to pixel (`x`, `y`), its sizes times `scale`.  Only pixels inside
    of its mask change.
    """
    made = video.copy()
    height, width = video.shape[1:3]
    left, top, _, _ = masklet.extent(first, frames)
    for k in range(frames):
        box = masklet.boxes[first + k]
        if not masklet.visible[first + k] or min(box[2:]) <= 0:
            continue
        w, h = (max(1, round(float(side) * scale)) for side in box[2:])
        at_x, at_y = x + round(float(box[0] - left) * scale), y + round(float(box[1] - top) * scale)
        # Only what is inside of the frame: rounding may put an edge one pixel beyond
        x0, y0, x1, y1 = max(at_x, 0), max(at_y, 0), min(at_x + w, width), min(at_y + h, height)
        if x0 >= x1 or y0 >= y1:
            continue
        part = np.s_[y0 - at_y : y1 - at_y, x0 - at_x : x1 - at_x]
        inside = nearest(masklet.masks[first + k], h, w)[part] > THRESHOLD
        pixels = bilinear(masklet.frames[first + k], h, w)[part]
        pixels = np.rint(pixels).astype(np.uint8) if video.dtype == np.uint8 else (pixels / 127.5 - 1).astype(video.dtype)
        made[start + k, y0:y1, x0:x1][inside] = pixels[inside]
    return made


def nearest(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`image` (h, w) at another size."""
    down = ((np.arange(height) + 0.5) * image.shape[0] / height).astype(int)
    across = ((np.arange(width) + 0.5) * image.shape[1] / width).astype(int)
    return image[down[:, None], across]


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`image` (h, w, 3) at another size, float32; pixels are squares, whose centres are what is interpolated."""
    image = image.astype(np.float32)
    for axis, size in enumerate((height, width)):
        old = image.shape[axis]
        if size == old:
            continue
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), max(old - 2, 0))
        share = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        image = image.take(low, axis) * (1 - share) + image.take(np.minimum(low + 1, old - 1), axis) * share
    return image
