"""The diffusion's arithmetic in v (Salimans and Ho 2022) and its loss weights (Hang et al. 2023, min-SNR)."""

import torch


def alphas_cumprod(schedule: dict) -> torch.Tensor:
    """(steps,) products of the alphas of a noise schedule in diffusers' fields."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(plain(schedule)).alphas_cumprod


def plain(schedule: dict) -> dict:
    """Without the fields that name the class and version that wrote it."""
    return {name: value for name, value in schedule.items() if not name.startswith("_")}


def _roots(latents: torch.Tensor, alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    alphas = alphas.to(latents).view(-1, *[1] * (latents.dim() - 1))
    return alphas.sqrt(), (1 - alphas).sqrt()


def add_noise(latents: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """Noisy latents at the products `alphas` (B,)."""
    signal, share = _roots(latents, alphas)
    return signal * latents + share * noise


def v_target(latents: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """v = sqrt(a) noise - sqrt(1 - a) latents."""
    signal, share = _roots(latents, alphas)
    return signal * noise - share * latents


def snr(alphas: torch.Tensor) -> torch.Tensor:
    """Signal-to-noise ratio a / (1 - a)."""
    return alphas / (1 - alphas)


def snr_weight(ratio: torch.Tensor, gamma: float, legacy: bool = False) -> torch.Tensor:
    """min(SNR, gamma) / (SNR + 1), right for v; `legacy`: / SNR, the formula for noise, as the released model was trained."""
    return ratio.clamp(max=gamma) / (ratio if legacy else ratio + 1)
