"""AudioSep against the numbers of the original: separator, query encoder, mixer, windows, figures."""

import json

import named_weights
import numpy as np
import pytest
import torch
from common import Seen
from transformers import BatchEncoding

from avtools import hub
from avtools.metrics import Skip
from avtools.metrics.separation import sdr, si_sdr
from avtools.models.audiosep import checkpoint, training, windows
from avtools.models.audiosep.config import Config
from avtools.models.audiosep.model import SeparatorNet
from avtools.models.audiosep.separation import Separator
from avtools.models.parts import clap

SITES = {  # the case's name of a condition's image -> (block, name within it)
    "film_encoder1_beta1": ("encoder_block1", "conv_block1->beta1"),
    "film_decoder3_inner_beta2": ("decoder_block3", "conv_block2->beta2"),
    "film_decoder1_beta1": ("decoder_block1", "beta1"),
}


def lightning(weights: dict, folder):
    """The weights as they were released, with the optimizer's state and the kernels that are dropped."""
    kernels = {f"ss_model.base.{name}": torch.zeros(2) for name in ("stft.conv_real.weight", "stft.conv_imag.weight", "istft.ola_window")}
    path = folder / "audiosep.ckpt"
    torch.save({"epoch": 1, "state_dict": {**weights, **kernels}, "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}]}, path)
    return path


def network(case, folder) -> SeparatorNet:
    """Through the loader that users get; its settings are told by the shapes."""
    found = checkpoint.read(lightning(case.weights(), folder))
    net = SeparatorNet(found.config)
    hub.load_strict(net, found.net, found.where, ignore=checkpoint.COUNTERS)
    return net.eval()


def strided(value: torch.Tensor, counts: list[int]) -> torch.Tensor:
    return value[(slice(None), *(slice(None, None, max(1, size // count)) for size, count in zip(value.shape[1:], counts, strict=True)))]


def resunet30(case, tmp_path):
    config, net = case.config, network(case, tmp_path)
    assert config["condition_size"] == net.config.condition
    mixture, frames = case.inputs["mixture"][:, 0], config["frames"]
    blocks = [name.removesuffix("_mean_std") for name in case.outputs if name.endswith("_mean_std")]
    with torch.no_grad(), Seen({name: getattr(net.base, name) for name in blocks}) as seen:
        magnitude, cosine, _ = net.base.spectrum(mixture)
        betas = net.betas(case.inputs["condition"])
        maps = net.base.maps(magnitude, betas)
        found = dict(seen)
        case.check("waveform", net(mixture, case.inputs["condition"])[:, None])
    case.check("magnitude_frames", magnitude[:, :, frames])
    case.check("cos_frames", cosine[:, :, frames])
    case.check("maps_frames", maps[:, :, frames])
    for name, (block, place) in SITES.items():
        case.check(name, betas[block][place][:, :, 0, 0])
    for name in blocks:
        case.check(name, strided(found[name], config["slice"]))
        case.check(f"{name}_mean_std", torch.stack([found[name].mean((0, 2, 3)), found[name].std((0, 2, 3))]))


def chunked_inference(case, tmp_path):
    config = case.config
    net = network(case, tmp_path)
    mixture = torch.from_numpy(named_weights.named_array("mixture", (config["samples"],), case.salt))[None]
    assert torch.equal(mixture[0, :64], case.inputs["mixture_first64"])
    length = config["left"] + config["centre"] + config["right"]
    plan = windows.Windows(length, config["centre"], 0.0, even=False)
    if (config["left"], config["centre"], config["right"]) == (1, 3, 1):
        assert plan == windows.LEGACY
    net.config.rate = config["sample_rate"]
    found = {}
    for name, one in (("full", None), ("chunked", plan)):
        separator = Separator(net, None, torch.device("cpu"), plan=one, batch=2)
        found[name] = separator.separate(mixture, case.inputs["condition"])[0]
        case.check(f"{name}_stride16", found[name][::16])
        case.check(f"{name}_edges", torch.stack([found[name][edge - 400 : edge + 400] for edge in config["edges"]]))
    case.check("chunked_last800", found["chunked"][-800:])
    case.check("chunked_minus_full_rms", (found["chunked"] - found["full"]).square().mean().sqrt()[None])
    # what is exactly as long as a window was silence in the original, and is not here
    exact = Separator(net, None, torch.device("cpu"), plan=plan).separate(mixture[:, : round(0.2 * length * config["sample_rate"])], case.inputs["condition"])
    assert case.outputs["upstream_chunked_exactly_5s_absmax"].item() == 0 and exact.abs().max() > 1e-4
    case.open.discard("upstream_chunked_exactly_5s_absmax")


def clap_text(case, tmp_path):
    config = case.config
    released = clap.laion(case.weights(), "the case")
    released.text["num_attention_heads"] = config["heads"]  # of a width that no release has
    told = {"width": "hidden_size", "layers": "num_hidden_layers", "ff": "intermediate_size", "vocab": "vocab_size", "positions": "max_position_embeddings"}
    for name, field in told.items():
        assert released.text[field] == config[name], name
    given = case.inputs
    text = clap.text_of(released, lambda texts, **_: BatchEncoding(given), 40)
    model = text.model
    inner = model.text_model
    modules = {"embeddings": inner.embeddings, "pooler": inner.pooler, **{f"layer{k}": layer for k, layer in enumerate(inner.encoder.layer)}}
    with Seen({**modules, "projected": model.text_projection}) as seen:
        case.check("query", text([""]))
        found = dict(seen)
    real = given["attention_mask"].bool()[..., None]
    for name in sorted(case.open):
        value = found[name]
        case.check(name, torch.where(real, value, case.outputs[name]) if value.dim() == 3 else value)


def clap_text_projection(case, tmp_path):
    from transformers.models.clap.modeling_clap import ClapProjectionLayer, ClapTextConfig

    layer = ClapProjectionLayer(ClapTextConfig(hidden_size=case.config["width"], projection_dim=case.config["joint"]))
    released = {name.replace("text_projection.0", "linear1").replace("text_projection.2", "linear2"): tensor for name, tensor in case.weights().items()}
    hub.load_strict(layer, released, "the case")
    with torch.no_grad():
        made = layer.eval()(case.inputs["pooler"])
    case.check("projected", made)
    case.check("query", torch.nn.functional.normalize(made, dim=-1))


def training_mixer(case, _):
    config, sounds = case.config, case.inputs["waveforms"][:, 0]
    draws, plans = case.inputs["draws"].tolist(), []
    bounds = []
    count = len(sounds)
    for n in range(count):
        others = [(n + k) % count for k in range(1, draws.pop(0))]
        bounds.append([2, config["max_mix_num"]])
        gains = [draws.pop(0) for _ in others]
        bounds += [[config["lower_db"], config["higher_db"]]] * (len(gains) + 1)
        plans.append(training.Mix(others, gains, draws.pop(0)))
    assert not draws
    case.check("draw_ranges", torch.tensor(bounds))
    ours = Config(sources=config["max_mix_num"], lowest=config["lower_db"], highest=config["higher_db"], original_mixer=True)
    assert (ours.sources, ours.lowest, ours.highest) == (config["max_mix_num"], config["lower_db"], config["higher_db"])
    for n, plan in enumerate(training.mixes(range(count), ["same"] * count, ours)):
        assert plan.others == [(n + k) % count for k in range(1, len(plan.others) + 1)] and 1 <= len(plan.others) < config["max_mix_num"]
        assert all(config["lower_db"] <= gain <= config["higher_db"] for gain in (*plan.gains, plan.last))
    mixture, target = training.mixed(sounds, plans)
    case.check("mixture", mixture[:, None])
    case.check("segment", target[:, None])
    case.check("energy_ratio_next", training.ratio(sounds.roll(-1, 0), sounds)[:, 0])


def separation_figures(case, _):
    """SI-SDR differs where the original's epsilon decides: ours is bounded by 100 dB, and silence has none."""
    signals = {name: tensor.double().numpy() for name, tensor in case.inputs.items()}
    reference, mixture = signals["reference"], signals["mixture"]
    over = sdr(mixture, reference)
    case.check("mixture_sdr", torch.tensor([over]))
    case.check("mixture_sisdr", torch.tensor([si_sdr(mixture, reference)]))
    for name, signal in signals.items():
        if name.startswith("est_"):
            case.check(f"{name}_sdr", torch.tensor([sdr(signal, reference)]))
            case.check(f"{name}_sdri", torch.tensor([sdr(signal, reference) - over]))
            found = si_sdr(signal, reference)
            if name == "est_zero":
                assert isinstance(found, Skip) and case.outputs["est_zero_sisdr"].isfinite()
                case.open.discard("est_zero_sisdr")
            elif name == "est_perfect":
                assert found == pytest.approx(100) and case.outputs["est_perfect_sisdr"] > 90
                case.open.discard("est_perfect_sisdr")
            else:
                case.check(f"{name}_sisdr", torch.tensor([found]))
    case.check("zero_reference_sdr", torch.tensor([sdr(mixture, np.zeros_like(mixture))]))
    case.open.discard("zero_reference_sisdr")  # a silent reference is skipped by the metric
    hop = case.config["hop"]
    segments = [sdr(signals["est_good"][k : k + hop], reference[k : k + hop]) for k in range(0, len(reference) - hop, hop)]
    case.check("segment_sdrs", torch.tensor(segments))
    case.check("segment_sdr_median", torch.tensor([np.median(segments)]))


def key_list(file, folder):
    """The names and shapes of the whole release load strictly into the full-size network, its kernels left out."""
    tensors = {name: torch.empty(shape, device="meta") for name, shape in json.loads(file.read_text(encoding="utf-8")).items()}
    net = {name.removeprefix(checkpoint.NET): tensor for name, tensor in tensors.items()}
    net = {name: tensor for name, tensor in net.items() if not name.startswith(checkpoint.KERNELS)}
    config = checkpoint.told({name: tuple(tensor.shape) for name, tensor in net.items()}, file)
    assert config == Config()
    with torch.device("meta"):
        made = SeparatorNet(config)
    hub.load_strict(made, net, file)
    assert sum(p.numel() for p in made.parameters()) == 26_447_941


KINDS = {
    "chunked_inference": chunked_inference,
    "clap_text": clap_text,
    "clap_text_projection": clap_text_projection,
    "resunet30": resunet30,
    "separation_figures": separation_figures,
    "training_mixer": training_mixer,
}
