"""The ranks of one launcher: their shares of the work, their sums, their failures.

torch.distributed is used here alone. Training adds gradients up over the ranks, generation shares
the seeds; distances meet through files and need no group."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.cli.errors import Interrupted, ReportedByAnotherRank, UserError
from utils.cli.launcher import Launch, launched, meeting_point
from utils.cli.signals import GO_ON
from utils.jobs.shares import Share

JOIN_MINUTES = 10  # until all ranks must have met
WAIT_DAYS = 7  # for a rank that is alive: the first one may wait for another job's claim
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
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=meeting,
            rank=launch.rank,
            world_size=launch.world,
            timeout=timedelta(minutes=JOIN_MINUTES),
        )
        messages = dist.new_group(backend="gloo", timeout=timedelta(days=WAIT_DAYS))
    except (RuntimeError, ValueError) as error:
        remedy = "start all ranks at once, on machines that reach each other"
        raise UserError(
            "torchrun or srun", f"no {launch.world} ranks at {meeting}", remedy
        ) from error
    try:
        yield Ranks(launch, messages)
    finally:
        dist.destroy_process_group()
