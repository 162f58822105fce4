"""Signals that ask a job to stop: save, then exit with 75, so that the same command goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import Interrupted

SIGNALS = [getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, n)]
GO_ON = "run the same command again to go on"


def stop_at_once() -> None:
    """Turn SIGTERM into an exception, so that parts and claims are removed on the way out."""

    def stop(*_: object) -> None:
        raise Interrupted(GO_ON)

    signal.signal(signal.SIGTERM, stop)


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
