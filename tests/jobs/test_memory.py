"""Sizes of memory: as text, as available, and as the budget of a search."""

from __future__ import annotations

import mmap

import pytest
import torch

from utils.cli.errors import UserError
from utils.cli.options.checks import parse_memory
from utils.jobs.memory import LEAST, as_size, free_memory, resident_memory, search_budget

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "text, size",
    [
        ("4G", 2**32),
        ("500M", 500 * 2**20),
        ("1.5g", 3 * 2**29),
        ("2GiB", 2**31),
        ("2000000", 2000000),
    ],
)
def test_parse_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "G", "-4G", "4X", "nan", "0", "10K", "9" * 400, "99999999T"])
def test_parse_memory_refuses(text):
    with pytest.raises(UserError, match="--memory"):
        parse_memory(text)


def test_free_memory():
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_the_requested_memory_bounds_the_whole_process():
    held = resident_memory()
    assert 2**26 < held < free_memory(CPU)
    assert search_budget(held + 2**30, CPU) == pytest.approx(2**30, abs=2**28)
    assert search_budget(2**20, CPU) == LEAST  # more is held already
    assert search_budget(None, CPU) == pytest.approx(free_memory(CPU) // 2, rel=0.2)


def test_resident_memory_grows_with_what_is_held():
    before = resident_memory()
    with mmap.mmap(-1, 2**26) as block:  # an array could lie in what was freed earlier
        block.write(b"1" * len(block))
        assert resident_memory() - before > 0.8 * len(block)


@pytest.mark.parametrize(
    "count, text", [(3 * 2**30, "3.0G"), (2**20, "1M"), (2**29, "0.5G"), (0, "0M")]
)
def test_as_size(count, text):
    assert as_size(count) == text
