"""The row of each K, summary.csv that is made from all of them, and a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.options.choices import CLASSES, CUTOFFS, SPURIOUS
from utils.figures.overview import text_table
from utils.files.atomic import write_text
from utils.metrics.intervals import exceeds, neighbour_interval, wilson_interval
from utils.stages.classify.files import (
    BOTH,
    CALIBRATION,
    OPTIONAL_COLUMNS,
    SUMMARY_COLUMNS,
    Judged,
    load_all,
    summaries,
)
from utils.stages.classify.thresholds import Calibration
from utils.stages.classify.transition import (
    ESTIMATE_COLUMNS,
    crossing_text,
    estimates,
    in_words,
    transition,
)
from utils.stages.classify.verdicts import States


@dataclass(frozen=True)
class Judgement:
    """The labels of one K by one criterion: of its samples [N], and, by the same rule, of sets of
    N held-out real images [D N] (None without them)."""

    labels: np.ndarray
    control: np.ndarray | None

    def shares(self) -> dict[str, float]:
        return {name: float(np.mean(self.labels == i)) for i, name in enumerate(CLASSES)}

    def control_shares(self) -> dict[str, float | None]:
        if self.control is None:
            return dict.fromkeys(CLASSES)
        return Judgement(self.control, None).shares()


def judge_row(
    k: int,
    criterion: str,
    metric: str,
    judgements: Mapping[str, Judgement],
    limits: tuple[float | None, float | None],
    states: States,
    calibration: Calibration | None,
) -> dict[str, int | float | str | None]:
    """The row of one K in summary.csv, its keys in the order of SUMMARY_COLUMNS.

    judgements: by criterion; those that cannot be applied are absent. limits: delta_m and
    delta_s, None where the criterion has none (ratio). Shares lie in 0 to 1. The intervals (95 %)
    of spurious and generalized samples allow for pairs of neighbours. spurious_p: one-sided
    p-value against the control, of this K alone. Raises ValueError where there are no labels."""
    main = judgements[criterion]
    total = len(main.labels)
    if not total:
        raise ValueError("labels: found none; judge at least one sample")
    counts = {name: int(np.sum(main.labels == i)) for i, name in enumerate(CLASSES)}
    row: dict[str, int | float | str | None] = {"K": int(k), "N": total, **counts}
    control = main.control_shares()
    for i, (name, count) in enumerate(counts.items()):
        low, high = neighbour_interval(count, total) if i else wilson_interval(count, total)
        row |= {f"{name}_share": count / total, f"{name}_low": low, f"{name}_high": high}
        row[f"{name}_control"] = control[name]
    row["spurious_p"] = None
    if main.control is not None:
        real = int(np.sum(main.control == CLASSES.index(SPURIOUS)))
        row["spurious_p"] = exceeds(counts[SPURIOUS], total, real, len(main.control))
    row |= {"states": states.count, "largest_state": states.largest, "repeated": states.repeated}
    row |= dict(zip(("delta_m", "delta_s"), limits, strict=True))
    row |= {"criterion": criterion, "metric": metric}
    row |= {name: getattr(calibration, name, None) for name in CALIBRATION}
    for rule in BOTH:
        one = judgements.get(rule)
        for name in CLASSES:
            row[f"{rule}_{name}"] = one.shares()[name] if one else None
            row[f"{rule}_{name}_control"] = one.control_shares()[name] if one else None
    return row | dict.fromkeys(OPTIONAL_COLUMNS)


def write_summary(result: Path) -> list[Judged]:
    """Rebuild summary.csv from summary/K.json and K.npz; returns them by K.

    Jobs of a slice may end together: after writing, look again for rows of other jobs."""
    written: list[Path] | None = None
    judged: list[Judged] = []
    while written != (paths := summaries(result)):
        judged = load_all(result)
        write_text(result / "summary.csv", as_csv(judged))
        written = paths
    return judged


def as_csv(judged: Sequence[Judged]) -> str:
    """The text of summary.csv: a line for each K, and in each the estimates of the whole sweep."""
    text = io.StringIO()
    columns = (*SUMMARY_COLUMNS, *ESTIMATE_COLUMNS)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    shared = estimates(transition(judged)) if judged else {}
    writer.writerows({**one.row, **shared} for one in judged)
    return text.getvalue()


def table(judged: Sequence[Judged]) -> str:
    """The rows for a terminal: shares in percent, their 95 % intervals, and the controls."""
    rows = [one.row for one in judged]
    lines = [text_table(" ".join(["{:>6} {:>5}", *["{:>25}"] * 3]), _head(), _cells(rows))]
    lines.append(f"{thresholds_text(rows)}; in brackets 95 % intervals; real: held-out images")
    other = other_criterion(rows[0])
    lines += ["", f"by --criterion {other} (real images); distinct states of the table above:"]
    head = ["K", *(f"{name} (real)" for name in CLASSES), "states", "largest", "in states of 3+"]
    layout = "{:>6} {:>18} {:>18} {:>18} {:>7} {:>8} {:>16}"
    lines.append(text_table(layout, head, _other_cells(rows, other)))
    if names := published_cutoffs(rows):
        lines += ["", "share within published cut-offs of the cosine similarity, % (real images):"]
        layout = " ".join(["{:>6}", *["{:>14}"] * len(names)])
        lines.append(text_table(layout, ["K", *names], cutoff_cells(rows, names)))
    if any(row["frechet"] is not None for row in rows):
        lines += ["", f"quality by {rows[0]['metric']} (of real images, n of each):"]
        lines.append(quality_table(rows))
    return "\n".join(lines)


def quality_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Frechet distance, precision, recall, density, coverage and gap, each with its control."""
    names = ("frechet", "precision", "recall", "density", "coverage", "frechet_gap")
    head = ["K", "n", *(name.replace("_", " ") for name in names)]
    cells = [
        [
            *(str(row["K"]), str(row["quality_n"] or "-")),
            *(value_and_control(row[name], row[f"{name}_control"]) for name in names),
        ]
        for row in rows
    ]
    return text_table(" ".join(["{:>6} {:>5}", *["{:>17}"] * len(names)]), head, cells)


