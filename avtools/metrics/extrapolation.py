"""The Fréchet distance extrapolated to infinitely many samples: what few samples add to it falls as one by their number.

Chong and Forsyth 2020 (arXiv:1911.07023) for pictures, Gui et al. 2023 (arXiv:2311.01616) for sound (FAD-infinity): distances of
draws of several sizes N, a straight line through them over 1 / N, and its value at 0.
"""

from typing import NamedTuple

from avtools.metrics import Skip
from avtools.metrics.frechet import Moments, distance

STEPS = 25  # sizes of draws
LEAST = 500  # vectors of the smallest draw, as far as there are enough of them


class Extrapolated(NamedTuple):
    """`value`: the line at 1 / N = 0, which noise may take below 0; `fit`: its coefficient of determination R^2."""

    value: float
    slope: float
    fit: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def sizes_of(count: int, features: int, least: int = 0, steps: int = STEPS) -> list[int]:
    """Up to `steps` sizes of draws from `count` vectors, evenly spaced in 1 / N from `least` to all of them, ascending.

    `least` 0: :data:`LEAST`, but twice the features at least (below that the covariance of a draw is singular or nearly so,
    and the line bends).  Skip where there are not twice as many vectors as that.
    """
    import numpy as np

    least = least or max(LEAST, 2 * features)
    if count < 2 * least:
        raise Skip(f"{count} vectors of {features} features; extrapolating to infinitely many needs {2 * least} or more")
    found = 1 / np.linspace(1 / least, 1 / count, steps)
    return sorted({round(float(size)) for size in found})


def extrapolated(vectors, reference: Moments, sizes=None, seed: int = 0, replace: bool = False) -> Extrapolated:
    """The distance of vectors (N, D) from `reference`, extrapolated over `sizes` of draws (2 different ones or more).

    Draws are made from one generator that starts from `seed`, each without the same vector twice, or with `replace`, as
    published for sound; that adds a bias of its own, for repeated vectors are fewer than they seem.
    `sizes` None: those of :func:`sizes_of`.
    """
    import numpy as np

    vectors = np.asarray(vectors)
    sizes = sizes_of(len(vectors), vectors.shape[1]) if sizes is None else [int(size) for size in sizes]
    random = np.random.default_rng(seed)
    found = [distance(Moments.of(vectors[np.sort(random.choice(len(vectors), size, replace=replace))]), reference) for size in sizes]
    return line(sizes, found)


def line(sizes, distances) -> Extrapolated:
    """The least-squares line of distances over 1 / size; two different sizes or more."""
    import numpy as np

    inverse, values = 1 / np.asarray(sizes, np.float64), np.asarray(distances, np.float64)
    if len(set(sizes)) < 2:
        raise ValueError("extrapolating needs draws of two sizes or more")
    apart, high = inverse - inverse.mean(), values - values.mean()
    slope = float(apart @ high / (apart @ apart))
    left = float(np.square(high - slope * apart).sum())
    fit = 1 - left / float(high @ high) if high.any() else 1.0
    return Extrapolated(float(values.mean() - slope * inverse.mean()), slope, fit, tuple(sizes), tuple(values.tolist()))
