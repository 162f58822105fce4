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


def shown_positions(size: int, times: int) -> Tensor:
    """The images that an epoch shows: all of `size`, and each of the first r = ceil(size / 10)
    `times` times: int64 [size + (times - 1) r]; 0 .. size - 1 for times = 1."""
    return torch.cat([torch.arange(size), torch.arange(-(-size // 10)).repeat(times - 1)])


def mirrored(images: Tensor, step: int, seed: int) -> Tensor:
    """Images [B, C, H, W], each mirrored left to right with probability 1/2, by (seed, step)."""
    generator = torch.Generator().manual_seed(mix(seed, "flip", step))
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(3), images)


def _epoch(size: int, epoch: int, seed: int) -> Tensor:
    global _last_epoch  # one permutation serves many steps
    key = (size, epoch, seed)
    if _last_epoch is None or _last_epoch[0] != key:
        generator = torch.Generator().manual_seed(mix(seed, "epoch", epoch))
        _last_epoch = (key, torch.randperm(size, generator=generator))
    return _last_epoch[1]
