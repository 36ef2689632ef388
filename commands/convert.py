"""avtools convert"""

import click

from avtools.cli import HELP, Files
from avtools.models.registry import systems_beginning


@click.command(context_settings=HELP)
@click.argument("system", metavar="SYSTEM", shell_complete=systems_beginning)
@click.option("--weights", metavar="[PART=]SOURCE", multiple=True, help="The released weights: a file, a folder, or hf:OWNER/NAME[@REVISION] (default: the system's own).")
@click.option("-d", "--outdir", metavar="DIR", type=Files(), required=True, help="Folder to write; it must not hold a checkpoint yet.")
@click.pass_context
def command(ctx, system, weights, outdir):
    """Write released weights as one of our checkpoint folders: config.json and safetensors, nothing else needed.

    The folder loads faster than the released files, holds no pickles, and is a SOURCE for --weights and --init.

    \b
        avtools convert vta-ldm -d weights/vta-ldm
    """
    from avtools import cli, hub
    from avtools.models import registry

    cli.enter(ctx)
    kind = registry.system(system)
    found = hub.Weights.parse(weights)
    found.check(part.name for part in kind.parts)
    click.echo(kind.convert(found, outdir))
