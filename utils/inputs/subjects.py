"""What basins, energies and curvature are measured on: the samples of each K under its model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.measures import SubjectOptions
from utils.cli.options.run import SliceOptions
from utils.data.subsets import class_labels
from utils.files.provenance import digest, stage_section, with_data_path
from utils.inputs.denoisers import (
    Model,
    check_label,
    check_one_source,
    closed_form_model,
    described_by,
    trained_model,
    training_images,
)
from utils.inputs.model_files import model_files
from utils.inputs.samples import SampleSet, known_of, load_samples, sample_files
from utils.inputs.training_args import check_contradiction, stated_size
from utils.inputs.unchanged import Input, first_read
from utils.jobs.k_jobs import Job, plan_jobs

Samples = tuple[SampleSet, tuple[int, int] | None]  # as `load_samples` returns them


@dataclass(frozen=True, kw_only=True)
class Subject(Job):
    """A job that examines samples under a model.

    file: the samples; None where the training images are examined. content: digest of the samples
    that are examined."""

    model: Model
    file: Input[Samples] | None = None
    content: str = ""

    def samples(self, settings: SubjectOptions) -> np.ndarray:
        """The samples to examine: float32 [n, C, H, W] in [-1, 1]; n = 0 where there are none.

        Raises UserError where they are no longer those that the job was planned with."""
        if self.file is None:
            images = self.model.training_images().numpy()
            return self.select(self.of_class(images, None, settings), settings)
        sample_set, sizes = self.file.read()
        images = self.of_class(sample_set.samples, sample_set.labels, settings)
        return self.select(images, settings, sizes)

    def of_class(
        self, images: np.ndarray, labels: np.ndarray | None, settings: SubjectOptions
    ) -> np.ndarray:
        """The images of the class --label, for a class-conditional model; all, for any other.

        labels [n]: of the samples; None for training images, whose labels the data set has."""
        if settings.label is None:
            return images
        if self.file is None:
            labels = class_labels(self.model.args)[0].numpy()
        if labels is None:
            remedy = "give synthetics/K.npz of run_generate.py, which has labels"
            raise UserError(self.file.path, "samples without labels", remedy)
        return images[labels == settings.label]

    def select(
        self, images: np.ndarray, settings: SubjectOptions, sizes: tuple[int, int] | None = None
    ) -> np.ndarray:
        """The images that --sample-size and --use-least ask for; sizes: how many of the images
        are the most typical of their class, and how many the least typical."""
        if settings.use_least and sizes is None:
            remedy = "give a folder of run_classify.py, as identified/memorized"
            raise UserError("--use-least", f"{self.file.path} without sizes", remedy)
        top = sizes[0] if sizes else len(images)
        part = images[top:] if settings.use_least else images[:top]
        return part if settings.sample_size < 0 else part[: settings.sample_size]

    def with_section(self, name: str, settings: SubjectOptions, **stage_args: Any) -> Subject:
        """The subject whose args have the section of a stage: its options, and the digests of
        the model and samples that they were applied to."""
        section = stage_section(settings)
        section |= {"checkpoint": self.model.fingerprint, "samples": self.content, **stage_args}
        return replace(self, args={**self.args, name: section})


def plan_subjects(settings: SubjectOptions, part: SliceOptions, stage: Any) -> list[Subject]:
    """The K of a slice that have samples. Raises UserError where inputs do not fit together.

    stage: the whole options; its sections data, train and model describe a closed form."""
    target = Path(required(settings, "result_path"))
    check_one_source(settings)
    if settings.use_least and settings.sample_path is None:
        raise UserError("--use-least", "no --sample-path", "give a folder of run_classify.py")
    files = None
    if settings.sample_path is not None:
        remedy = "give a folder of samples, as identified/memorized (an empty class has no files)"
        k = stated_size(settings)
        files = sample_files(settings.sample_path, "--sample-path", remedy, k)
    if settings.closed_form:
        subjects = closed_form_subjects(settings, part, stage, files, target)
    else:
        subjects = trained_subjects(settings, part, stage, files, target)
    planned = []
    for subject in subjects:
        check_label(subject.model, settings.label)
        if subject.file is None:
            images = training_images(subject.model.args).numpy()
            subject = replace(subject, model=replace(subject.model, images=digest(images)))
            samples = subject.select(subject.of_class(images, None, settings), settings)
        else:
            samples = subject.samples(settings)
        if len(samples):
            planned.append(replace(subject, content=digest(samples)))
        else:
            print(f"{subject.name}: no samples that are asked for: left out")
    return planned


def closed_form_subjects(
    settings: SubjectOptions,
    part: SliceOptions,
    stage: Any,
    files: dict[int, Path] | None,
    target: Path,
) -> list[Subject]:
    """Data set and K come from the samples, or from --config_path and --train-size."""
    if files is None:
        model = closed_form_model(settings, described_by(stage), settings.known())
        return [Subject(model.k, target, target / f"{model.k}.npz", model.args, model=model)]
    subjects = []
    for job in plan_jobs(files, target, part):
        known = known_of(settings, "--sample-path", settings.known())
        file, (sample_set, _) = first_read(job.source, partial(load_samples, known=known))
        check_contradiction(job.source, sample_set.args, known.args)
        args = with_data_path(sample_set.args, settings.data_path)
        model = closed_form_model(settings, args)
        subjects.append(subject_of(job, model, file))
    return subjects


def trained_subjects(
    settings: SubjectOptions,
    part: SliceOptions,
    stage: Any,
    files: dict[int, Path] | None,
    target: Path,
) -> list[Subject]:
    """One for each model of the slice; a K without samples, an empty class, is left out."""
    described = described_by(stage)
    models = model_files(settings, described)
    without_model = sorted(set(files or {}) - set(models))
    if without_model:
        names = ", ".join(map(str, without_model))
        problem = f"K = {names}, without a model in {settings.model or settings.ckpt_path}"
        remedy = "give the models they are of"
        raise UserError(f"--sample-path {settings.sample_path}", problem, remedy)
    subjects = []
    for job in plan_jobs(models, target, part):
        if files is not None and job.k not in files:
            print(f"{job.name}: no samples in {settings.sample_path}: an empty class is left out")
            continue
        model = trained_model(job.source, settings.data_path, settings.known(), described)
        check_contradiction(job.source, model.args, settings.known())
        subject = subject_of(job, model)
        subjects.append(with_samples(subject, files[job.k], settings) if files else subject)
    return subjects


def subject_of(job: Job, model: Model, file: Input[Samples] | None = None) -> Subject:
    """A job as one that examines samples under a model."""
    return Subject(job.k, job.source, job.target, model.args, model=model, file=file)


def with_samples(subject: Subject, path: Path, settings: SubjectOptions) -> Subject:
    """The subject with the samples of path; its args name the stages that they went through.

    Raises UserError where the samples have another shape than the model's images."""
    known = known_of(settings, "--sample-path", subject.model.args)
    file, (sample_set, _) = first_read(path, partial(load_samples, known=known))
    check_shape(path, sample_set, subject.model)
    return replace(subject, file=file, args={**sample_set.args, **subject.model.args})


def check_shape(path: Path, sample_set: SampleSet, model: Model) -> None:
    """Raises UserError where samples have another shape than the model's images."""
    shape = sample_set.samples.shape[1:]
    if shape != model.shape:
        problem = f"images {list(shape)}, a model of {list(model.shape)}"
        raise UserError(path, problem, "give the samples of this model")


def check_drawn(path: Path, sample_set: SampleSet, model: Model) -> None:
    """Raises UserError where a set was drawn from other weights, or is of another shape."""
    weights = sample_set.args.get("generate", {}).get("checkpoint")
    if weights is not None and weights != model.fingerprint:
        problem = f"samples of weights {weights}, not of {model.fingerprint}"
        raise UserError(path, problem, "draw them from this model by run_generate.py")
    check_shape(path, sample_set, model)
