"""How many times faster: two ways to the same answer, timed in turn so that drift hits both."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str,
    baseline: Callable[[], torch.Tensor],
    candidate: Callable[[], torch.Tensor],
    repeats: int = 5,
    **told: Any,
) -> None:
    """Check that both give the same (to 1e-5), time them in turn, print one JSON line.

    `ratio` is the median of seconds(baseline) / seconds(candidate); above 1 the candidate is
    faster. repeats = 1 is for minutes of work: then the run that is timed is the one checked."""
    answers: dict[str, torch.Tensor] = {}

    def remembered(who: str, work: Callable[[], torch.Tensor]) -> Callable[[], None]:
        return lambda: answers.__setitem__(who, work())

    works = remembered("baseline", baseline), remembered("candidate", candidate)
    if repeats > 1:
        for work in works:  # the first run of a kind allocates and chooses kernels
            work()
    pairs = [tuple(seconds(work) for work in works) for _ in range(repeats)]
    torch.testing.assert_close(answers["candidate"], answers["baseline"], rtol=1e-5, atol=1e-5)
    tell(
        name,
        ratio=round(statistics.median(b / c for b, c in pairs), 2),
        baseline_seconds=round(statistics.median(b for b, _ in pairs), 4),
        candidate_seconds=round(statistics.median(c for _, c in pairs), 4),
        repeats=repeats,
        **told,
    )


def tell(name: str, **told: Any) -> None:
    """Print one JSON line: what was measured, and on what."""
    machine = {
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    print(json.dumps({"benchmark": name, **told, **machine}), flush=True)
