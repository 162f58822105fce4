"""What the arrays of a .npz file must be: type, shape and range, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli.errors import UserError


class Array(NamedTuple):
    """One array of a file.

    kind: letters of `dtype.kind` that it may have. axes: for each axis its length or a name; axes
    of one name have one length in the whole file. low, high: range of the values, both included;
    high may be a name too. Values are finite unless nan allows NaN, and there are some unless
    empty allows none. ascending: along the last axis, equal values allowed. unique: none repeats"""

    kind: str
    axes: tuple[int | str, ...] = ()
    low: float = -math.inf
    high: float | str = math.inf
    nan: bool = False
    empty: bool = False
    ascending: bool = False
    unique: bool = False


def check_arrays(
    arrays: Mapping[str, np.ndarray],
    schema: Mapping[str, Array],
    path: Path,
    remedy: str,
    **sizes: int,
) -> None:
    """Raises UserError naming path and the first array that is absent or not as its rule says.

    sizes: the lengths and limits behind names of the schema, as far as they are known before."""
    for key, rule in schema.items():
        if key not in arrays:
            raise UserError(path, f"no {key!r}", remedy)
        values = arrays[key]
        shape = [
            sizes.setdefault(axis, length) if isinstance(axis, str) else axis
            for axis, length in zip(rule.axes, values.shape, strict=False)
        ]
        fits = values.ndim == len(rule.axes) and list(values.shape) == shape
        if not fits or values.dtype.kind not in rule.kind or not (values.size or rule.empty):
            raise UserError(path, f"{key} {values.dtype} of shape {list(values.shape)}", remedy)
        if rule.unique and len(np.unique(values)) < values.size:
            raise UserError(path, f"{key} with values that repeat", remedy)
        if rule.ascending and (values[..., 1:] < values[..., :-1]).any():
            raise UserError(path, f"{key} that do not ascend", remedy)
        if values.dtype.kind in "bU":
            continue
        values = values[~np.isnan(values)] if rule.nan else values
        if not np.isfinite(values).all():
            raise UserError(path, f"{key} with NaN or infinite values", remedy)
        high = sizes[rule.high] if isinstance(rule.high, str) else rule.high
        if values.size and (values.min() < rule.low or values.max() > high):
            raise UserError(path, f"{key} outside {rule.low:g} to {high:g}", remedy)
