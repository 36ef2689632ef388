"""ASVA's clips: which starts, frames and samples are chosen, how pictures are made to fit, what is heard."""

import random
import re
from fractions import Fraction

import numpy as np
import torch
from torchaudio.functional import resample

from avtools.models.parts import frames, kaldi, sync_clips

SHORT = frozenset({"short"})
FRAMES = frozenset({"frames"})
ALL = frozenset({"frames", "packets", "short"})


def mel(case, _):
    config = case.config
    assert (kaldi.RATE, kaldi.SAMPLES) == (config["sample_rate"], config["sample_rate"] * config["clip_seconds"])
    settings = {"frames": config["frames"], "mean": config["mean"], "std": config["std"]}
    for name in case.inputs:
        if f"mel_{name.removeprefix('wave_')}" in case.outputs:
            case.check(f"mel_{name.removeprefix('wave_')}", kaldi.mel(case.inputs[name], **settings))
    batch = torch.stack([case.inputs["wave_exact"], case.inputs["wave_stereo"][:1]])
    assert torch.equal(kaldi.mel(batch)[1], kaldi.mel(case.inputs["wave_stereo"][:1]))  # clips do not touch each other
    native = case.inputs["wave_native"]
    found = torch.from_numpy(sync_clips.resampled(native.T.numpy(), config["native_rate"]))
    case.check("resampled", found.reshape(case.outputs["resampled"].shape))
    case.check("mel_resampled", kaldi.mel(found, **settings)[:, ::2, :100])
    heard = np.concatenate([sync_clips.reread(packet) for packet in case.inputs["packets"].numpy()])
    case.check("legacy_stereo", heard.T.copy())


def table(case, _):
    config = case.config
    for number, row in enumerate(config["rows"]):
        _choices(case, f"{number}.", row)
    for number, seconds in enumerate(config["audio_files"]):
        for count in (1, 3):
            spans = [[sync_clips.first_sample(start, kaldi.RATE), kaldi.SAMPLES] for start in sync_clips.starts("uniform", seconds, count)]
            case.check(f"audio_file{number}.clips{count}.first_count", spans)


