"""Duplicates and near-duplicates among training images, which must not hide copies of them.

A copy of an image that occurs twice has two training images at the same distance, so that the
published ratio test misses it: d_1 / d_2 is 1."""

from __future__ import annotations

import numpy as np

from utils.data.views import Images, image_digests
from utils.descriptors.embedders import Embedder
from utils.metrics.nearest import SearchSettings, nearest

RATIO = 3  # of the ratio test: d_1 < d_2 / RATIO
NEAR_DEPTH = 10  # so many near-duplicates of one image are seen
MOST_NEAR = 100_000  # images up to which near-duplicates among them are looked for by default


def duplicate_groups(
    embedder: Embedder, images: Images, settings: SearchSettings | None = None
) -> np.ndarray:
    """The group of duplicates that each image is in, int64 [K]: equal pixels, joined with
    near-duplicates (`near_groups`) up to MOST_NEAR images. Alone in its group: no duplicate."""
    numbers: dict[bytes, int] = {}
    exact = np.array([numbers.setdefault(d, len(numbers)) for d in image_digests(images)])
    first = np.unique(exact, return_index=True)[1]
    if not 2 < len(first) <= MOST_NEAR:
        return exact
    distinct = images[first]
    distances, neighbours = nearest(
        embedder, distinct, distinct, NEAR_DEPTH, exclude_self=True, settings=settings
    )
    return near_groups(np.sqrt(distances) if embedder.squared else distances, neighbours)[exact]


def gap_sizes(lengths: np.ndarray) -> np.ndarray:
    """How many of the nearest images are near-duplicates of an image: int64 [n].

        the largest m with d_m < d_{m+1} / 3; 0 without one

    lengths [n, k]: d_1 <= d_2 <= ... of each image to other ones, Euclidean. It is the ratio test
    (Yoon et al. 2023), for a group of images instead of one."""
    if lengths.shape[1] < 2:
        return np.zeros(len(lengths), np.int64)
    gaps = RATIO * lengths[:, :-1].astype(np.float64) < lengths[:, 1:]
    last = gaps.shape[1] - np.argmax(gaps[:, ::-1], axis=1)
    return np.where(gaps.any(1), last, 0)


def near_groups(lengths: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """The group of near-duplicates that each of n images is in: int64 [n], a number for each group;
    an image without near-duplicates is alone in its group.

    Two images are linked where each is among the near-duplicates of the other by `gap_sizes`.
    lengths, neighbours [n, k]: the nearest other images of each, ascending."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(lengths)
    inside = np.arange(lengths.shape[1]) < gap_sizes(lengths)[:, None]
    rows, columns = np.nonzero(inside)
    one_way = coo_matrix((np.ones(len(rows)), (rows, neighbours[rows, columns])), (n, n)).tocsr()
    both_ways = one_way.multiply(one_way.T)
    return connected_components(both_ways, directed=False)[1].astype(np.int64)


def nearest_different(
    distances: np.ndarray, neighbours: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """The distances [n, 2] to the nearest training image, and to the nearest *different* one, which
    is no duplicate of it; [n, 1] where there is one neighbour.

    Without duplicates that are the first two columns. Where all k neighbours are of one group the
    different one is farther than the last, which is taken. distances, neighbours [n, k]: the
    nearest training images, ascending; groups [K]: of `duplicate_groups`."""
    if distances.shape[1] < 2:
        return distances
    others = groups[neighbours] != groups[neighbours[:, :1]]
    others[:, -1] = True
    second = np.take_along_axis(distances, np.argmax(others, axis=1)[:, None], axis=1)
    return np.concatenate([distances[:, :1], second], axis=1)
