"""Who wrote a file: a process's name on all hosts that share a disk, and whether it still lives."""

import functools
import hashlib
import os
import socket
import time

ABANDONED_S = 24 * 3600  # another host's process is taken for dead when its file has rested so long


def identity() -> str:
    """This process's name for as long as it matters: `host-pid-start`."""
    return _identity(os.getpid())


@functools.cache
def _identity(pid: int) -> str:
    return f"{_host()}-{pid}-{_start_of(pid)}"


def is_dead(name: str, path: str) -> bool:
    """Whether the process `name` (an :func:`identity`), the owner of the file `path`, is surely gone."""
    host, pid, start = name.rsplit("-", 2)
    if host == _host():
        return _start_of(int(pid)) != start
    try:
        return time.time() - os.stat(path).st_mtime > ABANDONED_S
    except OSError:
        return False


@functools.cache
def _host() -> str:
    """The host's name for reading, and a hash that tells hosts of like or equal names apart."""
    name = socket.gethostname()
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read()
    except OSError:
        boot = ""
    short = "".join(c if c.isalnum() else "_" for c in name)[:24]
    return f"{short}_{hashlib.blake2b((name + boot).encode(), digest_size=5).hexdigest()}"


def _start_of(pid: int) -> str | None:
    """The start time of process `pid` in clock ticks since boot; None when it is dead (reaped or not)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
        try:  # a system without /proc
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "0"
