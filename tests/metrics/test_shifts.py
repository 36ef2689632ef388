"""A judge of synchrony must find a shift that is put in, as Synchformer is tested; those with networks: test_synchformer_learns, test_avsync."""

import csv
import io

import numpy as np

from avtools.metrics import Skip
from avtools.metrics.media import Pair, Sound
from avtools.metrics.onsets import OnsetF1

SHIFTS = (-1.0, -0.4, -0.2, 0.2, 0.4, 1.0)  # seconds by which the sound is late


def test_onset_f1_finds_each_shift(avtools):
    csv.field_size_limit(1 << 24)
    made = avtools("synth", "-n", "8", "--seconds", "3", "--seed", "3", "-d", "clips")
    found = {shift: [] for shift in (0.0, *SHIFTS)}
    for row in csv.DictReader(io.StringIO(made.stdout)):
        pair = Pair({**row, "path": str(avtools.folder / row["path"])}, {})
        for shift, values in found.items():
            moved = np.roll(pair.sound.samples, round(shift * pair.sound.rate), axis=0)
            try:
                values.append(OnsetF1().row(pair.with_sound(Sound(moved, pair.sound.rate)))["onset_f1"])
            except Skip:
                values.append(np.nan)
    means = {shift: float(np.nanmean(values)) for shift, values in found.items()}
    assert means[0.0] > 0.9
    assert {shift: mean for shift, mean in means.items() if shift and mean > 0.3} == {}
