"""Squared distances of pairs of vectors: bounded from below by a product, or as differences."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from torch import Tensor

UNIT = 2.0**-24  # largest relative error of one rounding to float32
HALF_UNIT = 2.0**-8  # and of one to bfloat16
LARGEST = torch.finfo(torch.float32).max / 64  # of |a|^2; below it no sum here overflows
TINY = torch.finfo(torch.float32).tiny  # below it numbers may be taken for zero
HALF_CHUNK = 16  # pieces of a sum in one product in bfloat16, each of which rounds its output
AT_ONCE = 2**19  # numbers of a block of differences, which then stays in a processor's cache


def check_vectors(vectors: Tensor, name: str) -> None:
    """Raises ValueError unless vectors are [N, D] float32, finite and not huge."""
    if vectors.ndim != 2 or vectors.dtype != torch.float32:
        shape = list(vectors.shape)
        raise ValueError(f"{name}: found {vectors.dtype} {shape}; give float32 [N, D]")
    if not vectors.numel():
        return
    if not (vectors.norm(dim=1) < LARGEST**0.5).all():  # NaN is not below either
        raise ValueError(f"{name}: found NaN, infinite or huge values; give finite ones")


# Bounds


@dataclass(frozen=True)
class Side:
    """Centred vectors as the product takes them, and what bounds its error."""

    vectors: Tensor  # [N, D] in the product's format
    squares: Tensor  # |a|^2 [N] before that rounding
    error: Tensor  # |a - a^| [N], of the rounded ones
    norm: Tensor  # |a^| [N] at most

    def __getitem__(self, rows: slice) -> Side:
        parts = (self.vectors, self.squares, self.error, self.norm)
        return Side(*(part[rows] for part in parts))


def prepare(x: Tensor, centre: Tensor, product: torch.dtype = torch.float32) -> Side:
    """x [N, D] less centre [D], in the product's format."""
    n, dim = x.shape
    side = Side(torch.empty(n, dim, dtype=product, device=x.device), *x.new_zeros(3, n))
    chunk, rows = chunk_size(dim), rows_at_once(dim)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        centred = x[part] - centre
        side.squares[part] = squared_norms(centred, chunk)
        side.vectors[part] = centred
        if product != torch.float32:
            rounding = centred.sub_(side.vectors[part])
            # The product may take the smallest numbers for zero, and so may this sum of squares.
            side.error[part] = squared_norms(rounding, chunk).sqrt() + (dim * TINY) ** 0.5
    torch.add(side.squares.sqrt(), side.error, out=side.norm)  # |a^| <= |a| + |da|
    return side


def lower_bound(a: Side, b: Side) -> Tensor:
    """A bound from below [n, m] of |a - b|^2, by one product of the two sides.

    In float32, with e = `bound_factor(D)`:

        (1 - e) (|a|^2 + |b|^2) - 2 a.b <= |a - b|^2

    In bfloat16, of a = a^ + da and b = b^ + db, the product is a^.b^, and by Cauchy-Schwarz

        |a.b - a^.b^| <= |a^| |db| + |da| |b^| + |da| |db|

    to which come the rounding of the product's output, u |a^| |b^| with u = 2^-8, and its sums in
    float32, e |a^| |b^|. Source: Higham 2002, Accuracy and Stability of Numerical Algorithms,
    sections 2.2 and 3.1."""
    dim = a.vectors.shape[1]
    chunk = chunk_size(dim)
    scale = 1 - bound_factor(dim)
    # The last term: products below float32's smallest number become zero.
    bound = scale * (a.squares[:, None] + b.squares[None]) - 4 * dim * TINY
    if a.vectors.dtype == torch.float32:
        for start in range(0, dim, chunk):
            part = slice(start, start + chunk)
            bound.addmm_(a.vectors[:, part], b.vectors[:, part].T, alpha=-2)
        return bound
    long = HALF_CHUNK * chunk
    for start in range(0, dim, long):
        part = slice(start, start + long)
        bound.sub_(a.vectors[:, part] @ b.vectors[:, part].T, alpha=2)
    # Norms and these products are rounded too, by less than a thousandth.
    share = HALF_UNIT + bound_factor(dim, HALF_CHUNK)
    left = torch.stack([a.norm, a.error], dim=1) * 1.001  # [n, 2]
    right = torch.stack([b.error + share * b.norm, b.norm + b.error])  # [2, m]
    return bound.addmm_(left, right, alpha=-2)


