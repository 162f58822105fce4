"""Open images by the name of a data set, as cifar10:train, or wherever else they are."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.options.choices import DATA_NAMES
from utils.data.datasets import MemorySet, load_image_set
from utils.data.sources.opened import Opening, Source, open_given
from utils.data.sources.pictures import PictureSource

WITH_SIDE = ("digits", "mnist", "fashionmnist", "cifar10")  # all images of one size


def open_source(given: Any, opening: Opening) -> Source:
    """Images as NAME:SPLIT of a known data set, or as `open_given` takes them.

    Raises UserError as that does, and for a name without a part."""
    if isinstance(given, (str, os.PathLike)):
        text = os.fspath(given)
        name, colon, split = text.rpartition(":")
        if colon and name in DATA_NAMES:
            return named(name, split, opening)
        if text in DATA_NAMES and not os.path.exists(text):
            raise UserError(opening.flag, text, f"say which part: {text}:train or {text}:test")
    return open_given(given, opening)


def named(name: str, split: str, opening: Opening) -> Source:
    """The train or test part of a data set that this project knows."""
    if split not in ("train", "test"):
        remedy = f"give {name}:train or {name}:test"
        raise UserError(opening.flag, f"{name}:{split}", remedy)
    if name in ("folder", "images"):
        raise UserError(opening.flag, f"{name}:{split}", "give the path itself")
    channels = DATA_NAMES[name] or 3
    size = opening.size
    if size is None:
        if name not in WITH_SIDE:
            remedy = f"give the side of the images: {name} has none of its own"
            raise UserError("--image-size", "nothing", remedy)
        size = load_image_set(name, opening.data_path, 1, channels, True, split).side
    image_set = load_image_set(name, opening.data_path, size, channels, True, split)
    where = f"{name}:{split}"
    if isinstance(image_set, MemorySet):
        return opening.array([image_set.images], where)
    names = [str(getattr(key, "name", key)) for key in image_set.keys]
    return PictureSource(where, names, lambda i: as_picture(image_set.read([i])[0]))


def as_picture(image: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).contiguous().numpy())
