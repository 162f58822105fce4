"""How much memory there is, and how much of it a search may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

LEAST = 2**26  # bytes of the budget where the process already exceeds what was asked for


def search_budget(requested: int | None, device: torch.device) -> int:
    """Bytes that blocks and embeddings may take: half of what is free, or what is asked for.

    On a CPU `requested` bounds the whole process: its present memory is subtracted."""
    if requested is None:
        return free_memory(device) // 2
    if device.type == "cuda":
        return min(requested, free_memory(device))
    return max(requested - resident_memory(), LEAST)


def free_memory(device: torch.device) -> int:
    """Bytes that are free: on a CUDA device its own memory, else the machine's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available  # with the file cache, which can be released


def resident_memory() -> int:
    """Bytes of memory that this process holds now."""
    return psutil.Process().memory_info().rss


def as_size(count: float) -> str:
    """A size for people: `as_size(3 * 2**30) == "3.0G"`, `as_size(2**20) == "1M"`."""
    return f"{count / 2**30:.1f}G" if count >= 2**29 else f"{count / 2**20:.0f}M"
