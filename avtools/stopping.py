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


def open_missing_streams() -> None:
    """Give a program that was started with closed streams some that fail when used.

    Else the next files that are opened would get the descriptors 0 to 2, and the table or a message would be
    written into one of them.
    """
    modes = {0: os.O_WRONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}
    for number, mode in modes.items():
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free one: this
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))


def silence_output() -> None:
    """What is left in the buffer of standard output cannot be written, and must not be tried again at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError:
        pass


def die_by(name: str) -> None:
    """End this process by the signal `name`, so that the caller's shell sees the truth (141 for SIGPIPE)."""
    number = getattr(signal, name)
    if util := sys.modules.get("multiprocessing.util"):
        util._run_finalizers()  # a signal runs no exit handlers: its folder of sockets would stay in TMPDIR
    silence_output()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
