"""The tests that compare samples with training and held-out images: C_T, authenticity, ratio."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from utils.data.views import Images, View
from utils.descriptors.embedders import Embedder, as_float
from utils.evidence.duplicates import NEAR_DEPTH, duplicate_groups, nearest_different
from utils.evidence.findings import Finding, authenticity, copying, ratio
from utils.metrics.nearest import SearchSettings, nearest

CLUSTERED = 5000  # images read at once; training images, at most, that cells are made of


class Cells(NamedTuple):
    """The cells of C_T: how many at most, and the seed of their centres."""

    count: int = 5
    seed: int = 0


class Near(NamedTuple):
    """What `nearest` found among the training images: distances [n, k] and indices [n, k]."""

    distances: np.ndarray
    indices: np.ndarray


def copying_tests(
    embedder: Embedder,
    samples: Images,
    train: Images,
    held_out: Images,
    cells: Cells,
    search: SearchSettings | None = None,
    near: tuple[Near, Near] | None = None,
    groups: np.ndarray | None = None,
) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """C_T, authenticity and the ratio test of samples [N, C, H, W], with the arrays behind them.

    near: the two nearest training images, or more, of each sample and of each held-out image, if
    they are known; groups [K]: of duplicates among the training images, as `duplicate_groups`. With
    one training image C_T alone is defined."""
    if groups is None:
        groups = duplicate_groups(embedder, train, search)
    if near is None:
        depth = NEAR_DEPTH if len(np.unique(groups)) < len(groups) else 2
        near = tuple(
            Near(*nearest(embedder, images, train, depth, settings=search))
            for images in (samples, held_out)
        )
    of_train, *of_sets = partition(train, cells, samples, held_out)
    inside = [
        nearest_in_cells(embedder, images, found, own, train, of_train, search)
        for images, found, own in zip((samples, held_out), near, of_sets, strict=True)
    ]
    findings = [copying(*inside, *of_sets)]
    of_samples, of_known = near
    different = [nearest_different(*found, groups) for found in near]
    if len(train) > 1:
        indices = of_samples.indices[:, 0], of_known.indices[:, 0]
        gaps = nearest_within(embedder, train, indices, search)
        findings.append(authenticity(*(d[:, 0] for d in different), *gaps))
        # d_1 / d_2 is one of Euclidean distances
        findings.append(ratio(*(np.sqrt(d) if embedder.squared else d for d in different)))
    arrays = {}
    for name, distances in zip(("sample", "held-out"), different, strict=True):
        arrays[f"{name}-distances"] = distances
    for name, distances, own in zip(("sample", "held-out"), inside, of_sets, strict=True):
        arrays |= {f"{name}-cells": own, f"{name}-cell-distances": distances}
    return findings, arrays


def nearest_in_cells(
    embedder: Embedder,
    images: Images,
    near: Near,
    cells: np.ndarray,
    train: Images,
    train_cells: np.ndarray,
    search: SearchSettings | None,
) -> np.ndarray:
    """The distance of each image [n, C, H, W] to the nearest training image of its cell, in the
    metric: float32 [n].

    near: among all training images, which is the answer where that image lies in the same cell.
    Each cell has a training image, by `partition`."""
    result = near.distances[:, 0].copy()
    elsewhere = train_cells[near.indices[:, 0]] != cells
    for cell in np.unique(cells[elsewhere]):
        queries = np.flatnonzero(elsewhere & (cells == cell))
        known = View(train, np.flatnonzero(train_cells == cell))
        distances, _ = nearest(embedder, View(images, queries), known, 1, settings=search)
        result[queries] = distances[:, 0]
    return result


def nearest_within(
    embedder: Embedder,
    train: Images,
    indices: tuple[np.ndarray, ...],
    search: SearchSettings | None,
) -> list[np.ndarray]:
    """How far the training images of these indices are from their nearest other one."""
    distinct, back = np.unique(np.concatenate(indices), return_inverse=True)
    # The image finds itself too, at 0; the second distance is that of another, even of a copy.
    distances, _ = nearest(embedder, View(train, distinct), train, 2, settings=search)
    return np.split(distances[:, 1][back], np.cumsum([len(i) for i in indices])[:-1])


def partition(train: Images, cells: Cells, *others: Images) -> list[np.ndarray]:
    """The cell of each training image, and of each of the other images: that of the nearest centre.

    Centres: k-means of pixels (scikit-learn), on the first CLUSTERED training images;
    deterministic by seed. One that no training image is nearest to is left out."""
    from sklearn.cluster import KMeans

    known = pixels(train[:CLUSTERED])
    count = min(cells.count, len(np.unique(known, axis=0)))
    means = KMeans(count, n_init=4, random_state=cells.seed % 2**32).fit(known)
    centres = means.cluster_centers_
    of_train = nearest_centres(train, centres)
    used, of_train = np.unique(of_train, return_inverse=True)
    return [of_train, *(nearest_centres(images, centres[used]) for images in others)]


def nearest_centres(images: Images, centres: np.ndarray) -> np.ndarray:
    """The index of the centre [c, D] that is nearest to each image [n, C, H, W]: int64 [n]."""
    from sklearn.metrics import pairwise_distances_argmin

    blocks = (images[start : start + CLUSTERED] for start in range(0, len(images), CLUSTERED))
    return np.concatenate([pairwise_distances_argmin(pixels(part), centres) for part in blocks])


def pixels(images: Tensor) -> np.ndarray:
    """float64 [n, D] in [-1, 1]."""
    return as_float(images).flatten(1).double().numpy()
