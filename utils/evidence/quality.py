"""The quality of samples in features: how they compare with held-out and with training images.

Frechet and kernel distances, precision, recall, density, coverage, and the gap between held-out and
training images. `measure_quality` gives all of them with intervals, beside their values for real
images. A set is an array [n, D] of numbers, one image a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from utils.evidence import set_measures
from utils.evidence.set_measures import (
    PARTS,
    Statistic,
    distances,
    narrow,
    nearest_gap,
    scores,
    standard_error,
)
from utils.metrics.intervals import PAIRED, TAIL, wilson_interval

NEIGHBOURS = 5  # k of the balls, as of Naeem et al.
LEAST = 2 * (NEIGHBOURS + 1)  # images of each set: half of them have k neighbours still
LARGEST = 5000  # images of each set that `measure_quality` takes, at most
DRAWS = 100  # half-samples
SHARES = ("precision", "recall", "coverage")
POSITIVE = ("frechet", "density")


class Neighbourhood(NamedTuple):
    """The measures of `neighbourhood_scores`."""

    precision: float
    recall: float
    density: float
    coverage: float


class Gap(NamedTuple):
    """The measures of `generalization_gap`."""

    frechet: float
    sample: float


@dataclass(frozen=True)
class Estimate:
    """A measure of samples, the same of held-out images in their place, and 95 % intervals."""

    value: float
    low: float
    high: float
    control: float
    control_low: float
    control_high: float
    difference_low: float  # of value - control, whose errors are partly common
    difference_high: float
    n: int  # images of each set; for a gap, of the training and of the reference images


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance of the normal distributions fitted to a [n, D] and b [m, D], >= 0.

        FD = |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)

    S: unbiased covariances. The last trace is the nuclear norm (sum of singular values) of
    A B^T / sqrt((n - 1)(m - 1)), A and B centred, so that no D x D matrix is made where D > n, m.
    FD of finite sets is too large, by about a constant / n where n >> D: compare it at equal n.
    Raises ValueError for other shapes, fewer than 2 rows, and NaN or infinity.
    Source: Heusel et al. 2017, arXiv 1706.08500, eq. 6; Dowson and Landau 1982, J. Multivar.
    Anal. 12, 450."""
    _check(a=a, b=b)
    return max(0.0, set_measures.frechet(*narrow(a, b)).value)  # rounding may pass 0 by a hair


