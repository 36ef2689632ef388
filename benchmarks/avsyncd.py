"""AVSyncD's UNet against the plain formulation of its original: each short cut by itself, and all of them over guided steps.

The plain form repeats text and sound for each frame and projects them at each step, computes keys of all frames where only
frame 0's count, attends to all 229 sound tokens behind a mask, and puts three frames side by side for each convolution.
Before anything is timed both must give the same.  Weights are random: no figure here depends on their values.
"""

from collections.abc import Iterator

from . import common
from .common import Result

STEPS, ORIGINAL = 2, 51  # that are timed at once; passes of the original's sampler
SMALL = {"block_out_channels": [32, 64, 64, 64], "norm_num_groups": 8, "attention_head_dim": 4, "cross_attention_dim": 64, "audio_cross_attention_dim": 64}


def measure(quick: bool) -> Iterator[Result]:
    import torch

    from avtools.models.avsyncd.config import UNET
    from avtools.models.avsyncd.model import Condition, UNet3D, heard_tokens
    from avtools.models.parts.imagebind.model import TOKENS, segment_mask

    large = torch.cuda.is_available() and not quick
    device = torch.device("cuda" if large else "cpu")
    config = UNET if large else {**UNET, **SMALL}
    height, width = (32, 32) if large else (4, 8) if quick else (16, 16)
    torch.manual_seed(0)
    with device:
        unet = UNet3D(config).eval().requires_grad_(False)
        for name, parameter in unet.named_parameters():
            if "conv_temp" in name or "attn_temp.to_out" in name:  # they begin with zeros
                torch.nn.init.normal_(parameter, 0, 0.2 * parameter.shape[-1] ** -0.5)
        text = torch.randn(2, 77, config["cross_attention_dim"])
        audio = torch.randn(2, TOKENS, config["audio_cross_attention_dim"])
        sample, timestep = torch.randn(2, 4, 12, height, width), torch.tensor([700, 700])
        mask = segment_mask(12).to(device)
    torch.backends.cudnn.allow_tf32 = False
    rounds = 1 if quick else common.ROUNDS
    size = f"{'SD 1.5 (1169 M), GPU' if large else 'small UNet, CPU'}, 12 frames of {height}x{width} latents, 2 passes guided as one batch"
    rows = {"gathered": unet.condition(text, audio, mask, 12), "all": unet.condition(text, audio, None, 12), "raw": Condition(text, audio, *heard_tokens(mask))}

    def way(*cuts):
        given = rows["raw" if PROJECTED in cuts else "all" if GATHERED in cuts else "gathered"]

        def run():
            with Plain(cuts, mask):
                for _ in range(STEPS):
                    made = unet(sample, timestep, given)
            return made

        return run

    with torch.inference_mode():
        wanted = way()()
        scale = wanted.abs().max()
        ways = {"any short cut": way(*CUTS), **{cut: way(cut) for cut in CUTS}}
        found = {}
        for name, plain in ways.items():
            found[name] = float((plain() - wanted).abs().max() / scale)
            if not found[name] <= 1e-4:
                raise SystemExit(f"avsyncd, {name}: ours and the plain formulation differ by {found[name]:.2g} of the largest value; 1e-4 is allowed")
        times = common.in_turn(rounds, ours=timed(way(), device), **{name: timed(plain, device) for name, plain in ways.items()})
    for name in ways:
        what = f"AVSyncD, {size}: a step; without {name}, largest difference {found[name]:.0e}"
        ratio = times[name] / times["ours"]
        yield Result(what, f"{times['ours'] / STEPS:.3f} s", f"{times[name] / STEPS:.3f} s", ratio, "equal output; for information")


def timed(function, device):
    """Whole, on a GPU too; gives nothing, so that the clock is asked."""
    import torch

    def run() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


PROJECTED, GATHERED, FIRST, LOOKUP = CUTS = ("conditions projected once", "heard tokens gathered", "keys of frame 0 once", "frame 0's share of convolutions once")


class Plain:
    """While it lasts, the UNet computes without these short cuts; `mask`: what each frame hears."""

    def __init__(self, cuts: tuple[str, ...], mask):
        from avtools.models.avsyncd import model

        self.forwards = {}
        if set(cuts) & {PROJECTED, GATHERED, FIRST}:
            self.forwards[model.Block] = lambda block, x, given: plain_block(block, x, given, cuts, mask)
        if LOOKUP in cuts:
            self.forwards[model.Conv] = plain_conv

    def __enter__(self):
        self.before = {kind: kind.forward for kind in self.forwards}
        for kind, forward in self.forwards.items():
            kind.forward = forward

    def __exit__(self, *_):
        for kind, forward in self.before.items():
            kind.forward = forward


def plain_conv(conv, x):
    """Three frames side by side for each pixel."""
    import torch

    y = conv._conv_forward(x.flatten(0, 1).permute(0, 3, 1, 2), conv.weight, conv.bias).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
    return y + conv.conv_temp(torch.cat([y[:, :1].expand_as(y), torch.cat([y[:, :1], y[:, :-1]], 1), y], -1))


def plain_block(block, x, given, cuts: tuple[str, ...], mask):
    """A transformer without some of its short cuts, frame by frame."""
    import torch

    batch, frames, pixels, _ = x.shape
    again = PROJECTED in cuts  # text and sound are projected here, for each frame
    x = x.flatten(0, 1)
    normed = block.norm1(x)
    if FIRST in cuts:
        keys = block.attn1.keys(normed.unflatten(0, (batch, frames))[:, :1].repeat(1, frames, 1, 1).flatten(0, 1))
        x = x + block.attn1(normed, keys)
    else:
        normed = normed.unflatten(0, (batch, frames))
        x = x + block.attn1(normed.flatten(1, 2), block.attn1.keys(normed[:, 0])).view(x.shape)
    heard = block.norm_audio(x)
    if GATHERED in cuts:
        keys = block.attn_audio.keys(given.audio.repeat_interleave(frames, 0)) if again else tuple(t.expand(-1, frames, -1, -1, -1).flatten(0, 1) for t in given.audio)
        x = x + block.attn_audio(heard, keys, mask.repeat(batch, 1)[:, None, None])
    else:
        keys = block.attn_audio.keys(given.audio[:, given.heard].flatten(0, 1)) if again else tuple(t.flatten(0, 1) for t in given.audio)
        x = x + block.attn_audio(heard, keys)
    told = block.norm2(x)
    if again:
        x = x + block.attn2(told, block.attn2.keys(given.text.repeat_interleave(frames, 0)))
        positions = block.pos_embedding_temp(torch.arange(frames, device=x.device))
    else:
        x = x + block.attn2(told.unflatten(0, (batch, frames)).flatten(1, 2), given.text).view(x.shape)
        positions = given.positions
    x = x.unflatten(0, (batch, frames))
    normed = block.norm_temp(x + positions[:, None]).transpose(1, 2).flatten(0, 1)
    x = x + block.attn_temp(normed, block.attn_temp.keys(normed)).unflatten(0, (batch, pixels)).transpose(1, 2)
    return x + block.ff(block.norm3(x))
