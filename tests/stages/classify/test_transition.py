"""Half points against curves whose crossing is known, and intervals against their coverage."""

import numpy as np
import pytest
from scipy.stats import norm

from tests.helpers.judged import judged_counts, judged_distances, real_sets
from utils.stages.classify.held_out import HeldOut
from utils.stages.classify.thresholds import conformal_threshold
from utils.stages.classify.transition import (
    DRAWS,
    ESTIMATE_COLUMNS,
    Crossing,
    crossing,
    estimates,
    in_words,
    resampled_limits,
    resampled_threshold,
    spurious_sizes,
    transition,
)

SIZES = np.array([2.0, 8.0, 32.0, 128.0, 512.0])


def sweep_of(memorized, spurious, n=200, real=None):
    """Judged K of SIZES, from the counts of two classes."""
    return [judged_counts(int(k), m, s, n, real) for k, m, s in zip(SIZES, memorized, spurious)]


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("level", [0.5, 0.7])
@pytest.mark.parametrize("k", [2.0, 3.0, 8.0, 100.0, 511.0, 512.0])
def test_a_line_in_ln_k_is_crossed_where_it_is(k, level, rising):
    slope = 0.05 if rising else -0.05
    shares = level + slope * np.log(SIZES / k)
    assert crossing(SIZES, shares, level, rising) == pytest.approx(k, rel=1e-9)


@pytest.mark.parametrize(("shares", "k"), [([0.6, 0.7], 0), ([0.1, 0.4], np.inf), ([0.0, 1.0], 4)])
def test_outside_of_the_sweep_it_is_nought_or_infinite(shares, k):
    sizes, shares = np.array([2.0, 8.0]), np.array(shares)
    assert crossing(sizes, shares, 0.5, rising=True) == pytest.approx(k)
    assert crossing(sizes, 1 - shares, 0.5, rising=False) == pytest.approx(k)


def test_a_single_size_has_no_half_point():
    """One K of 38 % says nothing about where half of the samples are memorized."""
    result = transition([judged_counts(200, 76, 30)])
    assert not result.crossings and "half" not in in_words(result)
    columns = estimates(result)
    assert columns["memorized_half"] is columns["emm_high"] is None


def test_a_dent_in_the_curve_gives_one_crossing():
    """0.55 before 0.45: the two are one half, and the crossing lies between them."""
    shares = np.array([0.0, 0.55, 0.45, 1.0, 1.0])
    assert 8 <= crossing(SIZES, shares, 0.5, True) <= 32
    straight = np.array([0.0, 0.2, 0.45, 1.0, 1.0])
    assert crossing(SIZES, straight, 0.5, True) == pytest.approx(
        np.exp(np.log(32) + 0.05 / 0.55 * np.log(4))
    )


def test_emm_is_the_largest_k_with_nine_tenths_memorized():
    """95 % at 8 and 85 % at 32: 90 % half way in ln K."""
    result = transition(sweep_of([200, 190, 170, 20, 0], [0] * 5))
    emm = result.crossings["emm"]
    assert emm.value == pytest.approx(16) and 8 < emm.low < 16 < emm.high < 64
    assert "90 % are memorized up to K = 16" in in_words(result)


def sweep_of_a_world(generator, with_control):
    """Five K, 200 samples each, and 300 held-out images, the same at every K: all distances are
    lognormal around a K's typical one. A share `NEAR` of the samples lies around the 1 % quantile
    of real images, the others are as real images are."""
    images = generator.normal(size=300)
    sweep = []
    for size, near in zip(SIZES, NEAR, strict=True):
        typical = 1 / np.sqrt(size)
        held_out = (typical * np.exp(images / 3)).astype(np.float32)
        delta_m, _ = conformal_threshold(held_out, 0.01)
        z = generator.normal(size=200)
        z = np.where(generator.random(200) < near, QUANTILE + 0.35 * (z - 0.8), z)
        within = np.full((1, 200), 9, np.float32)
        real = HeldOut(np.stack([held_out, 2 * held_out], axis=1), within, 0)
        criterion = ("calibrated" if with_control else "delta", (delta_m, 1.0))
        d_train = typical * np.exp(z / 3)
        sweep.append(judged_distances(int(size), d_train, np.full(200, 99), real, *criterion)[0])
    return sweep


NEAR = 1 / (1 + np.exp(2 * np.log(SIZES / 40)))
QUANTILE = norm.ppf(0.01)
TRUTH = float(crossing(SIZES, NEAR * norm.cdf(0.8) + (1 - NEAR) * 0.01, 0.5, rising=False))


