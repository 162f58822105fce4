"""The circle in the plane: its points, and the exact model of K of them, in closed form.

Noise explodes the variance: x_t = x_0 + sqrt(t) z with z standard normal and 0 < t <= 1, so that
t is the variance of the noise on each axis (the published sigma is 1), and beta = 1 / (2 t).
The energy is E(x) = -(1/beta) log mean_m exp(-beta |x - y_m|^2). With one pattern it is the squared
distance to it. The mean over patterns makes energies comparable between different K; the sum, as
published, is lower by log(K) / beta."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TILE_ENTRIES = 2**20  # pairs of a point and a pattern that are computed together


def circle_points(count: int, seed: int) -> Tensor:
    """count points, uniform on the circle of radius 1: [count, 2] float64."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(count, generator=generator).double()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def circle_energy(radius: Tensor, beta: float) -> Tensor:
    """E(R) = R^2 + 1 - (1/beta) ln I_0(2 beta R): infinitely many patterns on the circle.

    radius: R >= 0, float64, any shape; beta > 0. Written with I_0(z) exp(-z), which no beta lets
    overflow: E = (R - 1)^2 - (1/beta) ln(I_0(z) exp(-z)), z = 2 beta R.
    Source: Pham et al. 2025, arXiv 2505.21777 (the toy model)."""
    return (radius - 1).square() - torch.special.i0e(2 * beta * radius).log() / beta


def energy_of(log_density: Tensor, t: float) -> Tensor:
    """E = -2 t (log p_t + log(2 pi t)): the energy of a density in nats per unit area."""
    return -2 * t * (log_density + math.log(2 * math.pi * t))


class PatternMixture:
    """p_t(x) = mean_m N(x; y_m, t I) over K patterns y_m of the plane.

    patterns: [K, 2], K >= 1. x is [B, 2], and t a float or [B], above 0. Everything is computed
    in float64, differentiably; raises ValueError for other patterns and times."""

    def __init__(self, patterns: Tensor) -> None:
        if patterns.dim() != 2 or patterns.shape[1] != 2 or not len(patterns):
            raise ValueError(f"patterns: found {list(patterns.shape)}; give [K, 2], K >= 1")
        if not patterns.isfinite().all():
            raise ValueError("patterns: found NaN or infinite values; give finite ones")
        self.patterns = patterns.double()

    def log_density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x) in nats, [B]: log mean_m exp(-|x - y_m|^2 / (2 t)) - log(2 pi t)."""
        t = _column(t, x)

        def log_density(x: Tensor, t: Tensor) -> Tensor:
            return self._log_mean(x, 1 / (2 * t)) - (2 * math.pi * t).squeeze(1).log()

        return self._by_tiles(log_density, x, t)

    def energy(self, x: Tensor, beta: float) -> Tensor:
        """E(x) = -(1/beta) log mean_m exp(-beta |x - y_m|^2), [B]; the score is -beta dE/dx.

        Source: Ambrogioni 2023, arXiv 2309.17290, with the mean for the sum."""
        beta_column = _column(beta, x)
        return self._by_tiles(lambda x, b: -self._log_mean(x, b) / b.squeeze(1), x, beta_column)

    def denoised(self, x: Tensor, t: float | Tensor) -> Tensor:
        """D(x, t) = E[x_0 | x_t = x], [B, 2].

        sum_m w_m y_m, w = softmax_m(-|x - y_m|^2 / (2 t))"""

        def mean(x: Tensor, t: Tensor) -> Tensor:
            return self._logits(x, 1 / (2 * t)).softmax(1) @ self.patterns

        return self._by_tiles(mean, x, _column(t, x))

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """grad log p_t(x) = (D(x, t) - x) / t, [B, 2]."""
        return (self.denoised(x, t) - x.double()) / _column(t, x)

    def sample(self, count: int, t: float, seed: int) -> Tensor:
        """count points of p_t, [count, 2] float64: random patterns plus noise of variance t."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.patterns), (count,), generator=generator)
        noise = torch.randn(count, 2, generator=generator).double()
        device = self.patterns.device
        return self.patterns[chosen.to(device)] + math.sqrt(t) * noise.to(device)

    def _logits(self, x: Tensor, beta: Tensor) -> Tensor:
        """-beta |x - y_m|^2, [b, K], for beta [b, 1]. Direct differences: nothing cancels."""
        squares = (x[:, :1] - self.patterns[:, 0]).square()
        return -beta * (squares + (x[:, 1:] - self.patterns[:, 1]).square())

    def _log_mean(self, x: Tensor, beta: Tensor) -> Tensor:
        return self._logits(x, beta).logsumexp(1) - math.log(len(self.patterns))

    def _by_tiles(self, work, x: Tensor, column: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != 2:
            raise ValueError(f"x: found {list(x.shape)}; give [B, 2]")
        rows = max(1, TILE_ENTRIES // len(self.patterns))
        tiles = zip(x.double().split(rows), column.split(rows), strict=True)
        return torch.cat([work(*tile) for tile in tiles])


def _column(t: float | Tensor, x: Tensor) -> Tensor:
    """A time (or beta) for each row of x, [B, 1] float64."""
    t = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    if t.shape not in ((), (len(x),)) or not (t > 0).all():
        raise ValueError(f"t: found {t.tolist() if t.dim() == 0 else t.shape}; give values above 0")
    return t.expand(len(x))[:, None]
