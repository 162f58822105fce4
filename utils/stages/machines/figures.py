"""Figures of the machines that explain networks: over t and K, mixtures, classes, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from utils.cli.options.choices import CLASSES, MACHINE_NAMES
from utils.figures.groups import SIZE_LABEL, draw_legend, point_style
from utils.figures.images import GAP, TILE, draw_tile
from utils.figures.style import INK, LOOKS, PALE, Look, blank_figure, log_ticks, new_figure, styled
from utils.stages.machines.files import HELD_OUT, SAMPLES, SETS, TRAINING, Interval, Stored

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#7A1F5C", "#7B7B7B", "#D17A22", "#2E8B62", "#3566A8")
MARKERS = ("o", "D", "^", "s", "v")
LINES = ("-", ":", "--", "-.", (0, (3, 1, 1, 1, 1, 1)))
MACHINE_LOOKS = {
    name: Look(colour, marker, line, "")
    for name, colour, marker, line in zip(MACHINE_NAMES, COLOURS, MARKERS, LINES, strict=True)
}
GROUP_TITLES = {
    TRAINING: "Training images",
    HELD_OUT: "Held-out images",
    SAMPLES: "The network's samples",
}
LOWEST = -0.2  # of an axis of r^2: a machine below it explains nothing, however far below
CELL, TITLE = 0.52, 1.75  # inches of a cell of the map, of the longest title
FAR_BELOW = -9  # r^2 that no cell has room for
COLUMNS = 16  # seeds that are shown
Sweep = Mapping[int, Stored]


@styled
def map_figure(sweep: Sweep) -> Figure:
    """The machine of largest r^2 over (K, t), and that r^2, for each set of images.

    A number in brackets: another machine is not shown to be worse. Raises ValueError without K."""
    sizes, times = sizes_and_times(sweep)
    groups = [g for g in SETS if any(one.at(g, t) for one in sweep.values() for t in times)]
    width = max(TITLE, CELL * len(sizes)) + 0.45
    fig = new_figure(1.2 + len(groups) * width, 1.5 + 0.36 * len(times))
    axes = fig.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for ax, group in zip(axes, groups, strict=True):
        for column, k in enumerate(sizes):
            for row, t in enumerate(times):
                draw_cell(ax, sweep[k], group, t, column, row)
        ax.set(xlim=(-0.5, len(sizes) - 0.5), ylim=(-0.5, len(times) - 0.5))
        ax.set_xticks(range(len(sizes)), map(str, sizes), rotation=45 if len(sizes) > 4 else 0)
        ax.set_yticks(range(len(times)), map(str, times))
        ax.set_title(GROUP_TITLES[group])
        ax.set_xlabel("K")
        ax.grid(False)
    axes[0].set_ylabel("Time t")
    fig.supxlabel("r² of the best machine; (r²): another one is not shown to be worse", size=8)
    legend_of_machines(fig, machines_of(sweep))
    return fig


def draw_cell(ax: Axes, stored: Stored, group: str, t: int, column: int, row: int) -> None:
    """One K and time: the colour of the best machine, its r^2."""
    from matplotlib.patches import Rectangle

    entry = stored.at(group, t)
    if entry is None or entry.best is None:
        ax.text(column, row, "–", ha="center", va="center", color=PALE)
        return
    r2 = entry.r2[entry.best][0]
    look, strength = MACHINE_LOOKS[entry.best], 0.25 + 0.75 * min(1.0, max(0.0, r2))
    box = Rectangle((column - 0.5, row - 0.5), 1, 1, color=look.colour, alpha=strength, lw=0)
    ax.add_patch(box)
    text = f"{r2:.2f}" if r2 > FAR_BELOW else f"< {FAR_BELOW}"
    text = f"({text})" if entry.tied else text
    ax.text(column, row, text, ha="center", va="center", size=6.5, color=ink_on(look, strength))


def ink_on(look: Look, strength: float) -> str:
    """White or black, whichever is easier to read on a cell."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - strength * (1 - c) for c in to_rgb(look.colour))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else INK


