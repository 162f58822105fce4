"""Checks and parsers of option values: ranges, choices, lists of numbers, sizes, shares."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Collection, Mapping
from dataclasses import field
from typing import Any

from utils.cli.errors import UserError

MOST = 2**63 - 1  # the largest number that an array and a file can hold


def flag(name: str) -> str:
    """The flag of a field: `flag("train_size")` is `--train-size`."""
    return "--" + name.replace("_", "-")


def one_of(options: object, name: str, choices: Collection) -> None:
    """Raises UserError where the option's value is not among choices."""
    value = getattr(options, name)
    if value not in choices:
        raise UserError(flag(name), value, "choose " + ", ".join(map(str, choices)))


def within(options: object, name: str, low: float, high: float = MOST) -> None:
    """Raises UserError where the option's value is outside [low, high] or NaN; None passes."""
    value = getattr(options, name)
    if value is not None and not low <= value <= high:
        bounds = f"{low} or more" if high == MOST and not value > high else f"{low} to {high}"
        raise UserError(flag(name), value, f"choose {bounds}")


def all_within(options: object, name: str, low: int, high: int = MOST) -> None:
    """`within` for each number of a list."""
    values = getattr(options, name)
    if not all(low <= value <= high for value in values):
        bounds = f"{low} or more" if high == MOST else f"{low} to {high}"
        raise UserError(flag(name), values, f"choose numbers of {bounds}, as in 1,2,2")


def parse_ints(text: str) -> tuple[int, ...]:
    """`parse_ints("1,2,2") == (1, 2, 2)`, also as `1 2 2` or `[1, 2, 2]`; the empty string is the
    empty tuple."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    try:
        return tuple(int(part) for part in inner.replace(",", " ").split())
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}; give whole numbers, as in 1,2,2") from error


def ints(*default: int) -> tuple[int, ...]:
    """A field of whole numbers, on the command line as 1,2,2."""
    from simple_parsing import field as parsed_field

    return parsed_field(default=default, type=parse_ints, nargs=None)


def with_help(default: Any, text: str) -> Any:
    """A field whose help is text, where a comment cannot be computed."""
    return field(default=default, metadata={"help": text})


def required(section: Any, name: str) -> Any:
    """The value of an option that has no default. Raises UserError where it is missing."""
    value = getattr(section, name)
    if value in (None, ()):
        raise UserError(flag(name), "nothing", "give it on the command line or in the YAML file")
    return value


def parse_sides(text: str) -> int | dict[int, int]:
    """Patch sides: `parse_sides("5") == 5`, `parse_sides("20:3,100:7") == {20: 3, 100: 7}`.

    Raises UserError where a side is even or below 1, a time is named twice, and for other texts."""
    entries = [entry.strip() for entry in str(text).split(",")]
    if re.fullmatch(r"\d{1,6}", entries[0]) and len(entries) == 1:
        return _odd_side(entries[0], text)
    sides: dict[int, int] = {}
    for entry in entries:
        match = re.fullmatch(r"(\d{1,6})\s*:\s*(\d{1,6})", entry)
        if not match:
            remedy = "give a patch side, as 5, or one for each of some times, as 20:3,100:7"
            raise UserError("--patch-sides", text, remedy)
        t = int(match[1])
        if t in sides:
            raise UserError("--patch-sides", text, f"name the time {t} once")
        sides[t] = _odd_side(match[2], text)
    return sides


def _odd_side(digits: str, text: str) -> int:
    side = int(digits)
    if side % 2 == 0:
        raise UserError("--patch-sides", text, "choose odd sides, 1 or more")
    return side


def sides_text(sides: int | Mapping[int, int]) -> str:
    """The text of patch sides, times ascending: `sides_text({100: 7, 20: 3}) == "20:3,100:7"`."""
    if isinstance(sides, int):
        return str(sides)
    return ",".join(f"{t}:{side}" for t, side in sorted(sides.items()))


UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_memory(text: str | None) -> int | None:
    """Bytes: `parse_memory("4G") == 4 * 2**30`, `parse_memory("500M") == 500 * 2**20`.

    Raises UserError below 1M and for other texts."""
    if text is None:
        return None
    match = re.fullmatch(
        r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE
    )
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if not 2**20 <= size < 2**63:
        raise UserError("--memory", text, "give a size of 1M or more, as 4G or 500M")
    return size


MOST_SHARES = 100_000  # SLURM's arrays have 1,001 tasks by default


def parse_share(text: str | None, flag: str) -> tuple[int, int]:
    """`parse_share("2/8", "--shard") == (2, 8)`; None is the whole, (0, 1). Raises UserError."""
    if text is None:
        return 0, 1
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", str(text))
    index, count = map(int, match.groups()) if match else (0, 0)
    if not index < count <= MOST_SHARES:
        raise UserError(flag, text, "give i/n with i = 0 to n - 1, as 0/8 for the first of eight")
    return index, count
