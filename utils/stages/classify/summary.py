"""The rows of all K: summary/K.json, summary.csv that is made from them, and a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.choices import CLASSES
from utils.files.atomic import read_json, write_text
from utils.files.k_files import k_named
from utils.metrics.intervals import CONFIDENCE, wilson_interval
from utils.stages.classify.transition import ESTIMATE_COLUMNS, estimates, in_words, transition

SUMMARY_COLUMNS = (
    *("K", "N", *CLASSES),
    *(f"{name}_{part}" for name in CLASSES for part in ("share", "low", "high")),
    *("delta_m", "delta_s", "criterion", "metric"),
)


def read_summary(path: Path) -> dict[str, Any]:
    """summary/K.json: its row of summary.csv, and args. Raises UserError for any other content."""
    summary = read_json(path)
    row = summary.get("row") if isinstance(summary, dict) else None
    if not isinstance(row, dict) or not is_row(row) or not isinstance(summary.get("args"), dict):
        raise UserError(path, "no summary of run_classify.py", "delete it and run again")
    return summary


def summaries(result: Path) -> list[Path]:
    """The files summary/K.json of a result folder, by K."""
    return list(k_named(result / "summary", ".json").values())


def write_summary(result: Path) -> list[dict[str, Any]]:
    """Rebuild summary.csv from summary/K.json; returns its rows by K.

    Jobs of a slice may end together: after writing, look again for rows of other jobs."""
    written: list[Path] | None = None
    rows: list[dict[str, Any]] = []
    while written != (paths := summaries(result)):
        rows = [read_summary(path)["row"] for path in paths]
        write_text(result / "summary.csv", as_csv(rows))
        written = paths
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of summary.csv: a line for each K, and in each the estimates of the whole sweep."""
    text = io.StringIO()
    columns = (*SUMMARY_COLUMNS, *ESTIMATE_COLUMNS)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    shared = estimates(transition(rows)) if rows else {}
    writer.writerows({**row, **shared} for row in rows)
    return text.getvalue()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a terminal: shares in percent with their 95 % intervals."""
    lines = [f"{'K':>6} {'N':>6}  " + "  ".join(f"{name:>22}" for name in CLASSES)]
    for row in rows:
        cells = (
            f"{100 * row[f'{name}_share']:5.1f} % ({100 * row[f'{name}_low']:5.1f} to "
            f"{100 * row[f'{name}_high']:5.1f})"
            for name in CLASSES
        )
        lines.append(f"{row['K']:>6} {row['N']:>6}  " + "  ".join(f"{c:>22}" for c in cells))
    lines.append(f"{thresholds_text(rows[0])}; in brackets 95 % intervals")
    lines.append(in_words(transition(rows)))
    return "\n".join(lines)


def thresholds_text(row: Mapping[str, Any]) -> str:
    """Criterion, metric and thresholds: `calibrated, l2: delta_m 0.996, delta_s 1.368`."""
    known = [name for name in ("delta_m", "delta_s") if row[name] is not None]
    limits = ", ".join(f"{name} {row[name]:.4g}" for name in known)
    return f"{row['criterion']}, {row['metric']}: {limits}"


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has the columns of `judge_row`, and values that they may have."""
    if set(row) != set(SUMMARY_COLUMNS):
        return False
    counts = [row[name] for name in ("K", "N", *CLASSES)]
    shares = [row[f"{name}_{part}"] for name in CLASSES for part in ("share", "low", "high")]
    whole = all(type(n) is int and n >= 0 for n in counts) and min(row["K"], row["N"]) > 0
    whole = whole and sum(row[name] for name in CLASSES) == row["N"]
    whole = whole and all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares)
    limits = [x for x in (row["delta_m"], row["delta_s"]) if x is not None]
    whole = whole and all(isinstance(x, (int, float)) and 0 <= x < np.inf for x in limits)
    return whole and all(isinstance(row[name], str) for name in ("criterion", "metric"))


def judge_row(
    k: int,
    labels: np.ndarray,
    delta_m: float | None,
    delta_s: float,
    criterion: str,
    metric: str,
) -> dict[str, int | float | str | None]:
    """The row of one K in summary.csv, its keys in the order of SUMMARY_COLUMNS.

    labels: [N], N >= 1; shares lie in 0 to 1, with their 95 % Wilson intervals. delta_m is None
    where the criterion has none (ratio). Raises ValueError where there are no labels."""
    total = len(labels)
    if not total:
        raise ValueError("labels: found none; judge at least one sample")
    counts = {name: int(np.sum(labels == i)) for i, name in enumerate(CLASSES)}
    row: dict[str, int | float | str | None] = {"K": int(k), "N": total, **counts}
    for name, count in counts.items():
        low, high = wilson_interval(count, total, CONFIDENCE)
        row |= {f"{name}_share": count / total, f"{name}_low": low, f"{name}_high": high}
    row["delta_m"] = None if delta_m is None else float(delta_m)
    return row | {"delta_s": float(delta_s), "criterion": criterion, "metric": metric}
