"""What basins and energies are measured on: the samples of each K, under the model of that K."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.measures import SubjectOptions
from utils.cli.options.run import SliceOptions
from utils.files.k_files import k_files
from utils.files.provenance import digest, to_plain
from utils.inputs.denoisers import Model, exact_model, trained_model, training_images
from utils.inputs.samples import SampleSet, load_samples
from utils.inputs.unchanged import Input, first_read
from utils.jobs.k_jobs import Job, plan_jobs

Samples = tuple[SampleSet, tuple[int, int] | None]  # as `load_samples` gives them


@dataclass(frozen=True)
class Subject:
    """One K: its model, the file of its samples (None: the training images), where results go.

    args: what the result will carry, without the stage's own options. content: digest of the
    samples that are examined."""

    job: Job
    model: Model
    source: Input[Samples] | None
    args: dict[str, Any]
    content: str = ""

    @property
    def k(self) -> int:
        return self.job.k

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the model's images."""
        model = self.model.args["model"]
        return model["in_channels"], model["image_size"], model["image_size"]

    def samples(self, given: SubjectOptions) -> np.ndarray:
        """The samples to examine: float32 [n, C, H, W] in [-1, 1]; n = 0 where there are none.

        Raises UserError where they are no longer those that the job was planned with."""
        if self.source is None:
            return self.chosen(self.model.training_images().numpy(), given)
        found, sizes = self.source.read()
        return self.chosen(found.samples, given, sizes)

    def chosen(
        self, images: np.ndarray, given: SubjectOptions, sizes: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Those of the images that are to be examined; sizes: top and least, where told."""
        if given.use_least and sizes is None:
            remedy = "give a folder of run_classify.py, as identified/memorized"
            raise UserError("--use-least", f"{self.source.path} without sizes", remedy)
        top = sizes[0] if sizes else len(images)
        part = images[top:] if given.use_least else images[:top]
        return part if given.sample_size < 0 else part[: given.sample_size]


def plan_subjects(given: SubjectOptions, part: SliceOptions, stage: Any) -> list[Subject]:
    """The K of a slice that have samples. Raises UserError for whatever does not fit together.

    stage: the whole options; its sections data, train and model tell of the exact model."""
    target = Path(required(given, "result_path"))
    if given.exact and given.ckpt_path:
        raise UserError("--exact", f"--ckpt-path {given.ckpt_path} too", "choose one of them")
    if given.use_least and given.sample_path is None:
        raise UserError("--use-least", "no --sample-path", "give a folder of run_classify.py")
    samples = sample_files(given)
    if given.exact:
        subjects = exact_subjects(given, part, stage, samples, target)
    else:
        subjects = trained_subjects(given, part, samples, target)
    planned = []
    for subject in subjects:
        if subject.source is None:
            images = training_images(subject.model.args).numpy()
            subject = replace(subject, model=replace(subject.model, images=digest(images)))
            samples = subject.chosen(images, given)
        else:
            samples = subject.samples(given)
        if len(samples):
            planned.append(replace(subject, content=digest(samples)))
        else:
            print(f"K = {subject.k}: {subject.source.path} has no least typical samples")
    return planned


def sample_files(given: SubjectOptions) -> dict[int, Path] | None:
    """The files of --sample-path by K; None where the training images are examined."""
    if given.sample_path is None:
        return None
    remedy = "give a folder of samples, as identified/memorized (an empty class has no files)"
    return k_files(given.sample_path, ".npz", "--sample-path", remedy)


def exact_subjects(
    given: SubjectOptions,
    part: SliceOptions,
    stage: Any,
    samples: dict[int, Path] | None,
    target: Path,
) -> list[Subject]:
    """With --exact data set and K come from the samples, or from --config_path and --train-size."""
    if samples is None:
        args = {name: to_plain(getattr(stage, name)) for name in ("data", "train", "model")}
        model = exact_model(args, given.train_size, given.data_path)
        job = Job(model.k, target, target / f"{model.k}.npz")
        return [Subject(job, model, None, model.args)]
    if given.train_size:
        remedy = "leave it out: the samples tell their K"
        raise UserError("--train-size", f"{given.train_size} beside --sample-path", remedy)
    subjects = []
    for job in plan_jobs(samples, target, part):
        source, (found, _) = first_read(job.source, load_samples)
        model = exact_model(found.args, data_path=given.data_path)
        subjects.append(Subject(job, model, source, model.args))
    return subjects


def trained_subjects(
    given: SubjectOptions, part: SliceOptions, samples: dict[int, Path] | None, target: Path
) -> list[Subject]:
    """One for each K.pt of the slice; a K without samples, an empty class, is left out."""
    remedy = "give a folder of trained models"
    models = k_files(Path(required(given, "ckpt_path")), ".pt", "--ckpt-path", remedy)
    lonely = sorted(set(samples or {}) - set(models))
    if lonely:
        found = f"K = {', '.join(map(str, lonely))}, without a model in {given.ckpt_path}"
        raise UserError(f"--sample-path {given.sample_path}", found, "give the models they are of")
    subjects = []
    for job in plan_jobs(models, target, part):
        if samples is not None and job.k not in samples:
            print(f"K = {job.k}: no samples in {given.sample_path}: an empty class is left out")
            continue
        model = trained_model(job.source, given.data_path)
        subject = Subject(job, model, None, model.args)
        subjects.append(with_samples(subject, samples[job.k]) if samples else subject)
    return subjects


def with_samples(subject: Subject, path: Path) -> Subject:
    """The subject with the samples of path, and the stages that they went through in its args.

    Raises UserError where the samples have another shape than the model's images."""
    source, (found, _) = first_read(path, load_samples)
    if found.samples.shape[1:] != subject.shape:
        told = f"images {list(found.samples.shape[1:])}, a model of {list(subject.shape)}"
        raise UserError(path, told, "give the samples of this model")
    return replace(subject, source=source, args={**found.args, **subject.model.args})


def own_args(given: SubjectOptions, subject: Subject) -> dict[str, Any]:
    """The stage's own options as its files carry them, and what model and samples they are of."""
    own = to_plain(given)
    del own["train_size"]  # told by args.train
    own["checkpoint"] = subject.model.fingerprint
    own["samples"] = subject.content
    return own
