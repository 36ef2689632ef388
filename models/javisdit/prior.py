"""JavisDiT's prior of space and time: what a caption says about where and when, as 64 tokens (spec JavisDiT models, section 2).

    prior = read(path).make()                       # released, or of our training
    spatial, temporal = prior(states, noise)        # of ImageBind's text trunk, see :mod:`.text`

Parameters have the names of the released file.  :class:`Prior` is what sampling and the joint stage need; :class:`TrainedPrior` has,
beside it, what learns with it and is needed no more: the encoder of latents of picture and sound, and the discriminator.
"""

import dataclasses
import pathlib
import re
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from avtools import hub
from avtools.errors import FatalError
from avtools.models.javisdit import positions
from avtools.models.javisdit.weights import pieces, some

TEXT = "text_encoder."  # ImageBind's text tower, which the released file may hold too
LOWEST, HIGHEST = -30.0, 20.0  # of a logarithm of the variance
EPS = 1e-6
VIEWS = ("spatial", "temporal")
SQUARE = 512  # pixels: the side of the picture at which the positions of video tokens have their own scale
GIVE = "give JavisDiT's prior (model.safetensors), or a run of 'avtools train javisdit-prior'"


@dataclasses.dataclass(frozen=True)
class Size:
    """Of the prior; the defaults are the released ones.  Heads leave no trace in a checkpoint, but for the discriminator's."""

    text: int = 1024  # width of the states that it reads
    dim: int = 512
    heads: int = 4
    encoder_layers: int = 4
    decoder_layers: int = 4
    feed: int = 4  # times dim
    out: int = 128  # width of a token of the prior, and of the encoder of latents
    spatial: int = 32  # tokens
    temporal: int = 32
    video_channels: int = 4
    video_patch: int = 2  # latents high and wide
    audio_channels: int = 8
    audio_patch: int = 2  # latents of time and of mel
    pair_heads: int = 4  # of the encoder of latents, and of the discriminator
    pair_feed: int = 4  # times out
    onset: bool = False  # whether the temporal tokens also tell where sounds begin


RELEASED = Size()


class Prior(nn.Module):
    """States of a caption (B, L, text) -> tokens of space (B, spatial, out) and of time (B, temporal, out).

    They are one draw of a diagonal Gaussian, in training and in sampling: a caption has another prior for each seed.  All states are
    read, as published: what follows the caption's end too.
    """

    def __init__(self, size: Size = RELEASED):
        super().__init__()
        self.size = size
        shape = {"d_model": size.dim, "nhead": size.heads, "batch_first": True}
        layer = {**shape, "dim_feedforward": size.feed * size.dim, "dropout": 0.0, "norm_first": True}
        encoder, decoder = nn.TransformerEncoderLayer(**layer, activation=Gelu()), nn.TransformerDecoderLayer(**layer, activation=functional.relu)
        self.spatial_query_emb = nn.Parameter(torch.randn(1, size.spatial, size.dim))
        self.temporal_query_emb = nn.Parameter(torch.randn(1, size.temporal, size.dim))
        self.in_proj = nn.Linear(size.text, size.dim)
        self.prior_extractor = nn.Transformer(
            **shape,
            custom_encoder=nn.TransformerEncoder(encoder, size.encoder_layers, nn.LayerNorm(size.dim), enable_nested_tensor=False),
            custom_decoder=nn.TransformerDecoder(decoder, size.decoder_layers, nn.LayerNorm(size.dim)),
        )
        self.out_proj = nn.Linear(size.dim, 2 * size.out)

    @property
    def tokens(self) -> int:
        return self.size.spatial + self.size.temporal

    def posterior(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L, text) -> mean and logarithm of the variance, each (B, spatial + temporal, out), single precision."""
        states = states.to(self.in_proj.weight.dtype)
        queries = torch.cat([self.spatial_query_emb, self.temporal_query_emb], 1).expand(len(states), -1, -1)
        mean, logvar = self.out_proj(self.prior_extractor(self.in_proj(states), queries)).float().chunk(2, -1)
        return mean, logvar.clamp(LOWEST, HIGHEST)

    def draw(self, mean: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """One draw, with standard normal `noise` of the mean's shape (None: torch's own), split into space and time."""
        noise = torch.randn_like(mean) if noise is None else noise.to(mean)
        return (mean + torch.exp(0.5 * logvar) * noise).split([self.size.spatial, self.size.temporal], 1)

    def forward(self, states: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return self.draw(*self.posterior(states), noise)


class Gelu(nn.Module):
    """By tanh while training, exact otherwise: outside training the published encoder was computed by PyTorch's fused layer, which knows
    the exact one only.

    The decoder was meant to have it, too; but where the activation is a module, PyTorch's decoder layer falls back to ReLU when it is
    copied, and so the released weights were trained with ReLU there.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(x, approximate="tanh" if self.training else "none")


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


