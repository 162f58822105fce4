"""Figures of the tests of generalization, from findings and plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.evidence.definitions import GENERALIZATION, MEMORY, TESTS, UNDECIDED
from utils.evidence.findings import Finding, sweep_verdicts
from utils.figures.groups import (
    CAPTION,
    SIZE_LABEL,
    draw_legend,
    draw_quartiles,
    filled,
    looks_of,
    point_style,
    sizes_of,
)
from utils.figures.images import GAP, TILE, draw_tile
from utils.figures.style import (
    CLASS_LOOKS,
    FAINT,
    INK,
    LOOKS,
    PALE,
    Look,
    blank_figure,
    log_ticks,
    new_figure,
    styled,
    three_digits,
)

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERDICT_LOOKS = {
    MEMORY: CLASS_LOOKS[0],
    GENERALIZATION: CLASS_LOOKS[2],
    UNDECIDED: Look("white", "D", ":", ""),
}
PANELS = 9  # largest number of K in a figure with a panel for each
COLUMNS = 12  # pairs of images that are shown
TITLE = {"fontsize": 9, "loc": "left"}  # of a small panel
DATA_TIMES = {
    "collapse": {"color": INK, "marker": "D", "linestyle": "-"},
    "speciation": {"color": PALE, "marker": "P", "linestyle": ":"},
}


class CoursePoint(NamedTuple):
    """The findings at one step of a training; loss: mean over held-out images and times, each
    time in units of its smallest; frechet: Frechet distance to held-out images, its interval, and
    that of real images [4], or None with too few images."""

    memorized: Finding | None
    gap: Finding
    agreement: Finding | None
    memorizer: Finding
    loss: float
    frechet: np.ndarray | None = None


@styled
def evidence_figure(
    findings: Mapping[int, Mapping[str, Finding]], rows: Sequence[Mapping[str, Any]] = ()
) -> Figure:
    """Every test over K: value, 95 % interval, verdict; above them a table of all verdicts.

    Verdicts are those of `sweep_verdicts`, corrected over K. findings: by K and test. rows: of
    summary.csv, whose shares of classes are drawn beside the
    verdicts if there are any. Raises ValueError where there is no K."""
    if not findings:
        raise ValueError("findings: found none; give those of one K at least")
    sizes, said = np.array(sorted(findings)), sweep_verdicts(findings)
    names = [name for name in TESTS if any(name in of_k for of_k in findings.values())]
    lines = math.ceil(len(names) / 3)
    fig = new_figure(10.2, 3.0 + 2.35 * lines)
    grid = fig.add_gridspec(1 + lines, 6, height_ratios=[1.25, *[1] * lines])
    top = grid[0, :3] if rows else grid[0, :]
    _verdicts(fig.add_subplot(top), said, sizes, names)
    if rows:
        _shares(fig.add_subplot(grid[0, 3:]), rows)
    for i, name in enumerate(names):
        line, column = divmod(i, 3)
        ax = fig.add_subplot(grid[1 + line, 2 * column : 2 * column + 2])
        of_test = {k: f[name] for k, f in findings.items() if name in f}
        _values(ax, name, of_test, {k: said[k][name] for k in of_test}, sizes)
    _verdict_legend(fig)
    return fig


def _verdicts(
    ax: Axes, said: Mapping[int, Mapping[str, str]], sizes: np.ndarray, names: list[str]
) -> None:
    """A mark for each test and K, by its verdict."""
    for row, name in enumerate(names):
        for column, k in enumerate(sizes):
            verdict = said[int(k)].get(name)
            if verdict is None:
                ax.text(column, row, "–", ha="center", va="center", color=PALE)
                continue
            look = VERDICT_LOOKS[verdict]
            ax.plot(column, row, look.marker, color=look.colour, markeredgecolor=INK, markersize=9)
    ax.set(xlim=(-0.6, len(sizes) - 0.4), ylim=(len(names) - 0.4, -0.6))
    turned = len(sizes) * len(str(sizes[-1])) > 48
    ax.set_xticks(range(len(sizes)), map(str, sizes), rotation=90 * turned)
    ax.set_yticks(range(len(names)), [TESTS[name].title for name in names])
    ax.set_xlabel(SIZE_LABEL)
    ax.grid(visible=False)
    ax.set_title("What each test says, corrected over its K (Holm)", **CAPTION)


def _shares(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: row["K"])
    sizes = np.array([row["K"] for row in rows])
    for name, look in LOOKS.items():
        share = [100 * row[f"{name}_share"] for row in rows]
        ax.plot(sizes, share, label=name, **point_style(look))
    log_ticks(ax, sizes, width=3.8)
    ax.set(ylim=(0, 103), xlabel=SIZE_LABEL, ylabel="Samples (%)")
    ax.legend(fontsize=7.5, loc="center left")
    ax.set_title(f"By distance ({rows[0]['criterion']}, {rows[0]['metric']})", **CAPTION)


def _values(
    ax: Axes,
    name: str,
    findings: Mapping[int, Finding],
    said: Mapping[int, str],
    sizes: np.ndarray,
) -> None:
    """One test over K, with the neutral value and the side of memory, if there is one, shaded."""
    test = TESTS[name]
    log_ticks(ax, sizes, width=2.5)
    ks, values, low, high = _intervals(findings)
    ax.errorbar(ks, values, [values - low, high - values], color=PALE, capsize=2, linewidth=1.0)
    for k, value in zip(ks, values, strict=True):
        look = VERDICT_LOOKS[said[k]]
        edge = {"markeredgecolor": INK, "markeredgewidth": 0.6, "zorder": 3}
        ax.plot(k, value, look.marker, color=look.colour, markersize=6, **edge)
    ax.axhline(test.neutral, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    bottom, top = (-0.03, 1.03) if test.neutral else ax.get_ylim()
    ends = (bottom, test.neutral) if test.memory_side < 0 else (test.neutral, top)
    if test.memory_side and ends[0] < ends[1]:
        ax.axhspan(*ends, color=CLASS_LOOKS[0].colour, alpha=0.07, linewidth=0, zorder=0)
    ax.set_ylim(bottom, top)
    ax.set_title(test.title, **TITLE)
    ax.set_ylabel(test.unit, fontsize=7.5)
    ax.tick_params(labelsize=7.5)


def _intervals(
    findings: Mapping[int, Finding],
) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """K (or steps) ascending, and the value, low and high of each, [n]."""
    ks = sorted(findings)
    triples = np.array([(findings[k].value, findings[k].low, findings[k].high) for k in ks])
    return ks, *triples.T


def _verdict_legend(fig: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=x.colour, marker=x.marker, linestyle="", markeredgecolor=INK)
        for x in VERDICT_LOOKS.values()
    ]
    handles += [
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 2))),
        Patch(color=CLASS_LOOKS[0].colour, alpha=0.07),
    ]
    names = [*VERDICT_LOOKS, "neutral value", "side of memory"]
    fig.legend(handles, names, loc="outside upper center", ncols=len(names))


@styled
def denoising_figure(arrays: Mapping[int, Mapping[str, np.ndarray]]) -> Figure:
    """Denoising loss on training and held-out images over the time, one panel for each K.

    arrays: of K.npz, by K; bands: 1.96 standard errors over images. Up to PANELS of K, evenly."""
    lines = {
        "train-loss": ("training", CLASS_LOOKS[0]),
        "held-out-loss": ("held out", CLASS_LOOKS[2]),
    }
    return _curves_over_time(arrays, lines, "Denoising loss (squared error a value)")


@styled
def memorizer_figure(arrays: Mapping[int, Mapping[str, np.ndarray]]) -> Figure:
    """Squared distance to the exact memorizer over the time, one panel for each K: of the model on
    training and held-out images; reference errors: identity and data-set mean, on held-out images.

    arrays: of K.npz, by K; bands and panels as in `denoising_figure`."""
    lines = {
        "train-memorizer": ("model, training", CLASS_LOOKS[0]),
        "held-out-memorizer": ("model, held out", CLASS_LOOKS[2]),
        "held-out-identity": ("identity, held out", Look(INK, "", ":", "")),
        "held-out-mean": ("mean image, held out", Look(PALE, "", "--", "")),
    }
    return _curves_over_time(arrays, lines, "Distance to the memorizer (squared, a value)")


def _curves_over_time(
    arrays: Mapping[int, Mapping[str, np.ndarray]],
    curves: Mapping[str, tuple[str, Look]],
    label: str,
) -> Figure:
    """One panel for each K, a line for each key of K.npz in `curves`, with its name and look."""
    if not arrays:
        raise ValueError("arrays: found none; give those of one K at least")
    sizes = sorted(arrays)
    if len(sizes) > PANELS:
        sizes = [sizes[i] for i in np.linspace(0, len(sizes) - 1, PANELS).round().astype(int)]
    columns = min(4, len(sizes))
    lines = math.ceil(len(sizes) / columns)
    fig = new_figure(max(4.6, 2.3 * columns + 0.6), 2.0 * lines + 0.9)
    axes = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(sizes) :]:
        ax.set_axis_off()
    for ax, k in zip(axes.flat, sizes, strict=False):
        for key, (name, look) in curves.items():
            _curve(ax, arrays[k]["t"], arrays[k][key], look, name)
        ax.set_title(f"K = {k}", **TITLE)
        ax.set(yscale="log")
        ax.tick_params(labelsize=7.5)
    fig.supxlabel("Time t (steps)", fontsize=9)
    fig.supylabel(label, fontsize=8.5)
    handles, names = axes.flat[0].get_legend_handles_labels()
    columns = min(len(names), max(1, int(fig.get_figwidth() / 1.9)))
    fig.legend(handles, names, loc="outside upper center", ncols=columns, fontsize=8)
    return fig


def _curve(ax: Axes, t: np.ndarray, values: np.ndarray, look: Look, name: str) -> None:
    """The mean over images [T', n] with its band."""
    order = np.argsort(t)
    t, values = t[order], values[order]
    mean, n = values.mean(1), values.shape[1]
    style = {"color": look.colour, "linestyle": look.line, "linewidth": 1.4}
    ax.plot(t, mean, label=name, marker="o" if len(t) == 1 else None, **style)
    if n > 1:
        half = 1.96 * values.std(1, ddof=1) / math.sqrt(n)
        low = np.maximum(mean - half, mean / 10)  # a log axis has no zero
        ax.fill_between(t, low, mean + half, color=look.colour, alpha=0.18, linewidth=0)


@styled
def collapse_figure(
    times: Mapping[int, Mapping[str, tuple[float, float | None, float | None]]],
    critical: Mapping[str, Mapping[int, np.ndarray]],
) -> Figure:
    """Collapse and speciation times of the training images over K, and critical times of samples.

    times: `collapse` and `speciation` with their intervals, by K; no band where an interval is
    None. critical: times int [n] by class
    and K, drawn as medians and quartiles. Raises ValueError where there is no K."""
    if not times:
        raise ValueError("times: found none; give those of one K at least")
    fig = new_figure(6.6, 4.0)
    ax = fig.subplots()
    classes = filled(critical) if any(map(len, critical.values())) else {}
    if classes:
        draw_quartiles(ax, classes, width=5.7)
    log_ticks(ax, np.array(sorted({*times, *sizes_of(classes)})), width=5.7)
    for name, style in DATA_TIMES.items():
        value, low, high = np.array([times[k][name] for k in sorted(times)], float).T
        ax.plot(sorted(times), value, markersize=5, **style)
        ax.fill_between(sorted(times), low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xlabel=SIZE_LABEL, ylabel="Time t (steps)")
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    ax.set_title("bands: 95 % intervals; bars: quartiles over samples", **CAPTION)
    styles = [*DATA_TIMES.values(), *(point_style(look) for look in looks_of(classes).values())]
    names = [f"{name} time of the data" for name in DATA_TIMES]
    names += [f"critical time, {name}" for name in classes]
    draw_legend(fig, styles, names, ncols=3, fontsize=8)
    return fig


@styled
def pairs_figure(
    k: int,
    first: np.ndarray,
    second: np.ndarray,
    near: np.ndarray,
    arrays: Mapping[str, np.ndarray],
) -> Figure:
    """Images of two models from the same seeds, each beside the nearest image of its training set.

    first, second [N, C, H, W]; near [2, N, C, H, W]: the training image nearest to each; arrays:
    `pair-distances` [N] and `own-distances` [2, N]."""
    first, second = np.asarray(first), np.asarray(second)
    columns, step, margin, head = min(COLUMNS, len(first)), TILE + GAP, 1.55, 0.42
    lines = (
        ("nearest training\nimage of A", near[0], arrays["own-distances"][0]),
        ("model A", first, arrays["pair-distances"]),
        ("model B", second, None),
        ("nearest training\nimage of B", near[1], arrays["own-distances"][1]),
    )
    pitch = TILE + 0.2
    fig, ax = blank_figure(margin + columns * step + GAP, head + len(lines) * pitch + GAP)
    ax.text(2 * GAP, 0.22, f"K = {k}: one seed, two models", size=11, weight="bold")
    agree = arrays["pair-distances"] < arrays["own-distances"].min(0)
    for row, (name, images, distances) in enumerate(lines):
        y = head + row * pitch
        ax.text(margin - 0.1, y + TILE / 2, name, ha="right", va="center", size=8)
        for j in range(columns):
            x = margin + j * step
            pair = row in (1, 2) and agree[j]
            edge = LOOKS["generalized"].colour if pair else None
            draw_tile(ax, images[j], x, y, TILE, edge=edge)
            if distances is not None:
                below = (x + TILE / 2, y + TILE + 0.12)
                ax.text(*below, three_digits(distances[j]), ha="center", size=7)
    return fig


@styled
def course_figure(points: Mapping[int, CoursePoint], gen: int, mem: int | None) -> Figure:
    """One training over its steps: share memorized, denoising gap, distance from the memorizer,
    the held-out loss, and where there are some, agreement of two models and Frechet distances;
    lines at tau_gen and tau_mem."""
    steps = sorted(points)
    with_twin = any(point.agreement for point in points.values())
    frechet = {step: points[step].frechet for step in steps if points[step].frechet is not None}
    fig = new_figure(10.2 if frechet else 7.4, 5.4)
    axes = fig.subplots(2, 3 if frechet else 2)
    panels = (
        ("Samples that are memorized (ratio test, %)", "memorized", 100.0, CLASS_LOOKS[0]),
        ("Denoising gap (part of the held-out loss)", "gap", 1.0, CLASS_LOOKS[1]),
        ("Away from the memorizer (0 to 1)", "memorizer", 1.0, CLASS_LOOKS[2]),
        ("Seeds on which two models agree (%)", "agreement", 100.0, CLASS_LOOKS[2]),
    )
    # Without Frechet distances there is room for one of the last two.
    chosen = (*panels[:2], panels[3 if with_twin else 2])
    if frechet:
        chosen = panels if with_twin else panels[:3]
    for ax, (title, name, scale, look) in zip(axes.flat, chosen, strict=False):
        findings = {step: getattr(point, name) for step, point in points.items()}
        _course_line(ax, {s: f for s, f in findings.items() if f is not None}, scale, look)
        ax.set_title(title, **TITLE)
    drawn = axes.flat[: len(chosen) + 1 + bool(frechet)]
    loss, distance = axes.flat[len(chosen)], drawn[-1]
    for ax in axes.flat[len(drawn) :]:
        ax.set_axis_off()
    loss.plot(steps, [points[step].loss for step in steps], color=INK, marker=".")
    loss.set_title("Loss on held-out images (1: least of each time)", **TITLE)
    if frechet:
        value, low, high, real = np.array(list(frechet.values())).T
        distance.plot(list(frechet), value, color=INK, marker=".")
        distance.fill_between(list(frechet), low, high, color=INK, alpha=0.15, linewidth=0)
        distance.plot(list(frechet), real, color=PALE, linestyle=":", linewidth=1.2)
        distance.set_title("Frechet distance (dotted: of real images)", **TITLE)
        distance.set_ylim(bottom=0)
    for ax in drawn:
        ax.axvline(gen, color=CLASS_LOOKS[2].colour, linestyle="--", linewidth=1.1)
        if mem is not None:
            ax.axvline(mem, color=CLASS_LOOKS[0].colour, linestyle=":", linewidth=1.4)
        log_ticks(ax, np.array(steps), width=2.9)
        ax.tick_params(labelsize=7.5)
    for ax in axes[1]:
        ax.set_xlabel("Training steps")
    end = f"{mem}" if mem is not None else f"beyond {steps[-1]}"
    caption = f"dashed: $\\tau_{{gen}}$ = {gen}; dotted: $\\tau_{{mem}}$ = {end}"
    fig.suptitle(caption, fontsize=9, color=PALE, x=0.01, ha="left")
    return fig


def _course_line(ax: Axes, findings: Mapping[int, Finding], scale: float, look: Look) -> None:
    """The value of a test over the steps, with its interval; nothing without findings."""
    if not findings:
        return
    steps, *interval = _intervals(findings)
    value, low, high = (scale * part for part in interval)
    ax.axhline(scale * TESTS[findings[steps[0]].test].neutral, color=FAINT, linewidth=1.2)
    ax.plot(steps, value, color=look.colour, marker=".")
    ax.fill_between(steps, low, high, color=look.colour, alpha=0.18, linewidth=0)
