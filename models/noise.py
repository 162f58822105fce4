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


_last_epoch: tuple[tuple[int, int, int], Tensor] | None = None


def image_key(image: Tensor) -> str:
    """What an image's noise depends on: its content, so that its place in a file does not count.

    image: [C, H, W] float32 on the CPU. 16 hex digits of its sha256."""
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]
