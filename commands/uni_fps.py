"""avtools uni-fps"""

import os

import click

from avtools.cli import FractionType, Size, row_command

# Chosen by benchmarks/tune_uni_fps.py on clips other than those that it reports.
CRF, PRESET = 21, "veryfast"
#: x264's, for completion; other encoders have others.
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")


def _presets(ctx, param, start: str) -> list[str]:
    return [name for name in PRESETS if name.startswith(start)]


@row_command(files=True, in_place=True)
@click.option("--fps", type=FractionType(positive=True), metavar="N", required=True, help="Frames per second: 24, 23.976 or 30000/1001.")
@click.option("--crf", type=click.FloatRange(0, 63), metavar="N", default=CRF, show_default=True, help="Quality; lower is better and larger.")
@click.option("--preset", default=PRESET, show_default=True, metavar="P", shell_complete=_presets, help="Speed of the encoder.")
@click.option("--encoder", default="libx264", show_default=True, metavar="NAME", help="FFmpeg's name of the encoder.")
@click.option("--crop-resize", type=Size(), help="Cut the centre to this aspect ratio and scale it to this size.")
def command(shared, **options):
    """Give the videos of the column 'path' a constant frame rate.

    round(duration x fps) frames, at least 1, each the frame that is shown at its time.  The sound stream is
    copied unharmed and stays in sync; rotation is applied.  A video that has the rate already is linked,
    not encoded anew.  The container is kept if it can hold H.264 and that sound, else it becomes .mkv.

    \b
        avtools probe clips/*.mp4 | avtools uni-fps --fps 24 -d fps24 > t.csv
    """
    from avtools.stream import Work

    return Work(uni_fps_row, options, needs=("path",), wants=wants, operation="uni-fps/1", settles=True, preload=("avtools.media.video",))


def wants(row: dict, options: dict):
    from avtools.media.suffixes import video_suffixes
    from avtools.outputs import Want
    from avtools.rows import path_of
    from avtools.rows.keys import PLACEHOLDER

    source = path_of(row, "path")
    return [] if os.path.basename(source) == PLACEHOLDER else [Want("path", (source,), video_suffixes(source), may_keep=True)]


def uni_fps_row(row: dict, maker, options: dict) -> dict:
    from avtools.media import video
    from avtools.media.columns import of_picture
    from avtools.media.encoders import check_encoder
    from avtools.media.probe import probe, read_back, video_columns

    if "path" not in maker.slots:
        return {}
    check_encoder(options["encoder"], options["crf"], options["preset"])
    source, size = row["path"], options["crop_resize"]
    made = maker.make(
        "path",
        build=lambda out, suffix: video.uniform_fps(source, out, suffix, options["fps"], options["crf"], options["preset"], options["encoder"], size),
        measure=lambda path: video_columns(probe(path)),
        conforms=lambda: video.is_uniform(source, options["fps"], size),
        verify=read_back,
    )
    return {"path": made.path, **of_picture(row, made.columns)}
