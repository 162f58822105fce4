"""Networks that turn an image into one vector: by name, of the package timm, or from a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.descriptors.lpips import full_float32
from utils.descriptors.network_files import Opened, open_onnx, open_torchscript, read_card
from utils.descriptors.preprocessing import LEVELS, Preprocessing
from utils.descriptors.weights import (
    DOWNLOAD_SECONDS,
    download,
    first_file,
    hub_folder,
    named_file,
    of_hub,
    time_limit,
)
from utils.files.provenance import digest
from utils.files.tensors import load_safetensors, load_torch

BATCH = 16  # images of a call, always: an image's bits do not depend on the others
TINY = 1e-12  # a vector of zeros stays one
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
TIMM_WEIGHTS = (*HUB_FILES, "*.safetensors", "*.pth", "*.pt")
SSCD_FILE = "sscd_disc_mixup.torchscript.pt"
SSCD_URL = f"https://dl.fbaipublicfiles.com/sscd-copy-detection/{SSCD_FILE}"
SSCD_INPUT = Preprocessing(288)
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
)
# By name: the model of timm, the size of its input, and whether its last layer is kept.
OF_TIMM = {
    # Stein et al. 2023, arXiv 2306.04675: ViT-L/14, the class token, images of 224 pixels.
    "dinov2": ("vit_large_patch14_dinov2.lvd142m", 224, False),
    # Radford et al. 2021, arXiv 2103.00020: the projection is part of the image's embedding.
    "clip": ("vit_large_patch14_clip_224.openai", None, True),
}
OFFLINE = "without internet: give its file by --metric-weights"


@dataclass(frozen=True)
class Network:
    """forward: the input that `prepare` makes [BATCH, 3, H, W] -> vectors [BATCH, D].

    fingerprint: of the weights and of the preprocessing. source: where the weights come from.
    input: the preprocessing in words."""

    forward: Callable[[Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor]
    fingerprint: str
    source: str
    input: str

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Vectors [B, D] float32 of images [B, 1 or 3, H, W] in [-1, 1].

        Raises UserError where the network fails, or does not give one vector an image."""
        vectors = []
        with full_float32(images.device):
            for part in images.split(BATCH):
                rows = torch.cat([part, part[:1].expand(BATCH - len(part), -1, -1, -1)])
                vectors.append(self.vectors(rows)[: len(part)])
        return torch.cat(vectors).to(images.device)

    def vectors(self, rows: Tensor) -> Tensor:
        remedy = "check its size, interpolation, mean and std (docs/descriptors.md)"
        try:
            output = self.forward(self.prepare(rows))
        except Exception as error:  # each kind of file has errors of its own
            reason = " ".join(str(error).split())[-200:]
            raise UserError(self.source, f"a network that fails ({reason})", remedy) from error
        is_tensor = isinstance(output, Tensor) and output.ndim > 1
        if not is_tensor or output[0].numel() != output.shape[1]:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            remedy = "give a network that makes one vector [D] of an image"
            raise UserError(self.source, f"an output of {shape} for {len(rows)} images", remedy)
        return output.float().flatten(1)


def normalised(network: Network) -> Callable[[Tensor], Tensor]:
    """phi = v / |v|, so that the cosine similarity of two images is 1 - |phi - phi'|^2 / 2."""

    def phi(images: Tensor) -> Tensor:
        v = network(images)
        return v / v.norm(dim=1, keepdim=True).clamp_min(TINY)

    return phi


def load_network(metric: str, weights: Path | None, device: torch.device) -> Network:
    """The network of a descriptor: sscd, dinov2, clip, inception, timm:NAME, onnx:FILE or
    torchscript:FILE. weights: its file, or a folder with it; None for the usual caches.

    Raises UserError where package or weights are missing, or do not fit together."""
    form, _, name = metric.partition(":")
    if form == "inception":
        return inception(weights, device)
    if form == "sscd":
        path = sscd_file(weights)
        opened = open_onnx if path.suffix == ".onnx" else open_torchscript
        return from_file(path, opened, SSCD_INPUT, device)
    if form in ("onnx", "torchscript"):
        if weights is None or not Path(weights).is_file():
            remedy = "give the file that the distances were measured with"
            raise UserError("--metric-weights", weights or f"nothing, for {metric}", remedy)
        opened = open_onnx if form == "onnx" else open_torchscript
        return from_file(Path(weights), opened, None, device)
    model, size, whole = OF_TIMM.get(metric, (name, None, False))
    return of_timm(model, size, whole, weights, device)


def from_file(
    path: Path,
    opened: Callable[[Path, torch.device], Opened],
    known: Preprocessing | None,
    device: torch.device,
) -> Network:
    """A network in a file, with the preprocessing of the .yaml beside it; else the known one, in
    the size and range that the network's input has."""
    forward, side, levels = opened(path, device)
    base, card = known or Preprocessing(), path.with_suffix(".yaml")
    if side is not None:
        base = replace(base, size=side)
    if levels:
        base = replace(base, mean=LEVELS[0], std=LEVELS[1])
    prepare = read_card(path, base)
    if side is not None and prepare.size != side:
        problem = f"size {prepare.size}, with a network of {side} x {side}"
        raise UserError(card, problem, f"write size: {side}")
    if levels and not prepare.makes_levels:
        remedy = "leave them out: the network has its own"
        raise UserError(card, "mean or std, with a network of 8-bit images", remedy)
    fingerprint = digest(path.read_bytes(), repr(prepare))
    return Network(forward, prepare, fingerprint, str(path), prepare.describe())


