"""Checkpoints: save, load, resume, and turn one into a denoiser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.denoiser import Denoiser, NetworkDenoiser
from models.unet import UNet
from utils.cli.errors import UserError
from utils.cli.options.training import image_shape
from utils.cli.progress import print_once
from utils.files.k_files import k_of
from utils.files.provenance import check_same, digest, resolve_args
from utils.files.tensors import load_safetensors, load_torch, save_torch
from utils.inputs.training_args import Sections, complete_args, schedule_of
from utils.jobs.devices import pick_dtype

FORMAT_VERSION = 1
# What wrappers put before the names of weights, in any nesting: torch.compile (also inside names),
# parallel and averaged models.
PREFIX = re.compile(r"^(?:(?:module|ema_model|model)\.)+(?=all_modules\.)")
AVERAGED = "ema_model."  # of ema-pytorch, beside the weights that are not averaged
COUNTERS = {"n_averaged", "initted", "step"}  # beside the weights of averaged models
NETWORK_OPTIONS = (
    *("image_size", "in_channels", "dim", "dim_mults", "attn_resolutions", "num_res_blocks"),
    *("dropout", "conditional", "resamp_with_conv", "nonlinearity", "num_classes"),
)


@dataclass
class Checkpoint:
    """The content of checkpoints/ITER.pt and K.pt (docs/formats.md)."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    opt: dict[str, Any]
    args: dict[str, Any]
    iterations: int
    rng: dict[str, Any] = field(default_factory=dict)

    @property
    def k(self) -> int:
        return self.args["train"]["train_size"]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that stand for the averaged weights."""
        return digest(*(self.ema[name].numpy() for name in sorted(self.ema)))


@dataclass(frozen=True)
class StoredModel:
    """A model that has been read, in whatever form, not yet on a device.

    args: its resolved options (`data`, `train`, `model`). fingerprint: 16 hex digits that stand for
    its weights. build: the model on a device, at a --precision."""

    args: dict[str, Any]
    fingerprint: str
    build: Callable[[torch.device, str], Denoiser]


def save_checkpoint(path: Path, checkpoint: Any) -> None:
    """Write a Checkpoint, or the toy's ToyCheckpoint: its fields and the version of the format."""
    save_torch(path, {**vars(checkpoint), "format_version": FORMAT_VERSION})


def load_checkpoint(
    path: Path, known: Sections | None = None, described: Sections | None = None
) -> Checkpoint:
    """A checkpoint of ours or of the original toolkit, on the CPU; also a state dict alone.

    known, described: the options of weights alone, see `described_args`. Raises UserError where it
    is missing, cut short, holds NaN, or its K is not its name's."""
    path = Path(path)
    content = load_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)
    if described is not None and is_state_dict(content):
        content = {"ema": content, "args": described_args(path, known or {}, described)}
    is_dict = isinstance(content, Mapping)
    missing = [key for key in ("ema", "args") if not is_dict or key not in content]
    if missing:
        remedy = "give a checkpoint of train_unet.py, or save yours in its form (docs/formats.md)"
        raise UserError(path, f"no {missing[0]!r}", remedy)
    args = resolve_args(content["args"], path)
    weights = {name: _weights(content.get(name), path) for name in ("model", "ema")}
    if not weights["ema"]:
        remedy = "save them as `ema`, or the weights themselves if none were averaged"
        raise UserError(path, "no averaged weights", remedy)
    opt, rng = content.get("opt", {}), content.get("rng", {})
    iterations = content.get("iterations", 0)
    whole = type(iterations) is int and isinstance(opt, Mapping) and isinstance(rng, Mapping)
    if not whole or not 0 <= iterations < 2**63:
        raise UserError(path, "no state of a training", "use an earlier checkpoint")
    checkpoint = Checkpoint(
        model=weights["model"] or weights["ema"],
        ema=weights["ema"],
        opt=opt,
        args=args,
        iterations=iterations,
        rng=dict(rng),
    )
    k = k_of(path)
    if k is not None and path.parent.name != "checkpoints" and k != checkpoint.k:
        remedy = f"name it {checkpoint.k}.pt"
        raise UserError(path, f"a model of K = {checkpoint.k}", remedy)
    return checkpoint


def is_state_dict(content: Any) -> bool:
    """Whether a file holds tensors by name, and nothing else."""
    return isinstance(content, Mapping) and bool(content) and all(map(_is_real, content.values()))


