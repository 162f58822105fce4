"""Figures of curvature: spectra, flat directions, dimensions, and curvature over critical time.

`groups` are explained in utils/figures/groups.py. Eigenvalues and traces come in units of the
noise, times (1 - alpha_bar_t): noise alone then gives 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.groups import (
    CAPTION,
    CENSORED,
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
from utils.figures.style import INK, PALE, Look, k_looks, new_figure, styled
from utils.files.class_folders import each

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# For each K: critical times [n] (inf: still recovering at the end), and a curvature [n, T'].
Points = Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]]
LEVELS = {  # horizontal lines in every spectrum
    "noise alone": (1.0, {"color": PALE, "linewidth": 0.9, "linestyle": (0, (6, 2))}),
    "flat below": (0.5, {"color": PALE, "linewidth": 0.9, "linestyle": (0, (1.5, 2))}),
}
LEGEND = {"loc": "outside right upper", "ncols": 1, "fontsize": 8}
FAR = 3  # times D: dimensions beyond it need a logarithmic axis


@styled
def spectra_figure(groups: Values, times: Sequence[int], dim: int) -> Figure:
    """Eigenvalues of H in units of the noise, one panel a group and time, one line a K.

    groups: [n, T', m] ascending, all m = D = dim or the m / 2 smallest and largest; a line is the
    median over the samples. Raises ValueError without samples."""
    groups = filled(groups)
    sizes = sizes_of(groups)
    looks = k_looks(sizes)
    fig = new_figure(2 + 2.3 * len(groups), max(2.8, 0.6 + 2.2 * len(times)))
    panels = fig.subplots(len(times), len(groups), sharex=True, sharey="row", squeeze=False)
    for column, (name, sweep) in zip(panels.T, groups.items(), strict=True):
        column[0].set_title(shown_name(name))
        column[-1].set_xlabel("Rank of the eigenvalue")
        for row, ax in enumerate(column):
            for k, values in sweep.items():
                _spectrum(ax, np.median(values[:, row], axis=0), dim, looks[k])
            for level, style in LEVELS.values():
                ax.axhline(level, zorder=1, **style)
    for t, row in zip(times, panels, strict=True):
        row[0].set_ylabel(f"$(1 - \\bar\\alpha_t)\\,\\lambda$ at t = {t}")
    _rank_ticks(panels[-1], next(iter(next(iter(groups.values())).values())).shape[2], dim)
    styles = [*looks.values(), *(style for _, style in LEVELS.values())]
    draw_legend(fig, styles, [*(f"K = {k}" for k in sizes), *LEVELS], **LEGEND)
    return fig


def _spectrum(ax: Axes, values: np.ndarray, dim: int, look: Mapping) -> None:
    """One line [m]; two where the middle of the spectrum is not known."""
    ends = [values] if len(values) == dim else np.split(values, 2)
    marks = {"marker": "o", "markersize": 2.5} if len(ends[0]) <= 16 else {}
    for end, first in zip(ends, (1, _start_of_largest(len(values))), strict=False):
        ax.plot(first + np.arange(len(end)), end, **look, **marks)


def _start_of_largest(m: int) -> int:
    """The place on the axis of the first of the m / 2 largest, behind a gap of m / 6."""
    return m // 2 + 1 + max(1, m // 6)


def _rank_ticks(axes: Sequence[Axes], m: int, dim: int) -> None:
    """Ranks of the eigenvalues below the axes; a band for those between the ends, not computed."""
    if m == dim:
        quarters = sorted({1, *(round(dim * i / 4) for i in (1, 2, 3, 4))} - {0})
        for ax in axes:
            ax.set_xticks(quarters)
        return
    first, half = _start_of_largest(m), m // 2
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
    caption = "directions along which the data vary more than the noise; bars: quartiles"
    return _panels({f"Flat directions (of {dim})": _known_counts(groups)}, times, caption)


def _known_counts(groups: Values) -> Values:
    """Counts, NaN for those below 0, which are not known."""
    return each(groups, lambda counts: np.where(counts < 0, np.nan, counts))


@styled
def dimension_figure(flipd: Values, bundles: Values, times: Sequence[int], dim: int) -> Figure:
    """Two local intrinsic dimensions over K, each [n, T']: medians and quartiles.

    bundles: -1 where not measured; without any, FLIPD stands alone. The axis of a measure that
    goes far beyond D = dim is logarithmic there. Raises ValueError without samples."""
    rows = {f"FLIPD (of {dim})": flipd}
    if any((counts >= 0).any() for sweep in bundles.values() for counts in sweep.values()):
        rows[f"Normal bundle (of {dim})"] = _known_counts(bundles)
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
    for axes, (label, values) in zip(panels, rows.items(), strict=True):
        groups = filled(values)
        axes[0].set_ylabel(label)
        for j, ax in enumerate(axes):
            at_t = each(groups, lambda v, j=j: v[:, j])
            draw_quartiles(ax, at_t, width=5.5 if len(times) == 1 else 2.7)
            every = every_value(at_t)
            unknown = np.sum(np.isnan(every))
            title = f"t = {times[j]}"
            title += f"; not known: {unknown} of {len(every)}" if unknown else ""
            ax.set_title(title, **CAPTION)
    for ax in panels[-1]:
        ax.set_xlabel(SIZE_LABEL)
    fig.align_ylabels(panels[:, 0])
    fig.supxlabel(caption, **{k: v for k, v in CAPTION.items() if k != "loc"})
    legend_of_groups(fig, groups)
    return fig


@styled
def critical_curvature_figure(points: Points, times: Sequence[int]) -> Figure:
    """The mean curvature (1 - alpha_bar_t) tr H / D over the critical time, one point a sample.

    Images that still recovered at the end of the scan (inf) are open triangles beyond the last
    time. One panel a time, with Spearman's rank correlation over all samples; those at the end of
    the scan share the last rank. Raises ValueError without samples of a known critical time."""
    groups = _with_critical_time(points)
    looks = looks_of(groups)
    t_c, curvature = (np.concatenate(part) for part in zip(*groups.values(), strict=True))
    last = t_c[np.isfinite(t_c)].max(initial=0)
    beyond = max(1, last) * 1.06
    fig = new_figure(6.4 if len(times) == 1 else 1 + 3.2 * len(times), 3.9)
    for j, ax in enumerate(fig.subplots(1, len(times), sharex=True, squeeze=False)[0]):
        for name, (group_t_c, values) in groups.items():
            _scatter(ax, group_t_c, values[:, j], beyond, looks[name])
        ax.set_title(f"t = {times[j]}; {_rank_correlation(t_c, curvature[:, j])}", **CAPTION)
        ax.set_xlabel("Critical time $t_c$ (steps)")
    fig.axes[0].set_ylabel("$(1 - \\bar\\alpha_t)\\,\\mathrm{tr}\\,H\\,/\\,D$")
    styles = [point_style(look) | {"linestyle": "none"} for look in looks.values()]
    names = [shown_name(name) for name in groups]
    if np.isinf(t_c).any():
        styles.append(CENSORED)
        names.append("still recovering")
    draw_legend(fig, styles, names)
    return fig


def _with_critical_time(points: Points) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Known critical times [n] and the curvature there [n, T'] of each group, of all K."""
    groups = {}
    for name in filled(each(points, lambda pair: pair[0])):
        t_c, values = (np.concatenate(part) for part in zip(*points[name].values(), strict=True))
        if (known := t_c >= 0).any():
            groups[name] = t_c[known], values[known]
    if not groups:
        raise ValueError("points: found no critical time; give one at least")
    return groups


def _scatter(ax: Axes, t_c: np.ndarray, values: np.ndarray, beyond: float, look: Look) -> None:
    censored = np.isinf(t_c)
    edge = {"edgecolors": INK, "linewidths": 0.4, "marker": look.marker, "color": look.colour}
    ax.scatter(t_c[~censored], values[~censored], s=16, **edge)
    hollow = {"facecolors": "none", "edgecolors": look.colour, "linewidths": 1.0}
    ax.scatter(np.full(censored.sum(), beyond), values[censored], s=22, marker="^", **hollow)


def _rank_correlation(t_c: np.ndarray, values: np.ndarray) -> str:
    """Spearman's rank correlation as a caption; none where all times or all values are equal."""
    from scipy.stats import spearmanr

    if len(np.unique(t_c)) < 2 or len(np.unique(values)) < 2:
        return f"no rank correlation (n = {len(t_c)})"
    rho = spearmanr(t_c, values).statistic
    return f"Spearman's $\\rho$ = {rho:.2f} (n = {len(t_c)})"
