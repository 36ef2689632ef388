"""Metrics for the tests of what is shared: of a set, with networks; and the program that knows them."""

import os

import numpy as np

from avtools import hub
from avtools.metrics import Metric, Skip
from avtools.metrics.extracting import Extractor, OfFeatures
from avtools.metrics.pictures import Pictures


class Spread(Metric):
    """Standard deviation of the sounds' levels over the set."""

    name = "spread"
    title, source, direction, needs = "spread of levels", "tests", "lower", ("sound",)
    columns = {"spread": "dB"}
    per_row = False

    def features(self, item):
        level = float(np.sqrt(np.square(item.sound.samples, dtype=np.float64).mean()))
        if not level:
            raise Skip("silence has no level")
        return {"level": np.array([20 * np.log10(level)])}

    def start(self):
        return np.zeros(3)

    def accumulate(self, state, features):
        (level,) = features["level"]
        return state + [1, level, level**2]

    def merge(self, state, other):
        return state + other

    def finalize(self, state):
        count, total, squares = state
        if count < 2:
            raise Skip("one level has no spread")
        return {"spread": float(np.sqrt(max(0, squares / count - (total / count) ** 2)))}

    def remarks(self, state):
        return [f"the spread of {state[0]:g} levels tells little"] if state[0] < 4 else []


class _Network(Metric):
    source, direction, needs, network = "tests", "higher", ("sound",), True

    def prepare(self, pair):
        if pair.row.get("id") == "skipped":
            raise Skip("asked to")
        return {"sound": pair.sound.mono[:1000]}

    def load(self, device, weights):
        self.loaded = True

    def run(self, items):
        assert self.loaded
        with open(os.environ["BATCHES"], "a") as file:
            file.write(f"{self.name} {len(items)}\n")
        return [{"peak": np.abs(item["sound"]).max(keepdims=True)} for item in items]

    def weights_digest(self, weights):
        return f"digest of {weights.get(self.name)}"


class Peak(_Network):
    """The largest of the first 1000 samples, as if it took a network."""

    name, title = "peak", "peak by network"
    columns = {"peak": "full scale"}

    def row(self, item):
        return {"peak": float(item["peak"][0])}


class MeanPeak(_Network):
    """The set's mean of them."""

    name, title = "mean-peak", "mean peak by network"
    columns = {"mean_peak": "full scale"}
    per_row = False

    def start(self):
        return (0, 0.0)

    def accumulate(self, state, features):
        return self.merge(state, (1, float(features["peak"][0])))

    def merge(self, state, other):
        return (state[0] + other[0], state[1] + other[1])

    def finalize(self, state):
        if not state[0]:
            raise Skip("nothing")
        return {"mean_peak": state[1] / state[0]}


class Levels(Extractor):
    """Levels of pieces of a sound, as if it took a network; a file of weights multiplies them."""

    name, medium = "levels", "sound"
    settings = {"pieces": 4}
    requires, resampler, outputs = (), "soxr HQ to 8000 Hz mono", {"levels": "(pieces,)"}
    parts = (hub.Part("levels", "a number", "", ("levels.bin",), 1, "none"),)

    def prepare(self, pair, role):
        sound = pair.heard(role, 8000)
        if not sound.any():
            raise Skip("silence has no levels")
        return {"sound": sound}

    def load(self, device, weights):
        self.factor = float(self.locate(weights).read_text())

    def run(self, items):
        with open(os.environ["BATCHES"], "a") as file:
            file.write(f"{self.name} {len(items)}\n")
        return [
            {"levels": np.array([self.factor * np.abs(part).mean() for part in np.array_split(item["sound"], self.set["pieces"])], np.float32)}
            for item in items
        ]


class Colours(Extractor):
    """Mean colours of what is shown each half second."""

    name, medium = "colours", "picture"
    settings, requires, outputs = {}, (), {"colours": "(T, 3)"}
    parts = (hub.Part("colours", "a number", "", ("colours.bin",), 1, "none"),)
    pictures = Pictures(fps=2, size=(8, 8))

    def prepare(self, pair, role):
        return {"pictures": pair.seen(role, self.pictures).pictures}

    def load(self, device, weights):
        pass

    def run(self, items):
        with open(os.environ["BATCHES"], "a") as file:
            file.write(f"{self.name} {len(items)}\n")
        return [{"colours": item["pictures"].mean((1, 2), dtype=np.float32)} for item in items]


class Level(OfFeatures):
    """The sound's mean level, or its share of the reference's."""

    name, title, source, direction, needs = "level", "level", "tests", "higher", ("sound",)
    columns = {"level": "full scale"}
    extractors = (Levels,)
    settings, variants, protocols = {"model": "four"}, ("four", "eight"), {"paper": {"model": "eight"}}

    def wants(self):
        return {"sound": (Levels(pieces={"four": 4, "eight": 8}[self.set["model"]]), "audio")}

    def row(self, item):
        return {"level": float(item["sound"]["levels"].mean())}


class Share(OfFeatures):
    """The sound's level by that of its reference, and the picture's brightness."""

    name, title, source, direction, needs = "share", "share", "tests", "higher", ("sound", "reference_sound")
    columns = {"share": "of the reference's level"}
    extractors = (Levels,)

    def wants(self):
        return {"judged": (Levels(), "audio"), "reference": (Levels(), "reference_audio")}

    def row(self, item):
        return {"share": float(item["judged"]["levels"].mean() / item["reference"]["levels"].mean())}


class Light(OfFeatures):
    """The picture's brightness times the sound's level."""

    name, title, source, direction, needs = "light", "light", "tests", "higher", ("picture", "sound")
    columns = {"light": "levels"}
    extractors = (Levels, Colours)

    def wants(self):
        return {"sound": (Levels(), "audio"), "picture": (Colours(), "video")}

    def row(self, item):
        return {"light": float(item["picture"]["colours"].mean() * item["sound"]["levels"].mean())}


def main():
    """The command line with these metrics."""
    from avtools.cli import main
    from avtools.models import registry

    registry.METRICS |= {cls.name: f"odd_metrics:{cls.__name__}" for cls in (Spread, Peak, MeanPeak, Level, Share, Light)}
    main()
