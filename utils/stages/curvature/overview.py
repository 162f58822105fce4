"""Curvature of all K, and of the classes side by side: figures, and a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.overview import quartiles_text, show_overview, text_table
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


def curvature_groups(result: Path) -> Groups:
    """Curvature of this folder and its siblings at the same times, with as many eigenvalues."""
    return load_groups(
        result, load_curvature, lambda x: (x.t.tolist(), x.dim, x.eigenvalues.shape[2])
    )


def curvature_figures(groups: Groups) -> dict[str, Figure]:
    """Spectra, flat directions and dimensions, by the name of their file; with critical times also
    the curvature over them."""
    first = next(iter(next(iter(groups.values())).values()))
    times, dim = first.t.tolist(), first.dim
    spectra = each(groups, lambda x: x.scaled(x.eigenvalues))
    flipd, bundles = each(groups, lambda x: x.flipd), each(groups, lambda x: x.normal_bundle)
    figures = {
        "spectra": spectra_figure(spectra, times, dim),
        "flat-directions": flat_figure(each(groups, lambda x: x.flat), times, dim),
        "dimensions": dimension_figure(flipd, bundles, times, dim),
    }
    if any((curvature.critical_time != UNKNOWN).any() for _, _, curvature in by_k(groups)):
        points = each(groups, critical_points)
        figures["curvature-critical-times"] = critical_curvature_figure(points, times)
    return figures


def critical_points(curvature: Curvature) -> tuple[np.ndarray, np.ndarray]:
    """Critical times [n], infinite where censored, and (1 - alpha_bar_t) tr H / D [n, T']."""
    t_c = np.where(curvature.censored, np.inf, curvature.critical_time)
    return t_c, curvature.scaled(curvature.trace) / curvature.dim


def show_curvature(result: Path) -> None:
    """Save the figures of the curvature; print a line for each group, K and time."""
    if groups := curvature_groups(result):
        show_overview(figures_folder(result), curvature_figures(groups), curvature_table(groups))


def curvature_rows(groups: Groups) -> Iterator[list[str]]:
    """K, group, n, time; medians and quartiles over samples of flat directions, FLIPD and the
    normal-bundle dimension, as far as they are known; median asymmetry."""
    for k, name, curvature in by_k(groups):
        for j, t in enumerate(curvature.t.tolist()):
            flat, bundle = (
                quartiles_text(counts[counts != UNKNOWN], "{:.0f}")
                for counts in (curvature.flat[:, j], curvature.normal_bundle[:, j])
            )
            flipd = quartiles_text(curvature.flipd[:, j], "{:.1f}")
            asymmetry = f"{np.median(curvature.asymmetry[:, j]):.2g}"
            yield [str(k), name, str(len(curvature.flat)), str(t), flat, flipd, bundle, asymmetry]


def curvature_table(groups: Groups) -> str:
    """Medians over samples, quartiles in brackets."""
    head = ["K", "", "n", "t", "flat", "FLIPD", "normal bundle", "asymmetry"]
    form = "{:>6}  {:<12} {:>5} {:>5}  {:<15} {:<23} {:<15} {:>9}"
    return text_table(form, head, curvature_rows(groups))
