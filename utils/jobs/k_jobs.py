"""Folders of K-named files: list, slice, and work through them beside other jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.cli.errors import UserError
from utils.cli.options.sections import SliceOptions
from utils.jobs.claims import clear_up, take_turns
from utils.jobs.shares import WHOLE, parse_share


@dataclass(frozen=True)
class Job:
    """One K of a stage: what it reads and what it writes."""

    k: int
    source: Path
    target: Path


def k_of(path: Path) -> int | None:
    """The K of a K-named file: `k_of(Path("models/16.pt")) == 16`; None for other names."""
    stem = path.stem
    return int(stem) if stem.isascii() and stem.isdecimal() and int(stem) > 0 else None


def k_named(folder: Path, suffix: str = ".npz") -> dict[int, Path]:
    """The K-named files of a folder by K, ascending; none where there is no such folder."""
    found = {k_of(path): path for path in sorted(Path(folder).glob(f"*{suffix}"))}
    return {k: found[k] for k in sorted(k for k in found if k is not None)}


def k_files(folder: Path, suffix: str, flag: str, remedy: str) -> dict[int, Path]:
    """The K-named files of folder, by K. Raises UserError (naming flag) where there are none."""
    folder = Path(folder)
    where = f"{flag} {folder}"
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise UserError(where, found, remedy)
    try:
        files = k_named(folder, suffix)
    except OSError as error:
        raise UserError(where, str(error), "choose a folder that you may read") from error
    if not files:
        raise UserError(where, f"no K{suffix}", remedy)
    return files


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
    share = parse_share(part.part, "--part")
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
