"""The work of toy_example.py: one function for each command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.circle.exact import PatternMixture, circle_energy
from utils.cli.errors import UserError
from utils.cli.options.run import RunOptions
from utils.cli.options.sections import (
    ToyAllStage,
    ToyBasinStage,
    ToyDataStage,
    ToyExactStage,
    ToyPlotsStage,
    ToyTrainStage,
)
from utils.cli.options.toy import (
    ToyBasinOptions,
    ToyDataOptions,
    ToyExactOptions,
    ToyPlotsOptions,
    ToyTrainOptions,
)
from utils.cli.progress import progress
from utils.files.atomic import check_writable
from utils.files.provenance import check_same, digest
from utils.inputs.checkpoints import remove_training
from utils.jobs.devices import prepare
from utils.jobs.k_jobs import Job, print_plan, work_in_groups, work_through
from utils.stages.toy.analysis import basins_of, landscape_of, network_score, square
from utils.stages.toy.files import (
    Basins,
    Circle,
    ExactEnergies,
    Landscape,
    ToyArrays,
    ToyCheckpoint,
    basin_file,
    checkpoint_file,
    data_args,
    data_file,
    exact_file,
    k_folder,
    landscape_file,
    load_points,
    pick_checkpoint,
    save_points,
    usable_checkpoints,
)
from utils.stages.toy.landscapes import SPURIOUS, places
from utils.stages.toy.overview import (
    show_basins,
    show_data,
    show_exact,
    show_landscapes,
    show_training,
)
from utils.stages.toy.training import FIRST_TIME, Trainer, training_args

COMMAND = "toy_example.py"


def run_data(options: ToyDataStage) -> None:
    """Write data.npz and a picture of it."""
    settings, root = options.toy_data, Path(options.toy_data.results_path)
    path = data_file(root)
    if options.run.dry_run:
        print(f"would write {path}")
        return
    check_writable(root)
    if path.exists() and not options.run.overwrite:
        check_same(path, load_points(root).args, data_args(settings), ["toy_data"])
        print(f"{path} is finished")
    else:
        save_points(settings)
    show_data(root)


def run_exact(options: ToyExactStage) -> None:
    """Write and draw the analytic energies: of infinitely many patterns, and of K of them."""
    settings, run, root = options.toy_exact, options.run, Path(options.toy_exact.results_path)
    device, sizes = pick_device(run), settings.sample_size
    circle, jobs = open_toy(root, run, sizes, lambda k: exact_file(root, k, settings))
    args = {k: {**circle.args, "toy_exact": {"k": k, "beta": settings.beta}} for k in sizes}
    if run.dry_run:
        return

    def is_finished(job: Job) -> bool:
        return ExactEnergies.is_finished(job.target, args[job.k])

    axis = square()
    grid = torch.from_numpy(places(axis)).to(device)
    for job in work_through(jobs, is_finished, run.overwrite):
        patterns = circle.points[: job.k]
        energy = PatternMixture(patterns.to(device)).energy(grid, settings.beta)
        ring = circle_energy(grid.norm(dim=1), settings.beta)
        both = (e.reshape(len(axis), -1).cpu().numpy() for e in (energy, ring))
        ExactEnergies(axis, *both, patterns.numpy(), args[job.k]).save(job.target)
    show_exact(root, settings)


def run_train(options: ToyTrainStage) -> None:
    """Train a network on each K to n_iter steps, or continue from its checkpoints."""
    settings, run, root = options.toy_train, options.run, Path(options.toy_train.results_path)
    device, last_step = pick_device(run), settings.n_iter
    circle, jobs = open_toy(
        root, run, settings.sample_size, lambda k: checkpoint_file(root, k, last_step)
    )
    args = {k: training_args(settings, circle, k) for k in settings.sample_size}
    if run.dry_run:
        return

    def is_finished(job: Job) -> bool:
        return max(usable_checkpoints(root, job.k, args[job.k]), default=0) >= last_step

    # the published batch size depends on K: such networks cannot be stacked
    group_size = 1 if settings.as_published else None
    for group in work_in_groups(jobs, is_finished, run.overwrite, group_size):
        sizes = [job.k for job in group]
        if run.overwrite:
            for k in sizes:
                remove_training(k_folder(root, k))
        trainer = Trainer(root, settings, circle, sizes, device)
        # After a kill one K may be a checkpoint ahead: continue from the last step that all have.
        checkpoints = [usable_checkpoints(root, k, args[k]) for k in sizes]
        common = set.intersection(*map(set, checkpoints))
        start = max((step for step in common if step <= last_step), default=None)
        if start is not None:
            trainer.resume([by_step[start] for by_step in checkpoints])
        trainer.train()
    show_training(root, settings.sample_size)


def run_plots(options: ToyPlotsStage) -> None:
    """Write and draw the landscape of each K's network at a time, its wells and its samples."""
    settings, root = options.toy_plots, Path(options.toy_plots.results_path)
    names = ["t", "samples", "seed", "dynamic_threshold"]
    if not settings.dynamic_threshold:
        names.append("distance_threshold")
    stage_args = {name: getattr(settings, name) for name in names}
    if settings.t < FIRST_TIME:
        print(f"--t {settings.t:g} is before {FIRST_TIME:g}, the earliest time of training")

    def compute(network: ToyCheckpoint, patterns: Tensor, args: dict) -> Landscape:
        return landscape_of(network_score(network, patterns.device), patterns, settings, args)

    if examine(settings, options.run, Landscape, landscape_file, lambda _: stage_args, compute):
        show_landscapes(root, settings.sample_size, settings.t)


