"""How much of a network's denoising machines explain: r^2, the best mixture, intervals.

All of it follows from products of residuals. With D the network's x_0 of one noised image, D_i that
of machine i, and mu the mean training image,

    gram_ij = (D_i - D) . (D_j - D),   total = |D - mu|^2

Arrays have one row for each of n noised images: gram [n, M, M], total [n], float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000  # of images, for intervals
TAILS = (0.025, 0.975)
SAME = 1e-9  # of the largest |D_i - D|^2: machines that are nearer to each other agree


class Estimate(NamedTuple):
    """Values with 95 % intervals, one shape; NaN where there is nothing to explain."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Mixture(NamedTuple):
    """The best mixture of M machines: weights [M], at least 0, of sum 1; its r^2 []."""

    weights: Estimate
    r2: Estimate


def products(network: np.ndarray, machines: np.ndarray, mean: np.ndarray) -> tuple:
    """gram [n, M, M] and total [n] of images: network [n, D], machines [M, n, D], mean [D]."""
    network = np.asarray(network, np.float64)
    residuals = np.asarray(machines, np.float64) - network
    return np.einsum("ind,jnd->nij", residuals, residuals), np.square(network - mean).sum(1)


def r2_of(gram: np.ndarray, total: np.ndarray) -> np.ndarray:
    """r^2 = 1 - sum |D_i - D|^2 / sum |D - mu|^2 of each machine, sums over images: [..., M].

    gram [..., M, M] and total [...] are sums already; at most 1, negative where a machine is
    farther from the network than the mean image is; NaN where total is 0."""
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = diagonal / np.asarray(total)[..., None]
    return np.where(np.asarray(total)[..., None] > 0, 1 - ratio, np.nan)


def resampled(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums over images of values [n, ...], each weighed by its counts [B, n]: [B, ...]."""
    return np.tensordot(counts, values, axes=1)


def draws(n: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of n images is drawn, in each resample: int64 [B, n], rows sum to n."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def explained(gram: np.ndarray, total: np.ndarray) -> Estimate:
    """r^2 of each machine [M], with 95 % intervals; n >= 2.

    Student's t for log(1 - r^2), whose variance over images follows from that of the ratio of two
    means by the delta method. Percentile intervals of a bootstrap cover less with few images
    (docs/log.md)."""
    value, influence = _ratio(gram, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.exp(_t(len(total)) * _error(influence) / value)
    reach = np.where(value == 0, 1.0, reach)
    return Estimate(1 - value, 1 - value * reach, 1 - value / reach)


def lead(gram: np.ndarray, total: np.ndarray) -> tuple[int, list[int]]:
    """The machine of largest r^2, and those whose r^2 is not shown to be smaller.

    Of one of these the 95 % interval of the difference of r^2 includes 0: Student's t, paired by
    images. Of equal machines the first one leads. -1 and none where there is nothing to explain."""
    value, influence = _ratio(gram, total)
    if not np.isfinite(value).all():
        return -1, []
    best = int(value.argmin())
    error = _error(influence - influence[:, [best]])
    tied = value - value[best] <= _t(len(total)) * error
    return best, [i for i in range(len(value)) if i != best and tied[i]]


def mixture_weights(gram: np.ndarray) -> np.ndarray:
    """The weights w >= 0, sum 1, [M] that minimize |sum_i w_i D_i - D|^2 = w^T gram w.

    By non-negative least squares: the w >= 0 that minimizes w^T gram w + (1 - sum w)^2 is the
    wanted one times a number, because for w = s u with sum u = 1 the best s leaves
    q / (1 + q), q = u^T gram u, which grows with q. Of machines that agree, the first one takes the
    weight of all, for nothing tells them apart."""
    from scipy.optimize import nnls

    first = distinct(gram)
    if len(first) < len(gram):
        weights = np.zeros(len(gram))
        weights[first] = mixture_weights(gram[np.ix_(first, first)])
        return weights
    m = len(gram)
    scale = np.trace(gram) / m
    if not scale > 0:
        return np.eye(m)[0]
    values, vectors = np.linalg.eigh(gram / scale)
    root = np.sqrt(values.clip(min=0))[:, None] * vectors.T
    w, _ = nnls(np.vstack([root, np.ones((1, m))]), np.append(np.zeros(m), 1.0))
    return w / w.sum()


def distinct(gram: np.ndarray) -> list[int]:
    """The machines that agree with none before them: |D_i - D_j|^2 is above rounding."""
    diagonal = np.diagonal(gram)
    apart = diagonal[:, None] + diagonal - 2 * gram
    limit = SAME * diagonal.max()
    return [i for i in range(len(gram)) if (apart[i, :i] > limit).all()]


def mixture(gram: np.ndarray, total: np.ndarray, counts: np.ndarray) -> Mixture:
    """The best convex mixture of the machines, and its r^2, with percentile intervals of the
    bootstrap over images."""
    sums, totals = resampled(gram, counts), resampled(total, counts)
    weights = np.array([mixture_weights(one) for one in sums])
    value = mixture_weights(gram.sum(0))
    quality = [_mixed_r2(w, g, t) for w, g, t in zip(weights, sums, totals, strict=True)]
    r2 = Estimate(_mixed_r2(value, gram.sum(0), total.sum()), *_interval(np.array(quality)))
    return Mixture(Estimate(value, *_interval(weights)), r2)


def _mixed_r2(w: np.ndarray, gram: np.ndarray, total: float) -> np.ndarray:
    return np.float64(1 - w @ gram @ w / total if total > 0 else np.nan)


def _ratio(gram: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 - r^2 [M], and how far each image moves it [n, M]: the influence function."""
    errors = np.diagonal(gram, axis1=-2, axis2=-1)  # [n, M]
    value = 1 - r2_of(gram.sum(0), total.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        return value, (errors - value * total[:, None]) / total.mean()


def _error(influence: np.ndarray) -> np.ndarray:
    """The standard error [M] of a value that images move so."""
    return influence.std(0, ddof=1) / math.sqrt(len(influence))


def _t(n: int) -> float:
    """The 97.5 % quantile of Student's t of n images."""
    from scipy.stats import t

    return float(t.ppf(TAILS[1], n - 1))


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval over the first axis."""
    low, high = np.quantile(values, TAILS, axis=0)
    return low, high
