"""What the report shows of basins, energies, curvature and the tests of generalization, as plain
values; None if the stage has not run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.evidence.findings import TESTS
from utils.figures.data_uris import figure_uri
from utils.files.class_folders import GROUPS
from utils.files.k_files import k_named
from utils.stages.critical_times.overview import times_figures, times_groups, times_rows
from utils.stages.curvature.overview import curvature_figures, curvature_groups, curvature_rows
from utils.stages.energy.overview import energies_figure, energies_groups, energies_rows
from utils.stages.generalization.files import load_arrays
from utils.stages.generalization.overview import (
    class_rows,
    class_times,
    endings,
    findings_rows,
    stored_sweep,
    sweep_figures,
    verdicts_in_words,
)
from utils.stages.machines.overview import (
    HEAD,
    in_words,
    machine_rows,
    seeds_of,
)
from utils.stages.machines.overview import stored_sweep as stored_machines
from utils.stages.machines.overview import sweep_figures as machine_figures
from utils.stages.report.images import Picture, Section, Table


def group_folder(folder: Path) -> Path | None:
    """The first folder of K.npz: that of a class, or the folder itself."""
    candidates = [*(folder / name for name in GROUPS), folder]
    return next((path for path in candidates if k_named(path)), None)


def energies_figures(groups: Any) -> dict[str, Any]:
    return {"energies": energies_figure(groups)}


@dataclass(frozen=True)
class Measure:
    """How the results of a stage that measures samples, by class and K, are shown."""

    load: Callable[[Path], Any]  # the results of a folder and its siblings, by class and K
    figures: Callable[[Any], Mapping[str, Any]]  # of these results, by the names of `titles`
    rows: Callable[[Any], Iterable[list[str]]]
    titles: Mapping[str, str]
    head: list[str]
    alt_column: int  # of the table: the text alternative of all figures


MEASURES = {  # by folder
    "times": Measure(
        times_groups,
        times_figures,
        times_rows,
        {
            "critical-times": "Critical time of each image",
            "recovery": "Share recovered at every time up to t",
            "volumes": "Volume of the basins",
        },
        [
            *("K", "class", "images", "median critical time (quartiles)", "never recovered"),
            *("still recovering at the end", "returned"),
        ],
        alt_column=3,
    ),
    "energies": Measure(
        energies_groups,
        energies_figures,
        energies_rows,
        {"energies": "Relative energies"},
        ["K", "class", "images", "median of u(r) - u(x) (quartiles)", "error of the path"],
        alt_column=3,
    ),
    "curvature": Measure(
        curvature_groups,
        curvature_figures,
        curvature_rows,
        {
            "spectra": "Eigenvalues of the Hessian of the energy",
            "flat-directions": "Flat directions",
            "dimensions": "Local intrinsic dimension",
            "curvature-critical-times": "Curvature against critical time",
        },
        [
            *("K", "class", "images", "time t", "flat directions (quartiles)", "FLIPD (quartiles)"),
            *("normal bundle (quartiles)", "asymmetry (median)"),
        ],
        alt_column=4,
    ),
}


def measured_section(root: Path, name: str) -> Section | None:
    """Figures and table of a stage in MEASURES; args of one file of each class."""
    folder, measure = group_folder(root / name), MEASURES[name]
    if folder is None:
        return None
    results = measure.load(folder)
    table = Table(measure.head, list(measure.rows(results)))
    words = table.in_words(measure.alt_column)
    pictures = [
        Picture(figure_uri(figure), measure.titles[key], f"{measure.titles[key]}. {words}")
        for key, figure in measure.figures(results).items()
    ]
    args = {group: next(iter(sweep.values())).args for group, sweep in results.items()}
    return Section(pictures, table, args)


@dataclass(frozen=True)
class TestInWords:
    """A test of generalization in words."""

    title: str
    ending: str  # the K at which memory ends by it
    definition: str
    source: str
    misleads: str


@dataclass(frozen=True)
class TestsSection(Section):
    """The part of the tests of generalization."""

    tests: list[TestInWords] = field(default_factory=list)
    verdicts: str = ""  # how many there are, and how they are corrected


def generalization_section(root: Path) -> TestsSection | None:
    """Every test over K: figures, a table, what each test is, and at which K memory ends by it;
    args of the largest K."""
    stored = stored_sweep(root / "generalization")
    if not stored:
        return None
    arrays = {k: load_arrays(root / "generalization" / f"{k}.json") for k in stored}
    rows, times = class_rows(root / "identified"), class_times(root / "times")
    tests = [
        TestInWords(
            TESTS[name].title,
            ending,
            TESTS[name].definition,
            TESTS[name].source,
            TESTS[name].misleads,
        )
        for name, ending in endings(stored).items()
    ]
    titles = {
        "evidence": "Every test over K",
        "denoising": "Denoising loss on training and held-out images",
        "memorizer": "Distance to the exact memorizer",
        "collapse": "Collapse and speciation times of the data",
    }
    table = Table(["K", *(test.title for test in TESTS.values())], list(findings_rows(stored)))
    words = " ".join(f"{test.title}: {test.ending}." for test in tests)
    pictures = [
        Picture(figure_uri(figure), titles[name], f"{titles[name]}. {words}")
        for name, figure in sweep_figures(stored, arrays, rows, times).items()
    ]
    return TestsSection(pictures, table, stored[max(stored)].args, tests, verdicts_in_words(stored))


@dataclass(frozen=True)
class MachinesSection(Section):
    """The part of the denoisers in closed form; words: which is best over K."""

    words: str = ""


def machines_section(root: Path) -> MachinesSection | None:
    """What explains the networks over t and K: figures, the samples of one K, a table; args of
    the largest K."""
    sweep = stored_machines(root / "machines")
    if not sweep:
        return None
    titles = {
        "machines-map": "The best denoiser over t and K",
        "machines-mixture": "Each denoiser, and the best mixture of them, over K",
        "machines-classes": "On memorized, spurious and generalized samples",
    }
    words = in_words(sweep)
    pictures = [
        Picture(figure_uri(figure), titles[name], f"{titles[name]}. {words}")
        for name, figure in machine_figures(sweep).items()
    ]
    k = sorted(sweep)[len(sweep) // 2]
    if figure := seeds_of(root / "machines" / f"{k}.json", k, sweep[k]):
        title = f"Samples of each from the same seeds, K = {k}"
        pictures.append(Picture(figure_uri(figure), title, title))
    table = Table(HEAD, list(machine_rows(sweep)))
    return MachinesSection(pictures, table, sweep[max(sweep)].args, words)
