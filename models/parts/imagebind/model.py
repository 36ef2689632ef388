"""ImageBind's picture, sound and text towers, and the sound tower whose tokens AVSyncD attends to (Girdhar et al. 2023, arXiv 2305.05665).

Parameters have the names of the released file, less the modality: `modality_trunks.audio.blocks.0...` there is
`trunk.blocks.0...` of :class:`Audio` here, which is also how AVSyncD's `audio_encoder` folder has them.
"""

import dataclasses
from fractions import Fraction

import torch
from torch import nn
from torch.nn import functional

EPS = 1e-6  # of all LayerNorms but the patch stem's, which has torch's own 1e-5
PICTURE, PATCH = 224, 14  # pixels
BANDS, TIMES, MEL_PATCH, MEL_STEP = 128, 204, 16, 10  # of the log-mel picture, and its overlapping patches
ROWS, COLUMNS = (BANDS - MEL_PATCH) // MEL_STEP + 1, (TIMES - MEL_PATCH) // MEL_STEP + 1  # 12 of frequency, 19 of time
TOKENS = 1 + ROWS * COLUMNS
VOCABULARY, CONTEXT = 49408, 77  # of the text tower
MOST_SCALE = 100.0  # of the logit scales, applied and undone alike


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a tower: width of its tokens, blocks, attention heads, and width of the joint embedding."""

    dim: int
    blocks: int
    heads: int
    out_dim: int = 1024


#: imagebind_huge; numbers of heads leave no trace in a checkpoint.
HUGE = {"vision": Size(1280, 32, 16), "audio": Size(768, 12, 12), "text": Size(1024, 24, 16)}


class Attention(nn.Module):
    """Self-attention; `extra`: one learned key and value that every token may attend to."""

    def __init__(self, dim: int, heads: int, extra: bool, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight, self.in_proj_bias = nn.Parameter(torch.empty(3 * dim, dim)), nn.Parameter(torch.zeros(3 * dim))
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.bias_k = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5) if extra else None
        self.bias_v = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5) if extra else None
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        if self.bias_k is not None:
            k, v = (torch.cat([t, bias.to(t.dtype).expand(len(t), 1, -1)], 1) for t, bias in ((k, self.bias_k), (v, self.bias_v)))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.out_proj(functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block; `drop`: share of items whose branch is left out while training (stochastic depth)."""

    def __init__(self, dim: int, heads: int, extra: bool, causal: bool, drop: float = 0.0):
        super().__init__()
        self.attn, self.mlp, self.drop = Attention(dim, heads, extra, causal), Mlp(dim), drop
        self.norm_1, self.norm_2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._kept(self.attn(self.norm_1(x)))
        return x + self._kept(self.mlp(self.norm_2(x)))

    def _kept(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.drop:
            return branch
        return branch * torch.bernoulli(branch.new_full((len(branch), 1, 1), 1 - self.drop)) / (1 - self.drop)


class Trunk(nn.Module):
    """`drop_path`: of the last block, growing evenly from 0 at the first."""

    def __init__(self, size: Size, norm_first: bool = False, extra: bool = False, causal: bool = False, drop_path: float = 0.0):
        super().__init__()
        if norm_first:
            self.pre_transformer_layer = nn.Sequential(nn.LayerNorm(size.dim, EPS))
        drops = [drop_path * k / max(1, size.blocks - 1) for k in range(size.blocks)]
        self.blocks = nn.ModuleList(Block(size.dim, size.heads, extra, causal, drop) for drop in drops)
        self.norm_first = norm_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm_first:
            x = self.pre_transformer_layer(x)
        for block in self.blocks:
            x = block(x)
        return x


class First(nn.Module):
    """The class token."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


class Unit(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(x, dim=-1)


class Scale(nn.Module):
    """The logit scale: exp of what the checkpoint holds, at most 100."""

    def __init__(self):
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.tensor(3.0), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale

    @property
    def scale(self) -> torch.Tensor:
        return self.log_logit_scale.exp().clamp(max=MOST_SCALE)


class Tower(nn.Module):
    """What the three share; `item_dims`: dimensions of one item of the input, behind the batch's."""

    item_dims = 3
    scaled = True  # whether the released output is multiplied by a logit scale

    def __init__(self, size: Size):
        super().__init__()
        self.size = size
        self.head = nn.Sequential(nn.LayerNorm(size.dim, EPS), First(), nn.Linear(size.dim, size.out_dim, bias=False))
        self.postprocessor = nn.Sequential(Unit(), Scale()) if self.scaled else nn.Sequential(Unit())

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """What enters the transformer, (B, N, dim)."""
        raise NotImplementedError

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What leaves it, (B, N, dim); no norm follows the last block."""
        return self.trunk(self.tokens(x))

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """The joint embedding (B, out_dim), neither of unit length nor scaled."""
        return self.head(self.hidden(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The released output (B, out_dim): of unit length, times the logit scale where the tower has one.

        With one dimension more than a batch of items has, (B, K, ...), the mean of the K clips' outputs, as released.
        """
        if x.dim() <= 1 + self.item_dims:
            return self.postprocessor(self.embed(x))
        return self.postprocessor(self.embed(x.flatten(0, 1))).unflatten(0, x.shape[:2]).mean(1)


class _Stem(nn.Module):
    def __init__(self, proj: nn.Module, dim: int | None = None):
        super().__init__()
        self.proj = proj
        if dim is not None:
            self.norm_layer = nn.LayerNorm(dim)


class _Positions(nn.Module):
    def __init__(self, count: int, dim: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, count, dim) * 0.02)


