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
from utils.files.atomic import check_writable, write_json
from utils.files.k_files import k_files
from utils.files.provenance import check_same, digest, with_data_path
from utils.inputs.samples import SampleSet, load_synthetics
from utils.inputs.unchanged import Input, first_read
from utils.jobs.devices import pick_dtype, prepare
from utils.jobs.k_jobs import Job, plan_jobs, print_plan, work_through
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


@dataclass(frozen=True)
class Inputs:
    """What one K is judged by, as planning found it."""

    dists: Input[Distances]
    samples: Input[SampleSet]  # of --eval-path
    synthetic: Input[SampleSet]  # of --synth-path: the same set, wherever it lies


@dataclass(frozen=True)
class Plan:
    """What a run will do: known, and refused, before work starts."""

    jobs: list[Job]
    args: dict[int, dict[str, Any]]  # what each K's files will carry
    inputs: dict[int, Inputs]
    given: ClassifyOptions

    @property
    def result(self) -> Path:
        return Path(self.given.result_path)


def run(options: ClassifyStage, judge_again: bool = False) -> list[dict[str, Any]]:
    """Write identified/ for each K of the slice; returns the rows of summary.csv.

    judge_again redoes a K that was judged with other options (one more K in a sweep may move
    the calibrated thresholds of all); without it such a K is refused."""
    plan = plan_classes(options)
    if options.run.dry_run or not plan.jobs:
        print_plan(plan.jobs, options.run.overwrite)
        return []
    check_writable(plan.result)

    def done(job: Job) -> bool:
        try:
            return is_judged(job, plan)
        except UserError:
            if judge_again:
                return False
            raise

    with progress(total=len(plan.jobs), unit="K", desc="classes") as bar:
        for job in work_through(plan.jobs, done, options.run.overwrite):
            judge(job, plan)
            bar.update()
    rows = write_summary(plan.result)
    save_figure(transition_figure(rows), plan.result / "figures" / "transition.png")
    return rows


def plan_classes(options: ClassifyStage) -> Plan:
    """The jobs and, for `calibrated`, the one pair of thresholds. Raises UserError."""
    given = options.classify
    remedy = "give the folder that run_distances.py wrote"
    files = k_files(Path(required(given, "dist_path")), ".npz", "--dist-path", remedy)
    synth = Path(required(given, "eval_path"))
    target = Path(required(given, "result_path")) / "summary"
    jobs = [
        Job(job.k, job.source, target / f"{job.k}.json")
        for job in plan_jobs(files, target, options.slice)
    ]
    found, inputs = {}, {}
    for job in jobs:
        source, found[job.k] = first_read(job.source, load_dists)
        check_criterion(job, found[job.k], given)
        sets = [
            checked_samples(flag, Path(folder) / f"{job.k}.npz", job, found[job.k])
            for flag, folder in (("--eval-path", synth), ("--synth-path", given.synth_path))
            if folder is not None
        ]
        inputs[job.k] = Inputs(source, sets[0], sets[-1])
    args = {}
    calibrations: dict[tuple, dict[str, Any]] = {}
    for k, dists in found.items():
        own: dict[str, Any] = {"criterion": given.criterion, "k": given.k}
        own |= {"top_size": given.top_size, "least_size": given.least_size}
        if given.criterion == "calibrated":
            n = len(dists.arrays["data-dists"])
            if n not in calibrations:
                calibrations[n] = thresholds(options, dists, max(files), n)
            own |= calibrations[n]
        else:
            ratio = given.criterion == "ratio"
            own |= {"delta_m": None if ratio else given.delta_m, "delta_s": given.delta_s}
        args[k] = {**with_data_path(dists.args, given.data_path), "classify": own}
    return Plan(jobs, args, inputs, given)


def checked_samples(flag: str, path: Path, job: Job, dists: Distances) -> Input[SampleSet]:
    """Samples that distances were measured on. Raises UserError where they are others."""
    if not path.is_file():
        remedy = "give the folder of the sets that the distances were measured on"
        raise UserError(f"{flag} {path}", "no such file", remedy)
    samples, found = first_read(path, load_synthetics)
    if dists.args.get("distances", {}).get("samples") != digest(found.samples):
        told = f"other samples than those of {job.source}"
        raise UserError(f"{flag} {path}", told, "run run_distances.py on this set")
    return samples


