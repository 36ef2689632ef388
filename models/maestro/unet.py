"""The video network: diffusers' UNet3DConditionModel with the context of each frame, and VideoCrafter2's frame rate (spec MAESTRO, section 3).

VideoCrafter2's UNet is that class but for a second MLP, of the frame rate, whose output is added to the time's;
:func:`from_released` gives its names to the published ones.  Any text-to-video UNet of this class serves as well.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import TimestepEmbedding
from torch.utils.checkpoint import checkpoint

from avtools.models.maestro.config import UNET

ROWS = 65535  # that kernels of attention take at once, where time is attended to: one for each pixel of each video
FPS = 8  # frames per second that VideoCrafter2 is told where nothing else is


class VideoUnet(UNet3DConditionModel):
    """Noisy latents of a video, a time and the context of each frame -> the prediction, of the same shape.

    `settings`: fields of :data:`UNET`, those left out as in diffusers; `fps_mlp` adds the frame rate's MLP.
    Raises ValueError (of diffusers) where settings do not fit together.
    """

    _supports_gradient_checkpointing = True

    def __init__(self, fps_mlp: bool = False, **settings):
        super().__init__(**settings)
        self.register_to_config(fps_mlp=fps_mlp)
        self.gradient_checkpointing = False
        if fps_mlp:
            width = self.config.block_out_channels[0]
            self.fps_embedding = TimestepEmbedding(width, 4 * width, act_fn=self.config.act_fn)
        for name, module in self.named_modules():
            if re.search(r"(^|\.)(transformer_in|temp_attentions\.\d+)\..*attn[12]$", name):
                module.set_processor(_OverTime())

    @property
    def context_dim(self) -> int:
        return self.config.cross_attention_dim

    @property
    def multiple(self) -> int:
        """Heights and widths of latents that are multiples of this halve evenly at every level."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def enable_gradient_checkpointing(self, *_) -> None:
        """Recompute whole blocks in the backward pass; diffusers' switch would recompute the transformers in them once more."""
        self.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        self.gradient_checkpointing = False

    def embed(self, timestep: torch.Tensor, fps: torch.Tensor | float | None, batch: int) -> torch.Tensor:
        """(B, 4 width) of the times and, where the network has its MLP, the frame rates; both sines are single precision."""
        made = self.time_embedding(self.time_proj(_each(timestep, batch, self.device)).to(self.dtype))
        if self.config.fps_mlp:
            made = made + self.fps_embedding(self.time_proj(_each(FPS if fps is None else fps, batch, self.device)).to(self.dtype))
        return made

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor,
        fps: torch.Tensor | float | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """(B, C, T, H, W) -> (B, C, T, H, W), any T, H and W.

        `timestep` (B,) or a number; `encoder_hidden_states` (B, L, D), of all frames, or (B, T, L, D), of each;
        `fps` (B,) or a number, 8 where it is None; a network without the MLP does not look at it.
        `cross_attention_kwargs` goes to the attention processors of the blocks.
        """
        batch, _, frames, *_ = sample.shape
        context = encoder_hidden_states
        context = context.flatten(0, 1) if context.dim() == 4 else context.repeat_interleave(frames, 0)
        if len(context) != batch * frames:
            raise ValueError(f"context {tuple(encoder_hidden_states.shape)} of {batch} videos of {frames} frames")
        time = self.embed(timestep, fps, batch).repeat_interleave(frames, 0)
        given = {"encoder_hidden_states": context, "cross_attention_kwargs": cross_attention_kwargs}

        def run(block, hidden, **more):
            more |= given if getattr(block, "has_cross_attention", False) else {}
            if self.gradient_checkpointing and torch.is_grad_enabled():
                return checkpoint(block, hidden, temb=time, num_frames=frames, use_reentrant=False, **more)
            return block(hidden, temb=time, num_frames=frames, **more)

        hidden = self.conv_in(sample.transpose(1, 2).flatten(0, 1))
        hidden = self.transformer_in(hidden, num_frames=frames, return_dict=False)[0]
        skips = [hidden]
        for block in self.down_blocks:
            hidden, made = run(block, hidden)
            skips += made
        hidden = run(self.mid_block, hidden)
        for block in self.up_blocks:
            count = len(block.resnets)
            taken, skips = tuple(skips[-count:]), skips[:-count]
            # odd sizes were rounded up on the way down; doubling alone would not meet the next skip
            hidden = run(block, hidden, res_hidden_states_tuple=taken, upsample_size=skips[-1].shape[2:] if skips else None)
        hidden = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return hidden.unflatten(0, (batch, frames)).transpose(1, 2)


