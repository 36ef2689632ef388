"""Losses of the three stages, of a prepared batch (spec JavisDiT models, sections 1 to 3); all of each item, (B,)."""

import torch

from avtools.models.javisdit import flow, masks, prior_losses
from avtools.models.javisdit.model import Given, drawn_keep
from avtools.models.javisdit.prior import Clips
from avtools.training.draws import generator, normal


def flow_losses(net, batch: dict, config, ratios: dict | None = None, train: bool = True) -> dict[str, torch.Tensor]:
    """{"loss", "sound", and of the joint form "video"} of the diffusion transformer `net`, called with a prepared batch.

    The batch has `sound` (B, C, L, M), maybe `video` (B, C, T, h, w), `text` (B, N, E), `counts`, `spatial`, `temporal`, `pixels`
    (height, width), `frames` (pictures), `draws`.  `ratios`: of masks; none where not `train`, as there is no dropout then.
    """
    draws, sound, video = batch["draws"], batch["sound"], batch.get("video")
    device, clean = sound.device, {"sound": sound} if video is None else {"video": video, "sound": sound}
    noise = {name: normal(draws, f"{name} noise", tuple(one.shape[1:]), device) for name, one in clean.items()}
    times = flow.draw_times(draws, config.shift or flow.shift_of(*batch["pixels"], batch["frames"]), config.times, device)
    made = None
    if ratios and train and video is not None:
        drawn = [masks.draw(generator(int(draw), "mask"), video.shape[2], sound.shape[2], ratios) for draw in draws]
        made = {"video": torch.stack([one for _, one, _ in drawn]).to(device), "sound": torch.stack([one for _, _, one in drawn]).to(device)}
    noisy = {name: flow.noisy(one, noise[name], times, None if made is None else made[name]) for name, one in clean.items()}
    keep = drawn_keep(draws, config.dropout, device) if train else None
    given = Given(batch["text"], batch["counts"], batch.get("spatial"), batch.get("temporal"), keep)
    fps = torch.full((len(sound),), float(batch["fps"]), device=device)
    shown, heard = net(
        noisy.get("video"), noisy["sound"], times, given, fps, batch["pixels"] if video is not None else None,
        video_made=None if made is None else made["video"], sound_made=None if made is None else made["sound"],
    )  # fmt: skip
    return flow.losses({"video": shown, "sound": heard} if video is not None else {"sound": heard}, clean, noise, made, config.legacy_loss)


def prior_step(net, batch: dict, weights: prior_losses.Weights) -> dict[str, torch.Tensor]:
    """{"loss", its terms, "contrast"} of the prior `net`: the share of a clip's negatives that are less like the prior than it is."""
    size = net.module.size if hasattr(net, "module") else net.size
    noise = normal(batch["draws"], "prior", (size.spatial + size.temporal, size.out), batch["sound"].device)
    clips = Clips(batch["video"], batch["sound"], batch["negatives"], batch["pixels"], batch["there"])
    made = net(batch["prior_states"], noise, clips)
    found = prior_losses.losses(made, batch.get("onsets"), weights)
    contrast = {f"{name}_contrast": prior_losses.contrast(view) for name, view in made.views.items()}
    whole = torch.stack(list(contrast.values())).nan_to_num(0.5).mean(0)
    return {"loss": found.total, **found.terms, "contrast": whole, **{name: value.nan_to_num(0.5) for name, value in contrast.items()}}
