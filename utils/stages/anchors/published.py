"""anchors.yaml: published values with their source, and the conditions that they hold under."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.yaml_files import read_yaml

FILE = Path(__file__).parents[2] / "anchors.yaml"
REMEDY = "correct it (docs/anchors.md), or leave out --values"
SHARE, ENDS, BEGINS = "memorized share", "memorization ends", "generalization begins"
VARIANCE, SPECIATION = "largest variance", "speciation time"
STEPS, EXPONENT = "tau_mem / n", "exponent of tau_mem in n"
QUANTITIES = (SHARE, ENDS, BEGINS, VARIANCE, SPECIATION, STEPS, EXPONENT)
TEXTS = ("source", "quantity", "obtained", "criterion", "data")  # each published value has them
KINDS: dict[str, type] = {  # of a key, where it is given
    **dict.fromkeys((*TEXTS, "selection", "metric", "optimizer", "note"), str),
    **dict.fromkeys(("width", "classes", "steps"), int),
    **dict.fromkeys(("image", "digits"), list),
}
NUMBERS = ("value", "values", "tolerance")


@dataclass(frozen=True)
class Anchor:
    """A published value of a quantity, at training-set size k where it is one of a K.

    conditions: everything else that anchors.yaml says of it. tolerance: the error of reading the
    value off a figure, 0 where it is stated; in the unit of the value."""

    name: str
    k: int | None
    value: float
    tolerance: float
    conditions: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        """A condition, None where the source does not say it."""
        return self.conditions.get(key)


def read_anchors(path: Path) -> list[Anchor]:
    """Every published value of a file. Raises UserError naming the file and what is wrong in it."""
    content = read_yaml(path, "--values")
    if not isinstance(content, dict) or not content:
        raise UserError(path, "no published values", REMEDY)
    return [anchor for name, entry in content.items() for anchor in _entry(path, name, entry)]


def _entry(path: Path, name: Any, entry: Any) -> list[Anchor]:
    """The values of one entry: one for each K, or a single one."""
    where = f"{path}: {name}"
    if not isinstance(entry, dict):
        raise UserError(where, entry, REMEDY)
    for key, value in entry.items():
        if key not in (*KINDS, *NUMBERS):
            raise UserError(where, f"the key {key!r}", f"known are {', '.join((*KINDS, *NUMBERS))}")
        if key in KINDS and type(value) is not KINDS[key]:
            raise UserError(f"{where}: {key}", value, REMEDY)
    for key in TEXTS:
        if key not in entry:
            raise UserError(where, f"no {key}", REMEDY)
    if entry["quantity"] not in QUANTITIES:
        raise UserError(f"{where}: quantity", entry["quantity"], f"choose of {QUANTITIES}")
    by_k, tolerance = entry.get("values"), entry.get("tolerance", 0)
    single = {None: entry.get("value")}
    if entry["quantity"] == SHARE:
        sizes = isinstance(by_k, dict) and all(type(k) is int and k > 0 for k in by_k)
        single = by_k if sizes else {None: None}
    if not all(_is_number(x) for x in (tolerance, *single.values())):
        raise UserError(where, "no value, or one that is no number >= 0", REMEDY)
    if entry["quantity"] == SHARE and max(single.values(), default=2) > 1:
        raise UserError(f"{where}: values", by_k, "give shares of 0 to 1 by K")
    conditions = {key: value for key, value in entry.items() if key in KINDS}
    return [Anchor(str(name), k, float(x), float(tolerance), conditions) for k, x in single.items()]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf
