"""The quality of samples: against other code, closed forms, definitions and repeats."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import t as student
from sklearn.datasets import load_sample_images

from tests.helpers.images import real_digits
from utils.evidence import quality, set_measures
from utils.evidence.quality import (
    LEAST,
    frechet_distance,
    frechet_limit,
    generalization_gap,
    kernel_distance,
    measure_quality,
    neighbourhood_scores,
)

TRIALS = 200


@pytest.fixture(scope="module")
def digits():
    """Every digit in random order: float64 [1797, 64]."""
    return np.random.default_rng(0).permutation(real_digits().flatten(1).double().numpy())


@pytest.fixture(scope="module")
def tiles():
    """Tiles of two photographs, shuffled: float32 [160, 12, 12, 3] as [160, 432]."""
    photos = np.stack(load_sample_images().images)[:, :420, :636] / np.float32(255)
    blocks = photos.reshape(2, 35, 12, 53, 12, 3).swapaxes(2, 3).reshape(-1, 432)
    return np.random.default_rng(0).permutation(blocks)[:160]


def by_covariances(a, b, ridge=0):
    """Frechet distance as it is written, by scipy's matrix square root."""
    s, r = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(s @ r + ridge * np.eye(len(s))).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s + r - 2 * root)


def normal(n, dim, seed, scale=1.0, shift=0.0):
    return scale * np.random.default_rng(seed).standard_normal((n, dim)) + shift


# Frechet distance


def test_frechet_agrees_with_scipy_on_photographs_and_digits(tiles, digits):
    """Narrow and wide features, sets of different sizes: n > D, n > D > m, D > n, D > n + m."""
    pixels = digits[:, digits.std(axis=0) > 0.3]
    patches = tiles.reshape(160, 12, 12, 3)[:, ::4, ::4].reshape(160, 27)
    for a, b in ((pixels[:300], 0.9 * pixels[300:500]), (patches[:80], patches[80:])):
        assert frechet_distance(a, b) == pytest.approx(by_covariances(a, b), rel=1e-6)
    for a, b in (
        (digits[:100], digits[100:140]),
        (tiles[:90, :130], tiles[90:, :130]),
        (tiles[:30], 0.8 * tiles[30:70]),
    ):
        # sqrtm needs full rank; a ridge adds its square root for each eigenvalue that was 0
        assert frechet_distance(a, b) == pytest.approx(by_covariances(a, b, 1e-13), rel=1e-3)


