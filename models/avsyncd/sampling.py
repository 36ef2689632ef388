"""Conditions -> latents -> pictures: schedulers and guidance (spec ASVA, section 1.5).

Frame 0 is the clean latent of the given picture at every step: neither noise nor a scheduler's scaling touches it, so
that any scheduler does.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable

import torch

from avtools.errors import UsageError
from avtools.training.draws import generator

SCHEDULERS = {  # name -> class of diffusers, and what it is given beside the noise schedule
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "algorithm_type": "dpmsolver++", "solver_order": 2}),
    "pndm": ("PNDMScheduler", {}),  # n steps are n + 1 passes: the second time is seen twice
    "legacy": ("PNDMScheduler", {}),  # the original's, with which published scores were made: see `sample_latents`
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "ddpm": ("DDPMScheduler", {"timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "heun": ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "lms": ("LMSDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
STOCHASTIC = ("ddpm", "euler-a")


def check(options: dict, schedule: dict) -> None:
    """UsageError where steps, guidance or scheduler make no sense with this noise schedule."""
    if options["scheduler"] not in SCHEDULERS:
        near = difflib.get_close_matches(options["scheduler"], SCHEDULERS, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"no scheduler '{options['scheduler']}'{hint} (there is: {', '.join(SCHEDULERS)})")
    most = schedule.get("num_train_timesteps", 1000)
    if {**schedule, **SCHEDULERS[options["scheduler"]][1]}.get("timestep_spacing") == "leading":
        most -= schedule.get("steps_offset", 0)  # they are counted from there
    if not 1 <= options["steps"] <= most:
        raise UsageError(f"--steps {options['steps']}: from 1 to {most}, with {options['scheduler']} over this noise schedule")
    for name, option in (("guidance", "--guidance"), ("text_guidance", "sampling.text_guidance")):
        if not (math.isfinite(options[name]) and options[name] >= 0):
            raise UsageError(f"{option} {options[name]:g}: a number from 0; up to 1 means none")


def scheduler_for(name: str, schedule: dict, steps: int):
    """A scheduler of diffusers over the noise schedule, its `timesteps` set."""
    import diffusers

    kind, more = SCHEDULERS[name]
    made = getattr(diffusers, kind).from_config({**schedule, **more})
    made.set_timesteps(steps)
    return made


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How much the sound and the text count; at 1 and below a condition is not guided on."""

    audio: float
    text: float

    @property
    def rows(self) -> list[tuple[bool, bool]]:
        """(text given?, sound given?) of the passes that a step needs, in the order of a batch."""
        if self.audio > 1 and self.text > 1:
            return [(False, False), (True, False), (True, True)]
        if self.audio > 1:
            return [(True, False), (True, True)]
        return [(False, True), (True, True)] if self.text > 1 else [(True, True)]

    def __call__(self, made: torch.Tensor) -> torch.Tensor:
        """(rows * B, ...) predictions, rows first -> (B, ...)."""
        made = made.chunk(len(self.rows))
        found = made[0]
        scales = [scale for scale in (self.text, self.audio) if scale > 1]
        for scale, less, more in zip(scales, made, made[1:], strict=False):
            found = found + scale * (more - less)
        return found


def conditions(unet, text: torch.Tensor, null_text: torch.Tensor, audio: torch.Tensor, null_audio: torch.Tensor, mask, frames: int, rows):
    """The network's condition of all passes of a step: each text and each sound is projected once, the null ones too.

    `text` (B, T, E), `audio` (B, N, A), each null (1, ...); `rows`: :attr:`Guidance.rows`.
    """
    both = unet.condition(torch.cat([null_text, text]), torch.cat([null_audio, audio]), mask, frames)
    given, null = torch.arange(1, len(text) + 1, device=text.device), torch.zeros(len(text), dtype=torch.long, device=text.device)
    which = [torch.cat([given if row[k] else null for row in rows]) for k in (0, 1)]
    return both.rows(*which)


@torch.no_grad()
def sample_latents(
    unet,
    image: torch.Tensor,
    noise: torch.Tensor,
    text: torch.Tensor,
    null_text: torch.Tensor,
    audio: torch.Tensor,
    null_audio: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    guidance: Guidance,
    scheduler: str,
    steps: int,
    schedule: dict,
    generators: list[torch.Generator] | None = None,
    dtype: torch.dtype = torch.float32,
    watch: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Latents (B, C, F, h, w), float32, from the scaled ones of the picture `image` (B, C, h, w) and the `noise` of the
    other frames (B, C, F - 1, h, w).

    `generators`: of each item, for schedulers that draw.  `watch(k, guided noise, latents)` sees pass k, without frame 0.

    PNDM's second pass averages both predictions and repeats the first step with that.  The original wrote the latents in
    place, over what the scheduler kept for it, so that its second pass steps on from the first one's result instead: "legacy".
    """
    device, batch, frames = image.device, len(image), noise.shape[2] + 1
    solver = scheduler_for(scheduler, schedule, steps)
    given = (one.to(device, dtype) for one in (text, null_text, audio, null_audio))
    condition = conditions(unet, *given, mask, frames, guidance.rows)
    passes = len(guidance.rows)
    first = image[:, :, None].float()
    latents = noise.to(device, torch.float32) * solver.init_noise_sigma
    more = {"generator": generators} if scheduler in STOCHASTIC and generators is not None else {}
    for k, timestep in enumerate(solver.timesteps):
        seen = torch.cat([first, solver.scale_model_input(latents, timestep)], 2).to(dtype)
        made = unet(seen.repeat(passes, 1, 1, 1, 1), timestep.to(device).expand(passes * batch), condition).float()
        made = guidance(made)[:, :, 1:]
        latents = solver.step(made, timestep, latents, **more).prev_sample
        if scheduler == "legacy" and k == 0:
            solver.cur_sample = latents
        if watch is not None:
            watch(k, made, latents)
    return torch.cat([first, latents], 2)


def seeded(seeds: list[int], shape: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Generator]]:
    """Standard normal noise (B, *shape), each item's from its own seed, and the generators for what is drawn later."""
    generators = [generator(seed, "sample") for seed in seeds]
    return torch.stack([torch.randn(shape, generator=one) for one in generators]), generators


def levels(pictures: torch.Tensor, truncate: bool = False) -> torch.Tensor:
    """0..1 -> whole levels, uint8; `truncate`: the original's, half a level too dark."""
    pictures = pictures.float().clamp(0, 1) * 255
    return (pictures if truncate else pictures.round()).to(torch.uint8)
