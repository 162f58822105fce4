"""Images in files: listed at once, decoded when read, cropped to a square.

Every `open_*` takes the data folder and the form of the images, and returns a `FileSet`. Nothing
is downloaded here."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.progress import print_once
from utils.files.atomic import OURS

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")
OF_STAGES = "written by a stage"
BACKGROUND = "white"  # behind transparent pixels, as on a page
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # Pillow's
THREADS = 8  # decoders release the global interpreter lock
FEW = 32  # for fewer images a thread pool takes longer than it saves


@dataclass(frozen=True)
class Form:
    """The form of images: side in pixels, 1 (grey) or 3 (colour) channels, whether to crop; width:
    of images that are not square, which cannot be cropped."""

    size: int
    channels: int
    crop: bool = False
    width: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.width or self.size


@dataclass(frozen=True)
class FileSet:
    """Images in files, one for each key. `session()` yields decode: key -> uint8 [C, H, W].

    raw: key -> encoded bytes, where each image has a file of its own. root: the folder that was
    searched for them."""

    name: str
    shape: tuple[int, int, int]
    keys: Sequence[Hashable]
    session: Callable[[], Any]  # a context manager: the threads of one read share what it opens
    raw: Callable[[Any], bytes] | None = None
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def names(self) -> list[str]:
        """The path of each file below root; none where there is no such folder."""
        return [path.relative_to(self.root).as_posix() for path in self.keys] if self.root else []

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
    name: str,
    form: Form,
    paths: Sequence[Path],
    decode: Callable[[Path], Tensor],
    root: Path | None = None,
) -> FileSet:
    """Images of one file each, which need nothing opened before."""
    return FileSet(name, form.shape, paths, lambda: nullcontext(decode), read_bytes, root)


def read_bytes(path: Path) -> bytes:
    """The content of an image file. Raises UserError where it cannot be read any more."""
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"no readable image ({error})"
        raise UserError(path, problem, "remove it, or copy it again") from error


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
    elif image.size != form.shape[:0:-1]:
        problem = f"{image.width} x {image.height} pixels, --image-size {form.size}"
        raise UserError(where, problem, "add --centercrop, or choose the images' own --image-size")
    pixels = np.array(image).reshape(*form.shape[1:], form.channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decode(file: Path | io.BytesIO, where: object, form: Form) -> Tensor:
    """One encoded image, see `open_picture`: uint8 [C, H, W].

    Raises UserError that names it: as there, or of the wrong size."""
    return to_tensor(open_picture(file, where, form.channels), where, form)


def open_picture(file: Path | io.BytesIO, where: object, channels: int | None) -> Image:
    """One encoded image of mode L or RGB, for 1 or 3 channels; None: as it is itself.

    Upright as EXIF says, its first frame; transparent pixels on BACKGROUND; 16 bits v as
    round(v / 257), so that their whole range becomes 0 .. 255. Raises UserError that names it: no
    image, cut short, huge, or of real numbers."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            image = without_transparency(to_8_bits(apply_orientation(opened, where)))
            if image.mode[0] not in "IF":
                image = image.convert("L" if channels == 1 or is_grey(image, channels) else "RGB")
    except Image.DecompressionBombError as error:
        problem = f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels"
        raise UserError(where, problem, "shrink it, or remove it") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        problem = f"no readable image ({error})"
        raise UserError(where, problem, "remove it, or copy it again") from error
    if image.mode[0] in "IF":  # their range is not known
        problem = f"pixels of mode {image.mode}, over 16 bits"
        raise UserError(where, problem, "convert it to 8 or 16 bits a channel")
    return image


def is_grey(image: Image, channels: int | None) -> bool:
    """Whether an image whose channels are left to itself has one, by its mode."""
    return channels is None and image.mode in ("1", "L", "LA")


def apply_orientation(image: Image, where: object) -> Image:
    """Turned upright as its EXIF data say. Damaged ones are ignored, as viewers do, with a line."""
    from PIL import ImageOps

    image.load()  # so that damaged pixels are not taken for damaged metadata
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # as a decoder does, it may raise anything
        print(f"{where}: damaged EXIF data are ignored ({error})", flush=True)
        return image


def to_8_bits(image: Image) -> Image:
    """16 bits as 8. Pillow itself would clip them: all but the darkest pixels would be white."""
    from PIL import Image as images

    if image.mode not in SIXTEEN_BIT_MODES:
        return image
    values = np.asarray(image)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65_535:
        return image  # 32 bits
    return images.fromarray(np.rint(values / 257).astype(np.uint8))


def without_transparency(image: Image) -> Image:
    """Transparent pixels on BACKGROUND; an image without any keeps its mode and values."""
    from PIL import Image as images

    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image
    return images.alpha_composite(images.new("RGBA", image.size, BACKGROUND), image)


# A folder of images


def open_folder(root: Path, form: Form, split: str) -> FileSet:
    """All images below root, or below root/train and root/test where both are there."""
    if (root / "train").is_dir() and (root / "test").is_dir():
        root = root / split
    elif split == "test":
        raise no_test_split("folder")
    paths, left_out = find_images(root)
    print_counts(root, len(paths), left_out)
    if not paths:
        remedy = "give a folder that holds " + ", ".join(ending[1:] for ending in ENDINGS)
        problem = "no images in it" if root.is_dir() else "no such folder"
        raise UserError(f"--data-path {root}", problem, remedy)
    return file_set("folder", form, paths, lambda path: decode(path, path, form), root)


@cache
def endings() -> tuple[str, ...]:
    """Those of files that are read as images: with .avif where this Pillow reads it."""
    from PIL import features

    return (*ENDINGS, ".avif") if "avif" in features.modules and features.check("avif") else ENDINGS


def print_counts(root: Path, count: int, left_out: tuple[str, ...]) -> None:
    """Print how many images and other files a folder holds."""
    others = f"; {len(left_out)} files left out: " if left_out else ""
    kinds = ", ".join(f"{n} {ending}" for ending, n in Counter(left_out).most_common(5))
    print_once(f"{root}: {count} images{others}{kinds}")


def find_images(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Image files below root, sorted by path: in the same order everywhere; and the endings of the
    files that are left out. Hidden files are passed over; so are folders that a stage has marked
    as its own, with a word.

    Links to folders are followed, except to a folder above: that would not end."""
    images, left_out = [], []
    for folder, folders, names in os.walk(root, followlinks=True):
        if OURS in names:  # pictures that a stage has written: never data
            left_out += [OF_STAGES for name in names if name[0] != "."]
            folders[:] = []
            continue
        here = Path(os.path.realpath(folder))
        above = [f for f in folders if here.is_relative_to(os.path.realpath(f"{folder}/{f}"))]
        folders[:] = [f for f in folders if not f.startswith(".") and f not in above]
        seen = [name for name in names if name[0] != "."]
        images += [Path(folder, name) for name in seen if name.lower().endswith(endings())]
        others = (name for name in seen if not name.lower().endswith(endings()))
        left_out += [Path(name).suffix.lower() or "without an ending" for name in others]
    images.sort(key=lambda path: path.relative_to(root).as_posix())
    return images, tuple(sorted(left_out))
