"""The exact model: the denoiser that a perfectly trained network would be on K patterns."""

from __future__ import annotations

import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.schedule import Schedule, predict_eps


class ExactDenoiser(Denoiser):
    """p_t(x) = mean_m N(x; sqrt(alpha_bar_t) y_m, (1 - alpha_bar_t) I) over K patterns y_m.

        D(x, t) = sum_m w_m y_m,
            w = softmax_m(-|x - sqrt(alpha_bar_t) y_m|^2 / (2 (1 - alpha_bar_t)))

    patterns: [K, C, H, W] in [-1, 1]. A Dense Associative Memory with
    beta = 1 / (2 (1 - alpha_bar_t)): Ambrogioni 2023, arXiv 2309.17290."""

    def __init__(self, patterns: Tensor, schedule: Schedule) -> None:
        if not len(patterns):
            raise ValueError("patterns: found none; give one or more")
        self.schedule, self.shape, self.device = (
            schedule,
            tuple(patterns.shape[1:]),
            patterns.device,
        )
        self._flat = patterns.flatten(1)  # [K, D]
        # In float32 the expansion below is wrong by several nats at t = 0.
        self._exact = torch.float32 if self.device.type == "mps" else torch.float64
        self._squares = self._flat.to(self._exact).square().sum(1)  # [K]

    def weights(self, x_t: Tensor, t: int) -> Tensor:
        """w [B, K], float64 (float32 on MPS), rows sum to 1."""
        alpha_bar = self.schedule.alpha_bar_at(t).item()
        x = x_t.flatten(1).to(self._exact)  # [B, D]
        # |x|^2 is the same for all m and leaves the softmax as it is.
        logits = 2 * alpha_bar**0.5 * (x @ self._flat.to(self._exact).T) - alpha_bar * self._squares
        return torch.softmax(logits / (2 * (1 - alpha_bar)), dim=1)

    def x_0(self, x_t: Tensor, t: int) -> Tensor:
        mean = self.weights(x_t, t) @ self._flat.to(self._exact)  # [B, D]
        return mean.to(x_t.dtype).reshape(x_t.shape)

    def eps(self, x_t: Tensor, t: int) -> Tensor:
        return predict_eps(x_t, self.x_0(x_t, t), self.schedule.alpha_bar_at(t))
