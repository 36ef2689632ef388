"""OpenSora's VAE 1.2: videos <-> the latents of JavisDiT (spec JavisDiT models, section 3, "Codecs").

Each picture goes through Stable Diffusion XL's autoencoder as PixArt-Sigma has it (diffusers), which makes it 8 times smaller; then 17
pictures at a time become 5 latents by convolutions that look back in time only (:class:`Temporal`; its norms see the whole chunk).

Known from the published config.json: chunks of 17, `shift`, `scale`, SDXL's autoencoder as `vae_2d` in parts of 4 pictures, the kind
of the temporal one (VAE_Temporal_SD).  Written from memory of the architecture, told by no documentation that was found, and not compared
with the released weights: the layers of :class:`Temporal` (widths, order, which have no biases), what fills up (zeros), and the names in
the file (`spatial_vae.module.*`, `temporal_vae.*`).  Both have 393.3 million parameters, which are the 1.57 GB of the published file.
Loading is strict, and names what is missing, unexpected or of another shape.
"""

import dataclasses
import json
import pathlib
import re
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.errors import FatalError
from avtools.models.avsyncd.encoders import Vae
from avtools.models.javisdit.weights import some

CHUNK, LATENTS = 17, 5  # pictures that are coded together, and the latents that they become
SHIFT, SCALE = (-0.10, 0.34, 0.27, 0.98), (3.85, 2.32, 2.33, 3.06)  # of the latents' channels
PICTURE_SCALE = 0.18215  # of what SDXL's autoencoder gives
AT_ONCE = 4  # pictures that it codes together
GROUPS, EPS = 32, 1e-5  # of the group norms
SPATIAL, TEMPORAL = "spatial_vae.module.", "temporal_vae."
GIVE = "give OpenSora's VAE 1.2 (hpcai-tech/OpenSora-VAE-v1.2)"


@dataclasses.dataclass(frozen=True)
class Size:
    """Of the temporal autoencoder; the defaults are the released ones."""

    channels: int = 4  # of the pictures' latents, and of the video's
    width: int = 128
    times: tuple[int, ...] = (1, 2, 2, 4)  # of the width, from the pictures on
    blocks: int = 4  # at each width
    halved: tuple[bool, ...] = (False, True, True)  # whether time is, behind each width but the last

    @property
    def factor(self) -> int:
        return 2 ** sum(self.halved)


RELEASED = Size()


class Causal(nn.Module):
    """Convolution over (time, height, width) that sees nothing later; beyond the edges, and before the first picture, all is zero."""

    def __init__(self, into: int, out: int, kernel: int = 3, stride: int = 1, bias: bool = True):
        super().__init__()
        side = kernel // 2
        self.fill = (side, side, side, side, kernel - 1, 0)
        self.conv = nn.Conv3d(into, out, kernel, (stride, 1, 1), bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(functional.pad(x, self.fill))


class Block(nn.Module):
    def __init__(self, into: int, out: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, into, EPS), Causal(into, out, bias=False)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, out, EPS), Causal(out, out, bias=False)
        if into != out:
            self.conv3 = Causal(into, out, 1, bias=False)
        self.same = into == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.conv1(functional.silu(self.norm1(x)))
        return (x if self.same else self.conv3(x)) + self.conv2(functional.silu(self.norm2(branch)))


