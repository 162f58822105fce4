"""Sets of images that stages read: synthetics/K.npz, shards, references (docs/formats.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import parse_args
from utils.files.schema import Array, check_arrays

SIDE_LIMIT = 1 + 1e-3  # images lie in [-1, 1]; rounding may pass it by a hair


@dataclass(frozen=True)
class SampleSet:
    """Images [N, C, H, W] float32 in [-1, 1], and the options of the stages that made them."""

    samples: np.ndarray
    args: dict[str, Any]

    @property
    def k(self) -> int:
        return self.args["train"]["train_size"]


def save_synthetics(path: Path, samples: np.ndarray, args: Mapping) -> None:
    """synthetics/K.npz."""
    save_npz(path, samples=samples.astype(np.float32, copy=False), args=json.dumps(args))


def load_synthetics(path: Path) -> SampleSet:
    """synthetics/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path, ["samples", "args"])
    args = parse_args(arrays, path)
    return SampleSet(check_images(arrays["samples"], args, path), args)


def check_images(images: np.ndarray, args: Mapping, path: Path) -> np.ndarray:
    """Images as float32. Raises UserError if there are none, or for a wrong shape or range."""
    side, channels = args["model"]["image_size"], args["model"]["in_channels"]
    if images.dtype.kind != "f" or images.shape[1:] != (channels, side, side):
        problem = f"samples {images.dtype} {list(images.shape)}"
        remedy = f"give float images [N, {channels}, {side}, {side}]"
        raise UserError(path, problem, remedy)
    if not len(images):
        raise UserError(path, "no samples", "generate some")
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        raise UserError(path, "NaN or infinite samples", "draw them again from a sound model")
    if np.abs(images).max() > SIDE_LIMIT:
        problem = f"samples from {images.min():.3g} to {images.max():.3g}"
        raise UserError(path, problem, "scale them to [-1, 1]")
    return images


def load_samples(path: Path) -> tuple[SampleSet, tuple[int, int] | None]:
    """The samples of synthetics/K.npz or identified/CLASS/K.npz, and of the latter its sizes."""
    arrays = read_npz(path)
    missing = [key for key in ("samples", "args") if key not in arrays]
    if missing:
        raise UserError(path, f"no {missing[0]!r}", "give samples as these stages write them")
    args = parse_args(arrays, path)
    samples = check_images(arrays["samples"], args, path)
    sizes = arrays.get("sizes")
    if sizes is None:
        return SampleSet(samples, args), None
    return SampleSet(samples, args), check_sizes(sizes, samples, path)


def check_sizes(sizes: np.ndarray, samples: np.ndarray, path: Path) -> tuple[int, int]:
    """How many samples are of the most typical, how many of the least typical of their class."""
    whole = sizes.shape == (2,) and sizes.dtype.kind in "iu" and min(sizes) >= 0
    if not whole or sum(map(int, sizes)) != len(samples):
        raise UserError(path, "sizes that do not match samples", "run run_classify.py again")
    return int(sizes[0]), int(sizes[1])


def load_references(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reference images float32 [R, C, H, W] of a .npz with `samples` ([C, H, W] is one).

    shape: (C, H, W) of the models. Raises UserError for another one, NaN, or another range."""
    images = read_npz(path, ["samples"])["samples"]
    images = images[None] if images.ndim == 3 else images
    model = {"in_channels": shape[0], "image_size": shape[1]}
    return check_images(images, {"model": model}, path)


def save_shard(path: Path, samples: np.ndarray, seeds: np.ndarray, args: Mapping) -> None:
    """generations/K/shard-FIRSTSEED.npz."""
    save_npz(path, samples=samples, seeds=np.asarray(seeds, np.int64), args=json.dumps(args))


def load_shard(path: Path) -> tuple[SampleSet, np.ndarray]:
    """A shard's images and their seeds [B]."""
    arrays = read_npz(path, ["samples", "seeds", "args"])
    args = parse_args(arrays, path)
    samples = check_images(arrays["samples"], args, path)
    seeds = Array("i", (len(samples),), low=0, unique=True)
    check_arrays(arrays, {"seeds": seeds}, path, "delete it and run again")
    return SampleSet(samples, args), arrays["seeds"]
