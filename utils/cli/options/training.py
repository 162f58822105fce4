"""Options of data set, training and network; the comment after a field is its help.

Nothing heavy is imported here. `__post_init__` only checks: simple-parsing calls it twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import (
    all_within,
    ints,
    one_of,
    parse_sides,
    sides_text,
    with_help,
    within,
)
from utils.cli.options.choices import (
    ANY_IMAGES,
    DATA_NAMES,
    EXACT,
    MACHINE_NAMES,
    OTHER_SCHEDULE,
    PATCH_MACHINES,
    PREDICTION_NAMES,
    SCHEDULE_NAMES,
    either,
)

# Far beyond any network that is trained; building one of a billion blocks would not end.
MOST_BLOCKS, MOST_CHANNELS = 1000, 2**20
FUNCTION = r".+\.py:[A-Za-z_]\w*"
COMMAND_LINE_ONLY = "command line only"  # in the metadata of a field: YAML may not name it
MOST_LEVELS = 13  # at 4096 pixels the last level has a single one


@dataclass
class DataOptions:
    """Data set and result folder."""

    data_path: Path = Path("../data")  # folder of the data sets
    results_path: Path = Path("results")  # folder for checkpoints, samples and logs
    data_name: str = with_help("cifar10", f"{either(DATA_NAMES)} (any images)")

    def __post_init__(self) -> None:
        one_of(self, "data_name", DATA_NAMES)


@dataclass
class TrainingSetOptions:
    """The training images of samples or models made elsewhere, whose files do not name them."""

    data_path: Path | None = None  # folder of the data sets; default: that of the training
    data_name: str | None = None  # the data set, where samples or models do not name it
    train: str | None = None  # instead: the training images themselves, in any form of run_audit.py
    train_size: int | None = None  # K, where neither options in a file nor its name say it
    global_seed: int | None = None  # the seed that chose the K images, where no file says it
    centercrop: bool = False  # images are cut to the middle square, where no file says it

    def check_training_set(self) -> None:
        """Raises UserError for impossible values."""
        within(self, "train_size", 1)
        within(self, "global_seed", 0, 2**62)
        if self.data_name is not None:
            one_of(self, "data_name", DATA_NAMES)
        if self.train is not None and self.data_name is not None:
            problem = f"{self.train} beside --data-name {self.data_name}"
            raise UserError("--train", problem, "leave one of them out")

    def known(self) -> dict[str, dict[str, Any]]:
        """What the options say where a file does not, in sections of args."""
        data = {"data_name": self.data_name, "data_path": self.data_path and str(self.data_path)}
        if self.train is not None:
            name, colon, part = self.train.rpartition(":")
            by_name = colon and name in DATA_NAMES and part == "train"
            data["data_name"] = name if by_name else ANY_IMAGES
            data["data_path"] = data["data_path"] if by_name else self.train
        sections = {
            "data": data,
            "train": {
                "train_size": self.train_size,
                "global_seed": self.global_seed,
                "centercrop": self.centercrop or None,
            },
        }
        return {
            name: {key: value for key, value in section.items() if value is not None}
            for name, section in sections.items()
        }


@dataclass
class ModelFiles:
    """Where models lie."""

    # K.pt, a folder of them, or models of diffusers: the folder of one, or a folder K for each
    ckpt_path: Path | None = None
    # a model of your own: FILE.py:FUNCTION (docs/extending.md)
    model: str | None = field(default=None, metadata={COMMAND_LINE_ONLY: True})


@dataclass
class MachineOptions:
    """A denoiser in closed form in place of a trained model."""

    exact: bool = False  # the exact model of the K training images instead of a checkpoint
    machine: str | None = with_help(
        None,
        "a denoiser in closed form of the K training images instead of a checkpoint: "
        f"{', '.join(MACHINE_NAMES)} (docs/machines.md)",
    )
    patch_sides: str | None = with_help(
        None,
        f"of {', '.join(PATCH_MACHINES)}: the odd patch side, as 5, or one for each of some times, "
        "as 20:3,100:7",
    )
    # of equivariant: compare with so many patches of the training images at most, drawn at random;
    # default: all
    most_patches: int | None = None

    @property
    def closed_form(self) -> str | None:
        """The name of the closed form; None where a trained model is asked for."""
        return EXACT if self.exact else self.machine

    @property
    def closed_form_flag(self) -> str:
        """The flag that asks for it, for a message."""
        return "--exact" if self.exact else f"--machine {self.machine}"

    @property
    def sides(self) -> int | dict[int, int] | None:
        """The patch sides. Raises UserError for another text."""
        return None if self.patch_sides is None else parse_sides(self.patch_sides)

    def check_machine(self) -> None:
        """Raises UserError for impossible values."""
        if self.machine is not None:
            one_of(self, "machine", MACHINE_NAMES)
        name = self.closed_form
        if self.exact and self.machine not in (None, EXACT):
            raise UserError("--exact", f"--machine {self.machine} too", "choose one of them")
        if name in PATCH_MACHINES and self.sides is None:
            remedy = "say --patch-sides, as 5, or as run_machines.py prints them for a network"
            raise UserError(self.closed_form_flag, "no --patch-sides", remedy)
        if name not in PATCH_MACHINES and self.patch_sides is not None:
            remedy = f"leave it out: only {either(PATCH_MACHINES)} takes it"
            raise UserError("--patch-sides", self.patch_sides, remedy)
        if name != "equivariant" and self.most_patches is not None:
            remedy = "leave it out: only --machine equivariant takes it"
            raise UserError("--most-patches", self.most_patches, remedy)
        within(self, "most_patches", 1)

    def stored_machine(self) -> dict[str, Any]:
        """The options as args store them: one spelling of each model, so that --machine exact is
        --exact, and 100:7, 20:3 is 20:3,100:7."""
        exact = self.closed_form == EXACT
        return {
            "exact": exact,
            "machine": None if exact else self.machine,
            "patch_sides": None if self.sides is None else sides_text(self.sides),
            "most_patches": self.most_patches,
        }


@dataclass
class ModelSourceOptions(TrainingSetOptions, ModelFiles):
    """Where models come from, and what is known of those made elsewhere."""

    def check_model_source(self) -> None:
        """Raises UserError for impossible values."""
        self.check_training_set()
        if self.model is None:
            return
        if self.ckpt_path is not None:
            problem = f"{self.model} beside --ckpt-path {self.ckpt_path}"
            raise UserError("--model", problem, "leave one of them out")
        if not re.fullmatch(FUNCTION, self.model):
            remedy = "give a file and a function in it, as my_model.py:load"
            raise UserError("--model", self.model, remedy)


@dataclass
class ModelOrMachineOptions(MachineOptions, ModelSourceOptions):
    """Trained models, or a denoiser in closed form in their place."""

    def check_model_source(self) -> None:
        """Raises UserError for impossible values."""
        self.check_machine()
        if self.model is not None and self.closed_form:
            raise UserError(
                self.closed_form_flag, f"--model {self.model} too", "choose one of them"
            )
        super().check_model_source()


@dataclass
class TrainOptions:
    """Training; K is --train-size."""

    global_batch_size: int = 128  # images a step, over all ranks
    iterations: int = 400_000  # steps
    num_workers: int = 4  # accepted for old commands, unused: the subset is in memory
    log_every: int = 500  # steps between log lines
    ckpt_every: int = 500  # steps between checkpoints
    train_size: int = 1000  # K, training images
    valid_size: int = 1000  # images held out for the validation loss
    global_seed: int = 3407  # seed of the split, the first weights and every step
    run_seed: int | None = None  # seed of the first weights and every step; default --global-seed
    lr: float = 1e-4  # Adam's step size
    ema_decay: float = 0.9999  # decay of the averaged weights, 0 to 1
    ema_warmup: bool = False  # average with min(decay, (1 + n) / (10 + n)) at step n
    clip_grad: bool = True  # clip the gradient's norm at 1
    prediction_type: str = with_help(
        "epsilon",
        "what the network predicts: "
        + ", ".join(f"{name} ({text})" for name, text in PREDICTION_NAMES.items()),
    )
    beta_schedule: str = with_help("linear", f"noise schedule: {either(SCHEDULE_NAMES)}")
    timesteps: int = 1000  # T, noise levels
    centercrop: bool = False  # cut the middle square at the image size (ADM's crop)
    subset: str = "first"  # first (perm[:K]) or second (the disjoint perm[K:2K])
    keep_checkpoints: int = 0  # newest checkpoints to keep; 0 keeps all
    model_path: Path | None = None  # folder for the finished model, K.pt
    compile: str = "auto"  # torch.compile: auto (on CUDA), on, off
    class_conditional: bool = False  # give the network each image's class, where there are classes
    random_flip: bool = False  # mirror each image of a batch with probability 1/2
    duplicates: int = 1  # show each of the first K / 10 images (rounded up) so many times
    tracker: str = "none"  # also log to tensorboard or wandb (pip install them)

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "iterations", "log_every", "ckpt_every", "train_size"):
            within(self, name, 1)
        for name in ("num_workers", "valid_size", "keep_checkpoints"):
            within(self, name, 0)
        for name in ("global_seed", "run_seed"):
            within(self, name, 0, 2**63 - 1)
        within(self, "ema_decay", 0, 1)
        within(self, "duplicates", 1, 10_000)
        one_of(self, "tracker", ("none", "tensorboard", "wandb"))
        within(self, "timesteps", 2, 100_000)
        if not 0 < self.lr < float("inf"):
            raise UserError("--lr", self.lr, "choose a positive number")
        one_of(self, "prediction_type", PREDICTION_NAMES)
        if self.beta_schedule != OTHER_SCHEDULE:  # in files alone: training refuses it
            one_of(self, "beta_schedule", SCHEDULE_NAMES)
        one_of(self, "subset", ("first", "second"))
        one_of(self, "compile", ("auto", "on", "off"))


@dataclass
class ModelOptions:
    """The U-Net."""

    image_size: int = 32  # side in pixels
    in_channels: int = 3  # 1 (grey) or 3 (colour); of models made elsewhere any
    dim: int = 128  # channels of the first level, a multiple of 32
    dim_mults: tuple[int, ...] = ints(1, 2, 2, 2)  # channels of each level, as multiples of dim
    attn_resolutions: tuple[int, ...] = ints(16)  # sides (pixels) that get self-attention
    num_res_blocks: int = 2  # residual blocks a level
    dropout: float = 0.0  # share of activations dropped in training, 0 to 1
    conditional: bool = True  # give the time to the network
    resamp_with_conv: bool = True  # convolutions in down- and upsampling
    nonlinearity: str = "swish"  # swish, relu, lrelu or elu
    scale_by_sigma: bool = False  # divide the output by the noise's standard deviation
    image_width: int | None = None  # of models made elsewhere, where images are not square
    num_classes: int = 0  # classes of a network of --class-conditional, which sets them

    def __post_init__(self) -> None:
        within(self, "image_size", 1, 4096)
        within(self, "image_width", 1, 4096)
        within(self, "in_channels", 1, MOST_CHANNELS)
        within(self, "num_res_blocks", 1, MOST_BLOCKS)
        all_within(self, "attn_resolutions", 1)
        within(self, "dropout", 0, 1)
        within(self, "num_classes", 0, MOST_CHANNELS)
        one_of(self, "nonlinearity", ("swish", "relu", "lrelu", "elu"))
        if not 32 <= self.dim <= MOST_CHANNELS or self.dim % 32:
            remedy = f"choose a multiple of 32 (group norm), up to {MOST_CHANNELS}"
            raise UserError("--dim", self.dim, remedy)
        if not self.dim_mults or min(self.dim_mults) < 1 or max(self.dim_mults) > MOST_CHANNELS:
            raise UserError("--dim-mults", self.dim_mults, "choose positive numbers, as in 1,2,2")
        if len(self.dim_mults) > MOST_LEVELS:
            raise UserError("--dim-mults", self.dim_mults, f"choose {MOST_LEVELS} levels or fewer")
        step = 2 ** (len(self.dim_mults) - 1)
        if self.image_size % step:
            remedy = f"choose a multiple of {step}, or fewer levels in --dim-mults"
            raise UserError("--image-size", self.image_size, remedy)


def image_shape(model: Mapping[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of the images of a model with these options."""
    return (
        model["in_channels"],
        model["image_size"],
        model.get("image_width") or model["image_size"],
    )
