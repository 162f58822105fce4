"""The work of run_classify.py: memorized, spurious or generalized, with pictures and a summary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.choices import CLASSES, CUTOFFS
from utils.cli.options.samples import ClassifyOptions
from utils.cli.options.sections import ClassifyStage
from utils.cli.progress import progress
from utils.data.datasets import open_images, to_float
from utils.data.subsets import training_subset
from utils.descriptors.embedders import Embedder, load_metric
from utils.evidence.cutoffs import distance_of
from utils.figures.save import figure_files, save_figure
from utils.files.k_files import k_files
from utils.files.provenance import check_same, digest, with_data_path
from utils.inputs.samples import SampleSet, known_of, load_synthetics, sample_file
from utils.inputs.unchanged import Input, first_read
from utils.jobs.devices import pick_dtype, prepare
from utils.jobs.k_jobs import Job, is_to_run, plan_jobs, work_through
from utils.metrics.cache import open_cache
from utils.metrics.nearest import SearchSettings
from utils.stages.classify.figures import (
    histogram_figure,
    neighbour_panel,
    quality_figure,
    states_figure,
    transition_figure,
)
from utils.stages.classify.files import (
    Identified,
    Judged,
    arrays_file,
    load_identified,
    load_judged,
    save_identified,
    save_judged,
)
from utils.stages.classify.judge import Judge
from utils.stages.classify.summary import write_summary
from utils.stages.classify.thresholds import check_held_out
from utils.stages.classify.verdicts import REPEATED, nearest_column, select, typicality_order
from utils.stages.distances.files import Distances, load_dists

STAGES = ("data", "train", "model", "generate", "distances", "classify")
STATES_SHOWN, STATE_SAMPLES, STATE_TRAINING = 4, 5, 3  # in the picture of spurious states


@dataclass(frozen=True, kw_only=True)
class ClassifyJob(Job):
    """One K; its target is summary/K.json."""

    dists: Input[Distances]
    samples: Input[SampleSet]  # of --eval-path
    synthetic: Input[SampleSet]  # of --synth-path: the same set, wherever it lies


def run(options: ClassifyStage, redo_changed: bool = False) -> list[Judged]:
    """Write identified/ for each K of the slice; returns what is known of every K of the folder.

    redo_changed redoes a K that was classified with other options (one more K in a sweep may move
    the pool of --criterion pooled); without it such a K is refused."""
    settings = options.classify
    jobs = plan_classes(options)
    if not is_to_run(jobs, options.run):
        return []

    def is_done(job: ClassifyJob) -> bool:
        try:
            return is_classified(job, settings)
        except UserError:
            if redo_changed:
                return False
            raise

    device = prepare(options.run)
    embedder = embedder_of(jobs[0], settings, device)
    images = open_images(jobs[0].args)
    beside, like = Path(settings.result_path), images.read([0])
    cache = open_cache(embedder, options.cache, beside, like, len(images))
    batch, product = settings.eval_batch_size, pick_dtype(options.run.precision, device)
    judge = Judge(embedder, SearchSettings(batch, batch, cache=cache, product=product))
    with progress(total=len(jobs), unit="K", desc="classes") as bar:
        for job in work_through(jobs, is_done, options.run.overwrite):
            classify(job, judge, settings)
            bar.update()
    result = Path(settings.result_path)
    judged = write_summary(result)
    draw_transition(judged, result / "figures" / "transition.png")
    draw_quality(judged, result / "figures" / "quality.png")
    return judged


def embedder_of(job: ClassifyJob, settings: ClassifyOptions, device: torch.device) -> Embedder:
    """The metric that the distances were measured in. Raises UserError where its network is now
    another one."""
    dists = job.dists.read()
    weights = settings.metric_weights or settings.lpips_weights
    embedder = load_metric(dists.metric_name, weights, device)
    if dists.args["distances"].get("weights", embedder.fingerprint) != embedder.fingerprint:
        problem = "other weights, or another preprocessing, than those of the distances"
        remedy = "give the file that they were measured with by --metric-weights"
        raise UserError(f"--metric {dists.metric_name}", problem, remedy)
    return embedder


def draw_transition(judged: list[Judged], path: Path) -> None:
    """Shares over K; nothing to draw, or an old picture to remove, for a single K."""
    if len(judged) > 1:
        save_figure(transition_figure([one.row for one in judged]), path)
    else:
        remove_figure(path)


def draw_quality(judged: list[Judged], path: Path) -> None:
    """Quality against the memorized share; nothing to draw where it was measured at one K or none,
    or in several metrics."""
    rows = [one.row for one in judged if one.row["frechet"] is not None]
    if len(rows) > 1:
        save_figure(quality_figure(rows), path)
    else:
        remove_figure(path)


def remove_figure(path: Path) -> None:
    """The files of a picture that no longer holds, if they are there."""
    for stale in figure_files(path):
        stale.unlink(missing_ok=True)


def plan_classes(options: ClassifyStage) -> list[ClassifyJob]:
    """The jobs of the slice. Raises UserError where files do not fit together."""
    settings = options.classify
    remedy = "give the folder that run_distances.py wrote"
    files = k_files(Path(required(settings, "dist_path")), ".npz", "--dist-path", remedy)
    eval_path = Path(required(settings, "eval_path"))
    summaries = Path(required(settings, "result_path")) / "summary"
    jobs: list[ClassifyJob] = []
    metric = None
    for job in plan_jobs(files, summaries, options.slice):
        file, dists = first_read(job.source, load_dists)
        metric = metric or dists.metric_name
        if dists.metric_name != metric:  # real images are measured in one metric for all K
            problem = f"distances by {dists.metric_name}, those of the K before by {metric}"
            raise UserError(job.source, problem, "keep each metric in a folder of its own")
        check_criterion(job, dists, settings)
        samples = synthetic = samples_of("--eval-path", eval_path, job, dists, settings)
        if settings.synth_path is not None:
            second = Path(settings.synth_path)
            synthetic = samples_of("--synth-path", second, job, dists, settings)
        args = {
            **with_data_path(dists.args, settings.data_path),
            "classify": stage_args(settings, max(files), dists.metric_name),
        }
        if settings.criterion == "calibrated":  # now, before anything is written
            count = len(dists.arrays["data-dists"])
            check_held_out(args, settings.false_positive_rate, count)
        inputs = {"dists": file, "samples": samples, "synthetic": synthetic}
        jobs.append(ClassifyJob(job.k, job.source, summaries / f"{job.k}.json", args, **inputs))
    return jobs


def stage_args(settings: ClassifyOptions, largest: int, metric: str) -> dict[str, Any]:
    """The options that decide about the result. largest: K of --dist-path."""
    names = ("criterion", "false_positive_rate", "k", "top_size", "least_size", "quality_size")
    args = {name: getattr(settings, name) for name in names}
    if settings.criterion == "delta":
        delta_m = settings.delta_m
        if settings.cutoff is not None:
            delta_m = published_distance(settings.cutoff, metric)
        args |= {"delta_m": delta_m, "delta_s": settings.delta_s}
    if settings.criterion == "pooled":
        args["pool_size"] = settings.pool_size or largest
        if args["pool_size"] < largest:
            remedy = f"choose {largest}, the largest K of --dist-path, or more"
            raise UserError("--pool-size", settings.pool_size, remedy)
    return args


def published_distance(name: str, metric: str) -> float:
    """The distance of a published cut-off in CUTOFFS, d = sqrt(2 (1 - s)) at cosine similarity s.

    Raises UserError for distances of another descriptor."""
    descriptor = name.partition("-")[0]
    if metric != descriptor:
        remedy = f"measure distances with --metric {descriptor}, or leave it out"
        raise UserError("--cutoff", f"{name}, with distances by {metric}", remedy)
    return distance_of(CUTOFFS[name])


def samples_of(
    flag: str, folder: Path, job: Job, dists: Distances, settings: ClassifyOptions
) -> Input[SampleSet]:
    """The samples that distances were measured on. Raises UserError where they are others."""
    remedy = "give the folder of the sets that the distances were measured on"
    path = sample_file(folder, job.k, flag, remedy)
    load = partial(load_synthetics, known=known_of(settings, flag, dists.args))
    file, sample_set = first_read(path, load)
    if dists.args.get("distances", {}).get("samples") != digest(sample_set.samples):
        problem = f"other samples than those of {job.source}"
        raise UserError(f"{flag} {path}", problem, "run run_distances.py on this set")
    return file


def check_criterion(job: Job, dists: Distances, settings: ClassifyOptions) -> None:
    """Raises UserError where the criterion cannot be applied to these distances."""
    if settings.criterion != "ratio":
        return
    where = f"--criterion ratio: {job.source}"
    if dists.arrays["data-dists"].shape[1] < 2:
        remedy = "it compares two neighbours: run run_distances.py with --k 2 or more"
        if job.k == 1:
            remedy = "a single training image has no second one: choose another --criterion"
        raise UserError(where, "one neighbour", remedy)
    if not dists.arrays["synth-dists"].shape[1]:
        raise UserError(where, "1 sample", "it compares samples: judge 2 or more")


def is_classified(job: ClassifyJob, settings: ClassifyOptions) -> bool:
    """Whether the K's summary is there, and the files of its classes.

    Raises UserError where its options were others, or one of the files is not whole."""
    if not job.target.exists():
        return False
    if not arrays_file(job.target).exists():
        return False
    stored = load_judged(job.target)
    check_same(job.target, stored.args, job.args, STAGES)
    for name in CLASSES:
        path = class_file(settings, name, job.k)
        kept = min(stored.row[name], settings.top_size + settings.least_size)
        if path.exists() != bool(kept):
            return False  # it is missing, or is left over from other thresholds
        if kept:
            check_same(path, load_identified(path).args, job.args, STAGES)
    return True


def class_file(settings: ClassifyOptions, name: str, k: int) -> Path:
    """identified/CLASS/K.npz."""
    return Path(settings.result_path) / name / f"{k}.npz"


def classify(job: ClassifyJob, judge: Judge, settings: ClassifyOptions) -> None:
    """Classify the samples of one K and write its files; the summary, written last, says done."""
    dists, images = job.dists.read(), job.samples.read().samples
    same = job.synthetic is job.samples
    synthetic = images if same else job.synthetic.read().samples
    subset = training_subset(job.args)
    if subset.fingerprint != dists.subset:
        problem = f"{subset.fingerprint}, distances of {dists.subset}"
        remedy = "give the same data set, or measure again"
        raise UserError(f"{job.source}: subset", problem, remedy)
    measured = job.args, dists, subset.images, torch.from_numpy(images)
    judged, labels, states = judge.judge(*measured)
    arrays, real = dists.arrays, to_float(subset.images).numpy()
    d_train, d_synth = nearest_column(arrays["data-dists"]), nearest_column(arrays["synth-dists"])
    figures = Path(settings.result_path) / "figures"
    for name in CLASSES:
        path = class_file(settings, name, job.k)
        panel = figures / f"{name}-{job.k}.png"
        order = typicality_order(name, labels, d_train, d_synth)
        chosen, sizes = select(order, settings.top_size, settings.least_size)
        if not len(chosen):
            path.unlink(missing_ok=True)
            remove_figure(panel)
            continue
        identified = Identified(
            samples=images[chosen],
            train_nns=real[arrays["data-indices"][chosen, : settings.k]],
            synth_nns=synthetic[arrays["synth-indices"][chosen, : settings.k]],
            k=settings.k,
            sizes=sizes,
            indices=chosen,
            args=job.args,
        )
        save_identified(path, identified)
        picture = neighbour_panel(
            job.k,
            name,
            identified.samples,
            identified.train_nns,
            identified.synth_nns,
            arrays["data-dists"][chosen, : settings.k],
            arrays["synth-dists"][chosen, : settings.k],
            metric=dists.metric_name,
        )
        save_figure(picture, panel)
    histogram = histogram_figure(judged, labels)
    save_figure(histogram, figures / f"distances-{job.k}.png")
    repeated = [state for state in states if len(state) >= REPEATED]
    draw_states(job.k, repeated, dists, images, real, figures / f"states-{job.k}.png")
    save_judged(job.target, judged)


def draw_states(
    k: int,
    states: list[np.ndarray],
    dists: Distances,
    images: np.ndarray,
    real: np.ndarray,
    path: Path,
) -> None:
    """The largest states; nothing to draw, or an old picture to remove, where there is none."""
    shown = [state[:STATE_SAMPLES] for state in states[:STATES_SHOWN]]
    if not shown:
        remove_figure(path)
        return
    first = [state[0] for state in shown]
    near = dists.arrays["data-indices"][first, :STATE_TRAINING]
    figure = states_figure(
        k,
        [images[state] for state in shown],
        list(real[near]),
        [dists.arrays["synth-dists"][state, 0] for state in shown],
        list(dists.arrays["data-dists"][first, :STATE_TRAINING]),
        dists.metric_name,
    )
    save_figure(figure, path)
