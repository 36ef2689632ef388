"""The attention mosaic: each source's sound shapes its own part of the picture (spec: MAESTRO, section 2).

A prompt's context holds the tokens of all sources side by side, where the prompt ends.  In the first steps of sampling (phase
"soft") the logits of a source's tokens are raised in its box and lowered elsewhere, which settles where things are; in the rest
(phase "hard") a pixel sees the tokens of the source that it belongs to, and no others.  The original attends region by region and
stitches; here one masked pass does it for any number of sources, boxes and frames.  Keys and values depend on the prompt alone:
each layer makes them once for all steps.
"""

import contextlib
import dataclasses
import functools

import torch
from torch.nn import functional

from avtools.models.maestro.regions import Regions

PHASES = ("none", "soft", "hard")
#: Forms of the original: bumps in half precision, and one maximum of logits for all samples of a batch.
LEGACY = frozenset({"maps", "maximum"})


@dataclasses.dataclass(frozen=True)
class Scene:
    """One sample: where its sources are, and where their tokens are in its context: `count` of each, the first source's from position
    `first` on, then the second's and so on."""

    regions: Regions
    first: int = 1
    count: int = 10

    @property
    def slots(self) -> slice:
        """The positions of all sources' tokens."""
        return slice(self.first, self.first + self.count * len(self.regions))

    def slots_of(self, source: int) -> slice:
        return slice(self.first + self.count * source, self.first + self.count * (source + 1))


# --- the two phases ---------------------------------------------------------------------------------------------------


def soften(logits, bumps, scene: Scene, strengthen: float = 0.5, weaken: float = 0.05, highest=None, half: bool = False):
    """Edit a sample's logits in place: (T, heads, P, L) of frames, heads, pixels, tokens; `bumps` (S, T or 1, P) float32.

    A source's tokens get `strengthen` times (its own bump less those of the others) times the `highest` logit (None: of these);
    where that is zero, outside all boxes, they are first multiplied by `weaken`.  `half`: bumps and `weaken` are in half precision,
    as the original has them.  Other tokens stay.  Returns the logits.
    """
    highest = logits.detach().amax() if highest is None else highest
    dtype = torch.half if half else torch.float32
    raised = (bumps.to(dtype).float() * highest).to(dtype)
    for source in range(len(raised)):
        drawn = raised[source]
        for other in (*range(source), *range(source + 1, len(raised))):
            drawn = drawn - raised[other]
        drawn = drawn[:, None, :, None]
        own = logits[..., scene.slots_of(source)]
        own *= torch.where(drawn != 0, 1.0, torch.tensor(weaken, dtype=dtype, device=drawn.device)).to(own.dtype)
        own += (drawn * strengthen).to(own.dtype)
    return logits


def allowed(owners, length: int, scene: Scene):
    """Which tokens each pixel sees in phase "hard": bool (T, P, length + S * count) for `owners` int64 (T, P), of those whose pixels are
    nobody's (-1) all tokens of the base prompt, of the others its own source's tokens in the place of the first `count` slots.

    Tokens: all `length` of the base prompt, then the sources'.
    """
    sources = len(scene.regions)
    base = torch.ones(*owners.shape, length, dtype=torch.bool, device=owners.device)
    base[..., scene.slots_of(0)] = (owners < 0)[..., None]
    own = owners[..., None] == torch.arange(sources, device=owners.device)
    return torch.cat([base, own.repeat_interleave(scene.count, -1)], -1)


# --- in a network -----------------------------------------------------------------------------------------------------


def spatial_layers(unet) -> dict[str, torch.nn.Module]:
    """Name -> attention layer of diffusers' UNets in which a frame's pixels attend to the prompt."""
    return {name: module for name, module in unet.named_modules() if name.endswith(".attn2") and ".attentions." in f".{name}"}


