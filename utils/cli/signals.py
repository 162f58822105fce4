"""Signals that stop a job: it saves and exits with 75; the same command continues it."""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from utils.cli.errors import Interrupted, UserError

FROM_SCHEDULERS = [getattr(signal, n) for n in ("SIGTERM", "SIGUSR1") if hasattr(signal, n)]
SIGNALS = [*FROM_SCHEDULERS, signal.SIGINT]
GO_ON = "run the same command again to go on"
KEYBOARD_SECONDS = 4.0  # from Ctrl-C to the end of the process, whatever it does
LEAVING_SECONDS = 30.0  # from a scheduler's signal to the end; SLURM kills after as many
WATCH_SECONDS = 0.5
IMPORT_SECONDS = 0.02  # between two looks at whether an import has ended


class _State:
    """Of this process: whether it is stopping, has printed so, and is watched by a thread."""

    stopping = False
    printed = False
    watched = False


def stop_while_loading() -> None:
    """Until `stop_at_once` a signal ends the process at once: there is nothing to clean up."""
    _handle(SIGNALS, lambda *_: leave())


def stop_at_once() -> None:
    """Turn signals into the exception Interrupted, on which parts and claims are removed.

    A thread sets a time limit. After Ctrl-C the process ends within KEYBOARD_SECONDS, also where
    the exception is late, in a long matrix product or a save to a slow disk; the next run removes
    what is left over. After a scheduler's signal it ends within LEAVING_SECONDS of the handler's
    call: a library may swallow the exception, as an import does in some callbacks."""
    _handle(SIGNALS, _stop)
    if not _State.watched and threading.current_thread() is threading.main_thread():
        _State.watched = True
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def stopping() -> bool:
    """Whether a signal has come. Errors after it, such as an import cut short, are no bugs."""
    return _State.stopping


def check_stopping() -> None:
    """Raises Interrupted if a signal has come, whose exception a library may have swallowed."""
    if stopping():
        raise Interrupted(GO_ON)


def print_stopped(line: str) -> None:
    """Print line to stderr, once, and on the first rank alone."""
    if not _State.printed and _is_first_rank():
        with suppress(OSError, ValueError):  # a terminal that was closed
            print(line, file=sys.stderr, flush=True)
    _State.printed = True


def _is_first_rank() -> bool:
    try:
        from utils.cli.launcher import launched

        return launched().rank == 0
    except (ImportError, UserError):  # in the middle of the first imports
        return True


def leave() -> None:
    """End the process now, without clean-up, but with the line and the exit code."""
    print_stopped(f"stopped: {GO_ON}")
    os._exit(Interrupted.exit_code)


def ignore_more() -> None:
    """Shutdown has begun; ignore further signals so that saving can finish.

    scancel and requeue send the same signal twice. A second Ctrl-C ends the process at once. Not
    SIG_IGN: Python would complain of a signal that is pending when the handler is removed."""
    _State.stopping = True
    _handle(FROM_SCHEDULERS, lambda *_: None)
    _handle([signal.SIGINT], lambda *_: leave())


def ignore_for_good() -> None:
    """Just before the exit: while Python shuts down, its handlers no longer work."""
    for number in (*SIGNALS, *([signal.SIGALRM] if hasattr(signal, "SIGALRM") else [])):
        signal.signal(number, signal.SIG_IGN)


def _handle(numbers: list[int], handler: object) -> None:
    for number in numbers:
        # Keep ignoring what `nohup` or a shell's background job ignores.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _stop(_: int = 0, frame: FrameType | None = None) -> None:
    """Raise Interrupted; during an import as soon as that has ended, since C++ code that imports
    Python modules, as PyTorch's does, ends the process with -6 on an exception."""
    ignore_more()
    if _importing(frame) and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _stop)  # comes again; a limit is set by `_watch`
        signal.setitimer(signal.ITIMER_REAL, IMPORT_SECONDS)
        return
    raise Interrupted(GO_ON)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame, or in one that has called it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _watch(reader: int) -> None:
    """Wait for a signal, then for its time limit, and end the process there.

    Python writes the number of each signal into the pipe at once, even where its handler is
    delayed until a library's call returns."""
    end, signalled = math.inf, False
    while (left := end - time.monotonic()) > 0:
        if select.select([reader], [], [], min(left, WATCH_SECONDS) if signalled else None)[0]:
            signalled = True
            if signal.SIGINT in os.read(reader, 64):
                end = min(end, time.monotonic() + KEYBOARD_SECONDS)
        if stopping():
            end = min(end, time.monotonic() + LEAVING_SECONDS)
    leave()


class StopRequest:
    """A signal handler that only notes that a signal has come; a second Ctrl-C ends at once."""

    requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            leave()
        self.requested = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Within this context a signal only sets `requested`: the loop saves and stops between steps.

    Raises Interrupted at the end if a signal came when the loop was already done."""
    check_stopping()
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _handle(SIGNALS, request)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if request.requested:
            ignore_more()
    if request.requested:
        raise Interrupted(GO_ON)
