"""Figures of an audit: the worst pairs, and distances beside those of held-out images."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from utils.figures.images import GAP, TILE, draw_tile
from utils.figures.style import (
    INK,
    LOOKS,
    PALE,
    add_cosine_axis,
    blank_figure,
    distance_label,
    new_figure,
    styled,
    three_digits,
)

PAIRS, COLUMNS = 32, 8  # worst pairs that are shown, and in a row
BINS = 40


@styled
def pairs_figure(
    samples: np.ndarray, train: np.ndarray, captions: list[str], copies: list[bool], metric: str
) -> Figure:
    """Samples, worst first, each beside the training image that is nearest to it.

    samples, train [n, C, H, W] in [-1, 1], n >= 1. captions: below each pair. copies: which are
    framed. metric: names the unit of the captions."""
    step_x, step_y, head = 2 * TILE + 0.3, TILE + 0.36, 0.62
    rows = -(-len(samples) // COLUMNS)
    columns = min(COLUMNS, len(samples))
    width = max(4 * GAP + columns * step_x, 5.2)
    fig, ax = blank_figure(width, head + rows * step_y)
    ax.text(2 * GAP, 0.24, "Sample, and the training image nearest to it", size=11, weight="bold")
    note = f"worst first; framed: called a copy; below: {distance_label(metric)}"
    ax.text(2 * GAP, 0.46, note, size=8, color=PALE)
    frame = next(iter(LOOKS.values())).colour
    for i, (sample, other) in enumerate(zip(samples, train, strict=True)):
        x, y = 2 * GAP + i % COLUMNS * step_x, head + i // COLUMNS * step_y
        draw_tile(ax, sample, x, y, TILE, edge=frame if copies[i] else None)
        draw_tile(ax, other, x + TILE + 0.04, y, TILE)
        ax.text(x + TILE, y + TILE + 0.13, captions[i], ha="center", size=6.5)
    return fig


def caption(distance: float, by: str) -> str:
    """`0.312 ratio`."""
    return f"{three_digits(distance)} {by}".strip()


@styled
def distances_figure(
    samples: np.ndarray, copies: np.ndarray, held_out: np.ndarray | None, metric: str
) -> Figure:
    """Histogram of the distances to the nearest training image [N] of copies and new samples,
    stacked; held-out images [n] as a line, scaled to N."""
    fig = new_figure(6.4, 3.2)
    ax = fig.subplots()
    every = samples if held_out is None else np.concatenate([samples, held_out])
    edges = np.linspace(0, max(float(every.max()), 1e-6) * 1.02, BINS + 1)
    memorized, _, generalized = LOOKS.values()
    base = np.zeros(BINS)
    for name, look, chosen in (("copies", memorized, copies), ("new", generalized, ~copies)):
        counts, _ = np.histogram(samples[chosen], edges)
        style = {"color": look.colour, "hatch": look.hatch, "edgecolor": INK, "linewidth": 0.4}
        ax.bar(edges[:-1], counts, np.diff(edges), base, align="edge", label=name, **style)
        base += counts
    if held_out is not None:
        weights = np.full(len(held_out), len(samples) / len(held_out))
        counts, _ = np.histogram(held_out, edges, weights=weights)
        ax.stairs(counts, edges, color=INK, linewidth=1.2, label="held-out images")
    ax.set(xlabel=f"{distance_label(metric)} to the nearest training image", ylabel="Samples")
    ax.set_xlim(0, edges[-1])
    add_cosine_axis(ax, metric)
    ax.yaxis.get_major_locator().set_params(integer=True)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return fig