class Mosaic:
    """The mosaic of a batch of scenes, for one run of a sampler.

    `base`: the prompts without sources, (B, L, D) or, where frames differ, (B, T, L, D); `size`: rows and columns of the latents.
    In ``with mosaic.on(unet, before)`` each call of the network has the mosaic of the current :attr:`phase` in all its spatial
    attention to the prompt, for the samples of its batch after the first `before`, which are the unconditional ones; it is
    always called with the same prompts, whose keys and values are kept until the end.  `soft_steps`: see :meth:`at`.

    `legacy`: of :data:`LEGACY`.  Without it a sample's result does not depend on the others in its batch.
    """

    def __init__(self, scenes, base, frames: int, size, *, strengthen=0.5, weaken=0.05, soft_steps: int = 6, legacy=frozenset()):
        if len(base) != len(scenes) or base.dim() not in (3, 4) or base.dim() == 4 and base.shape[1] != frames:
            raise ValueError(f"base prompts {tuple(base.shape)} for {len(scenes)} scenes of {frames} frames")
        if set(legacy) - LEGACY:
            raise ValueError(f"{', '.join(sorted(set(legacy) - LEGACY))}: of {', '.join(sorted(LEGACY))}")
        for scene in scenes:
            if scene.slots.stop > base.shape[-2]:
                raise ValueError(f"{len(scene.regions)} sources of {scene.count} tokens from position {scene.first} on: the prompt has {base.shape[-2]}")
        self.scenes, self.base, self.frames, self.size = tuple(scenes), base, frames, tuple(size)
        self.strengthen, self.weaken, self.soft_steps, self.legacy = strengthen, weaken, soft_steps, frozenset(legacy)
        self._phase, self._before, self._kept = "none", 0, {}

    @property
    def phase(self) -> str:
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        if phase not in PHASES:
            raise ValueError(f"{phase}: of {', '.join(PHASES)}")
        if phase != self._phase:  # what the other phases alone need
            gone = {"edited"} if phase == "hard" else {"hard", "mask"}
            self._kept = {key: value for key, value in self._kept.items() if key[0] not in gone}
        self._phase = phase

    def at(self, step: int) -> str:
        """Begin a step of the sampler, from 0: soft in the first `soft_steps`, then hard.  Returns the phase."""
        self.phase = "soft" if step < self.soft_steps else "hard"
        return self.phase

    @contextlib.contextmanager
    def on(self, unet, before: int = 0):
        """While it lasts, `unet` has this mosaic."""
        layers = spatial_layers(unet)
        if not layers:
            raise ValueError("the network has no spatial attention to a prompt")
        for name, layer in layers.items():
            if any(getattr(layer, part, None) is not None for part in ("group_norm", "spatial_norm", "norm_cross", "added_kv_proj_dim")):
                raise ValueError(f"{name}: is no plain attention to a prompt")
        previous = {name: layer.processor for name, layer in layers.items()}
        self._before = before
        try:
            for name, layer in layers.items():
                layer.set_processor(_Processor(self, name))
            yield self
        finally:
            for name, layer in layers.items():
                layer.set_processor(previous[name])
            self._kept.clear()

    # --- what is made once

    def _keep(self, *key, make):
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _grid(self, pixels: int) -> tuple[int, int]:
        """Rows and columns of so many pixels: of the latents, halved as often as a UNet does it."""
        high, wide = self.size
        while high * wide > pixels:
            high, wide = -(-high // 2), -(-wide // 2)
        if high * wide != pixels:
            raise ValueError(f"{pixels} pixels are no reduction of latents of {self.size[0]}x{self.size[1]}")
        return high, wide

    def _bumps(self, number: int, pixels: int, device):
        regions = self.scenes[number].regions
        return torch.from_numpy(regions.bumps(self._grid(pixels), self.frames)).flatten(2).to(device)

    def _mask(self, pixels: int, length: int, device, dtype):
        """(B or 1, T or 1, 1, P, N): 0 where a pixel sees a token, else -inf.  B and T are 1 where all are alike."""
        alike = all(scene == self.scenes[0] for scene in self.scenes)
        made = []
        for scene in self.scenes[:1] if alike else self.scenes:
            owners = torch.from_numpy(scene.regions.owners(self._grid(pixels), self.frames)).flatten(1)
            made.append(allowed(owners, length, scene))
        frames, most = max(len(one) for one in made), max(one.shape[-1] for one in made)
        # rows of whole multiples of 8, which kernels can read as they are
        seen = torch.zeros(len(made), frames, 1, pixels, -(-most // 8) * 8, dtype=torch.bool)
        for number, one in enumerate(made):
            seen[number, :, 0, :, : one.shape[-1]] = one
        return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen.to(device), float("-inf"))[..., :most]

    # --- a layer's call

    def _attend(self, name: str, layer, hidden, context):
        """(B' T, P, C) pixels and (B' T, L, D) prompts, B' = `before` + B -> (B' T, P, C) before the layer's last map."""
        frames, before = self.frames, self._before
        if len(hidden) != (before + len(self.scenes)) * frames:
            raise ValueError(f"{len(hidden)} frames: a mosaic of {len(self.scenes)} samples of {frames} frames, {before} before them")
        found = torch.empty_like(query := self._heads(layer, layer.to_q(hidden), layer.norm_q))
        plain, edited = slice(None, before * frames), slice(before * frames, None)
        if before:
            keys = self._keep("plain", name, make=lambda: self._keys(layer, context[plain]))
            found[plain] = functional.scaled_dot_product_attention(query[plain], *keys, scale=layer.scale)
        if self.phase == "hard":
            keys = self._keep("hard", name, make=lambda: self._hard_keys(layer, context[edited]))
            length, pixels = self.base.shape[-2], query.shape[2]
            make = functools.partial(self._mask, pixels, length, query.device, query.dtype)
            mask = self._keep("mask", pixels, make=make).expand(len(self.scenes), frames, -1, -1, -1).flatten(0, 1)
            found[edited] = functional.scaled_dot_product_attention(query[edited], *keys, attn_mask=mask, scale=layer.scale)
        else:
            keys = self._keep("edited", name, make=lambda: self._keys(layer, context[edited]))
            if self.phase == "soft":
                self._soft(layer, query[edited], *keys, found[edited])
            else:
                found[edited] = functional.scaled_dot_product_attention(query[edited], *keys, scale=layer.scale)
        return found.transpose(1, 2).flatten(2)

    def _soft(self, layer, query, key, value, out) -> None:
        """Phase "soft", a sample at a time: its logits are the largest thing that is in memory."""
        pixels, highest = query.shape[2], None
        frames, several = self.frames, len(self.scenes) > 1

        def logits(rows: slice):
            with torch.autocast(query.device.type, enabled=False):  # a half's last bits are more than what is edited
                return query[rows].float() * layer.scale @ key[rows].float().transpose(-1, -2)

        if "maximum" in self.legacy and several:
            highest = torch.stack([logits(slice(row, row + 1)).amax() for row in range(len(query))]).amax()
        for number, scene in enumerate(self.scenes):
            rows = slice(number * frames, (number + 1) * frames)
            bumps = self._keep("bumps", number, pixels, make=functools.partial(self._bumps, number, pixels, query.device))
            edited = soften(logits(rows), bumps, scene, self.strengthen, self.weaken, highest, "maps" in self.legacy)
            out[rows] = edited.softmax(-1).to(value.dtype) @ value[rows]

    def _keys(self, layer, context):
        """Keys and values (N, heads, L, d) of prompts (N, L, D)."""
        return self._heads(layer, layer.to_k(context), layer.norm_k), self._heads(layer, layer.to_v(context))

    def _hard_keys(self, layer, context):
        """Keys and values of the base prompts and behind them those of the sources' tokens, (B T, heads, N, d)."""
        most = max(scene.slots.stop - scene.first for scene in self.scenes)
        tokens = context.new_zeros(len(context), most, context.shape[-1])
        for number, scene in enumerate(self.scenes):
            rows = slice(number * self.frames, (number + 1) * self.frames)
            tokens[rows, : scene.slots.stop - scene.first] = context[rows, scene.slots]
        base = self.base.to(context.device, context.dtype)
        made = []
        for own, ours in zip(self._keys(layer, base.flatten(0, -3)), self._keys(layer, tokens)):
            own = own.unflatten(0, (len(self.scenes), -1)).expand(-1, self.frames, *(-1,) * 3).flatten(0, 1)
            made.append(torch.cat([own, ours], 2))
        return tuple(made)

    @staticmethod
    def _heads(layer, x, norm=None):
        x = x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        return x if norm is None else norm(x)


class _Processor:
    """What diffusers' attention layers call."""

    def __init__(self, mosaic: Mosaic, name: str):
        self.mosaic, self.name = mosaic, name

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        if encoder_hidden_states is None or attention_mask is not None:
            raise ValueError(f"{self.name}: a mosaic needs a prompt, whole")
        found = self.mosaic._attend(self.name, attn, hidden_states, encoder_hidden_states).to(hidden_states.dtype)
        for part in attn.to_out:
            found = part(found)
        found = found + hidden_states if attn.residual_connection else found
        return found / attn.rescale_output_factor
