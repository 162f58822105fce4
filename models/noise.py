"""Randomness that depends on a seed and a place alone, never on what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def mix(seed: int, *place: object) -> int:
    """A seed in 0 .. 2^63 - 1 for a place, such as ("step", 7); other places are independent.

    >>> mix(3407, "step", 1) == mix(3407, "step", 1), mix(3407, "step", 1) == mix(3407, "step", 2)
    (True, False)"""
    text = ":".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class SeededNoise:
    """Standard normal noise in which row i depends on seeds[i], and on how often it was asked.

    Drawn on the CPU: CUDA and MPS turn the same seed into other numbers."""

    def __init__(self, seeds: Sequence[int], shape: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self._shape = tuple(shape)

    def draw(self) -> Tensor:
        """The next noise, [len(seeds), *shape]."""
        # torch fills 16 numbers at a time and a shorter tensor by another algorithm: the row of
        # one image has one shape here, so its numbers never depend on its companions.
        return torch.stack([torch.randn(self._shape, generator=g) for g in self._generators])


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


_last_epoch: tuple[tuple[int, int, int], Tensor] | None = None


def _epoch(size: int, epoch: int, seed: int) -> Tensor:
    global _last_epoch  # one permutation serves many steps
    key = (size, epoch, seed)
    if _last_epoch is None or _last_epoch[0] != key:
        generator = torch.Generator().manual_seed(mix(seed, "epoch", epoch))
        _last_epoch = (key, torch.randperm(size, generator=generator))
    return _last_epoch[1]
