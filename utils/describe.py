"""Describe a file of these stages or of the original toolkit, on one screen.

    python -m utils.describe models/64.pt
    python -m utils.describe identified/spurious/64.npz --grid spurious-64.png

Prints the kind of a .pt or .npz file, its K, data set, options, shapes and ranges; --grid draws
its samples. Nothing in the file is executed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.main import run_stage
from utils.cli.options.checks import required
from utils.cli.options.sections import DescribeStage

# Kinds of .npz by a key that they have; the first that is there decides.
NPZ_KINDS = {
    "sample-wells": "a landscape of the toy circle (K/landscape-tT.npz)",
    "groups": "basins of the toy circle (K/basins-tT.npz)",
    "ring": "exact energies of the toy circle (K/exact-betaB.npz)",
    "points": "points of the toy circle (data.npz)",
    "train-nns": "samples of one class (identified/CLASS/K.npz)",
    "data-dists": "distances to neighbours (dists/K.npz)",
    "eigenvalues": "curvature (curvature/CLASS/K.npz)",
    "time": "critical times (times/K.npz)",
    "potential": "relative energies (energies/K.npz)",
    "seeds": "a shard of generated images (generations/K/shard-N.npz)",
    "samples": "images (synthetics/K.npz, or references)",
}
CHECKPOINT_OF_ORIGINAL = "a checkpoint of the original toolkit"
MOST_SHOWN = 200  # characters of an option: the names of the images of a folder are more
SHOWN_IMAGES = 64


def run(options: DescribeStage) -> None:
    """Print a description of the file; with --grid, also draw its samples."""
    path, grid = Path(required(options.describe, "path")), options.describe.grid
    lines, samples = describe(path)
    print("\n".join(lines))
    if grid is None:
        return
    if samples is None:
        raise UserError("--grid", f"{path}, which has no images", "leave it out")
    from utils.figures.images import image_grid
    from utils.files.atomic import save_png

    save_png(grid, image_grid(samples[:SHOWN_IMAGES]))
    print(f"wrote {grid}: {min(len(samples), SHOWN_IMAGES)} of {len(samples)} images")


def describe(path: Path) -> tuple[list[str], np.ndarray | None]:
    """Lines that describe a file, and its images [N, C, H, W] if it has any.

    Raises UserError where the file is missing, cut short, of another kind or malicious."""
    if path.suffix == ".pt":
        return describe_checkpoint(path), None
    if path.suffix == ".npz":
        return describe_arrays(path)
    raise UserError(path, f"a file ending in {path.suffix!r}", "give a .pt or a .npz")


def describe_checkpoint(path: Path) -> list[str]:
    """Kind, K, step, options, and the size and range of the weights."""
    from utils.files.pickles import plain
    from utils.files.tensors import load_torch
    from utils.inputs.checkpoints import load_checkpoint

    content = load_torch(path)
    if not isinstance(content, Mapping) or "args" not in content:
        raise UserError(path, "no checkpoint of these stages", "give one of train_unet.py")
    args = plain(content["args"], path)
    if not isinstance(args, Mapping):
        raise UserError(f"{path}: args", args, "give a checkpoint of train_unet.py")
    if "toy_train" in args:
        lines = [f"{path}: a network of the toy circle (K/checkpoints/ITER.pt)"]
        lines += option_lines(args, ("toy_data", "toy_train"))
    else:
        checkpoint = load_checkpoint(path)
        kind = "a checkpoint" if "format_version" in content else CHECKPOINT_OF_ORIGINAL
        lines = [f"{path}: {kind}, {size_of(path)}", origin_line(checkpoint.args)]
        lines += option_lines(checkpoint.args, ("data", "train", "model"))
        lines.append(f"fingerprint of the averaged weights: {checkpoint.fingerprint}")
    lines.append(f"steps: {content.get('iterations', 'not said')}")
    for name in ("model", "ema"):
        if isinstance(content.get(name), Mapping):
            lines.append(weights_line(path, name, content[name]))
    return lines


def weights_line(path: Path, name: str, state: Mapping[str, Any]) -> str:
    """Count and range of a state dict's numbers. Raises UserError where it is none of numbers."""
    import torch

    tensors = [v for v in state.values() if isinstance(v, torch.Tensor) and not v.is_complex()]
    filled = [value for value in tensors if value.numel()]
    named = all(isinstance(key, str) for key in state)
    if not filled or len(tensors) < len(state) or not named:
        raise UserError(f"{path}: {name}", "no state dict of numbers", "copy it or train it again")
    numbers = sum(value.numel() for value in tensors)
    low = min(value.min().item() for value in filled)
    high = max(value.max().item() for value in filled)
    prefix = ", names with module." if next(iter(state)).startswith("module.") else ""
    return f"{name}: {numbers:,} numbers in {len(state)} tensors, {low:.3g} to {high:.3g}{prefix}"


