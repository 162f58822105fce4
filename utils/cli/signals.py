"""Signals that ask a job to stop: save, then exit with 75, so that the same command goes on."""

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
KEYBOARD_SECONDS = 4.0  # after Ctrl-C, for saving: then the process is gone, whatever it does
LEAVING_SECONDS = 30.0  # for the way out after a scheduler's signal, as SLURM gives before it kills
WATCH_SECONDS = 0.5


class _State:
    """What this process was asked, and what it has said."""

    stopping = False
    told = False
    watched = False


def stop_while_loading() -> None:
    """Until `stop_at_once`: nothing is held yet, so a signal ends the process where it is."""
    _handle(SIGNALS, lambda *_: leave())


def stop_at_once() -> None:
    """Turn signals into an exception: parts and claims are removed on the way out.

    After Ctrl-C the process is gone within KEYBOARD_SECONDS even where no exception gets through,
    in a long product or a save to a slow disk; the next run clears away what that leaves. After
    a scheduler's signal it is gone within LEAVING_SECONDS of its handler: a library may swallow
    the exception, as an import does with any that comes in the middle of some callbacks."""
    _handle(SIGNALS, _stop)
    if not _State.watched and threading.current_thread() is threading.main_thread():
        _State.watched = True
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def stopping() -> bool:
    """Whether a signal has come: what goes wrong afterwards, as an import cut short, is no bug."""
    return _State.stopping


def check_stopping() -> None:
    """Before work begins: raises Interrupted where a signal came and its exception got lost."""
    if stopping():
        raise Interrupted(GO_ON)


def print_stopped(line: str) -> None:
    """Say so on stderr; once, whoever comes first, and by the first rank alone."""
    if not _State.told and _speaks():
        with suppress(OSError, ValueError):  # a terminal that is gone
            print(line, file=sys.stderr, flush=True)
    _State.told = True


def _speaks() -> bool:
    try:
        from utils.cli.launcher import launched

        return launched().rank == 0
    except (ImportError, UserError):  # in the middle of the first imports
        return True


def leave() -> None:
    """End the process now, as a kill would, but with its line and code."""
    print_stopped(f"stopped: {GO_ON}")
    os._exit(Interrupted.exit_code)


def ignore_more() -> None:
    """The way out is taken: a second signal, as scancel and requeue send it, would cut it short.

    A second Ctrl-C does. Not SIG_IGN: Python complains of a signal that came before and is handled
    after that."""
    _State.stopping = True
    _handle(FROM_SCHEDULERS, lambda *_: None)
    _handle([signal.SIGINT], lambda *_: leave())


def ignore_for_good() -> None:
    """For the last line before the exit: while Python shuts down, handlers are gone already."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _handle(numbers: list[int], handler: object) -> None:
    for number in numbers:
        # What `nohup` or a shell's background ignores stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _stop(*_: object) -> None:
    ignore_more()
    raise Interrupted(GO_ON)


def _watch(reader: int) -> None:
    """Wait for a signal, then for its limit: Python writes the number of each into the pipe, also
    where the handler must wait."""
    end, asked = math.inf, False
    while (left := end - time.monotonic()) > 0:
        if select.select([reader], [], [], min(left, WATCH_SECONDS) if asked else None)[0]:
            asked = True
            if signal.SIGINT in os.read(reader, 64):
                end = min(end, time.monotonic() + KEYBOARD_SECONDS)
        if stopping():
            end = min(end, time.monotonic() + LEAVING_SECONDS)
    leave()


class StopRequest:
    """Says whether a signal has come; the same one may come twice."""

    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            leave()
        self.asked = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """While this lasts, a signal only sets `asked`: the loop saves and stops where it is whole.

    Raises Interrupted at the end where one came and the loop had nothing more to do: what would
    follow must not go on."""
    check_stopping()
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _handle(SIGNALS, request)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if request.asked:
            ignore_more()
    if request.asked:
        raise Interrupted(GO_ON)
