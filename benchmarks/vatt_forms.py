"""How VATT's sound model is told what is seen and when, on equal training: the same clips, draws, steps, seed and network.

`python -m benchmarks.vatt_forms [--steps N] [--clips N] [--form N]... [--quick]` trains each form on generated clips (one process, one
thread, a CPU) and prints a table.  A converter of the form's rate of video tokens comes first, trained to write captions, then frozen, as
published; forms that differ in the rows of the audio alone share it.  Since what the audio rows are given is projected by weights
that train along, and the language model's states are not, there are unaligned forms, too, whose condition is the pooled features
themselves, projected by such weights: what they lack is the time alone.  Others than these clips are judged: how many masked tokens are
told right, onset-F1 within 50 ms and AV-Align of what is sampled, against own clips and against others' (`SHIFTS`).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import common
from .common import AVTOOLS

SEED, HELD, SHIFTS, TIMES = 5, 48, (1, 3, 5), 4  # TIMES: how often the masks of judged clips are drawn


class Form(NamedTuple):
    words: str
    aligned: bool  # features of the picture are added to the audio rows of their time
    rate: float  # video tokens a second that the language model sees
    along: bool = False  # the condition is the pooled features, projected by weights that train along, in place of the language model's states


FORMS = (
    Form("features on the audio rows of their time, and 4 video tokens a second (`tiny`)", True, 4.0),
    Form("features on the audio rows of their time, and 1 video token a second", True, 1.0),
    Form("12 unaligned video tokens a second", False, 12.0),
    Form("1 pooled video token a second (published)", False, 1.0),
    Form("12 unaligned tokens a second, trained along", False, 12.0, True),
    Form("1 pooled token a second, trained along", False, 1.0, True),
)


def clips(where: Path, count: int) -> list[dict]:
    """Rows of generated clips of 2 s with one object each."""
    asked = ("-n", count, "--seed", SEED, "--seconds", 2, "--fps", 24, "--size", "64x48", "--objects", 1)
    common.run(*AVTOOLS, "synth", *asked, "--absolute", "--no-fsync", "-q", "-j", 1, "-d", where, "--to", "jsonl", "-o", where / "clips.jsonl")
    return [json.loads(line) for line in (where / "clips.jsonl").read_text().splitlines()]


def items_of(system, rows: list[dict]) -> list[dict]:
    function, given = system.item_work()
    return [function(row, 0, given) for row in rows]


def batch_of(system, items: list[dict], rows: list[dict], draws: list[int]) -> dict:
    import torch

    keys = [row["id"] for row in rows]
    return {**system.collate(items), "draws": torch.tensor(draws), "keys": keys, "numbers": keys}


def train(system, rows: list[dict], steps: int, items: list[dict] | None = None, watch: Callable[[int], None] | None = None) -> None:
    """As the preset says but for the number of steps, without the trainer's processes; `watch(step)` after each step, from 1."""
    import numpy as np
    import torch

    from avtools.training.draws import draw_of

    config, items = system.config.train, items or items_of(system, rows)
    optimizer = torch.optim.AdamW(system.optimizers()["main"], config.lr, tuple(config.betas), weight_decay=config.weight_decay)
    rng, order, module = np.random.default_rng(0), [], system.trainable.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1, (step + 1) / config.warmup_steps) * 0.5 * (1 + np.cos(np.pi * step / steps))
        order = order if len(order) >= config.batch_size else rng.permutation(len(items)).tolist()
        which, order = order[: config.batch_size], order[config.batch_size :]
        with torch.no_grad():
            given = batch_of(system, [items[n] for n in which], [rows[n] for n in which], [draw_of(step, n) for n in which])
            batch = system.prepare(given, True)
        system.training_step(module, batch, step, "main")["loss"].backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if watch is not None:
            module.eval()
            watch(step + 1)
            module.train()
    module.eval()


