"""A run's folder: opened, compared with what it was begun with, trained in, rehearsed.

RUN/config.json   the system, its resolved configuration, the weights that it was begun with
RUN/table.jsonl   the rows, as they were when the run began (valid.jsonl: those of --valid)
RUN/checkpoints/  see :mod:`avtools.training.checkpoint`; best.json names the best one
RUN/log.jsonl     what standard output shows
RUN/bad.jsonl     rows that could not be read; RUN/left-out.jsonl: rows that fit no batch; RUN/notes.jsonl: what else there is to tell of rows
                  (bad-valid.jsonl, left-out-valid.jsonl, notes-valid.jsonl: those of --valid)
RUN/samples/      what the model makes of the first validation rows
RUN/requeue       there when a signal ended the run before its last step
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import sys
import time

import torch

from avtools import __version__, hub
from avtools.errors import FatalError, UsageError
from avtools.identity import identity
from avtools.outputs import output_failure
from avtools.sampling import preview
from avtools.system import System
from avtools.training import checkpoint, config, table
from avtools.training.data import Loader, longest
from avtools.training.logs import Log
from avtools.training.loop import Trainer
from avtools.training.ranks import Ranks

#: Tables -> what lists rows of them by their numbers.
LISTS = {"table.jsonl": ("bad.jsonl", "notes.jsonl"), "valid.jsonl": ("bad-valid.jsonl", "notes-valid.jsonl")}
#: Settings that change when things happen, not what is computed: free to change when a run goes on.
FREE = ("eval_every", "checkpoint_every", "milestones", "keep", "save_best", "log_every", "previews", "cache_gb", "max_nan")


@dataclasses.dataclass
class Request:
    """What `avtools train` was asked for."""

    run: str
    weights: hub.Weights
    init: hub.Weights
    source: object | None  # the rows (Records); None: those of RUN
    valid: object | None
    key: str | None = None
    allow_changes: bool = False
    max_bad: tuple[str, float] | None = None
    jobs: int | None = None
    timeout: float | None = None
    trackers: tuple[str, ...] = ()
    rehearse: bool = False


def facts_of(system: System) -> dict:
    """The config.json of a checkpoint."""
    return {"system": system.name, "avtools": __version__, "config": config.as_dict(system.config)}


def config_file(run: str, system: str) -> str | None:
    """RUN/config.json, where RUN is one of this system's."""
    path = os.path.join(run, "config.json")
    return path if (_read_json(path) or {}).get("system") == system else None


def train(system: System, request: Request) -> int:
    """Begin or resume the run; 0 when it has ended, by its last step or because a signal asked for it."""
    ranks = Ranks()
    try:
        with _folder(request.run, ranks):
            rows, valid = _open(system, request, ranks)
            log = Log(request.run, ranks.leads, request.trackers, facts_of(system))
            try:
                if request.rehearse:
                    return _rehearse(system, request, ranks, log, rows)
                return _train(system, request, ranks, log, rows, valid)
            finally:
                log.close()
    finally:
        ranks.close()


def _train(system: System, request: Request, ranks: Ranks, log: Log, rows: table.Table, valid: table.Table | None) -> int:
    trainer = Trainer(
        system, rows, request.run, ranks, log, facts=facts_of(system), jobs=request.jobs, max_bad=request.max_bad, timeout=request.timeout
    )
    done = checkpoint.steps(request.run)
    done = ranks.share(done)  # a slow disk must not let ranks disagree
    trainer.build(request.weights, hub.Weights({}) if done else request.init)
    if done:
        trainer.load(done[-1])
        log.write({"step": trainer.state.step, "resumed": checkpoint.folder_of(request.run, done[-1])})
        if trainer.state.step >= trainer.total_steps:
            log.say(f"step {trainer.state.step} of {trainer.total_steps} is done already; --max-steps N --allow-changes goes on")
    else:
        count = sum(p.numel() for p in system.trainable.parameters() if p.requires_grad)
        log.write({"step": 0, "rows": len(rows), "parameters": count, "steps": trainer.total_steps, "ranks": ranks.size, "batch": trainer.per_step, "device": str(ranks.device)})
    trainer.fit(valid)
    return 0


