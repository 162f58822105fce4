"""Both ends of the spectrum and the trace of many symmetric matrices, from products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOST = 1e-12  # of a block's largest norm: what is left of a direction below it is rounding
GROWTH = 1.25  # of the basis between two tests of convergence: each costs m^3
FIELDS = ("eigenvalues", "residuals", "trace", "trace_error", "asymmetry")

# (which [P], v [P, p, D]) -> (J v, J^T v): p vectors for each of the P matrices named by `which`.
Products = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Spectra:
    """Of N matrices J [D, D] with symmetric parts S = (J + J^T) / 2 and A = (J - J^T) / 2.

    All float64: m eigenvalues of S ascending [N, m] and the norms |S u - theta u| [N, m] of their
    vectors (unit); tr S and its standard error [N]; |A|_F / |J|_F [N], in 0 .. 1."""

    eigenvalues: Tensor
    residuals: Tensor
    trace: Tensor
    trace_error: Tensor
    asymmetry: Tensor


def whole_spectra(jacobians: Tensor) -> Spectra:
    """Everything of matrices J [N, D, D] that are known whole; nothing is estimated."""
    j = jacobians.double()
    symmetric, rest = (j + j.mT) / 2, (j - j.mT) / 2
    values = torch.linalg.eigvalsh(symmetric)
    trace = j.diagonal(dim1=1, dim2=2).sum(1)
    asymmetry = _share(rest.square().sum((1, 2)), symmetric.square().sum((1, 2)))
    return Spectra(values, torch.zeros_like(values), trace, torch.zeros_like(trace), asymmetry)


def both_ends(
    products: Products, starts: Tensor, probes: Tensor, tolerance: float, most: int | None = None
) -> Spectra:
    """The b smallest and b largest eigenvalues of N matrices, m = 2 b, by block Lanczos.

    starts [N, b, D], random: blocks of b find an eigenvalue up to b times. The blocks are made
    orthogonal to all earlier ones, and Rayleigh-Ritz is applied to their span, until all 2 b
    residuals are at most `tolerance` times the largest |theta| found, or the basis holds `most`
    vectors (default D, which is exact). A matrix that is done leaves, so that its answer depends
    on itself alone.
    probes [N, p, D] of random signs, p >= 2: for the trace, see `complement_trace`.
    Raises ValueError unless 2 b < most. Source: Golub and Underwood 1977, The block Lanczos
    method for computing eigenvalues."""
    dim, block = starts.shape[2], starts.shape[1]
    most = min(most or dim, dim)
    if 2 * block >= most:
        raise ValueError(f"starts: found blocks of {block}; give fewer than {most} / 2")
    active = torch.arange(len(starts))
    basis = images = starts.new_zeros(len(starts), 0, dim, dtype=torch.float64)
    new, check = _orthonormal(basis, starts.double()), 2 * block
    finished: list[tuple[Tensor, Spectra]] = []
    while True:
        image = _mean(products(active, new))
        basis, images = torch.cat([basis, new], 1), torch.cat([images, image], 1)
        size = basis.shape[1]
        if size >= check:
            check = min(most, math.ceil(GROWTH * size))
            values, residuals = rayleigh_ritz(basis, images, block)
            ended = residuals.amax(1) <= tolerance * values.abs().amax(1)
            ended |= size == most
            which, subspace = active[ended.cpu()], (basis[ended], images[ended])
            if len(which):
                estimates = complement_trace(products, which, *subspace, probes[which])
                finished.append((which, Spectra(values[ended], residuals[ended], *estimates)))
            active = active[~ended.cpu()]
            if not len(active):
                break
            basis, images, image = (x[~ended] for x in (basis, images, image))
        new = _next_block(basis, image[:, : most - size])
    return _in_order(finished)


def rayleigh_ritz(basis: Tensor, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest and largest Ritz values theta of S, and |S u - theta u|: [P, 2 count].

    basis Q [P, m, D] with orthonormal rows, images Q S; m >= 2 count."""
    projected = basis @ images.mT  # [P, m, m]
    values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
    ends = [*range(count), *range(basis.shape[1] - count, basis.shape[1])]
    values, vectors = values[:, ends], vectors[:, :, ends].mT  # [P, 2 count, m]
    residuals = vectors @ images - values[..., None] * (vectors @ basis)
    return values, residuals.norm(dim=2)


