"""avtools sample"""

import click

from avtools.cli import SOUNDS, VIDEOS, Files, row_command
from avtools.models.registry import systems_beginning


@row_command(files="some", instead=("video", "image", "audio", "text"))
@click.argument("system", metavar="SYSTEM", shell_complete=systems_beginning)
@click.option("--weights", metavar="[PART=]SOURCE", multiple=True, help="Weights of the system or of one of its parts: a file, a folder, a training run, or hf:OWNER/NAME[@REVISION] (repeatable).")
@click.option("--video", metavar="FILE", type=Files(*VIDEOS), help="Make one row by hand: its video.")
@click.option("--image", metavar="FILE", type=Files("png", "jpg", "jpeg", "webp", "bmp"), help="Make one row by hand: its picture to animate.")
@click.option("--audio", metavar="FILE", type=Files(*SOUNDS), help="Make one row by hand: its sound.")
@click.option("--text", metavar="TEXT", help="Make one row by hand: its caption.")
@click.option("--steps", type=click.IntRange(1, 100_000), metavar="N", help="Steps of the sampler (default: the system's).")
@click.option("--guidance", type=float, metavar="G", help="Strength of guidance; 1 and below: none, in a single pass (default: the system's).")
@click.option("--scheduler", metavar="NAME", help="Noise schedule and solver (default: the system's).")
@click.option("--samples-per-row", "samples", type=click.IntRange(1, 10_000), metavar="N", default=1, show_default=True, help="Samples of each row, named _0, _1, ...: a row each, with the input's key in the column 'group'.")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Samples generated at once; halved where memory does not suffice (default: the system's).")
@click.option("--mux", is_flag=True, help="Put the generated sound onto the picture, cut to its length: column 'generated_path'.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Another seed gives other samples; a sample depends on it, the row's key and the sample's number alone.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True, help="Of the networks.")
@click.option("--prompt-pool", metavar="FILE", type=Files("txt"), help="Instructions to ask the system's language model with, one a line (default: the system's).")
@click.option("--group-by", metavar="COLUMN", help="Consecutive rows with the same COLUMN are one, their stems its sources (stem_path and query, as 'avtools separate' writes them).")
@click.option("--layout", type=click.Choice(["lr", "td", "three", "quad"]), help="Where sources are seen: two side by side, two one above the other, three, four (default: the one for so many).")
@click.option("--box", "boxes", metavar="NAME=L,T,R,B", multiple=True, help="Where the source NAME is seen, or of that number: left, top, right, bottom as shares of the picture; NAME@FRAME=... for one that moves (repeatable).")
@click.option("--preset", metavar="NAME", help="The system's configuration, where the weights do not tell it.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Change one value of the configuration (repeatable).")
def command(shared, system, weights, video, image, audio, text, steps, guidance, scheduler, samples, batch_size, mux, seed, precision, prompt_pool, group_by, layout, boxes, preset, sets):
    """Generate sound or video for each row with SYSTEM ('avtools systems' lists them).

    Files come to DIR at the row's relpath (else its name): sound as 16-bit WAV, pictures as H.264.  Adds
    generated_audio_path and generated_path, as far as the system makes them.  --video, --image, --audio and --text
    make one row in place of a table; sound or image that is not given comes from the video.  --jobs counts the
    processes that decode and write; the networks run on the GPU, if there is one.

    \b
        avtools sample vta-ldm test.csv --weights run/ -d out --mux > t.csv
        avtools sample maestro stems.csv --group-by group --layout lr --weights run/ --weights base=model.ckpt -d out --mux > t.csv
    """
    from avtools import sampling
    from avtools.errors import UsageError
    from avtools.hub import Weights
    from avtools.models import registry
    from avtools.training import config

    found, kind = Weights.parse(weights), registry.system(system)
    told = [f"--{name}" for name, value in (("group-by", group_by), ("layout", layout), ("box", boxes)) if value]
    if told and not kind.groups:
        raise UsageError(f"{system} knows nothing of several sources; leave out {' and '.join(told)}")
    found.check(part.name for part in kind.parts)
    made = kind.from_weights(found, preset, [*sets, *config.option("prompt-pool", kind, "prompt_pool", prompt_pool, config.lines)])
    if made.makes and not shared.outdir:
        raise click.UsageError("where to? give -d DIR")
    row = sampling.row_by_hand({"video": video, "image": image, "audio": audio, "text": text})
    if row is not None:
        shared.jobs = shared.jobs or 1
    given = {"steps": steps, "guidance": guidance, "scheduler": scheduler, "layout": layout, "boxes": boxes}
    if group_by and row is not None:
        raise UsageError("--group-by is for rows of a table; leave it out")
    records = sampling.grouped(shared.inputs, shared.from_format, group_by, kind.needs) if group_by else None
    return sampling.work(made, found, given, samples=samples, batch_size=batch_size, seed=seed, key=shared.key, precision=precision, mux=mux, row=row, records=records)
