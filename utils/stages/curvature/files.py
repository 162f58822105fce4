"""curvature/CLASS/K.npz: what run_curvature.py writes. docs/formats.md has the table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import parse_args

KEYS = {  # and the kind of their numbers
    "t": "i",
    "eigenvalues": "f",
    "residuals": "f",
    "trace": "f",
    "trace-error": "f",
    "asymmetry": "f",
    "flat": "i",
    "flipd": "f",
    "flipd-error": "f",
    "normal-bundle": "i",
    "critical-time": "i",
    "censored": "b",
}
REMEDY = "run run_curvature.py again with --overwrite"
UNKNOWN = -1  # of flat, normal_bundle and critical_time


@dataclass(frozen=True)
class Curvature:
    """Curvature of -log p_t at n samples and T' times t (int64 [T'], each once).

    Float64: eigenvalues of the Hessian H ascending [n, T', m], all m = D of them or the m / 2
    smallest and largest, and the norms |H u - lambda u| of their vectors u (0 where all were
    computed); trace of H, its standard error and |A|_F / |J|_F in 0 .. 1 [n, T']; flipd and its
    standard error [n, T'].
    Int64, -1 where not known: flat, the flat directions, and normal_bundle, the dimension by the
    normal bundle [n, T']; critical_time [n], with censored bool [n]."""

    t: np.ndarray
    eigenvalues: np.ndarray
    residuals: np.ndarray
    trace: np.ndarray
    trace_error: np.ndarray
    asymmetry: np.ndarray
    flat: np.ndarray
    flipd: np.ndarray
    flipd_error: np.ndarray
    normal_bundle: np.ndarray
    critical_time: np.ndarray
    censored: np.ndarray
    args: dict[str, Any]

    @property
    def dim(self) -> int:
        """D, the values of one image."""
        return dim_of(self.args)

    @property
    def full(self) -> bool:
        """Whether every eigenvalue is there, not both ends alone."""
        return self.eigenvalues.shape[2] == self.dim

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """(1 - alpha_bar_t) times values [n, T', ...]: 1 is then what noise alone gives."""
        from models.schedule import Schedule

        schedule = Schedule(self.args["train"]["timesteps"])
        noise = 1 - schedule.alpha_bar.numpy()[self.t]  # [T']
        return values * noise.reshape(-1, *[1] * (values.ndim - 2))


def dim_of(args: dict[str, Any]) -> int:
    """D = C H W of the model that args tell of."""
    return args["model"]["in_channels"] * args["model"]["image_size"] ** 2


def save_curvature(path: Path, found: Curvature) -> None:
    arrays = {key: getattr(found, key.replace("-", "_")) for key in KEYS}
    save_npz(path, **arrays, args=json.dumps(found.args))


def load_curvature(path: Path) -> Curvature:
    """curvature/CLASS/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path, (*KEYS, "args"))
    args = parse_args(arrays, path)
    _check_shapes(arrays, dim_of(args), path)
    values = {key.replace("-", "_"): arrays[key] for key in KEYS}
    found = Curvature(**values, args=args)
    _check_values(found, path)
    return found


def _check_shapes(arrays: dict[str, np.ndarray], dim: int, path: Path) -> None:
    """Raises UserError where the arrays do not fit together."""
    n, times = len(np.atleast_1d(arrays["critical-time"])), arrays["t"].size
    m = arrays["eigenvalues"].shape[-1] if arrays["eigenvalues"].ndim == 3 else 0
    of_key = {"t": (times,), "critical-time": (n,), "censored": (n,)}
    of_key |= dict.fromkeys(("eigenvalues", "residuals"), (n, times, m))
    for key, kind in KEYS.items():
        wanted, array = of_key.get(key, (n, times)), arrays[key]
        if array.dtype.kind != kind or array.shape != wanted or not array.size:
            raise UserError(path, f"{key} {array.dtype} {list(array.shape)}", REMEDY)
        if not np.isfinite(array).all():
            raise UserError(path, f"{key} with NaN or infinite values", REMEDY)
    if m > dim or (m < dim and m % 2):
        raise UserError(path, f"{m} eigenvalues of {dim}", REMEDY)


def _check_values(found: Curvature, path: Path) -> None:
    """Raises UserError where a number is none that this stage can have written."""
    t, timesteps = found.t, found.args["train"]["timesteps"]
    if t.min() < 0 or t.max() >= timesteps or len(np.unique(t)) != len(t):
        raise UserError(path, f"times t that are not of 0 to {timesteps - 1}, each once", REMEDY)
    if not (np.diff(found.eigenvalues, axis=2) >= 0).all():
        raise UserError(path, "eigenvalues that do not ascend", REMEDY)
    ranges = {
        "residuals": (0, np.inf),
        "trace_error": (0, np.inf),
        "flipd_error": (0, np.inf),
        "asymmetry": (0, 1),
        "flat": (UNKNOWN, found.dim),
        "normal_bundle": (UNKNOWN, found.dim),
        "critical_time": (UNKNOWN, timesteps - 1),
    }
    for name, (low, high) in ranges.items():
        values = getattr(found, name)
        if values.min() < low or values.max() > high:
            raise UserError(path, f"{name.replace('_', '-')} outside {low} to {high}", REMEDY)
