"""Where each source is seen: layouts and boxes, and the cells that they are on a grid (spec: MAESTRO, section 2.2).

Boxes are fractions of the picture, (left, top, right, bottom), x to the right and y downwards.  Each source has two: the one
that it is drawn to while the picture's composition is made (`soft`), and the one that it fills afterwards (`hard`).  Layouts
have their own of both; a box that the user gives is both.  Nothing here needs torch.
"""

import dataclasses
import json
import math
import re
from typing import NamedTuple

from avtools.errors import RowError, UsageError

SLACK = 1e-6  # by which boxes may overlap: the rounding of what lies between key frames
LATEST = 100_000  # number of a frame in a row's boxes: all before it are looked at
INSET = 0.01  # of the picture, by which soft boxes are smaller on each side before they are cut to cells, as released


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        across = min(self.right, other.right) - max(self.left, other.left)
        return across > SLACK and min(self.bottom, other.bottom) - max(self.top, other.top) > SLACK


_LEFT, _RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
_TOP, _BOTTOM = Box(0, 0, 1, 0.4), Box(0, 0.4, 1, 1)
_BELOW = Box(0, 0.4, 0.5, 1), Box(0.5, 0.4, 1, 1)
_QUADRANTS = (Box(0, 0, 0.5, 0.4), Box(0.5, 0, 1, 0.4), *_BELOW)
#: Name -> (soft boxes, hard boxes): of the first source, the second and so on.  The hard ones fill the picture.
LAYOUTS: dict[str, tuple[tuple[Box, ...], tuple[Box, ...]]] = {
    "lr": ((Box(0, 0.3, 0.5, 0.7), Box(0.5, 0.3, 1, 0.7)), (_LEFT, _RIGHT)),
    "td": ((_TOP, _BOTTOM), (_TOP, _BOTTOM)),
    "three": ((_TOP, *_BELOW), (_TOP, *_BELOW)),
    "quad": (_QUADRANTS, _QUADRANTS),
}
_USUAL = {2: "lr", 3: "three", 4: "quad"}  # number of sources -> layout


class Cells(NamedTuple):
    """Columns left to right - 1, rows top to bottom - 1."""

    left: int
    top: int
    right: int
    bottom: int


def soft_cells(box: Box, grid: tuple[int, int]) -> Cells:
    """The cells of a box on a grid (rows, columns), as released: a little smaller than the box; maybe none."""
    high, wide = grid
    return Cells(*(int((v + INSET) * size) for v, size in zip(box[:2], (wide, high))), *(int((v - INSET) * size) for v, size in zip(box[2:], (wide, high))))


def hard_cells(box: Box, grid: tuple[int, int], whole: bool) -> Cells:
    """The cells of a box on a grid (rows, columns).  Boxes that touch have cells that touch.

    `whole`: edges are rounded down, as released layouts are; else to the nearest cell's.  Maybe none.
    """
    up = SLACK if whole else 0.5 - SLACK
    return Cells(*(math.floor(v * size + up) for v, size in zip(box, (grid[1], grid[0]) * 2)))


def some_cells(box: Box, cells: Cells, grid: tuple[int, int]) -> Cells:
    """`cells`, and where a side has none, the one in which the middle of the box is: no box vanishes on a coarse grid."""
    high, wide = grid
    (left, right), (top, bottom) = (
        (begin, end) if begin < end else (middle := min(int((low + upper) / 2 * size), size - 1), middle + 1)
        for begin, end, low, upper, size in (
            (cells.left, cells.right, box.left, box.right, wide),
            (cells.top, cells.bottom, box.top, box.bottom, high),
        )
    )
    return Cells(left, top, right, bottom)


