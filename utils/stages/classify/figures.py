"""Figures of the transition: shares over K, histograms of distances, panels of neighbours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.cli.options.choices import CLASSES, MEMORIZED, SPURIOUS
from utils.evidence.image_quality import ENDS
from utils.figures.groups import CAPTION, SIZE_LABEL, point_style
from utils.figures.images import GAP, TILE, draw_heading, draw_tile
from utils.figures.style import (
    INK,
    LOOKS,
    PALE,
    Look,
    add_cosine_axis,
    blank_figure,
    distance_label,
    log_ticks,
    new_figure,
    styled,
    three_digits,
)
from utils.stages.classify.files import Judged

BINS = 40
SCORE_LOOKS = {  # no colours of classes
    "precision": Look("#5B3A8C", "D", "-", ""),
    "recall": Look("#1F7A5A", "v", "--", ""),
    "coverage": Look("#7A7A7A", "P", "-.", ""),
}


@styled
def transition_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Shares of the three classes, in percent, over K: the rows of summary.csv, in any order.

    Each has `K`, `N`, `CLASS_share`, `CLASS_low`, `CLASS_high` (0 to 1; the 95 % interval is
    drawn as an error bar), and may have `CLASS_control` (the same share of real images, drawn
    thin), `criterion` and `metric`. K is on a log scale. Raises ValueError without rows."""
    if not rows:
        raise ValueError("rows: found none; give one for each K")
    rows = sorted(rows, key=lambda row: int(row["K"]))
    sizes = np.array([int(row["K"]) for row in rows])
    fig = new_figure(6.4, 3.9)
    ax = fig.subplots()
    for name, look in LOOKS.items():
        share, low, high = (
            np.array([100 * float(row[f"{name}_{part}"]) for row in rows])
            for part in ("share", "low", "high")
        )
        ax.errorbar(
            sizes,
            share,
            yerr=np.maximum([share - low, high - share], 0),  # rounding may give -1e-16
            label=name,
            capsize=3,
            elinewidth=1.1,
            clip_on=False,
            zorder=3,
            **point_style(look),
        )
    for name in (MEMORIZED, SPURIOUS):
        real = np.array([_percent(row.get(f"{name}_control")) for row in rows])
        if np.isfinite(real).any():
            thin = {"linewidth": 1.1, "linestyle": (0, (1, 2)), "marker": "_", "zorder": 2}
            label = f"{name}, real images"
            ax.plot(sizes, real, label=label, color=LOOKS[name].colour, clip_on=False, **thin)
    log_ticks(ax, sizes, width=5.6)
    ax.set(ylim=(0, 100), xlabel=SIZE_LABEL, ylabel="Share of samples (%)")
    handles, names = ax.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: names[i] not in CLASSES)  # the classes first
    handles, names = ([one[i] for i in order] for one in (handles, names))
    fig.legend(handles, names, loc="outside upper center", ncols=3)
    ax.set_title(_caption(rows), **CAPTION)
    return fig


@styled
def repeats_figure(runs: Sequence[Sequence[Judged]]) -> Figure:
    """Shares of the three classes, in percent, over K, of several trainings: their mean as a line,
    each of them as a point, the 95 % interval of each within its run as a thin bar."""
    fig = new_figure(6.4, 3.9)
    ax = fig.subplots()
    sizes = np.array(sorted(set.intersection(*({one.row["K"] for one in run} for run in runs))))
    for i, (name, look) in enumerate(LOOKS.items()):
        rows = [{one.row["K"]: one.row for one in run} for run in runs]
        shares = np.array([[100 * run[k][f"{name}_share"] for k in sizes] for run in rows])
        low, high = (
            np.array([[100 * run[k][f"{name}_{end}"] for k in sizes] for run in rows])
            for end in ("low", "high")
        )
        style = point_style(look)
        ax.plot(sizes, shares.mean(axis=0), label=name, clip_on=False, **style | {"marker": ""})
        for run, share in enumerate(shares):
            # beside each other, so that the bars of the classes and runs do not hide each other
            at = sizes * 1.03 ** (run - (len(shares) - 1) / 2 + 0.3 * (i - 1))
            ends = np.maximum([share - low[run], high[run] - share], 0)
            bars = {"ecolor": look.colour, "elinewidth": 0.7, "linestyle": "none"}
            ax.errorbar(at, share, yerr=ends, **style | bars | {"markersize": 3.5}, clip_on=False)
    log_ticks(ax, sizes, width=5.6)
    ax.set(ylim=(0, 100), xlabel=SIZE_LABEL, ylabel="Share of samples (%)")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    ax.set_title(f"{len(runs)} trainings of each K; bars: 95 % intervals within one", **CAPTION)
    return fig


def _percent(share: float | str | None) -> float:
    """NaN where there is none, as in a .csv file."""
    return np.nan if share in (None, "", "None") else 100 * float(share)


