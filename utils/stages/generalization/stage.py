"""The work of run_generalization.py: for each K, or over one training, the tests of evidence.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from utils.cli.errors import UserError
from utils.cli.options.checks import flag, required
from utils.cli.options.sections import GeneralizationOptions, GeneralizationStage
from utils.cli.options.training import MachineOptions
from utils.data.datasets import to_float
from utils.data.subsets import held_out_images
from utils.descriptors.embedders import ChosenMetric, Embedder
from utils.figures.save import save_figure
from utils.files.k_files import k_files
from utils.files.provenance import difference, digest, stage_section, to_plain, with_data_path
from utils.inputs.denoisers import (
    Model,
    check_one_source,
    check_times,
    closed_form_model,
    described_by,
    trained_model,
    training_images,
)
from utils.inputs.model_files import model_files
from utils.inputs.samples import SampleSet, known_of, load_synthetics, sample_files
from utils.inputs.subjects import check_drawn
from utils.inputs.training_args import Sections, check_contradiction, stated_size
from utils.inputs.unchanged import Input, first_read
from utils.jobs.devices import float32_for_auto, prepare
from utils.jobs.k_jobs import Job, is_to_run, plan_jobs, work_through
from utils.metrics.cache import open_cache
from utils.metrics.nearest import SearchSettings
from utils.stages.generalization.course import follow_training
from utils.stages.generalization.figures import pairs_figure
from utils.stages.generalization.files import is_measured, save_measured
from utils.stages.generalization.measures import (
    Images,
    Measured,
    examine_model,
    measure_pairs,
    measure_samples,
)
from utils.stages.generalization.overview import show_generalization

COURSE_ONLY = ("checkpoints", "second_checkpoints", "samples", "sampler", "steps")
IMAGES_OF_MODEL = {"subset", "train_size"}  # what may differ between the two models of a K


@dataclass(frozen=True, kw_only=True)
class GeneralizationJob(Job):
    """One K: its model, the set drawn from it, and the set of the second model from the same
    seeds. Its target is K.json, with K.npz beside it."""

    model: Model
    drawn: Input[SampleSet]
    second: Input[SampleSet] | None


def run(options: GeneralizationStage, redo_changed: bool = False) -> None:
    """Write generalization/K.json and K.npz for each K of the slice, and their figures.

    redo_changed redoes a K that was made with other options or samples; else it is refused."""
    settings = options.generalization
    if settings.checkpoints is not None:
        follow_training(options, redo_changed)
        return
    device = prepare(options.run)
    metric = ChosenMetric(settings, device)
    jobs = plan_generalization(options, metric.identified(settings.stored_metric()))
    if not is_to_run(jobs, options.run):
        return

    def is_done(job: GeneralizationJob) -> bool:
        return is_measured(job.target, job.args, redo_changed)

    for job in work_through(jobs, is_done, options.run.overwrite):
        save_measured(job.target, examine(job, options, metric.embedder), job.args)
    result = Path(settings.result_path)
    show_generalization(result, settings.times_path, settings.identified_path)


def plan_generalization(
    options: GeneralizationStage, metric: Mapping[str, Any]
) -> list[GeneralizationJob]:
    """The K of a slice that have held-out images. metric: as args store it.

    Raises UserError where inputs do not fit."""
    settings = options.generalization
    target = Path(required(settings, "result_path"))
    check_one_source(settings)
    folder = Path(required(settings, "synth_path"))
    k = stated_size(settings)
    sets = sample_files(folder, "--synth-path", "give a folder of sets, K.npz", k)
    described = described_by(options)
    models = None if settings.closed_form else models_with_sets(settings, described, sets)
    second_sets = {}
    if settings.second_synth_path is not None:
        remedy = "give sets of models that were trained with --subset second"
        second_sets = k_files(settings.second_synth_path, ".npz", "--second-synth-path", remedy)
    jobs = []
    for job in plan_jobs(sets if models is None else models, target, options.slice):
        asked = settings.known()
        model = models and trained_model(models[job.k], settings.data_path, asked, described)
        if model:
            check_contradiction(models[job.k], model.args, asked)
            if model.num_classes:
                remedy = "give models without classes; distances and classes of samples work"
                raise UserError(models[job.k], "a class-conditional model", remedy)
        known = known_of(settings, "--synth-path", model.args if model else asked)
        drawn, sample_set = first_read(sets[job.k], partial(load_synthetics, known=known))
        if model is None:
            check_contradiction(sets[job.k], sample_set.args, asked)
            args = with_data_path(sample_set.args, settings.data_path)
            model = closed_form_model(settings, args)
        check_drawn(sets[job.k], sample_set, model)
        check_times(model.args, settings.t)
        second = None
        if job.k in second_sets:
            second = second_set(second_sets[job.k], sets[job.k], sample_set)
        elif second_sets:
            missing = f"no {job.k}.npz in {settings.second_synth_path}"
            print(f"{job.name}: {missing}: the test of two models is left out")
        if not has_held_out(job.name, model, second is not None):
            continue
        section = {**stage_section(settings, COURSE_ONLY), **metric}
        section |= {"checkpoint": model.fingerprint, "drawn": digest(sample_set.samples)}
        section["second"] = second.content if second else None
        args = {**sample_set.args, **model.args, "generalization": section}
        inputs = {"model": model, "drawn": drawn, "second": second}
        jobs.append(GeneralizationJob(job.k, job.source, target / f"{job.k}.json", args, **inputs))
    return jobs


def models_with_sets(
    settings: GeneralizationOptions, described: Sections, sets: dict[int, Path]
) -> dict[int, Path]:
    """Models by K, each of which has a set. Raises UserError where none has."""
    models = model_files(settings, described)
    if without_set := [k for k in models if k not in sets]:
        names = ", ".join(map(str, without_set))
        print(f"K = {names}: no set in {settings.synth_path}: left out")
    models = {k: path for k, path in models.items() if k in sets}
    if not models:
        remedy = "give the sets that run_generate.py drew from these models"
        problem = f"no set of a K in {settings.model or settings.ckpt_path}"
        raise UserError(f"--synth-path {settings.synth_path}", problem, remedy)
    return models


def second_set(path: Path, first_path: Path, first: SampleSet) -> Input[SampleSet]:
    """The set of the second model, drawn from the same seeds in the same way.

    Raises UserError where the models differ in more than their images, or the seeds do."""
    file, second = first_read(path, load_synthetics)
    if {first.args["train"]["subset"], second.args["train"]["subset"]} != {"first", "second"}:
        remedy = "train one of them with --subset first, the other with --subset second"
        raise UserError(path, f"the same training images as {first_path}", remedy)
    for section in ("data", "train", "model"):
        expected = {key: v for key, v in first.args[section].items() if key not in IMAGES_OF_MODEL}
        if changed := difference(second.args[section], expected):
            raise UserError(path, f"a model with {section}: {changed}", "train both alike")
    trained = to_plain(MachineOptions())  # what older sets do not say
    options, others = ({**trained, **a.get("generate", {})} for a in (first.args, second.args))
    for name in ("seed", "sampler", "steps", "num_samples", *trained):
        if options.get(name) != others.get(name):
            problem = f"{flag(name)} {others.get(name)}, {first_path} with {options.get(name)}"
            raise UserError(path, problem, "draw both sets with the same options")
    if first.samples.shape != second.samples.shape:
        problem = f"samples {list(second.samples.shape)} beside {list(first.samples.shape)}"
        raise UserError(path, problem, "draw both sets with the same options")
    return file


def has_held_out(name: str, model: Model, two_models: bool) -> bool:
    """Whether there are two held-out images or more; prints a line where not."""
    try:
        count = len(held_out_images(model.args, 2, two_models))
    except UserError as error:
        print(f"{name}: left out: {error}")
        return False
    if count < 2:
        print(f"{name}: left out: {count} held-out images, 2 are needed")
    return count >= 2


def examine(job: GeneralizationJob, options: GeneralizationStage, embedder: Embedder) -> Measured:
    """Every test that this K allows. Raises UserError where the model's numbers are of no use."""
    settings, args = options.generalization, job.model.args
    held_out = to_float(held_out_images(args, settings.held_out_size, job.second is not None))
    images = Images(job.model.training_images(), held_out)
    samples = torch.from_numpy(job.drawn.read().samples)
    denoiser = job.model.denoiser(embedder.device, float32_for_auto(options.run.precision))
    measured = examine_model(denoiser, images, settings, job.name)
    count = len(images.train) + len(held_out) + 2 * len(samples)
    result = Path(settings.result_path)
    cache = open_cache(embedder, options.cache, result, samples[:1], count)
    search = SearchSettings(cache=cache)
    if job.second is not None:
        second = job.second.read()
        sets = samples, torch.from_numpy(second.samples)
        seconds_images = training_images(with_data_path(second.args, args["data"]["data_path"]))
        pairs, near = measure_pairs(embedder, sets, (images.train, seconds_images), search)
        picture = pairs_figure(job.k, *sets, near, pairs.arrays)
        save_figure(picture, result / "figures" / f"pairs-{job.k}.png")
        measured.add(pairs)
    measured.add(measure_samples(embedder, samples, images, settings, search))
    return measured
