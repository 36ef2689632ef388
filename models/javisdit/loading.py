"""Weights of JavisDiT's systems in and out: our own checkpoints, and what others publish; all strict."""

import dataclasses
import hashlib
import json
import os
import pathlib

import torch

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.models.javisdit import checkpoint, prior
from avtools.models.javisdit.config import PRESETS, Config, PriorConfig, SoundConfig
from avtools.models.javisdit.model import Size, VastDit
from avtools.training import config as settings

NETS = {"javisdit-audio": SoundConfig, "javisdit": Config}


# --- where, and what it is -------------------------------------------------------------------------------------------


def init_path(init: hub.Weights, part: hub.Part, system: str) -> pathlib.Path | None:
    """Where to begin with, of the `--init` options; None where the part's is not among them."""
    source = init.get(part.name)
    if source is None:
        return None
    if not source.startswith("hf:") and not os.path.exists(source):
        prefix = f"{part.name}=" if part.name else ""
        raise FatalError(f"{source}: no such file or folder, wanted for {part.what}; give --init {prefix}FILE|DIR|RUN|hf:OWNER/NAME")
    return hub.locate(source, part, system)


def sized(cls: type, values: dict, what: str, **more):
    """A dataclass of shapes from a configuration's object; UsageError where it has other names."""
    known = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - set(known)):
        raise UsageError(f"{what}: has no {', '.join(unknown)} (it has: {', '.join(known)})")
    try:
        return cls(**{**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}, **more})
    except TypeError as error:
        raise UsageError(f"{what}: {error}") from None


def size_of(config, joint: bool) -> Size:
    made = sized(Size, config.size, "size", joint=joint)
    made.check()
    return made


def prior_size(config: PriorConfig) -> prior.Size:
    return sized(prior.Size, config.prior, "prior")


def net_config(path, config, system: str, preset: str | None = None):
    """The configuration that a checkpoint brings: our own one's whole; of a released one its shape and legacy switches, put into `config`."""
    folder = hub.own_folder(path)
    if folder is not None:
        return settings.of_checkpoint(folder, system, type(config)(), preset)
    found, joint = checkpoint.read(path), system == "javisdit"
    if found.size.joint != joint:
        raise FatalError(f"{path}: JavisDiT's {'first stage, which makes sound alone' if joint else 'joint network'}, not of {system}; give it to {other_of(system)}")
    config.size = _differences(found.size, dataclasses.replace(Size(), joint=joint))
    config.padding, config.legacy_loss = "legacy", True
    return config


def other_of(system: str) -> str:
    return next(name for name in NETS if name != system)


def _differences(size, usual) -> dict:
    """What differs from the usual shape, as a configuration holds it."""
    usual, size = dataclasses.asdict(usual), dataclasses.asdict(size)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in size.items() if value != usual[name]}


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
    tensors = checkpoint.plain(checkpoint.tensors_of(path), path)
    if checkpoint.is_video(tensors):
        return checkpoint.begin_sound(net, tensors, path)
    found = checkpoint.found(tensors, path)
    if found.size.joint:
        raise FatalError(f"{path}: JavisDiT's joint network; its first stage begins with OpenSora's STDiT-v3, or that stage's own")
    hub.load_strict(net, found.tensors, path)
    return []


def begin_joint(net: VastDit, path, video=None) -> list[str]:
    """Begin the joint stage: from a run of it or of the first stage, or either released one; `video`: OpenSora's STDiT-v3.

    The names that keep first values.
    """
    folder = hub.own_folder(path)
    if folder is not None:
        system, _, tensors = _own(folder, *NETS)
        whole = system == "javisdit"
    else:
        tensors = checkpoint.tensors_of(path)
        if checkpoint.is_video(tensors):
            raise UsageError(f"{path}: OpenSora's STDiT-v3; the joint stage begins with the first one's network, --init RUN of javisdit-audio, and with this as --init video-stream=")
        found = checkpoint.found(tensors, path)
        tensors, whole = found.tensors, found.size.joint
    if whole and video is None:
        hub.load_strict(net, tensors, path)
        return []
    if whole:
        raise UsageError(f"{path}: the joint network has its video stream; leave out --init video-stream=")
    return checkpoint.begin_joint(net, tensors, None if video is None else checkpoint.read_video(video), path)


# --- what does not show in weights -------------------------------------------------------------------------------------