@contextlib.contextmanager
def _folder(run: str, ranks: Ranks):
    """RUN, held by this job alone."""

    def hold():
        try:
            os.makedirs(os.path.join(run, "checkpoints"), exist_ok=True)
            lock = open(os.path.join(run, "lock"), "a+")
        except OSError as error:
            raise FatalError(f"{run}: cannot be written ({error.strerror}); choose another -d RUN") from None
        deadline = time.monotonic() + 20  # the process that we follow may be ending just now
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise UsageError(f"{run}: another process trains there; wait for its end, or choose another -d RUN") from None
                time.sleep(0.2)
        checkpoint.sweep(run)
        return lock

    lock = ranks.first(hold)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _open(system: System, request: Request, ranks: Ranks) -> tuple[table.Table, table.Table | None]:
    """The rows to train on and to validate on, after comparing everything with what RUN was begun with."""

    def decide():
        run = request.run
        known = _read_json(os.path.join(run, "config.json"))
        begun, changes, stale = known is not None and bool(checkpoint.steps(run)), [], []
        now = {**facts_of(system), "weights": {part: _identity_of(source) for part, source in sorted(request.weights.sources.items())}, "key": request.key}
        if known is not None:
            if known.get("system") != system.name:
                raise UsageError(f"{run}: is a run of {known.get('system')}; choose another -d RUN")
            was = {name: known.get(name) for name in ("config", "weights", "key")}
            changes += config.differences(_rid_of_free(was, system), _rid_of_free({name: now[name] for name in was}, system))
        for name, source in (("table.jsonl", request.source), ("valid.jsonl", request.valid)):
            found = _snapshot(run, name, source, request.key, begun)
            changes += found if begun else []
            stale += LISTS[name] if found else []
        if changes and not request.allow_changes and checkpoint.steps(run):
            for name in ("table.jsonl", "valid.jsonl"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(run, name + ".new"))
            shown = "; ".join(changes[:6]) + (f"; and {len(changes) - 6} more" if len(changes) > 6 else "")
            lost = [f"--weights {f'{part}=' if part else 'SOURCE'}" for part in known.get("weights") or {} if part not in now["weights"]]
            again = f"give {' and '.join(lost)} again; " if lost else ""
            raise UsageError(f"{run}: was begun otherwise: {shown}. {again}--allow-changes goes on with the new; another -d RUN begins anew")
        for name in stale:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(run, name))
        for name in ("table.jsonl", "valid.jsonl"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(os.path.join(run, name + ".new"), os.path.join(run, name))
        if known != now:
            try:
                checkpoint.write_json(os.path.join(run, "config.json"), now)
            except OSError as error:
                raise output_failure(error, run) from None

    ranks.first(decide)
    path, valid = os.path.join(request.run, "table.jsonl"), os.path.join(request.run, "valid.jsonl")
    if not os.path.exists(path):
        raise UsageError("no table: give a file, or pipe one in ('--help' explains)")
    return table.Table(path, request.key), table.Table(valid, request.key) if os.path.exists(valid) else None


def _snapshot(run: str, name: str, source, key: str | None, begun: bool) -> list[str]:
    """Write the rows beside RUN's own as NAME.new; what differs from them."""
    if source is None:
        return []
    path = os.path.join(run, name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + ".new")
    what = "--valid" if name == "valid.jsonl" else "the table"
    if failed := table.write(path + ".new", source, key, what):
        print(f"avtools train: {failed} rows of {what} hold an error, and are left out", file=sys.stderr, flush=True)
    if not os.path.exists(path):
        return [f"{name}: none -> given"] if begun else []
    lines = table.difference(table.Table(path, key), table.Table(path + ".new", key))
    return [line.replace("table", "--valid", 1) for line in lines] if name == "valid.jsonl" else lines


def _rid_of_free(facts: dict, system: System) -> dict:
    """`facts` without the settings that may change freely."""
    facts = json.loads(json.dumps(facts))
    inner = (facts.get("config") or {}).get("train") or {}
    free = [*FREE, *(["max_steps", "epochs"] if system.config.train.schedule == "constant" else [])]
    for name in free:
        inner.pop(name, None)
    (facts.get("config") or {}).pop("sampling", None)
    return facts


def _identity_of(source: str) -> str:
    return hub.digest(source) if os.path.exists(source) else source


def _read_json(path: str) -> dict | None:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FatalError(f"{path}: cannot be read ({error}); remove RUN to begin anew") from None


def _rehearse(system: System, request: Request, ranks: Ranks, log: Log, rows: table.Table) -> int:
    """The longest items, a save, everything forgotten, a load, a step, and a sample: what it takes, in one line."""
    place = os.path.join(request.run, f"rehearsal-{identity()}.tmp") if ranks.leads else None
    place = ranks.share(place)
    report: dict = {"rehearsal": True, "ranks": ranks.size, "device": str(ranks.device)}
    try:
        ranks.first(lambda: os.makedirs(os.path.join(place, "checkpoints")))

        def made() -> Trainer:
            trainer = Trainer(system, rows, place, ranks, log, facts=facts_of(system), jobs=request.jobs, max_bad=request.max_bad, timeout=request.timeout)
            trainer.build(request.weights, request.init)
            return trainer

        def stepped(trainer: Trainer) -> float:
            loader: Loader = trainer.open_loader()
            try:
                loader.start([entries] * trainer.train.accumulate)
                batches = [loader.next() for _ in range(trainer.train.accumulate)]
            finally:
                loader.close()
            begun = time.perf_counter()
            trainer.step(batches)
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - begun

        size = system.config.train.batch_size
        entries = system.largest_batch(rows, size) or [(0, number) for number in longest(rows, size)]
        numbers = [entry[1] for entry in entries]
        trainer = made()
        report["parameters"] = sum(p.numel() for p in system.trainable.parameters() if p.requires_grad)
        report["longest_rows"] = [number + 1 for number in numbers[:4]]
        stepped(trainer)
        begun = time.perf_counter()
        trainer.save()
        report["checkpoint_s"] = round(time.perf_counter() - begun, 3)
        report["checkpoint_mb"] = round(sum(e.stat().st_size for e in os.scandir(checkpoint.folder_of(place, 1))) / 1e6, 3) if ranks.leads else 0
        before = {name: tensor.clone() for name, tensor in trainer.tensors()["model"].items()}
        del trainer
        trainer = made()
        trainer.load(1)
        if any(not torch.equal(before[name], tensor) for name, tensor in trainer.tensors()["model"].items()):
            raise FatalError("the rehearsal's checkpoint gave back other weights than were saved; please report this")
        seconds = stepped(trainer)
        report["step_s"] = round(seconds, 4)
        report["samples_per_s"] = round(trainer.per_step / seconds, 2)
        report["hours"] = round(trainer.total_steps * seconds / 3600, 2)
        if ranks.device.type == "cuda":
            report["memory_mb"] = round(torch.cuda.max_memory_allocated(ranks.device) / 2**20)
            report["memory_of_mb"] = round(torch.cuda.get_device_properties(ranks.device).total_memory / 2**20)
        else:
            import resource

            report["memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        with trainer.averaged():

            def sample() -> None:
                begun = time.perf_counter()
                preview(system, [rows[numbers[0]]], os.path.join(place, "sample"))
                report["sample_s"] = round(time.perf_counter() - begun, 3)

            if not (trainer.train.fsdp and ranks.size > 1):  # sharded weights are on no rank whole
                ranks.first(sample)
        log.write(report)
    finally:
        if ranks.leads:
            shutil.rmtree(place, ignore_errors=True)
    return 0
