"""Masks that are known: SA-V's JSON beside a video (COCO's run-length encoding), and videos of masks.

SA-V (Ravi et al. 2024, SAM 2, arXiv:2408.00714): `NAME_manual.json` has, for every fourth frame of NAME.mp4 (6 of 24 Hz),
the masks of all objects: `masklet`, `masklet_size_bucket`, `masklet_size_rel`, `video_frame_count`, `video_resolution`.
"""

import dataclasses
import json
import math
import os

import numpy as np

from avtools.errors import RowError
from avtools.media.container import show

from . import selection
from .reading import Shape, pictures
from .selection import Packed

EVERY = 4  # an annotated frame, and so many until the next
SUFFIX = "_manual.json"
MAX_BYTES = 1 << 30  # SA-V's largest have some MB


@dataclasses.dataclass
class Annotated:
    """An object and its masks by frame; None: it is not seen there.  Frames that are not named are not known."""

    number: int | str
    masks: dict[int, Packed | None]


def beside(path: str) -> str:
    """The JSON that SA-V puts beside the video `path`."""
    return os.path.splitext(path)[0] + SUFFIX


# --- run lengths --------------------------------------------------------------------------------------------


def rle_decode(counts: str | bytes | list, height: int, width: int) -> np.ndarray:
    """COCO's run-length encoding, compressed or as a list, -> (height, width) bool.

    Runs of unset and set pixels in turn go down the columns.  The compressed form holds each length, from the fourth on less
    that of two before, in pieces of 5 bits from the lowest, in characters from '0' on; 32 marks that more follow, and bit 16
    of the last piece the sign.  ValueError where it is none, or is not of that size.
    """
    if isinstance(counts, list):
        if not all(type(count) is int for count in counts):
            raise ValueError("a run length is no whole number")
        runs = counts
    else:
        runs = _lengths(counts)
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"its runs hold {_short(sum(runs))} pixels, not {height * width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, np.array(runs, np.int64)).reshape(width, height).T


def _lengths(counts: str | bytes) -> list[int]:
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        piece = byte - 48
        if not 0 <= piece < 64 or shift > 40:
            raise ValueError(f"{chr(byte)!r} does not belong into run lengths")
        value |= (piece & 31) << shift
        shift += 5
        if piece & 32:
            continue
        if piece & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the last run length is cut short")
    return runs


def rle_encode(mask: np.ndarray) -> dict:
    """(H, W) bool -> {"size": [H, W], "counts": COCO's compressed run lengths}."""
    height, width = mask.shape
    flat = np.asarray(mask, bool).T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    if flat.size and flat[0]:
        runs.insert(0, 0)
    text = []
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while True:
            piece, value = value & 31, value >> 5
            more = value != (-1 if piece & 16 else 0)
            text.append(chr(48 + piece + 32 * more))
            if not more:
                break
    return {"size": [height, width], "counts": "".join(text)}


# --- SA-V ---------------------------------------------------------------------------------------------------


