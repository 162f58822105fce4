"""Sets of images that stages read: synthetics/K.npz, shards, references (docs/formats.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.cli.errors import UserError
from utils.cli.options.choices import PICTURE_CHANNELS
from utils.cli.options.training import image_shape
from utils.cli.progress import print_once
from utils.data.datasets import to_float
from utils.data.image_files import Form
from utils.data.sources.arrays import SIGNED, Range
from utils.data.sources.by_name import open_source
from utils.data.sources.opened import Opening, parse_layout
from utils.data.sources.scan import scan
from utils.files.arrays import read_npz, save_npz
from utils.files.k_files import k_files, k_named, k_of
from utils.files.provenance import parse_args, read_args
from utils.files.schema import Array, check_arrays
from utils.inputs.training_args import check_said, complete_args, is_complete

MOST_BYTES = 2**62  # kept in memory: all that other stages work on
SIDE_LIMIT = 1 + 1e-3  # images lie in [-1, 1]; rounding may pass it by a hair


@dataclass(frozen=True)
class SampleSet:
    """Images [N, C, H, W] float32 in [-1, 1], and the options of the stages that made them.

    labels: int64 [N], the class that each was drawn for; None where there are none."""

    samples: np.ndarray
    args: dict[str, Any]
    labels: np.ndarray | None = None

    @property
    def k(self) -> int:
        return self.args["train"]["train_size"]


def save_synthetics(
    path: Path, samples: np.ndarray, args: Mapping, labels: np.ndarray | None = None
) -> None:
    """synthetics/K.npz."""
    more = {} if labels is None else {"labels": labels}
    save_npz(path, samples=samples.astype(np.float32, copy=False), **more, args=json.dumps(args))


@dataclass(frozen=True)
class Known:
    """What is known of samples beside their own file.

    args: sections data, train and model, or parts of them. value_range, layout: as --samples-range
    and --samples-layout say. flag: names the folder of samples in errors."""

    args: Mapping[str, Any] = field(default_factory=dict)
    value_range: Range | None = None
    layout: str | None = None
    flag: str = "--synth-path"


def known_of(settings: Any, flag: str, args: Mapping[str, Any] | None = None) -> Known:
    """What the options of a stage (samples_range, samples_layout), and args, say of samples."""
    text = settings.samples_range
    value_range = None if text is None else Range.parse(text, "--samples-range")
    layout = parse_layout(settings.samples_layout, "--samples-layout")
    return Known(args or {}, value_range, layout, flag)


OURS = Known(value_range=SIGNED)  # files that this toolkit has written a moment ago


def sample_files(folder: Path, flag: str, remedy: str, k: int | None = None) -> dict[int, Path]:
    """The sets of samples of a folder by K: K.npz, or a folder K of pictures.

    k: of a file, or a folder of pictures, that is not named by K. Raises UserError (naming flag)
    where there are none, or two sets of one K."""
    folder = Path(folder)
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    folders = {k_of(path): path for path in inside if k_of(path) is not None}
    files = k_named(folder) if folder.is_dir() else {}
    if both := sorted(files.keys() & folders.keys()):
        problem = f"{both[0]}.npz and a folder {both[0]}"
        raise UserError(f"{flag} {folder}", problem, "keep one of them")
    sets = {**files, **folders}
    if not sets and is_one_set(folder):
        if k is not None:
            return {k: folder}
        remedy += "; or say the K of this set by --train-size"
    return {k: sets[k] for k in sorted(sets)} or k_files(folder, ".npz", flag, remedy)


def is_one_set(path: Path) -> bool:
    """Whether a path may be a set of samples itself: a file, or a folder with something in it."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def sample_file(folder: Path, k: int, flag: str, remedy: str) -> Path:
    """The set of one K in a folder, or the folder itself. Raises UserError where there is none."""
    folder = Path(folder)
    named = folder / f"{k}.npz"
    alone = [folder] if is_one_set(folder) and not k_named(folder) else []
    for path in (named, folder / str(k), *alone):
        if path.exists():
            return path
    raise UserError(f"{flag} {named}", "no such file", remedy)


def load_synthetics(path: Path, known: Known | None = None) -> SampleSet:
    """Samples of one K: synthetics/K.npz, an array, or a folder of pictures, from anywhere.

    What the file does not say of its training comes from known. Raises UserError naming what is
    wrong with it, or what must be said."""
    return load_samples(path, known)[0]


