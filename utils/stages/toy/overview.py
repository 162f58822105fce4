"""What a command of the toy shows at its end: figures of its files, and a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.cli.options.choices import CLASSES
from utils.cli.options.toy import ToyExactOptions
from utils.figures.save import save_figure
from utils.files.training_log import read_stats
from utils.stages.toy.figures import (
    GROUPS,
    basin_figure,
    circle_figure,
    data_figure,
    exact_figure,
    landscape_figure,
    training_figure,
)
from utils.stages.toy.files import (
    Basins,
    ExactEnergies,
    Landscape,
    basin_file,
    exact_file,
    k_folder,
    landscape_file,
    load_points,
)
from utils.stages.toy.landscapes import GENERALIZED, along_the_circle
from utils.stages.toy.training import ERROR_TIMES

SUBSETS = (2, 9, 1000)  # drawn beside the whole circle


def show_data(root: Path) -> None:
    points = load_points(root).points.numpy()
    _save(data_figure(points, {k: points[:k] for k in SUBSETS}), root / "data.png")


def show_exact(root: Path, options: ToyExactOptions) -> None:
    """The energies of every K and of the circle side by side."""
    energies, patterns = {}, {}
    for k in options.sample_size:
        exact = ExactEnergies.load(exact_file(root, k, options))
        energies[f"K = {k}"], patterns[f"K = {k}"] = exact.energy, exact.patterns
    energies["infinitely many patterns"] = exact.ring
    figure = exact_figure(exact.axis, energies, patterns, options.beta)
    _save(figure, root / f"exact-beta{options.beta:g}.png")


def show_training(root: Path, sizes: Sequence[int]) -> None:
    """Loss curves, and the error of each network's score against the exact one."""
    stats = {k: read_stats(k_folder(root, k)) for k in sizes}
    losses = {k: [(row["step"], row["loss"]) for row in rows] for k, rows in stats.items()}
    measured = {k: [r for r in rows if r.get("score_errors")] for k, rows in stats.items()}
    errors = {k: rows[-1]["score_errors"] for k, rows in measured.items() if rows}
    _save(training_figure(losses, ERROR_TIMES, errors), root / "training.png")
    print("t x mean squared error of the score, against the exact one:")
    print(f"{'K':>6} {'step':>7} " + " ".join(f"{f't = {t:g}':>9}" for t in ERROR_TIMES))
    for k, row in errors.items():
        step = measured[k][-1]["step"]
        print(f"{k:>6} {step:>7} " + " ".join(f"{error:9.5f}" for error in row))


def show_landscapes(root: Path, sizes: Sequence[int], t: float) -> None:
    """A figure of each K and one of all of them, and the classes of wells and samples."""
    landscapes = {k: Landscape.load(landscape_file(root, k, t)) for k in sizes}
    for k, landscape in landscapes.items():
        path = landscape_file(root, k, t).with_suffix(".png")
        _save(landscape_figure(landscape, t), path)
        print(summary_of(k, t, landscape))
    _save(circle_figure(landscapes, t), root / f"circle-t{t:g}.png")


def summary_of(k: int, t: float, landscape: Landscape) -> str:
    """Wells, shares of samples, and clusters of one K, in two lines."""
    n = len(landscape.samples)
    wells = _by_class(landscape.well_kinds, "{count} {name}")
    shares = _by_class(landscape.sample_kinds, "{percent:.0f} % {name}")
    line = f"K = {k}, t = {t:g}: wells: {wells}; of {n} samples {shares}"
    if GENERALIZED in landscape.well_kinds:
        nats = along_the_circle(landscape.energy, landscape.axis) / (2 * t)
        line += f"; along the ring beta E has a standard deviation of {nats.std():.2f}"
    clusters, threshold = len(landscape.centres), f"{landscape.threshold:.3g}"
    if clusters > 1:
        return f"{line}\n  {clusters} clusters of settled samples, parted at {threshold}"
    line += f"\n  one cluster: settled samples form a chain with links below {threshold}"
    if not landscape.args["toy_plots"]["dynamic_threshold"]:
        line += " (--distance_threshold; a smaller one or --dynamic_threshold may part them)"
    return line


def _by_class(kinds: np.ndarray, text: str) -> str:
    """text for each class that occurs, with its name, count and percent: `2 memorized`."""
    counts = zip(CLASSES, np.bincount(kinds, minlength=len(CLASSES)), strict=True)
    return ", ".join(
        text.format(name=name, count=count, percent=100 * count / len(kinds))
        for name, count in counts
        if count
    )


def show_basins(root: Path, sizes: Sequence[int], t: float) -> None:
    """A figure of each K, and the median critical time and radius of each group."""
    print(f"{'K':>6} {'':20} {'points':>6} {'median critical time':>21} {'radius':>7}")
    for k in sizes:
        path = basin_file(root, k, t)
        basins = Basins.load(path)
        title = f"K = {k}: recovered within {float(basins.delta):g}"
        _save(basin_figure(basins, title), path.with_suffix(".png"))
        for group in np.unique(basins.groups):
            members = basins.groups == group
            time, radius = (np.median(x[members]) for x in (basins.critical_time, basins.radius))
            print(f"{k:>6} {GROUPS[group]:20} {members.sum():>6} {time:>21.4f} {radius:>7.3f}")


def _save(figure, path: Path) -> None:
    save_figure(figure, path)
    print(f"wrote {path} and, beside it, the same as .pdf")
