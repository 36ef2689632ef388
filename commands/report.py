"""avtools report"""

import os

import click

from avtools.cli import Files, row_command
from avtools.errors import UsageError

NEEDS = ("path", "audio_path", "image_path", "generated_path", "generated_audio_path")


@row_command()
@click.option("--group-by", "group_by", metavar="COLUMN", help="Set consecutive rows with the same cell in COLUMN side by side: systems, samples of one clip.")
@click.option("--label", metavar="COLUMN", help="What rows of a group are called (default: the first of system, name, model, method, variant, sample, seed that differs in a group, else their number).")
@click.option("--media", type=click.Choice(["link", "embed"]), default="link", show_default=True, help="Link to the media files by relative paths, or put them into the page.")
@click.option("--max-embed", type=click.FloatRange(0), metavar="MB", default=300, show_default=True, help="With --media embed: how much of media the page may hold; what comes after has no player.")
@click.option("--score", "scores", metavar="COLUMN", multiple=True, help="Show this column's numbers beside each clip (repeatable; default: all numbers that do not describe the media).")
@click.option("--summary", "summaries", metavar="FILE", type=Files("json"), multiple=True, help="Show what 'score --summary' wrote (repeatable: side by side).")
@click.option("--run", "runs", metavar="DIR", type=Files(), multiple=True, help="Draw the training curves of a run's folder (repeatable: in one picture).")
@click.option("--stats", "with_stats", is_flag=True, help="Describe the table too, as 'mkmeta stats' does.")
@click.option("--title", metavar="TEXT", help="The page's title (default: the tables' names).")
@click.option("--video-column", metavar="COLUMN", help="The picture (default: generated_path, else path).")
@click.option("--audio-column", metavar="COLUMN", help="The sound (default: generated_audio_path, else audio_path, else the picture's own).")
@click.option("--reference-video-column", metavar="COLUMN", help="The true picture (default: path).")
@click.option("--reference-audio-column", metavar="COLUMN", help="The true sound (default: audio_path, else the true picture's own).")
def command(
    shared, group_by, label, media, max_embed, scores, summaries, runs, with_stats, title, video_column, audio_column, reference_video_column, reference_audio_column
):
    """Make one HTML page to look at and listen to the rows of a table, side by side.

    The page needs no network and no other file but the media; with --media embed not even these.  For each clip it has
    a player, the caption, a spectrogram with the onsets that are heard and the events that are in event_times, the
    motion of the picture (mean optical flow), and the table's scores.  Rows with generated_path or
    generated_audio_path stand beside the true pair.  In the page rows are sorted by any number, searched, filtered by
    ranges and categories, and what is left is summed up: mean, 95 % interval, histogram, for each label.

    Sound that is not the picture's own is played beside it: on a busy machine it may begin 0.1 s late, and comes within some 10 ms of the
    picture after a second.  With --media embed both become one MP4 file (AAC), exactly in step, and what browsers cannot play
    (AVI, MPEG-4, 10-bit H.264, HEVC) becomes H.264; with links the page says what browsers may not play.

    Bad rows have a place in the page too, with the reason.  A row takes about 6 kB in the page for each clip, whatever
    the clip's length; of longer clips the first 10 minutes are drawn.  The page appears only when it is whole, and
    does not depend on the number of workers.  Motion needs OpenCV (pip install 'avtools[models]').

    \b
    key in the page   does
    space             plays the clip, or pauses it
    1 to 9            plays the row's first to ninth clip from its beginning
    j, k              go to the next row, the row before
    left, right       go back and on by a tenth of the clip
    l                 repeats the clip
    /                 goes to the search

    \b
        avtools score onset-f1,av-align made.csv --summary made.json | avtools report --summary made.json -o made.html
        avtools report systems.csv --group-by id --label system --media embed -o both.html
        avtools report valid.csv --run runs/first --run runs/second --stats -o runs.html
    """
    from avtools.identity import identity
    from avtools.metrics import comparing
    from avtools.models import registry
    from avtools.reporting import looking, page as pages, parts
    from avtools.stream import Work

    target = shared.output
    if not target or target == "-":
        raise UsageError("where to? give -o FILE.html")
    if os.path.splitext(target)[1].lower() not in (".html", ".htm"):
        raise UsageError(f"-o {target}: the page is HTML; give a name that ends in .html")
    folder = os.path.dirname(target)
    if not os.path.isdir(folder or "."):
        raise UsageError(f"-o {target}: there is no directory {folder}; make it first")
    if shared.to_format:
        raise UsageError("--to is for tables, and the page is HTML; leave it out")
    if shared.inputs and "-" not in shared.inputs:  # else 'score' may still be writing them: it has when its rows end
        for path in summaries:
            comparing.read(path)
    curves = parts.training(runs)
    named = {"video": video_column, "audio": audio_column, "reference_video": reference_video_column, "reference_audio": reference_audio_column}
    asked_on_error = shared.on_error
    known = [*(column for column in named.values() if column), *NEEDS]
    own = f"{target}.media.{identity()}.tmp"
    options = {"cell": pages.CELL, "named": named, "media": media, "folder": folder, "spool": own}

    def begin(header: list[str]) -> dict:
        for option, names in (("--group-by", [group_by]), ("--label", [label]), ("--score", scores)):
            for name in filter(None, names):
                if header and name not in header:
                    raise UsageError(f"{option} {name}: the table has no such column (it has: {', '.join(header)})")
        # The core writes the rows, bad ones too, to a file that the page is made of when the run commits
        shared.output, shared.to_format, shared.on_error = made.spool, "jsonl", "keep"
        return options

    def ended() -> None:
        shared.on_error = asked_on_error  # the exit status is the one that was asked for

    def extras(header: list[str], walk) -> dict:
        read = [(path, comparing.read(path)) for path in summaries]
        told = {"summaries": parts.summaries(read), "runs": curves, "directions": parts.directions(header, read, registry.directions())}
        if with_stats:
            told["stats"] = parts.statistics(header, walk)
        return told

    def report() -> list[str]:
        lines = [f"{target}: {made.size / 1e6:.1f} MB" + (f", {made.embedded} media files in it" if media == "embed" else "") + (f"; rows shown with an error: {made.bad}" if made.bad else "")]
        if made.left_out:
            lines.append(f"{made.left_out} media files are not in it: --max-embed {max_embed:g} MB is used up; allow more, or --media link")
        if made.count > pages.MOST:
            lines.append(f"some browsers cannot scroll through more than {pages.MOST} rows; give a part, such as --shard 1/{-(-made.count // pages.MOST)}")
        if not looking.can_flow():
            lines.append("no motion curves: OpenCV is not installed; pip install 'avtools[models]'")
        return lines

    settings = {
        "title": title or ", ".join(os.path.basename(path) for path in shared.inputs[:4] if path != "-") or "avtools report",
        "group": group_by,
        "label": label,
        "scores": list(scores) or None,
        "max_embed": max_embed * 1e6,
    }
    made = pages.Page(target, f"{target}.rows.{identity()}.tmp", own, settings, extras, ended)
    return Work(
        looking.look,
        options=options,
        needs=tuple(dict.fromkeys(known)),
        begin=begin,
        tees=(made,),
        report=report,
        preload=("av", "numpy", "soxr", "avtools.media.probe", "avtools.media.video", "avtools.metrics.onsets"),
    )
