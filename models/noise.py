"""Random numbers that depend on a seed and a label alone, never on what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def mix(seed: int, *label: object) -> int:
    """A seed in 0 .. 2^63 - 1 for a label such as ("step", 7); other labels give independent seeds.

    >>> mix(3407, "step", 1) == mix(3407, "step", 1), mix(3407, "step", 1) == mix(3407, "step", 2)
    (True, False)"""
    text = ":".join(map(str, (seed, *label)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class SeededNoise:
    """Standard normal noise; row i depends on seeds[i] and on the number of earlier draws.

    Drawn on the CPU: CUDA and MPS turn the same seed into other numbers."""

    def __init__(self, seeds: Sequence[int], shape: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self._shape = tuple(shape)

    def draw(self) -> Tensor:
        """The next noise, [len(seeds), *shape]."""
        # torch fills 16 numbers at a time, and a shorter tensor by another algorithm. Each row is
        # drawn by itself, so its numbers never depend on the other rows.
        return torch.stack([torch.randn(self._shape, generator=g) for g in self._generators])


def image_key(image: Tensor) -> str:
    """16 hex digits of the sha256 of an image [C, H, W], float32 on the CPU.

    Noise is seeded by this key, so that it depends on the image and not on its place in a file."""
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]
