"""How long an image survives noise: which noised copies to try next, and what the answers say.

A search is a generator: it yields (time, trial) pairs, is sent whether each was recovered, and
returns an `Answer`. It knows nothing of images and networks."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Trials = list[tuple[int, int]]  # (t, trial): noised copies to try
NOT_FOLLOWED = -1


@dataclass(frozen=True)
class Rule:
    """When an image lives at a time t: at least ceil(p n - 1e-9) of its n trials recover there.

    times: scanned times, ascending, int. trials: n >= 1. p in (0, 1]. Raises ValueError outside."""

    times: tuple[int, ...]
    trials: int
    p: float

    def __post_init__(self) -> None:
        if not self.times or self.trials < 1 or not 0 < self.p <= 1:
            rule = f"{len(self.times)} times, {self.trials} trials, p = {self.p}"
            raise ValueError(f"rule: found {rule}; give one or more, and p above 0 and up to 1")

    @property
    def need(self) -> int:
        """Trials that must recover; 9 for n = 10, p = 0.9.

        >>> Rule((1,), 10, 0.9).need, Rule((1,), 10, 0.91).need, Rule((1,), 3, 0.1).need
        (9, 10, 1)"""
        return max(1, math.ceil(self.p * self.trials - 1e-9))


@dataclass(frozen=True)
class Answer:
    """What is known of one image.

    critical_time: the last scanned t before the image first stops being recovered, 0 where it
    is not recovered at the first t.
    censored: it still lived at the last scanned t. time int64 [n]: of each trial, the last t up to
    which it recovered at every scanned t, 0 for none, -1 where that was not followed. recovery
    float32 [T']: share of trials recovered at each scanned t, NaN where not all were tried.
    non_monotone: it recovered at a later time than one at which it failed."""

    critical_time: int
    censored: bool
    time: np.ndarray
    recovery: np.ndarray
    non_monotone: bool = False


Search = Generator[Trials, list[bool], Answer]


def scan(rule: Rule) -> Search:
    """Upwards from the first time, all n trials afresh at each, until the image first stops being
    recovered.

    A trial that recovered at every time so far continues alone until it fails."""
    recovery = np.full(len(rule.times), np.nan, np.float32)
    time = np.zeros(rule.trials, np.int64)
    unbroken = np.ones(rule.trials, bool)
    critical_time, lives = 0, True
    for i, t in enumerate(rule.times):
        tried = np.arange(rule.trials) if lives else np.flatnonzero(unbroken)
        if not len(tried):
            break
        recovered = np.zeros(rule.trials, bool)
        recovered[tried] = yield [(t, int(trial)) for trial in tried]
        unbroken &= recovered
        time[unbroken] = t
        if lives:
            recovery[i] = recovered.mean()
            lives = int(recovered.sum()) >= rule.need
            critical_time = t if lives else critical_time
    return Answer(critical_time, lives, time, recovery)


def scan_image(rule: Rule) -> Search:
    """`scan` without the trials' own times: at each time only until the rule is decided."""
    recovery = np.full(len(rule.times), np.nan, np.float32)
    critical_time, lives = 0, True
    for i, t in enumerate(rule.times):
        lives, recovery[i] = yield from _lives(rule, t)
        if not lives:
            break
        critical_time = t
    return Answer(critical_time, lives, _not_followed(rule), recovery)


def bisect(rule: Rule) -> Search:
    """The critical time of `scan_image`, on the same noise, where recovery is monotone in t.

    Gallops upwards from a fifth of the scan until the image fails, then halves the gap. Then the
    neighbours of the answer are checked: where the image fails just below it, the search goes on
    below, for a scan would have ended there; where it lives just above its failure, a scan would
    not have come so far. Both are marked as non_monotone."""
    recovery = np.full(len(rule.times), np.nan, np.float32)
    lives: dict[int, bool] = {}  # by position in times
    probe: int | None = max(0, len(rule.times) // 5 - 1)
    while probe is not None:
        lives[probe], recovery[probe] = yield from _lives(rule, rule.times[probe])
        low, high = _gap(lives, len(rule.times))
        probe = _next_probe(lives, low, high, len(rule.times))
    known = sorted(lives)
    non_monotone = any(lives[j] and not lives[i] for i, j in pairwise(known))
    critical_time = rule.times[low] if low >= 0 else 0
    censored = low == len(rule.times) - 1
    return Answer(critical_time, censored, _not_followed(rule), recovery, non_monotone)


def _gap(lives: dict[int, bool], count: int) -> tuple[int, int]:
    """The lowest position that fails (count: none), and the highest below it that lives (or -1)."""
    high = min((i for i, living in lives.items() if not living), default=count)
    return max((i for i, living in lives.items() if living and i < high), default=-1), high


def _next_probe(lives: dict[int, bool], low: int, high: int, count: int) -> int | None:
    """The next position to try, or None where the answer and its neighbours are known."""
    if high - low > 1:
        return min(2 * low + 1, count - 1) if high == count else (low + high) // 2
    neighbours = (i for i in (low - 1, high + 1) if 0 <= i < count and i not in lives)
    return next(neighbours, None)


def _lives(rule: Rule, t: int) -> Generator[Trials, list[bool], tuple[bool, float]]:
    """Whether the image lives at t, and the share of trials that recover (NaN: not all tried).

    Trials are tried as many at a time as must be tried before that can be known."""
    most_failures = rule.trials - rule.need
    recovered = failed = 0
    while recovered < rule.need and failed <= most_failures:
        tried = recovered + failed
        count = min(rule.need - recovered, most_failures + 1 - failed)
        answers = yield [(t, trial) for trial in range(tried, tried + count)]
        recovered += sum(answers)
        failed += count - sum(answers)
    share = recovered / rule.trials if recovered + failed == rule.trials else math.nan
    return recovered >= rule.need, share


def _not_followed(rule: Rule) -> np.ndarray:
    return np.full(rule.trials, NOT_FOLLOWED, np.int64)
