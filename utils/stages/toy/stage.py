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
from utils.inputs.checkpoints import forget_training
from utils.jobs.devices import prepare
from utils.jobs.k_jobs import Job, work_in_groups, work_through
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
    given, root = options.toy_data, Path(options.toy_data.results_path)
    path = data_file(root)
    if options.run.dry_run:
        print(f"would write {path}")
        return
    check_writable(root)
    if path.exists() and not options.run.overwrite:
        check_same(path, load_points(root).args, data_args(given), ["toy_data"])
        print(f"{path} is finished")
    else:
        save_points(given)
    show_data(root)


def run_exact(options: ToyExactStage) -> None:
    """Write and draw the analytic energies: of infinitely many patterns, and of K of them."""
    given, root = options.toy_exact, Path(options.toy_exact.results_path)
    device = pick_home(options.run)
    circle, jobs = open_toy(
        root, options.run, given.sample_size, lambda k: exact_file(root, k, given)
    )
    args = {
        k: {**circle.args, "toy_exact": {"k": k, "beta": given.beta}} for k in given.sample_size
    }
    if options.run.dry_run:
        return

    def done(job: Job) -> bool:
        return ExactEnergies.is_finished(job.target, args[job.k])

    axis = square()
    spots = torch.from_numpy(places(axis)).to(device)
    for job in work_through(jobs, done, options.run.overwrite):
        patterns = circle.points[: job.k]
        energy = PatternMixture(patterns.to(device)).energy(spots, given.beta)
        ring = circle_energy(spots.norm(dim=1), given.beta)
        both = (e.reshape(len(axis), -1).cpu().numpy() for e in (energy, ring))
        ExactEnergies(axis, *both, patterns.numpy(), args[job.k]).save(job.target)
    show_exact(root, given)


def run_train(options: ToyTrainStage) -> None:
    """Train a network on each K to the asked number of steps, or go on where that stopped."""
    given, root = options.toy_train, Path(options.toy_train.results_path)
    device = pick_home(options.run)
    final = lambda k: checkpoint_file(root, k, given.n_iter)  # noqa: E731
    circle, jobs = open_toy(root, options.run, given.sample_size, final)
    args = {k: training_args(given, circle, k) for k in given.sample_size}
    if options.run.dry_run:
        return

    def done(job: Job) -> bool:
        return max(usable_checkpoints(root, job.k, args[job.k]), default=0) >= given.n_iter

    # published batches differ with K: such networks cannot be stacked
    at_once = 1 if given.as_published else None
    for group in work_in_groups(jobs, done, options.run.overwrite, at_once):
        sizes = [job.k for job in group]
        if options.run.overwrite:
            for k in sizes:
                forget_training(k_folder(root, k))
        trainer = Trainer(root, given, circle, sizes, device)
        # A kill between two writes may leave one K ahead: all go on from where all have been.
        found = [usable_checkpoints(root, k, args[k]) for k in sizes]
        common = {step for step in set.intersection(*map(set, found)) if step <= given.n_iter}
        if common:
            trainer.resume([checkpoints[max(common)] for checkpoints in found])
        trainer.train()
    show_training(root, given.sample_size)


def run_plots(options: ToyPlotsStage) -> None:
    """Write and draw the landscape of each K's network at a time, its wells and its samples."""
    given, root = options.toy_plots, Path(options.toy_plots.results_path)
    names = ("t", "samples", "seed", "dynamic_threshold")
    own = {name: getattr(given, name) for name in names}
    if not given.dynamic_threshold:
        own["distance_threshold"] = given.distance_threshold
    if given.t < FIRST_TIME:
        print(f"--t {given.t:g} lies before {FIRST_TIME:g}, the earliest time that was trained on")

    def work(network: ToyCheckpoint, patterns: Tensor, args: dict) -> Landscape:
        return landscape_of(network_score(network, patterns.device), patterns, given, args)

    if examine(given, options.run, Landscape, landscape_file, lambda _: own, work):
        show_landscapes(root, given.sample_size, given.t)


def run_basin(options: ToyBasinStage) -> None:
    """Write and draw the basins of patterns, spurious states and points of the circle."""
    given, root = options.toy_basin, Path(options.toy_basin.results_path)
    names = ("t", "delta", "p_trials", "p", "points", "seed")
    common = {name: getattr(given, name) for name in names}
    spurious: dict[int, np.ndarray] = {}

    def own(network: ToyCheckpoint) -> dict[str, Any]:
        spurious[network.k] = spurious_states(root, network, given.t)
        return {**common, "spurious": digest(spurious[network.k])}

    def work(network: ToyCheckpoint, patterns: Tensor, args: dict) -> Basins:
        score = network_score(network, patterns.device)
        return basins_of(score, patterns, spurious[network.k], given, args)

    if examine(given, options.run, Basins, basin_file, own, work):
        show_basins(root, given.sample_size, given.t)


