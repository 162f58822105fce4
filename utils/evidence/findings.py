"""Tests that tell generalization from memory: each a number with its 95 % interval and a verdict.

Plain arrays in, a `Finding` out. A verdict of memory or generalization is given where the whole
interval lies on one side of the neutral value. So samples that are really new are called memory in
2.5 % of all cases, or fewer: that is the error rate of each test at one K. Over the K of a sweep
`sweep_verdicts` keeps it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from utils.evidence.definitions import GENERALIZATION, MEMORY, TESTS, UNDECIDED
from utils.metrics.intervals import (
    TAIL,
    Z,
    holm,
    mean_interval,
    welch_interval,
    wilson_interval,
)

RATIO = 1 / 3
LEAST = 1e-6  # of the mean loss: a known image may have none at all
FEWEST = 20  # C_T counts cells of more samples than this
FEWEST_TRAIN = 3  # training images of a denoising gap with a verdict
ONE_SIDED = TAIL  # largest p-value of memory that is a verdict


@dataclass(frozen=True)
class Finding:
    """What a test says: low <= value <= high, its 95 % interval. n: how many samples (pairs,
    images) it rests on.

    p_value: one-sided, of memory: the probability of a value as far or farther on the side of
    memory if there is none. It is at most 2.5 % exactly where the interval lies on that side; 1 for
    a test that has no such side. details: numbers behind it. undecided: why there is no verdict,
    whatever the interval; empty if there is one."""

    test: str
    value: float
    low: float
    high: float
    n: int
    p_value: float
    details: Mapping[str, float] = field(default_factory=dict)
    undecided: str = ""

    @property
    def verdict(self) -> str:
        """memory or generalization where the interval is on one side of neutral, for one K alone.

        A difference to held-out images that is not there is generalization too: these tests can
        only refute it. Undecided is left to those whose neutral value is half way, and to findings
        with a reason. A test without a side of memory never says memory."""
        if self.undecided:
            return UNDECIDED
        test = TESTS[self.test]
        below, above = self.high < test.neutral, self.low > test.neutral
        if {-1: below, 0: False, 1: above}[test.memory_side]:
            return MEMORY
        new = below if test.memory_side > 0 else above
        return GENERALIZATION if new or test.neutral == 0 else UNDECIDED


def sweep_verdicts(findings: Mapping[int, Mapping[str, Finding]]) -> dict[int, dict[str, str]]:
    """The verdicts of several K shown together, by K and test; findings: the same way.

    The p-values of each test are corrected over its K by Holm's method, and memory is said where
    the result is at most 2.5 %: if all samples of a sweep are new, the probability that a test
    says memory at any K is at most that. Memory of one K alone that the correction does not
    confirm is undecided. K without a verdict of their own do not count."""
    verdicts = {
        k: {name: one.verdict for name, one in of_k.items()} for k, of_k in findings.items()
    }
    for name in TESTS:
        sizes = [k for k, of_k in findings.items() if name in of_k and not of_k[name].undecided]
        corrected = holm([findings[k][name].p_value for k in sizes])
        for k, p_value in zip(sizes, corrected, strict=True):
            if verdicts[k][name] == MEMORY and p_value > ONE_SIDED:
                verdicts[k][name] = UNDECIDED
    return verdicts


def two_models(pair: ArrayLike, first_own: ArrayLike, second_own: ArrayLike) -> Finding:
    """`two-models`, with Wilson's interval: pair < min(first_own, second_own).

    Independent new images are as far from each other as from training images, or farther: a small
    share is no evidence of memory, and the p-value is 1.

    Distances [N] >= 0 in one metric, N >= 1: between the two images of each seed, and of each to
    the nearest training image of its own model. Raises ValueError for other shapes."""
    pair, first, second = (_distances(x) for x in (pair, first_own, second_own))
    if not pair.shape == first.shape == second.shape:
        raise ValueError(f"pair: found {pair.shape}, {first.shape}, {second.shape}; give one shape")
    nearer = int((pair < np.minimum(first, second)).sum())
    details = {"median pair": np.median(pair), "median own": np.median(np.minimum(first, second))}
    low, high = wilson_interval(nearer, len(pair))
    return _finding("two-models", nearer / len(pair), low, high, len(pair), 1.0, details)


def memorizer_distance(to_memorizer: ArrayLike, loss: ArrayLike, undecided: str = "") -> Finding:
    """`memorizer`: mean over images of m / (m + l), with the interval and p-value of Student's t.

    Squared errors [n] of each image, n >= 2, summed over times. 1/2 where both are 0.
    undecided: why there is no verdict."""
    from scipy.stats import t as student

    m, loss = _distances(to_memorizer), _distances(loss)
    total = m + loss
    part = np.divide(m, total, out=np.full(len(m), 0.5), where=total > 0)
    low, high = mean_interval(part)
    excess, error = part.mean() - 0.5, part.std(ddof=1) / math.sqrt(len(part))
    p = student.cdf(excess / error, len(part) - 1) if error > 0 else float(excess >= 0)
    return _finding("memorizer", part.mean(), low, high, len(part), p, undecided=undecided)


def denoising_gap(train: ArrayLike, held_out: ArrayLike) -> Finding:
    """`denoising-gap` of losses [T', n] and [T', m] >= 0, one a time and image; n >= 1, m >= 2.

        1 - exp(mean_i a_i - mean_j b_j),   a_i = mean_t ln(loss of image i at t)

    Losses of images are skewed, their logarithms are not: with 8 images Welch's interval of the
    losses themselves is too short on one side. Losses below LEAST of the mean count as that. A
    single training image is given the variance of the held-out ones. Without a verdict for fewer
    than 3 training images, whose variance says too little."""
    train, held_out = (np.asarray(x, np.float64) for x in (train, held_out))
    scale = np.concatenate([train, held_out], axis=1).mean(axis=1, keepdims=True)
    scale[scale == 0] = 1.0  # a time at which nothing is lost tells nothing
    a, b = (np.log(np.maximum(x / scale, LEAST)).mean(axis=0) for x in (train, held_out))
    value, low, high = 1 - np.exp([a.mean() - b.mean(), *(-x for x in welch_interval(a, b))])
    few = f"fewer than {FEWEST_TRAIN} training images" if len(a) < FEWEST_TRAIN else ""
    details = {"held out": len(b)}
    return _finding("denoising-gap", value, low, high, len(a), _welch_p(a, b), details, few)


def _welch_p(a: np.ndarray, b: np.ndarray) -> float:
    """The one-sided p-value of mean(b) > mean(a), of the test behind `welch_interval`."""
    from scipy.stats import ttest_ind

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # equal values: their variance of 0 is meant
        p = ttest_ind(b, a, equal_var=len(a) == 1, alternative="greater").pvalue
    return float(p) if np.isfinite(p) else float(b.mean() <= a.mean())


def copying(
    samples: ArrayLike,
    held_out: ArrayLike,
    sample_cells: ArrayLike,
    held_out_cells: ArrayLike,
    tau: float | None = None,
) -> Finding:
    """`c-t`: the data-copying statistic C_T.

        C_T = sum_c P_c z_c / sum_c P_c   over the cells c with Q_c > tau

    P_c, Q_c: the shares of held-out images and of samples that lie in c; z_c: `mann_whitney_z` of
    the samples in c against the held-out images in c. samples [N], held_out [M]: the distance of
    each to the nearest training image of its own cell; their cells, int. tau: 20 / N by default.
    A cell without held-out images has weight 0. Where no cell is left, all images are one cell.

    Samples that are new images have z_c of mean 0 and variance 1 given the cells, independent
    between cells: so C_T has the standard deviation sqrt(sum P_c^2) / sum P_c, of which interval
    and p-value are made. Otherwise z_c grows as the square root of the numbers of images: values
    compare at equal N and M only. details: z of all images as one cell.
    Source: Meehan et al. 2020, arXiv 2004.05675, eq. 4, and the authors' code."""
    samples, held_out = _distances(samples), _distances(held_out)
    cells, others = np.asarray(sample_cells), np.asarray(held_out_cells)
    tau = FEWEST / len(samples) if tau is None else tau
    shares, scores, n = [], [], 0
    for cell in np.intersect1d(cells, others):
        drawn, real = samples[cells == cell], held_out[others == cell]
        if len(drawn) / len(samples) > tau:
            shares.append(len(real) / len(held_out))
            scores.append(mann_whitney_z(drawn, real))
            n += len(drawn)
    whole = mann_whitney_z(samples, held_out)
    if not shares:
        shares, scores, n = [1.0], [whole], len(samples)
    weight = np.array(shares) / sum(shares)
    value, error = float(weight @ scores), math.sqrt(weight @ weight)
    details = {"z of all": whole, "cells": len(shares), "held out": len(held_out)}
    interval = value - Z * error, value + Z * error
    return _finding("c-t", value, *interval, n, _normal(value / error), details)


