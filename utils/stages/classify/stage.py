"""The work of run_classify.py: memorized, spurious or generalized, with pictures and a summary."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.choices import CLASSES
from utils.cli.options.samples import ClassifyOptions
from utils.cli.options.sections import ClassifyStage
from utils.cli.progress import progress
from utils.data.datasets import open_images, to_float
from utils.data.subsets import training_subset
from utils.figures.save import figure_files, save_figure
from utils.files.atomic import write_json
from utils.files.k_files import k_files
from utils.files.provenance import check_same, digest, with_data_path
from utils.inputs.samples import SampleSet, load_synthetics
from utils.inputs.unchanged import Input, first_read
from utils.jobs.devices import pick_dtype, prepare
from utils.jobs.k_jobs import Job, is_to_run, plan_jobs, work_through
from utils.metrics.embedders import load_metric, open_cache
from utils.metrics.nearest import SearchSettings
from utils.stages.classify.figures import histogram_figure, neighbour_panel, transition_figure
from utils.stages.classify.files import Identified, load_identified, save_identified
from utils.stages.classify.summary import judge_row, read_summary, write_summary
from utils.stages.classify.thresholds import calibrate
from utils.stages.classify.verdicts import (
    classify_by_distance,
    classify_by_ratio,
    nearest_column,
    select,
    typicality_order,
)
from utils.stages.distances.files import Distances, load_dists

STAGES = ("data", "train", "model", "generate", "distances", "classify")


@dataclass(frozen=True, kw_only=True)
class ClassifyJob(Job):
    """One K; its target is summary/K.json."""

    dists: Input[Distances]
    samples: Input[SampleSet]  # of --eval-path
    synthetic: Input[SampleSet]  # of --synth-path: the same set, wherever it lies


def run(options: ClassifyStage, redo_changed: bool = False) -> list[dict[str, Any]]:
    """Write identified/ for each K of the slice; returns the rows of summary.csv.

    redo_changed redoes a K that was classified with other options (one more K in a sweep may move
    the calibrated thresholds of all); without it such a K is refused."""
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

    with progress(total=len(jobs), unit="K", desc="classes") as bar:
        for job in work_through(jobs, is_done, options.run.overwrite):
            classify(job, settings)
            bar.update()
    result = Path(settings.result_path)
    rows = write_summary(result)
    save_figure(transition_figure(rows), result / "figures" / "transition.png")
    return rows


def plan_classes(options: ClassifyStage) -> list[ClassifyJob]:
    """The jobs; their args have the thresholds, for `calibrated` the same pair for all K.

    Raises UserError where files do not fit together."""
    settings = options.classify
    remedy = "give the folder that run_distances.py wrote"
    files = k_files(Path(required(settings, "dist_path")), ".npz", "--dist-path", remedy)
    eval_path = Path(required(settings, "eval_path"))
    summaries = Path(required(settings, "result_path")) / "summary"
    inputs = []
    for job in plan_jobs(files, summaries, options.slice):
        file, dists = first_read(job.source, load_dists)
        check_criterion(job, dists, settings)
        samples = synthetic = samples_of("--eval-path", eval_path, job, dists)
        if settings.synth_path is not None:
            synthetic = samples_of("--synth-path", Path(settings.synth_path), job, dists)
        inputs.append((job, dists, {"dists": file, "samples": samples, "synthetic": synthetic}))
    jobs, calibrations = [], {}
    for job, dists, files_of_job in inputs:
        stage_args: dict[str, Any] = {"criterion": settings.criterion, "k": settings.k}
        stage_args |= {"top_size": settings.top_size, "least_size": settings.least_size}
        if settings.criterion == "calibrated":
            n = len(dists.arrays["data-dists"])
            if n not in calibrations:
                calibrations[n] = thresholds(options, dists, max(files), n)
            stage_args |= calibrations[n]
        else:
            delta_m = None if settings.criterion == "ratio" else settings.delta_m
            stage_args |= {"delta_m": delta_m, "delta_s": settings.delta_s}
        args = {**with_data_path(dists.args, settings.data_path), "classify": stage_args}
        target = summaries / f"{job.k}.json"
        jobs.append(ClassifyJob(job.k, job.source, target, args, **files_of_job))
    return jobs


def samples_of(flag: str, folder: Path, job: Job, dists: Distances) -> Input[SampleSet]:
    """The samples that distances were measured on. Raises UserError where they are others."""
    path = folder / f"{job.k}.npz"
    if not path.is_file():
        remedy = "give the folder of the sets that the distances were measured on"
        raise UserError(f"{flag} {path}", "no such file", remedy)
    file, sample_set = first_read(path, load_synthetics)
    if dists.args.get("distances", {}).get("samples") != digest(sample_set.samples):
        problem = f"other samples than those of {job.source}"
        raise UserError(f"{flag} {path}", problem, "run run_distances.py on this set")
    return file


def check_criterion(job: Job, dists: Distances, settings: ClassifyOptions) -> None:
    """Raises UserError where the criterion cannot be applied to these distances."""
    if settings.criterion != "ratio":
        return
    where = f"--criterion ratio: {job.source}"
    if dists.metric != "l2":
        remedy = "run run_distances.py without --use-lpips, or choose another --criterion"
        raise UserError(where, "LPIPS distances", remedy)
    if dists.arrays["data-dists"].shape[1] < 2:
        remedy = "it compares two neighbours: run run_distances.py with --k 2 or more"
        if job.k == 1:
            remedy = "a single training image has no second one: choose another --criterion"
        raise UserError(where, "one neighbour", remedy)


def thresholds(options: ClassifyStage, dists: Distances, largest: int, n: int) -> dict[str, Any]:
    """The calibrated thresholds for sets of n samples, and what they were taken from.

    largest: the largest K of --dist-path. Raises UserError where there are too few images."""
    settings = options.classify
    pool = settings.pool_size or largest
    if pool < largest:
        remedy = f"choose {largest}, the largest K of --dist-path, or more"
        raise UserError("--pool-size", pool, remedy)
    args = with_data_path(dists.args, settings.data_path)
    device = prepare(options.run)
    embedder = load_metric(dists.metric_name, settings.lpips_weights, device)
    rate = settings.false_positive_rate
    images, cache = open_images(args), None
    if not options.run.dry_run:
        beside = Path(settings.result_path)
        cache = open_cache(embedder, options.cache, beside, images.read([0]), len(images))
    batch = settings.eval_batch_size
    search = SearchSettings(
        batch, batch, cache=cache, product=pick_dtype(options.run.precision, device)
    )
    calibration = calibrate(args, embedder, rate, pool, n, search)
    return {"false_positive_rate": rate, **asdict(calibration)}


def is_classified(job: ClassifyJob, settings: ClassifyOptions) -> bool:
    """Whether the K's summary is there, and the files of its classes.

    Raises UserError where its options were others, or one of the files is not whole."""
    if not job.target.exists():
        return False
    stored = read_summary(job.target)
    check_same(job.target, stored["args"], job.args, STAGES)
    for name in CLASSES:
        path = class_file(settings, name, job.k)
        kept = min(stored["row"][name], settings.top_size + settings.least_size)
        if path.exists() != bool(kept):
            return False  # it is missing, or is left over from other thresholds
        if kept:
            check_same(path, load_identified(path).args, job.args, STAGES)
    return True


def class_file(settings: ClassifyOptions, name: str, k: int) -> Path:
    """identified/CLASS/K.npz."""
    return Path(settings.result_path) / name / f"{k}.npz"


def classify(job: ClassifyJob, settings: ClassifyOptions) -> None:
    """Classify the samples of one K and write its files; the summary, written last, says done."""
    dists, images = job.dists.read(), job.samples.read().samples
    same = job.synthetic is job.samples
    synthetic = images if same else job.synthetic.read().samples
    subset = training_subset(job.args)
    if subset.fingerprint != dists.subset:
        problem = f"{subset.fingerprint}, distances of {dists.subset}"
        remedy = "give the same data set, or measure again"
        raise UserError(f"{job.source}: subset", problem, remedy)
    real = to_float(subset.images).numpy()
    stage_args, arrays = job.args["classify"], dists.arrays
    d_train, d_synth = nearest_column(arrays["data-dists"]), nearest_column(arrays["synth-dists"])
    delta_m, delta_s = limits = stage_args["delta_m"], stage_args["delta_s"]
    if stage_args["criterion"] == "ratio":
        labels = classify_by_ratio(d_train, arrays["data-dists"][:, 1], d_synth, delta_s)
    else:
        labels = classify_by_distance(d_train, d_synth, delta_m, delta_s)
    figures = Path(settings.result_path) / "figures"
    for name in CLASSES:
        path = class_file(settings, name, job.k)
        panel = figures / f"{name}-{job.k}.png"
        order = typicality_order(name, labels, d_train, d_synth)
        chosen, sizes = select(order, settings.top_size, settings.least_size)
        if not len(chosen):
            for stale in (path, *figure_files(panel)):
                stale.unlink(missing_ok=True)
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
    histogram = histogram_figure(job.k, d_train, d_synth, *limits, dists.metric_name, labels)
    save_figure(histogram, figures / f"distances-{job.k}.png")
    row = judge_row(job.k, labels, *limits, stage_args["criterion"], dists.metric_name)
    write_json(job.target, {"row": row, "args": job.args})
