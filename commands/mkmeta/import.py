"""avtools mkmeta import"""

import os

import click

from avtools.cli import Files, row_command
from avtools.models import registry


@row_command(files="some", inputs=False)
@click.argument("layout", metavar="LAYOUT", shell_complete=registry.layouts_beginning)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=Files("csv", "jsonl", "json", "parquet", "tar", "txt"))
@click.option("--media-root", metavar="DIR", type=Files(), help="vatt: where the clips of its ids are looked for (default: rows without path).")
@click.option("--fps", type=click.FloatRange(0, min_open=True), metavar="N", help="maestro: the frames' rate (default: as many as fill the sound).")
def command(shared, layout, sources, **settings):
    """Read what other programs laid out, as a table of ours.

    SOURCE is the folder, or the file that lists the rows.  What 'mkmeta export' laid out comes back with all
    its cells; records that were changed or added since are read as they stand.

    \b
    javisdit     tables of its columns; placeholder.mp4 stays for "no picture"
    vta-ldm      JSONL or JSON with video_path, feature_file, audio_file, description (or captions)
    avsyncd      train.txt, test.txt beside videos/ and class_mapping.json
    maestro      folders of frames and WAV; with -d DIR, where the videos are made of them
    vatt         JSON lists of instructions; --media-root finds the clips of their ids
    webdataset   .tar shards; with -d DIR, where the media are unpacked to
    hf-datasets  Parquet files, with -d DIR, where the media are unpacked to

    \b
        avtools mkmeta import vta-ldm train.jsonl -o train.csv
        avtools mkmeta import webdataset shards/ -d unpacked > t.csv
    """
    from avtools import exchange
    from avtools.errors import UsageError
    from avtools.stream import Work

    kind = registry.layout(layout)
    kind.refuse_others(layout, settings)
    if kind.unpacks and not shared.outdir:
        raise click.UsageError(f"{layout} holds media that must be written out: where to? give -d DIR")
    for source in sources:
        if not os.path.exists(source):
            raise UsageError(f"{source}: no such file or folder; give what lists the rows, or the folder that it lies in")
    options = {"layout": layout, **settings}
    made = registry.made_layout(options)
    restored = [exchange.Restored(exchange.originals_of(source, layout)) for source in sources]

    def records(stdin):
        parts = [(known, *made.read(source)) for source, known in zip(sources, restored)]
        columns: dict[str, None] = {}
        for source, (known, own, _) in zip(sources, parts):
            columns.update(dict.fromkeys(known.columns))
            if not known or not kind.packed and _has_others(made, source, layout):
                columns.update(dict.fromkeys(own))
        format_ = next((known.format for known in restored if known.format), "csv")
        return list(columns), format_, (record for known, _, items in parts for record in _records(kind, known, items))

    def report():
        return [line for known in restored for line in known.notes()] + made.notes()

    return Work(
        unpack if kind.unpacks else as_read,
        options,
        columns=kind.holds if kind.unpacks else (),
        records=records,
        wants=unpacked_files if kind.unpacks else None,
        operation=f"import-{layout}/{kind.version}",
        inline=not kind.unpacks,
        preload=(kind.__module__,),
        report=report,
        sees=lambda row: None,  # the private cell is not written
    )


PRIVATE = "\0private"


def _has_others(made, source, layout) -> bool:
    """Whether some records were added or changed since the export: then they have their own columns."""
    from avtools import exchange

    known = exchange.Restored(exchange.originals_of(source, layout))
    items = made.read(source)[1]
    return any(known.row(item.record) is None for stream in (items if isinstance(items, list) else [items]) for item in stream)


def _records(kind, known, items):
    """Records of the items, in the order in which they were exported."""
    from avtools.exchange import in_order
    from avtools.rows import Record

    for row, item in in_order(known, items if isinstance(items, list) else [items], kind.holds):
        yield Record({**row, PRIVATE: item.private} if kind.unpacks else row, item.origin)


def as_read(row: dict, options: dict) -> dict:
    return {}


def unpacked_files(row: dict, options: dict) -> list:
    """The files that a row's media are written to."""
    return registry.made_layout(options).unpack_wants(_public(row), row[PRIVATE])


def unpack(row: dict, maker, options: dict) -> dict:
    """Write a row's media out."""
    return registry.made_layout(options).unpack(_public(row), row[PRIVATE], maker)


def _public(row: dict) -> dict:
    return {column: cell for column, cell in row.items() if column != PRIVATE}
