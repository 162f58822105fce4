"""Pictures of the circle in the plane, from plain arrays to a matplotlib Figure; no path, no state.

Points are [n, 2], energies [G, G] on the square of `axis` [G] with y as rows. Classes look as
everywhere (figure_style.CLASS_LOOKS)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.cli.options.choices import CLASSES
from utils.figures.style import CLASS_LOOKS, FAINT, INK, PALE, Look, k_looks, new_figure, styled
from utils.stages.toy.files import Basins, Landscape
from utils.stages.toy.landscapes import BARRIER, GENERALIZED, nearest_cells

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTH, LEVELS = 1.4, 15  # energies above the lowest that are told apart, and in how many steps
MANY = 60  # patterns of which each is seen
GROUPS = ("Patterns", "Spurious states", "Points of the circle")
GROUP_LOOKS = (Look(INK, "D", "-", ""), CLASS_LOOKS[1], Look(PALE, "P", ":", ""))


class Scene(NamedTuple):
    """What a landscape shows of one K at time t; kinds are indices of verdicts.CLASSES."""

    axis: np.ndarray
    energy: np.ndarray  # [G, G], learned
    exact_energy: np.ndarray
    patterns: np.ndarray
    wells: np.ndarray
    well_kinds: np.ndarray
    samples: np.ndarray
    sample_kinds: np.ndarray


@styled
def data_figure(points: np.ndarray, subsets: Mapping[int, np.ndarray]) -> Figure:
    """All points of the circle, and beside them the subsets by K."""
    fig = new_figure(2.3 * (1 + len(subsets)), 2.5)
    named = {f"{len(points):,} points": points, **{f"K = {k}": p for k, p in subsets.items()}}
    for ax, (title, shown) in zip(
        np.atleast_1d(fig.subplots(1, len(named))), named.items(), strict=True
    ):
        _plane(ax, 1.4, title)
        _circle(ax)
        _patterns(ax, shown)
    return fig


@styled
def samples_figure(samples: np.ndarray, patterns: np.ndarray, step: int) -> Figure:
    """Samples of a network in training, after `step` steps, over its training points."""
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
    """Analytic energies side by side, on one scale, and below them along two lines.

    energies: by title; patterns: of some titles. Below: E along y = 0 and the ray of each."""
    fig = new_figure(2.9 * len(energies) + 0.6, 5.4)
    upper, lower = fig.subplots(2, len(energies), squeeze=False, height_ratios=(3, 2))
    middle, lowest = len(axis) // 2, _floor(*energies.values())
    for ax, line, (title, energy) in zip(upper, lower, energies.items(), strict=True):
        drawn = _energy(ax, axis, energy, lowest)
        _plane(ax, axis[-1], title)
        if title in patterns:
            _patterns(ax, patterns[title])
        line.plot(axis, energy[middle], color=INK, label="along y = 0")
        line.plot(axis, energy[:, middle], color=PALE, linestyle="--", label="along x = 0")
        line.set(xlabel="Place on the line", ylim=(lowest - 0.1, lowest + 2 * DEPTH))
        line.sharey(lower[0])
    lower[0].set_ylabel("Energy E")
    lower[0].legend(loc="upper center")
    fig.colorbar(drawn, ax=list(upper), label="Energy E", shrink=0.9)
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
def landscape_figure(scene: Scene, landscape: Landscape, t: float) -> Figure:
    """One K at time t: learned energy and score, exact energy, samples, and where they settle."""
    fig = new_figure(7.4, 6.9)
    (learned, exact), (samples, rest) = fig.subplots(2, 2)
    lowest = _floor(scene.energy, scene.exact_energy)
    drawn = _energy(learned, scene.axis, scene.energy, lowest)
    _energy(exact, scene.axis, scene.exact_energy, lowest)
    _arrows(learned, scene.axis, landscape.score)
    for ax in (learned, exact):
        _patterns(ax, scene.patterns)
    _wells(learned, scene, t)
    _samples(samples, scene)
    _patterns(samples, scene.patterns)
    _circle(rest)
    rest.scatter(*landscape.settled.T, s=6, color=PALE, alpha=0.4, linewidths=0)
    centres = landscape.centres
    for centre, energy, kind in zip(
        centres, landscape.centre_energies, landscape.centre_kinds, strict=True
    ):
        look = CLASS_LOOKS[kind]
        rest.scatter(*centre, s=60, color=look.colour, marker=look.marker, edgecolor=INK, zorder=4)
        away = centre / max(np.linalg.norm(centre), 1e-9)
        rest.annotate(f"{energy:.2f}", centre + 0.28 * away, ha="center", va="center", fontsize=8)
    titles = ("Learned energy and score", "Exact energy", "Samples of the flow")
    for ax, title in zip((learned, exact, samples), titles, strict=True):
        _plane(ax, scene.axis[-1], title)
    count = len(centres)
    _plane(rest, scene.axis[-1], f"Settled samples: {count} cluster{'s' * (count > 1)}, energies")
    fig.colorbar(drawn, ax=[learned, exact], label="Energy E", shrink=0.9)
    _legend(fig)
    fig.suptitle(f"K = {len(scene.patterns)}, t = {t:g}", fontsize=11)
    return fig


@styled
def circle_figure(scenes: Mapping[int, Scene], t: float) -> Figure:
    """A column for each K, at time t: learned energy, exact energy, samples by what they are."""
    sizes = sorted(scenes)
    fig = new_figure(2.35 * len(sizes) + 0.8, 7.6)
    rows = fig.subplots(3, len(sizes), squeeze=False, sharex=True, sharey=True)
    for column, k in enumerate(sizes):
        scene = scenes[k]
        learned, exact, samples = rows[:, column]
        lowest = min(scene.energy.min(), scene.exact_energy.min())
        drawn = _energy(learned, scene.axis, scene.energy - lowest, 0.0)
        _energy(exact, scene.axis, scene.exact_energy - lowest, 0.0)
        _wells(learned, scene, t)
        _samples(samples, scene)
        for ax in (learned, exact, samples):
            _plane(ax, scene.axis[-1], f"K = {k}" if ax is learned else "")
            ax.label_outer()
            _patterns(ax, scene.patterns)
    for ax, name in zip(rows[:, 0], ("Learned energy", "Exact energy", "Samples"), strict=True):
        ax.set_ylabel(f"{name}\ny")
    label = f"Energy above the lowest, t = {t:g}"
    fig.colorbar(drawn, ax=list(rows[:2].flat), label=label, shrink=0.6, aspect=30)
    _legend(fig)
    return fig


@styled
def basin_figure(basins: Basins, title: str) -> Figure:
    """Recovery over time of each group, critical times in the plane, and their spread."""
    groups, censored, critical = basins.groups, basins.censored, basins.critical_time
    fig = new_figure(9.6, 3.3)
    curves, plane, strip = fig.subplots(1, 3, width_ratios=(1.15, 1.1, 0.9))
    _circle(plane)
    for group in np.unique(groups)[::-1]:  # points of the circle below the others
        mine, look = groups == group, GROUP_LOOKS[group]
        shift = np.linspace(-0.2, 0.2, mine.sum()) if mine.sum() > 1 else np.zeros(1)
        for some, fill in ((~censored[mine], look.colour), (censored[mine], "none")):
            mark = {"s": 16, "marker": look.marker, "facecolor": fill, "edgecolor": look.colour}
            strip.scatter(group + shift[some], critical[mine][some], **mark)
        drawn = plane.scatter(
            *basins.points[mine].T,
            c=critical[mine],
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
        mine, look = groups == group, GROUP_LOOKS[group]
        label = f"{GROUPS[group]} ({mine.sum()})"
        mean = basins.recovery[mine].mean(axis=0)
        style = {"color": look.colour, "linestyle": look.line, "label": label}
        curves.plot(basins.times[mine][0], mean, **style)
    curves.set(xlabel="Time t", ylabel="Share of trials recovered", ylim=(-0.03, 1.03), xlim=(0, 1))
    curves.legend(fontsize=8)
    _plane(plane, 1.4, "")
    fig.colorbar(drawn, ax=plane, label="Critical time", shrink=0.8)
    strip.set_xticks(range(3), ["Patterns", "Spurious", "Circle"])
    strip.set(xlabel="Kind of point", xlim=(-0.5, 2.5))
    strip.set_ylabel("Critical time (hollow: lives to the end)")
    strip.set_ylim(bottom=-0.02)
    fig.suptitle(title, fontsize=10)
    return fig


def _energy(ax: Axes, axis: np.ndarray, energy: np.ndarray, base: float) -> Any:
    """Filled contours of energies from base to base + DEPTH; deep is dark."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("depth", colormaps["bone"](np.linspace(0.3, 1, 64)))
    levels = base + np.linspace(0, DEPTH, LEVELS)
    ax.contour(axis, axis, energy, levels=levels, colors="#00000030", linewidths=0.4)
    return ax.contourf(axis, axis, energy, levels=levels, cmap=shades, extend="max")


