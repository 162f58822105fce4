"""Data sets as uint8 images, by name.

Small sets lie in memory; those in files are decoded when read (`utils/data/image_files.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.cli.options.choices import ANY_IMAGES, DATA_NAMES, PICTURE_CHANNELS
from utils.cli.options.sections import SECTIONS
from utils.data.any_images import open_any_images
from utils.data.celeba import open_celeba, open_celebahq
from utils.data.image_files import (
    FileSet,
    Form,
    decode_all,
    no_test_split,
    open_folder,
    positions,
    to_tensor,
)
from utils.data.lsun import open_lsun_church
from utils.data.origin import as_recorded
from utils.data.photos import photo_tiles
from utils.data.torchvision_sets import from_torchvision


class ImageSet(Protocol):
    """Images that can be read by position."""

    name: str
    shape: tuple[int, int, int]  # (C, H, W) as read, after the crop

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """uint8 [n, C, H, W]. Raises UserError that names a file which cannot be used."""
        ...


def to_float(images: Tensor) -> Tensor:
    """(x / 255 - 0.5) / 0.5 in float32: uint8 0 .. 255 becomes [-1, 1]; latents stay as they are.

    The same bits as torchvision's ToTensor and Normalize(0.5, 0.5), on every device.

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist()
    [-1.0, -0.6000000238418579, 1.0]"""
    if images.is_floating_point():
        return images.float()
    # CUDA divides by a number as a product with its reciprocal, which rounds otherwise; by a tensor
    # it divides.
    most = torch.full((1,), 255.0, device=images.device)
    return (images.float() / most - 0.5) / 0.5


def setting(args: Mapping, section: str, name: str) -> Any:
    """An option as a file stores it, or its default where an older file lacks it."""
    default = SECTIONS[section].__dataclass_fields__[name].default
    return args.get(section, {}).get(name, default)


def open_images(args: Mapping, split: str = "train") -> ImageSet:
    """The data set of resolved options (`data`, `train`, `model`); of a folder the images that were
    there at the training, see `as_recorded`."""
    image_set = load_image_set(
        setting(args, "data", "data_name"),
        setting(args, "data", "data_path"),
        setting(args, "model", "image_size"),
        setting(args, "model", "in_channels"),
        setting(args, "train", "centercrop"),
        split,
        setting(args, "model", "image_width"),
    )
    return as_recorded(image_set, args) if split == "train" else image_set


def load_image_set(
    data_name: str,
    data_path: str | Path,
    image_size: int,
    in_channels: int,
    centercrop: bool = False,
    split: str = "train",
    image_width: int | None = None,
) -> ImageSet:
    """A data set's official train or test part, as images of in_channels x image_size^2.

    Other sizes are refused, or brought to image_size by ADM's crop where centercrop is set.
    Raises UserError: absent data, no test part, another size or number of channels."""
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is neither train nor test")
    if data_name not in OPENERS:
        raise UserError("--data-name", data_name, "choose " + ", ".join(OPENERS))
    channels = DATA_NAMES[data_name]
    any_shape = data_name == ANY_IMAGES
    if image_width not in (None, image_size) and not any_shape:
        remedy = "leave it out: of other data sets than `images` all images are square"
        raise UserError("--image-width", image_width, remedy)
    if channels is None and in_channels not in PICTURE_CHANNELS and not any_shape:
        raise UserError("--in-channels", in_channels, "choose 1 (grey) or 3 (colour)")
    if channels and in_channels != channels:
        remedy = f"choose {channels}: {data_name} is {'grey' if channels == 1 else 'in colour'}"
        raise UserError("--in-channels", in_channels, remedy)
    form = Form(image_size, in_channels, centercrop, image_width)
    # os.path: of a user who does not exist pathlib's raises RuntimeError
    return OPENERS[data_name](Path(os.path.expanduser(data_path)), form, split)


def labels_of(image_set: ImageSet) -> Tensor:
    """The class of each image, int64 [N], 0 or more; of a folder with a folder for each class its
    number in the order of their names. Raises UserError for a set without classes."""
    labels = getattr(image_set, "labels", None)
    names = image_set.names() if isinstance(image_set, FileSet) else []
    if labels is None and names and all("/" in name for name in names):
        folders = [name.split("/", 1)[0] for name in names]
        number = {folder: i for i, folder in enumerate(sorted(set(folders)))}
        labels = torch.tensor([number[folder] for folder in folders])
    if labels is None:
        remedy = "leave it out, or give a folder with a folder for each class"
        raise UserError("--class-conditional", f"no class labels in {image_set.name}", remedy)
    return labels


class MemorySet:
    """A data set in memory: uint8 [N, C, H, W], cropped when read.

    labels: the class of each image, int64 [N], where there are classes."""

    def __init__(self, name: str, images: Tensor, form: Form, labels: Tensor | None = None) -> None:
        size = images.shape[-1]
        if size != form.size and not form.crop:
            remedy = f"choose {size}, the size of {name}, or add --centercrop"
            raise UserError("--image-size", form.size, remedy)
        self.name, self.shape, self.images, self.side = name, form.shape, images, size
        self.labels = labels
        self._form, self._as_is = form, size == form.size

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """uint8 [n, C, H, W]."""
        images = self.images[positions(indices)]
        return images if self._as_is else decode_all(self._crop, images, self.shape)

    def _crop(self, image: Tensor) -> Tensor:
        from PIL import Image

        pixels = image.permute(1, 2, 0).squeeze(2).contiguous().numpy()
        return to_tensor(Image.fromarray(pixels), self.name, self._form)


def digit_values() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits [1797, 8, 8], 0 .. 16, and which digit each is [1797].

    Read from its file where that is found: the import of scikit-learn takes a second."""
    places = getattr(find_spec("sklearn"), "submodule_search_locations", None) or []
    for place in places:
        path = Path(place, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def open_digits(root: Path, form: Form, split: str) -> MemorySet:
    """scikit-learn's 1,797 digits, 8 x 8: round(255 v / 16), v = 0 .. 16."""
    if split == "test":
        raise no_test_split("digits")
    values, labels = digit_values()
    pixels = torch.from_numpy(np.rint(values * 255 / 16).astype(np.uint8))
    return MemorySet("digits", pixels.unsqueeze(1), form, torch.from_numpy(labels))


def open_mnist(root: Path, form: Form, split: str) -> MemorySet:
    images, labels = from_torchvision("MNIST", "MNIST", root, split)  # [N, 28, 28]
    return MemorySet("mnist", images.unsqueeze(1), form, labels)


def open_fashionmnist(root: Path, form: Form, split: str) -> MemorySet:
    images, labels = from_torchvision("FashionMNIST", "FashionMNIST", root, split)
    return MemorySet("fashionmnist", images.unsqueeze(1), form, labels)


def open_cifar10(root: Path, form: Form, split: str) -> MemorySet:
    images, labels = from_torchvision("CIFAR10", "cifar-10-batches-py", root, split)
    return MemorySet("cifar10", images.permute(0, 3, 1, 2).contiguous(), form, labels)


def open_photos(root: Path, form: Form, split: str) -> MemorySet:
    """Tiles of --image-size, cut from photographs that scikit-learn and scikit-image ship."""
    return MemorySet("photos", photo_tiles(form.size, split), form)


OPENERS: dict[str, Callable[[Path, Form, str], ImageSet]] = {
    "digits": open_digits,
    "mnist": open_mnist,
    "fashionmnist": open_fashionmnist,
    "cifar10": open_cifar10,
    "photos": open_photos,
    "celeba": open_celeba,
    "celebahq": open_celebahq,
    "lsun-church": open_lsun_church,
    "folder": open_folder,
    "images": open_any_images,
}
