"""The nested training subsets of K images, and the held-out images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.datasets import ImageSet, labels_of, open_images, setting
from utils.data.origin import check_origin, origin_of


def permutation(size: int, seed: int) -> Tensor:
    """perm of 0 .. size - 1, int64: the order in which images are taken from a data set."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def split_indices(
    size: int, k: int, valid_size: int, seed: int, subset: str = "first"
) -> tuple[Tensor, Tensor]:
    """Positions of the training and validation images, int64.

    first:   perm[:K] and perm[K : K + V]; with K >= size all in natural order and perm[-V:]
    second:  perm[K : 2K] and perm[2K : 2K + V], which shares no training image with the first

    So subsets are nested, and V does not change the training images. There are fewer than V
    validation images where the data set ends. Raises UserError where the second subset has fewer
    than K images."""
    perm = permutation(size, seed)
    if subset == "second":
        if 2 * k > size:
            problem = f"second, with K = {k} of {size} images"
            raise UserError("--subset", problem, f"choose --train-size {size // 2} or less")
        return perm[k : 2 * k], perm[2 * k : 2 * k + valid_size]
    if k >= size:
        return torch.arange(size), perm[max(0, size - valid_size) :]
    return perm[:k], perm[k : k + valid_size]


@dataclass(frozen=True)
class Subset:
    """The K training images of a model, in the order of all stored indices."""

    images: Tensor  # uint8 [K, C, H, W]
    indices: Tensor  # int64 [K], positions in the data set
    fingerprint: str
    origin: dict[str, Any]  # what `args` record of them, see `origin_of`


def training_subset(args: Mapping) -> Subset:
    """The training images of a model with these resolved options (`data`, `train`, `model`).

    A published checkpoint may have a larger K than there are images: then all are used, and a
    line says so. Raises UserError where the data set is absent or of another size, or where args
    record that the model was trained on other images."""
    image_set = open_images(args)
    indices, _ = _split(args, len(image_set))
    k, seed, subset = _settings(args, "train_size", "global_seed", "subset")
    if k > len(image_set):
        count = len(image_set)
        print(f"{image_set.name}: K = {k}, but there are {count} images: all of them are used")
    images = image_set.read(indices)
    origin = origin_of(image_set, indices, images)
    check_origin(args, origin)
    named = fingerprint(image_set.name, seed, len(indices), images, subset)
    return Subset(images, indices, named, origin)


def validation_subset(args: Mapping) -> Tensor:
    """The held-out images of a model with these options: uint8 [V, C, H, W]."""
    images = open_images(args)
    return images.read(_split(args, len(images))[1])


def class_labels(args: Mapping) -> tuple[Tensor, Tensor]:
    """The classes of the training and of the validation images: int64 [K] and [V].

    Raises UserError where the data set has no classes."""
    images = open_images(args)
    labels = labels_of(images)
    train, valid = _split(args, len(images))
    return labels[train], labels[valid]


@dataclass(frozen=True)
class HeldOutImages:
    """Where the images lie that a model was not trained on: positions int64 [n] in image_set.

    first: the place of the first one among all images, in the order of perm; those of the test
    part follow after all others. So one image has one place at every K."""

    image_set: ImageSet
    positions: Tensor
    first: int

    def read(self, count: int | None = None) -> Tensor:
        """The first `count`, or all: uint8 [n, C, H, W]."""
        return self.image_set.read(self.positions[:count])


def held_out(args: Mapping, both: bool = False) -> HeldOutImages:
    """The images that a model with these options was not trained on.

    perm[K:]; perm[2K:] for a model on the second subset, and where `both` models are compared.
    Without such images those of the official test part. Raises UserError where there is neither."""
    images = open_images(args)
    k, seed, subset = _settings(args, "train_size", "global_seed", "subset")
    used = 2 * k if both or subset == "second" else k
    if used < len(images):
        return HeldOutImages(images, permutation(len(images), seed)[used:], used)
    try:
        test = open_images(args, "test")
    except UserError as error:
        problem = f"{k}, of {len(images)} images without a test part"
        raise UserError("held-out images: K", problem, "choose a smaller K") from error
    return HeldOutImages(test, torch.arange(len(test)), len(images))


def held_out_images(args: Mapping, count: int, both: bool = False) -> Tensor:
    """The first of `held_out`: uint8 [n, C, H, W], n <= count. Raises UserError as it does."""
    return held_out(args, both).read(count)


def _split(args: Mapping, size: int) -> tuple[Tensor, Tensor]:
    return split_indices(
        size, *_settings(args, "train_size", "valid_size", "global_seed", "subset")
    )


def _settings(args: Mapping, *names: str) -> list:
    """Options of the section `train`, or their defaults."""
    return [setting(args, "train", name) for name in names]


def fingerprint(name: str, seed: int, k: int, images: Tensor, subset: str = "first") -> str:
    """A line that identifies a subset: data set, seed, K and a hash of the pixels."""
    digest = hashlib.sha256(images.cpu().contiguous().numpy().data).hexdigest()[:16]
    return f"{name} seed={seed} K={k} {subset} sha256={digest}"