class _OverTime(AttnProcessor2_0):
    """Self-attention of rows that are too many for one kernel."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        made = [super(_OverTime, self).__call__(attn, some, encoder_hidden_states, attention_mask, temb) for some in hidden_states.split(ROWS)]
        return made[0] if len(made) == 1 else torch.cat(made)


def _each(value: torch.Tensor | float, batch: int, device) -> torch.Tensor:
    """(B,) of a number or (B,)."""
    return torch.as_tensor(value, device=device).expand(batch)


# --- VideoCrafter2's names --------------------------------------------------------------------------------------

_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TOP = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "fps_embedding.0": "fps_embedding.linear_1",
    "fps_embedding.2": "fps_embedding.linear_2",
    "init_attn.0": "transformer_in",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def released_settings(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The fields of :data:`UNET` that published names and shapes tell, `shapes` without their prefix; ValueError where they are no such UNet.

    What no shape tells is as released: groups of the norms, epsilon, paddings.
    """
    try:
        levels, per_level, attends, width = 1, [0], [False], []
        for number in range(1, 1 + max(int(match[1]) for match in map(re.compile(r"input_blocks\.(\d+)\.").match, shapes) if match)):
            begin = f"input_blocks.{number}."
            if f"{begin}0.op.weight" in shapes:
                levels += 1
                per_level.append(0)
                attends.append(False)
                continue
            per_level[-1] += 1
            attends[-1] |= f"{begin}1.proj_in.weight" in shapes
            width[levels - 1 :] = [shapes[f"{begin}0.out_layers.3.weight"][0]]
        if len(set(per_level)) > 1 or len(width) != levels:
            raise ValueError(f"{per_level} residual blocks in the levels")
        middle = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        return {
            **UNET,
            "in_channels": shapes["input_blocks.0.0.weight"][1],
            "out_channels": shapes["out.2.weight"][0],
            "down_block_types": ["CrossAttnDownBlock3D" if one else "DownBlock3D" for one in attends],
            "up_block_types": ["CrossAttnUpBlock3D" if one else "UpBlock3D" for one in reversed(attends)],
            "block_out_channels": width,
            "layers_per_block": per_level[0],
            "cross_attention_dim": shapes[middle][1],
            "attention_head_dim": shapes["init_attn.0.proj_in.weight"][0] // 8,  # its heads are always 8
            "fps_mlp": "fps_embedding.0.weight" in shapes,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"no UNet of VideoCrafter2 ({type(error).__name__}: {error})") from None


def from_released(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published names without their prefix (`input_blocks.1.0.in_layers.0.weight`) -> those of :class:`VideoUnet`.

    Names that are not known stay as they are.  Convolutions of width one along time, with which the first temporal
    transformer projects, become matrices.
    """
    where = _places(tensors)
    made = {}
    for name, tensor in tensors.items():
        if (top := next((old for old in _TOP if name.startswith(old + ".")), None)) is not None:
            name = _TOP[top] + name[len(top) :]
        elif (match := re.match(r"((?:input|output)_blocks\.\d+|middle_block)\.(\d+)\.(.+)", name)) and (match[1], match[2]) in where:
            name = _named(where[match[1], match[2]], match[3])
        if re.search(r"\.proj_(in|out)\.weight$", name) and tensor.dim() > 2:
            tensor = tensor.flatten(1)
        made[name] = tensor
    return made


def _named(place: tuple[str, str], rest: str) -> str:
    block, number = place
    if number == "down":
        return f"{block}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if number == "up":
        return f"{block}.upsamplers.0.{rest}"
    kind, number = number.split(":")
    if kind != "resnets":
        return f"{block}.{kind}.{number}.{rest}"
    if rest.startswith("temopral_conv."):  # as it is spelt in the checkpoint
        return f"{block}.temp_convs.{number}.{rest.removeprefix('temopral_conv.')}"
    layer, _, last = rest.rpartition(".")
    return f"{block}.resnets.{number}.{_RES.get(layer, layer)}.{last}"


def _places(names) -> dict[tuple[str, str], tuple[str, str]]:
    """(block, module in it) of the published names -> (block, "kind:number") of diffusers."""
    modules: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        match = re.match(r"(input_blocks|output_blocks|middle_block)\.(?:(\d+)\.(?=\d))?(\d+)\.(.+)", name)
        if match:
            modules.setdefault((match[1], int(match[2] or 0)), {}).setdefault(int(match[3]), match[4])
    made: dict[tuple[str, str], tuple[str, str]] = {}
    level = layer = 0
    for (side, number), inside in sorted(modules.items()):
        if side == "middle_block":
            for index in sorted(inside):  # residual block, spatial, temporal, residual block
                kind = ("resnets:0", "attentions:0", "temp_attentions:0", "resnets:1")
                if index < len(kind):
                    made["middle_block", str(index)] = "mid_block", kind[index]
            continue
        if number == 0:
            level = layer = 0
            if side == "input_blocks":
                continue  # the first convolution
        block = f"{'down' if side == 'input_blocks' else 'up'}_blocks.{level}"
        after = 0
        for index, first in sorted(inside.items()):
            if first.startswith("op."):
                kind = "down"
            elif first.startswith("conv."):
                kind = "up"
            else:
                kind = f"{('resnets', 'attentions', 'temp_attentions')[min(index, 2)]}:{layer}"
            made[f"{side}.{number}", str(index)] = block, kind
            after |= kind in ("down", "up")
        level, layer = (level + 1, 0) if after else (level, layer + 1)
    return made
