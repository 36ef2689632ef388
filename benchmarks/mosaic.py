"""MAESTRO's hard mosaic: all spatial attention to the prompt of one guided step, in one masked pass, against region by region.

Of VideoCrafter2's 16 layers, at their sizes and grids.  The split form attends region by region to the base prompt's keys, a source's
in their place, and stitches; once with all keys kept, and once as the original has it, which projects them in each layer and step.
Before anything is timed all must give the same.  Weights are random: no figure here depends on their values.
"""

from collections.abc import Iterator

from . import common
from .common import Result

LEVELS = ((320, 1, 5), (640, 2, 5), (1280, 4, 5), (1280, 8, 1))  # width, reduction and number of layers
TOKENS, CONTEXT = 77, 1024


def measure(quick: bool) -> Iterator[Result]:
    import torch

    from avtools.models.maestro.mosaic import Mosaic, Scene, spatial_layers
    from avtools.models.maestro.regions import LAYOUTS, regions_of

    large = torch.cuda.is_available() and not quick
    device, dtype = (torch.device("cuda"), torch.bfloat16) if large else (torch.device("cpu"), torch.float32)
    frames, size, share = (16, (40, 64), 1) if large else (2, (10, 16), 5) if quick else (2, (40, 64), 1)
    torch.manual_seed(0)
    with device:
        net = layers(share).requires_grad_(False)
        calls = [(name, layer, pixels(size, name)) for name, layer in spatial_layers(net).items()]
        base, plain = torch.randn(1, TOKENS, CONTEXT // share), torch.randn(frames, TOKENS, CONTEXT // share)
        hidden = {name: torch.randn(2 * frames, high * wide, layer.to_q.in_features) for name, layer, (high, wide) in calls}
    rounds = 1 if quick else common.ROUNDS
    for layout in ("lr", "quad"):
        scene = Scene(regions_of(range(len(LAYOUTS[layout][1])), layout))
        context = base.repeat(frames, 1, 1)
        context[:, scene.slots] = torch.randn_like(context[:, scene.slots])
        contexts = torch.cat([plain, context])
        given = {"hidden": hidden, "contexts": contexts}
        half = {"hidden": {name: x.to(dtype) for name, x in hidden.items()}, "contexts": contexts.to(dtype)}
        mosaic = Mosaic([scene], base, frames, size)
        split = {kept: Split(scene, base, frames, kept) for kept in (True, False)}

        def ours(tensors):
            return (layer(tensors["hidden"][name], tensors["contexts"]) for name, layer, _ in calls)

        def theirs(form, tensors):
            return (form(name, layer, tensors["hidden"][name], tensors["contexts"], grid) for name, layer, grid in calls)

        with torch.inference_mode():
            with mosaic.on(net, before=1):
                mosaic.phase = "hard"
                one = list(ours(given))
            other = {kept: list(theirs(form, given)) for kept, form in split.items()}
            worst = max(float((a - b).abs().max() / b.abs().max()) for found in other.values() for a, b in zip(one, found, strict=True))
            if not worst <= 1e-4:
                raise SystemExit(f"mosaic: one pass and region by region differ by {worst:.2g} of the largest value; 1e-4 is allowed")
            del one, other
            net.to(dtype)
            for form in split.values():
                form.forget()
            with mosaic.on(net, before=1):
                mosaic.phase = "hard"
                ways = {"ours": lambda: last(ours(half)), **{str(kept): lambda form=form: last(theirs(form, half)) for kept, form in split.items()}}
                peaks = {name: peak(way, device) for name, way in ways.items()}  # of each its first run fills what it keeps
                times = common.in_turn(rounds, **{name: whole(way, device) for name, way in ways.items()})
            net.float()
        of = f"{'GPU, bf16' if large else 'CPU'}, {frames} frames of {size[0]}x{size[1]} latents, {len(scene.regions)} sources, largest difference {worst:.0e}"
        for kept, what in ((True, "keys kept too"), (False, "keys projected each time, as the original")):
            ratio = times[str(kept)] / times["ours"]
            yield Result(
                f"attention mosaic, {of}: a step's 16 layers; region by region, {what}",
                f"{times['ours'] * 1000:.1f} ms", f"{times[str(kept)] * 1000:.1f} ms", ratio, "equal output; for information",
            )  # fmt: skip
            yield Result(
                "the same: memory at its peak, beyond weights and inputs", f"{peaks['ours']:.0f} MB", f"{peaks[str(kept)]:.0f} MB",
                peaks[str(kept)] / peaks["ours"], "for information",
            )  # fmt: skip


def layers(share: int):
    """The 16 attention layers under names like those of a UNet, their widths divided by `share`."""
    import torch
    from diffusers.models.attention_processor import Attention

    net = torch.nn.Module()
    for width, reduction, count in LEVELS:
        level = torch.nn.Module()
        level.attentions = torch.nn.ModuleList([torch.nn.Module() for _ in range(count)])
        for one in level.attentions:
            one.attn2 = Attention(query_dim=width // share, cross_attention_dim=CONTEXT // share, heads=width // 64, dim_head=64 // share)
        net.add_module(f"level{reduction}", level)
    return net


def pixels(size: tuple[int, int], name: str) -> tuple[int, int]:
    reduction = int(name.partition(".")[0].removeprefix("level"))
    return -(-size[0] // reduction), -(-size[1] // reduction)


class Split:
    """Attention region by region; `kept`: keys are projected once."""

    def __init__(self, scene, base, frames: int, kept: bool):
        self.scene, self.base, self.frames, self.kept = scene, base, frames, kept
        self.forget()

    def forget(self) -> None:
        self.known, self.places = {}, {}

    def __call__(self, name: str, layer, hidden, contexts, grid):
        import torch
        from torch.nn import functional

        frames = self.frames
        query = self._heads(layer, layer.to_q(hidden))
        found = torch.empty_like(query)
        if not self.kept or name not in self.known:
            self.known[name] = self._keys(layer, contexts)
        plain, own = self.known[name]
        found[:frames] = functional.scaled_dot_product_attention(query[:frames], *plain)
        if grid not in self.places:
            owners = torch.from_numpy(self.scene.regions.owners(grid)).flatten().to(hidden.device)
            self.places[grid] = [(owners == source).nonzero()[:, 0] for source in range(len(self.scene.regions))]
        for where, keys in zip(self.places[grid], own, strict=True):
            found[frames:].index_copy_(2, where, functional.scaled_dot_product_attention(query[frames:, :, where], *keys))
        if not self.kept:
            del self.known[name]
        return layer.to_out[1](layer.to_out[0](found.transpose(1, 2).flatten(2)))

    def _keys(self, layer, contexts):
        scene, frames = self.scene, self.frames
        every = [self._heads(layer, part(contexts)) for part in (layer.to_k, layer.to_v)]
        base = [self._heads(layer, part(self.base.to(contexts.dtype).expand(frames, -1, -1))) for part in (layer.to_k, layer.to_v)]
        own = []
        for source in range(len(scene.regions)):
            pair = [one.clone() for one in base]
            for one, whole_ in zip(pair, every):
                one[:, :, scene.slots_of(0)] = whole_[frames:, :, scene.slots_of(source)]
            own.append(pair)
        return [one[:frames] for one in every], own

    @staticmethod
    def _heads(layer, x):
        return x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)


def last(made):
    """One after another, each forgotten when the next comes."""
    for one in made:
        pass
    return one


def whole(function, device):
    """On a GPU to its end; gives nothing, so that the clock is asked."""
    import torch

    def run() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def peak(function, device) -> float:
    """MB that the function's first two runs have at their peak beyond what was there before: what it keeps counts."""
    import torch

    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.reset_peak_memory_stats()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profile:
        function()
        function()
    events = sorted((event.start_ns(), event.nbytes()) for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")
    held, most = 0, 0
    for _, size in events:
        held += size
        most = max(most, held)
    return most / 1e6