def media(case, _):
    case.facts["tolerance"].setdefault("per_output", case.facts.get("tolerance_per_output", {}))
    path = case.media(case.config["file"])
    extent = sync_clips.measure(path, legacy=frozenset({"durations"}))
    assert abs(extent.seconds - min(case.config["video_duration"], case.config["audio_duration"])) < 1e-6
    assert abs(extent.fps - case.config["fps"]) < 1e-6
    _choices(case, "", case.config)
    begins = sync_clips.starts("uniform", extent.seconds, len(case.outputs["clips3.start"]))
    height, width = case.outputs["pixels"].shape[-2:]
    clips = sync_clips.read_clips(path, begins, (height, width), legacy=ALL)
    slots = [int(slot) for slot in re.search(r"slot\(([\d,]+)\)", case.facts["call"]["outputs"]["pixels"])[1].split(",")]
    case.check("pixels", clips["pictures"][clips["index"]][:, slots])
    # the reader chooses in the file what is chosen of the times that the case lists
    pictures, index, _ = sync_clips.read_pictures(path, begins, (8, 8), legacy=ALL)
    numbers = np.unique(case.outputs["clips3.frames"].numpy(), return_inverse=True)
    assert len(pictures) == len(numbers[0]) and (index.ravel() == numbers[1].ravel()).all()
    rate = case.config["audio_rate"]
    for sound, (_, count) in zip(clips["sounds"], case.outputs["clips3.audio_first_count"].tolist(), strict=True):
        assert sound.shape[1] == -(-count * kaldi.RATE // rate)


def _choices(case, prefix: str, facts: dict) -> None:
    """Compare starts, frames and native samples of every way of cutting clips that the case lists for one video."""
    duration = min(facts["video_duration"], facts["audio_duration"])
    times = [Fraction(time, 1_000_000) for time in case.inputs[f"{prefix}frame_us"].tolist()]
    packets = (case.inputs[f"{prefix}packet_us"].numpy() / 1e6).tolist()
    sizes = case.inputs[f"{prefix}packet_samples"].tolist() if f"{prefix}packet_samples" in case.inputs else [1024] * len(packets)

    def compare(name, begins, rule="next", legacy=FRAMES, strict=False):
        name = prefix + name
        if f"{name}.start" in case.outputs:
            case.check(f"{name}.start", torch.tensor(begins, dtype=torch.float64))
            begins = case.outputs[f"{name}.start"].tolist()
        numbers = sync_clips.picks(times, begins, rule, legacy, Fraction(1, 1_000_000))
        if strict and not _reaches_all(times, begins):  # the script refuses it; ours judges it where no more than SPARE is missing
            numbers[:] = -1
        _check_frames(case, f"{name}.frames", numbers)
        spans = []
        for start in begins:
            taken = [k for k, time in enumerate(packets) if sync_clips.inside(time, start, rule)]
            spans.append([sum(sizes[: taken[0]]), sum(sizes[k] for k in taken)])
        case.check(f"{name}.audio_first_count", torch.tensor(spans).reshape(case.outputs[f"{name}.audio_first_count"].shape))

    compare("clips1", sync_clips.starts("uniform", duration, legacy=SHORT))
    compare("clips3", sync_clips.starts("uniform", duration, 3, legacy=SHORT))
    if f"{prefix}dataset_test.start" in case.outputs:
        compare("dataset_test", [max(0.0, start) for start in sync_clips.starts("uniform", duration, legacy=SHORT)])
    if f"{prefix}dataset_scene.start" in case.outputs:
        line = re.search(r"path,([\d.]+),([\d.]+)", case.facts["call"]["outputs"]["<row>.dataset_scene.*"])
        begin, end = map(float, line.groups())
        compare("dataset_scene", [begin + start for start in sync_clips.starts("uniform", end - begin)])
    compare("single_pair", [0.0], legacy=frozenset(), strict=True)
    for name, (count, step, kind) in case.config["sync_sampling"].items():
        if f"{prefix}sync_{name}.start" not in case.outputs:
            continue
        share = random.Random(case.config["seed"]).random()
        compare(f"sync_{name}", sync_clips.starts(kind, duration, count, step, share), "nearest")


def _reaches_all(times, begins) -> bool:
    """Whether there is a frame for each slot, so that none is shown again."""
    picker = sync_clips.Picker(begins)
    for time in times:
        picker.see(time)
    return picker.done


def _check_frames(case, name: str, numbers: np.ndarray) -> None:
    """Frames, of which rounding may decide some."""
    wanted = case.outputs[name]
    numbers = torch.from_numpy(numbers).reshape(wanted.shape)
    for slot in case.facts.get("float_sensitive", []):
        if slot["output"] == name:
            at = numbers.reshape(-1, sync_clips.FRAMES)[slot["clip"]]
            if int(at[slot["slot"]]) in slot["values"]:
                at[slot["slot"]] = wanted.reshape(-1, sync_clips.FRAMES)[slot["clip"], slot["slot"]]
    case.check(name, numbers)


def transforms(case, _):
    config = case.config
    for name, pictures in case.inputs.items():
        sizes = config["generator_sizes"]
        for height, width in sizes:
            case.check(f"{name}.generator_{height}x{width}", frames.crop_to(pictures, height, width))
        case.check(f"{name}.generator_normalized", frames.signed(frames.crop_to(pictures, *sizes[0]))[..., ::4, ::4])
        case.check(f"{name}.classifier_data", frames.clip_normalise(frames.short_side(pictures, config["classifier_size"])))
        squashed = {size: frames.squash(pictures, size, size)[..., ::9, ::9] for size in (224, 229)}
        for score in ("score_sync", "score_clip"):
            case.check(f"{name}.{score}", frames.clip_normalise(squashed[224]))
        case.check(f"{name}.score_fvd", frames.signed(squashed[224]))
        case.check(f"{name}.score_fid", frames.signed(squashed[229]))


KINDS = {"avsync_mel": mel, "clip_sampling_table": table, "clip_sampling_media": media, "frame_transforms": transforms}
