"""The files between the stages: docs/formats.md in code. Each kind has one save_ and one load_."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.choices import METRIC_NAMES
from utils.files.atomic import read_npz, save_npz
from utils.files.provenance import check_same, parse_args

SIDE_LIMIT = 1 + 1e-3  # images lie in [-1, 1]; rounding may pass it by a hair


@dataclass(frozen=True)
class SampleSet:
    """Images [N, C, H, W] float32 in [-1, 1], and the args that tell where they come from."""

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
    """Images as float32, refused where they are empty, of another shape, or not in [-1, 1]."""
    side, channels = args["model"]["image_size"], args["model"]["in_channels"]
    if images.dtype.kind != "f" or images.shape[1:] != (channels, side, side):
        found = f"samples {images.dtype} {list(images.shape)}"
        remedy = f"give float images [N, {channels}, {side}, {side}]"
        raise UserError(path, found, remedy)
    if not len(images):
        raise UserError(path, "no samples", "generate some")
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        raise UserError(path, "NaN or infinite samples", "draw them again from a sound model")
    if np.abs(images).max() > SIDE_LIMIT:
        found = f"samples from {images.min():.3g} to {images.max():.3g}"
        raise UserError(path, found, "scale them to [-1, 1]")
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
    return SampleSet(samples, args), _check_sizes(sizes, samples, path)


def _check_sizes(sizes: np.ndarray, samples: np.ndarray, path: Path) -> tuple[int, int]:
    """How many samples are of the most typical, how many of the least."""
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
    seeds = arrays["seeds"]
    whole = seeds.shape == (len(samples),) and seeds.dtype.kind == "i" and seeds.min() >= 0
    if not whole or len(np.unique(seeds)) != len(seeds):
        raise UserError(path, "seeds that do not match samples", "delete it and run again")
    return SampleSet(samples, args), seeds


DISTANCE_KEYS = ("data-dists", "data-indices", "synth-dists", "synth-indices")


@dataclass(frozen=True)
class Distances:
    """dists/K.npz: distances float32 [N, k] ascending and the neighbours' indices int64 [N, k].

    `metric` is l2 or lpips (or another of METRIC_NAMES), `network` the name that --network had,
    `subset` the training subset's fingerprint."""

    arrays: dict[str, np.ndarray]
    metric: str
    network: str
    subset: str
    args: dict[str, Any]

    @property
    def metric_name(self) -> str:
        """A name in METRIC_NAMES."""
        return "l2" if self.metric == "l2" else self.network


def save_dists(path: Path, distances: Distances) -> None:
    save_npz(
        path,
        **distances.arrays,
        args=json.dumps(distances.args),
        metric=distances.metric,
        network=distances.network,
        subset=distances.subset,
    )


