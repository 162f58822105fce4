"""The log of a training: one line to read and one row for programs at each interval."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.files.atomic import reason, write_text

LAST_BYTES = 4096  # of the log, which hold several rows
MOST = 1e300  # of a number in a row: the axis of a figure must hold it
SHOWN = {
    "step": "step {:>7}",
    "loss": "loss {:.4f}",
    "valid_loss": "validation {:.4f}",
    "grad_norm": "gradient {:.3f}",
    "images_per_second": "{:.0f} images/s",
    "steps_per_second": "{:.0f} steps/s",
    "minutes_left": "{:.1f} min left",
}


class TrainingLog:
    """Lines to read in logs/train.txt, rows for programs in logs/stats.jsonl.

    step: at which the training goes on; rows of later steps are removed."""

    def __init__(self, folder: Path, step: int) -> None:
        self.text, self.rows = folder / "logs" / "train.txt", folder / "logs" / "stats.jsonl"
        kept = [row for row in read_stats(folder) if row["step"] <= step]
        write_text(self.rows, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, **row: float | None) -> None:
        """Add a row; the line to read has the columns of SHOWN."""
        with self.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        known = {**row, "minutes_left": row.get("seconds_left", 0) / 60}
        parts = [text.format(known[n]) for n, text in SHOWN.items() if known.get(n) is not None]
        with self.text.open("a") as file:
            file.write("  ".join(parts) + "\n")


def read_stats(folder: Path) -> list[dict[str, Any]]:
    """The rows of logs/stats.jsonl, without lines that a kill cut short or that are no rows.

    Each has a `step` and a `loss`; other values are numbers, None, or a list (`score_errors`).
    Raises UserError where the file cannot be read."""
    return _rows(Path(folder))


def last_row(folder: Path) -> dict[str, Any] | None:
    """The last row of logs/stats.jsonl; None without one. The end of the file is read alone: a long
    training is asked every second. Raises UserError where the file cannot be read."""
    rows = _rows(Path(folder), LAST_BYTES)
    return rows[-1] if rows else None


def _rows(folder: Path, last_bytes: int | None = None) -> list[dict[str, Any]]:
    path = folder / "logs" / "stats.jsonl"
    if not path.exists():
        return []
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - last_bytes) if last_bytes else 0)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    rows = []
    for line in lines:  # the first one may begin in its middle
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if _is_row(row):
                rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not {"step", "loss"} <= row.keys():
        return False
    if type(row["step"]) is not int or not 0 <= row["step"] < 2**63 or row["loss"] is None:
        return False
    return all(_is_value(key, value) for key, value in row.items())


def _is_value(key: str, value: Any) -> bool:
    """Whether value is None or a number below MOST; `score_errors` of the circle are a list."""
    if key == "score_errors" and isinstance(value, list):
        return all(_is_value("", error) and error is not None for error in value)
    return value is None or (type(value) in (int, float) and abs(value) < MOST)  # NaN is not
