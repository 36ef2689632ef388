"""JavisDiT's transformer against the numbers of the original: joint and sound alone, each block of each layer."""

import dataclasses
import json

import torch
from common import Seen
from safetensors.torch import save_file

from avtools.models.javisdit import checkpoint, positions
from avtools.models.javisdit.model import Given, Projected, Size, VastDit


def size_of(config: dict, **more) -> Size:
    return Size(
        dim=config["hidden_size"], depth=config["depth"], heads=config["num_heads"], feed=config["mlp_ratio"], text=config["caption_channels"],
        text_tokens=config["model_max_length"], video=config["in_channels"], sound=config["audio_in_channels"], patch=tuple(config["patch_size"]),
        sound_patch=tuple(config["audio_patch_size"]), sigma=config["pred_sigma"], spatial_priors=config["spatial_prior_len"],
        temporal_priors=config["temporal_prior_len"], prior=config["st_prior_channel"], square=config["input_sq_size"],
        joint=not config.get("audio_only", False), legacy_cross_batch_prior=True, legacy_final=True, **more,
    )  # fmt: skip


def network(case, folder) -> VastDit:
    """Through the loader that users get; the file with the table that the case leaves out."""
    size = size_of(case.config)
    path = folder / "model.safetensors"
    save_file({**case.weights(), checkpoint.FREQS: positions.turns(size.dim // size.heads)}, path)
    found = checkpoint.read(path)
    same = ("square", "spatial_priors", "temporal_priors") if size.joint else ("square", "spatial_priors", "temporal_priors", "prior")
    told = dataclasses.replace(found.size, **{name: getattr(size, name) for name in same})
    assert told == size and found.size.spatial_priors + found.size.temporal_priors == (size.spatial_priors + size.temporal_priors if size.joint else 64)
    return checkpoint.load(found, size).eval()


def given_of(case, rows=slice(None)) -> Given:
    given = case.inputs
    counts = given["text_mask"].bool().expand(len(given["audio"]), -1)[rows]  # one row for two: the null text has as many tokens
    priors = [given[name][rows] if name in given else None for name in ("spatial_prior", "temporal_prior")]
    return Given(given["text"][:, 0][rows], counts, *priors)


def inputs_of(case, net, rows=slice(None)) -> dict:
    given = case.inputs
    return {
        "video": given["video"][rows] if net.size.joint else None,
        "sound": given["audio"][rows],
        "times": given["timestep"][rows],
        "fps": given["fps"][rows],
        "pixels": (float(given["height"][0]), float(given["width"][0])),
        "video_made": given["x_mask"][rows] if "x_mask" in given else None,
        "sound_made": given["ax_mask"][rows] if "ax_mask" in given else None,
    }


def watched(net: VastDit) -> dict:
    """Output of the case -> the module that makes it."""
    lists = {"audio_spatial": net.audio_spatial_blocks, "audio_temporal": net.audio_temporal_blocks}
    found = {"audio_text": net.audio_y_embedder}
    if net.size.joint:
        lists |= {"video_spatial": net.spatial_blocks, "video_temporal": net.temporal_blocks}
        lists |= {"video_prior": net.video_st_prior_blocks, "audio_prior": net.audio_st_prior_blocks}
        found |= {"video_text": net.y_embedder, "prior_tokens": net.st_prior_embedder}
    return found | {f"block{number}.{name}": block for name, blocks in lists.items() for number, block in enumerate(blocks)}


@torch.no_grad()
def forward(case, tmp_path):
    net, outputs = network(case, tmp_path), case.outputs
    inputs = inputs_of(case, net)
    crossed = []
    hooks = [block.register_forward_hook(lambda *args: crossed.append(args[-1])) for block in (net.va_cross_blocks if net.size.joint else ())]
    with Seen(watched(net)) as seen:
        video, sound = net(given=given_of(case), **inputs)
    for hook in hooks:
        hook.remove()
    case.check("audio", sound)
    if net.size.joint:
        case.check("video", video)
    for name, value in seen.items():
        if name in outputs:
            wanted = outputs[name].shape
            case.check(name, value.flatten(1, 2) if value.dim() > len(wanted) else value.view(wanted))
    for number, both in enumerate(crossed):
        for name, value in zip(("video", "audio"), both, strict=True):
            case.check(f"block{number}.bi_attn.{name}", value)

    times, fps = inputs["times"], inputs["fps"]
    for end, at in (("", times), ("_at_0", torch.zeros_like(times))):
        if f"timestep_embedding{end}" in outputs:
            case.check(f"timestep_embedding{end}", net.t_embedder(at))
            _, main, prior = net.signals(at, fps)
            case.check(f"modulation_6c{end}", main.flatten(1))
            if prior is not None:
                case.check(f"modulation_9c{end}", prior.flatten(1))
    case.check("fps_embedding", net.fps_embedder(fps))
    case.check("audio_patches", net.ax_embedder(inputs["sound"]).flatten(1, 2))
    case.check("audio_position", positions.line(torch.arange(net.ax_embedder.counts(inputs["sound"].shape)[1]), net.size.dim)[None])
    pictures = case.inputs["video"]
    case.check("video_patches", net.x_embedder(pictures).flatten(1, 2))
    case.check("video_position", positions.grid(*net.x_embedder.counts(pictures.shape)[1:], net.size.dim, inputs["pixels"], net.size.square)[None])
    again = net(given=net.project(given_of(case)), **inputs)  # projected once, the same comes of it
    assert torch.equal(again[1], sound) and isinstance(net.project(given_of(case)), Projected)

    if "per_sample.video" in outputs:
        size = dataclasses.replace(net.size, legacy_cross_batch_prior=False)
        ours = checkpoint.load(checkpoint.found(net.state_dict(), case.folder), size).eval()
        for name, value in zip(("video", "audio"), ours(given=given_of(case), **inputs), strict=True):
            case.check(f"per_sample.{name}", value)
    elif net.size.joint and len(sound) == 1:  # of one sample, both are the same
        size = dataclasses.replace(net.size, legacy_cross_batch_prior=False)
        ours = checkpoint.load(checkpoint.found(net.state_dict(), case.folder), size).eval()
        assert torch.equal(ours(given=given_of(case), **inputs)[0], video)


def keys(file):
    """The names and shapes of a whole release load strictly into the full-size network, and come back as they are."""
    shapes = json.loads(file.read_text(encoding="utf-8"))
    found = checkpoint.found({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, file)
    assert found.size == Size(joint=found.size.joint, legacy_cross_batch_prior=True, legacy_final=True)
    net = checkpoint.load(found)
    assert {name: list(tensor.shape) for name, tensor in checkpoint.released(net).items()} == shapes


KINDS = {"vastdit3": forward}
KEY_LISTS = {"vastdit3": keys}
