"""avtools mkmeta export"""

import click

from avtools.cli import row_command
from avtools.models import registry


@row_command(files=True)
@click.argument("layout", metavar="LAYOUT", shell_complete=registry.layouts_beginning)
@click.option("--class-column", metavar="COLUMN", help="avsyncd, maestro: the column that names a row's class (default: class, else label, else the first folder of relpath).")
@click.option("--form", type=click.Choice(["code", "readme"]), help="maestro: CLASS/VIDEO/VIDEO_0001.jpg, which its code reads (default), or VIDEO/00001.jpg, which its README describes.")
@click.option("--shard-size", type=click.IntRange(1), metavar="MB", help="webdataset, hf-datasets: begin a new file beyond this size (default: 1000).")
def command(shared, layout, **settings):
    """Lay a table and its media out as other programs read them, below DIR.

    Media are hard-linked where a layout holds them as they are.  Rows pass on, naming the files in DIR where it
    holds them.  Tables are written one for each value of the column 'split' (without one: train), all of them in one
    run: lists of an earlier export that this one has not are removed.  What a layout cannot hold is kept in
    DIR/.avtools, so that 'mkmeta import' gives back every cell.

    \b
    javisdit     DIR/train.csv with JavisDiT's columns and its placeholder rows
    vta-ldm      DIR/train.jsonl: video_path, feature_file, audio_file, description
    avsyncd      DIR/videos/CLASS/NAME.mp4, DIR/train.txt, DIR/test.txt, DIR/class_mapping.json
    maestro      DIR/CLASS/VIDEO/VIDEO_0001.jpg ..., VIDEO.wav
    vatt         DIR/v2a_instruction.json: video_path, dataset, output, split; DIR/features/ID.npy
                 where features_path names a .npy file
    webdataset   DIR/train-000000.tar ...: each row's media, its text, its cells as JSON
    hf-datasets  DIR/data/train-00000-of-00001.parquet ...: Parquet with the media inside, which
                 datasets.load_dataset reads

    \b
        avtools mkmeta export vta-ldm train.csv -d for-vta > exported.csv
    """
    from avtools import exchange
    from avtools.stream import Work

    kind = registry.layout(layout)
    kind.refuse_others(layout, settings)
    settings["form"] = settings["form"] or "code"
    if shared.shard:
        raise click.UsageError("--shard: the lists in DIR are of all rows; prepare in shards, join them by 'mkmeta merge', then export")
    options = {"layout": layout, **settings}
    made = registry.made_layout(options)
    made.overwrite = shared.overwrite
    sink = _Sink(made, layout, shared.outdir)
    return Work(
        lay_out_files if kind.makes_files else lay_out,
        options,
        columns=kind.sets,
        needs=kind.needs,
        wants=files_of if kind.makes_files else None,
        operation=f"export-{layout}/{kind.version}",
        identity={name: settings[name] for name in kind.matters},
        inline=not kind.makes_files,
        preload=(kind.__module__,),
        report=lambda: made.notes() + sink.notes(),
        sees=sink.see,
        tees=(sink,),
    )


def files_of(row: dict, options: dict) -> list:
    """The files that the layout holds for a row."""
    return registry.made_layout(options).wants(row)


def lay_out_files(row: dict, maker, options: dict) -> dict:
    """Make a row's files; its record goes to the sink under a name that no column has."""
    cells, record = registry.made_layout(options).export(row, maker)
    return {**cells, RECORD: record}


def lay_out(row: dict, options: dict) -> dict:
    return lay_out_files(row, None, options)


RECORD = "\0record"


class _Sink:
    """Between the rows that are written and what the layout lists them in."""

    def __init__(self, layout, name: str, folder: str):
        self.layout, self.name, self.folder = layout, name, folder

    def open(self, columns: list[str], header: list[str], format_: str) -> None:
        from avtools import exchange

        exchange.make_folder(self.folder)
        self.sink = self.layout.sink(self.folder, columns, format_)
        self.originals = exchange.Originals(self.folder, self.name, columns, format_)

    def see(self, row: dict) -> None:
        self.record = row.get(RECORD)
        if self.record is not None:  # rows that came with an error pass by
            self.sink.prepare(self.record, row)

    def write(self, row: dict) -> None:
        if self.record is not None:
            self.sink.write(self.record, row)
            self.originals.write(self.record, row)

    def commit(self) -> None:
        self.sink.commit()
        self.originals.commit()

    def notes(self) -> list[str]:
        gone = self.sink.gone
        names = ", ".join(gone[:3]) + (", ..." if len(gone) > 3 else "")
        return [f"{len(gone)} files of an earlier export, not of this table, were removed: {names}"] if gone else []

    def discard(self) -> None:
        if hasattr(self, "sink"):
            self.sink.discard()
        if hasattr(self, "originals"):
            self.originals.discard()
