"""Folders of results by class: memorized, spurious, generalized, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from utils.cli.options.choices import CLASSES
from utils.files.k_files import k_named

GROUPS = (*CLASSES, "training")  # names of folders whose results are drawn together
Result = TypeVar("Result")
Sweeps = dict[str, dict[int, Result]]


def figures_folder(result: Path) -> Path:
    """The folder for the figures of a result folder: beside it, where it is one of GROUPS."""
    result = result.absolute()
    return (result.parent if result.name in GROUPS else result) / "figures"


def load_groups(result: Path, load: Callable[[Path], Result], same: Callable) -> Sweeps[Result]:
    """The results of this folder and its sibling groups, by group and K.

    load reads a K.npz; same gives the options that results must share to be compared: those that
    differ from the first of this folder are left out, with a line."""
    result = result.absolute()
    names = GROUPS if result.name in GROUPS else (result.name,)
    sweeps = {
        name: {k: load(path) for k, path in k_named(result.parent / name).items()} for name in names
    }
    options = next(map(same, sweeps[result.name].values()), None)
    groups = {}
    for name, sweep in sweeps.items():
        comparable = {k: value for k, value in sweep.items() if same(value) == options}
        for k in sorted(sweep.keys() - comparable.keys()):
            print(f"{name}, K = {k}: made with other options, not in the figures")
        if comparable:
            groups[name] = comparable
    return groups


def each(groups: Sweeps[Result], function: Callable) -> dict:
    """function applied to the result of every K of every group."""
    return {name: {k: function(v) for k, v in sweep.items()} for name, sweep in groups.items()}


def by_k(groups: Sweeps[Result]) -> Iterator[tuple[int, str, Result]]:
    """K, group and result, K by K."""
    for k in sorted({k for sweep in groups.values() for k in sweep}):
        yield from ((k, name, sweep[k]) for name, sweep in groups.items() if k in sweep)
