"""What run_classify.py writes: identified/CLASS/K.npz, and summary/K.json with K.npz beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.choices import CLASSES, CUTOFFS
from utils.evidence.image_quality import QUALITY_COLUMNS
from utils.files.arrays import read_npz, save_npz
from utils.files.atomic import read_json, write_json
from utils.files.k_files import k_named
from utils.files.provenance import parse_args
from utils.files.schema import Array, check_arrays
from utils.inputs.samples import SIDE_LIMIT, check_images, check_sizes
from utils.stages.classify.held_out import HeldOut
from utils.stages.classify.verdicts import labels_of

NEIGHBOURS = ("train-nns", "synth-nns")
BOTH = ("calibrated", "ratio")  # criteria of which every row has the shares and their control
CALIBRATION = (  # columns of a Calibration beside its thresholds
    *("references", "held_out", "rank", "error_low", "error_high"),
    *("neighbours", "neighbours_rank"),
)
JUDGED_COLUMNS = (
    *("K", "N", *CLASSES),
    *(f"{name}_{part}" for name in CLASSES for part in ("share", "low", "high", "control")),
    *("spurious_p", "states", "largest_state", "repeated"),
    *("delta_m", "delta_s", "criterion", "metric", *CALIBRATION),
    *(f"{rule}_{name}{end}" for rule in BOTH for name in CLASSES for end in ("", "_control")),
)
# Of a descriptor with published cut-offs: the share at each, and of held-out images.
CUTOFF_COLUMNS = tuple(f"{name}{end}" for name in CUTOFFS for end in ("", "_control"))
OPTIONAL_COLUMNS = (*CUTOFF_COLUMNS, *QUALITY_COLUMNS)
SUMMARY_COLUMNS = (*JUDGED_COLUMNS, *OPTIONAL_COLUMNS)
COUNTS = ("references", "held_out", "rank", "neighbours", "neighbours_rank")
COUNTS += ("states", "largest_state")
SHARES = (
    tuple(
        name
        for name in JUDGED_COLUMNS
        if name.endswith(("_share", "_low", "_high", "_control", "_p", "repeated"))
        or name.startswith(BOTH)
    )
    + CUTOFF_COLUMNS
)
REMEDY = "delete it and run again"


@dataclass(frozen=True)
class Identified:
    """identified/CLASS/K.npz: stored samples of one class with their neighbours' images."""

    samples: np.ndarray  # [n, C, H, W]
    train_nns: np.ndarray  # [n, k, C, H, W]
    synth_nns: np.ndarray  # [n, k, C, H, W]
    k: int
    sizes: tuple[int, int]  # how many are of the most typical, how many of the least
    indices: np.ndarray  # [n], positions in synthetics/K.npz
    args: dict[str, Any]


def save_identified(path: Path, identified: Identified) -> None:
    save_npz(
        path,
        samples=identified.samples,
        k=identified.k,
        sizes=np.array(identified.sizes, np.int64),
        indices=identified.indices.astype(np.int64),
        args=json.dumps(identified.args),
        **{"train-nns": identified.train_nns, "synth-nns": identified.synth_nns},
    )


