"""How often each test of generalization calls memory what is new, on real digits, at each K.

Samples are real digits that were held out. A mutated implementation turns one of these tests or
their counterparts in test_measures.py red: a sign flipped makes new images memory here, training
and held-out images exchanged make copies new there."""

import numpy as np
import pytest
import torch
from scipy import stats

from models.exact import ExactDenoiser
from models.schedule import Schedule
from tests.helpers.images import real_digits
from utils.cli.options.sections import GeneralizationOptions
from utils.descriptors.embedders import load_metric
from utils.evidence.findings import (
    GENERALIZATION,
    MEMORY,
    UNDECIDED,
    denoising_gap,
    memorizer_distance,
    sweep_verdicts,
)
from utils.stages.generalization.measures import (
    Images,
    measure_model,
    measure_pairs,
    measure_samples,
)

SIZES = (2, 16, 64, 256, 1500)
EIGHT = (2, 8, 16, 32, 64, 128, 256, 1500)  # the K of a sweep
NEIGHBOURS = ("c-t", "authenticity", "ratio")
LEVEL = 0.025


def most(repeats, rate=LEVEL):
    """So often an event of this probability happens in so many repeats, at most (99.5 %)."""
    return stats.binom.ppf(0.995, repeats, rate)


@pytest.fixture(scope="module")
def digits():
    return real_digits()


@pytest.fixture(scope="module")
def l2():
    return load_metric("l2", None, "cpu")


def options(**settings):
    return GeneralizationOptions(t=(20, 100, 300), noises=1, **settings)


