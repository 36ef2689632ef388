"""Distances of sets of sounds and clips, divergences of classes and the inception score, from features to numbers."""

import numpy as np
import pytest

from avtools.errors import RowError, UsageError
from avtools.metrics import Jackknife, Skip, configured, named
from avtools.metrics.frechet import Moments, distance
from avtools.metrics.kernel import mmd2
from avtools.models import registry
from avtools.models.judges import distances
from avtools.models.judges.distances import Fad, Fd, FvdOfLogits, InceptionScore, Kld, Kvd

DRAW = np.random.default_rng(0)


def told(metric, rows: list[dict]) -> tuple[dict, dict]:
    """Values and intervals of a set of rows, blocks as in scoring."""
    kept = Jackknife(metric)
    for k, row in enumerate(rows):
        kept.add(metric.features(row), k % 20, None)
    return kept.results()


def pair(judged, true) -> dict:
    return {"judged": {"embedding": judged.astype(np.float32)}, "reference": {"embedding": true.astype(np.float32)}}


def test_the_frechet_distance_of_sounds_and_how_many_there_are():
    judged, true = DRAW.normal(0.5, 1, (40, 3, 8)), DRAW.normal(0, 2, (40, 3, 8))
    values, intervals = told(Fad(), [pair(*both) for both in zip(judged, true, strict=True)])
    whole = distance(Moments.of(judged.reshape(-1, 8)), Moments.of(true.reshape(-1, 8)))
    assert values["fad"] == pytest.approx(whole, rel=1e-5) and values["fad_samples"] == 120 == values["fad_reference_samples"]
    assert values["fad_lacking"] == 0 and intervals["fad"][0] < whole < intervals["fad"][1]
    assert [intervals[name] for name in ("fad_inf", "fad_samples", "fad_lacking")] == [None] * 3


def test_extrapolating_takes_the_bias_of_few_samples_off():
    """Sets from one distribution: the distance of 400 from many is far from 0, and extrapolated it is near."""
    found = []
    true = DRAW.standard_normal((4000, 16))
    for _ in range(5):
        judged = DRAW.standard_normal((400, 16))
        values, _ = told(Fd(), [pair(judged[k : k + 1], true[10 * k : 10 * k + 10]) for k in range(400)])
        found.append((values["fd"], values["fd_inf"]))
    plain, beyond = np.mean(found, axis=0)
    assert plain > 0.2 and abs(beyond) < plain / 4


def test_too_few_to_extrapolate_is_said():
    values, _ = told(Fd(), [pair(DRAW.standard_normal((1, 16)), DRAW.standard_normal((1, 16))) for _ in range(40)])
    assert isinstance(values["fd_inf"], Skip) and "too few to extrapolate" in str(values["fd_inf"])
    metric = Fd()
    state = metric.start()
    for _ in range(10):
        state = metric.accumulate(state, metric.features(pair(DRAW.standard_normal((1, 16)), DRAW.standard_normal((1, 16)))))
    (remark,) = metric.remarks(state)
    assert "10 vectors with 16 features" in remark


def test_the_benchmarks_distance_is_scaled_and_has_its_own_features():
    (metric,) = configured([Fad], "javisbench", ())
    judged, true = DRAW.normal(0, 1, (30, 1, 4)), DRAW.normal(1, 1, (30, 1, 4))
    values, _ = told(metric, [pair(*both) for both in zip(judged, true, strict=True)])
    assert values["fad"] == pytest.approx(1e4 * distance(Moments.of(judged[:, 0]), Moments.of(true[:, 0])), rel=1e-5)
    extractor, role = metric.wants()["judged"]
    assert (extractor.name, role) == ("audioclip", "audio") and extractor.set == {"rate": 16000, "seconds": 4.0, "level": "raw"}
    assert registry.metric("fvd").under("javisbench") is FvdOfLogits and FvdOfLogits(range="javisbench").wants()["judged"][0].set["range"] == "javisbench"


def test_the_published_kernel_distance_does_not_see_a_shift():
    judged, true = DRAW.normal(3, 1, (30, 1, 6)), DRAW.normal(0, 1, (30, 1, 6))
    rows = [pair(*both) for both in zip(judged, true, strict=True)]
    right, _ = told(Kvd(), rows)
    (metric,) = configured([Kvd], "javisbench", ())
    published, _ = told(metric, rows)
    assert right["kvd"] == pytest.approx(mmd2(judged[:, 0], true[:, 0]), rel=1e-5) and right["kvd"] > 5
    assert abs(published["kvd"]) < 0.1 * right["kvd"] and published["kvd_samples"] == 30


