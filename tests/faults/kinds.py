"""Kinds of files: how each is read, what a correct answer is, and the stage that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.helpers.images import random_images
from tests.helpers.runs import train_options
from tests.helpers.sandbox import run_stage, work
from utils.data.datasets import load_image_set
from utils.figures.images import image_grid
from utils.files.training_log import TrainingLog, read_stats
from utils.inputs.checkpoints import denoiser_of, load_checkpoint
from utils.inputs.samples import load_references, load_samples, load_shard, load_synthetics
from utils.metrics.cache import Embedded, EmbeddingCache
from utils.stages.classify import summary
from utils.stages.classify.files import (
    Judged,
    JudgedDistances,
    load_identified,
    load_judged,
    read_summary,
)
from utils.stages.classify.held_out import HeldOut
from utils.stages.critical_times.files import load_times, load_unfinished
from utils.stages.critical_times.overview import show_times
from utils.stages.critical_times.search import Answer
from utils.stages.curvature.files import load_curvature
from utils.stages.curvature.overview import show_curvature
from utils.stages.distances.files import load_dists
from utils.stages.distances.parts import load_part
from utils.stages.energy.files import load_energies
from utils.stages.energy.overview import show_energies
from utils.stages.generalization.files import load_arrays, load_measured
from utils.stages.generalization.overview import show_generalization
from utils.stages.machines.files import load_arrays as load_compared
from utils.stages.machines.files import load_result
from utils.stages.machines.overview import machine_rows, show_machines
from utils.stages.toy.files import Basins, ExactEnergies, Landscape, load_points
from utils.stages.toy.files import load_checkpoint as load_toy_checkpoint
from utils.stages.toy.overview import summary_of
from utils.stages.train import stage as train
from utils.stages.train.figures import loss_figure
from utils.to_diffusers import convert

DIM = 6


# What an answer must be, whatever the file was.


def sound_images(images: np.ndarray, shape=(1, 8, 8)) -> None:
    assert images.dtype == np.float32 and images.shape[1:] == shape and len(images)
    assert np.isfinite(images).all() and np.abs(images).max() <= 1.001


def sound_args(args: dict) -> None:
    assert all(isinstance(args[name], dict) for name in ("data", "train", "model"))
    json.dumps(args)


def sound_samples(result) -> None:
    sound_images(result.samples)
    sound_args(result.args)


def sound_shard(result) -> None:
    samples, seeds = result
    sound_samples(samples)
    assert seeds.shape == (len(samples.samples),) and seeds.min() >= 0
    assert len(set(seeds.tolist())) == len(seeds)


def sound_dists(result) -> None:
    n, k = len(result.arrays["data-dists"]), result.args["train"]["train_size"]
    assert 0 < n < 10**6 and result.metric in ("l2", "lpips")
    for kind, most in (("data", k), ("synth", n)):
        dists, indices = result.arrays[f"{kind}-dists"], result.arrays[f"{kind}-indices"]
        assert dists.dtype.kind == "f" and indices.dtype.kind == "i"
        assert dists.shape == indices.shape == (n, dists.shape[1]) and dists.shape[1] >= 1
        assert (dists >= 0).all() and np.isfinite(dists).all()
        assert (np.diff(dists, axis=1) >= 0).all()
        assert (indices >= 0).all() and (indices < most).all()


def sound_part(result) -> None:
    for kind in ("data", "synth"):
        squares = result[f"{kind}-squares"]
        assert squares.dtype == np.float32 and (squares >= 0).all() and len(squares) < 10**6
        torch.from_numpy(result[f"{kind}-indices"])


def sound_identified(result) -> None:
    sound_samples(result)
    n = len(result.samples)
    assert result.indices.shape == (n,) and (result.indices >= 0).all()
    assert sum(result.sizes) == n and min(result.sizes) >= 0 and result.k >= 1
    for nns in (result.train_nns, result.synth_nns):
        assert nns.shape[:1] + nns.shape[2:] == (n, 1, 8, 8) and nns.shape[1] <= result.k
        assert nns.dtype == np.float32 and np.isfinite(nns).all()


def sound_times(result) -> None:
    n, trials = result.time.shape
    assert result.radius.shape == (n, trials) and result.recovery.shape == (n, len(result.scanned))
    assert (np.diff(result.scanned) > 0).all() and result.scanned[0] >= 1
    assert np.isin(result.critical_time, [0, *result.scanned]).all()
    assert np.isin(result.time, [-1, 0, *result.scanned]).all()
    known = result.recovery[~np.isnan(result.recovery)]
    assert (known >= 0).all() and (known <= 1).all() and 0 <= result.delta < np.inf
    assert np.isfinite(result.radius).all() and (result.radius >= 0).all()
    assert np.array_equal(np.isnan(result.trial_radius), result.time < 0)
    assert not (result.trial_radius < 0).any() and not np.isinf(result.trial_radius).any()


def sound_energies(result) -> None:
    assert result.potential.shape == result.difference.shape
    assert np.isfinite(result.potential).all() and np.isfinite(result.difference).all()


def sound_curvature(result) -> None:
    n, times = result.trace.shape
    assert result.eigenvalues.shape[:2] == (n, times) and (np.diff(result.eigenvalues) >= 0).all()
    assert np.isfinite(result.trace).all() and result.t.shape == (times,)


def sound_measured(result) -> None:
    for one in result.findings.values():
        assert np.isfinite([one.low, one.high]).all() and one.low <= one.value <= one.high
    assert set(result.times) == {"collapse", "speciation"}


def sound_arrays(result) -> None:
    assert np.isfinite(result["train-loss"]).all() and len(result["train-loss"]) == len(result["t"])


def sound_result(result) -> None:
    list(machine_rows({8: result}))
    for one in result.entries:
        assert one.best is None or one.best in result.machines
        for weight, _, _ in one.mixture.values():
            assert not weight < -0.001 and not weight > 1.001


def sound_compared(result) -> None:
    assert np.isfinite(result["seed-network"]).all()
    assert result["seed-machines"].shape[1:] == result["seed-network"].shape


def sound_summary(result) -> None:
    row = result["row"]
    assert type(row["K"]) is int and type(row["N"]) is int and isinstance(result["args"], dict)
    for name in ("memorized", "spurious", "generalized"):
        assert 0 <= row[name] <= row["N"]
        assert 0 <= row[f"{name}_low"] <= 1 and 0 <= row[f"{name}_high"] <= 1
    real = HeldOut(np.ones((0, 2)), np.ones((0, 1)), 0)
    distances = JudgedDistances(np.ones((1, 2)), np.ones(1), real)
    summary.table([Judged(row, result["args"], distances)])


def sound_judged(result) -> None:
    own, real = result.distances, result.distances.real
    assert len(own.near) == len(own.neighbours) == result.row["N"]
    near, within = real.control
    assert len(near) == len(within) and np.isfinite(real.near).all() and (within >= 0).all()


def judged_of(path):
    """summary/8.json with the arrays in path beside it."""
    return load_judged(path.with_suffix(".json"))


def sound_checkpoint(result) -> None:
    for state in (result.model, result.ema):
        assert state and all(value.isfinite().all() for value in state.values())
        assert sum(value.numel() for value in state.values()) < 10**7
    assert type(result.iterations) is int
    sound_args(result.args)


def sound_stats(rows) -> None:
    loss_figure({8: rows})
    assert all(0 <= row["step"] < 2**63 for row in rows)


def sound_toy_checkpoint(result) -> None:
    assert type(result.iterations) is int and type(result.k) is int
    for state in (result.model, result.opt["exp_avg"], result.opt["exp_avg_sq"]):
        assert all(value.isfinite().all() for value in state.values())


def sound_landscape(result) -> None:
    summary_of(2, 0.15, result)
    assert np.isfinite(result.energy).all() and np.isfinite(result.samples).all()


def sound_basins(result) -> None:
    assert result.times.shape == result.recovery.shape and len(result.points) == len(result.groups)
    assert ((result.groups >= 0) & (result.groups <= 2)).all()


def sound_exact(result) -> None:
    side = len(result.axis)
    assert result.energy.shape == result.ring.shape == (side, side)


# The kinds of files: who reads them, and which stage's run meets them.


def embed(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).float()[:, :DIM] / 7


def from_cache(path: Path) -> torch.Tensor:
    cache = EmbeddingCache(path.parent, DIM, embed)
    result = (
        Embedded(random_images(8), embed, DIM, torch.device("cpu"), 4, cache).read(range(8)).clone()
    )
    assert torch.equal(result, embed(random_images(8))), "an embedding of another image"
    return result


def stats_of(path: Path) -> list[dict]:
    folder = path.parent.parent
    TrainingLog(folder, 4).write(step=5, loss=0.5)
    return read_stats(folder)


def with_network(path: Path):
    result = load_checkpoint(path)
    denoiser_of(result, path, torch.device("cpu"))
    return result


def unfinished_of(path: Path) -> dict:
    args = load_times(path.parents[1] / "8.npz").args
    keys = [*Answer.__dataclass_fields__, "image"]
    result = load_unfinished(path, keys, args, ("data", "train", "model", "critical_times"))
    assert len({len(value) for key, value in result.items() if key != "args"}) <= 1
    return result


def part_of(path: Path) -> dict:
    args = load_dists(path.parents[4] / "distances" / "8.npz").args
    return load_part(path, args, ("data", "train", "model", "distances"))


def with_args(path: Path) -> tuple:
    result, _ = load_samples(path)
    assert load_identified(path).args == result.args
    return load_identified(path)


def celebahq(path: Path) -> torch.Tensor:
    return load_image_set("celebahq", path.parent, 8, 3, True).read([0])[0]


def placed(folder: Path, stage: str) -> None:
    (folder / "outs" / stage).rename(folder / "out")


def after(stage: str, *flags: str, without: str = "") -> Callable[[Path], None]:
    """A stage's run that finds its earlier results, but not those that are named."""

    def run(folder: Path) -> None:
        placed(folder, stage)
        if without:
            (folder / "out" / without).unlink()
        work(stage, folder, *flags)

    return run


