"""The trainer: one loop for all systems.

A run is a function of its configuration, its table and the number of ranks: every draw comes from the seed,
the epoch and the item's key, every position from a count of samples.  So a run that was killed goes on, on a
CPU bit for bit, as if nothing had been.
"""

import contextlib
import dataclasses
import math
import os
import resource
import signal
import sys
import time

import torch
import torch.distributed as dist

from avtools import hub
from avtools.errors import FatalError, UsageError
from avtools.sampling import preview
from avtools.system import System
from avtools.training import checkpoint
from avtools.training.config import Train
from avtools.training.data import Bad, Loader, Plan, limit_of
from avtools.training.draws import draw_of
from avtools.training.logs import Log
from avtools.training.notes import Notes
from avtools.training.ranks import Ranks
from avtools.training.table import Table

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
HIGHER = ("acc", "sdr", "contrast")  # parts of the names of validation values that are to be high; all others are losses and errors


@dataclasses.dataclass
class State:
    """Where a run is."""

    step: int = 0  # updates
    samples: int = 0  # items that were trained on, over all ranks
    batches: int = 0  # micro-batches, over all ranks
    bad_steps: int = 0  # in a row, without a finite loss


class Trainer:
    """Trains `system` on `table`; all that lasts is below `run`."""

    def __init__(self, system: System, table: Table, run: str, ranks: Ranks, log: Log, *, facts: dict, jobs=None, max_bad=None, timeout=None):
        """`facts`: what a checkpoint's config.json says (:func:`avtools.training.run.facts_of`)."""
        self.system, self.table, self.run, self.ranks, self.log, self.facts = system, table, run, ranks, log, facts
        self.train: Train = system.config.train
        self.state = State()
        self.saved = -1  # the step of the newest checkpoint
        self.stop: str | None = None  # the signal that asked the run to end
        self.bad = Bad(os.path.join(run, "bad.jsonl"), limit_of(max_bad, len(table)))
        self.told: set[int] = set()  # of those, what all ranks know
        self.notes, self.valid_notes = (Notes(os.path.join(run, name), ranks, log.say) for name in ("notes.jsonl", "notes-valid.jsonl"))
        self.jobs, self.timeout = jobs, timeout
        self.loader: Loader | None = None
        self._check()

    def _check(self) -> None:
        train = self.train
        if train.schedule not in ("constant", "linear", "cosine", "published"):
            raise UsageError(f"schedule {train.schedule!r}: constant, linear, cosine or published")
        if train.precision not in ("fp32", *AUTOCAST):
            raise UsageError(f"precision {train.precision!r}: fp32, bf16 or fp16")
        for name in ("batch_size", "accumulate", "eval_every", "checkpoint_every", "log_every", "keep"):
            if getattr(train, name) < 1:
                raise UsageError(f"{name} {getattr(train, name)}: at least 1")
        self.per_step = self.system.batch_items(self.table, train.batch_size) * train.accumulate * self.ranks.size
        by_epochs = None if train.epochs is None else math.ceil(train.epochs * len(self.table) / self.per_step)
        ends = [end for end in (train.max_steps, by_epochs) if end is not None]
        if not ends:
            raise UsageError("when does it end? give --max-steps N or --set epochs=N")
        self.total_steps = min(ends)
        self.rate(0)  # UsageError where the system has no schedule of its own

    # --- networks and optimizers ----------------------------------------------------------------------------

    def build(self, weights: hub.Weights, init: hub.Weights) -> None:
        """Make the networks, on this rank's device, and the optimizers."""
        train, ranks, system = self.train, self.ranks, self.system
        torch.manual_seed(draw_of(train.seed, "build"))
        system.build(weights, init, ranks.device)
        system.check_row(self.table[0])
        module = system.trainable.to(ranks.device)
        module.train()
        if train.compile:
            module.compile()
        if train.fsdp and ranks.size > 1:
            from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

            kind = AUTOCAST.get(train.precision)
            # autocast casts what an operation needs; FSDP would all that a unit is given: times of diffusion, seconds, angles.  On the CPU, though,
            # autocast leaves norms alone, whose weights then are of another kind than what they norm
            policy = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32, cast_forward_inputs=ranks.device.type == "cpu") if kind else MixedPrecisionPolicy()
            for unit in [m for m in module.modules() if isinstance(m, tuple(system.shard_units()))]:
                fully_shard(unit, mp_policy=policy)
            fully_shard(module, mp_policy=policy)
        groups = {name: list(parameters) for name, parameters in system.optimizers().items()}
        self.module = module
        if ranks.size > 1 and not train.fsdp:
            device_ids = [ranks.device.index] if ranks.device.type == "cuda" else None
            self.module = torch.nn.parallel.DistributedDataParallel(
                module, device_ids, find_unused_parameters=len(groups) > 1, gradient_as_bucket_view=True
            )
        self.optimizers = {
            name: torch.optim.AdamW(parameters, lr=train.lr, betas=tuple(train.betas), eps=train.eps, weight_decay=train.weight_decay)
            for name, parameters in groups.items()
        }
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["full_lr"] = group["lr"]  # a system's own groups may have rates of their own
        self.parameters = {
            name: [p for group in optimizer.param_groups for p in group["params"]] for name, optimizer in self.optimizers.items()
        }
        everything = [p for parameters in self.parameters.values() for p in parameters]
        if len({id(p) for p in everything}) != len(everything):
            raise FatalError(f"{system.name}: two optimizers share a parameter; please report this")
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=train.precision == "fp16")
        self.names = {id(p): name for name, p in module.named_parameters()}
        self.ema = None if train.ema is None else {self.names[id(p)]: p.detach().clone() for p in everything}

    def rate(self, step: int) -> float:
        """The share of the learning rate that step `step` (from 0) trains with."""
        train = self.train
        if train.schedule == "published":
            return self.system.published_rate(step, self.total_steps)
        warm = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
        past = (step - train.warmup_steps) / max(1, self.total_steps - train.warmup_steps)
        past = min(1.0, max(0.0, past))
        return warm * {"constant": 1.0, "linear": 1.0 - past, "cosine": 0.5 * (1 + math.cos(math.pi * past))}[train.schedule]

    # --- one step ---------------------------------------------------------------------------------------------

    def autocast(self):
        kind = AUTOCAST.get(self.train.precision)
        return torch.autocast(self.ranks.device.type, kind) if kind else contextlib.nullcontext()

    def on_device(self, batch: dict) -> dict:
        move = self.ranks.device.type != "cpu"
        return {
            name: value.to(self.ranks.device, non_blocking=True) if move and isinstance(value, torch.Tensor) and name != "draws" else value
            for name, value in batch.items()
        }

    def step(self, batches: list[dict]) -> dict[str, float]:
        """One update of every optimizer from the micro-batches of this rank; the values to log."""
        train, system, ranks, state = self.train, self.system, self.ranks, self.state
        torch.manual_seed(draw_of(train.seed, "step", state.step, ranks.rank))  # dropout inside the networks
        weights = [system.loss_weight(batch) for batch in batches]
        total, items = ranks.total([sum(weights), float(sum(len(batch["draws"]) for batch in batches))])
        with torch.no_grad(), self.autocast():
            batches = [self._prepared(batch, True, self.notes) for batch in batches]
        logged: dict[str, torch.Tensor] = {}
        finite = True
        for name, optimizer in self.optimizers.items():
            self._only(name)
            trained = False
            for number, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
                with self._sync(number == len(batches) - 1):
                    with self.autocast():
                        losses = system.training_step(self.module, batch, state.step, name)
                    if losses is None:
                        break
                    trained = True
                    share = weight / total
                    loss = losses["loss"].float().mean() * share
                    self.scaler.scale(loss * ranks.size).backward()  # the ranks' gradients are averaged
                for key, value in losses.items():
                    key = key if name == "main" else f"{name}_{key}"
                    logged[key] = logged.get(key, 0) + value.detach().float().mean() * share
            if not trained:
                continue
            self.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters[name], train.clip_norm or math.inf)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            logged["grad_norm" if name == "main" else f"{name}_grad_norm"] = norm.detach() / ranks.size  # summed over ranks below
            fine = bool(torch.isfinite(norm))  # the gradient is the same on all ranks, and so is this
            finite &= fine
            if fine or self.scaler.is_enabled():  # the scaler skips by itself, and lowers its scale
                for group in optimizer.param_groups:
                    group["lr"] = group["full_lr"] * self.rate(state.step)
                self.scaler.step(optimizer)
                self.scaler.update()
            optimizer.zero_grad(set_to_none=True)
        self._only(None)
        if finite and self.ema is not None:
            decay = min(train.ema, (1 + state.step) / (10 + state.step))
            with torch.no_grad():
                for parameters in self.parameters.values():
                    averages = [self.ema[self.names[id(p)]] for p in parameters]
                    torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - decay)
        state.step += 1
        state.samples += round(items)
        state.batches += train.accumulate * ranks.size
        self._finite(finite, logged, batches)
        return logged

    def _prepared(self, batch: dict, train: bool, notes: Notes | None) -> dict:
        prepared = self.system.prepare(self.on_device(batch), train)
        if notes is not None:
            notes.add(batch, self.system.notes())
        return prepared

    def _only(self, name: str | None) -> None:
        """Let gradients reach the parameters of one optimizer alone."""
        if len(self.optimizers) > 1:
            for other, parameters in self.parameters.items():
                for parameter in parameters:
                    parameter.requires_grad_(name is None or other == name)

    @contextlib.contextmanager
    def _sync(self, last: bool):
        """Ranks exchange gradients with the last micro-batch of a step only."""
        if hasattr(self.module, "set_requires_gradient_sync"):
            self.module.set_requires_gradient_sync(last)
            yield
        elif self.ranks.size > 1 and not last:
            with self.module.no_sync():
                yield
        else:
            yield

    def _finite(self, finite: bool, logged: dict, batches: list[dict]) -> None:
        """Count steps without a finite gradient: named, skipped, and after several in a row the end."""
        state = self.state
        if finite:
            state.bad_steps = 0
            return
        state.bad_steps += 1
        keys = [key for batch in batches for key in batch["keys"]]
        if self.ranks.size > 1:
            everyone: list = [None] * self.ranks.size
            dist.all_gather_object(everyone, keys)
            keys = [key for some in everyone for key in some]
        self.log.write({"step": state.step, "skipped": "the loss or its gradient is not finite", "keys": keys})
        self.log.say(f"step {state.step}: the loss or its gradient is not finite, the step is skipped (items: {', '.join(keys[:8])})")
        if state.bad_steps >= self.train.max_nan:
            last = checkpoint.steps(self.run)
            kept = f"; the checkpoint of step {last[-1]} is whole" if last else ""
            raise FatalError(f"{state.bad_steps} steps in a row without a finite loss: lower lr, or look at the items that {self.run}/log.jsonl names{kept}")

    # --- checkpoints -------------------------------------------------------------------------------------------

    def _full(self, named: dict) -> dict:
        """Tensors on the CPU, whole, in storage of their own."""
        return {name: (t.full_tensor() if hasattr(t, "full_tensor") else t).detach().cpu().clone().contiguous() for name, t in named.items()}

    def tensors(self) -> dict[str, dict]:
        """What a checkpoint holds by file: the trained state, and the same with averaged weights."""
        own = self.system.trainable_state()
        model = self._full(self.system.trainable.state_dict() if own is None else own)
        if self.ema is None:
            return {"model": model}
        averages = self._full(self.ema)
        return {"model": model, "ema": {name: averages.get(name, tensor) for name, tensor in model.items()}}

    def save(self) -> None:
        """Write a checkpoint of now, and remove those that are not to be kept."""
        if self.state.step == self.saved:
            return
        self.notes.share(self.table)
        tensors, optimizer = self.tensors(), self._optimizer_state()
        state = {**dataclasses.asdict(self.state), "scaler": self.scaler.state_dict()}

        def write() -> None:
            checkpoint.save(self.run, self.state.step, self.facts, tensors, optimizer, state)
            checkpoint.prune(self.run, self.train.keep, self.train.milestones)

        self.ranks.first(write)
        self.saved = self.state.step
        self.log.write({"step": self.state.step, "checkpoint": checkpoint.folder_of(self.run, self.state.step)})

    def _optimizer_state(self) -> dict:
        if not (self.train.fsdp and self.ranks.size > 1):
            return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {name: get_optimizer_state_dict(self.module, optimizer, options=options) for name, optimizer in self.optimizers.items()}

    def load(self, step: int) -> None:
        """Go back to the checkpoint of `step`."""
        tensors, optimizer, state = checkpoint.load(self.run, step)
        where = checkpoint.folder_of(self.run, step)
        self._put_model(tensors["model"], where)
        if self.ema is not None:
            source = tensors.get("ema")
            if source is None:
                raise FatalError(f"{where}: has no averaged weights; --set ema=null, or begin anew with --init")
            for name, average in self.ema.items():
                _copy_into(average, source[name])
        for name, one in self.optimizers.items():
            if name not in optimizer:
                raise FatalError(f"{where}: has no state of the optimizer '{name}'")
            settings = [{key: value for key, value in group.items() if key != "params"} for group in one.param_groups]
            if self.train.fsdp and self.ranks.size > 1:
                from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

                set_optimizer_state_dict(self.module, one, optimizer[name], options=StateDictOptions(full_state_dict=True))
            else:
                one.load_state_dict(optimizer[name])
            for group, own in zip(one.param_groups, settings, strict=True):
                group.update(own)  # rates and decay are the configuration's, which may have been changed
        self.scaler.load_state_dict(state.pop("scaler"))
        self.state = State(**{field.name: state[field.name] for field in dataclasses.fields(State)})
        self.saved = self.state.step

    def _put_model(self, tensors: dict, where: str) -> None:
        own = self.system.trainable_state()
        if not (self.train.fsdp and self.ranks.size > 1):
            expected = set(self.system.trainable.state_dict()) if own is None else set(own)
            others = () if own is None else tuple("^" + _escaped(n) + "$" for n in set(self.system.trainable.state_dict()) - expected)
            hub.load_strict(self.system.trainable, tensors, where, ignore=others)
            return
        named = dict(self.system.trainable.state_dict())
        for name, tensor in tensors.items():
            _copy_into(named[name], tensor)

    # --- validation ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def averaged(self):
        """The module in evaluation mode, with the averaged weights where there are any."""
        module = self.system.trainable
        module.eval()
        self._reshard()
        with torch.no_grad():
            if self.ema is not None:
                named = dict(module.named_parameters())
                held = {name: named[name].detach().clone() for name in self.ema}
                for name, average in self.ema.items():
                    named[name].copy_(average)
            try:
                yield module
            finally:
                self._reshard()
                if self.ema is not None:
                    for name, tensor in held.items():
                        named[name].copy_(tensor)
                module.train()

    def _reshard(self) -> None:
        """Let go of whole copies of sharded parameters, which would not follow a change of the shards."""
        for module in self.system.trainable.modules():
            if hasattr(module, "reshard"):
                module.reshard()

    def evaluate(self, loader: Loader, batch_size: int) -> dict[str, float]:
        """Means over the validation rows: each with draws of its own that never change."""
        ranks, count = self.ranks, len(loader.table)
        own = self.system.valid_batches(loader.table, batch_size)
        if own is None:
            mine = list(range(ranks.rank, count, ranks.size))
            steps = -(-(-(-count // ranks.size)) // batch_size)  # the same on all ranks: FSDP gathers in each
            batches = [[(0, number) for number in mine[k : k + batch_size]] for k in range(0, len(mine), batch_size)]
        else:
            steps, batches = -(-len(own) // ranks.size), own[ranks.rank :: ranks.size]
        idle = not batches  # a rank without any goes through the first, which does not count for it
        loader.start(own[:1] if idle else batches)
        sums: dict[str, float] = {}
        seen, last = 0.0, loader.next() if idle else None
        with self.averaged():
            for number in range(steps):
                batch = loader.next() if number < len(batches) else None
                counts = batch is not None
                if counts:
                    last = batch
                with self.autocast():
                    prepared = self._prepared(last, False, self.valid_notes if counts else None)
                    torch.manual_seed(0)
                    values = self.system.evaluate(self.module, prepared)
                if counts:
                    seen += len(last["draws"])
                    for name, value in values.items():
                        sums[name] = sums.get(name, 0.0) + float(value.double().sum() if value.ndim else value.double() * len(last["draws"]))
        loader.pause()
        self.valid_notes.share(loader.table)
        names = sorted(sums)
        totals = ranks.total([*(sums[name] for name in names), seen])
        return {f"valid_{name}": total / totals[-1] for name, total in zip(names, totals, strict=False)}

    # --- the run -------------------------------------------------------------------------------------------------------

    def open_loader(self) -> Loader:
        self.loader = Loader(
            self.system, self.table, self.train.seed, self.bad, jobs=self.jobs, local_size=self.ranks.world.local_size, timeout=self.timeout,
            cache_gb=self.train.cache_gb, say=self.log.say, pin=self.ranks.device.type == "cuda",
        )  # fmt: skip
        return self.loader

    def fit(self, valid: Table | None = None) -> None:
        """Train from the present state to the end, or until a signal asks for it (then RUN/requeue is there)."""
        train, ranks, state, log = self.train, self.ranks, self.state, self.log
        loader = self.open_loader()
        valid_loader = None
        requeue = os.path.join(self.run, "requeue")
        ranks.first(lambda: os.path.exists(requeue) and os.unlink(requeue))
        self._listen()
        if valid is not None and len(valid) < ranks.size:
            raise UsageError(f"--valid has {len(valid)} rows for {ranks.size} ranks; give at least as many")
        if valid is not None and self.system.valid_batches(valid, train.batch_size) == []:
            raise UsageError(f"--valid: none of its rows can be validated on ({next((why for _, why in self.system.left_out(valid)), 'they are left out')})")
        try:
            self._leave_out(valid)
            loader.start(Plan(self.system, self.table, train.batch_size, train.seed, ranks.rank, ranks.size, state.samples, state.batches))
            if valid is not None:
                bad = Bad(os.path.join(self.run, "bad-valid.jsonl"), len(valid))
                valid_loader = Loader(self.system, valid, train.seed, bad, jobs=self.jobs, local_size=ranks.world.local_size, timeout=self.timeout, cache_gb=train.cache_gb, say=log.say, purpose="valid")
            meter = _Meter(self)
            while state.step < self.total_steps:
                meter.add(self.step([loader.next() for _ in range(train.accumulate)]))
                last = state.step == self.total_steps
                new = self.bad.numbers - self.told
                stopping, news = ranks.total([float(self.stop is not None), float(len(new))])
                if news:
                    self._share_bad(new)
                if state.step % train.log_every == 0 or last or stopping:
                    log.write(meter.line())
                if last or stopping or state.step % train.checkpoint_every == 0 or state.step in train.milestones:
                    self.save()  # before validation, which may fail
                    meter.rest()
                if valid_loader is not None and (state.step % train.eval_every == 0 or last) and not stopping:
                    self._validate(valid_loader)
                    meter.rest()
                if stopping:
                    ranks.first(lambda: checkpoint.write_json(requeue, {"step": state.step, "of": self.total_steps, "signal": self.stop}))
                    log.say(f"asked to end ({self.stop or 'another rank'}): checkpoint of step {state.step} is written; start again to go on")
                    self._tell()
                    return
            log.write({"step": state.step, "done": True, "best": checkpoint.best_of(self.run), **({"notes": self.notes.counts()} if self.notes.counts() else {})})
            self._tell()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FatalError(f"{error.filename or self.run}: {error.strerror or error}") from None
        finally:
            loader.close()
            if valid_loader is not None:
                valid_loader.close()

    def _tell(self) -> None:
        """What there is to tell at the end."""
        for notes in (self.notes, self.valid_notes):
            for what, count in notes.counts().items():
                self.log.say(f"rows with {what}: {count}; {notes.path} lists them")

    def _leave_out(self, valid: Table | None) -> None:
        """Count and list the rows that no batch can have: of these tables and settings, which may be others than those of the last start."""

        def listed() -> None:
            for table, name, of in ((self.table, "left-out.jsonl", ""), (valid, "left-out-valid.jsonl", " of --valid")):
                found, path = list(self.system.left_out(table)) if table is not None else [], os.path.join(self.run, name)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                lost = Bad(path, math.inf)
                for number, reason in found:
                    lost.add(number, table[number], reason)
                if found:
                    more = ", ..." if len({why for _, why in found}) > 1 else ""
                    self.log.say(f"{len(found)} of {len(table)} rows{of} are left out ({found[0][1]}{more}); {path} lists them")

        self.ranks.first(listed)

    def _share_bad(self, new: set[int]) -> None:
        """Let all ranks know the rows that some of them could not read."""
        everyone: list = [new]
        if self.ranks.size > 1:
            everyone = [None] * self.ranks.size
            dist.all_gather_object(everyone, new)
        for some in everyone:
            self.told |= some
            self.bad.numbers |= some
            self.bad.listed |= some
        if len(self.told) > self.bad.limit:
            raise FatalError(f"{len(self.told)} rows cannot be read, more than --max-bad allows; {self.bad.path} lists them")

    def _validate(self, loader: Loader) -> None:
        train, state = self.train, self.state
        values = self.evaluate(loader, train.batch_size)
        self.log.write({"step": state.step, **values})
        name = train.save_best or "valid_loss"
        if name not in values:
            raise UsageError(f"--save-best {name}: validation gives {', '.join(sorted(values))}")
        if train.previews and not (train.fsdp and self.ranks.size > 1):  # sharded weights are on no rank whole
            rows = [loader.table[number] for number in range(min(train.previews, len(loader.table)))]
            folder = os.path.join(self.run, "samples", checkpoint.NAME.format(state.step))
            with self.averaged():
                self.ranks.first(lambda: preview(self.system, rows, folder))
        best = self.ranks.share(checkpoint.best_of(self.run))  # a slow disk must not let ranks disagree
        if best.get("metric") != name:
            best = {}  # of another measure
        lower = not any(word in name for word in HIGHER)
        if math.isfinite(values[name]) and (not best or (values[name] < best["value"]) == lower and values[name] != best["value"]):
            self.save()
            found = {"step": state.step, "metric": name, "value": values[name]}
            self.ranks.first(lambda: checkpoint.write_json(os.path.join(self.run, "best.json"), found))
            self.ranks.first(lambda: checkpoint.prune(self.run, train.keep, train.milestones))

    def _listen(self) -> None:
        """SIGTERM and SIGUSR2 (SIGUSR1 is NCCL's) ask for a checkpoint and an end after this step."""

        def ask(number, frame):
            self.stop = signal.Signals(number).name

        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, ask)


class _Meter:
    """Averages since the last log line; time for validation and checkpoints does not count."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.since()

    def since(self) -> None:
        state, loader = self.trainer.state, self.trainer.loader
        self.sums: dict[str, torch.Tensor] = {}
        self.count, self.begun, self.samples, self.waited = 0, time.perf_counter(), state.samples, loader.waited
        self.mark = self.begun  # when the last step ended

    def rest(self) -> None:
        """What happened since the last step took no part in training."""
        now = time.perf_counter()
        self.begun += now - self.mark
        self.mark = now

    def add(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count += 1
        self.mark = time.perf_counter()

    def line(self) -> dict:
        trainer = self.trainer
        state, ranks = trainer.state, trainer.ranks
        spent = max(1e-9, time.perf_counter() - self.begun)
        waited = trainer.loader.waited - self.waited
        names = sorted(self.sums)
        *sums, waits = ranks.total([*(float(self.sums[name]) for name in names), waited / spent])
        means = {name: total / self.count for name, total in zip(names, sums, strict=True)}
        if ranks.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(ranks.device) / 2**20
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
        line = {
            "step": state.step,
            "epoch": round(state.samples / len(trainer.table), 4),
            "samples": state.samples,
            **means,
            "lr": trainer.train.lr * trainer.rate(state.step - 1),
            "samples_per_s": round((state.samples - self.samples) / spent, 3),
            "wait": round(waits / ranks.size, 4),
            "memory_mb": round(memory, 1),
        }
        self.since()
        return line


def _copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be sharded over the ranks."""
    with torch.no_grad():
        if hasattr(target, "device_mesh"):
            from torch.distributed.tensor import distribute_tensor

            source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
        target.copy_(source)


def _escaped(name: str) -> str:
    import re

    return re.escape(name)
