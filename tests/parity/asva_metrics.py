"""Fréchet distances, and what the scores of clips make of a whole set, against the original's numbers (collected by test_asva)."""

import torch
from common import Case

from avtools.metrics import BLOCKS, Jackknife, Mean
from avtools.metrics.frechet import Moments, distance
from avtools.models.avsync import evaluation
from avtools.models.i3d.metrics import Fvd
from avtools.models.inception.metrics import Fid
from avtools.models.parts.imagebind.metrics import ImageAudio, ImageText, clip_mean


def frechet(case: Case, _):
    for name in sorted(case.outputs):
        one, other = (case.inputs[f"{name}.{side}"].numpy() for side in "ab")
        whole = distance(Moments.of(one), Moments.of(other))
        case.check(name, [whole])
        cut, end = len(one) // 3, len(other) // 2  # the same from parts, the other way round
        parts = [Moments.joined([Moments.of(some) for some in pieces]) for pieces in ((other[end:], other[:end]), (one[cut:], one[:cut]))]
        case.check(name, [distance(*parts)])


def of_set(metric, rows) -> tuple[float, list[float] | None]:
    """A set's value and interval, through what `score` runs; rows: {side: (N, D) array}."""
    kept = Jackknife(metric)
    for k, row in enumerate(rows):
        kept.add(metric.features(row), k % BLOCKS, None)
    values, intervals = kept.results()
    assert values[f"{metric.name}_samples"] == sum(len(row["judged"]) for row in rows)
    return values[metric.name], intervals[metric.name]


def aggregation(case: Case, _):
    inputs, clips = case.inputs, case.config["videos"] * case.config["clips_per_video"]
    protocol = {cls: cls(**cls.protocols["asva"]) for cls in (Fvd, Fid, ImageAudio, ImageText)}
    for cls, skip in ((Fvd, None), (Fid, protocol[Fid].set["skip"])):
        metric = protocol[cls]
        features = {side: inputs[f"{side}_{metric.name}_features"].numpy() for side in ("generated", "reference")}
        assert all(len(array) == clips and (skip is None or array.shape[1] == case.config["frames"]) for array in features.values())
        # a clip is one vector of I3D, and one of Inception for each picture that is judged
        features = {side: array[:, None] if skip is None else array[:, skip:] for side, array in features.items()}
        rows = [{"judged": features["generated"][k], "reference": features["reference"][k]} for k in range(clips)]
        value, (low, high) = of_set(metric, rows)
        case.check(cls.name.upper(), [value])
        assert low < value < high

    own, true = inputs["generated_sync"], inputs["reference_sync"]
    relative = evaluation.relsync(own, true)
    skip = protocol[ImageAudio].set["skip"]
    aligned = evaluation.alignsync(relative, inputs["generated_ia"][:, skip:], inputs["reference_ia"][:, 0])
    found = {
        "IA": [clip_mean(one, skip) for one in inputs["generated_ia"].numpy()],
        "IT": [clip_mean(one, protocol[ImageText].set["skip"]) for one in inputs["generated_it"].numpy()],
        "RelSync": relative.tolist(),
        "AlignSync": aligned.tolist(),
    }
    for name, values in found.items():
        mean = Mean()
        for value in values:
            mean.add(value, None)
        case.check(f"{name}_mean", [mean.mean])
        case.check(f"{name}_std", [mean.std])
        if f"per_clip.{name}" in case.outputs:
            case.check(f"per_clip.{name}", torch.tensor(values))

    case.check("pair.relsync_video_reference", relative)
    case.check("pair.relsync_audio_reference", evaluation.relsync(own, inputs["foreign_audio_sync"]))
    case.check("pair.relsync_self", evaluation.relsync(own, own))
    case.check("pair.alignsync", aligned)


KINDS = {"eval_frechet": frechet, "eval_metrics": aggregation}
