"""A figure as .png and .pdf files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from utils.figures.style import styled
from utils.files.atomic import atomic_write, mark_as_ours

if TYPE_CHECKING:  # matplotlib is loaded with the first figure: training needs none for its grids
    from matplotlib.figure import Figure

DOTS_PER_INCH = 200


def figure_files(picture: Path) -> tuple[Path, Path]:
    """The files of a figure NAME.png: itself, and NAME.pdf beside it.

    Raises ValueError where picture has another ending."""
    picture = Path(picture)
    if picture.suffix != ".png":
        raise ValueError(f"picture: found {picture.name!r}; give a name that ends with .png")
    return picture, picture.with_suffix(".pdf")


@styled
def save_figure(fig: Figure, picture: Path) -> None:
    """Write fig as NAME.png and as NAME.pdf, each whole or not at all; equal figures, equal bytes.

    Both have the same layout. Afterwards fig has a fixed layout, and its images have the
    interpolation of the PDF. Raises UserError where a file cannot be written."""
    raster, vector = figure_files(picture)
    fig.set_dpi(DOTS_PER_INCH)
    if fig.get_layout_engine():
        fig.draw_without_rendering()
        fig.set_layout_engine(None)  # each drawing would change it a little
    mark_as_ours(raster.parent)
    with atomic_write(raster) as file:
        fig.savefig(file, format="png", dpi=DOTS_PER_INCH)
    _keep_pixels(fig)
    # Without metadata a PDF has the time at which it was made.
    with atomic_write(vector) as file:
        fig.savefig(file, format="pdf", dpi=DOTS_PER_INCH, metadata={"CreationDate": None})


def _keep_pixels(fig: Figure) -> None:
    """Store images in a PDF pixel by pixel, unless they have more pixels than the page has dots."""
    from matplotlib.image import AxesImage

    for image in fig.findobj(AxesImage):
        if image.get_window_extent().width >= image.get_size()[1]:
            image.set_interpolation("none")
