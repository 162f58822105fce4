"""The toy's files: the points, and for each K its checkpoints, landscapes and basins.

docs/formats.md has the tables. `args` has a section of options for each command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
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
from utils.files.tensors import load_torch
from utils.inputs.checkpoints import check_fit, checkpoints_in, whole_checkpoints

RADIUS_ERROR = 1e-6  # rounding may move a point this far from radius 1
PUBLISHED_CHECKPOINT = 500_000  # the step that the original toolkit plots


def k_folder(root: Path, k: int) -> Path:
    """The folder with everything of one K."""
    return Path(root) / str(k)


def data_file(root: Path) -> Path:
    return Path(root) / "data.npz"


def checkpoint_file(root: Path, k: int, step: int) -> Path:
    return k_folder(root, k) / "checkpoints" / f"{step}.pt"


def exact_file(root: Path, k: int, options: ToyExactOptions) -> Path:
    return k_folder(root, k) / f"exact-beta{options.beta:g}.npz"


def landscape_file(root: Path, k: int, t: float) -> Path:
    return k_folder(root, k) / f"landscape-t{t:g}.npz"


def basin_file(root: Path, k: int, t: float) -> Path:
    return k_folder(root, k) / f"basins-t{t:g}.npz"


@dataclass(frozen=True)
class Circle:
    """The data set: points [60000, 2] float64, and the args that made them."""

    points: Tensor
    args: dict[str, Any]


def save_points(options: ToyDataOptions) -> None:
    """Write data.npz: 60,000 points of the circle, shuffled; the first K are the subset of K."""
    args = json.dumps(data_args(options))
    save_npz(data_file(options.results_path), points=ordered_points(options).numpy(), args=args)


def data_args(options: ToyDataOptions) -> dict[str, Any]:
    """The options that determine the points."""
    return {"toy_data": {"seed": options.seed, "subset_seed": options.subset_seed}}


def ordered_points(options: ToyDataOptions) -> Tensor:
    """The points [60000, 2] float64, shuffled."""
    points = circle_points(CIRCLE_POINTS, options.seed)
    generator = torch.Generator().manual_seed(options.subset_seed)
    return points[torch.randperm(CIRCLE_POINTS, generator=generator)]


def load_points(root: Path, keep: bool = True) -> Circle:
    """Read data.npz. If it is absent: the points of the default seeds, written if keep.

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
        raise UserError(path, f"points {points.dtype} {list(points.shape)}", remedy)
    if not (np.abs(np.linalg.norm(points, axis=1) - 1) <= RADIUS_ERROR).all():  # NaN too
        raise UserError(path, "points that are not on the circle of radius 1", remedy)
    args = _check_sections(read_args(arrays, path), path, ["toy_data"])
    return Circle(torch.from_numpy(points), args)


def _check_sections(args: Any, path: Path, sections: Iterable[str]) -> dict[str, Any]:
    """args as a dict. Raises UserError if one of the sections is missing."""
    for name in sections:
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
        """16 hex digits that identify the weights."""
        return digest(*(self.model[name].numpy() for name in sorted(self.model)))


def load_checkpoint(path: Path) -> ToyCheckpoint:
    """A checkpoint on the CPU. Raises UserError if it is missing, cut short, not finite, of
    another K than its folder, of another step than its name, or not a network of the toy."""
    path, content = Path(path), load_torch(path)
    names = [field.name for field in fields(ToyCheckpoint)]
    if not isinstance(content, Mapping) or not content.keys() >= set(names):
        raise UserError(path, "no checkpoint of the toy", "give one of `toy_example.py train`")
    try:
        checkpoint = ToyCheckpoint(**{name: content[name] for name in names})
        args = _check_sections(checkpoint.args, path, ["toy_data", "toy_train"])
        model, opt = checkpoint.model, checkpoint.opt
        ScoreNets([0]).load_state_of(0, model)
        trained = {name: value for name, value in model.items() if name != "frequencies"}
        for moments in (opt["exp_avg"], opt["exp_avg_sq"]):
            check_fit(moments, trained)
        tensors = [*model.values(), *opt["exp_avg"].values()]
        if not all(value.isfinite().all() for value in tensors):
            raise ValueError("weights that are not finite")
        k, step = int(args["toy_train"]["k"]), int(checkpoint.iterations)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        found = f"no whole checkpoint of the toy ({error})"
        raise UserError(path, found, "delete it and train again") from error
    if (str(k), step) != (path.parent.parent.name, k_of(path)):
        raise UserError(path, f"a network of K = {k} at step {step}", "put it where it belongs")
    return checkpoint


def usable_checkpoints(root: Path, k: int, args: Mapping) -> dict[int, ToyCheckpoint]:
    """The checkpoints of K that are whole, by step. Raises UserError if options differ."""
    sections = ("toy_data", "toy_train")
    whole = whole_checkpoints(k_folder(root, k), load_checkpoint, args, sections)
    return {checkpoint.iterations: checkpoint for checkpoint in whole}


def pick_checkpoint(root: Path, k: int, step: int | None) -> ToyCheckpoint:
    """The checkpoint of K at a step; None: step 500,000 if there is one, else the newest.

    Raises UserError, listing the steps of K, if it does not exist."""
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


def array(form: str) -> Any:
    """A field for an array, with its kind (f, i, b) and its axes, as in "f N 2".

    A letter is a length, equal for all arrays of the file. "i N <W" are indices below length W."""
    return field(metadata={"form": form})


