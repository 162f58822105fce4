"""Shares with their intervals, and thresholds from calibration distances."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike


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


CONFIDENCE = 0.95  # of every interval
ERROR_RATE = (1 - CONFIDENCE) / 2  # of calling memory what is new
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def median_interval(values: ArrayLike) -> tuple[float, float, float]:
    """The median [n >= 1] and its 95 % interval by order statistics, free of any distribution.

    The whole range for n < 6, which are too few for 95 %."""
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    below = int(binom.ppf(ERROR_RATE, n, 0.5))  # so many may lie below the lower end
    low, high = ordered[max(0, below - 1)], ordered[min(n - 1, n - below)]
    return float(np.median(ordered)), float(low), float(high)


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    from scipy.stats import t

    half = t.ppf(1 - ERROR_RATE, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def _welch_interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Of mean b - mean a; by hand, since scipy warns where all of a are equal.

    A single a counts as one more of b."""
    from scipy.stats import t

    var_b = b.var(ddof=1)
    own, other = (a.var(ddof=1) if len(a) > 1 else var_b) / len(a), var_b / len(b)
    freedom = len(b) - 1.0
    if len(a) > 1 and own + other > 0:
        freedom = (own + other) ** 2 / (own**2 / (len(a) - 1) + other**2 / (len(b) - 1))
    middle, half = b.mean() - a.mean(), t.ppf(1 - ERROR_RATE, freedom) * math.sqrt(own + other)
    return middle - half, middle + half


def _wilson(successes: int, total: int) -> tuple[float, float]:
    return wilson_interval(successes, total, CONFIDENCE)
