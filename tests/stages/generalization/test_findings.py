"""Tests of generalization: their intervals, verdicts and error rates, against independent code."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tests.helpers.images import real_digits
from utils.metrics.intervals import median_interval
from utils.stages.generalization.findings import (
    GENERALIZATION,
    MEMORY,
    TESTS,
    UNDECIDED,
    Finding,
    _difference,
    authenticity,
    copying,
    denoising_gap,
    mann_whitney_z,
    memorizer_distance,
    ratio,
    two_models,
)

REPEATS = 200
MOST = stats.binom.ppf(0.995, REPEATS, 0.025)  # so often 2.5 % happens in 200 repeats, at most


@pytest.fixture(scope="module")
def digits():
    """Real digits [1797, 64] and all their distances."""
    values = real_digits().flatten(1).double().numpy()
    squares = (values**2).sum(1)
    return values, np.sqrt(np.maximum(squares[:, None] + squares - 2 * values @ values.T, 0))


@pytest.mark.parametrize("ties", [False, True])
def test_z_is_that_of_scipy(ties):
    rng = np.random.default_rng(0)
    for n, m in ((5, 9), (40, 30), (1, 3)):
        x, y = rng.exponential(1, n), rng.exponential(1.4, m)
        if ties:
            x, y = x.round(1), y.round(1)
        expected = stats.mannwhitneyu(x, y, use_continuity=False, method="asymptotic")
        z = mann_whitney_z(x, y)
        assert 2 * stats.norm.sf(abs(z)) == pytest.approx(expected.pvalue, rel=1e-9)
        assert np.sign(z) == np.sign(expected.statistic - n * m / 2)


def test_z_of_equal_values_is_zero():
    assert mann_whitney_z([1.0, 1.0], [1.0]) == 0


def test_z_is_negative_where_samples_lie_nearer():
    assert mann_whitney_z([0.0, 0.1], [1.0, 2.0, 3.0]) < 0


def test_c_t_is_the_mean_of_z_over_cells_by_their_samples():
    rng = np.random.default_rng(1)
    samples, held_out = rng.exponential(1, 130), rng.exponential(1, 160)
    cells, others = np.repeat([0, 1, 2], [60, 50, 20]), np.repeat([0, 1, 2], [70, 75, 15])
    result = copying(samples, held_out, cells, others)
    scores = [mann_whitney_z(samples[cells == c], held_out[others == c]) for c in (0, 1)]
    assert result.value == pytest.approx((60 * scores[0] + 50 * scores[1]) / 110)
    assert result.details["cells"] == 2 and result.n == 110  # the third has 15 held-out images
    half = stats.norm.ppf(0.975) * np.hypot(60, 50) / 110
    assert (result.low, result.high) == pytest.approx((result.value - half, result.value + half))


def test_c_t_of_too_few_is_the_z_of_all():
    result = copying([0.1, 0.2, 0.3], [0.5, 0.6], [0, 1, 2], [0, 1])
    assert result.value == result.details["z of all"] == mann_whitney_z([0.1, 0.2, 0.3], [0.5, 0.6])


def neighbours(digits, known, others):
    """Distances to the two nearest of known, and the gap of the nearest to its own nearest."""
    _, distances = digits
    d = distances[np.ix_(others, known)]
    order = np.argsort(d, 1)[:, :2]
    within = distances[np.ix_(known, known)] + np.diag([np.inf] * len(known))
    return np.take_along_axis(d, order, 1), within.min(1)[order[:, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("k", [16, 256])
def test_held_out_images_are_called_memory_in_one_of_forty_cases(digits, k):
    """Samples that are held-out real images: the error rate is at most the stated 2.5 %."""
    from sklearn.cluster import KMeans

    values, _ = digits
    rng = np.random.default_rng(k)
    verdicts = {"c-t": [], "authenticity": [], "ratio": [], "two-models": []}
    beyond = []
    for _ in range(REPEATS):
        known, new, held_out, twin = np.split(
            rng.permutation(len(values))[: 2 * k + 600], [k, k + 200, k + 600]
        )
        cells = KMeans(4, n_init=1, random_state=0).fit(values[known])
        (near, gap), (near_known, gap_known) = (
            neighbours(digits, known, x) for x in (new, held_out)
        )
        labels = (cells.predict(values[x]) for x in (new, held_out))
        own_twin = neighbours(digits, twin, new)[0][:, 0]
        result = [
            copying(near[:, 0], near_known[:, 0], *labels),
            authenticity(near[:, 0], near_known[:, 0], gap, gap_known),
            ratio(near, near_known),
            # two models that have learnt the distribution draw the same new image
            two_models(np.zeros(len(new)), near[:, 0], own_twin),
        ]
        for one in result:
            verdicts[one.test].append(one.verdict)
        beyond.append(result[0].low > 0)
    for test, said in verdicts.items():
        assert said.count(MEMORY) <= MOST, test
        assert set(said) <= {MEMORY, GENERALIZATION}
    # and the interval is no wider than it says: both sides together are 5 %
    missed = sum(beyond) + verdicts["c-t"].count(MEMORY)
    assert stats.binom.ppf(0.005, REPEATS, 0.05) <= missed <= stats.binom.ppf(0.995, REPEATS, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("known", [8, 64])
def test_a_gap_between_images_that_are_both_new_is_seen_in_one_of_forty_cases(known):
    """Losses as unequal as real ones (a factor of 3 between images), equal in distribution."""
    rng = np.random.default_rng(known)
    difficulty = np.exp(0.4 * rng.standard_normal((REPEATS, 1, known + 200)))
    losses = difficulty * np.array([[0.1], [1.0], [3.0]]) * rng.uniform(0.9, 1.1, (3, known + 200))
    result = [denoising_gap(one[:, :known], one[:, known:]) for one in losses]
    missed = [(one.low > 0, one.high < 0) for one in result]
    assert [one.verdict for one in result].count(MEMORY) == sum(a for a, _ in missed) <= MOST
    assert stats.binom.ppf(0.005, REPEATS, 0.05) <= sum(a or b for a, b in missed)


def test_the_gap_is_welchs_interval_of_the_logarithms_of_losses():
    rng = np.random.default_rng(3)
    train, held_out = rng.uniform(0.5, 1, (2, 12)), rng.uniform(0.6, 1.4, (2, 30))
    result = denoising_gap(train, held_out)
    a, b = (stats.gmean(x, axis=0) for x in (train, held_out))
    expected = stats.ttest_ind(np.log(b), np.log(a), equal_var=False).confidence_interval(0.95)
    assert result.value == pytest.approx(1 - stats.gmean(a) / stats.gmean(b))
    assert result.low == pytest.approx(1 - np.exp(-expected.low))
    assert result.high == pytest.approx(1 - np.exp(-expected.high))
    assert denoising_gap(100 * train, 100 * held_out).value == pytest.approx(result.value)


def test_a_gap_of_one_training_image_has_the_interval_of_a_further_image():
    held_out = np.random.default_rng(4).uniform(0.5, 1.5, (1, 20))
    result = denoising_gap(held_out[:, :1], held_out)
    half = stats.t.ppf(0.975, 19) * np.log(held_out).std(ddof=1) * np.sqrt(1 / 20 + 1)
    assert np.log((1 - result.low) / (1 - result.high)) / 2 == pytest.approx(half)


def test_images_without_any_loss_are_known():
    result = denoising_gap(np.zeros((2, 5)), np.ones((2, 9)) + np.arange(9) / 10)
    assert result.verdict == MEMORY and 0.99 < result.value < 1
    assert denoising_gap([[0.0] * 3], [[0.0] * 4]).value == 0


@pytest.mark.parametrize(
    ("m", "loss", "verdict"),
    [(0.0, 1.0, MEMORY), (1.0, 0.0, GENERALIZATION), (1.0, 1.0, UNDECIDED), (0, 0, UNDECIDED)],
)
def test_distance_to_the_memorizer_against_that_to_the_truth(m, loss, verdict):
    result = memorizer_distance([m] * 9, [loss] * 9)
    assert result.verdict == verdict
    assert result.value == (m / (m + loss) if m + loss else 0.5)


def test_authenticity_is_that_of_nearest_neighbours_in_scikit_learn(digits):
    from sklearn.neighbors import NearestNeighbors

    values, _ = digits
    known, new, held_out = values[:100], values[100:400], values[400:900]
    search, shares = NearestNeighbors(n_neighbors=2).fit(known), []
    for images in (new, held_out):
        d, index = search.kneighbors(images, 1)
        shares.append((d[:, 0] > search.kneighbors(known, 2)[0][index[:, 0], 1]).mean())
    parts = [neighbours(digits, np.arange(100), x) for x in (range(100, 400), range(400, 900))]
    result = authenticity(*(near[:, 0] for near, _ in parts), *(gap for _, gap in parts))
    assert result.details["samples"] == shares[0] and result.details["held out"] == shares[1]
    assert result.value == pytest.approx(shares[0] - shares[1])


def test_copies_are_found_by_each_test_of_neighbours(digits):
    """Half of the samples are training images."""
    known, held_out = np.arange(200), np.arange(200, 800)
    half = np.concatenate([np.arange(50), np.arange(800, 850)])
    near, gap = neighbours(digits, known, half)
    near_known, gap_known = neighbours(digits, known, held_out)
    cells = np.zeros(len(half), int), np.zeros(len(held_out), int)
    for result in (
        copying(near[:, 0], near_known[:, 0], *cells),
        authenticity(near[:, 0], near_known[:, 0], gap, gap_known),
        ratio(near, near_known),
    ):
        assert result.verdict == MEMORY


@pytest.mark.parametrize("counts", [(0, 10, 0, 20), (3, 10, 5, 20), (10, 10, 0, 20)])
def test_the_interval_of_a_difference_is_walds_with_one_more_of_each(counts):
    a, n, b, m = counts
    samples, known = (
        np.repeat([[0.1, 1.0], [0.9, 1.0]], [x, y - x], axis=0) for x, y in ((a, n), (b, m))
    )
    result = ratio(samples, known)
    p, q = (a + 1) / (n + 2), (b + 1) / (m + 2)
    half = 1.959964 * np.sqrt(p * (1 - p) / (n + 2) + q * (1 - q) / (m + 2))
    assert result.value == pytest.approx(a / n - b / m)
    assert result.low == pytest.approx(min(p - q - half, result.value), rel=1e-5)
    assert result.high == pytest.approx(max(min(1, p - q + half), result.value), rel=1e-5)
    assert -1 <= result.low <= result.value <= result.high <= 1


@pytest.mark.parametrize(("n", "m"), [(128, 1000), (256, 297)])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5])
def test_equal_shares_are_called_memory_in_one_of_forty_cases_whatever_the_share(n, m, share):
    """By the binomial law of both counts; what is beyond 2.5 % is the approximation's."""
    first, second = stats.binom.pmf(range(n + 1), n, share), stats.binom.pmf(range(m + 1), m, share)
    rate = 0.0
    for a, b in np.argwhere(np.outer(first, second) > 1e-6):
        if _difference("ratio", np.arange(n) < a, np.arange(m) < b).verdict == MEMORY:
            rate += first[a] * second[b]
    assert rate <= 0.028


