"""generalization/K.json and K.npz: findings with what they mean, and the numbers behind them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.evidence.definitions import EXPLANATION, TESTS
from utils.evidence.findings import Finding
from utils.files.arrays import read_npz, save_npz
from utils.files.atomic import read_json, write_json
from utils.files.provenance import check_same, read_args, resolve_args
from utils.files.schema import Array, check_arrays
from utils.stages.generalization.measures import Interval, Measured

STAGES = ("data", "train", "model", "generalization")
REMEDY = "run run_generalization.py again with --overwrite"
NUMBERS = ("value", "low", "high")
TIMES = ("collapse", "speciation")
ERRORS = ("loss", "memorizer", "identity", "mean")
SCHEMA = {  # what the figures need of K.npz
    "t": Array("i", ("times",)),
    **{f"train-{name}": Array("f", ("times", "training images")) for name in ERRORS},
    **{f"held-out-{name}": Array("f", ("times", "held-out images")) for name in ERRORS},
}


@dataclass(frozen=True)
class Stored:
    """What K.json tells: findings by test, collapse and speciation times, args; the step of a
    training where it is one of its checkpoints."""

    findings: dict[str, Finding]
    times: dict[str, Interval]
    args: dict[str, Any]
    step: int | None = None


def save_measured(
    path: Path, measured: Measured, args: Mapping[str, Any], step: int | None = None
) -> None:
    """K.npz, then K.json, which marks it as done. path: of K.json."""
    save_npz(arrays_file(path), **measured.arrays, args=json.dumps(args))
    findings = [
        {
            "test": found.test,
            "verdict": found.verdict,
            **{name: getattr(found, name) for name in (*NUMBERS, "n", "p_value", "undecided")},
            "neutral": TESTS[found.test].neutral,
            "details": dict(found.details),
            **{name: getattr(TESTS[found.test], name) for name in EXPLANATION},
        }
        for found in measured.findings
    ]
    times = {name: list(measured.times[name]) for name in TIMES}
    write_json(path, {"findings": findings, "times": times, "step": step, "args": args})


def arrays_file(path: Path) -> Path:
    """K.npz beside K.json."""
    return Path(path).with_suffix(".npz")


def load_measured(path: Path) -> Stored:
    """K.json, checked. Raises UserError naming what is wrong with it."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("findings"), list):
        raise UserError(path, "no findings", REMEDY)
    args = resolve_args(content.get("args"), path)
    findings = [_finding(one, path) for one in content["findings"]]
    times = content.get("times")
    if not isinstance(times, dict) or not all(_is_time(times.get(name)) for name in TIMES):
        raise UserError(path, "no collapse and speciation times", REMEDY)
    step = content.get("step")
    if step is not None and (type(step) is not int or step < 1):
        raise UserError(f"{path}: step", step, REMEDY)
    named = step if step is not None else args["train"]["train_size"]
    if path.stem != str(named):
        raise UserError(path, f"findings of {named}", f"name it {named}.json")
    own = {name: tuple(x if x is None else float(x) for x in times[name]) for name in TIMES}
    return Stored({found.test: found for found in findings}, own, args, step)


def _finding(one: Any, path: Path) -> Finding:
    """A finding as it was stored. Raises UserError where it is none of ours."""
    if not isinstance(one, dict) or one.get("test") not in TESTS:
        raise UserError(f"{path}: findings", "one of an unknown test", REMEDY)
    values = [one.get(name) for name in NUMBERS]
    details = one.get("details")
    named = isinstance(details, dict) and all(isinstance(x, (int, float)) for x in details.values())
    n = one.get("n")
    if not _numbers(values, 3) or not named or type(n) is not int or n < 1:
        raise UserError(f"{path}: findings", f"{one['test']} without its numbers", REMEDY)
    value, low, high = map(float, values)
    if not low <= value <= high:
        raise UserError(f"{path}: findings", f"{one['test']} outside its interval", REMEDY)
    p_value, undecided = one.get("p_value"), one.get("undecided")
    if not _numbers([p_value], 1) or not 0 <= p_value <= 1 or not isinstance(undecided, str):
        problem = f"{one['test']} without its p-value: of another version"
        raise UserError(f"{path}: findings", problem, REMEDY)
    return Finding(one["test"], value, low, high, n, float(p_value), details, undecided)


def _is_time(values: Any) -> bool:
    """Whether a time has its interval, or none at all: value, low, high or value, null, null."""
    return _numbers(values, 3) or (
        isinstance(values, list) and values[1:] == [None, None] and _numbers(values[:1], 1)
    )


def _numbers(values: Any, count: int) -> bool:
    whole = isinstance(values, list) and len(values) == count
    return whole and all(type(x) in (int, float) and math.isfinite(x) for x in values)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """K.npz (or the one beside K.json): its arrays, checked as far as figures need them."""
    path = arrays_file(path)
    arrays = read_npz(path)
    optional = {"frechet": Array("f", (4,))} if "frechet" in arrays else {}
    check_arrays(arrays, {"args": Array("U"), **SCHEMA, **optional}, path, REMEDY)
    resolve_args(read_args(arrays, path), path)
    return arrays


def is_measured(path: Path, args: Mapping[str, Any], redo_changed: bool) -> bool:
    """Whether K.json, and K.npz beside it, hold the result of the same options.

    Raises UserError where they were made with others (redo_changed: False then)."""
    if not (path.exists() and arrays_file(path).exists()):
        return False
    stored = load_measured(path).args
    load_arrays(path)  # refused where it is cut short
    return check_same(path, stored, args, STAGES, redo_changed)
