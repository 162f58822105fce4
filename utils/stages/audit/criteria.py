"""What makes a sample a copy: p-values and ratios."""

from __future__ import annotations

import numpy as np

from utils.evidence.duplicates import RATIO, nearest_different
from utils.metrics.intervals import TAIL, wilson_interval

FALSE_DISCOVERIES = 0.05  # of Benjamini and Hochberg: expected share of new ones among the copies
DRAWS = 1000  # of the bootstrap


def p_values(distances: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """The conformal p-value of each sample [N]: how probable a distance to the nearest training
    image as small as its own is for a new real image.

        p_i = (1 + #{j: h_j <= d_i}) / (n + 1)

    distances d [N] of samples and h [n] of held-out images, >= 0, in one metric; n >= 1. If sample
    and held-out images are exchangeable, P(p_i <= a) <= a for every a. The least is 1 / (n + 1).
    Source: Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World, section 2.3."""
    below = np.searchsorted(np.sort(held_out), distances, side="right")
    return (1 + below) / (len(held_out) + 1)


def discoveries(p: np.ndarray, rate: float = FALSE_DISCOVERIES) -> np.ndarray:
    """Which p-values [N] are discoveries by Benjamini and Hochberg: bool [N].

    Conformal p-values of one set of held-out images depend on each other positively, for which the
    expected share of false ones among the discoveries is `rate` at most. Source: Benjamini and
    Hochberg 1995, J. R. Stat. Soc. B 57, 289; Bates et al. 2023, Ann. Stat. 51, 149, theorem 2."""
    from scipy.stats import false_discovery_control

    return false_discovery_control(p, method="bh") <= rate


def ratios(lengths: np.ndarray, neighbours: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """d_1 / d of each image: d_1 to the nearest training image, d to the nearest *different* one,
    see `nearest_different`. float64 [n], 0 where d_1 is 0, NaN where there is no second one.

    Where all k neighbours are of one group the ratio is an upper bound."""
    if lengths.shape[1] < 2:
        return np.full(len(lengths), np.nan)
    d_1, different = nearest_different(lengths, neighbours, groups).T.astype(np.float64)
    return np.divide(d_1, different, out=np.zeros_like(d_1), where=(d_1 > 0) & (different > 0))


def is_copy_by_ratio(ratio: np.ndarray) -> np.ndarray:
    """bool [n]: d_1 < d / 3. Source: Yoon et al. 2023; Carlini et al. 2023, arXiv 2301.13188."""
    return RATIO * ratio < 1  # NaN is not


def copies_interval(fixed: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """The 95 % interval (low, high) of the share of copies among samples of this model, judged
    with the same held-out images.

    fixed [N]: the copies by criteria that look at each sample alone, bool. p [N]: p-values. The
    number of discoveries jumps: whether one p-value is a discovery depends on the others. So
    Benjamini and Hochberg's rule is applied again to DRAWS bootstrap sets; the interval contains
    the 2.5 and 97.5 % quantiles of their shares and Wilson's interval. Coverage in simulations (100
    and 500 samples, 60 to 2,000 held-out images, 0 to 40 % copies, clear and blurred ones): 92 to
    100 %; that of Wilson's alone: 44 to 100 % (docs/audit.md)."""
    total = len(fixed)
    count = int((fixed | discoveries(p)).sum())
    low, high = wilson_interval(count, total)
    values, cell = np.unique(p, return_inverse=True)
    cells = np.bincount(2 * cell + fixed, minlength=2 * len(values))  # by p-value and `fixed`
    draw, shares = np.random.default_rng(0), np.empty(DRAWS)
    for i in range(DRAWS):
        new, others = draw.multinomial(total, cells / total).reshape(-1, 2).T[::-1]
        up_to = np.cumsum(new + others)
        passed = np.flatnonzero(values <= FALSE_DISCOVERIES * up_to / total)
        last = passed[-1] if len(passed) else -1
        shares[i] = ((up_to[last] if last >= 0 else 0) + new[last + 1 :].sum()) / total
    ends = np.quantile(shares, [TAIL, 1 - TAIL])
    return float(min(low, ends[0])), float(max(high, ends[1]))
