"""This process among the ranks of a training job, and the few things that ranks tell each other."""

import datetime
import os
import re

import torch
import torch.distributed as dist

from avtools.engine.ranked import World, world
from avtools.errors import FatalError
from avtools.sampling import device

WAIT = datetime.timedelta(minutes=30)  # for the slowest rank: reading a table, or saving a large model


class Ranks:
    """The process group (none for one process), and the device of this rank."""

    def __init__(self):
        self.world: World = world()
        self.rank, self.size = self.world.rank, self.world.size
        self.device = device()
        if self.size > 1 and not dist.is_initialized():
            if "MASTER_ADDR" not in os.environ:
                _address_under_srun()
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            try:
                dist.init_process_group(backend, rank=self.rank, world_size=self.size, timeout=WAIT)
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                raise FatalError(f"rank {self.rank}: the ranks cannot meet ({reason}); check MASTER_ADDR and MASTER_PORT") from None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def total(self, values: list[float]) -> list[float]:
        """The sums of `values` over all ranks."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def share(self, value):
        """Rank 0's `value`, on all ranks."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def first(self, work):
        """Let rank 0 do `work()` while the others wait; its failure is everybody's."""
        failure, value = None, None
        if self.leads:
            try:
                value = work()
            except Exception as error:
                failure = error
        if self.size > 1:
            told = self.share(None if failure is None else str(failure))
            if told is not None and not self.leads:
                raise FatalError(f"rank {self.rank} ends: {told}")
        if failure is not None:
            raise failure
        return value

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def _address_under_srun() -> None:
    """What torchrun would say, from srun's own variables: the first node of the step, a port made of the job's number."""
    env = os.environ
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "localhost"))
    first = re.split(r",(?![^\[]*\])", nodes)[0]  # node[01-04,07],other -> node[01-04,07]
    listed = re.fullmatch(r"(.*)\[(\d+).*\](.*)", first)
    env["MASTER_ADDR"] = "".join(listed.groups()) if listed else first
    env["MASTER_PORT"] = str(20000 + (int(env.get("SLURM_JOB_ID", 0)) * 7 + int(env.get("SLURM_STEP_ID", 0))) % 20000)
