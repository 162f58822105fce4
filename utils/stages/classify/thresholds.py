"""Calibrate delta_m and delta_s on real images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.datasets import ImageSet, open_images
from utils.data.subsets import held_out_images, permutation
from utils.metrics.embedders import Embedder
from utils.metrics.nearest import SearchSettings, nearest

DRAWN = 4096  # real images that delta_s is computed from, if the data set has as many


@dataclass(frozen=True)
class Calibration:
    """The thresholds of a sweep, and the numbers of images that they were computed from."""

    delta_m: float
    delta_s: float
    pool: int  # P, real images that stand for a training set
    held_out: int  # real images that were compared with the pool
    n: int  # real images compared with each other: the number of samples to classify


def calibrate(
    args: Mapping,
    embedder: Embedder,
    rate: float,
    pool: int,
    n: int,
    settings: SearchSettings | None = None,
) -> Calibration:
    """Thresholds at which a share `rate` of real images would be misclassified.

    perm runs over all N images of the data set; the pool is perm[:P]. delta_m is the
    rate-quantile of the distance from held-out images (perm[P:], or the official test split
    where P = N) to the pool: a new image is called memorized with probability `rate` at K = P,
    and at most that at smaller K. delta_s is the rate-quantile of the nearest-neighbour distance
    within n real images: that distance shrinks as n grows, so n is the number of samples to
    classify. Raises UserError where there are too few real images."""
    images = open_images(args)  # once: a folder may change in between
    pool, held_out = split_pool(args, rate, pool, n, images)
    perm = permutation(len(images), args["train"]["global_seed"])
    known = images.read(perm[:pool])
    to_pool, _ = nearest(embedder, held_out, known, 1, settings=settings)
    copies = int((to_pool == 0).sum())
    if copies > rate * len(to_pool):
        problem = f"{copies} of {len(to_pool)} held-out images that are in the pool too"
        remedy = "they cannot calibrate; use a smaller --pool-size or remove duplicates"
        raise UserError("--criterion calibrated", problem, remedy)
    # One draw of n images is too few for a rate near 1 / n: use several disjoint draws.
    count = max(1, min(len(images), DRAWN) // n) * n
    drawn = torch.cat([known[:count], held_out[: max(0, count - pool)]])  # perm[:count]
    within = [
        nearest(embedder, draw, draw, 1, exclude_self=True, settings=settings)[0]
        for draw in drawn.split(n)
    ]
    delta_m, delta_s = calibrated_thresholds(to_pool, np.stack(within), rate)
    return Calibration(delta_m, delta_s, pool, len(held_out), n)


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


def split_pool(
    args: Mapping, rate: float, pool: int, n: int, images: ImageSet | None = None
) -> tuple[int, Tensor]:
    """The size of the pool and the held-out images, uint8 [n, C, H, W].

    n: samples to classify. images: the opened data set of args. Raises UserError where there are
    fewer real images than `calibrate` needs, and for a single sample."""
    images = images or open_images(args)
    size = len(images)
    if n < 2:  # a single real image has no neighbour
        raise UserError("--criterion calibrated", f"{n} sample", "judge 2 samples or more")
    pool = min(pool, size)  # published checkpoints with K > N hold the whole data set
    if n > size:
        remedy = f"judge {size} samples or less, or choose another --criterion"
        raise UserError("--criterion calibrated", f"{n} samples, {size} real images", remedy)
    perm = permutation(size, args["train"]["global_seed"])
    source = images if pool < size else open_images(args, "test")
    held_out = source.read(perm[pool:] if pool < size else range(len(source)))
    if len(held_out) * rate < 1 - 1e-9:
        problem = f"{len(held_out)} held-out images for a rate of {rate:g}"
        remedy = f"leave {math.ceil(1 / rate)} or more out of the pool, or raise the rate"
        raise UserError(f"--pool-size {pool}", problem, remedy)
    return pool, held_out


def calibrated_thresholds(
    held_out_to_pool: ArrayLike, real_nearest: ArrayLike, q: float
) -> tuple[float, float]:
    """(delta_m, delta_s): each misclassifies at most a share q of new images.

        delta_m  q-quantile of the distance from held-out real images to the pool of P
        delta_s  q-quantile of the nearest-neighbour distance within n real images

    n is the number of samples to classify: that distance shrinks as n grows. Distances from
    several draws of n images may be given together. Any shapes, 0 < q < 1. Raises UserError where
    there are too few (below 1 / q) to estimate a share q. Source: `quantile_threshold`."""
    _refuse_too_few(held_out_to_pool, q, "held-out images", "choose a smaller --pool-size")
    _refuse_too_few(real_nearest, q, "real images as neighbours", "use a larger data set")
    return quantile_threshold(held_out_to_pool, q), quantile_threshold(real_nearest, q)


def _refuse_too_few(distances: ArrayLike, q: float, what: str, remedy: str) -> None:
    smallest = smallest_share(distances)
    if q < smallest * (1 - 1e-9):
        rounded = math.ceil(smallest * 1e4) / 1e4  # up, so that the number named is accepted
        remedy += f", or {rounded:g} or more" if rounded < 1 else ""
        raise UserError("--false-positive-rate", f"{q:g} with {np.size(distances)} {what}", remedy)


ROUNDING = 1e-9  # 0.29 * 100 is 28.999...96, which counts as 29


def smallest_share(distances: ArrayLike) -> float:
    """The smallest q for which `quantile_threshold` has an answer: the share of the minimum.

    >>> smallest_share([1.0, 2.0, 3.0, 4.0])
    0.25
    """
    values = _checked(distances)
    return float(np.mean(values == values[0]))


def quantile_threshold(distances: ArrayLike, q: float) -> float:
    """The largest of the distances that at most a share q of them is less than or equal to.

        max { d in distances : #(distances <= d) <= q n }

    Without ties that is the floor(q n)-th smallest. A further distance from the same source
    then lies at or below it with probability floor(q n) / (n + 1) <= q (they are exchangeable);
    numpy's quantile methods promise neither (`lower` takes a share 1 / n from n < 1 / q).

    distances: any shape, n values >= 0, finite; 0 < q < 1. Raises ValueError where they are not,
    or where even the smallest distance makes up more than q: too few distances (n < 1 / q), or
    ties; `smallest_share` gives the smallest q that works.

    >>> quantile_threshold([4.0, 3.0, 2.0, 1.0], 0.5)
    2.0
    >>> quantile_threshold([1.0, 2.0, 2.0, 3.0], 0.5)
    1.0
    """
    if not 0 < q < 1:
        raise ValueError(f"q: found {q}; give a share between 0 and 1")
    values = _checked(distances)
    n = len(values)
    below = min(math.floor(q * n + ROUNDING), n - 1)  # how many may lie at or below the threshold
    # Only values smaller than values[below] are allowed, which excludes its ties too.
    allowed = values[: np.searchsorted(values, values[below], side="left")]
    if not len(allowed):
        raise ValueError(f"q: found {q} with {n} distances; give {smallest_share(values)} or more")
    return float(allowed[-1])


def _checked(distances: ArrayLike) -> np.ndarray:
    """Distances [n], ascending; refused where there are none, or not finite, or negative."""
    values = np.sort(np.asarray(distances), axis=None)
    if not len(values) or not np.isfinite(values).all() or values[0] < 0:
        raise ValueError("distances: found none, negative or infinite ones; give finite ones >= 0")
    return values
