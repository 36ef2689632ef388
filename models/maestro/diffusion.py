"""The diffusion of the video model: its noise with the scale trick, its DDIM, diffusers' solvers on the same noise, guidance (spec MAESTRO, section 3).

VideoCrafter2 noises a clean latent to sqrt(abar) s x0 + sqrt(1 - abar) n, where s falls from 1 to 0.7.  Divided by
c = sqrt(abar s**2 + 1 - abar) that is ordinary noise of another schedule with the same n, so that every solver of
diffusers serves: it sees x / c, the network x.
"""

import dataclasses
import difflib
from collections.abc import Callable

import torch

from avtools.errors import UsageError
from avtools.models.maestro.config import NOISE_SCHEDULE as SCHEDULE
from avtools.models.avsyncd import sampling as solvers
from avtools.models.avsyncd.sampling import seeded  # noqa: F401 - (seeds, shape) -> noise and generators, for `sample`
from avtools.models.vta_ldm.diffusion import alphas_cumprod, plain

PREDICTIONS = ("epsilon", "v_prediction", "sample")
SCALED = "scaled-ddim"  # VideoCrafter2's own solver; without a scale it is DDIM at times that begin with 1
SCHEDULERS = (SCALED, *(name for name in solvers.SCHEDULERS if name != "legacy"))


