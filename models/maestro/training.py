"""The two trainings: what is heard as tokens of text (cim), and a video model of one's own (maestro-video); spec MAESTRO, sections 1.3 and 3.

Every draw of an item comes from its own number, so that no item's loss depends on its batch, however many videos are in it.
"""

import torch
from torch import nn

from avtools.models.maestro import codec as pictures
from avtools.models.maestro import losses as errors
from avtools.models.maestro.context import FIRST, with_tokens
from avtools.training import draws

KEYS = (".attn2.to_k.", ".attn2.to_v.")  # of the network that cim learns of


class Injection(nn.Module):
    """The resampler and the frozen network that it learns of; with `keys` that network's keys and values of prompts train too."""

    def __init__(self, resampler, unet, keys: bool):
        super().__init__()
        self.resampler, self.unet = resampler, unet
        unet.requires_grad_(False)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(keys and any(key in f".{name}" for key in KEYS))

    def train(self, mode: bool = True):
        """What is frozen stays as it is when it is sampled with: no dropout."""
        super().train(mode)
        self.unet.eval()
        return self

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def forward(self, maps: torch.Tensor, frames: int, null: torch.Tensor, noisy: torch.Tensor, times: torch.Tensor, fps: float | None):
        """(prediction, prompts (B, F, P, D)) of tokens of sound `maps` (B, F or 1, L, C), one clip's for each picture or one for all.

        `null` (P, D): the empty prompt.  `noisy`: of pictures (B, F, C, h, w) with `times` (B, F), or, with `fps`, of a video
        (B, C, F, h, w) with `times` (B,).
        """
        tokens = self.resampler(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        tokens = tokens.expand(-1, frames, -1, -1)
        prompts = with_tokens(null, tokens.flatten(0, 1), FIRST).unflatten(0, tokens.shape[:2])
        if fps is not None:
            return self.unet(noisy, times, prompts, fps), prompts
        made = self.unet(noisy.flatten(0, 1), times.flatten(), prompts.flatten(0, 1)).sample
        return made.unflatten(0, noisy.shape[:2]), prompts


def paired(maps: torch.Tensor, middles: torch.Tensor, times: torch.Tensor, legacy: bool) -> torch.Tensor:
    """Tokens of clips (B, K, L, C) -> those of pictures (B, F, L, C); of one clip (B, 1, L, C), which is all pictures'.

    `middles` (B, K) and `times` (B, F), seconds.  `legacy`: first to first and last to last, whatever their times.
    """
    if maps.shape[1] == 1:
        return maps
    if legacy:
        return errors.interpolate(maps, times.shape[1])
    return torch.stack([errors.at_times(one, middle, time) for one, middle, time in zip(maps, middles, times, strict=True)])


def injection_losses(module, batch: dict, noise, config, fps: float | None) -> dict[str, torch.Tensor]:
    """Losses (B,) of a prepared batch: `latents` (B, C, F, h, w), `deviation`, `maps`, `null` (P, D), `label` (B, P, D)."""
    ids, latents = batch["draws"], batch["latents"]
    device, shape = latents.device, tuple(latents.shape[1:])
    fresh = draws.normal(ids, "noise", shape, device)
    if fps is None:  # picture by picture
        latents, fresh = latents.transpose(1, 2), fresh.transpose(1, 2)
        times = _times(ids, latents.shape[1], len(noise)).to(device)
        flat = times.flatten()
        noisy = noise.add(latents.flatten(0, 1), fresh.flatten(0, 1), flat).view_as(latents)
        target = noise.target(latents.flatten(0, 1), fresh.flatten(0, 1), flat).view_as(latents)
    else:
        times = _times(ids, 1, len(noise))[:, 0].to(device)
        noisy, target = noise.add(latents, fresh, times), noise.target(latents, fresh, times)
    frames = batch["latents"].shape[2]
    made, heard = module(batch["maps"], frames, batch["null"], noisy, times, fps)
    found = [errors.losses(*one, config.denoising_weight, config.text_weight) for one in zip(made, target, heard, batch["label"], strict=True)]
    return {"loss": torch.stack([one.total for one in found]), "denoising": torch.stack([one.denoising for one in found]), "text": torch.stack([one.text for one in found])}


def _times(ids, count: int, length: int) -> torch.Tensor:
    """(B, count) whole times below `length`, drawn for each item."""
    return torch.stack([(torch.rand(count, generator=draws.generator(int(one), "timestep")) * length).long() for one in ids])


def latents_of(codec, videos: torch.Tensor, ids) -> torch.Tensor:
    """Samples of scaled latents (B, C, T, h, w) of pictures (B, T, 3, H, W) uint8; each item's sample is its own."""
    videos = videos.float() / 255
    shape = _latent_shape(codec, videos)
    noise = draws.normal(ids, "posterior", shape, videos.device) if shape is not None else None
    return pictures.encode(codec, videos, noise)


def _latent_shape(codec, videos: torch.Tensor) -> tuple[int, ...] | None:
    """(C, T, h, w) of latents that are drawn; None of a codec that draws none."""
    if not hasattr(codec, "model"):
        return None
    return codec.channels, videos.shape[1], -(-videos.shape[-2] // codec.factor), -(-videos.shape[-1] // codec.factor)


def video_losses(module, batch: dict, noise, config, train: bool) -> dict[str, torch.Tensor]:
    """Losses (B,) of a prepared batch: `latents` (B, C, T, h, w), `text` and `null` (B or 1, P, D)."""
    ids, latents = batch["draws"], batch["latents"]
    device = latents.device
    fresh = draws.normal(ids, "noise", tuple(latents.shape[1:]), device)
    times = _times(ids, 1, len(noise))[:, 0].to(device)
    text = batch["text"]
    if train:
        keep = draws.uniform(ids, "text", device) >= config.text_dropout
        text = torch.where(keep[:, None, None], text, batch["null"].to(text))
    made = module(noise.add(latents, fresh, times), times, text, config.fps)
    return {"loss": (made.float() - noise.target(latents, fresh, times)).square().mean((1, 2, 3, 4))}