def test_frechet_agrees_with_torch_fidelity(digits):
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = digits[:400], digits[400:700] * 0.9
    stats = [{"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (a, b)]
    theirs = fid.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-9)


def test_frechet_does_not_depend_on_the_coordinates(digits):
    """The same vectors rotated into many more numbers, of which no D x D matrix could be made."""
    a, b = digits[:70], digits[100:160]
    wide = np.zeros((130, 100_000), np.float32)
    wide[:, ::1563][:, :64] = np.concatenate([a, b]) + 3  # and moved, with all zeros between
    assert frechet_distance(wide[:70], wide[70:]) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    rotation = np.linalg.qr(normal(64, 64, 3))[0]
    for x, y in ((a[:20], b[:30]), (a, b)):  # D > n and n > D
        assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(frechet_distance(x, y))


def test_wide_features_are_read_in_blocks(tiles, monkeypatch):
    a, b = tiles[:30], tiles[30:70]
    whole = frechet_distance(a, b), kernel_distance(a, b)
    monkeypatch.setattr(set_measures, "COLUMNS", 50)
    assert (frechet_distance(a, b), kernel_distance(a, b)) == pytest.approx(whole)


def test_frechet_of_sets_with_given_moments():
    """|m|^2 + sum (s - r)^2 for standard deviations s and r along common axes."""
    s, r, m = np.array([1, 2, 3.0]), np.array([2, 2, 0.5]), np.array([1, 0, -1])
    x = normal(50, 3, 0)
    white = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    assert frechet_distance(white * s, white[::-1] * r + m) == pytest.approx(2 + 1 + 6.25)
    assert 0 <= frechet_distance(x, x) < 1e-12


@pytest.mark.parametrize("dim", [16, 50])
def test_frechet_limit_is_nearer_to_the_truth(dim):
    truth = dim * (0.3**2 + 0.2**2)
    pairs = [(normal(100, dim, i), normal(120, dim, 99 + i, 0.8, 0.3)) for i in range(20)]
    bias = np.mean([frechet_distance(a, b) for a, b in pairs]) - truth
    assert bias > 0.5 * truth
    assert abs(np.mean([frechet_limit(a, b) for a, b in pairs]) - truth) < 0.15 * bias


# Kernel distance


def test_kernel_distance_agrees_with_a_double_loop(digits):
    a, b = digits[:12], digits[20:29] * 0.8

    def mean(x, y):
        same = x is y
        values = [
            (np.dot(p, q) / 64 + 1) ** 3
            for i, p in enumerate(x)
            for j, q in enumerate(y)
            if not (same and i == j)
        ]
        return np.mean(values)

    expected = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    assert kernel_distance(a, b) == pytest.approx(expected)
    wide = np.pad(a, [(0, 0), (0, 64)]), np.pad(b, [(0, 0), (0, 64)])  # D > n + m, by `narrow`
    scaled = kernel_distance(*(np.sqrt(2) * x for x in wide))
    assert scaled == pytest.approx(expected)


def test_kernel_distance_agrees_with_torch_fidelity(tiles):
    torch, kid = pytest.importorskip("torch"), pytest.importorskip("torch_fidelity.metric_kid")
    a, b = (torch.from_numpy(x).double() for x in (tiles[:80], 0.7 * tiles[80:]))
    options = {"kid_subsets": 1, "kid_subset_size": 80, "verbose": False}
    theirs = kid.kid_features_to_metric(a, b, **options)["kernel_inception_distance_mean"]
    assert kernel_distance(a.numpy(), b.numpy()) == pytest.approx(theirs)


# Neighbourhoods and gaps


def test_neighbourhood_scores_are_what_they_say(digits):
    x, y, k = digits[:40], 0.7 * digits[40:90] + 0.1, 3

    def balls(z):
        return [np.sort([np.linalg.norm(p - q) for q in z])[k] for p in z]  # itself is at 0

    r, s = balls(x), balls(y)
    inside = np.array([[np.linalg.norm(p - q) < r[i] for q in y] for i, p in enumerate(x)])
    recalled = np.array([[np.linalg.norm(p - q) < s[j] for j, q in enumerate(y)] for p in x])
    found = neighbourhood_scores(x, y, k)
    assert found.precision == pytest.approx(np.mean([any(column) for column in inside.T]))
    assert found.recall == pytest.approx(np.mean([any(row) for row in recalled]))
    assert found.density == pytest.approx(inside.sum() / (k * len(y)))
    assert found.coverage == pytest.approx(np.mean([any(row) for row in inside]))
    assert len(set(found)) == 4


@pytest.mark.parametrize("k", [1, 5])
def test_neighbourhood_scores_agree_with_prdc(digits, tiles, k):
    prdc = pytest.importorskip("prdc")
    for x, y in ((digits[:200], 0.8 * digits[200:350]), (tiles[:60], tiles[60:] * 0.9)):
        theirs = prdc.compute_prdc(x.astype(np.float64), y.astype(np.float64), nearest_k=k)
        assert neighbourhood_scores(x, y, k)._asdict() == pytest.approx(theirs)


def test_gap_is_positive_for_copies_of_training_images(digits):
    train, held_out = digits[:100], digits[100:200]
    copies = train[:80] + 0.01 * normal(80, 64, 0)
    gap = generalization_gap(copies, train, held_out)
    nearest = cdist(copies, held_out).min(1) - cdist(copies, train).min(1)
    assert gap.sample == pytest.approx(nearest.mean()) and gap.sample > 1
    between = frechet_distance(copies, held_out) - frechet_distance(copies, train)
    assert gap.frechet == pytest.approx(between) and gap.frechet > 1
    assert generalization_gap(copies, held_out, train) == pytest.approx((-between, -gap.sample))


# All measures, their intervals and the control


def test_influences_are_derivatives_by_the_weight_of_an_image(digits):
    """Of images repeated a thousand times, one is repeated once more."""
    a, b = digits[:12, 18:28], digits[20:35, 18:28] * 0.7

    def repeated(counts):
        return set_measures.frechet(np.repeat(a, counts, 0), np.repeat(b, 1000, 0))

    base = repeated(np.full(12, 1000))
    more = [repeated(1000 + (np.arange(12) == i)).value for i in range(12)]
    moved = 12_000 * (np.array(more) - base.value)
    np.testing.assert_allclose(base.own[::1000], moved - moved.mean(), atol=1e-2)
    assert base.own.std() > 1 and base.own.mean() == pytest.approx(0, abs=1e-9)


def test_influences_are_the_same_from_either_side_and_by_either_factor(digits):
    a, b = digits[:20], digits[20:60] * 0.9 + 0.1  # D = 64 > n
    for measure in (set_measures.frechet, lambda x, y: set_measures.kernel(x, y, 64)):
        one, other = measure(a, b), measure(b, a)
        np.testing.assert_allclose(one.own, other.others[0])
        np.testing.assert_allclose(one.others[0], other.own)
    narrow = set_measures.frechet(a[:, 20:30], b[:, 20:30])
    padded = set_measures.frechet(*(np.pad(x[:, 20:30], [(0, 0), (0, 50)]) for x in (a, b)))
    np.testing.assert_allclose(narrow.own, padded.own)
    np.testing.assert_allclose(narrow.others[0], padded.others[0])


def test_influences_of_density_are_those_without_an_image(digits):
    x, y = digits[:30], digits[30:55] * 0.7 + 0.1
    own, across = set_measures.distances(x), set_measures.distances(x, y)
    found = set_measures.density(own, across, 3)
    assert found.value == pytest.approx(neighbourhood_scores(x, y, 3).density)
    without = [neighbourhood_scores(np.delete(x, i, 0), y, 3).density for i in range(30)]
    psi = 29 * (np.mean(without) - np.array(without))
    np.testing.assert_allclose(found.others[0], psi, atol=1e-12)
    without = [neighbourhood_scores(x, np.delete(y, i, 0), 3).density for i in range(25)]
    np.testing.assert_allclose(found.own, 24 * (np.mean(without) - np.array(without)), atol=1e-12)


def test_influences_of_the_kernel_distance_and_of_the_limit(digits):
    """Nearly those of leaving out an image: (n - 1) (value - value without it)."""
    a, b = digits[:150, 18:26], digits[200:350, 18:26] * 0.8
    for measure in (
        lambda x: set_measures.kernel(x, b, 8),
        lambda x: set_measures.frechet(x, b),
    ):
        found = measure(a)
        left_out = [149 * (found.value - measure(np.delete(a, i, 0)).value) for i in range(150)]
        assert np.corrcoef(found.own, left_out)[0, 1] > 0.99
        assert found.own.std() == pytest.approx(np.std(left_out), rel=0.05)
    whole, limit = set_measures.frechet(a, b), limit_of(a, b)
    assert np.corrcoef(whole.own, limit.own)[0, 1] > 0.9
    assert limit.own.std() == pytest.approx(whole.own.std(), rel=0.15)


def limit_of(a, b):
    return set_measures.frechet_limit(a, b, np.random.default_rng(0))


@pytest.fixture(scope="module")
def trials():
    """Shifted and shrunk normal samples, many times: Estimates by name."""
    mp, found = pytest.MonkeyPatch(), {}
    mp.setattr(quality, "DRAWS", 20)
    for i in range(TRIALS):
        samples = normal(60, 6, [i, 0], 0.8, 0.4)
        sets = samples, normal(60, 6, [i, 1]), normal(120, 6, [i, 2])
        for name, estimate in measure_quality(*sets, seed=i).items():
            found.setdefault(name, []).append(estimate)
    mp.undo()
    return found


def test_measures_and_their_names(trials):
    names = {"frechet", "frechet_limit", "kernel", "precision", "recall", "density", "coverage"}
    assert trials.keys() == names | {"frechet_gap", "sample_gap"}
    for estimates in trials.values():
        for one in estimates:
            assert one.low <= one.value <= one.high and one.n == 60
            assert one.control_low <= one.control <= one.control_high
            assert one.difference_low <= one.value - one.control <= one.difference_high
    assert min(one.control_low for one in trials["frechet"]) == 0  # no distance is below it
    assert min(one.control_low for one in trials["frechet_limit"]) < 0


def test_intervals_contain_the_mean_of_repeats(trials):
    for name, estimates in trials.items():
        for part in ("", "control_"):
            table = [[getattr(one, part + end) for end in ("low", "high")] for one in estimates]
            mean = np.mean([getattr(one, part[:-1] or "value") for one in estimates])
            low, high = np.transpose(table)
            assert ((low <= mean) & (mean <= high)).mean() > 0.92, (name, part)


def test_standard_errors_are_the_spread_of_repeats(trials):
    """Of value - control, as its interval is symmetric. Half or twice the variance would fail."""
    for name, estimates in trials.items():
        spread = np.var([one.value - one.control for one in estimates])
        half = np.array([one.difference_high - one.difference_low for one in estimates]) / 2
        variance = np.mean((half / student.isf(0.025, 59)) ** 2)
        # The gap's is larger, as written in `measure_quality`.
        assert 0.8 < variance / spread / (1.7 if name == "sample_gap" else 1) < 1.7, name


def test_held_out_images_as_samples_show_no_memory_and_copies_do(digits):
    train, held_out = digits[:150], digits[150:450]
    other = measure_quality(digits[600:750], train, held_out)
    copies = measure_quality(train + 0.05 * normal(150, 64, 0), train, held_out)
    for name in ("frechet_gap", "sample_gap"):
        assert other[name].low < 0 < other[name].high
        assert copies[name].low > 0 and copies[name].difference_low > 0
        for one in (other[name], copies[name]):
            assert one.control_low < 0 < one.control_high
    for name in ("frechet", "kernel"):
        assert other[name].difference_low < 0 < other[name].difference_high
        # Errors of samples and control add up, those of the reference are partly common: all
        # independent would be the square root of 2.
        width = other[name].difference_high - other[name].difference_low
        assert 1.05 < width / (other[name].control_high - other[name].control_low) < 1.35
    # Real images of the training set are as good as held-out ones by all that does not ask for it.
    for name in ("precision", "recall", "density", "coverage"):
        assert copies[name].difference_low < 0 < copies[name].difference_high


def test_the_measures_are_those_of_the_sets_that_are_drawn(digits):
    """All samples and training images are used where they are n; held-out images are halved."""
    samples, train, held_out = digits[:60], digits[100:130], digits[200:320] * 0.9
    found = measure_quality(samples, train, held_out, seed=5)
    halves = np.split(held_out[np.random.default_rng(5).permutation(120)], 2)
    reference, control = halves
    for name, function in (("frechet", frechet_distance), ("kernel", kernel_distance)):
        assert found[name].value == pytest.approx(function(samples, reference))
        assert found[name].control == pytest.approx(function(control, reference))
    for name, value in neighbourhood_scores(reference, samples)._asdict().items():
        assert found[name].value == pytest.approx(value)
        assert (found[name].n, found[name].low <= value <= found[name].high) == (60, True)
    for name, value in generalization_gap(samples, train, reference[:30])._asdict().items():
        assert found[f"{name}_gap"].value == pytest.approx(value)
        assert found[f"{name}_gap"].n == 30
    assert abs(found["frechet_limit"].value) < found["frechet"].value


def test_sets_are_matched_in_size_and_drawn_by_seed(digits):
    sets = digits[:90], digits[100:101], digits[200:300]
    found = measure_quality(*sets, seed=1, largest=40)
    assert {one.n for one in found.values()} == {40}
    assert found.keys() == measure_quality(*sets).keys() and not any("gap" in one for one in found)
    assert found == measure_quality(*sets, seed=1, largest=40) != measure_quality(*sets, largest=40)
    assert {one.n for one in measure_quality(*sets).values()} == {50}


def test_shares_at_their_ends_have_intervals(digits):
    """Samples that are all alike, far away: nothing varies within, yet other samples may differ."""
    far = np.tile(digits[:1] + 9, (40, 1))
    found = measure_quality(far, digits[:40], digits[100:200])
    for name in ("precision", "recall", "coverage"):
        assert found[name].value == found[name].low == 0 and 0.05 < found[name].high < 0.25


# Invalid inputs


@pytest.mark.parametrize("function", [frechet_distance, frechet_limit, kernel_distance])
def test_impossible_sets_are_refused(function, digits):
    good = digits[:20]
    for bad in (good[:1], good[0], good[:, :9], np.where(good > 0, np.nan, good), good[:, :0]):
        for pair in ((bad, good), (good, bad)):
            with pytest.raises(ValueError, match=r"^[ab]: found .*; give "):
                function(*pair)


def test_other_impossible_inputs_are_refused(digits):
    x, y, bad = digits[:30], digits[30:60], np.full((30, 64), np.inf)
    for k in (0, 20):
        with pytest.raises(ValueError, match=f"k: found {k}; give"):
            neighbourhood_scores(x, y[:20], k)
    with pytest.raises(ValueError, match="train: found 30 rows, held_out 29; give equal"):
        generalization_gap(x, y, y[:29])
    for sets in ((bad, x, y), (x, bad, y), (x, y, bad)):
        for function in (generalization_gap, measure_quality):
            with pytest.raises(ValueError, match="found NaN or infinity"):
                function(*sets)
    with pytest.raises(ValueError, match=f"11 samples.*; give at least {LEAST} and {2 * LEAST}"):
        measure_quality(x[:11], y, y)
    with pytest.raises(ValueError, match="23 held-out images"):
        measure_quality(x, y, y[:23])
    assert measure_quality(x[:12], y, y[:24])["frechet"].n == 12