def load_dists(path: Path) -> Distances:
    """dists/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path)
    wanted = (*DISTANCE_KEYS, "args", "metric", "network", "subset")
    missing = [key for key in wanted if key not in arrays]
    if missing:
        raise UserError(path, f"no {missing[0]!r}", "give the folder that run_distances.py wrote")
    args = parse_args(arrays, path)
    values = {key: arrays[key] for key in DISTANCE_KEYS}
    n = len(values["data-dists"]) if values["data-dists"].ndim else 0
    for kind, images in (("data", args["train"]["train_size"]), ("synth", n)):
        dists, indices = values[f"{kind}-dists"], values[f"{kind}-indices"]
        sound = dists.ndim == 2 and dists.shape == indices.shape and len(dists) == n > 0
        # An array without columns may claim any number of rows; one sample has no other one.
        sound = sound and (dists.shape[1] > 0 or (kind == "synth" and n == 1))
        if not sound or dists.dtype.kind != "f" or indices.dtype.kind != "i":
            raise UserError(path, f"{kind}-dists of a wrong shape or type", "make it again")
        if not (np.isfinite(dists).all() and (dists >= 0).all()):
            raise UserError(path, f"{kind}-dists with NaN or negative values", "make it again")
        if not (dists[:, 1:] >= dists[:, :-1]).all():
            raise UserError(path, f"{kind}-dists that do not ascend", "make it again")
        if not ((indices >= 0) & (indices < images)).all():
            raise UserError(path, f"{kind}-indices outside 0 to {images - 1}", "make it again")
    words = {key: str(arrays[key]) for key in ("metric", "network", "subset")}
    if words["metric"] not in METRIC_NAMES.values():
        raise UserError(f"{path}: metric", words["metric"], "make it again")
    return Distances(values, **words, args=args)


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


@dataclass(frozen=True)
class Times:
    """times/K.npz: what n images survive. Times are those of `scanned`, 0 for never.

    time int64 [n, trials], -1 where not followed; critical_time int64 [n]; censored bool [n];
    radius float32 [n, trials]; recovery float32 [n, T'], NaN where not computed; non_monotone
    bool [n]; scanned int64 [T']; delta: up to which distance an image is recovered."""

    time: np.ndarray
    critical_time: np.ndarray
    censored: np.ndarray
    radius: np.ndarray
    recovery: np.ndarray
    non_monotone: np.ndarray
    scanned: np.ndarray
    delta: float
    args: dict[str, Any]

    @property
    def followed(self) -> bool:
        """Whether each trial's own time is known."""
        return bool((self.time >= 0).all())


TIMES_KEYS = ("time", "critical-time", "censored", "radius", "recovery", "non-monotone", "scanned")


def save_times(path: Path, times: Times) -> None:
    arrays = {key: getattr(times, key.replace("-", "_")) for key in TIMES_KEYS}
    save_npz(path, **arrays, delta=times.delta, args=json.dumps(times.args))


def load_times(path: Path) -> Times:
    """times/K.npz, checked. Raises UserError naming what is wrong with it."""
    remedy = "run run_critical_times.py again with --overwrite"
    arrays = read_npz(path, (*TIMES_KEYS, "delta", "args"))
    args = parse_args(arrays, path)
    n, scanned = len(np.atleast_1d(arrays["critical-time"])), arrays["scanned"]
    trials = arrays["time"].shape[-1] if arrays["time"].ndim == 2 else -1
    shapes = ((n, trials), (n,), (n,), (n, trials), (n, scanned.size), (n,), (scanned.size,))
    for key, kind, shape in zip(TIMES_KEYS, "iibffbi", shapes, strict=True):
        if arrays[key].dtype.kind != kind or arrays[key].shape != shape or not arrays[key].size:
            found = f"{key} {arrays[key].dtype} {list(arrays[key].shape)}"
            raise UserError(path, found, remedy)
    if not (np.isfinite(arrays["radius"]).all() and (arrays["radius"] >= 0).all()):
        raise UserError(path, "radius with NaN or negative values", remedy)
    delta = arrays["delta"]
    if delta.shape or delta.dtype.kind not in "iuf" or not 0 <= delta < np.inf:
        raise UserError(path, "a delta that is no distance", remedy)
    if scanned[0] < 1 or not (np.diff(scanned) > 0).all():
        raise UserError(path, "scanned times that do not ascend from 1 or more", remedy)
    values = {key.replace("-", "_"): arrays[key] for key in TIMES_KEYS}
    check_answers(values, scanned, path, remedy)
    return Times(**values, delta=float(delta), args=args)


def check_answers(
    answers: Mapping[str, np.ndarray], scanned: np.ndarray, path: Path, remedy: str
) -> None:
    """Raises UserError where critical_time, time or recovery do not belong to these times."""
    for key, beside in (("critical_time", [0]), ("time", [-1, 0])):
        if not np.isin(answers[key], [*beside, *scanned]).all():
            raise UserError(path, f"{key.replace('_', '-')} that was not scanned", remedy)
    share = answers["recovery"]
    if not ((share >= 0) & (share <= 1) | np.isnan(share)).all():
        raise UserError(path, "recovery outside 0 to 1", remedy)


def save_unfinished(path: Path, arrays: Mapping[str, np.ndarray], args: Mapping) -> None:
    """What is known of a K that is not finished: unfinished/K.npz, removed when it is."""
    save_npz(path, **arrays, args=json.dumps(args))


def load_unfinished(
    path: Path, keys: Iterable[str], args: Mapping, stages: Iterable[str]
) -> dict[str, np.ndarray]:
    """Its arrays; none where there is no such file, or one of other options or not whole."""
    if not path.exists():
        return {}
    try:
        arrays = read_npz(path, [*keys, "args"])
        check_same(path, parse_args(arrays, path), args, stages)
        _check_unfinished(arrays, args, path)
    except UserError as error:
        print(f"left out: {error}", flush=True)
        return {}
    return arrays


def _check_unfinished(arrays: Mapping[str, np.ndarray], args: Mapping, path: Path) -> None:
    """Raises UserError where its rows are not what a run with these args would have written."""
    own, n = args["critical_times"], len(np.atleast_1d(arrays["image"]))
    scanned = np.arange(1, args["train"]["timesteps"], own["stride"])
    wanted = {
        "image": ("U", (n,)),
        "critical_time": ("i", (n,)),
        "censored": ("b", (n,)),
        "non_monotone": ("b", (n,)),
        "time": ("i", (n, own["p_trials"])),
        "recovery": ("f", (n, len(scanned))),
    }
    for key, (kind, shape) in wanted.items():
        if arrays[key].dtype.kind != kind or arrays[key].shape != shape:
            found = f"{key} {arrays[key].dtype} {list(arrays[key].shape)}"
            raise UserError(path, found, "it is made again")
    check_answers(arrays, scanned, path, "it is made again")


@dataclass(frozen=True)
class Energies:
    """energies/K.npz: relative energies float32 [R, n] of n samples against R references.

    difference [R, n]: how far the path integral is from that of half as many points; with the
    exact model, whose potential is the closed form, how far it is from that."""

    potential: np.ndarray
    difference: np.ndarray
    args: dict[str, Any]


def save_energies(path: Path, energies: Energies) -> None:
    arrays = {"potential": energies.potential, "path-difference": energies.difference}
    save_npz(path, **arrays, args=json.dumps(energies.args))


def load_energies(path: Path) -> Energies:
    """energies/K.npz, checked. Raises UserError naming what is wrong with it."""
    arrays = read_npz(path, ("potential", "path-difference", "args"))
    args = parse_args(arrays, path)
    potential, difference = arrays["potential"], arrays["path-difference"]
    sound = potential.ndim == 2 and potential.size and potential.shape == difference.shape
    for key, values in (("potential", potential), ("path-difference", difference)):
        if not sound or values.dtype.kind != "f" or not np.isfinite(values).all():
            found = f"{key} {values.dtype} {list(values.shape)}, or NaN in it"
            raise UserError(path, found, "run run_energy.py again with --overwrite")
    return Energies(potential, difference, args)
