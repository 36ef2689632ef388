"""Masklets: whether decoding and encoding keep up with the network, and how fast each is against the clip's own time.

"Ours" is the work around the network for one clip (decoding ahead of it, in its process; decoding again, cutting and encoding, in one
worker), "peer" the network itself, with random weights, on the same clip: at 1 or more the network never waits.  Without a GPU the
network is SAM 2.1's smallest, and only a few frames of it are timed.
"""

import pathlib
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from . import common
from .avsyncd import timed
from .common import Result

LARGE = {  # SAM 2.1's image encoder of 224 M parameters
    "hidden_size": 144,
    "num_attention_heads": 2,
    "blocks_per_stage": [2, 6, 36, 4],
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "window_size_per_stage": [8, 4, 16, 8],
    "global_attention_blocks": [23, 33, 43],
    "model_type": "sam2_hiera_det_model",
}
OBJECTS = 3


def measure(quick: bool) -> Iterator[Result]:
    import torch

    from avtools.models.masklets import flow, reading, writing
    from avtools.models.masklets.annotations import Annotated
    from avtools.models.masklets.selection import Found, pack

    gpu = torch.cuda.is_available() and not quick
    with common.folder() as where:
        size = "96x64" if quick else "1920x1080" if gpu else "640x360"
        path = str(common.synthetic(where, 1, 4 if gpu else 1, size, fps=24)[0])
        shape = reading.shape_of(path)
        seconds = float(shape.frames / shape.fps)
        rounds = 1 if quick else common.ROUNDS
        masks = [[_disc(shape, one, number) for number in range(shape.frames)] for one in range(OBJECTS)]
        found = [Found(one, list(map(pack, masks[one]))) for one in range(OBJECTS)]
        annotated = [Annotated(one, {number: made.masks[number] for number in range(0, shape.frames, 4)}) for one, made in enumerate(found)]

        def write() -> None:
            with tempfile.TemporaryDirectory(dir=where) as folder:
                writing.write(path, shape, found, folder)

        times = common.in_turn(
            rounds,
            decoding=lambda: sum(1 for _ in reading.ahead(reading.pictures(path, shape, threads=2))) and None,
            writing=write,
            flow=lambda: flow.carried(annotated, reading.pictures(path, shape, gray=True), shape) and None,
        )
        frames = shape.frames if gpu else 2
        network = _network(gpu, quick)
        shown = [np.zeros((shape.height, shape.width, 3), np.uint8)] * frames
        short = shape._replace(frames=frames)
        cut = [Annotated(one.number, {number: mask for number, mask in one.masks.items() if number < frames}) for one in annotated]
        run = timed(lambda: network.follow(cut, iter(shown), short), network.device)
        if gpu:
            run()  # kernels are chosen
        times["network"] = common.in_turn(rounds if gpu else 1, network=run)["network"] / frames * shape.frames
    what = f"masklets, a {size} clip of {seconds:g} s, {OBJECTS} objects"
    name = "SAM 2.1 large, GPU" if gpu else "a tiny network" if quick else "SAM 2.1 tiny, CPU"
    for part, where_ in (("decoding", "ahead of the network"), ("writing", "decoding, crops, masks, in one worker")):
        ratio = times["network"] / times[part]
        yield Result(f"{what}: {part} ({where_}) against {name}", _speed(times[part], seconds), _speed(times["network"], seconds), ratio, "1x", None if quick else ratio >= 1)
    yield Result(f"{what}: --method interpolate, in one worker", _speed(times["flow"], seconds), "", None, "for information")


def _speed(taken: float, seconds: float) -> str:
    return f"{taken:.2f} s ({seconds / taken:.2g} of real time)"


def _disc(shape, one: int, number: int) -> np.ndarray:
    """A disc of a fifth of the height, on its way to the right."""
    rows, columns = np.ogrid[: shape.height, : shape.width]
    y, x = shape.height * (one + 1) / (OBJECTS + 1), shape.width * (0.2 + 0.5 * number / shape.frames)
    return (rows - y) ** 2 + (columns - x) ** 2 <= (shape.height / 10) ** 2


def _network(gpu: bool, quick: bool):
    import torch
    from transformers import Sam2VideoConfig, Sam2VideoModel

    from avtools.models.masklets.tracking import Tracker

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests"))
            import small_sam

            small_sam.sam2(pathlib.Path(folder))
        else:
            config = Sam2VideoConfig(vision_config={"model_type": "sam2_vision_model", "backbone_config": LARGE, "backbone_channel_list": [1152, 576, 288, 144]}) if gpu else Sam2VideoConfig()
            Sam2VideoModel(config).save_pretrained(folder)
        return Tracker(pathlib.Path(folder), torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if gpu else torch.float32)
