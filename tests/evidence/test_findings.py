"""Tests of generalization: their intervals, verdicts and error rates, against independent code."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from tests.helpers.images import real_digits
from utils.evidence.findings import (
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
    sweep_verdicts,
    two_models,
)
from utils.metrics.intervals import median_interval

REPEATS = 200
MOST = stats.binom.ppf(0.995, REPEATS, 0.025)  # so often 2.5 % happens in 200 repeats, at most


@pytest.fixture(scope="module")
def digits():
    """Real digits [1797, 64] and all their distances."""
    values = real_digits().flatten(1).double().numpy()
    squares = (values**2).sum(1)
    return values, np.sqrt(np.maximum(squares[:, None] + squares - 2 * values @ values.T, 0))


def test_z_is_that_of_scipy():
    """Its p-value of `less`, with the continuity correction; without ties."""
    rng = np.random.default_rng(0)
    for n, m in ((5, 9), (40, 30), (1, 3)):
        x, y = rng.exponential(1, n), rng.exponential(1.4, m)
        expected = stats.mannwhitneyu(x, y, alternative="less", method="asymptotic")
        assert stats.norm.cdf(mann_whitney_z(x, y)) == pytest.approx(expected.pvalue, rel=1e-9)


def test_z_with_ties_has_the_variance_without_them():
    x, y = np.array([1.0, 1, 2, 5]), np.array([1.0, 2, 3, 3, 4])
    u = sum((a > b) + (a == b) / 2 for a, b in itertools.product(x, y))
    assert mann_whitney_z(x, y) == pytest.approx((u - 10 + 0.5) / np.sqrt(20 * 10 / 12))


def test_z_is_negative_where_samples_lie_nearer():
    assert mann_whitney_z([0.0, 0.1], [1.0, 2.0, 3.0]) < 0


@pytest.mark.parametrize(("n", "m"), [(21, 1), (21, 2), (21, 5), (5, 30), (40, 40)])
def test_z_of_new_images_is_beyond_any_level_no_more_often_than_it_says(n, m):
    """By the exact law of U: also at the levels that a correction over eight K asks for."""
    counts = np.zeros(n * m + 1)  # of orders with U = u, by adding one image of x after another
    counts[0] = 1
    for i in range(1, n + 1):  # the Gaussian binomial coefficient, as a product of ratios
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    law = np.cumsum(counts) / counts.sum()
    z = (np.arange(n * m + 1) - n * m / 2 + 0.5) / np.sqrt(n * m * (n + m + 1) / 12)
    for level in (0.025, 0.0125, 0.025 / 8):
        inside = stats.norm.cdf(z) <= level
        assert (law[inside].max() if inside.any() else 0) <= 1.02 * level


@pytest.mark.parametrize("name", ["copied", "clean", "empty-cell"])
def test_c_t_is_that_of_the_authors(shared, name):
    """Distances, z of each cell and C_T of the published functions, to rounding."""
    with np.load(shared / "reference" / "c_t.npz") as file:
        stored = dict(file)
    train, own = stored[f"{name}/train"], stored[f"{name}/train_cells"]
    distances, cells = [], []
    for part in ("generated", "test"):
        apart = cdist(stored[f"{name}/{part}"], train)
        cells.append(stored[f"{name}/{part}_cells"])
        distances.append(np.where(cells[-1][:, None] == own, apart, np.inf).min(1))
    result = copying(*distances, *cells, float(stored[f"{name}/tau"]))
    assert result.value == pytest.approx(stored[f"{name}/c_t"].item(), rel=1e-12)
    for cell, expected in enumerate(stored[f"{name}/z_cells"]):
        drawn, real = (d[c == cell] for d, c in zip(distances, cells))
        if len(drawn):
            assert mann_whitney_z(drawn, real) == pytest.approx(expected, rel=1e-12)
    assert result.verdict == (GENERALIZATION if name == "clean" else MEMORY)


def test_one_clean_cell_of_many_samples_does_not_hide_four_of_copies():
    """C_T weights by held-out images: weighted by samples it would be about 0."""
    rng = np.random.default_rng(5)
    cells, others = np.repeat(range(5), [300, 25, 25, 25, 25]), np.repeat(range(5), 100)
    samples, held_out = rng.exponential(2, 400), rng.exponential(1, 500)
    samples[300:] = 0
    result = copying(samples, held_out, cells, others)
    scores = [mann_whitney_z(samples[cells == c], held_out[others == c]) for c in range(5)]
    assert result.verdict == MEMORY and result.value == pytest.approx(np.mean(scores))
    assert np.average(scores, weights=np.bincount(cells)) > -1


def test_c_t_leaves_out_cells_of_few_samples_and_of_no_held_out_images():
    rng = np.random.default_rng(1)
    samples, held_out = rng.exponential(1, 151), rng.exponential(1, 160)
    cells, others = np.repeat([0, 1, 2, 3], [60, 50, 20, 21]), np.repeat([0, 1, 2], [30, 75, 55])
    result = copying(samples, held_out, cells, others)
    scores = [mann_whitney_z(samples[cells == c], held_out[others == c]) for c in (0, 1)]
    assert result.value == pytest.approx((30 * scores[0] + 75 * scores[1]) / 105)
    assert result.details["cells"] == 2 and result.n == 110  # the third has 20 samples
    half = stats.norm.ppf(0.975) * np.hypot(30, 75) / 105
    assert (result.low, result.high) == pytest.approx((result.value - half, result.value + half))
    assert result.p_value == pytest.approx(stats.norm.cdf(result.value / (half / 1.959964)))
    with_third = copying(samples, held_out, cells, others, tau=0.1)
    assert with_third.details["cells"] == 3


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


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_gap_of_fewer_than_three_training_images_is_no_verdict(k):
    result = denoising_gap(np.full((2, k), 0.01), np.random.default_rng(8).uniform(1, 2, (2, 40)))
    assert result.low > 0  # the number and its interval are kept
    assert result.verdict == (MEMORY if k == 3 else UNDECIDED)
    assert result.undecided == ("" if k == 3 else "fewer than 3 training images")


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
@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.1, 0.5, 0.9])
def test_equal_shares_are_called_memory_no_more_often_than_the_p_value_says(n, m, share):
    """By the binomial law of both counts; also at the levels that a correction over K asks for."""
    first, second = stats.binom.pmf(range(n + 1), n, share), stats.binom.pmf(range(m + 1), m, share)
    levels = np.array([0.025, 0.0125, 0.025 / 8])
    for test in ("ratio", "authenticity"):
        rates = np.zeros(3)
        for a, b in np.argwhere(np.outer(first, second) > 1e-5):
            if (a / n > b / m) == (test == "ratio"):  # else p is above 0.4
                found = _difference(test, np.arange(n) < a, np.arange(m) < b)
                assert (found.verdict == MEMORY) == (found.p_value <= 0.025)
                rates += first[a] * second[b] * (found.p_value <= levels)
        assert (rates <= levels).all()


def test_the_p_value_of_a_difference_is_the_larger_of_two():
    """That of the interval, and that of Fisher's exact test."""
    for a, b in ((9, 12), (3, 0), (30, 100), (0, 5)):
        hits = np.arange(40) < a, np.arange(200) < b
        p, q, n, m = (a + 1) / 42, (b + 1) / 202, 42, 202
        z = (p - q) / np.sqrt(p * (1 - p) / n + q * (1 - q) / m)
        for test, side, sign in (("ratio", "greater", 1), ("authenticity", "less", -1)):
            exact = stats.fisher_exact([[a, 40 - a], [b, 200 - b]], side).pvalue
            expected = max(stats.norm.sf(sign * z), exact)
            assert _difference(test, *hits).p_value == pytest.approx(expected, rel=1e-6)


