"""Thresholds from real images: their definition, their error rate, the images they come from."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tests.helpers.images import nearest_within, real_digits, write_mnist
from utils.cli.errors import UserError
from utils.data.datasets import load_image_set, open_images, to_float
from utils.data.subsets import permutation
from utils.descriptors.embedders import load_metric
from utils.stages.classify.held_out import FEWEST_SETS, HeldOut, measure_held_out, number_of_sets
from utils.stages.classify.thresholds import (
    calibrate,
    check_held_out,
    conformal_threshold,
    pooled,
    smallest_rate,
)
from utils.stages.classify.verdicts import labels_of

SIZES = (2, 16, 64, 256, 1000)  # the last one is the largest of a sweep, P
N = 128  # samples


def digits_args(k, subset="first"):
    return {
        "data": {"data_name": "digits", "data_path": "."},
        "train": {"global_seed": 3407, "train_size": k, "subset": subset},
        "model": {"image_size": 8, "in_channels": 1},
    }


@pytest.fixture(scope="module")
def digits():
    """All digits as vectors, in the order of perm."""
    return real_digits()[permutation(1797, 3407)].flatten(1).double().numpy()


@pytest.fixture(scope="module")
def l2():
    return load_metric("l2", None, "cpu")


# ---- the rank ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "rank"), [(0.01, 1), (0.019, 1), (0.29, 29), (0.5, 50), (0.999, 99)])
def test_without_ties_it_is_an_order_statistic(q, rank):
    values = np.random.default_rng(0).permutation(99) + 1.0
    assert conformal_threshold(values, q) == (rank, rank)


# Few different values, so that ties are the rule.
@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_the_largest_value_with_at_most_the_share(values, q):
    distances = np.array(values, np.float32)
    limit = q * (len(values) + 1) + 1e-6
    allowed = [v for v in values if sum(w <= v for w in values) <= limit]
    if allowed:
        threshold, rank = conformal_threshold(distances, q)
        assert threshold == max(allowed) and rank == sum(w <= threshold for w in values)
        assert q >= smallest_rate(distances) - 1e-6
    else:
        assert q < smallest_rate(distances)
        with pytest.raises(ValueError, match="q: found"):
            conformal_threshold(distances, q)


@pytest.mark.parametrize(("n", "q"), [(25, 0.08), (24, 0.08), (99, 0.01)])
def test_a_further_distance_lies_below_with_an_exact_probability(n, q):
    """P(d <= threshold) = floor(q (n + 1)) / (n + 1): the rank of q n would give 1 in 25 for 24."""
    draws = np.random.default_rng(1).exponential(size=(20_000, n + 1))
    below = [new <= conformal_threshold(known, q)[0] for *known, new in draws]
    exact = math.floor(q * (n + 1)) / (n + 1)
    assert np.mean(below) == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))


@pytest.mark.parametrize("distances", [[], [1.0, math.nan], [1.0, math.inf], [-1.0, 2.0]])
def test_distances_that_are_none_are_refused(distances):
    with pytest.raises(ValueError, match="distances: found"):
        conformal_threshold(distances, 0.5)


@pytest.mark.parametrize("q", [0, 1, -0.1, math.nan])
def test_impossible_shares_are_refused(q):
    with pytest.raises(ValueError, match="q: found"):
        conformal_threshold([1.0, 2.0], q)


# ---- the error rate ------------------------------------------------------------------------------


def real_images(x, k, count):
    """HeldOut of `count` images after the first k, as `measure_held_out` finds it; by cdist."""
    new = x[k : k + count]
    near = np.sort(cdist(new, x[:k]), axis=1)[:, :2]
    sets = [new[end - N : end] for end in range(len(new), N - 1, -N)]
    within = np.stack([nearest_within(part) for part in sets])
    return HeldOut(near.astype(np.float32), within.astype(np.float32), k)


def false_positives(digits, criterion, k, draws=60, q=0.05):
    """Shares in `draws` sets of N new real images, one for each split into training, calibration
    and new images: memorized, spurious, near another one; memorized and spurious of the control."""
    found = []
    for seed in range(draws):
        x = digits[np.random.default_rng(seed).permutation(len(digits))]
        real = real_images(x, k, 3 * N)
        limits = None, None
        if criterion == "calibrated":
            calibration = calibrate(real, k, N, q)
            limits = calibration.delta_m, calibration.delta_s
        new = x[k + 3 * N : k + 4 * N]
        near = np.sort(cdist(new, x[:k]), axis=1)[:, :2].astype(np.float32)
        within = nearest_within(new).astype(np.float32)
        labels, control = (
            labels_of(criterion, limits, "l2", *one) for one in ((near, within), real.control)
        )
        close = np.mean(within <= limits[1]) if limits[1] else np.nan
        shares = [np.mean(one == name) for one in (labels, control) for name in (0, 1)]
        found.append([*shares[:2], close, *shares[2:]])
    return np.array(found)  # [draws, 5]


@pytest.mark.slow
@pytest.mark.parametrize("k", SIZES)
def test_real_images_are_called_memorized_at_the_rate_asked_for_at_every_k(digits, k):
    """One error rate at every K. Of 7,680 new images; each threshold errs too, as Beta(19, 366)."""
    q, draws = 0.05, 60
    memorized, spurious, close, *control = false_positives(digits, "calibrated", k, draws, q).T
    exact = math.floor(q * (3 * N + 1)) / (3 * N + 1)
    error = math.sqrt(exact * (1 - exact) / draws * (1 / N + 1 / (3 * N)))
    assert memorized.mean() == pytest.approx(exact, abs=4 * error)
    # Neighbours come in pairs, which doubles the variance.
    assert close.mean() == pytest.approx(exact, abs=4 * math.sqrt(2) * error)
    assert spurious.mean() <= close.mean()  # what is memorized is not spurious
    assert [rate.mean() for rate in control] == pytest.approx([exact, spurious.mean()], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("k", SIZES)
def test_the_control_of_the_ratio_criterion_is_its_error_rate(digits, k):
    """No rate is promised: the control says what it is, here on other real images."""
    memorized, spurious, _, *control = false_positives(digits, "ratio", k).T
    for rate, real in zip((memorized, spurious), control, strict=True):
        error = math.sqrt(2 * (rate.mean() * (1 - rate.mean()) + 1e-3) / 60 * (1 / N + 1 / (3 * N)))
        assert rate.mean() == pytest.approx(real.mean(), abs=4 * error)
    if k == 2:
        assert spurious.mean() > 0.05  # without the control this would look like spurious states


@pytest.mark.slow
def test_pooled_thresholds_have_their_rate_at_the_largest_k_alone(digits):
    rates = []
    for k in SIZES:
        found = []
        for seed in range(20):
            x = digits[np.random.default_rng(seed).permutation(len(digits))]
            to_pool = cdist(x[1000:1400], x[:1000]).min(axis=1)
            delta_m, _ = conformal_threshold(to_pool, 0.05)
            found.append(np.mean(cdist(x[1400:], x[:k]).min(axis=1) <= delta_m))
        rates.append(np.mean(found))
    assert rates == sorted(rates) and rates[1] < 0.01
    assert rates[-1] == pytest.approx(0.05, abs=0.015)


# ---- the images ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "subset"), [(64, "first"), (300, "second"), (1500, "first")])
def test_thresholds_come_from_images_that_the_model_has_not_seen(digits, l2, k, subset):
    first = k if subset == "second" else 0
    train, new = digits[first : first + k], digits[first + k :]
    args = digits_args(k, subset)
    images = open_images(args).read(permutation(1797, 3407)[first : first + k])
    real = measure_held_out(args, l2, images, 256)
    np.testing.assert_allclose(real.near, np.sort(cdist(new, train), axis=1)[:, :2], rtol=1e-5)
    assert real.first == first + k
    found = calibrate(real, k, 256, 0.05)
    assert (real.near[:, 0] <= found.delta_m).sum() == found.rank == int(0.05 * (len(new) + 1))
    assert (found.references, found.held_out) == (k, len(new))
    assert found.error_low < 0.05 < found.error_high
    near, within = real.control
    assert len(near) == len(within) == len(new) // 256 * 256
    last = new[-256:]  # the first set
    np.testing.assert_allclose(within[:256], nearest_within(last), rtol=1e-5)
    np.testing.assert_allclose(near[:256], real.near[-256:])


def test_delta_s_is_of_sets_as_large_as_that_of_the_samples(l2):
    """Nearest neighbours lie closer among more images: a threshold of 256 misjudges 600."""
    args = digits_args(64)
    train = open_images(args).read(permutation(1797, 3407)[:64])
    small, large = (measure_held_out(args, l2, train, n) for n in (256, 600))
    thresholds = [calibrate(r, 64, n, 0.05).delta_s for r, n in ((small, 256), (large, 600))]
    assert thresholds[1] < thresholds[0]
    assert np.mean(large.within <= thresholds[0]) > 0.07


def test_few_held_out_images_are_completed_by_training_images_for_delta_s_alone(digits, l2):
    args = digits_args(1500)
    real = measure_held_out(args, l2, open_images(args).read(permutation(1797, 3407)[:1500]), 256)
    assert len(real.within) == FEWEST_SETS and len(real.control[1]) == 256
    sets = [digits[1797 - (i + 1) * 256 : 1797 - i * 256] for i in range(FEWEST_SETS)]
    np.testing.assert_allclose(real.within, [nearest_within(x) for x in sets], rtol=1e-5)


@pytest.mark.parametrize(
    ("k", "held_out", "n", "sets"),
    [(10, 90, 1, 0), (10, 90, 101, 0), (10, 90, 100, 1), (100, 1000, 100, 10), (900, 100, 100, 4)],
)
def test_how_many_sets_there_are(k, held_out, n, sets):
    assert number_of_sets(k, held_out, n) == sets


def test_the_number_of_sets_is_bounded():
    assert number_of_sets(10, 50_000, 256) == 16 and number_of_sets(10, 50_000, 10_000) == 1


@pytest.mark.parametrize(
    ("k", "n", "message"),
    [
        (1750, 100, "--false-positive-rate: found 0.01 with 47 held-out images at K = 1750"),
        (1500, 1798, "1798 samples, 1797 real images; judge 1797 samples or fewer"),
        (1797, 100, "1797, of 1797 images without a test part"),
        (1500, 1, "found 1 sample; judge 2"),
        (1690, 12, "with 96 real images as neighbours at K = 1690; choose 0.0104 or more"),
    ],
)
def test_too_few_real_images_are_refused_before_and_while_calibrating(l2, k, n, message):
    args = digits_args(k)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        check_held_out(args, 0.01, n)
    real = measure_held_out(args, l2, open_images(args).read(permutation(1797, 3407)[:k]), n)
    if real is None:
        return
    where = message.split(" at K")[0].split("; judge")[0]
    if "neighbours" not in message:  # ties of pairs need a little more than one image
        with pytest.raises(UserError, match=where):
            calibrate(real, k, n, 0.01)


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


def test_the_official_test_split_is_held_out_where_all_images_are_trained_on(mnist, tmp_path, l2):
    write_mnist(tmp_path, mnist[:2000], mnist[2000:])
    args = mnist_args(tmp_path)
    real = measure_held_out(args, l2, open_images(args).read(range(2000)), 200)
    assert real.near.shape == (500, 2) and real.first == 2000
    x = to_float(torch.from_numpy(mnist)).flatten(1).double().numpy()
    np.testing.assert_allclose(real.near[:, 0], cdist(x[2000:], x[:2000]).min(axis=1), rtol=1e-4)
    old = pooled(args, l2, 0.05, pool=2000, n=200)
    assert (old.references, old.held_out) == (2000, 500)
    assert old.delta_m == calibrate(real, 2000, 200, 0.05).delta_m


def test_a_test_split_that_repeats_the_training_images_is_refused(mnist, tmp_path, l2):
    write_mnist(tmp_path, mnist[:2000], mnist[:500])
    args = mnist_args(tmp_path)
    real = measure_held_out(args, l2, open_images(args).read(range(2000)), 200)
    for attempt in (
        lambda: calibrate(real, 2000, 200, 0.05),
        lambda: pooled(args, l2, 0.05, pool=2000, n=200),
    ):
        with pytest.raises(UserError, match="500 of 500 held-out images .* are training images"):
            attempt()


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_pooled_flags_the_asked_share_of_images_outside_the_pool(digits, l2, rate):
    result = pooled(digits_args(64), l2, rate, 300, n=256)
    distance = cdist(digits[300:], digits[:300]).min(axis=1)
    flagged = (distance <= result.delta_m + 1e-6).sum()
    assert flagged == result.rank == int(rate * (len(distance) + 1))
    assert result.held_out == len(distance) and result.neighbours == 7 * 256


def test_a_new_image_is_called_memorized_less_often_at_smaller_k(digits):
    """Why one delta_m for all K is wrong: the pool of K images is a part of the pool of P."""
    new, threshold = digits[1500:], 1.2
    shares = [(cdist(new, digits[:k]).min(axis=1) <= threshold).mean() for k in (64, 256, 1500)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] > 0.02
