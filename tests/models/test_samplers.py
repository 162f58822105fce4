"""Samplers against closed forms, then against diffusers."""

import pytest
import torch

from models.exact import ExactDenoiser
from models.noise import SeededNoise
from models.samplers import ddim, ddim_step, ddpm, ddpm_step, dpmpp, draw_images
from models.schedule import Schedule
from tests.helpers.models import GaussianDenoiser


def test_ddim_on_gaussian_data_converges_at_first_order():
    """The flow's exact answer is x_0 = x_T s / sqrt(v_T)."""
    denoiser = GaussianDenoiser(std=0.5)
    x_T = SeededNoise(range(8), denoiser.shape).draw().double()

    def error(steps: int) -> float:
        images = ddim(denoiser, lambda: x_T, steps, clip=False)
        return (images - x_T * 0.5 / denoiser.variance(999).sqrt()).abs().max().item()

    assert error(400) < 0.01
    assert 1.8 < error(200) / error(400) < 2.2


def test_dpmpp_on_gaussian_data_converges_faster_than_first_order():
    """The flow ends at t = 0 with x_T sqrt(v_0 / v_T); the last call turns that into its x_0.

    Second order would give a ratio of 4; the one step of first order costs some of it."""
    denoiser = GaussianDenoiser(std=0.5)
    x_T = SeededNoise(range(8), denoiser.shape).draw().double()
    end = x_T * (denoiser.variance(0) / denoiser.variance(999)).sqrt()

    def error(sampler, steps: int) -> float:
        images = sampler(denoiser, lambda: x_T, steps, clip=False)
        return (images - denoiser.x_0(end, 0)).abs().max().item()

    assert 2.5 < error(dpmpp, 125) / error(dpmpp, 250) < 4.6
    assert error(dpmpp, 20) < error(ddim, 20) / 2
    assert error(dpmpp, 50) < error(ddim, 50) / 10


@pytest.mark.parametrize(("t", "s"), [(999, 998), (500, 450), (1, 0), (20, -1)])
def test_a_ddpm_step_has_the_exact_marginal(t, s):
    """Given x_0, x_t ~ N(sqrt(a_t) x_0, 1 - a_t) must become x_s ~ N(sqrt(a_s) x_0, 1 - a_s).

    The step is linear: its answers to x_0 = 1, x_t = 1 and z = 1 are its coefficients."""
    a_t, a_s = Schedule().alpha_bar_at([t, s])
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    c_0 = ddpm_step(zero, one, a_t, a_s, zero)
    c_t = ddpm_step(one, zero, a_t, a_s, zero)
    sigma = ddpm_step(zero, zero, a_t, a_s, one)
    torch.testing.assert_close(c_0 + c_t * a_t.sqrt(), a_s.sqrt()[None])
    torch.testing.assert_close(c_t**2 * (1 - a_t) + sigma**2, (1 - a_s)[None])


def test_ddpm_on_gaussian_data_has_the_variance_of_its_recursion():
    """v_s = (c_0 g + c_t)^2 v_t + sigma^2, exact for the chain; it ends near the data's s^2."""
    denoiser, schedule = GaussianDenoiser(std=0.3), Schedule()
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    variance, times = one, schedule.times(1000)
    for t, s in zip(times, [*times[1:], -1]):
        a_t, a_s = schedule.alpha_bar_at([t, s])
        pull = ddpm_step(one, denoiser.x_0(one, t), a_t, a_s, zero)
        variance = pull**2 * variance + ddpm_step(zero, zero, a_t, a_s, one) ** 2
    assert abs(variance.sqrt().item() - 0.3) < 0.01
    images = ddpm(denoiser, SeededNoise(range(256), (1, 8, 8)).draw, 1000)
    n = images.numel()  # the sample's standard deviation has a relative error of 1 / sqrt(2 n)
    assert abs(images.std().item() / variance.sqrt().item() - 1) < 4 / (2 * n) ** 0.5


def test_ddim_with_eta_one_is_ddpm():
    x_t, x_0, z = torch.randn(3, 2, 1, 4, 4, dtype=torch.float64)
    a_t, a_s = Schedule().alpha_bar_at([600, 550])
    ours = ddim_step(x_t, x_0, a_t, a_s, z, eta=1.0)
    torch.testing.assert_close(ours, ddpm_step(x_t, x_0, a_t, a_s, z))


def test_one_pattern_is_always_found():
    pattern = torch.rand(1, 1, 4, 4) * 2 - 1
    denoiser = ExactDenoiser(pattern, Schedule())
    for sampler in (ddim, ddpm, dpmpp):
        images = sampler(denoiser, SeededNoise(range(3), (1, 4, 4)).draw, 20)
        torch.testing.assert_close(images, pattern.expand(3, 1, 4, 4))


def test_the_exact_model_generates_its_patterns_equally_often():
    patterns = torch.tensor([[-1.0], [1.0]]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4).contiguous()
    denoiser = ExactDenoiser(patterns, Schedule())
    images = torch.cat(list(draw_images(denoiser, range(400), "ddim", 50, 200)))
    assert torch.allclose(images.abs(), torch.ones_like(images), atol=1e-4)
    up = (images.mean(dim=(1, 2, 3)) > 0).sum().item()
    assert abs(up - 200) < 4 * 10  # four standard deviations of a fair coin


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batch_size_changes_nothing(batch, sampler):
    denoiser = GaussianDenoiser(std=0.5)
    whole = torch.cat(list(draw_images(denoiser, range(8), sampler, 10, 8)))
    parts = torch.cat(list(draw_images(denoiser, range(8), sampler, 10, batch)))
    # Kernels may sum in another order for another batch shape: rounding, and no more.
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_an_image_depends_on_its_seed_alone():
    denoiser = GaussianDenoiser(std=0.5)
    (whole,) = draw_images(denoiser, range(5, 13), "ddpm", 10, 8)
    (later,) = draw_images(denoiser, range(9, 10), "ddpm", 10, 8)
    torch.testing.assert_close(later[0], whole[4], rtol=0, atol=1e-6)
    assert not torch.allclose(whole[0], whole[1])


def test_ddpm_step_agrees_with_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, variance_type="fixed_small")
    theirs.set_timesteps(1000)
    x, eps = torch.randn(2, 2, 1, 8, 8)
    for t in (999, 500, 1):
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        step = theirs.step(eps, t, x, generator=torch.Generator().manual_seed(t))
        a_t, a_s = Schedule().alpha_bar_at([t, t - 1])
        x_0 = step.pred_original_sample
        torch.testing.assert_close(
            ddpm_step(x, x_0, a_t, a_s, z), step.prev_sample, rtol=0, atol=1e-4
        )


def test_a_ddim_run_agrees_with_diffusers():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_start=1e-4, beta_end=0.02, set_alpha_to_one=True)
    theirs.set_timesteps(1000)
    denoiser = GaussianDenoiser(std=0.5)
    x_T = SeededNoise(range(4), (1, 8, 8)).draw()
    x = x_T
    for t in theirs.timesteps:
        eps = denoiser.eps(x, int(t))
        x = theirs.step(eps, t, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ddim(denoiser, lambda: x_T, 1000), x, rtol=0, atol=1e-4)
