"""Models of the package diffusers: a UNet2DModel and its scheduler, in the folder of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.denoiser import NetworkDenoiser
from models.schedule import Schedule
from utils.cli.errors import UserError
from utils.files.provenance import digest
from utils.files.tensors import load_safetensors, load_torch
from utils.inputs.checkpoints import StoredModel, check_fit
from utils.inputs.diffusers_names import PREDICTIONS
from utils.inputs.training_args import Sections, complete_args, schedule_args
from utils.jobs.devices import pick_dtype

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
NETWORK = "UNet2DModel"
INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# Of these the training's noise levels are betas; how they sample is not used.
SCHEDULERS = (
    *("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler"),
    *("PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"),
)
OLDER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
USUAL = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is one of diffusers: a pipeline, or a network.

    A config.json alone may be anything: repositories of the Hub have one to count downloads."""
    if (folder / INDEX).is_file() or (folder / "unet" / CONFIG).is_file():
        return True
    return (folder / CONFIG).is_file() and "_class_name" in read_json(folder / CONFIG)


def read_pipeline(folder: Path, known: Sections) -> StoredModel:
    """The model of a folder that `save_pretrained` has written: DDPMPipeline, DDIMPipeline, or a
    UNet2DModel beside its scheduler.

    Raises UserError for other pipelines, networks and schedulers; `build` does where weights do not
    fit, and where the package diffusers is missing."""
    index = folder / INDEX
    if index.is_file():
        check_class(index, read_json(index), PIPELINES)
    config_path = first_of(folder, f"unet/{CONFIG}", CONFIG)
    scheduler_path = first_of(folder, f"scheduler/{SCHEDULER}", SCHEDULER)
    config, scheduler = read_json(config_path), read_json(scheduler_path)
    check_class(config_path, config, (NETWORK,))
    check_class(scheduler_path, scheduler, SCHEDULERS)
    schedule = schedule_in(scheduler, scheduler_path)
    prediction = prediction_in(scheduler, scheduler_path)
    shape = shape_in(config, config_path)
    weights = read_weights(config_path.parent)
    train, beside = schedule_args(schedule)
    train["prediction_type"] = prediction
    known = {**known, "train": {**known.get("train", {}), **train}}
    args = {**complete_args({}, known, folder, shape), **beside}

    def build(device: torch.device, precision: str = "auto") -> NetworkDenoiser:
        network = build_network(config, config_path, weights)
        wrapped = Network(network, shape[0]).to(device)
        dtype = pick_dtype(precision, device)
        return NetworkDenoiser(wrapped, schedule, shape, prediction, dtype=dtype)

    # Keys that begin with _ are of the file, not of the network.
    kept = {name: value for name, value in config.items() if not name.startswith("_")}
    described = np.array(json.dumps(kept, sort_keys=True))
    values = [weights[name].float().numpy() for name in sorted(weights)]
    fingerprint = digest(*values, described, schedule.alpha_bar.numpy())
    return StoredModel(args, fingerprint, build)


class Network(nn.Module):
    """A UNet2DModel as `NetworkDenoiser` calls it. Of a network that also predicts its variance
    the first half of the channels is taken."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.network(x_t, t, return_dict=False)[0][:, : self.channels]


def first_of(folder: Path, *names: str) -> Path:
    """The first of these files. Raises UserError where there is none."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    remedy = "give a folder that save_pretrained of a pipeline has written"
    raise UserError(folder / names[0], "no such file", remedy)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(path, "no JSON", "copy it again") from error
    if not isinstance(content, dict):
        raise UserError(path, f"a {type(content).__name__}", "copy it again")
    return content


def check_class(path: Path, content: Mapping[str, Any], supported: tuple[str, ...]) -> None:
    """Raises UserError where a file is of another class than these."""
    name = content.get("_class_name")
    if name not in supported:
        raise UserError(path, f"the class {name}", f"supported are {', '.join(supported)}")


