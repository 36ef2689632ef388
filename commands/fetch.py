"""avtools fetch"""

import click

from avtools.cli import row_command
from avtools.models.registry import fetched_beginning

COLUMNS = ("part", "source", "path", "size", "licence")


@row_command(inputs=False)
@click.argument("system", metavar="SYSTEM|METRIC", shell_complete=fetched_beginning)
@click.option("--part", "parts", metavar="NAME", multiple=True, help="Get this part, optional or not (repeatable; default: all that are not optional).")
def command(shared, system, parts):
    """Get the weights that a system or a metric needs into the hub's cache, for machines that have no network.

    What is there already is not downloaded again; an interrupted download goes on.  HF_HOME names the cache's
    folder.  Prints a row for each part: part, source, path (its folder in the cache), size (bytes), licence.
    'avtools systems' and 'avtools metrics' list parts; what is not on the hub is named with the page to get it from.

    \b
        avtools fetch vta-ldm
        avtools fetch clap
    """
    import os

    from avtools import hub
    from avtools.models import registry
    from avtools.stream import Work, as_it_is

    if shared.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    known = registry.parts(system)
    wanted = _wanted(system, known, parts)
    by_hand = [part for part in known if part.source and not part.source.startswith("hf:")]
    if not parts and [part for part in wanted if part not in by_hand]:
        wanted = [part for part in wanted if part not in by_hand]
    lines = [f"{part.name or hub.MAIN}{' (optional)' if part.optional else ''}: is not on the hub; get it by hand from {part.source}" for part in by_hand]
    return Work(as_it_is, records=lambda stdin: (list(COLUMNS), "csv", _fetched(system, wanted)), inline=True, report=lambda: lines)


def _wanted(system: str, known, names: tuple[str, ...]) -> list:
    """The parts asked for, each once, in the order of the system."""
    from avtools import hub
    from avtools.errors import UsageError

    by_name = {part.name or hub.MAIN: part for part in known}
    for name in names:
        if name not in by_name:
            raise UsageError(f"{system} has no part '{name}' (it has: {', '.join(by_name) or 'none'})")
    every = all(part.optional for part in known)  # what is optional for a system may be all that a metric is made of
    default = [name for name, part in by_name.items() if not part.optional or every and part.source.startswith("hf:")]
    return [part for name, part in by_name.items() if name in (names or default)]


def _fetched(system: str, parts: list):
    from avtools import hub, rows

    for part in parts:
        path = hub.locate(part.source, part, system)
        cells = (part.name or hub.MAIN, part.source, str(path), hub.size_of(path, part.files), part.licence)
        yield rows.Record(dict(zip(COLUMNS, cells, strict=True)), part.source)
