"""Images in files: found at once, decoded when asked for, cut to a square.

Every `open_*` takes the data folder and the form that images are wanted in, and returns a
`FileSet`. Nothing is downloaded here."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.files.atomic import read_npy

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
THREADS = 8  # decoders release the interpreter's lock
FEW = 32  # images that are not worth a thread pool
PROBED = 16  # float arrays that decide between [-1, 1] and [0, 1]
ROUNDING = 1e-4  # by which a float array may leave its range


@dataclass(frozen=True)
class Form:
    """What images are wanted as: side in pixels, 1 (grey) or 3 (colour) channels, cropped?"""

    size: int
    channels: int
    crop: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size


@dataclass(frozen=True)
class FileSet:
    """Images that lie in files, one a key. `session()` yields decode: key -> uint8 [C, H, W]."""

    name: str
    shape: tuple[int, int, int]
    keys: Sequence[Hashable]
    session: Callable[[], Any]  # a context manager: what it opens is shared by one read's threads

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

    def put(place: int) -> None:
        images[place] = decode(keys[place])

    if len(keys) < FEW:
        for place in range(len(keys)):
            put(place)
    else:
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(put, range(len(keys))):  # raises the first error in order
                pass
    return images


def file_set(
    name: str, form: Form, paths: Sequence[Path], decode: Callable[[Path], Tensor]
) -> FileSet:
    @contextmanager
    def session() -> Iterator[Callable[[Path], Tensor]]:
        yield decode

    return FileSet(name, form.shape, paths, session)


def no_test_split(name: str) -> UserError:
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
    """uint8 [C, H, W] of an L or RGB image; UserError where its size is another and not cropped."""
    if form.crop:
        image = center_crop(image, form.size)
    elif image.size != (form.size, form.size):
        found = f"{image.width} x {image.height} pixels, --image-size {form.size}"
        raise UserError(where, found, "add --centercrop, or choose the images' own --image-size")
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
                image = image.convert("RGBA")  # Pillow warns of the direct way
            deep = image.mode[0] in "IF"
            if not deep:
                image = image.convert("L" if form.channels == 1 else "RGB")
    except Exception as error:  # a damaged file can make a decoder raise anything
        found = f"no readable image ({error})"
        raise UserError(where, found, "remove it, or copy it again") from error
    if deep:
        # Pillow would clip 16 bits to 8, and all but the darkest pixels would be white.
        found = f"pixels of mode {image.mode}, over 8 bits"
        raise UserError(where, found, "convert it to 8 bits a channel")
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
        found = "no images in it" if root.is_dir() else "no such folder"
        raise UserError(f"--data-path {root}", found, remedy)
    return file_set("folder", form, paths, lambda path: decode(path, path, form))


def find_images(root: Path) -> list[Path]:
    """Image files below root by their path's text, the same on every file system; no hidden ones.

    Links to folders are followed, but not upwards: that would never end."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        ups = [f for f in folders if Path(here).is_relative_to(os.path.realpath(f"{folder}/{f}"))]
        folders[:] = [f for f in folders if not f.startswith(".") and f not in ups]
        found += [Path(folder, n) for n in names if n.lower().endswith(ENDINGS) and n[0] != "."]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


# CelebA


def open_celeba(root: Path, form: Form, split: str) -> FileSet:
    """CelebA in torchvision's layout, root/celeba/img_align_celeba/*.jpg.

    With root/celeba/list_eval_partition.txt train is its part 0 and test its part 2; without it
    train is every image."""
    folder = root / "celeba" / "img_align_celeba"
    found = {path.name: path for path in folder.glob("*.jpg") if path.name[0] != "."}
    if not found:
        remedy = "unpack CelebA's img_align_celeba.zip to this place, or set --data-path"
        raise UserError(folder, "no .jpg files", remedy)
    parts = root / "celeba" / "list_eval_partition.txt"
    if parts.exists():
        names = _celeba_names(parts, "0" if split == "train" else "2")
    elif split == "train":
        names = list(found)
    else:
        remedy = "copy it there, or choose a smaller --pool-size"
        raise UserError(parts, "no such file, and it names the test images", remedy)
    for name in names:
        if name not in found:
            raise UserError(folder / name, "no such file", f"copy it, or delete {parts}")
    paths = [found[name] for name in sorted(names)]
    return file_set("celeba", form, paths, lambda path: decode(path, path, form))


def _celeba_names(parts: Path, part: str) -> list[str]:
    try:
        lines = [line.split() for line in parts.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(parts, f"no readable text ({error})", "copy it again") from error
    names = [line[0] for line in lines if len(line) == 2 and line[1] == part]
    if not names or any(len(line) != 2 for line in lines):
        remedy = "copy CelebA's list again: lines such as '000001.jpg 0'"
        raise UserError(parts, f"lines of another kind, or none of part {part}", remedy)
    return names


# CelebA-HQ as arrays


def open_celebahq(root: Path, form: Form, split: str) -> FileSet:
    """One .npy an image in root/celebahq or root, by the name's text.

    uint8 or float; [H, W, 3], [3, H, W], or either with a leading 1. Floats lie in [-1, 1] if one
    of the first 16 arrays has a negative value, else all lie in [0, 1]: a single bright image
    could not tell."""
    if split == "test":
        raise no_test_split("celebahq")
    folder = root / "celebahq" if (root / "celebahq").is_dir() else root
    paths = sorted(path for path in folder.glob("*.npy") if path.name[0] != ".")
    if not paths:
        raise UserError(folder, "no .npy files", "put the images' arrays there, or set --data-path")
    probed = [read_npy(path) for path in paths[:PROBED]]
    signed = any(a.dtype.kind == "f" and a.size and a.min() < -ROUNDING for a in probed)

    def decode_array(path: Path) -> Tensor:
        from PIL import Image

        pixels = to_pixels(read_npy(path), path, -1.0 if signed else 0.0)
        return to_tensor(Image.fromarray(pixels), path, form)

    return file_set("celebahq", form, paths, decode_array)


def to_pixels(array: np.ndarray, path: Path, low: float) -> np.ndarray:
    """uint8 [H, W, 3]; floats become round(255 (x - low) / (1 - low)), low = -1 or 0."""
    shape = array.shape
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size or array.dtype.kind not in "uf":
        found = f"{array.dtype} of shape {list(shape)}"
        raise UserError(path, found, "give uint8 or float [H, W, 3] or [3, H, W]")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    least, most = float(array.min()), float(array.max())
    # A NaN makes either comparison false.
    if array.dtype.kind != "f" or not (low - ROUNDING <= least and most <= 1 + ROUNDING):
        found = f"{array.dtype} values {least:.4g} to {most:.4g}"
        raise UserError(path, found, f"give uint8, or floats in [{low:.0f}, 1] as in the others")
    unit = (array.astype(np.float64).clip(low, 1) - low) / (1 - low)
    return np.ascontiguousarray(np.rint(unit * 255).astype(np.uint8))
