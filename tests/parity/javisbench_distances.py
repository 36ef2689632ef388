"""Distances of sets, KVD and FVD and FAD, against the benchmark's numbers (collected by test_javisbench)."""

import numpy as np
from common import Case

from avtools.metrics import Jackknife
from avtools.metrics.frechet import Moments, distance
from avtools.metrics.kernel import KernelDistance, columns_of, mmd2

FAD_SCALE = 1e4  # of the benchmark


class Kvd(KernelDistance):
    name, columns, ranges = "kvd", columns_of("kvd", "", "clips"), {}


def distances(case: Case, _):
    sets = {name: tensor.numpy() for name, tensor in case.inputs.items()}
    fake, real = sets["fake_video"], sets["real_video"]
    moments = {name: Moments.of(vectors) for name, vectors in sets.items()}

    fvd = distance(moments["fake_video"], moments["real_video"])
    case.check("fvd", fvd)
    case.check("fvd_float64", fvd)
    fad = distance(moments["fake_audio"], moments["real_audio"])
    case.check("fad_raw", fad)
    case.check("fad", FAD_SCALE * fad)

    apart = moments["fake_video"].mean - moments["real_video"].mean
    case.check("mean_term", apart @ apart)
    traces = [moments["fake_video"].spread, moments["real_video"].spread]
    case.check("trace_fake", traces[0])
    case.check("trace_real", traces[1])
    case.check("trace_sqrt_product", (apart @ apart + sum(traces) - fvd) / 2)

    case.check("kvd", mmd2(fake, real))
    case.check("kvd_float64", mmd2(fake, real))
    case.check("kvd_after_in_place_centring", mmd2(fake, real, centred=True))
    for centred in (False, True):
        metric = Kvd()
        metric.centred = centred
        kept = Jackknife(metric)
        for k, (one, other) in enumerate(zip(fake, real, strict=True)):
            kept.add(metric.features({"judged": one[None], "reference": other[None]}), k % 7, None)
        np.testing.assert_allclose(kept.results()[0]["kvd"], mmd2(fake, real, centred=centred), rtol=1e-9)


KINDS = {"distribution_distances": distances}
