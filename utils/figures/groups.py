"""Parts of figures of groups over K: their order, looks, quartiles and legend.

`groups` maps the name of a group, usually a class, to its sweep: values by K. A class that is
empty at some K is absent there, or has no values. Classes come first and look as everywhere
(style.LOOKS); up to three other groups have different greys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.style import INK, LOOKS, PALE, Look, log_ticks, new_figure

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Mapping[str, Mapping[int, np.ndarray]]
GREYS = ((INK, "D"), ("#777777", "P"), ("#B5B5B5", "X"))
OTHER_LOOKS = [Look(grey, marker, ":", "") for grey, marker in GREYS]
SIZE_LABEL = "Training-set size K (images)"
NAME_LENGTH = 24  # letters of a group's name that are shown
CAPTION = {"fontsize": 8, "color": PALE, "loc": "left"}
CENSORED = {"color": INK, "linestyle": "none", "marker": "^", "markerfacecolor": "none"}


def draw_quartiles(ax: Axes, groups: Values, width: float) -> np.ndarray:
    """Draw median and quartiles of each group over K on axes `width` inches wide.

    Values that are not finite are left out. Returns the largest absolute value of each bar."""
    sizes, looks = sizes_of(groups), looks_of(groups)
    log_ticks(ax, np.array(sizes), width=width)
    shift = _shift(ax, sizes, len(groups), width=width)
    crowded = len(sizes) > 15
    size = {"capsize": 1.2, "markersize": 3.5} if crowded else {"capsize": 3, "markersize": 6}
    reaches = []
    for g, (name, sweep) in enumerate(groups.items()):
        finite = {k: values[np.isfinite(values)] for k, values in sweep.items()}
        drawn = [k for k, values in finite.items() if len(values)]
        quartiles = np.array([np.quantile(finite[k], (0.25, 0.5, 0.75)) for k in drawn])
        low, middle, high = quartiles.reshape(-1, 3).T
        reaches.append(np.maximum(np.abs(low), np.abs(high)))
        x = np.array(drawn) * math.exp(shift * (g - (len(groups) - 1) / 2))
        bars = {"yerr": [middle - low, high - middle], "elinewidth": 1.1, "zorder": 3}
        ax.errorbar(x, middle, **bars, **size, **point_style(looks[name]))
    reaches = np.concatenate(reaches)
    if not len(reaches):
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no values", ha="center", color=PALE, transform=ax.transAxes)
    return reaches


def point_style(look: Look) -> dict:
    """matplotlib's options of a line with markers."""
    edge = {"markeredgecolor": INK, "markeredgewidth": 0.6}
    return {"color": look.colour, "marker": look.marker, "linestyle": look.line, **edge}


def _shift(ax: Axes, sizes: list[int], groups: int, width: float) -> float:
    """Distance of neighbouring groups in ln K: bars do not overlap, and are nearest to their K."""
    low, high = np.log(ax.get_xlim())
    nearest = np.diff(np.log(sizes)).min() if len(sizes) > 1 else math.inf
    widest = min(0.09, 0.26 / max(1, groups - 1)) * (high - low) / width  # 0.09 inches: two caps
    return min(widest, max(nearest / (groups + 0.5), widest / 3))


def filled(groups: Values) -> dict[str, dict[int, np.ndarray]]:
    """The groups that have values, classes first and in their order; K ascending.

    Raises ValueError where none has."""
    result = {}
    for name in [*(n for n in LOOKS if n in groups), *(n for n in groups if n not in LOOKS)]:
        sweep = {k: np.asarray(values) for k, values in sorted(groups[name].items()) if len(values)}
        if sweep:
            result[name] = sweep
    if not result:
        raise ValueError("groups: found nothing to draw; give values of at least one K")
    return result


def every_value(groups: Values) -> np.ndarray:
    """The values of all groups and K, [n]."""
    return np.concatenate([values for sweep in groups.values() for values in sweep.values()])


def sizes_of(groups: Values) -> list[int]:
    """The K of any group, ascending."""
    return sorted({k for sweep in groups.values() for k in sweep})


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """The look of each group; of groups that are no class, the fourth has that of the first."""
    others = [name for name in names if name not in LOOKS]
    greys = {name: OTHER_LOOKS[i % len(OTHER_LOOKS)] for i, name in enumerate(others)}
    return {name: LOOKS.get(name) or greys[name] for name in names}


def shown_name(name: str) -> str:
    """A group's name for matplotlib: short, no formula, and not hidden from the legend."""
    name = name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
    return (" " + name if name.startswith("_") else name).replace("$", r"\$")


def legend_of_groups(fig: Figure, groups: Values) -> None:
    """A legend of the groups above the figure."""
    looks = looks_of(groups).values()
    draw_legend(fig, [point_style(look) for look in looks], map(shown_name, groups))


def draw_legend(
    fig: Figure, styles: Iterable[Mapping], names: Iterable[str], **options: object
) -> None:
    """A legend of lines, above the figure and in as many columns as fit, unless options differ."""
    from matplotlib.lines import Line2D

    names = list(names)
    columns = int(fig.get_figwidth() / (0.08 * max(map(len, names)) + 0.5))
    above = {"loc": "outside upper center", "ncols": min(len(names), max(1, columns))}
    handles = [Line2D([], [], **style) for style in styles]
    fig.legend(handles, names, handlelength=2.8, **above | options)


def quartile_figure(groups: Values, label: str, caption: str) -> tuple[Figure, np.ndarray]:
    """A figure of median and quartiles of each group over K, and what `draw_quartiles` returns.

    Values that are not finite are left out, and counted in the caption if there are any."""
    fig = new_figure(6.4, 3.9)
    ax = fig.subplots()
    reaches, every = draw_quartiles(ax, groups, width=5.5), every_value(groups)
    if lost := np.sum(~np.isfinite(every)):
        caption += f"; not finite: {lost} of {len(every)}"
    ax.set(xlabel=SIZE_LABEL, ylabel=label)
    ax.set_title(caption, **CAPTION)
    legend_of_groups(fig, groups)
    return fig, reaches
