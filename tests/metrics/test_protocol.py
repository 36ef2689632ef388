"""What all metrics share: settings, intervals, sets in blocks, other rows' sounds."""

import json
import math

import numpy as np
import odd_metrics
import pytest

from avtools.errors import FatalError, UsageError
from avtools.metrics import Jackknife, Mean, Metric, Skip, check_installed, comparing, configured, scoring, student
from avtools.metrics.av_align import AvAlign
from avtools.metrics.onsets import OnsetF1
from avtools.models import registry
from avtools.rows import Record


def test_every_metric_says_what_it_is():
    from avtools.metrics import NEEDS, PLAIN

    for name in PLAIN | registry.METRICS:
        metric = registry.metric(name)
        assert metric.name == name and metric.title and metric.source
        assert metric.direction in ("higher", "lower", "none")
        assert set(metric.ranges) <= set(metric.columns)
        assert set(metric.needs) <= set(NEEDS)
        assert metric.network == (metric.released_run is not None) and metric.network == bool(metric.parts)
        for settings in metric.protocols.values():
            assert set(settings) <= set(metric.settings)


def test_student_is_that_of_the_tables():
    for freedom, value in ((2, 4.303), (4, 2.776), (10, 2.228), (30, 2.042), (1000, 1.962)):
        assert student(freedom) == pytest.approx(value, rel=0.01)


def test_a_mean_counts_skips_and_its_interval_covers():
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        mean = Mean()
        for value in draw.normal(3, 2, 12):
            mean.add(float(value), None)
        low, high = mean.interval()
        covered += low <= 3 <= high
    assert 0.92 < covered / 400 < 0.98
    mean.add(None, "silent")
    mean.add(None, "silent")
    assert mean.count == 12 and mean.skipped == {"silent": 2}
    assert mean.interval(2.9, 3.1)[0] >= 2.9 and mean.interval(2.9, 3.1)[1] <= 3.1


def test_of_one_or_two_rows_there_is_no_interval():
    mean = Mean()
    for value in (1.0, 2.0):
        mean.add(value, None)
        assert mean.interval() is None
    mean.add(3.0, None)
    assert mean.mean == 2 and mean.interval() == pytest.approx([2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)], abs=0.03)


def test_the_jackknife_leaves_each_block_out_once_and_covers():
    draw = np.random.default_rng(1)
    covered, rounds = 0, 300
    for _ in range(rounds):
        kept = Jackknife(odd_metrics.Spread())
        levels = draw.normal(-20, 5, 200)
        for k, level in enumerate(levels):
            kept.add({"level": np.array([level])}, k % 20, None)
        values, intervals = kept.results()
        assert values["spread"] == pytest.approx(levels.std())
        covered += intervals["spread"][0] <= 5 <= intervals["spread"][1]
    assert 0.88 < covered / rounds < 0.99


def test_a_set_of_nothing_or_of_one_block_has_no_number_and_no_interval():
    kept = Jackknife(odd_metrics.Spread())
    kept.add(None, 3, "silent")
    values, intervals = kept.results()
    assert isinstance(values["spread"], Skip) and intervals == {"spread": None}
    for level in (1.0, 2.0, 3.0):
        kept.add({"level": np.array([level])}, 3, None)
    values, intervals = kept.results()
    assert values["spread"] == pytest.approx(np.std([1, 2, 3])) and intervals == {"spread": None}
    assert kept.count == 3 and kept.skipped == {"silent": 1}


def test_settings_come_from_the_protocol_and_from_set():
    align, f1 = configured([AvAlign, OnsetF1], "javisbench", ("onset-f1.tolerance=0.1",))
    assert align.set == {"epsilon": 1e-6} and f1.set == {"tolerance": 0.1}
    assert configured([OnsetF1], None, ("tolerance=1",))[0].set == {"tolerance": 1.0}
    for classes, protocol, sets, words in (
        ([OnsetF1], "javisbench", (), "only their standard"),
        ([AvAlign], "vatt", (), "javisbench"),
        ([OnsetF1], None, ("tolerance",), "KEY=VALUE"),
        ([OnsetF1], None, ("tolerances=1",), "onset-f1.tolerance"),
        ([OnsetF1], None, ("tolerance=x",), "no number"),
        ([OnsetF1], None, ("tolerance=nan",), "finite"),
        ([OnsetF1], None, ("tolerance=-1",), "zero or more"),
        ([AvAlign], "javisbench", ("epsilon=1",), "fixes"),
    ):
        with pytest.raises(UsageError, match=words):
            configured(classes, protocol, sets)


