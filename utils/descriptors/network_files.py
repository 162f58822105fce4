"""Networks in files of ONNX and TorchScript, and the .yaml with their preprocessing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import Tensor

from utils.cli.errors import UserError
from utils.descriptors.preprocessing import Preprocessing

Forward = Callable[[Tensor], Tensor]
SIZE_OF_CARD = 10_000  # bytes
KINDS = {"tensor(float)": torch.float32, "tensor(uint8)": torch.uint8}  # inputs in ONNX files


class Opened(NamedTuple):
    """A network of a file. side: of its input, where that is fixed. levels: it takes images of 8
    bits, 0 to 255, and subtracts the mean itself."""

    forward: Forward
    side: int | None = None
    levels: bool = False


def read_card(path: Path, base: Preprocessing) -> Preprocessing:
    """The preprocessing in FILE.yaml beside a file FILE.onnx or FILE.pt: size, interpolation,
    mean, std; those that it does not name, or without such a file all, are those of base."""
    card = path.with_suffix(".yaml")
    if not card.exists():
        return base
    remedy = "write size, interpolation, mean and std, as in docs/descriptors.md"
    try:
        with card.open(encoding="utf-8") as file:
            values = yaml.safe_load(file.read(SIZE_OF_CARD))
        if not isinstance(values, dict):
            raise ValueError("found no names with values")
        return base.with_values(values)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(card, " ".join(str(error).split())[:200], remedy) from error


def open_onnx(path: Path, device: torch.device) -> Opened:
    """The network of an ONNX file, by onnxruntime.

    Its first input must be images [B, 3, H, W] or [B, H, W, 3], float32 or uint8, its first output
    vectors [B, D] or [B, D, 1, 1]. A fixed B is filled batch by batch. Raises UserError for other
    files."""
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
    remedy = "give a network that takes images [B, 3, H, W] or [B, H, W, 3], float32 or uint8"
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has classes of its own
        raise UserError(path, "no network of ONNX", "give a .onnx file") from error
    first, output = session.get_inputs()[0], session.get_outputs()[0].name
    # Sizes that are not fixed have a name, or None.
    sizes = [size if isinstance(size, int) else None for size in first.shape]
    channels_last = len(sizes) == 4 and sizes[3] == 3 and sizes[1] != 3
    if channels_last:
        sizes.insert(1, sizes.pop())  # as [B, 3, H, W]
    if first.type not in KINDS or len(sizes) != 4 or sizes[1] not in (3, None):
        raise UserError(path, f"an input of {first.type} {first.shape}", remedy)
    kind, (count, _, height, width) = KINDS[first.type], sizes
    if height != width:
        raise UserError(path, f"an input of {height} x {width}", "give one of square images")

    def forward(x: Tensor) -> Tensor:
        rows, at_once = x.cpu(), count or len(x)
        if kind == torch.uint8:
            rows = rows.round().clamp(0, 255).to(kind)
        if channels_last:
            rows = rows.movedim(1, 3)  # [B, H, W, 3]
        filled = torch.cat([rows, rows[:1].expand(-len(rows) % at_once, -1, -1, -1)])
        parts = [
            torch.from_numpy(session.run([output], {first.name: part.numpy()})[0])
            for part in filled.contiguous().split(at_once)
        ]
        return torch.cat(parts)[: len(rows)]

    return Opened(forward, height, kind == torch.uint8)


def open_torchscript(path: Path, device: torch.device) -> Opened:
    """The network of a TorchScript file, which takes images of any size [B, 3, H, W] float32 and
    gives vectors [B, D]. Raises UserError for other files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer formats: published networks are in this one
            model = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        remedy = "give a file that torch.jit.save wrote"
        raise UserError(path, "no network of TorchScript", remedy) from error
    return Opened(model)
