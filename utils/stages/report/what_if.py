"""Results for other thresholds: the samples of each K, counted in bins on two axes.

x is the value that decides about memorization, y the one that decides about spurious states: the
distances to the nearest training image and to the nearest other sample; relative to each K's own
thresholds where it has some (calibrated); d_1 / d_2 and s_1 / d_1 (ratio). Bin i has the samples
that are inside a threshold at edge i and outside one at edge i - 1. Counts for thresholds at edges
are therefore exact, whatever the number of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from utils.cli.options.choices import CLASSES, is_normalised
from utils.figures.style import distance_label
from utils.stages.classify.files import Judged
from utils.stages.classify.verdicts import euclidean

EDGES = 60  # about so many on an axis


@dataclass(frozen=True)
class Axis:
    """Edges [E] ascending from 0; `at` is the index of the threshold that was used.

    strict: a sample at the threshold itself is outside (the ratio criterion)."""

    edges: np.ndarray
    at: int
    strict: bool = False

    def bins(self, values: np.ndarray) -> np.ndarray:
        """int64 [N]: the first edge with each value inside; E if there is none."""
        return np.searchsorted(self.edges, values, side="right" if self.strict else "left")

    def content(self, label: str, symbol: str) -> dict[str, Any]:
        """The axis as plain values, for the page."""
        edges = [float(f"{edge:.6g}") for edge in self.edges]
        return {"edges": edges, "at": self.at, "label": label, "symbol": symbol}


def make_axis(values: Sequence[np.ndarray], threshold: float, strict: bool = False) -> Axis:
    """An axis over all finite values (arrays [N], any N), with the threshold as one edge, in the
    precision of the values. threshold >= 0."""
    finite = [np.asarray(v)[np.isfinite(v)] for v in values]
    kind = np.result_type(*values) if len(values) else np.float64
    threshold = float(kind.type(threshold)) if kind.kind == "f" else float(threshold)
    top = max([float(v.max()) for v in finite if len(v)] + [0.0]) * 1.001
    top = max(top, min(threshold, 2 * top) if top else threshold) or 1.0
    steps = round(EDGES * threshold / top) if threshold <= top else 0
    if steps:  # an even grid with the threshold on it
        count = int(np.ceil(top / threshold * steps))
        edges = np.arange(count + 1) * (threshold / steps)
        edges[steps] = threshold
    else:  # the threshold is too close to 0, or above every value
        edges = np.unique([*np.linspace(0, top, EDGES + 1), threshold])
    return Axis(edges, int(np.searchsorted(edges, threshold)), strict)


def cells(x_axis: Axis, y_axis: Axis, x: np.ndarray, y: np.ndarray) -> list[int]:
    """The bins with samples, flat: i, j, count, i, j, count, ..."""
    pairs = np.stack([x_axis.bins(x), y_axis.bins(y)], axis=1)
    bins, counts = np.unique(pairs, axis=0, return_counts=True)
    return np.column_stack([bins, counts]).ravel().tolist()


def what_if(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """What the page needs to count samples, and held-out real images, for any two thresholds; None
    where nothing was judged.

    A K is left out if it was judged by another criterion or metric than the first K, or by another
    pair of thresholds where all K share one."""
    shared = ["criterion", "metric"]
    if judged and is_absolute(judged[0]):
        shared += ["delta_m", "delta_s"]
    usable = [one for one in judged if all(one.row[name] == judged[0].row[name] for name in shared)]
    if not usable:
        return None
    scale = scale_of(usable[0])
    values = [scaled(one, one.distances.near, one.distances.neighbours) for one in usable]
    reals = [one.distances.real for one in usable]
    real = [scaled(one, *h.control) for one, h in zip(usable, reals, strict=True)]
    axes = [
        make_axis([pair[side] for pair in values], limit, scale.strict)
        for side, limit in enumerate(scale.limits)
    ]
    return {
        "sizes": [one.row["K"] for one in usable],
        "names": list(CLASSES),
        "axes": [
            axis.content(label, symbol)
            for axis, label, symbol in zip(axes, scale.labels, scale.symbols, strict=True)
        ],
        "cells": [cells(*axes, *pair) for pair in values],
        "samples": [len(x) for x, _ in values],
        "real_cells": [cells(*axes, *pair) for pair in real],
        "real_samples": [len(x) for x, _ in real],
    }


class Scale(NamedTuple):
    """The two axes of a criterion: thresholds used, labels, symbols; strict: see `Axis`."""

    limits: tuple[float, float]
    labels: tuple[str, str]
    symbols: tuple[str, str]
    strict: bool = False


NEAREST = ("Distance to the nearest training image", "Distance to the nearest other sample")


def is_absolute(judged: Judged) -> bool:
    """Whether all K share one pair of thresholds."""
    return judged.row["criterion"] not in ("calibrated", "ratio")


def scale_of(judged: Judged) -> Scale:
    """The axes of the criterion of this K."""
    row = judged.row
    if row["criterion"] == "ratio":
        labels = ("d₁ / d₂, of the two nearest training images", "s₁ / d₁, s₁ to the nearest other")
        return Scale((1 / 3, 1 / 3), labels, ("d₁ / d₂", "s₁ / d₁"), strict=True)
    if is_absolute(judged):
        unit = distance_label(row["metric"])
        if is_normalised(row["metric"]):
            unit += " (d = 1: cosine similarity 0.5; d = 0.5: 0.875)"
        labels = tuple(f"{name}, {unit}" for name in NEAREST)
        return Scale((row["delta_m"], row["delta_s"]), labels, ("δₘ", "δₛ"))
    labels = tuple(
        f"{name}, as a multiple of {symbol} of its K"
        for name, symbol in zip(NEAREST, ("δₘ", "δₛ"), strict=True)
    )
    return Scale((1.0, 1.0), labels, ("d₁ / δₘ", "s₁ / δₛ"))


def scaled(
    judged: Judged, near: np.ndarray, neighbours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What decides about memorization and about spurious states, [N] each, in units of the axes.

    near [N, 2], neighbours [N]: distances to the nearest training images and other image."""
    row, d_1 = judged.row, near[:, 0].astype(np.float64)
    s_1 = neighbours.astype(np.float64)
    if row["criterion"] == "ratio":
        d_1, d_2, s_1 = euclidean(row["metric"], d_1, near[:, 1].astype(np.float64), s_1)
        return over(d_1, d_2), over(s_1, d_1)
    if is_absolute(judged):
        return near[:, 0], neighbours
    return over(d_1, row["delta_m"]), over(s_1, row["delta_s"])


def over(values: np.ndarray, unit: ArrayLike) -> np.ndarray:
    """values / unit; 0 / 0 is 0: what is at no distance is inside any threshold."""
    unit = np.broadcast_to(np.asarray(unit, np.float64), values.shape)
    ratio = np.full(values.shape, np.inf)
    np.divide(values, unit, out=ratio, where=unit > 0)
    ratio[values == 0] = 0
    return ratio
