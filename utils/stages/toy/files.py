"""The toy's files: the points, and for each K its checkpoints, landscapes and basins.

docs/formats.md in code, as formats.py is for images. `args` holds a section for each command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.circle.exact import circle_points
from models.circle.score_net import ScoreNets
from utils.cli.errors import UserError
from utils.cli.options.toy import CIRCLE_POINTS, ToyDataOptions, ToyExactOptions
from utils.files.arrays import read_npz, save_npz
from utils.files.k_files import k_of
from utils.files.provenance import check_same, digest, read_args
from utils.files.tensors import load_torch, save_torch
from utils.inputs.checkpoints import checkpoints_in

FORMAT_VERSION = 1
ON_CIRCLE = 1e-6  # how far from radius 1 rounding may take a point
PUBLISHED_CHECKPOINT = 500_000  # the one that the original plots


def k_folder(root: Path, k: int) -> Path:
    """Everything of one K."""
    return Path(root) / str(k)


def data_file(root: Path) -> Path:
    return Path(root) / "data.npz"


def landscape_file(root: Path, k: int, t: float) -> Path:
    return k_folder(root, k) / f"landscape-t{t:g}.npz"


def exact_file(root: Path, k: int, options: ToyExactOptions) -> Path:
    return k_folder(root, k) / f"exact-beta{options.beta:g}.npz"


def basin_file(root: Path, k: int, t: float) -> Path:
    return k_folder(root, k) / f"basins-t{t:g}.npz"


def save_points(options: ToyDataOptions) -> None:
    """data.npz: 60,000 points of the circle, in the order of which each subset is the first K."""
    points = ordered_points(options).numpy()
    args = json.dumps(data_args(options))
    save_npz(data_file(options.results_path), points=points, args=args)


def data_args(options: ToyDataOptions) -> dict[str, Any]:
    """What decides the points; where they lie does not."""
    return {"toy_data": {"seed": options.seed, "subset_seed": options.subset_seed}}


def ordered_points(options: ToyDataOptions) -> Tensor:
    """The points [60000, 2] float64, shuffled."""
    points = circle_points(CIRCLE_POINTS, options.seed)
    generator = torch.Generator().manual_seed(options.subset_seed)
    return points[torch.randperm(CIRCLE_POINTS, generator=generator)]


@dataclass(frozen=True)
class Circle:
    """The data set: points [60000, 2] float64, and the args that made them."""

    points: Tensor
    args: dict[str, Any]


def load_points(root: Path, keep: bool = True) -> Circle:
    """data.npz; where it is absent, the points of the default seeds, which keep also writes.

    Raises UserError naming a fault."""
    path = data_file(root)
    if not path.exists():
        options = ToyDataOptions()
        if keep:
            save_points(replace(options, results_path=Path(root)))
        return Circle(ordered_points(options), data_args(options))
    arrays = read_npz(path, ["points", "args"])
    points, remedy = arrays["points"], "make it again with `toy_example.py data --overwrite`"
    if points.shape != (CIRCLE_POINTS, 2) or points.dtype != np.float64:
        found = f"points {points.dtype} {list(points.shape)}"
        raise UserError(path, found, remedy)
    if not (np.abs(np.linalg.norm(points, axis=1) - 1) <= ON_CIRCLE).all():  # NaN too
        raise UserError(path, "points that are not on the circle of radius 1", remedy)
    return Circle(torch.from_numpy(points), _sections(read_args(arrays, path), path, ["toy_data"]))


def _sections(args: Any, path: Path, needed: Iterable[str]) -> dict[str, Any]:
    for name in needed:
        if not isinstance(args, Mapping) or not isinstance(args.get(name), Mapping):
            raise UserError(path, f"no {name} in args", "give a file that toy_example.py wrote")
    return dict(args)


@dataclass
class ToyCheckpoint:
    """K/checkpoints/ITER.pt: one network of ScoreNets, its Adam state, and its options."""

    model: dict[str, Tensor]
    opt: dict[str, dict[str, Tensor]]  # exp_avg and exp_avg_sq, by the names of the weights
    args: dict[str, Any]
    iterations: int

    @property
    def k(self) -> int:
        return self.args["toy_train"]["k"]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that stand for the weights."""
        return digest(*(self.model[name].numpy() for name in sorted(self.model)))


def checkpoint_file(root: Path, k: int, step: int) -> Path:
    return k_folder(root, k) / "checkpoints" / f"{step}.pt"


