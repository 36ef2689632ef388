"""avtools masklets"""

import click

from avtools.cli import Files, FractionType, row_command

CELLS = ("masklet_path", "mask_path", "meta_path", "object", "query", "first_frame", "box", "visible", "visible_share")


@row_command(files=True)
@click.option("--method", type=click.Choice(["sam2", "interpolate"]), default="sam2", show_default=True, help="What makes masks for all frames: SAM 2, or optical flow between annotated frames, which needs no weights.")
@click.option("--query", "queries", metavar="TEXT", multiple=True, help="What to look for in videos without annotations: 'a dog' (repeatable).")
@click.option("--query-column", metavar="COLUMN", help="The same, of each row: a text, or a JSON list of them.")
@click.option("--annotation-column", metavar="COLUMN", help="Holds the path of each video's annotations (default: NAME_manual.json beside NAME.mp4, where there is one).")
@click.option("--mask-column", metavar="COLUMN", help="Holds the path of a video of one object's masks, white where it is ('synth' makes mask_path): nothing is looked for or followed.")
@click.option("--annotated-every", "every", type=click.IntRange(1, 10_000), metavar="N", default=4, show_default=True, help="Every how many frames are annotated (SA-V: 4).")
@click.option("--detect-every", type=FractionType(positive=True), metavar="S", default="1", show_default=True, help="Every how many seconds new objects are looked for with --query.")
@click.option("--threshold", type=click.FloatRange(0, 1, max_open=True), metavar="P", default=0.3, show_default=True, help="How sure Grounding DINO has to be of an object.")
@click.option("--min-size", type=click.FloatRange(0, 1), metavar="R", default=0.33, show_default=True, help="Objects below this share of the largest one's size are left out.")
@click.option("--max-objects", type=click.IntRange(1, 999), metavar="N", default=9, show_default=True, help="Annotated videos with more are left out; with --query no more are followed.")
@click.option("--max-resolution", type=click.IntRange(1), metavar="PIXELS", default=1920 * 1080, show_default=True, help="Larger videos are left out (width x height).")
@click.option("--max-side", "side", type=click.IntRange(8, 4096), metavar="N", default=256, show_default=True, help="Pixels that no side of a masklet exceeds.")
@click.option("--legacy-codec", "legacy", is_flag=True, help="Masklets and masks as lossy MPEG-4 part 2 in .mp4, as the original's.")
@click.option("--pool-list", metavar="FILE", type=Files("txt"), help="Write the list of a pool as the original has it (pool_list.txt): a masklet a line, from FILE's folder.")
@click.option("--weights", metavar="[PART=]SOURCE", multiple=True, help="Of sam2 and grounding-dino: a folder as transformers writes it, or hf:OWNER/NAME[@REVISION] (repeatable).")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", default=8, show_default=True, help="Frames that SAM 2 encodes at once; halved where memory does not suffice.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True, help="Of the networks.")
def command(shared, method, queries, query_column, annotation_column, mask_column, pool_list, weights, batch_size, precision, **options):
    """Cut objects out of videos, with a mask for each frame: a row per object, the video's key in 'group'.

    Where the objects are, in this order: the video of masks in --mask-column; SA-V's annotations, masks in every
    fourth frame, which SAM 2 (or optical flow) takes to the frames between; what --query names, which Grounding DINO
    looks for every second and SAM 2 follows.  Left out: what SA-V calls small, objects below --min-size of the largest
    one, and those seen for less than 6 frames from first to last.  Videos in which nothing is left give no row and are
    counted as filtered; --why says why.

    \b
    file below DIR             contents
    NAME_masklet_000.mp4       the object's box in each frame from the first in which it is seen to the
                               last, stretched to one size of --max-side at most; black where it is not seen
    NAME_mask_000.mkv          0 or 255 for each of these pixels (FFV1, gray; --legacy-codec: .mp4, lossy)
    NAME_meta_000.json         video_frame_height, video_frame_width, visible, crop_bbox as the original has
                               them; first_frame, fps, object, query
    NAME_objects.json          how many objects there are, written last

    \b
    column                     meaning
    masklet_path, mask_path, meta_path   these files
    object, query              its name in the annotations, else its number; what it was found by
    first_frame                number of the video's frame with which the masklet begins, from 0
    box, visible               [[x, y, width, height], ...] pixels of the video, and [true, ...], of each of
                               the masklet's frames
    visible_share              frames in which it is seen / frames of the video

    --jobs counts the processes that read annotations, decode and write; SAM 2 runs on the GPU, if there is one.

    \b
        avtools mkmeta scan video sav/ | avtools masklets -d pool --pool-list pool/pool_list.txt > masklets.csv
        avtools masklets clips.csv --query 'a dog' --query 'a car' -d pool > masklets.csv
        avtools synth -n 8 -d toys | avtools masklets --mask-column mask_path -d pool > masklets.csv
    """
    import functools

    from avtools import hub
    from avtools.augment.pool import PoolList
    from avtools.cli import command_path
    from avtools.engine import Model
    from avtools.errors import UsageError
    from avtools.models.masklets import DINO, NAME, PARTS, SAM2, making
    from avtools.stream import Work

    if method == "interpolate" and (queries or query_column):
        raise UsageError("--method interpolate follows annotated objects alone; leave --query out, or use --method sam2")
    if mask_column and (queries or query_column or annotation_column):
        raise UsageError("--mask-column says where the object is; leave --query and --annotation-column out")
    if any(not query.strip(" .") for query in queries):
        raise UsageError("--query '' names nothing; give words")
    found = hub.Weights.parse(weights)
    found.check(part.name for part in PARTS)
    searches = bool(queries or query_column)
    options.update(
        method="given" if mask_column else method,
        queries=list(queries),
        query_column=query_column,
        annotation_column=annotation_column,
        mask_column=mask_column,
        detect_every=str(options["detect_every"]),
    )
    identity, model = dict(options), None
    if options["method"] == "sam2":
        used = [SAM2, DINO] if searches else [SAM2]
        folders = {part.name: hub.locate(found.get(part.name), part, NAME) for part in used}
        identity.update(precision=precision, weights={name: hub.digest(folder) for name, folder in folders.items()})
        say = None if shared.quiet else functools.partial(_say, command_path())
        model = Model(functools.partial(making.load, {name: str(folder) for name, folder in folders.items()}, precision, batch_size, options, say), 1, making.finish)
    def begin(header: list[str]) -> dict:
        for name, column in (("query", query_column), ("annotation", annotation_column), ("mask", mask_column)):
            if column and header and column not in header:
                raise UsageError(f"--{name}-column {column}: the table has no such column (it has: {', '.join(header)})")
        return options

    return Work(
        making.row_by_itself if model is None else making.item,
        options,
        columns=("group", *CELLS),
        needs=("path", "video_path"),
        wants=making.wants,
        operation="masklets/1",
        identity=identity,
        begin=begin,
        model=model,
        preload=(making.__name__,),
        tees=(PoolList(pool_list, lambda row: row.get("masklet_path")),) if pool_list else (),
    )


def _say(path: str, line: str) -> None:
    click.echo(f"{path}: {line}", err=True)
