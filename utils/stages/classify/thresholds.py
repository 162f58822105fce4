"""Thresholds delta_m and delta_s from real images, with a known error rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from utils.cli.errors import UserError
from utils.data.datasets import open_images
from utils.data.subsets import held_out, permutation
from utils.descriptors.embedders import Embedder
from utils.metrics.intervals import error_rate_interval
from utils.metrics.nearest import SearchSettings, nearest
from utils.stages.classify.held_out import HeldOut, nearest_in_sets, number_of_sets

ROUNDING = 1e-9  # 0.29 * 100 is 28.999...96, which counts as 29


@dataclass(frozen=True)
class Calibration:
    """The thresholds of one K and what they were taken from.

    delta_m is the rank-th smallest of the distances of `held_out` real images to `references`
    real images (the K training images; for `pooled` P images, the same for all K). So a new real
    image is called memorized with a probability that lies in error_low to error_high (95 %).
    delta_s is the neighbours_rank-th smallest nearest-neighbour distance of `neighbours` real
    images, in sets as large as that of the samples."""

    delta_m: float
    delta_s: float
    references: int
    held_out: int
    rank: int
    error_low: float
    error_high: float
    neighbours: int
    neighbours_rank: int


def calibrate(real: HeldOut, k: int, n: int, rate: float) -> Calibration:
    """The thresholds at which a share `rate` of new real images would be misclassified.

    real: the held-out images of a model of K = k; n: its samples. Each K has its own delta_m: a
    new image lies the farther from the training images the fewer there are. Raises UserError
    where there are too few images for this rate, or for one set of n."""
    if not len(real.within):
        raise too_few_for_sets(k + len(real.near), n)
    return _thresholds(real.near[:, 0], real.within, rate, k, f"at K = {k}")


def too_few_for_sets(count: int, n: int) -> UserError:
    """The error where there are no n real images to compare with each other."""
    if n < 2:  # a single real image has no neighbour
        return UserError("--criterion calibrated", f"{n} sample", "judge 2 samples or more")
    remedy = f"judge {count} samples or fewer, or choose --criterion ratio"
    return UserError("--criterion calibrated", f"{n} samples, {count} real images", remedy)


def check_held_out(args: Mapping, rate: float, n: int) -> None:
    """Raises UserError where `calibrate` would for want of images; reads none of them."""
    count, k = len(held_out(args).positions), args["train"]["train_size"]
    sets = number_of_sets(k, count, n)
    if not sets:
        raise too_few_for_sets(k + count, n)
    for images, what in ((count, "held-out images"), (sets * n, "real images as neighbours")):
        if math.floor(rate * (images + 1) + ROUNDING) < 1:
            raise _too_few(rate, 1 / (images + 1), f"{images} {what} at K = {k}")


def pooled(
    args: Mapping,
    embedder: Embedder,
    rate: float,
    pool: int,
    n: int,
    settings: SearchSettings | None = None,
) -> Calibration:
    """One pair of thresholds for all K: delta_m from the distances of held-out images, perm[P:]
    or the official test split where P = N, to the P images perm[:P].

    At K < P fewer real images than `rate` are called memorized. delta_s is from sets of n images
    of perm. Raises UserError where there are too few real images."""
    images = open_images(args)  # once: a folder may change in between
    pool = min(pool, len(images))  # published checkpoints with K > N hold the whole data set
    source = held_out({**args, "train": {**args["train"], "train_size": pool, "subset": "first"}})
    perm = permutation(len(images), args["train"]["global_seed"])
    known, new = images.read(perm[:pool]), source.read()
    sets = number_of_sets(0, len(images), n)
    if not sets:
        raise too_few_for_sets(len(images), n)
    within = nearest_in_sets(embedder, images.read(perm), sets, n, settings)
    to_pool, _ = nearest(embedder, new, known, 1, settings=settings)
    return _thresholds(to_pool[:, 0], within, rate, pool, f"outside a pool of {pool}")


def _thresholds(
    to_known: np.ndarray, within: np.ndarray, rate: float, references: int, where: str
) -> Calibration:
    copies = int((to_known == 0).sum())
    if copies > rate * (len(to_known) + 1):
        problem = f"{copies} of {len(to_known)} held-out images {where} that are training images"
        raise UserError("--criterion calibrated", problem, "remove the duplicates from the data")
    pairs = []
    for distances, what in ((to_known, "held-out images"), (within, "real images as neighbours")):
        try:
            pairs.append(conformal_threshold(distances, rate))
        except ValueError as error:
            found = f"{np.size(distances)} {what} {where}"
            raise _too_few(rate, smallest_rate(distances), found) from error
    (delta_m, rank), (delta_s, neighbours_rank) = pairs
    low, high = error_rate_interval(rank, len(to_known))
    counts = len(to_known), rank, low, high, within.size, neighbours_rank
    return Calibration(delta_m, delta_s, references, *counts)


def _too_few(rate: float, smallest: float, found: str) -> UserError:
    rounded = math.ceil(smallest * 1e4) / 1e4  # up, so that the number named is accepted
    remedy = f"choose {rounded:g} or more" if rounded < 1 else "use a larger data set"
    return UserError("--false-positive-rate", f"{rate:g} with {found}", remedy)


def conformal_threshold(distances: ArrayLike, q: float) -> tuple[float, int]:
    """The largest of n distances with at most floor(q (n + 1)) of them at or below it, and how
    many these are.

    Without ties that is the floor(q (n + 1))-th smallest: a further distance of the same source
    lies at or below it with probability floor(q (n + 1)) / (n + 1) <= q, exactly and for every n,
    since all n + 1 are exchangeable (a conformal p-value of at most q). With ties it is lower.

    distances: any shape, n values >= 0, finite; 0 < q < 1. Raises ValueError where they are not,
    or where no distance qualifies; `smallest_rate` gives the smallest q that works. Source: Vovk,
    Gammerman and Shafer 2005, Algorithmic Learning in a Random World, section 2.3.

    >>> conformal_threshold([4.0, 3.0, 2.0, 1.0], 0.4)
    (2.0, 2)
    >>> conformal_threshold([1.0, 2.0, 2.0, 3.0], 0.4)
    (1.0, 1)
    """
    if not 0 < q < 1:
        raise ValueError(f"q: found {q}; give a share between 0 and 1")
    values = _checked(distances)
    n = len(values)
    below = min(math.floor(q * (n + 1) + ROUNDING), n)  # how many may lie at or below it
    # Where the next value is tied with the last allowed one, both are out.
    count = below if below == n else int(np.searchsorted(values, values[below], side="left"))
    if not count:
        raise ValueError(f"q: found {q} with {n} distances; give {smallest_rate(values)} or more")
    return float(values[count - 1]), count


def smallest_rate(distances: ArrayLike) -> float:
    """The smallest q for which `conformal_threshold` has an answer.

    >>> smallest_rate([1.0, 2.0, 3.0, 4.0])
    0.2
    """
    values = _checked(distances)
    return float(np.sum(values == values[0]) / (len(values) + 1))


def _checked(distances: ArrayLike) -> np.ndarray:
    """Distances [n], ascending; refused where there are none, or not finite, or negative."""
    values = np.sort(np.asarray(distances), axis=None)
    if not len(values) or not np.isfinite(values).all() or values[0] < 0:
        raise ValueError("distances: found none, negative or infinite ones; give finite ones >= 0")
    return values
