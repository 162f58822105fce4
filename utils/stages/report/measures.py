"""What the report shows of basins, energies, curvature and the tests of generalization, as plain
values; None where the stage has not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files.class_folders import GROUPS
from utils.files.k_files import k_named
from utils.stages.critical_times.overview import times_figures, times_groups, times_rows
from utils.stages.curvature.overview import curvature_figures, curvature_groups, curvature_rows
from utils.stages.energy.overview import energies_figure, energies_groups, energies_rows
from utils.stages.generalization.files import load_arrays
from utils.stages.generalization.findings import TESTS, TOLD
from utils.stages.generalization.overview import (
    class_rows,
    class_times,
    endings,
    findings_rows,
    stored_sweep,
    sweep_figures,
)
from utils.stages.report.data_uris import figure_uri
from utils.stages.report.images import Picture, Table


def group_folder(folder: Path) -> Path | None:
    """A folder of K.npz to begin with: that of the first class, or the folder itself."""
    candidates = [folder / name for name in GROUPS] + [folder]
    return next((path for path in candidates if k_named(path)), None)


def times_part(root: Path) -> tuple[list[Picture], Table, dict[str, Any]] | None:
    """Figures and quartiles of the critical times; args of a file of each group."""
    folder = group_folder(root / "times")
    if folder is None:
        return None
    groups = times_groups(folder)
    titles = {
        "critical-times": "Critical time of each image",
        "recovery": "Share recovered at every time up to t",
        "volumes": "Volume of the basins",
    }
    head = ["K", "class", "images", "median critical time (quartiles)", "never recovered"]
    table = Table([*head, "still recovering at the end", "returned"], list(times_rows(groups)))
    pictures = [
        Picture(figure_uri(figure), titles[name], f"{titles[name]}. {table.in_words(3)}")
        for name, figure in times_figures(groups).items()
    ]
    return pictures, table, first_args(groups)


def energies_part(root: Path) -> tuple[Picture, Table, dict[str, Any]] | None:
    """The figure and quartiles of the energies; args of a file of each group."""
    folder = group_folder(root / "energies")
    if folder is None:
        return None
    groups = energies_groups(folder)
    head = ["K", "class", "images", "median of u(r) - u(x) (quartiles)", "error of the path"]
    table = Table(head, list(energies_rows(groups)))
    alt = f"Relative energies over K. {table.in_words(3)}"
    picture = Picture(figure_uri(energies_figure(groups)), "Relative energies", alt)
    return picture, table, first_args(groups)


def curvature_part(root: Path) -> tuple[list[Picture], Table, dict[str, Any]] | None:
    """Spectra, flat directions, dimensions and their quartiles; args of a file of each group."""
    folder = group_folder(root / "curvature")
    if folder is None:
        return None
    groups = curvature_groups(folder)
    titles = {
        "spectra": "Eigenvalues of the Hessian of the energy",
        "flat-directions": "Flat directions",
        "dimensions": "Local intrinsic dimension",
        "curvature-critical-times": "Curvature against critical time",
    }
    head = ["K", "class", "images", "time t", "flat directions (quartiles)", "FLIPD (quartiles)"]
    table = Table(
        [*head, "normal bundle (quartiles)", "asymmetry (median)"], list(curvature_rows(groups))
    )
    pictures = [
        Picture(figure_uri(figure), titles[name], f"{titles[name]}. {table.in_words(4)}")
        for name, figure in curvature_figures(groups).items()
    ]
    return pictures, table, first_args(groups)


@dataclass(frozen=True)
class Told:
    """A test of generalization in words."""

    title: str
    ending: str
    definition: str
    source: str
    misleads: str


def generalization_part(
    root: Path,
) -> tuple[list[Picture], Table, list[Told], dict[str, Any]] | None:
    """Every test over K: figures, a table, what each test is and where it sees memory end; args
    of the largest K."""
    stored = stored_sweep(root / "generalization")
    if not stored:
        return None
    arrays = {k: load_arrays(root / "generalization" / f"{k}.json") for k in stored}
    rows, times = class_rows(root / "identified"), class_times(root / "times")
    said = endings(stored)
    told = [
        Told(TESTS[name].title, said[name], *(getattr(TESTS[name], part) for part in TOLD))
        for name in said
    ]
    titles = {
        "evidence": "Every test over K",
        "denoising": "Denoising loss on training and held-out images",
        "memorizer": "Distance to the exact memorizer",
        "collapse": "Collapse and speciation times of the data",
    }
    table = Table(["K", *(TESTS[name].title for name in TESTS)], list(findings_rows(stored)))
    alt = " ".join(f"{one.title}: {one.ending}." for one in told)
    pictures = [
        Picture(figure_uri(figure), titles[name], f"{titles[name]}. {alt}")
        for name, figure in sweep_figures(stored, arrays, rows, times).items()
    ]
    return pictures, table, told, stored[max(stored)].args


def first_args(groups: Mapping[str, Mapping[int, Any]]) -> dict[str, Any]:
    return {name: next(iter(sweep.values())).args for name, sweep in groups.items()}
