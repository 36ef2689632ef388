"""avtools mkmeta merge"""

from avtools.cli import row_command


@row_command()
def command(shared):
    """Put tables one after another; the columns are those of all of them.

    Joins what '--shard 1/N' to '--shard N/N' made, in the order that they are named.

    \b
        avtools mkmeta merge part-1.csv part-2.csv -o whole.csv
    """
    from avtools.stream import Work, as_it_is

    return Work(as_it_is, inline=True)
