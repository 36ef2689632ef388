"""JavisDiT's prior against the numbers of the original: estimator, encoder of latents, losses."""

import json

import torch
from common import Seen
from safetensors.torch import save_file

from avtools.models.javisdit import prior as priors
from avtools.models.javisdit import prior_losses
from avtools.models.javisdit.text import tower_of
from avtools.models.parts.imagebind.model import HUGE


def network(case, folder, training: bool) -> priors.Prior:
    """Through the loader that users get."""
    path = folder / "prior.safetensors"
    save_file(case.weights(), path)
    config = case.config
    found = priors.read(path, config["nhead"])
    wanted = {
        "text": config["text_emb_dim"], "dim": config["hidden_size"], "heads": config["nhead"], "encoder_layers": config["num_encoder_layers"],
        "decoder_layers": config["num_decoder_layers"], "feed": config["feedforward_scale"], "out": config["out_dim"],
        "spatial": config["spatial_token_num"], "temporal": config["temporal_token_num"],
    }  # fmt: skip
    if config.get("encode_va"):
        wanted |= {
            "video_channels": config["video_in_channel"], "video_patch": config["video_patch_size"][-1], "audio_channels": config["audio_in_channel"],
            "audio_patch": config["audio_patch_size"][-1], "pair_heads": config["va_num_heads"], "pair_feed": int(config["va_mlp_ratio"]), "onset": config["pred_onset"],
        }  # fmt: skip
        assert config["video_input_sq_size"] == priors.SQUARE and found.trained
    assert found.size == priors.Size(**wanted)
    return found.make(training).eval()


@torch.no_grad()
def estimator(case, tmp_path):
    net, given = network(case, tmp_path, False), case.inputs
    extractor = net.prior_extractor
    with Seen({"in_proj": net.in_proj, "encoder_out": extractor.encoder, "decoder_out": extractor.decoder}) as seen:
        mean, logvar = net.posterior(given["text_hidden"])
        for name, value in seen.items():
            case.check(name, value)
    case.check("mean", mean)
    case.check("logvar", logvar)
    spatial, temporal = net(given["text_hidden"], given["noise"])
    case.check("spatial_prior", spatial)
    case.check("temporal_prior", temporal)
    case.check("kl_per_sample", prior_losses.divergence(mean, logvar))


@torch.no_grad()
def losses(case, tmp_path):
    net, given = network(case, tmp_path, True), case.inputs
    negatives = {f"{medium}-{view}": given[f"neg_{medium}_{view}"] for medium in ("video", "audio") for view in priors.VIEWS}
    pixels = tuple(int(given[name][0]) for name in ("frame_height", "frame_width"))
    for medium, tokens in (("video", net.video_tokens(given["video"], pixels)), ("audio", net.audio_tokens(given["audio"]))):
        case.check(f"{medium}_tokens", tokens)
        case.check(f"{medium}_spatial_view", net.spatial_view(tokens))
        case.check(f"{medium}_temporal_view", net.temporal_view(tokens))
    made = net(given["text_hidden"], given["noise"], priors.Clips(given["video"], given["audio"], negatives, pixels))
    found = prior_losses.losses(made, given.get("onset"))
    for name, view in made.views.items():
        case.check(f"{name}_embed", view.embedding)
        case.check(f"disc_logits_{name}", view.logits)
        for term in ("token", "disc", "mse", "va"):
            case.check(f"term.{name}_{term}_loss", found.terms[f"{name}_{term}"].mean())
        case.check(f"term.{name}_total_loss", sum(value for term, value in found.terms.items() if term.startswith(name)).mean())
    for term in ("kl", "onset"):
        if term in found.terms:
            case.check(f"term.{term}_loss", found.terms[term].mean())
    case.check("total_loss", found.total.mean())


def keys(file):
    """The names and shapes of the whole release load strictly, text tower and all; so do those without it."""
    shapes = json.loads(file.read_text(encoding="utf-8"))
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = priors.found(tensors, file)
    assert found.size == priors.Size() and len(found.tensors) == 175
    for training in (False, True):
        net = found.make(training)
        own = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
        assert own == {name: shape for name, shape in shapes.items() if name in own}
    assert {*own} == {*found.tensors}
    assert found.text and tower_of(found.text, file).size == HUGE["text"]


KINDS = {"prior_estimator": estimator, "prior_losses": losses}
KEY_LISTS = {"prior_estimator": keys}