def on_new_images(digits, l2, order, k):
    """The tests of neighbours on 200 digits beside the first k in this order (118 at K = 1500)."""
    count = min(200, 2 * (len(order) - k) // 5)
    train, new, held_out = np.split(order[: k + count + 600], [k, k + count])
    measured = measure_samples(l2, digits[new], Images(digits[train], digits[held_out]), options())
    return {found.test: found for found in measured.findings}


def sweeps(digits, l2, sizes, repeats, seed):
    """So many sweeps over nested training sets in random orders: findings by K and test."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(digits)) for _ in range(repeats)]
    return [{k: on_new_images(digits, l2, order, k) for k in sizes} for order in orders]


def memory_counts(repeated, k):
    verdicts = [of_sweep[k][name].verdict for of_sweep in repeated for name in NEIGHBOURS]
    return {name: verdicts[i :: len(NEIGHBOURS)].count(MEMORY) for i, name in enumerate(NEIGHBOURS)}


@pytest.mark.parametrize("k", SIZES)
def test_new_images_are_seldom_memory_by_neighbours(digits, l2, k):
    """Few repeats: a flipped sign would make half of them memory, or more."""
    repeated = sweeps(digits, l2, [k], 12, k)
    assert max(memory_counts(repeated, k).values()) <= most(12)
    # and the numbers are not constant: C_T is of either sign
    assert len({found[k]["c-t"].value < 0 for found in repeated}) == 2


@pytest.fixture(scope="module")
def repeated(digits, l2):
    return sweeps(digits, l2, EIGHT, 100, 0)


@pytest.mark.slow
def test_new_images_are_memory_in_one_of_forty_cases_at_each_k(repeated):
    for k in EIGHT:
        counts = memory_counts(repeated, k)
        assert max(counts.values()) <= most(len(repeated)), (k, counts)


@pytest.mark.slow
def test_the_interval_of_c_t_is_no_wider_than_it_says(repeated):
    """Below 0 and above 0 together in 5 % of all cases, at each K and over all."""
    missed = {k: sum(f[k]["c-t"].low > 0 or f[k]["c-t"].high < 0 for f in repeated) for k in EIGHT}
    assert max(missed.values()) <= most(len(repeated), 0.05), missed
    # K of a sweep share images: count those of one K in each sweep, in turn
    turns = [f[EIGHT[i % len(EIGHT)]]["c-t"] for i, f in enumerate(repeated)]
    count = sum(one.low > 0 or one.high < 0 for one in turns)
    assert stats.binom.ppf(0.005, len(turns), 0.05) <= count <= most(len(turns), 0.05)


@pytest.mark.slow
def test_a_sweep_of_new_images_has_any_verdict_of_memory_in_one_of_forty_cases(repeated):
    """Each test over eight K, after Holm's correction; without it more often than that."""
    anywhere, uncorrected = dict.fromkeys(NEIGHBOURS, 0), 0
    for findings in repeated:
        said = sweep_verdicts(findings)
        for name in NEIGHBOURS:
            anywhere[name] += any(said[k][name] == MEMORY for k in EIGHT)
        uncorrected += any(f.verdict == MEMORY for of_k in findings.values() for f in of_k.values())
    assert max(anywhere.values()) <= most(len(repeated)), anywhere
    assert uncorrected > most(len(repeated))


# Two models


@pytest.mark.parametrize("k", [2, 16, 64, 256, 600])
def test_two_models_that_draw_different_new_images_are_never_memory(digits, l2, k):
    """Independent real images in both sets, beside two disjoint training sets of real images."""
    rng, shares = np.random.default_rng(k), []
    for _ in range(5):
        order = torch.from_numpy(rng.permutation(len(digits)))
        train_sets = digits[order[:k]], digits[order[k : 2 * k]]
        new = digits[order[2 * k :][:400]].chunk(2)
        found = measure_pairs(l2, new, train_sets)[0].findings[0]
        assert found.verdict == UNDECIDED and found.p_value == 1
        shares.append(found.value)
        alike = measure_pairs(l2, (new[0], new[0]), train_sets)[0].findings[0]
        assert alike.verdict == GENERALIZATION and alike.p_value == 1
    assert max(shares) < 0.5  # it is the value below one half that must not be memory


# The memorizer


@pytest.fixture(scope="module")
def errors(digits):
    """Errors of a model that knows every digit, against the memorizer of K: m and l by K."""
    ideal, order = ExactDenoiser(digits, Schedule()), np.random.default_rng(0).permutation(1797)
    result = {}
    for k in SIZES:
        images = Images(digits[order[:k]], digits[order[k : k + 200]])
        arrays = measure_model(ideal, images, options(probe_size=200)).arrays
        result[k] = [arrays[f"held-out-{name}"][:2].sum(0) for name in ("memorizer", "loss")]
    return result


@pytest.mark.parametrize("k", SIZES)
def test_a_model_of_the_truth_is_never_the_memorizer(errors, k):
    m, loss = errors[k]
    rng = np.random.default_rng(k)
    for _ in range(50):
        some = rng.choice(len(m), 40, replace=False)
        assert memorizer_distance(m[some], loss[some]).verdict == GENERALIZATION


@pytest.mark.parametrize("k", SIZES)
def test_a_model_half_way_to_the_memorizer_is_memory_in_one_of_forty_cases(errors, k):
    """For each image the two distances change places or not, by a coin: the mean is one half."""
    both, rng, said = np.array(errors[k]), np.random.default_rng(k), []
    for _ in range(400):
        some = rng.choice(both.shape[1], 40, replace=False)
        coin = rng.integers(0, 2, 40)
        said.append(memorizer_distance(both[coin, some], both[1 - coin, some]).verdict)
    assert said.count(MEMORY) <= most(400)
    assert {MEMORY, GENERALIZATION, UNDECIDED} >= set(said) and UNDECIDED in said


# The denoising gap


@pytest.fixture(scope="module")
def losses(digits):
    """Denoising losses [T', n] of digits that the model, the exact one of 64 others, has not seen:
    the null hypothesis of the gap holds whatever part of them is taken for training images."""
    order = np.random.default_rng(1).permutation(1797)
    known, rest = digits[order[:64]], digits[order[64:]]
    settings = options(probe_size=len(rest))
    return measure_model(ExactDenoiser(known, Schedule()), Images(rest, known[:2]), settings).arrays


def gaps(losses, k, repeats):
    of_new, rng = losses["train-loss"], np.random.default_rng(k)
    for _ in range(repeats):
        order = rng.permutation(of_new.shape[1])
        yield denoising_gap(of_new[:, order[:k]], of_new[:, order[k : k + 200]])


@pytest.mark.parametrize("k", SIZES)
def test_a_gap_between_images_that_are_all_new_is_memory_in_one_of_forty_cases(losses, k):
    said = [found.verdict for found in gaps(losses, k, 400)]
    assert said.count(MEMORY) <= most(400)
    assert set(said) == {UNDECIDED} if k < 3 else GENERALIZATION in said


@pytest.mark.slow
def test_two_training_images_would_be_memory_too_often(losses):
    """Which is why there is no verdict for them."""
    assert sum(found.low > 0 for found in gaps(losses, 2, 2000)) > most(2000)


def test_a_gap_of_images_that_the_model_knows_is_memory(losses):
    """Losses of the two known images beside new ones, in the places of training images or not."""
    known = np.tile(losses["held-out-loss"], 4)
    new = losses["train-loss"][:, :200]
    assert denoising_gap(known, new).verdict == MEMORY
    assert denoising_gap(new, known).verdict == GENERALIZATION
