"""What other thresholds would have said: every sample's place on two axes cut into bins.

x is what memorization is judged by (the distance to the nearest training image; d_1 / d_2 with the
ratio criterion), y the distance to the nearest other sample. Bin i holds the samples that a
threshold at edge i still takes in and one at edge i - 1 does not, so that counts for thresholds at
edges are exact, whatever the number of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EDGES = 60  # about so many on an axis


@dataclass(frozen=True)
class Axis:
    """Edges [E] ascending from 0; `at` is the position of the threshold that was used.

    strict: a sample at the threshold itself is outside (the ratio criterion)."""

    edges: np.ndarray
    at: int
    strict: bool = False

    def bins(self, values: np.ndarray) -> np.ndarray:
        """int64 [N]: the first edge that takes each value in; E where none does."""
        return np.searchsorted(self.edges, values, side="right" if self.strict else "left")


def make_axis(values: Sequence[np.ndarray], threshold: float, strict: bool = False) -> Axis:
    """An axis over all values (arrays [N], any N; infinite ones lie beyond it), one edge of which
    is the threshold, in the values' precision. threshold >= 0."""
    finite = [np.asarray(v)[np.isfinite(v)] for v in values]
    kind = np.result_type(*values) if len(values) else np.float64
    threshold = float(kind.type(threshold)) if kind.kind == "f" else float(threshold)
    top = max([float(v.max()) for v in finite if len(v)] + [0.0]) * 1.001
    top = max(top, min(threshold, 2 * top) if top else threshold) or 1.0
    steps = round(EDGES * threshold / top) if threshold <= top else 0
    if steps:  # a grid that the threshold lies on
        count = int(np.ceil(top / threshold * steps))
        edges = np.arange(count + 1) * (threshold / steps)
        edges[steps] = threshold
    else:  # too near to 0, or beyond every value
        edges = np.unique([*np.linspace(0, top, EDGES + 1), threshold])
    return Axis(edges, int(np.searchsorted(edges, threshold)), strict)


def cells(x_axis: Axis, y_axis: Axis, x: np.ndarray, y: np.ndarray) -> list[int]:
    """The bins that hold samples, flat: i, j, count, i, j, count, ..."""
    pairs = np.stack([x_axis.bins(x), y_axis.bins(y)], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return np.column_stack([found, counts]).ravel().tolist()


def shares_at(flat: Sequence[int], i: int, j: int) -> tuple[int, int, int]:
    """(memorized, spurious, generalized): counts for thresholds at edge i of x and edge j of y."""
    table = np.reshape(flat, (-1, 3))
    memorized = table[:, 0] <= i
    near = ~memorized & (table[:, 1] <= j)
    counts = (int(table[part, 2].sum()) for part in (memorized, near, ~memorized & ~near))
    return tuple(counts)
