"""avtools augment"""

import click

from avtools.augment.names import GROUPS, OPERATIONS
from avtools.cli import Files, row_command


def _list(ctx, param, value):
    if value:
        for name, (group, about, pool) in OPERATIONS.items():
            click.echo(f"{name:<13}  {group:<14}  {about}" + f" (--{pool})" * bool(pool))
        ctx.exit()


@row_command(files=True)
@click.argument("op", metavar="OP", type=click.Choice([*OPERATIONS, *GROUPS]))
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="List the augmentations and exit.")
@click.option("--masklets", metavar="POOL", type=Files("txt", "csv", "jsonl"), help="Objects to paste: a folder or table of 'avtools masklets', or a pool_list.txt.")
@click.option("--stems", metavar="POOL", type=Files("txt", "csv", "jsonl"), help="Sounds to add, and this sound's own sources to delete: a folder or table of 'avtools separate', or a pool_list.txt.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Another seed, other parameters.")
@click.option("--legacy", is_flag=True, help="The originals' random mask, which covers less than it says, and their fixed threshold of silence.")
def command(shared, op, masklets, stems, seed, legacy):
    """Change one thing of a clip that then no longer fits, as training sees it.

    OP is an augmentation, or a group of which one is drawn for each row.

    \b
    group           augmentation   what it does
    video-spatial   random-mask    squares of a grid turn grey in all frames
                    add-masklet    an object cut out of another video moves through
    video-temporal  video-shift    the pictures come later, the last ones first
                    stall          one picture stays, the rest come later
    audio-spatial   add-source     another sound is heard as well
                    delete-source  one source of the sound, or all, is gone for a while
                    volume         a part gets louder, softer or both
    audio-temporal  audio-shift    the sound comes later, its end first
                    mute           a silence comes in, the rest later
                    repeat         a part is heard three times, the rest later
                    speed          a part at half or double speed, at its pitch

    Each row's parameters are drawn from --seed and its key alone; the column 'augmentation' tells them (JSON;
    spans in frames or samples).  'path' becomes the picture with the sound: a changed picture is
    encoded anew (x264) with the sound as it was, a changed sound is put onto the picture as it was.
    'audio_path', where a row has it, is the sound, and becomes the changed one.  A row in which nothing would
    change (a still picture shifted, silence muted) is a bad row.

    \b
        avtools augment stall clips/*.mp4 -d stalled > stalled.csv
        avtools augment audio-spatial table.csv --stems stems/ --seed 7 -d other > other.csv
    """
    from avtools.augment.pool import Pools
    from avtools.stream import Work

    pools = Pools.open(masklets, stems)  # what is wrong with a pool is said before any row is read
    options = {"op": op, "masklets": masklets, "stems": stems, "seed": seed, "legacy": legacy, "key": shared.key}
    state = {name: pool.digest() for name in ("masklets", "stems") if (pool := getattr(pools, name))}
    return Work(
        augment_row,
        options,
        columns=("augmentation",),
        needs=("path", "audio_path"),
        wants=wants,
        operation="augment/2",
        identity={**{name: value for name, value in options.items() if name != "key"}, "pools": state},  # the key itself is each file's detail
        preload=("avtools.augment.operations", "avtools.augment.clips", "avtools.media.sound"),
    )


def wants(row: dict, options: dict):
    import os

    from avtools.errors import RowError
    from avtools.media.suffixes import sound_suffixes, video_suffixes
    from avtools.outputs import Want, place
    from avtools.rows import key_of, path_of
    from avtools.rows.keys import PLACEHOLDER

    op = options["op"]
    medium = (OPERATIONS[op][0] if op in OPERATIONS else op).partition("-")[0]
    path, audio_path = (path_of(row, column) if row.get(column) else None for column in ("path", "audio_path"))
    if path and os.path.basename(path) == PLACEHOLDER:
        path = None
    if not (path or medium == "audio" and audio_path):
        raise RowError(f"{f'{audio_path}:' if audio_path else 'the row'} has no {'picture' if medium == 'video' else 'sound'}, which {op} needs")
    key, found = key_of(row, options["key"]), []
    if medium == "audio" and audio_path:
        found.append(Want("audio_path", (audio_path,), sound_suffixes(audio_path, None), detail=key, owner=place(row, path or audio_path)))
    if path:
        found.append(Want("path", (path, *([audio_path] if audio_path else [])), video_suffixes(path), detail=key))
    return found


def augment_row(row: dict, maker, options: dict) -> dict:
    import contextlib
    import functools
    import os
    import tempfile

    import numpy as np

    from avtools.augment import clips
    from avtools.augment.operations import Clip, augment
    from avtools.augment.pool import Pools
    from avtools.errors import MediaError, RowError
    from avtools.media import video
    from avtools.media.columns import of_picture, present
    from avtools.media.probe import probe, probe_sound, sound_columns, video_columns
    from avtools.outputs import place
    from avtools.rows import key_of
    from avtools.sampling import sample_seed

    op, path, audio_path = options["op"], row.get("path"), row.get("audio_path") or None
    is_video = (OPERATIONS[op][0] if op in OPERATIONS else op).startswith("video")
    key = key_of(row, options["key"])
    heard = audio_path or path
    cells: dict = {}

    def changed(**media):
        clip = Clip(**media, pools=Pools.open(options["masklets"], options["stems"]), legacy=options["legacy"])
        name, suffix = os.path.splitext(os.path.basename(heard))
        clip.names = (key, *(base + end for base in (place(row, heard), name) for end in (suffix, ".wav")))  # as `separate` and the originals call it
        try:
            return augment(op, clip, np.random.default_rng(sample_seed(options["seed"], f"{op}\0{key}", 0)))
        except MediaError:
            raise  # names its file
        except RowError as error:
            raise RowError(f"{path if is_video else heard}: {error}") from None

    @functools.cache  # of two files, for both
    def changed_sound():
        with contextlib.ExitStack() as stack:
            source = audio_path or stack.enter_context(clips.own_sound(path))
            if source is None:
                raise MediaError(f"{path}: has no sound, which {op} needs; leave it out")
            samples, form, layout = clips.read_all(source)
        made, record = changed(audio=samples, rate=form.rate)
        return made, record, form, layout

    told: dict = {}

    def build_sound(out: str, suffix: str) -> None:
        made, record, form, layout = changed_sound()
        told.update(augmentation=record)
        clips.write_all(out, suffix, made, form, layout)

    def build_picture(out: str, suffix: str) -> None:
        if is_video:
            pictures, fps = clips.read_constant(path)
            made, told["augmentation"] = changed(video=pictures)
            clips.write_video(out, suffix, made, fps, path, audio_path)
            return
        if audio_path:
            sound = cells["audio_path"]
            video.mux(path, sound, out, suffix)
            told["augmentation"] = cells["augmentation"]
            return
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            build_sound(file.name, ".wav")
            video.mux(path, file.name, out, suffix)

    def make(name: str, build, columns, relevant) -> None:
        made = maker.make(name, build, lambda file: {**columns(file), **told})
        cells.update({name: made.path, **relevant(row, made.columns), "augmentation": made.columns["augmentation"]})

    if "audio_path" in maker.slots:
        make("audio_path", build_sound, lambda file: sound_columns(probe_sound(file)), present)
    if "path" in maker.slots:
        make("path", build_picture, lambda file: video_columns(probe(file)), of_picture)
    return cells
