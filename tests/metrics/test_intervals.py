"""Intervals against scipy, and thresholds against their definition and on real images."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from utils.metrics import intervals as statistics
from utils.metrics.intervals import holm, wilson_interval
from utils.stages.classify.thresholds import quantile_threshold, smallest_share


def test_examples():
    assert doctest.testmod(statistics).failed == 0


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(
    ("x", "n"), [(0, 1), (1, 1), (0, 256), (3, 256), (128, 256), (9999, 10_000)]
)
def test_wilson_agrees_with_scipy(x, n, confidence):
    theirs = binomtest(x, n).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(x, n, confidence)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= low <= x / n <= high <= 1


def test_nothing_observed_says_nothing():
    assert wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("x", "n"), [(2, 1), (-1, 3), (0, -1)])
def test_impossible_counts_are_refused(x, n):
    with pytest.raises(ValueError, match=f"successes: found {x} of {n}"):
        wilson_interval(x, n)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_impossible_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence: found"):
        wilson_interval(1, 2, confidence)


@pytest.mark.parametrize(("q", "rank"), [(0.01, 1), (0.019, 1), (0.29, 29), (0.5, 50), (0.999, 99)])
def test_without_ties_it_is_an_order_statistic(q, rank):
    values = np.random.default_rng(0).permutation(100) + 1.0
    assert quantile_threshold(values, q) == rank


# Few different values, so that ties are the rule.
@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_the_largest_value_with_at_most_the_share(values, q):
    distances = np.array(values, np.float32)
    limit = q * len(values) + 1e-6
    allowed = [v for v in values if sum(w <= v for w in values) <= limit]
    if allowed:
        assert quantile_threshold(distances, q) == max(allowed)
        assert q >= smallest_share(distances) - 1e-6
    else:
        assert q < smallest_share(distances)
        with pytest.raises(ValueError, match="q: found"):
            quantile_threshold(distances, q)


def test_a_further_distance_lies_below_with_probability_m_over_n_plus_1():
    """Exchangeable: P(d <= threshold) = floor(q n) / (n + 1), here 2 / 26."""
    draws = np.random.default_rng(1).exponential(size=(20_000, 26))
    below = [new <= quantile_threshold(known, 0.08) for *known, new in draws]
    assert np.mean(below) == pytest.approx(2 / 26, abs=4 * math.sqrt(2 / 26 / 20_000))


@pytest.mark.parametrize("distances", [[], [1.0, math.nan], [1.0, math.inf], [-1.0, 2.0]])
def test_distances_that_are_none_are_refused(distances):
    with pytest.raises(ValueError, match="distances: found"):
        quantile_threshold(distances, 0.5)


@pytest.mark.parametrize("q", [0, 1, -0.1, math.nan])
def test_impossible_shares_are_refused(q):
    with pytest.raises(ValueError, match="q: found"):
        quantile_threshold([1.0, 2.0], q)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_its_step_down_definition(p):
    """Reject the smallest p while p_(i) <= a / (m - i + 1)."""
    corrected, ascending = holm(p), sorted(p)
    for level in (0.01, 0.05, 0.3):
        rejected = 0
        while rejected < len(p) and ascending[rejected] * (len(p) - rejected) <= level:
            rejected += 1
        assert (corrected <= level).sum() == rejected


def test_holm_bounds_the_chance_of_any_false_verdict():
    """Eight tests of what is true: without correction a third of the sweeps has a false one."""
    p = np.random.default_rng(0).random((4000, 8))
    assert np.mean((p <= 0.05).any(axis=1)) > 0.3
    assert np.mean([(holm(row) <= 0.05).any() for row in p]) < 0.06
    with pytest.raises(ValueError, match="within 0 to 1"):
        holm([0.5, np.nan])
