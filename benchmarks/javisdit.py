"""JavisDiT's transformer against the plain formulation of its original: each short cut by itself, and both, in time and memory.

The plain form keeps the matrix of similarities between all video and all sound tokens and its two softmaxes, and repeats the
priors for each frame and each place.  Before anything is measured both must give the same, gradients too.  Weights are random: no figure
here depends on their values.
"""

import math
from collections.abc import Callable, Iterator

from . import common
from .common import Result

SMALL = {"dim": 96, "depth": 2, "heads": 4, "text": 64, "text_tokens": 40, "prior": 32}
MATRIX, REPEATED = CUTS = ("similarities of the streams never kept", "priors once for all frames and places")


class Plain:
    """While it lasts, the network computes without these short cuts."""

    def __init__(self, cuts: tuple[str, ...]):
        from avtools.models.javisdit import attention

        places = {MATRIX: (attention, "attend_both", plain_both), REPEATED: (attention.PriorBlock, "forward", plain_prior)}
        self.places = [places[cut] for cut in cuts]

    def __enter__(self):
        self.before = [getattr(where, name) for where, name, _ in self.places]
        for where, name, plain in self.places:
            setattr(where, name, plain)

    def __exit__(self, *_):
        for (where, name, _), before in zip(self.places, self.before, strict=True):
            setattr(where, name, before)


def plain_both(k1, k2, v1, v2):
    """By one matrix of similarities."""
    similar = k1 @ k2.transpose(-1, -2) * k1.shape[-1] ** -0.5
    return similar.softmax(-1) @ v2, similar.transpose(-1, -2).softmax(-1) @ v1


def plain_prior(block, x, spatial, temporal, signals):
    """Each frame to spatial priors of its own copy, then each place's series to temporal ones."""
    from avtools.models.javisdit.attention import modulated, per_frame

    batch, frames, places, _ = x.shape
    vectors = per_frame(signals.prior, block.scale_shift_table)
    shift, scale, gate = vectors[:3]
    seen = modulated(x, shift, scale).flatten(0, 1)
    x = x + gate * block.spatial_cross_attn(seen, spatial.repeat_interleave(frames, 0)).unflatten(0, (batch, frames))
    shift, scale, gate = vectors[3:6]
    seen = modulated(x, shift, scale).transpose(1, 2).flatten(0, 1)
    x = x + gate * block.temporal_cross_attn(seen, temporal.repeat_interleave(places, 0)).unflatten(0, (batch, places)).transpose(1, 2)
    shift, scale, gate = vectors[6:]
    return x + gate * block.mlp(modulated(x, shift, scale))


def waken(net) -> None:
    """Values in place of the zeros that layers begin with, so that all count."""
    import torch

    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.5 * parameter.shape[-1] ** -0.5)


def peak(function: Callable[[], object], device) -> int:
    """Bytes that are allocated at once, at most, beyond what is there before."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        function()
    held = most = 0
    for event in sorted((event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measure(quick: bool) -> Iterator[Result]:
    import torch

    from avtools.models.javisdit.attention import Both
    from avtools.models.javisdit.model import Given, Size, VastDit

    large = torch.cuda.is_available() and not quick
    device, dtype = torch.device("cuda" if large else "cpu"), torch.bfloat16 if large else torch.float32
    rounds = 1 if quick else common.ROUNDS
    torch.manual_seed(0)

    def trained(module, *inputs):
        """A forward and a backward pass; (outputs, gradients of the inputs)."""
        inputs = [one.clone().requires_grad_() for one in inputs]
        made = module(*inputs)
        sum(one.float().square().mean() for one in made).backward()
        return [*(one.detach() for one in made), *(one.grad for one in inputs)]

    def within(cuts, function, *inputs):
        def run():
            with Plain(cuts):
                found = function(*inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return found

        return run

    def same(what: str, ours, plain, allowed: float) -> float:
        found = max(float((one - two).abs().max() / two.abs().max()) for one, two in zip(ours, plain, strict=True))
        if not found <= allowed:
            raise SystemExit(f"javisdit, {what}: ours and the plain formulation differ by {found:.2g} of the largest value; {allowed:g} is allowed")
        return found

    def compared(what: str, function, inputs, cuts, exact) -> Iterator[Result]:
        """Rows of time and memory; `exact`: the same in single precision, for the comparison."""
        ours, plain = within((), function, *inputs), within(cuts, function, *inputs)
        off = same(what, within((), *exact)(), within(cuts, *exact)(), 1e-4)
        times = common.in_turn(rounds, ours=lambda: ours() and None, plain=lambda: plain() and None)
        asked = "equal output; for information"
        yield Result(f"{what}: time; largest difference {off:.0e}", f"{times['ours']:.4f} s", f"{times['plain']:.4f} s", times["plain"] / times["ours"], asked)
        bytes_ = [peak(one, device) / 1e6 for one in (ours, plain)]
        yield Result(f"{what}: memory", f"{bytes_[0]:.1f} MB", f"{bytes_[1]:.1f} MB", bytes_[1] / bytes_[0], asked)

    # the attention between the streams, of a clip of 4 s of 240 lines
    layer, tokens = (Size(**SMALL), (60, 32)) if quick else (Size(), (30 * 15 * 27, 28 * 16))
    with device:
        both, streams = Both(layer.dim, layer.heads // 2), [torch.randn(1, count, layer.dim) for count in tokens]
    exact = trained, both, *[one[:, :600] for one in streams]
    here = Both(layer.dim, layer.heads // 2).to(device, dtype)
    form = f"{'GPU, bf16' if large else 'CPU'}, {tokens[0]} and {tokens[1]} tokens of {layer.dim} numbers"
    yield from compared(f"JavisDiT, attention between the streams, {form}, forward and backward", trained, (here, *[one.to(dtype) for one in streams]), (MATRIX,), exact)

    # the whole network, both passes of guidance
    size = Size(**({} if large else SMALL))
    rows, columns, frames, sounds = (4, 6, 5, 16) if quick else (30, 53, 30, 112) if large else (16, 28, 15, 64)
    form = f"{'XL/2, GPU, bf16' if large else 'small, CPU'}, {frames * math.ceil(rows / 2) * math.ceil(columns / 2)} and {sounds // 4 * 16} tokens"
    with device:
        net = VastDit(size).eval().requires_grad_(False)
        waken(net)
        given = Given(
            torch.randn(2, size.text_tokens, size.text), torch.arange(size.text_tokens).expand(2, -1) < size.text_tokens // 2,
            torch.randn(2, size.spatial_priors, size.prior), torch.randn(2, size.temporal_priors, size.prior),
        )  # fmt: skip
        video, sound = torch.randn(2, 4, frames, rows, columns), torch.randn(2, 8, sounds, 16)
        times, fps = torch.full((2,), 700.0), torch.full((2,), 24.0)

    def passed(few: bool, kind):
        def run():
            with torch.inference_mode(), torch.autocast(device.type, kind, enabled=kind != torch.float32):
                part = (video[:, :, :2], sound[:, :, :8]) if few else (video, sound)
                return net(*part, times, given, fps, (240, 426))

        return run

    for name, cuts in {**{f"peer without '{cut}'": (cut,) for cut in CUTS}, "peer without either": CUTS}.items():
        yield from compared(f"JavisDiT, a step of the network, {form}, a guided pair, {name}", passed(False, dtype), (), cuts, (passed(True, torch.float32),))
