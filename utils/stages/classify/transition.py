"""Where the transition lies: the K at which half the samples are of a class, up to which 90 % are
memorized, and where spurious states appear. Estimates over a sweep, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.cli.options.choices import CLASSES, GENERALIZED, MEMORIZED, SPURIOUS
from utils.metrics.intervals import CONFIDENCE, PAIRED, holm
from utils.stages.classify.files import Judged
from utils.stages.classify.thresholds import ROUNDING
from utils.stages.classify.verdicts import classify_by_ratio, euclidean

DRAWS = 2000  # of the bootstrap
AT_ONCE = 2**22  # resampled samples in memory
SIGNIFICANT = 1 - CONFIDENCE  # chance that any K of a purely real sweep has "spurious states"
MOSTLY = 0.9  # the share of Gu et al.'s effective model memorization
CROSSINGS = ("memorized_half", "generalized_half", "emm")
ESTIMATE_COLUMNS = (  # of summary.csv; the same in each of its rows
    *(f"{name}{end}" for name in CROSSINGS for end in ("", "_low", "_high")),
    *("spurious_from", "spurious_to"),
)


@dataclass(frozen=True)
class Crossing:
    """The K at which a share passes a level, low <= value <= high.

    0 where it lies below the smallest K of the sweep, infinite where it lies above the largest."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Transition:
    """Where the classes change in a sweep.

    sizes: every K, ascending. crossings: by a name in CROSSINGS; none for a single K.
    spurious: the K whose share of spurious samples is above that of real images, by Holm's
    correction over all K; None where no K has a control. peak: the row with the largest share, of
    these K if there are some."""

    sizes: tuple[int, ...]
    crossings: Mapping[str, Crossing]
    spurious: tuple[int, ...] | None
    peak: Mapping[str, Any]


def crossing(sizes: np.ndarray, shares: np.ndarray, level: float, rising: bool) -> np.ndarray:
    """The K [...] at which shares [..., n] pass a level, linear in ln K between two sizes [n].

        ln K = ln a + (level - s_a) / (s_b - s_a) (ln b - ln a)

    a, b: the neighbouring sizes between which the share, made monotone, passes it. To make it
    monotone, take the mean of its running extremes from both sides: a monotone curve stays as is.
    sizes: ascending, >= 1. 0 where it has passed before the first, inf where not by the last."""
    if not rising:
        shares, level = 1 - np.asarray(shares), 1 - level
    up = np.maximum.accumulate(shares, axis=-1)
    down = np.flip(np.minimum.accumulate(np.flip(shares, -1), axis=-1), -1)
    curve = (up + down) / 2
    after = (curve < level).sum(axis=-1)  # the first size at which it is there, or beyond
    b = np.clip(after, 1, len(sizes) - 1) if len(sizes) > 1 else np.zeros_like(after)
    a = np.maximum(b - 1, 0)
    s_a, s_b = (np.take_along_axis(curve, i[..., None], -1)[..., 0] for i in (a, b))
    logs = np.log(sizes)
    part = np.divide(level - s_a, s_b - s_a, out=np.ones_like(s_a), where=s_b > s_a)
    part = np.clip(part, 0, 1)  # beyond, outside of the sweep, where it is not used
    inside = np.exp(logs[a] + part * (logs[b] - logs[a]))
    exact = np.where(np.take_along_axis(curve, b[..., None], -1)[..., 0] == level, sizes[b], inside)
    first = np.where(curve[..., 0] == level, sizes[0], 0)
    return np.where(after == 0, first, np.where(after == len(sizes), np.inf, exact))


