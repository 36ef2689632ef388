"""Sound as a few whole numbers a row: a vector-quantised codec without weights.

A row is a patch of :class:`MelBands`, 4 frames by 32 bands.  A level's code is one coefficient of the patch's cosine transform, in
even steps, so that its vector is that multiple of the coefficient's basis, and the sum of the levels' vectors is the patch that
:meth:`SoundCodes.decode` makes sound of.
"""

import math

import torch
from torch import nn

from avtools.models.parts.tiny.mel_bands import MelBands

#: (cosine over bands, cosine over the patch's frames, lowest and highest value) of each level; the ranges are those of synthetic clips.
LEVELS = ((0, 0, -7.0, 22.0), (1, 0, -8.0, 18.0), (2, 0, -13.0, 8.0), (3, 0, -8.0, 8.0), (0, 1, -8.0, 8.0), (4, 0, -7.0, 6.0))


class SoundCodes(nn.Module):
    """Waveforms (B, S) at 16 kHz <-> tokens (B, K, T), int64, 25 rows a second, as the codec of VATT has it."""

    codes = 16

    def __init__(self):
        super().__init__()
        self.mel = MelBands()
        self.rate, self.hop = self.mel.sample_rate, self.mel.step
        bands, frames = self.mel.bands, self.mel.patch_time
        bases = torch.stack([torch.outer(_cosine(frames, t), _cosine(bands, b)) for b, t, *_ in LEVELS])
        values = torch.stack([torch.linspace(low, high, self.codes) for *_, low, high in LEVELS])
        self.register_buffer("bases", bases.flatten(1), persistent=False)  # (K, 128), orthonormal
        self.register_buffer("values", values, persistent=False)  # (K, V)

    @property
    def tables(self) -> torch.Tensor:
        """(K, V, 128) vectors of the codes."""
        return self.values[..., None] * self.bases[:, None]

    def encode(self, waveform: torch.Tensor) -> torch.Tensor:
        latents = self.mel.encode(waveform)[0]  # (B, 4 * 8, T, 4): patch's bands, frames; then groups of bands
        batch, _, rows, groups = latents.shape
        patches = latents.reshape(batch, self.mel.patch_bands, self.mel.patch_time, rows, groups).permute(0, 3, 2, 4, 1).reshape(batch, rows, -1)
        found = patches @ self.bases.T  # (B, T, K)
        step = self.values[:, 1] - self.values[:, 0]
        return ((found - self.values[:, 0]) / step).round().long().clamp(0, self.codes - 1).transpose(1, 2).contiguous()

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, K, T) -> (B, T hop)."""
        batch, levels, rows = tokens.shape
        found = self.values[torch.arange(levels, device=tokens.device)[:, None], tokens]  # (B, K, T)
        patches = (found.transpose(1, 2) @ self.bases).reshape(batch, rows, self.mel.patch_time, self.mel.bins, self.mel.patch_bands)
        return self.mel.decode(patches.permute(0, 4, 2, 1, 3).reshape(batch, self.mel.latent_channels, rows, self.mel.bins))


def _cosine(count: int, order: int) -> torch.Tensor:
    """(count,) basis vector of the orthonormal cosine transform (DCT-II)."""
    place = (torch.arange(count) + 0.5) * (math.pi * order / count)
    return place.cos() * math.sqrt((1 if order == 0 else 2) / count)
