"""Counts for other thresholds equal those of the verdicts themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.judged import (
    counts,
    judged_counts,
    judged_distances,
    real_sets,
    shares_at,
)
from utils.stages.classify.verdicts import classify_by_distance, classify_by_ratio
from utils.stages.report.what_if import EDGES, cells, make_axis, scaled, what_if


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
    s_1 = draw.integers(0, 9, n).astype(np.float32)
    judged = judged_distances(2, d_1, s_1)[0]
    judged.row["criterion"] = "ratio"
    x, y = scaled(judged, np.stack([d_1, d_2], axis=1), s_1)
    axes = make_axis([x], 1 / 3, strict=True), make_axis([y], 1 / 3, strict=True)
    found = shares_at(cells(*axes, x, y), axes[0].at, axes[1].at)
    d_1 = np.where(d_1 == 0, 0, d_1)
    assert found == counts(classify_by_ratio(d_1, d_2, s_1))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), delta_m=st.floats(0, 30, width=32))
def test_thresholds_of_each_k_are_at_one(seed, delta_m):
    """Relative to its own thresholds each K is judged as it was, ties and zeros too."""
    draw = np.random.default_rng(seed)
    d_1, s_1 = (draw.integers(0, 40, (2, 100)) / 4).astype(np.float32)
    judged, labels = judged_distances(2, d_1, s_1, None, "calibrated", (delta_m, 2.25))
    content = what_if([judged])
    at = [axis["at"] for axis in content["axes"]]
    assert [axis["edges"][i] for axis, i in zip(content["axes"], at)] == [1, 1]
    assert shares_at(content["cells"][0], *at) == counts(labels)


def test_real_images_are_counted_beside_the_samples():
    real = real_sets(2, 100, spurious=6)
    judged = judged_counts(8, 30, 20, 100, real)
    content = what_if([judged])
    at = [axis["at"] for axis in content["axes"]]
    assert shares_at(content["cells"][0], *at) == (30, 20, 50)
    assert shares_at(content["real_cells"][0], *at) == (0, 6, 194)
    assert content["real_samples"] == [200] and what_if([]) is None


@pytest.mark.parametrize("threshold", [0, 1e-9, 0.3, 5, 5.4, 9, 1e12])
def test_an_axis_has_the_threshold_on_it_and_few_edges(threshold):
    axis = make_axis([np.array([0.5, 5.0]), np.array([np.inf])], threshold)
    assert axis.edges[axis.at] == threshold and axis.edges[0] == 0
    assert (np.diff(axis.edges) > 0).all() and len(axis.edges) <= 2 * EDGES
    assert axis.edges[-1] >= 5


def test_an_axis_of_nothing():
    assert make_axis([np.array([np.inf])], 0.4).edges[-1] >= 0.4
    assert make_axis([np.zeros(3)], 0).at == 0
