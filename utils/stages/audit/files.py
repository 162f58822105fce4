"""What run_audit.py writes: audit.json, neighbours.csv, copied.csv, duplicates.csv."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.files.atomic import read_json, write_json, write_text
from utils.stages.audit.result import Audit

TABLES = {  # files and their columns
    "copied.csv": ("train", "copies", "times_in_train"),
    "duplicates.csv": ("group", "images", "kind", "train"),
}
NOT_STORED = ("table", "groups")  # in audit.json: they have files of their own
REMEDY = "delete it and run again"


def save_audit(folder: Path, audit: Audit, args: Mapping[str, Any]) -> None:
    """All tables, and then audit.json, which marks the audit as done."""
    columns = list(audit.table)
    rows = zip(*audit.table.values(), strict=True)
    write_text(folder / "neighbours.csv", csv_text(columns, rows))
    for name, records in (("copied.csv", audit.copied), ("duplicates.csv", audit.groups)):
        head = TABLES[name]
        write_text(folder / name, csv_text(head, ([one[c] for c in head] for one in records)))
    fields = dataclasses.asdict(audit)
    stored = {name: value for name, value in fields.items() if name not in NOT_STORED}
    write_json(folder / "audit.json", {**stored, "args": dict(args)})


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Numbers have seven digits; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{x:.7g}" if isinstance(x, float) else x for x in row] for row in rows)
    return text.getvalue()


def load_audit(path: Path) -> tuple[Audit, dict[str, Any]]:
    """audit.json without its tables, and its args. Raises UserError where it is another file."""
    content = read_json(path)
    names = {field.name for field in dataclasses.fields(Audit)} - set(NOT_STORED)
    if not isinstance(content, dict) or not names | {"args"} <= set(content):
        raise UserError(path, "no audit of this version", REMEDY)
    args = content.pop("args")
    if not isinstance(args, dict):
        raise UserError(path, "no options in it", REMEDY)
    return Audit(**{name: content[name] for name in names}), args
