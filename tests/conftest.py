"""What all tests share: one thread, real data, and the reference numbers where they are."""

from __future__ import annotations

import os
from pathlib import Path

# Tests run side by side, and what they start too: threads of several processes wait actively for
# each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def shared() -> Path:
    """The folder of reference numbers and real MNIST beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: it holds the original toolkit's numbers and MNIST")
    return SHARED
