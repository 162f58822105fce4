"""Data sets as uint8 images, and the K of them that a model is trained on.

Small sets lie in memory; those in files are decoded when read (`utils/data/image_files.py`)."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.options.choices import DATA_NAMES
from utils.cli.options.sections import SECTIONS
from utils.data.image_files import (
    Form,
    decode_all,
    no_test_split,
    open_celeba,
    open_celebahq,
    open_folder,
    positions,
    to_tensor,
)
from utils.data.lsun import open_lsun_church
from utils.files.atomic import make_folder


class ImageSet(Protocol):
    """Images that can be read by position."""

    name: str
    shape: tuple[int, int, int]  # (C, H, W) as read, after the crop

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """uint8 [n, C, H, W]. Raises UserError that names a file which cannot be used."""
        ...


def to_float(images: Tensor) -> Tensor:
    """(x / 255 - 0.5) / 0.5 in float32: uint8 0 .. 255 becomes [-1, 1].

    The same bits as torchvision's ToTensor and Normalize(0.5, 0.5), on every device.

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist()
    [-1.0, -0.6000000238418579, 1.0]"""
    # CUDA multiplies by the reciprocal of a plain number, which rounds otherwise; not of a tensor.
    most = torch.full((1,), 255.0, device=images.device)
    return (images.float() / most - 0.5) / 0.5


# The K-subset


def permutation(size: int, seed: int) -> Tensor:
    """perm of 0 .. size - 1, int64: the order in which a data set is used up."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def split_indices(
    size: int, k: int, valid_size: int, seed: int, subset: str = "first"
) -> tuple[Tensor, Tensor]:
    """Positions of the training and validation images, int64.

    first:   perm[:K] and perm[K : K + V]; with K >= size all in natural order and perm[-V:]
    second:  perm[K : 2K] and perm[2K : 2K + V], which shares no training image with the first

    So subsets are nested, and V never changes the training images. Fewer than V are left where
    the data set ends. Raises UserError where the second subset has no K images."""
    perm = permutation(size, seed)
    if subset == "second":
        if 2 * k > size:
            found = f"second, with K = {k} of {size} images"
            raise UserError("--subset", found, f"choose --train-size {size // 2} or less")
        return perm[k : 2 * k], perm[2 * k : 2 * k + valid_size]
    if k >= size:
        return torch.arange(size), perm[max(0, size - valid_size) :]
    return perm[:k], perm[k : k + valid_size]


@dataclass(frozen=True)
class Subset:
    """The K training images of a model, in the order that every stored index counts."""

    images: Tensor  # uint8 [K, C, H, W]
    indices: Tensor  # int64 [K], positions in the data set
    fingerprint: str


def training_subset(args: Mapping) -> Subset:
    """The images that a model with these resolved options (`data`, `train`, `model`) learns.

    A published checkpoint may tell of a larger K than there are images: then all are used, and a
    line says so. Raises UserError where the data set is absent or misfits."""
    images = open_images(args)
    k, seed, subset = (setting(args, "train", n) for n in ("train_size", "global_seed", "subset"))
    indices, _ = _split(args, len(images))
    if k > len(images):
        print(f"{images.name}: K = {k}, but there are {len(images)} images: all of them are used")
    read = images.read(indices)
    return Subset(read, indices, fingerprint(images.name, seed, len(indices), read, subset))


def validation_subset(args: Mapping) -> Tensor:
    """The held-out images of a model with these options: uint8 [V, C, H, W]."""
    images = open_images(args)
    return images.read(_split(args, len(images))[1])


def held_out_images(args: Mapping, count: int, both: bool = False) -> Tensor:
    """Real images that a model with these options has not learnt: uint8 [n, C, H, W], n <= count.

    perm[K:], or perm[2K:], which its twin on the second subset has not learnt either (both, and
    for such a twin); else of the official test part. Raises UserError where there is neither."""
    images = open_images(args)
    names = ("train_size", "global_seed", "subset")
    k, seed, subset = (setting(args, "train", name) for name in names)
    known = 2 * k if both or subset == "second" else k
    if known < len(images):
        return images.read(permutation(len(images), seed)[known : known + count])
    try:
        test = open_images(args, "test")
    except UserError as error:
        found = f"{k}, of {len(images)} images without a test part"
        raise UserError("held-out images: K", found, "choose a smaller K") from error
    return test.read(range(min(count, len(test))))


def _split(args: Mapping, size: int) -> tuple[Tensor, Tensor]:
    names = ("train_size", "valid_size", "global_seed", "subset")
    return split_indices(size, *(setting(args, "train", name) for name in names))


def fingerprint(name: str, seed: int, k: int, images: Tensor, subset: str = "first") -> str:
    """A line that tells one subset from another: data set, seed, K and a hash of the pixels."""
    digest = hashlib.sha256(images.cpu().contiguous().numpy().data).hexdigest()[:16]
    return f"{name} seed={seed} K={k} {subset} sha256={digest}"


def setting(args: Mapping, section: str, name: str) -> Any:
    """An option as a file stores it, or its default where an older file lacks it."""
    default = SECTIONS[section].__dataclass_fields__[name].default
    return args.get(section, {}).get(name, default)


# The data sets


def open_images(args: Mapping, split: str = "train") -> ImageSet:
    """The data set that resolved options name."""
    return load_image_set(
        setting(args, "data", "data_name"),
        setting(args, "data", "data_path"),
        setting(args, "model", "image_size"),
        setting(args, "model", "in_channels"),
        setting(args, "train", "centercrop"),
        split,
    )


