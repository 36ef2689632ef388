"""avtools mkmeta captions"""

import collections

import click

from avtools.cli import row_command
from avtools.errors import RowError, UsageError

DEFAULT = ("text", "audio_text")


@row_command()
@click.option("--column", "columns", metavar="COLUMN", multiple=True, help="A column of captions (repeatable; default: those of text, audio_text that the table has).")
@click.option("--clean", is_flag=True, help="Mend wrong decoding, HTML entities, invisible characters, runs of blanks, stray quotes around the whole.")
@click.option("--language", metavar="CODE[,CODE]", help="Drop rows with a caption that is certainly in another language (ISO 639-1, such as en,de).")
@click.option("--drop-empty", is_flag=True, help="Drop rows that have a caption in none of the columns.")
def command(shared, columns, clean, language, drop_empty):
    """Clean captions, and drop rows by their language or their lack of captions.

    Cleaning comes first and changes the columns in their place; correct text of any script stays as it is.  A row is
    dropped for its language where another one is 10,000 times as likely as those that are asked for (English: 10
    times); labels of a word or two are in doubt and stay.  Empty captions are of no language.

    \b
        avtools mkmeta captions t.csv --clean --drop-empty --language en -o clean.csv
    """
    from avtools.stream import Work

    if not (clean or language is not None or drop_empty):
        raise UsageError("nothing to do: give --clean, --language or --drop-empty")
    options = {"clean": clean, "language": None, "drop_empty": drop_empty, "counts": collections.Counter()}
    if language is not None:
        from avtools.datasets.captions import Languages

        options["language"] = Languages(language)

    def begin(header: list[str]) -> dict:
        have = ", ".join(header)
        if missing := [column for column in columns if header and column not in header]:
            raise UsageError(f"--column {missing[0]}: the table has no such column (it has: {have})")
        if header and not columns and not set(DEFAULT) & set(header):
            raise UsageError(f"the table has neither a column 'text' nor 'audio_text'; name one with --column (it has: {have})")
        return {**options, "columns": tuple(dict.fromkeys(columns or DEFAULT))}  # in JSONL a column may turn up later

    return Work(caption_row, options, inline=True, begin=begin, report=lambda: _report(options))


def caption_row(row: dict, options: dict) -> dict | None:
    """The cleaned captions of a row; None where it is filtered."""
    from avtools.datasets.captions import clean
    from avtools.rows import cell_text

    counts, cells, empty = options["counts"], {}, True
    texts = {}
    for column in options["columns"]:
        value = row.get(column)
        if isinstance(value, (list, dict)):
            raise RowError(f"column {column} holds a {'list' if isinstance(value, list) else 'mapping'} and no caption; make it a text")
        text = cell_text(value)
        if options["clean"] and isinstance(value, str):
            text = clean(text)
            if text != value:
                cells[column] = text
        texts[column] = text
        empty = empty and not text.strip()
    if empty and options["drop_empty"]:
        counts["empty"] += 1
        return None
    if options["language"] is not None:
        for column, text in texts.items():
            if not options["language"].holds(text):
                counts["foreign", column] += 1
                return None
    counts["cleaned"] += len(cells)
    return cells


def _report(options: dict) -> list[str]:
    counts, lines = options["counts"], []
    if options["clean"]:
        lines.append(f"{counts['cleaned']} captions changed by cleaning")
    if options["drop_empty"]:
        lines.append(f"{counts['empty']} rows filtered: without a caption")
    if options["language"] is not None:
        codes = ", ".join(options["language"].codes)
        found = [(kind[1], count) for kind, count in counts.items() if isinstance(kind, tuple)]
        lines += [f"{count} rows filtered: {column} in another language than {codes}" for column, count in found or [("captions", 0)]]
    return lines
