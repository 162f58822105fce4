"""The models that stages sample from or examine: trained ones, or the exact model of K images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser, NetworkDenoiser
from models.exact import ExactDenoiser
from utils.cli.errors import UserError
from utils.cli.options.choices import ANY_IMAGES, SAMPLER_NAMES
from utils.cli.options.samples import GenerateOptions
from utils.cli.options.sections import GeneralizationOptions
from utils.cli.options.training import image_shape
from utils.data.datasets import open_images, to_float
from utils.data.subsets import training_subset
from utils.files.provenance import digest, to_plain, with_data_path
from utils.inputs.checkpoints import StoredModel
from utils.inputs.model_files import is_function, read_model
from utils.inputs.training_args import Sections, schedule_of
from utils.inputs.unchanged import check_unchanged, content_of, missing_input
from utils.jobs.devices import compiled

EXACT = "exact"


@dataclass(frozen=True)
class Model:
    """A model that is known to be sound, not yet on a device.

    args: its resolved options (`data`, `train`, `model`). fingerprint: of its weights, or "exact".
    read: reads its file again; None for the exact model. path: what it is read from, for messages.
    images: digest of the exact model's images, where a stage has planned with them."""

    args: dict[str, Any]
    fingerprint: str
    path: Path | None = None
    read: Callable[[], StoredModel] | None = None
    images: str | None = None

    @property
    def k(self) -> int:
        return self.args["train"]["train_size"]

    @property
    def num_classes(self) -> int:
        """Classes of a class-conditional model; 0 of any other."""
        return self.args["model"]["num_classes"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return image_shape(self.args["model"])

    def denoiser(
        self,
        device: torch.device,
        precision: str = "auto",
        compile: str = "off",
        label: int | None = None,
    ) -> Denoiser:
        """The model on a device; label: the class of all images, of a class-conditional one.
        Raises UserError where its file has changed or misfits."""
        if self.read is None:
            return ExactDenoiser(self.training_images().to(device), schedule_of(self.args))
        if not is_function(self.path) and not self.path.exists():
            raise missing_input(self.path)
        stored = self.read()
        check_unchanged(self.path, self.fingerprint, stored.fingerprint, "weights")
        now = with_data_path(stored.args, self.args["data"]["data_path"])
        check_unchanged(self.path, content_of(self.args), content_of(now), "options")
        denoiser = stored.build(device, precision)
        if isinstance(denoiser, NetworkDenoiser):
            denoiser.network = compiled(denoiser.network, compile, device)
            denoiser.labels = None if label is None else torch.tensor(label)
        return denoiser

    def training_images(self) -> Tensor:
        """Its K images: float32 [K, C, H, W] in [-1, 1]. Raises UserError where they are others
        than a stage has planned with."""
        images = training_images(self.args)
        if self.images is not None:
            check_unchanged(data_set(self.args), self.images, digest(images.numpy()), "images")
        return images


def trained_model(
    path: Path,
    data_path: Path | None = None,
    known: Sections | None = None,
    described: Sections | None = None,
) -> Model:
    """The model of a checkpoint, or of another form. Raises UserError as `read_model` does."""
    read = partial(read_model, Path(path), known, described)
    stored = read()
    return Model(with_data_path(stored.args, data_path), stored.fingerprint, Path(path), read)


def described_by(stage: Any) -> dict[str, dict[str, Any]]:
    """The sections data, train and model of a stage, as args store them."""
    return {name: to_plain(getattr(stage, name)) for name in ("data", "train", "model")}


def exact_model(args: Mapping[str, Any], known: Sections | None = None) -> Model:
    """The exact model of the training images that args describe; what is known replaces K, the
    data set, and the rest of them."""
    known = known or {}
    data, train = known.get("data", {}), known.get("train", {})
    result = {**args, "data": {**args["data"], **data}, "train": {**args["train"], **train}}
    if data.get("data_name") == ANY_IMAGES and "train_size" not in train:
        result["train"]["train_size"] = len(open_images(result))
    if any(result["train"][name] != args["train"][name] for name in train) or "data_name" in data:
        result.pop("images", None)  # those of other options
    return Model(result, EXACT)


def training_images(args: Mapping[str, Any]) -> Tensor:
    """The training images of a model with these args: float32 [K, C, H, W] in [-1, 1]."""
    return to_float(training_subset(args).images)


def check_label(model: Model, label: int | None) -> None:
    """Raises UserError where --label is no class of the model, or is missing."""
    classes = model.num_classes if model.read is not None else 0
    if label is not None and label >= classes:
        remedy = (
            f"choose 0 to {classes - 1}" if classes else "leave it out: the model has no classes"
        )
        raise UserError("--label", label, remedy)
    if label is None and classes:
        remedy = f"choose a class, 0 to {classes - 1}: the model is class-conditional"
        raise UserError("--label", "nothing", remedy)


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
