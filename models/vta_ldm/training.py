"""What trains, what is frozen, and the loss of a batch (spec sections 1 and 3)."""

import torch

from avtools.models.vta_ldm import diffusion
from avtools.models.vta_ldm.model import Inputs
from avtools.training import draws


def losses(module, batch: dict, config, alphas_cumprod: torch.Tensor, step: float, train: bool) -> dict[str, torch.Tensor]:
    """Per-item losses (B,) of a prepared batch: `loss` as weighted for training, `mse` plain.

    `alphas_cumprod` (1000,); `step`: seconds per latent.  Every draw comes from the items' own.
    """
    mean, std, ids = batch["mean"], batch["std"], batch["draws"]
    device = mean.device
    shape = tuple(mean.shape[1:])
    latents = mean + std * draws.normal(ids, "posterior", shape, device) if batch["sampled"] else mean
    noise = draws.normal(ids, "noise", shape, device)
    timesteps = (draws.uniform(ids, "timestep", device) * len(alphas_cumprod)).long()
    alphas = alphas_cumprod.to(device)[timesteps]
    keep = draws.uniform(ids, "condition", device) >= (config.condition_dropout if train else 0.0)
    noisy, target = diffusion.add_noise(latents, noise, alphas), diffusion.v_target(latents, noise, alphas)
    predicted = module(noisy, timesteps, Inputs(batch["features"], batch["texts"], keep), step)
    mse = (predicted.float() - target.float()).square().mean((1, 2, 3))
    if not train or config.snr_gamma is None:
        return {"loss": mse, "mse": mse.detach()}
    return {"loss": mse * diffusion.snr_weight(diffusion.snr(alphas), config.snr_gamma, config.legacy_snr), "mse": mse.detach()}
