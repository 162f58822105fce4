"""Images in figures: grids and tiles. Images are [..., C, H, W] in [-1, 1], C = 1 or 3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.style import INK, PALE, Look, blank_figure, styled

if TYPE_CHECKING:  # training writes grids without matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TILE_PIXELS = 32  # shortest side of a tile in a grid
TILE, GAP = 0.62, 0.07  # inches: side of a tile in a panel, space between two


@styled
def sample_sheet_figure(images_by_k: Mapping[int, np.ndarray], columns: int = 12) -> Figure:
    """One row for each K, ascending: the first `columns` of its images [n,C,H,W]."""
    if not images_by_k:
        raise ValueError("images_by_k: found none; give images of at least one K")
    margin = 0.35 + 0.085 * (4 + max(len(str(k)) for k in images_by_k))
    step = TILE + GAP
    columns = max(1, min(columns, max(len(images) for images in images_by_k.values())))
    height = len(images_by_k) * step + 3 * GAP
    fig, ax = blank_figure(margin + columns * step + GAP, height)
    for row, k in enumerate(sorted(images_by_k)):
        y = 2 * GAP + row * step
        ax.text(margin - 0.12, y + TILE / 2, f"K = {k}", ha="right", va="center", size=10)
        for column, image in enumerate(images_by_k[k][:columns]):
            draw_tile(ax, image, margin + column * step, y, TILE)
    return fig


def image_grid(images: np.ndarray) -> np.ndarray:
    """A near-square grid of images [n,C,H,W] in [-1, 1], n >= 1, as uint8 [H', W', 3].

    White lines of one image pixel separate the tiles; the whole is enlarged by an integer, each
    pixel repeated, until a tile's smaller side has TILE_PIXELS or more. Raises ValueError where
    there is no image, or C is neither 1 nor 3."""
    tiles = to_rgb(images)  # [n, H, W, 3]
    if tiles.ndim != 4 or not len(tiles):
        raise ValueError(f"images: found shape {np.shape(images)}; give [n, C, H, W], n >= 1")
    n, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + 1) + 1, i % columns * (width + 1) + 1
        grid[y : y + height, x : x + width] = tile
    factor = math.ceil(TILE_PIXELS / min(height, width))
    return grid.repeat(factor, axis=0).repeat(factor, axis=1)


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Images [..., C, H, W] in [-1, 1] as uint8 [..., H, W, 3]; NaN becomes black. Of latents the
    first three channels, or the first one of two, are shown."""
    images = np.asarray(images)
    if images.ndim < 3 or not images.shape[-3]:
        raise ValueError(f"images: found shape {images.shape}; give [..., C, H, W], C >= 1")
    images = images[..., : 3 if images.shape[-3] > 2 else 1, :, :]
    levels = np.rint(np.nan_to_num(np.clip(images, -1, 1), nan=-1.0) * 127.5 + 127.5)
    levels = np.moveaxis(levels.astype(np.uint8), -3, -1)  # [..., H, W, C]
    return np.broadcast_to(levels, (*levels.shape[:-1], 3))


def draw_heading(ax: Axes, look: Look, title: str, note: str) -> None:
    """The mark and title of a panel of images at its upper left, a note at its upper right."""
    ax.plot(0.2, 0.18, look.marker, color=look.colour, markeredgecolor=INK, markersize=8)
    ax.text(0.33, 0.22, title, size=11, weight="bold")
    ax.text(ax.get_xlim()[1] - 2 * GAP, 0.22, note, ha="right", size=8, color=PALE)


def draw_tile(
    ax: Axes, image: np.ndarray, x: float, y: float, side: float, edge: str | None = None
) -> None:
    """One image [C,H,W] with its upper left corner at (x, y), its longer side `side` inches."""
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    box = (x, x + width * scale, y + height * scale, y)
    ax.imshow(to_rgb(image), extent=box, aspect="auto", zorder=2)
    frame = {"edgecolor": edge or PALE, "linewidth": 2.5 if edge else 0.5}
    ax.fill([box[0], box[1], box[1], box[0]], [y, y, box[2], box[2]], fill=False, **frame)
