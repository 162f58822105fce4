"""Distances of held-out real images: what thresholds are calibrated on, and the control.

The control answers: which share of real images, that the model has not seen, does a rule call
memorized, or spurious? A share of samples means little without it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.datasets import open_images
from utils.data.subsets import held_out, held_out_images, permutation
from utils.descriptors.embedders import Embedder
from utils.evidence.duplicates import NEAR_DEPTH, nearest_different
from utils.metrics.nearest import SearchSettings, nearest

DRAWN = 4096  # real images, at most, that are compared with each other
FEWEST_SETS = 4  # of N real images: the closest pair of a single set says little


@dataclass(frozen=True)
class HeldOut:
    """Distances of the M held-out images of one K, in the metric.

    near [M, 2]: to the two nearest different ones of the K training images ([M, 1] for K = 1),
    which are no duplicates of each other.
    within [D, N]: of the images in D sets of N, each to its nearest other one in the same set.
    That distance shrinks as N grows, so N is the number of samples. The first sets are the last
    held-out images, from the end; where these fill fewer than FEWEST_SETS, training images follow
    (no model takes part in this distance). D is 0 where there are fewer than N images, or N = 1.
    first: see `HeldOutImages`."""

    near: np.ndarray
    within: np.ndarray
    first: int

    @property
    def control(self) -> tuple[np.ndarray, np.ndarray]:
        """near [n, 2] and within [n] of the sets without training images; n may be 0."""
        sets, n = self.within.shape
        sets = min(sets, len(self.near) // n)
        last = self.near[len(self.near) - sets * n :]
        columns = self.near.shape[1]
        by_set = last.reshape(sets, n, columns)[::-1]  # the last images are the first set
        return by_set.reshape(sets * n, columns), self.within[:sets].ravel()


def measure_held_out(
    args: Mapping,
    embedder: Embedder,
    train: Tensor,
    n: int,
    settings: SearchSettings | None = None,
    groups: np.ndarray | None = None,
) -> HeldOut | None:
    """The distances of all images that a model of these args has not seen; None without any.

    train: its K training images, uint8 [K, C, H, W]. n: the number of samples to classify. groups:
    of duplicates among them, `duplicate_groups`; None for none."""
    try:
        source = held_out(args)
    except UserError as error:
        print(f"K = {args['train']['train_size']}: no control: {error}", flush=True)
        return None
    images = source.read()
    groups = np.arange(len(train)) if groups is None else groups
    depth = 2 if len(np.unique(groups)) == len(groups) else NEAR_DEPTH
    near = nearest_different(*nearest(embedder, images, train, depth, settings=settings), groups)
    sets = number_of_sets(len(train), len(images), n)
    within = nearest_in_sets(embedder, torch.cat([train, images]), sets, n, settings)
    return HeldOut(near, within, source.first)


def number_of_sets(k: int, held_out: int, n: int) -> int:
    """D: how many sets of n are made of k training and so many held-out images."""
    if n < 2:  # a single image has no other one
        return 0
    new, every, most = held_out // n, (k + held_out) // n, max(1, DRAWN // n)
    return min(most, max(new, min(FEWEST_SETS, every)))


def nearest_in_sets(
    embedder: Embedder, images: Tensor, sets: int, n: int, settings: SearchSettings | None = None
) -> np.ndarray:
    """The distance of each image to its nearest other one in the same set of n: float32 [D, n].

    The sets are disjoint, and taken from the end of images."""
    within = [np.empty((0, n), np.float32)]
    for last in range(len(images), len(images) - sets * n, -n):
        part = images[last - n : last]
        within.append(nearest(embedder, part, part, 1, exclude_self=True, settings=settings)[0].T)
    return np.concatenate(within)


def unseen_images(args: Mapping, count: int) -> Tensor:
    """Real images that no model of a sweep up to K = args' train_size was trained on: uint8
    [count, C, H, W].

    From perm[K:], else from the test split. Without either, training images are used, and a line
    is printed that says so."""
    with suppress(UserError):
        images = held_out_images(args, count)
        if len(images) == count:
            return images
    images = open_images(args)
    print(f"{images.name}: no unseen images for references: {count} training images serve")
    return images.read(permutation(len(images), args["train"]["global_seed"])[-count:])
