"""From a waveform to a log-mel spectrogram."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def slaney_matrix(rate: int, n_fft: int, bands: int, low: float = 0.0, high: float | None = None) -> np.ndarray:
    """(bands, n_fft / 2 + 1) triangular filters of equal area between `low` and `high` Hz.

    Slaney's Auditory Toolbox (1998): linear below 1 kHz, logarithmic above, each filter divided by half its width.
    """
    step, log_step, knee = 200 / 3, np.log(6.4) / 27, 1000.0

    def mels(hertz):
        hertz = np.asarray(hertz, np.float64)
        return np.where(hertz < knee, hertz / step, knee / step + np.log(np.maximum(hertz, knee) / knee) / log_step)

    edges = np.linspace(mels(low), mels(rate / 2 if high is None else high), bands + 2)
    edges = np.where(edges < knee / step, edges * step, knee * np.exp(log_step * (edges - knee / step)))
    at = np.linspace(0, rate / 2, n_fft // 2 + 1)
    rising = (at - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - at) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


class LogMel(nn.Module):
    """(B, S) waveform -> (B, T, bands): ln(max(mel, floor)) of a periodic Hann window's magnitude (or power)."""

    def __init__(self, rate=16000, n_fft=1024, hop=160, window=1024, bands=64, low=0.0, high=8000.0, power=1, floor=1e-5):
        super().__init__()
        self.rate, self.n_fft, self.hop, self.length, self.bands, self.power, self.floor = rate, n_fft, hop, window, bands, power, floor
        self.register_buffer("matrix", torch.as_tensor(slaney_matrix(rate, n_fft, bands, low, high)), persistent=False)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def forward(self, waveform: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """`frames`: cut to so many, or pad the log-mel with 0.0 (the published VAE knows no other padding)."""
        waveform = waveform.float().clamp(-1, 1).nan_to_num(0.0)
        spectrum = torch.stft(waveform, self.n_fft, self.hop, self.length, self.hann, center=True, pad_mode="reflect", return_complex=True)
        mel = self.matrix @ spectrum.abs().pow(self.power)
        mel = mel.clamp(min=self.floor).log().transpose(1, 2)
        if frames is None:
            return mel
        return functional.pad(mel[:, :frames], (0, 0, 0, max(0, frames - mel.shape[1])))


def prepare_waveform(waveform: torch.Tensor, source_rate: int, rate: int, samples: int, mix: bool = True) -> torch.Tensor:
    """(C, N) -> (1, samples) at `rate` Hz, as VTA-LDM's data tools (`mix`: mean of the channels) or its training
    (resampled first, channel 0) prepared sound: mean removed, peak 0.5, padded or cut, peak 0.5 again.  Silence stays so.
    """
    from torchaudio.functional import resample

    if mix:
        waveform = resample(waveform.mean(0, keepdim=True), source_rate, rate)
    else:
        waveform = resample(waveform, source_rate, rate)[:1]
    waveform = waveform - waveform.mean()
    waveform = waveform / (waveform.abs().max() + 1e-8) * 0.5
    waveform = functional.pad(waveform[:, :samples], (0, max(0, samples - waveform.shape[1])))
    peak = waveform.abs().max()
    return waveform / peak * 0.5 if peak > 0 else waveform