@dataclasses.dataclass(frozen=True)
class Regions:
    """Where the sources called `names` are, in this order; of each, (frame, box) of key frames, ascending, one where it stands still.

    Between key frames a box moves evenly, before the first and after the last it stands.  `layout`: its name, or None.
    """

    names: tuple[str, ...]
    soft: tuple[tuple[tuple[int, Box], ...], ...]
    hard: tuple[tuple[tuple[int, Box], ...], ...]
    layout: str | None = None

    def __len__(self):
        return len(self.names)

    @property
    def moving(self) -> bool:
        return any(len(track) > 1 for track in (*self.soft, *self.hard))

    def frames(self, frames: int) -> range:
        """The numbers of the frames that differ: of all `frames`, or only 0 where nothing moves."""
        return range(frames if self.moving else 1)

    def bumps(self, grid: tuple[int, int], frames: int = 1):
        """What draws each source to its soft box: float32 array (S, T, rows, columns) of 0..1, T = 1 where nothing moves.

        In a box a Gaussian around its middle, a third of the box wide and high (standard deviation), 1 at most; 0 elsewhere.
        """
        import numpy as np

        made = np.zeros((len(self), len(self.frames(frames)), *grid), np.float32)
        for source, track in enumerate(self.soft):
            for frame in self.frames(frames):
                box = box_at(track, frame)
                cells = some_cells(box, soft_cells(box, grid), grid)
                made[source, frame, cells.top : cells.bottom, cells.left : cells.right] = bump(cells.bottom - cells.top, cells.right - cells.left)
        return made

    def owners(self, grid: tuple[int, int], frames: int = 1):
        """Whose each cell is: int64 array (T, rows, columns), -1: nobody's; T = 1 where nothing moves.

        On a grid too coarse for all of them a box that would have no cell has the one that its middle is in, of several the smallest.
        """
        import numpy as np

        made = np.full((len(self.frames(frames)), *grid), -1)
        for frame in self.frames(frames):
            found = []
            for source, track in enumerate(self.hard):
                box = box_at(track, frame)
                raw = hard_cells(box, grid, self.layout is not None)
                cells = some_cells(box, raw, grid)
                found.append((cells != raw, -(box.right - box.left) * (box.bottom - box.top), source, cells))
            for *_, source, cells in sorted(found):
                made[frame, cells.top : cells.bottom, cells.left : cells.right] = source
        return made

    def columns(self) -> dict[str, str]:
        """What a row tells of them, for :func:`of_row`: `layout`, or `boxes` as JSON, for each source [left, top, right, bottom],
        or for one that moves a list of [frame, left, top, right, bottom]."""
        if self.layout is not None:
            return {"layout": self.layout}
        return {"boxes": json.dumps([list(track[0][1]) if len(track) == 1 else [[frame, *box] for frame, box in track] for track in self.hard])}


def bump(high: int, wide: int):
    """A Gaussian on so many cells, float32 array of 0..1, 1 at most, its coordinates as released."""
    import numpy as np

    parts = (np.exp(-((np.linspace(0, size, size) - int(size / 2)) ** 2) / (2 * (size / 3) ** 2)) for size in (high, wide))
    made = np.outer(*parts)
    return (made / made.max()).astype(np.float32)


def box_at(track: tuple[tuple[int, Box], ...], frame: int) -> Box:
    """The box at a frame, of its key frames."""
    after = next((k for k, (number, _) in enumerate(track) if number >= frame), len(track) - 1)
    number, box = track[after]
    if number <= frame or after == 0:
        return box
    earlier, one = track[after - 1]
    share = (frame - earlier) / (number - earlier)
    return Box(*(a + (b - a) * share for a, b in zip(one, box)))


# --- as the user gives them -------------------------------------------------------------------------------------------


def regions_of(names, layout: str | None = None, boxes=(), frames: int = 1) -> Regions:
    """The regions of sources called `names`: of a layout, of `boxes` ("NAME=l,t,r,b" or "NAME@FRAME=l,t,r,b"), or with neither of the
    layout that is usual for so many.  NAME may be a source's number, from 1.  UsageError where they do not fit."""
    names, boxes = tuple(map(str, names)), tuple(boxes)
    if boxes and layout:
        raise UsageError("--layout and --box: give one of them")
    if not boxes:
        layout = layout or _USUAL.get(len(names))
        if layout is None:
            known = " or ".join(f"{count} ({name})" for count, name in _USUAL.items())
            raise UsageError(f"{len(names)} source{'s' * (len(names) != 1)}: layouts are for {known}; give --box NAME=LEFT,TOP,RIGHT,BOTTOM for each")
        if layout not in LAYOUTS:
            raise UsageError(f"--layout {layout}: one of {', '.join(LAYOUTS)}")
        soft, hard = LAYOUTS[layout]
        if len(hard) != len(names):
            raise UsageError(f"--layout {layout}: is for {len(hard)} sources, and there are {len(names)} ({', '.join(names)}); give another layout, or --box")
        return Regions(names, *(tuple(((0, box),) for box in some) for some in (soft, hard)), layout)
    tracks: list[dict[int, Box]] = [{} for _ in names]
    for text in boxes:
        source, frame, box = _read(text, names)
        if frame >= frames:
            raise UsageError(f"--box {text}: frame {frame} is not shown; frames are 0 to {frames - 1}")
        if frame in tracks[source]:
            raise UsageError(f"--box {text}: {names[source]} has one already at frame {frame}")
        tracks[source][frame] = box
    missing = [name for name, track in zip(names, tracks) if not track]
    if missing:
        raise UsageError(f"no --box for {', '.join(missing)}; give one for each source")
    sorted_tracks = tuple(tuple(sorted(track.items())) for track in tracks)
    made = Regions(names, sorted_tracks, sorted_tracks)
    if clash := overlap(made, frames):
        one, other, frame = clash
        when = f" at frame {frame}" if made.moving else ""
        raise UsageError(f"--box: {names[one]} and {names[other]} overlap{when}; move them apart, a pixel can show only one source")
    return made


