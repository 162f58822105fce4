"""Figures of the circle in the plane, from arrays to a matplotlib Figure; nothing is saved here.

Points are [n, 2], energies [G, G] on the square of `axis` [G] with y as rows. The classes have the
colours and markers of all figures (CLASS_LOOKS)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.cli.options.choices import CLASSES
from utils.figures.style import CLASS_LOOKS, FAINT, INK, PALE, Look, k_looks, new_figure, styled
from utils.stages.toy.files import Basins, Landscape
from utils.stages.toy.landscapes import BARRIER, GENERALIZED, nearest_cells

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTH, LEVELS = 1.4, 15  # range of the contours above the lowest energy, and their number
MANY = 60  # more patterns than this are drawn as dots, not as crosses
GROUPS = ("Patterns", "Spurious states", "Points of the circle")
GROUP_LOOKS = (Look(INK, "D", "-", ""), CLASS_LOOKS[1], Look(PALE, "P", ":", ""))


@styled
def data_figure(points: np.ndarray, subsets: Mapping[int, np.ndarray]) -> Figure:
    """All points of the circle, and beside them the subsets by K."""
    fig = new_figure(2.3 * (1 + len(subsets)), 2.5)
    panels = {f"{len(points):,} points": points, **{f"K = {k}": p for k, p in subsets.items()}}
    axes = np.atleast_1d(fig.subplots(1, len(panels)))
    for ax, (title, patterns) in zip(axes, panels.items(), strict=True):
        _plane(ax, 1.4, title)
        _circle(ax)
        _patterns(ax, patterns)
    return fig


@styled
def samples_figure(samples: np.ndarray, patterns: np.ndarray, step: int) -> Figure:
    """Samples of a network after `step` training steps, and its training points."""
    fig = new_figure(3.2, 3.2)
    ax = fig.subplots()
    _plane(ax, 1.6, f"K = {len(patterns)}, step {step:,}")
    _circle(ax)
    ax.scatter(*samples.T, s=4, color=PALE, alpha=0.5, linewidths=0)
    _patterns(ax, patterns)
    return fig


@styled
def exact_figure(
    axis: np.ndarray,
    energies: Mapping[str, np.ndarray],
    patterns: Mapping[str, np.ndarray],
    beta: float,
) -> Figure:
    """Analytic energies side by side with common contours, and below them along two lines.

    energies: by title; patterns: of some of these titles. The lines are y = 0 and x = 0."""
    fig = new_figure(2.9 * len(energies) + 0.6, 5.4)
    upper, lower = fig.subplots(2, len(energies), squeeze=False, height_ratios=(3, 2))
    middle, lowest = len(axis) // 2, _floor(*energies.values())
    for ax, line, (title, energy) in zip(upper, lower, energies.items(), strict=True):
        contours = _energy(ax, axis, energy, lowest)
        _plane(ax, axis[-1], title)
        if title in patterns:
            _patterns(ax, patterns[title])
        line.plot(axis, energy[middle], color=INK, label="along y = 0")
        line.plot(axis, energy[:, middle], color=PALE, linestyle="--", label="along x = 0")
        line.set(xlabel="Place on the line", ylim=(lowest - 0.1, lowest + 2 * DEPTH))
        line.sharey(lower[0])
    lower[0].set_ylabel("Energy E")
    lower[0].legend(loc="upper center")
    fig.colorbar(contours, ax=list(upper), label="Energy E", shrink=0.9)
    fig.suptitle(f"Exact energy, beta = {beta:g}, t = {1 / (2 * beta):.3g}", fontsize=10)
    return fig


@styled
def training_figure(
    losses: Mapping[int, Sequence[tuple[int, float]]],
    times: Sequence[float],
    errors: Mapping[int, Sequence[float]],
) -> Figure:
    """Loss over the steps, and the error of the score over time, one line for each K."""
    fig = new_figure(7.2, 3.1)
    left, right = fig.subplots(1, 2)
    for k, look in k_looks(losses).items():
        left.plot(*np.array(losses[k], float).reshape(-1, 2).T, label=f"K = {k}", **look)
        if k in errors:
            right.plot(times, errors[k], marker="o", markersize=4, label=f"K = {k}", **look)
    left.set(xlabel="Step", ylabel="Loss (mean squared error)", title="Training", yscale="log")
    right.set(xlabel="Time t", ylabel="t x mean squared error", xscale="log", yscale="log")
    right.set_title("Against the exact score of the K patterns")
    left.legend()
    return fig


@styled
def landscape_figure(landscape: Landscape, t: float) -> Figure:
    """One K at time t: learned energy and score, exact energy, samples, and settled samples."""
    fig = new_figure(7.4, 6.9)
    (learned, exact), (samples, settled) = fig.subplots(2, 2)
    axis, patterns = landscape.axis, landscape.patterns
    lowest = _floor(landscape.energy, landscape.exact_energy)
    contours = _energy(learned, axis, landscape.energy, lowest)
    _energy(exact, axis, landscape.exact_energy, lowest)
    _arrows(learned, axis, landscape.score)
    for ax in (learned, exact):
        _patterns(ax, patterns)
    _wells(learned, landscape, t)
    _samples(samples, landscape)
    _patterns(samples, patterns)
    _circle(settled)
    settled.scatter(*landscape.settled.T, s=6, color=PALE, alpha=0.4, linewidths=0)
    centres, energies = landscape.centres, landscape.centre_energies
    for centre, energy, kind in zip(centres, energies, landscape.centre_kinds, strict=True):
        look = CLASS_LOOKS[kind]
        style = {"s": 60, "color": look.colour, "marker": look.marker, "edgecolor": INK}
        settled.scatter(*centre, **style, zorder=4)
        outward = centre / max(np.linalg.norm(centre), 1e-9)
        label_at = centre + 0.28 * outward
        settled.annotate(f"{energy:.2f}", label_at, ha="center", va="center", fontsize=8)
    titles = {
        learned: "Learned energy and score",
        exact: "Exact energy",
        samples: "Samples of the flow",
        settled: f"Settled samples: {len(centres)} cluster{'s' * (len(centres) > 1)}, energies",
    }
    for ax, title in titles.items():
        _plane(ax, axis[-1], title)
    fig.colorbar(contours, ax=[learned, exact], label="Energy E", shrink=0.9)
    _legend(fig)
    fig.suptitle(f"K = {len(patterns)}, t = {t:g}", fontsize=11)
    return fig


@styled
def circle_figure(landscapes: Mapping[int, Landscape], t: float) -> Figure:
    """A column for each K, at time t: learned energy, exact energy, samples by class."""
    sizes = sorted(landscapes)
    fig = new_figure(2.35 * len(sizes) + 0.8, 7.6)
    rows = fig.subplots(3, len(sizes), squeeze=False, sharex=True, sharey=True)
    for column, k in enumerate(sizes):
        landscape, axis = landscapes[k], landscapes[k].axis
        learned, exact, samples = rows[:, column]
        lowest = min(landscape.energy.min(), landscape.exact_energy.min())
        contours = _energy(learned, axis, landscape.energy - lowest, 0.0)
        _energy(exact, axis, landscape.exact_energy - lowest, 0.0)
        _wells(learned, landscape, t)
        _samples(samples, landscape)
        for ax in (learned, exact, samples):
            _plane(ax, axis[-1], f"K = {k}" if ax is learned else "")
            ax.label_outer()
            _patterns(ax, landscape.patterns)
    for ax, name in zip(rows[:, 0], ("Learned energy", "Exact energy", "Samples"), strict=True):
        ax.set_ylabel(f"{name}\ny")
    label = f"Energy above the lowest, t = {t:g}"
    fig.colorbar(contours, ax=list(rows[:2].flat), label=label, shrink=0.6, aspect=30)
    _legend(fig)
    return fig


@styled
def basin_figure(basins: Basins, title: str) -> Figure:
    """Recovery over time of each group, critical times in the plane, and their distribution."""
    groups, censored, critical = basins.groups, basins.censored, basins.critical_time
    fig = new_figure(9.6, 3.3)
    curves, plane, strip = fig.subplots(1, 3, width_ratios=(1.15, 1.1, 0.9))
    _circle(plane)
    for group in np.unique(groups)[::-1]:  # points of the circle below the others
        members, look = groups == group, GROUP_LOOKS[group]
        shift = np.linspace(-0.2, 0.2, members.sum()) if members.sum() > 1 else np.zeros(1)
        for part, fill in ((~censored[members], look.colour), (censored[members], "none")):
            style = {"s": 16, "marker": look.marker, "facecolor": fill, "edgecolor": look.colour}
            strip.scatter(group + shift[part], critical[members][part], **style)
        coloured = plane.scatter(
            *basins.points[members].T,
            c=critical[members],
            vmin=0,
            vmax=critical.max() or 1,
            cmap="cividis",
            marker=look.marker,
            s=(44, 60, 20)[group],
            edgecolor=INK,
            linewidths=0.4,
            zorder=3,
        )
    for group in np.unique(groups):
        members, look = groups == group, GROUP_LOOKS[group]
        label = f"{GROUPS[group]} ({members.sum()})"
        mean = basins.recovery[members].mean(axis=0)
        style = {"color": look.colour, "linestyle": look.line, "label": label}
        curves.plot(basins.times[members][0], mean, **style)
    curves.set(xlabel="Time t", ylabel="Share of trials recovered", ylim=(-0.03, 1.03), xlim=(0, 1))
    curves.legend(fontsize=8)
    _plane(plane, 1.4, "")
    fig.colorbar(coloured, ax=plane, label="Critical time", shrink=0.8)
    strip.set_xticks(range(3), ["Patterns", "Spurious", "Circle"])
    strip.set(xlabel="Kind of point", xlim=(-0.5, 2.5))
    strip.set_ylabel("Critical time (hollow: lives to the end)")
    strip.set_ylim(bottom=-0.02)
    fig.suptitle(title, fontsize=10)
    return fig


def _energy(ax: Axes, axis: np.ndarray, energy: np.ndarray, base: float) -> Any:
    """Filled contours of energies from base to base + DEPTH; low is dark."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("depth", colormaps["bone"](np.linspace(0.3, 1, 64)))
    levels = base + np.linspace(0, DEPTH, LEVELS)
    ax.contour(axis, axis, energy, levels=levels, colors="#00000030", linewidths=0.4)
    return ax.contourf(axis, axis, energy, levels=levels, cmap=shades, extend="max")


