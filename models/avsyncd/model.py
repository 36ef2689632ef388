"""The denoiser: Stable Diffusion 1.5's UNet over the frames of a clip, with sound (spec: ASVA, section 1.1).

Latents are (B, C, F, h, w).  Inside, activations are (B, F, h, w, C), channels last, so that convolutions of a frame,
linear maps of a pixel and attention all see views of the same memory.  Three things are computed once that the
original computes for each frame or step, with equal results: keys and values of text and sound (:meth:`UNet3D.condition`),
those of frame 0 in spatial attention, and frame 0's share of each convolution; of 229 sound tokens, only those that
a frame hears are gathered.
"""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

#: Names in which one of these is found are what AVSyncD adds to Stable Diffusion, and trains.
ADDED = ("_temp", "_audio")


@dataclasses.dataclass
class Condition:
    """What the network is conditioned on: text (B, T, E), sound (B, N, A) and the tokens that each frame hears,
    `heard` (F, n) with `real` (F, n), False for padding, or None: all of them are real.  `heard` None: all tokens.

    `projected`: keys and values for each transformer, made once by :meth:`UNet3D.condition`; None: made when needed.
    """

    text: torch.Tensor
    audio: torch.Tensor
    heard: torch.Tensor | None = None
    real: torch.Tensor | None = None
    projected: list["Projected"] | None = None

    def of(self, number: int) -> "Condition | Projected":
        """For the transformer of this number."""
        return self if self.projected is None else self.projected[number]

    def rows(self, text: torch.Tensor, audio: torch.Tensor) -> "Condition":
        """A batch of these texts and of these sounds; there need not be as many of both before."""
        projected = None if self.projected is None else [one.rows(text, audio) for one in self.projected]
        return Condition(self.text[text], self.audio[audio], self.heard, self.real, projected)


@dataclasses.dataclass
class Projected:
    """Keys and values of a transformer: of the text (B, H, T, d), of the sound (B, F, H, n, d) for each frame, or
    (B, 1, H, N, d) for all, `real` as in :class:`Condition`, and the frames' positions (F, C)."""

    text: tuple[torch.Tensor, torch.Tensor]
    audio: tuple[torch.Tensor, torch.Tensor]
    real: torch.Tensor | None
    positions: torch.Tensor

    def rows(self, text: torch.Tensor, audio: torch.Tensor) -> "Projected":
        return Projected(tuple(t[text] for t in self.text), tuple(t[audio] for t in self.audio), self.real, self.positions)


