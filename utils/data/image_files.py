"""Images in files: listed at once, decoded when read, cropped to a square.

Every `open_*` takes the data folder and the form of the images, and returns a `FileSet`. Nothing
is downloaded here."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
THREADS = 8  # decoders release the global interpreter lock
FEW = 32  # for fewer images a thread pool takes longer than it saves


@dataclass(frozen=True)
class Form:
    """The form of images: side in pixels, 1 (grey) or 3 (colour) channels, whether to crop."""

    size: int
    channels: int
    crop: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size


@dataclass(frozen=True)
class FileSet:
    """Images in files, one for each key. `session()` yields decode: key -> uint8 [C, H, W]."""

    name: str
    shape: tuple[int, int, int]
    keys: Sequence[Hashable]
    session: Callable[[], Any]  # a context manager: the threads of one read share what it opens

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """uint8 [n, C, H, W]. Raises UserError that names a file which cannot be used."""
        keys = [self.keys[i] for i in positions(indices).tolist()]
        with self.session() as decode:
            return decode_all(decode, keys, self.shape)


def positions(indices: Sequence[int] | Tensor) -> Tensor:
    """int64 [n], from a tensor, list or range."""
    return torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices)).long()


def decode_all(decode: Callable[[Any], Tensor], keys: Sequence, shape: Sequence[int]) -> Tensor:
    """decode(key) for each key, in order: uint8 [n, C, H, W]."""
    images = torch.empty((len(keys), *shape), dtype=torch.uint8)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        decoded = map(decode, keys) if len(keys) < FEW else pool.map(decode, keys)
        for position, image in enumerate(decoded):  # raises the first error in order
            images[position] = image
    return images


def file_set(
    name: str, form: Form, paths: Sequence[Path], decode: Callable[[Path], Tensor]
) -> FileSet:
    """Images of one file each, which need nothing opened before."""
    return FileSet(name, form.shape, paths, lambda: nullcontext(decode))


def no_test_split(name: str) -> UserError:
    """The error for a data set that has only training images."""
    remedy = "choose a smaller --pool-size: what it leaves is held out"
    return UserError(f"--data-name {name}", "no official test split", remedy)


# One image


def center_crop(image: Image, size: int) -> Image:
    """The middle square of an image at size x size pixels.

    Halved with a box filter while the shorter side is 2 size or more, then the shorter side is
    brought to size by a bicubic filter, then the middle is cut out (the odd pixel goes right and
    below). The semantics of openai/guided-diffusion `center_crop_arr`."""
    from PIL.Image import Resampling

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = size / min(image.size)
    new = (round(image.width * scale), round(image.height * scale))
    image = image.resize(new, Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image, where: object, form: Form) -> Tensor:
    """uint8 [C, H, W] of an L or RGB image, cropped if form says so.

    Raises UserError that names where, for another size."""
    if form.crop:
        image = center_crop(image, form.size)
    elif image.size != (form.size, form.size):
        problem = f"{image.width} x {image.height} pixels, --image-size {form.size}"
        raise UserError(where, problem, "add --centercrop, or choose the images' own --image-size")
    pixels = np.array(image).reshape(form.size, form.size, form.channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decode(file: Path | io.BytesIO, where: object, form: Form) -> Tensor:
    """One encoded image: uint8 [C, H, W]; upright as EXIF says, first frame, transparency dropped.

    Raises UserError that names it: no image, cut short, over 8 bits, or the wrong size."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # Pillow warns of a direct conversion to L or RGB
            deep = image.mode[0] in "IF"
            if not deep:
                image = image.convert("L" if form.channels == 1 else "RGB")
    except Exception as error:  # a damaged file can make a decoder raise anything
        problem = f"no readable image ({error})"
        raise UserError(where, problem, "remove it, or copy it again") from error
    if deep:
        # Pillow would clip 16 bits to 8: all but the darkest pixels would be white.
        problem = f"pixels of mode {image.mode}, over 8 bits"
        raise UserError(where, problem, "convert it to 8 bits a channel")
    return to_tensor(image, where, form)


# A folder of images


def open_folder(root: Path, form: Form, split: str) -> FileSet:
    """All images below root, or below root/train and root/test where both are there."""
    if (root / "train").is_dir() and (root / "test").is_dir():
        root = root / split
    elif split == "test":
        raise no_test_split("folder")
    paths = find_images(root)
    if not paths:
        remedy = "give a folder that holds " + ", ".join(ending[1:] for ending in ENDINGS)
        problem = "no images in it" if root.is_dir() else "no such folder"
        raise UserError(f"--data-path {root}", problem, remedy)
    return file_set("folder", form, paths, lambda path: decode(path, path, form))


def find_images(root: Path) -> list[Path]:
    """Image files below root, without hidden ones, sorted by path: in the same order everywhere.

    Links to folders are followed, except to a folder above: that would not end."""
    images = []
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(os.path.realpath(folder))
        above = [f for f in folders if here.is_relative_to(os.path.realpath(f"{folder}/{f}"))]
        folders[:] = [f for f in folders if not f.startswith(".") and f not in above]
        images += [Path(folder, n) for n in names if n.lower().endswith(ENDINGS) and n[0] != "."]
    return sorted(images, key=lambda path: path.relative_to(root).as_posix())