def read(file: str, path: str, shape: Shape, *, every: int = EVERY, least: float = 0.33, most: int = 9, resolution: int = 1920 * 1080) -> tuple[list[Annotated], str]:
    """The objects of SA-V's JSON `file` that are kept of the video `path`; or none, and the reason.

    Those that are not small and have at least `least` of the largest one's size; none of videos with more than `most` of them, or
    with more than `resolution` pixels.  RowError where the JSON is none, or does not fit its video.
    """
    where = show(file)
    found = _load(file)
    frames = _of(found, "masklet", list, where)
    count = len(frames)
    if not all(isinstance(masks, list) for masks in frames):
        raise RowError(f"{where}: 'masklet' is no list of lists of masks; give the JSON as SA-V has it")
    stated = found.get("video_frame_count")
    if stated is not None:
        if type(stated) not in (int, float) or not math.isfinite(stated):
            raise RowError(f"{where}: video_frame_count is {_short(stated)}, no number; give the JSON as SA-V has it")
        if abs(stated - shape.frames) >= every:
            raise RowError(f"{where}: is of a video of {stated:g} frames, and {show(path)} has {shape.frames}; give the JSON of this video, at the rate it was annotated at")
    if count and (count - 1) * every >= shape.frames:
        raise RowError(f"{where}: annotates frame {(count - 1) * every}, and {show(path)} has {shape.frames}; give the JSON of this video, at the rate it was annotated at")
    if count and (count + 1) * every <= shape.frames:
        raise RowError(
            f"{where}: annotates frames up to {(count - 1) * every} ({count}, every {every}), and {show(path)} has {shape.frames}; "
            "give the JSON of this video, or --annotated-every N"
        )
    objects = max(map(len, frames), default=0)
    if any(len(masks) != objects for masks in frames):
        raise RowError(f"{where}: has not as many masks in each of its frames ({objects} at most); give the JSON as SA-V has it")
    if not objects:
        return [], f"{where}: annotates no object"
    buckets = _of(found, "masklet_size_bucket", list, where, objects)
    sizes = _of(found, "masklet_size_rel", list, where, objects)
    if not all(type(size) in (int, float) and math.isfinite(size) for size in sizes):
        raise RowError(f"{where}: 'masklet_size_rel' is no list of numbers; give the JSON as SA-V has it")
    if shape.height * shape.width > resolution:
        return [], f"{show(path)}: {shape.width}x{shape.height} is more than --max-resolution {resolution}"
    kept = selection.by_annotation(buckets, sizes, least)
    if len(kept) > most:
        return [], f"{where}: {len(kept)} objects are more than --max-objects {most}"
    names = found.get("masklet_id")
    if not isinstance(names, list) or len(names) != objects or not all(type(name) in (int, str) for name in names):
        names = list(range(objects))
    made = []
    for k in kept:
        masks = {number * every: _mask(masks[k], shape, f"{where}: object {k} in frame {number * every}") for number, masks in enumerate(frames)}
        made.append(Annotated(names[k], masks))
    return made, "" if made else f"{where}: all {objects} objects are small"


def _load(file: str) -> dict:
    where = show(file)
    try:
        if os.path.getsize(file) > MAX_BYTES:
            raise RowError(f"{where}: has more than {MAX_BYTES >> 20} MB; this is no annotation")
        with open(file, "rb") as stream:
            found = json.load(stream)
    except OSError as error:
        raise RowError(f"{where}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"{where}: is no JSON ({' '.join(str(error).split())}); get it anew") from None
    if not isinstance(found, dict):
        raise RowError(f"{where}: is no JSON object; give the JSON as SA-V has it")
    return found


def _of(found: dict, name: str, kind: type, where: str, count: int | None = None):
    value = found.get(name)
    if not isinstance(value, kind):
        raise RowError(f"{where}: has no list '{name}'; give the JSON as SA-V has it ({SUFFIX})")
    if count is not None and len(value) != count:
        raise RowError(f"{where}: '{name}' has {len(value)} entries for {count} objects; give the JSON as SA-V has it")
    return value


def _mask(rle, shape: Shape, where: str) -> Packed | None:
    if rle is None:
        return None
    if not isinstance(rle, dict) or not isinstance(rle.get("counts"), (str, list)):
        raise RowError(f"{where}: is no run-length encoding ({{'size': [height, width], 'counts': ...}}); give the JSON as SA-V has it")
    if rle.get("size") != [shape.height, shape.width]:
        raise RowError(f"{where}: its mask is of size {_short(rle.get('size'))}, and the frame is [{shape.height}, {shape.width}] (height, width); give the JSON of this video, or the video as it was annotated")
    try:
        return selection.pack(rle_decode(rle["counts"], shape.height, shape.width))
    except ValueError as error:
        raise RowError(f"{where}: damaged run-length encoding ({error}); get it anew") from None


def _short(value) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:37] + "..."


# --- videos of masks ----------------------------------------------------------------------------------------


def of_video(file: str, path: str, shape: Shape) -> list[Packed | None]:
    """The masks of a video of masks (`synth`'s, say): white is set.  RowError where it does not fit the video `path`."""
    from .reading import shape_of

    found = shape_of(file)
    if found[:3] != shape[:3]:
        raise RowError(f"{show(file)}: has {found.frames} frames of {found.width}x{found.height}, and {show(path)} {shape.frames} of {shape.width}x{shape.height}; give the masks of this video")
    return [selection.pack(picture > 127) for picture in pictures(file, found, gray=True)]
