"""The circle in the plane: closed forms against brute force, scipy, and each other."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special

from models.circle.exact import (
    PatternMixture,
    circle_energy,
    circle_points,
    energy_of,
)


def circle_force(radius, beta):
    """-dE/dR = 2 (I_1(2 beta R) / I_0(2 beta R) - R); scaled Bessel functions do not overflow."""
    z = 2 * beta * radius
    return 2 * (special.i1e(z) / special.i0e(z) - radius)


def points(n, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, 2, generator=generator, dtype=torch.float64)


def test_circle_points_are_uniform_and_depend_on_the_seed_alone():
    result = circle_points(20_000, 9)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result.norm(dim=1), torch.ones(20_000).double())
    angle = torch.atan2(result[:, 1], result[:, 0])
    counts = torch.histc(angle, 20, -math.pi, math.pi)
    assert ((counts - 1000).abs() < 5 * math.sqrt(1000 * 0.95)).all()  # 5 standard deviations
    assert torch.equal(circle_points(20_000, 9), result)
    assert not torch.equal(circle_points(20_000, 10), result)


@pytest.mark.parametrize("beta", [1e-3, 0.5, 3.0, 20.0, 80.0])
def test_energy_of_the_circle_equals_scipys(beta):
    radius = torch.linspace(0, 3, 31).double()
    r, z = radius.numpy(), 2 * beta * radius.numpy()
    expected = r**2 + 1 - np.log(special.iv(0, z)) / beta
    np.testing.assert_allclose(circle_energy(radius, beta), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("beta", [0.7, 12.0, 80.0, 1e4])
def test_the_slope_of_the_energy_is_the_closed_form(beta):
    radius = torch.linspace(0.01, 3, 40).double().requires_grad_()
    (slope,) = torch.autograd.grad(circle_energy(radius, beta).sum(), radius)
    expected = -circle_force(radius.detach().numpy(), beta)
    np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("beta", [1e4, 1e8, 1e300])
def test_no_beta_overflows(beta):
    """At low temperature the energy is the squared distance to the circle, or to a pattern."""
    radius = torch.tensor([0.5, 1.0, 2.5]).double()
    result = circle_energy(radius, beta)
    torch.testing.assert_close(result, (radius - 1).square(), rtol=0, atol=1e-2)
    known = points(7)
    x = points(5, 1)
    nearest = torch.cdist(x, known).square().amin(dim=1)
    result = PatternMixture(known).energy(x, beta)
    torch.testing.assert_close(result, nearest, rtol=0, atol=1e-3)


def test_energy_of_the_circle_is_a_mean_over_its_angles():
    def mean(radius, beta):
        weight = lambda a: math.exp(-beta * (radius**2 + 1 - 2 * radius * math.cos(a)))  # noqa: E731
        return integrate.quad(weight, 0, 2 * math.pi, epsabs=1e-13)[0] / (2 * math.pi)

    for beta in (0.3, 4.0):
        for radius in (0.0, 0.4, 1.0, 2.0):
            result = circle_energy(torch.tensor(radius, dtype=torch.float64), beta).item()
            assert result == pytest.approx(-math.log(mean(radius, beta)) / beta, abs=1e-9)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0, 50.0])
@pytest.mark.parametrize("k", [1, 2, 9, 300])
def test_energy_of_k_patterns_equals_brute_force(k, beta):
    known, x = points(k, 0, 0.7), points(6, 1, 0.7)  # no weight underflows
    for result, place in zip(PatternMixture(known).energy(x, beta), x.tolist()):
        total = math.fsum(
            math.exp(-beta * ((place[0] - a) ** 2 + (place[1] - b) ** 2)) for a, b in known.tolist()
        )
        assert result.item() == pytest.approx(-math.log(total / k) / beta, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("beta", [2.0, 10.0])
def test_many_even_patterns_are_the_circle(beta):
    angle = 2 * math.pi * torch.arange(400).double() / 400
    known = torch.stack([angle.cos(), angle.sin()], dim=1)
    x = points(50, 2, 1.0)
    expected = circle_energy(x.norm(dim=1), beta)
    torch.testing.assert_close(PatternMixture(known).energy(x, beta), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("t", [0.02, 0.3, 1.0])
def test_density_energy_and_score_are_one(t):
    mixture, x = PatternMixture(points(9)), points(40, 1).requires_grad_()
    log_density = mixture.log_density(x, t)
    (slope,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(mixture.score(x, t), slope, rtol=1e-9, atol=1e-9)
    energy = mixture.energy(x, 1 / (2 * t))
    torch.testing.assert_close(energy_of(log_density, t), energy, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(energy.sum(), x)
    torch.testing.assert_close(mixture.score(x, t), -slope / (2 * t), rtol=1e-9, atol=1e-9)


def test_the_density_sums_to_one():
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    mass = PatternMixture(circle_points(9, 0)).log_density(x, 0.15).exp().sum() * (14 / 280) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-9)


def test_each_row_has_a_time_of_its_own_and_depends_on_no_other_row():
    mixture, x = PatternMixture(points(1000)), points(5000, 1)  # several tiles
    t = torch.linspace(0.01, 1, 5000).double()
    together = mixture.log_density(x, t), mixture.score(x, t)
    for i in (0, 1047, 1048, 4999):
        alone = x[i : i + 1]
        for many, one in zip(together, (mixture.log_density, mixture.score)):
            expected = one(alone, t[i].item())[0]
            torch.testing.assert_close(many[i], expected, rtol=1e-12, atol=1e-12)


def test_samples_have_the_mean_and_the_noise_of_the_mixture():
    known = points(5)
    result = PatternMixture(known).sample(40_000, 0.25, seed=3)
    expected = known.T.cov(correction=0) + 0.25 * torch.eye(2)
    bound = 5 * expected.max().item() * math.sqrt(2 / 40_000)
    assert (result.mean(dim=0) - known.mean(dim=0)).abs().max() < bound
    assert (result.T.cov() - expected).abs().max() < bound
    assert torch.equal(PatternMixture(known).sample(40_000, 0.25, seed=3), result)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (torch.zeros(3), r"patterns: found \[3\]"),
        (torch.zeros(3, 3), r"patterns: found \[3, 3\]"),
        (torch.zeros(0, 2), r"patterns: found \[0, 2\]"),
        (torch.tensor([[0.0, math.nan]]), "patterns: found NaN"),
    ],
)
def test_other_patterns_are_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        PatternMixture(patterns)


@pytest.mark.parametrize("t", [0.0, -1.0, math.nan, [0.1, 0.2]])
def test_other_times_and_points_are_refused(t):
    mixture = PatternMixture(points(2))
    with pytest.raises(ValueError, match="t: found"):
        mixture.score(points(3), torch.tensor(t).double())
    with pytest.raises(ValueError, match="x: found"):
        mixture.score(torch.zeros(3, 4), 0.5)
