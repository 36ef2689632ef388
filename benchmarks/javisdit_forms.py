"""How the attention between JavisDiT's streams knows the time, on equal training: the same clips, draws, steps, seed and first values.

`python -m benchmarks.javisdit_forms [--steps N] [--clips N] [--form NAME]... [--quick]` trains `tiny` in each form on generated clips (one process,
one thread, a CPU), all with one prior, trained before, and prints a table.  Others than these clips are judged: the loss of each stream
where the other is given, own or another clip's; of sound made for a given picture, onset-F1 within 50 ms against the clip's events and
those of others; of sound and picture made together, the sound's onsets against where its picture is seen to light up, and another's; and
the same of sound that is made once more for that picture (sampling.second_pass).
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import common
from .vatt_forms import SHIFTS, clips, items_of, table_row

FORMS = {
    "rotary": "angles of their seconds (`tiny`)",
    "sinusoidal": "sines of their seconds",
    "none": "no time (published)",
}
HELD, TIMES = 32, 4  # clips that are judged; how often their losses are drawn
NEAR, SEEN = 0.05, 0.1  # seconds; the second with pictures, which are 1 / 8 s apart
RISE, BRIGHTEST = 10, 40  # grey levels by which a picture lights up; one of so many pixels, the brightest, are looked at
NAMES = ("sound_loss", "sound_loss_exchanged", "v2a_f1", "v2a_f1_exchanged", "t2av_f1", "t2av_f1_exchanged", "twice_f1", "twice_f1_exchanged")


# --- the systems ------------------------------------------------------------------------------------------------------


def made(cls, *sets: str, weights=None):
    """A `tiny` system of the class, untrained."""
    import torch

    from avtools import hub
    from avtools.training import config as settings

    system = cls(settings.resolve(cls.Config, cls.presets, "tiny", None, sets))
    torch.manual_seed(0)
    system.build(hub.Weights(weights or {}), hub.Weights({}), torch.device("cpu"))
    return system


def joint(prior: str, *sets: str):
    from avtools.models.javisdit.system import JavisDit

    return made(JavisDit, *sets, weights={"prior": prior})


def prior(folder: Path, rows: list[dict], steps: int) -> str:
    """A run of the `tiny` prior."""
    from avtools import hub
    from avtools.models.javisdit.system import JavisPrior
    from avtools.training import config as settings

    system = made(JavisPrior)
    train(system, rows, items_of(system, rows), steps)
    hub.save_checkpoint(folder, {"model.safetensors": (system.trainable.state_dict(), None)}, system.name, settings.as_dict(system.config))
    return str(folder)


def encoded(system, rows: list[dict]) -> list[dict]:
    """Items with latents and states in place of media: they are the same each time, so they are made once."""
    return system.encode(items_of(system, rows))


def batch_of(system, rows: list[dict], items: list[dict], draws: list[int], train: bool) -> dict:
    import torch

    return system.prepare({**system.collate(items), "draws": torch.tensor(draws), "keys": [row["id"] for row in rows]}, train)


def train(system, rows: list[dict], items: list[dict], steps: int, watch: Callable[[int], None] | None = None) -> None:
    """As the preset says but for the number of steps, without the trainer's processes; `watch(step)` after each step, from 1."""
    import numpy as np
    import torch

    from avtools.training.draws import draw_of

    config, module = system.config.train, system.trainable.train()
    learned = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learned, config.lr, tuple(config.betas), config.eps, config.weight_decay)
    rng, order = np.random.default_rng(0), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1, (step + 1) / config.warmup_steps) * 0.5 * (1 + np.cos(np.pi * step / steps))
        order = order if len(order) >= config.batch_size else rng.permutation(len(items)).tolist()
        which, order = order[: config.batch_size], order[config.batch_size :]
        with torch.no_grad():
            batch = batch_of(system, [rows[n] for n in which], [items[n] for n in which], [draw_of(step, n) for n in which], True)
        system.training_step(module, batch, step, "main")["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(learned, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if watch is not None:
            module.eval()
            watch(step + 1)
            module.train()
    module.eval()


# --- the judge --------------------------------------------------------------------------------------------------------


def lit(pictures, fps: float):
    """Seconds at which pictures (T, h, w, 3) uint8 light up: between a picture and one whose brightest pixels are brighter by :data:`RISE`."""
    import numpy as np

    grey = np.sort((pictures @ np.array([0.299, 0.587, 0.114])).reshape(len(pictures), -1), 1)
    glow = grey[:, -max(1, grey.shape[1] // BRIGHTEST) :].mean(1)
    return (np.flatnonzero(np.diff(glow) > RISE) + 0.5) / fps


def heard(results: list[dict]) -> list:
    """Seconds at which sounds of results of sampling begin."""
    from avtools.metrics.onsets import detect

    return [detect(one["sound"][:, 0], one["rate"]) for one in results]


def agreement(found: list, wanted: list, tolerance: float) -> dict[str, float]:
    """{"": mean F1 of times against their own, "_exchanged": against those of the clips SHIFTS further on}; pairs with no time are left out."""
    import numpy as np

    from avtools.metrics.onsets import f1

    count, values = len(found), {}
    for tail, shifts in (("", (0,)), ("_exchanged", SHIFTS)):
        pairs = [(found[k], wanted[(k + shift) % count]) for shift in shifts for k in range(count)]
        each = [f1(one, other, tolerance)["onset_f1"] for one, other in pairs if len(one) or len(other)]
        values[tail] = float(np.mean(each)) if each else 0.0
    return values


class Judge:
    """Clips that are not trained on."""

    def __init__(self, rows: list[dict]):
        self.rows, self.events, self.items = rows, [row["event_times"] for row in rows], None

    def losses(self, system) -> dict[str, float]:
        """Of sound and video where the other one is given: "sound_loss", "video_loss", and the same "_exchanged" where another clip's is."""
        import dataclasses

        import torch

        from avtools.models.javisdit.training import flow_losses
        from avtools.training.draws import draw_of

        self.items = self.items or encoded(system, self.rows)
        config, found = dataclasses.replace(system.config, dropout=0.0), {}
        with torch.no_grad():
            for again in range(TIMES):
                draws = [draw_of("judged", again, k) for k in range(len(self.rows))]
                own = batch_of(system, self.rows, self.items, draws, True)
                for what, given, mask in (("sound", "video", "video_to_audio"), ("video", "sound", "audio_to_video")):
                    for tail, batch in (("", own), ("_exchanged", {**own, given: own[given].roll(1, 0)})):
                        found.setdefault(f"{what}_loss{tail}", []).append(float(flow_losses(system.net, batch, config, {mask: 1.0})[what].mean()))
        return {name: sum(values) / TIMES for name, values in found.items()}

    def samples(self, system, task: str, second: str = "none") -> list[dict]:
        from avtools.training.draws import draw_of

        drawn = system.config.sampling
        drawn.task, drawn.second_pass = task, second
        options = system.sample_options({"steps": None, "guidance": None, "scheduler": None})
        items, found = [system.condition(row, options) for row in self.rows], []
        for k in range(0, len(items), drawn.batch_size):
            part = items[k : k + drawn.batch_size]
            found += system.generate(part, [draw_of("sample", k + n) for n in range(len(part))], options)
        return found

    def figures(self, system, sampled: bool = True) -> dict[str, float]:
        """Of a joint model: :meth:`losses`; where `sampled`, the F1 of what it makes, "v2a_f1", "t2av_f1", "twice_f1" with a second pass, and "_exchanged"."""
        found = self.losses(system)
        if not sampled:
            return found
        together, twice = (self.samples(system, "t2av", second) for second in ("none", "sound"))
        ways = {
            "v2a_f1": (self.samples(system, "v2a"), self.events, NEAR),
            **{name: (results, [lit(one["frames"], system.config.fps) for one in results], SEEN) for name, results in (("t2av_f1", together), ("twice_f1", twice))},
        }
        return found | {name + tail: value for name, (results, *wanted) in ways.items() for tail, value in agreement(heard(results), *wanted).items()}

    def best(self, system) -> dict[str, float]:
        """The same of the clips themselves, through the codecs: no model can be expected to be better."""
        import torch

        self.items, frozen = self.items or encoded(system, self.rows), system.frozen
        seconds, fps = system.buckets.seconds(0), system.config.fps
        sounds = [frozen.sound.decode(torch.from_numpy(item["sound"])[None], seconds)[0].numpy() for item in self.items]
        pictures = [(frozen.video.decode(torch.from_numpy(item["video"])[None])[0] * 255).round().permute(0, 2, 3, 1).numpy() for item in self.items]
        onsets = heard([{"sound": one[:, None], "rate": frozen.sound.rate} for one in sounds])
        ways = {"v2a_f1": (onsets, self.events, NEAR), "t2av_f1": (onsets, [lit(one, fps) for one in pictures], SEEN)}
        return {name + tail: value for name, way in ways.items() for tail, value in agreement(*way).items()}


# --- the comparison -----------------------------------------------------------------------------------------------------


def main() -> int:
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.javisdit_forms", description="Forms of JavisDiT's attention between streams on equal training.")
    parser.add_argument("--steps", type=int, help="of the joint training (default: as the preset `tiny` has)")
    parser.add_argument("--clips", type=int, default=320, help="that are trained on (default: %(default)s)")
    parser.add_argument("--form", action="append", choices=list(FORMS), help="one of them (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works; the figures mean nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with common.folder() as where:
        held, count = (4, 16) if given.quick else (HELD, given.clips)
        rows = clips(where, count + held)
        rows, judge = rows[:count], Judge(rows[count:])
        teacher = prior(where / "prior", rows[:64], 2 if given.quick else 40)
        first = joint(teacher)
        steps = 4 if given.quick else given.steps or first.config.train.max_steps
        at, items = sorted({max(1, round(steps * share)) for share in (1 / 2, 1)}), encoded(first, rows)
        told = f"{count} clips of 2 s, {held} others judged, batches of {first.config.train.batch_size}, cosine to step {steps}, one thread"
        print(f"`{' '.join(['python -m benchmarks.javisdit_forms', *sys.argv[1:]])}`: {told}; {common.versions()}.\n")
        table_row("form", "steps", *(name.replace("_exchanged", ", exchanged").replace("twice", "t2av, second pass").replace("_f1", " F1").replace("_", " ") for name in NAMES), "training, s")
        print("|" + "---|" * (len(NAMES) + 3), flush=True)
        for form in given.form or FORMS:
            one(joint(teacher, f"size.time_positions={form}"), FORMS[form], rows, items, steps, at, judge)
        best = judge.best(first)
        table_row("the clips themselves, through the codecs", "", *(best.get(name, "") for name in NAMES), "")
    return 0


def one(system, words: str, rows, items, steps: int, at: list[int], judge: Judge) -> None:
    """Train a form; a row of the table at each of the steps `at`, the last with samples."""
    spent, begun = 0.0, time.process_time()

    def watch(step: int) -> None:
        nonlocal spent, begun
        if step in at:
            spent += time.process_time() - begun
            found = judge.figures(system, step == steps)
            table_row(words, step, *(found.get(name, "") for name in NAMES), f"{spent:.0f}")
            begun = time.process_time()

    train(system, rows, items, steps, watch)


if __name__ == "__main__":
    sys.exit(main())