def test_p_values_are_those_of_scipy():
    rng = np.random.default_rng(6)
    m, loss = rng.uniform(0, 1, 30), rng.uniform(0, 1.4, 30)
    expected = stats.ttest_1samp(m / (m + loss), 0.5, alternative="less").pvalue
    assert memorizer_distance(m, loss).p_value == pytest.approx(expected)
    train, held_out = rng.uniform(0.5, 1, (2, 12)), rng.uniform(0.6, 1.1, (2, 30))
    a, b = (np.log(x / x.mean()).mean(0) for x in (train, held_out))
    offset = np.log(held_out.mean() / train.mean())
    expected = stats.ttest_ind(b + offset, a, equal_var=False, alternative="greater").pvalue
    assert denoising_gap(train, held_out).p_value == pytest.approx(expected)


def test_the_p_value_is_at_most_one_in_forty_exactly_where_the_verdict_is_memory():
    """Near the border, on either side of it, and where nothing varies."""
    rng, said = np.random.default_rng(7), []
    for _ in range(600):
        shift = np.exp(rng.uniform(-0.6, 0.6))
        x, y = rng.exponential(shift, (60, 2)), rng.exponential(1, (90, 2))
        found = [
            copying(x[:, 0], y[:, 0], np.arange(60) % 2, np.arange(90) % 2),
            authenticity(x[:, 0], y[:, 0], np.full(60, 0.5), np.full(90, 0.5)),
            ratio(np.sort(x, 1), np.sort(y, 1) * [1, shift]),
            memorizer_distance(x[:, 0], y[:60, 0]),
            denoising_gap(x[:20].T + 0.3, y.T + 0.3),
            two_models(x[:, 0], y[:60, 0], y[:60, 1]),
        ]
        for one in found:
            assert (one.verdict == MEMORY) == (one.p_value <= 0.025), one
            said.append((one.test, one.verdict))
    for name, test in TESTS.items():
        assert ((name, MEMORY) in said) == (test.memory_side != 0), name
    for m, loss, p in ((0.0, 1.0, 0), (1.0, 0.0, 1), (1.0, 1.0, 1)):
        assert memorizer_distance([m] * 9, [loss] * 9).p_value == p
    assert denoising_gap([[0.5] * 4], [[1.0] * 9]).p_value == 0
    assert denoising_gap([[1.0] * 4], [[1.0] * 9]).p_value == 1


