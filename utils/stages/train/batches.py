"""Which images a training step sees: a function of (seed, step) alone."""

from __future__ import annotations

import torch
from torch import Tensor

from models.noise import mix

_last_epoch: tuple[tuple[int, int, int], Tensor] | None = None


def batch_indices(size: int, batch: int, step: int, seed: int) -> Tensor:
    """Which of `size` images step `step` (from 0) trains on: int64 [batch].

    The images are shuffled afresh each epoch and laid end to end, and step n takes the places
    n batch .. (n + 1) batch - 1. So every image is drawn equally often whatever the batch, a
    batch larger than the set repeats images, and nothing depends on earlier steps."""
    first = step * batch
    epochs = range(first // size, (first + batch - 1) // size + 1)
    line = torch.cat([_epoch(size, epoch, seed) for epoch in epochs])
    offset = first - epochs[0] * size
    return line[offset : offset + batch]


def _epoch(size: int, epoch: int, seed: int) -> Tensor:
    global _last_epoch  # one permutation serves many steps
    key = (size, epoch, seed)
    if _last_epoch is None or _last_epoch[0] != key:
        generator = torch.Generator().manual_seed(mix(seed, "epoch", epoch))
        _last_epoch = (key, torch.randperm(size, generator=generator))
    return _last_epoch[1]
