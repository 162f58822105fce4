"""Figures of critical times and basins of attraction, from plain arrays.

`groups` are explained in utils/figures/groups.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.figures.groups import (
    CENSORED,
    SIZE_LABEL,
    Values,
    draw_legend,
    every_value,
    filled,
    looks_of,
    point_style,
    quartile_figure,
    shown_name,
    sizes_of,
)
from utils.figures.images import GAP, TILE, draw_heading, draw_tile
from utils.figures.style import (
    FAINT,
    INK,
    PALE,
    Look,
    blank_figure,
    distance_label,
    k_looks,
    new_figure,
    styled,
    three_digits,
)
from utils.files.class_folders import each

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOLDEN = (math.sqrt(5) - 1) / 2
FEW = 30  # points of a strip that can be seen one by one


class RecoveryRow(NamedTuple):
    """One image in [-1, 1], its noised copies at m times (steps), and the images recovered."""

    image: np.ndarray  # [C, H, W]
    times: np.ndarray  # int [m]
    noised: np.ndarray  # [m, C, H, W], any range
    recovered: np.ndarray  # [m, C, H, W]
    distances: np.ndarray  # [m], of the recovered images from the image
    critical_time: int  # steps; 0: never recovered
    censored: bool  # still recovered at the end of the scan


@styled
def critical_time_figure(
    groups: Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]], last: int
) -> Figure:
    """The critical time of each image, in steps, with the median of each K and group.

    groups: for each K critical times int [n] (0: never recovered) and censored bool [n]: images
    that still recovered at `last`, the end of the scan. These are open triangles there, and so is
    a median that is among them. Raises ValueError where there is no image."""
    # Infinite for censored times: then the median is infinite where it is among them.
    times = filled(each(groups, lambda pair: np.where(pair[1], np.inf, pair[0])))
    sizes, looks, slot = sizes_of(times), looks_of(times), 0.84 / len(times)
    names, ticks, width, turned = _labels_with_counts(times, sizes)
    fig = new_figure(width, 4.1)
    ax = fig.subplots()
    for g, (name, sweep) in enumerate(times.items()):
        for k, t_c in sweep.items():
            x = sizes.index(k) + (g - (len(times) - 1) / 2) * slot
            _strip(ax, x, 0.76 * slot, t_c, last, looks[name])
    every = every_value(times)
    censored = bool(np.isinf(every).any())
    top = last if censored else max(1, every.max())
    ax.set(xlim=(-0.6, len(sizes) - 0.4), ylim=(-0.04 * top, 1.08 * top))
    ax.set(xlabel=SIZE_LABEL, ylabel="Critical time $t_c$ (steps)")
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_xticks(range(len(sizes)), ticks, rotation=90 * turned, fontsize=7.5)
    ax.grid(axis="x", visible=False)
    styles = [point_style(look) | {"linestyle": "none"} for look in looks.values()]
    styles.append({"color": INK, "linewidth": 2.2})
    if censored:
        _end_of_scan(ax, last)
        styles.append(CENSORED)
    draw_legend(fig, styles, [*names, "median", "still recovering"][: len(styles)])
    return fig


def _labels_with_counts(
    groups: Values, sizes: list[int]
) -> tuple[list[str], list[str], float, bool]:
    """Labels of the groups and of the ticks, with numbers of images; the width of the figure in
    inches; whether the tick labels are turned.

    n stands beside the name of the group where it is the same at every K, else below each K."""
    n = np.array([[len(sweep.get(k, ())) for k in sizes] for sweep in groups.values()])  # [G, K]
    names = [shown_name(name) for name in groups]
    if (n == n[:, :1]).all():
        names = [f"{name} (n = {count})" for name, count in zip(names, n[:, 0], strict=True)]
        below = [""] * len(sizes)
    else:
        below = [f"n = {' / '.join(map(str, column))}" for column in n.T]
    letters = max(len(text) for text in (*map(str, sizes), *below))
    pitch = max(0.3 * len(groups), 0.062 * letters + 0.14, 0.5)
    turned = len(sizes) * pitch > 9
    if turned:
        pitch = max(6.2 / len(sizes), 0.16, 0.085 * len(groups))
    # A turned label ends at the axis: K comes last in it.
    pairs = zip(sizes, below, strict=True)
    ticks = [f"{text}   {k}" if turned else f"{k}\n{text}" for k, text in pairs]
    ticks = [text.strip() for text in ticks]
    return names, ticks, max(5.4, 1 + len(sizes) * pitch), turned


def _strip(ax: Axes, x: float, width: float, t_c: np.ndarray, last: int, look: Look) -> None:
    """Images of one group at one K, spread sideways around x, and their median."""
    from matplotlib.patheffects import withStroke

    n, censored = len(t_c), np.isinf(t_c)
    # Multiples of the golden ratio are spread evenly, and the same in each run.
    sideways = x + width * ((np.arange(n) * GOLDEN) % 1 - 0.5)
    style = {"s": float(np.clip(80 / math.sqrt(n), 4, 14))}
    style["alpha"] = float(np.clip(9 / math.sqrt(n), 0.3, 0.9))
    if not censored.all():
        edge = {"edgecolors": INK if n <= 200 else "none", "linewidths": 0.3}
        points = sideways[~censored], t_c[~censored]
        ax.scatter(*points, marker=look.marker, color=look.colour, zorder=2.5, **edge, **style)
    if censored.any():
        edge = {"facecolors": "none", "edgecolors": look.colour, "linewidths": 0.8}
        points = sideways[censored], np.full(censored.sum(), last)
        ax.scatter(*points, marker="^", zorder=2.6, **edge, **style)
    median = float(np.median(t_c))
    if math.isinf(median):
        open_mark = {"markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 1.4}
        ax.plot([x], [last], "^", markersize=7, zorder=4, **open_mark)
    else:
        halo = [withStroke(linewidth=3.6, foreground="white")]
        bar = [x - width * 0.6, x + width * 0.6]
        style = {"color": INK, "linewidth": 2.2, "solid_capstyle": "butt"}
        # In front of many points, which would hide it; behind few, which it would hide.
        front = {"zorder": 4, "path_effects": halo} if n > FEW else {"zorder": 2.4}
        ax.plot(bar, [median, median], **style, **front)


def _end_of_scan(ax: Axes, last: int) -> None:
    ax.axhline(last, color=PALE, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    style = {"ha": "right", "va": "bottom", "fontsize": 7.5, "color": PALE}
    ax.annotate("end of the scan", (1, last), xytext=(0, 5), **place, **style)


@styled
def recovery_figure(groups: Values, times: np.ndarray, followed: bool) -> Figure:
    """Shares recovered, in percent, over the time t; one panel for each group, one line for each K.

    groups: shares [T'], 0 to 1, at the scanned times int [T'], ascending. followed: of trials that
    recovered at every time up to t; else of images that did. The axis ends at the first time at
    which nothing recovers. Raises ValueError where there is no share."""
    groups, times = filled(groups), np.asarray(times)
    sizes = sizes_of(groups)
    dot = {"marker": "o" if len(times) == 1 else None}  # a line of one point cannot be seen
    styles = {k: look | dot for k, look in k_looks(sizes).items()}
    fig = new_figure(max(4.2, 1.6 + 2.3 * len(groups)), 3.5)
    axes = fig.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, sweep) in zip(axes, groups.items(), strict=True):
        ax.set(title=shown_name(name), xlabel="Time t (steps)")
        for k, share in sweep.items():
            ax.plot(times, 100 * share, label=f"K = {k}", **styles[k])
    recovering = np.any([s > 0 for sweep in groups.values() for s in sweep.values()], axis=0)
    last = np.flatnonzero(recovering)[-1] if recovering.any() else len(times)
    axes[0].set(xlim=(0, 1.02 * max(1, times[min(last + 1, len(times) - 1)])), ylim=(0, 103))
    subject = "Trials" if followed else "Images"
    axes[0].set_ylabel(f"{subject} recovered at every time up to t (%)")
    options = {"loc": "outside right upper", "ncols": 1 + (len(sizes) - 1) // 20}
    options["fontsize"] = 7 if len(sizes) > 18 else 9
    draw_legend(fig, styles.values(), [f"K = {k}" for k in sizes], **options)
    return fig


@styled
def volume_figure(groups: Values, dim: int) -> Figure:
    """The log-volume of the basins over K: medians and quartiles of ln V [n], of a ball with the
    image's mean radius at its critical time.

    ln V is -inf for images that never recovered and so have no basin: the caption counts them, the
    quartiles are those of the others. dim: d of the balls. Raises ValueError without images."""
    groups = filled(groups)
    every = every_value(groups)
    basins = each(groups, lambda v: v[v != -np.inf])
    caption = f"bars: quartiles; without a basin: {np.sum(every == -np.inf)} of {len(every)}"
    return quartile_figure(basins, f"Log-volume of the basin, ln V (d = {dim})", caption)[0]


@styled
def recovery_panel(
    k: int, group: str, rows: Sequence[RecoveryRow], metric: str, delta: float
) -> Figure:
    """Images, their noised copies at times around the critical time, and the images recovered.

    Below each is its distance; a thick frame in the colour of the group marks those within delta,
    in the unit of the metric. Raises ValueError without rows."""
    if not rows:
        raise ValueError("rows: found none; give one image at least")
    (look,) = looks_of([group]).values()
    title = f"K = {k}: {shown_name(group)}"
    note = f"{distance_label(metric)}, $\\delta$ = {delta:.4g}"
    step, head, left = TILE + 2 * GAP, 0.72, TILE + 0.52
    block = 2 * TILE + 0.62
    columns = max(len(row.times) for row in rows)
    width = max(left + columns * step + GAP, 0.7 + 0.11 * len(title) + 0.062 * len(note))
    fig, ax = blank_figure(width, head + len(rows) * block - 0.06)
    draw_heading(ax, look, title, note)
    for i, row in enumerate(rows):
        y = head + i * block
        if i:
            ax.plot([2 * GAP, width - 2 * GAP], [y - 0.27] * 2, color=FAINT, linewidth=0.8)
        draw_tile(ax, row.image, 2 * GAP, y, TILE)
        ax.text(2 * GAP + TILE / 2, y + TILE + 0.13, _critical_time(row), ha="center", size=7.5)
        for part, name in enumerate(("noised", "recovered")):
            middle = y + part * (TILE + GAP) + TILE / 2
            place = {"rotation": 90, "ha": "right", "va": "center"}
            ax.text(left - 0.06, middle, name, size=7, color=PALE, **place)
        for j in range(len(row.times)):
            edge = look.colour if row.distances[j] <= delta else None
            _copy(ax, row, j, left + j * step, y, edge)
    return fig


def _copy(ax: Axes, row: RecoveryRow, j: int, x: float, y: float, edge: str | None) -> None:
    """Copy j of an image at (x, y): its time, the noised and the recovered image, its distance."""
    below = y + TILE + GAP
    ax.text(x + TILE / 2, y - 0.05, f"t = {row.times[j]}", ha="center", size=7.5)
    draw_tile(ax, np.clip(row.noised[j], -1, 1), x, y, TILE)
    draw_tile(ax, row.recovered[j], x, below, TILE, edge=edge)
    style = {"ha": "center", "size": 7, "weight": "bold" if edge else "normal"}
    ax.text(x + TILE / 2, below + TILE + 0.13, three_digits(row.distances[j]), **style)


def _critical_time(row: RecoveryRow) -> str:
    if row.censored:
        return f"$t_c \\geq$ {row.critical_time}"
    return f"$t_c$ = {row.critical_time}" if row.critical_time else "never"
