"""One training followed over its checkpoints: when it generalizes, and when it memorizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.samplers import draw_images
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
from utils.files.provenance import difference, to_plain
from utils.inputs.denoisers import (
    Model,
    check_times,
    finite,
    sampling_steps,
    trained_model,
    training_images,
)
from utils.jobs.claims import clear_up, take_turns
from utils.jobs.devices import float32_for_auto, prepare
from utils.metrics.embedders import Embedder, load_metric, open_cache
from utils.metrics.intervals import Z
from utils.metrics.nearest import SearchSettings
from utils.stages.generalization.figures import CoursePoint, course_figure
from utils.stages.generalization.files import REMEDY, Stored, load_arrays, save_measured
from utils.stages.generalization.findings import MEMORY
from utils.stages.generalization.measures import (
    Images,
    measure_model,
    measure_pairs,
    measure_samples,
    rows_of,
)
from utils.stages.generalization.overview import stored_alike

SWEEP_ONLY = ("ckpt_path", "synth_path", "second_synth_path", "times_path", "identified_path")


@dataclass(frozen=True)
class Step:
    """One checkpoint, that of the twin at the same step, and what its result will carry."""

    step: int
    target: Path
    model: Model
    twin: Model | None
    args: dict[str, Any]


def plan_steps(options: GeneralizationStage) -> list[Step]:
    """One for each checkpoint. Raises UserError where they are not of one training."""
    given = options.generalization
    for name in SWEEP_ONLY:
        if getattr(given, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError("--checkpoints", f"{flag} too", "choose one of them")
    if given.exact:
        raise UserError("--checkpoints", "--exact too", "choose one of them")
    remedy = "give the folder checkpoints/ of a training, with ITER.pt in it"
    for name in ("checkpoints", "second_checkpoints"):
        # elsewhere a number is taken for a K
        folder = getattr(given, name)
        if folder is not None and Path(folder).absolute().name != "checkpoints":
            raise UserError(f"--{name.replace('_', '-')}", folder, remedy)
    files = k_files(given.checkpoints, ".pt", "--checkpoints", remedy)
    twins = {}
    if given.second_checkpoints is not None:
        twins = k_files(given.second_checkpoints, ".pt", "--second-checkpoints", remedy)
    steps: list[Step] = []
    for step, path in files.items():
        model = trained_model(path, given.data_path)
        twin = trained_model(twins[step], given.data_path) if step in twins else None
        if steps:
            check_alike(path, model, steps[0].model, ())
        if twin:
            check_alike(twins[step], twin, model, ("subset",))
            if {m.args["train"]["subset"] for m in (model, twin)} != {"first", "second"}:
                told = f"the same training images as {path}"
                raise UserError(twins[step], told, "train it with --subset second")
        calls = sampling_steps(given, model.args["train"]["timesteps"])
        own = {name: x for name, x in to_plain(given).items() if name not in SWEEP_ONLY}
        own |= {"steps": calls, "checkpoint": model.fingerprint, "step": step}
        own["second"] = twin.fingerprint if twin else None
        target = Path(required(given, "result_path")) / f"{step}.json"
        steps.append(Step(step, target, model, twin, {**model.args, "generalization": own}))
    check_times(steps[0].model.args, given.t)
    return steps


def check_alike(path: Path, model: Model, other: Model, but: tuple[str, ...]) -> None:
    """Raises UserError where a checkpoint was trained with other options."""
    for section in ("data", "train", "model"):
        wanted = {key: value for key, value in other.args[section].items() if key not in but}
        if told := difference(model.args[section], wanted):
            raise UserError(path, f"{section}: {told}", "give checkpoints of one training")


def follow_training(
    options: GeneralizationStage, finished: Callable[[Path, Mapping[str, Any]], bool]
) -> None:
    """Write STEP.json and STEP.npz for each checkpoint, and their figure.

    finished: whether a file is there, made with these args (raises UserError for others)."""
    given, overwrite = options.generalization, options.run.overwrite
    device = prepare(options.run)
    steps = plan_steps(options)
    if options.run.dry_run:
        for one in steps:
            state = "redo" if overwrite else "skip"
            print(f"step {one.step}: {state if one.target.exists() else 'write'} {one.target}")
        return
    result = Path(given.result_path)
    check_writable(result)
    clear_up(result)
    args = steps[0].model.args
    both = given.second_checkpoints is not None
    held_out = to_float(held_out_images(args, given.held_out_size, both))
    images = Images(training_images(args), held_out)
    embedder = load_metric(metric_name(given), given.lpips_weights, device)

    def done(one: Step) -> bool:
        return not overwrite and finished(one.target, one.args)

    count = len(images.train) + len(held_out) + 2 * given.samples * len(steps)
    settings = SearchSettings(
        cache=open_cache(embedder, options.cache, result, held_out[:1], count)
    )
    for (one,) in take_turns(steps, lambda one: one.target, done, 1):
        measure_step(one, options, images, embedder, settings)
    show_course(result)


def measure_step(
    one: Step,
    options: GeneralizationStage,
    images: Images,
    embedder: Embedder,
    settings: SearchSettings,
) -> None:
    """Draw from one checkpoint, and its twin, and apply every test."""
    given = options.generalization
    precision = float32_for_auto(options.run.precision)
    denoiser = one.model.denoiser(embedder.device, precision)
    with progress(total=rows_of(images, given), unit="row", desc=f"step {one.step}") as bar:
        try:
            measured = measure_model(denoiser, images, given, bar.update)
        except ValueError as error:
            raise UserError(f"checkpoint {one.step}", str(error), "train it again") from error
    samples = drawn(one.model, given, embedder.device)
    measured.add(measure_samples(embedder, samples, images, given, settings))
    if one.twin:
        others = drawn(one.twin, given, embedder.device)
        learnt = images.train, training_images(one.twin.args)
        measured.add(measure_pairs(embedder, (samples, others), learnt, settings)[0])
    save_measured(one.target, measured, one.args, one.step)


def drawn(model: Model, given: GeneralizationOptions, device: torch.device) -> Tensor:
    """--samples images, the same seeds at every step: float32 [N, C, H, W]."""
    denoiser = model.denoiser(device)
    seeds = range(given.seed, given.seed + given.samples)
    calls = sampling_steps(given, model.args["train"]["timesteps"])
    batches = draw_images(denoiser, seeds, given.sampler, calls, given.batch_size)
    return torch.from_numpy(np.concatenate([finite(images, model.k) for images in batches]))


def show_course(result: Path) -> None:
    """Save the figure of a training; print a table, tau_gen and tau_mem."""
    stored = stored_alike(result, lambda one: one.step is not None)
    if not stored:
        return
    losses = {step: load_arrays(result / f"{step}.json")["held-out-loss"] for step in stored}
    if len({values.shape for values in losses.values()}) > 1:
        raise UserError(result, "steps with losses of different images", REMEDY)
    relative = relative_losses(losses)
    gen, mem = tau_gen(relative), tau_mem(stored)
    points = {step: course_point(stored[step], relative[step]) for step in stored}
    path = result / "figures" / "training.png"
    save_figure(course_figure(points, gen, mem), path)
    print(course_table(points))
    sizes = sorted(stored)
    print(f"tau_gen: {told_tau(gen, sizes)}: the held-out loss is within its error of the least")
    print(f"tau_mem: {told_tau(mem, sizes)}: from here on the ratio test says memory")
    print(path)


def course_point(stored: Stored, losses: np.ndarray) -> CoursePoint:
    found = stored.findings
    return CoursePoint(
        memorized=found.get("ratio"),
        gap=found["denoising-gap"],
        agreement=found.get("two-models"),
        memorizer=found["memorizer"],
        loss=float(losses.mean()),
    )


def relative_losses(losses: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The loss of each held-out image [n] by step: mean over times, each in units of its smallest
    mean of all steps. losses: by step, of the same images and noises, [T', n]."""
    every = np.stack([losses[step] for step in sorted(losses)])  # [S, T', n]
    least = every.mean(2).min(0)[None, :, None]
    every = np.divide(every, least, out=np.zeros_like(every), where=least > 0).mean(1)  # [S, n]
    return dict(zip(sorted(losses), every, strict=True))


