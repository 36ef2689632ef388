"""avtools mkmeta stats"""

import os
import sys

import click

from avtools.cli import Files, row_command
from avtools.errors import UsageError

DEFAULT = ("split", "source")
PICTURES = ("png", "svg", "pdf")


@row_command()
@click.option("--by", metavar="COLUMN", multiple=True, help="Tell the shares of this column's values (repeatable; default: split and source, where the table has them).")
@click.option("--number", "numbers", metavar="COLUMN", multiple=True, help="Tell the distribution of this column too, such as a score (repeatable).")
@click.option("--summary", metavar="FILE", type=Files("json"), help="Write all of it to FILE as JSON, with histograms.")
@click.option("--plot", metavar="FILE", type=Files(*PICTURES), help="Draw the histograms and shares: FILE.png, .svg or .pdf (needs matplotlib: pip install 'avtools[plot]').")
def command(shared, by, numbers, summary, plot):
    """Describe tables: rows, hours, distributions, shares, missing cells, repeated paths.

    The result is a table; a readable form of it goes to standard error.  What there is to describe depends on the
    columns that the table has: fps, size, duration, audio_fps, audio_channels, audio_duration, av_offset, num_frames,
    the words and characters of text and audio_text; the originals' audio_length_s, description, video_path,
    audio_file are known too.  Hours come from duration, else audio_duration, else num_frames/fps.

    Rows with an error are counted as (bad) and nowhere else; shares are of all other rows.  NaN and infinities
    are missing.  The picture cells of placeholder.mp4 are no picture's.  Memory: 8 bytes or less for each
    number, path and row, and each different value of --by once.

    \b
    column        meaning
    column        which one; or rows, size, 'text words', 'text characters'
    value         of a share: the value (the 20 most frequent), (other), (missing), (no picture), (repeated),
                  (not a number)
    count, share  rows, and which part of all they are
    hours         of these rows
    mean ... max  of numbers; std is the sample's (n - 1), p5 to p95 are quantiles

    \b
        avtools mkmeta stats train.csv --by class --summary train.json --plot train.png
    """
    from avtools import rows
    from avtools.rows import stats, writing
    from avtools.stream import Work

    suffix = os.path.splitext(plot or "")[1][1:].lower()
    if plot is not None:
        if suffix not in PICTURES:
            raise UsageError(f"--plot {plot}: give a name that ends in .png, .svg or .pdf")
        stats.check_plot()
    # the core would slice and count the rows of the result; what is described is the input
    shard, quiet = shared.shard, shared.quiet
    shared.shard, shared.quiet = None, True
    found: dict = {}

    def records(stdin):
        source = rows.open_rows(shared.inputs, shared.from_format, shard, stdin=stdin)
        header = source.columns
        for option, names in (("--by", by), ("--number", numbers)):
            for name in names:
                if header and name not in header:
                    raise UsageError(f"{option} {name}: the table has no such column (it has: {', '.join(header)})")
        chosen = dict.fromkeys(by or (name for name in DEFAULT if name in header))
        table = stats.Table(header, chosen, numbers)
        format_ = "csv" if source.format == "parquet" and shared.output in (None, "-") else source.format
        return list(stats.COLUMNS), format_, described(source, table)

    def described(source, table):
        from tqdm import tqdm

        with tqdm(source, total=source.total, unit="row", desc="avtools mkmeta stats", disable=True if quiet else None, file=sys.stderr) as seen:
            table.add(record.row for record in seen)
        found.update(table.summary())
        for extra in extras:
            extra.make()
        for row in stats.records(found):
            yield rows.Record(row, row["column"])

    def report() -> list[str]:
        try:
            click.echo("\n".join(map(rows.shown, [] if quiet else stats.lines(found))), err=True, nl=not quiet)
        except (OSError, ValueError):
            pass  # a full or closed standard error is no reason to fail
        return []

    extras = [writing.Extra("--summary", summary, lambda: stats.as_json(found))] if summary else []
    extras += [writing.Extra("--plot", plot, lambda: stats.picture(found, suffix))] if plot else []
    return Work(as_described, records=records, inline=True, report=report, tees=tuple(extras))


def as_described(row: dict, options: dict) -> dict:
    return {}
