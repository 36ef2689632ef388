"""avtools probe"""

import os

import click

from avtools.cli import FractionType, row_command
from avtools.errors import RowError


@row_command()
@click.option("--fmin", type=click.IntRange(0), metavar="N", help="Keep rows with at least so many frames.")
@click.option("--fmax", type=click.IntRange(0), metavar="N", help="Keep rows with at most so many frames.")
@click.option("--min-duration", type=FractionType(), metavar="S", help="Keep rows of at least S seconds.")
@click.option("--max-duration", type=FractionType(), metavar="S", help="Keep rows of at most S seconds.")
@click.option("--max-resolution", type=click.IntRange(1), metavar="N", help="Keep rows of at most N pixels (height*width).")
@click.option("--require", type=click.Choice(["audio", "video"]), multiple=True, help="Keep rows that have sound, or a picture (repeatable).")
@click.option("--check", is_flag=True, help="Decode everything; 'spans' lists what a damaged file still gives.")
def command(shared, check, require, **limits):
    """Measure media files and filter by what they are.

    For the column 'path': num_frames (what a decoder shows), height, width, aspect_ratio, resolution, fps,
    duration, and of its own sound audio_fps, audio_channels, audio_duration, av_offset.  For 'audio_path':
    audio_fps, audio_channels, audio_duration.  Times are in seconds.

    Durations that --min-duration and --max-duration compare are the picture's, else the sound's.  Files
    that cannot be read are bad rows; rows that a filter rejects are counted.

    \b
        avtools probe clips/*.mp4 --fmin 10 -o table.csv
        avtools mkmeta scan audio sounds/ | avtools probe --min-duration 1
    """
    from avtools.stream import Work

    options = {"check": check, "require": list(require), **{name: value for name, value in limits.items() if value is not None}}
    return Work(probe_row, options, columns=lambda header: columns_for(header, check), needs=("path", "audio_path"), preload=("avtools.media.probe",))


def columns_for(header: list[str], check: bool) -> list[str]:
    """The media columns that describe the files of a table with this header."""
    from avtools.media.columns import SOUND_COLUMNS, VIDEO_COLUMNS

    columns = VIDEO_COLUMNS if "path" in header or "audio_path" not in header else SOUND_COLUMNS
    return [*columns, *(["spans"] if check else [])]


def probe_row(row: dict, options: dict) -> dict | None:
    """The media columns of a row's files; None where a limit of `options` rejects it."""
    from avtools.media.columns import VIDEO_COLUMNS
    from avtools.media.probe import probe, probe_sound, sound_columns, video_columns
    from avtools.rows import path_of
    from avtools.rows.keys import PLACEHOLDER

    path, audio_path = (path_of(row, column) if row.get(column) else None for column in ("path", "audio_path"))
    if not path and not audio_path:
        raise RowError("neither 'path' nor 'audio_path' names a file")
    cells, picture, sound = {}, None, None
    if path and os.path.basename(path) == PLACEHOLDER:
        picture = True  # stands in for a picture: its cells are what `mkmeta dummy-video` says
    elif path:
        info = probe(path, check=options["check"])
        picture, sound = info.picture, info.sound
        cells.update(video_columns(info))
        if options["check"]:
            cells["spans"] = None if info.spans is None else [list(span) for span in info.spans]
    if audio_path:
        sound = probe_sound(audio_path)
        cells.update(sound_columns(sound))
    if not path and "path" in row:
        cells = {**dict.fromkeys(VIDEO_COLUMNS), **cells}
    return cells if _wanted({**row, **cells}, picture, sound, options) else None


def _wanted(row: dict, picture, sound, options: dict) -> bool:
    from avtools.rows import number

    if "audio" in options["require"] and sound is None or "video" in options["require"] and picture is None:
        return False
    duration = "duration" if row.get("duration") not in (None, "") else "audio_duration"
    for column, least, most in (
        ("num_frames", "fmin", "fmax"),
        (duration, "min_duration", "max_duration"),
        ("resolution", None, "max_resolution"),
    ):
        if least not in options and most not in options:
            continue
        value = number(row, column)
        if value is None or least in options and value < options[least] or most in options and value > options[most]:
            return False
    return True
