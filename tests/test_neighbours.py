"""Exact neighbours: against float64 brute force, whatever the data, the blocks and the ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors as SklearnNeighbors
from torch import Tensor

from models import neighbours
from models.neighbours import NearestNeighbours, lower_bound, nearest_neighbours


def brute_force(a: Tensor, b: Tensor, k: int, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """Squared distances by float64 differences; equal ones (as float32) by smaller index."""
    squares = torch.stack([(row.double() - b.double()).square().sum(1) for row in a]).float()
    if exclude_self:
        squares.fill_diagonal_(torch.inf)
        k = min(k, len(b) - 1)
    values, indices = squares.sort(dim=1, stable=True)
    return values[:, :k], indices[:, :k]


def search(a: Tensor, b: Tensor, k: int, block: int, **options) -> tuple[Tensor, Tensor]:
    nearest = NearestNeighbours(a, k, **options)
    for start in range(0, len(b), block):
        nearest.update(b[start : start + block], start)
    return nearest.result()


def assert_same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=2e-7, atol=0)
    assert torch.equal(found[1], wanted[1])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clustered(n: int, dim: int, spread: float, seed: int = 0) -> Tensor:
    """n points around 3 centres."""
    centres = noise(3, dim, seed=99)
    return centres[torch.arange(n) % 3] + spread * noise(n, dim, seed=seed)


DATA = {
    "random": lambda n, seed: noise(n, 40, seed=seed),
    "high dimension": lambda n, seed: noise(n, 3000, seed=seed),
    "clustered": lambda n, seed: clustered(n, 300, 0.05, seed),
    "near-duplicates": lambda n, seed: clustered(n, 300, 1e-6, seed),
    "offset 1000": lambda n, seed: 1000 + 0.01 * noise(n, 784, seed=seed),
    "two far clusters": lambda n, seed: 1e4 * (torch.arange(n) % 2)[:, None] + noise(n, 64, seed=7),
    "zeros": lambda n, seed: torch.zeros(n, 16),
    "tiny": lambda n, seed: 1e-20 * noise(n, 16, seed=seed),
    "one column": lambda n, seed: noise(n, 1, seed=seed),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("block_bytes", [2**28, 500_000])
def test_equals_brute_force(name, block_bytes):
    a, b = DATA[name](60, 1), DATA[name](150, 2)
    assert_same(search(a, b, 5, 64, block_bytes=block_bytes), brute_force(a, b, 5))
    found = search(b, b, 5, 64, block_bytes=block_bytes, exclude_self=True)
    assert_same(found, brute_force(b, b, 5, exclude_self=True))


def test_product_alone_would_be_wrong():
    """The data above are hard: the float32 product gives other neighbours or negative squares."""
    a, b = DATA["offset 1000"](60, 1), DATA["offset 1000"](150, 2)
    product = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
    assert not torch.equal(product.topk(5, largest=False).indices, brute_force(a, b, 5)[1])


@pytest.mark.parametrize("k", [1, 5, 64])
def test_two_images_in_500_copies(k):
    images = noise(2, 64, seed=3)
    copies = images[torch.randperm(1000, generator=torch.Generator().manual_seed(0)) % 2]
    wanted = brute_force(copies, copies, k, exclude_self=True)
    for block in (1000, 130):
        found = search(copies, copies, k, block, exclude_self=True)
        assert_same(found, wanted)
        assert (found[0] == 0).all()


def test_copies_with_rounding_noise():
    images = noise(2, 200, seed=3).repeat(150, 1)
    images = images * (1 + 1e-7 * noise(300, 200, seed=4))
    found = search(images, images, 5, 100, exclude_self=True)
    assert_same(found, brute_force(images, images, 5, exclude_self=True))


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
@pytest.mark.parametrize("block_bytes", [1, 5000, 10**6])
def test_blocks_change_no_bit(block, block_bytes):
    a, b = clustered(40, 300, 1e-3, seed=1), clustered(90, 300, 1e-3, seed=2)
    whole = search(a, b, 6, 90)
    parts = search(a, b, 6, block, block_bytes=block_bytes)
    assert torch.equal(parts[0], whole[0]) and torch.equal(parts[1], whole[1])


def test_order_of_the_blocks_changes_nothing():
    b = clustered(90, 20, 0, seed=2)  # all distances tie: only the index decides
    nearest = NearestNeighbours(b, 8, exclude_self=True)
    for start in (60, 0, 30):
        nearest.update(b[start : start + 30], start)
    assert_same(nearest.result(), brute_force(b, b, 8, exclude_self=True))


def test_blocks_of_queries_leave_out_themselves():
    x = noise(50, 30)
    whole = search(x, x, 4, 50, exclude_self=True)
    parts = [search(x[s : s + 20], x, 4, 9, exclude_self=True, first_query=s) for s in (0, 20, 40)]
    assert torch.equal(torch.cat([d for d, _ in parts]), whole[0])
    assert torch.equal(torch.cat([i for _, i in parts]), whole[1])


@pytest.mark.parametrize(
    "n, m, k, exclude_self, columns",
    [(3, 4, 9, False, 4), (3, 1, 5, False, 1), (1, 1, 5, True, 0), (2, 2, 5, True, 1)],
)
def test_fewer_references_than_k(n, m, k, exclude_self, columns):
    a = noise(n, 8)
    b = a if exclude_self else noise(m, 8, seed=1)
    squares, indices = nearest_neighbours(a, b, k, exclude_self=exclude_self)
    assert squares.shape == indices.shape == (n, columns)
    assert (squares.dtype, indices.dtype) == (torch.float32, torch.int64)
    assert_same((squares, indices), brute_force(a, b, k, exclude_self))


def test_equals_scikit_learn():
    a, b = noise(80, 30, seed=1), noise(200, 30, seed=2)
    dists, indices = SklearnNeighbors(n_neighbors=7, algorithm="kd_tree").fit(b).kneighbors(a)
    squares, found = nearest_neighbours(a, b, 7)
    np.testing.assert_array_equal(found, indices)
    np.testing.assert_allclose(squares.sqrt(), dists, rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 200, 784, 5760, 20_000])
@pytest.mark.parametrize("spread", [1, 1e-4, 0])
def test_bound_is_below_every_distance(dim, spread):
    """Vectors of equal sign, where rounding adds up most."""
    a = 1 + spread * noise(20, dim, seed=1).abs()
    b = torch.cat([a[:5], 1 + spread * noise(20, dim, seed=2).abs()])
    exact = torch.stack([(row.double() - b.double()).square().sum(1) for row in a])
    bound = lower_bound(a, b)
    assert (bound <= exact).all()
    # And it is no empty promise: within the derived error twice over.
    sums = a.double().square().sum(1)[:, None] + b.double().square().sum(1)[None]
    assert (exact - bound <= 2 * neighbours.bound_factor(dim) * sums).all()


def test_few_pairs_are_recomputed(monkeypatch):
    """Random data at 784 dimensions: the product settles nearly all pairs."""
    a, b = noise(100, 784, seed=1), noise(2000, 784, seed=2)
    pairs = []
    monkeypatch.setattr(neighbours, "all_distances", lambda *_: pytest.fail("dense fallback"))
    count = neighbours.pair_distances
    monkeypatch.setattr(
        neighbours, "pair_distances", lambda a, b: (pairs.append(len(a)), count(a, b))[1]
    )
    nearest_neighbours(a, b, 5)
    assert sum(pairs) < 0.02 * 100 * 2000


def test_sums_without_float64():
    """What MPS uses instead: right to a few roundings."""
    a, b = noise(20, 5760, seed=1), noise(20, 5760, seed=2)
    exact = (a.double() - b.double()).square().sum(1)
    torch.testing.assert_close(neighbours._sum_pieces(a - b).double(), exact, rtol=5e-7, atol=0)


def test_precision_switches_do_not_reach_the_product(monkeypatch):
    """tf32 or bfloat16 asked for by others would break the bound; afterwards it is as it was."""
    seen = []

    def spy(a: Tensor, b: Tensor) -> Tensor:
        matmul = torch.backends.cuda.matmul
        fresh = getattr(matmul, "fp32_precision", None)  # torch 2.9 and later
        seen.append(fresh in ("ieee", "none") if fresh else not matmul.allow_tf32)
        return lower_bound(a, b)

    monkeypatch.setattr(neighbours, "lower_bound", spy)
    torch.set_float32_matmul_precision("medium")
    try:
        a, b = noise(30, 500, seed=1), noise(90, 500, seed=2)
        assert torch.backends.cuda.matmul.allow_tf32
        assert_same(search(a, b, 5, 64), brute_force(a, b, 5))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [True, True]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e19])
def test_refuses_what_has_no_distance(value):
    good, bad = noise(4, 8), noise(4, 8)
    bad[2, 3] = value
    with pytest.raises(ValueError, match="queries: found NaN, infinite or huge"):
        nearest_neighbours(bad, good, 2)
    with pytest.raises(ValueError, match="references: found NaN, infinite or huge"):
        nearest_neighbours(good, bad, 2)


@pytest.mark.parametrize(
    "queries, references, k, message",
    [
        (torch.ones(2, 3), torch.ones(2, 3), 0, "k: found 0"),
        (torch.ones(2, 3), torch.ones(2, 4), 1, "references: found 4 columns; give 3"),
        (torch.ones(2, 3).double(), torch.ones(2, 3), 1, "queries: found torch.float64"),
        (torch.ones(2), torch.ones(2, 3), 1, "queries: found torch.float32"),
    ],
)
def test_refuses_other_shapes(queries, references, k, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(queries, references, k)
