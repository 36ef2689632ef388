"""Functions over a row that misbehave; workers import them by name."""

import os
import signal
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
