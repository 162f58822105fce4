"""What a file of these stages or of the original toolkit is, in one screen.

    python -m utils.describe models/64.pt
    python -m utils.describe identified/spurious/64.npz --grid spurious-64.png

Says of a .pt or .npz its kind, K, data set, options, shapes and ranges; --grid draws its samples.
Nothing in the file is executed."""

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

# The keys that tell a kind of .npz, the more telling first.
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
SHOWN_IMAGES = 64


def run(options: DescribeStage) -> None:
    """Print what the file is; with --grid, also draw its samples."""
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
    """Lines that say what a file is, and its images [N, C, H, W] where it has such.

    Raises UserError where the file is missing, cut short, of another kind or hostile."""
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
    ours = "format_version" in content
    if "toy_train" in args:
        lines = [f"{path}: a network of the toy circle (K/checkpoints/ITER.pt)"]
        lines += told_args(args, ("toy_data", "toy_train"))
    else:
        found = load_checkpoint(path)
        kind = "a checkpoint" if ours else "a checkpoint of the original toolkit"
        lines = [f"{path}: {kind}, {size_of(path)}"]
        lines += origin(found.args) + told_args(found.args, ("data", "train", "model"))
        lines.append(f"fingerprint of the averaged weights: {found.fingerprint}")
    lines.append(f"steps: {content.get('iterations', 'not said')}")
    for name in ("model", "ema"):
        if isinstance(content.get(name), Mapping):
            lines.append(told_weights(path, name, content[name]))
    return lines


def told_weights(path: Path, name: str, state: Mapping[str, Any]) -> str:
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
    kind = next((told for key, told in NPZ_KINDS.items() if key in arrays), "arrays")
    lines = [f"{path}: {kind}, {size_of(path)}"]
    if "args" in arrays:
        args = read_args(arrays, path)
        if isinstance(args, Mapping) and "train" in args:
            args = resolve_args(args, path)
            lines += origin(args)
        if isinstance(args, Mapping):
            lines += told_args(args, args)
    lines += [told_array(key, array) for key, array in arrays.items() if key != "args"]
    samples = arrays.get("samples")
    images = samples is not None and samples.ndim == 4 and samples.dtype.kind == "f"
    return lines, samples if images and len(samples) else None


def told_array(key: str, array: np.ndarray) -> str:
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


def origin(args: Mapping[str, Any]) -> list[str]:
    """What the images or weights come from."""
    data, train, model = (args[name] for name in ("data", "train", "model"))
    side, channels = model["image_size"], model["in_channels"]
    colours = {1: "grey", 3: "colour"}[channels]
    trained = f"K = {train['train_size']} of {data['data_name']}, seed {train['global_seed']}"
    return [f"{trained}, {side} x {side} {colours}"]


def told_args(args: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """One line a section: the options that differ from our defaults, or all of an unknown one."""
    from utils.files.provenance import differing

    lines = []
    for name in names:
        if isinstance(args[name], Mapping):
            told = [f"{key}={value}" for key, value in differing(name, args[name]).items()]
            lines.append(f"{name}: {' '.join(told) or 'defaults'}")
    return lines


def size_of(path: Path) -> str:
    """`size_of` a file of 1,234,567 bytes is `1.2 MB`."""
    return f"{path.stat().st_size / 1e6:.1f} MB"


def main(arguments: list[str]) -> None:
    # the path alone is enough to type
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--path", *arguments]
    run_stage(run, DescribeStage, __doc__ or "", arguments, "python -m utils.describe")


if __name__ == "__main__":
    main(sys.argv[1:])
