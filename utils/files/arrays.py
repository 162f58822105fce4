"""Arrays in .npz and .npy files: atomic writes, and reads that execute nothing in the file."""

from __future__ import annotations

import json
import math
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.cli.errors import UserError
from utils.files.atomic import atomic_write, reason

MOST_OBJECT_BYTES = 2**20  # of pickled args; the original's take 1,000
STAGE_BEFORE = "give a file that the stage before this one wrote"


def save_npz(path: Path, **arrays: Any) -> None:
    """Write arrays under their keys, whole or not at all; the bytes depend on them alone.

    Raises UserError (full disk, unwritable folder), ValueError (object arrays)."""
    plain = {key: np.asanyarray(array) for key, array in arrays.items()}
    if any(array.dtype.hasobject for array in plain.values()):
        raise ValueError(f"{path}: an object array would be pickled")
    with atomic_write(path) as file:
        np.savez(file, **plain)


def read_npz(
    path: Path, keys: Iterable[str] | None = None, remedy: str = STAGE_BEFORE
) -> dict[str, np.ndarray]:
    """The arrays of a .npz file (those of `keys`, or all). Nothing in it is executed.

    `args` of the original toolkit, a pickled object, comes back as JSON text like ours.
    Raises UserError where the file is missing, cut short, no .npz, or lacks a key (then with
    `remedy`)."""
    path = Path(path)
    again = "copy it again or delete it and rerun the stage that wrote it"
    with _errors_of(path, "no readable .npz file", again), zipfile.ZipFile(path) as archive:
        if sum(info.compress_size for info in archive.infolist()) > path.stat().st_size:
            raise ValueError("members that overlap")
        names = {Path(n).stem: n for n in archive.namelist() if n.endswith(".npy")}
        keys = list(names if keys is None else keys)
        missing = [key for key in keys if key not in names]
        if missing:
            problem = f"no {missing[0]!r} (it holds: {', '.join(sorted(names)) or 'nothing'})"
            raise UserError(path, problem, remedy)
        return {key: _read_member(archive, names[key], path, key) for key in keys}


@contextmanager
def _errors_of(path: Path, problem: str, remedy: str) -> Iterator[None]:
    """Turn whatever a damaged file raises into a UserError; no warnings about old headers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except MemoryError as error:
        raise UserError(path, "arrays larger than the memory", "use a smaller file") from error
    except Exception as error:  # a mutated file may raise anything
        raise UserError(path, f"{problem} ({error})", remedy) from error


def read_shape(path: Path, key: str) -> tuple[int, ...]:
    """The shape in the header of an array of a .npz file, without its numbers; () if unreadable."""
    with suppress(Exception), zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
        return tuple(_read_header(file)[0])
    return ()


def _read_header(member: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type of a .npy array."""
    version = np.lib.format.read_magic(member)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f".npy version {version}")
    return read_header(member)


def _read_member(archive: zipfile.ZipFile, name: str, path: Path, key: str) -> np.ndarray:
    from utils.files.pickles import read_object_array

    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # numpy writes no other, and these grow ten-thousandfold.
        raise ValueError(f"{key}: compression {info.compress_type}")
    with archive.open(info) as member:
        _, _, dtype = _read_header(member)
        member.seek(0)
        if not dtype.hasobject:
            return _read_array(member, key, info.file_size)
        if key != "args":
            remedy = "use a file of this toolkit or of the original one"
            raise UserError(path, f"pickled objects under {key!r}", remedy)
        if info.file_size > MOST_OBJECT_BYTES:
            raise ValueError(f"{key}: {info.file_size} bytes")
        _read_header(member)
        return np.array(json.dumps(read_object_array(member.read(), path), default=str))


def _read_array(file: BinaryIO, name: str, size: int) -> np.ndarray:
    """One .npy array, in this machine's byte order, as torch requires. size: of the file."""
    shape, _, dtype = _read_header(file)
    _check_size(shape, dtype, size - file.tell(), name)
    file.seek(0)
    array = np.lib.format.read_array(file, allow_pickle=False)
    array = np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False))
    # numpy makes a str of any number, of which Python then raises a SystemError.
    if dtype.kind == "U" and (array.reshape(-1).view(np.uint32) > sys.maxunicode).any():
        raise ValueError(f"{name}: text with impossible characters")
    return array.reshape(shape)


def _check_size(shape: tuple[int, ...], dtype: np.dtype, stored: int, name: str) -> None:
    """Raises ValueError where a header claims what is not there: it may claim any size, for which
    numpy would take memory before it reads."""
    if dtype.hasobject:
        raise ValueError("pickled objects")
    claimed = dtype.itemsize * math.prod(int(n) for n in shape)
    if claimed != stored:
        raise ValueError(f"{name}: the header claims {claimed} bytes, {stored} are there")


def read_npy(path: Path) -> np.ndarray:
    """One .npy array. Raises UserError where it is missing, cut short or would be unpickled."""
    path = Path(path)
    with _errors_of(path, "no readable .npy array", "copy it again"), path.open("rb") as file:
        return _read_array(file, "array", path.stat().st_size)


class NpyFile:
    """One .npy array that is read a block of rows at a time: `file[3:9]`.

    A memory map would count as memory of the process, as much as has been read. Raises UserError
    where it is missing, cut short, would be unpickled, or is in Fortran's order."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        with _errors_of(path, "no readable .npy array", "copy it again"), path.open("rb") as file:
            shape, fortran, dtype = _read_header(file)
            self._start = file.tell()
            _check_size(shape, dtype, path.stat().st_size - self._start, "array")
        if fortran or not shape:
            problem = "an array in Fortran's order, or a single number"
            raise UserError(path, problem, "save it by np.save of np.ascontiguousarray")
        self.shape, self.dtype, self.ndim = tuple(map(int, shape)), dtype, len(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        each = math.prod(self.shape[1:])
        with _errors_of(self._path, "no readable .npy array", "copy it again"):
            count, first = max(0, stop - start) * each, start * each * self.dtype.itemsize
            flat = np.fromfile(self._path, self.dtype, count, offset=self._start + first)
            block = flat.reshape(-1, *self.shape[1:])
        return block.astype(self.dtype.newbyteorder("="), copy=False)


def save_npy(path: Path, array: np.ndarray, lasting: bool = True) -> None:
    """Write one array, as `atomic_write`. Raises UserError (full disk, unwritable folder)."""
    array = np.ascontiguousarray(array)
    with atomic_write(path, lasting) as file:
        # The writes of np.save do not distinguish a full disk from other failures.
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.view(np.uint8).data)


def map_npy(path: Path) -> np.ndarray:
    """One .npy array, memory-mapped: read from the disk when used; changes are not written back.

    Raises FileNotFoundError, and ValueError where it is cut short or no .npy array."""
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # a mutated header may raise anything
        raise ValueError(str(error)) from error