def run_basin(options: ToyBasinStage) -> None:
    """Write and draw the basins of patterns, spurious states and points of the circle."""
    settings, root = options.toy_basin, Path(options.toy_basin.results_path)
    names = ("t", "delta", "p_trials", "p", "points", "seed")
    spurious: dict[int, np.ndarray] = {}

    def stage_args(network: ToyCheckpoint) -> dict[str, Any]:
        spurious[network.k] = spurious_states(root, network, settings.t)
        common = {name: getattr(settings, name) for name in names}
        return {**common, "spurious": digest(spurious[network.k])}

    def compute(network: ToyCheckpoint, patterns: Tensor, args: dict) -> Basins:
        score = network_score(network, patterns.device)
        return basins_of(score, patterns, spurious[network.k], settings, args)

    if examine(settings, options.run, Basins, basin_file, stage_args, compute):
        show_basins(root, settings.sample_size, settings.t)


def examine(
    settings: ToyPlotsOptions | ToyBasinOptions,
    run: RunOptions,
    result: type[ToyArrays],
    target: Callable[[Path, int, float], Path],
    stage_args: Callable[[ToyCheckpoint], dict[str, Any]],
    compute: Callable[[ToyCheckpoint, Tensor, dict], ToyArrays],
) -> bool:
    """Write the result of each K to `target`, unless it is finished. Returns False for a dry run.

    stage_args(network) are the options in its args, compute(network, patterns, args) the result."""
    root, sizes, device = Path(settings.results_path), settings.sample_size, pick_device(run)
    circle, jobs = open_toy(root, run, sizes, lambda k: target(root, k, settings.t))
    networks = {k: load_checkpoint_of(root, k, settings.checkpoint, circle) for k in sizes}
    args = {}
    for k, network in networks.items():
        network_args = {"checkpoint": network.iterations, "network": network.fingerprint}
        args[k] = {**network.args, result.sections[-1]: {**stage_args(network), **network_args}}
    if run.dry_run:
        return False

    def is_finished(job: Job) -> bool:
        return result.is_finished(job.target, args[job.k])

    todo = work_through(jobs, is_finished, run.overwrite)
    for job in progress(todo, total=len(jobs), unit="K"):
        patterns = circle.points[: job.k].to(device)
        try:
            arrays = compute(networks[job.k], patterns, args[job.k])
        except ValueError as error:  # scores that are not finite somewhere
            raise UserError(f"network of K = {job.k}", str(error), "train it again") from error
        arrays.save(job.target)
    return True


def run_all(options: ToyAllStage) -> None:
    """Run every command in turn, with the options that they share."""
    settings, run = options.toy_all, options.run
    common: dict[str, Any] = {"results_path": settings.results_path}
    sized = {**common, "sample_size": settings.sample_size}
    seeded = {**sized, "seed": settings.seed}
    run_data(ToyDataStage(ToyDataOptions(**common), run))
    run_exact(ToyExactStage(ToyExactOptions(**sized, beta=1 / (2 * settings.t)), run))
    quarter = -(-settings.n_iter // 4)
    training = ToyTrainOptions(**seeded, n_iter=settings.n_iter, sampling_freq=quarter)
    run_train(ToyTrainStage(training, run))
    if run.dry_run:
        print("would then write landscapes and basins of the trained networks")
        return
    of_network = {**seeded, "t": settings.t, "checkpoint": settings.n_iter}
    run_plots(ToyPlotsStage(ToyPlotsOptions(**of_network, dynamic_threshold=True), run))
    run_basin(ToyBasinStage(ToyBasinOptions(**of_network, delta=settings.delta), run))


def pick_device(run: RunOptions) -> torch.device:
    """The device; the CPU instead of MPS, which has no float64.

    Raises UserError for --precision bfloat16."""
    if run.precision == "bfloat16":
        remedy = "leave it out: the circle is computed in float32 and float64"
        raise UserError("--precision", run.precision, remedy)
    device = prepare(run)
    return torch.device("cpu") if device.type == "mps" else device


def open_toy(
    root: Path, run: RunOptions, sizes: tuple[int, ...], target: Callable[[int], Path]
) -> tuple[Circle, list[Job]]:
    """The points, and a job for each K. With --dry-run it prints the plan and writes nothing."""
    jobs = [Job(k, data_file(root), target(k)) for k in sizes]
    if run.dry_run:
        print_plan(jobs, run.overwrite)
    else:
        check_writable(root)
    return load_points(root, keep=not run.dry_run), jobs


def load_checkpoint_of(root: Path, k: int, step: int | None, circle: Circle) -> ToyCheckpoint:
    """The checkpoint of K. Raises UserError if it was trained on other points."""
    checkpoint = pick_checkpoint(root, k, step)
    path = checkpoint_file(root, k, checkpoint.iterations)
    check_same(path, checkpoint.args, circle.args, ["toy_data"])
    return checkpoint


def spurious_states(root: Path, checkpoint: ToyCheckpoint, t: float) -> np.ndarray:
    """The spurious wells [n, 2] that `plots` found for this network; none without a landscape.

    Raises UserError if the landscape is of another network."""
    path, k = landscape_file(root, checkpoint.k, t), checkpoint.k
    remedy = f"run {COMMAND} plots --sample_size {k} --t {t:g}"
    if not path.exists():
        print(f"K = {k}: no landscape at t = {t:g}, so no spurious states; {remedy}")
        return np.empty((0, 2))
    landscape = Landscape.load(path)
    plotted = landscape.args["toy_plots"]
    if plotted["network"] != checkpoint.fingerprint:
        problem = f"a landscape of the network at step {plotted['checkpoint']}"
        redo = f"{remedy} --checkpoint {checkpoint.iterations} --overwrite"
        raise UserError(path, problem, redo)
    return landscape.wells[landscape.well_kinds == SPURIOUS]
