"""Names of systems and metrics -> where they are, imported only when used."""

import difflib
import importlib

from avtools.errors import UsageError

SYSTEMS: dict[str, str] = {"vta-ldm": "avtools.models.vta_ldm.system:VtaLdm"}
METRICS: dict[str, str] = {}  # those that need a network; the plain ones are avtools.metrics.PLAIN


def system(name: str):
    """The class of a system (:class:`avtools.system.System`)."""
    return _named(name, SYSTEMS, "system", "avtools systems")


def systems_beginning(ctx, param, incomplete: str) -> list[str]:
    """For shell completion: the systems whose names begin so."""
    return sorted(name for name in SYSTEMS if name.startswith(incomplete))


def metric(name: str):
    """The class of a metric (:class:`avtools.metrics.Metric`), plain ones included."""
    from avtools.metrics import PLAIN

    return _named(name, {**PLAIN, **METRICS}, "metric", "avtools metrics")


def _named(name: str, known: dict[str, str], what: str, listing: str):
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"no {what} '{name}'{hint} ('{listing}' lists them)")
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
