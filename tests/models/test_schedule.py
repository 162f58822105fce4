"""The schedule in float64, and the ways between eps, x_0 and the score."""

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.noise import SeededNoise
from models.samplers import ddim, ddpm, dpmpp
from models.schedule import (
    SCHEDULES,
    Schedule,
    add_noise,
    eps_from_v,
    predict_eps,
    predict_v,
    predict_x0,
    score,
    x0_from_v,
)
from tests.helpers.images import real_digits

THEIRS = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


def test_alpha_bar_is_the_float64_product():
    beta = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(Schedule().alpha_bar.numpy(), np.cumprod(1 - beta), rtol=1e-13)
    assert Schedule().alpha_bar_at(-1) == 1


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("timesteps", [50, 1000])
def test_agrees_with_diffusers(name, timesteps):
    from diffusers import DDPMScheduler

    ends = {"beta_start": 1e-4, "beta_end": 0.02}
    theirs = DDPMScheduler(timesteps, beta_schedule=THEIRS[name], **ends).betas
    ours = Schedule(timesteps, name)
    np.testing.assert_allclose(ours.beta.numpy(), theirs.numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours.alpha_bar.numpy(), np.cumprod(1 - ours.beta.numpy()))


def test_the_sigmoid_schedule_is_the_published_function():
    """Jabri et al. 2022, algorithm 1, in numpy; its end, where it is 0, is cut by beta <= 0.999."""
    logistic = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    u = np.arange(1, 1001) / 1000
    expected = (logistic(3) - logistic(u * 6 - 3)) / (logistic(3) - logistic(-3))
    found = Schedule(1000, "sigmoid").alpha_bar.numpy()
    np.testing.assert_allclose(found[:-1], expected[:-1], rtol=1e-10)
    assert expected[-1] < 1e-12 < found[-1]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [2, 20, 1000])
def test_schedules_decrease_and_are_known_again(name, timesteps):
    schedule = Schedule(timesteps, name)
    assert schedule.alpha_bar[-1] > 0 and schedule.alpha_bar[0] < 1
    assert (schedule.alpha_bar.diff() < 0).all() and schedule.timesteps == timesteps
    again = Schedule.from_alpha_bar(schedule.alpha_bar)
    torch.testing.assert_close(again.beta, schedule.beta)
    assert torch.equal(again.alpha_bar, schedule.alpha_bar)
    assert again.name == (name if timesteps > 2 else {"scaled-linear": "linear"}.get(name, name))
    if timesteps == 1000:
        assert Schedule.from_alpha_bar(schedule.alpha_bar.float()).name == name
        assert Schedule.from_alpha_bar(schedule.alpha_bar**1.01).name is None


@pytest.mark.parametrize(
    ("alpha_bar", "message"),
    [
        ([0.9, 0.5, 0.5], "0.5 after 0.5 at t = 2; give values that decrease"),
        ([0.1, 0.2], "0.2 after 0.1 at t = 1"),
        ([1.1, 0.2], "1.1 to 0.2; give values above 0, and up to 1"),
        ([0.9, 0.0], "0.9 to 0;"),
        ([0.9, float("nan"), 0.1], "0.9 to 0.1;"),
        ([0.9], r"\[1\]; give two"),
        ([[0.9, 0.1]], r"\[1, 2\]; give two"),
    ],
)
def test_an_array_that_is_no_schedule_is_refused(alpha_bar, message):
    with pytest.raises(ValueError, match="alpha_bar: found .*" + message):
        Schedule.from_alpha_bar(torch.tensor(alpha_bar))


def test_a_schedule_may_begin_without_noise():
    schedule = Schedule.from_alpha_bar(torch.linspace(1, 0.001, 40))
    digits = real_digits(4)
    exact = ExactDenoiser(digits, schedule)
    assert torch.equal(exact.x_0(digits, 1), digits)
    with pytest.raises(ValueError, match="found 0, at which this schedule has no noise"):
        exact.score(digits, 0)


@pytest.mark.parametrize("name", [*SCHEDULES, "array"])
def test_every_sampler_recalls_a_pattern_of_the_exact_model(name):
    """With any schedule the exact model of few patterns ends at one of them."""
    schedule = Schedule(200, name if name in SCHEDULES else "linear")
    if name == "array":
        schedule = Schedule.from_alpha_bar(torch.linspace(0.999, 0.001, 200) ** 2)
    digits = real_digits(5)
    exact = ExactDenoiser(digits, schedule)
    for sampler, steps in ((ddpm, 200), (ddim, 50), (dpmpp, 50)):
        noise = SeededNoise(range(6), (1, 8, 8)).draw
        apart = torch.cdist(sampler(exact, noise, steps).flatten(1), digits.flatten(1)).amin(1)
        assert apart.max() < 0.2, sampler


@pytest.mark.parametrize("name", SCHEDULES)
def test_v_leads_back_to_image_and_noise(name):
    x_0, eps = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    alpha_bar = Schedule(1000, name).alpha_bar_at(torch.tensor([0, 300, 700, 999]))
    x_t, v = add_noise(x_0, eps, alpha_bar), predict_v(x_0, eps, alpha_bar)
    torch.testing.assert_close(x0_from_v(x_t, v, alpha_bar), x_0)
    torch.testing.assert_close(eps_from_v(x_t, v, alpha_bar), eps)
    # v is the derivative of x_t along the angle phi, cos^2 phi = alpha_bar
    torch.testing.assert_close(x_t.square() + v.square(), x_0.square() + eps.square())


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
