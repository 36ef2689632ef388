"""avtools score"""

import click

from avtools.cli import Files, row_command


def metrics(ctx, param, incomplete):
    from avtools.metrics import PLAIN
    from avtools.models.registry import METRICS

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in sorted({**PLAIN, **METRICS}) if name.startswith(last)]


@row_command()
@click.argument("metric", metavar="METRIC[,METRIC...]", shell_complete=metrics)
@click.option("--protocol", metavar="NAME", help="A paper's choices instead of the standard definition: asva, javisbench.")
@click.option("--summary", metavar="FILE", type=Files("json"), help="Write the set's results and all that they depend on to FILE as JSON.")
@click.option("--canary", is_flag=True, help="Judge silence, noise, other rows' sounds and a shift of 0.4 s too, and say which metric cannot tell them from the true pairs.")
@click.option("--exchange", metavar="COLUMN[,COLUMN...]", help="A control: judge each row with the sound of another row that has the same cells in these columns ('' for any row).")
@click.option("--video-column", metavar="COLUMN", help="The judged picture (default: generated_path, else path).")
@click.option("--audio-column", metavar="COLUMN", help="The judged sound (default: generated_audio_path, else audio_path, else the picture's own).")
@click.option("--reference-video-column", metavar="COLUMN", help="The true picture (default: path).")
@click.option("--reference-audio-column", metavar="COLUMN", help="The true sound (default: audio_path, else the true picture's own).")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Change a setting of a metric, such as onset-f1.tolerance=0.1 (repeatable).")
@click.option("--weights", metavar="[NAME=]SOURCE", multiple=True, help="Weights of a metric's network, by the metric's name or the network's ('avtools metrics' has both): a file, a folder, or hf:OWNER/NAME[@REVISION] (repeatable).")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Of the controls' noise and exchanged sounds.")
def command(shared, metric, protocol, summary, canary, exchange, video_column, audio_column, reference_video_column, reference_audio_column, sets, weights, seed):
    """Judge each row's picture and sound by METRIC ('avtools metrics' lists them).

    Metrics of a row become columns; where there is nothing to measure (onsets of silence) the cell is empty and the
    row counts as skipped.  The set's results go to standard error as a table and to --summary: means or values
    of the whole set, 95 % intervals, counts, what was skipped and why, chance levels, and what they depend on (media,
    settings, weights, versions); 'avtools compare' sets two summaries side by side.

    --canary and --exchange need other rows' sounds, so all rows are read to disk first; the column
    exchanged_audio_path tells which sound it was.  No result depends on the number of workers or ranks.

    \b
        avtools score onset-f1,av-align made.csv --summary made.json -o scored.csv
        avtools score av-align clips/*.mp4 --canary
    """
    from avtools.errors import UsageError
    from avtools.hub import Weights
    from avtools.metrics import check_installed, configured, scoring
    from avtools.models import registry

    names = [name.strip() for name in metric.split(",")]
    if len(set(names)) < len(names):
        raise UsageError(f"{metric}: a metric is named twice; name each once")
    classes = [registry.metric(name) for name in names]
    for one in classes:
        check_installed(one)
    given = Weights.parse(weights)
    given.check(dict.fromkeys(name for one in classes if one.network for name in (one.name, *(part.name for part in one.parts))))
    columns = {"video": video_column, "audio": audio_column, "reference_video": reference_video_column, "reference_audio": reference_audio_column}
    within = None if exchange is None else tuple(name.strip() for name in exchange.split(",") if name.strip())
    return scoring.work(
        configured(classes, protocol, sets),
        shared,
        named=columns,
        protocol=protocol,
        summary=summary,
        canary=canary,
        exchange=within,
        seed=seed,
        weights=given,
    )
