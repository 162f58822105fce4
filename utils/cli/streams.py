"""Output that never stops the work: closed or lost terminals, names that cannot be printed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class Steady:
    """A text stream that goes on silently when nobody reads it any more, as after `| head`.

    What its encoding lacks, such as a name of a file in another language, is written as \\x or \\u
    escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # a closed pipe, a terminal that is gone, a closed stream
            self._lost()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._lost()

    def _lost(self) -> None:
        """Write to nowhere from now on, also what Python flushes at its end."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady_streams() -> None:
    """Let stdout and stderr survive being closed, before the start or later.

    A descriptor that the shell has closed (`2>&-`) would be given to the next file that is opened,
    and messages of libraries would be written into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = os.fdopen(number, "w", encoding="utf-8", closefd=False)
        if not isinstance(stream, Steady):
            setattr(sys, name, Steady(stream))
