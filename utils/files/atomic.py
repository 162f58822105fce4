"""Files that are whole or absent: atomic writes, and reads that never execute."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np

from utils.cli.errors import UserError
from utils.files.owners import clock_of, is_dead, this_host

PART = ".part"  # ending of a file that is being written
PT_REMEDY = "copy it again, or delete it and run again what made it"
OBJECT_BYTES = 2**20  # most that pickled args may take; the original's take 1,000
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


def save_npz(path: Path, **arrays: Any) -> None:
    """Write arrays under their keys, whole or not at all; the bytes depend on them alone.

    Raises UserError (full disk, unwritable folder), ValueError (object arrays)."""
    plain = {key: np.asanyarray(array) for key, array in arrays.items()}
    if any(array.dtype.hasobject for array in plain.values()):
        raise ValueError(f"{path}: an object array would be pickled")
    with atomic_write(path) as file:
        np.savez(file, **plain)


def read_npz(path: Path, keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a .npz file (those of `keys`, or all). Nothing in it is executed.

    `args` of the original toolkit, a pickled object, comes back as JSON text like ours.
    Raises UserError where the file is missing, cut short, no .npz, or lacks a key."""
    path = Path(path)
    try:
        # numpy's warnings about old headers are no news to the user, and no line of ours.
        with warnings.catch_warnings(), zipfile.ZipFile(path) as archive:
            warnings.simplefilter("ignore")
            if sum(info.compress_size for info in archive.infolist()) > path.stat().st_size:
                raise ValueError("members that overlap")
            names = {Path(n).stem: n for n in archive.namelist() if n.endswith(".npy")}
            wanted = list(names) if keys is None else list(keys)
            missing = [key for key in wanted if key not in names]
            if missing:
                found = f"no {missing[0]!r} (it holds: {', '.join(sorted(names)) or 'nothing'})"
                raise UserError(path, found, "give a file that the stage before this one wrote")
            return {key: _read_member(archive, names[key], path, key) for key in wanted}
    except UserError:
        raise
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except MemoryError as error:
        raise UserError(path, "arrays larger than the memory", "use a smaller file") from error
    except Exception as error:  # a mutated file may raise anything
        remedy = "copy it again or delete it and rerun the stage that wrote it"
        raise UserError(path, f"no readable .npz file ({error})", remedy) from error


def read_shape(path: Path, key: str) -> tuple[int, ...]:
    """The shape that an array of a .npz file claims, without its numbers; () where it has none."""
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
        shape, _, dtype = _read_header(member)
        header = member.tell()
        if dtype.hasobject:
            if key != "args":
                remedy = "use a file of this toolkit or of the original one"
                raise UserError(path, f"pickled objects under {key!r}", remedy)
            if info.file_size > OBJECT_BYTES:
                raise ValueError(f"{key}: {info.file_size} bytes")
            return np.array(json.dumps(read_object_array(member.read(), path), default=str))
        _check_size(key, shape, dtype, info.file_size - header)
        member.seek(0)
        return _native(np.lib.format.read_array(member, allow_pickle=False))


def _check_size(what: object, shape: tuple[int, ...], dtype: np.dtype, there: int) -> None:
    """A header may claim any size: believe it only where the bytes are there."""
    size = dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
    if size != there:
        raise ValueError(f"{what}: the header claims {size} bytes, {there} are there")


def _native(array: np.ndarray) -> np.ndarray:
    """The same numbers in this machine's byte order, as torch wants them."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_npy(path: Path) -> np.ndarray:
    """One .npy array. Raises UserError where it is missing, cut short or would be unpickled."""
    path = Path(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # as in `read_npz`
            shape, _, dtype = _read_header(file)
            if dtype.hasobject:
                raise ValueError("pickled objects")
            _check_size("array", shape, dtype, path.stat().st_size - file.tell())
            file.seek(0)
            return _native(np.lib.format.read_array(file, allow_pickle=False))
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except Exception as error:  # a mutated file may raise anything
        raise UserError(path, f"no readable .npy array ({error})", "copy it again") from error


def save_npy(path: Path, array: np.ndarray, lasting: bool = True) -> None:
    """Write one array, as `atomic_write`. Raises UserError (full disk, unwritable folder)."""
    array = np.ascontiguousarray(array)
    with atomic_write(path, lasting) as file:
        # np.save's own writes do not tell a full disk from other failures.
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.view(np.uint8).data)


def map_npy(path: Path) -> np.ndarray:
    """One .npy array in place: what is read of it comes from the disk, and nothing goes there.

    Raises FileNotFoundError, and ValueError where it is cut short or no such array."""
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # a mutated header may raise anything
        raise ValueError(str(error)) from error


def save_torch(path: Path, value: Any) -> None:
    """Write tensors and plain values; equal values give equal bytes.

    torch.save gets a memory file: given a path it writes the file's name into the bytes."""
    import torch

    buffer = io.BytesIO()
    torch.save(_with_one_string_each(value), buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def _with_one_string_each(value: Any) -> Any:
    """value with equal strings made one object: pickle writes the second of two equal strings
    otherwise than a string that it meets again, so bytes would tell where a value came from."""
    if type(value) is str:
        return sys.intern(value)
    if isinstance(value, dict):
        pairs = ((_with_one_string_each(k), _with_one_string_each(v)) for k, v in value.items())
        return OrderedDict(pairs) if isinstance(value, OrderedDict) else dict(pairs)
    if type(value) in (list, tuple):
        return type(value)(_with_one_string_each(item) for item in value)
    return value


def load_torch(path: Path) -> Any:
    """Tensors and plain values of a .pt file, on the CPU; no code in it is executed.

    Raises UserError where the file is missing, cut short, or holds anything else, or tensors that
    claim more numbers than it has."""
    import torch

    from utils.files.pickles import Refused, allowed_in_checkpoints, check_archive

    path = Path(path)
    try:
        with path.open("rb") as file, allowed_in_checkpoints(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about pickle protocols
            if zipfile.is_zipfile(file):
                check_archive(file)
            elif path.suffix == ".pt":
                raise UserError(path, "no whole .pt file", PT_REMEDY)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
            # A view with strides of 0 may claim any size: the first look at it takes all memory.
            for tensor in _tensors_in(content):
                if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                    found = f"a tensor {list(tensor.shape)} whose numbers it does not hold"
                    raise UserError(path, found, PT_REMEDY)
            return content
    except UserError:
        raise
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except Exception as error:  # a mutated file may raise anything
        refused = str(error) if isinstance(error, Refused) else _refused_name(str(error))
        if refused is None:
            raise UserError(path, "no whole .pt file", PT_REMEDY) from error
        remedy = "use only files that you trust, as our stages write"
        raise UserError(path, f"content that is not allowed ({refused})", remedy) from None


def _tensors_in(content: Any) -> Iterator[Any]:
    """The tensors in nested dicts and lists, which may hold themselves."""
    import torch

    pending, seen = [content], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, (list, tuple, set)):
            pending += item


def _refused_name(message: str) -> str | None:
    """The global that torch refused, out of its long message; None where it was something else."""
    for mark in (
        "Unsupported global: GLOBAL ",
        "Trying to load unsupported GLOBAL ",
        "unrecognized function ",
    ):
        if mark in message:
            return message.split(mark, 1)[1].split()[0]
    return None
