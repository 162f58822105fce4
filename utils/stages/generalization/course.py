"""One training followed over its checkpoints: when it generalizes, and when it memorizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.samplers import draw_images
from utils.cli.errors import UserError
from utils.cli.options.checks import flag, required
from utils.cli.options.sections import GeneralizationOptions, GeneralizationStage
from utils.data.datasets import to_float
from utils.data.subsets import held_out_images
from utils.descriptors.embedders import ChosenMetric, Embedder
from utils.evidence.definitions import MEMORY
from utils.evidence.image_quality import image_quality
from utils.figures.save import save_figure
from utils.files.k_files import k_files
from utils.files.provenance import difference, stage_section
from utils.inputs.denoisers import (
    Model,
    check_samples,
    check_times,
    sampling_steps,
    trained_model,
    training_images,
)
from utils.jobs.devices import float32_for_auto, prepare
from utils.jobs.k_jobs import Job, is_to_run, work_through
from utils.metrics.cache import open_cache
from utils.metrics.intervals import Z
from utils.metrics.nearest import SearchSettings
from utils.stages.generalization.figures import CoursePoint, course_figure
from utils.stages.generalization.files import (
    REMEDY,
    Stored,
    is_measured,
    load_arrays,
    save_measured,
)
from utils.stages.generalization.measures import (
    Images,
    Measured,
    examine_model,
    measure_pairs,
    measure_samples,
)
from utils.stages.generalization.overview import stored_alike

SWEEP_ONLY = ("ckpt_path", "model", "synth_path", "second_synth_path", "times_path")
SWEEP_ONLY += ("identified_path",)


@dataclass(frozen=True, kw_only=True)
class Step(Job):
    """One checkpoint of a training, and that of the second model at the same step; k is the step,
    the target STEP.json."""

    model: Model
    second: Model | None

    @property
    def name(self) -> str:
        return f"step {self.k}"


def plan_steps(options: GeneralizationStage, metric: Mapping[str, Any]) -> list[Step]:
    """One for each checkpoint. metric: as args store it.

    Raises UserError where they are not of one training."""
    settings = options.generalization
    for name in SWEEP_ONLY:
        if getattr(settings, name) is not None:
            raise UserError("--checkpoints", f"{flag(name)} too", "choose one of them")
    if settings.closed_form:
        problem = f"{settings.closed_form_flag} too"
        raise UserError("--checkpoints", problem, "choose one of them")
    files = checkpoints_of(settings, "checkpoints")
    second_files = checkpoints_of(settings, "second_checkpoints")
    steps: list[Step] = []
    for step, path in files.items():
        model = trained_model(path, settings.data_path)
        if model.num_classes:
            raise UserError(path, "a class-conditional model", "give models without classes")
        second = None
        if steps:
            check_alike(path, model, steps[0].model)
        if second_path := second_files.get(step):
            second = trained_model(second_path, settings.data_path)
            check_alike(second_path, second, model, except_for=("subset",))
            if {m.args["train"]["subset"] for m in (model, second)} != {"first", "second"}:
                problem = f"the same training images as {path}"
                raise UserError(second_path, problem, "train it with --subset second")
        calls = sampling_steps(settings, model.args["train"]["timesteps"])
        section = {**stage_section(settings, SWEEP_ONLY), **metric}
        section |= {"steps": calls, "checkpoint": model.fingerprint, "step": step}
        section["second"] = second.fingerprint if second else None
        args = {**model.args, "generalization": section}
        target = Path(required(settings, "result_path")) / f"{step}.json"
        steps.append(Step(step, path, target, args, model=model, second=second))
    check_times(steps[0].model.args, settings.t)
    return steps


def checkpoints_of(settings: GeneralizationOptions, name: str) -> dict[int, Path]:
    """The checkpoints of the folder --checkpoints or --second-checkpoints by step; none where it
    is not set. Raises UserError for another folder: there a number would be a K."""
    folder = getattr(settings, name)
    if folder is None:
        return {}
    remedy = "give the folder checkpoints/ of a training, with ITER.pt in it"
    if Path(folder).absolute().name != "checkpoints":
        raise UserError(flag(name), folder, remedy)
    return k_files(folder, ".pt", flag(name), remedy)


def check_alike(path: Path, model: Model, other: Model, except_for: tuple[str, ...] = ()) -> None:
    """Raises UserError where a checkpoint was trained with other options."""
    for section in ("data", "train", "model"):
        expected = {name: x for name, x in other.args[section].items() if name not in except_for}
        if changed := difference(model.args[section], expected):
            raise UserError(path, f"{section}: {changed}", "give checkpoints of one training")


def follow_training(options: GeneralizationStage, redo_changed: bool) -> None:
    """Write STEP.json and STEP.npz for each checkpoint, and their figure."""
    settings = options.generalization
    device = prepare(options.run)
    metric = ChosenMetric(settings, device)
    steps = plan_steps(options, metric.identified(settings.stored_metric()))
    if not is_to_run(steps, options.run):
        return
    args = steps[0].model.args
    two_models = settings.second_checkpoints is not None
    held_out = to_float(held_out_images(args, settings.held_out_size, two_models))
    images = Images(training_images(args), held_out)
    embedder = metric.embedder
    count = len(images.train) + len(held_out) + 2 * settings.samples * len(steps)
    result = Path(settings.result_path)
    cache = open_cache(embedder, options.cache, result, held_out[:1], count)

    def is_done(step: Step) -> bool:
        return is_measured(step.target, step.args, redo_changed)

    for step in work_through(steps, is_done, options.run.overwrite):
        measured = measure_step(step, options, images, embedder, SearchSettings(cache=cache))
        save_measured(step.target, measured, step.args, step.k)
    show_course(result)


def measure_step(
    step: Step,
    options: GeneralizationStage,
    images: Images,
    embedder: Embedder,
    search: SearchSettings,
) -> Measured:
    """Draw from one checkpoint, and that of the second model, and apply every test."""
    settings = options.generalization
    denoiser = step.model.denoiser(embedder.device, float32_for_auto(options.run.precision))
    measured = examine_model(denoiser, images, settings, step.name)
    samples = draw_samples(step.model, settings, embedder.device)
    measured.add(measure_samples(embedder, samples, images, settings, search))
    sets = samples, images.train, images.held_out
    if quality := image_quality(embedder, *sets, len(samples), search):
        one = quality["frechet"]
        measured.arrays["frechet"] = np.array([one.value, one.low, one.high, one.control])
    if step.second:
        sets = samples, draw_samples(step.second, settings, embedder.device)
        train_sets = images.train, training_images(step.second.args)
        measured.add(measure_pairs(embedder, sets, train_sets, search)[0])
    return measured


def draw_samples(model: Model, settings: GeneralizationOptions, device: torch.device) -> Tensor:
    """--samples images, from the same seeds at every step: float32 [N, C, H, W]."""
    denoiser = model.denoiser(device)
    seeds = range(settings.seed, settings.seed + settings.samples)
    calls = sampling_steps(settings, model.args["train"]["timesteps"])
    batches = draw_images(denoiser, seeds, settings.sampler, calls, settings.batch_size)
    return torch.from_numpy(np.concatenate([check_samples(x, model.k) for x in batches]))


def show_course(result: Path) -> None:
    """Save the figure of a training; print a table, tau_gen and tau_mem."""
    stored = stored_alike(result, lambda result: result.step is not None)
    if not stored:
        return
    arrays = {step: load_arrays(result / f"{step}.json") for step in stored}
    losses = {step: arrays[step]["held-out-loss"] for step in stored}
    frechet = {step: arrays[step].get("frechet") for step in stored}
    if len({values.shape for values in losses.values()}) > 1:
        raise UserError(result, "steps with losses of different images", REMEDY)
    relative = relative_losses(losses)
    gen, mem = tau_gen(relative), tau_mem(stored)
    points = {step: course_point(stored[step], relative[step], frechet[step]) for step in stored}
    path = result / "figures" / "training.png"
    save_figure(course_figure(points, gen, mem), path)
    print(course_table(points))
    sizes = sorted(stored)
    print(f"tau_gen: {tau_text(gen, sizes)}: the held-out loss is within its error of the least")
    if all(one is not None for one in frechet.values()):
        best, alike = best_frechet(frechet)
        line = f"tau_gen by Frechet distance: {tau_text(best, sizes)}: the least"
        print(f"{line}; the intervals of steps {min(alike)} to {max(alike)} meet its own")
    print(f"tau_mem: {tau_text(mem, sizes)}: from here on the ratio test says memory")
    print(path)


def course_point(stored: Stored, losses: np.ndarray, frechet: np.ndarray | None) -> CoursePoint:
    findings = stored.findings
    return CoursePoint(
        memorized=findings.get("ratio"),
        gap=findings["denoising-gap"],
        agreement=findings.get("two-models"),
        memorizer=findings["memorizer"],
        loss=float(losses.mean()),
        frechet=frechet,
    )


def relative_losses(losses: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The loss of each held-out image [n] by step: mean over times, each in units of its smallest
    mean of all steps. losses: by step, of the same images and noises, [T', n]."""
    by_step = np.stack([losses[step] for step in sorted(losses)])  # [S, T', n]
    least = by_step.mean(2).min(0)[None, :, None]
    relative = np.divide(by_step, least, out=np.zeros_like(by_step), where=least > 0)
    return dict(zip(sorted(losses), relative.mean(1), strict=True))  # [n] each


