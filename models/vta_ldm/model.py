"""The denoiser: condition tokens and a noisy latent -> v (spec sections 1 and 3).

Latents are (B, C, L, F): channels, time, frequency.  Tokens are (B, T, E).
"""

import dataclasses
import math

import torch
from diffusers import UNet2DConditionModel
from torch import nn


@dataclasses.dataclass
class Condition:
    """The condition of a batch, projected once.

    `tokens` (B, T, E), zeros where `mask` (B, T; True: real) is False.  For the aligned form: `along` (B, P, E),
    the tokens that have a time (of the pictures; of the text where there are none), `times` (B, P) the middle
    of each, seconds from the window's start, infinite where padded.  `present` (B,): False for the null.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    along: torch.Tensor
    times: torch.Tensor
    present: torch.Tensor

    def where(self, keep: torch.Tensor) -> "Condition":
        """The condition of the items where `keep` (B,); elsewhere the null: zeros after the projection, none masked."""
        return Condition(
            self.tokens * keep[:, None, None].to(self.tokens), self.mask | ~keep[:, None], self.along, self.times, self.present & keep
        )

    def null(self) -> "Condition":
        return self.where(torch.zeros_like(self.present))

    def then(self, other: "Condition") -> "Condition":
        """Both on the batch axis, this one first."""
        fields = [field.name for field in dataclasses.fields(self)]
        return Condition(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in fields))


@dataclasses.dataclass
class Inputs:
    """What :meth:`Denoiser.condition` takes, and which items keep their condition (B,): training projects in `forward`."""

    features: list[torch.Tensor | None]
    texts: list[torch.Tensor | None]
    keep: torch.Tensor


def sinusoidal(count: int, width: int) -> torch.Tensor:
    """(count, width) positions, base 10000, sine and cosine in turn (spec section 1, PE)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(count)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]


class Denoiser(nn.Module):
    """UNet2DConditionModel with the projection of the features, the adapters of the 4-channel mode, and ours:
    the tokens resampled to the latents' time axis as extra channels (`time_conditioning` aligned or both).
    """

    def __init__(self, config, latent_channels: int):
        super().__init__()
        self.config = config
        self.aligned = config.time_conditioning in ("aligned", "both")
        self.crossed = config.time_conditioning in ("cross", "both")
        extra = config.aligned_channels if self.aligned else 0
        unet = dict(config.unet)
        inner = unet["in_channels"]
        self.latent_channels, self.inner_channels = latent_channels, inner
        if config.adapters:
            self.group_in = nn.Sequential(nn.Linear(latent_channels, 512), nn.Linear(512, inner))
            self.group_out = nn.Sequential(nn.Linear(inner, 512), nn.Linear(512, latent_channels))
        unet["in_channels"] = inner + extra
        self.unet = UNet2DConditionModel.from_config({key: value for key, value in unet.items() if not key.startswith("_")})
        self.projection = nn.Linear(config.feature_dim, config.token_dim)
        if self.aligned:
            self.alignment = nn.Sequential(nn.Linear(config.token_dim, extra), nn.SiLU(), nn.Linear(extra, extra))
        if config.train.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def condition(self, features: list[torch.Tensor | None], texts: list[torch.Tensor | None]) -> Condition:
        """Project what the frozen encoders made of each item: (T, D) features of the pictures, (D,) of the text.

        Text alone is repeated `text_tokens` times; with pictures, T times before them.  Shorter items are
        padded with zeros behind the projection.
        """
        config, tokens, along, times = self.config, [], [], []
        device, dtype = self.projection.weight.device, self.projection.weight.dtype
        for pictures, text in zip(features, texts, strict=True):
            if pictures is not None:
                pictures = pictures.to(device, dtype)
                if config.positions and text is None:
                    pictures = pictures + sinusoidal(*pictures.shape).to(pictures)
            if text is not None:
                text = text.to(device, dtype).expand(config.text_tokens if pictures is None else len(pictures), -1)
            made = self.projection(torch.cat([part for part in (text, pictures) if part is not None]))
            tokens.append(made)
            if pictures is None:
                along.append(made[:1])
                times.append(torch.zeros(1, device=device))
            else:
                along.append(made[-len(pictures) :])
                times.append((torch.arange(len(pictures), device=device) + 0.5) / config.frame_rate)
        count = max(map(len, tokens))
        mask = torch.tensor([[i < len(one) for i in range(count)] for one in tokens], device=device)
        present = torch.ones(len(tokens), dtype=torch.bool, device=device)
        return Condition(_padded(tokens, 0.0), mask, _padded(along, 0.0), _padded(times, math.inf), present)

    def aligned_channels(self, condition: Condition, length: int, step: float, start: torch.Tensor | None = None) -> torch.Tensor:
        """(B, A, length): the condition on the latents' time axis, linear between the tokens' times.

        Latent l is at (l + 0.5) * `step` seconds (+ `start` (B,)); beyond the first and last token their
        value is held; the null condition is zeros.
        """
        tokens, times = self.alignment(condition.along), condition.times
        at = (torch.arange(length, device=tokens.device) + 0.5) * step
        at = at.expand(len(tokens), -1) if start is None else at + start[:, None]
        last = times.isfinite().sum(1, keepdim=True) - 1
        right = torch.minimum(torch.searchsorted(times.contiguous(), at.contiguous()), last)
        left = (right - 1).clamp(min=0)
        begin, end = times.gather(1, left), times.gather(1, right)
        share = torch.where(end > begin, (at - begin) / (end - begin), torch.ones_like(at)).clamp(0, 1)

        def picked(index):
            return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))

        found = torch.lerp(picked(left), picked(right), share[..., None].to(tokens.dtype))
        return (found * condition.present[:, None, None].to(found)).transpose(1, 2)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition, step: float, start=None) -> torch.Tensor:
        """v for noisy latents that are already in the UNet's channels (B, inner, L, F)."""
        if self.aligned:
            along = self.aligned_channels(condition, latents.shape[2], step, start)
            latents = torch.cat([latents, along[..., None].expand(-1, -1, -1, latents.shape[3]).to(latents.dtype)], 1)
        tokens, mask = condition.tokens, condition.mask
        if not self.crossed:  # the UNet wants tokens all the same
            tokens, mask = torch.zeros_like(tokens[:, :1]), torch.ones_like(mask[:, :1])
        return self.unet(latents, timesteps, encoder_hidden_states=tokens, encoder_attention_mask=mask).sample

    def enter(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents -> the UNet's channels."""
        return _per_pixel(self.group_in, latents) if self.config.adapters else latents

    def leave(self, latents: torch.Tensor) -> torch.Tensor:
        """The UNet's channels -> latents."""
        return _per_pixel(self.group_out, latents) if self.config.adapters else latents

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition | Inputs, step: float) -> torch.Tensor:
        """v (B, C, L, F) for noisy latents (B, C, L, F) with `step` seconds per latent."""
        if isinstance(condition, Inputs):
            condition = self.condition(condition.features, condition.texts).where(condition.keep)
        return self.leave(self.predict(self.enter(latents), timesteps, condition, step))


def _padded(items: list[torch.Tensor], value: float) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=value)


def _per_pixel(layers: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    return layers(latents.movedim(1, -1)).movedim(-1, 1)
