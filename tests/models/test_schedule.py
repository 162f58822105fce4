"""The schedule in float64, and the ways between eps, x_0 and the score."""

import numpy as np
import pytest
import torch

from models.schedule import Schedule, add_noise, predict_eps, predict_x0, score


def test_alpha_bar_is_the_float64_product():
    beta = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(Schedule().alpha_bar.numpy(), np.cumprod(1 - beta), rtol=1e-13)
    assert Schedule().alpha_bar_at(-1) == 1


def test_agrees_with_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02).alphas_cumprod
    np.testing.assert_allclose(Schedule().alpha_bar.numpy(), theirs.numpy(), rtol=1e-4)


@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_the_ways_lead_back(t):
    generator = torch.Generator().manual_seed(t)
    x_0, eps = torch.randn(2, 4, 1, 8, 8, generator=generator, dtype=torch.float64)
    alpha_bar = Schedule().alpha_bar_at(t)
    x_t = add_noise(x_0, eps, alpha_bar)
    torch.testing.assert_close(predict_x0(x_t, eps, alpha_bar), x_0)
    torch.testing.assert_close(predict_eps(x_t, x_0, alpha_bar), eps)


def test_a_time_for_each_image():
    x_0, eps = torch.randn(2, 3, 1, 4, 4)
    t = torch.tensor([0, 10, 999])
    whole = add_noise(x_0, eps, Schedule().alpha_bar_at(t))
    for i in range(3):
        one = add_noise(x_0[i : i + 1], eps[i : i + 1], Schedule().alpha_bar_at(t[i]))
        assert torch.equal(whole[i : i + 1], one)


def test_score_of_a_gaussian_is_the_gradient_of_its_log_density():
    """x_0 = 0: p_t = N(0, 1 - alpha_bar_t), so s = -x / (1 - alpha_bar_t)."""
    schedule, x = Schedule(), torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    for t in (0, 300, 999):
        alpha_bar = schedule.alpha_bar_at(t)
        eps = predict_eps(x, torch.zeros_like(x), alpha_bar)
        torch.testing.assert_close(score(eps, alpha_bar), -x / (1 - alpha_bar))


@pytest.mark.parametrize("steps", [1, 2, 50, 999, 1000])
def test_sampling_times_fall_from_the_last_to_zero(steps):
    times = Schedule().times(steps)
    assert len(times) == steps and times[0] == 999
    assert steps == 1 or times[-1] == 0
    assert all(a > b for a, b in zip(times, times[1:]))


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps: found {steps}"):
        Schedule().times(steps)
