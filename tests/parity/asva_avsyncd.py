"""AVSyncD against the numbers of the original: the UNet, its loss and gradients, guidance, and whole sampling."""

import json
import pathlib
import tempfile

import torch

from avtools.models.avsyncd import checkpoint, sampling, training
from avtools.models.avsyncd.config import NOISE_SCHEDULE
from avtools.models.avsyncd.model import Condition

#: A case's names for the UNet's settings -> those of the released config.json.
RELEASED = {"num_heads": "attention_head_dim", "text_dim": "cross_attention_dim", "audio_dim": "audio_cross_attention_dim"}
KINDS_OF_BLOCKS = {
    "down_block_types": [*["FFSpatioAudioTempCrossAttnDownBlock3D"] * 3, "FFSpatioTempResDownBlock3D"],
    "mid_block_type": "FFSpatioAudioTempCrossAttnUNetMidBlock3D",
    "up_block_types": ["FFSpatioTempResUpBlock3D", *["FFSpatioAudioTempCrossAttnUpBlock3D"] * 3],
}
MODES = {"unguided": (1.0, 1.0), "audio_only": (None, 1.0), "text_only": (1.0, None), "dual": (None, None)}  # None: as the case says
FIRST = (0, 1, 2, -1)  # frames that are kept of intermediate outputs


def released(fields: dict, weights: dict, folder):
    """A released checkpoint of these settings and weights below `folder`; its UNet, loaded as users load it."""
    unet = folder / "checkpoint-1" / "modules" / "unet"
    unet.mkdir(parents=True)
    told = {**KINDS_OF_BLOCKS, **{RELEASED.get(name, name): value for name, value in fields.items()}}
    (unet / "config.json").write_text(json.dumps({"_class_name": checkpoint.RELEASED, "_diffusers_version": "0.22.0", **told}))
    torch.save(weights, unet / "diffusion_pytorch_model.bin")
    config = checkpoint.config_of(folder / "checkpoint-1")
    made = checkpoint.make_unet(config)
    checkpoint.load_unet(made, folder / "checkpoint-1")
    return made.eval()


def schedule_of(case) -> dict:
    return {**NOISE_SCHEDULE, **{name: value for name, value in case.config["scheduler"].items() if name not in ("type", "trained_betas")}}


