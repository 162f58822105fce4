"""Memorized, spurious or generalized: labels of samples from their distances, and distinct states.

A label, int8, is the position of a class in CLASSES. d_train is the distance of a sample to its
nearest training image, d_synth to the nearest other sample (+inf where there is none). Distances
are >= 0, in the unit of their metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from utils.cli.options.choices import CLASSES, GENERALIZED, MEMORIZED, SPURIOUS, metric_family

Limits = tuple[float | None, float | None]  # delta_m and delta_s
REPEATED = 3  # samples of a state that came "again and again"; two may be a chance pair


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
    d_train, d_synth = _checked(d_train, "d_train"), _checked(d_synth, "d_synth")
    if d_synth.shape != d_train.shape:
        raise ValueError(f"d_synth: found shape {d_synth.shape}; give {d_train.shape}")
    # d_synth = inf means that there is no other sample; never near, even for delta_s = inf.
    near = np.isfinite(d_synth) & (d_synth <= _rounded(delta_s, d_synth, "delta_s"))
    return _labels(d_train <= _rounded(delta_m, d_train, "delta_m"), near)


def classify_by_ratio(d_1: ArrayLike, d_2: ArrayLike, s_1: ArrayLike) -> np.ndarray:
    """The label [N] of each sample, from ratios of its own distances: no threshold is chosen.

        memorized    d_1 < d_2 / 3,  or  d_1 = 0
        spurious     not memorized  and  s_1 < d_1 / 3
        generalized  otherwise

    Euclidean distances [N]: d_1 <= d_2 to the two nearest training images, s_1 to the nearest
    other sample. A spurious state attracts samples: they fall much closer to each other than to
    any training image. d_2 should be that to a different image (`nearest_different`): where the
    training set holds an image twice, d_1 = d_2 around it, and near copies of it are missed.
    Raises ValueError as above, and where d_2 < d_1. Source: Yoon et al. 2023 and Carlini et al.
    2023, arXiv 2301.13188, for d_1 / d_2; s_1 / d_1 is the same idea for attractors."""
    # In float64 three times a float32 is exact, so that a ratio of 1/3 is never rounded below it.
    names = ((d_1, "d_1"), (d_2, "d_2"), (s_1, "s_1"))
    d_1, d_2, s_1 = (_checked(d, name).astype(np.float64) for d, name in names)
    if d_1.shape != d_2.shape or (d_2 < d_1).any():
        raise ValueError("d_2: found values below d_1; give neighbours by ascending distance")
    if s_1.shape != d_1.shape:
        raise ValueError(f"s_1: found shape {s_1.shape}; give {d_1.shape}")
    return _labels((3 * d_1 < d_2) | (d_1 == 0), 3 * s_1 < d_1)


def labels_of(
    criterion: str, limits: Limits, metric: str, near: np.ndarray, neighbours: np.ndarray
) -> np.ndarray:
    """The labels [N] by a criterion, of images with these distances: near [N, 2] to the nearest
    training images, neighbours [N] to the nearest other image. limits: where it has some."""
    if criterion == "ratio":
        return classify_by_ratio(*euclidean(metric, near[:, 0], near[:, 1], neighbours))
    return classify_by_distance(near[:, 0], neighbours, *limits)


def _labels(memorized: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Labels int8 [N] from bool [N]: memorized, and near another sample."""
    labels = np.full(memorized.shape, CLASSES.index(GENERALIZED), np.int8)
    labels[near] = CLASSES.index(SPURIOUS)
    labels[memorized] = CLASSES.index(MEMORIZED)
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


def euclidean(metric: str, *distances: np.ndarray) -> list[np.ndarray]:
    """Distances whose ratios mean lengths: LPIPS is the square of one, so its root is taken.

    metric: as in summary.csv."""
    return [np.sqrt(d) if metric_family(metric) == "lpips" else d for d in distances]


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


class States(NamedTuple):
    """The distinct states of one K: how many there are, samples of the largest, and the share of
    all samples in states of REPEATED samples or more."""

    count: int
    largest: int
    repeated: float

    @classmethod
    def summed_up(cls, states: Sequence[np.ndarray], n: int) -> States:
        """states: of `spurious_states`; n: the number of samples."""
        sizes = [len(state) for state in states]
        again = sum(size for size in sizes if size >= REPEATED)
        return cls(len(sizes), max(sizes, default=0), again / n)


def spurious_states(
    labels: np.ndarray, neighbours: np.ndarray, dists: np.ndarray, reach: np.ndarray
) -> list[np.ndarray]:
    """The clusters of the spurious samples, by single linkage: positions of their samples, the
    largest cluster first, within each the samples nearest to another one first.

    labels [N]; neighbours, dists [N, k]: the nearest other samples of each and their distances;
    reach [N]: up to which distance the other sample is linked. Memorized samples are left out: a
    spurious sample beside one of them is a state of its own. Further neighbours than k are not
    seen, which can only split a state."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    free = labels != CLASSES.index(MEMORIZED)
    rows, columns = np.nonzero(dists <= np.asarray(reach)[:, None])
    others = neighbours[rows, columns]
    linked = free[rows] & free[others]
    n = len(labels)
    edges = coo_matrix((np.ones(linked.sum()), (rows[linked], others[linked])), (n, n))
    _, state = connected_components(edges, directed=False)
    order = np.argsort(nearest_column(dists), kind="stable")
    found = np.unique(state[labels == CLASSES.index(SPURIOUS)])
    states = [order[state[order] == one] for one in found]
    return sorted(states, key=lambda members: (-len(members), members[0]))


def reach(d_1: np.ndarray, delta_s: float | None, metric: str) -> np.ndarray:
    """Up to which distance another sample is the same state [N]: delta_s, or, for the ratio
    criterion (None), what lies below a third of d_1 as a length."""
    if delta_s is not None:
        return np.full(len(d_1), d_1.dtype.type(delta_s))
    part = 9 if metric_family(metric) == "lpips" else 3
    return np.nextafter(d_1.astype(np.float64) / part, 0)
