"""Which process on which host made a partial file or a claim, and whether it still runs."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import psutil


@lru_cache
def this_host() -> str:
    """8 hex digits that identify this machine, its start, and its namespace of process numbers.

    Host names alone are not enough: many machines are called localhost, and two containers on
    one machine do not see each other's processes."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:  # not Linux
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_dead(host: object, pid: object) -> bool:
    """True if the process has ended; False if it runs, or runs on another host: not known there."""
    if host != this_host():
        return False
    try:
        return not psutil.pid_exists(int(str(pid)))
    except (ValueError, OverflowError):  # not a process number
        return True


def clock_of(folder: Path) -> float:
    """The clock, in seconds, by which the file system of a folder sets modification times.

    On a network it is the server's, and may differ from this machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
