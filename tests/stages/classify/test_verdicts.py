"""Verdicts on distances made by hand, distinct states, and what is stored of a class."""

import doctest
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.judged import row_of
from utils.cli.options.choices import CLASSES
from utils.stages.classify import verdicts
from utils.stages.classify.files import SUMMARY_COLUMNS, is_row
from utils.stages.classify.verdicts import (
    States,
    classify_by_distance,
    classify_by_ratio,
    euclidean,
    reach,
    select,
    spurious_states,
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
    ("d_1", "d_2", "s_1", "verdict"),
    [
        (0.99, 3.0, 0.1, "memorized"),
        (1.0, 3.0, 0.1, "spurious"),  # exactly 1/3: not below
        (1.0, 3.0, 0.5, "generalized"),
        (3.0, 4.0, 0.99, "spurious"),
        (3.0, 4.0, 1.0, "generalized"),  # the same for its neighbour
        (3.0, 4.0, INF, "generalized"),
        (0.5, 0.5, 9.0, "generalized"),  # near copy of an image held twice: missed, as documented
        (0.0, 0.0, 9.0, "memorized"),  # exact copy of one
        (0.0, 2.0, 9.0, "memorized"),
    ],
)
def test_ratio(d_1, d_2, s_1, verdict):
    assert names(classify_by_ratio([d_1], [d_2], [s_1])) == [verdict]


def test_ratios_of_lpips_are_those_of_its_root():
    """A squared distance: 0.09 beside 1 is 0.3 beside 1."""
    given = [np.array([0.09, 0.16]), np.array([1.0, 1.0]), np.array([9.0, 0.01])]
    assert names(classify_by_ratio(*euclidean("alex", *given))) == ["memorized", "spurious"]
    assert names(classify_by_ratio(*euclidean("l2", *given))) == ["memorized", "memorized"]


def test_a_third_is_a_tie_at_every_scale():
    d_1 = np.random.default_rng(0).uniform(0.1, 9, 1000).astype(np.float32)
    d_2 = 3 * d_1.astype(np.float64)
    assert set(names(classify_by_ratio(d_1, d_2, d_2))) == {"generalized"}
    assert set(names(classify_by_ratio(d_1, np.nextafter(d_2, 99), d_2))) == {"memorized"}
    assert set(names(classify_by_ratio(d_2, d_2, d_1))) == {"generalized"}
    assert set(names(classify_by_ratio(np.nextafter(d_2, 99), 2 * d_2, d_1))) == {"spurious"}


def test_ratio_refuses_neighbours_in_disorder():
    with pytest.raises(ValueError, match="d_2: found values below d_1"):
        classify_by_ratio([2.0], [1.0], [1.0])
    with pytest.raises(ValueError, match="s_1: found shape"):
        classify_by_ratio([1.0], [2.0], [1.0, 1.0])


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


def states_of(x, labels, limit=1.0, k=3):
    """`spurious_states` of points on a line, counted."""
    apart = np.abs(x[:, None] - x)
    np.fill_diagonal(apart, np.inf)
    order = np.argsort(apart, axis=1, kind="stable")[:, :k]
    labels = np.array([CLASSES.index(name) for name in labels])
    dists = np.take_along_axis(apart, order, axis=1)
    states = spurious_states(labels, order, dists, np.full(len(x), limit))
    return States.summed_up(states, len(x))


def test_states_are_clusters_of_spurious_samples():
    """A chain of three, a pair, one beside a memorized sample; others far away."""
    x = np.array([0, 0.9, 1.8, 10, 10.5, 20, 20.2, 50, 60])
    labels = [*["spurious"] * 6, "memorized", "generalized", "generalized"]
    assert states_of(x, labels) == States(3, 3, 3 / 9)
    assert states_of(x, ["generalized"] * 9) == States(0, 0, 0.0)
    beside = np.array([20, 20.9, 21.8])  # a memorized one does not join its two neighbours
    assert states_of(beside, ["spurious", "memorized", "spurious"], k=2).count == 2
    assert states_of(x, labels, limit=0.5).count == 5  # the chain falls apart


def test_one_image_again_and_again_is_one_state():
    x = np.repeat([0.0, 10.0], 50) + np.linspace(0, 0.1, 100)
    assert states_of(x, ["spurious"] * 100, k=5) == States(2, 50, 1.0)