# --- what only training needs ------------------------------------------------------------------------------------


class Pair(nn.Module):
    """Two sequences attend to each other (N, L, D), (N, M, D) -> what each takes of the other.

    One matrix of similarities, read by rows and by columns; it is never held as a whole.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.m1_proj, self.m2_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.values_m1_proj, self.values_m2_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out_m1_proj, self.out_m2_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        told, asked, values, others = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.m1_proj, one), (self.m2_proj, other), (self.values_m1_proj, one), (self.values_m2_proj, other))
        )
        first = functional.scaled_dot_product_attention(told, asked, others)
        second = functional.scaled_dot_product_attention(asked, told, values)
        return self.out_m1_proj(first.transpose(1, 2).flatten(2)), self.out_m2_proj(second.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, times: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, times * dim), nn.Linear(times * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(_gelu(self.fc1(x)))


class Merger(nn.Module):
    """Picture (N, L, D) and sound (N, M, D) of a slot -> one embedding (N, D)."""

    def __init__(self, dim: int, heads: int, times: int):
        super().__init__()
        self.cross_attn, self.mlp = Pair(dim, heads), Mlp(dim, times)

    def forward(self, video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        to_video, to_audio = self.cross_attn(_normed(video), _normed(audio))
        both = (video + to_video).mean(1) + (audio + to_audio).mean(1)
        return both + self.mlp(_normed(both))


def _normed(x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=EPS)


class SelfAttention(nn.Module):
    """With queries and keys of root mean square 1, times a learned gain."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = nn.RMSNorm(dim // heads, EPS), nn.RMSNorm(dim // heads, EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v).transpose(1, 2).flatten(2))


