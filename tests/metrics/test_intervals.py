"""Intervals against scipy and against their coverage, on real images too."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, fisher_exact

from tests.helpers.images import nearest_within, real_digits
from utils.metrics import intervals as statistics
from utils.metrics.intervals import (
    error_rate_interval,
    exceeds,
    holm,
    neighbour_interval,
    wilson_interval,
)


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


@pytest.fixture(scope="module")
def sets_of_digits():
    """Nearest-neighbour distances within 600 sets of 256 real digits: [600, 256]."""
    digits, draw = real_digits().flatten(1).double().numpy(), np.random.default_rng(0)
    return np.stack([nearest_within(digits[draw.permutation(1797)[:256]]) for _ in range(600)])


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_intervals_of_neighbours_cover_the_share_of_real_images(sets_of_digits, share):
    """The share is that of all sets at one threshold. Wilson's own interval fails this test."""
    hits = (sets_of_digits <= np.quantile(sets_of_digits, share)).sum(axis=1)
    truth = hits.mean() / 256

    def coverage(interval):
        ends = np.array([interval(int(n), 256) for n in hits])
        return np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))

    assert coverage(neighbour_interval) >= 0.93
    assert coverage(wilson_interval) < 0.92


@pytest.mark.slow
def test_real_images_exceed_real_images_in_five_of_a_hundred_sweeps_at_most(sets_of_digits):
    """Sweeps of eight K whose samples are real images, at the 1 % threshold of other sets.

    The control is one set, or four. Without Holm's correction, or without halved counts, more
    sweeps have a K with "spurious states"."""
    draw, sweeps, found = np.random.default_rng(1), 600, 0
    for i in range(sweeps):
        p_values = []
        for _ in range(8):
            sets = sets_of_digits[draw.integers(0, 600, 9)]
            delta = np.quantile(sets[5:], 0.01)
            hits = (sets <= delta).sum(axis=1)
            control = hits[1:2] if i % 2 else hits[1:5]
            p_values.append(exceeds(int(hits[0]), 256, int(control.sum()), 256 * len(control)))
        found += (holm(p_values) <= 0.05).any()
    assert found <= binom.ppf(0.999, sweeps, 0.05)
    assert exceeds(40, 256, 2, 256) < 0.001  # it does see a difference


def test_the_counts_of_a_comparison_are_those_of_pairs():
    assert exceeds(0, 256, 0, 256) == 1
    table = [[20, 108], [1, 127]]  # half of 40 and of 2
    assert exceeds(40, 256, 2, 256) == pytest.approx(fisher_exact(table, "greater").pvalue)
    assert exceeds(41, 256, 1, 256) == exceeds(40, 256, 2, 256)  # rounded against the result
    with pytest.raises(ValueError, match="count: found 3 of 2"):
        exceeds(3, 2, 0, 4)


@pytest.mark.parametrize(("rank", "n"), [(2, 297), (17, 1733), (1, 99)])
def test_the_error_rate_of_an_order_statistic_lies_in_its_interval(rank, n):
    """Uniform values: the threshold is its own error rate."""
    draw = np.random.default_rng(0)
    rates = np.partition(draw.random((4000, n)), rank - 1, axis=1)[:, rank - 1]
    low, high = error_rate_interval(rank, n)
    assert np.mean((low <= rates) & (rates <= high)) == pytest.approx(0.95, abs=0.015)
    with pytest.raises(ValueError, match="rank: found 0"):
        error_rate_interval(0, n)
