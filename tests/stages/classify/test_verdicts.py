"""Verdicts on distances made by hand, thresholds on real digits, and what is stored of a class."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tests.helpers.images import nearest_within, real_digits
from utils.cli.errors import UserError
from utils.cli.options.choices import CLASSES
from utils.stages.classify import verdicts
from utils.stages.classify.summary import SUMMARY_COLUMNS, judge_row
from utils.stages.classify.thresholds import calibrated_thresholds
from utils.stages.classify.verdicts import (
    classify_by_distance,
    classify_by_ratio,
    select,
    typicality_order,
)

INF = math.inf


def names(labels):
    return [CLASSES[label] for label in labels]


def test_examples():
    assert doctest.testmod(verdicts).failed == 0


@pytest.mark.parametrize(
    ("d_train", "d_synth", "verdict"),
    [
        (0.0, 9.0, "memorized"),
        (0.2, 9.0, "memorized"),  # a tie with delta_m
        (0.2, 0.0, "memorized"),  # near both: the training image decides
        (0.21, 0.3, "spurious"),  # a tie with delta_s
        (0.21, 0.0, "spurious"),
        (0.21, 0.31, "generalized"),
        (0.21, INF, "generalized"),  # no other sample
        (0.1, INF, "memorized"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_thresholds(d_train, d_synth, verdict, dtype):
    labels = classify_by_distance(np.array([d_train], dtype), np.array([d_synth], dtype), 0.2, 0.3)
    assert labels.dtype == np.int8 and names(labels) == [verdict]


def test_a_threshold_is_met_in_the_precision_of_the_distances():
    """float32(0.33) is 0.33000001: with --delta-m 0.33 it is a tie all the same."""
    d = np.array([0.33], np.float32)
    assert float(d[0]) > 0.33
    assert names(classify_by_distance(d, d, 0.33, 0)) == ["memorized"]


def test_unlimited_thresholds_find_no_sample_where_there_is_none():
    assert names(classify_by_distance([1.0], [INF], 0, INF)) == ["generalized"]
    assert names(classify_by_distance(np.float32([1.0]), [INF], 1e300, INF)) == ["memorized"]


@given(
    st.lists(st.tuples(st.floats(0, 4), st.floats(0, 4)), max_size=30),
    st.floats(0, 4),
    st.floats(0, 4),
)
@settings(deadline=None)
def test_every_sample_has_the_verdict_of_the_definition(pairs, delta_m, delta_s):
    d_train, d_synth = np.array(pairs, float).reshape(-1, 2).T
    expected = [
        "memorized" if m <= delta_m else "spurious" if s <= delta_s else "generalized"
        for m, s in pairs
    ]
    assert names(classify_by_distance(d_train, d_synth, delta_m, delta_s)) == expected


@pytest.mark.parametrize("bad", [[math.nan], [-1.0], [[1.0]]])
def test_what_is_no_distance_is_refused(bad):
    with pytest.raises(ValueError, match="d_train: found"):
        classify_by_distance(bad, [1.0], 1, 1)
    with pytest.raises(ValueError, match="d_synth: found"):
        classify_by_distance([1.0], bad, 1, 1)


def test_thresholds_and_lengths_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="delta_m: found nan"):
        classify_by_distance([1.0], [1.0], math.nan, 1)
    with pytest.raises(ValueError, match=r"d_synth: found shape \(2,\)"):
        classify_by_distance([1.0], [1.0, 2.0], 1, 1)


@pytest.mark.parametrize(
    ("d_1", "d_2", "d_synth", "verdict"),
    [
        (0.99, 3.0, 0.1, "memorized"),
        (1.0, 3.0, 0.1, "spurious"),  # exactly 1/3: not below
        (1.0, 3.0, 0.5, "generalized"),
        (0.5, 0.5, 9.0, "generalized"),  # near copy of an image held twice: missed, as documented
        (0.0, 0.0, 9.0, "memorized"),  # exact copy of one
        (0.0, 2.0, 9.0, "memorized"),
    ],
)
def test_ratio(d_1, d_2, d_synth, verdict):
    assert names(classify_by_ratio([d_1], [d_2], [d_synth], 0.4)) == [verdict]


def test_a_third_is_a_tie_at_every_scale():
    d_1 = np.random.default_rng(0).uniform(0.1, 9, 1000).astype(np.float32)
    d_2 = 3 * d_1.astype(np.float64)
    assert set(names(classify_by_ratio(d_1, d_2, d_2, 0))) == {"generalized"}
    assert set(names(classify_by_ratio(d_1, np.nextafter(d_2, 99), d_2, 0))) == {"memorized"}


def test_ratio_refuses_neighbours_in_disorder():
    with pytest.raises(ValueError, match="d_2: found values below d_1"):
        classify_by_ratio([2.0], [1.0], [1.0], 1)


def test_typical_first_and_equals_by_position():
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    d_train = np.array([0.2, 9, 9, 0.1, 9, 9, 0.2, 9, 9])
    d_synth = np.array([0, 0.3, 5, 0, 0.3, INF, 0, 0.1, 5])
    orders = [typicality_order(name, labels, d_train, d_synth).tolist() for name in CLASSES]
    assert orders == [[3, 0, 6], [7, 1, 4], [5, 2, 8]]
    with pytest.raises(ValueError, match="class_name: found 'copied'"):
        typicality_order("copied", labels, d_train, d_synth)


@given(st.integers(0, 12), st.integers(0, 8), st.integers(0, 8))
@settings(deadline=None)
def test_no_sample_is_stored_twice(n, top, least):
    order = np.random.default_rng(n).permutation(100)[:n]
    chosen, (first, last) = select(order, top, least)
    assert len(set(chosen)) == len(chosen) == first + last == min(n, top + least)
    assert first == min(n, top)
    np.testing.assert_array_equal(chosen[:first], order[:first])
    np.testing.assert_array_equal(chosen[first:], order[::-1][:last])


def test_negative_sizes_are_refused():
    with pytest.raises(ValueError, match="top, least: found -1, 2"):
        select(np.arange(3), -1, 2)


@pytest.fixture(scope="module")
def digits():
    """Real 8 x 8 digits as vectors in [-1, 1], [1797, 64]."""
    return real_digits().flatten(1).double().numpy()


@pytest.mark.parametrize("q", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_new_digits_are_misjudged_at_the_rate_asked_for(digits, seed, q):
    """Thresholds from one half of what is held out; the other half are really new images."""
    pool, known, new = np.split(np.random.default_rng(seed).permutation(digits), [798, 1298])
    assert len(known) == 500 and len(new) == 499
    delta_m, delta_s = calibrated_thresholds(
        cdist(known, pool).min(axis=1), nearest_within(known), q
    )
    d_train, d_synth = cdist(new, pool).min(axis=1), nearest_within(new)
    # Both the threshold and the rate come from about 500 draws; nearest neighbours within a set
    # come in pairs, so that only about half of these are independent.
    spread = math.sqrt(q * (1 - q) * (1 / 500 + 1 / 499))
    assert np.mean(d_train <= delta_m) == pytest.approx(q, abs=4 * spread)
    assert np.mean(d_synth <= delta_s) == pytest.approx(q, abs=4 * math.sqrt(2) * spread)
    # With fewer training images than the pool has, fewer are called memorized.
    few = cdist(new, pool[:100]).min(axis=1)
    assert np.mean(few <= delta_m) <= np.mean(d_train <= delta_m)
    labels = classify_by_distance(d_train, d_synth, delta_m, delta_s)
    assert names(labels).count("memorized") == np.sum(d_train <= delta_m)


def test_delta_s_must_come_from_as_many_images_as_are_judged(digits):
    """The nearest neighbour comes nearer as n grows: thresholds from 297 flag too many of 1,000."""
    digits = np.random.default_rng(0).permutation(digits)
    real = nearest_within(digits[:297])
    _, delta_s = calibrated_thresholds(real, real, 0.01)
    assert np.mean(nearest_within(digits[297:1297]) <= delta_s) > 0.03


@pytest.mark.parametrize(
    ("held_out", "within", "what"),
    [(60, 300, "60 held-out images"), (300, 60, "60 real images as neighbours")],
)
def test_too_few_real_images_are_refused_with_a_rate_that_works(held_out, within, what):
    distances = np.arange(1.0, held_out + 1), np.arange(1.0, within + 1)
    with pytest.raises(UserError, match=f"--false-positive-rate: found 0.01 with {what}") as caught:
        calibrated_thresholds(*distances, 0.01)
    offered = float(str(caught.value).split(", or ")[1].split()[0])
    assert min(calibrated_thresholds(*distances, offered)) == 1


def test_distances_of_several_draws_count_together():
    delta_m, delta_s = calibrated_thresholds(
        np.arange(1.0, 201)[:, None], np.arange(1.0, 201).reshape(4, 50, 1), 0.02
    )
    assert (delta_m, delta_s) == (4, 4)


def test_row_of_the_summary():
    labels = np.array([0] * 3 + [2] * 7, np.int8)
    row = judge_row(128, labels, 1.0, np.float32(0.5), "delta", "l2")
    assert tuple(row) == SUMMARY_COLUMNS
    assert [row[name] for name in ("K", "N", *CLASSES)] == [128, 10, 3, 0, 7]
    assert row["memorized_share"] == 0.3 and row["spurious_low"] == 0
    for name in CLASSES:
        assert row[f"{name}_low"] <= row[f"{name}_share"] <= row[f"{name}_high"]
    assert [row[c] for c in SUMMARY_COLUMNS[-4:]] == [1.0, 0.5, "delta", "l2"]
    assert all(type(value) in (int, float, str) for value in row.values())  # plain: goes to JSON


def test_row_without_delta_m_and_without_samples():
    assert judge_row(2, np.array([1]), None, 0.5, "ratio", "l2")["delta_m"] is None
    with pytest.raises(ValueError, match="labels: found none"):
        judge_row(2, np.array([], np.int8), 1, 1, "delta", "l2")


def test_columns_are_those_of_the_contract():
    assert ",".join(SUMMARY_COLUMNS) == (
        "K,N,memorized,spurious,generalized,"
        "memorized_share,memorized_low,memorized_high,spurious_share,spurious_low,spurious_high,"
        "generalized_share,generalized_low,generalized_high,delta_m,delta_s,criterion,metric"
    )
