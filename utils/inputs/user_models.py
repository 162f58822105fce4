"""A model of the user's own: a function in a file that the command line names."""

from __future__ import annotations

import runpy
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.denoiser import Denoiser
from models.noise import SeededNoise
from utils.cli.errors import UserError
from utils.files.provenance import digest
from utils.inputs.checkpoints import StoredModel
from utils.inputs.training_args import Sections, complete_args, schedule_args

REMEDY = "return a models.denoiser.Denoiser from it (docs/extending.md)"


def read_function(text: str, known: Sections) -> StoredModel:
    """The model that FILE.py:FUNCTION returns: FUNCTION(device) gives a Denoiser.

    The only place that runs a user's code. The fingerprint is of the file, the schedule and the
    weights of the network. Raises UserError where the file cannot be run, or returns anything
    else."""
    name, _, function = text.rpartition(":")
    path = Path(name)
    try:
        code = path.read_bytes()
    except OSError as error:
        raise UserError(f"--model {path}", error.strerror or "no file", "check the path") from error

    def build(device: torch.device, precision: str = "auto") -> Denoiser:
        if precision == "bfloat16":
            remedy = "leave it out: a model of your own chooses its number format"
            raise UserError("--precision", precision, remedy)
        return loaded(path.absolute(), function, code, device)

    denoiser = build(torch.device("cpu"))
    check_denoiser(denoiser, text)
    train, beside = schedule_args(denoiser.schedule)
    known = {**known, "train": {**known.get("train", {}), **train}}
    args = complete_args({}, known, Path(text), tuple(denoiser.shape))
    parts = np.frombuffer(code, np.uint8), denoiser.schedule.alpha_bar.numpy()
    fingerprint = digest(*parts, *weights_of(denoiser))
    return StoredModel({**args, **beside}, fingerprint, build)


@lru_cache(maxsize=2)
def loaded(path: Path, function: str, code: bytes, device: torch.device) -> Denoiser:
    """What the function returns; kept, since a stage reads its model when it plans and when it
    works. code: of the file. Raises UserError that names its line where it fails."""
    beside = str(path.parent)
    if beside not in sys.path:
        sys.path.append(beside)  # its own modules, as `python FILE.py` would find them
    try:
        found = runpy.run_path(str(path)).get(function)
        if callable(found):
            return found(device)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f"line {lines[-1]}: " if lines else ""
        message = str(error).splitlines()
        problem = f"{where}{type(error).__name__}: {message[0] if message else ''}"
        raise UserError(f"--model {path}", problem, "correct the file") from error
    raise UserError(f"--model {path}", f"no function {function}", "name one that it defines")


def check_denoiser(denoiser: Any, text: str) -> None:
    """Raises UserError where an object is no denoiser, or its eps is not finite or misshapen at the
    first and the last time."""
    where = f"--model {text}"
    if not isinstance(denoiser, Denoiser):
        raise UserError(where, f"a {type(denoiser).__name__} returned", REMEDY)
    for name in ("shape", "schedule", "device"):
        if getattr(denoiser, name, None) is None:
            raise UserError(where, f"a denoiser without {name}", "set it in its __init__")
    shape = tuple(denoiser.shape)
    if len(shape) != 3:
        raise UserError(where, f"shape {shape}", "give (C, H, W)")
    x_t = SeededNoise(range(2), shape).draw().to(denoiser.device)
    for t in (1, denoiser.schedule.timesteps - 1):
        try:
            with torch.no_grad():
                eps = denoiser.eps(x_t, t)
        except Exception as error:
            message = str(error).splitlines()
            problem = f"{type(error).__name__} at t = {t}: {message[0] if message else ''}"
            raise UserError(where, problem, "correct the file") from error
        if not isinstance(eps, torch.Tensor) or eps.shape != x_t.shape:
            found = list(eps.shape) if isinstance(eps, torch.Tensor) else type(eps).__name__
            problem = f"eps {found} for x_t {list(x_t.shape)}"
            raise UserError(where, problem, "return a tensor of the same shape")
        if not eps.isfinite().all():
            problem = f"NaN or infinite eps at t = {t}"
            raise UserError(where, problem, "check its schedule, and what the network predicts")


def weights_of(denoiser: Denoiser) -> list[np.ndarray]:
    """The weights of every network that a denoiser holds, by name."""
    networks = [n for n in vars(denoiser).values() if isinstance(n, torch.nn.Module)]
    states = [state for network in networks for state in sorted(network.state_dict().items())]
    return [value.float().cpu().numpy() for _, value in states if isinstance(value, torch.Tensor)]
