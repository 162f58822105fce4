"""Exact k nearest neighbours in bounded memory: a product proposes, differences decide.

`nearest.update(block, first_index)` takes the references one block after another;
`nearest.result()` gives squared distances: take the root where the metric is the plain one."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from models.lpips_embedding import full_float32

UNIT = 2.0**-24  # largest relative error of one rounding to float32
LARGEST = torch.finfo(torch.float32).max / 64  # of |a|^2; below it no sum here overflows
INDEX_BITS = 32
# A neighbour is one integer, its squared distance's bits above its index: float32 numbers >= 0
# are ordered as their bits, so integers are ordered by distance and then by index.
EMPTY = 0x7F800000 << INDEX_BITS  # distance infinity


class NearestNeighbours:
    """The k nearest references of each query, by |a - b|, whatever their order and blocks.

    Of centred vectors the product gives a lower bound of every squared distance,

        (1 - e) (|a|^2 + |b|^2) - 2 a.b <= |a - b|^2        (e: `bound_factor`),

    and every pair whose bound is not above the k-th distance so far is recomputed as
    sum (a - b)^2. Nothing is missed, duplicates and near-duplicates included; they only take
    longer.

    queries: [N, D] float32, on any device. k >= 1. exclude_self: reference i is no neighbour of
    query i; first_query is the index of queries[0]. block_bytes: bound of temporary memory
    (beyond it only where one pair alone needs more).
    Raises ValueError for NaN, infinite or huge values (|a|^2 > 5e36), and other shapes."""

    def __init__(
        self,
        queries: Tensor,
        k: int,
        *,
        exclude_self: bool = False,
        first_query: int = 0,
        block_bytes: int = 2**28,
    ) -> None:
        if k < 1:
            raise ValueError(f"k: found {k}; choose 1 or more")
        if block_bytes < 1:
            raise ValueError(f"block_bytes: found {block_bytes}; choose 1 or more")
        check_vectors(queries, "queries")
        self._queries, self._k = queries.detach(), k
        self._exclude_self, self._first_query = exclude_self, first_query
        # Of the memory: a quarter each for a tile of queries, of references (float32 centred,
        # float64 for differences), of pairs (bound, mask, keys), and of gathered differences.
        dim = max(queries.shape[1], 1)
        self._tile = max(1, min(block_bytes // (64 * dim), isqrt(block_bytes // 256)))
        self._gather = max(1, block_bytes // (96 * dim))
        # Any centre gives the same distances; a near one makes the bound tight.
        self._centre = (
            self._queries.mean(0) if len(queries) else queries.new_zeros(queries.shape[1])
        )
        # MPS cannot sort 64-bit integers on every macOS.
        home = torch.device("cpu") if queries.device.type == "mps" else queries.device
        self._keys = torch.full((len(queries), k), EMPTY, dtype=torch.int64, device=home)

    def update(self, references: Tensor, first_index: int) -> None:
        """Take references [M, D] (float32, same device) of the indices first_index, ... .

        Each index once; ascending blocks are the fastest."""
        check_vectors(references, "references")
        if references.shape[1] != self._queries.shape[1]:
            found = f"{references.shape[1]} columns"
            raise ValueError(f"references: found {found}; give {self._queries.shape[1]}")
        if not 0 <= first_index <= 2**INDEX_BITS - len(references):
            raise ValueError(f"first_index: found {first_index}; choose 0 to 2^32 - M")
        with torch.no_grad(), full_float32(self._queries.device):
            for start in range(0, len(references), self._tile):
                block = references[start : start + self._tile]
                for row in range(0, len(self._queries), self._tile):
                    self._update_tile(slice(row, row + self._tile), block, first_index + start)

    def result(self) -> tuple[Tensor, Tensor]:
        """Squared distances [N, k'] float32, ascending, and indices [N, k'] int64.

        Equal distances: the smaller index first. k' = min(k, references), without oneself."""
        complete = (self._keys < EMPTY).all(0)  # [k]
        keys = self._keys[:, complete]
        device = self._queries.device
        return key_distance(keys).to(device), key_index(keys).to(device)

    def _update_tile(self, rows: slice, block: Tensor, first: int) -> None:
        queries, keys = self._queries[rows], self._keys[rows]  # a view: merging writes through
        bound = lower_bound(queries - self._centre, block - self._centre)  # [n, m]
        own = torch.arange(len(queries), device=bound.device) + rows.start + self._first_query
        own = own - first  # [n], the column that is the query itself, where there is one
        inside = (own >= 0) & (own < len(block)) if self._exclude_self else own < own
        bound[inside, own[inside]] = torch.inf

        # First the most likely ones, so that the threshold is low for all others.
        likely = bound.topk(min(self._k, len(block)), largest=False).indices  # [n, min(k, m)]
        chosen = torch.zeros_like(bound, dtype=torch.bool).scatter_(1, likely, True)
        self._refine(queries, block, chosen & self._open(bound, keys, first), keys, first)
        bound[chosen] = torch.inf
        self._refine(queries, block, self._open(bound, keys, first), keys, first)

    def _open(self, bound: Tensor, keys: Tensor, first: int) -> Tensor:
        """Which pairs [n, m] may still be among the k nearest."""
        last = keys[:, -1:]
        # The distance that it is compared with was itself rounded once.
        limit = (key_distance(last) * (1 + 4 * UNIT)).to(bound.device)  # [n, 1]
        column = torch.arange(first, first + bound.shape[1], device=bound.device)  # [m]
        # Nothing is nearer than 0: there only a smaller index counts. Sets of copies are common.
        earlier = column < key_index(last).to(bound.device)  # [n, m]
        return (bound <= limit) & bound.isfinite() & ((limit > 0) | earlier)

    def _refine(self, a: Tensor, b: Tensor, pairs: Tensor, keys: Tensor, first: int) -> None:
        """Recompute pairs [n, m] (bool) of a [n, D], b [m, D] and merge them into keys [n, k]."""
        counts = pairs.sum(1)  # [n]
        many = counts * 8 > len(b)
        for rows, dense in ((many, True), ((counts > 0) & ~many, False)):
            rows = rows.nonzero().flatten()  # [r]
            if not len(rows):
                continue
            wanted = pairs[rows]  # [r, m]
            squares = torch.full(wanted.shape, torch.inf, device=a.device)
            if dense:
                squares = torch.where(wanted, all_distances(a[rows], b, self._gather), squares)
            else:
                i, j = wanted.nonzero(as_tuple=True)  # [P]
                for part in zip(i.split(self._gather), j.split(self._gather), strict=True):
                    squares[part] = pair_distances(a[rows[part[0]]], b[part[1]])
            rows = rows.to(keys.device)
            both = torch.cat([keys[rows], to_keys(squares.to(keys.device), first)], dim=1)
            keys[rows] = both.topk(keys.shape[1], largest=False, sorted=True).values


