"""The Fréchet distance of infinitely many samples."""

import numpy as np
import pytest

from avtools.metrics import Skip
from avtools.metrics.extrapolation import extrapolated, line, sizes_of
from avtools.metrics.frechet import Moments, distance

SIZE = 32
MIXED = np.random.default_rng(99).standard_normal((SIZE, SIZE)) / SIZE**0.5


def vectors(count, seed, offset=0.0):
    return np.random.default_rng(seed).standard_normal((count, SIZE)) @ MIXED + offset


def reference() -> Moments:
    """Of the distribution itself."""
    count = 10**9
    return Moments(count, np.zeros(SIZE), MIXED.T @ MIXED * (count - 1))


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_it_is_closer_to_the_truth_than_the_distance_of_all(offset):
    true = SIZE * offset**2
    plain, found = [], []
    for seed in range(8):
        some = vectors(1500, seed, offset)
        plain.append(distance(Moments.of(some), reference()) - true)
        result = extrapolated(some, reference(), seed=seed)
        found.append(result.value - true)
        assert result.slope > 0 and result.fit > 0.4
    assert np.mean(plain) > 0.1
    assert abs(np.mean(found)) < np.mean(plain) / 5


def test_the_same_seed_draws_the_same():
    some = vectors(1200, 0)
    one, same, another = (extrapolated(some, reference(), seed=seed) for seed in (1, 1, 2))
    assert one == same and one.value != another.value
    assert one.sizes[0] == 500 and one.sizes[-1] == 1200
    assert one.distances[-1] == pytest.approx(distance(Moments.of(some), reference()), rel=1e-9)  # all of them, each once


def test_drawing_with_repetition_makes_sets_look_smaller():
    some = vectors(1200, 0)
    once, again = (extrapolated(some, reference(), sizes=[400, 1200], replace=replace) for replace in (False, True))
    assert again.distances[1] > once.distances[1] * 1.3


def test_sizes_are_even_in_their_inverse_and_too_few_vectors_are_skipped():
    sizes = sizes_of(4000, 128)
    assert (sizes[0], sizes[-1], len(sizes)) == (500, 4000, 25)
    np.testing.assert_allclose(np.diff(1 / np.array(sizes)), -(1 / 500 - 1 / 4000) / 24, rtol=0.05)
    assert sizes_of(4096, 1024)[0] == 2048
    with pytest.raises(Skip, match="999 vectors of 128 features; .* needs 1000 or more"):
        sizes_of(999, 128)


def test_a_line_through_known_points():
    found = line([10, 20, 50], [3 + 40 / n for n in (10, 20, 50)])
    assert found.value == pytest.approx(3) and found.slope == pytest.approx(40) and found.fit == pytest.approx(1)
    flat = line([10, 20], [2.0, 2.0])
    assert (flat.value, flat.slope, flat.fit) == (2, 0, 1)
    with pytest.raises(ValueError, match="two sizes"):
        line([10, 10], [1, 2])
