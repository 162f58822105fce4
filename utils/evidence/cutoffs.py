"""Published cut-offs: the cosine similarities from which studies speak of copies."""

from __future__ import annotations

import math

import numpy as np

from utils.cli.options.choices import CUTOFFS


def cutoff_shares(
    metric: str, distances: np.ndarray, held_out: np.ndarray
) -> dict[str, float | None]:
    """The share of distances [N] to the nearest training image that lie within each published
    cut-off, by its name, and of held-out images [n] as `_control`; None of another metric."""
    shares: dict[str, float | None] = {}
    for name, cosine in CUTOFFS.items():
        within, known = distance_of(cosine), name.startswith(f"{metric}-")
        for end, d in (("", distances), ("_control", held_out)):
            shares[name + end] = float(np.mean(d <= within)) if known and len(d) else None
    return shares


def distance_of(cosine: float) -> float:
    """d = sqrt(2 (1 - s)) of vectors of norm 1 with cosine similarity s."""
    return math.sqrt(2 * (1 - cosine))
