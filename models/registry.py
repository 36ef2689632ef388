"""Names of systems and metrics -> where they are, imported only when used."""

import difflib
import functools
import importlib
import json

from avtools.errors import UsageError

SYSTEMS: dict[str, str] = {
    "avsync": "avtools.models.avsync.system:AvSync",
    "avsyncd": "avtools.models.avsyncd.system:AvSyncD",
    "vta-ldm": "avtools.models.vta_ldm.system:VtaLdm",
}
LAYOUTS: dict[str, str] = {
    "javisdit": "avtools.models.javisdit.layout:JavisDiT",
    "vta-ldm": "avtools.models.vta_ldm.layout:VtaLdm",
    "avsyncd": "avtools.models.avsyncd.layout:AVSyncD",
    "maestro": "avtools.models.maestro.layout:Maestro",
    "vatt": "avtools.models.vatt.layout:Vatt",
    "webdataset": "avtools.exchange.webdataset:WebDataset",
    "hf-datasets": "avtools.exchange.hf_datasets:HfDatasets",
}  # how their data sets lie on disk (avtools.exchange)
METRICS: dict[str, str] = {
    "alignsync": "avtools.models.avsync.metrics:AlignSync",
    "avsync": "avtools.models.avsync.metrics:AvSyncScore",
    "fid": "avtools.models.inception.metrics:Fid",
    "fvd": "avtools.models.i3d.metrics:Fvd",
    "ia": "avtools.models.parts.imagebind.metrics:ImageAudio",
    "it": "avtools.models.parts.imagebind.metrics:ImageText",
    "relsync": "avtools.models.avsync.metrics:RelSync",
    "sync-accuracy": "avtools.models.avsync.metrics:SyncAccuracy",
}  # those that need a network; the plain ones are avtools.metrics.PLAIN


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


#: --protocol NAME -> the metrics of `avtools score all`.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "asva": ("relsync", "alignsync", "ia", "it", "fvd", "fid"),
}
VARIANTS: dict[str, tuple[str, ...]] = {}  # metric -> what may follow its name and a colon


def protocol(name: str) -> tuple[str, ...]:
    """The metrics of a paper's protocol."""
    if name not in PROTOCOLS:
        raise UsageError(f"--protocol {name}: no protocol of that name (there are: {', '.join(PROTOCOLS)})")
    return PROTOCOLS[name]


def metric_names() -> list[str]:
    """All names that `score` takes, with their variants."""
    from avtools.metrics import PLAIN

    return sorted([*PLAIN, *METRICS, *(f"{name}:{variant}" for name, variants in VARIANTS.items() if name in METRICS for variant in variants)])


def layout(name: str):
    """The class of a layout (:class:`avtools.exchange.Layout`)."""
    return _named(name, LAYOUTS, "layout", "avtools mkmeta export --help")


def made_layout(options: dict):
    """The layout `options["layout"]` with its settings, made once in each process."""
    return _made_layout(json.dumps(options, sort_keys=True))


@functools.lru_cache
def _made_layout(options: str):
    settings = json.loads(options)
    return layout(settings.pop("layout"))(settings)


def layouts_beginning(ctx, param, incomplete: str) -> list[str]:
    """For shell completion: the layouts whose names begin so."""
    return sorted(name for name in LAYOUTS if name.startswith(incomplete))


def _named(name: str, known: dict[str, str], what: str, listing: str):
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"no {what} '{name}'{hint} ('{listing}' lists them)")
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
