"""The Hessian of the energy -log p_t at a sample, and how many dimensions the data have there.

Everything is taken at x_t = sqrt(alpha_bar_t) x, the sample as it is at time t without noise:
there FLIPD is defined, and there a memorized sample is at the bottom of its well.

The Hessian is H = S / sqrt(1 - alpha_bar_t), S = (J + J^T) / 2, with J the Jacobian of eps(x, t)
at x_t. A network need not be a gradient field: J then has an antisymmetric part too, whose share
of |J|_F is reported. In units of the noise, (1 - alpha_bar_t) H is I where noise is all there is,
and has an eigenvalue (1 - alpha_bar_t) / (alpha_bar_t tau^2 + 1 - alpha_bar_t) along a direction
in which the data vary as a Gaussian of variance tau^2."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.denoiser import Denoiser
from models.schedule import add_noise, coefficients
from utils.stages.curvature.lanczos import Spectra, both_ends, whole_spectra

FLAT = 0.5  # of (1 - alpha_bar_t) lambda: below it the data vary more than the noise does
UNKNOWN = -1  # a count that the ends of a spectrum do not give, or that was not requested


def points_at(x: Tensor, t: Tensor, denoiser: Denoiser) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x for x [N, C, H, W] and t int64 [N] on the CPU, like x."""
    return coefficients(denoiser.schedule.alpha_bar_at(t), x)[0] * x


