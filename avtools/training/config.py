"""How a run trains, and how its configuration is put together."""

import copy
import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable
from typing import Any

from avtools.errors import FatalError, UsageError


@dataclasses.dataclass
class Train:
    """What the trainer itself needs to know; part of every system's configuration as `train`."""

    batch_size: int = 8  # items per rank and micro-batch
    accumulate: int = 1  # micro-batches per step
    max_steps: int | None = None  # updates
    epochs: float | None = None  # passes over the table; the shorter of the two ends the run
    lr: float = 1e-4  # learning rate after warm-up
    schedule: str = "constant"  # constant | linear | cosine: from lr to 0 at the run's last step | published: the system's own, if it has one
    warmup_steps: int = 0  # from 0 to lr
    betas: list = dataclasses.field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0  # of the whole gradient; null: no clipping
    ema: float | None = 0.999  # decay of the moving average of the weights; null: none
    precision: str = "fp32"  # fp32 | bf16 | fp16, automatic mixed
    seed: int = 0
    eval_every: int = 500  # steps
    checkpoint_every: int = 500  # steps
    milestones: list = dataclasses.field(default_factory=list)  # steps whose checkpoints are never removed
    keep: int = 2  # newest checkpoints that are kept
    save_best: str | None = None  # a validation value whose best checkpoint is kept; null: valid_loss
    log_every: int = 10  # steps
    previews: int = 2  # validation rows of which each validation makes a sample, in RUN/samples
    cache_gb: float = 0.0  # memory for items that never change, so that each is read once
    fsdp: bool = False  # shard parameters, gradients and optimizer over the ranks (FSDP2)
    compile: bool = False  # torch.compile
    gradient_checkpointing: bool = False
    max_nan: int = 10  # steps in a row without a finite loss before the run ends


def resolve(cls: type, presets: dict[str, dict], preset: str | None = None, file: str | None = None, sets: Iterable[str] = ()):
    """The configuration: defaults, then the preset, then the file (JSON), then KEY=VALUE settings.

    A KEY is a dotted name, or the last part of one where only one field ends so.  A VALUE is JSON, else text.
    Raises UsageError naming the field, what it takes and near names.
    """
    config = cls()
    if preset is not None:
        if preset not in presets:
            raise UsageError(f"no preset '{preset}'; there is: {', '.join(presets)}")
        merge(config, presets[preset], f"preset {preset}")
    if file is not None:
        try:
            with open(file, encoding="utf-8") as stream:
                found = json.load(stream)
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}; --config takes a JSON file") from None
        except ValueError as error:
            raise UsageError(f"{file}: not valid JSON ({error})") from None
        merge(config, found.get("config", found) if isinstance(found, dict) else found, file)
    set_all(config, sets)
    return config


def set_all(config, sets: Iterable[str]) -> None:
    """Put KEY=VALUE settings into the dataclass `config`; UsageError as by :func:`resolve`."""
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: write KEY=VALUE")
        try:
            read = json.loads(value)
        except ValueError:
            read = value  # text without quotes
        set_one(config, name, read, f"--set {text}", value)


def option(name: str, system, field: str, value: Any, read=None) -> list[str]:
    """The setting of `field` that an option --NAME of its own stands for; none where it was not given (None, False).

    `read(value, option)`: of a file, what the configuration keeps of it, so that a run does not depend on the file.
    UsageError where the configuration of the class `system` has no such field.
    """
    if value in (None, False):
        return []
    if field not in {one.name for one in dataclasses.fields(system.Config)}:
        raise UsageError(f"--{name}: {system.name} has nothing of the kind; leave it out")
    return [f"{field}={json.dumps(value if read is None else read(value, f'--{name}'))}"]


