"""Tests of generalization over all K of a folder, or over one training: figures and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.cli.options.choices import CLASSES
from utils.evidence.definitions import GENERALIZATION, MEMORY, TESTS, UNDECIDED
from utils.evidence.findings import ONE_SIDED, Finding, sweep_verdicts
from utils.figures.overview import show_overview, text_table
from utils.files.class_folders import each
from utils.files.k_files import k_named
from utils.files.provenance import EXEMPT
from utils.stages.classify.files import read_summary, summaries
from utils.stages.critical_times.files import Times, load_times
from utils.stages.generalization.figures import (
    collapse_figure,
    denoising_figure,
    evidence_figure,
    memorizer_figure,
)
from utils.stages.generalization.files import Stored, load_arrays, load_measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_FILE = {"checkpoint", "drawn", "second", "step"}  # options that differ from file to file


def show_generalization(
    result: Path, times_path: Path | None, identified_path: Path | None
) -> None:
    """Save the figures of a result folder; print a table, the K at which each test sees memory end,
    and when it misleads."""
    stored = stored_sweep(result)
    if not stored:
        return
    arrays = {k: load_arrays(result / f"{k}.json") for k in stored}
    rows, times = class_rows(identified_path), class_times(times_path)
    lines = [
        f"{name}: {text}. When it misleads: {TESTS[name].misleads}"
        for name, text in endings(stored).items()
    ]
    figures = sweep_figures(stored, arrays, rows, times)
    lines = [findings_table(stored), verdicts_in_words(stored), *lines]
    show_overview(result / "figures", figures, "\n".join(lines))


def stored_sweep(result: Path) -> dict[int, Stored]:
    """The content of each K.json, by K."""
    return stored_alike(result, lambda stored: stored.step is None)


def stored_alike(result: Path, belongs: Callable[[Stored], bool]) -> dict[int, Stored]:
    """The files n.json of a folder that belong to a figure, by n. Those made with other options
    than the last cannot be compared with it and are left out."""
    every = {n: load_measured(path) for n, path in k_named(result, ".json").items()}
    every = {n: stored for n, stored in every.items() if belongs(stored)}
    alike = {}
    for n, stored in every.items():
        if comparable(stored) == comparable(every[max(every)]):
            alike[n] = stored
        else:
            print(f"{result / str(n)}.json: made with other options, not in the figures")
    return alike


def comparable(stored: Stored) -> dict[str, Any]:
    """The options that must be equal in all files of one figure; of one training, all options."""
    sections = ("generalization",)
    if stored.step is not None:
        sections += ("data", "train", "model")
    return {
        name: {key: x for key, x in stored.args[name].items() if key not in EXEMPT | PER_FILE}
        for name in sections
        if isinstance(stored.args.get(name), Mapping)
    }


def class_rows(identified: Path | None) -> list[dict[str, Any]]:
    """The rows of run_classify.py, K ascending; none without a folder."""
    if identified is None:
        return []
    return [read_summary(path)["row"] for path in summaries(Path(identified))]


def class_times(times: Path | None) -> dict[str, dict[int, Times]]:
    """Critical times of each class that has some, by K."""
    if times is None:
        return {}
    files = {name: k_named(Path(times) / name) for name in CLASSES}
    return {
        name: {k: load_times(p) for k, p in paths.items()} for name, paths in files.items() if paths
    }


def sweep_figures(
    stored: Mapping[int, Stored],
    arrays: Mapping[int, Mapping[str, np.ndarray]],
    rows: Sequence[Mapping[str, Any]],
    times: Mapping[str, Mapping[int, Times]],
) -> dict[str, Figure]:
    """Every figure of a sweep, by the name of its file."""
    findings = {k: one.findings for k, one in stored.items()}
    critical_times = each(times, lambda one: one.critical_time)
    return {
        "evidence": evidence_figure(findings, rows),
        "denoising": denoising_figure(arrays),
        "memorizer": memorizer_figure(arrays),
        "collapse": collapse_figure({k: one.times for k, one in stored.items()}, critical_times),
    }


def verdicts_of(stored: Mapping[int, Stored]) -> dict[int, dict[str, str]]:
    """The verdicts of a sweep by K and test, corrected over K: see `sweep_verdicts`."""
    return sweep_verdicts({k: one.findings for k, one in stored.items()})


def verdicts_in_words(stored: Mapping[int, Stored]) -> str:
    """How many verdicts a sweep shows, and their error rate, in one sentence or two."""
    tests = {name for one in stored.values() for name in one.findings}
    verdicts = counted(sum(len(one.findings) for one in stored.values()), "verdict")
    return (
        f"{verdicts}, of {counted(len(tests), 'test')} at {len(stored)} K. Memory is corrected "
        f"over the K of each test by Holm's method: if all samples are new, a test says memory at "
        f"any K in at most {100 * ONE_SIDED:.1f} % of sweeps."
    )


def counted(count: int, noun: str) -> str:
    """`1 test`, `2 tests`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def verdict_text(finding: Finding, verdict: str) -> str:
    """The verdict, and the reason where there is none."""
    if finding.undecided:
        return f"{UNDECIDED}: {finding.undecided}"
    if verdict != finding.verdict:
        return f"{UNDECIDED}: memory at this K alone, not after the correction over K"
    return verdict