def _normal(z: float) -> float:
    """P(Z <= z) of a standard normal Z; exact in the lower tail, where p-values are."""
    return math.erfc(-z / math.sqrt(2)) / 2


def mann_whitney_z(x: ArrayLike, y: ArrayLike) -> float:
    """The z of Mann and Whitney: negative where x tends to be smaller than y.

        z = (U - n m / 2 + 1/2) / sqrt(n m (n + m + 1) / 12)

    U counts the pairs with x > y, ties by half. As in the code of Meehan et al. the continuity
    correction of 1/2 is always upwards, away from memory, and there is none for ties, which would
    make |z| larger. Source: Mann and Whitney 1947, Ann. Math. Stat. 18, 50."""
    from scipy.stats import rankdata

    x, y = _distances(x), _distances(y)
    n, m = len(x), len(y)
    u = rankdata(np.concatenate([x, y]))[:n].sum() - n * (n + 1) / 2
    return float((u - n * m / 2 + 0.5) / math.sqrt(n * m * (n + m + 1) / 12))


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
    """`ratio` of distances [N, 2] and [M, 2], ascending, to the nearest training image and to the
    nearest different one, see `nearest_different`."""
    samples_hit, held_out_hit = (
        d[:, 0] < RATIO * d[:, 1] for d in (_distances(samples), _distances(held_out))
    )
    return _difference("ratio", samples_hit, held_out_hit)