class Patches(nn.Module):
    """Names of what both patched modalities have: the class token, the stem, the positions."""

    def __init__(self, stem: nn.Module, count: int, dim: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.rgbt_stem, self.pos_embedding_helper = stem, _Positions(count, dim)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, N, dim) -> (B, 1 + N, dim)."""
        whole = torch.cat([self.cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches], 1)
        return whole + self.pos_embedding_helper.pos_embed


class Vision(Tower):
    """Stills (B, 3, 224, 224) after :func:`..frames.clip_normalise`, or (B, K, 3, 224, 224); films of two pictures as
    (B, K, 3, 2, 224, 224) -> (B, out_dim).  A still is what a film of it twice would be.
    """

    scaled = False

    def __init__(self, size: Size):
        super().__init__(size)
        conv = nn.Conv3d(3, size.dim, (2, PATCH, PATCH), (2, PATCH, PATCH), bias=False)
        self.preprocessor = Patches(_Stem(nn.Sequential(nn.Identity(), conv)), 1 + (PICTURE // PATCH) ** 2, size.dim)
        self.trunk = Trunk(size, norm_first=True)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.preprocessor.rgbt_stem.proj[1]
        if x.dim() == 4:  # both pictures alike: one convolution by the sum of both kernels
            patches = functional.conv2d(x, conv.weight.sum(2), stride=PATCH)
        else:
            patches = conv(x)
        return self.preprocessor(patches.flatten(2).transpose(1, 2))


class Audio(Tower):
    """Normalised log-mel pictures (B, 1, 128, 204) of 2 s each, or (B, K, 1, 128, 204) -> (B, out_dim).

    :meth:`hidden` gives the class token and 12 x 19 patches, frequency by frequency: (B, 229, dim).  `drop_path`: of the
    last block, in training mode only (the original left it on in a frozen tower: 0.1).
    """

    def __init__(self, size: Size, drop_path: float = 0.0):
        super().__init__(size)
        conv = nn.Conv2d(1, size.dim, MEL_PATCH, MEL_STEP, bias=False)
        self.preprocessor = Patches(_Stem(conv, size.dim), TOKENS, size.dim)
        self.trunk = Trunk(size, extra=True, drop_path=drop_path)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.preprocessor.rgbt_stem
        return self.preprocessor(stem.norm_layer(stem.proj(x).flatten(2).transpose(1, 2)))


class SegmentAudio(Audio):
    """AVSyncD's sound encoder: (B, 1, 128, 204) -> all 229 tokens after a LayerNorm, (B, 229, dim).

    The published one makes that norm anew (identity); a checkpoint that holds one brings its own.
    """

    def __init__(self, size: Size, drop_path: float = 0.0):
        super().__init__(size, drop_path)
        self.final_layer_norm = nn.LayerNorm(size.dim, EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.final_layer_norm(self.hidden(x))


class _TextTokens(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, dim)
        self.pos_embed = nn.Parameter(torch.randn(1, CONTEXT, dim) * 0.01)


class _TextHead(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.proj = nn.Sequential(nn.LayerNorm(size.dim, EPS), nn.Linear(size.dim, size.out_dim, bias=False))


class Text(Tower):
    """Byte-pair ids (B, 77) of :func:`.text.tokenize` -> (B, out_dim), read where the text ends: at its largest id."""

    item_dims = 1

    def __init__(self, size: Size):
        super().__init__(size)
        self.preprocessor, self.trunk, self.head = _TextTokens(size.dim), Trunk(size, causal=True), _TextHead(size)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.preprocessor.token_embedding(x) + self.preprocessor.pos_embed

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        ends = x.argmax(-1)
        return self.head.proj(self.hidden(x)[torch.arange(len(x), device=x.device), ends])


TOWERS = {"vision": Vision, "audio": Audio, "text": Text}


class ImageBind(nn.Module):
    """Some of the towers: attributes `vision`, `audio`, `text`, None where not wanted."""

    def __init__(self, sizes: dict[str, Size] | None = None, modalities=tuple(TOWERS)):
        super().__init__()
        for modality, tower in TOWERS.items():
            setattr(self, modality, tower((sizes or HUGE)[modality]) if modality in modalities else None)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Modality -> input, to modality -> the released output."""
        return {modality: getattr(self, modality)(x) for modality, x in inputs.items()}


def cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cosines (...) of embeddings (..., D), whatever their lengths and logit scales; the shapes broadcast."""
    return (functional.normalize(one.float(), dim=-1) * functional.normalize(other.float(), dim=-1)).sum(-1)


# --- which tokens belong to which frame ---------------------------------------------------------------------------


def segment_columns(frames: int) -> list[range]:
    """The time columns that each of `frames` frames hears: ceil(19 / frames) of them, starts spread evenly and rounded."""
    count = -(-COLUMNS // frames)
    last = COLUMNS - count
    begins = [round(Fraction(last * k, max(1, frames - 1))) for k in range(frames)]
    return [range(begin, begin + count) for begin in begins]


def segment_tokens(frames: int) -> torch.Tensor:
    """(frames, 1 + 12 ceil(19 / frames)) ascending: the numbers of the tokens that each frame attends to, int64."""
    return torch.tensor([[0, *(1 + row * COLUMNS + column for row in range(ROWS) for column in columns)] for columns in segment_columns(frames)])


def segment_mask(frames: int = 12) -> torch.Tensor:
    """(frames, 229) bool, True = attend: the class token and the frame's time columns at all 12 frequencies."""
    return torch.zeros(frames, TOKENS, dtype=torch.bool).scatter_(1, segment_tokens(frames), True)
