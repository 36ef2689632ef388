"""avtools systems"""

from avtools.cli import row_command

COLUMNS = ("system", "title", "presets", "parts", "licence", "released_run")


@row_command(inputs=False)
def command(shared):
    """List the systems that can be trained and sampled.

    \b
    column        meaning (lists are JSON)
    system        the name that train, sample, features and fetch take
    title         what it is
    presets       configurations for --preset
    parts         what it downloads: [{part, source, size (bytes), licence, optional}, ...]
    licence       of the released weights
    released_run  whether the released weights themselves were ever run here

    \b
        avtools systems
    """
    from avtools import rows
    from avtools.models.registry import SYSTEMS
    from avtools.stream import Work

    records = (rows.Record({"system": name}, name) for name in sorted(SYSTEMS))
    return Work(describe, records=lambda stdin: (list(COLUMNS), "csv", records), inline=True)


def describe(row: dict, options: dict) -> dict:
    from avtools.errors import RowError
    from avtools.hub import MAIN
    from avtools.models import registry

    try:
        system = registry.system(row["system"])
    except ImportError as error:
        raise RowError(f"system '{row['system']}' cannot be imported ({error}); pip install 'avtools[models]'") from None
    parts = [
        {"part": part.name or MAIN, "source": part.source, "size": part.size, "licence": part.licence, "optional": part.optional}
        for part in system.parts
    ]
    return {
        "title": system.title,
        "presets": list(system.presets),
        "parts": parts,
        "licence": system.licence,
        "released_run": system.released_run,
    }
