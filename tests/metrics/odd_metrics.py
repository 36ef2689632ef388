"""Metrics for the tests of what is shared: of a set, with networks; and the program that knows them."""

import os

import numpy as np

from avtools.metrics import Metric, Skip


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


def main():
    """The command line with these metrics."""
    from avtools.cli import main
    from avtools.models import registry

    registry.METRICS |= {cls.name: f"odd_metrics:{cls.__name__}" for cls in (Spread, Peak, MeanPeak)}
    main()
