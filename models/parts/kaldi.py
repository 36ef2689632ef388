"""The log-mel spectrogram that ImageBind's audio tower and the AVSync classifier hear, for any number of clips at once.

Kaldi's filterbank (htk_compat, Hann, no energy, no dither): frames of 25 ms every 10 ms, whole ones only; each loses its
mean, is pre-emphasised by 0.97 and padded to 512 samples; the power spectrum goes through triangles that are even on the
mel scale 1127 ln(1 + f / 700) from 20 Hz to 8 kHz; its logarithm has a floor.
"""

import functools
import math

import torch
from torch.nn import functional

RATE = 16000  # Hz
SAMPLES = 2 * RATE  # of a clip; what is longer is cropped to its middle
WINDOW, HOP, FFT = 400, 160, 512
BANDS, LOW, HIGH = 128, 20.0, RATE / 2
EMPHASIS = 0.97
FLOOR = torch.finfo(torch.float32).eps  # of a band's power, before the logarithm
MEAN, DEVIATION = -4.268, 9.138  # of log-mel values over AudioSet


def mel(waveform: torch.Tensor, frames: int = 204, mean: float = MEAN, std: float = DEVIATION, samples: int | None = SAMPLES) -> torch.Tensor:
    """(..., C, S) float at 16 kHz, full scale 1 -> (..., 1, 128, `frames`) float32: (log-mel - mean) / std of the first channel.

    Sound of more than `samples` samples (None: any) is cropped to its middle first; two seconds give 198 frames.  Missing
    frames are zeros of the log-mel, as the published networks expect, and so not the level of silence.
    """
    waveform = waveform.float()
    if samples is not None and waveform.shape[-1] > samples:
        begin = (waveform.shape[-1] - samples) // 2
        waveform = waveform[..., begin : begin + samples]
    if waveform.shape[-1]:  # each frame's own mean goes anyway; but so it goes without rounding away quiet sound
        waveform = waveform - waveform.mean((-2, -1), keepdim=True)
    found = filterbank(waveform[..., 0, :])[..., :frames, :]
    found = functional.pad(found, (0, 0, 0, frames - found.shape[-2]))
    return ((found - mean) / std).transpose(-1, -2).unsqueeze(-3)


def filterbank(waveform: torch.Tensor) -> torch.Tensor:
    """(..., S) at 16 kHz -> (..., T, 128) natural logarithms of band powers, T = 1 + (S - 400) // 160, or 0 below 400 samples."""
    if waveform.shape[-1] < WINDOW:
        return waveform.new_zeros(*waveform.shape[:-1], 0, BANDS, dtype=torch.float32)
    with torch.autocast(waveform.device.type, enabled=False):  # powers are beyond what half precision holds
        pieces = waveform.float().unfold(-1, WINDOW, HOP)
        pieces = pieces - pieces.mean(-1, keepdim=True)
        before = torch.cat([pieces[..., :1], pieces[..., :-1]], -1)
        pieces = (pieces - EMPHASIS * before) * torch.hann_window(WINDOW, periodic=False, device=waveform.device)
        power = torch.fft.rfft(pieces, FFT).abs().square()
        return (power @ _matrix().to(waveform.device)).clamp(min=FLOOR).log()


@functools.cache
def _matrix() -> torch.Tensor:
    """(257, 128): how much of each bin's power each band takes; a triangle's peak is 1.  In single precision, as published."""
    low, high = (1127 * math.log(1 + hertz / 700) for hertz in (LOW, HIGH))
    step, band = (high - low) / (BANDS + 1), torch.arange(BANDS)
    left, peak, right = (low + (band + k) * step for k in range(3))
    at = 1127 * (1 + RATE / FFT * torch.arange(FFT // 2 + 1) / 700).log()[:, None]
    triangles = torch.minimum((at - left) / (peak - left), (right - at) / (right - peak)).clamp(min=0)
    triangles[-1] = 0  # Kaldi leaves the highest bin out
    return triangles
