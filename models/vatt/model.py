"""VATT Audio: a bidirectional transformer that predicts masked sound tokens (spec VATT, section 3; Liu et al. 2024, arXiv:2411.05679).

Rows: those of the condition (a language model's last states), then one for each frame of sound tokens.  Ours beside the published
form: positions that do not depend on padding, heads that predict the tokens of their own row, and features of the picture added to
the audio rows of their time.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from avtools.models.vatt.attention import Around, Stack, alibi

LAYOUTS = ("aligned", "legacy")  # which token a head's row predicts: see `masking`
POSITIONS = ("own", "padded")


@dataclasses.dataclass
class Size:
    """The network's shape; the defaults are the published Vicuna form but for `layout` and `positions`."""

    dim: int = 1024
    first_blocks: int = 12  # of the stack in two ways
    second_blocks: int = 12
    first_heads: int = 16
    second_heads: int = 16
    head_dim: int = 64
    feed: int = 4  # width of feed-forward layers, times dim
    latent: int = 128  # of a code's vector
    levels: int = 4  # tokens of a frame
    codes: int = 2048  # of a level; the next number is MASK
    condition: int = 4096  # width of the language model
    dropout: float = 0.1
    layout: str = "aligned"  # head k's row t predicts level k of frame t | legacy: as released weights do
    positions: str = "own"  # counted without padding | padded: as released weights do, so that a batch's padding changes its items
    visual: int = 0  # width of the pictures' features that are added to the audio rows of their time; 0: none
    visual_rate: float = 5.0  # of these features, per second
    rate: float = 50.0  # frames of tokens per second


def positions(rows: int, dim: int, device=None) -> torch.Tensor:
    """(rows, dim) fixed table: the sines of all frequencies, then the cosines; base 10000."""
    half = dim // 2
    turn = torch.arange(rows, device=device, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(half, device=device, dtype=torch.float64) / half)
    return torch.cat([turn.sin(), turn.cos()], 1).float()


def resampled(features: torch.Tensor, fps: float, rows: int, rate: float) -> torch.Tensor:
    """(B, F, D) features of pictures taken at i / `fps` s -> (B, `rows`, D) at the middles of rows of 1 / `rate` s.

    Linear between the two pictures around; before the first and after the last that one alone.
    """
    last = features.shape[1] - 1
    place = ((torch.arange(rows, device=features.device, dtype=torch.float32) + 0.5) * (fps / rate)).clamp(max=last)
    low = place.floor().long()
    share = (place - low)[:, None].to(features.dtype)
    return torch.lerp(features[:, low], features[:, (low + 1).clamp(max=last)], share)


@dataclasses.dataclass
class Condition:
    """What a batch is conditioned on, as the network takes it; made once, used for each step of decoding."""

    rows: torch.Tensor  # (B, L, dim): projected, with positions and modality
    counts: torch.Tensor | None  # (B, L) bool, False: padding; None: there is none
    begins: torch.Tensor  # (B,) position of the first audio row
    visual: torch.Tensor | None  # (B, F, dim)
    biases: dict = dataclasses.field(default_factory=dict)  # (heads, rows, dtype) -> as :func:`alibi`