def heard_tokens(mask: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(F, N) mask, True: attend -> the numbers (F, n) of what each frame attends to, and which of them are real."""
    if mask is None:
        return None, None
    mask = mask.bool()
    counts = mask.sum(1)
    if int(counts.min()) == 0:
        raise ValueError("a frame that hears nothing")
    most = int(counts.max())
    order = (~mask).to(torch.uint8).sort(dim=1, stable=True).indices[:, :most]  # those heard first, each in its order
    if int(counts.min()) == most:
        return order, None
    return order, torch.arange(most, device=mask.device) < counts[:, None]


def sinusoid(positions: torch.Tensor, width: int) -> torch.Tensor:
    """(..., width) float32: cosines, then sines, of frequencies from 1 down to 1/10000 (excluded)."""
    frequency = torch.exp(torch.arange(width // 2, device=positions.device, dtype=torch.float32) * (-math.log(10000.0) / (width // 2)))
    angle = positions.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)


class Embedding(nn.Module):
    """Linear, SiLU, Linear of a sinusoid."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.width = width
        self.linear_1, self.linear_2 = nn.Linear(width, out), nn.Linear(out, out)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        found = sinusoid(positions, self.width).to(self.linear_1.weight.dtype)
        return self.linear_2(functional.silu(self.linear_1(found)))


class Conv(nn.Conv2d):
    """A convolution y of each frame, with a look at the first and the previous one, pixel by pixel:
    y_i + W (y_0, y_max(i-1, 0), y_i) + b.  Untrained, W and b are zero."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.conv_temp = nn.Linear(3 * outputs, outputs)
        nn.init.zeros_(self.conv_temp.weight)
        nn.init.zeros_(self.conv_temp.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, frames = x.shape[:2]
        y = super().forward(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(0, (batch, frames))
        first, before, now = self.conv_temp.weight.to(y.dtype).chunk(3, 1)
        found = y + functional.linear(y, now) + functional.linear(y[:, :1], first, self.conv_temp.bias.to(y.dtype))
        previous = functional.linear(y[:, : max(1, frames - 1)], before)
        return found + (torch.cat([previous[:, :1], previous], 1) if frames > 1 else previous)


class FramesNorm(nn.GroupNorm):
    """Group normalisation whose statistics are those of all frames together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class Resnet(nn.Module):
    def __init__(self, inputs: int, outputs: int, time: int, groups: int, eps: float):
        super().__init__()
        self.norm1, self.conv1 = FramesNorm(groups, inputs, eps), Conv(inputs, outputs, 3)
        self.time_emb_proj = nn.Linear(time, outputs)
        self.norm2, self.conv2 = FramesNorm(groups, outputs, eps), Conv(outputs, outputs, 3)
        if inputs != outputs:
            self.conv_shortcut = Conv(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = h + self.time_emb_proj(functional.silu(time))[:, None, None, None]
        h = self.conv2(functional.silu(self.norm2(h)))
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, source: int | None = None):
        super().__init__()
        source = source or width
        if heads < 1 or width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = nn.Linear(source, width, bias=False), nn.Linear(source, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def keys(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (..., H, N, d) of (..., N, C)."""
        return self._heads(self.to_k(source)), self._heads(self.to_v(source))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(self, x: torch.Tensor, keys: tuple[torch.Tensor, torch.Tensor], real: torch.Tensor | None = None) -> torch.Tensor:
        """(..., P, C) queries; `real` (N,) or broadcast to (..., H, P, N): False where a key is none."""
        found = functional.scaled_dot_product_attention(self._heads(self.to_q(x)), *keys, attn_mask=real)
        return self.to_out[0](found.transpose(-3, -2).flatten(-2))


class Gated(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        return x * functional.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([Gated(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[2](self.net[0](x))


class Block(nn.Module):
    """Attention of a frame's pixels to those of frame 0, to the sound that it hears, to the text, to the same pixel in
    all frames, and a feed-forward layer, each on what a LayerNorm makes of its input and added to it."""

    def __init__(self, width: int, heads: int, text: int, audio: int):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, heads)
        self.norm_audio, self.attn_audio = nn.LayerNorm(width), Attention(width, heads, audio)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, heads, text)
        self.pos_embedding_temp = Embedding(width, width)
        self.attn_temp, self.norm_temp = Attention(width, heads), nn.LayerNorm(width)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)
        nn.init.zeros_(self.attn_temp.to_out[0].weight)

    def project(self, condition: Condition, frames: int) -> Projected:
        device = condition.text.device
        audio = self.attn_audio.keys(condition.audio)  # (B, H, N, d): of each token once, whatever frames hear it
        if condition.heard is None:
            audio = tuple(t[:, None] for t in audio)
        else:
            audio = tuple(t[:, :, condition.heard].transpose(1, 2) for t in audio)
        positions = self.pos_embedding_temp(torch.arange(frames, device=device))
        return Projected(self.attn2.keys(condition.text), audio, condition.real, positions)

    def forward(self, x: torch.Tensor, given: Condition | Projected) -> torch.Tensor:
        """(B, F, P, C) -> the same."""
        batch, frames, pixels, _ = x.shape
        if isinstance(given, Condition):
            given = self.project(given, frames)
        normed = self.norm1(x)
        x = x + self.attn1(normed.flatten(1, 2), self.attn1.keys(normed[:, 0])).unflatten(1, (frames, pixels))
        if given.audio[0].shape[1] == 1 and given.real is None:  # all frames hear the same
            keys = tuple(t[:, 0] for t in given.audio)
            x = x + self.attn_audio(self.norm_audio(x).flatten(1, 2), keys).unflatten(1, (frames, pixels))
        else:
            keys = tuple(t.expand(-1, frames, -1, -1, -1).flatten(0, 1) for t in given.audio)
            real = None if given.real is None else given.real[:, None, None].repeat(batch, 1, 1, 1)
            x = x + self.attn_audio(self.norm_audio(x).flatten(0, 1), keys, real).unflatten(0, (batch, frames))
        x = x + self.attn2(self.norm2(x).flatten(1, 2), given.text).unflatten(1, (frames, pixels))
        normed = self.norm_temp(x + given.positions[:, None].to(x.dtype)).transpose(1, 2).flatten(0, 1)
        x = x + self.attn_temp(normed, self.attn_temp.keys(normed)).unflatten(0, (batch, pixels)).transpose(1, 2)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """A block between two linear maps of each pixel, on what is normalised frame by frame."""

    def __init__(self, width: int, heads: int, text: int, audio: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, 1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([Block(width, heads, text, audio)])

    def forward(self, x: torch.Tensor, given: Condition | Projected) -> torch.Tensor:
        h = self.norm(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        h = _linear(self.proj_in, h).unflatten(0, x.shape[:2]).flatten(2, 3)
        h = self.transformer_blocks[0](h, given)
        return x + _linear(self.proj_out, h).view(x.shape)


def _linear(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A convolution of single pixels, of channels that come last."""
    return functional.linear(x, conv.weight.flatten(1), conv.bias)


class Resample(nn.Module):
    """`conv` of a frame at half or twice the size."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.conv = Conv(width, width, 3, stride)

    def forward(self, x: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        """`size`: to which the picture is first enlarged."""
        if size is not None:
            x = functional.interpolate(x.flatten(0, 1).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
        return self.conv(x)


class Level(nn.Module):
    """The residual blocks, transformers and the change of size of one resolution, on the way down, up or in the middle."""

    def __init__(self, widths: list[tuple[int, int]], time: int, unet: dict, crossed: int, size: str | None):
        """`widths`: (inputs, outputs) of each residual block; `crossed`: number of transformers; `size`: down, up or None."""
        super().__init__()
        groups, out = unet["norm_num_groups"], widths[-1][1]
        self.resnets = nn.ModuleList(Resnet(*pair, time, groups, unet["norm_eps"]) for pair in widths)
        if crossed:
            sizes = out, unet["attention_head_dim"], unet["cross_attention_dim"], unet["audio_cross_attention_dim"], groups
            self.attentions = nn.ModuleList(Transformer(*sizes) for _ in range(crossed))
        if size == "down":
            self.downsamplers = nn.ModuleList([Resample(out, 2)])
        if size == "up":
            self.upsamplers = nn.ModuleList([Resample(out, 1)])

    @property
    def crossed(self) -> list[Transformer]:
        return list(getattr(self, "attentions", ()))


class Down(Level):
    def forward(self, x, time, condition: Condition, number: int, run) -> list[torch.Tensor]:
        """What the way up will see, the last of it the result; `number`: of the first transformer."""
        seen = []
        for k, resnet in enumerate(self.resnets):
            x = run(resnet, x, time)
            if self.crossed:
                x = run(self.attentions[k], x, condition.of(number + k))
            seen.append(x)
        if hasattr(self, "downsamplers"):
            seen.append(self.downsamplers[0](x))
        return seen


class Middle(Level):
    def forward(self, x, time, condition: Condition, number: int, run) -> torch.Tensor:
        x = run(self.resnets[0], x, time)
        for k, resnet in enumerate(self.resnets[1:]):
            x = run(resnet, run(self.attentions[k], x, condition.of(number + k)), time)
        return x


class Up(Level):
    def forward(self, x, time, condition: Condition, number: int, run, seen: list[torch.Tensor]) -> torch.Tensor:
        """`seen`: on the way down, of which this takes the last."""
        for k, resnet in enumerate(self.resnets):
            x = run(resnet, torch.cat([x, seen.pop()], -1), time)
            if self.crossed:
                x = run(self.attentions[k], x, condition.of(number + k))
        return self.upsamplers[0](x, seen[-1].shape[2:4]) if hasattr(self, "upsamplers") else x


class UNet3D(nn.Module):
    """Noise in the frames of a clip.  Names of parameters are those of Stable Diffusion 1.5 and of the released weights.

    `config`: fields of diffusers' UNet2DConditionModel (see :data:`avtools.models.avsyncd.config.UNET`).
    """

    def __init__(self, config: dict, gradient_checkpointing: bool = False):
        super().__init__()
        self.config, self.gradient_checkpointing = dict(config), gradient_checkpointing
        widths, layers = list(config["block_out_channels"]), config["layers_per_block"]
        time, last = 4 * widths[0], len(widths) - 1
        down, up = (["CrossAttn" in kind for kind in config[name]] for name in ("down_block_types", "up_block_types"))
        if not len(down) == len(up) == len(widths):
            raise ValueError("block_out_channels, down_block_types and up_block_types are of one length")
        self.time_embedding = Embedding(widths[0], time)
        self.conv_in = Conv(config["in_channels"], widths[0], 3)
        self.down_blocks = nn.ModuleList()
        seen, width = [widths[0]], widths[0]
        for k, (out, crossed) in enumerate(zip(widths, down, strict=True)):
            pairs = [(width if i == 0 else out, out) for i in range(layers)]
            self.down_blocks.append(Down(pairs, time, config, layers if crossed else 0, "down" if k < last else None))
            seen += [out] * (layers + (k < last))
            width = out
        self.mid_block = Middle([(width, width)] * 2, time, config, 1, None)
        self.up_blocks = nn.ModuleList()
        for k, (out, crossed) in enumerate(zip(reversed(widths), up, strict=True)):
            pairs = [((width if i == 0 else out) + seen.pop(), out) for i in range(layers + 1)]
            self.up_blocks.append(Up(pairs, time, config, layers + 1 if crossed else 0, "up" if k < last else None))
            width = out
        self.conv_norm_out = FramesNorm(config["norm_num_groups"], width, config["norm_eps"])
        self.conv_out = Conv(width, config["out_channels"], 3)

    @property
    def levels(self) -> list[Level]:
        return [*self.down_blocks, self.mid_block, *self.up_blocks]

    def added(self) -> list[str]:
        """Names of the parameters that Stable Diffusion does not have."""
        return [name for name, _ in self.named_parameters() if any(part in name for part in ADDED)]

    def condition(self, text: torch.Tensor, audio: torch.Tensor, mask: torch.Tensor | None, frames: int) -> Condition:
        """Project text (B, T, E) and sound (B, N, A) for all transformers, once for all steps; `mask` (F, N) tells what
        each of the `frames` hears; None: all."""
        heard, real = heard_tokens(mask)
        given = Condition(text, audio, heard, real)
        return dataclasses.replace(given, projected=[one.transformer_blocks[0].project(given, frames) for level in self.levels for one in level.crossed])

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor | Condition, audio: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The noise (B, C, F, h, w) in `sample`, frame 0 of which is clean, at `timestep` (B,) or ().

        `text`, `audio`, `mask` as for :meth:`condition`, or what it gave in place of the text.
        """
        if isinstance(text, Condition):
            condition = text
        else:
            condition = Condition(text, audio, *heard_tokens(mask))
        time = self.time_embedding(timestep.to(sample.device).expand(len(sample)))
        x = self.conv_in(sample.permute(0, 2, 3, 4, 1))
        seen, number = [x], 0
        for level in self.down_blocks:
            seen += level(seen[-1], time, condition, number, self._run)
            number += len(level.crossed)
        x = self.mid_block(seen[-1], time, condition, number, self._run)
        number += len(self.mid_block.crossed)
        for level in self.up_blocks:
            x = level(x, time, condition, number, self._run, seen)
            number += len(level.crossed)
        x = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return x.permute(0, 4, 1, 2, 3)

    def _run(self, module: nn.Module, *inputs):
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)
