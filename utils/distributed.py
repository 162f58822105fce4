"""Several processes on one job. So far there is one; this is where ranks will live."""

from __future__ import annotations

import os

from utils.errors import UserError


def refuse_several_ranks() -> None:
    """One process trains one K; started by torchrun or srun with more, say so at once.

    SLURM_NTASKS is no sign of ranks: it is set in a plain batch script too."""
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if os.environ.get(name, "1") not in ("", "1"):
            remedy = "start one process for each K, as in an array of jobs"
            raise UserError(name, os.environ[name], remedy)
