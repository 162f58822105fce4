"""Files that are whole or absent: atomic writes, and reads that never execute."""

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

PART = ".part"  # ending of a file that is being written
ABANDONED_SECONDS = 3600.0  # a part of another host that was not touched for so long is left over


@contextmanager
def atomic_write(path: Path, lasting: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary file that appears under `path` whole, or not at all.

    Not lasting: it may be cut short where the machine itself goes down, as a checksum tells.
    Raises UserError where the folder cannot be written or the disk is full."""
    path = Path(path)
    make_folder(path.parent)
    _tidy_once(path.parent)
    part = part_of(path)  # same folder: a rename is no copy
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
    return os.strerror(error.errno) if error.errno else str(error)


def write_remedy(error: OSError) -> str:
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
    """Complain before work starts if folder (made when absent) cannot take `needed` bytes."""
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
    """A name beside path for what is being written, which tells who writes it."""
    return path.with_name(f".{path.name}.{this_host()}.{os.getpid()}.{uuid4().hex}{PART}")


def remove_leftovers(folder: Path, older_than: float = ABANDONED_SECONDS, of: str = "") -> None:
    """Delete the parts of files (named `of`, or any) that killed processes left in folder.

    At once where the writer is known to be dead, else if untouched for older_than seconds."""
    parts = list(Path(folder).glob(f".{of}*{PART}"))
    now = clock_of(folder) if parts else 0.0
    for part in parts:
        host, pid = ([*part.name.split(".")[-4:-2], "", ""])[:2]
        with suppress(OSError):
            if is_dead(host, pid) or now - part.stat().st_mtime > older_than:
                part.unlink()


_tidied: set[Path] = set()


def _tidy_once(folder: Path) -> None:
    """Whoever writes into a folder clears away what a killed run left there."""
    if folder not in _tidied:
        _tidied.add(folder)
        remove_leftovers(folder)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of source, whole or not at all."""
    with atomic_write(target) as file:
        file.write(Path(source).read_bytes())


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a picture, uint8 [H, W, 3]."""
    from PIL import Image

    with atomic_write(path) as file:
        Image.fromarray(image).save(file, format="png")


def read_json(path: Path) -> Any:
    """Raises UserError where path is missing or is no JSON."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(path, "a file that is no JSON", "delete it and run again") from error
