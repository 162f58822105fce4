"""The distances of one K on several workers: the part of each, its file, and the merge.

A part is a rectangle of samples x references. It holds squared distances, so that merging
compares what the search compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch

from utils.cli.errors import UserError
from utils.files.arrays import read_npz, save_npz
from utils.files.provenance import check_same, parse_args
from utils.jobs.shares import Share
from utils.metrics.exact_search import merge_nearest

KINDS = ("data", "synth")
KEYS = tuple(f"{kind}-{name}" for kind in KINDS for name in ("squares", "indices"))


@dataclass(frozen=True)
class Part:
    """The samples of `rows` against the references of `columns` (training images, then samples)."""

    rows: range
    columns: range
    n: int  # samples of the K
    k_train: int  # its training images

    @property
    def spans(self) -> list[int]:
        """As its file stores it."""
        rows, columns = self.rows, self.columns
        return [rows.start, rows.stop, columns.start, columns.stop, self.n, self.k_train]


def parts_folder(folder: Path, k: int) -> Path:
    """The folder of the parts of K, for any number of parts."""
    return Path(folder) / "parts" / str(k)


def part_file(folder: Path, k: int, share: Share) -> Path:
    """The file of a share of K until it is merged: `dists/parts/1000/2-of-8/1000.npz`.

    K is in its name, as for every file with args."""
    return parts_folder(folder, k) / f"{share.index}-of-{share.count}" / f"{k}.npz"


def part_of(share: Share, n: int, k_train: int) -> Part:
    """The share's rectangle of n samples x (k_train + n) references.

    Among the grids of r x c = `count` rectangles it is the one whose parts read the fewest
    embeddings, n / r + (k_train + n) / c."""
    count, columns = share.count, k_train + n
    across = min(
        (c for c in range(1, count + 1) if count % c == 0),
        key=lambda c: n * c / count + columns / c,
    )
    down, column = divmod(share.index, across)
    rows = Share(down, count // across).of(n)
    return Part(rows, Share(column, across).of(columns), n, k_train)


def save_part(
    path: Path, part: Part, arrays: Mapping[str, np.ndarray], subset: str, args: Mapping
) -> None:
    """Write the arrays of `nearest_in` for one part."""
    save_npz(
        path,
        **{key: arrays[key] for key in KEYS},
        part=np.array(part.spans, np.int64),
        subset=subset,
        args=json.dumps(args),
    )


def merge_parts(
    folder: Path, k: int, count: int, n: int, args: Mapping, stages: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of `nearest_in` for all of K, and its subset, from the files of all parts.

    Any number of parts gives the arrays that one job gives. Raises UserError where a part is
    missing, or was made from other samples, data, options or another division."""
    k_train = 0  # stored in the parts, so that the data set need not be read
    rows: dict[int, list[dict[str, np.ndarray]]] = {}
    subsets = set()
    for index in range(count):
        path = part_file(folder, k, Share(index, count))
        if not path.exists():
            remedy = f"run the same command with --shard {index}/{count}"
            raise UserError(path, "no such part", remedy)
        arrays = load_part(path, args, stages)
        k_train = k_train or int(arrays["part"][-1])
        part = part_of(Share(index, count), n, k_train)
        if arrays["part"].tolist() != part.spans or len(arrays["data-squares"]) != len(part.rows):
            raise UserError(path, f"another part than {part.spans}", "delete it and run again")
        subsets.add(str(arrays["subset"]))
        if len(subsets) > 1:
            raise UserError(path, "distances to other training images", "delete it and run again")
        rows.setdefault(part.rows.start, []).append(arrays)
    most = args["distances"]["k"]
    keep = {"data": min(most, k_train), "synth": min(most, n - 1)}
    merged: dict[str, list[np.ndarray]] = {key: [] for key in KEYS}
    for start in sorted(rows):
        for kind in KINDS:
            pairs = [
                tuple(torch.from_numpy(part[f"{kind}-{name}"]) for name in ("squares", "indices"))
                for part in rows[start]
            ]
            squares, indices = merge_nearest(pairs, keep[kind])
            merged[f"{kind}-squares"].append(squares.numpy())
            merged[f"{kind}-indices"].append(indices.numpy())
    return {key: np.concatenate(blocks) for key, blocks in merged.items()}, subsets.pop()


def load_part(path: Path, args: Mapping, stages: tuple[str, ...]) -> dict[str, Any]:
    """A part's arrays, checked against the options of this run and the sets' sizes.

    Raises UserError naming what is wrong with it."""
    arrays = read_npz(path, [*KEYS, "part", "subset", "args"])
    check_same(path, parse_args(arrays, path), args, stages)
    if arrays["part"].shape != (6,) or arrays["part"].dtype != np.int64 or arrays["part"][-1] < 1:
        raise UserError(path, "no such part as these stages write", "delete it and run again")
    *_, n, k_train = arrays["part"]
    for kind, size in zip(KINDS, (k_train, n), strict=True):
        squares, indices = arrays[f"{kind}-squares"], arrays[f"{kind}-indices"]
        same_shape = squares.ndim == 2 and squares.shape == indices.shape
        same_shape = same_shape and len(squares) == len(arrays["data-squares"])
        if not same_shape or squares.dtype != np.float32 or indices.dtype != np.int64:
            raise UserError(path, f"{kind} of a wrong shape or type", "delete it and run again")
        if not (squares >= 0).all():  # NaN fails too
            raise UserError(path, f"{kind}-squares below 0 or NaN", "delete it and run again")
        if not ((indices >= 0) & (indices < size))[squares < np.inf].all():
            beyond = f"{kind}-indices beyond the {size} images"
            raise UserError(path, beyond, "delete it and run again")
    return arrays


def remove_parts(folder: Path, k: int) -> None:
    """Delete the parts of a K that is merged, and the folders that this leaves empty."""
    rmtree(parts_folder(folder, k), ignore_errors=True)
    with suppress(OSError):  # other K have parts there
        (Path(folder) / "parts").rmdir()
