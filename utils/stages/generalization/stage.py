"""The work of run_generalization.py: for each K, or over one training, the tests of evidence.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.samples import metric_name
from utils.cli.options.sections import GeneralizationOptions, GeneralizationStage
from utils.cli.progress import progress
from utils.data.datasets import to_float
from utils.data.subsets import held_out_images
from utils.figures.save import save_figure
from utils.files.atomic import check_writable
from utils.files.k_files import k_files
from utils.files.provenance import check_same, difference, digest, to_plain
from utils.inputs.denoisers import Model, check_times, exact_model, trained_model, training_images
from utils.inputs.samples import SampleSet, load_synthetics
from utils.inputs.unchanged import Input, first_read
from utils.jobs.devices import float32_for_auto, prepare
from utils.jobs.k_jobs import Job, plan_jobs, print_plan, work_through
from utils.metrics.embedders import Embedder, load_metric, open_cache
from utils.metrics.nearest import SearchSettings
from utils.stages.generalization.course import follow_training
from utils.stages.generalization.figures import pairs_figure
from utils.stages.generalization.files import arrays_file, load_arrays, load_measured, save_measured
from utils.stages.generalization.measures import (
    Images,
    Measured,
    measure_model,
    measure_pairs,
    measure_samples,
    rows_of,
)
from utils.stages.generalization.overview import show_generalization

STAGES = ("data", "train", "model", "generalization")
COURSE_ONLY = ("checkpoints", "second_checkpoints", "samples", "sampler", "steps")
TWIN = {"subset", "train_size"}  # what may differ between the two models of a K: the images


@dataclass(frozen=True)
class GeneralizationJob:
    """One K: its model, the set drawn from it, and its twin's set from the same seeds."""

    job: Job
    model: Model
    drawn: Input[SampleSet]
    second: Input[SampleSet] | None
    args: dict[str, Any]


def run(options: GeneralizationStage, again: bool = False) -> None:
    """Write generalization/K.json and K.npz for each K of the slice, and their figures.

    again redoes a K that was made with other options or samples; else it is refused."""
    given = options.generalization
    if given.checkpoints is not None:
        follow_training(options, lambda path, args: is_measured(path, args, again))
        return
    device = prepare(options.run)
    result = Path(required(given, "result_path"))
    cases = {case.job: case for case in plan_cases(options)}
    if options.run.dry_run or not cases:
        print_plan(cases, options.run.overwrite)
        return
    check_writable(result)
    embedder = load_metric(metric_name(given), given.lpips_weights, device)

    def done(job: Job) -> bool:
        return is_measured(job.target, cases[job].args, again)

    for job in work_through(list(cases), done, options.run.overwrite):
        measured = examine(cases[job], options, embedder)
        save_measured(job.target, measured, cases[job].args)
    show_generalization(result, given.times_path, given.identified_path)


def is_measured(path: Path, args: Mapping[str, Any], again: bool) -> bool:
    """Whether K.json, and K.npz beside it, hold the result of the same options.

    Raises UserError where they were made with others (again: False then)."""
    if not (path.exists() and arrays_file(path).exists()):
        return False
    stored = load_measured(path).args
    load_arrays(path)  # refused where it is cut short
    if again and any(difference(stored.get(s, {}), args.get(s, {})) for s in STAGES):
        return False
    check_same(path, stored, args, STAGES)
    return True


def plan_cases(options: GeneralizationStage) -> list[GeneralizationJob]:
    """The K of a slice that have held-out images. Raises UserError for what does not fit."""
    given = options.generalization
    target = Path(required(given, "result_path"))
    if given.exact and given.ckpt_path:
        raise UserError("--exact", f"--ckpt-path {given.ckpt_path} too", "choose one of them")
    sets = k_files(
        Path(required(given, "synth_path")), ".npz", "--synth-path", "give a folder of sets, K.npz"
    )
    models = None if given.exact else model_files(given, sets)
    twins = {}
    if given.second_synth_path is not None:
        remedy = "give sets of models that were trained with --subset second"
        twins = k_files(given.second_synth_path, ".npz", "--second-synth-path", remedy)
    cases = []
    for job in plan_jobs(sets if models is None else models, target, options.slice):
        job = replace(job, target=target / f"{job.k}.json")
        drawn, found = first_read(sets[job.k], load_synthetics)
        if models is None:
            model = exact_model(found.args, data_path=given.data_path)
        else:
            model = trained_model(models[job.k], given.data_path)
        check_drawn(sets[job.k], found, model)
        check_times(model.args, given.t)
        second = None
        if job.k in twins:
            second = twin_set(twins[job.k], sets[job.k], found)
        elif twins:
            told = f"no {job.k}.npz in {given.second_synth_path}"
            print(f"K = {job.k}: {told}: the test of two models is passed over")
        case = GeneralizationJob(job, model, drawn, second, {})
        if has_held_out(case):
            cases.append(replace(case, args=wanted_args(given, case, found)))
    return cases