def save_checkpoint(root: Path, checkpoint: ToyCheckpoint) -> None:
    path = checkpoint_file(root, checkpoint.k, checkpoint.iterations)
    save_torch(path, {**vars(checkpoint), "format_version": FORMAT_VERSION})


def load_checkpoint(path: Path) -> ToyCheckpoint:
    """A checkpoint on the CPU. Raises UserError where it is missing, cut short, not finite, of
    another K than its folder, of another step than its name, or no network of the toy."""
    path, content = Path(path), load_torch(path)
    remedy = "delete it and train again"
    names = {field.name for field in fields(ToyCheckpoint)}
    if not isinstance(content, Mapping) or not names <= content.keys():
        raise UserError(path, "no checkpoint of the toy", "give one of `toy_example.py train`")
    try:
        found = ToyCheckpoint(**{name: content[name] for name in names})
        args = _sections(found.args, path, ["toy_data", "toy_train"])
        ScoreNets([0]).load_state_of(0, found.model)
        for moments in (found.opt["exp_avg"], found.opt["exp_avg_sq"]):
            if any(moments[name].shape != w.shape for name, w in _trained(found.model).items()):
                raise ValueError("opt: shapes that differ from the weights'")
        tensors = [*found.model.values(), *found.opt["exp_avg"].values()]
        if not all(value.isfinite().all() for value in tensors):
            raise ValueError("weights that are not finite")
        k, step = int(args["toy_train"]["k"]), int(found.iterations)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise UserError(path, f"no whole checkpoint of the toy ({error})", remedy) from error
    if (str(k), step) != (path.parent.parent.name, k_of(path)):
        raise UserError(path, f"a network of K = {k} at step {step}", "put it where it belongs")
    return found


def _trained(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in model.items() if name != "frequencies"}


def usable_checkpoints(root: Path, k: int, args: Mapping) -> dict[int, ToyCheckpoint]:
    """The checkpoints of K that are whole, by step. Raises UserError for other options' ones."""
    found = {}
    for path in checkpoints_in(k_folder(root, k)):
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            print(f"left out: {error}", flush=True)
            continue
        check_same(path, checkpoint.args, args, ("toy_data", "toy_train"))
        found[checkpoint.iterations] = checkpoint
    return found


def pick_checkpoint(root: Path, k: int, step: int | None) -> ToyCheckpoint:
    """The checkpoint that is asked for; None: that of step 500,000, or else the newest.

    Raises UserError, with the steps that there are, where it is not there."""
    paths = {k_of(path): path for path in checkpoints_in(k_folder(root, k))}
    if not paths:
        remedy = f"train it first: toy_example.py train --sample_size {k}"
        raise UserError(f"--results-path {root}", f"no checkpoint of K = {k}", remedy)
    if step is None:
        step = PUBLISHED_CHECKPOINT if PUBLISHED_CHECKPOINT in paths else max(paths)
    if step not in paths:
        steps = ", ".join(map(str, sorted(paths)))
        raise UserError("--checkpoint", step, f"choose a step that K = {k} has: {steps}")
    return load_checkpoint(paths[step])


class ToyArrays:
    """What the files of a K have in common: arrays under their fields' names, and args."""

    args: dict[str, Any]
    sections: ClassVar[Sequence[str]]  # of args, that such a file must have
    # Of each array its kind (f, i, b) and its axes: a letter stands for a length, the same
    # everywhere; an integer below a letter's length is an index into what has that length.
    forms: ClassVar[Mapping[str, str]]

    def save(self, path: Path) -> None:
        arrays = {f.name.replace("_", "-"): getattr(self, f.name) for f in fields(self)}
        save_npz(path, **{**arrays, "args": json.dumps(self.args)})

    @classmethod
    def load(cls, path: Path) -> Any:
        """Raises UserError where path is absent, damaged or another kind of file."""
        names = [f.name for f in fields(cls)]
        arrays = read_npz(path, [name.replace("_", "-") for name in names])
        values = {name: arrays[name.replace("_", "-")] for name in names if name != "args"}
        told = misfit(values, cls.forms)
        if told:
            raise UserError(path, told, "make it again with --overwrite")
        args = _sections(read_args(arrays, path), path, ["toy_data", *cls.sections])
        return cls(**values, args=args)

    @classmethod
    def is_finished(cls, path: Path, args: Mapping) -> bool:
        """Whether path holds this; absent is False. Raises UserError for other options' files."""
        if not Path(path).exists():
            return False
        check_same(path, cls.load(path).args, args, args)
        return True


