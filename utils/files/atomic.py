"""Atomic writes: a file under its final name is whole. Text, JSON, PNG, and folders to write to."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np

from utils.cli.errors import UserError
from utils.files.owners import clock_of, is_dead, this_host

OURS = ".no-data"  # marks a folder of pictures that a stage has written
PART = ".part"  # ending of a file that is being written
ABANDONED_SECONDS = 3600.0  # age at which a part of another host counts as left over


@contextmanager
def atomic_write(path: Path, lasting: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary file that appears under `path` whole, or not at all.

    Not lasting: not flushed to the disk, so that it may be cut short if the machine crashes; for
    files with a checksum. Raises UserError for a full disk and a folder that cannot be written."""
    path = Path(path)
    make_folder(path.parent)
    _clean_once(path.parent)
    part = part_of(path)  # in the same folder: a rename then copies nothing
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(path, reason(error), write_remedy(error)) from error
    except RuntimeError as error:  # torch.save wraps a failed write in its own error
        if "write" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        raise UserError(path, "a write that failed", "free space or check the quota") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """What went wrong, without the path: "No such file or directory"."""
    return os.strerror(error.errno) if error.errno else str(error)


def write_remedy(error: OSError) -> str:
    """The remedy for a write that failed: free space, or another folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space or raise the quota, then run the same command again"
    return "choose a folder that you may write"


def make_folder(folder: Path) -> None:
    """Create folder and its parents. Raises UserError where that is not possible."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(folder, reason(error), write_remedy(error)) from error


def check_writable(folder: Path, needed: int = 0) -> None:
    """Create folder, and raise UserError before work starts if it cannot take `needed` bytes."""
    make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(folder, reason(error), write_remedy(error)) from error
    free = free_space(folder)
    if free < needed:
        remedy = (
            f"{needed / 1e9:.1f} GB are needed: free space, choose another folder, or ask for less"
        )
        raise UserError(folder, f"{free / 1e9:.1f} GB free", remedy)


def free_space(folder: Path) -> int:
    """Bytes that may be written below folder."""
    return shutil.disk_usage(folder).free


def part_of(path: Path) -> Path:
    """A name beside path for the file being written, with the host and process that write it."""
    return path.with_name(f".{path.name}.{this_host()}.{os.getpid()}.{uuid4().hex}{PART}")


def remove_leftovers(folder: Path, older_than: float = ABANDONED_SECONDS, of: str = "") -> None:
    """Delete the parts of files (named `of`, or any) that killed processes left in folder.

    At once if the writer is known to have ended, else if unchanged for older_than seconds."""
    parts = list(Path(folder).glob(f".{of}*{PART}"))
    now = clock_of(folder) if parts else 0.0
    for part in parts:
        host, pid = ([*part.name.split(".")[-4:-2], "", ""])[:2]
        with suppress(OSError):
            if is_dead(host, pid) or now - part.stat().st_mtime > older_than:
                part.unlink()


_cleaned: set[Path] = set()


def _clean_once(folder: Path) -> None:
    """At this process's first write into folder, remove what a killed run left there."""
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_leftovers(folder)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write value as indented JSON; what JSON lacks (paths) becomes text."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of source, whole or not at all."""
    with atomic_write(target) as file:
        file.write(Path(source).read_bytes())


def mark_as_ours(folder: Path) -> None:
    """Mark a folder whose pictures a stage has written, so that none of them is ever taken for a
    training image (`utils/data/image_files.py`)."""
    mark = Path(folder) / OURS
    if not mark.exists():
        write_text(mark, "The pictures in this folder were written by a stage: they are no data.\n")


def save_png(path: Path, image: np.ndarray) -> None:
    """Write an image, uint8 [H, W, 3]."""
    from PIL import Image

    mark_as_ours(Path(path).parent)
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, format="png")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError where path is missing or is no JSON."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(path, "a file that is no JSON", "delete it and run again") from error
