"""Args of samples and models made elsewhere, completed from what is known; their noise schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.schedule import Schedule
from utils.cli.errors import UserError
from utils.cli.options.checks import flag
from utils.cli.options.choices import ANY_IMAGES, OTHER_SCHEDULE
from utils.cli.options.training import TrainingSetOptions
from utils.data.datasets import open_images
from utils.data.sources.arrays import ANY_CHANNELS
from utils.data.sources.opened import Opening, open_given
from utils.files.k_files import k_of
from utils.files.provenance import resolve_named

Sections = Mapping[str, Mapping[str, Any]]  # data, train and model, or parts of them


def complete_args(
    own: Mapping[str, Any], known: Sections, path: Path, shape: tuple[int, ...]
) -> dict[str, Any]:
    """The resolved args of images or a model of shape (C, H, W): those of the file, then what is
    known, then what the shape and the name of the file show.

    Raises UserError that names what must be said. The data set is asked for: any other one would
    give wrong distances. So is the seed that chose the K images, where not all images of the data
    set were training images."""
    if is_complete(own):
        return resolve_named(own, path)
    channels, height, width = shape
    side = {"image_size": height, "in_channels": channels}
    if width != height:
        side["image_width"] = width
    k = k_of(path)
    shown = {
        # one level: the default of four would ask for a side that can be halved three times
        "model": {**side, "dim_mults": [1]},
        "train": {} if k is None else {"train_size": k},
    }
    sections = {
        name: {**shown.get(name, {}), **known.get(name, {}), **(own.get(name) or {})}
        for name in ("data", "train", "model")
    }
    train, is_any = sections["train"], sections["data"].get("data_name") == ANY_IMAGES
    if is_any and "train_size" not in train:
        train["train_size"] = len(open_images(sections))
    check_said(own, sections, path)
    args = resolve_named({**own, **sections}, path)
    if "global_seed" not in train:
        count, k = len(open_images(args)), args["train"]["train_size"]
        if k < count:
            raise unknown(path, "global_seed", f" (it chose {k} of {count} images)")
    return args


def stated_size(settings: TrainingSetOptions) -> int | None:
    """K as the options state it: by --train-size, or by the number of images that --train names."""
    any_images = settings.known()["data"].get("data_name") == ANY_IMAGES
    if settings.train_size is None and settings.train is not None and any_images:
        return count_images(settings.train)
    return settings.train_size


def count_images(given: str) -> int:
    """How many images a file or a folder holds; an array that is none of pictures may hold latents
    [N, C, H, W]. Raises UserError where it cannot be read."""
    opening = Opening("--train", can_say=False)
    try:
        return len(open_given(given, opening))
    except UserError:
        return len(open_given(given, replace(opening, channels=ANY_CHANNELS)))


def is_complete(own: Mapping[str, Any]) -> bool:
    """Whether args are those of a training: then they are read, or refused, as they are."""
    train = own.get("train", {})
    return not isinstance(train, Mapping) or "train_size" in train


def check_said(own: Mapping[str, Any], known: Sections, path: Path) -> None:
    """Raises UserError, before anything large is read, where nobody says what it is of."""
    sections = [one.get("data") for one in (own, known)]
    data = [one for one in sections if isinstance(one, Mapping)]
    if not any("data_name" in one for one in data):
        raise unknown(path, "data_name")
    counted = any(one.get("data_name") == ANY_IMAGES for one in data)
    train = [one.get("train") for one in (own, known)]
    said = any(isinstance(one, Mapping) and "train_size" in one for one in train)
    if not said and not counted and k_of(path) is None:
        raise unknown(path, "train_size")


def check_contradiction(path: Path, args: Mapping[str, Any], known: Sections) -> None:
    """Raises UserError where a file was made with other options than the command line says."""
    for section, values in known.items():
        for name, value in values.items():
            if name != "data_path" and args[section][name] != value:
                problem = f"{value}, beside {args[section][name]} in {path}"
                raise UserError(flag(name), problem, "leave it out: the file says it")


def unknown(path: Path, name: str, why: str = "") -> UserError:
    """The error where images or a model do not say what they are of."""
    problem, wanted = {
        "data_name": ("an unknown training set", "the data set that the model was trained on"),
        "train_size": ("an unknown K", "K, the number of training images"),
        "global_seed": ("an unknown seed", f"the seed of the training{why}"),
    }[name]
    remedy = f"give {wanted}: {flag(name)}"
    return UserError(path, problem, f"{remedy}, or the images by --train")


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
