"""The noise schedule of DDPM in float64, and conversions between eps, x_0 and the score."""

from __future__ import annotations

import torch
from torch import Tensor


class Schedule:
    """beta_t linear from 1e-4 to 0.02, t = 0 .. T - 1; alpha_bar_t = prod_{s <= t} (1 - beta_s).

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Kept in float64: in float32
    sqrt(1 - alpha_bar_0) is off by 8e-5 (relative). Index -1 means no noise, alpha_bar = 1.
    Raises ValueError for T < 2. Source: Ho et al. 2020, arXiv 2006.11239, eq. 4 and section 4."""

    def __init__(self, timesteps: int = 1000) -> None:
        if timesteps < 2:
            raise ValueError(f"timesteps: found {timesteps}; 2 or more are needed")
        self.timesteps = timesteps
        self.beta = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)  # [T]
        self.alpha_bar = torch.cumprod(1 - self.beta, dim=0)  # [T]

    def alpha_bar_at(self, t: Tensor | int) -> Tensor:
        """alpha_bar at t in -1 .. T - 1, float64, shaped like t (on the CPU)."""
        t = torch.as_tensor(t, device="cpu")
        padded = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar])
        return padded[t + 1]

    def times(self, steps: int) -> list[int]:
        """`steps` times for sampling, from T - 1 down, evenly spaced, the last one 0.

        All of T - 1 .. 0 for steps = T. Raises ValueError outside 1 .. T."""
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps: found {steps}; choose 1 to {self.timesteps}")
        if steps == 1:
            return [self.timesteps - 1]
        grid = torch.linspace(self.timesteps - 1, 0, steps, dtype=torch.float64)
        return grid.round().long().tolist()


def add_noise(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

    x_0, eps: [B, ...]; alpha_bar: a scalar or [B], in (0, 1]. Returns x_t like x_0."""
    signal, noise = coefficients(alpha_bar, x_0)
    return signal * x_0 + noise * eps


def predict_x0(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), shapes as in `add_noise`."""
    signal, noise = coefficients(alpha_bar, x_t)
    return (x_t - noise * eps) / signal


def predict_eps(x_t: Tensor, x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """eps = (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar); alpha_bar < 1."""
    signal, noise = coefficients(alpha_bar, x_t)
    return (x_t - signal * x_0) / noise


def score(eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """s(x_t, t) = grad log p_t(x_t) = -eps / sqrt(1 - alpha_bar); alpha_bar < 1."""
    return -eps / coefficients(alpha_bar, eps)[1]


def coefficients(alpha_bar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), rounded once from float64, to multiply `like`."""
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64, device="cpu")
    return factor(alpha_bar.sqrt(), like), factor((1 - alpha_bar).sqrt(), like)


def factor(values: Tensor, like: Tensor) -> Tensor:
    """A scalar, or one value for each row (float64 [B]), to multiply like [B, ...]."""
    shape = values.shape + (1,) * (like.dim() - 1) if values.dim() else ()
    return values.reshape(shape).to(like.device, like.dtype)
