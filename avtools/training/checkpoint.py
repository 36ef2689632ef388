"""Checkpoints of a run: whole or not there, the last good one always kept.

RUN/checkpoints/step-00001000/ holds config.json (as every checkpoint folder: the system and its
configuration), model.safetensors, ema.safetensors, optimizer.pt and state.json.  It is written under a name
that ends in .tmp, flushed, and renamed.
"""

import contextlib
import glob
import json
import os
import shutil

import torch

from avtools import hub
from avtools.errors import FatalError
from avtools.identity import identity, is_dead
from avtools.outputs import fsync_path

NAME = "step-{:08d}"


def folder_of(run: str, step: int) -> str:
    return os.path.join(run, "checkpoints", NAME.format(step))


def steps(run: str) -> list[int]:
    """The steps of a run's whole checkpoints, ascending."""
    found = glob.glob(os.path.join(glob.escape(run), "checkpoints", "step-" + "[0-9]" * 8))
    return sorted(int(path[-8:]) for path in found if os.path.exists(os.path.join(path, "state.json")))


def save(run: str, step: int, config: dict, tensors: dict[str, dict], optimizer: dict, state: dict) -> None:
    """Write the checkpoint of `step`: `tensors` by file name (model, ema), the optimizers' state, and what resuming needs."""
    target = folder_of(run, step)
    temporary = f"{target}-{identity()}.tmp"
    try:
        os.makedirs(temporary)
        for name, found in tensors.items():
            hub.save_tensors(os.path.join(temporary, f"{name}.safetensors"), found)
        path = os.path.join(temporary, "optimizer.pt")
        with _writing(path):
            torch.save(optimizer, path)
        fsync_path(path)
        write_json(os.path.join(temporary, "config.json"), config)
        write_json(os.path.join(temporary, "state.json"), state)
        if os.path.exists(target):  # trained again from an earlier one
            _remove(target)
        os.rename(temporary, target)
        fsync_path(os.path.dirname(target))
    except (OSError, FatalError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        last = steps(run)
        kept = f"the checkpoint of step {last[-1]} is whole" if last else "there is no earlier checkpoint"
        raise FatalError(f"{target}: the checkpoint cannot be written ({reason}); {kept}; make room and start again") from None


@contextlib.contextmanager
def _writing(path: str):
    """torch's own writer turns a full disk into a RuntimeError without errno."""
    try:
        yield
    except RuntimeError as error:
        free = shutil.disk_usage(os.path.dirname(path)).free
        raise OSError(28 if free < 1 << 20 else 5, f"{' '.join(str(error).split())[:100]}; {free >> 20} MiB free", path) from None


def load(run: str, step: int) -> tuple[dict[str, dict], dict, dict]:
    """Tensors by file name, the optimizers' state and the state of the checkpoint of `step`."""
    folder = folder_of(run, step)
    try:
        with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
        tensors = {
            os.path.basename(path).removesuffix(".safetensors"): hub.tensors(path)
            for path in glob.glob(os.path.join(glob.escape(folder), "*.safetensors"))
        }
        optimizer = torch.load(os.path.join(folder, "optimizer.pt"), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        others = [one for one in steps(run) if one < step]
        hint = f"remove that folder to go on from step {others[-1]}" if others else "remove RUN to begin anew"
        raise FatalError(f"{folder}: the checkpoint is damaged ({reason}); {hint}") from None
    return tensors, optimizer, state


def prune(run: str, keep: int, milestones: list[int]) -> None:
    """Remove checkpoints but the `keep` newest, the milestones and the best one."""
    found, best = steps(run), best_of(run)
    protected = {*found[-max(1, keep) :], *milestones, best.get("step")}
    for step in found:
        if step not in protected:
            _remove(folder_of(run, step))


def best_of(run: str) -> dict:
    """{"step", "metric", "value"} of the best checkpoint; empty where there is none."""
    try:
        with open(os.path.join(run, "best.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def sweep(run: str) -> None:
    """Remove what dead writers left half done."""
    for path in glob.glob(os.path.join(glob.escape(run), "checkpoints", "*.tmp")):
        name = os.path.basename(path).removesuffix(".tmp")
        with contextlib.suppress(ValueError, OSError):
            if is_dead(name.split("-", 2)[2].removeprefix("old-"), path):
                shutil.rmtree(path, ignore_errors=True)


def _remove(folder: str) -> None:
    """Remove a checkpoint so that a half removed one is never taken for whole."""
    away = f"{folder}-old-{identity()}.tmp"
    os.rename(folder, away)
    shutil.rmtree(away, ignore_errors=True)


def write_json(path: str, value) -> None:
    """Write a JSON file that is whole or not there."""
    temporary = f"{path}-{identity()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
