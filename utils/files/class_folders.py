"""Folders of results by class: memorized, spurious, generalized, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from utils.cli.options.choices import CLASSES
from utils.files.k_files import k_named

GROUPS = (*CLASSES, "training")  # folders that are shown together
Result = TypeVar("Result")
Sweeps = dict[str, dict[int, Result]]


def figures_folder(result: Path) -> Path:
    """Where the figures of a result folder lie."""
    result = result.absolute()
    return (result.parent if result.name in GROUPS else result) / "figures"


def load_groups(result: Path, load: Callable[[Path], Result], same: Callable) -> Sweeps[Result]:
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


def each(groups: Sweeps[Result], function: Callable) -> dict:
    """function of every K of every group."""
    return {name: {k: function(v) for k, v in sweep.items()} for name, sweep in groups.items()}


def by_k(groups: Sweeps[Result]) -> Iterator[tuple[int, str, Result]]:
    """K, group and result, K by K."""
    for k in sorted({k for sweep in groups.values() for k in sweep}):
        yield from ((k, name, sweep[k]) for name, sweep in groups.items() if k in sweep)