def overlap(regions: Regions, frames: int) -> tuple[int, int, int] | None:
    """(source, other, frame) of the first two boxes that overlap, or None."""
    for frame in regions.frames(frames):
        boxes = [box_at(track, frame) for track in regions.hard]
        for other in range(len(boxes)):
            for one in range(other):
                if boxes[one].overlaps(boxes[other]):
                    return one, other, frame
    return None


def _read(text: str, names: tuple[str, ...]) -> tuple[int, int, Box]:
    """The source, the frame and the box that "NAME[@FRAME]=l,t,r,b" tells."""
    name, sign, numbers = text.rpartition("=")
    try:
        values = tuple(float(one) for one in numbers.split(","))
    except ValueError:
        values = ()
    if not sign or len(values) != 4 or not all(map(math.isfinite, values)):
        raise UsageError(f"--box {text}: is not NAME=LEFT,TOP,RIGHT,BOTTOM with four fractions of the picture, as in 'a dog=0,0.3,0.5,0.7'")
    frame = 0
    if name not in names and (found := re.fullmatch(r"(.*)@(\d+)", name, re.S)):
        name, frame = found[1], int(found[2])
    if names.count(name) > 1:
        raise UsageError(f"--box {text}: {names.count(name)} sources are called {name}; write their numbers, 1 to {len(names)}")
    if name not in names and not (name.isdecimal() and 1 <= int(name) <= len(names)):
        raise UsageError(f"--box {text}: no source is called '{name}' (there are: {', '.join(names)})")
    return (names.index(name) if name in names else int(name) - 1), frame, _checked(values, f"--box {text}", UsageError)


def _checked(values, where: str, error) -> Box:
    box = Box(*values)
    if not all(0 <= edge <= 1 for edge in box):
        raise error(f"{where}: reaches outside of the picture; fractions are 0 to 1")
    if box.left >= box.right or box.top >= box.bottom:
        raise error(f"{where}: is empty; LEFT is below RIGHT, and TOP below BOTTOM")
    return box


def of_row(row: dict, names) -> Regions:
    """The regions that :meth:`Regions.columns` wrote into a row; RowError where there are none, or they are not for so many `names`."""
    names = tuple(map(str, names))
    if text := row.get("boxes"):
        try:
            tracks = tuple(_track(one) for one in (json.loads(text) if isinstance(text, str) else text))
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise RowError("column boxes: is not a list of [left, top, right, bottom], or of lists of [frame, left, top, right, bottom]") from None
        made = Regions(names, tracks, tracks)
        if len(tracks) != len(names):
            raise RowError(f"column boxes: has {len(tracks)} boxes for {len(names)} sources; give one for each")
        if clash := overlap(made, 1 + max((number for track in tracks for number, _ in track), default=0)):
            raise RowError(f"column boxes: those of {names[clash[0]]} and {names[clash[1]]} overlap")
        return made
    layout = row.get("layout")
    if not isinstance(layout, str) or layout not in LAYOUTS:
        why = f"column layout: '{layout}' is none of {', '.join(LAYOUTS)}" if layout else "has neither layout nor boxes, which tell where each source is"
        raise RowError(why)
    if len(LAYOUTS[layout][1]) != len(names):
        raise RowError(f"column layout: {layout} is for {len(LAYOUTS[layout][1])} sources, and the row has {len(names)}")
    return regions_of(names, layout)


def _track(value) -> tuple[tuple[int, Box], ...]:
    keys = [[0, *value]] if value and not isinstance(value[0], list) else value
    made = {}
    for number, *box in keys:
        if isinstance(number, int) and number > LATEST:
            raise RowError(f"column boxes: frame {number} is later than any that is looked for ({LATEST})")
        if not isinstance(number, int) or number < 0 or len(box) != 4 or number in made:
            raise ValueError
        made[number] = _checked([float(one) for one in box], "column boxes", RowError)
    if not made:
        raise ValueError
    return tuple(sorted(made.items()))
