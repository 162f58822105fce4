"""Processes side by side, each with its share of the processors; the first to fail stops them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from utils.cli.errors import Interrupted, UserError
from utils.cli.progress import QUIET
from utils.cli.signals import stop_at_once

POLL_SECONDS = 0.5
# A server that has imported the modules of the tasks forks each worker in milliseconds; a spawned
# one imports them again, for seconds. Forking is safe on Linux: the server computes nothing.
START = "forkserver" if sys.platform == "linux" else "spawn"


def run_side_by_side(tasks: list[tuple[Callable, Any]], jobs: int) -> None:
    """Call each function with its argument, `jobs` processes at a time, with their share of the
    processors. Raises what the first of them to fail raised; the others save and stop."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    multiprocessing.set_forkserver_preload(sorted({task.__module__ for task, _ in tasks}))
    waiting, running = list(tasks), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Worker(*waiting.pop(0), threads))
            running = [worker for worker in running if not worker.has_ended()]
            time.sleep(POLL_SECONDS)
    finally:
        for worker in running:
            worker.stop()


class Worker:
    """A process that works on one task."""

    def __init__(self, function: Callable, argument: Any, threads: int) -> None:
        context = multiprocessing.get_context(START)
        self._inbox, outbox = context.Pipe(duplex=False)
        given = function, argument, threads, outbox, dict(os.environ)
        self._process = context.Process(target=work, args=given)
        self._process.start()
        outbox.close()

    def has_ended(self) -> bool:
        """Whether the work is done. Prints the lines of the process, and raises what it raised."""
        ended = not self._process.is_alive()
        with suppress(EOFError):  # at the end
            while self._inbox.poll():
                message = self._inbox.recv()
                if isinstance(message, BaseException):
                    self._process.join()
                    raise message
                print(message, flush=True)
        if not ended:
            return False
        self._process.join()
        if code := self._process.exitcode:
            problem = f"a worker that ended with code {code}"
            remedy = "see above; if nothing is there, memory ran out: choose fewer --jobs"
            raise UserError("--jobs", problem, remedy)
        return True

    def stop(self) -> None:
        """Let it save and stop."""
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


def work(
    function: Callable, argument: Any, threads: int, outbox: Connection, environment: dict[str, str]
) -> None:
    """What a worker does; lines, the user's errors and interrupts go to the parent process.

    environment: of the parent now; that of the server is as old as the server."""
    stop_at_once()
    threading.Thread(target=stop_when_orphaned, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment | {QUIET: "1"})
    torch.set_num_threads(threads)
    try:
        with redirect_stdout(Lines(outbox)):
            function(argument)
    except (UserError, Interrupted) as error:
        outbox.send(error)
    finally:
        outbox.close()


class Lines:
    """A stdout that sends whole lines to the parent process, which prints them: there they do not
    break the progress bar, nor the lines of others."""

    def __init__(self, outbox: Connection) -> None:
        self._outbox, self._line = outbox, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._outbox.send(line)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept but the beginning of a line."""


def stop_when_orphaned() -> None:
    """A parent that was killed cannot tell its workers: they save and stop by themselves."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