def describe_arrays(path: Path) -> tuple[list[str], np.ndarray | None]:
    """Kind, K, options, and each array's format, shape and range."""
    from utils.files.arrays import read_npz
    from utils.files.provenance import read_args, resolve_args

    arrays = read_npz(path)
    kind = next((kind for key, kind in NPZ_KINDS.items() if key in arrays), "arrays")
    lines = [f"{path}: {kind}, {size_of(path)}"]
    if "args" in arrays:
        args = read_args(arrays, path)
        if isinstance(args, Mapping) and "train" in args:
            args = resolve_args(args, path)
            lines.append(origin_line(args))
        if isinstance(args, Mapping):
            lines += option_lines(args, args)
    lines += [array_line(key, array) for key, array in arrays.items() if key != "args"]
    samples = arrays.get("samples")
    images = samples is not None and samples.ndim == 4 and samples.dtype.kind == "f"
    return lines, samples if images and len(samples) else None


def array_line(key: str, array: np.ndarray) -> str:
    """`samples: float32 [256, 1, 8, 8], -1 to 1`; one value is shown, NaN are counted."""
    if not array.ndim:
        return f"{key}: {array.dtype}, {str(array)[:60]}"
    line = f"{key}: {array.dtype} [{', '.join(map(str, array.shape))}]"
    if array.dtype.kind == "b":
        return f"{line}, {array.sum()} true"
    finite = array[np.isfinite(array)] if array.dtype.kind in "iuf" else array[:0]
    if not finite.size:
        return line
    missing = array.size - finite.size
    line += f", {finite.min():.4g} to {finite.max():.4g}"
    return f"{line}, {missing} not finite" if missing else line


def origin_line(args: Mapping[str, Any]) -> str:
    """The training that the images or weights come from."""
    data, train, model = (args[name] for name in ("data", "train", "model"))
    from utils.cli.options.training import image_shape

    channels, height, width = image_shape(model)
    colours = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    trained = f"K = {train['train_size']} of {data['data_name']}, seed {train['global_seed']}"
    return f"{trained}, {width} x {height} {colours}"


def option_lines(args: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """One line a section: the options that differ from our defaults, or all of an unknown one."""
    from utils.files.provenance import differing

    lines = []
    for name in names:
        if isinstance(args[name], Mapping):
            shown = {key: str(value) for key, value in differing(name, args[name]).items()}
            options = [
                f"{key}={text}" if len(text) <= MOST_SHOWN else f"{key}=({len(text)} characters)"
                for key, text in shown.items()
            ]
            lines.append(f"{name}: {' '.join(options) or 'defaults'}")
    return lines


def size_of(path: Path) -> str:
    """A file's size: `1.2 MB` for 1,234,567 bytes."""
    return f"{path.stat().st_size / 1e6:.1f} MB"


def main(arguments: list[str]) -> None:
    """The command line."""
    # `--path` may be left out.
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--path", *arguments]
    run_stage(run, DescribeStage, __doc__ or "", arguments, "python -m utils.describe")


if __name__ == "__main__":
    main(sys.argv[1:])
