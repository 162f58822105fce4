"""The work of run_pipeline.py: every stage for every K, through the functions of the scripts."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.cli.errors import UserError
from utils.cli.launcher import refuse_several_ranks
from utils.cli.options.choices import CLASSES
from utils.cli.options.sections import (
    PipelineStage,
    ReportOptions,
    ReportStage,
)
from utils.data.datasets import to_float
from utils.descriptors.embedders import load_metric
from utils.figures.images import sample_sheet_figure
from utils.figures.save import figure_files, save_figure
from utils.files.arrays import read_npz, save_npz
from utils.files.atomic import check_writable, write_text
from utils.files.training_log import read_stats
from utils.inputs.denoisers import check_times, described_by, sampling_steps, trained_model
from utils.inputs.samples import OURS, load_synthetics
from utils.inputs.unchanged import check_unchanged
from utils.jobs.workers import run_side_by_side
from utils.stages.classify import stage as classify
from utils.stages.classify.figures import repeats_figure
from utils.stages.classify.files import Judged
from utils.stages.classify.held_out import unseen_images
from utils.stages.classify.summary import (
    repeats_csv,
    repeats_rows,
    repeats_table,
    table,
    transition_in_words,
)
from utils.stages.classify.thresholds import check_held_out
from utils.stages.critical_times import stage as critical_times
from utils.stages.critical_times.overview import show_times
from utils.stages.curvature import stage as curvature
from utils.stages.curvature.overview import show_curvature
from utils.stages.distances import stage as distances
from utils.stages.energy import stage as energy
from utils.stages.energy.overview import show_energies
from utils.stages.generalization import stage as generalization
from utils.stages.generate import stage as generate
from utils.stages.machines import stage as machines
from utils.stages.pipeline.plans import Plan, plan_all, plan_second_models
from utils.stages.pipeline.progress import SweepProgress, announcement, work_of_sweep
from utils.stages.pipeline.settings import (
    REFERENCES,
    classify_stage,
    critical_times_stage,
    curvature_stage,
    distances_stage,
    energy_stage,
    generalization_stage,
    known_of_models,
    machines_stage,
    model_file,
    repeat,
    with_data_of_models,
)
from utils.stages.report import page as report
from utils.stages.train import stage as train
from utils.stages.train.figures import loss_figure

Task = tuple[Callable, Any]  # a stage's run, and its options


def run(options: PipelineStage) -> None:
    """Train and generate for each K (--jobs of them side by side), then classify all of them.

    With --models nothing is trained: the models of that folder are examined."""
    refuse_several_ranks("start one process: --jobs of them work side by side")
    root = Path(options.pipeline.root)
    plans = plan_all(options)
    if options.pipeline.models is not None:
        options = with_data_of_models((plan.args for plan in plans), options)
    second_plans = plan_second_models(options, plans)
    numbers = range(2, options.pipeline.repeats + 1)
    repeats = [repeat(options, number) for number in numbers]
    other_plans = [plan for one in repeats for plan in plan_all(one)]
    every = [*second_plans, *other_plans, *plans]
    sizes = [plan.k for plan in plans]
    check(options, plans)
    if options.run.dry_run:
        for training in (plan.training for plan in every if plan.training):
            train.run(training)
        print(f"would draw {options.pipeline.samples} images of each, and judge them, in {root}")
        return
    check_writable(root)
    progress = SweepProgress(work_of_sweep(options, every, sizes), options.pipeline.jobs)
    print(announcement(options, every, sizes), flush=True)
    with progress.running():
        progress.set_phase("training and sampling")
        train_and_generate_all(every, options.pipeline.jobs)
        progress.set_phase("distances and classes")
        others = [judge(one) for one in repeats]
        judged = judge(options)
        words = show_repeats([judged, *others], root / "identified") if others else ""
        draw_overview(root, sizes)
        examine(options, judged, plans, bool(second_plans), progress)
        progress.set_phase("the report")
        page = report.run(ReportStage(ReportOptions(root)))
    print(f"\n{table(judged)}\n{words}")
    figures = root / "identified" / "figures"
    print(f"{figures / 'transition.png'}; also samples, losses, distances-K, CLASS-K, states-K")
    print(f"{page}: all of it on one page\n\n{transition_in_words(judged)}")


def examine(
    options: PipelineStage,
    judged: list[Judged],
    plans: list[Plan],
    two_models: bool,
    progress: SweepProgress,
) -> None:
    """What is measured of the classes and models: --basins, --curvature, --generalization,
    --machines."""
    rows, wanted = [one.row for one in judged], options.pipeline
    names = [name for name in CLASSES if any(row[name] for row in rows)]
    remove_empty_classes(Path(wanted.root), rows)
    if wanted.basins or wanted.curvature or wanted.generalization or wanted.machines:
        check_models(options, [plan.k for plan in plans])
    if wanted.basins:
        progress.set_phase("critical times and energies")
        measure_classes(options, rows, names, plans[-1].args)
    if wanted.curvature:
        progress.set_phase("curvature")
        measure_curvature(options, names)
    if wanted.generalization:
        progress.set_phase("tests of generalization")
        generalization.run(generalization_stage(options, two_models), redo_changed=True)
    if wanted.machines:
        progress.set_phase("denoisers in closed form")
        machines.run(machines_stage(options), redo_changed=True)


def judge(options: PipelineStage) -> list[Judged]:
    """Distances and classes of the samples below one root, by K."""
    distances.run(distances_stage(options))
    return classify.run(classify_stage(options), redo_changed=True)


def show_repeats(runs: list[list[Judged]], folder: Path) -> str:
    """Write repeats.csv and a figure of several trainings of each K; returns both in words."""
    rows = repeats_rows(runs)
    write_text(folder / "repeats.csv", repeats_csv(rows))
    save_figure(repeats_figure(runs), folder / "figures" / "repeats.png")
    return f"\n{repeats_table(runs)}\n"


def check(options: PipelineStage, plans: list[Plan]) -> None:
    """Raises UserError now for what a later stage would refuse after hours."""
    for plan in plans:
        if plan.training:
            train.check_training(plan.training)
        wanted = options.pipeline
        names = ("basins", "curvature", "generalization", "machines")
        measured = [f"--{name}" for name in names if getattr(wanted, name)]
        if plan.args["model"]["num_classes"] and measured:
            remedy = "add --nobasins alone: run_critical_times.py --label measures one class"
            raise UserError("--class-conditional", f"{', '.join(measured)} too", remedy)
        timesteps = plan.args["train"]["timesteps"]
        sampling_steps(options.generate, timesteps)
        if wanted.machines:
            check_times(plan.args, options.machines.t)
            if options.machines.sampler is not None:
                sampling_steps(options.machines, timesteps)
    metric = distances_stage(options).distances
    load_metric(metric.metric_name, metric.weights_path, torch.device("cpu"))
    if options.pipeline.criterion == "calibrated":
        rate = options.classify.false_positive_rate
        check_held_out(plans[-1].args, rate, options.pipeline.samples)
    if options.pipeline.criterion == "ratio" and plans[0].k == 1:
        remedy = "leave K = 1 out, or choose another --criterion"
        raise UserError("--criterion ratio", "K = 1, which has no second training image", remedy)


def check_models(options: PipelineStage, sizes: list[int]) -> None:
    """Raises UserError where a model is not the one that its samples were drawn from: if training
    went on in --models meanwhile, basins and classes would be those of different weights."""
    for k in sizes:
        path = model_file(options, k)
        samples = load_synthetics(Path(options.pipeline.root) / "synthetics" / f"{k}.npz", OURS)
        before = samples.args["generate"]["checkpoint"]
        model = trained_model(path, None, known_of_models(options), described_by(options))
        check_unchanged(path, before, model.fingerprint, "weights")


def measure_classes(
    options: PipelineStage, rows: list[dict[str, Any]], names: list[str], args: dict[str, Any]
) -> None:
    """Critical times and energies of each of the classes.

    args: of the largest K, whose model has seen the most images."""
    root = Path(options.pipeline.root)
    write_references(args, root / "energies" / "reference.npz")
    times = [critical_times_stage(options, name, rows) for name in names]
    energies = [energy_stage(options, name) for name in names]
    # The longest first, so that nothing waits for one of them at the end.
    tasks: list[Task] = [(critical_times.run, stage) for stage in times]
    tasks += [(energy.run, stage) for stage in energies]
    if options.pipeline.jobs == 1:
        for measure, stage in tasks:
            measure(stage, redo_changed=True)
    else:
        run_side_by_side([(measure_quietly, task) for task in tasks], options.pipeline.jobs)
        show_times(times[0].critical_times.result_path)
        show_energies(energies[0].energy.result_path)


def measure_curvature(options: PipelineStage, names: list[str]) -> None:
    """The curvature of the energy around each of the classes, after their critical times."""
    stages = [curvature_stage(options, name) for name in names]
    if options.pipeline.jobs == 1:
        for stage in stages:
            curvature.run(stage, redo_changed=True)
        return
    tasks = [(measure_quietly, (curvature.run, stage)) for stage in stages]
    run_side_by_side(tasks, options.pipeline.jobs)
    show_curvature(stages[0].curvature.result_path)


def remove_empty_classes(root: Path, rows: list[dict[str, Any]]) -> None:
    """Remove what was measured of classes that have no samples any more: one more K, or another
    criterion, may move the thresholds."""
    for row in rows:
        for name in (name for name in CLASSES if not row[name]):
            k, figures = row["K"], root / "times" / "figures"
            for path in (
                *(root / stage / name / f"{k}.npz" for stage in ("times", "energies", "curvature")),
                *figure_files(figures / f"recovered-{name}-{k}.png"),
            ):
                path.unlink(missing_ok=True)


def measure_quietly(task: Task) -> None:
    """Without output, which would be mixed with that of others; the pipeline prints at the end."""
    measure, stage = task
    with redirect_stdout(io.StringIO()):
        measure(stage, redo_changed=True)


def write_references(args: dict[str, Any], path: Path) -> None:
    """Real images that no model of the sweep has seen, where the data set has any left."""
    images = to_float(unseen_images(args, REFERENCES)).numpy()
    if not path.exists() or not np.array_equal(read_npz(path, ["samples"])["samples"], images):
        save_npz(path, samples=images)


def train_and_generate(plan: Plan) -> None:
    """The stages that each K goes through alone."""
    if plan.training:
        train.run(plan.training)
    generate.run(plan.sampling)


def train_and_generate_all(plans: list[Plan], jobs: int) -> None:
    """All K, `jobs` processes at a time, each with its share of the processors."""
    todo = [plan for plan in plans if not plan.is_finished()]
    if len(todo) < len(plans):
        print(f"{len(plans) - len(todo)} of {len(plans)} models and their sets are finished")
    if jobs == 1:
        for plan in todo:
            train_and_generate(plan)
        return
    # The largest K first: a sweep may give it more steps, and nothing should wait for it.
    run_side_by_side([(train_and_generate, plan) for plan in reversed(todo)], jobs)


def draw_overview(root: Path, sizes: list[int]) -> None:
    """Samples of each K, and the losses, side by side."""
    folder = root / "identified" / "figures"
    images = {k: load_synthetics(root / "synthetics" / f"{k}.npz", OURS).samples for k in sizes}
    save_figure(sample_sheet_figure(images), folder / "samples.png")
    stats = {k: read_stats(root / "training" / str(k)) for k in sizes}
    if any(stats.values()):  # models of --models bring none
        save_figure(loss_figure(stats), folder / "losses.png")