def tau_gen(losses: Mapping[int, np.ndarray]) -> int:
    """The first step at which the loss on held-out images is within its error of the least.

    losses: of `relative_losses`. The mean difference to the best step, paired by image, is at most
    1.96 standard errors. Bonnaire et al. 2025 (arXiv 2505.17638) take the best FID instead."""
    steps = sorted(losses)
    every = np.stack([losses[step] for step in steps])  # [S, n]
    apart = every - every[every.mean(1).argmin()]
    error = apart.std(1, ddof=1) / np.sqrt(apart.shape[1])
    return steps[int(np.argmax(apart.mean(1) <= Z * error))]


def tau_mem(stored: Mapping[int, Stored]) -> int | None:
    """The first step from which on the ratio test says memory; None where it does not at the end.

    Source: Bonnaire et al. 2025, arXiv 2505.17638, who count by the same ratio."""
    first = None
    for step in sorted(stored):
        found = stored[step].findings.get("ratio")
        if found is None or found.verdict != MEMORY:
            first = None
        elif first is None:
            first = step
    return first


def told_tau(step: int | None, steps: list[int]) -> str:
    """A step and the one before, between which it happened: `step 500 (after 250)`."""
    if step is None:
        return f"beyond step {steps[-1]}"
    before = [s for s in steps if s < step]
    return f"step {step} (after {before[-1]})" if before else f"step {step}, the first"


def course_table(points: Mapping[int, CoursePoint]) -> str:
    lines = [f"{'step':>8}  {'memorized':>9}  {'gap':>7}  {'agreement':>9}  {'away from D*':>12}"]
    for step in sorted(points):
        one = points[step]
        share = f"{100 * one.memorized.details['samples']:.1f} %" if one.memorized else "-"
        agreement = f"{100 * one.agreement.value:.1f} %" if one.agreement else "-"
        cells = f"{share:>9}  {one.gap.value:>7.3f}  {agreement:>9}  {one.memorizer.value:>12.3f}"
        lines.append(f"{step:>8}  {cells}")
    return "\n".join(lines)
