"""Relative energies by class and K: table and figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.figures.save import save_figure
from utils.files.class_folders import by_k, each, figures_folder, load_groups
from utils.stages.energy.figures import energy_figure
from utils.stages.energy.files import Energies, load_energies


def energies_groups(result: Path) -> dict[str, dict[int, Energies]]:
    """Energies of this folder and its siblings, as far as they can be compared."""

    def same(energies: Energies) -> tuple:
        own = energies.args["energy"]
        return own["t"], own["references"], own["as_published"]

    return load_groups(result, load_energies, same)


def mean_energies(groups: dict[str, dict[int, Energies]]) -> dict[str, dict[int, np.ndarray]]:
    """The energy [n] of each sample, averaged over the references."""
    return each(groups, lambda energies: energies.potential.astype(np.float64).mean(axis=0))


def energies_figure(groups: dict[str, dict[int, Energies]]) -> Figure:
    first = next(iter(next(iter(groups.values())).values()))
    return energy_figure(mean_energies(groups), first.args["energy"]["t"], len(first.potential))


def show_energies(result: Path) -> None:
    """Save the figure of the energies; print a line for each group and K."""
    groups = energies_groups(result)
    if not groups:
        return
    path = figures_folder(result) / "energies.png"
    save_figure(energies_figure(groups), path)
    print(energies_table(groups))
    print(path)


def energies_rows(groups: dict[str, dict[int, Energies]]) -> Iterator[list[str]]:
    """K, group, n, quartiles of the energies over samples, and how sure the path integral is."""
    means = mean_energies(groups)
    for k, name, energies in by_k(groups):
        low, middle, high = np.quantile(means[name][k], (0.25, 0.5, 0.75))
        size = np.median(np.abs(energies.potential))
        error = np.median(np.abs(energies.difference)) / size if size else 0.0
        spread = f"{middle:.4g} ({low:.4g} to {high:.4g})"
        yield [str(k), name, str(len(means[name][k])), spread, f"{100 * error:.2g} %"]


def energies_table(groups: dict[str, dict[int, Energies]]) -> str:
    lines = [f"{'K':>6}  {'':<12} {'n':>5}  median energy (quartiles)          path error"]
    row = "{:>6}  {:<12} {:>5}  {:<32} {:>10}".format
    return "\n".join([*lines, *(row(*cells) for cells in energies_rows(groups))])
