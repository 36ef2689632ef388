"""avtools mkmeta shuffle"""

import array
import hashlib
import json
import tempfile

import click

from avtools.cli import row_command


@row_command()
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed makes another order.")
def command(shared, seed):
    """Put the rows into a random order.

    The order depends on the seed and the rows alone, not on the order that they come in.  The table goes
    through a temporary file; memory holds 16 bytes a row.

    \b
        avtools mkmeta shuffle t.csv --seed 1 -o shuffled.csv
    """
    from avtools import rows
    from avtools.stream import Work, as_it_is

    def records(stdin):
        source = rows.open_rows(shared.inputs, shared.from_format, stdin=stdin)
        return source.columns, source.format, _shuffled(source, seed)

    return Work(as_it_is, records=records, inline=True)


def _shuffled(source, seed: int):
    import numpy

    from avtools.rows import Record

    places, hashes = array.array("Q"), array.array("Q")
    with tempfile.TemporaryFile() as spool:
        position = 0
        for record in source:
            line = json.dumps([record.row, record.origin]).encode() + b"\n"
            content = json.dumps(record.row).encode()
            hashes.append(int.from_bytes(hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest(), "big"))
            places.append(position)
            position += spool.write(line)
        for index in numpy.argsort(numpy.frombuffer(hashes, "u8"), kind="stable") if hashes else ():
            spool.seek(places[index])
            yield Record(*json.loads(spool.readline()))
