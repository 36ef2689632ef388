"""avtools resample"""

import click

from avtools.cli import row_command

FORMATS = ("u8", "s16", "s24", "s32", "f32", "f64")


class Channels(click.ParamType):
    """A channel count, or `keep`."""

    name = "N|keep"

    def get_metavar(self, param, ctx):
        return self.name

    def convert(self, value, param, ctx):
        if value == "keep" or isinstance(value, int):
            return value
        if not (value.isascii() and value.isdecimal() and 0 < int(value[:9]) <= 1024):
            self.fail(f"'{value}' is neither a channel count nor 'keep'", param, ctx)
        return int(value)


@row_command(files=True, in_place=True)
@click.option("--rate", type=click.IntRange(1, 10_000_000), metavar="HZ", required=True, help="Samples per second.")
@click.option("--channels", type=Channels(), default="keep", show_default=True, help="1 averages all channels.")
@click.option("--sample-format", type=click.Choice(FORMATS), help="Default: that of the source (16 bit for lossy ones).")
@click.option("--suffix", type=click.Choice(["wav", "flac"]), help="Write this kind of file (default: the source's if lossless, else wav).")
def command(shared, **options):
    """Resample the sound files of the column 'audio_path'.

    The sample format is kept; the resampler is soxr at its very high quality (no delay, aliases below
    -100 dB).  A file that has the rate, channels and format already is linked, not rewritten.

    \b
        avtools mkmeta scan audio wav/ | avtools resample --rate 16000 -d wav16 > t.csv
    """
    from avtools.stream import Work

    return Work(resample_row, options, needs=("audio_path",), wants=wants, operation="resample/1", settles=True, preload=("avtools.media.sound",))


def wants(row: dict, options: dict):
    from avtools.media.suffixes import sound_suffixes
    from avtools.outputs import Want
    from avtools.rows import path_of

    source = path_of(row, "audio_path")
    return [Want("audio_path", (source,), sound_suffixes(source, options["suffix"]), may_keep=True)]


def resample_row(row: dict, maker, options: dict) -> dict:
    from avtools.media import sound
    from avtools.media.columns import present
    from avtools.media.probe import probe_sound, read_back, sound_columns

    source = row["audio_path"]
    target = options["rate"], options["channels"], options["sample_format"]

    def conforms() -> bool:
        asked = options["suffix"]
        if asked and not source.lower().endswith("." + asked):
            return False
        return sound.conforms(sound.sound_format(source), *target)

    made = maker.make(
        "audio_path",
        build=lambda out, suffix: sound.resample_file(source, out, *target, suffix=suffix),
        measure=lambda path: sound_columns(probe_sound(path)),
        conforms=conforms,
        verify=read_back,
    )
    return {"audio_path": made.path, **present(row, made.columns)}
