"""What makes a sample a copy: p-values, ratios, and duplicates that must not hide it."""

from __future__ import annotations

import numpy as np

from utils.metrics.intervals import TAIL, wilson_interval

FALSE_DISCOVERIES = 0.05  # of Benjamini and Hochberg: expected share of new ones among the copies
DRAWS = 1000  # of the bootstrap
RATIO = 3  # d_1 < d / RATIO


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


def gap_sizes(lengths: np.ndarray) -> np.ndarray:
    """How many of the nearest images are near-duplicates of an image: int64 [n].

        the largest m with d_m < d_{m+1} / 3; 0 without one

    lengths [n, k]: d_1 <= d_2 <= ... of each image to other ones, Euclidean. It is the ratio test
    (Yoon et al. 2023), for a group of images instead of one."""
    if lengths.shape[1] < 2:
        return np.zeros(len(lengths), np.int64)
    gaps = RATIO * lengths[:, :-1].astype(np.float64) < lengths[:, 1:]
    last = gaps.shape[1] - np.argmax(gaps[:, ::-1], axis=1)
    return np.where(gaps.any(1), last, 0)


def near_groups(lengths: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """The group of near-duplicates that each of n images is in: int64 [n], a number for each group;
    an image without near-duplicates is alone in its group.

    Two images are linked where each is among the near-duplicates of the other by `gap_sizes`.
    lengths, neighbours [n, k]: the nearest other images of each, ascending."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(lengths)
    inside = np.arange(lengths.shape[1]) < gap_sizes(lengths)[:, None]
    rows, columns = np.nonzero(inside)
    one_way = coo_matrix((np.ones(len(rows)), (rows, neighbours[rows, columns])), (n, n)).tocsr()
    both_ways = one_way.multiply(one_way.T)
    return connected_components(both_ways, directed=False)[1].astype(np.int64)


def ratios(lengths: np.ndarray, neighbours: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """d_1 / d of each image: d_1 to the nearest training image, d to the nearest *different* one,
    which is no near-duplicate of it. float64 [n], 0 where d_1 is 0.

    Without that, a copy of an image that occurs twice has d_1 = d_2 and is missed. Where all k
    neighbours are of one group, d is larger than the last of them, which is taken: the ratio is
    then an upper bound. NaN where there is no second training image.
    lengths, neighbours [n, k]: the nearest training images; groups: of all, by `near_groups`."""
    if lengths.shape[1] < 2:
        return np.full(len(lengths), np.nan)
    others = groups[neighbours] != groups[neighbours[:, :1]]
    others[:, -1] = True
    different = np.take_along_axis(lengths, np.argmax(others, axis=1)[:, None], axis=1)[:, 0]
    d_1, different = lengths[:, 0].astype(np.float64), different.astype(np.float64)
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
    and 500 samples, 60 to 2,000 held-out images, 0 to 40 % copies, clear and blurred ones): 93 to
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
