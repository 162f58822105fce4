"""dists/K.npz."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.choices import METRIC_NAMES
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import parse_args

DISTANCE_KEYS = ("data-dists", "data-indices", "synth-dists", "synth-indices")


@dataclass(frozen=True)
class Distances:
    """dists/K.npz: distances float32 [N, k] ascending and the neighbours' indices int64 [N, k].

    `metric` is l2 or lpips (or another of METRIC_NAMES), `network` the name that --network had,
    `subset` the training subset's fingerprint."""

    arrays: dict[str, np.ndarray]
    metric: str
    network: str
    subset: str
    args: dict[str, Any]

    @property
    def metric_name(self) -> str:
        """A name in METRIC_NAMES."""
        return "l2" if self.metric == "l2" else self.network


def save_dists(path: Path, distances: Distances) -> None:
    save_npz(
        path,
        **distances.arrays,
        args=json.dumps(distances.args),
        metric=distances.metric,
        network=distances.network,
        subset=distances.subset,
    )


def load_dists(path: Path) -> Distances:
    """dists/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path)
    wanted = (*DISTANCE_KEYS, "args", "metric", "network", "subset")
    missing = [key for key in wanted if key not in arrays]
    if missing:
        raise UserError(path, f"no {missing[0]!r}", "give the folder that run_distances.py wrote")
    args = parse_args(arrays, path)
    values = {key: arrays[key] for key in DISTANCE_KEYS}
    n = len(values["data-dists"]) if values["data-dists"].ndim else 0
    for kind, images in (("data", args["train"]["train_size"]), ("synth", n)):
        dists, indices = values[f"{kind}-dists"], values[f"{kind}-indices"]
        sound = dists.ndim == 2 and dists.shape == indices.shape and len(dists) == n > 0
        # An array without columns may claim any number of rows; one sample has no other one.
        sound = sound and (dists.shape[1] > 0 or (kind == "synth" and n == 1))
        if not sound or dists.dtype.kind != "f" or indices.dtype.kind != "i":
            raise UserError(path, f"{kind}-dists of a wrong shape or type", "make it again")
        if not (np.isfinite(dists).all() and (dists >= 0).all()):
            raise UserError(path, f"{kind}-dists with NaN or negative values", "make it again")
        if not (dists[:, 1:] >= dists[:, :-1]).all():
            raise UserError(path, f"{kind}-dists that do not ascend", "make it again")
        if not ((indices >= 0) & (indices < images)).all():
            raise UserError(path, f"{kind}-indices outside 0 to {images - 1}", "make it again")
    words = {key: str(arrays[key]) for key in ("metric", "network", "subset")}
    if words["metric"] not in METRIC_NAMES.values():
        raise UserError(f"{path}: metric", words["metric"], "make it again")
    return Distances(values, **words, args=args)
