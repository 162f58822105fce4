"""times/CLASS/K.npz and unfinished/K.npz: what run_critical_times.py writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import check_same, parse_args
from utils.files.schema import Array, check_arrays


@dataclass(frozen=True)
class Times:
    """times/K.npz: how much noise n images survive. Times are those of `scanned`, 0 for never.

    critical_time int64 [n]: the last scanned t before the image first stops being recovered;
    censored bool [n]; time int64 [n, trials]: the same of each trial, -1 where not followed.
    radius float32 [n, trials]: |x_0 - x_t| of each trial's noised copy at the image's critical
    time; trial_radius: the same at the trial's own time, NaN where that was not followed. Both
    are 0 where that time is 0. recovery float32 [n, T'], NaN where not computed; non_monotone
    bool [n]; scanned int64 [T']; delta: largest distance at which an image counts as recovered."""

    time: np.ndarray
    critical_time: np.ndarray
    censored: np.ndarray
    radius: np.ndarray
    trial_radius: np.ndarray
    recovery: np.ndarray
    non_monotone: np.ndarray
    scanned: np.ndarray
    delta: float
    args: dict[str, Any]

    @property
    def followed(self) -> bool:
        """Whether the time of each trial is known."""
        return bool((self.time >= 0).all())


SCHEMA = {
    "time": Array("i", ("images", "trials")),
    "critical-time": Array("i", ("images",)),
    "censored": Array("b", ("images",)),
    "radius": Array("f", ("images", "trials"), low=0),
    "trial-radius": Array("f", ("images", "trials"), low=0, nan=True),
    "recovery": Array("f", ("images", "times"), 0, 1, nan=True),
    "non-monotone": Array("b", ("images",)),
    "scanned": Array("i", ("times",), low=1, ascending=True, unique=True),
    "delta": Array("iuf", low=0),
}
TIMES_KEYS = tuple(SCHEMA)
UNFINISHED = ("critical-time", "censored", "non-monotone", "time", "recovery")


def save_times(path: Path, times: Times) -> None:
    arrays = {key: getattr(times, key.replace("-", "_")) for key in SCHEMA}
    save_npz(path, **arrays, args=json.dumps(times.args))


def load_times(path: Path) -> Times:
    """times/K.npz, checked. Raises UserError naming what is wrong with it.

    Files without trial-radius are refused: their radius may be that at each trial's own time."""
    remedy = "run run_critical_times.py again with --overwrite"
    arrays = read_npz(path, (*SCHEMA, "args"), "delete it and rerun the stage that wrote it")
    args = parse_args(arrays, path)
    check_arrays(arrays, SCHEMA, path, remedy)
    values = {key.replace("-", "_"): arrays[key] for key in SCHEMA}
    check_scanned(values, values["scanned"], path, remedy)
    if (np.isnan(values["trial_radius"]) != (values["time"] < 0)).any():
        raise UserError(path, "trial-radius that does not fit time", remedy)
    return Times(**{**values, "delta": float(values["delta"])}, args=args)


def check_scanned(
    answers: Mapping[str, np.ndarray], scanned: np.ndarray, path: Path, remedy: str
) -> None:
    """Raises UserError where critical_time or time holds a time that was not scanned."""
    for key, special in (("critical_time", [0]), ("time", [-1, 0])):
        if not np.isin(answers[key], [*special, *scanned]).all():
            raise UserError(path, f"{key.replace('_', '-')} that was not scanned", remedy)


def save_unfinished(path: Path, arrays: Mapping[str, np.ndarray], args: Mapping) -> None:
    """Write unfinished/K.npz, the answers known so far of a K; it is removed when K is finished."""
    save_npz(path, **arrays, args=json.dumps(args))


def load_unfinished(
    path: Path, keys: Iterable[str], args: Mapping, stages: Iterable[str]
) -> dict[str, np.ndarray]:
    """The arrays of unfinished/K.npz; empty if it is absent, damaged or of other options."""
    if not path.exists():
        return {}
    try:
        arrays = read_npz(path, [*keys, "args"])
        check_same(path, parse_args(arrays, path), args, stages)
        settings, remedy = args["critical_times"], "it is made again"
        scanned = np.arange(1, args["train"]["timesteps"], settings["stride"])
        schema = {key.replace("-", "_"): SCHEMA[key] for key in UNFINISHED}
        schema["image"] = Array("U", ("images",))
        sizes = {"trials": settings["p_trials"], "times": len(scanned)}
        check_arrays(arrays, schema, path, remedy, **sizes)
        check_scanned(arrays, scanned, path, remedy)
    except UserError as error:
        print(f"left out: {error}", flush=True)
        return {}
    return arrays
