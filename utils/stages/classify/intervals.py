"""Shares with their intervals, and thresholds from calibration distances."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

ROUNDING = 1e-9  # 0.29 * 100 is 28.999...96: such a product counts as the whole number


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval (low, high) of a share successes / total = x / n.

        (x + z^2 / 2 ± z sqrt(x (n - x) / n + z^2 / 4)) / (n + z^2)

    z is the standard normal quantile at (1 + confidence) / 2; 0 <= low <= x / n <= high <= 1.
    Nothing observed (total 0) says nothing: (0, 1). Raises ValueError outside 0 <= x <= n and
    0 < confidence < 1. Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209.

    >>> [round(bound, 3) for bound in wilson_interval(1, 10)]
    [0.018, 0.404]
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes: found {successes} of {total}; give 0 to {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: found {confidence}; give a share between 0 and 1")
    if total == 0:
        return 0.0, 1.0
    x, n = int(successes), int(total)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (x + z**2 / 2) / (n + z**2)
    half = z * math.sqrt(x * (n - x) / n + z**2 / 4) / (n + z**2)
    # At the ends the formula gives 0 and 1 but for rounding.
    return 0.0 if x == 0 else centre - half, 1.0 if x == n else centre + half


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

    distances: any shape, n >= 0 values, finite; 0 < q < 1. Raises ValueError where they are not,
    or where even the smallest distance makes up more than q: too few distances (n < 1 / q), or
    ties; `smallest_share` tells the q from which it works.

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
    # Every value from this one on is out of reach; so are its ties that come before it.
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


def log_ball_volume(radius: np.ndarray, dim: int) -> np.ndarray:
    """ln of the volume of a dim-ball: (d/2) ln pi + d ln r - lnGamma(d/2 + 1).

    radius >= 0, any shape; -inf for radius 0.

    >>> np.exp(log_ball_volume(np.array([1.0, 2.0]), 2)).round(4).tolist()
    [3.1416, 12.5664]"""
    with np.errstate(divide="ignore"):
        log_radius = np.log(np.asarray(radius, np.float64))
    return dim / 2 * math.log(math.pi) + dim * log_radius - math.lgamma(dim / 2 + 1)
