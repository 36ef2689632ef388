"""avtools compare"""

import click

from avtools.cli import Files, row_command

COLUMNS = ("column", "metric", "direction", "a", "a_interval", "a_count", "b", "b_interval", "b_count", "difference", "better")


@row_command(inputs=False)
@click.argument("a", metavar="A.json", type=Files("json"))
@click.argument("b", metavar="B.json", type=Files("json"))
@click.option("--anyway", is_flag=True, help="Compare unlike summaries too; what differs is still said.")
def command(shared, a, b, anyway):
    """Set two summaries of 'score' side by side: a row for each column that both have.

    Unlike ones are refused (status 2, naming what differs): other rows, settings, protocols, media (rates, sizes,
    frames), weights, or versions.  A control (score --exchange) may stand beside its true pairs.

    \b
    column                  meaning
    column, metric          what was measured
    direction               higher or lower is better; none
    a, a_interval, a_count  A's result, its 95 % interval (JSON), how many rows it is made of
    b, b_interval, b_count  B's
    difference              b - a
    better                  a or b, where the intervals do not overlap

    \b
        avtools compare before.json after.json
    """
    from avtools import rows
    from avtools.cli import command_path
    from avtools.errors import UsageError
    from avtools.metrics import comparing
    from avtools.stream import Work

    one, other = comparing.read(a), comparing.read(b)
    unlike = comparing.differences(one, other)
    if unlike and not anyway:
        raise UsageError(f"{a} and {b} are not alike ({'; '.join(unlike)}); --anyway compares them nevertheless")
    for line in unlike:
        click.echo(f"{command_path()}: unlike: {line}", err=True)
    found = comparing.side_by_side(one, other)
    if not found:
        raise UsageError(f"{a} and {b} have no metric in common")
    records = (rows.Record(row, row["column"]) for row in found)
    lines = [f"a: {comparing.label(a, one)}", f"b: {comparing.label(b, other)}"]
    return Work(as_found, records=lambda stdin: (list(COLUMNS), "csv", records), inline=True, report=lambda: lines)


def as_found(row: dict, options: dict) -> dict:
    return {}
