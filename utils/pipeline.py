"""The work of run_pipeline.py: every stage for every K, through the functions of the scripts."""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import classify, critical_times, distances, energy, generate, train
from utils.calibration import split_pool, unseen_images
from utils.cli import required
from utils.datasets import to_float
from utils.embeddings import load_metric
from utils.errors import Interrupted, UserError
from utils.figures import loss_figure, sample_sheet_figure, save_figure
from utils.formats import load_synthetics
from utils.interrupts import GO_ON, stop_at_once
from utils.options import (
    ClassifyStage,
    CriticalTimesStage,
    DistancesStage,
    EnergyStage,
    GenerateStage,
    PipelineStage,
    SliceOptions,
    TrainStage,
)
from utils.overviews import show_energies, show_times
from utils.progress import QUIET, progress
from utils.storage import check_writable, read_npz, save_npz
from utils.training_log import read_stats
from utils.verdicts import CLASSES

POLL_SECONDS = 0.5
REFERENCES = 4  # real images that energies are taken against
Task = tuple[Callable, Any]  # a stage's run, and its options
Plan = tuple[TrainStage, GenerateStage]  # the stages that each K goes through alone


def run(options: PipelineStage) -> None:
    """Train and generate for each K (--jobs of them side by side), then judge them together."""
    sizes = sorted(required(options.pipeline, "sizes"))
    root = Path(options.pipeline.root)
    plans = [(train_stage(options, k), generate_stage(options, k)) for k in sizes]
    check(options, plans)
    if options.run.dry_run:
        for training, _ in plans:
            train.run(training)
        print(f"would draw {options.pipeline.samples} images of each, and judge them, in {root}")
        return
    check_writable(root)
    train_and_generate_all(plans, options.pipeline.jobs)
    distances.run(distances_stage(options))
    rows = classify.run(classify_stage(options), judge_again=True)
    draw_overview(root, sizes)
    if options.pipeline.basins:
        measure_classes(options, rows)
    print(f"\n{classify.table(rows)}\n")
    figures = root / "identified" / "figures"
    for name in ("transition.png", "samples.png", "losses.png"):
        print(figures / name)
    print(f"{figures}: also distances-K.png and CLASS-K.png for each K")


def check(options: PipelineStage, plans: list[Plan]) -> None:
    """Raises UserError now for whatever a later stage would refuse, hours on."""
    for training, _ in plans:
        train.check_sizes(training)
    generate.sampling_steps(options.generate, options.train.timesteps)
    load_metric(options.pipeline.metric, weights_folder(options), torch.device("cpu"))
    if options.pipeline.criterion == "calibrated":
        args = train.training_args(plans[-1][0])
        pool = options.classify.pool_size or plans[-1][0].train.train_size
        rate = options.classify.false_positive_rate
        split_pool(args, rate, pool, options.pipeline.samples)
    if options.pipeline.criterion == "ratio" and options.pipeline.metric != "l2":
        remedy = "choose --metric l2, or another --criterion"
        raise UserError("--criterion ratio", f"--metric {options.pipeline.metric}", remedy)


def train_stage(options: PipelineStage, k: int) -> TrainStage:
    root = Path(options.pipeline.root)
    return TrainStage(
        data=replace(options.data, results_path=root / "training" / str(k)),
        train=replace(options.train, train_size=k, model_path=root / "models"),
        model=options.model,
        run=options.run,
    )


def generate_stage(options: PipelineStage, k: int) -> GenerateStage:
    root = Path(options.pipeline.root)
    own = replace(
        options.generate,
        ckpt_path=root / "models" / f"{k}.pt",
        result_path=root / "generations" / str(k),
        synth_path=root / "synthetics",
        num_samples=options.pipeline.samples,
    )
    return GenerateStage(own, options.run, options.data, options.train, options.model)


def weights_folder(options: PipelineStage) -> Path | None:
    """Where the LPIPS backbones lie: one folder for every stage."""
    return options.pipeline.lpips_weights or options.distances.lpips_weights


def distances_stage(options: PipelineStage) -> DistancesStage:
    root, metric = Path(options.pipeline.root), options.pipeline.metric
    own = replace(
        options.distances,
        synth_path=root / "synthetics",
        result_path=root / "dists",
        use_lpips=metric != "l2",
        network=options.distances.network if metric == "l2" else metric,
        lpips_weights=weights_folder(options),
    )
    return DistancesStage(own, SliceOptions(), options.run)


def classify_stage(options: PipelineStage) -> ClassifyStage:
    root = Path(options.pipeline.root)
    own = replace(
        options.classify,
        dist_path=root / "dists",
        eval_path=root / "synthetics",
        result_path=root / "identified",
        criterion=options.pipeline.criterion,
        lpips_weights=weights_folder(options),
    )
    return ClassifyStage(own, SliceOptions(), options.run)


def measure_classes(options: PipelineStage, rows: list[dict[str, Any]]) -> None:
    """Critical times and energies of each class that is not empty everywhere."""
    root = Path(options.pipeline.root)
    write_references(options, root / "energies" / "reference.npz")
    names = [name for name in CLASSES if any(row[name] for row in rows)]
    times = [critical_times_stage(options, name, rows) for name in names]
    energies = [energy_stage(options, name) for name in names]
    # The longest first, so that nothing waits for one of them at the end.
    tasks: list[Task] = [(critical_times.run, stage) for stage in times]
    tasks += [(energy.run, stage) for stage in energies]
    if options.pipeline.jobs == 1:
        for measure, stage in tasks:
            measure(stage, again=True)
    else:
        print("critical times and energies of each class", flush=True)
        run_side_by_side([(measure_quietly, task) for task in tasks], options.pipeline.jobs)
        show_times(times[0].critical_times.result_path)
        show_energies(energies[0].energy.result_path)


