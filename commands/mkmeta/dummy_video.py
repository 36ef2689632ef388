"""avtools mkmeta dummy-video"""

import click

from avtools.cli import FractionType, Size, row_command
from avtools.errors import RowError
from avtools.media.columns import PICTURE_COLUMNS


@row_command()
@click.option("--fps", type=FractionType(positive=True), default="24", show_default=True, metavar="N", help="Frames per second that the cells say.")
@click.option("--size", type=Size(), default="1280x720", show_default=True, help="Picture size that the cells say.")
def command(shared, fps, size):
    """Let sound-only rows pass where a picture is expected.

    Rows without a 'path' get path=placeholder.mp4 and the cells num_frames (floor(seconds of sound x fps)),
    height, width, aspect_ratio, resolution, fps, duration.  The file does not exist: commands leave it and
    its cells alone.  Rows with a path stay as they are.

    \b
        avtools mkmeta dummy-video sounds.csv -o training.csv
    """
    from avtools.stream import Work

    return Work(dummy_row, {"fps": fps, "size": size}, columns=("path", *PICTURE_COLUMNS), needs=("audio_path",), preload=("avtools.media.probe",))


def dummy_row(row: dict, options: dict) -> dict:
    """The cells of a picture as long as the row's sound."""
    import math

    from avtools.media.probe import probe_sound
    from avtools.rows import path_of
    from avtools.rows.keys import PLACEHOLDER

    if row.get("path"):
        return {}
    path = path_of(row, "audio_path")
    frames = math.floor(probe_sound(path).duration * options["fps"])
    if frames < 1:
        raise RowError(f"{path}: shorter than one frame")
    width, height = options["size"]
    return {
        "path": PLACEHOLDER,
        "num_frames": frames,
        "height": height,
        "width": width,
        "aspect_ratio": height / width,
        "resolution": height * width,
        "fps": float(options["fps"]),
        "duration": float(frames / options["fps"]),
    }
