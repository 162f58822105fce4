"""The best linear denoiser: that of a Gaussian with the mean and covariance of the images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.closed_form import ClosedForm
from models.schedule import Schedule

CHUNK_BYTES = 2**24  # patterns that are converted to float64 together


class WienerDenoiser(ClosedForm):
    """The denoiser of N(mu, C), mu and C the mean and covariance of the K patterns.

        D(x, t) = mu + sqrt(a) C (a C + (1 - a) I)^-1 (x - sqrt(a) mu),   a = alpha_bar_t,
        C = 1/K sum_m (y_m - mu) (y_m - mu)^T

    No affine function of x_t has a smaller mean squared error over these images; of Gaussian data
    it is the exact denoiser. Eigenvectors of C come from an SVD of the K centred patterns where
    K < D = C H W, else from C itself: D^2 float64 are kept, and some times that while it is built.
    Patterns, x_t, t and what is raised: as for every `ClosedForm`. Source: Wiener 1949; as a model
    of trained networks: Wang and Vastola 2024, arXiv 2412.09726; Lukoianov et al. 2025, arXiv
    2509.09672."""

    def __init__(self, patterns: Tensor, schedule: Schedule) -> None:
        super().__init__(patterns, schedule)
        flat = self._vectors(patterns.detach())  # [K, D], D padded with zeros
        parts = flat.split(max(1, CHUNK_BYTES // (8 * flat.shape[1])))
        self._mu = sum(part.double().sum(0) for part in parts) / len(flat)
        if len(flat) < flat.shape[1]:
            centred = flat.double() - self._mu
            _, singular, vectors = torch.linalg.svd(centred, full_matrices=False)
            variances = singular.square() / len(flat)
        else:
            covariance = self._mu.new_zeros(flat.shape[1], flat.shape[1])
            for part in parts:
                centred = part.double() - self._mu
                covariance.addmm_(centred.T, centred)
            variances, vectors = torch.linalg.eigh(covariance / len(flat))
            variances, vectors = variances.clamp(min=0), vectors.T
        self._variances, self._vectors_of_c = variances, vectors  # [r], [r, D]

    def mean(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        def mean(x: Tensor, alpha_bar: Tensor) -> Tensor:
            components = (x - alpha_bar.sqrt() * self._mu) @ self._vectors_of_c.T  # [R, r]
            return self._mu + (self.gains(alpha_bar) * components) @ self._vectors_of_c

        return self._images(self._by_tiles(mean, x_t, alpha_bar))

    def gains(self, alpha_bar: Tensor) -> Tensor:
        """sqrt(a) lambda / (a lambda + 1 - a) for each eigenvalue lambda of C: [R, r]."""
        signal = alpha_bar * self._variances
        return alpha_bar.sqrt() * self._variances / (signal + 1 - alpha_bar)

    def rows(self, alpha_bar: Tensor, first: int, end: int) -> Tensor:
        """Rows first .. end - 1 of the filter sqrt(a) C (a C + (1 - a) I)^-1: [n, D] float64.

        alpha_bar: float64 [1, 1]."""
        left = self._vectors_of_c[:, first:end].T * self.gains(alpha_bar)  # [n, r]
        return (left @ self._vectors_of_c)[:, : self._dim]

    def log_density(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """log N(x; sqrt(a) mu, a C + (1 - a) I) in nats, [B] float64."""

        def log_density(x: Tensor, alpha_bar: Tensor) -> Tensor:
            centred = x - alpha_bar.sqrt() * self._mu
            components = centred @ self._vectors_of_c.T
            spread = alpha_bar * self._variances + 1 - alpha_bar  # [R, r]
            # Directions in which the images do not vary have the variance of the noise alone.
            weights = 1 / spread - 1 / (1 - alpha_bar)
            squares = centred.square().sum(1) / (1 - alpha_bar)[:, 0]
            squares = squares + (weights * components.square()).sum(1)
            rest = self._dim * (2 * math.pi * (1 - alpha_bar)).log()[:, 0]
            return -0.5 * (squares + (spread / (1 - alpha_bar)).log().sum(1) + rest)

        return self._by_tiles(log_density, *self._inputs(x_t, t))
