"""Results of all K, and of the classes side by side: figures, and a table for the terminal.

A result folder named as a class (`times/memorized`) is shown together with its siblings
(`times/spurious`, ...) in `times/figures`; one of another name by itself, in its own `figures`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.save import save_figure
from utils.inputs.samples import Energies, Times, load_energies, load_times
from utils.jobs.k_jobs import k_named
from utils.stages.classify.intervals import log_ball_volume
from utils.stages.classify.verdicts import CLASSES
from utils.stages.critical_times.figures import (
    critical_time_figure,
    energy_figure,
    recovery_figure,
    volume_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = (*CLASSES, "training")  # folders that are shown together
Sweeps = dict[str, dict[int, Times]] | dict[str, dict[int, Energies]]


def figures_folder(result: Path) -> Path:
    """Where the figures of a result folder lie."""
    result = result.absolute()
    return (result.parent if result.name in GROUPS else result) / "figures"


def load_groups(result: Path, load: Callable, same: Callable) -> Sweeps:
    """The results of this folder and its siblings by group and K; those of other options, by
    `same`, are left out, for they cannot be compared."""
    result = result.absolute()
    names = GROUPS if result.name in GROUPS else (result.name,)
    every = {
        name: {k: load(path) for k, path in k_named(result.parent / name).items()} for name in names
    }
    own = every[result.name]
    wanted = same(next(iter(own.values()))) if own else None
    groups = {}
    for name, found in every.items():
        alike = {k: value for k, value in found.items() if same(value) == wanted}
        for k in sorted(set(found) - set(alike)):
            print(f"{name}, K = {k}: made with other options, not in the figures")
        if alike:
            groups[name] = alike
    return groups


def times_groups(result: Path) -> dict[str, dict[int, Times]]:
    """Critical times of this folder and its siblings, as far as they can be compared."""

    def same(times: Times) -> tuple:
        return times.scanned.tolist(), times.delta, times.followed

    return load_groups(result, load_times, same)


def times_figures(groups: dict[str, dict[int, Times]]) -> dict[str, Figure]:
    """Critical times, shares recovered and volumes of basins, by the name of their file."""
    first = next(iter(next(iter(groups.values())).values()))
    scanned = first.scanned
    marks = each(groups, lambda times: (times.critical_time, times.censored))
    curves = each(groups, survival)
    dim = first.args["model"]["in_channels"] * first.args["model"]["image_size"] ** 2
    volumes = each(groups, lambda times: log_ball_volume(mean_radius(times), dim))
    return {
        "critical-times": critical_time_figure(marks, int(scanned[-1])),
        "recovery": recovery_figure(curves, scanned, first.followed),
        "volumes": volume_figure(volumes, dim),
    }


def show_times(result: Path) -> None:
    """Save the figures of the times; print a line for each group and K."""
    groups = times_groups(result)
    if not groups:
        return
    folder = figures_folder(result)
    for name, figure in times_figures(groups).items():
        save_figure(figure, folder / f"{name}.png")
    print(times_table(groups))
    print(folder / "critical-times.png")


def each(groups: Sweeps, function: Callable) -> dict:
    """function of every K of every group."""
    return {name: {k: function(v) for k, v in sweep.items()} for name, sweep in groups.items()}


def survival(times: Times) -> np.ndarray:
    """The share [T'] of trials (images, where trials were not followed) recovered up to each t."""
    reached = times.time if times.followed else times.critical_time
    return (reached.reshape(-1, 1) >= times.scanned).mean(axis=0)


def mean_radius(times: Times) -> np.ndarray:
    """The radius of each image's basin: the mean over its trials, float64 [n]."""
    return times.radius.astype(np.float64).mean(axis=1)


def by_k(groups: Sweeps) -> Iterator[tuple[int, str, Times | Energies]]:
    """K, group and result, K by K."""
    for k in sorted({k for sweep in groups.values() for k in sweep}):
        yield from ((k, name, sweep[k]) for name, sweep in groups.items() if k in sweep)


def times_rows(groups: dict[str, dict[int, Times]]) -> Iterator[list[str]]:
    """K, group, n, quartiles of the critical times; how many images never recovered, how many
    still did at the end of the scan, and how many bisection saw recover above a time at which
    they did not."""
    for k, name, times in by_k(groups):
        t_c = times.critical_time
        low, middle, high = np.quantile(t_c, (0.25, 0.5, 0.75))
        counts = (t_c == 0).sum(), times.censored.sum(), times.non_monotone.sum()
        spread = f"{middle:.0f} ({low:.0f} to {high:.0f})"
        yield [str(k), name, str(len(t_c)), spread, *map(str, counts)]


def times_table(groups: dict[str, dict[int, Times]]) -> str:
    lines = [f"{'K':>6}  {'':<12} {'n':>5}  median t_c (quartiles)   never  beyond  returned"]
    row = "{:>6}  {:<12} {:>5}  {:<22} {:>6}  {:>6}  {:>8}".format
    return "\n".join([*lines, *(row(*cells) for cells in times_rows(groups))])


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