def frechet_limit(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """The Frechet distance of a [n, D] and b [m, D] extrapolated to infinitely many images.

        FD_p = limit + slope p

    by least squares, FD_p: the mean FD of p disjoint parts, n / p and m / p images, of both sets;
    p = 1 and 2, the latter over 4 random divisions by seed. May be negative, by noise. Chong and
    Forsyth vary the number of samples against a fixed reference; here both vary, since both are
    samples, and with 15 sizes from 5,000 up, which few have. The line holds where half of the
    images are as many as features that vary independently: for equal normal distributions,
    D = 64, FD and limit are 21.0 and 0.3 at n = 100; D = 256: 125 and 29 at n = 250, 31.2 and -0.1
    at n = 1000. Raises ValueError as `frechet_distance`, and for fewer than 4 rows.
    Source: Chong and Forsyth 2020, arXiv 1911.07023."""
    _check(2 * PARTS, a=a, b=b)
    return set_measures.frechet_limit(*narrow(a, b), np.random.default_rng(seed)).value


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The squared maximum mean discrepancy of a [n, D] and b [m, D], unbiased; may be negative.

        MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{ij} k(a_i, b_j)

    with k(x, y) = (x.y / D + 1)^3, of all images at once instead of a mean over subsets. Raises
    ValueError as `frechet_distance`. Source: Binkowski et al. 2018, arXiv 1801.01401, section 4;
    Gretton et al. 2012, J. Mach. Learn. Res. 13, 723, eq. 3."""
    _check(a=a, b=b)
    return set_measures.kernel(*narrow(a, b), a.shape[1]).value


def neighbourhood_scores(
    reference: np.ndarray, samples: np.ndarray, k: int = NEIGHBOURS
) -> Neighbourhood:
    """Fidelity and diversity of samples [m, D] by balls around the reference images [n, D].

        precision   share of samples in the ball of any reference image, 0 to 1
        recall      share of reference images in the ball of any sample, 0 to 1
        density     mean number of balls of reference images that a sample is in, / k, 0 to n / k
        coverage    share of reference images with a sample in their ball, 0 to 1

    A ball is open and ends at the k-th nearest other image of its own set. Of one distribution,
    density is 1 and coverage about 1 - 2^-k on average. Raises ValueError as `frechet_distance`,
    and for a k outside of 1 to the number of rows less 1.
    Source: Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2 (their balls are closed); Naeem
    et al. 2020, arXiv 2002.09797, section 3, and their package prdc (open)."""
    _check(reference=reference, samples=samples)
    if not 1 <= k < min(len(reference), len(samples)):
        raise ValueError(f"k: found {k}; give 1 to the number of rows less 1")
    x, y = narrow(reference, samples)
    return Neighbourhood(*scores(distances(x), distances(y), distances(x, y), k).tolist())


def generalization_gap(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> Gap:
    """How much nearer samples [n, D] are to training than to held-out images, [m, D] each.

        frechet   FD(samples, held-out) - FD(samples, train)
        sample    mean over samples of d(nearest held-out image) - d(nearest training image)

    d: Euclidean; equal numbers, which both measures depend on. Positive: a sign of memory.
    Jiralerspong et al. call FLD(train) - FLD(test) the generalization gap, with a likelihood
    instead of these distances; it is negative for memory. Raises ValueError as `frechet_distance`,
    and for different numbers. After: Jiralerspong et al. 2023, arXiv 2302.04440, and their package
    fld."""
    _check(samples=samples, train=train, held_out=held_out)
    if len(train) != len(held_out):
        raise ValueError(f"train: found {len(train)} rows, held_out {len(held_out)}; give equal")
    x, y, z = narrow(samples, train, held_out)
    of_sets = set_measures.frechet(x, z).value - set_measures.frechet(x, y).value
    return Gap(of_sets, nearest_gap(distances(x, z), distances(x, y)))


# All measures, with intervals


def measure_quality(
    samples: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    seed: int = 0,
    largest: int = LARGEST,
) -> dict[str, Estimate]:
    """The measures of samples [N, D] by name, each with a 95 % interval and a control.

    Held-out images are divided at random, by seed, into a reference and a control, which takes the
    place of samples: n = min(N, held-out // 2, largest) of each, so that bias from finite n is
    the same. frechet, frechet_limit, kernel, precision, recall, density and coverage are those of
    samples and reference. frechet_gap and sample_gap are those of `generalization_gap`, with
    m = min(n, training images) training and reference images; without them where m < 2.

    The intervals are for the expected value at this n, over samples of the same model and
    reference images, for the gaps over training images too. Shares: the standard deviation s and
    the mean h over half-samples of all sets without replacement (delete-half jackknife), and
    Wilson's interval of h (1 - h) / s^2 images, at most n / 2, as neighbours come in pairs.
    sample_gap: ± t s. The others: ± t times the error by influences (`set_measures`; of density,
    the delete-one jackknife).

    Coverage in simulations (digits, MNIST, normal distributions of 16 and 64 dimensions; n = 100
    and 250; samples real, with noise, blurred, and half of them copies): 93 to 100 %, mostly 97 to
    99, since errors are up to 1.5 times too large where samples resemble real images. Exceptions:
    blurred MNIST at n = 250, 90 % (sample_gap) and 88 % (difference of coverage); nothing but
    copies of 2 images, 91 % (kernel); sample_gap of many copies, 2 to 7 times too wide.

    Raises ValueError as `frechet_distance`, and for n < 12. Takes time as n^3 + n^2 D: give a
    smaller `largest` for features as wide as images. Source: Shao and Wu 1989, Ann. Stat. 17,
    1176, of half-samples; Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans."""
    _check(samples=samples, held_out=held_out)
    n = min(len(samples), len(held_out) // 2, largest)
    if n < LEAST:
        found = f"{len(samples)} samples, {len(held_out)} held-out images, at most {largest}"
        raise ValueError(f"samples: found {found}; give at least {LEAST} and {2 * LEAST}")
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(held_out))
    sets = {
        "samples": samples[rng.permutation(len(samples))[:n]],
        "control": held_out[drawn[n : 2 * n]],
        "reference": held_out[drawn[:n]],
    }
    m = min(n, len(train))
    if m >= 2:
        _check(samples=samples, train=train)
        sets["train"] = train[rng.permutation(len(train))[:m]]
    sets = dict(zip(sets, narrow(*sets.values()), strict=True))
    if m >= 2:
        sets["held out"] = sets["reference"][:m]
    apart = {("reference", "reference"): distances(sets["reference"])}
    for x in ("samples", "control"):
        apart[x, x] = distances(sets[x])
        others = [y for y in sets if y not in ("samples", "control")]
        apart |= {(x, y): distances(sets[x], sets[y]) for y in others}
    dim = samples.shape[1]
    return _by_influences(sets, apart, dim, rng) | _by_halves(sets, apart, rng)


Apart = dict[tuple[str, str], np.ndarray]  # distances [n, m] of two sets by their names


def _by_influences(
    sets: dict[str, np.ndarray], apart: Apart, dim: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Frechet and kernel distances, density and the Frechet gap."""
    reference = sets["reference"]
    of_both = []
    for name in ("samples", "control"):
        x = sets[name]
        own, across = apart["reference", "reference"], apart[name, "reference"].T
        measures = {
            "frechet": set_measures.frechet(x, reference),
            "frechet_limit": set_measures.frechet_limit(x, reference, rng),
            "kernel": set_measures.kernel(x, reference, dim),
            "density": set_measures.density(own, across, NEIGHBOURS),
        }
        if "train" in sets:
            far, near = (set_measures.frechet(x, sets[y]) for y in ("held out", "train"))
            others = *far.others, *(-psi for psi in near.others)
            measures["frechet_gap"] = Statistic(far.value - near.value, far.own - near.own, others)
        of_both.append(measures)
    estimates = {}
    for name, value in of_both[0].items():
        control = of_both[1][name]
        common = (p - q for p, q in zip(value.others, control.others, strict=True))
        errors = [standard_error(one.own, *one.others) for one in (value, control)]
        errors.append(standard_error(value.own, control.own, *common))
        size = min(len(psi) for psi in (value.own, *value.others))
        estimates[name] = _estimate(name, (value.value, control.value), errors, size)
    return estimates


def _by_halves(
    sets: dict[str, np.ndarray], apart: Apart, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Precision, recall, coverage and the sample gap."""

    def measures(rows: dict[str, np.ndarray]) -> list[list[float]]:
        """Of these rows of each set: [samples or control, measure]."""
        part = {(x, y): of_sets[np.ix_(rows[x], rows[y])] for (x, y), of_sets in apart.items()}
        of_both = []
        for x in ("samples", "control"):
            own = part["reference", "reference"], part[x, x]
            of_both.append([*scores(*own, part[x, "reference"].T, NEIGHBOURS)])
            if "train" in sets:
                of_both[-1].append(nearest_gap(part[x, "held out"], part[x, "train"]))
        return of_both

    sizes = {name: len(x) for name, x in sets.items()}
    values = measures({name: np.arange(size) for name, size in sizes.items()})
    draws = np.array(
        [
            measures({name: rng.permutation(size)[: size // 2] for name, size in sizes.items()})
            for _ in range(DRAWS)
        ]
    )
    errors = np.append(draws, draws[:, :1] - draws[:, 1:], axis=1).std(axis=0)  # [3, measure]
    means = draws.mean(axis=0)  # [2, measure]
    estimates = {}
    names = (*Neighbourhood._fields, "sample_gap")  # the gap may be missing
    for name, *pair, error, halves in zip(names, *values, errors.T, means.T, strict=False):
        size = sizes["train"] if name == "sample_gap" else sizes["samples"]
        if name in SHARES:
            error[:2] *= _binomial_ratio(np.array(pair), halves)
        estimates[name] = _estimate(name, pair, error, size)
    del estimates["density"]  # far from 1 it depends on n, and half-samples do not show its errors
    return estimates


def _binomial_ratio(shares: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """sqrt(p (1 - p) / (h (1 - h))): the error at shares p from that of half-samples, whose mean
    share h may be another one. Of n copies of a few images each has its copies as neighbours, and
    recall is 0; of half of them it need not be."""
    own, half = shares * (1 - shares), halves * (1 - halves)
    return np.sqrt(np.divide(own, half, out=np.ones_like(half), where=half > 0))


def _estimate(name: str, pair: Sequence[float], errors: Sequence[float], size: int) -> Estimate:
    """Of the values of samples and control, and the errors of both and of their difference."""
    quantile = student.isf(TAIL, size - 1)
    numbers = []
    for value, error in zip(pair, errors[:2], strict=True):
        if name in SHARES:
            # At 0 or 1 half-samples do not vary, but other sets may.
            count = value * (1 - value) / error**2 if 0 < value < 1 and error else np.inf
            count = min(size / PAIRED, count)
            numbers += [value, *wilson_interval(value * count, count)]
        else:
            low, high = value - quantile * error, value + quantile * error
            numbers += [value, max(0.0, low) if name in POSITIVE else low, high]
    bound = 1 if name in SHARES else np.inf
    difference = pair[0] - pair[1] + quantile * errors[2] * np.array([-1, 1])
    return Estimate(*map(float, (*numbers, *difference.clip(-bound, bound))), size)


def _check(least: int = 2, **sets: np.ndarray) -> None:
    """Raises ValueError unless each set is [least or more, D] of finite numbers, with one D."""
    dims = {x.shape[-1] for x in sets.values() if x.ndim}
    for name, x in sets.items():
        if x.ndim != 2 or len(x) < least or len(dims) > 1 or not x.shape[1]:
            shapes = ", ".join(f"{other} {list(y.shape)}" for other, y in sets.items())
            raise ValueError(f"{name}: found {shapes}; give [{least} or more, D] with one D")
        # A sum in float64 is finite only where its terms are.
        if not np.isfinite(x.sum(axis=1, dtype=np.float64)).all():
            raise ValueError(f"{name}: found NaN or infinity; give finite numbers")
