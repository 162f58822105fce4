"""The work of run_machines.py: for each K, the network beside the machines of its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.noise import mix
from utils.cli.errors import UserError
from utils.cli.options.checks import required, sides_text
from utils.cli.options.choices import CLASSES
from utils.cli.options.measures import MachinesOptions
from utils.cli.options.sections import MachinesStage
from utils.cli.progress import progress
from utils.data.datasets import to_float
from utils.data.subsets import held_out_images
from utils.files.k_files import k_files
from utils.files.provenance import digest, stage_section
from utils.inputs.denoisers import (
    Model,
    check_times,
    described_by,
    sampling_steps,
    trained_model,
    usable_numbers,
)
from utils.inputs.model_files import model_files
from utils.inputs.samples import SampleSet, known_of, load_synthetics, sample_files
from utils.inputs.subjects import check_drawn
from utils.inputs.training_args import check_contradiction, stated_size
from utils.inputs.unchanged import Input, first_read
from utils.jobs.devices import float32_for_auto, prepare
from utils.jobs.k_jobs import Job, is_to_run, plan_jobs, work_through
from utils.metrics.intervals import median_interval
from utils.stages.classify.files import load_judged
from utils.stages.machines.explained import Estimate, draws, explained, lead, mixture
from utils.stages.machines.files import (
    HELD_OUT,
    SAMPLES,
    TRAINING,
    Entry,
    Interval,
    SeedEntry,
    Stored,
    is_compared,
    save_result,
)
from utils.stages.machines.measure import (
    Compared,
    Machines,
    copies,
    draw,
    rows_of,
    sample_r2,
)
from utils.stages.machines.overview import show_machines

MOST_CALLS = 100  # of a set's own sampler, for machines to follow it
USUAL = ("ddim", 20)  # sampler and calls otherwise
FEWEST = 16  # images of a class, for an entry of its own
FEWEST_IN_SET = 2  # for intervals


@dataclass(frozen=True, kw_only=True)
class MachinesJob(Job):
    """One K: its model, the set drawn from it, and the class of each of its samples, where they
    are known. sampler, steps, first_seed: of the samples of machines. followed: these are the
    options of the set, whose first samples are those of these seeds."""

    model: Model
    drawn: Input[SampleSet] | None
    classes: np.ndarray | None
    sampler: str
    steps: int
    first_seed: int
    followed: bool


def run(options: MachinesStage, redo_changed: bool = False) -> None:
    """Write machines/K.json and K.npz for each K of the slice, and their figures.

    redo_changed redoes a K that was made with other options or samples; else it is refused."""
    device = prepare(options.run)
    jobs = plan_machines(options)
    if not is_to_run(jobs, options.run):
        return

    def is_done(job: MachinesJob) -> bool:
        return is_compared(job.target, job.args, redo_changed)

    for job in work_through(jobs, is_done, options.run.overwrite):
        stored, arrays = compare(job, options, device)
        save_result(job.target, stored, arrays)
    show_machines(Path(options.machines.result_path))


def plan_machines(options: MachinesStage) -> list[MachinesJob]:
    """The K of a slice. Raises UserError where inputs do not fit."""
    settings = options.machines
    target = Path(required(settings, "result_path"))
    if settings.identified_path is not None and settings.synth_path is None:
        remedy = "give the sets that were classified"
        raise UserError("--identified-path", "without --synth-path", remedy)
    described = described_by(options)
    models = model_files(settings, described)
    sets: dict[int, Path] = {}
    if settings.synth_path is not None:
        remedy = "give a folder of sets, K.npz, or leave it out"
        sets = sample_files(settings.synth_path, "--synth-path", remedy, stated_size(settings))
    jobs = []
    for job in plan_jobs(models, target, options.slice):
        if sets and job.k not in sets:
            print(f"{job.name}: no set in {settings.synth_path}: left out")
            continue
        model = trained_model(job.source, settings.data_path, settings.known(), described)
        check_contradiction(job.source, model.args, settings.known())
        if model.num_classes:
            raise UserError(job.source, "a class-conditional model", "give models without classes")
        check_times(model.args, settings.t)
        drawn = classes = None
        sample_set = None
        if sets:
            known = known_of(settings, "--synth-path", model.args)
            drawn, sample_set = first_read(sets[job.k], partial(load_synthetics, known=known))
            check_drawn(sets[job.k], sample_set, model)
            if len(sample_set.samples) < FEWEST_IN_SET:
                remedy = f"give sets of {FEWEST_IN_SET} samples or more"
                raise UserError(sets[job.k], f"{len(sample_set.samples)} sample", remedy)
            classes = classes_of(settings, job.k, sample_set)
        how = drawing(settings, model, sample_set)
        section = stage_section(settings) | {"machines": ",".join(settings.names)}
        section |= {"checkpoint": model.fingerprint, "drawn": drawn and drawn.content}
        section |= {"classes": None if classes is None else digest(classes)}
        section |= {"sampler": how["sampler"], "steps": how["steps"]}
        args = {**(sample_set.args if sample_set else {}), **model.args, "machines": section}
        place = (job.k, job.source, target / f"{job.k}.json", args)
        jobs.append(MachinesJob(*place, model=model, drawn=drawn, classes=classes, **how))
    return jobs


def classes_of(settings: MachinesOptions, k: int, drawn: SampleSet) -> np.ndarray | None:
    """The class of each sample, int8 [N]; None without --identified-path.

    Raises UserError where another set was classified."""
    if settings.identified_path is None:
        return None
    folder = Path(settings.identified_path) / "summary"
    remedy = "give the folder that run_classify.py wrote, identified"
    files = k_files(folder, ".json", "--identified-path", remedy)
    if k not in files:
        print(f"K = {k}: not in {folder}: classes are not told apart")
        return None
    judged = load_judged(files[k])
    stored = judged.args.get("distances")
    same = isinstance(stored, Mapping) and stored.get("samples") == digest(drawn.samples)
    if not same or len(judged.labels) != len(drawn.samples):
        problem = "other samples than those in --synth-path"
        raise UserError(files[k], problem, "run run_distances.py and run_classify.py on this set")
    return judged.labels


def drawing(settings: MachinesOptions, model: Model, drawn: SampleSet | None) -> dict[str, Any]:
    """sampler, steps, first_seed and followed of a MachinesJob."""
    own = drawn.args.get("generate", {}) if drawn else {}
    known = all(own.get(name) is not None for name in ("sampler", "steps", "seed"))
    asked = settings.sampler, settings.steps
    if settings.sampler is None:
        asked = USUAL
        if known and own["steps"] <= MOST_CALLS:
            asked = own["sampler"], own["steps"]
    timesteps = model.args["train"]["timesteps"]
    steps = min(asked[1], timesteps) if settings.steps is None else asked[1]
    sampling_steps(replace(settings, sampler=asked[0], steps=steps), timesteps)
    return {
        "sampler": asked[0],
        "steps": steps,
        "first_seed": own["seed"] if known else settings.seed,
        "followed": known and (own["sampler"], own["steps"]) == (asked[0], steps),
    }


def compare(
    job: MachinesJob, options: MachinesStage, device: torch.device
) -> tuple[Stored, dict[str, np.ndarray]]:
    """Everything about one K. Raises UserError where the model's numbers are of no use."""
    settings = options.machines
    denoiser = job.model.denoiser(device, float32_for_auto(options.run.precision))
    patterns = job.model.training_images()
    with usable_numbers(f"model of {job.name}"):
        machines = Machines(patterns.to(device), denoiser.schedule, settings)
        seeds = range(job.first_seed, job.first_seed + settings.seeds)
        sets, network = images_of(job, settings, denoiser, patterns, seeds)
        total = rows_of(machines, sets.values(), len(seeds) * job.steps)
        with progress(total=total, unit="row", desc=job.name) as bar:
            machines.choose_sides(denoiser, bar.update)
            # Samples that were drawn just now differ in rounding from one batch size to another.
            own = range(seeds.start, seeds.start + settings.images)
            keys = {} if job.drawn else {SAMPLES: own}
            compared = {
                name: machines.compare(denoiser, images, name, bar.update, keys.get(name))
                for name, images in sets.items()
            }
            drawn = machines.draw(seeds, job.sampler, job.steps, bar.update)
    classes = np.full(len(seeds), -1, np.int64)
    if job.classes is not None and job.followed:
        known = job.classes[: len(seeds)]
        classes[: len(known)] = known
    r2 = sample_r2(network, drawn, machines.mean)
    arrays = arrays_of(compared, settings.t)
    arrays |= {"seed-network": network, "seed-machines": drawn, "seed-r2": r2}
    arrays["seed-classes"] = classes
    names, entries = list(machines.built), []
    for name, one in compared.items():
        entries += entries_of(name, one, settings, names)
    if job.classes is not None:
        entries += class_entries(compared[SAMPLES], job.classes, settings, names)
        arrays["sample-classes"] = job.classes[: len(sets[SAMPLES])].astype(np.int64)
    seed_entries = list(entries_of_seeds(r2, classes, names))
    for name, sides in machines.sides.items():
        print(f"{job.name}: {name}: --patch-sides {sides_text(sides)}", flush=True)
    return Stored(names, machines.sides, entries, seed_entries, job.args), arrays