def merged(folder: Path) -> None:
    placed(folder, "parts")
    work("distances", folder, "--shard", "0/2")


def of_class(folder: Path) -> None:
    work("energy", folder, "--sample-path", "outs/classify/spurious", "--sample-size", "-1")
    shutil.rmtree(folder / "out")
    placed(folder, "classify")
    work("classify", folder)


def trained_on(folder: Path) -> None:
    shutil.rmtree(folder / "models")
    train.run(train_options(folder, "--iterations", 5, "--timesteps", 60))
    sound_checkpoint(load_checkpoint(folder / "models" / "8.pt"))


def shown_times(folder: Path) -> None:
    show_times(folder / "outs" / "critical times")
    after("critical times")(folder)


def shown_energies(folder: Path) -> None:
    show_energies(folder / "outs" / "energy")
    after("energy")(folder)


def shown_curvature(folder: Path) -> None:
    show_curvature(folder / "outs" / "curvature")
    after("curvature")(folder)


def shown_generalization(folder: Path) -> None:
    show_generalization(folder / "outs" / "generalization", None, None)
    after("generalization")(folder)


def shown_machines(folder: Path) -> None:
    show_machines(folder / "outs" / "machines")
    after("machines")(folder)


def sampled(folder: Path) -> None:
    work("generate", folder)
    work("energy", folder, "--sample-path", "s")
    convert(folder / "models" / "8.pt", folder / "diffusers")


