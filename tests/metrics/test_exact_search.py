"""Exact neighbours: against float64 brute force, whatever the data, the blocks and the ties."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors as SklearnNeighbors
from torch import Tensor

from tests.helpers.models import normal
from utils.metrics import exact_search as neighbours
from utils.metrics import pairs as pair_distances
from utils.metrics.exact_search import NearestNeighbours, merge_nearest, nearest_neighbours
from utils.metrics.pairs import lower_bound, prepare

FORMATS = [torch.float32, torch.bfloat16]
each_format = pytest.mark.parametrize("product", FORMATS, ids=["float32", "bfloat16"])


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


def assert_same(result: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(result[0], expected[0], rtol=2e-7, atol=0)
    assert torch.equal(result[1], expected[1])


noise = partial(normal, dtype=torch.float32)


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


@each_format
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("block_bytes", [2**28, 500_000])
def test_equals_brute_force(name, block_bytes, product):
    a, b = DATA[name](60, 1), DATA[name](150, 2)
    how = {"block_bytes": block_bytes, "product": product}
    assert_same(search(a, b, 5, 64, **how), brute_force(a, b, 5))
    result = search(b, b, 5, 64, exclude_self=True, **how)
    assert_same(result, brute_force(b, b, 5, exclude_self=True))


def test_product_alone_would_be_wrong():
    """The data above are hard: the float32 product gives other neighbours or negative squares."""
    a, b = DATA["offset 1000"](60, 1), DATA["offset 1000"](150, 2)
    product = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
    assert not torch.equal(product.topk(5, largest=False).indices, brute_force(a, b, 5)[1])


@each_format
@pytest.mark.parametrize("k", [1, 5, 64])
def test_two_images_in_500_copies(k, product):
    images = noise(2, 64, seed=3)
    copies = images[torch.randperm(1000, generator=torch.Generator().manual_seed(0)) % 2]
    expected = brute_force(copies, copies, k, exclude_self=True)
    for block in (1000, 130):
        result = search(copies, copies, k, block, exclude_self=True, product=product)
        assert_same(result, expected)
        assert (result[0] == 0).all()


@each_format
def test_copies_with_rounding_noise(product):
    images = noise(2, 200, seed=3).repeat(150, 1)
    images = images * (1 + 1e-7 * noise(300, 200, seed=4))
    result = search(images, images, 5, 100, exclude_self=True, product=product)
    assert_same(result, brute_force(images, images, 5, exclude_self=True))


@each_format
@pytest.mark.parametrize("block", [1, 7, 50, 1000])
@pytest.mark.parametrize("block_bytes", [1, 5000, 10**6])
def test_blocks_and_formats_change_no_bit(block, block_bytes, product):
    a, b = clustered(40, 300, 1e-3, seed=1), clustered(90, 300, 1e-3, seed=2)
    whole = search(a, b, 6, 90)
    parts = search(a, b, 6, block, block_bytes=block_bytes, product=product)
    assert torch.equal(parts[0], whole[0]) and torch.equal(parts[1], whole[1])


def pairs_computed(monkeypatch) -> list[int]:
    """The numbers of pairs that are computed exactly from now on; never all pairs of a block."""
    counts, compute = [], neighbours.pair_distances

    def counting(a, b, i, j):
        counts.append(len(i))
        return compute(a, b, i, j)

    monkeypatch.setattr(neighbours, "all_distances", lambda *_: pytest.fail("all pairs"))
    monkeypatch.setattr(neighbours, "pair_distances", counting)
    return counts


@each_format
def test_a_tiny_first_block_does_not_open_all_pairs(monkeypatch, product):
    """Its far neighbours set a limit that nearly every pair of the next block is below."""
    a, b = noise(50, 64, seed=1), noise(3000, 64, seed=2)
    nearest = NearestNeighbours(a, 5, product=product)
    nearest.update(b[:6], 0)
    counts = pairs_computed(monkeypatch)
    nearest.update(b[6:], 6)
    assert 0 < sum(counts) < 50 * 60
    assert_same(nearest.result(), brute_force(a, b, 5))


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
    squares, result = nearest_neighbours(a, b, 7)
    np.testing.assert_array_equal(result, indices)
    np.testing.assert_allclose(squares.sqrt(), dists, rtol=1e-6)


def assert_below(a: Tensor, b: Tensor, product: torch.dtype, share: float) -> None:
    """The bound is below every distance, and no empty promise: within `share` of |a|^2 + |b|^2."""
    exact = torch.stack([(row.double() - b.double()).square().sum(1) for row in a])
    centre = torch.zeros(a.shape[1])
    bound = lower_bound(prepare(a, centre, product), prepare(b, centre, product))
    assert (bound <= exact).all()
    sums = a.double().square().sum(1)[:, None] + b.double().square().sum(1)[None]
    assert (exact - bound <= share * sums).all()


@pytest.mark.parametrize("dim", [1, 200, 784, 5760, 20_000])
@pytest.mark.parametrize("spread", [1, 1e-4, 0])
def test_bound_is_below_every_distance(dim, spread):
    """Vectors of equal sign, where rounding adds up most."""
    a = 1 + spread * noise(20, dim, seed=1).abs()
    b = torch.cat([a[:5], 1 + spread * noise(20, dim, seed=2).abs()])
    assert_below(a, b, torch.float32, 2 * pair_distances.bound_factor(dim))
    assert_below(a, b, torch.bfloat16, 0.02)


@pytest.mark.parametrize("dim", [1, 3, 200, 5760, 130_000])
@pytest.mark.parametrize("mantissa", [1 + 2**-8, 1 + 2**-8 + 2**-20, 1 + 3 * 2**-8 - 2**-20])
def test_bound_holds_where_bfloat16_rounds_most(dim, mantissa):
    """Numbers half-way between two of bfloat16, all rounded the same way."""
    signs = noise(9, dim, seed=3).sign()
    a, b = signs * mantissa, noise(9, dim, seed=4).sign() * mantissa
    for other in (a, -a, b, a * 1.5, a * 2**-70):
        assert_below(a, other, torch.bfloat16, 0.04)


@each_format
def test_bound_holds_for_the_smallest_numbers(product):
    """Products, and in bfloat16 the numbers themselves, that a processor takes for zero."""
    for size in (1e-38, 1e-40, 3e-20):
        a, b = size * noise(20, 50, seed=1), size * noise(20, 50, seed=2)
        exact = torch.stack([(row.double() - b.double()).square().sum(1) for row in a])
        sides = [prepare(x, torch.zeros(50), product) for x in (a, b)]
        assert (lower_bound(*sides) <= exact).all()
    large = torch.cat([a, 1e15 * noise(20, 50, seed=2)], dim=1)
    other = torch.cat([1e15 * noise(20, 50, seed=2), a], dim=1)
    exact = torch.stack([(row.double() - other.double()).square().sum(1) for row in large])
    sides = [prepare(x, torch.zeros(100), product) for x in (large, other)]
    assert (lower_bound(*sides) <= exact).all()


@pytest.mark.parametrize("product, share", [(torch.float32, 0.005), (torch.bfloat16, 0.05)])
def test_few_pairs_are_recomputed(monkeypatch, product, share):
    """Random data at 784 dimensions, the hardest: the product still settles nearly all pairs."""
    a, b = noise(100, 784, seed=1), noise(2000, 784, seed=2)
    counts = pairs_computed(monkeypatch)
    nearest_neighbours(a, b, 5, product=product)
    assert 0 < sum(counts) < share * 100 * 2000


@pytest.mark.parametrize("cuts", [(0, 150), (0, 1, 2, 3, 150), (0, 70, 71, 150)])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_parts_merged_equal_one_search(cuts, exclude_self):
    b = clustered(150, 20, 1e-3, seed=2)
    b[40:90] = b[3]
    whole = search(b, b, 7, 150, exclude_self=exclude_self)
    parts = []
    for start, stop in pairwise(cuts):
        nearest = NearestNeighbours(b, 7, exclude_self=exclude_self)
        nearest.update(b[start:stop], start)
        parts.append(nearest.result(complete=False))
    assert all(squares.shape == (150, 7) for squares, _ in parts)
    for order in (parts, parts[::-1]):
        result = merge_nearest(order, 7)
        assert torch.equal(result[0], whole[0]) and torch.equal(result[1], whole[1])


def test_merge_refuses_too_few():
    part = torch.ones(3, 2), torch.arange(6).view(3, 2)
    with pytest.raises(ValueError, match="found 2 neighbours; give 3 or more"):
        merge_nearest([part], 3)
    missing = torch.tensor([[1.0, torch.inf]] * 3), torch.zeros(3, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="fewer than 4 neighbours for a query"):
        merge_nearest([part, missing], 4)
    assert merge_nearest([part, missing], 3)[1].shape == (3, 3)


@pytest.mark.parametrize("dim", [1, 4096, 8193, 20_000, 124_928])
def test_a_sum_does_not_depend_on_the_rows_beside_it(dim):
    x = noise(9, dim, seed=1).double().numpy()
    expected = [pair_distances._row_sums(row[None])[0] for row in x]  # in float64, before rounding
    assert pair_distances._row_sums(x).tolist() == expected
    assert pair_distances._row_sums(x[4:7]).tolist() == expected[4:7]
    np.testing.assert_allclose(expected, (x**2).sum(1), rtol=1e-13)


def test_bound_holds_where_the_smallest_numbers_are_taken_for_zero():
    """As on some processors always: squares of the rounding errors vanish before the errors do."""
    assert torch.set_flush_denormal(True), "this processor cannot"
    try:
        for dim in (1, 257, 5000):
            for exponent in range(-74, -40, 2):
                a = torch.full((3, dim), (1 + 2**-8) * 2.0**exponent)
                side = prepare(a, torch.zeros(dim), torch.bfloat16)
                assert (lower_bound(side, side) <= 0).all()
    finally:
        torch.set_flush_denormal(False)


def test_sums_without_float64():
    """What MPS uses instead: right to a few roundings."""
    a, b = noise(20, 5760, seed=1), noise(20, 5760, seed=2)
    exact = (a.double() - b.double()).square().sum(1)
    torch.testing.assert_close(pair_distances._sum_pieces(a - b).double(), exact, rtol=5e-7, atol=0)


def test_precision_switches_do_not_reach_the_product(monkeypatch):
    """tf32 or bfloat16 asked for by others would break the bound; afterwards it is as it was."""
    seen = []

    def spy(a: pair_distances.Side, b: pair_distances.Side) -> Tensor:
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


def test_refuses_other_formats():
    with pytest.raises(ValueError, match="product: found torch.float16"):
        NearestNeighbours(torch.ones(2, 3), 1, product=torch.float16)
