"""The rows of all K: summary/K.json, summary.csv that is made from them, and a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.files.atomic import read_json, write_text
from utils.jobs.k_jobs import k_of
from utils.stages.classify.transition import ESTIMATE_COLUMNS, estimates, in_words, transition
from utils.stages.classify.verdicts import CLASSES, SUMMARY_COLUMNS, is_row


def read_summary(path: Path) -> dict[str, Any]:
    """summary/K.json: its row of summary.csv, and args. Raises UserError where it is another."""
    found = read_json(path)
    row = found.get("row") if isinstance(found, dict) else None
    if not isinstance(row, dict) or not is_row(row) or not isinstance(found.get("args"), dict):
        raise UserError(path, "no summary of run_classify.py", "delete it and run again")
    return found


def summaries(result: Path) -> list[Path]:
    """The files summary/K.json of a result folder, by K."""
    found = [path for path in (result / "summary").glob("*.json") if k_of(path)]
    return sorted(found, key=lambda path: int(path.stem))


def write_summary(result: Path) -> list[dict[str, Any]]:
    """Rebuild summary.csv from summary/K.json; returns its rows by K.

    Jobs of a slice may end together: whoever writes looks again whether more rows came."""
    written: list[Path] | None = None
    rows: list[dict[str, Any]] = []
    while written != (there := summaries(result)):
        rows = [read_summary(path)["row"] for path in there]
        write_text(result / "summary.csv", as_csv(rows))
        written = there
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
    lines.append(f"{told_limits(rows[0])}; in brackets 95 % intervals")
    lines.append(in_words(transition(rows)))
    return "\n".join(lines)


def told_limits(row: Mapping[str, Any]) -> str:
    """Criterion, metric and thresholds: `calibrated, l2: delta_m 0.996, delta_s 1.368`."""
    known = [name for name in ("delta_m", "delta_s") if row[name] is not None]
    limits = ", ".join(f"{name} {row[name]:.4g}" for name in known)
    return f"{row['criterion']}, {row['metric']}: {limits}"