def _difference(test: str, samples: np.ndarray, held_out: np.ndarray) -> Finding:
    """The share of True among samples minus that among held-out images, bool [N] and [M].

    Agresti and Caffo's interval: Wald's after one success and one failure more in each. Newcombe's
    would call memory up to 5 % of what is new, where the shares are near 0 and M is well above N.
    Far out in the tail, which a correction for many K needs, its error is up to twice what it
    claims (N = 128, M = 1,000, level 0.3 %). So the p-value is the larger one of its own and that
    of Fisher's exact test, and an interval whose p-value is above 2.5 % is extended to 0.
    Source: Agresti and Caffo 2000, Am. Stat. 54, 280; Fisher 1922, J. R. Stat. Soc. 85, 87."""
    side = TESTS[test].memory_side
    (a, n), (b, m) = ((x.sum() + 1, len(x) + 2) for x in (samples, held_out))
    middle = a / n - b / m
    error = math.sqrt(a * (n - a) / n**3 + b * (m - b) / m**3)
    low, high = max(-1.0, middle - Z * error), min(1.0, middle + Z * error)
    p = max(_normal(-side * middle / error), _fisher_p(samples, held_out, side))
    if p > ONE_SIDED:
        low, high = (min(low, 0.0), high) if side > 0 else (low, max(high, 0.0))
    details = {
        "samples": samples.mean(),
        "held out": held_out.mean(),
        "held-out images": len(held_out),
    }
    return _finding(test, samples.mean() - held_out.mean(), low, high, len(samples), p, details)


def _fisher_p(samples: np.ndarray, held_out: np.ndarray, side: int) -> float:
    """Fisher's exact p-value: at equal shares, given how many are True in all, the probability of
    as many among the samples, or more (side 1) or fewer (side -1)."""
    from scipy.stats import hypergeom

    hits, total = int(samples.sum()), int(samples.sum() + held_out.sum())
    law = hypergeom(len(samples) + len(held_out), total, len(samples))
    return float(law.sf(hits - 1) if side > 0 else law.cdf(hits))


def _distances(values: ArrayLike) -> np.ndarray:
    """As float64. Raises ValueError if there are none, or negative or infinite ones."""
    distances = np.asarray(values, np.float64)
    if not distances.size or not np.isfinite(distances).all() or distances.min() < 0:
        raise ValueError("distances: found none, negative or infinite ones; give finite ones >= 0")
    return distances


def _finding(
    test: str,
    value: float,
    low: float,
    high: float,
    n: int,
    p_value: float,
    details: Mapping | None = None,
    undecided: str = "",
) -> Finding:
    # rounding may pass the value by a hair
    value, low, high = float(value), min(float(low), float(value)), max(float(high), float(value))
    plain = {k: float(v) for k, v in (details or {}).items()}
    return Finding(test, value, low, high, int(n), float(p_value), plain, undecided)
