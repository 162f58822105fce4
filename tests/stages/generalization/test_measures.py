"""What is measured of models and samples: exact models, held-out images, pairs of models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from models.exact import ExactDenoiser
from models.schedule import Schedule
from tests.helpers.images import real_digits
from tests.helpers.sandbox import GENERALIZATION_TESTS
from utils.cli.options.sections import GeneralizationOptions
from utils.data.subsets import permutation
from utils.metrics.embedders import load_metric
from utils.stages.generalization.findings import (
    GENERALIZATION,
    MEMORY,
    denoising_gap,
    memorizer_distance,
)
from utils.stages.generalization.measures import (
    Images,
    before_collapse,
    cosines,
    measure_model,
    measure_pairs,
    measure_samples,
    nearest_within,
    pair_distances,
    partition,
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
    assert result == dict.fromkeys(GENERALIZATION_TESTS, MEMORY)
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


@pytest.mark.slow
def test_losses_of_real_images_that_are_all_new_show_no_gap_but_in_one_of_forty_cases(digits):
    """200 times: 16 images taken for training ones, 200 for held-out ones; the model knows none."""
    model, rest = ExactDenoiser(digits[:64], Schedule()), digits[64:]
    settings = options(probe_size=len(rest))
    errors = measure_model(model, Images(rest, rest[:2]), settings).arrays["train-loss"]
    rng, said = np.random.default_rng(0), []
    for _ in range(200):
        train, held_out, _ = np.split(rng.permutation(len(rest)), [16, 216])
        said.append(denoising_gap(errors[:, train], errors[:, held_out]).verdict)
    assert said.count(MEMORY) <= stats.binom.ppf(0.995, 200, 0.025)


@pytest.mark.slow
def test_a_model_of_every_digit_is_away_from_the_memorizer_200_times(digits):
    """It is no exact null: a model that knows the truth must never be called the memorizer."""
    ideal, said = ExactDenoiser(digits, Schedule()), []
    rng = np.random.default_rng(0)
    for k in (4, 64):
        images = Images(digits[:k], digits[k:])
        result = measure_model(ideal, images, options(probe_size=600)).arrays
        m, loss = (result[f"held-out-{name}"][:2] for name in ("memorizer", "loss"))
        for _ in range(100):
            chosen = rng.choice(m.shape[1], 40, replace=False)
            said.append(memorizer_distance(m[:, chosen].sum(0), loss[:, chosen].sum(0)).verdict)
    assert said == [GENERALIZATION] * 200


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


def test_the_gap_of_a_training_image_is_to_another_one_even_of_a_copy(digits, l2):
    train = torch.cat([digits[:20], digits[:1]])  # the first is there twice
    gaps = nearest_within(l2, train, (np.array([0, 3, 3]), np.array([20])), None)
    assert [len(part) for part in gaps] == [3, 1]
    assert gaps[0][0] == gaps[1][0] == 0
    apart = (train[3] - train).flatten(1).norm(dim=1).sort().values[1].item()
    assert gaps[0][1] == gaps[0][2] == pytest.approx(apart, rel=1e-6)


def test_cells_are_the_same_each_time_and_no_more_than_images(digits):
    again = [partition(digits[:50], 4, 7, digits[50:99]) for _ in range(2)]
    assert (again[0][0] == again[1][0]).all() and len(np.unique(again[0][0])) == 4
    assert set(partition(digits[:2], 5, 0, digits[:9])[0]) <= {0, 1}


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


def test_only_times_before_the_collapse_count():
    assert before_collapse([400, 20, 100], 150) == [1, 2]
    assert before_collapse([400, 200], 30) == [1]


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
