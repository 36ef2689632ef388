"""Pictures of videos <-> latents, by a codec of pictures (spec MAESTRO, section 3): the KL autoencoder, or one without weights.

A codec is as :class:`..avsyncd.encoders.Vae`: `encode` pictures (N, 3, H, W) within 0..1 to mean and deviation (None: there
is none) of scaled latents, `decode` back; both some pictures at a time.
"""

import re
from collections.abc import Mapping

import torch

from avtools.models.avsyncd.encoders import AT_ONCE, VAE, Vae
from avtools.models.parts.audioldm import from_ldm


@torch.no_grad()
def encode(codec, videos: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """(B, T, 3, H, W) within 0..1, any float -> scaled latents (B, C, T, h, w), float32.

    The mean; with `noise`, standard normal of the latents' shape, a sample.
    """
    mean, deviation = codec.encode(videos.flatten(0, 1))
    latents = mean.float().unflatten(0, videos.shape[:2]).transpose(1, 2)
    if noise is None or deviation is None:
        return latents
    return latents + deviation.float().unflatten(0, videos.shape[:2]).transpose(1, 2) * noise.to(latents)


@torch.no_grad()
def decode(codec, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents (B, C, T, h, w) -> (B, T, 3, H, W) within 0..1, float32, each frame by itself."""
    frames = latents.transpose(1, 2)
    flat = frames.flatten(0, 1)
    return torch.cat([codec.decode(some).float() for some in flat.split(AT_ONCE)]).unflatten(0, frames.shape[:2])


# --- CompVis' names -----------------------------------------------------------------------------------------------


def released_settings(shapes: Mapping[str, tuple[int, ...]]) -> dict:
    """The settings of :class:`Vae` that published names and shapes tell, without their prefix; ValueError where they are none.

    What no shape tells is as released: groups of the norms, scale.
    """
    try:
        levels = 1 + max(int(match[1]) for name in shapes if (match := re.match(r"encoder\.down\.(\d+)\.block\.", name)))
        blocks = 1 + max(int(match[1]) for name in shapes if (match := re.match(r"encoder\.down\.0\.block\.(\d+)\.", name)))
        return {
            **VAE,
            "in_channels": shapes["encoder.conv_in.weight"][1],
            "out_channels": shapes["decoder.conv_out.weight"][0],
            "latent_channels": shapes["post_quant_conv.weight"][0],
            "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in range(levels)],
            "layers_per_block": blocks,
            "down_block_types": VAE["down_block_types"][:1] * levels,
            "up_block_types": VAE["up_block_types"][:1] * levels,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"no KL autoencoder of CompVis ({type(error).__name__}: {error})") from None


def from_released(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published names without their prefix (`encoder.down.0.block.0.norm1.weight`) -> those of diffusers' AutoencoderKL."""
    return {name.removeprefix("vae."): tensor for name, tensor in from_ldm(dict(tensors)).items()}
