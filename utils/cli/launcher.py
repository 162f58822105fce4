"""The rank of this process among those of a launcher (torchrun, srun).

The launcher's environment is read here alone. Nothing heavy is imported: the command line needs
the rank."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from utils.cli.errors import UserError
from utils.cli.progress import QUIET

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """Rank 0 .. world - 1 of `world` processes; local_rank counts those of this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0


def launched() -> Launch:
    """How this process was started: by torchrun, by srun with several tasks, or alone.

    Raises UserError where the environment contradicts itself. SLURM_PROCID and SLURM_NTASKS alone
    do not mean ranks: SLURM sets them in a plain batch script too."""
    steps = _number("SLURM_STEP_NUM_TASKS", 1)
    present = [name for name in TORCHRUN if os.environ.get(name)]
    if present:
        missing = [name for name in TORCHRUN if name not in present]
        if missing:
            remedy = f"unset {present[0]}, or set {missing[0]} too, as torchrun does"
            raise UserError(missing[0], f"nothing beside {', '.join(present)}", remedy)
        groups = _number("GROUP_WORLD_SIZE", steps)
        if steps > 1 and groups != steps:
            # srun -n 2 torchrun --standalone makes two groups of ranks, unaware of each other.
            remedy = "give torchrun --nnodes and --rdzv-endpoint, or start it without srun"
            raise UserError("GROUP_WORLD_SIZE", f"{groups} of {steps} srun tasks", remedy)
        launch = Launch(*(_number(name, 0) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    elif steps > 1 and in_shell_of_srun():
        return Launch()
    elif steps > 1:
        if _number("SLURM_NTASKS", steps) != steps:
            remedy = "let srun start all tasks of the job, or one"
            raise UserError("SLURM_NTASKS", f"{os.environ['SLURM_NTASKS']} beside {steps}", remedy)
        launch = Launch(_number("SLURM_PROCID", 0), steps, _number("SLURM_LOCALID", 0))
    else:
        return Launch()
    if not 0 <= launch.rank < launch.world:
        raise UserError("RANK", f"{launch.rank} of {launch.world}", "start it by torchrun or srun")
    return launch


def in_shell_of_srun() -> bool:
    """Whether this command is typed in a shell that `srun --pty` has started: it runs alone, since
    nobody types it in the shells of the other tasks.

    Where srun sets no variable for it, its input shows it: that of a rank is never a terminal."""
    if os.environ.get("SLURM_PTY_PORT") or os.environ.get("SLURM_PTY_WIN_COL"):
        return True
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def launcher_name() -> str:
    """torchrun or srun, for messages about ranks."""
    return "torchrun" if os.environ.get("RANK") else "srun"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(name, text, "start it by torchrun or srun, which set whole numbers")
    return int(text)


def refuse_several_ranks(remedy: str) -> None:
    """Raises UserError if there is more than one rank: for stages that run in one process."""
    launch = launched()
    if launch.world > 1:
        raise UserError("torchrun or srun", f"{launch.world} ranks", remedy)


def let_first_rank_speak() -> None:
    """Let rank 0 alone print options, progress and results; each rank prints its errors."""
    if _number("SLURM_STEP_NUM_TASKS", 1) > 1 and in_shell_of_srun():
        print("a shell inside srun: this command runs alone, not as one of several ranks")
    if launched().rank > 0:
        os.environ[QUIET] = "1"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process


def meeting_point() -> str:
    """The address at which the ranks meet, for torch.distributed.

    torchrun's, or a port of srun's first machine. Raises UserError where scontrol, which lists
    srun's machines, cannot run."""
    if os.environ.get("RANK"):
        return "env://"
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        names = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        names = []
    if not names:
        remedy = "start it by srun where scontrol runs, or by torchrun"
        raise UserError("SLURM_STEP_NODELIST", nodes or "nothing", remedy)
    # Another port for each step of a job: that of an earlier step may still be in use.
    number = 8 * _number("SLURM_JOB_ID", 0) + _number("SLURM_STEP_ID", 0)
    return f"tcp://{names[0]}:{15_000 + number % 15_000}"
