"""dists/K.npz: what run_distances.py writes."""

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
from utils.files.schema import Array, check_arrays

DISTANCE_KEYS = ("data-dists", "data-indices", "synth-dists", "synth-indices")


@dataclass(frozen=True)
class Distances:
    """dists/K.npz: distances float32 [N, k] ascending and the neighbours' indices int64 [N, k].

    `metric` is l2, lpips or descriptor, `network` the name of the network, empty for l2,
    `subset` the fingerprint of the training subset."""

    arrays: dict[str, np.ndarray]
    metric: str
    network: str
    subset: str
    args: dict[str, Any]

    @property
    def metric_name(self) -> str:
        """As `MetricOptions.metric_name`."""
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
    remedy = "make it again"
    arrays = read_npz(path, (*DISTANCE_KEYS, "args", "metric", "network", "subset"))
    args = parse_args(arrays, path)
    values = {key: arrays[key] for key in DISTANCE_KEYS}
    n = len(values["data-dists"]) if values["data-dists"].ndim else 0
    schema = {}
    for kind, images in (("data", args["train"]["train_size"]), ("synth", n)):
        # An array without columns may claim any number of rows; a single sample has no other one.
        empty = kind == "synth" and n == 1
        rules = {"axes": ("samples", f"nearest {kind}"), "low": 0, "empty": empty}
        schema[f"{kind}-dists"] = Array("f", ascending=True, **rules)
        schema[f"{kind}-indices"] = Array("i", high=images - 1, **rules)
    check_arrays(values, schema, path, remedy)
    words = {key: str(arrays[key]) for key in ("metric", "network", "subset")}
    if words["metric"] not in METRIC_NAMES.values():
        raise UserError(f"{path}: metric", words["metric"], remedy)
    return Distances(values, **words, args=args)