def sweep_of(p_values, test="c-t"):
    """A finding of each K with this p-value, and the interval that goes with it."""
    found = {}
    for k, p in p_values.items():
        z = stats.norm.ppf(p)
        found[k] = {test: Finding(test, z, z - 1.959964, z + 1.959964, 100, p)}
    return found


def test_memory_is_corrected_over_the_k_of_a_sweep():
    alone = sweep_of({k: 0.02 if k == 4 else 0.4 for k in range(1, 9)})
    assert alone[4]["c-t"].verdict == MEMORY  # at this K alone
    assert [of_k["c-t"] for of_k in sweep_verdicts(alone).values()] == [
        UNDECIDED if k == 4 else GENERALIZATION for k in range(1, 9)
    ]
    small = sweep_of({k: 0.003 if k == 4 else 0.4 for k in range(1, 9)})
    assert sweep_verdicts(small)[4]["c-t"] == MEMORY  # 8 * 0.003 is below 2.5 %
    every = sweep_of(dict.fromkeys(range(1, 9), 0.003))
    assert {of_k["c-t"] for of_k in sweep_verdicts(every).values()} == {MEMORY}
    assert sweep_verdicts(sweep_of({2: 0.02}))[2]["c-t"] == MEMORY


def test_tests_are_corrected_one_by_one_and_k_without_a_verdict_do_not_count():
    first, second = sweep_of({2: 0.02, 4: 0.9}), sweep_of({2: 0.01, 4: 0.9}, "authenticity")
    second = {
        k: {n: replace(f, value=-0.5, low=-0.6, high=f.p_value - 0.5) for n, f in x.items()}
        for k, x in second.items()
    }
    both = {k: {**first[k], **second[k]} for k in (2, 4)}
    said = sweep_verdicts(both)
    assert said[2] == {"c-t": UNDECIDED, "authenticity": MEMORY}
    left_out = {**first, 4: {"c-t": replace(first[4]["c-t"], undecided="no time")}}
    assert sweep_verdicts(left_out) == {2: {"c-t": MEMORY}, 4: {"c-t": UNDECIDED}}
    assert sweep_verdicts({}) == {} and sweep_verdicts({2: {}}) == {2: {}}


def test_the_ratio_is_a_third():
    result = ratio([[0.32, 1], [0.34, 1], [0, 2], [0, 0]], [[1.0, 1.0]] * 9)
    assert result.details["samples"] == 0.5  # two distances of 0 have no ratio


def test_two_models_agree_where_the_pair_is_nearer_than_either_to_its_own():
    result = two_models([1, 1, 1, 1], [2, 2, 0.5, 1], [2, 0.5, 2, 2])
    assert result.value == 0.25 and result.n == 4
    wilson = stats.binomtest(1, 4).proportion_ci(method="wilson")
    assert (result.low, result.high) == pytest.approx((wilson.low, wilson.high))
    assert two_models([0] * 9, [1] * 9, [1] * 9).verdict == GENERALIZATION
    different = two_models([1] * 9, [0] * 9, [0] * 9)
    assert different.verdict == UNDECIDED and different.p_value == 1  # new ones differ too
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
        value, memory = TESTS[name].neutral + 0.2 * side, TESTS[name].memory_side
        result = Finding(name, value, value - 0.1, value + 0.1, 9, 0.01 if side == memory else 0.9)
        expected = MEMORY if side == memory else GENERALIZATION
        if name == "two-models" and side < 0:
            expected = UNDECIDED
        assert result.verdict == expected
        assert replace(result, undecided="a reason").verdict == UNDECIDED
    sides = {name: test.memory_side for name, test in TESTS.items()}
    assert sides == {
        **dict.fromkeys(("memorizer", "c-t", "authenticity"), -1),
        **dict.fromkeys(("denoising-gap", "ratio"), 1),
        "two-models": 0,
    }
