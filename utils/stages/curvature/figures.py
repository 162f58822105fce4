"""Pictures of curvature: spectra, flat directions, dimensions, and curvature over critical time.

No path, no state. What `groups` are, and how they look: utils/figures/groups.py. Eigenvalues and
traces come in units of the noise, times (1 - alpha_bar_t): noise alone then gives 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.groups import (
    CAPTION,
    SIZE_LABEL,
    Values,
    draw_legend,
    draw_quartiles,
    every_value,
    filled,
    legend_of_groups,
    looks_of,
    point_style,
    shown_name,
    sizes_of,
)
from utils.figures.style import INK, PALE, k_looks, new_figure, styled

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# For each K: critical times [n] (inf: still recovering at the end), and a curvature [n, T'].
Points = Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]]
LEVELS = {  # lines across every spectrum
    "noise alone": (1.0, {"color": PALE, "linewidth": 0.9, "linestyle": (0, (6, 2))}),
    "flat below": (0.5, {"color": PALE, "linewidth": 0.9, "linestyle": (0, (1.5, 2))}),
}
LEGEND = {"loc": "outside right upper", "ncols": 1, "fontsize": 8}
FAR = 3  # times D: dimensions beyond it would press the others together


@styled
def spectra_figure(groups: Values, times: Sequence[int], dim: int) -> Figure:
    """Eigenvalues of H in units of the noise, one panel a group and time, one line a K.

    groups: [n, T', m] ascending, all m = D = dim or the m / 2 smallest and largest; a line is the
    median over the samples. Raises ValueError without samples."""
    held = filled(groups)
    sizes = sizes_of(held)
    looks = k_looks(sizes)
    fig = new_figure(2 + 2.3 * len(held), max(2.8, 0.6 + 2.2 * len(times)))
    panels = fig.subplots(len(times), len(held), sharex=True, sharey="row", squeeze=False)
    for column, (name, sweep) in zip(panels.T, held.items(), strict=True):
        column[0].set_title(shown_name(name))
        column[-1].set_xlabel("Rank of the eigenvalue")
        for row, ax in enumerate(column):
            for k, values in sweep.items():
                _spectrum(ax, np.median(values[:, row], axis=0), dim, looks[k])
            for level, style in LEVELS.values():
                ax.axhline(level, zorder=1, **style)
    for t, row in zip(times, panels, strict=True):
        row[0].set_ylabel(f"$(1 - \\bar\\alpha_t)\\,\\lambda$ at t = {t}")
    _rank_ticks(panels[-1], next(iter(next(iter(held.values())).values())).shape[2], dim)
    styles = [*looks.values(), *(style for _, style in LEVELS.values())]
    draw_legend(fig, styles, [*(f"K = {k}" for k in sizes), *LEVELS], **LEGEND)
    return fig


def _spectrum(ax: Axes, values: np.ndarray, dim: int, look: Mapping) -> None:
    """One line [m]; two where the middle of the spectrum is not known."""
    ends = [values] if len(values) == dim else np.split(values, 2)
    marks = {"marker": "o", "markersize": 2.5} if len(ends[0]) <= 16 else {}
    for end, first in zip(ends, (1, _second(len(values))), strict=False):
        ax.plot(first + np.arange(len(end)), end, **look, **marks)


def _second(m: int) -> int:
    """Where the largest of both ends begin on the axis: a gap of a third of them stands between."""
    return m // 2 + 1 + max(1, m // 6)


def _rank_ticks(axes: Sequence[Axes], m: int, dim: int) -> None:
    """Ranks of eigenvalues below; a band where those between the ends are left out."""
    if m == dim:
        quarters = sorted({1, *(round(dim * i / 4) for i in (1, 2, 3, 4))} - {0})
        for ax in axes:
            ax.set_xticks(quarters)
        return
    first, half = _second(m), m // 2
    ticks = {1: "1", half: str(half), first: str(dim - half + 1), first + half - 1: str(dim)}
    if half == 1:
        ticks = {1: "1", first: str(dim)}
    for ax in axes:
        ax.set_xticks(list(ticks), list(ticks.values()))
    for ax in axes[0].figure.axes:
        ax.axvspan(half + 0.5, first - 0.5, color="#F2F2F2", zorder=0)


@styled
def flat_figure(groups: Values, times: Sequence[int], dim: int) -> Figure:
    """Flat directions over K: medians and quartiles of counts [n, T'], one panel a time.

    -1: not known, left out, and counted in the caption. Raises ValueError without samples."""
    known = {
        name: {k: np.where(counts < 0, np.nan, counts) for k, counts in sweep.items()}
        for name, sweep in groups.items()
    }
    told = "directions along which the data vary more than the noise; bars: quartiles"
    return _panels({f"Flat directions (of {dim})": known}, times, told)


@styled
def dimension_figure(flipd: Values, bundles: Values, times: Sequence[int], dim: int) -> Figure:
    """Two local intrinsic dimensions over K, each [n, T']: medians and quartiles.

    bundles: -1 where not measured; without any, FLIPD stands alone. The axis of a measure that
    goes far beyond D = dim is logarithmic there. Raises ValueError without samples."""
    rows = {f"FLIPD (of {dim})": flipd}
    if any((counts >= 0).any() for sweep in bundles.values() for counts in sweep.values()):
        rows[f"Normal bundle (of {dim})"] = {
            name: {k: np.where(counts < 0, np.nan, counts) for k, counts in sweep.items()}
            for name, sweep in bundles.items()
        }
    fig = _panels(rows, times, "local intrinsic dimension; bars: quartiles")
    for row, values in enumerate(rows.values()):
        axes = fig.axes[row * len(times) : (row + 1) * len(times)]
        reach = max(np.abs(ax.dataLim.intervaly).max() for ax in axes)
        if np.isfinite(reach) and reach > FAR * dim and every_value(filled(values)).size:
            for ax in axes:
                ax.set_yscale("symlog", linthresh=dim)
    return fig


def _panels(rows: Mapping[str, Values], times: Sequence[int], caption: str) -> Figure:
    """Quartiles over K: one row a measure, whose values are [n, T'], one column a time."""
    width = 6.4 if len(times) == 1 else 1 + 3.2 * len(times)
    fig = new_figure(width, 1 + 2.9 * len(rows))
    panels = fig.subplots(len(rows), len(times), sharex=True, sharey="row", squeeze=False)
    for axes, (label, groups) in zip(panels, rows.items(), strict=True):
        held = filled(groups)
        axes[0].set_ylabel(label)
        for j, ax in enumerate(axes):
            at_t = {n: {k: v[:, j] for k, v in sweep.items()} for n, sweep in held.items()}
            draw_quartiles(ax, at_t, width=5.5 if len(times) == 1 else 2.7)
            every = every_value(at_t)
            lost = np.sum(np.isnan(every))
            told = f"t = {times[j]}" + (f"; not known: {lost} of {len(every)}" if lost else "")
            ax.set_title(told, **CAPTION)
    for ax in panels[-1]:
        ax.set_xlabel(SIZE_LABEL)
    fig.align_ylabels(panels[:, 0])
    fig.supxlabel(caption, **{k: v for k, v in CAPTION.items() if k != "loc"})
    legend_of_groups(fig, held)
    return fig


@styled
def critical_curvature_figure(points: Points, times: Sequence[int]) -> Figure:
    """The mean curvature (1 - alpha_bar_t) tr H / D over the critical time, one point a sample.

    Images that still recovered at the end of the scan (inf) are open triangles beyond the last
    time. One panel a time, with Spearman's rank correlation over all samples, the open ones last
    in time and tied. Raises ValueError without samples of a known critical time."""
    held = _known(points)
    looks = looks_of(held)
    t_c = np.concatenate([found for found, _ in held.values()])
    curvature = np.concatenate([found for _, found in held.values()])
    last = t_c[np.isfinite(t_c)].max(initial=0)
    beyond = max(1, last) * 1.06
    fig = new_figure(6.4 if len(times) == 1 else 1 + 3.2 * len(times), 3.9)
    for j, ax in enumerate(fig.subplots(1, len(times), sharex=True, squeeze=False)[0]):
        for name, (own, values) in held.items():
            _scatter(ax, own, values[:, j], beyond, looks[name])
        ax.set_title(f"t = {times[j]}; {_told_rank(t_c, curvature[:, j])}", **CAPTION)
        ax.set_xlabel("Critical time $t_c$ (steps)")
    fig.axes[0].set_ylabel("$(1 - \\bar\\alpha_t)\\,\\mathrm{tr}\\,H\\,/\\,D$")
    styles = [point_style(look) | {"linestyle": "none"} for look in looks.values()]
    names = [shown_name(name) for name in held]
    if np.isinf(t_c).any():
        styles.append({"color": INK, "linestyle": "none", "marker": "^", "markerfacecolor": "none"})
        names.append("still recovering")
    draw_legend(fig, styles, names)
    return fig


def _known(points: Points) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Critical times [n] and curvature [n, T'] of each group, of all K and of known time."""
    held = {}
    for name in filled({n: {k: t_c for k, (t_c, _) in s.items()} for n, s in points.items()}):
        t_c, values = (np.concatenate(part) for part in zip(*points[name].values(), strict=True))
        if (known := t_c >= 0).any():
            held[name] = t_c[known], values[known]
    if not held:
        raise ValueError("points: found no critical time; give one at least")
    return held


def _scatter(ax: Axes, t_c: np.ndarray, values: np.ndarray, beyond: float, look) -> None:
    ends = np.isinf(t_c)
    edge = {"edgecolors": INK, "linewidths": 0.4}
    ax.scatter(t_c[~ends], values[~ends], s=16, color=look.colour, marker=look.marker, **edge)
    hollow = {"facecolors": "none", "edgecolors": look.colour, "linewidths": 1.0}
    ax.scatter(np.full(ends.sum(), beyond), values[ends], s=22, marker="^", **hollow)


def _told_rank(t_c: np.ndarray, values: np.ndarray) -> str:
    """Spearman's rank correlation as a caption; none where either is the same for all."""
    from scipy.stats import spearmanr

    if len(np.unique(t_c)) < 2 or len(np.unique(values)) < 2:
        return f"no rank correlation (n = {len(t_c)})"
    rho = spearmanr(t_c, values).statistic
    return f"Spearman's $\\rho$ = {rho:.2f} (n = {len(t_c)})"
