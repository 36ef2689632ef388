"""CAVP of Diff-Foley (Luo et al. 2023, arXiv:2306.17203): picture and sound in one space, a vector of 512 for each 0.25 s.

Pictures: SlowOnly-R50 (Feichtenhofer et al. 2019) of 4 pictures a second, without pooling over time.  Sound: a CNN of
PANNs (Kong et al. 2020) over a log-mel spectrogram of 64 frames a second, of which each vector has 16.

Names are those of `cavp_epoch66.ckpt`.  The sound's CNN is built as the tensors tell (6 blocks and a linear layer by
default; 4 blocks, with or without them, too): how the deeper blocks pool is not written in the file, here the first four
halve time and bands, the fifth halves bands, later ones neither, which gives the published 4 vectors a second.
"""

import dataclasses
import functools
import pathlib
import re

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.errors import FatalError

FPS, SIZE = 4, 224  # of pictures: per second, pixels a side
RATE, N_FFT, HOP, BANDS, LOW, HIGH = 16000, 1024, 250, 128, 125.0, 7600.0
FLOOR, TOP = 1e-5, 20.0  # of a band's magnitude; of decibels
FRAMES = RATE // HOP  # of the spectrogram in a second
POOL = FRAMES // FPS  # of them in one vector
AT_ONCE, CONTEXT = 40, 9  # pictures that are encoded at once; how many on each side one vector depends on
SOUND_AT_ONCE, SOUND_CONTEXT = 64 * FRAMES, 4 * FRAMES  # frames: the same for sound, where less than 2 s matter


@dataclasses.dataclass(frozen=True)
class Config:
    """Of the networks; the defaults are the released ones."""

    width: int = 64  # of the picture network's first layer
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)  # of the sound network's blocks
    normed: bool = True  # the spectrogram goes through a batch norm of its bands
    hidden: int = 512  # what a linear layer behind the blocks gives; 0: there is none
    projected: bool = False  # another one follows
    dim: int = 512

    @classmethod
    def of(cls, shapes: dict[str, tuple[int, ...]]) -> "Config":
        """From the shapes of released tensors; KeyError where they are others."""
        blocks = {}
        for name in shapes:
            if match := re.match(r"video_encoder\.layer(\d+)\.(\d+)\.", name):
                blocks.setdefault(int(match[1]), set()).add(match[2])
        conv = "spec_encoder.conv_block{}.conv2.weight"
        count = next(k for k in range(1, 100) if conv.format(k) not in shapes) - 1
        return cls(
            shapes["video_encoder.conv1.conv.weight"][0],
            tuple(len(blocks[k]) for k in sorted(blocks)),
            tuple(shapes[conv.format(k)][0] for k in range(1, count + 1)),
            "spec_encoder.bn0.weight" in shapes,
            shapes.get("spec_encoder.fc1.weight", (0,))[0],
            "spec_project_head.weight" in shapes,
            shapes["video_project_head.weight"][0],
        )


