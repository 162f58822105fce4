"""machines/K.json and K.npz: what explains a network, and the numbers behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.choices import CLASSES, MACHINE_NAMES
from utils.files.arrays import read_npz, save_npz
from utils.files.atomic import read_json, write_json
from utils.files.provenance import check_same, read_args, resolve_args
from utils.files.schema import Array, check_arrays

STAGES = ("data", "train", "model", "machines")
REMEDY = "run run_machines.py again with --overwrite"
TRAINING, HELD_OUT, SAMPLES = "training", "held-out", "samples"
SETS = (TRAINING, HELD_OUT, SAMPLES)
Interval = tuple[float, float, float]  # value, and its 95 % interval; NaN where there is none


@dataclass(frozen=True)
class Entry:
    """What explains the network on one set of noised images at one time t.

    group: training, held-out, samples, or a class of the samples; n: its images. r2, mixture: by
    machine. best: the machine of largest r^2, None where the network gives the mean image alone;
    tied: those that are not shown to be worse. mixture: weights of the best convex mixture."""

    group: str
    t: int
    n: int
    r2: dict[str, Interval]
    best: str | None
    tied: list[str]
    mixture: dict[str, Interval]
    mixture_r2: Interval


@dataclass(frozen=True)
class SeedEntry:
    """Samples of one machine and of the network from the same seeds: the median of r^2 over n
    samples of a group (samples, or a class of the network's samples), its interval."""

    group: str
    machine: str
    n: int
    median: Interval


@dataclass(frozen=True)
class Stored:
    """What K.json tells. sides: the patch side of each patch machine at each time."""

    machines: list[str]
    sides: dict[str, dict[int, int]]
    entries: list[Entry]
    seeds: list[SeedEntry]
    args: dict[str, Any]

    def at(self, group: str, t: int) -> Entry | None:
        """The entry of a group at a time; None where there is none."""
        return next((e for e in self.entries if (e.group, e.t) == (group, t)), None)

    @property
    def times(self) -> list[int]:
        return sorted({entry.t for entry in self.entries})


def save_result(path: Path, stored: Stored, arrays: Mapping[str, np.ndarray]) -> None:
    """K.npz, then K.json, which marks it as done. path: of K.json."""
    save_npz(path.with_suffix(".npz"), **arrays, args=json.dumps(stored.args))
    content = {
        "machines": stored.machines,
        "sides": {name: {str(t): p for t, p in of.items()} for name, of in stored.sides.items()},
        "entries": [_plain(vars(entry)) for entry in stored.entries],
        "seeds": [_plain(vars(entry)) for entry in stored.seeds],
        "args": stored.args,
    }
    write_json(path, content)


def load_result(path: Path) -> Stored:
    """K.json, checked. Raises UserError naming what is wrong with it."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(path, "no result of run_machines.py", REMEDY)
    args = resolve_args(content.get("args"), path)
    if path.stem != str(args["train"]["train_size"]):
        named = args["train"]["train_size"]
        raise UserError(path, f"machines of {named}", f"name it {named}.json")
    try:
        machines = [_known(name, MACHINE_NAMES) for name in content["machines"]]
        sides = {
            _known(name, machines): {int(t): _count(side) for t, side in of.items()}
            for name, of in content["sides"].items()
        }
        entries = [_entry(one, machines) for one in content["entries"]]
        seeds = [
            SeedEntry(
                _known(one["group"], (SAMPLES, *CLASSES)),
                _known(one["machine"], machines),
                _count(one["n"]),
                _interval(one["median"]),
            )
            for one in content["seeds"]
        ]
        _check_whole(machines, sides, entries)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(path, f"no result of run_machines.py ({error})", REMEDY) from error
    return Stored(machines, sides, entries, seeds, args)


def _check_whole(
    machines: list[str], sides: Mapping[str, Mapping[int, int]], entries: list[Entry]
) -> None:
    """Raises ValueError where there is nothing to show, or a patch side is missing."""
    times = {entry.t for entry in entries}
    if not machines or len(set(machines)) < len(machines) or not times:
        raise ValueError("no machines, one twice, or no times")
    for name, of in sides.items():
        if missing := times - set(of):
            raise ValueError(f"no patch side of {name} at t = {min(missing)}")


def load_arrays(path: Path, machines: int) -> dict[str, np.ndarray]:
    """K.npz beside K.json, checked as far as figures need it; machines: how many K.json has."""
    path = path.with_suffix(".npz")
    image = ("channels", "height", "width")
    schema = {
        "args": Array("U"),
        "seed-network": Array("f", ("seeds", *image), empty=True),
        "seed-machines": Array("f", ("machines", "seeds", *image), empty=True),
        "seed-classes": Array("i", ("seeds",), -1, len(CLASSES) - 1, empty=True),
    }
    arrays = read_npz(path)
    check_arrays(arrays, schema, path, REMEDY, machines=machines)
    resolve_args(read_args(arrays, path), path)
    return arrays


def is_compared(path: Path, args: Mapping[str, Any], redo_changed: bool) -> bool:
    """Whether K.json and K.npz hold the result of the same options.

    Raises UserError where they were made with others (redo_changed: False then)."""
    if not (path.exists() and path.with_suffix(".npz").exists()):
        return False
    stored = load_result(path)
    load_arrays(path, len(stored.machines))
    return check_same(path, stored.args, args, STAGES, redo_changed)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as JSON has them: NaN as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        return value

    return {name: plain(value) for name, value in values.items()}


def _entry(one: Any, machines: list[str]) -> Entry:
    best = one["best"]
    return Entry(
        _known(one["group"], (*SETS, *CLASSES)),
        _count(one["t"]),
        _count(one["n"]),
        {name: _interval(one["r2"][name]) for name in machines},
        None if best is None else _known(best, machines),
        [_known(name, machines) for name in one["tied"]],
        {name: _interval(one["mixture"][name], low=-1e-6) for name in machines},
        _interval(one["mixture_r2"]),
    )


def _known(name: Any, names: Any) -> str:
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"unknown name {name!r}")
    return name


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("found no whole number, 0 or more")
    return value


def _interval(values: Any, low: float = -math.inf, high: float = 1 + 1e-6) -> Interval:
    """A value and its interval, all in low .. high. Raises ValueError for anything else."""
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError("found no value with its interval")
    if any(x is not None and type(x) not in (int, float) for x in values):
        raise ValueError("found no numbers in an interval")
    result = [math.nan if x is None else float(x) for x in values]
    if any(math.isinf(x) or not low <= x <= high for x in result if not math.isnan(x)):
        raise ValueError(f"found {result}, outside {low:g} to {high:g}")
    return result[0], result[1], result[2]