def transition(judged: Sequence[Judged], seed: int = 0) -> Transition:
    """Half points, EMM and spurious range of a sweep, one K each, in any order.

    Intervals are the bootstrap's, at 95 %: samples, and for --criterion calibrated the held-out
    images behind the thresholds, are drawn again with replacement, DRAWS times; a held-out image
    is drawn as often at every K. What another training would change is not in them: see
    `run_pipeline.py --repeats`. EMM: the largest K with 90 % memorized (effective model
    memorization; Gu et al. 2023, arXiv 2310.02664, by their ratio criterion). Raises ValueError
    without rows. Source: Efron 1979, Ann. Stat. 7, 1."""
    judged = sorted(judged, key=lambda one: one.row["K"])
    rows = [one.row for one in judged]
    if not rows or not all(row["N"] for row in rows):
        raise ValueError("rows: found none, or one without samples; give judged sets")
    crossings = {}
    if len(rows) > 1:
        sizes = np.array([row["K"] for row in rows], np.float64)
        shares = np.array([[row[f"{n}_share"] for n in (MEMORIZED, GENERALIZED)] for row in rows])
        draws = np.stack([resampled_shares(one, seed) for one in judged], axis=1)
        for name, (column, level, rising) in zip(
            CROSSINGS, ((0, 0.5, False), (1, 0.5, True), (0, MOSTLY, False)), strict=True
        ):
            value = float(crossing(sizes, shares[:, column], level, rising))
            found = crossing(sizes, draws[:, :, column], level, rising)
            tail = (1 - CONFIDENCE) / 2
            # the nearest draw, not a mean of two: one of them may be infinite
            low, high = np.quantile(found, [tail, 1 - tail], method="nearest")
            crossings[name] = Crossing(value, min(float(low), value), max(float(high), value))
    spurious = spurious_sizes(rows)
    significant = [row for row in rows if row["K"] in (spurious or ())]
    peak = max(significant or rows, key=lambda row: row[f"{SPURIOUS}_share"])
    return Transition(tuple(row["K"] for row in rows), crossings, spurious, peak)


def spurious_sizes(rows: Sequence[Mapping[str, Any]]) -> tuple[int, ...] | None:
    """The K with more spurious samples than real images give; None where no K has a control."""
    tested = [row for row in rows if row["spurious_p"] is not None]
    if not tested:
        return None
    p_values = holm([row["spurious_p"] for row in tested])
    return tuple(row["K"] for row, p in zip(tested, p_values, strict=True) if p <= SIGNIFICANT)


