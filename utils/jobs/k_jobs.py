"""Folders of K-named files: list, slice, and work through them beside other jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.cli.options.run import SliceOptions
from utils.jobs.claims import clear_up, take_turns
from utils.jobs.shares import WHOLE, Share


@dataclass(frozen=True)
class Job:
    """One K of a stage: what it reads and what it writes."""

    k: int
    source: Path
    target: Path


def plan_jobs(
    files: dict[int, Path],
    target: Path,
    part: SliceOptions,
    cost: Callable[[int, Path], float] = lambda k, path: 1.0,
) -> list[Job]:
    """One job for each file of the slice, by K; past the last file there are none (one line).

    The last task of an array may have nothing left to do; that is no error. cost: of a K and its
    file, in any unit; `--part` shares the files out by it."""
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


def work_through(
    jobs: list[Job], done: Callable[[Job], bool], overwrite: bool = False
) -> Iterator[Job]:
    """Yield the jobs that are not done (overwrite: all), each claimed while it is worked on.

    Other processes may go through the same list: what they hold is left for later, and waited
    for at the end, so that whoever returns finds everything done."""
    for (job,) in work_in_groups(jobs, done, overwrite, size=1):
        yield job


def work_in_groups(
    jobs: list[Job], done: Callable[[Job], bool], overwrite: bool = False, size: int | None = None
) -> Iterator[list[Job]]:
    """As `work_through`, with as many jobs at once as are free, or `size` at most."""
    for folder in {job.target.parent for job in jobs}:
        clear_up(folder)

    def finished(job: Job) -> bool:
        if overwrite or not done(job):
            return False
        print(f"K = {job.k}: {job.target} is finished", flush=True)
        return True

    yield from take_turns(jobs, lambda job: job.target, finished, size)


def print_plan(jobs: Iterable[Job], overwrite: bool) -> None:
    """What a run would do, for --dry-run."""
    for job in jobs:
        state = "write" if not job.target.exists() else "redo" if overwrite else "skip"
        print(f"K = {job.k}: {state} {job.target}")
