"""Data sets that torchvision reads, downloaded when absent."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.files.atomic import make_folder


def from_torchvision(name: str, folder: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """The pixels and class labels of a torchvision set in root/folder, downloaded where absent.

    Raises UserError where the files are damaged or cannot be downloaded."""
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
        problem = f"no {name}, and no download ({error})"
        remedy = f"download it on a machine with internet and copy {folder} there, or set "
        raise UserError(root / folder, problem, remedy + "--data-path") from error


def _damaged(name: str, where: Path, error: Exception) -> UserError:
    return UserError(where, f"no readable {name} ({error})", "delete it and run again, or copy it")


def _pixels(name: str, root: Path, split: str, download: bool = False) -> tuple[Tensor, Tensor]:
    from torchvision import datasets

    with warnings.catch_warnings():
        # CIFAR-10's pickles are of Python 2: NumPy 2.4 warns of their form of a dtype.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align")
        data_set = getattr(datasets, name)(root, train=split == "train", download=download)
    return torch.as_tensor(data_set.data), torch.as_tensor(data_set.targets).long()


def download(name: str, folder: str, root: Path) -> None:
    """Download a torchvision set to root/folder, whole or not at all."""
    if (root / folder).exists():
        _pixels(name, root, "train", download=True)  # completes or unpacks the files there
        return
    new = not root.exists()
    make_folder(root)
    try:
        with TemporaryDirectory(dir=root, prefix=".download-") as part:
            _pixels(name, Path(part), "train", download=True)
            with suppress(OSError):  # another process was first: use its copy
                os.replace(Path(part) / folder, root / folder)
    finally:
        if new:
            with suppress(OSError):  # empty where the download failed: leave nothing behind
                root.rmdir()
