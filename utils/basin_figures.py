"""Pictures of basins and energies, from plain arrays to a matplotlib Figure; no path, no state.

`groups` maps a group, usually a class, to its sweep: arrays by K. A class that is empty at some K
is absent there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.figure_style import (
    FAINT,
    INK,
    PALE,
    Look,
    blank_figure,
    distance_label,
    log_ticks,
    new_figure,
    styled,
    three_digits,
)
from utils.figures import GAP, LOOKS, TILE, draw_tile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHER = Look("#555555", "D", ":", "")  # a group that is no class, as the training images
Values = Mapping[str, Mapping[int, np.ndarray]]


class RecoveryRow(NamedTuple):
    """One image and its copies at m times: how they were noised, and what was recovered."""

    image: np.ndarray  # [C, H, W]
    times: np.ndarray  # int [m]
    noised: np.ndarray  # [m, C, H, W]
    recovered: np.ndarray  # [m, C, H, W]
    distances: np.ndarray  # [m], from the image
    critical_time: int
    censored: bool


def look_of(group: str) -> Look:
    return LOOKS.get(group, OTHER)


def sizes_of(groups: Mapping[str, Mapping[int, object]]) -> list[int]:
    """Every K of any group, ascending. Raises ValueError where there is none."""
    sizes = sorted({k for sweep in groups.values() for k in sweep})
    if not sizes:
        raise ValueError("groups: found nothing to draw; give one K at least")
    return sizes


@styled
def critical_time_figure(
    groups: Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]], last: int
) -> Figure:
    """The critical time of each image, by group and K; bars are medians.

    groups: critical times int [n] (0: never recovered) and censored bool [n]: images that were
    still recovering at `last`, the end of the scan, are open triangles there.
    Raises ValueError without any K."""
    sizes = sizes_of(groups)
    fig = new_figure(max(5.0, 1.4 + 0.95 * len(sizes)), 3.9)
    ax = fig.subplots()
    width = 0.8 / len(groups)
    beyond = False
    for g, (name, sweep) in enumerate(groups.items()):
        look = look_of(name)
        for k in sweep:
            times, censored = sweep[k]
            x = sizes.index(k) + (g + 0.5) * width - 0.4
            _strip(ax, x, 0.7 * width, np.asarray(times), np.asarray(censored, bool), look)
            beyond |= bool(np.any(censored))
        ax.plot([], [], look.marker, color=look.colour, markeredgecolor=INK, label=name)
    if beyond:
        ax.plot([], [], "^", color="none", markeredgecolor=INK, label=f"recovers beyond t = {last}")
        ax.axhline(last, color=PALE, linewidth=0.8, linestyle="--", zorder=1)
    counts = [
        f"{k}\n({' / '.join(str(len(s[k][0])) if k in s else '0' for s in groups.values())})"
        for k in sizes
    ]
    ax.set_xticks(range(len(sizes)), counts, fontsize=8 if len(sizes) < 12 else 5)
    ax.set(xlim=(-0.6, len(sizes) - 0.4), ylabel="Critical time $t_c$ (steps)")
    ax.set_ylim(bottom=-0.03 * ax.dataLim.y1)
    ax.set_xlabel("Training-set size K (in brackets: images of each group)")
    ax.grid(axis="x", visible=False)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def _strip(
    ax: Axes, x: float, width: float, times: np.ndarray, censored: np.ndarray, look: Look
) -> None:
    """Points of one group at one K, spread sideways, and their median."""
    # A golden-ratio sequence spreads evenly and is the same each time.
    jitter = x + width * ((np.arange(len(times)) * 0.618) % 1 - 0.5)
    size = float(np.clip(60 / np.sqrt(len(times) + 1), 2, 14))
    edge = {"edgecolors": INK, "linewidths": 0.3}
    for chosen, marker, colour in ((~censored, look.marker, look.colour), (censored, "^", "none")):
        if chosen.any():
            style = edge if marker != "^" or colour != "none" else {"edgecolors": look.colour}
            ax.scatter(jitter[chosen], times[chosen], s=size, marker=marker, c=colour, **style)
    median = float(np.median(times))
    ax.plot([x - width / 2, x + width / 2], [median, median], color=INK, linewidth=2, zorder=4)


@styled
def recovery_figure(groups: Values, times: np.ndarray, followed: bool) -> Figure:
    """Share of trials (followed) or images that recover at every scanned time up to t.

    groups: shares [T'], 0 to 1, at times int [T']. One panel a group, one line a K.
    Raises ValueError without any K."""
    from matplotlib import colormaps

    sizes = sizes_of(groups)
    columns = -(-len(sizes) // 12)  # of the legend
    fig = new_figure(0.6 + columns + 2.4 * len(groups), 3.3)
    axes = np.atleast_1d(fig.subplots(1, len(groups), sharex=True, sharey=True))
    for ax, (name, sweep) in zip(axes, groups.items(), strict=True):
        ax.set(title=name, xlabel="Time t (steps)", ylim=(0, 102))
        for k in sorted(sweep):
            i = sizes.index(k)
            shade = colormaps["viridis"](0.9 * i / max(1, len(sizes) - 1))
            style = {"color": shade, "linestyle": ("-", "--", "-.", ":")[i % 4]}
            ax.plot(times, 100 * np.asarray(sweep[k]), label=f"K = {k}", **style)
    alive = [t for s in groups.values() for v in s.values() for t in times[np.asarray(v) > 0]]
    axes[0].set_xlim(0, min(1.1 * max(alive, default=times[-1]) + 1, times[-1]))
    subject = "Trials" if followed else "Images"
    axes[0].set_ylabel(f"{subject} recovered at every time up to t (%)")
    lines = {line.get_label(): line for ax in axes for line in ax.lines}
    labels = sorted(lines, key=lambda label: int(label.split()[-1]))
    handles = [lines[label] for label in labels]
    fig.legend(handles, labels, loc="outside right upper", ncols=columns, handlelength=3)
    return fig


@styled
def volume_figure(groups: Values, dim: int) -> Figure:
    """Log-volume of the basins over K: median and quartiles of ln V [n], -inf for no basin.

    Images without a basin are counted and left out. dim: d of the ball.
    Raises ValueError without any K."""
    sizes_of(groups)
    every = [v for sweep in groups.values() for v in sweep.values()]
    total = sum(len(v) for v in every)
    none = sum(int(np.isneginf(v).sum()) for v in every)
    finite = {g: {k: v[np.isfinite(v)] for k, v in s.items()} for g, s in groups.items()}
    caption = f"medians; bars: quartiles; without a basin: {none} of {total}"
    return _over_sizes(finite, f"Log-volume of the basin, ln V (d = {dim})", caption)


@styled
def energy_figure(groups: Values, t: int, references: int) -> Figure:
    """Relative energy over K: median and quartiles of [n], the mean over `references` images.

    Raises ValueError without any K."""
    plural = "reference" if references == 1 else f"mean over {references} references"
    caption = f"{plural}; higher: the sample lies deeper; medians; bars: quartiles"
    fig = _over_sizes(groups, f"Relative energy u(r) - u(x) at t = {t}", caption)
    fig.axes[0].axhline(0, color=PALE, linewidth=0.8)
    return fig


def _over_sizes(groups: Values, label: str, caption: str) -> Figure:
    """Median and quartiles of each group over K; K without values are left out."""
    sizes = np.array(sizes_of(groups))
    fig = new_figure(6.4, 3.9)
    ax = fig.subplots()
    for g, (name, sweep) in enumerate(groups.items()):
        look = look_of(name)
        own = [k for k in sorted(sweep) if len(sweep[k])]
        shift = 1 + 0.05 * (g - (len(groups) - 1) / 2)  # so that bars do not hide each other
        quartiles = np.array([np.quantile(sweep[k], (0.25, 0.5, 0.75)) for k in own])
        low, middle, high = quartiles.reshape(-1, 3).T
        ax.errorbar(
            np.array(own) * shift,
            middle,
            yerr=[middle - low, high - middle],
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            label=name,
            capsize=3,
            elinewidth=1.1,
            markeredgecolor=INK,
            markeredgewidth=0.6,
        )
    log_ticks(ax, sizes, width=5.4)
    ax.set(xlabel="Training-set size K (images)", ylabel=label)
    ax.set_title(caption, fontsize=8, color=PALE, loc="left")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


@styled
def recovery_panel(
    k: int, group: str, rows: Sequence[RecoveryRow], metric: str, delta: float
) -> Figure:
    """Images, their noised copies at times around the critical one, and what was recovered.

    A thick frame: recovered, to within delta in the metric; its distance stands below.
    Raises ValueError without rows."""
    if not rows:
        raise ValueError("rows: found none; give one image at least")
    look = look_of(group)
    step_x, head, left = TILE + 3 * GAP, 0.75, TILE + 6 * GAP
    step_y = 2 * TILE + 0.62
    columns = max(len(row.times) for row in rows)
    width = max(left + columns * step_x + GAP, 4.6)
    fig, ax = blank_figure(width, head + len(rows) * step_y)
    ax.plot(0.2, 0.18, look.marker, color=look.colour, markeredgecolor=INK, markersize=8)
    ax.text(0.33, 0.22, f"K = {k}: {group}", size=11, weight="bold")
    told = f"framed: {distance_label(metric)} up to {delta:.4g}"
    ax.text(width - 2 * GAP, 0.22, told, ha="right", size=8, color=PALE)
    for i, row in enumerate(rows):
        y = head + i * step_y
        if i:
            ax.plot([GAP, width - GAP], [y - 0.3, y - 0.3], color=FAINT, linewidth=0.8)
        draw_tile(ax, row.image, 2 * GAP, y, TILE)
        ax.text(2 * GAP, y + TILE + 0.14, _reached(row), size=7.5)
        for j, t in enumerate(row.times):
            x = left + j * step_x
            ax.text(x + TILE / 2, y - 0.05, f"t = {t}", ha="center", size=7.5)
            draw_tile(ax, np.clip(row.noised[j], -1, 1), x, y, TILE)
            near = row.distances[j] <= delta
            below = y + TILE + GAP
            draw_tile(ax, row.recovered[j], x, below, TILE, edge=look.colour if near else None)
            place = {"ha": "center", "size": 7, "weight": "bold" if near else "normal"}
            ax.text(x + TILE / 2, below + TILE + 0.13, three_digits(row.distances[j]), **place)
    return fig


def _reached(row: RecoveryRow) -> str:
    if row.censored:
        return f"$t_c \\geq$ {row.critical_time}"
    return f"$t_c$ = {row.critical_time}" if row.critical_time else "never"
