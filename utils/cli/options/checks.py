"""What the options of all stages share: flags' names, checks of values, lists of numbers."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Collection
from dataclasses import field
from typing import Any

from utils.cli.errors import UserError

MOST = 2**63 - 1  # of a number that is counted or measured: what an array and a file can hold


def flag(name: str) -> str:
    """The flag of a field: `flag("train_size")` is `--train-size`."""
    return "--" + name.replace("_", "-")


def one_of(options: object, name: str, choices: Collection) -> None:
    value = getattr(options, name)
    if value not in choices:
        raise UserError(flag(name), value, "choose " + ", ".join(map(str, choices)))


def within(options: object, name: str, low: float, high: float = MOST) -> None:
    """Refuse a value outside [low, high], NaN and infinity; None passes."""
    value = getattr(options, name)
    if value is not None and not low <= value <= high:
        bounds = f"{low} or more" if high == MOST and not value > high else f"{low} to {high}"
        raise UserError(flag(name), value, f"choose {bounds}")


def all_within(options: object, name: str, low: int, high: int = MOST) -> None:
    """The same for each of a list of numbers."""
    values = getattr(options, name)
    if not all(low <= value <= high for value in values):
        bounds = f"{low} or more" if high == MOST else f"{low} to {high}"
        raise UserError(flag(name), values, f"choose numbers of {bounds}, as in 1,2,2")


def parse_ints(text: str) -> tuple[int, ...]:
    """`parse_ints("1,2,2") == (1, 2, 2)`; the empty string is the empty tuple."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}; give whole numbers, as in 1,2,2") from error


def ints(*default: int) -> tuple[int, ...]:
    from simple_parsing import field as parsed_field

    return parsed_field(default=default, type=parse_ints, nargs=None)


def told(default: Any, text: str) -> Any:
    """A field whose help is text."""
    return field(default=default, metadata={"help": text})
