"""The kernel distance: from definitions, by blocks, and as a metric of a whole set."""

import itertools
import pickle

import numpy as np
import pytest

from avtools.errors import RowError
from avtools.metrics import BLOCKS, Jackknife, Skip, kernel
from avtools.metrics.kernel import Kernel, KernelDistance, columns_of, mmd2


class Kvd(KernelDistance):
    name, columns, unit = "kvd", columns_of("kvd", "", "clips"), "clips"


class Centred(Kvd):
    centred = True


def vectors(count, size, seed=0, offset=0.0):
    return (np.random.default_rng(seed).standard_normal((count, size)) + offset).astype(np.float32)


def by_definition(one, other, degree=3, coef=1.0) -> float:
    """Pair by pair, in Python's numbers."""

    def k(x, y):
        return (sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / len(x) + coef) ** degree

    own = [np.mean([k(side[i], side[j]) for i, j in itertools.permutations(range(len(side)), 2)]) for side in (one, other)]
    return float(sum(own) - 2 * np.mean([k(x, y) for x in one for y in other]))


@pytest.mark.parametrize("counts", [(2, 2), (9, 5), (5, 9)])
@pytest.mark.parametrize("block", [1, 3, 1024])
def test_blocks_of_any_size_give_what_the_definition_says(counts, block, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", block)
    one, other = vectors(counts[0], 6), vectors(counts[1], 6, 1, 0.5)
    assert mmd2(one, other) == pytest.approx(by_definition(one, other), rel=1e-9)
    assert mmd2(one, other, Kernel(2, coef=0.5)) == pytest.approx(by_definition(one, other, 2, 0.5), rel=1e-9)


def test_it_is_zero_on_average_for_sets_of_one_distribution_and_few_vectors_do_not_raise_it():
    found = [mmd2(vectors(12, 64, 2 * k), vectors(12, 64, 2 * k + 1)) for k in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 300**0.5 and min(found) < 0


def test_centring_takes_off_what_tells_the_means_apart():
    one, other = vectors(200, 8), vectors(200, 8, 1, 2.0)
    assert mmd2(one, other) > 50
    before = one.copy()
    assert abs(mmd2(one, other, centred=True)) < 0.2
    assert (one == before).all()


def test_one_vector_is_refused():
    with pytest.raises(ValueError, match="each set needs two"):
        mmd2(vectors(1, 4), vectors(5, 4))


def test_large_offsets_cost_no_digits():
    one, other = vectors(300, 16, offset=30), vectors(300, 16, 1, 30)
    exact = mmd2(one.astype(np.longdouble).astype(np.float64), other)
    swapped = mmd2(one[::-1], other[::-1])
    assert swapped == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("cls", [Kvd, Centred])
def test_a_set_in_blocks_gives_what_the_whole_gives_and_its_jackknife_what_each_rest_gives(cls):
    judged, true = vectors(90, 16, 0, 0.3), vectors(90, 16, 1)
    metric = pickle.loads(pickle.dumps(cls()))
    kept = Jackknife(metric)
    for k in range(90):
        kept.add(metric.features({"judged": judged[k : k + 1], "reference": true[k : k + 1]}), k * 7 % BLOCKS, None)
    values, intervals = kept.results()
    whole = mmd2(judged, true, centred=cls.centred)
    assert values == {"kvd": pytest.approx(whole, rel=1e-9), "kvd_samples": 90, "kvd_reference_samples": 90}
    blocks = np.arange(90) * 7 % BLOCKS
    rests = [mmd2(judged[blocks != b], true[blocks != b], centred=cls.centred) for b in range(BLOCKS)]
    spread = ((BLOCKS - 1) / BLOCKS * np.square(rests - np.mean(rests)).sum()) ** 0.5
    assert intervals["kvd"][1] - whole == pytest.approx(2.093 * spread, rel=0.02)
    assert intervals["kvd_samples"] is None


def test_sides_of_other_counts_and_sets_that_are_too_small():
    metric = Kvd()
    state = metric.start()
    for k in range(3):
        state = metric.accumulate(state, {"judged": vectors(1, 4, k), "reference": vectors(2, 4, 9 + k)})
    judged, true = np.concatenate([vectors(1, 4, k) for k in range(3)]), np.concatenate([vectors(2, 4, 9 + k) for k in range(3)])
    assert metric.finalize(state) == {"kvd": pytest.approx(mmd2(judged, true)), "kvd_samples": 3, "kvd_reference_samples": 6}
    with pytest.raises(Skip, match="1 clips in the smaller set"):
        metric.finalize(metric.accumulate(metric.start(), {"judged": vectors(1, 4), "reference": vectors(1, 4)}))


def test_features_that_are_no_numbers_are_that_rows_fault():
    with pytest.raises(RowError, match="reference clips are not finite"):
        Kvd().features({"judged": vectors(1, 4), "reference": np.full((1, 4), np.nan)})
