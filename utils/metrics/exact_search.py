"""Exact k nearest neighbours in bounded memory: a product proposes, differences decide.

`nearest.update(block, first_index)` takes the references one block after another;
`nearest.result()` gives squared distances: take the root where the metric is the plain one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from utils.descriptors.lpips import full_float32
from utils.metrics.pairs import (
    UNIT,
    Side,
    all_distances,
    check_vectors,
    lower_bound,
    pair_distances,
    prepare,
)

INDEX_BITS = 32
# A neighbour is one integer, its squared distance's bits above its index: float32 numbers >= 0
# are ordered as their bits, so integers are ordered by distance and then by index.
EMPTY = 0x7F800000 << INDEX_BITS  # distance infinity
LARGEST_FLOAT = torch.finfo(torch.float32).max
FEW = 2  # open pairs a neighbour that are recomputed at once, without the best ones first
DENSE = 8  # a row with more than one open pair in so many is recomputed whole


class NearestNeighbours:
    """The k nearest references of each query, by |a - b|, whatever their order and blocks.

    The product of centred vectors gives a lower bound of every squared distance (`lower_bound`),
    and every pair whose bound is not above the k-th distance so far is recomputed as
    sum (a - b)^2. So no neighbour is missed; duplicates and near-duplicates only take longer.

    queries: [N, D] float32, on any device. k >= 1. exclude_self: reference i is no neighbour of
    query i; first_query is the index of queries[0]. block_bytes: bound of temporary memory
    (more only if a single pair needs more). product: float32, or bfloat16, which is faster where
    the hardware has it; a coarser product proposes more pairs, and the result has the same bits.
    The queries are stored twice: as they are, and in the product's format.
    Raises ValueError for NaN, infinite or huge values (|a|^2 > 5e36), and other shapes."""

    def __init__(
        self,
        queries: Tensor,
        k: int,
        *,
        exclude_self: bool = False,
        first_query: int = 0,
        block_bytes: int = 2**28,
        product: torch.dtype = torch.float32,
    ) -> None:
        if k < 1:
            raise ValueError(f"k: found {k}; choose 1 or more")
        if block_bytes < 1:
            raise ValueError(f"block_bytes: found {block_bytes}; choose 1 or more")
        if product not in (torch.float32, torch.bfloat16):
            raise ValueError(f"product: found {product}; choose float32 or bfloat16")
        check_vectors(queries, "queries")
        self._queries, self._k, self._product = queries.detach(), k, product
        self._exclude_self, self._first_query = exclude_self, first_query
        # Half of the memory is for a block of references in the product's format, half for pairs
        # (bound, masks, keys).
        dim = max(queries.shape[1], 1)
        self._columns = max(1, min(block_bytes // (16 * dim), 4096))
        self._rows = max(1, block_bytes // (64 * self._columns))
        # Distances do not depend on the centre; with a near one the bound is tight.
        self._centre = (
            self._queries.mean(0) if len(queries) else queries.new_zeros(queries.shape[1])
        )
        self._side = prepare(self._queries, self._centre, product)
        # MPS cannot sort 64-bit integers on every macOS.
        home = torch.device("cpu") if queries.device.type == "mps" else queries.device
        self._keys = torch.full((len(queries), k), EMPTY, dtype=torch.int64, device=home)

    def update(self, references: Tensor, first_index: int) -> None:
        """Take references [M, D] (float32, same device) of the indices first_index, ... .

        Each index once; ascending blocks are the fastest."""
        check_vectors(references, "references")
        if references.shape[1] != self._queries.shape[1]:
            columns = references.shape[1]
            raise ValueError(f"references: found {columns} columns; give {self._queries.shape[1]}")
        if not 0 <= first_index <= 2**INDEX_BITS - len(references):
            raise ValueError(f"first_index: found {first_index}; choose 0 to 2^32 - M")
        with torch.no_grad(), full_float32(self._queries.device):
            for start in range(0, len(references), self._columns):
                block = references[start : start + self._columns]
                side = prepare(block, self._centre, self._product)
                for row in range(0, len(self._queries), self._rows):
                    rows = slice(row, row + self._rows)
                    self._update_tile(rows, block, side, first_index + start)

    def result(self, complete: bool = True) -> tuple[Tensor, Tensor]:
        """Squared distances [N, k'] float32, ascending, and indices [N, k'] int64.

        Equal distances: the smaller index first. k' = min(k, references), without oneself.
        Not complete: k' = k, and where there are fewer neighbours the distance is infinite."""
        keys = self._keys
        if complete:
            keys = keys[:, (keys < EMPTY).all(0)]
        device = self._queries.device
        return key_distance(keys).to(device), key_index(keys).to(device)

    def _update_tile(self, rows: slice, block: Tensor, side: Side, first: int) -> None:
        queries, keys = self._queries[rows], self._keys[rows]  # a view: merging writes through
        bound = lower_bound(self._side[rows], side)  # [n, m]
        if self._exclude_self:
            offset = rows.start + self._first_query - first
            itself = torch.arange(len(queries), device=bound.device) + offset  # [n], its column
            inside = (itself >= 0) & (itself < len(block))
            bound[inside, itself[inside]] = torch.inf

        rest = self._open(bound, keys)
        if int(rest.count_nonzero()) > FEW * self._k * len(queries):
            # First the most likely ones, so that the limit is low for all others.
            likely = bound.topk(min(self._k, len(block)), largest=False).indices  # [n, min(k, m)]
            i, place = self._open(bound.gather(1, likely), keys).nonzero(as_tuple=True)
            self._refine(queries, block, i, likely[i, place], keys, first)
            bound.scatter_(1, likely, torch.inf)
            rest = self._open(bound, keys)
        self._leave_out_later_copies(rest, keys, first)
        i, j = rest.nonzero(as_tuple=True)
        dense = i.bincount(minlength=len(queries)) * DENSE > len(block)  # [n]
        if dense.any():
            column = torch.arange(first, first + len(block), device=bound.device)  # [m]
            for some in dense.nonzero().flatten().split(self._rows):
                squares = torch.where(rest[some], all_distances(queries[some], block), torch.inf)
                self._merge(some, to_keys(squares, column).to(keys.device), keys)
            i, j = i[~dense[i]], j[~dense[i]]
        self._refine(queries, block, i, j, keys, first)

    def _open(self, bound: Tensor, keys: Tensor) -> Tensor:
        """Which pairs [n, m] may still be among the k nearest."""
        # The distance that the bound is compared with was itself rounded once.
        limit = key_distance(keys[:, -1:]) * (1 + 4 * UNIT)  # [n, 1]
        limit = limit.clamp(max=LARGEST_FLOAT)  # excluded pairs have an infinite bound
        return bound <= limit.to(bound.device)

    def _leave_out_later_copies(self, rest: Tensor, keys: Tensor, first: int) -> None:
        """Where all k distances are 0, which is common, only a smaller index is better."""
        last = keys[:, -1]
        rows = (key_distance(last) == 0).nonzero().flatten()
        if len(rows):
            index = torch.arange(first, first + rest.shape[1], device=keys.device)  # [m]
            earlier = index < key_index(last[rows])[:, None]  # [r, m]
            rows = rows.to(rest.device)
            rest[rows] &= earlier.to(rest.device)

    def _refine(self, a: Tensor, b: Tensor, i: Tensor, j: Tensor, keys: Tensor, first: int) -> None:
        """Recompute the pairs of rows i [P] (ascending) of a and j [P] of b; merge into keys."""
        if not len(i):
            return
        squares = pair_distances(a, b, i, j)
        rows, counts = i.unique_consecutive(return_counts=True)  # [r]
        # A table with a row for each query: pair p is number `place` of its row.
        row = torch.arange(len(rows), device=i.device).repeat_interleave(counts)  # [P]
        place = torch.arange(len(i), device=i.device) - (counts.cumsum(0) - counts)[row]
        table = torch.full((len(rows), int(counts.max())), EMPTY, device=i.device)
        table[row, place] = to_keys(squares, j + first)
        self._merge(rows, table.to(keys.device), keys)

    def _merge(self, rows: Tensor, new: Tensor, keys: Tensor) -> None:
        """Keep the k nearest of keys[rows] and new [r, c]."""
        rows = rows.to(keys.device)
        both = torch.cat([keys[rows], new], dim=1)
        keys[rows] = both.topk(self._k, largest=False, sorted=True).values


