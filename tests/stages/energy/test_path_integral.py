"""Energies by path integrals: quadrature, closed forms, and the original's numbers."""

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.schedule import Schedule
from tests.helpers.images import real_digits
from tests.helpers.models import closed_form
from utils.inputs.checkpoints import denoiser_of, load_checkpoint
from utils.stages.energy import stage as stage
from utils.stages.energy.path_integral import (
    energy_gradient,
    gauss_rule,
    path_integrals,
    published_gradient,
    published_rule,
)


@pytest.fixture(scope="module")
def digits():
    """Real digits in float64, [40, 1, 8, 8] in [-1, 1]."""
    return real_digits(40).double()


@pytest.mark.parametrize("points", [2, 3, 9, 10, 11, 20, 37, 200])
def test_rules_are_exact_for_polynomials(points):
    """A panel of n nodes integrates degree 2 n - 1, half of it ceil(n / 2) - 1."""
    rule = gauss_rule(points)
    smallest = points // -(-points // 10)
    assert len(rule.nodes) == points and (np.diff(rule.nodes) > 0).all()
    assert rule.nodes[0] > 0 and rule.nodes[-1] < np.pi / 2
    for weights, degree in (
        (rule.weights, 2 * smallest - 1),
        (rule.half, -(-smallest // 2) - 1),
    ):
        for power in range(degree + 1):
            expected = (np.pi / 2) ** (power + 1) / (power + 1)
            assert (rule.nodes**power * weights).sum() == pytest.approx(expected, rel=1e-10)
    used = (rule.half != 0).sum()
    assert points / 2 <= used <= points / 2 + len(rule.nodes) / 10 + 1


def test_rules_agree_with_scipy():
    from scipy.integrate import quad

    def f(a):
        return np.exp(np.sin(3 * a)) * np.cos(a)

    rule = gauss_rule(40)
    assert (f(rule.nodes) * rule.weights).sum() == pytest.approx(
        quad(f, 0, np.pi / 2)[0], rel=1e-12
    )


def test_the_published_rule_weighs_both_ends_fully():
    rule = published_rule()
    assert rule.nodes[0] == 0 and rule.nodes[-1] == np.pi / 2 and len(rule.nodes) == 20
    assert rule.weights.sum() == pytest.approx(np.pi / 2 * 20 / 19)


@pytest.mark.parametrize("points", [0, 1])
def test_too_few_points(points):
    with pytest.raises(ValueError, match="give 2 or more"):
        gauss_rule(points)


def absolute_integral(gradient, x, r, rule):
    """The integral of |grad u . x'|: the scale that an error is to be compared with."""
    total = np.zeros((len(r), len(x)))
    cos, sin = (torch.from_numpy(f(rule.nodes)).reshape(-1, 1, 1, 1) for f in (np.cos, np.sin))
    for i, j in np.ndindex(total.shape):
        along = gradient(cos * x[j] + sin * r[i]) * (cos * r[i] - sin * x[j])
        total[i, j] = rule.weights @ along.flatten(1).sum(1).abs().numpy()
    return total


KNOWN_TIMES = [(1, 0), (1, 50), (1, 999), (16, 50), (16, 200), (16, 500), (16, 999)]


@pytest.mark.parametrize(
    ("k", "t", "schedule"),
    [*((k, t, "linear") for k, t in KNOWN_TIMES), (16, 300, "cosine"), (16, 300, "sigmoid")],
)
def test_the_path_integral_is_the_difference_of_energies(digits, k, t, schedule):
    """To 1e-6 of the integral of |grad u . x'|."""
    denoiser = ExactDenoiser(digits[:k], Schedule(1000, schedule))
    x, r = torch.cat([digits[:2], digits[30:32]]), digits[20:22]
    gradient, rule = (
        energy_gradient(denoiser, t),
        gauss_rule(20 if k == 1 else 400 if t > 50 else 4000),
    )
    result, _ = path_integrals(gradient, x, r, rule, 64)
    scale = absolute_integral(gradient, x, r, rule)
    assert (np.abs(result - closed_form(denoiser, x, r, t)) <= 1e-6 * scale).all()


def test_at_t_0_it_holds_on_a_path_that_is_split_at_the_borders(digits):
    """Between two patterns the force jumps: adaptive quadrature, told where the jumps are."""
    from scipy.integrate import quad

    denoiser, t = ExactDenoiser(digits[:16], Schedule()), 0
    x, r = digits[30], digits[21]
    gradient = energy_gradient(denoiser, t)

    def point(a):
        return np.cos(a) * x + np.sin(a) * r

    def along(a):
        return (gradient(point(a)[None])[0] * (np.cos(a) * r - np.sin(a) * x)).sum().item()

    def nearest(a):
        return denoiser.weights(point(a)[None], t).argmax().item()

    borders, grid = [], np.linspace(0, np.pi / 2, 400)
    for low, high in zip(grid, grid[1:], strict=False):
        if nearest(low) != nearest(high):
            for _ in range(50):  # halve down to the border
                middle = (low + high) / 2
                low, high = (middle, high) if nearest(middle) == nearest(low) else (low, middle)
            borders.append(low)
    assert borders  # else the test would say nothing
    edges = [0, *borders, np.pi / 2]
    parts = [
        quad(along, a, b, limit=200, epsrel=1e-10)[0]
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    sizes = [
        quad(lambda a: abs(along(a)), a, b, limit=200)[0]
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    expected = closed_form(denoiser, x[None], r[None], t)[0, 0]
    assert abs(sum(parts) - expected) <= 1e-6 * sum(sizes)


def test_half_as_many_points_estimate_the_error(digits):
    """Where the path is hard (t = 0, 16 patterns) the difference is of the error's size."""
    denoiser = ExactDenoiser(digits[:16], Schedule())
    x, r = digits[24:32], digits[20:22]
    for t, small in ((0, False), (500, True)):
        expected = closed_form(denoiser, x, r, t)
        result, half = path_integrals(energy_gradient(denoiser, t), x, r, gauss_rule(20), 64)
        estimate, error = np.abs(result - half), np.abs(result - expected)
        assert np.median(error) <= np.median(estimate)
        assert (np.median(estimate) < 1e-3 * np.median(np.abs(expected))) == small


def test_the_sign_says_who_lies_deeper(digits):
    """A pattern lies deeper than an image that is none: positive, and more so for smaller t."""
    denoiser = ExactDenoiser(digits[:4], Schedule())
    result = [
        path_integrals(
            energy_gradient(denoiser, t), digits[:4], digits[20:23], gauss_rule(200), 64
        )[0]
        for t in (50, 300)
    ]
    assert (result[0] > 0).all() and (result[0] > result[1]).all()


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_batch_size_and_other_images_change_nothing(digits, batch):
    denoiser = ExactDenoiser(digits[:5], Schedule())
    gradient, rule = energy_gradient(denoiser, 10), gauss_rule(11)
    x, r = digits[10:16].float(), digits[20:23].float()
    whole, half = path_integrals(gradient, x, r, rule, 50)
    result, found_half = path_integrals(gradient, x, r, rule, batch)
    np.testing.assert_allclose(result, whole, rtol=1e-12)
    np.testing.assert_allclose(found_half, half, rtol=1e-12)
    one, _ = path_integrals(gradient, x[2:3], r[1:2], rule, 50)
    assert one[0, 0] == whole[1, 2]


def test_a_force_that_is_not_finite_is_refused(digits):
    with pytest.raises(ValueError, match="NaN or infinite"):
        path_integrals(lambda x: x / 0, digits[:1], digits[1:2], gauss_rule(4), 8)


def test_the_original_s_numbers(shared):
    """To 1e-4, or to the rounding of the original's float32 sums where the terms cancel."""
    result = np.load(shared / "reference" / "potential_16.npz")
    path = shared / "reference" / "16.pt"
    denoiser = denoiser_of(load_checkpoint(path), path, torch.device("cpu"), "float32")
    samples, refs = (torch.from_numpy(result[key]) for key in ("samples", "refs"))
    ours, _ = path_integrals(published_gradient(denoiser), samples, refs, published_rule(), 64)
    np.testing.assert_allclose(ours, result["potential_reference"], rtol=1e-4, atol=2e-8)
    right, _ = path_integrals(energy_gradient(denoiser, 0), samples, refs, gauss_rule(20), 64)
    assert np.median(np.abs(right / ours)) > 10  # nothing else uses that arithmetic
