"""Shares of work: each part once, about equal in size."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.cli.errors import UserError
from utils.cli.options.run import SliceOptions
from utils.jobs.k_jobs import plan_jobs
from utils.jobs.shares import WHOLE, Share


@given(st.integers(0, 300), st.integers(1, 40))
def test_ranges_cover_everything_once_in_order(size, count):
    ranges = [Share(i, count).of(size) for i in range(count)]
    assert [position for part in ranges for position in part] == list(range(size))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@given(st.lists(st.floats(0, 1e6), max_size=40), st.integers(1, 9))
def test_weighed_shares_cover_everything_once(costs, count):
    items = list(range(len(costs)))
    shares = [Share(i, count).weighed(items, costs) for i in range(count)]
    assert sorted(item for share in shares for item in share) == items
    assert all(share == sorted(share) for share in shares)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 3))
def test_the_dearest_share_costs_at_most_a_third_more_than_in_the_best_assignment(costs, count):
    items = list(range(len(costs)))

    def dearest(shares: list[list[int]]) -> int:
        return max(sum(costs[item] for item in share) for share in shares)

    best = min(
        dearest([[item for item in items if owner[item] == i] for i in range(count)])
        for owner in product(range(count), repeat=len(items))
    )
    assert dearest([Share(i, count).weighed(items, costs) for i in range(count)]) <= best * 4 / 3


def test_slices_by_number_differ_a_lot_and_parts_do_not():
    """A sweep of the paper: K = 500, 1000, ..., 19,000 and 10,000 samples of each."""
    sizes = [500 * i for i in range(1, 39)]
    files = {k: Path(f"{k}.npz") for k in sizes}

    def load(part: SliceOptions) -> float:
        jobs = plan_jobs(files, Path("d"), part, lambda k, path: 10_000 * (k + 10_000))
        return sum(10_000 * (job.k + 10_000) for job in jobs)

    sliced = [load(SliceOptions(start, min(start + 5, 38))) for start in range(0, 38, 5)]
    parts = [load(SliceOptions(part=f"{i}/8")) for i in range(8)]
    assert max(sliced) / min(sliced) > 1.5
    assert max(parts) / min(parts) < 1.3 and max(parts) < max(sliced)
    jobs = [plan_jobs(files, Path("d"), SliceOptions(part=f"{i}/8")) for i in range(8)]
    assert sorted(job.k for part in jobs for job in part) == sizes


def test_more_parts_than_files(capsys):
    files = {2: Path("2.npz")}
    assert [job.k for job in plan_jobs(files, Path("d"), SliceOptions(part="0/3"))] == [2]
    assert plan_jobs(files, Path("d"), SliceOptions(part="2/3")) == []
    assert "--part 2/3: nothing to do" in capsys.readouterr().out


def test_a_share_of_a_share():
    """Ranks within an array: 3 ranks of each of 4 tasks are 12 shares, each one once."""
    result = [Share(i, 4).split(rank, 3) for i in range(4) for rank in range(3)]
    assert result == [Share(i, 12) for i in range(12)]


@pytest.mark.parametrize("text, share", [("0/1", WHOLE), ("2/8", Share(2, 8)), (None, WHOLE)])
def test_parse_share(text, share):
    assert Share.parse(text, "--shard") == share


@pytest.mark.parametrize(
    "text", ["", "3", "8/8", "-1/8", "1/0", "a/b", "1/2/3", "0/9999999", "0.5/2"]
)
@pytest.mark.parametrize("flag", ["--part", "--shard"])
def test_parse_share_refuses(text, flag):
    with pytest.raises(UserError, match=f"{flag}: found .*; give i/n"):
        Share.parse(text, flag)
