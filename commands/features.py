"""avtools features"""

import click

from avtools.cli import row_command
from avtools.models.registry import systems_beginning


@row_command(files=True)
@click.argument("system", metavar="SYSTEM", shell_complete=systems_beginning)
@click.option("--weights", metavar="[PART=]SOURCE", multiple=True, help="Weights of the system or of one of its parts: a file, a folder, a training run, or hf:OWNER/NAME[@REVISION] (repeatable).")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Rows encoded at once; halved where memory does not suffice (default: the system's).")
@click.option("--normalize", is_flag=True, help="Bring features of pictures to unit length, for systems that leave them as they are (VATT).")
@click.option("--preset", metavar="NAME", help="The system's configuration, where the weights do not tell it.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Change one value of the configuration (repeatable).")
def command(shared, system, weights, batch_size, normalize, preset, sets):
    """Compute once, for each row, what training SYSTEM would recompute every epoch with its frozen encoders.

    Writes a safetensors file of arrays below DIR at the row's relpath (else its name) and adds features_path.  Each
    file names the encoders that made it; 'train' uses it, and refuses one of other encoders.

    \b
        avtools features vta-ldm train.csv --preset large -d features > t.csv
    """
    from avtools import features
    from avtools.hub import Weights
    from avtools.models import registry
    from avtools.training import config

    found, kind = Weights.parse(weights), registry.system(system)
    found.check(part.name for part in kind.parts)
    sets = [*sets, *config.option("normalize", kind, "unit_length", normalize)]
    return features.work(kind.from_weights(found, preset, sets), found, batch_size=batch_size)
