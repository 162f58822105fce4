"""Checks of figures: their texts, their files, and that nothing is cut off."""

import re

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from tests.helpers.judged import row_of
from utils.figures.save import save_figure
from utils.stages.classify.figures import neighbour_panel


def sweep(*sizes, total=64):
    """One row for each K, the share of generalized samples growing with K."""
    rows = []
    for i, k in enumerate(sizes):
        many = round(total * i / max(1, len(sizes) - 1))
        labels = np.array([0] * (total - many) + [2] * many, np.int8)
        rows.append(row_of(k, labels, criterion="calibrated"))
    return rows


def texts(fig):
    """All text of a figure that is not empty."""
    return [text.get_text() for text in fig.findobj(matplotlib.text.Text) if text.get_text()]


def assert_nothing_is_cut_off(fig):
    """Everything that is drawn lies within the figure."""
    fig.draw_without_rendering()
    drawn, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= -0.01
    assert max(drawn.x1 - width, drawn.y1 - height) <= 0.01


def assert_files_of_a_figure(draw, folder):
    """What draw() gives is saved as PNG of 200 dots per inch and as PDF whose fonts are all
    embedded, as TrueType; drawn again, as the same bytes."""
    for name in ("first", "second"):
        fig = draw()
        save_figure(fig, folder / name / "figure.png")
        assert {p.name for p in (folder / name).glob("[!.]*")} == {"figure.png", "figure.pdf"}
    for ending in ("png", "pdf"):
        first, second = (folder / n / f"figure.{ending}" for n in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    with Image.open(folder / "first" / "figure.png") as image:
        np.testing.assert_allclose(image.info["dpi"], 200, rtol=1e-4)
        np.testing.assert_allclose(image.size, 200 * fig.get_size_inches(), rtol=0, atol=1)
    pdf = (folder / "first" / "figure.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    # Streams are packed, but these words stand outside of them.
    kinds = set(re.findall(rb"/Type /Font\b[^>]*?/Subtype /(\w+)", pdf, re.DOTALL))
    fonts, embedded = pdf.count(b"/Type /FontDescriptor"), pdf.count(b"/FontFile2 ")
    assert kinds == {b"Type0", b"CIDFontType2"} and fonts == embedded >= 1
    assert b"CreationDate" not in pdf and b"ModDate" not in pdf


def panel(digits, n, k, k_synth, **options):
    """A panel of n digits, their neighbours at distances 0, 1, ... and 10, 11, ..."""
    train, synth = (np.repeat(digits[None, :count], n, axis=0) for count in (k, k_synth))
    d_train, d_synth = np.tile(np.arange(k), (n, 1)), np.tile(np.arange(10, 10 + k_synth), (n, 1))
    return neighbour_panel(16, "spurious", digits[:n], train, synth, d_train, d_synth, **options)


DISTANCES = np.linspace(0, 2, 30), np.linspace(2, 0, 30)


def colour(drawn):
    """A colour as #RRGGBB."""
    return to_hex(drawn).upper()
