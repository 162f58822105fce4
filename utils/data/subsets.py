"""The nested training subsets of K images, and the held-out images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.datasets import open_images, setting


def permutation(size: int, seed: int) -> Tensor:
    """perm of 0 .. size - 1, int64: the order in which a data set is used up."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def split_indices(
    size: int, k: int, valid_size: int, seed: int, subset: str = "first"
) -> tuple[Tensor, Tensor]:
    """Positions of the training and validation images, int64.

    first:   perm[:K] and perm[K : K + V]; with K >= size all in natural order and perm[-V:]
    second:  perm[K : 2K] and perm[2K : 2K + V], which shares no training image with the first

    So subsets are nested, and V never changes the training images. Fewer than V are left where
    the data set ends. Raises UserError where the second subset has no K images."""
    perm = permutation(size, seed)
    if subset == "second":
        if 2 * k > size:
            found = f"second, with K = {k} of {size} images"
            raise UserError("--subset", found, f"choose --train-size {size // 2} or less")
        return perm[k : 2 * k], perm[2 * k : 2 * k + valid_size]
    if k >= size:
        return torch.arange(size), perm[max(0, size - valid_size) :]
    return perm[:k], perm[k : k + valid_size]


@dataclass(frozen=True)
class Subset:
    """The K training images of a model, in the order that every stored index counts."""

    images: Tensor  # uint8 [K, C, H, W]
    indices: Tensor  # int64 [K], positions in the data set
    fingerprint: str


def training_subset(args: Mapping) -> Subset:
    """The images that a model with these resolved options (`data`, `train`, `model`) learns.

    A published checkpoint may tell of a larger K than there are images: then all are used, and a
    line says so. Raises UserError where the data set is absent or misfits."""
    images = open_images(args)
    k, seed, subset = (setting(args, "train", n) for n in ("train_size", "global_seed", "subset"))
    indices, _ = _split(args, len(images))
    if k > len(images):
        print(f"{images.name}: K = {k}, but there are {len(images)} images: all of them are used")
    read = images.read(indices)
    return Subset(read, indices, fingerprint(images.name, seed, len(indices), read, subset))


def validation_subset(args: Mapping) -> Tensor:
    """The held-out images of a model with these options: uint8 [V, C, H, W]."""
    images = open_images(args)
    return images.read(_split(args, len(images))[1])


def held_out_images(args: Mapping, count: int, both: bool = False) -> Tensor:
    """Real images that a model with these options has not learnt: uint8 [n, C, H, W], n <= count.

    perm[K:], or perm[2K:], which its twin on the second subset has not learnt either (both, and
    for such a twin); else of the official test part. Raises UserError where there is neither."""
    images = open_images(args)
    names = ("train_size", "global_seed", "subset")
    k, seed, subset = (setting(args, "train", name) for name in names)
    known = 2 * k if both or subset == "second" else k
    if known < len(images):
        return images.read(permutation(len(images), seed)[known : known + count])
    try:
        test = open_images(args, "test")
    except UserError as error:
        found = f"{k}, of {len(images)} images without a test part"
        raise UserError("held-out images: K", found, "choose a smaller K") from error
    return test.read(range(min(count, len(test))))


def _split(args: Mapping, size: int) -> tuple[Tensor, Tensor]:
    names = ("train_size", "valid_size", "global_seed", "subset")
    return split_indices(size, *(setting(args, "train", name) for name in names))


def fingerprint(name: str, seed: int, k: int, images: Tensor, subset: str = "first") -> str:
    """A line that tells one subset from another: data set, seed, K and a hash of the pixels."""
    digest = hashlib.sha256(images.cpu().contiguous().numpy().data).hexdigest()[:16]
    return f"{name} seed={seed} K={k} {subset} sha256={digest}"
