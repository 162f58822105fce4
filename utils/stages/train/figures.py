"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from utils.figures.style import k_looks, new_figure, styled


@styled
def loss_figure(stats: Mapping[int, Sequence[Mapping[str, Any]]]) -> Figure:
    """Training and validation loss over the steps, one line for each K.

    stats: for each K the rows of stats.jsonl, with `step`, `loss` and `valid_loss` (None where
    there was none). K without rows are left out."""
    fig = new_figure(7.2, 3.3)
    axes = fig.subplots(1, 2, sharex=True, sharey=True)
    looks = k_looks(k for k in stats if stats[k])
    for k, look in looks.items():
        for ax, key in zip(axes, ("loss", "valid_loss"), strict=True):
            points = [(row["step"], row[key]) for row in stats[k] if row.get(key) is not None]
            steps, losses = np.array(points, float).reshape(-1, 2).T
            dot = {"marker": "o" if len(points) == 1 else None}  # a line of one cannot be seen
            ax.plot(steps, losses, label=f"K = {k}", **look, **dot)
    axes[0].set(title="Training images", ylabel="Loss (mean squared error)", xlabel="Step")
    axes[1].set(title="Held-out images", xlabel="Step")
    if looks:
        axes[0].set_yscale("log")
        fig.legend(handles=axes[0].lines, loc="outside right upper", handlelength=3)
    return fig
