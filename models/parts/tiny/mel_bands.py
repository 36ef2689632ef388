"""Sound as packed log-mel bands: a codec without weights, with an inverse.

A latent is a patch of a log-mel spectrogram, 4 frames by 8 bands, on its channel axis (space to depth), so
nothing of the spectrogram is lost; its phase comes back by Griffin-Lim (Griffin and Lim 1984; momentum of
Perraudin et al. 2013).
"""

import torch
import torchaudio
from torch import nn
from torch.nn import functional

FLOOR = 0.02  # of a band's magnitude: the ambience of quiet clips lies about there
MEAN, DEVIATION = -2.45, 1.07  # of log-mel values over synthetic clips of peak 0.5


class MelBands(nn.Module):
    """32 mel bands at 100 frames per second <-> latents (B, 32, L, 4), 25 steps per second."""

    sample_rate, hop, window = 16000, 160, 640
    bands, patch_time, patch_bands = 32, 4, 8
    latent_channels = patch_time * patch_bands
    bins = bands // patch_bands
    step = hop * patch_time

    def __init__(self, iterations: int = 48):
        super().__init__()
        self.iterations = iterations
        bins = self.window // 2 + 1
        matrix = torchaudio.functional.melscale_fbanks(bins, 30.0, 8000.0, self.bands, self.sample_rate, norm="slaney", mel_scale="slaney").T
        matrix = matrix / matrix.sum(1, keepdim=True)  # a band's value is the mean magnitude under it
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)

    def samples(self, seconds: float) -> int:
        """How many samples a window of `seconds` has: a whole number of latents."""
        return max(1, round(seconds * self.sample_rate / self.step)) * self.step

    def encode(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, S) -> mean (B, 32, S / step, 4) and deviation, which is zero."""
        frames = waveform.shape[1] // self.hop
        side = (self.window - self.hop) // 2
        padded = functional.pad(waveform, (side, side + self.window))  # frame i is centred on the middle of its hop
        spectrum = torch.stft(padded, self.window, self.hop, window=self.hann, center=False, return_complex=True).abs()[..., :frames]
        mel = torch.log((self.matrix @ spectrum).clamp(min=FLOOR))  # (B, bands, frames)
        mel = (mel - MEAN) / DEVIATION
        batch, length = len(mel), frames // self.patch_time
        patches = mel[..., : length * self.patch_time].reshape(batch, self.bins, self.patch_bands, length, self.patch_time)
        latent = patches.permute(0, 2, 4, 3, 1).reshape(batch, self.latent_channels, length, self.bins)
        return latent, torch.zeros_like(latent)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, 32, L, 4) -> waveform (B, L * step), within [-1, 1]."""
        batch, _, length, _ = latents.shape
        # in double precision: Griffin-Lim makes single precision's rounding, which differs with the batch, audible
        patches = latents.double().reshape(batch, self.patch_bands, self.patch_time, length, self.bins)
        mel = patches.permute(0, 4, 1, 3, 2).reshape(batch, self.bands, length * self.patch_time)
        magnitude = torch.exp(mel * DEVIATION + MEAN).clamp(max=self.window / 2)
        magnitude = torch.where(magnitude > 1.5 * FLOOR, magnitude, torch.zeros_like(magnitude))
        spectrum = _spread(self.matrix.double(), magnitude)
        waveform = torchaudio.functional.griffinlim(
            spectrum, self.hann.double(), self.window, self.hop, self.window, 1.0, self.iterations, 0.99, None, rand_init=False
        )
        # griffinlim's frames are centred on multiples of the hop, ours half a hop later
        waveform = functional.pad(waveform, (self.hop // 2, self.hop))[:, : length * self.step]
        return waveform.clamp(-1, 1).float()


def _spread(matrix: torch.Tensor, magnitude: torch.Tensor, iterations: int = 30) -> torch.Tensor:
    """Bands (B, M, T) -> a non-negative spectrum (B, N, T) with these band values: multiplicative updates of
    non-negative least squares (Lee and Seung 2001), from the bands' own shapes."""
    spectrum = matrix.T @ magnitude / (matrix.T @ matrix.sum(1)).clamp(min=1e-8)[:, None] + 1e-8
    numerator = matrix.T @ magnitude
    gram = matrix.T @ matrix
    for _ in range(iterations):
        spectrum = spectrum * numerator / (gram @ spectrum).clamp(min=1e-8)
    return spectrum
