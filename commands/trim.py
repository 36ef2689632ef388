"""avtools trim"""

import os

import click

from avtools.cli import FractionType, row_command
from avtools.errors import RowError, UsageError


@row_command(files=True, in_place=True)
@click.option("--max-seconds", type=FractionType(positive=True), metavar="S", help="Keep at most the first S seconds.")
@click.option("--start", type=FractionType(), metavar="S", help="Begin here (default 0).")
@click.option("--end", type=FractionType(positive=True), metavar="S", help="End here.")
@click.option("--duration", type=FractionType(positive=True), metavar="S", help="Keep S seconds from --start.")
@click.option("--crf", type=click.FloatRange(0, 63), metavar="N", default=18, show_default=True, help="Quality of re-encoded video.")
@click.option("--suffix", type=click.Choice(["wav", "flac", "mp3", "m4a", "ogg", "opus"]), help="Write sound files of this kind (default: the source's if lossless, else wav).")
@click.option("--fast", is_flag=True, help="Cut videos at key frames without re-encoding; 'spans' says where.")
def command(shared, max_seconds, start, end, duration, fast, **options):
    """Cut every media file of a row ('path', 'audio_path') by the same span.

    Times are seconds from the clip's zero (a video's first displayed frame, a sound's first sample); samples
    and frames with start <= t < end are kept, never padded.  Lossless sound keeps its sample format, bit
    for bit; video is encoded anew (x264), its own sound to AAC unless it is PCM that the container holds.
    A file that the span leaves whole is linked, not rewritten.

    \b
        avtools mkmeta scan audio sounds/ | avtools trim --max-seconds 30 -d trimmed > t.csv
    """
    from avtools.stream import Work

    if max_seconds is not None and (start, end, duration) != (None, None, None):
        raise UsageError("--max-seconds stands alone; with --start give --end or --duration")
    if end is not None and duration is not None:
        raise UsageError("give --end or --duration, not both")
    if (max_seconds, start, end, duration) == (None, None, None, None):
        raise UsageError("what to keep? give --max-seconds, or --start, --end or --duration")
    start = start or 0
    end = max_seconds if max_seconds is not None else start + duration if duration is not None else end
    if end is not None and end <= start:
        raise UsageError(f"nothing is between --start {start} and --end {end}")
    options.update(start=start, end=end, fast=fast)
    columns = ("spans",) if fast else ()
    return Work(trim_row, options, columns=columns, needs=("path", "audio_path"), wants=wants, operation="trim/1", preload=("avtools.media.sound", "avtools.media.video"))


def wants(row: dict, options: dict):
    from avtools.media.suffixes import sound_suffixes, video_suffixes
    from avtools.outputs import Want
    from avtools.rows import path_of
    from avtools.rows.keys import PLACEHOLDER

    path, audio_path = (path_of(row, column) if row.get(column) else None for column in ("path", "audio_path"))
    found = []
    if path and os.path.basename(path) != PLACEHOLDER:
        suffixes = (os.path.splitext(path)[1],) if options["fast"] else video_suffixes(path)
        found.append(Want("path", (path,), suffixes, may_keep=True))
    if audio_path:
        found.append(Want("audio_path", (audio_path,), sound_suffixes(audio_path, options["suffix"]), may_keep=True))
    if not found:
        raise RowError("neither 'path' nor 'audio_path' names a file")
    return found


def trim_row(row: dict, maker, options: dict) -> dict:
    from fractions import Fraction

    from avtools.media import sound, video
    from avtools.media.columns import of_picture, present
    from avtools.media.probe import probe, probe_sound, read_back, sound_columns, video_columns

    start, end = Fraction(options["start"]), options["end"]
    cells = {}

    def is_whole(*ends: Fraction) -> bool:
        return start == 0 and end is not None and all(last <= end for last in ends)

    def whole_video() -> bool:
        info = probe(row["path"])
        if info.picture is None or info.picture.duration is None:
            return False  # the cut says what is wrong with it
        sound_end = info.sound.start + info.sound.duration - info.picture.start if info.sound else 0
        return is_whole(info.picture.duration, sound_end)

    if "path" in maker.slots:
        source = row["path"]

        def build(out: str, suffix: str) -> None:
            if options["fast"]:
                cut[:] = video.cut_fast(source, out, suffix, start, end)
            else:
                video.cut_video(source, out, suffix, start, end, crf=options["crf"])

        def measure(path: str) -> dict:
            columns = video_columns(probe(path))
            if options["fast"]:  # recorded with the file, so that a reused one still tells
                columns["spans"] = [[float(time) for time in cut]] if cut else [[0.0, columns["duration"]]]
            return columns

        cut: list = []
        made = maker.make("path", build, measure, conforms=whole_video, verify=read_back)
        cells = {"path": made.path, **of_picture(row, made.columns)}
        if options["fast"]:
            cells["spans"] = made.columns["spans"]
    if "audio_path" in maker.slots:
        source = row["audio_path"]
        made = maker.make(
            "audio_path",
            build=lambda out, suffix: sound.cut_file(source, out, start, end, suffix),
            measure=lambda path: sound_columns(probe_sound(path)),
            conforms=lambda: options["suffix"] in (None, os.path.splitext(source)[1][1:].lower()) and is_whole(probe_sound(source).duration),
            verify=read_back,
        )
        cells.update({"audio_path": made.path, **present(row, made.columns)})
    return cells