def nearest_neighbours(
    queries: Tensor,
    references: Tensor,
    k: int,
    *,
    exclude_self: bool = False,
    product: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """`NearestNeighbours` of references [M, D] in one block: squared distances, indices."""
    nearest = NearestNeighbours(queries, k, exclude_self=exclude_self, product=product)
    nearest.update(references, 0)
    return nearest.result()


def merge_nearest(parts: Iterable[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of several results: squared distances [N, k] float32, indices [N, k] int64.

    parts: (squared distances [N, k_i], indices [N, k_i]) of the same queries to disjoint
    references; infinite distances are no neighbours. The same bits as of one search.
    Raises ValueError where there are fewer than k neighbours."""
    keys = torch.cat([to_keys(squares, indices) for squares, indices in parts], dim=1)
    if keys.shape[1] < k:
        raise ValueError(f"parts: found {keys.shape[1]} neighbours; give {k} or more")
    keys = keys.topk(k, largest=False, sorted=True).values
    if (keys >= EMPTY).any():
        raise ValueError(f"parts: found fewer than {k} neighbours for a query; give more")
    return key_distance(keys), key_index(keys)


def to_keys(squares: Tensor, index: Tensor) -> Tensor:
    """One integer a neighbour, int64: squared distances [...] of the references index [...]."""
    # Minus zero has another bit pattern than zero.
    return ((squares + 0.0).view(torch.int32).long() << INDEX_BITS) + index


def key_distance(keys: Tensor) -> Tensor:
    """The squared distances of keys, float32."""
    return (keys >> INDEX_BITS).int().view(torch.float32)


def key_index(keys: Tensor) -> Tensor:
    """The reference indices of keys, int64."""
    return keys & (2**INDEX_BITS - 1)
