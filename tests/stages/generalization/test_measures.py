"""What is measured of models and samples: exact models, held-out images, pairs of models."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.exact import ExactDenoiser
from models.schedule import Schedule
from tests.helpers.images import real_digits
from tests.helpers.models import GaussianDenoiser
from tests.helpers.sandbox import GENERALIZATION_TESTS
from utils.cli.options.sections import GeneralizationOptions
from utils.data.subsets import permutation
from utils.descriptors.embedders import load_metric
from utils.evidence.findings import (
    GENERALIZATION,
    MEMORY,
    UNDECIDED,
    copying,
    memorizer_distance,
)
from utils.stages.generalization.measures import (
    HELD_TWICE,
    NO_TIME,
    Images,
    cosines,
    early_times,
    measure_model,
    measure_pairs,
    measure_samples,
    pair_distances,
)


@pytest.fixture(scope="module")
def digits():
    """Every digit, shuffled: [1797, 1, 8, 8] in [-1, 1]."""
    return real_digits()[permutation(1797, 0)]


@pytest.fixture(scope="module")
def l2():
    return load_metric("l2", None, "cpu")


def options(**settings):
    return GeneralizationOptions(t=(20, 100, 300), noises=2, **settings)


def verdicts(*measured):
    return {f.test: f.verdict for one in measured for f in one.findings}


def test_the_exact_model_is_memory_by_every_test(digits, l2):
    first, second = Images(digits[:64], digits[128:900]), digits[64:128]
    settings = options()
    draws = torch.randint(64, (2, 150), generator=torch.Generator().manual_seed(0))
    sets = first.train[draws[0]], second[draws[1]]
    exact = ExactDenoiser(first.train, Schedule())
    measured = measure_model(exact, first, settings)
    result = verdicts(
        measured,
        measure_samples(l2, sets[0], first, settings),
        measure_pairs(l2, sets, (first.train, second))[0],
    )
    # two models that draw different images are no evidence of memory
    expected = dict.fromkeys(GENERALIZATION_TESTS, MEMORY) | {"two-models": UNDECIDED}
    assert result == expected
    assert (measured.arrays["held-out-memorizer"] == 0).all()
    authentic = measure_samples(l2, sets[0], first, settings).findings[1]
    assert authentic.details["samples"] == 0  # at chance or below: each is a training image


def test_held_out_images_are_generalization_by_every_test(digits, l2):
    """A model that knows every digit stands for one that has learnt what digits are."""
    images, new = Images(digits[:64], digits[128:700]), digits[700:900]
    settings = options()
    ideal = ExactDenoiser(digits[700:], Schedule())
    measured = measure_model(ideal, Images(digits[:64], digits[800:1300]), settings)
    result = verdicts(
        measured,
        measure_samples(l2, new, images, settings),
        measure_pairs(l2, (new, new), (digits[:64], digits[64:128]))[0],
    )
    assert result == dict.fromkeys(GENERALIZATION_TESTS, GENERALIZATION)


def test_a_memorizer_of_other_images_is_no_memorizer_of_these(digits):
    """Far from D* and far from the truth: undecided or better, never memory."""
    other = ExactDenoiser(digits[500:564], Schedule())
    result = measure_model(other, Images(digits[:64], digits[900:1200]), options())
    assert verdicts(result)["memorizer"] != MEMORY


def test_neighbours_are_those_of_scikit_learn(digits, l2):
    from sklearn.neighbors import NearestNeighbors

    images, samples = Images(digits[:90], digits[90:300]), digits[300:420]
    arrays = measure_samples(l2, samples, images, options()).arrays
    search = NearestNeighbors(n_neighbors=2).fit(images.train.flatten(1).numpy())
    for key, queries in (("sample", samples), ("held-out", images.held_out)):
        expected = search.kneighbors(queries.flatten(1).numpy())[0]
        np.testing.assert_allclose(arrays[f"{key}-distances"], expected, rtol=1e-5)


def test_a_squared_metric_as_lpips_gives_the_same_findings(digits, l2):
    """Ranks and comparisons are those of distances, and the ratio is one of distances too."""
    images, samples = Images(digits[:90], digits[90:300]), digits[[*range(20), *range(300, 400)]]
    squared = replace(l2, squared=True)
    result = [measure_samples(one, samples, images, options()).findings for one in (l2, squared)]
    assert result[0] == result[1]
    twins = (digits[400:460], digits[500:560]), (digits[:90], digits[600:690])
    pairs = [measure_pairs(one, *twins)[0] for one in (l2, squared)]
    np.testing.assert_allclose(
        pairs[0].arrays["pair-distances"] ** 2, pairs[1].arrays["pair-distances"], rtol=1e-5
    )
    assert pairs[0].findings[0].value == pairs[1].findings[0].value


def test_the_arrays_behind_c_t_give_it_again(digits, l2):
    images = Images(digits[:64], digits[200:800])
    measured = measure_samples(l2, digits[64:200], images, options())
    both = [
        [measured.arrays[f"{n}-{what}"] for n in ("sample", "held-out")]
        for what in ("cell-distances", "cells")
    ]
    assert copying(*both[0], *both[1]) == measured.findings[0]


def test_pairs_and_cosines(digits, l2):
    a, b, mean = digits[:40], digits[40:80], digits.mean(0)
    distances = pair_distances(l2, a, b, batch=7)
    np.testing.assert_allclose(distances, (a - b).flatten(1).norm(dim=1).numpy(), rtol=1e-6)
    assert cosines(a, a, mean) == pytest.approx(1)
    assert cosines(a, 2 * mean - a, mean) == pytest.approx(-1)
    assert (cosines(mean[None], a[:1], mean) == 0).all()


def test_cosines_are_those_of_images_less_the_mean_of_all_that_is_learnt(digits, l2):
    sets, learnt = (digits[400:420], digits[500:520]), (digits[:30], digits[600:690])
    measured, images = measure_pairs(l2, sets, learnt)
    arrays = measured.arrays
    flat = [x.flatten(1).double().numpy() for x in (*sets, *learnt)]
    mean = np.concatenate(flat[2:]).mean(0)
    a, b, first, second = (x - mean for x in flat)

    def cosine(x, y):
        return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)

    np.testing.assert_allclose(arrays["pair-cosines"], cosine(a, b), rtol=1e-5, atol=1e-6)
    for values, x, known, shown in zip(arrays["own-cosines"], (a, b), (first, second), images):
        nearest = known[((x[:, None] - known[None]) ** 2).sum(2).argmin(1)]
        np.testing.assert_allclose(shown.reshape(len(x), -1), nearest + mean, atol=1e-6)
        np.testing.assert_allclose(values, cosine(x, nearest), rtol=1e-5, atol=1e-6)


def test_one_training_image_leaves_out_what_is_not_defined(digits, l2):
    images = Images(digits[:1], digits[1:200])
    result = measure_samples(l2, digits[:1].expand(30, -1, -1, -1), images, options())
    assert [f.test for f in result.findings] == ["c-t"]
    assert measure_model(ExactDenoiser(digits[:1], Schedule()), images, options()).times[
        "collapse"
    ] == (999, 999, 999)


def test_only_times_before_the_collapse_count(digits):
    train, twice = digits[:9], digits[[0, 1, 2, 0]]
    assert early_times([400, 20, 100], 150, train) == ([1, 2], "")
    assert early_times([400, 200], 30, train) == ([1], NO_TIME)
    assert early_times([400, 20, 100], 150, twice) == ([1, 2], HELD_TWICE)
    assert early_times([400, 200], -1, twice) == ([1], HELD_TWICE)


def test_a_bayes_optimal_model_is_not_memory_where_no_time_lies_before_the_collapse():
    """1,500 points in the plane: at the earliest time the memorizer is as good as the optimum."""
    points = torch.randn(1900, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    measured = measure_model(
        GaussianDenoiser(1.0, (1, 1, 2)), Images(points[:1500], points[1500:]), options()
    )
    assert measured.times["collapse"][0] < 20
    found = measured.findings[0]
    assert found.high < 0.5 and found.p_value < 0.025  # what can be said is kept
    assert found.verdict == UNDECIDED and found.undecided == NO_TIME


def test_no_verdict_where_training_images_are_held_several_times(digits):
    """Copies share the weight of the exact model: there is no collapse onto a single image."""
    twice, once = digits[:32].repeat(2, 1, 1, 1), digits[:64]
    for train, verdict, reason in ((once, MEMORY, ""), (twice, UNDECIDED, HELD_TWICE)):
        model = ExactDenoiser(train, Schedule())
        found = measure_model(model, Images(train, digits[64:200]), options()).findings[0]
        assert (found.verdict, found.undecided) == (verdict, reason) and found.high < 0.5


@pytest.mark.parametrize(("k", "known"), [(1, False), (2, False), (3, True), (50, True)])
def test_the_speciation_time_of_two_images_has_no_interval(digits, k, known):
    """Both are equally far from their mean: the error would be 0."""
    model = ExactDenoiser(digits[:k], Schedule())
    value, low, high = measure_model(model, Images(digits[:k], digits[60:90]), options()).times[
        "speciation"
    ]
    assert value >= -1 and ((low, high) == (None, None) if not known else low <= value <= high)


def test_the_memorizer_is_evaluated_before_the_collapse(digits):
    """Later it is near every denoiser, which would look like memory."""
    images, model = Images(digits[:64], digits[64:200]), ExactDenoiser(digits[300:], Schedule())
    settings = GeneralizationOptions(t=(20, 700, 100, 950), noises=2)
    measured = measure_model(model, images, settings)
    assert 100 < measured.times["collapse"][0] < 700
    m, loss = (measured.arrays[f"held-out-{name}"] for name in ("memorizer", "loss"))
    expected = memorizer_distance(m[[0, 2]].sum(0), loss[[0, 2]].sum(0))
    assert measured.findings[0] == expected
    assert expected.value > memorizer_distance(m.sum(0), loss.sum(0)).value + 0.05
