"""Tests that tell generalization from memory: each a number with its 95 % interval and a verdict.

Plain arrays in, a `Finding` out. A verdict of memory or generalization is given where the whole
interval lies on one side of the neutral value. So samples that are really new are called memory in
2.5 % of all cases, or fewer: that is the error rate of each test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from utils.metrics.intervals import Z, mean_interval, welch_interval, wilson_interval

MEMORY, GENERALIZATION, UNDECIDED = "memory", "generalization", "undecided"
RATIO = 1 / 3
LEAST = 1e-6  # of the mean loss: a known image may have none at all
FEWEST = 20  # samples, and held-out images, of a cell that C_T counts


class Test(NamedTuple):
    """What a test is. unit: of its value. memory_below: whether values below `neutral` speak of
    memory."""

    title: str
    unit: str
    definition: str
    source: str
    misleads: str
    neutral: float
    memory_below: bool

    __test__ = False  # for pytest: no test of the code


TESTS = {
    "two-models": Test(
        "Two models agree",
        "share of seeds",
        "Share of seeds from which two models, trained on disjoint sets of K images, draw images "
        "nearer to each other than either is to its own nearest training image.",
        "Kadkhodaie et al. 2024, arXiv 2310.02557",
        "Two models that both draw new but different images count as memory; so does a network "
        "that has not been trained long enough to follow its seed.",
        0.5,
        True,
    ),
    "memorizer": Test(
        "Away from the memorizer",
        "0: memorizer, 1: truth",
        "On noised held-out images, before the data collapse: the squared error of the model "
        "against the exact memorizer, as a part of the sum of that and its error against the clean "
        "image. 0 is the memorizer, 1 the truth; mean over images.",
        "Gu et al. 2023, arXiv 2310.02664; Biroli et al. 2024, arXiv 2402.18491",
        "A network that has learnt nothing is far from both, and lies near one half; where noise "
        "is weak every denoiser that returns what it is given looks right.",
        0.5,
        True,
    ),
    "denoising-gap": Test(
        "Denoising gap",
        "part of the held-out loss",
        "How far the denoising loss of training images lies below that of held-out images, as a "
        "part of it: 1 minus the ratio of their geometric means over images and times. Welch's "
        "interval, of logarithms.",
        "Welch 1947, Biometrika 34, 28; in diffusion models: Bonnaire et al. 2025, arXiv "
        "2505.17638",
        "With enough images any difference is significant: a gap of 1 % need not show in a sample. "
        "A handful of training images may be easier than most by chance.",
        0.0,
        False,
    ),
    "c-t": Test(
        "C_T of data copying",
        "mean z",
        "Mann-Whitney z of the samples' distances to their nearest training image against those of "
        "held-out images, averaged over cells of the space of images by the samples in them.",
        "Meehan et al. 2020, arXiv 2004.05675, section 3",
        "Poor samples lie far from all images, and hide copies made beside them; distances in "
        "pixels see a shifted copy as new.",
        0.0,
        True,
    ),
    "authenticity": Test(
        "Authenticity",
        "share, less that of held-out images",
        "Share of samples that lie farther from their nearest training image than that image from "
        "its own nearest training image, minus the same share of held-out images.",
        "Alaa et al. 2022, arXiv 2102.08921, section 2; compared with held-out images by us",
        "At small K training images lie far apart, and a new image between them looks like a copy; "
        "only the comparison with held-out images sees that. Not defined for K = 1.",
        0.0,
        True,
    ),
    "ratio": Test(
        "Ratio test",
        "share, less that of held-out images",
        "Share of samples with d_1 / d_2 < 1/3, the Euclidean distances to their two nearest "
        "training images, minus the same share of held-out images.",
        "Yoon et al. 2023 (ICML workshop on structured probabilistic inference); Carlini et al. "
        "2023, arXiv 2301.13188",
        "It misses copies of images that the training set holds twice, and near copies whose "
        "distance is above a third of the next one. Not defined for K = 1.",
        0.0,
        False,
    ),
}


EXPLANATION = ("definition", "source", "misleads")  # of a test, stored beside its numbers


@dataclass(frozen=True)
class Finding:
    """What a test says: low <= value <= high, its 95 % interval. n: how many samples (pairs,
    images) it rests on. details: numbers behind it."""

    test: str
    value: float
    low: float
    high: float
    n: int
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """memory or generalization where the interval is on one side of neutral.

        A difference to held-out images that is not there is generalization too: these tests can
        only refute it. Undecided is left to those whose neutral value is half way."""
        test = TESTS[self.test]
        below, above = self.high < test.neutral, self.low > test.neutral
        memory, new = (below, above) if test.memory_below else (above, below)
        if memory:
            return MEMORY
        return GENERALIZATION if new or test.neutral == 0 else UNDECIDED


def two_models(pair: ArrayLike, first_own: ArrayLike, second_own: ArrayLike) -> Finding:
    """`two-models`, with Wilson's interval: pair < min(first_own, second_own).

    Distances [N] >= 0 in one metric, N >= 1: between the two images of each seed, and of each to
    the nearest training image of its own model. Raises ValueError for other shapes."""
    pair, first, second = (_distances(x) for x in (pair, first_own, second_own))
    if not pair.shape == first.shape == second.shape:
        raise ValueError(f"pair: found {pair.shape}, {first.shape}, {second.shape}; give one shape")
    nearer = int((pair < np.minimum(first, second)).sum())
    details = {"median pair": np.median(pair), "median own": np.median(np.minimum(first, second))}
    return _finding(
        "two-models", nearer / len(pair), *wilson_interval(nearer, len(pair)), len(pair), details
    )


def memorizer_distance(to_memorizer: ArrayLike, loss: ArrayLike) -> Finding:
    """`memorizer`: mean over images of m / (m + l), with the interval of a mean.

    Squared errors [n] of each image, n >= 2, summed over times. 1/2 where both are 0."""
    m, loss = _distances(to_memorizer), _distances(loss)
    total = m + loss
    part = np.divide(m, total, out=np.full(len(m), 0.5), where=total > 0)
    low, high = mean_interval(part)
    return _finding("memorizer", part.mean(), low, high, len(part))


def denoising_gap(train: ArrayLike, held_out: ArrayLike) -> Finding:
    """`denoising-gap` of losses [T', n] and [T', m] >= 0, one a time and image; n >= 1, m >= 2.

        1 - exp(mean_i a_i - mean_j b_j),   a_i = mean_t ln(loss of image i at t)

    Losses of images are skewed, their logarithms are not: with 8 images Welch's interval of the
    losses themselves is too short on one side. Losses below LEAST of the mean count as that. A
    single training image is given the variance of the held-out ones."""
    train, held_out = (np.asarray(x, np.float64) for x in (train, held_out))
    scale = np.concatenate([train, held_out], axis=1).mean(axis=1, keepdims=True)
    scale[scale == 0] = 1.0  # a time at which nothing is lost tells nothing
    a, b = (np.log(np.maximum(x / scale, LEAST)).mean(axis=0) for x in (train, held_out))
    value, low, high = 1 - np.exp([a.mean() - b.mean(), *(-x for x in welch_interval(a, b))])
    return _finding("denoising-gap", value, low, high, len(a), {"held out": len(b)})


def copying(
    samples: ArrayLike, held_out: ArrayLike, sample_cells: ArrayLike, held_out_cells: ArrayLike
) -> Finding:
    """`c-t`, C_T = sum_c n_c z_c / sum_c n_c over cells c with 20 or more of either.

    samples [N], held_out [M]: distances to the nearest training image; the cell of each, int.
    Under the null hypothesis each z_c is standard normal, so C_T has the standard deviation
    sqrt(sum n_c^2) / sum n_c, of which the interval is made; the smallest sets are one cell.
    details: z of all together. Source: Meehan et al. 2020, arXiv 2004.05675, eq. 3."""
    samples, held_out = _distances(samples), _distances(held_out)
    cells, others = np.asarray(sample_cells), np.asarray(held_out_cells)
    counts, scores = [], []
    for cell in np.unique(cells):
        drawn, real = samples[cells == cell], held_out[others == cell]
        if min(len(drawn), len(real)) >= FEWEST:
            counts.append(len(drawn))
            scores.append(mann_whitney_z(drawn, real))
    whole = mann_whitney_z(samples, held_out)
    if not counts:
        counts, scores = [len(samples)], [whole]
    weight = np.array(counts) / sum(counts)
    value, error = float(weight @ scores), math.sqrt(weight @ weight)
    details = {"z of all": whole, "cells": len(counts), "held out": len(held_out)}
    return _finding("c-t", value, value - Z * error, value + Z * error, sum(counts), details)


def mann_whitney_z(x: ArrayLike, y: ArrayLike) -> float:
    """The z of Mann and Whitney: negative where x tends to be smaller than y.

        z = (U - n m / 2) / sqrt(n m / 12 (n + m + 1 - sum (c^3 - c) / ((n + m) (n + m - 1))))

    U counts the pairs with x > y, ties by half; c: how often each value comes. 0 where all values
    are equal. Source: Mann and Whitney 1947, Ann. Math. Stat. 18, 50."""
    from scipy.stats import rankdata, tiecorrect

    x, y = _distances(x), _distances(y)
    n, m = len(x), len(y)
    ranks = rankdata(np.concatenate([x, y]))
    u = ranks[:n].sum() - n * (n + 1) / 2
    variance = n * m * (n + m + 1) / 12 * tiecorrect(ranks)
    return float((u - n * m / 2) / math.sqrt(variance)) if variance > 0 else 0.0


def authenticity(
    samples: ArrayLike, held_out: ArrayLike, sample_gaps: ArrayLike, held_out_gaps: ArrayLike
) -> Finding:
    """`authenticity`: d > gap, in samples [N] and held-out images [M].

    d: distance to the nearest training image, gap: that image's distance to its own nearest
    training image. The interval is that of `_difference`."""
    samples_hit = _distances(samples) > _distances(sample_gaps)
    held_out_hit = _distances(held_out) > _distances(held_out_gaps)
    return _difference("authenticity", samples_hit, held_out_hit)


def ratio(samples: ArrayLike, held_out: ArrayLike) -> Finding:
    """`ratio` of distances [N, 2] and [M, 2], ascending, to the two nearest training images.

    Two distances of 0 are a copy of an image that occurs twice: not counted, as published."""
    samples_hit, held_out_hit = (
        d[:, 0] < RATIO * d[:, 1] for d in (_distances(samples), _distances(held_out))
    )
    return _difference("ratio", samples_hit, held_out_hit)


def _difference(test: str, samples: np.ndarray, held_out: np.ndarray) -> Finding:
    """The share of True among samples minus that among held-out images, bool [N] and [M].

    Agresti and Caffo's interval: Wald's after one success and one failure more in each. Newcombe's
    would call memory up to 5 % of what is new, where the shares are near 0 and M is well above N.
    Source: Agresti and Caffo 2000, Am. Stat. 54, 280."""
    (a, n), (b, m) = ((x.sum() + 1, len(x) + 2) for x in (samples, held_out))
    middle = a / n - b / m
    half = Z * math.sqrt(a * (n - a) / n**3 + b * (m - b) / m**3)
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    details = {
        "samples": samples.mean(),
        "held out": held_out.mean(),
        "held-out images": len(held_out),
    }
    return _finding(test, samples.mean() - held_out.mean(), low, high, len(samples), details)


def _distances(values: ArrayLike) -> np.ndarray:
    """As float64. Raises ValueError if there are none, or negative or infinite ones."""
    distances = np.asarray(values, np.float64)
    if not distances.size or not np.isfinite(distances).all() or distances.min() < 0:
        raise ValueError("distances: found none, negative or infinite ones; give finite ones >= 0")
    return distances


def _finding(
    test: str, value: float, low: float, high: float, n: int, details: Mapping | None = None
) -> Finding:
    # rounding may pass the value by a hair
    value, low, high = float(value), min(float(low), float(value)), max(float(high), float(value))
    return Finding(
        test, value, low, high, int(n), {k: float(v) for k, v in (details or {}).items()}
    )
