"""The exact model of K patterns in closed form: what a perfectly trained network would compute."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.closed_form import ClosedForm
from models.schedule import Schedule

# Patterns are converted to float64 in chunks of this size; fewer are kept in float64.
CHUNK_BYTES = 2**24
LARGEST_HESSIAN = 4096  # D; one image then takes 128 MiB


class ExactDenoiser(ClosedForm):
    """p_t(x) = mean_m N(x; sqrt(alpha_bar_t) y_m, (1 - alpha_bar_t) I) over K patterns y_m.

        D(x, t) = sum_m w_m y_m,
            w = softmax_m(-|x - sqrt(alpha_bar_t) y_m|^2 / (2 (1 - alpha_bar_t)))

    Patterns, x_t, t and what is raised: as for every `ClosedForm`. The score is grad log p_t.
    A Dense Associative Memory with beta = 1 / (2 (1 - alpha_bar_t)): Ambrogioni 2023, arXiv
    2309.17290."""

    def __init__(self, patterns: Tensor, schedule: Schedule) -> None:
        super().__init__(patterns, schedule)
        flat = self._vectors(patterns.detach())  # [K, D]
        self._chunk_rows = max(1, CHUNK_BYTES // (8 * flat.shape[1]))
        chunks = flat.split(self._chunk_rows)  # [k, D] each
        self._chunks = chunks if len(chunks) > 1 else (flat.double(),)
        self._squares = flat.new_empty(len(flat), dtype=torch.float64)  # [K]
        for squares, chunk in zip(self._squares.split(self._chunk_rows), chunks, strict=True):
            squares.copy_(chunk.double().square().sum(1))

    def logits(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """-|x - sqrt(alpha_bar_t) y_m|^2 / (2 (1 - alpha_bar_t)): [B, K] float64, at most 0."""
        return self._by_tiles(self._logits, *self._inputs(x_t, t))

    def weights(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """w = softmax_m(logits), the posterior of the patterns: [B, K] float64, rows sum to 1."""
        return self._by_tiles(self._weights, *self._inputs(x_t, t))

    def log_density(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """log p_t(x) in nats, [B] float64.

        log sum_m exp(logits_m) - log K - D/2 log(2 pi (1 - alpha_bar_t))"""

        def log_density(x: Tensor, alpha_bar: Tensor) -> Tensor:
            normaliser = self._dim / 2 * (2 * math.pi * (1 - alpha_bar)).log()  # [R, 1]
            total = self._log_sum(x, alpha_bar)
            return (total - math.log(len(self._squares)) - normaliser).squeeze(1)

        return self._by_tiles(log_density, *self._inputs(x_t, t))

    def energy(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """E(x) = -(1/beta) log sum_m exp(-beta |x - sqrt(alpha_bar_t) y_m|^2), [B] float64.

        beta = 1 / (2 (1 - alpha_bar_t)); the score is -beta dE/dx. E is at most the squared
        distance to the nearest pattern. Source: Ambrogioni 2023, arXiv 2309.17290."""

        def energy(x: Tensor, alpha_bar: Tensor) -> Tensor:
            return (-2 * (1 - alpha_bar) * self._log_sum(x, alpha_bar)).squeeze(1)

        return self._by_tiles(energy, *self._inputs(x_t, t))

    def mean(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        return self._images(self._by_tiles(self._mean, x_t, alpha_bar))

    def hessian_vector(self, x_t: Tensor, t: int | Tensor, v: Tensor) -> Tensor:
        """The Hessian H of -log p_t at x_t times v [B, C, H, W], like v.

        H = I / (1 - alpha_bar_t) - alpha_bar_t Cov_w(y) / (1 - alpha_bar_t)^2
        Cov_w(y) v = sum_m w_m (y_m - D) ((y_m - D) . v)"""

        def product(x: Tensor, alpha_bar: Tensor, v: Tensor) -> Tensor:
            w, noise = self._weights(x, alpha_bar), 1 - alpha_bar
            mean = self._combine(w)
            # Both factors are centred: the rounding error scales with |y_m - D|. That of
            # E[y (y.v)] - D (D.v) scales with |y|^2, times 10^8 by 1 / noise^2 at t = 0.
            pull = w * (self._products(v) - (mean * v).sum(1, keepdim=True))  # [R, K]
            covariance_v = self._combine(pull) - mean * pull.sum(1, keepdim=True)
            return v / noise - alpha_bar / noise.square() * covariance_v

        if v.shape != x_t.shape:
            raise ValueError(f"v: found {list(v.shape)}; give {list(x_t.shape)}, as x_t")
        direction = v.to(self._compute_device).double()
        result = self._by_tiles(product, *self._inputs(x_t, t), direction)
        return self._images(result).to(v.dtype).to(v.device)

    def hessian(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The whole matrix H of `hessian_vector`, [B, D, D] float64, for D = C H W up to 4096."""
        dim = self._dim
        if dim > LARGEST_HESSIAN:
            remedy = f"use hessian_vector, or images of {LARGEST_HESSIAN} values at most"
            raise ValueError(f"D = C H W: found {dim}; {remedy}")
        means = self._by_tiles(self._mean, *self._inputs(x_t, t))
        rows = zip(self.weights(x_t, t), means, strict=True)
        covariance = [self._covariance(w, mean) for w, mean in rows]
        identity = torch.eye(dim, dtype=torch.float64, device=self._compute_device)
        alpha_bar = self._alpha_bar(t, len(x_t)).to(self._compute_device)[:, None, None]
        noise = 1 - alpha_bar
        stacked = torch.stack(covariance) if covariance else identity.new_zeros(0, dim, dim)
        return identity / noise - alpha_bar / noise.square() * stacked

    # The methods below work on one tile: x [R, D], alpha_bar [R, 1], D padded.

    def _logits(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        # At t = 0 this expansion errs by several nats in float32, by 1e-6 in float64.
        squares = x.square().sum(1, keepdim=True) + alpha_bar * self._squares
        distances = squares - self._products(2 * alpha_bar.sqrt() * x)  # [R, K]
        return distances.clamp(min=0) / (-2 * (1 - alpha_bar))

    def _weights(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        return self._logits(x, alpha_bar).softmax(1)

    def _log_sum(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """log sum_m exp(logits_m), [R, 1]."""
        return self._logits(x, alpha_bar).logsumexp(1, keepdim=True)

    def _mean(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        return self._combine(self._weights(x, alpha_bar))

    def _products(self, x: Tensor) -> Tensor:
        """x . y_m for all m: [R, K]."""
        # Written in place: small results between large chunks would fragment the memory.
        products = x.new_empty(len(x), len(self._squares))
        for i, chunk in enumerate(self._chunks):
            first = i * self._chunk_rows
            products[:, first : first + len(chunk)] = x @ chunk.double().T
        return products

    def _combine(self, w: Tensor) -> Tensor:
        """sum_m w_m y_m, [R, D], for w [R, K]."""
        parts = zip(w.split(self._chunk_rows, dim=1), self._chunks, strict=True)
        return sum(part @ chunk.double() for part, chunk in parts)

    def _covariance(self, w: Tensor, mean: Tensor) -> Tensor:
        """sum_m w_m (y_m - mean) (y_m - mean)^T, [D, D], for w [K] and mean [D]."""
        parts = zip(w.sqrt().split(self._chunk_rows), self._chunks, strict=True)
        centred = (part[:, None] * (chunk.double() - mean) for part, chunk in parts)  # [k, D]
        return sum(part.T @ part for part in centred)[: self._dim, : self._dim]
