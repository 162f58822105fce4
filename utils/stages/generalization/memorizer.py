"""How far a denoiser is from the exact memorizer, and the times that its training images set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.exact import ExactDenoiser
from models.schedule import Schedule, add_noise

SMALL = 2000  # images or values up to which all variances are computed


@dataclass(frozen=True)
class DenoisingErrors:
    """Squared errors a value of each image at each time, averaged over its noises: [T', n].

    loss       |D(x_t) - x_0|^2 / d, the denoising loss; alpha_bar / (1 - alpha_bar) times it is
               the loss of eps that DDPM trains on
    memorizer  |D(x_t) - D*(x_t)|^2 / d, D* the exact model of the K training images
    identity   |x_t - D*(x_t)|^2 / d, and
    mean       |mean_m y_m - D*(x_t)|^2 / d: reference errors: identity and data-set mean"""

    loss: np.ndarray
    memorizer: np.ndarray
    identity: np.ndarray
    mean: np.ndarray


@torch.no_grad()
def denoising_errors(
    denoiser: Denoiser,
    memorizer: ExactDenoiser,
    mean: Tensor,
    images: Tensor,
    times: list[int],
    noise: Callable[[int], Tensor],
    batch: int,
    on_rows: Callable[[int], object] = lambda _: None,
) -> DenoisingErrors:
    """The errors of a denoiser on images [n, C, H, W] at each of times; float64.

    mean [C, H, W]: of the training images. noise(t): eps [n, R, C, H, W], R copies of each image.
    batch: rows of a network call. on_rows: called with the number of rows just done.
    Raises ValueError where the denoiser gives NaN or infinite values.
    Source: Gu et al. 2023, arXiv 2310.02664; Biroli et al. 2024, arXiv 2402.18491."""
    errors = np.empty((4, len(times), len(images)))
    for i, t in enumerate(times):
        eps = noise(t)
        copies = eps.shape[1]
        parts = (images.repeat_interleave(copies, 0).split(batch), eps.flatten(0, 1).split(batch))
        rows = []
        for x_0, pattern in zip(*parts, strict=True):
            rows.append(_errors(denoiser, memorizer, mean, x_0, pattern, t))
            on_rows(len(x_0))
        errors[:, i] = torch.cat(rows, 1).reshape(4, len(images), copies).mean(2).numpy()
    if not np.isfinite(errors).all():
        raise ValueError("denoiser: found NaN or infinite values")
    return DenoisingErrors(*errors)


def _errors(
    denoiser: Denoiser, memorizer: ExactDenoiser, mean: Tensor, x_0: Tensor, eps: Tensor, t: int
) -> Tensor:
    """loss, memorizer, identity and mean of each row: float64 [4, B] on the CPU."""
    x_0, eps = x_0.to(denoiser.device), eps.to(denoiser.device)
    x_t = add_noise(x_0, eps, denoiser.schedule.alpha_bar_at(t))
    clean, exact = denoiser.x_0(x_t, t), memorizer.x_0(x_t, t)
    pairs = (clean, x_0), (clean, exact), (x_t, exact), (mean.to(exact), exact)
    errors = [(a.double() - b.double()).square().flatten(1).mean(1) for a, b in pairs]
    return torch.stack(errors).cpu()


@torch.no_grad()
def collapse_times(
    memorizer: ExactDenoiser, images: Tensor, pattern: Tensor, eps: Tensor
) -> Tensor:
    """The largest t at which a noised training image is drawn to itself alone: int64 [n], -1: none.

    The largest t at which the image's own pattern outweighs all others together,
        w_own(x_t) >= 1/2,   x_t = sqrt(alpha_bar_t) y_own + sqrt(1 - alpha_bar_t) eps,
    one eps [n, C, H, W] for all t; found by bisection, for w_own falls with t but for noise.
    pattern: int64 [n], the patterns that the images [n, C, H, W] are. The median is the collapse
    time t_C of the data. Source: Biroli et al. 2024, arXiv 2402.18491 (Z_1 against Z_2..n)."""
    low = torch.full((len(images),), -1)
    high = torch.full((len(images),), memorizer.schedule.timesteps)
    while (high - low > 1).any():
        t = ((low + high) // 2).clamp(0, memorizer.schedule.timesteps - 1)
        kept = own_weight(memorizer, images, pattern, eps, t) >= 0.5
        low, high = torch.where(kept, t, low), torch.where(kept, high, t)
    return low


def own_weight(
    memorizer: ExactDenoiser, images: Tensor, pattern: Tensor, eps: Tensor, t: Tensor
) -> Tensor:
    """w_own of each noised image [n] at its time t int64 [n], 0 to 1; see `collapse_times`."""
    x_t = add_noise(images, eps, memorizer.schedule.alpha_bar_at(t))
    weights = memorizer.weights(x_t, t)
    return weights.gather(1, pattern[:, None].to(weights.device)).squeeze(1).cpu()


def largest_variance(images: Tensor) -> tuple[float, float]:
    """Lambda, the largest eigenvalue of the covariance of images [K, C, H, W], and its standard
    error: that of a mean of squared projections onto the principal axis. (0, 0) for K = 1."""
    centred = images.double().flatten(1)
    centred = (centred - centred.mean(0)).cpu().numpy()
    if min(centred.shape) <= SMALL:
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    else:
        from scipy.sparse.linalg import svds

        start = np.ones(min(centred.shape))  # the start of ARPACK is random
        axis = svds(centred, k=1, v0=start)[2][0]
    squares = (centred @ axis) ** 2
    error = squares.std(ddof=1) / math.sqrt(len(squares)) if len(squares) > 1 else 0.0
    return float(squares.mean()), float(error)


def speciation_time(variance: float, schedule: Schedule) -> int:
    """The last t at which noised data lean to one side: alpha_bar_t Lambda >= 1; -1: none.

    t_S = 1/2 ln Lambda in the time of an Ornstein-Uhlenbeck process, where exp(-2 t) stands for
    alpha_bar_t. Source: Biroli et al. 2024, arXiv 2402.18491.

    >>> speciation_time(1e9, Schedule(1000)), speciation_time(0.5, Schedule(1000))
    (999, -1)"""
    return int((schedule.alpha_bar * variance >= 1).sum()) - 1