def measure_quietly(task: Task) -> None:
    """What the tasks say side by side would be mixed up; the last word is the pipeline's."""
    measure, stage = task
    with redirect_stdout(io.StringIO()):
        measure(stage, again=True)


def critical_times_stage(
    options: PipelineStage, name: str, rows: list[dict[str, Any]]
) -> CriticalTimesStage:
    """Of one class. An image is recovered within the distance at which it would be memorized,
    where the criterion has such a limit."""
    root, metric = Path(options.pipeline.root), options.pipeline.metric
    own = replace(
        options.critical_times,
        ckpt_path=root / "models",
        sample_path=root / "identified" / name,
        result_path=root / "times" / name,
        use_lpips=metric != "l2",
        network=options.critical_times.network if metric == "l2" else metric,
        lpips_weights=weights_folder(options),
        delta=rows[0]["delta_m"] or options.critical_times.delta,
    )
    sections = (options.data, options.train, options.model)
    return CriticalTimesStage(own, SliceOptions(), options.run, *sections)


def energy_stage(options: PipelineStage, name: str) -> EnergyStage:
    root = Path(options.pipeline.root)
    own = replace(
        options.energy,
        ckpt_path=root / "models",
        sample_path=root / "identified" / name,
        result_path=root / "energies" / name,
        ref_path=root / "energies" / "reference.npz",
    )
    sections = (options.data, options.train, options.model)
    return EnergyStage(own, SliceOptions(), options.run, *sections)


def write_references(options: PipelineStage, path: Path) -> None:
    """Real images that no model of the sweep has seen, where the data set has any left."""
    stage = train_stage(options, max(options.pipeline.sizes))
    images = to_float(unseen_images(train.training_args(stage), REFERENCES)).numpy()
    if not path.exists() or not np.array_equal(read_npz(path, ["samples"])["samples"], images):
        save_npz(path, samples=images)


def train_and_generate(plan: Plan) -> None:
    """The stages that each K goes through alone."""
    train.run(plan[0])
    generate.run(plan[1])


def train_and_generate_all(plans: list[Plan], jobs: int) -> None:
    """All K, `jobs` processes at a time, each with its share of the processors."""
    todo = [
        p for p in plans if not (train.is_finished_run(p[0]) and generate.is_finished_run(p[1]))
    ]
    if len(todo) < len(plans):
        print(f"{len(plans) - len(todo)} of {len(plans)} models and their sets are finished")
    if not todo:
        return
    if jobs == 1:
        for plan in todo:
            train_and_generate(plan)
        return
    # The largest K first: a sweep may give it more steps, and nothing should wait for it.
    tasks = [(train_and_generate, plan) for plan in reversed(todo)]
    total = sum(plan[0].train.iterations for plan in todo)
    with progress(total=total, unit="step", desc=f"{len(todo)} models") as bar:
        run_side_by_side(tasks, jobs, lambda: bar.update(sum_of_steps(todo) - bar.n))


def sum_of_steps(plans: list[Plan]) -> int:
    """Training steps done so far."""
    return sum(steps_done(plan[0]) for plan in plans)


def run_side_by_side(
    tasks: list[tuple[Callable, Any]], jobs: int, told: Callable[[], object] = lambda: None
) -> None:
    """Call each function with its argument, `jobs` processes at a time, with their share of the
    processors. Raises what the first of them to fail raised; the others save and stop."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, running = list(tasks), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Worker(*waiting.pop(0), threads))
            running = [worker for worker in running if not worker.has_ended()]
            told()
            time.sleep(POLL_SECONDS)
    finally:
        for worker in running:
            worker.stop()


class Worker:
    """A process that works on one task."""

    def __init__(self, function: Callable, argument: Any, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._inbox, outbox = context.Pipe(duplex=False)
        self._process = context.Process(target=work, args=(function, argument, threads, outbox))
        self._process.start()
        outbox.close()

    def has_ended(self) -> bool:
        """Whether the work is done. Raises what the process raised, in this one."""
        if self._process.is_alive():
            return False
        self._process.join()
        try:
            raise self._inbox.recv()
        except EOFError:  # it had nothing to say
            code = self._process.exitcode
            if code:
                found = f"a worker that ended with code {code}"
                remedy = "see above; if nothing is there, memory ran out: choose fewer --jobs"
                raise UserError("--jobs", found, remedy) from None
            return True

    def stop(self) -> None:
        """Let it save and stop."""
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


def work(function: Callable, argument: Any, threads: int, outbox: Connection) -> None:
    """What a worker does; the user's errors and interrupts go to the parent process."""
    stop_at_once()
    os.environ[QUIET] = "1"
    torch.set_num_threads(threads)
    try:
        function(argument)
    except (UserError, Interrupted) as error:
        outbox.send(error)
    except KeyboardInterrupt:
        outbox.send(Interrupted(GO_ON))
    finally:
        outbox.close()


def steps_done(training: TrainStage) -> int:
    rows = read_stats(Path(training.data.results_path))
    return min(rows[-1]["step"], training.train.iterations) if rows else 0


def draw_overview(root: Path, sizes: list[int]) -> None:
    """Samples of each K, and the losses, side by side."""
    folder = root / "identified" / "figures"
    images = {k: load_synthetics(root / "synthetics" / f"{k}.npz").samples for k in sizes}
    save_figure(sample_sheet_figure(images), folder / "samples.png")
    stats = {k: read_stats(root / "training" / str(k)) for k in sizes}
    save_figure(loss_figure(stats), folder / "losses.png")