def _caption(rows: Sequence[Mapping[str, Any]]) -> str:
    """Samples for each K, criterion and metric, and what the bars are."""
    totals = sorted({int(row["N"]) for row in rows})
    count = f"{totals[0]}" if len(totals) == 1 else f"{totals[0]} to {totals[-1]}"
    parts = [f"N = {count}"]
    if rows[0].get("criterion"):
        parts.append(f"criterion: {rows[0]['criterion']}")
    if rows[0].get("metric"):
        parts.append(distance_label(str(rows[0]["metric"])))
    return ", ".join([*parts, "bars: 95 % intervals"])


@styled
def quality_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The way through the transition: Frechet distance against the memorized share, a point for
    each K; precision, recall and coverage over K. Bars: 95 % intervals; thin: real images.

    rows: of summary.csv, two or more with quality, in any order."""
    rows = sorted(rows, key=lambda row: row["K"])
    sizes = np.array([row["K"] for row in rows])
    fig = new_figure(7.4, 3.5)
    left, right = fig.subplots(1, 2)
    x, y = (np.array([row[name] for row in rows]) for name in ("memorized_share", "frechet"))
    ends = np.array([[row["frechet_low"], row["frechet_high"]] for row in rows]).T
    style = point_style(LOOKS[MEMORIZED]) | {"color": INK, "linewidth": 1.0}
    left.errorbar(100 * x, y, yerr=np.maximum([y - ends[0], ends[1] - y], 0), capsize=2, **style)
    for i, (k, *place) in enumerate(zip(sizes, 100 * x, y, strict=True)):
        beside = {"textcoords": "offset points", "size": 7, "va": "center"}
        left.annotate(f"{k}", place, (6, 5 - 10 * (i % 2)), **beside)
    real = [row["frechet_control"] for row in rows]
    thin = {"color": PALE, "linewidth": 1.1, "linestyle": (0, (1, 2)), "marker": "_"}
    left.plot(100 * x, real, label="real images", **thin)
    left.set(xlabel="Memorized samples (%)", ylabel=f"Frechet distance ({rows[0]['metric']})")
    left.set_title("Numbers: K", **CAPTION)
    left.set_ylim(bottom=0)
    for name, look in SCORE_LOOKS.items():
        value, low, high, control = (
            np.array([row[f"{name}{end}"] for row in rows]) for end in ENDS
        )
        bars = np.maximum([value - low, high - value], 0)
        right.errorbar(sizes, value, yerr=bars, label=name, capsize=2, **point_style(look))
        right.plot(sizes, control, **thin | {"color": look.colour})
    log_ticks(right, sizes, width=3.0)
    right.set(ylim=(0, 1.02), xlabel=SIZE_LABEL)
    counts = sorted({int(row["quality_n"]) for row in rows})
    shown = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    right.set_title(f"n = {shown} images of each set", **CAPTION)
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    names = [*left.get_legend_handles_labels()[1], *right.get_legend_handles_labels()[1]]
    fig.legend(handles, names, loc="outside upper center", ncols=4)
    return fig


@styled
def histogram_figure(judged: Judged, labels: np.ndarray) -> Figure:
    """Histograms of the distances of one K to the nearest training image and to the nearest other
    sample, stacked by class, with the thresholds if the criterion has some.

    labels [N] are positions in CLASSES. A line shows held-out real images in the same way, scaled
    to N. Infinite distances (no other sample) are left out."""
    row, own, real = judged.row, judged.distances, judged.distances.real
    delta_m, delta_s, metric = row["delta_m"], row["delta_s"], row["metric"]
    d_train, d_synth = own.near[:, 0], own.neighbours
    fig = new_figure(7.2, 3.3)
    axes = fig.subplots(1, 2, sharex=True, sharey=True)
    finite = [d[np.isfinite(d)] for d in (d_train, d_synth)]
    largest = max((float(d.max()) for d in finite if len(d)), default=0.0) or 1.0
    # A threshold far beyond every distance would squeeze the bars: it is only in the title.
    shown = [d for d in (delta_m, delta_s) if d is not None and d <= 1.5 * largest]
    edges = np.linspace(0, max([largest, *shown]) * 1.02, BINS + 1)
    panels = (
        ("Nearest training image", d_train, real.near[:, 0], delta_m, r"$\delta_m$"),
        ("Nearest other sample", d_synth, real.control[1], delta_s, r"$\delta_s$"),
    )
    for ax, (title, distances, others, delta, symbol) in zip(axes, panels, strict=True):
        _stacked(ax, distances, labels, edges)
        if len(others):
            weights = np.full(len(others), row["N"] / len(others))
            counts, _ = np.histogram(others, edges, weights=weights)
            ax.stairs(counts, edges, color=INK, linewidth=1.0, label="real images")
        if delta is not None:
            ax.axvline(delta, color=INK, linestyle=(0, (4, 2)), linewidth=1.3)
            title += f", {symbol} = {delta:.4g} (dashed)"
        ax.set(title=title, xlabel=distance_label(metric), xlim=(0, edges[-1]))
        add_cosine_axis(ax, metric)
    axes[0].set(ylabel="Samples", ylim=(0, 1.06 * max(1, axes[0].dataLim.y1, axes[1].dataLim.y1)))
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    fig.suptitle(f"K = {row['K']}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    place = {"loc": "outside upper right", "bbox_to_anchor": (1, 1)}
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, ncols=4, **place)
    return fig


def _stacked(ax: Axes, distances: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> None:
    base = np.zeros(len(edges) - 1)
    for i, name in enumerate(CLASSES):
        look = LOOKS[name]
        counts, _ = np.histogram(distances[(labels == i) & np.isfinite(distances)], edges)
        style = {"color": look.colour, "hatch": look.hatch, "edgecolor": INK, "linewidth": 0.4}
        ax.bar(edges[:-1], counts, np.diff(edges), base, align="edge", label=name, **style)
        base += counts


@styled
def neighbour_panel(
    k: int,
    class_name: str,
    samples: np.ndarray,
    train_nns: np.ndarray,
    synth_nns: np.ndarray,
    d_train: np.ndarray,
    d_synth: np.ndarray,
    rows: int = 8,
    metric: str | None = None,
) -> Figure:
    """The first `rows` samples of one class beside their neighbours, distances under these.

    samples [n,C,H,W], n >= 1; train_nns [n,k,C,H,W] with d_train [n,k]; synth_nns [n,k',C,H,W]
    with d_synth [n,k'], k' >= 0; metric names their unit. Raises ValueError without samples."""
    if not len(samples):
        raise ValueError("samples: found none; an empty class has no panel")
    rows = min(rows, len(samples))
    groups = [Tiles("Sample", np.asarray(samples)[:rows, None], None)]
    groups += [
        Tiles(f"Nearest {kind} image{'s' if nns.shape[1] > 1 else ''}", nns[:rows], d)
        for kind, nns, d in (("training", train_nns, d_train), ("synthetic", synth_nns, d_synth))
        if nns.shape[1]
    ]
    note = distance_label(metric) if metric else ""
    return _tiles_figure(LOOKS[class_name], f"K = {k}: {class_name}", note, groups)


@styled
def states_figure(
    k: int,
    members: Sequence[np.ndarray],
    train_nns: Sequence[np.ndarray],
    d_members: Sequence[np.ndarray],
    d_train: Sequence[np.ndarray],
    metric: str,
) -> Figure:
    """Spurious states, a row each: some samples of one state beside the training images nearest to
    the first of them.

    members: of each state, samples [n,C,H,W], n >= 1, with d_members [n], their distance to the
    nearest other sample; train_nns [k,C,H,W] of the first, with d_train [k]; metric names their
    unit. Raises ValueError without states."""
    if not members:
        raise ValueError("members: found none; give one spurious state or more")
    groups = [
        Tiles("Samples of one state", members, d_members, framed=True),
        Tiles("Training images nearest to the first", train_nns, d_train),
    ]
    title = f"K = {k}: {SPURIOUS} states, the largest first"
    return _tiles_figure(LOOKS[SPURIOUS], title, distance_label(metric), groups)


class Tiles(NamedTuple):
    """Columns of images under one heading: images of each row [n,C,H,W], n may differ between
    rows; their distances, written below, or None; framed: in the colour of the class."""

    heading: str
    images: Sequence[np.ndarray]
    distances: Sequence[np.ndarray] | None
    framed: bool = False

    @property
    def columns(self) -> int:
        return max(map(len, self.images))


def _tiles_figure(look: Look, title: str, note: str, groups: Sequence[Tiles]) -> Figure:
    """Rows of images in groups of columns, as many rows as the groups have."""
    step_x, step_y = TILE + GAP, TILE + 0.24
    columns = sum(group.columns for group in groups)
    needed = 0.33 + 0.095 * len(title) + 0.065 * len(note)  # inches of the heading
    width = max(columns * step_x + (len(groups) - 1) * 3 * GAP + 3 * GAP, needed, 3.6)
    headings = [textwrap.fill(g.heading, max(9, int(11 * g.columns))) for g in groups]
    head = 0.42 + 0.16 * max(text.count("\n") + 1 for text in headings)
    rows = len(groups[0].images)
    fig, ax = blank_figure(width, head + rows * step_y + 0.05)
    draw_heading(ax, look, title, note)
    left = 2 * GAP
    for text, group in zip(headings, groups, strict=True):
        ax.text(left, head - 0.06, text, va="bottom", size=9, linespacing=1.1)
        edge = look.colour if group.framed or group.distances is None else None
        for i in range(rows):
            for j, image in enumerate(group.images[i]):
                x, y = left + j * step_x, head + i * step_y
                draw_tile(ax, image, x, y, TILE, edge=edge)
                if group.distances is not None:
                    below = (x + TILE / 2, y + TILE + 0.12)
                    number = three_digits(group.distances[i][j])
                    ax.text(*below, number, ha="center", size=7)
        left += group.columns * step_x + 3 * GAP
    return fig
