"""times/CLASS/K.npz, and the unfinished ones."""

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


@dataclass(frozen=True)
class Times:
    """times/K.npz: what n images survive. Times are those of `scanned`, 0 for never.

    time int64 [n, trials], -1 where not followed; critical_time int64 [n]; censored bool [n];
    radius float32 [n, trials]; recovery float32 [n, T'], NaN where not computed; non_monotone
    bool [n]; scanned int64 [T']; delta: up to which distance an image is recovered."""

    time: np.ndarray
    critical_time: np.ndarray
    censored: np.ndarray
    radius: np.ndarray
    recovery: np.ndarray
    non_monotone: np.ndarray
    scanned: np.ndarray
    delta: float
    args: dict[str, Any]

    @property
    def followed(self) -> bool:
        """Whether each trial's own time is known."""
        return bool((self.time >= 0).all())


TIMES_KEYS = ("time", "critical-time", "censored", "radius", "recovery", "non-monotone", "scanned")


def save_times(path: Path, times: Times) -> None:
    arrays = {key: getattr(times, key.replace("-", "_")) for key in TIMES_KEYS}
    save_npz(path, **arrays, delta=times.delta, args=json.dumps(times.args))


def load_times(path: Path) -> Times:
    """times/K.npz, checked. Raises UserError naming what is wrong with it."""
    remedy = "run run_critical_times.py again with --overwrite"
    arrays = read_npz(path, (*TIMES_KEYS, "delta", "args"))
    args = parse_args(arrays, path)
    n, scanned = len(np.atleast_1d(arrays["critical-time"])), arrays["scanned"]
    trials = arrays["time"].shape[-1] if arrays["time"].ndim == 2 else -1
    shapes = ((n, trials), (n,), (n,), (n, trials), (n, scanned.size), (n,), (scanned.size,))
    for key, kind, shape in zip(TIMES_KEYS, "iibffbi", shapes, strict=True):
        if arrays[key].dtype.kind != kind or arrays[key].shape != shape or not arrays[key].size:
            found = f"{key} {arrays[key].dtype} {list(arrays[key].shape)}"
            raise UserError(path, found, remedy)
    if not (np.isfinite(arrays["radius"]).all() and (arrays["radius"] >= 0).all()):
        raise UserError(path, "radius with NaN or negative values", remedy)
    delta = arrays["delta"]
    if delta.shape or delta.dtype.kind not in "iuf" or not 0 <= delta < np.inf:
        raise UserError(path, "a delta that is no distance", remedy)
    if scanned[0] < 1 or not (np.diff(scanned) > 0).all():
        raise UserError(path, "scanned times that do not ascend from 1 or more", remedy)
    values = {key.replace("-", "_"): arrays[key] for key in TIMES_KEYS}
    check_answers(values, scanned, path, remedy)
    return Times(**values, delta=float(delta), args=args)


def check_answers(
    answers: Mapping[str, np.ndarray], scanned: np.ndarray, path: Path, remedy: str
) -> None:
    """Raises UserError where critical_time, time or recovery do not belong to these times."""
    for key, beside in (("critical_time", [0]), ("time", [-1, 0])):
        if not np.isin(answers[key], [*beside, *scanned]).all():
            raise UserError(path, f"{key.replace('_', '-')} that was not scanned", remedy)
    share = answers["recovery"]
    if not ((share >= 0) & (share <= 1) | np.isnan(share)).all():
        raise UserError(path, "recovery outside 0 to 1", remedy)


def save_unfinished(path: Path, arrays: Mapping[str, np.ndarray], args: Mapping) -> None:
    """What is known of a K that is not finished: unfinished/K.npz, removed when it is."""
    save_npz(path, **arrays, args=json.dumps(args))


def load_unfinished(
    path: Path, keys: Iterable[str], args: Mapping, stages: Iterable[str]
) -> dict[str, np.ndarray]:
    """Its arrays; none where there is no such file, or one of other options or not whole."""
    if not path.exists():
        return {}
    try:
        arrays = read_npz(path, [*keys, "args"])
        check_same(path, parse_args(arrays, path), args, stages)
        _check_unfinished(arrays, args, path)
    except UserError as error:
        print(f"left out: {error}", flush=True)
        return {}
    return arrays


def _check_unfinished(arrays: Mapping[str, np.ndarray], args: Mapping, path: Path) -> None:
    """Raises UserError where its rows are not what a run with these args would have written."""
    own, n = args["critical_times"], len(np.atleast_1d(arrays["image"]))
    scanned = np.arange(1, args["train"]["timesteps"], own["stride"])
    wanted = {
        "image": ("U", (n,)),
        "critical_time": ("i", (n,)),
        "censored": ("b", (n,)),
        "non_monotone": ("b", (n,)),
        "time": ("i", (n, own["p_trials"])),
        "recovery": ("f", (n, len(scanned))),
    }
    for key, (kind, shape) in wanted.items():
        if arrays[key].dtype.kind != kind or arrays[key].shape != shape:
            found = f"{key} {arrays[key].dtype} {list(arrays[key].shape)}"
            raise UserError(path, found, "it is made again")
    check_answers(arrays, scanned, path, "it is made again")