@styled
def mixture_figure(sweep: Sweep) -> Figure:
    """At three times: r^2 of each machine over K with 95 % intervals, and below it the weights of
    the best mixture; on held-out images, or training images where none is held out."""
    sizes, times = sizes_and_times(sweep)
    shown = some_times(times)
    group = HELD_OUT if any(one.at(HELD_OUT, t) for one in sweep.values() for t in times) else None
    group = group or TRAINING
    names = machines_of(sweep)
    fig = new_figure(max(4.4, 2.6 * len(shown) + 0.8), 5.0)  # room for the label below
    upper, lower = fig.subplots(2, len(shown), squeeze=False, sharey="row")
    for ax, t in zip(upper, shown, strict=True):
        entries = {k: one.at(group, t) for k, one in sweep.items()}
        values = {k: entry.r2 for k, entry in entries.items() if entry}
        draw_r2(ax, values, sizes, names)
        ax.set_title(f"t = {t}")
    for ax, t in zip(lower, shown, strict=True):
        draw_weights(ax, sweep, group, t, sizes, names)
    upper[0].set_ylabel("r²")
    lower[0].set_ylabel("Weight in the best mixture")
    fig.supxlabel(f"{SIZE_LABEL}; {GROUP_TITLES[group].lower()}, noised", size=9)
    legend_of_machines(fig, names)
    return fig


def draw_r2(
    ax: Axes, values: Mapping[int, Mapping[str, Interval]], sizes: Sequence[int], names: list[str]
) -> None:
    """r^2 of each machine over K, with its interval; below LOWEST at the lower edge."""
    log_ticks(ax, np.array(sizes), width=2.2)
    for name in names:
        drawn = [k for k in sizes if k in values and np.isfinite(values[k][name][0])]
        if not drawn:
            continue
        table = np.array([values[k][name] for k in drawn]).clip(LOWEST, 1)
        middle, low, high = table.T
        bars = {"yerr": [(middle - low).clip(0), (high - middle).clip(0)], "elinewidth": 0.9}
        style = point_style(MACHINE_LOOKS[name])
        ax.errorbar(drawn, middle, capsize=2, markersize=4.5, lw=1.2, **bars, **style)
    ax.set_ylim(LOWEST - 0.04, 1.04)


def draw_weights(
    ax: Axes, sweep: Sweep, group: str, t: int, sizes: Sequence[int], names: list[str]
) -> None:
    """Stacked weights of the best mixture, one bar for each K; its r^2 above."""
    places = np.arange(len(sizes))
    entries = [sweep[k].at(group, t) for k in sizes]
    bottom = np.zeros(len(sizes))
    for name in names:
        heights = np.array([e.mixture[name][0] if e else 0.0 for e in entries])
        look = MACHINE_LOOKS[name]
        ax.bar(places, heights, 0.8, bottom, color=look.colour, edgecolor="white", linewidth=0.4)
        bottom = bottom + heights
    for place, entry in zip(places, entries, strict=True):
        if entry and np.isfinite(entry.mixture_r2[0]):
            text = f"{entry.mixture_r2[0]:.2f}"
            ax.text(place, 1.02, text, ha="center", size=6, color=PALE)
    ax.set_xticks(places, map(str, sizes), rotation=45 if len(sizes) > 4 else 0)
    ax.set_ylim(0, 1.1)
    ax.grid(False)


