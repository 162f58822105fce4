"""Results of all K, and of the classes side by side: figures, and a table for the terminal.

A result folder named as a class (`times/memorized`) is shown together with its siblings
(`times/spurious`, ...) in `times/figures`; one of another name by itself, in its own `figures`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.save import save_figure
from utils.files.class_folders import by_k, each, figures_folder, load_groups
from utils.stages.critical_times.figures import (
    critical_time_figure,
    recovery_figure,
    volume_figure,
)
from utils.stages.critical_times.files import Times, load_times

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def survival(times: Times) -> np.ndarray:
    """The share [T'] of trials (images, where trials were not followed) recovered up to each t."""
    reached = times.time if times.followed else times.critical_time
    return (reached.reshape(-1, 1) >= times.scanned).mean(axis=0)


def mean_radius(times: Times) -> np.ndarray:
    """The radius of each image's basin: the mean over its trials, float64 [n]."""
    return times.radius.astype(np.float64).mean(axis=1)


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


def log_ball_volume(radius: np.ndarray, dim: int) -> np.ndarray:
    """ln of the volume of a dim-ball: (d/2) ln pi + d ln r - lnGamma(d/2 + 1).

    radius >= 0, any shape; -inf for radius 0.

    >>> np.exp(log_ball_volume(np.array([1.0, 2.0]), 2)).round(4).tolist()
    [3.1416, 12.5664]"""
    with np.errstate(divide="ignore"):
        log_radius = np.log(np.asarray(radius, np.float64))
    return dim / 2 * math.log(math.pi) + dim * log_radius - math.lgamma(dim / 2 + 1)
