"""Where to compute and in which number format."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from utils.cli.errors import UserError
from utils.cli.launcher import launched
from utils.cli.options.run import RunOptions


def pick_device(name: str) -> torch.device:
    """The device of `--device`: auto takes CUDA, then MPS, then the CPU.

    Each rank of a machine takes a CUDA device of its own where it sees several (srun may show
    each only its own one). Raises UserError where the device is not here."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        count, rank = torch.cuda.device_count(), launched().local_rank
        if rank >= count > 1:
            remedy = "start one rank for each device of a machine"
            raise UserError("--device", f"{name}: {rank + 1} ranks, {count} devices", remedy)
        return torch.device("cuda", rank if count > 1 else 0)
    if name == "auto":
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    available = {"cpu": True, "cuda": count > (device.index or 0)}
    if not available.get(device.type, torch.backends.mps.is_available()):
        raise UserError("--device", name, "choose a device of this machine, or auto")
    return device


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The format of products: auto takes bfloat16 where the hardware multiplies it.

    That is CUDA from compute capability 8, and CPUs with AMX or AVX-512 BF16. Weights, averages
    and optimizers stay float32 in any case; what it changes: docs/speed.md."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        # Private in torch, and absent from old versions: then they are taken to be absent here.
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = device.type == "cpu" and any(
            getattr(torch.cpu, name, lambda: False)() for name in names
        )
    return torch.bfloat16 if fast else torch.float32


def float32_for_auto(precision: str) -> str:
    """float32 for auto: for what is a small difference of large numbers, as an energy is."""
    return "float32" if precision == "auto" else precision


def processor_name(device: torch.device) -> str:
    """The name of the processor: `NVIDIA H100 80GB HBM3`, `AMD EPYC`, `arm`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # Linux alone has this file
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def prepare(run: RunOptions) -> torch.device:
    """The device of a stage, with the number format and determinism that were asked for."""
    device = pick_device(run.device)
    if run.deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    elif device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return device


def compiled(network: nn.Module, choice: str, device: torch.device) -> nn.Module:
    """The network under torch.compile, where `--compile` says so; auto: on CUDA."""
    on = choice == "on" or (choice == "auto" and device.type == "cuda")
    return torch.compile(network) if on else network