def test_a_missing_package_is_fatal_and_says_how_to_get_it():
    class Needy(Metric):
        name, requires = "needy", (("no_such_module", "no-such-package"), ("json", "json"))

    with pytest.raises(FatalError, match="pip install no-such-package$"):
        check_installed(Needy)


def test_arrays_travel_as_json_unharmed():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array([np.nan]), "c": np.zeros((0, 4), np.int64)}
    back = scoring.unpacked(json.loads(json.dumps(scoring.packed(arrays))))
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array, equal_nan=name != "c")


def rows(*given) -> list[Record]:
    return [Record(dict(zip(("id", "audio_path", "class"), one, strict=True)), f"t:{k}") for k, one in enumerate(given)]


def partners(records, same=(), seed=0) -> list[str]:
    return [record.row[scoring.EXCHANGED] for record in scoring.with_partners(records, {}, None, same, seed)]


def test_sounds_are_exchanged_within_their_group_and_all_are_used():
    records = rows(*((f"{k}", f"{k}.wav", "ab"[k % 2]) for k in range(20)), ("20", "20.wav", "c"))
    found = partners(records, ("class",))
    assert found[20] == ""  # alone in its group
    assert sorted(found[:20]) == sorted(record.row["audio_path"] for record in records[:20])
    for k, sound in enumerate(found[:20]):
        assert int(sound[:-4]) % 2 == k % 2 and int(sound[:-4]) != k
    assert partners(records, ("class",)) == found != partners(records, ("class",), seed=1)


def test_partners_depend_on_keys_and_not_on_the_order():
    records = rows(*((f"{k}", f"{k}.wav", "") for k in range(9)))
    there, back = partners(records), partners(records[::-1])
    assert there == back[::-1]


def test_no_row_is_exchanged_with_another_sample_of_its_clip_or_with_its_own_sound():
    samples = rows(*((f"{k // 3}", f"{k}.wav", "") for k in range(9)))
    for record, sound in zip(samples, partners(samples), strict=True):
        assert int(sound[:-4]) // 3 != int(record.row["id"])
    captions = rows(*((f"{k}", f"{k // 3}.wav", "") for k in range(9)))
    for record, sound in zip(captions, partners(captions), strict=True):
        assert sound not in ("", record.row["audio_path"])


def test_a_row_without_sound_is_nobodys_partner():
    found = partners(rows(("0", "0.wav", ""), ("1", "", ""), ("2", "2.wav", "")))
    assert found == ["2.wav", "", "0.wav"]


def test_told_apart_means_beyond_both_intervals():
    def entry(low, high):
        return {"mean": (low + high) / 2, "interval": [low, high]}

    assert scoring.apart("higher", entry(0.5, 0.6), entry(0.1, 0.4)) is True
    assert scoring.apart("higher", entry(0.5, 0.6), entry(0.4, 0.55)) is False
    assert scoring.apart("higher", entry(0.1, 0.2), entry(0.5, 0.6)) is False  # a control that is better is worse still
    assert scoring.apart("lower", entry(0.1, 0.2), entry(0.5, 0.6)) is True
    assert scoring.apart("none", entry(0.1, 0.2), entry(0.5, 0.6)) is None
    assert scoring.apart("higher", {"mean": 1.0, "interval": None}, entry(0, 0.1)) is None


def test_facts_tell_values_while_they_are_few():
    fact = scoring.Fact()
    for value in (24.0, 30.0, 24.0):
        fact.add(value)
    assert fact.told() == {"min": 24.0, "max": 30.0, "values": [[24.0, 2], [30.0, 1]]}
    for value in range(100):
        fact.add(value)
    assert fact.told() == {"min": 0, "max": 99, "values": "more than 8"}


def test_what_is_no_summary_is_refused(tmp_path):
    for k, text in enumerate(("", "[]", '{"metrics": 3}', "{", '{"metrics": {}, "summary": 99}')):
        path = tmp_path / f"{k}.json"
        path.write_text(text)
        with pytest.raises(UsageError, match=str(path)):
            comparing.read(str(path))
    with pytest.raises(UsageError, match="No such file"):
        comparing.read(str(tmp_path / "none.json"))
