"""Names of systems and metrics -> where they are, imported only when used."""

import difflib
import functools
import importlib
import json

from avtools.errors import UsageError

SYSTEMS: dict[str, str] = {
    "audiosep": "avtools.models.audiosep.system:AudioSep",
    "avsync": "avtools.models.avsync.system:AvSync",
    "avsyncd": "avtools.models.avsyncd.system:AvSyncD",
    "cim": "avtools.models.maestro.system:Cim",
    "javisdit": "avtools.models.javisdit.system:JavisDit",
    "javisdit-audio": "avtools.models.javisdit.system:JavisSound",
    "javisdit-prior": "avtools.models.javisdit.system:JavisPrior",
    "maestro": "avtools.models.maestro.system:Maestro",
    "maestro-video": "avtools.models.maestro.system:MaestroVideo",
    "vatt": "avtools.models.vatt.system:Vatt",
    "vatt-audio": "avtools.models.vatt.system:VattAudio",
    "vatt-converter": "avtools.models.vatt.system:VattConverter",
    "vta-ldm": "avtools.models.vta_ldm.system:VtaLdm",
}
COMMANDS: dict[str, str] = {
    "gen-unpaired": "avtools.models.audioldm2:PARTS",
    "masklets": "avtools.models.masklets:PARTS",
}  # commands with networks of their own -> their weights
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
    "audiobox-aesthetics": "avtools.models.judges.aesthetics:Aesthetics",
    "avhscore": "avtools.models.judges.bind:AvhScore",
    "avsync": "avtools.models.avsync.metrics:AvSyncScore",
    "bertscore": "avtools.metrics.bertscore:BertScore",
    "cavp": "avtools.models.judges.sync:CavpScore",
    "clap": "avtools.models.judges.clap:Clap",
    "clap-audio": "avtools.models.judges.clap:ClapAudio",
    "clip": "avtools.models.judges.similarity:Clip",
    "desync": "avtools.models.judges.sync:Desync",
    "fad": "avtools.models.judges.distances:Fad",
    "fd": "avtools.models.judges.distances:Fd",
    "fid": "avtools.models.inception.metrics:Fid",
    "fvd": "avtools.models.i3d.metrics:Fvd",
    "ia": "avtools.models.parts.imagebind.metrics:ImageAudio",
    "imagebind": "avtools.models.judges.bind:ImageBindScores",
    "is": "avtools.models.judges.distances:InceptionScore",
    "it": "avtools.models.parts.imagebind.metrics:ImageText",
    "javisscore": "avtools.models.judges.bind:JavisScore",
    "kld": "avtools.models.judges.distances:Kld",
    "kvd": "avtools.models.judges.distances:Kvd",
    "meteor": "avtools.metrics.meteor:Meteor",
    "pe-av": "avtools.models.judges.pe_av:PeAv",
    "pe-text": "avtools.models.judges.pe_av:PeText",
    "region-agreement": "avtools.models.judges.regions:RegionAgreement",
    "relsync": "avtools.models.avsync.metrics:RelSync",
    "sync-accuracy": "avtools.models.avsync.metrics:SyncAccuracy",
}  # those that need a network; the plain ones are avtools.metrics.PLAIN


def system(name: str):
    """The class of a system (:class:`avtools.system.System`)."""
    return _named(name, SYSTEMS, "system", "avtools systems")


def systems_beginning(ctx, param, incomplete: str) -> list[str]:
    """For shell completion: the systems whose names begin so."""
    return sorted(name for name in SYSTEMS if name.startswith(incomplete))


def parts(name: str) -> tuple:
    """The weights (:class:`avtools.hub.Part`) of a system, a metric, a command, or of a part of any metric that is called so."""
    if name in SYSTEMS:
        return system(name).parts
    if name in METRICS:
        return metric(name).parts
    if name in COMMANDS:
        module, _, attribute = COMMANDS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    found = {part.name: part for one in METRICS for part in metric(one).parts}
    if name in found:
        import dataclasses

        return (dataclasses.replace(found[name], optional=False),)
    return _named(name, SYSTEMS | METRICS | COMMANDS, "system, metric or command with weights", "avtools systems' and 'avtools metrics").parts


def fetched_beginning(ctx, param, incomplete: str) -> list[str]:
    """For shell completion: what has weights and a name that begins so."""
    return sorted(name for name in SYSTEMS | METRICS | COMMANDS if name.startswith(incomplete))


def metric(name: str):
    """The class of a metric (:class:`avtools.metrics.Metric`), plain ones included."""
    from avtools.metrics import PLAIN

    return _named(name, {**PLAIN, **METRICS}, "metric", "avtools metrics")


#: --protocol NAME -> the metrics of `avtools score all`.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "asva": ("relsync", "alignsync", "ia", "it", "fvd", "fid"),
    "javisbench": (
        *("fvd", "kvd", "fad", "audiobox-aesthetics", "imagebind", "clip", "clap"),
        *("cavp", "avhscore", "javisscore", "av-align", "desync"),
    ),
    "mmaudio": ("fd:passt", "fd:panns", "fd:vggish", "kld:panns", "kld:passt", "is", "imagebind", "desync"),
    "vatt": ("kld", "fad", "clap", "clap-audio"),
}
#: Metric -> what may follow its name and a colon: its `variants`, which listings and completion need without importing it.
VARIANTS: dict[str, tuple[str, ...]] = {
    "clap": ("laion", "microsoft"),
    "clap-audio": ("laion", "microsoft"),
    "fad": ("vggish", "panns", "clap", "audioclip"),
    "fd": ("panns", "passt", "vggish"),
    "is": ("panns", "passt"),
    "kld": ("panns", "passt"),
    "region-agreement": ("imagebind", "clip"),
}


def protocol(name: str) -> tuple[str, ...]:
    """The metrics of a paper's protocol."""
    if name not in PROTOCOLS:
        raise UsageError(f"--protocol {name}: no protocol of that name (there are: {', '.join(PROTOCOLS)})")
    return PROTOCOLS[name]


def metric_names() -> list[str]:
    """All names that `score` takes, with their variants."""
    from avtools.metrics import PLAIN

    return sorted([*PLAIN, *METRICS, *(f"{name}:{variant}" for name, variants in VARIANTS.items() if name in METRICS for variant in variants)])


def directions() -> dict[str, str]:
    """The main column of each metric, its variants' too -> "higher", "lower" or "none"."""
    found = {}
    for name in metric_names():
        cls, variant = metric(name.partition(":")[0]), name.partition(":")[2]
        found[next(iter(cls.columns)) + (f"_{variant.replace('-', '_')}" if variant else "")] = cls.direction
    return found


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
