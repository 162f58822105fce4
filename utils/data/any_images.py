"""Images from anywhere as a data set: what `--data-name images` and `--train` name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.options.choices import PICTURE_CHANNELS
from utils.cli.progress import print_once
from utils.data.image_files import Form, no_test_split, positions
from utils.data.sources.opened import Opening, open_given
from utils.data.sources.scan import ImageList, scan

KEPT_BYTES = 2**28  # of images, at most, that are kept in memory; others are read again
LEVEL = 1e-3  # of 255 levels: values nearer to one than this are that level


@dataclass(frozen=True)
class AnyImages:
    """An `ImageSet` of images in any file or folder that run_audit.py reads."""

    images: ImageList
    name = "images"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images.form.shape

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """uint8 [n, C, H, W]; real numbers are rounded to 255 levels, with a line. Latents, of
        another number of channels than 1 or 3, are float32 as they are."""
        block = self.images[positions(indices)]
        if block.dtype == torch.uint8 or block.shape[1] not in PICTURE_CHANNELS:
            return block
        levels = (block.double() + 1) * 127.5
        rounded = levels.round()
        if ((levels - rounded).abs() > LEVEL).any():
            print_once(f"{self.images.source.where}: real numbers are rounded to 8 bits")
        return rounded.to(torch.uint8)


def open_any_images(root: Path, form: Form, split: str) -> AnyImages:
    """All images of a file or a folder, in the order in which it holds them. Raises UserError where
    they are of other sizes than form says, and form does not crop, or of real numbers whose range
    is not clear."""
    if split == "test":
        raise no_test_split("images")
    opened = AnyImages(_scanned(str(root), form, _state(root)))
    _, height, width = form.shape
    others = [size for size in opened.images.sizes if size != (width, height)]
    if others and not form.crop:
        asked = f"{height}" if width == height else f"{height}, width {width}"
        found = f"{others[0][0]} x {others[0][1]} pixels, --image-size {asked}"
        raise UserError(root, found, "add --centercrop, or choose the images' own --image-size")
    print_once(opened.images.describe())
    return opened


@lru_cache(maxsize=4)
def _scanned(root: str, form: Form, state: object) -> ImageList:
    """Looked at once in a process: stages open a data set several times."""
    source = open_given(root, Opening("--train", can_say=False, channels=form.channels))
    square_pictures = form.width in (None, form.size) and form.channels in PICTURE_CHANNELS
    form = Form(form.size, form.channels, crop=True) if square_pictures else form
    return scan(source, form, keep_bytes=KEPT_BYTES)


def _state(root: Path) -> object:
    """What changes where a file does; of `file.npz:key` and folders nothing is known."""
    return (os.stat(root).st_mtime_ns, os.stat(root).st_size) if root.is_file() else None