def _blocks(into: int, out: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(Block(out if k else into, out) for k in range(count))


class Encoder(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        widths = [size.width * times for times in size.times]
        self.conv_in = Causal(size.channels, size.width, bias=False)
        self.block_res_blocks = nn.ModuleList(_blocks(before, width, size.blocks) for before, width in zip([size.width, *widths[:-1]], widths, strict=True))
        halved = zip(widths[:-1], size.halved, strict=True)
        self.conv_blocks = nn.ModuleList(Causal(width, width, stride=2) if half else nn.Identity() for width, half in halved)
        self.res_blocks = _blocks(widths[-1], widths[-1], size.blocks)
        self.norm1, self.conv2 = nn.GroupNorm(GROUPS, widths[-1], EPS), Causal(widths[-1], 2 * size.channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for number, blocks in enumerate(self.block_res_blocks):
            for block in blocks:
                x = block(x)
            if number < len(self.conv_blocks):
                x = self.conv_blocks[number](x)
        for block in self.res_blocks:
            x = block(x)
        return self.conv2(functional.silu(self.norm1(x)))


class Decoder(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        widths = [size.width * times for times in size.times]
        self.conv1 = Causal(size.channels, widths[-1])
        self.res_blocks = _blocks(widths[-1], widths[-1], size.blocks)
        self.block_res_blocks = nn.ModuleList(_blocks(before, width, size.blocks) for before, width in zip([*widths[1:], widths[-1]], widths, strict=True))
        halved = zip(widths[1:], size.halved, strict=True)
        self.conv_blocks = nn.ModuleList(Causal(width, 2 * width) if half else nn.Identity() for width, half in halved)
        self.norm1, self.conv_out = nn.GroupNorm(GROUPS, widths[0], EPS), Causal(widths[0], size.channels)
        self.halved = size.halved

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        for block in self.res_blocks:
            x = block(x)
        for number in reversed(range(len(self.block_res_blocks))):
            for block in self.block_res_blocks[number]:
                x = block(x)
            if number and self.halved[number - 1]:
                x = self.conv_blocks[number - 1](x)
                x = x.unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(2, 3)  # half of the channels is the later picture
        return self.conv_out(functional.silu(self.norm1(x)))


class Temporal(nn.Module):
    """Latents of pictures (B, C, T, h, w), one chunk <-> latents of a video (B, C, ceil(T / 4), h, w).

    What T lacks to a multiple of 4 is filled up with zeros before the first picture.
    """

    def __init__(self, size: Size = RELEASED):
        super().__init__()
        self.size, both = size, 2 * size.channels
        self.encoder, self.quant_conv = Encoder(size), Causal(both, both, 1)
        self.post_quant_conv, self.decoder = Causal(size.channels, size.channels, 1), Decoder(size)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation."""
        x = functional.pad(x, (0, 0, 0, 0, -x.shape[2] % self.size.factor, 0))
        mean, logvar = self.quant_conv(self.encoder(x)).float().chunk(2, 1)
        return mean, torch.exp(0.5 * logvar.clamp(-30, 20))

    def decode(self, latents: torch.Tensor, frames: int) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(latents))[:, :, -frames % self.size.factor :]


class VideoVae(nn.Module):
    """Videos (B, T, 3, H, W), values 0..1 or uint8 <-> scaled latents (B, 4, L, H // 8, W // 8), float32 (see :meth:`latents`).

    It computes on the device and in the precision of its weights, one chunk at a time.
    """

    def __init__(self, pictures: Vae, temporal: Temporal, shift=SHIFT, scale=SCALE):
        super().__init__()
        self.spatial_vae, self.temporal_vae = pictures, temporal
        self.channels, self.factor = temporal.size.channels, pictures.factor
        self.shift, self.scale = tuple(shift), tuple(scale)  # no buffers, which would take over the weights' precision

    def latents(self, frames: int) -> int:
        """Of a video of so many pictures: 5 for each 17, and one for each 4, or less, of the rest."""
        whole, rest = divmod(frames, CHUNK)
        return LATENTS * whole + -(-rest // self.temporal_vae.size.factor)

    @torch.no_grad()
    def encode(self, videos: torch.Tensor, draws: list[torch.Generator] | None = None) -> torch.Tensor:
        """The mean; with `draws`, one generator on the CPU for each video, samples, as published."""
        made = []
        for chunk in videos.split(CHUNK, 1):
            mean, deviation = self._pictures(chunk.flatten(0, 1))
            both = [one.unflatten(0, chunk.shape[:2]) for one in (mean, deviation)]
            mean, deviation = self.temporal_vae.encode(_drawn(*both, draws).transpose(1, 2).to(self.dtype))
            made.append(_drawn(mean, deviation, draws))
        whole = torch.cat(made, 2)
        return (whole - _by_channel(self.shift, whole)) / _by_channel(self.scale, whole)

    def _pictures(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for some in pictures.split(AT_ONCE):
            some = some.to(self.temporal_vae.quant_conv.conv.weight.device)
            found.append(self.spatial_vae.encode(some / 255 if some.dtype == torch.uint8 else some))
        return tuple(torch.cat(both) for both in zip(*found, strict=True))

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """-> (B, `frames`, 3, 8h, 8w) within 0..1, float32.  `frames`: by default 17 for each 5 latents, and 4 for each of the rest."""
        whole, rest = divmod(latents.shape[2], LATENTS)
        frames = CHUNK * whole + self.temporal_vae.size.factor * rest if frames is None else frames
        if self.latents(frames) != latents.shape[2]:
            raise ValueError(f"{latents.shape[2]} latents, and {frames} pictures have {self.latents(frames)}")
        latents, made = latents.to(self.temporal_vae.quant_conv.conv.weight.device).float(), []
        raw = latents * _by_channel(self.scale, latents) + _by_channel(self.shift, latents)
        for number, chunk in enumerate(raw.to(self.dtype).split(LATENTS, 2)):
            pictures = self.temporal_vae.decode(chunk, min(CHUNK, frames - CHUNK * number)).transpose(1, 2)
            flat = pictures.flatten(0, 1).float()
            made.append(torch.cat([self.spatial_vae.decode(some) for some in flat.split(AT_ONCE)]).unflatten(0, pictures.shape[:2]))
        return torch.cat(made, 1)

    @property
    def dtype(self) -> torch.dtype:
        return self.temporal_vae.quant_conv.conv.weight.dtype


def _by_channel(values: tuple, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, -1, 1, 1, 1)


def _drawn(mean: torch.Tensor, deviation: torch.Tensor, draws: list[torch.Generator] | None) -> torch.Tensor:
    if draws is None:
        return mean
    return mean + deviation * torch.stack([torch.randn(mean.shape[1:], generator=draw) for draw in draws]).to(mean)


# --- weights -----------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A checkpoint: the tensors of both autoencoders under our names, their shapes, shift and scale."""

    tensors: dict
    pictures: dict
    size: Size
    shift: tuple
    scale: tuple
    where: pathlib.Path

    def make(self) -> VideoVae:
        """The codec on the CPU, in the precision of the file, in eval mode and without gradients; FatalError lists what does not fit."""
        with torch.device("meta"):  # takes over the file's tensors
            pictures, temporal = Vae(self.pictures), Temporal(self.size)
        made = VideoVae(pictures, temporal, self.shift, self.scale)
        for name, part in (("spatial_vae.model.", pictures.model), (TEMPORAL, temporal)):
            hub.load_strict(part, {key.removeprefix(name): tensor for key, tensor in self.tensors.items() if key.startswith(name)}, self.where)
        return made.eval().requires_grad_(False)


def load(path) -> VideoVae:
    """Out of the released folder or its file."""
    return read(path).make()


def read(path) -> Found:
    path = pathlib.Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FatalError(f"{path}: has no model.safetensors; {GIVE}")
    told = {}
    if (file.parent / "config.json").is_file():
        try:
            told = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise FatalError(f"{file.parent / 'config.json'}: no JSON ({error}); get the folder anew") from None
        if isinstance(told, dict) and told.get("micro_frame_size", CHUNK) != CHUNK:
            raise FatalError(f"{file.parent / 'config.json'}: chunks of {told['micro_frame_size']} pictures, and only those of {CHUNK} are known; {GIVE}")
    return found(hub.tensors(file), file, told if isinstance(told, dict) else {})


def found(tensors: dict, where, settings: dict | None = None) -> Found:
    """As :func:`read`, of tensors under released names; `settings`: of a config.json."""
    named, unknown = {}, []
    numbers = {name: tuple((settings or {}).get(name, default)) for name, default in (("shift", SHIFT), ("scale", SCALE))}
    for name, tensor in tensors.items():
        if name in numbers:
            numbers[name] = numbers[name] if tensor.is_meta else tuple(tensor.flatten().tolist())
        elif name.startswith(SPATIAL):
            named["spatial_vae.model." + name.removeprefix(SPATIAL)] = tensor
        elif name.startswith(TEMPORAL):
            named[name] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise FatalError(f"{where}: {len(unknown)} unexpected: {some(unknown)} (known are {SPATIAL}*, {TEMPORAL}*, shift, scale); {GIVE}")
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    try:
        size, pictures = _temporal_size(shapes), _picture_settings(shapes)
    except (KeyError, IndexError, ValueError) as error:
        why = f"no {error.args[0]}" if isinstance(error, KeyError) else error
        raise FatalError(f"{where}: not OpenSora's VAE as it is known here ({why}; it has {some(sorted(tensors))}); {GIVE}") from None
    if not len(numbers["shift"]) == len(numbers["scale"]) == size.channels == pictures["latent_channels"]:
        raise FatalError(f"{where}: {size.channels} channels, and shift and scale of {len(numbers['shift'])} and {len(numbers['scale'])}; {GIVE}")
    return Found(named, pictures, size, numbers["shift"], numbers["scale"], pathlib.Path(where))


def _count(shapes: dict, start: str) -> int:
    """How many parts there are whose names go on with a number; KeyError: none."""
    found = [int(match[1]) for name in shapes if (match := re.match(rf"{re.escape(start)}(\d+)\.", name))]
    if not found:
        raise KeyError(f"{start}0")
    return 1 + max(found)


def _temporal_size(shapes: dict) -> Size:
    start = f"{TEMPORAL}encoder."
    width, channels = shapes[f"{start}conv_in.conv.weight"][:2]
    levels, blocks = _count(shapes, f"{start}block_res_blocks."), _count(shapes, f"{start}res_blocks.")
    times = tuple(shapes[f"{start}block_res_blocks.{level}.0.conv2.conv.weight"][0] // width for level in range(levels))
    halved = tuple(f"{start}conv_blocks.{level}.conv.weight" in shapes for level in range(levels - 1))
    return Size(channels, width, times, blocks, halved)


def _picture_settings(shapes: dict) -> dict:
    """Of :class:`..avsyncd.encoders.Vae`."""
    start = "spatial_vae.model."
    levels, blocks = _count(shapes, f"{start}encoder.down_blocks."), _count(shapes, f"{start}encoder.down_blocks.0.resnets.")
    return {
        "latent_channels": shapes[f"{start}post_quant_conv.weight"][0],
        "block_out_channels": [shapes[f"{start}encoder.down_blocks.{level}.resnets.0.conv2.weight"][0] for level in range(levels)],
        "layers_per_block": blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": PICTURE_SCALE,
    }
