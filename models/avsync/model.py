"""The networks: encoders of sound and of picture, and the head that scores a pair of them (spec section 2).

Names of parameters are those of the released files, each of which holds one of the three parts; AVID-CMA's
(Morgado et al. 2021, arXiv 2004.12943) encoders have the same.  Sound: (B, 1, mel bands, time); picture: (B, 3, T, H, W).
"""

import torch
from torch import nn


class _Pool(nn.Module):
    """(B, C, ..., space) -> (B, dim): the mean over all positions; or over all but time (axis `time`), of which each channel
    keeps what changes (its mean over time is taken off, and its deviation divided by), and a projection of that.
    """

    def __init__(self, how: str, channels: int, steps: int, dim: int, time: int):
        super().__init__()
        self.time = time
        self.linear = nn.Linear(channels * steps, dim) if how == "time" else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if self.linear is None:
            return maps.mean(tuple(range(2, maps.dim())))
        along = maps.mean([axis for axis in range(2, maps.dim()) if axis != self.time])
        return self.linear(nn.functional.instance_norm(along, eps=1e-3).flatten(1))


def _strided(length: int, strides) -> int:
    """How many positions are left of `length` after convolutions that each keep every `stride`-th."""
    for stride in strides:
        length = -(-length // stride)
    return length


class _AudioBlock(nn.Module):
    """Twice a 3x3 convolution, batch norm and ReLU; the first one strides."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.bn2(self.conv2(x)).relu()


class AudioEncoder(nn.Module):
    """(B, 1, F, T) normalised log-mel -> (B, dim).

    `widths`: of the first convolution and of each block; `strides`: of the blocks, in frequency and time alike.
    `pool`: "mean" (published), or "time", a projection of what is there at each of the steps that `frames` leave.
    """

    def __init__(self, widths=(64, 64, 128, 256, 512), strides=(2, 2, 2, 1), pool: str = "mean", dim: int = 512, frames: int = 204):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = len(strides)
        for k, stride in enumerate(strides, 1):
            setattr(self, f"block{k}", _AudioBlock(widths[k - 1], widths[k], stride))
        self.pool = _Pool(pool, widths[-1], _strided(frames, (2, *strides)), dim, 3)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = self.conv1(mel)
        for k in range(1, self.blocks + 1):
            x = getattr(self, f"block{k}")(x)
        return self.pool(x)


class _VideoBlock(nn.Module):
    """R(2+1)D's residual block: space, time, space, time; strides (time, space) lie in the first two."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]):
        super().__init__()
        time, space = stride

        def spatial(channels, step):
            return nn.Conv3d(channels, outputs, (1, 3, 3), (1, step, step), (0, 1, 1), bias=False)

        def temporal(step):
            return nn.Conv3d(outputs, outputs, (3, 1, 1), (step, 1, 1), (1, 0, 0), bias=False)

        self.spt_conv1, self.spt_bn1 = spatial(inputs, space), nn.BatchNorm3d(outputs)
        self.tmp_conv1, self.tmp_bn1 = temporal(time), nn.BatchNorm3d(outputs)
        self.spt_conv2, self.spt_bn2 = spatial(outputs, 1), nn.BatchNorm3d(outputs)
        self.tmp_conv2, self.out_bn = temporal(1), nn.BatchNorm3d(outputs)
        changes = inputs != outputs or time != 1 or space != 1
        self.res_conv = nn.Conv3d(inputs, outputs, 1, (time, space, space), bias=False) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.res_conv is None else self.res_conv(x)
        x = self.spt_bn1(self.spt_conv1(x)).relu()
        x = self.tmp_bn1(self.tmp_conv1(x)).relu()
        x = self.spt_bn2(self.spt_conv2(x)).relu()
        return self.out_bn(self.tmp_conv2(x) + kept).relu()


class VideoEncoder(nn.Module):
    """R(2+1)D (Tran et al. 2018) with as many channels between space and time as after them: (B, 3, T, H, W), normalised
    as CLIP's pictures, -> (B, dim).

    `strides`, `time_strides`: of each stage.  `pool`: as :class:`AudioEncoder`'s, of `frames` pictures.
    """

    def __init__(
        self, widths=(64, 64, 128, 256, 512), strides=(1, 2, 2, 2), time_strides=(1, 2, 2, 2), blocks: int = 2, pool: str = "mean", dim: int = 512, frames: int = 12
    ):
        super().__init__()
        stem = nn.Conv3d(3, widths[0], (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.conv1 = nn.Sequential(stem, nn.BatchNorm3d(widths[0]), nn.ReLU(), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
        self.stages = [f"conv{k}x" for k in range(2, 2 + len(strides))]
        for k, name in enumerate(self.stages):
            first = _VideoBlock(widths[k], widths[k + 1], (time_strides[k], strides[k]))
            setattr(self, name, nn.Sequential(first, *(_VideoBlock(widths[k + 1], widths[k + 1], (1, 1)) for _ in range(blocks - 1))))
        self.pool = _Pool(pool, widths[-1], _strided(frames, time_strides), dim, 2)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = self.conv1(frames)
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.pool(x)


class Head(nn.Module):
    """[sound, picture] -> one raw logit, by three linear layers (1024, 512, 256, 1 as released)."""

    def __init__(self, dim: int = 512, dropout: float = 0.0):
        super().__init__()
        self.dim = dim
        self.fc = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim // 2), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim // 2, 1)
        )  # fmt: skip

    def forward(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        """(..., dim) each -> (...) of the pairs as they stand."""
        return self.fc(torch.cat([audio, video], -1)).squeeze(-1)

    def pairs(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        """(V, A, dim), (V, B, dim) -> (V, A, B): each sound of a video with each of its pictures.

        The first layer is linear in both, so it is worked out for each once: A + B products in place of A * B.
        """
        first = self.fc[0]
        heard, seen = nn.functional.linear(audio, first.weight[:, : self.dim], first.bias), nn.functional.linear(video, first.weight[:, self.dim :])
        return self.fc[1:](heard[:, :, None] + seen[:, None]).squeeze(-1)


class AvSyncNet(nn.Module):
    """Both encoders and the head; `config`: :class:`avtools.models.avsync.config.Config`."""

    PARTS = ("audio_encoder", "video_encoder", "head")

    def __init__(self, config):
        super().__init__()
        common = {"pool": config.pool, "dim": config.dim}
        self.audio_encoder = AudioEncoder(config.audio_widths, config.audio_strides, frames=config.mel_frames, **common)
        self.video_encoder = VideoEncoder(
            config.video_widths, config.video_strides, config.video_time_strides, config.blocks_per_stage, **common
        )
        self.head = Head(config.dim, config.dropout)

    def score(self, audio_features: torch.Tensor, video_features: torch.Tensor) -> torch.Tensor:
        """(..., dim) each -> (...) raw logits."""
        return self.head(audio_features, video_features)

    def pairs(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        return self.head.pairs(audio, video)

    def forward(self, mel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """(V, K, 1, F, T) and (V, K, 3, T, H, W), K clips of each of V videos -> (V, K, K): each sound with each picture."""
        shape = mel.shape[:2]
        return self.pairs(self.audio_encoder(mel.flatten(0, 1)).unflatten(0, shape), self.video_encoder(frames.flatten(0, 1)).unflatten(0, shape))