@styled
def classes_figure(sweep: Sweep) -> Figure:
    """r^2 of each machine over K, on noised samples of each class, at three times.

    Raises ValueError where no class of samples was told apart."""
    sizes, times = sizes_and_times(sweep)
    shown = some_times(times)
    groups = [
        name for name in CLASSES if any(one.at(name, t) for one in sweep.values() for t in times)
    ]
    if not groups:
        raise ValueError("sweep: found no class of samples; give those of run_classify.py")
    names = machines_of(sweep)
    fig = new_figure(2.6 * len(groups) + 0.8, 1.9 * len(shown) + 0.9)
    axes = fig.subplots(len(shown), len(groups), squeeze=False, sharey=True)
    for row, t in zip(axes, shown, strict=True):
        for ax, group in zip(row, groups, strict=True):
            entries = {k: one.at(group, t) for k, one in sweep.items()}
            draw_r2(ax, {k: e.r2 for k, e in entries.items() if e}, sizes, names)
        row[0].set_ylabel(f"t = {t}\nr²")
    for ax, group in zip(axes[0], groups, strict=True):
        ax.set_title(f"{group} samples")
    fig.supxlabel(SIZE_LABEL, size=9)
    legend_of_machines(fig, names)
    return fig


@styled
def seeds_figure(
    k: int,
    names: Sequence[str],
    network: np.ndarray,
    machines: np.ndarray,
    classes: np.ndarray,
    medians: Mapping[str, float],
) -> Figure:
    """Samples of the network, and of each machine from the same seeds: one row each.

    network [S, C, H, W], S >= 1; machines [M, S, C, H, W], in the order of names; classes int [S],
    positions in CLASSES, -1 unknown; medians: of r^2 over all seeds, by machine."""
    count = min(COLUMNS, len(network))
    # Samples of one class stand together.
    order = np.argsort(np.where(classes < 0, len(CLASSES), classes), kind="stable")[:count]
    left, right, top = 1.0, 0.75, 0.85
    end = left + count * (TILE + GAP)
    width = max(end + right, left + 3.6)  # room for the title
    fig, ax = blank_figure(width, top + (1 + len(names)) * (TILE + GAP) + GAP)
    ax.text(left, 0.2, f"K = {k}: samples from the same seeds", size=10, weight="bold")
    ax.text(end + 0.1, top - 0.12, "median r²", size=7, color=PALE)
    for column, i in enumerate(order):
        if classes[i] >= 0:
            look = LOOKS[CLASSES[classes[i]]]
            x = left + column * (TILE + GAP) + TILE / 2
            mark = {"color": look.colour, "markeredgecolor": INK, "markersize": 6}
            ax.plot(x, top - 0.14, look.marker, **mark)
    if (classes >= 0).any():
        for place, name in enumerate(CLASSES):
            look, x = LOOKS[name], left + 0.1 + 1.1 * place
            ax.plot(x, 0.43, look.marker, color=look.colour, markeredgecolor=INK, markersize=6)
            ax.text(x + 0.1, 0.46, name, size=8)
    rows = [("network", network), *zip(names, machines, strict=True)]
    for number, (name, images) in enumerate(rows):
        y = top + number * (TILE + GAP)
        ax.text(left - 0.1, y + TILE / 2, name, ha="right", va="center", size=9)
        for column, i in enumerate(order):
            draw_tile(ax, images[i], left + column * (TILE + GAP), y, TILE)
        if name in medians:
            text = f"{medians[name]:.2f}"
            ax.text(end + 0.1, y + TILE / 2, text, va="center", size=9)
    return fig


def legend_of_machines(fig: Figure, names: list[str]) -> None:
    draw_legend(fig, [point_style(MACHINE_LOOKS[name]) for name in names], names)


def machines_of(sweep: Sweep) -> list[str]:
    """The machines of any K, in the order of MACHINE_NAMES."""
    used = {name for one in sweep.values() for name in one.machines}
    return [name for name in MACHINE_NAMES if name in used]


def sizes_and_times(sweep: Sweep) -> tuple[list[int], list[int]]:
    """Ascending K, and the times of any of them. Raises ValueError where there is no K."""
    if not sweep:
        raise ValueError("sweep: found none; give one K at least")
    return sorted(sweep), sorted({t for one in sweep.values() for t in one.times})


def some_times(times: Sequence[int]) -> list[int]:
    """Three of them at most: the first, the middle one, the last."""
    return sorted({times[0], times[len(times) // 2], times[-1]})