def nearest_neighbours(
    queries: Tensor, references: Tensor, k: int, *, exclude_self: bool = False
) -> tuple[Tensor, Tensor]:
    """`NearestNeighbours` for references [M, D] that are there at once: squared, indices."""
    nearest = NearestNeighbours(queries, k, exclude_self=exclude_self)
    nearest.update(references, 0)
    return nearest.result()


def check_vectors(vectors: Tensor, name: str) -> None:
    """Raises ValueError unless vectors are [N, D] float32, finite and not huge."""
    if vectors.ndim != 2 or vectors.dtype != torch.float32:
        found = f"{vectors.dtype} {list(vectors.shape)}"
        raise ValueError(f"{name}: found {found}; give float32 [N, D]")
    if not vectors.numel():
        return
    if not (vectors.norm(dim=1) < LARGEST**0.5).all():  # NaN is not below either
        raise ValueError(f"{name}: found NaN, infinite or huge values; give finite ones")


def chunk_size(dim: int) -> int:
    """Length of the pieces of a sum over D: a term then meets about 2 sqrt(D) roundings, not D."""
    return max(256, isqrt(dim))


def bound_factor(dim: int) -> float:
    """e with (1 - e) (|a|^2 + |b|^2) - 2 a.b <= |a - b|^2 as float32 computes it.

    The left side is a sum of |a|^2, |b|^2 and D products. In pieces of c each term meets at most
    n = c + D/c + 4 roundings (product, inside its piece, one a piece, norms added and scaled),
    so with gamma_n = n u / (1 - n u), u = 2^-24, in any order and with or without fused adds

        error <= gamma_n (|a|^2 + |b|^2)                      of the norms
               + gamma_n 2 sum |a_i b_i|                      of the product,

    and 2 sum |a_i b_i| <= |a|^2 + |b|^2. Centring rounds each coordinate once: |a - b| moves by
    at most u (|a| + |b|), its square by 2 u (|a| + |b|)^2 <= 4 u (|a|^2 + |b|^2), which the
    4 extra roundings below more than cover. Source: Higham 2002, Accuracy and Stability of
    Numerical Algorithms, section 3.1."""
    chunk = chunk_size(dim)
    n = chunk + -(-dim // chunk) + 8
    return 2 * n * UNIT / (1 - n * UNIT)


def lower_bound(a: Tensor, b: Tensor) -> Tensor:
    """A bound from below [n, m] of |a - b|^2, for a [n, D] and b [m, D] in float32."""
    dim = a.shape[1]
    chunk = chunk_size(dim)
    # The last term: products too small for float32 vanish, each by less than its smallest number.
    slack = 4 * dim * torch.finfo(torch.float32).tiny
    scale = 1 - bound_factor(dim)
    bound = scale * (squared_norms(a, chunk)[:, None] + squared_norms(b, chunk)[None]) - slack
    for start in range(0, dim, chunk):
        part = slice(start, start + chunk)
        bound.addmm_(a[:, part], b[:, part].T, alpha=-2)
    return bound


def squared_norms(x: Tensor, chunk: int) -> Tensor:
    """|x|^2 [n], summed in pieces of chunk."""
    pieces = [part.square().sum(1) for part in x.split(chunk, dim=1)]
    return torch.stack(pieces).sum(0) if pieces else x.new_zeros(len(x))


def pair_distances(a: Tensor, b: Tensor) -> Tensor:
    """sum (a - b)^2 [P] of the rows of a [P, D] and b [P, D], as differences.

    Right to one rounding to float32 where the device has float64."""
    if a.device.type == "mps":
        return _sum_pieces(a - b)
    return _cdist(a[:, None], b[:, None]).flatten()


def all_distances(a: Tensor, b: Tensor, at_once: int) -> Tensor:
    """`pair_distances` of every row of a [n, D] to every row of b [m, D]: [n, m].

    at_once: pairs held in memory, on a device without float64."""
    if a.device.type == "mps":
        rows = max(1, at_once // len(b))
        return torch.cat([_sum_pieces(part[:, None] - b) for part in a.split(rows)])
    return _cdist(a[None], b[None])[0]


def _cdist(a: Tensor, b: Tensor) -> Tensor:
    # The same kernel for one pair and for all: blocks of any size give the same bits.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.double(), b.double(), compute_mode=mode).square().float()


def _sum_pieces(difference: Tensor) -> Tensor:
    """Sum of squares over the last axis in float32; pieces keep the error at a few roundings."""
    pieces = difference.split(chunk_size(difference.shape[-1]), dim=-1)
    return torch.stack([piece.square().sum(-1) for piece in pieces]).sum(0)


def to_keys(squares: Tensor, first: int) -> Tensor:
    """One integer a neighbour: squared distances [n, m] of the references first, first + 1, ..."""
    index = torch.arange(first, first + squares.shape[1], device=squares.device)
    # Minus zero has another bit pattern than zero.
    return ((squares + 0.0).view(torch.int32).long() << INDEX_BITS) + index


def key_distance(keys: Tensor) -> Tensor:
    """The squared distances of keys, float32."""
    return (keys >> INDEX_BITS).int().view(torch.float32)


def key_index(keys: Tensor) -> Tensor:
    """The reference indices of keys, int64."""
    return keys & (2**INDEX_BITS - 1)
