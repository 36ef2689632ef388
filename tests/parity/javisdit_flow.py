"""JavisDiT's rectified flow and masks against the numbers of the original."""

import torch

from avtools.models.javisdit import flow, masks

STREAMS = {"video": "video", "sound": "audio"}  # our name -> the case's


def toy(coef, z, times, y, mask=None):
    """The network of the cases: twice the channels, the second half something."""
    a, b, c = coef
    shape = [-1, *[1] * (z.dim() - 1)]
    made = a * z + b * torch.cos(3 * times / 1000).view(shape) + c * y.flatten(1).mean(1).view(shape)
    if mask is not None:
        made = made + 0.01 * mask.float().view(len(mask), 1, -1, *[1] * (z.dim() - 3))
    return torch.cat([made, torch.full_like(made, 7.0)], 1)


def pairs(case, end: str = "") -> dict:
    return {ours: case.inputs[theirs + end] for ours, theirs in STREAMS.items()}


def timestep_transform(case, _):
    given = case.inputs
    for height, width, pictures in case.config["geometries_h_w_frames"]:
        for scale in case.config["scales"]:
            case.check(f"{height}x{width}x{pictures}.scale{scale:g}", flow.shifted(given["t"], flow.shift_of(height, width, pictures, scale)))
    raw = flow.logit_normal(given["normal"])
    for name in [name for name in case.outputs if name.startswith("logit_normal_")]:
        sizes = name.rpartition("_")[2]
        case.check(name, raw if sizes == "raw" else flow.shifted(raw, flow.shift_of(*map(int, sizes.split("x")))))


def losses(case, _):
    given = case.inputs
    clean, noise = pairs(case), pairs(case, "_noise")
    for run, made in (("none", None), ("masked", pairs(case, "_mask"))):
        x = {name: flow.noisy(clean[name], noise[name], given["t"], made and made[name]) for name in clean}
        found = {name: toy(case.config["coef"][STREAMS[name]], x[name], given["t"], given["y"], made and made[name]) for name in x}
        for ends, names in (("", ("video", "sound")), (".audio_only", ("sound",))):
            lost = flow.losses({name: found[name] for name in names}, clean, noise, made, legacy=True)
            case.check(f"{run}{ends}.loss", lost["loss"])
            for name in names:
                case.check(f"{run}{ends}.loss_{STREAMS[name]}", lost[name])
                if not ends:
                    case.check(f"{run}.x_t_{STREAMS[name]}", x[name])
        if made is not None:  # ours differs where nothing is made, and only there
            ours = flow.losses(found, clean, noise, made)
            for name in made:
                some = made[name].bool().any(1)
                torch.testing.assert_close(ours[name][some], case.outputs[f"{run}.loss_{STREAMS[name]}"][some])
                assert (ours[name][~some] == 0).all()


def dpo_loss(case, _):
    given, config = case.inputs, case.config
    clean, noise, times = pairs(case), pairs(case, "_noise"), given["t"].repeat(2)
    lost = []
    for coef in (config["coef"], config["ref_coef"]):
        found = {name: toy(coef[STREAMS[name]], flow.noisy(clean[name], noise[name], times), times, given["y"]) for name in clean}
        lost.append({name: flow.loss(found[name], clean[name], noise[name]) for name in found})
    made = flow.preference(*lost, {name: config["beta"][STREAMS[name]] for name in clean})
    case.check("loss", made["loss"])
    for name, theirs in STREAMS.items():
        for output, ours in (("loss", ""), ("dpo_loss", "_dpo"), ("policy_loss", "_policy"), ("implicit_acc", "_right")):
            case.check(f"{output}_{theirs}", made[name + ours])


def euler_sampler(case, _):
    given, config = case.inputs, case.config
    y = torch.cat([given["y"], given["y_null"]])
    settings = flow.Settings(config["steps"], config["cfg_scale"])
    shift = flow.shift_of(config["height"], config["width"], config["num_frames"])

    def velocity(latents, times, made):
        return [toy(config["coef"][name], x, times, y, made and made[k]) for k, (name, x) in enumerate(zip(STREAMS.values(), latents, strict=True))]

    for run in ("plain", "masked"):
        seen = []
        made = tuple(pairs(case, "_mask").values()) if run == "masked" else None
        final = flow.sample(velocity, tuple(pairs(case).values()), shift, settings, made, watch=lambda *what, seen=seen: seen.append(what))
        case.check(f"{run}.timesteps", torch.tensor([[time] * len(given["y"]) for _, time, _, _ in seen]))
        for k, name in enumerate(STREAMS.values()):
            case.check(f"{run}.{name}", final[k])
            case.check(f"{run}.model_in_{name}", torch.stack([x[k] for _, _, x, _ in seen]))
            if made is not None:
                case.check(f"{run}.{'x' if name == 'video' else 'ax'}_mask", torch.stack([active[k].float() for *_, active in seen]))


def temporal_masks(case, _):
    config = case.config
    assert {masks.SPELLINGS.get(name, name) for name in config["mask_ratios"]} == set(masks.RATIOS)
    for frames, sounds in config["lengths_video_audio"]:
        video = [masks.video_mask(name, frames, numbers, ratio, case.inputs["uniforms"]) for name, numbers, ratio in config["forced"]]
        sound = [masks.sound_mask(masks.SPELLINGS.get(name, name), one, sounds) for (name, *_), one in zip(config["forced"], video, strict=True)]
        case.check(f"video.{frames}", torch.stack(video).to(case.outputs[f"video.{frames}"].dtype))
        case.check(f"audio.{frames}_{sounds}", torch.stack(sound).to(case.outputs[f"audio.{frames}_{sounds}"].dtype))
    masks.check(config["mask_ratios"])
    names = [masks.chosen(number, config["mask_ratios"]) for number in case.inputs["choice_uniform"].tolist()]
    case.check("choice_index", torch.tensor([config["order"].index(name) for name in names]))


def inference_masks(case, _):
    given = case.inputs
    references = [list(zip(given["ref_video"], given["ref_audio"], strict=True))] * len(given["video"])
    for number, call in enumerate(case.config["calls"]):
        edits = [masks.parse(text) for text in call["strategies"]]
        made = masks.begin(given["video"], given["audio"], edits, references, fps=call["fps"], align=call["align"], legacy=True)
        case.check(f"{number}.video", made.video)
        case.check(f"{number}.audio", made.sound)
        case.check(f"{number}.video_mask", made.video_made)
        case.check(f"{number}.audio_mask", made.sound_made)


KINDS = {
    "rflow_timestep_transform": timestep_transform,
    "rflow_losses": losses,
    "rflow_dpo_loss": dpo_loss,
    "rflow_euler_sampler": euler_sampler,
    "temporal_masks": temporal_masks,
    "inference_masks": inference_masks,
}
