"""The probability flow of noised points: log densities, and points moved along the flow.

With x_t = x_0 + sqrt(t) z the flow is dx/dt = -score(x, t) / 2. It is integrated in the logarithm
of the noise level, l = log sqrt(t), where dx/dl = -t score(x, t) = x - D(x, t) and D is the
denoised point.
Source: Song et al. 2021, arXiv 2011.13456, eqs. 13 and 39."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor, "float | Tensor"], Tensor]  # points [B, 2], time: scores [B, 2]
FLOW_STEPS, DENSITY_STEPS = 20, 100  # Runge-Kutta steps; the divergence is rougher than the score


def with_divergence(score: Score, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """The score at x [B, 2] and its divergence [B], exact, by automatic differentiation."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = score(x, t)
        divergence = torch.zeros_like(x[:, 0])
        for axis in range(x.shape[1]):  # a row's score depends on that row alone: sum over rows
            last = axis == x.shape[1] - 1
            (slope,) = torch.autograd.grad(value[:, axis].sum(), x, retain_graph=not last)
            divergence = divergence + slope[:, axis]
    return value.detach(), divergence


def log_density(
    score: Score,
    log_prior: Callable[[Tensor], Tensor],
    x: Tensor,
    t: float,
    steps: int = DENSITY_STEPS,
) -> Tensor:
    """log p_t(x) in nats, [B] float64 like x [B, 2], 0 < t <= 1.

        log p_t(x) = log p_1(x_1) - integral_t^1 div score(x_s, s) / 2 ds

    along the flow from x at t to x_1 at 1; log_prior(x_1) is log p_1, exact.
    Raises ValueError where scores are not finite."""

    def slope(level: Tensor, state: Tensor) -> Tensor:
        t = math.exp(2 * level.item())
        value, divergence = with_divergence(score, state[:, :2], t)
        return t * torch.cat([-value, divergence[:, None]], dim=1)

    start = torch.cat([x, x.new_zeros(len(x), 1)], dim=1)
    end = _runge_kutta(slope, start, x.new_tensor(t).log() / 2, x.new_tensor(0.0), steps)
    if not end.isfinite().all():
        raise ValueError("scores: found NaN or infinite values")
    return log_prior(end[:, :2]) - end[:, 2]


def flow(score: Score, x: Tensor, start: Tensor, end: Tensor, steps: int = FLOW_STEPS) -> Tensor:
    """Move x [B, 2] along the flow from times start [B] to times end [B], in (0, 1].

    Each row has its own times and takes `steps` steps of equal length in log t.
    Raises ValueError where scores are not finite."""

    def slope(level: Tensor, x: Tensor) -> Tensor:
        t = (2 * level).exp()
        return -t[:, None] * score(x, t)

    moved = _runge_kutta(slope, x, start.log() / 2, end.log() / 2, steps)
    if not moved.isfinite().all():
        raise ValueError("scores: found NaN or infinite values")
    return moved


def _runge_kutta(
    slope: Callable[[Tensor, Tensor], Tensor], state: Tensor, start: Tensor, end: Tensor, steps: int
) -> Tensor:
    """The classical method of fourth order from start to end, scalars or one for each row [B]."""
    h = (end - start) / steps
    row_h = h.reshape(-1, 1)
    for i in range(steps):
        now = start + i * h
        first = slope(now, state)
        second = slope(now + h / 2, state + row_h / 2 * first)
        third = slope(now + h / 2, state + row_h / 2 * second)
        fourth = slope(now + h, state + row_h * third)
        state = state + row_h / 6 * (first + 2 * second + 2 * third + fourth)
    return state


def settle(score: Score, x: Tensor, t: float, steps: int) -> Tensor:
    """Move x [B, 2] into the wells of p_t: `steps` times x <- x + t score(x, t).

    x + t score is the denoised point. For the exact mixture this is the update of a Dense
    Associative Memory, and the mean shift of Cheng 1995."""
    for _ in range(steps):
        x = x + t * score(x, t)
    return x
