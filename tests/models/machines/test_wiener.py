"""The Wiener denoiser: Gaussian data in closed form, and the best linear denoiser of any data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from models.machines import wiener as module
from models.machines.wiener import WienerDenoiser
from models.schedule import Schedule
from tests.helpers import machines as brute
from tests.helpers.images import real_digits
from tests.helpers.models import GaussianDenoiser, normal, seeded, uniform

SCHEDULE = Schedule()
TIMES = (0, 50, 400, 999)
DATA = {
    "K < D": lambda: uniform(7, 3, 4, 3),
    "K = D": lambda: uniform(40, 1, 5, 8),
    "K > D": lambda: uniform(90, 3, 4, 3),
    "odd D": lambda: uniform(60, 1, 3, 3),
    "digits": lambda: real_digits(50).double(),  # pixels that never vary
}
on_data_and_times = pytest.mark.parametrize(
    ("data", "t"), [(name, t) for name in DATA for t in TIMES]
)


def gaussian(patterns, t):
    """p_t as torch's own normal distribution over vectors [D]."""
    a, flat = SCHEDULE.alpha_bar_at(t), patterns.flatten(1)
    spread = a * torch.cov(flat.T, correction=0) + (1 - a) * torch.eye(flat.shape[1]).double()
    return MultivariateNormal(a.sqrt() * flat.mean(0), covariance_matrix=spread)


def as_matrix(denoiser, t):
    """x_0 as matrix and offset: its values at 0 and at the unit vectors."""
    dim = int(np.prod(denoiser.shape))
    offset = denoiser.x_0(torch.zeros(1, *denoiser.shape).double(), t).flatten()
    units = torch.eye(dim).double().view(dim, *denoiser.shape)
    return (denoiser.x_0(units, t).flatten(1) - offset).T, offset


@on_data_and_times
def test_the_denoiser_of_gaussian_data(data, t):
    patterns = DATA[data]()
    x, a = brute.points(patterns, t, SCHEDULE), SCHEDULE.alpha_bar[t].item()
    matrix, offset = brute.wiener(patterns.numpy(), a)
    expected = torch.from_numpy(x.flatten(1).numpy() @ matrix.T + offset).view_as(x)
    result = WienerDenoiser(patterns, SCHEDULE).x_0(x, t)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


def test_a_time_for_each_row():
    patterns = DATA["K > D"]()
    x, t = brute.points(patterns, 50, SCHEDULE), torch.tensor([0, 3, 500, 999])
    denoiser = WienerDenoiser(patterns, SCHEDULE)
    for name in ("x_0", "eps", "score", "log_density"):
        whole = getattr(denoiser, name)(x, t)
        for i, time in enumerate(t.tolist()):
            assert torch.equal(getattr(denoiser, name)(x[i : i + 1], time), whole[i : i + 1])


@pytest.mark.parametrize("t", TIMES)
def test_the_denoiser_of_white_data(t):
    """K = 2 D patterns, +- sqrt(D) s along each axis: mean 0 and covariance s^2 I."""
    axes = 2**0.5 * torch.eye(4).double()
    patterns = torch.cat([axes, -axes]).view(8, 1, 2, 2)  # s^2 = 2 * 2 / 8
    x, expected = normal(5, 1, 2, 2), GaussianDenoiser(0.5**0.5)
    denoiser = WienerDenoiser(patterns, SCHEDULE)
    for name in ("x_0", "eps", "score"):
        result, known = (getattr(d, name)(x, t) for d in (denoiser, expected))
        torch.testing.assert_close(result, known, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("data", ["K < D", "K > D", "digits"])
@pytest.mark.parametrize("t", [20, 400, 999])
def test_no_linear_denoiser_is_better(data, t):
    """E |M x + b - y|^2 = mean_m |(sqrt(a) M - I) y_m + b|^2 + (1 - a) |M|^2, over the noise."""
    patterns = DATA[data]()
    flat, a = patterns.flatten(1), SCHEDULE.alpha_bar_at(t)

    def mean_squared_error(matrix, offset):
        bias = a.sqrt() * flat @ matrix.T - flat + offset
        return (bias.square().sum(1).mean() + (1 - a) * matrix.square().sum()).item()

    matrix, offset = as_matrix(WienerDenoiser(patterns, SCHEDULE), t)
    best = mean_squared_error(matrix, offset)
    for seed in range(100):
        size = 10 ** -(1 + seed % 4)
        m, b = normal(*matrix.shape, seed=seed), normal(len(offset), seed=seed + 100)
        worse = mean_squared_error(matrix + size * m, offset + size * b)
        # Exactly: the error of the best one, and a square of the perturbation.
        added = (a.sqrt() * flat @ m.T + b).square().sum(1).mean() + (1 - a) * m.square().sum()
        assert worse > best
        np.testing.assert_allclose(worse - best, size**2 * added.item(), rtol=1e-4)


@on_data_and_times
def test_log_density_agrees_with_torch(data, t):
    patterns = DATA[data]()
    x = brute.points(patterns, t, SCHEDULE)
    result = WienerDenoiser(patterns, SCHEDULE).log_density(x, t)
    assert result.dtype == torch.float64 and result.shape == (4,)
    torch.testing.assert_close(
        result, gaussian(patterns, t).log_prob(x.flatten(1)), rtol=1e-9, atol=1e-7
    )


@on_data_and_times
def test_score_is_the_gradient_of_the_log_density(data, t):
    patterns = DATA[data]()
    x = brute.points(patterns, t, SCHEDULE).requires_grad_()
    denoiser = WienerDenoiser(patterns, SCHEDULE)
    (own,) = torch.autograd.grad(denoiser.log_density(x, t).sum(), x)
    (torchs,) = torch.autograd.grad(gaussian(patterns, t).log_prob(x.flatten(1)).sum(), x)
    score = denoiser.score(x.detach(), t)
    for expected in (own, torchs):
        scale = expected.abs().max().item()
        torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-9 * scale)


def test_rows_are_those_of_the_filter():
    patterns = DATA["odd D"]()
    a = SCHEDULE.alpha_bar_at(300)
    matrix = torch.from_numpy(brute.wiener(patterns.numpy(), a.item())[0])
    rows = WienerDenoiser(patterns, SCHEDULE).rows(a.view(1, 1), 2, 7)
    torch.testing.assert_close(rows, matrix[2:7], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("data", DATA)
def test_parts_of_patterns_change_nothing(monkeypatch, data):
    patterns = DATA[data]()
    x = brute.points(patterns, 50, SCHEDULE)
    whole = WienerDenoiser(patterns, SCHEDULE)
    monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 40 * 7)
    parts = WienerDenoiser(patterns, SCHEDULE)
    for name in ("x_0", "log_density"):
        results = (getattr(denoiser, name)(x, 50) for denoiser in (parts, whole))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_a_pattern_that_never_varies_is_returned():
    patterns = torch.full((3, 1, 2, 2), 0.25).double()
    x = normal(2, 1, 2, 2)
    expected = torch.full_like(x, 0.25)
    torch.testing.assert_close(WienerDenoiser(patterns, SCHEDULE).x_0(x, 10), expected)


def test_variances_are_not_below_zero():
    """Rounding makes small eigenvalues of a matrix negative; 10 of 64 directions vary here."""
    generator = seeded(3)
    patterns = torch.randn(200, 10, generator=generator).double() @ normal(10, 64)
    a = torch.full((1, 1), 0.5, dtype=torch.float64)
    gains = WienerDenoiser(patterns.view(200, 1, 8, 8), SCHEDULE).gains(a)
    assert (gains >= 0).all() and (gains > 1e-6).sum() == 10
