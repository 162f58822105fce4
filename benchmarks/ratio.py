"""Time ratio of two methods with the same result, timed alternately so that drift affects both."""

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
    tolerance: float = 1e-5,
    count: int | None = None,
    **details: Any,
) -> None:
    """Check that both give the same result (to `tolerance`), time them alternately, print one JSON
    line. count: what the work consists of, to print how much of it the candidate does per second.

    `ratio` is the median of seconds(baseline) / seconds(candidate); above 1 the candidate is
    faster. repeats = 1 is for minutes of work: then there is no warm-up, and the timed run is
    the one that is checked."""
    results: dict[str, torch.Tensor] = {}

    def stored(name: str, work: Callable[[], torch.Tensor]) -> Callable[[], None]:
        return lambda: results.__setitem__(name, work())

    works = stored("baseline", baseline), stored("candidate", candidate)
    if repeats > 1:
        for work in works:  # the first run allocates and chooses kernels
            work()
    pairs = [tuple(seconds(work) for work in works) for _ in range(repeats)]
    torch.testing.assert_close(
        results["candidate"], results["baseline"], rtol=tolerance, atol=tolerance
    )
    candidate_seconds = statistics.median(c for _, c in pairs)
    if count is not None:
        details["candidate_per_second"] = float(f"{count / candidate_seconds:.3g}")
    print_result(
        name,
        ratio=round(statistics.median(b / c for b, c in pairs), 2),
        baseline_seconds=round(statistics.median(b for b, _ in pairs), 4),
        candidate_seconds=round(candidate_seconds, 4),
        repeats=repeats,
        **details,
    )


def print_result(name: str, **details: Any) -> None:
    """Print one JSON line: the measurement and the machine."""
    machine = {
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    print(json.dumps({"benchmark": name, **details, **machine}), flush=True)