def described_args(path: Path, known: Sections, described: Sections) -> dict[str, Any]:
    """The args of weights alone: network and kind of training as the options of a stage describe
    them (--config_path), the training images as known. Raises UserError where these are unknown."""
    model, train = described["model"], dict(described["train"])
    for name in ("train_size", "global_seed"):
        del train[name]  # their defaults are no knowledge
    sections = {**known, "model": model, "train": {**train, **known.get("train", {})}}
    args = complete_args({}, sections, path, image_shape(model))
    words = "{prediction_type}, {beta_schedule} schedule, T = {timesteps}".format(**args["train"])
    print_once(f"{path}: weights alone: a network that predicts {words}, as --config_path says")
    return args


def _weights(state: Any, path: Path) -> dict[str, Tensor]:
    if state is None:
        return {}
    named = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not named or not state or not all(map(_is_real, state.values())):
        remedy = "save state_dict() of the network, a dict of tensors by name"
        raise UserError(path, "weights that are no state dict", remedy)
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise UserError(path, "NaN or infinite weights", "use an earlier checkpoint")
    if averaged := [name for name in state if AVERAGED in name]:
        state = {name: state[name] for name in averaged}
    names = {name: PREFIX.sub("", name.replace("_orig_mod.", "")) for name in state}
    return {
        names[name]: value.detach().float() if value.is_floating_point() else value
        for name, value in state.items()
        if name not in COUNTERS
    }


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_complex() and not value.is_neg()


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a results folder, the newest first."""
    paths = [p for p in (folder / "checkpoints").glob("*.pt") if k_of(p)]
    return sorted(paths, key=lambda p: int(p.stem), reverse=True)


def remove_training(folder: Path) -> None:
    """Remove what an earlier training left in a results folder (--overwrite)."""
    for path in checkpoints_in(folder):
        path.unlink()
    (folder / "logs" / "stats.jsonl").unlink(missing_ok=True)


def newest_checkpoint(folder: Path, args: dict, overwrite: bool = False) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none, or with overwrite.

    Raises UserError if it was trained with other options."""
    sections = ("data", "train", "model")
    whole = whole_checkpoints(folder, load_checkpoint, args, sections)
    return None if overwrite else next(whole, None)


def whole_checkpoints(
    folder: Path, load: Callable[[Path], Any], args: Mapping, sections: Iterable[str]
) -> Iterator[Any]:
    """The checkpoints of a results folder that `load` can read, the newest first.

    One that is damaged is left out, with a line. Raises UserError if one was trained with other
    options in these sections of args."""
    for path in checkpoints_in(folder):
        try:
            checkpoint = load(path)
        except UserError as error:
            print(f"left out: {error}", flush=True)
            continue
        check_same(path, checkpoint.args, args, sections)
        yield checkpoint


def build_network(model_options: Mapping) -> UNet:
    """The network of `model` options; of those that are absent, the defaults."""
    return UNet(**{name: model_options[name] for name in NETWORK_OPTIONS if name in model_options})


def check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises ValueError where names or shapes of weights differ."""
    for name in [*expected, *state]:
        if name not in state or name not in expected:
            raise ValueError(
                f"{name} is in {'the options' if name in expected else 'the file'} only"
            )
        if state[name].shape != expected[name].shape:
            raise ValueError(f"{name}: {list(state[name].shape)}, not {list(expected[name].shape)}")


def denoiser_of(
    checkpoint: Checkpoint, path: Path, device: torch.device, precision: str = "auto"
) -> NetworkDenoiser:
    """The averaged weights of a checkpoint as a denoiser. Raises UserError if they do not fit."""
    model, train = checkpoint.args["model"], checkpoint.args["train"]
    try:
        with torch.device("meta"):  # the options may describe a network larger than memory
            check_fit(checkpoint.ema, build_network(model).state_dict())
        network = build_network(model)
        network.load_state_dict(checkpoint.ema)
    except (RuntimeError, ValueError) as error:
        problem = (
            f"weights that do not fit its options ({str(error).splitlines()[-1].strip()[:90]})"
        )
        remedy = "give the options that it was trained with (args; of weights alone --config_path)"
        raise UserError(path, problem, remedy) from error
    return NetworkDenoiser(
        network.to(device),
        schedule_of(checkpoint.args),
        image_shape(model),
        train["prediction_type"],
        model["scale_by_sigma"],
        pick_dtype(precision, device),
    )
