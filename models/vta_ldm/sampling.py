"""Conditions -> latents -> sound: schedulers, guidance, and clips longer than one window.

Longer clips are denoised in overlapping windows whose predictions are averaged at every step (MultiDiffusion,
Bar-Tal et al. 2023).  All arithmetic between the network's passes is element by element, so the latents of all
clips lie one behind the other on the time axis of one tensor.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch

from avtools.errors import RowError, UsageError
from avtools.models.parts import spans
from avtools.models.vta_ldm.diffusion import plain
from avtools.models.vta_ldm.model import Condition
from avtools.training.draws import generator

SCHEDULERS = ("dpmsolver++", "unipc", "ddim", "ddpm", "legacy")


def check(options: dict) -> None:
    """UsageError where steps, guidance, scheduler or overlap make no sense."""
    if options["scheduler"] not in SCHEDULERS:
        near = difflib.get_close_matches(options["scheduler"], SCHEDULERS, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"no scheduler '{options['scheduler']}'{hint} (there is: {', '.join(SCHEDULERS)})")
    if not 1 <= options["steps"] <= 1000:
        raise UsageError(f"--steps {options['steps']}: from 1 to 1000, the steps of the noise schedule")
    if not (math.isfinite(options["guidance"]) and options["guidance"] >= 0):
        raise UsageError(f"--guidance {options['guidance']:g}: a number from 0; up to 1 means none")
    if not 0 <= options["overlap"] <= 0.9:
        raise UsageError(f"sampling.overlap {options['overlap']:g}: a share of the window from 0 to 0.9")


def scheduler_for(name: str, schedule: dict, steps: int):
    """A scheduler of diffusers over the noise schedule, its `timesteps` set.

    "legacy": the original's stochastic DDPM with leading spacing, which never begins at pure noise; all others
    begin at the last step (trailing spacing, Lin et al. 2024).
    """
    import diffusers

    schedule = plain(schedule)
    trailing = {**schedule, "timestep_spacing": "trailing"}
    if name == "unipc":
        made = diffusers.UniPCMultistepScheduler.from_config(trailing)
    elif name == "dpmsolver++":
        made = diffusers.DPMSolverMultistepScheduler.from_config({**trailing, "algorithm_type": "dpmsolver++", "solver_order": 2})
    else:
        made = diffusers.DDPMScheduler.from_config(schedule if name == "legacy" else trailing)
    made.set_timesteps(steps)
    return made


def ddpm_step(now: torch.Tensor, then: torch.Tensor, v: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """One ancestral step (Ho et al. 2020, equations 6 and 7, small variance) in v between the products of alphas `now` and `then`."""
    beta = 1 - now / then
    clean = now.sqrt() * latents - (1 - now).sqrt() * v
    mean = (then.sqrt() * beta / (1 - now)) * clean + ((now / then).sqrt() * (1 - then) / (1 - now)) * latents
    return mean + ((1 - then) / (1 - now) * beta).clamp(min=1e-20).sqrt() * noise


def ddim_step(now: torch.Tensor, then: torch.Tensor, v: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """One deterministic step (Song et al. 2021, equation 12) in v."""
    clean = now.sqrt() * latents - (1 - now).sqrt() * v
    return then.sqrt() * clean + (1 - then).sqrt() * (now.sqrt() * v + (1 - now).sqrt() * latents)


# --- what each window is conditioned on -------------------------------------------------------------------


@dataclasses.dataclass
class Window:
    item: int
    at: int  # where it begins on the joint time axis, latents
    features: torch.Tensor | None  # of the pictures that are shown in it
    text: torch.Tensor | None
    start: float  # where it begins after the first of these pictures, seconds


def windows_of(features, texts, begins: list[list[int]], lengths: list[int], window: int, step: float, frame_rate: float) -> list[Window]:
    """The windows of all items; picture i of an item is shown from i / `frame_rate` s, latents take `step` seconds."""
    made, offset = [], 0
    for item, (pictures, text) in enumerate(zip(features, texts, strict=True)):
        for begin in begins[item]:
            part, start = pictures, 0.0
            if pictures is not None:
                # exact fractions: a picture that begins where the window does belongs to it, the one before does not
                low = Fraction(begin) * Fraction(step).limit_denominator(1_000_000)
                high = low + window * Fraction(step).limit_denominator(1_000_000)
                rate = Fraction(frame_rate).limit_denominator(1000)
                first = min(math.floor(low * rate), len(pictures) - 1)
                part = pictures[first : max(first + 1, math.ceil(high * rate))]
                start = float(low - first / rate)
            made.append(Window(item, offset + begin, part, text, start))
        offset += lengths[item]
    return made


def guided(condition: Condition) -> Condition:
    """The null condition and the condition, one behind the other on the batch axis."""
    return condition.null().then(condition)


def part_of(condition: Condition, low: int, high: int) -> Condition:
    """The condition of the items `low` to `high`."""
    return Condition(*(getattr(condition, field.name)[low:high] for field in dataclasses.fields(condition)))


def seeded(seeds: list[int], shape: Callable[[int], tuple[int, ...]]) -> Callable[[], torch.Tensor]:
    """Gives standard normal noise (1, C, all items' L, F): each item's from its own seed, made on the CPU."""
    sources = [generator(seed, "sample") for seed in seeds]
    return lambda: torch.cat([torch.randn(shape(k), generator=source) for k, source in enumerate(sources)], 1)[None]


@torch.no_grad()
def sample_latents(
    denoiser,
    features: list[torch.Tensor | None],
    texts: list[torch.Tensor | None],
    lengths: list[int],
    noise: Callable[[], torch.Tensor],
    *,
    scheduler: str,
    steps: int,
    guidance: float,
    schedule: dict,
    window: int,
    overlap: int,
    step: float,
    frame_rate: float,
    device="cpu",
    watch: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
) -> list[torch.Tensor]:
    """Latents (C, L, F) of each item, float32.

    `lengths`: latents of each, none shorter than the `window`; `noise()` gives the first latents and then, where
    the scheduler is stochastic, that of each step, all items joined: (1, C, sum of lengths, F).  `step`: seconds
    per latent.  No pass of the network holds more windows than there are items.  `watch(k, v, latents)` sees
    the guided prediction and the latents after step k.
    """
    begins = [spans.starts(length, window, overlap) for length in lengths]
    windows = windows_of(features, texts, begins, lengths, window, step, frame_rate)
    shares = [spans.weights(begin, window, length) for begin, length in zip(begins, lengths, strict=True)]
    share = torch.cat(shares).to(device)[:, None, :, None]
    condition = denoiser.condition([one.features for one in windows], [one.text for one in windows])  # once, not once a step
    starts = torch.tensor([one.start for one in windows], device=device, dtype=torch.float32)
    dtype, most = denoiser.projection.weight.dtype, len(lengths)
    chunks = []
    for low in range(0, len(windows), most):
        part, start = part_of(condition, low, low + most), starts[low : low + most]
        if guidance > 1:
            part, start = guided(part), start.repeat(2)
        chunks.append((windows[low : low + most], share[low : low + most], part, start))
    solver = scheduler_for(scheduler, schedule, steps)
    alphas = [*solver.alphas_cumprod[solver.timesteps.cpu()], torch.tensor(1.0)]
    latents = noise().to(device, torch.float32) * solver.init_noise_sigma
    for k, timestep in enumerate(solver.timesteps):
        v = torch.zeros_like(latents)
        for some, weight, part, start in chunks:
            seen = torch.cat([latents[:, :, one.at : one.at + window] for one in some]).to(dtype)
            seen = torch.cat([seen, seen]) if guidance > 1 else seen
            made = denoiser.predict(seen, timestep.to(device).expand(len(seen)), part, step, start).float()
            if guidance > 1:
                without, made = made.chunk(2)
                made = without + guidance * (made - without)
            for one, prediction in zip(some, made * weight, strict=True):
                v[0, :, one.at : one.at + window] += prediction
        if scheduler in ("ddpm", "legacy"):
            latents = ddpm_step(alphas[k], alphas[k + 1], v, latents, noise().to(device, torch.float32))
        elif scheduler == "ddim":
            latents = ddim_step(alphas[k], alphas[k + 1], v, latents)
        else:
            latents = solver.step(v, timestep, latents).prev_sample
        if watch is not None:
            watch(k, v, latents)
    if denoiser.config.adapters:
        latents = denoiser.leave(latents.to(dtype)).float()
    return list(latents[0].split(lengths, 1))


def generate(denoiser, codec, features, texts, seconds: list[float], seeds: list[int], config, options: dict, device, dtype) -> list[np.ndarray]:
    """Sound (samples,) float32 within [-1, 1] for each item, exactly round(seconds * rate) samples long.

    Each is made whole windows long, as the network was trained, and then cut.
    """
    window = codec.samples(config.window) // codec.step
    wanted = [max(1, round(length * codec.sample_rate)) for length in seconds]
    lengths = [max(window, -(-samples // codec.step)) for samples in wanted]
    channels = denoiser.inner_channels
    latents = sample_latents(
        denoiser,
        features,
        texts,
        lengths,
        seeded(seeds, lambda item: (channels, lengths[item], codec.bins)),
        scheduler=options["scheduler"],
        steps=options["steps"],
        guidance=options["guidance"],
        schedule=config.noise_schedule,
        window=window,
        overlap=round(options["overlap"] * window),
        step=codec.step / codec.sample_rate,
        frame_rate=config.frame_rate,
        device=device,
    )
    made: list[np.ndarray | None] = [None] * len(seeds)
    for length in dict.fromkeys(lengths):
        which = [k for k, other in enumerate(lengths) if other == length]
        for k, sound in zip(which, codec.decode(torch.stack([latents[k] for k in which])), strict=True):
            if not sound.isfinite().all():
                raise RowError("the sound came out as no number; try --precision fp32, or fewer --guidance")
            made[k] = sound[: wanted[k]].clamp(-1, 1).float().cpu().numpy()
    return made
