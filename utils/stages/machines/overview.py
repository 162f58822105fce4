"""The machines that explain networks, over all K of a folder: figures and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.cli.options.choices import CLASSES, MACHINE_NAMES
from utils.figures.overview import show_overview, text_table
from utils.files.k_files import k_named
from utils.files.provenance import EXEMPT
from utils.stages.machines.figures import (
    classes_figure,
    map_figure,
    mixture_figure,
    seeds_figure,
)
from utils.stages.machines.files import (
    HELD_OUT,
    SAMPLES,
    SETS,
    Entry,
    Stored,
    load_arrays,
    load_result,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_FILE = {"checkpoint", "drawn", "classes"}  # options that differ from file to file
HEAD = ["K", "t", *SETS, "best mixture, held-out", "patch sides"]
FORM = "{:>6}  {:>4}  {:<18} {:<18} {:<18} {:<40} {}"


def show_machines(result: Path) -> None:
    """Save the figures of a result folder; print a table, and what explains samples of a class."""
    sweep = stored_sweep(result)
    if not sweep:
        return
    lines = [text_table(FORM, HEAD, machine_rows(sweep)), *class_lines(sweep)]
    show_overview(result / "figures", machine_figures(result, sweep), "\n".join(lines))


def stored_sweep(result: Path) -> dict[int, Stored]:
    """The content of each K.json, by K. Those made with other options than the last cannot be
    compared with it and are left out, with a line."""
    every = {k: load_result(path) for k, path in k_named(result, ".json").items()}
    alike = {}
    for k, stored in every.items():
        if comparable(stored) == comparable(every[max(every)]):
            alike[k] = stored
        else:
            print(f"{result / str(k)}.json: made with other options, not in the figures")
    return alike


def comparable(stored: Stored) -> dict:
    """The options that must be equal in all files of one figure."""
    section = stored.args.get("machines")
    values = section if isinstance(section, Mapping) else {}
    return {name: x for name, x in values.items() if name not in EXEMPT | PER_FILE}


def machine_figures(result: Path, sweep: Mapping[int, Stored]) -> dict[str, Figure]:
    """Every figure, by the name of its file: those of the sweep, and the seeds of each K."""
    figures = sweep_figures(sweep)
    for k, stored in sweep.items():
        if figure := seeds_of(result / f"{k}.json", k, stored):
            figures[f"seeds-{k}"] = figure
    return figures


def sweep_figures(sweep: Mapping[int, Stored]) -> dict[str, Figure]:
    """The figures over all K."""
    figures = {"machines-map": map_figure(sweep), "machines-mixture": mixture_figure(sweep)}
    if any(entry.group in CLASSES for one in sweep.values() for entry in one.entries):
        figures["machines-classes"] = classes_figure(sweep)
    return figures


def seeds_of(path: Path, k: int, stored: Stored) -> Figure | None:
    """The samples of a K from the same seeds; None where none were drawn."""
    arrays = load_arrays(path, len(stored.machines))
    if not len(arrays["seed-network"]):
        return None
    medians = {e.machine: e.median[0] for e in stored.seeds if e.group == SAMPLES}
    images = [arrays[f"seed-{name}"] for name in ("network", "machines", "classes")]
    return seeds_figure(k, stored.machines, *images, medians)


def machine_rows(sweep: Mapping[int, Stored]) -> Iterator[list[str]]:
    """K, t, the best machine and its r^2 on each set, the best mixture, patch sides."""
    for k, stored in sorted(sweep.items()):
        for t in stored.times:
            mixed = stored.at(HELD_OUT, t)
            yield [
                str(k),
                str(t),
                *(best_text(stored.at(group, t)) for group in SETS),
                mixture_text(mixed),
                " ".join(f"{name} {sides[t]}" for name, sides in stored.sides.items()),
            ]


def best_text(entry: Entry | None) -> str:
    """`local 0.94`, `local* 0.94` where another machine is not shown to be worse; `-`."""
    if entry is None or entry.best is None:
        return "-"
    return f"{entry.best}{'*' if entry.tied else ''} {entry.r2[entry.best][0]:.2f}"


def mixture_text(entry: Entry | None) -> str:
    """`0.62 local + 0.38 exact (0.97)`: weights from 0.05, the largest first, and r^2."""
    if entry is None or not np.isfinite(entry.mixture_r2[0]):
        return "-"
    weights = sorted(((w[0], name) for name, w in entry.mixture.items() if w[0] >= 0.05))
    parts = " + ".join(f"{w:.2f} {name}" for w, name in reversed(weights))
    return f"{parts} ({entry.mixture_r2[0]:.2f})"


def class_lines(sweep: Mapping[int, Stored]) -> Iterator[str]:
    """For each class of samples, and K, the machine that explains most, at the middle time."""
    times = next(iter(sweep.values())).times
    t = times[len(times) // 2]
    for name in CLASSES:
        entries = [(k, e) for k, one in sorted(sweep.items()) if (e := one.at(name, t))]
        if entries:
            parts = ", ".join(f"K = {k} {best_text(e)} ({e.n})" for k, e in entries)
            yield f"{name} samples at t = {t} (number): {parts}"


def in_words(sweep: Mapping[int, Stored]) -> str:
    """Which machine is best on held-out images, and over which K, at the middle time."""
    times = next(iter(sweep.values())).times
    t = times[len(times) // 2]
    said: list[tuple[str, list[int]]] = []
    for k, one in sorted(sweep.items()):
        entry = one.at(HELD_OUT, t)
        if entry is None or entry.best is None:
            continue
        if said and said[-1][0] == entry.best:
            said[-1][1].append(k)
        else:
            said.append((entry.best, [k]))
    spans = (
        f"{MACHINE_NAMES[name]} ({name}) at K = {ks[0]}{f' to {ks[-1]}' if len(ks) > 1 else ''}"
        for name, ks in said
    )
    return f"Best on held-out images at t = {t}: {'; '.join(spans)}." if said else ""
