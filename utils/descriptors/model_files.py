"""Networks in files of ONNX and TorchScript, and the .yaml with their preprocessing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from utils.cli.errors import UserError
from utils.descriptors.preprocessing import Preprocessing

Forward = Callable[[Tensor], Tensor]
SIZE_OF_CARD = 10_000  # bytes


def read_card(path: Path) -> Preprocessing | None:
    """The preprocessing in FILE.yaml beside a file FILE.onnx or FILE.pt: size, interpolation,
    mean, std, all optional. None where there is no such file."""
    card = path.with_suffix(".yaml")
    if not card.exists():
        return None
    remedy = "write size, interpolation, mean and std, as in docs/descriptors.md"
    try:
        with card.open(encoding="utf-8") as file:
            values = yaml.safe_load(file.read(SIZE_OF_CARD))
        if not isinstance(values, dict):
            raise ValueError("found no names with values")
        return Preprocessing.from_values(values)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(card, " ".join(str(error).split())[:200], remedy) from error


def open_onnx(path: Path, device: torch.device) -> tuple[Forward, int | None]:
    """The network of an ONNX file, by onnxruntime, and the side of its input where that is fixed.

    Its first input must be images [B, 3, H, W] float32, its first output vectors [B, D] or
    [B, D, 1, 1]. A fixed B is filled batch by batch. Raises UserError for other files."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(path, "no package onnxruntime", "pip install onnxruntime") from error
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    available = onnxruntime.get_available_providers()
    providers = [*(name for name in wanted if name in available), "CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # onnxruntime's own threads would ignore the limits that were set for PyTorch
    options.intra_op_num_threads = torch.get_num_threads()
    remedy = "give a network that takes images [B, 3, H, W] float32"
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has classes of its own
        raise UserError(path, "no network of ONNX", "give a .onnx file") from error
    first, output = session.get_inputs()[0], session.get_outputs()[0].name
    channels = first.shape[1] if len(first.shape) == 4 else None
    if first.type != "tensor(float)" or not (channels == 3 or isinstance(channels, str)):
        raise UserError(path, f"an input of {first.type} {first.shape}", remedy)
    count, _, height, width = (size if isinstance(size, int) else None for size in first.shape)
    if height != width:
        raise UserError(path, f"an input of {height} x {width}", "give one of square images")

    def forward(x: Tensor) -> Tensor:
        rows, at_once = x.cpu(), count or len(x)
        filled = torch.cat([rows, rows[:1].expand(-len(rows) % at_once, -1, -1, -1)])
        parts = [
            torch.from_numpy(session.run([output], {first.name: part.numpy()})[0])
            for part in filled.contiguous().split(at_once)
        ]
        return torch.cat(parts)[: len(rows)]

    return forward, height


def open_torchscript(path: Path, device: torch.device) -> tuple[Forward, int | None]:
    """The network of a TorchScript file, which takes images of any size [B, 3, H, W] float32 and
    gives vectors [B, D]. Raises UserError for other files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer formats: published networks are in this one
            model = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        remedy = "give a file that torch.jit.save wrote"
        raise UserError(path, "no network of TorchScript", remedy) from error
    return model, None
