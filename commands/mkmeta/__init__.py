"""avtools mkmeta: make, join, filter, split and describe tables."""

import click

from avtools.cli import HELP, Commands


@click.group("mkmeta", cls=Commands, package="avtools.commands.mkmeta", context_settings=HELP)
def command():
    """Make, join, filter, split and merge tables."""
