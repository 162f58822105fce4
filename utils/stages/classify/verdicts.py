"""Memorized, spurious or generalized: labels of samples from their distances.

A label, int8, is the position of a class in CLASSES. d_train is the distance of a sample to its
nearest training image, d_synth to the nearest other sample (+inf where there is none). Distances
are >= 0, in the unit of their metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from utils.cli.options.choices import CLASSES, GENERALIZED, MEMORIZED, SPURIOUS


def classify_by_distance(
    d_train: ArrayLike, d_synth: ArrayLike, delta_m: float, delta_s: float
) -> np.ndarray:
    """The label [N] of each sample, from two thresholds.

        memorized    d_train <= delta_m
        spurious     d_train >  delta_m  and  d_synth <= delta_s
        generalized  otherwise

    d_train, d_synth: [N]. The thresholds are rounded to the precision of the distances, so that
    0.33 stored as float32 is at, not above, 0.33. Raises ValueError for NaN, negative values and
    shapes that differ. Source: the original toolkit, whose thresholds were chosen by hand."""
    d_train = _checked(d_train, "d_train")
    return _labels(d_train <= _rounded(delta_m, d_train, "delta_m"), d_synth, delta_s)


def classify_by_ratio(
    d_1: ArrayLike, d_2: ArrayLike, d_synth: ArrayLike, delta_s: float
) -> np.ndarray:
    """The label [N] of each sample, with the ratio test for memorization.

        memorized    d_1 / d_2 < 1 / 3,  or  d_1 = 0
        spurious     not memorized  and  d_synth <= delta_s
        generalized  otherwise

    d_1 <= d_2: [N], L2 distances to the two nearest training images. Where the training set holds
    an image twice, d_1 = d_2 around it: near copies of it are missed, exact ones (0 / 0) are not,
    since d_1 = 0 is memorized in any case. Raises ValueError as above, and where
    d_2 < d_1. Source: Carlini et al. 2023, arXiv 2301.13188; Yoon et al. 2023; Gu et al. 2023,
    arXiv 2310.02664."""
    # In float64 three times a float32 is exact, so that d_1 / d_2 = 1/3 is never rounded below it.
    d_1, d_2 = (_checked(d, n).astype(np.float64) for d, n in ((d_1, "d_1"), (d_2, "d_2")))
    if d_1.shape != d_2.shape or (d_2 < d_1).any():
        raise ValueError("d_2: found values below d_1; give neighbours by ascending distance")
    return _labels((3 * d_1 < d_2) | (d_1 == 0), d_synth, delta_s)


def _labels(memorized: np.ndarray, d_synth: ArrayLike, delta_s: float) -> np.ndarray:
    """Labels [N] from memorized (bool [N]) and the distances to the nearest other sample."""
    d_synth = _checked(d_synth, "d_synth")
    if d_synth.shape != memorized.shape:
        raise ValueError(f"d_synth: found shape {d_synth.shape}; give {memorized.shape}")
    # d_synth = inf means that there is no other sample; never near, even for delta_s = inf.
    near = np.isfinite(d_synth) & (d_synth <= _rounded(delta_s, d_synth, "delta_s"))
    spurious = ~memorized & near
    labels = np.full(memorized.shape, CLASSES.index(GENERALIZED), np.int8)
    labels[memorized] = CLASSES.index(MEMORIZED)
    labels[spurious] = CLASSES.index(SPURIOUS)
    return labels


def _checked(distances: ArrayLike, name: str) -> np.ndarray:
    """Distances as a floating-point array [N]. Raises ValueError for NaN and negative values."""
    values = np.asarray(distances)
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if values.ndim != 1 or not (values >= 0).all():
        raise ValueError(f"{name}: found NaN, negative values or no [N]; give distances >= 0")
    return values


def _rounded(delta: float, distances: np.ndarray, name: str) -> np.floating:
    if not delta >= 0:
        raise ValueError(f"{name}: found {delta}; give a threshold >= 0")
    with np.errstate(over="ignore"):  # may round to infinity
        return distances.dtype.type(delta)


def nearest_column(dists: np.ndarray) -> np.ndarray:
    """The distance to the nearest [N] of dists [N, k], which ascend; infinite where k is 0."""
    return dists[:, 0] if dists.shape[1] else np.full(len(dists), np.inf)


def typicality_order(
    class_name: str, labels: np.ndarray, d_train: ArrayLike, d_synth: ArrayLike
) -> np.ndarray:
    """Positions (int64 [n]) of the samples of one class, the most typical first.

    memorized by d_train ascending, spurious by d_synth ascending, generalized by d_synth
    descending; equal distances by position. Raises ValueError for another class."""
    if class_name not in CLASSES:
        raise ValueError(f"class_name: found {class_name!r}; give one of {', '.join(CLASSES)}")
    keys = {
        MEMORIZED: np.asarray(d_train),
        SPURIOUS: np.asarray(d_synth),
        GENERALIZED: -np.asarray(d_synth),
    }
    members = np.flatnonzero(np.asarray(labels) == CLASSES.index(class_name))
    return members[np.argsort(keys[class_name][members], kind="stable")]


def select(order: np.ndarray, top: int, least: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The samples to store, and how many of them are of the most and of the least typical.

    The first `top` of order [n], then up to `least` of the others, from the end backwards: no
    sample comes twice, however small the class. Raises ValueError for negative sizes.

    >>> select(np.array([7, 3, 9, 1]), top=2, least=3)
    (array([7, 3, 1, 9]), (2, 2))
    """
    if min(top, least) < 0:
        raise ValueError(f"top, least: found {top}, {least}; give 0 or more")
    first, rest = order[:top], order[top:]
    last = rest[::-1][:least]
    return np.concatenate([first, last]), (len(first), len(last))
