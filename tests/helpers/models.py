"""Denoisers with known answers, and seeded random tensors."""

import torch

from models.denoiser import Denoiser
from models.schedule import Schedule, predict_eps


class GaussianDenoiser(Denoiser):
    """Data N(0, s^2): x_0(x_t) = sqrt(alpha_bar) s^2 / v_t x_t, v_t = alpha_bar s^2 + 1 - alpha_bar."""  # noqa: E501

    def __init__(self, std: float, shape=(1, 2, 2), dtype=torch.float64) -> None:
        self.std, self.shape, self.dtype = std, shape, dtype
        self.schedule, self.device = Schedule(), torch.device("cpu")

    def variance(self, t):
        alpha_bar = self.schedule.alpha_bar_at(t)
        return alpha_bar * self.std**2 + 1 - alpha_bar

    def gain(self, t):
        return self.schedule.alpha_bar_at(t).sqrt() * self.std**2 / self.variance(t)

    def x_0(self, x_t, t):
        return self.gain(t).to(x_t.dtype) * x_t

    def eps(self, x_t, t):
        return predict_eps(x_t, self.x_0(x_t, t), self.schedule.alpha_bar_at(t))
