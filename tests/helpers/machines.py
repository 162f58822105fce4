"""The formulas of the machines once more, as loops over pixels and patterns, in NumPy float64.

Images are arrays [C, H, W], a is alpha_bar_t, a neighbourhood is a list of positions (row,
column)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.schedule import Schedule
from tests.helpers.models import normal


def points(patterns: Tensor, t: int | Tensor, schedule: Schedule, seed: int = 5) -> Tensor:
    """Where a machine is to be right: [4, C, H, W].

    A noised pattern; two points between two patterns, where both weigh; pure noise."""
    a = schedule.alpha_bar_at(t)
    z = normal(4, *patterns.shape[1:], seed=seed)
    y = patterns.double()[torch.arange(5) % len(patterns)]
    z[0] = a.sqrt() * y[0] + (1 - a).sqrt() * z[0]
    z[1:3] = a.sqrt() * (y[1:3] + y[3:5]) / 2 + 0.1 * (1 - a) * z[1:3]
    return z


def square(shape: tuple[int, int], i: tuple[int, int], side: int, circular: bool) -> list:
    """The positions of the side x side square around i: those inside the image, or all of them."""
    height, width = shape
    inside = []
    for row in range(height):
        for column in range(width):
            apart = [abs(row - i[0]), abs(column - i[1])]
            if circular:
                apart = [min(apart[0], height - apart[0]), min(apart[1], width - apart[1])]
            if max(apart) <= side // 2:
                inside.append((row, column))
    return inside


def posterior_mean(logits: list[float], values: list[np.ndarray]) -> np.ndarray:
    """sum_m w_m values_m, w = softmax(logits)."""
    w = np.exp(np.array(logits) - max(logits))
    return sum(weight * value for weight, value in zip(w / w.sum(), values))


def local(patterns: np.ndarray, x: np.ndarray, a: float, neighbours) -> np.ndarray:
    """Each pixel given its neighbours(i), in one image x: [C, H, W]."""
    result = np.zeros_like(x)
    for i in np.ndindex(x.shape[1:]):
        around, logits, values = neighbours(i), [], []
        for y in patterns:
            distance = sum(((x[:, r, c] - a**0.5 * y[:, r, c]) ** 2).sum() for r, c in around)
            logits.append(-distance / (2 * (1 - a)))
            values.append(y[:, i[0], i[1]])
        result[:, i[0], i[1]] = posterior_mean(logits, values)
    return result


def equivariant(
    patterns: np.ndarray, x: np.ndarray, a: float, side: int, circular: bool, chosen=None
) -> np.ndarray:
    """Each pixel given its patch, of all patches that the borders cut off alike: [C, H, W].

    chosen(i): the pairs (pattern, position) that are compared at i; None: all of them."""
    _, height, width = x.shape
    reach = range(-(side // 2), side // 2 + 1)

    def offsets(i):  # of the patch's pixels that exist
        pairs = [(u, v) for u in reach for v in reach]
        if circular:
            return pairs
        return [(u, v) for u, v in pairs if 0 <= i[0] + u < height and 0 <= i[1] + v < width]

    def patch(image, i, at):
        return np.array([image[:, (i[0] + u) % height, (i[1] + v) % width] for u, v in at])

    result = np.zeros_like(x)
    for i in np.ndindex(height, width):
        at, logits, values = offsets(i), [], []
        own = patch(x, i, at)
        for m, y in enumerate(patterns):
            for j in np.ndindex(height, width):
                if offsets(j) == at and (chosen is None or (m, j) in chosen(i)):
                    distance = ((own - a**0.5 * patch(y, j, at)) ** 2).sum()
                    logits.append(-distance / (2 * (1 - a)))
                    values.append(y[:, j[0], j[1]])
        result[:, i[0], i[1]] = posterior_mean(logits, values)
    return result


def wiener(patterns: np.ndarray, a: float) -> tuple[np.ndarray, np.ndarray]:
    """The matrix [D, D] and the offset [D] of x_0 as a linear function of x."""
    flat = patterns.reshape(len(patterns), -1)
    covariance = np.cov(flat.T, bias=True)
    spread = a * covariance + (1 - a) * np.eye(flat.shape[1])
    matrix = a**0.5 * np.linalg.solve(spread, covariance).T
    return matrix, flat.mean(0) - a**0.5 * matrix @ flat.mean(0)


def of_largest_weights(patterns: np.ndarray, a: float, side: int):
    """neighbours(i): the side^2 positions that the linear filter weighs most for i."""
    channels, height, width = patterns.shape[1:]
    matrix = wiener(patterns, a)[0].reshape(channels, height, width, channels, height, width)

    def neighbours(i):
        weights = (matrix[:, i[0], i[1]] ** 2).sum((0, 1))  # [H, W]
        order = sorted(np.ndindex(height, width), key=lambda j: -weights[j])
        return order[: side**2]

    return neighbours