def lines(path, option: str) -> list[str]:
    """The lines of a text file that are not blank.  UsageError where it cannot be read or holds none."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; give a text file of one instruction a line") from None
    except ValueError:
        raise UsageError(f"{option} {path}: not UTF-8; save the file as UTF-8 text") from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise UsageError(f"{option} {path}: holds no instruction; write one a line")
    return found


def merge(config, values: Any, where: str) -> None:
    """Put nested `values` into the dataclass `config`; UsageError for names that it does not have."""
    if not isinstance(values, dict):
        raise UsageError(f"{where}: not a JSON object")
    names = {field.name for field in dataclasses.fields(config)}
    for name, value in values.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise UsageError(f"{where}: no field '{name}'" + (f"; did you mean '{near[0]}'?" if near else f" (there is: {', '.join(sorted(names))})"))
        if dataclasses.is_dataclass(getattr(config, name)):
            merge(getattr(config, name), value, f"{where}, {name}")
        else:
            _put(config, name, value, where)


def set_one(config, key: str, value: Any, where: str, text: str | None = None) -> None:
    """Set the field `key` of a nested dataclass (see :func:`resolve`); `text`: what a number was written as, for fields that take text."""
    names = dict(_fields(config))
    found = [name for name in names if name == key] or [name for name in names if name.endswith("." + key)]
    if not found:  # a key inside a field that holds a dict: unet.layers_per_block
        parent, _, last = key.rpartition(".")
        holder = [name for name in names if name == parent or name.endswith("." + parent)] if parent else []
        if len(holder) == 1 and isinstance(getattr(names[holder[0]], holder[0].rpartition(".")[2]), dict):
            parent = holder[0].rpartition(".")[2]
            inner = getattr(names[holder[0]], parent)
            if last not in inner:
                known = dict.fromkeys([*inner, *getattr(names[holder[0]], "names_in", lambda field: ())(parent)])  # also what it holds only where it is not as usual
                if last not in known:
                    raise UsageError(f"{where}: {holder[0]} has no '{last}' (it has: {', '.join(known)})")
            inner[last] = value
            return
        near = difflib.get_close_matches(key, [*names, *(name.rpartition(".")[2] for name in names)], 1)
        raise UsageError(f"{where}: no such setting" + (f"; did you mean '{near[0]}'?" if near else f" (there is: {', '.join(names)})"))
    if len(found) > 1:
        raise UsageError(f"{where}: which one, {' or '.join(found)}?")
    _put(names[found[0]], found[0].rpartition(".")[2], value, where, text)


def _fields(config, prefix: str = ""):
    """(dotted name, the dataclass that has it) of every plain field."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", config


def _put(config, name: str, value: Any, where: str, text: str | None = None) -> None:
    wanted = typing.get_type_hints(type(config))[name]
    kinds = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if str in kinds and type(value) in (int, float) and not isinstance(value, kinds) and text is not None:
        value = text  # sampling.resolution=512
    if isinstance(value, bool) and bool not in kinds or not isinstance(value, kinds):
        told = " or ".join("null" if kind is types.NoneType else {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list", "dict": "an object"}[kind.__name__] for kind in kinds)
        raise UsageError(f"{where}: {name} takes {told}")
    setattr(config, name, copy.deepcopy(value))  # presets stay as they are


def as_dict(config) -> dict:
    return dataclasses.asdict(config)


def differences(was: dict, now: dict, prefix: str = "") -> list[str]:
    """Lines `name: was -> now` for every value that differs."""
    lines = []
    for name in dict.fromkeys([*was, *now]):
        if isinstance(was.get(name), dict) and isinstance(now.get(name), dict):
            lines += differences(was[name], now[name], f"{prefix}{name}.")
        elif was.get(name) != now.get(name) or (name in was) != (name in now):
            lines.append(f"{prefix}{name}: {json.dumps(was.get(name))} -> {json.dumps(now.get(name))}")
    return lines


def of_checkpoint(folder, system: str, config, preset: str | None = None):
    """`config` (the system's defaults) with what a checkpoint folder of ours says; it brings its own, so a preset is refused."""
    from avtools import hub

    if preset is not None:
        raise UsageError(f"{folder}: brings its configuration; leave out --preset {preset}")
    facts = hub.config_of(folder)
    if facts["system"] != system:
        raise FatalError(f"{folder}: a checkpoint of {facts['system']}, not of {system}; give another, or name that system")
    try:
        merge(config, facts["config"], f"{folder}/config.json")
    except UsageError as error:
        raise FatalError(str(error)) from None
    return config