class Judge:
    """Clips that are not trained on, with what happens in them: `events` (seconds) and the peaks of their flow."""

    def __init__(self, rows: list[dict]):
        from avtools.metrics import av_align
        from avtools.metrics.media import Pair

        self.rows, self.events, self.peaks, self.items = rows, [row["event_times"] for row in rows], [], None
        for row in rows:
            pair = Pair(row, {})
            flow = pair.watched("video", av_align.Flow())
            self.peaks.append((av_align.peak_times(flow, pair.facts["picture"]["fps"]), pair.facts["picture"]["fps"]))

    def heard(self, sounds: list, rate: int) -> dict[str, float]:
        """onset_f1 and av_align of sounds (n,), one for each clip, and the same "_exchanged": against the clips SHIFTS further on."""
        from avtools.metrics import av_align
        from avtools.metrics.onsets import detect, f1

        onsets, times = [detect(one, rate) for one in sounds], [av_align.onset_times(one, rate) for one in sounds]
        ways = {
            "onset_f1": lambda k, other: f1(onsets[k], self.events[other], 0.05)["onset_f1"],
            "av_align": lambda k, other: av_align.score(times[k], *self.peaks[other]),
        }
        return {name + tail: self._mean(way, shifts) for name, way in ways.items() for tail, shifts in (("", (0,)), ("_exchanged", SHIFTS))}

    def _mean(self, way, shifts) -> float:
        """Of all pairs in which there is something to judge."""
        from avtools.metrics import Skip

        values, count = [], len(self.rows)
        for shift in shifts:
            for k in range(count):
                try:
                    values.append(way(k, (k + shift) % count))
                except Skip:
                    continue
        return sum(values) / max(1, len(values))

    def figures(self, system) -> dict[str, float]:
        """Of a sound model: accuracy and loss of masked tokens, with own and others' conditions, and what :meth:`heard` says."""
        import torch

        from avtools.training.draws import draw_of

        self.items = self.items or items_of(system, self.rows)
        found: dict[str, list] = {}
        with torch.no_grad():
            for again in range(TIMES):
                given = batch_of(system, self.items, self.rows, [draw_of("judged", again, k) for k in range(len(self.rows))])
                own = system.prepare(given, False)
                parts = {"": own, "_exchanged": {**own, **{name: shifted(own[name]) for name in ("states", "mask", "visual")}}}
                for tail, batch in parts.items():
                    for name, values in system.evaluate(system.net, batch).items():
                        found.setdefault(name + tail, []).append(float(values.mean()))
            options, size, made = system.sample_options({"steps": None, "guidance": None, "scheduler": None}), system.config.sampling.batch_size, []
            items = [system.condition(row, options) for row in self.rows]
            for k in range(0, len(items), size):
                made += system.generate(items[k : k + size], [draw_of("sample", k + n) for n in range(len(items[k : k + size]))], options)
        return {name: sum(values) / len(values) for name, values in found.items()} | self.heard([one["sound"][:, 0] for one in made], made[0]["rate"])

    def best(self, system) -> dict[str, float]:
        """What :meth:`heard` says of the clips' own sound after the codec: no model of its tokens can be expected to be better."""
        import torch

        self.items = self.items or items_of(system, self.rows)
        sounds = [system.codec.decode(system.codec.encode(torch.from_numpy(item["waveform"])[None]))[0].numpy() for item in self.items]
        return self.heard(sounds, system.codec.rate)


def shifted(given):
    return given if given is None else given.roll(1, 0)


def audio(*sets: str, converter: str | None = None):
    """The `tiny` sound model, untrained, on a converter's run."""
    import torch

    from avtools import hub
    from avtools.models.vatt.config import PRESETS, Config
    from avtools.models.vatt.system import VattAudio
    from avtools.training import config as settings

    system = VattAudio(settings.resolve(Config, PRESETS, "tiny", None, sets))
    torch.manual_seed(0)
    system.build(hub.Weights({"converter": converter} if converter else {}), hub.Weights({}), torch.device("cpu"))
    return system


def along(system) -> None:
    """Condition it on pooled features in place of the language model's states; their projection trains."""
    import torch

    torch.manual_seed(1)
    system.net.project = torch.nn.Linear(system.config.features, system.config.net.dim)
    system._states = lambda features, instructions, cut=True: list(system.converter.pool(features))


