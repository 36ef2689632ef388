"""SDR: how much of a separated sound is what it should be."""

import math

from avtools.metrics import Metric, Skip
from avtools.metrics.media import read_sound
from avtools.metrics.signals import SILENT, check_settings, reference_part, side_by_side
from avtools.rows.keys import path_of

FLOOR = 1e-10  # of mean squares, and of either part of the scale-invariant ratio: values stay finite


class Sdr(Metric):
    """Ratio of the reference's energy to that of the error, dB, of the whole sound (not BSS Eval's, which allows a filter).

    SDR = 10 log10(mean ref² / mean (est - ref)²), both at least 1e-10.  SI-SDR: the same after the reference is scaled to
    what the estimate holds of it (no means removed), -100 to 100 dB.  SDRi and SI-SDRi: by how much they exceed those of the
    mixture that was separated, whose file the column `mixture` names; empty where a row has none.

    Sounds come to the lowest of their rates (or `rate`, Hz), the mean of their channels is judged; `channels` all: as one signal, one
    channel after the other, scaled alike.  Lengths may differ by 50 ms.  A silent reference is skipped, a silent estimate has no SI-SDR.
    """

    name = "sdr"
    title = "Signal-to-distortion ratio of a separated sound, scale-invariant too, and both as improvement over the mixture"
    source = "Vincent et al. 2006; Le Roux et al. 2019 (arXiv:1811.02508); floors: Liu et al. 2023, AudioSep (arXiv:2308.05037)"
    columns = {
        "sdr": "signal-to-distortion ratio, dB",
        "si_sdr": "scale-invariant signal-to-distortion ratio, dB",
        "sdri": "SDR above that of the mixture, dB; empty without a mixture",
        "si_sdri": "SI-SDR above that of the mixture, dB; empty without a mixture",
    }
    direction = "higher"
    ranges = {"si_sdr": (-100.0, 100.0), "si_sdri": (-200.0, 200.0)}
    needs = ("sound", "reference_sound")
    settings = {"channels": "mono", "rate": 0, "mixture": "mixture_path"}
    protocols = {"audiosep": {"channels": "mono", "rate": 32000}}
    resampler = "soxr HQ to the lowest rate of the sounds compared, or the one set"

    def __init__(self, **settings):
        super().__init__(**settings)
        check_settings(self)

    def row(self, item):
        column, others = self.set["mixture"], {"reference": reference_part(item)}
        if column and item.row.get(column) not in (None, ""):
            others["mixture"] = item.keep(("mixture", column), lambda: read_sound(path_of(item.row, column)))
        signals, _ = side_by_side(item, others, self.set["channels"], self.set["rate"])
        signals = {name: samples.ravel() for name, samples in signals.items()}
        reference = signals["reference"]
        if not len(reference) or reference @ reference < SILENT * len(reference):
            raise Skip("the reference is silent")
        found = {"sdr": sdr(signals["judged"], reference), "si_sdr": si_sdr(signals["judged"], reference)}
        for name, of in (("sdri", sdr), ("si_sdri", si_sdr)):
            own = found[name[:-1]]
            over = of(signals["mixture"], reference) if "mixture" in signals else Skip(f"no mixture (column {column or 'mixture_path'})")
            found[name] = next((value for value in (own, over) if isinstance(value, Skip)), None) or own - over
        return found


def sdr(estimate, reference) -> float:
    """SDR of `estimate` (n,), dB."""
    error = estimate - reference
    return 10 * math.log10(max(reference @ reference / len(reference), FLOOR) / max(error @ error / len(error), FLOOR))


def si_sdr(estimate, reference) -> float | Skip:
    """SI-SDR of `estimate` (n,), dB; Skip for silence, which is no scaled version of anything."""
    energy = estimate @ estimate
    if energy < SILENT * len(estimate):
        return Skip("the judged sound is silent")
    target = (estimate @ reference) / (reference @ reference) * reference
    error = estimate - target
    return 10 * math.log10(max(target @ target, FLOOR * energy) / max(error @ error, FLOOR * energy))
