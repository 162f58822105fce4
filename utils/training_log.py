"""The log of a training: a line for people and one for machines at each interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.storage import write_text

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
    """A line for people in logs/train.txt and one for machines in logs/stats.jsonl."""

    def __init__(self, folder: Path, step: int) -> None:
        self.people, self.machine = folder / "logs" / "train.txt", folder / "logs" / "stats.jsonl"
        kept = [row for row in read_stats(folder) if row["step"] <= step]
        write_text(self.machine, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, **row: float | None) -> None:
        """Add a row; the line for people has what SHOWN knows of it."""
        with self.machine.open("a") as file:
            file.write(json.dumps(row) + "\n")
        known = {**row, "minutes_left": row.get("seconds_left", 0) / 60}
        parts = [text.format(known[n]) for n, text in SHOWN.items() if known.get(n) is not None]
        with self.people.open("a") as file:
            file.write("  ".join(parts) + "\n")


def read_stats(folder: Path) -> list[dict[str, Any]]:
    """The rows of logs/stats.jsonl; a line that a kill cut short ends them."""
    path = Path(folder) / "logs" / "stats.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
