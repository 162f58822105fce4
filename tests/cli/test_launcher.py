"""How a process learns who it is: torchrun, srun, or or a single process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from utils.cli.errors import UserError
from utils.cli.launcher import Launch, launched, let_first_rank_speak, refuse_several_ranks

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
TORCHRUN |= {"MASTER_ADDR": "host", "MASTER_PORT": "29500"}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}  # in a plain script too
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


@pytest.fixture
def environment(monkeypatch):
    for name in (*TORCHRUN, *BATCH, *SRUN, "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    "values, launch",
    [
        ({}, Launch(0, 1, 0)),
        (BATCH, Launch(0, 1, 0)),
        (TORCHRUN, Launch(2, 4, 1)),
        (TORCHRUN | BATCH, Launch(2, 4, 1)),
        (SRUN, Launch(3, 4, 1)),
        (SRUN | {"SLURM_NTASKS": "4"}, Launch(3, 4, 1)),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, Launch(0, 1, 0)),
        # One torchrun on each of two nodes, which know of each other.
        (TORCHRUN | {"SLURM_STEP_NUM_TASKS": "2", "GROUP_WORLD_SIZE": "2"}, Launch(2, 4, 1)),
    ],
)
def test_the_rank_of_a_process(environment, values, launch):
    environment(values)
    assert launched() == launch


@pytest.mark.parametrize(
    "values, message",
    [
        ({"WORLD_SIZE": "2"}, "RANK: found nothing beside WORLD_SIZE"),
        ({k: v for k, v in TORCHRUN.items() if k != "MASTER_PORT"}, "MASTER_PORT: found nothing"),
        (SRUN | {"SLURM_NTASKS": "8"}, "SLURM_NTASKS: found 8 beside 4"),
        (TORCHRUN | {"SLURM_STEP_NUM_TASKS": "2", "GROUP_WORLD_SIZE": "1"}, "1 of 2 srun tasks"),
        (TORCHRUN | {"RANK": "4"}, "RANK: found 4 of 4"),
        (TORCHRUN | {"RANK": "x"}, "RANK: found x"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "-4"}, "SLURM_STEP_NUM_TASKS: found -4"),
    ],
)
def test_an_environment_that_contradicts_itself(environment, values, message):
    environment(values)
    with pytest.raises(UserError, match=message):
        launched()


@pytest.mark.parametrize("values", [TORCHRUN, SRUN])
def test_stages_of_one_process_refuse_several(environment, values):
    refuse_several_ranks("start one process")
    environment(values)
    with pytest.raises(UserError, match="torchrun or srun: found 4 ranks; start one process"):
        refuse_several_ranks("start one process")


@pytest.mark.parametrize("name", ["SLURM_PTY_PORT", "SLURM_PTY_WIN_COL", "terminal"])
def test_a_command_typed_in_a_shell_inside_srun_runs_alone(monkeypatch, capsys, name):
    """`srun --ntasks=4 --pty bash`: nobody types it in the other three shells."""
    for variable, value in {**SRUN, "SLURM_NTASKS": "4", name: "80"}.items():
        monkeypatch.setenv(variable, value)
    if name == "terminal":  # what srun itself does not say
        typed = SimpleNamespace(closed=False, isatty=lambda: True)
        monkeypatch.setattr("sys.stdin", typed)
    assert launched() == Launch()
    let_first_rank_speak()
    assert "a shell inside srun" in capsys.readouterr().out
