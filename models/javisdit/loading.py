"""Weights of JavisDiT's systems in and out: our own checkpoints, and what others publish; all strict."""

import dataclasses
import hashlib
import pathlib

import torch

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.models.javisdit import checkpoint, prior
from avtools.models.javisdit.config import Config, PriorConfig, SoundConfig
from avtools.models.javisdit.model import TIME_POSITIONS, Size, VastDit
from avtools.training import config as settings

NETS = {"javisdit-audio": SoundConfig, "javisdit": Config}


def _sized(cls: type, values: dict, what: str, **more):
    """A dataclass of shapes from a configuration's object; UsageError where it has other names."""
    known = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - set(known)):
        raise UsageError(f"{what}: has no {', '.join(unknown)} (it has: {', '.join(known)})")
    try:
        return cls(**{**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}, **more})
    except TypeError as error:
        raise UsageError(f"{what}: {error}") from None


def size_of(config, joint: bool) -> Size:
    made = _sized(Size, config.size, "size", joint=joint)
    if made.time_positions not in TIME_POSITIONS:
        raise UsageError(f"size.time_positions {made.time_positions!r}: {', '.join(TIME_POSITIONS)}")
    if made.dim % made.heads or made.heads % 2:
        raise UsageError(f"size.dim {made.dim}, size.heads {made.heads}: an even number of heads that divides it")
    return made


def prior_size(config: PriorConfig) -> prior.Size:
    return _sized(prior.Size, config.prior, "prior")


def net_config(path, cls: type, system: str):
    """The configuration that a checkpoint brings: our own one's whole, of a released one its shape and legacy switches."""
    folder = hub.own_folder(path)
    if folder is not None:
        return settings.of_checkpoint(folder, system, cls())
    found, config = checkpoint.read(path), cls()
    plain = dataclasses.asdict(Size())
    config.size = {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(found.size).items() if name != "joint" and value != plain[name]}
    config.padding, config.legacy_loss = "legacy", True
    return config


def _own(folder: pathlib.Path, *systems: str) -> tuple[str, dict, dict]:
    """(system, its configuration's object, tensors) of a checkpoint of ours; FatalError: of another system."""
    facts = hub.config_of(folder)
    if facts["system"] not in systems:
        raise FatalError(f"{folder}: a checkpoint of {facts['system']}, not of {' or '.join(systems)}; give another")
    return facts["system"], facts["config"], hub.tensors(hub.own_weights(folder))


def load_net(path, size: Size, system: str) -> VastDit:
    """The network to sample with, on the CPU, frozen."""
    folder = hub.own_folder(path)
    if folder is None:
        net = checkpoint.load(checkpoint.read(path), size)
    else:
        with torch.device("meta"):  # takes over the file's tensors
            net = VastDit(size)
        hub.load_strict(net, _own(folder, system)[2], hub.own_weights(folder))
    return net.eval().requires_grad_(False)


def begin_sound(net: VastDit, path) -> list[str]:
    """Begin the first stage: from a run of it, the released one, or OpenSora's STDiT-v3; the names that keep first values."""
    folder = hub.own_folder(path)
    if folder is not None:
        hub.load_strict(net, _own(folder, "javisdit-audio")[2], folder)
        return []
    try:
        video = checkpoint.read_video(path)
    except FatalError:
        hub.load_strict(net, checkpoint.read(path).tensors, path)
        return []
    return checkpoint.begin_sound(net, video, path)


def begin_joint(net: VastDit, path, video: str | None) -> list[str]:
    """Begin the joint stage: from a run of it or of the first stage, or either released one; `video`: OpenSora's STDiT-v3.

    The names that keep first values.
    """
    folder = hub.own_folder(path)
    if folder is not None:
        system, _, tensors = _own(folder, *NETS)
        whole = system == "javisdit"
    else:
        found = checkpoint.read(path)
        tensors, whole = found.tensors, found.size.joint
    if whole and video is None:
        hub.load_strict(net, tensors, path)
        return []
    if whole:
        raise UsageError(f"{path}: the joint network has its video stream; leave out --init video-stream=")
    return checkpoint.begin_joint(net, tensors, None if video is None else checkpoint.read_video(video), path)


# --- the prior --------------------------------------------------------------------------------------------------------


def prior_found(path) -> prior.Found:
    """A prior of ours or a released one."""
    folder = hub.own_folder(path)
    if folder is None:
        return prior.read(path)
    _, told, tensors = _own(folder, "javisdit-prior")
    config = PriorConfig()
    settings.merge(config, told, f"{folder}/config.json")
    return prior.found(tensors, hub.own_weights(folder), prior_size(config).heads)._replace(size=prior_size(config))


def check_prior(found: prior.Found, size: Size) -> None:
    """UsageError where the network reads other priors."""
    told, wanted = (found.size.spatial, found.size.temporal, found.size.out), (size.spatial_priors, size.temporal_priors, size.prior)
    if told != wanted:
        raise UsageError(f"{found.where}: gives {told[0]} and {told[1]} priors {told[2]} wide, and the network reads {wanted[0]} and {wanted[1]} of {wanted[2]}; give the prior that belongs to it")


# --- identity -----------------------------------------------------------------------------------------------------------


def digest(*paths) -> str:
    """What identifies the weights at these places."""
    found = []
    for path in paths:
        folder = hub.own_folder(path)
        found.append(hub.digest(path if folder is None else hub.own_weights(folder)))
    return hashlib.sha256("\0".join(found).encode()).hexdigest()[:16]
