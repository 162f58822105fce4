"""Measures of two sets of vectors, with how each vector moves them: what `quality` is made of.

Sets are float64 arrays [n, D], one vector a row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import svd

PARTS = 2  # the limit is a line through FD of the whole sets and of 2 to so many parts
DIVISIONS = 4  # random divisions into parts, averaged
COLUMNS = 4096  # numbers of each vector that are made float64 at once


class Statistic(NamedTuple):
    """A measure, and psi_i = d measure / d (weight of vector i) of each set, less its mean."""

    value: float
    own: np.ndarray  # [n], of the first set
    others: tuple[np.ndarray, ...]  # of each other set


def standard_error(*influences: np.ndarray) -> float:
    """sqrt(sum over independent sets of sum_i psi_i^2 / (n (n - 1))), the infinitesimal jackknife.

    Source: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, eq. 6.16."""
    return sum(psi @ psi / (len(psi) * (len(psi) - 1)) for psi in influences) ** 0.5


def frechet(a: np.ndarray, b: np.ndarray) -> Statistic:
    """The Frechet distance of a [n, D] and b [m, D], as `quality.frechet_distance`.

    With A and B centred and M = A B^T / sqrt((n - 1)(m - 1)) = U s V^T, tr (S_a S_b)^(1/2) is the
    sum of s, whose derivative by M is U V^T. As M^T 1 = 0, a vector x_i of a has, less its mean,

        psi_i = 2 (mu_a - mu_b).(x_i - mu_a) + n / (n - 1) |x_i - mu_a|^2 - n (U s U^T)_ii

    Where n > D, A = Q R leaves a smaller R B^T, and U = Q U'."""
    shift = a.mean(axis=0) - b.mean(axis=0)
    centred = [x - x.mean(axis=0) for x in (a, b)]
    bases, factors = zip(*(_factor(x) for x in centred), strict=True)
    u, s, vt = svd(factors[0] @ factors[1].T, full_matrices=False)
    value = shift @ shift - 2 * s.sum()
    influences = []
    for x, basis, vectors, sign in zip(centred, bases, (u, vt.T), (1, -1), strict=True):
        n = len(x)
        squares = np.einsum("ij,ij->i", x, x) * n / (n - 1)
        value += squares.mean()
        vectors = vectors if basis is None else basis @ vectors  # [n, rank]
        influences.append(_less_mean(2 * sign * x @ shift + squares - n * vectors**2 @ s))
    return Statistic(float(value), influences[0], (influences[1],))


