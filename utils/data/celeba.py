"""CelebA, and CelebA-HQ as a folder of .npy arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.image_files import FileSet, Form, decode, file_set, no_test_split, to_tensor
from utils.files.arrays import read_npy

PROBED = 16  # first float arrays, which decide between [-1, 1] and [0, 1]
ROUNDING = 1e-4  # by so much a float array may leave its range


def open_celeba(root: Path, form: Form, split: str) -> FileSet:
    """CelebA in torchvision's layout, root/celeba/img_align_celeba/*.jpg.

    With root/celeba/list_eval_partition.txt train is its part 0 and test its part 2; without it
    train is every image."""
    folder = root / "celeba" / "img_align_celeba"
    files = {path.name: path for path in folder.glob("*.jpg") if path.name[0] != "."}
    if not files:
        remedy = "unpack CelebA's img_align_celeba.zip to this place, or set --data-path"
        raise UserError(folder, "no .jpg files", remedy)
    parts = root / "celeba" / "list_eval_partition.txt"
    if parts.exists():
        names = _celeba_names(parts, "0" if split == "train" else "2")
    elif split == "train":
        names = list(files)
    else:
        remedy = "copy it there, or choose a smaller --pool-size"
        raise UserError(parts, "no such file, and it names the test images", remedy)
    for name in names:
        if name not in files:
            raise UserError(folder / name, "no such file", f"copy it, or delete {parts}")
    paths = [files[name] for name in sorted(names)]
    return file_set("celeba", form, paths, lambda path: decode(path, path, form))


def _celeba_names(parts: Path, part: str) -> list[str]:
    """The file names of one part (0 train, 2 test) of CelebA's list."""
    try:
        lines = [line.split() for line in parts.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(parts, f"no readable text ({error})", "copy it again") from error
    names = [line[0] for line in lines if len(line) == 2 and line[1] == part]
    if not names or any(len(line) != 2 for line in lines):
        remedy = "copy CelebA's list again: lines such as '000001.jpg 0'"
        raise UserError(parts, f"lines of another kind, or none of part {part}", remedy)
    return names


def open_celebahq(root: Path, form: Form, split: str) -> FileSet:
    """One .npy an image in root/celebahq or root, sorted by name.

    uint8 or float; [H, W, 3], [3, H, W], or either with a leading 1. Floats lie in [-1, 1] if one
    of the first 16 arrays has a negative value, else in [0, 1]: one bright image alone would not
    show which."""
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
        problem = f"{array.dtype} of shape {list(shape)}"
        raise UserError(path, problem, "give uint8 or float [H, W, 3] or [3, H, W]")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    least, most = float(array.min()), float(array.max())
    # Comparisons with NaN are false.
    if array.dtype.kind != "f" or not (low - ROUNDING <= least and most <= 1 + ROUNDING):
        problem = f"{array.dtype} values {least:.4g} to {most:.4g}"
        raise UserError(path, problem, f"give uint8, or floats in [{low:.0f}, 1] as in the others")
    unit = (array.astype(np.float64).clip(low, 1) - low) / (1 - low)
    return np.ascontiguousarray(np.rint(unit * 255).astype(np.uint8))
