"""Curvature of all K, and of the classes side by side: figures, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.save import save_figure
from utils.files.class_folders import by_k, each, figures_folder, load_groups
from utils.stages.curvature.figures import (
    critical_curvature_figure,
    dimension_figure,
    flat_figure,
    spectra_figure,
)
from utils.stages.curvature.files import UNKNOWN, Curvature, load_curvature

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Groups = dict[str, dict[int, Curvature]]
DIMENSIONS = ("flipd", "normal_bundle")


def curvature_groups(result: Path) -> Groups:
    """Curvature of this folder and its siblings, as far as it can be compared."""

    def same(found: Curvature) -> tuple:
        return found.t.tolist(), found.dim, found.eigenvalues.shape[2]

    return load_groups(result, load_curvature, same)


def curvature_figures(groups: Groups) -> dict[str, Figure]:
    """Spectra, flat directions and dimensions, by the name of their file; with critical times also
    the curvature over them."""
    first = next(iter(next(iter(groups.values())).values()))
    times, dim = first.t.tolist(), first.dim
    spectra = each(groups, lambda found: found.scaled(found.eigenvalues))
    flipd, bundles = (each(groups, lambda c, n=name: getattr(c, n)) for name in DIMENSIONS)
    figures = {
        "spectra": spectra_figure(spectra, times, dim),
        "flat-directions": flat_figure(each(groups, lambda found: found.flat), times, dim),
        "dimensions": dimension_figure(flipd, bundles, times, dim),
    }
    if any((c.critical_time != UNKNOWN).any() for sweep in groups.values() for c in sweep.values()):
        points = each(groups, critical_points)
        figures["curvature-critical-times"] = critical_curvature_figure(points, times)
    return figures


def critical_points(found: Curvature) -> tuple[np.ndarray, np.ndarray]:
    """Critical times [n], infinite where censored, and (1 - alpha_bar_t) tr H / D [n, T']."""
    t_c = np.where(found.censored, np.inf, found.critical_time)
    return t_c, found.scaled(found.trace) / found.dim


def show_curvature(result: Path) -> None:
    """Save the figures of the curvature; print a line for each group, K and time."""
    groups = curvature_groups(result)
    if not groups:
        return
    folder = figures_folder(result)
    for name, figure in curvature_figures(groups).items():
        save_figure(figure, folder / f"{name}.png")
    print(curvature_table(groups))
    print(folder / "spectra.png")


def curvature_rows(groups: Groups) -> Iterator[list[str]]:
    """K, group, n, time; medians and quartiles over samples of flat directions, FLIPD and the
    normal-bundle dimension, as far as they are known; median asymmetry."""
    for k, name, found in by_k(groups):
        for j, t in enumerate(found.t.tolist()):
            counts = (v[:, j][v[:, j] != UNKNOWN] for v in (found.flat, found.normal_bundle))
            flat, bundle = (spread(values, "{:.0f}") for values in counts)
            flipd = spread(found.flipd[:, j], "{:.1f}")
            asymmetry = f"{np.median(found.asymmetry[:, j]):.2g}"
            yield [str(k), name, str(len(found.flat)), str(t), flat, flipd, bundle, asymmetry]


def spread(values: np.ndarray, form: str) -> str:
    """Median and quartiles as `12 (10 to 15)`; `-` where nothing is known."""
    if not len(values):
        return "-"
    low, middle, high = map(form.format, np.quantile(values, (0.25, 0.5, 0.75)))
    return f"{middle} ({low} to {high})"


def curvature_table(groups: Groups) -> str:
    """Medians over samples, quartiles in brackets."""
    row = "{:>6}  {:<12} {:>5} {:>5}  {:<15} {:<23} {:<15} {:>9}".format
    head = row("K", "", "n", "t", "flat", "FLIPD", "normal bundle", "asymmetry")
    return "\n".join([head, *(row(*cells) for cells in curvature_rows(groups))])