def tau_gen(losses: Mapping[int, np.ndarray]) -> int:
    """The first step at which the loss on held-out images is within its error of the least.

    losses: of `relative_losses`. The mean difference to the best step, paired by image, is at most
    1.96 standard errors. Bonnaire et al. 2025 (arXiv 2505.17638) take the best FID instead."""
    steps = sorted(losses)
    by_step = np.stack([losses[step] for step in steps])  # [S, n]
    excess = by_step - by_step[by_step.mean(1).argmin()]
    error = excess.std(1, ddof=1) / np.sqrt(excess.shape[1])
    return steps[int(np.argmax(excess.mean(1) <= Z * error))]


def best_frechet(distances: Mapping[int, np.ndarray]) -> tuple[int, list[int]]:
    """The step with the least Frechet distance to held-out images, and the steps whose interval
    meets its interval. distances: by step, value, low and high first.

    Source: Bonnaire et al. 2025, arXiv 2505.17638: tau_gen is where the FID is best."""
    best = min(distances, key=lambda step: distances[step][0])
    return best, [step for step, one in distances.items() if one[1] <= distances[best][2]]


def tau_mem(stored: Mapping[int, Stored]) -> int | None:
    """The first step from which on the ratio test says memory; None if it does not at the end.

    No correction for many steps is needed: if all samples are new, there is a tau_mem only where
    the test of the last step is wrong, in at most 2.5 % of trainings.
    Source: Bonnaire et al. 2025, arXiv 2505.17638, who count by the same ratio."""
    first = None
    for step in sorted(stored):
        ratio = stored[step].findings.get("ratio")
        if ratio is None or ratio.verdict != MEMORY:
            first = None
        elif first is None:
            first = step
    return first


def tau_text(step: int | None, steps: list[int]) -> str:
    """The two steps between which it happened: `step 500 (after 250)`."""
    if step is None:
        return f"beyond step {steps[-1]}"
    before = [s for s in steps if s < step]
    return f"step {step} (after {before[-1]})" if before else f"step {step}, the first"


def course_table(points: Mapping[int, CoursePoint]) -> str:
    lines = [
        f"{'step':>8}  {'memorized':>9}  {'gap':>7}  {'agreement':>9}  {'away from D*':>12}  "
        f"{'Frechet (real)':>16}"
    ]
    for step in sorted(points):
        point = points[step]
        share = f"{100 * point.memorized.details['samples']:.1f} %" if point.memorized else "-"
        agreement = f"{100 * point.agreement.value:.1f} %" if point.agreement else "-"
        gap, memorizer = point.gap.value, point.memorizer.value
        distance = "-"
        if point.frechet is not None:
            distance = f"{point.frechet[0]:.3g} ({point.frechet[3]:.3g})"
        cells = f"{share:>9}  {gap:>7.3f}  {agreement:>9}  {memorizer:>12.3f}  {distance:>16}"
        lines.append(f"{step:>8}  {cells}")
    return "\n".join(lines)
