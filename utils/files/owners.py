"""Who made a part or a claim, a process on a host, and whether it is dead."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import time
from functools import lru_cache
from pathlib import Path


@lru_cache
def this_host() -> str:
    """8 hex digits that stand for this machine since it was started, and its process numbers.

    Host names alone are not enough: many machines are called localhost, and two containers on
    one machine do not see each other's processes."""
    told = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            told.append(read())
        except OSError:  # not Linux
            told.append("")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def is_dead(host: object, pid: object) -> bool:
    """Whether the process is known to be gone: False for those of another host."""
    if host != this_host():
        return False
    try:
        os.kill(int(str(pid)), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except OSError:  # somebody else's
        return False
    return False


def clock_of(folder: Path) -> float:
    """The time of the file system of a folder, in seconds: modification times are told by it.

    On a network it is the server's, and may differ from this machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
