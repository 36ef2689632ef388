"""Rectified flow of two streams: times, losses, solvers (spec JavisDiT, section 3; DPO: section 5).

tau = t / 1000: x = (1 - tau) x0 + tau noise, velocity v = x0 - noise, so that a step from t to an earlier t' adds v (t - t') / 1000.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from avtools.errors import UsageError
from avtools.training.draws import generator

LENGTH = 1000.0  # of times
SOLVERS = {"euler": 1, "ab2": 1, "midpoint": 2, "heun": 2}  # passes of a step; all but the first, the original's, are of second order
TIMES = ("logit-normal", "uniform")


# --- times ---------------------------------------------------------------------------------------------------------


def shift_of(height: float, width: float, pictures: int, scale: float = 1.0, square: float = 512.0) -> float:
    """How far times move towards noise: more for larger pictures (pixels) and for more latent frames, 5 of 17 pictures.

    Of 2 to 16 pictures the original's count is 0, and so would all times be; here it is the codec's, 1 of 4 or fewer.
    """
    length = math.sqrt(5 * (pictures // 17) or -(-pictures // 4))
    return math.sqrt(height * width / square**2) * length * scale


def shifted(times: torch.Tensor, shift: float) -> torch.Tensor:
    """0..1000 -> 0..1000."""
    return LENGTH * shift * times / (LENGTH + (shift - 1) * times)


def logit_normal(normal: torch.Tensor, mean: float = 0.0, deviation: float = 1.0) -> torch.Tensor:
    """Times of standard normal numbers."""
    return LENGTH * torch.sigmoid(mean + deviation * normal)


def draw_times(draws, shift: float, kind: str = "logit-normal", device="cpu") -> torch.Tensor:
    """(B,) times for training, one for each draw, shifted."""
    if kind not in TIMES:
        raise UsageError(f"no distribution of times '{kind}' (there is: {', '.join(TIMES)})")
    sources = [generator(int(draw), "time") for draw in draws]
    if kind == "uniform":
        times = LENGTH * torch.stack([torch.rand((), generator=one) for one in sources])
    else:
        times = logit_normal(torch.stack([torch.randn((), generator=one) for one in sources]))
    return shifted(times, shift).to(device)


def steps_of(count: int, shift: float) -> list[float]:
    """`count` + 1 times from 1000 to 0."""
    even = LENGTH * (1 - torch.arange(count + 1, dtype=torch.float64) / count)
    return shifted(even, shift).tolist()


# --- training ------------------------------------------------------------------------------------------------------


def noisy(clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, made: torch.Tensor | None = None) -> torch.Tensor:
    """(B, C, T, ...) at `times` (B,); frames where `made` (B, T) is 0 stay clean."""
    tau = (times / LENGTH).view(-1, *[1] * (clean.dim() - 1)).to(clean)
    x = (1 - tau) * clean + tau * noise
    return x if made is None else torch.where(_frames(made, x).bool(), x, clean)


def loss(found: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, made: torch.Tensor | None = None, legacy: bool = False) -> torch.Tensor:
    """(B,) mean squared error of velocities over the frames that are made, (B, T).

    `found` may have as many channels again.  0 where none is made; `legacy`: 1, as the original logs.
    """
    error = (found[:, : clean.shape[1]].float() - (clean - noise).float()).square()
    if made is None:
        return error.flatten(1).mean(1)
    each = error.transpose(1, 2).flatten(2).mean(2)
    made = made.to(each)
    count = made.sum(1)
    return (each * made).sum(1) / count.clamp(min=1) + (count == 0).to(each) * float(legacy)


def losses(found: Mapping, clean: Mapping, noise: Mapping, made: Mapping | None = None, legacy: bool = False) -> dict[str, torch.Tensor]:
    """{"loss": (B,) their sum, "video": (B,), "sound": (B,)} of mappings of the streams there are."""
    parts = {name: loss(found[name], clean[name], noise[name], None if made is None else made[name], legacy) for name in found}
    return {"loss": sum(parts.values()), **parts}


def preference(policy: Mapping, reference: Mapping, beta: Mapping[str, float], regular: float = 0.1) -> dict[str, torch.Tensor]:
    """Preference objective of losses (2P,) of streams: P winners, then their P losers, at equal times and noise.

    {"loss": (P,)} and means: "<stream>", "<stream>_dpo", "<stream>_policy" (of winners), "<stream>_right" (share of
    pairs whose winner gained more over the reference than its loser).
    """
    total, means = 0.0, {}
    for name in policy:
        won, lost = policy[name].chunk(2)
        gain = (won - lost) - torch.sub(*reference[name].detach().chunk(2))
        dpo = -functional.logsigmoid(-beta[name] / 2 * gain)
        total = total + dpo + regular * won
        means |= {name: (dpo + regular * won).mean(), f"{name}_dpo": dpo.mean(), f"{name}_policy": won.mean(), f"{name}_right": (gain < 0).float().mean()}
    return {"loss": total, **means}


def _frames(made: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return made.view(len(made), 1, -1, *[1] * (like.dim() - 3))


# --- sampling ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to sample; the original's values."""

    steps: int = 30
    guidance: float = 7.0  # 1: none
    solver: str = "euler"

    def check(self) -> None:
        """UsageError where they make no sense."""
        if self.solver not in SOLVERS:
            near = difflib.get_close_matches(self.solver, SOLVERS, 1)
            raise UsageError(f"no scheduler '{self.solver}'{f'; did you mean {near[0]!r}?' if near else ''} (there is: {', '.join(SOLVERS)})")
        if not 1 <= self.steps <= LENGTH:
            raise UsageError(f"--steps {self.steps}: from 1 to {LENGTH:.0f}")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise UsageError(f"--guidance {self.guidance:g}: a number from 0; 1 means none")

    @property
    def rows(self) -> int:
        """How many times each sample is in a batch: with its condition, then, where guided, with the null one."""
        return 1 if self.guidance == 1 else 2


