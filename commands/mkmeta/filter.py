"""avtools mkmeta filter"""

import click

from avtools.cli import row_command


@row_command()
@click.option("--where", metavar="EXPR", required=True, help="Keep the rows for which EXPR holds.")
def command(shared, where):
    """Keep the rows for which an expression holds.

    Columns by name (odd names in backquotes), numbers, 'quoted strings'; == != < <= > >=, and, or, not,
    ( ), in [..], =~ 'regex'.  Where both sides are numbers they compare as numbers, else as text.  An empty
    cell makes a comparison false, but for == '' and != ''.  Bad rows that were kept pass, unless EXPR
    speaks of the column 'error'.

    \b
        avtools mkmeta filter t.csv --where "fps >= 24 and not (id =~ '^test_' or text == '')"
    """
    from avtools.rows.where import compile_where, names_in
    from avtools.stream import Work

    sees_errors = "error" in names_in(where)
    # an empty JSONL stream has no header to hold the names against
    return Work(keep, inline=True, begin=lambda header: {"holds": compile_where(where, header or None)}, sees_errors=sees_errors)


def keep(row: dict, options: dict) -> dict | None:
    return {} if options["holds"](row) else None