def schedule_in(config: Mapping[str, Any], path: Path) -> Schedule:
    """The noise schedule of a scheduler's config, in float64. Raises UserError for others."""
    try:
        steps, start, end = (config.get(name, usual) for name, usual in USUAL.items())
        kind = config.get("beta_schedule", "linear")
        ends = dict(steps=steps, dtype=torch.float64)
        if config.get("rescale_betas_zero_snr"):
            remedy = "use a model whose last time still holds some of the image"
            raise UserError(path, "rescale_betas_zero_snr, with alpha_bar = 0 at its end", remedy)
        if (betas := config.get("trained_betas")) is not None:
            beta = torch.tensor(betas, dtype=torch.float64)
        elif kind == "linear":
            beta = torch.linspace(start, end, **ends)
        elif kind == "scaled_linear":
            beta = torch.linspace(start**0.5, end**0.5, **ends).square()
        elif kind == "squaredcos_cap_v2":
            beta = Schedule(steps, "cosine").beta
        elif kind == "sigmoid":
            beta = torch.linspace(-6, 6, **ends).sigmoid() * (end - start) + start
        else:
            known = "linear, scaled_linear, squaredcos_cap_v2, sigmoid, trained_betas"
            raise UserError(path, f"beta_schedule {kind!r}", f"supported are {known}")
        return Schedule.from_alpha_bar(torch.cumprod(1 - beta, dim=0))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(path, str(error).splitlines()[0], "use another scheduler") from error


def prediction_in(config: Mapping[str, Any], path: Path) -> str:
    """Our name of what the network predicts. Raises UserError for others."""
    theirs = config.get("prediction_type", "epsilon")
    for ours, name in PREDICTIONS.items():
        if name == theirs:
            return ours
    remedy = f"supported are {', '.join(PREDICTIONS.values())}"
    raise UserError(path, f"prediction_type {theirs!r}", remedy)


def shape_in(config: Mapping[str, Any], path: Path) -> tuple[int, int, int]:
    """(C, H, W) of a network's config. Raises UserError where it takes more than image and time."""
    size, channels = config.get("sample_size"), config.get("in_channels", 3)
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(n) is int and n > 0 for n in [*sides, channels]):
        raise UserError(path, f"sample_size {size}", "write the side of its images there")
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        raise UserError(path, "a network that takes class labels", "give one without labels")
    if config.get("out_channels", 3) not in (channels, 2 * channels):
        problem = f"{config.get('out_channels')} channels of {channels}"
        raise UserError(path, problem, "give a network whose output is like its input")
    return channels, *sides


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights beside a network's config: safetensors, or else a pickle of tensors alone.

    Raises UserError where there are none, or they are NaN or infinite."""
    path = first_of(folder, *WEIGHTS)
    weights = load_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)
    named = isinstance(weights, Mapping) and all(isinstance(v, Tensor) for v in weights.values())
    if not named:
        raise UserError(path, "no state dict", "save it with save_pretrained")
    if not all(value.isfinite().all() for value in weights.values()):
        raise UserError(path, "NaN or infinite weights", "use an earlier checkpoint")
    return {current_name(name): value for name, value in weights.items()}


def current_name(name: str) -> str:
    """A weight's name of today: the attention of the first published models has older ones.

    >>> current_name("mid_block.attentions.0.proj_attn.bias")
    'mid_block.attentions.0.to_out.0.bias'"""
    *start, part, leaf = name.rsplit(".", 2)
    if "attentions" in name and part in OLDER_NAMES:
        return ".".join([*start, OLDER_NAMES[part], leaf])
    return name


def build_network(
    config: Mapping[str, Any], path: Path, weights: Mapping[str, Tensor]
) -> nn.Module:
    """diffusers' network with these weights. Raises UserError where the package is missing, or the
    weights are others than the config says."""
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise UserError("diffusers", "no such package", "pip install diffusers") from error
    try:
        with torch.device("meta"):  # the config may describe a network larger than memory
            check_fit(weights, UNet2DModel.from_config(dict(config)).state_dict())
        network = UNet2DModel.from_config(dict(config))
        network.load_state_dict(weights)
    except Exception as error:  # a config may hold anything
        problem = f"weights that do not fit ({str(error).splitlines()[0][:90]})"
        raise UserError(path, problem, "copy both files again") from error
    return network.float()
