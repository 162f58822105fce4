"""Landscapes and basins of exact scores on the circle."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from models.circle.exact import PatternMixture
from utils.cli.options.sections import (
    ToyBasinOptions,
    ToyDataOptions,
    ToyPlotsOptions,
)
from utils.stages.toy import analysis as toy_analysis
from utils.stages.toy.analysis import CIRCLE_POINT, PATTERN, SPURIOUS_STATE, basins_of, landscape_of
from utils.stages.toy.files import (
    ordered_points,
)


def exact_landscape(k, t, **options):
    patterns = ordered_points(ToyDataOptions())[:k]
    settings = ToyPlotsOptions(t=t, samples=600, dynamic_threshold=True, **options)
    return landscape_of(PatternMixture(patterns).score, patterns, settings, {})


def test_two_patterns_are_two_memories():
    result = exact_landscape(2, 0.15)
    assert np.abs(result.energy - result.exact_energy).max() < 1e-3
    assert result.well_kinds.tolist() == [0, 0] and result.centre_kinds.tolist() == [0, 0]
    for places in (result.wells, result.centres):
        nearest = np.linalg.norm(places[:, None] - result.patterns, axis=2)
        assert nearest.min(axis=1).max() < 0.02 and set(nearest.argmin(axis=1)) == {0, 1}
    count = (result.sample_wells == 0).sum()
    assert abs(count - 300) < 4 * math.sqrt(150)


def test_nine_patterns_have_spurious_wells_between_them():
    result = exact_landscape(9, 0.05)
    spurious = result.wells[result.well_kinds == 1]
    away = np.linalg.norm(spurious[:, None] - result.patterns, axis=2).min(axis=1)
    assert len(spurious) >= 2 and away.max() > 0.05
    assert (result.well_kinds == 0).any()
    assert len(result.centres) == len(result.wells)  # the samples find the same states
    exact = PatternMixture(torch.from_numpy(result.patterns))
    for places, energies in (
        (result.wells, result.well_energies),
        (result.centres, result.centre_energies),
    ):
        expected = exact.energy(torch.from_numpy(places), 10.0)
        np.testing.assert_allclose(energies, expected, rtol=0, atol=1e-4)
    assert np.ptp(result.well_energies) > 0.03


def test_a_thousand_patterns_are_a_ring(monkeypatch):
    monkeypatch.setattr(toy_analysis, "SIDE", 21)
    result = exact_landscape(1000, 0.15)
    assert result.well_kinds.tolist() == [2] and result.centre_kinds.tolist() == [2]
    assert np.abs(result.energy - result.exact_energy).max() < 1e-3


def exact_basins(patterns, spurious=(), **options):
    settings = ToyBasinOptions(**{"p_trials": 300, "points": 4, **options})
    score = PatternMixture(patterns).score
    return basins_of(score, patterns, np.array(spurious).reshape(-1, 2), settings, {})


def test_one_pattern_is_always_recovered():
    result = exact_basins(torch.tensor([[1.0, 0.0]]).double(), p_trials=5)
    first = result.groups == PATTERN
    assert (result.recovery[first] == 1).all() and result.censored[first].all()
    assert (result.critical_time[first] == 1).all()
    # of the four points of the circle one is the pattern; the others never come back
    others = result.groups == CIRCLE_POINT
    assert result.recovery[others].sum(axis=1).tolist() == [32, 0, 0, 0]
    assert (
        result.critical_time[others].tolist() == [1, 0, 0, 0]
        and not result.radius[others][1:].any()
    )


@pytest.mark.parametrize(("delta", "near"), [(1.2, 0), (1.5, 32)])
def test_a_point_is_recovered_within_delta_of_itself(delta, near):
    """All of the plane falls into the one pattern, sqrt(2) and 2 away from other points."""
    result = exact_basins(torch.tensor([[1.0, 0.0]]).double(), p_trials=5, delta=delta)
    others = result.groups == CIRCLE_POINT
    assert result.recovery[others].sum(axis=1).tolist() == [32, near, 0, near]


def test_two_patterns_share_the_plane_at_its_middle():
    """A copy is recovered on its pattern's side: a share Phi(a / sqrt(t)), a to the middle."""
    a = 0.6
    result = exact_basins(torch.tensor([[a, 0.0], [-a, 0.0]]).double())
    expected = norm.cdf(a / np.sqrt(result.times[:2]))
    spread = np.sqrt(expected * (1 - expected) / 300) + 1e-3
    assert (np.abs(result.recovery[:2] - expected) < 4.5 * spread).all()
    last = a**2 / norm.ppf(0.9) ** 2  # where 9 of 10 come back
    assert (np.abs(result.critical_time[:2] - last) < 0.12).all()
    mean_radius = np.sqrt(result.critical_time[:2] * np.pi / 2)  # of normal noise in the plane
    np.testing.assert_allclose(result.radius[:2], mean_radius, rtol=0.1)


def test_a_spurious_state_is_recovered_up_to_its_critical_time():
    """At t = 0.5 two near patterns have merged: the middle is a state, and comes back to itself."""
    patterns = torch.tensor([[0.2, 1.0], [-0.2, 1.0]]).double()
    result = exact_basins(patterns, [[0.0, 1.0]], t=0.5)
    state = result.groups == SPURIOUS_STATE
    assert result.censored[state].all() and (result.times[state] > 0.5).all()
    # only the noise from 0.5 to 1 is added to it: the noise of 0.5 it has
    np.testing.assert_allclose(result.radius[state], math.sqrt(0.5 * math.pi / 2), rtol=0.1)
    alone = exact_basins(patterns, [[0.0, 1.0]], t=0.5, points=1)
    for name in ("recovery", "critical_time", "radius"):  # whatever stands beside it
        same = alone.groups == SPURIOUS_STATE
        np.testing.assert_array_equal(getattr(alone, name)[same], getattr(result, name)[state])


def test_the_batch_changes_nothing():
    patterns = ordered_points(ToyDataOptions())[:3]
    whole, parts = (exact_basins(patterns, p_trials=6, batch_size=n) for n in (10_000, 7))
    np.testing.assert_array_equal(whole.recovery, parts.recovery)
