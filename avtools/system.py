"""What the core asks of a system: its modules, its items, its loss, its samples.

A system is a folder `models/NAME/`; its class derives from :class:`System`.  The trainer, the sampler and the
features command call nothing else of it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

from avtools.hub import Part, Weights


class Note(NamedTuple):
    """Something that a run is to tell of an item, though nothing failed."""

    place: int  # of the item in the batch
    what: str  # what is counted over the run, as in "rows with WHAT: 3"
    detail: str  # of this item


class System:
    """Base class; every hook that most systems need not change has its default here."""

    name: ClassVar[str]
    title: ClassVar[str]  # one line
    source: ClassVar[str]  # paper, repository
    licence: ClassVar[str]  # of the released weights
    released_run: ClassVar[bool] = False  # whether real released weights were ever run
    parts: ClassVar[tuple[Part, ...]] = ()  # what it may download
    makes: tuple[str, ...] = ("sound",)  # of "sound" and "picture": what sampling writes
    needs: ClassVar[tuple[str, ...]] = ("path",)  # columns of which a sampled row has at least one
    reads: tuple[str, ...] = ()  # the columns on which a sampled row's outputs depend; none: `needs`
    sets: tuple[str, ...] = ()  # columns that sampling sets beside those of its files: the condition's "cells", or a result's
    groups: ClassVar[bool] = False  # whether a sampled row has several sources, each with a place: --group-by, --layout, --box (`given` of sample_options)
    clip_per_sample: ClassVar[bool] = False  # sample k of several has its own condition: options then hold `sample` and `samples`
    encodes: tuple[str, ...] = ()  # the columns on which a row's features depend; none: `reads`
    Config: ClassVar[type]  # a dataclass; its field `train` is an avtools.training.config.Train
    presets: ClassVar[dict[str, dict]] = {}  # nested overrides of Config's defaults

    def __init__(self, config):
        self.config = config

    def notes(self) -> list[Note]:
        """What there is to tell of the items of the last call of :meth:`prepare`, :meth:`encode` or :meth:`generate`; each run counts the
        rows by `what`, lists them and tells at its end."""
        return []

    # --- training ----------------------------------------------------------------------------------------

    def build(self, weights: Weights, init: Weights, device) -> None:
        """Make all modules for training: trainable ones at random or from `init`, frozen ones from `weights`."""
        raise NotImplementedError

    @property
    def trainable(self):
        """The `torch.nn.Module` that trains; its `forward(batch)` gives {"loss": scalar or (B,), other scalars}."""
        raise NotImplementedError

    def item_work(self) -> tuple[Callable[[dict, int, dict], dict], dict]:
        """A top-level function and its options: `function(row, draw, options)` gives the arrays of one item.

        It runs in worker processes; all its randomness comes from the integer `draw`.  RowError: unreadable.
        """
        raise NotImplementedError

    def collate(self, items: list[dict]) -> dict[str, Any]:
        """The batch: arrays of equal shape stacked as tensors on the CPU; the loader adds `draws` (B,) int64."""
        import torch

        return {name: torch.stack([torch.from_numpy(item[name]) for item in items]) for name in items[0]}

    def check_row(self, row: dict) -> None:
        """Look at the table's first row once, before training; UsageError where such rows do not fit the configuration."""

    def item_is_fixed(self) -> bool:
        """Whether items do not depend on their draw (no augmentation), so that the loader may keep them."""
        return False

    def partner(self, row: dict, draw: int) -> int | None:
        """A number from which the loader picks a second row for this item (`row["partner"]`); None for none."""
        return None

    def prepare(self, batch: dict, train: bool) -> dict:
        """Frozen networks' part of the work on a batch that is already on the device; runs without gradients."""
        return batch

    def training_step(self, module, batch: dict, step: int, optimizer: str) -> dict | None:
        """The losses of one micro-batch for one of the optimizers; None where it does not train in this step.

        `module` is :attr:`trainable`, maybe wrapped for several ranks: call it, not its parts.
        """
        return module(batch)

    def optimizers(self) -> dict[str, Iterable]:
        """Name -> parameters (or parameter groups) of each optimizer; a step asks for their losses in this order."""
        return {"main": [p for p in self.trainable.parameters() if p.requires_grad]}

    def batch_sampler(self, rows, seed: int, size: int) -> Iterator[list[tuple]] | None:
        """Batches in an endless, reproducible order, each a list of (epoch, row number) or (epoch, row number, place); None: shuffled rows.

        Where items of all rows do not fit into one batch, a place says what its items are to be (a bucket): the item's function finds it
        as `row["place"]`, and a row that stands in for an unreadable one is of :meth:`substitute`.  Batches may then differ in size.
        """
        return None

    def substitute(self, rows, number: int, place) -> int:
        """The number of a row that may stand at `place`, from a large drawn `number`."""
        return number % len(rows)

    def batch_items(self, rows, size: int) -> float:
        """How many items a micro-batch has on average, where `size` are asked for: what epochs are counted with."""
        return size

    def left_out(self, rows) -> Iterable[tuple[int, str]]:
        """(row number, why) of rows that :meth:`batch_sampler` can never give; they are counted, and listed in RUN/left-out.jsonl."""
        return ()

    def valid_batches(self, rows, size: int) -> list[list[tuple]] | None:
        """All batches of a validation, entries as of :meth:`batch_sampler`; None: the rows in their order, `size` at a time."""
        return None

    def largest_batch(self, rows, size: int) -> list[tuple] | None:
        """The batch of :meth:`batch_sampler` that takes most memory, for a rehearsal; None: that of the longest clips."""
        return None

    def trainable_state(self) -> dict | None:
        """What a checkpoint holds of :attr:`trainable` (adapters only, say); None for all of it."""
        return None

    def published_rate(self, step: int, total: int) -> float:
        """The share of the learning rate at `step` (from 0) of `total` where train.schedule is "published"."""
        from avtools.errors import UsageError

        raise UsageError(f"schedule 'published': {self.name} has none of its own; constant, linear or cosine")

    def loss_weight(self, batch: dict) -> float:
        """How much a micro-batch counts against others of its step (accumulation, ranks): its size, tokens, ..."""
        return float(len(batch["draws"]))

    def shard_units(self) -> list[type]:
        """Module classes that FSDP2 shards as units."""
        return []

    def evaluate(self, module, batch: dict) -> dict[str, Any]:
        """Validation: name -> (B,) values of a prepared batch; `loss` is the one that must be there."""
        return module(batch)

    # --- sampling ----------------------------------------------------------------------------------------

    @classmethod
    def from_weights(cls, weights: Weights, preset: str | None = None, sets: Iterable[str] = ()) -> "System":
        """The system as a checkpoint configures it, or a preset where no weights are given; no tensor is read."""
        raise NotImplementedError

    def load(self, weights: Weights, device, dtype) -> None:
        """Load all networks for sampling and features, strictly."""
        raise NotImplementedError

    @classmethod
    def convert(cls, weights: Weights, folder: str) -> str:
        """Write the released `weights` as a checkpoint folder of our own; its path."""
        raise NotImplementedError

    def weights_digest(self, weights: Weights) -> str:
        """What identifies all weights that :meth:`load` would read; part of the identity of outputs."""
        raise NotImplementedError

    def sample_options(self, given: dict) -> dict:
        """Plain options for :meth:`condition` and :meth:`generate`, from those of the command line.

        `given` has steps, guidance, scheduler (None where not given); UsageError where they do not fit.
        """
        raise NotImplementedError

    @staticmethod
    def condition(row: dict, options: dict) -> dict:
        """In a worker: the arrays that generating for this row needs; RowError where the row is bad.

        "cells", where it is there, is no array but the cells of :attr:`sets` for this sample.
        """
        raise NotImplementedError

    def generate(self, items: list[dict], seeds: list[int], options: dict) -> list[dict]:
        """One result per item: {"sound": (samples, channels) float32 within [-1, 1], "rate": Hz} and/or
        {"frames": (T, H, W, 3) uint8, "fps": Fraction}; maybe "cells" of :attr:`sets`, all there is where :attr:`makes` is empty.
        The draws of a result come from its seed alone."""
        raise NotImplementedError

    # --- features ----------------------------------------------------------------------------------------

    def feature_options(self) -> dict:
        """Plain options for :meth:`feature_item`."""
        raise NotImplementedError

    @staticmethod
    def feature_item(row: dict, options: dict) -> dict:
        """In a worker: the arrays that :meth:`encode` needs for a row."""
        raise NotImplementedError

    def encode(self, items: list[dict]) -> list[dict]:
        """What the frozen encoders make of each item: name -> array, as written into its features file."""
        raise NotImplementedError

    def load_encoders(self, weights: Weights, device, dtype) -> None:
        """Load the frozen networks that :meth:`encode` needs."""
        self.load(weights, device, dtype)

    def encoders_digest(self, weights: Weights) -> str:
        """What identifies the weights that :meth:`load_encoders` would read."""
        return self.weights_digest(weights)

    def encoder_facts(self) -> dict[str, str]:
        """Names, digests and options of the frozen encoders: a features file holds them, training compares them."""
        raise NotImplementedError
