"""avtools extract-audio"""

import click

from avtools.cli import row_command
from avtools.media.columns import SOUND_COLUMNS


@row_command(files=True)
@click.option("--rate", type=click.IntRange(1, 10_000_000), metavar="HZ", required=True, help="Samples per second.")
@click.option("--channels", type=click.IntRange(1, 1024), metavar="N", default=1, show_default=True, help="1 averages all channels.")
@click.option("--suffix", type=click.Choice(["wav", "flac"]), default="wav", show_default=True, help="Kind of sound file; 16 bit.")
def command(shared, **options):
    """Extract the sound of the videos of the column 'path', aligned with the picture.

    Sample 0 is the time of the first displayed frame and the length is the picture's, whatever the
    container's offsets say.  A clip without sound is a bad row.  Adds audio_path, audio_fps,
    audio_channels, audio_duration.

    \b
        avtools probe clips/*.mp4 | avtools extract-audio --rate 16000 -d wav > t.csv
    """
    from avtools.stream import Work

    return Work(
        extract_row,
        options,
        columns=("audio_path", *SOUND_COLUMNS),
        needs=("path",),
        wants=wants,
        operation="extract-audio/1",
        preload=("avtools.media.sound",),
    )


def wants(row: dict, options: dict):
    import os

    from avtools.outputs import Want
    from avtools.rows import path_of
    from avtools.rows.keys import PLACEHOLDER

    source = path_of(row, "path")
    if os.path.basename(source) == PLACEHOLDER:
        return []
    return [Want("audio_path", (source,), ("." + options["suffix"],))]


def extract_row(row: dict, maker, options: dict) -> dict:
    from avtools.media import sound
    from avtools.media.probe import probe_sound, sound_columns

    if "audio_path" not in maker.slots:  # a sound-only row keeps its sound
        return {}
    made = maker.make(
        "audio_path",
        build=lambda out, suffix: sound.extract_sound(row["path"], out, options["rate"], options["channels"], suffix),
        measure=lambda path: sound_columns(probe_sound(path)),
    )
    return {"audio_path": made.path, **made.columns}
