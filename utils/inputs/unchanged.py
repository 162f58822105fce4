"""If an input changes during a run, the run stops with an error.

A stage plans with the content of an input, which its results will name, and reads the file again
when it works on it. A result must never name one content and be made from another."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from utils.cli.errors import UserError
from utils.files.provenance import digest

CHANGED = "it changed while this job ran: run the same command again when it is finished"
Value = TypeVar("Value")


@dataclass(frozen=True)
class Input(Generic[Value]):
    """A file as it was when it was first read; content: digest of what the loader returned."""

    path: Path
    load: Callable[[Path], Value]
    content: str

    def read(self) -> Value:
        """The content of the first read. Raises UserError where it changed or is missing."""
        if not self.path.exists():
            raise missing_input(self.path)
        value = self.load(self.path)
        check_unchanged(self.path, self.content, content_of(value))
        return value


def first_read(path: Path, load: Callable[[Path], Value]) -> tuple[Input[Value], Value]:
    """The input for later reads, and its content now. load raises UserError for a bad file."""
    value = load(path)
    return Input(Path(path), load, content_of(value)), value


def missing_input(path: Path) -> UserError:
    """The error about a file that was there when the job was planned."""
    remedy = "it was there when this job began: put it back and run the same command again"
    return UserError(path, "no such file", remedy)


def check_unchanged(where: object, before: str, now: str, what: str = "content") -> None:
    """Raises UserError where an input is not what it was when the job was planned."""
    if now != before:
        raise UserError(where, f"other {what} than when this job began", CHANGED)


def content_of(value: Any) -> str:
    """A digest of all that a loader returned: arrays, options, records and tuples of them."""
    return digest(*_arrays(value))


def _arrays(value: Any) -> Iterable[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from _arrays([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _arrays(item)
    elif isinstance(value, dict) and any(isinstance(v, np.ndarray) for v in value.values()):
        yield from _arrays([part for key in sorted(value) for part in (key, value[key])])
    else:
        yield np.array(json.dumps(value, sort_keys=True))
