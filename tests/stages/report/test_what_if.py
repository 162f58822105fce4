"""Counts for other thresholds equal those of the verdicts themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.thresholds import shares_at
from utils.stages.classify.verdicts import classify_by_distance, classify_by_ratio
from utils.stages.report.what_if import EDGES, cells, make_axis


def counts(labels):
    return tuple(int((labels == i).sum()) for i in range(3))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    delta_m=st.floats(0, 30, width=32),
    delta_s=st.floats(0, 30, width=32),
    n=st.integers(1, 300),
)
def test_every_edge_counts_as_the_verdict_at_that_threshold(seed, delta_m, delta_s, n):
    """Distances of a coarse grid: many lie on a threshold."""
    draw = np.random.default_rng(seed)
    x, y = (draw.integers(0, 40, (2, n)) / 4).astype(np.float32)
    y[draw.random(n) < 0.1] = np.inf  # no other sample
    axes = make_axis([x], delta_m), make_axis([y], delta_s)
    flat = cells(*axes, x, y)
    found = shares_at(flat, axes[0].at, axes[1].at)
    assert found == counts(classify_by_distance(x, y, delta_m, delta_s))
    for i, j in draw.integers(0, [len(axes[0].edges), len(axes[1].edges)], (5, 2)):
        # a threshold is rounded to the precision of the distances, as an edge may not be
        limits = (np.nextafter(np.float32(a.edges[e]), np.float32(0)) for a, e in zip(axes, (i, j)))
        limits = [
            np.float32(a.edges[e]) if np.float32(a.edges[e]) <= a.edges[e] else below
            for a, e, below in zip(axes, (i, j), limits)
        ]
        assert shares_at(flat, i, j) == counts(classify_by_distance(x, y, *limits))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300))
def test_the_ratio_criterion_at_its_third(seed, n):
    draw = np.random.default_rng(seed)
    d_1, d_2 = np.sort(draw.integers(0, 13, (2, n)).astype(np.float32), axis=0)
    y = draw.integers(0, 9, n).astype(np.float32)
    ratio = np.divide(d_1, d_2, out=np.zeros(n), where=d_1 > 0, dtype=np.float64)
    axes = make_axis([ratio], 1 / 3, strict=True), make_axis([y], 2)
    found = shares_at(cells(*axes, ratio, y), axes[0].at, axes[1].at)
    assert found == counts(classify_by_ratio(d_1, d_2, y, 2))


@pytest.mark.parametrize("threshold", [0, 1e-9, 0.3, 5, 5.4, 9, 1e12])
def test_an_axis_has_the_threshold_on_it_and_few_edges(threshold):
    axis = make_axis([np.array([0.5, 5.0]), np.array([np.inf])], threshold)
    assert axis.edges[axis.at] == threshold and axis.edges[0] == 0
    assert (np.diff(axis.edges) > 0).all() and len(axis.edges) <= 2 * EDGES
    assert axis.edges[-1] >= 5


def test_an_axis_of_nothing():
    assert make_axis([np.array([np.inf])], 0.4).edges[-1] >= 0.4
    assert make_axis([np.zeros(3)], 0).at == 0