@pytest.mark.slow
def test_intervals_cover_the_true_half_point_about_19_times_in_20():
    """Samples and held-out images are drawn anew for each sweep. Without the noise of the
    thresholds the interval covers the truth far less often."""
    tries, covered = 100, {}
    for with_control in (True, False):
        generator, inside = np.random.default_rng(1), 0
        for _ in range(tries):
            sweep = sweep_of_a_world(generator, with_control)
            half = transition(sweep).crossings["memorized_half"]
            inside += half.low <= TRUTH <= half.high
        covered[with_control] = inside / tries
    assert covered[True] >= 0.93 and covered[False] < 0.7, covered


def test_thresholds_of_a_draw_are_those_of_its_images():
    """Against conformal_threshold of the images, repeated as often as they were drawn."""
    draw = np.random.default_rng(0)
    values = np.sort(draw.integers(1, 40, 60)).astype(np.float64)
    counts = draw.poisson(1, (200, 60))
    found = resampled_threshold(values, counts, 5)
    for one, threshold in zip(counts, found, strict=True):
        drawn = np.repeat(values, one)
        allowed = [v for v in values if (drawn <= v).sum() <= 5]
        assert threshold == max(allowed, default=-1)


def test_thresholds_err_together_at_every_k():
    """One image is drawn as often at every K, wherever the held-out images of that K begin."""
    images = np.random.default_rng(0).exponential(size=1000)
    limits = []
    for first in (0, 100):
        near = np.repeat(images[first:, None], 2, axis=1).astype(np.float32)
        real = HeldOut(near, np.full((1, 20), 9, np.float32), first)
        one, _ = judged_distances(2, np.ones(20), np.ones(20), real, "calibrated", (0.1, 1.0))
        limits.append(resampled_limits(one, 0)[0])
    assert limits[0].shape == (DRAWS,) and np.corrcoef(*limits)[0, 1] > 0.7
    assert limits[0].std() > 0


def test_the_seed_alone_decides_and_the_order_of_rows_does_not():
    sweep = sweep_of([198, 170, 90, 20, 0], [1, 10, 40, 30, 1])
    result = transition(sweep)
    assert result == transition(sweep[::-1])
    half = result.crossings["memorized_half"]
    assert 8 < half.low <= half.value <= half.high < 128 and half.low < half.high
    assert half.value < result.crossings["generalized_half"].value


def test_spurious_states_are_those_beyond_the_control():
    real = real_sets(2, 200, spurious=4)  # 1 % of real images
    result = transition(sweep_of([198, 170, 90, 20, 0], [1, 10, 40, 30, 1], real=real))
    assert result.spurious == (32, 128) and result.peak["K"] == 32
    words = in_words(result)
    assert "spurious states from K = 32 to 128, most at K = 32 (20.0 %; 1.0 % of real" in words
    one = transition(sweep_of([9, 8, 4, 3, 2], [1, 1, 40, 1, 1], real=real))
    assert "spurious states at K = 32 (20.0 %; 1.0 % of real images)" in in_words(one)
    none = transition(sweep_of([9, 8, 4, 3, 2], [4] * 5, real=real))
    assert none.spurious == () and "at no K more spurious samples" in in_words(none)
    unknown = transition(sweep_of([9, 8, 4, 3, 2], [0, 0, 40, 0, 0]))
    assert unknown.spurious is None and "no control on real images" in in_words(unknown)


def test_one_of_many_k_must_be_clearer_than_a_single_one():
    """p = 0.03 is significant for one K, not as the smallest of eight (Holm)."""
    rows = [{"K": k, "spurious_p": 0.03 if k == 4 else 0.5} for k in range(2, 10)]
    assert spurious_sizes(rows[2:3]) == (4,) and spurious_sizes(rows) == ()
    assert spurious_sizes([{"K": 4, "spurious_p": 0.006}, *rows[3:]]) == (4,)
    assert spurious_sizes([{"K": 2, "spurious_p": None}]) is None


def test_nothing_judged_is_refused():
    with pytest.raises(ValueError, match="rows: found none"):
        transition([])


def test_ends_are_put_in_words():
    result = transition(sweep_of([0] * 5, [0] * 5))
    assert set(result.crossings.values()) == {Crossing(0, 0, 0)}
    assert "memorized up to a K below 2" in in_words(result)


def test_the_columns_of_the_summary_say_what_the_words_say():
    real = real_sets(2, 200)
    result = transition(sweep_of([200, 200, 100, 0, 0], [0, 0, 50, 50, 0], real=real))
    columns = estimates(result)
    assert tuple(columns) == ESTIMATE_COLUMNS
    assert columns["memorized_half"] == pytest.approx(32)
    assert columns["generalized_half_low"] == result.crossings["generalized_half"].low
    assert (columns["spurious_from"], columns["spurious_to"]) == (32, 128)
    columns = estimates(transition(sweep_of([200] * 5, [0] * 5, real=real)))
    assert columns["memorized_half"] == columns["generalized_half_high"] == np.inf
    assert columns["spurious_from"] is columns["spurious_to"] is None
