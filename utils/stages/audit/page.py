"""An audit as one self-contained page, report.html."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from utils.cli.options.choices import CUTOFFS
from utils.evidence.definitions import TESTS
from utils.evidence.image_quality import MEASURES, measure_text
from utils.figures.data_uris import figure_uri
from utils.figures.page import render
from utils.figures.style import three_digits
from utils.files.atomic import write_text
from utils.stages.audit.result import Audit
from utils.stages.audit.words import (
    by_text,
    duplicates_text,
    finding_text,
    headline,
    percent,
    states_text,
)

TEMPLATE = Path(__file__).with_name("template") / "audit.html"
ROWS = 32  # of each table
PACKAGES = ("torch", "numpy", "pillow")


def write_page(
    folder: Path, audit: Audit, pictures: Mapping[str, Figure], options: Mapping[str, Any]
) -> Path:
    """folder/report.html; pictures: by their title."""
    figures = [
        {"title": title, "uri": figure_uri(figure, lossless=False), "alt": f"{title}. {alt}"}
        for (title, figure), alt in zip(
            pictures.items(), (headline(audit), distances_in_words(audit)), strict=True
        )
    ]
    path = folder / "report.html"
    write_text(path, render(TEMPLATE, {**contents(audit, options), "figures": figures}))
    return path


def contents(audit: Audit, options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the template, but for the figures."""
    versions = [f"{package} {version(package)}" for package in PACKAGES]
    shown = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
    return {
        "title": "Copies of training images among the samples",
        "headline": headline(audit),
        "warnings": audit.warnings,
        "needs_held_out": audit.needs_held_out,
        "facts": [
            ("found by", by_text(audit.copies)),
            ("training images", duplicates_text(audit.duplicates)),
            ("samples", states_text(audit.states, audit.copies["total"])),
            ("metric", audit.metric),
        ],
        "criteria": criteria_table(audit),
        "quality": quality_table(audit),
        "worst": worst_table(audit),
        "copied": table(("training image", "copies", "times in the training set"), audit.copied),
        "duplicates": table(("group", "images", "kind", "training image"), audit.groups),
        "findings": [
            {"text": finding_text(one), "words": TESTS[name]}
            for name, one in audit.findings.items()
        ],
        "inputs": list(audit.inputs.items()),
        "options": shown,
        "made_with": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


def criteria_table(audit: Audit) -> dict[str, Any]:
    """Copies by each criterion, and the same of held-out images."""
    head, rows = ["criterion", "samples"], []
    if audit.control:
        head.append("held-out images")
    for name in (*audit.copies["by"], "any"):
        shares = [audit.copies, audit.control] if audit.control else [audit.copies]
        cells = []
        for share in shares:
            count = share["count"] if name == "any" else share["by"][name]
            cells.append(f"{count} of {share['total']} ({percent(count / share['total'])})")
        rows.append([name, *cells])
    for name in audit.cutoffs:
        if name in CUTOFFS:
            shares = [audit.cutoffs[name], audit.cutoffs[f"{name}_control"]][: len(head) - 1]
            rows.append([f"published cut-off {name}", *map(percent, shares)])
    return {"head": head, "rows": rows}


def quality_table(audit: Audit) -> dict[str, Any] | None:
    """Every measure with its interval and that of held-out images; None without them."""
    if not audit.quality:
        return None
    rows = [[title, measure_text(audit.quality, name)] for name, title in MEASURES.items()]
    head = ["measure", f"samples (n = {audit.quality['quality_n']:.0f} of each set)"]
    return {"head": head, "rows": rows}


def worst_table(audit: Audit) -> dict[str, Any]:
    """The first rows of neighbours.csv."""
    columns = [name for name in audit.table if name != "train_2"][:7]
    rows = zip(*(audit.table[name][:ROWS] for name in columns), strict=True)
    return {"head": columns, "rows": [[cell(value) for value in row] for row in rows]}


def cell(value: Any) -> str:
    if value is None:
        return "-"
    return three_digits(value) if isinstance(value, float) else str(value)


def table(head: tuple[str, ...], records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first records as rows; None where there are none."""
    rows = [[str(value) for value in one.values()] for one in records[:ROWS]]
    return {"head": head, "rows": rows} if rows else None


def distances_in_words(audit: Audit) -> str:
    distances = audit.table["distance_1"]
    return f"Distances from {min(distances):.3g} to {max(distances):.3g}."
