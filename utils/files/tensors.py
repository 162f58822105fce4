"""Tensors and plain values in .pt files; nothing in them is executed."""

from __future__ import annotations

import io
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from utils.cli.errors import UserError
from utils.files.atomic import atomic_write, reason

LEGACY = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # torch's magic number, in a pickle
PT_REMEDY = "copy it again, or delete it and run again what made it"


def save_torch(path: Path, value: Any) -> None:
    """Write tensors and plain values atomically; equal values give equal bytes.

    torch.save writes to memory: given a path, it would store the file's name in the bytes."""
    import torch

    buffer = io.BytesIO()
    torch.save(_with_one_string_each(value), buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def _with_one_string_each(value: Any) -> Any:
    """value with equal strings made one object.

    pickle stores an object that it meets again as a reference, and an equal one in full: without
    this the bytes would depend on where the strings came from."""
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

    Raises UserError where the file is missing or cut short, holds anything else, or has tensors
    that claim more numbers than are stored."""
    import torch

    from utils.files.pickles import Refused, allowed_in_checkpoints, check_archive

    path = Path(path)
    try:
        with path.open("rb") as file, allowed_in_checkpoints(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about pickle protocols
            if zipfile.is_zipfile(file):
                check_archive(file)
            elif path.suffix == ".pt":
                raise other_format(path, file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
            # A view with strides of 0 may claim any size, and to read it would take all memory.
            for tensor in _tensors_in(content):
                if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                    problem = f"a tensor {list(tensor.shape)} whose numbers it does not hold"
                    raise UserError(path, problem, PT_REMEDY)
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


def load_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file by name. Raises UserError where it cannot be read."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise UserError(path, reason(error), "check the path") from error
    except Exception as error:  # a damaged file may raise anything
        raise UserError(path, f"no whole .safetensors file ({error})", "copy it again") from error


def other_format(path: Path, file: BinaryIO) -> UserError:
    """The error for a .pt file that is no archive of torch.save: a sound file of another format
    needs no second copy."""
    file.seek(0)
    start = file.read(64)
    if LEGACY in start:
        remedy = "save it again by torch.save(torch.load(PATH, weights_only=True), PATH)"
        return UserError(path, "torch's format of before version 1.6", remedy)
    if start[8:9] == b"{":
        remedy = "save it by torch.save(safetensors.torch.load_file(PATH), PATH)"
        return UserError(path, "a file in the format of safetensors", remedy)
    return UserError(path, "no whole .pt file", PT_REMEDY)


def _tensors_in(content: Any) -> Iterator[Any]:
    """The tensors in nested dicts and lists, which may contain themselves."""
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
    """The name that torch refused, from its long message; None for other messages."""
    for mark in (
        "Unsupported global: GLOBAL ",
        "Trying to load unsupported GLOBAL ",
        "unrecognized function ",
    ):
        if mark in message:
            return message.split(mark, 1)[1].split()[0]
    return None
