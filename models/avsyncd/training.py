"""What trains, what is frozen, and the loss of a batch (spec ASVA, section 1.4)."""

import torch

from avtools.training import draws


def alphas_cumprod(schedule: dict) -> torch.Tensor:
    """(steps,) products of the alphas of a noise schedule in diffusers' fields."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(schedule).alphas_cumprod


def freeze(unet, trains: str) -> None:
    """Let gradients reach what is trained: "all", or what Stable Diffusion does not have, "added"."""
    unet.requires_grad_(trains == "all")
    if trains == "added":
        for name in unet.added():
            unet.get_parameter(name).requires_grad_(True)


def noisy(latents: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """What the network sees of latents (B, C, F, h, w) at the products `alphas` (B,): noisy but for frame 0."""
    alphas = alphas.to(latents).view(-1, 1, 1, 1, 1)
    seen = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    return torch.cat([latents[:, :, :1], seen[:, :, 1:]], 2)


def kept(given: torch.Tensor, null: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Conditions (B, N, D) of the items where `keep` (B,), elsewhere the null (1, N, D)."""
    return torch.where(keep[:, None, None], given, null.to(given))


def error(predicted: torch.Tensor, noise: torch.Tensor, first_frame: bool = False) -> torch.Tensor:
    """(B,) mean squared errors in single precision, of all frames but the first."""
    begin = 0 if first_frame else 1
    return (predicted[:, :, begin:].float() - noise[:, :, begin:].float()).square().mean((1, 2, 3, 4))


def losses(module, batch: dict, config, products: torch.Tensor, train: bool) -> dict[str, torch.Tensor]:
    """Losses (B,) of a prepared batch; `products`: :func:`alphas_cumprod`.  Every draw comes from the items' own."""
    mean, std, ids = batch["mean"], batch["std"], batch["draws"]
    device, shape = mean.device, tuple(mean.shape[1:])
    latents = mean if std is None else mean + std * draws.normal(ids, "posterior", shape, device)
    noise = draws.normal(ids, "noise", shape, device)
    timesteps = (draws.uniform(ids, "timestep", device) * len(products)).long()
    text, audio = batch["text"], batch["audio"]
    if train:
        audio = kept(audio, batch["null_audio"], draws.uniform(ids, "sound", device) >= config.sound_dropout)
        text = kept(text, batch["null_text"], draws.uniform(ids, "text", device) >= config.text_dropout)
    predicted = module(noisy(latents, noise, products.to(device)[timesteps]), timesteps, text, audio, batch["mask"])
    return {"loss": error(predicted, noise, config.first_frame_loss)}
