"""The steps that all stages share: list the files of a folder by K, print the plan, leave out what
is finished, and work through the rest beside other jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from utils.cli.options.run import RunOptions, SliceOptions
from utils.files.atomic import check_writable
from utils.jobs.claims import clear_up, take_turns
from utils.jobs.shares import WHOLE, Share


@dataclass(frozen=True)
class Job:
    """One K of a stage: what it reads and what it writes.

    args: what the result will carry: the options of all stages up to this one."""

    k: int
    source: Path
    target: Path
    args: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """How lines on the terminal begin."""
        return f"K = {self.k}"


AnyJob = TypeVar("AnyJob", bound=Job)


def plan_jobs(
    files: dict[int, Path],
    target: Path,
    part: SliceOptions,
    cost: Callable[[int, Path], float] = lambda k, path: 1.0,
) -> list[Job]:
    """One job for each file of the slice, by K; beyond the last file there are none (one line).

    The last task of an array may have nothing left to do; that is no error. cost: of a K and its
    file, in any unit; `--part` divides the files by it."""
    ks = list(files)
    end = len(ks) if part.final_idx < 0 else part.final_idx
    chosen = ks[part.start_idx : end]
    if not chosen:
        print(f"--start-idx {part.start_idx}: nothing to do, there are {len(ks)} files")
    share = Share.parse(part.part, "--part")
    if chosen and share != WHOLE:
        chosen = share.weighed(chosen, [cost(k, files[k]) for k in chosen])
        names = ", ".join(map(str, chosen))
        print(f"--part {share}: {f'K = {names}' if names else 'nothing to do, too few files'}")
    return [Job(k, files[k], Path(target) / f"{k}.npz") for k in chosen]


def is_to_run(jobs: Sequence[Job], run: RunOptions) -> bool:
    """Whether there are jobs, and they are to be done now: not so with --dry-run, which prints
    them. Raises UserError where a folder of the results cannot be written."""
    if run.dry_run or not jobs:
        print_plan(jobs, run.overwrite)
        return False
    for folder in {job.target.parent for job in jobs}:
        check_writable(folder)
    return True


def print_plan(jobs: Iterable[Job], overwrite: bool) -> None:
    """What a run would do, for --dry-run."""
    for job in jobs:
        state = "write" if not job.target.exists() else "redo" if overwrite else "skip"
        print(f"{job.name}: {state} {job.target}")


def work_through(
    jobs: Sequence[AnyJob], is_done: Callable[[AnyJob], bool], overwrite: bool = False
) -> Iterator[AnyJob]:
    """Yield the jobs that are not done (overwrite: all), each claimed while it is worked on.

    Other processes may go through the same list: what they hold is left for later, and waited
    for at the end, so that everything is done when this returns."""
    for (job,) in work_in_groups(jobs, is_done, overwrite, size=1):
        yield job


def work_in_groups(
    jobs: Sequence[AnyJob],
    is_done: Callable[[AnyJob], bool],
    overwrite: bool = False,
    size: int | None = None,
) -> Iterator[list[AnyJob]]:
    """As `work_through`, with as many jobs at once as are free, or `size` at most."""
    for folder in {job.target.parent for job in jobs}:
        clear_up(folder)

    def finished(job: AnyJob) -> bool:
        if overwrite or not is_done(job):
            return False
        print(f"{job.name}: {job.target} is finished", flush=True)
        return True

    yield from take_turns(jobs, lambda job: job.target, finished, size)