TOY = {
    "data": (),
    "exact": ("--sample_size", 2),
    "train": ("--sample_size", 2, "--n_iter", 12, "--sampling_freq", 6, "--global_batch_size", 4),
    "plots": ("--sample_size", 2, "--samples", 20),
    "basin": ("--sample_size", 2, "--points", 2, "--p_trials", 2),
}


def circle(command: str, root: Path) -> None:
    run_stage(f"toy {command}", "--results_path", root, "--device", "cpu", *TOY[command])


def on_circle(*commands: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        for command in commands:
            circle(command, folder / "toy")

    return run


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies, its loader, what an answer must be, a stage that reads it."""

    stage: str
    path: str
    read: Callable[[Path], Any]
    sound: Callable[[Any], None]
    run: Callable[[Path], None] | None


def drawn(images: torch.Tensor) -> None:
    image_grid(images[None].numpy() / 127.5 - 1)


def unchecked(result: Any) -> None:
    """Where whoever reads it has checked the answer."""


references = lambda path: load_references(path, (1, 8, 8))  # noqa: E731
KINDS = {
    "checkpoint": Kind("generate", "models/8.pt", with_network, sound_checkpoint, sampled),
    "checkpoint to go on from": Kind(
        "train", "run/checkpoints/4.pt", load_checkpoint, sound_checkpoint, trained_on
    ),
    "log": Kind("train", "run/logs/stats.jsonl", stats_of, sound_stats, trained_on),
    "shard": Kind(
        *("generate", "outs/generate/shard-3407.npz", load_shard, sound_shard),
        after("generate", without="s/8.npz"),
    ),
    "merged set": Kind(
        *("generate", "outs/generate/s/8.npz", load_synthetics, sound_samples),
        after("generate"),
    ),
    "synthetic set": Kind(
        *("distances", "s/8.npz", load_synthetics, sound_samples),
        lambda folder: work("distances", folder),
    ),
    "part": Kind("distances", "outs/parts/parts/8/1-of-2/8.npz", part_of, sound_part, merged),
    "embeddings": Kind("distances", "cache/BLOCK", from_cache, unchecked, None),
    "distances": Kind(
        *("classify", "d/8.npz", load_dists, sound_dists),
        lambda folder: work("classify", folder),
    ),
    "finished distances": Kind(
        *("distances", "outs/distances/8.npz", load_dists, sound_dists),
        after("distances"),
    ),
    "class": Kind(
        "classify", "outs/classify/spurious/8.npz", with_args, sound_identified, of_class
    ),
    "summary": Kind(
        *("classify", "outs/classify/summary/8.json", read_summary, sound_summary),
        after("classify"),
    ),
    "judged distances": Kind(
        *("classify", "outs/classify/summary/8.npz", judged_of, sound_judged),
        after("classify"),
    ),
    "times": Kind(
        "critical times", "outs/critical times/8.npz", load_times, sound_times, shown_times
    ),
    "unfinished times": Kind(
        *("critical times", "outs/critical times/unfinished/8.npz", unfinished_of, unchecked),
        after("critical times", without="8.npz"),
    ),
    "energies": Kind("energy", "outs/energy/8.npz", load_energies, sound_energies, shown_energies),
    "references": Kind(
        *("energy", "ref.npz", references, sound_images),
        lambda folder: work("energy", folder),
    ),
    "curvature": Kind(
        *("curvature", "outs/curvature/8.npz", load_curvature, sound_curvature, shown_curvature),
    ),
    "findings": Kind(
        *("generalization", "outs/generalization/8.json", load_measured, sound_measured),
        shown_generalization,
    ),
    "errors of denoising": Kind(
        *("generalization", "outs/generalization/8.npz", load_arrays, sound_arrays),
        shown_generalization,
    ),
    "comparison": Kind(
        "machines", "outs/machines/8.json", load_result, sound_result, shown_machines
    ),
    "products and samples": Kind(
        *("machines", "outs/machines/8.npz", lambda path: load_compared(path, 5), sound_compared),
        shown_machines,
    ),
    "points": Kind(
        *("toy", "toy/data.npz", lambda path: load_points(path.parent), unchecked),
        on_circle("data", "exact"),
    ),
    "network": Kind(
        *("toy", "toy/2/checkpoints/12.pt", load_toy_checkpoint, sound_toy_checkpoint),
        on_circle("plots"),
    ),
    "network to go on from": Kind(
        *("toy", "toy/2/checkpoints/6.pt", load_toy_checkpoint, sound_toy_checkpoint),
        lambda folder: on_circle("train")(without_last(folder)),
    ),
    "toy log": Kind("toy", "toy/2/logs/stats.jsonl", stats_of, unchecked, on_circle("train")),
    "exact energies": Kind(
        *("toy", "toy/2/exact-beta20.npz", ExactEnergies.load, sound_exact),
        on_circle("exact"),
    ),
    "landscape": Kind(
        *("toy", "toy/2/landscape-t0.15.npz", Landscape.load, sound_landscape),
        on_circle("plots", "basin"),
    ),
    "basins": Kind(
        *("toy", "toy/2/basins-t0.15.npz", Basins.load, sound_basins),
        on_circle("basin"),
    ),
    "image": Kind("train", "celebahq/1.npy", celebahq, drawn, None),
}


def without_last(folder: Path) -> Path:
    (folder / "toy" / "2" / "checkpoints" / "12.pt").unlink()
    return folder
