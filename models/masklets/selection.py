"""Masks packed to their boxes, and which objects and frames are kept (spec: JavisDiT data side, section 2.2)."""

import dataclasses
from typing import NamedTuple

import numpy as np

SMALL = "small"  # SA-V's name of the sizes that are left out
LEAST = 5  # frames from an object's first appearance to its last


class Packed(NamedTuple):
    """A mask: the smallest box that holds all of it, in pixels, and the box's bits, row by row."""

    x: int
    y: int
    width: int
    height: int
    bits: bytes

    @property
    def box(self) -> list[int]:
        return [self.x, self.y, self.width, self.height]

    def crop(self) -> np.ndarray:
        """(height, width) bool: the mask inside its box."""
        count = self.width * self.height
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count).reshape(self.height, self.width).astype(bool)

    def area(self) -> int:
        return int(np.bitwise_count(np.frombuffer(self.bits, np.uint8)).sum())


@dataclasses.dataclass
class Found:
    """An object: `masks` holds one for each frame of the clip, None where it is not seen."""

    number: int | str  # its name among those of its clip
    masks: list[Packed | None]
    query: str = ""

    @property
    def area(self) -> float:
        """Pixels in the frames in which it is seen, on average."""
        areas = [mask.area() for mask in self.masks if mask is not None]
        return sum(areas) / len(areas) if areas else 0.0


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) of the smallest box that holds all that is set in (H, W) `mask`; None where nothing is."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(0))
    return int(columns[0]), top, int(columns[-1]) + 1 - int(columns[0]), bottom - top


def pack(mask: np.ndarray, left: int = 0, top: int = 0) -> Packed | None:
    """(H, W) bool, of which the first pixel is at (`left`, `top`) of the frame, as :class:`Packed`; None where nothing is set."""
    box = box_of(mask)
    if box is None:
        return None
    x, y, width, height = box
    return Packed(left + x, top + y, width, height, np.packbits(mask[y : y + height, x : x + width]).tobytes())


def unpack(packed: Packed | None, height: int, width: int) -> np.ndarray:
    """The mask in its frame: (height, width) bool."""
    mask = np.zeros((height, width), bool)
    if packed is not None:
        mask[packed.y : packed.y + packed.height, packed.x : packed.x + packed.width] = packed.crop()
    return mask


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union of two boxes [x, y, width, height]."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / (one[2] * one[3] + other[2] * other[3] - wide * high)


def by_annotation(buckets: list[str], sizes: list[float], least: float) -> list[int]:
    """Which annotated objects are kept: none that SA-V calls small, and none below `least` of the largest one's size."""
    most = max(sizes, default=0.0)
    return [k for k, (bucket, size) in enumerate(zip(buckets, sizes, strict=True)) if bucket != SMALL and size >= least * most]


def large_enough(objects: list[Found], least: float) -> list[Found]:
    """The same rule for objects without annotations: by the area in which they are seen, on average."""
    most = max((found.area for found in objects), default=0.0)
    return [found for found in objects if found.area and found.area >= least * most]


def span(masks: list[Packed | None]) -> tuple[int, int] | None:
    """(first, end) frame numbers between which an object is seen; None where that is not long enough."""
    seen = [number for number, mask in enumerate(masks) if mask is not None]
    return (seen[0], seen[-1] + 1) if seen and seen[-1] - seen[0] >= LEAST else None