def complement_trace(
    products: Products, which: Tensor, basis: Tensor, images: Tensor, probes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """tr S, its standard error and |A|_F / |J|_F, each [P]: Hutch++ with a given basis.

        tr S = tr(Q S Q^T) + (D - m) c + E[h^T (S - c I) h],   h = (I - Q^T Q) g

    basis Q [P, m, D] with orthonormal rows, images Q S; probes g [P, p, D] with independent signs
    that Q does not depend on, so that the estimate is unbiased for any c. It is the median Ritz
    value: where most eigenvalues are alike, as around a memorized sample, the error then vanishes.
    The error is that of the mean over p >= 2 probes. The same products give the asymmetry, as
    |A|_F^2 = E|A g|^2.
    Source: Meyer et al. 2021, arXiv 2010.09649, algorithm 1; Hutchinson 1990. The c is ours."""
    forward, backward = products(which, probes)
    s_g, a_g = (forward + backward) / 2, (forward - backward) / 2
    projected = basis @ images.mT  # [P, m, m]
    c = torch.linalg.eigvalsh((projected + projected.mT) / 2).median(1).values[:, None]
    inside = probes.double() @ basis.mT  # [P, p, m]
    h = probes.double() - inside @ basis
    rest = (h * (s_g - inside @ images)).sum(2) - c * h.square().sum(2)  # [P, p]
    outside = (basis.shape[2] - basis.shape[1]) * c.squeeze(1)
    trace = projected.diagonal(dim1=1, dim2=2).sum(1) + outside + rest.mean(1)
    error = rest.std(1) / math.sqrt(probes.shape[1])
    return trace, error, _share(a_g.square().sum((1, 2)), s_g.square().sum((1, 2)))


def _share(rest: Tensor, symmetric: Tensor) -> Tensor:
    """|A|_F / |J|_F from the squares of A and S, for |J|^2 = |S|^2 + |A|^2; 0 for J = 0."""
    whole = rest + symmetric
    return torch.where(whole > 0, rest / whole, 0.0).sqrt()


def _mean(products: tuple[Tensor, Tensor]) -> Tensor:
    """S v from J v and J^T v."""
    forward, backward = products
    return (forward + backward) / 2


def _next_block(basis: Tensor, image: Tensor) -> Tensor:
    """Orthonormal rows [P, r, D] that span what image [P, r, D] adds to the basis.

    Where it adds less than r directions (an invariant subspace) random ones take the place."""
    scale = image.norm(dim=2).amax(1)[:, None]  # [P, 1]
    _, sizes, rows = torch.linalg.svd(_away(basis, _away(basis, image)), full_matrices=False)
    # The basis holds blocks in an order that is the same for all: a place is a seed.
    generator = torch.Generator().manual_seed(basis.shape[1])
    fresh = torch.randn(rows.shape[1:], generator=generator, dtype=torch.float64).to(rows.device)
    return _orthonormal(basis, torch.where((sizes > LOST * scale)[..., None], rows, fresh))


def _orthonormal(basis: Tensor, rows: Tensor) -> Tensor:
    """Rows [P, r, D] made orthogonal to the basis and to each other, twice against rounding."""
    for _ in range(2):
        rows = torch.linalg.qr(_away(basis, rows).mT).Q.mT
    return rows


def _away(basis: Tensor, rows: Tensor) -> Tensor:
    """(I - Q^T Q) of each row."""
    return rows - (rows @ basis.mT) @ basis


def _in_order(finished: list[tuple[Tensor, Spectra]]) -> Spectra:
    """The spectra in the order of the matrices."""
    order = torch.cat([which for which, _ in finished]).argsort()
    parts = ([getattr(part, name) for _, part in finished] for name in FIELDS)
    return Spectra(*(torch.cat(part)[order.to(part[0].device)] for part in parts))
