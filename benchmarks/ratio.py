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
    **told: Any,
) -> None:
    """Check that both give the same (to 1e-5), time them in turn, print one JSON line.

    `ratio` is the median of seconds(baseline) / seconds(candidate); above 1 the candidate is
    faster."""
    torch.testing.assert_close(candidate(), baseline(), rtol=1e-5, atol=1e-5)
    pairs = [(seconds(baseline), seconds(candidate)) for _ in range(5)]
    result = {
        "benchmark": name,
        "ratio": round(statistics.median(b / c for b, c in pairs), 2),
        "baseline_seconds": round(statistics.median(b for b, _ in pairs), 4),
        "candidate_seconds": round(statistics.median(c for _, c in pairs), 4),
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        **told,
    }
    print(json.dumps(result), flush=True)