SILENT = ("time_positions", "legacy_cross_batch_prior", "square")  # of a joint network's shape: tensors have the same names and shapes with any value
ENCODERS = ("sound_codec", "padding", "level")
JOINT_ENCODERS = ("video_codec", "prior_text")


def form(config, joint: bool = True) -> dict:
    """What a network or a prior was made for that its tensors do not tell: setting -> value."""
    if isinstance(config, PriorConfig):
        return {"prior.heads": prior_size(config).heads, **{name: getattr(config, name) for name in (*ENCODERS, *JOINT_ENCODERS)}}
    size = size_of(config, joint)
    found = {f"size.{name}": getattr(size, name) for name in SILENT} if joint else {}
    return found | {name: getattr(config, name) for name in ("text_encoder", *ENCODERS, *(JOINT_ENCODERS if joint else ()))}


def differing(path, config, joint: bool = True) -> str | None:
    """One line on how the form of the weights at `path`, ours or released, differs from what `config` says; None where it does not.

    `joint`: both are networks of two streams (a first stage's has no say about pictures).
    """
    folder, kinds = hub.own_folder(path), {**NETS, "javisdit-prior": PriorConfig}
    if folder is not None:
        system = hub.config_of(folder)["system"]
        was = settings.of_checkpoint(folder, system, kinds[system]())
    elif isinstance(config, PriorConfig):
        was = PriorConfig(padding="legacy")
    else:
        was = settings.resolve(Config, PRESETS, "released")
    was, now = form(was, joint), form(config, joint)
    found = [f"{name} {_told(value)}, here {_told(now[name])}" for name, value in was.items() if value != now[name]]
    return f"{path}: was made with other settings, which it now has to unlearn: {'; '.join(found)}" if found else None


def _told(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


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


def prior_config(path, config: PriorConfig, preset: str | None = None) -> PriorConfig:
    """As :func:`net_config`, of a prior."""
    folder = hub.own_folder(path)
    if folder is not None:
        return settings.of_checkpoint(folder, "javisdit-prior", PriorConfig(), preset)
    size = prior.read(path).size
    config.prior, config.padding = {"onset": size.onset, **_differences(size, prior.RELEASED)}, "legacy"
    return config


def check_prior(found: prior.Found, size: Size, words: int | None = None) -> None:
    """UsageError where the network reads other priors, or the prior other captions; `words`: how wide those of a text encoder without weights are."""
    if words not in (None, found.size.text):
        raise UsageError(f"{found.where}: reads captions {found.size.text} wide, and prior_text is words, prior_words {words}; set both as the prior was trained")
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


def identities(source: str) -> set[str]:
    """What a run may have noted of these weights: of a RUN or a checkpoint that are the same, the digests of both."""
    found = {source}
    if os.path.exists(source):
        found.add(hub.digest(source))
        folder = hub.own_folder(source)
        if folder is not None:
            run = folder.parent.parent
            found |= {hub.digest(one) for one in (folder, hub.own_weights(folder))}
            if folder.parent.name == "checkpoints" and hub.checkpoint_of(run) == folder:
                found.add(hub.digest(run))
    return found


# --- writing --------------------------------------------------------------------------------------------------------------


def convert(path, out, system: str) -> pathlib.Path:
    """Write a released network as a checkpoint of ours."""
    _check_released(path, out)
    config = net_config(path, NETS[system](), system)
    net = checkpoint.load(checkpoint.read(path), size_of(config, system == "javisdit"))
    hub.save_checkpoint(out, {"model.safetensors": (net.state_dict(), None)}, system, settings.as_dict(config))
    return pathlib.Path(out)


def convert_prior(path, out) -> pathlib.Path:
    """Write a released prior as a checkpoint of ours, with ImageBind's text tower where it is in the file."""
    from avtools.models.javisdit import text

    _check_released(path, out)
    found = prior.read(path)
    tensors = found.make(found.trained).state_dict()
    if found.text:
        text.tower_of(found.text, found.where)  # strict
        tensors = {**tensors, **{prior.TEXT + name: tensor for name, tensor in found.text.items()}}
    hub.save_checkpoint(out, {"model.safetensors": (tensors, None)}, "javisdit-prior", settings.as_dict(prior_config(path, PriorConfig())))
    return pathlib.Path(out)


def _check_released(path, out) -> None:
    if hub.own_folder(path) is not None:
        raise UsageError(f"{path}: is a checkpoint of ours already")
    hub.check_no_checkpoint(out)
