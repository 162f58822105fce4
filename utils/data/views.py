"""Images that are read when they are needed, a block at a time: parts, unions, transformed ones.

Whatever reads images in blocks takes a tensor as well as one of these."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

DIGEST_BYTES = 16
HASHED = 1024  # images read at once to be hashed
Positions = slice | Sequence[int] | np.ndarray | Tensor


class Images(Protocol):
    """N images [C, H, W] of one shape. A tensor [N, C, H, W] is one."""

    ndim: int  # 4
    shape: Sequence[int]  # (N, C, H, W)

    def __len__(self) -> int: ...

    def __getitem__(self, key: Positions) -> Tensor:
        """A block [n, C, H, W], uint8 or float32 in [-1, 1]."""
        ...


def positions_of(key: Positions, count: int) -> np.ndarray:
    """int64 [n]: the positions 0 .. count - 1 that an index names."""
    return np.arange(count)[key] if isinstance(key, slice) else np.asarray(key, np.int64)


class View:
    """Some of the images, each changed by `change` if there is one.

    positions [n]: which of images; None for all. change: a block [n, C, H, W] to a block of the
    same n."""

    ndim = 4

    def __init__(
        self,
        images: Images,
        positions: np.ndarray | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._images, self._positions, self._change = images, positions, change
        count = len(images) if positions is None else len(positions)
        example = images[:1] if change is None else change(images[:1])
        self.shape = (count, *example.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Positions) -> Tensor:
        if self._positions is not None:
            key = self._positions[key]
        block = self._images[key]
        return block if self._change is None else self._change(block)


class Union:
    """The images of several sets of one shape and type, one set after another."""

    ndim = 4

    def __init__(self, *sets: Images) -> None:
        self._sets = sets
        self._ends = np.cumsum([len(images) for images in sets]).tolist()
        self.shape = (self._ends[-1], *sets[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Positions) -> Tensor:
        wanted = positions_of(key, len(self))
        result: Tensor | None = None
        which = np.array([bisect_right(self._ends, i) for i in wanted.tolist()], np.int64)
        for number in np.unique(which):
            here = np.flatnonzero(which == number)
            first = self._ends[number] - len(self._sets[number])
            block = self._sets[number][wanted[here] - first]
            if result is None:
                result = block.new_empty((len(wanted), *block.shape[1:]))
            result[torch.from_numpy(here)] = block.to(result.dtype)
        return self._sets[0][:0] if result is None else result


def image_digests(images: Images) -> list[bytes]:
    """16 bytes of the sha256 of each image [C, H, W], with its type and shape."""
    digests: list[bytes] = []
    for start in range(0, len(images), HASHED):
        block = images[start : start + HASHED]
        kind, pixels = f"{block.dtype} {list(block.shape[1:])}".encode(), block.contiguous().cpu()
        hashed = (hashlib.sha256(kind + image.tobytes()) for image in pixels.numpy())
        digests += [one.digest()[:DIGEST_BYTES] for one in hashed]
    return digests