def images_of(
    job: MachinesJob,
    settings: MachinesOptions,
    denoiser: Denoiser,
    patterns: Tensor,
    seeds: range,
) -> tuple[dict[str, Tensor], np.ndarray]:
    """The images that are noised, by set; and the network's samples of these seeds."""
    count, how = settings.images, (job.sampler, job.steps, settings.batch_size)
    sets = {TRAINING: copies(patterns, count)}
    try:
        held_out = to_float(held_out_images(job.model.args, count))
    except UserError as error:
        print(f"{job.name}: held-out images are left out: {error}")
    else:
        if len(held_out) < FEWEST_IN_SET:
            print(f"{job.name}: held-out images are left out: there are fewer than {FEWEST_IN_SET}")
        else:
            sets[HELD_OUT] = held_out
    if job.drawn is not None:
        sets[SAMPLES] = torch.from_numpy(job.drawn.read().samples[:count])
        return sets, draw(denoiser, seeds, *how)
    more = draw(denoiser, range(seeds.start, seeds.start + max(count, len(seeds))), *how)
    sets[SAMPLES] = torch.from_numpy(more[:count])
    return sets, more[: len(seeds)]


def arrays_of(compared: Mapping[str, Compared], times: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The products behind every r^2: gram-NAME [T, n, M, M], total-NAME [T, n] of each set."""
    arrays = {"t": np.array(times, np.int64)}
    for name, one in compared.items():
        arrays |= {f"gram-{name}": one.gram, f"total-{name}": one.total}
    return arrays


def entries_of(
    group: str,
    one: Compared,
    settings: MachinesOptions,
    names: list[str],
    rows: np.ndarray | slice = slice(None),
) -> Iterator[Entry]:
    """One for each time, of these rows of a set."""
    for i, t in enumerate(settings.t):
        gram, total = one.gram[i][rows], one.total[i][rows]
        counts = draws(len(total), mix(settings.seed, "bootstrap", group, t))
        best, tied = lead(gram, total)
        mixed = mixture(gram, total, counts)
        yield Entry(
            group,
            t,
            len(total),
            by_name(names, explained(gram, total)),
            names[best] if best >= 0 else None,
            [names[j] for j in tied],
            by_name(names, mixed.weights),
            tuple(float(x) for x in mixed.r2),
        )


def class_entries(
    samples: Compared, classes: np.ndarray, settings: MachinesOptions, names: list[str]
) -> Iterator[Entry]:
    """Those of each class with enough samples among those that were noised."""
    classes = classes[: samples.total.shape[1]]
    for i, group in enumerate(CLASSES):
        rows = np.flatnonzero(classes == i)
        if len(rows) >= FEWEST:
            yield from entries_of(group, samples, settings, names, rows)


def by_name(names: list[str], estimate: Estimate) -> dict[str, Interval]:
    columns = zip(*(part.tolist() for part in estimate), strict=True)
    return dict(zip(names, columns, strict=True))


def entries_of_seeds(r2: np.ndarray, classes: np.ndarray, names: list[str]) -> Iterator[SeedEntry]:
    """The median r^2 of all samples from the same seeds, and of each class."""
    groups = {SAMPLES: np.ones(len(r2), bool)}
    groups |= {name: classes == i for i, name in enumerate(CLASSES)}
    for group, rows in groups.items():
        for j, name in enumerate(names):
            values = r2[rows, j]
            values = values[np.isfinite(values)]
            if len(values):
                middle = median_interval(values)
                yield SeedEntry(group, name, len(values), tuple(float(x) for x in middle))
