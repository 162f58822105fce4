"""Denoisers with known answers, and seeded random tensors."""

import numpy as np
import torch

from models.denoiser import Denoiser
from models.schedule import Schedule, predict_eps
from models.unet import UNet
from utils.inputs.checkpoints import build_network
from utils.stages.energy.path_integral import (
    energy,
)


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


SCHEDULE = Schedule()


def seeded(seed=0):
    """A generator of PyTorch."""
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=0, dtype=torch.float64):
    """Uniform in [-1, 1)."""
    return torch.rand(shape, generator=seeded(seed), dtype=dtype) * 2 - 1


def normal(*shape, seed=0, dtype=torch.float64):
    """Standard normal numbers."""
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def signs(*shape, seed=0):
    """Random signs, -1 or 1."""
    return normal(*shape, seed=seed).sign()


class Linear(Denoiser):
    """eps = M x at every time: J = M. Rows [B, 1, 1, D]."""

    def __init__(self, matrix):
        self.matrix, self.schedule = matrix, SCHEDULE
        self.shape, self.device = (1, 1, len(matrix)), torch.device("cpu")

    def eps(self, x_t, t):
        return (x_t.flatten(1) @ self.matrix.T.to(x_t.dtype)).reshape(x_t.shape)


def both(values, count):
    """The first and the last count of the values of each row."""
    return torch.cat([values[..., :count], values[..., -count:]], -1)


def matrix_products(matrices):
    """Products with matrices J [N, D, D]."""
    return lambda which, v: (v @ matrices[which].mT, v @ matrices[which])


def of_spectrum(values, seed=0):
    """A symmetric matrix with these eigenvalues, in random directions."""
    q = torch.linalg.qr(normal(len(values), len(values), seed=seed)).Q
    return q @ torch.diag(values) @ q.T


def closed_form(denoiser, x, r, t):
    """U(r) - U(x) of the exact model, from its log density: [R, N]."""
    beta = denoiser.schedule.beta[t].item()
    u_x, u_r = (energy(denoiser.log_density(images, t), images, beta) for images in (x, r))
    return (u_r[:, None] - u_x[None]).numpy()


def even(k, start=0.0, radius=1.0):
    """k points [k, 2] at equal angles on a circle around 0, the first at the angle `start`."""
    angle = start + 2 * np.pi * np.arange(k) / k
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def random_network(model: dict) -> UNet:
    """Weights that keep signals near 1 and leave nothing zero: every swap of two would show."""
    torch.manual_seed(0)
    network = build_network(model).eval()
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            is_scale = "GroupNorm" in name and name.endswith("weight")
            torch.nn.init.normal_(parameter, mean=float(is_scale), std=0.3)
    return network
