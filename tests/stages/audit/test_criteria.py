"""Copies by p-value and ratio: error rates, duplicates, intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from utils.evidence.duplicates import gap_sizes, near_groups
from utils.stages.audit.criteria import (
    FALSE_DISCOVERIES,
    copies_interval,
    discoveries,
    is_copy_by_ratio,
    p_values,
    ratios,
)


def test_p_values_of_new_images_are_valid_for_every_level():
    """P(p <= a) <= a, and close to it: exchangeable distances."""
    draw = np.random.default_rng(0)
    every = draw.gamma(3, size=(4000, 40))
    p = np.array([p_values(row[:1], row[1:])[0] for row in every])
    for level in (0.025, 0.05, 0.2, 0.5):
        expected = np.floor(level * 40) / 40
        assert abs((p <= level).mean() - expected) < 4 * np.sqrt(0.25 / 4000)
    assert p.min() == 1 / 40


def test_ties_with_held_out_images_are_no_evidence():
    assert p_values(np.array([0.0]), np.zeros(9)).tolist() == [1.0]


@pytest.mark.parametrize("copies", [0, 10, 60])
def test_false_discoveries_are_as_rare_as_stated(copies):
    """The mean share of new samples among the discoveries, which share their held-out images."""
    draw, shares = np.random.default_rng(copies), []
    for _ in range(1500):
        held_out, new = draw.normal(size=300), draw.normal(size=100 - copies)
        samples = np.concatenate([draw.normal(-6, 0.5, size=copies), new])
        found = discoveries(p_values(samples, held_out))
        shares.append(found[copies:].sum() / max(1, found.sum()))
        assert found[:copies].all() or copies < 10
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= FALSE_DISCOVERIES + 3 * error


def test_discoveries_are_those_of_the_step_up_rule():
    p = np.array([0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216])
    sorted_p = np.sort(p)
    last = max(i for i in range(10) if sorted_p[i] <= 0.05 * (i + 1) / 10)
    assert discoveries(p).tolist() == (p <= sorted_p[last]).tolist()
    assert discoveries(p).sum() == 2


@pytest.mark.parametrize(
    ("n", "held_out", "share", "apart"),
    [(100, 60, 0.4, 3), (100, 300, 0.1, 3), (100, 2000, 0.1, 7), (300, 300, 0.1, 7)],
)
def test_the_interval_of_the_copied_share_covers_it(monkeypatch, n, held_out, share, apart):
    """The truth: the mean share over sets of samples, at given held-out images. `ratio` marks every
    second copy. Wilson's own interval covers 44 % of the first case."""
    monkeypatch.setattr("utils.stages.audit.criteria.DRAWS", 150)
    draw, covered, too_high = np.random.default_rng(5), [], []
    for _ in range(8):
        real, sets = draw.normal(size=held_out), []
        for _ in range(150):
            is_copy = draw.random(n) < share
            samples = np.where(is_copy, draw.normal(-apart, size=n), draw.normal(size=n))
            sets.append((is_copy & (draw.random(n) < 0.1), p_values(samples, real)))
        counts = [(fixed | discoveries(p)).sum() for fixed, p in sets]
        truth = np.mean(counts) / n
        for fixed, p in sets[:25]:
            low, high = copies_interval(fixed, p)
            covered.append(low <= truth <= high)
            too_high.append(low > truth)
    assert np.mean(covered) >= 0.91 and np.mean(too_high) <= 0.06  # of 200: 95 and 2.5 %


# Ratios and near-duplicates


def neighbours_of(points, references, k, exclude_self=False):
    apart = np.linalg.norm(points[:, None] - references[None], axis=2)
    if exclude_self:
        np.fill_diagonal(apart, np.inf)
        k = min(k, len(references) - 1)
    order = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(apart, order, 1), order


@pytest.fixture
def points():
    """Thirty points far apart, in 8 dimensions; distances of about 10."""
    return np.random.default_rng(0).normal(size=(30, 8)) * 3


def test_groups_of_near_duplicates_are_found_whatever_their_number(points):
    draw = np.random.default_rng(1)
    twins = points[[4]] + draw.normal(size=(1, 8)) * 0.02
    five = points[[9]] + draw.normal(size=(4, 8)) * 0.02
    every = np.concatenate([points, twins, five])
    groups = near_groups(*neighbours_of(every, every, 10, exclude_self=True))
    sizes = sorted(np.bincount(groups)[np.bincount(groups) > 1].tolist())
    assert sizes == [2, 5]
    assert groups[4] == groups[30] and len(set(groups[[9, 31, 32, 33, 34]])) == 1


def test_points_without_duplicates_have_no_groups(points):
    lengths, neighbours = neighbours_of(points, points, 10, exclude_self=True)
    assert len(set(near_groups(lengths, neighbours))) == 30
    assert (gap_sizes(lengths) == 0).all()


def test_a_near_duplicate_is_one_in_both_directions():
    """An image beside a dense group is nearer to it than to others; the group is not its copy."""
    lengths = np.array([[1.0, 9.0], [0.9, 1.0], [0.9, 1.1]])
    neighbours = np.array([[1, 2], [2, 0], [1, 0]])
    assert gap_sizes(lengths).tolist() == [1, 0, 0]
    assert len(set(near_groups(lengths, neighbours))) == 3


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_copy_of_an_image_that_occurs_several_times_is_found(points, times):
    """The published ratio misses it as soon as the image occurs twice."""
    draw = np.random.default_rng(2)
    train = np.concatenate([points, points[[3]] + draw.normal(size=(times - 1, 8)) * 0.01])
    groups = near_groups(*neighbours_of(train, train, 10, exclude_self=True))
    sample = points[[3]] + 0.1
    lengths, neighbours = neighbours_of(sample, train, 16)
    assert is_copy_by_ratio(ratios(lengths, neighbours, groups)).all()
    published = 3 * lengths[:, 0] < lengths[:, 1]
    assert published.all() == (times == 1)


def test_ratios_are_those_of_the_nearest_different_image():
    lengths = np.array([[1.0, 2.0, 5.0], [0.0, 0.0, 4.0], [2.0, 2.5, 3.0]])
    neighbours = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3]])
    groups = np.array([7, 7, 8, 7])
    expected = [1 / 5, 0, 2 / 3]  # the last has neighbours of one group alone: an upper bound
    np.testing.assert_allclose(ratios(lengths, neighbours, groups), expected)
    assert np.isnan(ratios(lengths[:, :1], neighbours[:, :1], groups)).all()
    assert not is_copy_by_ratio(np.array([np.nan, 1 / 3])).any()


def test_the_control_is_as_large_as_the_false_alarms_of_new_samples():
    """Samples that are held-out images: both are called copies by ratio equally often."""
    draw, hits = np.random.default_rng(3), np.zeros((2, 200))
    for i in range(200):
        train, both = draw.normal(size=(20, 2)), draw.normal(size=(2, 100, 2))
        for j, images in enumerate(both):
            lengths, neighbours = neighbours_of(images, train, 16)
            hits[j, i] = is_copy_by_ratio(ratios(lengths, neighbours, np.arange(20))).sum()
    assert hits.sum() > 500  # in two dimensions small ratios are common
    assert stats.ttest_rel(*hits).pvalue > 0.01