def unet(case, folder):
    fields = {name: value for name, value in case.config.items() if name not in ("head_dim", "kept_channels")}
    model = released(fields, case.weights(), folder)
    given, wanted = case.inputs, set(case.outputs)
    seen = {}
    names = {name: module for name, module in model.named_modules() if name in wanted}
    hooks = [module.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output)) for name, module in names.items()]
    with torch.no_grad():
        case.check("prediction", model(given["sample"], given["timestep"], given["text"], given["audio"], given["audio_mask"]))
        for hook in hooks:
            hook.remove()
        one = [given[name][:1] for name in ("sample", "timestep", "text", "audio")]
        case.check("prediction_no_mask", model(*one))
        case.check("prediction_one_frame", model(one[0][:, :, :1], *one[1:], given["audio_mask"][:1]))
    case.check("time_embedding", model.time_embedding(given["timestep"]))
    batch, frames = len(given["sample"]), given["sample"].shape[2]
    for name, found in seen.items():
        if name == "time_embedding":
            continue
        found = found[-1] if isinstance(found, list) else found
        wanted = case.outputs[name]
        if name.endswith("pos_embedding_temp"):
            case.check(name, found)
        elif name.endswith("attn_temp"):  # (clips and pixels, frames, channels)
            case.check(name, found[: len(found) // batch][::4])
        elif wanted.dim() == 5:  # (B, F, h, w, C)
            case.check(name, found[:1, FIRST].permute(0, 4, 1, 2, 3))
        else:  # (B, F, pixels, C), or frames with the clips or with the pixels
            case.check(name, found.reshape(batch, frames, -1, found.shape[-1])[0, FIRST])


def training_loss(case, folder):
    model, given = released(case.config["unet"], case.weights(), folder), case.inputs
    training.freeze(model, "added")
    case.check("trainable_tensors", torch.tensor([sum(p.requires_grad for p in model.parameters())]))
    alphas = training.alphas_cumprod(schedule_of(case))[given["timesteps"]]
    seen = training.noisy(given["latents"], given["noise"], alphas)
    case.check("network_input", seen)
    text, audio = (training.kept(given[name], given[f"null_{name}"], given[f"{name}_keep"].bool()) for name in ("text", "audio"))
    predicted = model(seen, given["timesteps"], text, audio, given["audio_mask"])
    case.check("prediction", predicted)
    loss = training.error(predicted, given["noise"]).mean()
    case.check("loss", loss[None])
    case.check("loss_with_first_frame", training.error(predicted, given["noise"], True).mean()[None])
    loss.backward()
    for name in case.config["grads"]:
        case.check(f"grad.{name}", model.get_parameter(name).grad)


class Table:
    """In the network's place: the noise that a case gives for each pair of conditions and each pass."""

    def __init__(self, case):
        self.given, self.passes, self.rows = case.inputs, 0, None

    def condition(self, text, audio, mask, frames):
        assert mask.shape[0] == frames
        return Condition(text, audio)

    def __call__(self, sample, timestep, condition):
        made, self.rows = [], []
        for text, audio in zip(condition.text, condition.audio, strict=True):
            row = [int(torch.equal(one, self.given[name][0])) for one, name in ((text, "text"), (audio, "audio"))]
            self.rows.append(row)
            made.append(self.given["eps_" + "_".join(name if there else f"null_{name}" for there, name in zip(row, ("text", "audio"), strict=True))][self.passes])
        self.passes += 1
        return torch.stack(made)


def run(case, network, mode: str) -> None:
    """Sample in one mode of guidance and compare each pass."""
    given, steps = case.inputs, case.config["steps"]
    audio, text = MODES[mode]
    guidance = sampling.Guidance(case.config["audio_guidance"] if audio is None else audio, case.config["text_guidance"] if text is None else text)
    guided, latents = [], []

    def watch(k, made, now):
        guided.append(made[0])
        latents.append(now[0])

    conditions = [given[name] for name in ("text", "null_text", "audio", "null_audio", "audio_mask")]
    final = sampling.sample_latents(
        network, given["image_latent"], given["noise"], *conditions, guidance=guidance, scheduler="legacy", steps=steps, schedule=schedule_of(case), watch=watch
    )
    case.check(f"{mode}.guided", torch.stack(guided))
    case.check(f"{mode}.latents", torch.stack(latents))
    case.check(f"{mode}.decoder_input", final / 0.18215)


def timesteps(case, steps: int) -> torch.Tensor:
    return sampling.scheduler_for("legacy", schedule_of(case), steps).timesteps


def guidance_scheduler(case, _):
    for mode in MODES:
        table = Table(case)
        run(case, table, mode)
        case.check(f"{mode}.rows_text_audio", torch.tensor(table.rows))
    case.check("timesteps", timesteps(case, case.config["steps"]))
    for name in [name for name in case.outputs if name.startswith("timesteps_")]:
        case.check(name, timesteps(case, int(name.removeprefix("timesteps_"))))
    solver = sampling.scheduler_for("legacy", schedule_of(case), case.config["steps"])
    case.check("alphas_cumprod", training.alphas_cumprod(schedule_of(case)))
    case.check("final_alpha_cumprod", solver.final_alpha_cumprod.reshape(1))


def whole_sampling(case, folder):
    model = released(case.config["unet"], case.weights(), folder)
    for mode in MODES:
        run(case, model, mode)
    case.check("timesteps", timesteps(case, case.config["steps"]))


def full_size(file):
    """The released names and shapes, of tensors that all repeat one number, load strictly into a model on the meta device."""
    shapes = json.loads(file.read_text())
    with tempfile.TemporaryDirectory() as folder:
        unet = pathlib.Path(folder) / "modules" / "unet"
        unet.mkdir(parents=True)
        (unet / "config.json").write_text(json.dumps({"_class_name": checkpoint.RELEASED, **KINDS_OF_BLOCKS}))
        torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, unet / "diffusion_pytorch_model.bin")
        with torch.device("meta"):
            model = checkpoint.make_unet(checkpoint.config_of(folder))
        checkpoint.load_unet(model, folder)
        assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    added = sum(model.get_parameter(name).numel() for name in model.added())
    assert (len(shapes), sum(p.numel() for p in model.parameters()), added) == (1106, 1_169_357_496, 309_836_532)


KINDS = {
    "avsyncd_unet": unet,
    "avsyncd_training_loss": training_loss,
    "avsyncd_guidance_scheduler": guidance_scheduler,
    "avsyncd_sampling": whole_sampling,
}
KEY_LISTS = {"avsyncd": full_size}