def load_samples(
    path: Path, known: Known | None = None
) -> tuple[SampleSet, tuple[int, int] | None]:
    """`load_synthetics`, or identified/CLASS/K.npz with its sizes."""
    known = known or Known()
    arrays = read_npz(path) if path.suffix == ".npz" and path.is_file() else {}
    own = read_args(arrays, path) if "args" in arrays else {}
    if not isinstance(own, Mapping):
        raise UserError(f"{path}: args", "no options", "use another file")
    if not is_complete(own):
        check_said(own, known.args, path)
    if own and "samples" in arrays and arrays["samples"].dtype.kind == "f":
        images = arrays["samples"]
    else:
        images = foreign_images(path, known)
    args = complete_args(own, known.args, path, images.shape[1:])
    in_class = "sizes" in arrays  # a class may well hold bright images alone
    images = check_images(images, args, path, known.value_range or (SIGNED if in_class else None))
    sizes = check_sizes(arrays["sizes"], images, path) if in_class else None
    labels = arrays.get("labels")
    if labels is not None:
        rule = Array("i", (len(images),), low=0)
        check_arrays(arrays, {"labels": rule}, path, "leave them out, or give one for each image")
    return SampleSet(images, args, labels), sizes


def foreign_images(path: Path, known: Known) -> np.ndarray:
    """Images from anywhere: float32 [N, C, H, W] in [-1, 1]. Raises UserError where they are of
    several sizes, or unclear."""
    channels = known.args.get("model", {}).get("in_channels")
    how = Opening("--samples", known.value_range, known.layout, channels=channels)
    source = open_source(path, how)
    width, height, channels = source.first
    square = Form(height, channels, crop=True)
    form = square if width == height else Form(height, channels, width=width)
    images = scan(source, form, keep_bytes=MOST_BYTES)
    others = [f"{w} x {h}" for w, h in images.sizes if (w, h) != (width, height)]
    if others:
        problem = f"images of {width} x {height} and {', '.join(others[:3])}"
        raise UserError(path, problem, "give samples of the model's size")
    print_once(f"{known.flag} {images.describe()}")
    block = images[:]
    return (to_float(block) if block.dtype == torch.uint8 else block).numpy()


def check_images(
    images: np.ndarray,
    args: Mapping,
    path: Path,
    value_range: Range | None = SIGNED,
    flag: str = "--samples-range",
) -> np.ndarray:
    """Images as float32 in [-1, 1]. Raises UserError if there are none, or for a wrong shape or
    range.

    value_range: the values of black and white; None: [-1, 1], and images without a single negative
    value are refused, since they are probably in [0, 1]."""
    shape = image_shape(args["model"])
    if images.dtype.kind != "f" or images.shape[1:] != shape:
        problem = f"samples {images.dtype} {list(images.shape)}"
        remedy = f"give float images [N, {', '.join(map(str, shape))}]"
        raise UserError(path, problem, remedy)
    if not len(images):
        raise UserError(path, "no samples", "generate some")
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        raise UserError(path, "NaN or infinite samples", "draw them again from a sound model")
    if shape[0] not in PICTURE_CHANNELS:
        return images  # latents have no range
    if value_range is None and images.min() >= 0 and images.max() <= SIDE_LIMIT:
        problem = f"samples from {images.min():.3g} to {images.max():.3g}, none below 0"
        remedy = f"say what black and white are: {flag}=0,1 or {flag}=-1,1"
        raise UserError(path, problem, remedy)
    if value_range not in (None, SIGNED):
        low, high = value_range
        images = (2 * (images.astype(np.float64) - low) / (high - low) - 1).astype(np.float32)
    if np.abs(images).max() > SIDE_LIMIT:
        problem = f"samples from {images.min():.3g} to {images.max():.3g}"
        raise UserError(path, problem, "scale them to [-1, 1]")
    return images


def check_sizes(sizes: np.ndarray, samples: np.ndarray, path: Path) -> tuple[int, int]:
    """How many samples are of the most typical, how many of the least typical of their class."""
    whole = sizes.shape == (2,) and sizes.dtype.kind in "iu" and min(sizes) >= 0
    if not whole or sum(map(int, sizes)) != len(samples):
        raise UserError(path, "sizes that do not match samples", "run run_classify.py again")
    return int(sizes[0]), int(sizes[1])


def load_references(
    path: Path, shape: tuple[int, ...], value_range: Range | None = None
) -> np.ndarray:
    """Reference images float32 [R, C, H, W] of a .npz with `samples` ([C, H, W] is one).

    shape: (C, H, W) of the models; value_range: as --ref-range says. Raises UserError for another
    shape, NaN, or another range."""
    images = read_npz(path, ["samples"])["samples"]
    images = images[None] if images.ndim == 3 else images
    names = ("in_channels", "image_size", "image_width")
    model = dict(zip(names, shape, strict=True))
    return check_images(images, {"model": model}, path, value_range, "--ref-range")


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
