"""Half points against curves whose crossing is known, and intervals against their coverage."""

import numpy as np
import pytest

from utils.stages.classify.summary import judge_row
from utils.stages.classify.transition import (
    ESTIMATE_COLUMNS,
    HalfPoint,
    estimates,
    half_point,
    in_words,
    transition,
)

SIZES = np.array([2.0, 8.0, 32.0, 128.0, 512.0])


def rows_of(memorized, spurious, n=200):
    """Rows of summary.csv for SIZES, from the counts of two classes."""
    return [
        judge_row(int(k), np.repeat([0, 1, 2], [m, s, n - m - s]), 1.0, 1.0, "delta", "l2")
        for k, m, s in zip(SIZES, memorized, spurious)
    ]


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("k", [2.0, 3.0, 8.0, 100.0, 511.0, 512.0])
def test_a_line_in_ln_k_is_crossed_where_it_is(k, rising):
    slope = 0.05 if rising else -0.05
    shares = 0.5 + slope * np.log(SIZES / k)
    assert half_point(SIZES, shares, rising) == pytest.approx(k, rel=1e-9)


@pytest.mark.parametrize(("shares", "k"), [([0.6, 0.7], 0), ([0.1, 0.4], np.inf), ([0.0, 1.0], 4)])
def test_outside_of_the_sweep_it_is_nought_or_infinite(shares, k):
    assert half_point(np.array([2.0, 8.0]), np.array(shares), rising=True) == pytest.approx(k)
    assert half_point(np.array([2.0, 8.0]), 1 - np.array(shares), rising=False) == pytest.approx(k)


def test_a_single_size():
    assert half_point(SIZES[:1], np.array([0.2]), True) == np.inf
    assert half_point(SIZES[:1], np.array([0.2]), False) == 0
    (row,) = rows_of([150], [30])
    result = transition([row])
    assert result.memorized.value == np.inf and result.generalized.value == np.inf
    assert "above 2" in in_words(result)


def test_a_dent_in_the_curve_gives_one_crossing():
    """0.55 before 0.45: the two are one half, and the crossing lies between them."""
    shares = np.array([0.0, 0.55, 0.45, 1.0, 1.0])
    assert 8 <= half_point(SIZES, shares, True) <= 32
    straight = np.array([0.0, 0.2, 0.45, 1.0, 1.0])
    assert half_point(SIZES, straight, True) == pytest.approx(
        np.exp(np.log(32) + 0.05 / 0.55 * np.log(4))
    )


def test_intervals_cover_the_true_half_point_about_19_times_in_20():
    """Sets of 200 samples drawn from a logistic curve; its half point is at K = 40."""
    truth = 1 / (1 + np.exp(2 * np.log(SIZES / 40)))
    exact = half_point(SIZES, truth, False)  # of the interpolation, the curve is not linear
    draw, tries, covered = np.random.default_rng(1), 200, 0
    for _ in range(tries):
        result = transition(rows_of(draw.binomial(200, truth), np.zeros(5, int))).memorized
        covered += result.low <= exact <= result.high
    assert 0.90 <= covered / tries <= 0.99


def test_the_seed_alone_decides_and_the_order_of_rows_does_not():
    rows = rows_of([198, 170, 90, 20, 0], [1, 10, 40, 30, 1])
    result = transition(rows)
    assert result == transition(rows[::-1]) and result.memorized.low < result.memorized.high
    assert 8 < result.memorized.low <= result.memorized.value <= result.memorized.high < 128
    assert result.memorized.value < result.generalized.value


def test_where_spurious_states_appear():
    result = transition(rows_of([198, 170, 90, 20, 0], [1, 10, 40, 30, 1]))
    assert result.spurious == (8, 128) and result.peak == (32, 0.2)
    words = in_words(result)
    assert "spurious states from K = 8 to 128, most at K = 32 (20.0 %)" in words
    assert "half the samples are memorized up to K = " in words and "generalized from K = " in words
    assert "no K has significantly" in in_words(transition(rows_of([9, 8, 4, 3, 2], [0] * 5)))


def test_nothing_judged_is_refused():
    with pytest.raises(ValueError, match="rows: found none"):
        transition([])


def test_ends_are_put_in_words():
    result = transition(rows_of([0] * 5, [0] * 5))
    assert result.memorized == HalfPoint(0, 0, 0) and result.generalized == HalfPoint(0, 0, 0)
    assert "memorized up to a K below 2" in in_words(result)


def test_the_columns_of_the_summary_say_what_the_words_say():
    result = transition(rows_of([200, 200, 100, 0, 0], [0, 0, 50, 50, 0]))
    columns = estimates(result)
    assert tuple(columns) == ESTIMATE_COLUMNS
    assert columns["memorized_half"] == pytest.approx(32)
    assert columns["generalized_half_low"] == result.generalized.low
    assert (columns["spurious_from"], columns["spurious_to"]) == (32, 128)
    columns = estimates(transition(rows_of([200] * 5, [0] * 5)))
    assert columns["memorized_half"] == columns["generalized_half_high"] == np.inf
    assert columns["spurious_from"] is columns["spurious_to"] is None
