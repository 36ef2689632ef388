"""The AVSync classifier against the numbers of the original: networks, loss, and what accuracy counts."""

import json

import pytest
import torch
from common import Seen

from avtools.models.avsync import checkpoint, evaluation, metrics
from avtools.models.avsync.config import Config
from avtools.models.avsync.model import AvSyncNet, Head


def released_folder(weights: dict, folder):
    """The weights as they were released: a folder for each part, names without the part's."""
    for part in AvSyncNet.PARTS:
        own = {name.removeprefix(part + "."): tensor for name, tensor in weights.items() if name.startswith(part + ".")}
        place = folder / "modules" / part
        place.mkdir(parents=True)
        torch.save(own, place / "diffusion_pytorch_model.bin")
        (place / "config.json").write_text('{"_class_name": "Net", "pretrained": true}')
    return folder


def config_of(case, **fields) -> Config:
    config = case.config
    video, audio, head = config["video_encoder"], config["audio_encoder"], config["head"]
    assert head["out_dim"] == 1
    return Config(
        audio_widths=audio["widths"], video_widths=video["widths"], blocks_per_stage=video["blocks_per_stage"], dim=head["dim"], dropout=head["dropout"], **fields
    )  # fmt: skip


def classifier(case, tmp_path):
    folder = released_folder(case.weights(), tmp_path)
    told = checkpoint.config_of(folder)
    wanted = config_of(case)
    for name in ("audio_widths", "video_widths", "blocks_per_stage", "dim"):
        assert getattr(told, name) == getattr(wanted, name), name
    net = AvSyncNet(wanted).eval()
    checkpoint.load_net(net, folder)
    modules = dict(net.named_modules())
    stored = {name.removesuffix(".mean").removesuffix(".slice") for name in case.outputs}
    with torch.no_grad(), Seen({name: modules[name] for name in stored & set(modules)}) as seen:
        audio, video = net.audio_encoder(case.inputs["audio"]), net.video_encoder(case.inputs["video"])
        score = net.score(audio, video)
        found = dict(seen)
        case.check("audio_embedding_min", net.audio_encoder(case.inputs["audio_min"]))
        case.check("video_embedding_min", net.video_encoder(case.inputs["video_min"]))
        both = net.pairs(audio[None], video[None])[0]
    case.check("score", score)
    torch.testing.assert_close(both.diagonal(), score, atol=1e-5, rtol=1e-4)  # the split first layer
    case.check("audio_embedding", audio)
    case.check("video_embedding", video)
    for name in sorted(case.open):
        module, _, how = name.rpartition(".") if name.endswith((".mean", ".slice")) else (name, "", "")
        value = found[module]
        if how == "mean":
            value = value.mean(tuple(range(2, value.dim())))
        elif how == "slice":
            value = value[(slice(0, 1), slice(None, None, 8), *[slice(None, None, 2)] * (value.dim() - 2))]
        case.check(name, value)


def contrastive_loss(case, tmp_path):
    head = Head(case.config["dim"])
    tensors = {name.removeprefix("head."): tensor for name, tensor in case.weights("head.").items()}
    (tmp_path / "head").mkdir()
    torch.save(tensors, tmp_path / "head" / "diffusion_pytorch_model.bin")
    checkpoint.load_part(head, tmp_path, "head")
    features = {name: case.inputs[f"{name}_features"].clone().requires_grad_() for name in ("audio", "video")}
    for form in ("split", "plain"):  # the split first layer, and each pair by itself
        audio, video = features["audio"], features["video"]
        if form == "split":
            scores = head.pairs(audio, video)
        else:
            count = audio.shape[1]
            scores = head(audio[:, :, None].expand(-1, -1, count, -1), video[:, None].expand(-1, count, -1, -1))
        case.check("scores", scores)
        found = evaluation.contrast(scores, case.config["tau"])
        gradients = torch.autograd.grad(found["loss"].mean(), (audio, video))
        for name, gradient in zip(("audio", "video"), gradients, strict=True):
            case.check(f"grad_{name}_features", gradient)
        for name, value in found.items():
            case.check(name, value.mean()[None])


def eval_protocol(case, _):
    config, scores = case.config, case.inputs["scores"]
    assert config["clips"] == scores.shape[1] and config["centre"] == config["clips"] // 2
    found = evaluation.shifts(scores, config["tolerance_steps"])
    for name, value in found.items():
        case.check(name, value)
    rows = counted(case.inputs["index"])
    case.check("counted_rows", rows)
    for way in ("audio_to_video", "video_to_audio"):
        case.check(f"{way}_accuracy", found[f"{way}_correct"][rows].double().mean()[None])
    assert metrics.chance(config["clips"], config["tolerance_steps"]) == pytest.approx((2 * config["tolerance_steps"] + 1) / config["clips"])


def counted(index: torch.Tensor) -> torch.Tensor:
    """The rows of a table without repetitions: the original's loader puts other items in the place of bad ones, ours does not."""
    return torch.tensor([index.tolist().index(number) for number in sorted(set(index.tolist()))])


def key_list(file):
    """The names and shapes of the whole release load strictly into the full-size network."""
    tensors = {name: torch.empty(shape, device="meta") for name, shape in json.loads(file.read_text(encoding="utf-8")).items()}
    with torch.device("meta"):
        net = AvSyncNet(Config())
    checkpoint.load_tensors(net, tensors, file)
    return len(tensors)


KINDS = {"avsync_classifier": classifier, "avsync_contrastive_loss": contrastive_loss, "avsync_eval_protocol": eval_protocol}
KEY_LISTS = {"avsync_classifier": key_list}