def converter(folder: Path, rate: float, rows: list[dict], items: list[dict], steps: int) -> str:
    """A run of the `tiny` converter, trained at a rate of video tokens."""
    import numpy as np
    import torch

    from avtools import hub
    from avtools.models.vatt.config import CONVERTER_PRESETS, ConverterConfig
    from avtools.models.vatt.system import VattConverter
    from avtools.training import config as settings

    system = VattConverter(settings.resolve(ConverterConfig, CONVERTER_PRESETS, "tiny", None, [f"video_tokens_per_second={rate}"]))
    torch.manual_seed(0)
    system.build(hub.Weights({}), hub.Weights({}), torch.device("cpu"))
    plain = {"asked": np.zeros(0, np.uint8), "pictured": np.zeros(1, bool)}  # instructions of the pool
    train(system, rows, steps, [item | plain for item in items])
    hub.save_checkpoint(folder, {"model.safetensors": (system.trainable_state(), None)}, system.name, settings.as_dict(system.config))
    return str(folder)


def table_row(*cells) -> None:
    print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True)


def main() -> int:
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.vatt_forms", description="Forms of VATT's conditioning on equal training.")
    parser.add_argument("--steps", type=int, default=600, help="of the sound model; the converter takes two thirds (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=320, help="that are trained on (default: %(default)s)")
    parser.add_argument("--form", type=int, action="append", choices=range(1, len(FORMS) + 1), help="one of them, by its number (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works; the figures mean nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    steps, count, held = (4, 16, 8) if given.quick else (given.steps, given.clips, HELD)
    at = sorted({max(1, round(steps * share)) for share in (1 / 6, 1 / 3, 2 / 3, 1)})
    with common.folder() as where:
        rows = clips(where, count + held)
        rows, judge = rows[:count], Judge(rows[count:])
        items = items_of(audio(), rows)
        told = f"{count} clips of 2 s, {held} others judged, batches of {audio().config.train.batch_size}, cosine to step {steps}, one thread"
        print(f"`{' '.join(['python -m benchmarks.vatt_forms', *sys.argv[1:]])}`: {told}; {common.versions()}.\n")
        names = ("accuracy", "accuracy_exchanged", "onset_f1", "onset_f1_exchanged", "av_align", "av_align_exchanged")
        table_row("form", "steps", *(name.replace("_f1", "-F1").replace("av_align", "AV-Align").replace("_", ", ") for name in names), "training, s")
        print("|" + "---|" * (len(names) + 3), flush=True)
        runs: dict[float, str] = {}
        for form in (FORMS[number - 1] for number in given.form or range(1, len(FORMS) + 1)):
            if form.rate not in runs and not form.along:
                print(f"vatt_forms: a converter of {form.rate:g} video tokens a second ...", file=sys.stderr, flush=True)
                runs[form.rate] = converter(where / f"converter{form.rate:g}", form.rate, rows, items, max(1, steps * 2 // 3))
            sets = [f"aligned={str(form.aligned).lower()}", f"video_tokens_per_second={form.rate}"]
            if form.along:
                along(system := audio(*sets, "states_gb=0"))  # pooled features are wide, and soon made again
            else:
                system = audio(*sets, converter=runs[form.rate])
            one(system, form, rows, items, steps, at, judge, names)
        best = judge.best(audio())
        table_row("their own sound, through the codec", "", *(best.get(name, "") for name in names), "")
    return 0


def one(system, form: Form, rows, items, steps: int, at: list[int], judge: Judge, names) -> None:
    """Train a form; a row of the table at each of the steps `at`."""
    spent, begun = 0.0, time.perf_counter()

    def watch(step: int) -> None:
        nonlocal spent, begun
        if step in at:
            spent += time.perf_counter() - begun
            found = judge.figures(system)
            table_row(form.words, step, *(found[name] for name in names), f"{spent:.0f}")
            begun = time.perf_counter()

    train(system, rows, steps, items, watch)


if __name__ == "__main__":
    sys.exit(main())
