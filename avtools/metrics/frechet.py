"""The Fréchet distance of two sets of feature vectors, from sums over the rows; FVD and FID are of its kind.

All in float64.  A set is its count, its mean and its scatter about it, which are put together from those of parts (Chan
et al. 1983); only a part's last vectors are kept as they are, so memory does not grow with the rows.
"""

from avtools.metrics import Skip
from avtools.metrics.parts import SIDES, Parts, SetDistance

KEPT = 256  # vectors of a part that wait to be summed up, or a quarter as many as there are features: far less than their scatter


class Moments:
    """Count, mean (D,) and scatter of vectors: the sum of the outer products (D, D) of what each differs from the mean by.

    Few vectors have as their scatter a root (K, D), K up to D, with root^T root the scatter: smaller, and exact.
    """

    def __init__(self, count: int, mean, scatter=None, root=None):
        self.count, self.mean, self._scatter, self.root = count, mean, scatter, root

    @classmethod
    def of(cls, vectors) -> "Moments":
        """Of vectors (N, D), N above 0."""
        import numpy as np

        vectors = np.asarray(vectors, np.float64)
        mean = vectors.mean(axis=0)
        apart = vectors - mean
        return cls(len(vectors), mean, root=apart) if len(vectors) <= len(mean) else cls(len(vectors), mean, apart.T @ apart)

    @classmethod
    def joined(cls, parts: list["Moments"]) -> "Moments":
        """Of all vectors of the parts, of which there is one at least; changes none of them."""
        import numpy as np

        if len(parts) == 1:
            return parts[0]
        counts, means = np.array([float(part.count) for part in parts]), np.stack([part.mean for part in parts])
        count, mean = sum(part.count for part in parts), counts @ means / counts.sum()
        between = (means - mean) * np.sqrt(counts)[:, None]
        if all(part.root is not None for part in parts) and len(parts) + sum(len(part.root) for part in parts) <= len(mean):
            return cls(count, mean, root=np.concatenate([between, *(part.root for part in parts)]))
        scatter = between.T @ between
        for part in parts:
            scatter += part.scatter
        return cls(count, mean, scatter)

    @property
    def scatter(self):
        """(D, D)"""
        return self._scatter if self.root is None else self.root.T @ self.root

    @property
    def spread(self) -> float:
        """The trace of the unbiased covariance."""
        import numpy as np

        return float(np.trace(self._scatter) if self.root is None else np.square(self.root).sum()) / (self.count - 1)

    @property
    def rank(self) -> int:
        """The most that the covariance can have."""
        return min(self.count - 1, len(self.mean))

    def factor(self):
        """(K, D), K up to D, with factor^T factor the unbiased covariance."""
        import numpy as np

        if self.root is not None:
            return self.root / np.sqrt(self.count - 1)
        covariance = self._scatter / (self.count - 1)
        try:
            if self.rank == len(self.mean):
                return np.linalg.cholesky(covariance).T  # a tenth of the time of what follows
        except np.linalg.LinAlgError:
            pass  # singular nevertheless
        values, vectors = np.linalg.eigh(covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))).T[-self.rank :]  # they ascend


def distance(one: Moments, other: Moments) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) (Dowson and Landau 1982), zero at least; both of two vectors or more.

    With C = F^T F, that root's trace is the sum of the square roots of the eigenvalues of the symmetric F C' F^T, which is
    stable where the root of the product is not.  Of these no more are counted than both sets can have: the others are
    rounding, and its root is large.
    """
    import numpy as np

    if one.rank > other.rank:
        one, other = other, one  # the smaller problem
    apart, factor = one.mean - other.mean, one.factor()
    if other.root is not None:
        shared = factor @ other.factor().T
        shared = shared @ shared.T
    else:
        shared = factor @ (other.scatter / (other.count - 1)) @ factor.T
    shared = np.maximum(np.linalg.eigvalsh(shared)[-one.rank :], 0)  # they ascend
    return max(0.0, float(apart @ apart + one.spread + other.spread - 2 * np.sqrt(shared).sum()))


class Side:
    """A part's vectors of one side: summed up, but for the last ones."""

    def __init__(self):
        self.sums, self.waiting, self.count, self.held = None, [], 0, 0

    def add(self, vectors) -> None:
        """(N, D) more."""
        self.waiting.append(vectors)
        self.count += len(vectors)
        self.held += len(vectors)
        if self.held >= max(KEPT, vectors.shape[1] // 4):
            parts = self.moments()
            self.sums, self.waiting, self.held = Moments.joined(parts), [], 0

    def moments(self) -> list[Moments]:
        """Of all vectors, in up to two parts."""
        import numpy as np

        found = [] if self.sums is None else [self.sums]
        return [*found, Moments.of(np.concatenate(self.waiting))] if self.held else found


class State(Parts):
    """Parts of a set, each {side: :class:`Side`}."""

    @staticmethod
    def new() -> dict[str, Side]:
        return {side: Side() for side in SIDES}

    def joined(self, side: str) -> Moments | None:
        """Of all of one side's vectors; None where there are none."""
        import numpy as np

        sides = [part[side] for part in self.parts if part[side].count]
        if not sides:
            return None
        waiting = [vectors for one in sides for vectors in one.waiting]
        sums = [one.sums for one in sides if one.sums is not None]
        return Moments.joined([*sums, *([Moments.of(np.concatenate(waiting))] if waiting else [])])


def columns_of(name: str, what: str, samples: str) -> dict[str, str]:
    """The columns of a :class:`Frechet` metric.  `samples`: what each gives a vector."""
    lacking = "the smaller set lacks of one more than there are features; above 0, the distance is biased: compare it with none of other counts"
    return {
        name: what,
        f"{name}_samples": f"judged {samples}",
        f"{name}_reference_samples": f"{samples} of the references",
        f"{name}_lacking": f"{samples} that {lacking}",
    }


class Frechet(SetDistance):
    """The Fréchet distance of what is judged from its references.

    The distance of few samples is too large, and the more so the fewer: how many there are stands in the summary, and where
    they are no more than the features, a warning beside it.
    """

    state = State

    @property
    def alone(self):
        return frozenset(columns_of(self.main, "", "")) - {self.main}

    def add(self, part, features):
        for side, kept in part.items():
            kept.add(features[side])

    def _finalized(self, state) -> dict:
        sets = [state.joined(side) for side in SIDES]
        counts = [0 if one is None else one.count for one in sets]
        self._check(counts)
        lacking = max(0, len(sets[0].mean) + 1 - min(counts))
        return dict(zip(columns_of(self.main, "", ""), (distance(*sets), *counts, lacking), strict=True))

    def remarks(self, state):
        try:
            judged, true, lacking = list(self.finalize(state).values())[1:4]
        except Skip:
            return []
        if not lacking:
            return []
        count = min(judged, true)
        features = count + lacking - 1
        return [
            f"{self.name} of {count} {self.unit} with {features} features each: "
            f"the distance of so few is biased upwards; give more than {features}, or compare it only with those of as many"
        ]