def _factor(x: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Q [n, D], or None for the identity, and R, with x = sqrt(n - 1) Q R."""
    basis, factor = np.linalg.qr(x) if len(x) > x.shape[1] else (None, x)
    return basis, factor / np.sqrt(len(x) - 1)


def frechet_limit(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> Statistic:
    """`quality.frechet_limit`; a weighted sum of FD, so psi is the same sum of theirs."""
    parts = np.arange(1, PARTS + 1)
    weights = np.linalg.pinv(np.stack([np.ones(PARTS), parts], axis=1))[0]  # of the intercept
    value, influences = 0.0, [np.zeros(len(x)) for x in (a, b)]
    for p, weight in zip(parts, weights, strict=True):
        times = DIVISIONS if p > 1 else 1
        for _ in range(times):
            divided = (np.array_split(rng.permutation(len(x)), p) for x in (a, b))
            for rows in zip(*divided, strict=True):
                part = frechet(a[rows[0]], b[rows[1]])
                value += weight / (times * p) * part.value
                for of_set, i, psi in zip(influences, rows, (part.own, *part.others), strict=True):
                    of_set[i] += weight / times * psi
    return Statistic(float(value), influences[0], (influences[1],))


def kernel(a: np.ndarray, b: np.ndarray, dim: int) -> Statistic:
    """`quality.kernel_distance`, psi_i = 2 mean_j k(a_i, a_j) - 2 mean_j k(a_i, b_j) less its mean.

    dim: D of k; a and b may be given in fewer coordinates, by `narrow`."""
    across = _cubic(a, b, dim)
    value, influences = 0.0, []
    for x, to_others in ((a, across.mean(axis=1)), (b, across.mean(axis=0))):
        own = _cubic(x, x, dim)
        np.fill_diagonal(own, 0)
        psi = own.sum(axis=1) / (len(x) - 1) - to_others
        value += psi.mean()
        influences.append(2 * _less_mean(psi))
    return Statistic(float(value), influences[0], (influences[1],))


def _cubic(a: np.ndarray, b: np.ndarray, dim: int) -> np.ndarray:
    return (a @ b.T / dim + 1) ** 3


def density(own: np.ndarray, across: np.ndarray, k: int) -> Statistic:
    """Density by the distances of `scores`; psi_i = (n - 1) (density - density without i).

    Without a reference vector its ball is gone, and the ball of each one that has it among its k
    nearest ends at the next."""
    n, m = across.shape
    nearest = np.argpartition(own, (k - 1, k), axis=1)[:, : k + 1]
    radii = np.take_along_axis(own, nearest, axis=1)
    inside = across < radii[:, k - 1 : k]
    more = (across < radii[:, k:]).sum(axis=1) - inside.sum(axis=1)
    gained = np.bincount(nearest[:, :k].ravel(), np.repeat(more, k), minlength=n)
    of_reference = (n - 1) * (inside.sum(axis=1) - gained) / (k * m)
    of_samples = inside.sum(axis=0) / k
    psi = _less_mean(of_samples), _less_mean(of_reference)
    return Statistic(float(of_samples.mean()), psi[0], (psi[1],))


def scores(reference: np.ndarray, own: np.ndarray, across: np.ndarray, k: int) -> np.ndarray:
    """`quality.Neighbourhood` as an array [4].

    By the distances within the reference [n, n] and within the samples [m, m], infinite on the
    diagonals, and of reference to samples [n, m]."""
    of_reference, of_samples = (np.partition(x, k - 1, axis=1)[:, k - 1] for x in (reference, own))
    inside, recalled = across < of_reference[:, None], across < of_samples
    of_each = inside.any(axis=0), recalled.any(axis=1), inside.sum(axis=0) / k, inside.any(axis=1)
    return np.array([values.mean() for values in of_each])


def nearest_gap(held_out: np.ndarray, train: np.ndarray) -> float:
    """The mean of the smallest distance of each row to held_out less that to train, [n, m] each."""
    return float((held_out.min(axis=1) - train.min(axis=1)).mean())


def distances(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Euclidean distances [n, m]; within one set, infinite on the diagonal."""
    from sklearn.metrics.pairwise import euclidean_distances

    apart = euclidean_distances(x, y)
    if y is None:
        np.fill_diagonal(apart, np.inf)
    return apart


def narrow(*sets: np.ndarray) -> list[np.ndarray]:
    """Sets [n, D] of any number type as float64; where D exceeds the N rows of all sets together,
    as [n, N] with the same inner products.

    From the eigenvectors of the products [N, N] (classical scaling; Torgerson 1952, Psychometrika
    17, 401). These are exact to about 1e-16 of the largest eigenvalue, so that the distance of a
    copy may be 1e-7 of its norm instead of 0."""
    ends = np.cumsum([len(x) for x in sets])
    dim = sets[0].shape[1]
    if dim <= ends[-1]:
        return [np.asarray(x, np.float64) for x in sets]
    products = np.zeros((ends[-1], ends[-1]))
    for start in range(0, dim, COLUMNS):
        rows = np.concatenate([x[:, start : start + COLUMNS] for x in sets]).astype(np.float64)
        products += rows @ rows.T
    values, vectors = np.linalg.eigh(products)
    return np.split(vectors * np.sqrt(values.clip(0)), ends[:-1])


def _less_mean(x: np.ndarray) -> np.ndarray:
    return x - x.mean()