def misfit(arrays: Mapping[str, np.ndarray], forms: Mapping[str, str]) -> str | None:
    """What is wrong with arrays that should have these forms; None where nothing is."""
    lengths: dict[str, int] = {"2": 2, "3": 3}
    for name, form in forms.items():
        kind, *axes = form.partition(" <")[0].split()
        array = arrays[name]
        if array.dtype.kind != kind or array.ndim != len(axes):
            return f"{name} {array.dtype} {list(array.shape)}"
        for axis, length in zip(axes, array.shape, strict=True):
            if lengths.setdefault(axis, length) != length:
                return f"{name} {list(array.shape)}, beside others of {lengths[axis]}"
        if kind == "f" and not np.isfinite(array).all():
            return f"infinite values or NaN under {name}"
    for name, form in forms.items():
        bound = form.partition(" <")[2]
        if bound and not ((arrays[name] >= 0) & (arrays[name] < lengths[bound])).all():
            return f"{name} beyond the {lengths[bound]} that there are"
    return None


@dataclass(frozen=True)
class ExactEnergies(ToyArrays):
    """K/exact-betaB.npz: energies [G, G] of K patterns and of infinitely many (`ring`), on the
    square of `axis` [G], the row being y."""

    sections: ClassVar = ("toy_exact",)
    forms: ClassVar = {"axis": "f G", "energy": "f G G", "ring": "f G G", "patterns": "f K 2"}

    axis: np.ndarray
    energy: np.ndarray
    ring: np.ndarray
    patterns: np.ndarray  # [K, 2]
    args: dict[str, Any]


@dataclass(frozen=True)
class Landscape(ToyArrays):
    """K/landscape-tT.npz: p_t of a network and of the exact model, and the samples in it.

    Energies are those of models.circle.exact, [G, G] on the square of `axis` [G], the row being y.
    `basins` int64 [G, G] says to which well a place belongs; `samples` are points of p_t [N, 2],
    `sample-wells` int64 [N] theirs, `settled` [N, 2] where they come to rest, `clusters` int64
    [N] the cluster of the settled point. A well or centre has a place [n, 2], an energy [n] and a
    kind int64 [n], an index of verdicts.CLASSES; `threshold` is the distance of the clusters."""

    sections: ClassVar = ("toy_train", "toy_plots")
    forms: ClassVar = {
        **{"axis": "f G", "energy": "f G G", "score": "f G G 2", "exact_energy": "f G G"},
        **{"wells": "f W 2", "well_energies": "f W", "well_kinds": "i W <3", "patterns": "f K 2"},
        **{"basins": "i G G <W", "samples": "f N 2", "sample_wells": "i N <W"},
        **{"settled": "f N 2", "clusters": "i N <C", "threshold": "f"},
        **{"centres": "f C 2", "centre_energies": "f C", "centre_kinds": "i C <3"},
    }

    axis: np.ndarray
    energy: np.ndarray
    score: np.ndarray  # [G, G, 2]
    exact_energy: np.ndarray
    basins: np.ndarray
    wells: np.ndarray
    well_energies: np.ndarray
    well_kinds: np.ndarray
    patterns: np.ndarray  # [K, 2]
    samples: np.ndarray
    sample_wells: np.ndarray
    settled: np.ndarray
    clusters: np.ndarray
    threshold: np.ndarray
    centres: np.ndarray
    centre_energies: np.ndarray
    centre_kinds: np.ndarray
    args: dict[str, Any]


@dataclass(frozen=True)
class Basins(ToyArrays):
    """K/basins-tT.npz: points [n, 2], what they are, and how much noise they survive.

    `groups` int64 [n]: 0 pattern, 1 spurious state, 2 point of the circle. `recovery` [n, T'] is
    the share of trials recovered at each of `times` [n, T'], ascending in (0, 1]; `critical-time`
    the last time before the point stops, 0 where it never lived; `censored`: it lived at the
    last; `radius` the mean distance of the noised copies there; `delta` the threshold."""

    sections: ClassVar = ("toy_train", "toy_basin")
    forms: ClassVar = {
        **{"points": "f N 2", "groups": "i N <3", "times": "f N T", "recovery": "f N T"},
        **{"critical_time": "f N", "censored": "b N", "radius": "f N", "delta": "f"},
    }

    points: np.ndarray
    groups: np.ndarray
    times: np.ndarray
    recovery: np.ndarray
    critical_time: np.ndarray
    censored: np.ndarray
    radius: np.ndarray
    delta: np.ndarray
    args: dict[str, Any]
