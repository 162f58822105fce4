"""The probability flow: densities and samples of exact scores, orders, parity with scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from models.circle.exact import PatternMixture, circle_points
from models.circle.probability_flow import flow, log_density, settle, with_divergence
from models.circle.score_net import NetworkScore, ScoreNets


def plane(reach=1.8, side=13):
    axis = torch.linspace(-reach, reach, side).double()
    return torch.cartesian_prod(axis, axis)


def prior(mixture):
    return lambda x: mixture.log_density(x, 1.0)


def times(value, rows):
    return torch.full((rows,), value, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.05, 0.15, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("k", [1, 2, 9, 300])
def test_the_density_of_an_exact_score_is_the_closed_form(k, t):
    mixture, x = PatternMixture(circle_points(k, 1)), plane()
    result = log_density(mixture.score, prior(mixture), x, t)
    torch.testing.assert_close(result, mixture.log_density(x, t), rtol=0, atol=1e-3)


def test_the_density_converges_at_fourth_order():
    mixture, x = PatternMixture(circle_points(9, 1)), plane()
    exact = mixture.log_density(x, 0.1)

    def error(steps):
        result = log_density(mixture.score, prior(mixture), x, 0.1, steps)
        return (result - exact).abs().mean().item()

    assert 11 < error(40) / error(80) < 24


def test_a_wrong_start_shifts_the_density():
    """The original starts the flow from N(0, 1) at t = 1, where each axis has variance 3/2."""
    mixture, x = PatternMixture(circle_points(1000, 1)), plane(1.0, 5)
    narrow = lambda x: -x.square().sum(dim=1) / 2 - math.log(2 * math.pi)  # noqa: E731
    wrong = log_density(mixture.score, narrow, x, 0.15)
    assert (wrong - mixture.log_density(x, 0.15)).abs().max() > 0.2


def test_the_divergence_is_the_trace_of_the_jacobian():
    mixture, x = PatternMixture(circle_points(5, 1)), plane(1.5, 4)
    value, divergence = with_divergence(mixture.score, x, 0.2)
    torch.testing.assert_close(value, mixture.score(x, 0.2))
    h, slopes = 1e-5, []
    for axis in range(2):
        step = h * torch.eye(2)[axis].double()
        ahead, behind = mixture.score(x + step, 0.2), mixture.score(x - step, 0.2)
        slopes.append((ahead - behind)[:, axis] / (2 * h))
    torch.testing.assert_close(divergence, sum(slopes), rtol=1e-6, atol=1e-6)


def test_a_networks_density_equals_scipys_solver():
    """The same equations in t itself, by an adaptive method of order 8 and finite differences."""
    score = NetworkScore(ScoreNets([3]).double().state_of(0), torch.device("cpu"))
    score._net.double()  # the check needs more digits than float32 has
    exact = lambda x, t: score._net(x[None], torch.as_tensor(t).double().reshape(1, -1))[0]  # noqa: E731
    mixture = PatternMixture(circle_points(2, 1))
    x, t, h = torch.tensor([[0.3, -0.8], [1.2, 0.4]]).double(), 0.3, 1e-4

    def slope(now, state):
        x = torch.from_numpy(state[:4].reshape(2, 2))
        parts = [
            (exact(x + h * e, now) - exact(x - h * e, now))[:, i] / (2 * h)
            for i, e in enumerate(torch.eye(2).double())
        ]
        return np.concatenate([-exact(x, now).flatten() / 2, sum(parts) / 2])

    start = np.concatenate([x.flatten(), np.zeros(2)])
    end = solve_ivp(slope, (t, 1.0), start, method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    ends = torch.from_numpy(end[:4].reshape(2, 2))
    expected = mixture.log_density(ends, 1.0) - torch.from_numpy(end[4:])
    result = log_density(exact, prior(mixture), x, t, 400)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_one_pattern_is_approached_on_a_straight_line():
    """x_s = y + (x_t - y) sqrt(s / t): each row over its own times."""
    mixture, x = PatternMixture(torch.tensor([[0.5, -1.0]])), plane(1.5, 5)
    start, end = torch.linspace(0.2, 1, 25).double(), torch.linspace(0.9, 0.001, 25).double()
    result = flow(mixture.score, x, start, end)
    expected = mixture.patterns + (x - mixture.patterns) * (end / start).sqrt()[:, None]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_the_flow_runs_back_as_it_came():
    mixture, x = PatternMixture(circle_points(3, 1)), plane(1.2, 7)
    there = flow(mixture.score, x, times(0.3, 49), times(1.0, 49), 40)
    back = flow(mixture.score, there, times(1.0, 49), times(0.3, 49), 40)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


def test_samples_split_between_two_patterns_as_coins_do():
    known = torch.tensor([[1.0, 0.2], [-0.7, -0.4]]).double()
    mixture, n = PatternMixture(known), 4000
    x = mixture.sample(n, 1.0, seed=5)
    result = flow(mixture.score, x, times(1.0, n), times(1e-3, n))
    distances = torch.cdist(result, known)
    assert (distances.amin(dim=1) < 5 * math.sqrt(1e-3)).all()  # nobody is left between
    count = (distances.argmin(dim=1) == 0).sum().item()
    assert abs(count - n / 2) < 4 * math.sqrt(n / 4)


def test_samples_at_a_time_have_that_times_noise():
    mixture, n = PatternMixture(circle_points(9, 1)), 20_000
    result = flow(mixture.score, mixture.sample(n, 1.0, seed=5), times(1.0, n), times(0.3, n))
    expected = mixture.patterns.T.cov(correction=0) + 0.3 * torch.eye(2)
    assert (result.T.cov() - expected).abs().max() < 5 * expected.max() * math.sqrt(2 / n)


def test_points_settle_in_the_wells():
    known = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    mixture = PatternMixture(known)
    x = torch.tensor([[0.3, 0.5], [-0.2, -2.0], [0.0, 0.7]]).double()
    result = settle(mixture.score, x, 0.05, 30)
    expected = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]).double()  # the last: a saddle
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(mixture.denoised(x, 0.05), settle(mixture.score, x, 0.05, 1))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    score = lambda x, t: x * bad  # noqa: E731
    with pytest.raises(ValueError, match="scores: found NaN or infinite"):
        flow(score, plane(1, 3), times(1.0, 9), times(0.1, 9))
    with pytest.raises(ValueError, match="scores: found NaN or infinite"):
        log_density(score, lambda x: x[:, 0], plane(1, 3), 0.1)
