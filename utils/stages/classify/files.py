"""identified/CLASS/K.npz: what run_classify.py writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import parse_args
from utils.files.schema import Array, check_arrays
from utils.inputs.samples import SIDE_LIMIT, check_images, check_sizes

NEIGHBOURS = ("train-nns", "synth-nns")


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
