"""The probability flow of noised points: densities by it, and points carried along it.

With x_t = x_0 + sqrt(t) z the flow is dx/dt = -score(x, t) / 2. It is followed in the noise level
tau = sqrt(t), where dx/dtau = -tau score(x, tau^2) stays smooth down to tau = 0.
Source: Song et al. 2021, arXiv 2011.13456, eqs. 13 and 39."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor, "float | Tensor"], Tensor]  # points [B, 2], time: scores [B, 2]
FLOW_STEPS = 40  # Heun steps from one time to another


def with_divergence(score: Score, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """The score at x [B, 2] and its divergence [B], exact, by automatic differentiation."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = score(x, t)
        divergence = torch.zeros_like(x[:, 0])
        for axis in range(x.shape[1]):  # a row's score depends on this row alone: sums will do
            last = axis == x.shape[1] - 1
            (slope,) = torch.autograd.grad(value[:, axis].sum(), x, retain_graph=not last)
            divergence = divergence + slope[:, axis]
    return value.detach(), divergence


def log_density(
    score: Score, log_prior: Callable[[Tensor], Tensor], x: Tensor, t: float, tolerance: float
) -> Tensor:
    """log p_t(x) in nats, [B] float64 like x [B, 2], 0 < t <= 1.

        log p_t(x) = log p_1(x_1) - integral_t^1 div score(x_s, s) / 2 ds

    along the flow from x at t to x_1 at 1; log_prior(x_1) is log p_1, exact. `tolerance` is the
    solver's relative and absolute one (a Runge-Kutta pair of orders 5 and 4, by scipy).
    Raises ValueError where the flow meets scores that are not finite."""
    from scipy.integrate import solve_ivp

    def slope(tau: float, state: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(state[: x.numel()]).to(x).reshape(x.shape)
        value, divergence = with_divergence(score, points, tau**2)
        return tau * torch.cat([-value.flatten(), divergence]).cpu().numpy()

    start = torch.cat([x.flatten(), x.new_zeros(len(x))]).cpu().numpy()
    span = (math.sqrt(t), 1.0)
    # a NaN slope would make the step size shrink for ever
    if not np.isfinite(slope(span[0], start)).all():
        raise ValueError("scores: found NaN or infinite values")
    end = solve_ivp(slope, span, start, rtol=tolerance, atol=tolerance)
    state = torch.from_numpy(end.y[:, -1]).to(x)
    if not end.success or not state.isfinite().all():
        raise ValueError(f"scores: the flow could not be followed ({end.message})")
    return log_prior(state[: x.numel()].reshape(x.shape)) - state[x.numel() :]


def flow(score: Score, x: Tensor, start: Tensor, end: Tensor, steps: int = FLOW_STEPS) -> Tensor:
    """Carry x [B, 2] along the flow from times start [B] to times end [B]: Heun's method.

    Each row has its own times in (0, 1] and takes `steps` steps of equal length in sqrt(t)."""
    tau, last = start.sqrt(), end.sqrt()
    step = (last - tau) / steps
    slope = -tau[:, None] * score(x, tau.square())
    for i in range(1, steps + 1):
        tau = start.sqrt() + i * step
        guess = x + step[:, None] * slope
        ahead = -tau[:, None] * score(guess, tau.square())
        x = x + step[:, None] * (slope + ahead) / 2
        slope = -tau[:, None] * score(x, tau.square()) if i < steps else ahead
    return x


def settle(score: Score, x: Tensor, t: float | Tensor, steps: int) -> Tensor:
    """Let x [B, 2] slide into the wells of p_t: `steps` times x <- x + t score(x, t).

    x + t score is the denoised point, so the patterns' memory is asked again and again: the
    update of a Dense Associative Memory, and the mean shift of Cheng 1995 for a mixture."""
    scale = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1, 1)
    for _ in range(steps):
        x = x + scale * score(x, t)
    return x
