"""Codecs of video and sound, and states of captions, without weights, as the large ones are called (`avtools.models.javisdit`)."""

import math
from fractions import Fraction

import torch
from torch import nn

from .mel_bands import MelBands
from .space_to_depth import SpaceToDepth
from .words import _vector, spelt


class VideoPixels(nn.Module):
    """Videos (B, T, 3, H, W), values 0..1 or uint8 <-> latents (B, 48, T, H / 4, W / 4), exact both ways; a latent frame for each picture."""

    chunk = 1, 1  # pictures, and the latent frames of them

    def __init__(self):
        super().__init__()
        self.pixels = SpaceToDepth()
        self.channels, self.factor = self.pixels.channels, self.pixels.factor

    def latents(self, frames: int) -> int:
        return frames

    def encode(self, videos: torch.Tensor, draws=None) -> torch.Tensor:
        pictures = videos.flatten(0, 1)
        pictures = pictures / 255 if pictures.dtype == torch.uint8 else pictures.float()
        return self.pixels.encode(pictures)[0].unflatten(0, videos.shape[:2]).transpose(1, 2)

    def decode(self, latents: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        made = latents.transpose(1, 2)
        return self.pixels.decode(made.flatten(0, 1)).unflatten(0, made.shape[:2])


class SoundBands(nn.Module):
    """Waveforms (B, S) of 16 kHz <-> latents (B, 32, L, 4), 25 a second; L is a multiple of 4, silence behind a sound's end."""

    multiple = 4

    def __init__(self):
        super().__init__()
        self.bands = MelBands()
        self.rate, self.channels, self.bins = self.bands.sample_rate, self.bands.latent_channels, self.bands.bins

    def latents(self, seconds: float | Fraction) -> int:
        count = math.ceil(Fraction(seconds) * self.rate / self.bands.step - Fraction(1, 1000))
        return -(-max(1, count) // self.multiple) * self.multiple

    @torch.no_grad()
    def encode(self, waveform: torch.Tensor, seconds: float | Fraction, draws=None) -> torch.Tensor:
        length = self.latents(seconds) * self.bands.step
        waveform = waveform[:, :length].float().to(self.bands.matrix.device)
        return self.bands.encode(nn.functional.pad(waveform, (0, length - waveform.shape[1])))[0]

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, seconds: float | Fraction) -> torch.Tensor:
        return self.bands.decode(latents)[:, : int(Fraction(seconds) * self.rate + Fraction(1, 1000))]


class WordStates(nn.Module):
    """Captions -> (L, `dim`) each: a fixed random vector for each word and for the end, at most `limit` of them."""

    def __init__(self, dim: int, limit: int):
        super().__init__()
        self.dim, self.limit = dim, limit
        self.register_buffer("device", torch.zeros(()), persistent=False)

    def forward(self, texts: list[str]) -> list[torch.Tensor]:
        words = [[*spelt(text)[: self.limit - 1], "<end>"] for text in texts]
        return [torch.stack([_vector(word, self.dim) for word in one]).to(self.device) for one in words]

    def cut(self, text: str) -> int | None:
        """How many tokens `text` has where these are more than are read; else None."""
        count = len(spelt(text)) + 1
        return count if count > self.limit else None