def _floor(*energies: np.ndarray) -> float:
    """The lowest energy, rounded down to a tenth: the first contour level."""
    return math.floor(10 * min(energy.min() for energy in energies)) / 10


def _arrows(ax: Axes, axis: np.ndarray, score: np.ndarray) -> None:
    """The direction of the score, as unit vectors: its length is large only at the border."""
    step = max(1, len(axis) // 15)
    ticks, arrows = axis[step // 2 :: step], score[step // 2 :: step, step // 2 :: step]
    length = np.maximum(np.linalg.norm(arrows, axis=2, keepdims=True), 1e-12)
    u, v = np.moveaxis(arrows / length, 2, 0)
    ax.quiver(ticks, ticks, u, v, color=INK, alpha=0.55, scale=26, width=0.004, pivot="mid")


def _wells(ax: Axes, landscape: Landscape, t: float) -> None:
    """A marker at each well; of a ring, which has no single place, the outline of its bottom."""
    axis, energies = landscape.axis, landscape.energy
    for well, kind in zip(landscape.wells, landscape.well_kinds, strict=True):
        look = CLASS_LOOKS[kind]
        if kind == GENERALIZED:
            lowest = energies[tuple(nearest_cells(well[None], axis)[0])]
            edge = [lowest + 2 * t * BARRIER]
            ax.contour(axis, axis, energies, levels=edge, colors=look.colour)
        else:
            style = {"s": 52, "color": look.colour, "marker": look.marker, "edgecolor": "white"}
            ax.scatter(*well, **style, zorder=4)


def _samples(ax: Axes, landscape: Landscape) -> None:
    _circle(ax)
    for kind, look in enumerate(CLASS_LOOKS):
        samples = landscape.samples[landscape.sample_kinds == kind]
        style = {"s": 7, "marker": look.marker, "color": look.colour, "alpha": 0.5}
        ax.scatter(*samples.T, linewidths=0, rasterized=True, **style)


def _patterns(ax: Axes, patterns: np.ndarray) -> None:
    if len(patterns) <= MANY:
        style = {"marker": "x", "s": 26, "linewidths": 1.1}
    else:
        style = {"marker": ".", "s": 3, "linewidths": 0}
    ax.scatter(*patterns.T, color=INK, zorder=3, **style, rasterized=len(patterns) > 5000)


def _circle(ax: Axes) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color=FAINT, linewidth=1, zorder=0)


def _plane(ax: Axes, reach: float, title: str) -> None:
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    ax.set(xlabel="x", ylabel="y", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    ax.grid(False)


def _legend(fig: Figure) -> None:
    """Classes and patterns, below the panels."""
    from matplotlib.lines import Line2D

    dot = {"linestyle": "", "markersize": 6}
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, label=name.capitalize(), **dot)
        for name, look in zip(CLASSES, CLASS_LOOKS, strict=True)
    ]
    handles.append(Line2D([], [], color=INK, marker="x", label="Training pattern", **dot))
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