def value_and_control(value: float | None, control: float | None) -> str:
    """`1.24 (0.31)`"""
    return "-" if value is None or control is None else f"{value:.3g} ({control:.3g})"


def published_cutoffs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The published cut-offs of the metric of these rows."""
    return [name for name in CUTOFFS if rows[0][name] is not None]


def cutoff_cells(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    """A row for each K: the share within each cut-off in percent, with its control."""
    return [
        [
            str(row["K"]),
            *(f"{percent(row[name])} ({percent(row[f'{name}_control'])})" for name in names),
        ]
        for row in rows
    ]


def transition_in_words(judged: Sequence[Judged]) -> str:
    """What the sweep has found: the K of the transition, and the range of spurious states."""
    return in_words(transition(judged))


def other_criterion(row: Mapping[str, Any]) -> str:
    """The criterion beside the chosen one, of which every row has the shares too."""
    return "calibrated" if row["criterion"] == "ratio" else "ratio"


def _head() -> list[str]:
    return ["K", "N", *(f"{name} %" for name in CLASSES)]


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [[str(row["K"]), str(row["N"]), *(share_text(row, n) for n in CLASSES)] for row in rows]


def _other_cells(rows: Sequence[Mapping[str, Any]], rule: str) -> list[list[str]]:
    return [
        [
            str(row["K"]),
            *(other_text(row, rule, name) for name in CLASSES),
            *(str(row["states"]), str(row["largest_state"]), f"{percent(row['repeated'])} %"),
        ]
        for row in rows
    ]


def other_text(row: Mapping[str, Any], rule: str, name: str) -> str:
    """A share by another criterion in percent, with its control: `45.3 (1.6)`"""
    return f"{percent(row[f'{rule}_{name}'])} ({percent(row[f'{rule}_{name}_control'])})"


def percent(share: float | None) -> str:
    """A share in percent, or a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f}"


def share_text(row: Mapping[str, Any], name: str) -> str:
    """A share in percent with interval and control: `36.3 (30.7-42.4), real 1.0`"""
    share, low, high, real = (
        percent(row[f"{name}_{part}"]) for part in ("share", "low", "high", "control")
    )
    return f"{share} ({low}-{high}), real {real}"


def thresholds_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Criterion, metric and thresholds: `calibrated, l2: delta_m 2.41 to 0.996, delta_s 1.368`."""
    first, limits = rows[0], []
    for name in ("delta_m", "delta_s"):
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            ends = dict.fromkeys(f"{x:.4g}" for x in (values[0], values[-1]))
            limits.append(f"{name} {' to '.join(ends)}")
    shown = ", ".join(limits) or "d_1 < d_2 / 3, s_1 < d_1 / 3"
    return f"{first['criterion']}, {first['metric']}: {shown}"


REPEATS_COLUMNS = (
    *("K", "runs"),
    *(f"{name}_{part}" for name in CLASSES for part in ("mean", "smallest", "largest")),
)


def repeats_rows(runs: Sequence[Sequence[Judged]]) -> list[dict[str, Any]]:
    """The spread between several trainings, a row for each K that all of them have: mean, smallest
    and largest share of each class. Within one run the intervals of summary.csv hold."""
    by_k = [{one.row["K"]: one.row for one in run} for run in runs]
    rows = []
    for k in sorted(set.intersection(*(set(run) for run in by_k))):
        row: dict[str, Any] = {"K": k, "runs": len(runs)}
        for name in CLASSES:
            shares = [run[k][f"{name}_share"] for run in by_k]
            row[f"{name}_mean"] = float(np.mean(shares))
            row[f"{name}_smallest"], row[f"{name}_largest"] = min(shares), max(shares)
        rows.append(row)
    return rows


def repeats_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of repeats.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, REPEATS_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def repeats_table(runs: Sequence[Sequence[Judged]]) -> str:
    """Shares over several trainings for a terminal, and the half points of each of them."""
    rows = repeats_rows(runs)
    head = ["K", *(f"{name} %" for name in CLASSES)]
    cells = [[str(row["K"]), *(spread_text(row, name) for name in CLASSES)] for row in rows]
    lines = [
        f"{len(runs)} trainings of each K: mean (smallest to largest)",
        text_table(" ".join(["{:>6}", *["{:>24}"] * 3]), head, cells),
    ]
    if len(rows) > 1:
        found = [transition(run) for run in runs]
        for name, words in (
            ("memorized_half", "half memorized up to"),
            ("generalized_half", "half generalized from"),
            ("emm", "90 % memorized up to"),
        ):
            values = (crossing_text(one.crossings[name], one.sizes) for one in found)
            lines.append(f"{words} {', '.join(values)}")
    return "\n".join(lines)


def spread_text(row: Mapping[str, Any], name: str) -> str:
    """`41.2 (36.3 to 57.0)`: mean, smallest and largest share in percent."""
    mean, low, high = (percent(row[f"{name}_{part}"]) for part in ("mean", "smallest", "largest"))
    return f"{mean} ({low} to {high})"
