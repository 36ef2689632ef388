"""Functions over a row that misbehave; workers import them by name."""

import os
import signal
import threading
import time

from avtools.errors import FatalError, RowError


def double(x):
    return 2 * x


def misbehave(x):
    if x == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if x == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if x == "hang":
        time.sleep(60)
    if x == "bad":
        raise RowError("a.mp4: bad")
    if x == "bug":
        raise ZeroDivisionError("oops")
    if x == "unpicklable":
        return lambda: None
    if x == "fatal":
        raise FatalError("out: No space left on device")
    return x


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def half_sent(x):
    """Ends in the middle of its answer, which is more than a pipe holds, where `x` is odd."""
    if x % 2:
        threading.Timer(0.05, os._exit, (3,)).start()
        return bytearray(1 << 30)
    return x


def die():
    os._exit(4)


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


class Opened:
    """Something that calls `function(*args)` where it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def opened_on_return(function, *args):
    return Opened(function, *args)
