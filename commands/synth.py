"""avtools synth"""

import click

from avtools.cli import FractionType, Size, row_command
from avtools.media.columns import VIDEO_COLUMNS

RATES = (16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)  # those of AAC that hold all the sounds
FACTS = ("class", "colour", "side", "events", "event_times", "active", "stem_path", "mask_path", "box", "visible")
COLUMNS = ("path", "id", "relpath", *VIDEO_COLUMNS, "text", "audio_text", *FACTS, "mixture_path", "ambience_path", "objects")


@row_command(files=True, inputs=False)
@click.option("-n", "count", type=click.IntRange(0), required=True, metavar="N", help="How many clips.")
@click.option("--seconds", type=FractionType(positive=True), default="4", show_default=True, metavar="S", help="Length of each, to the nearest whole frame; 1 to 60.")
@click.option("--fps", type=FractionType(positive=True), default="24", show_default=True, metavar="N", help="Frames per second: 24, 23.976 or 30000/1001.")
@click.option("--size", type=Size(), default="128x96", show_default=True, help="Picture size; even numbers.")
@click.option("--rate", type=click.Choice(RATES), default=16000, show_default=True, metavar="HZ", help="Samples per second: 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200 or 96000.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Another seed, other clips.")
@click.option("--objects", type=click.IntRange(1, 3), default=1, show_default=True, help="Objects in each clip, of different classes.")
def command(shared, count, **options):
    """Make audio-video clips whose ground truth is known: a data set without a download.

    In each clip a coloured object (--objects: up to three, side by side) acts on a drifting background and
    sounds at random moments.  Clip I depends on --seed, I and the options below alone: a larger N begins
    with the same clips, and running again makes only what is missing.

    \b
    class      picture at an event                sound
    ball       lands on the floor                 low thump, 75 to 145 Hz
    bell       swings to its farthest             inharmonic partials from 620 Hz, 0.9 s
    drum       shrinks                            185 Hz and a burst of noise
    woodblock  two bars clap                      1150 and 1790 Hz, 0.1 s
    horn       a ring widens as long as it lasts  300 Hz and harmonics, 0.25 to 0.5 s
    siren      a beam goes round in a lamp        550 to 1450 Hz, gliding, 0.35 to 0.6 s
    bird       flaps                              chirps from 3300 to 4800 Hz, 0.15 to 0.28 s
    rattle     shakes                             grains of hiss around 6000 Hz, 0.2 to 0.4 s

    Pitches vary by up to 2 semitones.  An object has 1 to 2 x --seconds events, 20 at most, 0.25 s or more
    apart and 0.1 s or more from the end.  An event time is exact: it is the first sample of its sound, and
    the frame shown at that time (number floor(time x fps)) shows the contact, the object at its brightest;
    the light then fades.  Each 8 clips in turn (0 to 7, 8 to 15, ...) have every main class once.  Stereo
    sound follows the object's place by constant-power panning.

    \b
    file below DIR               contents
    clips/00000.mp4              H.264 4:2:0 and AAC; sample 0 is at the first frame
    stems/00000_0_ball.wav       each object's sound alone, 16-bit stereo
    stems/00000_ambience.wav     soft noise and hum
    mixtures/00000.wav           the sum of these, exact to the bit, before AAC
    masks/00000_0_ball.mkv       each object's pixels in each frame, 0 or 255 (FFV1, gray)

    \b
    column                       meaning (lists are JSON; seconds from the clip's start)
    path, id, relpath            the clip; 00000; clips/00000.mp4
    num_frames ... av_offset     measured from the clip, as by probe: av_offset is 0, audio_duration
                                 counts AAC's last block in full
    text                         "a red ball bounces three times on the left"
    audio_text                   "three low thumps on the left"
    class, colour, side          of the main object; side is left, centre or right
    events, event_times          how many; [seconds, ...], each a sample's number / --rate
    active                       [[start, end], ...] seconds where its stem is not silent
    stem_path, mask_path         its files
    box                          [[x, y, width, height], ...] pixels, a box for each frame
    visible                      [true, ...], whether it is seen, for each frame
    mixture_path, ambience_path  these files
    objects                      [{class, colour, side, events, event_times, active, stem_path,
                                 mask_path, box, visible}, ...] for all objects, the main one first

    \b
        avtools synth -n 100 -d toys -o toys.csv
        avtools synth -n 8 --objects 2 --seconds 2 --to jsonl -d two | jq -r .text
    """
    from avtools import rows
    from avtools.stream import Work
    from avtools.synth.scene import check

    check(options)
    records = (rows.Record({"id": f"{i:05d}", "relpath": f"clips/{i:05d}.mp4"}, f"clip {i:05d}") for i in range(count))
    return Work(
        synth_row,
        options,
        columns=COLUMNS,
        wants=wants,
        operation="synth/2",
        preload=("avtools.synth.write", "avtools.synth.sound", "avtools.media.soundfiles", "avtools.media.probe"),
        records=lambda stdin: (list(COLUMNS), "csv", records),
    )


def wants(row: dict, options: dict):
    from avtools.outputs import Want
    from avtools.synth.scene import kinds_of

    name = row["id"]
    files = [
        Want("clip", (), (".mp4",), relpath=f"clips/{name}"),
        Want("mixture", (), (".wav",), relpath=f"mixtures/{name}"),
        Want("ambience", (), (".wav",), relpath=f"stems/{name}_ambience"),
    ]
    for number, kind in enumerate(kinds_of(options["seed"], int(name), options["objects"])):
        files.append(Want(f"stem {number}", (), (".wav",), relpath=f"stems/{name}_{number}_{kind}"))
        files.append(Want(f"mask {number}", (), (".mkv",), relpath=f"masks/{name}_{number}_{kind}"))
    return files


def synth_row(row: dict, maker, options: dict) -> dict:
    """The cells of one clip; its files are made where they are not there already."""
    import functools

    from avtools.media.probe import probe, video_columns
    from avtools.media.soundfiles import write_sound
    from avtools.synth import scene, sound, write

    clip = scene.clip_of(options, int(row["id"]))
    sounds = functools.cache(lambda: sound.render(clip))  # shared by the files, unless all are reused

    def sound_file(name, samples_of):
        def build(out, suffix):
            with write_sound(out, suffix, clip.rate, 2, "s16", frames=clip.samples) as put:
                put(samples_of(sounds()))

        return maker.make(name, build, lambda path: {}).path

    def mask_file(thing):
        boxes = []
        made = maker.make(
            f"mask {thing.number}",
            build=lambda out, suffix: boxes.extend(write.write_mask(clip, thing, out)),
            measure=lambda path: {"box": boxes, "visible": [box[2] > 0 for box in boxes]},
        )
        return {"mask_path": made.path, **made.columns}

    video = maker.make(
        "clip",
        build=lambda out, suffix: write.write_clip(clip, sounds().mixture, out),
        measure=lambda path: video_columns(probe(path)),
    )
    objects = [
        {
            **scene.facts(clip, thing),
            "stem_path": sound_file(f"stem {thing.number}", lambda all_, n=thing.number: all_.stems[n]),
            **mask_file(thing),
        }
        for thing in clip.things
    ]
    return {
        "path": video.path,
        **video.columns,
        "text": scene.caption(clip),
        "audio_text": scene.sound_caption(clip),
        **objects[0],
        "mixture_path": sound_file("mixture", lambda all_: all_.mixture),
        "ambience_path": sound_file("ambience", lambda all_: all_.ambience),
        "objects": objects,
    }
