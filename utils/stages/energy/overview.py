"""Relative energies by class and K: figure and table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.figures.overview import quartiles_text, show_overview, text_table
from utils.files.class_folders import by_k, each, figures_folder, load_groups
from utils.stages.energy.figures import energy_figure
from utils.stages.energy.files import Energies, load_energies

Groups = dict[str, dict[int, Energies]]


def energies_groups(result: Path) -> Groups:
    """Energies of this folder and its siblings that were computed with the same options."""

    def options(energies: Energies) -> list:
        return [energies.args["energy"][name] for name in ("t", "references", "as_published")]

    return load_groups(result, load_energies, options)


def mean_energies(energies: Energies) -> np.ndarray:
    """The energy of each sample, the mean over the references: float64 [n]."""
    return energies.potential.astype(np.float64).mean(axis=0)


def energies_figure(groups: Groups) -> Figure:
    first = next(iter(next(iter(groups.values())).values()))
    t, references = first.args["energy"]["t"], len(first.potential)
    return energy_figure(each(groups, mean_energies), t, references)


def show_energies(result: Path) -> None:
    """Save the figure of the energies; print a line for each group and K."""
    if groups := energies_groups(result):
        figures = {"energies": energies_figure(groups)}
        show_overview(figures_folder(result), figures, energies_table(groups))


def energies_rows(groups: Groups) -> Iterator[list[str]]:
    """K, group, n, quartiles of the energies over samples, and the relative error of the path
    integral (median of both)."""
    for k, name, energies in by_k(groups):
        means = mean_energies(energies)
        size = np.median(np.abs(energies.potential))
        error = np.median(np.abs(energies.difference)) / size if size else 0.0
        spread = quartiles_text(means, "{:.4g}")
        yield [str(k), name, str(len(means)), spread, f"{100 * error:.2g} %"]


def energies_table(groups: Groups) -> str:
    head = ["K", "", "n", "median energy (quartiles)", "path error"]
    return text_table("{:>6}  {:<12} {:>5}  {:<32} {:>10}", head, energies_rows(groups))