def check_criterion(job: Job, dists: Distances, given: ClassifyOptions) -> None:
    """Raises UserError where the criterion cannot judge by these distances."""
    if given.criterion != "ratio":
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
    given = options.classify
    pool = given.pool_size or largest
    if pool < largest:
        remedy = f"choose {largest}, the largest K of --dist-path, or more"
        raise UserError("--pool-size", pool, remedy)
    args = with_data_path(dists.args, given.data_path)
    device = prepare(options.run)
    embedder = load_metric(dists.metric_name, given.lpips_weights, device)
    rate = given.false_positive_rate
    images, cache = open_images(args), None
    if not options.run.dry_run:
        beside = Path(given.result_path)
        cache = open_cache(embedder, options.cache, beside, images.read([0]), len(images))
    batch = given.eval_batch_size
    settings = SearchSettings(
        batch, batch, cache=cache, product=pick_dtype(options.run.precision, device)
    )
    found = calibrate(args, embedder, rate, pool, n, settings)
    return {"false_positive_rate": rate, **asdict(found)}


def is_judged(job: Job, plan: Plan) -> bool:
    """Whether the K's summary is there, and the files of its classes.

    Raises UserError where its options were others, or one of the files is not whole."""
    if not job.target.exists():
        return False
    args, stored = plan.args[job.k], read_summary(job.target)
    check_same(job.target, stored["args"], args, STAGES)
    for name in CLASSES:
        path = class_file(plan.result, name, job.k)
        kept = min(stored["row"][name], plan.given.top_size + plan.given.least_size)
        if path.exists() != bool(kept):
            return False  # it has gone, or is left over from other thresholds
        if kept:
            check_same(path, load_identified(path).args, args, STAGES)
    return True


def class_file(result: Path, name: str, k: int) -> Path:
    """identified/CLASS/K.npz."""
    return result / name / f"{k}.npz"


def judge(job: Job, plan: Plan) -> None:
    """Judge the samples of one K and write its files; the summary, written last, says done."""
    given, args, inputs = plan.given, plan.args[job.k], plan.inputs[job.k]
    dists, images = inputs.dists.read(), inputs.samples.read().samples
    same = inputs.synthetic is inputs.samples
    synthetic = images if same else inputs.synthetic.read().samples
    subset = training_subset(args)
    if subset.fingerprint != dists.subset:
        found = f"{subset.fingerprint}, distances of {dists.subset}"
        raise UserError(f"{job.source}: subset", found, "give the same data set, or measure again")
    real = to_float(subset.images).numpy()
    own, arrays = args["classify"], dists.arrays
    d_train, d_synth = nearest_column(arrays["data-dists"]), nearest_column(arrays["synth-dists"])
    if own["criterion"] == "ratio":
        labels = classify_by_ratio(d_train, arrays["data-dists"][:, 1], d_synth, own["delta_s"])
    else:
        labels = classify_by_distance(d_train, d_synth, own["delta_m"], own["delta_s"])
    figures = plan.result / "figures"
    for name in CLASSES:
        path = class_file(plan.result, name, job.k)
        panel = figures / f"{name}-{job.k}.png"
        order = typicality_order(name, labels, d_train, d_synth)
        chosen, sizes = select(order, given.top_size, given.least_size)
        if not len(chosen):
            for stale in (path, *figure_files(panel)):
                stale.unlink(missing_ok=True)
            continue
        found = Identified(
            samples=images[chosen],
            train_nns=real[arrays["data-indices"][chosen, : given.k]],
            synth_nns=synthetic[arrays["synth-indices"][chosen, : given.k]],
            k=given.k,
            sizes=sizes,
            indices=chosen,
            args=args,
        )
        save_identified(path, found)
        picture = neighbour_panel(
            job.k,
            name,
            found.samples,
            found.train_nns,
            found.synth_nns,
            arrays["data-dists"][chosen, : given.k],
            arrays["synth-dists"][chosen, : given.k],
            metric=dists.metric_name,
        )
        save_figure(picture, panel)
    limits = own["delta_m"], own["delta_s"]
    histogram = histogram_figure(job.k, d_train, d_synth, *limits, dists.metric_name, labels)
    save_figure(histogram, figures / f"distances-{job.k}.png")
    row = judge_row(job.k, labels, *limits, own["criterion"], dists.metric_name)
    write_json(job.target, {"row": row, "args": args})
