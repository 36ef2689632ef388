"""avtools separate"""

import click

from avtools.cli import Files, row_command
from avtools.errors import UsageError


@row_command(files=True)
@click.option("--query", "queries", metavar="TEXT", multiple=True, help="What to separate from every sound, in words (repeatable).")
@click.option("--query-column", metavar="COLUMN", help="The column that says what to separate: a text, or a list of texts.")
@click.option("--query-file", metavar="FILE", type=Files("json"), help="JSON that says it: {sound file's name without suffix: [text, ...]}, as for JavisDiT.")
@click.option("--propose", is_flag=True, help="Propose it from the caption (audio_text, else text), by a plain rule for English.")
@click.option("--method", type=click.Choice(["audiosep", "hpss", "nmf"]), default="audiosep", show_default=True, help="AudioSep; or without texts and weights: sustained and percussive sound; parts that recur.")
@click.option("--components", type=click.IntRange(1, 32), metavar="N", default=4, show_default=True, help="Parts of --method nmf.")
@click.option("--residual", is_flag=True, help="A further stem: what the others leave of the sound.")
@click.option("--active-db", type=click.FloatRange(-100, 0), metavar="DB", default=-30, show_default=True, help="A stem is active where it is louder than this, relative to the level of the whole sound.")
@click.option("--windows", type=click.Choice(["fade", "full", "legacy"]), default="fade", show_default=True, help="Long sounds: windows that fade into each other; one pass; the original's hard joins.")
@click.option("--sample-format", type=click.Choice(["s16", "s24", "f32"]), default="f32", show_default=True, help="Of the stems (WAV); integers clip what exceeds full scale.")
@click.option("--pool-list", metavar="FILE", type=Files("txt"), help="Write a list of the stems that sound, as JavisDiT's augmentations read it.")
@click.option("--legacy-json", "legacy", is_flag=True, help="Name stems as JavisDiT does and write its JSON of intervals beside them.")
@click.option("--weights", metavar="[PART=]SOURCE", multiple=True, help="Weights of AudioSep or of one of its parts: a file, a folder, a training run, or hf:OWNER/NAME[@REVISION] (repeatable).")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", default=8, show_default=True, help="Sounds, and windows of long ones, separated at once on a GPU (a channel for a query is one); halved where memory does not suffice.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True, help="Of the network.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Of --method nmf; what is drawn depends on it and the row's key alone.")
def command(shared, queries, query_column, query_file, propose, method, windows, pool_list, weights, batch_size, precision, **options):
    """Separate each row's sound (audio_path, else the video's own) into stems: a row for each.

    Stems have the rate, all channels and the exact length of the sound, and are written below DIR as
    RELPATH__QUERY.wav.  Adds query, stem_path, active ([[start, end], ...], the seconds in which the stem is heard)
    and group (the input row's key); audio_path remains the sound that was separated.  The network works at its own
    rate (32 kHz), so what lies above 16 kHz is in no stem but the --residual: RELPATH__residual.wav, with a mark
    behind it where rows have queries of their own.

    \b
    --method hpss    harmonic, percussive, residual: medians of the spectrum along time and frequency
    --method nmf     component 0, 1, ...: spectra that recur, the loudest first; they sum to the sound

    \b
        avtools separate t.csv --query "dog barking" --query rain --residual -d stems > stems.csv
        avtools separate t.csv --propose --legacy-json --pool-list pool/pool_list.txt -d pool > stems.csv
    """
    from avtools.augment.pool import PoolList
    from avtools.hub import Weights
    from avtools.models import separating
    from avtools.models.separating.queries import file_of_queries, unique

    given = [name for name, value in (("--query", queries), ("--query-column", query_column), ("--query-file", query_file), ("--propose", propose)) if value]
    if method != "audiosep" and given:
        raise UsageError(f"--method {method} separates without being told what; leave out {' and '.join(given)}")
    if method == "nmf" and options["residual"]:
        raise UsageError("the components of --method nmf sum to the sound, so nothing is left; leave out --residual")
    if method != "audiosep" and weights:
        raise UsageError(f"--method {method} has no weights; leave out --weights")
    if method == "audiosep" and len(given) != 1:
        raise UsageError(f"what is to be separated? give one of --query, --query-column, --query-file, --propose{', not ' + ' and '.join(given) if given else ''}")
    texts = unique(queries)
    if len(texts) < len(queries) and not all(text.strip() for text in queries):
        raise UsageError("--query is empty; say in words what to separate")
    if query_file:
        file_of_queries(query_file)
    options |= {"method": method, "queries": texts, "query_column": query_column, "query_file": query_file, "propose": propose, "key": shared.key}
    tees = (PoolList(pool_list, separating.heard),) if pool_list else ()
    return separating.work(options, Weights.parse(weights), windows=windows, precision=precision, batch_size=batch_size, tees=tees)
