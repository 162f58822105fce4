"""What a command of the toy shows at its end: pictures of its files, a table in the terminal."""

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
    Scene,
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

FEW = (2, 9, 1000)  # subsets that are drawn beside the whole circle


def show_data(root: Path) -> None:
    points = load_points(root).points.numpy()
    _save(data_figure(points, {k: points[:k] for k in FEW}), root / "data.png")


def show_exact(root: Path, options: ToyExactOptions) -> None:
    """The energies of every K and of the circle side by side."""
    found = {k: ExactEnergies.load(exact_file(root, k, options)) for k in options.sample_size}
    energies = {f"K = {k}": e.energy for k, e in found.items()}
    last = list(found.values())[-1]
    energies["infinitely many patterns"] = last.ring
    patterns = {f"K = {k}": e.patterns for k, e in found.items()}
    figure = exact_figure(last.axis, energies, patterns, options.beta)
    _save(figure, root / f"exact-beta{options.beta:g}.png")


def show_training(root: Path, sizes: Sequence[int]) -> None:
    """Loss curves, and how far each network is from the exact score."""
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
    """A picture of each K, one of all of them, and what the wells and the samples are."""
    scenes = {}
    for k in sizes:
        found = Landscape.load(landscape_file(root, k, t))
        scenes[k] = scene_of(found)
        _save(landscape_figure(scenes[k], found, t), landscape_file(root, k, t).with_suffix(".png"))
        print(told(k, t, found))
    _save(circle_figure(scenes, t), root / f"circle-t{t:g}.png")


def scene_of(found: Landscape) -> Scene:
    kinds = found.well_kinds[found.sample_wells]
    return Scene(
        found.axis,
        found.energy,
        found.exact_energy,
        found.patterns,
        found.wells,
        found.well_kinds,
        found.samples,
        kinds,
    )


def told(k: int, t: float, found: Landscape) -> str:
    """Wells, shares of samples, and clusters of one K, in two lines."""
    kinds = found.well_kinds[found.sample_wells]
    wells = ", ".join(
        f"{n} {name}"
        for name, n in zip(CLASSES, np.bincount(found.well_kinds, minlength=3), strict=True)
        if n
    )
    shares = ", ".join(
        f"{100 * n / len(kinds):.0f} % {name}"
        for name, n in zip(CLASSES, np.bincount(kinds, minlength=3), strict=True)
        if n
    )
    lines = [f"K = {k}, t = {t:g}: wells: {wells}; of {len(kinds)} samples {shares}"]
    if GENERALIZED in found.well_kinds:
        nats = along_the_circle(found.energy, found.axis) / (2 * t)
        lines[0] += f"; along the ring beta E has a standard deviation of {nats.std():.2f}"
    clusters, threshold = len(found.centres), float(found.threshold)
    if clusters == 1:
        lines.append(
            f"  one cluster: settled samples form a chain with links below {threshold:.3g}"
        )
        if not found.args["toy_plots"]["dynamic_threshold"]:
            lines[1] += (
                " (--distance_threshold; a smaller one or --dynamic_threshold may part them)"
            )
    else:
        lines.append(f"  {clusters} clusters of settled samples, parted at {threshold:.3g}")
    return "\n".join(lines)


def show_basins(root: Path, sizes: Sequence[int], t: float) -> None:
    """A picture of each K, and the median critical time and radius of each group."""
    print(f"{'K':>6} {'':20} {'points':>6} {'median critical time':>21} {'radius':>7}")
    for k in sizes:
        path = basin_file(root, k, t)
        found = Basins.load(path)
        title = f"K = {k}: recovered within {float(found.delta):g}"
        _save(basin_figure(found, title), path.with_suffix(".png"))
        for group in np.unique(found.groups):
            mine = found.groups == group
            row = np.median(found.critical_time[mine]), np.median(found.radius[mine])
            print(f"{k:>6} {GROUPS[group]:20} {mine.sum():>6} {row[0]:>21.4f} {row[1]:>7.3f}")


def _save(figure, path: Path) -> None:
    save_figure(figure, path)
    print(f"wrote {path} and, beside it, the same as .pdf")
