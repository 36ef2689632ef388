"""VATT Audio's decoding against the plain formulation of its original: network and decoding, with equal outputs.

The plain form adds biases of its own for each item of a batch to explicit products, and decodes a clip at a time, its condition
projected at each step and its codes drawn from the whole vocabulary.  Weights are random: no figure here depends on their values.
"""

import math
from collections.abc import Iterator

FRAMES, ROWS = 500, 74  # of 10 s of sound; of a condition: 10 of the picture and a prompt
SMALL = {"dim": 128, "first_blocks": 2, "second_blocks": 2, "first_heads": 4, "second_heads": 4, "feed": 2, "condition": 64, "codes": 256, "latent": 16}


class Plain:
    """While it lasts, attention is computed without short cuts."""

    def __enter__(self):
        from avtools.models.vatt.attention import Attention

        self.kind, self.before = Attention, Attention.forward
        Attention.forward = plain_attention

    def __exit__(self, *_):
        self.kind.forward = self.before


def plain_attention(layer, x, around):
    """With a bias of its own for each item, its padding added."""
    import torch

    batch, rows, _ = x.shape
    q, k, v = (part(x).view(batch, rows, layer.heads, layer.head_dim).transpose(1, 2) for part in (layer.q, layer.k, layer.v))
    bias = around.bias.expand(batch, -1, -1, -1).to(q.dtype).clone()
    if around.counts is not None:
        bias.masked_fill_(~around.counts[:, None, None], torch.finfo(q.dtype).min)
    shares = (q @ k.transpose(-1, -2) * layer.head_dim**-0.5 + bias).softmax(-1)
    made = layer.out((shares @ v).transpose(1, 2).reshape(batch, rows, -1))
    return made if around.counts is None else made * around.counts[..., None]


def plain_decode(net, states, frames: int, settings, generators):
    """A clip at a time, as the original does; the same draws."""
    import torch

    from avtools.models.vatt.decoding import gumbel, uniforms
    from avtools.models.vatt.masking import remask_counts

    found = []
    for state, generator in zip(states, generators, strict=True):
        keep = torch.tensor([True, False], device=states.device)
        count = frames * net.size.levels
        flat = torch.full((count,), net.size.codes, device=states.device)
        for step, again in enumerate(remask_counts(count, settings.steps)):
            tokens = flat.view(frames, net.size.levels).T[None]
            given, null = net(tokens.repeat(2, 1, 1), state[None].repeat(2, 1, 1), None, keep).float()
            logits = null + settings.guidance * (given - null)
            logits = (logits if net.size.layout == "legacy" else logits.transpose(0, 1)).flatten(0, 1)
            if 0 < settings.top_k < logits.shape[-1]:
                least = logits.topk(settings.top_k).values[:, -1:]
                logits = logits.masked_fill(logits < least, -math.inf)
            shares = logits.softmax(-1)
            u, noise = (one.to(states.device) for one in uniforms([generator], count)[0])
            drawn = (shares.cumsum(-1) <= u[:, None] * shares.sum(-1, keepdim=True)).sum(-1).clamp(max=shares.shape[-1] - 1)
            confidence = shares.gather(-1, drawn[:, None])[:, 0].log() + settings.noise(step) * gumbel(noise.cpu()).to(states.device)
            known = flat != net.size.codes
            confidence[known] = math.inf
            flat = torch.where(known, flat, drawn)
            flat[confidence.sort().indices[:again]] = net.size.codes
        found.append(flat.view(frames, net.size.levels).T)
    return torch.stack(found)


def measure(quick: bool) -> Iterator:
    import torch

    from avtools.models.vatt.decoding import Settings, decode
    from avtools.models.vatt.model import AudioNet, Size

    from . import common
    from .common import Result

    large = torch.cuda.is_available() and not quick
    device = torch.device("cuda" if large else "cpu")
    dtype = torch.bfloat16 if large else torch.float32
    torch.manual_seed(0)
    with device:
        net = AudioNet(Size(**({} if large else SMALL))).eval().requires_grad_(False)
        net.codebooks.normal_()
        states = torch.randn(16 if large or not quick else 2, ROWS, net.size.condition)
    frames = FRAMES if not quick else 20
    settings = Settings(16 if not quick else 3)
    rounds = 1 if quick else common.ROUNDS

    def way(plain: bool, count: int, kind):
        def run():
            sources = [torch.Generator().manual_seed(k) for k in range(count)]
            with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=kind != torch.float32):
                if plain:
                    with Plain():
                        return plain_decode(net, states[:count], frames, settings, sources)
                return decode(net, states[:count], None, frames, settings, sources)

        return run

    def timed(function):
        def run() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    exact = min(2, len(states))
    ours, plain = way(False, exact, torch.float32)(), way(True, exact, torch.float32)()
    same = float((ours == plain).float().mean())
    if same < 0.999:
        raise SystemExit(f"vatt: {1 - same:.2%} of the tokens differ between ours and the plain formulation; 0.1 % are allowed, where rounding decides")
    form = "416 M parameters, GPU, bf16" if large else "small, CPU"
    for count in (1, len(states)):
        times = common.in_turn(rounds, ours=timed(way(False, count, dtype)), plain=timed(way(True, 1, dtype)))
        each = {"ours": times["ours"] / count, "plain": times["plain"]}
        what = f"VATT Audio, {form}: a clip of {frames / 50:g} s, {settings.steps} steps, decoded {count} at a time; plain formulation, 1 at a time; {same:.2%} of tokens alike"
        yield Result(what, f"{each['ours']:.3f} s", f"{each['plain']:.3f} s", each["plain"] / each["ours"], "equal output; for information")
