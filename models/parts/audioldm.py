"""AudioLDM's sound codec (Liu et al. 2023): log-mel -> KL autoencoder -> latents, and back through HiFi-GAN.

The autoencoder is diffusers' AutoencoderKL, the vocoder transformers' SpeechT5HifiGan; :func:`from_ldm` gives the
published names theirs.  Latents are scaled by `scale` as the diffusion model sees them.
"""

import math
import re

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from avtools.models.parts import spans
from avtools.models.parts.mel import LogMel

SCALE = 0.9227914214134216  # `scale_factor` of audioldm-s-full (cvssp/audioldm)

#: The published sizes, under the names that the original configurations use.
DDCONFIG = {"in_channels": 1, "out_ch": 1, "z_channels": 8, "ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2}
VOCODER = {
    "num_mels": 64,
    "upsample_initial_channel": 1024,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
}

SEGMENT, SHARED = 256, 32  # latents that are decoded at once, and what neighbours share
CHUNK, CONTEXT = 1024, 64  # mel frames that are vocoded at once, and what the vocoder sees beside them (it needs fewer)


class AudioLdmCodec(nn.Module):
    """16 kHz mono <-> latents (B, 8, L, 16), 25 steps per second."""

    def __init__(self, ddconfig: dict = DDCONFIG, vocoder: dict = VOCODER, scale: float = SCALE, mel: LogMel | None = None):
        super().__init__()
        self.scale = scale
        self.mel = LogMel() if mel is None else mel
        widths = [ddconfig["ch"] * times for times in ddconfig["ch_mult"]]
        self.vae = AutoencoderKL(
            in_channels=ddconfig["in_channels"],
            out_channels=ddconfig["out_ch"],
            latent_channels=ddconfig["z_channels"],
            block_out_channels=widths,
            layers_per_block=ddconfig["num_res_blocks"],
            down_block_types=["DownEncoderBlock2D"] * len(widths),
            up_block_types=["UpDecoderBlock2D"] * len(widths),
        )
        wanted = {name: value for name, value in vocoder.items() if name in VOCODER and name != "num_mels"}
        self.vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(model_in_dim=vocoder["num_mels"], normalize_before=False, **wanted))
        del self.vocoder.mean, self.vocoder.scale  # of `normalize_before`; no checkpoint holds them
        self.sample_rate, self.latent_channels = self.mel.rate, ddconfig["z_channels"]
        self.factor = 2 ** (len(widths) - 1)
        self.bins = vocoder["num_mels"] // self.factor
        self.hop = math.prod(vocoder["upsample_rates"])
        self.step = self.hop * self.factor

    def samples(self, seconds: float) -> int:
        """How many samples a window of `seconds` has: a whole number of latents."""
        return max(1, round(seconds * self.sample_rate / self.step)) * self.step

    def encode(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, S) within [-1, 1] -> mean and deviation, each (B, C, S / step, F)."""
        mean, logvar = self.moments(self.mel(waveform, waveform.shape[1] // self.hop)[:, None])
        return mean * self.scale, torch.exp(0.5 * logvar) * self.scale

    def moments(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, T, M) -> mean and log of the variance, unscaled."""
        posterior = self.vae.encode(log_mel).latent_dist
        return posterior.mean, posterior.logvar

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, L, F) -> (B, about L * step) within [-1, 1]; memory does not grow with L but for the result."""
        return self.vocode(self.decode_mel(latents.float()))

    def decode_mel(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, L, F) -> log-mel (B, 1, T, M)."""
        latents = latents / self.scale
        length = latents.shape[2]
        begins = spans.starts(length, SEGMENT, SHARED)
        if len(begins) == 1:
            return self.vae.decode(latents).sample
        share = spans.weights([begin * self.factor for begin in begins], SEGMENT * self.factor, length * self.factor).to(latents)
        mel = latents.new_zeros(len(latents), 1, length * self.factor, self.bins * self.factor)
        for begin, weight in zip(begins, share, strict=True):
            part = self.vae.decode(latents[:, :, begin : begin + SEGMENT]).sample
            mel[:, :, begin * self.factor : (begin + SEGMENT) * self.factor] += part * weight[:, None]
        return mel

    def vocode(self, log_mel: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, M) -> (B, hop * T and what the vocoder adds)."""
        log_mel, made = log_mel[:, 0], []
        length = log_mel.shape[1]
        for begin in range(0, length, CHUNK):
            end = min(begin + CHUNK, length)
            low = max(0, begin - CONTEXT)
            part = self.vocoder(log_mel[:, low : end + CONTEXT])[:, (begin - low) * self.hop :]
            made.append(part if end == length else part[:, : (end - begin) * self.hop])
        return torch.cat(made, 1)


_BLOCKS = (  # the original names' parts -> diffusers'
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
)


def from_ldm(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of the original layout (`encoder.*`, `decoder.*`, `*quant_conv.*`, `vocoder.*`) -> those of :class:`AudioLdmCodec`."""
    levels = {int(match[1]) for match in (re.match(r"decoder\.up\.(\d+)\.", name) for name in tensors) if match}
    last, made = max(levels, default=0), {}
    for name, tensor in tensors.items():
        if name.startswith("vocoder."):
            name = re.sub(r"^vocoder\.ups\.", "vocoder.upsampler.", name)
        else:
            for pattern, by in _BLOCKS:
                name = re.sub(pattern, by, name)
            match = re.match(r"decoder\.up\.(\d+)\.(block|upsample)\.", name)
            if match:  # numbered by resolution; diffusers numbers in the order of work
                kind = "resnets" if match[2] == "block" else "upsamplers.0"
                name = f"decoder.up_blocks.{last - int(match[1])}.{kind}.{name[match.end() :]}"
            if ".mid_block.attentions." in name and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
                tensor = tensor[:, :, 0, 0]
            name = "vae." + name
        made[name] = tensor
    return made
