"""Open images, wherever they are: a path, or what Python holds."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.sources.arrays import LAYOUTS, SIGNED, ArraySource, Range
from utils.data.sources.pictures import (
    PictureSource,
    picture_folder,
    tar_pictures,
    zip_pictures,
)
from utils.data.sources.tables import datasets_folder, parquet_pictures
from utils.files.arrays import NpyFile, read_npy, read_npz, read_shape
from utils.files.tensors import load_torch
from utils.jobs.memory import as_size, free_memory

KEYS = ("samples", "arr_0", "images", "x")  # of a .npz file or a dict, in this order
LARGE = 2**26  # bytes of a .npy file from which on it is read a block at a time
TENSOR_ENDINGS = (".pt", ".pth")
FORMS = "give a folder, .npy, .npz, .zip, .tar, .pt, .safetensors, .parquet, or NAME:train"
Source = PictureSource | ArraySource


@dataclass(frozen=True)
class Opening:
    """How one set of images is read. flag: --samples, --train or --held-out, for its errors.

    size: the side of the images, for data sets by name that must be cropped; None if unknown.
    can_say: whether there are options that say the range and the layout. channels: of the images,
    where they are known."""

    flag: str = "--samples"
    value_range: Range | None = None
    layout: str | None = None
    data_path: Path = Path("data")
    size: int | None = None
    can_say: bool = True
    channels: int | None = None

    def array(self, arrays: list[Any], where: object, **more: Any) -> ArraySource:
        settings = {"layout": self.layout, "value_range": self.value_range}
        settings["flag"] = self.flag if self.can_say else None
        settings["channels"] = self.channels
        return ArraySource(arrays, where, **settings, **more)


def open_given(given: Any, opening: Opening) -> Source:
    """Images as a path (also `file.npz:key`), as an array or a tensor, or as an iterable of arrays,
    tensors or Pillow's pictures.

    Raises UserError where it is missing, damaged, of no known kind, or not clear."""
    if not isinstance(given, (str, os.PathLike)):
        return in_memory(given, opening)
    text = os.path.expanduser(os.fspath(given))
    path = Path(text)
    if path.exists():
        return open_path(path, opening, "")
    before, colon, after = text.rpartition(":")
    if colon and Path(before).is_file():
        return open_path(Path(before), opening, after)
    raise UserError(f"{opening.flag} {text}", "no such file or folder", FORMS)


def open_path(path: Path, opening: Opening, key: str) -> Source:
    """key: which array of a file, empty for the usual one."""
    ending = path.suffix.lower()
    if key and ending not in (".npz", ".safetensors", *TENSOR_ENDINGS):
        raise UserError(f"{opening.flag} {path}:{key}", f"a key of a {ending} file", FORMS)
    if path.is_dir():
        return open_directory(path, opening)
    if ending == ".npy":
        return opening.array([read_or_open(path)], path)
    if ending == ".npz":
        return open_npz(path, opening, key)
    if ending == ".zip":
        return zip_pictures(path)
    if ending == ".tar" or path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        return tar_pictures(path)
    if ending == ".parquet":
        return parquet_pictures([path], path)
    if ending == ".safetensors":
        return open_safetensors(path, opening, key)
    if ending in TENSOR_ENDINGS:
        return open_tensors(path, opening, key)
    raise UserError(f"{opening.flag} {path}", f"a file {ending or 'without an ending'}", FORMS)


def open_directory(folder: Path, opening: Opening) -> Source:
    """A folder of the package datasets, of .npy or Parquet files, or of pictures."""
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return datasets_folder(folder)
    if (folder / "dataset_dict.json").is_file():
        return datasets_folder(folder)
    seen = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name[0] != "."]
    arrays = [path for path in seen if path.suffix.lower() == ".npy"]
    tables = [path for path in seen if path.suffix.lower() == ".parquet"]
    if arrays and len(arrays) == len(seen):
        if read_npy(arrays[0]).ndim == 4 or len(arrays) == 1:
            return opening.array([read_or_open(path) for path in arrays], folder)
        names = [path.relative_to(folder).as_posix() for path in arrays]
        return opening.array([ImageFiles(arrays)], folder, names=names)
    if tables and len(tables) == len(seen):
        return parquet_pictures(tables, folder)
    if any(path.suffix.lower() == ".npy" for path in seen):
        raise UserError(folder, "arrays (.npy) beside other files", "give a folder of one kind")
    return picture_folder(folder)


class ImageFiles:
    """One .npy array an image, of one shape, read when used. Raises UserError where one has
    another shape."""

    def __init__(self, paths: list[Path]) -> None:
        first = read_npy(paths[0])
        self._paths, self.dtype = paths, first.dtype
        self.shape = (len(paths), *first.shape)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: slice) -> np.ndarray:
        images = [self._read(path) for path in self._paths[rows]]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), self.dtype)

    def _read(self, path: Path) -> np.ndarray:
        image = read_npy(path)
        if image.shape != self.shape[1:] or image.dtype != self.dtype:
            problem = f"{image.dtype} {list(image.shape)}"
            remedy = f"give images of one kind: the first is {self.dtype} {list(self.shape[1:])}"
            raise UserError(path, problem, remedy)
        return image


def read_or_open(path: Path) -> np.ndarray | NpyFile:
    """A .npy array; a large one is read a block at a time."""
    return read_npy(path) if path.stat().st_size < LARGE else NpyFile(path)


def open_npz(path: Path, opening: Opening, key: str) -> ArraySource:
    """One array of a .npz file: key, or the first of KEYS, or the only one of images."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(n).stem for n in archive.namelist() if n.endswith(".npy")]
            size = max((info.file_size for info in archive.infolist()), default=0)
    except Exception:  # read_npz says what is wrong
        names, size = [], 0
    refuse_huge(path, size)
    if not names:
        read_npz(path)
        raise UserError(path, "no arrays", FORMS)
    chosen = choose_key(path, names, {n: read_shape(path, n) for n in names}, key, opening.flag)
    with_args = chosen == "samples" and "args" in names
    array = read_npz(path, [chosen])[chosen]
    return opening.array([array], path, known=SIGNED if with_args else None)


