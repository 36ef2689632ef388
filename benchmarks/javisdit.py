"""JavisDiT's transformer against the plain formulation of its original: each short cut by itself, and both, in time and memory.

The plain form keeps the matrix of similarities between all video and all sound tokens and its two softmaxes, and repeats the
priors for each frame and each place.  Last comes gradient checkpointing, against the same network without it.  Before anything is
measured both sides must give the same in single precision, where they train gradients too, of inputs and weights.  Weights are random: no
figure here depends on their values.
"""

import math
from collections.abc import Callable, Iterator, Sequence

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


def trained(module, call: Callable, inputs: Sequence = ()) -> list:
    """A forward and a backward pass of `call(*inputs)`: its outputs, and the gradients of the inputs and of the module's weights that train."""
    inputs = [one.detach().requires_grad_() for one in inputs]
    made = call(*inputs)
    sum(one.float().square().mean() for one in made).backward()
    weights = [one for one in module.parameters() if one.requires_grad]
    found = [*(one.detach() for one in made), *(one.grad for one in (*inputs, *weights))]
    for one in weights:
        one.grad = None
    return found


def same(what: str, ours: Sequence, peer: Sequence, allowed: float = 1e-4) -> float:
    """The largest difference, of a tensor's largest value; more than allowed ends the benchmark."""
    found = [float((one - two).abs().max() / two.abs().max()) for one, two in zip(ours, peer, strict=True)]
    if wrong := [one for one in found if not one <= allowed]:  # no number, too
        raise SystemExit(f"javisdit, {what}: ours and the peer differ by {wrong[0]:.2g} of the largest value; {allowed:g} is allowed")
    return max(found)


def compared(what: str, peer: str, ours: Callable, other: Callable, off: float, device, rounds: int) -> Iterator[Result]:
    """Rows of time and memory; what each returns is let go of."""
    import torch

    def whole(function):
        def run() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    bytes_ = [peak(one, device) / 1e6 for one in (ours, other)]  # before the clock runs, so that nothing is for the first time then
    times = common.in_turn(rounds, ours=whole(ours), peer=whole(other))
    asked = f"equal within {off:.0e}; for information"
    yield Result(f"JavisDiT, {what}; {peer}: time", f"{times['ours']:.4f} s", f"{times['peer']:.4f} s", times["peer"] / times["ours"], asked)
    yield Result("the same: memory at its peak, beyond weights and inputs", f"{bytes_[0]:.1f} MB", f"{bytes_[1]:.1f} MB", bytes_[1] / bytes_[0], asked)


def within(cuts: tuple[str, ...], function: Callable, *inputs) -> Callable:
    """The function without these short cuts."""

    def run():
        with Plain(cuts):
            return function(*inputs)

    return run


def measure(quick: bool) -> Iterator[Result]:
    import torch

    large = torch.cuda.is_available() and not quick
    device, dtype = (torch.device("cuda"), torch.bfloat16) if large else (torch.device("cpu"), torch.float32)
    rounds = 1 if quick else common.ROUNDS
    torch.manual_seed(0)
    for part in (layers, sampling, training):
        yield from part(quick, large, device, dtype, rounds)


