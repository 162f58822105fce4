"""Where the transition lies: the K at which half the samples are of a class, and where spurious
states appear. Estimates from the rows of summary.csv, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.cli.options.choices import CLASSES, GENERALIZED, MEMORIZED, SPURIOUS
from utils.metrics.intervals import CONFIDENCE

DRAWS = 2000  # of the bootstrap
SPURIOUS_SHARE = 0.01  # the share of real images that a calibrated threshold calls spurious
ESTIMATE_COLUMNS = (  # of summary.csv; the same in each of its rows
    *(f"{name}_half{end}" for name in (MEMORIZED, GENERALIZED) for end in ("", "_low", "_high")),
    *("spurious_from", "spurious_to"),
)


@dataclass(frozen=True)
class HalfPoint:
    """The K at which a share passes one half, low <= value <= high.

    0 where it lies below the smallest K of the sweep, infinite where it lies above the largest."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Transition:
    """Where the classes change in a sweep.

    sizes: every K, ascending. spurious: the smallest and the largest K whose share of spurious
    samples is significantly above 1 % (the lower end of its Wilson interval is); None without one.
    peak: the K with the largest share of spurious samples, and this share."""

    sizes: tuple[int, ...]
    memorized: HalfPoint
    generalized: HalfPoint
    spurious: tuple[int, int] | None
    peak: tuple[int, float]


def half_point(sizes: np.ndarray, shares: np.ndarray, rising: bool) -> np.ndarray:
    """The K [...] at which shares [..., n] pass one half, linear in ln K between two sizes [n].

        ln K = ln a + (1/2 - s_a) / (s_b - s_a) (ln b - ln a)

    a, b: the neighbouring sizes between which the share, made monotone, passes 1/2. To make it
    monotone, take the mean of its running extremes from both sides: a monotone curve stays as is.
    sizes: ascending, >= 1. 0 where it has passed before the first, inf where not by the last."""
    shares = shares if rising else 1 - np.asarray(shares)
    up = np.maximum.accumulate(shares, axis=-1)
    down = np.flip(np.minimum.accumulate(np.flip(shares, -1), axis=-1), -1)
    curve = (up + down) / 2
    after = (curve < 0.5).sum(axis=-1)  # the first size at which it is one half or more
    b = np.clip(after, 1, len(sizes) - 1) if len(sizes) > 1 else np.zeros_like(after)
    a = np.maximum(b - 1, 0)
    s_a, s_b = (np.take_along_axis(curve, i[..., None], -1)[..., 0] for i in (a, b))
    logs = np.log(sizes)
    part = np.divide(0.5 - s_a, s_b - s_a, out=np.ones_like(s_a), where=s_b > s_a)
    inside = np.exp(logs[a] + part * (logs[b] - logs[a]))
    exact = np.where(np.take_along_axis(curve, b[..., None], -1)[..., 0] == 0.5, sizes[b], inside)
    first = np.where(curve[..., 0] == 0.5, sizes[0], 0)
    return np.where(after == 0, first, np.where(after == len(sizes), np.inf, exact))


def transition(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Transition:
    """Half points and spurious range of the rows of summary.csv, one for each K, in any order.

    The interval of a half point is the bootstrap's, at 95 %: the N samples of each K drawn again
    with replacement (their classes are multinomial), DRAWS times. Raises ValueError without rows
    or samples. Source: Efron 1979, Ann. Stat. 7, 1."""
    rows = sorted(rows, key=lambda row: row["K"])
    if not rows or not all(row["N"] for row in rows):
        raise ValueError("rows: found none, or one without samples; give judged sets")
    sizes = np.array([row["K"] for row in rows], np.float64)
    shares = np.array([[row[name] / row["N"] for name in CLASSES] for row in rows])
    generator = np.random.default_rng(seed)
    totals = np.array([row["N"] for row in rows])
    counts = [generator.multinomial(n, p, DRAWS) for n, p in zip(totals, shares, strict=True)]
    resampled = np.stack(counts, axis=1) / totals[:, None]  # [DRAWS, K, classes]

    def half(name: str, rising: bool) -> HalfPoint:
        column, tail = CLASSES.index(name), (1 - CONFIDENCE) / 2
        value = float(half_point(sizes, shares[:, column], rising))
        draws = half_point(sizes, resampled[:, :, column], rising)
        # the nearest draw, not a mean of two: one of them may be infinite
        low, high = np.quantile(draws, [tail, 1 - tail], method="nearest")
        return HalfPoint(value, min(float(low), value), max(float(high), value))

    spurious = [row["K"] for row in rows if row[f"{SPURIOUS}_low"] > SPURIOUS_SHARE]
    peak = max(rows, key=lambda row: row[f"{SPURIOUS}_share"])
    return Transition(
        sizes=tuple(row["K"] for row in rows),
        memorized=half(MEMORIZED, rising=False),
        generalized=half(GENERALIZED, rising=True),
        spurious=(min(spurious), max(spurious)) if spurious else None,
        peak=(peak["K"], peak[f"{SPURIOUS}_share"]),
    )


def estimates(transition: Transition) -> dict[str, float | None]:
    """The numbers of a transition by their column in summary.csv; None where there is no K.

    A half point is 0 below the smallest K of the sweep and infinite above the largest."""
    halves = (transition.memorized, transition.generalized)
    values = [x for half in halves for x in (half.value, half.low, half.high)]
    values += transition.spurious or (None, None)
    return dict(zip(ESTIMATE_COLUMNS, values, strict=True))


def half_point_text(half: HalfPoint, sizes: Sequence[int]) -> str:
    """A half point and its interval: `K = 88 (84 to 93)`, or `a K below 2`."""
    first, last = sizes[0], sizes[-1]

    def shown(k: float) -> str:
        if k in (0, np.inf):
            return f"below {first}" if k == 0 else f"above {last}"
        return f"{k:.1f}" if k < 10 else f"{k:.0f}"

    value = f"K = {shown(half.value)}" if 0 < half.value < np.inf else f"a K {shown(half.value)}"
    return value + ("" if half.low == half.high else f" ({shown(half.low)} to {shown(half.high)})")


def in_words(transition: Transition) -> str:
    """Two lines for a terminal, in sizes K of the training set."""
    memorized = half_point_text(transition.memorized, transition.sizes)
    generalized = half_point_text(transition.generalized, transition.sizes)
    halves = f"half the samples are {MEMORIZED} up to {memorized}; "
    halves += f"half the samples are {GENERALIZED} from {generalized}\n"
    if transition.spurious is None:
        limit = f"{100 * SPURIOUS_SHARE:g} %"
        return f"{halves}no K has significantly more than {limit} spurious samples"
    low, high = transition.spurious
    where = f"at K = {low}" if low == high else f"from K = {low} to {high}"
    k, share = transition.peak
    return f"{halves}spurious states {where}, most at K = {k} ({100 * share:.1f} %)"