def chunk_size(dim: int) -> int:
    """Length of the pieces of a sum over D: a term then meets about 2 sqrt(D) roundings, not D."""
    return max(256, isqrt(dim))


def bound_factor(dim: int, chunks: int = 1) -> float:
    """e with (1 - e) (|a|^2 + |b|^2) - 2 a.b <= |a - b|^2 as float32 computes it.

    The left side is a sum of |a|^2, |b|^2 and D products. In pieces of c (`chunk_size`, or so many
    `chunks` of it) each term meets at most n = c + D/c + 4 roundings (product, inside its piece,
    one a piece, norms added and scaled), so with gamma_n = n u / (1 - n u), u = 2^-24, in any
    order and with or without fused adds

        error <= gamma_n (|a|^2 + |b|^2)                      of the norms
               + gamma_n 2 sum |a_i b_i|                      of the product,

    and 2 sum |a_i b_i| <= |a|^2 + |b|^2. Centring rounds each coordinate once: |a - b| moves by
    at most u (|a| + |b|), its square by 2 u (|a| + |b|)^2 <= 4 u (|a|^2 + |b|^2), which the
    4 extra roundings below more than cover."""
    chunk = chunk_size(dim) * chunks
    n = chunk + -(-dim // chunk) + 8
    return 2 * n * UNIT / (1 - n * UNIT)


def squared_norms(x: Tensor, chunk: int) -> Tensor:
    """|x|^2 [n], summed in pieces of chunk."""
    whole = x.shape[1] // chunk * chunk
    squares = x.square()
    pieces = squares[:, :whole].unflatten(1, (-1, chunk)).sum(2) if whole else squares[:, :0]
    return pieces.sum(1) + squares[:, whole:].sum(1)


# Differences


def pair_distances(a: Tensor, b: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """|a_i - b_j|^2 [P] float32 of the rows i [P] of a and j [P] of b, as differences.

    Exact up to one rounding to float32 where the device has float64."""
    size = rows_at_once(a.shape[1])
    parts = [slice(start, start + size) for start in range(0, len(i), size)]
    if a.device.type != "cpu":
        blocks = [squared_distances(a[i[part]], b[j[part]]) for part in parts]
        return torch.cat(blocks) if blocks else a.new_empty(0)
    x, y, rows, columns = (tensor.numpy() for tensor in (a, b, i, j))
    # numpy in a thread pool: torch's threads are slower for blocks of this size.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        sums = pool.map(lambda part: _squares(x[rows[part]], y[columns[part]]), parts)
        return torch.from_numpy(np.concatenate([np.empty(0, np.float32), *sums]))


def all_distances(a: Tensor, b: Tensor) -> Tensor:
    """`pair_distances` of every row of a [n, D] to every row of b [m, D]: [n, m]."""
    squares = torch.empty(len(a), len(b), device=a.device)
    size = rows_at_once(a.shape[1])
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    for start in range(0, len(b), size):
        block = b[start : start + size].to(wide)  # once for all rows
        for row in range(len(a)):
            squares[row, start : start + size] = squared_distances(a[row].to(wide), block)
    return squares


def rows_at_once(dim: int) -> int:
    """How many vectors of dim numbers stay in a processor's cache."""
    return max(1, AT_ONCE // max(dim, 1))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|^2 [P] float32 for a [P, D] or [D] and b [P, D], as differences.

    A pair has the same bits in blocks of any size: each row is summed by itself."""
    if a.device.type == "mps":
        return _sum_pieces(a - b)
    if a.device.type == "cpu":
        return torch.from_numpy(_squares(a.numpy(), b.numpy()))
    difference = a.double() - b
    return torch.linalg.vecdot(difference, difference).float()


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _row_sums(np.subtract(a, b, dtype=np.float64)).astype(np.float32)


def _row_sums(x: np.ndarray) -> np.ndarray:
    """sum x^2 [P] of each row of x [P, D] float64.

    In pieces, since einsum's buffer has 8,192 numbers: in a longer row the partial sums, and so the
    bits, would depend on the rows before it."""
    sums = np.zeros(len(x))
    for start in range(0, x.shape[1], 4096):
        part = x[:, start : start + 4096]
        sums += np.einsum("ij,ij->i", part, part)
    return sums


def _sum_pieces(difference: Tensor) -> Tensor:
    """Sum of squares over the last axis in float32; pieces keep the error at a few roundings."""
    pieces = difference.split(chunk_size(difference.shape[-1]), dim=-1)
    return torch.stack([piece.square().sum(-1) for piece in pieces]).sum(0)