def layers(quick: bool, large: bool, device, dtype, rounds: int) -> Iterator[Result]:
    """The two layers that have short cuts, on the tokens of a clip of 4 s of 240 lines; forward and backward.

    On a CPU the second is narrow; its tokens stay, as on their numbers depends what the short cut saves.
    """
    import torch

    from avtools.models.javisdit.attention import Both, PriorBlock, Signals
    from avtools.models.javisdit.model import Size

    wide, size = Size(**(SMALL if quick else {})), Size(**({} if large else SMALL))
    frames, places, sounds = (4, 15, 32) if quick else (30, 15 * 27, 28 * 16)
    with device:
        both, block = Both(wide.dim, wide.heads // 2), PriorBlock(size.dim, size.heads, int(size.feed * size.dim))
        streams = [torch.randn(1, count, wide.dim) for count in (frames * places, sounds)]
        tokens = torch.randn(2, frames, places, size.dim)
        priors = [torch.randn(2, count, size.dim) for count in (size.spatial_priors, size.temporal_priors)]
        signals = Signals(None, torch.randn(2, 1, 9, size.dim))
    waken(block)

    def attend(first, second):
        return both(first, second)

    def tell(x, spatial, temporal):
        return (block(x, spatial, temporal, Signals(None, signals.prior.to(x.dtype))),)

    cases = (
        (both, attend, streams, MATRIX, f"attention between {frames * places} tokens of video and {sounds} of sound, width {wide.dim}"),
        (block, tell, (tokens, *priors), REPEATED, f"a layer's prior attention, of 2 samples of {frames} frames of {places} places, width {size.dim}"),
    )
    for module, call, inputs, cut, what in cases:
        off = same(what, trained(module, call, inputs), within((cut,), trained, module, call, inputs)())
        module.to(dtype)
        half = [one.to(dtype) for one in inputs]
        step = trained, module, call, half
        what = f"{what}, {'GPU, bf16' if large else 'CPU'}, forward and backward"
        yield from compared(what, f"peer without '{cut}'", within((), *step), within((cut,), *step), off, device, rounds)


def network(quick: bool, large: bool, device):
    """(the network; a function that gives the inputs of a call, for so many clips, of all frames or a `few`; its form in words)."""
    import torch

    from avtools.models.javisdit.model import Given, Size, VastDit

    size = Size(**({} if large else SMALL))
    rows, columns, frames, sounds = (4, 6, 5, 16) if quick else (30, 53, 30, 112) if large else (16, 28, 15, 64)
    with device:
        net = VastDit(size)
        waken(net)
        given = Given(
            torch.randn(2, size.text_tokens, size.text), torch.arange(size.text_tokens).expand(2, -1) < size.text_tokens // 2,
            torch.randn(2, size.spatial_priors, size.prior), torch.randn(2, size.temporal_priors, size.prior),
        )  # fmt: skip
        video, sound = torch.randn(2, size.video, frames, rows, columns), torch.randn(2, size.sound, sounds, 16)
        times, fps = torch.tensor([700.0, 300.0]), torch.full((2,), 24.0)

    def inputs(count: int = 2, few: bool = False) -> tuple:
        some = Given(*(None if one is None else one[:count] for one in given[:4]))
        streams = (video[:count, :, :2], sound[:count, :, :8]) if few else (video[:count], sound[:count])
        return *streams, times[:count], some, fps[:count], (240, 426)

    tokens = frames * math.ceil(rows / 2) * math.ceil(columns / 2), math.ceil(sounds / 4) * 16
    return net, inputs, f"{'XL/2, GPU, bf16' if large else 'small, CPU'}, {tokens[0]} tokens of video and {tokens[1]} of sound"


def sampling(quick: bool, large: bool, device, dtype, rounds: int) -> Iterator[Result]:
    """A step of sampling: two rows at once, as guidance has them, without gradients, conditions projected before, weights in `dtype`."""
    import torch

    net, inputs, form = network(quick, large, device)
    net.eval().requires_grad_(False)

    def step(few: bool, known):
        *before, _, fps, pixels = inputs(2, few)
        with torch.inference_mode():
            return net(*before, known, fps, pixels)

    def projected():
        with torch.inference_mode():
            return net.project(inputs()[3])

    known, ways = projected(), {**{f"peer without '{cut}'": (cut,) for cut in CUTS}, "peer without either": CUTS}
    off = {name: same(name, step(True, known), within(cuts, step, True, known)()) for name, cuts in ways.items()}
    net.to(dtype)
    known = projected()
    for name, cuts in ways.items():
        ours, other = within((), step, False, known), within(cuts, step, False, known)
        yield from compared(f"a step of sampling, {form}, a guided pair", name, ours, other, off[name], device, rounds)


def training(quick: bool, large: bool, device, dtype, rounds: int) -> Iterator[Result]:
    """A step of the joint stage, of one clip: forward, and backward to what trains, in mixed precision where `dtype` is no single one."""
    import torch

    from avtools.models.javisdit.model import TRAINED

    net, inputs, form = network(quick, large, device)
    net.train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED["joint"]))

    def step(kind, checkpointing: bool, few: bool):
        net.checkpointing = checkpointing
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            return trained(net, lambda: net(*inputs(1, few)))

    exact, whole = (torch.float32, False, True), (dtype, False, False)
    wanted = step(*exact)
    what = f"a training step of the joint stage, {form}, one clip"
    for peer, ours, other in (
        ("peer without either short cut", within((), step, *whole), within(CUTS, step, *whole)),
        ("ours checkpoints gradients, the peer not", within((), step, dtype, True, False), within((), step, *whole)),
    ):
        found = within(CUTS, step, *exact)() if "either" in peer else step(torch.float32, True, True)
        yield from compared(what, peer, ours, other, same(peer, wanted, found), device, rounds)