class AudioNet(nn.Module):
    """tokens (B, K, T) with MASK where they are sought, states (B, L, C) -> logits (B, K, T, V): head k, row t; in memory row by row.

    `mask` (B, L), True or 1 where `states` count, None where all do; `keep` (B,) bool, False: without the condition (null branch of
    guidance); `visual` (B, F, E) where the size has `visual`.  `codebooks` (K, V, latent): the codec's, frozen.
    """

    def __init__(self, size: Size, checkpointing: bool = False):
        super().__init__()
        self.size = size
        first, second = (
            Stack(size.dim, blocks, heads, size.head_dim, size.feed * size.dim, size.dropout, ways, checkpointing)
            for blocks, heads, ways in ((size.first_blocks, size.first_heads, True), (size.second_blocks, size.second_heads, False))
        )
        self.first, self.second = first, second
        self.register_buffer("codebooks", torch.zeros(size.levels, size.codes, size.latent))
        self.mask = nn.Parameter(torch.randn(size.levels, size.latent))
        self.embed = nn.Linear(size.latent, size.dim)
        self.project = nn.Linear(size.condition, size.dim)
        self.condition_modality = nn.Parameter(0.02 * torch.randn(size.dim))
        self.audio_modality = nn.Parameter(0.02 * torch.randn(size.dim))
        self.heads = nn.Linear(size.dim, size.levels * size.codes, bias=False)  # one behind the other
        self.visual = nn.Linear(size.visual, size.dim) if size.visual else None

    def forward(self, tokens, states, mask=None, keep=None, visual=None):
        return self.logits(tokens, self.conditioned(states, mask, keep, visual))

    def conditioned(self, states, mask=None, keep=None, visual=None) -> Condition:
        batch, length = states.shape[:2]
        rows, counts = self.project(states), None
        begins = torch.full((batch,), length, device=rows.device)
        if keep is not None:
            rows = rows * keep.to(rows)[:, None, None]
        table = positions(length, self.size.dim, rows.device).to(rows.dtype)
        if mask is not None:
            counts = mask.bool()
        if counts is None or self.size.positions == "padded":
            rows = rows + table
        else:
            # padding first, then all that counts: distances, like positions, are then those without padding, whatever the batch
            order = counts.long().argsort(dim=1, stable=True)
            begins = counts.sum(1)
            rows = rows.gather(1, order[..., None].expand_as(rows))
            counts = counts.gather(1, order)
            rows = rows + table[(counts.cumsum(1) - 1).clamp(min=0)]
        if self.visual is not None:
            if visual is None:
                raise ValueError("this network adds features of the picture to its audio rows: give visual")
            visual = self.visual(visual)
            if keep is not None:
                visual = visual * keep.to(visual)[:, None, None]
        return Condition(rows + self.condition_modality, counts, begins, visual if self.visual is not None else None)

    def embedded(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, K, T) tokens, MASK among them -> (B, T, dim): the sum of the levels' vectors, projected."""
        tables = torch.cat([self.codebooks.to(self.mask.dtype), self.mask[:, None]], 1).flatten(0, 1)
        begins = torch.arange(self.size.levels, device=tokens.device)[:, None] * (self.size.codes + 1)
        latents = functional.embedding(tokens[:, 0] + begins[0], tables)
        for level in range(1, self.size.levels):
            latents = latents + functional.embedding(tokens[:, level] + begins[level], tables)
        return self.embed(latents)

    def logits(self, tokens: torch.Tensor, condition: Condition) -> torch.Tensor:
        size, (batch, length), frames = self.size, condition.rows.shape[:2], tokens.shape[-1]
        sound = self.embedded(tokens)
        table = positions(length + frames, size.dim, sound.device).to(sound.dtype)
        places = condition.begins[:, None] + torch.arange(frames, device=sound.device)
        sound = sound + table[places] + self.audio_modality
        if condition.visual is not None:
            sound = sound + resampled(condition.visual, size.visual_rate, frames, size.rate)
        x = functional.dropout(torch.cat([condition.rows, sound], 1), size.dropout, self.training)
        counts = condition.counts
        if counts is not None:
            counts = torch.cat([counts, counts.new_ones(batch, frames)], 1)
        for stack in (self.first, self.second):
            x = stack(x, length, Around(self._bias(condition, stack.heads, x), counts))
        return self.heads(x[:, length:]).unflatten(-1, (size.levels, size.codes)).transpose(1, 2)

    @staticmethod
    def _bias(condition: Condition, heads: int, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        which = heads, x.shape[1], dtype
        if which not in condition.biases:
            condition.biases[which] = alibi(heads, x.shape[1], x.device, dtype)
        return condition.biases[which]
