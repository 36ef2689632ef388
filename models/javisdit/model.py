"""VASTDiT3: a diffusion transformer with a stream of video and one of sound (spec JavisDiT, section 3; arXiv:2503.23377).

Its video stream is OpenSora's STDiT-v3 (arXiv:2412.20404).  Ours beside the published form: prior attention within each sample, the
clean branch of the last layer, and, as an option, positions in seconds in the attention between the streams.
"""

import dataclasses
import math
from typing import NamedTuple

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional

from avtools.errors import UsageError
from avtools.models.javisdit import positions
from avtools.models.javisdit.attention import Block, BothBlock, Final, Mlp, PriorBlock, Signals, Text
from avtools.training.draws import uniform

TIME_POSITIONS = ("none", "rotary", "sinusoidal")
WIDTH = 256  # of the sinusoids of times and frame rates
#: Fields of :class:`Size` that are whole numbers.
WHOLE = ("dim", "depth", "heads", "text", "text_tokens", "video", "sound", "spatial_priors", "temporal_priors", "prior")
#: Classes that FSDP2 shards as units.
UNITS = [Block, PriorBlock, BothBlock]
#: What trains in each stage: beginnings of names (spec, section 1).
TRAINED = {
    "audio": ("ax_embedder.", "audio_y_embedder.", "audio_spatial_blocks.", "audio_temporal_blocks.", "audio_final_layer."),
    "joint": ("st_t_block.", "st_prior_embedder.", "video_st_prior_blocks.", "audio_st_prior_blocks.", "va_cross_blocks."),
}