class Field:
    """eps around N points x_t [N, C, H, W] at times t (int64 [N], on the CPU), `batch` rows a call.

    x_t lies where the denoiser takes it, in the format to compute in: float32 for a network,
    float64 for a closed form. Products are float64, and lie there too (for MPS, which has no
    float64, on the CPU)."""

    def __init__(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"batch: found {batch}; choose 1 or more")
        self.denoiser, self.x_t, self.t, self.batch = denoiser, x_t, t, batch
        self.home = torch.device("cpu") if x_t.device.type == "mps" else x_t.device
        self.dim = x_t[0].numel()

    def products(self, which: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """J v and J^T v, each [P, p, D] float64: p vectors for each of the points `which` [P].

        Raises ValueError where they are not finite."""
        rows = which.repeat_interleave(v.shape[1])
        parts = zip(rows.split(self.batch), v.flatten(0, 1).split(self.batch), strict=True)
        pairs = [(self._forward(r, part), self._backward(r, part)) for r, part in parts]
        forward, backward = (
            torch.cat(parts).reshape(v.shape) for parts in zip(*pairs, strict=True)
        )
        return forward, backward

    def jacobians(self) -> Tensor:
        """J of every point, [N, D, D] float64: row i, column j is d eps_i / d x_j.

        Raises ValueError where they are not finite."""
        pairs = torch.arange(len(self.x_t) * self.dim)
        columns = []
        for part in pairs.split(self.batch):
            v = torch.zeros(len(part), self.dim, device=self.home)
            v[torch.arange(len(part)), part % self.dim] = 1
            columns.append(self._forward(part // self.dim, v))
        return torch.cat(columns).reshape(-1, self.dim, self.dim).mT

    def eps(self) -> Tensor:
        """eps at each point, [N, D] float64. Raises ValueError where it is not finite."""
        parts = zip(self.x_t.split(self.batch), self.t.split(self.batch), strict=True)
        with torch.no_grad():
            return torch.cat([self._found(self.denoiser.eps(*part)) for part in parts])

    def _forward(self, rows: Tensor, v: Tensor) -> Tensor:
        x, eps = self._at(rows)
        with _plain_attention(), warnings.catch_warnings():
            # The first call of a process loads what torch has scripted by means that it deprecates.
            warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
            return self._found(torch.func.jvp(eps, (x,), (self._like(x, v),))[1])

    def _backward(self, rows: Tensor, v: Tensor) -> Tensor:
        x, eps = self._at(rows)
        with _plain_attention():
            pull = torch.func.vjp(eps, x)[1]
            return self._found(pull(self._like(x, v))[0])

    def _at(self, rows: Tensor):
        """x_t of these points, and eps as a function around it."""
        return self.x_t[rows.to(self.x_t.device)], partial(_eps, self.denoiser, self.t[rows])

    @staticmethod
    def _like(x: Tensor, v: Tensor) -> Tensor:
        return v.to(x.dtype).to(x.device).reshape(x.shape)

    def _found(self, images: Tensor) -> Tensor:
        if not images.isfinite().all():
            raise ValueError("eps or its Jacobian: found NaN or infinite values")
        return images.detach().flatten(1).to(self.home).double()


def _eps(denoiser: Denoiser, t: Tensor, x: Tensor) -> Tensor:
    return denoiser.eps(x, t)


def _plain_attention():
    """Attention as its formula: the fused kernels know no forward derivative."""
    return sdpa_kernel(SDPBackend.MATH)


@dataclass(frozen=True, eq=False)
class Curvatures:
    """The curvature at N points, all on the CPU: float64 [N, m] or [N], flat int64 [N].

    Eigenvalues ascending and residuals (the norms |H u - lambda u|) in the unit of H; trace and
    its standard error; |A|_F / |J|_F; flat directions; FLIPD and its standard error."""

    eigenvalues: Tensor
    residuals: Tensor
    trace: Tensor
    trace_error: Tensor
    asymmetry: Tensor
    flat: Tensor
    flipd: Tensor
    flipd_error: Tensor


def full_curvatures(field: Field) -> Curvatures:
    """Of every eigenvalue, m = D, from whole Jacobians: D products a point."""
    return _curvatures(field, whole_spectra(field.jacobians()))


def end_curvatures(
    field: Field, starts: Tensor, probes: Tensor, tolerance: float, most: int | None = None
) -> Curvatures:
    """Of the b smallest and b largest eigenvalues, m = 2 b; arguments as in `both_ends`."""
    starts, probes = (v.to(field.home) for v in (starts, probes))
    return _curvatures(field, both_ends(field.products, starts, probes, tolerance, most))


def _curvatures(field: Field, spectra: Spectra) -> Curvatures:
    alpha_bar = field.denoiser.schedule.alpha_bar_at(field.t)  # [N]
    noise, squares = 1 - alpha_bar, field.eps().square().sum(1).cpu()
    sigma = noise.sqrt()
    values, residuals = (x.cpu() / sigma[:, None] for x in (spectra.eigenvalues, spectra.residuals))
    trace, error = (x.cpu() / sigma for x in (spectra.trace, spectra.trace_error))
    return Curvatures(
        eigenvalues=values,
        residuals=residuals,
        trace=trace,
        trace_error=error,
        asymmetry=spectra.asymmetry.cpu(),
        flat=flat_directions(values, alpha_bar, field.dim),
        flipd=flipd(trace, squares, alpha_bar, field.dim),
        flipd_error=noise * error,
    )


def flipd(trace: Tensor, squares: Tensor, alpha_bar: Tensor, dim: int) -> Tensor:
    """The local intrinsic dimension FLIPD at x_t = sqrt(alpha_bar_t) x, [N].

        D + (1 - alpha_bar_t) (tr grad s + |s|^2) = D - (1 - alpha_bar_t) tr H + |eps|^2

    trace: tr H [N]; squares: |eps|^2 [N]; alpha_bar [N]. About 0 .. D for a sound model, but not
    bounded. Source: Kamkari et al. 2024, arXiv 2406.03537, section 3."""
    return dim - (1 - alpha_bar) * trace + squares


def flat_directions(eigenvalues: Tensor, alpha_bar: Tensor, dim: int) -> Tensor:
    """How many eigenvalues of H have (1 - alpha_bar_t) lambda < 1/2: int64 [N].

    Along such a direction the data vary more than the noise does; negative ones, between
    patterns, count too. eigenvalues [N, m] ascending: all D, or the m / 2 smallest and largest;
    then the count is -1, not known, where all of the smallest are flat."""
    flat = (1 - alpha_bar)[:, None] * eigenvalues < FLAT  # [N, m]
    m = eigenvalues.shape[1]
    if m == dim:
        return flat.sum(1)
    count = flat[:, : m // 2].sum(1)
    return torch.where(count < m // 2, count, UNKNOWN)


@torch.no_grad()
def normal_bundle(denoiser: Denoiser, x: Tensor, t: int, noises: Iterable[Tensor]) -> int:
    """The dimension 0 .. D - 1 at x [C, H, W] by the scores around it: they span its normal space.

        x_t^(i) ~ N(sqrt(alpha_bar_t) x, (1 - alpha_bar_t) I),   i = 1 .. M
        D - argmax_j (s_j - s_(j + 1)),   j = 1 .. D - 1

    with s_1 >= ... >= s_D the singular values of the M scores, as rows. It asks for a small t and
    a sample where the score vanishes: what all scores have in common is one singular value, which
    is the largest gap, and thus the answer D - 1, where it does not. noises: standard normal
    [b, C, H, W] float32 on the CPU, one call of the model each, M >= D together. Raises ValueError
    for fewer, for D < 2 and where a score is not finite.
    Source: Stanczuk et al. 2022, arXiv 2212.12611, algorithm 1."""
    dim, total = x.numel(), 0
    home = torch.device("cpu") if x.device.type == "mps" else x.device
    gram = torch.zeros(dim, dim, dtype=torch.float64, device=home)
    for noise in noises:
        x_t = add_noise(x, noise.to(x.dtype).to(x.device), denoiser.schedule.alpha_bar_at(t))
        scores = denoiser.score(x_t, t).flatten(1).to(home).double()
        if not scores.isfinite().all():
            raise ValueError("score: found NaN or infinite values")
        gram += scores.T @ scores
        total += len(noise)
    if dim < 2 or total < dim:
        raise ValueError(f"noises: found {total}; give {max(dim, 2)} or more, D = {dim}")
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)  # s_1 .. s_D
    return dim - 1 - int((values[:-1] - values[1:]).argmax())