def _floor(*energies: np.ndarray) -> float:
    """The lowest energy, rounded down to a tenth: where the levels begin."""
    return math.floor(10 * min(energy.min() for energy in energies)) / 10


def _arrows(ax: Axes, axis: np.ndarray, score: np.ndarray) -> None:
    """The direction of the score; its length would hide all but the rim."""
    step = max(1, len(axis) // 15)
    places, arrows = axis[step // 2 :: step], score[step // 2 :: step, step // 2 :: step]
    length = np.maximum(np.linalg.norm(arrows, axis=2, keepdims=True), 1e-12)
    u, v = np.moveaxis(arrows / length, 2, 0)
    ax.quiver(places, places, u, v, color=INK, alpha=0.55, scale=26, width=0.004, pivot="mid")


def _wells(ax: Axes, scene: Scene, t: float) -> None:
    """A mark at each well; a ring has no place, so its bottom is outlined."""
    for well, kind in zip(scene.wells, scene.well_kinds, strict=True):
        look = CLASS_LOOKS[kind]
        if kind == GENERALIZED:
            lowest = scene.energy[tuple(nearest_cells(well[None], scene.axis)[0])]
            edge = [lowest + 2 * t * BARRIER]
            ax.contour(scene.axis, scene.axis, scene.energy, levels=edge, colors=look.colour)
        else:
            ax.scatter(
                *well, s=52, color=look.colour, marker=look.marker, edgecolor="white", zorder=4
            )


def _samples(ax: Axes, scene: Scene) -> None:
    _circle(ax)
    for kind, look in enumerate(CLASS_LOOKS):
        mine = scene.samples[scene.sample_kinds == kind]
        style = {"s": 7, "marker": look.marker, "color": look.colour, "alpha": 0.5}
        ax.scatter(*mine.T, linewidths=0, rasterized=True, **style)


def _patterns(ax: Axes, patterns: np.ndarray) -> None:
    few = len(patterns) <= MANY
    look = {"marker": "x", "s": 26, "linewidths": 1.1} if few else {"marker": ".", "s": 3}
    ax.scatter(
        *patterns.T,
        color=INK,
        zorder=3,
        **look,
        **({} if few else {"linewidths": 0}),
        rasterized=len(patterns) > 5000,
    )


def _circle(ax: Axes) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color=FAINT, linewidth=1, zorder=0)


def _plane(ax: Axes, reach: float, title: str) -> None:
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    ax.set(xlabel="x", ylabel="y", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    ax.grid(False)


def _legend(fig: Figure) -> None:
    """Classes and patterns, below everything."""
    from matplotlib.lines import Line2D

    dot = {"linestyle": "", "markersize": 6}
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, label=name.capitalize(), **dot)
        for name, look in zip(CLASSES, CLASS_LOOKS, strict=True)
    ]
    handles.append(Line2D([], [], color=INK, marker="x", label="Training pattern", **dot))
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