def logits(*values) -> dict:
    return {"logits": np.array(values, np.float32)}


def test_divergence_of_classes():
    entropy = pytest.importorskip("scipy.stats").entropy
    judged, true = DRAW.standard_normal(527), 2 * DRAW.standard_normal(527)
    softmax = [np.exp(one.astype(np.float32).astype(float)) / np.exp(one.astype(np.float32).astype(float)).sum() for one in (true, judged)]
    assert Kld().row({"judged": logits(*judged), "reference": logits(*true)}) == {"kld": pytest.approx(entropy(*softmax), rel=1e-4)}
    assert Kld().row({"judged": logits(*true), "reference": logits(*true)})["kld"] == pytest.approx(0, abs=1e-9)
    sure = Kld().row({"judged": logits(0.0, 2000.0), "reference": logits(2000.0, 0.0)})["kld"]
    assert np.isfinite(sure) and sure > 20
    assert Kld(activation="sigmoid").row({"judged": logits(0.0, 0.0), "reference": logits(0.0, 0.0)})["kld"] == 0


def test_inception_score_is_one_of_equals_and_the_number_of_sure_classes():
    alike, _ = told(InceptionScore(), [{"sound": logits(1.0, 2.0, 3.0)}] * 10)
    sure, intervals = told(InceptionScore(), [{"sound": logits(*(60.0 * (k % 4 == c) for c in range(4)))} for k in range(40)])
    assert alike["is"] == pytest.approx(1) and sure["is"] == pytest.approx(4, rel=1e-6) and sure["is_samples"] == 40
    assert intervals["is_samples"] is None
    with pytest.raises(UsageError, match="softmax"):
        InceptionScore(activation="sigmoid")
    with pytest.raises(RowError, match="not finite"):
        InceptionScore().features({"sound": logits(np.nan)})


def test_variants_are_those_that_are_listed():
    for name, variants in registry.VARIANTS.items():
        cls = registry.metric(name)
        assert cls.variants == variants, name
        for variant in variants:
            (metric,) = configured([cls], None, (), [named(f"{name}:{variant}", cls)])
            assert metric.set["model"] == variant
            if hasattr(metric, "wants"):
                assert all(extractor.parts for extractor, _ in metric.wants().values())
                assert {type(extractor) for extractor, _ in metric.wants().values()} <= set(cls.extractors)
    for name in registry.METRICS:
        assert not registry.metric(name).variants or name in registry.VARIANTS


def test_each_protocol_has_its_metrics():
    for name, metrics in registry.PROTOCOLS.items():
        classes = [registry.metric(one.partition(":")[0]) for one in metrics]
        variants = [named(one, cls) for one, cls in zip(metrics, classes, strict=True)]
        made = configured(classes, name, (), variants)
        assert len({column for metric in made for column in metric.columns}) == sum(len(metric.columns) for metric in made)
        for metric in made:
            assert name in type(metric).protocols or type(metric).settings == {}, (name, metric.name)


def test_wrong_settings_are_refused():
    for cls, settings in ((Fad, {"model": "passt"}), (Fad, {"seconds": -1.0}), (Fd, {"model": "clap"}), (Kld, {"activation": "none"}), (Fad, {"legacy": "javisbench"}), (Kvd, {"legacy": "x"})):
        with pytest.raises(UsageError):
            cls(**settings)
    assert distances.listener("panns", 8.0).set["seconds"] == 8.0


def test_extrapolating_is_done_once_for_the_table_and_the_summary(monkeypatch):
    lines, drawn = [], distances.line
    monkeypatch.setattr(distances, "line", lambda *arguments: lines.append(1) or drawn(*arguments))
    kept = Jackknife(Fd())
    for k in range(400):
        kept.add(kept.metric.features(pair(DRAW.standard_normal((1, 16)), DRAW.standard_normal((1, 16)))), k % 20, None)
    first, again = kept.results(), kept.results()
    assert first == again and isinstance(first[0]["fd_inf"], float) and len(lines) == 1
    kept.add(kept.metric.features(pair(DRAW.standard_normal((1, 16)), DRAW.standard_normal((1, 16)))), 3, None)
    assert kept.results()[0]["fd_inf"] != first[0]["fd_inf"] and len(lines) == 2
