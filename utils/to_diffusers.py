"""A checkpoint as the folder that diffusers' `DDPMPipeline.from_pretrained(FOLDER)` loads.

    python -m utils.to_diffusers --ckpt-path models/64.pt --result-path diffusers/64

Writes the averaged weights as safetensors and the options as JSON; there is no pickle. In diffusers
set `num_inference_steps` to the model's number of times (1000), or to fewer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.main import run_stage
from utils.cli.options.checks import required
from utils.cli.options.sections import ToDiffusersStage
from utils.files.atomic import PART, atomic_write, check_writable, reason, remove_leftovers
from utils.inputs.checkpoints import Checkpoint, denoiser_of, load_checkpoint
from utils.inputs.diffusers_names import diffusers_config, scheduler_config, to_diffusers
from utils.inputs.training_args import schedule_of

INDEX = "model_index.json"


def convert(checkpoint: Path, folder: Path, overwrite: bool = False) -> None:
    """Write the averaged weights of a checkpoint, ours or the original's, to folder.

        unet/config.json  unet/diffusion_pytorch_model.safetensors
        scheduler/scheduler_config.json  model_index.json

    The index comes last: a folder that has it is whole. A folder with the same content is left as
    it is. The scheduler is our ddpm, for two steps or more. diffusers' DDIM, made from its config,
    is our ddim for T steps with use_clipped_model_output; for fewer steps it takes other times.

    Raises UserError where the checkpoint cannot be read or expressed, and where folder has other
    content (unless overwrite: other files stay)."""
    checkpoint, folder = Path(checkpoint), Path(folder)
    files = pipeline_files(load_checkpoint(checkpoint), checkpoint)
    if not overwrite and _is_whole(folder, files):
        return
    if not overwrite:
        _refuse_other_content(folder, files)
    check_writable(folder, sum(map(len, files.values())))
    _delete(folder / INDEX)  # until the new files are written
    for name, content in files.items():
        remove_leftovers((folder / name).parent)
        with atomic_write(folder / name) as file:
            file.write(content)


def pipeline_files(checkpoint: Checkpoint, path: Path) -> dict[str, bytes]:
    """The content of each file, the index last. Raises UserError for what diffusers lacks."""
    model, train = checkpoint.args["model"], checkpoint.args["train"]
    try:
        unet = diffusers_config(model)
        scheduler = scheduler_config(schedule_of(checkpoint.args), train["prediction_type"])
    except ValueError as error:
        problem = f"what diffusers cannot express ({error})"
        raise UserError(path, problem, "convert a model trained with other options") from error
    network = denoiser_of(checkpoint, path, torch.device("cpu"), "float32").network
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    weights = to_diffusers(network.state_dict(), model)
    return {
        "unet/config.json": _json({"_class_name": "UNet2DModel", **unet}),
        "unet/diffusion_pytorch_model.safetensors": to_safetensors(weights),
        "scheduler/scheduler_config.json": _json({"_class_name": "DDPMScheduler", **scheduler}),
        INDEX: _json({"_class_name": "DDPMPipeline", **parts}),
    }


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a .safetensors file; they depend on names and values alone."""
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    return save(contiguous, metadata={"format": "pt"})  # diffusers asks for this word


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(path, reason(error), "choose another folder") from error


def _is_whole(folder: Path, files: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == content for name, content in files.items())
    except OSError:
        return False


def _refuse_other_content(folder: Path, files: Mapping[str, bytes]) -> None:
    """Raises UserError unless folder is absent, empty, or what a killed conversion left."""
    try:
        names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    except OSError as error:
        raise UserError(folder, reason(error), "choose a folder that you may write") from error
    names = {name for name in names if not name.endswith(PART)}
    others = names - files.keys()
    if others or INDEX in names:
        problem = f"{min(others, default=INDEX)} in it"
        raise UserError(folder, problem, "choose an empty folder, or give --overwrite")


def run(options: ToDiffusersStage) -> None:
    """Convert one checkpoint, or say what would be written."""
    settings = options.to_diffusers
    checkpoint, folder = (Path(required(settings, n)) for n in ("ckpt_path", "result_path"))
    if settings.dry_run:
        for name, content in pipeline_files(load_checkpoint(checkpoint), checkpoint).items():
            print(f"would write {folder / name}: {len(content) / 1e6:.1f} MB")
        return
    convert(checkpoint, folder, settings.overwrite)
    print(f"{folder}: load it with DDPMPipeline.from_pretrained({str(folder)!r})")


if __name__ == "__main__":
    run_stage(run, ToDiffusersStage, __doc__ or "", prog="python -m utils.to_diffusers")
