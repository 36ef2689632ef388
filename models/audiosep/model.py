"""ResUNet30 with additive conditioning (spec section 8.2; Kong et al. 2021, arXiv:2109.05418; Liu et al. 2023, arXiv:2308.05037).

Waveform -> spectrum -> a U-Net of residual blocks over its magnitudes -> for each of its bins a mask of the magnitude and a
rotation of the phase -> waveform.  A vector adds to each batch norm's output its own linear image ("FiLM" without the factor).
Names are those of the released checkpoint; its constant DFT kernels are torch's own transforms here.
"""

import torch
from torch import nn
from torch.nn import functional

SLOPE = 0.01  # of leaky ReLUs
POWER_FLOOR, NORM_FLOOR = 1e-10, 1e-10


def _activated(norm: nn.BatchNorm2d, x: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU of a batch norm's output with its condition; outside of training in two passes over memory instead of three."""
    if norm.training or torch.is_grad_enabled() or x.dtype != torch.float32:
        return functional.leaky_relu(norm(x) + beta, SLOPE)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = (norm.bias - norm.running_mean * scale)[:, None, None] + beta.float()
    return functional.leaky_relu_(torch.addcmul(shift, x, scale[:, None, None]), SLOPE)


class ResidualBlock(nn.Module):
    """(B, in, T, F) -> (B, out, T, F): twice norm, condition, leaky ReLU, 3x3; the input is added, through 1x1 where widths differ."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x, beta1, beta2):
        made = self.conv2(_activated(self.bn2, self.conv1(_activated(self.bn1, x, beta1)), beta2))
        return made + (x if self.shortcut is None else self.shortcut(x))


class Encoder(nn.Module):
    """(B, in, T, F) -> ((B, out, T / p, F / q), (B, out, T, F)): a residual block, with and without mean pooling by (p, q)."""

    def __init__(self, inputs: int, outputs: int, pool: tuple[int, int]):
        super().__init__()
        self.conv_block1, self.pool = ResidualBlock(inputs, outputs), tuple(pool)

    def forward(self, x, betas: dict):
        skip = self.conv_block1(x, betas["conv_block1->beta1"], betas["conv_block1->beta2"])
        return functional.avg_pool2d(skip, self.pool), skip


class Decoder(nn.Module):
    """(B, in, T, F), skip (B, out, T p, F q) -> (B, out, T p, F q)."""

    def __init__(self, inputs: int, outputs: int, up: tuple[int, int]):
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(inputs, outputs, tuple(up), tuple(up), bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv_block2 = ResidualBlock(2 * outputs, outputs)
        self.bn2 = nn.BatchNorm2d(inputs).requires_grad_(False)  # in the released weights; nothing uses it

    def forward(self, x, skip, betas: dict):
        x = self.conv1(_activated(self.bn1, x, betas["beta1"]))
        return self.conv_block2(torch.cat([x, skip], 1), betas["conv_block2->beta1"], betas["conv_block2->beta2"])


class UNet(nn.Module):
    """(B, samples) mixtures, conditions' images (block -> name -> (B, C, 1, 1)) -> (B, samples)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        widths, pools = config.widths, config.pools
        count, bins = len(widths), config.n_fft // 2 + 1
        self.steps = [1, 1]  # of time and frequency, between two positions at the bottom
        for pool in pools:
            self.steps = [step * factor for step, factor in zip(self.steps, pool, strict=True)]
        self.register_buffer("hann", torch.hann_window(config.n_fft), persistent=False)
        self.bn0 = nn.BatchNorm2d(bins)
        self.pre_conv = nn.Conv2d(1, config.first, 1)
        self.encoders, self.decoders = [f"encoder_block{k}" for k in range(1, count + 1)], [f"decoder_block{k}" for k in range(1, count + 1)]
        self.middle = f"conv_block{count + 1}a"
        for name, inputs, outputs, pool in zip(self.encoders, [config.first, *widths], widths, pools, strict=False):
            self.add_module(name, Encoder(inputs, outputs, pool))
        self.add_module(self.middle, Encoder(widths[-1], config.middle, (1, 1)))
        for name, inputs, outputs, up in zip(self.decoders, [config.middle, *reversed(widths)], reversed(widths), reversed(pools), strict=False):
            self.add_module(name, Decoder(inputs, outputs, up))
        self.after_conv = nn.Conv2d(widths[0], 3, 1)

    def forward(self, mixtures: torch.Tensor, betas: dict) -> torch.Tensor:
        with torch.autocast(mixtures.device.type, enabled=False):
            magnitude, cosine, sine = self.spectrum(mixtures.float())
        maps = self.maps(magnitude, betas)
        with torch.autocast(mixtures.device.type, enabled=False):
            return self.sound(maps.float(), magnitude, cosine, sine, mixtures.shape[-1])

    def spectrum(self, mixtures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, samples) -> magnitude, cosine and sine of the phase, (B, 1, T, n_fft / 2 + 1) each; silence has neither cosine nor sine."""
        short = self.config.n_fft // 2 + 1 - mixtures.shape[-1]  # what reflection at the ends needs
        padded = functional.pad(mixtures, (0, short)) if short > 0 else mixtures
        spectrum = torch.stft(padded, self.config.n_fft, self.config.hop, window=self.hann, center=True, pad_mode="reflect", return_complex=True)
        spectrum = spectrum.transpose(1, 2)[:, None]
        magnitude = (spectrum.real.square() + spectrum.imag.square()).clamp(min=POWER_FLOOR).sqrt()
        return magnitude, spectrum.real / magnitude, spectrum.imag / magnitude

    def maps(self, magnitude: torch.Tensor, betas: dict) -> torch.Tensor:
        """(B, 1, T, bins) -> (B, 3, T, bins): mask, and cosine and sine of the rotation, all before their non-linearities."""
        frames = magnitude.shape[2]
        x = self.bn0(magnitude.transpose(1, 3)).transpose(1, 3)
        x = functional.pad(x, (0, 0, 0, -frames % self.steps[0]))[..., :-1]  # the highest bin is left out, and stays silent
        x = self.pre_conv(x)
        skips = []
        for name in self.encoders:
            x, skip = getattr(self, name)(x, betas[name])
            skips.append(skip)
        x, _ = getattr(self, self.middle)(x, betas[self.middle])
        for name in self.decoders:
            x = getattr(self, name)(x, skips.pop(), betas[name])
        return functional.pad(self.after_conv(x), (0, 1))[:, :, :frames]

    def sound(self, maps, magnitude, cosine, sine, samples: int) -> torch.Tensor:
        """Mask and rotate the spectrum (spec section 8.3) -> (B, samples)."""
        mask, real, imaginary = maps[:, :1].sigmoid(), maps[:, 1:2].tanh(), maps[:, 2:].tanh()
        norm = (real.square() + imaginary.square()).clamp(min=NORM_FLOOR**2).sqrt()  # a floor under the root, whose slope at 0 is infinite
        real, imaginary = real / norm, imaginary / norm
        masked = functional.relu(magnitude * mask)
        spectrum = torch.complex(masked * (cosine * real - sine * imaginary), masked * (sine * real + cosine * imaginary))
        short = max(0, self.config.n_fft // 2 + 1 - samples)
        made = torch.istft(spectrum[:, 0].transpose(1, 2), self.config.n_fft, self.config.hop, window=self.hann, center=True, length=samples + short)
        return made[:, :samples]


class SeparatorNet(nn.Module):
    """(B, samples) mixtures, (B, D) conditions -> (B, samples) stems.

    `base`: the U-Net.  `film`: a linear layer for each of its conditioned batch norms, named by the way to it
    (`encoder_block1->conv_block1->beta1`).
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.base = UNet(config)
        self.film = nn.ModuleDict()
        for norm in self.base.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = config.momentum
        for block in (*self.base.encoders, self.base.middle, *self.base.decoders):
            for name, norm in getattr(self.base, block).named_modules():
                if isinstance(norm, nn.BatchNorm2d):
                    *way, last = name.split(".")
                    self.film["->".join((block, *way, last.replace("bn", "beta")))] = nn.Linear(config.condition, norm.num_features)
        for name in self.base.decoders:
            self.film[f"{name}->beta2"].requires_grad_(False)  # as bn2

    def betas(self, conditions: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
        """Block -> name within it -> (B, C, 1, 1)."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        for name, layer in self.film.items():
            block, _, rest = name.partition("->")
            found.setdefault(block, {})[rest] = layer(conditions)[:, :, None, None]
        return found

    def forward(self, mixtures: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        return self.base(mixtures, self.betas(conditions))