@dataclasses.dataclass
class Size:
    """The network's shape; the defaults are the published XL/2 but for the switches."""

    dim: int = 1152
    depth: int = 28
    heads: int = 16  # of the streams; of the attention between them half as many
    feed: float = 4.0  # width of feed-forward layers, times dim
    text: int = 4096  # width of the text encoder's states
    text_tokens: int = 300
    video: int = 4  # channels of latents
    sound: int = 8
    patch: tuple[int, int, int] = (1, 2, 2)  # video latents of a token: frames, rows, columns
    sound_patch: tuple[int, int] = (4, 1)  # sound latents of a token: frames, mel bands
    sigma: bool = True  # outputs have as many channels again, which nothing uses
    spatial_priors: int = 32
    temporal_priors: int = 32
    prior: int = 128  # width of a prior
    square: float = 512.0  # pixels of a side where places of patches count as they are
    joint: bool = True  # False: the first stage's, of sound alone
    time_positions: str = "none"  # in the attention between streams: none (published) | rotary | sinusoidal, by seconds
    chunk: tuple[int, int] = (17, 5)  # pictures and the latent frames that the codec makes of them; for time_positions
    sound_step: float = 0.04  # seconds of a latent frame of sound; for time_positions
    legacy_cross_batch_prior: bool = False  # a sample sees the priors of its whole batch, in sampling its own null ones of guidance; released weights: so
    legacy_final: bool = False  # the last layer modulates given frames twice, of which nobody reads the output; released weights: so

    def check(self) -> None:
        """UsageError where no network has this shape."""
        whole = {name: (getattr(self, name),) for name in WHOLE} | {"patch": self.patch, "sound_patch": self.sound_patch, "chunk": self.chunk}
        for name, values in whole.items():
            wanted = {"patch": 3, "sound_patch": 2, "chunk": 2}.get(name, 1)
            if not isinstance(values, tuple | list) or len(values) != wanted or not all(type(one) is int and one > 0 for one in values):
                raise UsageError(f"size.{name} {getattr(self, name)!r}: {'a whole number' if wanted == 1 else f'{wanted} whole numbers'} from 1")
        for name in ("feed", "square", "sound_step"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < math.inf:
                raise UsageError(f"size.{name} {value!r}: a number above 0")
        for name in ("sigma", "joint", "legacy_cross_batch_prior", "legacy_final"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"size.{name} {getattr(self, name)!r}: true or false")
        if self.time_positions not in TIME_POSITIONS:
            raise UsageError(f"size.time_positions {self.time_positions!r}: {', '.join(TIME_POSITIONS)}")
        if self.heads % 2 or self.dim % (2 * self.heads):  # between streams are half the heads; pairs turn; rows and columns have sines and cosines
            raise UsageError(f"size.dim {self.dim}, size.heads {self.heads}: an even number of heads, each of an even width that divides it")


class Given(NamedTuple):
    """What a batch is conditioned on.

    `text` (B, N, E) the text encoder's states, of which `counts` (B, N), None where all do, at least one in each row; priors
    (B, L, P), which the joint form needs.  `keep` (B, 3) bool: False replaces the video's text, the sound's, the priors by null ones, of
    as many tokens (the published training's dropout and null branch).  `passes`: that rows are the same samples so many times, all of them once, then
    again; where priors are seen across the batch, these then are those of the sample's own rows, so that no sample depends on others.
    """

    text: torch.Tensor
    counts: torch.Tensor | None = None
    spatial: torch.Tensor | None = None
    temporal: torch.Tensor | None = None
    keep: torch.Tensor | None = None
    passes: int | None = None


def guided(given: Given, passes: int = 2) -> Given:
    """`passes` times as many rows, for sampling: as they are, then, of 2, null ones for guidance."""
    rows = Given(*(None if one is None else one.repeat(passes, *[1] * (one.dim() - 1)) for one in given[:4]))
    keep = torch.arange(len(rows.text), device=rows.text.device) < len(given.text)
    return rows._replace(keep=keep[:, None].expand(-1, 3), passes=passes)


def drawn_keep(draws, dropout: float, device="cpu") -> torch.Tensor:
    """(B, 3) of :class:`Given` for training: each of the three is replaced in a share of `dropout` of the items, whatever the others are."""
    return torch.stack([uniform(draws, f"null {what}", device) >= dropout for what in ("video text", "sound text", "priors")], 1)


class Projected(NamedTuple):
    """As :class:`Given`, in the network's width; made once for all steps of a sample.  Priors are those that each row sees, (B or 1, L, C)."""

    video: Text | None
    sound: Text
    spatial: torch.Tensor | None
    temporal: torch.Tensor | None


class Embedder(nn.Module):
    """Numbers (B,) -> (B, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, values):
        return self.mlp(positions.sinusoid(values, WIDTH).to(self.mlp[0].weight.dtype))


class Projection(nn.Module):
    """Tokens (B, N, width) -> (B, N, dim); `keep` (B,) bool: others begin as the null ones, which never train."""

    def __init__(self, tokens: int, width: int, dim: int):
        super().__init__()
        self.register_buffer("y_embedding", torch.randn(tokens, width) / width**0.5)
        self.y_proj = Mlp(width, dim, dim)

    def forward(self, x, keep=None):
        x = x.to(self.y_proj.fc1.weight.dtype)
        if keep is not None:
            x = torch.where(keep[:, None, None], x, self.y_embedding[: x.shape[1]].to(x))
        return self.y_proj(x)


class Patches(nn.Module):
    """(B, channels, T, H, W) or (B, channels, T, M) -> (B, frames, places, dim) of patches, zeros at the ends where they do not divide it."""

    def __init__(self, channels: int, patch: tuple[int, ...], dim: int):
        super().__init__()
        self.patch = tuple(patch)
        self.proj = (nn.Conv3d if len(patch) == 3 else nn.Conv2d)(channels, dim, self.patch, self.patch)

    def forward(self, x):
        ends = [end for size, part in zip(reversed(x.shape[2:]), reversed(self.patch), strict=True) for end in (0, -size % part)]
        made = self.proj(functional.pad(x, ends).to(self.proj.weight.dtype))
        return made.flatten(3).permute(0, 2, 3, 1) if made.dim() == 5 else made.permute(0, 2, 3, 1)

    def counts(self, shape: torch.Size) -> list[int]:
        return [-(-size // part) for size, part in zip(shape[2:], self.patch, strict=True)]

    def undo(self, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """(B, frames, places, numbers of a patch, channels last) -> (B, channels, ...) as wide as `shape`."""
        x = x.flatten(1, 2).unflatten(1, self.counts(shape)).unflatten(-1, (*self.patch, -1))
        axes = range(1, len(self.patch) + 1)
        x = x.permute(0, x.dim() - 1, *[one for axis in axes for one in (axis, axis + len(self.patch))])
        for axis in axes:
            x = x.flatten(axis + 1, axis + 2).narrow(axis + 1, 0, shape[axis + 1])
        return x


class VastDit(nn.Module):
    """Noisy latents at `times` -> velocities, float32, and as many channels again where the size has `sigma`.

    `video` (B, 4, T, h, w), None in the form of sound alone; `sound` (B, 8, Ta, mel); `times` (B,) 0 to 1000; `fps` (B,) pictures a second, as given to the
    original; `pixels`: (height, width) of the pictures.  `video_made` (B, T), `sound_made` (B, Ta) bool: False where a latent frame is
    given, clean, which modulation then treats as of time 0; of a sound token's frames the first decides.
    """

    def __init__(self, size: Size, checkpointing: bool = False):
        super().__init__()
        size.check()
        self.size, self.checkpointing = size, checkpointing
        dim, heads, wide, times = size.dim, size.heads, int(size.feed * size.dim), 1 + size.sigma

        def blocks(make):
            return nn.ModuleList(make() for _ in range(size.depth))

        self.x_embedder = Patches(size.video, size.patch, dim)
        self.t_embedder, self.fps_embedder = Embedder(dim), Embedder(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = Projection(size.text_tokens, size.text, dim)
        self.final_layer = Final(dim, times * size.video * math.prod(size.patch), size.legacy_final)
        self.ax_embedder = Patches(size.sound, size.sound_patch, dim)
        self.audio_y_embedder = Projection(size.text_tokens, size.text, dim)
        self.audio_y_embedder.y_embedding.copy_(self.y_embedder.y_embedding)  # both streams' null text is one
        self.audio_spatial_blocks, self.audio_temporal_blocks = (blocks(lambda way=way: Block(dim, heads, wide, way)) for way in (False, True))
        self.audio_final_layer = Final(dim, times * size.sound * math.prod(size.sound_patch), size.legacy_final)
        if size.joint:
            self.spatial_blocks, self.temporal_blocks = (blocks(lambda way=way: Block(dim, heads, wide, way)) for way in (False, True))
            self.st_t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 9 * dim))
            self.st_prior_embedder = Projection(size.spatial_priors + size.temporal_priors, size.prior, dim)
            self.video_st_prior_blocks, self.audio_st_prior_blocks = (blocks(lambda: PriorBlock(dim, heads, wide)) for _ in range(2))
            self.va_cross_blocks = blocks(lambda: BothBlock(dim, heads // 2, size.time_positions))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """First values: Xavier's, and small ones for what makes conditions; layers of zeros stay so."""
        if self.t_block[1].weight.is_meta:
            return
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d) and layer.weight.any():
                if any(part in name for part in ("t_block.", "t_embedder.", "fps_embedder.", "y_proj.")):
                    nn.init.normal_(layer.weight, std=0.02)
                else:
                    nn.init.xavier_uniform_(layer.weight.flatten(1))
                nn.init.zeros_(layer.bias)
        for block in self.va_cross_blocks if self.size.joint else ():
            block.cross_attn.reset()

    # --- conditions ------------------------------------------------------------------------------------------

    def project(self, given: Given) -> Projected:
        keep = [None] * 3 if given.keep is None else given.keep.unbind(1)
        counts = None if given.counts is None else given.counts.bool()
        sound = Text(self.audio_y_embedder(given.text, keep[1]), counts)
        if not self.size.joint:
            return Projected(None, sound, None, None)
        if given.spatial is None or given.temporal is None:
            raise ValueError("the joint form takes priors: give spatial and temporal")
        priors = self.st_prior_embedder(torch.cat([given.spatial, given.temporal], 1), keep[2])
        both = priors.split([given.spatial.shape[1], given.temporal.shape[1]], 1)
        if self.size.legacy_cross_batch_prior:
            both = (_across(one, given.passes) for one in both)
        return Projected(Text(self.y_embedder(given.text, keep[0]), counts), sound, *both)

    def signals(self, times: torch.Tensor, fps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The vector of times (B, C), and what it says to main blocks (B, 6, C) and prior blocks (B, 9, C)."""
        time = self.t_embedder(times) + self.fps_embedder(fps)
        return time, self.t_block(time).unflatten(1, (6, -1)), self.st_t_block(time).unflatten(1, (9, -1)) if self.size.joint else None

    # --- forward ---------------------------------------------------------------------------------------------

    def forward(self, video, sound, times, given: Given | Projected, fps, pixels=None, video_made=None, sound_made=None):
        size = self.size
        if (video is None) == size.joint:
            raise ValueError("the joint form takes video and sound, that of sound alone no video")
        given = given if isinstance(given, Projected) else self.project(given)
        fps = fps.to(sound.device).expand(len(sound))
        now = self.signals(times, fps)
        still = None if video_made is None and sound_made is None else self.signals(torch.zeros_like(times), fps)

        a = self.ax_embedder(sound)
        a = a + positions.line(torch.arange(a.shape[2], device=a.device), size.dim).to(a.dtype)
        sound_made = None if sound_made is None else sound_made.bool()[:, :: size.sound_patch[0]]
        sound_signals, sound_angles = _mixed(now, still, sound_made), positions.token_angles(a.shape[1], size.dim // size.heads, a.device)
        v = video_signals = video_angles = None
        seconds = None, None
        if video is not None:
            v = self.x_embedder(video)
            rows, columns = self.x_embedder.counts(video.shape)[1:]
            v = v + positions.grid(rows, columns, size.dim, pixels, size.square, v.device).to(v.dtype)
            video_made = None if video_made is None else video_made.bool()[:, :: size.patch[0]]
            video_signals, video_angles = _mixed(now, still, video_made), positions.token_angles(v.shape[1], size.dim // size.heads, v.device)
            if size.time_positions != "none":
                seconds = self.seconds(v, a, fps)

        for number in range(size.depth):
            layer = self._joint_layer if size.joint else self._sound_layer
            around = number, v, a, given, video_signals, sound_signals, video_angles, sound_angles, seconds
            if self.checkpointing and self.training and torch.is_grad_enabled():
                v, a = torch.utils.checkpoint.checkpoint(layer, *around, use_reentrant=False)
            else:
                v, a = layer(*around)

        still = None if still is None else still[0]
        made = self.ax_embedder.undo(self.audio_final_layer(a, now[0], still, sound_made), sound.shape).float()
        return None if video is None else self.x_embedder.undo(self.final_layer(v, now[0], still, video_made), video.shape).float(), made

    def seconds(self, v: torch.Tensor, a: torch.Tensor, fps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T * S) and (1, R * M) seconds of the tokens of both streams."""
        size = self.size
        video = positions.video_seconds(v.shape[1] * size.patch[0], fps, size.chunk).unflatten(1, (-1, size.patch[0])).mean(-1)
        sound = positions.sound_seconds(a.shape[1], size.sound_step * size.sound_patch[0], a.device)
        return video.repeat_interleave(v.shape[2], 1), sound.repeat_interleave(a.shape[2], 1)

    def _sound_layer(self, number, v, a, given, video_signals, sound_signals, video_angles, sound_angles, seconds):
        a = self.audio_spatial_blocks[number](a, given.sound, sound_signals)
        return v, self.audio_temporal_blocks[number](a, given.sound, sound_signals, sound_angles)

    def _joint_layer(self, number, v, a, given, video_signals, sound_signals, video_angles, sound_angles, seconds):
        v = self.spatial_blocks[number](v, given.video, video_signals)
        v = self.temporal_blocks[number](v, given.video, video_signals, video_angles)
        _, a = self._sound_layer(number, None, a, given, None, sound_signals, None, sound_angles, None)
        v = self.video_st_prior_blocks[number](v, given.spatial, given.temporal, video_signals)
        a = self.audio_st_prior_blocks[number](a, given.spatial, given.temporal, sound_signals)
        seen, heard = self.va_cross_blocks[number](v.flatten(1, 2), a.flatten(1, 2), *seconds)
        return seen.unflatten(1, v.shape[1:3]), heard.unflatten(1, a.shape[1:3])


def _across(priors: torch.Tensor, passes: int | None) -> torch.Tensor:
    """(B, L, C) -> those of the whole batch (1, B * L, C), or of the same sample's rows (B, passes * L, C)."""
    if passes is None:
        return priors.flatten(0, 1)[None]
    return priors.unflatten(0, (passes, -1)).transpose(0, 1).flatten(1, 2).repeat(passes, 1, 1)


def _mixed(now, still, made: torch.Tensor | None) -> Signals:
    """Signals of the time, and of time 0 where `made` (B, T) is False."""

    def one(at: int):
        if now[at] is None or made is None:
            return None if now[at] is None else now[at][:, None]
        return torch.where(made[:, :, None, None], now[at][:, None], still[at][:, None])

    return Signals(one(1), one(2))