def _plus(latents, velocities, step: float) -> list[torch.Tensor]:
    return [x + v * step for x, v in zip(latents, velocities, strict=True)]


@torch.no_grad()
def sample(
    velocity: Callable,
    latents: tuple[torch.Tensor, ...],
    shift: float,
    settings: Settings,
    made: tuple[torch.Tensor, ...] | None = None,
    noise: tuple[torch.Tensor, ...] | None = None,
    watch: Callable[[int, float, list, list | None], None] | None = None,
) -> tuple[torch.Tensor, ...]:
    """Latents of the streams, float32, each (B, C, T, ...), from noise.

    `velocity(latents, times, masks)` gives the streams' velocities for :attr:`Settings.rows` * B rows, those with condition first; it may give as
    many channels again.  `made`: masks (B, T) of the streams; frames of 0 are given, clean, and never change.  Frames of a share
    between begin when the times come down to it, from the given ones and `noise`; until then they are given ones.  `watch(step, time, latents, masks)`
    sees what each step begins with.
    """
    settings.check()
    latents, rows = [one.float() for one in latents], settings.rows
    device, batch = latents[0].device, len(latents[0])
    times = steps_of(settings.steps, shift)
    if made is not None and noise is None and any(((one > 0) & (one < 1)).any() for one in made):
        raise ValueError("frames are made anew in part: give noise")

    def look(x, time: float, active):
        masks = None if active is None else [one.repeat(rows, 1) for one in active]
        found = velocity([one.repeat(rows, *[1] * (one.dim() - 1)) for one in x], torch.full((rows * batch,), time, device=device), masks)
        found = [one[:, : like.shape[1]].float() for one, like in zip(found, x, strict=True)]
        if rows == 2:
            found = [null + settings.guidance * (given - null) for given, null in (one.chunk(2) for one in found)]
        if active is not None:
            found = [torch.where(_frames(one, v), v, 0) for one, v in zip(active, found, strict=True)]
        return found

    active, begun, before, past = None, None, None, 0.0  # `before`, `past`: the last step's velocities and length
    for number, (now, following) in enumerate(zip(times, times[1:], strict=False)):
        if made is not None:
            earlier = active or [torch.zeros_like(one, dtype=torch.bool) for one in made]
            active = [one * LENGTH >= now * (1 - 1e-6) for one in made]
            begun = [one & ~old & (share < 1) for one, old, share in zip(active, earlier, made, strict=True)]
            if any(one.any() for one in begun):
                tau = now / LENGTH
                latents = [torch.where(_frames(one, x), (1 - tau) * x + tau * n, x) for one, x, n in zip(begun, latents, noise, strict=True)]
        if watch is not None:
            watch(number, now, latents, active)
        step = (now - following) / LENGTH
        direction = first = look(latents, now, active)
        if settings.solver == "ab2" and before is not None:
            bent = [(v - old) * (step / (2 * past)) for v, old in zip(first, before, strict=True)]
            if begun is not None:  # frames that begin have no velocity of before
                bent = [torch.where(_frames(one, v), 0, v) for one, v in zip(begun, bent, strict=True)]
            direction = _plus(first, bent, 1.0)
        elif settings.solver == "midpoint":
            direction = look(_plus(latents, first, step / 2), (now + following) / 2, active)
        elif settings.solver == "heun" and following > 0:  # a network is not at its best at 0; one step of first order keeps the whole of second
            second = look(_plus(latents, first, step), following, active)
            direction = [(one + two) / 2 for one, two in zip(first, second, strict=True)]
        before, past = first, step
        latents = _plus(latents, direction, step)
    return tuple(latents)
