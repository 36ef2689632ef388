"""The mosaic of attention against the numbers of the original: boxes, soft logits, a layer, the whole network."""

import torch
from common import Case
from diffusers.models.attention_processor import Attention

from avtools.models.maestro.mosaic import Mosaic, Scene, soften
from avtools.models.maestro.regions import LAYOUTS, Box, regions_of, soft_cells
from avtools.models.maestro.unet import VideoUnet, from_released, released_settings

NAMES = {"LR": "lr", "TD": "td", "T3": "three", "Q4": "quad"}
PREFIX = "model.diffusion_model."


def scene_of(name: str) -> Scene:
    layout = NAMES[name]
    return Scene(regions_of(map(str, range(len(LAYOUTS[layout][1]))), layout))


def phase_a(case: Case, tmp_path):
    config, given = case.config, case.inputs["logits"]
    every = [box for name in ("lr", "td", "quad") for box in LAYOUTS[name][0]] + [Box(*box) for box in config["extra_boxes"]]
    case.check("boxes", [[soft_cells(box, tuple(grid)) for box in every] for grid in config["grids"]])
    for name in config["layouts"]:
        scene, grid = scene_of(name), tuple(config["grid"])
        bumps = torch.from_numpy(scene.regions.bumps(grid))
        case.check(f"{name}_gauss", bumps[:, 0])
        for form in ("fp32maps", "fp16maps"):
            logits = given.unflatten(0, (config["frames"], config["heads"])).flatten(2, 3)
            soften(edited := logits.clone(), bumps.flatten(2), scene, config["strengthen"], config["weaken"], half=form == "fp16maps")
            found = edited.flatten(0, 1).unflatten(1, grid)
            assert torch.equal(found[..., scene.slots.stop :], given[..., scene.slots.stop :]) and torch.equal(found[..., 0], given[..., 0])
            found = found[..., : config["keep_tokens"]]
            if form == "fp32maps":
                case.check(f"{name}_{form}", found)
                continue
            # ours rounds as the original does; but one last bit of single precision can turn one of half precision
            assert (found - case.outputs[f"{name}_{form}"]).abs().max() <= case.facts["tolerance"]["fp16maps_atol"]
            case.open.discard(f"{name}_{form}")


def layer(case: Case, tmp_path):
    config, given = case.config, case.inputs
    net = torch.nn.Module()
    net.attentions = torch.nn.ModuleList([torch.nn.Module()])
    attention = net.attentions[0].attn2 = Attention(
        query_dim=config["query_dim"], cross_attention_dim=config["context_dim"], heads=config["heads"], dim_head=config["dim_head"]
    )
    attention.load_state_dict({name.split(".attn2.")[1]: tensor for name, tensor in case.weights().items()})
    logits = [part.unflatten(-1, (config["heads"], -1))[0, :, 0] for part in (attention.to_q(given["x"]), attention.to_k(given["context"]))]
    case.check("logits_row0", logits[0] @ logits[1].T * attention.scale)
    with torch.no_grad():
        for phase, names in (("none", ["plain"]), ("soft", config["soft_layouts"]), ("hard", config["hard_layouts"])):
            for name in names:
                mosaic = Mosaic([scene_of("LR" if name == "plain" else name)], given["base_context"][None], config["frames"], config["grid"])
                # the same sample before it, which stays as it is
                with mosaic.on(net, before=1):
                    mosaic.phase = phase
                    found = attention(given["x"].repeat(2, 1, 1), given["context"].repeat(2, 1, 1))
                case.check(name if name == "plain" else f"{phase}_{name}", found[config["frames"] :])
                assert torch.allclose(found[: config["frames"]], case.outputs["plain"], atol=2e-5, rtol=1e-4)


def network(case: Case, tmp_path):
    config, given = case.config, case.inputs
    released = {name.removeprefix(PREFIX): tensor for name, tensor in case.weights().items()}
    unet = VideoUnet(**released_settings({name: tuple(tensor.shape) for name, tensor in released.items()})).eval()
    unet.load_state_dict(from_released(released))
    assert unet.config.attention_head_dim == config["num_head_channels"]
    context, base = given["context"][None], given["base_context"][None]
    frames, *size = given["x"].shape[2:]
    with torch.no_grad():
        case.check("eps_unconditional", unet(given["x"], given["t"], base, config["fps"]))
        case.check("eps_plain", unet(given["x"], given["t"], context, config["fps"]))
        for phase in ("soft", "hard"):
            for name in config[phase]:
                mosaic = Mosaic([scene_of(name)], base, frames, size)
                with mosaic.on(unet, before=1):
                    mosaic.phase = phase
                    # the unconditional one in the same batch, as the sampler has it, and twice: kept keys are right
                    for _ in range(2):
                        both = unet(given["x"].repeat(2, 1, 1, 1, 1), given["t"].repeat(2), torch.cat([base, context]), config["fps"])
                        case.check("eps_unconditional", both[:1])
                        case.check(f"eps_{phase}_{name}", both[1:])


KINDS = {"mosaic_phase_a": phase_a, "mosaic_attention": layer, "vc2_unet_mosaic": network}