class ToyArrays:
    """A .npz file of one K: arrays under the names of their fields, and args."""

    args: dict[str, Any]
    sections: ClassVar[Sequence[str]]  # that args must have, besides toy_data

    def save(self, path: Path) -> None:
        arrays = {f.name.replace("_", "-"): getattr(self, f.name) for f in fields(self)}
        save_npz(path, **{**arrays, "args": json.dumps(self.args)})

    @classmethod
    def load(cls, path: Path) -> Any:
        """Raises UserError if path is absent, damaged or another kind of file."""
        keys = {f.name: f.name.replace("_", "-") for f in fields(cls)}
        stored = read_npz(path, keys.values())
        forms = {f.name: f.metadata["form"] for f in fields(cls) if f.name != "args"}
        arrays = {name: stored[keys[name]] for name in forms}
        if problem := misfit(arrays, forms):
            raise UserError(path, problem, "make it again with --overwrite")
        args = _check_sections(read_args(stored, path), path, ["toy_data", *cls.sections])
        return cls(**arrays, args=args)

    @classmethod
    def is_finished(cls, path: Path, args: Mapping) -> bool:
        """Whether path holds this result. Raises UserError if it was made with other options."""
        if not Path(path).exists():
            return False
        check_same(path, cls.load(path).args, args, args)
        return True


def misfit(arrays: Mapping[str, np.ndarray], forms: Mapping[str, str]) -> str | None:
    """The first way in which arrays differ from their forms (`array`), None if they fit."""
    lengths: dict[str, int] = {"2": 2, "3": 3}
    for name, form in forms.items():
        kind, *axes = form.partition(" <")[0].split()
        values = arrays[name]
        if values.dtype.kind != kind or values.ndim != len(axes):
            return f"{name} {values.dtype} {list(values.shape)}"
        for axis, length in zip(axes, values.shape, strict=True):
            if lengths.setdefault(axis, length) != length:
                return f"{name} {list(values.shape)}, beside others of {lengths[axis]}"
        if kind == "f" and not np.isfinite(values).all():
            return f"infinite values or NaN under {name}"
    for name, form in forms.items():
        bound = form.partition(" <")[2]
        if bound and not ((arrays[name] >= 0) & (arrays[name] < lengths[bound])).all():
            return f"{name} outside 0 to {lengths[bound] - 1}"
    return None


@dataclass(frozen=True)
class ExactEnergies(ToyArrays):
    """K/exact-betaB.npz: energies of K patterns and of infinitely many (`ring`), on the square
    of `axis`; rows are y."""

    sections: ClassVar = ("toy_exact",)

    axis: np.ndarray = array("f G")
    energy: np.ndarray = array("f G G")
    ring: np.ndarray = array("f G G")
    patterns: np.ndarray = array("f K 2")
    args: dict[str, Any]


@dataclass(frozen=True)
class Landscape(ToyArrays):
    """K/landscape-tT.npz: p_t of a network and of the exact model, and samples of the network.

    Energies are those of models.circle.exact, on the square of `axis`; rows are y. `basins` has
    the well of each cell. `samples` are points of p_t, `sample-wells` their wells, `settled` the
    points where they come to rest, `clusters` the clusters of these, parted at the distance
    `threshold`. A kind is an index of CLASSES."""

    sections: ClassVar = ("toy_train", "toy_plots")

    axis: np.ndarray = array("f G")
    energy: np.ndarray = array("f G G")
    score: np.ndarray = array("f G G 2")
    exact_energy: np.ndarray = array("f G G")
    basins: np.ndarray = array("i G G <W")
    wells: np.ndarray = array("f W 2")
    well_energies: np.ndarray = array("f W")
    well_kinds: np.ndarray = array("i W <3")
    patterns: np.ndarray = array("f K 2")
    samples: np.ndarray = array("f N 2")
    sample_wells: np.ndarray = array("i N <W")
    settled: np.ndarray = array("f N 2")
    clusters: np.ndarray = array("i N <C")
    threshold: np.ndarray = array("f")
    centres: np.ndarray = array("f C 2")
    centre_energies: np.ndarray = array("f C")
    centre_kinds: np.ndarray = array("i C <3")
    args: dict[str, Any]

    @property
    def sample_kinds(self) -> np.ndarray:
        """The kind of each sample, int64 [N]: that of its well."""
        return self.well_kinds[self.sample_wells]


@dataclass(frozen=True)
class Basins(ToyArrays):
    """K/basins-tT.npz: for each of N points, how much noise it can be recovered from.

    `groups`: 0 pattern, 1 spurious state, 2 point of the circle. `recovery` is the share of
    trials recovered at each of `times`, ascending in (0, 1]; `critical-time` the last time
    before the point first stops being recovered, 0 if at none; `censored`: it was recovered at all
    times; `radius` the mean distance of the noised copies at the critical time; `delta` the
    distance up to which a copy counts as recovered."""

    sections: ClassVar = ("toy_train", "toy_basin")

    points: np.ndarray = array("f N 2")
    groups: np.ndarray = array("i N <3")
    times: np.ndarray = array("f N T")
    recovery: np.ndarray = array("f N T")
    critical_time: np.ndarray = array("f N")
    censored: np.ndarray = array("b N")
    radius: np.ndarray = array("f N")
    delta: np.ndarray = array("f")
    args: dict[str, Any]