def examine(
    given: ToyPlotsOptions | ToyBasinOptions,
    run: RunOptions,
    kind: type[ToyArrays],
    target: Callable[[Path, int, float], Path],
    own: Callable[[ToyCheckpoint], dict[str, Any]],
    work: Callable[[ToyCheckpoint, Tensor, dict], ToyArrays],
) -> bool:
    """Write the file `target` of each K, unless it is there; False for a dry run.

    own(network) are the options in its args, work(network, patterns, args) its content."""
    root, device = Path(given.results_path), pick_home(run)
    circle, jobs = open_toy(root, run, given.sample_size, lambda k: target(root, k, given.t))
    networks = {k: load_checkpoint_of(root, k, given.checkpoint, circle) for k in given.sample_size}
    args = {}
    for k, network in networks.items():
        of = {"checkpoint": network.iterations, "network": network.fingerprint}
        args[k] = {**network.args, kind.sections[-1]: {**own(network), **of}}
    if run.dry_run:
        return False

    def done(job: Job) -> bool:
        return kind.is_finished(job.target, args[job.k])

    todo = work_through(jobs, done, run.overwrite)
    for job in progress(todo, total=len(jobs), unit="K"):
        try:
            found = work(networks[job.k], circle.points[: job.k].to(device), args[job.k])
        except ValueError as error:  # a network that is not finite somewhere
            raise UserError(f"network of K = {job.k}", str(error), "train it again") from error
        found.save(job.target)
    return True


def run_all(options: ToyAllStage) -> None:
    """Every command, one after the other, with what they have in common."""
    given, run = options.toy_all, options.run
    common: dict[str, Any] = {"results_path": given.results_path}
    sized = {**common, "sample_size": given.sample_size}
    run_data(ToyDataStage(ToyDataOptions(**common), run))
    run_exact(ToyExactStage(ToyExactOptions(**sized, beta=1 / (2 * given.t)), run))
    training = ToyTrainOptions(
        **sized, n_iter=given.n_iter, sampling_freq=-(-given.n_iter // 4), seed=given.seed
    )
    run_train(ToyTrainStage(training, run))
    if run.dry_run:
        print("would draw landscapes and basins of what is trained then")
        return
    seen = {**sized, "t": given.t, "checkpoint": given.n_iter, "seed": given.seed}
    plots = ToyPlotsOptions(**seen, dynamic_threshold=True)
    run_plots(ToyPlotsStage(plots, run))
    run_basin(ToyBasinStage(ToyBasinOptions(**seen, delta=given.delta), run))


def pick_home(run: RunOptions) -> torch.device:
    """The device; float64 is needed, which MPS has not, so that there the CPU computes.

    Raises UserError for --precision bfloat16."""
    if run.precision == "bfloat16":
        remedy = "leave it out: the circle is computed in float32 and float64"
        raise UserError("--precision", run.precision, remedy)
    device = prepare(run)
    return torch.device("cpu") if device.type == "mps" else device


def open_toy(
    root: Path, run: RunOptions, sizes: tuple[int, ...], target: Callable[[int], Path]
) -> tuple[Circle, list[Job]]:
    """The points, and a job for each K; with --dry-run the plan is told and nothing written."""
    if run.dry_run:
        for k in sizes:
            there = target(k).exists() and not run.overwrite
            print(f"K = {k}: {target(k)} is there" if there else f"would write {target(k)}")
    else:
        check_writable(root)
    circle = load_points(root, keep=not run.dry_run)
    return circle, [Job(k, data_file(root), target(k)) for k in sizes]


def load_checkpoint_of(root: Path, k: int, step: int | None, circle: Circle) -> ToyCheckpoint:
    """The checkpoint of K. Raises UserError where it was trained on other points."""
    checkpoint = pick_checkpoint(root, k, step)
    path = checkpoint_file(root, k, checkpoint.iterations)
    check_same(path, checkpoint.args, circle.args, ["toy_data"])
    return checkpoint


def spurious_states(root: Path, checkpoint: ToyCheckpoint, t: float) -> np.ndarray:
    """The spurious wells [n, 2] that `plots` found for this network; none without a landscape.

    Raises UserError where the landscape is of another network."""
    path, k = landscape_file(root, checkpoint.k, t), checkpoint.k
    remedy = f"run {COMMAND} plots --sample_size {k} --t {t:g}"
    if not path.exists():
        print(f"K = {k}: no landscape at t = {t:g}, so no spurious states; {remedy}")
        return np.empty((0, 2))
    found = Landscape.load(path)
    plotted = found.args["toy_plots"]
    if plotted["network"] != checkpoint.fingerprint:
        found_step = f"a landscape of the network at step {plotted['checkpoint']}"
        now = f"{remedy} --checkpoint {checkpoint.iterations} --overwrite"
        raise UserError(path, found_step, now)
    return found.wells[found.well_kinds == SPURIOUS]
