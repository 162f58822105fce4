"""Overviews of results: figures saved in a folder, and a table of text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.save import save_figure

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.figure import Figure


def show_overview(folder: Path, figures: Mapping[str, Figure], text: str) -> None:
    """Save the figures by name in folder; print the text and the path of the first figure."""
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    print(text)
    print(folder / f"{next(iter(figures))}.png")


def text_table(form: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells under their head, each line in the format `form`.

    >>> text_table("{:>3} {:<5}", ["K", "class"], [["8", "x"]])
    '  K class\\n  8 x    '"""
    return "\n".join(form.format(*cells) for cells in (head, *rows))


def quartiles_text(values: np.ndarray, form: str) -> str:
    """The median and quartiles of values [n], `-` for n = 0.

    >>> quartiles_text(np.array([1.0, 2.0, 3.0]), "{:.1f}")
    '2.0 (1.5 to 2.5)'"""
    if not len(values):
        return "-"
    low, middle, high = map(form.format, np.quantile(values, (0.25, 0.5, 0.75)))
    return f"{middle} ({low} to {high})"