def findings_rows(stored: Mapping[int, Stored]) -> Iterator[list[str]]:
    """K, and the value, interval and verdict of each test; a dash where it was not applied."""
    said = verdicts_of(stored)
    for k in sorted(stored):
        found = {name: stored[k].findings.get(name) for name in TESTS}
        cells = (
            f"{interval_text(x)} {verdict_text(x, said[k][name])}" if x else "-"
            for name, x in found.items()
        )
        yield [str(k), *cells]


def interval_text(finding: Finding) -> str:
    """The value and its interval: `0.98 (0.96 to 0.99)`"""
    digits = 1 if finding.test == "c-t" else 2
    numbers = (f"{x:.{digits}f}" for x in (finding.value, finding.low, finding.high))
    return "{} ({} to {})".format(*numbers)


def findings_table(stored: Mapping[int, Stored]) -> str:
    """A line for each K and test, for a terminal."""
    said = verdicts_of(stored)
    rows = (
        [str(k), name, interval_text(finding), verdict_text(finding, said[k][name])]
        for k in sorted(stored)
        for name, finding in stored[k].findings.items()
    )
    head = ["K", "test", "value (95 % interval)", "verdict"]
    return text_table("{:>6}  {:<14} {:<26} {}", head, rows)


def endings(stored: Mapping[int, Stored]) -> dict[str, str]:
    """The K at which memory ends, or generalization begins, in words, by each test that was
    applied."""
    said, result = verdicts_of(stored), {}
    for name, test in TESTS.items():
        verdicts = {k: of_k[name] for k, of_k in said.items() if name in of_k}
        if verdicts:
            result[name] = ending(verdicts) if test.memory_side else beginning(verdicts)
    return result


def ending(verdicts: Mapping[int, str]) -> str:
    """The K at which memory ends: `memory up to K = 96, not from 112`."""
    sizes = sorted(verdicts)
    memory = [k for k in sizes if verdicts[k] == MEMORY]
    if not memory:
        line = f"no memory from K = {sizes[0]}"
    else:
        later = [k for k in sizes if k > memory[-1]]
        line = f"memory up to K = {memory[-1]}"
        line += f", not from {later[0]}" if later else ", the largest"
    last = memory[-1] if memory else 0
    new = [k for k in sizes if k < last and verdicts[k] == GENERALIZATION]
    open_ones = [k for k in sizes if verdicts[k] == UNDECIDED]
    notes = [
        f"{word} {', '.join(map(str, some))}"
        for word, some in (("nor at", new), ("undecided at", open_ones))
        if some
    ]
    return line + (f" ({'; '.join(notes)})" if notes else "")


def beginning(verdicts: Mapping[int, str]) -> str:
    """The K at which generalization begins, by a test that cannot show memory:
    `undecided up to K = 128, generalization from 256`."""
    sizes = sorted(verdicts)
    others = [k for k in sizes if verdicts[k] != GENERALIZATION]
    if not others:
        return f"generalization from K = {sizes[0]}"
    later = [k for k in sizes if k > others[-1]]
    earlier = [k for k in sizes if k < others[-1] and verdicts[k] == GENERALIZATION]
    line = f"undecided up to K = {others[-1]}"
    line += f", generalization from {later[0]}" if later else ", the largest"
    return line + (f" (generalization at {', '.join(map(str, earlier))})" if earlier else "")
