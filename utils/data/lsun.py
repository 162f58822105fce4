"""LSUN's churches: an lmdb database of encoded images, and the cache of its keys."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.cli.errors import UserError
from utils.data.image_files import FileSet, Form, decode
from utils.files.atomic import read_json, write_json


def open_lsun_church(root: Path, form: Form, split: str) -> FileSet:
    """LSUN's churches: root/church_outdoor_train_lmdb, and ..._val_lmdb for the test split."""
    path = root / f"church_outdoor_{'train' if split == 'train' else 'val'}_lmdb"
    if not (path / "data.mdb").is_file():
        remedy = "unpack LSUN's zip file of this name there, or set --data-path"
        raise UserError(path, "no data.mdb in it", remedy)
    keys = lsun_keys(path)
    if not keys:
        raise UserError(path, "a database without images", "unpack LSUN's zip file again")

    @contextmanager
    def session() -> Iterator[Callable[[str], Tensor]]:
        # Opened anew for each read: lmdb refuses to open a file twice, and use after a fork.
        with open_lmdb(path) as environment:

            def decode_key(key: str) -> Tensor:
                with environment.begin() as transaction:
                    value = transaction.get(key.encode("latin-1")) or b""
                return decode(io.BytesIO(value), f"{path}: key {key}", form)

            yield decode_key

    return FileSet("lsun-church", form.shape, keys, session)


@contextmanager
def open_lmdb(path: Path) -> Iterator[Any]:
    """A database, read-only. Raises UserError where it is damaged or the package lmdb is absent."""
    try:
        import lmdb
    except ImportError as error:
        raise UserError("--data-name lsun-church", "no lmdb package", "pip install lmdb") from error
    try:
        # Without a lock file, so that the folder may be read-only.
        with lmdb.open(str(path), readonly=True, lock=False, create=False, readahead=False) as env:
            yield env
    except lmdb.Error as error:
        raise UserError(path, f"no readable lmdb ({error})", "unpack it again") from error


def lsun_keys(path: Path) -> list[str]:
    """The keys in the database's order, from a cache if it is of this size and modification time.

    To list them the whole database (2 GB) is read, so they are stored beside it, or in the user's
    cache folder if its folder is read-only, or not at all if both are."""
    stat = (path / "data.mdb").stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    caches = [path.with_name(f"{path.name}.keys.json"), _user_cache(path)]
    for cache in caches:
        keys = _cached_keys(cache, stamp)
        if keys is not None:
            return keys
    with open_lmdb(path) as environment, environment.begin() as transaction:
        # latin-1 maps each byte to one character and back.
        keys = [k.decode("latin-1") for k in transaction.cursor().iternext(values=False)]
    for cache in caches:
        try:
            write_json(cache, {"stamp": stamp, "keys": keys})
            break
        except UserError:
            continue  # read-only or full
    return keys


def _cached_keys(cache: Path, stamp: list[int]) -> list[str] | None:
    try:
        stored = read_json(cache)
        return stored["keys"] if stored["stamp"] == stamp else None
    except (UserError, KeyError, TypeError):
        return None  # absent or damaged


def _user_cache(path: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return base / "memorization-to-generalization" / f"{path.name}-{name}.keys.json"
