"""curvature/CLASS/K.npz: what run_curvature.py writes. docs/formats.md has the table."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.training import image_shape
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import parse_args
from utils.files.schema import Array, check_arrays

REMEDY = "run run_curvature.py again with --overwrite"
UNKNOWN = -1  # of flat, normal_bundle and critical_time
AT_TIMES = ("samples", "times")
SCHEMA = {
    "t": Array("i", ("times",), 0, "last_t", unique=True),
    "eigenvalues": Array("f", (*AT_TIMES, "eigenvalues"), ascending=True),
    "residuals": Array("f", (*AT_TIMES, "eigenvalues"), low=0),
    "trace": Array("f", AT_TIMES),
    "trace-error": Array("f", AT_TIMES, low=0),
    "asymmetry": Array("f", AT_TIMES, 0, 1),
    "flat": Array("i", AT_TIMES, UNKNOWN, "dim"),
    "flipd": Array("f", AT_TIMES),
    "flipd-error": Array("f", AT_TIMES, low=0),
    "normal-bundle": Array("i", AT_TIMES, UNKNOWN, "dim"),
    "critical-time": Array("i", ("samples",), UNKNOWN, "last_t"),
    "censored": Array("b", ("samples",)),
}
KEYS = tuple(SCHEMA)


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
        """Whether all D eigenvalues were computed, not only the smallest and largest."""
        return self.eigenvalues.shape[2] == self.dim

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """(1 - alpha_bar_t) times values [n, T', ...]: noise alone then gives 1."""
        from utils.inputs.training_args import schedule_of

        noise = 1 - schedule_of(self.args).alpha_bar.numpy()[self.t]  # [T']
        return values * noise.reshape(-1, *[1] * (values.ndim - 2))


def dim_of(args: dict[str, Any]) -> int:
    """D = C H W of the model in args."""
    return math.prod(image_shape(args["model"]))


def save_curvature(path: Path, curvature: Curvature) -> None:
    arrays = {key: getattr(curvature, key.replace("-", "_")) for key in SCHEMA}
    save_npz(path, **arrays, args=json.dumps(curvature.args))


def load_curvature(path: Path) -> Curvature:
    """curvature/CLASS/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path, (*SCHEMA, "args"))
    args = parse_args(arrays, path)
    dim = dim_of(args)
    check_arrays(arrays, SCHEMA, path, REMEDY, dim=dim, last_t=args["train"]["timesteps"] - 1)
    m = arrays["eigenvalues"].shape[2]
    if m > dim or (m < dim and m % 2):
        raise UserError(path, f"{m} eigenvalues of {dim}", REMEDY)
    return Curvature(**{key.replace("-", "_"): arrays[key] for key in SCHEMA}, args=args)
