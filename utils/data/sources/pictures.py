"""Encoded pictures: in a folder, a zip or tar archive, or in memory. Nothing is unpacked."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from utils.cli.errors import UserError
from utils.data.image_files import (
    THREADS,
    Form,
    endings,
    find_images,
    open_picture,
    read_bytes,
    to_tensor,
)
from utils.files.atomic import reason

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 2**28  # of one encoded picture
HOSTILE = "use archives that you trust; unpack it and give the folder"


class PictureSource:
    """Pictures by name. load(i): the encoded bytes of one, a path to them, or a picture of Pillow.

    left_out: how many other files there are, by ending."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        where: object,
        names: Sequence[str],
        load: Callable[[int], Any],
        left_out: Counter | None = None,
    ) -> None:
        self.where, self.names, self._load = where, list(names), load
        self._left_out = left_out or Counter()
        if not self.names:
            others = ", ".join(f"{n} {e}" for e, n in self._left_out.most_common(5))
            problem = f"no pictures in it{f' (it holds {others})' if others else ''}"
            raise UserError(where, problem, "give one with png, jpg, webp, bmp, gif or tif files")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def first(self) -> tuple[int, int, int]:
        """Width, height and channels of the first picture that can be read.

        Raises UserError where none of them can."""
        for i in range(len(self)):
            try:
                picture = self.open(i)
            except UserError as error:
                broken = error
                continue
            return (*picture.size, 1 if picture.mode == "L" else 3)
        raise broken

    def describe(self) -> str:
        """`pictures (900 .png, 100 .jpg); 2 files left out: 2 .txt`."""
        kinds = Counter(PurePosixPath(name).suffix.lower() or "others" for name in self.names)
        text = f"pictures ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common(5))})"
        if self._left_out:
            others = ", ".join(f"{n} {ending}" for ending, n in self._left_out.most_common(5))
            text += f"; {sum(self._left_out.values())} files left out: {others}"
        return text

    def open(self, position: int, channels: int | None = None) -> Image:
        """One picture. Raises UserError that names it."""
        where = f"{self.where}: {self.names[position]}"
        source = self._load(position)
        if isinstance(source, bytes):
            source = io.BytesIO(source)
        elif not isinstance(source, Path):  # Pillow's own
            buffer = io.BytesIO()
            source.save(buffer, "png")
            source = io.BytesIO(buffer.getvalue())
        return open_picture(source, where, channels)

    def read(self, positions: np.ndarray, form: Form) -> Tensor:
        """uint8 [n, C, H, W] of a form. Raises UserError that names a damaged picture."""
        images = torch.empty((len(positions), *form.shape), dtype=torch.uint8)
        for place, (image, _) in enumerate(self.read_each(positions, form)):
            if isinstance(image, UserError):
                raise image
            images[place] = image
        return images

    def read_each(
        self, positions: np.ndarray, form: Form
    ) -> list[tuple[Tensor | UserError, tuple[int, int]]]:
        """Each picture with its width and height before any change; instead of a damaged one the
        error that names it."""

        def one(position: int) -> tuple[Tensor | UserError, tuple[int, int]]:
            try:
                picture = self.open(position, form.channels)
                return to_tensor(picture, self.names[position], form), picture.size
            except UserError as error:
                return error, (0, 0)

        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            return list(pool.map(one, np.asarray(positions).tolist()))


def picture_folder(root: Path) -> PictureSource:
    """The pictures below a folder, by their path in it; hidden files are passed over.

    Raises UserError where a link leads out of the folder: what it shows need not be meant."""
    paths, left_out = find_images(root)
    inside = root.resolve()
    folders = {path.parent for path in paths}
    for path in (*sorted(folders), *(path for path in paths if path.is_symlink())):
        if not path.resolve().is_relative_to(inside):
            problem = f"a symbolic link to {path.resolve()}, out of the folder"
            raise UserError(path, problem, "copy what it points to, or give that folder itself")
    names = [path.relative_to(root).as_posix() for path in paths]
    return PictureSource(root, names, lambda i: read_limited(paths[i]), Counter(left_out))


def read_limited(path: Path) -> bytes:
    """The bytes of a picture. Raises UserError where it is huge, or no file."""
    try:
        info = path.stat()
    except OSError as error:
        raise UserError(path, reason(error), "remove it, or copy it again") from error
    if not stat.S_ISREG(info.st_mode) or info.st_size > MOST_BYTES:
        raise UserError(path, "no file, or more than 256 MB", "shrink it, or remove it")
    return read_bytes(path)


def zip_pictures(path: Path) -> PictureSource:
    """The pictures in a .zip archive, as StyleGAN's and EDM's tools write it, sorted by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            stored = sum(info.compress_size for info in members)
            if stored > path.stat().st_size:
                raise UserError(path, "members that overlap", HOSTILE)
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except UserError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        raise UserError(path, f"no readable .zip ({error})", "copy it again") from error
    for info in members:
        check_member(path, info.filename, info.file_size, stat.S_ISLNK(info.external_attr >> 16))
    chosen, left_out = by_ending([(info.filename, info) for info in members])
    opened = local()  # one for each thread: an archive has one position

    def load(i: int) -> bytes:
        if not hasattr(opened, "archive"):
            opened.archive = zipfile.ZipFile(path)
        info = chosen[i][1]
        try:
            with opened.archive.open(info) as member:
                return member.read(MOST_BYTES + 1)
        except Exception as error:
            where = f"{path}: {info.filename}"
            raise UserError(where, f"no readable member ({error})", "copy it again") from error

    return PictureSource(path, [name for name, _ in chosen], load, left_out)


def tar_pictures(path: Path) -> PictureSource:
    """The pictures in a .tar archive, as WebDataset's tools write it, sorted by name.

    A compressed archive is refused: it could only be read from its beginning."""
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        raise UserError(path, "a compressed .tar", "uncompress it: gunzip, bunzip2 or unxz")
    try:
        with tarfile.open(path, "r:") as archive:
            members = [one for one in archive if not one.isdir()]
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except Exception as error:  # a damaged archive may raise anything
        raise UserError(path, f"no readable .tar ({error})", "copy it again") from error
    for one in members:
        check_member(path, one.name, one.size, not one.isfile())
    chosen, left_out = by_ending([(one.name, one) for one in members])

    def load(i: int) -> bytes:
        name, member = chosen[i]
        with path.open("rb") as file:
            file.seek(member.offset_data)
            content = file.read(member.size)
        if len(content) < member.size:
            raise UserError(f"{path}: {name}", "a member that is cut short", "copy it again")
        return content

    return PictureSource(path, [name for name, _ in chosen], load, left_out)


def check_member(archive: Path, name: str, size: int, is_link: bool) -> None:
    """Raises UserError for a member that no tool for images writes."""
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise UserError(f"{archive}: {name}", "a path out of the archive", HOSTILE)
    if is_link:
        raise UserError(f"{archive}: {name}", "a link or a device", HOSTILE)
    if size > MOST_BYTES:
        raise UserError(f"{archive}: {name}", f"a member of {size} bytes", HOSTILE)


def by_ending(members: list[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], Counter]:
    """The pictures among the members, sorted by name, and the endings of the others."""
    seen = [(name, one) for name, one in members if not PurePosixPath(name).name.startswith(".")]
    chosen = [pair for pair in seen if pair[0].lower().endswith(endings())]
    others = (name for name, _ in seen if not name.lower().endswith(endings()))
    left_out = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in others)
    return sorted(chosen, key=lambda pair: pair[0]), left_out
