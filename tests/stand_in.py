"""Small systems for tests of the sampler: a tone whose pitch tells the picture's brightness, and noise that tells the seed.

What a row's column `do` asks for happens on its way: raise, bug, crash, slow (in the worker), bad (in the model).
"""

import dataclasses
import os
import signal
import sys
import time
from fractions import Fraction

import numpy as np

from avtools import hub
from avtools.errors import RowError
from avtools.system import System
from avtools.training.config import resolve

RATE = 8000


@dataclasses.dataclass
class Sampling:
    batch_size: int = 4


@dataclasses.dataclass
class Config:
    seconds: float = 0.5
    most: int = 1000  # items of a batch for which there is memory
    pause: float = 0.0  # seconds that a batch takes
    calls: str = ""  # file that gets a line for each item decoded and each batch generated
    needs_weights: bool = False
    encoder: str = "mean"
    sampling: Sampling = dataclasses.field(default_factory=Sampling)


def note(path: str, line: str) -> None:
    if path:
        with open(path, "a") as file:
            file.write(line + "\n")


def brightness(path: str) -> float:
    import av

    with av.open(path) as container:
        return float(next(container.decode(video=0)).to_ndarray(format="gray").mean())


class StandIn(System):
    name, title, source, licence = "stand-in", "A tone", "none", "none"
    parts = (hub.Part("", "the tone", "hf:nobody/stand-in", ("*.bin",), 1000, "none"),)
    Config = Config
    needs = ("path", "video_path")
    reads = ("path", "video_path", "text")
    presets = {"tiny": {"seconds": 0.25}}

    @classmethod
    def from_weights(cls, weights, preset=None, sets=()):
        return cls(resolve(cls.Config, cls.presets, preset, None, sets))

    def weights_digest(self, weights):
        if weights.get() is None and not self.config.needs_weights:
            return "none"
        return hub.digest(hub.locate(weights.get(), self.parts[0], self.name))

    def load(self, weights, device, dtype):
        note(self.config.calls, "load")

    def sample_options(self, given):
        return {"steps": given["steps"] or 5, "calls": self.config.calls}

    @staticmethod
    def condition(row, options):
        do = row.get("do")
        if do == "raise":
            raise RowError(f"{row['path']}: bad")
        if do == "bug":
            raise ZeroDivisionError("oops")
        if do == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if do == "slow":
            time.sleep(3)
        path = row.get("path") or row["video_path"]
        note(options["calls"], f"decode {path}")
        return {"level": brightness(path), "do": do, "weight": np.zeros(200_000, np.uint8)}

    def generate(self, items, seeds, options):
        note(self.config.calls, f"generate {len(items)}")
        time.sleep(self.config.pause)
        if len(items) > self.config.most:
            raise sys.modules["torch"].OutOfMemoryError("CUDA out of memory.")
        if any(one["do"] == "bad" for one in items):
            raise ValueError("cannot be generated")
        return [self.made(one, seed, options) for one, seed in zip(items, seeds, strict=True)]

    def made(self, one, seed, options):
        times = np.arange(round(self.config.seconds * RATE)) / RATE
        tone = np.sin(2 * np.pi * (200 + one["level"]) * times) * 0.5
        sound = tone + np.random.default_rng(seed).uniform(-0.1, 0.1, tone.shape)
        return {"sound": sound[:, None].astype(np.float32), "rate": RATE}

    def feature_options(self):
        return {"calls": self.config.calls}

    @staticmethod
    def feature_item(row, options):
        return StandIn.condition(row, options)

    def encode(self, items):
        note(self.config.calls, f"encode {len(items)}")
        return [{"level": np.array([one["level"]], np.float32)} for one in items]

    def encoder_facts(self):
        return {"encoder": self.config.encoder}


class Both(StandIn):
    """Sound and picture: frames of a grey that the seed tells."""

    name, makes = "both", ("sound", "picture")

    def made(self, one, seed, options):
        frames = np.full((10, 48, 64, 3), seed % 200, np.uint8)
        return {**super().made(one, seed, options), "frames": frames, "fps": Fraction(25)}


def main():
    """The program, with these systems besides its own."""
    from avtools.cli import main
    from avtools.models import registry

    registry.SYSTEMS.update({"stand-in": "stand_in:StandIn", "both": "stand_in:Both"})
    main()
