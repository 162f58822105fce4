"""The models that stages sample from or examine: trained ones, or the exact model of K images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.exact import ExactDenoiser
from utils.cli.errors import UserError
from utils.cli.options.choices import SAMPLER_NAMES
from utils.cli.options.samples import GenerateOptions
from utils.cli.options.sections import GeneralizationOptions
from utils.data.datasets import to_float
from utils.data.subsets import training_subset
from utils.files.provenance import digest, with_data_path
from utils.inputs.checkpoints import denoiser_of, load_checkpoint
from utils.inputs.schedules import schedule_of
from utils.inputs.unchanged import check_unchanged, content_of, missing_input
from utils.jobs.devices import compiled

EXACT = "exact"


@dataclass(frozen=True)
class Model:
    """A model that is known to be sound, not yet on a device.

    args: its resolved options (`data`, `train`, `model`). fingerprint: of its weights, or "exact".
    path: its checkpoint; None for the exact model. images: digest of the exact model's images,
    where a stage has planned with them."""

    args: dict[str, Any]
    fingerprint: str
    path: Path | None = None
    images: str | None = None

    @property
    def k(self) -> int:
        return self.args["train"]["train_size"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        model = self.args["model"]
        return model["in_channels"], model["image_size"], model["image_size"]

    def denoiser(
        self, device: torch.device, precision: str = "auto", compile: str = "off"
    ) -> Denoiser:
        """The model on a device. Raises UserError where its file has changed or misfits."""
        if self.path is None:
            return ExactDenoiser(self.training_images().to(device), schedule_of(self.args))
        if not self.path.exists():
            raise missing_input(self.path)
        checkpoint = load_checkpoint(self.path)
        check_unchanged(self.path, self.fingerprint, checkpoint.fingerprint, "weights")
        now = with_data_path(checkpoint.args, self.args["data"]["data_path"])
        check_unchanged(self.path, content_of(self.args), content_of(now), "options")
        denoiser = denoiser_of(checkpoint, self.path, device, precision)
        denoiser.network = compiled(denoiser.network, compile, device)
        return denoiser

    def training_images(self) -> Tensor:
        """Its K images: float32 [K, C, H, W] in [-1, 1]. Raises UserError where they are others
        than a stage has planned with."""
        images = training_images(self.args)
        if self.images is not None:
            check_unchanged(data_set(self.args), self.images, digest(images.numpy()), "images")
        return images


def trained_model(path: Path, data_path: Path | None = None) -> Model:
    """The model of a checkpoint. Raises UserError as `load_checkpoint` does."""
    checkpoint = load_checkpoint(path)
    args = with_data_path(checkpoint.args, data_path)
    return Model(args, checkpoint.fingerprint, Path(path))


def exact_model(
    args: Mapping[str, Any], train_size: int | None = None, data_path: Path | None = None
) -> Model:
    """The exact model of the training images that args describe; train_size and data_path replace
    K and the folder of the data sets."""
    args = with_data_path(args, data_path)
    if train_size and train_size != args["train"]["train_size"]:
        args["train"] = {**args["train"], "train_size": train_size}
        args.pop("images", None)  # those of another K
    return Model(args, EXACT)


def training_images(args: Mapping[str, Any]) -> Tensor:
    """The training images of a model with these args: float32 [K, C, H, W] in [-1, 1]."""
    return to_float(training_subset(args).images)


def check_times(args: Mapping[str, Any], times: Iterable[int]) -> None:
    """Raises UserError where a model with these args has not the times of --t."""
    last = args["train"]["timesteps"] - 1
    if beyond := [t for t in times if t > last]:
        raise UserError("--t", beyond[0], f"choose 0 to {last}, times of the model")


def data_set(args: Mapping[str, Any]) -> str:
    """The data set of a model with these args, for a message."""
    return f"{args['data']['data_name']} in {args['data']['data_path']}"


def unusable_model(where: object, problem: str) -> UserError:
    """The error about a model whose numbers are of no use: NaN, infinite or out of range."""
    remedy = "use an earlier checkpoint, train it again, or choose --precision float32"
    return UserError(where, problem, remedy)


@contextmanager
def usable_numbers(where: object) -> Iterator[None]:
    """Report a ValueError of the mathematics as `unusable_model`; where names the model."""
    try:
        yield
    except ValueError as error:
        raise unusable_model(where, str(error)) from error


def sampling_steps(settings: GenerateOptions | GeneralizationOptions, timesteps: int) -> int:
    """Network calls an image. Raises UserError where the model has fewer timesteps."""
    steps = settings.steps or min(SAMPLER_NAMES[settings.sampler].calls or timesteps, timesteps)
    if steps > timesteps:
        raise UserError("--steps", steps, f"choose {timesteps} or less, the model's timesteps")
    return steps


def check_samples(images: Tensor, k: int) -> np.ndarray:
    """The samples of the model of K as an array. Raises UserError where they are not finite."""
    if not images.isfinite().all():
        raise unusable_model(f"model of K = {k}", "NaN in its samples")
    return images.numpy()
