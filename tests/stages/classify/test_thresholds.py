"""Thresholds from real images: the pool, the held-out images and n are exactly as documented."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import binom

from tests.helpers.images import nearest_within, real_digits, write_mnist
from utils.cli.errors import UserError
from utils.data.datasets import load_image_set, to_float
from utils.data.subsets import permutation
from utils.metrics.embedders import load_metric
from utils.stages.classify.thresholds import calibrate

ARGS = {
    "data": {"data_name": "digits", "data_path": "."},
    "train": {"global_seed": 3407, "train_size": 64},
    "model": {"image_size": 8, "in_channels": 1},
}


@pytest.fixture(scope="module")
def digits():
    """All digits as vectors, in the order of perm."""
    return real_digits()[permutation(1797, 3407)].flatten(1).double().numpy()


@pytest.fixture(scope="module")
def l2():
    return load_metric("l2", None, "cpu")


@pytest.mark.parametrize("pool", [300, 1500])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_delta_m_flags_the_asked_share_of_held_out_images(digits, l2, pool, rate):
    result = calibrate(ARGS, l2, rate, pool, n=256)
    distance = cdist(digits[pool:], digits[:pool]).min(axis=1)
    flagged = (distance <= result.delta_m + 1e-6).sum()
    assert flagged == int(rate * len(distance)) and result.held_out == len(distance)


def test_delta_s_is_of_as_many_real_images_as_are_judged(digits, l2):
    """Nearest neighbours lie closer among more images: thresholds of 256 misjudge 1,000."""
    result = calibrate(ARGS, l2, 0.05, 1500, n=256)
    among = np.concatenate([nearest_within(digits[i * 256 : (i + 1) * 256]) for i in range(7)])
    assert (among <= result.delta_s + 1e-6).sum() == int(0.05 * len(among))
    assert result.n == 256
    larger = calibrate(ARGS, l2, 0.05, 1500, n=1024)
    assert larger.delta_s < result.delta_s


def test_the_error_rate_on_images_that_were_not_used_is_the_one_asked_for(digits):
    """Half of the held-out images set the threshold; the other half must meet the rate.

    Over 40 splits the count is near binomial; the bounds leave one chance in a million."""
    from utils.stages.classify.thresholds import calibrated_thresholds

    rate, flagged, judged = 0.05, 0, 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        x = digits[torch.randperm(len(digits), generator=generator).numpy()]
        distance = cdist(x[1000:], x[:1000]).min(axis=1)
        delta_m, _ = calibrated_thresholds(distance[::2], distance[::2], rate)
        flagged += (distance[1::2] <= delta_m).sum()
        judged += len(distance[1::2])
    # The threshold itself varies from split to split, so the count varies twice as much.
    low, high = binom.ppf([1e-6, 1 - 1e-6], judged // 2, rate) * 2
    assert low <= flagged <= high


def test_a_new_image_is_called_memorized_less_often_at_smaller_k(digits):
    """The pool of K images is a part of the pool of P."""
    new, threshold = digits[1500:], 1.2
    shares = [(cdist(new, digits[:k]).min(axis=1) <= threshold).mean() for k in (64, 256, 1500)]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("pool", "n", "message"),
    [
        (1750, 100, "--pool-size 1750: found 47 held-out images for a rate of 0.01; leave 100"),
        (1500, 1798, "1798 samples, 1797 real images; judge 1797 samples or less"),
        (1797, 100, "digits"),
        (1500, 1, "found 1 sample; judge 2"),
    ],
)
def test_too_few_real_images_are_refused(l2, pool, n, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        calibrate(ARGS, l2, 0.01, pool, n)


def mnist_args(folder):
    return {
        "data": {"data_name": "mnist", "data_path": str(folder)},
        "train": {"global_seed": 3407, "train_size": 2000},
        "model": {"image_size": 28, "in_channels": 1},
    }


@pytest.fixture
def mnist(shared):
    images = load_image_set("mnist", shared / "data", 28, 1)
    return images.read(range(2500))[:, 0].numpy()


def test_the_official_test_split_is_held_out_where_the_pool_is_everything(mnist, tmp_path, l2):
    write_mnist(tmp_path, mnist[:2000], mnist[2000:])
    result = calibrate(mnist_args(tmp_path), l2, 0.05, pool=2000, n=200)
    assert (result.pool, result.held_out) == (2000, 500)
    x = to_float(torch.from_numpy(mnist)).flatten(1).double().numpy()
    assert (cdist(x[2000:], x[:2000]).min(axis=1) <= result.delta_m + 1e-5).sum() == 25


def test_a_test_split_that_repeats_the_training_images_is_refused(mnist, tmp_path, l2):
    write_mnist(tmp_path, mnist[:2000], mnist[:500])
    with pytest.raises(UserError, match="500 of 500 held-out images that are in the pool too"):
        calibrate(mnist_args(tmp_path), l2, 0.05, pool=2000, n=200)
