"""Results for other thresholds: the samples of each K, counted in bins on two axes.

x is the value that decides about memorization (the distance to the nearest training image, or
d_1 / d_2 for the ratio criterion), y the distance to the nearest other sample. Bin i has the
samples that are inside a threshold at edge i and outside one at edge i - 1. Counts for thresholds
at edges are therefore exact, whatever the number of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.cli.options.choices import CLASSES
from utils.figures.style import distance_label
from utils.stages.classify.verdicts import nearest_column
from utils.stages.distances.files import Distances

EDGES = 60  # about so many on an axis
# Options that all K must share: the sliders start from one pair of thresholds in one unit.
SHARED = ("criterion", "metric", "delta_m", "delta_s")


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


def what_if(
    rows: Sequence[Mapping[str, Any]], dists: Mapping[int, Distances]
) -> dict[str, Any] | None:
    """What the page needs to count samples for any two thresholds; None without distances.

    rows: of summary.csv. A K is left out if it was classified with other options than the first
    K, or if its distances have another metric or too few neighbours."""
    rows = [row for row in rows if row["K"] in dists]
    if not rows:
        return None
    first = rows[0]
    is_ratio = first["criterion"] == "ratio"
    neighbours = 2 if is_ratio else 1
    usable = {
        row["K"]: dists[row["K"]]
        for row in rows
        if all(row[name] == first[name] for name in SHARED)
        and dists[row["K"]].metric_name == row["metric"]
        and dists[row["K"]].arrays["data-dists"].shape[1] >= neighbours
    }
    delta_m, delta_s = 1 / 3 if is_ratio else first["delta_m"], first["delta_s"]
    if not usable or delta_m is None or delta_s is None:
        return None
    x = {k: memorization_values(d, is_ratio) for k, d in usable.items()}
    y = {k: nearest_column(d.arrays["synth-dists"]) for k, d in usable.items()}
    x_axis = make_axis(list(x.values()), delta_m, strict=is_ratio)
    y_axis = make_axis(list(y.values()), delta_s)
    unit = distance_label(first["metric"])
    if is_ratio:
        x_label = "d₁ / d₂, of the two nearest training images"
    else:
        x_label = f"Distance to the nearest training image, {unit}"
    y_label = f"Distance to the nearest other sample, {unit}"
    return {
        "sizes": list(usable),
        "names": list(CLASSES),
        "axes": [x_axis.content(x_label, "δₘ"), y_axis.content(y_label, "δₛ")],
        "cells": [cells(x_axis, y_axis, x[k], y[k]) for k in usable],
        "samples": [len(x[k]) for k in usable],
    }


def memorization_values(dists: Distances, is_ratio: bool) -> np.ndarray:
    """What decides about memorization, [N]: the distance to the nearest training image, or
    d_1 / d_2 of the two nearest (0 if d_1 is 0)."""
    near = dists.arrays["data-dists"]
    if not is_ratio:
        return nearest_column(near)
    d_1, d_2 = near[:, 0].astype(np.float64), near[:, 1].astype(np.float64)
    return np.divide(d_1, d_2, out=np.zeros(len(d_1)), where=d_1 > 0)
