"""Masks of all frames from those of some, carried by optical flow: no weights, no GPU.

Between two annotated frames both masks are carried to each frame by dense inverse search (Kroeger et al. 2016,
arXiv:1603.03590; OpenCV), the nearer one counting more; an object is seen there only where it is in both, as in the spec
(JavisDiT data side, section 2.2).  After the last annotated frame its mask alone is carried on.
"""

from collections.abc import Iterable

import numpy as np

from . import selection
from .annotations import Annotated
from .reading import Shape
from .selection import Found, Packed
from .writing import import_cv2

SIDE = 512  # pixels of the longer side in which motion is looked for
LEAST_SIDE = 32  # below which dense inverse search has no room for its patches
MARGIN = 0.25  # of a box, which an object may leave between two annotated frames


def carried(objects: list[Annotated], grays: Iterable[np.ndarray], shape: Shape) -> list[Found]:
    """The objects with masks for all frames; `grays`: each frame's light, (H, W) uint8.  Holds the frames of one interval."""
    found = [Found(one.number, [None] * shape.frames) for one in objects]
    keys = sorted({frame for one in objects for frame in one.masks})
    for one, made in zip(objects, found, strict=True):
        for frame, mask in one.masks.items():
            made.masks[frame] = mask
    ends = dict(zip(keys, [*keys[1:], None]))
    motion = _Motion(shape)
    begin, held = None, []
    for number, gray in enumerate(grays):
        if number in ends:
            if begin is not None:
                _between(objects, found, begin, number, [*held, motion.small(gray)], motion)
            begin, held = number, []
        if begin is not None:
            held.append(motion.small(gray))
            if ends[begin] is None and number > begin:  # the tail: one frame at a time
                _onward(found, number, held, motion)
                held = held[-1:]
    return found


def _between(objects, found: list[Found], a: int, b: int, grays: list[np.ndarray], motion: "_Motion") -> None:
    both = [k for k, one in enumerate(objects) if one.masks.get(a) is not None and one.masks.get(b) is not None]
    if b - a < 2 or not both:
        return
    backward, forward = [None] * len(grays), [None] * len(grays)  # of each frame, where its pixels were in a, are in b
    for step in range(1, b - a):
        backward[step] = motion.chain(motion.flow(grays[step], grays[step - 1]), backward[step - 1])
    for step in range(b - a - 1, 0, -1):
        forward[step] = motion.chain(motion.flow(grays[step], grays[step + 1]), forward[step + 1])
    for k in both:
        one, other = objects[k].masks[a], objects[k].masks[b]
        region = motion.region([one.box, other.box])
        for step in range(1, b - a):
            share = step / (b - a)
            soft = (1 - share) * motion.warp(one, backward[step], region) + share * motion.warp(other, forward[step], region)
            found[k].masks[a + step] = selection.pack(soft >= 0.5, region[0], region[1])


def _onward(found: list[Found], number: int, grays: list[np.ndarray], motion: "_Motion") -> None:
    seen = [one for one in found if one.masks[number - 1] is not None]
    if not seen:
        return
    flow = motion.flow(grays[1], grays[0])
    for one in seen:
        mask = one.masks[number - 1]
        region = motion.region([mask.box])
        one.masks[number] = selection.pack(motion.warp(mask, flow, region) >= 0.5, region[0], region[1])


class _Motion:
    """Flows at a small size, masks at their own."""

    def __init__(self, shape: Shape):
        self.cv2 = import_cv2()
        self.height, self.width = shape.height, shape.width
        scale = min(1.0, SIDE / max(shape.height, shape.width))
        self.size = max(1, round(shape.width * scale)), max(1, round(shape.height * scale))
        self.dis = self.cv2.DISOpticalFlow_create(self.cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) if min(self.size) >= LEAST_SIDE else None
        self.grid = np.stack(np.meshgrid(np.arange(self.size[0], dtype=np.float32), np.arange(self.size[1], dtype=np.float32)), -1)

    def small(self, gray: np.ndarray) -> np.ndarray:
        return self.cv2.resize(gray, self.size, interpolation=self.cv2.INTER_AREA) if gray.shape[::-1] != self.size else gray

    def flow(self, of: np.ndarray, to: np.ndarray) -> np.ndarray:
        """(h, w, 2): how far from each pixel of `of` it lies in `to`."""
        if self.dis is not None:
            return self.dis.calc(of, to, None)
        return self.cv2.calcOpticalFlowFarneback(of, to, None, 0.5, 2, 9, 3, 5, 1.1, 0)

    def chain(self, step: np.ndarray, further: np.ndarray | None) -> np.ndarray:
        """One step, and from there the rest of the way."""
        if further is None:
            return step
        at = self.grid + step
        return step + self.cv2.remap(further, at[..., 0], at[..., 1], self.cv2.INTER_LINEAR, borderMode=self.cv2.BORDER_REPLICATE)

    def region(self, boxes: list[list[int]]) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of where an object that was in `boxes` can be."""
        wide, high = (int(MARGIN * max(box[side] for box in boxes)) + 16 for side in (2, 3))
        left, top = (max(0, min(box[side] for box in boxes) - more) for side, more in ((0, wide), (1, high)))
        right = min(self.width, max(box[0] + box[2] for box in boxes) + wide)
        bottom = min(self.height, max(box[1] + box[3] for box in boxes) + high)
        return left, top, right, bottom

    def warp(self, mask: Packed, flow: np.ndarray, region: tuple[int, int, int, int]) -> np.ndarray:
        """How much (0 to 1) of each pixel of the region comes from `mask` along `flow`: (bottom - top, right - left) float32."""
        left, top, right, bottom = region
        scales = self.size[0] / self.width, self.size[1] / self.height
        x, y = np.meshgrid(np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32))
        at = [((one + 0.5) * scale - 0.5).astype(np.float32) for one, scale in ((x, scales[0]), (y, scales[1]))]
        moved = self.cv2.remap(flow, *at, self.cv2.INTER_LINEAR, borderMode=self.cv2.BORDER_REPLICATE)
        source = mask.crop().astype(np.float32)
        from_x, from_y = (one + moved[..., axis] / scales[axis] - start for axis, (one, start) in enumerate(((x, mask.x), (y, mask.y))))
        return self.cv2.remap(source, from_x, from_y, self.cv2.INTER_LINEAR, borderMode=self.cv2.BORDER_CONSTANT, borderValue=0)
