"""Relative energies: the force of a model, integrated along a path between two images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser

PANEL_POINTS = 10  # of one Gauss rule: forces bend sharply somewhere, which short panels bear best
Gradient = Callable[[Tensor], Tensor]


def energy_gradient(denoiser: Denoiser, t: int) -> Gradient:
    """grad u(x, t) = -beta_t s(x, t) - beta_t x / 2, the force of `energy` at time t.

    t: 0 .. T - 1. The function takes and gives [B, C, H, W].
    Source: Raya and Ambrogioni 2023, arXiv 2305.19693, section 3."""
    beta = denoiser.schedule.beta[t].item()
    return lambda x: -beta * denoiser.score(x, t) - beta / 2 * x


def published_gradient(denoiser: Denoiser) -> Gradient:
    """The same at t = 0 with the original toolkit's score, -eps / sqrt(1 - beta_0), which is
    sqrt(beta_0 / (1 - beta_0)) times the right one: for comparison with its numbers alone."""
    beta = denoiser.schedule.beta[0].item()
    return lambda x: beta / math.sqrt(1 - beta) * denoiser.eps(x, 0) - beta / 2 * x


def energy(log_density: Tensor, x: Tensor, beta: float) -> Tensor:
    """u = -beta_t log p_t(x) - beta_t |x|^2 / 4, float64 [B]; log_density [B], x [B, ...]."""
    return -beta * log_density.double() - beta / 4 * x.double().flatten(1).square().sum(1)


@dataclass(frozen=True)
class Rule:
    """Quadrature over a in [0, pi/2]: sum_j weights_j f(nodes_j), all float64 [P].

    half: weights of the rule on half as many of the same nodes (0 elsewhere), None without one."""

    nodes: np.ndarray
    weights: np.ndarray
    half: np.ndarray | None


def gauss_rule(points: int) -> Rule:
    """Gauss-Legendre with `points` nodes, in panels of 10 at most; `half` uses every second node.

    Exact for polynomials of degree 2 n - 1 (half: n / 2 - 1) with n nodes a panel. Raises
    ValueError for fewer than 2 points."""
    if points < 2:
        raise ValueError(f"points: found {points}; give 2 or more")
    sizes = [len(part) for part in np.array_split(np.arange(points), -(-points // PANEL_POINTS))]
    width = math.pi / 2 / len(sizes)
    nodes, weights, half = [], [], []
    for i, size in enumerate(sizes):
        x, w = np.polynomial.legendre.leggauss(size)  # on [-1, 1]
        nodes.append((i + (x + 1) / 2) * width)
        weights.append(w * width / 2)
        half.append(_every_second(x) * width / 2)
    return Rule(*(np.concatenate(parts) for parts in (nodes, weights, half)))


def published_rule(points: int = 20) -> Rule:
    """The original toolkit's sum: both ends included, each weighted (pi/2) / (points - 1), so that
    the weights sum to points / (points - 1) times the length of the path."""
    step = math.pi / 2 / (points - 1)
    return Rule(np.linspace(0, math.pi / 2, points), np.full(points, step), None)


def _every_second(x: np.ndarray) -> np.ndarray:
    """Weights on x[::2], 0 on the others, that integrate over [-1, 1] what a polynomial through
    those nodes would give."""
    kept = x[::2]
    moments = np.zeros(len(kept))
    moments[0] = 2  # of the Legendre polynomials, whose integrals vanish but for the first
    weights = np.zeros(len(x))
    weights[::2] = np.linalg.solve(np.polynomial.legendre.legvander(kept, len(kept) - 1).T, moments)
    return weights


@torch.no_grad()
def path_integrals(
    gradient: Gradient,
    samples: Tensor,
    references: Tensor,
    rule: Rule,
    batch: int,
    on_points: Callable[[int], object] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """u(r) - u(x) for each reference r and sample x: float64 [R, n]; and by the half rule.

        int_0^{pi/2} grad u(x(a)) . x'(a) da,   x(a) = cos(a) x + sin(a) r

    samples [n, C, H, W], references [R, C, H, W] on one device; `gradient` is called with `batch`
    rows always (the last call is padded), so that a result depends on its own pair alone.
    on_points: called with the number of points just done.
    Raises ValueError where a force is not finite."""
    count = len(references) * len(samples) * len(rule.nodes)
    work = np.empty(count)
    for start in range(0, count, batch):
        index = np.minimum(np.arange(start, start + batch), count - 1)
        pair, point = np.divmod(index, len(rule.nodes))
        r, i = np.divmod(pair, len(samples))
        x, target = samples[torch.from_numpy(i)], references[torch.from_numpy(r)]
        a = torch.from_numpy(rule.nodes[point]).reshape(-1, 1, 1, 1)
        cos, sin = (f(a).to(x.device, x.dtype) for f in (torch.cos, torch.sin))
        force = gradient(cos * x + sin * target)
        along = (force.double() * (cos * target - sin * x).double()).flatten(1).sum(1)
        if not along.isfinite().all():
            raise ValueError("gradient: found NaN or infinite values")
        done = min(batch, count - start)
        work[start : start + done] = along[:done].cpu().numpy()
        on_points(done)
    work = work.reshape(len(references), len(samples), len(rule.nodes))
    return tuple(None if w is None else (work * w).sum(2) for w in (rule.weights, rule.half))