def resampled_shares(judged: Judged, seed: int) -> np.ndarray:
    """The shares of memorized and of generalized samples in bootstrap draws: [DRAWS, 2].

    Generalized samples depend on their neighbours, which come in pairs: half as many are drawn."""
    row, own = judged.row, judged.distances
    n, d_1, s_1 = row["N"], own.near[:, 0], own.neighbours
    labels = limits = None
    if row["criterion"] == "ratio":
        labels = classify_by_ratio(*euclidean(row["metric"], own.near[:, 0], own.near[:, 1], s_1))
    else:
        limits = [x[:, None].astype(d_1.dtype) for x in resampled_limits(judged, seed)]
    generator, shares = np.random.default_rng([seed, row["K"]]), np.empty((DRAWS, 2))
    at_once = max(1, AT_ONCE // n)
    for part in np.split(np.arange(DRAWS), range(at_once, DRAWS, at_once)):
        all_of_them = generator.integers(0, n, (len(part), n))
        half = generator.integers(0, n, (len(part), max(1, n // PAIRED)))
        if limits is None:
            memorized = labels[all_of_them] == CLASSES.index(MEMORIZED)
            generalized = labels[half] == CLASSES.index(GENERALIZED)
        else:
            delta_m, delta_s = (x[part] for x in limits)
            memorized = d_1[all_of_them] <= delta_m
            generalized = (d_1[half] > delta_m) & (s_1[half] > delta_s)
        shares[part] = np.stack([memorized.mean(axis=1), generalized.mean(axis=1)], axis=1)
    return shares


def resampled_limits(judged: Judged, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """delta_m and delta_s in bootstrap draws of the held-out images, [DRAWS] each; constant for
    other criteria than `calibrated`.

    Each image is drawn a Poisson(1) number of times. Its number depends on its place alone, so
    that the thresholds of all K err together, as they do. Nearest neighbours that are each
    other's have one distance, and are drawn together."""
    row, real = judged.row, judged.distances.real
    if row["criterion"] != "calibrated":
        return np.full(DRAWS, row["delta_m"]), np.full(DRAWS, row["delta_s"])
    rate = judged.args["classify"]["false_positive_rate"]
    to_train = real.near[:, 0]
    allowed = math.floor(rate * (len(to_train) + 1) + ROUNDING)
    order = np.argsort(to_train, kind="stable")[: 3 * allowed + 30]  # more are never needed
    counts = np.stack(
        [np.random.default_rng([seed, real.first + int(i)]).poisson(1, DRAWS) for i in order], 1
    )
    delta_m = resampled_threshold(to_train[order], counts, allowed)
    allowed = math.floor(rate * (real.within.size + 1) + ROUNDING)
    smallest = np.sort(real.within, axis=None)[: 3 * allowed + 30]
    values, sizes = np.unique(smallest, return_counts=True)
    generator = np.random.default_rng([seed, row["K"], 1])
    counts = generator.poisson(1, (DRAWS, len(values))) * sizes
    delta_s = resampled_threshold(values, counts, allowed)
    return delta_m, delta_s


def resampled_threshold(values: np.ndarray, counts: np.ndarray, allowed: int) -> np.ndarray:
    """The largest value with at most `allowed` at or below it, in each draw: float64 [B].

    values [m] ascending; counts int [B, m]: how often each was drawn. -1 where even the smallest
    was drawn too often: then nothing is at or below the threshold."""
    last = np.append(values[1:] != values[:-1], True)  # of equal values
    up_to = np.cumsum(counts, axis=1)[:, last]
    place = (up_to <= allowed).sum(axis=1)
    return np.concatenate([[-1.0], values[last].astype(np.float64)])[place]


def estimates(transition: Transition) -> dict[str, float | None]:
    """The numbers of a transition by their column in summary.csv; None where there is none.

    A crossing is 0 below the smallest K of the sweep and infinite above the largest."""
    values: list[float | None] = []
    for name in CROSSINGS:
        one = transition.crossings.get(name)
        values += [one.value, one.low, one.high] if one else [None] * 3
    spurious = transition.spurious
    values += [min(spurious), max(spurious)] if spurious else [None, None]
    return dict(zip(ESTIMATE_COLUMNS, values, strict=True))


def crossing_text(one: Crossing, sizes: Sequence[int]) -> str:
    """A crossing and its interval: `K = 88 (84 to 93)`, or `a K below 2`."""
    first, last = sizes[0], sizes[-1]

    def shown(k: float) -> str:
        if k in (0, np.inf):
            return f"below {first}" if k == 0 else f"above {last}"
        return f"{k:.1f}" if k < 10 else f"{k:.0f}"

    value = f"K = {shown(one.value)}" if 0 < one.value < np.inf else f"a K {shown(one.value)}"
    return value + ("" if one.low == one.high else f" ({shown(one.low)} to {shown(one.high)})")


def in_words(transition: Transition) -> str:
    """Lines for a terminal, in sizes K of the training set."""
    lines = []
    if transition.crossings:
        half, new, mostly = (
            crossing_text(transition.crossings[name], transition.sizes) for name in CROSSINGS
        )
        lines.append(
            f"half the samples are {MEMORIZED} up to {half}; "
            f"half the samples are {GENERALIZED} from {new}"
        )
        lines.append(f"{100 * MOSTLY:g} % are {MEMORIZED} up to {mostly}")
    peak, spurious = transition.peak, transition.spurious
    share = f"{100 * peak[f'{SPURIOUS}_share']:.1f} %"
    if spurious is None:
        lines.append(f"{share} {SPURIOUS} samples at K = {peak['K']}; no control on real images")
    elif not spurious:
        lines.append(f"at no K more {SPURIOUS} samples than among real images")
    else:
        low, high = min(spurious), max(spurious)
        where = f"from K = {low} to {high}, most " if low < high else ""
        real = f"{100 * peak[f'{SPURIOUS}_control']:.1f} % of real images"
        lines.append(f"{SPURIOUS} states {where}at K = {peak['K']} ({share}; {real})")
    return "\n".join(lines)