def sscd_file(weights: Path | None) -> Path:
    """The file of SSCD: Meta's TorchScript, or an export to ONNX."""
    if weights is not None:
        return named_file(weights, (SSCD_FILE, "sscd*.pt", "sscd*.onnx"))
    path = first_file(hub_folder(), (SSCD_FILE,))
    return path or download(SSCD_URL, hub_folder(), None, f"{OFFLINE} ({SSCD_URL})", "sscd")


def of_timm(
    name: str, size: int | None, whole: bool, weights: Path | None, device: torch.device
) -> Network:
    """A backbone of timm with its own preprocessing: pooled features, or the output of the whole
    network."""
    timm = package("timm", f"timm:{name}")
    if not timm.is_model(name.partition(".")[0]):
        similar = get_close_matches(name, timm.list_models(), 3)
        hint = ", as " + ", ".join(similar) if similar else ""
        raise UserError("--metric", f"timm:{name}", f"name a model of timm.list_models(){hint}")
    what = f"timm:{name}"
    path = timm_file(timm, name, weights)
    options = {} if whole else {"num_classes": 0}
    if size is not None:
        options["img_size"] = size
    if path is not None:
        load = load_safetensors if path.suffix == ".safetensors" else load_torch
        options["pretrained_cfg_overlay"] = {"state_dict": load(path), "source": ""}
    try:
        with (
            time_limit(DOWNLOAD_SECONDS),
            redirect_stdout(sys.stderr),
            missing_weights() as missing,
        ):
            model = timm.create_model(name, pretrained=True, **options)
        if missing:  # timm only logs them, and leaves them random
            raise ValueError(f"{len(missing)} missing, as {missing[0]}")
    except Exception as error:  # a package's own, of a hub, of shapes, of files
        reason = " ".join(str(error).split())[:200]
        remedy = OFFLINE if path is None else f"give the weights of {what}"
        raise UserError(path or what, f"no weights of {name} ({reason})", remedy) from error
    model = model.eval().requires_grad_(False).to(device)
    own = timm.data.resolve_model_data_config(model)
    interpolation = own["interpolation"] if own["interpolation"] != "random" else "bilinear"
    prepare = Preprocessing(
        size or own["input_size"][-1], interpolation, tuple(own["mean"]), tuple(own["std"])
    )
    fingerprint = digest(*state_of(model), repr(prepare))
    return Network(model, prepare, fingerprint, str(path or what), prepare.describe())


@contextmanager
def missing_weights() -> Iterator[list[str]]:
    """The names of weights that networks loaded in this context have not found."""
    missing: list[str] = []
    load = torch.nn.Module.load_state_dict

    def recorded(self: torch.nn.Module, *args: Any, **options: Any) -> Any:
        result = load(self, *args, **options)
        missing.extend(result.missing_keys)
        return result

    torch.nn.Module.load_state_dict = recorded
    try:
        yield missing
    finally:
        torch.nn.Module.load_state_dict = load


def timm_file(timm: ModuleType, name: str, weights: Path | None) -> Path | None:
    """The file of the weights of a model of timm; None where timm has to load it."""
    if weights is not None:
        return named_file(weights, TIMM_WEIGHTS)
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag, the part of the name behind a dot
        config = None
    if config is None or not config.hf_hub_id:
        remedy = "choose a model of timm.list_models(pretrained=True), or --metric-weights FILE"
        raise UserError(f"timm:{name}", "no weights of it in timm", remedy)
    names = [config.hf_hub_filename] if config.hf_hub_filename else HUB_FILES
    return of_hub(config.hf_hub_id, names, f"{OFFLINE} ({config.hf_hub_id})", f"timm:{name}")


def inception(weights: Path | None, device: torch.device) -> Network:
    """The Inception network of the Frechet Inception distance, 2,048 features, as torch-fidelity
    reads it: images of 8 bits, resized to 299 pixels as TensorFlow 1 does.

    Source: Heusel et al. 2017, arXiv 1706.08500; Obukhov et al., torch-fidelity."""
    extractor = package("torch_fidelity.feature_extractor_inceptionv3", "inception")
    patterns = (INCEPTION_FILE, "*inception*.pth", "*inception*.pt")
    if weights is not None:
        path = named_file(weights, patterns)
    else:
        path = first_file(hub_folder(), (INCEPTION_FILE,))
        remedy = f"{OFFLINE} ({INCEPTION_URL})"
        path = path or download(INCEPTION_URL, hub_folder(), "6726825d", remedy, "inception")
    checked = io.BytesIO()  # what torch-fidelity reads may run code: it gets what was read safely
    torch.save(load_torch(path), checked)
    checked.seek(0)
    try:
        model = extractor.FeatureExtractorInceptionV3("inception", ["2048"], checked)
    except (RuntimeError, TypeError, AttributeError) as error:
        remedy = f"use torch-fidelity's {INCEPTION_FILE}"
        raise UserError(path, "no weights of the FID network", remedy) from error
    model = model.to(device)

    def forward(x: Tensor) -> Tensor:
        return model(x)[0]

    words = "8 bits, 299 x 299 (bilinear of TensorFlow 1), -1 to 1"
    return Network(forward, as_bytes, digest(*state_of(model), words), str(path), words)


def as_bytes(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] of images [B, 1 or 3, H, W] in [-1, 1]."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).expand(-1, 3, -1, -1)


def state_of(model: torch.nn.Module) -> list:
    return [tensor.float().cpu().numpy() for tensor in model.state_dict().values()]


def package(name: str, what: str) -> ModuleType:
    """An optional package. Raises UserError with the command that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        base = name.partition(".")[0].replace("_", "-")
        raise UserError(what, f"no package {base}", f"pip install {base}") from error
