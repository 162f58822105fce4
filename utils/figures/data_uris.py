"""Pictures as `data:` addresses, which a page carries inside."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.figures.images import to_rgb
from utils.figures.save import DOTS_PER_INCH as SAVED_DOTS_PER_INCH
from utils.figures.save import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST_TILE = 96  # pixels: larger images are shown smaller
DOTS_PER_INCH = 150
QUALITY = 88  # of WebP, 0 to 100


def tile_uri(image: np.ndarray) -> str:
    """One image [C, H, W] in [-1, 1], C = 1 or 3.

    A grey one keeps every pixel (PNG); a colour one is WebP, whose loss the eye does not see at
    this size. Images above LARGEST_TILE pixels are shrunk."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(to_rgb(image)))
    if max(picture.size) > LARGEST_TILE:
        picture.thumbnail((LARGEST_TILE, LARGEST_TILE))
    if len(image) == 1:
        return _encoded(picture.convert("L"), "png", optimize=True)
    return _encoded(picture, "webp", quality=QUALITY)


@styled
def figure_uri(fig: Figure, lossless: bool = True) -> str:
    """A figure as WebP; not lossless for photographs."""
    buffer = io.BytesIO()
    options = {"lossless": True} if lossless else {"quality": QUALITY}
    fig.savefig(buffer, format="webp", dpi=DOTS_PER_INCH, pil_kwargs=options)
    return _uri("webp", buffer)


def file_uri(path: Path) -> str:
    """A picture that a stage has drawn, a file .png; smaller here, and as WebP."""
    from PIL import Image

    with Image.open(path) as picture:
        size = [round(side * DOTS_PER_INCH / SAVED_DOTS_PER_INCH) for side in picture.size]
        return _encoded(picture.convert("RGB").resize(size), "webp", quality=QUALITY)


def _encoded(picture: object, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return _uri(kind, buffer)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
