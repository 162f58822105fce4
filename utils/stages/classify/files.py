"""identified/CLASS/K.npz."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import parse_args
from utils.inputs.samples import SIDE_LIMIT, _check_sizes, check_images


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


def save_identified(path: Path, found: Identified) -> None:
    save_npz(
        path,
        samples=found.samples,
        k=found.k,
        sizes=np.array(found.sizes, np.int64),
        indices=found.indices.astype(np.int64),
        args=json.dumps(found.args),
        **{"train-nns": found.train_nns, "synth-nns": found.synth_nns},
    )


def load_identified(path: Path) -> Identified:
    """identified/CLASS/K.npz, checked. Raises UserError naming what is wrong with it."""
    keys = ("samples", "train-nns", "synth-nns", "k", "sizes", "indices", "args")
    arrays = read_npz(path, keys)
    args = parse_args(arrays, path)
    samples = check_images(arrays["samples"], args, path)
    sizes, k, indices = _check_sizes(arrays["sizes"], samples, path), arrays["k"], arrays["indices"]
    remedy = "run run_classify.py again with --overwrite"
    if k.shape or k.dtype.kind not in "iu" or k < 1:
        raise UserError(f"{path}: k", f"{k.dtype} {list(k.shape)}, or none", remedy)
    if indices.shape != (len(samples),) or indices.dtype.kind not in "iu" or indices.min() < 0:
        raise UserError(path, "indices that do not match samples", remedy)
    for key in ("train-nns", "synth-nns"):
        images = arrays[key]
        shaped = images.ndim == 5 and images.shape[1] <= k
        shaped = shaped and (len(images), *images.shape[2:]) == samples.shape
        if not shaped or images.dtype.kind != "f":
            raise UserError(path, f"{key} {images.dtype} {list(images.shape)}", remedy)
        if not (np.abs(images) <= SIDE_LIMIT).all():  # NaN too
            raise UserError(path, f"{key} that are no images in [-1, 1]", remedy)
    nns = (arrays[key].astype(np.float32, copy=False) for key in ("train-nns", "synth-nns"))
    return Identified(samples, *nns, int(k), sizes, indices, args)
