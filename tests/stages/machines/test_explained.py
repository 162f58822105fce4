"""r^2 of machines, the best mixture, and their intervals: closed forms, and simulated coverage."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom, t

from utils.stages.machines.explained import (
    draws,
    explained,
    lead,
    mixture,
    mixture_weights,
    products,
    r2_of,
    resampled,
)

N, DIM = 40, 12


def made(seed=0, n=N, noise=(0.2, 0.5, 1.0)):
    """A network and three machines that differ from it by more and more: D, D_i, mean."""
    rng = np.random.default_rng(seed)
    network, mean = rng.normal(size=(n, DIM)), rng.normal(size=DIM)
    machines = network + np.array(noise)[:, None, None] * rng.normal(size=(len(noise), n, DIM))
    return network, machines, mean


def test_r2_is_one_minus_the_share_of_squares_that_is_left():
    network, machines, mean = made()
    gram, total = products(network, machines, mean)
    left = [((one - network) ** 2).sum() for one in machines]
    expected = 1 - np.array(left) / ((network - mean) ** 2).sum()
    np.testing.assert_allclose(explained(gram, total).value, expected, rtol=1e-12)
    np.testing.assert_allclose(r2_of(gram[3], total[3])[0], 1 - gram[3, 0, 0] / total[3])


def test_a_machine_against_itself_has_r2_one_without_an_interval():
    network, machines, mean = made()
    machines[1] = network
    estimate = explained(*products(network, machines, mean))
    assert estimate.value[1] == estimate.low[1] == estimate.high[1] == 1
    assert (estimate.low <= estimate.value).all() and (estimate.value <= estimate.high).all()
    assert (estimate.high <= 1).all()


def test_the_mean_image_has_r2_zero_and_what_is_farther_a_negative_one():
    network, machines, mean = made()
    machines[0], machines[1] = mean, 2 * mean - network
    value = explained(*products(network, machines, mean)).value
    np.testing.assert_allclose(value[:2], [0, -3], atol=1e-12)


def test_nothing_is_explained_where_the_network_gives_the_mean_image():
    network, machines, mean = made()
    gram, total = products(np.broadcast_to(mean, network.shape), machines, mean)
    assert np.isnan(explained(gram, total).value).all()
    assert lead(gram, total) == (-1, [])


@pytest.mark.parametrize("weights", [(0.3, 0.7, 0), (0.05, 0.15, 0.8), (1, 0, 0), (0, 0, 1)])
def test_a_mixture_is_found_with_its_weights(weights):
    _, machines, mean = made()
    network = np.einsum("i,ind->nd", weights, machines)
    gram, total = products(network, machines, mean)
    found = mixture(gram, total, draws(N, 0, 50))
    np.testing.assert_allclose(found.weights.value, weights, atol=1e-3)
    np.testing.assert_allclose(found.weights.low, weights, atol=1e-3)
    np.testing.assert_allclose(found.weights.high, weights, atol=1e-3)
    assert found.r2.value > 1 - 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_no_other_weights_leave_less(seed):
    """Against a general optimizer, and against every pair of machines."""
    network, machines, mean = made(seed, noise=(0.5, 0.6, 0.7, 3.0))
    machines[1] += 0.4 * (machines[0] - network)
    gram = products(network, machines, mean)[0].sum(0)
    found = mixture_weights(gram)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    best = minimize(
        lambda w: w @ gram @ w,
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14},
    )
    left = found @ gram @ found
    assert left <= best.fun * (1 + 1e-9)
    assert left <= np.diagonal(gram).min()


def test_of_equal_machines_the_first_one_takes_the_weight_of_all():
    network, machines, mean = made(noise=(0.4, 0.5, 1.0))
    alone = mixture_weights(products(network, machines[:2], mean)[0].sum(0))
    assert (alone > 0.2).all()
    machines[2] = machines[1] * (1 + 1e-12)
    gram, total = products(network, machines, mean)
    np.testing.assert_allclose(mixture_weights(gram.sum(0)), [*alone, 0], atol=1e-6)
    found = mixture(gram, total, draws(N, 0, 50)).weights
    assert found.high[2] == 0 and found.low[1] > 0
    np.testing.assert_allclose(mixture_weights(gram.sum(0)[::-1, ::-1]), [alone[1], 0, alone[0]])


def test_a_network_that_every_machine_equals_is_the_first_one():
    network, _, mean = made()
    gram, total = products(network, np.stack([network, network]), mean)
    assert mixture_weights(gram.sum(0)).tolist() == [1, 0]
    assert lead(gram, total) == (0, [1])


def test_resamples_draw_as_many_images_and_weigh_sums():
    counts = draws(N, 5, 20)
    assert (counts.sum(1) == N).all() and (counts != counts[0]).any()
    assert (draws(N, 5, 20) == counts).all() and (draws(N, 6, 20) != counts).any()
    values = np.random.default_rng(0).normal(size=(N, 2, 3))
    by_hand = np.repeat(values, counts[4], axis=0).sum(0)
    np.testing.assert_allclose(resampled(values, counts)[4], by_hand, rtol=1e-10)


def test_the_leader_has_the_largest_r2_and_only_clearly_worse_ones_are_not_tied():
    network, machines, mean = made(n=200)
    gram, total = products(network, machines, mean)
    assert lead(gram, total) == (0, [])
    near = np.stack([machines[1], machines[0], network + 1.001 * (machines[0] - network)])
    rough = np.random.default_rng(1).normal(size=near.shape) * 0.05
    best, tied = lead(*products(network, near + rough, mean))
    assert {best, *tied} == {1, 2}


def test_the_interval_is_the_one_of_the_delta_method():
    network, machines, mean = made(n=5)
    gram, total = products(network, machines, mean)
    found = explained(gram, total)
    errors = np.diagonal(gram, axis1=1, axis2=2)
    left = errors.sum(0) / total.sum()
    moved = (errors - left * total[:, None]) / total.mean()
    reach = t.ppf(0.975, 4) * np.sqrt((moved**2).sum(0) / (5 - 1) / 5) / left
    np.testing.assert_allclose(found.low, 1 - left * np.exp(reach))
    np.testing.assert_allclose(found.high, 1 - left * np.exp(-reach))


def test_images_that_are_harder_alike_leave_nothing_uncertain():
    """Errors that are a fixed share of the total of each image: r^2 is known exactly."""
    total = np.random.default_rng(0).gamma(1.0, size=30)
    estimate = explained(0.3 * total[:, None, None] * np.eye(2), total)
    np.testing.assert_allclose(estimate, np.full((3, 2), 0.7))


def test_machines_are_compared_image_by_image():
    """One that is a little worse on every image is not tied, however much images differ."""
    network, machines, mean = made()
    scale = np.random.default_rng(2).gamma(0.5, size=(N, 1))
    errors = (machines[0] - network) * scale
    near = np.stack([network + errors, network + 1.05 * errors])
    assert lead(*products(network, near, mean)) == (0, [])


def population(seed=0, size=4000):
    """Images of which few are much harder than the rest, as real ones are."""
    rng = np.random.default_rng(seed)
    hardness = rng.gamma(0.8, size=(size, 1))
    network = rng.normal(size=(size, DIM)) * np.sqrt(0.5 + hardness)
    errors = rng.normal(size=(3, size, DIM)) * np.sqrt(hardness) * [[[0.3]], [[0.35]], [[0.6]]]
    return products(network, network + errors, np.zeros(DIM))


@pytest.mark.parametrize("n", [16, 128])
def test_the_interval_of_r2_covers_its_value_in_at_least_ninety_of_a_hundred_samples(n):
    gram, total = population()
    truth, rng, trials = r2_of(gram.sum(0), total.sum()), np.random.default_rng(n), 2000
    hits = np.zeros(3)
    for _ in range(trials):
        rows = rng.integers(0, len(total), n)
        estimate = explained(gram[rows], total[rows])
        hits += (estimate.low <= truth) & (truth <= estimate.high)
    # 95 % but for the binomial scatter of these trials, and 3 points for small samples
    least, most = binom.ppf([1e-4, 1 - 1e-4], trials, [0.92, 0.965])
    assert (least <= hits).all() and (hits <= most).all(), hits / trials


def test_a_machine_that_is_as_good_is_called_worse_in_few_samples():
    """Two machines of equal r^2: in about 5 % one of them leads alone."""
    rng, alone, trials, n = np.random.default_rng(3), 0, 400, 128
    for _ in range(trials):
        hardness = rng.gamma(0.8, size=(n, 1))
        network = rng.normal(size=(n, DIM)) * np.sqrt(0.5 + hardness)
        errors = rng.normal(size=(2, n, DIM)) * np.sqrt(hardness) * 0.4
        _, tied = lead(*products(network, network + errors, np.zeros(DIM)))
        alone += not tied
    assert binom.ppf(1e-4, trials, 0.03) <= alone <= binom.ppf(1 - 1e-4, trials, 0.07), alone


def test_the_interval_of_weights_covers_them_at_128_images():
    gram, total = population(1)
    gram = gram + 0.15 * np.ones((3, 3)) * np.diagonal(gram, axis1=1, axis2=2).mean()
    truth, rng, trials = mixture_weights(gram.sum(0)), np.random.default_rng(9), 150
    assert (truth > 0.02).sum() >= 2  # a mixture, not one machine
    hits = np.zeros(3)
    for trial in range(trials):
        rows = rng.integers(0, len(total), 128)
        found = mixture(gram[rows], total[rows], draws(128, trial, 200)).weights
        hits += (found.low <= truth + 1e-9) & (truth <= found.high + 1e-9)
    assert (hits >= binom.ppf(1e-4, trials, 0.9)).all(), hits / trials
