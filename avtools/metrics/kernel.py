"""The kernel distance of two sets of feature vectors: unbiased squared maximum mean discrepancy; KVD and KID are of its kind.

Gretton et al. 2012 (JMLR 13), equation 3, with the polynomial kernel k(x, y) = (gamma <x, y> + coef)^degree of Binkowski
et al. 2018 (arXiv:1801.01401); all sums in float64.  Unlike the Fréchet distance it is unbiased for any number of vectors, and may come
out below 0.  It needs every pair of vectors, so a set's vectors are all kept, and their kernel is summed up block by block.
"""

import math
from typing import NamedTuple

from avtools.metrics.parts import SIDES, Parts, SetDistance

BLOCK = 1024  # vectors on each side of the kernel at once: 8 MB of it


class Kernel(NamedTuple):
    """(gamma <x, y> + coef)^degree; `gamma` 0: one by the number of features."""

    degree: int = 3
    gamma: float = 0.0
    coef: float = 1.0

    def of(self, one, other):
        """(M, D), (N, D) -> (M, N), float64."""
        import numpy as np

        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        base = one @ other.T * (self.gamma or 1 / one.shape[1]) + self.coef
        found = base.copy()
        for _ in range(self.degree - 1):  # faster than a power
            found *= base
        return found

    def total(self, one, other=None) -> float:
        """The sum over all pairs; without `other`, over ordered pairs of different vectors of `one`."""
        import numpy as np

        parts, second = [], one if other is None else other
        for k in range(0, len(one), BLOCK):
            for m in range(0 if other is not None else k, len(second), BLOCK):
                block = self.of(one[k : k + BLOCK], second[m : m + BLOCK])
                if other is None and m == k:
                    np.fill_diagonal(block, 0)
                parts.append(float(block.sum()) * (2 if other is None and m > k else 1))
        return float(np.sum(parts))


def mmd2(one, other, kernel: Kernel = Kernel(), centred: bool = False) -> float:
    """Unbiased MMD^2 of vectors (M, D) and (N, D), M and N above 1; 0 on average where both come from one distribution.

    `centred`: each set's own mean is taken off before, so that what tells their means apart is lost.  That is no distance
    of the sets; published KVD values of JavisBench were computed so.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(f"{len(one)} and {len(other)} vectors: each set needs two")
    if centred:
        one, other = (_centred(side) for side in (one, other))
    return _joined(kernel.total(one), kernel.total(other), kernel.total(one, other), len(one), len(other))


def _joined(own: float, others: float, across: float, count: int, other_count: int) -> float:
    return own / (count * (count - 1)) + others / (other_count * (other_count - 1)) - 2 * across / (count * other_count)


def _centred(vectors):
    import numpy as np

    vectors = np.asarray(vectors, np.float64)
    return vectors - vectors.mean(axis=0)


class Part:
    """Some rows' vectors of both sides; its kernel's sums with other parts are worked out once."""

    def __init__(self):
        self.waiting: dict[str, list] = {side: [] for side in SIDES}

    def add(self, features: dict) -> None:
        for side in SIDES:
            if len(features[side]):
                self.waiting[side].append(features[side])

    def vectors(self, side: str):
        """(N, D), in the order they came; None where there are none."""
        import numpy as np

        waiting = self.waiting[side]
        if len(waiting) > 1:
            self.waiting[side] = waiting = [np.concatenate(waiting)]
        return waiting[0] if waiting else None


class State(Parts):
    """Parts of a set."""

    new = Part


def columns_of(name: str, what: str, samples: str) -> dict[str, str]:
    """The columns of a :class:`KernelDistance`.  `samples`: what each gives a vector."""
    return {name: what, f"{name}_samples": f"judged {samples}", f"{name}_reference_samples": f"{samples} of the references"}


class KernelDistance(SetDistance):
    """MMD^2 of what is judged from its references.

    Every vector is kept in memory as it comes (D numbers each).  `kernel` and `centred` are those of :func:`mmd2`, `factor` multiplies its value.
    """

    state = State
    kernel: Kernel = Kernel()
    centred: bool = False
    factor: float = 1.0

    @property
    def alone(self):
        return frozenset(list(type(self).columns)[1:])

    def add(self, part, features):
        part.add(features)

    def _finalized(self, state) -> dict:
        vectors = {side: [part for part in state.parts if part.vectors(side) is not None] for side in SIDES}
        counts = [sum(len(part.vectors(side)) for part in vectors[side]) for side in SIDES]
        self._check(counts)
        if self.centred:  # what is taken off depends on all parts: nothing can be kept
            import numpy as np

            found = mmd2(*(np.concatenate([part.vectors(side) for part in vectors[side]]) for side in SIDES), self.kernel, True)
        else:
            found = _joined(*(self._sum(vectors, *sides) for sides in (SIDES[:1] * 2, SIDES[1:] * 2, SIDES)), *counts)
        return dict(zip(type(self).columns, (self.factor * found, *counts), strict=True))

    def _sum(self, vectors: dict, side: str, other: str) -> float:
        """The kernel's sum over the pairs of all parts, of different vectors only."""
        total = []
        for k, part in enumerate(vectors[side]):
            for m, second in enumerate(vectors[other]):
                if side == other and m < k:
                    continue
                key = side, other, id(part), id(second)
                if key not in self._known:
                    itself = side == other and m == k
                    one, two = part.vectors(side), None if itself else second.vectors(other)
                    self._known[key] = (part, second), self.kernel.total(one, two) * (2 if side == other and not itself else 1)
                total.append(self._known[key][1])
        return math.fsum(total)
