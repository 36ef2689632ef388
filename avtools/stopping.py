"""Ending as Unix programs do: by the signal that ended us, with nothing left behind."""

import os
import signal
import sys

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(BaseException):
    """A signal asked the program to end; raised in the main thread so that `finally` blocks run."""

    def __init__(self, name: str):
        super().__init__(name)
        self.signal = name


def raise_on_signals() -> None:
    """Turn the first SIGINT, SIGTERM or SIGHUP into :class:`Stopped`; later ones wait for the clean-up."""

    def stop(number, frame):
        for name in SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    for name in SIGNALS:
        number = getattr(signal, name)
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and `cmd &` in scripts keep theirs
            signal.signal(number, stop)


def die_by(name: str) -> None:
    """End this process by the signal `name`, so that the caller's shell sees the truth (141 for SIGPIPE)."""
    number = getattr(signal, name)
    try:  # what is left in the buffers has no reader any more
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
