"""Models in any form: our checkpoints, folders of diffusers, functions of the user's own file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.training import FUNCTION, ModelSourceOptions
from utils.files.k_files import k_files, k_named, k_of
from utils.inputs.checkpoints import StoredModel, denoiser_of, load_checkpoint
from utils.inputs.diffusers_models import is_pipeline, read_pipeline
from utils.inputs.training_args import Sections
from utils.inputs.user_models import read_function

TRAINED = "give a folder of trained models"


def read_model(
    source: Path, known: Sections | None = None, described: Sections | None = None
) -> StoredModel:
    """The model of a checkpoint, of a folder of diffusers, or of FILE.py:FUNCTION.

    known: what options say of the training set, where the model does not. described: the options
    of network and training that belong to weights alone. Raises UserError where it cannot be read,
    or something must be said."""
    if is_function(source):
        return read_function(str(source), known or {})
    if source.is_dir():
        if not is_pipeline(source):
            remedy = (
                "give one model: K.pt, or a folder that save_pretrained of diffusers has written"
            )
            raise UserError(source, "a folder that is no model", remedy)
        return read_pipeline(source, known or {})
    checkpoint = load_checkpoint(source, known, described)
    build = partial(denoiser_of, checkpoint, source)
    return StoredModel(checkpoint.args, checkpoint.fingerprint, build)


def is_function(source: Path) -> bool:
    """Whether this names a function of a file, not a file."""
    return re.fullmatch(FUNCTION, str(source)) is not None


def model_files(
    settings: ModelSourceOptions, described: Mapping[str, Any] | None = None
) -> dict[int, Path]:
    """The models that --ckpt-path or --model names, by K, for `read_model`.

    A folder with K.pt or folders K of diffusers; or a single model, whose K is its own.
    Raises UserError where there are none, or two of one K."""
    if settings.model is not None:
        return single(Path(settings.model), settings, described)
    folder = Path(required(settings, "ckpt_path"))
    if folder.is_file() or is_pipeline(folder):
        return single(folder, settings, described)
    return models_in(folder, "--ckpt-path")


def single(
    source: Path, settings: ModelSourceOptions, described: Mapping[str, Any] | None
) -> dict[int, Path]:
    model = read_model(source, settings.known(), described)
    return {model.args["train"]["train_size"]: source}


def models_in(folder: Path, flag: str) -> dict[int, Path]:
    """The models of a folder by K. Raises UserError (naming flag) where there are none, or two of
    one K."""
    inside = folder.iterdir() if folder.is_dir() else ()
    folders = {k_of(path): path for path in inside if is_pipeline(path) and k_of(path) is not None}
    files = k_named(folder, ".pt") if folder.is_dir() else {}
    if both := sorted(files.keys() & folders.keys()):
        problem = f"{both[0]}.pt and a folder {both[0]}"
        raise UserError(f"{flag} {folder}", problem, "keep one of them")
    every = {**files, **folders}
    return {k: every[k] for k in sorted(every)} or k_files(folder, ".pt", flag, TRAINED)
