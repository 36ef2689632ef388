"""The sound head of AudioCLIP (Guzhov et al. 2021, arXiv:2106.13043): ESResNeXt with frequency B-spline wavelets in place of a Fourier
transform (arXiv:2104.11587), and attention beside its stages (arXiv:2004.07301).

Names are those of the released AudioCLIP-Full-Training.pt below `audio.`: a ResNeXt-50 32x4d with `fbsp` before it, `att1` to `att5`
beside it and a last layer of 1024.  The layout and the front end are from the papers and what is known of the file; the file itself was not at hand.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.errors import FatalError

WINDOW, HOP, TRANSFORM = 1654, 561, 2048  # samples (trained at 44100 Hz): of a frame, between frames, of a frame with the zeros about it
BINS, BANDS = TRANSFORM // 2 + 1, 3  # wavelets; pieces of the spectrum, low to high, which take the place of colours
FLOOR = 1e-18  # power of silence
DIM = 1024  # of the embedding
STAGES, GROUPS, GROUP_WIDTH = (3, 4, 6, 3), 32, 4  # blocks of each stage
EPS = 1e-8
LOOKS = ((3, 1), (1, 5), (3, 1), (1, 5), (3, 5))  # kernels of att1 to att5, along frequency, along time, and both


class Wavelets(nn.Module):
    """Frames (..., N) -> complex (..., BINS): products with sqrt(fb) sinc(fb t / m)^m exp(-i fc t) / sqrt(N), t from -pi to pi.

    With m = 0, fb = 1 and fc = 0, 1, ... they are those of a Fourier transform, from which they were trained.
    """

    def __init__(self, bins: int = BINS):
        super().__init__()
        self.m, self.fb, self.fc = nn.Parameter(torch.zeros(bins)), nn.Parameter(torch.ones(bins)), nn.Parameter(torch.arange(bins).float())
        self._made = None

    def kernels(self, count: int):
        """(count, BINS), complex; in double precision, for fc t goes to some thousands."""
        m, fb, fc = (one.double() for one in (self.m, self.fb, self.fc))
        t = math.pi * torch.linspace(-1, 1, count, dtype=torch.float64, device=m.device)[:, None] + EPS
        window = torch.sinc(fb * t / (m + EPS) / math.pi)  # below 0 in places, where a power that is not whole is complex
        magnitude, angle = window.abs() ** m, torch.where(window < 0, math.pi, 0.0) * m - fc * t
        return torch.polar(fb.sqrt() / math.sqrt(count) * magnitude, angle).to(torch.complex64)

    def forward(self, frames):
        if self._made is None or self._made.device != frames.device or len(self._made) != frames.shape[-1]:
            with torch.no_grad():
                self._made = self.kernels(frames.shape[-1])
        made = self._made
        return torch.complex(frames @ made.real, frames @ made.imag)

    def _apply(self, *args, **more):
        self._made = None
        return super()._apply(*args, **more)

    def _load_from_state_dict(self, *args):
        self._made = None
        super()._load_from_state_dict(*args)


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1, and what came in added; four times `planes` channels."""

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        width, outputs = planes * GROUP_WIDTH * GROUPS // 64, planes * 4
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, groups=GROUPS, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        fits = stride == 1 and inputs == outputs
        self.downsample = None if fits else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class Attention(nn.Module):
    """(B, C, H, W) -> factors 0..1 (B, outputs, *size) for what a stage makes of the same: maxima, a separable convolution, sigmoid."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]):
        super().__init__()
        self.conv_depth = nn.Conv2d(inputs, inputs, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=inputs)
        self.conv_point = nn.Conv2d(inputs, outputs, 1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x, size):
        return torch.sigmoid(self.bn(self.conv_point(self.conv_depth(functional.adaptive_max_pool2d(x, size)))))


class AudioHead(nn.Module):
    """Sound (B, samples) of the network's own scale (:func:`scaled`) -> embeddings (B, 1024), not of unit length."""

    def __init__(self, dim: int = DIM):
        super().__init__()
        self.fbsp = Wavelets()
        self.register_buffer("window", torch.from_numpy(blackman_harris(WINDOW)).float())
        self.conv1, self.bn1 = nn.Conv2d(BANDS, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        width = 64
        for k, blocks in enumerate(STAGES, 1):
            planes, inputs = 64 << (k - 1), width
            made = []
            for first in [True] + [False] * (blocks - 1):
                made.append(Bottleneck(width, planes, 2 if first and k > 1 else 1))
                width = planes * 4
            setattr(self, f"layer{k}", nn.Sequential(*made))
            setattr(self, f"att{k}", Attention(inputs, width, LOOKS[k - 1]))
        self.att5 = Attention(width, width, LOOKS[4])
        self.fc = nn.Linear(width, dim)

    def decibels(self, sound):
        """(B, samples) -> (B, 3, 341, T): the power spectrum in three bands one above the other; what lacks of a frame is silence."""
        count = max(0, math.ceil((sound.shape[-1] - WINDOW) / HOP))
        sound = functional.pad(sound, (0, count * HOP + WINDOW - sound.shape[-1]))
        left = (TRANSFORM - WINDOW) // 2
        frames = functional.pad(sound.unfold(-1, WINDOW, HOP) * self.window, (left, TRANSFORM - WINDOW - left))
        power = torch.view_as_real(self.fbsp(frames)).square().sum(-1).transpose(1, 2)
        power = torch.where(power > 0, power, FLOOR)
        high = BINS // BANDS  # the last two wavelets are left out
        return 10 * power[:, : high * BANDS].log10().unflatten(1, (BANDS, high))

    def forward(self, sound):
        x = functional.relu(self.bn1(self.conv1(self.decibels(sound))))
        x = functional.max_pool2d(x, 3, 2, 1)
        for k in range(1, 5):
            y = getattr(self, f"layer{k}")(x)
            x = y * getattr(self, f"att{k}")(x, y.shape[-2:])
        x = functional.adaptive_avg_pool2d(x, 1) * self.att5(x, (1, 1))
        return self.fc(x.flatten(1))


def blackman_harris(count: int):
    """The periodic window of four terms (Harris 1978), float64 (count,)."""
    import numpy as np

    at = 2 * np.pi * np.arange(count) / count
    return 0.35875 - 0.48829 * np.cos(at) + 0.14128 * np.cos(2 * at) - 0.01168 * np.cos(3 * at)


def scaled(sound):
    """Numbers -32768..32767 -> -1..1: the head's first step, applied to whatever it is given.

    In single precision and in this order, which rounds sound of -1..1 to some 500 steps: published figures were made so.
    """
    return (sound + 32768) * 2 / 65535 - 1


def load(path, device="cpu") -> AudioHead:
    """The head with the weights below `audio.` of AudioCLIP-Full-Training.pt or AudioCLIP-Partial-Training.pt, or these alone; strict."""
    tensors = hub.tensors(path)
    found = {name.removeprefix("audio."): tensor for name, tensor in tensors.items() if name.startswith("audio.")}
    if not found and "fbsp.fc" not in tensors:
        raise FatalError(f"{path}: has no sound head of AudioCLIP (audio.fbsp.fc is missing); give AudioCLIP-Full-Training.pt")
    found = found or dict(tensors)
    for name in ("fbsp.m", "fbsp.fb", "fbsp.fc"):
        if name in found and found[name].numel() == BINS:
            found[name] = found[name].reshape(BINS)
    net = AudioHead()
    own = net.window.clone()
    hub.load_strict(net, found, path, ignore=(r"\.num_batches_tracked$", r"^window$"))
    if net.window.shape != own.shape or (net.window - own).abs().max() > 1e-4:
        raise FatalError(f"{path}: its window is not Blackman and Harris' of {WINDOW} samples; give AudioCLIP-Full-Training.pt")
    return net.eval().requires_grad_(False).to(device)