def model_files(given: GeneralizationOptions, sets: dict[int, Path]) -> dict[int, Path]:
    """Models by K, each of which has a set. Raises UserError where none has."""
    folder = Path(required(given, "ckpt_path"))
    models = k_files(folder, ".pt", "--ckpt-path", "give a folder of trained models")
    lonely = [k for k in models if k not in sets]
    if lonely:
        names = ", ".join(map(str, lonely))
        print(f"K = {names}: no set in {given.synth_path}: passed over")
    there = {k: path for k, path in models.items() if k in sets}
    if not there:
        remedy = "give the sets that run_generate.py drew from these models"
        raise UserError(f"--synth-path {given.synth_path}", f"no set of a K in {folder}", remedy)
    return there


def check_drawn(path: Path, found: SampleSet, model: Model) -> None:
    """Raises UserError where a set was drawn from other weights, or is of another shape."""
    before = found.args.get("generate", {}).get("checkpoint")
    if before is not None and before != model.fingerprint:
        told = f"samples of weights {before}, not of {model.fingerprint}"
        raise UserError(path, told, "draw them from this model by run_generate.py")
    section = model.args["model"]
    shape = (section["in_channels"], section["image_size"], section["image_size"])
    if found.samples.shape[1:] != shape:
        told = f"images {list(found.samples.shape[1:])}, a model of {list(shape)}"
        raise UserError(path, told, "give the samples of this model")


def twin_set(path: Path, own: Path, found: SampleSet) -> Input[SampleSet]:
    """The set of the other model, drawn from the same seeds in the same way.

    Raises UserError where the models differ in more than their images, or the seeds do."""
    second, twin = first_read(path, load_synthetics)
    if {found.args["train"]["subset"], twin.args["train"]["subset"]} != {"first", "second"}:
        remedy = "train one of them with --subset first, the other with --subset second"
        raise UserError(path, f"the same training images as {own}", remedy)
    for section in ("data", "train", "model"):
        wanted = {key: v for key, v in found.args[section].items() if key not in TWIN}
        told = difference(twin.args[section], wanted)
        if told:
            raise UserError(path, f"a model with {section}: {told}", "train both alike")
    ours, theirs = (args.get("generate", {}) for args in (found.args, twin.args))
    for name in ("seed", "sampler", "steps", "num_samples"):
        if ours.get(name) != theirs.get(name):
            flag = f"--{name.replace('_', '-')}"
            told = f"{flag} {theirs.get(name)}, {own} with {ours.get(name)}"
            raise UserError(path, told, "draw both sets with the same options")
    if found.samples.shape != twin.samples.shape:
        told = f"samples {list(twin.samples.shape)} beside {list(found.samples.shape)}"
        raise UserError(path, told, "draw both sets with the same options")
    return second


def has_held_out(case: GeneralizationJob) -> bool:
    """Whether there are two held-out images or more; says so where not."""
    try:
        found = len(held_out_images(case.model.args, 2, case.second is not None))
    except UserError as error:
        print(f"K = {case.job.k}: passed over: {error}")
        return False
    if found < 2:
        print(f"K = {case.job.k}: passed over: {found} held-out images, 2 are needed")
    return found >= 2


def wanted_args(
    given: GeneralizationOptions, case: GeneralizationJob, found: SampleSet
) -> dict[str, Any]:
    """What K.json and K.npz will carry."""
    own = {name: x for name, x in to_plain(given).items() if name not in COURSE_ONLY}
    own["checkpoint"], own["drawn"] = case.model.fingerprint, digest(found.samples)
    own["second"] = case.second.content if case.second else None
    return {**found.args, **case.model.args, "generalization": own}


def examine(case: GeneralizationJob, options: GeneralizationStage, embedder: Embedder) -> Measured:
    """Every test that this K allows. Raises UserError where the model's numbers are of no use."""
    given, k = options.generalization, case.job.k
    args, both = case.model.args, case.second is not None
    held_out = to_float(held_out_images(args, given.held_out_size, both))
    images = Images(case.model.training_images(), held_out)
    samples = torch.from_numpy(case.drawn.read().samples)
    precision = float32_for_auto(options.run.precision)
    denoiser = case.model.denoiser(embedder.device, precision)
    with progress(total=rows_of(images, given), unit="row", desc=f"K = {k}") as bar:
        try:
            measured = measure_model(denoiser, images, given, bar.update)
        except ValueError as error:
            remedy = "use an earlier checkpoint, or train it again"
            raise UserError(f"model of K = {k}", str(error), remedy) from error
    count = len(images.train) + len(held_out) + 2 * len(samples)
    result = Path(given.result_path)
    cache = open_cache(embedder, options.cache, result, samples[:1], count)
    settings = SearchSettings(cache=cache)
    if case.second is not None:
        twin = case.second.read()
        sets = samples, torch.from_numpy(twin.samples)
        learnt = images.train, training_images(with_data(twin.args, args))
        pairs, near = measure_pairs(embedder, sets, learnt, settings)
        picture = pairs_figure(k, *sets, near, pairs.arrays)
        save_figure(picture, result / "figures" / f"pairs-{k}.png")
        measured.add(pairs)
    measured.add(measure_samples(embedder, samples, images, given, settings))
    return measured


def with_data(args: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """args with the data set where the other model's is."""
    return {**args, "data": {**args["data"], "data_path": like["data"]["data_path"]}}
