"""Signals that ask a job to stop: save, then exit with 75, so that the same command goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import Interrupted

FROM_SCHEDULERS = [getattr(signal, n) for n in ("SIGTERM", "SIGUSR1") if hasattr(signal, n)]
SIGNALS = [*FROM_SCHEDULERS, signal.SIGINT]
GO_ON = "run the same command again to go on"


def stop_at_once() -> None:
    """Turn SIGTERM and SIGUSR1 into an exception: parts and claims are removed on the way out."""

    def stop(*_: object) -> None:
        ignore_more()
        raise Interrupted(GO_ON)

    for number in FROM_SCHEDULERS:
        signal.signal(number, stop)


def ignore_more() -> None:
    """The way out is taken: a second signal, as scancel and requeue send it, would cut it short.

    Ctrl-C still does. Not SIG_IGN: Python complains of a signal that came before and is handled
    after that."""
    for number in FROM_SCHEDULERS:
        signal.signal(number, lambda *_: None)


def ignore_for_good() -> None:
    """For the last line before the exit: while Python shuts down, handlers are gone already."""
    for number in FROM_SCHEDULERS:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Says whether a signal has come; the same one may come twice."""

    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """While this lasts, a signal only sets `asked`: the loop saves and stops where it is whole."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if request.asked:
            ignore_more()
