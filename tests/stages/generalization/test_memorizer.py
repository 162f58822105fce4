"""Distance to the exact memorizer, and collapse and speciation times, against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from models.denoiser import Denoiser
from models.exact import ExactDenoiser
from models.noise import SeededNoise
from models.schedule import SCHEDULES, Schedule, add_noise, predict_eps
from tests.helpers.images import real_digits
from utils.stages.generalization.memorizer import (
    collapse_times,
    denoising_errors,
    largest_variance,
    own_weight,
    speciation_time,
)

SCHEDULE = Schedule(1000)


@pytest.fixture(scope="module")
def digits():
    """Real digits, [300, 1, 8, 8] in [-1, 1]."""
    return real_digits(300)


class Constant(Denoiser):
    """D(x_t) = one image, whatever it is shown."""

    def __init__(self, image):
        self.image, self.schedule, self.shape = image, SCHEDULE, tuple(image.shape)
        self.device = torch.device("cpu")

    def eps(self, x_t, t):
        return predict_eps(x_t, self.x_0(x_t, t), self.schedule.alpha_bar_at(t))

    def x_0(self, x_t, t):
        return self.image.expand_as(x_t)


def noises(images, copies):
    return lambda t: SeededNoise(range(t, t + len(images)), (copies, *images.shape[1:])).draw()


def test_the_exact_model_is_at_distance_0_from_itself(digits):
    exact = ExactDenoiser(digits[:16], SCHEDULE)
    result = denoising_errors(
        exact, exact, digits[:16].mean(0), digits[8:40], [5, 300], noises(digits[8:40], 3), 50
    )
    assert (result.memorizer == 0).all()
    assert result.loss.shape == (2, 32)
    assert (result.loss[0, :8] < 1e-9).all()  # at t = 5 what it knows is returned
    assert (result.loss[0, 8:] > 0.05).all()


def test_errors_are_the_means_over_noises_of_squared_differences(digits):
    known, images, times = digits[:20], digits[15:25], [40, 600]
    exact, constant = ExactDenoiser(known, SCHEDULE), Constant(digits[50])
    mean, noise = known.mean(0), noises(digits[15:25], 4)
    result = denoising_errors(constant, exact, mean, images, times, noise, 7)
    for i, t in enumerate(times):
        for j in range(len(images)):
            eps = noise(t)[j]
            x_t = add_noise(images[j].expand_as(eps), eps, SCHEDULE.alpha_bar_at(t))
            target = exact.x_0(x_t, t)
            pairs = {
                "loss": digits[50] - images[j],
                "memorizer": digits[50] - target,
                "identity": x_t - target,
                "mean": mean - target,
            }
            for name, apart in pairs.items():
                expected = apart.double().square().mean().item()
                assert getattr(result, name)[i, j] == pytest.approx(expected, rel=1e-5), name


def test_the_batch_changes_nothing_and_rows_are_counted(digits):
    exact, counts = ExactDenoiser(digits[:9], SCHEDULE), []
    arguments = (exact, exact, digits[0], digits[5:12], [10, 100], noises(digits[5:12], 2))
    whole = denoising_errors(*arguments, 100, counts.append)
    assert sum(counts) == 2 * 7 * 2
    parts = denoising_errors(*arguments, 3)
    for name, values in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), values, rtol=1e-6)


def test_nan_is_refused(digits):
    broken = Constant(torch.full_like(digits[0], math.nan))
    exact = ExactDenoiser(digits[:3], SCHEDULE)
    with pytest.raises(ValueError, match="found NaN"):
        denoising_errors(broken, exact, digits[0], digits[:2], [3], noises(digits[:2], 1), 4)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_collapse_of_two_patterns_is_on_the_midplane(digits, name):
    """w_own >= 1/2 where x_t is on its own side: sqrt(ab) |y_1 - y_2| / 2 >= sqrt(1 - ab) z, z the
    noise along the line to the other pattern."""
    pair, schedule = digits[:2].double(), Schedule(1000, name)
    exact = ExactDenoiser(pair, schedule)
    images = pair.repeat_interleave(40, 0)
    indices = torch.tensor([0, 1]).repeat_interleave(40)
    eps = SeededNoise(range(80), pair.shape[1:]).draw().double()
    result = collapse_times(exact, images, indices, eps)
    line = pair[1 - indices] - images
    along = (eps * line).flatten(1).sum(1) / line.flatten(1).norm(dim=1)
    half = line.flatten(1).norm(dim=1) / 2
    ab = schedule.alpha_bar
    inside = ab.sqrt()[None] * half[:, None] >= (1 - ab).sqrt()[None] * along[:, None]  # [80, T]
    assert (result == inside.sum(1) - 1).all()
    assert len(result.unique()) > 20 and result.max() == 999


def test_at_the_collapse_the_nearest_image_has_half_the_weight(digits):
    exact, indices = ExactDenoiser(digits[:100], SCHEDULE), torch.arange(60)
    eps = SeededNoise(range(60), digits.shape[1:]).draw()
    t = collapse_times(exact, digits[:60], indices, eps)
    assert (own_weight(exact, digits[:60], indices, eps, t) >= 0.5).all()
    assert (own_weight(exact, digits[:60], indices, eps, t + 1) < 0.5).all()


def test_more_patterns_collapse_earlier_and_one_always(digits):
    eps = SeededNoise(range(30), digits.shape[1:]).draw()
    medians = [
        collapse_times(ExactDenoiser(digits[:k], SCHEDULE), digits[:30], torch.arange(30), eps)
        .median()
        .item()
        for k in (30, 100, 300)
    ]
    assert medians == sorted(medians, reverse=True) and medians[0] > medians[-1]
    alone = ExactDenoiser(digits[:1], SCHEDULE)
    assert collapse_times(alone, digits[:1], torch.zeros(1, dtype=int), eps[:1]).item() == 999


@pytest.mark.parametrize("k", [2, 40, 300])
def test_the_largest_variance_is_that_of_principal_components(digits, k):
    from sklearn.decomposition import PCA

    result, error = largest_variance(digits[:k])
    flat = digits[:k].flatten(1).double().numpy()
    assert result == pytest.approx(PCA(1).fit(flat).explained_variance_[0] * (k - 1) / k, rel=1e-6)
    assert error >= 0
    assert largest_variance(digits[:1]) == (0, 0)


def test_large_sets_take_arpack_and_agree(digits, monkeypatch):
    expected = largest_variance(digits)
    monkeypatch.setattr("utils.stages.generalization.memorizer.SMALL", 10)
    assert largest_variance(digits) == pytest.approx(expected, rel=1e-8)
    assert largest_variance(digits) == largest_variance(digits)


@pytest.mark.slow
def test_the_standard_error_of_the_largest_variance_is_right():
    """Gaussian data of one large variance: it lies within 1.96 errors 95 % of the time."""
    generator, inside = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        images = torch.randn(400, 1, 2, 3, generator=generator, dtype=torch.float64)
        images[:, 0, 0, 0] *= 3
        result, error = largest_variance(images)
        inside += abs(result - 9) <= 1.96 * error
    low, high = stats.binom.ppf([0.002, 0.998], 200, 0.95)
    assert low - 6 <= inside <= high  # the largest eigenvalue leans upwards a little


@pytest.mark.parametrize("name", SCHEDULES)
def test_speciation_is_where_the_noise_hides_the_largest_variance(name):
    schedule = Schedule(1000, name)
    for variance in (1.5, 10, 1000):
        t = speciation_time(variance, schedule)
        assert schedule.alpha_bar[t] * variance >= 1 > schedule.alpha_bar[t + 1] * variance
    assert speciation_time(0.9, schedule) == -1
    assert speciation_time(1e30, schedule) == 999
