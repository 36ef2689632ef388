"""avtools gen-unpaired"""

import click

from avtools.cli import FractionType, row_command
from avtools.errors import UsageError


@row_command(files=True)
@click.option("--text-column", metavar="COLUMN", help="The caption (default: audio_text, else text).")
@click.option("--match-duration", "match", is_flag=True, help="As long as the row's clip: num_frames / fps, else duration, else audio_duration.")
@click.option("--seconds", type=FractionType(positive=True), metavar="S", help="Length of every sound (default: what the model was trained on, 10.24 s).")
@click.option("--rate", type=click.IntRange(1000, 384_000), metavar="HZ", help="Sample rate (default: the row's audio_fps, else the model's 16000).")
@click.option("--negative-prompt", "negative", metavar="TEXT", default="", help="What to keep away from (default: nothing).")
@click.option("--candidates", type=click.IntRange(1, 64), metavar="N", default=1, show_default=True, help="Generate N sounds and keep the one that CLAP finds closest to the caption.")
@click.option("--guidance", type=click.FloatRange(0), metavar="G", default=3.5, show_default=True, help="How closely the caption is followed; up to 1: no guidance, and half the work.")
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", default=200, show_default=True, help="Denoising steps.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="What is drawn depends on it, the row's key and the candidate alone.")
@click.option("--sample-format", type=click.Choice(["s16", "s24", "f32"]), default="s16", show_default=True, help="Of the WAV files (the original's: f32).")
@click.option("--weights", metavar="SOURCE", multiple=True, help="AudioLDM 2: a folder as diffusers writes it, or hf:OWNER/NAME[@REVISION] (default: hf:cvssp/audioldm2).")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", default=16, show_default=True, help="Sounds generated at once; halved where memory does not suffice.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True, help="Of the diffusion network.")
def command(shared, match, seconds, negative, weights, batch_size, precision, **options):
    """Generate a sound for each row from its caption alone, with AudioLDM 2: what the scene might sound like, unseen.

    Adds unpaired_audio_path: a mono WAV below DIR at the row's relpath.  The sound is generated as long as asked for (at
    most 120 s; what is shorter than 2.56 s is the begin of one that long), cut to the exact sample and resampled to the
    row's rate, so that the file's header is true.  Other files of the row are not read.

    The table is what JavisDiT's training reads (its INPUT_unpaired_audios.csv), but for rows without caption, which are
    bad.  Of captions in several rows of one clip, each needs a relpath of its own.

    \b
        avtools fetch gen-unpaired
        avtools gen-unpaired t.csv --match-duration -d unpaired > t_unpaired_audios.csv
        torchrun --nproc-per-node 8 -m avtools gen-unpaired t.csv --candidates 3 --precision bf16 -d unpaired -o u.csv
    """
    import functools

    from avtools.cli import command_path
    from avtools.hub import Weights
    from avtools.models.audioldm2 import LONGEST, making

    if match and seconds is not None:
        raise UsageError("--match-duration says how long the sounds are; leave out --seconds")
    if seconds is not None and seconds > LONGEST:
        raise UsageError(f"--seconds {float(seconds):g}: no more than {LONGEST} s are generated")
    if negative and options["guidance"] <= 1:
        raise UsageError("--negative-prompt has no effect with --guidance up to 1; leave it out, or guide")
    options |= {"match": match, "seconds": seconds, "negative": " ".join(negative.split()), "key": shared.key}
    say = None if shared.quiet else functools.partial(_say, command_path())
    return making.work(options, Weights.parse(weights), precision=precision, batch_size=batch_size, say=say)


def _say(path: str, line: str) -> None:
    click.echo(f"{path}: {line}", err=True)