def refuse_huge(path: Path, size: int) -> None:
    """Raises UserError where an array would not fit into the memory."""
    free = free_memory(torch.device("cpu"))
    if size > free:
        remedy = "store it as .npy, which is read a block at a time"
        raise UserError(path, f"an array of {as_size(size)}, {as_size(free)} are free", remedy)


def choose_key(
    path: Path, names: list[str], shapes: dict[str, tuple[int, ...]], key: str, flag: str
) -> str:
    """The key of the images. Raises UserError where there is none, or several may be meant."""
    held = ", ".join(sorted(names)) or "nothing"
    if key:
        if key not in names:
            raise UserError(f"{flag} {path}:{key}", "no such array", f"choose one of: {held}")
        return key
    usual = [name for name in KEYS if name in names]
    images = usual[:1] or [name for name in names if len(shapes[name]) in (3, 4)]
    if len(images) != 1:
        remedy = f"name one, as {path.name}:{(images or ['KEY'])[0]} (it holds: {held})"
        raise UserError(f"{flag} {path}", f"{len(images)} arrays of images", remedy)
    return images[0]


def open_safetensors(path: Path, opening: Opening, key: str) -> ArraySource:
    """One tensor of a .safetensors file."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            chosen = choose_key(path, list(shapes), shapes, key, opening.flag)
            tensor = file.get_tensor(chosen)
    except UserError:
        raise
    except Exception as error:  # a damaged file may raise anything
        problem = f"no readable .safetensors file ({error})"
        raise UserError(path, problem, "copy it again") from error
    return opening.array([tensor], path)


def open_tensors(path: Path, opening: Opening, key: str) -> ArraySource:
    """A .pt file: a tensor, a list of images, or a dict with one of KEYS."""
    content = load_torch(path)
    if isinstance(content, dict):
        tensors = {str(name): one for name, one in content.items() if isinstance(one, Tensor)}
        shapes = {name: tuple(one.shape) for name, one in tensors.items()}
        content = tensors[choose_key(path, list(tensors), shapes, key, opening.flag)]
    if isinstance(content, (list, tuple)) and content:
        return in_memory(content, opening, path)
    if not isinstance(content, Tensor):
        raise UserError(path, "no tensor of images", "give a tensor [N, C, H, W]")
    return opening.array([content], path)


def in_memory(given: Any, opening: Opening, where: object = "") -> Source:
    """Arrays, tensors, pictures of Pillow, or an iterable of them.

    Raises UserError where it is empty or something else."""
    where = where or f"{opening.flag}: {type(given).__name__}"
    if isinstance(given, (np.ndarray, Tensor)):
        return opening.array([given], where)
    items = list(given) if isinstance(given, Iterable) else []
    if not items:
        raise UserError(where, "no images", "give an array, a path, or images one after another")
    if hasattr(items[0], "convert"):  # Pillow's
        return PictureSource(where, [str(i) for i in range(len(items))], items.__getitem__)
    try:
        images = [np.asarray(one.cpu() if isinstance(one, Tensor) else one) for one in items]
        if len({one.shape for one in images}) > 1 or images[0].ndim not in (2, 3, 4):
            raise ValueError("images of several shapes")
    except (TypeError, ValueError) as error:
        raise UserError(where, str(error), "give images of one shape") from error
    whole = np.concatenate(images) if images[0].ndim == 4 else np.stack(images)
    return opening.array([whole], where)


def parse_layout(text: str | None, flag: str) -> str | None:
    """One of LAYOUTS, in small letters. Raises UserError."""
    if text is None:
        return None
    if text.lower() not in LAYOUTS:
        raise UserError(flag, text, f"choose {', '.join(LAYOUTS)}")
    return text.lower()