def load_identified(path: Path) -> Identified:
    """identified/CLASS/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path, ("samples", *NEIGHBOURS, "k", "sizes", "indices", "args"))
    args = parse_args(arrays, path)
    samples = check_images(arrays["samples"], args, path)
    sizes = check_sizes(arrays["sizes"], samples, path)
    n, *shape = samples.shape
    schema = {"k": Array("iu", low=1), "indices": Array("iu", (n,), low=0)}
    for key in NEIGHBOURS:
        schema[key] = Array("f", (n, key, *shape), -SIDE_LIMIT, SIDE_LIMIT, empty=True)
    remedy = "run run_classify.py again with --overwrite"
    check_arrays(arrays, schema, path, remedy)
    k, nns = int(arrays["k"]), [arrays[key].astype(np.float32, copy=False) for key in NEIGHBOURS]
    if max(images.shape[1] for images in nns) > k:
        raise UserError(path, f"more than k = {k} neighbours of a sample", remedy)
    return Identified(samples, *nns, k, sizes, arrays["indices"], args)


@dataclass(frozen=True)
class JudgedDistances:
    """The distances that a K was judged by: near [N, 2] of its samples to the two nearest
    training images ([N, 1] where one is known), neighbours [N] to the nearest other sample
    (infinite for a single one), and those of held-out real images."""

    near: np.ndarray
    neighbours: np.ndarray
    real: HeldOut


@dataclass(frozen=True)
class Judged:
    """What summary/K.json and K.npz tell of one K."""

    row: dict[str, Any]
    args: dict[str, Any]
    distances: JudgedDistances

    @property
    def labels(self) -> np.ndarray:
        """The class of each sample: int8 [N], positions in CLASSES."""
        row, limits = self.row, (self.row["delta_m"], self.row["delta_s"])
        near, neighbours = self.distances.near, self.distances.neighbours
        return labels_of(row["criterion"], limits, row["metric"], near, neighbours)


def save_judged(path: Path, judged: Judged) -> None:
    """K.npz, then K.json, which marks the K as done. path: of K.json."""
    arrays = judged.distances
    save_npz(
        arrays_file(path),
        **{
            "sample-dists": arrays.near,
            # none of a single sample, which has no other one
            "sample-neighbours": arrays.neighbours[np.isfinite(arrays.neighbours)],
            "held-out-dists": arrays.real.near,
            "held-out-neighbours": arrays.real.within,
            "first": np.int64(arrays.real.first),
        },
        args=json.dumps(judged.args),
    )
    write_json(path, {"row": judged.row, "args": judged.args})


def arrays_file(path: Path) -> Path:
    """K.npz beside K.json."""
    return Path(path).with_suffix(".npz")


def read_summary(path: Path) -> dict[str, Any]:
    """summary/K.json: its row of summary.csv, and args. Raises UserError for any other content."""
    summary = read_json(path)
    row = summary.get("row") if isinstance(summary, dict) else None
    if isinstance(row, dict):  # columns that earlier versions did not have are empty
        row = summary["row"] = dict.fromkeys(OPTIONAL_COLUMNS) | row
    if not isinstance(row, dict) or not is_row(row) or not isinstance(summary.get("args"), dict):
        raise UserError(path, "no summary of run_classify.py", REMEDY)
    return summary


def load_judged(path: Path) -> Judged:
    """summary/K.json and K.npz, checked. Raises UserError naming what is wrong with them."""
    summary, file = read_summary(path), arrays_file(path)
    n = summary["row"]["N"]
    rules = {"low": 0, "empty": True}
    schema = {
        "sample-dists": Array("f", (n, "nearest"), low=0, ascending=True),
        "sample-neighbours": Array("f", (n if n > 1 else 0,), **rules),
        "held-out-dists": Array("f", ("images", "nearest real"), ascending=True, **rules),
        "held-out-neighbours": Array("f", ("sets", n), **rules),
        "first": Array("iu", low=0),
    }
    arrays = read_npz(file, (*schema, "args"))
    check_arrays(arrays, schema, file, REMEDY)
    neighbours = arrays["sample-neighbours"] if n > 1 else np.full(1, np.inf, np.float32)
    real = (arrays["held-out-dists"], arrays["held-out-neighbours"], int(arrays["first"]))
    distances = JudgedDistances(arrays["sample-dists"], neighbours, HeldOut(*real))
    return Judged(summary["row"], summary["args"], distances)


def summaries(result: Path) -> list[Path]:
    """The files summary/K.json of a result folder, by K."""
    return list(k_named(result / "summary", ".json").values())


def load_all(result: Path) -> list[Judged]:
    """Every K of a result folder, by K."""
    return [load_judged(path) for path in summaries(result)]


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has the columns of `judge_row`, and values that they may have."""
    if set(row) != set(SUMMARY_COLUMNS):
        return False

    def known(names: Sequence[str]) -> list[Any]:
        return [row[name] for name in names if row[name] is not None]

    counts = [row[name] for name in ("K", "N", *CLASSES)] + known(COUNTS)
    required = [row[f"{name}_{part}"] for name in CLASSES for part in ("share", "low", "high")]
    whole = all(type(n) is int and n >= 0 for n in counts) and min(row["K"], row["N"]) > 0
    whole = whole and sum(row[name] for name in CLASSES) == row["N"]
    shares = [*required, *known(SHARES)]
    whole = whole and all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares)
    numbers = known(QUALITY_COLUMNS)
    whole = whole and all(type(x) in (int, float) and math.isfinite(x) for x in numbers)
    limits = known(("delta_m", "delta_s"))
    whole = whole and all(isinstance(x, (int, float)) and 0 <= x < np.inf for x in limits)
    return whole and all(isinstance(row[name], str) for name in ("criterion", "metric"))