def test_the_ratio_is_a_third():
    result = ratio([[0.32, 1], [0.34, 1], [0, 2], [0, 0]], [[1.0, 1.0]] * 9)
    assert result.details["samples"] == 0.5  # two distances of 0: the training set holds it twice


def test_two_models_agree_where_the_pair_is_nearer_than_either_to_its_own():
    result = two_models([1, 1, 1, 1], [2, 2, 0.5, 1], [2, 0.5, 2, 2])
    assert result.value == 0.25 and result.n == 4
    wilson = stats.binomtest(1, 4).proportion_ci(method="wilson")
    assert (result.low, result.high) == pytest.approx((wilson.low, wilson.high))
    assert two_models([0] * 9, [1] * 9, [1] * 9).verdict == GENERALIZATION
    assert two_models([1] * 9, [0] * 9, [0] * 9).verdict == MEMORY
    assert two_models([0, 1], [1, 0], [1, 0]).verdict == UNDECIDED
    with pytest.raises(ValueError, match="give one shape"):
        two_models([1, 2], [1], [1])


@pytest.mark.parametrize("values", [[], [-1.0], [np.nan], [np.inf]])
def test_what_is_no_distance_is_refused(values):
    with pytest.raises(ValueError, match="give finite ones"):
        mann_whitney_z(values, [1.0])


