"""Samplers, from noise to images: one function for each algorithm, and one for a step of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.noise import SeededNoise
from models.schedule import (
    add_noise,
    factor,
    predict_eps,
)

Seeds = range | np.ndarray
PICTURE_CHANNELS = (1, 3)  # grey and colour


@torch.no_grad()
def ddpm(denoiser: Denoiser, noise: Callable[[], Tensor], steps: int) -> Tensor:
    """Ancestral sampling with x_0 clipped to [-1, 1]; `steps` calls, T for the published sampler.

    noise() gives standard normal [B, C, H, W]: x_T first, then one for each step but the last.
    Returns images [B, C, H, W] in [-1, 1].
    Source: Ho et al. 2020, arXiv 2006.11239, algorithm 2."""
    x = noise().to(denoiser.device)
    for t, s in pairwise([*denoiser.schedule.times(steps), -1]):  # -1: no noise
        x_0 = clipped(denoiser.x_0(x, t), denoiser)
        if s < 0:
            return x_0
        alpha_bar_t, alpha_bar_s = denoiser.schedule.alpha_bar_at([t, s])
        x = ddpm_step(x, x_0, alpha_bar_t, alpha_bar_s, noise().to(x))
    raise AssertionError("times end with -1")


@torch.no_grad()
def ddim(
    denoiser: Denoiser, noise: Callable[[], Tensor], steps: int, eta: float = 0.0, clip: bool = True
) -> Tensor:
    """DDIM with `steps` calls; eta 0 is deterministic, 1 ancestral. clip keeps x_0 in [-1, 1].

    noise() as for `ddpm`; with eta 0 only x_T is drawn. Returns images [B, C, H, W].
    Source: Song et al. 2021, arXiv 2010.02502, eq. 12."""
    x = noise().to(denoiser.device)
    for t, s in pairwise([*denoiser.schedule.times(steps), -1]):  # -1: no noise
        x_0 = denoiser.x_0(x, t)
        x_0 = clipped(x_0, denoiser) if clip else x_0
        if s < 0:
            return x_0
        alpha_bar_t, alpha_bar_s = denoiser.schedule.alpha_bar_at([t, s])
        z = noise().to(x) if eta else None
        x = ddim_step(x, x_0, alpha_bar_t, alpha_bar_s, z, eta)
    raise AssertionError("times end with -1")


@torch.no_grad()
def dpmpp(denoiser: Denoiser, noise: Callable[[], Tensor], steps: int, clip: bool = True) -> Tensor:
    """DPM-Solver++(2M): deterministic, of second order, with one call a step.

        x_s = sigma_s / sigma_t x_t - sqrt(alpha_bar_s) (exp(-h) - 1) D
        D = x_0(t) + h / (2 h_before) (x_0(t) - x_0(before)),   h = lambda_s - lambda_t

    lambda = log(sqrt(alpha_bar) / sigma), sigma = sqrt(1 - alpha_bar). The first step, which has
    no earlier one, and the step to t = 0 take D = x_0(t). noise() gives x_T [B, C, H, W];
    clip keeps x_0 in [-1, 1]. Returns images [B, C, H, W].
    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2."""
    x = noise().to(denoiser.device)
    before: tuple[Tensor, float] | None = None
    for t, s in pairwise([*denoiser.schedule.times(steps), -1]):  # -1: no noise
        x_0 = denoiser.x_0(x, t)
        x_0 = clipped(x_0, denoiser) if clip else x_0
        if s < 0:
            return x_0
        alpha_bar = denoiser.schedule.alpha_bar_at([t, s])
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        h = torch.log(signal / sigma).diff().item()
        # The last step spans most of lambda: extrapolating so far would be inaccurate.
        first_order = before is None or s == 0
        d = x_0 if first_order else x_0 + h / (2 * before[1]) * (x_0 - before[0])
        x = (sigma[1] / sigma[0]).item() * x - signal[1].item() * math.expm1(-h) * d
        before = x_0, h
    raise AssertionError("times end with -1")


def clipped(x_0: Tensor, denoiser: Denoiser) -> Tensor:
    """x_0 clipped to [-1, 1]; infinite values become NaN, since clipping would hide them.

    Latents, which have another number of channels than pictures, have no range and stay."""
    if denoiser.shape[0] not in PICTURE_CHANNELS:
        return x_0
    return x_0.clamp(-1, 1).where(~x_0.isinf(), torch.nan)


SAMPLERS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp": dpmpp,
}


def recovery_times(t: int, steps: int) -> range:
    """The network calls of DDIM from time t >= 1 back to the image, in `steps` steps or fewer.

        t, t - s, t - 2 s, ... while above 0,   s = ceil(t / min(steps, t))

    That is ceil(t / s) calls, never one at 0: the last call's x_0 is the result.

    >>> list(recovery_times(26, 20))[:3], len(recovery_times(26, 20)), len(recovery_times(101, 20))
    ([26, 24, 22], 13, 17)"""
    if t < 1 or steps < 1:
        raise ValueError(f"t, steps: found {t}, {steps}; give 1 or more")
    return range(t, 0, -math.ceil(t / min(steps, t)))


def ddim_step(
    x_t: Tensor,
    x_0: Tensor,
    alpha_bar_t: Tensor,
    alpha_bar_s: Tensor,
    noise: Tensor | None = None,
    eta: float = 0.0,
) -> Tensor:
    """One DDIM step from time t to an earlier time s.

        x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s - sigma^2) eps + sigma z
        eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)
        sigma^2 = eta^2 (1 - alpha_bar_s) / (1 - alpha_bar_t) (1 - alpha_bar_t / alpha_bar_s)

    x_t, x_0, noise z: [B, ...]; 0 < alpha_bar_t < alpha_bar_s <= 1, float64, scalars or one a
    row [B]; with eta 0 z is not read. Returns x_s like x_t.
    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 and 16."""
    eps = predict_eps(x_t, x_0, alpha_bar_t)
    if eta == 0:
        return add_noise(x_0, eps, alpha_bar_s)
    variance = eta**2 * (1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)
    direction = (1 - alpha_bar_s - variance).clamp(min=0)
    signal, along, sigma = (factor(v.sqrt(), x_t) for v in (alpha_bar_s, direction, variance))
    return signal * x_0 + along * eps + sigma * noise


def ddpm_step(
    x_t: Tensor, x_0: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor, noise: Tensor
) -> Tensor:
    """One ancestral DDPM step from time t to an earlier time s, with the posterior variance.

        x_s = c_0 x_0 + c_t x_t + sigma z,   alpha = alpha_bar_t / alpha_bar_s
        c_0 = sqrt(alpha_bar_s) (1 - alpha) / (1 - alpha_bar_t)
        c_t = sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t)
        sigma^2 = (1 - alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t)

    x_t, x_0, noise z: [B, ...]; 0 < alpha_bar_t < alpha_bar_s <= 1, float64 scalars (s need not
    be t - 1). Returns x_s like x_t.
    Source: Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7."""
    alpha = alpha_bar_t / alpha_bar_s
    c_0 = alpha_bar_s.sqrt() * (1 - alpha) / (1 - alpha_bar_t)
    c_t = alpha.sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    sigma = ((1 - alpha) * (1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt()
    return c_0.item() * x_0 + c_t.item() * x_t + sigma.item() * noise


def draw_images(
    denoiser: Denoiser,
    seeds: Seeds,
    sampler: str,
    steps: int,
    batch_size: int,
    labels: np.ndarray | None = None,
) -> Iterator[Tensor]:
    """Yield images [b, C, H, W] in [-1, 1] on the CPU, b <= batch_size, in the order of seeds.

    An image depends on its seed, and its class, alone, beyond rounding. sampler: a name in
    SAMPLERS; labels: of a class-conditional network, the class of each image."""
    for start in range(0, len(seeds), batch_size):
        noise = SeededNoise(seeds[start : start + batch_size], denoiser.shape)
        if labels is not None:
            denoiser.labels = torch.from_numpy(labels[start : start + batch_size])
        yield SAMPLERS[sampler](denoiser, noise.draw, steps).cpu()
