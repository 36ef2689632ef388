"""What a run says of itself: JSON lines on standard output and in RUN/log.jsonl, trackers if asked for."""

import json
import os
import sys
import time

from avtools.errors import FatalError, UsageError

TRACKERS = ("tensorboard", "wandb")


class Log:
    """Writes one JSON object per line; only rank 0 has one that does anything."""

    def __init__(self, run: str, active: bool, trackers: tuple[str, ...] = (), config: dict | None = None):
        self.active, self.file, self.trackers = active, None, []
        if not active:
            return
        try:
            self.file = open(os.path.join(run, "log.jsonl"), "a", encoding="utf-8")
        except OSError as error:
            raise FatalError(f"{run}/log.jsonl: {error.strerror}") from None
        for name in trackers:
            self.trackers.append(_tracker(name, run, config or {}))

    def write(self, line: dict) -> None:
        """Write `line` (plain values; floats that are not finite become null) with the time."""
        if not self.active:
            return
        line = {name: None if isinstance(value, float) and value - value != 0 else value for name, value in line.items()}
        text = json.dumps({**line, "time": round(time.time(), 3)})
        try:
            self.file.write(text + "\n")
            self.file.flush()
        except OSError as error:
            raise FatalError(f"{self.file.name}: {error.strerror}; the last checkpoint stays valid") from None
        print(text, flush=True)
        for track in self.trackers:
            track(line)

    def say(self, text: str) -> None:
        """A message for people, on standard error."""
        if self.active:
            try:
                print(f"avtools train: {text}", file=sys.stderr, flush=True)
            except (OSError, ValueError):
                pass

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def parse_trackers(text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"--log-to {name}: there is {' and '.join(TRACKERS)}")
    return names


def _tracker(name: str, run: str, config: dict):
    try:
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(os.path.join(run, "tensorboard"))

            def track(line: dict) -> None:
                for key, value in line.items():
                    if isinstance(value, (int, float)) and key != "step":
                        writer.add_scalar(key, value, line.get("step", 0))
                writer.flush()

            return track
        import wandb

        wandb.init(dir=run, config=config, resume="allow", id=os.path.basename(os.path.abspath(run)))
        return lambda line: wandb.log({k: v for k, v in line.items() if isinstance(v, (int, float))}, step=line.get("step"))
    except ImportError:
        raise FatalError(f"--log-to {name}: not installed; pip install {name}") from None