def load_image_set(
    data_name: str,
    data_path: str | Path,
    image_size: int,
    in_channels: int,
    centercrop: bool = False,
    split: str = "train",
) -> ImageSet:
    """A data set's official train or test part, as images of in_channels x image_size^2.

    Other sizes are refused, or brought to image_size by ADM's crop where centercrop is set.
    Raises UserError: absent data, no test part, another size or number of channels."""
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is neither train nor test")
    if data_name not in OPENERS:
        raise UserError("--data-name", data_name, "choose " + ", ".join(OPENERS))
    own = DATA_NAMES[data_name]
    if in_channels != own and (own or in_channels not in (1, 3)):
        kind = {1: "grey", 3: "in colour"}.get(own)
        remedy = f"choose {own}: {data_name} is {kind}" if own else "choose 1 (grey) or 3 (colour)"
        raise UserError("--in-channels", in_channels, remedy)
    form = Form(image_size, in_channels, centercrop)
    return OPENERS[data_name](Path(data_path).expanduser(), form, split)


class MemorySet:
    """A data set in memory: uint8 [N, C, H, W], cropped when read."""

    def __init__(self, name: str, images: Tensor, form: Form) -> None:
        size = images.shape[-1]
        if size != form.size and not form.crop:
            remedy = f"choose {size}, the size of {name}, or add --centercrop"
            raise UserError("--image-size", form.size, remedy)
        self.name, self.shape = name, form.shape
        self._images, self._form, self._as_is = images, form, size == form.size

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """uint8 [n, C, H, W]."""
        images = self._images[positions(indices)]
        return images if self._as_is else decode_all(self._crop, images, self.shape)

    def _crop(self, image: Tensor) -> Tensor:
        from PIL import Image

        pixels = image.permute(1, 2, 0).squeeze(2).contiguous().numpy()
        return to_tensor(Image.fromarray(pixels), self.name, self._form)


def digit_values() -> np.ndarray:
    """scikit-learn's digits [1797, 8, 8], 0 .. 16: from its file, since to import scikit-learn
    takes as long as half of torch does; from the package where the file lies elsewhere."""
    places = getattr(find_spec("sklearn"), "submodule_search_locations", None) or []
    for place in places:
        path = Path(place, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, delimiter=",")[:, :-1].reshape(-1, 8, 8)
    from sklearn.datasets import load_digits

    return load_digits().images


def open_digits(root: Path, form: Form, split: str) -> MemorySet:
    """scikit-learn's 1,797 digits, 8 x 8: round(255 v / 16), v = 0 .. 16."""
    if split == "test":
        raise no_test_split("digits")
    pixels = np.rint(digit_values() * 255 / 16).astype(np.uint8)
    return MemorySet("digits", torch.from_numpy(pixels).unsqueeze(1), form)  # [N, 1, 8, 8]


def open_mnist(root: Path, form: Form, split: str) -> MemorySet:
    images = from_torchvision("MNIST", "MNIST", root, split)  # [N, 28, 28]
    return MemorySet("mnist", images.unsqueeze(1), form)


def open_fashionmnist(root: Path, form: Form, split: str) -> MemorySet:
    images = from_torchvision("FashionMNIST", "FashionMNIST", root, split)
    return MemorySet("fashionmnist", images.unsqueeze(1), form)


def open_cifar10(root: Path, form: Form, split: str) -> MemorySet:
    images = from_torchvision("CIFAR10", "cifar-10-batches-py", root, split)  # [N, 32, 32, 3]
    return MemorySet("cifar10", images.permute(0, 3, 1, 2).contiguous(), form)


OPENERS: dict[str, Callable[[Path, Form, str], ImageSet]] = {
    "digits": open_digits,
    "mnist": open_mnist,
    "fashionmnist": open_fashionmnist,
    "cifar10": open_cifar10,
    "celeba": open_celeba,
    "celebahq": open_celebahq,
    "lsun-church": open_lsun_church,
    "folder": open_folder,
}


# torchvision's sets


def from_torchvision(name: str, folder: str, root: Path, split: str) -> Tensor:
    """The pixels of a torchvision set that lies in root/folder, downloaded where it is absent."""
    try:
        return _pixels(name, root, split)
    except RuntimeError as error:
        if "not found" not in str(error):
            raise _damaged(name, root / folder, error) from error
    except (AssertionError, OSError, TypeError, ValueError, EOFError) as error:
        raise _damaged(name, root / folder, error) from error
    try:
        download(name, folder, root)
        return _pixels(name, root, split)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        found = f"no {name}, and no download ({error})"
        remedy = f"download it on a machine with internet and copy {folder} there, or set "
        raise UserError(root / folder, found, remedy + "--data-path") from error


def _damaged(name: str, where: Path, error: Exception) -> UserError:
    return UserError(where, f"no readable {name} ({error})", "delete it and run again, or copy it")


def _pixels(name: str, root: Path, split: str, download: bool = False) -> Tensor:
    from torchvision import datasets

    with warnings.catch_warnings():
        # CIFAR-10's files are of Python 2's day: NumPy 2.4 warns of how they spell a dtype.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align")
        found = getattr(datasets, name)(root, train=split == "train", download=download)
    return torch.as_tensor(found.data)


def download(name: str, folder: str, root: Path) -> None:
    """Download a torchvision set to root/folder, whole or not at all."""
    if (root / folder).exists():
        _pixels(name, root, "train", download=True)  # completes it, or unpacks what lies there
        return
    new = not root.exists()
    make_folder(root)
    try:
        with TemporaryDirectory(dir=root, prefix=".download-") as part:
            _pixels(name, Path(part), "train", download=True)
            with suppress(OSError):  # another process was first: its copy serves
                os.replace(Path(part) / folder, root / folder)
    finally:
        if new:
            with suppress(OSError):  # empty where the download failed: leave nothing behind
                root.rmdir()
