"""Progress with the time left, on stderr, so that stdout keeps the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

QUIET = "M2G_QUIET"  # no bars: set in run_pipeline.py's workers, whose bars would overlap


def progress(items: Iterable | None = None, **options: Any) -> Any:
    """tqdm over items with the settings of all stages; silent where QUIET is set.

    In a log file a bar is one line each 30 s instead of ten a second."""
    from tqdm import tqdm

    to_terminal = sys.stderr.isatty()
    return tqdm(
        items,
        dynamic_ncols=to_terminal,
        mininterval=0.1 if to_terminal else 30,
        disable=bool(os.environ.get(QUIET)),
        **options,
    )


@cache
def print_once(line: str) -> None:
    """Print a line once in a process, and not where QUIET is set: in workers, on other ranks."""
    if not os.environ.get(QUIET):
        print(line, flush=True)
