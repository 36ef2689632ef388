"""The picture of a clip: shapes that act out their sounds before a slowly drifting texture.

Frame k shows the scene at k/fps; a frame during which an event falls shows it at the event: the contact, and
an object that lights up, brightest in that very frame.  Frames are made many at a time: arrays are (frames,
height, width), luma and chroma as in 8-bit BT.601.  Objects of one clip never overlap.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from .scene import COLOURS, FLOOR, KINDS, Clip, Thing

BLOCK = 1 << 20  # pixels made at a time
REACH = 1.8  # radii from its place within which an object stays, left and right
GLOW = 0.07  # seconds in which its light fades to a third
NEVER = 1000  # seconds, about, to an onset that there is not


def frames(clip: Clip) -> Iterator[np.ndarray]:
    """Yield the frames as planar 4:2:0: uint8 (height * 3 / 2, width), luma above the two chroma planes."""
    width, height = clip.size
    background = _Background(clip)
    for numbers in _blocks(clip):
        luma = background.luma(numbers / float(clip.fps))
        chroma = [np.full((len(numbers), height // 2, width // 2), tint, np.float32) for tint in background.tint]
        for thing in clip.things:
            moment = _moment(clip, thing, numbers)
            cover, shade = _coverage(clip, thing, moment)
            area = _columns(clip, thing)
            colour, light = _yuv(COLOURS[thing.colour]), 0.85 * moment.glow
            shown = colour[0] * shade + (235 - colour[0] * shade) * light
            luma[:, :, area] += cover * (shown - luma[:, :, area])
            halves = slice(area.start // 2, area.stop // 2)
            cover = (cover[:, ::2] + cover[:, 1::2]) / 2
            cover = (cover[:, :, ::2] + cover[:, :, 1::2]) / 2
            for plane, value in zip(chroma, colour[1:], strict=True):
                plane[:, :, halves] += cover * (128 + (value - 128) * (1 - light) - plane[:, :, halves])
        planes = [(plane + np.float32(0.5)).astype(np.uint8).reshape(len(numbers), -1) for plane in (luma, *chroma)]
        yield from np.concatenate(planes, 1).reshape(len(numbers), height * 3 // 2, width)


def masks(clip: Clip, thing: Thing) -> Iterator[np.ndarray]:
    """Yield the mask of an object for each frame: uint8 (height, width), 255 where it covers half a pixel or more."""
    width, height = clip.size
    for numbers in _blocks(clip):
        cover, _ = _coverage(clip, thing, _moment(clip, thing, numbers))
        block = np.zeros((len(numbers), height, width), np.uint8)
        block[:, :, _columns(clip, thing)] = (cover >= 0.5) * np.uint8(255)
        yield from block


def box_of(mask) -> list[int]:
    """The smallest [x, y, width, height] (pixels) that holds all that is set in `mask`; zeros where nothing is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def _blocks(clip: Clip) -> Iterator[np.ndarray]:
    step = max(1, BLOCK // (clip.size[0] * clip.size[1]))
    for start in range(0, clip.frames, step):
        yield np.arange(start, min(start + step, clip.frames))


def _yuv(rgb) -> tuple[float, float, float]:
    r, g, b = (value / 255 for value in rgb)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return 16 + 219 * y, 128 + 224 * (b - y) / 1.772, 128 + 224 * (r - y) / 1.402


# --- the background -----------------------------------------------------------------------------------------


class _Background:
    """Four long waves that drift, a fine grain that stays, and a darker floor."""

    def __init__(self, clip: Clip):
        width, height = clip.size
        draw = clip.draws("background")
        angle, length = draw.uniform(0, 2 * np.pi, (4, 1, 1)), height * draw.uniform(0.25, 0.8, (4, 1, 1))
        y, x = np.arange(height)[:, None], np.arange(width)
        phase = 2 * np.pi * ((np.cos(angle) * x + np.sin(angle) * y) / length + draw.uniform(size=(4, 1, 1)))
        light = np.where(np.arange(height) < FLOOR * height, 1, 0.6)[:, None]
        self.still = ((draw.uniform(45, 62) + draw.uniform(-4, 4, (height, width))) * light).astype(np.float32)
        self.waves = (np.concatenate([np.cos(phase), np.sin(phase)]) * 3.5 * light).astype(np.float32)
        self.speed = 2 * np.pi * draw.uniform(0.05, 0.25, 4) * draw.choice((-1, 1), 4)  # radians per second
        self.tint = tuple(draw.uniform(120, 136, 2).astype(np.float32))

    def luma(self, times):
        turn = self.speed * times[:, None]
        weights = np.concatenate([np.cos(turn), np.sin(turn)], 1).astype(np.float32)
        # not a matrix product: its rounding would depend on the number of threads
        return np.einsum("tk,kyx->tyx", weights, self.waves) + self.still


# --- what objects do ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Moment:
    """An object's state in some frames; arrays (frames, 1, 1).

    `since`, `till`: seconds from the last onset and to the next, or NEVER.  `held`: whether
    a held sound lasts; `part`: how much of the last one is over, 0 to 1.  `past`: onsets so far.  `glow`: 0 to 1.
    """

    since: np.ndarray
    till: np.ndarray
    held: np.ndarray
    part: np.ndarray
    past: np.ndarray
    glow: np.ndarray

    def away(self, time: float):
        """0 at every onset, 1 from `time` seconds before and after it (halfway between two at the latest)."""
        time = np.minimum(time, (self.since + self.till) / 2)
        return np.minimum(1, np.minimum(self.since, self.till) / time)


def _moment(clip: Clip, thing: Thing, numbers) -> _Moment:
    times = numbers / float(clip.fps)
    onsets = np.array(thing.onsets) / clip.rate
    lit = np.array([clip.frame_at(onset) for onset in thing.onsets])
    past = np.searchsorted(lit, numbers, side="right")
    shown = np.concatenate([[-NEVER * float(clip.fps)], lit])[past]  # the last event's frame
    ends = np.concatenate([[-NEVER], onsets, [NEVER]])
    times = np.where(numbers == shown, ends[past], times)
    since, till = times - ends[past], ends[past + 1] - times
    lengths = np.concatenate([[1], thing.lengths])[past] / clip.rate
    held = (since < lengths) & KINDS[thing.kind].held
    glow = np.maximum(np.exp((shown - numbers) / float(clip.fps) / GLOW), 0.3 * held)
    part = np.minimum(1, since / lengths)
    return _Moment(*(np.float32(value)[:, None, None] for value in (since, till, held, part, past, glow)))


def _columns(clip: Clip, thing: Thing) -> slice:
    """The columns within which an object stays; even numbers."""
    centre, reach = thing.x * clip.size[0], REACH * thing.radius
    return slice(max(0, int(centre - reach) // 2 * 2), min(clip.size[0], int(centre + reach + 3) // 2 * 2))


def _coverage(clip: Clip, thing: Thing, moment: _Moment):
    """How much of each pixel the object covers, 0 to 1, (frames, height, columns), and its shading, about 0.4 to 1."""
    area = _columns(clip, thing)
    y = np.float32((np.arange(clip.size[1]) + 0.5 - thing.y * clip.size[1]) / thing.radius)[:, None]
    x = np.float32((np.arange(area.start, area.stop) + 0.5 - thing.x * clip.size[0]) / thing.radius)
    if thing.kind == "ball":  # it alone flies: 0.48 of the height
        y = y + (1 - (1 - moment.away(0.35)) ** 2) * np.float32(0.48 * clip.size[1] / thing.radius)
    distance, shade = _SHAPES[thing.kind](x, y, moment)
    distance = np.broadcast_to(distance, (len(moment.since), *distance.shape[-2:]))
    return np.clip(0.5 - distance * np.float32(thing.radius), 0, 1), shade


# Shapes: the distance of points (x, y) from the object's edge, negative inside, and its shading.  Lengths are in
# radii from its place, y downward.


def _turned(x, y, angle):
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _bar(x, y, x1, y1):
    """Distance from the line from (0, 0) to (x1, y1)."""
    along = np.clip((x * x1 + y * y1) / (x1 * x1 + y1 * y1), 0, 1)
    return np.hypot(x - along * x1, y - along * y1)


def _ball(x, y, m):
    """Falls, is squashed on the floor, rises."""
    squash = np.float32(0.25) * np.exp(-m.since / 0.05)
    return np.hypot(x / (1 + squash), (y - squash) / (1 - squash)) - 1, 1


def _bell(x, y, m):
    """Hangs from a point and swings; at the strokes it is farthest out."""
    half = np.minimum(0.4, (m.since + m.till) / 2)
    out, back = (np.cos(np.pi / 2 * np.minimum(1, time / half)) for time in (m.since, m.till))
    x, y = _turned(x, y + 1.1, np.float32(0.35) * (back - out) * (1 - 2 * (m.past % 2)))
    body = np.maximum(np.maximum(np.abs(x) - (0.25 + 0.33 * y), y - 1.75), -y)
    return np.minimum(body, np.hypot(x, y - 1.9) - 0.25), 1


def _drum(x, y, m):
    """A skin with a dark rim; it shrinks at each hit."""
    r = np.hypot(x, y) / (1.1 - np.float32(0.4) * np.exp(-m.since / 0.09))
    return r - 1, np.where(np.abs(r - 0.78) < 0.09, np.float32(0.45), 1)


def _woodblock(x, y, m):
    """Two bars that clap together."""
    gap = np.float32(0.55) * m.away(0.2)
    return np.maximum(np.abs(np.abs(x) - 0.32 - gap) - 0.32, np.abs(y) - 1), 1


def _horn(x, y, m):
    """A ring that widens around its centre while the tone lasts."""
    width = np.where(m.held > 0, 0.3 + 0.7 * m.part, np.exp(-np.maximum(0, m.since - 0.25) / 0.1) * (m.part == 1))
    r = np.hypot(x, y)
    return np.minimum(np.abs(r - 0.7 - np.float32(0.45) * width) - 0.17, r - 0.28), 1


def _siren(x, y, m):
    """A lamp on a dark foot; a beam goes round in it while it howls."""
    lamp = np.maximum(np.hypot(x, y - 0.3) - 0.95, y - 0.3)
    foot = np.maximum(np.abs(x) - 1.15, np.abs(y - 0.5) - 0.22)
    beam = np.where(m.held > 0, np.float32(0.7) + np.float32(0.3) * np.cos(3 * x - 20 * m.part), np.float32(0.7))
    return np.minimum(lamp, foot), np.where(y < 0.3, beam, np.float32(0.4))


def _bird(x, y, m):
    """Lifts its wings at each chirp and flaps."""
    angle = np.where(m.held > 0, np.float32(0.9) * np.cos(44 * m.since), np.float32(-0.6))
    wing = _bar(np.abs(x) - 0.25, y + 0.1, np.cos(angle), -np.sin(angle)) - 0.2
    return np.minimum(wing, (np.hypot(x / 0.45, y / 0.7) - 1) * 0.45), 1


def _rattle(x, y, m):
    """A head on a stick, shaken about the stick's foot."""
    angle = np.where(m.held > 0, np.float32(0.45) * np.cos(50 * m.since), 0)
    x, y = _turned(x, y - 1.1, angle)
    head, stick = np.hypot(x, y + 1.45) - 0.75, np.maximum(np.abs(x) - 0.17, np.maximum(y, -y - 1.45))
    return np.minimum(head, stick), 1


_SHAPES = {
    "ball": _ball,
    "bell": _bell,
    "drum": _drum,
    "woodblock": _woodblock,
    "horn": _horn,
    "siren": _siren,
    "bird": _bird,
    "rattle": _rattle,
}
