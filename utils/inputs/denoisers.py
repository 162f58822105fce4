"""The models that stages sample from or examine: trained ones, or a closed form of K images."""

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
from models.machines.build import build_machine
from utils.cli.errors import UserError
from utils.cli.options.checks import sides_text
from utils.cli.options.choices import ANY_IMAGES, EXACT, SAMPLER_NAMES
from utils.cli.options.samples import GenerateOptions
from utils.cli.options.sections import GeneralizationOptions
from utils.cli.options.training import MachineOptions, ModelOrMachineOptions, image_shape
from utils.data.datasets import open_images, to_float
from utils.data.subsets import training_subset
from utils.files.provenance import digest, to_plain, with_data_path
from utils.inputs.checkpoints import StoredModel
from utils.inputs.model_files import is_function, read_model
from utils.inputs.training_args import Sections, schedule_of
from utils.inputs.unchanged import check_unchanged, content_of, missing_input
from utils.jobs.devices import compiled


@dataclass(frozen=True)
class Model:
    """A model that is known to be sound, not yet on a device.

    args: its resolved options (`data`, `train`, `model`). fingerprint: of its weights, or the name
    of a closed form with its options. read: reads its file again; None for a closed form. path:
    what it is read from, for messages. images: digest of the images of a closed form, where a
    stage has planned with them. machine, sides, most_patches: of a closed form, as `build_machine`
    takes them."""

    args: dict[str, Any]
    fingerprint: str
    path: Path | None = None
    read: Callable[[], StoredModel] | None = None
    images: str | None = None
    machine: str = EXACT
    sides: int | Mapping[int, int] | None = None
    most_patches: int | None = None

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
            images, schedule = self.training_images().to(device), schedule_of(self.args)
            return build_machine(self.machine, images, schedule, self.sides, self.most_patches)
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


def closed_form_model(
    settings: MachineOptions, args: Mapping[str, Any], known: Sections | None = None
) -> Model:
    """The closed form, --exact or --machine, of the training images that args describe; what is
    known replaces K, the data set, and the rest of them.

    Raises UserError where --patch-sides names a time that such a model has not."""
    known = known or {}
    data, train = known.get("data", {}), known.get("train", {})
    result = {**args, "data": {**args["data"], **data}, "train": {**args["train"], **train}}
    if data.get("data_name") == ANY_IMAGES and "train_size" not in train:
        result["train"]["train_size"] = len(open_images(result))
    if any(result["train"][name] != args["train"][name] for name in train) or "data_name" in data:
        result.pop("images", None)  # those of other options
    sides, last = settings.sides, result["train"]["timesteps"] - 1
    if isinstance(sides, dict) and max(sides) > last:
        remedy = f"choose times 0 to {last}, those of the model"
        raise UserError("--patch-sides", settings.patch_sides, remedy)
    name = settings.closed_form or EXACT
    own = {"machine": name, "sides": sides, "most_patches": settings.most_patches}
    return Model(result, closed_form_fingerprint(settings), **own)


def closed_form_fingerprint(settings: MachineOptions) -> str:
    """What stands for the weights of a closed form: "exact", "local, patch sides 5"."""
    parts = [settings.closed_form or EXACT]
    if settings.sides is not None:
        parts.append(f"patch sides {sides_text(settings.sides)}")
    if settings.most_patches is not None:
        parts.append(f"most patches {settings.most_patches}")
    return ", ".join(parts)


def check_one_source(settings: ModelOrMachineOptions) -> None:
    """Raises UserError where a closed form and checkpoints are both asked for."""
    if settings.closed_form and settings.ckpt_path:
        problem = f"--ckpt-path {settings.ckpt_path} too"
        raise UserError(settings.closed_form_flag, problem, "choose one of them")


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
