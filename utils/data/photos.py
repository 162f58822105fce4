"""Colour tiles of the photographs that scikit-learn and scikit-image ship: no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError

PHOTOGRAPHS = {  # folder inside the package, and its photographs
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
    "skimage": (
        "data",
        ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    ),
}
TRAIN_PART = 0.75  # of the width of each photograph, from the left; the rest is the test part
CONTRAST = 20.0  # levels: contrast below which a tile is empty sky or background


def photo_tiles(size: int, split: str) -> Tensor:
    """Tiles uint8 [N, 3, size, size] of all photographs, size / 2 apart in both directions.

    Train and test tiles are from different parts of each photograph, so no pixel is in both. Tiles
    without contrast are left out: empty sky is near to other empty sky, and would set the
    thresholds. Raises UserError where a package is missing, or no tile is so large."""
    tiles = np.concatenate([cut(pixels(path), size, split) for path in photographs()])
    if not len(tiles):
        remedy = "choose a smaller one, as 32"
        raise UserError("--image-size", f"{size}, larger than the photographs", remedy)
    return torch.from_numpy(tiles)


def photographs() -> list[Path]:
    """Their files. Raises UserError where a package is missing."""
    paths = []
    for package, (folder, names) in PHOTOGRAPHS.items():
        places = getattr(find_spec(package), "submodule_search_locations", None) or []
        for name in names:
            files = [path for place in places if (path := Path(place, folder, name)).is_file()]
            if not files:
                remedy = "pip install scikit-learn scikit-image"
                raise UserError("--data-name photos", f"no {name} of {package}", remedy)
            paths += files[:1]
    return paths


def pixels(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def cut(photograph: np.ndarray, size: int, split: str) -> np.ndarray:
    """The tiles [n, 3, size, size] of one photograph [H, W, 3] that lie in the part of split and
    have contrast: the standard deviation over the pixels, in levels, averaged over the channels.

    Row by row, from the left."""
    border = int(TRAIN_PART * photograph.shape[1])
    part = photograph[:, :border] if split == "train" else photograph[:, border:]
    if min(part.shape[:2]) < size:
        return np.empty((0, 3, size, size), np.uint8)
    step = max(1, size // 2)
    windows = np.lib.stride_tricks.sliding_window_view(part, (size, size), axis=(0, 1))
    tiles = windows[::step, ::step].reshape(-1, 3, size, size)
    return tiles[tiles.std((2, 3)).mean(1) >= CONTRAST]
