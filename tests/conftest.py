"""What all tests share: one thread, the reference numbers, and one run of the whole pipeline."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Tests run side by side, and what they start too: threads of several processes wait actively for
# each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.helpers.runs import FAST, ok
from utils.jobs.claims import take_turns

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# A shell's background job ignores Ctrl-C, and so does what it starts: the tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def shared() -> Path:
    """The folder of reference numbers and real MNIST beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: it holds the original toolkit's numbers and MNIST")
    return SHARED


@pytest.fixture(scope="session")
def sweep(tmp_path_factory) -> tuple[Path, list, str]:
    """K = 2 and 8 through all stages of the pipeline, two at a time: root, flags, printed text.

    Made once for all test processes; whoever needs to change something copies it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    root, printed = base / "sweep", base / "sweep.txt"
    flags = [*FAST, "--root", root, "--sizes", "2,8", "--samples", 120, "--jobs", 2]
    flags += ["--curvature", "--generalization", "--machines"]
    for _ in take_turns([printed], lambda path: path, Path.exists):
        printed.write_text(ok("run_pipeline.py", *flags).stdout)
    return root, flags, printed.read_text()
