"""A Synchformer of the same classes, trained for minutes, finds by how much the sound of clips it never saw is shifted."""

import csv
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from avtools import hub  # noqa: E402
from avtools.metrics.media import Pair, Sound  # noqa: E402
from avtools.models.judges import sync  # noqa: E402

SHIFTS = (-1.0, -0.4, -0.2, 0.2, 0.4, 1.0)  # seconds by which the sound is late


@pytest.mark.learn
def test_injected_shifts_are_found(avtools, tmp_path, monkeypatch):
    import sync_training

    csv.field_size_limit(1 << 24)
    torch.set_num_threads(2)
    net = sync_training.train(sync_training.Clips(40), 220, 1800)
    torch.save(net.state_dict(), tmp_path / "synchformer_state_dict.pth")
    monkeypatch.setattr(sync.Synchformer, "side", sync_training.SIZE.picture)
    made = avtools("synth", "-n", "24", "--seconds", "10", "--fps", "25", "--size", "64x48", "--seed", "77", "-d", "clips")
    rows = list(csv.DictReader(io.StringIO(made.stdout)))
    paths = [tmp_path / row["path"] for row in rows if int(row["events"]) >= sync_training.EVENTS]
    metric = sync.Desync()
    metric.extractor.load("cpu", hub.Weights({"synchformer": str(tmp_path)}))
    found = np.array([_offsets(metric, path) for path in paths])
    errors, chance = np.abs(found - SHIFTS), np.abs(SHIFTS).mean()
    print(f"\nmean error {errors.mean():.3f} s (always 0: {chance:.3f} s), by shift {dict(zip(SHIFTS, errors.mean(0).round(3).tolist(), strict=True))}")
    print("median offset by shift", dict(zip(SHIFTS, np.median(found, 0).round(2).tolist(), strict=True)))
    assert len(found) >= 8
    assert (np.sign(np.median(found, 0)) == np.sign(SHIFTS)).all()
    assert errors.mean() < chance / 2 and np.abs(np.median(found, 0) - SHIFTS).max() <= 0.2


def _offsets(metric, path) -> list[float]:
    """`desync_offset` of the clip's sound, shifted by each of SHIFTS."""
    pair, found = Pair({"path": str(path)}, {}), []
    samples, rate = pair.sound.samples, pair.sound.rate
    for shift in SHIFTS:
        pair_ = pair.with_sound(Sound(np.roll(samples, round(shift * rate), axis=0), rate))
        item = metric.extractor.prepare(pair_, "audio")
        item = {"pictures": item["pictures"][25:-25], "sound": np.ascontiguousarray(item["sound"][16000:-16000])}  # without what came round
        found.append(metric.row({"decisions": metric.extractor.run([item])[0]})["desync_offset"])
    return found
