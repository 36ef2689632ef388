"""A system of a few numbers, for what the trainer does with any system: `x` -> 2 x - 1, both cells of its rows.

Cells tell an item to be bad (`bad`), to crash its worker (`crash`), to hang (`hang`) or to be no number (`nan`).
"""

import dataclasses
import os
import time

import numpy as np
import torch
from torch import nn

from avtools.errors import RowError
from avtools.system import System
from avtools.training import draws
from avtools.training.config import Train


@dataclasses.dataclass
class Config:
    width: int = 8
    noise: float = 0.1  # augmentation, from the item's draw
    kind: str = "plain"  # plain | two (optimizers) | adapters | buckets
    seconds: float = 0.0  # that an item takes
    dropout: float = 0.1
    train: Train = dataclasses.field(default_factory=lambda: Train(max_steps=12, batch_size=4, lr=0.01, checkpoint_every=4, eval_every=4, log_every=1))


def item(row: dict, draw: int, options: dict) -> dict:
    if row.get("bad"):
        raise RowError(f"{row['id']}: is bad; mend it")
    if row.get("crash"):
        os._exit(11)
    if row.get("hang"):
        time.sleep(1000)
    time.sleep(options["seconds"])
    x = float(row["x"]) + options["noise"] * (draw / 2**62 - 1)
    length = int(row.get("length") or 3)
    value = np.float32("nan") if row.get("nan") else np.float32(x)
    return {"x": np.full(length, value, np.float32), "y": np.full(length, 2 * x - 1, np.float32)}


class Net(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.into, self.drop, self.out = nn.Linear(1, width), nn.Dropout(dropout), nn.Linear(width, 1)
        self.adapter = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.adapter.weight)
        self.judge = nn.Linear(1, 1)

    def forward(self, x, judged=False):
        hidden = torch.tanh(self.into(x[..., None]))
        found = self.out(self.drop(hidden + self.adapter(hidden)))
        return self.judge(found)[..., 0] if judged else found[..., 0]


class Toy(System):
    name, title, source, licence = "toy", "a test", "none", "none"
    Config = Config
    presets = {"small": {"width": 4}}

    def build(self, weights, init, device):
        self.net = Net(self.config.width, self.config.dropout)
        self.net.judge.requires_grad_(self.config.kind == "two")
        if self.config.kind == "adapters":
            self.net.requires_grad_(False)
            self.net.adapter.requires_grad_(True)

    @property
    def trainable(self):
        return self.net

    def item_work(self):
        return item, {"noise": self.config.noise, "seconds": self.config.seconds}

    def item_is_fixed(self):
        return self.config.noise == 0

    def training_step(self, module, batch, step, optimizer):
        noise = draws.normal(batch["draws"], "noise", (1,), batch["x"].device) * 0.01
        if self.config.kind != "two":
            return {"loss": (module(batch["x"]) - batch["y"] - noise).square().mean(1)}
        if optimizer == "net":
            return {"loss": (module(batch["x"]) - batch["y"]).square().mean(1)}
        if step % 2:
            return None  # the judge trains in every second step
        return {"loss": (module(batch["x"], judged=True) - 1).square().mean(1)}

    def optimizers(self):
        if self.config.kind != "two":
            return super().optimizers()
        judge = set(self.net.judge.parameters())
        return {"net": [p for p in self.net.parameters() if p not in judge], "judge": list(judge)}

    def trainable_state(self):
        return {k: v for k, v in self.net.state_dict().items() if k.startswith("adapter")} if self.config.kind == "adapters" else None

    def loss_weight(self, batch):
        return float(batch["x"].numel()) if self.config.kind == "buckets" else super().loss_weight(batch)

    def batch_sampler(self, rows, seed, size):
        if self.config.kind != "buckets":
            return None
        lengths: dict[int, list[int]] = {}
        for number in range(len(rows)):
            lengths.setdefault(int(rows[number]["length"]), []).append(number)

        def endless():
            epoch = 0
            while True:
                batches = []
                for length, numbers in sorted(lengths.items()):
                    order = np.random.default_rng(draws.draw_of(seed, epoch, length)).permutation(numbers).tolist()
                    order += order[: -len(order) % size]
                    batches += [order[k : k + size] for k in range(0, len(order), size)]
                for k in np.random.default_rng(draws.draw_of(seed, epoch)).permutation(len(batches)):
                    yield [(epoch, number) for number in batches[k]]
                epoch += 1

        return endless()

    def shard_units(self):
        return [nn.Linear]

    def evaluate(self, module, batch):
        return {"loss": (module(batch["x"]) - batch["y"]).square().mean(1)}

    def sample_options(self, given):
        return {}

    @staticmethod
    def condition(row, options):
        return {"x": np.full(3, float(row["x"]), np.float32)}

    def generate(self, items, seeds, options):
        made = self.net(torch.from_numpy(np.stack([item["x"] for item in items])))
        return [{"sound": one.detach().numpy()[:, None].clip(-1, 1), "rate": 8000} for one in made]