class Discriminator(nn.Module):
    """Tokens (N, L, D) -> (N,) logits: whether the prior and the clip whose tokens these are belong together."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.attn, self.classifier = SelfAttention(dim, heads), nn.Linear(dim, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return self.classifier(self.attn(whole)[:, 0])[:, 0]


class VideoPatches(nn.Module):
    def __init__(self, channels: int, dim: int, patch: int):
        super().__init__()
        self.proj = nn.Conv3d(channels, dim, (1, patch, patch), (1, patch, patch))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class Clips(NamedTuple):
    """Latents of B clips and of what is like them but for one thing, N of each kind (`avtools.augment`).

    `negatives`: "video-spatial", "video-temporal" (B, N, C, T, h, w), "audio-spatial", "audio-temporal" (B, N, C, T, M); those of one
    medium of the shape that the clips have.  `there` (same names, (B, N) bool): which of them are real; a kind that it lacks is
    all there.  `pixels`: height and width of the pictures, the same for the whole batch.
    """

    video: torch.Tensor  # (B, C, T, h, w)
    audio: torch.Tensor  # (B, C, T, M)
    negatives: dict[str, torch.Tensor]
    pixels: tuple[int, int]
    there: dict[str, torch.Tensor] | None = None


class View(NamedTuple):
    """Of "spatial" or "temporal": what the clip and its X - 1 negatives of this view are, the clip first.

    Then its picture with each sound that does not fit, then its sound with each picture that does not.
    """

    prior: torch.Tensor  # (B, tokens, D)
    embedding: torch.Tensor  # (B, X, tokens, D)
    logits: torch.Tensor  # (B, X), of the discriminator
    there: torch.Tensor  # (B, X) bool


class Trained(NamedTuple):
    """What :class:`TrainedPrior` makes of captions and clips."""

    mean: torch.Tensor
    logvar: torch.Tensor
    views: dict[str, View]
    onsets: torch.Tensor | None  # (B, temporal) logits


class TrainedPrior(Prior):
    """The prior with what it learns from: clips as latents, matching ones and such that do not match.

    With `clips`, :class:`Trained`, of which :mod:`.prior_losses` makes losses; without, as :class:`Prior`.
    """

    def __init__(self, size: Size = RELEASED):
        super().__init__(size)
        self.video_embedder = VideoPatches(size.video_channels, size.out, size.video_patch)
        self.audio_embedder = nn.Conv2d(size.audio_channels, size.out, size.audio_patch, size.audio_patch)
        self.va_spatial_encoder = Merger(size.out, size.pair_heads, size.pair_feed)
        self.va_temporal_encoder = Merger(size.out, size.pair_heads, size.pair_feed)
        self.discriminator = Discriminator(size.out, size.pair_heads)
        self.onset_predictor = nn.Linear(size.out, 1) if size.onset else None

    def forward(self, states: torch.Tensor, noise: torch.Tensor | None = None, clips: Clips | None = None):
        mean, logvar = self.posterior(states)
        priors = self.draw(mean, logvar, noise)
        if clips is None:
            return priors
        views = {name: self._view(name, prior, clips) for name, prior in zip(VIEWS, priors, strict=True)}
        onsets = None if self.onset_predictor is None else self.onset_predictor(priors[1].to(self.out_proj.weight.dtype))[..., 0]
        return Trained(mean, logvar, views, onsets)

    def _view(self, name: str, prior: torch.Tensor, clips: Clips) -> View:
        stretch, batch = self.spatial_view if name == "spatial" else self.temporal_view, len(prior)
        kinds, found = {medium: f"{medium}-{name}" for medium in ("video", "audio")}, {}
        for medium, kind in kinds.items():
            own, others = getattr(clips, medium), clips.negatives[kind]
            each = torch.cat([own[:, None], others], 1).flatten(0, 1)
            tokens = self.video_tokens(each, clips.pixels) if medium == "video" else self.audio_tokens(each)
            found[medium] = stretch(tokens).unflatten(0, (batch, -1))
        video, audio = found["video"], found["audio"]
        more = [one.shape[1] - 1 for one in (audio, video)]
        pictures = torch.cat([video[:, :1].expand(-1, 1 + more[0], -1, -1, -1), video[:, 1:]], 1)
        sounds = torch.cat([audio, audio[:, :1].expand(-1, more[1], -1, -1, -1)], 1)
        embedding = self.merged(name, pictures.flatten(0, 1), sounds.flatten(0, 1))
        known = prior.to(embedding.dtype)[:, None].expand(-1, 1 + sum(more), -1, -1).flatten(0, 1)
        logits = self.discriminator(torch.cat([known, embedding], 1))
        there = [torch.ones(batch, 1, dtype=torch.bool, device=prior.device)]
        for medium, count in zip(("audio", "video"), more, strict=True):
            real = (clips.there or {}).get(kinds[medium])
            there.append(there[0].expand(-1, count) if real is None else real.to(prior.device))
        return View(prior, embedding.unflatten(0, (batch, -1)), logits.unflatten(0, (batch, -1)), torch.cat(there, 1))

    def video_tokens(self, latents: torch.Tensor, pixels: tuple[int, int]) -> torch.Tensor:
        """(N, C, T, h, w), sides filled up to the patch with zeros -> (N, T, S, D).  `pixels`: height and width of the pictures."""
        patch = self.size.video_patch
        latents = functional.pad(latents.to(self.audio_embedder.weight.dtype), (0, -latents.shape[-1] % patch, 0, -latents.shape[-2] % patch))
        tokens = self.video_embedder(latents)
        place = positions.grid(*tokens.shape[-2:], self.size.out, pixels, SQUARE, tokens.device).to(tokens.dtype)
        return tokens.flatten(3).permute(0, 2, 3, 1) + place

    def audio_tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, C, T, M) -> (N, T // 2, M // 2, D); what is more than whole patches is left out (the codec's latents have none)."""
        tokens = self.audio_embedder(latents.to(self.audio_embedder.weight.dtype)).permute(0, 2, 3, 1)
        return tokens + positions.line(torch.arange(tokens.shape[2], device=tokens.device), self.size.out).to(tokens.dtype)

    def spatial_view(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, T, S, D) -> (N, T, spatial, D), the places in their order stretched or squeezed."""
        return _stretched(tokens, self.size.spatial)

    def temporal_view(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, T, S, D) -> (N, temporal, S, D)."""
        return _stretched(tokens.transpose(1, 2), self.size.temporal).transpose(1, 2)

    def merged(self, view: str, video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """Of pairs of the view's (N, T, S, D): "spatial" compares over time in each place, "temporal" over places at each time.

        -> (N, spatial or temporal, D).
        """
        if view == "spatial":
            video, audio, merger = video.transpose(1, 2), audio.transpose(1, 2), self.va_spatial_encoder
        else:
            merger = self.va_temporal_encoder
        return merger(video.flatten(0, 1), audio.flatten(0, 1)).unflatten(0, video.shape[:2])


def _stretched(x: torch.Tensor, count: int) -> torch.Tensor:
    """(N, A, B, D) -> (N, A, `count`, D), linearly."""
    flat = functional.interpolate(x.flatten(0, 1).transpose(1, 2), count, mode="linear")
    return flat.transpose(1, 2).unflatten(0, x.shape[:2])


# --- weights -----------------------------------------------------------------------------------------------------


#: What only training needs.
TRAINING = ("video_embedder.", "audio_embedder.", "va_spatial_encoder.", "va_temporal_encoder.", "discriminator.", "onset_predictor.")


class Found(NamedTuple):
    """A checkpoint of the prior: its tensors, its shape, those of ImageBind's text tower where it holds them (without prefix)."""

    tensors: dict
    size: Size
    text: dict
    where: pathlib.Path

    @property
    def trained(self) -> bool:
        """Whether the encoder of latents is in it, which training goes on with."""
        return any(name.startswith(TRAINING) for name in self.tensors)

    def make(self, training: bool = False) -> Prior:
        """The network, single precision, on the CPU: frozen, or with `training` a :class:`TrainedPrior`, which needs all of the tensors.

        FatalError lists what does not fit.
        """
        with torch.device("meta"):  # takes over the file's tensors
            net = TrainedPrior(self.size) if training else Prior(self.size).eval().requires_grad_(False)
        return fill(net, self)


def read(path, heads: int = RELEASED.heads) -> Found:
    """A released checkpoint: a file, or a folder with it or with the pieces of one.

    `heads`: of the transformer, which no shape tells.  FatalError where it is none.
    """
    tensors = {}
    for piece in pieces(path, GIVE):
        tensors |= hub.tensors(piece, "")
    return found(tensors, path, heads)


def found(tensors: dict, where, heads: int = RELEASED.heads) -> Found:
    """As :func:`read`, of named tensors."""
    text = {name.removeprefix(TEXT): tensor for name, tensor in tensors.items() if name.startswith(TEXT)}
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(TEXT)}
    size = told({name: tuple(tensor.shape) for name, tensor in own.items()}, where, heads)
    if size.dim % heads:
        raise FatalError(f"{where}: {size.dim} wide, which {heads} heads cannot share; {GIVE}")
    return Found(own, size, text, pathlib.Path(where))


