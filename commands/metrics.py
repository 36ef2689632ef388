"""avtools metrics"""

from avtools.cli import row_command

COLUMNS = ("metric", "title", "direction", "chance", "needs", "columns", "settings", "variants", "protocols", "source", "requires", "parts", "released_run")


@row_command(inputs=False)
def command(shared):
    """List the metrics that 'score' knows.

    \b
    column        meaning (lists and mappings are JSON)
    metric        the name that score takes
    title         what it is
    direction     higher or lower is better; none: it describes
    chance        what pairs that do not belong together get, or how that is found
    needs         picture, sound, reference (sound or its event_times), reference_sound, reference_picture,
                  text, generated_text, reference_text
    columns       what it adds to each row, or to the summary of the set, and what that means
    settings      what --set changes, with the defaults
    variants      what may follow its name and a colon (fad:clap), several of them at once
    protocols     papers' choices for --protocol
    source        where it is defined
    requires      packages beyond the base install
    parts         networks whose weights it needs (--weights PART=...): part, source, size, licence
    released_run  of a metric with a network: whether its released weights themselves were ever run here

    \b
        avtools metrics
    """
    from avtools import rows
    from avtools.metrics import PLAIN
    from avtools.models.registry import METRICS
    from avtools.stream import Work

    records = (rows.Record({"metric": name}, name) for name in sorted({**PLAIN, **METRICS}))
    return Work(describe, records=lambda stdin: (list(COLUMNS), "csv", records), inline=True)


def describe(row: dict, options: dict) -> dict:
    from avtools.errors import RowError
    from avtools.models import registry

    try:
        metric = registry.metric(row["metric"])
    except ImportError as error:
        raise RowError(f"metric '{row['metric']}' cannot be imported ({error}); pip install 'avtools[models]'") from None
    return {
        "title": metric.title,
        "direction": metric.direction,
        "chance": metric.chance_how if metric.chance is None else metric.chance,
        "needs": list(metric.needs),
        "columns": metric.columns,
        "settings": metric.settings,
        "variants": list(metric.variants),
        "protocols": list(metric.protocols),
        "source": metric.source,
        "requires": [package for _, package in metric.requires],
        "parts": [{"part": part.name, "source": part.source, "size": part.size, "licence": part.licence} for part in metric.parts],
        "released_run": metric.released_run,
    }
