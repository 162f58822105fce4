"""What a training logs, for TensorBoard or Weights & Biases too (`--tracker`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.files.provenance import digest

PROJECT = "memorization-to-generalization"  # in Weights & Biases; WANDB_PROJECT names another


class Tracker:
    """A tracker that keeps nothing: of `--tracker none`, and of all ranks but the first."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        """The values of a row of logs/stats.jsonl."""

    def picture(self, step: int, grid: np.ndarray) -> None:
        """A grid of samples: uint8 [H, W, 3]."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard(Tracker):
    """Event files in logs/tensorboard, for `tensorboard --logdir`."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("tensorboard") from error
        # Of a training that goes on, what was logged after its last checkpoint is dropped.
        self._writer = SummaryWriter(str(folder / "logs" / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, grid: np.ndarray) -> None:
        self._writer.add_image("samples", grid, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, whose files lie in logs/wandb; WANDB_MODE=offline works too."""

    def __init__(self, folder: Path, args: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing("wandb") from error
        logs = folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        name = f"{args['data']['data_name']}-{args['train']['train_size']}"
        # One run for one folder: a training that goes on continues it.
        own = digest(np.array(str(folder.absolute())))
        how = {"dir": str(logs), "name": name, "id": own, "resume": "allow", "config": dict(args)}
        try:
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            self._run = wandb.init(project=project, settings=wandb.Settings(silent=True), **how)
        except Exception as error:  # of the network, or of an account
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            remedy = "log in by `wandb login`, or set WANDB_MODE=offline"
            raise UserError("--tracker wandb", message, remedy) from error
        self._image = wandb.Image

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        self._run.log(scalars(row), step=step)

    def picture(self, step: int, grid: np.ndarray) -> None:
        self._run.log({"samples": self._image(grid)}, step=step)

    def close(self) -> None:
        self._run.finish()


def open_tracker(name: str, folder: Path, step: int, args: Mapping[str, Any]) -> Tracker:
    """The tracker of a training in a folder, from a step on. Raises UserError where its package is
    missing, or does not start."""
    if name == "tensorboard":
        return TensorBoard(folder, step)
    return WeightsAndBiases(folder, args) if name == "wandb" else Tracker()


def scalars(row: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers of a row but its step."""
    return {name: x for name, x in row.items() if name != "step" and x is not None}


def missing(package: str) -> UserError:
    return UserError(f"--tracker {package}", "no such package", f"pip install {package}")
