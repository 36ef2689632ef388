"""What is in a clip: every fact, drawn before anything is rendered.

All draws come from (seed, clip's index, purpose) alone, so a clip does not depend on how many others are
made, in which order, or where.  Places are fractions of the picture (x from the left, y from the top).
"""

import dataclasses
import hashlib
from fractions import Fraction

import numpy as np

from avtools.errors import UsageError


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A class of objects.

    `sound`: what it is heard as, one and several.  `length`: shortest and longest sound, seconds.  `held`: its
    picture lasts as long as its sound; else it is struck, and only the sound rings on.
    """

    verb: str
    sound: tuple[str, str]
    length: tuple[float, float]
    held: bool = False


KINDS = {
    "ball": Kind("bounces", ("low thump", "low thumps"), (0.2, 0.2)),
    "bell": Kind("swings", ("bell stroke", "bell strokes"), (0.9, 0.9)),
    "drum": Kind("is hit", ("drum beat", "drum beats"), (0.3, 0.3)),
    "woodblock": Kind("claps", ("wooden clap", "wooden claps"), (0.1, 0.1)),
    "horn": Kind("blows", ("horn tone", "horn tones"), (0.25, 0.5), held=True),
    "siren": Kind("howls", ("siren wail", "siren wails"), (0.35, 0.6), held=True),
    "bird": Kind("flaps", ("high chirp", "high chirps"), (0.15, 0.28), held=True),
    "rattle": Kind("shakes", ("hissing rattle", "hissing rattles"), (0.2, 0.4), held=True),
}
SIDES = {"left": 0.22, "centre": 0.5, "right": 0.78}
COLOURS = {  # RGB, 0 to 255
    "red": (200, 40, 35),
    "orange": (215, 115, 25),
    "yellow": (190, 170, 30),
    "green": (40, 145, 55),
    "cyan": (30, 150, 165),
    "blue": (45, 75, 200),
    "purple": (125, 50, 165),
    "pink": (205, 90, 140),
}

MAX_SECONDS, MAX_SIDE, MIN_SIDE, MIN_FPS = 60, 3840, 32, 5
GAP = 0.25  # seconds between two onsets of one object, at least
REST = 0.1  # silence between two held sounds; from the last onset, or the last held sound, to the end
LEAD = 0.15  # before the first onset
MOST = 20  # events of one object
FLOOR = 0.86  # where the ball lands


@dataclasses.dataclass(frozen=True, slots=True)
class Thing:
    """An object of a clip.

    `x`, `y`: its resting place; `radius`: pixels.  `onsets`: the first sample of each sound; `lengths`: samples
    of each (the clip's end may cut the last one short).  `pitch`: factor on the frequencies; `level`: peak of
    its sounds before panning and the clip's gain.
    """

    number: int
    kind: str
    colour: str
    side: str
    x: float
    y: float
    radius: float
    onsets: tuple[int, ...]
    lengths: tuple[int, ...]
    pitch: float
    level: float


@dataclasses.dataclass(frozen=True)
class Clip:
    """Clip `index` of the data set: `frames` frames of `size` (width, height) pixels at `fps`, `samples` stereo samples at `rate`."""

    seed: int
    index: int
    size: tuple[int, int]
    fps: Fraction
    rate: int
    frames: int
    samples: int
    things: tuple[Thing, ...] = ()

    def draws(self, purpose: str) -> np.random.Generator:
        """A generator of random numbers for this clip and `purpose`."""
        return draws(self.seed, self.index, purpose)

    def frame_at(self, sample: int) -> int:
        """The frame that is shown when `sample` is heard."""
        return int(Fraction(sample, self.rate) * self.fps)

    def seconds(self, sample: int) -> float:
        return float(Fraction(sample, self.rate))


def draws(*what) -> np.random.Generator:
    digest = hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def check(options: dict) -> None:
    """Raise UsageError where no clips can be made with these options."""
    width, height = options["size"]
    if not 1 <= options["seconds"] <= MAX_SECONDS:
        raise UsageError(f"--seconds {float(options['seconds']):g}: give 1 to {MAX_SECONDS}")
    if not MIN_FPS <= options["fps"] <= 240:
        raise UsageError(f"--fps {float(options['fps']):g}: give {MIN_FPS} to 240")
    if width % 2 or height % 2 or not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise UsageError(f"--size {width}x{height}: give even numbers from {MIN_SIDE} to {MAX_SIDE} (4:2:0 halves them)")


def kinds_of(seed: int, index: int, objects: int) -> list[str]:
    """The classes of a clip's objects, the main one first; each run of 8 clips has every main class once."""
    block, place = divmod(index, len(KINDS))
    main = int(draws(seed, "classes", block).permutation(len(KINDS))[place])
    others = [k for k in draws(seed, index, "others").permutation(len(KINDS)) if k != main]
    return [list(KINDS)[k] for k in (main, *others[: objects - 1])]


def clip_of(options: dict, index: int) -> Clip:
    """The facts of clip `index` under the command's `options`."""
    seed, size, rate, objects = options["seed"], options["size"], options["rate"], options["objects"]
    fps = Fraction(options["fps"])
    frames = round(Fraction(options["seconds"]) * fps)
    clip = Clip(seed, index, size, fps, rate, frames, samples=round(frames / fps * rate))
    common = clip.draws("scene")
    sides, colours = common.permutation(list(SIDES)), common.permutation(list(COLOURS))
    things = []
    for number, kind in enumerate(kinds_of(seed, index, objects)):
        draw = clip.draws(f"object {number}")
        radius = min(0.14 * size[1], 0.1 * size[0]) * (1 if objects == 1 else 0.7) * draw.uniform(0.85, 1.1)
        x = SIDES[sides[number]] + draw.uniform(-0.02, 0.02)
        y = FLOOR - radius / size[1] if kind == "ball" else draw.uniform(0.36, 0.58)
        pitch, level = 2 ** draw.uniform(-1 / 6, 1 / 6), draw.uniform(0.25, 0.4)
        onsets, lengths = _times(clip, KINDS[kind], draw)
        things.append(
            Thing(number, kind, str(colours[number]), str(sides[number]), x, y, radius, onsets, lengths, pitch, level)
        )
    return dataclasses.replace(clip, things=tuple(things))


def _times(clip: Clip, kind: Kind, draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Onsets and lengths in samples: at random, on no grid, far enough from one another and from the ends."""
    room = clip.samples / clip.rate - LEAD
    count = int(draw.integers(1, min(MOST, max(2, int(2 * room))), endpoint=True))
    lengths = draw.uniform(*kind.length, MOST)
    spans = np.maximum(GAP, lengths + REST) if kind.held else np.full(MOST, GAP)
    last = lengths + REST if kind.held else np.full(MOST, REST)
    while count > 1 and spans[: count - 1].sum() + last[count - 1] > room:
        count -= 1
    slack = room - spans[: count - 1].sum() - last[count - 1]
    onsets = LEAD + np.sort(draw.uniform(0, max(slack, 0), count)) + np.concatenate([[0], np.cumsum(spans)[: count - 1]])
    return tuple(int(t * clip.rate) for t in onsets), tuple(int(s * clip.rate) for s in lengths[:count])


# --- the facts as cells and words ---------------------------------------------------------------------------

_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
_WHERE = {"left": "on the left", "centre": "in the middle", "right": "on the right"}


def facts(clip: Clip, thing: Thing) -> dict:
    """The cells that tell what an object is and when it sounds; times in seconds."""
    return {
        "class": thing.kind,
        "colour": thing.colour,
        "side": thing.side,
        "events": len(thing.onsets),
        "event_times": [clip.seconds(onset) for onset in thing.onsets],
        "active": [[clip.seconds(a), clip.seconds(b)] for a, b in active(clip, thing)],
    }


def active(clip: Clip, thing: Thing) -> list[list[int]]:
    """The spans of samples, [first, end), in which an object's stem is not silent."""
    spans: list[list[int]] = []
    for onset, length in zip(thing.onsets, thing.lengths, strict=True):
        end = min(onset + length, clip.samples)
        if spans and onset <= spans[-1][1]:
            spans[-1][1] = max(end, spans[-1][1])
        else:
            spans.append([onset, end])
    return spans


def caption(clip: Clip) -> str:
    """"a red ball bounces three times on the left and a blue bell swings once on the right"."""
    return _joined(
        f"{'an' if thing.colour[0] in 'aeiou' else 'a'} {thing.colour} {thing.kind} {KINDS[thing.kind].verb} "
        f"{_how_often(len(thing.onsets))} {_WHERE[thing.side]}"
        for thing in clip.things
    )


def sound_caption(clip: Clip) -> str:
    """"three low thumps on the left and one bell stroke on the right"."""
    return _joined(
        f"{_NUMBERS[len(thing.onsets)]} {KINDS[thing.kind].sound[len(thing.onsets) > 1]} {_WHERE[thing.side]}"
        for thing in clip.things
    )


def _how_often(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count) or f"{_NUMBERS[count]} times"


def _joined(parts) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
