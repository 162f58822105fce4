"""Tests of generalization over all K of a folder, or over one training: figures and words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.cli.options.choices import CLASSES
from utils.figures.save import save_figure
from utils.files.k_files import k_named
from utils.files.provenance import EXEMPT
from utils.stages.classify.summary import read_summary, summaries
from utils.stages.critical_times.files import Times, load_times
from utils.stages.generalization.figures import (
    collapse_figure,
    denoising_figure,
    evidence_figure,
    memorizer_figure,
)
from utils.stages.generalization.files import Stored, load_arrays, load_measured
from utils.stages.generalization.findings import MEMORY, TESTS, Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN = {"checkpoint", "drawn", "second", "step"}  # what each file has of its own


def show_generalization(
    result: Path, times_path: Path | None, identified_path: Path | None
) -> None:
    """Save the figures of a result folder; print a table, where each test sees memory end, and
    when it misleads."""
    stored = stored_sweep(result)
    if not stored:
        return
    rows = class_rows(identified_path)
    folder = result / "figures"
    arrays = {k: load_arrays(result / f"{k}.json") for k in stored}
    for name, figure in sweep_figures(stored, arrays, rows, class_times(times_path)).items():
        save_figure(figure, folder / f"{name}.png")
    print(findings_table(stored))
    for name, said in endings(stored).items():
        print(f"{name}: {said}. When it misleads: {TESTS[name].misleads}")
    print(folder / "evidence.png")


def stored_sweep(result: Path) -> dict[int, Stored]:
    """What K.json tell, by K."""
    return stored_alike(result, lambda stored: stored.step is None)


def stored_alike(result: Path, wanted: Callable[[Stored], bool]) -> dict[int, Stored]:
    """The wanted ones of a folder by their number; those made with other options than the last
    are left out, for they cannot be compared."""
    every = {n: load_measured(path) for n, path in k_named(result, ".json").items()}
    every = {n: stored for n, stored in every.items() if wanted(stored)}
    last = comparable(every[max(every)]) if every else None
    alike = {n: stored for n, stored in every.items() if comparable(stored) == last}
    for n in sorted(set(every) - set(alike)):
        print(f"{result / str(n)}.json: made with other options, not in the figures")
    return alike


def comparable(stored: Stored) -> dict[str, Any]:
    """The options that must be equal between the files of one figure: of one training all."""
    sections = ("generalization",)
    if stored.step is not None:
        sections += ("data", "train", "model")
    kept = {name: stored.args.get(name, {}) for name in sections}
    return {
        name: {key: x for key, x in values.items() if key not in EXEMPT | OWN}
        for name, values in kept.items()
        if isinstance(values, Mapping)
    }


def class_rows(identified: Path | None) -> list[dict[str, Any]]:
    """The rows of run_classify.py, K ascending; none where there is no such folder."""
    if identified is None:
        return []
    return [read_summary(path)["row"] for path in summaries(Path(identified))]


def class_times(times: Path | None) -> dict[str, dict[int, Times]]:
    """Critical times of each class that has some, by K."""
    if times is None:
        return {}
    found = {
        name: {k: load_times(path) for k, path in k_named(Path(times) / name).items()}
        for name in CLASSES
    }
    return {name: sweep for name, sweep in found.items() if sweep}


def sweep_figures(
    stored: Mapping[int, Stored],
    arrays: Mapping[int, Mapping[str, np.ndarray]],
    rows: Sequence[Mapping[str, Any]],
    times: Mapping[str, Mapping[int, Times]],
) -> dict[str, Figure]:
    """Every figure of a sweep, by the name of its file."""
    findings = {k: one.findings for k, one in stored.items()}
    reached = {
        name: {k: one.critical_time for k, one in sweep.items()} for name, sweep in times.items()
    }
    return {
        "evidence": evidence_figure(findings, rows),
        "denoising": denoising_figure(arrays),
        "memorizer": memorizer_figure(arrays),
        "collapse": collapse_figure({k: one.times for k, one in stored.items()}, reached),
    }


def findings_rows(stored: Mapping[int, Stored]) -> Iterator[list[str]]:
    """K, and of each test its value, interval and verdict; a dash where it was not to be had."""
    for k in sorted(stored):
        yield [str(k), *(told(stored[k].findings.get(name)) for name in TESTS)]


def told(found: Finding | None) -> str:
    """`0.98 (0.96 to 0.99) memory`"""
    if found is None:
        return "-"
    digits = 1 if found.test == "c-t" else 2
    numbers = (f"{x:.{digits}f}" for x in (found.value, found.low, found.high))
    return "{} ({} to {}) ".format(*numbers) + found.verdict


def findings_table(stored: Mapping[int, Stored]) -> str:
    """A line for each K and test, for a terminal."""
    lines = [f"{'K':>6}  {'test':<14} {'value (95 % interval)':<26} verdict"]
    for k in sorted(stored):
        for name, found in stored[k].findings.items():
            number, _, verdict = told(found).rpartition(" ")
            lines.append(f"{k:>6}  {name:<14} {number:<26} {verdict}")
    return "\n".join(lines)


def endings(stored: Mapping[int, Stored]) -> dict[str, str]:
    """Where memory ends, by each test that there is."""
    verdicts = {
        name: {k: s.findings[name].verdict for k, s in stored.items() if name in s.findings}
        for name in TESTS
    }
    return {name: ending(said) for name, said in verdicts.items() if said}


def ending(verdicts: Mapping[int, str]) -> str:
    """Where memory ends: `memory up to K = 96, not from 112`."""
    sizes = sorted(verdicts)
    memory = [k for k in sizes if verdicts[k] == MEMORY]
    if not memory:
        return f"no memory from K = {sizes[0]}"
    later = [k for k in sizes if k > memory[-1]]
    line = f"memory up to K = {memory[-1]}"
    line += f", not from {later[0]}" if later else ", the largest"
    earlier = [k for k in sizes if k < memory[-1] and verdicts[k] != MEMORY]
    return line + (f" (nor at {', '.join(map(str, earlier))})" if earlier else "")