# --- pictures -------------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """Convolution over (time, height, width) and batch norm."""

    def __init__(self, into: int, out: int, kernel: tuple[int, int, int], stride: int = 1):
        super().__init__()
        self.conv = nn.Conv3d(into, out, kernel, (1, stride, stride), tuple(k // 2 for k in kernel), bias=False)
        self.bn = nn.BatchNorm3d(out)

    def forward(self, x):
        return self.bn(self.conv(x))


class Bottleneck(nn.Module):
    def __init__(self, into: int, width: int, stride: int, times: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = Conv(into, width, (times, 1, 1)), Conv(width, width, (1, 3, 3), stride), Conv(width, 4 * width, (1, 1, 1))
        self.downsample = Conv(into, 4 * width, (1, 1, 1), stride) if stride > 1 or into != 4 * width else None

    def forward(self, x):
        same = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.conv3(functional.relu(self.conv2(functional.relu(self.conv1(x))))) + same)


class SlowOnly(nn.Module):
    """(B, 3, T, H, W) within [0, 1] -> (B, T, 2048): ResNet-50 whose last two stages look 3 pictures wide; mean over places."""

    def __init__(self, width: int, blocks: tuple[int, ...]):
        super().__init__()
        self.conv1 = Conv(3, width, (1, 7, 7), 2)
        into = width
        for stage, count in enumerate(blocks):
            made = []
            for k in range(count):
                made.append(Bottleneck(into, width << stage, 2 if stage and not k else 1, 3 if stage >= 2 else 1))
                into = 4 * width << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.stages, self.dim = len(blocks), into

    def forward(self, x):
        x = functional.max_pool3d(functional.relu(self.conv1(x)), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean((3, 4)).transpose(1, 2)


# --- sound ----------------------------------------------------------------------------------------------------------


class ConvBlock(nn.Module):
    def __init__(self, into: int, out: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(into, out, 3, padding=1, bias=False), nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)

    def forward(self, x, pool: tuple[int, int]):
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.avg_pool2d(functional.relu(self.bn2(self.conv2(x))), pool)


class SoundCnn(nn.Module):
    """Log-mel (B, T, 128) -> (B, T // 16, D)."""

    def __init__(self, config: Config):
        super().__init__()
        if config.normed:
            self.bn0 = nn.BatchNorm2d(BANDS)
        for k, (into, out) in enumerate(zip((1, *config.channels), config.channels, strict=False)):
            setattr(self, f"conv_block{k + 1}", ConvBlock(into, out))
        self.count, self.normed, self.dim = len(config.channels), config.normed, config.hidden or config.channels[-1]
        if config.hidden:
            self.fc1 = nn.Linear(config.channels[-1], config.hidden)

    def forward(self, mel):
        x = mel[:, None]
        if self.normed:
            x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        for k in range(self.count):
            x = getattr(self, f"conv_block{k + 1}")(x, (2, 2) if k < 4 else (1, 2) if k == 4 else (1, 1))
        x = x.mean(3).transpose(1, 2)
        return self.fc1(x) if hasattr(self, "fc1") else x


# --- both -----------------------------------------------------------------------------------------------------------


class Cavp(nn.Module):
    def __init__(self, config: Config = Config()):
        super().__init__()
        self.config = config
        self.video_encoder = SlowOnly(config.width, config.blocks)
        self.video_project_head = nn.Linear(self.video_encoder.dim, config.dim)
        self.spec_encoder = SoundCnn(config)
        self.spec_project_head = nn.Linear(self.spec_encoder.dim, config.dim) if config.projected else nn.Identity()
        self.logit_scale = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def see(self, pictures: torch.Tensor) -> torch.Tensor:
        """(T, 3, 224, 224) within [0, 1], 4 a second -> (T, D) of unit length; of long clips some at a time, with the same result."""

        def encoded(part):
            found = self.video_encoder(part.to(self.video_project_head.weight).transpose(0, 1)[None])
            return functional.normalize(self.video_project_head(found), dim=-1)[0]

        return in_parts(pictures, AT_ONCE, CONTEXT, 1, encoded)

    @torch.no_grad()
    def hear(self, mel: torch.Tensor) -> torch.Tensor:
        """(128, T) of :func:`log_mel` -> (T // 16, D) of unit length; of long clips some at a time, with the same result."""

        def encoded(part):
            found = self.spec_encoder(part.to(self.video_project_head.weight)[None])
            return functional.normalize(self.spec_project_head(found), dim=-1)[0]

        return in_parts(mel.T, SOUND_AT_ONCE, SOUND_CONTEXT, POOL, encoded)


def in_parts(values: torch.Tensor, length: int, context: int, factor: int, encode) -> torch.Tensor:
    """(T, ...) -> (T // factor, D): `encode` of parts of `length`, each with up to `context` more on both sides, whose results go;
    the same as of the whole where no result depends on more.  `length` and `context` are multiples of `factor`."""
    total, made = len(values) // factor * factor, []
    for begin in range(0, total, length):
        before, end = max(0, begin - context), min(total, begin + length)
        found = encode(values[before : len(values) if end == total else end + context])
        made.append(found[(begin - before) // factor :][: (end - begin) // factor])
    return torch.cat(made)


def whole_seconds(sound: torch.Tensor, seconds: int) -> torch.Tensor:
    """(n,) at 16 kHz -> the samples that `seconds` whole seconds are judged by, one fewer than they have; silence where it is shorter."""
    samples = seconds * RATE - 1
    return functional.pad(sound[:samples], (0, max(0, samples - len(sound))))


def log_mel(sound: torch.Tensor) -> torch.Tensor:
    """(n,) at 16 kHz -> (128, 1 + n // 250) within [0, 1]: decibels of magnitude in Slaney's bands from 125 to 7600 Hz, less 20;
    -100 is 0, and 0 is 1."""
    window = torch.hann_window(N_FFT, device=sound.device)
    with torch.autocast(sound.device.type, enabled=False):
        spectrum = torch.stft(sound.float(), N_FFT, HOP, N_FFT, window, center=True, pad_mode="constant", return_complex=True)
        mel = (_bands().to(sound.device) @ spectrum.abs()).clamp(min=FLOOR)
        return ((20 * mel.log10() - TOP + 100) / 100).clamp(0, 1)


@functools.cache
def _bands() -> torch.Tensor:
    from avtools.models.parts.mel import slaney_matrix

    return torch.from_numpy(slaney_matrix(RATE, N_FFT, BANDS, LOW, HIGH))


class CavpEncoder(nn.Module):
    """CAVP's vector of each picture, of unit length: [(T, 3, 224, 224) within [0, 1]] -> [(T, 512)].

    It was trained on 4 pictures a second; at another rate its stages that look over time see another one.
    """

    def __init__(self, net: Cavp):
        super().__init__()
        self.model, self.dim, self.size = net, net.config.dim, SIZE

    @torch.no_grad()
    def forward(self, frames: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.model.see(pictures) for pictures in frames]


def cavp_from(path) -> CavpEncoder:
    """The encoder of `cavp_epoch66.ckpt`, or of a folder that holds it."""
    return CavpEncoder(load(path))


# --- the file -------------------------------------------------------------------------------------------------------


def load(path) -> Cavp:
    """The network of `cavp_epoch66.ckpt`, of the same in safetensors, or of a folder that holds either.

    On the CPU, in eval mode and without gradients.  FatalError lists what does not fit.
    """
    path = file_of(path)
    tensors = {name.removeprefix("state_dict.").removeprefix("module."): tensor for name, tensor in hub.tensors(path, "").items()}
    tensors = {name: tensor for name, tensor in tensors.items() if re.match(r"(video|spec)_(encoder|project_head)\.|logit_scale$", name)}
    try:
        config = Config.of({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        if not config.channels or not config.blocks:
            raise KeyError("spec_encoder.conv_block1" if config.blocks else "video_encoder.layer1")
    except KeyError as error:
        raise FatalError(f"{path}: is no whole CAVP ({error} is missing); give cavp_epoch66.ckpt") from None
    with torch.device("meta"):  # takes over the file's tensors
        net = Cavp(config)
    hub.load_strict(net, tensors, path, ignore=(r"^spec_encoder\.fc_audioset\.", r"num_batches_tracked$", r"^logit_scale$"))
    for name, tensor in net.named_buffers():
        if tensor.is_meta:  # only of counts of batches, which nothing uses
            parent = net.get_submodule(name.rpartition(".")[0])
            parent.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))
    if net.logit_scale.is_meta:
        net.logit_scale = nn.Parameter(torch.zeros(()))
    return net.eval().requires_grad_(False)


def file_of(path) -> pathlib.Path:
    """The file that a path means; FatalError where a folder holds none."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return path
    found = [*sorted(path.rglob("cavp_epoch66.ckpt")), *path.glob("model.safetensors")]
    if not found:
        raise FatalError(f"{path}: has neither cavp_epoch66.ckpt nor model.safetensors; give the file of CAVP")
    return found[0]