class Noise:
    """A noise schedule: x_t = signal(t) x0 + spread(t) n.

    `fields`: diffusers' of a schedule, and `scale_floor` with `scale_times`: s falls linearly from 1 to the floor over so
    many times and stays there; without them it is 1.
    """

    def __init__(self, fields: dict):
        self.fields = plain(fields)
        self.prediction = self.fields.get("prediction_type", "epsilon")
        if self.prediction not in PREDICTIONS:
            raise UsageError(f"no prediction '{self.prediction}' (there is: {', '.join(PREDICTIONS)})")
        floor, times = self.fields.pop("scale_floor", 1.0), self.fields.pop("scale_times", 0)
        self.alphas = alphas_cumprod(self.fields)
        self.scale = torch.full_like(self.alphas, floor)
        self.scale[:times] = torch.linspace(1, floor, times, dtype=torch.float64)[: len(self.scale)].float()
        self.scaled = floor != 1
        self.length = (self.alphas * self.scale**2 + 1 - self.alphas).sqrt()  # c above

    def __len__(self) -> int:
        return len(self.alphas)

    def signal(self, times: torch.Tensor) -> torch.Tensor:
        """sqrt(abar) s at whole `times`."""
        return (self.alphas.sqrt() * self.scale)[times.cpu()]

    def spread(self, times: torch.Tensor) -> torch.Tensor:
        """sqrt(1 - abar)."""
        return (1 - self.alphas).sqrt()[times.cpu()]

    def add(self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Noisy latents (B, ...) at `times` (B,)."""
        return _like(self.signal(times), latents) * latents + _like(self.spread(times), latents) * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """What the network is to predict at `times` (B,): the noise, the latents, or v = (signal n - spread x0) / c."""
        if self.prediction != "v_prediction":
            return noise if self.prediction == "epsilon" else latents
        signal, spread = (_like(one(times) / self.length[times.cpu()], latents) for one in (self.signal, self.spread))
        return signal * noise - spread * latents

    def split(self, made: torch.Tensor, x: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(clean latents, noise) that a prediction (B, ...) means, of x at `times` (B,)."""
        signal, spread, length = (_like(one, x) for one in (self.signal(times), self.spread(times), self.length[times.cpu()]))
        if self.prediction == "epsilon":
            return (x - spread * made) / signal, made
        if self.prediction == "sample":
            return made, (x - signal * made) / spread
        return (signal * x / length - spread * made) / length, (spread * x / length + signal * made) / length

    def plain(self) -> dict:
        """Diffusers' fields of the schedule that x / c has."""
        fields = {"skip_prk_steps": True, **self.fields}  # PNDM's first steps, where a folder does not say otherwise
        if not self.scaled:
            return fields
        share = (self.alphas.double().sqrt() * self.scale / self.length) ** 2
        betas = 1 - share / torch.cat([share.new_ones(1), share[:-1]])
        return {**fields, "trained_betas": betas.tolist()}


def _like(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.to(x.device).view(-1, *[1] * (x.dim() - 1))


# --- solvers -----------------------------------------------------------------------------------------------------


class ScaledDdim:
    """VideoCrafter2's DDIM: `steps` passes from high times to low ones.

    `eta`: the share of fresh noise, 1 as released; it is added in the last step too.  `legacy`: the times of the original,
    which takes more steps than asked for where they do not divide the schedule (30 -> 31).
    """

    def __init__(self, noise: Noise, steps: int, eta: float = 1.0, legacy: bool = False):
        self.noise, count = noise, len(noise)
        times = list(range(0, count, count // steps)) if legacy else [k * count // steps for k in range(steps)]
        self.times = [min(time + 1, count - 1) for time in times] if steps < count else times  # the original begins at 1
        ascending = torch.tensor(self.times)
        alphas, scale = noise.alphas.double()[ascending], noise.scale[ascending]
        before = torch.cat([noise.alphas[:1].double(), alphas[:-1]])  # the last step ends at time 0, not at the picture
        sigmas = eta * ((1 - before) / (1 - alphas) * (1 - alphas / before)).clamp(min=0).sqrt()
        found = {"alphas": alphas, "alphas_prev": before, "sigmas": sigmas, "scale": scale, "scale_prev": torch.cat([noise.scale[:1], scale[:-1]])}
        self.table = {name: values.flip(0).float() for name, values in found.items()}  # in the order of the steps
        self.times.reverse()
        self.stochastic = eta > 0

    def __len__(self) -> int:
        return len(self.times)

    def step(self, made: torch.Tensor, number: int, x: torch.Tensor, fresh: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(x of the next time, clean latents) from the prediction in step `number`; `fresh`: noise like x, for eta above 0."""
        clean, noise = self.noise.split(made, x, torch.full((len(x),), self.times[number]))
        alpha, sigma, scale = (self.table[name][number].to(x) for name in ("alphas_prev", "sigmas", "scale_prev"))
        following = alpha.sqrt() * scale * clean + (1 - alpha - sigma**2).clamp(min=0).sqrt() * noise
        return (following + sigma * fresh if self.stochastic else following), clean


def check(settings: "Settings", noise: Noise) -> None:
    """UsageError where settings make no sense with this noise."""
    name = settings.scheduler
    if name != SCALED and name not in SCHEDULERS:
        near = difflib.get_close_matches(name, SCHEDULERS, 1)
        raise UsageError(f"no scheduler '{name}'{f'; did you mean {near[0]!r}?' if near else ''} (there is: {', '.join(SCHEDULERS)})")
    if name == SCALED:
        if not 1 <= settings.steps <= len(noise):
            raise UsageError(f"--steps {settings.steps}: from 1 to {len(noise)}, with {name} over this noise schedule")
        if not 0 <= settings.eta <= 1:
            raise UsageError(f"sampling.eta {settings.eta:g}: from 0 to 1")
    options = {"scheduler": "ddim" if name == SCALED else name, "steps": settings.steps, "guidance": settings.guidance, "text_guidance": 0.0}
    solvers.check(options, noise.fields)
    if name == "pndm" and settings.steps < 4 and not noise.fields.get("skip_prk_steps", True):
        raise UsageError(f"--steps {settings.steps}: 4 at least, with pndm as this noise schedule begins it (skip_prk_steps)")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to sample; VideoCrafter2's and the original script's values."""

    steps: int = 50
    scheduler: str = SCALED
    guidance: float = 12.0  # up to 1: none
    eta: float = 1.0  # of scaled-ddim
    legacy_times: bool = False  # of scaled-ddim: more steps than asked for where they do not divide the schedule

    @property
    def guided(self) -> bool:
        return self.guidance > 1


@torch.no_grad()
def sample(
    unet,
    noise: torch.Tensor,
    context: torch.Tensor,
    null: torch.Tensor,
    schedule: Noise,
    settings: Settings,
    *,
    fps: torch.Tensor | float | None = None,
    generators: list[torch.Generator] | None = None,
    begin: Callable[[int], object] | None = None,
    dtype: torch.dtype = torch.float32,
    fresh: Callable[[int], torch.Tensor] | None = None,
    watch: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Latents (B, C, T, h, w), float32, from `noise` of that shape.

    `context` (B, T, L, D) or (B, L, D) of what is wanted, `null` alike, or with a batch of 1, of the guidance's other side.
    Where there is guidance both go through the network as one batch, the B null rows first and the B wanted ones last, and
    alike in all steps.  `begin(step)`, from 0, is called before the network is, as :meth:`Mosaic.at` wants it.
    `generators`: of each item, for solvers that draw, so that no item depends on its batch; `fresh(step)` (B, C, T, h, w) in
    their place.  `watch(step, latents, clean)` sees what a step makes (clean: None of diffusers' solvers).
    """
    device, batch = noise.device, len(noise)
    guided = settings.guided
    context = context.to(device, dtype)
    if guided:
        null = null.to(device, dtype)
        if null.dim() < context.dim():
            null = null[:, None]
        elif context.dim() < null.dim():
            context = context[:, None].expand(-1, noise.shape[2], -1, -1)
        context = torch.cat([null.expand_as(context), context])
    passes = 2 if guided else 1
    rate = fps if not isinstance(fps, torch.Tensor) or not fps.dim() else fps.to(device).repeat(passes)

    def predict(x: torch.Tensor, time: float) -> torch.Tensor:
        made = unet(x.to(dtype).repeat(passes, 1, 1, 1, 1), torch.full((passes * batch,), time, device=device), context, fps=rate).float()
        if guided:
            without, wanted = made.chunk(2)
            made = without + settings.guidance * (wanted - without)
        return made

    def draw(number: int) -> torch.Tensor:
        if fresh is not None:
            return fresh(number).to(noise)
        if generators is None:
            raise ValueError("this solver draws: give generators")
        return torch.stack([torch.randn(noise.shape[1:], generator=one, device=one.device) for one in generators]).to(noise)

    begin = begin or (lambda step: None)
    if settings.scheduler == SCALED:
        return _scaled(predict, noise, schedule, settings, draw, begin, watch)
    return _general(predict, noise, schedule, settings, generators, begin, watch)


def _scaled(predict, x, schedule, settings, draw, begin, watch):
    solver = ScaledDdim(schedule, settings.steps, settings.eta, settings.legacy_times)
    x = x.float()
    for number, time in enumerate(solver.times):
        begin(number)
        x, clean = solver.step(predict(x, time), number, x, draw(number) if solver.stochastic else None)
        if watch is not None:
            watch(number, x, clean)
    return x


def _general(predict, x, schedule, settings, generators, begin, watch):
    """A solver of diffusers, which sees x / c, while the network sees x."""
    solver = solvers.scheduler_for(settings.scheduler, schedule.plain(), settings.steps)
    given = {"generator": generators} if settings.scheduler in solvers.STOCHASTIC and generators is not None else {}
    y = x.float() * solver.init_noise_sigma
    count = len(solver.timesteps)  # of passes, of which some solvers make several in a step
    for number, time in enumerate(solver.timesteps):
        begin(number * settings.steps // count)
        length = _between(schedule.length, float(time))
        y = solver.step(predict(solver.scale_model_input(y, time) * length, time.item()), time, y, **given).prev_sample
        if watch is not None:
            watch(number, y, None)
    return y  # c of what has no noise is 1


def _between(table: torch.Tensor, time: float) -> float:
    """Of a table by whole times, linear between them."""
    low = min(max(int(time), 0), len(table) - 1)
    high = min(low + 1, len(table) - 1)
    return float(table[low] + (table[high] - table[low]) * (time - low))
