"""avtools score"""

import click

from avtools.cli import Files, row_command


def metrics(ctx, param, incomplete):
    from avtools.models.registry import metric_names

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in metric_names() if name.startswith(last)]


@row_command()
@click.argument("metric", metavar="METRIC[,METRIC...]", shell_complete=metrics)
@click.option("--protocol", metavar="NAME", help="A paper's choices instead of the standard definition: asva, javisbench, mmaudio, vatt; METRIC 'all' is then all that it has.")
@click.option("--summary", metavar="FILE", type=Files("json"), help="Write the set's results and all that they depend on to FILE as JSON.")
@click.option("--canary", is_flag=True, help="Judge silence, noise, other rows' sounds and a shift of 0.4 s too, and say which metric cannot tell them from the true pairs.")
@click.option("--exchange", metavar="COLUMN[,COLUMN...]", help="A control: judge each row with the sound of another row that has the same cells in these columns ('' for any row).")
@click.option("--video-column", metavar="COLUMN", help="The judged picture (default: generated_path, else path).")
@click.option("--audio-column", metavar="COLUMN", help="The judged sound (default: generated_audio_path, else audio_path, else the picture's own).")
@click.option("--reference-video-column", metavar="COLUMN", help="The true picture (default: path).")
@click.option("--reference-audio-column", metavar="COLUMN", help="The true sound (default: audio_path, else the true picture's own).")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Change a setting of a metric, such as onset-f1.tolerance=0.1 (repeatable).")
@click.option("--weights", metavar="[NAME=]SOURCE", multiple=True, help="Weights of a network, by the name of its part in 'avtools metrics' (of fvd, fid, ia, it and the AVSync classifier's by the metric's, too): a file, a folder, or hf:OWNER/NAME[@REVISION] (repeatable).")
@click.option("--by", metavar="COLUMN[,COLUMN...]", help="Results of each part of the set, too: of the rows with the same cell in this column.")
@click.option("--intervals", type=click.Choice(["t", "bootstrap"]), default="t", show_default=True, help="Of means over rows: Student's t, or a bootstrap over keys, which knows that samples of one clip are alike. Those of whole sets are a jackknife's.")
@click.option("--cache", metavar="DIR", type=Files(), envvar="AVTOOLS_CACHE", help="Keep networks' features in DIR by the content of the files, and read them there (default: the environment's AVTOOLS_CACHE, if it is set).")
@click.option("--batch-size", metavar="N", type=click.IntRange(1), default=16, show_default=True, help="Clips that a network sees at once; the results do not depend on it.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Of the controls' noise and exchanged sounds.")
def command(shared, metric, protocol, summary, canary, exchange, video_column, audio_column, reference_video_column, reference_audio_column, sets, weights, by, intervals, cache, batch_size, seed):
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
    from avtools.metrics import check_installed, configured, named, scoring
    from avtools.models import registry

    if metric == "all" and protocol is None:
        raise UsageError("all: of a protocol; give --protocol NAME, or name the metrics")
    names = list(registry.protocol(protocol)) if metric == "all" else [name.strip() for name in metric.split(",")]
    if len(set(names)) < len(names):
        raise UsageError(f"{metric}: a metric is named twice; name each once")
    classes = [registry.metric(name.partition(":")[0]) for name in names]
    variants = [named(name, one) for name, one in zip(names, classes, strict=True)]
    metrics = configured(classes, protocol, sets, variants)
    for one in metrics:
        check_installed(one)
    given = Weights.parse(weights)
    given.check(dict.fromkeys(known for one in metrics if one.network for known in one.weights_names))
    columns = {"video": video_column, "audio": audio_column, "reference_video": reference_video_column, "reference_audio": reference_audio_column}
    return scoring.work(
        metrics,
        shared,
        named=columns,
        protocol=protocol,
        summary=summary,
        canary=canary,
        exchange=_columns(exchange),
        seed=seed,
        weights=given,
        intervals=intervals,
        by=_columns(by) or (),
        cache=cache,
        batch_size=batch_size,
    )


def _columns(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
