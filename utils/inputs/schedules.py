"""The noise schedule of a model, from the options that every file carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.schedule import Schedule
from utils.cli.errors import UserError
from utils.cli.options.choices import OTHER_SCHEDULE


def schedule_of(args: Mapping[str, Any]) -> Schedule:
    """The schedule of resolved args: by name, or of the alpha_bar that a model made elsewhere has.

    Raises UserError where args name no schedule."""
    name, timesteps = args["train"]["beta_schedule"], args["train"]["timesteps"]
    if name != OTHER_SCHEDULE:
        return Schedule(timesteps, name)
    remedy = "give the model that it was made with, or name its --beta-schedule"
    try:
        schedule = Schedule.from_alpha_bar(torch.tensor(args["alpha_bar"], dtype=torch.float64))
    except KeyError as error:
        raise UserError("beta_schedule", f"{name} without alpha_bar", remedy) from error
    except (TypeError, ValueError) as error:
        raise UserError("alpha_bar", str(error), remedy) from error
    if schedule.timesteps != timesteps:
        raise UserError("alpha_bar", f"{schedule.timesteps} values, T = {timesteps}", remedy)
    return schedule


def schedule_args(schedule: Schedule) -> tuple[dict[str, Any], dict[str, Any]]:
    """What args store of a schedule: options of the section `train`, and keys beside the sections.

    alpha_bar is stored where the schedule has no name."""
    name = schedule.name
    train = {"timesteps": schedule.timesteps, "beta_schedule": name or OTHER_SCHEDULE}
    return train, {} if name else {"alpha_bar": schedule.alpha_bar.tolist()}