@pytest.mark.parametrize("n", [1, 2, 5, 6, 30, 101])
def test_the_interval_of_a_median_is_that_of_order_statistics(n):
    """Its coverage is P(l < B <= n - l), B binomial(n, 1/2): 95 % or more from n = 6 on."""
    ordered = np.arange(n, dtype=float)
    median, low, high = median_interval(ordered[::-1])
    assert median == (n - 1) / 2 and low + high == n - 1
    inside = stats.binom.cdf(high, n, 0.5) - stats.binom.cdf(low, n, 0.5)
    assert (low, high) == (0, n - 1) if n < 6 else inside >= 0.95
    if n > 6:  # and no wider interval is needed
        narrower = stats.binom.cdf(high - 1, n, 0.5) - stats.binom.cdf(low + 1, n, 0.5)
        assert narrower < 0.95


def test_each_test_says_what_it_is():
    for name, test in TESTS.items():
        assert all((test.definition, test.source, test.misleads, test.unit)), name
    for name, side in itertools.product(TESTS, (-1, 1)):
        value = TESTS[name].neutral + 0.2 * side
        result = Finding(name, value, value - 0.1, value + 0.1, 9)
        below = side < 0
        assert result.verdict == (MEMORY if TESTS[name].memory_below == below else GENERALIZATION)
