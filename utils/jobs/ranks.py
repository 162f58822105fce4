"""The ranks of one launcher: their shares of the work, their sums, their failures.

torch.distributed is used here alone. Training adds gradients up over the ranks, generation shares
the seeds; distances meet through files and need no group."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.cli.errors import Interrupted, ReportedByAnotherRank, UserError
from utils.cli.launcher import Launch, launched, launcher_name, meeting_point
from utils.cli.signals import GO_ON, leave
from utils.jobs.shares import Share

JOIN_MINUTES = 10  # until all ranks must have met
WAIT_DAYS = 7  # for a rank that is alive: the first one may wait for another job's claim
POLL_SECONDS = 0.2
TELL_SECONDS = 5.0  # until a line says who is missing
NOTHING = -1
MOST_RANKS = 1_000_000
Result = TypeVar("Result")


class Ranks:
    """The ranks that work together; with one rank each method works without communication.

    Every rank must call the same methods in the same order."""

    def __init__(self, launch: Launch, messages: dist.ProcessGroup | None = None) -> None:
        self.launch, self.world = launch, launch.world
        self._messages = messages  # a group for small numbers, on the CPU

    @property
    def first(self) -> bool:
        return self.launch.rank == 0

    def share(self, size: int) -> slice:
        """The rows of 0 .. size - 1 that are this rank's; none where there are too few."""
        rows = Share(self.launch.rank, self.world).of(size)
        return slice(rows.start, rows.stop)

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, the same bits on each of them."""
        if self.world == 1 or not tensors:
            return
        # One message, always of the same layout: sums are then repeated bit for bit.
        line = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _others_alive():
            dist.all_reduce(line)
        sizes = [tensor.numel() for tensor in tensors]
        parts = [p.view_as(t) for p, t in zip(line.split(sizes), tensors, strict=True)]
        torch._foreach_copy_(tensors, parts)

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers, on each of them."""
        if self.world == 1:
            return number
        line = torch.tensor([number])
        with _others_alive():
            dist.all_reduce(line, dist.ReduceOp.MAX, group=self._messages)
        return int(line.item())

    def together(self, work: Callable[[], Result]) -> Result:
        """Each rank does its work and waits for the others; where one fails, all fail.

        One of those that failed raises its error, which is printed; the others raise
        ReportedByAnotherRank with its exit code."""
        result, failure = None, None
        try:
            result = work()
        except (UserError, Interrupted) as error:
            failure = error
        # One number holds exit code and rank: the largest names the rank that reports.
        mine = failure.exit_code * MOST_RANKS + self.world - self.launch.rank if failure else 0
        reported = self.largest(mine)
        if reported == 0:
            return result
        if reported == mine:
            raise failure
        raise ReportedByAnotherRank(reported // MOST_RANKS)

    def first_does(self, work: Callable[[], int | None]) -> int:
        """The first rank alone does this; the others wait for its result, share its failure.

        The result is a number of 0 or more; None is sent as NOTHING."""
        number = self.together(work if self.first else lambda: None)
        return self.largest(NOTHING if number is None else number)

    def from_first(self, generator: Generator[int]) -> Iterator[int]:
        """The numbers (0 or more) that the first rank's generator yields, on every rank.

        Only the first rank runs its generator; the others wait for each number."""
        with closing(generator):
            while (number := self.first_does(lambda: next(generator, None))) != NOTHING:
                yield number


ALONE = Ranks(Launch())


@contextmanager
def _others_alive() -> Iterator[None]:
    """Stop if another rank was killed, which closes its connections; what was saved is resumed."""
    try:
        yield
    except RuntimeError as error:
        raise Interrupted(f"another rank has ended; {GO_ON}") from error


class Arrival:
    """The meeting of all ranks. It takes place in a thread: the main thread stays free to obey
    signals, and to say who is missing."""

    def __init__(self, launch: Launch, meeting: str, backend: str) -> None:
        self._launch, self._meeting, self._backend = launch, meeting, backend
        self._here = 1  # ranks that have come, as far as this one knows
        self._messages: dist.ProcessGroup | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._meet, daemon=True)

    def wait(self) -> dist.ProcessGroup | None:
        """The group for small numbers. Raises UserError where not all ranks come.

        On a signal the process ends at once: there is nothing to clean up yet, and a library that
        waits for other machines cannot be left."""
        start, is_reported = time.monotonic(), False
        try:
            self._thread.start()
            while self._thread.is_alive():
                self._thread.join(POLL_SECONDS)
                if time.monotonic() - start > TELL_SECONDS and not is_reported:
                    print(self._waiting(), file=sys.stderr, flush=True)
                    is_reported = True
        except Interrupted:
            leave()
        if self._error is not None:
            where = f"no {self._launch.world} ranks at {self._meeting}"
            remedy = "start all ranks at once, on machines that reach each other"
            raise UserError("torchrun or srun", where, remedy) from self._error
        return self._messages

    def _waiting(self) -> str:
        place = self._meeting.removeprefix("tcp://")
        if place == "env://":
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        missing = self._launch.world - self._here
        return f"waiting for {missing} of {self._launch.world} ranks at {place} ({launcher_name()})"

    def _meet(self) -> None:
        limit = timedelta(minutes=JOIN_MINUTES)
        how: dict[str, Any] = {"init_method": self._meeting}
        try:
            if self._meeting.startswith("tcp://"):
                how = {"store": self._gathered(limit)}
            ranks = {"rank": self._launch.rank, "world_size": self._launch.world}
            dist.init_process_group(self._backend, timeout=limit, **ranks, **how)
            self._messages = dist.new_group(backend="gloo", timeout=timedelta(days=WAIT_DAYS))
        except (RuntimeError, ValueError) as error:
            self._error = error

    def _gathered(self, limit: timedelta) -> dist.TCPStore:
        """The store in which each rank has announced itself. Raises RuntimeError after limit."""
        host, port = self._meeting.removeprefix("tcp://").rsplit(":", 1)
        world, first = self._launch.world, self._launch.rank == 0
        store = dist.TCPStore(host, int(port), world, first, limit, wait_for_workers=False)
        self._here = store.add("here", 1)
        start = time.monotonic()
        while self._here < world:
            if time.monotonic() - start > limit.total_seconds():
                raise RuntimeError(f"{self._here} of {world} ranks")
            time.sleep(POLL_SECONDS)
            self._here = store.add("here", 0)
        return store


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of this launch, able to talk to each other: gloo on CPUs, NCCL on GPUs.

    Raises UserError where they do not meet within JOIN_MINUTES."""
    launch = launched()
    if launch.world == 1:
        yield Ranks(launch)
        return
    if device.type not in ("cpu", "cuda"):
        raise UserError("--device", f"{device} and {launch.world} ranks", "start one rank, or cpu")
    meeting = meeting_point()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    arrival = Arrival(launch, meeting, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(launch, arrival.wait())
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