@pytest.mark.parametrize("metric", ["l2", "alex"])
def test_linkage_of_the_ratio_criterion_is_its_rule(metric):
    d_1 = np.array([3.0, 3.0, 0.9], np.float32)
    s_1 = np.array([1.0, 0.5, 0.01], np.float32)
    linked = s_1 <= reach(d_1, None, metric)
    lengths = euclidean(metric, d_1, d_1 + 1, s_1)
    assert linked.tolist() == [name == "spurious" for name in names(classify_by_ratio(*lengths))]
    assert reach(d_1, 0.5, metric).tolist() == [0.5] * 3


def test_row_of_the_summary():
    labels, control = np.array([0] * 3 + [2] * 7, np.int8), np.array([1, 2, 2, 2])
    row = row_of(128, labels, control, limits=(1.0, np.float32(0.5)))
    assert tuple(row) == SUMMARY_COLUMNS
    assert [row[name] for name in ("K", "N", *CLASSES)] == [128, 10, 3, 0, 7]
    assert row["memorized_share"] == 0.3 and row["spurious_low"] == 0
    for name in CLASSES:
        assert row[f"{name}_low"] <= row[f"{name}_share"] <= row[f"{name}_high"]
    assert [row[f"{name}_control"] for name in CLASSES] == [0, 0.25, 0.75]
    assert row["spurious_p"] == 1 and row["ratio_memorized"] is None
    assert [row[c] for c in ("delta_m", "delta_s", "criterion", "metric")] == [
        1,
        0.5,
        "delta",
        "l2",
    ]
    assert is_row(json.loads(json.dumps(row, default=float)))


def test_row_without_control_and_without_samples():
    row = row_of(2, [1], criterion="ratio", limits=(None, None))
    assert row["delta_m"] is row["spurious_p"] is row["spurious_control"] is None
    assert row["ratio_spurious"] == 1 and row["calibrated_spurious"] is None
    with pytest.raises(ValueError, match="labels: found none"):
        row_of(2, [])


def test_columns_are_those_of_the_contract():
    assert ",".join(SUMMARY_COLUMNS) == (
        "K,N,memorized,spurious,generalized,"
        "memorized_share,memorized_low,memorized_high,memorized_control,"
        "spurious_share,spurious_low,spurious_high,spurious_control,"
        "generalized_share,generalized_low,generalized_high,generalized_control,"
        "spurious_p,states,largest_state,repeated,delta_m,delta_s,criterion,metric,"
        "references,held_out,rank,error_low,error_high,neighbours,neighbours_rank,"
        "calibrated_memorized,calibrated_memorized_control,"
        "calibrated_spurious,calibrated_spurious_control,"
        "calibrated_generalized,calibrated_generalized_control,"
        "ratio_memorized,ratio_memorized_control,ratio_spurious,ratio_spurious_control,"
        "ratio_generalized,ratio_generalized_control,"
        "sscd-0.5,sscd-0.5_control,sscd-0.6,sscd-0.6_control,sscd-0.7,sscd-0.7_control,quality_n,"
        "frechet,frechet_low,frechet_high,frechet_control,"
        "frechet_limit,frechet_limit_low,frechet_limit_high,frechet_limit_control,"
        "kernel,kernel_low,kernel_high,kernel_control,"
        "precision,precision_low,precision_high,precision_control,"
        "recall,recall_low,recall_high,recall_control,"
        "density,density_low,density_high,density_control,"
        "coverage,coverage_low,coverage_high,coverage_control,"
        "frechet_gap,frechet_gap_low,frechet_gap_high,frechet_gap_control,"
        "sample_gap,sample_gap_low,sample_gap_high,sample_gap_control"
    )


def test_states_are_listed_by_size_and_their_samples_by_distance():
    x = np.array([0, 0.9, 1.2, 10, 10.5, 20])
    apart = np.abs(x[:, None] - x)
    np.fill_diagonal(apart, np.inf)
    order = np.argsort(apart, axis=1, kind="stable")[:, :2]
    dists = np.take_along_axis(apart, order, axis=1)
    labels = np.full(6, CLASSES.index("spurious"))
    labels[5] = CLASSES.index("generalized")
    states = spurious_states(labels, order, dists, np.full(6, 1.0))
    assert [state.tolist() for state in states] == [[1, 2, 0], [3, 4]]
    assert spurious_states(np.full(6, 2), order, dists, np.full(6, 1.0)) == []
