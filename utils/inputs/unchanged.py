"""Inputs that are read more than once: a later read finds what the first one found, or refuses.

A stage plans with an input's content, which its results will name, and reads it again when it
works on it. Who replaces, deletes or cuts it short in between gets one line, never a result that
tells of one content and was made from another."""

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
    """A file as it was when it was first read; content: what stands for what was found in it."""

    path: Path
    load: Callable[[Path], Value]
    content: str

    def read(self) -> Value:
        """What the first read found. Raises UserError where it has gone, or is another now."""
        if not self.path.exists():
            raise gone(self.path)
        found = self.load(self.path)
        check_unchanged(self.path, self.content, content_of(found))
        return found


def first_read(path: Path, load: Callable[[Path], Value]) -> tuple[Input[Value], Value]:
    """The input for later reads, and what is in it now. load raises UserError for a bad file."""
    found = load(path)
    return Input(Path(path), load, content_of(found)), found


def gone(path: Path) -> UserError:
    """The complaint about a file that was there when the job was planned."""
    remedy = "it was there when this job began: put it back and run the same command again"
    return UserError(path, "no such file", remedy)


def check_unchanged(where: object, before: str, now: str, what: str = "content") -> None:
    """Raises UserError where an input is not what it was when the job was planned."""
    if now != before:
        raise UserError(where, f"other {what} than when this job began", CHANGED)


def content_of(value: Any) -> str:
    """What stands for all that a loader gave: arrays, options, records and tuples of them."""
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