def told(shapes: dict[str, tuple[int, ...]], where, heads: int = RELEASED.heads) -> Size:
    """The shape of the prior that tensors belong to."""
    try:
        (dim, text), out = shapes["in_proj.weight"], shapes["out_proj.weight"][0] // 2
        layers = {(match[1], int(match[2])) for name in shapes if (match := re.match(r"prior_extractor\.(encoder|decoder)\.layers\.(\d+)\.", name))}
        counts = {f"{stack}_layers": 1 + max(number for one, number in layers if one == stack) for stack in ("encoder", "decoder")}
        base = Size(
            text=text, dim=dim, heads=heads, **counts, feed=shapes["prior_extractor.encoder.layers.0.linear1.weight"][0] // dim, out=out,
            spatial=shapes["spatial_query_emb"][1], temporal=shapes["temporal_query_emb"][1], onset="onset_predictor.weight" in shapes,
        )  # fmt: skip
        if not any(name.startswith(TRAINING) for name in shapes):
            return base
        video, audio = shapes["video_embedder.proj.weight"], shapes["audio_embedder.weight"]
        return dataclasses.replace(
            base, video_channels=video[1], video_patch=video[-1], audio_channels=audio[1], audio_patch=audio[-1],
            pair_heads=out // shapes["discriminator.attn.q_norm.weight"][0], pair_feed=shapes["va_spatial_encoder.mlp.fc1.weight"][0] // out,
        )  # fmt: skip
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        why = f"no {error.args[0]}" if isinstance(error, KeyError) else error
        raise FatalError(f"{where}: not JavisDiT's prior ({why}; it has {some(shapes)}); {GIVE}") from None


def fill(net: Prior, found: Found) -> Prior:
    """Put a checkpoint into the network; into one that is not to be trained, what only training needs is passed over."""
    training = isinstance(net, TrainedPrior)
    kept = {name: tensor.float() for name, tensor in found.tensors.items() if training or not name.startswith(TRAINING)}
    if training and not found.trained:
        lacking = "holds the prior without what it was trained with, so training cannot go on from it"
        raise FatalError(f"{found.where}: {lacking}; give a whole checkpoint")
    hub.load_strict(net, kept, found.where)
    return net
