"""A video's pictures, as arrays, decoded in a thread of their own ahead of their use."""

import queue
import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from avtools.errors import MediaError
from avtools.media.container import best_video, decoder_threads, open_input, show
from avtools.media.probe import check_pace, clockwise, probe, skip_others
from avtools.media.video import shown_frames


class Shape(NamedTuple):
    """Of a video: frames shown, pixels of a frame upright, frames per second."""

    frames: int
    height: int
    width: int
    fps: Fraction


def shape_of(path: str) -> Shape:
    """Raises MediaError where there is no moving picture."""
    picture = probe(path).picture
    if picture is None:
        raise MediaError(f"{show(path)}: has no picture; give a video")
    if picture.is_image:
        raise MediaError(f"{show(path)}: is a single image; masklets need a video")
    check_pace(path, picture)
    return Shape(picture.num_frames, picture.height, picture.width, picture.fps or Fraction(24))


def pictures(path: str, shape: Shape, gray: bool = False, threads: int = 1) -> Iterator[np.ndarray]:
    """Each shown frame of `path`, upright: (H, W, 3) uint8 RGB, or (H, W) of light alone.

    MediaError where they are not those of `shape`: fewer, more, or of another size.
    """
    count = 0
    with open_input(path) as container:
        stream = best_video(container)
        skip_others(container, [stream])
        decoder_threads(stream, threads)
        for _, frame in shown_frames(container, stream):
            array = np.rot90(frame.to_ndarray(format="gray" if gray else "rgb24"), -clockwise(frame) // 90)
            if array.shape[:2] != (shape.height, shape.width):
                raise MediaError(f"{show(path)}: frame {count} has {array.shape[1]}x{array.shape[0]} pixels, not {shape.width}x{shape.height}; 'avtools uni-fps' makes them alike")
            count += 1
            if count <= shape.frames:
                yield np.ascontiguousarray(array)
    if count != shape.frames:
        raise MediaError(f"{show(path)}: {count} of {shape.frames} frames can be decoded; 'avtools uni-fps' makes a whole video of it")


_END = object()


def ahead(items: Iterable, depth: int = 16) -> Iterator:
    """The same items, made in a thread, up to `depth` of them ahead of their use; what it raises is raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(entry) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:  # raised again where the items are used
            put((_END, error))
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()
