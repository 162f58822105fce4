"""Critical times of all K, and of the classes side by side: figures, and a table.

A result folder named as a class (`times/memorized`) is shown together with its siblings
(`times/spurious`, ...) in `times/figures`; one of another name by itself, in its own `figures`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.cli.options.training import image_shape
from utils.figures.overview import quartiles_text, show_overview, text_table
from utils.files.class_folders import by_k, each, figures_folder, load_groups
from utils.stages.critical_times.figures import (
    critical_time_figure,
    recovery_figure,
    volume_figure,
)
from utils.stages.critical_times.files import Times, load_times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Groups = dict[str, dict[int, Times]]


def times_groups(result: Path) -> Groups:
    """Critical times of this folder and its siblings that were scanned in the same way."""
    return load_groups(result, load_times, lambda x: (x.scanned.tolist(), x.delta, x.followed))


def times_figures(groups: Groups) -> dict[str, Figure]:
    """Critical times, shares recovered and volumes of basins, by the name of their file."""
    first = next(iter(next(iter(groups.values())).values()))
    dim = math.prod(image_shape(first.args["model"]))
    critical = each(groups, lambda times: (times.critical_time, times.censored))
    volumes = each(groups, lambda times: log_ball_volume(mean_radius(times), dim))
    return {
        "critical-times": critical_time_figure(critical, int(first.scanned[-1])),
        "recovery": recovery_figure(each(groups, survival), first.scanned, first.followed),
        "volumes": volume_figure(volumes, dim),
    }


def show_times(result: Path) -> None:
    """Save the figures of the times; print a line for each group and K."""
    if groups := times_groups(result):
        show_overview(figures_folder(result), times_figures(groups), times_table(groups))


def survival(times: Times) -> np.ndarray:
    """The share [T'] of trials that recovered at every time up to each scanned t; of images where
    trials were not followed."""
    last = times.time if times.followed else times.critical_time
    return (last.reshape(-1, 1) >= times.scanned).mean(axis=0)


def mean_radius(times: Times) -> np.ndarray:
    """The radius of each image's basin: the mean of |x_0 - x_t| over its trials at the image's
    critical time, float64 [n]."""
    return times.radius.astype(np.float64).mean(axis=1)


def times_rows(groups: Groups) -> Iterator[list[str]]:
    """K, group, n and quartiles of the critical times; how many images never recovered, how many
    still recovered at the last time, and how many recovered at a later time than one at which
    they failed (bisection only)."""
    for k, name, times in by_k(groups):
        t_c = times.critical_time
        counts = (t_c == 0).sum(), times.censored.sum(), times.non_monotone.sum()
        yield [str(k), name, str(len(t_c)), quartiles_text(t_c, "{:.0f}"), *map(str, counts)]


def times_table(groups: Groups) -> str:
    head = ["K", "", "n", "median t_c (quartiles)", "never", "beyond", "returned"]
    return text_table("{:>6}  {:<12} {:>5}  {:<22} {:>6}  {:>6}  {:>8}", head, times_rows(groups))


def log_ball_volume(radius: np.ndarray, dim: int) -> np.ndarray:
    """ln of the volume of a dim-ball: (d/2) ln pi + d ln r - lnGamma(d/2 + 1).

    radius >= 0, any shape; -inf for radius 0.

    >>> np.exp(log_ball_volume(np.array([1.0, 2.0]), 2)).round(4).tolist()
    [3.1416, 12.5664]"""
    with np.errstate(divide="ignore"):
        log_radius = np.log(np.asarray(radius, np.float64))
    return dim / 2 * math.log(math.pi) + dim * log_radius - math.lgamma(dim / 2 + 1)
