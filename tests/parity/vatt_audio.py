"""VATT Audio against the numbers of the original: network, both pairings, decoding, codec, schedules."""

import json

import torch
from common import Seen
from safetensors.torch import save_file

from avtools.models.vatt import attention, checkpoint, codec, decoding, masking
from avtools.models.vatt.model import AudioNet, Size, positions


def tied(case) -> dict:
    """The weights under every name of the released file, with the fixed table, which the case leaves out."""
    weights = case.weights()
    weights |= {name: weights[of] for name, of in case.facts.get("tied", {}).items()}
    return weights | {f"{checkpoint.AUDIO}pos_embed": positions(case.config["pos_rows"], case.config["dim"])[None]}


def network(case, folder) -> AudioNet:
    """Through the loader that users get; the file as it was released, with the language model beside it."""
    language = {"encoder.base_model.model.layers.0.input_layernorm.weight": torch.ones(2)}
    path = folder / "vatt.ckpt"
    torch.save({"epoch": 1, "state_dict": {**tied(case), **language}, "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}]}, path)
    found = checkpoint.read(path)
    assert list(found.language) == list(language)
    config = case.config
    assert config["head_dim"] == found.size.head_dim and config["mask_id"] == config["codebook_size"]
    assert found.size == Size(
        dim=config["dim"], first_blocks=config["stack1_blocks"], second_blocks=config["stack2_blocks"], first_heads=config["stack1_heads"],
        second_heads=config["stack2_heads"], feed=config["ffn_mult"], latent=config["latent_dim"], levels=config["n_codebooks"],
        codes=config["codebook_size"], condition=config["condition_dim"], layout="legacy", positions="padded",
    )  # fmt: skip
    return checkpoint.load(found, case.inputs["codebooks"]).eval()


class Streams:
    """The residual stream that each norm of a stack is given, in order."""

    def __init__(self, stack):
        self.found = []
        norms = [stack.norm] if stack.ways else [norm for block in stack.blocks for norm in (block.norm1, block.norm2)] + [stack.norm]
        self.hooks = [norm.register_forward_pre_hook(lambda _, inputs: self.found.append(inputs[0])) for norm in norms]

    def __enter__(self):
        return self.found

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


@torch.no_grad()
def audio_forward(case, tmp_path):
    net, given = network(case, tmp_path), case.inputs
    tokens, mask = given["tokens"], given["token_mask"].bool()
    hidden = tokens.masked_fill(mask, net.size.codes)
    case.check("masked_tokens", hidden)
    latents = []
    hook = net.embed.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
    with Seen({"projected": net.project, "embeds": net.embed, "1": net.first, "2": net.second}) as seen, Streams(net.first) as first, Streams(net.second) as second:
        logits = net(hidden, given["condition_states"], given["condition_mask"])
        found, streams = dict(seen), {"1": list(first), "2": list(second)}
    hook.remove()
    case.check("condition_projected", found["projected"])
    case.check("token_latents", latents[0])
    case.check("token_embeds", found["embeds"])
    case.check("joint_input", streams["1"][0])
    rows = streams["1"][0].shape[1]
    case.check("position_table", positions(rows, net.size.dim))
    for stack, heads in (("1", net.size.first_heads), ("2", net.size.second_heads)):
        case.check(f"alibi_stack{stack}", attention.alibi(heads, rows)[0])
        for number, stream in enumerate(streams[stack]):
            case.check(f"stack{stack}.{number:02d}", stream)
        case.check(f"stack{stack}.out", found[stack])
    case.check("logits", logits)
    null = net(hidden, given["condition_states"], given["condition_mask"], torch.zeros(len(tokens), dtype=torch.bool))
    case.check("logits_null_condition", null)
    for layout in ("legacy", "aligned"):
        case.check(f"targets_{layout}", masking.targets(tokens, mask, layout))
        for name, made in (("", logits), ("_null_condition", null)):
            for end, smoothing in (("", 0.1), ("_no_smoothing", 0.0)):
                total, count = masking.cross_entropy(made, tokens, mask, layout, smoothing)
                case.check(f"loss_{layout}{name}{end}", total.sum() / count.sum())
    levels, frames = tokens.shape[1:]
    place = torch.stack(torch.meshgrid(torch.arange(levels), torch.arange(frames), indexing="ij"), -1)[None]
    case.check("legacy_logit_head_row", place.flatten(1, 2)[0])
    every = torch.ones(1, levels, frames, dtype=torch.bool)
    target = torch.stack([masking.targets(place[..., k], every, "legacy") for k in (0, 1)], -1)
    case.check("legacy_target_codebook_frame", target[0])
    # decoding finds a token's logits where training scores them
    by_row = place.transpose(1, 2).flatten(1, 2)[0]
    assert torch.equal(by_row[masking.slots(frames, levels, "legacy")], place.flatten(1, 2)[0])


def framed(values: torch.Tensor, case) -> torch.Tensor:
    """(1, T K) frame by frame -> (K, T)."""
    return values.view(case.config["audio_frames"], case.config["n_codebooks"]).T


@torch.no_grad()
def decoded(case, tmp_path):
    net, given, config = network(case, tmp_path), case.inputs, case.config
    settings = decoding.Settings(config["steps"], config["cfg"], config["top_k"], 1.0, config["mask_temperature"])
    frames, chosen, rows = config["audio_frames"], config["logit_steps"], config["logit_rows"]

    def draws(step: int):
        return given["categorical_u"][step][None], given["gumbel"][step][None]

    steps = []
    given_draws = draws if "categorical_u" in given else None
    condition = given["condition_states"], given["condition_mask"]
    case.check("final", decoding.decode(net, *condition, frames, settings, draws=given_draws, watch=lambda _, seen: steps.append(seen)))
    assert torch.equal(decoding.decode(net, *condition, frames, settings, draws=given_draws), case.outputs["final"])
    case.check("tokens_in", torch.cat([seen["tokens"] for seen in steps]))
    case.check("remask_count", torch.tensor([seen["again"] for seen in steps]))
    case.check("remask_temperature", torch.tensor([settings.noise(k) for k in range(config["steps"])]))
    case.check("drawn", torch.stack([framed(seen["drawn"], case) for seen in steps]))
    for name, key in (("drawn_probability", "probability"), ("confidence", "confidence")):
        if name in case.outputs:
            value, wanted = torch.stack([framed(seen[key], case) for seen in steps]), case.outputs[name]
            assert torch.equal(value.isinf(), wanted.isinf()), name
            case.outputs[name] = wanted.nan_to_num(posinf=0.0)
            case.check(name, value.nan_to_num(posinf=0.0))
    both = torch.stack([steps[k]["logits"].view(2, frames, config["n_codebooks"], -1).transpose(1, 2) for k in chosen], 1)
    picked = {"condition": both[0], "null": both[1]}
    picked["guided"] = picked["null"] + settings.guidance * (picked["condition"] - picked["null"])
    for name, value in picked.items():
        case.check(f"logits_{name}", value if rows is None else value[:, :, rows])


@torch.no_grad()
def codec_case(case, tmp_path):
    config = case.config
    path = tmp_path / "codec.safetensors"
    save_file(case.weights(), path)
    for pad in sorted({name.rpartition(".")[2] for name in case.outputs if name.startswith("wave.")}):
        found = codec.read(path, pad)
        made = codec.fill(codec.make(found.config, path), found)
        told = made.model.config
        wanted = {
            "num_filters": "n_filters", "upsampling_ratios": "ratios", "hidden_size": "latent_dim", "codebook_size": "codebook_size", "num_lstm_layers": "lstm_layers",
            "kernel_size": "kernel_size", "residual_kernel_size": "residual_kernel_size", "dilation_growth_rate": "dilation_base", "sampling_rate": "sample_rate",
            "num_quantizers": "n_codebooks", "use_causal_conv": "causal", "norm_type": "norm",
        }  # fmt: skip
        for ours, theirs in wanted.items():
            assert getattr(told, ours) == config[theirs], ours
        layers = {name: int(name.split(".")[1]) for name in case.outputs if name.startswith("decoder.") and name.endswith(pad)}
        with Seen({name: made.model.decoder.layers[number] for name, number in layers.items()}) as seen:
            case.check(f"wave.{pad}", made.decode(case.inputs["tokens"])[:, None])
            for name in layers:
                case.check(name, seen[name])
        case.check("latent", made.latents(case.inputs["tokens"]))
        latent = made.model.encoder(case.inputs["audio"])
        case.check(f"encoder_latent.{pad}", latent)
        case.check(f"codes.{pad}", made.encode(case.inputs["audio"][:, 0]))


def lr_schedule(case, _):
    given = case.inputs
    rates = [
        [base * 1e6 * masking.audio_rate(step, int(warmup), int(cycle)) for step in steps]
        for (base, warmup, cycle), steps in zip(given["audio_schedules"].tolist(), given["steps"].tolist(), strict=True)
    ]
    case.check("audio_lr_times_1e6", torch.tensor(rates))
    shares = [[masking.converter_rate(step, *schedule) for step in given["converter_steps"].tolist()] for schedule in given["converter_schedules"].tolist()]
    case.check("converter_multiplier", torch.tensor(shares))


def mask_schedule(case, _):
    laws = [masking.Ratio(mean, deviation, low, high) for mean, low, high, deviation in case.inputs["truncnorm"].tolist()]
    fine = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    values = [law.quantile(fine) for law in laws]
    case.check("ratio_mean", torch.stack([value.mean() for value in values]))
    case.check("ratio_std", torch.stack([value.std() for value in values]))
    case.check("ratio_quantiles", torch.stack([law.quantile(case.inputs["quantiles"]) for law in laws]))
    parts = case.outputs["ratio_cdf"].shape[1]
    case.check("ratio_cdf", torch.stack([law.cumulative(torch.linspace(law.low, law.high, parts)) for law in laws]))
    most = case.outputs["remask_count"].shape[1]
    counts, noises = [], []
    for tokens, steps in case.inputs["decode"].tolist():
        settings = decoding.Settings(steps, mask_temperature=case.config["mask_temperature"])
        counts.append(masking.remask_counts(tokens, steps) + [-1] * (most - steps))
        noises.append([settings.noise(k) for k in range(steps)] + [-1.0] * (most - steps))
    case.check("remask_count", torch.tensor(counts))
    case.check("remask_temperature", torch.tensor(noises))


def audio_keys(file):
    """The names and shapes of the whole release load strictly into the full-size network, and come back as they are."""
    shapes = json.loads(file.read_text(encoding="utf-8"))
    found = checkpoint.found({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, file)
    size = found.size
    assert size == Size(condition=size.condition, layout="legacy", positions="padded")
    with torch.device("meta"):
        net = AudioNet(size)
        checkpoint.fill(net, found, torch.empty_like(net.codebooks))
        again = checkpoint.released(net)
    own = {name: shape for name, shape in shapes.items() if name.startswith(checkpoint.AUDIO)}
    assert {name: list(tensor.shape) for name, tensor in again.items()} == own and len(own) == 330
    if size.condition == 4096:
        assert sum(p.numel() for p in net.parameters()) == 415_427_072


def codec_keys(file):
    tensors = {name: torch.empty(shape, device="meta") for name, shape in json.loads(file.read_text(encoding="utf-8")).items()}
    config = codec.told_by({name: tuple(tensor.shape) for name, tensor in tensors.items()}, file)
    with torch.device("meta"):
        codec.fill(codec.make(config, file), codec.Found(codec.renamed(tensors), config, file))


KINDS = {
    "audio_forward": audio_forward,
    "codec": codec_case,
    "decode": decoded,
    "lr_schedule": lr_schedule,
    "mask_schedule": mask_schedule,
}
KEY_LISTS = {"full_keys": audio_keys, "full_keys_audio": audio_keys, "full_keys_ckpt": audio_keys, "full_keys_codec": codec_keys}
